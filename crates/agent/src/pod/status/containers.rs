//! The status of one container.

use std::time::SystemTime;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, LinuxContainerUser, Pod, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use yunfan_runtime::{ContainerState as RunState, ContainerStatus as Run, SandboxStatus};

use super::super::parts::{Kind, Part, restarts};
use super::super::plan::{has_started, status_of};
use super::super::resize;
use super::super::rounds::{RESTARTING, Round};
use super::{Known, Waiting, runs_of, seconds, status_id, succeeded};

/// The code of a container whose first process could not be started.
pub(crate) const START_FAILED: i32 = 128;
/// The code of a container of which nobody knows how it ended.
const LOST: i32 = 137;

pub(super) fn status(
    pod: &Pod,
    part: &Part,
    (sandbox, round): (Option<&SandboxStatus>, &Round),
    known: &Known,
) -> ContainerStatus {
    let container = &part.container;
    let runs = runs_of(sandbox, &container.name);
    let Some(last) = runs.last() else { return without_run(pod, part, known) };
    let running = last.state == RunState::Running;
    // What is over is to run again, whatever it was.
    let restarting = Waiting { reason: RESTARTING, message: String::new() };
    let again = (part.kind != Kind::Ephemeral && round.is_over(last)).then_some(&restarting);
    let waiting = known.waiting.get(&container.name).or(again);
    // A container that ended and waits for its next run shows why it waits; its end is its last state then.
    let shows_wait = waiting.filter(|_| !running);
    let state = match shows_wait {
        Some(waiting) => waiting_state(waiting.reason, &waiting.message),
        None => state_of(last, known),
    };
    let ended_before =
        if shows_wait.is_some() { Some(*last) } else { runs.len().checked_sub(2).map(|i| runs[i]) };
    let started =
        running && has_started(container, known) && known.started.get(&container.name) != Some(&false);
    let ready = match part.kind {
        Kind::Init => shows_wait.is_none() && succeeded(last),
        Kind::Ephemeral => false,
        Kind::Main | Kind::Sidecar => started && known.ready.get(&container.name).copied().unwrap_or(true),
    };
    let given =
        if running { Some(resize::applied(pod, part, last, known)) } else { container.resources.clone() };
    ContainerStatus {
        name: container.name.clone(),
        image: last.image.clone(),
        image_id: last.image_id.clone(),
        container_id: Some(status_id(last)),
        ready,
        started: Some(started),
        restart_count: i32::try_from(last.id.attempt).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: ended_before
            .filter(|run| run.state == RunState::Exited)
            .map(|run| state_of(run, known))
            .or_else(|| before_the_first(pod, part, last).filter(|_| runs.len() < 2)),
        allocated_resources: given.as_ref().and_then(|resources| resources.requests.clone()),
        resources: given,
        volume_mounts: mounts(container),
        user: running.then(|| user(last)),
        stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        ..ContainerStatus::default()
    }
}

/// How the run before ended that the status tells of, where this node knows one run alone: an earlier sandbox went with its runs.
fn before_the_first(pod: &Pod, part: &Part, first: &Run) -> Option<ContainerState> {
    let old = status_of(pod, part)?;
    let ended = old.state.clone().filter(|state| state.terminated.is_some());
    let another = old.container_id.as_ref().is_some_and(|id| *id != status_id(first));
    ended.filter(|_| another).or_else(|| old.last_state.clone())
}

