//! Pods that nobody else clears away, as Kubernetes' pod garbage collector: those of nodes that are gone or out of service, those that
//! were never placed and are deleted, and the oldest of too many that have ended.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::is_not_found;

use crate::Context;
use crate::pod_writer::only;
use crate::pods::{is_terminal, node_of};
use crate::status::now;

/// How often all Pods are looked through (kube-controller-manager's own period).
const PERIOD: Duration = Duration::from_secs(20);
/// How long a node must be missing before its Pods are let go, so that an agent that registers anew keeps them.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Ended Pods that are kept (`--terminated-pod-gc-threshold`).
const MOST_ENDED: usize = 12_500;
/// How many Pods are deleted at once.
const PARALLEL: usize = 16;
/// Taint by which a person says that a node is off and does not come back by itself.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// How long things take, and how much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Between two looks.
    pub period: Duration,
    /// How long a node must be missing.
    pub quarantine: Duration,
    /// Ended Pods that are kept (`--terminated-pod-gc-threshold`).
    pub most_ended: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { period: PERIOD, quarantine: QUARANTINE, most_ended: MOST_ENDED }
    }
}

/// Runs the loop.
pub async fn run(context: Context) {
    let settings = context.config.settings.pods;
    run_with(context, settings).await;
}

/// Runs the loop with these settings.
pub async fn run_with(context: Context, settings: Settings) {
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    tokio::join!(pods.synced(), nodes.synced());
    let mut missing = Missing::default();
    loop {
        let (all, known) = (pods.list(), nodes.list());
        let gone = missing.gone(&all, &known, Instant::now(), settings.quarantine);
        let gone = really_gone(&context, gone).await;
        let condemned = condemned(&all, &known, &gone, settings.most_ended);
        futures::stream::iter(condemned)
            .for_each_concurrent(PARALLEL, |(pod, why)| {
                let context = &context;
                async move {
                    if let Err(error) = remove(context, &pod, why).await {
                        let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
                        tracing::warn!(%error, namespace, name, "a Pod that is left over was not deleted; it is tried again");
                    }
                }
            })
            .await;
        tokio::time::sleep(settings.period).await;
    }
}

/// Why a Pod goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// There are too many ended ones.
    Ended,
    /// It is deleted, and its node is out of service.
    OutOfService,
    /// Its node is gone.
    Orphaned,
    /// It is deleted, and has no node that could let it go.
    Unplaced,
}

/// Since when nodes are missing that Pods are placed on.
#[derive(Default)]
struct Missing(HashMap<String, Instant>);

impl Missing {
    /// The nodes that have been missing for long enough.
    fn gone(
        &mut self,
        pods: &[Arc<Pod>],
        nodes: &[Arc<Node>],
        now: Instant,
        patience: Duration,
    ) -> Vec<String> {
        let known: HashSet<&str> = nodes.iter().filter_map(|node| node.metadata.name.as_deref()).collect();
        let missing: HashSet<&str> =
            pods.iter().filter_map(|pod| node_of(pod)).filter(|node| !known.contains(node)).collect();
        self.0.retain(|node, _| missing.contains(node.as_str()));
        for node in missing {
            self.0.entry(node.to_owned()).or_insert(now);
        }
        let waited = |since: &Instant| now.duration_since(*since) >= patience;
        self.0.iter().filter(|(_, since)| waited(since)).map(|(node, _)| node.clone()).collect()
    }
}

/// Those of which the API server itself says that they are not there: what is known here may be old.
async fn really_gone(context: &Context, nodes: Vec<String>) -> HashSet<String> {
    let mut gone = HashSet::new();
    for node in nodes {
        match context.writer.get::<Node>(None, &node).await {
            Err(error) if is_not_found(&error) => drop(gone.insert(node)),
            Err(error) => tracing::warn!(%error, node, "it can't be found out whether a node is gone"),
            Ok(_) => {}
        }
    }
    gone
}

/// The Pods that go, each once.
fn condemned(
    pods: &[Arc<Pod>],
    nodes: &[Arc<Node>],
    gone: &HashSet<String>,
    most_ended: usize,
) -> Vec<(Arc<Pod>, Why)> {
    let out: HashSet<&str> = nodes
        .iter()
        .filter(|node| !is_ready(node) && is_out_of_service(node))
        .filter_map(|node| node.metadata.name.as_deref())
        .collect();
    let why = |pod: &Pod| {
        let deleted = pod.metadata.deletion_timestamp.is_some();
        match node_of(pod) {
            Some(node) if gone.contains(node) => Some(Why::Orphaned),
            Some(node) if deleted && out.contains(node) => Some(Why::OutOfService),
            None if deleted => Some(Why::Unplaced),
            _ => None,
        }
    };
    let mut ended: Vec<&Arc<Pod>> = pods.iter().filter(|pod| is_terminal(pod)).collect();
    let surplus = ended.len().saturating_sub(most_ended);
    if surplus > 0 {
        ended.sort_by_cached_key(|pod| (!is_evicted(pod), pod.creation_timestamp(), pod.name_any()));
    }
    let surplus: HashSet<*const Pod> = ended[..surplus].iter().map(|pod| Arc::as_ptr(pod)).collect();
    pods.iter()
        .filter_map(|pod| {
            let surplus = surplus.contains(&Arc::as_ptr(pod)).then_some(Why::Ended);
            Some((pod.clone(), why(pod).or(surplus)?))
        })
        .collect()
}

