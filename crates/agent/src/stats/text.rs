//! The kubelet's `/metrics`, `/metrics/resource` and `/metrics/cadvisor`, in Prometheus' text format.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::Seen;
use super::host::Traffic;
use super::summary::Disk;
use super::volumes::Used;
use crate::pod::ContainerEnd;
use crate::pod::tries::{self, Probed};

/// What one line is about, and its number.
type Sample = (String, f64);

/// All metrics of `/metrics/resource`.
pub(super) fn of(seen: &Seen) -> String {
    let node = |value: &dyn Fn(&super::Host) -> f64| -> Vec<Sample> {
        seen.node.iter().map(|looks| (String::new(), value(&looks.last.seen))).collect()
    };
    let containers = |value: &dyn Fn(&super::Container) -> Option<f64>| -> Vec<Sample> {
        let all = seen.pods.values().flat_map(|pod| pod.containers.iter().map(move |one| (pod, one)));
        all.filter_map(|(pod, one)| {
            let labels = [("container", &one.id.name), ("namespace", &pod.namespace), ("pod", &pod.name)];
            Some((labelled(&labels), value(one)?))
        })
        .collect()
    };
    let pods = |value: &dyn Fn(&super::Container) -> f64| -> Vec<Sample> {
        let all = seen.pods.values();
        all.map(|pod| {
            let labels = [("namespace", &pod.namespace), ("pod", &pod.name)];
            (labelled(&labels), pod.containers.iter().map(value).sum())
        })
        .collect()
    };
    let cpu = |one: &super::Container| one.looks.last.seen.cpu.as_secs_f64();
    let memory = |one: &super::Container| one.looks.last.seen.memory_bytes as f64;
    let started = |one: &super::Container| {
        let since = one.started?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Some(since.as_secs_f64())
    };
    let failed = vec![(String::new(), f64::from(u8::from(seen.node.is_none())))];
    written([
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the container in core-seconds",
            containers(&|one| Some(cpu(one))),
        ),
        (
            "container_memory_working_set_bytes",
            "gauge",
            "Current working set of the container in bytes",
            containers(&|one| Some(memory(one))),
        ),
        (
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds",
            containers(&started),
        ),
        (
            "node_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the node in core-seconds",
            node(&|host| host.cpu.as_secs_f64()),
        ),
        (
            "node_memory_working_set_bytes",
            "gauge",
            "Current working set of the node in bytes",
            node(&|host| host.memory.working_set as f64),
        ),
        (
            "pod_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed by the pod in core-seconds",
            pods(&cpu),
        ),
        ("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes", pods(&memory)),
        (
            "resource_scrape_error",
            "gauge",
            "1 if there was an error while getting container metrics, 0 otherwise",
            failed,
        ),
    ])
}

