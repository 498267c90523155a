//! What the small servers inside a network answer from: read often, replaced whole.

use crate::six;
use crate::types::{
    Endpoint, Mac, Member, NetworkConfig, NetworkKind, ServiceRule, SubnetConfig, Target, TargetNetwork,
};
use hickory_proto::rr::Name;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, RwLock};

/// A value that is replaced whole; readers take a cheap handle and never wait for a writer's work.
#[derive(Debug)]
pub(crate) struct Shared<T>(RwLock<Arc<T>>);

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    pub(crate) fn get(&self) -> Arc<T> {
        // A panic while the lock was held cannot leave a half-written Arc behind.
        self.0.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub(crate) fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(value);
    }
}

/// One network with its members, indexed.
#[derive(Debug)]
pub(crate) struct NetworkView {
    pub(crate) config: NetworkConfig,
    pub(crate) members: Vec<Member>,
    by_mac: HashMap<Mac, usize>,
    by_ip: HashMap<Ipv4Addr, usize>,
    /// Of members that have addresses of IPv6.
    by_link_local: HashMap<Ipv6Addr, usize>,
    by_host: HashMap<String, Vec<usize>>,
}

impl NetworkView {
    pub(crate) fn new(config: NetworkConfig, members: Vec<Member>) -> Self {
        let mut view = Self {
            config,
            members,
            by_mac: HashMap::new(),
            by_ip: HashMap::new(),
            by_link_local: HashMap::new(),
            by_host: HashMap::new(),
        };
        for (at, member) in view.members.iter().enumerate() {
            view.by_mac.insert(member.mac, at);
            view.by_ip.extend(member.ips.iter().map(|ip| (*ip, at)));
            if !member.ips6.is_empty() {
                view.by_link_local.insert(six::link_local(member.mac), at);
            }
            if !member.hostname.is_empty() {
                view.by_host.entry(member.hostname.to_ascii_lowercase()).or_default().push(at);
            }
        }
        view
    }

    pub(crate) fn by_mac(&self, mac: Mac) -> Option<&Member> {
        self.by_mac.get(&mac).map(|at| &self.members[*at])
    }

    pub(crate) fn by_ip(&self, ip: Ipv4Addr) -> Option<&Member> {
        self.by_ip.get(&ip).map(|at| &self.members[*at])
    }

    pub(crate) fn by_link_local(&self, ip: Ipv6Addr) -> Option<&Member> {
        self.by_link_local.get(&ip).map(|at| &self.members[*at])
    }

    /// The addresses of a host name, given in lower case.
    pub(crate) fn by_host(&self, host: &str) -> Vec<IpAddr> {
        let at = self.by_host.get(host).map(Vec::as_slice).unwrap_or_default();
        let members = at.iter().map(|at| &self.members[*at]);
        let of = |member: &Member| -> Vec<IpAddr> {
            let six = member.ips6.iter().copied().map(IpAddr::from);
            member.ips.iter().copied().map(IpAddr::from).chain(six).collect()
        };
        members.flat_map(of).collect()
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.config.kind, NetworkKind::Cluster { .. })
    }

    pub(crate) fn subnet_of(&self, ip: Ipv4Addr) -> Option<&SubnetConfig> {
        self.config.subnets.iter().find(|s| s.cidr.contains(&ip))
    }

    /// Whether a Service's target is on this network.
    pub(crate) fn has_target(&self, target: &Target) -> bool {
        self.is_on(&target.network)
    }

    /// Whether that is this network.
    pub(crate) fn is_on(&self, network: &TargetNetwork) -> bool {
        match network {
            TargetNetwork::Cluster => self.is_cluster(),
            TargetNetwork::Tenant(uid) => !self.is_cluster() && *uid == self.config.uid,
        }
    }

    /// The domain of this network's host names.
    pub(crate) fn host_domain(&self, domain: &str) -> String {
        format!("{}.{}.net.{domain}", self.config.name, self.config.namespace).to_ascii_lowercase()
    }

    /// The domains in which a client on this network, of that namespace, completes short names.
    pub(crate) fn searches(&self, namespace: &str, domain: &str) -> Vec<String> {
        let mut all = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        if !self.is_cluster() {
            all.insert(0, self.host_domain(domain));
        }
        all
    }
}

/// A whole name as it goes over the wire, in DNS and in DHCP's search list: `domain` is written without its last dot. `None` if it
/// cannot be one: a label is too long, or all of it is.
pub(crate) fn wire_name(domain: &str) -> Option<Name> {
    Name::from_ascii(format!("{domain}.")).ok()
}

