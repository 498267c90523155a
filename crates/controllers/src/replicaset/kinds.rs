//! What a ReplicaSet and a ReplicationController have in common.

use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Resource;
use yunfan_client::Watched;

/// What is asked for.
pub(super) struct Wish<'a> {
    pub(super) replicas: usize,
    pub(super) min_ready_seconds: i32,
    pub(super) selector: LabelSelector,
    pub(super) template: &'a PodTemplateSpec,
}

/// A kind that asks for a number of Pods.
pub(super) trait Replicated: Watched + Resource<DynamicType = ()> {
    /// The name of its loop.
    const LOOP: &'static str;
    /// Who tells of it in events.
    const COMPONENT: &'static str;
    /// Whether the status says how many Pods are being deleted.
    const COUNTS_LEAVING: bool;

    /// What it asks for; none where it has no template.
    fn wish(&self) -> Option<Wish<'_>>;

    /// Its status, in the shape that a ReplicaSet's has; a ReplicationController's is alike.
    fn status(&self) -> ReplicaSetStatus;
}

fn count(replicas: Option<i32>) -> usize {
    usize::try_from(replicas.unwrap_or(1)).unwrap_or(0)
}

impl Replicated for ReplicaSet {
    const LOOP: &'static str = "replicaset";
    const COMPONENT: &'static str = "replicaset-controller";
    const COUNTS_LEAVING: bool = true;

    fn wish(&self) -> Option<Wish<'_>> {
        Some(Wish {
            replicas: count(self.spec.replicas),
            min_ready_seconds: self.spec.min_ready_seconds.unwrap_or(0),
            selector: self.spec.selector.clone(),
            template: self.spec.template.as_ref()?,
        })
    }

    fn status(&self) -> ReplicaSetStatus {
        self.status.clone().unwrap_or_default()
    }
}

impl Replicated for ReplicationController {
    const LOOP: &'static str = "replicationcontroller";
    const COMPONENT: &'static str = "replication-controller";
    const COUNTS_LEAVING: bool = false;

    fn wish(&self) -> Option<Wish<'_>> {
        let spec = self.spec.as_ref()?;
        let selector =
            LabelSelector { match_labels: Some(spec.selector.clone()?), ..LabelSelector::default() };
        Some(Wish {
            replicas: count(spec.replicas),
            min_ready_seconds: spec.min_ready_seconds.unwrap_or(0),
            selector,
            template: spec.template.as_ref()?,
        })
    }

    fn status(&self) -> ReplicaSetStatus {
        let status = self.status.clone().unwrap_or_default();
        let conditions = status.conditions.map(|conditions| {
            let alike = conditions.into_iter().map(|condition| ReplicaSetCondition {
                last_transition_time: condition.last_transition_time,
                message: condition.message,
                reason: condition.reason,
                status: Some(condition.status),
                type_: Some(condition.type_),
            });
            alike.collect()
        });
        ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions,
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            terminating_replicas: None,
        }
    }
}
