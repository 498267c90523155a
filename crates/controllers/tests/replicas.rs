//! ReplicaSets, ReplicationControllers and disruption budgets, through the API.

mod support;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController, ResourceQuota, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use support::shops::shops;
use support::{Cloud, Kind, start};

fn template(name: &str) -> Value {
    json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "main", "image": "i"}]}})
}

fn bare(name: &str, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": app}},
        "spec": {"containers": [{"name": "main", "image": "i"}]}})
}

/// An orphan is adopted, and what is no longer selected is let go and replaced.
async fn adopts_and_releases<K: Kind + serde::Serialize>(cloud: &Cloud, app: &str, set: Value) {
    let orphan = format!("orphan-{app}");
    cloud.create::<Pod>(bare(&orphan, app)).await;
    cloud.create::<K>(set).await;
    let kind = K::kind(&()).into_owned();
    cloud.until::<Pod>(&orphan, |pod| pod["metadata"]["ownerReferences"][0]["kind"] == kind.as_str()).await;
    cloud.until::<K>(app, |set| set["status"]["readyReplicas"] == 2).await;
    cloud.patch::<Pod>(&orphan, json!({"metadata": {"labels": {"app": "other"}}})).await;
    cloud.until::<Pod>(&orphan, |pod| pod["metadata"].get("ownerReferences").is_none()).await;
    let of = |pod: &&Pod| pod.labels().get("app").is_some_and(|label| label == app);
    let runs = |pod: &&Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let two_run = |pods: &[Pod]| pods.iter().filter(of).filter(runs).count() == 2;
    cloud.until_all("two Pods run", two_run).await;
    // One more is one too many. It is the newest, which goes first where none costs more.
    let dear = format!("dear-{app}");
    let mut pod = bare(&dear, "nobody");
    pod["metadata"]["annotations"] = json!({"controller.kubernetes.io/pod-deletion-cost": "1"});
    cloud.create::<Pod>(pod).await;
    cloud.until::<Pod>(&dear, |pod| pod["status"]["phase"] == "Running").await;
    cloud.patch::<Pod>(&dear, json!({"metadata": {"labels": {"app": app}}})).await;
    let dear_stays = |pods: &[Pod]| {
        two_run(pods)
            && pods.iter().filter(of).count() == 2
            && pods.iter().filter(of).any(|pod| pod.name_any() == dear)
    };
    cloud.until_all("an older Pod goes", dear_stays).await;
    cloud.patch::<K>(app, json!({"spec": {"replicas": 1}})).await;
    cloud.until::<K>(app, |set| set["status"]["replicas"] == 1 && set["status"]["readyReplicas"] == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sets_and_controllers_keep_their_pods() {
    let cloud = start(&["n1"]).await;
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "set"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "set"}}, "template": template("set")}});
    adopts_and_releases::<ReplicaSet>(&cloud, "set", set).await;
    let controller = json!({"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "rc"},
        "spec": {"replicas": 2, "selector": {"app": "rc"}, "template": template("rc")}});
    adopts_and_releases::<ReplicationController>(&cloud, "rc", controller).await;
    // A quota that is full shows as a condition, and goes with it.
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": {"pods": "4"}}});
    cloud.create::<ResourceQuota>(quota).await;
    cloud.patch::<ReplicationController>("rc", json!({"spec": {"replicas": 5}})).await;
    let failing =
        cloud.until::<ReplicationController>("rc", |rc| rc["status"]["conditions"].is_array()).await;
    assert_eq!(failing["status"]["conditions"][0]["type"], "ReplicaFailure");
    assert_eq!(failing["status"]["conditions"][0]["reason"], "FailedCreate");
    cloud.patch::<ReplicationController>("rc", json!({"spec": {"replicas": 1}})).await;
    cloud.until::<ReplicationController>("rc", |rc| rc["status"].get("conditions").is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budgets_say_how_many_may_go() {
    let cloud = start(&["n1"]).await;
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "set"},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "set"}}, "template": template("set")}});
    cloud.create::<ReplicaSet>(set).await;
    let budget = |name: &str, app: &str, bound: Value| {
        let mut spec = json!({"selector": {"matchLabels": {"app": app}}});
        spec.as_object_mut().unwrap().extend(bound.as_object().unwrap().clone());
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name}, "spec": spec})
    };
    cloud.create::<PodDisruptionBudget>(budget("half", "set", json!({"maxUnavailable": "50%"}))).await;
    cloud.create::<PodDisruptionBudget>(budget("two", "set", json!({"minAvailable": 2}))).await;
    cloud.create::<PodDisruptionBudget>(budget("nobody", "nobody", json!({"minAvailable": 1}))).await;
    let half = cloud.until::<PodDisruptionBudget>("half", |pdb| pdb["status"]["currentHealthy"] == 3).await;
    let numbers = |pdb: &Value| {
        ["expectedPods", "desiredHealthy", "disruptionsAllowed"]
            .map(|key| pdb["status"][key].as_i64().unwrap_or(0))
    };
    assert_eq!(numbers(&half), [3, 1, 2]);
    let two = cloud.until::<PodDisruptionBudget>("two", |pdb| pdb["status"]["disruptionsAllowed"] == 1).await;
    assert_eq!(two["status"]["conditions"][0]["reason"], "SufficientPods");
    let nobody =
        cloud.until::<PodDisruptionBudget>("nobody", |pdb| pdb["status"]["conditions"].is_array()).await;
    assert_eq!(nobody["status"]["conditions"][0]["reason"], "InsufficientPods");
    cloud.until_event("nobody", "NoPods").await;
    let created = cloud.until_event("set", "SuccessfulCreate").await;
    assert_eq!(created.source.and_then(|source| source.component).as_deref(), Some("replicaset-controller"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn budgets_go_by_the_scale_of_any_kind() {
    let cloud = start(&["n1"]).await;
    let shops = shops(&cloud, &["corner", "market"]).await;
    let owned = |name: &str, shop: &DynamicObject, kind: &str| {
        let mut pod = bare(name, kind);
        pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "example.org/v1", "kind": kind, "name": shop.name_any(),
            "uid": shop.uid(), "controller": true}]);
        pod
    };
    let corner = shops.get("corner").await.expect("a shop");
    let market = shops.get("market").await.expect("a shop");
    // Nobody collects what no kind is known of, so that Pod stays.
    for pod in [owned("a", &corner, "Shop"), owned("b", &corner, "Shop"), owned("c", &market, "Shop")] {
        cloud.create::<Pod>(pod).await;
    }
    cloud.create::<Pod>(owned("d", &corner, "Unheard")).await;
    for app in ["Shop", "Unheard"] {
        let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": app.to_lowercase()},
            "spec": {"selector": {"matchLabels": {"app": app}}, "maxUnavailable": 17}});
        cloud.create::<PodDisruptionBudget>(budget).await;
    }
    // 18 are asked for, of which one must be there; three are.
    let known = cloud.until::<PodDisruptionBudget>("shop", |pdb| pdb["status"]["currentHealthy"] == 3).await;
    assert_eq!(known["status"]["expectedPods"], 18);
    assert_eq!(
        (&known["status"]["desiredHealthy"], &known["status"]["disruptionsAllowed"]),
        (&json!(1), &json!(2))
    );
    let unknown =
        cloud.until::<PodDisruptionBudget>("unheard", |pdb| pdb["status"]["conditions"].is_array()).await;
    let said = &unknown["status"]["conditions"][0];
    assert_eq!((&said["reason"], &said["status"]), (&json!("SyncFailed"), &json!("False")));
    assert_eq!(said["message"], "no matches for kind \"Unheard\" in group \"example.org\"");
    let event = cloud.until_event("unheard", "CalculateExpectedPodCountFailed").await;
    // People select events by the names that Kubernetes' controllers have.
    assert_eq!(event.reporting_component.as_deref(), Some("controllermanager"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_says_why_its_set_can_not_be_made() {
    let cloud = start(&["node"]).await;
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": {"count/replicasets.apps": "0"}}});
    cloud.create::<ResourceQuota>(quota).await;
    cloud.until::<ResourceQuota>("none", |quota| quota["status"]["hard"].is_object()).await;
    let spec =
        json!({"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template("web")});
    cloud.create::<Deployment>(json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let progressing = |web: &Value| {
        let mut all = web["status"]["conditions"].as_array().into_iter().flatten();
        all.find(|one| one["type"] == "Progressing").cloned().unwrap_or_default()
    };
    let failed = |web: &Value| progressing(web)["reason"] == "ReplicaSetCreateError";
    let said = progressing(&cloud.until::<Deployment>("web", failed).await);
    let message = said["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("Failed to create new replica set \"web-"), "{message}");
    assert!(message.contains("exceeded quota: none") && said["status"] == "False", "{said}");
    cloud.until_event("web", "ReplicaSetCreateError").await;
    cloud.patch::<ResourceQuota>("none", json!({"spec": {"hard": {"count/replicasets.apps": "1"}}})).await;
    cloud.until::<Deployment>("web", |web| progressing(web)["reason"] == "NewReplicaSetAvailable").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployment_that_does_not_get_on_says_so_by_itself() {
    let cloud = start(&["node"]).await;
    let mut never = template("web");
    never["metadata"]["annotations"][support::UNREADY] = json!("");
    let spec = json!({"replicas": 1, "progressDeadlineSeconds": 1, "selector": {"matchLabels": {"app": "web"}},
        "template": never});
    cloud.create::<Deployment>(json!({"metadata": {"name": "web"}, "spec": spec})).await;
    let reason = |web: &Value| {
        let mut all = web["status"]["conditions"].as_array().into_iter().flatten();
        all.find(|one| one["type"] == "Progressing").map_or(Value::Null, |one| one["reason"].clone())
    };
    cloud.until::<Deployment>("web", |web| reason(web) == "ProgressDeadlineExceeded").await;
    let ready = json!({"metadata": {"annotations": {support::UNREADY: null}}});
    cloud.patch::<Deployment>("web", json!({"spec": {"template": ready}})).await;
    cloud.until::<Deployment>("web", |web| reason(web) == "NewReplicaSetAvailable").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_services_slices_are_not_kept_from_it_by_others_names() {
    let cloud = start(&["node"]).await;
    for name in ["web-0", "web-1"] {
        let other = json!({"metadata": {"name": name}, "addressType": "IPv4", "endpoints": []});
        cloud.create::<EndpointSlice>(other).await;
    }
    let service = json!({"metadata": {"name": "web", "labels": {"a": "1"}},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cloud.create::<Service>(service).await;
    let of_web = |slice: &&EndpointSlice| {
        slice.labels().get("kubernetes.io/service-name").is_some_and(|of| of == "web")
    };
    let label = |slices: &[EndpointSlice], value: &str| {
        let own: Vec<_> = slices.iter().filter(of_web).collect();
        own.len() == 1 && own[0].labels().get("a").is_some_and(|there| there == value)
    };
    cloud.until_all::<EndpointSlice>("one slice", |slices| label(slices, "1")).await;
    cloud.patch::<Service>("web", json!({"metadata": {"labels": {"a": "2"}}})).await;
    cloud.until_all::<EndpointSlice>("its label follows", |slices| label(slices, "2")).await;
    assert_eq!(cloud.list::<EndpointSlice>().await.len(), 3);
}
