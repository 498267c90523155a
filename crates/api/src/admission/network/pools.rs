//! SubnetPools: which ranges Subnets get, so that no two of a pool overlap.
//!
//! A Subnet of a pool writes the pool's counter and compares it and the pool, and a change of the pool compares the counter: so two at a
//! time do not get the same range, and none gets one that its pool no longer has.

use ipnet::IpNet;
use serde_json::Value;
use yunfan_objects::FieldError;
use yunfan_resources::network::SubnetPoolSpec;

use super::super::{Attempt, Refusal, View, WritePlan};
use super::{GROUP, any_cidr, overlap, uses};

const PLURAL: &str = "subnetpools";
const COUNTER: &str = "subnetpool";

fn net(value: &Value) -> Option<IpNet> {
    value.as_str()?.parse().ok()
}

/// The ranges of a namespace's Subnets that are of a pool, but for one Subnet.
fn given(view: &View<'_>, namespace: &str, pool: &str, but: &str) -> Vec<(String, IpNet)> {
    let subnets = view.list(GROUP, "subnets", namespace);
    let of = |subnet: &Value| {
        let name = subnet["metadata"]["name"].as_str()?.to_owned();
        let range = net(&subnet["spec"]["cidr"])?;
        (subnet["spec"]["subnetPool"] == pool && name != but).then_some((name, range))
    };
    subnets.iter().filter_map(|subnet| of(subnet.value())).collect()
}

/// A new Subnet that is of a pool has a range of it that no other has.
pub(super) fn subnet(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
    range: IpNet,
) -> Result<(), Refusal> {
    let Some(pool) = attempt.object["spec"]["subnetPool"].as_str() else { return Ok(()) };
    let there = view.get(GROUP, PLURAL, attempt.namespace, pool);
    let Some(there) = there.filter(|pool| pool.value()["metadata"]["deletionTimestamp"].is_null()) else {
        let why = format!("no such SubnetPool in namespace {}", attempt.namespace);
        return Err(attempt.invalid(FieldError::invalid("spec.subnetPool", pool, why)));
    };
    let wrong = |why: String| attempt.invalid(FieldError::invalid("spec.cidr", range.to_string(), why));
    let spec: SubnetPoolSpec = serde_json::from_value(there.value()["spec"].clone())
        .map_err(|error| wrong(format!("SubnetPool {pool} cannot be read: {error}")))?;
    let within = |prefix: &String| prefix.parse::<IpNet>().is_ok_and(|prefix| prefix.contains(&range));
    if !spec.prefixes.iter().any(within) {
        return Err(wrong(format!("is in none of the prefixes of SubnetPool {pool}")));
    }
    let (shortest, longest) = spec.lengths();
    if !(shortest..=longest).contains(&range.prefix_len()) {
        return Err(wrong(format!("SubnetPool {pool} gives prefixes from /{shortest} to /{longest}")));
    }
    let others = given(view, attempt.namespace, pool, attempt.name);
    if let Some((name, other)) = others.iter().find(|(_, other)| overlap(range, *other)) {
        return Err(wrong(format!("overlaps Subnet {name} ({other}) of the same SubnetPool")));
    }
    // Of IPv4 each address counts, of IPv6 each /64, as in Neutron.
    let size = |net: &IpNet| {
        let unit = if net.addr().is_ipv4() { 32 } else { 64_u8 };
        unit.checked_sub(net.prefix_len()).map_or(0, |bits| 1_u64 << bits)
    };
    let used = others.iter().map(|(_, other)| size(other)).fold(0, u64::saturating_add);
    if spec.quota.is_some_and(|quota| used.saturating_add(size(&range)) > u64::from(quota)) {
        let why = format!(
            "Per-tenant subnet pool prefix quota exceeded: {used} addresses of SubnetPool {pool} are in use"
        );
        return Err(attempt.conflict(&why));
    }
    plan.unchanged(there.key.as_ref(), there.revision);
    let counter = uses(COUNTER, attempt.namespace, pool);
    plan.put(counter.clone(), attempt.name.to_owned());
    plan.unchanged(counter.clone(), view.cache.claims().revision(&counter));
    Ok(())
}

/// A pool's prefixes are ranges apart from one another, and hold what Subnets have of them.
pub(super) fn pool(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let Ok(spec) = serde_json::from_value::<SubnetPoolSpec>(attempt.object["spec"].clone()) else {
        return Ok(());
    };
    let mut ranges: Vec<IpNet> = Vec::with_capacity(spec.prefixes.len());
    for (index, text) in spec.prefixes.iter().enumerate() {
        let wrong =
            |why| attempt.invalid(FieldError::invalid(format!("spec.prefixes[{index}]"), text.clone(), why));
        let range = any_cidr(text).map_err(wrong)?;
        if ranges.first().is_some_and(|first| first.addr().is_ipv4() != range.addr().is_ipv4()) {
            return Err(wrong("a pool has prefixes of IPv4 or of IPv6, not both".to_owned()));
        }
        if let Some(other) = ranges.iter().find(|other| overlap(range, **other)) {
            return Err(wrong(format!("overlaps {other}")));
        }
        ranges.push(range);
    }
    let (family, most) = if spec.is_of_ipv6() { ("IPv6", 128) } else { ("IPv4", 32) };
    let lengths = [
        ("defaultLength", spec.default_length),
        ("minLength", spec.min_length),
        ("maxLength", spec.max_length),
    ];
    for (field, length) in lengths {
        if let Some(length) = length.filter(|length| *length > most) {
            let why = format!("must be {most} at most, since the prefixes are of {family}");
            return Err(attempt.invalid(FieldError::invalid(format!("spec.{field}"), length, why)));
        }
    }
    let ((shortest, longest), usual) = (spec.lengths(), spec.usual_length());
    if !(shortest <= usual && usual <= longest) {
        let why = "must be from the shortest to the longest that is allowed";
        return Err(attempt.invalid(FieldError::invalid("spec.defaultLength", usual, why)));
    }
    if attempt.old.is_some() {
        let others = given(view, attempt.namespace, attempt.name, "");
        let outside = others.iter().find(|(_, net)| !ranges.iter().any(|range| range.contains(net)));
        if let Some((name, net)) = outside {
            let why = format!("Subnet {name} has {net}, which would be in none of its prefixes");
            return Err(attempt.conflict(&why));
        }
        let counter = uses(COUNTER, attempt.namespace, attempt.name);
        plan.unchanged(counter.clone(), view.cache.claims().revision(&counter));
    }
    Ok(())
}

/// A pool that Subnets are of stays.
pub(super) fn unused(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let count = given(view, attempt.namespace, attempt.name, "").len();
    if count > 0 {
        return Err(attempt.conflict(&format!("{count} Subnet(s) have ranges of it: delete them first")));
    }
    let counter = uses(COUNTER, attempt.namespace, attempt.name);
    let revision = view.cache.claims().revision(&counter);
    plan.unchanged(counter.clone(), revision);
    if revision != 0 && attempt.operation == super::Operation::Delete {
        plan.free(counter);
    }
    Ok(())
}
