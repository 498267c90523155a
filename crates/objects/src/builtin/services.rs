//! Service.

use std::collections::HashSet;
use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::ColumnSpec;
use super::pod_validate::{one_of, port_name, port_number};
use super::rows::{name, or_none, since_creation};
use crate::Object;
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{entries, list, list_mut, number, set_default, text};
use crate::meta::{dns_label, dns_subdomain, validate_labels};

pub(super) const COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Type", "string", 0),
    ("Cluster-IP", "string", 0),
    ("External-IP", "string", 0),
    ("Port(s)", "string", 0),
    ("Age", "string", 0),
    ("Selector", "string", 1),
];

pub(super) fn cells(service: &Object, now: Timestamp) -> Vec<Value> {
    let ports: Vec<String> = list(service, &["spec", "ports"])
        .iter()
        .map(|port| {
            let (inner, protocol) = (number(port, &["port"]).unwrap_or(0), text(port, &["protocol"]));
            match number(port, &["nodePort"]).filter(|port| *port > 0) {
                Some(outer) => format!("{inner}:{outer}/{protocol}"),
                None => format!("{inner}/{protocol}"),
            }
        })
        .collect();
    let selector: Vec<String> = entries(service, &["spec", "selector"])
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    vec![
        name(service),
        json!(text(service, &["spec", "type"])),
        or_none(text(service, &["spec", "clusterIP"])),
        json!(external_ip(service)),
        or_none(&ports.join(",")),
        since_creation(service, now),
        or_none(&selector.join(",")),
    ]
}

fn external_ip(service: &Object) -> String {
    let mut texts: Vec<&str> =
        list(service, &["spec", "externalIPs"]).iter().filter_map(Value::as_str).collect();
    match text(service, &["spec", "type"]) {
        "ExternalName" => return text(service, &["spec", "externalName"]).to_owned(),
        "LoadBalancer" => {
            for ingress in list(service, &["status", "loadBalancer", "ingress"]) {
                let ip = text(ingress, &["ip"]);
                texts.push(if ip.is_empty() { text(ingress, &["hostname"]) } else { ip });
            }
            if texts.is_empty() {
                return "<pending>".to_owned();
            }
        }
        _ => {}
    }
    if texts.is_empty() { "<none>".to_owned() } else { texts.join(",") }
}

pub(super) struct ServiceStrategy;

