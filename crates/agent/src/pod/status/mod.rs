//! A Pod's status, from what the runtime reports and what the agent knows besides.

mod conditions;
mod containers;

pub(super) use containers::end_reason;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use yunfan_runtime::{ContainerState as RunState, ContainerStatus as Run, Resources, SandboxStatus};

use super::backoff::Backoffs;
use super::parts::{Kind, Part, parts};
use super::plan::{End, has_started};
use super::resize::Trouble;
use super::rounds::{self, Round};
use crate::pod::resources::{qos_class, whole};

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
    /// What runs that ended left to be told, by container name and number of the run.
    pub(crate) messages: HashMap<(String, u32), String>,
    /// What each container's run was given, by container name: the number of the run and its resources.
    pub(crate) applied: HashMap<String, (u32, ResourceRequirements)>,
    /// What its cgroup was given, for a Pod that asks for resources as a whole.
    pub(crate) whole: Option<ResourceRequirements>,
    /// What its cgroup was given.
    pub(crate) given: Option<Resources>,
    /// Why resources are not as the Pod asks for.
    pub(crate) trouble: Option<Trouble>,
    pub(crate) backoffs: Backoffs,
    /// Runs after which the next one begins at once, by container name and number.
    pub(crate) at_once: HashSet<(String, u32)>,
    /// The node did not take the Pod.
    pub(crate) rejected: bool,
    /// How the Pod ends, once nothing of it runs any more.
    pub(crate) end: Option<End>,
}

/// The runs of a container, oldest first.
pub(crate) fn runs_of<'a>(sandbox: Option<&'a SandboxStatus>, name: &str) -> Vec<&'a Run> {
    let containers = sandbox.map(|s| s.containers.as_slice()).unwrap_or_default();
    let mut runs: Vec<&Run> = containers.iter().filter(|run| run.id.name == name).collect();
    runs.sort_by_key(|run| run.id.attempt);
    runs
}

/// A run's identity as people see it: the one that the runtime has for it, if that is another program.
pub(crate) fn status_id(run: &Run) -> String {
    run.runtime_id.clone().unwrap_or_else(|| format!("yunfan://{}", run.id))
}

/// The last run of a container.
pub(crate) fn last_run<'a>(sandbox: Option<&'a SandboxStatus>, name: &str) -> Option<&'a Run> {
    runs_of(sandbox, name).pop()
}

fn succeeded(run: &Run) -> bool {
    run.state == RunState::Exited && run.exit_code == Some(0)
}

/// The status as JSON, ready to be merged.
pub(crate) fn build(pod: &Pod, sandbox: Option<&SandboxStatus>, known: &Known) -> Value {
    let now = Timestamp::now();
    let parts = parts(pod);
    let round = Round::of(&parts, sandbox, known);
    let of = |kinds: &[Kind]| -> Vec<ContainerStatus> {
        let wanted = parts.iter().filter(|part| kinds.contains(&part.kind));
        // Of one that was not taken nothing waits: people see why it was not.
        let wanted = wanted.filter(|_| !known.rejected);
        wanted.map(|part| containers::status(pod, part, (sandbox, &round), known)).collect()
    };
    let init = of(&[Kind::Init, Kind::Sidecar]);
    let main = of(&[Kind::Main]);
    let ephemeral = of(&[Kind::Ephemeral]);
    let before = pod.status.clone().unwrap_or_default();
    let phase = match &known.end {
        Some(end) => end.phase,
        None if main.iter().all(has_run) && !main.is_empty() => "Running",
        None => "Pending",
    };
    let facts = conditions::Facts {
        pod,
        phase,
        disrupted: known.end.as_ref().and_then(|end| end.disrupted.as_deref()),
        trouble: known.trouble.as_ref(),
        restarting: rounds::may_restart(pod).then_some(round.restart.is_some()),
        parts: &parts,
        statuses: &[init.as_slice(), main.as_slice()].concat(),
        initialized: is_initialized(&parts, sandbox, known) || main.iter().any(has_run),
        sandbox_ready: sandbox.is_some_and(|s| s.ready),
        now,
    };
    let end = known.end.as_ref();
    let whole = whole(pod).map(|wanted| {
        known.whole.clone().or_else(|| before.resources.clone()).unwrap_or_else(|| wanted.clone())
    });
    json!({
        "phase": phase,
        "reason": end.and_then(|end| end.reason.clone()).or(before.reason),
        "message": end.and_then(|end| end.message.clone()).or(before.message),
        "conditions": facts.conditions(),
        "hostIP": known.host_ip,
        "hostIPs": known.host_ip.map(|ip| json!([{"ip": ip}])),
        "podIP": known.pod_ip,
        "podIPs": known.pod_ip.map(|ip| json!([{"ip": ip}])),
        "startTime": before.start_time.unwrap_or_else(|| seconds(now)),
        "qosClass": qos_class(pod),
        "allocatedResources": whole.as_ref().and_then(|whole| whole.requests.clone()),
        "resources": whole,
        "observedGeneration": pod.metadata.generation,
        "initContainerStatuses": (!init.is_empty()).then_some(init),
        "containerStatuses": (!known.rejected).then_some(main),
        "ephemeralContainerStatuses": (!ephemeral.is_empty()).then_some(ephemeral),
    })
}

