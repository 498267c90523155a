//! Tenant networks: Subnets are checked and completed, Ports get their addresses, and what is still in
//! use stays.
//!
//! Who uses a Network or a Subnet writes the user's counter key (`/claims/uses/...`) in its own
//! transaction; who takes it away compares that key. So "is it in use?" is exact without a lock.

mod addresses;
mod forwards;
mod groups;
mod outer;
mod pools;
mod qos;
mod ranges;
mod scopes;
mod shares;

use ipnet::IpNet;
use serde_json::{Value, json};
use yunfan_objects::FieldError;
use yunfan_resources::network::network_place;

use ranges::{Range, any_cidr, cidr, gateway_and_pools, ip_of, overlap, usable};

use super::claims::{network_addresses, network_macs};
use super::{Attempt, Operation, Refusal, View, WritePlan};
use crate::keys::{self, CLAIMS};

const GROUP: &str = "network.yunfan.io";
/// The name that stands for the cluster network in annotations.
const CLUSTER_NETWORK: &str = yunfan_resources::names::CLUSTER_NETWORK;

pub(super) fn admit(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    if attempt.kind.descriptor.group != GROUP || !attempt.subresource.is_empty() {
        return Ok(());
    }
    // An object with finalizers is first marked: what is in use is not even marked.
    let operation = if attempt.is_marked_now() { Operation::Delete } else { attempt.operation };
    match (attempt.kind.descriptor.plural.as_str(), operation) {
        ("networks", Operation::Create) if attempt.name == CLUSTER_NETWORK => Err(attempt.invalid(
            FieldError::invalid("metadata.name", CLUSTER_NETWORK, "this name stands for the cluster network"),
        )),
        ("networks", Operation::Create | Operation::Update) => {
            qos::default_of(view, attempt);
            qos::user(view, attempt, plan)?;
            ranges::mtu(view, attempt)?;
            shares::network(view, attempt, plan)
        }
        ("networks", Operation::Delete) => unused(view, attempt, plan, "network"),
        ("subnets", Operation::Create) => subnet(view, attempt, plan),
        ("subnets", Operation::Update) => subnet_update(view, attempt, plan),
        ("subnets", Operation::Delete) => unused(view, attempt, plan, "subnet"),
        ("subnetpools", Operation::Create | Operation::Update) => pools::pool(view, attempt, plan),
        ("subnetpools", Operation::Delete) => pools::unused(view, attempt, plan),
        ("addressscopes", Operation::Create | Operation::Update) => scopes::scope(view, attempt, plan),
        ("addressscopes", Operation::Delete) => scopes::unused(view, attempt, plan),
        ("ports", Operation::Create | Operation::Update) => {
            groups::port(view, attempt, plan)?;
            qos::user(view, attempt, plan)?;
            port(view, attempt, plan)
        }
        ("qospolicies", Operation::Create | Operation::Update) => qos::policy(view, attempt, plan),
        ("qospolicies", Operation::Delete) => qos::unused(view, attempt, plan),
        ("externalnetworks", Operation::Create | Operation::Update) => outer::external(view, attempt, plan),
        ("externalnetworks", Operation::Delete) => outer::unused_external(view, attempt, plan),
        ("routers", Operation::Create | Operation::Update) => outer::router(view, attempt, plan),
        ("floatingips", Operation::Create | Operation::Update) => outer::floating(view, attempt, plan),
        ("addressgroups", Operation::Create | Operation::Update) => addresses::group(attempt),
        ("addressgroups", Operation::Delete) => addresses::unused(view, attempt, plan),
        ("securitygroups", Operation::Create | Operation::Update) => groups::group(view, attempt, plan),
        ("securitygroups", Operation::Delete) => groups::unused_group(view, attempt, plan),
        _ => Ok(()),
    }
}

fn uses(kind: &str, namespace: &str, name: &str) -> String {
    format!("{CLAIMS}uses/{kind}/{namespace}/{name}")
}

