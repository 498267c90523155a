//! PodDisruptionBudget: how many of its Pods may be taken away on purpose just now. Evictions take from that number.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};

use crate::Context;
use crate::ahead::Ahead;
use crate::pods::{controller_of, is_ready, matches};
use crate::scale::Finder;
use crate::share::share;
use crate::status::{now, number, status_patch};

const ALLOWED: &str = "DisruptionAllowed";
/// How long an evicted Pod may take until its deletion is seen.
const DELETED_WITHIN: SignedDuration = SignedDuration::from_secs(120);

/// Runs the loop.
pub async fn run(context: Context) {
    let informers = &context.informers;
    let work = Arc::new(Loop {
        budgets: informers.of(),
        pods: informers.of(),
        deployments: informers.of(),
        sets: informers.of(),
        stateful: informers.of(),
        controllers: informers.of(),
        written: Ahead::new(informers.of()),
        finder: Finder::default(),
        context,
    });
    tokio::join!(work.budgets.synced(), work.pods.synced(), work.deployments.synced());
    tokio::join!(work.sets.synced(), work.stateful.synced(), work.controllers.synced());
    let queue = Queue::new();
    queue.feed(&work.budgets, |budget| [ObjectKey::of(budget)]);
    let all = work.budgets.clone();
    queue.feed(&work.pods, move |pod| {
        let budgets = all.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
        let about = budgets.iter().filter(|budget| selects(budget, pod));
        about.map(|budget| ObjectKey::of(budget.as_ref())).collect::<Vec<_>>()
    });
    run_loop("disruption", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

/// An empty selector selects all Pods of the namespace, and none selects none.
fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| matches(selector, pod.metadata.labels.as_ref()))
}

struct Loop {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    stateful: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
    written: Ahead<PodDisruptionBudget>,
    /// Where objects of other kinds are that have Pods.
    finder: Finder,
}

