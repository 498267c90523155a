//! The end of a Pod because its node is short of something: who uses how much, and whose turn it is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use yunfan_client::{ObjectKey, Severity};
use yunfan_resources::constraint::tolerated;
use yunfan_runtime::{ContainerId, ContainerState, DiskUse, SandboxStatus};

use super::admit::Rejection;
use super::plan::End;
use super::resources::qos_class;
use super::shutdown::has_ended;
use super::storage::known;
use super::{EVICTED_GRACE, Pods, fit, preempt};
use crate::eviction::{Candidate, ContainerUse, PodUse, Signal, Threshold, message, rank};
use crate::pressure::{KINDS, Left, MEMORY_TAINT};

/// The reason of events and statuses, in the kubelet's words.
pub(super) const REASON: &str = "Evicted";
/// How often it is looked whether a Pod has ended.
const LOOK: Duration = Duration::from_millis(200);
/// Pods that are measured at a time.
const AT_A_TIME: usize = 4;

impl Pods {
    /// Ends the Pod whose turn it is when less is `left` of something than there should be. Returns it; none where nobody can end.
    pub(crate) async fn evict(
        &self,
        threshold: &Threshold,
        left: Left,
        most_grace: Duration,
    ) -> Option<Arc<Pod>> {
        let candidates = self.candidates(threshold.signal).await;
        // While nothing can be said of any Pod, the wrong one would end.
        let mut candidates = candidates
            .inspect_err(|error| tracing::warn!(%error, "it can't be found out which Pod is to make room"))
            .ok()?;
        rank(threshold.signal, &mut candidates);
        let first = candidates.into_iter().next()?;
        let text = message(threshold.signal, (threshold.less_than.of(left.total), left.free), &first);
        tracing::warn!(pod = first.pod.name_any(), text, "a Pod ends to make room");
        self.say(&first.pod, Severity::Warning, REASON, text.clone());
        let grace = if threshold.is_hard() { EVICTED_GRACE } else { most_grace };
        self.tell_to_end(&first.pod, End::disrupted(REASON, text), Some(grace));
        Some(first.pod)
    }

    /// Waits until a Pod has ended, or is no more, and what it had on the node is free: who looks earlier takes the next one's for too
    /// little as well.
    pub(crate) async fn ended(&self, pod: &Pod) {
        let (key, uid) = (ObjectKey::of(pod), pod.uid().unwrap_or_default());
        let runs = |current: &Arc<Pod>| current.uid() == pod.uid() && !has_ended(current);
        while self.current(&key).is_some_and(|current| runs(&current)) || self.holds(&uid) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether a Pod still has something on the node. What is remembered of it is the last that goes.
    fn holds(&self, uid: &str) -> bool {
        self.lock().contains_key(uid)
    }

    /// The Pods that have a place here and may end, whether something of them runs just now or not; those that are ending already make
    /// room anyway.
    async fn candidates(&self, signal: Signal) -> Result<Vec<Candidate>, yunfan_runtime::RuntimeError> {
        let sandboxes = self.runtime.list().await?.into_iter();
        let sandboxes: HashMap<String, SandboxStatus> =
            sandboxes.map(|sandbox| (sandbox.config.uid.clone(), sandbox)).collect();
        let mut all = self.all();
        all.retain(|pod| {
            let ends = pod.metadata.deletion_timestamp.is_some() || has_ended(pod);
            let has_place =
                |uid: &str| self.lock().get(uid).is_some_and(|local| local.admitted && local.told.is_none());
            let is_critical = preempt::is_critical(pod, self.is_static(pod));
            !ends && !is_critical && pod.uid().is_some_and(|uid| has_place(&uid))
        });
        let measured = futures::stream::iter(all).map(|pod| {
            let sandbox = pod.uid().and_then(|uid| sandboxes.get(&uid));
            async move {
                let (used, is_whole) = self.used(&pod, sandbox, signal).await;
                Candidate { requests: fit::given(&pod), pod, used, is_whole }
            }
        });
        Ok(measured.buffer_unordered(AT_A_TIME).collect().await)
    }

    /// What a Pod uses, and whether that is all; of the disk only where that is asked for.
    async fn used(&self, pod: &Pod, sandbox: Option<&SandboxStatus>, signal: Signal) -> (PodUse, bool) {
        let (mut used, mut is_whole) = (PodUse::default(), true);
        let (uid, mut disk) = (pod.uid().unwrap_or_default(), DiskUse::default());
        for run in sandbox.iter().flat_map(|sandbox| &sandbox.containers) {
            let mut of_disk = DiskUse::default();
            if signal.is_of_disk() {
                of_disk = known(self.runtime.disk_usage(&run.id).await, &mut is_whole);
            }
            disk += of_disk;
            if run.state != ContainerState::Running {
                continue;
            }
            match self.runtime.stats(&run.id).await {
                Ok(stats) => used.containers.push(ContainerUse {
                    name: run.id.name.clone(),
                    memory: stats.memory_bytes,
                    disk: of_disk.bytes,
                }),
                Err(_) => is_whole &= !self.still_runs(&run.id).await,
            }
        }
        if sandbox.is_some() {
            match self.runtime.sandbox_stats(&uid).await {
                Ok(stats) => (used.memory, used.processes) = (stats.memory_bytes, stats.pids),
                Err(_) => is_whole = false,
            }
        }
        if signal.is_of_disk() {
            disk += known(self.own_disk(pod, sandbox).await, &mut is_whole);
        }
        (used.disk, used.inodes) = (disk.bytes, disk.inodes);
        (used, is_whole)
    }

    /// Whether a run that tells nothing of itself has not simply ended.
    async fn still_runs(&self, id: &ContainerId) -> bool {
        let sandbox = self.runtime.sandbox(&id.pod_uid).await;
        sandbox.is_ok_and(|sandbox| {
            let mut runs = sandbox.iter().flat_map(|sandbox| &sandbox.containers);
            runs.any(|run| run.id == *id && run.state == ContainerState::Running)
        })
    }

    /// Why the node takes no such Pod while it is short of something.
    pub(super) fn pressed(&self, pod: &Pod) -> Option<Rejection> {
        let shortages = *self.shortages.borrow();
        let short: Vec<&str> = KINDS
            .iter()
            .zip(shortages)
            .filter(|(_, short)| *short == Some(true))
            .map(|(words, _)| words.condition)
            .collect();
        let takes_it = || {
            // Who asked for memory is among the last to end for want of it.
            let tolerations =
                pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
            short == [KINDS[Signal::Memory.kind()].condition]
                && (qos_class(pod) != "BestEffort" || tolerated(tolerations, MEMORY_TAINT, "", "NoSchedule"))
        };
        if short.is_empty() || preempt::is_critical(pod, self.is_static(pod)) || takes_it() {
            return None;
        }
        Some(Rejection::new(REASON, format!("The node had condition: [{}]. ", short.join(" "))))
    }
}
