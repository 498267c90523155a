//! What one object counts against a quota: a pure function of the object. All amounts are in
//! thousandths.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;
use yunfan_objects::Quantity;
use yunfan_resources::claims::CLASS;
use yunfan_resources::names::{
    QUOTA_GIGABYTES, QUOTA_GROUP_RULES, QUOTA_IMAGE_BYTES, QUOTA_MEMORY, QUOTA_VCPUS,
};

use super::amounts::{self, Amounts};

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
        ("", "persistentvolumeclaims") => claim(object, &mut usage),
        ("resource.k8s.io", "resourceclaims") => devices(object, &mut usage),
        ("compute.yunfan.io", "virtualmachines") => {
            // While a resize can be reverted, there is room for either size.
            let sizes = [&object["spec"]["resources"], &object["spec"]["resizedFrom"]["resources"]];
            let most = |field: &str| sizes.iter().filter_map(|size| size[field].as_i64()).max().unwrap_or(0);
            let (vcpus, mebibytes) = (most("vcpus"), most("memoryMib"));
            usage.insert(QUOTA_VCPUS.to_owned(), i128::from(vcpus) * 1000);
            usage.insert(QUOTA_MEMORY.to_owned(), i128::from(mebibytes) * (1 << 20) * 1000);
        }
        ("network.yunfan.io", "securitygroups") => {
            let rules = object["spec"]["rules"].as_array().map_or(0, Vec::len);
            usage.insert(QUOTA_GROUP_RULES.to_owned(), rules as i128 * 1000);
        }
        ("image.yunfan.io", "images") => {
            let stored = &object["status"]["storedBytes"];
            let bytes = stored.as_i64().or(object["status"]["sizeBytes"].as_i64()).unwrap_or(0);
            usage.insert(QUOTA_IMAGE_BYTES.to_owned(), i128::from(bytes) * 1000);
        }
        // As in Cinder, snapshots count for the gigabytes of their volumes.
        ("storage.yunfan.io", "volumes" | "volumesnapshots") => {
            let gigabytes = object["spec"]["sizeGib"].as_i64().unwrap_or(0);
            usage.insert(QUOTA_GIGABYTES.to_owned(), i128::from(gigabytes) * 1000);
        }
        _ => {}
    }
    usage
}

/// Names that each container of a Pod must give an amount for when a quota limits them.
const MUST_BE_GIVEN: [&str; 6] =
    ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// What a Pod leaves open of what a quota with these limits asks of each container; empty when nothing.
pub(crate) fn left_open(pod: &Value, hard: &Value) -> String {
    let spec = &pod["spec"];
    // What is said of the Pod as a whole does for all of its containers.
    let whole = |side: &str| spec["resources"][side].as_object().is_some_and(|amounts| !amounts.is_empty());
    if whole("requests") || whole("limits") {
        return String::new();
    }
    let containers = || {
        let lists = ["initContainers", "containers"].into_iter();
        lists.flat_map(|field| spec[field].as_array().into_iter().flatten())
    };
    let limited = MUST_BE_GIVEN.into_iter().filter(|name| !hard[*name].is_null());
    let missing = limited.filter_map(|name| {
        let (side, resource) = name.split_once('.').unwrap_or(("requests", name));
        let without: BTreeSet<&str> = containers()
            .filter(|container| container["resources"][side][resource].is_null())
            .filter_map(|container| container["name"].as_str())
            .collect();
        let names: Vec<&str> = without.into_iter().collect();
        (!names.is_empty()).then(|| format!("{name} for: {}", names.join(",")))
    });
    missing.collect::<Vec<_>>().join("; ")
}

