use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use yunfan_identity::authz::{FieldTerm, LabelTerm};
use yunfan_identity::rbac::RbacAuthorizer;
use yunfan_identity::{Attributes, Authorizer, Decision, UserInfo};

use super::{Authorization, AuthorizationOptions, Judge};
use crate::ConfigError;
use crate::testing::{Server, file, until};

/// Says of nodes what a test wants.
struct Nodes;

impl Authorizer for Nodes {
    fn authorize(&self, request: &Attributes<'_>) -> Decision {
        match request.resource {
            "nodes" => Decision::Allow { reason: "a node".to_owned() },
            _ => Decision::NoOpinion { reason: String::new() },
        }
    }
}

/// A webhook that answers with this status.
async fn saying(status: Value) -> Server {
    Server::start(move |_, _| Some(review(status.clone()))).await
}

fn review(status: Value) -> String {
    json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1", "status": status})
        .to_string()
}

fn judge(configured: Authorization) -> Judge {
    Judge::new(Nodes, Arc::new(RbacAuthorizer::new()), configured)
}

async fn ask(judge: &Judge, user: &UserInfo, resource: &str) -> Decision {
    judge.authorize(&Attributes::resource(user, "get", "", resource)).await
}

fn ann() -> UserInfo {
    UserInfo::authenticated("ann", ["dev"])
}

async fn modes(modes: &[&str]) -> Result<Authorization, ConfigError> {
    let modes = modes.iter().map(|mode| (*mode).to_owned()).collect();
    AuthorizationOptions { modes, ..AuthorizationOptions::default() }.read().await
}

#[tokio::test]
async fn the_first_opinion_decides() {
    let (nothing, allow) =
        (modes(&["AlwaysDeny"]).await.unwrap(), modes(&["AlwaysDeny", "AlwaysAllow"]).await.unwrap());
    let reason = "Everything is forbidden.".to_owned();
    assert_eq!(ask(&judge(nothing), &ann(), "pods").await, Decision::NoOpinion { reason });
    assert!(ask(&judge(allow), &ann(), "pods").await.is_allowed());
    let standard = judge(Authorization::default());
    assert!(ask(&standard, &ann(), "nodes").await.is_allowed());
    assert!(!ask(&standard, &ann(), "pods").await.is_allowed());
}

#[tokio::test]
async fn masters_are_never_locked_out() {
    let judge = judge(modes(&["AlwaysDeny"]).await.unwrap());
    let master = UserInfo::authenticated("root", ["system:masters"]);
    assert!(ask(&judge, &master, "pods").await.is_allowed());
}

#[tokio::test]
async fn flags_that_make_no_sense_are_named() {
    let fail = async |given: &[&str]| modes(given).await.expect_err("is wrong").to_string();
    assert!(fail(&["Rbac"]).await.starts_with("--authorization-mode: \"Rbac\" is no mode"));
    assert!(fail(&["RBAC", "RBAC"]).await.contains("given twice"));
    assert!(fail(&["ABAC"]).await.starts_with("--authorization-policy-file: is missing"));
    assert!(fail(&["Webhook"]).await.starts_with("--authorization-webhook-config-file: is missing"));
    let unused = AuthorizationOptions { policy_file: Some("/x".into()), ..AuthorizationOptions::default() };
    let error = unused.read().await.expect_err("nobody reads it").to_string();
    assert!(error.starts_with("--authorization-policy-file: is only read in the mode ABAC"), "{error}");
    let policies = file("{}");
    let options = AuthorizationOptions {
        modes: vec!["ABAC".to_owned()],
        policy_file: Some(policies.path().to_owned()),
        ..AuthorizationOptions::default()
    };
    let error = options.read().await.expect_err("is no policy").to_string();
    assert!(error.contains(": line 1: is no policy"), "{error}");
}

async fn hooked(hook: &Server) -> (Judge, NamedTempFile) {
    let config = hook.kubeconfig("/authorize");
    let options = AuthorizationOptions {
        modes: vec!["Webhook".to_owned()],
        webhook_config_file: Some(config.path().to_owned()),
        ..AuthorizationOptions::default()
    };
    (judge(options.read().await.expect("a chain")), config)
}

#[tokio::test]
async fn a_webhook_is_asked_once_for_the_same_thing() {
    let hook = Server::start(|_, body| {
        let allowed = body["spec"]["resourceAttributes"]["resource"] == "pods";
        Some(review(json!({"allowed": allowed, "reason": "by the book"})))
    })
    .await;
    let (judge, _config) = hooked(&hook).await;
    for _ in 0..3 {
        let reason = "by the book".to_owned();
        assert_eq!(ask(&judge, &ann(), "pods").await, Decision::Allow { reason: reason.clone() });
        assert_eq!(ask(&judge, &ann(), "secrets").await, Decision::NoOpinion { reason });
    }
    assert_eq!(hook.count(), 2);
    let (path, asked) = hook.asked().remove(0);
    assert_eq!(path, "/authorize");
    assert_eq!(asked["kind"], "SubjectAccessReview");
    assert_eq!(
        (&asked["spec"]["user"], &asked["spec"]["groups"]),
        (&json!("ann"), &json!(["dev", "system:authenticated"]))
    );
    let other = UserInfo::authenticated("bob", ["dev"]);
    ask(&judge, &other, "pods").await;
    assert_eq!(hook.count(), 3, "what one may do says nothing of another");
}

