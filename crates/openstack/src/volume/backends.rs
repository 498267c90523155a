//! What keeps volumes: the nodes, each with its one driver, as Cinder's services, hosts, pools and capabilities.

use axum::extract::Path;
use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::storage::{CAPABILITIES, Volume};

use super::type_specs::admin_only;
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::nova::{heard_of, is_ready, is_schedulable, own_host, quantity};
use crate::versions::ok;
use crate::zone::ZONE;
use crate::{ids, stamp};

/// What Cinder calls the service that keeps volumes.
const BINARY: &str = "cinder-volume";

/// A node's driver, as Cinder names it: `HOST@BACKEND`.
pub(super) fn host(node: &str) -> String {
    format!("{node}@local")
}

async fn nodes(session: &Session) -> Result<Vec<Node>, Fault> {
    ids::list(&session.global::<Node>()).await
}

/// When a node was heard of last; when it was made where it never was.
fn heard(node: &Node) -> String {
    heard_of(node).unwrap_or_else(|| stamp::micros_bare(stamp::created(node)))
}

fn service(version: Microversion, node: &Node) -> Value {
    let mut view = json!({
        "binary": BINARY, "host": host(ids::name(node)), "zone": ZONE, "disabled_reason": null,
        "status": if is_schedulable(node) { "enabled" } else { "disabled" },
        "state": if is_ready(node) { "up" } else { "down" }, "updated_at": heard(node),
        "frozen": false, "replication_status": "disabled", "active_backend_id": null,
    });
    if version >= Microversion(49) {
        view["backend_state"] = view["state"].clone();
    }
    view
}

