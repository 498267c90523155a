//! Every verb, and what it refuses.

use serde_json::{Value, json};

use crate::support::{Desk, nobody};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "busybox"}]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_made_read_changed_and_deleted() {
    let desk = Desk::new().await;
    let made = desk.call("POST", MAPS, Some(map("a"))).await.expect(201);
    let (uid, revision) = (made["metadata"]["uid"].clone(), made["metadata"]["resourceVersion"].clone());
    assert!(uid.is_string() && revision.is_string() && made["metadata"]["creationTimestamp"].is_string());
    assert_eq!(made["metadata"]["namespace"], "default");
    assert!(desk.call("POST", MAPS, Some(map("a"))).await.refused(409).contains("already exists"));

    let path = format!("{MAPS}/a");
    let read = desk.call("GET", &path, None).await.expect(200);
    assert_eq!(read, made);

    let mut changed = read.clone();
    changed["data"]["a"] = json!("2");
    let after = desk.call("PUT", &path, Some(changed.clone())).await.expect(200);
    assert_eq!((&after["data"]["a"], &after["metadata"]["uid"]), (&json!("2"), &uid));
    assert_ne!(after["metadata"]["resourceVersion"], revision);
    // The same body again carries the old revision.
    let message = desk.call("PUT", &path, Some(changed.clone())).await.refused(409);
    assert!(message.contains("the object has been modified"), "{message}");
    // Without a revision it is unconditional; nothing changes, so no revision is taken.
    changed["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    let same = desk.call("PUT", &path, Some(changed)).await.expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], after["metadata"]["resourceVersion"]);

    let gone = desk.call("DELETE", &path, None).await.expect(200);
    assert_eq!(
        (&gone["kind"], &gone["status"], &gone["details"]["uid"]),
        (&json!("Status"), &json!("Success"), &uid)
    );
    assert_eq!(desk.call("GET", &path, None).await.refused(404), "configmaps \"a\" not found");
    desk.call("DELETE", &path, None).await.refused(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_every_kind() {
    let desk = Desk::new().await;
    desk.call("POST", MAPS, Some(map("a"))).await.expect(201);
    let path = format!("{MAPS}/a");
    let merged = desk.patch("merge-patch+json", &path, r#"{"data":{"a":null,"b":"2"}}"#).await.expect(200);
    assert_eq!(merged["data"], json!({"b": "2"}));
    let body = r#"[{"op":"test","path":"/data/b","value":"2"},{"op":"add","path":"/data/c","value":"3"}]"#;
    assert_eq!(desk.patch("json-patch+json", &path, body).await.expect(200)["data"]["c"], "3");
    let body = r#"[{"op":"test","path":"/data/b","value":"x"}]"#;
    desk.patch("json-patch+json", &path, body).await.refused(422);
    desk.patch("strange+json", &path, "{}").await.refused(415);
    desk.patch("merge-patch+json", &path, "{").await.refused(400);
    let stale = r#"{"metadata":{"resourceVersion":"1"},"data":{"z":"1"}}"#;
    desk.patch("merge-patch+json", &path, stale).await.refused(409);

    let pods = "/api/v1/namespaces/default/pods";
    desk.call("POST", pods, Some(pod("p"))).await.expect(201);
    let body = r#"{"metadata":{"labels":{"x":"y"}},"spec":{"containers":[{"name":"c","image":"other"}]}}"#;
    let patched = desk.patch("strategic-merge-patch+json", &format!("{pods}/p"), body).await.expect(200);
    let containers = patched["spec"]["containers"].as_array().expect("containers");
    assert_eq!((containers.len(), &containers[0]["image"]), (1, &json!("other")));
    assert_eq!(patched["metadata"]["labels"]["x"], "y");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_makes_owns_and_conflicts() {
    let desk = Desk::new().await;
    let path = |manager: &str| format!("{MAPS}/a?fieldManager={manager}");
    let body = |value: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": value}})
            .to_string()
    };
    let made = desk.patch("apply-patch+yaml", &path("one"), body("1")).await.expect(201);
    assert_eq!(made["metadata"]["managedFields"][0]["manager"], "one");
    assert_eq!(made["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = desk.patch("apply-patch+yaml", &path("one"), body("1")).await.expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    let message = desk.patch("apply-patch+yaml", &path("two"), body("2")).await.refused(409);
    assert!(message.contains("conflict"), "{message}");
    let forced =
        desk.patch("apply-patch+yaml", &format!("{}&force=true", path("two")), body("2")).await.expect(200);
    assert_eq!(forced["data"]["k"], "2");
    desk.patch("apply-patch+yaml", &format!("{MAPS}/a"), body("3")).await.refused(422);
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_names_dry_runs_and_preconditions() {
    let desk = Desk::new().await;
    let generated = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-"}});
    let one = desk.call("POST", MAPS, Some(generated.clone())).await.expect(201);
    let two = desk.call("POST", MAPS, Some(generated)).await.expect(201);
    assert_ne!(one["metadata"]["name"], two["metadata"]["name"]);
    assert!(one["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("x-") && n.len() == 7));

    desk.call("POST", &format!("{MAPS}?dryRun=All"), Some(map("dry"))).await.expect(201);
    desk.call("GET", &format!("{MAPS}/dry"), None).await.refused(404);
    desk.call("POST", &format!("{MAPS}?dryRun=Some"), Some(map("dry"))).await.refused(422);
    desk.call("POST", MAPS, Some(map("a"))).await.expect(201);
    desk.patch("merge-patch+json", &format!("{MAPS}/a?dryRun=All"), r#"{"data":{"a":"9"}}"#)
        .await
        .expect(200);
    desk.call("DELETE", &format!("{MAPS}/a?dryRun=All"), None).await.expect(200);
    assert_eq!(desk.call("GET", &format!("{MAPS}/a"), None).await.expect(200)["data"]["a"], "1");

    let wrong = json!({"preconditions": {"uid": "11111111-2222-3333-4444-555555555555"}});
    desk.call("DELETE", &format!("{MAPS}/a"), Some(wrong)).await.refused(409);
    let wrong = json!({"preconditions": {"resourceVersion": "1"}});
    desk.call("DELETE", &format!("{MAPS}/a"), Some(wrong)).await.refused(409);
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_hold_and_propagation_sets_them() {
    let desk = Desk::new().await;
    let mut held = map("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    desk.call("POST", MAPS, Some(held)).await.expect(201);
    let path = format!("{MAPS}/held");
    let marked = desk.call("DELETE", &path, None).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    // A client can't take the mark back.
    let body = r#"{"metadata":{"deletionTimestamp":null}}"#;
    let still = desk.patch("merge-patch+json", &path, body).await.expect(200);
    assert!(still["metadata"]["deletionTimestamp"].is_string());
    desk.patch("merge-patch+json", &path, r#"{"metadata":{"finalizers":null}}"#).await.expect(200);
    desk.call("GET", &path, None).await.refused(404);

    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        desk.call("POST", MAPS, Some(map("owner"))).await.expect(201);
        let path = format!("{MAPS}/owner");
        let marked =
            desk.call("DELETE", &format!("{path}?propagationPolicy={policy}"), None).await.expect(200);
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        desk.patch("merge-patch+json", &path, r#"{"metadata":{"finalizers":[]}}"#).await.expect(200);
        desk.call("GET", &path, None).await.refused(404);
    }
    desk.call("DELETE", &format!("{MAPS}/x?propagationPolicy=Odd"), None).await.refused(422);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_bound_once_and_go_with_grace() {
    let desk = Desk::new().await;
    let pods = "/api/v1/namespaces/default/pods";
    desk.call("POST", pods, Some(pod("p"))).await.expect(201);
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    desk.call("POST", &format!("{pods}/p/binding"), Some(binding.clone())).await.expect(201);
    desk.call("POST", &format!("{pods}/p/binding"), Some(binding)).await.refused(409);
    let bound = desk.call("GET", &format!("{pods}/p"), None).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert!(
        bound["status"]["conditions"]
            .as_array()
            .is_some_and(|c| c.iter().any(|c| c["type"] == "PodScheduled"))
    );

    let marked = desk.call("DELETE", &format!("{pods}/p"), None).await.expect(200);
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = desk.call("DELETE", &format!("{pods}/p?gracePeriodSeconds=5"), None).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    // The agent's word that it is gone.
    desk.call("DELETE", &format!("{pods}/p?gracePeriodSeconds=0"), None).await.expect(200);
    desk.call("GET", &format!("{pods}/p"), None).await.refused(404);
    // One that was never placed goes at once.
    desk.call("POST", pods, Some(pod("q"))).await.expect(201);
    desk.call("DELETE", &format!("{pods}/q"), None).await.expect(200);
    desk.call("GET", &format!("{pods}/q"), None).await.refused(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_scale_and_generation() {
    let desk = Desk::new().await;
    let all = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}},
        "status": {"replicas": 9}});
    let made = desk.call("POST", all, Some(deployment)).await.expect(201);
    assert_eq!(made["metadata"]["generation"], 1);
    assert_ne!(made["status"]["replicas"], 9, "a status comes from the status subresource alone");
    let path = format!("{all}/d");
    let body = r#"{"status":{"replicas":2},"spec":{"replicas":7}}"#;
    let status = desk.patch("merge-patch+json", &format!("{path}/status"), body).await.expect(200);
    assert_eq!((&status["status"]["replicas"], &status["spec"]["replicas"]), (&json!(2), &json!(2)));
    assert_eq!(status["metadata"]["generation"], 1);
    let scale = desk.call("GET", &format!("{path}/scale"), None).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(2)));
    let scaled = desk
        .patch("merge-patch+json", &format!("{path}/scale"), r#"{"spec":{"replicas":5}}"#)
        .await
        .expect(200);
    assert_eq!(scaled["spec"]["replicas"], 5);
    let now = desk.call("GET", &path, None).await.expect(200);
    assert_eq!((&now["spec"]["replicas"], &now["metadata"]["generation"]), (&json!(5), &json!(2)));
    assert_eq!(now["status"]["replicas"], 2);
    desk.patch("merge-patch+json", &format!("{path}/scale"), r#"{"spec":{"replicas":-1}}"#)
        .await
        .refused(422);
    desk.call("GET", &format!("{MAPS}/x/scale"), None).await.refused(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_go_by_selector() {
    let desk = Desk::new().await;
    for (name, label) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = map(name);
        object["metadata"]["labels"] = json!({"l": label});
        desk.call("POST", MAPS, Some(object)).await.expect(201);
    }
    let gone = desk.call("DELETE", &format!("{MAPS}?labelSelector=l%3Dx"), None).await.expect(200);
    assert_eq!(gone["items"].as_array().map(Vec::len), Some(2));
    let left = desk.call("GET", MAPS, None).await.expect(200);
    assert_eq!(left["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_so() {
    let desk = Desk::new().await;
    let refused = desk.send(nobody(), "GET", "/api/v1/namespaces/demo/pods", "", &[], String::new()).await;
    let message = refused.refused(403);
    let wanted = r#"pods is forbidden: User "nobody" cannot list resource "pods" in API group "" in the namespace "demo""#;
    assert!(message.starts_with(wanted), "{message}");
    let message = desk.send(None, "GET", "/api/v1/nodes", "", &[], String::new()).await.refused(403);
    let wanted = r#"nodes is forbidden: User "system:anonymous" cannot list resource "nodes" in API group "" at the cluster scope"#;
    assert_eq!(message, wanted);
    let forged = [("authorization", "Bearer not.a.token")];
    desk.send(None, "GET", "/api/v1/nodes", "", &forged, String::new()).await.refused(401);
    // Anyone may ask whether the server is well.
    assert_eq!(desk.send(None, "GET", "/readyz", "", &[], String::new()).await.text, "ok");
    desk.send(nobody(), "GET", "/yunfan/v1/backup", "", &[], String::new()).await.refused(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gives_away_what_they_do_not_have() {
    let desk = Desk::new().await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"},
        "rules": [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"], "verbs": ["create", "get"]}]});
    desk.call("POST", &format!("{rbac}/namespaces/default/roles"), Some(role)).await.expect(201);
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nobody"}]});
    desk.call("POST", &format!("{rbac}/namespaces/default/rolebindings"), Some(binding)).await.expect(201);
    // The binding counts from its own answer on.
    let path = format!("{rbac}/namespaces/default/roles");
    let role = |verbs: Value, resource: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"generateName": "n-"},
            "rules": [{"apiGroups": ["rbac.authorization.k8s.io"], "resources": [resource], "verbs": verbs}]})
        .to_string()
    };
    let ask = |body| desk.send(nobody(), "POST", &path, "application/json", &[], body);
    ask(role(json!(["get"]), "roles")).await.expect(201);
    ask(role(json!(["delete"]), "roles")).await.refused(403);
}
