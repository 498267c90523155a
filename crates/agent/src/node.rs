//! This node's own object: what it has, that it is there, and that it is well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use tokio::sync::watch;
use yunfan_client::{is_exists, is_not_found};
use yunfan_hypervisor::Accelerator;
use yunfan_resources::names::LEASE_NAMESPACE;

use crate::Shared;
use crate::pressure::{KINDS, Shortages};
use crate::shutdown::{self, Shutdown};

/// How often the lease is renewed (Kubernetes' own default).
const RENEW: Duration = Duration::from_secs(10);
/// How long the lease lasts, seconds.
const LEASE_SECONDS: i32 = 40;
/// How soon it is looked again whether the node has addresses for Pods, as long as it has none: so long it takes none …
const SOON: Duration = Duration::from_millis(500);
/// … but no longer than this after the agent's start, where nobody seems to give any.
const EARLY: Duration = Duration::from_secs(60);
/// The status is written this often even when nothing changed.
const STATUS: Duration = Duration::from_secs(300);
/// Addresses of a node's slice of the cluster network that no Pod gets: the network's, the gateway's and the broadcast.
const NOT_PODS: u32 = 3;
/// The most Pods that a node says it has room for, however many addresses it has: the kernel's bridges have 1,024 ports, of which
/// the first number is not given out (`BR_MAX_PORTS`), and each Pod of the cluster network takes one.
const MOST_PODS: u32 = 1023;

/// What of Kubernetes' newer features a scheduler may look for before it places Pods that ask for them here.
const FEATURES: [&str; 1] = ["RestartAllContainersOnContainerExits"];

/// What the node can do, found out at the start.
pub(crate) struct Abilities {
    pub(crate) accelerator: Accelerator,
    /// `v1`, `hybrid` or `v2`.
    pub(crate) cgroup: &'static str,
    /// What does not work here, and why.
    pub(crate) notes: Vec<String>,
    /// What it is short of.
    pub(crate) shortages: watch::Receiver<Shortages>,
    /// Name and version of what runs containers.
    pub(crate) containers: String,
}

/// How the node is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Health {
    shortages: Shortages,
    /// It is about to be gone, with its host.
    ends: bool,
}

/// Makes the Node object where it is missing, and writes its first status.
pub(crate) async fn register(shared: &Shared, abilities: &Abilities) -> kube::Result<()> {
    let shortages = *abilities.shortages.borrow();
    register_with(shared, abilities, &Health { shortages, ends: false }).await
}

async fn register_with(shared: &Shared, abilities: &Abilities, health: &Health) -> kube::Result<()> {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), shared.node.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), arch().to_owned()),
    ]);
    labels.extend(shared.labels.clone());
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": shared.node, "labels": labels, "annotations": annotations(abilities)},
    }))
    .map_err(kube::Error::SerdeError)?;
    let node = match shared.writer.create(&node).await {
        Err(error) if is_exists(&error) => {
            let patch = json!({"metadata": {"labels": labels, "annotations": annotations(abilities)}});
            shared.writer.merge::<Node>(None, &shared.node, &patch).await?
        }
        made => made?,
    };
    renew(shared, Some(&node)).await?;
    write_status(shared, abilities, health).await
}

