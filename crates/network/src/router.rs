//! Routers: one namespace each, between the tenant networks that it joins, and to the outside.
//!
//! A network's own namespace is the gateway of its subnets; where a router joins it, its default route leads there, over a veth with
//! link-local addresses. So a network has one router at most. The outside is the host: it routes each outer address to the router that
//! has it, and lets what comes from there out under its own address. Inner addresses never leave a router but as outer ones.

use crate::conntrack::{self, Flow};
use crate::error::Result;
use crate::forwards;
use crate::names::{BRIDGE, Names};
use crate::namespace::{self, Namespace};
use crate::netlink::{Netlink, Route, VethPair};
use crate::nft;
use crate::router6;
use crate::types::{ExternalSide, RouterConfig, RouterInterface};
use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

/// A network's end of the veth to its router.
pub(crate) const TO_ROUTER: &str = "router";
/// A router's end of the veth to the host.
const OUTSIDE: &str = "outside";
/// The first of the link-local /30s between a router and its networks.
const INNER: u32 = 0xa9fe_c000;
/// The link-local /30 between a router and the host: its host's end is on each router's veth.
const OUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 191, 0);
const OUTER_HOST: Ipv4Addr = Ipv4Addr::new(169, 254, 191, 1);
const OUTER_ROUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 191, 2);
/// The largest packet of a veth, bytes: as large as those of networks can be.
const INNER_MTU: u32 = 9000;
const OUTER_MTU: u32 = 1500;

