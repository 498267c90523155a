//! Which packets may come to a port and leave it: a table of filters in each network's namespace, and in the bridge's table what a
//! port may say beside its own address.
//!
//! The filters are in the hooks of IPv4, where connection tracking has seen every packet, bridged ones too (br_netfilter), and where
//! what a Service's address leads to is known. Whose rules hold for a packet is told by the link that it comes from, and where it is
//! bridged by the link that it goes to, whatever its addresses: the bridge's table writes that into the packet's mark. What is
//! routed to a port has no such link yet, and is told by its address. Answers always pass; everything that goes the way in which its connection began is
//! judged by the rules as they are now, so that taking a rule away also ends what it had let in.

use crate::conntrack::{self, Flow};
use crate::names::{self, BRIDGE};
use crate::types::{Guard, Policy, Rule, RuleGroup, RuleMatch, RulePeer};
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// The mark of a packet from a filtered port: this, and the number of its kind.
const FROM: u32 = 1 << 24;
/// The mark of a packet that is bridged: this, and the number of the kind of the port that it goes to, 0 for one that is not filtered.
pub(crate) const BRIDGED: u32 = 1 << 25;

/// The lists of groups that rules are programmed for, numbered from 1: ports with the same groups are of one kind.
type Kinds = BTreeMap<Vec<String>, u32>;

/// The ports that rules hold for, and their groups.
fn filtered(policy: &Policy) -> impl Iterator<Item = (&Guard, &Vec<String>)> {
    let secured = policy.guards.iter().filter(|guard| guard.secured);
    secured.filter_map(|guard| Some((guard, guard.groups.as_ref()?)))
}

/// Whose rules hold for what is routed to further ranges: where several ports have one, the groups that all of them have.
fn ranges(policy: &Policy) -> BTreeMap<Ipv4Net, Vec<String>> {
    let mut all: BTreeMap<Ipv4Net, Vec<String>> = BTreeMap::new();
    for (guard, groups) in filtered(policy) {
        for net in guard.pairs.iter().map(|(net, _)| net).chain(&guard.behind) {
            all.entry(*net)
                .and_modify(|common| common.retain(|uid| groups.contains(uid)))
                .or_insert_with(|| groups.clone());
        }
    }
    all
}

fn kinds(policy: &Policy) -> Kinds {
    let lists: BTreeSet<Vec<String>> =
        filtered(policy).map(|(_, groups)| groups.clone()).chain(ranges(policy).into_values()).collect();
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

/// The whole table of filters, as one transaction.
pub(crate) fn render_filters(policy: &Policy) -> String {
    let mut out = String::from("table ip firewall {}\ndelete table ip firewall\n");
    let kinds = kinds(policy);
    if kinds.is_empty() {
        return out;
    }
    out.push_str("table ip firewall {\n");
    for (at, group) in policy.groups.iter().enumerate() {
        let members: BTreeSet<String> = group.members.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "  set m{at} {{\n    type ipv4_addr\n    flags interval\n    auto-merge");
        elements(&mut out, members);
        out.push_str("  }\n");
    }
    chains(&mut out, policy, &kinds);
    let verdict = |letter: char, kind: u32| format!("goto {letter}{kind}");
    let numbers = || kinds.values().copied();
    map(&mut out, "from", "mark", numbers().map(|kind| (FROM | kind, verdict('o', kind))));
    let bridged = numbers().map(|kind| (BRIDGED | kind, verdict('i', kind)));
    map(&mut out, "links", "mark", bridged.chain([(BRIDGED, "accept".to_owned())]));
    // Those that are not filtered are here so that no range of another port stands for them.
    let addresses: BTreeMap<Ipv4Addr, String> = policy
        .guards
        .iter()
        .flat_map(|guard| {
            let groups = guard.groups.as_ref().filter(|_| guard.secured);
            let to = groups.map_or_else(|| "accept".to_owned(), |groups| verdict('i', kinds[groups]));
            guard.ips.iter().map(move |ip| (*ip, to.clone()))
        })
        .collect();
    map(&mut out, "in", "ipv4_addr", addresses.into_iter());
    hooks(&mut out, policy, &kinds);
    out.push_str("}\n");
    out
}

