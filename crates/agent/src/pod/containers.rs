//! Starting a Pod's containers as the plan says: images first, then the container, then what is to be done after its start.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::core::v1::{Container, Pod, Service};
use kube::ResourceExt;
use tokio_util::task::AbortOnDropHandle;
use yunfan_client::{ObjectKey, Severity};
use yunfan_runtime::{ContainerConfig, ContainerId, ContainerState, Mount, SandboxStatus};

use super::backoff;
use super::env::{EnvError, Room, Sources, TooLarge, expand, variables};
use super::http::Reach;
use super::image::{Images, NotHere};
use super::parts::{Kind, Part, parts};
use super::plan::{self, End};
use super::rounds::{LABEL, RESTARTING, Restart};
use super::status::{Known, Waiting, last_run, runs_of};
use super::{PodError, Pods, hooks, resources, security, tenant, volumes::Volumes};
use crate::links::PodLink;

/// When to try again what failed for a reason that nobody will tell of.
const RETRY: Duration = Duration::from_secs(10);
/// Where a container leaves its last words, unless it says otherwise.
const MESSAGE_PATH: &str = "/dev/termination-log";

/// What came of a pass over the containers.
#[derive(Debug, Default)]
pub(super) struct Pass {
    /// When to look again.
    pub(super) again: Option<Duration>,
    /// The Pod is to end.
    pub(super) end: Option<End>,
}

/// What is at hand for starting containers.
pub(super) struct Ready<'a> {
    pub(super) pod: &'a Pod,
    pub(super) link: &'a PodLink,
    pub(super) volumes: &'a Volumes,
}

pub(super) fn sooner(a: Option<Duration>, b: Option<Duration>) -> Option<Duration> {
    a.into_iter().chain(b).min()
}

impl Pods {
    /// Starts what should run and does not.
    pub(super) async fn run_containers(self: &Arc<Self>, ready: &Ready<'_>) -> Result<Pass, PodError> {
        let pod = ready.pod;
        let uid = pod.uid().unwrap_or_default();
        // Those that can't be started in this pass.
        let mut held: HashSet<String> = HashSet::new();
        let mut again = None;
        let mut told = false;
        loop {
            let sandbox = self.runtime.sandbox(&uid).await?;
            let known = self.lock().get(&uid).map(|local| local.known.clone()).unwrap_or_default();
            if let Some(end) = self.shut_down_end(pod) {
                return Ok(Pass { again, end: Some(end) });
            }
            let plan = plan::plan(pod, sandbox.as_ref(), &known);
            again = sooner(again, plan.again);
            if plan.end.is_some() {
                return Ok(Pass { again, end: plan.end });
            }
            if let Some(restart) = plan.restart.as_ref().filter(|_| !told) {
                told = true;
                self.restart_all(pod, restart, sandbox.as_ref()).await?;
                continue;
            }
            for part in &plan.wait {
                self.back_off(pod, part, (&known, sandbox.as_ref()));
            }
            let replace = plan.replace.iter().map(|part| self.replace(pod, part, sandbox.as_ref()));
            futures::future::join_all(replace).await;
            let start: Vec<_> = plan.start.iter().filter(|(part, _)| !held.contains(part.name())).collect();
            if start.is_empty() && plan.replace.is_empty() {
                return Ok(Pass { again, end: None });
            }
            // All images are fetched at once; then one container after the other is started, each behind what the one before it wants
            // done after its start: those before it may be what it needs, as a proxy is.
            let fetched: Vec<_> = start.iter().map(|(part, _)| self.fetch(pod, part)).collect();
            for ((part, attempt), images) in start.into_iter().zip(fetched) {
                let images = images.await.map_err(PodError::Images)?;
                if self.is_leaving(pod) {
                    // It came while others were started; the next pass ends it.
                    return Ok(Pass { again: Some(Duration::ZERO), end: None });
                }
                let run = (*attempt, plan.round);
                if let Some(wait) = self.start(ready, part, run, (sandbox.as_ref(), images)).await {
                    held.insert(part.name().to_owned());
                    again = sooner(again, Some(wait));
                }
            }
        }
    }

    /// Whether a Pod is to end that was not when this pass began.
    fn is_leaving(&self, pod: &Pod) -> bool {
        let now = self.current(&ObjectKey::of(pod));
        let stays = now.filter(|now| now.uid() == pod.uid() && now.metadata.deletion_timestamp.is_none());
        stays.is_none()
    }

