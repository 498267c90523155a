//! What the name server knows: Services, the network's own hosts, and the way back from addresses to names.

use crate::types::{Protocol, ServiceRule};
use crate::view::{NetworkView, ServiceBook, wire_name};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, PTR, SOA, SRV};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;

/// How long clients may keep an answer, seconds: short, because endpoints move.
const TTL: u32 = 5;
/// Addresses in one answer; a headless Service with more shows the first.
const MAX_ANSWERS: usize = 64;

/// What to reply.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// The name is ours. Without records it exists but has none of the type.
    Records(Vec<Record>),
    /// The name is ours to know, and does not exist.
    NoSuchName,
    /// The name is ours, but what is needed to answer has not arrived yet.
    NotYet,
    /// The name is somebody else's.
    NotOurs,
}

/// What answers depend on.
pub(crate) struct Zone<'a> {
    pub(crate) view: &'a NetworkView,
    pub(crate) book: &'a ServiceBook,
    /// The cluster domain, lower case, without a trailing dot.
    pub(crate) domain: &'a str,
    pub(crate) service_cidr: Ipv4Net,
}

impl Zone<'_> {
    pub(crate) fn answer(&self, name: &Name, kind: RecordType, class: DNSClass) -> Answer {
        if class != DNSClass::IN && class != DNSClass::ANY {
            return Answer::NotOurs;
        }
        let text = name.to_ascii().to_ascii_lowercase();
        let text = text.trim_end_matches('.');
        if let Some(reversed) = text.strip_suffix(".in-addr.arpa") {
            return self.reverse(name, reversed, kind);
        }
        let Some(inside) = strip_domain(text, self.domain) else {
            // A bare host name: some clients ask for it before they try their search domains.
            let ips = if text.contains('.') { Vec::new() } else { self.view.by_host(text) };
            return if ips.is_empty() { Answer::NotOurs } else { addresses(name, kind, &ips) };
        };
        let labels: Vec<&str> = if inside.is_empty() { Vec::new() } else { inside.split('.').collect() };
        match labels[..] {
            [] => self.apex(name, kind),
            ["svc"] | ["net"] => Answer::Records(Vec::new()),
            [.., "svc"] => self.service(name, &labels[..labels.len() - 1], kind),
            [.., "net"] => self.host(name, &labels[..labels.len() - 1], kind),
            _ => Answer::NoSuchName,
        }
    }

    fn apex(&self, name: &Name, kind: RecordType) -> Answer {
        match kind {
            RecordType::SOA | RecordType::ANY => {
                Answer::Records(vec![Record::from_rdata(name.clone(), TTL, self.soa_data())])
            }
            _ => Answer::Records(Vec::new()),
        }
    }

    /// `SERVICE.NAMESPACE`, `_PORT._PROTOCOL.SERVICE.NAMESPACE` or `NAMESPACE`, below `svc`.
    fn service(&self, name: &Name, labels: &[&str], kind: RecordType) -> Answer {
        if !self.book.known {
            return Answer::NotYet;
        }
        match labels {
            [namespace] if self.book.has_namespace(namespace) => Answer::Records(Vec::new()),
            [service, namespace] => match self.book.by_name(namespace, service) {
                Some(rule) => addresses(name, kind, &self.service_addresses(rule)),
                None => Answer::NoSuchName,
            },
            [port, protocol, service, namespace] => {
                let rule = self.book.by_name(namespace, service);
                let named = port.strip_prefix('_').zip(protocol.strip_prefix('_'));
                match rule.zip(named) {
                    Some((rule, (port, protocol))) => self.srv(name, rule, port, protocol, kind),
                    None => Answer::NoSuchName,
                }
            }
            _ => Answer::NoSuchName,
        }
    }

    /// The virtual address, or for a headless Service those of its targets that this network can reach.
    fn service_addresses(&self, rule: &ServiceRule) -> Vec<Ipv4Addr> {
        if let Some(ip) = rule.cluster_ip {
            return vec![ip];
        }
        let targets = rule.ports.iter().flat_map(|p| &p.targets).filter(|t| self.view.has_target(t));
        let mut ips: Vec<_> = targets.map(|t| t.ip).collect();
        ips.sort();
        ips.dedup();
        ips
    }

    fn srv(&self, name: &Name, rule: &ServiceRule, port: &str, protocol: &str, kind: RecordType) -> Answer {
        let Ok(protocol) = protocol.parse::<Protocol>() else { return Answer::NoSuchName };
        let mut ports = rule.ports.iter().filter(|p| p.name == port && p.protocol == protocol).peekable();
        if port.is_empty() || ports.peek().is_none() {
            return Answer::NoSuchName;
        }
        let host = wire_name(&rule.domain(self.domain));
        let (true, Some(host)) = (matches!(kind, RecordType::SRV | RecordType::ANY), host) else {
            return Answer::Records(Vec::new());
        };
        let record = |number| {
            Record::from_rdata(name.clone(), TTL, RData::SRV(SRV::new(0, 100, number, host.clone())))
        };
        let mut numbers: Vec<u16> = match rule.cluster_ip {
            Some(_) => ports.map(|p| p.port).collect(),
            None => ports
                .flat_map(|p| p.targets.iter().filter(|t| self.view.has_target(t)).map(|t| t.port))
                .collect(),
        };
        numbers.sort();
        numbers.dedup();
        Answer::Records(numbers.into_iter().take(MAX_ANSWERS).map(record).collect())
    }

    /// `HOST.NETWORK.NAMESPACE` below `net`: this network's own members and nobody else's.
    fn host(&self, name: &Name, labels: &[&str], kind: RecordType) -> Answer {
        let own =
            [self.view.config.name.to_ascii_lowercase(), self.view.config.namespace.to_ascii_lowercase()];
        match labels {
            [namespace] if *namespace == own[1] => Answer::Records(Vec::new()),
            [network, namespace] if [*network, *namespace] == own => Answer::Records(Vec::new()),
            [host, network, namespace] if [*network, *namespace] == own => match self.view.by_host(host) {
                ips if ips.is_empty() => Answer::NoSuchName,
                ips => addresses(name, kind, &ips),
            },
            _ => Answer::NoSuchName,
        }
    }

    fn reverse(&self, name: &Name, reversed: &str, kind: RecordType) -> Answer {
        let mut octets: Vec<&str> = reversed.split('.').collect();
        octets.reverse();
        let Ok(ip) = octets.join(".").parse::<Ipv4Addr>() else { return Answer::NotOurs };
        let host = match self.view.by_ip(ip) {
            Some(member) if !member.hostname.is_empty() => {
                Some(format!("{}.{}", member.hostname, self.view.host_domain(self.domain)))
            }
            _ => self.book.by_ip(ip).map(|rule| rule.domain(self.domain)),
        };
        match host.and_then(|host| wire_name(&host)) {
            Some(host) if matches!(kind, RecordType::PTR | RecordType::ANY) => {
                Answer::Records(vec![Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(host)))])
            }
            Some(_) => Answer::Records(Vec::new()),
            None if self.service_cidr.contains(&ip) && !self.book.known => Answer::NotYet,
            None if self.service_cidr.contains(&ip) || self.view.subnet_of(ip).is_some() => {
                Answer::NoSuchName
            }
            None => Answer::NotOurs,
        }
    }

    /// The record that accompanies an empty or negative answer, so that clients may remember it.
    pub(crate) fn soa(&self) -> Option<Record> {
        Some(Record::from_rdata(wire_name(self.domain)?, TTL, self.soa_data()))
    }

    fn soa_data(&self) -> RData {
        let name = |first: &str| wire_name(&format!("{first}.{}", self.domain)).unwrap_or_default();
        RData::SOA(SOA::new(name("ns"), name("hostmaster"), 1, 7200, 1800, 86400, TTL))
    }
}

