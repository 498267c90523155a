//! ExternalNetworks are checked, and stay while addresses of them are held; Routers and FloatingIps get theirs.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use serde_json::{Value, json};
use yunfan_objects::FieldError;
use yunfan_resources::network::ROUTER_INTERFACE;

use super::{GROUP, Range, cidr, forwards, ip_of, overlap, usable, uses};
use crate::admission::claims::{self, external_addresses};
use crate::admission::{Attempt, Operation, Refusal, View, WritePlan};
use crate::keys;

const PLURAL: &str = "externalnetworks";
/// Network interfaces of routers that one Network has at most.
const COUNTER: &str = "external";

/// An ExternalNetwork's ranges are ranges, apart from the cluster's own and from each other; what is held stays within them.
pub(super) fn external(
    view: &View<'_>,
    attempt: &mut Attempt<'_>,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    let mut subnets = attempt.object["spec"]["subnets"].as_array().cloned().unwrap_or_default();
    let mut known: Vec<Ipv4Net> = vec![view.config.service_cidr, view.config.cluster_cidr];
    // One address is one tenant's, whatever the network is called.
    for other in view.list(GROUP, PLURAL, "").iter().map(|other| other.value()) {
        if other["metadata"]["name"] != attempt.name {
            let subnets = other["spec"]["subnets"].as_array().into_iter().flatten();
            known.extend(subnets.filter_map(|subnet| cidr(subnet["cidr"].as_str()?).ok()));
        }
    }
    let mut ranges = Vec::new();
    for (index, subnet) in subnets.iter_mut().enumerate() {
        let field = |name: &str| format!("spec.subnets[{index}].{name}");
        let text = subnet["cidr"].as_str().unwrap_or_default().to_owned();
        let net = cidr(&text)
            .map_err(|why| attempt.invalid(FieldError::invalid(field("cidr"), text.clone(), why)))?;
        if let Some(other) = known.iter().find(|other| overlap(net, **other)) {
            let why = format!("overlaps {other}");
            return Err(attempt.invalid(FieldError::invalid(field("cidr"), text, why)));
        }
        known.push(net);
        if subnet["gatewayIp"]
            .as_str()
            .is_some_and(|ip| !ip.parse::<Ipv4Addr>().is_ok_and(|ip| usable(net, ip)))
        {
            let given = subnet["gatewayIp"].clone();
            return Err(attempt.invalid(FieldError::invalid(
                field("gatewayIp"),
                given,
                format!("is no address of {net}"),
            )));
        }
        for pool in subnet["allocationPools"].as_array().into_iter().flatten() {
            let ends = (ip_of(&pool["start"]), ip_of(&pool["end"]));
            if !matches!(ends, (Some(start), Some(end)) if start <= end && usable(net, start) && usable(net, end))
            {
                let why = format!("must run from a lower to a higher address of {net}");
                return Err(attempt.invalid(FieldError::invalid(
                    field("allocationPools"),
                    pool.clone(),
                    why,
                )));
            }
        }
        ranges.push(net);
    }
    let counter = uses(COUNTER, "", attempt.name);
    let revision = view.cache.claims().revision(&counter);
    let held = view.cache.claims().under(&external_addresses(attempt.name));
    let outside = held
        .iter()
        .find(|ip| ip.parse::<Ipv4Addr>().is_ok_and(|ip| !ranges.iter().any(|net| net.contains(&ip))));
    if let Some(ip) = outside {
        return Err(
            attempt.conflict(&format!("its address {ip} is in use, and would be in none of its ranges"))
        );
    }
    plan.unchanged(counter, revision);
    Ok(())
}

/// One whose addresses are held stays.
pub(super) fn unused_external(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    let counter = uses(COUNTER, "", attempt.name);
    let revision = view.cache.claims().revision(&counter);
    let held = view.cache.claims().under(&external_addresses(attempt.name)).len();
    if held > 0 {
        return Err(
            attempt.conflict(&format!("{held} of its addresses are in use, by Routers or FloatingIps"))
        );
    }
    plan.unchanged(counter.clone(), revision);
    if revision != 0 && attempt.operation == Operation::Delete {
        plan.free(counter);
    }
    Ok(())
}

