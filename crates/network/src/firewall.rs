//! Which packets may come to a port and leave it: a table of filters in each network's namespace, and in the bridge's table what a
//! port may say beside its own address.
//!
//! The filters are in the hooks of IPv4 and IPv6, a table for each, where connection tracking has seen every packet, bridged ones too (br_netfilter), and where
//! what a Service's address leads to is known. Whose rules hold for a packet is told by the link that it comes from, and where it is
//! bridged by the link that it goes to, whatever its addresses: the bridge's table writes that into the packet's mark. What is
//! routed to a port has no such link yet, and is told by its address. Answers always pass, unless a port has a group that is stateless; everything that goes the
//! way in which its connection began is judged by the rules as they are now, so that taking a rule away also ends what it had let in.

use crate::conntrack::{self, Flow};
use crate::names::{self, BRIDGE};
use crate::six;
use crate::types::{Guard, Mac, Policy, Rule, RuleGroup, RuleMatch, RulePeer};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::net::IpAddr;

/// The mark of a packet from a filtered port: this, and the number of its kind.
const FROM: u32 = 1 << 24;
/// The mark of a packet that is bridged: this, and the number of the kind of the port that it goes to, 0 for one that is not filtered.
pub(crate) const BRIDGED: u32 = 1 << 25;

/// The lists of groups that rules are programmed for, numbered from 1: ports with the same groups are of one kind.
type Kinds = BTreeMap<Vec<String>, u32>;

/// The two tables of filters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// What nftables calls it, its addresses, and its ICMP.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::V4 => ("ip", "ipv4_addr", "icmp"),
            Self::V6 => ("ip6", "ipv6_addr", "icmpv6"),
        }
    }

    /// The ranges of this family among those of both.
    fn of(self, nets: &[Ipv4Net], nets6: &[Ipv6Net]) -> Vec<IpNet> {
        match self {
            Self::V4 => nets.iter().copied().map(IpNet::from).collect(),
            Self::V6 => nets6.iter().copied().map(IpNet::from).collect(),
        }
    }

    /// A port's own addresses of this family.
    fn own(self, guard: &Guard) -> Vec<IpAddr> {
        match self {
            Self::V4 => guard.ips.iter().copied().map(IpAddr::from).collect(),
            Self::V6 => guard.ips6.iter().copied().map(IpAddr::from).collect(),
        }
    }
}

/// The ports that rules hold for, and their groups.
fn filtered(policy: &Policy) -> impl Iterator<Item = (&Guard, &Vec<String>)> {
    let secured = policy.guards.iter().filter(|guard| guard.secured);
    secured.filter_map(|guard| Some((guard, guard.groups.as_ref()?)))
}

/// Whose rules hold for what is routed to further ranges: where several ports have one, the groups that all of them have.
fn ranges(policy: &Policy, family: Family) -> BTreeMap<IpNet, Vec<String>> {
    let mut all: BTreeMap<IpNet, Vec<String>> = BTreeMap::new();
    for (guard, groups) in filtered(policy) {
        let pairs: Vec<Ipv4Net> =
            guard.pairs.iter().map(|(net, _)| *net).chain(guard.behind.iter().copied()).collect();
        let pairs6: Vec<Ipv6Net> = guard.pairs6.iter().map(|(net, _)| *net).collect();
        for net in family.of(&pairs, &pairs6) {
            all.entry(net)
                .and_modify(|common| common.retain(|uid| groups.contains(uid)))
                .or_insert_with(|| groups.clone());
        }
    }
    all
}

fn kinds(policy: &Policy) -> Kinds {
    let lists: BTreeSet<Vec<String>> = [Family::V4, Family::V6]
        .into_iter()
        .flat_map(|family| ranges(policy, family).into_values())
        .chain(filtered(policy).map(|(_, groups)| groups.clone()))
        .collect();
    lists.into_iter().zip(1..).collect()
}

