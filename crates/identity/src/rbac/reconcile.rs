//! Bringing the roles that each cloud starts with up to date: what is missing is added, what an operator added stays. (Kubernetes'
//! `auth/rbac/reconciliation`.)

use serde_json::{Value, json};

use super::rule::{self, Rule};
use super::{GROUP, text};

/// Says `"false"` on a role or a binding that is to be left alone.
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Whether an operator wants this role or binding to be left as it is.
pub fn is_left_alone(existing: &Value) -> bool {
    existing["metadata"]["annotations"][AUTO_UPDATE] == "false"
}

/// Whether a binding leads to another role than it should. That cannot be changed: it is to be made anew.
pub fn leads_elsewhere(existing: &Value, wanted: &Value) -> bool {
    let role = |binding: &Value| {
        let role = &binding["roleRef"];
        let group = role["apiGroup"].as_str().filter(|group| !group.is_empty()).unwrap_or(GROUP);
        (group.to_owned(), text(&role["kind"]).to_owned(), text(&role["name"]).to_owned())
    };
    !wanted["roleRef"].is_null() && role(existing) != role(wanted)
}

/// A role or a binding with what it lacks of `wanted`: labels, annotations, rules, subjects, and which roles it selects.
pub fn completed(existing: &Value, wanted: &Value) -> Value {
    let mut new = existing.clone();
    for field in ["labels", "annotations"] {
        for (key, value) in wanted["metadata"][field].as_object().into_iter().flatten() {
            if new["metadata"][field][key].is_null() {
                new["metadata"][field][key] = value.clone();
            }
        }
    }
    add(
        &mut new,
        "subjects",
        missing(existing, wanted, "subjects", |own, wanted| subject(own) == subject(wanted)),
    );
    let selectors = "clusterRoleSelectors";
    match (&existing["aggregationRule"], &wanted["aggregationRule"]) {
        (Value::Null, Value::Null) => add(&mut new, "rules", missing_rules(existing, wanted)),
        (_, Value::Null) => {
            if let Some(role) = new.as_object_mut() {
                role.remove("aggregationRule");
            }
            add(&mut new, "rules", missing_rules(existing, wanted));
        }
        // The rules of an aggregated role are those of the roles that it selects: they are put there by the loop that follows them.
        (Value::Null, rule) => new["aggregationRule"] = rule.clone(),
        (own, rule) => {
            let more = missing(own, rule, selectors, |own, wanted| own == wanted);
            add(&mut new["aggregationRule"], selectors, more);
        }
    }
    new
}

fn add(object: &mut Value, field: &str, more: Vec<Value>) {
    if more.is_empty() {
        return;
    }
    match object[field].as_array_mut() {
        Some(list) => list.extend(more),
        None => object[field] = json!(more),
    }
}

