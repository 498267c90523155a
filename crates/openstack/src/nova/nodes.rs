//! Hypervisors, services and zones: what Nodes say of themselves.

use std::collections::{BTreeMap, BTreeSet};

use axum::extract::Path;
use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::names::BOOTED;

use super::actions::admin_only;
use super::placing;
use crate::auth::Session;
use crate::body::{Json, Params, parse_value};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::ok;
use crate::zone::ZONE;
use crate::{ids, stamp};

/// Whether a node's agent is there.
pub(crate) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|it| it.type_ == "Ready" && it.status == "True"))
}

/// Whether the scheduler may use a node.
pub(crate) fn is_schedulable(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true)
}

/// The name of the host that this process is on: the scheduler is a part of it, as this door is.
pub(crate) fn own_host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    Some(name.trim().to_owned()).filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".to_owned())
}

/// What Nova calls the cloud's scheduler, and the zone that it is in.
const SCHEDULER: &str = "nova-scheduler";
const INTERNAL: &str = "internal";

/// The scheduler among the services: it is there where this door is, for both are one process.
fn scheduler_view(version: Microversion, nodes: usize) -> Value {
    let host = own_host();
    let id = ids::stable_uuid(&format!("service:{SCHEDULER}:{host}"));
    let id = if version >= Microversion(53) { json!(id) } else { json!(nodes + 1) };
    let mut view = json!({
        "id": id, "binary": SCHEDULER, "host": host, "zone": INTERNAL, "status": "enabled", "state": "up",
        "updated_at": stamp::micros_bare(Timestamp::now()), "disabled_reason": null,
    });
    if version >= Microversion(11) {
        view["forced_down"] = json!(false);
    }
    view
}

/// `GET /os-availability-zone`
pub(super) async fn zones(session: Session) -> Answer {
    let mut names: BTreeSet<String> = placing::zones(&session).await?.into_values().collect();
    if names.is_empty() {
        names.insert(ZONE.to_owned());
    }
    let zone = |name: &String| json!({"zoneName": name, "zoneState": {"available": true}, "hosts": null});
    Ok(ok(&json!({"availabilityZoneInfo": names.iter().map(zone).collect::<Vec<Value>>()})))
}

/// `GET /os-availability-zone/detail`
pub(super) async fn zones_detail(session: Session) -> Answer {
    admin_only(&session, "os_compute_api:os-availability-zone:detail")?;
    let nodes = ids::list(&session.global::<Node>()).await?;
    let mut zones: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for node in &nodes {
        let service = json!({"active": is_schedulable(node), "available": is_ready(node), "updated_at": heard_of(node)});
        let hosts = zones.entry(placing::zone_of(node)).or_default();
        hosts.insert(ids::name(node).to_owned(), json!({"nova-compute": service}));
    }
    // The zone of what is no node's own, which the short list leaves out, as Nova's.
    let scheduler =
        json!({"active": true, "available": true, "updated_at": stamp::micros_bare(Timestamp::now())});
    zones.entry(INTERNAL).or_default().insert(own_host(), json!({SCHEDULER: scheduler}));
    let zone = |(name, hosts)| json!({"zoneName": name, "zoneState": {"available": true}, "hosts": hosts});
    Ok(ok(&json!({"availabilityZoneInfo": zones.into_iter().map(zone).collect::<Vec<Value>>()})))
}

/// When a node was heard of last.
pub(crate) fn heard_of(node: &Node) -> Option<String> {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let seen = conditions.and_then(|all| all.iter().find(|it| it.type_ == "Ready"));
    seen.and_then(|it| it.last_heartbeat_time.as_ref()).map(|at| stamp::micros_bare(at.0))
}

/// What a node has of a resource for others, in this unit.
pub(crate) fn quantity(node: &Node, key: &str, unit: i64) -> i64 {
    let status = node.status.as_ref();
    let all = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
    all.and_then(|all| all.get(key)).and_then(|value| crate::quota::bytes(&value.0)).unwrap_or(0) / unit
}

