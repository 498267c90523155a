//! LimitRanges: what containers are given, and what is refused.

use serde_json::{Value, json};

use crate::support::Desk;

const SPACE: &str = "/api/v1/namespaces/default";

fn range(limits: Value) -> Option<Value> {
    Some(
        json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"}, "spec": {"limits": limits}}),
    )
}

fn pod(name: &str, resources: Value) -> Option<Value> {
    let container = json!({"name": "c", "image": "i:1", "resources": resources});
    Some(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container]}}),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_get_defaults_and_keep_to_limits() {
    let desk = Desk::new().await;
    let limits = json!([{"type": "Container", "max": {"cpu": "1"}, "default": {"memory": "64Mi"}}]);
    desk.call("POST", &format!("{SPACE}/limitranges"), range(limits)).await.expect(201);
    let pods = format!("{SPACE}/pods");
    let made = desk.call("POST", &pods, pod("a", json!({}))).await.expect(201);
    let amounts = json!({"cpu": "1", "memory": "64Mi"});
    assert_eq!(made["spec"]["containers"][0]["resources"], json!({"limits": amounts, "requests": amounts}));
    assert_eq!(made["status"]["qosClass"], "Guaranteed");
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for container c"
    );
    let refused = desk.call("POST", &pods, pod("b", json!({"limits": {"cpu": "2"}}))).await.refused(403);
    assert_eq!(refused, r#"pods "b" is forbidden: maximum cpu usage per Container is 1, but limit is 2"#);
    let both = json!({"limits": {"cpu": "2"}, "requests": {"cpu": "2"}});
    let pod_too = json!([{"type": "Pod", "min": {"cpu": "3"}}, {"type": "Container", "max": {"cpu": "1"}}]);
    let change = json!({"spec": {"limits": pod_too}}).to_string();
    desk.patch("merge-patch+json", &format!("{SPACE}/limitranges/l"), change).await.expect(200);
    let refused = desk.call("POST", &pods, pod("b", both)).await.refused(403);
    assert_eq!(
        refused,
        r#"pods "b" is forbidden: [maximum cpu usage per Container is 1, but limit is 2, minimum cpu usage per Pod is 3, but request is 2]"#
    );
    // What is there stays, and may change in other ways.
    let label = r#"{"metadata":{"labels":{"a":"b"}}}"#;
    desk.patch("merge-patch+json", &format!("{pods}/a"), label).await.expect(200);
    let grown = json!({"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}, "requests": {"cpu": "2"}}}]}});
    let kind = "strategic-merge-patch+json";
    let refused = desk.patch(kind, &format!("{pods}/a/resize"), grown.to_string()).await.refused(403);
    assert!(refused.contains("maximum cpu usage per Container is 1, but limit is 2"), "{refused}");
    desk.call("DELETE", &format!("{pods}/a"), None).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_keep_to_limits() {
    let desk = Desk::new().await;
    let limits =
        json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]);
    desk.call("POST", &format!("{SPACE}/limitranges"), range(limits)).await.expect(201);
    let claim = |name: &str, size: &str| {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}});
        Some(json!({"metadata": {"name": name}, "spec": spec}))
    };
    let claims = format!("{SPACE}/persistentvolumeclaims");
    desk.call("POST", &claims, claim("a", "1Gi")).await.expect(201);
    let refused = desk.call("POST", &claims, claim("b", "3Gi")).await.refused(403);
    assert_eq!(
        refused,
        r#"persistentvolumeclaims "b" is forbidden: maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"#
    );
}
