//! What a node has and is, as its status says it.

use std::collections::BTreeMap;
use std::path::Path;

use ipnet::Ipv4Net;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Map, Value, json};
use yunfan_runtime::{ImageService, RuntimeFeatures};

use super::Abilities;
use crate::eviction::{EvictionSettings, Signal};
use crate::pages::{self, Pool};

/// Addresses of a node's slice of the cluster network that no Pod gets: the network's, the gateway's and the broadcast.
const NOT_PODS: u32 = 3;
/// The most Pods that a node says it has room for, however many addresses it has: the kernel's bridges have 1,024 ports, of which
/// the first number is not given out (`BR_MAX_PORTS`), and each Pod of the cluster network takes one.
const MOST_PODS: u32 = 1023;

/// Most images, and names of one of them, that a node tells of (the kubelet's own).
const MOST_IMAGES: usize = 50;
const MOST_NAMES: usize = 5;

/// How many Pods fit on a node: as many as its slice of the cluster network has addresses for.
pub(super) fn room(node: &Node) -> u32 {
    let slice = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref());
    let slice = slice.and_then(|cidr| cidr.parse::<Ipv4Net>().ok());
    let addresses = slice.map_or(0, |slice| 1_u64 << (32 - slice.prefix_len()));
    u32::try_from(addresses).unwrap_or(u32::MAX).saturating_sub(NOT_PODS).min(MOST_PODS)
}

/// Whether a node says how many Pods fit there: its slice may come after its first status.
pub(super) fn tells_room(node: &Node) -> bool {
    let capacity = node.status.as_ref().and_then(|status| status.capacity.as_ref());
    capacity.and_then(|capacity| capacity.get("pods")).is_some_and(|pods| pods.0 == room(node).to_string())
}

/// What has to change of how much may be had of what others say that the node has (`example.com/gpu`): all that there is, and none of
/// what there is no more.
pub(super) fn others(node: &Node) -> Map<String, Value> {
    let of = |amounts: Option<&BTreeMap<String, Quantity>>| -> BTreeMap<String, String> {
        let all = amounts.into_iter().flatten().filter(|(name, _)| name.contains('/'));
        all.map(|(name, amount)| (name.clone(), amount.0.clone())).collect()
    };
    let capacity = of(node.status.as_ref().and_then(|status| status.capacity.as_ref()));
    let allocatable = of(node.status.as_ref().and_then(|status| status.allocatable.as_ref()));
    let gone = allocatable.keys().filter(|name| !capacity.contains_key(*name));
    let gone = gone.map(|name| (name.clone(), Value::Null));
    let there = capacity.iter().filter(|(name, amount)| allocatable.get(*name) != Some(*amount));
    there.map(|(name, amount)| (name.clone(), json!(amount))).chain(gone).collect()
}

/// What a node has, and what of it workloads may have: memory and disk that would be kept free of them anyway are not promised.
pub(super) struct Amounts {
    cpus: usize,
    memory_kib: u64,
    disk_bytes: u64,
    pods: u32,
    /// What of the memory is kept for pages of other sizes.
    huge: Vec<Pool>,
}

/// What a node says that it has where its machines are pretended: as much as Nova's own fake driver says (`FakeDriver.resources`),
/// since machines that do not run take nothing.
const PRETENDED_CPUS: usize = 1000;
const PRETENDED_MEMORY_KIB: u64 = 800_000 << 10;
const PRETENDED_DISK_BYTES: u64 = 600_000 << 30;

impl Amounts {
    /// What a node has; more than that where it only pretends its machines.
    pub(super) fn of(root: &Path, pods: u32, pretends: bool) -> Self {
        if pretends {
            let (cpus, memory_kib, disk_bytes) = (PRETENDED_CPUS, PRETENDED_MEMORY_KIB, PRETENDED_DISK_BYTES);
            return Self { cpus, memory_kib, disk_bytes, pods, huge: Vec::new() };
        }
        Self {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_kib: meminfo("MemTotal:").unwrap_or(0),
            // What the file system that holds the workloads' disks can hold in all.
            disk_bytes: rustix::fs::statvfs(root).map_or(0, |fs| fs.f_blocks * fs.f_frsize),
            pods,
            huge: pages::of_node(),
        }
    }

    /// As `status.capacity`.
    pub(super) fn capacity(&self) -> Value {
        let mut amounts = json!({
            "cpu": self.cpus.to_string(),
            "memory": format!("{}Ki", self.memory_kib),
            "pods": self.pods.to_string(),
            "ephemeral-storage": format!("{}Ki", self.disk_bytes / 1024),
        });
        self.huge.iter().for_each(|pool| amounts[pool.name()] = json!(pool.amount()));
        amounts
    }

