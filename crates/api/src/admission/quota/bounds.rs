//! Limits of a quota that bound each object and are no sum of all: how many pairs of metadata a machine has, and how many machines a group.

use serde_json::Value;
use yunfan_resources::names::{QUOTA_GROUP_MEMBERS, QUOTA_METADATA_ITEMS};

use super::super::usage;
use super::super::{Attempt, Refusal, View, WritePlan};
use super::generation_key;

/// The least of what the namespace's quotas say of this key, with the name of the quota that says it.
fn least(view: &View<'_>, attempt: &Attempt<'_>, key: &str) -> Option<(String, i128)> {
    let all = view.list("", "resourcequotas", attempt.namespace);
    let limits = all.iter().filter_map(|quota| {
        let quota = quota.value();
        let limit = quota["spec"]["hard"].get(key)?;
        Some((quota["metadata"]["name"].as_str()?.to_owned(), usage::milli(limit) / 1000))
    });
    limits.min_by_key(|(_, limit)| *limit)
}

fn pairs(machine: &Value) -> i128 {
    machine["spec"]["metadata"].as_object().map_or(0, |pairs| pairs.len() as i128)
}

fn group(machine: &Value) -> Option<&str> {
    machine["spec"]["placement"]["group"].as_str().filter(|name| !name.is_empty())
}

pub(super) fn admit(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let refuse = |quota: String, key: &str, wanted: i128, used: i128, limit: i128| {
        let why =
            format!("exceeded quota: {quota}, requested: {key}={wanted}, used: {used}, limited: {limit}");
        Err(attempt.forbidden(&why))
    };
    let (now, before) = (pairs(attempt.object), attempt.old.map_or(0, pairs));
    if now > before
        && let Some((quota, limit)) = least(view, attempt, QUOTA_METADATA_ITEMS)
        && now > limit
    {
        return refuse(quota, QUOTA_METADATA_ITEMS, now - before, before, limit);
    }
    let joined = group(attempt.object).filter(|name| attempt.old.and_then(group) != Some(*name));
    let Some(name) = joined else { return Ok(()) };
    let Some((quota, limit)) = least(view, attempt, QUOTA_GROUP_MEMBERS) else { return Ok(()) };
    // Who joins at the same moment counts anew: taken before the members are.
    let generation = generation_key(attempt.namespace);
    plan.unchanged(generation.clone(), view.cache.claims().revision(&generation));
    plan.put(generation, attempt.name.to_owned());
    let machines = view.list("compute.yunfan.io", "virtualmachines", attempt.namespace);
    let members = machines.iter().filter(|one| group(&one.decode_stored()) == Some(name)).count() as i128;
    if members >= limit {
        return refuse(quota, QUOTA_GROUP_MEMBERS, 1, members, limit);
    }
    Ok(())
}