/// The bridge table's part: what is switched off, what is open, further addresses, and whose rules hold for which links. It belongs into
/// `table bridge yunfan`, whose sets, maps and chain it refills.
pub(crate) fn render_bridge(policy: &Policy) -> String {
    let mut out = String::from(
        "flush set bridge yunfan closed\nflush set bridge yunfan open\nflush set bridge yunfan pair_macs\nflush chain bridge yunfan pairs
flush map bridge yunfan sources\nflush map bridge yunfan targets\n",
    );
    let kinds = kinds(policy);
    for guard in &policy.guards {
        // It is a pod's or a machine's, and may not be plugged in yet.
        let links = [names::veth(&guard.port_uid), names::tap(&guard.port_uid)];
        let quoted = format!("\"{}\", \"{}\"", links[0], links[1]);
        if !guard.up {
            let _ = writeln!(out, "add element bridge yunfan closed {{ {quoted} }}");
        }
        if !guard.secured {
            let _ = writeln!(out, "add element bridge yunfan open {{ {quoted} }}");
            continue;
        }
        if let Some(kind) = guard.groups.as_ref().and_then(|groups| kinds.get(groups)) {
            for (map, mark) in [("sources", FROM | kind), ("targets", BRIDGED | kind)] {
                let [one, other] = &links;
                let _ = writeln!(
                    out,
                    "add element bridge yunfan {map} {{ \"{one}\" : {mark}, \"{other}\" : {mark} }}"
                );
            }
        }
        for (net, mac) in &guard.pairs6 {
            let mac = mac.unwrap_or(guard.mac);
            pair6(&mut out, &links, *net, mac);
        }
        for (net, mac) in &guard.pairs {
            let mac = mac.unwrap_or(guard.mac);
            for link in &links {
                let _ = writeln!(out, "add element bridge yunfan pair_macs {{ \"{link}\" . {mac} }}");
            }
            let _ = writeln!(
                out,
                "add rule bridge yunfan pairs iifname {{ {quoted} }} ether type arp arp saddr ether {mac} arp saddr ip {net} accept
add rule bridge yunfan pairs iifname {{ {quoted} }} ether type ip ether saddr {mac} ip saddr {net} accept"
            );
        }
    }
    out
}

/// What a port may say in IPv6 beside its own addresses. Neighbours are told of what is in the range alone, whatever else says so.
fn pair6(out: &mut String, links: &[String; 2], net: Ipv6Net, mac: Mac) {
    let [one, other] = links;
    let port = format!("iifname {{ \"{one}\", \"{other}\" }} ether type ip6 ether saddr {mac}");
    let (mask, bits) = (net.netmask().to_bits(), net.network().to_bits());
    let told = match net.prefix_len() {
        0 => String::new(),
        _ => format!(" @th,64,128 & {mask:#034x} == {bits:#034x}"),
    };
    let from = if net.prefix_len() == 0 { String::new() } else { format!(" ip6 saddr {net}") };
    for link in links {
        let _ = writeln!(out, "add element bridge yunfan pair_macs {{ \"{link}\" . {mac} }}");
    }
    let _ = writeln!(
        out,
        "add rule bridge yunfan pairs {port} icmpv6 type nd-neighbor-advert{told} accept
add rule bridge yunfan pairs {port} ip6 saddr :: icmpv6 type nd-neighbor-solicit{told} accept
add rule bridge yunfan pairs {port}{from} icmpv6 type != {{ nd-router-advert, nd-redirect, nd-neighbor-advert }} accept
add rule bridge yunfan pairs {port}{from} udp sport != 547 accept
add rule bridge yunfan pairs {port}{from} meta l4proto != {{ 17, 58 }} accept"
    );
}

/// The whole tables of filters, as one transaction.
pub(crate) fn render_filters(policy: &Policy) -> String {
    let mut out = String::new();
    render_family(&mut out, policy, Family::V4);
    // Else nftables may know no such tables, and no packet of it passes.
    if six::is_here() {
        render_family(&mut out, policy, Family::V6);
    }
    out
}

