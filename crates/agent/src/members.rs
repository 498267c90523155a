//! Subnets and Ports in the words of the node's networks.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{Ipv4Net, Ipv6Net};
use kube::ResourceExt;
use yunfan_network::{AddressMode, ExtraOption, Mac, Member, NetworkError, Subnet6Config, SubnetConfig};
use yunfan_resources::network::{DhcpOption, HostRoute, IpVersion, Ipv6Mode, Port, Subnet};

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

/// The same of a Subnet of IPv6.
pub(crate) fn subnet6_config(subnet: &Subnet) -> Option<Subnet6Config> {
    let spec = &subnet.spec;
    let cidr: Ipv6Net = spec.cidr.parse().ok()?;
    let gateway = match &spec.gateway_ip {
        Some(gateway) => gateway.parse().ok()?,
        None => Ipv6Addr::from_bits(cidr.network().to_bits() + 1),
    };
    let mode = |mode: Option<Ipv6Mode>| {
        mode.filter(|_| spec.enable_dhcp).map(|mode| match mode {
            Ipv6Mode::Slaac => AddressMode::Slaac,
            Ipv6Mode::Stateful => AddressMode::Stateful,
            Ipv6Mode::Stateless => AddressMode::Stateless,
        })
    };
    let route = |route: &HostRoute| Some((route.destination.parse().ok()?, route.nexthop.parse().ok()?));
    Some(Subnet6Config {
        cidr: cidr.trunc(),
        gateway,
        isolated: spec.no_gateway,
        advertised: mode(spec.ra_mode),
        assigned: mode(spec.address_mode),
        dns_servers: spec.dns_nameservers.iter().filter_map(|server| server.parse().ok()).collect(),
        routes: spec.host_routes.iter().filter_map(route).collect(),
    })
}

/// Who is on a Network, which is told by its namespace and name. A port of another project has no name there that one of the Network's own
/// has, or one of a third project: names would lead to strangers.
pub(crate) fn members(namespace: &str, network: &str, ports: &[Arc<Port>]) -> Vec<Member> {
    let space = |port: &Port| port.namespace().unwrap_or_default();
    let on = ports.iter().filter(|port| port.spec.is_on(&space(port), namespace, network));
    let (own, others): (Vec<_>, Vec<_>) = on.partition(|port| space(port) == namespace);
    let mut whose: HashMap<String, HashSet<String>> = HashMap::new();
    for port in others.iter().chain(&own) {
        let name = port.spec.hostname.clone().unwrap_or_default().to_ascii_lowercase();
        whose.entry(name).or_default().insert(space(port));
    }
    let mut all: Vec<Member> = own.into_iter().filter_map(|port| member(port)).collect();
    all.extend(others.into_iter().filter_map(|port| member(port)).map(|mut member| {
        if whose.get(&member.hostname.to_ascii_lowercase()).is_some_and(|spaces| spaces.len() > 1) {
            member.hostname.clear();
        }
        member
    }));
    all
}

/// A Port in the words of the node's networks; `None` if it has no address yet.
fn member(port: &Port) -> Option<Member> {
    let (mac, ips, ips6) = addresses(port).ok()?;
    let hostname = port.spec.hostname.clone().unwrap_or_default();
    let option = |option: &DhcpOption| ExtraOption {
        v6: option.ip_version == IpVersion::V6,
        name: option.name.clone(),
        value: option.value.clone(),
    };
    Some(Member {
        port_uid: port.uid()?,
        mac,
        ips,
        ips6,
        hostname,
        workload_uid: port.spec.holder.as_ref().map(|holder| holder.uid.clone()).unwrap_or_default(),
        options: port.spec.dhcp_options.iter().map(option).collect(),
    })
}

/// A Port's MAC and IP addresses, those of IPv6 apart; there is at least one of either kind.
pub(crate) fn addresses(port: &Port) -> Result<(Mac, Vec<Ipv4Addr>, Vec<Ipv6Addr>), LinkError> {
    let (mac, ips, ips6) = held(port)?;
    if ips.is_empty() && ips6.is_empty() {
        let what = "it has no address".to_owned();
        return Err(LinkError::BadPort { port: port.name_any(), what });
    }
    Ok((mac, ips, ips6))
}

/// The same of a Port that may have lost its last address while it is plugged in.
pub(crate) fn held(port: &Port) -> Result<(Mac, Vec<Ipv4Addr>, Vec<Ipv6Addr>), LinkError> {
    let bad = |what: String| LinkError::BadPort { port: port.name_any(), what };
    let mac = port.spec.mac_address.as_deref().unwrap_or_default();
    let mac = mac.parse().map_err(|error: NetworkError| bad(error.to_string()))?;
    let (mut ips, mut ips6) = (Vec::new(), Vec::new());
    for fixed in &port.spec.fixed_ips {
        match fixed.ip.as_deref().map(str::parse) {
            Some(Ok(IpAddr::V4(ip))) => ips.push(ip),
            Some(Ok(IpAddr::V6(ip))) => ips6.push(ip),
            _ => {}
        }
    }
    Ok((mac, ips, ips6))
}

/// Those of a Pod's Port: the ones of IPv4, of which there is one at least. Of others its Pod has none.
pub(crate) fn for_pod(port: &Port) -> Result<(Mac, Vec<Ipv4Addr>), LinkError> {
    let (mac, ips, _) = addresses(port)?;
    if ips.is_empty() {
        let what = "it has no IPv4 address, and Pods have no others: the network needs a subnet of IPv4";
        return Err(LinkError::BadPort { port: port.name_any(), what: what.to_owned() });
    }
    Ok((mac, ips))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_on_a_shared_network_keeps_a_name_that_no_other_project_has() {
        let port = |namespace: &str, network: &str, last: u8, name: &str| -> Arc<Port> {
            let spec = json!({"network": network, "macAddress": format!("fa:16:3e:00:00:{last:02x}"), "hostname": name,
                "fixedIps": [{"subnet": "lan", "ip": format!("10.0.0.{last}")}]});
            let meta = json!({"name": format!("p{last}"), "namespace": namespace, "uid": format!("u{last}")});
            Arc::new(serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("a port"))
        };
        let ports = [
            port("other", "acme/lan", 3, "DB"),
            port("acme", "lan", 2, "db"),
            port("other", "acme/lan", 4, "web"),
            port("other", "lan", 5, "elsewhere"),
            port("other", "acme/lan", 6, "api"),
            port("third", "acme/lan", 7, "API"),
        ];
        let names: Vec<_> =
            members("acme", "lan", &ports).into_iter().map(|member| member.hostname).collect();
        assert_eq!(names, ["db", "", "web", "", ""]);
    }
}
