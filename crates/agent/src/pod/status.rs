//! A Pod's status, from what the runtime reports and what the agent knows besides.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::SystemTime;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use yunfan_runtime::{ContainerId, ContainerState as RunState, ContainerStatus as Run, SandboxStatus};

use crate::pod::resources::qos_class;

/// Why a container does not run yet: the reason and message of its `waiting` state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// What the agent knows of a Pod beside the runtime's report.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) pod_ip: Option<IpAddr>,
    pub(crate) host_ip: Option<IpAddr>,
    /// By container name.
    pub(crate) waiting: HashMap<String, Waiting>,
    /// By container name, for containers that have a probe: whether it says that the container is started or ready.
    pub(crate) started: HashMap<String, bool>,
    pub(crate) ready: HashMap<String, bool>,
}

/// The runs of a container, oldest first.
pub(crate) fn runs_of<'a>(sandbox: Option<&'a SandboxStatus>, name: &str) -> Vec<&'a Run> {
    let containers = sandbox.map(|s| s.containers.as_slice()).unwrap_or_default();
    let mut runs: Vec<&Run> = containers.iter().filter(|run| run.id.name == name).collect();
    runs.sort_by_key(|run| run.id.attempt);
    runs
}

/// A run's identity as people see it.
pub(crate) fn status_id(id: &ContainerId) -> String {
    format!("yunfan://{id}")
}

/// The last run of a container.
pub(crate) fn last_run<'a>(sandbox: Option<&'a SandboxStatus>, name: &str) -> Option<&'a Run> {
    runs_of(sandbox, name).pop()
}

pub(crate) fn succeeded(run: &Run) -> bool {
    run.state == RunState::Exited && run.exit_code == Some(0)
}

/// Whether a container that exited is to be run again.
pub(crate) fn restarts(policy: &str, run: &Run) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => !succeeded(run),
        _ => true,
    }
}

/// The Pod's restart policy.
pub(crate) fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// The status as JSON, ready to be merged.
pub(crate) fn build(pod: &Pod, sandbox: Option<&SandboxStatus>, known: &Known) -> Value {
    let spec = pod.spec.clone().unwrap_or_default();
    let init: Vec<ContainerStatus> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| container_status(container, sandbox, known, true))
        .collect();
    let main: Vec<ContainerStatus> =
        spec.containers.iter().map(|container| container_status(container, sandbox, known, false)).collect();
    let initialized = spec
        .init_containers
        .iter()
        .flatten()
        .all(|container| last_run(sandbox, &container.name).is_some_and(succeeded));
    let phase = phase(pod, sandbox, initialized);
    let terminal = matches!(phase, "Succeeded" | "Failed");
    let ready = !terminal && initialized && main.iter().all(|status| status.ready);
    let now = Timestamp::now();
    let before = pod.status.clone().unwrap_or_default();
    let condition = |kind: &str, value: bool, reason: Option<&str>, message: Option<String>| {
        let status = if value { "True" } else { "False" };
        let old = before.conditions.iter().flatten().find(|c| c.type_ == kind);
        let since = match old {
            Some(old) if old.status == status => old.last_transition_time.clone(),
            _ => Some(seconds(now)),
        };
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since})
    };
    let unready: Vec<&str> =
        main.iter().filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    let why = match (ready, terminal) {
        (true, _) => (None, None),
        (false, true) => (Some("PodCompleted"), None),
        (false, false) => (
            Some("ContainersNotReady"),
            Some(format!("containers with unready status: [{}]", unready.join(" "))),
        ),
    };
    let mut conditions = vec![
        condition("PodReadyToStartContainers", sandbox.is_some_and(|s| s.ready), None, None),
        condition("Initialized", initialized, (!initialized).then_some("ContainersNotInitialized"), None),
        condition("Ready", ready, why.0, why.1.clone()),
        condition("ContainersReady", ready, why.0, why.1),
    ];
    // The scheduler's condition stays as it is.
    conditions
        .extend(before.conditions.iter().flatten().filter(|c| c.type_ == "PodScheduled").map(|c| json!(c)));
    json!({
        "phase": phase,
        "conditions": conditions,
        "hostIP": known.host_ip,
        "hostIPs": known.host_ip.map(|ip| json!([{"ip": ip}])),
        "podIP": known.pod_ip,
        "podIPs": known.pod_ip.map(|ip| json!([{"ip": ip}])),
        "startTime": before.start_time.unwrap_or_else(|| seconds(now)),
        "qosClass": qos_class(pod),
        "observedGeneration": pod.metadata.generation,
        "initContainerStatuses": (!init.is_empty()).then_some(init),
        "containerStatuses": main,
    })
}

