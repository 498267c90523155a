//! NetworkPolicy, ServiceCIDR and IPAddress. They are kept; no packet is held to a NetworkPolicy yet.

pub(in crate::builtin) mod ingress;

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::formats::port_name;
use crate::builtin::inner::{Is, Part};
use crate::builtin::rows::{name, since_creation};
use crate::builtin::rules::{METADATA, Rules};
use crate::builtin::{ColumnSpec, formats, odd};
use crate::error::FieldError;
use crate::lookup::{at_mut, list, list_mut, set_default, text};
use crate::meta::{dns_subdomain, path_segment};

pub(in crate::builtin) const POLICY_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("Pod-Selector", "string", 0), ("Age", "string", 0)];

pub(in crate::builtin) fn policy_cells(policy: &Object, now: Timestamp) -> Vec<Value> {
    let selector = crate::builtin::rows::selector(&policy["spec"]["podSelector"]);
    vec![name(policy), selector, since_creation(policy, now)]
}

pub(in crate::builtin) const POLICY: Rules =
    Rules { default: policy_defaults, validate: validate_policy, warnings: policy_warnings, ..Rules::BASE };

/// The two directions: the list of rules, and of their peers.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

fn policy_warnings(policy: &Object, _old: Option<&Object>) -> Vec<String> {
    let spec = Field::root(policy).at("spec");
    let peers = DIRECTIONS.iter().flat_map(|(direction, peers)| {
        spec.at(direction).items().flat_map(move |rule| rule.at(peers).items())
    });
    let ranges = peers.map(|peer| peer.at("ipBlock")).flat_map(|block| {
        let except: Vec<Field<'_>> = block.at("except").items().collect();
        [vec![block.at("cidr")], except].concat()
    });
    ranges.filter_map(|range| odd::cidr(&range)).collect()
}

fn policy_defaults(policy: &mut Object) {
    let Some(spec) = at_mut(policy, &["spec"]).filter(|spec| spec.is_object()) else { return };
    for (direction, _) in DIRECTIONS {
        for rule in list_mut(spec, &[direction]) {
            for port in list_mut(rule, &["ports"]) {
                set_default(port, "protocol", "TCP");
            }
        }
    }
    if list(spec, &["policyTypes"]).is_empty() {
        let egress = !list(spec, &["egress"]).is_empty();
        spec["policyTypes"] = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
    }
    // A policy without a selector is for every Pod, and upstream shows that.
    set_default(spec, "podSelector", json!({}));
}

fn validate_policy(policy: &Object) -> Vec<FieldError> {
    let spec = Field::root(policy).at("spec");
    let mut errors = spec.at("podSelector").label_selector();
    for (direction, peers) in DIRECTIONS {
        for rule in spec.at(direction).items() {
            rule.at("ports").items().for_each(|port| policy_port(&port, &mut errors));
            rule.at(peers).items().for_each(|peer| policy_peer(&peer, &mut errors));
        }
    }
    let types = spec.at("policyTypes");
    if types.list().len() > 2 {
        errors.push(types.invalid("may not specify more than two policyTypes"));
    } else {
        errors.extend(types.items().filter_map(|kind| kind.one_of(&["Ingress", "Egress"])));
    }
    errors
}

fn policy_port(field: &Field<'_>, errors: &mut Vec<FieldError>) {
    let (port, end) = (field.at("port"), field.at("endPort"));
    errors.extend(field.at("protocol").one_of(&["TCP", "UDP", "SCTP"]));
    if let Some(number) = port.number() {
        errors.extend(port.port());
        if end.number().is_some_and(|end| end < number) {
            let why = "must be greater than or equal to `port`";
            errors.push(FieldError::invalid(end.path.as_str(), number, why));
        }
        errors.extend(end.port());
        return;
    }
    if end.is_given() {
        let why = if port.is_given() { "is non-numeric" } else { "is not specified" };
        errors.push(end.invalid(format!("may not be specified when `port` {why}")));
    }
    errors.extend(port.follows(port_name));
}

fn policy_peer(field: &Field<'_>, errors: &mut Vec<FieldError>) {
    let (pods, namespaces, block) =
        (field.at("podSelector"), field.at("namespaceSelector"), field.at("ipBlock"));
    errors.extend(pods.label_selector());
    errors.extend(namespaces.label_selector());
    let selects = pods.is_given() || namespaces.is_given();
    if block.is_given() {
        address_block(&block, errors);
    }
    match (selects, block.is_given()) {
        (false, false) => errors.push(field.required("must specify a peer")),
        (true, true) => errors.push(field.forbidden("may not specify both ipBlock and another peer")),
        _ => {}
    }
}

