//! HorizontalPodAutoscalers, through the API. Nobody measures anything here.

mod support;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use serde_json::{Value, json};
use support::shops::shops;
use support::{Cloud, SPACE, start};

async fn scale(cloud: &Cloud, name: &str, target: (&str, &str, &str), bounds: (i32, i32), metrics: Value) {
    let (api_version, kind, object) = target;
    cloud
        .create::<HorizontalPodAutoscaler>(json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": name},
            "spec": {"scaleTargetRef": {"apiVersion": api_version, "kind": kind, "name": object},
                "minReplicas": bounds.0, "maxReplicas": bounds.1, "metrics": metrics},
        }))
        .await;
}

fn condition<'a>(autoscaler: &'a Value, kind: &str) -> [&'a str; 3] {
    let all = autoscaler["status"]["conditions"].as_array().into_iter().flatten();
    let found = all.clone().find(|one| one["type"] == kind);
    ["status", "reason", "message"].map(|key| found.and_then(|one| one[key].as_str()).unwrap_or_default())
}

async fn deployment(cloud: &Cloud, name: &str, replicas: i32) {
    let labels = json!({"app": name});
    let spec =
        json!({"containers": [{"name": "main", "image": "i", "resources": {"requests": {"cpu": "1"}}}]});
    cloud
        .create::<Deployment>(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
            "replicas": replicas, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": spec}}}))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_measured_is_told_and_the_bounds_hold_all_the_same() {
    let cloud = start(&["n1"]).await;
    deployment(&cloud, "web", 1).await;
    let cpu = json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]);
    scale(&cloud, "web", ("apps/v1", "Deployment", "web"), (2, 4), cpu).await;
    cloud.until::<Deployment>("web", |web| web["spec"]["replicas"] == 2).await;
    cloud.until_event("web", "SuccessfulRescale").await;
    let scaled =
        cloud.until::<HorizontalPodAutoscaler>("web", |web| web["status"]["desiredReplicas"] == 2).await;
    let able = ["True", "SucceededRescale", "the HPA controller was able to update the target scale to 2"];
    assert_eq!(condition(&scaled, "AbleToScale"), able);
    assert_eq!(scaled["status"]["currentReplicas"], 1);
    assert!(scaled["status"]["lastScaleTime"].is_string());
    // Another wish is looked at without waiting.
    cloud.patch::<HorizontalPodAutoscaler>("web", json!({"spec": {"maxReplicas": 5}})).await;
    let blind = cloud
        .until::<HorizontalPodAutoscaler>("web", |web| condition(web, "ScalingActive")[0] == "False")
        .await;
    let why = "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API";
    assert_eq!(condition(&blind, "ScalingActive"), ["False", "FailedGetResourceMetric", why]);
    assert_eq!(condition(&blind, "AbleToScale")[1], "SucceededGetScale");
    cloud.until_event("web", "FailedComputeMetricsReplicas").await;
    // Scaled to nothing by hand, it stays there.
    cloud.patch::<Deployment>("web", json!({"spec": {"replicas": 0}})).await;
    cloud.patch::<HorizontalPodAutoscaler>("web", json!({"spec": {"maxReplicas": 6}})).await;
    cloud
        .until::<HorizontalPodAutoscaler>("web", |web| {
            condition(web, "ScalingActive")[1] == "ScalingDisabled"
        })
        .await;
    assert_eq!(cloud.until::<Deployment>("web", |_| true).await["spec"]["replicas"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apis_that_nobody_serves_and_targets_that_are_not_there_are_told() {
    let cloud = start(&["n1"]).await;
    deployment(&cloud, "web", 1).await;
    deployment(&cloud, "mail", 1).await;
    let web = ("apps/v1", "Deployment", "web");
    let pods = json!([{"type": "Pods", "pods": {"metric": {"name": "qps"}, "target": {"type": "AverageValue", "averageValue": "5"}}}]);
    scale(&cloud, "pods", web, (1, 4), pods).await;
    let custom = cloud
        .until::<HorizontalPodAutoscaler>("pods", |one| condition(one, "ScalingActive")[0] == "False")
        .await;
    let why = "the HPA was unable to compute the replica count: unable to get metric qps: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered";
    assert_eq!(condition(&custom, "ScalingActive"), ["False", "FailedGetPodsMetric", why]);
    cloud.until_event("pods", "FailedGetPodsMetric").await;
    let external = json!([{"type": "External", "external": {"metric": {"name": "queue"}, "target": {"type": "AverageValue", "averageValue": "5"}}}]);
    scale(&cloud, "external", ("apps/v1", "Deployment", "mail"), (1, 4), external).await;
    let external = cloud
        .until::<HorizontalPodAutoscaler>("external", |one| condition(one, "ScalingActive")[0] == "False")
        .await;
    assert_eq!(condition(&external, "ScalingActive")[1], "FailedGetExternalMetric");
    let end = "the server could not find the requested resource (get queue.external.metrics.k8s.io)";
    assert!(condition(&external, "ScalingActive")[2].ends_with(end), "{external}");
    // Two for one are one too many.
    scale(&cloud, "second", web, (1, 4), json!(null)).await;
    let second = cloud
        .until::<HorizontalPodAutoscaler>("second", |one| condition(one, "ScalingActive")[0] == "False")
        .await;
    let why = format!(
        "pods by selector app=web are controlled by multiple HPAs: [{{pods {SPACE}}} {{second {SPACE}}}]"
    );
    assert_eq!(condition(&second, "ScalingActive"), ["False", "AmbiguousSelector", &why]);
    for (name, target, why) in [
        ("gone", ("apps/v1", "Deployment", "gone"), "deployments.apps \"gone\" not found"),
        ("odd", ("apps/v1", "Widget", "w"), "no matches for kind \"Widget\" in group \"apps\""),
        ("fixed", ("apps/v1", "DaemonSet", "w"), "the server could not find the requested resource"),
    ] {
        scale(&cloud, name, target, (1, 2), json!(null)).await;
        let lost = cloud
            .until::<HorizontalPodAutoscaler>(name, |one| condition(one, "AbleToScale")[0] == "False")
            .await;
        let message = format!("the HPA controller was unable to get the target's current scale: {why}");
        assert_eq!(condition(&lost, "AbleToScale"), ["False", "FailedGetScale", &message]);
        cloud.until_event(name, "FailedGetScale").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn custom_kinds_are_scaled_too() {
    let cloud = start(&["n1"]).await;
    let shops = shops(&cloud, &["corner"]).await;
    scale(&cloud, "corner", ("example.org/v1", "Shop", "corner"), (1, 3), json!(null)).await;
    cloud.until_event("corner", "SuccessfulRescale").await;
    assert_eq!(shops.get("corner").await.expect("a shop").data["spec"]["replicas"], 3);
}