/// `GET /os-services`
pub(super) async fn services(session: Session, version: Microversion, params: Params) -> Answer {
    admin_only(&session, "volume_extension:services:index")?;
    let nodes = nodes(&session).await?;
    let wanted = |node: &&Node| {
        let name = ids::name(*node);
        params.get("host").is_none_or(|wanted| wanted == name || wanted == host(name))
            && params.get("binary").or(params.get("service")).is_none_or(|wanted| wanted == BINARY)
    };
    let views: Vec<Value> = nodes.iter().filter(wanted).map(|node| service(version, node)).collect();
    Ok(ok(&json!({"services": views})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceBody {
    host: String,
    #[serde(default, alias = "service")]
    binary: Option<String>,
    #[serde(default)]
    disabled_reason: Option<String>,
}

/// `PUT /os-services/{verb}`: a node is taken out of service as a whole, by Nova's services; not its volumes alone.
pub(super) async fn put_service(
    session: Session,
    Path(verb): Path<String>,
    Json(body): Json<ServiceBody>,
) -> Answer {
    admin_only(&session, "volume_extension:services:update")?;
    let known = nodes(&session).await?.iter().any(|node| {
        let name = ids::name(node);
        body.host == name || body.host == host(name)
    });
    let missing = || Fault::new(StatusCode::NOT_FOUND, format!("Service {} could not be found.", body.host));
    match verb.as_str() {
        "freeze" | "thaw" | "failover_host" | "failover" if !known => {
            return Err(Fault::bad(format!("There is no backend on host {}.", body.host)));
        }
        "freeze" | "thaw" | "failover_host" | "failover" => {}
        "disable-log-reason" if body.disabled_reason.as_deref().is_none_or(|why| why.trim().is_empty()) => {
            return Err(Fault::bad(
                "Invalid input for field/attribute disabled_reason. It has 1 to 255 characters.",
            ));
        }
        "enable" | "disable" | "disable-log-reason" => {
            if !known || body.binary.as_deref() != Some(BINARY) {
                return Err(missing());
            }
        }
        _ => return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found.")),
    }
    Err(Fault::unsupported(
        "A node's volumes are not taken out of service by themselves: disable its nova-compute service.",
    ))
}

/// `GET /os-hosts`
pub(super) async fn hosts(session: Session) -> Answer {
    admin_only(&session, "volume_extension:hosts")?;
    let view = |node: &Node| {
        json!({
            "host_name": host(ids::name(node)), "service": BINARY, "zone": ZONE, "last-update": heard(node),
            "service-status": if is_ready(node) { "available" } else { "unavailable" },
            "service-state": if is_schedulable(node) { "enabled" } else { "disabled" },
        })
    };
    let mut hosts: Vec<Value> = nodes(&session).await?.iter().map(view).collect();
    // The scheduler is a part of this process.
    hosts.push(json!({
        "host_name": own_host(), "service": "cinder-scheduler", "zone": ZONE, "service-status": "available",
        "service-state": "enabled", "last-update": stamp::micros_bare(Timestamp::now()),
    }));
    Ok(ok(&json!({"hosts": hosts})))
}

/// The node that a host's or a pool's name is of: `NODE`, `NODE@local` or `NODE@local#local`.
async fn node_of(session: &Session, name: &str) -> Result<Node, Fault> {
    let backend = name.split('#').next().unwrap_or_default();
    let all = nodes(session).await?;
    let found = all.into_iter().find(|node| ids::name(node) == backend || host(ids::name(node)) == backend);
    found.ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, format!("Host {name} could not be found.")))
}

/// `GET /os-hosts/{host}`: what lies on a node, all projects together.
pub(super) async fn show_host(session: Session, Path(name): Path<String>) -> Answer {
    admin_only(&session, "volume_extension:hosts")?;
    let node = node_of(&session, &name).await?;
    let volumes = ids::list(&session.everywhere::<Volume>()).await?;
    let here: Vec<u32> = on(&volumes, &node).collect();
    let snapshots = ids::list(&session.everywhere::<yunfan_resources::storage::VolumeSnapshot>()).await?;
    let taken: Vec<u32> = snapshots
        .iter()
        .filter(|one| one.spec.node_name.as_deref() == Some(ids::name(&node)))
        .map(|one| one.spec.size_gib.unwrap_or_default())
        .collect();
    let resource = json!({
        "host": host(ids::name(&node)), "project": "(total)", "volume_count": here.len().to_string(),
        "total_volume_gb": here.iter().sum::<u32>().to_string(), "snapshot_count": taken.len().to_string(),
        "total_snapshot_gb": taken.iter().sum::<u32>().to_string(),
    });
    Ok(ok(&json!({"host": [{"resource": resource}]})))
}

/// The sizes of the volumes that lie on a node, GiB.
fn on<'a>(volumes: &'a [Volume], node: &'a Node) -> impl Iterator<Item = u32> + 'a {
    let here = |volume: &&Volume| volume.spec.node_name.as_deref() == Some(ids::name(node));
    volumes.iter().filter(here).map(|volume| volume.spec.size_gib)
}

/// `GET /scheduler-stats/get_pools`
pub(super) async fn pools(session: Session, params: Params) -> Answer {
    admin_only(&session, "scheduler_extension:scheduler_stats:get_pools")?;
    let detail = params.flag("detail")? == Some(true);
    let volumes = if detail { ids::list(&session.everywhere::<Volume>()).await? } else { Vec::new() };
    let view = |node: &Node| {
        let mut view = json!({"name": format!("{}#local", host(ids::name(node)))});
        if detail {
            let total = quantity(node, "ephemeral-storage", 1 << 30);
            let given: i64 = on(&volumes, node).map(i64::from).sum();
            let mut capabilities: Map<String, Value> =
                CAPABILITIES.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
            let more = json!({
                "multiattach": false, "QoS_support": false, "reserved_percentage": 0, "timestamp": heard(node),
                "total_capacity_gb": total, "free_capacity_gb": (total - given).max(0), "allocated_capacity_gb": given,
                "thin_provisioning_support": true, "pool_name": "local", "location_info": ids::name(node),
            });
            capabilities.extend(more.as_object().cloned().unwrap_or_default());
            view["capabilities"] = json!(capabilities);
        }
        view
    };
    Ok(ok(&json!({"pools": nodes(&session).await?.iter().map(view).collect::<Vec<Value>>()})))
}

/// `GET /capabilities/{host}`: every node's driver has the same.
pub(super) async fn capabilities(session: Session, Path(name): Path<String>) -> Answer {
    admin_only(&session, "volume_extension:capabilities")?;
    let node = node_of(&session, &name).await?;
    let of = |key: &str| CAPABILITIES.iter().find(|(known, _)| *known == key).map(|(_, value)| *value);
    let body = json!({
        "namespace": format!("OS::Storage::Capabilities::{}", host(ids::name(&node))),
        "vendor_name": of("vendor_name"), "volume_backend_name": of("volume_backend_name"), "pool_name": null,
        "driver_version": of("driver_version"), "storage_protocol": of("storage_protocol"), "display_name": null,
        "description": null, "visibility": null, "replication_targets": [], "properties": {},
    });
    Ok(ok(&body))
}