/// The address that is wanted of an ExternalNetwork, or the next free one. `had` is the one that the object has already.
fn address(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    plan: &mut WritePlan,
    place: &str,
    network: &str,
    wanted: Option<&str>,
    had: Option<&str>,
) -> Result<String, Refusal> {
    let there = view.get(GROUP, PLURAL, "", network);
    let Some(there) = there.filter(|it| it.value()["metadata"]["deletionTimestamp"].is_null()) else {
        let field = format!("{place}network");
        return Err(attempt.invalid(FieldError::invalid(field, network, "no such ExternalNetwork")));
    };
    if let (Some(had), true) = (had, wanted.is_none() || wanted == had) {
        return Ok(had.to_owned());
    }
    plan.exists(keys::object_key(&keys::kind_prefix(GROUP, PLURAL), "", network));
    plan.put(uses(COUNTER, "", network), attempt.name.to_owned());
    let ranges: Vec<Range> = there.value()["spec"]["subnets"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|subnet| Range::of(&json!({"metadata": {"name": subnet["id"]}, "spec": subnet})))
        .collect();
    let taken = view.cache.claims().under(&external_addresses(network));
    match wanted {
        None => {
            let free = ranges.iter().find_map(|range| range.free(&taken));
            free.map(|ip| ip.to_string())
                .ok_or_else(|| attempt.conflict(&format!("no address is free on ExternalNetwork {network}")))
        }
        Some(text) => {
            let wrong =
                |why: &str| attempt.invalid(FieldError::invalid(format!("{place}ip"), text, why.to_owned()));
            let ip: Ipv4Addr = text.parse().map_err(|_| wrong("is no IPv4 address"))?;
            // Its other addresses are others': the host leads what is given out to whoever has it.
            if !ranges.iter().any(|range| range.gives(ip)) {
                return Err(wrong("is in no allocation pool of the ExternalNetwork"));
            }
            if taken.contains(text) {
                return Err(wrong("is already in use"));
            }
            Ok(ip.to_string())
        }
    }
}

/// A Router's way out and its places on Networks.
pub(super) fn router(
    view: &View<'_>,
    attempt: &mut Attempt<'_>,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    interfaces(view, attempt, plan)?;
    routes(view, attempt)?;
    let gateway = attempt.object["spec"]["gateway"].clone();
    let Some(network) = gateway["network"].as_str() else { return Ok(()) };
    let old = attempt.old.map(|old| &old["spec"]["gateway"]).filter(|old| old["network"] == network);
    let had = old.and_then(|old| old["ip"].as_str());
    let wanted = gateway["ip"].as_str().filter(|ip| !ip.is_empty());
    let ip = address(view, attempt, plan, "spec.gateway.", network, wanted, had)?;
    attempt.object["spec"]["gateway"]["ip"] = json!(ip);
    Ok(())
}

