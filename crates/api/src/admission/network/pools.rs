//! SubnetPools: which ranges Subnets get, so that no two of a pool overlap.
//!
//! A Subnet of a pool writes the pool's counter and compares it and the pool, and a change of the pool compares the counter: so two at a
//! time do not get the same range, and none gets one that its pool no longer has.

use ipnet::IpNet;
use serde_json::Value;
use yunfan_objects::FieldError;
use yunfan_resources::network::{SubnetPoolSpec, network_place};

use super::super::{Attempt, Refusal, View, WritePlan};
use super::{GROUP, any_cidr, overlap, scopes, shares, uses};

const PLURAL: &str = "subnetpools";
const COUNTER: &str = "subnetpool";

fn net(value: &Value) -> Option<IpNet> {
    value.as_str()?.parse().ok()
}

/// A range that a Subnet has of a pool.
struct Given {
    namespace: String,
    name: String,
    range: IpNet,
}

/// Those of a pool; of one that is shared, in all namespaces.
fn given(view: &View<'_>, owner: &str, pool: &str, shared: bool) -> Vec<Given> {
    let subnets = view.list(GROUP, "subnets", if shared { "" } else { owner });
    let of = |subnet: &Value| {
        let text = |field: &str| subnet["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let range = net(&subnet["spec"]["cidr"])?;
        let place = network_place(&namespace, subnet["spec"]["subnetPool"].as_str()?);
        (place == (owner, pool)).then_some(Given { namespace, name, range })
    };
    subnets.iter().filter_map(|subnet| of(subnet.value())).collect()
}

/// The pool of each other Subnet of a version on the Network of a new one, and the scope of that.
fn beside(view: &View<'_>, attempt: &Attempt<'_>, range: IpNet) -> Vec<scopes::Beside> {
    let network = &attempt.object["spec"]["network"];
    let subnets = view.list(GROUP, "subnets", attempt.namespace);
    let here = subnets.iter().filter(|subnet| {
        let subnet = subnet.value();
        let same =
            net(&subnet["spec"]["cidr"]).is_some_and(|net| net.addr().is_ipv4() == range.addr().is_ipv4());
        same && subnet["spec"]["network"] == *network && subnet["metadata"]["name"] != attempt.name
    });
    here.map(|subnet| {
        let Some(pool) = subnet.value()["spec"]["subnetPool"].as_str() else { return (None, None) };
        let (owner, name) = network_place(attempt.namespace, pool);
        let there = view.get(GROUP, PLURAL, owner, name);
        let scope = there.and_then(|pool| scopes::place_of(owner, pool.value()));
        (Some((owner.to_owned(), name.to_owned())), scope)
    })
    .collect()
}

/// A new Subnet that is of a pool has a range of it that no other has.
pub(super) fn subnet(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
    range: IpNet,
) -> Result<(), Refusal> {
    let others = beside(view, attempt, range);
    let Some(reference) = attempt.object["spec"]["subnetPool"].as_str() else {
        return scopes::together(attempt, (None, None), &others);
    };
    let (owner, pool) = network_place(attempt.namespace, reference);
    let there = view.get(GROUP, PLURAL, owner, pool);
    let there = there.filter(|pool| pool.value()["metadata"]["deletionTimestamp"].is_null());
    let Some(there) = there.filter(|pool| shares::may_use(view, attempt, owner, pool.value())) else {
        let why = match owner == attempt.namespace {
            true => format!("no such SubnetPool in namespace {owner}"),
            false => format!("no SubnetPool of namespace {owner} that is shared with the project"),
        };
        return Err(attempt.invalid(FieldError::invalid("spec.subnetPool", reference, why)));
    };
    scopes::together(attempt, (Some((owner, pool)), scopes::place_of(owner, there.value())), &others)?;
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
    let mut others = given(view, owner, pool, !spec.shared_with.is_empty());
    others
        .retain(|other| (other.namespace.as_str(), other.name.as_str()) != (attempt.namespace, attempt.name));
    if let Some(other) = others.iter().find(|other| overlap(range, other.range)) {
        // Of another project's Subnet nothing is told but its range.
        let whose =
            if other.namespace == attempt.namespace { other.name.as_str() } else { "of another project" };
        return Err(wrong(format!("overlaps Subnet {whose} ({}) of the same SubnetPool", other.range)));
    }
    // Of IPv4 each address counts, of IPv6 each /64, as in Neutron.
    let size = |net: &IpNet| {
        let unit = if net.addr().is_ipv4() { 32 } else { 64_u8 };
        unit.checked_sub(net.prefix_len()).map_or(0, |bits| 1_u64 << bits)
    };
    let own = others.iter().filter(|other| other.namespace == attempt.namespace);
    let used = own.map(|other| size(&other.range)).fold(0, u64::saturating_add);
    if spec.quota.is_some_and(|quota| used.saturating_add(size(&range)) > u64::from(quota)) {
        let why = format!(
            "Per-tenant subnet pool prefix quota exceeded: {used} addresses of SubnetPool {pool} are in use"
        );
        return Err(attempt.conflict(&why));
    }
    plan.unchanged(there.key.as_ref(), there.revision);
    let counter = uses(COUNTER, owner, pool);
    plan.put(counter.clone(), attempt.name.to_owned());
    plan.unchanged(counter.clone(), view.cache.claims().revision(&counter));
    Ok(())
}

/// A pool's prefixes are ranges apart from one another, and hold what Subnets have of them.
pub(super) fn pool(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let Some(shared) = shares::said(view, attempt, PLURAL)? else { return Ok(()) };
    let attempt = &*attempt;
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
    scopes::pool(view, attempt, plan, (&spec, &ranges))?;
    one_default(view, attempt, plan, &spec)?;
    if attempt.old.is_some() {
        let (before, now) = &shared;
        let others = given(view, attempt.namespace, attempt.name, !(before.is_empty() && now.is_empty()));
        let outside = others.iter().find(|it| !ranges.iter().any(|range| range.contains(&it.range)));
        if let Some(Given { name, range, .. }) = outside {
            let why = format!("Subnet {name} has {range}, which would be in none of its prefixes");
            return Err(attempt.conflict(&why));
        }
        let lost = |it: &&Given| {
            it.namespace != attempt.namespace && shares::loses(view, &it.namespace, before, now)
        };
        if let Some(Given { namespace, name, .. }) = others.iter().find(lost) {
            let why = format!(
                "Subnet {namespace}/{name} has a range of it, of a project that it would no longer be for"
            );
            return Err(attempt.conflict(&why));
        }
        let counter = uses(COUNTER, attempt.namespace, attempt.name);
        plan.unchanged(counter.clone(), view.cache.claims().revision(&counter));
    }
    Ok(())
}

/// Of each version one pool is the default; which one, who may change all says.
fn one_default(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
    spec: &SubnetPoolSpec,
) -> Result<(), Refusal> {
    let was = attempt.old.is_some_and(|old| old["spec"]["isDefault"] == true);
    if !spec.is_default || was {
        return Ok(());
    }
    if !shares::may_change_all(view, attempt, PLURAL) {
        return Err(attempt.forbidden("only an administrator says which SubnetPool is the default"));
    }
    let six = |pool: &Value| net(&pool["spec"]["prefixes"][0]).is_some_and(|net| net.addr().is_ipv6());
    let all = view.list(GROUP, PLURAL, "");
    let other = all
        .iter()
        .find(|pool| pool.value()["spec"]["isDefault"] == true && six(pool.value()) == spec.is_of_ipv6());
    if other.is_some() {
        let why = "A default subnetpool for this IP family has already been set. Only one default may exist per IP family";
        return Err(attempt.conflict(why));
    }
    // Of two that become it at one time the second finds this changed.
    let counter = uses("defaultpool", "", if spec.is_of_ipv6() { "6" } else { "4" });
    plan.unchanged(counter.clone(), view.cache.claims().revision(&counter));
    plan.put(counter, attempt.name.to_owned());
    Ok(())
}

/// A pool that Subnets are of stays.
pub(super) fn unused(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let shared = attempt.old.is_some_and(|old| !shares::shares(old).is_empty());
    let count = given(view, attempt.namespace, attempt.name, shared).len();
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