    /// Fetches a container's images, also while others are started.
    fn fetch(self: &Arc<Self>, pod: &Pod, part: &Part) -> AbortOnDropHandle<Result<Images, NotHere>> {
        let (pods, pod, part) = (self.clone(), pod.clone(), part.clone());
        AbortOnDropHandle::new(tokio::spawn(async move { pods.images_of(&pod, &part).await }))
    }

    /// Starts one run. Returns how long to wait before the next try when it could not be.
    async fn start(
        self: &Arc<Self>,
        ready: &Ready<'_>,
        part: &Part,
        (attempt, round): (u32, u32),
        (sandbox, images): (Option<&SandboxStatus>, Result<Images, NotHere>),
    ) -> Option<Duration> {
        let (pod, container) = (ready.pod, &part.container);
        let images = match images {
            Ok(images) => images,
            Err(not_here) => {
                self.waits(pod, part.name(), not_here.waiting);
                return Some(not_here.again);
            }
        };
        if self.shutdown.left(pod).is_some() {
            // It came while its images were fetched; the Pod ends.
            return Some(Duration::ZERO);
        }
        let config = match self.container_config(ready, part, attempt, sandbox).await {
            Ok(config) => in_round(from_images(config, &images), round),
            Err(error) => return Some(self.failed(pod, part, "CreateContainerConfigError", &error)),
        };
        let uid = pod.uid().unwrap_or_default();
        match self.runtime.create_and_start(&uid, config).await {
            Ok(id) => {
                if let Err(error) = self.logs.link(&id) {
                    tracing::warn!(%error, %id, "the link to the log of a container could not be made");
                }
                self.remember(&uid, |local| {
                    local.known.waiting.remove(part.name());
                    local.known.ready.remove(part.name());
                    local.known.started.remove(part.name());
                    let given = container.resources.clone().unwrap_or_default();
                    local.known.applied.insert(part.name().to_owned(), (attempt, given));
                });
                self.count_restart(&uid, part, sandbox);
                self.say_of((pod, part), Severity::Normal, "Created", "Container created");
                self.say_of((pod, part), Severity::Normal, "Started", "Container started");
                self.after_start(ready, part, &id).await;
                self.forget_messages(&uid, part.name(), attempt);
                if let Err(error) = self.forget_old_runs(container, sandbox).await {
                    tracing::warn!(%error, %id, "earlier runs of a container could not be removed");
                }
                None
            }
            Err(error @ yunfan_runtime::RuntimeError::NonRoot(_)) => {
                Some(self.failed(pod, part, "CreateContainerConfigError", &error.into()))
            }
            Err(error @ yunfan_runtime::RuntimeError::Start { .. }) => {
                // It counts as a run, which the plan sees.
                self.say_of((pod, part), Severity::Warning, "Failed", format!("Error: {error}"));
                self.remember(&uid, |local| drop(local.known.waiting.remove(part.name())));
                self.count_restart(&uid, part, sandbox);
                None
            }
            Err(error) => Some(self.failed(pod, part, "CreateContainerError", &error.into())),
        }
    }

    /// A container that was started again stays down longer when it ends the next time.
    fn count_restart(&self, uid: &str, part: &Part, sandbox: Option<&SandboxStatus>) {
        let ended = last_run(sandbox, part.name()).and_then(|run| run.finished_at);
        if let Some(ended) = ended {
            self.remember(uid, |local| {
                local.known.backoffs.started(part.name(), ended, SystemTime::now());
            });
        }
    }

    /// Ends what is left of a round, at once and without a word to it, as kubelets do; the plan begins the next one.
    async fn restart_all(
        &self,
        pod: &Pod,
        restart: &Restart,
        sandbox: Option<&SandboxStatus>,
    ) -> Result<(), PodError> {
        for part in parts(pod).iter().filter(|part| part.kind != Kind::Ephemeral) {
            self.waits(pod, part.name(), Waiting { reason: RESTARTING, message: String::new() });
        }
        // What ends now must not look as if it ended by itself, should the sandbox be lost meanwhile.
        self.write_status(pod, sandbox).await?;
        // Their probes would call it a failure.
        self.remember(&pod.uid().unwrap_or_default(), super::Local::end_probes);
        let all = parts(pod);
        let ends = restart.left.iter().map(|id| {
            if let Some(part) = all.iter().find(|part| part.name() == id.name) {
                let message = format!("Stopping container {}", id.name);
                self.say_of((pod, part), Severity::Normal, "Killing", message);
            }
            self.stop_within(id, Duration::ZERO, Duration::ZERO)
        });
        futures::future::join_all(ends).await;
        Ok(())
    }

