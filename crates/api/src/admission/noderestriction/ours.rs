//! What nodes may write of the cloud's own kinds: machines and volumes that are on them, ports of workloads that are, and of what
//! all nodes share, whether it is on them.

use serde_json::{Value, json};

use super::super::{Attempt, Operation, View};

const COMPUTE: &str = "compute.yunfan.io";

/// A VirtualMachine, a Volume or a VolumeSnapshot: it is where its spec says.
pub(super) fn placed(node: &str, attempt: &Attempt<'_>, _: &View<'_>) -> Result<(), String> {
    let own = |object: &Value| object["spec"]["nodeName"] == node;
    let plural = &attempt.kind.descriptor.plural;
    match (attempt.operation, attempt.old) {
        // The last finalizer's removal ends it.
        (Operation::Update | Operation::Delete, Some(old)) if own(old) && own(attempt.object) => Ok(()),
        // A machine that is shelved is let go by its node.
        (Operation::Update, Some(old)) if own(old) && is_let_go(old, attempt.object) => Ok(()),
        _ => Err(format!("node {node:?} can only update {plural} with spec.nodeName set to itself")),
    }
}

/// Whether a machine of which its node has nothing any more is taken from the node.
fn is_let_go(old: &Value, new: &Value) -> bool {
    old["status"]["phase"] == "Offloaded" && new["spec"]["nodeName"].as_str().is_none_or(str::is_empty)
}

/// A Port is where the workload is that holds it, and until it is unplugged where that was.
pub(super) fn port(node: &str, attempt: &Attempt<'_>, view: &View<'_>) -> Result<(), String> {
    let refused = || format!("node {node:?} can only update the status of ports that workloads on it hold");
    let Some(old) = attempt.old.filter(|_| attempt.subresource == "status") else { return Err(refused()) };
    let claims_other = !matches!(attempt.object["status"]["node"].as_str(), None | Some(""))
        && attempt.object["status"]["node"] != node;
    let holder = &old["spec"]["holder"];
    let text = |field: &str| holder[field].as_str().unwrap_or_default();
    let (group, plural) = if text("kind") == "Pod" { ("", "pods") } else { (COMPUTE, "virtualmachines") };
    let held = || {
        let found =
            view.get(group, plural, attempt.namespace, text("name")).map(|entry| entry.decode_stored());
        found.is_some_and(|it| it["spec"]["nodeName"] == node && it["metadata"]["uid"] == holder["uid"])
    };
    if claims_other || !(old["status"]["node"] == node || held()) {
        return Err(refused());
    }
    Ok(())
}

/// An Image: each node tells of itself; one that is made of a Volume or a machine is made by the node that this is on.
pub(super) fn image(node: &str, attempt: &Attempt<'_>, view: &View<'_>) -> Result<(), String> {
    let status = attempt.subresource == "status";
    if let Some(old) = attempt.old.filter(|_| status)
        && let Some((group, plural, name)) = source_of(&old["spec"])
        && matches!(old["status"]["phase"].as_str(), None | Some("Queued" | "Saving"))
    {
        let source = view.get(group, plural, attempt.namespace, name);
        let here = source.is_some_and(|source| source.decode_stored()["spec"]["nodeName"] == node);
        let nodes = &attempt.object["status"]["nodes"];
        if here && (nodes.is_null() || *nodes == json!([]) || *nodes == json!([node])) {
            return Ok(());
        }
    }
    shared(node, attempt, view)
}

/// What an image is made of: group, kind and name.
fn source_of(spec: &Value) -> Option<(&'static str, &'static str, &str)> {
    const STORAGE: &str = "storage.yunfan.io";
    let volume = spec["sourceVolume"].as_str().map(|name| (STORAGE, "volumes", name));
    let snapshot = || spec["sourceSnapshot"].as_str().map(|name| (STORAGE, "volumesnapshots", name));
    let machine = || spec["sourceMachine"].as_str().map(|name| (COMPUTE, "virtualmachines", name));
    volume.or_else(snapshot).or_else(machine)
}

/// A Network or an Image: each node tells of itself.
pub(super) fn shared(node: &str, attempt: &Attempt<'_>, _: &View<'_>) -> Result<(), String> {
    let rest = |object: &Value| {
        let mut status = object["status"].clone();
        if let Some(status) = status.as_object_mut() {
            let nodes = status.remove("nodes").unwrap_or(json!([]));
            let others: Vec<Value> =
                nodes.as_array().into_iter().flatten().filter(|other| *other != node).cloned().collect();
            status.insert("nodes".to_owned(), json!(others));
        }
        status
    };
    let empty = json!({"nodes": []});
    let of = |object: &Value| if object["status"].is_null() { empty.clone() } else { rest(object) };
    match attempt.old.filter(|_| attempt.subresource == "status") {
        Some(old) if of(old) == of(attempt.object) => Ok(()),
        _ => Err(format!("node {node:?} can only add itself to status.nodes, or take itself away")),
    }
}
