//! What the name server knows: Services, the network's own hosts, and the way back from addresses to names.
//!
//! Names of Services are those of "Kubernetes DNS-Based Service Discovery", version 1.1.0.

use super::services;
use crate::view::{NetworkView, ServiceBook, wire_name};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::{A, AAAA, PTR, SOA, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::Ipv4Net;
use std::net::{IpAddr, Ipv4Addr};

/// The version of the specification, as clients ask for it.
const VERSION: &str = "1.1.0";
/// How long clients may keep an answer, seconds: short, because endpoints move.
pub(super) const TTL: u32 = 5;
/// Addresses in one answer; a headless Service with more shows the first.
pub(super) const MAX_ANSWERS: usize = 64;

/// What to reply.
#[derive(Debug, PartialEq)]
pub(crate) enum Answer {
    /// The name is ours. Without records it exists but has none of the type.
    Records(Vec<Record>),
    /// The name is ours, and stands for this other name, whose records are asked for too.
    Alias(Name),
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
            ["svc" | "net" | "pod"] => Answer::Records(Vec::new()),
            ["dns-version"] => match kind {
                RecordType::TXT | RecordType::ANY => {
                    let text = RData::TXT(TXT::new(vec![VERSION.to_owned()]));
                    Answer::Records(vec![Record::from_rdata(name.clone(), TTL, text)])
                }
                _ => Answer::Records(Vec::new()),
            },
            [.., "svc"] => services::answer(self, name, &labels[..labels.len() - 1], kind),
            [.., "pod"] => pod(name, &labels[..labels.len() - 1], kind),
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
        let mut hosts = match self.view.by_ip(ip) {
            Some(member) if !member.hostname.is_empty() => {
                vec![format!("{}.{}", member.hostname, self.view.host_domain(self.domain))]
            }
            _ => self.book.by_ip(ip).map(|rule| rule.domain(self.domain)).into_iter().collect(),
        };
        let endpoints = self.book.endpoints_at(ip).filter(|(_, endpoint)| self.view.is_on(&endpoint.network));
        hosts.extend(
            endpoints.map(|(rule, endpoint)| format!("{}.{}", endpoint.label(), rule.domain(self.domain))),
        );
        let hosts: Vec<Name> = hosts.iter().filter_map(|host| wire_name(host)).take(MAX_ANSWERS).collect();
        if hosts.is_empty() {
            return match self.service_cidr.contains(&ip) {
                true if !self.book.known => Answer::NotYet,
                false if self.view.subnet_of(ip).is_none() => Answer::NotOurs,
                _ => Answer::NoSuchName,
            };
        }
        if !matches!(kind, RecordType::PTR | RecordType::ANY) {
            return Answer::Records(Vec::new());
        }
        let record = |host| Record::from_rdata(name.clone(), TTL, RData::PTR(PTR(host)));
        Answer::Records(hosts.into_iter().map(record).collect())
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
            Self::Records(_) | Self::Alias(_) => ResponseCode::NoError,
            Self::NoSuchName => ResponseCode::NXDomain,
            Self::NotYet => ResponseCode::ServFail,
            Self::NotOurs => ResponseCode::Refused,
        }
    }
}

/// `10-0-0-3.NAMESPACE` below `pod`: the address that the name itself says.
fn pod(name: &Name, labels: &[&str], kind: RecordType) -> Answer {
    match labels {
        [_] => Answer::Records(Vec::new()),
        [address, _] if address.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') => {
            match address.replace('-', ".").parse::<Ipv4Addr>() {
                Ok(ip) => addresses(name, kind, &[ip]),
                Err(_) => Answer::NoSuchName,
            }
        }
        _ => Answer::NoSuchName,
    }
}

pub(super) fn addresses<I: Copy + Into<IpAddr>>(name: &Name, kind: RecordType, ips: &[I]) -> Answer {
    let data = |ip: &I| match (*ip).into() {
        IpAddr::V4(ip) => (RecordType::A, RData::A(A(ip))),
        IpAddr::V6(ip) => (RecordType::AAAA, RData::AAAA(AAAA(ip))),
    };
    let asked = ips.iter().map(data).filter(|(of, _)| kind == *of || kind == RecordType::ANY);
    let record = |(_, data)| Record::from_rdata(name.clone(), TTL, data);
    Answer::Records(asked.take(MAX_ANSWERS).map(record).collect())
}

/// What is left of `text` before the domain; the empty string for the domain itself.
fn strip_domain<'a>(text: &'a str, domain: &str) -> Option<&'a str> {
    let rest = text.strip_suffix(domain)?;
    if rest.is_empty() { Some("") } else { rest.strip_suffix('.') }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
