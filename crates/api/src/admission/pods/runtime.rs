//! Runtime classes: what a Pod's runtime itself takes of a node, and which nodes have it.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use yunfan_objects::Quantity;

use super::super::{Attempt, Refusal, View};
use crate::cache::Entry;

pub(super) fn fill(view: &View<'_>, attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
    let Some(class) = class_of(view, attempt)? else { return Ok(()) };
    let class = class.value();
    let overhead = &class["overhead"]["podFixed"];
    if overhead.is_object() {
        let given = &attempt.object["spec"]["overhead"];
        if given.as_object().is_some_and(|given| !given.is_empty()) && !same_amounts(given, overhead) {
            return Err(attempt.forbidden(MISMATCH));
        }
        attempt.object["spec"]["overhead"] = overhead.clone();
    }
    schedule(&mut attempt.object["spec"], &class["scheduling"]).map_err(|why| attempt.forbidden(&why))
}

const MISMATCH: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
const UNFOUNDED: &str = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";

pub(super) fn check(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    if !attempt.makes_pod() {
        return Ok(());
    }
    let class = class_of(view, attempt)?;
    let wanted = class.as_ref().map_or(&Value::Null, |class| &class.value()["overhead"]["podFixed"]);
    let given = &attempt.object["spec"]["overhead"];
    if wanted.is_object() {
        if same_amounts(given, wanted) { Ok(()) } else { Err(attempt.forbidden(MISMATCH)) }
    } else if given.is_null() {
        Ok(())
    } else {
        Err(attempt.forbidden(UNFOUNDED))
    }
}

fn class_of(view: &View<'_>, attempt: &Attempt<'_>) -> Result<Option<Arc<Entry>>, Refusal> {
    let Some(name) = attempt.object["spec"]["runtimeClassName"].as_str().filter(|_| attempt.makes_pod())
    else {
        return Ok(None);
    };
    match view.get("node.k8s.io", "runtimeclasses", "", name) {
        Some(class) => Ok(Some(class)),
        None => Err(attempt.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn same_amounts(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else { return one == other };
    let amount = |value: &Value| Quantity::from_json(value).ok();
    one.len() == other.len()
        && one.iter().all(|(name, value)| other.get(name).is_some_and(|same| amount(same) == amount(value)))
}

/// Ties the Pod to the nodes that have its runtime.
fn schedule(spec: &mut Value, scheduling: &Value) -> Result<(), String> {
    if let Some(selector) = scheduling["nodeSelector"].as_object().filter(|map| !map.is_empty()) {
        let mut merged: Map<String, Value> = spec["nodeSelector"].as_object().cloned().unwrap_or_default();
        for (key, value) in selector {
            if let Some(given) = merged.get(key).filter(|given| *given != value) {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                    text(value),
                    text(given)
                ));
            }
            merged.insert(key.clone(), value.clone());
        }
        spec["nodeSelector"] = Value::Object(merged);
    }
    let more = scheduling["tolerations"].as_array().cloned().unwrap_or_default();
    if !more.is_empty() {
        let own = spec["tolerations"].as_array().cloned().unwrap_or_default();
        spec["tolerations"] = json!(merge_tolerations(own.into_iter().chain(more).collect()));
    }
    Ok(())
}

/// All tolerations, without those that another one covers; of equal ones the first stays.
fn merge_tolerations(all: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let later = all[index + 1..].iter().any(|other| other != toleration && covers(other, toleration));
        if !later && !merged.iter().any(|other| covers(other, toleration)) {
            merged.push(toleration.clone());
        }
    }
    merged
}

/// Whether `wide` tolerates all that `narrow` does.
fn covers(wide: &Value, narrow: &Value) -> bool {
    fn text<'a>(toleration: &'a Value, key: &str) -> &'a str {
        toleration[key].as_str().unwrap_or_default()
    }
    if wide == narrow {
        return true;
    }
    let any_key = text(wide, "key").is_empty() && text(wide, "operator") == "Exists";
    let effect = text(wide, "effect");
    if !any_key && text(wide, "key") != text(narrow, "key")
        || !effect.is_empty() && effect != text(narrow, "effect")
    {
        return false;
    }
    if effect == "NoExecute"
        && let Some(seconds) = wide["tolerationSeconds"].as_i64()
        && narrow["tolerationSeconds"].as_i64().is_none_or(|longer| longer > seconds)
    {
        return false;
    }
    match text(wide, "operator") {
        "Exists" => true,
        "Equal" | "" => text(narrow, "operator") == "Equal" && text(narrow, "value") == text(wide, "value"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_goes_where_its_runtime_is() {
        let class =
            json!({"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]});
        let narrow = json!({"key": "vm", "operator": "Equal", "value": "x", "effect": "NoSchedule"});
        let mut spec = json!({"nodeSelector": {"zone": "a"}, "tolerations": [narrow, {"key": "b", "operator": "Exists"}]});
        schedule(&mut spec, &class).unwrap();
        assert_eq!(spec["nodeSelector"], json!({"zone": "a", "vm": "yes"}));
        let wanted = json!([{"key": "b", "operator": "Exists"}, {"key": "vm", "operator": "Exists"}]);
        assert_eq!(spec["tolerations"], wanted);
        assert_eq!(
            schedule(&mut json!({"nodeSelector": {"vm": "no"}}), &class).unwrap_err(),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no"
        );
    }

    #[test]
    fn a_short_toleration_does_not_cover_a_long_one() {
        let of = |seconds: Value| json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let plain = json!({"key": "k", "operator": "Exists", "effect": "NoExecute"});
        assert!(covers(&plain, &of(json!(5))) && covers(&of(json!(6)), &of(json!(5))));
        assert!(!covers(&of(json!(5)), &plain) && !covers(&of(json!(5)), &of(json!(6))));
        assert!(
            covers(&json!({"operator": "Exists"}), &plain) && !covers(&plain, &json!({"operator": "Exists"}))
        );
    }

    #[test]
    fn amounts_are_compared_not_their_words() {
        assert!(same_amounts(&json!({"cpu": "1"}), &json!({"cpu": "1000m"})));
        assert!(!same_amounts(&json!({"cpu": "1"}), &json!({"cpu": "2"})));
        assert!(!same_amounts(&json!({"cpu": "1", "memory": "1"}), &json!({"cpu": "1"})));
    }
}
