//! Loops that are stopped in the middle of their work.

mod support;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use support::{Cloud, EXIT, start};

fn template(app: &str, image: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "main", "image": image}]}})
}

fn is_done(object: &Value, replicas: i32) -> bool {
    let (status, meta) = (&object["status"], &object["metadata"]);
    status["observedGeneration"] == meta["generation"]
        && ["replicas", "updatedReplicas", "availableReplicas"].iter().all(|count| status[*count] == replicas)
}

/// How many Pods there are of an application with an image.
async fn count(cloud: &Cloud, app: &str, image: &str) -> usize {
    let is = |pod: &&Pod| {
        let used = pod.spec.as_ref().and_then(|spec| spec.containers[0].image.as_deref());
        pod.labels().get("app").is_some_and(|label| label == app) && used == Some(image)
    };
    cloud.list::<Pod>().await.iter().filter(is).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_loops_go_on_where_others_were_stopped() {
    let mut cloud = start(&["n1"]).await;
    let selector = |app: &str| json!({"matchLabels": {"app": app}});
    let spec = json!({"replicas": 4, "selector": selector("web"), "template": template("web", "i:1")});
    cloud
        .create::<Deployment>(
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}),
        )
        .await;
    let spec = json!({"replicas": 4, "serviceName": "db", "selector": selector("db"), "template": template("db", "i:1")});
    cloud
        .create::<StatefulSet>(
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": spec}),
        )
        .await;
    cloud.until::<Deployment>("web", |web| is_done(web, 4)).await;
    cloud.until::<StatefulSet>("db", |db| is_done(db, 4)).await;
    let mut ends = template("sum", "i:1");
    ends["metadata"]["annotations"] = json!({EXIT: "0"});
    ends["spec"]["restartPolicy"] = json!("Never");
    let spec = json!({"completions": 12, "parallelism": 3, "template": ends});
    cloud
        .create::<Job>(
            json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sum"}, "spec": spec}),
        )
        .await;
    for app in ["web", "db"] {
        let update = json!({"spec": {"template": template(app, "i:2")}});
        match app {
            "web" => cloud.patch::<Deployment>(app, update).await,
            _ => cloud.patch::<StatefulSet>(app, update).await,
        }
    }
    // At each further Pod of the new template they are stopped.
    for wanted in 1..4 {
        let further = async {
            while count(&cloud, "db", "i:2").await < wanted {
                assert!(count(&cloud, "web", "i:1").await + count(&cloud, "web", "i:2").await <= 10);
                tokio::task::yield_now().await;
            }
        };
        let patience = std::time::Duration::from_secs(60);
        tokio::time::timeout(patience, further).await.expect("a further Pod of the new template");
        cloud.restart_loops().await;
    }
    cloud.until::<Deployment>("web", |web| is_done(web, 4)).await;
    let db = cloud.until::<StatefulSet>("db", |db| is_done(db, 4)).await;
    assert_eq!(db["status"]["currentRevision"], db["status"]["updateRevision"]);
    for app in ["web", "db"] {
        let pods = |image: &'static str| count(&cloud, app, image);
        assert_eq!((pods("i:1").await, pods("i:2").await), (0, 4), "{app}");
    }
    assert_eq!(cloud.list::<ReplicaSet>().await.len(), 2);
    // Each Pod of the Job was counted once, and none was made that was not asked for.
    let complete = |job: &Value| {
        job["status"]["conditions"]
            .as_array()
            .is_some_and(|all| all.iter().any(|one| one["type"] == "Complete"))
    };
    let sum = cloud.until::<Job>("sum", complete).await;
    assert_eq!((&sum["status"]["succeeded"], sum["status"].get("failed")), (&json!(12), None), "{sum}");
    assert_eq!(count(&cloud, "sum", "i:1").await, 12);
}
