//! What a Service may say.

use std::collections::HashSet;
use std::net::IpAddr;

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::{formats, inner, odd, pods};
use crate::error::{FieldError, FieldErrorKind};
use crate::lookup::{at, text};
use crate::meta::{dns_label, dns_subdomain, qualified_name, validate_labels};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const POLICIES: &[&str] = &["Cluster", "Local"];
const MAX_AFFINITY_SECONDS: i64 = 86400;
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

fn kind<'a>(spec: &Field<'a>) -> &'a str {
    spec.value["type"].as_str().unwrap_or_default()
}

fn is_headless(spec: &Field<'_>) -> bool {
    let ips = spec.at("clusterIPs");
    ips.list().len() == 1 && ips.list()[0] == "None"
}

/// All that is wrong with a Service.
pub(in crate::builtin) fn validate(service: &Object) -> Vec<FieldError> {
    let spec = Field::root(service).at("spec");
    // Upstream looks at the addresses before it chooses them, and at the rest after that.
    let addresses = cluster_ips(&spec);
    if !addresses.is_empty() {
        return addresses;
    }
    let ports = spec.at("ports");
    let mut errors: Vec<FieldError> = topology(service).into_iter().collect();
    if ports.list().is_empty() && !is_headless(&spec) && kind(&spec) != "ExternalName" {
        errors.push(ports.required(""));
    }
    errors.extend(of_type(&spec));
    let mut names = HashSet::new();
    let many = ports.list().len() > 1;
    errors.extend(ports.items().flat_map(|each| port(&each, many, &mut names)));
    let selector = spec.at("selector");
    errors.extend(validate_labels(Some(selector.value), &selector.path));
    errors.extend(affinity(&spec));
    for ip in spec.at("externalIPs").items() {
        let form = ip.obeys(formats::ip);
        errors.extend(if form.is_empty() { ip.obeys(formats::endpoint_ip) } else { form });
    }
    errors.extend(spec.at("type").must_be_one_of(TYPES));
    errors.extend(repeated_ports(&spec));
    errors.extend(load_balancer(service, &spec));
    errors.extend(traffic(&spec));
    errors
}

fn topology(service: &Object) -> Option<FieldError> {
    let annotation =
        |key: &str| at(service, &["metadata", "annotations", key]).and_then(|value| value.as_str());
    let (mode, hints) = (annotation(MODE)?, annotation(HINTS)?);
    let why = format!("must match annotations[{HINTS}] when both are specified");
    (mode != hints).then(|| FieldError::invalid(format!("metadata.annotations[{MODE}]"), mode, why))
}

fn of_type(spec: &Field<'_>) -> Vec<FieldError> {
    let own = kind(spec);
    if own != "ExternalName" {
        let wrong = matches!(own, "LoadBalancer" | "NodePort") && is_headless(spec);
        let why = format!("may not be set to 'None' for {own} services");
        let path = format!("{}[0]", spec.at("clusterIPs").path);
        return wrong.then(|| FieldError::invalid(path, "None", why)).into_iter().collect();
    }
    let mut errors = Vec::new();
    for key in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let given = spec.at(key);
        if !given.list().is_empty() || given.value.is_string() {
            errors.push(given.forbidden("may not be set for ExternalName services"));
        }
    }
    let external = spec.at("externalName");
    let name = external.text().strip_suffix('.').unwrap_or(external.text());
    if name.is_empty() {
        errors.push(external.required(""));
    } else {
        errors.extend(crate::meta::all_wrong(&external.path, name, dns_subdomain(name)));
    }
    errors
}

fn port<'a>(port: &Field<'a>, needs_name: bool, names: &mut HashSet<&'a str>) -> Vec<FieldError> {
    let name = port.at("name");
    let mut errors = if needs_name { name.needs(dns_label) } else { name.may_follow(dns_label) };
    if !name.text().is_empty() && !names.insert(name.text()) {
        errors.push(name.duplicate());
    }
    errors.extend(pods::handlers::port(&port.at("port")));
    errors.extend(port.at("protocol").must_be_one_of(&["SCTP", "TCP", "UDP"]));
    errors.extend(pods::handlers::port(&port.at("targetPort")));
    errors.extend(port.at("appProtocol").follows(qualified_name));
    errors
}

