//! AddressScopes: no two pools of one have the same address, the Subnets of a Network are all in the same, and those in use stay.
//!
//! A pool that comes into a scope, or changes while it is in one, writes the scope's counter and compares it.

use ipnet::IpNet;
use serde_json::Value;
use yunfan_objects::FieldError;
use yunfan_resources::network::{AddressScopeSpec, IpVersion, Share, SubnetPoolSpec, network_place};

use super::super::{Attempt, Refusal, View, WritePlan};
use super::{GROUP, overlap, shares, uses};

const PLURAL: &str = "addressscopes";
const COUNTER: &str = "addressscope";

/// Of what another Subnet of a Network is: the namespace and name of its pool, and the place of that one's scope.
pub(super) type Beside = (Option<(String, String)>, Option<String>);

/// A pool that is in a scope.
struct Member {
    namespace: String,
    name: String,
    prefixes: Vec<IpNet>,
}

/// The pools of a scope; of one that is shared, in all namespaces.
fn members(view: &View<'_>, owner: &str, scope: &str, shared: bool) -> Vec<Member> {
    let pools = view.list(GROUP, "subnetpools", if shared { "" } else { owner });
    let of = |pool: &Value| {
        let text = |field: &str| pool["metadata"][field].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        let within = network_place(&namespace, pool["spec"]["addressScope"].as_str()?) == (owner, scope);
        let prefixes = pool["spec"]["prefixes"].as_array().into_iter().flatten();
        let prefixes = prefixes.filter_map(|prefix| prefix.as_str()?.parse().ok()).collect();
        within.then_some(Member { namespace, name, prefixes })
    };
    pools.iter().filter_map(|pool| of(pool.value())).collect()
}

/// A scope keeps its version, and is not taken from those whose pools are in it.
pub(super) fn scope(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let version = |scope: &Value| {
        serde_json::from_value::<AddressScopeSpec>(scope["spec"].clone()).map(|it| it.ip_version)
    };
    if let Some(old) = attempt.old
        && let (Ok(before), Ok(now)) = (version(old), version(attempt.object))
        && before != now
    {
        let value = attempt.object["spec"]["ipVersion"].clone();
        return Err(attempt.invalid(FieldError::invalid("spec.ipVersion", value, "field is immutable")));
    }
    let Some((before, now)) = shares::said(view, attempt, PLURAL)? else { return Ok(()) };
    still_for(view, attempt, plan, (&before, &now))
}

fn still_for(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
    (before, now): (&[Share], &[Share]),
) -> Result<(), Refusal> {
    if before.is_empty() || before == now {
        return Ok(());
    }
    let counter = uses(COUNTER, attempt.namespace, attempt.name);
    let revision = view.cache.claims().revision(&counter);
    let lost = |pool: &Member| {
        pool.namespace != attempt.namespace && shares::loses(view, &pool.namespace, before, now)
    };
    if let Some(pool) = members(view, attempt.namespace, attempt.name, true).iter().find(|pool| lost(pool)) {
        let why = format!(
            "SubnetPool {}/{} is in it, of a project that it would no longer be for",
            pool.namespace, pool.name
        );
        return Err(attempt.conflict(&why));
    }
    // A pool that comes meanwhile changes it.
    plan.unchanged(counter, revision);
    Ok(())
}

/// A scope that pools are in stays.
pub(super) fn unused(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let shared = attempt.old.is_some_and(|old| !shares::shares(old).is_empty());
    let counter = uses(COUNTER, attempt.namespace, attempt.name);
    let revision = view.cache.claims().revision(&counter);
    let count = members(view, attempt.namespace, attempt.name, shared).len();
    if count > 0 {
        return Err(attempt.conflict(&format!("{count} SubnetPool(s) are in it: take them out first")));
    }
    plan.unchanged(counter.clone(), revision);
    if revision != 0 && attempt.operation == super::Operation::Delete {
        plan.free(counter);
    }
    Ok(())
}

