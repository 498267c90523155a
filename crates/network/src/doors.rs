//! On the host: what comes to a node port, a host port or a Service's further address is handed to the cluster network.
//!
//! Node ports go to the cluster network's end of the uplink under their own number, so that the choice of a target, and the memory of who
//! has which, are in one place. Host ports go to their pod at once. Loopback addresses are served too: the uplink alone lets
//! such packets pass, under the host's address there, and none that come from the other side.

use crate::error::Result;
use crate::names::Names;
use crate::services::node_ports;
use crate::types::HostPort;
use crate::view::ServiceBook;
use crate::{namespace, nft};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// The two ends of the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) host: Ipv4Addr,
    pub(crate) cluster: Ipv4Addr,
}

/// The transaction that replaces the host's table of doors.
pub(crate) fn render(
    names: &Names,
    ends: Ends,
    book: &ServiceBook,
    host_ports: &[(HostPort, Ipv4Addr)],
) -> String {
    let (table, link) = (names.doors_table(), names.uplink());
    let Ends { host, cluster } = ends;
    let numbers: Vec<String> =
        node_ports(book).into_iter().map(|(protocol, number)| format!("{protocol} . {number}")).collect();
    let mut external = BTreeMap::new();
    for rule in &book.rules {
        for (ip, port) in
            rule.external_ips.iter().flat_map(|ip| rule.ports.iter().map(move |port| (ip, port)))
        {
            if let Some(cluster_ip) = rule.cluster_ip {
                external
                    .entry(format!("{ip} . {} . {}", port.protocol.as_str(), port.port))
                    .or_insert(cluster_ip);
            }
        }
    }
    let external: Vec<String> = external.into_iter().map(|(key, ip)| format!("{key} : {ip}")).collect();
    let (mut everywhere, mut at, mut chains) = (BTreeMap::new(), BTreeMap::new(), String::new());
    for (index, (port, ip)) in host_ports.iter().enumerate() {
        let (protocol, number) = (port.protocol.as_str(), port.port);
        let _ = write!(
            chains,
            "  chain h{index} {{\n    meta l4proto {protocol} dnat ip to {ip}:{}\n  }}\n",
            port.target_port
        );
        let lead = format!("goto h{index}");
        match port.host_ip {
            Some(host) => at.entry(format!("{host} . {protocol} . {number}")).or_insert(lead),
            None => everywhere.entry(format!("{protocol} . {number}")).or_insert(lead),
        };
    }
    let list = |map: BTreeMap<String, String>| {
        map.into_iter().map(|(key, lead)| format!("{key} : {lead}")).collect::<Vec<_>>()
    };
    let mut out = format!("table inet {table} {{}}\ndelete table inet {table}\ntable inet {table} {{\n");
    for (head, elements) in [
        ("set node_ports {\n    type inet_proto . inet_service", numbers),
        ("map external {\n    type ipv4_addr . inet_proto . inet_service : ipv4_addr", external),
        ("map host_ports {\n    type inet_proto . inet_service : verdict", list(everywhere)),
        ("map host_ports_at {\n    type ipv4_addr . inet_proto . inet_service : verdict", list(at)),
    ] {
        let _ = writeln!(out, "  {head}");
        if !elements.is_empty() {
            let _ = writeln!(out, "    elements = {{ {} }}", elements.join(",\n      "));
        }
        out.push_str("  }\n");
    }
    out.push_str(&chains);
    for (chain, hook, priority) in [("in", "prerouting", "dstnat"), ("local", "output", "-100")] {
        let _ = write!(
            out,
            "  chain {chain} {{
    type nat hook {hook} priority {priority}; policy accept;
    meta nfproto != ipv4 accept
    ip daddr . meta l4proto . th dport vmap @host_ports_at
    dnat ip to ip daddr . meta l4proto . th dport map @external
    fib daddr type != local accept
    meta l4proto . th dport vmap @host_ports
    meta l4proto . th dport @node_ports dnat ip to {cluster}
  }}
"
        );
    }
    // Only answers that connection tracking turns back into loopback ones may come from there.
    let _ = write!(
        out,
        "  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname \"{link}\" ip daddr 127.0.0.0/8 drop
  }}
  chain source {{
    type nat hook postrouting priority srcnat - 10; policy accept;
    oifname \"{link}\" ip saddr 127.0.0.0/8 snat ip to {host}
  }}
}}
"
    );
    out
}

/// Applies a rendering. Runs in the host's namespace; blocks.
pub(crate) fn apply(names: &Names, rendering: &str) -> Result<()> {
    namespace::sysctl(&format!("net/ipv4/conf/{}/route_localnet", names.uplink()), "1")?;
    nft::apply("the host", rendering)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Protocol, ServicePort, ServiceRule};

    #[test]
    fn every_door_is_in_the_table() {
        let ends = Ends { host: "169.254.1.1".parse().unwrap(), cluster: "169.254.1.2".parse().unwrap() };
        let port =
            |protocol, node_port| ServicePort { protocol, port: 80, node_port, ..ServicePort::default() };
        let book = ServiceBook::new(vec![ServiceRule {
            cluster_ip: Some("10.96.0.5".parse().unwrap()),
            external_ips: vec!["192.0.2.7".parse().unwrap()],
            ports: vec![
                port(Protocol::Tcp, Some(30_080)),
                port(Protocol::Udp, Some(30_080)),
                port(Protocol::Sctp, None),
            ],
            ..ServiceRule::default()
        }]);
        let open = |host_ip: Option<&str>, number| {
            let host_ip = host_ip.map(|ip| ip.parse().unwrap());
            let port = HostPort { host_ip, protocol: Protocol::Tcp, port: number, target_port: 8080 };
            (port, "10.244.0.3".parse().unwrap())
        };
        let text = render(
            &Names::new("0a1b2c").unwrap(),
            ends,
            &book,
            &[open(None, 80), open(Some("127.0.0.1"), 81)],
        );
        for want in [
            "elements = { tcp . 30080,\n      udp . 30080 }",
            "192.0.2.7 . tcp . 80 : 10.96.0.5",
            "elements = { tcp . 80 : goto h0 }",
            "elements = { 127.0.0.1 . tcp . 81 : goto h1 }",
            "meta l4proto tcp dnat ip to 10.244.0.3:8080",
            "@node_ports dnat ip to 169.254.1.2",
            "oifname \"yf0a1b2cu\" ip saddr 127.0.0.0/8 snat ip to 169.254.1.1",
        ] {
            assert!(text.contains(want), "{want} is not in\n{text}");
        }
    }
}
