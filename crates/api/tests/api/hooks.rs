//! Admission webhooks, with a server that allows, denies, changes, hangs, lies and dies.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use yunfan_identity::pki::{self, Identity};
use yunfan_store::{Op, Store, Txn};

use crate::support::{Answer, Desk};

pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A server of webhooks: what it does is in the path, and what it was asked is kept.
#[derive(Clone)]
pub(crate) struct Server {
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    /// How many of those who are held may go on.
    pub(crate) released: Arc<Semaphore>,
    base: String,
    bundle: String,
}

async fn answer(
    State(server): State<Server>,
    Path(what): Path<String>,
    body: Bytes,
) -> axum::response::Response {
    let review: Value = serde_json::from_slice(&body).expect("a review");
    let request = &review["request"];
    server.asked.lock().expect("nobody panics").push((what.clone(), review.clone()));
    let mut response = json!({"uid": request["uid"], "allowed": true});
    let mut patch = |steps: Value| {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(steps.to_string()));
    };
    match what.as_str() {
        "allow" => response["warnings"] = json!(["mind the gap"]),
        "deny" => {
            response["allowed"] = json!(false);
            response["status"] = json!({"code": 403, "reason": "Because", "message": "not today"});
        }
        "mutate" => patch(json!([{"op": "add", "path": "/data/mutated", "value": "yes"}])),
        "remutate" => patch(json!([{"op": "add", "path": "/data/last", "value": "yes"}])),
        "label" => patch(json!([{"op": "add", "path": "/metadata/labels", "value": {"told": "sesame"}}])),
        // Never twice the same.
        "loop" => {
            let count = server.count("loop").to_string();
            patch(json!([{"op": "add", "path": "/data/count", "value": count}]));
        }
        "init" => patch(json!([{"op": "add", "path": "/spec/initContainers", "value":
            [{"name": "first", "image": "busybox"}]}])),
        "created" => {}
        "own" => {
            let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": "u-1"});
            patch(json!([{"op": "add", "path": "/metadata/ownerReferences", "value": [owner, owner]}]));
        }
        "rename" => patch(json!([{"op": "replace", "path": "/metadata/name", "value": "other"}])),
        "scale" => patch(json!([{"op": "replace", "path": "/spec/replicas", "value": 3}])),
        "field" => patch(json!([
            {"op": "add", "path": "/spec/high", "value": 9}, {"op": "add", "path": "/spec/unknown", "value": 1}])),
        "odd" => patch(json!([{"op": "add", "path": "/data", "value": 7}])),
        "lie" => response["uid"] = json!("another"),
        "die" => return (axum::http::StatusCode::INTERNAL_SERVER_ERROR, "no").into_response(),
        "garble" => return "no JSON".into_response(),
        "hang" => std::future::pending().await,
        "hold" => server.released.acquire().await.expect("it is never closed").forget(),
        "absent" => {
            response["allowed"] = json!(false);
            response["status"] = json!({"code": 404, "reason": "NotFound", "message": "who?"});
        }
        "text" => patch(json!([{"op": "replace", "path": "", "value": "x"}])),
        "textual" => patch(json!([{"op": "replace", "path": "/metadata", "value": "x"}])),
        "odd-review" => patch(json!([{"op": "remove", "path": "/spec/nonResourceAttributes"}])),
        "inside" => patch(json!([{"op": "replace", "path": "/spec/type", "value": "ClusterIP"},
            {"op": "remove", "path": "/spec/externalTrafficPolicy"}])),
        "outside" => patch(json!([{"op": "replace", "path": "/spec", "value":
            {"type": "ExternalName", "externalName": "x.example"}}])),
        other => panic!("asked for {other}"),
    }
    let code = if what == "created" { 201 } else { 200 };
    let code = axum::http::StatusCode::from_u16(code).expect("it is one");
    let review = json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response});
    (code, axum::Json(review)).into_response()
}

impl Server {
    /// One that listens over TLS with a certificate of the desk's authority.
    pub(crate) async fn start(desk: &Desk) -> Self {
        let mut identity = desk.authority.issue_server("hook", &["127.0.0.1"], 1).expect("a certificate");
        identity.certificate_pem.push_str(desk.authority.certificate_pem());
        Self::start_as(&identity).await
    }

