//! EndpointSlice and Lease.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::formats::{self, Rule, endpoint_ip, fully_qualified_domain};
use crate::builtin::rows::{name, since_creation};
use crate::builtin::rules::Rules;
use crate::builtin::{ColumnSpec, odd};
use crate::error::FieldError;
use crate::lookup::{list, list_mut, number, set_default, text};
use crate::meta::{dns_label, dns_subdomain, label_value, qualified_name, validate_labels};

pub(in crate::builtin) const COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("AddressType", "string", 0),
    ("Ports", "string", 0),
    ("Endpoints", "string", 0),
    ("Age", "string", 0),
];

pub(in crate::builtin) fn cells(slice: &Object, now: Timestamp) -> Vec<Value> {
    const SHOWN: usize = 3;
    let few = |texts: Vec<String>| match texts.len() {
        0 => "<unset>".to_owned(),
        count if count > SHOWN => format!("{} + {} more...", texts[..SHOWN].join(","), count - SHOWN),
        _ => texts.join(","),
    };
    let port = |port: &Value| match number(port, &["port"]) {
        Some(number) => number.to_string(),
        None if port["name"].is_string() => text(port, &["name"]).to_owned(),
        None => "*".to_owned(),
    };
    let addresses = list(slice, &["endpoints"])
        .iter()
        .flat_map(|endpoint| list(endpoint, &["addresses"]))
        .map(|address| address.as_str().unwrap_or_default().to_owned());
    vec![
        name(slice),
        json!(text(slice, &["addressType"])),
        json!(few(list(slice, &["ports"]).iter().map(port).collect())),
        json!(few(addresses.collect())),
        since_creation(slice, now),
    ]
}

pub(in crate::builtin) const SLICE: Rules = Rules {
    default: |slice| {
        // Upstream shows these lists also where there is none.
        if let Some(root) = slice.as_object_mut() {
            for key in ["endpoints", "ports"] {
                root.entry(key).or_insert(serde_json::Value::Null);
            }
        }
        for port in list_mut(slice, &["ports"]) {
            set_default(port, "name", "");
            set_default(port, "protocol", "TCP");
        }
        for endpoint in list_mut(slice, &["endpoints"]) {
            set_default(endpoint, "conditions", Map::new());
            // This version can read what an older one kept there, and not write it.
            crate::lookup::remove(endpoint, "deprecatedTopology");
        }
    },
    validate: validate_slice,
    validate_update: |new, old| {
        let kind = |slice| Field::root(slice).at("addressType");
        kind(new).same_as(&kind(old)).into_iter().collect()
    },
    // Endpoints that were let in once may stay.
    tolerates: |field, new, old| field.starts_with("endpoints") && new["endpoints"] == old["endpoints"],
    warnings: |slice, _| slice_warnings(slice),
    ..Rules::BASE
};

fn slice_warnings(slice: &Object) -> Vec<String> {
    /// Their addresses come from objects of which it was said already.
    const CONTROLLERS: [&str; 2] =
        ["endpointslice-controller.k8s.io", "endpointslicemirroring-controller.k8s.io"];
    let old = text(slice, &["addressType"]) == "FQDN";
    let mut found: Vec<String> =
        old.then(|| "spec.addressType: FQDN endpoints are deprecated".to_owned()).into_iter().collect();
    if !CONTROLLERS.contains(&text(slice, &["metadata", "labels", "endpointslice.kubernetes.io/managed-by"]))
    {
        let endpoints = Field::root(slice).at("endpoints");
        found.extend(odd::ips(endpoints.items().flat_map(|endpoint| endpoint.at("addresses").items())));
    }
    found
}

fn validate_slice(slice: &Object) -> Vec<FieldError> {
    const MAX_ENDPOINTS: usize = 1000;
    const MAX_PORTS: usize = 20_000;
    let root = Field::root(slice);
    let (kind, ports, endpoints) = (root.at("addressType"), root.at("ports"), root.at("endpoints"));
    let mut errors: Vec<FieldError> = kind.must_be_one_of(&["FQDN", "IPv4", "IPv6"]).into_iter().collect();
    match ports.at_most(MAX_PORTS) {
        Some(error) => errors.push(error),
        None => slice_ports(&ports, &mut errors),
    }
    match endpoints.at_most(MAX_ENDPOINTS) {
        Some(error) => errors.push(error),
        None => endpoints.items().for_each(|endpoint| slice_endpoint(&endpoint, kind.text(), &mut errors)),
    }
    errors
}

