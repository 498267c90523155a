//! Security groups: what may come to a port and leave it.
//!
//! The rules of what a rule may say are Neutron's (`neutron/db/securitygroups_db.py`, its `_validate_*`); [`RuleFault`] carries
//! the name by which Neutron's clients know each fault.

use std::net::IpAddr;

use ipnet::IpNet;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `metadata.name` of the group that ports have which say nothing else. It is made when it is first needed.
pub const DEFAULT_GROUP: &str = "default";

/// Rules about what may come to a port and leave it. Answers to what may pass always pass, unless the group is stateless.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "network.yunfan.io",
    version = "v1",
    kind = "SecurityGroup",
    namespaced,
    doc = "Rules about what may come to a Port and leave it.",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What may pass; nothing else does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub rules: Vec<SecurityGroupRule>,
    /// Each packet is judged by itself: answers, too, pass only where a rule lets them. It holds for all that comes to a Port and leaves it that has
    /// such a group, and can't be changed while Ports have the group.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stateless: bool,
    /// Free words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub tags: Vec<String>,
}

/// Which way packets go that a [`SecurityGroupRule`] is about, as the port sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// To the port.
    #[default]
    Ingress,
    /// From the port.
    Egress,
}

/// Which packets a [`SecurityGroupRule`] is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EtherType {
    /// IPv4.
    #[default]
    IPv4,
    /// IPv6. Neighbour discovery always passes.
    IPv6,
}

/// One rule of a [`SecurityGroup`]: what it describes may pass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecurityGroupRule {
    /// The rule's id; made when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Which way.
    pub direction: Direction,
    /// IPv4 or IPv6.
    #[serde(default)]
    pub ether_type: EtherType,
    /// `tcp`, `udp`, `icmp` and the like, or a number up to 255; any protocol when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The lowest port, or ICMP's type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_range_min: Option<i32>,
    /// The highest port, or ICMP's code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_range_max: Option<i32>,
    /// The other end is in this range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_cidr: Option<String>,
    /// The other end is a member of the SecurityGroup with this `metadata.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_group: Option<String>,
    /// The other end is in a range of the AddressGroup with this `metadata.name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote_address_group: Option<String>,
}

/// Protocols that have a name, and their numbers.
const PROTOCOLS: [(&str, u8); 21] = [
    ("ah", 51),
    ("dccp", 33),
    ("egp", 8),
    ("esp", 50),
    ("gre", 47),
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("ipv6-encap", 41),
    ("ipv6-frag", 44),
    ("ipv6-icmp", 58),
    ("icmpv6", 58),
    ("ipv6-nonxt", 59),
    ("ipv6-opts", 60),
    ("ipv6-route", 43),
    ("ospf", 89),
    ("pgm", 113),
    ("rsvp", 46),
    ("sctp", 132),
    ("tcp", 6),
    ("udp", 17),
];
/// Protocols whose packets have ports.
const WITH_PORTS: [u8; 5] = [6, 17, 33, 132, 136];
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What is wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleFault {
    /// Neutron's name of the fault.
    pub name: &'static str,
    /// For people.
    pub message: String,
}

impl SecurityGroupRule {
    /// The protocol's number; `None` for any.
    ///
    /// # Errors
    /// When there is no such protocol.
    pub fn protocol_number(&self) -> Result<Option<u8>, RuleFault> {
        let Some(text) = self.protocol.as_deref() else { return Ok(None) };
        let text = text.to_ascii_lowercase();
        if text == "any" || text == "ip" {
            return Ok(None);
        }
        let named = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
        let other = match text.as_str() {
            "vrrp" => Some(112),
            "udplite" => Some(136),
            "hopopt" => Some(0),
            number => number.parse().ok(),
        };
        named.or(other).map(Some).ok_or_else(|| {
            fault(
                "SecurityGroupRuleInvalidProtocol",
                format!(
                    "Security group rule protocol {text} not supported. Only protocol values of a name such as tcp, udp \
                     or icmp and integer representations [0 to 255] are supported."
                ),
            )
        })
    }

    /// Whether the protocol's packets have ports.
    pub fn has_ports(&self) -> bool {
        self.protocol_number().ok().flatten().is_some_and(|number| WITH_PORTS.contains(&number))
    }

    /// Whether the rule is about ICMP, whose type and code the range of ports then holds.
    pub fn is_icmp(&self) -> bool {
        self.protocol_number().ok().flatten().is_some_and(|number| [ICMP, ICMPV6].contains(&number))
    }