    /// The same with this certificate, whose last one is trusted.
    pub(crate) async fn start_as(identity: &Identity) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let last = identity.certificate_pem.rfind("-----BEGIN").expect("a certificate");
        let server = Self {
            base: format!("https://{}", listener.local_addr().expect("an address")),
            bundle: STANDARD.encode(&identity.certificate_pem[last..]),
            asked: Arc::default(),
            released: Arc::new(Semaphore::new(0)),
        };
        let tls = pki::server_config(identity, None).expect("a TLS configuration");
        let router = Router::new().route("/{what}", post(answer)).with_state(server.clone());
        tokio::spawn(yunfan_serve::serve_tls(listener, Arc::new(tls), router, std::future::pending()));
        server
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.asked.lock().expect("nobody panics").iter().filter(|(known, _)| known == what).count()
    }

    /// What was asked since the last time.
    pub(crate) fn take(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.asked.lock().expect("nobody panics"))
    }

    /// A webhook that does this on these resources.
    pub(crate) fn hook(&self, what: &str, resources: &[&str], change: Value) -> Value {
        let mut hook = json!({
            "name": format!("{what}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("{}/{what}", self.base), "caBundle": self.bundle},
            "rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": resources}],
        });
        for (key, value) in change.as_object().into_iter().flatten() {
            hook[key] = value.clone();
        }
        hook
    }
}

/// Puts a configuration in the place of what was there of that name.
pub(crate) async fn configure(desk: &Desk, kind: &str, name: &str, hooks: Value) {
    let path = format!("{GROUP}/{}s/{name}", kind.to_lowercase());
    desk.call("DELETE", &path, None).await;
    let object = json!({"kind": kind, "apiVersion": "admissionregistration.k8s.io/v1",
        "metadata": {"name": name}, "webhooks": hooks});
    desk.call("POST", path.rsplit_once('/').expect("a path").0, Some(object)).await.expect(201);
}

pub(crate) async fn validating(desk: &Desk, hook: Value) {
    configure(desk, "ValidatingWebhookConfiguration", "v", json!([hook])).await;
}

pub(crate) async fn mutating(desk: &Desk, hooks: Value) {
    configure(desk, "MutatingWebhookConfiguration", "m", hooks).await;
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": name}}, "data": {"a": "b"}})
}