/// A container that this node knows no run of.
fn without_run(pod: &Pod, part: &Part, known: &Known) -> ContainerStatus {
    let container = &part.container;
    let old = status_of(pod, part).filter(|old| old.container_id.is_some());
    let ended = |old: &&ContainerStatus| {
        let terminated = old.state.as_ref().and_then(|state| state.terminated.as_ref());
        terminated.is_some_and(|terminated| !restarts(pod, part, terminated.exit_code))
    };
    if let Some(old) = old.filter(ended) {
        // It ended for good in a sandbox that is lost.
        return old.clone();
    }
    if let Some(old) = old.filter(|_| part.kind == Kind::Ephemeral) {
        // It went with its sandbox, and nobody saw how. It is not run again.
        let terminated = ContainerStateTerminated {
            exit_code: LOST,
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was looked at".to_owned()),
            ..ContainerStateTerminated::default()
        };
        let state = ContainerState { terminated: Some(terminated), ..ContainerState::default() };
        return ContainerStatus { ready: false, started: Some(false), state: Some(state), ..old.clone() };
    }
    let state = match known.waiting.get(&container.name) {
        Some(waiting) => waiting_state(waiting.reason, &waiting.message),
        None if part.kind == Kind::Main && has_init(pod) => waiting_state("PodInitializing", ""),
        None if matches!(part.kind, Kind::Init | Kind::Sidecar) => waiting_state("PodInitializing", ""),
        None => waiting_state("ContainerCreating", ""),
    };
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        started: Some(false),
        restart_count: old.map_or(0, |old| old.restart_count),
        last_state: old.and_then(|old| {
            old.state.clone().filter(|state| state.terminated.is_some()).or_else(|| old.last_state.clone())
        }),
        state: Some(state),
        volume_mounts: mounts(container),
        ..ContainerStatus::default()
    }
}

fn has_init(pod: &Pod) -> bool {
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).next().is_some()
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty())?;
    let status = mounts.iter().map(|mount| {
        let recursive = mount.recursive_read_only.as_deref().map(|wish| match wish {
            "Enabled" | "IfPossible" => "Enabled",
            _ => "Disabled",
        });
        VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only.filter(|read_only| *read_only),
            recursive_read_only: recursive
                .or_else(|| mount.read_only.filter(|read_only| *read_only).map(|_| "Disabled"))
                .map(str::to_owned),
            ..VolumeMountStatus::default()
        }
    });
    Some(status.collect())
}

fn user(run: &Run) -> ContainerUser {
    let mut groups: Vec<i64> = run.user.groups.iter().map(|group| i64::from(*group)).collect();
    groups.sort_unstable();
    ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: run.user.uid.into(),
            gid: run.user.gid.into(),
            supplemental_groups: Some(groups),
        }),
    }
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()).filter(|m| !m.is_empty()),
        }),
        ..ContainerState::default()
    }
}

fn state_of(run: &Run, known: &Known) -> ContainerState {
    match run.state {
        RunState::Created => waiting_state("ContainerCreating", ""),
        RunState::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: run.started_at.and_then(time) }),
            ..ContainerState::default()
        },
        RunState::Exited => {
            ContainerState { terminated: Some(ended(run, known)), ..ContainerState::default() }
        }
    }
}

/// Why a run ended, in Kubernetes' words.
pub(in crate::pod) fn end_reason(run: &Run) -> &'static str {
    match run.exit_code.unwrap_or(-1) {
        0 => "Completed",
        _ if run.lost => "ContainerStatusUnknown",
        _ if run.oom_killed => "OOMKilled",
        START_FAILED if run.started_at.is_none() => "StartError",
        _ => "Error",
    }
}

fn ended(run: &Run, known: &Known) -> ContainerStateTerminated {
    let code = run.exit_code.unwrap_or(-1);
    let reason = end_reason(run);
    let told = known.messages.get(&(run.id.name.clone(), run.id.attempt));
    let message = told.filter(|told| !told.is_empty()).unwrap_or(&run.message);
    ContainerStateTerminated {
        exit_code: code,
        reason: Some(reason.to_owned()),
        message: Some(message.clone()).filter(|m| !m.is_empty()),
        started_at: run.started_at.and_then(time),
        finished_at: run.finished_at.and_then(time),
        container_id: Some(status_id(run)),
        ..ContainerStateTerminated::default()
    }
}

fn time(at: SystemTime) -> Option<Time> {
    Timestamp::try_from(at).ok().map(seconds)
}