fn affinity(spec: &Field<'_>) -> Vec<FieldError> {
    let (kind, config) = (spec.at("sessionAffinity"), spec.at("sessionAffinityConfig"));
    let mut errors: Vec<FieldError> = kind.must_be_one_of(&["ClientIP", "None"]).into_iter().collect();
    let seconds = config.under(&["clientIP", "timeoutSeconds"]);
    match kind.text() {
        "ClientIP" if seconds.number().is_some_and(|given| !(1..=MAX_AFFINITY_SECONDS).contains(&given)) => {
            errors.push(
                seconds.invalid(format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}")),
            );
        }
        "None" if config.is_given() => {
            errors.push(config.forbidden("must not be set when session affinity is None"));
        }
        _ => {}
    }
    errors
}

fn cluster_ips(spec: &Field<'_>) -> Vec<FieldError> {
    if kind(spec) == "ExternalName" {
        return Vec::new();
    }
    let (ip, ips) = (spec.at("clusterIP"), spec.at("clusterIPs"));
    let families = spec.at("ipFamilies");
    let mut errors = Vec::new();
    match (ip.text(), ips.list().first()) {
        ("", Some(_)) => errors.push(ips.invalid("must be empty when `clusterIP` is not specified")),
        ("", None) => {}
        (_, None) => errors.push(ips.required("")),
        (ip, Some(first)) if first != ip => errors.push(ips.invalid("first value must match `clusterIP`")),
        _ => {}
    }
    let mut seen = HashSet::new();
    for family in families.items() {
        errors.extend(family.one_of(&["IPv4", "IPv6"]));
        errors.extend((!seen.insert(family.text())).then(|| family.duplicate()));
    }
    let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
    errors.extend(spec.at("ipFamilyPolicy").one_of(&policies));
    let mut wrong = Vec::new();
    for (index, each) in ips.items().enumerate() {
        if index == 0 && each.text() == "None" {
            if ips.list().len() > 1 {
                wrong.push(ips.invalid("'None' must be the first and only value"));
            }
        } else {
            wrong.extend(each.obeys(formats::ip));
        }
    }
    let any_wrong = !wrong.is_empty();
    errors.extend(wrong);
    if ips.list().len() > 2 {
        errors.push(ips.invalid("may only hold up to 2 values"));
    }
    if !any_wrong && !is_headless(spec) {
        errors.extend(fit_families(&ips, &families));
    }
    errors
}

fn fit_families(ips: &Field<'_>, families: &Field<'_>) -> Vec<FieldError> {
    let is_v6 = |ip: &Field<'_>| ip.text().parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6());
    let mut errors = Vec::new();
    let v6 = ips.items().filter(is_v6).count();
    if ips.list().len() > 1 && (v6 == 0 || v6 == ips.list().len()) {
        errors.push(ips.invalid("may specify no more than one IP for each IP family"));
    }
    for (index, (ip, family)) in ips.items().zip(families.items()).enumerate() {
        if (family.text() == "IPv6") != is_v6(&ip) && matches!(family.text(), "IPv4" | "IPv6") {
            let why = format!("expected an {} value as indicated by `ipFamilies[{index}]`", family.text());
            errors.push(ip.invalid(why));
        }
    }
    errors
}

fn repeated_ports(spec: &Field<'_>) -> Vec<FieldError> {
    let ports = spec.at("ports");
    let outside = |port: &Field<'_>| port.at("nodePort").number().unwrap_or(0);
    let mut errors = Vec::new();
    if kind(spec) == "ClusterIP" {
        let given = ports.items().filter(|port| outside(port) != 0).map(|port| port.at("nodePort"));
        errors.extend(given.map(|port| port.forbidden("may not be used when `type` is 'ClusterIP'")));
    }
    let (mut nodes, mut numbers) = (HashSet::new(), HashSet::new());
    for port in ports.items().filter(|port| outside(port) != 0) {
        if !nodes.insert((outside(&port), port.at("protocol").text())) {
            errors.push(port.at("nodePort").duplicate());
        }
    }
    for port in ports.items() {
        let (number, protocol) = (port.at("port"), port.at("protocol"));
        if !numbers.insert((number.number().unwrap_or(0), protocol.text())) {
            let key = serde_json::json!({"protocol": protocol.value, "port": number.value});
            let kind = FieldErrorKind::DuplicateAs(inner::shown(&key, inner::SERVICE_PORT));
            errors.push(FieldError { field: port.path, kind, detail: String::new() });
        }
    }
    errors
}