    /// Notes why a container can't be started.
    fn failed(&self, pod: &Pod, part: &Part, reason: &'static str, error: &PodError) -> Duration {
        let message = error.to_string();
        self.say_of((pod, part), Severity::Warning, "Failed", format!("Error: {message}"));
        self.waits(pod, part.name(), Waiting { reason, message });
        RETRY
    }

    /// Says that a container stays down for a while; all of the while is told, as the kubelet tells it.
    fn back_off(&self, pod: &Pod, part: &Part, (known, sandbox): (&Known, Option<&SandboxStatus>)) {
        let name = part.name();
        let ended = last_run(sandbox, name).and_then(|run| run.finished_at);
        let wait = ended.map_or(Duration::ZERO, |ended| known.backoffs.wait(name, ended));
        let message = format!(
            "back-off {} restarting failed container={name} pod={}_{}({})",
            backoff::text(wait),
            pod.name_any(),
            pod.namespace().unwrap_or_default(),
            pod.uid().unwrap_or_default(),
        );
        let text = format!(
            "Back-off restarting failed container {name} in pod {}_{}({})",
            pod.name_any(),
            pod.namespace().unwrap_or_default(),
            pod.uid().unwrap_or_default(),
        );
        self.say_of((pod, part), Severity::Warning, "BackOff", text);
        self.waits(pod, name, Waiting { reason: "CrashLoopBackOff", message });
    }

    pub(super) fn waits(&self, pod: &Pod, name: &str, waiting: Waiting) {
        self.remember(&pod.uid().unwrap_or_default(), |local| {
            local.known.waiting.insert(name.to_owned(), waiting);
        });
    }

    /// Ends a run that is not what the Pod asks for any more; the plan starts the next one.
    async fn replace(&self, pod: &Pod, part: &Part, sandbox: Option<&SandboxStatus>) {
        let Some(run) = last_run(sandbox, part.name()) else { return };
        let kind = if part.kind == Kind::Main { "Container" } else { "Init container" };
        let message = format!("{kind} {} definition changed, will be restarted", part.name());
        self.stop(pod, part, &run.id, super::end::grace(pod), &message).await;
    }

