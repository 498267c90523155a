//! Which packets may come to a port and leave it: a table of filters in each network's namespace, and in the bridge's table what a
//! port may say beside its own address.
//!
//! The filters are in the hooks of IPv4, where connection tracking has seen every packet, bridged ones too (br_netfilter), and where
//! what a Service's address leads to is known. Ports are told apart by their addresses, which the bridge's own rules (`ports`)
//! hold them to. Answers always pass; everything that goes the way in which its connection began is judged by the rules as they
//! are now, so that taking a rule away also ends what it had let in.

use crate::names;
use crate::types::{Guard, Policy, Rule, RuleMatch, RulePeer};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

/// The bridge table's part: what is switched off, what is open, and further addresses. It belongs into `table bridge yunfan`, whose sets
/// and chain it refills.
pub(crate) fn render_bridge(policy: &Policy) -> String {
    let mut out = String::from(
        "flush set bridge yunfan closed\nflush set bridge yunfan open\nflush set bridge yunfan pair_macs\nflush chain bridge yunfan pairs\n",
    );
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
    let filtered: Vec<(&Guard, &Vec<String>)> = policy
        .guards
        .iter()
        .filter(|guard| guard.secured)
        .filter_map(|guard| Some((guard, guard.groups.as_ref()?)))
        .collect();
    if filtered.is_empty() {
        return out;
    }
    out.push_str("table ip firewall {\n");
    for (at, group) in policy.groups.iter().enumerate() {
        let members: BTreeSet<String> = group.members.iter().map(ToString::to_string).collect();
        let _ = writeln!(out, "  set m{at} {{\n    type ipv4_addr\n    flags interval\n    auto-merge");
        elements(&mut out, members);
        out.push_str("  }\n");
    }
    // Ports with the same groups share their chains.
    let mut kinds: BTreeMap<&Vec<String>, usize> = BTreeMap::new();
    for (_, groups) in &filtered {
        let next = kinds.len();
        kinds.entry(*groups).or_insert(next);
    }
    for (groups, kind) in &kinds {
        for (letter, ingress) in [("o", false), ("i", true)] {
            let _ = writeln!(out, "  chain {letter}{kind} {{");
            for group in policy.groups.iter().filter(|group| groups.contains(&group.uid)) {
                for rule in group.rules.iter().filter(|rule| rule.ingress == ingress) {
                    if let Some(text) = rule_text(policy, rule) {
                        let _ = writeln!(out, "    {text}return");
                    }
                }
            }
            out.push_str("    drop\n  }\n");
        }
    }
    let addresses: BTreeMap<Ipv4Addr, usize> =
        filtered.iter().flat_map(|(guard, groups)| guard.ips.iter().map(|ip| (*ip, kinds[groups]))).collect();
    out.push_str("  set own {\n    type ipv4_addr\n");
    elements(&mut out, addresses.keys().map(ToString::to_string));
    out.push_str("  }\n");
    for (map, letter) in [("out", "o"), ("in", "i")] {
        let _ = writeln!(out, "  map {map} {{\n    type ipv4_addr : verdict");
        elements(&mut out, addresses.iter().map(|(ip, kind)| format!("{ip} : jump {letter}{kind}")));
        out.push_str("  }\n");
    }
    hooks(&mut out, &filtered, &kinds);
    out.push_str("}\n");
    out
}

fn elements(out: &mut String, all: impl IntoIterator<Item = String>) {
    let all: Vec<String> = all.into_iter().collect();
    if !all.is_empty() {
        let _ = writeln!(out, "    elements = {{ {} }}", all.join(",\n      "));
    }
}

fn hooks(out: &mut String, filtered: &[(&Guard, &Vec<String>)], kinds: &BTreeMap<&Vec<String>, usize>) {
    // A further range may hold the own addresses of other ports, which those ports' rules are for.
    let pairs = |side: &str, letter: &str| {
        let mut text = String::new();
        for (guard, groups) in filtered {
            for (net, _) in &guard.pairs {
                let _ =
                    writeln!(text, "    ip {side} {net} ip {side} != @own jump {letter}{}", kinds[groups]);
            }
        }
        text
    };
    let (from, to) = (pairs("saddr", "o"), pairs("daddr", "i"));
    let _ = write!(
        out,
        "  chain forward {{
    type filter hook forward priority filter; policy accept;
    ct direction reply accept
    ct state related accept
    ip saddr vmap @out
{from}    ip daddr vmap @in
{to}  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    ct direction reply accept
    ct state related accept
    udp sport 68 udp dport 67 accept
    ip saddr vmap @out
{from}  }}
"
    );
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
            groups: groups.map(|all| all.iter().map(|uid| (*uid).to_owned()).collect()),
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
        assert!(text.contains("ip saddr @m0 meta l4proto 6 th dport 80-81 return"), "{text}");
        assert_eq!(text.matches("    return\n").count(), 1, "{text}");
        assert!(text.contains("10.0.0.2 : jump i0,\n      10.0.0.3 : jump i0"), "{text}");
        assert!(text.contains("10.0.0.5 : jump i1") && !text.contains("10.0.0.4"), "{text}");
        let none = render_filters(&Policy { guards: vec![guard(4, None)], groups: vec![] });
        assert!(!none.contains("chain"), "{none}");
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
