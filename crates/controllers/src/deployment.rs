//! Deployment → ReplicaSets: one per template, scaled so that the newest takes over.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_exists, run_loop};

use crate::Context;
use crate::pods::{controller_of, is_active};

/// Label that ties Pods to the ReplicaSet of their template.
const HASH_LABEL: &str = "pod-template-hash";
/// Annotation with the number of a template among those that the Deployment had.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation on a ReplicaSet: how many Pods the Deployment asked for when the set was last scaled.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";

/// Runs the loop.
pub async fn run(context: Context) {
    let deployments = context.informers.of::<Deployment>();
    let sets = context.informers.of::<ReplicaSet>();
    let pods = context.informers.of::<Pod>();
    let queue = Queue::new();
    tokio::join!(deployments.synced(), sets.synced(), pods.synced());
    queue.feed(&deployments, |deployment| [ObjectKey::of(deployment)]);
    queue.feed(&sets, |set| owner_key(&set.metadata, "Deployment"));
    let work = Arc::new(Loop { context, deployments, sets, pods });
    run_loop("deployment", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

fn owner_key(meta: &ObjectMeta, kind: &str) -> Option<ObjectKey> {
    let owner = controller_of(meta).filter(|owner| owner.kind == kind)?;
    Some(ObjectKey::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()))
}

struct Loop {
    context: Context,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
}

/// The sets of a Deployment: the one of its present template, and the others, oldest first.
struct Sets {
    new: Option<Arc<ReplicaSet>>,
    old: Vec<Arc<ReplicaSet>>,
}

impl Sets {
    fn all(&self) -> impl Iterator<Item = &Arc<ReplicaSet>> {
        self.old.iter().chain(&self.new)
    }
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(deployment) = self.deployments.get_key(key) else { return Ok(None) };
        let spec = deployment.spec.clone();
        if deployment.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut sets = self.sets_of(&deployment, &spec);
        let paused = spec.paused.unwrap_or(false);
        if !paused && (sets.new.is_none() || self.is_stale(&deployment, &sets)) {
            sets.new = self.make_newest(&deployment, &spec, &sets).await?;
        }
        if paused {
            self.scale_in_proportion(&deployment, &spec, &sets).await?;
        } else if is_recreate(&spec) {
            self.recreate(&deployment, &spec, &sets).await?;
        } else {
            self.roll(&deployment, &spec, &sets).await?;
        }
        self.write_status(&deployment, &spec, &sets).await?;
        if finished(&spec, &sets) {
            self.trim_history(&spec, &sets).await?;
        }
        Ok(progress_deadline(&deployment, &spec))
    }

    fn sets_of(&self, deployment: &Deployment, spec: &DeploymentSpec) -> Sets {
        let uid = deployment.uid();
        let mut owned: Vec<Arc<ReplicaSet>> = self
            .sets
            .in_namespace(deployment.metadata.namespace.as_deref().unwrap_or_default())
            .into_iter()
            .filter(|set| controller_of(&set.metadata).map(|owner| &owner.uid) == uid.as_ref())
            .filter(|set| set.metadata.deletion_timestamp.is_none())
            .collect();
        owned.sort_by_key(|set| (set.creation_timestamp(), set.name_any()));
        // The oldest of equal ones, so that every pass picks the same.
        let new = owned.iter().position(|set| same_template(set, &spec.template));
        let new = new.map(|at| owned.remove(at));
        Sets { new, old: owned }
    }

    /// Whether the newest set lacks the highest revision: its template came back (a rollback).
    fn is_stale(&self, _deployment: &Deployment, sets: &Sets) -> bool {
        let newest = sets.new.as_ref().map_or(0, |set| revision(&set.metadata));
        sets.old.iter().any(|set| revision(&set.metadata) >= newest)
    }

    /// Makes the set of the present template, or gives it the highest revision when it is there.
    async fn make_newest(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
        sets: &Sets,
    ) -> kube::Result<Option<Arc<ReplicaSet>>> {
        let next = sets.old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0) + 1;
        let namespace = deployment.namespace();
        let set = match &sets.new {
            Some(set) => {
                let patch = json!({"metadata": {"annotations": {REVISION: next.to_string()}}});
                self.context.writer.merge::<ReplicaSet>(namespace.as_deref(), &set.name_any(), &patch).await?
            }
            None => {
                let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
                let set = new_set(deployment, spec, next, collisions, first_size(spec, sets));
                match self.context.writer.create(&set).await {
                    Ok(made) => {
                        let count = made.spec.replicas.unwrap_or(0);
                        let message = format!("Scaled up replica set {} from 0 to {count}", made.name_any());
                        self.context.recorder.event(
                            deployment,
                            Severity::Normal,
                            "ScalingReplicaSet",
                            message,
                        );
                        made
                    }
                    Err(error) if is_exists(&error) => return self.settle_name(deployment, spec, &set).await,
                    Err(error) => return Err(error),
                }
            }
        };
        let patch = json!({"metadata": {"annotations": {REVISION: next.to_string()}}});
        self.context.writer.merge::<Deployment>(namespace.as_deref(), &deployment.name_any(), &patch).await?;
        Ok(Some(Arc::new(set)))
    }

    /// The new set's name is taken: by itself (our informer lags), or by a set of another template with
    /// the same hash, and then the collision count changes the hash.
    async fn settle_name(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
        set: &ReplicaSet,
    ) -> kube::Result<Option<Arc<ReplicaSet>>> {
        let namespace = deployment.namespace();
        let there: ReplicaSet = self.context.writer.get(namespace.as_deref(), &set.name_any()).await?;
        let ours = controller_of(&there.metadata).map(|owner| &owner.uid) == deployment.uid().as_ref();
        if ours && same_template(&there, &spec.template) {
            return Ok(Some(Arc::new(there)));
        }
        let collisions = deployment.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0) + 1;
        let patch = json!({"status": {"collisionCount": collisions}});
        let name = deployment.name_any();
        self.context.writer.merge_status::<Deployment>(namespace.as_deref(), &name, &patch).await?;
        Ok(None)
    }

    /// All old Pods go before the first new one comes.
    async fn recreate(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
        sets: &Sets,
    ) -> kube::Result<()> {
        for set in &sets.old {
            self.scale(deployment, spec, set, 0).await?;
        }
        let old: Vec<_> = sets.old.iter().filter_map(|set| set.uid()).collect();
        let some_left =
            self.pods.in_namespace(deployment.metadata.namespace.as_deref().unwrap_or_default()).iter().any(
                |pod| {
                    (is_active(pod) || pod.metadata.deletion_timestamp.is_some())
                        && controller_of(&pod.metadata).is_some_and(|owner| old.contains(&owner.uid))
                },
            );
        match &sets.new {
            Some(new) if !some_left => self.scale(deployment, spec, new, replicas(spec)).await,
            _ => Ok(()),
        }
    }

    /// New Pods come and old ones go, never more than `maxSurge` above nor, as far as it is up to us, `maxUnavailable` below the
    /// asked number.
    async fn roll(&self, deployment: &Deployment, spec: &DeploymentSpec, sets: &Sets) -> kube::Result<()> {
        let Some(new) = &sets.new else { return Ok(()) };
        let wanted = replicas(spec);
        let (surge, unavailable) = bounds(spec);
        let total: i32 = sets.all().map(|set| size(set)).sum();
        let room = (wanted + surge - total).max(0);
        let target = if size(new) > wanted { wanted } else { (size(new) + room).min(wanted) };
        self.scale(deployment, spec, new, target).await?;

        let old_total: i32 = sets.old.iter().map(|set| size(set)).sum();
        if old_total == 0 {
            return Ok(());
        }
        // What may go: all above what must stay available, counting the new Pods that are not available yet as missing.
        let new_missing = size(new) - available(new);
        let mut may_go = total - (wanted - unavailable) - new_missing;
        for unhealthy in [true, false] {
            for set in &sets.old {
                if may_go <= 0 {
                    return Ok(());
                }
                // Unavailable old Pods first: taking them away costs nothing.
                let candidates = if unhealthy { size(set) - available(set) } else { size(set) };
                let go = candidates.min(may_go);
                if go > 0 {
                    self.scale(deployment, spec, set, size(set) - go).await?;
                    if unhealthy && go < size(set) {
                        // The sizes in hand are old news for this set now; the next pass goes on.
                        return Ok(());
                    }
                    may_go -= go;
                }
            }
            if unhealthy && sets.old.iter().any(|set| size(set) > available(set)) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// While paused, a changed number of replicas is spread over the sets as they stand.
    async fn scale_in_proportion(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
        sets: &Sets,
    ) -> kube::Result<()> {
        let live: Vec<_> = sets.all().filter(|set| size(set) > 0).cloned().collect();
        let total: i32 = live.iter().map(|set| size(set)).sum();
        let (surge, _) = bounds(spec);
        let wanted = if live.len() > 1 { replicas(spec) + surge } else { replicas(spec) };
        if live.is_empty() {
            let Some(newest) = sets.new.as_ref().or(sets.old.last()) else { return Ok(()) };
            return self.scale(deployment, spec, newest, replicas(spec)).await;
        }
        // Unchanged since the sets were last scaled: a rollout that was stopped midway stays as it is.
        let scaled_for = |set: &ReplicaSet| set.annotations().get(DESIRED).and_then(|n| n.parse().ok());
        if live.iter().all(|set| scaled_for(set) == Some(replicas(spec))) {
            return Ok(());
        }
        let mut left = wanted;
        for (place, set) in live.iter().enumerate() {
            let share = if place + 1 == live.len() { left } else { (wanted * size(set) / total).min(left) };
            left -= share;
            self.scale(deployment, spec, set, share).await?;
        }
        Ok(())
    }

    async fn scale(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
        set: &ReplicaSet,
        to: i32,
    ) -> kube::Result<()> {
        let from = size(set);
        let desired = replicas(spec).to_string();
        if from == to && set.annotations().get(DESIRED) == Some(&desired) {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": set.resource_version(), "annotations": {DESIRED: desired}},
            "spec": {"replicas": to},
        });
        let name = set.name_any();
        self.context.writer.merge::<ReplicaSet>(set.namespace().as_deref(), &name, &patch).await?;
        if from != to {
            let direction = if to > from { "up" } else { "down" };
            let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
            self.context.recorder.event(deployment, Severity::Normal, "ScalingReplicaSet", message);
        }
        Ok(())
    }

    async fn trim_history(&self, spec: &DeploymentSpec, sets: &Sets) -> kube::Result<()> {
        let keep = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
        let mut empty: Vec<_> =
            sets.old.iter().filter(|set| size(set) == 0 && status_size(set) == 0).collect();
        empty.sort_by_key(|set| revision(&set.metadata));
        let surplus = empty.len().saturating_sub(keep);
        for set in empty.into_iter().take(surplus) {
            let (namespace, name, uid) = (set.namespace(), set.name_any(), set.uid());
            self.context.writer.delete::<ReplicaSet>(namespace.as_deref(), &name, uid.as_deref()).await?;
        }
        Ok(())
    }

    async fn write_status(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
        sets: &Sets,
    ) -> kube::Result<()> {
        let before = deployment.status.clone().unwrap_or_default();
        let total: i32 = sets.all().map(|set| status_size(set)).sum();
        let ready: i32 = sets.all().map(|set| status_of(set, |s| s.ready_replicas)).sum();
        let available_now: i32 = sets.all().map(|set| available(set)).sum();
        let updated = sets.new.as_deref().map_or(0, status_size);
        let conditions = conditions(deployment, spec, sets, available_now, updated);
        let patch = json!({
            "observedGeneration": deployment.metadata.generation,
            "replicas": total,
            "updatedReplicas": updated,
            "readyReplicas": ready,
            "availableReplicas": available_now,
            "unavailableReplicas": (replicas(spec).max(total) - available_now).max(0),
            "conditions": conditions,
        });
        let old = json!({
            "observedGeneration": before.observed_generation,
            "replicas": before.replicas.unwrap_or(0),
            "updatedReplicas": before.updated_replicas.unwrap_or(0),
            "readyReplicas": before.ready_replicas.unwrap_or(0),
            "availableReplicas": before.available_replicas.unwrap_or(0),
            "unavailableReplicas": before.unavailable_replicas.unwrap_or(0),
            "conditions": before.conditions,
        });
        if patch == old {
            return Ok(());
        }
        let (namespace, name) = (deployment.namespace(), deployment.name_any());
        let written = self
            .context
            .writer
            .merge_status::<Deployment>(namespace.as_deref(), &name, &json!({"status": patch}))
            .await;
        match written {
            Err(error) if !yunfan_client::is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }
}

/// The conditions Available and Progressing as they are now; times change only with what they date.
fn conditions(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &Sets,
    available_now: i32,
    updated: i32,
) -> Value {
    let (_, unavailable) = bounds(spec);
    let is_available = available_now >= replicas(spec) - unavailable;
    let available = if is_available {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.".to_owned())
    };
    let set = sets.new.as_ref().map(|set| set.name_any()).unwrap_or_default();
    let before = deployment.status.as_ref();
    let moved = before.is_none_or(|b| {
        b.updated_replicas.unwrap_or(0) != updated || b.available_replicas.unwrap_or(0) != available_now
    });
    let progressing = if finished(spec, sets) {
        ("True", "NewReplicaSetAvailable", format!("ReplicaSet \"{set}\" has successfully progressed."))
    } else if !moved && deadline_passed(deployment, spec) {
        ("False", "ProgressDeadlineExceeded", format!("ReplicaSet \"{set}\" has timed out progressing."))
    } else {
        ("True", "ReplicaSetUpdated", format!("ReplicaSet \"{set}\" is progressing."))
    };
    json!([
        condition(deployment, "Available", available, false),
        condition(deployment, "Progressing", progressing, moved)
    ])
}

fn condition(deployment: &Deployment, kind: &str, now: (&str, &str, String), touch: bool) -> Value {
    let (status, reason, message) = now;
    let before = deployment
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .find(|c| c.type_.as_deref() == Some(kind));
    let at = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let time = |time: Option<&k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
        time.map_or(json!(at), |time| json!(time))
    };
    let transition = match before {
        Some(b) if b.status.as_deref() == Some(status) => time(b.last_transition_time.as_ref()),
        _ => json!(at),
    };
    let update = match before {
        Some(b) if b.status.as_deref() == Some(status) && b.reason.as_deref() == Some(reason) && !touch => {
            time(b.last_update_time.as_ref())
        }
        _ => json!(at),
    };
    json!({"type": kind, "status": status, "reason": reason, "message": message,
           "lastTransitionTime": transition, "lastUpdateTime": update})
}

