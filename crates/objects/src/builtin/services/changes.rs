//! What a Service keeps and what it gives up when it changes: clients may leave out what was allocated for them, and what belongs to a
//! type goes with it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::Object;
use crate::lookup::{at, list, list_mut, number, remove, text};

fn kind(service: &Object) -> &str {
    text(service, &["spec", "type"])
}

/// Whether load balancers of this Service's kind are looked after by a port of each node that says how healthy it is.
fn has_health_check(service: &Object) -> bool {
    kind(service) == "LoadBalancer" && text(service, &["spec", "externalTrafficPolicy"]) == "Local"
}

fn is_outside(service: &Object) -> bool {
    match kind(service) {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => !list(service, &["spec", "externalIPs"]).is_empty(),
        _ => false,
    }
}

/// Whether ports of nodes are chosen for it.
fn takes_node_ports(service: &Object) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => {
            at(service, &["spec", "allocateLoadBalancerNodePorts"]).is_none_or(|flag| *flag != false)
        }
        _ => false,
    }
}

fn node_port(port: &Value) -> i64 {
    number(port, &["nodePort"]).unwrap_or(0)
}

fn node_ports(service: &Object) -> BTreeSet<i64> {
    list(service, &["spec", "ports"]).iter().map(node_port).filter(|port| *port != 0).collect()
}

/// Equal, where what is null, empty or 0 is as what is missing.
fn same(new: &Object, old: &Object, key: &str) -> bool {
    let value = |service| {
        let value = at(service, &["spec", key]).cloned().unwrap_or_default();
        if value == json!([]) || value == "" || value == 0 { Value::Null } else { value }
    };
    value(new) == value(old)
}

/// Gives the new state what the old one was given and the writer left out.
pub(in crate::builtin) fn keep(new: &mut Object, old: &Object) {
    if kind(old) != "ExternalName" && kind(new) != "ExternalName" {
        if text(new, &["spec", "clusterIP"]).is_empty() {
            copy(new, old, "clusterIP");
        }
        if list(new, &["spec", "clusterIPs"]).is_empty() {
            copy(new, old, "clusterIPs");
        }
    }
    if takes_node_ports(old) && takes_node_ports(new) {
        keep_node_ports(new, old);
    }
    let check = number(new, &["spec", "healthCheckNodePort"]).unwrap_or(0);
    if has_health_check(old) && has_health_check(new) && check == 0 {
        copy(new, old, "healthCheckNodePort");
    }
}

/// A port keeps its number by its name, unless another port has asked for that number.
fn keep_node_ports(new: &mut Object, old: &Object) {
    let (asked, before) = (node_ports(new), node_ports(old));
    let by_name: BTreeMap<&str, i64> = list(old, &["spec", "ports"])
        .iter()
        .map(|port| (text(port, &["name"]), node_port(port)))
        .filter(|(_, number)| *number != 0 && !(asked.contains(number) && before.contains(number)))
        .collect();
    for port in list_mut(new, &["spec", "ports"]) {
        if let (0, Some(number)) = (node_port(port), by_name.get(text(port, &["name"]))) {
            port["nodePort"] = json!(number);
        }
    }
}

fn copy(new: &mut Object, old: &Object, key: &str) {
    if let (Some(value), Some(spec)) =
        (at(old, &["spec", key]), new.get_mut("spec").filter(|s| s.is_object()))
    {
        spec[key] = value.clone();
    }
}

/// Makes `clusterIPs` what `clusterIP` says, for clients that know the older of the two alone.
pub(in crate::builtin) fn align(new: &mut Object, old: Option<&Object>) {
    let ip = text(new, &["spec", "clusterIP"]).to_owned();
    let Some(old) = old else {
        if !ip.is_empty() && list(new, &["spec", "clusterIPs"]).is_empty() {
            new["spec"]["clusterIPs"] = json!([ip]);
        }
        return;
    };
    let before = text(old, &["spec", "clusterIP"]);
    if list(new, &["spec", "clusterIPs"]).is_empty() && before == ip {
        copy(new, old, "clusterIPs");
    }
    if before == ip || !same(new, old, "clusterIPs") {
        return;
    }
    if ip.is_empty() {
        drop(remove(&mut new["spec"], "clusterIPs"));
    } else {
        new["spec"]["clusterIPs"] = json!([ip]);
    }
}

