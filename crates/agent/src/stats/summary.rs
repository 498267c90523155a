//! The Summary API's JSON (k8s.io/kubelet, `stats/v1alpha1`), as far as there are numbers.

use std::path::Path;

use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_runtime::ContainerStats;

use super::host::{Host, Traffic};
use super::volumes::Used;
use super::{Container, Looks, PodUse, Seen};

/// How full a file system is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    /// Bytes that are free for others than root, and all.
    pub(super) free: u64,
    pub(super) total: u64,
    /// Free, and all.
    pub(super) inodes: (u64, u64),
    /// Bytes that are root's alone.
    reserved: u64,
}

impl Disk {
    /// Bytes in use.
    pub(super) fn used(&self) -> u64 {
        self.total.saturating_sub(self.free).saturating_sub(self.reserved)
    }

    pub(super) fn inodes_used(&self) -> u64 {
        self.inodes.1.saturating_sub(self.inodes.0)
    }

    /// The file system of a path; none where it can't be asked.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let found = rustix::fs::statvfs(path).ok()?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Some(Self {
            free: bytes(found.f_bavail),
            total: bytes(found.f_blocks),
            inodes: (found.f_favail, found.f_files),
            reserved: bytes(found.f_bfree.saturating_sub(found.f_bavail)),
        })
    }
}

/// The summary of the node with this name.
pub(super) fn of(node: &str, seen: &Seen, disk: Option<Disk>, volumes: &[Used]) -> Value {
    let mut pods: Vec<Value> = seen.pods.iter().map(|(uid, pod)| of_pod(uid, pod)).collect();
    for (uid, pod) in seen.pods.keys().zip(&mut pods) {
        let own: Vec<Value> =
            volumes.iter().filter(|used| used.mount.pod_uid == *uid).map(of_volume).collect();
        if !own.is_empty() {
            pod["volume"] = Value::from(own);
        }
    }
    let mut summary = json!({"node": {"nodeName": node}, "pods": pods});
    if let Some(looks) = &seen.node {
        let (host, time) = (&looks.last.seen, looks.last.time);
        summary["node"]["cpu"] = cpu(looks, |host: &Host| host.cpu);
        summary["node"]["memory"] = json!({"time": shown(time), "availableBytes": host.memory.available,
            "usageBytes": host.memory.usage, "workingSetBytes": host.memory.working_set});
        if let Some(traffic) = &host.traffic {
            summary["node"]["network"] = network(time, traffic);
        }
    }
    if let Some(disk) = &disk {
        summary["node"]["fs"] = of_disk(disk);
        // Images are on the same one.
        summary["node"]["runtime"] = json!({"imageFs": of_disk(disk)});
    }
    if let Some(time) = seen.containers().map(|one| one.looks.last.time).min() {
        let last = || seen.containers().map(|one| &one.looks.last.seen);
        let cpu: u128 = last().map(|stats| stats.cpu.as_nanos()).sum();
        summary["node"]["systemContainers"] = json!([{
            "name": "pods",
            "startTime": shown(time),
            "cpu": {"time": shown(time), "usageCoreNanoSeconds": u64::try_from(cpu).unwrap_or(u64::MAX)},
            "memory": memory(time, last()),
        }]);
    }
    summary
}

fn of_pod(uid: &str, pod: &PodUse) -> Value {
    let containers: Vec<Value> = pod.containers.iter().map(of_container).collect();
    let started = pod.containers.iter().filter_map(|one| one.started).min();
    let mut out = json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": uid},
        "startTime": started.and_then(|at| Timestamp::try_from(at).ok()).map(shown),
        "containers": containers,
    });
    // The Pod's own numbers are the sums of its containers', from the oldest of their looks.
    let looks = || pod.containers.iter().map(|one| &one.looks);
    let Some(time) = looks().map(|looks| looks.last.time).min() else { return out };
    let total: u128 = looks().map(|looks| looks.last.seen.cpu.as_nanos()).sum();
    out["cpu"] =
        json!({"time": shown(time), "usageCoreNanoSeconds": u64::try_from(total).unwrap_or(u64::MAX)});
    let rates: Option<Vec<_>> = looks().map(|looks| looks.rate(|stats| stats.cpu)).collect();
    if let Some(rates) = rates {
        out["cpu"]["usageNanoCores"] = json!(rates.iter().map(|(rate, _)| rate).sum::<u64>());
    }
    out["memory"] = memory(time, looks().map(|looks| &looks.last.seen));
    let processes: u64 = looks().map(|looks| looks.last.seen.pids).sum();
    out["process_stats"] = json!({"process_count": processes});
    if let Some(traffic) = &pod.traffic {
        out["network"] = network(time, traffic);
    }
    out
}

fn of_container(container: &Container) -> Value {
    let looks = &container.looks;
    json!({
        "name": container.id.name,
        "startTime": container.started.and_then(|at| Timestamp::try_from(at).ok()).map(shown),
        "cpu": cpu(looks, |stats| stats.cpu),
        "memory": memory(looks.last.time, std::iter::once(&looks.last.seen)),
    })
}