fn slice_ports(ports: &Field<'_>, errors: &mut Vec<FieldError>) {
    let mut names = std::collections::HashSet::new();
    for port in ports.items() {
        let called = port.at("name");
        errors.extend(called.may_follow(dns_label));
        if !names.insert(called.text()) {
            errors.push(FieldError::duplicate(called.path.as_str(), called.text()));
        }
        errors.extend(port.at("protocol").must_be_one_of(&["SCTP", "TCP", "UDP"]));
        errors.extend(port.at("appProtocol").follows(qualified_name));
    }
}

fn slice_endpoint(endpoint: &Field<'_>, kind: &str, errors: &mut Vec<FieldError>) {
    const MAX_ADDRESSES: usize = 100;
    const MAX_HINTS: usize = 8;
    let addresses = endpoint.at("addresses");
    errors.extend(addresses.must_be_given("must contain at least 1 address"));
    errors.extend(addresses.at_most(MAX_ADDRESSES));
    for address in addresses.items() {
        slice_address(&address, &addresses.path, kind, errors);
    }
    errors.extend(endpoint.at("nodeName").follows(dns_subdomain));
    errors.extend(endpoint.at("hostname").follows(dns_label));
    let topology = endpoint.at("deprecatedTopology");
    errors.extend(validate_labels(Some(topology.value), &topology.path));
    for (key, rule) in [("forZones", label_value as Rule), ("forNodes", dns_subdomain)] {
        let hints = endpoint.at("hints").at(key);
        if let Some(error) = hints.at_most(MAX_HINTS) {
            errors.push(error);
            continue;
        }
        let mut names = std::collections::HashSet::new();
        for called in hints.items().map(|hint| hint.at("name")) {
            if !names.insert(called.text()) {
                errors.push(called.duplicate());
            }
            errors.extend(called.follows(rule));
        }
    }
}

fn slice_address(address: &Field<'_>, list_path: &str, kind: &str, errors: &mut Vec<FieldError>) {
    let (rule, family): (Rule, fn(&std::net::IpAddr) -> bool) = match kind {
        "IPv4" => (formats::ip, |ip| ip.is_ipv4()),
        "IPv6" => (formats::canonical_ip, |ip| ip.is_ipv6()),
        "FQDN" => {
            errors.extend(address.needs(fully_qualified_domain));
            return;
        }
        _ => return,
    };
    let wrong = address.follows(rule);
    if !wrong.is_empty() {
        errors.extend(wrong);
        return;
    }
    if !address.text().parse().is_ok_and(|ip| family(&ip)) {
        let why = format!("must be an {kind} address");
        errors.push(FieldError::invalid(list_path, address.text(), why));
    }
    errors.extend(address.follows(endpoint_ip));
}

pub(in crate::builtin) const LEASE: Rules = Rules {
    validate: |lease| {
        let spec = Field::root(lease).at("spec");
        let seconds = spec.at("leaseDurationSeconds");
        let mut errors = Vec::new();
        if seconds.number().is_some_and(|seconds| seconds <= 0) {
            errors.push(seconds.invalid("must be greater than 0"));
        }
        errors.extend(spec.at("leaseTransitions").at_least(0));
        election(&spec, &mut errors);
        errors
    },
    prepare_create: |lease| drop_election(lease, &Value::Null),
    prepare_update: drop_election,
    ..Rules::UNCOUNTED
};

/// Servers that elect leaders themselves are a feature that is off by default: its fields stay with those that have them, and nobody else
/// gets them.
fn drop_election(lease: &mut Object, old: &Object) {
    if let Some(spec) = lease.get_mut("spec") {
        for key in ["strategy", "preferredHolder"] {
            if old["spec"].get(key).is_none_or(Value::is_null) {
                crate::lookup::remove(spec, key);
            }
        }
    }
}