fn load_balancer(service: &Object, spec: &Field<'_>) -> Vec<FieldError> {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = kind(spec) == "LoadBalancer";
    let (ranges, class) = (spec.at("loadBalancerSourceRanges"), spec.at("loadBalancerClass"));
    let annotation =
        at(service, &["metadata", "annotations", SOURCE_RANGES]).and_then(|value| value.as_str());
    let mut errors = Vec::new();
    if !ranges.list().is_empty() {
        let path = spec.at("LoadBalancerSourceRanges").path;
        errors.extend((!balanced).then(|| FieldError::forbidden(path.as_str(), ONLY)));
        for (index, range) in ranges.items().enumerate() {
            let (range, path) = (range.text().trim(), format!("{path}[{index}]"));
            errors.extend(crate::meta::all_wrong(&path, range, formats::cidr(range)));
        }
    } else if let Some(given) = annotation {
        let path = format!("metadata.annotations[{SOURCE_RANGES}]");
        errors.extend((!balanced).then(|| FieldError::forbidden(path.as_str(), ONLY)));
        for range in given.split(',').map(str::trim).filter(|_| !given.trim().is_empty()) {
            errors.extend(crate::meta::all_wrong(&path, range, formats::cidr(range)));
        }
    }
    let allocates = spec.at("allocateLoadBalancerNodePorts");
    errors.extend((allocates.is_given() && !balanced).then(|| allocates.forbidden(ONLY)));
    if balanced {
        errors.extend(class.follows(qualified_name));
    } else if class.is_given() {
        errors.push(class.forbidden(ONLY));
    }
    errors
}

fn traffic(spec: &Field<'_>) -> Vec<FieldError> {
    let own = kind(spec);
    let outside = matches!(own, "LoadBalancer" | "NodePort")
        || (own == "ClusterIP" && !spec.at("externalIPs").list().is_empty());
    let (external, check) = (spec.at("externalTrafficPolicy"), spec.at("healthCheckNodePort"));
    let mut errors = Vec::new();
    if outside {
        errors.extend(external.must_be_one_of(POLICIES));
    } else if !external.text().is_empty() {
        errors.push(external.invalid("may only be set for externally-accessible services"));
    }
    if check.number().is_some_and(|port| port != 0) {
        if own == "LoadBalancer" && external.text() == "Local" {
            errors.extend(check.port());
        } else {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(check.invalid(why));
        }
    }
    errors.extend(spec.at("internalTrafficPolicy").one_of(POLICIES));
    let distributions = ["PreferClose", "PreferSameZone", "PreferSameNode"];
    errors.extend(spec.at("trafficDistribution").one_of(&distributions));
    errors
}

/// What is wrong with the addresses and families of a Service, before any is chosen for it.
pub(in crate::builtin) fn addresses(service: &Object) -> Vec<FieldError> {
    cluster_ips(&Field::root(service).at("spec"))
}

fn stays(after: &Field<'_>, before: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let named_elsewhere = [after, before].into_iter().any(|spec| kind(spec) == "ExternalName");
    let headless = (is_headless(after), is_headless(before));
    if !named_elsewhere && headless != (true, true) {
        errors.extend(kept(after, before, "clusterIPs", "secondary clusterIP", "primary clusterIP"));
        if headless == (false, false) {
            errors.extend(kept(after, before, "ipFamilies", "secondary ipFamily", "primary ipFamily"));
        }
    }
    errors
}

