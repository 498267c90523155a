//! AddressGroups: their ranges are ranges, and those that rules speak of stay.

use std::collections::HashSet;

use ipnet::IpNet;
use serde_json::Value;
use yunfan_objects::FieldError;

use super::{GROUP, uses};
use crate::admission::{Attempt, Operation, Refusal, View, WritePlan};
use crate::keys;

const PLURAL: &str = "addressgroups";
const COUNTER: &str = "addressgroup";

/// Each range is one, and there once.
pub(super) fn group(attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let mut known = HashSet::new();
    for (index, value) in attempt.object["spec"]["addresses"].as_array().into_iter().flatten().enumerate() {
        let wrong = |why: &str| {
            let field = format!("spec.addresses[{index}]");
            attempt.invalid(FieldError::invalid(field, value.clone(), why))
        };
        let range = value.as_str().and_then(|text| text.parse::<IpNet>().ok());
        let Some(range) = range.filter(|range| range.trunc() == *range) else {
            return Err(wrong("must be a range such as 10.20.0.0/16, without host bits"));
        };
        if !known.insert(range) {
            return Err(wrong("is there already"));
        }
    }
    Ok(())
}

/// One that a rule speaks of stays.
pub(super) fn unused(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let space = view.get("", "namespaces", "", attempt.namespace);
    let ending = space.is_none_or(|space| !space.value()["metadata"]["deletionTimestamp"].is_null());
    let counter = uses(COUNTER, attempt.namespace, attempt.name);
    let revision = view.cache.claims().revision(&counter);
    let speaks = |group: &Value| {
        let mut rules = group["spec"]["rules"].as_array().into_iter().flatten();
        rules.any(|rule| rule["remoteAddressGroup"] == attempt.name)
    };
    let groups = view.list(GROUP, "securitygroups", attempt.namespace);
    if let Some(group) = groups.iter().find(|group| speaks(group.value()) && !ending) {
        let name = group.value()["metadata"]["name"].as_str().unwrap_or_default();
        return Err(
            attempt.conflict(&format!("rules of SecurityGroup {name} speak of it: remove them first"))
        );
    }
    plan.unchanged(counter.clone(), revision);
    if revision != 0 && attempt.operation == Operation::Delete {
        plan.free(counter);
    }
    Ok(())
}

/// The group must be there, and stays while this write commits.
pub(super) fn need(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
    name: &str,
    field: &str,
) -> Result<(), Refusal> {
    let there = view.get(GROUP, PLURAL, attempt.namespace, name);
    if there.is_none_or(|group| !group.value()["metadata"]["deletionTimestamp"].is_null()) {
        let why = format!("no such AddressGroup in namespace {}", attempt.namespace);
        return Err(attempt.invalid(FieldError::invalid(field, name, why)));
    }
    plan.exists(keys::object_key(&keys::kind_prefix(GROUP, PLURAL), attempt.namespace, name));
    plan.put(uses(COUNTER, attempt.namespace, name), attempt.name.to_owned());
    Ok(())
}
