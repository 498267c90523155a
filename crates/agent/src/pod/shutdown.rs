//! The end of Pods because their node shuts down: group by group, the least important first (Kubernetes' documentation, "Node
//! Shutdowns").

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use yunfan_client::ObjectKey;
use yunfan_runtime::{ContainerState, RuntimeEvent, SandboxStatus};

use super::end::grace;
use super::plan::End;
use super::{Pods, Work};

/// What the status of such a Pod says, in the kubelet's words.
pub(super) const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// Why Pods that come meanwhile are refused.
pub(super) const REFUSED: (&str, &str) = ("NodeShutdown", "Pod was rejected as the node is shutting down.");
/// When a runtime is asked again that did not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// How long the API server has for the last statuses.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Pods {
    /// Ends the Pods of some groups, one group after the other, as far as the time of each goes.
    pub(crate) async fn shut_down(&self, groups: Range<usize>) {
        let periods = self.shutdown.periods().each().enumerate();
        for (group, period) in periods.filter(|(group, _)| groups.contains(group)) {
            let until = self.shutdown.turn_of(group, period);
            let members: Vec<Arc<Pod>> = self
                .all()
                .into_iter()
                .filter(|pod| !has_ended(pod) && self.shutdown.group_of(pod) == group)
                .collect();
            for pod in &members {
                self.queue.add(Work::Pod(ObjectKey::of(pod.as_ref())));
            }
            let ended = async {
                for pod in &members {
                    self.until_over(&pod.uid().unwrap_or_default()).await;
                }
            };
            if tokio::time::timeout_at(until.into(), ended).await.is_err() {
                tracing::warn!(pods = members.len(), "Pods did not end before their node shuts down");
            }
        }
    }

    /// Waits until the API server knows how the Pods of this node have ended.
    pub(crate) async fn until_told(&self) {
        // Before it is looked, so that no change falls between.
        let mut changes = self.pods.subscribe();
        let told = async {
            for pod in self.all() {
                while self.current(&ObjectKey::of(pod.as_ref())).is_some_and(|now| !has_ended(&now)) {
                    changes.next().await;
                }
            }
        };
        if tokio::time::timeout(LAST_WORDS, told).await.is_err() {
            tracing::warn!("the end of some Pods could not be written before their node shuts down");
        }
    }

    /// Waits until nothing runs of a Pod.
    async fn until_over(&self, uid: &str) {
        // Before it is looked, so that no end falls between.
        let mut events = self.runtime.events();
        loop {
            match self.runtime.sandbox(uid).await {
                Ok(sandbox) if !sandbox.as_ref().is_some_and(runs) => return,
                Ok(_) => until_news(&mut events, uid).await,
                // A runtime that does not answer for a moment says nothing of the Pod: its group's time is the end of waiting.
                Err(error) => {
                    tracing::debug!(%error, "the runtime does not say whether a Pod runs");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
    }

    /// How the Pod ends, once its turn has come because the node shuts down.
    pub(super) fn shut_down_end(&self, pod: &Pod) -> Option<End> {
        self.shutdown.left(pod).map(|_| End::disrupted(REASON, MESSAGE))
    }

    /// How long a Pod's containers have to end by themselves: what it asks for, and no more than its node has.
    pub(super) fn grace(&self, pod: &Pod) -> Duration {
        let asked = grace(pod);
        self.shutdown.left(pod).map_or(asked, |left| asked.min(left))
    }
}

/// Waits for something to happen to a Pod; also for what was missed, which may have been that.
async fn until_news(events: &mut Receiver<RuntimeEvent>, uid: &str) {
    loop {
        match events.recv().await {
            Ok(event) if event.pod_uid() != uid => {}
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            // Nothing will happen any more that anybody tells of.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

fn runs(sandbox: &SandboxStatus) -> bool {
    sandbox.ready && sandbox.containers.iter().any(|run| run.state != ContainerState::Exited)
}

pub(super) fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether the Pod was ended because its node shut down.
pub(super) fn was_shut_down(pod: &Pod) -> bool {
    has_ended(pod) && pod.status.as_ref().is_some_and(|status| status.reason.as_deref() == Some(REASON))
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;

    #[tokio::test]
    async fn news_of_a_pod_end_the_waiting_and_those_of_others_do_not() {
        let (sender, mut events) = broadcast::channel(2);
        let died = |uid: &str| RuntimeEvent::SandboxDied { pod_uid: uid.to_owned() };
        let mut news = Box::pin(until_news(&mut events, "one"));
        assert!(sender.send(died("other")).is_ok());
        assert!(tokio::time::timeout(Duration::ZERO, &mut news).await.is_err());
        assert!(sender.send(died("one")).is_ok());
        news.await;
        for _ in 0..4 {
            assert!(sender.send(died("other")).is_ok());
        }
        // What was missed may have been the end.
        until_news(&mut events, "one").await;
    }
}
