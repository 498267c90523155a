//! What the container runtime has of ours. Its lists are short and cheap; what they do not say of a container (how it ended, as whom
//! it runs) is asked once for each state, and remembered.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, SystemTime};

use k8s_cri::v1::{
    self as cri, ContainerFilter, ContainerStatusRequest, ListContainersRequest, ListPodSandboxRequest,
    PodSandboxFilter, PodSandboxState,
};
use serde::{Deserialize, Serialize};
use yunfan_runtime::{
    ContainerId, ContainerState, ContainerStatus, Result, RunUser, RuntimeError, SandboxStatus, kit,
};

use crate::api::{BRIEF, PATIENCE, call, failed, within};
use crate::runtime::Inner;

/// Label of all that is ours: the instance's tag.
pub(crate) const INSTANCE: &str = "yunfan.instance";
/// The labels by which the kubelet and its tools name things.
pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
pub(crate) const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation with the sandbox or the run as it was asked for, as JSON.
pub(crate) const ASKED: &str = "yunfan.asked";
/// So long after a container's end all is known about it: runtimes hear of the kernel's killing for memory in their own time.
const SETTLED: Duration = Duration::from_secs(5);
/// Exit code of what could not be started.
const NOT_STARTED: i32 = 128;

/// What is written down with a run, because the runtime would give it back in another form or not at all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) stop_signal: Option<String>,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
    pub(crate) labels: BTreeMap<String, String>,
}

/// A sandbox and its containers.
#[derive(Clone)]
pub(crate) struct Seen {
    /// The runtime's name for it.
    pub(crate) id: String,
    pub(crate) status: SandboxStatus,
    /// The runs that the runtime knows: those that could not be made are not among them.
    pub(crate) runs: BTreeMap<ContainerId, Run>,
    /// Runs of which the runtime did not say how they are, when it was asked for all pods: they are not among the others.
    pub(crate) unclear: BTreeSet<ContainerId>,
}

/// What is known of a run beside its status.
#[derive(Clone)]
pub(crate) struct Run {
    /// The runtime's name for it.
    pub(crate) name: String,
    pub(crate) tty: bool,
    pub(crate) stdin: bool,
}

impl Seen {
    pub(crate) fn container(&self, id: &ContainerId) -> Option<&ContainerStatus> {
        self.status.containers.iter().find(|known| known.id == *id)
    }
}

/// What was asked of containers, by the runtime's names and states.
#[derive(Default)]
pub(crate) struct Details(HashMap<String, (i32, Detail)>);

#[derive(Debug, Clone, Default)]
struct Detail {
    pid: Option<i32>,
    user: RunUser,
    started_at: Option<SystemTime>,
    finished_at: Option<SystemTime>,
    exit_code: i32,
    reason: String,
    message: String,
}

