//! Services' virtual addresses: one nftables table per network, rendered whole and replaced in one transaction.
//!
//! A packet's (address, protocol, port) is looked up in one map, which jumps to the Service port's chain; that
//! picks a target at random. Connection tracking does the rest, and the client's address is kept. What is
//! addressed to a virtual IP that has no target here is rejected, so that clients fail at once.

use crate::types::Target;
use crate::view::{NetworkView, ServiceBook};
use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;

/// Targets of one port that are programmed; more are left out.
const MAX_TARGETS: usize = 1000;
/// Ports of one Service that are programmed.
const MAX_PORTS: usize = 100;

/// What a rendering depends on besides Services and members.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) service_cidr: Ipv4Net,
    /// Virtual addresses that the network answers itself.
    pub(crate) own: Vec<Ipv4Addr>,
    /// The network's own address, used as the source where the answer could not find its way back.
    pub(crate) gateway: Ipv4Addr,
    /// Whether connection tracking sees packets that are bridged, not routed.
    pub(crate) bridged_tracking: bool,
}

/// The transaction that replaces the network's table of virtual addresses.
pub(crate) fn render(view: &NetworkView, book: &ServiceBook, place: &Place) -> String {
    let mut chains = String::new();
    let mut entries = Vec::new();
    let mut seen = BTreeSet::new();
    let mut own_targets = BTreeSet::new();
    for rule in &book.rules {
        let Some(ip) = rule.cluster_ip.filter(|ip| !place.own.contains(ip)) else { continue };
        for port in rule.ports.iter().take(MAX_PORTS) {
            let targets: Vec<&Target> =
                port.targets.iter().filter(|t| view.has_target(t)).take(MAX_TARGETS).collect();
            let protocol = port.protocol.as_str();
            if targets.is_empty() || !seen.insert((ip, protocol, port.port)) {
                continue;
            }
            let chain = format!("s{}", entries.len());
            entries.push(format!("{ip} . {protocol} . {} : goto {chain}", port.port));
            own_targets.extend(targets.iter().filter(|t| view.subnet_of(t.ip).is_some()).map(|t| t.ip));
            render_chain(&mut chains, &chain, protocol, &targets);
        }
    }
    let mut out = String::from("table ip yunfan {}\ndelete table ip yunfan\ntable ip yunfan {\n");
    out.push_str("  map services {\n    type ipv4_addr . inet_proto . inet_service : verdict\n");
    push_elements(&mut out, &entries);
    out.push_str("  }\n  set hairpin {\n    type ipv4_addr . ipv4_addr\n");
    push_elements(&mut out, &own_targets.iter().map(|ip| format!("{ip} . {ip}")).collect::<Vec<_>>());
    out.push_str("  }\n");
    out.push_str(&chains);
    render_hooks(&mut out, place);
    out.push_str("}\n");
    out
}

fn render_chain(out: &mut String, chain: &str, protocol: &str, targets: &[&Target]) {
    let _ = match targets {
        [only] => writeln!(
            out,
            "  chain {chain} {{\n    meta l4proto {protocol} dnat to {}:{}\n  }}",
            only.ip, only.port
        ),
        many => {
            let list: Vec<_> =
                many.iter().enumerate().map(|(n, t)| format!("{n} : {} . {}", t.ip, t.port)).collect();
            writeln!(
                out,
                "  chain {chain} {{\n    meta l4proto {protocol} dnat ip addr . port to numgen random mod {} map {{ {} }}\n  }}",
                many.len(),
                list.join(", ")
            )
        }
    };
}

fn render_hooks(out: &mut String, place: &Place) {
    let Place { service_cidr, own, gateway, bridged_tracking } = place;
    let own: Vec<String> = own.iter().map(Ipv4Addr::to_string).collect();
    let own = own.join(", ");
    for (chain, hook, nat, filter) in
        [("in", "prerouting", "dstnat", "dstnat + 10"), ("local", "output", "-100", "-90")]
    {
        let _ = write!(
            out,
            "  chain {chain}_nat {{
    type nat hook {hook} priority {nat}; policy accept;
    ip daddr . meta l4proto . th dport vmap @services
  }}
  chain {chain}_rest {{
    type filter hook {hook} priority {filter}; policy accept;
    ip daddr != {service_cidr} accept
    ip daddr {{ {own} }} accept
    ct direction reply accept
    meta l4proto tcp reject with tcp reset
    reject with icmp type port-unreachable
  }}
"
        );
    }
    // A pod that reaches itself would drop a packet from its own address. Without connection tracking of bridged
    // packets every answer must come back through the bridge's own address.
    let which = if *bridged_tracking { "ip saddr . ip daddr @hairpin " } else { "" };
    let _ = write!(
        out,
        "  chain source {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat {which}snat to {gateway}
  }}
