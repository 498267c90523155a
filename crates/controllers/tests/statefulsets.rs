//! StatefulSets, through the API.

mod support;

use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use support::{Cloud, UNREADY, start};

fn set(name: &str, replicas: i32, image: &str, more: Value) -> Value {
    let mut set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": name}, "spec": {
        "replicas": replicas, "serviceName": "peers", "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": image}]}}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        set["spec"][key] = value.clone();
    }
    set
}

fn is_over(set: &Value, replicas: i32) -> bool {
    let status = &set["status"];
    status["updatedReplicas"] == replicas
        && status["availableReplicas"] == replicas
        && status["currentRevision"] == status["updateRevision"]
        && status["observedGeneration"] == set["metadata"]["generation"]
}

async fn images(cloud: &Cloud) -> Vec<(String, String)> {
    let pods = cloud.list::<Pod>().await;
    let image =
        |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone()).unwrap_or_default();
    pods.iter().map(|pod| (pod.name_any(), image(pod))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_keep_their_names_through_updates_and_rollbacks() {
    let cloud = start(&["n1"]).await;
    cloud.create::<StatefulSet>(set("web", 3, "i:1", json!({}))).await;
    let first = cloud.until::<StatefulSet>("web", |set| is_over(set, 3)).await;
    assert_eq!(cloud.pods().await, ["web-0", "web-1", "web-2"]);
    // Only Pods from the partition on are updated.
    let template = |image: &str| json!({"spec": {"containers": [{"name": "main", "image": image}]}});
    let rolling =
        |partition: i32| json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition}});
    cloud
        .patch::<StatefulSet>(
            "web",
            json!({"spec": {"template": template("i:2"), "updateStrategy": rolling(2)}}),
        )
        .await;
    let canary = cloud
        .until::<StatefulSet>("web", |set| {
            set["status"]["updatedReplicas"] == 1 && set["status"]["availableReplicas"] == 3
        })
        .await;
    assert_ne!(canary["status"]["currentRevision"], canary["status"]["updateRevision"]);
    assert_eq!(canary["status"]["currentReplicas"], 2);
    let of = |name: &str, image: &str| (name.to_owned(), image.to_owned());
    assert_eq!(images(&cloud).await, [of("web-0", "i:1"), of("web-1", "i:1"), of("web-2", "i:2")]);
    // A Pod below the partition comes back as it was.
    let old = cloud.until::<Pod>("web-0", |_| true).await["metadata"]["uid"].take();
    cloud.of::<Pod>().delete("web-0", &DeleteParams::default()).await.expect("a deleted Pod");
    let new = cloud.until::<Pod>("web-0", |pod| pod["metadata"]["uid"] != old).await;
    assert_eq!(new["spec"]["containers"][0]["image"], "i:1");
    cloud.patch::<StatefulSet>("web", json!({"spec": {"updateStrategy": rolling(0)}})).await;
    cloud.until::<StatefulSet>("web", |set| is_over(set, 3)).await;
    assert!(images(&cloud).await.iter().all(|(_, image)| image == "i:2"));
    // The first template again is the first revision again, with the highest number.
    cloud.patch::<StatefulSet>("web", json!({"spec": {"template": template("i:1")}})).await;
    let back = cloud
        .until::<StatefulSet>("web", |set| {
            is_over(set, 3) && set["status"]["updateRevision"] == first["status"]["updateRevision"]
        })
        .await;
    let revisions = cloud.list::<ControllerRevision>().await;
    let numbers: Vec<_> = revisions.iter().map(|revision| (revision.name_any(), revision.revision)).collect();
    assert_eq!(numbers.len(), 2, "{numbers:?}");
    let name = back["status"]["updateRevision"].as_str().unwrap().to_owned();
    assert!(numbers.contains(&(name, Some(3))), "{numbers:?}");
    cloud.patch::<StatefulSet>("web", json!({"spec": {"replicas": 1}})).await;
    cloud.until_gone::<Pod>("web-1").await;
    cloud.until::<StatefulSet>("web", |set| is_over(set, 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_made_and_kept_or_deleted() {
    let cloud = start(&["n1"]).await;
    let claim = json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Mi"}}}});
    let more = json!({"volumeClaimTemplates": [claim], "podManagementPolicy": "Parallel",
        "persistentVolumeClaimRetentionPolicy": {"whenScaled": "Delete", "whenDeleted": "Retain"}});
    cloud.create::<StatefulSet>(set("db", 2, "i:1", more)).await;
    cloud.until::<StatefulSet>("db", |set| is_over(set, 2)).await;
    cloud
        .until::<PersistentVolumeClaim>("data-db-1", |claim| claim["metadata"]["labels"]["app"] == "db")
        .await;
    let pod = cloud.until::<Pod>("db-1", |_| true).await;
    assert_eq!(pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"], "data-db-1");
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("db-1"), &json!("peers")));
    assert_eq!(pod["metadata"]["labels"]["apps.kubernetes.io/pod-index"], "1");
    cloud.patch::<StatefulSet>("db", json!({"spec": {"replicas": 1}})).await;
    cloud.until_gone::<PersistentVolumeClaim>("data-db-1").await;
    cloud.of::<StatefulSet>().delete("db", &DeleteParams::background()).await.expect("a deleted set");
    cloud.until_gone::<Pod>("db-0").await;
    assert_eq!(cloud.list::<PersistentVolumeClaim>().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unhealthy_pod_holds_up_those_after_it_unless_they_are_parallel() {
    let cloud = start(&["n1"]).await;
    let unready = |name: &str, policy: &str| {
        let mut set = set(name, 2, "i:1", json!({"podManagementPolicy": policy}));
        set["spec"]["template"]["metadata"]["annotations"] = json!({UNREADY: ""});
        set
    };
    cloud.create::<StatefulSet>(unready("slow", "OrderedReady")).await;
    cloud.create::<StatefulSet>(unready("fast", "Parallel")).await;
    cloud.until::<StatefulSet>("fast", |set| set["status"]["replicas"] == 2).await;
    cloud.until::<Pod>("slow-0", |pod| pod["status"]["phase"] == "Running").await;
    // However often the set is looked at from then on.
    for seconds in 1..4 {
        cloud.patch::<StatefulSet>("slow", json!({"spec": {"minReadySeconds": seconds}})).await;
        let seen = |set: &Value| set["status"]["observedGeneration"] == set["metadata"]["generation"];
        let slow = cloud
            .until::<StatefulSet>("slow", |set| set["metadata"]["generation"] == seconds + 1 && seen(set))
            .await;
        assert_eq!(
            (&slow["status"]["replicas"], slow["status"].get("readyReplicas")),
            (&json!(1), None),
            "{slow}"
        );
        assert!(!cloud.pods().await.contains(&"slow-1".to_owned()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_anothers_is_waited_for() {
    let cloud = start(&["n1"]).await;
    let other = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web-1"},
        "spec": {"containers": [{"name": "main", "image": "i"}]}});
    cloud.create::<Pod>(other).await;
    cloud.create::<StatefulSet>(set("web", 2, "i:1", json!({}))).await;
    cloud.until_event("web", "FailedCreate").await;
    let there = cloud.until::<Pod>("web-1", |_| true).await;
    assert!(there["metadata"].get("ownerReferences").is_none(), "{there}");
    cloud.of::<Pod>().delete("web-1", &DeleteParams::default()).await.expect("a deleted Pod");
    cloud.until::<StatefulSet>("web", |set| is_over(set, 2)).await;
}