fn is_ready(node: &Node) -> bool {
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn is_out_of_service(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Whether its node put the Pod out: such ones go first, since no controller counts with them.
fn is_evicted(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    status.is_some_and(|status| {
        status.phase.as_deref() == Some("Failed") && status.reason.as_deref() == Some("Evicted")
    })
}

/// Says that the Pod failed, where it had not ended, and deletes it at once.
async fn remove(context: &Context, pod: &Pod, why: Why) -> kube::Result<()> {
    let (namespace, name) = (pod.namespace(), pod.name_any());
    if !is_terminal(pod) {
        let mut status = json!({"phase": "Failed"});
        if why == Why::Orphaned {
            status["conditions"] = json!(with_target(pod));
        }
        let patch = json!({
            "metadata": {"uid": pod.uid(), "resourceVersion": pod.resource_version()},
            "status": status,
        });
        match context.writer.merge_status::<Pod>(namespace.as_deref(), &name, &patch).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            other => drop(other?),
        }
    }
    let params = only(pod.uid()).grace_period(0);
    context.writer.delete_with::<Pod>(namespace.as_deref(), &name, &params).await
}

/// The Pod's conditions with the one that says that it was disrupted.
fn with_target(pod: &Pod) -> Vec<PodCondition> {
    const TARGET: &str = "DisruptionTarget";
    let mut conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let before = conditions.iter().position(|condition| condition.type_ == TARGET);
    let before = before.map(|at| conditions.remove(at)).filter(|condition| condition.status == "True");
    conditions.push(PodCondition {
        type_: TARGET.to_owned(),
        status: "True".to_owned(),
        reason: Some("DeletionByPodGC".to_owned()),
        message: Some("PodGC: node no longer exists".to_owned()),
        last_transition_time: before.and_then(|condition| condition.last_transition_time).or(Some(now())),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    });
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn pod(name: &str, node: Option<&str>, phase: &str, deleted: bool) -> Arc<Pod> {
        let at = deleted.then_some("2026-01-01T00:00:00Z");
        let (phase, reason) = phase.split_once('/').unwrap_or((phase, ""));
        let value = json!({
            "metadata": {"name": name, "deletionTimestamp": at, "creationTimestamp": format!("2026-01-0{}T00:00:00Z", name.len())},
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": phase, "reason": reason}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn node(name: &str, ready: &str, taint: Option<&str>) -> Arc<Node> {
        let taints: Vec<Value> = taint.iter().map(|key| json!({"key": key, "effect": "NoExecute"})).collect();
        let value = json!({"metadata": {"name": name}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_node_is_gone_when_it_was_missing_all_the_time() {
        let (pods, seconds) = ([pod("a", Some("n"), "Running", false)], Duration::from_secs);
        let (mut missing, start) = (Missing::default(), Instant::now());
        let there = [node("n", "True", None)];
        let mut at = |nodes: &[Arc<Node>], second| {
            missing.gone(&pods, nodes, start + seconds(second), seconds(40)).len()
        };
        assert_eq!((at(&[], 0), at(&[], 39), at(&there, 40), at(&[], 41), at(&[], 80)), (0, 0, 0, 0, 0));
        assert_eq!(at(&[], 81), 1);
    }

    #[test]
    fn pods_go_that_nobody_else_lets_go() {
        let nodes = [
            node("well", "True", Some(OUT_OF_SERVICE)),
            node("off", "Unknown", Some(OUT_OF_SERVICE)),
            node("lost", "Unknown", None),
        ];
        let gone = HashSet::from(["gone".to_owned()]);
        let why = |node: Option<&str>, phase: &str, deleted: bool| {
            condemned(&[pod("p", node, phase, deleted)], &nodes, &gone, 10).pop().map(|(_, why)| why)
        };
        assert_eq!(why(Some("gone"), "Running", false), Some(Why::Orphaned));
        assert_eq!(why(Some("gone"), "Succeeded", false), Some(Why::Orphaned));
        assert_eq!(why(Some("off"), "Running", true), Some(Why::OutOfService));
        assert_eq!(why(None, "Pending", true), Some(Why::Unplaced));
        for (node, deleted) in [
            (Some("off"), false),
            (Some("well"), true),
            (Some("lost"), true),
            (None, false),
            (Some("unknown"), true),
        ] {
            assert_eq!(why(node, "Running", deleted), None, "{node:?}");
        }
    }

    #[test]
    fn of_too_many_that_ended_the_evicted_and_oldest_go() {
        let pods = [
            pod("aaa", Some("n"), "Failed/Evicted", false),
            pod("aa", Some("n"), "Succeeded", false),
            pod("b", Some("n"), "Failed", false),
            pod("c", Some("n"), "Running", false),
        ];
        let left = |most: usize| -> Vec<String> {
            let mut gone: Vec<String> = condemned(&pods, &[], &HashSet::new(), most)
                .into_iter()
                .map(|(pod, _)| pod.name_any())
                .collect();
            gone.sort();
            gone
        };
        assert!(left(3).is_empty());
        assert_eq!(left(2), ["aaa"]);
        assert_eq!(left(1), ["aaa", "b"]);
        assert_eq!(left(0), ["aa", "aaa", "b"]);
    }
}
