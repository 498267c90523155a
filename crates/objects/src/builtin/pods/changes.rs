//! What may change in a Pod.

use std::collections::HashSet;

use serde_json::Value;

use crate::builtin::field::Field;
use crate::builtin::{diff, inner};
use crate::error::FieldError;
use crate::lookup::{copy_key, list, list_mut, remove, text};

const WHY: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// All that is wrong with the change of a Pod's spec.
pub(in crate::builtin) fn validate(new: &Field<'_>, old: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for kind in ["containers", "initContainers"] {
        let (after, before) = (new.at(kind), old.at(kind));
        if after.list().len() != before.list().len() {
            errors.push(after.forbidden("pod updates may not add or remove containers"));
            return errors;
        }
        // Upstream says so here once more.
        errors.extend(after.items().filter_map(|container| container.at("image").must_be_given("")));
    }
    let (deadline, before) = (new.at("activeDeadlineSeconds"), old.at("activeDeadlineSeconds").number());
    match (deadline.number(), before) {
        (Some(after), _) if !(0..=i64::from(i32::MAX)).contains(&after) => {
            errors.push(deadline.invalid(format!("must be between 0 and {}, inclusive", i32::MAX)));
            return errors;
        }
        (Some(after), Some(before)) if after > before => {
            errors.push(deadline.invalid("must be less than or equal to previous value"));
            return errors;
        }
        (None, Some(_)) => {
            errors.push(deadline.invalid("must not update from a positive integer to nil value"));
        }
        _ => {}
    }
    errors.extend(tolerations(&new.at("tolerations"), &old.at("tolerations")));
    errors.extend(gates(&new.at("schedulingGates"), &old.at("schedulingGates")));
    let mut kept = changeable_as_before(new.value, old.value);
    if !list(old.value, &["schedulingGates"]).is_empty() {
        errors.extend(gated(new, old));
        copy_key(&mut kept, old.value, "nodeSelector");
        keep_node_affinity(&mut kept, old.value);
    }
    if kept != *old.value {
        let changed = diff::of_json(&shown(old.value), &shown(&kept));
        errors.push(new.forbidden(if changed.is_empty() {
            WHY.to_owned()
        } else {
            format!("{WHY}\n{changed}")
        }));
    }
    errors
}

/// A spec as upstream shows it. Ephemeral containers always say at which other one they look.
fn shown(spec: &Value) -> String {
    let mut spec = spec.clone();
    for container in list_mut(&mut spec, &["ephemeralContainers"]) {
        if container.get("targetContainerName").is_none() {
            container["targetContainerName"] = Value::from("");
        }
    }
    inner::shown(&spec, inner::pods::POD_SPEC)
}

/// Tolerations may be added, and last another time.
fn tolerations(new: &Field<'_>, old: &Field<'_>) -> Option<FieldError> {
    let without_time = |toleration: &Value| {
        let mut toleration = toleration.clone();
        remove(&mut toleration, "tolerationSeconds");
        toleration.to_string()
    };
    let kept: HashSet<String> = new.list().iter().map(without_time).collect();
    let lost = old.list().iter().any(|before| !kept.contains(&without_time(before)));
    lost.then(|| new.forbidden("existing toleration can not be modified except its tolerationSeconds"))
}

fn gates(new: &Field<'_>, old: &Field<'_>) -> Vec<FieldError> {
    let before: HashSet<&str> = old.list().iter().map(|gate| text(gate, &["name"])).collect();
    let names = new.items().map(|gate| gate.at("name"));
    let added = names.filter(|name| !before.contains(name.text()));
    let why = "only deletion is allowed, but found new scheduling gate";
    added.map(|name| name.forbidden(format!("{why} '{}'", name.text()))).collect()
}

/// The new spec with all that may change as it was.
fn changeable_as_before(new: &Value, old: &Value) -> Value {
    let mut spec = new.clone();
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        copy_key(&mut spec, old, key);
    }
    let grace = |spec: &Value| spec["terminationGracePeriodSeconds"].as_i64();
    if grace(old).is_some_and(|before| before < 0) && grace(&spec) == Some(1) {
        copy_key(&mut spec, old, "terminationGracePeriodSeconds");
    }
    for kind in ["containers", "initContainers"] {
        for (container, before) in list_mut(&mut spec, &[kind]).iter_mut().zip(list(old, &[kind])) {
            copy_key(container, before, "image");
        }
    }
    spec
}

