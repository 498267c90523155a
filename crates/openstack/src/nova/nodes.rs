//! Hypervisors, services and zones: what Nodes say of themselves.

use axum::extract::Path;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use yunfan_resources::compute::VirtualMachine;

use crate::auth::Session;
use crate::body::Params;
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

fn is_schedulable(node: &Node) -> bool {
    node.spec.as_ref().and_then(|spec| spec.unschedulable) != Some(true)
}

/// `GET /os-availability-zone`
pub(super) async fn zones(_: Session) -> Answer {
    Ok(ok(
        &json!({"availabilityZoneInfo": [{"zoneName": ZONE, "zoneState": {"available": true}, "hosts": null}]}),
    ))
}

/// `GET /os-availability-zone/detail`
pub(super) async fn zones_detail(session: Session) -> Answer {
    let nodes = ids::list(&session.global::<Node>()).await?;
    let hosts: serde_json::Map<String, Value> = nodes
        .iter()
        .map(|node| {
            let service = json!({"active": true, "available": is_ready(node), "updated_at": null});
            (ids::name(node).to_owned(), json!({"nova-compute": service}))
        })
        .collect();
    Ok(ok(
        &json!({"availabilityZoneInfo": [{"zoneName": ZONE, "zoneState": {"available": true}, "hosts": hosts}]}),
    ))
}

fn quantity(node: &Node, key: &str, unit: i64) -> i64 {
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
    let more = json!({
        "host_ip": address.map(|one| one.address.clone()), "hypervisor_type": "QEMU",
        "vcpus": vcpus, "vcpus_used": vcpus_used, "memory_mb": memory, "memory_mb_used": memory_used,
        "free_ram_mb": memory - memory_used, "local_gb": disk, "local_gb_used": disk_used,
        "free_disk_gb": disk - disk_used, "disk_available_least": disk - disk_used, "current_workload": 0,
        "running_vms": here.len(), "cpu_info": if version >= Microversion(28) { json!({}) } else { json!("") },
        "service": {"host": name, "id": hypervisor_id(version, node, at), "disabled_reason": null},
    });
    if let (Some(view), Value::Object(more)) = (view.as_object_mut(), more) {
        view.extend(more);
    }
    view
}

/// `GET /os-hypervisors`
pub(super) async fn hypervisors(session: Session, version: Microversion) -> Answer {
    let nodes = ids::list(&session.global::<Node>()).await?;
    let views: Vec<Value> = nodes.iter().enumerate().map(|(at, node)| brief(version, node, at)).collect();
    Ok(ok(&json!({"hypervisors": views})))
}

/// `GET /os-hypervisors/detail`
pub(super) async fn hypervisors_detail(session: Session, version: Microversion) -> Answer {
    let (nodes, machines) = (session.global::<Node>(), session.everywhere::<VirtualMachine>());
    let (nodes, machines) = tokio::try_join!(ids::list(&nodes), ids::list(&machines))?;
    let views: Vec<Value> =
        nodes.iter().enumerate().map(|(at, node)| full(version, node, at, &machines)).collect();
    Ok(ok(&json!({"hypervisors": views})))
}

/// `GET /os-hypervisors/{id}`
pub(super) async fn hypervisor(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let (nodes, machines) = (session.global::<Node>(), session.everywhere::<VirtualMachine>());
    let (nodes, machines) = tokio::try_join!(ids::list(&nodes), ids::list(&machines))?;
    let found = nodes.iter().enumerate().find(|(at, node)| match hypervisor_id(version, node, *at) {
        Value::String(own) => own == id,
        own => own.as_u64().is_some_and(|own| id.parse() == Ok(own)),
    });
    let (at, node) = found.ok_or_else(|| Fault::not_found("Hypervisor", &id))?;
    Ok(ok(&json!({"hypervisor": full(version, node, at, &machines)})))
}

/// `GET /os-hypervisors/{id}/uptime`: nodes do not tell, as some of Nova's drivers do not; clients go on after a 501.
pub(super) async fn uptime(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    hypervisor(session, version, Path(id)).await?;
    Err(Fault::unsupported("The uptime of hypervisors is not kept."))
}

/// `GET /os-services`: the agent on each node is what Nova calls nova-compute.
pub(super) async fn services(session: Session, version: Microversion, params: Params) -> Answer {
    let nodes = ids::list(&session.global::<Node>()).await?;
    let views: Vec<Value> = nodes
        .iter()
        .enumerate()
        .map(|(at, node)| {
            let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
            let seen = conditions.and_then(|all| all.iter().find(|it| it.type_ == "Ready"));
            let seen = seen.and_then(|it| it.last_heartbeat_time.as_ref()).map(|at| stamp::micros_bare(at.0));
            json!({
                "id": hypervisor_id(version, node, at), "binary": "nova-compute", "host": ids::name(node), "zone": ZONE,
                "status": if is_schedulable(node) { "enabled" } else { "disabled" },
                "state": if is_ready(node) { "up" } else { "down" },
                "updated_at": seen, "disabled_reason": null, "forced_down": false,
            })
        })
        .filter(|view| ["host", "binary"].iter().all(|key| params.get(key).is_none_or(|wanted| view[*key] == wanted)))
        .collect();
    Ok(ok(&json!({"services": views})))
}

/// `GET /os-aggregates`: hosts are not grouped.
pub(super) async fn aggregates(_: Session) -> Answer {
    Ok(ok(&json!({"aggregates": []})))
}
