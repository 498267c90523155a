//! Which families of addresses a Service has. Clouds have IPv4 alone, so what asks for more is refused in Kubernetes' words for such a
//! cluster.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::Object;
use crate::builtin::services::{changes, rules};
use crate::error::FieldError;
use crate::lookup::{at, entries, list, remove, text};

/// The one family that there is.
const FAMILY: &str = "IPv4";
const POLICY: &str = "spec.ipFamilyPolicy";

/// Completes a new Service, or one that is changed from `old`, before anything is chosen for it: what was allocated stays, what its type no
/// longer needs goes, its families are filled in. Says what is wrong with those and with the addresses asked for; a Service with errors
/// must not be given an address. Nobody owns the fields that this changes, so it comes after ownership was worked out.
pub fn settle_service(service: &mut Object, old: Option<&Object>) -> Vec<FieldError> {
    if !service["spec"].is_object() {
        return Vec::new();
    }
    if let Some(old) = old {
        changes::keep(service, old);
        changes::align(service, Some(old));
        changes::give_up(service, old);
    } else {
        changes::align(service, None);
    }
    if text(service, &["spec", "type"]) == "ExternalName" {
        drop(remove(&mut service["spec"], "internalTrafficPolicy"));
        return Vec::new();
    }
    if old.is_some_and(|old| prefers_as_before(service, old)) {
        return Vec::new();
    }
    choose_policy(service, old);
    let mut errors = rules::addresses(service);
    if !errors.is_empty() {
        return errors;
    }
    errors.extend(old.into_iter().flat_map(|old| release(service, old)));
    errors.extend(too_many(service));
    errors.extend(infer(service));
    if errors.is_empty() {
        errors = families(service);
    }
    errors
}

fn policy(service: &Object) -> &str {
    text(service, &["spec", "ipFamilyPolicy"])
}

fn same(a: &Object, b: &Object, key: &str) -> bool {
    list(a, &["spec", key]) == list(b, &["spec", key])
}

/// Who prefers two families keeps what it has, until it asks for something else or becomes something else.
fn prefers_as_before(service: &Object, old: &Object) -> bool {
    policy(service) == "PreferDualStack"
        && matches!(policy(old), "" | "PreferDualStack")
        && text(service, &["spec", "type"]) == text(old, &["spec", "type"])
        && same(service, old, "clusterIPs")
        && same(service, old, "ipFamilies")
}

/// Whoever keeps the endpoints of a Service without a selector may keep them of any family.
fn is_anyones(service: &Object) -> bool {
    text(service, &["spec", "clusterIP"]) == "None"
        && entries(service, &["spec", "selector"]).next().is_none()
}

fn choose_policy(service: &mut Object, old: Option<&Object>) {
    // An empty one is none that is known: it is refused.
    if service["spec"]["ipFamilyPolicy"].is_string() {
        return;
    }
    let before = old.map(policy).filter(|policy| !policy.is_empty());
    let chosen = before.unwrap_or(if is_anyones(service) { "RequireDualStack" } else { "SingleStack" });
    service["spec"]["ipFamilyPolicy"] = json!(chosen);
}

