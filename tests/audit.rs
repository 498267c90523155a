//! The audit log: what is recorded of whom, in a file and at a webhook, and what never is.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use yunfan_tests::{Cloud, seconds};

const POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: ['system:yunfan:components']}
- {level: None, resources: [{resources: [events]}]}
- {level: Request, resources: [{resources: [services]}], omitStages: [], omitManagedFields: true}
- {level: RequestResponse, resources: [{resources: [secrets, serviceaccounts/token, configmaps, pods]}, {group: authentication.k8s.io}]}
- {level: Metadata}
";

/// A webhook that takes records, but the first time.
struct Receiver {
    port: u16,
    records: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let records: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = records.clone();
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { return };
                // One that has gone away is the sender's to see to.
                let _ = Self::serve(stream, number == 0, &kept);
            }
        });
        Self { port, records }
    }

    fn serve(mut stream: TcpStream, refuses: bool, records: &Mutex<Vec<Value>>) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut length = 0;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            if let Some(number) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = number.trim().parse().unwrap_or_default();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let list: Value = serde_json::from_slice(&body).expect("JSON");
        let status = if refuses { "503 Away" } else { "200 OK" };
        if !refuses {
            assert_eq!(
                (&list["kind"], &list["apiVersion"]),
                (&json!("EventList"), &json!("audit.k8s.io/v1"))
            );
            let items = list["items"].as_array().cloned().unwrap_or_default();
            records.lock().expect("no panic").extend(items);
        }
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    }
}

struct Audited {
    cloud: Cloud,
    receiver: Receiver,
    _files: tempfile::TempDir,
    log: std::path::PathBuf,
}

impl Audited {
    fn start() -> Self {
        let files = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let receiver = Receiver::start();
        let path = |name: &str| files.path().join(name).to_string_lossy().into_owned();
        std::fs::write(path("policy"), POLICY).expect("a file");
        let hook = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{}/audit'}}}}]\n\
             users: [{{name: u, user: {{}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n",
            receiver.port
        );
        std::fs::write(path("hook"), hook).expect("a file");
        let log = files.path().join("audit.log");
        let arguments = [
            ("--audit-policy-file", path("policy")),
            ("--audit-log-path", path("audit.log")),
            ("--audit-webhook-config-file", path("hook")),
            ("--audit-webhook-batch-max-wait", "0.2".to_owned()),
            ("--audit-webhook-initial-backoff", "0.2".to_owned()),
        ];
        let builder = arguments.iter().fold(Cloud::builder().server_only(), |builder, (name, value)| {
            builder.argument(name).argument(value)
        });
        Self { cloud: builder.start(), receiver, _files: files, log }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log")
    }

    /// Records that the closure takes, of all so far.
    fn records(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let text = self.text();
        // The last line may be half written.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        whole.lines().map(|line| serde_json::from_str(line).expect("JSON")).filter(wanted).collect()
    }

    /// The record of something, once it is there.
    #[track_caller]
    fn record(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.cloud.until(what, seconds(20), || {
            self.records(&wanted).into_iter().next().ok_or_else(|| "no such record".to_owned())
        })
    }
}

fn is(record: &Value, verb: &str, resource: &str, name: &str) -> bool {
    record["verb"] == verb
        && record["objectRef"]["resource"] == resource
        && record["objectRef"]["name"] == name
}

