//! Changed resources of running containers (`pods/resize`): whether the node has room for them, and setting them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use yunfan_client::Severity;
use yunfan_resources::requests::amount;
use yunfan_runtime::{ContainerId, ContainerState, ContainerStatus as Run, Resources, SandboxStatus};

use super::downward::Allocatable;
use super::fit;
use super::parts::{Kind, Part, parts};
use super::plan::status_of;
use super::resources::{self, milli};
use super::shutdown::has_ended;
use super::status::{Known, last_run, status_id};
use super::{Pods, end};

/// Why resources are not as the Pod asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The node has no room: never (`Infeasible`) or not now (`Deferred`).
    Pending(&'static str, String),
    /// The kernel refused.
    Failed(String),
}

/// A running container whose resources are not what is asked for.
struct Change {
    part: Part,
    run: Run,
    before: ResourceRequirements,
}

impl Pods {
    /// Brings the resources of running containers to what the Pod asks for.
    pub(super) async fn resize(&self, pod: &Pod, sandbox: Option<&SandboxStatus>) {
        let uid = pod.uid().unwrap_or_default();
        let known = self.lock().get(&uid).map(|local| local.known.clone()).unwrap_or_default();
        let changes = changes(pod, sandbox, &known);
        let whole = whole_change(pod, sandbox, &known);
        if changes.is_empty() && whole.as_ref().is_none_or(|whole| !whole.is_wish) {
            // It is as it was when the Pod came here; an agent that has just begun gives it once more.
            let given = known.given.as_ref() == Some(&resources::cgroup_of_pod(pod));
            let failed = match given && whole.is_none() || sandbox.is_none() {
                true => None,
                false => self.apply(pod, sandbox, Vec::new(), whole.is_some()).await.err(),
            };
            let trouble = failed.map(Trouble::Failed);
            if known.trouble != trouble {
                self.remember(&uid, |local| local.known.trouble = trouble);
            }
            return;
        }
        let others = self.all();
        let others = others.iter().map(AsRef::as_ref).filter(|other| other.uid() != pod.uid());
        if let Some((reason, message)) = no_room(pod, others, &self.allocatable()) {
            let trouble = Some(Trouble::Pending(reason, message.clone()));
            if known.trouble != trouble {
                let event = if reason == "Deferred" { "ResizeDeferred" } else { "ResizeInfeasible" };
                self.say(pod, Severity::Warning, event, format!("Pod resize {reason}: {message}"));
            }
            return self.remember(&uid, |local| local.known.trouble = trouble);
        }
        self.say(pod, Severity::Normal, "ResizeStarted", "Pod resize started");
        let trouble = self.apply(pod, sandbox, changes, whole.is_some()).await.err().map(Trouble::Failed);
        match &trouble {
            None => self.say(pod, Severity::Normal, "ResizeCompleted", "Pod resize completed"),
            Some(Trouble::Failed(error)) if known.trouble != trouble => {
                self.say(pod, Severity::Warning, "ResizeError", format!("Pod resize error: {error}"));
            }
            Some(_) => {}
        }
        self.remember(&uid, |local| local.known.trouble = trouble);
    }

    async fn apply_one(&self, pod: &Pod, change: &Change) -> Result<(), String> {
        let (part, id) = (&change.part, &change.run.id);
        let wanted = part.container.resources.clone().unwrap_or_default();
        if needs_restart(part, &change.before, &wanted) {
            self.remember(&id.pod_uid, |local| {
                local.known.at_once.insert((id.name.clone(), id.attempt));
            });
            let message = format!("Container {} resize requires restart", part.name());
            self.stop(pod, part, id, end::grace(pod), &message).await;
            return Ok(());
        }
        self.set_limits(pod, part, id).await?;
        self.remember(&id.pod_uid, |local| {
            local.known.applied.insert(id.name.clone(), (id.attempt, wanted));
        });
        Ok(())
    }

    /// Gives a running container its share of the CPU and its limits; not less memory than it uses, for which it would be killed.
    async fn set_limits(&self, pod: &Pod, part: &Part, id: &ContainerId) -> Result<(), String> {
        let mut values = resources::cgroup(Some(&resources::effective(pod, &part.container)));
        values.oom_score_adj = Some(self.oom_score(pod, &part.container));
        let used = self.runtime.stats(id).await.map_or(0, |stats| stats.memory_bytes);
        let what = format!("container {:?}", part.name());
        resources::enough_memory(&what, &values, used)?;
        self.runtime.update_container(id, values).await.map_err(|error| error.to_string())
    }

    /// By which the kernel chooses whom it kills for memory.
    pub(super) fn oom_score(&self, pod: &Pod, container: &Container) -> i32 {
        let node = self.nodes.get(None, &self.shared.node);
        let capacity = node.and_then(|node| node.status.as_ref()?.capacity.clone()).unwrap_or_default();
        resources::oom_score(pod, container, &capacity)
    }