/// What a budget's Pods should be.
#[derive(Debug, PartialEq, Eq)]
struct Expected {
    pods: i32,
    healthy: i32,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(budget) = self.budgets.get_key(key) else {
            self.written.forget(key);
            return Ok(None);
        };
        if let Some(wait) = self.written.behind(key) {
            return Ok(Some(wait));
        }
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selects(&budget, pod));
        if pods.is_empty() {
            self.tell(&budget, Severity::Normal, "NoPods", "No matching pods found".to_owned());
        }
        let before = budget.status.clone().unwrap_or_default();
        let (status, again) = match self.expected(&budget, &pods).await {
            Ok(expected) => {
                let (waiting, again) = still_waited_for(&before, &pods, now().0);
                (status_of(&budget, &before, &pods, &expected, waiting, now()), again)
            }
            Err(why) => {
                let message = format!("Failed to calculate the number of expected pods: {why}");
                self.tell(&budget, Severity::Warning, "CalculateExpectedPodCountFailed", message);
                let mut status = PodDisruptionBudgetStatus { disruptions_allowed: Some(0), ..before.clone() };
                let generation = before.observed_generation;
                set_allowed(&mut status, generation, ("False", "SyncFailed", why), now());
                (status, None)
            }
        };
        if let Some(patch) = status_patch(&budget.metadata, &before, &status) {
            let writer = &self.context.writer;
            match writer.merge_status::<PodDisruptionBudget>(key.namespace(), &key.name, &patch).await {
                Ok(written) => self.written.wrote(key, &written),
                Err(error) if is_not_found(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(again)
    }

    /// How many Pods there should be, and how many of them healthy.
    async fn expected(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<Expected, String> {
        let Some(spec) = &budget.spec else { return Ok(Expected { pods: 0, healthy: 0 }) };
        if let (None, Some(IntOrString::Int(least))) = (&spec.max_unavailable, &spec.min_available) {
            return Ok(Expected { pods: number(pods.len()), healthy: *least });
        }
        let asked = self.asked(budget, pods).await?;
        let healthy = match (&spec.max_unavailable, &spec.min_available) {
            (Some(most), _) => (asked - share(most, asked, true)).max(0),
            (None, Some(least)) => share(least, asked, true),
            (None, None) => 0,
        };
        Ok(Expected { pods: asked, healthy })
    }

    /// How many Pods their controllers are asked for.
    async fn asked(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<i32, String> {
        let mut scales: HashMap<String, i32> = HashMap::new();
        let mut others: HashSet<&str> = HashSet::new();
        let mut unmanaged = false;
        for pod in pods {
            let namespace = pod.metadata.namespace.as_deref();
            let Some(owner) = controller_of(&pod.metadata) else {
                unmanaged = true;
                continue;
            };
            let known = self.scale_of(namespace, owner);
            if known.is_none() && !others.insert(&owner.uid) {
                continue;
            }
            let (uid, scale) = match known {
                Some(known) => known,
                None => (owner.uid.clone(), self.scale_of_any(pod, owner).await?),
            };
            scales.insert(uid, scale);
        }
        if unmanaged {
            let message = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.";
            self.tell(budget, Severity::Warning, "UnmanagedPods", message.to_owned());
        }
        Ok(scales.values().fold(0, |all, scale| all.saturating_add(*scale)))
    }

    /// How many Pods a controller of any other kind is asked for: what its scale says.
    async fn scale_of_any(&self, pod: &Pod, owner: &OwnerReference) -> Result<i32, String> {
        let none = || format!("found no controllers for pod {:?}", pod.name_any());
        // One of these that is not there is not asked for a second time.
        if owner.api_version == "apps/v1" && matches!(owner.kind.as_str(), "ReplicaSet" | "StatefulSet") {
            return Err(none());
        }
        let client = self.context.writer.client();
        let namespace = pod.namespace().unwrap_or_default();
        let kind = (owner.api_version.as_str(), owner.kind.as_str());
        let (found, read) = self.finder.scale(client, kind, (&namespace, &owner.name)).await?;
        match read {
            Ok(target) if target.uid() == owner.uid => Ok(target.wanted()),
            Ok(_) => Err(none()),
            Err(failure) if failure.is_no_page() => {
                Err(format!("{} does not implement the scale subresource", found.resource()))
            }
            Err(failure) if failure.absent => Err(none()),
            Err(failure) => Err(failure.text),
        }
    }

    /// The controller that is asked for a number of Pods, by its uid, and that number.
    fn scale_of(&self, namespace: Option<&str>, owner: &OwnerReference) -> Option<(String, i32)> {
        let one = |uid: Option<String>, replicas: Option<i32>| {
            (uid.as_ref() == Some(&owner.uid)).then(|| (owner.uid.clone(), replicas.unwrap_or(1)))
        };
        match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = self.sets.get(namespace, &owner.name)?;
                match controller_of(&set.metadata).filter(|above| above.kind == "Deployment") {
                    None => one(set.uid(), set.spec.replicas),
                    Some(above) => {
                        let deployment = self.deployments.get(namespace, &above.name)?;
                        let found = deployment.uid().filter(|uid| *uid == above.uid)?;
                        Some((found, deployment.spec.replicas.unwrap_or(1)))
                    }
                }
            }
            "StatefulSet" => {
                let set = self.stateful.get(namespace, &owner.name)?;
                one(set.uid(), set.spec.replicas)
            }
            "ReplicationController" => {
                let set = self.controllers.get(namespace, &owner.name)?;
                one(set.uid(), set.spec.as_ref().and_then(|spec| spec.replicas))
            }
            _ => None,
        }
    }

    fn tell(&self, budget: &PodDisruptionBudget, severity: Severity, reason: &'static str, message: String) {
        self.context.recorder.event(budget, severity, reason, message);
    }
}

/// The Pods that were evicted and are not seen to go yet, and when the first of them was given up.
fn still_waited_for(
    before: &PodDisruptionBudgetStatus,
    pods: &[Arc<Pod>],
    now: Timestamp,
) -> (BTreeMap<String, Time>, Option<Duration>) {
    let evicted = before.disrupted_pods.iter().flatten();
    let waiting: BTreeMap<String, Time> = evicted
        .filter(|(name, at)| {
            let there = pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(*name));
            let stays = there.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none());
            stays && now.duration_since(at.0) <= DELETED_WITHIN
        })
        .map(|(name, at)| (name.clone(), at.clone()))
        .collect();
    let first = waiting.values().min().map(|at| DELETED_WITHIN - now.duration_since(at.0));
    let again = first.map(|left| Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1));
    (waiting, again)
}