/// What a Service says in vain, or in an outdated way.
pub(in crate::builtin) fn warnings(service: &Object) -> Vec<String> {
    let spec = Field::root(service).at("spec");
    let (external, elsewhere) = (!spec.at("externalIPs").list().is_empty(), kind(&spec) == "ExternalName");
    let headless = kind(&spec) == "ClusterIP" && spec.at("clusterIP").text() == "None";
    let mut all = Vec::new();
    if at(service, &["metadata", "annotations", HINTS]).is_some() {
        all.push(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    if !elsewhere && !headless {
        all.extend(odd::ips(spec.at("clusterIPs").items()));
    }
    let say = |all: &mut Vec<String>, applies: bool, text: &str| all.extend(applies.then(|| text.to_owned()));
    if headless {
        let balanced = !spec.at("loadBalancerIP").text().is_empty();
        say(&mut all, balanced, "spec.loadBalancerIP is ignored for headless services");
        say(&mut all, external, "spec.externalIPs is ignored for headless services");
        let sticky = spec.at("sessionAffinity").text() != "None";
        say(&mut all, sticky, "spec.SessionAffinity is ignored for headless services");
    }
    let outdated = "spec.externalIPs is deprecated and may no longer be implemented in some clusters";
    all.extend(odd::ips(spec.at("externalIPs").items()));
    say(&mut all, external && !headless && !elsewhere, outdated);
    all.extend(odd::ip(&spec.at("loadBalancerIP")));
    all.extend(spec.at("loadBalancerSourceRanges").items().filter_map(|range| odd::cidr(&range)));
    say(&mut all, external && elsewhere, "spec.externalIPs is ignored when spec.type is \"ExternalName\"");
    let named = !spec.at("externalName").text().is_empty();
    say(&mut all, named && !elsewhere, "spec.externalName is ignored when spec.type is not \"ExternalName\"");
    let close = spec.at("trafficDistribution").text() == "PreferClose";
    say(&mut all, close, "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"");
    all
}

/// What may not change in a Service.
pub(in crate::builtin) fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let (after, before) = (Field::root(new).at("spec"), Field::root(old).at("spec"));
    let mut errors = stays(&after, &before);
    let class = after.at("loadBalancerClass");
    let balanced = [&after, &before].into_iter().all(|spec| kind(spec) == "LoadBalancer");
    if balanced && class.value != before.at("loadBalancerClass").value {
        errors.push(class.invalid("may not change once set"));
    }
    let checked =
        |spec: &Field<'_>| kind(spec) == "LoadBalancer" && spec.at("externalTrafficPolicy").text() == "Local";
    let check = after.at("healthCheckNodePort");
    if checked(&after) && checked(&before) && check.number() != before.at("healthCheckNodePort").number() {
        errors.push(check.forbidden("field is immutable"));
    }
    errors
}

/// The first address or family stays; a second one may be added, and given back by a Service that wants one.
fn kept(after: &Field<'_>, before: &Field<'_>, key: &str, second: &str, first: &str) -> Vec<FieldError> {
    let (new, old) = (after.at(key), before.at(key));
    let (count, count_before) = (new.list().len(), old.list().len());
    let wrong = |index: usize, why: &str| {
        FieldError::invalid(format!("{}[{index}]", new.path), new.value.clone(), why)
    };
    let same = |index: &usize| new.list().get(*index) == old.list().get(*index);
    let mut errors = Vec::new();
    if count == count_before {
        let changed = (0..count).filter(|index| !same(index));
        errors.extend(changed.map(|index| wrong(index, "may not change once set")));
        return errors;
    }
    if count == 0 {
        errors.push(wrong(0, &format!("{first} can not be unset")));
    } else if count_before > 0 && !same(&0) {
        errors.push(wrong(0, "may not change once set"));
    }
    let policy = after.at("ipFamilyPolicy");
    if count == 1 && count_before > count && policy.text() != "SingleStack" {
        errors.push(policy.invalid(format!("must be set to 'SingleStack' when releasing the {second}")));
    }
    errors
}

/// What a load balancer may say of itself.
pub(in crate::builtin) fn validate_status(service: &Object) -> Vec<FieldError> {
    let points = Field::root(service).under(&["status", "loadBalancer", "ingress"]);
    if text(service, &["spec", "type"]) != "LoadBalancer" && !points.list().is_empty() {
        return vec![points.forbidden("may only be used when `spec.type` is 'LoadBalancer'")];
    }
    let mut errors = Vec::new();
    for point in points.items() {
        let (ip, mode, host) = (point.at("ip"), point.at("ipMode"), point.at("hostname"));
        errors.extend(ip.may_follow(formats::ip));
        match (ip.text().is_empty(), mode.is_given()) {
            (false, false) => errors.push(mode.required("must be specified when `ip` is set")),
            (true, true) => errors.push(mode.forbidden("may not be specified when `ip` is not set")),
            _ => errors.extend(mode.one_of(&["Proxy", "VIP"])),
        }
        errors.extend(host.may_follow(dns_subdomain));
        if host.text().parse::<IpAddr>().is_ok() {
            errors.push(host.invalid("must be a DNS name, not an IP address"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn assert_begin(errors: &[FieldError], beginnings: &[&str]) {
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), beginnings.len(), "{found:#?}");
        for (found, beginning) in found.iter().zip(beginnings) {
            assert!(found.starts_with(beginning), "{found}");
        }
    }

    fn service(spec: Value) -> Object {
        json!({"metadata": {"annotations": {MODE: "a", HINTS: "b"}}, "spec": spec})
    }

    #[test]
    fn addresses_are_looked_at_first() {
        let bad = service(json!({"type": "Odd", "clusterIP": "1.2.3", "clusterIPs": ["1.2.3"], "ports": []}));
        assert_begin(
            &validate(&bad),
            &["spec.clusterIPs[0]: Invalid value: \"1.2.3\": must be a valid IP address"],
        );
        let two = service(
            json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"],
            "ipFamilies": ["IPv6", "IPv6"]}),
        );
        let beginnings = [
            "spec.ipFamilies[1]: Duplicate value: \"IPv6\"",
            "spec.clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP",
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value",
            "spec.clusterIPs[1]: Invalid value: \"10.0.0.2\": expected an IPv6 value",
        ];
        assert_begin(&validate(&two), &beginnings);
    }

    #[test]
    fn ports_and_policies_fit_the_type() {
        let port = json!({"port": 80, "protocol": "TCP", "targetPort": 80, "nodePort": 30000});
        let bad =
            service(json!({"type": "ClusterIP", "sessionAffinity": "None", "sessionAffinityConfig": {},
            "ports": [port, port], "loadBalancerSourceRanges": [" x"], "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Far", "loadBalancerClass": "x"}));
        let beginnings = [
            "metadata.annotations[service.kubernetes.io/topology-mode]: Invalid value: \"a\": must match",
            "spec.ports[0].name: Required value",
            "spec.ports[1].name: Required value",
            "spec.sessionAffinityConfig: Forbidden: must not be set when session affinity is None",
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            "spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            "spec.ports[1].nodePort: Duplicate value: 30000",
            "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,",
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used",
            "spec.LoadBalancerSourceRanges[0]: Invalid value: \"x\": must be a valid CIDR value",
            "spec.loadBalancerClass: Forbidden: may only be used",
            "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible",
            "spec.internalTrafficPolicy: Unsupported value: \"Far\"",
        ];
        assert_begin(&validate(&bad), &beginnings);
        let external =
            service(json!({"type": "ExternalName", "sessionAffinity": "None", "clusterIPs": ["None"]}));
        let beginnings = [
            "metadata.annotations",
            "spec.clusterIPs: Forbidden: may not be set for ExternalName services",
            "spec.externalName: Required value",
        ];
        assert_begin(&validate(&external), &beginnings);
    }

    #[test]
    fn addresses_stay() {
        let of = |ips: Value| json!({"spec": {"type": "ClusterIP", "clusterIPs": ips}});
        let errors = validate_update(&of(json!(["10.0.0.2"])), &of(json!(["10.0.0.1"])));
        assert_begin(
            &errors,
            &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"],
        );
        let errors = validate_update(&of(json!([])), &of(json!(["10.0.0.1"])));
        assert_begin(&errors, &["spec.clusterIPs[0]: Invalid value: []: primary clusterIP can not be unset"]);
        let errors = validate_update(&of(json!(["10.0.0.1"])), &of(json!(["10.0.0.1", "fd00::1"])));
        assert_begin(&errors, &["spec.ipFamilyPolicy: Invalid value: null: must be set to 'SingleStack'"]);
    }

    #[test]
    fn what_is_said_in_vain_is_told() {
        let mut spec = json!({"type": "ClusterIP", "clusterIP": "None", "sessionAffinity": "ClientIP", "externalIPs": ["192.0.2.1"]});
        assert_eq!(warnings(&json!({"spec": spec})).len(), 2);
        spec["type"] = json!("ExternalName");
        spec["externalName"] = json!("example.org");
        assert_eq!(
            warnings(&json!({"spec": spec})),
            ["spec.externalIPs is ignored when spec.type is \"ExternalName\""]
        );
        assert_eq!(warnings(&json!({"spec": {"type": "ClusterIP", "clusterIP": "10.0.0.1"}})), [""; 0]);
    }
}