fn render_family(out: &mut String, policy: &Policy, family: Family) {
    let (ip, kind, _) = family.words();
    let _ = writeln!(out, "table {ip} firewall {{}}\ndelete table {ip} firewall");
    let kinds = kinds(policy);
    if kinds.is_empty() {
        return;
    }
    let _ = writeln!(out, "table {ip} firewall {{");
    for (at, group) in policy.groups.iter().enumerate() {
        let members = family.of(&group.members, &group.members6);
        let members: BTreeSet<String> = members.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "  set m{at} {{\n    type {kind}\n    flags interval\n    auto-merge");
        elements(out, members);
        out.push_str("  }\n");
    }
    chains(out, policy, &kinds, family);
    let verdict = |letter: char, kind: u32| format!("goto {letter}{kind}");
    let numbers = || kinds.values().copied();
    map(out, "from", "mark", numbers().map(|kind| (FROM | kind, verdict('o', kind))));
    let bridged = numbers().map(|kind| (BRIDGED | kind, verdict('i', kind)));
    map(out, "links", "mark", bridged.chain([(BRIDGED, "accept".to_owned())]));
    // Those that are not filtered are here so that no range of another port stands for them.
    let addresses: BTreeMap<IpAddr, String> = policy
        .guards
        .iter()
        .flat_map(|guard| {
            let groups = guard.groups.as_ref().filter(|_| guard.secured);
            let to = groups.map_or_else(|| "accept".to_owned(), |groups| verdict('i', kinds[groups]));
            family.own(guard).into_iter().map(move |ip| (ip, to.clone()))
        })
        .collect();
    map(out, "in", kind, addresses.into_iter());
    hooks(out, policy, &kinds, family);
    out.push_str("}\n");
}

/// A chain for what each group lets pass each way, and one for each kind of port that asks its groups.
fn chains(out: &mut String, policy: &Policy, kinds: &Kinds, family: Family) {
    for (letter, ingress) in [('o', false), ('i', true)] {
        let held = |group: &RuleGroup| kinds.keys().any(|groups| groups.contains(&group.uid));
        for (at, group) in policy.groups.iter().enumerate().filter(|(_, group)| held(group)) {
            let _ = writeln!(out, "  chain g{at}{letter} {{");
            let here = |rule: &&Rule| rule.ingress == ingress && rule.v6 == (family == Family::V6);
            for rule in group.rules.iter().filter(here) {
                if let Some(text) = rule_text(policy, rule, family) {
                    let _ = writeln!(out, "    {text}accept");
                }
            }
            out.push_str("  }\n");
        }
        for (groups, kind) in kinds {
            let _ = writeln!(out, "  chain {letter}{kind} {{");
            let stateless = |group: &RuleGroup| group.stateless && groups.contains(&group.uid);
            if !policy.groups.iter().any(stateless) {
                out.push_str("    ct direction reply accept\n    ct state related accept\n");
            }
            for (at, _) in policy.groups.iter().enumerate().filter(|(_, group)| groups.contains(&group.uid)) {
                let _ = writeln!(out, "    jump g{at}{letter}");
            }
            out.push_str("    drop\n  }\n");
        }
    }
}

fn map(out: &mut String, name: &str, key: &str, all: impl Iterator<Item = (impl ToString, String)>) {
    let _ = writeln!(out, "  map {name} {{\n    type {key} : verdict");
    elements(out, all.map(|(key, verdict)| format!("{} : {verdict}", key.to_string())));
    out.push_str("  }\n");
}

fn elements(out: &mut String, all: impl IntoIterator<Item = String>) {
    let all: Vec<String> = all.into_iter().collect();
    if !all.is_empty() {
        let _ = writeln!(out, "    elements = {{ {} }}", all.join(",\n      "));
    }
}

fn hooks(out: &mut String, policy: &Policy, kinds: &Kinds, family: Family) {
    let (ip, _, _) = family.words();
    // The narrowest range that an address is in says whose it is.
    let mut further: Vec<(IpNet, Vec<String>)> = ranges(policy, family).into_iter().collect();
    further.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
    let mut routed = String::new();
    for (net, groups) in &further {
        let _ = writeln!(routed, "    oifname \"{BRIDGE}\" {ip} daddr {net} goto i{}", kinds[groups]);
    }
    // What neighbours, routers and listeners say of themselves always passes, as do questions for an address.
    let (asks, told) = match family {
        Family::V4 => ("udp sport 68 udp dport 67 fib daddr type { local, broadcast } accept", ""),
        Family::V6 => (
            "icmpv6 type { 130, 131, 132, 133, 135, 136, 143 } accept
    udp sport 546 udp dport 547 ip6 daddr { ff02::1:2, fe80::/10 } accept",
            "    icmpv6 type { 130, 131, 132, 133, 135, 136, 143 } accept\n",
        ),
    };
    let _ = write!(
        out,
        "  chain sources {{
    type filter hook prerouting priority filter; policy accept;
    {asks}
    meta mark vmap @from
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
{told}    meta mark vmap @links
    {ip} daddr vmap @in
{routed}  }}
"
    );
}