/// Makes a router what `config` says; `networks` are the namespaces of its interfaces, in their order. Blocks.
pub(crate) fn ensure(names: &Names, config: &RouterConfig, networks: &[Namespace]) -> Result<()> {
    let (router, _) = Namespace::open_or_create(&names.router_ns(&config.uid))?;
    let mut inside = router.run(|| {
        namespace::sysctl("net/ipv4/ip_forward", "1")?;
        for scope in ["all", "default"] {
            namespace::sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
            namespace::sysctl(&format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
        }
        namespace::sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        Netlink::connect()
    })?;
    inside.set_up(1)?;
    // Rules first: what is inside never leaves under its own address, not even for a moment.
    let (scope, rules) = (router.name.clone(), rules(config) + &scopes(names, config));
    router.run(move || nft::apply(&scope, &rules))?;
    let mut wanted: BTreeSet<String> = ["lo".to_owned()].into();
    for (at, (interface, network)) in config.interfaces.iter().zip(networks).enumerate() {
        let link = names.router_link(&interface.network_uid);
        let led_elsewhere = leads_everywhere(&behind(config, interface));
        join(&mut inside, &link, network, (at as u32, led_elsewhere), interface)?;
        wanted.insert(link);
    }
    router6::ensure(names, config, &router, networks)?;
    if let Some(external) = &config.external {
        outside(names, config, external, &router, &mut inside)?;
        wanted.insert(OUTSIDE.to_owned());
    }
    // The last, so that one that leads everywhere takes the place of the way out.
    for (at, (interface, network)) in config.interfaces.iter().zip(networks).enumerate() {
        let near = inside.need_link(&names.router_link(&interface.network_uid))?;
        ways_behind(&mut inside, near, at as u32, config, interface)?;
        let by_members = behind(config, interface);
        let by_router = if by_members.is_empty() { vec![] } else { elsewhere(config, interface) };
        lead_behind(network, &by_members, (ends(at as u32).0, &by_router))?;
    }
    let told = config.clone();
    if let Err(error) = router.run(move || conntrack::forget(|flow: Flow| is_stale(&told, &flow))) {
        tracing::warn!(router = config.uid, %error, "flows may go on under outer addresses that are no longer theirs");
    }
    for link in inside.link_names()? {
        let ours = link == OUTSIDE || link.starts_with('n');
        if ours && !wanted.contains(&link) {
            inside.delete_link(&link)?;
        }
    }
    Ok(())
}

/// Whether a flow comes or goes under an outer address that does not stand for its inner one any more.
fn is_stale(config: &RouterConfig, flow: &Flow) -> bool {
    let external = config.external.as_ref();
    let stands = |outer: Ipv4Addr, inner: Ipv4Addr| {
        let mut floating = external.into_iter().flat_map(|external| &external.floating);
        floating.any(|floating| floating.address == outer && floating.fixed == inner)
    };
    let own = |ip: Ipv4Addr| external.is_some_and(|external| external.address == ip);
    let forwarded = || {
        let mut forwards = external.into_iter().flat_map(|external| &external.forwards);
        forwards.any(|forward| forwards::is_of(forward, flow))
    };
    let comes = flow.front.0 != flow.target.0 && !stands(flow.front.0, flow.target.0) && !forwarded();
    let goes = flow.outer.0 != flow.source.0 && !own(flow.outer.0) && !stands(flow.outer.0, flow.source.0);
    comes || goes
}

/// Keeps `link`'s addresses to those that are wanted.
fn addresses(netlink: &mut Netlink, link: u32, wanted: &[Ipv4Net]) -> Result<()> {
    let had: Vec<Ipv4Net> =
        netlink.addresses()?.into_iter().filter(|(of, _)| *of == link).map(|(_, address)| address).collect();
    for old in had.iter().filter(|old| !wanted.contains(old)) {
        netlink.delete_address(link, old.addr(), old.prefix_len())?;
    }
    for new in wanted.iter().filter(|new| !had.contains(new)) {
        netlink.add_address(link, new.addr(), new.prefix_len())?;
    }
    Ok(())
}

fn join(
    inside: &mut Netlink,
    link: &str,
    network: &Namespace,
    (at, led_elsewhere): (u32, bool),
    interface: &RouterInterface,
) -> Result<()> {
    let mut there = network.run(Netlink::connect)?;
    if inside.link_index(link)?.is_none() || there.link_index(TO_ROUTER)?.is_none() {
        inside.delete_link(link)?;
        there.delete_link(TO_ROUTER)?;
        inside.add_veth(&VethPair {
            name: link,
            peer: TO_ROUTER,
            peer_ns: network.fd().as_fd(),
            peer_mac: None,
            mtu: INNER_MTU,
            bridge: None,
        })?;
    }
    let (ours, theirs) = ends(at);
    let (near, far) = (inside.need_link(link)?, there.need_link(TO_ROUTER)?);
    let net = |ip: Ipv4Addr| Ipv4Net::new(ip, 30).unwrap_or_else(|_| Ipv4Net::from(ip));
    addresses(inside, near, &[net(ours)])?;
    // The network's namespace is the router to its members: it answers for the router's addresses. (Gateways it has anyway.)
    let mut wanted = vec![net(theirs)];
    wanted.extend(interface.addresses.iter().copied().map(Ipv4Net::from));
    addresses(&mut there, far, &wanted)?;
    inside.set_up(near)?;
    there.set_up(far)?;
    inside.wait_running(near)?;
    there.wait_running(far)?;
    for subnet in &interface.subnets {
        inside.set_route(*subnet, theirs, near)?;
    }
    if led_elsewhere {
        return Ok(());
    }
    there.set_route(Ipv4Net::default(), ours, far)
}

/// The router's and the network's end of the veth between them.
fn ends(at: u32) -> (Ipv4Addr, Ipv4Addr) {
    let base = INNER + 4 * at;
    (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2))
}

/// The router's routes by way of members of one of its networks. What is a range of one of its networks stays that network's.
fn behind(config: &RouterConfig, interface: &RouterInterface) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let here = |by: &Ipv4Addr| interface.subnets.iter().any(|subnet| subnet.contains(by));
    let is_own = |range: &Ipv4Net| config.interfaces.iter().any(|own| own.subnets.contains(range));
    config.routes.iter().filter(|(range, by)| here(by) && !is_own(range)).copied().collect()
}

/// Whether one of these routes takes the place of the default. Then that is never set, not even for a moment: flows that begin then would
/// go on under an address of the way out.
fn leads_everywhere(routes: &[(Ipv4Net, Ipv4Addr)]) -> bool {
    routes.iter().any(|(range, _)| range.prefix_len() == 0)
}

/// The ranges of a router's other networks, and what is behind members of those: a network that leads wider ranges, or all, by way of its
/// own members has to know them by name.
fn elsewhere(config: &RouterConfig, interface: &RouterInterface) -> Vec<Ipv4Net> {
    let others = config.interfaces.iter().filter(|other| other.network_uid != interface.network_uid);
    let own: BTreeSet<Ipv4Net> = behind(config, interface).into_iter().map(|(range, _)| range).collect();
    let all = others.flat_map(|other| {
        let led = behind(config, other).into_iter().map(|(range, _)| range);
        other.subnets.iter().copied().chain(led).collect::<Vec<_>>()
    });
    all.filter(|range| range.prefix_len() > 0 && !own.contains(range)).collect()
}