/// Takes away what the old type needed and the new one doesn't, where the writer left it as it was.
pub(in crate::builtin) fn give_up(new: &mut Object, old: &Object) {
    let balanced = |service: &Object| kind(service) == "LoadBalancer";
    let on_nodes = |service: &Object| matches!(kind(service), "NodePort" | "LoadBalancer");
    let mut gone = Vec::new();
    if kind(old) != "ExternalName" && kind(new) == "ExternalName" {
        if same(new, old, "clusterIP") && same(new, old, "clusterIPs") {
            gone.extend(["clusterIP", "clusterIPs"]);
        }
        gone.extend(["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|key| same(new, old, key)));
    }
    let without_ports = on_nodes(old) && !on_nodes(new) && node_ports(new).is_subset(&node_ports(old));
    if has_health_check(old) && !has_health_check(new) && same(new, old, "healthCheckNodePort") {
        gone.push("healthCheckNodePort");
    }
    if balanced(old) && !balanced(new) {
        let of_balancers = ["allocateLoadBalancerNodePorts", "loadBalancerClass"];
        gone.extend(of_balancers.into_iter().filter(|key| same(new, old, key)));
    }
    if is_outside(old) && !is_outside(new) && same(new, old, "externalTrafficPolicy") {
        gone.push("externalTrafficPolicy");
    }
    let still_balanced = balanced(new);
    let Some(spec) = new.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    for key in gone {
        drop(remove(spec, key));
    }
    if without_ports {
        for port in list_mut(spec, &["ports"]) {
            drop(remove(port, "nodePort"));
        }
    }
    if !still_balanced && let Some(status) = new.get_mut("status").filter(|status| status.is_object()) {
        status["loadBalancer"] = json!({});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Object {
        json!({"spec": spec})
    }

    #[test]
    fn what_was_allocated_stays_when_it_is_left_out() {
        let old = service(json!({"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"name": "a", "nodePort": 30001}, {"name": "b", "nodePort": 30002}]}));
        let mut new = service(json!({"type": "NodePort",
            "ports": [{"name": "b", "nodePort": 30001}, {"name": "a"}, {"name": "c", "nodePort": 0}]}));
        keep(&mut new, &old);
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.1"]));
        let ports: Vec<i64> = list(&new, &["spec", "ports"]).iter().map(node_port).collect();
        assert_eq!(ports, [30001, 0, 0], "30001 was asked for by another port");
        let mut other = service(json!({"type": "ClusterIP", "ports": [{"name": "a"}]}));
        keep(&mut other, &old);
        assert_eq!(
            (&other["spec"]["clusterIP"], node_port(&other["spec"]["ports"][0])),
            (&json!("10.0.0.1"), 0)
        );
        let check = service(
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 5}),
        );
        let mut without = service(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"}));
        keep(&mut without, &check);
        assert_eq!(without["spec"]["healthCheckNodePort"], 5);
    }

    #[test]
    fn the_older_name_of_the_address_means_both() {
        let old = service(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}));
        let aligned = |ip: &str, ips: Value| {
            let mut new = service(json!({"clusterIP": ip, "clusterIPs": ips}));
            align(&mut new, Some(&old));
            new["spec"]["clusterIPs"].clone()
        };
        assert_eq!(aligned("10.0.0.2", json!(["10.0.0.1"])), json!(["10.0.0.2"]));
        assert_eq!(aligned("10.0.0.2", json!(["10.0.0.3"])), json!(["10.0.0.3"]), "both were changed");
        assert_eq!(aligned("", json!(["10.0.0.1"])), Value::Null);
        assert_eq!(aligned("10.0.0.1", json!([])), json!(["10.0.0.1"]));
        let mut made = service(json!({"clusterIP": "None"}));
        align(&mut made, None);
        assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
    }

    #[test]
    fn what_belongs_to_a_type_goes_with_it_unless_it_was_changed_too() {
        let old = service(
            json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 5,
            "allocateLoadBalancerNodePorts": true, "loadBalancerClass": "a/b", "ports": [{"nodePort": 6}]}),
        );
        let mut new = old.clone();
        new["spec"]["type"] = json!("ClusterIP");
        new["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}});
        let mut changed = new.clone();
        changed["spec"]["ports"][0]["nodePort"] = json!(7);
        changed["spec"]["loadBalancerClass"] = json!("c/d");
        give_up(&mut new, &old);
        assert_eq!(new["spec"], json!({"type": "ClusterIP", "ports": [{}]}));
        assert_eq!(new["status"]["loadBalancer"], json!({}));
        give_up(&mut changed, &old);
        assert_eq!(
            changed["spec"],
            json!({"type": "ClusterIP", "loadBalancerClass": "c/d", "ports": [{"nodePort": 7}]})
        );
        let addressed =
            service(json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"}));
        let mut named = addressed.clone();
        named["spec"]["type"] = json!("ExternalName");
        give_up(&mut named, &addressed);
        assert_eq!(named["spec"], json!({"type": "ExternalName"}));
    }
}
