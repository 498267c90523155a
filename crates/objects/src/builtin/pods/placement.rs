//! Where a Pod wants to run: tolerations, affinity, and how it spreads.

use std::collections::{HashMap, HashSet};

use crate::builtin::field::Field;
use crate::builtin::pods::affinity;
use crate::error::FieldError;
use crate::meta::{dns_label, label_value, qualified_name};

/// Refuses an effect of a taint that there is not.
pub(in crate::builtin) fn effect(field: &Field<'_>) -> Option<FieldError> {
    field.one_of(&["NoSchedule", "PreferNoSchedule", "NoExecute"])
}

/// Checks the tolerations of a Pod's spec, or of what lends Pods some.
pub(in crate::builtin) fn tolerations(list: &Field<'_>) -> Vec<FieldError> {
    list.items().flat_map(|toleration| one_toleration(&toleration)).collect()
}

fn one_toleration(toleration: &Field<'_>) -> Vec<FieldError> {
    let (key, operator, value) = (toleration.at("key"), toleration.at("operator"), toleration.at("value"));
    let effect_of = toleration.at("effect");
    let wrong = |field: &Field<'_>, why: String| FieldError::invalid(field.path.as_str(), field.text(), why);
    let mut errors = key.may_follow(qualified_name);
    if key.text().is_empty() && operator.text() != "Exists" {
        let why =
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(wrong(&operator, why.to_owned()));
    }
    if toleration.at("tolerationSeconds").is_given() && effect_of.text() != "NoExecute" {
        errors
            .push(wrong(&effect_of, "effect must be 'NoExecute' when `tolerationSeconds` is set".to_owned()));
    }
    // Upstream names the operator here, and not the value.
    let value = Field { path: operator.path.clone(), ..value };
    match operator.text() {
        "Equal" | "" => {
            let found = label_value(value.text());
            errors.extend((!found.is_empty()).then(|| wrong(&value, found.join(";"))));
        }
        "Exists" if !value.text().is_empty() => {
            errors.push(wrong(&value, "value must be empty when `operator` is 'Exists'".to_owned()));
        }
        "Exists" => {}
        // Upstream knows them, and refuses them as long as they are not switched on.
        "Lt" | "Gt" => {
            let known = ["Equal", "Exists", "Lt", "Gt"];
            errors.push(FieldError::not_supported(operator.path.as_str(), operator.text(), &known));
        }
        _ => errors.extend(operator.one_of(&["Equal", "Exists"])),
    }
    if !effect_of.text().is_empty() {
        errors.extend(effect(&effect_of));
    }
    errors
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Checks the affinity of a Pod.
pub(in crate::builtin) fn affinity(affinity: &Field<'_>) -> Vec<FieldError> {
    let nodes = affinity.at("nodeAffinity");
    let mut errors = Vec::new();
    if nodes.at(REQUIRED).is_given() {
        errors.extend(affinity::node_selector(&nodes.at(REQUIRED)));
    }
    for term in nodes.at(PREFERRED).items() {
        errors.extend(weight(&term));
        errors.extend(affinity::preferred_term(&term.at("preference")));
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let pods = affinity.at(kind);
        errors.extend(pods.at(REQUIRED).items().flat_map(|term| pod_term(&term)));
        for term in pods.at(PREFERRED).items() {
            errors.extend(weight(&term));
            errors.extend(pod_term(&term.at("podAffinityTerm")));
        }
    }
    errors
}

fn weight(term: &Field<'_>) -> Option<FieldError> {
    let weight = term.at("weight");
    let given = weight.number().unwrap_or(0);
    let why = "must be in the range 1-100";
    (!(1..=100).contains(&given)).then(|| FieldError::invalid(weight.path, given, why))
}

fn pod_term(term: &Field<'_>) -> Vec<FieldError> {
    let mut errors = term.at("labelSelector").label_selector();
    errors.extend(term.at("namespaceSelector").label_selector());
    let named = |name: Field<'_>| Field { path: format!("{}.namespace", term.path), ..name }.obeys(dns_label);
    errors.extend(term.at("namespaces").items().flat_map(named));
    errors.extend(label_keys(term));
    let key = term.at("topologyKey");
    errors.extend(key.must_be_given("can not be empty"));
    errors.extend(key.obeys(qualified_name));
    errors
}

/// Checks which labels of a new Pod are added to a selector.
fn label_keys(term: &Field<'_>) -> Vec<FieldError> {
    let (same, other, selector) =
        (term.at("matchLabelKeys"), term.at("mismatchLabelKeys"), term.at("labelSelector"));
    let mut errors = Vec::new();
    for keys in [&same, &other].into_iter().filter(|keys| !keys.list().is_empty()) {
        if selector.is_given() {
            errors.extend(keys.items().flat_map(|key| key.obeys(qualified_name)));
        } else {
            errors.push(keys.forbidden("must not be specified when labelSelector is not set"));
        }
    }
    let at: HashMap<&str, usize> = same.items().enumerate().map(|(index, key)| (key.text(), index)).collect();
    let labels = crate::lookup::entries(selector.value, &["matchLabels"]);
    let mut selected: HashSet<&str> = labels.map(|(key, _)| key.as_str()).collect();
    for expression in selector.at("matchExpressions").items() {
        let key = expression.at("key").text();
        if let Some(index) = at.get(key).filter(|_| selected.contains(key)) {
            let path = format!("{}[{index}]", term.path);
            errors.push(FieldError::invalid(path, key, "exists in both matchLabelKeys and labelSelector"));
        }
        selected.insert(key);
    }
    let others: HashSet<&str> = other.items().map(|key| key.text()).collect();
    let both = same.items().filter(|key| others.contains(key.text()));
    errors.extend(both.map(|key| key.invalid("exists in both matchLabelKeys and mismatchLabelKeys")));
    errors
}

/// Checks how Pods of a kind spread.
pub(in crate::builtin) fn spread(constraints: &Field<'_>) -> Vec<FieldError> {
    let pair = |each: &Field<'_>| {
        (each.at("topologyKey").text().to_owned(), each.at("whenUnsatisfiable").text().to_owned())
    };
    let mut left: HashMap<(String, String), usize> = HashMap::new();
    for each in constraints.items() {
        *left.entry(pair(&each)).or_default() += 1;
    }
    let mut errors = Vec::new();
    for each in constraints.items() {
        let (skew, when, domains) = (each.at("maxSkew"), each.at("whenUnsatisfiable"), each.at("minDomains"));
        errors.extend(above_zero(&skew));
        errors.extend(each.at("topologyKey").must_be_given("can not be empty"));
        let actions = ["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&when.text()) {
            errors.push(FieldError::not_supported(when.path.as_str(), when.text(), &actions));
        }
        // The last of several with the same two is the one that may stay.
        let count = left.entry(pair(&each)).or_default();
        *count -= 1;
        if *count > 0 {
            let path = format!("{}.{{topologyKey, whenUnsatisfiable}}", each.path);
            let shown = format!("{{{}, {}}}", each.at("topologyKey").text(), when.text());
            errors.push(FieldError::duplicate(path, shown));
        }
        if domains.is_given() {
            errors.extend(above_zero(&domains));
            if when.text() != "DoNotSchedule" {
                let why = "can only use minDomains if whenUnsatisfiable=DoNotSchedule";
                errors.push(domains.invalid(format!("{why}, not {}", when.text())));
            }
        }
        for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            errors.extend(each.at(key).one_of(&["Honor", "Ignore"]));
        }
        errors.extend(label_keys(&each));
        errors.extend(each.at("labelSelector").label_selector());
    }
    errors
}

