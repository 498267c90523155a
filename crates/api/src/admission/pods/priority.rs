//! Priorities: a Pod's number comes from its PriorityClass, or from the one that is everybody's default.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::{Attempt, Operation, Refusal, View, scopes, security};
use crate::cache::Entry;

const GROUP: &str = "scheduling.k8s.io";
const PLURAL: &str = "priorityclasses";
/// How the classes of the cloud's own parts begin.
const SYSTEM: &str = "system-";
/// What a Pod does to those of lower priority when nothing else is said.
const PREEMPTS: &str = "PreemptLowerPriority";

pub(super) fn fill(view: &View<'_>, attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
    if !attempt.makes_pod() {
        return Ok(());
    }
    let named = attempt.object["spec"]["priorityClassName"].as_str().unwrap_or_default();
    let class = if named.is_empty() {
        default_class(view)
    } else {
        let found = view.get(GROUP, PLURAL, "", named);
        let none = || attempt.forbidden(&format!("no PriorityClass with name {named} was found"));
        let found = found.ok_or_else(none)?;
        if named.starts_with(SYSTEM) && !may_be_system(view, attempt) {
            return Err(attempt.forbidden(&format!(
                "insufficient quota to match these scopes: [{{PriorityClass In [{named}]}}]"
            )));
        }
        Some(found)
    };
    let class = class.as_ref().map_or(&Value::Null, |entry| entry.value().as_ref());
    resolve(&mut attempt.object["spec"], class).map_err(|why| attempt.forbidden(&why))
}

/// Whether Pods of a namespace may be of the system's classes, for which all others have to leave: everywhere but in a tenant's,
/// where a quota has to be for them. (Kubernetes' quotas can be set up to ask for the same.)
fn may_be_system(view: &View<'_>, attempt: &Attempt<'_>) -> bool {
    if !security::is_confined(view, attempt.namespace) {
        return true;
    }
    let by_class = |quota: &Value| {
        let selected = quota["spec"]["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
        let scopes = quota["spec"]["scopes"].as_array().into_iter().flatten();
        let mut named = selected.map(|one| &one["scopeName"]).chain(scopes);
        named.any(|scope| scope == "PriorityClass") && scopes::matches(quota, "", "pods", attempt.object)
    };
    view.list("", "resourcequotas", attempt.namespace).iter().any(|quota| by_class(quota.value()))
}

/// The class that Pods get which name none. There is one at most, or of several the lowest.
fn default_class(view: &View<'_>) -> Option<Arc<Entry>> {
    let classes = view.list(GROUP, PLURAL, "").into_iter();
    classes
        .filter(|class| class.value()["globalDefault"] == true)
        .min_by_key(|class| class.value()["value"].as_i64())
}

/// Sets what the class says, null for none; a Pod may say the same, but nothing else.
fn resolve(spec: &mut Value, class: &Value) -> Result<(), String> {
    let Some(spec) = spec.as_object_mut() else { return Ok(()) };
    let priority = class["value"].as_i64().unwrap_or(0);
    if let Some(given) = spec.get("priority").and_then(Value::as_i64).filter(|given| *given != priority) {
        return Err(format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
        ));
    }
    let policy = class["preemptionPolicy"].as_str().unwrap_or(PREEMPTS);
    let given = spec.get("preemptionPolicy").and_then(Value::as_str);
    if let Some(given) = given.filter(|given| *given != policy) {
        return Err(format!(
            "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    if let Some(name) = class["metadata"]["name"].as_str() {
        spec.insert("priorityClassName".to_owned(), json!(name));
    }
    spec.insert("priority".to_owned(), json!(priority));
    spec.insert("preemptionPolicy".to_owned(), json!(policy));
    Ok(())
}

/// There is one default at most.
pub(super) fn check(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let written = attempt.operation != Operation::Delete && attempt.is(GROUP, PLURAL);
    if !written || attempt.object["globalDefault"] != true {
        return Ok(());
    }
    let Some(known) = default_class(view) else { return Ok(()) };
    let name = known.value()["metadata"]["name"].as_str().unwrap_or_default();
    if attempt.operation == Operation::Update && name == attempt.name {
        return Ok(());
    }
    Err(attempt
        .forbidden(&format!("PriorityClass {name} is already marked as default. Only one default can exist")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_says_what_a_pod_may_only_repeat() {
        let class = json!({"metadata": {"name": "high"}, "value": 100, "preemptionPolicy": "Never"});
        let filled = json!({"priorityClassName": "high", "priority": 100, "preemptionPolicy": "Never"});
        for mut spec in [json!({}), json!({"priorityClassName": "high", "priority": 100}), filled.clone()] {
            resolve(&mut spec, &class).unwrap();
            assert_eq!(spec, filled);
        }
        let mut none = json!({});
        resolve(&mut none, &Value::Null).unwrap();
        assert_eq!(none, json!({"priority": 0, "preemptionPolicy": PREEMPTS}));
        assert_eq!(
            resolve(&mut json!({"priority": 7}), &class).unwrap_err(),
            "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 100 from the given PriorityClass name"
        );
        assert_eq!(
            resolve(&mut json!({"preemptionPolicy": PREEMPTS}), &class).unwrap_err(),
            "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority admission controller computed Never from the given PriorityClass name"
        );
    }
}
