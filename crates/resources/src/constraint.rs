//! Which nodes a workload accepts by their labels and taints, and what a label selector selects, in Kubernetes' terms.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// A node's labels.
pub type Labels = BTreeMap<String, String>;

/// Whether a node has all labels of a selector, and one of the terms of a required node affinity holds for it, where there are such.
pub fn selects_node(
    selector: Option<&Labels>,
    required: Option<&[NodeSelectorTerm]>,
    name: &str,
    labels: &Labels,
) -> bool {
    selector.into_iter().flatten().all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|terms| terms.iter().any(|term| term_matches(term, name, labels)))
}

/// Whether a term of a node affinity holds for a node. A term without any requirement holds for none.
pub fn term_matches(term: &NodeSelectorTerm, name: &str, labels: &Labels) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    !(expressions.is_empty() && fields.is_empty())
        && expressions.iter().all(|requirement| {
            holds(requirement, labels.get(&requirement.key).map(String::as_str))
        })
        // `metadata.name` is the only field that Kubernetes knows here.
        && fields.iter().all(|requirement| requirement.key == "metadata.name" && holds(requirement, Some(name)))
}

fn holds(requirement: &NodeSelectorRequirement, own: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let among = || own.is_some_and(|own| values.iter().any(|value| value == own));
    let numbers = || {
        let own: i64 = own?.parse().ok()?;
        let bound: i64 = values.first()?.parse().ok()?;
        Some((own, bound))
    };
    match requirement.operator.as_str() {
        "In" => among(),
        "NotIn" => !among(),
        "Exists" => own.is_some(),
        "DoesNotExist" => own.is_none(),
        "Gt" => numbers().is_some_and(|(own, bound)| own > bound),
        "Lt" => numbers().is_some_and(|(own, bound)| own < bound),
        _ => false,
    }
}

/// Whether one of `tolerations` lets a workload onto a node with that taint.
pub fn tolerated(tolerations: &[Toleration], key: &str, value: &str, effect: &str) -> bool {
    tolerations.iter().any(|toleration| {
        let own_effect = toleration.effect.as_deref().unwrap_or_default();
        let own_key = toleration.key.as_deref().unwrap_or_default();
        (own_effect.is_empty() || own_effect == effect)
            && (own_key.is_empty() || own_key == key)
            && match toleration.operator.as_deref().unwrap_or_default() {
                "Exists" => true,
                "" | "Equal" => {
                    !own_key.is_empty() && toleration.value.as_deref().unwrap_or_default() == value
                }
                _ => false,
            }
    })
}

/// As [`tolerated`], for a [`Taint`].
pub fn taint_tolerated(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerated(tolerations, &taint.key, taint.value.as_deref().unwrap_or_default(), &taint.effect)
}

/// Whether a label selector (with expressions) matches; an empty one matches everything.
pub fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let label = |key: &str| labels.and_then(|labels| labels.get(key));
    let by_labels =
        selector.match_labels.iter().flatten().all(|(key, value)| label(key).is_some_and(|v| v == value));
    by_labels
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = label(&expression.key);
            let among = || value.is_some_and(|v| expression.values.iter().flatten().any(|x| x == v));
            match expression.operator.as_str() {
                "In" => among(),
                "NotIn" => !among(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                // Validation lets no other operator through; one that came anyway matches nothing.
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn affinity_terms() {
        let labels: Labels =
            [("zone", "a"), ("cpus", "8")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let matches = |term: Value| term_matches(&from_value(term).unwrap(), "n1", &labels);
        let expression = |key: &str, operator: &str, values: Value| {
            matches(json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}))
        };
        assert!(expression("zone", "In", json!(["a", "b"])));
        assert!(!expression("zone", "In", json!(["b"])));
        assert!(!expression("rack", "In", json!(["b"])));
        assert!(expression("rack", "NotIn", json!(["b"])));
        assert!(expression("zone", "Exists", json!([])) && expression("rack", "DoesNotExist", json!([])));
        assert!(expression("cpus", "Gt", json!(["7"])) && !expression("cpus", "Gt", json!(["8"])));
        assert!(expression("cpus", "Lt", json!(["9"])) && !expression("zone", "Lt", json!(["9"])));
        assert!(!expression("zone", "Near", json!(["a"])));
        assert!(!matches(json!({})), "an empty term is for no node");
        let field = |name: &str| {
            matches(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}))
        };
        assert!(field("n1") && !field("n2"));
    }

    #[test]
    fn tolerations() {
        let tolerates =
            |toleration: Value| tolerated(&[from_value(toleration).unwrap()], "key", "value", "NoSchedule");
        assert!(tolerates(json!({"operator": "Exists"})));
        assert!(tolerates(json!({"operator": "Exists", "key": "key"})));
        assert!(tolerates(json!({"key": "key", "value": "value", "effect": "NoSchedule"})));
        assert!(!tolerates(json!({"key": "key", "value": "other"})));
        assert!(!tolerates(json!({"key": "key", "value": "value", "effect": "NoExecute"})));
        assert!(!tolerates(json!({"operator": "Exists", "key": "other"})));
        assert!(!tolerates(json!({"value": "value"})), "without a key only Exists is meant");
        assert!(!tolerated(&[], "key", "value", "NoSchedule"));
    }
}