/// Kubernetes' times have whole seconds.
fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn phase(pod: &Pod, sandbox: Option<&SandboxStatus>, initialized: bool) -> &'static str {
    let spec = pod.spec.clone().unwrap_or_default();
    let policy = restart_policy(pod);
    let init_failed = spec.init_containers.iter().flatten().any(|container| {
        last_run(sandbox, &container.name)
            .is_some_and(|run| run.state == RunState::Exited && !succeeded(run) && policy == "Never")
    });
    if init_failed {
        return "Failed";
    }
    let runs: Vec<Option<&Run>> =
        spec.containers.iter().map(|container| last_run(sandbox, &container.name)).collect();
    if !initialized || runs.iter().any(Option::is_none) {
        return "Pending";
    }
    let done = |run: &Run| run.state == RunState::Exited && !restarts(policy, run);
    let runs: Vec<&Run> = runs.into_iter().flatten().collect();
    if !runs.iter().all(|run| done(run)) {
        return "Running";
    }
    if runs.iter().all(|run| succeeded(run)) { "Succeeded" } else { "Failed" }
}

fn container_status(
    container: &Container,
    sandbox: Option<&SandboxStatus>,
    known: &Known,
    init: bool,
) -> ContainerStatus {
    let runs = runs_of(sandbox, &container.name);
    let last = runs.last();
    let waiting = known.waiting.get(&container.name);
    let running = last.is_some_and(|run| run.state == RunState::Running);
    // A container that ended and waits for its next run shows why it waits; its end is its last state then.
    let shows_wait = waiting.is_some() && !running;
    let state = match (last, waiting) {
        (_, Some(waiting)) if shows_wait => waiting_state(waiting.reason, &waiting.message),
        (None, _) => waiting_state("ContainerCreating", ""),
        (Some(run), _) => state_of(run),
    };
    let ended_before = if shows_wait { last.copied() } else { runs.len().checked_sub(2).map(|i| runs[i]) };
    let started = running && known.started.get(&container.name).copied().unwrap_or(true);
    let ready = match last {
        Some(run) if init => succeeded(run),
        _ => started && known.ready.get(&container.name).copied().unwrap_or(true),
    };
    ContainerStatus {
        name: container.name.clone(),
        image: last.map(|run| run.image.clone()).or_else(|| container.image.clone()).unwrap_or_default(),
        image_id: last.map(|run| run.image_id.clone()).unwrap_or_default(),
        container_id: last.map(|run| status_id(&run.id)),
        ready,
        started: Some(started),
        restart_count: last.map_or(0, |run| i32::try_from(run.id.attempt).unwrap_or(i32::MAX)),
        state: Some(state),
        last_state: ended_before.filter(|run| run.state == RunState::Exited).map(state_of),
        ..ContainerStatus::default()
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

fn state_of(run: &Run) -> ContainerState {
    match run.state {
        RunState::Created => waiting_state("ContainerCreating", ""),
        RunState::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: run.started_at.and_then(time) }),
            ..ContainerState::default()
        },
        RunState::Exited => {
            let code = run.exit_code.unwrap_or(-1);
            let reason = if run.oom_killed {
                "OOMKilled"
            } else if code == 0 {
                "Completed"
            } else {
                "Error"
            };
            ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: code,
                    reason: Some(reason.to_owned()),
                    message: Some(run.message.clone()).filter(|m| !m.is_empty()),
                    started_at: run.started_at.and_then(time),
                    finished_at: run.finished_at.and_then(time),
                    container_id: Some(status_id(&run.id)),
                    ..ContainerStateTerminated::default()
                }),
                ..ContainerState::default()
            }
        }
    }
}

