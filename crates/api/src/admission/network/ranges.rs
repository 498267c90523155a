//! Ranges of addresses, of IPv4 and IPv6: what Subnets may have, and which address of them a Port gets.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Value, json};
use yunfan_objects::FieldError;
use yunfan_resources::names::RETIRING_ANNOTATION;
use yunfan_resources::network::{ROUTER_INTERFACE, automatic_address};

use super::super::{Attempt, Refusal, View};
use super::GROUP;

/// The shortest prefixes, and the longest that leave room for a gateway and a port.
const LENGTHS: (u8, u8) = (8, 30);
const LENGTHS_6: (u8, u8) = (16, 126);
/// The smallest largest packet of IPv6, bytes.
pub(super) const SMALLEST_MTU: u64 = 1280;
/// Modes in which addresses are made of MAC addresses.
const AUTOMATIC: [&str; 2] = ["slaac", "dhcpv6-stateless"];

/// A range of IPv4.
pub(super) fn cidr(text: &str) -> Result<Ipv4Net, String> {
    let net: Ipv4Net = text.parse().map_err(|_| match text.parse::<Ipv6Net>() {
        Ok(_) => "must be an IPv4 range: IPv6 is served on tenants' own networks alone".to_owned(),
        Err(_) => "must be an IPv4 range such as 10.10.0.0/24".to_owned(),
    })?;
    whole(net.into(), LENGTHS)?;
    Ok(net)
}

/// A range of either family.
pub(super) fn any_cidr(text: &str) -> Result<IpNet, String> {
    let Ok(net) = text.parse::<Ipv6Net>() else {
        let net: Ipv4Net = text.parse().map_err(
            |_| "must be an IPv4 range such as 10.10.0.0/24, or an IPv6 one such as 2001:db8:1::/64",
        )?;
        whole(net.into(), LENGTHS)?;
        return Ok(net.into());
    };
    whole(net.into(), LENGTHS_6)?;
    let first = net.network();
    let reserved = first.is_unspecified()
        || first.is_loopback()
        || first.is_multicast()
        || first.is_unicast_link_local()
        || first.to_ipv4_mapped().is_some();
    if reserved {
        return Err("must be a range of unicast addresses that are not link-local".to_owned());
    }
    Ok(net.into())
}

fn whole(net: IpNet, (shortest, longest): (u8, u8)) -> Result<(), String> {
    if net.trunc() != net {
        return Err(format!("has host bits set: did you mean {}?", net.trunc()));
    }
    if net.prefix_len() > longest {
        return Err(format!("must be /{longest} or larger"));
    }
    if net.prefix_len() < shortest {
        return Err(format!("must be /{shortest} or smaller"));
    }
    Ok(())
}

pub(super) fn overlap(a: impl Into<IpNet>, b: impl Into<IpNet>) -> bool {
    let (a, b) = (a.into(), b.into());
    a.contains(&b.network()) || b.contains(&a.network())
}

