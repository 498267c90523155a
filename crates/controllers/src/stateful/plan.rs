//! What is to be done about a StatefulSet's Pods, and what its status says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::pod::{has_identity, is_in_range, ordinal_of, range, revision_of};
use crate::pod_writer::BURST;
use crate::pods::{availability, is_ready, is_terminal, phase, sooner};
use crate::share::share;
use crate::status::{count, number};

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Make the Pod with a number, from the new template or the old one.
    Create { ordinal: i32, updated: bool },
    /// Delete a Pod.
    Delete(Arc<Pod>),
    /// Make the claims of a Pod that are missing.
    Claims(Arc<Pod>),
    /// Put a Pod's labels right.
    Identify(Arc<Pod>),
    /// Let the claims of a Pod belong to whom the retention policy says.
    Retain(Arc<Pod>),
}

/// A StatefulSet as it is seen.
pub(super) struct View<'a> {
    pub(super) set: &'a StatefulSet,
    /// The revision that all Pods had before the present update, and the present one's.
    pub(super) current: &'a str,
    pub(super) update: &'a str,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
}

/// What is to be done, in this order, and when to look again if nothing happens.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) again: Option<Duration>,
}

/// Pods by their numbers.
type Places = BTreeMap<i32, Arc<Pod>>;

impl View<'_> {
    fn min_ready(&self) -> i32 {
        self.set.spec.min_ready_seconds.unwrap_or(0)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        availability(pod, self.min_ready(), self.now).is_ok()
    }

    fn is_unavailable(&self, pod: &Pod) -> bool {
        !self.is_available(pod) || pod.metadata.deletion_timestamp.is_some()
    }

    fn ordinal(&self, pod: &Pod) -> Option<i32> {
        ordinal_of(self.set.metadata.name.as_deref().unwrap_or_default(), pod)
    }

    /// The Pods that have a place, by number, and those that have none, the highest number first. (How many places there are is
    /// what a client wrote: nothing may be as large as that.)
    fn places(&self) -> (Places, Vec<Arc<Pod>>) {
        let numbered = self.pods.iter().filter_map(|pod| Some((self.ordinal(pod)?, pod.clone())));
        let (places, condemned): (Places, Places) =
            numbered.partition(|(ordinal, _)| is_in_range(self.set, *ordinal));
        (places, condemned.into_values().rev().collect())
    }

    /// How many places have no Pod, or one that is not available.
    fn missing(&self, places: &Places) -> usize {
        let empty = usize::try_from(range(self.set).1).unwrap_or(0).saturating_sub(places.len());
        empty + places.values().filter(|pod| self.is_unavailable(pod)).count()
    }

    /// What is to be done now. With ordered Pods each waits for those before it.
    pub(super) fn plan(&self) -> Plan {
        let waits = self.pods.iter().filter_map(|pod| availability(pod, self.min_ready(), self.now).err()?);
        let mut plan = Plan { steps: Vec::new(), again: waits.map(Some).fold(None, sooner) };
        if self.set.metadata.deletion_timestamp.is_none() {
            let (places, condemned) = self.places();
            let through =
                self.fill(&places, &mut plan.steps) && self.shrink(&places, &condemned, &mut plan.steps);
            if through {
                self.update(&places, &mut plan.steps);
            }
        }
        plan
    }

    fn is_ordered(&self) -> bool {
        self.set.spec.pod_management_policy.as_deref() != Some("Parallel")
    }

    /// Makes what is missing; false when what follows has to wait.
    fn fill(&self, places: &Places, steps: &mut Vec<Step>) -> bool {
        let (start, wanted) = range(self.set);
        let mut created = 0;
        for ordinal in (start..=i32::MAX).take(usize::try_from(wanted).unwrap_or(0)) {
            let waits = match places.get(&ordinal) {
                None => {
                    steps.push(Step::Create { ordinal, updated: self.starts_updated(ordinal) });
                    created += 1;
                    if created == BURST {
                        // The next pass, which these will bring, goes on.
                        return false;
                    }
                    true
                }
                Some(pod) if is_terminal(pod) => {
                    if pod.metadata.deletion_timestamp.is_none() {
                        steps.push(Step::Delete(pod.clone()));
                    }
                    true
                }
                Some(pod) => {
                    if phase(pod) == "Pending" {
                        steps.push(Step::Claims(pod.clone()));
                    }
                    let waits = self.is_ordered() && self.is_unavailable(pod);
                    if !waits {
                        if !has_identity(pod) {
                            steps.push(Step::Identify(pod.clone()));
                        }
                        steps.push(Step::Retain(pod.clone()));
                    }
                    waits
                }
            };
            if waits && self.is_ordered() {
                return false;
            }
        }
        true
    }

    /// Whether a Pod that is missing is made from the new template.
    fn starts_updated(&self, ordinal: i32) -> bool {
        let strategy = self.set.spec.update_strategy.as_ref();
        let old = match strategy.and_then(|strategy| strategy.rolling_update.as_ref()) {
            Some(rolling) => rolling.partition.unwrap_or(0),
            None if self.is_rolling() => {
                self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0)
            }
            None => 0,
        };
        i64::from(ordinal) >= i64::from(range(self.set).0) + i64::from(old)
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.set.spec.update_strategy.as_ref();
        strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    /// Takes away what is too much; false when what follows has to wait.
    fn shrink(&self, places: &Places, condemned: &[Arc<Pod>], steps: &mut Vec<Step>) -> bool {
        steps.extend(condemned.iter().cloned().map(Step::Retain));
        // The first Pod that is not available may go though it is not: nothing is lost by that.
        let all_there = self.missing(places) == 0;
        let first = condemned.iter().rev().find(|pod| self.is_unavailable(pod)).filter(|_| all_there);
        for pod in condemned {
            if pod.metadata.deletion_timestamp.is_some() {
                if self.is_ordered() {
                    return false;
                }
                continue;
            }
            let spare = first.is_some_and(|first| Arc::ptr_eq(first, pod));
            if self.is_ordered() && !spare && !self.is_available(pod) {
                return false;
            }
            steps.push(Step::Delete(pod.clone()));
            if self.is_ordered() {
                return false;
            }
        }
        true
    }

    /// Deletes Pods of old revisions, from the highest number on; they come back with the new one.
    fn update(&self, places: &Places, steps: &mut Vec<Step>) {
        if !self.is_rolling() {
            return;
        }
        let rolling =
            self.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
        let partition = rolling.and_then(|rolling| rolling.partition).unwrap_or(0);
        let most = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
        let most = most.map_or(1, |most| share(most, range(self.set).1, false).max(1));
        let room = usize::try_from(most).unwrap_or(0).saturating_sub(self.missing(places));
        let old = places.range(range(self.set).0.saturating_add(partition)..).rev().map(|(_, pod)| pod);
        let old =
            old.filter(|pod| revision_of(pod) != self.update && pod.metadata.deletion_timestamp.is_none());
        steps.extend(old.take(room).cloned().map(Step::Delete));
    }

    /// The status.
    pub(super) fn status(&self, collisions: i32) -> StatefulSetStatus {
        let counted = |is: &dyn Fn(&Pod) -> bool| number(self.pods.iter().filter(|pod| is(pod)).count());
        let of = |revision: &str| {
            counted(&|pod| pod.metadata.deletion_timestamp.is_none() && revision_of(pod) == revision)
        };
        let ready = |pod: &Pod| phase(pod) == "Running" && is_ready(pod);
        let (replicas, ready_now) = (number(self.pods.len()), counted(&ready));
        let mut status = StatefulSetStatus {
            observed_generation: self.set.metadata.generation,
            replicas,
            ready_replicas: count(ready_now),
            available_replicas: Some(counted(&|pod| ready(pod) && self.is_available(pod))),
            current_replicas: count(of(self.current)),
            updated_replicas: count(of(self.update)),
            current_revision: Some(self.current.to_owned()),
            update_revision: Some(self.update.to_owned()),
            collision_count: Some(collisions),
            conditions: self.set.status.as_ref().and_then(|status| status.conditions.clone()),
        };
        let wanted = range(self.set).1;
        let updated = status.updated_replicas.unwrap_or(0);
        if self.is_rolling() && [updated, ready_now, replicas] == [wanted; 3] {
            status.current_replicas = status.updated_replicas;
            status.current_revision = status.update_revision.clone();
        }
        status
    }

    /// Whether the Pod has a place in the set.
    pub(super) fn has_place(&self, pod: &Pod) -> bool {
        self.ordinal(pod).is_some_and(|ordinal| is_in_range(self.set, ordinal))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn set(spec: Value) -> StatefulSet {
        let mut whole = json!({"replicas": 3, "selector": {}, "template": {}, "serviceName": "s",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "n"}, "spec": whole})).unwrap()
    }

    /// A Pod `ORDINAL:REVISION`, followed by `?` when it is not ready, `!` when it failed and `-` when it is being deleted.
    fn pod(text: &str) -> Arc<Pod> {
        let (ordinal, rest) = text.split_once(':').unwrap();
        let name = format!("s-{ordinal}");
        let revision = rest.trim_end_matches(['?', '!', '-']);
        let ready = if rest.contains(['?', '!']) { "False" } else { "True" };
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "deletionTimestamp": rest.contains('-').then_some("2026-01-01T00:00:00Z"),
                    "labels": {"controller-revision-hash": revision, "statefulset.kubernetes.io/pod-name": name}},
                "status": {"phase": if rest.contains('!') { "Failed" } else { "Running" },
                    "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
            }))
            .unwrap(),
        )
    }

    fn planned(spec: Value, pods: &[&str]) -> String {
        let set = set(spec);
        let pods: Vec<_> = pods.iter().map(|text| pod(text)).collect();
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let view = View { set: &set, current: "a", update: "b", pods: &pods, now };
        let words = view.plan().steps.into_iter().filter_map(|step| match step {
            Step::Create { ordinal, updated } => {
                Some(format!("+{ordinal}{}", if updated { 'b' } else { 'a' }))
            }
            Step::Delete(pod) => Some(format!("-{}", pod.metadata.name.as_ref()?.trim_start_matches("s-"))),
            Step::Identify(pod) => Some(format!("={}", pod.metadata.name.as_ref()?)),
            Step::Claims(_) | Step::Retain(_) => None,
        });
        words.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pods_come_and_go_in_order_or_at_once() {
        let ordered = || json!({});
        let parallel = || json!({"podManagementPolicy": "Parallel"});
        let sized = |replicas: i32| json!({"replicas": replicas});
        for (spec, pods, expected) in [
            (ordered(), &[][..], "+0b"),
            (ordered(), &["0:b?"], ""),
            (ordered(), &["0:b"], "+1b"),
            (ordered(), &["0:b", "2:b"], "+1b"),
            (ordered(), &["0:b", "1:b!", "2:b"], "-1"),
            (ordered(), &["0:b", "1:b-"], ""),
            (parallel(), &["1:b?"], "+0b +2b"),
            (json!({"ordinals": {"start": 7}, "podManagementPolicy": "Parallel"}), &[], "+7b +8b +9b"),
            (json!({"minReadySeconds": 90}), &["0:b"], ""),
            (sized(1), &["0:b", "1:b", "2:b"], "-2"),
            (sized(1), &["0:b", "1:b", "2:b-"], ""),
            (sized(1), &["0:b", "1:b?", "2:b"], "-2"),
            (sized(1), &["0:b", "1:b?"], "-1"),
            (sized(1), &["0:b?", "1:b"], ""),
            (json!({"replicas": 0, "podManagementPolicy": "Parallel"}), &["0:b", "1:b?", "2:b-"], "-1 -0"),
            (sized(i32::MAX), &["0:b", "2147483646:b"], "+1b"),
        ] {
            assert_eq!(planned(spec.clone(), pods), expected, "{spec} {pods:?}");
        }
    }

    #[test]
    fn updates_go_from_the_highest_number_down() {
        let rolling = |partition: i32, most: Value| {
            let update = json!({"partition": partition, "maxUnavailable": most});
            json!({"podManagementPolicy": "Parallel", "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": update}})
        };
        let on_delete = json!({"updateStrategy": {"type": "OnDelete"}});
        for (spec, pods, expected) in [
            (json!({}), &["0:a", "1:a", "2:a"][..], "-2"),
            (json!({}), &["0:a", "1:a", "2:b?"], ""),
            (json!({}), &["0:a", "1:a", "2:b"], "-1"),
            (rolling(2, json!(1)), &["0:a", "1:a", "2:b"], ""),
            (rolling(2, json!(1)), &["1:a", "2:b"], "+0a"),
            (rolling(0, json!(2)), &["0:a", "1:a", "2:a"], "-2 -1"),
            (rolling(0, json!("67%")), &["0:a", "1:a", "2:b?"], "-1"),
            (on_delete.clone(), &["0:a", "1:a", "2:a"], ""),
            (on_delete, &["0:a", "1:a"], "+2b"),
        ] {
            assert_eq!(planned(spec.clone(), pods), expected, "{spec} {pods:?}");
        }
    }

    #[test]
    fn the_status_counts_and_an_update_ends() {
        let status = |pods: &[&str]| {
            let set = set(json!({}));
            let pods: Vec<_> = pods.iter().map(|text| pod(text)).collect();
            let now = "2026-01-01T00:01:00Z".parse().unwrap();
            json!(View { set: &set, current: "a", update: "b", pods: &pods, now }.status(0))
        };
        let midway = status(&["0:a", "1:a-", "2:b?"]);
        let expected = json!({"replicas": 3, "readyReplicas": 2, "availableReplicas": 2, "currentReplicas": 1, "updatedReplicas": 1,
            "currentRevision": "a", "updateRevision": "b", "collisionCount": 0});
        assert_eq!(midway, expected);
        let over = status(&["0:b", "1:b", "2:b"]);
        assert_eq!((&over["currentRevision"], &over["currentReplicas"]), (&json!("b"), &json!(3)));
    }
}
