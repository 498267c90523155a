//! Keeps the probes of a Pod's running containers going, and acts on what they find.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use tokio::sync::mpsc;
use yunfan_client::{ObjectKey, Severity};
use yunfan_runtime::{ContainerId, ContainerState, ContainerStatus as Run, SandboxStatus};

use super::parts::{Kind, Part, parts};
use super::probe::{self, Before, Target, Verdict, Which};
use super::status::{last_run, status_id};
use super::{Pods, Work, end};
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
        for part in parts(pod).into_iter().filter(|part| matches!(part.kind, Kind::Main | Kind::Sidecar)) {
            let container = &part.container;
            let probed = [&container.startup_probe, &container.readiness_probe, &container.liveness_probe];
            let Some(run) = last_run(sandbox, &container.name) else { continue };
            if probed.iter().all(|probe| probe.is_none()) || run.state != ContainerState::Running {
                continue;
            }
            let attempt = run.id.attempt;
            let before = before(pod, run);
            let target = Target {
                id: run.id.clone(),
                container: container.clone(),
                reach: self.reach(pod, link.ip),
                started_at: run.started_at,
                runtime: self.runtime.clone(),
                before,
                tries: self.tries(&uid),
            };
            self.remember(&uid, |local| {
                if local.probes.get(&container.name).is_some_and(|(of, _)| *of == attempt) {
                    return;
                }
                if let Some((_, old)) = local.probes.remove(&container.name) {
                    old.abort();
                }
                let started = before.started || container.startup_probe.is_none();
                let ready = before.ready || container.readiness_probe.is_none();
                local.known.started.insert(container.name.clone(), started);
                local.known.ready.insert(container.name.clone(), ready);
                let task = tokio::spawn(self.clone().follow_probes(pod.clone(), part.clone(), target));
                local.probes.insert(container.name.clone(), (attempt, task));
            });
        }
    }

    async fn follow_probes(self: Arc<Self>, pod: Arc<Pod>, part: Part, target: Target) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let id = target.id.clone();
        let (sender, mut verdicts) = mpsc::channel(8);
        let probes = probe::run(target, sender);
        let acting = async {
            while let Some(verdict) = verdicts.recv().await {
                match verdict {
                    Verdict::Failed(which, reason) => {
                        let message = format!("{} probe failed: {reason}", which.name());
                        self.say_of((&pod, &part), Severity::Warning, "Unhealthy", message);
                        continue;
                    }
                    Verdict::Doubtful(which, doubt) => {
                        let message = format!("{} probe warning: {doubt}", which.name());
                        self.say_of((&pod, &part), Severity::Warning, "ProbeWarning", message);
                        continue;
                    }
                    Verdict::Started => self.remember(&uid, |local| {
                        local.known.started.insert(part.name().to_owned(), true);
                    }),
                    Verdict::Ready(ready) => self.remember(&uid, |local| {
                        local.known.ready.insert(part.name().to_owned(), ready);
                    }),
                    Verdict::Dead(which) => {
                        self.kill(&pod, &part, &id, which).await;
                        break;
                    }
                }
                self.queue.add(Work::Pod(ObjectKey::of(pod.as_ref())));
            }
        };
        tokio::join!(probes, acting);
    }

    /// Goes on asking which containers are ready while they end, and writes that: who serves to the last is told apart from who does not. Runs until it is
    /// dropped.
    pub(super) async fn follow_readiness(self: &Arc<Self>, pod: &Arc<Pod>) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let known = self.lock().get(&uid).map(|local| (local.known.pod_ip, local.known.ready.clone()));
        let sandbox = self.runtime.sandbox(&uid).await.ok().flatten();
        let Some((Some(ip), ready)) = known else { return std::future::pending().await };
        let (sender, mut verdicts) = mpsc::channel(8);
        let all = parts(pod);
        let probes = all.iter().filter(|part| part.container.readiness_probe.is_some()).filter_map(|part| {
            let run = last_run(sandbox.as_ref(), part.name())?;
            let target = Target {
                id: run.id.clone(),
                container: part.container.clone(),
                reach: self.reach(pod, ip),
                started_at: run.started_at,
                runtime: self.runtime.clone(),
                before: Before { started: true, ready: ready.get(part.name()) == Some(&true) },
                tries: self.tries(&uid),
            };
            let (one, told) = mpsc::channel(8);
            let (sender, name) = (sender.clone(), part.name().to_owned());
            Some(async move { tokio::join!(probe::while_ending(target, one), pass_on(name, told, sender)) })
        });
        let probes = futures::future::join_all(probes);
        let acting = async {
            while let Some((name, ready)) = verdicts.recv().await {
                self.remember(&uid, |local| {
                    local.known.ready.insert(name, ready);
                });
                let sandbox = self.runtime.sandbox(&uid).await.ok().flatten();
                let current = self.current(&ObjectKey::of(pod.as_ref()));
                let Some(current) = current.filter(|current| current.metadata.uid == pod.metadata.uid) else {
                    continue;
                };
                if let Err(error) = self.write_status(&current, sandbox.as_ref()).await {
                    tracing::debug!(%error, uid, "whether an ending Pod is ready could not be written");
                }
            }
        };
        tokio::join!(probes, acting);
        std::future::pending().await
    }

    /// Ends a run whose startup or liveness probe gave up; the restart policy decides what follows.
    async fn kill(&self, pod: &Pod, part: &Part, id: &ContainerId, which: Which) {
        let kind = if part.kind == Kind::Main { "Container" } else { "Init container" };
        let probe = which.name().to_lowercase();
        let message = format!("{kind} {} failed {probe} probe, will be restarted", part.name());
        self.stop(pod, part, id, grace(pod, part, which), &message).await;
    }
}