#[test]
fn requests_are_recorded() {
    let audited = Audited::start();
    let cloud = &audited.cloud;
    cloud.kubectl(&["create", "configmap", "note", "--from-literal=a=b"]).ok();
    let made = audited.record("the configmap", |record| is(record, "create", "configmaps", "note"));
    assert_eq!((&made["kind"], &made["apiVersion"]), (&json!("Event"), &json!("audit.k8s.io/v1")));
    assert_eq!((&made["level"], &made["stage"]), (&json!("RequestResponse"), &json!("ResponseComplete")));
    assert_eq!(made["user"]["username"], "admin");
    assert_eq!(made["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(made["requestObject"]["data"]["a"], "b");
    assert!(made["responseObject"]["metadata"]["uid"].is_string());
    assert_eq!(made["objectRef"]["namespace"], "default");
    assert_eq!(made["annotations"]["authorization.k8s.io/decision"], "allow");
    assert!(made["userAgent"].as_str().is_some_and(|agent| agent.starts_with("kubectl")));
    assert_eq!(made["sourceIPs"], json!(["127.0.0.1"]));
    assert!(
        made["requestURI"]
            .as_str()
            .is_some_and(|uri| uri.starts_with("/api/v1/namespaces/default/configmaps?"))
    );

    // Somebody else, who may not.
    cloud.kubectl(&["--as", "bob", "get", "configmap", "note"]).refused_with(&["forbidden"]);
    let refused = audited.record("the refusal", |record| {
        record["impersonatedUser"]["username"] == "bob" && is(record, "get", "configmaps", "note")
    });
    assert_eq!(refused["user"]["username"], "admin");
    assert_eq!(
        (&refused["responseStatus"]["code"], &refused["responseStatus"]["reason"]),
        (&json!(403), &json!("Forbidden"))
    );
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");

    // Somebody whose token is worth nothing, and a client that chose its request's id.
    let (status, _) = cloud.curl("/api/v1/nodes", &["-H", "Authorization: Bearer nothing"]);
    assert_eq!(status, 401);
    let unknown = audited.record("the wrong token", |record| record["responseStatus"]["code"] == 401);
    assert_eq!((&unknown["stage"], &unknown["user"]), (&json!("ResponseStarted"), &json!({})));
    let (_, head) = cloud.curl("/version", &["-i", "-H", "Audit-ID: my-own-id"]);
    assert!(head.to_ascii_lowercase().contains("audit-id: my-own-id"), "{head}");
    audited.record("the id", |record| record["auditID"] == "my-own-id");

    // A watch has two ends.
    cloud.kubectl(&["get", "--raw", "/api/v1/nodes?watch=true&timeoutSeconds=1"]).ok();
    for stage in ["ResponseStarted", "ResponseComplete"] {
        audited.record(stage, |record| record["verb"] == "watch" && record["stage"] == stage);
    }
    // What rules say of stages adds to what the policy says.
    cloud.kubectl(&["create", "service", "clusterip", "s", "--tcp=80"]).ok();
    let service = audited.record("the service", |record| is(record, "create", "services", "s"));
    assert!(service["requestObject"]["spec"].is_object() && service["responseObject"].is_null());
    assert!(audited.records(|record| record["stage"] == "RequestReceived").is_empty());
    assert!(
        audited
            .records(|record| record["user"]["username"]
                .as_str()
                .is_some_and(|user| user.starts_with("system:yunfan:")))
            .is_empty()
    );

    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&audited.log).expect("the log").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    // The webhook hears the same, though it refused the first batch.
    let id = service["auditID"].clone();
    cloud.until("the webhook has heard it", seconds(30), || {
        let heard = audited.receiver.records.lock().expect("no panic");
        let all =
            [&made["auditID"], &id].into_iter().all(|id| heard.iter().any(|record| record["auditID"] == *id));
        if all { Ok(()) } else { Err(format!("{} records", heard.len())) }
    });
}

#[test]
fn secrets_are_not_recorded() {
    let audited = Audited::start();
    let cloud = &audited.cloud;
    let marker = format!("marker{:032x}", rand::random::<u128>());
    let encoded = yunfan_tests::run("sh", &["-c", &format!("printf %s '{marker}' | base64 -w0")]).ok();
    let manifest = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: {name}}}, stringData: {{password: {marker}}}}}"
        )
    };
    cloud.apply(&manifest("applied"));
    cloud.kubectl_with(&["apply", "--server-side", "-f", "-"], &manifest("served")).ok();
    cloud.kubectl(&["create", "secret", "generic", "made", &format!("--from-literal=a={marker}")]).ok();
    cloud
        .kubectl(&["patch", "secret", "made", "-p", &format!("{{\"stringData\":{{\"b\":\"{marker}\"}}}}")])
        .ok();
    for output in ["json", "yaml", "wide"] {
        cloud.kubectl(&["get", "secrets", "-o", output]).ok();
    }
    cloud.kubectl(&["get", "--raw", "/api/v1/secrets?includeObject=Object"]).ok();
    let token = cloud.kubectl(&["create", "token", "default"]).ok().trim().to_owned();
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    cloud.kubectl_with(&["create", "-f", "-", "-o", "yaml"], &review.to_string()).ok();
    cloud.kubectl(&["delete", "secret", "made"]).ok();
    let made = audited.record("the Secret", |record| is(record, "create", "secrets", "made"));
    assert_eq!(made["requestObject"]["metadata"]["name"], "made");
    assert_eq!(made["requestObject"].get("data"), None);
    audited.record("the token", |record| {
        record["objectRef"]["subresource"] == "token" && record["responseObject"]["kind"] == "TokenRequest"
    });
    audited.record("the review", |record| record["objectRef"]["resource"] == "tokenreviews");
    audited.record("the end", |record| is(record, "delete", "secrets", "made"));
    let text = audited.text();
    for (what, secret) in
        [("the value", marker.as_str()), ("its base64", encoded.trim()), ("the token", token.as_str())]
    {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{what}");
    }
}