fn address_block(block: &Field<'_>, errors: &mut Vec<FieldError>) {
    let cidr = block.at("cidr");
    errors.extend(cidr.needs(formats::cidr));
    let Ok(range) = cidr.text().parse::<IpNet>() else { return };
    for except in block.at("except").items() {
        errors.extend(except.follows(formats::cidr));
        let Ok(inner) = except.text().parse::<IpNet>() else { continue };
        if !range.contains(&inner) || inner == range {
            errors.push(except.invalid("must be a strict subset of `cidr`"));
        }
    }
}

pub(in crate::builtin) const CIDR_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("CIDRs", "string", 0), ("Age", "string", 0)];

pub(in crate::builtin) fn cidr_cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let ranges: Vec<&str> = list(object, &["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
    vec![name(object), json!(ranges.join(",")), since_creation(object, now)]
}

pub(in crate::builtin) const SERVICE_CIDR: Rules = Rules {
    validate: validate_cidrs,
    validate_update: cidrs_are_kept,
    kept_by_status: METADATA,
    ..Rules::UNCOUNTED
};

fn validate_cidrs(object: &Object) -> Vec<FieldError> {
    let ranges = Field::root(object).under(&["spec", "cidrs"]);
    match ranges.list() {
        [] => return vec![ranges.required("at least one CIDR required")],
        [_] | [_, _] => {}
        _ => {
            let why = "may only hold up to 2 values";
            let spec = Field { path: ranges.path, value: &object["spec"] };
            return vec![spec.invalid_object(&[Part("CIDRs", "cidrs", Is::Optional)], why)];
        }
    }
    let mut errors: Vec<FieldError> =
        ranges.items().flat_map(|range| range.follows(formats::canonical_cidr)).collect();
    let parsed: Vec<IpNet> = ranges.items().filter_map(|range| range.text().parse().ok()).collect();
    if let [first, second] = parsed.as_slice()
        && first.addr().is_ipv4() == second.addr().is_ipv4()
    {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(ranges.invalid(why));
    }
    errors
}

/// Ranges stay; a second one, of the other family, may be added.
fn cidrs_are_kept(new: &Object, old: &Object) -> Vec<FieldError> {
    let ranges = |object| Field::root(object).under(&["spec", "cidrs"]);
    let (new, old) = (ranges(new), ranges(old));
    match (old.list().len(), new.list().len()) {
        (before, after) if before == after || (before, after) == (1, 2) => {
            let pairs = new.items().zip(old.items());
            pairs.filter_map(|(new, old)| new.same_as(&old)).collect()
        }
        _ => vec![new.invalid("field is immutable")],
    }
}

pub(in crate::builtin) const ADDRESS_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("ParentRef", "string", 0)];

pub(in crate::builtin) fn address_cells(address: &Object, now: Timestamp) -> Vec<Value> {
    let parent = &address["spec"]["parentRef"];
    let shown = if parent.is_object() {
        let resource = match (text(parent, &["resource"]), text(parent, &["group"])) {
            (resource, "") => resource.to_lowercase(),
            (resource, group) => format!("{resource}.{group}").to_lowercase(),
        };
        let namespace = match text(parent, &["namespace"]) {
            "" => String::new(),
            namespace => format!("/{namespace}"),
        };
        format!("{resource}{namespace}/{}", text(parent, &["name"]))
    } else {
        "<none>".to_owned()
    };
    // Upstream has this cell, and no heading for it.
    vec![name(address), json!(shown), since_creation(address, now)]
}

const PARENT: &[Part] = &[
    Part("Group", "group", Is::Text),
    Part("Resource", "resource", Is::Text),
    Part("Namespace", "namespace", Is::Text),
    Part("Name", "name", Is::Text),
];

pub(in crate::builtin) const IP_ADDRESS: Rules = Rules {
    validate: validate_address,
    validate_update: |new, old| {
        let parent = |address| Field::root(address).under(&["spec", "parentRef"]);
        let (new, old) = (parent(new), parent(old));
        let changed = new.value != old.value;
        changed.then(|| new.invalid_object(PARENT, "field is immutable")).into_iter().collect()
    },
    // The name is the address, which in its sixth version is no DNS name.
    path_segment_name: true,
    ..Rules::UNCOUNTED
};

