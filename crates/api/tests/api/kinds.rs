//! What is served, and with which verbs.

use serde_json::json;

use crate::support::Desk;

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_go_one_at_a_time() {
    let desk = Desk::new().await;
    let message = desk.call("DELETE", "/api/v1/namespaces", None).await.refused(405);
    assert_eq!(message, "the server does not allow this method on the requested resource");
    desk.call("GET", "/api/v1/namespaces/default", None).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_asked_about_itself() {
    let desk = Desk::new().await;
    let group = "/apis/authorization.k8s.io/v1";
    let path = format!("{group}/namespaces/demo/localsubjectaccessreviews");
    let ask = |user: &str, namespace: &str| {
        let asked = json!({"verb": "get", "resource": "pods", "namespace": namespace});
        let mut spec = json!({"resourceAttributes": asked});
        spec[if user == "system:masters" { "groups" } else { "user" }] =
            if user == "system:masters" { json!([user]) } else { json!(user) };
        desk.call("POST", &path, Some(json!({"spec": spec})))
    };
    assert_eq!(ask("system:masters", "demo").await.expect(201)["status"]["allowed"], true);
    assert_eq!(ask("nobody", "demo").await.expect(201)["status"]["allowed"], false);
    let message = ask("nobody", "other").await.refused(422);
    assert!(
        message.contains("spec.resourceAttributes.namespace: Invalid value: \"other\": must match"),
        "{message}"
    );
    let everywhere =
        json!({"spec": {"user": "x", "resourceAttributes": {"verb": "get", "resource": "pods"}}});
    desk.call("POST", &format!("{group}/localsubjectaccessreviews"), Some(everywhere)).await.refused(404);
    let served = desk.call("GET", group, None).await.expect(200);
    let all = served["resources"].as_array().cloned().unwrap_or_default();
    let entry = all.iter().find(|each| each["name"] == "localsubjectaccessreviews").expect("it is served");
    assert_eq!(entry["namespaced"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_may_name_its_pod() {
    let desk = Desk::new().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    desk.call("POST", "/api/v1/namespaces/default/pods", Some(pod)).await.expect(201);
    let bindings = "/api/v1/namespaces/default/bindings";
    let binding = |name: &str| json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
    desk.call("POST", bindings, Some(binding(""))).await.refused(400);
    desk.call("POST", bindings, Some(binding("p"))).await.expect(201);
    let pod = desk.call("GET", "/api/v1/namespaces/default/pods/p", None).await.expect(200);
    assert_eq!(pod["spec"]["nodeName"], "n1");
    desk.call("GET", bindings, None).await.refused(405);
}
