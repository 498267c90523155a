//! This node's own object: what it has, that it is there, and that it is well.

mod facts;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};
use tokio::sync::watch;
use yunfan_client::{Severity, is_exists, is_not_found};
use yunfan_hypervisor::Accelerator;
use yunfan_resources::names::{BOOTED, LEASE_NAMESPACE};
use yunfan_runtime::{ImageService, RuntimeFeatures};

use crate::Shared;
use crate::eviction::EvictionSettings;
use crate::pressure::{KINDS, Shortages};
use crate::shutdown::{self, Shutdown};
pub(crate) use facts::cgroup_kind;
use facts::{Amounts, arch, room, tells_room};

/// How often the lease is renewed (Kubernetes' own default).
const RENEW: Duration = Duration::from_secs(10);
/// How long the lease lasts, seconds.
const LEASE_SECONDS: i32 = 40;
/// How soon it is looked again whether the node has addresses for Pods, as long as it has none: so long it takes none …
const SOON: Duration = Duration::from_millis(500);
/// … but no longer than this after the agent's start, where nobody seems to give any.
const EARLY: Duration = Duration::from_secs(60);
/// The status is written this often even when nothing changed.
const STATUS: Duration = Duration::from_secs(300);
/// What of Kubernetes' newer features a scheduler may look for before it places Pods that ask for them here.
const FEATURES: [&str; 1] = ["RestartAllContainersOnContainerExits"];

/// What the node can do, found out at the start.
pub(crate) struct Abilities {
    pub(crate) accelerator: Accelerator,
    /// Whether machines are pretended, and take nothing of the node.
    pub(crate) pretends: bool,
    /// `v1`, `hybrid` or `v2`.
    pub(crate) cgroup: &'static str,
    /// What does not work here, and why.
    pub(crate) notes: Vec<String>,
    /// What it is short of.
    pub(crate) shortages: watch::Receiver<Shortages>,
    /// Name and version of what runs containers.
    pub(crate) containers: String,
    /// What that can do.
    pub(crate) features: RuntimeFeatures,
    /// The images of containers that are here.
    pub(crate) images: Arc<dyn ImageService>,
    /// What is kept free of workloads.
    pub(crate) eviction: EvictionSettings,
}

/// How the node is.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Health {
    shortages: Shortages,
    /// It is about to be gone, with its host.
    ends: bool,
}

/// Makes the Node object where it is missing, and writes its first status.
pub(crate) async fn register(shared: &Shared, abilities: &Abilities) -> kube::Result<()> {
    let shortages = *abilities.shortages.borrow();
    register_with(shared, abilities, &Health { shortages, ends: false }).await
}

async fn register_with(shared: &Shared, abilities: &Abilities, health: &Health) -> kube::Result<()> {
    let mut labels = BTreeMap::from([
        ("kubernetes.io/hostname".to_owned(), shared.node.clone()),
        ("kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("kubernetes.io/arch".to_owned(), arch().to_owned()),
        // Old manifests select nodes by these; kubelets still write them.
        ("beta.kubernetes.io/os".to_owned(), "linux".to_owned()),
        ("beta.kubernetes.io/arch".to_owned(), arch().to_owned()),
    ]);
    labels.extend(shared.labels.clone());
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": shared.node, "labels": labels, "annotations": annotations(abilities)},
    }))
    .map_err(kube::Error::SerdeError)?;
    let node = match shared.writer.create(&node).await {
        Err(error) if is_exists(&error) => {
            let patch = json!({"metadata": {"labels": labels, "annotations": annotations(abilities)}});
            shared.writer.merge::<Node>(None, &shared.node, &patch).await?
        }
        made => made?,
    };
    renew(shared, Some(&node)).await?;
    shared.recorder.event(&node, Severity::Normal, "Starting", "Starting kubelet.");
    write_status(shared, abilities, health).await
}

/// Keeps the node's lease and status fresh until dropped; registers it first where that could not be done yet.
pub(crate) async fn keep(shared: Shared, abilities: Abilities, shutdown: Arc<Shutdown>, registered: bool) {
    let mut registered = registered;
    let began = tokio::time::Instant::now();
    let mut written = began;
    let mut shortages = abilities.shortages.clone();
    let (mut told, mut ends, mut roomy, mut cordoned) = (None, false, true, None);
    let mut tick = tokio::time::interval(RENEW);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            // Nothing new should be placed here from now on.
            () = shutdown.changed(ends) => {}
            Ok(()) = shortages.changed() => {}
            () = tokio::time::sleep(SOON), if !roomy && began.elapsed() < EARLY => {}
        }
        ends = shutdown.is_on();
        let health = Health { shortages: *shortages.borrow_and_update(), ends };
        let node = shared.writer.get::<Node>(None, &shared.node).await;
        if !registered || node.as_ref().is_err_and(is_not_found) {
            match register_with(&shared, &abilities, &health).await {
                Ok(()) => registered = true,
                Err(error) => tracing::warn!(%error, "the node could not be registered, it is tried again"),
            }
            continue;
        }
        if let Err(error) = renew(&shared, node.as_ref().ok()).await {
            tracing::warn!(%error, "the node's lease could not be renewed, it is tried again");
            continue;
        }
        let Ok(node) = node else { continue };
        roomy = room(&node) > 0;
        let closed = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        if cordoned.replace(closed).is_some_and(|before| before != closed) {
            let reason = if closed { "NodeNotSchedulable" } else { "NodeSchedulable" };
            let message = format!("Node {} status is now: {reason}", shared.node);
            shared.recorder.event(&node, Severity::Normal, reason, message);
        }
        let otherwise = is_ready(&node) == health.ends
            || !facts::others(&node).is_empty()
            || !tells_images(&node, &abilities).await;
        if otherwise || told != Some(health) || !tells_room(&node) || written.elapsed() >= STATUS {
            match write_status(&shared, &abilities, &health).await {
                Ok(()) => (written, told) = (tokio::time::Instant::now(), Some(health)),
                Err(error) => tracing::warn!(%error, "the node's status could not be written"),
            }
        }
    }
}

