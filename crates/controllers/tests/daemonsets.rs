//! DaemonSets, through the API, and taints that drive their Pods away.

mod support;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use support::{Cloud, start};

fn set(name: &str, image: &str, update: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": name}, "spec": {
        "selector": {"matchLabels": {"app": name}}, "updateStrategy": update,
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": image}]}}}})
}

fn is_over(set: &Value, nodes: i64) -> bool {
    let status = &set["status"];
    ["desiredNumberScheduled", "numberAvailable", "updatedNumberScheduled"]
        .iter()
        .all(|key| status[key] == nodes)
        && status["observedGeneration"] == set["metadata"]["generation"]
}

async fn patch_node(cloud: &Cloud, name: &str, patch: Value) {
    let nodes: Api<Node> = Api::all(cloud.client.clone());
    nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("a patched node");
}

/// The image of each Pod, by its node.
async fn images(cloud: &Cloud) -> Vec<(String, String)> {
    let pods = cloud.list::<Pod>().await;
    let mut images: Vec<_> = pods
        .iter()
        .filter_map(|pod| {
            let spec = pod.spec.as_ref()?;
            Some((spec.node_name.clone()?, spec.containers[0].image.clone()?))
        })
        .collect();
    images.sort();
    images
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_node_has_a_daemon_through_updates_and_rollbacks() {
    let cloud = start(&["n1", "n2"]).await;
    cloud.create::<DaemonSet>(set("each", "i:1", json!({"type": "RollingUpdate"}))).await;
    cloud.until::<DaemonSet>("each", |set| is_over(set, 2)).await;
    let of = |node: &str, image: &str| (node.to_owned(), image.to_owned());
    assert_eq!(images(&cloud).await, [of("n1", "i:1"), of("n2", "i:1")]);
    // One that goes is made anew.
    let pod = cloud.pods().await.remove(0);
    cloud.of::<Pod>().delete(&pod, &DeleteParams::default()).await.expect("a deleted Pod");
    cloud.until_gone::<Pod>(&pod).await;
    cloud.until::<DaemonSet>("each", |set| is_over(set, 2)).await;
    let template = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": image}]}}}});
    for image in ["i:2", "i:1"] {
        cloud.patch::<DaemonSet>("each", template(image)).await;
        cloud.until::<DaemonSet>("each", |set| is_over(set, 2)).await;
        assert_eq!(images(&cloud).await, [of("n1", image), of("n2", image)]);
    }
    let mut numbers: Vec<_> =
        cloud.list::<ControllerRevision>().await.iter().filter_map(|r| r.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3], "the first template's revision is the newest again");

    // A node that no longer fits loses its daemon, and gets one when it fits again.
    patch_node(&cloud, "n2", json!({"metadata": {"labels": {"zone": "a"}}})).await;
    let selector = json!({"spec": {"template": {"spec": {"nodeSelector": {"zone": "a"}}}}});
    cloud.patch::<DaemonSet>("each", selector).await;
    cloud.until::<DaemonSet>("each", |set| is_over(set, 1) && set["status"]["numberMisscheduled"] == 0).await;
    assert_eq!(images(&cloud).await, [of("n2", "i:1")]);
    patch_node(&cloud, "n1", json!({"metadata": {"labels": {"zone": "a"}}})).await;
    cloud.until::<DaemonSet>("each", |set| is_over(set, 2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_surging_update_has_both_for_a_while_and_taints_drive_away() {
    let cloud = start(&["n1", "n2"]).await;
    let surge = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    cloud.create::<DaemonSet>(set("surge", "i:1", surge)).await;
    cloud.until::<DaemonSet>("surge", |set| is_over(set, 2)).await;
    let template =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "i:2"}]}}}});
    cloud.patch::<DaemonSet>("surge", template).await;
    cloud.until::<DaemonSet>("surge", |set| is_over(set, 2)).await;
    // Two replacements, and each of them was there before the old one went.
    let replaced = cloud.list::<Pod>().await;
    assert!(
        replaced.iter().all(|pod| pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("i:2"))
    );

    let guest = |name: &str, seconds: Value| {
        let toleration =
            json!({"key": "away", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": "n1", "tolerations": [toleration], "containers": [{"name": "main", "image": "i"}]}})
    };
    cloud.create::<Pod>(guest("stays", Value::Null)).await;
    cloud.create::<Pod>(guest("goes", json!(1))).await;
    patch_node(&cloud, "n1", json!({"spec": {"taints": [{"key": "away", "effect": "NoExecute"}]}})).await;
    cloud.until_gone::<Pod>("goes").await;
    cloud.until_event("goes", "TaintManagerEviction").await;
    // The daemon does not tolerate it either, and does not come back.
    cloud.until::<DaemonSet>("surge", |set| is_over(set, 1)).await;
    assert!(cloud.pods().await.contains(&"stays".to_owned()));
}
