//! Keeps the probes of a Pod's running containers going, and acts on what they find.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use tokio::sync::mpsc;
use yunfan_client::{ObjectKey, Severity};
use yunfan_runtime::{ContainerId, ContainerState, SandboxStatus};

use super::probe::{self, Before, Target, Verdict};
use super::status::{last_run, status_id};
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
                let before = before(pod, &container.name, &run.id);
                let started = before.started || container.startup_probe.is_none();
                let ready = before.ready || container.readiness_probe.is_none();
                local.known.started.insert(container.name.clone(), started);
                local.known.ready.insert(container.name.clone(), ready);
                let target = Target {
                    id: run.id.clone(),
                    container: container.clone(),
                    pod_ip: Some(link.ip),
                    runtime: self.runtime.clone(),
                    networks: self.links.networks(),
                    before,
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

/// What the Pod's status says about this very run. It was found out by an agent before this one: else a restart of the agent
/// would take every probed container out of its Services until the first probe.
fn before(pod: &Pod, container: &str, id: &ContainerId) -> Before {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    let same = |status: &&ContainerStatus| {
        status.name == container && status.container_id.as_deref() == Some(&status_id(id))
    };
    let Some(status) = statuses.into_iter().find(same) else { return Before::default() };
    let started = status.started == Some(true);
    Before { started, ready: started && status.ready }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_known_counts_for_the_same_run_only() {
        let id = |attempt| ContainerId::new("u", "c", attempt);
        let status = serde_json::json!({"containerStatuses": [{
            "name": "c", "containerID": status_id(&id(0)), "image": "", "imageID": "", "restartCount": 0,
            "started": true, "ready": true,
        }]});
        let pod = Pod { status: serde_json::from_value(status).unwrap(), ..Pod::default() };
        assert_eq!(before(&pod, "c", &id(0)), Before { started: true, ready: true });
        assert_eq!(before(&pod, "c", &id(1)), Before::default());
        assert_eq!(before(&pod, "d", &id(0)), Before::default());
    }
}
