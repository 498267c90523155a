//! Routers and FloatingIps → the routers of this node.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use kube::ResourceExt;
use yunfan_network::{ExternalSide, FloatingAddress, PortForward, Protocol, RouterConfig, RouterInterface};
use yunfan_resources::network::{
    FloatingIp, ForwardedProtocol, HostRoute, Network, Port, Router, Subnet, SubnetPool, network_place,
};

/// What there is of objects, as far as routers have to do with it.
pub(crate) struct Objects {
    pub(crate) routers: Vec<Arc<Router>>,
    pub(crate) ports: Vec<Arc<Port>>,
    pub(crate) subnets: Vec<Arc<Subnet>>,
    pub(crate) pools: Vec<Arc<SubnetPool>>,
    pub(crate) networks: Vec<Arc<Network>>,
    pub(crate) floating: Vec<Arc<FloatingIp>>,
}

/// Every router that joins a network of this node (`is_here` by the Network's uid), with the floating IPs of ports that `is_ours`
/// says are plugged in here, and the names of these floating IPs' objects.
pub(crate) fn routers(
    objects: &Objects,
    is_here: impl Fn(&str) -> bool,
    is_ours: impl Fn(&Port) -> bool,
) -> (Vec<RouterConfig>, Vec<(String, String)>) {
    let mut served = Vec::new();
    let mut all: Vec<RouterConfig> = objects
        .routers
        .iter()
        .filter(|router| is_up(router))
        .filter_map(|router| {
            let places = places(objects, router);
            let mut interfaces: Vec<RouterInterface> = Vec::new();
            for (network, place) in
                places.iter().filter(|(network, _)| is_here(&network.uid().unwrap_or_default()))
            {
                let network_uid = network.uid().unwrap_or_default();
                match interfaces.iter_mut().find(|interface| interface.network_uid == network_uid) {
                    // Of one network all are in the same scopes.
                    Some(interface) => {
                        interface.subnets.extend(&place.subnets);
                        interface.addresses.extend(&place.addresses);
                        interface.subnets6.extend(&place.subnets6);
                        interface.addresses6.extend(&place.addresses6);
                    }
                    None => interfaces.push(RouterInterface { network_uid, ..place.clone() }),
                }
            }
            interfaces.sort_by(|a, b| a.network_uid.cmp(&b.network_uid));
            let names: Vec<String> = places.iter().map(|(network, _)| network.name_any()).collect();
            let external = external(objects, router, &names, &is_ours, &mut served);
            (!interfaces.is_empty()).then(|| RouterConfig {
                uid: router.uid().unwrap_or_default(),
                interfaces,
                external,
                routes: routes(router),
            })
        })
        .collect();
    all.sort_by(|a, b| a.uid.cmp(&b.uid));
    (all, served)
}

fn is_up(router: &Router) -> bool {
    router.spec.admin_state_up.unwrap_or(true)
}

/// The routes of the routers that join a network, among all routers and ports of its namespace. Another network may have the same addresses,
/// so that those of its routers are none here.
pub(crate) fn routes_on(
    network: &str,
    routers: &[impl AsRef<Router>],
    ports: &[impl AsRef<Port>],
) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let here = ports.iter().map(AsRef::as_ref).filter(|port| port.spec.network == network);
    let here: BTreeSet<String> = here.map(ResourceExt::name_any).collect();
    let joins = |router: &&Router| router.spec.interfaces.iter().any(|port| here.contains(port));
    routers.iter().map(AsRef::as_ref).filter(|router| is_up(router)).filter(joins).flat_map(routes).collect()
}

/// A router's own routes.
fn routes(router: &Router) -> Vec<(Ipv4Net, Ipv4Addr)> {
    let parse = |route: &HostRoute| {
        let range: Ipv4Net = route.destination.parse().ok()?;
        Some((range.trunc(), route.nexthop.parse().ok()?))
    };
    router.spec.routes.iter().filter_map(parse).collect()
}

