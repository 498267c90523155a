//! CronJobs, through the API.

mod support;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::ResourceExt;
use serde_json::{Value, json};
use support::{Cloud, EXIT, start};

fn cron(name: &str, exit: &str, policy: &str) -> Value {
    let annotations = if exit.is_empty() { json!({}) } else { json!({EXIT: exit}) };
    let template = json!({"metadata": {"annotations": annotations},
        "spec": {"restartPolicy": "Never", "containers": [{"name": "main", "image": "i"}]}});
    json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": {
        "schedule": "* * * * *", "concurrencyPolicy": policy, "successfulJobsHistoryLimit": 1,
        "jobTemplate": {"spec": {"template": template}}}})
}

/// Makes it seem that the last Job was started some minutes ago, so that the next is due.
async fn make_due(cloud: &Cloud, name: &str) {
    let patch = json!({"status": {"lastScheduleTime": (jiff::Timestamp::now() - jiff::SignedDuration::from_mins(3)).to_string()}});
    let params = kube::api::PatchParams::default();
    cloud
        .of::<CronJob>()
        .patch_status(name, &params, &kube::api::Patch::Merge(patch))
        .await
        .expect("a status");
}

async fn jobs_of(cloud: &Cloud, cron: &str) -> Vec<String> {
    let jobs = cloud.list::<Job>().await;
    let of = |job: &&Job| job.owner_references().iter().any(|owner| owner.name == cron);
    jobs.iter().filter(of).map(|job| job.name_any()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_started_when_they_are_due() {
    let cloud = start(&["n1"]).await;
    cloud.create::<CronJob>(cron("short", "0", "Allow")).await;
    make_due(&cloud, "short").await;
    let short =
        cloud.until::<CronJob>("short", |cron| cron["status"].get("lastSuccessfulTime").is_some()).await;
    assert!(short["status"]["lastScheduleTime"].is_string());
    cloud.until::<CronJob>("short", |cron| cron["status"].get("active").is_none()).await;

    cloud.create::<CronJob>(cron("forbids", "", "Forbid")).await;
    make_due(&cloud, "forbids").await;
    let first = cloud.until::<CronJob>("forbids", |cron| cron["status"]["active"].is_array()).await;
    assert_eq!(first["status"]["active"][0]["kind"], "Job");
    make_due(&cloud, "forbids").await;
    cloud.until_event("forbids", "JobAlreadyActive").await;
    let patch = json!({"spec": {"suspend": true}});
    cloud.patch::<CronJob>("forbids", patch).await;
    assert_eq!(jobs_of(&cloud, "forbids").await.len(), 1);

    // A Job that someone makes of it by hand is none that is waited for, and its end counts.
    let owner = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "forbids", "uid": first["metadata"]["uid"], "controller": true}]);
    let spec = first["spec"]["jobTemplate"]["spec"].clone();
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "by-hand", "ownerReferences": owner,
        "annotations": {"cronjob.kubernetes.io/instantiate": "manual"}}, "spec": spec});
    job["spec"]["template"]["metadata"] = json!({"annotations": {EXIT: "0"}});
    cloud.create::<Job>(job).await;
    cloud.until::<CronJob>("forbids", |cron| cron["status"].get("lastSuccessfulTime").is_some()).await;
}