/// What runtimes say of a container when they are asked for more, as JSON under `info`; containerd and CRI-O agree on this much.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Info {
    pid: Option<i32>,
    runtime_spec: Spec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Spec {
    process: Process,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Process {
    user: User,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct User {
    uid: u32,
    gid: u32,
    additional_gids: Vec<u32>,
}

impl Inner {
    /// All sandboxes, or the one of a pod.
    ///
    /// # Errors
    /// The runtime does not answer; of one pod, also where it does not say how one of its containers is.
    pub(crate) async fn look(&self, uid: Option<&str>) -> Result<BTreeMap<String, Seen>> {
        let mut labels: HashMap<String, String> = [(INSTANCE.to_owned(), self.config.tag.clone())].into();
        labels.extend(uid.map(|uid| (POD_UID.to_owned(), uid.to_owned())));
        let filter = PodSandboxFilter { label_selector: labels.clone(), ..PodSandboxFilter::default() };
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let sandboxes = call("list of sandboxes", self.api.runtime.clone().list_pod_sandbox(request)).await?;
        let filter = ContainerFilter { label_selector: labels, ..ContainerFilter::default() };
        let request = ListContainersRequest { filter: Some(filter) };
        let containers =
            call("list of containers", self.api.runtime.clone().list_containers(request)).await?;
        let mut seen = BTreeMap::new();
        // Should there be two of a pod, the one that is alive counts.
        let mut items = sandboxes.items;
        items.sort_by_key(|item| (item.state != PodSandboxState::SandboxReady as i32, -item.created_at));
        for item in items {
            let Some(found) = sandbox_of(item) else { continue };
            seen.entry(found.status.config.uid.clone()).or_insert(found);
        }
        let mut known = HashSet::new();
        for item in containers.containers {
            known.insert(item.id.clone());
            let Some((id, asked)) = run_of(&item) else { continue };
            let Some(pod) = seen.get_mut(&id.pod_uid) else { continue };
            // One that was removed since the list was made is no run any more.
            let detail = match self.detail(&item, uid.is_some()).await {
                Ok(Some(detail)) => detail,
                Ok(None) => continue,
                // Who asks for one pod wants to know; one container keeps nobody from seeing all others.
                Err(error) if uid.is_none() => {
                    tracing::debug!(%error, %id, "the container runtime does not say how a container is");
                    pod.unclear.insert(id);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let run = Run { name: item.id, tty: asked.tty, stdin: asked.stdin };
            let runtime_id = Some(format!("{}://{}", self.version.runtime_name, run.name));
            pod.runs.insert(id.clone(), run);
            let status = status_of(id, item.state, asked, detail);
            pod.status.containers.push(ContainerStatus { runtime_id, ..status });
        }
        if uid.is_none() {
            self.details().0.retain(|id, _| known.contains(id));
        }
        for (uid, pod) in &mut seen {
            for failed in failures(&self.pod_dir(uid)) {
                if pod.container(&failed.id).is_none() {
                    pod.status.containers.push(failed);
                }
            }
            pod.status.containers.sort_by(|a, b| a.id.cmp(&b.id));
        }
        Ok(seen)
    }

    /// The sandbox of a pod.
    pub(crate) async fn pod(&self, uid: &str) -> Result<Seen> {
        let found = self.look(Some(uid)).await?.remove(uid);
        found.ok_or_else(|| RuntimeError::SandboxNotFound(uid.to_owned()))
    }

    /// A run and the runtime's name for it.
    pub(crate) async fn run(&self, id: &ContainerId) -> Result<(ContainerStatus, Option<String>)> {
        let pod = self.pod(&id.pod_uid).await?;
        let status = pod.container(id).cloned();
        let status = status.ok_or_else(|| RuntimeError::ContainerNotFound(id.to_string()))?;
        Ok((status, pod.runs.get(id).map(|run| run.name.clone())))
    }

    /// The runtime's name for a run that runs.
    pub(crate) async fn running(&self, id: &ContainerId) -> Result<String> {
        match self.run(id).await? {
            (ContainerStatus { state: ContainerState::Running, .. }, Some(name)) => Ok(name),
            _ => Err(RuntimeError::NotRunning(id.to_string())),
        }
    }

    async fn detail(&self, item: &cri::Container, patient: bool) -> Result<Option<Detail>> {
        if let Some((_, detail)) = self.details().0.get(&item.id).filter(|(state, _)| *state == item.state) {
            return Ok(Some(detail.clone()));
        }
        const ACTION: &str = "status of a container";
        let request = ContainerStatusRequest { container_id: item.id.clone(), verbose: true };
        let time = if patient { PATIENCE } else { BRIEF };
        let answer = within(time, ACTION, self.api.runtime.clone().container_status(request)).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(status) if status.code() == tonic::Code::NotFound => return Ok(None),
            Err(status) => return Err(failed(ACTION, &status)),
        };
        let status = answer.status.unwrap_or_default();
        let info: Info =
            answer.info.get("info").and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let user = info.runtime_spec.process.user;
        let mut groups = vec![user.gid];
        groups.extend(user.additional_gids.into_iter().filter(|group| *group != user.gid));
        let detail = Detail {
            pid: info.pid.filter(|pid| *pid > 0),
            user: RunUser { uid: user.uid, gid: user.gid, groups },
            started_at: time_of(status.started_at),
            finished_at: time_of(status.finished_at),
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
        };
        // It may have changed since the list was made, and why it ended may become known a moment after that it did: then this is asked
        // again with the next list.
        let young = |at: SystemTime| at.elapsed().is_ok_and(|age| age < SETTLED);
        if status.state == item.state && !detail.finished_at.is_some_and(young) {
            self.details().0.insert(item.id.clone(), (item.state, detail.clone()));
        }
        Ok(Some(detail))
    }

    fn details(&self) -> std::sync::MutexGuard<'_, Details> {
        // Only single insertions and removals happen under it.
        self.details.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A moment in nanoseconds since 1970; 0 is none.
fn time_of(nanos: i64) -> Option<SystemTime> {
    let nanos = u64::try_from(nanos).ok().filter(|nanos| *nanos > 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanos))
}

fn sandbox_of(item: cri::PodSandbox) -> Option<Seen> {
    let config = item.annotations.get(ASKED).and_then(|text| serde_json::from_str(text).ok())?;
    let ready = item.state == PodSandboxState::SandboxReady as i32;
    let status = SandboxStatus { config, ready, shim_pid: None, containers: Vec::new() };
    Some(Seen { id: item.id, status, runs: BTreeMap::new(), unclear: BTreeSet::new() })
}

fn run_of(item: &cri::Container) -> Option<(ContainerId, Asked)> {
    let asked = item.annotations.get(ASKED).and_then(|text| serde_json::from_str(text).ok())?;
    let metadata = item.metadata.as_ref()?;
    Some((ContainerId::new(item.labels.get(POD_UID)?, &metadata.name, metadata.attempt), asked))
}

fn status_of(id: ContainerId, state: i32, asked: Asked, detail: Detail) -> ContainerStatus {
    let state = match cri::ContainerState::try_from(state) {
        Ok(cri::ContainerState::ContainerRunning) => ContainerState::Running,
        Ok(cri::ContainerState::ContainerCreated) => ContainerState::Created,
        // One that the runtime lost is over.
        _ => ContainerState::Exited,
    };
    let ended = state == ContainerState::Exited;
    ContainerStatus {
        id,
        state,
        image_id: asked.image_id,
        image: asked.image,
        pid: detail.pid.filter(|_| state == ContainerState::Running),
        exit_code: ended.then_some(detail.exit_code),
        started_at: detail.started_at,
        // Two processes take these times: of one that ended at once they may be the wrong way round.
        finished_at: detail.finished_at.max(detail.started_at).filter(|_| ended),
        oom_killed: detail.reason == "OOMKilled",
        lost: ended && detail.reason == "Unknown",
        message: detail.message,
        user: detail.user,
        stop_signal: asked.stop_signal,
        labels: asked.labels,
        runtime_id: None,
    }
}

/// Where it is written down that a run could not be made: the runtime knows nothing of it.
fn failure_of(pod: &Path, id: &ContainerId) -> std::path::PathBuf {
    pod.join("failed").join(format!("{}.json", id.local()))
}

/// Writes down that a run could not be made.
pub(crate) fn record_failure(pod: &Path, id: &ContainerId, asked: Asked, reason: &str) -> Result<()> {
    let now = SystemTime::now();
    let detail = Detail {
        exit_code: NOT_STARTED,
        finished_at: Some(now),
        message: reason.to_owned(),
        ..Detail::default()
    };
    let exited = cri::ContainerState::ContainerExited as i32;
    record(pod, &status_of(id.clone(), exited, asked, detail))
}

/// Writes down how a run ended that the runtime knows nothing of, or is to forget.
pub(crate) fn record(pod: &Path, status: &ContainerStatus) -> Result<()> {
    let dir = pod.join("failed");
    std::fs::create_dir_all(&dir).map_err(RuntimeError::io("create", &dir))?;
    kit::write_json(&failure_of(pod, &status.id), status, false)
}

/// Forgets that a run could not be made.
pub(crate) fn forget_failure(pod: &Path, id: &ContainerId) {
    let _ = std::fs::remove_file(failure_of(pod, id));
}

fn failures(pod: &Path) -> Vec<ContainerStatus> {
    let entries = std::fs::read_dir(pod.join("failed")).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "json"))
        .filter_map(|entry| serde_json::from_slice(&std::fs::read(entry.path()).ok()?).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        serde_json::from_value(serde_json::json!({"image": "i", "image_id": "sha256:x", "stop_signal": null, "tty": false, "stdin": false,
            "labels": {}}))
        .unwrap()
    }

    #[test]
    fn what_runtimes_say_becomes_what_the_agent_knows() {
        let detail = Detail { pid: Some(7), exit_code: 255, reason: "Unknown".into(), ..Detail::default() };
        let id = || ContainerId::new("u", "c", 1);
        let of = |state| status_of(id(), state as i32, asked(), detail.clone());
        let running = of(cri::ContainerState::ContainerRunning);
        assert_eq!((running.state, running.pid, running.exit_code), (ContainerState::Running, Some(7), None));
        assert!(!running.lost);
        let unknown = of(cri::ContainerState::ContainerUnknown);
        assert_eq!(
            (unknown.state, unknown.exit_code, unknown.lost),
            (ContainerState::Exited, Some(255), true)
        );
        assert_eq!((time_of(0), time_of(-1)), (None, None));
    }

    #[test]
    fn a_run_that_could_not_be_made_is_remembered_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let id = ContainerId::new("u", "c", 0);
        assert!(failures(dir.path()).is_empty());
        record_failure(dir.path(), &id, asked(), "no such program").unwrap();
        let found = failures(dir.path());
        assert_eq!((found[0].exit_code, found[0].started_at), (Some(128), None));
        assert_eq!((found[0].id.clone(), found[0].message.as_str()), (id.clone(), "no such program"));
        forget_failure(dir.path(), &id);
        assert!(failures(dir.path()).is_empty());
    }
}
