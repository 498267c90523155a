//! What a Pod needs next, worked out from what it asks for and what has run: nothing here does anything.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use yunfan_runtime::{ContainerState, ContainerStatus as Run, SandboxStatus};

use super::parts::{Kind, Part, parts, restarts};
use super::rounds::{self, Restart, Round};
use super::status::{Known, last_run};

/// What to do now.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// To be started, with the number of the run.
    pub(super) start: Vec<(Part, u32)>,
    /// To be started again, but later.
    pub(super) wait: Vec<Part>,
    /// Running, but not as the Pod wants it any more.
    pub(super) replace: Vec<Part>,
    /// Nothing is to be started any more: what runs is to end, and the Pod with it.
    pub(super) end: Option<End>,
    /// All of it is to begin anew: nothing is started before what still runs has ended.
    pub(super) restart: Option<Restart>,
    /// The number of the round that what is started belongs to.
    pub(super) round: u32,
    /// When to look again although nothing happens.
    pub(super) again: Option<Duration>,
}

/// How a Pod ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    /// `Succeeded` or `Failed`.
    pub(crate) phase: &'static str,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
    /// What the condition says that something else than the Pod itself ended it; none where that was not so.
    pub(crate) disrupted: Option<String>,
}

impl End {
    pub(super) fn failed(reason: &str, message: impl Into<String>) -> Self {
        let (reason, message) = (Some(reason.to_owned()), Some(message.into()));
        Self { phase: "Failed", reason, message, disrupted: None }
    }

    /// As [`End::failed`], for a Pod that the node ends, not what runs in it.
    pub(super) fn disrupted(reason: &str, message: impl Into<String>) -> Self {
        let end = Self::failed(reason, message);
        Self { disrupted: end.message.clone(), ..end }
    }
}

/// What became of a container.
enum Fate {
    /// Not run yet, or to be run again; the number of the next run and how long to wait before.
    Next(u32, Duration),
    Running,
    /// Ended for good, with this code.
    Done(i32),
}

/// What has run of a Pod. Runs of earlier rounds are over, and count only for the numbers of those that follow.
struct Seen<'a> {
    sandbox: Option<&'a SandboxStatus>,
    round: Round,
}

impl<'a> Seen<'a> {
    /// The last run of a container in this round.
    fn last(&self, part: &Part) -> Option<&'a Run> {
        self.ever(part.name()).filter(|run| !self.round.is_over(run))
    }

    /// The last run of a container in any round.
    fn ever(&self, name: &str) -> Option<&'a Run> {
        last_run(self.sandbox, name)
    }
}

/// Works out what to do.
pub(super) fn plan(pod: &Pod, sandbox: Option<&SandboxStatus>, known: &Known) -> Plan {
    let mut plan = Plan::default();
    match deadline(pod) {
        Some(left) if left.is_zero() => {
            let message = "Pod was active on the node longer than the specified deadline";
            plan.end = Some(End::failed("DeadlineExceeded", message));
            return plan;
        }
        left => plan.again = left,
    }
    let parts = parts(pod);
    let mut seen = Seen { sandbox, round: Round::of(&parts, sandbox, known) };
    plan.round = seen.round.number;
    plan.restart = seen.round.restart.take();
    if let Some(restart) = &plan.restart
        && !(restart.left.is_empty() && restart.wait.is_zero())
    {
        let wait = Some(restart.wait).filter(|wait| !wait.is_zero());
        plan.again = plan.again.into_iter().chain(wait).min();
        return plan;
    }
    let seen = &seen;
    let initialized = match init(pod, &parts, seen, known, &mut plan) {
        Ok(initialized) => initialized,
        Err(end) => return Plan { end: Some(end), ..Plan::default() },
    };
    if initialized {
        let mains = parts.iter().filter(|part| part.kind == Kind::Main);
        let codes: Vec<Option<i32>> = mains.map(|part| plan.run(pod, part, seen, known)).collect();
        if let Some(end) = end_of(&codes) {
            return Plan { end: Some(end), ..Plan::default() };
        }
    }
    for part in parts.iter().filter(|part| part.kind == Kind::Ephemeral) {
        let target = part.target.as_ref().map(|name| seen.ever(name));
        let target_runs =
            target.is_none_or(|run| run.is_some_and(|run| run.state == ContainerState::Running));
        // They run once, also where the sandbox is lost that they ran in.
        let ran = seen.ever(part.name()).is_some()
            || status_of(pod, part).is_some_and(|status| status.container_id.is_some());
        if !ran && target_runs {
            plan.start.push((part.clone(), 0));
        }
    }
    plan
}