impl ServiceRule {
    /// The Service's name in the cluster domain.
    pub(crate) fn domain(&self, cluster: &str) -> String {
        format!("{}.{}.svc.{cluster}", self.name, self.namespace)
    }
}

/// All Services, indexed for DNS.
#[derive(Debug, Default)]
pub(crate) struct ServiceBook {
    pub(crate) rules: Vec<ServiceRule>,
    /// Whether the agent has said anything yet: before, a missing name may well exist.
    pub(crate) known: bool,
    by_name: HashMap<(String, String), usize>,
    by_ip: HashMap<Ipv4Addr, usize>,
    /// Headless Services' endpoints by address: the rule and the place in it.
    endpoints: HashMap<Ipv4Addr, Vec<(usize, usize)>>,
}

impl ServiceBook {
    pub(crate) fn new(mut rules: Vec<ServiceRule>) -> Self {
        // One order, whatever order the caller had: the same Services then render the same.
        rules.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        let mut book = Self { rules, known: true, ..Self::default() };
        for (at, rule) in book.rules.iter().enumerate() {
            book.by_name.insert((rule.namespace.clone(), rule.name.clone()), at);
            match rule.cluster_ip {
                Some(ip) => drop(book.by_ip.insert(ip, at)),
                None => {
                    for (place, endpoint) in rule.endpoints.iter().enumerate() {
                        book.endpoints.entry(endpoint.ip).or_default().push((at, place));
                    }
                }
            }
        }
        book
    }

    pub(crate) fn by_name(&self, namespace: &str, name: &str) -> Option<&ServiceRule> {
        self.by_name.get(&(namespace.to_owned(), name.to_owned())).map(|at| &self.rules[*at])
    }

    pub(crate) fn by_ip(&self, ip: Ipv4Addr) -> Option<&ServiceRule> {
        self.by_ip.get(&ip).map(|at| &self.rules[*at])
    }

    /// The headless Services that have an endpoint at this address, and the endpoint.
    pub(crate) fn endpoints_at(&self, ip: Ipv4Addr) -> impl Iterator<Item = (&ServiceRule, &Endpoint)> {
        let all = self.endpoints.get(&ip).into_iter().flatten();
        all.map(|(at, place)| (&self.rules[*at], &self.rules[*at].endpoints[*place]))
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.rules.iter().any(|r| r.namespace == namespace)
    }
}

/// A tenant's network with one machine, for the tests of what answers from it.
#[cfg(test)]
pub(crate) fn sample() -> NetworkView {
    let subnet = SubnetConfig {
        cidr: "10.0.0.0/24".parse().unwrap(),
        gateway: "10.0.0.1".parse().unwrap(),
        dhcp: true,
        dns_servers: vec![],
        isolated: false,
        routes: vec![],
    };
    let config = NetworkConfig {
        uid: "n1".into(),
        name: "blue".into(),
        namespace: "demo".into(),
        kind: NetworkKind::Tenant,
        subnets: vec![subnet],
        subnets6: vec![],
        mtu: 1450,
    };
    let vm = Member {
        port_uid: "p1".into(),
        mac: "02:00:00:00:00:07".parse().unwrap(),
        ips: vec!["10.0.0.7".parse().unwrap()],
        ips6: vec![],
        hostname: "VM1".into(),
        workload_uid: "w".into(),
        options: vec![],
    };
    NetworkView::new(config, vec![vm])
}

/// The same with IPv6 beside, where addresses are made by the machine.
#[cfg(test)]
pub(crate) fn sample6() -> NetworkView {
    let NetworkView { mut config, mut members, .. } = sample();
    config.subnets6 = vec![six::Subnet6Config {
        cidr: "2001:db8::/64".parse().unwrap(),
        gateway: "2001:db8::1".parse().unwrap(),
        isolated: false,
        advertised: Some(six::AddressMode::Slaac),
        assigned: None,
        dns_servers: vec![],
        routes: vec![],
    }];
    members[0].ips6 = vec!["2001:db8::7".parse().unwrap()];
    NetworkView::new(config, members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_name_is_none() {
        assert_eq!(wire_name("web.demo").map(|name| name.to_ascii()).as_deref(), Some("web.demo."));
        assert!(wire_name(&"x".repeat(64)).is_none(), "a label has 63 letters at most");
    }
}
