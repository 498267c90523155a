//! The addresses of Services as objects: ServiceCIDRs say which ranges they come from, and an IPAddress stands for each that is
//! given, made and deleted in the very transaction that claims and frees the address.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_objects::patch::apply;
use yunfan_objects::{ApiError, codec, meta};
use yunfan_resources::addresses::{DEFAULT_RANGE, FAMILY, GROUP, MANAGED_BY, MANAGER};

use super::claims::cluster_ip;
use super::{Attempt, View, WritePlan};
use crate::keys;

const RANGES: &str = "servicecidrs";
const ADDRESSES: &str = "ipaddresses";

/// The ranges that addresses are taken from now, the cloud's own first. What nodes do not serve is none of them.
pub(super) fn ranges(view: &View<'_>) -> Vec<IpNet> {
    let served = view.config.service_cidrs();
    let is_served = |cidr: &IpNet| served.iter().any(|range| range.contains(cidr));
    let mut found: Vec<(bool, IpNet)> = Vec::new();
    for entry in view.list(GROUP, RANGES, "") {
        let range = entry.decode_stored();
        if !is_open(&range) {
            continue;
        }
        let further = range["metadata"]["name"] != DEFAULT_RANGE;
        let cidrs = range["spec"]["cidrs"].as_array().into_iter().flatten();
        let cidrs = cidrs.filter_map(|cidr| cidr.as_str()?.parse().ok());
        found.extend(cidrs.filter(is_served).map(|cidr| (further, cidr)));
    }
    found.sort_unstable();
    found.into_iter().map(|(_, cidr)| cidr).collect()
}

/// Whether a ServiceCIDR gives addresses: it stays, and nobody said that it is not ready.
fn is_open(range: &Value) -> bool {
    let mut conditions = range["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.find(|condition| condition["type"] == "Ready");
    range["metadata"]["deletionTimestamp"].is_null() && ready.is_none_or(|ready| ready["status"] == "True")
}

/// Whether somebody has the address: a Service, or an IPAddress that was made by hand.
pub(super) fn is_taken(view: &View<'_>, ip: &str) -> bool {
    view.cache.claims().is_held(&cluster_ip(ip)) || view.get(GROUP, ADDRESSES, "", ip).is_some()
}

/// Whether a range gives this address: its first one is the network's own, and the last one of IPv4 is for broadcasts.
pub(super) fn gives(range: &IpNet, ip: IpAddr) -> bool {
    range.contains(&ip) && ip != range.network() && (ip.is_ipv6() || ip != range.broadcast())
}

/// Makes the IPAddress of a Service.
pub(super) fn give(
    view: &View<'_>,
    attempt: &Attempt<'_>,
    ip: &str,
    plan: &mut WritePlan,
) -> Result<(), ApiError> {
    let table = view.kinds.table();
    let Some(kind) = table.get(GROUP, "v1", ADDRESSES) else {
        return Err(ApiError::internal("the kind IPAddress is not served"));
    };
    let api_version = kind.descriptor.api_version();
    let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
    let mut object = json!({
        "apiVersion": api_version, "kind": "IPAddress",
        "metadata": {"name": ip, "labels": {FAMILY: family, MANAGED_BY: MANAGER}},
        "spec": {"parentRef": {"resource": "services", "namespace": attempt.namespace, "name": attempt.name}},
    });
    let now = Timestamp::now();
    meta::fill_new(&mut object, None, now)?;
    let who = apply::Writer { manager: "yunfan", subresource: "", api_version: &api_version, now };
    apply::track_update(None, &mut object, &who, &kind.descriptor.schema);
    let key = kind.key("", ip);
    plan.unchanged(key.as_str(), 0);
    plan.put(key, codec::encode(&object));
    Ok(())
}

/// Deletes the IPAddress of a Service, if it is there.
pub(super) fn take_back(view: &View<'_>, ip: &str, plan: &mut WritePlan) {
    if view.get(GROUP, ADDRESSES, "", ip).is_some() {
        plan.free(keys::object_key(&keys::kind_prefix(GROUP, ADDRESSES), "", ip));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_open_until_it_is_said_not_to_be() {
        let range = |status: &str, deletion: Value| {
            json!({"metadata": {"deletionTimestamp": deletion},
                "status": {"conditions": [{"type": "Other", "status": "False"}, {"type": "Ready", "status": status}]}})
        };
        assert!(is_open(&json!({})));
        assert!(is_open(&range("True", Value::Null)));
        assert!(!is_open(&range("False", Value::Null)));
        assert!(!is_open(&range("Unknown", Value::Null)));
        assert!(!is_open(&range("True", json!("2026-01-02T03:04:05Z"))));
    }
}
