//! Job → Pods: runs Pods until enough of them have succeeded, or too many failed.
//!
//! A pass looks at the Job and its Pods ([`pass`]), makes or deletes Pods, and counts those that ended ([`track`]).

mod backoff;
mod indexes;
mod pass;
mod pod;
mod policy;
pub(crate) mod spec;
#[cfg(test)]
mod tests;
mod track;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use yunfan_client::{Index, Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};

use self::backoff::Backoff;
use self::pass::{End, Pass, Work};
use self::pod::{FINALIZER, Slot, is_tracked};
use self::spec::{finished, is_others, is_suspended};
use crate::Context;
use crate::ahead::Ahead;
use crate::children::{Children, controller_among, owners_of};
use crate::claim::claim;
use crate::pod_writer::PodWriter;
use crate::pods::{controller_of, matches, sooner};
use crate::status::{now, number, status_patch};

/// Reasons for which Jobs fail.
const FAILURES: [&str; 5] = [
    "PodFailurePolicy",
    "BackoffLimitExceeded",
    "DeadlineExceeded",
    "MaxFailedIndexesExceeded",
    "FailedIndexes",
];
/// How many finalizers are taken off at once.
const PARALLEL: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Task {
    Job(ObjectKey),
    /// A Pod that is held for a Job, but is no Job's.
    Orphan(ObjectKey),
}

/// Runs the loop.
pub async fn run(context: Context) {
    let jobs = context.informers.of::<Job>();
    let pods = context.informers.of::<Pod>();
    tokio::join!(jobs.synced(), pods.synced());
    let queue = Queue::new();
    queue.feed(&jobs, |job| [Task::Job(ObjectKey::of(job))]);
    let all = jobs.clone();
    queue.feed(&pods, move |pod| tasks_of(&all, pod));
    let work = Arc::new(Loop {
        of_pods: Children::new(&pods),
        held: pods.index("held for a job", |pod| {
            let owner = controller_among::<Job>(&pod.metadata).filter(|_| is_tracked(pod));
            let name = |owner: &OwnerReference| place(pod.metadata.namespace.as_deref(), &owner.name);
            owner.map(name).into_iter().collect()
        }),
        written_pods: Ahead::new(pods.clone()),
        written_jobs: Ahead::new(jobs.clone()),
        context,
        jobs,
        pods,
        backoffs: Mutex::default(),
    });
    run_loop("job", queue, 4, move |task| {
        let work = work.clone();
        async move {
            match task {
                Task::Job(key) => work.reconcile(&key).await,
                Task::Orphan(key) => work.free_orphan(&key).await,
            }
        }
    })
    .await;
}

fn tasks_of(jobs: &Informer<Job>, pod: &Pod) -> Vec<Task> {
    let is_orphan = controller_of(&pod.metadata).is_none() && is_tracked(pod);
    let orphan = is_orphan.then(|| Task::Orphan(ObjectKey::of(pod)));
    let jobs = owners_of(jobs, &pod.metadata, |job| {
        let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.is_some_and(|selector| matches(selector, pod.metadata.labels.as_ref()))
    });
    orphan.into_iter().chain(jobs.into_iter().map(Task::Job)).collect()
}

/// Names a Job among all.
fn place(namespace: Option<&str>, name: &str) -> String {
    format!("{}/{name}", namespace.unwrap_or_default())
}

