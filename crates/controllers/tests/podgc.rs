//! Pods that nobody else clears away.

mod support;

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use support::{Cloud, EXIT, SPACE, start};
use yunfan_client::{Informers, Recorder, Writer};
use yunfan_controllers::podgc::{Settings, run_with};

fn pod(name: &str, node: &str) -> Value {
    // The finalizer keeps it, so that what is said of it can be read.
    json!({"metadata": {"name": name, "finalizers": ["example.org/keep"]},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "i"}]}})
}

async fn collect(cloud: &Cloud, settings: Settings) -> tokio::task::JoinHandle<()> {
    let client = cloud.client_as("system:yunfan:controllers", &["system:masters"]);
    let context = yunfan_controllers::Context {
        informers: Informers::new(client.clone()),
        writer: Writer::new(client.clone(), "podgc"),
        recorder: Recorder::new(client, "podgc", None),
        config: cloud.config(),
    };
    tokio::spawn(run_with(context, settings))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_node_that_is_gone_fail_and_go() {
    let cloud = start(&["there", "gone"]).await;
    for (name, node) in [("left", "gone"), ("stays", "there")] {
        cloud.create::<Pod>(pod(name, node)).await;
        cloud.until::<Pod>(name, |pod| pod["status"]["phase"] == "Running").await;
    }
    let nodes: Api<Node> = Api::all(cloud.client.clone());
    nodes.delete("gone", &DeleteParams::default()).await.expect("a node that goes");
    let quick = Duration::from_millis(100);
    let collecting = collect(&cloud, Settings { period: quick, quarantine: quick * 3, most_ended: 10 }).await;
    let left = cloud.until::<Pod>("left", |pod| !pod["metadata"]["deletionTimestamp"].is_null()).await;
    assert_eq!(left["status"]["phase"], "Failed", "{left:#}");
    let conditions = left["status"]["conditions"].as_array().expect("conditions");
    let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget");
    let said = target.map(|condition| (&condition["status"], &condition["reason"], &condition["message"]));
    let expected = (&json!("True"), &json!("DeletionByPodGC"), &json!("PodGC: node no longer exists"));
    assert_eq!(said, Some(expected));
    cloud.patch::<Pod>("left", json!({"metadata": {"finalizers": null}})).await;
    cloud.until_gone::<Pod>("left").await;
    collecting.abort();
    let stays = cloud.of::<Pod>().get("stays").await.expect("it stays");
    assert_eq!((stays.metadata.deletion_timestamp, SPACE), (None, "work"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_too_many_ended_pods_the_oldest_go() {
    let cloud = start(&["there"]).await;
    for name in ["a", "b", "c"] {
        let mut object = pod(name, "there");
        object["metadata"]["finalizers"] = Value::Null;
        object["metadata"]["annotations"] = json!({EXIT: "0"});
        cloud.create::<Pod>(object).await;
        cloud.until::<Pod>(name, |pod| pod["status"]["phase"] == "Succeeded").await;
    }
    let quick = Duration::from_millis(100);
    let collecting = collect(&cloud, Settings { period: quick, quarantine: quick, most_ended: 1 }).await;
    // Names break the tie between those of one second.
    cloud.until_gone::<Pod>("a").await;
    cloud.until_gone::<Pod>("b").await;
    assert_eq!(cloud.pods().await, ["c"]);
    collecting.abort();
}