/// A policy as connection tracking's memory is compared with it.
pub(crate) struct Judge<'a> {
    groups_of: HashMap<IpAddr, &'a Vec<String>>,
    groups: HashMap<&'a str, &'a RuleGroup>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(policy: &'a Policy) -> Self {
        let owners = filtered(policy).flat_map(|(guard, groups)| {
            let own = [Family::V4, Family::V6].into_iter().flat_map(|family| family.own(guard));
            own.map(move |ip| (ip, groups))
        });
        Self {
            groups_of: owners.collect(),
            groups: policy.groups.iter().map(|group| (group.uid.as_str(), group)).collect(),
        }
    }

    /// Whether a flow is to be forgotten: no rule would let it begin, so its answers must not pass as such either. (A TCP connection that the
    /// other end might take up again is left to end by itself: it hears nothing any more.)
    pub(crate) fn ends(&self, flow: &Flow<IpAddr>) -> bool {
        let back = Flow { source: flow.target, front: flow.source, target: flow.source, ..*flow };
        !self.lets(flow) && (flow.protocol != conntrack::TCP || !self.lets(&back))
    }

    fn lets(&self, flow: &Flow<IpAddr>) -> bool {
        let (ports, v6) = ((flow.source.1, flow.target.1), flow.target.0.is_ipv6());
        let asks = flow.protocol == conntrack::UDP && ports == if v6 { (546, 547) } else { (68, 67) };
        let side = |own: IpAddr, other: IpAddr, ingress: bool| {
            self.groups_of.get(&own).is_none_or(|groups| {
                let groups = groups.iter().filter_map(|uid| self.groups.get(uid.as_str()));
                let here = |rule: &&Rule| rule.ingress == ingress && rule.v6 == v6;
                let mut rules = groups.flat_map(|group| &group.rules).filter(here);
                rules.any(|rule| covers(rule.matches, flow) && self.is_peer(&rule.peer, other))
            })
        };
        let (source, target) = (flow.source.0, flow.target.0);
        asks || (side(source, target, false) && side(target, source, true))
    }

    fn is_peer(&self, peer: &RulePeer, ip: IpAddr) -> bool {
        match peer {
            RulePeer::Any => true,
            RulePeer::Range(net) => IpNet::from(*net).contains(&ip),
            RulePeer::Range6(net) => IpNet::from(*net).contains(&ip),
            RulePeer::Group(uid) => self.groups.get(uid.as_str()).is_some_and(|group| match ip {
                IpAddr::V4(ip) => group.members.iter().any(|net| net.contains(&ip)),
                IpAddr::V6(ip) => group.members6.iter().any(|net| net.contains(&ip)),
            }),
        }
    }
}

fn covers(matches: RuleMatch, flow: &Flow<IpAddr>) -> bool {
    match matches {
        RuleMatch::Any => true,
        RuleMatch::Protocol(number) => flow.protocol == number,
        RuleMatch::Ports(number, low, high) => {
            flow.protocol == number && (low..=high).contains(&flow.target.1)
        }
        RuleMatch::Icmp(kind, code) => {
            let icmp = if flow.target.0.is_ipv6() { conntrack::ICMPV6 } else { conntrack::ICMP };
            flow.protocol == icmp
                && flow.icmp.is_some_and(|(of, its)| of == kind && code.is_none_or(|code| code == its))
        }
    }
}