/// Members of the list that `wanted` has in a field, of which `existing` has none that is the same.
fn missing(
    existing: &Value,
    wanted: &Value,
    field: &str,
    same: impl Fn(&Value, &Value) -> bool,
) -> Vec<Value> {
    let own = existing[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = wanted[field].as_array().into_iter().flatten();
    wanted.filter(|wanted| !own.iter().any(|own| same(own, wanted))).cloned().collect()
}

/// Rules of `wanted` that grant anything which no rule of `existing` does.
fn missing_rules(existing: &Value, wanted: &Value) -> Vec<Value> {
    let own = rule::parse_rules(existing).unwrap_or_default();
    let covered = |wanted: &Rule| wanted.atoms().all(|atom| own.iter().any(|own| own.covers(&atom)));
    // Ours can be read; one that could not be would be taken as it is.
    let is_missing = |wanted: &&Value| {
        let parsed = rule::parse_rules(&json!({ "rules": [wanted] })).unwrap_or_default();
        parsed.is_empty() || !parsed.iter().all(covered)
    };
    wanted["rules"].as_array().into_iter().flatten().filter(is_missing).cloned().collect()
}

/// Whom a subject names, with what is left out filled in.
fn subject(subject: &Value) -> (&str, &str, &str, &str) {
    let kind = text(&subject["kind"]);
    let default = if kind == "ServiceAccount" { "" } else { GROUP };
    let group = subject["apiGroup"].as_str().filter(|group| !group.is_empty()).unwrap_or(default);
    (kind, group, text(&subject["namespace"]), text(&subject["name"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(resources: &[&str], verbs: &[&str]) -> Value {
        json!({"apiGroups": [""], "resources": resources, "verbs": verbs})
    }

    #[test]
    fn what_is_missing_is_added_and_nothing_is_taken() {
        let wanted = json!({"kind": "ClusterRole",
            "metadata": {"name": "r", "labels": {"a": "ours"}, "annotations": {AUTO_UPDATE: "true"}},
            "rules": [rule(&["pods", "services"], &["get", "list"]), rule(&["secrets"], &["get"])]});
        let own = [rule(&["pods"], &["*"]), rule(&["services"], &["get", "list", "watch"])];
        let existing = json!({"kind": "ClusterRole", "metadata": {"name": "r", "labels": {"a": "theirs", "b": "c"}}, "rules": own});
        let new = completed(&existing, &wanted);
        assert_eq!(new["rules"], json!([own[0], own[1], rule(&["secrets"], &["get"])]));
        assert_eq!(new["metadata"]["labels"], json!({"a": "theirs", "b": "c"}));
        assert_eq!(new["metadata"]["annotations"][AUTO_UPDATE], "true");
        assert_eq!(completed(&new, &wanted), new, "once is enough");
        // What a rule allows of one object it does not allow of all.
        let mut one = rule(&["secrets"], &["get"]);
        one["resourceNames"] = json!(["s"]);
        let existing = json!({"rules": [one]});
        assert_eq!(completed(&existing, &wanted)["rules"].as_array().map(Vec::len), Some(3));
        assert_eq!(completed(&json!({"metadata": {}}), &wanted)["rules"], wanted["rules"]);
        assert!(is_left_alone(&json!({"metadata": {"annotations": {AUTO_UPDATE: "false"}}})));
        assert!(!is_left_alone(&wanted) && !is_left_alone(&existing));
    }

    #[test]
    fn an_aggregated_role_selects_what_it_should_and_more() {
        let selector = |label: &str| json!({"matchLabels": {label: "true"}});
        let selecting = |labels: &[&str]| json!({"clusterRoleSelectors": labels.iter().map(|label| selector(label)).collect::<Vec<_>>()});
        let wanted = json!({"aggregationRule": selecting(&["a", "b"]), "rules": [rule(&["pods"], &["get"])]});
        let existing = json!({"aggregationRule": selecting(&["c", "a"]), "rules": []});
        let new = completed(&existing, &wanted);
        assert_eq!(new, json!({"aggregationRule": selecting(&["c", "a", "b"]), "rules": []}));
        assert_eq!(completed(&json!({"rules": []}), &wanted)["aggregationRule"], wanted["aggregationRule"]);
        let plain = json!({"rules": wanted["rules"]});
        assert_eq!(completed(&existing, &plain), plain);
    }

    #[test]
    fn a_binding_gets_the_subjects_that_it_lacks() {
        let user = |name: &str| json!({"kind": "User", "name": name, "apiGroup": GROUP});
        let account = json!({"kind": "ServiceAccount", "name": "a", "namespace": "n"});
        let role = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": "r"});
        let wanted = json!({"roleRef": role, "subjects": [user("a"), account]});
        let existing = json!({"roleRef": {"kind": "ClusterRole", "name": "r"}, "subjects": [
            {"kind": "User", "name": "a"}, user("theirs"), {"kind": "ServiceAccount", "name": "a", "namespace": "other"}]});
        assert!(!leads_elsewhere(&existing, &wanted));
        let new = completed(&existing, &wanted);
        assert_eq!(new["subjects"].as_array().map(Vec::len), Some(4), "{new}");
        assert_eq!(new["subjects"][3], account);
        assert_eq!(completed(&json!({"roleRef": role}), &wanted)["subjects"], wanted["subjects"]);
        for (key, other) in [("kind", "Role"), ("name", "s"), ("apiGroup", "x")] {
            let mut existing = existing.clone();
            existing["roleRef"][key] = json!(other);
            assert!(leads_elsewhere(&existing, &wanted), "{key}");
        }
    }
}
