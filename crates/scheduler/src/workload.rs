//! What is placed: a Pod, a VirtualMachine or a Volume, reduced to what a placement looks at.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ContainerPort, NodeSelectorTerm, Pod, PodSpec, PreferredSchedulingTerm, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use yunfan_resources::claims::claims_of_pod;
use yunfan_resources::compute::{RunState, VirtualMachine};
pub use yunfan_resources::requests::{EPHEMERAL_STORAGE, Requests};
pub(crate) use yunfan_resources::requests::{milli, units};
use yunfan_resources::storage::Volume;

use crate::peers::Peers;
use crate::{SCHEDULER_NAME, SchedulerConfig};

/// The object that is placed.
#[derive(Clone, Debug)]
pub enum Object {
    /// A Pod.
    Pod(Arc<Pod>),
    /// A VirtualMachine.
    VirtualMachine(Arc<VirtualMachine>),
    /// A Volume.
    Volume(Arc<Volume>),
}

impl Object {
    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Pod(pod) => &pod.metadata,
            Self::VirtualMachine(vm) => &vm.metadata,
            Self::Volume(volume) => &volume.metadata,
        }
    }
}

/// Where a workload stands with the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It wants a node, and it is for this scheduler to choose.
    Wanting,
    /// It has a node and takes part of its capacity.
    Placed,
    /// It takes nothing, and wants nothing of us: it ended, is being deleted unplaced, has a gate, or another scheduler.
    Idle,
}

/// A port of a host that a Pod wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// The one address of the host; none for all of them.
    ip: Option<String>,
    protocol: String,
    port: i32,
}

impl HostPort {
    /// Whether the two can't be on one host.
    pub fn clashes(&self, other: &Self) -> bool {
        (self.port, &self.protocol) == (other.port, &other.protocol)
            && (self.ip.is_none() || other.ip.is_none() || self.ip == other.ip)
    }

    fn of(spec: &PodSpec) -> Vec<Self> {
        // Init containers that go on running beside the others have ports as those have.
        let sidecars =
            spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
        let ports =
            spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
        let wish = |port: &ContainerPort| {
            Some(Self {
                ip: port.host_ip.clone().filter(|ip| !matches!(ip.as_str(), "" | "0.0.0.0" | "::")),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: port.host_port.filter(|port| *port != 0)?,
            })
        };
        ports.filter_map(wish).collect()
    }
}

/// A Pod, a VirtualMachine or a Volume that wants a node or has one.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The object.
    pub object: Object,
    /// Its uid.
    pub uid: String,
    /// What it takes.
    pub requests: Requests,
    /// Labels that the node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Of these one must hold for the node; none where there is no such wish.
    pub required: Option<Vec<NodeSelectorTerm>>,
    /// Of these the more, by weight, the better.
    pub preferred: Vec<PreferredSchedulingTerm>,
    /// Taints that it puts up with.
    pub tolerations: Vec<Toleration>,
    /// Its node.
    pub node: Option<String>,
    /// Where it stands.
    pub standing: Standing,
    /// Higher goes first.
    pub priority: i32,
    /// What it wants of the Pods near it; none where it wants nothing of them.
    pub peers: Option<Box<Peers>>,
    /// Ports of its host that it wants for itself.
    pub host_ports: Vec<HostPort>,
}

impl Workload {
    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.object.metadata().namespace.as_deref().unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.object.metadata().name.as_deref().unwrap_or_default()
    }

    /// Its kind.
    pub fn kind(&self) -> &'static str {
        match self.object {
            Object::Pod(_) => "Pod",
            Object::VirtualMachine(_) => "VirtualMachine",
            Object::Volume(_) => "Volume",
        }
    }

    /// Its labels.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        static NONE: BTreeMap<String, String> = BTreeMap::new();
        self.object.metadata().labels.as_ref().unwrap_or(&NONE)
    }

    /// The names of the claims that it uses, where it is a Pod of that namespace.
    pub(crate) fn claims(&self, namespace: &str) -> impl Iterator<Item = String> {
        let pod = match &self.object {
            Object::Pod(pod) if self.namespace() == namespace => Some(pod),
            _ => None,
        };
        pod.into_iter().flat_map(|pod| claims_of_pod(pod)).map(|one| one.claim)
    }

    /// Reads a Pod.
    pub fn from_pod(pod: &Arc<Pod>) -> Self {
        let empty = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&empty);
        let node = spec.node_name.clone().filter(|name| !name.is_empty());
        let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        Self {
            object: Object::Pod(pod.clone()),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            requests: Requests::of_pod(spec),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            required: affinity
                .and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref())
                .map(|selector| selector.node_selector_terms.clone()),
            preferred: affinity
                .and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.clone())
                .unwrap_or_default(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            standing: pod_standing(pod, spec, node.is_some()),
            node,
            priority: spec.priority.unwrap_or_default(),
            peers: Peers::of(pod, spec).map(Box::new),
            host_ports: HostPort::of(spec),
        }
    }

    /// Reads a VirtualMachine. It is charged with `vcpus / ratio` CPUs, and its memory over its ratio plus QEMU's overhead.
    pub fn from_vm(vm: &Arc<VirtualMachine>, config: &SchedulerConfig) -> Self {
        let node = vm.spec.node_name.clone().filter(|name| !name.is_empty());
        let mut workload =
            Self::plain(Object::VirtualMachine(vm.clone()), Requests::of_machine(vm, &config.machines), node);
        workload.node_selector = vm.spec.node_selector.clone();
        let waits =
            vm.spec.resources.is_none() || vm.is_offloaded() && vm.spec.run_state == RunState::Shelved;
        if workload.standing == Standing::Wanting && waits {
            // Without its size it has not been through admission: there is nothing to place yet. Nor is there while it is shelved.
            workload.standing = Standing::Idle;
        }
        workload
    }

    /// Reads a Volume. It is charged with its whole size, though its file begins small: what was promised must be there.
    pub fn from_volume(volume: &Arc<Volume>) -> Self {
        let node = volume.spec.node_name.clone().filter(|name| !name.is_empty());
        Self::plain(Object::Volume(volume.clone()), Requests::of_disk(volume.spec.size_gib), node)
    }

    /// A workload without wishes.
    fn plain(object: Object, requests: Requests, node: Option<String>) -> Self {
        let metadata = object.metadata();
        let standing = if node.is_some() {
            Standing::Placed
        } else if metadata.deletion_timestamp.is_some() {
            Standing::Idle
        } else {
            Standing::Wanting
        };
        Self {
            uid: metadata.uid.clone().unwrap_or_default(),
            object,
            requests,
            node_selector: BTreeMap::new(),
            required: None,
            preferred: Vec::new(),
            tolerations: Vec::new(),
            node,
            standing,
            priority: 0,
            peers: None,
            host_ports: Vec::new(),
        }
    }
}

fn pod_standing(pod: &Pod, spec: &PodSpec, placed: bool) -> Standing {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        Standing::Idle
    } else if placed {
        Standing::Placed
    } else if pod.metadata.deletion_timestamp.is_some()
        || spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty())
        || spec.scheduler_name.as_deref().is_some_and(|name| !name.is_empty() && name != SCHEDULER_NAME)
    {
        Standing::Idle
    } else {
        Standing::Wanting
    }
}

#[cfg(test)]
mod tests;
