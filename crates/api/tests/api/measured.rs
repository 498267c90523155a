//! What nodes and Pods use: made of what a node's agent says; here the agent is a server that says what it is told to.

use std::sync::{Arc, Mutex};

use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::streams::node_with;
use crate::support::Desk;

const METRICS: &str = "/apis/metrics.k8s.io/v1beta1";

fn container(name: &str, nano_cores: Value) -> Value {
    json!({"name": name, "memory": {"workingSetBytes": 3 << 20},
        "cpu": {"time": "2026-01-01T00:00:20Z", "usageNanoCores": nano_cores, "windowSeconds": 10}})
}

/// A cloud with a Pod that runs on a node, and what that node says.
async fn measured() -> (Desk, Arc<Mutex<Value>>, String) {
    let desk = Desk::new().await;
    let said = Arc::new(Mutex::new(json!(null)));
    let says = said.clone();
    let answer = move || {
        let says = says.clone();
        async move { Json(says.lock().expect("a value").clone()) }
    };
    node_with(&desk, Router::new().route("/stats/summary", get(answer))).await;
    let pod = desk.call("GET", "/api/v1/namespaces/default/pods/p", None).await.expect(200);
    let uid = pod["metadata"]["uid"].as_str().expect("a uid").to_owned();
    (desk, said, uid)
}

fn summary(uid: &str, second: Value) -> Value {
    json!({"node": {"nodeName": "n1", "memory": {"workingSetBytes": 5_u64 << 30},
            "cpu": {"time": "2026-01-01T00:00:20Z", "usageNanoCores": 1_250_000_000, "windowSeconds": 10.017}},
        "pods": [{"podRef": {"name": "p", "namespace": "default", "uid": uid},
            "containers": [container("a", json!(1500)), container("b", second)]}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_tell_what_they_and_their_pods_use() {
    let (desk, said, uid) = measured().await;
    let running = json!({"metadata": {"labels": {"app": "x"}}}).to_string();
    desk.patch("merge-patch+json", "/api/v1/namespaces/default/pods/p", running).await.expect(200);
    *said.lock().expect("a value") = summary(&uid, json!(2_000_000));
    let one = format!("{METRICS}/namespaces/default/pods/p");
    assert_eq!(desk.call("GET", &one, None).await.refused(404), "pods \"p\" not found", "it does not run");
    let status = json!({"status": {"phase": "Running"}}).to_string();
    desk.patch("merge-patch+json", "/api/v1/namespaces/default/pods/p/status", status).await.expect(200);
    let pod = desk.call("GET", &one, None).await.expect(200);
    assert_eq!(
        (&pod["kind"], &pod["timestamp"], &pod["window"]),
        (&json!("PodMetrics"), &json!("2026-01-01T00:00:20Z"), &json!("10s"))
    );
    assert_eq!(pod["metadata"]["labels"], json!({"app": "x"}));
    assert_eq!(
        pod["containers"],
        json!([
        {"name": "a", "usage": {"cpu": "1500n", "memory": "3Mi"}}, {"name": "b", "usage": {"cpu": "2m", "memory": "3Mi"}}])
    );
    let node = desk.call("GET", &format!("{METRICS}/nodes/n1"), None).await.expect(200);
    assert_eq!(
        (&node["usage"], &node["window"]),
        (&json!({"cpu": "1250m", "memory": "5Gi"}), &json!("10.017s"))
    );
    for (query, found) in [("", 1), ("?labelSelector=app%3Dx", 1), ("?labelSelector=app%3Dy", 0)] {
        let list = desk.call("GET", &format!("{METRICS}/pods{query}"), None).await.expect(200);
        assert_eq!(
            (list["kind"].as_str(), list["items"].as_array().map(Vec::len)),
            (Some("PodMetricsList"), Some(found)),
            "{query}"
        );
    }
    let table = desk
        .get_as(&format!("{METRICS}/pods"), "application/json;as=Table;v=v1;g=meta.k8s.io")
        .await
        .expect(200);
    assert_eq!(table["rows"][0]["cells"], json!(["p", "2001500n", "6Mi", "10s"]));
    // Who can read protobuf gets JSON all the same: there is no other form.
    let accept = "application/vnd.kubernetes.protobuf, application/json";
    assert_eq!(desk.get_as(&one, accept).await.expect(200)["kind"], "PodMetrics");
    let known = desk.call("GET", METRICS, None).await.expect(200);
    assert_eq!(known["resources"][1]["name"], "pods");
    assert_eq!(known["resources"][1]["verbs"], json!(["get", "list"]));
    desk.call("DELETE", &one, None).await.refused(405);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_known_is_left_out() {
    let (desk, said, uid) = measured().await;
    let status = json!({"status": {"phase": "Running"}}).to_string();
    desk.patch("merge-patch+json", "/api/v1/namespaces/default/pods/p/status", status).await.expect(200);
    let one = format!("{METRICS}/namespaces/default/pods/p");
    let none = "pods.metrics.k8s.io \"default/p\" not found";
    // One of its containers was seen once alone; then the node says nonsense; then it speaks of an earlier Pod of this name.
    for answer in [summary(&uid, json!(null)), json!([]), summary("other", json!(1))] {
        *said.lock().expect("a value") = answer;
        assert_eq!(desk.call("GET", &one, None).await.refused(404), none);
        assert_eq!(desk.call("GET", &format!("{METRICS}/pods"), None).await.expect(200)["items"], json!([]));
    }
    *said.lock().expect("a value") = json!(null);
    let node = format!("{METRICS}/nodes/n1");
    assert_eq!(desk.call("GET", &node, None).await.refused(404), "nodes.metrics.k8s.io \"n1\" not found");
    assert_eq!(
        desk.call("GET", &format!("{METRICS}/nodes/n2"), None).await.refused(404),
        "nodes \"n2\" not found"
    );
}