fn status_of(
    budget: &PodDisruptionBudget,
    before: &PodDisruptionBudgetStatus,
    pods: &[Arc<Pod>],
    expected: &Expected,
    waiting: BTreeMap<String, Time>,
    now: Time,
) -> PodDisruptionBudgetStatus {
    let is_healthy = |pod: &&Arc<Pod>| {
        pod.metadata.deletion_timestamp.is_none() && !waiting.contains_key(&pod.name_any()) && is_ready(pod)
    };
    let healthy = number(pods.iter().filter(is_healthy).count());
    let spare = if expected.pods > 0 { (healthy - expected.healthy).max(0) } else { 0 };
    let generation = budget.metadata.generation;
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(expected.healthy),
        expected_pods: Some(expected.pods),
        disruptions_allowed: Some(spare),
        disrupted_pods: Some(waiting).filter(|waiting| !waiting.is_empty()),
        observed_generation: generation,
        conditions: before.conditions.clone(),
    };
    let said = if spare > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    set_allowed(&mut status, generation, (said.0, said.1, String::new()), now);
    status
}

/// Sets the condition; its time is that of its last change between true and false.
fn set_allowed(
    status: &mut PodDisruptionBudgetStatus,
    generation: Option<i64>,
    said: (&str, &str, String),
    now: Time,
) {
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().position(|condition| condition.type_ == ALLOWED);
    let since = known.map(|at| conditions.remove(at)).filter(|known| known.status == said.0);
    conditions.push(Condition {
        type_: ALLOWED.to_owned(),
        status: said.0.to_owned(),
        reason: said.1.to_owned(),
        message: said.2,
        observed_generation: generation,
        last_transition_time: since.map_or(now, |known| known.last_transition_time),
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-01-01T00:10:00Z";

    fn pod(name: &str, ready: &str, deleted: bool) -> Arc<Pod> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {"name": name, "deletionTimestamp": deleted.then_some(NOW)},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap(),
        )
    }

    fn status(expected: &Expected, before: Value, pods: &[Arc<Pod>]) -> (Value, Option<u64>) {
        let budget: PodDisruptionBudget =
            serde_json::from_value(json!({"metadata": {"generation": 2}})).unwrap();
        let before: PodDisruptionBudgetStatus = serde_json::from_value(before).unwrap();
        let now = Time(NOW.parse().unwrap());
        let (waiting, again) = still_waited_for(&before, pods, now.0);
        let status = status_of(&budget, &before, pods, expected, waiting, now);
        (json!(status), again.map(|again| again.as_secs()))
    }

    #[test]
    fn what_is_above_the_wish_may_go() {
        let pods = [
            pod("a", "True", false),
            pod("b", "True", false),
            pod("c", "False", false),
            pod("d", "True", true),
        ];
        let (enough, _) = status(&Expected { pods: 3, healthy: 1 }, json!({}), &pods);
        assert_eq!((&enough["currentHealthy"], &enough["disruptionsAllowed"]), (&json!(2), &json!(1)));
        assert_eq!((&enough["expectedPods"], &enough["desiredHealthy"]), (&json!(3), &json!(1)));
        assert_eq!(enough["observedGeneration"], 2);
        assert_eq!(enough["conditions"][0]["reason"], "SufficientPods");
        let (few, _) = status(&Expected { pods: 3, healthy: 2 }, enough, &pods);
        assert_eq!(
            (&few["disruptionsAllowed"], &few["conditions"][0]["status"]),
            (&json!(0), &json!("False"))
        );
        assert_eq!(few["conditions"].as_array().unwrap().len(), 1);
        let (none, _) = status(&Expected { pods: 0, healthy: 0 }, json!({}), &pods[..1]);
        assert_eq!(none["disruptionsAllowed"], 0);
    }

    #[test]
    fn evicted_pods_do_not_count_until_they_are_given_up() {
        let pods = [pod("a", "True", false), pod("b", "True", false), pod("c", "True", true)];
        let before = json!({"disruptedPods":
            {"a": "2026-01-01T00:09:00Z", "b": "2026-01-01T00:01:00Z", "c": "2026-01-01T00:09:00Z", "gone": NOW}});
        let (status, again) = status(&Expected { pods: 3, healthy: 0 }, before, &pods);
        assert_eq!(status["disruptedPods"], json!({"a": "2026-01-01T00:09:00Z"}));
        assert_eq!((&status["currentHealthy"], again), (&json!(1), Some(61)));
    }
}
