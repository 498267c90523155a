//! ReplicaSet → Pods: keeps the asked number of Pods of a template.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, run_loop};

use crate::Context;
use crate::pods::{availability, controller_of, is_active, matches, phase, ready_since};

/// Most Pods that are made or deleted in one pass; the rest follows in the next.
const BURST: usize = 500;
/// How many of these are under way at once.
const PARALLEL: usize = 16;
/// How long a write is counted on before the informer shows it.
const EXPECTED_WITHIN: Duration = Duration::from_secs(30);

/// Runs the loop.
pub async fn run(context: Context) {
    let sets = context.informers.of::<ReplicaSet>();
    let pods = context.informers.of::<Pod>();
    let queue = Queue::new();
    tokio::join!(sets.synced(), pods.synced());
    queue.feed(&sets, |set| [ObjectKey::of(set)]);
    let all = sets.clone();
    queue.feed(&pods, move |pod| sets_of(&all, pod));
    let work = Arc::new(Loop { context, sets, pods, expected: Mutex::default() });
    run_loop("replicaset", queue, 4, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

/// The ReplicaSets that a Pod's change concerns: its controller, or for an orphan those that select it.
fn sets_of(sets: &Informer<ReplicaSet>, pod: &Pod) -> Vec<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    match controller_of(&pod.metadata) {
        Some(owner) if owner.kind == "ReplicaSet" => vec![ObjectKey::new(namespace, owner.name.clone())],
        Some(_) => Vec::new(),
        None => sets
            .in_namespace(namespace)
            .iter()
            .filter(|set| selects(set, &pod.metadata))
            .map(|set| ObjectKey::of(set.as_ref()))
            .collect(),
    }
}

fn selects(set: &ReplicaSet, meta: &ObjectMeta) -> bool {
    matches(&set.spec.selector, meta.labels.as_ref())
}

/// What was written and is not seen yet, so that a pass on old news makes or deletes nothing twice.
#[derive(Default)]
struct Expected {
    created: HashMap<String, Instant>,
    deleted: HashMap<String, Instant>,
}

struct Loop {
    context: Context,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    expected: Mutex<HashMap<ObjectKey, Expected>>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(set) = self.sets.get_key(key) else {
            self.lock_expected().remove(key);
            return Ok(None);
        };
        let owned = self.owned_pods(&set).await?;
        let mut problem = None;
        if set.metadata.deletion_timestamp.is_none() {
            let (active, unseen) = self.settle(key, &owned);
            let wanted = wanted(&set);
            let present = active.len() + unseen;
            if present < wanted {
                problem = self.create(key, &set, (wanted - present).min(BURST)).await.err();
            } else if active.len() > wanted {
                self.delete_surplus(key, active, wanted).await?;
            }
        }
        let again = self.write_status(&set, &owned, problem.as_ref()).await?;
        match problem {
            Some(error) => Err(error),
            None => Ok(again),
        }
    }

    /// The Pods that the set controls; orphans that it selects become its own first.
    async fn owned_pods(&self, set: &ReplicaSet) -> kube::Result<Vec<Arc<Pod>>> {
        let uid = set.uid();
        let mut owned = Vec::new();
        for pod in self.pods.in_namespace(set.metadata.namespace.as_deref().unwrap_or_default()) {
            match controller_of(&pod.metadata) {
                Some(owner) if Some(&owner.uid) == uid.as_ref() => owned.push(pod),
                Some(_) => {}
                None if selects(set, &pod.metadata)
                    && is_active(&pod)
                    && set.metadata.deletion_timestamp.is_none() =>
                {
                    self.adopt(set, &pod).await?;
                    owned.push(pod);
                }
                None => {}
            }
        }
        Ok(owned)
    }

    async fn adopt(&self, set: &ReplicaSet, pod: &Pod) -> kube::Result<()> {
        let mut owners = pod.metadata.owner_references.clone().unwrap_or_default();
        owners.push(owner_reference(set));
        let patch = json!({"metadata": {
            "uid": pod.uid(),
            "resourceVersion": pod.resource_version(),
            "ownerReferences": owners,
        }});
        self.context.writer.merge::<Pod>(pod.namespace().as_deref(), &pod.name_any(), &patch).await?;
        Ok(())
    }

    /// Forgets the expectations that came true; returns the Pods that count, and how many were made that
    /// are not seen yet.
    fn settle(&self, key: &ObjectKey, owned: &[Arc<Pod>]) -> (Vec<Arc<Pod>>, usize) {
        let mut all = self.lock_expected();
        let expected = all.entry(key.clone()).or_default();
        let seen: HashSet<String> = owned.iter().filter_map(|pod| pod.uid()).collect();
        let fresh = |at: &Instant| at.elapsed() < EXPECTED_WITHIN;
        expected.created.retain(|uid, at| !seen.contains(uid) && fresh(at));
        expected.deleted.retain(|uid, at| seen.contains(uid) && fresh(at));
        let active = owned
            .iter()
            .filter(|pod| is_active(pod) && pod.uid().is_none_or(|uid| !expected.deleted.contains_key(&uid)))
            .cloned()
            .collect();
        (active, expected.created.len())
    }

    async fn create(&self, key: &ObjectKey, set: &ReplicaSet, count: usize) -> kube::Result<()> {
        let Some(pod) = pod_of(set) else { return Ok(()) };
        let results: Vec<kube::Result<Pod>> = futures::stream::iter(0..count)
            .map(|_| self.context.writer.create(&pod))
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let mut failed = None;
        for result in results {
            match result {
                Ok(made) => {
                    if let Some(uid) = made.uid() {
                        let mut all = self.lock_expected();
                        all.entry(key.clone()).or_default().created.insert(uid, Instant::now());
                    }
                    let message = format!("Created pod: {}", made.name_any());
                    self.context.recorder.event(set, Severity::Normal, "SuccessfulCreate", message);
                }
                Err(error) => failed = Some(error),
            }
        }
        let Some(error) = failed else { return Ok(()) };
        let message = format!("Error creating: {error}");
        self.context.recorder.event(set, Severity::Warning, "FailedCreate", message);
        Err(error)
    }

    async fn delete_surplus(
        &self,
        key: &ObjectKey,
        mut active: Vec<Arc<Pod>>,
        wanted: usize,
    ) -> kube::Result<()> {
        // The least useful first: not placed, not running, not ready, the youngest.
        active.sort_by_key(|pod| {
            let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            let ready = ready_since(pod);
            (placed, phase(pod) == "Running", ready.is_some(), std::cmp::Reverse(pod.creation_timestamp()))
        });
        let surplus = active.len() - wanted;
        for pod in active.iter().take(surplus.min(BURST)) {
            let (namespace, name, uid) = (pod.namespace(), pod.name_any(), pod.uid());
            self.context.writer.delete::<Pod>(namespace.as_deref(), &name, uid.as_deref()).await?;
            if let Some(uid) = uid {
                let mut all = self.lock_expected();
                all.entry(key.clone()).or_default().deleted.insert(uid, Instant::now());
            }
            if let Some(set) = self.sets.get_key(key) {
                let message = format!("Deleted pod: {name}");
                self.context.recorder.event(set.as_ref(), Severity::Normal, "SuccessfulDelete", message);
            }
        }
        Ok(())
    }

    /// Writes the status if it changed; returns when a Pod will become available with time alone.
    async fn write_status(
        &self,
        set: &ReplicaSet,
        owned: &[Arc<Pod>],
        problem: Option<&kube::Error>,
    ) -> kube::Result<Option<Duration>> {
        let now = Timestamp::now();
        let min_ready = set.spec.min_ready_seconds.unwrap_or(0);
        let template = set.spec.template.as_ref();
        let template_labels = template.and_then(|t| t.metadata.as_ref()).and_then(|meta| meta.labels.clone());
        let (mut replicas, mut labelled, mut ready, mut available) = (0, 0, 0, 0);
        let mut again: Option<Duration> = None;
        for pod in owned.iter().filter(|pod| is_active(pod)) {
            replicas += 1;
            let labels = pod.labels();
            labelled += i32::from(
                template_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value)),
            );
            ready += i32::from(ready_since(pod).is_some());
            match availability(pod, min_ready, now) {
                Ok(()) => available += 1,
                Err(Some(left)) => again = Some(again.map_or(left, |a| a.min(left))),
                Err(None) => {}
            }
        }
        let before = set.status.clone().unwrap_or_default();
        let failing =
            before.conditions.iter().flatten().any(|c| c.type_.as_deref() == Some("ReplicaFailure"));
        let same = before.replicas == replicas
            && before.fully_labeled_replicas.unwrap_or(0) == labelled
            && before.ready_replicas.unwrap_or(0) == ready
            && before.available_replicas.unwrap_or(0) == available
            && before.observed_generation == set.metadata.generation
            && failing == problem.is_some();
        if same {
            return Ok(again);
        }
        let conditions = problem.map(|error| {
            json!([{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate",
                    "message": error.to_string(), "lastTransitionTime": now}])
        });
        let patch = json!({"status": {
            "replicas": replicas,
            "fullyLabeledReplicas": labelled,
            "readyReplicas": ready,
            "availableReplicas": available,
            "observedGeneration": set.metadata.generation,
            "conditions": conditions,
        }});
        let written = self
            .context
            .writer
            .merge_status::<ReplicaSet>(set.namespace().as_deref(), &set.name_any(), &patch)
            .await;
        match written {
            Err(error) if yunfan_client::is_not_found(&error) => Ok(None),
            Err(error) => Err(error),
            Ok(_) => Ok(again),
        }
    }

    fn lock_expected(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, Expected>> {
        // Nothing panics under this lock.
        self.expected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wanted(set: &ReplicaSet) -> usize {
    let replicas = set.spec.replicas.unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

fn owner_reference(set: &ReplicaSet) -> OwnerReference {
    OwnerReference { block_owner_deletion: Some(true), ..set.controller_owner_ref(&()).unwrap_or_default() }
}

/// The Pod that the set's template describes.
fn pod_of(set: &ReplicaSet) -> Option<Pod> {
    let template = set.spec.template.as_ref()?;
    let meta = template.metadata.clone().unwrap_or_default();
    let mut prefix = set.name_any();
    // A generated name adds five characters, and a Pod's name is a host name.
    prefix.truncate(57);
    Some(Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{prefix}-")),
            namespace: set.namespace(),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    })
}