    /// Gives the Pod's cgroup what the Pod asks for, and its containers what has changed, and where the Pod asks for something as a
    /// whole, what those of them have that have no limits of their own.
    async fn apply(
        &self,
        pod: &Pod,
        sandbox: Option<&SandboxStatus>,
        changes: Vec<Change>,
        is_whole: bool,
    ) -> Result<(), String> {
        let uid = pod.uid().unwrap_or_default();
        let wanted = resources::cgroup_of_pod(pod);
        // First what there is more of, last what there is less of: no part may have more than the whole, and the whole not less than its
        // parts still use. What it has is not known to an agent that has just begun; then the last step alone is sure.
        let before = self.lock().get(&uid).and_then(|local| local.known.given.clone());
        let room = before.map(|before| resources::roomier(before, &wanted)).filter(|room| *room != wanted);
        if let Some(room) = room {
            self.runtime.update_sandbox(&uid, room).await.map_err(|error| error.to_string())?;
        } else if resources::enough_memory("pod", &wanted, self.memory_of(&uid).await).is_ok() {
            // Of cgroup v1 no part may have more than the whole: it is tried again behind its parts.
            let _ = self.runtime.update_sandbox(&uid, wanted.clone()).await;
        }
        for change in changes {
            self.apply_one(pod, &change).await?;
        }
        for (part, run) in running(pod, sandbox).into_iter().filter(|_| is_whole) {
            self.set_limits(pod, &part, &run.id).await?;
        }
        resources::enough_memory("pod", &wanted, self.memory_of(&uid).await)?;
        self.give_cgroup(pod).await
    }

    /// What a Pod's containers use, bytes.
    async fn memory_of(&self, uid: &str) -> u64 {
        self.runtime.sandbox_stats(uid).await.map_or(0, |stats| stats.memory_bytes)
    }

    /// Gives the Pod's cgroup its share of the CPU and its limits.
    pub(super) async fn give_cgroup(&self, pod: &Pod) -> Result<(), String> {
        let (uid, values) = (pod.uid().unwrap_or_default(), resources::cgroup_of_pod(pod));
        let all = Resources { pids_limit: self.shared.settings.max_pids, ..values.clone() };
        self.runtime.update_sandbox(&uid, all).await.map_err(|error| error.to_string())?;
        self.remember(&uid, |local| {
            local.known.whole = resources::whole(pod).cloned();
            local.known.given = Some(values);
        });
        Ok(())
    }
}

/// What a run has, as far as is known: what it was given here, or what an agent before this one wrote down, or what is asked for.
pub(crate) fn applied(pod: &Pod, part: &Part, run: &Run, known: &Known) -> ResourceRequirements {
    if let Some((attempt, resources)) = known.applied.get(part.name())
        && *attempt == run.id.attempt
    {
        return resources.clone();
    }
    let written = status_of(pod, part).filter(|status| status.container_id == Some(status_id(run)));
    written
        .and_then(|status| status.resources.clone())
        .or_else(|| part.container.resources.clone())
        .unwrap_or_default()
}

/// The containers that run and have resources, with their runs.
fn running(pod: &Pod, sandbox: Option<&SandboxStatus>) -> Vec<(Part, Run)> {
    let resizable = parts(pod).into_iter().filter(|part| part.kind != Kind::Ephemeral);
    let found = resizable.filter_map(|part| {
        let run = last_run(sandbox, part.name()).filter(|run| run.state == ContainerState::Running)?.clone();
        Some((part, run))
    });
    found.collect()
}

/// The Pod's cgroup does not have what the Pod asks for as a whole.
struct WholeChange {
    /// Somebody changed it; otherwise it was not given yet.
    is_wish: bool,
}

fn whole_change(pod: &Pod, sandbox: Option<&SandboxStatus>, known: &Known) -> Option<WholeChange> {
    let wanted = resources::whole(pod)?;
    // Whoever comes later is started with what there is then.
    if running(pod, sandbox).is_empty() {
        return None;
    }
    let written = pod.status.as_ref().and_then(|status| status.resources.as_ref());
    let differs = |before: &ResourceRequirements| !changed(before, wanted).is_empty();
    match &known.whole {
        Some(before) => differs(before).then_some(WholeChange { is_wish: true }),
        None => Some(WholeChange { is_wish: written.is_some_and(differs) }),
    }
}

fn changes(pod: &Pod, sandbox: Option<&SandboxStatus>, known: &Known) -> Vec<Change> {
    let found = running(pod, sandbox).into_iter().filter_map(|(part, run)| {
        let before = applied(pod, &part, &run, known);
        let wanted = part.container.resources.clone().unwrap_or_default();
        (!changed(&before, &wanted).is_empty()).then_some(Change { part, run, before })
    });
    found.collect()
}

type List = Option<BTreeMap<String, Quantity>>;

