//! What is different about IPv6: how subnets tell guests of addresses, and the addresses that follow from a MAC.
//!
//! A network's namespace holds the gateways' addresses on its bridge, as with IPv4, and a link-local one that router advertisements and
//! DHCPv6 come from. Nothing is translated: IPv6 goes between the networks of a router and not outside.

use crate::error::{NetworkError, Result};
use crate::names::BRIDGE;
use crate::namespace;
use crate::netlink::Netlink;
use crate::types::{Attachment, Mac, NetworkConfig};
use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use std::net::Ipv6Addr;

/// One subnet of a network that has addresses of IPv6.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet6Config {
    /// The range of the subnet.
    pub cidr: Ipv6Net,
    /// The gateway's address in it: held by the bridge, answers DNS.
    pub gateway: Ipv6Addr,
    /// Whether clients are told no default route.
    pub isolated: bool,
    /// What router advertisements say of how addresses come to be; without, there are none of this subnet.
    pub advertised: Option<AddressMode>,
    /// What DHCPv6 gives to ports of this subnet; without, it does not answer them.
    pub assigned: Option<AddressMode>,
    /// Resolvers told to clients; empty = the gateway.
    pub dns_servers: Vec<Ipv6Addr>,
    /// Further routes of clients, which config drives tell.
    pub routes: Vec<(Ipv6Net, Ipv6Addr)>,
}

impl Subnet6Config {
    /// The resolvers that clients are told.
    pub(crate) fn resolvers(&self) -> Vec<Ipv6Addr> {
        if self.dns_servers.is_empty() { vec![self.gateway] } else { self.dns_servers.clone() }
    }
}

/// How clients come to have addresses and what goes with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressMode {
    /// Clients make their own, of the prefix and their MAC.
    Slaac,
    /// DHCPv6 gives them.
    Stateful,
    /// Clients make their own, and ask DHCPv6 for the rest.
    Stateless,
}

/// The link-local address that is made of a MAC (EUI-64).
pub(crate) fn link_local(mac: Mac) -> Ipv6Addr {
    let m = mac.0;
    let pair = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    Ipv6Addr::new(0xfe80, 0, 0, 0, pair(m[0] ^ 2, m[1]), pair(m[2], 0xff), pair(0xfe, m[3]), pair(m[4], m[5]))
}

impl Attachment {
    /// All addresses of IPv6 that the port may use.
    pub(crate) fn all6(&self) -> Vec<Ipv6Addr> {
        let own = (!self.ips6.is_empty()).then(|| link_local(self.mac));
        self.ips6.iter().copied().chain(own).collect()
    }
}

/// Gives the bridge what its subnets of IPv6 ask for, or takes IPv6 from it where there are none. Runs inside the network's namespace.
pub(crate) fn ensure_bridge(
    netlink: &mut Netlink,
    bridge: u32,
    config: &NetworkConfig,
    mac: Mac,
) -> Result<()> {
    if config.subnets6.is_empty() {
        namespace::sysctl(&format!("net/ipv6/conf/{BRIDGE}/disable_ipv6"), "1")?;
        return Ok(());
    }
    enable(BRIDGE)?;
    let net = |ip: Ipv6Addr, length: u8| Ipv6Net::new(ip, length).unwrap_or_else(|_| Ipv6Net::from(ip));
    let mut wanted = vec![net(link_local(mac), 64)];
    wanted.extend(config.subnets6.iter().map(|subnet| net(subnet.gateway, subnet.cidr.prefix_len())));
    // Single addresses are a router's.
    addresses(netlink, bridge, &wanted, |had| had.prefix_len() < 128)
}

/// Whether this kernel has IPv6, and it is not switched off as a whole.
pub(crate) fn is_here() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

/// Those of a port's addresses that this node can serve: none where its kernel has no IPv6.
pub(crate) fn usable(ips: Vec<Ipv6Addr>) -> Vec<Ipv6Addr> {
    if is_here() { ips } else { Vec::new() }
}

/// What a network is on a node: one that also has IPv4 goes on with that where the kernel has no IPv6. Says whether something was left out.
pub(crate) fn leave_out(config: &mut NetworkConfig, is_here: bool) -> bool {
    let leaves = !is_here && !config.subnets.is_empty() && !config.subnets6.is_empty();
    if leaves {
        config.subnets6.clear();
    }
    leaves
}

/// Switches IPv6 on for a link of the calling thread's namespace, without any address of its own, and forwarding for the namespace.
///
/// # Errors
/// Where this kernel has no IPv6.
pub(crate) fn enable(link: &str) -> Result<()> {
    if !namespace::sysctl("net/ipv6/conf/all/forwarding", "1")? {
        let reason = "the kernel of this node has no IPv6, which the network's subnets need";
        return Err(NetworkError::invalid("subnets6", reason));
    }
    namespace::sysctl("net/ipv6/conf/all/accept_dad", "0")?;
    // 1: no address is made by itself.
    for (key, value) in [
        ("addr_gen_mode", "1"),
        ("accept_ra", "0"),
        ("accept_redirects", "0"),
        ("autoconf", "0"),
        ("accept_dad", "0"),
        ("disable_ipv6", "0"),
    ] {
        namespace::sysctl(&format!("net/ipv6/conf/{link}/{key}"), value)?;
    }
    Ok(())
}

/// Keeps those of a link's addresses that are `ours` to those that are wanted.
pub(crate) fn addresses(
    netlink: &mut Netlink,
    link: u32,
    wanted: &[Ipv6Net],
    ours: impl Fn(&Ipv6Net) -> bool,
) -> Result<()> {
    let all = netlink.addresses6()?.into_iter().filter(|(of, _)| *of == link);
    let had: Vec<Ipv6Net> = all.map(|(_, address)| address).collect();
    for old in had.iter().filter(|old| ours(old) && !wanted.contains(old)) {
        netlink.delete_address6(link, *old)?;
    }
    for new in wanted.iter().filter(|new| !had.contains(new)) {
        netlink.add_address6(link, *new)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_goes_on_with_ipv4_where_the_node_has_no_other() {
        let mut both = crate::view::sample6().config;
        let mut six = both.clone();
        six.subnets.clear();
        assert!(!leave_out(&mut both, true) && !both.subnets6.is_empty());
        assert!(leave_out(&mut both, false) && both.subnets6.is_empty() && !both.subnets.is_empty());
        assert!(
            !leave_out(&mut six, false) && !six.subnets6.is_empty(),
            "the kernel refuses it, and says why"
        );
    }

    #[test]
    fn a_link_local_address_is_made_of_the_mac() {
        let mac: Mac = "fa:16:3e:0a:0b:0c".parse().unwrap();
        assert_eq!(link_local(mac).to_string(), "fe80::f816:3eff:fe0a:b0c");
    }
}