/// A Network with Subnets' or other Ports on it, or a Subnet with Ports, stays.
fn unused(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan, kind: &str) -> Result<(), Refusal> {
    let counter = uses(kind, attempt.namespace, attempt.name);
    let revision = view.cache.claims().revision(&counter);
    let subnet = |port: &Value| {
        port["spec"]["fixedIps"].as_array().into_iter().flatten().any(|ip| ip["subnet"] == attempt.name)
    };
    let on = match kind {
        "network" => Some(attempt.name),
        _ => attempt.old.and_then(|old| old["spec"]["network"].as_str()),
    };
    let ports = on.map(|network| shares::ports_on(view, attempt.namespace, network)).unwrap_or_default();
    let mut users: Vec<String> = ports
        .iter()
        .filter(|port| kind == "network" || subnet(port.value()))
        .map(|port| port.key.rsplit('/').next().unwrap_or_default().to_owned())
        .collect();
    if !users.is_empty() {
        let count = users.len();
        users.truncate(5);
        let why = format!("{count} Port(s) are on it ({}): delete them first", users.join(", "));
        return Err(attempt.conflict(&why));
    }
    plan.unchanged(counter.clone(), revision);
    if revision != 0 && attempt.operation == Operation::Delete {
        plan.free(counter);
    }
    Ok(())
}

fn subnet(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let Some(network) = attempt.object["spec"]["network"].as_str().map(str::to_owned) else { return Ok(()) };
    let Some(text) = attempt.object["spec"]["cidr"].as_str().map(str::to_owned) else { return Ok(()) };
    need_network(view, attempt, plan, attempt.namespace, &network)?;
    let net = any_cidr(&text)
        .map_err(|why| attempt.invalid(FieldError::invalid("spec.cidr", text.clone(), why)))?;
    ranges::modes(attempt, net)?;
    let mtu = view.get(GROUP, "networks", attempt.namespace, &network);
    let mtu = mtu.and_then(|network| network.value()["spec"]["mtu"].as_u64());
    if net.addr().is_ipv6() && mtu.is_some_and(|mtu| mtu < ranges::SMALLEST_MTU) {
        let why = format!("needs a Network whose mtu is {} at least", ranges::SMALLEST_MTU);
        return Err(attempt.invalid(FieldError::invalid("spec.cidr", text, why)));
    }
    let services = view.config.service_cidrs();
    if let Some(service) = services.into_iter().find(|service| overlap(net, *service)) {
        let why = format!("overlaps the Service range {service}");
        return Err(attempt.invalid(FieldError::invalid("spec.cidr", text, why)));
    }
    for sibling in view.list(GROUP, "subnets", attempt.namespace) {
        let spec = &sibling.value()["spec"];
        let other = spec["cidr"].as_str().and_then(|c| c.parse::<IpNet>().ok());
        if spec["network"] == network.as_str() && other.is_some_and(|other| overlap(net, other)) {
            let name = sibling.value()["metadata"]["name"].as_str().unwrap_or_default();
            let why = format!("overlaps Subnet {name} ({}) of the same Network", other.unwrap_or(net));
            return Err(attempt.invalid(FieldError::invalid("spec.cidr", text, why)));
        }
    }
    pools::subnet(view, attempt, plan, net)?;
    // Two Subnets made at one time could overlap: the second finds the counter changed.
    let counter = uses("network", attempt.namespace, &network);
    plan.unchanged(counter.clone(), view.cache.claims().revision(&counter));
    gateway_and_pools(attempt, net)
}

fn subnet_update(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let Some(old) = attempt.old else { return Ok(()) };
    for field in ["network", "cidr", "subnetPool", "raMode", "addressMode"] {
        if attempt.object["spec"][field] != old["spec"][field] {
            let value = attempt.object["spec"][field].clone();
            return Err(attempt.invalid(FieldError::invalid(
                format!("spec.{field}"),
                value,
                "field is immutable",
            )));
        }
    }
    let Some(net) = old["spec"]["cidr"].as_str().and_then(|text| text.parse::<IpNet>().ok()) else {
        return Ok(());
    };
    ranges::modes(attempt, net)?;
    shares::retires(view, attempt, plan)?;
    // Who does not say where the gateway is leaves it where it is.
    if attempt.object["spec"]["gatewayIp"].as_str().is_none_or(str::is_empty) {
        attempt.object["spec"]["gatewayIp"] = old["spec"]["gatewayIp"].clone();
    }
    gateway_and_pools(attempt, net)?;
    let gateway = attempt.object["spec"]["gatewayIp"].as_str().unwrap_or_default().to_owned();
    if old["spec"]["gatewayIp"] == gateway.as_str() {
        return Ok(());
    }
    gateway_moves(view, attempt, plan)?;
    let network = old["spec"]["network"].as_str().unwrap_or_default();
    let claim = format!("{}{gateway}", network_addresses(attempt.namespace, network));
    if view.cache.claims().is_held(&claim) {
        let why = "is already used by a Port";
        return Err(attempt.invalid(FieldError::invalid("spec.gatewayIp", gateway, why)));
    }
    // A port that takes it meanwhile changes the claim.
    let revision = view.cache.claims().revision(&claim);
    plan.unchanged(claim, revision);
    Ok(())
}

