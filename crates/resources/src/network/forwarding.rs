//! Ports of outer addresses that lead to ports of several [`super::Port`]s.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Most of a [`PortForwarding`]'s ports where outer and inner ones have different numbers: each is an element of the kernel's then.
pub const MOST_TRANSLATED: u16 = 1000;

/// What comes to some ports of a [`super::FloatingIp`] goes to a [`super::Port`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortForwarding {
    /// Its id; made when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `metadata.name` of the Port that it leads to, in the same namespace.
    pub port: String,
    /// Which of the Port's addresses; the first when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_ip: Option<String>,
    /// What is forwarded.
    pub protocol: ForwardedProtocol,
    /// Ports of the outer address.
    pub outer: PortRange,
    /// Ports of the Port's address: as many, or one for all.
    pub inner: PortRange,
}

/// A protocol whose ports can be forwarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ForwardedProtocol {
    /// TCP.
    #[default]
    #[serde(rename = "TCP")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP")]
    Udp,
}

impl ForwardedProtocol {
    /// As Neutron and nftables write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Ports of TCP or UDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortRange {
    /// The lowest.
    #[schemars(range(min = 1, max = 65535))]
    pub first: u16,
    /// The highest.
    #[schemars(range(min = 1, max = 65535))]
    pub last: u16,
}

impl PortRange {
    /// Whether both have a port.
    pub fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl PortForwarding {
    /// Whether it makes sense by itself.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let (outer, inner) = (self.outer, self.inner);
        if [outer, inner].iter().any(|range| range.first == 0 || range.first > range.last) {
            return Err("a range of ports runs from a lower to a higher one, both from 1 to 65535".to_owned());
        }
        let (many, few) = (outer.last - outer.first, inner.last - inner.first);
        if few != 0 && many != few {
            return Err("there must be as many inner ports as outer ones, or one".to_owned());
        }
        if few != 0 && outer != inner && many >= MOST_TRANSLATED {
            return Err(format!(
                "at most {MOST_TRANSLATED} ports can have other numbers inside: take the same, or fewer"
            ));
        }
        Ok(())
    }

    /// Whether something that comes would be forwarded by both.
    pub fn takes_from(&self, other: &Self) -> bool {
        self.protocol == other.protocol && self.outer.overlaps(other.outer)
    }

    /// Whether both lead to the same place.
    pub fn leads_as(&self, other: &Self) -> bool {
        (self.protocol, &self.port, &self.fixed_ip) == (other.protocol, &other.port, &other.fixed_ip)
            && self.inner.overlaps(other.inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forwarding(outer: (u16, u16), inner: (u16, u16)) -> PortForwarding {
        let range = |(first, last)| PortRange { first, last };
        PortForwarding { outer: range(outer), inner: range(inner), ..PortForwarding::default() }
    }

    #[test]
    fn ranges_are_as_long_as_one_another_or_lead_to_one_port() {
        for (outer, inner) in
            [((80, 80), (8080, 8080)), ((80, 89), (90, 99)), ((1, 65535), (1, 65535)), ((1, 5000), (7, 7))]
        {
            assert_eq!(forwarding(outer, inner).check(), Ok(()), "{outer:?} {inner:?}");
        }
        for (outer, inner) in
            [((80, 79), (80, 79)), ((0, 0), (1, 1)), ((80, 80), (80, 81)), ((1, 1001), (2, 1002))]
        {
            assert!(forwarding(outer, inner).check().is_err(), "{outer:?} {inner:?}");
        }
    }

    #[test]
    fn forwardings_meet_by_what_they_take_and_where_they_lead() {
        let one = forwarding((80, 89), (8080, 8089));
        assert!(
            one.takes_from(&forwarding((89, 89), (1, 1))) && !one.takes_from(&forwarding((90, 90), (1, 1)))
        );
        assert!(one.leads_as(&forwarding((1, 1), (8089, 8089))));
        let udp = PortForwarding { protocol: ForwardedProtocol::Udp, ..one.clone() };
        assert!(!one.takes_from(&udp) && !one.leads_as(&udp));
    }
}
