//! Counting a Job's Pods, each once. A Pod holds a finalizer until its end is in the Job's status: first its uid (or index) goes
//! there, then the finalizer goes, and at last the uid becomes a number.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::JobCondition;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::pass::Pass;
use super::pod::{index_of, is_failed, is_tracked};
use super::spec::{condition, is_indexed, is_suspended};
use crate::pods::phase;
use crate::status::{count, number};

/// Most uids that a status holds; more Pods follow in the next pass.
const MOST_UNCOUNTED: usize = 500;

/// What follows from the entries that were made.
pub(super) struct Counting {
    /// Pods that need to be held no longer once the status is written.
    pub(super) free: Vec<Arc<Pod>>,
    /// Pods that hold the finalizer, by uid.
    pub(super) held: HashSet<String>,
    /// Whether some Pods are left for the next pass.
    pub(super) full: bool,
}

impl Pass<'_> {
    /// Enters the Pods that ended into the status, and what else is known by now.
    pub(super) fn count(&mut self) -> Counting {
        let (active, ready, terminating) = self.counts;
        self.status.active = count(active);
        self.status.ready = Some(ready);
        self.status.terminating = Some(terminating);
        let tracked: Vec<Arc<Pod>> = self.pods.iter().filter(|pod| is_tracked(pod)).cloned().collect();
        let held: HashSet<String> = tracked.iter().filter_map(|pod| pod.uid()).collect();
        let before = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let known =
            |list: &Option<Vec<String>>, uid: &String| list.iter().flatten().any(|known| known == uid);
        self.settle(&held);
        let mut counting = Counting { free: Vec::new(), held, full: false };
        let mut new_indexes = 0;
        for pod in tracked {
            let Some(uid) = pod.uid().filter(|_| self.is_over(&pod)) else { continue };
            counting.free.push(pod.clone());
            if phase(&pod) == "Succeeded" && !known(&before.failed, &uid) {
                if is_indexed(self.spec) {
                    let new = index_of(&pod).is_some_and(|index| !self.counted.contains(index));
                    new_indexes += usize::from(new && self.has_place(&pod));
                } else if !known(&before.succeeded, &uid) {
                    self.uncounted().succeeded.get_or_insert_default().push(uid);
                }
            } else if self.counts_as_failed(&pod) && !known(&before.failed, &uid) {
                self.uncounted().failed.get_or_insert_default().push(uid);
            }
            let uncounted = self.uncounted();
            let len = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
            if new_indexes + len(&uncounted.succeeded) + len(&uncounted.failed) >= MOST_UNCOUNTED {
                counting.full = true;
                break;
            }
        }
        self.enter_indexes();
        self.announce_end();
        counting
    }

    fn uncounted(&mut self) -> &mut k8s_openapi::api::batch::v1::UncountedTerminatedPods {
        self.status.uncounted_terminated_pods.get_or_insert_default()
    }

    /// Whether nothing more is to be learned from the Pod.
    fn is_over(&self, pod: &Pod) -> bool {
        if self.job.metadata.deletion_timestamp.is_some() || self.end.is_some() || phase(pod) == "Succeeded" {
            return true;
        }
        let kept = index_of(pod).and_then(|index| self.kept.get(&index));
        is_failed(pod, self.spec) && kept.is_none_or(|kept| kept.uid() != pod.uid())
    }

    /// Pods of a Job that failed count as failed, also while they end.
    fn counts_as_failed(&self, pod: &Pod) -> bool {
        let fails = is_failed(pod, self.spec) || self.end.as_ref().is_some_and(|end| !end.success);
        fails && self.has_place(pod) && !self.ignores(pod)
    }

    fn enter_indexes(&mut self) {
        if !is_indexed(self.spec) {
            return;
        }
        self.status.succeeded = count(self.succeeded_indexes.len());
        self.status.completed_indexes =
            Some(self.succeeded_indexes.to_string()).filter(|text| !text.is_empty());
        self.status.failed_indexes = self.failed_indexes.as_ref().map(ToString::to_string);
    }

    /// Says how the Job is going to end, before the first Pod is let go that tells of it.
    fn announce_end(&mut self) {
        let Some(end) = &self.end else { return };
        let kind = if end.success { "SuccessCriteriaMet" } else { "FailureTarget" };
        if condition(&self.status, kind).is_none() {
            let (reason, message) = (end.reason.clone(), end.message.clone());
            self.set_condition(kind, "True", &reason, &message);
        }
    }

    /// Turns the uids of Pods that are no longer held into numbers.
    pub(super) fn settle(&mut self, held: &HashSet<String>) {
        let indexed = is_indexed(self.spec);
        let uncounted = self.uncounted();
        let settled = |list: &mut Option<Vec<String>>| {
            let all = list.take().unwrap_or_default();
            let before = all.len();
            let left: Vec<String> = all.into_iter().filter(|uid| held.contains(uid)).collect();
            let gone = number(before - left.len());
            *list = Some(left).filter(|left| !left.is_empty());
            gone
        };
        let (succeeded, failed) = (settled(&mut uncounted.succeeded), settled(&mut uncounted.failed));
        if !indexed {
            self.status.succeeded = count(self.status.succeeded.unwrap_or(0) + succeeded);
        }
        self.status.failed = count(self.status.failed.unwrap_or(0) + failed);
    }

    /// Ends the Job when all its Pods are gone and counted; tells whether it did.
    pub(super) fn finish(&mut self) -> bool {
        let Some(end) = self.end.clone() else { return false };
        let uncounted = self.uncounted();
        if uncounted.succeeded.is_some() || uncounted.failed.is_some() || self.counts.2 > 0 {
            return false;
        }
        let kind = if end.success { "Complete" } else { "Failed" };
        self.set_condition(kind, "True", &end.reason, &end.message);
        if end.success {
            self.status.completion_time = Some(Time(self.now));
        }
        true
    }

    /// Says whether the Job is suspended; tells the event that this is, when it changed.
    pub(super) fn note_suspension(&mut self) -> Option<(&'static str, &'static str)> {
        if is_suspended(self.spec) {
            let changed = self.set_condition("Suspended", "True", "JobSuspended", "Job suspended");
            if changed {
                // Times of the next run count from its own start.
                self.status.start_time = None;
            }
            return changed.then_some(("Suspended", "Job suspended"));
        }
        let known = self.status.conditions.iter().flatten().any(|c| c.type_ == "Suspended");
        let changed = known && self.set_condition("Suspended", "False", "JobResumed", "Job resumed");
        if changed {
            self.status.start_time = Some(Time(self.now));
        }
        changed.then_some(("Resumed", "Job resumed"))
    }

    /// Sets a condition; tells whether that changed it.
    fn set_condition(&mut self, kind: &str, status: &str, reason: &str, message: &str) -> bool {
        let conditions = self.status.conditions.get_or_insert_default();
        let new = JobCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_probe_time: Some(Time(self.now)),
            last_transition_time: Some(Time(self.now)),
        };
        match conditions.iter_mut().find(|known| known.type_ == kind) {
            Some(known) => {
                let same = (&known.status, &known.reason, &known.message)
                    == (&new.status, &new.reason, &new.message);
                if !same {
                    *known = new;
                }
                !same
            }
            None => {
                conditions.push(new);
                true
            }
        }
    }
}