/// The gateway's address does not change while Ports have addresses of the Subnet: what runs would go on using the old one for names,
/// metadata and all ways out.
fn gateway_moves(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let counter = uses("subnet", attempt.namespace, attempt.name);
    let revision = view.cache.claims().revision(&counter);
    let network = attempt.object["spec"]["network"].as_str().unwrap_or_default();
    let ports = shares::ports_on(view, attempt.namespace, network);
    let has = |port: &Value| {
        port["spec"]["fixedIps"].as_array().into_iter().flatten().any(|ip| ip["subnet"] == attempt.name)
    };
    let count = ports.iter().filter(|port| has(port.value())).count();
    if count > 0 {
        let why = format!("{count} Port(s) have addresses of it, and use its gatewayIp: delete them first");
        return Err(attempt.conflict(&why));
    }
    plan.unchanged(counter, revision);
    Ok(())
}

/// The Network must be there, and stays while this write commits.
fn need_network(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
    owner: &str,
    network: &str,
) -> Result<(), Refusal> {
    let prefix = keys::kind_prefix(GROUP, "networks");
    let key = keys::object_key(&prefix, owner, network);
    let there = view.get(GROUP, "networks", owner, network);
    let there = there.filter(|n| n.value()["metadata"]["deletionTimestamp"].is_null());
    let Some(there) = there.filter(|n| shares::may_use(view, attempt, owner, n.value())) else {
        let why = match owner == attempt.namespace {
            true => format!("no such Network in namespace {owner}"),
            false => format!("no Network of namespace {owner} that is shared with the project"),
        };
        return Err(attempt.invalid(FieldError::invalid("spec.network", network, why)));
    };
    if owner == attempt.namespace {
        plan.exists(key);
    } else {
        // As it is now: whom it is shared with may change at the same time.
        plan.unchanged(key, there.revision);
    }
    plan.put(uses("network", owner, network), attempt.name.to_owned());
    Ok(())
}