    /// Says what is wrong with the rule by itself.
    ///
    /// # Errors
    /// With Neutron's name and words.
    pub fn check(&self) -> Result<(), RuleFault> {
        self.protocol_number()?;
        let remotes = [&self.remote_cidr, &self.remote_group, &self.remote_address_group];
        if remotes.into_iter().flatten().count() > 1 {
            let text = "Only remote_ip_prefix, remote_group_id or remote_address_group_id may be provided.";
            return Err(fault("SecurityGroupMultipleRemoteEntites", text));
        }
        self.check_range()?;
        let Some(text) = self.remote_cidr.as_deref() else { return Ok(()) };
        let Some(range) = net(text) else {
            let text = format!("Invalid CIDR {text} given as IP prefix.");
            return Err(fault("InvalidCIDR", text));
        };
        if matches!(range, IpNet::V4(_)) != (self.ether_type == EtherType::IPv4) {
            let text = format!("Conflicting value ethertype {:?} for CIDR {text}", self.ether_type);
            return Err(fault("SecurityGroupRuleParameterConflict", text));
        }
        Ok(())
    }

    fn check_range(&self) -> Result<(), RuleFault> {
        let (min, max) = (self.port_range_min, self.port_range_max);
        if min.is_none() && max.is_none() {
            return Ok(());
        }
        let Some(number) = self.protocol_number()? else {
            let text = "Must also specify protocol if port range is given.";
            return Err(fault("SecurityGroupProtocolRequiredWithPorts", text));
        };
        if [ICMP, ICMPV6].contains(&number) {
            let wrong = [("port_range_min", "type", min), ("port_range_max", "code", max)]
                .into_iter()
                .find_map(|(field, what, value)| {
                    let value = value.filter(|value| !(0..=255).contains(value))?;
                    Some(format!("Invalid value for ICMP {what} ({field}) {value}. It must be 0 to 255."))
                });
            if let Some(text) = wrong {
                return Err(fault("SecurityGroupInvalidIcmpValue", text));
            }
            if min.is_none() {
                let text = format!(
                    "ICMP code (port-range-max) {} is provided but ICMP type (port-range-min) is missing.",
                    shown(max)
                );
                return Err(fault("SecurityGroupMissingIcmpType", text));
            }
            return Ok(());
        }
        if !WITH_PORTS.contains(&number) {
            let text = format!(
                "Invalid protocol {} for port range, only supported for TCP, UDP, UDPLITE, SCTP and DCCP.",
                self.protocol.as_deref().unwrap_or_default()
            );
            return Err(fault("SecurityGroupInvalidProtocolForPort", text));
        }
        if let Some(port) = [min, max].into_iter().flatten().find(|port| !(1..=65_535).contains(port)) {
            let text = format!("Invalid value for port {port}. It must be 1 to 65535.");
            return Err(fault("SecurityGroupInvalidPortValue", text));
        }
        match (min, max) {
            (Some(min), Some(max)) if min <= max => Ok(()),
            _ => {
                let text = format!(
                    "Invalid port range {} to {}: both ends are needed, and port_range_min must be <= port_range_max.",
                    shown(min),
                    shown(max)
                );
                Err(fault("SecurityGroupInvalidPortRange", text))
            }
        }
    }

    /// Whether both let the same packets pass.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let bare = |rule: &Self| {
            let number = rule.protocol_number().ok().flatten();
            // No remote is the same as any address.
            let remote = rule.remote_cidr.as_deref().and_then(net).filter(|net| net.prefix_len() != 0);
            let range = (rule.port_range_min, rule.port_range_max);
            let groups = (rule.remote_group.clone(), rule.remote_address_group.clone());
            (rule.direction, rule.ether_type, number, range, remote, groups)
        };
        bare(self) == bare(other)
    }
}

