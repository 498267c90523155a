//! The rules' text.

use super::{Entrance, Place, UdpTargets, fingerprint};
use crate::names::UPLINK_INSIDE;
use crate::types::{Protocol, ServicePort, ServiceRule, Target};
use crate::view::{NetworkView, ServiceBook};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// Targets of one port that are programmed; more are left out.
const MAX_TARGETS: usize = 1000;
/// Ports of one Service that are programmed.
const MAX_PORTS: usize = 100;
/// Clients of one target that are remembered.
const MAX_CLIENTS: u32 = 65_536;
/// Maps and sets whose elements are all in the text, with their types.
const FIXED: [(&str, &str, &str); 4] = [
    ("map", "services", "ipv4_addr . inet_proto . inet_service : verdict"),
    ("map", "doors", "inet_proto . inet_service : verdict"),
    ("set", "nodes", "ipv4_addr"),
    ("set", "hairpin", "ipv4_addr . ipv4_addr"),
];

/// A network's rules.
#[derive(Debug, Default)]
pub(crate) struct Rendering {
    body: String,
    /// Names of the chains and of the sets of clients.
    names: BTreeSet<String>,
    /// Where UDP leads.
    pub(crate) udp: UdpTargets,
}

impl Rendering {
    pub(crate) fn fingerprint(&self) -> u64 {
        fingerprint(&self.body)
    }

    /// The transaction that replaces the rules, where `present` is nft's listing of what is there. Who has which target
    /// is remembered in sets, which stay: so the table itself is never deleted.
    pub(crate) fn transaction(&self, present: &str) -> String {
        let mut out = String::from("table ip yunfan {\n");
        for (what, name, kind) in FIXED {
            let _ = writeln!(out, "  {what} {name} {{\n    type {kind}\n  }}");
        }
        out.push_str("}\nflush table ip yunfan\n");
        for (what, name, _) in FIXED {
            let _ = writeln!(out, "flush {what} ip yunfan {name}");
        }
        for (what, name) in leftovers(present).filter(|(_, name)| !self.names.contains(*name)) {
            let _ = writeln!(out, "delete {what} ip yunfan {name}");
        }
        out.push_str(&self.body);
        out
    }
}

/// The chains and sets of a listing that a rendering gives numbers or fingerprints as names: chains before sets, because they use them.
fn leftovers(present: &str) -> impl Iterator<Item = (&'static str, &str)> {
    let inside =
        present.lines().skip_while(|line| *line != "table ip yunfan {").take_while(|line| *line != "}");
    let named: Vec<_> = inside
        .filter_map(|line| line.strip_prefix('\t')?.strip_suffix(" {"))
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, name)| {
            let rest = name.strip_prefix(['s', 't', 'a']).unwrap_or_default();
            !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
        .collect();
    let of = move |kind: &'static str| {
        named.clone().into_iter().filter(move |(what, _)| *what == kind).map(move |(_, name)| (kind, name))
    };
    of("chain").collect::<Vec<_>>().into_iter().chain(of("set"))
}

/// Renders a network's table of Services.
pub(crate) fn render(view: &NetworkView, book: &ServiceBook, place: &Place) -> Rendering {
    let mut writer = Writer {
        view,
        place,
        chains: String::new(),
        sets: String::new(),
        elements: BTreeMap::new(),
        out: Rendering::default(),
    };
    for rule in &book.rules {
        for port in rule.ports.iter().take(MAX_PORTS) {
            writer.port(rule, port);
        }
    }
    if let Some(entrance) = &place.entrance {
        writer.entrance(entrance);
    }
    writer.finish()
}

struct Writer<'a> {
    view: &'a NetworkView,
    place: &'a Place,
    chains: String,
    sets: String,
    /// Of the fixed maps and sets, by name: keys and what they lead to, if anything.
    elements: BTreeMap<&'static str, BTreeMap<String, String>>,
    out: Rendering,
}