impl Strategy for ServiceStrategy {
    fn default(&self, service: &mut Object) {
        let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        set_default(spec, "type", "ClusterIP");
        set_default(spec, "sessionAffinity", "None");
        if text(spec, &["sessionAffinity"]) == "ClientIP" {
            set_default(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
        }
        for port in list_mut(spec, &["ports"]) {
            set_default(port, "protocol", "TCP");
            let number = port.get("port").cloned().unwrap_or_default();
            // Kubernetes reads 0 and the empty text as not given.
            if matches!(port.get("targetPort"), Some(target) if *target == 0 || *target == "") {
                port["targetPort"] = Value::Null;
            }
            set_default(port, "targetPort", number);
        }
        let kind = text(spec, &["type"]).to_owned();
        if kind != "ExternalName" {
            set_default(spec, "internalTrafficPolicy", "Cluster");
            set_default(spec, "ipFamilies", json!(["IPv4"]));
            set_default(spec, "ipFamilyPolicy", "SingleStack");
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            set_default(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
        let ip = text(spec, &["clusterIP"]).to_owned();
        if !ip.is_empty() {
            set_default(spec, "clusterIPs", json!([ip]));
        }
    }

    fn validate(&self, service: &Object) -> Vec<FieldError> {
        validate(service)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let external = |service: &Object| text(service, &["spec", "type"]) == "ExternalName";
        if external(new) || external(old) {
            return Vec::new();
        }
        let path = ["spec", "clusterIP"];
        let (after, before) = (text(new, &path), text(old, &path));
        if before.is_empty() || after == before {
            return Vec::new();
        }
        let why = if after.is_empty() { "primary clusterIP can not be unset" } else { "field is immutable" };
        vec![FieldError::invalid("spec.clusterIPs[0]", json!([after]), why)]
    }

    fn prepare_create(&self, service: &mut Object) {
        service["status"] = json!({"loadBalancer": {}});
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        let kind = |service: &Object| text(service, &["spec", "type"]).to_owned();
        if kind(new) == "ExternalName" || kind(old) == "ExternalName" || !new["spec"].is_object() {
            return;
        }
        // What was allocated stays when a writer does not mention it.
        for key in ["clusterIP", "clusterIPs"] {
            if let Some(value) = old["spec"].get(key) {
                set_default(&mut new["spec"], key, value.clone());
            }
        }
        if kind(new) == "ClusterIP" {
            return;
        }
        for port in list_mut(new, &["spec", "ports"]) {
            let before = list(old, &["spec", "ports"])
                .iter()
                .find(|before| before["port"] == port["port"] && before["protocol"] == port["protocol"]);
            if let Some(number) = before.and_then(|before| before.get("nodePort")) {
                set_default(port, "nodePort", number.clone());
            }
        }
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn name_is_label(&self) -> bool {
        true
    }
}

fn validate(service: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let Some(spec) = service.get("spec") else {
        return vec![FieldError::required("spec.ports", "")];
    };
    one_of(&mut errors, spec, "spec", "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    one_of(&mut errors, spec, "spec", "sessionAffinity", &["ClientIP", "None"]);
    let kind = text(spec, &["type"]);
    let cluster_ip = text(spec, &["clusterIP"]);
    if kind == "ExternalName" {
        let target = text(spec, &["externalName"]);
        if target.is_empty() {
            errors.push(FieldError::required("spec.externalName", ""));
        } else if let Some(why) = dns_subdomain(target.trim_end_matches('.')) {
            errors.push(FieldError::invalid("spec.externalName", target, why));
        }
        if !matches!(cluster_ip, "" | "None") {
            errors.push(FieldError::forbidden(
                "spec.clusterIPs",
                "may not be set when `type` is 'ExternalName'",
            ));
        }
    } else if !matches!(cluster_ip, "" | "None") && cluster_ip.parse::<IpAddr>().is_err() {
        let why = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        errors.push(FieldError::invalid("spec.clusterIPs[0]", cluster_ip, why));
    }
    if kind != "ExternalName" && cluster_ip != "None" && list(spec, &["ports"]).is_empty() {
        errors.push(FieldError::required("spec.ports", ""));
    }
    errors.extend(validate_labels(spec.get("selector"), "spec.selector"));
    validate_ports(spec, &mut errors);
    errors
}

fn validate_ports(spec: &Value, errors: &mut Vec<FieldError>) {
    let ports = list(spec, &["ports"]);
    let (mut names, mut numbers) = (HashSet::new(), HashSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = format!("spec.ports[{index}]");
        let port_id = text(port, &["name"]);
        if port_id.is_empty() {
            if ports.len() > 1 {
                errors.push(FieldError::required(format!("{path}.name"), ""));
            }
        } else if let Some(why) = dns_label(port_id) {
            errors.push(FieldError::invalid(format!("{path}.name"), port_id, why));
        } else if !names.insert(port_id) {
            errors.push(FieldError::duplicate(format!("{path}.name"), port_id));
        }
        let given = number(port, &["port"]).unwrap_or(0);
        port_number(errors, format!("{path}.port"), given);
        if !numbers.insert((given, text(port, &["protocol"]))) {
            let shown = json!({"protocol": port["protocol"], "port": given});
            errors.push(FieldError::duplicate(path.clone(), shown));
        }
        one_of(errors, port, &path, "protocol", &["SCTP", "TCP", "UDP"]);
        let field = format!("{path}.targetPort");
        match (port["targetPort"].as_i64(), port["targetPort"].as_str()) {
            (Some(target), _) => port_number(errors, field, target),
            (None, Some(target)) => {
                if let Some(why) = port_name(target) {
                    errors.push(FieldError::invalid(field, target, why));
                }
            }
            _ => {}
        }
    }
}