    /// As `status.allocatable`: without what the hard thresholds of eviction keep free (Kubernetes' documentation, "Reserve Compute
    /// Resources for System Daemons").
    pub(super) fn allocatable(&self, eviction: &EvictionSettings) -> Value {
        let memory = self.memory_kib * 1024;
        let kept = |signal, total| eviction.kept_free(signal, total) / 1024;
        let mut amounts = self.capacity();
        let huge_kib = self.huge.iter().fold(0, |sum, pool| pool.bytes().saturating_add(sum)) / 1024;
        let memory_kib =
            self.memory_kib.saturating_sub(kept(Signal::Memory, memory)).saturating_sub(huge_kib);
        let disk_kib = (self.disk_bytes / 1024).saturating_sub(kept(Signal::NodeDisk, self.disk_bytes));
        amounts["memory"] = json!(format!("{memory_kib}Ki"));
        amounts["ephemeral-storage"] = json!(format!("{disk_kib}Ki"));
        amounts
    }
}

/// The images of a node as `status.images`: the largest of them, by all of their names. None where they are not known.
pub(super) async fn images(images: &dyn ImageService) -> Option<Value> {
    let listed = images.list().await;
    let mut all =
        listed.inspect_err(|error| tracing::warn!(%error, "the node's images can't be told of")).ok()?;
    all.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    let named = all.into_iter().filter(|image| !(image.names.is_empty() && image.repo_digests.is_empty()));
    let told = named.take(MOST_IMAGES).map(|image| {
        let names: Vec<String> = image.repo_digests.into_iter().chain(image.names).take(MOST_NAMES).collect();
        json!({"names": names, "sizeBytes": image.size_bytes})
    });
    Some(told.collect())
}

/// What RuntimeClasses may name, as `status.runtimeHandlers`.
pub(super) fn handlers(features: &RuntimeFeatures) -> Value {
    let told = features.handlers.iter().map(|handler| {
        let can = json!({"recursiveReadOnlyMounts": handler.recursive_read_only, "userNamespaces": false});
        json!({"name": handler.name, "features": can})
    });
    told.collect()
}

fn meminfo(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

pub(super) fn info(abilities: &Abilities) -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let os = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os =
        os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"');
    json!({
        "architecture": arch(),
        "bootID": boot_id(),
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

pub(super) fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Which start of the host this is.
pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Which cgroup hierarchies the host has.
/// Since when the host runs, RFC 3339 (proc(5), `/proc/stat`, `btime`); none where the kernel does not tell.
pub(super) fn booted() -> Option<String> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Timestamp::from_second(seconds).ok().map(|at| at.to_string())
}

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

    #[test]
    fn a_node_tells_what_classes_may_name() {
        let own = yunfan_runtime::Handler { recursive_read_only: true, ..Default::default() };
        let told = handlers(&RuntimeFeatures { strict_groups: true, handlers: vec![own] });
        let can = json!({"recursiveReadOnlyMounts": true, "userNamespaces": false});
        assert_eq!(told, json!([{"name": "", "features": can}]));
    }

    #[test]
    fn what_others_say_there_is_may_be_had() {
        let changes = |capacity: Value, allocatable: Value| {
            let node = json!({"metadata": {}, "status": {"capacity": capacity, "allocatable": allocatable}});
            Value::Object(others(&serde_json::from_value(node).unwrap()))
        };
        let (two, three) =
            (json!({"cpu": "2", "a.b/c": "2"}), json!({"cpu": "1", "a.b/c": "3", "d.e/f": "1"}));
        assert_eq!(changes(two.clone(), json!({"cpu": "1"})), json!({"a.b/c": "2"}));
        assert_eq!(changes(two.clone(), three), json!({"a.b/c": "2", "d.e/f": null}));
        assert_eq!(changes(two.clone(), two), json!({}));
    }

    #[test]
    fn what_is_kept_free_is_not_promised() {
        let huge = vec![Pool { page_bytes: 2 << 20, pages: 8 }, Pool { page_bytes: 1 << 30, pages: 0 }];
        let node = Amounts { cpus: 4, memory_kib: 1 << 20, disk_bytes: 10 << 30, pods: 253, huge };
        let promised = node.allocatable(&EvictionSettings::default());
        assert_eq!((&promised["cpu"], &promised["pods"]), (&json!("4"), &json!("253")));
        assert_eq!(promised["memory"], json!(format!("{}Ki", (1024 - 100 - 16) << 10)));
        assert_eq!((&promised["hugepages-2Mi"], &promised["hugepages-1Gi"]), (&json!("16Mi"), &json!("0")));
        assert_eq!(promised["ephemeral-storage"], json!(format!("{}Ki", 9 << 20)));
        assert_eq!(node.capacity()["memory"], "1048576Ki");
    }
}
