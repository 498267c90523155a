//! What operators look at: which nodes there are, and what serves networks on them.

use axum::extract::Path;
use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::view::{collection, with_fields};
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault};
use crate::versions::ok;
use crate::zone::ZONE;
use crate::{ids, nova, stamp};

/// A node's one agent, which makes its networks, routers, rules, DHCP and metadata.
fn view(node: &Node) -> Value {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.and_then(|all| all.iter().find(|it| it.type_ == "Ready"));
    let time = |at| stamp::seconds(at).replace('T', " ").trim_end_matches('Z').to_owned();
    let created = time(stamp::created(node));
    let heard =
        ready.and_then(|it| it.last_heartbeat_time.as_ref()).map_or_else(|| created.clone(), |at| time(at.0));
    json!({
        "id": node.metadata.uid, "agent_type": "Yunfan agent", "binary": "yunfan-agent", "topic": "N/A",
        "host": ids::name(node), "admin_state_up": true, "alive": nova::is_ready(node), "availability_zone": null,
        "configurations": {}, "description": null, "resources_synced": null, "created_at": created,
        "started_at": created, "heartbeat_timestamp": heard,
    })
}

/// The nodes, as far as the caller may see them: for others than administrators there are none, as in Neutron.
async fn nodes(session: &Session) -> Result<Vec<Node>, Fault> {
    match ids::list(&session.global::<Node>()).await {
        Err(fault) if fault.status == StatusCode::FORBIDDEN => Ok(Vec::new()),
        found => found,
    }
}

/// `GET /agents`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let views = nodes(&session).await?.iter().map(view).collect();
    collection(&session, &params, "agents", views)
}

/// `GET /agents/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let all = nodes(&session).await?;
    let node = all.iter().find(|node| node.metadata.uid.as_deref() == Some(&id));
    let node = node.ok_or_else(|| Fault::not_found("Agent", &id).named("AgentNotFound"))?;
    Ok(ok(&json!({"agent": with_fields(&params, view(node))})))
}

/// `DELETE /agents/{id}`: an agent is a node, which is removed as one.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let all = nodes(&session).await?;
    if !all.iter().any(|node| node.metadata.uid.as_deref() == Some(&id)) {
        return Err(Fault::not_found("Agent", &id).named("AgentNotFound"));
    }
    let text = format!("Agent {id} is a node of the cloud: remove that (kubectl delete node).");
    Err(Fault::conflict(text).named("AgentInUse"))
}

/// `GET /availability_zones`: networks and routers are on every node, so there is one zone of each.
pub(super) async fn zones(_: Session, params: Params) -> Answer {
    let mut views = ["network", "router"]
        .map(|resource| json!({"name": ZONE, "resource": resource, "state": "available"}))
        .to_vec();
    views.retain(|view| {
        let is = |key: &str| params.get(key).is_none_or(|wanted| view[key] == wanted);
        is("name") && is("resource") && is("state")
    });
    Ok(ok(&json!({"availability_zones": views})))
}

/// `GET /service-providers`: nothing has several to choose from.
pub(super) async fn providers(_: Session) -> Answer {
    Ok(ok(&json!({"service_providers": []})))
}