/// A chain for what each group lets pass each way, and one for each kind of port that asks its groups.
fn chains(out: &mut String, policy: &Policy, kinds: &Kinds) {
    for (letter, ingress) in [('o', false), ('i', true)] {
        let held = |group: &RuleGroup| kinds.keys().any(|groups| groups.contains(&group.uid));
        for (at, group) in policy.groups.iter().enumerate().filter(|(_, group)| held(group)) {
            let _ = writeln!(out, "  chain g{at}{letter} {{");
            for rule in group.rules.iter().filter(|rule| rule.ingress == ingress) {
                if let Some(text) = rule_text(policy, rule) {
                    let _ = writeln!(out, "    {text}accept");
                }
            }
            out.push_str("  }\n");
        }
        for (groups, kind) in kinds {
            let _ = writeln!(out, "  chain {letter}{kind} {{");
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

fn hooks(out: &mut String, policy: &Policy, kinds: &Kinds) {
    // The narrowest range that an address is in says whose it is.
    let mut further: Vec<(Ipv4Net, Vec<String>)> = ranges(policy).into_iter().collect();
    further.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
    let mut routed = String::new();
    for (net, groups) in &further {
        let _ = writeln!(routed, "    oifname \"{BRIDGE}\" ip daddr {net} goto i{}", kinds[groups]);
    }
    let _ = write!(
        out,
        "  chain sources {{
    type filter hook prerouting priority filter; policy accept;
    ct direction reply accept
    ct state related accept
    udp sport 68 udp dport 67 fib daddr type {{ local, broadcast }} accept
    meta mark vmap @from
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct direction reply accept
    ct state related accept
    meta mark vmap @links
    ip daddr vmap @in
{routed}  }}
"
    );
}

/// A policy as connection tracking's memory is compared with it.
pub(crate) struct Judge<'a> {
    groups_of: HashMap<Ipv4Addr, &'a Vec<String>>,
    groups: HashMap<&'a str, &'a RuleGroup>,
}

impl<'a> Judge<'a> {
    pub(crate) fn new(policy: &'a Policy) -> Self {
        let owners =
            filtered(policy).flat_map(|(guard, groups)| guard.ips.iter().map(move |ip| (*ip, groups)));
        Self {
            groups_of: owners.collect(),
            groups: policy.groups.iter().map(|group| (group.uid.as_str(), group)).collect(),
        }
    }

    /// Whether a flow is to be forgotten: no rule would let it begin, so its answers must not pass as such either. (A TCP connection that the
    /// other end might take up again is left to end by itself: it hears nothing any more.)
    pub(crate) fn ends(&self, flow: &Flow) -> bool {
        let back = Flow { source: flow.target, front: flow.source, target: flow.source, ..*flow };
        !self.lets(flow) && (flow.protocol != conntrack::TCP || !self.lets(&back))
    }

    fn lets(&self, flow: &Flow) -> bool {
        let asks = flow.protocol == conntrack::UDP && (flow.source.1, flow.target.1) == (68, 67);
        let side = |own: Ipv4Addr, other: Ipv4Addr, ingress: bool| {
            self.groups_of.get(&own).is_none_or(|groups| {
                let groups = groups.iter().filter_map(|uid| self.groups.get(uid.as_str()));
                let mut rules = groups.flat_map(|group| &group.rules).filter(|rule| rule.ingress == ingress);
                rules.any(|rule| covers(rule.matches, flow) && self.is_peer(&rule.peer, other))
            })
        };
        let (source, target) = (flow.source.0, flow.target.0);
        asks || (side(source, target, false) && side(target, source, true))
    }

