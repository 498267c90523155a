//! The status of a set of Pods: counts, and whether its writes fail.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::kinds::Wish;
use crate::pod_writer::reason;
use crate::pods::{availability, is_ready, sooner};
use crate::status::{count, number};

const FAILURE: &str = "ReplicaFailure";

/// Why Pods could not be made or deleted.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    reason: &'static str,
    message: String,
}

impl Failure {
    pub(super) fn of(error: &kube::Error, creating: bool) -> Self {
        Self { reason: if creating { "FailedCreate" } else { "FailedDelete" }, message: reason(error) }
    }
}

/// The status, and when a Pod becomes available with time alone.
pub(super) fn status_of(
    wish: &Wish<'_>,
    before: &ReplicaSetStatus,
    active: &[Arc<Pod>],
    failure: Option<Failure>,
    now: Time,
) -> (ReplicaSetStatus, Option<Duration>) {
    let template = wish.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let (mut labelled, mut ready, mut available) = (0, 0, 0);
    let mut again = None;
    for pod in active {
        let labels = pod.labels();
        labelled +=
            i32::from(template.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value)));
        ready += i32::from(is_ready(pod));
        match availability(pod, wish.min_ready_seconds, now.0) {
            Ok(()) => available += 1,
            Err(wait) => again = sooner(again, wait),
        }
    }
    let mut conditions = before.conditions.clone().unwrap_or_default();
    let is_failure = |condition: &ReplicaSetCondition| condition.type_.as_deref() == Some(FAILURE);
    let failing = conditions.iter().any(is_failure);
    match failure {
        Some(failure) if !failing => conditions.push(ReplicaSetCondition {
            type_: Some(FAILURE.to_owned()),
            status: Some("True".to_owned()),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message),
            last_transition_time: Some(now),
        }),
        None => conditions.retain(|condition| !is_failure(condition)),
        Some(_) => {}
    }
    let status = ReplicaSetStatus {
        replicas: number(active.len()),
        fully_labeled_replicas: count(labelled),
        ready_replicas: count(ready),
        available_replicas: count(available),
        conditions: Some(conditions).filter(|conditions| !conditions.is_empty()),
        ..before.clone()
    };
    (status, again)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodTemplateSpec;
    use serde_json::json;

    fn pod(labels: &serde_json::Value, ready: &str) -> Arc<Pod> {
        let condition =
            json!({"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        Arc::new(
            serde_json::from_value(
                json!({"metadata": {"labels": labels}, "status": {"conditions": [condition]}}),
            )
            .unwrap(),
        )
    }

    #[test]
    fn pods_are_counted_and_a_failure_stays_until_it_is_over() {
        let template: PodTemplateSpec =
            serde_json::from_value(json!({"metadata": {"labels": {"app": "a", "tier": "t"}}})).unwrap();
        let wish = |min_ready_seconds| Wish {
            replicas: 3,
            min_ready_seconds,
            selector: serde_json::from_value(json!({"matchLabels": {"app": "a"}})).unwrap(),
            template: &template,
        };
        let whole = json!({"app": "a", "tier": "t"});
        let pods = [pod(&whole, "True"), pod(&whole, "False"), pod(&json!({"app": "a"}), "True")];
        let now = || Time("2026-01-01T00:00:10Z".parse().unwrap());
        let none = ReplicaSetStatus::default();
        let (status, again) = status_of(&wish(0), &none, &pods, None, now());
        let expected =
            json!({"replicas": 3, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 2});
        assert_eq!((json!(status), again), (expected, None));
        let (status, again) = status_of(&wish(30), &none, &pods, None, now());
        assert_eq!((status.available_replicas, again), (None, Some(Duration::from_secs(20))));
        let failure = |message: &str| Some(Failure { reason: "FailedCreate", message: message.to_owned() });
        let (failing, _) = status_of(&wish(0), &none, &[], failure("one"), now());
        let (still, _) = status_of(&wish(0), &failing, &[], failure("two"), now());
        assert_eq!(still, failing);
        assert_eq!(json!(still)["conditions"][0]["message"], "one");
        assert_eq!(status_of(&wish(0), &still, &[], None, now()).0.conditions, None);
    }
}
