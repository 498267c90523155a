//! Where a new server may be placed: availability zone, host, scheduler hints, server group.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use serde_json::Value;
use yunfan_resources::compute::{ServerGroup, VmPlacement};
use yunfan_resources::names::ZONE_LABEL;

use super::actions::admin_only;
use super::request::Body;
use crate::auth::Session;
use crate::error::Fault;
use crate::ids;
use crate::zone::ZONE;

/// The zone of each node. That is no secret: everybody may list the zones.
pub(super) async fn zones(session: &Session) -> Result<HashMap<String, String>, Fault> {
    let nodes = ids::list(&Api::<Node>::all(session.door.system.clone())).await?;
    Ok(nodes.iter().map(|node| (ids::name(node).to_owned(), zone_of(node).to_owned())).collect())
}

/// The zone of a node; the default one where it has no label.
pub(super) fn zone_of(node: &Node) -> &str {
    node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL)).map_or(ZONE, String::as_str)
}

/// What a request says of the place.
pub(super) async fn of(session: &Session, body: &Body) -> Result<Option<VmPlacement>, Fault> {
    let mut placement = VmPlacement::default();
    let fields = &body.server;
    let asked = fields.availability_zone.as_deref().unwrap_or_default();
    // ZONE:HOST:NODE, of which the second and third are an administrator's.
    let mut words = asked.splitn(3, ':');
    let zone = words.next().unwrap_or_default();
    let named = words.filter(|word| !word.is_empty()).last();
    let host = named.or(fields.hypervisor_hostname.as_deref()).or(fields.host.as_deref());
    if !zone.is_empty() || host.is_some() {
        let zones = zones(session).await?;
        if !zone.is_empty() {
            if zone != ZONE && !zones.values().any(|known| known == zone) {
                return Err(Fault::bad("The requested availability zone is not available"));
            }
            placement.zone = Some(zone.to_owned());
        }
        if let Some(host) = host {
            admin_only(session, "os_compute_api:servers:create:forced_host")?;
            if !zones.contains_key(host) {
                return Err(Fault::bad(format!("Compute host {host} could not be found.")));
            }
            placement.node = Some(host.to_owned());
        }
    }
    hints(session, body.hints.as_ref(), &mut placement).await?;
    Ok((placement != VmPlacement::default()).then_some(placement))
}

fn texts(hint: &str, value: &Value) -> Result<Vec<String>, Fault> {
    let wrong =
        || Fault::bad(format!("Invalid input for field/attribute {hint}. It is an id or a list of ids."));
    match value {
        Value::String(text) => Ok(vec![text.clone()]),
        Value::Array(all) if all.len() <= 100 => {
            all.iter().map(|one| one.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
        }
        _ => Err(wrong()),
    }
}

/// Clients send lists of one where one is meant.
fn text(hint: &str, value: &Value) -> Result<String, Fault> {
    texts(hint, value)?
        .into_iter()
        .next()
        .ok_or_else(|| Fault::bad(format!("Invalid input for field/attribute {hint}. [] is too short")))
}

async fn hints(session: &Session, hints: Option<&Value>, placement: &mut VmPlacement) -> Result<(), Fault> {
    let Some(hints) = hints.filter(|hints| !hints.is_null()) else { return Ok(()) };
    let hints = hints.as_object().ok_or_else(|| {
        Fault::bad("Invalid input for field/attribute os:scheduler_hints. It must be an object.")
    })?;
    let mut near = None;
    let mut width = "/24".to_owned();
    for (hint, value) in hints {
        match hint.as_str() {
            "group" => group(session, &text(hint, value)?, placement).await?,
            "different_host" => placement.different_node = texts(hint, value)?,
            "same_host" => placement.same_node = texts(hint, value)?,
            "build_near_host_ip" => near = Some(text(hint, value)?),
            "cidr" => width = text(hint, value)?,
            other => {
                return Err(Fault::bad(format!(
                    "The scheduler hint {other} is not supported: no filter here looks at it."
                )));
            }
        }
    }
    if let Some(near) = near {
        placement.node_cidr = Some(range(&near, &width)?);
    }
    Ok(())
}

fn range(near: &str, width: &str) -> Result<String, Fault> {
    let address = near.parse::<std::net::IpAddr>().ok();
    let bits = width.trim_start_matches('/').parse::<u8>().ok();
    let most = |address: &std::net::IpAddr| if address.is_ipv4() { 32 } else { 128 };
    match (address, bits) {
        (Some(address), Some(bits)) if bits <= most(&address) => Ok(format!("{address}/{bits}")),
        _ => Err(Fault::bad(format!(
            "Invalid input for field/attribute build_near_host_ip. {near}{width} is no address with a prefix length."
        ))),
    }
}

async fn group(session: &Session, id: &str, placement: &mut VmPlacement) -> Result<(), Fault> {
    if uuid::Uuid::parse_str(id).is_err() {
        return Err(Fault::bad(format!("Invalid input for field/attribute group. '{id}' is not a 'uuid'")));
    }
    let group = session.find(&session.own::<ServerGroup>()?, id).await?;
    let group = group.ok_or_else(|| Fault::bad(format!("Instance group {id} could not be found.")))?;
    placement.group = Some(ids::name(&group).to_owned());
    placement.policy = Some(group.spec.policy);
    placement.max_per_node = group.spec.max_per_node;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hints_are_one_or_many() {
        assert_eq!(texts("h", &json!("a")).unwrap(), ["a"]);
        assert_eq!(texts("h", &json!(["a", "b"])).unwrap(), ["a", "b"]);
        assert!(texts("h", &json!([1])).is_err() && text("h", &json!([])).is_err());
    }

    #[test]
    fn a_range_is_checked() {
        assert_eq!(range("10.0.0.7", "/24").unwrap(), "10.0.0.7/24");
        assert!(range("10.0.0.7", "/33").is_err() && range("here", "/24").is_err());
    }
}