/// Keeps the node's lease and status fresh until dropped; registers it first where that could not be done yet.
pub(crate) async fn keep(shared: Shared, abilities: Abilities, shutdown: Arc<Shutdown>, registered: bool) {
    let mut registered = registered;
    let began = tokio::time::Instant::now();
    let mut written = began;
    let mut shortages = abilities.shortages.clone();
    let (mut told, mut ends, mut roomy) = (None, false, true);
    let mut tick = tokio::time::interval(RENEW);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            // Nothing new should be placed here from now on.
            () = shutdown.changed(ends) => {}
            Ok(()) = shortages.changed() => {}
            () = tokio::time::sleep(SOON), if !roomy && began.elapsed() < EARLY => {}
        }
        ends = shutdown.is_on();
        let health = Health { shortages: *shortages.borrow_and_update(), ends };
        let node = shared.writer.get::<Node>(None, &shared.node).await;
        if !registered || node.as_ref().is_err_and(is_not_found) {
            match register_with(&shared, &abilities, &health).await {
                Ok(()) => registered = true,
                Err(error) => tracing::warn!(%error, "the node could not be registered, it is tried again"),
            }
            continue;
        }
        if let Err(error) = renew(&shared, node.as_ref().ok()).await {
            tracing::warn!(%error, "the node's lease could not be renewed, it is tried again");
            continue;
        }
        let Ok(node) = node else { continue };
        roomy = room(&node) > 0;
        let otherwise = is_ready(&node) == health.ends;
        if otherwise || told != Some(health) || !tells_room(&node) || written.elapsed() >= STATUS {
            match write_status(&shared, &abilities, &health).await {
                Ok(()) => (written, told) = (tokio::time::Instant::now(), Some(health)),
                Err(error) => tracing::warn!(%error, "the node's status could not be written"),
            }
        }
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Renews the node's lease, which goes with the Node where that is known.
async fn renew(shared: &Shared, node: Option<&Node>) -> kube::Result<()> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let spec = json!({
        "holderIdentity": shared.node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now,
    });
    let mut patch = json!({"metadata": {}, "spec": spec});
    if let Some(node) = node {
        patch["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": shared.node, "uid": node.metadata.uid}]);
    }
    match shared.writer.merge::<Lease>(Some(LEASE_NAMESPACE), &shared.node, &patch).await {
        Err(error) if is_not_found(&error) => {
            patch["metadata"]["name"] = json!(shared.node);
            patch["metadata"]["namespace"] = json!(LEASE_NAMESPACE);
            let lease: Lease = serde_json::from_value(patch).map_err(kube::Error::SerdeError)?;
            shared.writer.create(&lease).await.map(drop)
        }
        other => other.map(drop),
    }
}

async fn write_status(shared: &Shared, abilities: &Abilities, health: &Health) -> kube::Result<()> {
    let current = shared.writer.get::<Node>(None, &shared.node).await?;
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let since = |kind: &str, value: &str| {
        let old = current.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == kind);
        match old {
            Some(old) if old.status == value => json!(old.last_transition_time),
            _ => json!(now),
        }
    };
    let condition = |kind: &str, value: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": value, "reason": reason, "message": message,
               "lastHeartbeatTime": now, "lastTransitionTime": since(kind, value)})
    };
    let pressure = KINDS.iter().zip(&health.shortages).filter_map(|(words, shortage)| {
        // Nothing is said of what could not be found out.
        let (value, (reason, message)) = match (*shortage)? {
            true => ("True", words.short),
            false => ("False", words.well),
        };
        Some(condition(words.condition, value, reason, message))
    });
    let ready = match health.ends {
        false => condition("Ready", "True", "KubeletReady", &ready_message(abilities)),
        true => condition("Ready", "False", "KubeletNotReady", shutdown::MESSAGE),
    };
    let conditions: Vec<Value> = pressure.chain([ready]).collect();
    let capacity = capacity(&shared.root, room(&current));
    let patch = json!({"status": {
        "capacity": capacity, "allocatable": capacity,
        "addresses": [
            {"type": "InternalIP", "address": shared.address},
            {"type": "Hostname", "address": shared.node},
        ],
        "conditions": conditions,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": shared.port}},
        "nodeInfo": info(abilities),
        "declaredFeatures": FEATURES,
    }});
    shared.writer.merge_status::<Node>(None, &shared.node, &patch).await.map(drop)
}

fn ready_message(abilities: &Abilities) -> String {
    let accelerator = match &abilities.accelerator {
        Accelerator::Kvm => "KVM".to_owned(),
        Accelerator::Tcg { why } => format!("TCG ({why})"),
    };
    let mut message =
        format!("agent is ready; virtual machines run on {accelerator}; cgroup {}", abilities.cgroup);
    for note in &abilities.notes {
        message.push_str("; ");
        message.push_str(note);
    }
    message
}

