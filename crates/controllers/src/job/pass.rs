//! One look at a Job: how it stands, and what is to be done about its Pods.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::backoff::{self, Backoff};
use super::indexes::Indexes;
use super::pod::{Slot, fails_index, failures_before, finished_at, index_of, is_failed, is_tracked};
use super::policy::{Action, on_failure, on_success};
use super::spec::{
    backoff_limit, condition, is_indexed, is_suspended, only_replaces_failed, parallelism, per_index,
};
use crate::pod_writer::BURST;
use crate::pods::{is_active, is_ready, is_terminating, phase, removal_order};
use crate::status::number;

/// Why a Job is over, or will be when its last Pod is gone and counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) success: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

impl End {
    fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self { success: false, reason: reason.to_owned(), message: message.into() }
    }
}

/// What is to be done about a Job's Pods.
#[derive(Debug)]
pub(super) enum Work {
    Nothing,
    Delete(Vec<Arc<Pod>>),
    Create(Vec<Slot>),
    Wait(Duration),
}

/// How a Job stands.
pub(super) struct Pass<'a> {
    pub(super) job: &'a Job,
    pub(super) spec: &'a JobSpec,
    pub(super) now: Timestamp,
    /// The status as it is to be.
    pub(super) status: JobStatus,
    pub(super) pods: Vec<Arc<Pod>>,
    pub(super) active: Vec<Arc<Pod>>,
    /// How many are active, ready and terminating when what is decided is done.
    pub(super) counts: (i32, i32, i32),
    pub(super) end: Option<End>,
    pub(super) backoff: Backoff,
    /// Indexes that are counted as succeeded, those and the new ones, and those that failed.
    pub(super) counted: Indexes,
    pub(super) succeeded_indexes: Indexes,
    pub(super) failed_indexes: Option<Indexes>,
    /// For each index, the failed Pod that stays until another takes its place and its count of failures.
    pub(super) kept: HashMap<i32, Arc<Pod>>,
    succeeded: i32,
    failed: i32,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        job: &'a Job,
        spec: &'a JobSpec,
        mut pods: Vec<Arc<Pod>>,
        backoff: Backoff,
        now: Timestamp,
    ) -> Self {
        pods.sort_by_key(|pod| index_of(pod));
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).cloned().collect();
        let count =
            |pods: &[Arc<Pod>], is: fn(&Pod) -> bool| number(pods.iter().filter(|pod| is(pod)).count());
        let mut status = job.status.clone().unwrap_or_default();
        status.uncounted_terminated_pods.get_or_insert_default();
        if status.start_time.is_none() && !is_suspended(spec) {
            status.start_time = Some(Time(now));
        }
        let mut pass = Self {
            job,
            spec,
            now,
            counts: (number(active.len()), count(&active, is_ready), count(&pods, is_terminating)),
            pods,
            active,
            end: None,
            backoff,
            counted: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            kept: HashMap::new(),
            succeeded: 0,
            failed: 0,
            status,
        };
        pass.count_ended();
        pass.end = pass.end_by_failures();
        pass.look_at_indexes();
        pass
    }

    /// Whether the Pod has an index that counts, or needs none.
    pub(super) fn has_place(&self, pod: &Pod) -> bool {
        !is_indexed(self.spec) || index_of(pod).is_some_and(|index| index < self.completions())
    }

    pub(super) fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or(i32::MAX)
    }

    pub(super) fn ignores(&self, pod: &Pod) -> bool {
        on_failure(self.spec.pod_failure_policy.as_ref(), pod) == Action::Ignore
    }

    fn count_ended(&mut self) {
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let known = |list: &Option<Vec<String>>| list.iter().flatten().cloned().collect::<HashSet<_>>();
        let (done, failed) = (known(&uncounted.succeeded), known(&uncounted.failed));
        let fresh = |known: &HashSet<String>, is: &dyn Fn(&Pod) -> bool| -> Vec<Arc<Pod>> {
            let new = |pod: &&Arc<Pod>| {
                is_tracked(pod) && pod.uid().is_some_and(|uid| !known.contains(&uid)) && self.has_place(pod)
            };
            self.pods.iter().filter(new).filter(|pod| is(pod)).cloned().collect()
        };
        let new_done = fresh(&done, &|pod| phase(pod) == "Succeeded");
        let new_failed = fresh(&failed, &|pod| is_failed(pod, self.spec));
        let counting = new_failed.iter().filter(|pod| !self.ignores(pod)).count();
        self.succeeded = self.status.succeeded.unwrap_or(0) + number(new_done.len() + done.len());
        self.failed = self.status.failed.unwrap_or(0) + number(counting + failed.len());
        self.backoff = self.backoff.after(&new_done, &new_failed);
    }

    fn end_by_failures(&self) -> Option<End> {
        for (kind, success) in [("SuccessCriteriaMet", true), ("FailureTarget", false)] {
            if let Some(known) = condition(&self.status, kind) {
                let (reason, message) = (known.reason.clone(), known.message.clone());
                return Some(End {
                    success,
                    reason: reason.unwrap_or_default(),
                    message: message.unwrap_or_default(),
                });
            }
        }
        let policy = self.spec.pod_failure_policy.as_ref();
        let failed = self.pods.iter().filter(|pod| is_failed(pod, self.spec));
        let by_policy = failed.map(|pod| on_failure(policy, pod)).find_map(|action| match action {
            Action::FailJob(why) => Some(End::failure("PodFailurePolicy", why)),
            _ => None,
        });
        if by_policy.is_some() {
            return by_policy;
        }
        if self.failed > backoff_limit(self.spec) || self.restarts_too_often() {
            return Some(End::failure("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
        }
        let late = self.deadline().is_some_and(|left| left.is_zero());
        late.then(|| End::failure("DeadlineExceeded", "Job was active longer than specified deadline"))
    }

    /// Whether the containers, which are restarted in place, failed more often than the limit allows.
    fn restarts_too_often(&self) -> bool {
        let template = self.spec.template.spec.as_ref();
        if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let live = self.pods.iter().filter(|pod| matches!(phase(pod), "Running" | "Pending"));
        let restarts = live.filter_map(|pod| pod.status.as_ref()).fold(0_i32, |all, status| {
            let containers =
                status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
            containers.fold(all, |all, container| all.saturating_add(container.restart_count))
        });
        restarts >= backoff_limit(self.spec).max(1)
    }

    /// How long the Job may still be active; none where nothing limits that.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let seconds = self.spec.active_deadline_seconds.filter(|_| !is_suspended(self.spec))?;
        let start = self.status.start_time.as_ref()?.0;
        let whole = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        Some(whole.saturating_sub(Duration::try_from(self.now.duration_since(start)).unwrap_or_default()))
    }

    fn look_at_indexes(&mut self) {
        if !is_indexed(self.spec) {
            return;
        }
        let completions = self.completions();
        let tracked = |is: &dyn Fn(&Pod) -> bool| -> Vec<i32> {
            let pods = self.pods.iter().filter(|pod| is_tracked(pod) && self.has_place(pod) && is(pod));
            pods.filter_map(|pod| index_of(pod)).collect()
        };
        let new = tracked(&|pod| phase(pod) == "Succeeded");
        let failed = tracked(&|pod| fails_index(pod, self.spec));
        self.counted =
            Indexes::parse(self.status.completed_indexes.as_deref().unwrap_or_default(), completions);
        self.succeeded_indexes = self.counted.with(new);
        self.succeeded = self.succeeded_indexes.len();
        if per_index(self.spec) {
            let known = self.status.failed_indexes.as_deref().unwrap_or_default();
            let failed = Indexes::parse(known, completions).with(failed);
            if self.end.is_none() {
                self.end = self.end_by_failed_indexes(&failed);
            }
            self.failed_indexes = Some(failed);
            self.keep_failed();
        }
        if self.end.is_none() {
            let policy = self.spec.success_policy.as_ref();
            self.end = on_success(policy, completions, &self.succeeded_indexes).map(|message| End {
                success: true,
                reason: "SuccessPolicy".to_owned(),
                message,
            });
        }
    }

    fn end_by_failed_indexes(&self, failed: &Indexes) -> Option<End> {
        if self.spec.max_failed_indexes.is_some_and(|most| failed.len() > most) {
            let why = "Job has exceeded the specified maximal number of failed indexes";
            return Some(End::failure("MaxFailedIndexesExceeded", why));
        }
        let all = !failed.is_empty() && failed.len() + self.succeeded_indexes.len() >= self.completions();
        all.then(|| End::failure("FailedIndexes", "Job has failed indexes"))
    }

    fn keep_failed(&mut self) {
        let active: HashSet<i32> = self.active.iter().filter_map(|pod| index_of(pod)).collect();
        for pod in &self.pods {
            let Some(index) = index_of(pod).filter(|_| self.has_place(pod)) else { continue };
            let settled = self.succeeded_indexes.contains(index)
                || self.failed_indexes.as_ref().is_some_and(|failed| failed.contains(index))
                || active.contains(&index);
            if settled || !is_tracked(pod) || !is_failed(pod, self.spec) {
                continue;
            }
            let rank = |pod: &Pod| (failures_before(pod), finished_at(pod));
            let later = self.kept.get(&index).is_none_or(|other| rank(other) <= rank(pod));
            if later {
                self.kept.insert(index, pod.clone());
            }
        }
    }

    /// What is to be done about the Pods of a Job that goes on.
    pub(super) fn work(&self) -> Work {
        if is_suspended(self.spec) {
            return Work::Delete(self.surplus(self.active.len()));
        }
        let active = number(self.active.len());
        let wanted = match self.spec.completions {
            // One success is enough; those that run are left to end.
            None if self.succeeded > 0 => active,
            None => parallelism(self.spec),
            Some(completions) => (completions - self.succeeded).clamp(0, parallelism(self.spec).max(0)),
        };
        let surplus = self.surplus(usize::try_from(active - wanted).unwrap_or(0));
        if !surplus.is_empty() {
            return Work::Delete(surplus);
        }
        let leaving = if only_replaces_failed(self.spec) { self.counts.2 } else { 0 };
        match usize::try_from(wanted - leaving - active) {
            Ok(missing) if missing > 0 => self.more(missing.min(BURST)),
            _ => Work::Nothing,
        }
    }

    fn more(&self, missing: usize) -> Work {
        if !per_index(self.spec)
            && let Some(wait) = self.backoff.wait(self.now)
        {
            return Work::Wait(wait);
        }
        if !is_indexed(self.spec) {
            return Work::Create(vec![Slot::PLAIN; missing]);
        }
        let indexes = self.free_indexes(missing);
        let wait = |index: &i32| {
            let failed = self.kept.get(index)?;
            let failures = u32::try_from(failures_before(failed)).unwrap_or(0).saturating_add(1);
            backoff::wait(failures, finished_at(failed), self.now)
        };
        let (now, later): (Vec<i32>, Vec<i32>) = indexes.into_iter().partition(|index| wait(index).is_none());
        match later.iter().filter_map(wait).min() {
            Some(wait) if now.is_empty() => Work::Wait(wait),
            _ => {
                let slot = |index| Slot::of(index, self.kept.get(&index).map(Arc::as_ref), self.spec);
                Work::Create(now.into_iter().map(slot).collect())
            }
        }
    }

    fn free_indexes(&self, count: usize) -> Vec<i32> {
        let leaving = self.pods.iter().filter(|pod| only_replaces_failed(self.spec) && is_terminating(pod));
        let taken = self.active.iter().chain(leaving).filter_map(|pod| index_of(pod));
        let mut taken = self.succeeded_indexes.with(taken);
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        taken.first_missing(count, self.completions())
    }

    /// Active Pods that must go: those without a place, all but one of an index, and others up to `least`.
    fn surplus(&self, least: usize) -> Vec<Arc<Pod>> {
        let mut active = self.active.clone();
        active.sort_by(|one, other| removal_order(one, other, |_| 0, self.now));
        let mut gone = Vec::new();
        if is_indexed(self.spec) {
            let mut seen = HashSet::new();
            // From the most useful on, so that it is the one that stays.
            let (mut stay, go): (Vec<_>, Vec<_>) = active.into_iter().rev().partition(|pod| {
                self.has_place(pod) && index_of(pod).is_some_and(|index| seen.insert(index))
            });
            stay.reverse();
            (gone, active) = (go, stay);
        }
        gone.extend(active.into_iter().take(least.saturating_sub(gone.len())));
        gone.truncate(BURST);
        gone
    }

    /// Takes note of Pods that were deleted.
    pub(super) fn deleted(&mut self, pods: &[Arc<Pod>]) {
        let ready = number(pods.iter().filter(|pod| is_ready(pod)).count());
        let all = number(pods.len());
        self.counts = (self.counts.0 - all, self.counts.1 - ready, self.counts.2 + all);
    }

    /// Whether all that was asked for has succeeded; then that is the Job's end.
    pub(super) fn ends_by_completions(&mut self) -> bool {
        let enough = self.spec.completions.map_or(self.succeeded > 0, |wanted| self.succeeded >= wanted);
        let ends = enough && self.counts.0 == 0;
        if ends {
            self.end = Some(End {
                success: true,
                reason: "CompletionsReached".to_owned(),
                message: "Reached expected number of succeeded pods".to_owned(),
            });
        }
        ends
    }
}
