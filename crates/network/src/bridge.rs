//! One network's namespace: a bridge that is the gateway, and the settings by which the kernel treats it as one.

use crate::error::Result;
use crate::metadata;
use crate::names::BRIDGE;
use crate::namespace::{self, Namespace};
use crate::netlink::Netlink;
use crate::types::{Attachment, Config, Mac, NetworkConfig, Policy};
use crate::view::NetworkView;
use crate::{firewall, nft, ports, qos, six};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// What [`ensure`] found out about this kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Whether connection tracking sees bridged packets (br_netfilter).
    pub(crate) bridged_tracking: bool,
}

/// Whether limits of ports are written. What is written anew has let nothing pass yet: who may change a network must not have them begin
/// again and again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limits {
    New,
    AsTheyAre,
}

/// Makes the namespace what `view` says, with the rules of the ports that are there. Blocks.
pub(crate) fn ensure(
    name: &str,
    view: &NetworkView,
    config: &Config,
    (ports_here, policy): (&[Attachment], &Policy),
    limits: Limits,
) -> Result<(Namespace, Facts)> {
    let (ns, _) = Namespace::open_or_create(name)?;
    let (own, services) = (config.own_addresses(), config.service_cidr);
    let config = view.config.clone();
    let cluster = view.is_cluster();
    // Together, for the one speaks of what the other numbers.
    let table = format!(
        "{}{}{}",
        ports::render_table(ports_here, policy, gateway_mac(&config.uid)),
        firewall::render_filters(policy),
        if limits == Limits::New { qos::render(policy) } else { String::new() }
    );
    let scope = name.to_owned();
    let facts = ns.run(move || {
        let facts = settings()?;
        // The rules stand before the bridge does, so no port is ever open for a moment.
        nft::apply(&scope, &table)?;
        let mut netlink = Netlink::connect()?;
        netlink.set_up(1)?;
        let bridge = match netlink.link_index(BRIDGE)? {
            Some(index) => index,
            None => {
                netlink.add_bridge(BRIDGE, gateway_mac(&config.uid), config.mtu)?;
                netlink.need_link(BRIDGE)?
            }
        };
        netlink.set_mtu(bridge, config.mtu)?;
        netlink.set_up(bridge)?;
        addresses(&mut netlink, bridge, &wanted_addresses(&config, cluster, &own))?;
        six::ensure_bridge(&mut netlink, bridge, &config, gateway_mac(&config.uid))?;
        if let Some(subnet) = config.subnets.first() {
            // What starts here for a virtual address must have some way to go before it is given its target.
            netlink.set_link_route(services, bridge, subnet.gateway)?;
        }
        // The kernel made these when the bridge appeared, from defaults that may be the host's.
        namespace::sysctl("net/ipv4/conf/br0/rp_filter", "0")?;
        namespace::sysctl("net/ipv4/conf/br0/send_redirects", "0")?;
        Ok(facts)
    })?;
    Ok((ns, facts))
}

fn settings() -> Result<Facts> {
    namespace::sysctl("net/ipv4/ip_forward", "1")?;
    for scope in ["all", "default"] {
        namespace::sysctl(&format!("net/ipv4/conf/{scope}/rp_filter"), "0")?;
        namespace::sysctl(&format!("net/ipv4/conf/{scope}/send_redirects"), "0")?;
        namespace::sysctl(&format!("net/ipv4/conf/{scope}/accept_redirects"), "0")?;
    }
    namespace::sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
    let bridged_tracking = namespace::sysctl("net/bridge/bridge-nf-call-iptables", "1")?;
    namespace::sysctl("net/bridge/bridge-nf-call-ip6tables", "1")?;
    Ok(Facts { bridged_tracking })
}

fn wanted_addresses(config: &NetworkConfig, cluster: bool, own: &[Ipv4Addr]) -> Vec<Ipv4Net> {
    // The gateways first: the first address of a link is the one that its broadcasts come from.
    let mut wanted: Vec<Ipv4Net> =
        config.subnets.iter().filter_map(|s| Ipv4Net::new(s.gateway, s.cidr.prefix_len()).ok()).collect();
    wanted.extend(own.iter().copied().map(Ipv4Net::from));
    if !cluster {
        wanted.push(Ipv4Net::from(metadata::ADDRESS));
    }
    wanted
}

fn addresses(netlink: &mut Netlink, bridge: u32, wanted: &[Ipv4Net]) -> Result<()> {
    let had: Vec<Ipv4Net> = netlink
        .addresses()?
        .into_iter()
        .filter(|(link, _)| *link == bridge)
        .map(|(_, address)| address)
        .collect();
    for old in had.iter().filter(|old| !wanted.contains(old)) {
        netlink.delete_address(bridge, old.addr(), old.prefix_len())?;
    }
    for new in wanted.iter().filter(|new| !had.contains(new)) {
        netlink.add_address(bridge, new.addr(), new.prefix_len())?;
    }
    Ok(())
}

/// The gateway's MAC: the same for ever, so that a guest's neighbour table outlives our restarts.
pub(crate) fn gateway_mac(uid: &str) -> Mac {
    // FNV-1a: all that is asked of it is to spread.
    let hash =
        uid.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let b = hash.to_be_bytes();
    Mac([0x02, 0x58, b[0], b[1], b[2], b[3]])
}
