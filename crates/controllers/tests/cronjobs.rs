//! CronJobs, through the API.

mod support;

use k8s_openapi::api::batch::v1::{CronJob, Job};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
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

async fn patch_status(cloud: &Cloud, name: &str, status: Value) {
    let (params, patch) = (PatchParams::default(), Patch::Merge(json!({"status": status})));
    cloud.of::<CronJob>().patch_status(name, &params, &patch).await.expect("a status");
}

/// As the time of the last Job it makes the next one due.
fn some_minutes_ago() -> String {
    let at = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(3);
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
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
    patch_status(&cloud, "short", json!({"lastScheduleTime": some_minutes_ago()})).await;
    let short =
        cloud.until::<CronJob>("short", |cron| cron["status"].get("lastSuccessfulTime").is_some()).await;
    assert!(short["status"]["lastScheduleTime"].is_string());
    cloud.until::<CronJob>("short", |cron| cron["status"].get("active").is_none()).await;

    // While a Job of an earlier moment runs, none is started, or it is replaced.
    let mut suspended = cron("picky", "", "Forbid");
    suspended["spec"]["suspend"] = json!(true);
    cloud.create::<CronJob>(suspended).await;
    let picky = cloud.until::<CronJob>("picky", |_| true).await;
    let owned = |name: &str, exit: &str| {
        let owner = json!([{"apiVersion": "batch/v1", "kind": "CronJob", "name": "picky",
            "uid": picky["metadata"]["uid"], "controller": true}]);
        let mut spec = picky["spec"]["jobTemplate"]["spec"].clone();
        if !exit.is_empty() {
            spec["template"]["metadata"] = json!({"annotations": {EXIT: exit}});
        }
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "ownerReferences": owner}, "spec": spec})
    };
    cloud.create::<Job>(owned("earlier", "")).await;
    let earlier = cloud.until::<Job>("earlier", |job| job["status"]["active"] == 1).await;
    let active = json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "earlier", "namespace": support::SPACE,
        "uid": earlier["metadata"]["uid"]}]);
    patch_status(&cloud, "picky", json!({"active": active, "lastScheduleTime": some_minutes_ago()})).await;
    cloud.patch::<CronJob>("picky", json!({"spec": {"suspend": false}})).await;
    cloud.until_event("picky", "JobAlreadyActive").await;
    assert_eq!(jobs_of(&cloud, "picky").await, ["earlier"]);
    cloud.patch::<CronJob>("picky", json!({"spec": {"concurrencyPolicy": "Replace"}})).await;
    cloud.until_gone::<Job>("earlier").await;
    let is_new = |name: &Value| name.as_str().is_some_and(|name| name.starts_with("picky-"));
    cloud.until::<CronJob>("picky", |cron| is_new(&cron["status"]["active"][0]["name"])).await;

    // A Job that someone makes of it by hand is none that is waited for, and its end counts.
    cloud.create::<Job>(owned("by-hand", "0")).await;
    cloud.until::<CronJob>("picky", |cron| cron["status"].get("lastSuccessfulTime").is_some()).await;
}
