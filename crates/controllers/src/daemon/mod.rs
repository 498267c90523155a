//! DaemonSet → Pods: one on each node that fits.

mod node;
mod plan;
mod waits;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};

use self::node::{node_of, pod_of};
use self::plan::View;
use self::waits::Waits;
use crate::Context;
use crate::ahead::Ahead;
use crate::children::{Children, owners_of};
use crate::claim::claim;
use crate::history::{self, HASH_LABEL, hash_of};
use crate::pod_writer::{BURST, PodWriter};
use crate::pods::{matches, phase, sooner};
use crate::status::{now, status_patch};

/// Runs the loop.
pub async fn run(context: Context) {
    let sets = context.informers.of::<DaemonSet>();
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    let revisions = context.informers.of::<ControllerRevision>();
    tokio::join!(sets.synced(), pods.synced(), nodes.synced(), revisions.synced());
    let queue = Queue::new();
    queue.feed(&sets, |set| [ObjectKey::of(set)]);
    let all = sets.clone();
    queue.feed(&pods, move |pod| {
        owners_of(&all, &pod.metadata, |set| matches(&set.spec.selector, pod.metadata.labels.as_ref()))
    });
    let all = sets.clone();
    // A node may have come, gone, or changed its labels or taints.
    queue.feed(&nodes, move |_| all.list().iter().map(|set| ObjectKey::of(set.as_ref())).collect::<Vec<_>>());
    let work = Arc::new(Loop {
        of_pods: Children::new(&pods),
        of_revisions: Children::new(&revisions),
        written_sets: Ahead::new(sets.clone()),
        written_pods: Ahead::new(pods.clone()),
        context,
        sets,
        nodes,
        waits: Waits::default(),
    });
    run_loop("daemonset", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    of_pods: Children<Pod>,
    of_revisions: Children<ControllerRevision>,
    waits: Waits,
    written_sets: Ahead<DaemonSet>,
    written_pods: Ahead<Pod>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(set) = self.sets.get_key(key) else {
            self.written_sets.forget(key);
            self.written_pods.forget(key);
            self.waits.forget(key);
            return Ok(None);
        };
        if let Some(wait) = sooner(self.written_sets.behind(key), self.written_pods.behind(key)) {
            return Ok(Some(wait));
        }
        let (writer, selector) = (&self.context.writer, &set.spec.selector);
        let pods = self.of_pods.around(&set.metadata);
        let pods = claim(writer, set.as_ref(), selector, None, pods).await?;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let known = self.of_revisions.around(&set.metadata);
        let template = &set.spec.template;
        let history = history::settle(writer, set.as_ref(), selector, template, collisions, known).await?;
        let hash = hash_of(&history.update);
        let view = View::new(&set, hash, &self.nodes.list(), &pods, now().0);
        let (again, problem) = self.carry_out(key, &set, hash, &view).await;
        let before = set.status.clone().unwrap_or_default();
        if let Some(patch) = status_patch(&set.metadata, &before, &view.status(history.collisions)) {
            match writer.merge_status::<DaemonSet>(key.namespace(), &key.name, &patch).await {
                Ok(written) => self.written_sets.wrote(key, &written),
                Err(error) if is_not_found(&error) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let mut live: HashSet<String> =
            pods.iter().filter_map(|pod| pod.labels().get(HASH_LABEL).cloned()).collect();
        live.insert(history.update.name_any());
        history::trim(writer, &history, &live, set.spec.revision_history_limit).await?;
        match problem {
            Some(error) => Err(error),
            None => Ok(again),
        }
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        hash: &str,
        view: &View<'_>,
    ) -> (Option<Duration>, Option<kube::Error>) {
        let plan = view.plan();
        let mut again = plan.again;
        let mut delete = plan.delete;
        for pod in &plan.ended {
            let generation = set.metadata.generation.unwrap_or(0);
            let wait = self.waits.ask(key, generation, node_of(pod).unwrap_or_default(), Instant::now());
            if wait.is_some() {
                delete.retain(|other| !Arc::ptr_eq(other, pod));
                again = sooner(again, wait);
                continue;
            }
            self.tell_end(set, pod);
        }
        delete.truncate(BURST);
        let hands = PodWriter { context: &self.context, key, owner: set, ahead: &self.written_pods };
        let new: Vec<Pod> = plan.create.iter().map(|node| pod_of(set, node, hash)).collect();
        let made = hands.create(&new).await;
        let gone = hands.delete(&delete, None).await;
        (again, made.problem.or(gone.problem))
    }

    fn tell_end(&self, set: &DaemonSet, pod: &Pod) {
        let (name, node) = (ObjectKey::of(pod), node_of(pod).unwrap_or_default());
        let (severity, reason, message) = if phase(pod) == "Failed" {
            let message = format!("Found failed daemon pod {name} on node {node}, will try to kill it");
            (Severity::Warning, "FailedDaemonPod", message)
        } else {
            let message = format!("Found succeeded daemon pod {name} on node {node}, will try to delete it");
            (Severity::Normal, "SucceededDaemonPod", message)
        };
        self.context.recorder.event(set, severity, reason, message);
    }
}
