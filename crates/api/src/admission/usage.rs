//! What one object counts against a quota: a pure function of the object. All amounts are in
//! thousandths.

use std::collections::BTreeMap;

use serde_json::Value;
use yunfan_objects::Quantity;
use yunfan_resources::names::{QUOTA_GIGABYTES, QUOTA_MEMORY, QUOTA_VCPUS};

/// Amounts by the resource names of `spec.hard`, in thousandths.
pub(crate) type Usage = BTreeMap<String, i128>;

/// Names of core kinds that a quota may limit by their bare plural.
const BARE: [&str; 7] = [
    "pods",
    "services",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "replicationcontrollers",
    "resourcequotas",
];

/// What the object counts for.
pub(crate) fn of(group: &str, plural: &str, object: &Value) -> Usage {
    let mut usage = Usage::new();
    let counted =
        if group.is_empty() { format!("count/{plural}") } else { format!("count/{plural}.{group}") };
    usage.insert(counted, 1000);
    if group.is_empty() && plural != "pods" && BARE.contains(&plural) {
        usage.insert(plural.to_owned(), 1000);
    }
    match (group, plural) {
        ("", "pods") => pod(object, &mut usage),
        ("", "services") => service(object, &mut usage),
        ("", "persistentvolumeclaims") => {
            add(&mut usage, "requests.storage", &object["spec"]["resources"]["requests"]["storage"]);
        }
        ("compute.yunfan.io", "virtualmachines") => {
            let size = &object["spec"]["resources"];
            let vcpus = size["vcpus"].as_i64().unwrap_or(0);
            let mebibytes = size["memoryMib"].as_i64().unwrap_or(0);
            usage.insert(QUOTA_VCPUS.to_owned(), i128::from(vcpus) * 1000);
            usage.insert(QUOTA_MEMORY.to_owned(), i128::from(mebibytes) * (1 << 20) * 1000);
        }
        ("storage.yunfan.io", "volumes") => {
            let gigabytes = object["spec"]["sizeGib"].as_i64().unwrap_or(0);
            usage.insert(QUOTA_GIGABYTES.to_owned(), i128::from(gigabytes) * 1000);
        }
        _ => {}
    }
    usage
}

/// Names that a Pod must set in each container when the quota limits them.
pub(crate) const PER_CONTAINER: [&str; 4] =
    ["requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

/// Containers of a Pod that leave `name` (one of [`PER_CONTAINER`]) open.
pub(crate) fn containers_without(pod: &Value, name: &str) -> Vec<String> {
    let (side, resource) = name.split_once('.').unwrap_or(("requests", name));
    let all = ["initContainers", "containers"].into_iter();
    all.flat_map(|field| pod["spec"][field].as_array().into_iter().flatten())
        .filter(|container| container["resources"][side][resource].is_null())
        .filter_map(|container| container["name"].as_str().map(str::to_owned))
        .collect()
}

/// A Pod that is done uses nothing any more.
pub(crate) fn is_terminal(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn pod(object: &Value, usage: &mut Usage) {
    if is_terminal(object) {
        // The count of objects in the store stays; what they run with is given back.
        return;
    }
    usage.insert("pods".to_owned(), 1000);
    for (side, resource, names) in [
        ("requests", "cpu", ["requests.cpu", "cpu"].as_slice()),
        ("requests", "memory", ["requests.memory", "memory"].as_slice()),
        ("limits", "cpu", ["limits.cpu"].as_slice()),
        ("limits", "memory", ["limits.memory"].as_slice()),
        ("requests", "ephemeral-storage", ["requests.ephemeral-storage", "ephemeral-storage"].as_slice()),
        ("limits", "ephemeral-storage", ["limits.ephemeral-storage"].as_slice()),
    ] {
        let amount = pod_amount(&object["spec"], side, resource);
        if amount > 0 {
            for name in names {
                usage.insert((*name).to_owned(), amount);
            }
        }
    }
}

/// The larger of: what the containers (and sidecars) take together, and what one init container takes
/// beside the sidecars started before it.
fn pod_amount(spec: &Value, side: &str, resource: &str) -> i128 {
    let amount = |container: &Value| milli(&container["resources"][side][resource]);
    let each = |field: &str| spec[field].as_array().cloned().unwrap_or_default();
    let (mut sidecars, mut peak) = (0, 0);
    for container in each("initContainers") {
        if container["restartPolicy"] == "Always" {
            sidecars += amount(&container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + amount(&container));
        }
    }
    let together: i128 = each("containers").iter().map(amount).sum();
    (together + sidecars).max(peak) + milli(&spec["overhead"][resource])
}

fn service(object: &Value, usage: &mut Usage) {
    let ports = object["spec"]["ports"].as_array().map_or(0, Vec::len) as i128;
    match object["spec"]["type"].as_str() {
        Some("NodePort") => {
            usage.insert("services.nodeports".to_owned(), ports * 1000);
        }
        Some("LoadBalancer") => {
            usage.insert("services.nodeports".to_owned(), ports * 1000);
            usage.insert("services.loadbalancers".to_owned(), 1000);
        }
        _ => {}
    }
}

fn add(usage: &mut Usage, name: &str, quantity: &Value) {
    usage.insert(name.to_owned(), milli(quantity));
}

/// A quantity in thousandths; nothing for what is none.
pub(crate) fn milli(quantity: &Value) -> i128 {
    Quantity::from_json(quantity).map_or(0, Quantity::milli)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_are_charged_for_what_runs() {
        let container = json!({"name": "c", "resources": {"requests": {"cpu": "100m", "memory": "1Mi"}}});
        let init = json!({"name": "i", "resources": {"requests": {"cpu": "150m"}}});
        let mut pod = json!({"spec": {"containers": [container, container], "initContainers": [init]}});
        let usage = of("", "pods", &pod);
        assert_eq!(usage["pods"], 1000);
        assert_eq!(usage["requests.cpu"], 200);
        assert_eq!(usage["memory"], 2 * 1024 * 1024 * 1000);
        assert_eq!(usage["count/pods"], 1000);
        assert_eq!(containers_without(&pod, "requests.memory"), ["i"]);
        pod["status"] = json!({"phase": "Failed"});
        assert!(!of("", "pods", &pod).contains_key("pods"));
    }

    #[test]
    fn volumes_are_charged_for_their_size() {
        let usage = of("storage.yunfan.io", "volumes", &json!({"spec": {"sizeGib": 3}}));
        assert_eq!((usage[QUOTA_GIGABYTES], usage["count/volumes.storage.yunfan.io"]), (3000, 1000));
    }

    #[test]
    fn machines_are_charged_for_their_size() {
        let vm = json!({"spec": {"resources": {"vcpus": 2, "memoryMib": 512}}});
        let usage = of("compute.yunfan.io", "virtualmachines", &vm);
        assert_eq!(usage[QUOTA_VCPUS], 2000);
        assert_eq!(usage[QUOTA_MEMORY], 512 * 1024 * 1024 * 1000);
        assert_eq!(usage["count/virtualmachines.compute.yunfan.io"], 1000);
    }
}
