//! Services: the virtual address is chosen from the service range when the Service is made.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Value, json};
use yunfan_objects::FieldError;

use super::claims::cluster_ip;
use super::{Attempt, Operation, Refusal, View};

/// Addresses looked at before the range is called full.
const MAX_TRIES: u32 = 65_536;

pub(super) fn admit(view: &View<'_>, attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
    if !attempt.is("", "services")
        || attempt.operation == Operation::Delete
        || !attempt.subresource.is_empty()
    {
        return Ok(());
    }
    if attempt.object["spec"]["type"] == "ExternalName" {
        if let Some(spec) = attempt.object["spec"].as_object_mut() {
            spec.retain(|key, _| !matches!(key.as_str(), "clusterIP" | "clusterIPs"));
        }
        return Ok(());
    }
    let given = attempt.object["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned();
    let before = attempt.old.and_then(|old| old["spec"]["clusterIP"].as_str()).unwrap_or_default();
    let ip = match given.as_str() {
        "" if !before.is_empty() => before.to_owned(),
        "" => choose(view, attempt)?,
        "None" => given,
        _ if given == before => given,
        // What is no address is refused with all else that is wrong.
        _ if given.parse::<IpAddr>().is_err() => given,
        _ => check(view, attempt, given)?,
    };
    let Some(spec) = attempt.object.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
    spec.insert("clusterIP".to_owned(), json!(ip));
    spec.insert("clusterIPs".to_owned(), json!([ip]));
    spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
    spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
    Ok(())
}

fn check(view: &View<'_>, attempt: &Attempt<'_>, given: String) -> Result<String, Refusal> {
    let range = view.config.service_cidr;
    let inside = given
        .parse::<Ipv4Addr>()
        .is_ok_and(|ip| range.contains(&ip) && ip != range.network() && ip != range.broadcast());
    if inside {
        return Ok(given);
    }
    let why = format!(
        "failed to allocate IP {given}: the provided IP is not in the valid range. The range of valid IPs is {range}"
    );
    Err(attempt.invalid(FieldError::invalid("spec.clusterIPs", json!([given]), why)))
}

/// A free address. The search begins at a place that depends on the uid, so that many who ask at
/// one time seldom want the same address.
fn choose(view: &View<'_>, attempt: &Attempt<'_>) -> Result<String, Refusal> {
    let range = view.config.service_cidr;
    let first = u32::from(range.network());
    let size = u32::from(range.broadcast()) - first;
    let uid = attempt.object["metadata"]["uid"].as_str().unwrap_or_default();
    let seed =
        uid.bytes().fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    for step in 0..size.min(MAX_TRIES) {
        let offset = 1 + (u64::from(seed) + u64::from(step)) % u64::from(size.max(2) - 1);
        // The offset is below the range's size, which is below 2^32.
        let ip = Ipv4Addr::from(first + offset as u32);
        let reserved = ip == view.config.cluster_dns_ip || offset == 1;
        if !reserved && !view.cache.claims().is_held(&cluster_ip(&ip.to_string())) {
            return Ok(ip.to_string());
        }
    }
    Err(attempt.invalid(FieldError::invalid("spec.clusterIP", "", format!("no address of {range} is free"))))
}
