//! Single ports of outer addresses that lead to inner ones, as a router's table has them.

use crate::conntrack::{self, Flow};
use crate::types::{PortForward, Protocol};
use std::fmt::Write;

/// What is done to a packet that comes to its outer address.
pub(crate) fn translation(forward: &PortForward) -> String {
    let PortForward { address, protocol, outer, fixed, inner } = forward;
    let word = protocol.as_str();
    let mut out = format!("    ip daddr {address} {word} dport {} dnat ", range(*outer));
    let _ = match () {
        // The port stays as it is.
        () if outer == inner => writeln!(out, "to {fixed}"),
        () if inner.0 == inner.1 => writeln!(out, "to {fixed}:{}", inner.0),
        () => {
            let pairs: Vec<String> = (outer.0..=outer.1)
                .zip(inner.0..=inner.1)
                .map(|(outer, inner)| format!("{outer} : {fixed} . {inner}"))
                .collect();
            writeln!(out, "ip addr . port to {word} dport map {{ {} }}", pairs.join(", "))
        }
    };
    out
}

/// Lets in what comes from a link and was translated so.
pub(crate) fn passage(forward: &PortForward, link: &str) -> String {
    let PortForward { protocol, fixed, inner, .. } = forward;
    let (word, ports) = (protocol.as_str(), range(*inner));
    format!(
        "    iifname \"{link}\" ct direction original ct status dnat ip daddr {fixed} {word} dport {ports} accept\n"
    )
}

/// Whether a flow that comes from outside is as the forward says.
pub(crate) fn is_of(forward: &PortForward, flow: &Flow) -> bool {
    let number = if forward.protocol == Protocol::Udp { conntrack::UDP } else { conntrack::TCP };
    let (outer, inner) = (forward.outer, forward.inner);
    let offset = flow.front.1.wrapping_sub(outer.0);
    let to = if inner.0 == inner.1 { inner.0 } else { inner.0.wrapping_add(offset) };
    flow.protocol == number
        && (outer.0..=outer.1).contains(&flow.front.1)
        && (flow.front.0, flow.target) == (forward.address, (forward.fixed, to))
}

fn range((first, last): (u16, u16)) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn forward(outer: (u16, u16), inner: (u16, u16)) -> PortForward {
        let (address, fixed) = (Ipv4Addr::new(172, 31, 0, 9), Ipv4Addr::new(10, 0, 0, 3));
        PortForward { address, protocol: Protocol::Tcp, outer, fixed, inner }
    }

    #[test]
    fn ports_keep_their_numbers_or_get_those_that_are_told() {
        let text = |outer, inner| translation(&forward(outer, inner));
        let from = "    ip daddr 172.31.0.9 tcp dport";
        assert_eq!(text((80, 89), (80, 89)), format!("{from} 80-89 dnat to 10.0.0.3\n"));
        assert_eq!(text((80, 80), (8080, 8080)), format!("{from} 80 dnat to 10.0.0.3:8080\n"));
        assert_eq!(text((80, 89), (8080, 8080)), format!("{from} 80-89 dnat to 10.0.0.3:8080\n"));
        let map = "map { 80 : 10.0.0.3 . 90, 81 : 10.0.0.3 . 91 }";
        assert_eq!(
            text((80, 81), (90, 91)),
            format!("{from} 80-81 dnat ip addr . port to tcp dport {map}\n")
        );
    }

    #[test]
    fn a_flow_is_of_the_forward_that_would_translate_it_so() {
        let flow = |front: u16, target: u16| Flow {
            protocol: conntrack::TCP,
            source: (Ipv4Addr::new(192, 0, 2, 1), 5),
            front: (Ipv4Addr::new(172, 31, 0, 9), front),
            target: (Ipv4Addr::new(10, 0, 0, 3), target),
            outer: (Ipv4Addr::new(192, 0, 2, 1), 5),
            icmp: None,
        };
        let shifted = forward((80, 89), (90, 99));
        assert!(is_of(&shifted, &flow(81, 91)) && !is_of(&shifted, &flow(81, 92)));
        assert!(!is_of(&shifted, &flow(79, 89)) && is_of(&forward((80, 89), (7, 7)), &flow(81, 7)));
        assert!(!is_of(&shifted, &Flow { protocol: conntrack::UDP, ..flow(81, 91) }));
    }
}
