//! Node.

use std::cmp::Ordering;
use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::rows::{name, since_creation};
use crate::builtin::{ColumnSpec, formats, inner, odd, pods, resources};
use crate::descriptor::Strategy;
use crate::error::{FieldError, FieldErrorKind};
use crate::lookup::{entries, list, set_default, text};
use crate::meta::{SUBDOMAIN_LIMIT, label_value, qualified_name};

pub(in crate::builtin) const COLUMNS: &[ColumnSpec] = &[
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

pub(in crate::builtin) fn cells(node: &Object, now: Timestamp) -> Vec<Value> {
    let info = |key: &str| match text(node, &["status", "nodeInfo", key]) {
        "" => json!("<unknown>"),
        known => json!(known),
    };
    let address = |kind: &str| {
        let found = list(node, &["status", "addresses"]).iter().find(|each| text(each, &["type"]) == kind);
        found.map_or_else(|| json!("<none>"), |each| each["address"].clone())
    };
    let kernel = match text(node, &["status", "nodeInfo", "kernelVersion"]) {
        "" => "<unknown>",
        known => known,
    };
    let kernel = match text(node, &["status", "nodeInfo", "architecture"]) {
        "" => kernel.to_owned(),
        architecture => format!("{kernel} ({architecture})"),
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
        json!(kernel),
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

fn taints(list: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    for taint in list.items() {
        let (key, value, effect) = (taint.at("key"), taint.at("value"), taint.at("effect"));
        errors.extend(key.obeys(qualified_name));
        errors.extend(value.may_follow(label_value));
        match effect.text() {
            "" => errors.push(effect.required("")),
            _ => errors.extend(pods::placement::effect(&effect)),
        }
        if !seen.insert((key.text(), effect.text())) {
            let kind = FieldErrorKind::DuplicateAs(inner::shown(taint.value, inner::TAINT));
            let detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(FieldError { field: taint.path.clone(), kind, detail });
        }
    }
    errors
}

/// Refuses amounts in a node's status that cannot be.
fn amounts(status: &Field<'_>) -> Vec<FieldError> {
    let lists = ["capacity", "allocatable"].map(|key| status.at(key));
    let mut errors = Vec::new();
    for amounts in &lists {
        for (name, _) in entries(amounts.value, &[]) {
            errors.extend(resources::amount(&amounts.at(name), name));
        }
    }
    errors
}

/// Refuses address ranges that are none, or more than one of a family.
fn ranges(list: &Field<'_>) -> Vec<FieldError> {
    let mut errors: Vec<FieldError> = list.items().flat_map(|range| range.obeys(formats::cidr)).collect();
    let families: Vec<Option<bool>> = list
        .items()
        .map(|range| range.text().parse::<ipnet::IpNet>().ok().map(|net| net.addr().is_ipv4()))
        .collect();
    if families.len() < 2 {
        return errors;
    }
    if let Some(wrong) = families.iter().position(Option::is_none) {
        let why = format!(
            "invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR[{wrong}]: <nil> (invalid CIDR address: {})",
            list.list()[wrong].as_str().unwrap_or_default()
        );
        errors.push(FieldError::internal(list.path.as_str(), why));
    }
    if families.len() > 2 || families[0] == families[1] || families.contains(&None) {
        errors.push(list.invalid("may specify no more than one CIDR for each IP family"));
    }
    errors
}

pub(in crate::builtin) struct NodeStrategy;

impl Strategy for NodeStrategy {
    fn default(&self, node: &mut Object) {
        let spec = &mut node["spec"];
        // The older name of the first of them is kept in step with it.
        let first = list(spec, &["podCIDRs"]).first().cloned();
        match (spec.get("podCIDR").filter(|one| !one.is_null() && **one != "").cloned(), first) {
            // Where both are given, clients that know the older one alone are the ones that changed it.
            (Some(one), first) if first.as_ref() != Some(&one) => spec["podCIDRs"] = json!([one]),
            (None, Some(first)) => spec["podCIDR"] = first,
            _ => {}
        }
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
        let root = Field::root(node);
        // Upstream looks for them in the metadata.
        let mut errors =
            taints(&Field { path: "metadata.taints".to_owned(), ..root.under(&["spec", "taints"]) });
        errors.extend(amounts(&root.at("status")));
        errors.extend(ranges(&root.under(&["spec", "podCIDRs"])));
        errors
    }

    fn tells_of_missing(&self) -> bool {
        true
    }

    fn validate_status(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let status = Field::root(new).at("status");
        let mut errors = amounts(&status);
        errors.extend(status.at("addresses").distinct());
        errors.extend(features(&status.at("declaredFeatures")));
        errors
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let spec = Field::root(new).at("spec");
        let mut out = Vec::new();
        if spec.at("configSource").is_given() {
            out.push("spec.configSource: the feature is removed".to_owned());
        }
        if !spec.at("externalID").text().is_empty() {
            out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
        }
        out.extend(spec.at("podCIDRs").items().filter_map(|range| odd::cidr(&range)));
        out
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let (after, before) = (list(new, &["spec", "podCIDRs"]), list(old, &["spec", "podCIDRs"]));
        let moved = match before.len() {
            0 => 0,
            count if count != after.len() => 1,
            _ => before.iter().zip(after).filter(|(before, after)| before != after).count(),
        };
        let why = "node updates may not change podCIDR except from \"\" to valid";
        errors.extend((0..moved).map(|_| FieldError::forbidden("spec.podCIDRs", why)));
        let changed = |key: &str| text(new, &["spec", key]) != text(old, &["spec", key]);
        if !text(old, &["spec", "providerID"]).is_empty() && changed("providerID") {
            let why = "node updates may not change providerID except from \"\" to valid";
            errors.push(FieldError::forbidden("spec.providerID", why));
        }
        if changed("externalID") {
            errors.push(FieldError::forbidden("spec.externalID", "may not be updated"));
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

/// What is wrong with the names of what a node can do: they are words with capitals, in their order.
fn features(all: &Field<'_>) -> Vec<FieldError> {
    const FORM: &str = "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes";
    let word = |(at, word): (usize, &str)| {
        let first = |c: char| if at == 0 { c.is_ascii_uppercase() } else { c.is_ascii_alphabetic() };
        word.starts_with(first) && word.chars().all(|c| c.is_ascii_alphanumeric())
    };
    let mut errors = Vec::new();
    let mut before: Option<&str> = None;
    for feature in all.items() {
        let name = feature.text();
        match before.map(|before| before.cmp(name)) {
            Some(Ordering::Equal) => errors.push(feature.duplicate()),
            Some(Ordering::Greater) => errors.push(feature.invalid("list must be sorted alphabetically")),
            _ => {}
        }
        before = Some(name);
        let why = match name {
            long if long.len() > SUBDOMAIN_LIMIT => "must be no more than 253 characters",
            name if !name.split('/').enumerate().all(word) => FORM,
            _ => continue,
        };
        errors.push(feature.invalid(format!("invalid feature name {name:?}: {why}")));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind};

    #[test]
    fn what_a_node_can_do_has_names_in_their_order() {
        let told = json!(["Good", "Good", "A/b1", "a", "Z/"]);
        let found = features(&Field { value: &told, path: "f".to_owned() });
        let found: Vec<String> = found.iter().map(ToString::to_string).collect();
        let beginnings = [
            "f[1]: Duplicate value: \"Good\"",
            "f[2]: Invalid value: \"A/b1\": list must be sorted alphabetically",
            "f[3]: Invalid value: \"a\": invalid feature name \"a\": must start with",
            "f[4]: Invalid value: \"Z/\": list must be sorted alphabetically",
            "f[4]: Invalid value: \"Z/\": invalid feature name \"Z/\": must start with",
        ];
        assert_eq!(found.len(), beginnings.len(), "{found:#?}");
        for (found, beginning) in found.iter().zip(beginnings) {
            assert!(found.starts_with(beginning), "{found}");
        }
    }

    #[test]
    fn the_older_name_of_the_range_wins() {
        let node = |spec: Value| {
            let node = json!({"metadata": {"name": "n"}, "spec": spec});
            created(&kind("Node"), node).unwrap()
        };
        for (given, range) in [
            (json!({"podCIDR": "10.1.0.0/24"}), "10.1.0.0/24"),
            (json!({"podCIDRs": ["10.2.0.0/24"]}), "10.2.0.0/24"),
            (json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.2.0.0/24", "fd00::/64"]}), "10.1.0.0/24"),
        ] {
            assert_eq!(node(given)["spec"], json!({"podCIDR": range, "podCIDRs": [range]}));
        }
        let both = json!({"podCIDR": "10.1.0.0/24", "podCIDRs": ["10.1.0.0/24", "fd00::/64"]});
        let old = node(both.clone());
        assert_eq!(old["spec"], both);
        let (_, refused) = changed("Node", &old, json!({"spec": {"podCIDR": "10.3.0.0/24"}}));
        assert!(refused.contains("node updates may not change podCIDR"), "{refused}");
    }
}