/// A range, or an address as the range of itself.
fn net(text: &str) -> Option<IpNet> {
    text.parse::<IpNet>().ok().map(|net| net.trunc()).or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn shown(value: Option<i32>) -> String {
    value.map_or_else(|| "None".to_owned(), |value| value.to_string())
}

fn fault(name: &'static str, message: impl Into<String>) -> RuleFault {
    RuleFault { name, message: message.into() }
}

/// The default group as it is made: everything may leave, and what members of the group send may come.
pub fn default_group() -> SecurityGroup {
    let rule = |direction, ether_type, remote: Option<&str>| SecurityGroupRule {
        direction,
        ether_type,
        remote_group: remote.map(str::to_owned),
        ..SecurityGroupRule::default()
    };
    let own = Some(DEFAULT_GROUP);
    let spec = SecurityGroupSpec {
        display_name: Some(DEFAULT_GROUP.to_owned()),
        description: Some("Default security group".to_owned()),
        rules: vec![
            rule(Direction::Egress, EtherType::IPv4, None),
            rule(Direction::Egress, EtherType::IPv6, None),
            rule(Direction::Ingress, EtherType::IPv4, own),
            rule(Direction::Ingress, EtherType::IPv6, own),
        ],
        ..SecurityGroupSpec::default()
    };
    SecurityGroup::new(DEFAULT_GROUP, spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(protocol: &str, min: Option<i32>, max: Option<i32>) -> SecurityGroupRule {
        SecurityGroupRule {
            protocol: Some(protocol.to_owned()),
            port_range_min: min,
            port_range_max: max,
            ..SecurityGroupRule::default()
        }
    }

    #[test]
    fn what_makes_no_sense_is_named_as_neutron_names_it() {
        let name = |rule: SecurityGroupRule| rule.check().err().map(|fault| fault.name);
        assert_eq!(name(rule("tcp", Some(80), Some(80))), None);
        assert_eq!(name(rule("17", Some(1), Some(65_535))), None);
        assert_eq!(name(rule("icmp", Some(8), None)), None);
        assert_eq!(name(rule("112", None, None)), None);
        assert_eq!(name(rule("bad", None, None)), Some("SecurityGroupRuleInvalidProtocol"));
        for (min, max) in [(-16, 80), (80, 65_536), (-16, 65_536), (0, 80)] {
            assert_eq!(name(rule("tcp", Some(min), Some(max))), Some("SecurityGroupInvalidPortValue"));
        }
        assert_eq!(name(rule("tcp", Some(80), Some(79))), Some("SecurityGroupInvalidPortRange"));
        assert_eq!(name(rule("tcp", None, Some(6))), Some("SecurityGroupInvalidPortRange"));
        assert_eq!(name(rule("icmp", Some(1), Some(256))), Some("SecurityGroupInvalidIcmpValue"));
        assert_eq!(name(rule("icmp", None, Some(6))), Some("SecurityGroupMissingIcmpType"));
        assert_eq!(name(rule("gre", Some(1), Some(2))), Some("SecurityGroupInvalidProtocolForPort"));
        let any = SecurityGroupRule { port_range_min: Some(1), ..SecurityGroupRule::default() };
        assert_eq!(name(any), Some("SecurityGroupProtocolRequiredWithPorts"));
        let cidr = |text: &str| SecurityGroupRule {
            remote_cidr: Some(text.to_owned()),
            ..SecurityGroupRule::default()
        };
        assert_eq!(name(cidr("10.0.0.1")), None);
        assert_eq!(name(cidr("10.0.0.0/33")), Some("InvalidCIDR"));
        assert_eq!(name(cidr("2001:db8::/32")), Some("SecurityGroupRuleParameterConflict"));
        let named = SecurityGroupRule { remote_address_group: Some("a".into()), ..cidr("10.0.0.0/8") };
        assert_eq!(name(named), Some("SecurityGroupMultipleRemoteEntites"));
        let both = SecurityGroupRule { remote_group: Some("a".into()), ..cidr("10.0.0.0/8") };
        assert_eq!(name(both), Some("SecurityGroupMultipleRemoteEntites"));
    }

    #[test]
    fn the_same_rule_is_known_however_it_is_written() {
        let cidr = |text: Option<&str>| SecurityGroupRule {
            remote_cidr: text.map(str::to_owned),
            ..rule("TCP", Some(1), Some(2))
        };
        assert!(cidr(None).is_same_as(&cidr(Some("0.0.0.0/0"))));
        assert!(cidr(None).is_same_as(&rule("6", Some(1), Some(2))));
        assert!(!cidr(None).is_same_as(&cidr(Some("10.0.0.0/8"))));
    }

    #[test]
    fn pods_are_members_of_the_default_group_until_they_are_given_others() {
        let mut port = super::super::PortSpec::default();
        assert!(port.memberships().is_empty());
        port.holder = Some(super::super::PortHolder { kind: "Pod".into(), ..Default::default() });
        assert_eq!(port.memberships(), [DEFAULT_GROUP]);
        port.security_groups = Some(Vec::new());
        assert!(port.memberships().is_empty());
    }
}