/// Name, kind and help of a metric, and its lines.
type Family = (&'static str, &'static str, &'static str, Vec<Sample>);

fn written(families: impl IntoIterator<Item = Family>) -> String {
    let mut out = String::new();
    for (name, kind, help, samples) in families {
        // Writing to a String can't fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    }
    out
}

/// All metrics of `/metrics/cadvisor`, which are the same by other labels, and those of networks.
pub(super) fn cadvisor(seen: &Seen) -> String {
    let containers = |value: &dyn Fn(&super::Container) -> Option<f64>| -> Vec<Sample> {
        let all = seen.pods.values().flat_map(|pod| pod.containers.iter().map(move |one| (pod, one)));
        all.filter_map(|(pod, one)| {
            let (id, name) = (format!("/pod{}/{}", one.id.pod_uid, one.id.local()), one.id.to_string());
            let labels = [
                ("container", &one.id.name),
                ("id", &id),
                ("image", &one.image),
                ("name", &name),
                ("namespace", &pod.namespace),
                ("pod", &pod.name),
            ];
            Some((labelled(&labels), value(one)?))
        })
        .collect()
    };
    let networks = |value: &dyn Fn(&Traffic) -> u64| -> Vec<Sample> {
        let interface = "eth0".to_owned();
        let all = seen.pods.values().filter_map(|pod| Some((pod, pod.traffic.as_ref()?)));
        all.map(|(pod, traffic)| {
            let labels = [("interface", &interface), ("namespace", &pod.namespace), ("pod", &pod.name)];
            (labelled(&labels), value(traffic) as f64)
        })
        .collect()
    };
    let memory = |one: &super::Container| Some(one.looks.last.seen.memory_bytes as f64);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    written([
        (
            "container_cpu_usage_seconds_total",
            "counter",
            "Cumulative cpu time consumed in seconds.",
            containers(&|one| Some(one.looks.last.seen.cpu.as_secs_f64())),
        ),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", containers(&memory)),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            containers(&|one| Some(one.looks.last.seen.usage_bytes as f64)),
        ),
        (
            "container_memory_rss",
            "gauge",
            "Size of RSS in bytes.",
            containers(&|one| Some(one.looks.last.seen.rss_bytes as f64)),
        ),
        (
            "container_processes",
            "gauge",
            "Number of processes running inside the container.",
            containers(&|one| Some(one.looks.last.seen.pids as f64)),
        ),
        (
            "container_start_time_seconds",
            "gauge",
            "Start time of the container since unix epoch in seconds.",
            containers(&|one| Some(one.started?.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64())),
        ),
        (
            "container_network_receive_bytes_total",
            "counter",
            "Cumulative count of bytes received",
            networks(&|traffic| traffic.received.bytes),
        ),
        (
            "container_network_transmit_bytes_total",
            "counter",
            "Cumulative count of bytes transmitted",
            networks(&|traffic| traffic.sent.bytes),
        ),
        ("machine_cpu_cores", "gauge", "Number of logical CPU cores.", vec![(String::new(), cpus as f64)]),
    ])
}

/// All metrics of `/metrics`.
pub(super) fn own(node: &str, seen: &Seen, volumes: &[Used], ends: &BTreeMap<ContainerEnd, u64>) -> String {
    let end = |((kind, code, reason), times): (&ContainerEnd, &u64)| {
        let (kind, code, reason) = (kind.to_string(), code.to_string(), reason.to_string());
        let labels = labelled(&[("container_type", &kind), ("exit_code", &code), ("reason", &reason)]);
        (labels, *times as f64)
    };
    let of_claims = |value: fn(&Disk) -> u64| -> Vec<Sample> {
        // A claim that several Pods have is one.
        let claims: BTreeMap<(&String, &String), &Disk> = volumes
            .iter()
            .filter_map(|used| Some(((&used.mount.namespace, used.mount.claim.as_ref()?), &used.disk)))
            .collect();
        let line = |(namespace, claim): (&String, &String)| {
            labelled(&[("namespace", namespace), ("persistentvolumeclaim", claim)])
        };
        claims.into_iter().map(|(claim, disk)| (line(claim), value(disk) as f64)).collect()
    };
    let running = seen.pods.values().map(|pod| pod.containers.len()).sum::<usize>();
    let state = labelled(&[("container_state", &"running".to_owned())]);
    written([
        (
            "kubelet_node_name",
            "gauge",
            "The node's name. The count is always 1.",
            vec![(labelled(&[("node", &node.to_owned())]), 1.0)],
        ),
        (
            "kubelet_running_pods",
            "gauge",
            "Number of pods that have a running pod sandbox",
            vec![(String::new(), seen.pods.len() as f64)],
        ),
        (
            "kubelet_running_containers",
            "gauge",
            "Number of containers currently running",
            vec![(state, running as f64)],
        ),
        (
            "kubelet_terminated_containers_total",
            "counter",
            "Cumulative number of container terminations.",
            ends.iter().map(end).collect(),
        ),
        (
            "kubelet_volume_stats_capacity_bytes",
            "gauge",
            "Capacity in bytes of the volume",
            of_claims(|disk| disk.total),
        ),
        (
            "kubelet_volume_stats_available_bytes",
            "gauge",
            "Number of available bytes in the volume",
            of_claims(|disk| disk.free),
        ),
        (
            "kubelet_volume_stats_used_bytes",
            "gauge",
            "Number of used bytes in the volume",
            of_claims(Disk::used),
        ),
        (
            "kubelet_volume_stats_inodes",
            "gauge",
            "Maximum number of inodes in the volume",
            of_claims(|disk| disk.inodes.1),
        ),
        (
            "kubelet_volume_stats_inodes_free",
            "gauge",
            "Number of free inodes in the volume",
            of_claims(|disk| disk.inodes.0),
        ),
        (
            "kubelet_volume_stats_inodes_used",
            "gauge",
            "Number of used inodes in the volume",
            of_claims(Disk::inodes_used),
        ),
    ])
}

/// All metrics of `/metrics/probes`.
pub(super) fn probes(all: &[Probed]) -> String {
    let totals = all.iter().flat_map(|one| {
        let kind = one.which.name().to_owned();
        let results = [("failed", one.count.failed), ("successful", one.count.good)];
        results.into_iter().filter(|(_, times)| *times > 0).map(move |(result, times)| {
            let labels = [
                ("container", &one.container),
                ("namespace", &one.namespace),
                ("pod", &one.pod),
                ("pod_uid", &one.uid),
                ("probe_type", &kind),
                ("result", &result.to_owned()),
            ];
            (labelled(&labels), times as f64)
        })
    });
    let mut durations = Vec::new();
    for one in all.iter().filter(|one| one.count.good > 0) {
        let (kind, count) = (one.which.name().to_owned(), &one.count);
        let of = |end: &str, row: Option<&String>, value: f64| {
            let known = [
                ("container", &one.container),
                ("namespace", &one.namespace),
                ("pod", &one.pod),
                ("probe_type", &kind),
            ];
            let labels: Vec<_> = known.into_iter().chain(row.map(|row| ("le", row))).collect();
            (format!("_{end}{}", labelled(&labels)), value)
        };
        let rows = tries::ROWS.iter().map(f64::to_string).zip(count.rows);
        let rows = rows.chain([("+Inf".to_owned(), count.good)]);
        durations.extend(rows.map(|(row, times)| of("bucket", Some(&row), times as f64)));
        durations.push(of("sum", None, count.took.as_secs_f64()));
        durations.push(of("count", None, count.good as f64));
    }
    written([
        (
            "prober_probe_duration_seconds",
            "histogram",
            "Duration in seconds for a probe response.",
            durations,
        ),
        (
            "prober_probe_total",
            "counter",
            "Cumulative number of a liveness, readiness or startup probe for a container by result.",
            totals.collect(),
        ),
    ])
}

/// Labels as they stand behind a name. What is in them here are names of objects, which need no escaping.
fn labelled(labels: &[(&str, &String)]) -> String {
    let all: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    format!("{{{}}}", all.join(","))
}

#[cfg(test)]
mod tests {
    use super::super::tests::looks;
    use super::super::{Container, PodUse};
    use super::*;
    use crate::pod::tries::Which;
    use yunfan_runtime::ContainerId;

    #[test]
    fn counters_carry_their_containers_names() {
        let id = ContainerId { pod_uid: "u".to_owned(), name: "c".to_owned(), attempt: 0 };
        let started = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        let container = Container { id, image: "i".into(), started, looks: looks(None, 2500) };
        let pod =
            PodUse { namespace: "n".into(), name: "p".into(), containers: vec![container], traffic: None };
        let seen = Seen { node: None, pods: BTreeMap::from([("u".to_owned(), pod)]) };
        let other = cadvisor(&seen);
        let line = "container_cpu_usage_seconds_total{container=\"c\",id=\"/podu/c-0\",image=\"i\",name=\"u_c-0\",namespace=\"n\",pod=\"p\"} 2.5";
        assert!(other.lines().any(|known| known == line), "{other}");
        let own = own("n1", &seen, &[], &BTreeMap::from([(("container", 139, "Error"), 2)]));
        for line in [
            "kubelet_running_containers{container_state=\"running\"} 1",
            "kubelet_terminated_containers_total{container_type=\"container\",exit_code=\"139\",reason=\"Error\"} 2",
        ] {
            assert!(own.lines().any(|known| known == line), "{line} is not in {own}");
        }
        let text = of(&seen);
        for line in [
            "# TYPE container_cpu_usage_seconds_total counter",
            "container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 2.5",
            "container_start_time_seconds{container=\"c\",namespace=\"n\",pod=\"p\"} 7",
            "pod_memory_working_set_bytes{namespace=\"n\",pod=\"p\"} 5242880",
            "resource_scrape_error 1",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in {text}");
        }
        assert!(!text.contains("\nnode_cpu_usage_seconds_total "), "{text}");
    }

    #[test]
    fn probes_are_told_by_pod_and_kind() {
        let mut rows = [2; tries::ROWS.len()];
        rows[0] = 1;
        let count = tries::Count { failed: 3, good: 2, took: Duration::from_millis(12), rows };
        let text = probes(&[Probed {
            namespace: "n".into(),
            pod: "p".into(),
            uid: "u".into(),
            container: "c".into(),
            which: Which::Readiness,
            count,
        }]);
        let (of, whole) = ("container=\"c\",namespace=\"n\",pod=\"p\"", "probe_type=\"Readiness\"");
        for line in [
            format!("prober_probe_total{{{of},pod_uid=\"u\",{whole},result=\"failed\"}} 3"),
            format!("prober_probe_total{{{of},pod_uid=\"u\",{whole},result=\"successful\"}} 2"),
            format!("prober_probe_duration_seconds_bucket{{{of},{whole},le=\"0.005\"}} 1"),
            format!("prober_probe_duration_seconds_bucket{{{of},{whole},le=\"+Inf\"}} 2"),
            format!("prober_probe_duration_seconds_sum{{{of},{whole}}} 0.012"),
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in {text}");
        }
        assert!(!probes(&[]).contains('{'));
    }
}
