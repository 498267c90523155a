//! Refusing what cannot work, with the field's name, before anything is touched.

use crate::bridge;
use crate::error::{NetworkError, Result};
use crate::names::check_uid;
use crate::six::Subnet6Config;
use crate::types::{Config, Mac, NetworkConfig, NetworkKind, SubnetConfig};
use crate::view::NetworkView;
use ipnet::{Ipv4Net, Ipv6Net};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Subnets of one network.
const MAX_SUBNETS: usize = 16;
/// Members of one network on one node's DNS and DHCP.
pub(crate) const MAX_MEMBERS: usize = 65_536;
/// Addresses of one port.
const MAX_PORT_IPS: usize = 16;

/// The network as it will be used: the cluster network's missing subnet is filled in.
pub(crate) fn network(config: &Config, mut network: NetworkConfig) -> Result<NetworkConfig> {
    check_uid("uid", &network.uid)?;
    if !(576..=9000).contains(&network.mtu) {
        return Err(NetworkError::invalid("mtu", format!("{} is not within 576 to 9000", network.mtu)));
    }
    if let NetworkKind::Cluster { node_cidr } = network.kind {
        if !config.cluster_cidr.contains(&node_cidr) {
            let reason = format!("{node_cidr} is not inside the cluster's {}", config.cluster_cidr);
            return Err(NetworkError::invalid("node_cidr", reason));
        }
        if network.subnets.is_empty() {
            let gateway = Ipv4Addr::from(u32::from(node_cidr.network()).saturating_add(1));
            network.subnets.push(SubnetConfig {
                cidr: node_cidr,
                gateway,
                dhcp: false,
                dns_servers: Vec::new(),
                isolated: false,
                routes: Vec::new(),
            });
        }
    }
    let count = network.subnets.len() + network.subnets6.len();
    if count == 0 || count > MAX_SUBNETS {
        return Err(NetworkError::invalid("subnets", format!("a network has 1 to {MAX_SUBNETS} subnets")));
    }
    for (at, subnet) in network.subnets.iter().enumerate() {
        one_subnet(config, subnet)?;
        if let Some(other) = network.subnets[..at].iter().find(|other| overlap(other.cidr, subnet.cidr)) {
            return Err(NetworkError::invalid(
                "subnets",
                format!("{} overlaps {} of the same network", subnet.cidr, other.cidr),
            ));
        }
    }
    let cluster = matches!(network.kind, NetworkKind::Cluster { .. });
    if !network.subnets6.is_empty() && network.mtu < 1280 {
        return Err(NetworkError::invalid("mtu", format!("{} is less than the 1280 of IPv6", network.mtu)));
    }
    for (at, subnet) in network.subnets6.iter().enumerate() {
        one_subnet6(subnet)?;
        let earlier = network.subnets6[..at].iter().find(|other| overlap6(other.cidr, subnet.cidr));
        if let Some(other) = earlier.filter(|_| !cluster) {
            let reason = format!("{} overlaps {} of the same network", subnet.cidr, other.cidr);
            return Err(NetworkError::invalid("subnets6", reason));
        }
        if cluster {
            return Err(NetworkError::invalid("subnets6", "the cluster's own network has IPv4 alone"));
        }
    }
    Ok(network)
}

fn one_subnet6(subnet: &Subnet6Config) -> Result<()> {
    let (cidr, first) = (subnet.cidr, subnet.cidr.network());
    let reserved = first.is_unspecified()
        || first.is_loopback()
        || first.is_multicast()
        || first.is_unicast_link_local()
        || first.to_ipv4_mapped().is_some();
    if !(16..=126).contains(&cidr.prefix_len()) || reserved {
        let reason = format!("{cidr} is no range of unicast addresses between /16 and /126");
        return Err(NetworkError::invalid("subnets6.cidr", reason));
    }
    if !usable6(cidr, subnet.gateway) {
        let reason = format!("{} is no host address of {cidr}", subnet.gateway);
        return Err(NetworkError::invalid("subnets6.gateway", reason));
    }
    Ok(())
}

