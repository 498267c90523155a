//! PriorityClass and RuntimeClass.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::builtin::field::Field;
use crate::builtin::inner::{Is, Part};
use crate::builtin::rows::{name, since_creation};
use crate::builtin::rules::Rules;
use crate::builtin::{ColumnSpec, odd, pods, resources};
use crate::error::FieldError;
use crate::lookup::{entries, number, set_default, text};
use crate::meta::{all_wrong, dns_label, validate_labels};
use crate::{Object, Quantity};

pub(super) const PRIORITY_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Value", "integer", 0),
    ("Global-Default", "boolean", 0),
    ("Age", "string", 0),
    ("PreemptionPolicy", "string", 0),
];

pub(super) fn priority_cells(class: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(class),
        json!(number(class, &["value"]).unwrap_or(0)),
        json!(class["globalDefault"] == true),
        since_creation(class, now),
        json!(text(class, &["preemptionPolicy"])),
    ]
}

/// What the names of the system's own classes begin with.
const SYSTEM_PREFIX: &str = "system-";
/// Highest priority that users may give.
const HIGHEST: i64 = 1_000_000_000;

/// The system's own classes: name, value, description. Every cloud has them.
pub const SYSTEM_PRIORITIES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

pub(super) const PRIORITY: Rules = Rules {
    default: |class| {
        set_default(class, "preemptionPolicy", "PreemptLowerPriority");
        set_default(class, "value", 0);
    },
    validate: validate_priority,
    validate_update: |new, old| {
        let mut errors = Vec::new();
        if number(new, &["value"]).unwrap_or(0) != number(old, &["value"]).unwrap_or(0) {
            errors.push(FieldError::forbidden("value", "may not be changed in an update."));
        }
        let policy = |class| Field::root(class).at("preemptionPolicy");
        errors.extend(policy(new).same_as(&policy(old)));
        errors
    },
    // It begins with one, and its changes are not counted.
    prepare_create: |class| class["metadata"]["generation"] = json!(1),
    ..Rules::UNCOUNTED
};

fn validate_priority(class: &Object) -> Vec<FieldError> {
    let root = Field::root(class);
    let (called, value) = (text(class, &["metadata", "name"]), number(class, &["value"]).unwrap_or(0));
    let mut errors = Vec::new();
    if called.starts_with(SYSTEM_PREFIX) {
        if let Some(why) = unlike_system(called, value, class["globalDefault"] == true) {
            errors.push(FieldError::forbidden(
                "metadata.name",
                format!("priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {why}"),
            ));
        }
    } else if value > HIGHEST {
        let why = format!("maximum allowed value of a user defined priority is {HIGHEST}");
        errors.push(root.at("value").forbidden(why));
    }
    errors.extend(root.at("preemptionPolicy").must_be_one_of(&["PreemptLowerPriority", "Never"]));
    errors
}

fn unlike_system(called: &str, value: i64, global: bool) -> Option<String> {
    let Some((_, known, _)) = SYSTEM_PRIORITIES.iter().find(|(known, _, _)| *known == called) else {
        return Some(format!("{called} is not a known system priority class"));
    };
    if value != *known {
        return Some(format!("value of {called} PriorityClass must be {known}"));
    }
    global.then(|| format!("globalDefault of {called} PriorityClass must be false"))
}

pub(super) const RUNTIME_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("Handler", "string", 0), ("Age", "string", 0)];

pub(super) fn runtime_cells(class: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(class), json!(text(class, &["handler"])), since_creation(class, now)]
}

const TOLERATION: &[Part] = &[
    Part("Key", "key", Is::Text),
    Part("Operator", "operator", Is::Text),
    Part("Value", "value", Is::Text),
    Part("Effect", "effect", Is::Text),
    Part("TolerationSeconds", "tolerationSeconds", Is::Optional),
];