/// A Pod that is held back may still be told more closely where to run.
fn gated(new: &Field<'_>, old: &Field<'_>) -> Vec<FieldError> {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let mut errors = Vec::new();
    let selector = new.at("nodeSelector");
    let mut before = crate::lookup::entries(old.value, &["nodeSelector"]);
    if before.any(|(key, value)| selector.value.get(key) != Some(value)) {
        errors.push(
            selector.invalid("only additions to spec.nodeSelector are allowed (no mutations or deletions)"),
        );
    }
    let terms = |spec: &Field<'_>| {
        let path = ["affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms"];
        spec.under(&path).list().to_vec()
    };
    let (before, after) = (terms(old), terms(new));
    let field = new.under(&["affinity", "nodeAffinity", REQUIRED, "nodeSelectorTerms"]);
    if before.is_empty() {
        return errors;
    }
    if before.len() != after.len() {
        errors.push(field.invalid("no additions/deletions to non-empty NodeSelectorTerms list are allowed"));
        return errors;
    }
    for (term, (after, before)) in field.items().zip(after.iter().zip(&before)) {
        let grows = |key: &str| {
            let (new, old) = (list(after, &[key]), list(before, &[key]));
            new.len() >= old.len() && new.iter().zip(old).all(|(new, old)| new == old)
        };
        let empty = |term: &Value| {
            ["matchExpressions", "matchFields"].iter().all(|key| list(term, &[key]).is_empty())
        };
        if (empty(before) && !empty(after))
            || !["matchExpressions", "matchFields"].iter().all(|key| grows(key))
        {
            let why = "only additions are allowed (no mutations or deletions)";
            errors.push(term.invalid_object(inner::NODE_SELECTOR_TERM, why));
        }
    }
    errors
}

fn keep_node_affinity(spec: &mut Value, old: &Value) {
    let before = old["affinity"].get("nodeAffinity");
    if before.is_some() && !spec["affinity"].is_object() {
        spec["affinity"] = serde_json::json!({});
    }
    if let Some(affinity) = spec.get_mut("affinity").filter(|affinity| affinity.is_object()) {
        copy_key(affinity, &old["affinity"], "nodeAffinity");
    }
    if old.get("affinity").is_none() && spec["affinity"] == serde_json::json!({}) {
        remove(spec, "affinity");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(new: &Value, old: &Value) -> Vec<String> {
        let field = |value| Field { value, path: "spec".to_owned() };
        validate(&field(new), &field(old)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn little_of_a_pod_may_change() {
        let old = json!({"containers": [{"name": "a", "image": "1"}], "activeDeadlineSeconds": 5,
            "terminationGracePeriodSeconds": -1, "tolerations": [{"key": "k", "tolerationSeconds": 1}]});
        let new = json!({"containers": [{"name": "a", "image": "2"}], "activeDeadlineSeconds": 4,
            "terminationGracePeriodSeconds": 1,
            "tolerations": [{"key": "k", "tolerationSeconds": 2}, {"key": "l"}]});
        assert_eq!(texts(&new, &old), [""; 0]);
        let mut longer = old.clone();
        longer["activeDeadlineSeconds"] = json!(6);
        assert!(texts(&longer, &old)[0].ends_with("must be less than or equal to previous value"));
        let gone = json!({"containers": [{"name": "b", "image": "1"}], "terminationGracePeriodSeconds": -1});
        let found = texts(&gone, &old);
        assert!(found[0].ends_with("must not update from a positive integer to nil value"), "{found:?}");
        assert!(found[1].contains("existing toleration can not be modified"), "{found:?}");
        assert!(found[2].starts_with("spec: Forbidden: pod updates may not change fields"), "{found:?}");
        assert_eq!(texts(&json!({"containers": []}), &old).len(), 1);
    }

    #[test]
    fn what_may_not_change_is_shown() {
        let pod = |value: &str, network: bool| {
            json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "A", "value": value}]}],
                "hostNetwork": network, "securityContext": {"runAsUser": 1}})
        };
        let found = texts(&pod("2", false), &pod("1", false));
        let lines = "    \"Env\": [\n     {\n      \"Name\": \"A\",\n-     \"Value\": \"1\",\n+     \"Value\": \"2\",\n      \"ValueFrom\": null\n     }\n    ],\n";
        assert!(found[0].ends_with(lines), "{}", found[0]);
        let found = texts(&pod("1", true), &pod("1", false));
        // What the API has in the spec is inside of the security context there.
        let lines = "  \"SecurityContext\": {\n-  \"HostNetwork\": false,\n+  \"HostNetwork\": true,\n   \"HostPID\": false,\n";
        assert!(found[0].contains(lines), "{}", found[0]);
    }

    #[test]
    fn a_held_pod_may_be_told_where_to_run() {
        let old = json!({"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "1"}});
        let more = json!({"schedulingGates": [{"name": "g"}], "nodeSelector": {"a": "1", "b": "2"},
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [{"key": "k"}]}]}}}});
        assert_eq!(texts(&more, &old), [""; 0]);
        let other = json!({"schedulingGates": [{"name": "h"}], "nodeSelector": {"a": "2"}});
        let found = texts(&other, &old);
        assert!(found[0].ends_with("found new scheduling gate 'h'"), "{found:?}");
        assert!(found[1].contains("only additions to spec.nodeSelector"), "{found:?}");
        let free = json!({"nodeSelector": {"a": "1"}});
        assert_eq!(texts(&more, &free).len(), 2);
    }
}