fn hypervisor_id(version: Microversion, node: &Node, at: usize) -> Value {
    if version >= Microversion(53) { json!(node.metadata.uid) } else { json!(at + 1) }
}

fn brief(version: Microversion, node: &Node, at: usize) -> Value {
    json!({
        "id": hypervisor_id(version, node, at), "hypervisor_hostname": ids::name(node),
        "state": if is_ready(node) { "up" } else { "down" },
        "status": if is_schedulable(node) { "enabled" } else { "disabled" },
    })
}

/// Numbers that were taken out of hypervisors with 2.88, and that their statistics add up.
const COUNTED: [&str; 11] = [
    "current_workload",
    "disk_available_least",
    "free_disk_gb",
    "free_ram_mb",
    "local_gb",
    "local_gb_used",
    "memory_mb",
    "memory_mb_used",
    "running_vms",
    "vcpus",
    "vcpus_used",
];
/// The oldest QEMU that this cloud is used with, as Nova writes versions: 7.2.0. Nodes do not tell theirs.
const VERSION: u32 = 7_002_000;

fn full(version: Microversion, node: &Node, at: usize, machines: &[VirtualMachine]) -> Value {
    let name = ids::name(node);
    let here: Vec<&VirtualMachine> =
        machines.iter().filter(|vm| vm.spec.node_name.as_deref() == Some(name)).collect();
    let sizes = || here.iter().filter_map(|vm| vm.spec.resources.as_ref());
    let (vcpus, memory) = (quantity(node, "cpu", 1), quantity(node, "memory", 1 << 20));
    let disk = quantity(node, "ephemeral-storage", 1 << 30);
    let (vcpus_used, memory_used, disk_used) = sizes().fold((0, 0, 0), |(cpu, memory, disk), size| {
        (cpu + i64::from(size.vcpus), memory + i64::from(size.memory_mib), disk + i64::from(size.disk_gib))
    });
    let address = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let address = address.and_then(|all| all.iter().find(|one| one.type_ == "InternalIP"));
    let mut view = brief(version, node, at);
    let mut more = json!({
        "host_ip": address.map(|one| one.address.clone()), "hypervisor_type": "QEMU", "hypervisor_version": VERSION,
        "vcpus": vcpus, "vcpus_used": vcpus_used, "memory_mb": memory, "memory_mb_used": memory_used,
        "free_ram_mb": memory - memory_used, "local_gb": disk, "local_gb_used": disk_used,
        "free_disk_gb": disk - disk_used, "disk_available_least": disk - disk_used, "current_workload": 0,
        "running_vms": here.len(), "cpu_info": if version >= Microversion(28) { json!({}) } else { json!("") },
        "service": {"host": name, "id": hypervisor_id(version, node, at), "disabled_reason": null},
    });
    if version >= Microversion(88)
        && let Some(more) = more.as_object_mut()
    {
        // What Placement says better.
        COUNTED.iter().chain(["cpu_info"].iter()).for_each(|member| drop(more.remove(*member)));
        more.insert("uptime".to_owned(), json!(up(node, Timestamp::now())));
    }
    if let (Some(view), Value::Object(more)) = (view.as_object_mut(), more) {
        view.extend(more);
    }
    view
}

/// `GET /os-hypervisors`
pub(super) async fn hypervisors(session: Session, version: Microversion, params: Params) -> Answer {
    admin_only(&session, "os_compute_api:os-hypervisors:list")?;
    let part = params.get("hypervisor_hostname_pattern").filter(|_| version >= Microversion(53));
    let servers = version >= Microversion(53) && params.flag("with_servers")?.unwrap_or(false);
    Ok(ok(&json!({"hypervisors": brief_views(&session, version, part, servers).await?})))
}