/// Keeps a router's routes to a network to its subnets, and what is behind members of it.
fn ways_behind(
    inside: &mut Netlink,
    near: u32,
    at: u32,
    config: &RouterConfig,
    interface: &RouterInterface,
) -> Result<()> {
    let (_, theirs) = ends(at);
    let mut wanted: BTreeSet<Ipv4Net> = interface.subnets.iter().copied().collect();
    for (range, _) in behind(config, interface) {
        inside.set_route(range, theirs, near)?;
        wanted.insert(range);
    }
    for route in inside.routes()? {
        if route.link == Some(near) && route.gateway.is_some() && !wanted.contains(&route.dst) {
            inside.delete_route(route.dst, near)?;
        }
    }
    Ok(())
}

/// Makes a network lead to these ranges by way of its members, to those by its router, whose end of their link is given, and to no others
/// so. Its own ranges stay on the network itself.
pub(crate) fn lead_behind(
    network: &Namespace,
    wanted: &[(Ipv4Net, Ipv4Addr)],
    (router, by_router): (Ipv4Addr, &[Ipv4Net]),
) -> Result<()> {
    let mut there = network.run(Netlink::connect)?;
    let bridge = there.need_link(BRIDGE)?;
    if let Some(far) = there.link_index(TO_ROUTER)? {
        for range in by_router {
            there.set_route(*range, router, far)?;
        }
        for route in there.routes()?.iter().filter(|route| route.link == Some(far)) {
            let stays =
                route.gateway.is_none() || route.dst.prefix_len() == 0 || by_router.contains(&route.dst);
            if !stays {
                there.delete_route(route.dst, far)?;
            }
        }
    }
    let routes = there.routes()?;
    let on_bridge = |route: &&Route| route.link == Some(bridge);
    let is_own = |range: Ipv4Net| {
        routes.iter().filter(on_bridge).any(|route| route.gateway.is_none() && route.dst == range)
    };
    for (range, by) in wanted.iter().filter(|(range, _)| !is_own(*range)) {
        there.set_route(*range, *by, bridge)?;
    }
    for route in routes.iter().filter(on_bridge).filter(|route| route.gateway.is_some()) {
        if !wanted.iter().any(|(range, _)| *range == route.dst) {
            there.delete_route(route.dst, bridge)?;
        }
    }
    Ok(())
}

/// Runs in the host's namespace.
fn outside(
    names: &Names,
    config: &RouterConfig,
    external: &ExternalSide,
    router: &Namespace,
    inside: &mut Netlink,
) -> Result<()> {
    let mut host = Netlink::connect()?;
    let link = names.router_uplink(&config.uid);
    if host.link_index(&link)?.is_none() || inside.link_index(OUTSIDE)?.is_none() {
        host.delete_link(&link)?;
        inside.delete_link(OUTSIDE)?;
        host.add_veth(&VethPair {
            name: &link,
            peer: OUTSIDE,
            peer_ns: router.fd().as_fd(),
            peer_mac: None,
            mtu: OUTER_MTU,
            bridge: None,
        })?;
    }
    let (outer, inner) = (host.need_link(&link)?, inside.need_link(OUTSIDE)?);
    addresses(&mut host, outer, &[Ipv4Net::from(OUTER_HOST)])?;
    let own = outer_addresses(Some(external));
    let mut wanted = vec![Ipv4Net::new(OUTER_ROUTER, 30).unwrap_or_default()];
    wanted.extend(own.iter().copied().map(Ipv4Net::from));
    addresses(inside, inner, &wanted)?;
    host.set_up(outer)?;
    inside.set_up(inner)?;
    host.wait_running(outer)?;
    inside.wait_running(inner)?;
    if !config.interfaces.iter().any(|interface| leads_everywhere(&behind(config, interface))) {
        inside.set_route(Ipv4Net::default(), OUTER_HOST, inner)?;
    }
    let_go(&mut host, outer, &own)?;
    // What the host has itself, or reaches by a way of its own, is not led into a tenant's network.
    let (held, ways) = (host.addresses()?, host.routes()?);
    for ip in own {
        let way = |route: &&Route| route.dst == Ipv4Net::from(ip) && route.link != Some(outer);
        if held.iter().any(|(_, address)| address.addr() == ip) || ways.iter().any(|route| way(&route)) {
            tracing::warn!(%ip, "an outer address is the host's own, or led elsewhere by it: the router does not get it");
            continue;
        }
        host.set_link_route(Ipv4Net::from(ip), outer, OUTER_HOST)?;
    }
    Ok(())
}