#[tokio::test]
async fn a_webhook_is_told_what_a_list_selects() {
    let hook = Server::start(|_, _| Some(review(json!({"allowed": true})))).await;
    let (judge, _config) = hooked(&hook).await;
    let user = ann();
    let term = |key: &str, operator, values: &[&str]| LabelTerm {
        key: key.to_owned(),
        operator,
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    };
    let field = |field: &str, equal, value: &str| FieldTerm {
        field: field.to_owned(),
        equal,
        value: value.to_owned(),
    };
    let (fields, labels) = (
        [field("spec.nodeName", true, "n"), field("status.phase", false, "Failed")],
        [term("a", "In", &["1", "2"]), term("b", "Exists", &[])],
    );
    let request =
        Attributes { selected: &fields, labels: &labels, ..Attributes::resource(&user, "list", "", "pods") };
    assert!(judge.authorize(&request).await.is_allowed());
    let asked = hook.asked().remove(0).1["spec"]["resourceAttributes"].take();
    assert_eq!(
        asked["fieldSelector"],
        json!({"requirements": [{"key": "spec.nodeName", "operator": "In", "values": ["n"]},
            {"key": "status.phase", "operator": "NotIn", "values": ["Failed"]}]})
    );
    let labels =
        json!([{"key": "a", "operator": "In", "values": ["1", "2"]}, {"key": "b", "operator": "Exists"}]);
    assert_eq!(asked["labelSelector"], json!({"requirements": labels}));
    // Another selection is another question.
    let wider = Attributes { labels: &[], ..request };
    assert!(judge.authorize(&wider).await.is_allowed());
    assert_eq!(hook.count(), 2);
}

#[tokio::test]
async fn answers_that_make_no_sense_are_no_answers() {
    for status in [json!({"allowed": true, "denied": true}), json!({"allowed": "yes"})] {
        let hook = saying(status.clone()).await;
        let (judge, _config) = hooked(&hook).await;
        for _ in 0..2 {
            assert!(!ask(&judge, &ann(), "pods").await.is_allowed(), "{status}");
        }
        assert_eq!(hook.count(), 2, "a failure is not kept: {status}");
    }
    let texts = [
        json!({"kind": "TokenReview", "apiVersion": "authorization.k8s.io/v1", "status": {"allowed": true}})
            .to_string(),
        "true".to_owned(),
        "<html>".to_owned(),
        format!("{{\"kind\": \"{}\"}}", "x".repeat(2 << 20)),
    ];
    for text in texts {
        let hook = Server::start(move |_, _| Some(text.clone())).await;
        let (judge, _config) = hooked(&hook).await;
        assert!(!ask(&judge, &ann(), "pods").await.is_allowed());
    }
}

/// A chain of one webhook with these settings, then AlwaysAllow.
fn structured(config: &NamedTempFile, more: &str) -> String {
    format!(
        r#"{{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration", "authorizers": [
        {{"type": "Webhook", "name": "hook", "webhook": {{"subjectAccessReviewVersion": "v1",
          "connectionInfo": {{"type": "KubeConfigFile", "kubeConfigFile": {:?}}}, {more}}}}},
        {{"type": "AlwaysAllow", "name": "all"}}]}}"#,
        config.path()
    )
}

async fn from_file(text: &str) -> Result<(Authorization, NamedTempFile), ConfigError> {
    let file = file(text);
    let config = Some(file.path().to_owned());
    let chain = AuthorizationOptions { config, ..AuthorizationOptions::default() }.read().await?;
    Ok((chain, file))
}