fn above_zero(field: &Field<'_>) -> Option<FieldError> {
    let given = field.number().unwrap_or(0);
    (given <= 0).then(|| FieldError::invalid(field.path.as_str(), given, "must be greater than zero"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn assert_begin(value: &Value, check: fn(&Field<'_>) -> Vec<FieldError>, beginnings: &[&str]) {
        let found: Vec<String> =
            check(&Field { value, path: "f".to_owned() }).iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), beginnings.len(), "{found:#?}");
        for (found, beginning) in found.iter().zip(beginnings) {
            assert!(found.starts_with(beginning), "{found}");
        }
    }

    #[test]
    fn tolerations_say_what_they_tolerate() {
        let list = json!([{"key": "a b", "operator": "Exists", "value": "v"}, {"tolerationSeconds": 1},
            {"key": "k", "operator": "Lt", "effect": "Never"}, {"key": "k", "operator": "Near"}, {"key": "k", "value": "-"}]);
        let beginnings = [
            "f[0].key: Invalid value: \"a b\": name part must consist of",
            "f[0].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
            "f[1].operator: Invalid value: \"\": operator must be Exists when `key` is empty",
            "f[1].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            "f[2].operator: Unsupported value: \"Lt\": supported values: \"Equal\", \"Exists\", \"Lt\", \"Gt\"",
            "f[2].effect: Unsupported value: \"Never\"",
            "f[3].operator: Unsupported value: \"Near\": supported values: \"Equal\", \"Exists\"",
            "f[4].operator: Invalid value: \"-\": a valid label must be",
        ];
        assert_begin(&list, tolerations, &beginnings);
    }

    #[test]
    fn affinity_is_for_nodes_and_pods() {
        let value = json!({
            "nodeAffinity": {REQUIRED: {"nodeSelectorTerms": []}, PREFERRED: [{"weight": 0, "preference":
                {"matchExpressions": [{"key": "k", "operator": "In", "values": ["-"]}]}}]},
            "podAffinity": {REQUIRED: [{"namespaces": ["A"], "matchLabelKeys": ["k"], "topologyKey": ""}]},
            "podAntiAffinity": {PREFERRED: [{"weight": 101, "podAffinityTerm": {"topologyKey": "t",
                "labelSelector": {"matchLabels": {"k": "v"}, "matchExpressions": [{"key": "k", "operator": "Exists"}]},
                "matchLabelKeys": ["k"], "mismatchLabelKeys": ["k"]}}]}});
        let beginnings = [
            "f.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have",
            "f.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in",
            "f.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespace: Invalid value: \"A\"",
            "f.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys: Forbidden: must not",
            "f.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not",
            "f.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: \"\": name part",
            "f.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: \"\": name part",
            "f.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101",
            "f.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm[0]: Invalid value: \"k\": exists in both matchLabelKeys and labelSelector",
            "f.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.matchLabelKeys[0]: Invalid value: \"k\": exists in both",
        ];
        assert_begin(&value, affinity, &beginnings);
    }

    #[test]
    fn each_pair_spreads_once() {
        let list = json!([
            {"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "Perhaps", "nodeTaintsPolicy": "Some"},
            {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 1},
            {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway"}]);
        let beginnings = [
            "f[0].maxSkew: Invalid value: 0: must be greater than zero",
            "f[0].topologyKey: Required value: can not be empty",
            "f[0].whenUnsatisfiable: Unsupported value: \"Perhaps\"",
            "f[0].nodeTaintsPolicy: Unsupported value: \"Some\": supported values: \"Honor\", \"Ignore\"",
            "f[1].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{z, ScheduleAnyway}\"",
            "f[1].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
        ];
        assert_begin(&list, spread, &beginnings);
    }
}