fn outer_addresses(external: Option<&ExternalSide>) -> BTreeSet<Ipv4Addr> {
    let floating =
        external.into_iter().flat_map(|external| &external.floating).map(|floating| floating.address);
    let forwards =
        external.into_iter().flat_map(|external| &external.forwards).map(|forward| forward.address);
    floating.chain(forwards).chain(external.map(|external| external.address)).collect()
}

/// Takes back the host's ways to outer addresses that a router has no more. Of all routers this comes before any gets new ones: what one
/// gives up may be another's by now.
///
/// # Errors
/// The kernel's.
pub(crate) fn give_up(names: &Names, config: &RouterConfig) -> Result<()> {
    let mut host = Netlink::connect()?;
    match host.link_index(&names.router_uplink(&config.uid))? {
        Some(link) => let_go(&mut host, link, &outer_addresses(config.external.as_ref())),
        None => Ok(()),
    }
}

fn let_go(host: &mut Netlink, link: u32, own: &BTreeSet<Ipv4Addr>) -> Result<()> {
    let stale = host.routes()?.into_iter().filter(|route| {
        route.link == Some(link) && !(route.dst.prefix_len() == 32 && own.contains(&route.dst.addr()))
    });
    for route in stale.collect::<Vec<_>>() {
        host.delete_route(route.dst, link)?;
    }
    Ok(())
}

/// The links that the host's default routes lead to: what is beyond them is the outside.
fn ways_out(host: &mut Netlink) -> Result<Vec<String>> {
    let defaults: BTreeSet<u32> = host
        .routes()?
        .iter()
        .filter(|route| route.dst.prefix_len() == 0)
        .filter_map(|route| route.link)
        .collect();
    let mut found = Vec::new();
    for name in host.link_names()? {
        if host.link_index(&name)?.is_some_and(|link| defaults.contains(&link)) {
            found.push(name);
        }
    }
    Ok(found)
}

/// A router's own table: which outer addresses stand for which inner ones.
fn rules(config: &RouterConfig) -> String {
    let mut out = String::from("table ip router {}\ndelete table ip router\n");
    let Some(external) = &config.external else { return out };
    let (mut into, mut from) = (String::new(), String::new());
    let mut inner = Vec::new();
    for floating in &external.floating {
        let (address, fixed) = (floating.address, floating.fixed);
        let _ = writeln!(into, "    ip daddr {address} dnat to {fixed}");
        let _ = writeln!(from, "    oifname \"{OUTSIDE}\" ip saddr {fixed} snat to {address}");
        inner.push(fixed.to_string());
    }
    let mut forwarded = String::new();
    for forward in &external.forwards {
        into.push_str(&forwards::translation(forward));
        forwarded.push_str(&forwards::passage(forward, OUTSIDE));
    }
    let address = external.address;
    let rest =
        if external.snat { format!("    oifname \"{OUTSIDE}\" snat to {address}\n") } else { String::new() };
    // Without a translation an inner address would be a stranger's outside.
    let stays = match (external.snat, inner.is_empty()) {
        (true, _) => String::new(),
        (false, true) => format!("    oifname \"{OUTSIDE}\" ct direction original drop\n"),
        (false, false) => format!(
            "    oifname \"{OUTSIDE}\" ct direction original ip saddr != {{ {} }} drop\n",
            inner.join(", ")
        ),
    };
    // A flow ends with the address that it came by or went out under, also one that was there before.
    let own: Vec<String> = outer_addresses(Some(external)).iter().map(ToString::to_string).collect();
    let into_which =
        if inner.is_empty() { String::new() } else { format!("ip daddr != {{ {} }} ", inner.join(", ")) };
    let _ = write!(
        out,
        "table ip router {{
  chain into {{
    type nat hook prerouting priority dstnat; policy accept;
{into}  }}
  chain from {{
    type nat hook postrouting priority srcnat; policy accept;
    iifname \"{OUTSIDE}\" ip saddr {OUTER}/30 snat to {address}
{from}{rest}    ct status dnat iifname != \"{OUTSIDE}\" oifname != \"{OUTSIDE}\" snat to {address}
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct state invalid drop
{forwarded}    iifname \"{OUTSIDE}\" ct direction original {into_which}drop
    oifname \"{OUTSIDE}\" ct state established ct direction original ct reply ip daddr != {{ {outer} }} drop
{stays}  }}
}}
",
        outer = own.join(", ")
    );
    out
}