impl Writer<'_> {
    fn port(&mut self, rule: &ServiceRule, port: &ServicePort) {
        let targets = self.usable(&port.targets);
        let cluster_ip = rule.cluster_ip.filter(|ip| !self.place.own.contains(ip));
        let key = |ip: &Ipv4Addr| format!("{ip} . {} . {}", port.protocol.as_str(), port.port);
        let mut chain = None;
        if let Some(ip) = cluster_ip {
            self.udp_leads(ip, port.port, port.protocol, &targets);
            if !targets.is_empty() && !self.has("services", &key(&ip)) {
                let made = self.chain(rule, port, &targets, None);
                self.lead("services", key(&ip), &made);
                chain = Some(made);
            }
        }
        let Some(entrance) = &self.place.entrance else { return };
        if rule.external_ips.is_empty() && port.node_port.is_none() {
            return;
        }
        let outside = self.usable(&port.outside);
        let fronts = rule.external_ips.iter().map(|ip| (*ip, port.port));
        let nodes = entrance.nodes.iter().chain([&entrance.uplink]);
        let doors = port.node_port.into_iter().flat_map(|number| nodes.clone().map(move |ip| (*ip, number)));
        for (ip, number) in fronts.chain(doors) {
            self.udp_leads(ip, number, port.protocol, &outside);
        }
        let chain = match chain {
            Some(chain) if outside == targets => chain,
            inside if !outside.is_empty() || inside.is_some() => {
                self.chain(rule, port, &outside, inside.as_deref())
            }
            _ => return,
        };
        for ip in rule.external_ips.iter().filter(|ip| !self.place.own.contains(ip)) {
            self.lead("services", key(ip), &chain);
        }
        if let Some(number) = port.node_port {
            self.lead("doors", format!("{} . {number}", port.protocol.as_str()), &chain);
        }
    }

    fn usable<'t>(&self, targets: &'t [Target]) -> Vec<&'t Target> {
        targets.iter().filter(|target| self.view.has_target(target)).take(MAX_TARGETS).collect()
    }

    fn has(&self, map: &'static str, key: &str) -> bool {
        self.elements.get(map).is_some_and(|elements| elements.contains_key(key))
    }

    /// The first one has it.
    fn lead(&mut self, map: &'static str, key: String, chain: &str) {
        self.elements.entry(map).or_default().entry(key).or_insert_with(|| format!(" : goto {chain}"));
    }

    fn put(&mut self, set: &'static str, key: String) {
        self.elements.entry(set).or_default().insert(key, String::new());
    }

    fn udp_leads(&mut self, ip: Ipv4Addr, port: u16, protocol: Protocol, targets: &[&Target]) {
        if protocol == Protocol::Udp {
            let all = self.out.udp.entry((ip, port)).or_default();
            all.extend(targets.iter().map(|target| (target.ip, target.port)));
        }
    }

    fn name(&mut self, name: String) -> String {
        self.out.names.insert(name.clone());
        name
    }

    /// The chain that leads to `targets`; for clients inside the cluster to the chain `inside`, if there is one.
    fn chain(
        &mut self,
        rule: &ServiceRule,
        port: &ServicePort,
        targets: &[&Target],
        inside: Option<&str>,
    ) -> String {
        let name = self.name(format!("s{:x}", self.out.names.len()));
        let mut text = String::new();
        if let (Some(inside), Some(entrance)) = (inside, &self.place.entrance) {
            let _ = writeln!(text, "    ip saddr {} goto {inside}", entrance.cluster_cidr);
        }
        for target in targets.iter().filter(|target| self.view.subnet_of(target.ip).is_some()) {
            self.put("hairpin", format!("{0} . {0}", target.ip));
        }
        match (rule.affinity, targets) {
            (_, []) => {}
            (Some(seconds), many) => self.sticky(&mut text, rule, port, seconds, many),
            (None, [only]) => lead_to(&mut text, port.protocol, only.ip, only.port),
            (None, many) => {
                let list = many.iter().enumerate().map(|(n, t)| format!("{n} : {} . {}", t.ip, t.port));
                let _ = writeln!(
                    text,
                    "    meta l4proto {} dnat ip addr . port to numgen random mod {} map {{ {} }}",
                    port.protocol.as_str(),
                    many.len(),
                    list.collect::<Vec<_>>().join(", ")
                );
            }
        }
        let _ = write!(self.chains, "  chain {name} {{\n{text}  }}\n");
        name
    }

    /// Clients that are remembered go where they went; others anywhere, and are remembered from then on.
    fn sticky(
        &mut self,
        text: &mut String,
        rule: &ServiceRule,
        port: &ServicePort,
        seconds: u32,
        targets: &[&Target],
    ) {
        let mut chains = Vec::new();
        for target in targets {
            let (ip, number, protocol) = (target.ip, target.port, port.protocol.as_str());
            let place = format!("{}/{}/{}/{protocol}", rule.namespace, rule.name, port.port);
            let set =
                self.name(format!("a{:016x}", fingerprint(&format!("{place} {ip}:{number} {seconds}"))));
            let chain = self.name(format!("t{:x}", self.out.names.len()));
            let _ = write!(
                self.sets,
                "  set {set} {{\n    type ipv4_addr\n    size {MAX_CLIENTS}\n    flags dynamic,timeout\n    timeout {seconds}s\n  }}\n"
            );
            let mut lead = format!("    update @{set} {{ ip saddr }}\n");
            lead_to(&mut lead, port.protocol, ip, number);
            let _ = write!(self.chains, "  chain {chain} {{\n{lead}  }}\n");
            let _ = writeln!(text, "    ip saddr @{set} goto {chain}");
            chains.push(chain);
        }
        let list: Vec<_> =
            chains.iter().enumerate().map(|(n, chain)| format!("{n} : goto {chain}")).collect();
        let _ = writeln!(text, "    numgen random mod {} vmap {{ {} }}", chains.len(), list.join(", "));
    }

    /// Host ports, and the addresses under which pods know the node.
    fn entrance(&mut self, entrance: &Entrance) {
        for ip in entrance.nodes.iter().chain([&entrance.uplink]) {
            self.put("nodes", ip.to_string());
        }
        for (port, ip) in &entrance.host_ports {
            let chain = self.name(format!("s{:x}", self.out.names.len()));
            let mut text = String::new();
            lead_to(&mut text, port.protocol, *ip, port.target_port);
            let _ = write!(self.chains, "  chain {chain} {{\n{text}  }}\n");
            self.put("hairpin", format!("{ip} . {ip}"));
            let tail = format!("{} . {}", port.protocol.as_str(), port.port);
            match port.host_ip {
                Some(host) => self.lead("services", format!("{host} . {tail}"), &chain),
                None => self.lead("doors", tail, &chain),
            }
            let target =
                Target { network: crate::types::TargetNetwork::Cluster, ip: *ip, port: port.target_port };
            let hosts = match port.host_ip {
                Some(host) => vec![host],
                None => entrance.nodes.clone(),
            };
            for host in hosts {
                self.udp_leads(host, port.port, port.protocol, &[&target]);
            }
        }
    }

    fn finish(self) -> Rendering {
        let Self { place, chains, sets, elements, mut out, .. } = self;
        let mut body = String::from("table ip yunfan {\n");
        for (what, name, kind) in FIXED {
            let _ = writeln!(body, "  {what} {name} {{\n    type {kind}");
            let list = elements.get(name).into_iter().flatten().map(|(key, lead)| format!("{key}{lead}"));
            let list: Vec<_> = list.collect();
            if !list.is_empty() {
                let _ = writeln!(body, "    elements = {{ {} }}", list.join(",\n      "));
            }
            body.push_str("  }\n");
        }
        body.push_str(&sets);
        body.push_str(&chains);
        hooks(&mut body, place);
        body.push_str("}\n");
        out.body = body;
        out
    }
}

fn lead_to(text: &mut String, protocol: Protocol, ip: Ipv4Addr, port: u16) {
    let _ = writeln!(text, "    meta l4proto {} dnat to {ip}:{port}", protocol.as_str());
}

fn hooks(out: &mut String, place: &Place) {
    let Place { service_cidr, own, gateway, bridged_tracking, entrance } = place;
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
    ip daddr @nodes meta l4proto . th dport vmap @doors
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
    out.push_str("  chain source {\n    type nat hook postrouting priority srcnat; policy accept;\n");
    if let Some(Entrance { uplink, node_cidr, .. }) = entrance {
        // What comes from the host and goes back there; and pods that took the way around by the host: their answers have to take it too.
        let _ = write!(
            out,
            "    ct status dnat iifname \"{UPLINK_INSIDE}\" oifname \"{UPLINK_INSIDE}\" snat to {uplink}
    ct status dnat iifname \"{UPLINK_INSIDE}\" ip saddr {node_cidr} snat to {gateway}
"
        );
    }
    let _ = write!(out, "    ct status dnat {which}snat to {gateway}\n  }}\n");
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
