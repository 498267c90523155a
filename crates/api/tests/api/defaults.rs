//! The roles and bindings that each cloud starts with, when it starts again.

use serde_json::{Value, json};

use crate::support::Desk;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn get(desk: &Desk, path: &str) -> Value {
    desk.call("GET", &format!("{RBAC}/{path}"), None).await.expect(200)
}

async fn put(desk: &Desk, path: &str, object: &Value) {
    desk.call("PUT", &format!("{RBAC}/{path}"), Some(object.clone())).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_adds_what_is_missing_and_takes_nothing() {
    let desk = Desk::new().await;
    let extra = json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]});
    // Extended, and cut.
    let mut role = get(&desk, "clusterroles/system:basic-user").await;
    let shipped = role["rules"].clone();
    role["rules"] = json!([extra]);
    role["metadata"]["labels"] = json!({"own": "label", "kubernetes.io/bootstrapping": "changed"});
    put(&desk, "clusterroles/system:basic-user", &role).await;
    let friend = json!({"kind": "User", "name": "system:anonymous", "apiGroup": "rbac.authorization.k8s.io"});
    let mut binding = get(&desk, "clusterrolebindings/system:basic-user").await;
    let bound = binding["subjects"].clone();
    binding["subjects"] = json!([friend]);
    put(&desk, "clusterrolebindings/system:basic-user", &binding).await;
    // To be left alone.
    for kind in ["clusterroles", "clusterrolebindings"] {
        let mut object = get(&desk, &format!("{kind}/system:discovery")).await;
        object["metadata"]["annotations"]["rbac.authorization.kubernetes.io/autoupdate"] = json!("false");
        for part in ["rules", "subjects"] {
            if object.get(part).is_some() {
                object[part] = json!([]);
            }
        }
        put(&desk, &format!("{kind}/system:discovery"), &object).await;
    }
    // Gone, and leading elsewhere.
    let gone = "clusterroles/system:public-info-viewer";
    desk.call("DELETE", &format!("{RBAC}/{gone}"), None).await.expect(200);
    let path = "clusterrolebindings/system:public-info-viewer";
    let mut other = get(&desk, path).await;
    let right = other["roleRef"].clone();
    desk.call("DELETE", &format!("{RBAC}/{path}"), None).await.expect(200);
    other["roleRef"]["name"] = json!("view");
    other["metadata"] = json!({"name": "system:public-info-viewer"});
    desk.call("POST", &format!("{RBAC}/clusterrolebindings"), Some(other)).await.expect(201);

    let desk = desk.again().await;
    let role = get(&desk, "clusterroles/system:basic-user").await;
    let wanted: Vec<Value> = [vec![extra], shipped.as_array().cloned().expect("rules")].concat();
    assert_eq!(role["rules"], json!(wanted));
    let labels = json!({"own": "label", "kubernetes.io/bootstrapping": "changed"});
    assert_eq!(role["metadata"]["labels"], labels);
    let binding = get(&desk, "clusterrolebindings/system:basic-user").await;
    let wanted: Vec<Value> = [vec![friend], bound.as_array().cloned().expect("subjects")].concat();
    assert_eq!(binding["subjects"], json!(wanted));
    for (kind, part) in [("clusterroles", "rules"), ("clusterrolebindings", "subjects")] {
        let object = get(&desk, &format!("{kind}/system:discovery")).await;
        assert!(object[part].as_array().is_none_or(Vec::is_empty), "{object}");
    }
    get(&desk, gone).await;
    assert_eq!(get(&desk, path).await["roleRef"], right);
    // That was all: the next start finds nothing to do.
    let desk = desk.again().await;
    let later = get(&desk, "clusterroles/system:basic-user").await;
    assert_eq!(later["metadata"]["resourceVersion"], role["metadata"]["resourceVersion"]);
}