const POLICIES: &str = "---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: small}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  validations: [{expression: 'size(object.data) < 2', message: too much}]
  auditAnnotations: [{key: entries, valueExpression: 'string(size(object.data))'}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: small}
spec: {policyName: small, validationActions: [Audit]}
";

#[test]
fn policies_and_standards_have_their_say() {
    let audited = Audited::start();
    let cloud = &audited.cloud;
    cloud.apply(POLICIES);
    let create = ["create", "configmap", "--from-literal=a=b", "--from-literal=c=d"];
    let noted = cloud.until("the policy is in force", seconds(20), || {
        let name = format!("c{}", rand::random::<u32>());
        cloud.kubectl(&[&create[..], &[&name]].concat()).ok();
        let record = audited.record("the configmap", |record| is(record, "create", "configmaps", &name));
        let noted = record["annotations"].clone();
        if noted["small/entries"] == "2" { Ok(noted) } else { Err(noted.to_string()) }
    });
    let failures =
        noted["validation.policy.admission.k8s.io/validation_failure"].as_str().expect("an annotation");
    let failures: Value = serde_json::from_str(failures).expect("JSON");
    assert_eq!(
        failures,
        json!([{"message": "too much", "policy": "small", "binding": "small", "expressionIndex": 0, "validationActions": ["Audit"]}])
    );
    cloud.kubectl(&["label", "namespace", "default", "pod-security.kubernetes.io/audit=restricted"]).ok();
    cloud.apply("{apiVersion: v1, kind: Pod, metadata: {name: loose}, spec: {containers: [{name: a, image: none/a}]}}");
    let pod = audited.record("the pod", |record| is(record, "create", "pods", "loose"));
    let noted = &pod["annotations"];
    assert_eq!(noted["pod-security.kubernetes.io/enforce-policy"], "privileged:latest");
    let violations = noted["pod-security.kubernetes.io/audit-violations"].as_str().unwrap_or_default();
    assert!(violations.starts_with("would violate PodSecurity \"restricted:latest\": "), "{noted}");
    // What the other door does, it does as its caller.
    cloud.openstack(&["keypair", "list"]).ok();
    let other = audited.record("the other door", |record| {
        let group = record["objectRef"]["apiGroup"].as_str().unwrap_or_default();
        record["verb"] == "list" && group.ends_with(".yunfan.io")
    });
    assert_eq!(other["user"]["username"], "admin");
    // So is who signed in there, and that somebody could not.
    let path = "/identity/v3/auth/tokens";
    let signed = audited.record("the sign-in", |record| {
        record["requestURI"] == path && record["responseStatus"]["code"] == 201
    });
    assert_eq!((&signed["user"]["username"], &signed["verb"]), (&json!("admin"), &json!("post")));
    let wrong = "{\"auth\":{\"identity\":{\"methods\":[\"password\"],\"password\":{\"user\":{\"name\":\"admin\",\"domain\":\
                 {\"id\":\"default\"},\"password\":\"a guess\"}}}}}";
    let (status, _) = cloud.curl(path, &["-H", "Content-Type: application/json", "-d", wrong]);
    assert_eq!(status, 401);
    let refused = audited.record("the guess", |record| {
        record["requestURI"] == path && record["responseStatus"]["code"] == 401
    });
    assert_eq!(refused["user"], json!({}));
    assert!(!audited.text().contains("a guess"));
}

#[test]
fn what_is_wrong_is_said_at_the_start() {
    let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let policy = dir.path().join("policy");
    std::fs::write(&policy, POLICY.replace("level: Metadata", "level: Everything")).expect("a file");
    let cloud =
        Cloud::builder().argument("--audit-policy-file").argument(&policy.to_string_lossy()).prepare();
    cloud.second_up(None).refused_with(&["the audit log cannot be kept", "Everything"]);
}