/// The addresses of IPv6 of a port.
pub(crate) fn port6(view: &NetworkView, ips: &[Ipv6Addr]) -> Result<()> {
    if ips.len() > MAX_PORT_IPS {
        return Err(NetworkError::invalid("ips6", format!("a port has at most {MAX_PORT_IPS} addresses")));
    }
    for ip in ips {
        let subnet = view.config.subnets6.iter().find(|subnet| usable6(subnet.cidr, *ip));
        let Some(subnet) = subnet else {
            let reason = format!("{ip} is no host address of any subnet of {}", view.config.name);
            return Err(NetworkError::invalid("ips6", reason));
        };
        if *ip == subnet.gateway {
            return Err(NetworkError::invalid("ips6", format!("{ip} is the gateway's address")));
        }
    }
    Ok(())
}

/// The first address of a range stands for its routers.
fn usable6(cidr: Ipv6Net, ip: Ipv6Addr) -> bool {
    cidr.contains(&ip) && ip != cidr.network()
}

fn overlap6(a: Ipv6Net, b: Ipv6Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn one_subnet(config: &Config, subnet: &SubnetConfig) -> Result<()> {
    if subnet.cidr.prefix_len() > 29 || subnet.cidr.prefix_len() < 8 {
        return Err(NetworkError::invalid(
            "subnets.cidr",
            format!("{} is not between /8 and /29", subnet.cidr),
        ));
    }
    if overlap(subnet.cidr, config.service_cidr) {
        let reason = format!("{} overlaps the Services' range {}", subnet.cidr, config.service_cidr);
        return Err(NetworkError::invalid("subnets.cidr", reason));
    }
    if overlap(subnet.cidr, Ipv4Net::new(Ipv4Addr::new(169, 254, 0, 0), 16).unwrap_or_default()) {
        return Err(NetworkError::invalid(
            "subnets.cidr",
            format!("{} overlaps the link-local range", subnet.cidr),
        ));
    }
    if !usable(subnet.cidr, subnet.gateway) {
        return Err(NetworkError::invalid(
            "subnets.gateway",
            format!("{} is no host address of {}", subnet.gateway, subnet.cidr),
        ));
    }
    Ok(())
}

/// The addresses of a port, with the prefixes of their subnets, and the gateway of the first.
pub(crate) fn port(
    view: &NetworkView,
    mac: Option<Mac>,
    ips: &[Ipv4Addr],
) -> Result<(Mac, Vec<Ipv4Net>, Ipv4Addr)> {
    let [first, ..] = ips else {
        return Err(NetworkError::invalid("ips", "a port needs at least one address"));
    };
    if ips.len() > MAX_PORT_IPS {
        return Err(NetworkError::invalid("ips", format!("a port has at most {MAX_PORT_IPS} addresses")));
    }
    let mut addresses = Vec::with_capacity(ips.len());
    let mut gateway = Ipv4Addr::UNSPECIFIED;
    for ip in ips {
        let subnet = view.subnet_of(*ip).filter(|s| usable(s.cidr, *ip)).ok_or_else(|| {
            NetworkError::invalid(
                "ips",
                format!("{ip} is no host address of any subnet of {}", view.config.name),
            )
        })?;
        if *ip == subnet.gateway {
            return Err(NetworkError::invalid("ips", format!("{ip} is the gateway's address")));
        }
        if ip == first {
            gateway = subnet.gateway;
        }
        addresses.extend(Ipv4Net::new(*ip, subnet.cidr.prefix_len()));
    }
    let own = mac.unwrap_or_else(|| Mac::from_ip(*first));
    self::mac(view, own)?;
    Ok((own, addresses, gateway))
}

/// The MAC of a port: with the gateway's it would have the gateway's link-local address too.
pub(crate) fn mac(view: &NetworkView, mac: Mac) -> Result<()> {
    if mac.0[0] & 1 == 1 || mac.0 == [0; 6] {
        return Err(NetworkError::invalid("mac", format!("{mac} is a group address or zero")));
    }
    if mac == bridge::gateway_mac(&view.config.uid) {
        return Err(NetworkError::invalid("mac", format!("{mac} is the gateway's of this network")));
    }
    Ok(())
}

fn usable(cidr: Ipv4Net, ip: Ipv4Addr) -> bool {
    cidr.contains(&ip) && ip != cidr.network() && ip != cidr.broadcast()
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}
