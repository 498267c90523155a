//! ReplicaSet and ReplicationController → Pods: both keep the asked number of Pods of a template, and one loop is written for both.

mod kinds;
mod status;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use yunfan_client::{Informer, ObjectKey, Queue, is_not_found, run_loop};

use self::kinds::{Replicated, Wish};
use self::status::{Failure, status_of};
use crate::Context;
use crate::ahead::Ahead;
use crate::children::{Children, owners_of};
use crate::claim::claim;
use crate::pod_writer::{BURST, PodWriter};
use crate::pods::{controller_of, from_template, is_active, is_terminal, matches, removal_order, sooner};
use crate::status::{now, status_patch};

/// Runs the loops of both kinds.
pub async fn run(context: Context) {
    tokio::join!(run_kind::<ReplicaSet>(context.clone()), run_kind::<ReplicationController>(context));
}

async fn run_kind<R: Replicated>(context: Context) {
    let context = context.named(R::COMPONENT);
    let sets = context.informers.of::<R>();
    let pods = context.informers.of::<Pod>();
    let queue = Queue::new();
    tokio::join!(sets.synced(), pods.synced());
    queue.feed(&sets, |set| [ObjectKey::of(set)]);
    let all = sets.clone();
    queue.feed(&pods, move |pod: &Pod| {
        let labels = pod.metadata.labels.as_ref();
        owners_of(&all, &pod.metadata, |set: &R| {
            set.wish().is_some_and(|wish| matches(&wish.selector, labels))
        })
    });
    let work = Arc::new(Loop {
        of_pods: Children::new(&pods),
        of_sets: Children::new(&sets),
        written_sets: Ahead::new(sets.clone()),
        written_pods: Ahead::new(pods.clone()),
        context,
        sets,
    });
    run_loop(R::LOOP, queue, 4, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop<R> {
    context: Context,
    sets: Informer<R>,
    of_pods: Children<Pod>,
    of_sets: Children<R>,
    written_sets: Ahead<R>,
    written_pods: Ahead<Pod>,
}

impl<R: Replicated> Loop<R> {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(set) = self.sets.get_key(key) else {
            self.written_sets.forget(key);
            self.written_pods.forget(key);
            return Ok(None);
        };
        if let Some(wait) = sooner(self.written_sets.behind(key), self.written_pods.behind(key)) {
            return Ok(Some(wait));
        }
        let Some(wish) = set.wish() else { return Ok(None) };
        let writer = &self.context.writer;
        let mut pods = self.of_pods.around(set.meta());
        pods.retain(|pod| !is_terminal(pod));
        let pods = claim(writer, set.as_ref(), &wish.selector, None, pods).await?;
        let (active, leaving): (Vec<_>, Vec<_>) = pods.into_iter().partition(|pod| is_active(pod));
        let (mut more, mut problem) = (false, None);
        if set.meta().deletion_timestamp.is_none() {
            (more, problem) = self.fit(key, &set, &wish, &active).await;
        }
        let before = set.status();
        let failure = problem.as_ref().map(|error| Failure::of(error, active.len() < wish.replicas));
        let (mut status, again) = status_of(&wish, &before, &active, failure, now());
        status.observed_generation = set.meta().generation;
        status.terminating_replicas = R::COUNTS_LEAVING.then(|| crate::status::number(leaving.len()));
        if let Some(patch) = status_patch(set.meta(), &before, &status) {
            match writer.merge_status::<R>(key.namespace(), &key.name, &patch).await {
                Ok(written) => self.written_sets.wrote(key, &written),
                Err(error) if is_not_found(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        match problem {
            Some(error) => Err(error),
            // What one pass could not do the next one does.
            None => Ok(if more { Some(Duration::ZERO) } else { again }),
        }
    }

    /// Makes or deletes Pods; tells whether more is left to do, and what went wrong.
    async fn fit(
        &self,
        key: &ObjectKey,
        set: &R,
        wish: &Wish<'_>,
        active: &[Arc<Pod>],
    ) -> (bool, Option<kube::Error>) {
        let hands = PodWriter { context: &self.context, key, owner: set, ahead: &self.written_pods };
        let missing = wish.replicas.saturating_sub(active.len());
        if missing > 0 {
            let new = vec![from_template(set, wish.template); missing.min(BURST)];
            let outcome = hands.create(&new).await;
            // Where none could be made, none can now.
            return (missing > BURST && !outcome.done.is_empty(), outcome.problem);
        }
        let surplus = active.len() - wish.replicas;
        if surplus == 0 {
            return (false, None);
        }
        let crowds = self.crowds(set);
        let crowd = |pod: &Pod| {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
            node.and_then(|node| crowds.get(node)).copied().unwrap_or(0)
        };
        let now = now().0;
        let mut order = active.to_vec();
        order.sort_by(|one, other| removal_order(one, other, crowd, now));
        order.truncate(surplus.min(BURST));
        (surplus > BURST, hands.delete(&order, None).await.problem)
    }

    /// How many active Pods of the set and its siblings are on each node.
    fn crowds(&self, set: &R) -> HashMap<String, usize> {
        let siblings = match controller_of(set.meta()) {
            Some(owner) => {
                self.of_sets.of(&owner.uid).iter().filter_map(|set| set.meta().uid.clone()).collect()
            }
            None => set.meta().uid.iter().cloned().collect::<Vec<_>>(),
        };
        let mut crowds = HashMap::new();
        for pod in siblings.iter().flat_map(|uid| self.of_pods.of(uid)).filter(|pod| is_active(pod)) {
            if let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) {
                *crowds.entry(node).or_default() += 1;
            }
        }
        crowds
    }
}
