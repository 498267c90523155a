//! SecurityGroups are checked and completed, those in use stay, and Ports name those that are there.

use std::collections::HashSet;

use ipnet::IpNet;
use serde_json::{Value, json};
use yunfan_objects::FieldError;
use yunfan_resources::network::SecurityGroupRule;

use super::{GROUP, addresses, uses};
use crate::admission::{Attempt, Refusal, View, WritePlan};
use crate::keys;

const KIND: &str = "securitygroup";
const PLURAL: &str = "securitygroups";

/// Each rule makes sense by itself, is there once, has an id, and speaks of a group that is there.
pub(super) fn group(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let mut rules: Vec<Value> = attempt.object["spec"]["rules"].as_array().cloned().unwrap_or_default();
    let mut known: Vec<SecurityGroupRule> = Vec::with_capacity(rules.len());
    let mut ids = HashSet::new();
    for (index, value) in rules.iter_mut().enumerate() {
        let wrong = |attempt: &Attempt<'_>, value: &Value, why: String| {
            attempt.invalid(FieldError::invalid(format!("spec.rules[{index}]"), value.clone(), why))
        };
        // What the schema refuses is told by its own words later.
        let Ok(rule) = serde_json::from_value::<SecurityGroupRule>(value.clone()) else { return Ok(()) };
        rule.check().map_err(|fault| wrong(attempt, value, fault.message))?;
        if let Some(at) = known.iter().position(|other| other.is_same_as(&rule)) {
            return Err(wrong(attempt, value, format!("lets the same pass as rules[{at}]")));
        }
        if let Some(remote) = rule.remote_group.as_deref()
            && remote != attempt.name
        {
            need(view, attempt, plan, remote, &format!("spec.rules[{index}].remoteGroup"))?;
        }
        if let Some(remote) = rule.remote_address_group.as_deref() {
            let field = format!("spec.rules[{index}].remoteAddressGroup");
            addresses::need(view, attempt, plan, remote, &field)?;
        }
        let id =
            rule.id.clone().filter(|id| !id.is_empty()).unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
        if !ids.insert(id.clone()) {
            return Err(wrong(attempt, value, format!("has the id {id} of another rule of the group")));
        }
        value["id"] = json!(id);
        known.push(rule);
    }
    if !rules.is_empty() {
        attempt.object["spec"]["rules"] = Value::Array(rules);
    }
    stays_so(view, attempt, plan)
}

/// Whether answers pass changes only while no Port has the group: connections would be cut, or stay open that no rule lets in.
fn stays_so(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let stateless = |group: &Value| group["spec"]["stateless"] == true;
    if attempt.old.is_none_or(|old| stateless(old) == stateless(attempt.object)) {
        return Ok(());
    }
    let counter = uses(KIND, attempt.namespace, attempt.name);
    let revision = view.cache.claims().revision(&counter);
    let count = holders(view, attempt);
    if count > 0 {
        let why = format!("{count} Port(s) have it: whether it is stateless can't be changed");
        return Err(attempt.conflict(&why));
    }
    // A Port that comes meanwhile changes it.
    plan.unchanged(counter, revision);
    Ok(())
}

/// How many Ports have the group.
fn holders(view: &View<'_>, attempt: &Attempt<'_>) -> usize {
    let names = |list: &Value| list.as_array().into_iter().flatten().any(|name| *name == attempt.name);
    let ports = view.list(GROUP, "ports", attempt.namespace);
    ports.iter().filter(|port| names(&port.value()["spec"]["securityGroups"])).count()
}

/// A group that Ports have, or that other groups' rules speak of, stays. (The default group is made again when it is needed.)
pub(super) fn unused_group(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    let space = view.get("", "namespaces", "", attempt.namespace);
    let ending = space.is_none_or(|space| !space.value()["metadata"]["deletionTimestamp"].is_null());
    let counter = uses(KIND, attempt.namespace, attempt.name);
    let revision = view.cache.claims().revision(&counter);
    let ports = holders(view, attempt);
    if ports > 0 {
        return Err(attempt.conflict(&format!("{ports} Port(s) have it: give them others first")));
    }
    let groups = view.list(GROUP, PLURAL, attempt.namespace);
    let speaks = |group: &Value| {
        let mut rules = group["spec"]["rules"].as_array().into_iter().flatten();
        group["metadata"]["name"] != attempt.name && rules.any(|rule| rule["remoteGroup"] == attempt.name)
    };
    if let Some(other) = groups.iter().find(|group| speaks(group.value()) && !ending) {
        let name = other.value()["metadata"]["name"].as_str().unwrap_or_default();
        return Err(
            attempt.conflict(&format!("rules of SecurityGroup {name} speak of it: remove them first"))
        );
    }
    plan.unchanged(counter.clone(), revision);
    if revision != 0 && attempt.operation == crate::admission::Operation::Delete {
        plan.free(counter);
    }
    Ok(())
}

/// The group must be there, and stays while this write commits.
fn need(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
    name: &str,
    field: &str,
) -> Result<(), Refusal> {
    let there = view.get(GROUP, PLURAL, attempt.namespace, name);
    if there.is_none_or(|group| !group.value()["metadata"]["deletionTimestamp"].is_null()) {
        let why = format!("no such SecurityGroup in namespace {}", attempt.namespace);
        return Err(attempt.invalid(FieldError::invalid(field, name, why)));
    }
    plan.exists(keys::object_key(&keys::kind_prefix(GROUP, PLURAL), attempt.namespace, name));
    plan.put(uses(KIND, attempt.namespace, name), attempt.name.to_owned());
    Ok(())
}

/// A Port's groups are there, and go together with its other security; its further addresses are addresses.
pub(super) fn port(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let spec = &attempt.object["spec"];
    let groups: Vec<String> = spec["securityGroups"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    let pairs = spec["allowedAddressPairs"].as_array().cloned().unwrap_or_default();
    if spec["portSecurityEnabled"] == false && !(groups.is_empty() && pairs.is_empty()) {
        let why = "a port without port security has neither security groups nor allowed address pairs";
        let field = "spec.portSecurityEnabled";
        return Err(attempt.invalid(FieldError::invalid(field, false, why)));
    }
    let before = |name: &str| {
        let old = attempt.old.and_then(|old| old["spec"]["securityGroups"].as_array());
        old.into_iter().flatten().any(|old| *old == *name)
    };
    for (index, name) in groups.iter().enumerate().filter(|(_, name)| !before(name)) {
        need(view, attempt, plan, name, &format!("spec.securityGroups[{index}]"))?;
    }
    for (index, pair) in pairs.iter().enumerate() {
        let field = |name: &str| format!("spec.allowedAddressPairs[{index}].{name}");
        let text = pair["ip"].as_str().unwrap_or_default();
        if text.parse::<IpNet>().is_err() && text.parse::<std::net::IpAddr>().is_err() {
            let why = "must be an address or a range such as 10.0.0.0/28";
            return Err(attempt.invalid(FieldError::invalid(field("ip"), text, why)));
        }
        if let Some(mac) = pair["mac"].as_str()
            && !super::is_mac(mac)
        {
            return Err(attempt.invalid(FieldError::invalid(field("mac"), mac, super::MAC_FORM)));
        }
    }
    Ok(())
}