/// The init containers' turn. Returns whether the others may run.
fn init(pod: &Pod, parts: &[Part], seen: &Seen<'_>, known: &Known, plan: &mut Plan) -> Result<bool, End> {
    let ran = |part: &Part| seen.last(part).is_some();
    let main_ran = parts.iter().any(|part| part.kind == Kind::Main && ran(part));
    let inits: Vec<&Part> =
        parts.iter().filter(|part| matches!(part.kind, Kind::Init | Kind::Sidecar)).collect();
    for (index, part) in inits.iter().enumerate() {
        // What came after it could only be started because it had had its turn.
        let passed = main_ran || inits[index + 1..].iter().any(|later| ran(later));
        if part.kind == Kind::Sidecar {
            let run = seen.last(part);
            let running = run.is_some_and(|run| run.state == ContainerState::Running);
            plan.run(pod, part, seen, known);
            if passed || (running && has_started(&part.container, known)) {
                continue;
            }
            return Ok(false);
        }
        if passed {
            continue;
        }
        match fate(pod, part, seen, known) {
            Fate::Done(0) => {}
            Fate::Done(_) => {
                return Err(End { phase: "Failed", reason: None, message: None, disrupted: None });
            }
            _ => {
                plan.run(pod, part, seen, known);
                return Ok(false);
            }
        }
    }
    Ok(true)
}

impl Plan {
    /// Sees to it that a container runs. Returns its code when it ended for good.
    fn run(&mut self, pod: &Pod, part: &Part, seen: &Seen<'_>, known: &Known) -> Option<i32> {
        let last = seen.last(part);
        let at_once = last.is_some_and(|run| known.at_once.contains(&(run.id.name.clone(), run.id.attempt)));
        match fate(pod, part, seen, known) {
            Fate::Running => {
                if last.is_some_and(|run| !is_wanted(run, part)) {
                    self.replace.push(part.clone());
                }
                None
            }
            Fate::Done(code) => Some(code),
            Fate::Next(attempt, wait) if wait.is_zero() || at_once => {
                self.start.push((part.clone(), attempt));
                None
            }
            Fate::Next(_, wait) => {
                self.wait.push(part.clone());
                self.again = Some(self.again.map_or(wait, |other| other.min(wait)));
                None
            }
        }
    }
}

/// When all have ended for good, so has the Pod.
fn end_of(codes: &[Option<i32>]) -> Option<End> {
    let codes: Vec<i32> = codes.iter().copied().collect::<Option<_>>()?;
    if codes.is_empty() {
        return None;
    }
    let phase = if codes.iter().all(|code| *code == 0) { "Succeeded" } else { "Failed" };
    Some(End { phase, reason: None, message: None, disrupted: None })
}

fn fate(pod: &Pod, part: &Part, seen: &Seen<'_>, known: &Known) -> Fate {
    let Some(last) = seen.last(part) else {
        return match seen.ever(part.name()) {
            Some(earlier) => Fate::Next(earlier.id.attempt + 1, Duration::ZERO),
            None => fate_by_status(pod, part, known),
        };
    };
    let code = last.exit_code.unwrap_or(-1);
    match last.state {
        ContainerState::Created | ContainerState::Running => Fate::Running,
        ContainerState::Exited if !restarts(pod, part, code) => Fate::Done(code),
        ContainerState::Exited if !is_wanted(last, part) => Fate::Next(last.id.attempt + 1, Duration::ZERO),
        ContainerState::Exited => Fate::Next(last.id.attempt + 1, wait_of(last, known)),
    }
}

/// Whether a run is of the image that the container asks for now.
fn is_wanted(run: &Run, part: &Part) -> bool {
    run.image == part.container.image.as_deref().unwrap_or_default()
}

/// What is known of a container that this node has no run of: its sandbox was lost, perhaps. What ended for good is not run again,
/// and runs go on being counted.
fn fate_by_status(pod: &Pod, part: &Part, known: &Known) -> Fate {
    let Some(status) = status_of(pod, part).filter(|status| status.container_id.is_some()) else {
        return Fate::Next(0, Duration::ZERO);
    };
    let terminated = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    // In the middle of a restart of all, it is over however it ended.
    let waiting = known.waiting.get(part.name()).is_some_and(|waiting| waiting.reason == rounds::RESTARTING);
    let terminated = terminated.filter(|_| !waiting && !rounds::is_told(pod));
    match terminated.map(|terminated| terminated.exit_code) {
        Some(code) if part.kind == Kind::Main && !restarts(pod, part, code) => Fate::Done(code),
        _ => Fate::Next(u32::try_from(status.restart_count + 1).unwrap_or(0), Duration::ZERO),
    }
}

