//! What is accepted and yet odd: addresses that others may read otherwise than they are written, labels of nodes that are called
//! otherwise today, amounts of bytes with a fraction.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::Quantity;
use crate::builtin::field::Field;
use crate::lookup::entries;
use crate::meta::label_value;

/// Labels of nodes that are called otherwise today.
const OLD_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", r#"deprecated since v1.14; use "kubernetes.io/arch" instead"#),
    ("beta.kubernetes.io/os", r#"deprecated since v1.14; use "kubernetes.io/os" instead"#),
    (
        "failure-domain.beta.kubernetes.io/region",
        r#"deprecated since v1.17; use "topology.kubernetes.io/region" instead"#,
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        r#"deprecated since v1.17; use "topology.kubernetes.io/zone" instead"#,
    ),
    (
        "beta.kubernetes.io/instance-type",
        r#"deprecated since v1.17; use "node.kubernetes.io/instance-type" instead"#,
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", r#"use "node-role.kubernetes.io/control-plane" instead"#),
];

/// What is to be said of a node's label, where it is an old one.
pub(super) fn label(key: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(old, _)| *old == key).map(|(_, why)| *why)
}

/// What is said of a field that names an old label of nodes.
pub(super) fn label_key(key: &Field<'_>) -> Option<String> {
    label(key.text()).map(|why| format!("{}: {} is {why}", key.path, key.text()))
}

/// What is said of one term of a selector of nodes, and with `with_values` of values that no label has.
pub(super) fn selector_term(term: &Field<'_>, with_values: bool) -> Vec<String> {
    let mut out = Vec::new();
    for requirement in term.at("matchExpressions").items() {
        out.extend(label_key(&requirement.at("key")));
        for value in requirement.at("values").items().filter(|_| with_values) {
            let wrongs = label_value(value.text()).into_iter();
            out.extend(wrongs.map(|why| format!("{}: {} is invalid, {why}", value.path, value.text())));
        }
    }
    out
}

/// What is said of a label selector of nodes.
pub(super) fn label_selector(selector: &Field<'_>) -> Vec<String> {
    let labels = selector.at("matchLabels");
    let old = entries(labels.value, &[]).filter_map(|(key, _)| Some((key, label(key)?)));
    let old = old.map(|(key, why)| format!("{}.{key}: {why}", labels.path));
    selector_term(selector, false).into_iter().chain(old).collect()
}

/// What is said of an amount that is no whole number.
pub(super) fn fraction(amounts: &Field<'_>, key: &str) -> Option<String> {
    let amount = Quantity::from_json(amounts.value.get(key)?).ok()?;
    (amount.milli() % 1000 != 0).then(|| {
        let shown = amount.to_string();
        format!("{}[{key}]: fractional byte value {shown:?} is invalid, must be an integer", amounts.path)
    })
}

/// What is said of the spec of a claim: bytes have no fractions.
pub(super) fn claim(spec: &Field<'_>) -> Vec<String> {
    let amounts = ["requests", "limits"].map(|part| spec.under(&["resources", part]));
    amounts.iter().filter_map(|amounts| fraction(amounts, "storage")).collect()
}

/// What is said of an address that others may read otherwise than it is written.
pub(super) fn ip(field: &Field<'_>) -> Option<String> {
    let text = field.text();
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(mapped) => {
                Some(format!("{}: non-standard IP address {text:?} is invalid: use \"{mapped}\"", field.path))
            }
            None if address.to_string() != text => Some(format!(
                "{}: IPv6 address {text:?} should be in RFC 5952 canonical format (\"{address}\")",
                field.path
            )),
            None => None,
        },
        Ok(IpAddr::V4(_)) => None,
        Err(_) => {
            // Leading zeros, which some read as octal.
            let parts: Option<Vec<u8>> = text.split('.').map(|part| part.parse().ok()).collect();
            let [a, b, c, d] = parts?.try_into().ok()?;
            let address = std::net::Ipv4Addr::new(a, b, c, d);
            Some(format!("{}: non-standard IP address {text:?} is invalid: use \"{address}\"", field.path))
        }
    }
}

/// What is said of each of some addresses.
pub(super) fn ips<'a>(fields: impl IntoIterator<Item = Field<'a>>) -> Vec<String> {
    fields.into_iter().filter_map(|field| ip(&field)).collect()
}

/// What is said of the addresses of a balancer in a status; they are called by its place in the list.
pub(super) fn balancers(object: &serde_json::Value) -> Vec<String> {
    let points = Field::root(object).under(&["status", "loadBalancer", "ingress"]);
    ips(points.items().map(|point| Field { path: point.path.clone(), ..point.at("ip") }))
}