/// `GET /os-hypervisors/detail`
pub(super) async fn hypervisors_detail(session: Session, version: Microversion, params: Params) -> Answer {
    let (nodes, machines) = (session.global::<Node>(), session.everywhere::<VirtualMachine>());
    let (nodes, machines) = tokio::try_join!(ids::list(&nodes), ids::list(&machines))?;
    let part = params.get("hypervisor_hostname_pattern").filter(|_| version >= Microversion(53));
    let servers = version >= Microversion(53) && params.flag("with_servers")?.unwrap_or(false);
    let views =
        nodes.iter().enumerate().filter(|(_, node)| part.is_none_or(|part| ids::name(*node).contains(part)));
    let views = views.map(|(at, node)| {
        let mut view = full(version, node, at, &machines);
        let here = if servers { servers_on(&machines, ids::name(node)) } else { Vec::new() };
        if !here.is_empty() {
            view["servers"] = json!(here);
        }
        view
    });
    Ok(ok(&json!({"hypervisors": views.collect::<Vec<Value>>()})))
}

/// `GET /os-hypervisors/{id}`
pub(super) async fn hypervisor(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let (nodes, machines) = (session.global::<Node>(), session.everywhere::<VirtualMachine>());
    let (nodes, machines) = tokio::try_join!(ids::list(&nodes), ids::list(&machines))?;
    let (at, node) = named(version, &nodes, &id)?;
    Ok(ok(&json!({"hypervisor": full(version, node, at, &machines)})))
}

/// The node with this id as a hypervisor's, and where it is in the list.
fn named<'a>(version: Microversion, nodes: &'a [Node], id: &str) -> Result<(usize, &'a Node), Fault> {
    let mut all = nodes.iter().enumerate();
    let found = all.find(|(at, node)| match hypervisor_id(version, node, *at) {
        Value::String(own) => own == id,
        own => own.as_u64().is_some_and(|own| id.parse() == Ok(own)),
    });
    found.ok_or_else(|| Fault::not_found("Hypervisor", id))
}

/// For how long a node's host has run, in the words of uptime(1), as far as it tells.
fn up(node: &Node, now: Timestamp) -> Option<String> {
    let booted = node.metadata.annotations.as_ref()?.get(BOOTED)?.parse::<Timestamp>().ok()?;
    if !is_ready(node) {
        return None;
    }
    let minutes = now.duration_since(booted).as_secs().max(0) / 60;
    let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
    Some(format!(" {} up {days} days, {hours:2}:{minutes:02}", now.strftime("%H:%M:%S")))
}

/// `GET /os-hypervisors/{id}/uptime` (to 2.87). Of a node that does not tell clients are told so; they go on after a 501.
pub(super) async fn uptime(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    admin_only(&session, "os_compute_api:os-hypervisors:uptime")?;
    if version >= Microversion(88) {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    let nodes = ids::list(&session.global::<Node>()).await?;
    let (at, node) = named(version, &nodes, &id)?;
    let uptime = up(node, Timestamp::now());
    let uptime =
        uptime.ok_or_else(|| Fault::unsupported("The node does not tell how long its host has run."))?;
    let mut view = brief(version, node, at);
    view["uptime"] = json!(uptime);
    Ok(ok(&json!({"hypervisor": view})))
}

/// Annotation of a Node: why an operator took it out of service.
const REASON: &str = "compute.yunfan.io/disabled-reason";

fn service_view(version: Microversion, node: &Node, at: usize) -> Value {
    let reason = node.metadata.annotations.as_ref().and_then(|all| all.get(REASON));
    let mut view = json!({
        "id": hypervisor_id(version, node, at), "binary": "nova-compute", "host": ids::name(node),
        "zone": placing::zone_of(node), "status": if is_schedulable(node) { "enabled" } else { "disabled" },
        "state": if is_ready(node) { "up" } else { "down" }, "updated_at": heard_of(node),
        "disabled_reason": reason.filter(|_| !is_schedulable(node)),
    });
    if version >= Microversion(11) {
        view["forced_down"] = json!(false);
    }
    view
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ServiceBody {
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    disabled_reason: Option<String>,
    #[serde(default)]
    forced_down: Option<bool>,
}

/// Lets the scheduler use a node, or not (Kubernetes' cordon); returns it as it is then.
pub(super) async fn enable(
    session: &Session,
    name: &str,
    on: bool,
    reason: Option<&str>,
) -> Result<Node, Fault> {
    admin_only(session, "os_compute_api:os-services:update")?;
    let patch = Patch::Merge(json!({
        "metadata": {"annotations": {REASON: if on { None } else { reason }}},
        "spec": {"unschedulable": if on { Value::Null } else { json!(true) }},
    }));
    match session.global::<Node>().patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            Err(Fault::new(StatusCode::NOT_FOUND, format!("Compute host {name} could not be found.")))
        }
        other => Ok(other?),
    }
}

