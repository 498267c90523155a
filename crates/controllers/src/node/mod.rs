//! Node lifecycle: a node's slice of the cluster network, and whether it is still heard of.

mod health;
mod zones;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};
use yunfan_client::{Index, Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};
use yunfan_resources::names::LEASE_NAMESPACE;

use self::health::{ready, taints_of, unknown_conditions};
use self::zones::Zones;
use crate::pods::{is_ready, on_nodes};
use crate::{Context, NodeSettings};

/// How long a node must be lost before it drives its Pods away: by then it is known which others are lost with it.
const DOUBT: Duration = Duration::from_secs(10);

/// Runs the loop.
pub async fn run(context: Context) {
    let nodes = context.informers.of::<Node>();
    let leases = context.informers.of::<Lease>();
    let pods = context.informers.of::<Pod>();
    let queue = Queue::new();
    tokio::join!(nodes.synced(), leases.synced(), pods.synced());
    queue.feed(&nodes, |node| [ObjectKey::of(node)]);
    let pods = on_nodes(&pods);
    let (heard, given, settings) = (Mutex::default(), Mutex::default(), context.config.settings.nodes);
    let zones = Mutex::new(Zones::new(settings));
    let work = Arc::new(Loop { context, settings, nodes, leases, pods, heard, given, zones });
    // One worker: a slice is given out by looking at which are taken.
    run_loop("node", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

/// What is remembered of a node that is known.
struct Heard {
    /// The lease's renewal and the status' heartbeat, whichever tells of the node's life.
    sign: (Option<Timestamp>, Option<Timestamp>),
    /// When that was last seen to change, by our own clock: the node's may be wrong.
    at: Instant,
    /// What its condition Ready said.
    ready: Option<String>,
    /// Since when it is not ready, by our own clock.
    lost: Option<Instant>,
    uid: Option<String>,
}

struct Loop {
    context: Context,
    settings: NodeSettings,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    /// By their nodes.
    pods: Index<Pod>,
    heard: Mutex<HashMap<String, Heard>>,
    /// The slices given to nodes by name, until the informer has them: it tells of a write only some time after it was made, and the next
    /// node may come before that.
    given: Mutex<HashMap<String, Vec<IpNet>>>,
    zones: Mutex<Zones>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(node) = self.nodes.get_key(key) else {
            self.given().remove(&key.name);
            self.say_goodbye(&key.name);
            return Ok(None);
        };
        match node.spec.as_ref().is_none_or(|spec| spec.pod_cidr.is_none()) {
            true => self.give_slice(&node).await?,
            false => drop(self.given().remove(&key.name)),
        }
        let recovers = self.zones().look(&self.nodes, Instant::now());
        if recovers {
            // Nobody was heard while all were lost: who is here now gets time to say so.
            self.heard().values_mut().for_each(|heard| heard.at = Instant::now());
        }
        let was_ready = self.listen(&node);
        let node = match self.is_heard(&node) {
            true => node,
            false => self.give_up(node).await?,
        };
        self.taint(&node).await?;
        match ready(&node) {
            Some("Unknown") => self.pods_not_ready(&node.name_any()).await?,
            // What a node says of its own Pods counts again after this.
            Some("False") if was_ready => self.pods_not_ready(&node.name_any()).await?,
            _ => {}
        }
        if was_ready && ready(&node) != Some("True") {
            let message = format!("Node {} status is now: NodeNotReady", node.name_any());
            self.context.recorder.event(node.as_ref(), Severity::Normal, "NodeNotReady", message);
        }
        // Only now: what failed above is done by the next pass, which has to know that it was ready.
        if let Some(heard) = self.heard().get_mut(&key.name) {
            heard.ready = ready(&node).map(str::to_owned);
        }
        Ok(Some(self.settings.period))
    }

    /// Takes note of the node's last sign of life. Returns whether it was ready until now.
    fn listen(&self, node: &Node) -> bool {
        let name = node.name_any();
        let lease = self.leases.get(Some(LEASE_NAMESPACE), &name);
        let renewal = lease.and_then(|lease| Some(lease.spec.as_ref()?.renew_time.as_ref()?.0));
        let sign = (renewal, health::heartbeat(node));
        let mut known = self.heard();
        let now = Instant::now();
        let uid = node.uid();
        if known.get(&name).is_none_or(|heard| heard.uid != uid) {
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            self.context.recorder.event(node, Severity::Normal, "RegisteredNode", message);
            let ready = ready(node).map(str::to_owned);
            known.insert(name.clone(), Heard { sign, at: now, ready, lost: None, uid });
        }
        // It was put there, if it was not there.
        let Some(heard) = known.get_mut(&name) else { return false };
        if heard.sign != sign {
            (heard.sign, heard.at) = (sign, now);
        }
        heard.ready.as_deref() == Some("True")
    }

    fn is_heard(&self, node: &Node) -> bool {
        let NodeSettings { grace, startup_grace, .. } = self.settings;
        let grace = if ready(node).is_some() { grace } else { startup_grace };
        self.heard().get(&node.name_any()).is_none_or(|heard| heard.at.elapsed() < grace)
    }

    fn say_goodbye(&self, name: &str) {
        let Some(heard) = self.heard().remove(name) else { return };
        let metadata = ObjectMeta { name: Some(name.to_owned()), uid: heard.uid, ..ObjectMeta::default() };
        let message = format!("Node {name} event: Removing Node {name} from Controller");
        let node = Node { metadata, ..Node::default() };
        self.context.recorder.event(&node, Severity::Normal, "RemovingNode", message);
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<String, Heard>> {
        // Nothing panics under this lock.
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn given(&self) -> MutexGuard<'_, HashMap<String, Vec<IpNet>>> {
        // Nothing panics under this lock.
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn zones(&self) -> MutexGuard<'_, Zones> {
        // Nothing panics under this lock.
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn give_slice(&self, node: &Node) -> kube::Result<()> {
        let taken = self.taken_by_others(&node.name_any());
        let crate::Config { cluster_cidr, node_prefix, second, .. } = self.context.config;
        let second = second.map(|second| (IpNet::V6(second.cluster_cidr), second.node_prefix));
        let mut given = Vec::new();
        for (range, prefix) in [(IpNet::V4(cluster_cidr), node_prefix)].into_iter().chain(second) {
            let Some(slice) = free_slice(range, prefix, &taken) else {
                let message = format!("No /{prefix} is left of the cluster network {range}");
                self.context.recorder.event(node, Severity::Warning, "CIDRNotAvailable", message);
                return Ok(());
            };
            given.push(slice);
        }
        // Before it is written: a write whose answer was lost may have been made.
        self.given().insert(node.name_any(), given.clone());
        let patch = json!({
            "metadata": {"resourceVersion": node.resource_version()},
            "spec": {"podCIDR": given[0], "podCIDRs": given},
        });
        self.context.writer.merge::<Node>(None, &node.name_any(), &patch).await?;
        Ok(())
    }

    /// The slices that nodes but this one have, or were given and don't show yet.
    fn taken_by_others(&self, name: &str) -> Vec<IpNet> {
        let mut taken: Vec<IpNet> = self.nodes.list().iter().flat_map(|node| slices(node)).collect();
        let given = self.given();
        taken.extend(given.iter().filter(|(other, _)| *other != name).flat_map(|(_, slices)| slices));
        taken
    }

    /// Whether the node has been lost for long enough to say so.
    fn is_surely_lost(&self, node: &Node) -> bool {
        let mut known = self.heard();
        let Some(heard) = known.get_mut(&node.name_any()) else { return false };
        heard.lost = match ready(node) {
            Some("True") => None,
            _ => heard.lost.or_else(|| Some(Instant::now())),
        };
        heard.lost.is_some_and(|since| since.elapsed() >= DOUBT)
    }

    /// Brings the node's taints to what its conditions ask for.
    async fn taint(&self, node: &Node) -> kube::Result<()> {
        let sure = self.is_surely_lost(node);
        let wanted = {
            let mut zones = self.zones();
            let all_lost = zones.are_all_lost();
            taints_of(node, all_lost, || sure && zones.may_evict(node, Instant::now()))
        };
        let Some(wanted) = wanted else { return Ok(()) };
        let patch = json!({
            "metadata": {"resourceVersion": node.resource_version()},
            "spec": {"taints": if wanted.is_empty() { Value::Null } else { json!(wanted) }},
        });
        self.context.writer.merge::<Node>(None, &node.name_any(), &patch).await.map(drop)
    }

    /// The node is not heard of: nobody knows how it is.
    async fn give_up(&self, node: Arc<Node>) -> kube::Result<Arc<Node>> {
        let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let Some(conditions) = unknown_conditions(&node, &now) else { return Ok(node) };
        let (name, version) = (node.name_any(), node.resource_version());
        let status = json!({"metadata": {"resourceVersion": version}, "status": {"conditions": conditions}});
        self.context.writer.merge_status::<Node>(None, &name, &status).await.map(Arc::new)
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
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
                Ok(pod) => {
                    self.context.recorder.event(&pod, Severity::Warning, "NodeNotReady", "Node is not ready")
                }
            }
        }
        Ok(())
    }
}

/// The slices that a node has.
fn slices(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    all.filter_map(|cidr| cidr.parse().ok()).collect()
}

/// The first slice of `range` with this prefix (or all of it, where it is smaller) that shares no address with those `taken`, which may
/// be of other sizes.
fn free_slice(range: IpNet, prefix: u8, taken: &[IpNet]) -> Option<IpNet> {
    let mut taken: Vec<IpNet> =
        taken.iter().filter(|other| other.addr().is_ipv4() == range.addr().is_ipv4()).copied().collect();
    taken.sort_by_key(IpNet::network);
    let mut taken = taken.into_iter().peekable();
    // Both are in order: what ends before a slice begins is in the way of none that follows.
    range.subnets(prefix.max(range.prefix_len())).ok()?.find(|slice| {
        while taken.next_if(|other| other.broadcast() < slice.network()).is_some() {}
        taken.peek().is_none_or(|other| other.network() > slice.broadcast())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_given_in_order_and_run_out() {
        let slice_of = |range: &str, prefix: u8, taken: &[&str]| {
            let taken: Vec<IpNet> = taken.iter().map(|cidr| cidr.parse().unwrap()).collect();
            free_slice(range.parse().unwrap(), prefix, &taken).map(|net| net.to_string())
        };
        let slice = |taken: &[&str]| slice_of("10.244.0.0/23", 24, taken);
        assert_eq!(slice(&[]).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(slice(&["10.244.0.8/29", "10.0.0.0/8"]).as_deref(), None);
        assert_eq!(slice(&["10.244.0.8/29", "10.245.0.0/24"]).as_deref(), Some("10.244.1.0/24"));
        assert_eq!(slice(&["10.244.0.0/24"]).as_deref(), Some("10.244.1.0/24"));
        assert_eq!(slice(&["10.244.0.0/24", "10.244.1.0/24"]), None);
        let six = |taken: &[&str]| slice_of("fd00:10::/63", 64, taken);
        assert_eq!(six(&["10.244.0.0/24"]).as_deref(), Some("fd00:10::/64"));
        assert_eq!(six(&["fd00:10::/64", "10.244.0.0/24"]).as_deref(), Some("fd00:10:0:1::/64"));
        assert_eq!(six(&["fd00:10::/64", "fd00:10:0:1::/64"]), None);
    }
}
