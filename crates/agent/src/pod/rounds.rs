//! Rounds of a Pod: what runs between its start, or a restart of all of its containers, and the next such restart (Kubernetes'
//! documentation, "Pod Lifecycle", restart all containers). Each run is labelled with the number of its round, so that an agent which
//! comes later knows which runs are over.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use yunfan_runtime::{ContainerId, ContainerState, ContainerStatus as Run, SandboxStatus};

use super::parts::{Kind, Part, rule};
use super::plan::wait_of;
use super::status::{Known, last_run};

/// Label of a run, with the number of its round; the first one has none.
pub(super) const LABEL: &str = "yunfan.io/round";
/// Why the containers of such a Pod wait, in the kubelet's words.
pub(crate) const RESTARTING: &str = "RestartingAllContainers";
/// The condition that says so, its reason and its message.
pub(crate) const CONDITION: &str = "AllContainersRestarting";
pub(crate) const STARTED: (&str, &str) =
    ("RestartAllContainersStarted", "container exited with restart policy rule");
/// The action of a container's rule that ends a round.
const ACTION: &str = "RestartAllContainers";

/// Where a Pod is.
#[derive(Debug, Default)]
pub(crate) struct Round {
    /// The number of the one that runs, or of the one that is to begin.
    pub(crate) number: u32,
    /// How the one before ends, as long as nothing runs of the one that is to begin.
    pub(crate) restart: Option<Restart>,
}

/// The end of a round.
#[derive(Debug, Default)]
pub(crate) struct Restart {
    /// What still runs.
    pub(crate) left: Vec<ContainerId>,
    /// How long the next one has to wait.
    pub(crate) wait: Duration,
}

impl Round {
    pub(crate) fn of(parts: &[Part], sandbox: Option<&SandboxStatus>, known: &Known) -> Self {
        let runs = sandbox.map(|sandbox| sandbox.containers.as_slice()).unwrap_or_default();
        let number = runs.iter().map(round_of).max().unwrap_or(0);
        let ends_it = |run: &&Run| {
            let part = parts.iter().find(|part| part.name() == run.id.name);
            run.state == ContainerState::Exited
                && round_of(run) == number
                && part.is_some_and(|part| restarts_all(part, run.exit_code.unwrap_or(-1)))
        };
        let last = parts.iter().filter_map(|part| last_run(sandbox, part.name()));
        let Some(ended) = last.filter(ends_it).max_by_key(|run| wait_of(run, known)) else {
            return Self { number, restart: None };
        };
        let left = runs.iter().filter(|run| run.state != ContainerState::Exited);
        let left = left.map(|run| run.id.clone()).collect();
        Self {
            number: number.saturating_add(1),
            restart: Some(Restart { left, wait: wait_of(ended, known) }),
        }
    }

    /// Whether a run is of an earlier round.
    pub(crate) fn is_over(&self, run: &Run) -> bool {
        round_of(run) < self.number
    }
}

fn round_of(run: &Run) -> u32 {
    run.labels.get(LABEL).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Whether a container that ended with this code takes all others of its Pod with it.
fn restarts_all(part: &Part, code: i32) -> bool {
    part.kind != Kind::Ephemeral && rule(&part.container, code).is_some_and(|rule| rule.action == ACTION)
}

/// Whether any end of a container of this Pod may restart all of them.
pub(crate) fn may_restart(pod: &Pod) -> bool {
    let spec = pod.spec.iter();
    let mut all = spec.flat_map(|spec| spec.init_containers.iter().flatten().chain(&spec.containers));
    let has = |container: &Container| {
        container.restart_policy_rules.iter().flatten().any(|rule| rule.action == ACTION)
    };
    all.any(has)
}

/// Whether the Pod's status says that its containers are being restarted.
pub(super) fn is_told(pod: &Pod) -> bool {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == CONDITION && condition.status == "True")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::parts::parts;
    use super::super::status::tests::sandbox;
    use super::*;
    use ContainerState::{Exited, Running};

    #[test]
    fn a_round_ends_with_the_container_that_says_so() {
        let codes = json!({"operator": "In", "values": [42]});
        let rules =
            json!([{"action": ACTION, "exitCodes": codes}, {"action": "Restart", "exitCodes": codes}]);
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [
            {"name": "a", "restartPolicy": "Never", "restartPolicyRules": rules}, {"name": "b"}]}}))
        .unwrap();
        assert!(may_restart(&pod));
        let parts = parts(&pod);
        let mut seen = sandbox(&[("a", 0, Exited, 42), ("b", 0, Running, 0)]);
        let round = Round::of(&parts, Some(&seen), &Known::default());
        let left: Vec<String> = round.restart.unwrap().left.iter().map(ContainerId::local).collect();
        assert_eq!((round.number, left), (1, vec!["b-0".to_owned()]));
        // Another code, or another container, ends none.
        for runs in
            [[("a", 0, Exited, 41), ("b", 0, Running, 0)], [("a", 0, Running, 0), ("b", 0, Exited, 42)]]
        {
            assert!(Round::of(&parts, Some(&sandbox(&runs)), &Known::default()).restart.is_none());
        }
        // Once something runs of the next one, it has begun.
        seen.containers.extend(sandbox(&[("b", 1, Running, 0)]).containers);
        seen.containers[2].labels.insert(LABEL.to_owned(), "1".to_owned());
        let round = Round::of(&parts, Some(&seen), &Known::default());
        assert!(round.restart.is_none() && round.number == 1);
        assert!(round.is_over(&seen.containers[0]) && !round.is_over(&seen.containers[2]));
        assert!(Round::of(&parts, None, &Known::default()).restart.is_none());
    }
}
