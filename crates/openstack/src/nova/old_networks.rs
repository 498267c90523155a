//! `/os-networks` and `/os-tenant-networks`: Nova's words for Neutron's networks. They are made and changed by Neutron alone.

use axum::extract::Path;
use serde_json::{Value, json};

use super::neutron::{Old, entries, plain};
use crate::auth::Session;
use crate::error::Answer;
use crate::versions::ok;

/// What Nova's own networks had beside a name and an id; Neutron's have none of it.
const NOTHING: [&str; 27] = [
    "bridge",
    "bridge_interface",
    "broadcast",
    "cidr",
    "cidr_v6",
    "created_at",
    "deleted",
    "deleted_at",
    "dhcp_server",
    "dhcp_start",
    "dns1",
    "dns2",
    "enable_dhcp",
    "gateway",
    "gateway_v6",
    "host",
    "injected",
    "multi_host",
    "netmask",
    "netmask_v6",
    "priority",
    "project_id",
    "rxtx_base",
    "share_address",
    "updated_at",
    "vlan",
    "vpn_public_address",
];

fn view(network: &Value) -> Value {
    let mut view = json!({"id": network["id"], "label": network["name"], "mtu": network["mtu"]});
    NOTHING.iter().for_each(|member| view[*member] = Value::Null);
    view
}

/// Nova's text for the range of a network that may have several.
fn own_view(network: &Value) -> Value {
    json!({"id": network["id"], "label": network["name"], "cidr": "None"})
}

/// `GET /os-networks`: those of the project and external ones.
pub(super) async fn list(Old(neutron): Old) -> Answer {
    let told = neutron.get("/networks").await?;
    let views: Vec<Value> = entries(&told, "networks").map(view).collect();
    Ok(ok(&json!({"networks": views})))
}

/// `GET /os-networks/{id}`
pub(super) async fn show(Old(neutron): Old, Path(id): Path<String>) -> Answer {
    let told = neutron.get(&format!("/networks/{}", plain("Network", &id)?)).await?;
    Ok(ok(&json!({"network": view(&told["network"])})))
}

/// `GET /os-tenant-networks`
pub(super) async fn list_own(Old(neutron): Old, session: Session) -> Answer {
    let told = neutron.get("/networks").await?;
    let own = entries(&told, "networks").filter(|network| network["project_id"] == session.project_id());
    Ok(ok(&json!({"networks": own.map(own_view).collect::<Vec<_>>()})))
}

/// `GET /os-tenant-networks/{id}`
pub(super) async fn show_own(Old(neutron): Old, Path(id): Path<String>) -> Answer {
    let told = neutron.get(&format!("/networks/{}", plain("Network", &id)?)).await?;
    Ok(ok(&json!({"network": own_view(&told["network"])})))
}
