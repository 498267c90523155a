//! Subnets and Ports in the words of the node's networks.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use kube::ResourceExt;
use yunfan_network::{Mac, Member, NetworkError, SubnetConfig};
use yunfan_resources::network::{Port, Subnet};

use crate::links::LinkError;

/// A Subnet in the words of the node's networks; `None` if it cannot be one.
pub(crate) fn subnet_config(subnet: &Subnet) -> Option<SubnetConfig> {
    let cidr: Ipv4Net = subnet.spec.cidr.parse().ok()?;
    let gateway = match &subnet.spec.gateway_ip {
        Some(gateway) => gateway.parse().ok()?,
        None => cidr.hosts().next()?,
    };
    let dns_servers = subnet.spec.dns_nameservers.iter().filter_map(|server| server.parse().ok()).collect();
    let routes = subnet.spec.host_routes.iter();
    let routes =
        routes.filter_map(|route| Some((route.destination.parse().ok()?, route.nexthop.parse().ok()?)));
    Some(SubnetConfig {
        cidr,
        gateway,
        dhcp: subnet.spec.enable_dhcp,
        dns_servers,
        isolated: subnet.spec.no_gateway,
        routes: routes.collect(),
    })
}

/// A Port in the words of the node's networks; `None` if it has no address yet.
pub(crate) fn member(port: &Port) -> Option<Member> {
    let (mac, ips) = addresses(port).ok()?;
    let hostname = port.spec.hostname.clone().unwrap_or_default();
    Some(Member {
        port_uid: port.uid()?,
        mac,
        ips,
        hostname,
        workload_uid: port.spec.holder.as_ref().map(|holder| holder.uid.clone()).unwrap_or_default(),
    })
}

/// A Port's MAC and IP addresses; there is at least one of the latter.
pub(crate) fn addresses(port: &Port) -> Result<(Mac, Vec<Ipv4Addr>), LinkError> {
    let bad = |what: String| LinkError::BadPort { port: port.name_any(), what };
    let mac = port.spec.mac_address.as_deref().unwrap_or_default();
    let mac = mac.parse().map_err(|error: NetworkError| bad(error.to_string()))?;
    let ips: Vec<Ipv4Addr> =
        port.spec.fixed_ips.iter().filter_map(|fixed| fixed.ip.as_ref()?.parse().ok()).collect();
    if ips.is_empty() {
        return Err(bad("it has no IPv4 address".to_owned()));
    }
    Ok((mac, ips))
}
