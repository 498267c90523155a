//! Jobs, through the API: what their loop does with Pods that a pretended node runs.

mod support;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use support::{Cloud, EXIT, start};

fn job(name: &str, exit: &str, more: Value) -> Value {
    let annotations = if exit.is_empty() { json!({}) } else { json!({EXIT: exit}) };
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {
        "template": {"metadata": {"annotations": annotations},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "i"}]}}}});
    for (key, value) in more.as_object().into_iter().flatten() {
        job["spec"][key] = value.clone();
    }
    job
}

fn has(job: &Value, kind: &str) -> bool {
    let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
    conditions.clone().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn reason(job: &Value, kind: &str) -> Value {
    let mut conditions = job["status"]["conditions"].as_array().into_iter().flatten();
    conditions.find(|condition| condition["type"] == kind).map_or(Value::Null, |c| c["reason"].clone())
}

async fn pods_of(cloud: &Cloud, job: &str) -> Vec<Pod> {
    let pods = cloud.list::<Pod>().await;
    pods.into_iter().filter(|pod| pod.labels().get("job-name").is_some_and(|name| name == job)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_run_to_their_ends() {
    let cloud = start(&["n1"]).await;
    cloud.create::<Job>(job("plain", "0", json!({"completions": 5, "parallelism": 2}))).await;
    let spec =
        json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed", "backoffLimitPerIndex": 0});
    cloud.create::<Job>(job("indexed", "0=0,1=3,2=0,3=0", spec)).await;
    let rule = json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}});
    cloud.create::<Job>(job("policy", "3", json!({"podFailurePolicy": {"rules": [rule]}}))).await;
    cloud.create::<Job>(job("often", "1", json!({"backoffLimit": 2}))).await;
    let enough = json!({"rules": [{"succeededIndexes": "0"}]});
    let spec =
        json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "successPolicy": enough});
    cloud.create::<Job>(job("enough", "0=0", spec)).await;
    cloud.create::<Job>(job("fleeting", "0", json!({"ttlSecondsAfterFinished": 0}))).await;

    let plain = cloud.until::<Job>("plain", |job| has(job, "Complete")).await;
    assert_eq!(plain["status"]["succeeded"], 5);
    assert_eq!(reason(&plain, "SuccessCriteriaMet"), "CompletionsReached");
    assert_eq!(plain["status"]["uncountedTerminatedPods"], json!({}));
    assert!(plain["status"].get("active").is_none(), "{plain}");
    let pods = pods_of(&cloud, "plain").await;
    assert_eq!(pods.len(), 5);
    assert!(pods.iter().all(|pod| pod.finalizers().is_empty()), "all are counted and let go");

    let indexed = cloud.until::<Job>("indexed", |job| has(job, "Failed")).await;
    assert_eq!(
        (&indexed["status"]["completedIndexes"], &indexed["status"]["failedIndexes"]),
        (&json!("0,2,3"), &json!("1"))
    );
    assert_eq!(reason(&indexed, "Failed"), "FailedIndexes");
    let policy = cloud.until::<Job>("policy", |job| has(job, "Failed")).await;
    assert_eq!(reason(&policy, "FailureTarget"), "PodFailurePolicy");
    let often = cloud.until::<Job>("often", |job| has(job, "Failed")).await;
    assert_eq!(
        (&often["status"]["failed"], reason(&often, "Failed")),
        (&json!(3), json!("BackoffLimitExceeded"))
    );
    let enough = cloud.until::<Job>("enough", |job| has(job, "Complete")).await;
    assert_eq!(
        (&enough["status"]["completedIndexes"], &enough["status"]["succeeded"]),
        (&json!("0"), &json!(1))
    );
    assert_eq!(reason(&enough, "Complete"), "SuccessPolicy");
    cloud.until_gone::<Job>("fleeting").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_stop_go_on_and_let_go() {
    let cloud = start(&["n1"]).await;
    cloud.create::<Job>(job("stopped", "", json!({"parallelism": 2, "completions": 2}))).await;
    cloud.until::<Job>("stopped", |job| job["status"]["ready"] == 2).await;
    cloud.patch::<Job>("stopped", json!({"spec": {"suspend": true}})).await;
    let stopped = cloud
        .until::<Job>("stopped", |job| has(job, "Suspended") && job["status"].get("active").is_none())
        .await;
    assert!(stopped["status"].get("failed").is_none(), "what is taken away is no failure: {stopped}");
    cloud.patch::<Job>("stopped", json!({"spec": {"suspend": false}})).await;
    cloud.until::<Job>("stopped", |job| job["status"]["ready"] == 2 && !has(job, "Suspended")).await;

    // A Pod that is no longer selected is released, and one in its place comes; an orphan that is selected is adopted.
    let first = pods_of(&cloud, "stopped").await.remove(0).name_any();
    let labels = json!({"batch.kubernetes.io/controller-uid": null, "controller-uid": null});
    cloud.patch::<Pod>(&first, json!({"metadata": {"labels": labels}})).await;
    cloud.until::<Pod>(&first, |pod| pod["metadata"].get("ownerReferences").is_none()).await;
    let released = cloud.until::<Pod>(&first, |pod| pod["metadata"].get("finalizers").is_none()).await;
    assert_eq!(released["metadata"]["labels"]["job-name"], "stopped");
    let second = pods_of(&cloud, "stopped").await.into_iter().find(|pod| pod.name_any() != first).unwrap();
    cloud.patch::<Pod>(&second.name_any(), json!({"metadata": {"ownerReferences": null}})).await;
    cloud
        .until::<Pod>(&second.name_any(), |pod| pod["metadata"]["ownerReferences"][0]["kind"] == "Job")
        .await;

    // A Job that goes takes its Pods with it.
    let pods = pods_of(&cloud, "stopped").await;
    let jobs = cloud.of::<Job>();
    jobs.delete("stopped", &DeleteParams::background()).await.expect("a deleted Job");
    for pod in pods.iter().map(|pod| pod.name_any()).filter(|name| *name != first) {
        cloud.until_gone::<Pod>(&pod).await;
    }
    // Pods that are left behind are held no longer.
    cloud.create::<Job>(job("left", "", json!({}))).await;
    cloud.until::<Job>("left", |job| job["status"]["ready"] == 1).await;
    let pod = pods_of(&cloud, "left").await.remove(0).name_any();
    jobs.delete("left", &DeleteParams::orphan()).await.expect("a deleted Job");
    cloud.until::<Pod>(&pod, |pod| pod["metadata"].get("finalizers").is_none()).await;
}
