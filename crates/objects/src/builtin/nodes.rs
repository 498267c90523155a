//! Node.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::ColumnSpec;
use super::field::Field;
use super::pod_placement;
use super::rows::{name, since_creation};
use crate::Object;
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{entries, list, set_default, text};
use crate::meta::{all_wrong, label_value, qualified_name};

pub(super) const COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Status", "string", 0),
    ("Roles", "string", 0),
    ("Age", "string", 0),
    ("Version", "string", 0),
    ("Internal-IP", "string", 1),
    ("External-IP", "string", 1),
    ("OS-Image", "string", 1),
    ("Kernel-Version", "string", 1),
    ("Container-Runtime", "string", 1),
];

pub(super) fn cells(node: &Object, now: Timestamp) -> Vec<Value> {
    let info = |key: &str| match text(node, &["status", "nodeInfo", key]) {
        "" => json!("<unknown>"),
        known => json!(known),
    };
    let address = |kind: &str| {
        let found = list(node, &["status", "addresses"]).iter().find(|each| text(each, &["type"]) == kind);
        found.map_or_else(|| json!("<none>"), |each| each["address"].clone())
    };
    vec![
        name(node),
        json!(status(node)),
        json!(roles(node)),
        since_creation(node, now),
        json!(text(node, &["status", "nodeInfo", "kubeletVersion"])),
        address("InternalIP"),
        address("ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn status(node: &Object) -> String {
    let ready = list(node, &["status", "conditions"]).iter().find(|each| text(each, &["type"]) == "Ready");
    let mut words = match ready.map(|each| text(each, &["status"])) {
        None => "Unknown".to_owned(),
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        words.push_str(",SchedulingDisabled");
    }
    words
}

fn roles(node: &Object) -> String {
    let mut roles: Vec<&str> = entries(node, &["metadata", "labels"])
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) if !role.is_empty() => Some(role),
            None if key == "kubernetes.io/role" => value.as_str(),
            _ => None,
        })
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

pub(super) struct NodeStrategy;

impl Strategy for NodeStrategy {
    fn default(&self, node: &mut Object) {
        const INFO: [&str; 10] = [
            "architecture",
            "bootID",
            "containerRuntimeVersion",
            "kernelVersion",
            "kubeProxyVersion",
            "kubeletVersion",
            "machineID",
            "operatingSystem",
            "osImage",
            "systemUUID",
        ];
        set_default(node, "status", json!({}));
        let status = &mut node["status"];
        set_default(status, "daemonEndpoints", json!({}));
        set_default(&mut status["daemonEndpoints"], "kubeletEndpoint", json!({}));
        set_default(&mut status["daemonEndpoints"]["kubeletEndpoint"], "Port", 0);
        set_default(status, "nodeInfo", json!({}));
        INFO.iter().for_each(|key| set_default(&mut status["nodeInfo"], key, ""));
    }

    fn validate(&self, node: &Object) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (index, taint) in list(node, &["spec", "taints"]).iter().enumerate() {
            let path = format!("spec.taints[{index}]");
            let key = text(taint, &["key"]);
            errors.extend(all_wrong(&format!("{path}.key"), key, qualified_name(key)));
            let value = text(taint, &["value"]);
            errors.extend(all_wrong(&format!("{path}.value"), value, label_value(value)));
            errors.extend(pod_placement::effect(&Field { value: taint, path }.at("effect")));
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for key in ["podCIDR", "providerID"] {
            let (after, before) = (&new["spec"][key], &old["spec"][key]);
            if !before.is_null() && after != before {
                let why = "node updates may not change it once it is set";
                errors.push(FieldError::forbidden(format!("spec.{key}"), why));
            }
        }
        errors
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn keeps_status_on_create(&self) -> bool {
        true
    }
}
