//! What several loops ask of Pods.

use std::cmp::{Ordering, Reverse};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use yunfan_client::{Index, Informer};
pub(crate) use yunfan_resources::constraint::selects as matches;

use crate::claim::controller_reference;

/// Annotation with what a Pod's deletion costs, compared with its siblings'.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The owner reference that says who controls the object.
pub(crate) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The node that the Pod is placed on.
pub(crate) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

/// Pods by the nodes that they are placed on.
pub(crate) fn on_nodes(pods: &Informer<Pod>) -> Index<Pod> {
    pods.index("node", |pod| node_of(pod).map(str::to_owned).into_iter().collect())
}

/// Whether the Pod has ended and will not run again.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the Pod is neither ended nor about to be deleted.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Whether the Pod is about to be deleted and has not ended yet.
pub(crate) fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_some()
}

/// Whether the Pod is ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// The earlier of two waits, where there are any.
pub(crate) fn sooner(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

/// Since when the Pod is ready; none while it is not.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let ready = status.conditions.iter().flatten().find(|c| c.type_ == "Ready" && c.status == "True")?;
    // A condition without a time has been true for as long as anyone knows.
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0))
}

/// Whether the Pod has been ready for `min_ready_seconds`; if it is ready but not for long enough yet, how long
/// that takes.
pub(crate) fn availability(
    pod: &Pod,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Result<(), Option<Duration>> {
    let Some(since) = ready_since(pod) else { return Err(None) };
    if min_ready_seconds <= 0 {
        return Ok(());
    }
    let ready_for = now.as_second() - since.as_second();
    match i64::from(min_ready_seconds) - ready_for {
        left if left <= 0 => Ok(()),
        left => Err(Some(Duration::from_secs(left.unsigned_abs()))),
    }
}

/// Which of two Pods goes first when there are too many: the one of less use. `crowd` says how many siblings share a Pod's node.
pub(crate) fn removal_order(
    one: &Pod,
    other: &Pod,
    crowd: impl Fn(&Pod) -> usize,
    now: Timestamp,
) -> Ordering {
    let placed = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let started = |pod: &Pod| match phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let rank =
        |pod: &Pod| (placed(pod), started(pod), is_ready(pod), deletion_cost(pod), Reverse(crowd(pod)));
    let ready = || match (ready_since(one), ready_since(other)) {
        (Some(one), Some(other)) => age_class(one, now).cmp(&age_class(other, now)),
        _ => Ordering::Equal,
    };
    let restarts = || restarts(other).cmp(&restarts(one));
    let born = |pod: &Pod| pod.creation_timestamp().map_or(now, |time| time.0);
    let age = || age_class(born(one), now).cmp(&age_class(born(other), now));
    rank(one)
        .cmp(&rank(other))
        .then_with(ready)
        .then_with(restarts)
        .then_with(age)
        .then_with(|| one.metadata.uid.cmp(&other.metadata.uid))
}

fn deletion_cost(pod: &Pod) -> i32 {
    pod.annotations().get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// Ages that differ less than twofold are alike, so that it is not always the youngest that go.
fn age_class(since: Timestamp, now: Timestamp) -> Option<u32> {
    u128::try_from(now.duration_since(since).as_nanos()).ok().and_then(u128::checked_ilog2)
}

fn restarts(pod: &Pod) -> i32 {
    let containers = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    containers.map(|container| container.restart_count).max().unwrap_or(0)
}

/// The Pod that an owner's template describes, with a name that the API server completes.
pub(crate) fn from_template<O: Resource<DynamicType = ()>>(owner: &O, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    let mut prefix = owner.meta().name.clone().unwrap_or_default();
    // A generated name adds five characters, and a Pod's name is a host name.
    prefix.truncate(57);
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: owner.meta().namespace.clone(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    use serde_json::json;

    #[test]
    fn selectors_match_as_kubernetes_says() {
        let selector: LabelSelector = serde_json::from_value(json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["a", "b"]},
                {"key": "old", "operator": "DoesNotExist"},
                {"key": "zone", "operator": "NotIn", "values": ["x"]},
            ],
        }))
        .unwrap();
        let labels = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>()
        };
        assert!(matches(&selector, Some(&labels(&[("app", "web"), ("tier", "a")]))));
        assert!(!matches(&selector, Some(&labels(&[("app", "web"), ("tier", "c")]))));
        assert!(!matches(&selector, Some(&labels(&[("app", "web"), ("tier", "a"), ("old", "")]))));
        assert!(!matches(&selector, Some(&labels(&[("app", "web"), ("tier", "a"), ("zone", "x")]))));
        assert!(!matches(&selector, None));
    }

    #[test]
    fn a_pod_becomes_available_after_its_min_ready_seconds() {
        let pod: Pod = serde_json::from_value(json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
        .unwrap();
        let at = |second: &str| second.parse::<Timestamp>().unwrap();
        assert_eq!(availability(&pod, 0, at("2026-01-01T00:00:00Z")), Ok(()));
        assert_eq!(availability(&pod, 10, at("2026-01-01T00:00:04Z")), Err(Some(Duration::from_secs(6))));
        assert_eq!(availability(&pod, 10, at("2026-01-01T00:00:10Z")), Ok(()));
        assert_eq!(availability(&Pod::default(), 0, at("2026-01-01T00:00:10Z")), Err(None));
    }

    #[test]
    fn the_least_useful_pod_goes_first() {
        let now: Timestamp = "2026-01-01T01:00:00Z".parse().unwrap();
        let pod = |uid: &str,
                   node: Option<&str>,
                   phase: &str,
                   ready: Option<&str>,
                   cost: &str,
                   restarts: i32|
         -> Pod {
            let condition =
                ready.map(|at| json!([{"type": "Ready", "status": "True", "lastTransitionTime": at}]));
            serde_json::from_value(json!({
                "metadata": {"uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": {DELETION_COST: cost}},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": phase, "conditions": condition,
                    "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": true, "restartCount": restarts}]},
            }))
            .unwrap()
        };
        let (early, late) = (Some("2026-01-01T00:01:00Z"), Some("2026-01-01T00:59:00Z"));
        let ordered = [
            pod("1", None, "Pending", None, "9", 0),
            pod("2", Some("n"), "Pending", None, "9", 0),
            pod("3", Some("n"), "Running", None, "9", 0),
            pod("4", Some("n"), "Running", early, "-5", 0),
            pod("5", Some("crowded"), "Running", early, "0", 0),
            pod("6", Some("n"), "Running", late, "0", 0),
            pod("7", Some("n"), "Running", early, "0", 2),
            pod("8", Some("n"), "Running", early, "0", 1),
            pod("9", Some("n"), "Running", early, "1", 0),
        ];
        let crowd =
            |pod: &Pod| usize::from(pod.spec.as_ref().unwrap().node_name.as_deref() == Some("crowded"));
        for pair in ordered.windows(2) {
            let order = removal_order(&pair[0], &pair[1], crowd, now);
            assert_eq!(order, Ordering::Less, "{:?} {:?}", pair[0].metadata.uid, pair[1].metadata.uid);
        }
    }
}
