//! Which families of addresses a Service has. A cloud has IPv4, and IPv6 where it has a range of it for Services; what asks for more than
//! there is is refused in Kubernetes' words for such a cluster.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::Object;
use crate::builtin::services::{changes, rules};
use crate::error::FieldError;
use crate::lookup::{entries, list, remove, text};

/// The family that every cloud has, which is the first of those that have both.
const FIRST: &str = "IPv4";
/// The family of clouds that have both.
const SECOND: &str = "IPv6";
const POLICY: &str = "spec.ipFamilyPolicy";

/// Completes a new Service, or one that is changed from `old`, before anything is chosen for it: what was allocated stays, what its type no
/// longer needs goes, its families are filled in. Says what is wrong with those and with the addresses asked for; a Service with errors
/// must not be given an address. Nobody owns the fields that this changes, so it comes after ownership was worked out. `dual` tells whether
/// the cloud has addresses of IPv6 for Services.
pub fn settle_service(service: &mut Object, old: Option<&Object>, dual: bool) -> Vec<FieldError> {
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
    errors.extend(infer(service, dual));
    if errors.is_empty() {
        errors = families(service, dual);
    }
    errors
}

fn is_served(family: &str, dual: bool) -> bool {
    family == FIRST || (dual && family == SECOND)
}

fn other_than(family: &Value) -> &'static str {
    if family == FIRST { SECOND } else { FIRST }
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
fn infer(service: &mut Object, dual: bool) -> Vec<FieldError> {
    let ips = list(service, &["spec", "clusterIPs"]).to_vec();
    let mut families = list(service, &["spec", "ipFamilies"]).to_vec();
    let mut errors = Vec::new();
    for (index, ip) in ips.iter().enumerate() {
        let Some(ip) = ip.as_str().and_then(|ip| ip.parse::<IpAddr>().ok()) else { break };
        if index < families.len() {
            continue;
        }
        let family = if ip.is_ipv4() { FIRST } else { SECOND };
        if is_served(family, dual) {
            families.push(json!(family));
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

fn families(service: &mut Object, dual: bool) -> Vec<FieldError> {
    let mut families = list(service, &["spec", "ipFamilies"]).to_vec();
    let anyones = is_anyones(service);
    if !anyones {
        let mut errors = Vec::new();
        if policy(service) == "RequireDualStack" && !dual {
            let why = "this cluster is not configured for dual-stack services";
            errors.push(FieldError::invalid(POLICY, policy(service), why));
        }
        let served = |family: &Value| family.as_str().is_some_and(|family| is_served(family, dual));
        for (index, family) in families.iter().enumerate().filter(|(_, family)| !served(family)) {
            let field = format!("spec.ipFamilies[{index}]");
            errors.push(FieldError::invalid(field, family.clone(), "not configured on this cluster"));
        }
        if !errors.is_empty() {
            return errors;
        }
    }
    if families.is_empty() {
        families.push(json!(FIRST));
    }
    if families.len() < 2 && policy(service) != "SingleStack" && (anyones || dual) {
        families.push(json!(other_than(&families[0])));
    }
    service["spec"]["ipFamilies"] = Value::Array(families);
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(spec: Value, old: Option<Value>) -> (Value, Vec<String>) {
        settled_on(spec, old, false)
    }

    fn settled_on(spec: Value, old: Option<Value>, dual: bool) -> (Value, Vec<String>) {
        let mut service = json!({"spec": spec});
        let old = old.map(|spec| json!({"spec": spec}));
        let errors = settle_service(&mut service, old.as_ref(), dual);
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

    #[test]
    fn a_cloud_of_both_families_gives_both() {
        let both = |policy: &str| json!([policy, ["IPv4", "IPv6"]]);
        for (spec, want) in [
            (json!({}), json!(["SingleStack", ["IPv4"]])),
            (json!({"ipFamilies": ["IPv6"]}), json!(["SingleStack", ["IPv6"]])),
            (json!({"clusterIP": "fd00::7", "clusterIPs": ["fd00::7"]}), json!(["SingleStack", ["IPv6"]])),
            (json!({"ipFamilyPolicy": "PreferDualStack"}), both("PreferDualStack")),
            (json!({"ipFamilyPolicy": "RequireDualStack"}), both("RequireDualStack")),
            (
                json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6"]}),
                json!(["RequireDualStack", ["IPv6", "IPv4"]]),
            ),
            (
                json!({"ipFamilyPolicy": "PreferDualStack", "clusterIP": "None", "clusterIPs": ["None"],
                    "selector": {"a": "b"}}),
                both("PreferDualStack"),
            ),
            (json!({"type": "ExternalName"}), json!([null, null])),
        ] {
            assert_eq!(settled_on(spec.clone(), None, true), (want, vec![]), "{spec}");
        }
        let two = settled_on(json!({"ipFamilies": ["IPv4", "IPv6"]}), None, true).1;
        assert!(
            two.len() == 1 && two[0].contains("must be 'RequireDualStack' or 'PreferDualStack'"),
            "{two:?}"
        );
    }

    #[test]
    fn a_second_family_comes_and_goes_by_the_policy() {
        let one = json!({"type": "ClusterIP", "clusterIP": "10.0.0.7", "clusterIPs": ["10.0.0.7"],
            "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]});
        let mut up = one.clone();
        up["ipFamilyPolicy"] = json!("PreferDualStack");
        let want = json!(["PreferDualStack", ["IPv4", "IPv6"]]);
        assert_eq!(settled_on(up.clone(), Some(one), true), (want, vec![]));
        up["ipFamilies"] = json!(["IPv4", "IPv6"]);
        up["clusterIPs"] = json!(["10.0.0.7", "fd00::7"]);
        let mut down = up.clone();
        down["ipFamilyPolicy"] = json!("SingleStack");
        let mut service = json!({"spec": down});
        assert_eq!(settle_service(&mut service, Some(&json!({"spec": up})), true), vec![]);
        let shown = (&service["spec"]["clusterIPs"], &service["spec"]["ipFamilies"]);
        assert_eq!(shown, (&json!(["10.0.0.7"]), &json!(["IPv4"])));
        let mut fewer = up.clone();
        fewer["clusterIPs"] = json!(["10.0.0.7"]);
        let errors = settled_on(fewer, Some(up), true).1;
        assert!(errors.len() == 1 && errors[0].contains("to release the secondary cluster IP"), "{errors:?}");
    }
}