/// A pool is in a scope that its project may use, of its version, where no other has its addresses, and where the Subnets are that share
/// Networks with its own.
pub(super) fn pool(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
    (spec, ranges): (&SubnetPoolSpec, &[IpNet]),
) -> Result<(), Refusal> {
    let named = |pool: &Value| pool["spec"]["addressScope"].as_str().map(str::to_owned);
    let before = attempt.old.and_then(named);
    let prefixes = |pool: &Value| pool["spec"]["prefixes"].clone();
    let same = before == spec.address_scope;
    if same && (before.is_none() || attempt.old.is_some_and(|old| prefixes(old) == prefixes(attempt.object)))
    {
        return Ok(());
    }
    if !same && attempt.old.is_some() {
        apart(view, attempt, spec)?;
    }
    let Some(reference) = spec.address_scope.as_deref() else { return Ok(()) };
    let (owner, name) = network_place(attempt.namespace, reference);
    let wrong = |why: String| attempt.invalid(FieldError::invalid("spec.addressScope", reference, why));
    let there = view.get(GROUP, PLURAL, owner, name);
    let there = there.filter(|scope| scope.value()["metadata"]["deletionTimestamp"].is_null());
    let Some(there) = there.filter(|it| shares::may_use(view, attempt, owner, it.value())) else {
        return Err(wrong("no such AddressScope that the project may use".to_owned()));
    };
    let scope: AddressScopeSpec = serde_json::from_value(there.value()["spec"].clone())
        .map_err(|error| wrong(format!("AddressScope {name} cannot be read: {error}")))?;
    if (scope.ip_version == IpVersion::V6) != spec.is_of_ipv6() {
        return Err(wrong("is of another version of IP than the pool".to_owned()));
    }
    let counter = uses(COUNTER, owner, name);
    let revision = view.cache.claims().revision(&counter);
    let others = members(view, owner, name, !scope.shared_with.is_empty());
    let others = others
        .iter()
        .filter(|it| (it.namespace.as_str(), it.name.as_str()) != (attempt.namespace, attempt.name));
    for other in others {
        if other.prefixes.iter().any(|prefix| ranges.iter().any(|own| overlap(*prefix, *own))) {
            let why = format!(
                "has SubnetPool {}/{} with the same addresses: subnetpools within an address scope must have unique prefixes",
                other.namespace, other.name
            );
            return Err(wrong(why));
        }
    }
    plan.unchanged(there.key.as_ref(), there.revision);
    plan.put(counter.clone(), attempt.name.to_owned());
    plan.unchanged(counter, revision);
    Ok(())
}

/// A pool whose Subnets are on Networks with Subnets of other pools stays in their scope.
fn apart(view: &View<'_>, attempt: &Attempt<'_>, spec: &SubnetPoolSpec) -> Result<(), Refusal> {
    let subnets = view.list(GROUP, "subnets", "");
    let of = |subnet: &Value| -> Option<(String, String, bool, bool)> {
        let namespace = subnet["metadata"]["namespace"].as_str()?;
        let network = subnet["spec"]["network"].as_str()?.to_owned();
        let six = subnet["spec"]["cidr"].as_str()?.contains(':');
        let pool = subnet["spec"]["subnetPool"].as_str();
        let ours =
            pool.is_some_and(|pool| network_place(namespace, pool) == (attempt.namespace, attempt.name));
        Some((namespace.to_owned(), network, six, ours))
    };
    let all: Vec<_> = subnets.iter().filter_map(|subnet| of(subnet.value())).collect();
    let mixed = |(namespace, network, six, ours): &(String, String, bool, bool)| {
        *ours
            && all
                .iter()
                .any(|other| (&other.0, &other.1, &other.2, other.3) == (namespace, network, six, false))
    };
    if all.iter().any(mixed) {
        let value = spec.address_scope.clone();
        let why = "Networks have Subnets of it and of others, which must all be allocated from the same address scope";
        return Err(attempt.invalid(FieldError::invalid("spec.addressScope", value, why)));
    }
    Ok(())
}

/// All Subnets of a version on a Network are of one pool, or of pools in one scope. `pools` are the pools of the others there, and the new one's.
pub(super) fn together(
    attempt: &Attempt<'_>,
    (new, scope): (Option<(&str, &str)>, Option<String>),
    others: &[Beside],
) -> Result<(), Refusal> {
    let wrong = |why: &str| {
        let value = attempt.object["spec"]["subnetPool"].clone();
        Err(attempt.invalid(FieldError::invalid("spec.subnetPool", value, why)))
    };
    let scoped = others.iter().find_map(|(_, scope)| scope.clone());
    if scoped.is_some() && new.is_some() && scoped != scope {
        return wrong(
            "Subnets of the same address family hosted on the same network must all be allocated from the same address scope",
        );
    }
    for (other, _) in others {
        let other = other.as_ref().map(|(namespace, name)| (namespace.as_str(), name.as_str()));
        let differs = match new {
            Some(_) => other != new && scoped.is_none(),
            None => other.is_some(),
        };
        if differs {
            return wrong("Subnets hosted on the same network must be allocated from the same subnet pool");
        }
    }
    Ok(())
}

/// The place of the scope that a pool of a namespace is in.
pub(super) fn place_of(namespace: &str, pool: &Value) -> Option<String> {
    let (owner, name) = network_place(namespace, pool["spec"]["addressScope"].as_str()?);
    Some(format!("{owner}/{name}"))
}