async fn make(desk: &Desk, name: &str) -> Answer {
    desk.call("POST", MAPS, Some(map(name))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validating_hook_is_shown_the_request_and_its_word_counts() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    validating(&desk, server.hook("allow", &["configmaps"], json!({}))).await;
    let answer =
        desk.call("POST", &format!("{MAPS}?fieldManager=me&dryRun=All"), Some(map("a"))).await.got(201);
    assert_eq!(answer.headers["warning"], "299 - \"mind the gap\"");
    let asked = server.take();
    let [(_, review)] = asked.as_slice() else { panic!("{asked:?}") };
    let request = &review["request"];
    assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["requestResource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&request["operation"], &request["dryRun"]), (&json!("CREATE"), &json!(true)));
    assert_eq!((&request["name"], &request["namespace"]), (&json!("a"), &json!("default")));
    assert_eq!(request["userInfo"]["username"], "admin");
    assert_eq!(
        request["options"],
        json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1",
        "fieldManager": "me", "dryRun": ["All"]})
    );
    assert_eq!((&request["object"]["data"]["a"], &request["oldObject"]), (&json!("b"), &Value::Null));

    make(&desk, "a").await.expect(201);
    desk.patch("merge-patch+json", &format!("{MAPS}/a"), r#"{"data":{"a":"c"}}"#).await.expect(200);
    desk.call("DELETE", &format!("{MAPS}/a"), None).await.expect(200);
    let asked: Vec<Value> = server.take().into_iter().map(|(_, review)| review["request"].clone()).collect();
    let said: Vec<_> = asked
        .iter()
        .map(|one| {
            json!([
                one["operation"],
                one["object"]["data"]["a"],
                one["oldObject"]["data"]["a"],
                one["options"]["kind"]
            ])
        })
        .collect();
    assert_eq!(
        said,
        [
            json!(["CREATE", "b", null, "CreateOptions"]),
            json!(["UPDATE", "c", "b", "UpdateOptions"]),
            json!(["DELETE", null, "c", "DeleteOptions"])
        ]
    );

    validating(&desk, server.hook("deny", &["configmaps"], json!({}))).await;
    let denied = make(&desk, "a").await.got(403).body;
    assert_eq!(denied["reason"], "Because");
    assert_eq!(denied["message"], "admission webhook \"deny.example.com\" denied the request: not today");
    desk.call("GET", &format!("{MAPS}/a"), None).await.refused(404);
    // Others, and what is only read, are not its business.
    desk.call("POST", "/api/v1/namespaces/default/secrets", Some(json!({"metadata": {"name": "s"}})))
        .await
        .expect(201);
    let metrics = desk.call("GET", "/metrics", None).await.text;
    let line = "apiserver_admission_webhook_rejection_count{name=\"deny.example.com\",type=\"validating\",operation=\"CREATE\",error_type=\"no_error\",rejection_code=\"403\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_that_fails_counts_as_its_policy_says() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    for (what, timeout, why) in [
        ("lie", 10, "received invalid webhook response: expected response.uid="),
        ("die", 10, "failed to call webhook: Post \"https://"),
        ("garble", 10, "failed to call webhook: Post \"https://"),
        ("hang", 1, "?timeout=1s\": context deadline exceeded"),
    ] {
        validating(&desk, server.hook(what, &["configmaps"], json!({"timeoutSeconds": timeout}))).await;
        let message = make(&desk, what).await.refused(500);
        let start = format!("Internal error occurred: failed calling webhook \"{what}.example.com\": ");
        assert!(message.starts_with(&start) && message.contains(why), "{message}");
        let policy = json!({"timeoutSeconds": timeout, "failurePolicy": "Ignore"});
        validating(&desk, server.hook(what, &["configmaps"], policy)).await;
        make(&desk, what).await.expect(201);
    }
    // One that is not there at all, and one that nobody trusts.
    let gone = json!({"clientConfig": {"url": "https://127.0.0.1:1/x"}});
    validating(&desk, server.hook("allow", &["configmaps"], gone)).await;
    make(&desk, "gone").await.refused(500);
    let service = json!({"clientConfig": {"service": {"namespace": "default", "name": "none"}}});
    validating(&desk, server.hook("allow", &["configmaps"], service)).await;
    let message = make(&desk, "gone").await.refused(500);
    assert!(
        message.contains("none.default.svc") || message.contains("service \"none\" not found"),
        "{message}"
    );
    let metrics = desk.call("GET", "/metrics", None).await.text;
    assert!(metrics.contains(
        "apiserver_admission_webhook_fail_open_count{name=\"hang.example.com\",type=\"validating\"} 1"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_hook_holds_up_nobody_else() {
    let desk = Arc::new(Desk::new().await);
    let server = Server::start(&desk).await;
    let selector = json!({"objectSelector": {"matchLabels": {"app": "slow"}}, "timeoutSeconds": 30});
    validating(&desk, server.hook("hang", &["configmaps"], selector)).await;
    let slow = {
        let desk = desk.clone();
        tokio::spawn(async move { make(&desk, "slow").await.status })
    };
    tokio::time::timeout(Duration::from_secs(10), async {
        while server.count("hang") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is asked");
    tokio::time::timeout(Duration::from_secs(10), make(&desk, "fast")).await.expect("at once").expect(201);
    assert!(!slow.is_finished());
    slow.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn mutating_hooks_are_asked_in_order_and_again_where_they_wish() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let hooks = json!([
        server.hook("allow", &["configmaps"], again.clone()),
        server.hook("loop", &["configmaps"], again),
        server.hook("mutate", &["configmaps"], json!({})),
    ]);
    mutating(&desk, hooks).await;
    configure(
        &desk,
        "MutatingWebhookConfiguration",
        "a-first",
        json!([server.hook("remutate", &["configmaps"], json!({}))]),
    )
    .await;
    let made = make(&desk, "a").await.expect(201);
    // Of those that want it each is asked once more, and that is the end of it.
    let order: Vec<String> = server.take().into_iter().map(|(what, _)| what).collect();
    assert_eq!(order, ["remutate", "allow", "loop", "mutate", "allow", "loop"]);
    assert_eq!(made["data"], json!({"a": "b", "last": "yes", "mutated": "yes", "count": "2"}));

    // Those who refuse see what those who change have made of it; who wrote is noted of what the client wrote.
    validating(&desk, server.hook("allow", &["configmaps"], json!({}))).await;
    mutating(&desk, json!([server.hook("mutate", &["configmaps"], json!({}))])).await;
    let made = desk
        .call("POST", MAPS, Some(json!({"metadata": {"generateName": "g-"}, "data": {"a": "b"}})))
        .await
        .expect(201);
    let asked = server.take();
    let seen = |index: usize| asked[index].1["request"].clone();
    assert_eq!((&seen(1)["name"], &seen(1)["object"]["metadata"]["uid"]), (&Value::Null, &Value::Null));
    assert_eq!(
        (seen(2)["name"].clone(), seen(2)["object"]["data"]["mutated"].clone()),
        (made["metadata"]["name"].clone(), json!("yes"))
    );
    let fields = made["metadata"]["managedFields"][0]["fieldsV1"]["f:data"].to_string();
    assert!(!fields.contains("mutated"), "{fields}");
    assert!(made["metadata"]["uid"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_hook_makes_of_an_object_is_checked_as_the_clients_own() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "busybox"}]}});
    mutating(&desk, json!([server.hook("init", &["pods"], json!({}))])).await;
    let made = desk.call("POST", PODS, Some(pod)).await.expect(201);
    let first = &made["spec"]["initContainers"][0];
    assert_eq!(
        (&first["terminationMessagePolicy"], &first["imagePullPolicy"]),
        (&json!("File"), &json!("Always"))
    );
    assert!(first["volumeMounts"].to_string().contains("serviceaccount"), "the chain goes on: {first}");

    mutating(&desk, json!([server.hook("odd", &["configmaps"], json!({}))])).await;
    assert!(make(&desk, "a").await.refused(500).contains("data"));
    mutating(&desk, json!([server.hook("rename", &["configmaps"], json!({}))])).await;
    assert!(make(&desk, "a").await.refused(500).contains("metadata.name may not be changed"));
    mutating(&desk, json!([server.hook("scale", &["deployments/scale"], json!({}))])).await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let all = "/apis/apps/v1/namespaces/default/deployments";
    desk.call("POST", all, Some(deployment)).await.expect(201);
    server.take();
    let scaled = desk
        .patch("merge-patch+json", &format!("{all}/d/scale"), r#"{"spec":{"replicas":5}}"#)
        .await
        .expect(200);
    assert_eq!(scaled["spec"]["replicas"], 3);
    let request = server.take()[0].1["request"].clone();
    assert_eq!((&request["kind"]["kind"], &request["subResource"]), (&json!("Scale"), &json!("scale")));
    assert_eq!(
        (&request["object"]["spec"]["replicas"], &request["oldObject"]["spec"]["replicas"]),
        (&json!(5), &json!(1))
    );
    // There is nothing to change in what goes away.
    mutating(&desk, json!([server.hook("mutate", &["secrets"], json!({}))])).await;
    desk.call("DELETE", &format!("{all}/d"), None).await.expect(200);
    mutating(&desk, json!([server.hook("mutate", &["deployments", "configmaps"], json!({}))])).await;
    make(&desk, "gone").await.expect(201);
    let message = desk.call("DELETE", &format!("{MAPS}/gone"), None).await.refused(500);
    assert!(message.contains("attempted to modify the object, which is not supported"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_and_conditions_say_who_is_meant() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    desk.namespace("other").await;
    desk.patch("merge-patch+json", "/api/v1/namespaces/other", r#"{"metadata":{"labels":{"hooks":"off"}}}"#)
        .await
        .expect(200);
    let selector = json!({
        "namespaceSelector": {"matchExpressions": [{"key": "hooks", "operator": "NotIn", "values": ["off"]}]},
        "objectSelector": {"matchLabels": {"app": "x"}},
    });
    validating(&desk, server.hook("deny", &["configmaps"], selector)).await;
    make(&desk, "y").await.expect(201);
    make(&desk, "x").await.refused(403);
    desk.call("POST", "/api/v1/namespaces/other/configmaps", Some(map("x"))).await.expect(201);
    // The old object counts as well.
    let patch = r#"{"metadata":{"labels":{"app":"x"}}}"#;
    desk.patch("merge-patch+json", &format!("{MAPS}/y"), patch).await.refused(403);

    let conditions = |all: Value| json!({"matchConditions": all, "failurePolicy": "Fail"});
    let own = json!([
        {"name": "a", "expression": "!has(object.metadata.labels.skip)"},
        {"name": "b", "expression": "request.userInfo.username == 'admin' && authorizer.group('').resource('pods').check('get').allowed()"},
        {"name": "c", "expression": "authorizer.requestResource.check('create').allowed()"}]);
    validating(&desk, server.hook("deny", &["configmaps"], conditions(own))).await;
    make(&desk, "c1").await.refused(403);
    let skipped = json!({"metadata": {"name": "c2", "labels": {"skip": "me"}}});
    desk.call("POST", MAPS, Some(skipped)).await.expect(201);
    let wrong = json!([{"name": "a", "expression": "object.none == 1"}]);
    validating(&desk, server.hook("deny", &["configmaps"], conditions(wrong.clone()))).await;
    let message = make(&desk, "c3").await.refused(403);
    assert_eq!(
        message,
        "configmaps \"c3\" is forbidden: expression 'object.none == 1' resulted in error: no such key: none"
    );
    let lenient = json!({"matchConditions": wrong, "failurePolicy": "Ignore"});
    validating(&desk, server.hook("deny", &["configmaps"], lenient)).await;
    make(&desk, "c3").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn subresources_streams_and_collections_are_asked_about() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    let pod = json!({"metadata": {"name": "p", "labels": {"app": "p"}}, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "busybox"}]}});
    desk.call("POST", PODS, Some(pod)).await.expect(201);
    for name in ["a", "b"] {
        make(&desk, name).await.expect(201);
    }
    validating(&desk, server.hook("deny", &["*/*"], json!({}))).await;
    let one = format!("{PODS}/p");
    let eviction = json!({"metadata": {"name": "p"}});
    let binding = json!({"metadata": {"name": "p"}, "target": {"name": "n"}});
    desk.call("POST", &format!("{one}/eviction"), Some(eviction)).await.refused(403);
    desk.call("POST", &format!("{one}/binding"), Some(binding.clone())).await.refused(403);
    desk.call("POST", "/api/v1/namespaces/default/bindings", Some(binding)).await.refused(403);
    desk.patch("merge-patch+json", &format!("{one}/status"), r#"{"status":{"phase":"Running"}}"#)
        .await
        .refused(403);
    desk.call("POST", &format!("{one}/attach?stdin=true"), None).await.refused(403);
    desk.call("POST", &format!("{one}/exec?command=ls&command=-l&tty=1"), None).await.refused(403);
    desk.call("GET", &format!("{one}/proxy/x/y"), None).await.refused(403);
    desk.call(
        "POST",
        "/api/v1/namespaces/default/serviceaccounts/default/token",
        Some(json!({"spec": {"audiences": ["x"]}})),
    )
    .await
    .refused(403);
    desk.call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", Some(json!({})))
        .await
        .refused(403);
    desk.call("DELETE", MAPS, None).await.refused(403);
    desk.call("GET", &format!("{one}/log"), None).await;
    let seen: Vec<Value> = server
        .take()
        .into_iter()
        .map(|(_, review)| {
            let request = &review["request"];
            json!([
                request["operation"],
                request["kind"]["kind"],
                request["resource"]["resource"],
                request["subResource"],
                request["name"]
            ])
        })
        .collect();
    assert_eq!(
        seen,
        [
            json!(["CREATE", "Eviction", "pods", "eviction", "p"]),
            json!(["CREATE", "Binding", "pods", "binding", "p"]),
            json!(["CREATE", "Binding", "bindings", null, "p"]),
            json!(["UPDATE", "Pod", "pods", "status", "p"]),
            json!(["CONNECT", "PodAttachOptions", "pods", "attach", "p"]),
            json!(["CONNECT", "PodExecOptions", "pods", "exec", "p"]),
            json!(["CONNECT", "PodProxyOptions", "pods", "proxy", "p"]),
            json!(["CREATE", "TokenRequest", "serviceaccounts", "token", "default"]),
            json!(["CREATE", "SelfSubjectReview", "selfsubjectreviews", null, null]),
            json!(["DELETE", "ConfigMap", "configmaps", null, null]),
        ]
    );
    // Nobody can be locked out: the configurations themselves are nobody's business.
    desk.call("DELETE", &format!("{GROUP}/validatingwebhookconfigurations/v"), None).await.expect(200);
    desk.call("DELETE", MAPS, None).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_is_refused_where_a_hook_has_effects() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    validating(&desk, server.hook("allow", &["configmaps"], json!({"sideEffects": "NoneOnDryRun"}))).await;
    let dry = format!("{MAPS}?dryRun=All");
    desk.call("POST", &dry, Some(map("a"))).await.expect(201);
    // The API takes no hook with effects any more, but one of before may be there.
    let path = format!("{GROUP}/validatingwebhookconfigurations/v");
    let mut object = desk.call("GET", &path, None).await.expect(200);
    object["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    object["webhooks"][0]["sideEffects"] = json!("Some");
    let key = "/registry/admissionregistration.k8s.io/validatingwebhookconfigurations/v".into();
    let put = Op::Put { key, value: object.to_string().into() };
    let txn = Txn { compares: vec![], success: vec![put], failure: vec![] };
    desk.store.txn(txn).await.expect("it is stored");
    let message = desk.call("POST", &dry, Some(map("a"))).await.refused(400);
    assert_eq!(message, "admission webhook \"allow.example.com\" does not support dry run");
    make(&desk, "a").await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hook_sees_the_version_that_its_rules_name() {
    let desk = Desk::new().await;
    let server = Server::start(&desk).await;
    let version = |name: &str| {
        json!({"name": name, "served": true, "storage": name == "v1",
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"low": {"type": "integer", "default": 4}, "high": {"type": "integer"}}}}}}})
    };
    let definition = json!({"metadata": {"name": "gauges.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "gauges", "singular": "gauge", "kind": "Gauge", "listKind": "GaugeList"},
            "versions": [version("v1"), version("v2")]}});
    desk.call("POST", CRDS, Some(definition)).await.expect(201);
    let rules = |policy: &str| {
        let rule = json!({"operations": ["CREATE"], "apiGroups": ["example.com"], "apiVersions": ["v2"], "resources": ["gauges"]});
        json!({"rules": [rule], "matchPolicy": policy})
    };
    let all = "/apis/example.com/v1/namespaces/default/gauges";
    let gauge = |name: &str| {
        Some(json!({"apiVersion": "example.com/v1", "kind": "Gauge", "metadata": {"name": name}, "spec": {}}))
    };
    mutating(&desk, json!([server.hook("field", &[], rules("Exact"))])).await;
    desk.call("POST", all, gauge("a")).await.expect(201);
    assert!(server.take().is_empty());
    mutating(&desk, json!([server.hook("field", &[], rules("Equivalent"))])).await;
    let made = desk.call("POST", all, gauge("b")).await.expect(201);
    assert_eq!(
        (&made["apiVersion"], &made["spec"]),
        (&json!("example.com/v1"), &json!({"low": 4, "high": 9}))
    );
    let request = server.take()[0].1["request"].clone();
    assert_eq!(
        (&request["kind"]["version"], &request["requestKind"]["version"]),
        (&json!("v2"), &json!("v1"))
    );
    assert_eq!(request["object"]["apiVersion"], "example.com/v2");
}
