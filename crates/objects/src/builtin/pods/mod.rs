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
pub(in crate::builtin) mod references;
pub(in crate::builtin) mod rows;
pub(in crate::builtin) mod security;
pub(in crate::builtin) mod status;
pub(in crate::builtin) mod template;
pub(in crate::builtin) mod validate;
pub(in crate::builtin) mod warnings;
pub(in crate::builtin) mod whole;
pub(in crate::builtin) mod windows;

use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{list, list_mut, set_default};

pub use whole::qos_class;

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

    fn warnings_of_given(&self, pod: &Object) -> Vec<String> {
        annotations::old_profiles(pod)
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

    fn validate_status(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        status::validate(new, old)
    }

    fn kept_by_status(&self) -> &[&str] {
        // Old nodes spoil it, and with it what is cleaned up.
        &["ownerReferences"]
    }

    fn prepare_status_update(&self, new: &mut Object, _old: &Object) {
        status::settle(new);
    }

    fn keep_of_status(&self, new: &mut Object, old: &Object) {
        status::keep(new, old);
    }

    fn validate_part(&self, subresource: &str, new: &Object, old: &Object) -> Vec<FieldError> {
        match subresource {
            "ephemeralcontainers" => parts::ephemeral_change(new, old),
            "resize" => parts::resize(new, old),
            _ => self.validate_update(new, old),
        }
    }

    fn row_conditions(&self, pod: &Object) -> Vec<Value> {
        rows::conditions(pod)
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
            defaults::drop_unswitched(spec);
        }
        merge_label_keys(pod);
        annotations::profiles_to_fields(pod);
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        let Some(spec) = new.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        // A writer need not know what the server gave.
        for key in ["priority", "preemptionPolicy"] {
            if let Some(value) = old["spec"].get(key) {
                set_default(spec, key, value.clone());
            }
        }
        defaults::tolerate_lost_nodes(spec);
        defaults::drop_unswitched(spec);
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
