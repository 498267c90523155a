//! The end of a Pod because its node is short of something: who uses how much, and whose turn it is.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use yunfan_client::{ObjectKey, Severity};
use yunfan_resources::constraint::tolerated;
use yunfan_runtime::{ContainerState, DiskUse, SandboxStatus};

use super::admit::Rejection;
use super::plan::End;
use super::resources::qos_class;
use super::shutdown::has_ended;
use super::storage::directories;
use super::{EVICTED_GRACE, Pods, fit, preempt};
use crate::eviction::{Candidate, ContainerUse, PodUse, Signal, Threshold, message, rank};
use crate::pressure::{KINDS, Left, MEMORY_TAINT};

/// The reason of events and statuses, in the kubelet's words.
pub(super) const REASON: &str = "Evicted";
/// How often it is looked whether a Pod has ended.
const LOOK: Duration = Duration::from_millis(200);

impl Pods {
    /// Ends the Pod whose turn it is when less is `left` of something than there should be. Returns it; none where nobody can end.
    pub(crate) async fn evict(
        &self,
        threshold: &Threshold,
        left: Left,
        most_grace: Duration,
    ) -> Option<Arc<Pod>> {
        let mut candidates = self.candidates(threshold.signal).await;
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
        while self.current(&key).is_some_and(|current| runs(&current)) || self.holds(&uid).await {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether a Pod still has something on the node. Its volumes are the last that goes when it rests.
    async fn holds(&self, uid: &str) -> bool {
        let ready = self.runtime.sandbox(uid).await.is_ok_and(|it| it.is_some_and(|it| it.ready));
        ready || tokio::fs::try_exists(self.pod_dir(uid)).await.unwrap_or(false)
    }

    /// The Pods that have something running and may end; those that are ending already make room anyway.
    async fn candidates(&self, signal: Signal) -> Vec<Candidate> {
        let mut found = Vec::new();
        for pod in self.all() {
            let uid = pod.uid().unwrap_or_default();
            let ends = pod.metadata.deletion_timestamp.is_some()
                || has_ended(&pod)
                || self.lock().get(&uid).is_some_and(|local| local.told.is_some());
            if ends || preempt::is_critical(&pod, self.is_static(&pod)) {
                continue;
            }
            let Ok(Some(sandbox)) = self.runtime.sandbox(&uid).await else { continue };
            if sandbox.containers.iter().any(|run| run.state == ContainerState::Running) {
                let used = self.used(&pod, &sandbox, signal).await;
                found.push(Candidate { requests: fit::given(&pod), pod, used });
            }
        }
        found
    }

    /// What a Pod uses; of the disk only where that is asked for.
    async fn used(&self, pod: &Pod, sandbox: &SandboxStatus, signal: Signal) -> PodUse {
        let mut used = PodUse::default();
        let mut disk = DiskUse::default();
        for run in &sandbox.containers {
            let of_disk = match signal.is_of_disk() {
                true => self.runtime.disk_usage(&run.id).await.unwrap_or_default(),
                false => DiskUse::default(),
            };
            disk += of_disk;
            if run.state != ContainerState::Running {
                continue;
            }
            // One that ends just now has nothing any more.
            let Ok(stats) = self.runtime.stats(&run.id).await else { continue };
            used.processes += stats.pids;
            used.containers.push(ContainerUse {
                name: run.id.name.clone(),
                memory: stats.memory_bytes,
                disk: of_disk.bytes,
            });
        }
        if signal.is_of_disk() {
            let volumes = self.pod_dir(&pod.uid().unwrap_or_default()).join("volumes");
            for directory in directories(pod, &volumes) {
                let walk = tokio::task::spawn_blocking(move || yunfan_runtime::disk_usage(&directory));
                disk += walk.await.unwrap_or_default();
            }
        }
        (used.disk, used.inodes) = (disk.bytes, disk.inodes);
        used
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