fn annotations(abilities: &Abilities) -> Value {
    let (accelerator, why) = match &abilities.accelerator {
        Accelerator::Kvm => ("kvm", String::new()),
        Accelerator::Tcg { why } => ("tcg", why.clone()),
    };
    json!({
        "compute.yunfan.io/accelerator": accelerator,
        "compute.yunfan.io/accelerator-reason": why,
        "yunfan.io/cgroup": abilities.cgroup,
    })
}

/// How many Pods fit on a node: as many as its slice of the cluster network has addresses for.
fn room(node: &Node) -> u32 {
    let slice = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref());
    let slice = slice.and_then(|cidr| cidr.parse::<Ipv4Net>().ok());
    let addresses = slice.map_or(0, |slice| 1_u64 << (32 - slice.prefix_len()));
    u32::try_from(addresses).unwrap_or(u32::MAX).saturating_sub(NOT_PODS).min(MOST_PODS)
}

/// Whether a node says how many Pods fit there: its slice may come after its first status.
fn tells_room(node: &Node) -> bool {
    let capacity = node.status.as_ref().and_then(|status| status.capacity.as_ref());
    capacity.and_then(|capacity| capacity.get("pods")).is_some_and(|pods| pods.0 == room(node).to_string())
}

fn capacity(root: &std::path::Path, pods: u32) -> Value {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory_kib = meminfo("MemTotal:").unwrap_or(0);
    // What the file system that holds the workloads' disks can hold in all.
    let disk = rustix::fs::statvfs(root).map_or(0, |fs| fs.f_blocks * fs.f_frsize);
    json!({
        "cpu": cpus.to_string(),
        "memory": format!("{memory_kib}Ki"),
        "pods": pods.to_string(),
        "ephemeral-storage": format!("{}Ki", disk / 1024),
    })
}

fn meminfo(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn info(abilities: &Abilities) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os =
        os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    json!({
        "architecture": arch(),
        "bootID": read("/proc/sys/kernel/random/boot_id"),
        "containerRuntimeVersion": abilities.containers,
        "kernelVersion": read("/proc/sys/kernel/osrelease"),
        "kubeProxyVersion": "",
        "kubeletVersion": format!("v1.37.0-yunfan.{}", env!("CARGO_PKG_VERSION")),
        "machineID": read("/etc/machine-id"),
        "operatingSystem": "linux",
        "osImage": os,
        "systemUUID": read("/sys/class/dmi/id/product_uuid"),
    })
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Which cgroup hierarchies the host has.
pub(crate) fn cgroup_kind() -> &'static str {
    let v2 = std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let hybrid = std::path::Path::new("/sys/fs/cgroup/unified/cgroup.controllers").exists();
    match (v2, hybrid) {
        (true, _) => "v2",
        (false, true) => "hybrid",
        (false, false) => "v1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_room_for_as_many_pods_as_it_has_addresses() {
        let room_of = |slice: Value| {
            room(&serde_json::from_value(json!({"metadata": {}, "spec": {"podCIDR": slice}})).unwrap())
        };
        assert_eq!(room_of(json!("10.244.3.0/24")), 253);
        assert_eq!(room_of(json!("10.244.0.0/22")), 1021);
        assert_eq!(room_of(json!("10.244.0.0/21")), MOST_PODS, "more addresses than ports of the bridge");
        assert_eq!(room_of(json!("10.244.0.0/31")), 0);
        assert_eq!(room_of(json!("0.0.0.0/1")), MOST_PODS);
        assert_eq!(room_of(Value::Null), 0);
    }

    #[test]
    fn a_slice_that_comes_late_is_told_of() {
        let tells = |slice: Value, pods: &str| {
            let node =
                json!({"metadata": {}, "spec": {"podCIDR": slice}, "status": {"capacity": {"pods": pods}}});
            tells_room(&serde_json::from_value(node).unwrap())
        };
        assert!(tells(Value::Null, "0"));
        assert!(!tells(json!("10.244.3.0/24"), "0"));
        assert!(tells(json!("10.244.3.0/24"), "253"));
    }
}
