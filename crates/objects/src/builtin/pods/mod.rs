//! Pod: its strategy.

pub(in crate::builtin) mod affinity;
pub(in crate::builtin) mod annotations;
pub(in crate::builtin) mod changes;
pub(in crate::builtin) mod containers;
pub(in crate::builtin) mod defaults;
pub(in crate::builtin) mod env;
pub(in crate::builtin) mod handlers;
mod looks;
pub(in crate::builtin) mod mounts;
pub(in crate::builtin) mod parts;
pub(in crate::builtin) mod paths;
pub(in crate::builtin) mod placement;
pub(in crate::builtin) mod rows;
pub(in crate::builtin) mod security;
pub(in crate::builtin) mod template;
pub(in crate::builtin) mod validate;
pub(in crate::builtin) mod warnings;
pub(in crate::builtin) mod windows;

use serde_json::{Value, json};

use crate::builtin::field::Field;
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{at, list, list_mut, set_default};
use crate::{Object, Quantity};

pub(in crate::builtin) struct PodStrategy;

impl Strategy for PodStrategy {
    fn default(&self, pod: &mut Object) {
        if let Some(spec) = pod.get_mut("spec") {
            defaults::pod_only(spec);
            defaults::pod_spec(spec);
        }
    }

    fn tells_of_missing(&self) -> bool {
        true
    }

    fn validate(&self, pod: &Object) -> Vec<FieldError> {
        let spec = Field::root(pod).at("spec");
        let mut errors = annotations::validate(&pod["metadata"], &spec, "metadata.annotations");
        errors.extend(validate::pod_spec(&spec, Some(&pod["metadata"])));
        errors.extend(validate::only_of_pods(&spec));
        errors
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        // Pods are changed by programs, often.
        if old.is_none() { warnings::of_pod(new) } else { Vec::new() }
    }

    fn status_warnings(&self, new: &Object) -> Vec<String> {
        warnings::of_status(new)
    }

    fn validate_create(&self, pod: &Object) -> Vec<FieldError> {
        let spec = Field::root(pod).at("spec");
        let mut errors = Vec::new();
        let (later, node) = (spec.at("ephemeralContainers"), spec.at("nodeName"));
        if !later.list().is_empty() {
            errors.push(later.forbidden("cannot be set on create"));
        }
        if !node.text().is_empty() && !spec.at("schedulingGates").list().is_empty() {
            errors.push(node.forbidden("cannot be set until all schedulingGates have been cleared"));
        }
        errors.extend(annotations::match_fields(&pod["metadata"], &spec));
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        changes::validate(&Field::root(new).at("spec"), &Field::root(old).at("spec"))
    }

    fn validate_part(&self, subresource: &str, new: &Object, old: &Object) -> Vec<FieldError> {
        match subresource {
            "ephemeralcontainers" => parts::ephemeral_change(new, old),
            "resize" => parts::resize(new, old),
            _ => self.validate_update(new, old),
        }
    }

    fn prepare_create(&self, pod: &mut Object) {
        let class = qos_class(pod);
        pod["status"] = json!({"phase": "Pending", "qosClass": class});
        if !list(pod, &["spec", "schedulingGates"]).is_empty() {
            pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False",
                "reason": "SchedulingGated", "message": "Scheduling is blocked due to non-empty scheduling gates",
                "lastProbeTime": null, "lastTransitionTime": pod["metadata"]["creationTimestamp"]}]);
        }
        if let Some(spec) = pod.get_mut("spec") {
            defaults::tolerate_lost_nodes(spec);
        }
        merge_label_keys(pod);
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        let Some(spec) = new.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        // A writer need not know what the server gave.
        for key in ["serviceAccountName", "serviceAccount", "priority", "preemptionPolicy"] {
            if let Some(value) = old["spec"].get(key) {
                set_default(spec, key, value.clone());
            }
        }
        defaults::tolerate_lost_nodes(spec);
    }
}

/// Adds the Pod's own labels to the selectors that ask for them.
fn merge_label_keys(pod: &mut Object) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
    let labels = pod["metadata"]["labels"].clone();
    let Some(spec) = pod.get_mut("spec") else { return };
    for kind in ["podAffinity", "podAntiAffinity"] {
        for term in list_mut(spec, &["affinity", kind, REQUIRED]) {
            merge_into(term, &labels);
        }
        for weighted in list_mut(spec, &["affinity", kind, PREFERRED]) {
            if let Some(term) = weighted.get_mut("podAffinityTerm") {
                merge_into(term, &labels);
            }
        }
    }
    list_mut(spec, &["topologySpreadConstraints"]).iter_mut().for_each(|each| merge_into(each, &labels));
}

fn merge_into(term: &mut Value, labels: &Value) {
    let mut added = Vec::new();
    for (keys, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in list(term, &[keys]).iter().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                added.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    let Some(selector) = term.get_mut("labelSelector").filter(|_| !added.is_empty()) else { return };
    set_default(selector, "matchExpressions", json!([]));
    if let Some(expressions) = selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        expressions.extend(added);
    }
}

/// Whether a Pod's own resources count, and those of its containers do not.
fn asks_as_a_whole(spec: &Value) -> bool {
    let known = |name: &String| matches!(name.as_str(), "cpu" | "memory") || name.starts_with("hugepages-");
    let lists =
        ["requests", "limits"].into_iter().filter_map(|kind| at(spec, &["resources", kind])?.as_object());
    lists.flat_map(serde_json::Map::keys).any(known)
}

/// How a Pod is treated when its node runs short: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(pod: &Object) -> &'static str {
    // What the Pod asks for as a whole stands in its specification as that of a container does in its own.
    let whole = at(pod, &["spec"]).filter(|spec| asks_as_a_whole(spec));
    let containers = ["containers", "initContainers"].into_iter().flat_map(|kind| list(pod, &["spec", kind]));
    let containers = containers.filter(|_| whole.is_none()).chain(whole);
    let amount = |container: &Value, kind: &str, name: &str| {
        let value = at(container, &["resources", kind, name])?;
        Quantity::from_json(value).ok().filter(|amount| *amount > Quantity::ZERO)
    };
    let (mut any, mut all) = (false, true);
    for container in containers {
        for name in ["cpu", "memory"] {
            let limit = amount(container, "limits", name);
            let request = amount(container, "requests", name);
            any |= limit.is_some() || request.is_some();
            all &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, all) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_class_follows_what_it_asks_for_as_a_whole() {
        let class = |whole: Value| {
            let container = json!({"name": "c", "resources": {"requests": {"cpu": "1"}}});
            let pod = json!({"spec": {"containers": [container], "resources": whole}});
            qos_class(&pod)
        };
        let all = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(class(json!({"limits": all, "requests": all})), "Guaranteed");
        assert_eq!(class(json!({"limits": {"memory": "1Gi"}})), "Burstable");
        assert_eq!(class(json!({"requests": {"hugepages-2Mi": "2Mi"}})), "BestEffort");
        assert_eq!(class(json!({})), "Burstable", "its containers count");
    }
}