    /// What the container wants done after its start; when that fails, it is ended.
    async fn after_start(&self, ready: &Ready<'_>, part: &Part, id: &ContainerId) {
        let container = &part.container;
        let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref());
        let Some(hook) = hook else { return };
        let reach = self.reach(ready.pod, ready.link.ip);
        if let Err(reason) = hooks::run(self.runtime.as_ref(), Some(&reach), id, container, hook).await {
            tracing::info!(reason, %id, "a hook after a start failed");
            let about = (ready.pod, part);
            self.say_of(about, Severity::Warning, "FailedPostStartHook", "PostStartHook failed");
            self.stop(ready.pod, part, id, super::end::grace(ready.pod), "FailedPostStartHook").await;
        }
    }

    /// How to reach a Pod.
    pub(super) fn reach(&self, pod: &Pod, ip: std::net::IpAddr) -> Reach {
        Reach {
            uid: pod.uid().unwrap_or_default(),
            ip,
            on_host: pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)),
            networks: self.links.networks(),
        }
    }

    async fn container_config(
        &self,
        ready: &Ready<'_>,
        part: &Part,
        attempt: u32,
        sandbox: Option<&SandboxStatus>,
    ) -> Result<ContainerConfig, PodError> {
        let (pod, container) = (ready.pod, &part.container);
        if self.is_confined(pod) {
            tenant::check_container(container).map_err(PodError::Forbidden)?;
        }
        let services = self.shared.informers.of::<Service>();
        // Where nothing is known yet, it is a Pod of the node's own, which does not wait.
        if self.namespaces.is_synced() {
            services.synced().await;
        }
        let allocatable = self.allocatable();
        let sources = Sources {
            pod,
            pod_ip: Some(ready.link.ip),
            host_ip: self.shared.host,
            services: &services.list(),
            writer: &self.shared.writer,
            allocatable: &allocatable,
            volumes: ready.volumes,
            shim: sandbox.and_then(|sandbox| sandbox.shim_pid),
        };
        let mut room = Room::new();
        let env = variables(container, &sources, &mut room).await?;
        let known: BTreeMap<&str, &str> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let mut expanded = |words: Option<&Vec<String>>| -> Result<Vec<String>, EnvError> {
            let words = words.into_iter().flatten();
            let all: Result<Vec<String>, TooLarge> =
                words.map(|word| expand(word, |name| known.get(name).copied(), &mut room)).collect();
            all.map_err(|source| EnvError::TooLarge { container: container.name.clone(), source })
        };
        let (command, args) = (expanded(container.command.as_ref())?, expanded(container.args.as_ref())?);
        let mut mounts = ready.volumes.mounts(container, &known)?;
        mounts.node.push(self.message_mount(pod, container, attempt)?);
        let mut resources = resources::cgroup(Some(&resources::effective(pod, container)));
        resources.pids_limit = self.shared.settings.max_pids;
        resources.huge_limits = resources::huge_limits(pod, container);
        resources.oom_score_adj = Some(self.oom_score(pod, container));
        let mut config = ContainerConfig {
            name: container.name.clone(),
            attempt,
            image: container.image.clone().unwrap_or_default(),
            command,
            args,
            working_dir: container.working_dir.clone(),
            mounts: mounts.node,
            image_mounts: mounts.images,
            devices: mounts.devices,
            resources,
            processes_of: target(part, sandbox),
            stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
            tty: container.tty.unwrap_or(false),
            stdin: container.stdin.unwrap_or(false),
            stdin_once: container.stdin_once.unwrap_or(false),
            ..ContainerConfig::default()
        };
        security::apply(pod, container, &self.shared.root, &mut config).map_err(PodError::Forbidden)?;
        // `known` is in use until here.
        config.env = env;
        Ok(config)
    }

    /// The file that a run leaves its last words in, writable for whomever it runs as.
    fn message_mount(&self, pod: &Pod, container: &Container, attempt: u32) -> Result<Mount, PodError> {
        let file = self.message_file(&pod.uid().unwrap_or_default(), &container.name, attempt);
        let make = || {
            if let Some(dir) = file.parent() {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::write(&file, b"")?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666))
        };
        make().map_err(|source: std::io::Error| PodError::Messages(source))?;
        let path = container.termination_message_path.clone().filter(|path| !path.is_empty());
        let container_path = PathBuf::from(path.unwrap_or_else(|| MESSAGE_PATH.to_owned()));
        Ok(Mount { host_path: file, container_path, ..Mount::default() })
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
            self.logs.unlink(&run.id);
        }
        Ok(())
    }

    pub(super) fn say(
        &self,
        pod: &Pod,
        severity: Severity,
        reason: impl Into<std::borrow::Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.shared.recorder.event(pod, severity, reason, message);
    }

    /// As [`Pods::say`], of one container.
    pub(super) fn say_of(
        &self,
        (pod, part): (&Pod, &Part),
        severity: Severity,
        reason: impl Into<std::borrow::Cow<'static, str>>,
        message: impl Into<String>,
    ) {
        self.shared.recorder.event_at((pod, part.path()), severity, reason, message);
    }
}

/// Has a container made from the very images that were looked at.
fn from_images(mut config: ContainerConfig, ids: &HashMap<String, String>) -> ContainerConfig {
    config.image_id = ids.get(&config.image).cloned();
    for mount in &mut config.image_mounts {
        if let Some(id) = ids.get(&mount.image) {
            mount.image.clone_from(id);
        }
    }
    config
}

/// Notes which round of its Pod a run belongs to.
fn in_round(mut config: ContainerConfig, round: u32) -> ContainerConfig {
    if round > 0 {
        config.labels.insert(LABEL.to_owned(), round.to_string());
    }
    config
}

/// The running container whose processes an ephemeral one joins.
fn target(part: &Part, sandbox: Option<&SandboxStatus>) -> Option<ContainerId> {
    let run = last_run(sandbox, part.target.as_ref()?)?;
    (run.state == ContainerState::Running).then(|| run.id.clone())
}