/// The Networks that a router joins, the ranges of each that it has an address in, and these addresses but for gateways'.
fn places(objects: &Objects, router: &Router) -> Vec<(Arc<Network>, RouterInterface)> {
    let namespace = router.namespace();
    let mut all = Vec::new();
    for name in &router.spec.interfaces {
        let port =
            objects.ports.iter().find(|port| port.namespace() == namespace && port.name_any() == *name);
        let Some(port) = port else { continue };
        let on = |network: &&Arc<Network>| {
            network.namespace() == namespace && network.name_any() == port.spec.network
        };
        let Some(network) = objects.networks.iter().find(on) else { continue };
        let ranges = port.spec.fixed_ips.iter().filter_map(|fixed| {
            let subnet = objects.subnets.iter().find(|subnet| {
                subnet.namespace() == namespace && Some(&subnet.name_any()) == fixed.subnet.as_ref()
            })?;
            subnet.spec.cidr.parse::<IpNet>().ok()
        });
        // The network's namespace has the gateways' addresses anyway.
        let gateways: Vec<String> = objects
            .subnets
            .iter()
            .filter(|subnet| subnet.namespace() == namespace && subnet.spec.network == port.spec.network)
            .filter_map(|subnet| subnet.spec.gateway_ip.clone())
            .collect();
        let own = port.spec.fixed_ips.iter().filter_map(|fixed| fixed.ip.clone());
        let own = own.filter(|ip| !gateways.contains(ip)).filter_map(|ip| ip.parse::<IpAddr>().ok());
        let mut place = RouterInterface {
            network_uid: String::new(),
            subnets: vec![],
            addresses: vec![],
            subnets6: vec![],
            addresses6: vec![],
            scopes: [false, true].map(|six| scope(objects, network, six)),
        };
        for range in ranges {
            match range {
                IpNet::V4(range) => place.subnets.push(range),
                IpNet::V6(range) => place.subnets6.push(range),
            }
        }
        for ip in own {
            match ip {
                IpAddr::V4(ip) => place.addresses.push(ip),
                IpAddr::V6(ip) => place.addresses6.push(ip),
            }
        }
        all.push((network.clone(), place));
    }
    all
}

/// The scope that a network's addresses of a version are in, by its place; all of them are of pools of one.
fn scope(objects: &Objects, network: &Network, six: bool) -> Option<String> {
    let namespace = network.namespace().unwrap_or_default();
    let mut subnets = objects.subnets.iter().filter(|subnet| {
        subnet.namespace().as_ref() == Some(&namespace) && subnet.spec.network == network.name_any()
    });
    subnets.find_map(|subnet| {
        let (owner, name) = network_place(&namespace, subnet.spec.subnet_pool.as_deref()?);
        let mut pools = objects.pools.iter();
        let pool = pools.find(|it| it.namespace().as_deref() == Some(owner) && it.name_any() == name)?;
        let scope = pool.spec.address_scope.as_deref().filter(|_| pool.spec.is_of_ipv6() == six)?;
        let (owner, name) = network_place(owner, scope);
        Some(format!("{owner}/{name}"))
    })
}

fn external(
    objects: &Objects,
    router: &Router,
    networks: &[String],
    is_ours: impl Fn(&Port) -> bool,
    served: &mut Vec<(String, String)>,
) -> Option<ExternalSide> {
    let gateway = router.spec.gateway.as_ref()?;
    let namespace = router.namespace();
    let (mut floating, mut forwards) = (Vec::new(), Vec::new());
    for ip in
        objects.floating.iter().filter(|ip| ip.namespace() == namespace && ip.spec.network == gateway.network)
    {
        let Some(address) = address(&ip.spec.ip) else { continue };
        let port = |name: &str| {
            let mut ports = objects.ports.iter();
            ports.find(|port| port.namespace() == namespace && port.name_any() == name)
        };
        // An address may have changed since: what is not the port's is not led to.
        let leads = |port: &Arc<Port>, fixed: &Option<String>| {
            let fixed = address_of(port, fixed)?;
            (networks.contains(&port.spec.network) && is_ours(port)).then_some(fixed)
        };
        let whole = ip.spec.port.as_deref().and_then(port).and_then(|port| leads(port, &ip.spec.fixed_ip));
        floating.extend(whole.map(|fixed| FloatingAddress { address, fixed }));
        // Whatever was written past the doors: an address is one router's, that of the first of them.
        let first = ip.spec.forwardings.first().and_then(|first| port(&first.port));
        let here = first.is_some_and(|first| networks.contains(&first.spec.network));
        let single = ip.spec.forwardings.iter().filter(|it| here && whole.is_none() && it.check().is_ok());
        let single = single.filter_map(|it| {
            let fixed = leads(port(&it.port)?, &it.fixed_ip)?;
            let protocol = match it.protocol {
                ForwardedProtocol::Tcp => Protocol::Tcp,
                ForwardedProtocol::Udp => Protocol::Udp,
            };
            let (outer, inner) = ((it.outer.first, it.outer.last), (it.inner.first, it.inner.last));
            Some(PortForward { address, protocol, outer, fixed, inner })
        });
        let before = forwards.len();
        forwards.extend(single);
        if whole.is_some() || forwards.len() > before {
            served.push((ip.namespace().unwrap_or_default(), ip.name_any()));
        }
    }
    floating.sort_by_key(|floating| floating.address);
    forwards.sort_by_key(|forward| (forward.address, forward.protocol, forward.outer));
    let own = address(&gateway.ip)?;
    Some(ExternalSide { address: own, snat: gateway.enable_snat.unwrap_or(true), floating, forwards })
}

fn address(text: &Option<String>) -> Option<Ipv4Addr> {
    text.as_deref().and_then(|text| text.parse().ok())
}

