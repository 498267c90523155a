//! How much may come to a port and leave it, and how its packets are marked: a table of the bridge in each network's namespace.
//!
//! It is told by the links, as the port's other rules are, so it may be there before the port is plugged in. A limit drops what is more
//! than its rate, after its bucket is empty. The table is not made anew where only some ports' limits change: a bucket that is made is
//! full, and whoever could have it filled by other changes would have no limit.

use crate::names;
use crate::types::{Guard, Policy, Qos, Rate};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Bytes that a bucket has room for at least: the kernel counts segments that are sent together as one packet.
const LARGEST: u64 = 66_000;

/// The ports that something is said about.
fn shaped(policy: &Policy) -> BTreeMap<&str, Qos> {
    let said = |guard: &&Guard| guard.qos != Qos::default();
    policy.guards.iter().filter(said).map(|guard| (guard.port_uid.as_str(), guard.qos)).collect()
}

/// The whole table, as one transaction; where nothing is said there is none.
pub(crate) fn render(policy: &Policy) -> String {
    let mut out = String::from("table bridge qos {}\ndelete table bridge qos\n");
    let ports = shaped(policy);
    if ports.is_empty() {
        return out;
    }
    out.push_str(
        "table bridge qos {
  map from { type ifname : verdict; }
  map to { type ifname : verdict; }
  chain leaves {
    type filter hook prerouting priority -250; policy accept;
    iifname vmap @from
  }
  chain comes {
    type filter hook postrouting priority 0; policy accept;
    oifname vmap @to
  }
}
",
    );
    for (uid, qos) in ports {
        add(&mut out, uid, qos);
    }
    out
}

/// What makes the table of one policy that of another.
pub(crate) fn change(old: &Policy, new: &Policy) -> String {
    let (before, after) = (shaped(old), shaped(new));
    if before.is_empty() || after.is_empty() {
        return if before == after { String::new() } else { render(new) };
    }
    let mut out = String::new();
    for (uid, qos) in before.iter().filter(|(uid, qos)| after.get(*uid) != Some(qos)) {
        remove(&mut out, uid, *qos);
    }
    for (uid, qos) in after.iter().filter(|(uid, qos)| before.get(*uid) != Some(qos)) {
        add(&mut out, uid, *qos);
    }
    out
}

/// The chains of a port: map, chain, limit and mark.
fn chains(uid: &str, qos: Qos) -> impl Iterator<Item = (&'static str, String, Option<Rate>, Option<u8>)> {
    let link = names::veth(uid);
    let from = ("from", format!("from_{link}"), qos.egress, qos.dscp);
    let to = ("to", format!("to_{link}"), qos.ingress, None);
    [from, to].into_iter().filter(|(_, _, rate, mark)| rate.is_some() || mark.is_some())
}

fn add(out: &mut String, uid: &str, qos: Qos) {
    // It is a pod's or a machine's, and may not be plugged in yet.
    let (veth, tap) = (names::veth(uid), names::tap(uid));
    for (map, chain, rate, mark) in chains(uid, qos) {
        let _ = writeln!(out, "add chain bridge qos {chain}");
        if let Some(rate) = rate {
            // The kernel's bucket has room for a second of the rate, and the burst beside that.
            let room = rate.bytes.max(u64::from(rate.burst)).max(LARGEST) - rate.bytes;
            let (bytes, room) = (rate.bytes, room.min(u64::from(u32::MAX)));
            let _ = writeln!(
                out,
                "add rule bridge qos {chain} limit rate over {bytes} bytes/second burst {room} bytes counter drop"
            );
        }
        if let Some(mark) = mark {
            for ip in ["ip", "ip6"] {
                let _ = writeln!(out, "add rule bridge qos {chain} ether type {ip} {ip} dscp set {mark}");
            }
        }
        let _ = writeln!(
            out,
            "add element bridge qos {map} {{ \"{veth}\" : goto {chain}, \"{tap}\" : goto {chain} }}"
        );
    }
}

fn remove(out: &mut String, uid: &str, qos: Qos) {
    let (veth, tap) = (names::veth(uid), names::tap(uid));
    for (map, chain, _, _) in chains(uid, qos) {
        let _ = writeln!(
            out,
            "delete element bridge qos {map} {{ \"{veth}\", \"{tap}\" }}
flush chain bridge qos {chain}
delete chain bridge qos {chain}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Mac;
    use std::net::Ipv4Addr;

    fn policy(ports: &[(u8, Qos)]) -> Policy {
        let guard = |(last, qos): &(u8, Qos)| Guard {
            port_uid: format!("000{last}"),
            mac: Mac([2, 0, 0, 0, 0, *last]),
            ips: vec![Ipv4Addr::new(10, 0, 0, *last)],
            ips6: vec![],
            up: true,
            secured: true,
            pairs: vec![],
            pairs6: vec![],
            behind: vec![],
            groups: None,
            qos: *qos,
        };
        Policy { guards: ports.iter().map(guard).collect(), groups: vec![] }
    }

    fn egress(bytes: u64, burst: u32) -> Qos {
        Qos { egress: Some(Rate { bytes, burst }), ..Qos::default() }
    }

    #[test]
    fn each_way_has_its_chain_and_marks_are_on_what_leaves() {
        let rate = Rate { bytes: 125_000, burst: 200_000 };
        let both = Qos { ingress: Some(rate), egress: Some(rate), dscp: Some(26) };
        let text = render(&policy(&[(2, both), (3, Qos::default())]));
        assert!(text.contains("from_v0002 limit rate over 125000 bytes/second burst 75000 bytes"), "{text}");
        assert!(text.contains("qos from_v0002 ether type ip ip dscp set 26"), "{text}");
        assert!(text.contains("qos to { \"v0002\" : goto to_v0002, \"t0002\" : goto to_v0002 }"), "{text}");
        assert!(!text.contains("0003") && !text.contains("to_v0002 ether"), "{text}");
    }

    #[test]
    fn one_large_packet_always_passes() {
        let text = render(&policy(&[(2, egress(125, 0))]));
        assert!(text.contains("over 125 bytes/second burst 65875 bytes"), "{text}");
    }

    #[test]
    fn limits_that_stay_are_not_touched() {
        let old = policy(&[(2, egress(1000, 0)), (3, egress(1000, 0))]);
        let text = change(&old, &policy(&[(2, egress(1000, 0)), (3, egress(2000, 0)), (4, egress(1, 0))]));
        assert!(!text.contains("0002") && !text.contains("table"), "{text}");
        assert!(text.contains("delete chain bridge qos from_v0003"), "{text}");
        assert!(text.contains("add chain bridge qos from_v0004"), "{text}");
        assert_eq!(change(&old, &old), "");
        assert_eq!(change(&policy(&[]), &policy(&[])), "");
        assert_eq!(change(&old, &policy(&[])), "table bridge qos {}\ndelete table bridge qos\n");
        assert!(change(&policy(&[]), &old).contains("hook prerouting"));
    }
}