/// When to look whether the progress deadline passed.
fn progress_deadline(deployment: &Deployment, spec: &DeploymentSpec) -> Option<Duration> {
    let progressing = deployment
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .find(|c| c.type_.as_deref() == Some("Progressing"))?;
    let waits = progressing.status.as_deref() == Some("True")
        && progressing.reason.as_deref() != Some("NewReplicaSetAvailable");
    let seconds = u64::try_from(spec.progress_deadline_seconds.unwrap_or(600)).ok()?;
    (waits && !spec.paused.unwrap_or(false)).then(|| Duration::from_secs(seconds + 1))
}

fn deadline_passed(deployment: &Deployment, spec: &DeploymentSpec) -> bool {
    let progressing = deployment
        .status
        .iter()
        .flat_map(|s| s.conditions.iter().flatten())
        .find(|c| c.type_.as_deref() == Some("Progressing"));
    let Some(condition) = progressing else { return false };
    if condition.reason.as_deref() == Some("ProgressDeadlineExceeded") {
        return true;
    }
    let since = condition.last_update_time.as_ref().map_or(i64::MAX, |time| time.0.as_second());
    let limit = i64::from(spec.progress_deadline_seconds.unwrap_or(600));
    condition.reason.as_deref() != Some("NewReplicaSetAvailable")
        && Timestamp::now().as_second().saturating_sub(since) > limit
}

