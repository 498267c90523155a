//! Scopes: which Pods and claims a quota is for. A quota without any is for all objects, one with scopes for those that fit
//! all of them.

use std::collections::BTreeSet;

use serde_json::Value;
use yunfan_objects::builtin::qos_class;

/// Whether the quota is for this object.
pub(super) fn matches(quota: &Value, group: &str, plural: &str, object: &Value) -> bool {
    let spec = &quota["spec"];
    let plain = each(&spec["scopes"]).iter().all(|scope| {
        let name = scope.as_str().unwrap_or_default();
        fits(group, plural, object, name, "Exists", &Value::Null)
    });
    plain
        && each(&spec["scopeSelector"]["matchExpressions"]).iter().all(|expression| {
            let text = |key: &str| expression[key].as_str().unwrap_or_default();
            fits(group, plural, object, text("scopeName"), text("operator"), &expression["values"])
        })
}

fn each(list: &Value) -> &[Value] {
    list.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Whether a change could bring an object into a scope, or out of one.
pub(super) fn may_differ(old: &Value, new: &Value) -> bool {
    has_deadline(old) != has_deadline(new) || attributes_classes(old) != attributes_classes(new)
}

fn fits(group: &str, plural: &str, object: &Value, scope: &str, operator: &str, values: &Value) -> bool {
    match (group, plural, scope) {
        ("", "pods", "Terminating") => has_deadline(object),
        ("", "pods", "NotTerminating") => !has_deadline(object),
        ("", "pods", "BestEffort") => qos_class(object) == "BestEffort",
        ("", "pods", "NotBestEffort") => qos_class(object) != "BestEffort",
        ("", "pods", "CrossNamespacePodAffinity") => looks_across_namespaces(object),
        ("", "pods", "PriorityClass") => {
            let class = object["spec"]["priorityClassName"].as_str().filter(|class| !class.is_empty());
            has_one(&class.into_iter().collect(), operator, values)
        }
        ("", "persistentvolumeclaims", "VolumeAttributesClass") => {
            has_one(&attributes_classes(object), operator, values)
        }
        _ => false,
    }
}

fn has_one(names: &BTreeSet<&str>, operator: &str, values: &Value) -> bool {
    let listed = || values.as_array().into_iter().flatten().filter_map(Value::as_str);
    match operator {
        "Exists" => !names.is_empty(),
        "DoesNotExist" => names.is_empty(),
        "In" => listed().any(|value| names.contains(value)),
        // Of several names one that is not listed is enough.
        "NotIn" => names.is_empty() || names.iter().any(|name| listed().all(|value| value != *name)),
        _ => false,
    }
}

fn has_deadline(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

/// The class that a claim asks for, the one that it has, and the one that it is on the way to.
fn attributes_classes(claim: &Value) -> BTreeSet<&str> {
    let status = &claim["status"];
    let named = [
        &claim["spec"]["volumeAttributesClassName"],
        &status["currentVolumeAttributesClassName"],
        &status["modifyVolumeStatus"]["targetVolumeAttributesClassName"],
    ];
    named.into_iter().filter_map(Value::as_str).filter(|name| !name.is_empty()).collect()
}

/// Whether the Pod's place depends on Pods of other namespaces.
fn looks_across_namespaces(pod: &Value) -> bool {
    let affinity = &pod["spec"]["affinity"];
    ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
        let terms = |key: &str| affinity[kind][key].as_array().into_iter().flatten();
        let required = terms("requiredDuringSchedulingIgnoredDuringExecution");
        let preferred = terms("preferredDuringSchedulingIgnoredDuringExecution");
        required.chain(preferred.map(|weighted| &weighted["podAffinityTerm"])).any(|term| {
            let named = term["namespaces"].as_array().is_some_and(|names| !names.is_empty());
            named || !term["namespaceSelector"].is_null()
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn is_for(spec: Value, pod: Value) -> bool {
        matches(&json!({"spec": spec}), "", "pods", &json!({"spec": pod}))
    }

    #[test]
    fn pods_are_chosen_by_what_they_are() {
        let small = json!({"containers": [{"resources": {"requests": {"cpu": "1m"}}}]});
        let abroad = json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            [{"namespaceSelector": {}}]}}});
        for (scope, inside, outside) in [
            ("Terminating", json!({"activeDeadlineSeconds": 5}), json!({})),
            ("NotTerminating", json!({}), json!({"activeDeadlineSeconds": 5})),
            ("BestEffort", json!({}), small.clone()),
            ("NotBestEffort", small, json!({})),
            ("PriorityClass", json!({"priorityClassName": "high"}), json!({})),
            ("CrossNamespacePodAffinity", abroad, json!({})),
        ] {
            assert!(is_for(json!({"scopes": [scope]}), inside.clone()), "{scope}");
            assert!(!is_for(json!({"scopes": [scope]}), outside), "{scope}");
            assert!(!matches(
                &json!({"spec": {"scopes": [scope]}}),
                "",
                "services",
                &json!({"spec": inside})
            ));
        }
        assert!(!is_for(json!({"scopes": ["NotTerminating", "PriorityClass"]}), json!({})));
    }

    #[test]
    fn expressions_choose_by_class() {
        let of = |operator: &str, values: Value, class: Value| {
            let expression = json!({"scopeName": "PriorityClass", "operator": operator, "values": values});
            is_for(
                json!({"scopeSelector": {"matchExpressions": [expression]}}),
                json!({"priorityClassName": class}),
            )
        };
        assert!(of("In", json!(["a", "b"]), json!("b")) && !of("In", json!(["a"]), json!("b")));
        assert!(of("NotIn", json!(["a"]), json!("b")) && of("NotIn", json!(["a"]), json!(null)));
        assert!(of("Exists", json!(null), json!("b")) && of("DoesNotExist", json!(null), json!(null)));
        let quota = json!({"spec": {"scopes": ["VolumeAttributesClass"]}});
        let claim = json!({"spec": {}, "status": {"currentVolumeAttributesClassName": "gold"}});
        assert!(matches(&quota, "", "persistentvolumeclaims", &claim));
        let other = |operator: &str, class: &str| {
            let expression =
                json!({"scopeName": "VolumeAttributesClass", "operator": operator, "values": [class]});
            let quota = json!({"spec": {"scopeSelector": {"matchExpressions": [expression]}}});
            let claim = json!({"spec": {"volumeAttributesClassName": "silver"}, "status": claim["status"]});
            matches(&quota, "", "persistentvolumeclaims", &claim)
        };
        // A claim on its way from one class to another counts for both.
        assert!(other("In", "gold") && other("In", "silver") && !other("In", "bronze"));
        assert!(other("NotIn", "gold") && other("NotIn", "silver"));
        assert!(!matches(&quota, "", "persistentvolumeclaims", &json!({})));
    }
}
