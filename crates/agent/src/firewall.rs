//! SecurityGroups, QosPolicies and Ports → what the ports of a network may say and hear.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use yunfan_network::{Guard, Mac, Policy, Qos, Rate, Rule, RuleGroup, RuleMatch, RulePeer};
use yunfan_resources::network::{
    AddressGroup, BandwidthLimit, Direction, EtherType, Port, QosPolicy, SecurityGroup, SecurityGroupRule,
};

use crate::members::held;

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// What there is of objects, as far as the rules of a network have to do with it.
pub(crate) struct Objects<'a> {
    /// Ports: all of the namespaces that have one on the network.
    pub(crate) ports: &'a [Arc<Port>],
    /// Groups of these namespaces.
    pub(crate) groups: &'a [Arc<SecurityGroup>],
    /// Sets of addresses of these namespaces.
    pub(crate) addresses: &'a [Arc<AddressGroup>],
    /// Whether the network is switched on: else nothing passes its ports.
    pub(crate) up: bool,
}

/// What holds for the ports of a network, which is told by its namespace and name, where routers have these routes and ports this quality of
/// service. Groups and their members are those of each port's own namespace. A group that is not there lets nothing pass.
pub(crate) fn policy(
    (namespace, network): (&str, &str),
    objects: &Objects<'_>,
    routes: &[(Ipv4Net, Ipv4Addr)],
    quality: impl Fn(&Port) -> Qos,
) -> Policy {
    let here = objects.ports.iter().filter(|port| port.spec.is_on(space(&port.metadata), namespace, network));
    let mut guards: Vec<Guard> = here
        .filter_map(|port| {
            let (qos, guard) = (quality(port), guard(port)?);
            Some(Guard { qos, up: guard.up && objects.up, ..guard })
        })
        .collect();
    for guard in &mut guards {
        guard.behind =
            routes.iter().filter(|(_, by)| guard.ips.contains(by)).map(|(range, _)| *range).collect();
    }
    // A further range does not stand for the addresses of other ports in it, which are known only if all are told.
    if guards.iter().all(|guard| guard.pairs.is_empty() && guard.pairs6.is_empty() && guard.behind.is_empty())
    {
        guards.retain(|guard| {
            !guard.up || !guard.secured || guard.groups.is_some() || guard.qos != Qos::default()
        });
    }
    guards.sort_by(|a, b| a.port_uid.cmp(&b.port_uid));
    let held: BTreeSet<String> =
        guards.iter().filter_map(|guard| guard.groups.as_ref()).flatten().cloned().collect();
    let groups = groups(objects, &held);
    Policy { guards, groups }
}

/// The groups that ports have, and what their rules speak of.
fn groups(objects: &Objects<'_>, held: &BTreeSet<String>) -> Vec<RuleGroup> {
    let named = |group: &Arc<SecurityGroup>| group_name(space(&group.metadata), &group.name_any());
    let (mut remote, mut ranges) = (BTreeSet::new(), BTreeSet::new());
    for group in objects.groups.iter().filter(|group| held.contains(&named(group))) {
        let own = space(&group.metadata);
        let rules = || group.spec.rules.iter();
        remote.extend(rules().filter_map(|rule| Some(group_name(own, rule.remote_group.as_ref()?))));
        let of = |rule: &SecurityGroupRule| Some(address_group(own, rule.remote_address_group.as_ref()?));
        ranges.extend(rules().filter_map(of));
    }
    let told = objects.groups.iter().filter(|group| {
        let name = named(group);
        held.contains(&name) || remote.contains(&name)
    });
    let mut told: Vec<RuleGroup> = told
        .map(|group| {
            let members = members(space(&group.metadata), &group.name_any(), objects.ports);
            (group, members)
        })
        .map(|(group, members)| RuleGroup {
            uid: named(group),
            members: members.iter().copied().filter_map(four).collect(),
            members6: members.iter().copied().filter_map(six).collect(),
            rules: group.spec.rules.iter().filter_map(|it| rule(space(&group.metadata), it)).collect(),
            stateless: group.spec.stateless,
        })
        .collect();
    told.sort_by(|a, b| a.uid.cmp(&b.uid));
    let sets =
        objects.addresses.iter().map(|set| (address_group(space(&set.metadata), &set.name_any()), set));
    let mut sets: Vec<RuleGroup> = sets
        .filter(|(name, _)| ranges.contains(name))
        .map(|(uid, set)| RuleGroup {
            uid,
            members: set.spec.addresses.iter().filter_map(|text| four(range(text)?)).collect(),
            members6: set.spec.addresses.iter().filter_map(|text| six(range(text)?)).collect(),
            rules: Vec::new(),
            stateless: false,
        })
        .collect();
    sets.sort_by(|a, b| a.uid.cmp(&b.uid));
    told.extend(sets);
    told
}