fn port(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let Some(network) = attempt.object["spec"]["network"].as_str().map(str::to_owned) else { return Ok(()) };
    let (owner, on) = network_place(attempt.namespace, &network);
    shares::no_router(attempt, owner)?;
    shares::stays_secured(view, attempt, owner, on)?;
    if let Some(old) = attempt.old {
        if old["spec"]["network"] != network.as_str() {
            return Err(attempt.invalid(FieldError::invalid("spec.network", network, "field is immutable")));
        }
        let kept = ["macAddress", "fixedIps"].iter().all(|f| attempt.object["spec"][*f] == old["spec"][*f]);
        if kept {
            return Ok(());
        }
    }
    let (owner, network) = (owner.to_owned(), on.to_owned());
    need_network(view, attempt, plan, &owner, &network)?;
    mac(view, attempt, &owner, &network)?;
    let subnets = view.list(GROUP, "subnets", &owner);
    let on_network: Vec<_> = subnets
        .iter()
        .filter(|s| s.value()["spec"]["network"] == network.as_str())
        .filter(|s| s.value()["metadata"]["deletionTimestamp"].is_null())
        .collect();
    let held = attempt.old.and_then(|old| old["spec"]["fixedIps"].as_array().cloned()).unwrap_or_default();
    // What a port has it keeps, whatever its subnet is for by now.
    let is_held = |subnet: &Value| held.iter().any(|fixed| fixed["subnet"] == subnet["metadata"]["name"]);
    let usable: Vec<_> =
        on_network.iter().filter(|s| is_for(s.value(), attempt.object) || is_held(s.value())).collect();
    if usable.is_empty() && !on_network.is_empty() {
        return Err(attempt.conflict("no subnet of the network is for ports of this kind (serviceTypes)"));
    }
    let mut ranges: Vec<Range> = usable.into_iter().filter_map(|s| Range::of(s.value())).collect();
    ranges.retain(|range| !range.retiring || held.iter().any(|fixed| fixed["subnet"] == range.name.as_str()));
    if attempt.object["spec"]["holder"]["kind"] == "Pod" {
        // Pods have IPv4 alone.
        let had = ranges.len();
        ranges.retain(|range| range.net.addr().is_ipv4());
        if ranges.is_empty() && had > 0 {
            let why = format!("Network {network} has no Subnet of IPv4, and Pods have no other addresses");
            return Err(attempt.conflict(&why));
        }
    }
    let mut taken = view.cache.claims().under(&network_addresses(&owner, &network));
    for fixed in &held {
        taken.remove(fixed["ip"].as_str().unwrap_or_default());
    }
    let mut chosen = Vec::new();
    for (index, wish) in ranges::wishes(attempt, &ranges).iter().enumerate() {
        let (subnet, ip) = ranges::address(attempt, &ranges, &taken, wish, index)?;
        taken.insert(ip.to_string());
        // As it was looked at: its gateway may be about to move to this address.
        let prefix = keys::kind_prefix(GROUP, "subnets");
        let revision = subnets.iter().find(|s| s.value()["metadata"]["name"] == subnet.as_str());
        let revision = revision.map(|s| s.revision).unwrap_or_default();
        plan.unchanged(keys::object_key(&prefix, &owner, &subnet), revision);
        plan.put(uses("subnet", &owner, &subnet), attempt.name.to_owned());
        chosen.push(json!({ "subnet": subnet, "ip": ip.to_string() }));
    }
    attempt.object["spec"]["fixedIps"] = Value::Array(chosen);
    Ok(())
}

/// Whether a Subnet is for ports of this sort.
fn is_for(subnet: &Value, port: &Value) -> bool {
    let types = subnet["spec"]["serviceTypes"].as_array();
    let owner = match port["spec"]["holder"]["kind"].as_str() {
        Some("VirtualMachine") => "compute:nova",
        Some("Pod") => "compute:pod",
        _ => port["spec"]["deviceOwner"].as_str().unwrap_or_default(),
    };
    types.is_none_or(|types| types.is_empty() || types.iter().any(|one| one == owner))
}

fn mac(view: &View<'_>, attempt: &mut Attempt<'_>, owner: &str, network: &str) -> Result<(), Refusal> {
    if let Some(given) = attempt.object["spec"]["macAddress"].as_str().filter(|m| !m.is_empty()) {
        if !is_mac(given) {
            return Err(attempt.invalid(FieldError::invalid("spec.macAddress", given, MAC_FORM)));
        }
        let is_new = attempt.old.is_none_or(|old| old["spec"]["macAddress"] != given);
        if is_new && given.starts_with(GATEWAYS) {
            let why = "addresses that begin so are those of networks' gateways";
            return Err(attempt.invalid(FieldError::invalid("spec.macAddress", given, why)));
        }
        return Ok(());
    }
    let taken = network_macs(owner, network);
    let seed = attempt.seed();
    let mut all = (0..1 << 24).map(|step| vendor_mac(seed.wrapping_add(step)));
    let free = all.find(|mac| !view.cache.claims().is_held(&format!("{taken}{mac}")));
    let free =
        free.ok_or_else(|| attempt.conflict(&format!("no MAC address is free on Network {network}")))?;
    attempt.object["spec"]["macAddress"] = json!(free);
    Ok(())
}

/// How the MACs of networks' gateways begin: who had one would have its gateway's link-local address too.
const GATEWAYS: &str = "02:58:";

const MAC_FORM: &str = "must be six lower-case pairs with colons between, and no multicast address";

fn is_mac(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let digits = |part: &&str| part.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
    parts.len() == 6
        && parts.iter().all(|part| part.len() == 2 && digits(part))
        && u8::from_str_radix(parts[0], 16).is_ok_and(|first| first & 1 == 0)
}

/// The address of this number (its last 24 bits) among those of virtual machines.
fn vendor_mac(number: u32) -> String {
    let [_, a, b, c] = number.to_be_bytes();
    format!("fa:16:3e:{a:02x}:{b:02x}:{c:02x}")
}