/// What some containers use together.
fn memory<'a>(time: Timestamp, of: impl Iterator<Item = &'a ContainerStats> + Clone) -> Value {
    let sum = |value: fn(&ContainerStats) -> u64| of.clone().map(value).fold(0, u64::saturating_add);
    json!({"time": shown(time), "usageBytes": sum(|stats| stats.usage_bytes),
        "workingSetBytes": sum(|stats| stats.memory_bytes), "rssBytes": sum(|stats| stats.rss_bytes),
        "pageFaults": sum(|stats| stats.page_faults), "majorPageFaults": sum(|stats| stats.major_page_faults)})
}

fn of_disk(disk: &Disk) -> Value {
    json!({"time": shown(Timestamp::now()), "availableBytes": disk.free, "capacityBytes": disk.total,
        "usedBytes": disk.used(), "inodesFree": disk.inodes.0, "inodes": disk.inodes.1,
        "inodesUsed": disk.inodes_used()})
}

fn of_volume(used: &Used) -> Value {
    let mut out = of_disk(&used.disk);
    out["name"] = Value::from(used.mount.volume.clone());
    if let Some(claim) = &used.mount.claim {
        out["pvcRef"] = json!({"name": claim, "namespace": used.mount.namespace});
    }
    out
}

fn cpu<T: Copy>(looks: &Looks<T>, of: impl Fn(&T) -> std::time::Duration) -> Value {
    let total = u64::try_from(of(&looks.last.seen).as_nanos()).unwrap_or(u64::MAX);
    let mut out = json!({"time": shown(looks.last.time), "usageCoreNanoSeconds": total});
    if let Some((rate, window)) = looks.rate(of) {
        out["usageNanoCores"] = json!(rate);
        out["windowSeconds"] = json!(window.as_secs_f64());
    }
    out
}

fn network(time: Timestamp, traffic: &Traffic) -> Value {
    json!({"time": shown(time), "rxBytes": traffic.received.bytes, "rxErrors": traffic.received.errors,
        "txBytes": traffic.sent.bytes, "txErrors": traffic.sent.errors})
}

/// A moment in whole seconds.
fn shown(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::super::tests::looks;
    use super::*;
    use yunfan_runtime::ContainerId;

    #[test]
    fn volumes_are_told_with_their_claims() {
        let disk = Disk { free: 30, total: 100, inodes: (4, 9), reserved: 5 };
        let mount = |volume: &str, claim: Option<&str>| crate::pod::VolumeMount {
            namespace: "n".to_owned(),
            pod_uid: "u".to_owned(),
            volume: volume.to_owned(),
            claim: claim.map(str::to_owned),
            path: "/none".into(),
        };
        let of = |volume, claim| of_volume(&Used { mount: mount(volume, claim), disk });
        let data = of("data", Some("c"));
        assert_eq!(data["pvcRef"], json!({"name": "c", "namespace": "n"}));
        assert_eq!((&data["usedBytes"], &data["availableBytes"]), (&json!(65), &json!(30)));
        assert_eq!((&data["name"], &data["inodesUsed"]), (&json!("data"), &json!(5)));
        assert_eq!(of("scratch", None).get("pvcRef"), None);
    }

    #[test]
    fn pods_are_the_sums_of_their_containers() {
        let container = |name: &str, before| Container {
            image: String::new(),
            id: ContainerId { pod_uid: "u".to_owned(), name: name.to_owned(), attempt: 0 },
            started: None,
            looks: looks(before, 3500),
        };
        let mut pod = PodUse {
            namespace: "n".to_owned(),
            name: "p".to_owned(),
            containers: vec![container("a", Some(1000)), container("b", Some(3000))],
            traffic: Some(Traffic::default()),
        };
        let all = of_pod("u", &pod);
        assert_eq!(
            all["cpu"],
            json!({"time": "2026-01-01T00:00:10Z", "usageCoreNanoSeconds": 7_000_000_000_u64, "usageNanoCores": 300_000_000})
        );
        assert_eq!(
            (&all["memory"]["workingSetBytes"], &all["process_stats"]["process_count"]),
            (&json!(10 << 20), &json!(6))
        );
        assert_eq!(all["memory"]["rssBytes"], 8 << 20);
        assert_eq!(all["containers"][1]["memory"]["usageBytes"], 7 << 20);
        assert_eq!(all["containers"][1]["memory"]["pageFaults"], 90);
        assert_eq!(all["containers"][1]["cpu"]["usageNanoCores"], 50_000_000);
        assert_eq!(all["containers"][1]["cpu"]["windowSeconds"], 10.0);
        assert_eq!(all["network"]["rxBytes"], 0);
        pod.containers.push(container("new", None));
        let all = of_pod("u", &pod);
        assert_eq!(all["cpu"].get("usageNanoCores"), None, "what is not known of one is not known of all");
        assert_eq!(all["containers"][2]["cpu"].get("usageNanoCores"), None);
    }
}