pub(super) const RUNTIME: Rules = Rules {
    validate: |class| {
        let root = Field::root(class);
        let mut errors = root.at("handler").needs(dns_label);
        for (resource, amount) in entries(class, &["overhead", "podFixed"]) {
            let field = format!("overhead.limits[{resource}]");
            errors.extend(all_wrong(&field, resource, resources::container_resource(resource)));
            if Quantity::from_json(amount).is_ok_and(Quantity::is_negative) {
                errors.push(FieldError::invalid(field, amount.clone(), "must be greater than or equal to 0"));
            }
        }
        let scheduling = root.at("scheduling");
        let selector = scheduling.at("nodeSelector");
        errors.extend(validate_labels(Some(selector.value), &selector.path));
        errors.extend(pods::placement::tolerations(&scheduling.at("tolerations")));
        let mut seen = HashSet::new();
        let again = scheduling.at("tolerations").items().filter(|each| !seen.insert(each.value));
        errors.extend(again.map(|each| each.duplicate_object(TOLERATION)));
        errors
    },
    warnings: |class, _| {
        let selector = Field::root(class).under(&["scheduling", "nodeSelector"]);
        let old = entries(selector.value, &[]).filter_map(|(key, _)| odd::label(key));
        old.map(|why| format!("{}: {why}", selector.path)).collect()
    },
    validate_update: |new, old| {
        let handler = |class| Field::root(class).at("handler");
        handler(new).same_as(&handler(old)).into_iter().collect()
    },
    ..Rules::UNCOUNTED
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal, row};

    fn priority(name: &str, value: i64) -> Object {
        json!({"metadata": {"name": name}, "value": value})
    }

    #[test]
    fn priorities_are_fixed_and_the_highest_are_the_systems() {
        let old = created(&kind("PriorityClass"), priority("high", 1000)).unwrap();
        let cells = row("PriorityClass", &old);
        assert_eq!([&cells[..3], &cells[4..]].concat(), ["high", "1000", "false", "PreemptLowerPriority"]);
        assert_eq!(changed("PriorityClass", &old, json!({"description": "x"})).1, "");
        let (_, refused) = changed("PriorityClass", &old, json!({"value": 1, "preemptionPolicy": "Never"}));
        assert_eq!(
            refused,
            "[value: Forbidden: may not be changed in an update., preemptionPolicy: Invalid value: \"Never\": field is immutable]"
        );
        for (name, value, _) in SYSTEM_PRIORITIES {
            assert_eq!(refusal("PriorityClass", priority(name, value)), "");
            assert!(
                refusal("PriorityClass", priority(name, 7))
                    .contains(&format!("value of {name} PriorityClass must be {value}"))
            );
        }
        assert!(
            refusal("PriorityClass", priority("system-x", 1))
                .contains("metadata.name: Forbidden: priority class names with 'system-' prefix")
        );
        assert!(
            refusal("PriorityClass", priority("x", HIGHEST + 1))
                .contains("maximum allowed value of a user defined priority is 1000000000")
        );
    }

    #[test]
    fn a_runtime_keeps_its_handler() {
        let class = json!({"metadata": {"name": "vm"}, "handler": "kata", "overhead": {"podFixed": {"cpu": "10m"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}});
        let old = created(&kind("RuntimeClass"), class.clone()).unwrap();
        assert_eq!(row("RuntimeClass", &old)[..2], ["vm", "kata"]);
        assert!(
            changed("RuntimeClass", &old, json!({"handler": "runc"}))
                .1
                .contains("handler: Invalid value: \"runc\": field is immutable")
        );
        let mut bad = class;
        bad["handler"] = json!("K_V");
        bad["overhead"]["podFixed"]["cpu"] = json!("-1");
        bad["scheduling"]["tolerations"] =
            json!([{"key": "k", "operator": "Near"}, {"key": "k", "operator": "Near"}]);
        let found = refusal("RuntimeClass", bad);
        for why in [
            "handler: Invalid value: \"K_V\"",
            "overhead.limits[cpu]: Invalid value: \"-1\"",
            "scheduling.tolerations[0].operator: Unsupported value: \"Near\"",
            "scheduling.tolerations[1]: Duplicate value",
        ] {
            assert!(found.contains(why), "{found}\n{why}");
        }
    }
}
