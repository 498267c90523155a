//! Kubernetes' own roles and bindings, read from the table beside this file, which says how it is written.

use serde_json::{Value, json};

use super::{binding, in_namespace, paths, role, rule};
use crate::rbac::GROUP;

const TABLE: &str = include_str!("kubernetes.txt");

/// Every role of the table, in its order.
pub(super) fn roles() -> Vec<Value> {
    let mut roles: Vec<Value> = Vec::new();
    for line in lines() {
        if let Some(place) = line.strip_prefix("role ") {
            let (namespace, name) = place.split_once('/').unwrap_or(("", place));
            let mut role = role(name, Vec::new());
            // Its rules become part of the role of that name.
            if let Some(whole) = name.strip_prefix("system:aggregate-to-") {
                role["metadata"]["labels"][super::aggregation_label(whole)] = json!("true");
            }
            in_namespace(&mut role, namespace);
            roles.push(role);
        } else if let (Some(line), Some(role)) = (line.strip_prefix("    "), roles.last_mut())
            && let Some(rules) = role["rules"].as_array_mut()
        {
            rules.push(rule_of(line));
        }
    }
    roles
}

/// Every binding of the table, in its order.
pub(super) fn bindings() -> Vec<Value> {
    lines()
        .filter_map(|line| line.strip_prefix("bind ")?.split_once(" for "))
        .map(|(place, subjects)| {
            let (place, role) = match place.split_once(" to ") {
                Some((place, role)) => (place, Some(role)),
                None => (place, None),
            };
            let (namespace, name) = place.split_once('/').unwrap_or(("", place));
            let mut binding = binding(name, role.unwrap_or(name), &[]);
            in_namespace(&mut binding, namespace);
            binding["subjects"] = subjects.split(' ').map(subject).collect();
            binding
        })
        .collect()
}

fn lines() -> impl Iterator<Item = &'static str> {
    TABLE.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn rule_of(line: &str) -> Value {
    let (what, verbs) = line.split_once(": ").unwrap_or((line, ""));
    let verbs: Vec<&str> = verbs.split(',').collect();
    let Some((groups, resources)) = what.split_once(' ') else {
        return paths(&what.split(',').collect::<Vec<_>>(), &verbs);
    };
    let groups: Vec<&str> = groups.split(',').map(|group| if group == "core" { "" } else { group }).collect();
    let (resources, names) = match resources.split_once('=') {
        Some((resources, names)) => (resources, Some(names)),
        None => (resources, None),
    };
    let mut rule = rule(&groups, &resources.split(',').collect::<Vec<_>>(), &verbs);
    if let Some(names) = names {
        rule["resourceNames"] = names.split(',').collect();
    }
    rule
}

fn subject(word: &str) -> Value {
    match word.split_once(':') {
        Some(("account", place)) => {
            let (namespace, name) = place.split_once('/').unwrap_or(("", place));
            json!({ "kind": "ServiceAccount", "namespace": namespace, "name": name })
        }
        Some(("user", name)) => json!({ "apiGroup": GROUP, "kind": "User", "name": name }),
        _ => {
            let name = word.strip_prefix("group:").unwrap_or(word);
            json!({ "apiGroup": GROUP, "kind": "Group", "name": name })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(list: &Value) -> String {
        let words = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        words.map(|word| if word.is_empty() { "core" } else { word }).collect::<Vec<_>>().join(",")
    }

    /// An object as the table has it.
    fn shown(object: &Value) -> Vec<String> {
        let meta = &object["metadata"];
        let name = meta["name"].as_str().unwrap();
        let place = meta["namespace"].as_str().map_or(name.to_owned(), |own| format!("{own}/{name}"));
        if let Some(subjects) = object["subjects"].as_array() {
            let role = object["roleRef"]["name"].as_str().unwrap();
            let to = if role == name { String::new() } else { format!(" to {role}") };
            let subjects: Vec<String> = subjects
                .iter()
                .map(|subject| {
                    let name = subject["name"].as_str().unwrap();
                    match subject["kind"].as_str().unwrap() {
                        "ServiceAccount" => {
                            format!("account:{}/{name}", subject["namespace"].as_str().unwrap())
                        }
                        kind => format!("{}:{name}", kind.to_lowercase()),
                    }
                })
                .collect();
            return vec![format!("bind {place}{to} for {}", subjects.join(" "))];
        }
        let rules = object["rules"].as_array().unwrap().iter().map(|rule| {
            let verbs = joined(&rule["verbs"]);
            if !rule["nonResourceURLs"].is_null() {
                return format!("    {}: {verbs}", joined(&rule["nonResourceURLs"]));
            }
            let names = &rule["resourceNames"];
            let names = if names.is_null() { String::new() } else { format!("={}", joined(names)) };
            format!("    {} {}{names}: {verbs}", joined(&rule["apiGroups"]), joined(&rule["resources"]))
        });
        std::iter::once(format!("role {place}")).chain(rules).collect()
    }

    #[test]
    fn the_table_is_read_whole_and_comes_back_as_it_was() {
        let read: Vec<String> = roles().iter().chain(&bindings()).flat_map(shown).collect();
        assert_eq!(read, lines().collect::<Vec<_>>());
    }

    #[test]
    fn roles_of_a_namespace_are_of_that_kind_and_bound_in_it() {
        let kinds = |objects: Vec<Value>| -> Vec<String> {
            let own = objects.iter().filter(|object| object["metadata"]["namespace"] == "kube-public");
            own.map(|object| object["kind"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(kinds(roles()), ["Role"]);
        assert_eq!(kinds(bindings()), ["RoleBinding"]);
        let bindings = bindings();
        let of = |name: &str| bindings.iter().find(|binding| binding["metadata"]["name"] == name).unwrap();
        let reader = of("system::extension-apiserver-authentication-reader");
        assert_eq!(reader["roleRef"]["name"], "extension-apiserver-authentication-reader");
        assert_eq!(reader["roleRef"]["kind"], "Role");
        assert_eq!(of("system:kube-scheduler")["roleRef"]["kind"], "ClusterRole");
    }
}