    fn is_peer(&self, peer: &RulePeer, ip: Ipv4Addr) -> bool {
        match peer {
            RulePeer::Any => true,
            RulePeer::Range(net) => net.contains(&ip),
            RulePeer::Group(uid) => self
                .groups
                .get(uid.as_str())
                .is_some_and(|group| group.members.iter().any(|net| net.contains(&ip))),
        }
    }
}

fn covers(matches: RuleMatch, flow: &Flow) -> bool {
    match matches {
        RuleMatch::Any => true,
        RuleMatch::Protocol(number) => flow.protocol == number,
        RuleMatch::Ports(number, low, high) => {
            flow.protocol == number && (low..=high).contains(&flow.target.1)
        }
        RuleMatch::Icmp(kind, code) => {
            flow.protocol == conntrack::ICMP
                && flow.icmp.is_some_and(|(of, its)| of == kind && code.is_none_or(|code| code == its))
        }
    }
}

/// What a rule matches, with a space behind; `None` for what can't happen.
fn rule_text(policy: &Policy, rule: &Rule) -> Option<String> {
    let mut text = String::new();
    let side = if rule.ingress { "saddr" } else { "daddr" };
    match &rule.peer {
        RulePeer::Any => {}
        RulePeer::Range(net) => {
            let _ = write!(text, "ip {side} {net} ");
        }
        RulePeer::Group(uid) => {
            let at = policy.groups.iter().position(|group| group.uid == *uid)?;
            let _ = write!(text, "ip {side} @m{at} ");
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
            let _ = write!(text, "icmp type {kind} ");
        }
        RuleMatch::Icmp(kind, Some(code)) => {
            let _ = write!(text, "icmp type {kind} icmp code {code} ");
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Mac, RuleGroup};

    fn guard(last: u8, groups: Option<&[&str]>) -> Guard {
        Guard {
            port_uid: format!("000{last}"),
            mac: Mac([2, 0, 0, 0, 0, last]),
            ips: vec![Ipv4Addr::new(10, 0, 0, last)],
            up: true,
            secured: true,
            pairs: vec![],
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
            rules: vec![
                Rule {
                    ingress: true,
                    matches: RuleMatch::Ports(6, 80, 81),
                    peer: RulePeer::Group("web".into()),
                },
                Rule { ingress: false, matches: RuleMatch::Any, peer: RulePeer::Any },
                Rule { ingress: true, matches: RuleMatch::Any, peer: RulePeer::Group("gone".into()) },
            ],
        };
        let guards =
            vec![guard(2, Some(&["web"])), guard(3, Some(&["web"])), guard(4, None), guard(5, Some(&[]))];
        let text = render_filters(&Policy { guards, groups: vec![web] });
        assert!(text.contains("ip saddr @m0 meta l4proto 6 th dport 80-81 accept"), "{text}");
        assert_eq!(text.matches("    accept\n").count(), 1, "{text}");
        assert!(text.contains("10.0.0.2 : goto i2,\n      10.0.0.3 : goto i2"), "{text}");
        assert!(text.contains("10.0.0.5 : goto i1") && text.contains("10.0.0.4 : accept"), "{text}");
        let none = render_filters(&Policy { guards: vec![guard(4, None)], groups: vec![] });
        assert!(!none.contains("chain"), "{none}");
    }

    /// A group of this name that lets this come.
    fn opens(uid: &str, matches: RuleMatch) -> RuleGroup {
        RuleGroup {
            uid: uid.into(),
            members: vec![],
            rules: vec![Rule { ingress: true, matches, peer: RulePeer::Any }],
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
        assert!(text.contains("chain i2 {\n    jump g0i\n    jump g1i\n    drop"), "{text}");
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
        let ip = |last| Ipv4Addr::new(10, 0, 0, last);
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
        let leaves = Rule { ingress: false, matches: RuleMatch::Any, peer: RulePeer::Any };
        let out = policy(vec![RuleGroup { uid: "dns".into(), members: vec![], rules: vec![leaves] }]);
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