/// Each place is a Port that is made for that, on a Network of its own, and their ranges are apart.
fn interfaces(view: &View<'_>, attempt: &Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    let names = |object: &Value| -> Vec<String> {
        let all = object["spec"]["interfaces"].as_array().into_iter().flatten();
        all.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let wanted = names(attempt.object);
    let before = attempt.old.map(names).unwrap_or_default();
    if wanted == before {
        return Ok(());
    }
    let routers = view.list(GROUP, "routers", attempt.namespace);
    let elsewhere: Vec<String> = routers
        .iter()
        .filter(|router| router.value()["metadata"]["name"] != attempt.name)
        .flat_map(|router| names(router.value()))
        .collect();
    let port = |name: &str| view.get(GROUP, "ports", attempt.namespace, name);
    let network =
        |name: &str| port(name).and_then(|port| port.value()["spec"]["network"].as_str().map(str::to_owned));
    let mut ranges: Vec<IpNet> = Vec::new();
    for (index, name) in wanted.iter().enumerate() {
        let wrong = |why: String| {
            attempt.invalid(FieldError::invalid(format!("spec.interfaces[{index}]"), name.as_str(), why))
        };
        let there = port(name).filter(|port| port.value()["spec"]["deviceOwner"] == ROUTER_INTERFACE);
        let Some(there) = there else {
            if before.contains(name) {
                continue;
            }
            return Err(wrong(format!(
                "no Port of a router with this name in namespace {}",
                attempt.namespace
            )));
        };
        let on = there.value()["spec"]["network"].as_str().unwrap_or_default();
        if elsewhere.iter().any(|other| network(other).as_deref() == Some(on)) {
            return Err(wrong(format!("Network {on} has another Router: a Network has one at most")));
        }
        for fixed in there.value()["spec"]["fixedIps"].as_array().into_iter().flatten() {
            let subnet =
                view.get(GROUP, "subnets", attempt.namespace, fixed["subnet"].as_str().unwrap_or_default());
            let net =
                subnet.and_then(|subnet| subnet.value()["spec"]["cidr"].as_str()?.parse::<IpNet>().ok());
            let Some(net) = net else { continue };
            if let Some(other) = ranges.iter().find(|other| overlap(net, **other)) {
                return Err(wrong(format!("its range {net} overlaps {other}, which the Router has already")));
            }
            ranges.push(net);
        }
        if !before.contains(name) {
            // Two routers that come to a network at one time: the second finds the counter changed.
            let counter = uses("router", attempt.namespace, on);
            plan.unchanged(counter.clone(), view.cache.claims().revision(&counter));
            plan.put(counter, attempt.name.to_owned());
        }
    }
    Ok(())
}

/// Each static route leads by an address that a member of one of the Router's Networks can have; and such a Network stays while one does.
fn routes(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let list = |field: &str| attempt.object["spec"][field].as_array().cloned().unwrap_or_default();
    let routes = list("routes");
    let same = |field: &str| {
        let value = |object: &Value| object["spec"][field].as_array().cloned().unwrap_or_default();
        attempt.old.is_some_and(|old| value(old) == list(field))
    };
    if routes.is_empty() || (same("routes") && same("interfaces")) {
        return Ok(());
    }
    let (mut ranges, mut own) = (Vec::new(), Vec::new());
    for name in list("interfaces") {
        let Some(port) = view.get(GROUP, "ports", attempt.namespace, name.as_str().unwrap_or_default())
        else {
            continue;
        };
        for fixed in port.value()["spec"]["fixedIps"].as_array().into_iter().flatten() {
            own.extend(ip_of(&fixed["ip"]));
            let name = fixed["subnet"].as_str().unwrap_or_default();
            let subnet = view.get(GROUP, "subnets", attempt.namespace, name);
            ranges.extend(
                subnet.and_then(|subnet| subnet.value()["spec"]["cidr"].as_str()?.parse::<Ipv4Net>().ok()),
            );
        }
    }
    let mut led: Vec<Ipv4Net> = Vec::new();
    for (index, route) in routes.iter().enumerate() {
        let wrong = |field: &str, why: &str| {
            let path = format!("spec.routes[{index}].{field}");
            Err(attempt.invalid(FieldError::invalid(path, route[field].clone(), why)))
        };
        let range = route["destination"].as_str().and_then(|text| text.parse::<Ipv4Net>().ok());
        let Some(range) = range.filter(|range| range.trunc() == *range && can_be_behind(*range)) else {
            return wrong(
                "destination",
                "must be an IPv4 range like 10.20.0.0/16, of addresses that can be routed",
            );
        };
        if led.contains(&range) {
            return wrong("destination", "there is another route to this range");
        }
        led.push(range);
        let Some(by) = ip_of(&route["nexthop"]) else {
            return wrong("nexthop", "must be an IPv4 address");
        };
        if by.is_ipv6() {
            return wrong("nexthop", "must be an IPv4 address");
        }
        if own.contains(&by) {
            return wrong("nexthop", "the nexthop is used by router");
        }
        if !ranges.iter().any(|range| usable(*range, by)) {
            return wrong(
                "nexthop",
                "the nexthop is not connected with router: it must be on one of its Networks",
            );
        }
    }
    Ok(())
}