struct Loop {
    context: Context,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    of_pods: Children<Pod>,
    /// Pods that hold the finalizer, by the namespace and name of their Job.
    held: Index<Pod>,
    written_jobs: Ahead<Job>,
    written_pods: Ahead<Pod>,
    /// Failures of the Jobs that go on. They are lost when the process ends; then the wait begins anew.
    backoffs: Mutex<HashMap<ObjectKey, (String, Backoff)>>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let job = self.jobs.get_key(key);
        let wait = sooner(self.written_jobs.behind(key), self.written_pods.behind(key));
        let Some(job) = job.filter(|job| finished(job).is_none()) else {
            self.forget(key);
            return self.free_strays(key).await.map(|()| None);
        };
        if is_others(&job) {
            return Ok(None);
        }
        if wait.is_some() {
            return Ok(wait);
        }
        self.free_strays(key).await?;
        let Some(spec) = job.spec.as_ref() else { return Ok(None) };
        let Some(selector) = &spec.selector else { return Ok(None) };
        let pods = self.of_pods.around(&job.metadata);
        let pods = claim(&self.context.writer, job.as_ref(), selector, Some(FINALIZER), pods).await?;
        let pass = Pass::new(&job, spec, pods, self.backoff(key, &job), now().0);
        self.carry_out(key, pass).await
    }

    async fn carry_out(&self, key: &ObjectKey, mut pass: Pass<'_>) -> kube::Result<Option<Duration>> {
        let hands = PodWriter { context: &self.context, key, owner: pass.job, ahead: &self.written_pods };
        // Once it is over, what ends the Job brings it back.
        let mut again = pass.deadline().filter(|left| !left.is_zero());
        let mut problem = None;
        let mut happened = None;
        if pass.end.is_some() {
            let outcome = hands.delete(&pass.active, None).await;
            if outcome.done.len() != pass.active.len() {
                // It can't be over while some may run.
                pass.end = None;
            }
            pass.deleted(&outcome.done);
            problem = outcome.problem;
        } else {
            let goes_on = pass.job.metadata.deletion_timestamp.is_none();
            if goes_on {
                match pass.work() {
                    Work::Nothing => {}
                    Work::Wait(wait) => again = sooner(again, Some(wait)),
                    Work::Delete(pods) => {
                        // What is taken away is no failure: it is let go before it is deleted.
                        let outcome = hands.delete(&pods, Some(FINALIZER)).await;
                        pass.deleted(&outcome.done);
                        problem = outcome.problem;
                    }
                    Work::Create(slots) => {
                        let new: Vec<Pod> =
                            slots.iter().map(|slot: &Slot| slot.pod(pass.job, pass.spec)).collect();
                        let outcome = hands.create(&new).await;
                        pass.counts.0 += number(outcome.done.len());
                        problem = outcome.problem;
                    }
                }
            }
            if !pass.ends_by_completions() && goes_on {
                happened = pass.note_suspension();
            }
        }
        if let Some((reason, message)) = happened {
            self.context.recorder.event(pass.job, Severity::Normal, reason, message);
        }
        self.track(key, pass).await?;
        match problem {
            Some(error) => Err(error),
            None => Ok(again),
        }
    }

    /// Writes the status and lets Pods go that are counted in it.
    async fn track(&self, key: &ObjectKey, mut pass: Pass<'_>) -> kube::Result<()> {
        let mut counting = pass.count();
        let Some(mut written) = self.write(key, pass.job, &pass).await? else { return Ok(()) };
        self.remember(key, &pass);
        let results: Vec<_> = futures::stream::iter(counting.free.iter().cloned())
            .map(|pod| async move { (pod.uid(), self.free(key, &pod).await) })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let mut problem = None;
        for (uid, result) in results {
            match result {
                Ok(()) => {
                    counting.held.remove(&uid.unwrap_or_default());
                }
                Err(error) => problem = Some(error),
            }
        }
        pass.settle(&counting.held);
        let over = problem.is_none() && !counting.full && pass.finish();
        if let Some(last) = self.write(key, &written, &pass).await? {
            written = last;
        }
        if over && let Some(end) = &pass.end {
            self.tell_end(&written, pass.spec, end);
        }
        problem.map_or(Ok(()), Err)
    }

    /// Writes the pass's status where it differs from that of `job`; none when the Job is gone.
    async fn write(&self, key: &ObjectKey, job: &Job, pass: &Pass<'_>) -> kube::Result<Option<Job>> {
        let before = job.status.clone().unwrap_or_default();
        let Some(patch) = status_patch(&job.metadata, &before, &pass.status) else {
            return Ok(Some(job.clone()));
        };
        match self.context.writer.merge_status::<Job>(key.namespace(), &key.name, &patch).await {
            Ok(written) => {
                self.written_jobs.wrote(key, &written);
                Ok(Some(written))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn tell_end(&self, job: &Job, spec: &JobSpec, end: &End) {
        let tell = |severity, reason, message: &str| {
            self.context.recorder.event(job, severity, reason, message);
        };
        if !end.success {
            let reason = FAILURES.into_iter().find(|reason| *reason == end.reason).unwrap_or("Failed");
            return tell(Severity::Warning, reason, &end.message);
        }
        let succeeded = job.status.as_ref().and_then(|status| status.succeeded).unwrap_or(0);
        if spec.completions.is_some_and(|wanted| succeeded > wanted) {
            let why = "Too many succeeded pods running after completion count reached";
            tell(Severity::Warning, "TooManySucceededPods", why);
        }
        tell(Severity::Normal, "Completed", "Job completed");
    }

    /// Lets a Pod of a Job go. A pass that still saw it held would count it again.
    async fn free(&self, key: &ObjectKey, pod: &Pod) -> kube::Result<()> {
        if let Some(written) = self.context.writer.remove_finalizer(pod, FINALIZER).await? {
            self.written_pods.wrote(key, &written);
        }
        Ok(())
    }

    /// Lets Pods go that are held for a Job of this name which is over, or was another one.
    async fn free_strays(&self, key: &ObjectKey) -> kube::Result<()> {
        let job = self.jobs.get_key(key);
        if job.as_ref().is_some_and(|job| is_others(job)) {
            return Ok(());
        }
        let live = job.filter(|job| finished(job).is_none()).and_then(|job| job.uid());
        for pod in self.held.get(&place(key.namespace(), &key.name)) {
            if controller_of(&pod.metadata).map(|owner| &owner.uid) != live.as_ref() {
                self.free(key, &pod).await?;
            }
        }
        Ok(())
    }

    async fn free_orphan(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        if let Some(pod) = self.pods.get_key(key)
            && controller_of(&pod.metadata).is_none()
        {
            self.context.writer.remove_finalizer(pod.as_ref(), FINALIZER).await?;
        }
        Ok(None)
    }

    fn backoff(&self, key: &ObjectKey, job: &Job) -> Backoff {
        let backoffs = self.lock_backoffs();
        let known = backoffs.get(key).filter(|(uid, _)| Some(uid) == job.metadata.uid.as_ref());
        known.map(|(_, backoff)| *backoff).unwrap_or_default()
    }

    fn remember(&self, key: &ObjectKey, pass: &Pass<'_>) {
        let uid = pass.job.uid().unwrap_or_default();
        let backoff = if is_suspended(pass.spec) { Backoff::default() } else { pass.backoff };
        self.lock_backoffs().insert(key.clone(), (uid, backoff));
    }

    fn forget(&self, key: &ObjectKey) {
        self.lock_backoffs().remove(key);
        self.written_pods.forget(key);
        self.written_jobs.forget(key);
    }

    fn lock_backoffs(&self) -> MutexGuard<'_, HashMap<ObjectKey, (String, Backoff)>> {
        // Nothing panics under this lock.
        self.backoffs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
