//! The part of routers that is about IPv6: between their networks alone, without translation.
//!
//! Each end of the veth between a router and a network has a link-local address, so that no range is needed for it. What a router has as
//! its own address on a network, and is no gateway, the network's bridge answers for.

use crate::error::Result;
use crate::names::{BRIDGE, Names};
use crate::namespace::{self, Namespace};
use crate::netlink::Netlink;
use crate::router::TO_ROUTER;
use crate::six;
use crate::types::{RouterConfig, RouterInterface};
use ipnet::Ipv6Net;
use std::net::Ipv6Addr;

/// The router's end of a veth, and the network's.
const OURS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const THEIRS: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// Makes a router lead between the ranges of IPv6 of its networks, whose veths are there. Blocks.
pub(crate) fn ensure(
    names: &Names,
    config: &RouterConfig,
    router: &Namespace,
    networks: &[Namespace],
) -> Result<()> {
    for (interface, network) in config.interfaces.iter().zip(networks) {
        let link = names.router_link(&interface.network_uid);
        let ranges = interface.subnets6.clone();
        router.run(move || inside(&link, &ranges))?;
        let interface = interface.clone();
        network.run(move || there(&interface))?;
    }
    Ok(())
}

/// A router's end. Runs in its namespace.
fn inside(link: &str, ranges: &[Ipv6Net]) -> Result<()> {
    if ranges.is_empty() {
        return switch_off(link);
    }
    six::enable(link)?;
    let mut netlink = Netlink::connect()?;
    let near = netlink.need_link(link)?;
    six::addresses(&mut netlink, near, &[local(OURS)], |_| true)?;
    for range in ranges {
        netlink.set_route6(*range, THEIRS, near)?;
    }
    for route in netlink.routes6()? {
        if route.link == Some(near) && route.gateway.is_some() && !ranges.contains(&route.dst) {
            netlink.delete_route6(route.dst, near)?;
        }
    }
    Ok(())
}

/// A network's end. Runs in its namespace.
fn there(interface: &RouterInterface) -> Result<()> {
    let mut netlink = Netlink::connect()?;
    if interface.subnets6.is_empty() {
        own_addresses(&mut netlink, &[])?;
        return switch_off(TO_ROUTER);
    }
    six::enable(TO_ROUTER)?;
    let far = netlink.need_link(TO_ROUTER)?;
    six::addresses(&mut netlink, far, &[local(THEIRS)], |_| true)?;
    own_addresses(&mut netlink, &interface.addresses6)?;
    netlink.set_route6(Ipv6Net::default(), OURS, far)
}

/// Whether a router leads a network's IPv6 elsewhere, as the kernel has it. Blocks.
pub(crate) fn leads(network: &Namespace) -> Result<bool> {
    network.run(|| {
        let mut netlink = Netlink::connect()?;
        let Some(far) = netlink.link_index(TO_ROUTER)? else { return Ok(false) };
        let all = netlink.routes6()?;
        Ok(all.iter().any(|route| route.link == Some(far) && route.dst.prefix_len() == 0))
    })
}

/// What a network had of a router goes with it; the veth is gone.
pub(crate) fn leave(network: &Namespace) -> Result<()> {
    network.run(|| own_addresses(&mut Netlink::connect()?, &[]))
}

fn own_addresses(netlink: &mut Netlink, own: &[Ipv6Addr]) -> Result<()> {
    let Some(bridge) = netlink.link_index(BRIDGE)? else { return Ok(()) };
    let wanted: Vec<Ipv6Net> = own.iter().copied().map(Ipv6Net::from).collect();
    six::addresses(netlink, bridge, &wanted, |had| had.prefix_len() == 128)
}

fn local(ip: Ipv6Addr) -> Ipv6Net {
    Ipv6Net::new(ip, 64).unwrap_or_else(|_| Ipv6Net::from(ip))
}

fn switch_off(link: &str) -> Result<()> {
    namespace::sysctl(&format!("net/ipv6/conf/{link}/disable_ipv6"), "1").map(drop)
}
