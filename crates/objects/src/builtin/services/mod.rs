//! Service.

pub(in crate::builtin) mod addresses;
pub(in crate::builtin) mod changes;
pub(in crate::builtin) mod endpoints;
pub(in crate::builtin) mod rules;
pub(in crate::builtin) mod slices;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::rows::{name, or_none, since_creation};
use crate::builtin::{ColumnSpec, odd};
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{at, entries, list, list_mut, number, remove, set_default, text};

pub(in crate::builtin) const COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Type", "string", 0),
    ("Cluster-IP", "string", 0),
    ("External-IP", "string", 0),
    ("Port(s)", "string", 0),
    ("Age", "string", 0),
    ("Selector", "string", 1),
];

pub(in crate::builtin) fn cells(service: &Object, now: Timestamp) -> Vec<Value> {
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

pub(in crate::builtin) struct ServiceStrategy;

impl Strategy for ServiceStrategy {
    fn default(&self, service: &mut Object) {
        let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        set_default(spec, "type", "ClusterIP");
        set_default(spec, "sessionAffinity", "None");
        match text(spec, &["sessionAffinity"]) {
            "None" => drop(remove(spec, "sessionAffinityConfig")),
            "ClientIP" if at(spec, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"]).is_none() => {
                spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": 10800}});
            }
            _ => {}
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
        }
        let outside = matches!(kind.as_str(), "NodePort" | "LoadBalancer");
        if outside || (kind == "ClusterIP" && !list(spec, &["externalIPs"]).is_empty()) {
            set_default(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set_default(spec, "allocateLoadBalancerNodePorts", true);
        }
    }

    fn validate(&self, service: &Object) -> Vec<FieldError> {
        rules::validate(service)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        rules::validate_update(new, old)
    }

    fn tells_changes_first(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        rules::warnings(new)
    }

    fn status_warnings(&self, new: &Object) -> Vec<String> {
        odd::balancers(new)
    }

    fn validate_status(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        rules::validate_status(new)
    }

    fn prepare_create(&self, service: &mut Object) {
        service["status"] = json!({"loadBalancer": {}});
    }

    fn prepare_status_update(&self, new: &mut Object, _old: &Object) {
        if text(new, &["spec", "type"]) != "LoadBalancer" {
            return;
        }
        for point in list_mut(new, &["status", "loadBalancer", "ingress"]) {
            if !text(point, &["ip"]).is_empty() {
                set_default(point, "ipMode", "VIP");
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
