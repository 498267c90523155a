//! The end of Pods: those that ended by themselves, those that are deleted, and what is left of those that are gone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use tokio::sync::watch;
use yunfan_client::{ObjectKey, Severity};
use yunfan_runtime::{ContainerId, ContainerState, SandboxStatus};

use super::parts::{Kind, Part, parts};
use super::plan::End;
use super::status::last_run;
use super::{PodError, Pods, hooks, volumes};

/// What a container has after its hook, however much of the grace that took (as kubelets do).
const LEAST_GRACE: Duration = Duration::from_secs(2);
/// Any grace beyond this is as good as none at its end: a clock holds no more than some centuries.
const LONGEST_GRACE: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How often the last status is tried to be written.
const WRITES: usize = 10;
/// How long a newer version of an object may take to come that the API server has already.
const LATE: Duration = Duration::from_secs(5);

impl Pods {
    /// A deleted Pod: its containers are asked to end, its place is cleared, and the object is let go.
    pub(super) async fn end(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<Option<Duration>, PodError> {
        let uid = pod.uid().unwrap_or_default();
        let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if !matches!(ended, Some("Succeeded" | "Failed")) {
            let grace = self.shutdown.left(pod).map_or(grace_left(pod), |left| left.min(grace_left(pod)));
            tokio::select! {
                () = self.stop_all(pod, grace) => {}
                () = self.follow_readiness(pod) => {}
                // Asked to end sooner than at first: what still runs is killed.
                () = self.shortened(pod) => return Ok(Some(Duration::ZERO)),
            }
            let sandbox = self.runtime.sandbox(&uid).await?;
            self.gather_messages(pod, sandbox.as_ref()).await;
            let end = end_of(pod, sandbox.as_ref());
            self.remember(&uid, |local| local.known.end = Some(end));
            self.write_last_status(pod, sandbox.as_ref()).await?;
        }
        match self.clear(&uid).await {
            // What is left is cleared away when the object has gone, as often as it takes.
            Err(PodError::Remains(error)) => {
                tracing::warn!(%error, uid, "a Pod's volumes could not be removed")
            }
            cleared => cleared?,
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        let (namespace, name) = (pod.namespace(), pod.name_any());
        self.shared.writer.delete_with::<Pod>(namespace.as_deref(), &name, &params).await?;
        Ok(None)
    }

    /// Writes how the Pod has ended, also when its object has changed meanwhile: what is told now is not told again.
    async fn write_last_status(
        &self,
        pod: &Arc<Pod>,
        sandbox: Option<&SandboxStatus>,
    ) -> Result<(), PodError> {
        let key = ObjectKey::of(pod.as_ref());
        // Before it is looked, so that no change falls between.
        let mut changes = self.ending.follow(&key);
        for _ in 0..WRITES {
            let current = self.current(&key).filter(|current| current.uid() == pod.uid());
            let Some(current) = current else { return Ok(()) };
            if self.write_status(&current, sandbox).await? {
                return Ok(());
            }
            // Somebody else has changed it, which is told here, too.
            let _ = tokio::time::timeout(LATE, changes.next()).await;
        }
        tracing::warn!(pod = %pod.name_any(), "the last status of a Pod could not be written");
        Ok(())
    }

    /// Waits until the Pod is to be gone sooner than `pod` says.
    async fn shortened(&self, pod: &Pod) {
        let by_node = async {
            match self.shutdown.left(pod) {
                Some(_) => std::future::pending().await,
                None => self.shutdown.hurries(pod, || grace_left(pod)).await,
            }
        };
        tokio::select! {
            () = by_node => {}
            () = self.sooner_by_object(pod) => {}
        }
    }

    /// Waits until the object says so, or is gone.
    async fn sooner_by_object(&self, pod: &Pod) {
        // A node's own has no object that says when it ends.
        if self.is_static(pod) {
            return std::future::pending().await;
        }
        let key = ObjectKey::of(pod);
        let mut changes = self.ending.follow(&key);
        let until = |pod: &Pod| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
        loop {
            let current = self.pods.get_key(&key).filter(|current| current.uid() == pod.uid());
            if current.is_none_or(|current| until(&current) < until(pod)) {
                return;
            }
            changes.next().await;
        }
    }

    /// A Pod that is to end by itself: what still runs of it is ended, then its status says how.
    /// It has its own grace for that, or as much as `most` allows.
    pub(super) async fn finish(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        end: End,
        most: Option<Duration>,
    ) -> Result<(), PodError> {
        let uid = pod.uid().unwrap_or_default();
        if let (Some(reason), Some(message)) = (&end.reason, &end.message)
            && reason == "DeadlineExceeded"
        {
            self.say(pod, Severity::Normal, "DeadlineExceeded", message.clone());
        }
        let grace = self.grace(pod);
        self.stop_all(pod, most.map_or(grace, |most| grace.min(most))).await;
        let sandbox = self.runtime.sandbox(&uid).await?;
        self.gather_messages(pod, sandbox.as_ref()).await;
        self.remember(&uid, |local| local.known.end = Some(end));
        self.write_last_status(pod, sandbox.as_ref()).await
    }

    /// A Pod that has ended: nothing of it runs, and of what it wrote its logs alone stay, until it is deleted.
    pub(super) async fn rest(&self, pod: &Pod) -> Result<Option<Duration>, PodError> {
        let uid = pod.uid().unwrap_or_default();
        self.end_probes(&uid);
        self.pulls.forget(&uid);
        self.references.forget(&ObjectKey::of(pod));
        if self.runtime.sandbox(&uid).await?.is_some_and(|sandbox| sandbox.ready) {
            self.runtime.stop_sandbox(&uid).await?;
        }
        self.links.detach_pod(&uid).await?;
        self.persistent.release(&uid).await.map_err(PodError::Release)?;
        // Ended Pods are kept for long, and what they have in memory nobody can use any more.
        self.tokens.forget(&uid);
        self.certificates.forget(&uid);
        if let Err(error) = self.memory.remove(&uid).await {
            tracing::warn!(%error, uid, "the files of a Pod that ended could not be removed from memory");
        }
        // What it wrote makes room; of a Pod that ended because there was too little, that is what it ended for.
        self.runtime.discard_layers(&uid).await?;
        volumes::remove_all(&self.pod_dir(&uid)).await.map_err(PodError::Remains)?;
        // Who waits for its place waits for this.
        self.lock().remove(&uid);
        Ok(None)
    }

    fn end_probes(&self, uid: &str) {
        if let Some(local) = self.lock().get_mut(uid) {
            local.end_probes();
        }
    }

    /// Ends everything that runs: the main containers first, then the sidecars, in the reverse of their order.
    pub(super) async fn stop_all(&self, pod: &Pod, grace: Duration) {
        let uid = pod.uid().unwrap_or_default();
        // Its probes would call its end a failure.
        self.remember(&uid, super::Local::end_probes);
        let Ok(sandbox) = self.runtime.sandbox(&uid).await else { return };
        let running = |part: &Part| {
            let run = last_run(sandbox.as_ref(), part.name())?;
            (run.state != ContainerState::Exited).then(|| run.id.clone())
        };
        let all = parts(pod);
        let (sidecars, others): (Vec<_>, Vec<_>) = all
            .iter()
            .filter_map(|part| Some((part, running(part)?)))
            .partition(|(part, _)| part.kind == Kind::Sidecar);
        let deadline = Instant::now() + grace;
        let left = || deadline.saturating_duration_since(Instant::now());
        for (part, _) in others.iter().chain(&sidecars) {
            let message = format!("Stopping container {}", part.name());
            self.say_of((pod, part), Severity::Normal, "Killing", message);
        }
        // How many sidecars may run on; all of them, and one more, as long as a main container does.
        let (staying, _) = watch::channel(sidecars.len() + 1);
        let mains = async {
            let stops = others.iter().map(|(part, id)| self.stop_quietly(pod, part, id, grace));
            futures::future::join_all(stops).await;
            staying.send_replace(sidecars.len());
        };
        let besides = sidecars.iter().enumerate().map(|(at, (part, id))| {
            let (staying, mut turn) = (&staying, staying.subscribe());
            async move {
                // All hooks begin together, so that none is left without time; what is asked to end then waits for its turn.
                self.run_hook(pod, part, id, grace).await;
                let _ = tokio::time::timeout(left(), turn.wait_for(|staying| *staying <= at + 1)).await;
                self.stop_within(id, left(), grace).await;
                staying.send_modify(|staying| *staying = (*staying).min(at));
            }
        });
        tokio::join!(mains, futures::future::join_all(besides));
    }

    /// Ends a run: what it wants done before, its signal, and after the grace a kill. Says so in an event.
    pub(super) async fn stop(
        &self,
        pod: &Pod,
        part: &Part,
        id: &ContainerId,
        grace: Duration,
        message: &str,
    ) {
        self.say_of((pod, part), Severity::Normal, "Killing", message);
        self.stop_quietly(pod, part, id, grace).await;
    }

    async fn stop_quietly(&self, pod: &Pod, part: &Part, id: &ContainerId, grace: Duration) {
        let began = Instant::now();
        self.run_hook(pod, part, id, grace).await;
        self.stop_within(id, grace.saturating_sub(began.elapsed()), grace).await;
    }

    /// Does what a container wants done before its end, within the grace; without any, nothing.
    async fn run_hook(&self, pod: &Pod, part: &Part, id: &ContainerId, grace: Duration) {
        let hook = part.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
        if let Some(hook) = hook.filter(|_| !grace.is_zero()) {
            let ip = self.lock().get(&id.pod_uid).and_then(|local| local.known.pod_ip);
            let ip = ip.or_else(|| pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok());
            let reach = ip.map(|ip| self.reach(pod, ip));
            let run = hooks::run(self.runtime.as_ref(), reach.as_ref(), id, &part.container, hook);
            match tokio::time::timeout(grace, run).await {
                Ok(Ok(())) => {}
                Ok(Err(reason)) => {
                    tracing::info!(reason, %id, "a hook before an end failed");
                    self.say_of((pod, part), Severity::Warning, "FailedPreStopHook", "PreStopHook failed");
                }
                Err(_) => tracing::info!(%id, "a hook before an end took all of the grace"),
            }
        }
    }

    /// Sends the signal, and a kill after what is left of the grace.
    pub(super) async fn stop_within(&self, id: &ContainerId, left: Duration, grace: Duration) {
        let left = if grace.is_zero() { left } else { left.max(LEAST_GRACE) };
        if let Err(error) = self.runtime.stop_container(id, left).await {
            tracing::debug!(%error, "a container did not stop by itself; it goes with its sandbox");
        }
    }

    /// Removes everything that the node has of a Pod.
    pub(super) async fn clear(&self, uid: &str) -> Result<(), PodError> {
        self.end_probes(uid);
        self.pulls.forget(uid);
        self.tokens.forget(uid);
        self.certificates.forget(uid);
        self.runtime.remove_sandbox(uid).await?;
        self.links.detach_pod(uid).await?;
        self.persistent.release(uid).await.map_err(PodError::Release)?;
        let removed = [
            self.memory.remove(uid).await,
            volumes::remove_all(&self.pod_dir(uid)).await,
            self.logs.remove(uid).await,
        ];
        self.lock().remove(uid);
        removed.into_iter().collect::<Result<_, _>>().map_err(PodError::Remains)
    }
}

/// How a Pod that was told to end has ended.
fn end_of(pod: &Pod, sandbox: Option<&SandboxStatus>) -> End {
    let mains = parts(pod).into_iter().filter(|part| part.kind == Kind::Main);
    let good = mains
        .into_iter()
        .all(|part| last_run(sandbox, part.name()).is_some_and(|run| run.exit_code == Some(0)));
    End { phase: if good { "Succeeded" } else { "Failed" }, reason: None, message: None, disrupted: None }
}

/// How long a Pod's containers have to end by themselves.
pub(super) fn grace(pod: &Pod) -> Duration {
    let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    grace_of(seconds.unwrap_or(30))
}

/// A grace of so many seconds, as far as a clock goes.
pub(super) fn grace_of(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(LONGEST_GRACE)
}

/// How long a deleted Pod's containers still have to end by themselves.
fn grace_left(pod: &Pod) -> Duration {
    let Some(deadline) = &pod.metadata.deletion_timestamp else { return Duration::ZERO };
    // The deletion time is the moment by which it should be gone: the request's time and its grace.
    let left = deadline.0.as_millisecond() - jiff::Timestamp::now().as_millisecond();
    let asked = grace_of(pod.metadata.deletion_grace_period_seconds.unwrap_or(30));
    Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(asked)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::status::tests::sandbox;
    use super::*;

    #[test]
    fn no_grace_is_longer_than_a_clock_goes() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"deletionTimestamp": "9990-12-31T23:59:59Z", "deletionGracePeriodSeconds": i64::MAX},
            "spec": {"terminationGracePeriodSeconds": i64::MAX, "containers": []},
        }))
        .unwrap();
        for grace in [grace(&pod), grace_left(&pod), grace_of(i64::MAX)] {
            assert!(Instant::now().checked_add(grace).is_some() && grace > Duration::from_secs(1 << 20));
        }
        assert_eq!(grace_of(-1), Duration::ZERO);
    }

    #[test]
    fn a_pod_that_was_told_to_end_says_how_its_containers_took_it() {
        let pod: Pod =
            serde_json::from_value(json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}})).unwrap();
        let exited = ContainerState::Exited;
        let phase =
            |a: i32, b: i32| end_of(&pod, Some(&sandbox(&[("a", 0, exited, a), ("b", 0, exited, b)]))).phase;
        assert_eq!((phase(0, 0), phase(0, 143)), ("Succeeded", "Failed"));
        assert_eq!(end_of(&pod, None).phase, "Failed");
    }
}
