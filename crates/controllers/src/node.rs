//! Node lifecycle: a node's slice of the cluster network, and whether it is still heard of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::ResourceExt;
use serde_json::{Value, json};
use yunfan_client::{Index, Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};
use yunfan_resources::names::LEASE_NAMESPACE;

use crate::Context;
use crate::pods::{is_ready, on_nodes};

/// A node whose lease was not renewed for this long is not heard of (Kubernetes' own default).
const GRACE: Duration = Duration::from_secs(40);
/// How often each node is looked at.
const LOOK: Duration = Duration::from_secs(5);
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const NOT_READY: &str = "node.kubernetes.io/not-ready";

/// Conditions that every node's agent reports.
const REPORTED: [&str; 4] = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

/// Conditions that keep new Pods away while they are true, and the taints that do it.
const PRESSURE: [(&str, &str); 3] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
];

/// Runs the loop.
pub async fn run(context: Context) {
    let nodes = context.informers.of::<Node>();
    let leases = context.informers.of::<Lease>();
    let pods = context.informers.of::<Pod>();
    let queue = Queue::new();
    tokio::join!(nodes.synced(), leases.synced(), pods.synced());
    queue.feed(&nodes, |node| [ObjectKey::of(node)]);
    let pods = on_nodes(&pods);
    let work = Arc::new(Loop { context, nodes, leases, pods, heard: Mutex::default() });
    // One worker: a slice is given out by looking at which are taken.
    run_loop("node", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

/// When a renewal was last seen, by our own clock: the node's may be wrong.
struct Heard {
    renewal: Option<Timestamp>,
    at: Instant,
}

struct Loop {
    context: Context,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    /// By their nodes.
    pods: Index<Pod>,
    heard: Mutex<HashMap<String, Heard>>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(node) = self.nodes.get_key(key) else {
            self.heard.lock().unwrap_or_else(PoisonError::into_inner).remove(&key.name);
            return Ok(None);
        };
        if node.spec.as_ref().is_none_or(|spec| spec.pod_cidr.is_none()) {
            self.give_slice(&node).await?;
        }
        if self.is_heard(&key.name) {
            self.welcome(&node).await?;
        } else {
            self.give_up(&node).await?;
        }
        Ok(Some(LOOK))
    }

    fn is_heard(&self, node: &str) -> bool {
        let lease = self.leases.get(Some(LEASE_NAMESPACE), node);
        let renewal = lease.and_then(|lease| lease.spec.clone()?.renew_time).map(|time| time.0);
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let last = heard.entry(node.to_owned()).or_insert(Heard { renewal, at: now });
        if last.renewal != renewal {
            *last = Heard { renewal, at: now };
        }
        now.duration_since(last.at) < GRACE
    }

    async fn give_slice(&self, node: &Node) -> kube::Result<()> {
        let taken: Vec<String> = self
            .nodes
            .list()
            .iter()
            .filter_map(|node| node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()))
            .collect();
        let crate::Config { cluster_cidr, node_prefix, .. } = self.context.config;
        let Some(slice) = free_slice(cluster_cidr, node_prefix, &taken) else {
            let message = format!("No /{node_prefix} is left of the cluster network {cluster_cidr}");
            self.context.recorder.event(node, Severity::Warning, "CIDRNotAvailable", message);
            return Ok(());
        };
        let patch = json!({
            "metadata": {"resourceVersion": node.resource_version()},
            "spec": {"podCIDR": slice.to_string(), "podCIDRs": [slice.to_string()]},
        });
        self.context.writer.merge::<Node>(None, &node.name_any(), &patch).await?;
        Ok(())
    }

    /// The node is heard of: what was set against it because it was not is taken back, and what it says of itself counts.
    async fn welcome(&self, node: &Node) -> kube::Result<()> {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let was_lost = taints.iter().any(|taint| taint.key == UNREACHABLE);
        let left = taints_of_heard(node, &taints);
        if left == taints {
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": node.resource_version()},
            "spec": {"taints": if left.is_empty() { Value::Null } else { json!(left) }},
        });
        self.context.writer.merge::<Node>(None, &node.name_any(), &patch).await?;
        if was_lost {
            self.context.recorder.event(node, Severity::Normal, "NodeReady", "The node is heard of again");
        }
        Ok(())
    }

    /// The node is not heard of: it gets nothing new, and its Pods are no endpoints.
    async fn give_up(&self, node: &Node) -> kube::Result<()> {
        let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        if taints.iter().any(|taint| taint.key == UNREACHABLE) {
            return self.pods_not_ready(&node.name_any()).await;
        }
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let conditions = unknown_conditions(node, &now);
        let (name, version) = (node.name_any(), node.resource_version());
        let status = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
        let written = self.context.writer.merge_status::<Node>(None, &name, &status).await?;
        let mut taints = json!(taints);
        if let Some(list) = taints.as_array_mut() {
            for effect in ["NoSchedule", "NoExecute"] {
                list.push(json!({"key": UNREACHABLE, "effect": effect, "timeAdded": now}));
            }
        }
        let patch = json!({
            "metadata": {"resourceVersion": written.resource_version()},
            "spec": {"taints": taints},
        });
        self.context.writer.merge::<Node>(None, &name, &patch).await?;
        self.context.recorder.event(
            node,
            Severity::Warning,
            "NodeNotReady",
            "The node's agent stopped renewing its lease",
        );
        self.pods_not_ready(&name).await
    }

    async fn pods_not_ready(&self, node: &str) -> kube::Result<()> {
        for pod in self.pods.get(node).into_iter().filter(|pod| is_ready(pod)) {
            let mut conditions = json!(pod.status.as_ref().and_then(|status| status.conditions.clone()));
            let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            for condition in conditions.as_array_mut().into_iter().flatten() {
                if condition["type"] == "Ready" {
                    condition["status"] = json!("False");
                    condition["reason"] = json!("NodeNotReady");
                    condition["lastTransitionTime"] = json!(now);
                }
            }
            let patch = json!({
                "metadata": {"resourceVersion": pod.resource_version()},
                "status": {"conditions": conditions},
            });
            let (namespace, name) = (pod.namespace(), pod.name_any());
            match self.context.writer.merge_status::<Pod>(namespace.as_deref(), &name, &patch).await {
                Err(error) if !is_not_found(&error) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The conditions of a node that is not heard of.
fn unknown_conditions(node: &Node, now: &str) -> Value {
    let known = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let never = REPORTED.iter().filter(|kind| known.iter().all(|condition| condition.type_ != **kind));
    let born = node.metadata.creation_timestamp.as_ref().map(|time| json!(time));
    let never: Vec<Value> = never
        .map(|kind| {
            json!({"type": kind, "status": "Unknown", "reason": "NodeStatusNeverUpdated",
                   "message": "The node's agent never posted its status", "lastHeartbeatTime": born,
                   "lastTransitionTime": now})
        })
        .collect();
    let mut all: Vec<Value> = known.iter().map(|condition| json!(condition)).collect();
    for condition in &mut all {
        condition["status"] = json!("Unknown");
        condition["reason"] = json!("NodeStatusUnknown");
        condition["message"] = json!("The node's agent stopped renewing its lease");
        condition["lastTransitionTime"] = json!(now);
    }
    all.extend(never);
    json!(all)
}

/// The first slice of `range` with this prefix (or all of it, where it is smaller) that shares no address with those `taken`, which may
/// be of other sizes.
fn free_slice(range: Ipv4Net, prefix: u8, taken: &[String]) -> Option<Ipv4Net> {
    let mut taken: Vec<Ipv4Net> = taken.iter().filter_map(|cidr| cidr.parse().ok()).collect();
    taken.sort_by_key(Ipv4Net::network);
    let mut taken = taken.into_iter().peekable();
    // Both are in order: what ends before a slice begins is in the way of none that follows.
    range.subnets(prefix.max(range.prefix_len())).ok()?.find(|slice| {
        while taken.next_if(|other| other.broadcast() < slice.network()).is_some() {}
        taken.peek().is_none_or(|other| other.network() > slice.broadcast())
    })
}

/// The taints that a node should have which is heard of: those of others stay.
fn taints_of_heard(node: &Node, taints: &[Taint]) -> Vec<Taint> {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let under: Vec<&str> = conditions.filter(|c| c.status == "True").map(|c| c.type_.as_str()).collect();
    let mut conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let not_ready = conditions.any(|condition| condition.type_ == "Ready" && condition.status == "False");
    let mut left: Vec<Taint> = taints
        .iter()
        .filter(|taint| {
            let pressure = PRESSURE.iter().find(|(_, key)| *key == taint.key);
            (taint.key != NOT_READY || not_ready)
                && taint.key != UNREACHABLE
                && pressure.is_none_or(|(condition, _)| under.contains(condition))
        })
        .cloned()
        .collect();
    for (condition, key) in PRESSURE {
        if under.contains(&condition) && !left.iter().any(|taint| taint.key == key) {
            left.push(Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() });
        }
    }
    for effect in ["NoSchedule", "NoExecute"] {
        let known = left.iter().any(|taint| taint.key == NOT_READY && taint.effect == effect);
        if not_ready && !known {
            let time_added = (effect == "NoExecute").then(crate::status::now);
            let (key, effect) = (NOT_READY.to_owned(), effect.to_owned());
            left.push(Taint { key, effect, time_added, ..Taint::default() });
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_becomes_a_taint_and_goes_with_it() {
        let taint =
            |key: &str| Taint { key: key.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() };
        let node = |memory: &str| -> Node {
            let conditions = json!([
                {"type": "MemoryPressure", "status": memory}, {"type": "DiskPressure", "status": "False"},
                {"type": "Ready", "status": "True"}]);
            serde_json::from_value(json!({"metadata": {}, "status": {"conditions": conditions}})).unwrap()
        };
        let (own, memory) = (taint("example.com/own"), taint("node.kubernetes.io/memory-pressure"));
        let before = [own.clone(), taint(UNREACHABLE), taint("node.kubernetes.io/disk-pressure")];
        let under = [own.clone(), memory];
        assert_eq!(taints_of_heard(&node("True"), &before), under);
        assert_eq!(taints_of_heard(&node("True"), &under), under);
        assert_eq!(taints_of_heard(&node("False"), &under), std::slice::from_ref(&own));
        assert_eq!(taints_of_heard(&node("Unknown"), &under), [own]);
    }

    #[test]
    fn a_node_that_is_not_ready_is_tainted_until_it_is() {
        let node = |ready: &str| -> Node {
            let conditions = json!([{"type": "Ready", "status": ready}]);
            serde_json::from_value(json!({"metadata": {}, "status": {"conditions": conditions}})).unwrap()
        };
        let tainted = taints_of_heard(&node("False"), &[]);
        let effects: Vec<_> =
            tainted.iter().map(|taint| (taint.key.as_str(), taint.effect.as_str())).collect();
        assert_eq!(effects, [(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]);
        assert_eq!(taints_of_heard(&node("False"), &tainted), tainted);
        assert!(taints_of_heard(&node("True"), &tainted).is_empty());
    }

    #[test]
    fn slices_are_given_in_order_and_run_out() {
        let range: Ipv4Net = "10.244.0.0/23".parse().unwrap();
        let slice = |taken: &[&str]| {
            let taken: Vec<String> = taken.iter().map(|cidr| (*cidr).to_owned()).collect();
            free_slice(range, 24, &taken).map(|net| net.to_string())
        };
        assert_eq!(slice(&[]).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(slice(&["10.244.0.8/29", "10.0.0.0/8"]).as_deref(), None);
        assert_eq!(slice(&["10.244.0.8/29", "10.245.0.0/24"]).as_deref(), Some("10.244.1.0/24"));
        assert_eq!(slice(&["10.244.0.0/24"]).as_deref(), Some("10.244.1.0/24"));
        assert_eq!(slice(&["10.244.0.0/24", "10.244.1.0/24"]), None);
    }

    #[test]
    fn a_node_that_is_not_heard_of_has_all_conditions() {
        let node: Node = serde_json::from_value(json!({
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Fine"}, {"type": "Odd", "status": "False"}]}
        }))
        .unwrap();
        let conditions = unknown_conditions(&node, "2026-01-01T00:00:00Z");
        let listed: Vec<_> =
            conditions.as_array().unwrap().iter().map(|each| (&each["type"], &each["reason"])).collect();
        assert_eq!(
            json!(listed),
            json!([
                ["Ready", "NodeStatusUnknown"],
                ["Odd", "NodeStatusUnknown"],
                ["MemoryPressure", "NodeStatusNeverUpdated"],
                ["DiskPressure", "NodeStatusNeverUpdated"],
                ["PIDPressure", "NodeStatusNeverUpdated"],
            ])
        );
        assert!(conditions.as_array().unwrap().iter().all(|each| each["status"] == "Unknown"));
    }
}