fn check_reason(reason: Option<&str>) -> Result<(), Fault> {
    match reason {
        Some(text) if text.trim().is_empty() || text.len() > 255 => {
            Err(Fault::bad("Disabled reason contains invalid characters or is too long"))
        }
        _ => Ok(()),
    }
}

/// `PUT /os-services/{id}` (2.53)
pub(super) async fn update_service(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<ServiceBody>,
) -> Answer {
    let nodes = ids::list(&session.global::<Node>()).await?;
    let found = nodes.iter().position(|node| node.metadata.uid.as_deref() == Some(&id));
    let at = found.filter(|_| version >= Microversion(53)).ok_or_else(|| Fault::not_found("Service", &id))?;
    if body.forced_down.is_some() {
        return Err(Fault::unsupported("A node is up or down as it says itself; it can't be forced."));
    }
    check_reason(body.disabled_reason.as_deref())?;
    let on = match body.status.as_deref() {
        Some("enabled") if body.disabled_reason.is_none() => true,
        Some("enabled") => {
            return Err(Fault::bad("Specifying 'disabled_reason' when status is 'enabled' is invalid."));
        }
        Some("disabled") => false,
        _ => return Err(Fault::bad("Invalid input for field/attribute status. It is enabled or disabled.")),
    };
    let node = enable(&session, ids::name(&nodes[at]), on, body.disabled_reason.as_deref()).await?;
    Ok(ok(&json!({"service": service_view(version, &node, at)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OldService {
    host: String,
    binary: String,
    #[serde(default)]
    disabled_reason: Option<String>,
}

/// `PUT /os-services/{enable,disable,disable-log-reason}`, until 2.52.
pub(super) async fn old_service(
    session: &Session,
    version: Microversion,
    word: &str,
    body: OldService,
) -> Answer {
    if version >= Microversion(53) || body.binary != "nova-compute" {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    let reason = body.disabled_reason.as_deref();
    check_reason(reason)?;
    let on = match (word, reason) {
        ("enable", None) => true,
        ("disable", None) => false,
        ("disable-log-reason", Some(_)) => false,
        ("disable-log-reason", None) => return Err(Fault::bad("Missing disabled reason field")),
        _ => return Err(Fault::not_found("Action", word)),
    };
    enable(session, &body.host, on, reason).await?;
    let mut service = json!({
        "host": body.host, "binary": body.binary, "status": if on { "enabled" } else { "disabled" },
    });
    if let Some(reason) = reason {
        service["disabled_reason"] = json!(reason);
    }
    Ok(ok(&json!({"service": service})))
}

/// `PUT /os-services/{what}`: an id since 2.53, a verb before.
pub(super) async fn put_service(
    session: Session,
    version: Microversion,
    Path(what): Path<String>,
    Json(body): Json<Value>,
) -> Answer {
    if version >= Microversion(53) {
        return update_service(session, version, Path(what), Json(parse_value(body)?)).await;
    }
    old_service(&session, version, &what, parse_value(body)?).await
}

/// `GET /os-hypervisors/statistics`, until 2.87.
pub(super) async fn statistics(session: Session, version: Microversion) -> Answer {
    admin_only(&session, "os_compute_api:os-hypervisors:statistics")?;
    if version >= Microversion(88) {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    let (nodes, machines) = (session.global::<Node>(), session.everywhere::<VirtualMachine>());
    let (nodes, machines) = tokio::try_join!(ids::list(&nodes), ids::list(&machines))?;
    let mut sums = json!({"count": nodes.len()});
    for (at, node) in nodes.iter().enumerate() {
        let view = full(Microversion(1), node, at, &machines);
        for member in COUNTED {
            let sum = sums[member].as_i64().unwrap_or(0) + view[member].as_i64().unwrap_or(0);
            sums[member] = json!(sum);
        }
    }
    Ok(ok(&json!({"hypervisor_statistics": sums})))
}

/// `GET /os-hypervisors/{name}/search` and `/servers`, until 2.52: by a part of the host's name.
pub(super) async fn search(session: &Session, version: Microversion, part: &str, servers: bool) -> Answer {
    admin_only(session, "os_compute_api:os-hypervisors:search")?;
    if version >= Microversion(53) {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    let views = brief_views(session, version, Some(part), servers).await?;
    Ok(ok(&json!({"hypervisors": views})))
}

/// `GET /os-hypervisors/{name}/search`
pub(super) async fn search_by_name(
    session: Session,
    version: Microversion,
    Path(part): Path<String>,
) -> Answer {
    search(&session, version, &part, false).await
}

/// `GET /os-hypervisors/{name}/servers`
pub(super) async fn servers_by_name(
    session: Session,
    version: Microversion,
    Path(part): Path<String>,
) -> Answer {
    search(&session, version, &part, true).await
}

fn servers_on(machines: &[VirtualMachine], name: &str) -> Vec<Value> {
    let here = machines.iter().filter(|vm| vm.spec.node_name.as_deref() == Some(name));
    here.map(|vm| json!({"uuid": vm.id(), "name": ids::name(vm)})).collect()
}

/// The short form of the hypervisors with this in their names, with the servers on each where they are asked for.
async fn brief_views(
    session: &Session,
    version: Microversion,
    part: Option<&str>,
    servers: bool,
) -> Result<Vec<Value>, Fault> {
    let nodes = ids::list(&session.global::<Node>()).await?;
    let machines =
        if servers { ids::list(&session.everywhere::<VirtualMachine>()).await? } else { Vec::new() };
    let named = |node: &Node| part.is_none_or(|part| ids::name(node).contains(part));
    let views: Vec<Value> = nodes
        .iter()
        .enumerate()
        .filter(|(_, node)| named(node))
        .map(|(at, node)| {
            let mut view = brief(version, node, at);
            let here = servers_on(&machines, ids::name(node));
            if !here.is_empty() {
                view["servers"] = json!(here);
            }
            view
        })
        .collect();
    if views.is_empty() && part.is_some() {
        let message = format!("No hypervisor matching '{}' could be found.", part.unwrap_or_default());
        return Err(Fault::new(StatusCode::NOT_FOUND, message));
    }
    Ok(views)
}

/// `GET /os-services`: the agent on each node is what Nova calls nova-compute, and there is the scheduler.
pub(super) async fn services(session: Session, version: Microversion, params: Params) -> Answer {
    admin_only(&session, "os_compute_api:os-services:list")?;
    let nodes = ids::list(&session.global::<Node>()).await?;
    let views: Vec<Value> = nodes
        .iter()
        .enumerate()
        .map(|(at, node)| service_view(version, node, at))
        .chain([scheduler_view(version, nodes.len())])
        .filter(|view| {
            ["host", "binary"].iter().all(|key| params.get(key).is_none_or(|wanted| view[*key] == wanted))
        })
        .collect();
    Ok(ok(&json!({"services": views})))
}
