//! The kubelet's `/metrics/resource`, in Prometheus' text format.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use super::Seen;

/// What one line is about, and its number.
type Sample = (String, f64);

/// All metrics.
pub(super) fn of(seen: &Seen) -> String {
    let mut out = String::new();
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
    for (name, kind, help, samples) in [
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
    ] {
        // Writing to a String can't fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(out, "{name}{labels} {value}");
        }
    }
    out
}

/// Labels as they stand behind a name. What is in them here are names of objects, which need no escaping.
fn labelled(labels: &[(&str, &String)]) -> String {
    let all: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
    format!("{{{}}}", all.join(","))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::looks;
    use super::super::{Container, PodUse};
    use super::*;
    use yunfan_runtime::ContainerId;

    #[test]
    fn counters_carry_their_containers_names() {
        let id = ContainerId { pod_uid: "u".to_owned(), name: "c".to_owned(), attempt: 0 };
        let started = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(7));
        let container = Container { id, started, looks: looks(None, 2500) };
        let pod =
            PodUse { namespace: "n".into(), name: "p".into(), containers: vec![container], traffic: None };
        let text = of(&Seen { node: None, pods: BTreeMap::from([("u".to_owned(), pod)]) });
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
}