/// Who goes back to one family gives the second address and family up; without saying so nobody does.
fn release(service: &mut Object, old: &Object) -> Vec<FieldError> {
    let keys = [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")];
    if policy(service) == "SingleStack" {
        for (key, _) in keys {
            if same(service, old, key) && list(service, &["spec", key]).len() > 1 {
                let first = list(service, &["spec", key])[0].clone();
                service["spec"][key] = json!([first]);
            }
        }
        return Vec::new();
    }
    let fewer = |key: &str| {
        let now = list(service, &["spec", key]).len();
        now != 0 && now < list(old, &["spec", key]).len()
    };
    let fewer = keys.into_iter().filter(|(key, _)| fewer(key));
    fewer
        .map(|(_, what)| {
            let why = format!("must be 'SingleStack' to release the secondary {what}");
            FieldError::invalid(POLICY, policy(service), why)
        })
        .collect()
}

fn too_many(service: &Object) -> Vec<FieldError> {
    let keys = [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")];
    let single = policy(service) == "SingleStack";
    let both = keys.into_iter().filter(|(key, _)| single && list(service, &["spec", key]).len() == 2);
    both.map(|(_, what)| {
        let why =
            format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
        FieldError::invalid(POLICY, "SingleStack", why)
    })
    .collect()
}

/// Families of the addresses that were given without one.
fn infer(service: &mut Object) -> Vec<FieldError> {
    let ips = list(service, &["spec", "clusterIPs"]).to_vec();
    let mut families = list(service, &["spec", "ipFamilies"]).to_vec();
    let mut errors = Vec::new();
    for (index, ip) in ips.iter().enumerate() {
        let Some(ip) = ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok()) else { break };
        if index < families.len() {
            continue;
        }
        if ip.is_ipv4() {
            families.push(json!(FAMILY));
        } else {
            let field = format!("spec.clusterIPs[{index}]");
            let why = "IPv6 is not configured on this cluster";
            errors.push(FieldError::invalid(field, Value::Array(ips.clone()), why));
        }
    }
    if !families.is_empty() {
        service["spec"]["ipFamilies"] = Value::Array(families);
    }
    errors
}

fn families(service: &mut Object) -> Vec<FieldError> {
    let mut families = list(service, &["spec", "ipFamilies"]).to_vec();
    if is_anyones(service) {
        if families.is_empty() {
            families.push(json!(FAMILY));
        }
        if families.len() < 2 && policy(service) != "SingleStack" {
            families.push(json!(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }));
        }
        service["spec"]["ipFamilies"] = Value::Array(families);
        return Vec::new();
    }
    let mut errors = Vec::new();
    if policy(service) == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(POLICY, policy(service), why));
    }
    for (index, family) in families.iter().enumerate().filter(|(_, family)| **family != FAMILY) {
        let field = format!("spec.ipFamilies[{index}]");
        errors.push(FieldError::invalid(field, family.clone(), "not configured on this cluster"));
    }
    if errors.is_empty() && at(service, &["spec", "ipFamilies"]).is_none_or(|given| *given == json!([])) {
        service["spec"]["ipFamilies"] = json!([FAMILY]);
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(spec: Value, old: Option<Value>) -> (Value, Vec<String>) {
        let mut service = json!({"spec": spec});
        let old = old.map(|spec| json!({"spec": spec}));
        let errors = settle_service(&mut service, old.as_ref());
        let shown = json!([service["spec"]["ipFamilyPolicy"], service["spec"]["ipFamilies"]]);
        (shown, errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn families_are_completed() {
        for (spec, want) in [
            (json!({}), json!(["SingleStack", ["IPv4"]])),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), json!(["PreferDualStack", ["IPv4"]])),
            (
                json!({"clusterIP": "None", "clusterIPs": ["None"]}),
                json!(["RequireDualStack", ["IPv4", "IPv6"]]),
            ),
            (
                json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}}),
                json!(["SingleStack", ["IPv4"]]),
            ),
            (json!({"type": "ExternalName"}), json!([null, null])),
        ] {
            assert_eq!(settled(spec.clone(), None), (want, vec![]), "{spec}");
        }
    }

    #[test]
    fn a_second_family_is_refused() {
        for (spec, want) in [
            (json!({"ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured"),
            (json!({"ipFamilyPolicy": ""}), "spec.ipFamilyPolicy: Unsupported value: \"\""),
            (json!({"ipFamilyPolicy": "RequireDualStack"}), "this cluster is not configured for dual-stack"),
            (
                json!({"ipFamilies": ["IPv4", "IPv6"]}),
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple",
            ),
            (
                json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"]}),
                "IPv6 is not configured on this cluster",
            ),
        ] {
            let errors = settled(spec, None).1;
            assert!(errors.len() == 1 && errors[0].contains(want), "{errors:?}");
        }
        let old = json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack"});
        let mut new = old.clone();
        new["ipFamilyPolicy"] = json!("SingleStack");
        assert_eq!(settled(new, Some(old)).0, json!(["SingleStack", ["IPv4"]]));
    }

    #[test]
    fn who_begins_to_prefer_two_families_is_looked_at_anew() {
        let prefers = json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"});
        let named = json!({"type": "ExternalName", "externalName": "a.example"});
        assert_eq!(settled(prefers.clone(), Some(named)).0, json!(["PreferDualStack", ["IPv4"]]));
        let single = json!({"type": "ClusterIP", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv6"]});
        let mut to = single.clone();
        to["ipFamilyPolicy"] = json!("PreferDualStack");
        let errors = settled(to.clone(), Some(single)).1;
        assert!(errors.len() == 1 && errors[0].contains("not configured on this cluster"), "{errors:?}");
        // Whoever preferred them before keeps what there was.
        assert_eq!(settled(to.clone(), Some(to)), (json!(["PreferDualStack", ["IPv6"]]), vec![]));
    }
}