/// What the Pod's status says of a container.
pub(super) fn status_of<'a>(pod: &'a Pod, part: &Part) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let list = match part.kind {
        Kind::Init | Kind::Sidecar => &status.init_container_statuses,
        Kind::Main => &status.container_statuses,
        Kind::Ephemeral => &status.ephemeral_container_statuses,
    };
    list.iter().flatten().find(|status| status.name == part.name())
}

/// Whether a running container counts as started: its startup probe has succeeded, if it has one.
pub(super) fn has_started(container: &Container, known: &Known) -> bool {
    container.startup_probe.is_none() || known.started.get(&container.name) == Some(&true)
}

/// How long a container still stays down after its last run.
pub(super) fn wait_of(last: &Run, known: &Known) -> Duration {
    let Some(ended) = last.finished_at else { return Duration::ZERO };
    let since = SystemTime::now().duration_since(ended).unwrap_or_default();
    known.backoffs.wait(&last.id.name, ended).saturating_sub(since)
}

/// How much is left of the Pod's `activeDeadlineSeconds`, if it has one.
fn deadline(pod: &Pod) -> Option<Duration> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    let start = pod.status.as_ref()?.start_time.as_ref()?.0;
    let spent = Timestamp::now().duration_since(start).as_secs();
    Some(Duration::from_secs(u64::try_from(seconds - spent).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::status::tests::sandbox;
    use super::*;
    use ContainerState::{Exited, Running};

    type Runs<'a> = &'a [(&'a str, u32, ContainerState, i32)];

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": spec})).unwrap()
    }

    fn names(plan: &Plan) -> Vec<(&str, u32)> {
        plan.start.iter().map(|(part, attempt)| (part.name(), *attempt)).collect()
    }

    fn sidecars() -> Value {
        json!({
            "restartPolicy": "Never",
            "initContainers": [
                {"name": "s1", "restartPolicy": "Always", "startupProbe": {}},
                {"name": "i"},
                {"name": "s2", "restartPolicy": "Always"},
            ],
            "containers": [{"name": "a"}, {"name": "b"}],
        })
    }

    #[test]
    fn init_containers_take_turns_and_sidecars_stay() {
        let pod = pod(sidecars());
        let started = Known { started: [("s1".to_owned(), true)].into(), ..Known::default() };
        let next = |runs: Runs<'_>, known: &Known| {
            names(&plan(&pod, Some(&sandbox(runs)), known))
                .iter()
                .map(|(n, a)| format!("{n}{a}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(next(&[], &started), ["s10"]);
        // Not before its startup probe has succeeded.
        assert!(next(&[("s1", 0, Running, 0)], &Known::default()).is_empty());
        assert_eq!(next(&[("s1", 0, Running, 0)], &started), ["i0"]);
        // One that ended is started again while others have their turn.
        assert_eq!(next(&[("s1", 0, Exited, 0), ("i", 0, Running, 0)], &started), ["s11"]);
        let done = [("s1", 0, Running, 0), ("i", 0, Exited, 0), ("s2", 0, Running, 0)];
        assert_eq!(next(&done, &started), ["a0", "b0"]);
        let main = [("s1", 0, Exited, 1), ("i", 0, Exited, 0), ("s2", 0, Running, 0), ("a", 0, Running, 0)];
        assert_eq!(next(&main, &started), ["s11", "b0"]);
    }

    #[test]
    fn a_pod_ends_with_its_main_containers_or_with_a_failed_init_container() {
        let pod = pod(sidecars());
        let end =
            |runs: Runs<'_>| plan(&pod, Some(&sandbox(runs)), &Known::default()).end.map(|end| end.phase);
        let mains = |a: i32, b: i32| end(&[("s2", 0, Running, 0), ("a", 0, Exited, a), ("b", 0, Exited, b)]);
        assert_eq!(mains(0, 0), Some("Succeeded"));
        assert_eq!(mains(0, 3), Some("Failed"));
        assert_eq!(end(&[("s2", 0, Running, 0), ("a", 0, Exited, 0), ("b", 0, Running, 0)]), None);
        let known = Known { started: [("s1".to_owned(), true)].into(), ..Known::default() };
        let failed = sandbox(&[("s1", 0, Running, 0), ("i", 0, Exited, 1)]);
        assert_eq!(plan(&pod, Some(&failed), &known).end.unwrap().phase, "Failed");
    }

    #[test]
    fn restart_policies_decide_what_is_run_again() {
        let start = |policy: &str, runs: Runs<'_>| {
            let spec = json!({"restartPolicy": policy, "initContainers": [{"name": "i"}], "containers": [{"name": "c"}]});
            let plan = plan(&pod(spec), Some(&sandbox(runs)), &Known::default());
            (
                plan.start.first().map(|(part, attempt)| format!("{}{attempt}", part.name())),
                plan.end.map(|end| end.phase),
            )
        };
        let some = |text: &str| (Some(text.to_owned()), None);
        assert_eq!(start("Always", &[("i", 0, Exited, 1)]), some("i1"));
        assert_eq!(start("Never", &[("i", 0, Exited, 1)]), (None, Some("Failed")));
        assert_eq!(start("Always", &[("i", 0, Exited, 0), ("c", 0, Exited, 0)]), some("c1"));
        assert_eq!(
            start("OnFailure", &[("i", 0, Exited, 0), ("c", 0, Exited, 0)]),
            (None, Some("Succeeded"))
        );
        assert_eq!(start("OnFailure", &[("i", 0, Exited, 0), ("c", 0, Exited, 1)]), some("c1"));
    }

    #[test]
    fn ephemeral_containers_run_once_and_beside_their_target() {
        let pod = pod(json!({
            "containers": [{"name": "c"}],
            "ephemeralContainers": [{"name": "e", "targetContainerName": "c"}],
        }));
        let starts = |runs: Runs<'_>| plan(&pod, Some(&sandbox(runs)), &Known::default()).start.len();
        assert_eq!(starts(&[("c", 0, Running, 0)]), 1);
        assert_eq!(starts(&[("c", 0, Running, 0), ("e", 0, Exited, 1)]), 0);
        assert_eq!(names(&plan(&pod, Some(&sandbox(&[])), &Known::default())), [("c", 0)]);
        let mut before = pod.clone();
        let told = json!([{"name": "e", "image": "", "imageID": "", "ready": false, "restartCount": 0, "containerID": "x"}]);
        before.status = serde_json::from_value(json!({"ephemeralContainerStatuses": told})).unwrap();
        let runs = sandbox(&[("c", 1, Running, 0)]);
        assert!(names(&plan(&before, Some(&runs), &Known::default())).is_empty(), "its sandbox was lost");
    }

    #[test]
    fn all_begin_anew_when_a_container_says_so() {
        let rules =
            json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [42]}}]);
        let pod = pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}], "containers": [
            {"name": "a", "restartPolicy": "Never", "restartPolicyRules": rules}, {"name": "b"}],
            "ephemeralContainers": [{"name": "e"}]}));
        let before = [("i", 0, Exited, 0), ("a", 0, Exited, 42), ("b", 0, Running, 0), ("e", 0, Running, 0)];
        let mut seen = sandbox(&before);
        let ending = plan(&pod, Some(&seen), &Known::default());
        assert!(names(&ending).is_empty() && ending.end.is_none());
        assert_eq!(ending.restart.unwrap().left.len(), 2);
        for run in &mut seen.containers {
            (run.state, run.exit_code) = (Exited, run.exit_code.or(Some(137)));
        }
        let began = plan(&pod, Some(&seen), &Known::default());
        // Init containers too, and others however they ended; what was added to look at them is not.
        assert_eq!((names(&began), began.round), (vec![("i", 1)], 1));
        let mut round = sandbox(&[("i", 1, Exited, 0)]).containers;
        round[0].labels.insert(rounds::LABEL.to_owned(), "1".to_owned());
        seen.containers.extend(round);
        let mains = plan(&pod, Some(&seen), &Known::default());
        assert!(mains.restart.is_none());
        assert_eq!((names(&mains), mains.round), (vec![("a", 1), ("b", 1)], 1));
    }

    #[test]
    fn a_lost_sandbox_runs_nothing_twice() {
        let mut pod =
            pod(json!({"restartPolicy": "OnFailure", "containers": [{"name": "a"}, {"name": "b"}]}));
        let status = |name: &str, count: i32, state: Value| json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": count, "containerID": "x", "state": state});
        pod.status = serde_json::from_value(json!({"containerStatuses": [
            status("a", 0, json!({"terminated": {"exitCode": 0}})), status("b", 4, json!({"running": {}})),
        ]}))
        .unwrap();
        assert_eq!(names(&plan(&pod, None, &Known::default())), [("b", 5)]);
    }

    #[test]
    fn a_pod_past_its_deadline_fails() {
        let mut pod = pod(json!({"activeDeadlineSeconds": 5, "containers": [{"name": "c"}]}));
        let at =
            |seconds: i64| json!(Timestamp::from_second(Timestamp::now().as_second() - seconds).unwrap());
        pod.status = serde_json::from_value(json!({"startTime": at(1)})).unwrap();
        assert!(plan(&pod, None, &Known::default()).again.unwrap() <= Duration::from_secs(4));
        pod.status = serde_json::from_value(json!({"startTime": at(6)})).unwrap();
        assert_eq!(plan(&pod, None, &Known::default()).end.unwrap().reason.unwrap(), "DeadlineExceeded");
    }
}
