//! Running a Pod's containers: init containers in turn, then the others; images first; again after an end, with a back-off.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container, Pod, Service};
use kube::ResourceExt;
use yunfan_client::Severity;
use yunfan_runtime::{ContainerConfig, ContainerState, RuntimeError, SandboxStatus};

use super::env::{Sources, expand, variables};
use super::status::{Waiting, last_run, restart_policy, restarts, runs_of, succeeded};
use super::{PodError, Pods, resources, volumes::Volumes};
use crate::links::PodLink;

/// First wait before a container that keeps ending is run once more; each further one doubles it.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// Longest such wait.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);
/// A run of this length clears the back-off.
const GOOD_RUN: Duration = Duration::from_secs(600);
/// Wait after a failed pull.
const PULL_AGAIN: Duration = Duration::from_secs(10);

/// What to do about a container now.
enum Step {
    /// It runs, or has ended for good.
    Nothing,
    /// Start this attempt.
    Start(u32),
    /// Start again after this time.
    Wait(Duration),
}

impl Pods {
    /// Starts what should run and does not. Returns when to look again.
    pub(super) async fn run_containers(
        self: &Arc<Self>,
        pod: &Pod,
        link: &PodLink,
        volumes: &Volumes,
    ) -> Result<Option<Duration>, PodError> {
        let spec = pod.spec.clone().unwrap_or_default();
        let policy = restart_policy(pod).to_owned();
        for container in spec.init_containers.iter().flatten() {
            let sandbox = self.runtime.sandbox(&pod.uid().unwrap_or_default()).await?;
            let last = last_run(sandbox.as_ref(), &container.name);
            if last.is_some_and(succeeded) {
                continue;
            }
            // An init container runs again unless the policy is Never; the Pod fails then.
            let init_policy = if policy == "Never" { "Never" } else { "OnFailure" };
            return self.run_container(pod, container, init_policy, sandbox.as_ref(), link, volumes).await;
        }
        let sandbox = self.runtime.sandbox(&pod.uid().unwrap_or_default()).await?;
        let runs = spec
            .containers
            .iter()
            .map(|container| self.run_container(pod, container, &policy, sandbox.as_ref(), link, volumes));
        let mut again: Option<Duration> = None;
        for result in futures::future::join_all(runs).await {
            if let Some(wait) = result? {
                again = Some(again.map_or(wait, |earlier| earlier.min(wait)));
            }
        }
        Ok(again)
    }

    async fn run_container(
        &self,
        pod: &Pod,
        container: &Container,
        policy: &str,
        sandbox: Option<&SandboxStatus>,
        link: &PodLink,
        volumes: &Volumes,
    ) -> Result<Option<Duration>, PodError> {
        let uid = pod.uid().unwrap_or_default();
        let attempt = match next_step(container, policy, sandbox) {
            Step::Nothing => {
                self.remember(&uid, |local| {
                    local.known.waiting.remove(&container.name);
                });
                return Ok(None);
            }
            Step::Wait(wait) => {
                let message = format!(
                    "back-off {}s restarting failed container={} pod={}_{}({uid})",
                    wait.as_secs(),
                    container.name,
                    pod.name_any(),
                    pod.namespace().unwrap_or_default(),
                );
                self.shared.recorder.event(
                    pod,
                    Severity::Warning,
                    "BackOff",
                    format!("Back-off restarting failed container {}", container.name),
                );
                self.waits(&uid, container, "CrashLoopBackOff", message);
                return Ok(Some(wait));
            }
            Step::Start(attempt) => attempt,
        };
        if let Some(wait) = self.have_image(pod, container).await? {
            return Ok(Some(wait));
        }
        let config = self.container_config(pod, container, attempt, link, volumes).await?;
        self.runtime.create_and_start(&uid, config).await?;
        self.remember(&uid, |local| {
            local.known.waiting.remove(&container.name);
            local.known.ready.remove(&container.name);
            local.known.started.remove(&container.name);
        });
        self.shared.recorder.event(
            pod,
            Severity::Normal,
            "Started",
            format!("Started container {}", container.name),
        );
        self.forget_old_runs(container, sandbox).await?;
        Ok(None)
    }

    fn waits(&self, uid: &str, container: &Container, reason: &'static str, message: String) {
        self.remember(uid, |local| {
            local.known.waiting.insert(container.name.clone(), Waiting { reason, message });
        });
    }

    /// Makes sure that the image is here. Returns how long to wait where it can't be had now.
    async fn have_image(&self, pod: &Pod, container: &Container) -> Result<Option<Duration>, PodError> {
        let image = container.image.clone().unwrap_or_default();
        let present = self.images.resolve(&image).is_some();
        let policy = container.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        if present && policy != "Always" {
            return Ok(None);
        }
        let uid = pod.uid().unwrap_or_default();
        if policy == "Never" {
            let message = format!("image {image} is not on this node, and imagePullPolicy is Never");
            self.shared.recorder.event(pod, Severity::Warning, "ErrImageNeverPull", message.clone());
            self.waits(&uid, container, "ErrImageNeverPull", message);
            return Ok(Some(PULL_AGAIN));
        }
        let started = std::time::Instant::now();
        match self.images.pull(&image, Default::default(), None).await {
            Ok(_) => {
                let message = format!("Successfully pulled image \"{image}\" in {:?}", started.elapsed());
                self.shared.recorder.event(pod, Severity::Normal, "Pulled", message);
                Ok(None)
            }
            // Imported images have no registry to ask, and a registry that is down keeps no known image from running.
            Err(RuntimeError::Pull { .. }) if present => Ok(None),
            Err(error) => {
                let reason = match &error {
                    RuntimeError::BadReference { .. } => "InvalidImageName",
                    _ => "ErrImagePull",
                };
                let message = format!("Failed to pull image \"{image}\": {error}");
                self.shared.recorder.event(pod, Severity::Warning, "Failed", message.clone());
                self.waits(&uid, container, reason, message);
                Ok(Some(PULL_AGAIN))
            }
        }
    }