/// What is said of a range of addresses. Those that can be read in two ways are refused, so that only other forms are left.
pub(super) fn cidr(field: &Field<'_>) -> Option<String> {
    let range = field.text().parse::<IpNet>().ok().filter(|range| range.addr().is_ipv6())?;
    (range.to_string() != field.text()).then(|| {
        let (path, text) = (&field.path, field.text());
        format!("{path}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format (\"{range}\")")
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of<T>(text: &str, look: fn(&Field<'_>) -> Option<T>) -> Option<T> {
        look(&Field { value: &json!(text), path: "f".to_owned() })
    }

    #[test]
    fn addresses_are_read_in_one_way_only() {
        for good in ["1.2.3.4", "fd00::1"] {
            assert_eq!(of(good, ip), None, "{good}");
        }
        for (odd, wanted) in [
            ("01.2.3.4", "f: non-standard IP address \"01.2.3.4\" is invalid: use \"1.2.3.4\""),
            ("::ffff:1.2.3.4", "f: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\""),
            ("FD00::1", "f: IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")"),
        ] {
            assert_eq!(of(odd, ip).unwrap_or_default(), wanted);
        }
        assert_eq!(of("10.0.0.0/8", cidr), None);
        assert_eq!(of("fd00::/8", cidr), None);
        assert_eq!(
            of("FD00::/8", cidr).unwrap_or_default(),
            "f: IPv6 CIDR value \"FD00::/8\" should be in RFC 5952 canonical format (\"fd00::/8\")"
        );
    }

    #[test]
    fn old_labels_are_told_wherever_nodes_are_selected() {
        let selector = json!({"matchLabels": {"node-role.kubernetes.io/master": ""},
            "matchExpressions": [{"key": "beta.kubernetes.io/os"}, {"key": "failure-domain.kubernetes.io/zone"}]});
        assert_eq!(
            label_selector(&Field { value: &selector, path: "s".to_owned() }),
            [
                "s.matchExpressions[0].key: beta.kubernetes.io/os is deprecated since v1.14; use \"kubernetes.io/os\" instead",
                "s.matchLabels.node-role.kubernetes.io/master: use \"node-role.kubernetes.io/control-plane\" instead",
            ]
        );
    }

    #[test]
    fn each_kind_tells_of_its_odd_addresses_and_labels() {
        let canonical = "IPv6 address \"FD00::1\" should be in RFC 5952 canonical format (\"fd00::1\")";
        let range = "IPv6 CIDR value \"FD00::/8\" should be in RFC 5952 canonical format (\"fd00::/8\")";
        let old = "use \"node-role.kubernetes.io/control-plane\" instead";
        let master = json!({"node-role.kubernetes.io/master": ""});
        for (name, object, wanted) in [
            (
                "Service",
                json!({"spec": {"type": "LoadBalancer", "clusterIP": "FD00::1", "clusterIPs": ["FD00::1"],
                    "loadBalancerIP": "FD00::1", "loadBalancerSourceRanges": ["FD00::/8"]}}),
                vec![
                    format!("spec.clusterIPs[0]: {canonical}"),
                    format!("spec.loadBalancerIP: {canonical}"),
                    format!("spec.loadBalancerSourceRanges[0]: {range}"),
                ],
            ),
            (
                "Endpoints",
                json!({"subsets": [{"addresses": [{"ip": "FD00::1"}], "notReadyAddresses": [{"ip": "FD00::1"}]}]}),
                vec![
                    format!("subsets[0].addresses[0].ip: {canonical}"),
                    format!("subsets[0].notReadyAddresses[0].ip: {canonical}"),
                ],
            ),
            (
                "EndpointSlice",
                json!({"addressType": "IPv6", "endpoints": [{"addresses": ["FD00::1"]}]}),
                vec![format!("endpoints[0].addresses[0]: {canonical}")],
            ),
            (
                "NetworkPolicy",
                json!({"spec": {"egress": [{"to": [{"ipBlock": {"cidr": "FD00::/8", "except": ["FD00::/8"]}}]}]}}),
                vec![
                    format!("spec.egress[0].to[0].ipBlock.cidr: {range}"),
                    format!("spec.egress[0].to[0].ipBlock.except[0]: {range}"),
                ],
            ),
            ("Node", json!({"spec": {"podCIDRs": ["FD00::/8"]}}), vec![format!("spec.podCIDRs[0]: {range}")]),
            (
                "RuntimeClass",
                json!({"scheduling": {"nodeSelector": master}}),
                vec![format!("scheduling.nodeSelector: {old}")],
            ),
            (
                "CSIStorageCapacity",
                json!({"nodeTopology": {"matchLabels": master}}),
                vec![format!("nodeTopology.matchLabels.node-role.kubernetes.io/master: {old}")],
            ),
        ] {
            let kind = crate::builtin::tests::kind(name);
            assert_eq!(kind.strategy.warnings(&object, None), wanted, "{name}");
        }
        let status = json!({"status": {"loadBalancer": {"ingress": [{"hostname": "h"}, {"ip": "FD00::1"}]}}});
        for name in ["Service", "Ingress"] {
            let told = crate::builtin::tests::kind(name).strategy.status_warnings(&status);
            assert_eq!(told, [format!("status.loadBalancer.ingress[1]: {canonical}")], "{name}");
        }
        let made = json!({"metadata": {"labels": {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
            "addressType": "IPv6", "endpoints": [{"addresses": ["FD00::1"]}]});
        assert_eq!(crate::builtin::tests::kind("EndpointSlice").strategy.warnings(&made, None), [""; 0]);
    }
}