/// What a rule matches, with a space behind; `None` for what can't happen.
fn rule_text(policy: &Policy, rule: &Rule, family: Family) -> Option<String> {
    let (ip, _, icmp) = family.words();
    let mut text = String::new();
    let side = if rule.ingress { "saddr" } else { "daddr" };
    match &rule.peer {
        RulePeer::Any => {}
        RulePeer::Range(net) if family == Family::V4 => {
            let _ = write!(text, "ip {side} {net} ");
        }
        RulePeer::Range6(net) if family == Family::V6 => {
            let _ = write!(text, "ip6 {side} {net} ");
        }
        RulePeer::Range(_) | RulePeer::Range6(_) => return None,
        RulePeer::Group(uid) => {
            let at = policy.groups.iter().position(|group| group.uid == *uid)?;
            let _ = write!(text, "{ip} {side} @m{at} ");
        }
    }
    match rule.matches {
        RuleMatch::Any => {}
        RuleMatch::Protocol(number) => {
            let _ = write!(text, "meta l4proto {number} ");
        }
        RuleMatch::Ports(number, low, high) => {
            let _ = write!(text, "meta l4proto {number} th dport {low}-{high} ");
        }
        RuleMatch::Icmp(kind, None) => {
            let _ = write!(text, "{icmp} type {kind} ");
        }
        RuleMatch::Icmp(kind, Some(code)) => {
            let _ = write!(text, "{icmp} type {kind} {icmp} code {code} ");
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn guard(last: u8, groups: Option<&[&str]>) -> Guard {
        Guard {
            port_uid: format!("000{last}"),
            mac: Mac([2, 0, 0, 0, 0, last]),
            ips: vec![Ipv4Addr::new(10, 0, 0, last)],
            ips6: vec![Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into())],
            up: true,
            secured: true,
            pairs: vec![],
            pairs6: vec![],
            behind: vec![],
            groups: groups.map(|all| all.iter().map(|uid| (*uid).to_owned()).collect()),
            qos: Default::default(),
        }
    }

    #[test]
    fn ports_with_the_same_groups_share_chains_and_others_have_none() {
        let web = RuleGroup {
            uid: "web".into(),
            members: vec!["10.0.0.2/32".parse().unwrap()],
            members6: vec![],
            rules: vec![
                Rule {
                    ingress: true,
                    v6: false,
                    matches: RuleMatch::Ports(6, 80, 81),
                    peer: RulePeer::Group("web".into()),
                },
                Rule { ingress: false, v6: false, matches: RuleMatch::Any, peer: RulePeer::Any },
                Rule {
                    ingress: true,
                    v6: false,
                    matches: RuleMatch::Any,
                    peer: RulePeer::Group("gone".into()),
                },
            ],
            stateless: false,
        };
        let guards =
            vec![guard(2, Some(&["web"])), guard(3, Some(&["web"])), guard(4, None), guard(5, Some(&[]))];
        let text = render_filters(&Policy { guards, groups: vec![web] });
        assert!(text.contains("ip saddr @m0 meta l4proto 6 th dport 80-81 accept"), "{text}");
        assert_eq!(text.matches("    accept\n").count(), 1, "{text}");
        assert!(text.contains("10.0.0.2 : goto i2,\n      10.0.0.3 : goto i2"), "{text}");
        assert!(text.contains("2001:db8::2 : goto i2") && text.contains("icmpv6 type { 130, 131"), "{text}");
        assert!(text.contains("10.0.0.5 : goto i1") && text.contains("10.0.0.4 : accept"), "{text}");
        let none = render_filters(&Policy { guards: vec![guard(4, None)], groups: vec![] });
        assert!(!none.contains("chain"), "{none}");
    }

    /// A group of this name that lets this come.
    fn opens(uid: &str, matches: RuleMatch) -> RuleGroup {
        RuleGroup {
            uid: uid.into(),
            members: vec![],
            members6: vec![],
            rules: vec![Rule { ingress: true, v6: false, matches, peer: RulePeer::Any }],
            stateless: false,
        }
    }

    #[test]
    fn a_groups_rules_are_there_once_however_ports_combine_it() {
        let guards =
            vec![guard(2, Some(&["dns"])), guard(3, Some(&["dns", "web"])), guard(4, Some(&["web"]))];
        let groups =
            vec![opens("dns", RuleMatch::Ports(17, 53, 53)), opens("web", RuleMatch::Ports(6, 80, 80))];
        let text = render_filters(&Policy { guards, groups });
        assert_eq!(text.matches("dport 53-53").count(), 1, "{text}");
        let answers = "ct direction reply accept\n    ct state related accept";
        assert!(
            text.contains(&format!("chain i2 {{\n    {answers}\n    jump g0i\n    jump g1i\n    drop")),
            "{text}"
        );
    }

    #[test]
    fn a_stateless_group_takes_the_answers_from_all_that_ports_with_it_hear() {
        let guards = vec![guard(2, Some(&["bare", "web"])), guard(3, Some(&["web"]))];
        let bare = RuleGroup { stateless: true, ..opens("bare", RuleMatch::Any) };
        let text = render_filters(&Policy { guards, groups: vec![bare, opens("web", RuleMatch::Any)] });
        assert!(text.contains("chain i1 {\n    jump g0i\n    jump g1i\n    drop"), "{text}");
        assert!(text.contains("chain i2 {\n    ct direction reply accept"), "{text}");
    }

    #[test]
    fn the_narrowest_range_says_whose_rules_hold_and_several_owners_agree() {
        let mut guards =
            vec![guard(2, Some(&["a", "b"])), guard(3, Some(&["b", "c"])), guard(4, Some(&["c"]))];
        for guard in &mut guards[..2] {
            guard.pairs = vec![("10.0.0.77/32".parse().unwrap(), None)];
        }
        guards[2].pairs = vec![("0.0.0.0/0".parse().unwrap(), None)];
        let text = render_filters(&Policy { guards, groups: vec![opens("b", RuleMatch::Any)] });
        // In order: a and b, b alone, b and c, c.
        let wanted =
            "oifname \"br0\" ip daddr 10.0.0.77/32 goto i2\n    oifname \"br0\" ip daddr 0.0.0.0/0 goto i4";
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn flows_end_that_no_rule_would_let_begin() {
        let ip = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
        let flow = |protocol: u8, port: u16| Flow {
            protocol,
            source: (ip(2), 4000),
            front: (ip(9), port),
            target: (ip(3), port),
            outer: (ip(2), 4000),
            icmp: None,
        };
        let policy = |rules: Vec<RuleGroup>| Policy { guards: vec![guard(3, Some(&["dns"]))], groups: rules };
        let dns = policy(vec![opens("dns", RuleMatch::Ports(17, 53, 53))]);
        let judge = Judge::new(&dns);
        assert!(!judge.ends(&flow(17, 53)) && judge.ends(&flow(17, 54)) && judge.ends(&flow(6, 53)));
        let leaves = Rule { ingress: false, v6: false, matches: RuleMatch::Any, peer: RulePeer::Any };
        let out = policy(vec![RuleGroup {
            uid: "dns".into(),
            members: vec![],
            members6: vec![],
            rules: vec![leaves],
            stateless: false,
        }]);
        let judge = Judge::new(&out);
        assert!(judge.ends(&flow(17, 53)), "its answers would be a flow of their own");
        assert!(!judge.ends(&flow(6, 53)), "which TCP would take for one that goes on");
        assert!(!Judge::new(&Policy::default()).ends(&flow(17, 53)));
        let ping = Flow { icmp: Some((8, 0)), ..flow(1, 0) };
        let pings = policy(vec![opens("dns", RuleMatch::Icmp(8, None))]);
        assert!(!Judge::new(&pings).ends(&ping) && judge.ends(&ping));
    }

    #[test]
    fn a_port_without_security_is_open_and_pairs_are_further_addresses() {
        let mut open = guard(2, None);
        open.secured = false;
        let mut paired = guard(3, None);
        paired.pairs = vec![("10.0.0.64/28".parse().unwrap(), None)];
        paired.up = false;
        let text = render_bridge(&Policy { guards: vec![open, paired], groups: vec![] });
        assert!(text.contains("yunfan open { \"v0002\", \"t0002\" }"), "{text}");
        assert!(text.contains("yunfan closed { \"v0003\", \"t0003\" }"), "{text}");
        assert!(text.contains("ether saddr 02:00:00:00:00:03 ip saddr 10.0.0.64/28 accept"), "{text}");
    }
}
