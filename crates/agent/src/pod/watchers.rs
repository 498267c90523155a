//! Keeps the probes of a Pod's running containers going, and acts on what they find.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::sync::mpsc;
use yunfan_client::{ObjectKey, Severity};
use yunfan_runtime::{ContainerId, ContainerState, SandboxStatus};

use super::probe::{self, Target, Verdict};
use super::status::last_run;
use super::{Pods, Work};
use crate::links::PodLink;

impl Pods {
    /// Starts the probes of runs that have none yet.
    pub(super) fn watch_probes(
        self: &Arc<Self>,
        pod: &Arc<Pod>,
        sandbox: Option<&SandboxStatus>,
        link: &PodLink,
    ) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            let probed = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
            let Some(run) = last_run(sandbox, &container.name) else { continue };
            if probed.iter().all(|probe| probe.is_none()) || run.state != ContainerState::Running {
                continue;
            }
            let attempt = run.id.attempt;
            self.remember(&uid, |local| {
                if local.probes.get(&container.name).is_some_and(|(of, _)| *of == attempt) {
                    return;
                }
                if let Some((_, old)) = local.probes.remove(&container.name) {
                    old.abort();
                }
                local.known.started.insert(container.name.clone(), container.startup_probe.is_none());
                local.known.ready.insert(container.name.clone(), container.readiness_probe.is_none());
                let target = Target {
                    id: run.id.clone(),
                    container: container.clone(),
                    pod_ip: Some(link.ip),
                    runtime: self.runtime.clone(),
                    networks: self.links.networks(),
                };
                let task = tokio::spawn(self.clone().follow_probes(pod.clone(), container.clone(), target));
                local.probes.insert(container.name.clone(), (attempt, task));
            });
        }
    }

    async fn follow_probes(self: Arc<Self>, pod: Arc<Pod>, container: Container, target: Target) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let id = target.id.clone();
        let (sender, mut verdicts) = mpsc::channel(8);
        let probes = probe::run(target, sender);
        let acting = async {
            while let Some(verdict) = verdicts.recv().await {
                match verdict {
                    Verdict::Started => self.remember(&uid, |local| {
                        local.known.started.insert(container.name.clone(), true);
                    }),
                    Verdict::Ready(ready) => {
                        if !ready {
                            let message = format!("Readiness probe of container {} failed", container.name);
                            self.shared.recorder.event(pod.as_ref(), Severity::Warning, "Unhealthy", message);
                        }
                        self.remember(&uid, |local| {
                            local.known.ready.insert(container.name.clone(), ready);
                        });
                    }
                    Verdict::Dead => {
                        self.kill(&pod, &id).await;
                        break;
                    }
                }
                self.queue.add(Work::Pod(ObjectKey::of(pod.as_ref())));
            }
        };
        tokio::join!(probes, acting);
    }

    /// Ends a run whose startup or liveness probe gave up; the restart policy decides what follows.
    async fn kill(&self, pod: &Pod, id: &ContainerId) {
        let message = format!("Container {} failed its probe, will be restarted", id.name);
        self.shared.recorder.event(pod, Severity::Normal, "Killing", message);
        let seconds = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let grace = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        if let Err(error) = self.runtime.stop_container(id, grace).await {
            tracing::warn!(%error, %id, "a container that failed its probe could not be stopped");
        }
    }
}
