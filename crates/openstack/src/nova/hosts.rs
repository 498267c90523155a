//! `os-hosts`, which Nova gave up with microversion 2.43 for hypervisors and services: nodes once more, and the host that schedules.

use axum::extract::Path;
use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Node;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::compute::VirtualMachine;

use super::actions::admin_only;
use super::{nodes, placing};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::microversion::Microversion;
use crate::versions::ok;

/// Nova's zone of what runs no servers.
const INTERNAL: &str = "internal";
/// The version since which there are none of these paths.
const ENDED: Microversion = Microversion(43);

fn allowed(session: &Session, version: Microversion, policy: &str) -> Result<(), Fault> {
    if version >= ENDED {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    admin_only(session, policy)
}

async fn find(session: &Session, name: &str) -> Result<Node, Fault> {
    let found = session.global::<Node>().get_opt(name).await?;
    found.ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, format!("Compute host {name} could not be found.")))
}

/// `GET /os-hosts`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    allowed(&session, version, "os_compute_api:os-hosts:list")?;
    let all = ids::list(&session.global::<Node>()).await?;
    let zone = params.get("zone").filter(|zone| !zone.is_empty());
    let wanted = |node: &&Node| zone.is_none_or(|zone| zone == placing::zone_of(node));
    let view = |node: &Node| json!({"host_name": ids::name(node), "service": "compute", "zone": placing::zone_of(node)});
    let mut hosts: Vec<Value> = all.iter().filter(wanted).map(view).collect();
    if zone.is_none_or(|zone| zone == INTERNAL) {
        hosts.push(json!({"host_name": nodes::own_host(), "service": "scheduler", "zone": INTERNAL}));
    }
    Ok(ok(&json!({"hosts": hosts})))
}

/// `GET /os-hosts/{name}`: what the node has, what of it is used now, and what servers were promised.
pub(super) async fn show(session: Session, version: Microversion, Path(name): Path<String>) -> Answer {
    allowed(&session, version, "os_compute_api:os-hosts:show")?;
    let node = find(&session, &name).await?;
    let machines = ids::list(&session.everywhere::<VirtualMachine>()).await?;
    let here = machines.iter().filter(|vm| vm.spec.node_name.as_deref() == Some(name.as_str()));
    let (cpu, memory, disk) =
        here.filter_map(|vm| vm.spec.resources.as_ref()).fold((0, 0, 0), |sum, size| {
            (
                sum.0 + i64::from(size.vcpus),
                sum.1 + i64::from(size.memory_mib),
                sum.2 + i64::from(size.disk_gib),
            )
        });
    let resource = |project: &str, cpu: i64, memory: i64, disk: i64| json!({"resource": {"host": name, "project": project, "cpu": cpu, "memory_mb": memory, "disk_gb": disk}});
    let (cpus, memories) = (nodes::quantity(&node, "cpu", 1), nodes::quantity(&node, "memory", 1 << 20));
    let total = resource("(total)", cpus, memories, nodes::quantity(&node, "ephemeral-storage", 1 << 30));
    let used = ["(used_now)", "(used_max)"].map(|word| resource(word, cpu, memory, disk));
    let all: Vec<Value> = [total].into_iter().chain(used).collect();
    Ok(ok(&json!({"host": all})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    maintenance_mode: Option<String>,
}

/// `PUT /os-hosts/{name}`: lets the scheduler use a node, or not.
pub(super) async fn update(
    session: Session,
    version: Microversion,
    Path(name): Path<String>,
    Json(body): Json<Body>,
) -> Answer {
    allowed(&session, version, "os_compute_api:os-hosts:update")?;
    let read = |field: &str, given: Option<&str>| match given.map(str::to_ascii_lowercase).as_deref() {
        None => Ok(None),
        Some("enable") => Ok(Some(true)),
        Some("disable") => Ok(Some(false)),
        Some(other) => Err(Fault::bad(format!(
            "Invalid input for field/attribute {field}. {other} is neither enable nor disable."
        ))),
    };
    let status = read("status", body.status.as_deref())?;
    let maintenance = read("maintenance_mode", body.maintenance_mode.as_deref())?;
    if status.is_none() && maintenance.is_none() {
        return Err(Fault::bad(
            "Invalid input for field/attribute body. It has a status or a maintenance_mode.",
        ));
    }
    find(&session, &name).await?;
    if maintenance.is_some() {
        return Err(Fault::unsupported(
            "Nodes have no maintenance mode: disable the host, and move its servers.",
        ));
    }
    let on = status.unwrap_or_default();
    nodes::enable(&session, &name, on, None).await?;
    Ok(ok(&json!({"host": name, "status": if on { "enabled" } else { "disabled" }})))
}

/// `GET /os-hosts/{name}/{startup,shutdown,reboot}`: nobody switches nodes here, as with Nova's libvirt driver.
pub(super) async fn power(
    session: Session,
    version: Microversion,
    Path((name, word)): Path<(String, String)>,
) -> Answer {
    if !matches!(word.as_str(), "startup" | "shutdown" | "reboot") {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    allowed(&session, version, &format!("os_compute_api:os-hosts:{word}"))?;
    find(&session, &name).await?;
    Err(Fault::unsupported("Nodes are not switched on and off through this service."))
}