/// The address that is meant, if a Port has it.
fn address_of(port: &Port, fixed: &Option<String>) -> Option<Ipv4Addr> {
    let fixed = address(fixed)?;
    port.spec.fixed_ips.iter().any(|own| address(&own.ip) == Some(fixed)).then_some(fixed)
}

/// The floating IPs whose status does not say rightly whether this node serves them, with the nodes that it should name.
pub(crate) fn news<'a>(
    floating: &'a [Arc<FloatingIp>],
    served: &[(String, String)],
    node: &str,
) -> Vec<(&'a FloatingIp, Vec<String>)> {
    let wrong = floating.iter().filter_map(|ip| {
        let mut nodes = ip.status.clone().unwrap_or_default().nodes;
        let here = served.contains(&(ip.namespace().unwrap_or_default(), ip.name_any()));
        if here == nodes.iter().any(|other| other == node) {
            return None;
        }
        nodes.retain(|other| other != node);
        nodes.extend(here.then(|| node.to_owned()));
        Some((ip.as_ref(), nodes))
    });
    wrong.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn router(name: &str, port: &str, by: &str, up: Option<bool>) -> Arc<Router> {
        let routes: Value = json!([{"destination": "192.0.2.0/24", "nexthop": by}]);
        let spec = json!({"interfaces": [port], "routes": routes, "adminStateUp": up});
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a router"))
    }

    #[test]
    fn routes_hold_on_the_networks_that_their_router_joins_while_it_is_up() {
        let port = |name: &str, network: &str| -> Arc<Port> {
            let port = json!({"metadata": {"name": name}, "spec": {"network": network}});
            Arc::new(serde_json::from_value(port).expect("a port"))
        };
        let ports = [port("a", "lan"), port("b", "twin"), port("c", "lan")];
        let routers = [
            router("one", "a", "10.0.0.2", None),
            router("two", "b", "10.0.0.3", Some(true)),
            router("down", "c", "10.0.0.4", Some(false)),
            router("early", "not-yet", "10.0.0.5", None),
        ];
        let by = |network: &str| {
            let routes = routes_on(network, &routers, &ports);
            routes.iter().map(|(_, by)| by.to_string()).collect::<Vec<_>>()
        };
        assert_eq!((by("lan"), by("twin")), (vec!["10.0.0.2".to_owned()], vec!["10.0.0.3".to_owned()]));
    }

    #[test]
    fn forwardings_are_served_by_the_router_of_the_first() {
        let object = |name: &str, spec: Value| json!({"metadata": {"name": name, "uid": name}, "spec": spec});
        let port = |name: &str, network: &str, ip: &str| -> Arc<Port> {
            let spec = json!({"network": network, "fixedIps": [{"subnet": network, "ip": ip}]});
            Arc::new(serde_json::from_value(object(name, spec)).expect("a port"))
        };
        let ranges = |outer: u16, inner: u16| json!({"outer": {"first": outer, "last": outer}, "inner": {"first": inner, "last": inner}});
        let forwarding = |port: &str, ip: &str, outer: u16| {
            let mut value = ranges(outer, 22);
            value["port"] = json!(port);
            value["fixedIp"] = json!(ip);
            value["protocol"] = json!("TCP");
            value
        };
        let spec = json!({"network": "outside", "ip": "172.30.0.9", "forwardings": [
            forwarding("a", "10.0.0.2", 2200), forwarding("b", "10.0.0.3", 2201), forwarding("a", "10.0.0.9", 2202),
            forwarding("far", "10.9.0.2", 2203)]});
        let objects = Objects {
            routers: vec![],
            ports: vec![
                port("a", "lan", "10.0.0.2"),
                port("b", "lan", "10.0.0.3"),
                port("far", "other", "10.9.0.2"),
            ],
            subnets: vec![],
            pools: vec![],
            networks: vec![],
            floating: vec![Arc::new(serde_json::from_value(object("f", spec)).expect("a floating IP"))],
        };
        let spec = json!({"gateway": {"network": "outside", "ip": "172.30.0.2"}});
        let router: Router = serde_json::from_value(object("r", spec)).expect("a router");
        let of = |network: &str, ours: &str| {
            let mut served = Vec::new();
            let is_ours = |port: &Port| ours.contains(&port.name_any());
            let side = external(&objects, &router, &[network.to_owned()], is_ours, &mut served);
            let side = side.expect("a way out");
            let outer: Vec<u16> = side.forwards.iter().map(|forward| forward.outer.0).collect();
            (outer, served.len(), side.floating.len())
        };
        assert_eq!(
            of("lan", "a, b, far"),
            (vec![2200, 2201], 1, 0),
            "an address that is not the port's leads nowhere"
        );
        assert_eq!(of("lan", "b"), (vec![2201], 1, 0));
        assert_eq!(of("lan", ""), (vec![], 0, 0));
        assert_eq!(of("other", "a, b, far"), (vec![], 0, 0));
    }
}