impl Answer {
    pub(crate) fn code(&self) -> ResponseCode {
        match self {
            Self::Records(_) => ResponseCode::NoError,
            Self::NoSuchName => ResponseCode::NXDomain,
            Self::NotYet => ResponseCode::ServFail,
            Self::NotOurs => ResponseCode::Refused,
        }
    }
}

fn addresses(name: &Name, kind: RecordType, ips: &[Ipv4Addr]) -> Answer {
    if !matches!(kind, RecordType::A | RecordType::ANY) {
        return Answer::Records(Vec::new());
    }
    let record = |ip: &Ipv4Addr| Record::from_rdata(name.clone(), TTL, RData::A(A(*ip)));
    Answer::Records(ips.iter().take(MAX_ANSWERS).map(record).collect())
}

/// What is left of `text` before the domain; the empty string for the domain itself.
fn strip_domain<'a>(text: &'a str, domain: &str) -> Option<&'a str> {
    let rest = text.strip_suffix(domain)?;
    if rest.is_empty() { Some("") } else { rest.strip_suffix('.') }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::*;
    use crate::view::sample;

    fn target(network: TargetNetwork, ip: &str) -> Target {
        Target { network, ip: ip.parse().unwrap(), port: 8080 }
    }

    fn book() -> ServiceBook {
        let mine = TargetNetwork::Tenant("n1".into());
        let targets = vec![target(mine, "10.0.0.3"), target(TargetNetwork::Cluster, "10.244.0.3")];
        let port = ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, targets };
        let rule = |name: &str, ip: Option<&str>| ServiceRule {
            namespace: "demo".into(),
            name: name.into(),
            cluster_ip: ip.map(|ip| ip.parse().unwrap()),
            ports: vec![port.clone()],
        };
        ServiceBook::new(vec![rule("web", Some("10.96.0.5")), rule("db", None)])
    }

    fn ask(book: &ServiceBook, name: &str, kind: RecordType) -> String {
        let view = sample();
        let zone = Zone {
            view: &view,
            book,
            domain: "cluster.local",
            service_cidr: "10.96.0.0/16".parse().unwrap(),
        };
        match zone.answer(&Name::from_ascii(name).unwrap(), kind, DNSClass::IN) {
            Answer::Records(records) => {
                records.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join(",")
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn services_hosts_and_addresses_have_names() {
        let book = book();
        for (name, kind, want) in [
            ("web.demo.svc.cluster.local.", RecordType::A, "10.96.0.5"),
            ("WEB.demo.svc.Cluster.Local.", RecordType::A, "10.96.0.5"),
            ("web.demo.svc.cluster.local.", RecordType::AAAA, ""),
            ("db.demo.svc.cluster.local.", RecordType::A, "10.0.0.3"),
            (
                "_http._tcp.web.demo.svc.cluster.local.",
                RecordType::SRV,
                "0 100 80 web.demo.svc.cluster.local.",
            ),
            ("_http._udp.web.demo.svc.cluster.local.", RecordType::SRV, "NoSuchName"),
            ("nope.demo.svc.cluster.local.", RecordType::A, "NoSuchName"),
            ("demo.svc.cluster.local.", RecordType::A, ""),
            ("vm1.blue.demo.net.cluster.local.", RecordType::A, "10.0.0.7"),
            ("vm1.", RecordType::A, "10.0.0.7"),
            ("vm1.red.demo.net.cluster.local.", RecordType::A, "NoSuchName"),
            ("7.0.0.10.in-addr.arpa.", RecordType::PTR, "VM1.blue.demo.net.cluster.local."),
            ("5.0.96.10.in-addr.arpa.", RecordType::PTR, "web.demo.svc.cluster.local."),
            ("9.0.96.10.in-addr.arpa.", RecordType::PTR, "NoSuchName"),
            ("8.8.8.8.in-addr.arpa.", RecordType::PTR, "NotOurs"),
            ("example.org.", RecordType::A, "NotOurs"),
            ("notcluster.local.", RecordType::A, "NotOurs"),
            ("x.cluster.local.", RecordType::A, "NoSuchName"),
        ] {
            assert_eq!(ask(&book, name, kind), want, "{name} {kind}");
        }
    }

    #[test]
    fn before_the_services_are_known_nothing_is_denied() {
        let book = ServiceBook::default();
        assert_eq!(ask(&book, "web.demo.svc.cluster.local.", RecordType::A), "NotYet");
        assert_eq!(ask(&book, "vm1.blue.demo.net.cluster.local.", RecordType::A), "10.0.0.7");
    }
}
