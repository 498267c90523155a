//! What the audit log has of requests, and what it never has.

use std::path::PathBuf;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::post;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tower::ServiceExt;
use yunfan_api::ApiConfig;
use yunfan_audit::{Audit, LogOptions, Mode};

use yunfan_identity::{Caller, UserInfo};

use crate::hooks::{MAPS, Server, mutating, validating};
use crate::support::Desk;

/// A desk with an audit log, in a directory of its own.
struct Audited {
    desk: Desk,
    audit: Audit,
    dir: tempfile::TempDir,
}

impl Audited {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let policy = dir.path().join("policy.yaml");
        let text = "{apiVersion: audit.k8s.io/v1, kind: Policy, omitStages: [RequestReceived], rules: [{level: RequestResponse}]}";
        std::fs::write(&policy, text).expect("a file");
        let path = Self::log(&dir);
        let log = LogOptions {
            path,
            max_megabytes: 0,
            max_backups: 0,
            max_days: 0,
            compress: false,
            mode: Mode::Blocking,
            max_record: None,
        };
        let audit = Audit::start(&policy, Some(log), None).await.expect("an audit log");
        let desk = Desk::with(ApiConfig { audit: Some(audit.clone()), ..ApiConfig::default() }).await;
        Self { desk, audit, dir }
    }

    fn log(dir: &tempfile::TempDir) -> PathBuf {
        dir.path().join("audit.log")
    }

    /// All that was recorded so far.
    async fn records(&self) -> Vec<Value> {
        self.audit.flush().await;
        let text = std::fs::read_to_string(Self::log(&self.dir)).expect("the log");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_about_a_secret_tell_the_log_nothing_of_it() {
    const SECRETS: &str = "/api/v1/namespaces/default/secrets";
    let audited = Audited::new().await;
    let desk = &audited.desk;
    let object = json!({"metadata": {"name": "s"}, "stringData": {"a": "sesame"}});
    desk.call("POST", SECRETS, Some(object)).await.expect(201);
    // What it made is shown to who may write it, and so is handed the whole by an answer that is none of an error.
    let unfit = r#"[{"op": "add", "path": "/metadata/labels", "value": "x"}]"#;
    let said = desk.patch("json-patch+json", &format!("{SECRETS}/s"), unfit).await.refused(422);
    assert!(said.contains("c2VzYW1l"), "{said}");
    let unfit = r#"{"stringData": {"a": ["sesame"]}}"#;
    desk.patch("strategic-merge-patch+json", &format!("{SECRETS}/s"), unfit).await;
    desk.patch("merge-patch+json", &format!("{SECRETS}/s"), r#"{"type": "sesame"}"#).await.refused(422);
    let records = audited.records().await;
    let about = |code: u16| {
        let found = records
            .iter()
            .find(|record| record["verb"] == "patch" && record["responseStatus"]["code"] == code);
        found.unwrap_or_else(|| panic!("no patch with {code} among {records:?}"))
    };
    let refused = about(422);
    let wanted = json!({"metadata": {}, "code": 422, "status": "Failure", "reason": "Invalid"});
    assert_eq!(refused["responseStatus"], wanted);
    let answered = &refused["responseObject"];
    assert_eq!((&answered["reason"], answered.get("message")), (&json!("Invalid"), None));
    for secret in ["sesame", "c2VzYW1l"] {
        let line = records.iter().find(|record| record.to_string().contains(secret));
        assert_eq!(line, None, "{secret}");
    }
    // Of other kinds the log says what was wrong.
    desk.patch("merge-patch+json", "/api/v1/namespaces/default/configmaps/none", "{}").await.refused(404);
    let records = audited.records().await;
    let told = "configmaps \"none\" not found";
    assert!(records.iter().any(|record| record["responseStatus"]["message"] == told));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_in_at_another_door_is_recorded() {
    let audited = Audited::new().await;
    let sign_in = |body: String| async move {
        match body.as_str() {
            "sesame" => {
                let mut response = StatusCode::CREATED.into_response();
                response.extensions_mut().insert(Caller(UserInfo::authenticated("ann", ["dev"])));
                response
            }
            "often" => StatusCode::TOO_MANY_REQUESTS.into_response(),
            _ => StatusCode::UNAUTHORIZED.into_response(),
        }
    };
    let servers =
        |body: String| async move { if body.is_empty() { StatusCode::UNAUTHORIZED } else { StatusCode::OK } };
    let door = Router::new().route("/v3/auth/tokens", post(sign_in)).route("/servers", post(servers));
    let app = audited.desk.api.recorded(door).merge(audited.desk.api.router());
    let before = audited.records().await.len();
    let mut ids = Vec::new();
    for (path, body, code) in [
        ("/v3/auth/tokens", "sesame", 201),
        ("/v3/auth/tokens", "wrong", 401),
        ("/v3/auth/tokens", "often", 429),
        ("/servers", "", 401),
        ("/servers", "token", 200),
    ] {
        let request = Request::post(path).body(Body::from(body)).expect("a request");
        let response = app.clone().oneshot(request).await.expect("the router never fails");
        assert_eq!(response.status(), code, "{path} {body}");
        assert!(response.extensions().get::<Caller>().is_none());
        ids.extend(response.headers().get("audit-id").map(|id| id.to_str().expect("text").to_owned()));
    }
    let records = audited.records().await.split_off(before);
    let told: Vec<_> = records
        .iter()
        .map(|record| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let code = record["responseStatus"]["code"].as_u64().unwrap_or_default();
            (text(&record["requestURI"]), text(&record["user"]["username"]), code, text(&record["verb"]))
        })
        .collect();
    let row = |path: &str, user: &str, code| (path.to_owned(), user.to_owned(), code, "post".to_owned());
    let tokens = "/v3/auth/tokens";
    let wanted =
        [row(tokens, "ann", 201), row(tokens, "", 401), row(tokens, "", 429), row("/servers", "", 401)];
    assert_eq!(told, wanted);
    let known: Vec<&str> = records.iter().filter_map(|record| record["auditID"].as_str()).collect();
    assert_eq!(known, ids);
    assert!(!records.iter().any(|record| record.to_string().contains("sesame")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_webhooks_change_and_who_fails_is_recorded() {
    let audited = Audited::new().await;
    let desk = &audited.desk;
    let server = Server::start(desk).await;
    let ignored = json!({"failurePolicy": "Ignore"});
    let both = &["configmaps", "secrets"][..];
    let label = server.hook("label", both, json!({"reinvocationPolicy": "IfNeeded"}));
    let last = server.hook("remutate", &both[..1], json!({}));
    let hooks = [label, server.hook("die", both, ignored.clone()), last];
    mutating(desk, json!(hooks)).await;
    validating(desk, server.hook("garble", both, ignored)).await;
    let object = |kind: &str| json!({"kind": kind, "apiVersion": "v1", "metadata": {"name": "told"}, "data": {"a": "YQ=="}});
    desk.call("POST", MAPS, Some(object("ConfigMap"))).await.expect(201);
    desk.call("POST", "/api/v1/namespaces/default/secrets", Some(object("Secret"))).await.expect(201);
    let records = audited.records().await;
    let of = |resource: &str| {
        let is = |record: &&Value| record["verb"] == "create" && record["objectRef"]["resource"] == resource;
        records.iter().find(is).unwrap_or_else(|| panic!("no {resource} among {records:?}"))["annotations"]
            .clone()
    };
    let told = of("configmaps");
    let mutation = |place: &str| told[format!("mutation.webhook.admission.k8s.io/{place}")].clone();
    let note = |hook: &str, mutated: bool| {
        json!(format!(r#"{{"configuration":"m","webhook":"{hook}.example.com","mutated":{mutated}}}"#))
    };
    assert_eq!(mutation("round_0_index_0"), note("label", true), "{told}");
    assert_eq!(mutation("round_0_index_1"), note("die", false));
    assert_eq!(mutation("round_0_index_2"), note("remutate", true));
    assert_eq!(mutation("round_1_index_0"), note("label", false));
    assert_eq!(mutation("round_1_index_1"), Value::Null);
    let patch = r#"{"configuration":"m","webhook":"label.example.com","patch":[{"op":"add","path":"/metadata/labels","value":{"told":"sesame"}}],"patchType":"JSONPatch"}"#;
    assert_eq!(told["patch.webhook.admission.k8s.io/round_0_index_0"], patch);
    assert_eq!(told["failed-open.mutation.webhook.admission.k8s.io/round_0_index_1"], "die.example.com");
    assert_eq!(told["failed-open.validating.webhook.admission.k8s.io/round_0_index_0"], "garble.example.com");
    let hidden = of("secrets");
    assert_eq!(hidden["mutation.webhook.admission.k8s.io/round_0_index_0"], note("label", true));
    assert!(!hidden.to_string().contains("patch.webhook"), "{hidden}");
}