fn time(at: SystemTime) -> Option<Time> {
    Timestamp::try_from(at).ok().map(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use yunfan_runtime::SandboxConfig;

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "demo"},
            "spec": {"restartPolicy": policy, "initContainers": [{"name": "init"}], "containers": [{"name": "c"}]},
        }))
        .unwrap()
    }

    fn sandbox(runs: &[(&str, u32, RunState, i32)]) -> SandboxStatus {
        let config: SandboxConfig = serde_json::from_value(
            json!({"uid": "u", "namespace": "demo", "name": "web", "hostname": "web", "netns": null}),
        )
        .unwrap();
        let containers = runs
            .iter()
            .map(|(name, attempt, state, code)| Run {
                id: ContainerId::new("u", *name, *attempt),
                state: *state,
                image_id: String::new(),
                image: String::new(),
                pid: None,
                exit_code: (*state == RunState::Exited).then_some(*code),
                started_at: None,
                finished_at: None,
                oom_killed: false,
                message: String::new(),
                labels: Default::default(),
            })
            .collect();
        SandboxStatus { config, ready: true, shim_pid: None, containers }
    }

    #[test]
    fn the_phase_follows_the_containers() {
        use RunState::{Exited, Running};
        let phase = |policy: &str, runs: &[(&str, u32, RunState, i32)]| {
            let status = build(&pod(policy), Some(&sandbox(runs)), &Known::default());
            status["phase"].as_str().unwrap().to_owned()
        };
        assert_eq!(phase("Always", &[]), "Pending");
        assert_eq!(phase("Always", &[("init", 0, Running, 0)]), "Pending");
        assert_eq!(phase("Always", &[("init", 0, Exited, 0), ("c", 0, Running, 0)]), "Running");
        assert_eq!(phase("Always", &[("init", 0, Exited, 0), ("c", 0, Exited, 0)]), "Running");
        assert_eq!(phase("OnFailure", &[("init", 0, Exited, 0), ("c", 0, Exited, 0)]), "Succeeded");
        assert_eq!(phase("OnFailure", &[("init", 0, Exited, 0), ("c", 0, Exited, 1)]), "Running");
        assert_eq!(phase("Never", &[("init", 0, Exited, 0), ("c", 0, Exited, 1)]), "Failed");
        assert_eq!(phase("Never", &[("init", 0, Exited, 3)]), "Failed");
    }

    #[test]
    fn a_container_that_backs_off_shows_its_end_as_its_last_state() {
        use RunState::Exited;
        let known = Known {
            waiting: [(
                "c".to_owned(),
                Waiting { reason: "CrashLoopBackOff", message: "back-off 10s".into() },
            )]
            .into(),
            ..Known::default()
        };
        let status =
            build(&pod("Always"), Some(&sandbox(&[("init", 0, Exited, 0), ("c", 2, Exited, 7)])), &known);
        let container = &status["containerStatuses"][0];
        assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(container["lastState"]["terminated"]["exitCode"], 7);
        assert_eq!(container["restartCount"], 2);
        assert_eq!(container["ready"], false);
    }

    #[test]
    fn a_running_container_is_ready_unless_its_probe_says_no() {
        use RunState::{Exited, Running};
        let runs = [("init", 0, Exited, 0), ("c", 0, Running, 0)];
        let ready = |known: &Known| {
            let status = build(&pod("Always"), Some(&sandbox(&runs)), known);
            status["containerStatuses"][0]["ready"].as_bool().unwrap()
        };
        assert!(ready(&Known::default()));
        assert!(!ready(&Known { ready: [("c".to_owned(), false)].into(), ..Known::default() }));
        assert!(!ready(&Known { started: [("c".to_owned(), false)].into(), ..Known::default() }));
    }
}
