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
    let nothing =
        desk.call("POST", &format!("{group}/subjectaccessreviews"), Some(json!({"spec": {}}))).await;
    let message = nothing.refused(422);
    assert!(message.contains("exactly one of nonResourceAttributes or resourceAttributes"), "{message}");
    assert!(message.contains("spec.user: Invalid value: \"\": at least one of user or group"), "{message}");
    let everywhere =
        json!({"spec": {"user": "x", "resourceAttributes": {"verb": "get", "resource": "pods"}}});
    desk.call("POST", &format!("{group}/localsubjectaccessreviews"), Some(everywhere)).await.refused(404);
    // A binding to a role that is not there is told, but allows nothing more.
    let binding = json!({"metadata": {"name": "b"}, "subjects": [{"kind": "Group", "name": "system:masters", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "Role", "name": "gone", "apiGroup": "rbac.authorization.k8s.io"}});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    desk.call("POST", bindings, Some(binding)).await.expect(201);
    let asked = json!({"spec": {"namespace": "default"}});
    let rules = desk.call("POST", &format!("{group}/selfsubjectrulesreviews"), Some(asked)).await.expect(201);
    assert_eq!(rules["status"]["incomplete"], false);
    let why = "role.rbac.authorization.k8s.io \"gone\" not found";
    assert_eq!(rules["status"]["evaluationError"], why);
    // A question has no name, and what can't be read of it is told.
    let one = |metadata: serde_json::Value, raw: &str| {
        let asked = json!({"verb": "list", "resource": "pods", "labelSelector": {"rawSelector": raw}});
        json!({"metadata": metadata, "spec": {"user": "x", "resourceAttributes": asked}})
    };
    let path = format!("{group}/subjectaccessreviews");
    let message = desk.call("POST", &path, Some(one(json!({"name": "x"}), "a=b"))).await.refused(422);
    assert!(
        message.contains("metadata: Invalid value: {") && message.ends_with("}: must be empty"),
        "{message}"
    );
    let good = one(json!({"creationTimestamp": null}), "a=b");
    let good = desk.call("POST", &path, Some(good)).await.expect(201);
    assert!(good["status"].get("evaluationError").is_none());
    let odd = desk.call("POST", &path, Some(one(json!({}), "a in ("))).await.expect(201);
    let why = "spec.resourceAttributes.labelSelector ignored due to parse error";
    assert_eq!(odd["status"]["evaluationError"], why);
    let served = desk.call("GET", group, None).await;
    assert_eq!(served.headers["cache-control"], "no-cache, private");
    let served = served.expect(200);
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
    // What its maker wishes is as it was.
    assert_eq!(pod["metadata"]["generation"], 1);
    desk.call("GET", bindings, None).await.refused(405);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_store_tells_how_it_is() {
    let desk = Desk::new().await;
    let path = "/api/v1/componentstatuses";
    let listed = desk.call("GET", path, None).await;
    assert!(
        listed.headers["warning"].to_str().is_ok_and(|text| text.contains("ComponentStatus is deprecated"))
    );
    let listed = listed.expect(200);
    assert_eq!(listed["kind"], "ComponentStatusList");
    let healthy = json!([{"type": "Healthy", "status": "True", "message": "ok"}]);
    assert_eq!(listed["items"][0]["conditions"], healthy);
    assert_eq!(listed["items"][0]["metadata"], json!({"name": "etcd-0"}));
    let table = desk.get_as(path, "application/json;as=Table;v=v1;g=meta.k8s.io").await.expect(200);
    assert_eq!(table["rows"][0]["cells"], json!(["etcd-0", "Healthy", "ok", ""]));
    desk.call("GET", &format!("{path}/etcd-0"), None).await.expect(200);
    desk.call("GET", &format!("{path}/etcd-1"), None).await.refused(404);
    desk.call("DELETE", &format!("{path}/etcd-0"), None).await.refused(405);
    let none = desk.call("GET", &format!("{path}?fieldSelector=metadata.name%3Dx"), None).await.expect(200);
    assert_eq!(none["items"], json!([]));
}