fn election(spec: &Field<'_>, errors: &mut Vec<FieldError>) {
    let (strategy, preferred) = (spec.at("strategy"), spec.at("preferredHolder"));
    if strategy.is_given() {
        // Upstream says it of a field in the text.
        let named = Field { path: strategy.at("strategy").path, ..strategy.clone() };
        if strategy.text().contains('/') {
            errors.extend(named.follows(qualified_name));
        } else {
            errors.extend(named.must_be_one_of(&["OldestEmulationVersion"]));
        }
    }
    if !preferred.text().is_empty() && strategy.text().is_empty() {
        errors.push(preferred.forbidden("may only be specified if `strategy` is defined"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal, row};

    #[test]
    fn a_slice_leads_to_addresses_of_one_kind() {
        let slice = |kind: &str, more: Value| {
            let slice = json!({"metadata": {"name": "s"}, "addressType": kind, "endpoints": []});
            crate::patch::merge(&slice, &more).unwrap()
        };
        let good = json!({"ports": [{"port": 80}, {"name": "all"}], "endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "n1",
            "hints": {"forZones": [{"name": "z"}]}}]});
        let old = created(&kind("EndpointSlice"), slice("IPv4", good)).unwrap();
        assert_eq!(row("EndpointSlice", &old)[1..4], ["IPv4", "80,all", "10.0.0.1"]);
        assert_eq!(old["endpoints"][0]["conditions"], json!({}));
        assert!(
            changed("EndpointSlice", &old, json!({"addressType": "IPv6"}))
                .1
                .contains("addressType: Invalid value: \"IPv6\": field is immutable")
        );
        let to = |address: &str| json!({"endpoints": [{"addresses": [address]}]});
        for (kind, more, why) in [
            ("Carrier pigeon", json!({}), "addressType: Unsupported value: \"Carrier pigeon\""),
            ("IPv4", to("x"), "endpoints[0].addresses[0]: Invalid value: \"x\": must be a valid IP address"),
            (
                "IPv4",
                to("2001:db8::1"),
                "endpoints[0].addresses: Invalid value: \"2001:db8::1\": must be an IPv4 address",
            ),
            ("IPv4", to("127.0.0.1"), "may not be in the loopback range"),
            ("IPv6", to("2001:DB8::1"), "must be in canonical form"),
            ("FQDN", to("host"), "should be a domain with at least two segments"),
            (
                "IPv4",
                json!({"endpoints": [{}]}),
                "endpoints[0].addresses: Required value: must contain at least 1 address",
            ),
            ("IPv4", json!({"ports": [{"name": "A"}]}), "ports[0].name: Invalid value: \"A\""),
            ("IPv4", json!({"ports": [{}, {}]}), "ports[1].name: Duplicate value: \"\""),
            (
                "IPv4",
                json!({"ports": [{"protocol": "ICMP"}]}),
                "ports[0].protocol: Unsupported value: \"ICMP\"",
            ),
            (
                "IPv4",
                json!({"endpoints": [{"addresses": ["10.0.0.1"], "hostname": "A"}]}),
                "endpoints[0].hostname: Invalid value: \"A\"",
            ),
        ] {
            let found = refusal("EndpointSlice", slice(kind, more));
            assert!(found.contains(why), "{found}\n{why}");
        }
    }

    #[test]
    fn a_lease_lasts_some_time() {
        let lease = |spec: Value| json!({"metadata": {"name": "l"}, "spec": spec});
        assert_eq!(refusal("Lease", lease(json!({"holderIdentity": "h", "leaseDurationSeconds": 1}))), "");
        let bad = json!({"leaseDurationSeconds": 0, "leaseTransitions": -1, "strategy": "Best", "preferredHolder": "p"});
        let found = refusal("Lease", lease(bad));
        for why in [
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
        ] {
            assert!(found.contains(why), "{found}\n{why}");
        }
        let kept =
            created(&kind("Lease"), lease(json!({"strategy": "Best", "preferredHolder": "p"}))).unwrap();
        assert_eq!(kept["spec"], json!({}));

        let mut old = kept;
        old["spec"] = json!({"strategy": "OldestEmulationVersion"});
        let change = json!({"spec": {"strategy": "a/b", "preferredHolder": "p"}});
        assert_eq!(changed("Lease", &old, change).0["spec"], json!({"strategy": "a/b"}));
        let (_, refused) = changed("Lease", &old, json!({"spec": {"strategy": "Best"}}));
        assert!(refused.contains("spec.strategy.strategy: Unsupported value: \"Best\""), "{refused}");
        old["spec"]["preferredHolder"] = json!("p");
        let (_, refused) = changed("Lease", &old, json!({"spec": {"strategy": null}}));
        assert!(
            refused.contains("spec.preferredHolder: Forbidden: may only be specified if `strategy`"),
            "{refused}"
        );
    }
}