/// A Pod that is done uses nothing any more.
fn is_terminal(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

fn pod(object: &Value, usage: &mut Usage) {
    if is_terminal(object) {
        // The count of objects in the store stays; what they run with is given back.
        return;
    }
    usage.insert("pods".to_owned(), 1000);
    for (side, total) in [("requests", needs(object, "requests")), ("limits", needs(object, "limits"))] {
        for (resource, amount) in total {
            let native = matches!(resource.as_str(), "cpu" | "memory" | "ephemeral-storage");
            let amount = amount.milli();
            if native {
                usage.insert(format!("{side}.{resource}"), amount);
            }
            if side == "limits" {
                continue;
            }
            if native || resource.starts_with("hugepages-") {
                usage.insert(resource.clone(), amount);
            }
            // What others add to nodes can't be given twice, so that only requests are limited.
            if resource.contains('/') || resource.starts_with("hugepages-") {
                usage.insert(format!("requests.{resource}"), amount);
            }
        }
    }
}

/// What a Pod takes of its node on one side. While a change of its size is on its way, the larger of before and after counts.
fn needs(pod: &Value, side: &str) -> Amounts {
    let mut states = HashMap::new();
    for state in ["containerStatuses", "initContainerStatuses"]
        .into_iter()
        .flat_map(|field| each(&pod["status"][field]))
    {
        states.entry(state["name"].as_str()).or_insert(state);
    }
    // What its node said of an earlier size says nothing of this one.
    let infeasible = each(&pod["status"]["conditions"]).any(|condition| {
        condition["type"] == "PodResizePending"
            && condition["status"] == "True"
            && condition["reason"] == "Infeasible"
            && condition["observedGeneration"] == pod["metadata"]["generation"]
    });
    let mut total = amounts::of_pod(&pod["spec"], side, |container| {
        let mut amounts = amounts::read(&container["resources"][side]);
        if let Some(state) = states.get(&container["name"].as_str()) {
            if infeasible && state["resources"].is_object() {
                // It stays as it is, whatever it asks for.
                amounts = amounts::read(&state["resources"][side]);
            }
            raise_known(&mut amounts, &amounts::read(&state["resources"][side]));
            if side == "requests" {
                raise_known(&mut amounts, &amounts::read(&state["allocatedResources"]));
            }
        }
        amounts
    });
    for (name, amount) in amounts::read(&pod["spec"]["overhead"]) {
        match total.get(&name) {
            Some(known) => {
                let sum = *known + amount;
                total.insert(name, sum);
            }
            None if side == "requests" => {
                total.insert(name, amount);
            }
            None => {}
        }
    }
    total
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Raises what the container asks for; what it does not ask for it does not get.
fn raise_known(amounts: &mut Amounts, state: &Amounts) {
    let known = state.iter().filter(|(name, _)| amounts.contains_key(*name));
    let known: Amounts = known.map(|(name, amount)| (name.clone(), *amount)).collect();
    amounts::raise(amounts, &known);
}

fn claim(object: &Value, usage: &mut Usage) {
    let spec = &object["spec"];
    let asked = &spec["resources"]["requests"]["storage"];
    let storage = (!asked.is_null()).then(|| {
        // A claim that can't become as large as was asked for still has what it was given.
        let bytes = |amount: &Value| Quantity::from_json(amount).map_or(0, Quantity::units);
        let given = bytes(&object["status"]["allocatedResources"]["storage"]);
        i128::from(bytes(asked).max(given)) * 1000
    });
    let old_name = object["metadata"]["annotations"][CLASS].as_str();
    let class = old_name.or(spec["storageClassName"].as_str()).filter(|class| !class.is_empty());
    let of_class = |what: &str| class.map(|class| format!("{class}.storageclass.storage.k8s.io/{what}"));
    usage.extend(of_class("persistentvolumeclaims").map(|name| (name, 1000)));
    if let Some(storage) = storage {
        usage.insert("requests.storage".to_owned(), storage);
        usage.extend(of_class("requests.storage").map(|name| (name, storage)));
    }
}

/// The most devices that a claim gets.
const MOST_DEVICES: i64 = 32;

/// The devices that a claim may get of each class. Of several ways to be content, that counts which takes most of a class.
fn devices(object: &Value, usage: &mut Usage) {
    let count = |asked: &Value| match asked["allocationMode"].as_str() {
        Some("ExactCount") => asked["count"].as_i64().unwrap_or(0),
        Some("All") => MOST_DEVICES,
        _ => 0,
    };
    for request in each(&object["spec"]["devices"]["requests"]) {
        let mut most: BTreeMap<&str, i64> = BTreeMap::new();
        let ways = each(&request["firstAvailable"]);
        for asked in ways.chain(Some(&request["exactly"]).filter(|asked| asked.is_object())) {
            let of_class = most.entry(asked["deviceClassName"].as_str().unwrap_or_default()).or_default();
            *of_class = count(asked).max(*of_class);
        }
        for (class, devices) in most {
            let name = format!("{class}.deviceclass.resource.k8s.io/devices");
            *usage.entry(name).or_default() += i128::from(devices) * 1000;
        }
    }
}

fn service(object: &Value, usage: &mut Usage) {
    let spec = &object["spec"];
    let ports = || spec["ports"].as_array().into_iter().flatten();
    let balances = spec["type"] == "LoadBalancer";
    let on_nodes = if balances && spec["allocateLoadBalancerNodePorts"] == false {
        ports().filter(|port| port["nodePort"].as_i64().is_some_and(|port| port != 0)).count()
    } else if balances || spec["type"] == "NodePort" {
        ports().count()
    } else {
        0
    };
    if on_nodes > 0 {
        usage.insert("services.nodeports".to_owned(), on_nodes as i128 * 1000);
    }
    if balances {
        usage.insert("services.loadbalancers".to_owned(), 1000);
    }
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
        pod["spec"]["overhead"] = json!({"cpu": "5m"});
        assert_eq!(of("", "pods", &pod)["cpu"], 205);
        pod["status"] = json!({"phase": "Failed"});
        assert!(!of("", "pods", &pod).contains_key("pods"));
    }

    #[test]
    fn what_others_add_to_nodes_is_charged_as_requests() {
        let amounts = json!({"example.com/gpu": "2", "hugepages-2Mi": "4Mi", "ephemeral-storage": "1Gi"});
        let pod = json!({"spec": {"containers": [{"resources": {"requests": amounts, "limits": amounts}}]}});
        let usage = of("", "pods", &pod);
        let names: Vec<&str> = usage.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [
                "count/pods",
                "ephemeral-storage",
                "hugepages-2Mi",
                "limits.ephemeral-storage",
                "pods",
                "requests.ephemeral-storage",
                "requests.example.com/gpu",
                "requests.hugepages-2Mi"
            ]
        );
        assert_eq!(usage["requests.example.com/gpu"], 2000);
    }

    #[test]
    fn a_pod_on_its_way_to_another_size_counts_for_the_larger() {
        let state =
            json!({"name": "c", "resources": {"requests": {"cpu": "2"}}, "allocatedResources": {"cpu": "3"}});
        let mut pod = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"containerStatuses": [state]}});
        assert_eq!(of("", "pods", &pod)["cpu"], 3000);
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("4");
        assert_eq!(of("", "pods", &pod)["cpu"], 4000);
        // What can never be is not waited for.
        pod["status"]["conditions"] =
            json!([{"type": "PodResizePending", "status": "True", "reason": "Infeasible"}]);
        assert_eq!(of("", "pods", &pod)["cpu"], 3000);
        // What was said of another size says nothing of this one.
        pod["metadata"] = json!({"generation": 2});
        assert_eq!(of("", "pods", &pod)["cpu"], 4000);
        pod["status"]["conditions"][0]["observedGeneration"] = json!(2);
        assert_eq!(of("", "pods", &pod)["cpu"], 3000);
        pod["status"]["conditions"][0]["reason"] = json!("Deferred");
        assert_eq!(of("", "pods", &pod)["cpu"], 4000);
    }

    #[test]
    fn what_a_quota_limits_is_to_be_given() {
        let mut pod = json!({"spec": {"containers": [{"name": "b"}, {"name": "a", "resources": {"limits": {"cpu": "1"}}}]}});
        let hard = json!({"limits.cpu": "1", "requests.memory": "1", "pods": "1", "requests.ephemeral-storage": "1"});
        assert_eq!(left_open(&pod, &hard), "limits.cpu for: b; requests.memory for: a,b");
        pod["spec"]["resources"] = json!({"limits": {"cpu": "1"}});
        assert_eq!(left_open(&pod, &hard), "");
    }

    #[test]
    fn claims_are_charged_to_their_class_too() {
        let mut claim = json!({"metadata": {}, "spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
        let usage = of("", "persistentvolumeclaims", &claim);
        let gibibyte = 1_000 << 30;
        assert_eq!(usage["gold.storageclass.storage.k8s.io/persistentvolumeclaims"], 1000);
        assert_eq!(usage["gold.storageclass.storage.k8s.io/requests.storage"], gibibyte);
        assert_eq!((usage["requests.storage"], usage["persistentvolumeclaims"]), (gibibyte, 1000));
        claim["status"] = json!({"allocatedResources": {"storage": "2Gi"}});
        assert_eq!(of("", "persistentvolumeclaims", &claim)["requests.storage"], 2 * gibibyte);
    }

    #[test]
    fn claims_of_devices_are_charged_to_their_classes() {
        let exact = |class: &str, count: i64| json!({"deviceClassName": class, "allocationMode": "ExactCount", "count": count});
        let all = json!({"deviceClassName": "gold", "allocationMode": "All"});
        let requests = json!([{"exactly": exact("gold", 2)}, {"firstAvailable": [exact("tin", 3), exact("tin", 1), all]}]);
        let usage =
            of("resource.k8s.io", "resourceclaims", &json!({"spec": {"devices": {"requests": requests}}}));
        assert_eq!(usage["count/resourceclaims.resource.k8s.io"], 1000);
        assert_eq!(usage["gold.deviceclass.resource.k8s.io/devices"], 34_000);
        assert_eq!(usage["tin.deviceclass.resource.k8s.io/devices"], 3000);
    }

    #[test]
    fn services_are_charged_for_their_ports() {
        let service = |spec: Value| of("", "services", &json!({"spec": spec}));
        let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30000}]);
        assert_eq!(service(json!({"type": "NodePort", "ports": ports}))["services.nodeports"], 2000);
        let balanced =
            service(json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false}));
        assert_eq!((balanced["services.nodeports"], balanced["services.loadbalancers"]), (1000, 1000));
        assert!(!service(json!({"ports": ports})).contains_key("services.nodeports"));
    }

    #[test]
    fn security_groups_are_charged_for_their_rules() {
        let group = json!({"spec": {"rules": [{"direction": "ingress"}, {"direction": "egress"}]}});
        let usage = of("network.yunfan.io", "securitygroups", &group);
        assert_eq!((usage[QUOTA_GROUP_RULES], usage["count/securitygroups.network.yunfan.io"]), (2000, 1000));
    }

    #[test]
    fn volumes_are_charged_for_their_size() {
        let usage = of("storage.yunfan.io", "volumes", &json!({"spec": {"sizeGib": 3}}));
        assert_eq!((usage[QUOTA_GIGABYTES], usage["count/volumes.storage.yunfan.io"]), (3000, 1000));
    }

    #[test]
    fn images_are_charged_for_what_they_take_on_a_node() {
        let bytes =
            |status: Value| of("image.yunfan.io", "images", &json!({"status": status}))[QUOTA_IMAGE_BYTES];
        assert_eq!(bytes(json!({"phase": "Saving"})), 0);
        assert_eq!(bytes(json!({"sizeBytes": 5})), 5000);
        assert_eq!(bytes(json!({"sizeBytes": 5, "storedBytes": 9})), 9000);
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