/// Whether a range can be led to: none of loopback, link-local or multicast addresses. (All addresses together are a default route.)
fn can_be_behind(range: Ipv4Net) -> bool {
    let ip = range.network();
    range.prefix_len() == 0
        || !(ip.octets()[0] == 0 || ip.is_loopback() || ip.is_link_local() || ip.octets()[0] >= 224)
}

/// A FloatingIp's address, and the address that it stands for.
pub(super) fn floating(
    view: &View<'_>,
    attempt: &mut Attempt<'_>,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    let spec = attempt.object["spec"].clone();
    let Some(network) = spec["network"].as_str() else { return Ok(()) };
    let had = attempt.old.and_then(|old| old["spec"]["ip"].as_str().filter(|ip| !ip.is_empty()));
    let wanted = spec["ip"].as_str().filter(|ip| !ip.is_empty());
    let moved = attempt.old.is_some_and(|old| old["spec"]["network"] != network);
    if moved || (had.is_some() && wanted.is_some() && wanted != had) {
        return Err(attempt.invalid(FieldError::invalid(
            "spec.ip",
            spec["ip"].clone(),
            "field is immutable",
        )));
    }
    let leads = spec["port"].as_str().is_some_and(|name| !name.is_empty())
        || spec["forwardings"].as_array().is_some_and(|all| !all.is_empty());
    let is_outside = |object: &Value| object["spec"]["outside"].is_object();
    if is_outside(attempt.object) && leads {
        let why = "something outside has the address: it leads to no Port";
        return Err(attempt.invalid(FieldError::invalid("spec.outside", spec["outside"].clone(), why)));
    }
    if attempt.old.is_some_and(|old| is_outside(old) != is_outside(attempt.object)) {
        let why = "whether something outside has the address stays as it is";
        return Err(attempt.invalid(FieldError::invalid("spec.outside", spec["outside"].clone(), why)));
    }
    let ip = address(view, attempt, plan, "spec.", network, wanted, had)?;
    attempt.object["spec"]["ip"] = json!(ip);
    forwards::check(view, attempt, plan)?;
    let Some(name) = spec["port"].as_str().filter(|name| !name.is_empty()) else {
        if let Some(spec) = attempt.object["spec"].as_object_mut() {
            spec.remove("fixedIp");
        }
        return Ok(());
    };
    let same =
        attempt.old.is_some_and(|old| ["port", "fixedIp"].iter().all(|key| old["spec"][*key] == spec[*key]));
    if same {
        return Ok(());
    }
    let Some(port) = view.get(GROUP, "ports", attempt.namespace, name) else {
        return Err(attempt.invalid(FieldError::invalid("spec.port", name, "no such Port in the namespace")));
    };
    let fixed: Vec<String> = port.value()["spec"]["fixedIps"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|fixed| fixed["ip"].as_str().map(str::to_owned))
        .collect();
    // Outer addresses are of IPv4, and stand for such.
    let fixed: Vec<String> = fixed.into_iter().filter(|ip| ip.parse::<Ipv4Addr>().is_ok()).collect();
    let chosen = match spec["fixedIp"].as_str().filter(|ip| !ip.is_empty()) {
        Some(ip) => fixed.iter().find(|own| *own == ip),
        None => fixed.first(),
    };
    let Some(chosen) = chosen else {
        let given = spec["fixedIp"].clone();
        return Err(attempt.invalid(FieldError::invalid(
            "spec.fixedIp",
            given,
            "is no IPv4 address of the Port",
        )));
    };
    // The address may be the chain's choice, and there is no other to choose.
    let holder = view.cache.claims().holder(&claims::floating(attempt.namespace, name, chosen));
    let own = format!("{} {}/{}", attempt.kind.descriptor.kind, attempt.namespace, attempt.name);
    if let Some(by) = holder.filter(|by| *by != own) {
        let why = format!("it is already used by {by}");
        return Err(attempt.invalid(FieldError::invalid("spec.fixedIp", chosen.as_str(), why)));
    }
    plan.exists(keys::object_key(&keys::kind_prefix(GROUP, "ports"), attempt.namespace, name));
    attempt.object["spec"]["fixedIp"] = json!(chosen);
    Ok(())
}