/// Which resources differ in amount, however the amounts are written.
fn changed(before: &ResourceRequirements, after: &ResourceRequirements) -> Vec<&'static str> {
    let value = |list: &List, name: &str| list.as_ref().and_then(|list| list.get(name)).and_then(milli);
    let differs = |name: &&'static str| {
        value(&before.limits, name) != value(&after.limits, name)
            || value(&before.requests, name) != value(&after.requests, name)
    };
    ["cpu", "memory"].into_iter().filter(differs).collect()
}

fn needs_restart(part: &Part, before: &ResourceRequirements, after: &ResourceRequirements) -> bool {
    let changed = changed(before, after);
    let mut policies = part.container.resize_policy.iter().flatten();
    policies.any(|policy| {
        policy.restart_policy == "RestartContainer" && changed.contains(&policy.resource_name.as_str())
    })
}

/// Why the node has no room for the Pod as it is asked for: the reason and a message.
fn no_room<'a>(
    pod: &Pod,
    others: impl Iterator<Item = &'a Pod> + Clone,
    allocatable: &Allocatable,
) -> Option<(&'static str, String)> {
    let wanted = fit::asked(pod);
    for name in ["cpu", "memory"] {
        let Some(capacity) = allocatable.get(name).map(|there| amount(name, there)) else { continue };
        let requested = wanted.amount(name);
        if requested > capacity {
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
            );
            return Some(("Infeasible", message));
        }
        let running = others.clone().filter(|other| !has_ended(other));
        let used = running.map(|other| fit::given(other).amount(name)).fold(0, i64::saturating_add);
        if requested.saturating_add(used) > capacity {
            let short = fit::Shortage { resource: name.to_owned(), requested, used, capacity };
            return Some(("Deferred", short.rejection().message));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::status::tests::sandbox;
    use super::*;

    fn pod(cpu: &str, policy: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [{
            "name": "c", "resources": {"requests": {"cpu": cpu}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}],
        }]}}))
        .unwrap()
    }

    fn given(cpu: &str) -> ResourceRequirements {
        serde_json::from_value(json!({"requests": {"cpu": cpu}})).unwrap()
    }

    #[test]
    fn only_amounts_count() {
        let runs = sandbox(&[("c", 0, ContainerState::Running, 0)]);
        let known = |cpu| Known { applied: [("c".to_owned(), (0, given(cpu)))].into(), ..Known::default() };
        assert!(changes(&pod("1", "NotRequired"), Some(&runs), &known("1000m")).is_empty());
        assert_eq!(changes(&pod("2", "NotRequired"), Some(&runs), &known("1")).len(), 1);
        // Nothing is known but what is asked for.
        assert!(changes(&pod("2", "NotRequired"), Some(&runs), &Known::default()).is_empty());
    }

    #[test]
    fn what_the_whole_pod_asks_for_is_given_once_and_again_when_it_changes() {
        let runs = sandbox(&[("c", 0, ContainerState::Running, 0)]);
        let mut pod = pod("1", "NotRequired");
        let none = Known::default();
        assert!(whole_change(&pod, Some(&runs), &none).is_none());
        pod.spec.as_mut().unwrap().resources = Some(given("2"));
        assert!(whole_change(&pod, None, &none).is_none(), "nothing runs yet");
        assert!(!whole_change(&pod, Some(&runs), &none).unwrap().is_wish);
        let known = |cpu| Known { whole: Some(given(cpu)), ..Known::default() };
        assert!(whole_change(&pod, Some(&runs), &known("2000m")).is_none());
        assert!(whole_change(&pod, Some(&runs), &known("1")).unwrap().is_wish);
        // It was changed while no agent was there.
        pod.status.get_or_insert_default().resources = Some(given("1"));
        assert!(whole_change(&pod, Some(&runs), &none).unwrap().is_wish);
    }

    #[test]
    fn a_policy_may_ask_for_a_restart() {
        let part = |policy| parts(&pod("1", policy)).remove(0);
        assert!(needs_restart(&part("RestartContainer"), &given("1"), &given("2")));
        assert!(!needs_restart(&part("NotRequired"), &given("1"), &given("2")));
        assert!(!needs_restart(&part("RestartContainer"), &given("1"), &given("1000m")));
    }

    #[test]
    fn what_does_not_fit_waits_or_never_comes() {
        let node = Allocatable::from([("cpu".to_owned(), Quantity("4".to_owned()))]);
        let other = pod("3", "NotRequired");
        let says = |cpu| no_room(&pod(cpu, "NotRequired"), std::iter::once(&other), &node);
        assert_eq!(says("1"), None);
        assert_eq!(
            says("2"),
            Some((
                "Deferred",
                "Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000"
                    .to_owned()
            ))
        );
        assert_eq!(
            says("5"),
            Some((
                "Infeasible",
                "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000".to_owned()
            ))
        );
    }
}