#[tokio::test]
async fn a_webhook_that_hangs_or_is_dead_fails_open_or_closed() {
    let hanging = Server::start(|_, _| None).await;
    let dead = Server::dead();
    for hook in [&hanging, &dead] {
        let config = hook.kubeconfig("/authorize");
        for (policy, allowed) in [("NoOpinion", true), ("Deny", false)] {
            let text = structured(&config, &format!(r#""timeout": "50ms", "failurePolicy": "{policy}""#));
            let judge = judge(from_file(&text).await.expect("a chain").0);
            let decision = ask(&judge, &ann(), "pods").await;
            assert_eq!(decision.is_allowed(), allowed, "{policy}");
            assert_eq!(matches!(decision, Decision::Deny { .. }), !allowed);
        }
    }
}

#[tokio::test]
async fn a_webhook_that_denies_is_not_overruled() {
    let hook = saying(json!({"allowed": false, "denied": true, "reason": "no"})).await;
    let config = hook.kubeconfig("/authorize");
    let text = structured(&config, r#""timeout": "3s", "failurePolicy": "NoOpinion""#);
    let judge = judge(from_file(&text).await.expect("a chain").0);
    assert_eq!(ask(&judge, &ann(), "pods").await, Decision::Deny { reason: "no".to_owned() });
    let master = UserInfo::authenticated("root", ["system:masters"]);
    assert!(ask(&judge, &master, "pods").await.is_allowed());
}

#[tokio::test]
async fn conditions_say_what_is_asked() {
    let hook = saying(json!({"allowed": false, "denied": true})).await;
    let config = hook.kubeconfig("/authorize");
    let with = |condition: &str, policy: &str| {
        structured(
            &config,
            &format!(
                r#""timeout": "3s", "failurePolicy": "{policy}", "matchConditionSubjectAccessReviewVersion": "v1",
                "matchConditions": [{{"expression": {condition:?}}}]"#
            ),
        )
    };
    let meant = "has(request.resourceAttributes) && request.resourceAttributes.resource == 'secrets' && 'dev' in request.groups";
    let judged = judge(from_file(&with(meant, "Deny")).await.expect("a chain").0);
    assert!(ask(&judged, &ann(), "pods").await.is_allowed());
    let path = judged.authorize(&Attributes::path(&ann(), "get", "/version")).await;
    assert!(path.is_allowed() && hook.count() == 0, "{path:?}");
    assert!(!ask(&judged, &ann(), "secrets").await.is_allowed());
    assert_eq!(hook.count(), 1);
    // Fails when it is run: there is no such key.
    let broken = "request.extra['none'][0] == 'x'";
    for (policy, allowed) in [("NoOpinion", true), ("Deny", false)] {
        let judge = judge(from_file(&with(broken, policy)).await.expect("a chain").0);
        assert_eq!(ask(&judge, &ann(), "pods").await.is_allowed(), allowed);
    }
    assert_eq!(hook.count(), 1);
}

#[tokio::test]
async fn files_that_make_no_sense_name_the_field() {
    let hook = saying(json!({"allowed": true})).await;
    let config = hook.kubeconfig("/authorize");
    let fine = r#""timeout": "3s", "failurePolicy": "Deny""#;
    for (text, why) in [
        (structured(&config, r#""failurePolicy": "Deny""#), "authorizers[0].webhook.timeout: is missing"),
        (
            structured(&config, r#""timeout": "31s", "failurePolicy": "Deny""#),
            "webhook.timeout: must be at most 30s",
        ),
        (
            structured(&config, r#""timeout": "soon", "failurePolicy": "Deny""#),
            "webhook.timeout: is \"soon\"",
        ),
        (structured(&config, r#""timeout": "3s""#), "webhook.failurePolicy: is \"\""),
        (structured(&config, &format!("{fine}, \"wrong\": 1")), "wrong"),
        (
            structured(
                &config,
                &format!(
                    r#"{fine}, "matchConditionSubjectAccessReviewVersion": "v1", "matchConditions": [{{"expression": "request.usr == ''"}}]"#
                ),
            ),
            "authorizers[0].webhook.matchConditions[0].expression: is no expression that can be used",
        ),
        (
            structured(&config, fine).replace("AlwaysAllow", "Often"),
            "authorizers[1].type: \"Often\" is no mode",
        ),
        (structured(&config, fine).replace("\"all\"", "\"hook\""), "authorizers[1].name: is \"hook\""),
        (structured(&config, fine).replace("KubeConfigFile\"", "InClusterConfig\""), "connectionInfo.type"),
    ] {
        let error = from_file(&text).await.expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_file_that_changes_counts_and_one_that_is_wrong_does_not() {
    let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n";
    let (chain, file) = from_file(&format!("{head}- {{type: AlwaysAllow, name: a}}")).await.expect("a chain");
    let judge = judge(chain);
    let allowed = async || ask(&judge, &ann(), "pods").await.is_allowed();
    assert!(allowed().await);
    std::fs::write(file.path(), format!("{head}- {{type: AlwaysDeny, name: a}}")).unwrap();
    until("nothing is allowed", async || !allowed().await).await;
    std::fs::write(file.path(), "nonsense").unwrap();
    std::fs::write(file.path(), format!("{head}- {{type: AlwaysAllow, name: a}}")).unwrap();
    until("all is allowed", allowed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_cannot_wait_is_answered_as_well() {
    let hook = saying(json!({"allowed": true})).await;
    let (judge, _config) = hooked(&hook).await;
    let user = ann();
    assert!(judge.authorize_here(&Attributes::resource(&user, "get", "", "pods")).is_allowed());
    assert_eq!(hook.count(), 1);
}