/// What does not go from one network to another: what would leave its scope of addresses. What a floating IP leads to does, for it is translated.
fn scopes(names: &Names, config: &RouterConfig) -> String {
    let mut out = String::from("table inet scopes {}\ndelete table inet scopes\n");
    let mut apart = String::new();
    for (at, family) in ["ipv4", "ipv6"].into_iter().enumerate() {
        for from in &config.interfaces {
            let others = config.interfaces.iter().filter(|to| to.scopes[at] != from.scopes[at]);
            let links: Vec<String> =
                others.map(|to| format!("\"{}\"", names.router_link(&to.network_uid))).collect();
            if !links.is_empty() {
                let link = names.router_link(&from.network_uid);
                let to = links.join(", ");
                let _ =
                    writeln!(apart, "    iifname \"{link}\" oifname {{ {to} }} meta nfproto {family} drop");
            }
        }
    }
    if !apart.is_empty() {
        let _ = write!(
            out,
            "table inet scopes {{
  chain forward {{
    type filter hook forward priority filter - 1; policy accept;
    ct status dnat accept
{apart}  }}
}}
"
        );
    }
    out
}

/// The host's table: what comes out of routers does so under their addresses, leaves the host under its own, and goes to where the host's
/// default route leads and to other routers: not to the cluster's own networks, to others inside of the host, or to the host itself but for
/// pings.
pub(crate) fn host_table(names: &Names) -> Result<String> {
    let (table, links) = (names.routers_table(), names.router_uplinks());
    let mut out = String::new();
    for way in ways_out(&mut Netlink::connect()?)? {
        let _ = writeln!(out, "    iifname \"{links}\" oifname \"{way}\" accept");
    }
    Ok(format!(
        "table inet {table} {{}}
delete table inet {table}
table inet {table} {{
  chain strict {{
    type filter hook prerouting priority raw; policy accept;
    iifname \"{links}\" fib saddr . iif oif missing drop
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname \"{links}\" ct state established,related accept
    iifname \"{links}\" icmp type echo-request accept
    iifname \"{links}\" drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname \"{links}\" ct state invalid drop
    iifname \"{links}\" ip daddr 169.254.0.0/16 drop
    iifname \"{links}\" ct direction reply accept
    iifname \"{links}\" oifname \"{links}\" accept
{out}    iifname \"{links}\" drop
  }}
  chain source {{
    type nat hook postrouting priority srcnat; policy accept;
    iifname \"{links}\" oifname != \"{links}\" masquerade
  }}
}}
"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::FloatingAddress;

    #[test]
    fn flows_under_an_address_that_stands_for_another_are_stale() {
        let ip = |last| Ipv4Addr::new(10, 0, 0, last);
        let outer = |last| Ipv4Addr::new(172, 31, 0, last);
        let config = |floating: Vec<FloatingAddress>| RouterConfig {
            uid: "r".into(),
            interfaces: vec![],
            external: Some(ExternalSide { address: outer(2), snat: true, floating, forwards: vec![] }),
            routes: vec![],
        };
        let flow = |source, front, target, seen| Flow {
            protocol: conntrack::UDP,
            source: (source, 1),
            front: (front, 2),
            target: (target, 2),
            outer: (seen, 1),
            icmp: None,
        };
        let (far, fixed) = (Ipv4Addr::new(192, 0, 2, 1), ip(3));
        let comes = flow(far, outer(10), fixed, far);
        let goes = flow(fixed, far, far, outer(10));
        let lent = flow(ip(4), far, far, outer(2));
        let now = config(vec![FloatingAddress { address: outer(10), fixed }]);
        assert!(!is_stale(&now, &comes) && !is_stale(&now, &goes) && !is_stale(&now, &lent));
        let moved = config(vec![FloatingAddress { address: outer(10), fixed: ip(4) }]);
        assert!(is_stale(&moved, &comes) && is_stale(&moved, &goes) && !is_stale(&moved, &lent));
        assert!(is_stale(&RouterConfig { external: None, ..now }, &lent));
        assert!(!is_stale(&moved, &flow(ip(3), ip(4), ip(4), ip(3))), "between networks");
    }
}