/// Whether a node says which images it has.
async fn tells_images(node: &Node, abilities: &Abilities) -> bool {
    let told = node.status.as_ref().and_then(|status| status.images.as_ref());
    let images = facts::images(abilities.images.as_ref()).await;
    images.is_none_or(|images| json!(told.cloned().unwrap_or_default()) == images)
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Renews the node's lease, which goes with the Node where that is known.
async fn renew(shared: &Shared, node: Option<&Node>) -> kube::Result<()> {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string();
    let spec = json!({
        "holderIdentity": shared.node, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now,
    });
    let mut patch = json!({"metadata": {}, "spec": spec});
    if let Some(node) = node {
        patch["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": shared.node, "uid": node.metadata.uid}]);
    }
    match shared.writer.merge::<Lease>(Some(LEASE_NAMESPACE), &shared.node, &patch).await {
        Err(error) if is_not_found(&error) => {
            patch["metadata"]["name"] = json!(shared.node);
            patch["metadata"]["namespace"] = json!(LEASE_NAMESPACE);
            let lease: Lease = serde_json::from_value(patch).map_err(kube::Error::SerdeError)?;
            shared.writer.create(&lease).await.map(drop)
        }
        other => other.map(drop),
    }
}

async fn write_status(shared: &Shared, abilities: &Abilities, health: &Health) -> kube::Result<()> {
    let current = shared.writer.get::<Node>(None, &shared.node).await?;
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let since = |kind: &str, value: &str| {
        let old = current.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| c.type_ == kind);
        match old {
            Some(old) if old.status == value => json!(old.last_transition_time),
            _ => json!(now),
        }
    };
    let condition = |kind: &str, value: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": value, "reason": reason, "message": message,
               "lastHeartbeatTime": now, "lastTransitionTime": since(kind, value)})
    };
    let pressure = KINDS.iter().zip(&health.shortages).filter_map(|(words, shortage)| {
        // Nothing is said of what could not be found out.
        let (value, (reason, message)) = match (*shortage)? {
            true => ("True", words.short),
            false => ("False", words.well),
        };
        Some(condition(words.condition, value, reason, message))
    });
    let ready = match health.ends {
        false => condition("Ready", "True", "KubeletReady", &ready_message(abilities)),
        true => condition("Ready", "False", "KubeletNotReady", shutdown::MESSAGE),
    };
    let conditions: Vec<Value> = pressure.chain([ready]).collect();
    let amounts = Amounts::of(&shared.root, room(&current), abilities.pretends);
    let mut allocatable = amounts.allocatable(&abilities.eviction);
    for (name, amount) in facts::others(&current) {
        allocatable[name] = amount;
    }
    let mut patch = json!({"status": {
        "capacity": amounts.capacity(), "allocatable": allocatable,
        "addresses": [
            {"type": "InternalIP", "address": shared.address},
            {"type": "Hostname", "address": shared.node},
        ],
        "conditions": conditions,
        "daemonEndpoints": {"kubeletEndpoint": {"Port": shared.port}},
        "nodeInfo": facts::info(abilities),
        "declaredFeatures": FEATURES,
        "features": {"supplementalGroupsPolicy": abilities.features.strict_groups},
        "runtimeHandlers": facts::handlers(&abilities.features),
    }});
    if let Some(images) = facts::images(abilities.images.as_ref()).await {
        patch["status"]["images"] = images;
    }
    shared.writer.merge_status::<Node>(None, &shared.node, &patch).await?;
    tell(shared, &current, &conditions);
    Ok(())
}

/// Tells of what is otherwise now, in the kubelet's words.
fn tell(shared: &Shared, before: &Node, conditions: &[Value]) {
    let old = before.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let old: BTreeMap<&str, &str> = old.map(|c| (c.type_.as_str(), c.status.as_str())).collect();
    for condition in conditions {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        if old.get(text("type")) == Some(&text("status")) {
            continue;
        }
        let reason = text("reason").replacen("Kubelet", "Node", 1);
        let message = format!("Node {} status is now: {reason}", shared.node);
        shared.recorder.event(before, Severity::Normal, reason, message);
    }
    let boot = facts::boot_id();
    let known = before.status.as_ref().and_then(|status| status.node_info.as_ref());
    if known.is_some_and(|info| !info.boot_id.is_empty() && info.boot_id != boot) {
        let message = format!("Node {} has been rebooted, boot id: {boot}", shared.node);
        shared.recorder.event(before, Severity::Warning, "Rebooted", message);
    }
}

fn ready_message(abilities: &Abilities) -> String {
    let accelerator = match &abilities.accelerator {
        Accelerator::Kvm => "KVM".to_owned(),
        Accelerator::Tcg { why } => format!("TCG ({why})"),
    };
    let mut message =
        format!("agent is ready; virtual machines run on {accelerator}; cgroup {}", abilities.cgroup);
    for note in &abilities.notes {
        message.push_str("; ");
        message.push_str(note);
    }
    message
}

fn annotations(abilities: &Abilities) -> Value {
    let (accelerator, why) = match &abilities.accelerator {
        Accelerator::Kvm => ("kvm", String::new()),
        Accelerator::Tcg { why } => ("tcg", why.clone()),
    };
    json!({
        "compute.yunfan.io/accelerator": accelerator,
        "compute.yunfan.io/accelerator-reason": why,
        "yunfan.io/cgroup": abilities.cgroup,
        BOOTED: facts::booted(),
    })
}