    async fn container_config(
        &self,
        pod: &Pod,
        container: &Container,
        attempt: u32,
        link: &PodLink,
        volumes: &Volumes,
    ) -> Result<ContainerConfig, PodError> {
        let services = self.shared.informers.of::<Service>();
        services.synced().await;
        let sources = Sources {
            pod,
            pod_ip: Some(link.ip),
            host_ip: self.shared.address,
            services: &services.list(),
            writer: &self.shared.writer,
        };
        let env = variables(container, &sources).await?;
        let known: BTreeMap<&str, &str> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expanded = |words: Option<&Vec<String>>| -> Vec<String> {
            words.into_iter().flatten().map(|word| expand(word, &known)).collect()
        };
        let pod_security =
            pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
        let security = container.security_context.clone().unwrap_or_default();
        if security.privileged == Some(true) {
            let text =
                format!("container {}: securityContext.privileged is not supported here", container.name);
            return Err(PodError::Unsupported(text));
        }
        let id = |own: Option<i64>, pods: Option<i64>| own.or(pods).and_then(|id| u32::try_from(id).ok());
        let mut groups: Vec<u32> = pod_security
            .supplemental_groups
            .iter()
            .flatten()
            .filter_map(|id| u32::try_from(*id).ok())
            .collect();
        groups.extend(pod_security.fs_group.and_then(|id| u32::try_from(id).ok()));
        let capabilities = security.capabilities.unwrap_or_default();
        Ok(ContainerConfig {
            name: container.name.clone(),
            attempt,
            image: container.image.clone().unwrap_or_default(),
            command: expanded(container.command.as_ref()),
            args: expanded(container.args.as_ref()),
            working_dir: container.working_dir.clone(),
            mounts: volumes.mounts(container)?,
            resources: resources::cgroup(container.resources.as_ref()),
            run_as_user: id(security.run_as_user, pod_security.run_as_user),
            run_as_group: id(security.run_as_group, pod_security.run_as_group),
            run_as_non_root: security.run_as_non_root.or(pod_security.run_as_non_root).unwrap_or(false),
            supplemental_groups: groups,
            read_only_root: security.read_only_root_filesystem.unwrap_or(false),
            allow_privilege_escalation: security.allow_privilege_escalation.unwrap_or(false),
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            tty: container.tty.unwrap_or(false),
            stdin: container.stdin.unwrap_or(false),
            stdin_once: container.stdin_once.unwrap_or(false),
            labels: BTreeMap::new(),
            env,
        })
    }

    /// Keeps the last run and the one before it (for `kubectl logs --previous`); older ones go.
    async fn forget_old_runs(
        &self,
        container: &Container,
        sandbox: Option<&SandboxStatus>,
    ) -> Result<(), PodError> {
        let runs = runs_of(sandbox, &container.name);
        for run in runs.iter().rev().skip(1) {
            self.runtime.remove_container(&run.id).await?;
        }
        Ok(())
    }
}

fn next_step(container: &Container, policy: &str, sandbox: Option<&SandboxStatus>) -> Step {
    let Some(last) = last_run(sandbox, &container.name) else { return Step::Start(0) };
    match last.state {
        ContainerState::Created | ContainerState::Running => Step::Nothing,
        ContainerState::Exited if !restarts(policy, last) => Step::Nothing,
        ContainerState::Exited => {
            let ran = match (last.started_at, last.finished_at) {
                (Some(start), Some(end)) => end.duration_since(start).unwrap_or_default(),
                _ => Duration::ZERO,
            };
            let since = last.finished_at.and_then(|at| SystemTime::now().duration_since(at).ok());
            let wait = backoff(last.id.attempt, ran);
            match wait.checked_sub(since.unwrap_or(wait)) {
                Some(left) if !left.is_zero() => Step::Wait(left),
                _ => Step::Start(last.id.attempt + 1),
            }
        }
    }
}

/// How long a container stays down after its run number `attempt`, which lasted `ran`. The first time it
/// comes up again at once.
fn backoff(attempt: u32, ran: Duration) -> Duration {
    if attempt == 0 || ran >= GOOD_RUN {
        return Duration::ZERO;
    }
    FIRST_BACKOFF.saturating_mul(1 << (attempt - 1).min(8)).min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_doubles_and_a_good_run_clears_it() {
        let seconds = |attempt, ran| backoff(attempt, Duration::from_secs(ran)).as_secs();
        assert_eq!(seconds(0, 0), 0);
        assert_eq!(seconds(1, 0), 10);
        assert_eq!(seconds(2, 0), 20);
        assert_eq!(seconds(9, 0), 300);
        assert_eq!(seconds(4_000_000, 0), 300);
        assert_eq!(seconds(5, 601), 0);
    }
}