/// The namespace that an object is in.
fn space(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

/// What a SecurityGroup is called among those of all namespaces.
fn group_name(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// What an AddressGroup is called among SecurityGroups, of whose names none has a second slash.
fn address_group(namespace: &str, name: &str) -> String {
    format!("{namespace}/addresses/{name}")
}

fn guard(port: &Port) -> Option<Guard> {
    // A port without addresses is still under its rules.
    let (mac, ips, ips6) = held(port).ok()?;
    let own = |name: &String| group_name(space(&port.metadata), name);
    let mut groups: Option<Vec<String>> =
        port.spec.security_groups.as_ref().map(|groups| groups.iter().map(own).collect());
    if let Some(groups) = &mut groups {
        groups.sort();
        groups.dedup();
    }
    Some(Guard {
        port_uid: port.uid()?,
        mac,
        ips,
        ips6,
        up: port.spec.admin_state_up.unwrap_or(true),
        secured: port.spec.is_secured(),
        pairs: pairs(port, four),
        pairs6: pairs(port, six),
        behind: Vec::new(),
        groups,
        qos: Qos::default(),
    })
}

/// What a policy means for each of its ports.
pub(crate) fn qos(policy: &QosPolicy) -> Qos {
    // A kilobit is 125 bytes.
    let rate = |limit: &BandwidthLimit| Rate {
        bytes: u64::from(limit.max_kbps) * 125,
        burst: limit.max_burst_kbps.saturating_mul(125),
    };
    let rules = &policy.spec.rules;
    let limit = |direction: Direction| {
        let mut limits = rules.iter().filter_map(|rule| rule.bandwidth_limit.as_ref());
        limits.find(|limit| limit.direction == direction).map(rate)
    };
    Qos {
        ingress: limit(Direction::Ingress),
        egress: limit(Direction::Egress),
        dscp: rules.iter().find_map(|rule| rule.dscp_mark),
    }
}

/// Of one family.
fn pairs<N>(port: &Port, of: fn(IpNet) -> Option<N>) -> Vec<(N, Option<Mac>)> {
    let pairs = port.spec.allowed_address_pairs.iter();
    pairs
        .filter_map(|pair| {
            Some((of(range(&pair.ip)?)?, pair.mac.as_deref().and_then(|mac| mac.parse().ok())))
        })
        .collect()
}

/// A range, or an address as the range of itself.
fn range(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok().map(|net| net.trunc());
    net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn four(net: IpNet) -> Option<Ipv4Net> {
    match net {
        IpNet::V4(net) => Some(net),
        IpNet::V6(_) => None,
    }
}

fn six(net: IpNet) -> Option<Ipv6Net> {
    match net {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some(net),
    }
}

/// Every address that members of a group have, on whatever network.
fn members(namespace: &str, group: &str, ports: &[Arc<Port>]) -> Vec<IpNet> {
    let own = ports.iter().filter(|port| space(&port.metadata) == namespace);
    let members = own.filter(|port| port.spec.memberships().contains(&group));
    let all: BTreeSet<IpNet> = members
        .flat_map(|port| {
            let own = port.spec.fixed_ips.iter().filter_map(|fixed| range(fixed.ip.as_deref()?));
            own.chain(pairs(port, Some).into_iter().map(|(net, _)| net)).collect::<Vec<_>>()
        })
        .collect();
    all.into_iter().collect()
}

/// None for rules that make no sense, which the API server refuses.
fn rule(namespace: &str, rule: &SecurityGroupRule) -> Option<Rule> {
    if rule.check().is_err() {
        return None;
    }
    let v6 = rule.ether_type == EtherType::IPv6;
    // As in Neutron, ICMP is that of the rule's own family.
    let protocol =
        rule.protocol_number().ok()?.map(|number| if v6 && number == ICMP { ICMPV6 } else { number });
    let number = |value: Option<i32>| value.and_then(|value| u16::try_from(value).ok());
    let (low, high) = (number(rule.port_range_min), number(rule.port_range_max));
    let matches = match (protocol, low, high) {
        (None, _, _) => RuleMatch::Any,
        (Some(number), Some(kind), code) if number == if v6 { ICMPV6 } else { ICMP } => {
            RuleMatch::Icmp(u8::try_from(kind).ok()?, code.and_then(|code| u8::try_from(code).ok()))
        }
        (Some(number), Some(low), Some(high)) if rule.has_ports() => RuleMatch::Ports(number, low, high),
        (Some(number), _, _) => RuleMatch::Protocol(number),
    };
    let peer = match (&rule.remote_group, &rule.remote_address_group, &rule.remote_cidr) {
        (Some(group), _, _) => RulePeer::Group(group_name(namespace, group)),
        (None, Some(group), _) => RulePeer::Group(address_group(namespace, group)),
        (None, None, Some(cidr)) => match range(cidr)? {
            IpNet::V4(net) => RulePeer::Range(net),
            IpNet::V6(net) => RulePeer::Range6(net),
        },
        (None, None, None) => RulePeer::Any,
    };
    Some(Rule { ingress: rule.direction == Direction::Ingress, v6, matches, peer })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use yunfan_resources::network::default_group;

    use super::*;

    fn objects<'a>(ports: &'a [Arc<Port>], groups: &'a [Arc<SecurityGroup>]) -> Objects<'a> {
        Objects { ports, groups, addresses: &[], up: true }
    }

    fn default() -> [Arc<SecurityGroup>; 1] {
        let mut group = default_group();
        group.metadata.namespace = Some("acme".into());
        [Arc::new(group)]
    }

    fn none(_: &Port) -> Qos {
        Qos::default()
    }

    fn port(last: u8, more: Value) -> Arc<Port> {
        let mut spec = json!({"network": "lan", "macAddress": format!("fa:16:3e:00:00:{last:02x}"),
            "fixedIps": [{"subnet": "lan", "ip": format!("10.0.0.{last}")}]});
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        let port = json!({"metadata": {"name": format!("p{last}"), "namespace": "acme", "uid": format!("u{last}")},
            "spec": spec});
        Arc::new(serde_json::from_value(port).expect("a port"))
    }

    #[test]
    fn pods_are_not_filtered_and_count_as_members_of_the_default_group() {
        let ports = [
            port(
                2,
                json!({"securityGroups": ["default"], "holder": {"kind": "VirtualMachine", "name": "a", "uid": "a"}}),
            ),
            port(3, json!({"holder": {"kind": "Pod", "name": "b", "uid": "b"}})),
            port(4, json!({"network": "other", "securityGroups": ["default"]})),
        ];
        let policy = policy(("acme", "lan"), &objects(&ports, &default()), &[], none);
        assert_eq!(policy.guards.len(), 1);
        assert_eq!(policy.guards[0].port_uid, "u2");
        let members: Vec<String> = policy.groups[0].members.iter().map(ToString::to_string).collect();
        assert_eq!(members, ["10.0.0.2/32", "10.0.0.3/32", "10.0.0.4/32"]);
        let rules = &policy.groups[0].rules;
        assert_eq!(rules.iter().map(|rule| rule.v6).collect::<Vec<_>>(), [false, true, false, true]);
        assert_eq!(rules[2].peer, RulePeer::Group("acme/default".into()));
    }

    #[test]
    fn a_port_that_has_lost_its_addresses_keeps_its_groups() {
        let lost = json!({"fixedIps": [], "securityGroups": ["default"], "adminStateUp": false});
        let told = policy(("acme", "lan"), &objects(&[port(2, lost)], &default()), &[], none);
        let [guard] = &told.guards[..] else { panic!("{:?}", told.guards) };
        assert_eq!(guard.groups, Some(vec!["acme/default".to_owned()]));
        assert!(!guard.up && guard.ips.is_empty() && guard.ips6.is_empty());
    }

    #[test]
    fn a_further_range_makes_every_port_known() {
        let plain = port(3, json!({}));
        let paired =
            |pairs: Value| port(2, json!({"securityGroups": ["default"], "allowedAddressPairs": pairs}));
        let count = |ports: &[Arc<Port>]| {
            policy(("acme", "lan"), &objects(ports, &default()), &[], none).guards.len()
        };
        assert_eq!(count(&[plain.clone(), paired(json!([]))]), 1);
        assert_eq!(count(&[plain, paired(json!([{"ip": "10.0.0.0/24"}]))]), 2);
    }

    #[test]
    fn what_routers_lead_to_is_behind_the_port_that_they_lead_by() {
        let ports = [port(2, json!({"securityGroups": ["default"]})), port(3, json!({}))];
        let far: Ipv4Net = "192.0.2.0/24".parse().expect("a range");
        let routes = [(far, Ipv4Addr::new(10, 0, 0, 2)), (far, Ipv4Addr::new(10, 0, 9, 9))];
        let told = policy(("acme", "lan"), &objects(&ports, &default()), &routes, none);
        assert_eq!(told.guards.len(), 2, "no other port is in the range: all are told");
        assert_eq!((&told.guards[0].behind, &told.guards[1].behind), (&vec![far], &vec![]));
    }

    #[test]
    fn limits_are_bytes_and_hold_also_for_ports_without_groups() {
        let policy_of = |rules: Value| -> QosPolicy {
            serde_json::from_value(json!({"metadata": {"name": "q"}, "spec": {"rules": rules}}))
                .expect("a policy")
        };
        let limit = json!({"bandwidthLimit": {"direction": "egress", "maxKbps": 1000, "maxBurstKbps": 800}});
        let limited = qos(&policy_of(json!([limit, {"dscpMark": 26}])));
        let rate = Rate { bytes: 125_000, burst: 100_000 };
        assert_eq!(limited, Qos { ingress: None, egress: Some(rate), dscp: Some(26) });
        let ports = [port(2, json!({})), port(3, json!({"qosPolicy": "q"}))];
        let quality = |port: &Port| port.spec.qos_policy.as_ref().map(|_| limited).unwrap_or_default();
        let told = policy(("acme", "lan"), &objects(&ports, &[]), &[], quality);
        assert_eq!((told.guards.len(), told.guards[0].qos), (1, limited));
    }

    #[test]
    fn rules_speak_of_sets_of_addresses() {
        let object = |spec: Value| json!({"metadata": {"name": "same", "namespace": "acme"}, "spec": spec});
        let rule = json!({"direction": "ingress", "remoteAddressGroup": "same"});
        let group: SecurityGroup = serde_json::from_value(object(json!({"rules": [rule]}))).expect("a group");
        let set = json!({"addresses": ["192.0.2.0/24", "2001:db8::/64"]});
        let set: AddressGroup = serde_json::from_value(object(set)).expect("addresses");
        let ports = [port(2, json!({"securityGroups": ["same"]}))];
        let objects =
            Objects { ports: &ports, groups: &[Arc::new(group)], addresses: &[Arc::new(set)], up: true };
        let told = policy(("acme", "lan"), &objects, &[], none);
        let off = policy(("acme", "lan"), &Objects { up: false, ..objects }, &[], none);
        assert!(told.guards.iter().all(|guard| guard.up) && off.guards.iter().all(|guard| !guard.up));
        assert_eq!(told.groups.len(), 2, "{:?}", told.groups);
        let members: Vec<String> = told.groups[1].members.iter().map(ToString::to_string).collect();
        assert_eq!(members, ["192.0.2.0/24"]);
        let members: Vec<String> = told.groups[1].members6.iter().map(ToString::to_string).collect();
        assert_eq!(members, ["2001:db8::/64"]);
        assert_eq!(told.groups[0].rules[0].peer, RulePeer::Group(told.groups[1].uid.clone()));
    }

    #[test]
    fn rules_become_matches() {
        let of = |text: Value| {
            rule("acme", &serde_json::from_value(text).expect("a rule")).map(|rule| (rule.matches, rule.peer))
        };
        let icmp =
            json!({"direction": "ingress", "protocol": "icmp", "portRangeMin": 8, "remoteCidr": "10.0.0.7"});
        let only = RulePeer::Range("10.0.0.7/32".parse().expect("a range"));
        assert_eq!(of(icmp), Some((RuleMatch::Icmp(8, None), only)));
        let web = json!({"direction": "egress", "protocol": "TCP", "portRangeMin": 80, "portRangeMax": 81});
        assert_eq!(of(web), Some((RuleMatch::Ports(6, 80, 81), RulePeer::Any)));
        let gre = json!({"direction": "egress", "protocol": "47"});
        assert_eq!(of(gre), Some((RuleMatch::Protocol(47), RulePeer::Any)));
        assert_eq!(
            of(json!({"direction": "egress", "etherType": "IPv6"})),
            Some((RuleMatch::Any, RulePeer::Any))
        );
        let ping = json!({"direction": "ingress", "etherType": "IPv6", "protocol": "icmp", "portRangeMin": 128,
            "remoteCidr": "2001:db8::/64"});
        let range = RulePeer::Range6("2001:db8::/64".parse().expect("a range"));
        assert_eq!(of(ping), Some((RuleMatch::Icmp(128, None), range)));
        let all = json!({"direction": "ingress", "etherType": "IPv6", "protocol": "icmp"});
        assert_eq!(of(all), Some((RuleMatch::Protocol(58), RulePeer::Any)));
    }

    #[test]
    fn ports_of_other_projects_have_the_groups_of_their_own() {
        let theirs = |last: u8, more: Value| -> Arc<Port> {
            let mut port = Port::clone(&port(last, more));
            port.metadata.namespace = Some("other".into());
            Arc::new(port)
        };
        let grouped = json!({"network": "acme/lan", "securityGroups": ["default"]});
        let ports = [
            port(2, json!({"securityGroups": ["default"]})),
            theirs(3, grouped),
            theirs(4, json!({"securityGroups": ["default"]})),
        ];
        let mut group = default_group();
        group.metadata.namespace = Some("other".into());
        let [own] = default();
        let told = policy(("acme", "lan"), &objects(&ports, &[own, Arc::new(group)]), &[], none);
        let guards: Vec<_> = told.guards.iter().map(|guard| guard.port_uid.as_str()).collect();
        assert_eq!(guards, ["u2", "u3"], "theirs of the same name is another network");
        assert_eq!(told.guards[1].groups, Some(vec!["other/default".to_owned()]));
        let members = |at: usize| told.groups[at].members.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(members(0), ["10.0.0.2/32"]);
        assert_eq!(members(1), ["10.0.0.3/32", "10.0.0.4/32"]);
    }
}