fn validate_address(address: &Object) -> Vec<FieldError> {
    let root = Field::root(address);
    let mut errors = root.under(&["metadata", "name"]).follows(formats::canonical_ip);
    let parent = root.under(&["spec", "parentRef"]);
    if !parent.is_given() {
        errors.push(parent.required(""));
        return errors;
    }
    let (group, namespace) = (parent.at("group"), parent.at("namespace"));
    errors.extend(group.may_follow(dns_subdomain));
    errors.extend(["resource", "name"].iter().flat_map(|key| parent.at(key).needs(path_segment)));
    errors.extend(namespace.follows(path_segment));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal, row};

    #[test]
    fn a_policy_says_which_directions_it_is_for() {
        let policy =
            |spec: Value| created(&kind("NetworkPolicy"), json!({"metadata": {"name": "p"}, "spec": spec}));
        let only = policy(json!({"podSelector": {"matchLabels": {"app": "web"}}})).unwrap();
        assert_eq!(only["spec"]["policyTypes"], json!(["Ingress"]));
        assert_eq!(row("NetworkPolicy", &only)[1], "app=web");
        let both = policy(json!({"egress": [{"ports": [{"port": 53}]}]})).unwrap();
        assert_eq!(both["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(both["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
        for (spec, why) in [
            (
                json!({"ingress": [{"from": [{}]}]}),
                "spec.ingress[0].from[0]: Required value: must specify a peer",
            ),
            (
                json!({"ingress": [{"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}]}),
                "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
            ),
            (
                json!({"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]}]}),
                "spec.egress[0].to[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
            ),
            (
                json!({"egress": [{"ports": [{"port": 5, "endPort": 4}]}]}),
                "must be greater than or equal to `port`",
            ),
            (
                json!({"egress": [{"ports": [{"endPort": 4}]}]}),
                "may not be specified when `port` is not specified",
            ),
            (json!({"policyTypes": ["Sideways"]}), "spec.policyTypes[0]: Unsupported value: \"Sideways\""),
            (
                json!({"ingress": [{"ports": [{"protocol": "ICMP"}]}]}),
                "protocol: Unsupported value: \"ICMP\"",
            ),
        ] {
            let found = refusal("NetworkPolicy", json!({"metadata": {"name": "p"}, "spec": spec}));
            assert!(found.contains(why), "{found}\n{why}");
        }
    }

    #[test]
    fn ranges_may_grow_by_the_other_family_only() {
        let of = |cidrs: Value| json!({"metadata": {"name": "more"}, "spec": {"cidrs": cidrs}});
        let old = created(&kind("ServiceCIDR"), of(json!(["10.1.0.0/16"]))).unwrap();
        assert!(old["metadata"].get("generation").is_none());
        assert_eq!(row("ServiceCIDR", &old)[1], "10.1.0.0/16");
        let after = |cidrs: Value| changed("ServiceCIDR", &old, json!({"spec": {"cidrs": cidrs}})).1;
        assert_eq!(after(json!(["10.1.0.0/16", "2001:db8::/64"])), "");
        assert_eq!(
            after(json!(["10.2.0.0/16"])),
            "spec.cidrs[0]: Invalid value: \"10.2.0.0/16\": field is immutable"
        );
        assert!(after(json!([])).contains("field is immutable"));
        assert!(refusal("ServiceCIDR", of(json!(["10.1.0.1/16"]))).contains("must not have bits set beyond"));
        assert!(refusal("ServiceCIDR", of(json!(["10.1.0.0/16", "10.2.0.0/16"]))).contains("each IP family"));
        assert!(
            refusal("ServiceCIDR", of(json!([]))).contains("spec.cidrs: Required value: at least one CIDR")
        );
    }

    #[test]
    fn an_address_is_its_name_and_belongs_to_one_object() {
        let of =
            |name: &str, parent: Value| json!({"metadata": {"name": name}, "spec": {"parentRef": parent}});
        let service = json!({"resource": "services", "namespace": "default", "name": "web"});
        let old = created(&kind("IPAddress"), of("2001:db8::1", service.clone())).unwrap();
        assert_eq!(row("IPAddress", &old), ["2001:db8::1", "services/default/web", "<unknown>"]);
        let (_, refused) = changed("IPAddress", &old, json!({"spec": {"parentRef": {"name": "other"}}}));
        assert!(refused.starts_with("spec.parentRef: Invalid value:"), "{refused}");
        assert!(
            refusal("IPAddress", of("web", service))
                .contains("metadata.name: Invalid value: \"web\": must be a valid IP")
        );
        assert!(
            refusal("IPAddress", of("10.0.0.1", json!({})))
                .contains("spec.parentRef.resource: Required value")
        );
    }
}