/// Kubernetes' times have whole seconds.
fn seconds(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// Whether a container runs, has run, or waits for its next run.
fn has_run(status: &ContainerStatus) -> bool {
    let has = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    has(&status.state) || has(&status.last_state)
}

/// Whether all init containers have had their turn.
fn is_initialized(parts: &[Part], sandbox: Option<&SandboxStatus>, known: &Known) -> bool {
    parts.iter().all(|part| is_complete(part, sandbox, known))
}

/// Whether a container holds up none that come after it.
fn is_complete(part: &Part, sandbox: Option<&SandboxStatus>, known: &Known) -> bool {
    let run = last_run(sandbox, part.name());
    match part.kind {
        Kind::Init => run.is_some_and(succeeded),
        Kind::Sidecar => {
            run.is_some_and(|run| run.state == RunState::Running) && has_started(&part.container, known)
        }
        Kind::Main | Kind::Ephemeral => true,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use yunfan_runtime::{ContainerId, SandboxConfig};

    use super::*;

    fn pod(policy: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "demo"},
            "spec": {"restartPolicy": policy, "initContainers": [{"name": "init"}], "containers": [{"name": "c"}]},
        }))
        .unwrap()
    }

    pub(crate) fn sandbox(runs: &[(&str, u32, RunState, i32)]) -> SandboxStatus {
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
                lost: false,
                message: String::new(),
                user: Default::default(),
                stop_signal: None,
                labels: Default::default(),
                runtime_id: None,
            })
            .collect();
        SandboxStatus { config, ready: true, shim_pid: None, containers }
    }

    fn condition<'a>(status: &'a Value, kind: &str) -> &'a Value {
        status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
    }

    #[test]
    fn the_phase_follows_the_containers() {
        use RunState::{Exited, Running};
        let phase = |runs: &[(&str, u32, RunState, i32)], end: Option<&'static str>| {
            let end = end.map(|phase| End { phase, reason: None, message: None, disrupted: None });
            let status = build(&pod("Always"), Some(&sandbox(runs)), &Known { end, ..Known::default() });
            status["phase"].as_str().unwrap().to_owned()
        };
        assert_eq!(phase(&[], None), "Pending");
        assert_eq!(phase(&[("init", 0, Running, 0)], None), "Pending");
        let runs = [("init", 0, Exited, 0), ("c", 0, Exited, 0)];
        assert_eq!(phase(&[("init", 0, Exited, 0), ("c", 0, Running, 0)], None), "Running");
        assert_eq!(phase(&runs, None), "Running");
        assert_eq!(phase(&runs, Some("Succeeded")), "Succeeded");
    }

    #[test]
    fn a_container_that_backs_off_shows_its_end_as_its_last_state() {
        use RunState::Exited;
        let waiting = Waiting { reason: "CrashLoopBackOff", message: "back-off 10s".into() };
        let known = Known { waiting: [("c".to_owned(), waiting)].into(), ..Known::default() };
        let status =
            build(&pod("Always"), Some(&sandbox(&[("init", 0, Exited, 0), ("c", 2, Exited, 7)])), &known);
        let container = &status["containerStatuses"][0];
        assert_eq!(container["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(container["lastState"]["terminated"]["exitCode"], 7);
        assert_eq!(container["restartCount"], 2);
        assert_eq!(container["ready"], false);
        assert_eq!(status["phase"], "Running");
    }

    #[test]
    fn a_run_that_went_with_its_shim_is_told_as_unknown_and_remembered() {
        let mut pod = pod("Always");
        let mut lost = sandbox(&[("init", 0, RunState::Exited, 0), ("c", 2, RunState::Exited, 137)]);
        lost.containers[1].lost = true;
        let status = build(&pod, Some(&lost), &Known::default());
        let unknown = status["containerStatuses"][0]["state"]["terminated"].clone();
        assert_eq!(
            (&unknown["reason"], &unknown["exitCode"]),
            (&json!("ContainerStatusUnknown"), &json!(137))
        );
        pod.status = serde_json::from_value(status).unwrap();
        let waits = build(&pod, None, &Known::default());
        assert_eq!(waits["containerStatuses"][0]["lastState"]["terminated"], unknown);
        let runs = build(&pod, Some(&sandbox(&[("c", 3, RunState::Running, 0)])), &Known::default());
        assert_eq!(runs["containerStatuses"][0]["lastState"]["terminated"], unknown);
        assert_eq!(runs["containerStatuses"][0]["restartCount"], 3);
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

    #[test]
    fn conditions_say_what_is_missing_and_keep_those_of_others() {
        use RunState::{Exited, Running};
        let mut pod = pod("Always");
        pod.metadata.generation = Some(3);
        pod.spec.as_mut().unwrap().readiness_gates =
            serde_json::from_value(json!([{"conditionType": "example.com/ok"}])).unwrap();
        let first = build(&pod, Some(&sandbox(&[("init", 0, Running, 0)])), &Known::default());
        let init = condition(&first, "Initialized");
        assert_eq!((&init["status"], &init["observedGeneration"]), (&json!("False"), &json!(3)));
        assert_eq!(init["message"], "containers with incomplete status: [init]");
        assert_eq!(first["initContainerStatuses"][0]["started"], true);
        let runs = sandbox(&[("init", 0, Exited, 0), ("c", 0, Running, 0)]);
        let status = build(&pod, Some(&runs), &Known::default());
        assert_eq!(condition(&status, "ContainersReady")["status"], "True");
        let ready = condition(&status, "Ready");
        assert_eq!((&ready["status"], &ready["reason"]), (&json!("False"), &json!("ReadinessGatesNotReady")));
        assert_eq!(
            ready["message"],
            "corresponding condition of pod readiness gate \"example.com/ok\" does not exist."
        );
        pod.status = serde_json::from_value(json!({"conditions": [
            {"type": "example.com/ok", "status": "True"}, {"type": "PodScheduled", "status": "True"},
        ]}))
        .unwrap();
        let status = build(&pod, Some(&runs), &Known::default());
        assert_eq!(condition(&status, "Ready")["status"], "True");
        let placed = condition(&status, "PodScheduled");
        assert_eq!((&placed["status"], &placed["observedGeneration"]), (&json!("True"), &json!(3)));
        let end = Some(End { phase: "Succeeded", reason: None, message: None, disrupted: None });
        let status = build(&pod, Some(&runs), &Known { end, ..Known::default() });
        assert_eq!(condition(&status, "Ready")["reason"], "PodCompleted");
    }

    #[test]
    fn a_restart_of_all_containers_is_told() {
        use RunState::{Exited, Running};
        let rules =
            json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
        let mut pod = pod("Never");
        let without = build(&pod, None, &Known::default());
        assert_eq!(condition(&without, rounds::CONDITION), &Value::Null);
        pod.spec.as_mut().unwrap().containers[0].restart_policy_rules =
            serde_json::from_value(rules).unwrap();
        let runs = [("init", 0, Exited, 0), ("c", 0, Exited, 42)];
        let status = build(&pod, Some(&sandbox(&runs)), &Known::default());
        let told = condition(&status, rounds::CONDITION);
        assert_eq!(
            (&told["status"], &told["reason"]),
            (&json!("True"), &json!("RestartAllContainersStarted"))
        );
        for list in ["initContainerStatuses", "containerStatuses"] {
            let container = &status[list][0];
            assert_eq!(container["state"]["waiting"]["reason"], rounds::RESTARTING);
            assert_eq!(container["ready"], false);
        }
        assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 42);
        assert_eq!(
            (&status["phase"], &condition(&status, "Initialized")["status"]),
            (&json!("Running"), &json!("True"))
        );
        let mut next = sandbox(&[("init", 0, Exited, 0), ("init", 1, Running, 0), ("c", 0, Exited, 42)]);
        next.containers[1].labels.insert("yunfan.io/round".to_owned(), "1".to_owned());
        let status = build(&pod, Some(&next), &Known::default());
        assert_eq!(condition(&status, rounds::CONDITION)["status"], "False");
        assert_eq!(status["containerStatuses"][0]["state"]["waiting"]["reason"], rounds::RESTARTING);
        assert_eq!(status["initContainerStatuses"][0]["restartCount"], 1);
    }

    #[test]
    fn what_another_runtime_runs_has_its_name_there() {
        let mut seen = sandbox(&[("c", 0, RunState::Running, 0)]);
        let id = |seen: &SandboxStatus| {
            build(&pod("Always"), Some(seen), &Known::default())["containerStatuses"][0]["containerID"]
                .clone()
        };
        assert_eq!(id(&seen), "yunfan://u_c-0");
        seen.containers[0].runtime_id = Some("containerd://0123abcd".to_owned());
        assert_eq!(id(&seen), "containerd://0123abcd");
    }

    #[test]
    fn what_runs_left_to_be_told_is_told() {
        use RunState::Exited;
        let messages = [(("c".to_owned(), 0), "done\n".to_owned())].into();
        let known = Known { messages, ..Known::default() };
        let status =
            build(&pod("Never"), Some(&sandbox(&[("init", 0, Exited, 0), ("c", 0, Exited, 3)])), &known);
        let ended = &status["containerStatuses"][0]["state"]["terminated"];
        assert_eq!((&ended["message"], &ended["reason"]), (&json!("done\n"), &json!("Error")));
    }
}
