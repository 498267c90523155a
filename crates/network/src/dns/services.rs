//! The names of Services, below `svc`.

use super::zone::{Answer, MAX_ANSWERS, TTL, Zone, addresses};
use crate::types::{Protocol, ServiceRule};
use crate::view::wire_name;
use hickory_proto::rr::rdata::SRV;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Answers for `NAMESPACE`, `SERVICE.NAMESPACE`, `ENDPOINT.SERVICE.NAMESPACE` and `_PORT._PROTOCOL.SERVICE.NAMESPACE`.
pub(super) fn answer(zone: &Zone<'_>, name: &Name, labels: &[&str], kind: RecordType) -> Answer {
    if !zone.book.known {
        return Answer::NotYet;
    }
    let rule = match labels {
        [namespace] if zone.book.has_namespace(namespace) => return Answer::Records(Vec::new()),
        [.., service, namespace] => zone.book.by_name(namespace, service),
        _ => None,
    };
    let Some(rule) = rule else { return Answer::NoSuchName };
    match labels {
        [_, _] => match &rule.external_name {
            Some(elsewhere) => {
                wire_name(elsewhere.trim_end_matches('.')).map_or(Answer::NoSuchName, Answer::Alias)
            }
            None => addresses(name, kind, &of_service(zone, rule)),
        },
        [host, _, _] => match of_endpoint(zone, rule, host) {
            ips if ips.is_empty() => Answer::NoSuchName,
            ips => addresses(name, kind, &ips),
        },
        [port, protocol, _, _] => match port.strip_prefix('_').zip(protocol.strip_prefix('_')) {
            Some((port, protocol)) => srv(zone, name, rule, port, protocol, kind),
            None => Answer::NoSuchName,
        },
        _ => Answer::NoSuchName,
    }
}

/// The virtual address, or for a headless Service those of its endpoints that this network can reach.
fn of_service(zone: &Zone<'_>, rule: &ServiceRule) -> Vec<Ipv4Addr> {
    if let Some(ip) = rule.cluster_ip {
        return vec![ip];
    }
    let here = rule.endpoints.iter().filter(|endpoint| zone.view.is_on(&endpoint.network));
    here.map(|endpoint| endpoint.ip).collect::<BTreeSet<_>>().into_iter().collect()
}

fn of_endpoint(zone: &Zone<'_>, rule: &ServiceRule, host: &str) -> Vec<Ipv4Addr> {
    let here = rule.endpoints.iter().filter(|endpoint| {
        rule.cluster_ip.is_none()
            && zone.view.is_on(&endpoint.network)
            && endpoint.label().eq_ignore_ascii_case(host)
    });
    here.map(|endpoint| endpoint.ip).collect()
}

fn srv(
    zone: &Zone<'_>,
    name: &Name,
    rule: &ServiceRule,
    port: &str,
    protocol: &str,
    kind: RecordType,
) -> Answer {
    let Ok(protocol) = protocol.parse::<Protocol>() else { return Answer::NoSuchName };
    let mut ports =
        rule.ports.iter().filter(|p| p.name.eq_ignore_ascii_case(port) && p.protocol == protocol).peekable();
    if port.is_empty() || ports.peek().is_none() {
        return Answer::NoSuchName;
    }
    if !matches!(kind, RecordType::SRV | RecordType::ANY) {
        return Answer::Records(Vec::new());
    }
    let domain = rule.domain(zone.domain);
    let found: BTreeSet<(u16, String)> = match rule.cluster_ip {
        Some(_) => ports.map(|p| (p.port, domain.clone())).collect(),
        None => {
            let label = |ip: Ipv4Addr| {
                let known = rule.endpoints.iter().find(|endpoint| endpoint.ip == ip);
                known.map_or_else(|| ip.to_string().replace('.', "-"), crate::types::Endpoint::label)
            };
            let targets = ports.flat_map(|p| p.targets.iter()).filter(|target| zone.view.has_target(target));
            targets.map(|target| (target.port, format!("{}.{domain}", label(target.ip)))).collect()
        }
    };
    // All the same, as the specification leaves it: a client takes any of them.
    let weight = u16::try_from(100 / found.len().clamp(1, 100)).unwrap_or(1);
    let record = |(port, host): (u16, String)| {
        let data = SRV::new(0, weight, port, wire_name(&host)?);
        Some(Record::from_rdata(name.clone(), TTL, RData::SRV(data)))
    };
    Answer::Records(found.into_iter().take(MAX_ANSWERS).filter_map(record).collect())
}