fn finished(spec: &DeploymentSpec, sets: &Sets) -> bool {
    let wanted = replicas(spec);
    let old: i32 = sets.old.iter().map(|set| size(set).max(status_size(set))).sum();
    sets.new.as_ref().is_some_and(|new| {
        old == 0 && size(new) == wanted && status_size(new) == wanted && available(new) >= wanted
    })
}

fn replicas(spec: &DeploymentSpec) -> i32 {
    spec.replicas.unwrap_or(1)
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn status_of(
    set: &ReplicaSet,
    field: impl Fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> Option<i32>,
) -> i32 {
    set.status.as_ref().and_then(field).unwrap_or(0)
}

fn status_size(set: &ReplicaSet) -> i32 {
    status_of(set, |status| Some(status.replicas))
}

fn available(set: &ReplicaSet) -> i32 {
    status_of(set, |status| status.available_replicas)
}

fn revision(meta: &ObjectMeta) -> i64 {
    meta.annotations.as_ref().and_then(|a| a.get(REVISION)).and_then(|r| r.parse().ok()).unwrap_or(0)
}

fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// `maxSurge` and `maxUnavailable` in Pods; both zero would never move, so then one may be unavailable.
fn bounds(spec: &DeploymentSpec) -> (i32, i32) {
    if is_recreate(spec) {
        return (0, replicas(spec));
    }
    let rolling = spec.strategy.as_ref().and_then(|s| s.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".to_owned());
    let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
    let surge = share(surge, replicas(spec), true);
    let unavailable = share(unavailable, replicas(spec), false).min(replicas(spec));
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// A number of Pods, or a share of `of` in percent, rounded up or down.
fn share(value: &IntOrString, of: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let hundredths = percent * i64::from(of);
            let rounded = if up { (hundredths + 99) / 100 } else { hundredths / 100 };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// How large the set of a new template starts.
fn first_size(spec: &DeploymentSpec, sets: &Sets) -> i32 {
    let total: i32 = sets.old.iter().map(|set| size(set)).sum();
    if total == 0 {
        return replicas(spec);
    }
    if is_recreate(spec) {
        return 0;
    }
    let (surge, _) = bounds(spec);
    (replicas(spec) + surge - total).clamp(0, replicas(spec))
}

fn same_template(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let Some(mut have) = set.spec.template.clone() else { return false };
    if let Some(labels) = have.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    let plain = |template: &PodTemplateSpec| {
        let labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).filter(|l| !l.is_empty());
        let annotations =
            template.metadata.as_ref().and_then(|m| m.annotations.clone()).filter(|a| !a.is_empty());
        (labels, annotations, template.spec.clone())
    };
    plain(&have) == plain(template)
}

fn new_set(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    revision: i64,
    collisions: i32,
    count: i32,
) -> ReplicaSet {
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector: LabelSelector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let mut annotations = deployment.metadata.annotations.clone().unwrap_or_default();
    annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    annotations.insert(REVISION.to_owned(), revision.to_string());
    annotations.insert(DESIRED.to_owned(), replicas(spec).to_string());
    let owner = OwnerReference {
        block_owner_deletion: Some(true),
        ..deployment.controller_owner_ref(&()).unwrap_or_default()
    };
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(count),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    }
}

/// Ten characters that tell templates apart; the alphabet has no vowels, so that no words appear.
fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash = Sha256::new();
    // A template is plain data: it always serializes.
    hash.update(serde_json::to_vec(template).unwrap_or_default());
    hash.update(collisions.to_be_bytes());
    hash.finalize()
        .iter()
        .take(10)
        .map(|byte| char::from(ALPHABET[usize::from(*byte) % ALPHABET.len()]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(value: Value) -> DeploymentSpec {
        serde_json::from_value(value).unwrap()
    }

    fn plain(replicas: i32, strategy: Value) -> DeploymentSpec {
        spec(json!({"replicas": replicas, "strategy": strategy, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                         "spec": {"containers": [{"name": "c", "image": "web:1"}]}}}))
    }

    #[test]
    fn surge_rounds_up_and_unavailable_rounds_down() {
        assert_eq!(bounds(&plain(10, json!({}))), (3, 2));
        let strategy = |surge: Value, unavailable: Value| json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        assert_eq!(bounds(&plain(10, strategy(json!(1), json!("0%")))), (1, 0));
        assert_eq!(bounds(&plain(3, strategy(json!(0), json!(0)))), (0, 1));
        assert_eq!(bounds(&plain(4, json!({"type": "Recreate"}))), (0, 4));
    }

    #[test]
    fn a_set_is_known_by_its_template_whatever_hash_it_bears() {
        let spec = plain(3, json!({}));
        let mut deployment = Deployment::default();
        deployment.metadata.name = Some("web".into());
        deployment.metadata.uid = Some("u".into());
        let set = new_set(&deployment, &spec, 1, 0, 3);
        assert!(same_template(&set, &spec.template));
        let mut changed = spec.clone();
        changed.template.spec.as_mut().unwrap().containers[0].image = Some("web:2".into());
        assert!(!same_template(&set, &changed.template));
        assert_ne!(template_hash(&spec.template, 0), template_hash(&spec.template, 1));
        assert!(set.name_any().starts_with("web-"));
    }
}
