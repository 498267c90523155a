//! The end of Pods: those that ended by themselves, those that are deleted, and what is left of those that are gone.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use yunfan_client::Severity;
use yunfan_runtime::ContainerState;

use super::{PodError, Pods};

impl Pods {
    /// A deleted Pod: its containers are asked to end, its place is cleared, and the object is let go.
    pub(super) async fn end(&self, pod: &Arc<Pod>) -> Result<Option<Duration>, PodError> {
        let uid = pod.uid().unwrap_or_default();
        let grace = grace_left(pod);
        let sandbox = self.runtime.sandbox(&uid).await?;
        let running: Vec<_> = sandbox
            .iter()
            .flat_map(|sandbox| &sandbox.containers)
            .filter(|run| run.state != ContainerState::Exited)
            .map(|run| run.id.clone())
            .collect();
        // Its probes are of no use any more, and would call its end a failure.
        self.lock().remove(&uid);
        for id in &running {
            let message = format!("Stopping container {}", id.name);
            self.shared.recorder.event(pod.as_ref(), Severity::Normal, "Killing", message);
        }
        let stops = running.iter().map(|id| self.runtime.stop_container(id, grace));
        for result in futures::future::join_all(stops).await {
            if let Err(error) = result {
                tracing::debug!(%error, "a container did not stop by itself; it goes with its sandbox");
            }
        }
        self.clear(&uid).await?;
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        let (namespace, name) = (pod.namespace(), pod.name_any());
        self.shared.writer.delete_with::<Pod>(namespace.as_deref(), &name, &params).await?;
        Ok(None)
    }

    /// A Pod that has ended: nothing of it runs, but its logs stay until it is deleted.
    pub(super) async fn rest(&self, pod: &Pod) -> Result<Option<Duration>, PodError> {
        let uid = pod.uid().unwrap_or_default();
        self.lock().remove(&uid);
        if self.runtime.sandbox(&uid).await?.is_some_and(|sandbox| sandbox.ready) {
            self.runtime.stop_sandbox(&uid).await?;
        }
        self.links.detach_pod(&uid).await?;
        Ok(None)
    }

    /// Removes everything that the node has of a Pod.
    pub(super) async fn clear(&self, uid: &str) -> Result<(), PodError> {
        self.lock().remove(uid);
        self.runtime.remove_sandbox(uid).await?;
        self.links.detach_pod(uid).await?;
        match tokio::fs::remove_dir_all(self.pod_dir(uid)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, uid, "a Pod's volumes could not be removed");
            }
            _ => {}
        }
        Ok(())
    }
}

/// How long the Pod's containers still have to end by themselves.
fn grace_left(pod: &Pod) -> Duration {
    let Some(deadline) = &pod.metadata.deletion_timestamp else { return Duration::ZERO };
    // The deletion time is the moment by which it should be gone: the request's time and its grace.
    let left = deadline.0.as_millisecond() - jiff::Timestamp::now().as_millisecond();
    let asked = pod.metadata.deletion_grace_period_seconds.unwrap_or(30).max(0);
    Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(Duration::from_secs(asked.unsigned_abs()))
}