/// Tells of a container by its name whether it is ready.
async fn pass_on(name: String, mut told: mpsc::Receiver<Verdict>, to: mpsc::Sender<(String, bool)>) {
    while let Some(verdict) = told.recv().await {
        if let Verdict::Ready(ready) = verdict
            && to.send((name.clone(), ready)).await.is_err()
        {
            return;
        }
    }
}

/// How long a container has to end after its probe failed: the probe may say so itself.
fn grace(pod: &Pod, part: &Part, which: Which) -> Duration {
    let probe = match which {
        Which::Startup => &part.container.startup_probe,
        Which::Liveness => &part.container.liveness_probe,
        Which::Readiness => &None,
    };
    let own = probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
    own.filter(|seconds| *seconds >= 0).map_or_else(|| end::grace(pod), end::grace_of)
}

/// What the Pod's status says about this very run. It was found out by an agent before this one: else a restart of the agent
/// would take every probed container out of its Services until the first probe.
fn before(pod: &Pod, run: &Run) -> Before {
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().chain(&status.init_container_statuses).flatten());
    let same = |status: &&ContainerStatus| {
        status.name == run.id.name && status.container_id.as_deref() == Some(&status_id(run))
    };
    let Some(status) = statuses.into_iter().find(same) else { return Before::default() };
    let started = status.started == Some(true);
    Before { started, ready: started && status.ready }
}

#[cfg(test)]
mod tests {
    use super::super::status::tests::sandbox;
    use super::*;

    #[test]
    fn a_probe_may_have_a_grace_of_its_own() {
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {
            "terminationGracePeriodSeconds": 20,
            "containers": [{"name": "c", "livenessProbe": {"terminationGracePeriodSeconds": 3}},
                {"name": "d", "livenessProbe": {"terminationGracePeriodSeconds": i64::MAX}}],
        }}))
        .unwrap();
        let part = &parts(&pod)[0];
        assert_eq!(grace(&pod, part, Which::Liveness).as_secs(), 3);
        assert_eq!(grace(&pod, part, Which::Startup).as_secs(), 20);
        let longest = grace(&pod, &parts(&pod)[1], Which::Liveness);
        assert!(std::time::Instant::now().checked_add(longest).is_some());
    }

    #[test]
    fn what_was_known_counts_for_the_same_run_only() {
        let run =
            |name, attempt| sandbox(&[(name, attempt, ContainerState::Running, 0)]).containers.remove(0);
        let status = serde_json::json!({"containerStatuses": [{
            "name": "c", "containerID": status_id(&run("c", 0)), "image": "", "imageID": "", "restartCount": 0,
            "started": true, "ready": true,
        }]});
        let pod = Pod { status: serde_json::from_value(status).unwrap(), ..Pod::default() };
        assert_eq!(before(&pod, &run("c", 0)), Before { started: true, ready: true });
        assert_eq!(before(&pod, &run("c", 1)), Before::default());
        assert_eq!(before(&pod, &run("d", 0)), Before::default());
    }
}