pub(super) fn ip_of(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

/// Whether a port can have it. IPv6 has no broadcast; the first address of a range stands for its routers.
pub(super) fn usable(net: impl Into<IpNet>, ip: impl Into<IpAddr>) -> bool {
    let (net, ip) = (net.into(), ip.into());
    net.contains(&ip) && ip != net.network() && (ip.is_ipv6() || ip != net.broadcast())
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// The address of a range's family that has this number.
fn numbered(net: IpNet, number: u128) -> IpAddr {
    match net {
        // It is one of the range's.
        IpNet::V4(_) => Ipv4Addr::from_bits(number as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from_bits(number).into(),
    }
}

/// A Network with Subnets of IPv6 has packets as large as that has at least.
pub(super) fn mtu(view: &View<'_>, attempt: &Attempt<'_>) -> Result<(), Refusal> {
    let mtu = attempt.object["spec"]["mtu"].as_u64().unwrap_or(SMALLEST_MTU);
    if mtu >= SMALLEST_MTU || attempt.old.is_none() {
        return Ok(());
    }
    let six = |subnet: &Value| {
        let cidr = subnet["spec"]["cidr"].as_str().unwrap_or_default();
        subnet["spec"]["network"] == attempt.name && cidr.contains(':')
    };
    if view.list(GROUP, "subnets", attempt.namespace).iter().any(|subnet| six(subnet.value())) {
        let why = format!("must be {SMALLEST_MTU} at least, since the Network has a Subnet of IPv6");
        return Err(attempt.invalid(FieldError::invalid("spec.mtu", mtu, why)));
    }
    Ok(())
}

/// What a Subnet says of how guests come to have addresses: of IPv6 alone, and one thing.
pub(super) fn modes(attempt: &Attempt<'_>, net: IpNet) -> Result<(), Refusal> {
    let spec = &attempt.object["spec"];
    let (told, made) = (spec["raMode"].as_str(), spec["addressMode"].as_str());
    let Some(mode) = told.or(made) else { return Ok(()) };
    let field = if told.is_some() { "spec.raMode" } else { "spec.addressMode" };
    let wrong =
        |field: &str, value: &str, why: String| Err(attempt.invalid(FieldError::invalid(field, value, why)));
    if net.addr().is_ipv4() {
        return wrong(field, mode, "is for Subnets of IPv6 alone".to_owned());
    }
    if told.is_some() && made.is_some() && told != made {
        return wrong("spec.addressMode", made.unwrap_or_default(), format!("must be {mode}, as raMode is"));
    }
    if spec["enableDhcp"] == false {
        return wrong(field, mode, "cannot be set where enableDhcp is false".to_owned());
    }
    if AUTOMATIC.contains(&mode) && net.prefix_len() != 64 {
        return wrong(field, mode, format!("needs a range of /64, since addresses are made of MACs: {net}"));
    }
    Ok(())
}

pub(super) fn gateway_and_pools(attempt: &mut Attempt<'_>, net: IpNet) -> Result<(), Refusal> {
    let spec = &attempt.object["spec"];
    let gateway = match spec["gatewayIp"].as_str() {
        None | Some("") => numbered(net, number(net.network()) + 1),
        Some(text) => match text.parse::<IpAddr>() {
            Ok(ip) if usable(net, ip) => ip,
            _ => {
                let why = format!("must be an address of {net}, neither its first nor its last");
                return Err(attempt.invalid(FieldError::invalid("spec.gatewayIp", text, why)));
            }
        },
    };
    for (index, pool) in spec["allocationPools"].as_array().into_iter().flatten().enumerate() {
        let ends = (ip_of(&pool["start"]), ip_of(&pool["end"]));
        if !matches!(ends, (Some(start), Some(end)) if start <= end && usable(net, start) && usable(net, end))
        {
            let why = format!("must run from a lower to a higher address of {net}");
            let field = format!("spec.allocationPools[{index}]");
            return Err(attempt.invalid(FieldError::invalid(field, pool.clone(), why)));
        }
    }
    let (family, v4) = if net.addr().is_ipv4() { ("IPv4", true) } else { ("IPv6", false) };
    for (index, route) in spec["hostRoutes"].as_array().into_iter().flatten().enumerate() {
        let range = route["destination"].as_str().and_then(|text| text.parse::<IpNet>().ok());
        let range = range.filter(|range| range.addr().is_ipv4() == v4);
        let next = ip_of(&route["nexthop"]).filter(|next| !net.contains(next) || usable(net, *next));
        let next = next.filter(|next| next.is_ipv4() == v4);
        if range.is_none() || next.is_none() {
            let why = format!(
                "must lead from an {family} range (destination) to an address that a port can have (nexthop)"
            );
            let field = format!("spec.hostRoutes[{index}]");
            return Err(attempt.invalid(FieldError::invalid(field, route.clone(), why)));
        }
    }
    for (index, server) in spec["dnsNameservers"].as_array().into_iter().flatten().enumerate() {
        if !v4 && ip_of(server).is_none_or(|ip| ip.is_ipv4()) {
            let field = format!("spec.dnsNameservers[{index}]");
            return Err(attempt.invalid(FieldError::invalid(
                field,
                server.clone(),
                "must be an IPv6 address",
            )));
        }
    }
    attempt.object["spec"]["gatewayIp"] = json!(gateway.to_string());
    Ok(())
}

/// A Subnet as allocation needs it.
pub(super) struct Range {
    pub(super) name: String,
    pub(super) net: IpNet,
    gateway: Option<IpAddr>,
    pools: Vec<(IpAddr, IpAddr)>,
    /// Its addresses are made of MAC addresses.
    automatic: bool,
    /// It gives no more of them.
    pub(super) retiring: bool,
}

impl Range {
    pub(super) fn of(object: &Value) -> Option<Self> {
        let spec = &object["spec"];
        let net: IpNet = spec["cidr"].as_str()?.parse().ok()?;
        let mut pools: Vec<_> = spec["allocationPools"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|pool| Some((ip_of(&pool["start"])?, ip_of(&pool["end"])?)))
            .collect();
        if pools.is_empty() {
            let last = number(net.broadcast()) - u128::from(net.addr().is_ipv4());
            pools.push((numbered(net, number(net.network()) + 1), numbered(net, last)));
        }
        let name = object["metadata"]["name"].as_str()?.to_owned();
        let is = |field: &str| spec[field].as_str().is_some_and(|mode| AUTOMATIC.contains(&mode));
        let automatic = is("raMode") || is("addressMode");
        let retiring = object["metadata"]["annotations"][RETIRING_ANNOTATION] == "true";
        Some(Self { name, net, gateway: ip_of(&spec["gatewayIp"]), pools, automatic, retiring })
    }

    /// Whether it is one of those that it gives out.
    pub(super) fn gives(&self, ip: impl Into<IpAddr>) -> bool {
        let ip = ip.into();
        let pooled = self.pools.iter().any(|(first, last)| (*first..=*last).contains(&ip));
        pooled && usable(self.net, ip) && self.gateway != Some(ip)
    }

    pub(super) fn free(&self, taken: &HashSet<String>) -> Option<IpAddr> {
        let all = self.pools.iter().flat_map(|(a, b)| number(*a)..=number(*b));
        let mut all = all.map(|number| numbered(self.net, number));
        all.find(|ip| Some(*ip) != self.gateway && usable(self.net, *ip) && !taken.contains(&ip.to_string()))
    }

    /// Whether who names neither an address nor a Subnet may get one of it.
    fn is_for_any(&self) -> bool {
        !self.automatic && !self.retiring
    }

    /// The address that a MAC makes of it.
    fn made(&self, mac: &str) -> Option<IpAddr> {
        match self.net {
            IpNet::V6(net) if self.automatic => automatic_address(net, mac).map(IpAddr::from),
            _ => None,
        }
    }
}

fn is_router(attempt: &Attempt<'_>) -> bool {
    attempt.object["spec"]["deviceOwner"] == ROUTER_INTERFACE
}

/// What a Port is to have an address of: what it says, or a Subnet of each family, and all Subnets whose addresses are made of its MAC.
pub(super) fn wishes(attempt: &Attempt<'_>, ranges: &[Range]) -> Vec<Value> {
    let mut all = attempt.object["spec"]["fixedIps"].as_array().cloned().unwrap_or_default();
    if all.is_empty() && !ranges.is_empty() {
        let has =
            |v4: bool| ranges.iter().any(|range| range.net.addr().is_ipv4() == v4 && range.is_for_any());
        all.extend([true, false].into_iter().filter(|v4| has(*v4)).map(|v4| json!({ "v4": v4 })));
    }
    // What was made of another MAC is made anew.
    let before = attempt.old.and_then(|old| old["spec"]["macAddress"].as_str()).unwrap_or_default();
    for wish in &mut all {
        let Some(ip) = ip_of(&wish["ip"]) else { continue };
        let made = ranges.iter().find(|range| range.made(before) == Some(ip));
        if let Some(range) = made {
            *wish = json!({ "subnet": range.name });
        }
    }
    if !is_router(attempt) {
        for range in ranges.iter().filter(|range| range.automatic && !range.retiring) {
            let is_of = |wish: &Value| {
                wish["subnet"] == range.name.as_str()
                    || ip_of(&wish["ip"]).is_some_and(|ip| range.net.contains(&ip))
            };
            if !all.iter().any(is_of) {
                all.push(json!({ "subnet": range.name }));
            }
        }
    }
    all
}

/// The Subnet and the address that a wish means.
pub(super) fn address(
    attempt: &Attempt<'_>,
    ranges: &[Range],
    taken: &HashSet<String>,
    fixed: &Value,
    index: usize,
) -> Result<(String, IpAddr), Refusal> {
    let field = |name: &str| format!("spec.fixedIps[{index}].{name}");
    let subnet = fixed["subnet"].as_str().filter(|s| !s.is_empty());
    let given = fixed["ip"].as_str().filter(|ip| !ip.is_empty());
    let family = fixed["v4"].as_bool();
    let of = |range: &&Range| {
        subnet.is_none_or(|name| range.name == name)
            && family.is_none_or(|v4| range.net.addr().is_ipv4() == v4)
            && (subnet.is_some() || given.is_some() || range.is_for_any())
    };
    let mut wanted = ranges.iter().filter(of).collect::<Vec<_>>();
    // Of those that would do, IPv4 comes first.
    wanted.sort_by_key(|range| range.net.addr().is_ipv6());
    if wanted.is_empty() {
        let why = match subnet.is_some() || given.is_some() || ranges.is_empty() {
            true => "no such Subnet on the Port's Network",
            false => {
                "must name one: addresses of the Network's Subnets are made of MACs, and the Port has them"
            }
        };
        return Err(attempt.invalid(FieldError::invalid(field("subnet"), subnet.unwrap_or_default(), why)));
    }
    let router = is_router(attempt);
    let mac = attempt.object["spec"]["macAddress"].as_str().unwrap_or_default();
    let used = |ip: &str| {
        Err(attempt.invalid(FieldError::invalid(field("ip"), ip, "is already used by another Port")))
    };
    let Some(text) = given else {
        let made = wanted.first().filter(|range| range.automatic && !router && subnet.is_some());
        if let Some((range, ip)) = made.and_then(|range| Some((range, range.made(mac)?))) {
            return if taken.contains(&ip.to_string()) {
                used(&ip.to_string())
            } else {
                Ok((range.name.clone(), ip))
            };
        }
        let free = wanted.iter().find_map(|range| Some((range.name.clone(), range.free(taken)?)));
        return free.ok_or_else(|| {
            let names: Vec<_> = wanted.iter().map(|r| format!("{} ({})", r.name, r.net)).collect();
            attempt.conflict(&format!("no address is free on Subnet {}", names.join(", ")))
        });
    };
    let ip = text.parse::<IpAddr>().ok();
    let range = ip.and_then(|ip| Some((wanted.iter().find(|r| usable(r.net, ip))?, ip)));
    let Some((range, ip)) = range else {
        let why = "is no usable address of the Network's Subnets";
        return Err(attempt.invalid(FieldError::invalid(field("ip"), text, why)));
    };
    // A router's place on a network is where the gateway is.
    if range.gateway == Some(ip) && !router {
        return Err(attempt.invalid(FieldError::invalid(field("ip"), text, "is the gateway's address")));
    }
    if range.automatic && !router && range.made(mac) != Some(ip) {
        let why = format!(
            "cannot be directly assigned to a port on subnet {} as the subnet is configured for automatic addresses",
            range.name
        );
        return Err(attempt.invalid(FieldError::invalid(field("ip"), text, why)));
    }
    if taken.contains(&ip.to_string()) {
        return used(text);
    }
    Ok((range.name.clone(), ip))
}