"
    );
}

fn push_elements(out: &mut String, elements: &[String]) {
    if !elements.is_empty() {
        let _ = writeln!(out, "    elements = {{ {} }}", elements.join(",\n      "));
    }
}

/// A fingerprint of a rendering, to know that nothing changed.
pub(crate) fn fingerprint(rendering: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    rendering.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::*;
    use crate::view::sample;

    fn view(kind: NetworkKind) -> NetworkView {
        NetworkView::new(NetworkConfig { kind, ..sample().config }, vec![])
    }

    fn place() -> Place {
        Place {
            service_cidr: "10.96.0.0/16".parse().unwrap(),
            own: vec!["10.96.0.10".parse().unwrap(), "10.96.0.1".parse().unwrap()],
            gateway: "10.0.0.1".parse().unwrap(),
            bridged_tracking: true,
        }
    }

    fn rule(name: &str, ip: &str, targets: &[(&str, TargetNetwork)]) -> ServiceRule {
        let targets = targets
            .iter()
            .map(|(ip, network)| Target { network: network.clone(), ip: ip.parse().unwrap(), port: 8080 })
            .collect();
        ServiceRule {
            namespace: "demo".into(),
            name: name.into(),
            cluster_ip: Some(ip.parse().unwrap()),
            ports: vec![ServicePort { name: "http".into(), protocol: Protocol::Tcp, port: 80, targets }],
        }
    }

    #[test]
    fn only_targets_of_this_network_are_used() {
        let mine = TargetNetwork::Tenant("n1".into());
        let other = TargetNetwork::Tenant("n2".into());
        let book = ServiceBook::new(vec![
            rule("a", "10.96.0.5", &[("10.0.0.2", mine.clone()), ("10.0.0.9", other.clone())]),
            rule("b", "10.96.0.6", &[("10.0.0.9", other), ("10.244.0.3", TargetNetwork::Cluster)]),
            rule("c", "10.96.0.7", &[("10.0.0.3", mine.clone()), ("10.0.0.4", mine)]),
        ]);
        let text = render(&view(NetworkKind::Tenant), &book, &place());
        assert!(text.contains("10.96.0.5 . tcp . 80 : goto s0"), "{text}");
        assert!(text.contains("dnat to 10.0.0.2:8080"), "{text}");
        assert!(
            !text.contains("10.0.0.9") && !text.contains("10.244.0.3") && !text.contains("10.96.0.6"),
            "{text}"
        );
        assert!(
            text.contains("numgen random mod 2 map { 0 : 10.0.0.3 . 8080, 1 : 10.0.0.4 . 8080 }"),
            "{text}"
        );
    }

    #[test]
    fn order_does_not_change_the_rendering_and_the_networks_own_addresses_are_never_taken() {
        let mine = TargetNetwork::Tenant("n1".into());
        let a = rule("a", "10.96.0.5", &[("10.0.0.2", mine.clone())]);
        let dns = rule("kube-dns", "10.96.0.10", &[("10.0.0.3", mine.clone())]);
        let api = rule("kubernetes", "10.96.0.1", &[("10.0.0.3", mine)]);
        let view = view(NetworkKind::Tenant);
        let one = render(&view, &ServiceBook::new(vec![a.clone(), dns.clone(), api.clone()]), &place());
        let two = render(&view, &ServiceBook::new(vec![api, dns, a]), &place());
        assert_eq!(fingerprint(&one), fingerprint(&two));
        assert!(!one.contains("10.96.0.10 . tcp") && !one.contains("10.96.0.1 . tcp"), "{one}");
        assert!(one.contains("ip daddr { 10.96.0.10, 10.96.0.1 } accept"), "{one}");
    }
}
