//! Single ports of FloatingIps that lead to Ports.
//!
//! What comes to an outer port goes to one place: that is within one object. That no two outer ports lead to one inner one is Neutron's
//! rule, and looked up: two that are written at one moment may, which takes nothing from anybody.

use serde_json::{Value, json};
use yunfan_objects::FieldError;
use yunfan_resources::network::PortForwarding;

use super::GROUP;
use crate::admission::{Attempt, Refusal, View, WritePlan};
use crate::keys;

fn of(object: &Value) -> Option<Vec<PortForwarding>> {
    serde_json::from_value(object["spec"].get("forwardings").cloned().unwrap_or_else(|| json!([]))).ok()
}

/// Each makes sense, has an id and an address of a Port that is there, and meets no other.
pub(super) fn check(view: &View<'_>, attempt: &mut Attempt<'_>, plan: &mut WritePlan) -> Result<(), Refusal> {
    // What the schema refuses is told by its own words later.
    let Some(mut all) = of(attempt.object).filter(|all| !all.is_empty()) else { return Ok(()) };
    if attempt.object["spec"]["port"].as_str().is_some_and(|port| !port.is_empty()) {
        return Err(attempt.conflict("an address that stands for a Port as a whole has no forwardings"));
    }
    let before = attempt.old.and_then(of).unwrap_or_default();
    for index in 0..all.len() {
        let (done, rest) = all.split_at_mut(index);
        let wrong = |field: &str, value: Value, why: String| {
            attempt.invalid(FieldError::invalid(format!("spec.forwardings[{index}]{field}"), value, why))
        };
        // There is one: the index is within the list.
        let Some((it, later)) = rest.split_first_mut() else { return Ok(()) };
        it.check().map_err(|why| wrong("", json!(it), why))?;
        if let Some(at) = done.iter().position(|other| other.takes_from(it)) {
            return Err(wrong(
                ".outer",
                json!(it.outer),
                format!("forwardings[{at}] has such ports already"),
            ));
        }
        if it.id.as_ref().is_none_or(|id| id.is_empty() || done.iter().any(|other| other.id == it.id)) {
            it.id = Some(uuid::Uuid::new_v4().to_string());
        }
        if before.contains(it) {
            continue;
        }
        let port = view.get(GROUP, "ports", attempt.namespace, &it.port);
        let Some(port) = port else {
            return Err(wrong(".port", json!(it.port), "no such Port in the namespace".to_owned()));
        };
        let own = port.value()["spec"]["fixedIps"].as_array().into_iter().flatten();
        // Outer addresses are of IPv4, and lead to such.
        let own = own.filter_map(|fixed| fixed["ip"].as_str());
        let mut own = own.filter(|ip| ip.parse::<std::net::Ipv4Addr>().is_ok());
        let wanted = it.fixed_ip.as_deref().filter(|ip| !ip.is_empty());
        let fixed = own.find(|ip| wanted.is_none_or(|wanted| wanted == *ip)).map(str::to_owned);
        let Some(fixed) = fixed else {
            return Err(wrong(".fixedIp", json!(it.fixed_ip), "is no address of the Port".to_owned()));
        };
        it.fixed_ip = Some(fixed);
        let elsewhere = view.list(GROUP, "floatingips", attempt.namespace);
        let elsewhere = elsewhere.iter().filter(|other| other.value()["metadata"]["name"] != attempt.name);
        let mut others = elsewhere.filter_map(|other| of(other.value())).flatten();
        if done.iter().chain(&*later).any(|other| other.leads_as(it))
            || others.any(|other| other.leads_as(it))
        {
            let why = "another forwarding leads to such ports of the Port already".to_owned();
            return Err(wrong(".inner", json!(it.inner), why));
        }
        plan.exists(keys::object_key(&keys::kind_prefix(GROUP, "ports"), attempt.namespace, &it.port));
    }
    attempt.object["spec"]["forwardings"] = json!(all);
    Ok(())
}
