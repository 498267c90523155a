//! Deployment → ReplicaSets: one per template, scaled so that the newest takes over.

mod scale;
mod sets;
mod status;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_exists, run_loop};

use self::scale::{is_resized, sizes};
use self::sets::{
    Sets, available, bounds, changed_annotations, first_size, is_recreate, new_set, replicas, revision,
    same_template, size, status_size,
};
use self::status::{finished, progress_deadline};
use crate::Context;
use crate::children::{Children, controller_among, owners_of};
use crate::claim::claim;
use crate::pods::{controller_of, is_active, matches};

/// Label that ties Pods to the ReplicaSet of their template.
const HASH_LABEL: &str = "pod-template-hash";
/// Annotation with the number of a template among those that the Deployment had.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotation on a ReplicaSet: the revisions that it was before, oldest first, with commas.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Annotation on a ReplicaSet: how many Pods the Deployment asked for when the set was last scaled.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// Annotation on a ReplicaSet: how many Pods the Deployment might have had at most then.
const MAX_SIZE: &str = "deployment.kubernetes.io/max-replicas";

/// Runs the loop.
pub async fn run(context: Context) {
    let deployments = context.informers.of::<Deployment>();
    let sets = context.informers.of::<ReplicaSet>();
    let pods = context.informers.of::<Pod>();
    let queue = Queue::new();
    tokio::join!(deployments.synced(), sets.synced(), pods.synced());
    queue.feed(&deployments, |deployment| [ObjectKey::of(deployment)]);
    let all = deployments.clone();
    queue.feed(&sets, move |set| deployments_of(&all, &set.metadata));
    let (all, of) = (deployments.clone(), sets.clone());
    queue.feed(&pods, move |pod| recreates(&all, &of, &pod.metadata));
    let work =
        Arc::new(Loop { context, deployments, of_sets: Children::new(&sets), of_pods: Children::new(&pods) });
    run_loop("deployment", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

/// The Deployments that a set concerns: its controller, or for an orphan those that select it.
fn deployments_of(deployments: &Informer<Deployment>, meta: &ObjectMeta) -> Vec<ObjectKey> {
    owners_of(deployments, meta, |found| matches(&found.spec.selector, meta.labels.as_ref()))
}

/// The Deployment of a Pod that must be gone before its successor comes. What its set says need not change with its end: a set may count
/// it as gone before it ends.
fn recreates(
    deployments: &Informer<Deployment>,
    sets: &Informer<ReplicaSet>,
    pod: &ObjectMeta,
) -> Option<ObjectKey> {
    let namespace = pod.namespace.as_deref()?;
    let set = sets.get(Some(namespace), &controller_among::<ReplicaSet>(pod)?.name)?;
    let key = ObjectKey::new(namespace, controller_among::<Deployment>(&set.metadata)?.name.clone());
    let deployment = deployments.get_key(&key)?;
    is_recreate(&deployment.spec).then_some(key)
}

struct Loop {
    context: Context,
    deployments: Informer<Deployment>,
    of_sets: Children<ReplicaSet>,
    of_pods: Children<Pod>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(deployment) = self.deployments.get_key(key) else { return Ok(None) };
        let spec = deployment.spec.clone();
        if deployment.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut sets = self.sets_of(&deployment, &spec).await?;
        let paused = spec.paused.unwrap_or(false);
        let resized = is_resized(&spec, &sets);
        if !paused && !resized {
            sets.new = self.newest(&deployment, &spec, &sets).await?;
        }
        if paused || resized {
            for (set, size) in sizes(&deployment, &spec, &sets) {
                self.scale(&deployment, &spec, &set, size).await?;
            }
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

    async fn sets_of(&self, deployment: &Deployment, spec: &DeploymentSpec) -> kube::Result<Sets> {
        let all = self.of_sets.around(&deployment.metadata);
        let writer = &self.context.writer;
        let mut owned = claim(writer, deployment, &spec.selector, None, all).await?;
        owned.retain(|set| set.metadata.deletion_timestamp.is_none());
        owned.sort_by_key(|set| (set.creation_timestamp(), set.name_any()));
        // The oldest of equal ones, so that every pass picks the same.
        let new = owned.iter().position(|set| same_template(set, &spec.template));
        let new = new.map(|at| owned.remove(at));
        Ok(Sets { new, old: owned })
    }

    /// The set of the present template: made where there is none, and told what it has to know of its Deployment. A template that
    /// came back (a rollback) gets a new revision.
    async fn newest(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
        sets: &Sets,
    ) -> kube::Result<Option<Arc<ReplicaSet>>> {
        let next = sets.old.iter().map(|set| revision(&set.metadata)).max().unwrap_or(0) + 1;
        let namespace = deployment.namespace();
        let set = match &sets.new {
            Some(set) => {
                let changed = changed_annotations(deployment, &set.metadata, next);
                if changed.is_empty() {
                    set.clone()
                } else {
                    let patch = json!({"metadata": {"annotations": changed}});
                    let name = set.name_any();
                    Arc::new(
                        self.context.writer.merge::<ReplicaSet>(namespace.as_deref(), &name, &patch).await?,
                    )
                }
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
                        Arc::new(made)
                    }
                    Err(error) if is_exists(&error) => return self.settle_name(deployment, spec, &set).await,
                    Err(error) => {
                        self.tell_not_made(deployment, &set, &error).await?;
                        return Err(error);
                    }
                }
            }
        };
        let revision = revision(&set.metadata);
        if revision != self::revision(&deployment.metadata) {
            let patch = json!({"metadata": {"annotations": {REVISION: revision.to_string()}}});
            let name = deployment.name_any();
            // Along with the status, where annotations are no change that has yet to be looked at.
            self.context.writer.merge_status::<Deployment>(namespace.as_deref(), &name, &patch).await?;
        }
        Ok(Some(set))
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
        let left = old.iter().flat_map(|uid| self.of_pods.of(uid));
        let some_left =
            left.into_iter().any(|pod| is_active(&pod) || pod.metadata.deletion_timestamp.is_some());
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

    async fn scale(
        &self,
        deployment: &Deployment,
        spec: &DeploymentSpec,
        set: &ReplicaSet,
        to: i32,
    ) -> kube::Result<()> {
        let from = size(set);
        let desired = replicas(spec).to_string();
        let most = replicas(spec).saturating_add(bounds(spec).0).to_string();
        let annotations = set.annotations();
        if from == to
            && annotations.get(DESIRED) == Some(&desired)
            && annotations.get(MAX_SIZE) == Some(&most)
        {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": set.resource_version(), "annotations": {DESIRED: desired, MAX_SIZE: most}},
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
}
