//! What nodes have and who takes it, by the scheduler's own accounting, in placement's units.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, Resource};
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::storage::Volume;
use yunfan_scheduler::SchedulerConfig;
use yunfan_scheduler::workload::{EPHEMERAL_STORAGE, Requests, Standing, Workload};

use crate::auth::Session;
use crate::error::Fault;
use crate::ids;
use crate::nova::CREATOR;

/// The classes of resources that nodes have, in the order in which they are listed.
pub(super) const CLASSES: [&str; 3] = ["VCPU", "MEMORY_MB", "DISK_GB"];

/// Traits that hold for every node, because the driver is the same on each.
const TRAITS: [&str; 6] = [
    "COMPUTE_IMAGE_TYPE_QCOW2",
    "COMPUTE_IMAGE_TYPE_RAW",
    "COMPUTE_NET_VIF_MODEL_VIRTIO",
    "COMPUTE_NODE",
    "COMPUTE_STORAGE_BUS_VIRTIO",
    "COMPUTE_VOLUME_EXTEND",
];
/// Trait of a node that takes no new machines.
const DISABLED: &str = "COMPUTE_STATUS_DISABLED";

/// Every trait that a node can have, sorted.
pub(super) fn all_traits() -> Vec<&'static str> {
    let mut all: Vec<&str> = TRAITS.into_iter().chain([DISABLED]).collect();
    all.sort_unstable();
    all
}

/// Amounts by class; a class that is not there is none.
pub(super) type Amounts = BTreeMap<&'static str, i64>;

/// What there is of one class on a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Inventory {
    /// As the node says it.
    pub(super) total: i64,
    /// How often each unit is promised.
    pub(super) ratio: f64,
}

impl Inventory {
    /// What can be allocated. (The fraction of a unit is nobody's.)
    pub(super) fn capacity(self) -> i64 {
        (self.total as f64 * self.ratio) as i64
    }

    /// `total`, `reserved`, …
    pub(super) fn json(self) -> Value {
        json!({
            "total": self.total, "reserved": 0, "min_unit": 1, "max_unit": self.capacity(), "step_size": 1,
            "allocation_ratio": self.ratio,
        })
    }
}

/// A node.
pub(super) struct Provider {
    pub(super) uuid: String,
    pub(super) name: String,
    pub(super) generation: i64,
    pub(super) inventories: BTreeMap<&'static str, Inventory>,
    pub(super) traits: Vec<&'static str>,
}

/// Something that takes of a node.
pub(super) struct Consumer {
    pub(super) uuid: String,
    /// `INSTANCE`, `POD` or `VOLUME`.
    pub(super) kind: &'static str,
    pub(super) node: String,
    pub(super) namespace: String,
    /// Id of the user who made it, where that is known.
    pub(super) user: String,
    pub(super) generation: i64,
    pub(super) amounts: Amounts,
}

/// The nodes and their consumers at one moment.
pub(super) struct Ledger {
    pub(super) providers: Vec<Provider>,
    pub(super) consumers: Vec<Consumer>,
}

impl Ledger {
    /// Reads the whole cloud as the caller; 403 for who may not.
    pub(super) async fn read(session: &Session) -> Result<Self, Fault> {
        Self::of(session.global(), session.everywhere(), session.everywhere(), session.everywhere()).await
    }

    async fn of(
        nodes: Api<Node>,
        pods: Api<Pod>,
        machines: Api<VirtualMachine>,
        volumes: Api<Volume>,
    ) -> Result<Self, Fault> {
        let (nodes, pods, machines, volumes) =
            tokio::try_join!(ids::list(&nodes), ids::list(&pods), ids::list(&machines), ids::list(&volumes))?;
        let config = SchedulerConfig::default();
        let consumers: Vec<Consumer> = consumers(&config, pods, machines, volumes).collect();
        let providers = nodes.iter().map(|node| provider(&config, node)).collect();
        Ok(Self { providers, consumers })
    }

    /// The node with this id.
    pub(super) fn provider(&self, uuid: &str) -> Result<&Provider, Fault> {
        let found = self.providers.iter().find(|provider| provider.uuid == uuid);
        found.ok_or_else(|| {
            let status = axum::http::StatusCode::NOT_FOUND;
            Fault::new(status, format!("No resource provider with uuid {uuid} found"))
        })
    }

    /// Who takes of a node.
    pub(super) fn consumers_of(&self, provider: &Provider) -> impl Iterator<Item = &Consumer> {
        self.consumers.iter().filter(|consumer| consumer.node == provider.name)
    }

    /// What is taken of a node, of each class that it has.
    pub(super) fn used(&self, provider: &Provider) -> Amounts {
        let taken = sum(self.consumers_of(provider));
        provider.inventories.keys().map(|class| (*class, taken.get(class).copied().unwrap_or(0))).collect()
    }

    /// The class of which a node has too little for one of its consumers to take so much instead. Classes of which it wants no more
    /// than it has, and those that the node says nothing of, are not looked at.
    fn lacking(&self, node: &str, consumer: &str, wanted: &Amounts) -> Option<&'static str> {
        let provider = self.providers.iter().find(|provider| provider.name == node)?;
        let (own, others): (Vec<_>, Vec<_>) =
            self.consumers_of(provider).partition(|one| one.uuid == consumer);
        let (own, others) = (sum(own.into_iter()), sum(others.into_iter()));
        let of = |amounts: &Amounts, class| amounts.get(class).copied().unwrap_or(0);
        let short = wanted.iter().find(|(class, amount)| {
            let capacity = provider.inventories.get(*class).map(|inventory| inventory.capacity());
            **amount > of(&own, *class)
                && capacity.is_some_and(|all| of(&others, *class).saturating_add(**amount) > all)
        });
        short.map(|(class, _)| *class)
    }

    /// Whether so much more is there. A class that the node does not have is not.
    pub(super) fn fits(&self, provider: &Provider, wanted: &[(String, i64)]) -> bool {
        if wanted.is_empty() {
            return true;
        }
        let used = self.used(provider);
        wanted.iter().all(|(class, amount)| {
            let inventory = provider.inventories.get(class.as_str());
            let taken = used.get(class.as_str()).copied().unwrap_or(0);
            inventory.is_some_and(|inventory| taken.saturating_add(*amount) <= inventory.capacity())
        })
    }
}

/// The class of resources of which a machine's node has too little for it to be as its spec says, if any. The cloud counts in its own
/// name: of others the answer tells no more than that.
pub(crate) async fn lacking(
    session: &Session,
    machine: &VirtualMachine,
) -> Result<Option<&'static str>, Fault> {
    fn all<K: Resource<DynamicType = ()>>(session: &Session) -> Api<K> {
        Api::all(session.door.system.clone())
    }
    let Some(node) = &machine.spec.node_name else { return Ok(None) };
    let ledger = Ledger::of(all(session), all(session), all(session), all(session)).await?;
    let config = SchedulerConfig::default();
    let wanted = amounts(&config, &Requests::of_machine(machine, &config.machines));
    Ok(ledger.lacking(node, &machine.id(), &wanted))
}

/// What consumers take together.
pub(super) fn sum<'a>(consumers: impl Iterator<Item = &'a Consumer>) -> Amounts {
    consumers.flat_map(|consumer| &consumer.amounts).fold(Amounts::new(), |mut all, (class, amount)| {
        *all.entry(class).or_default() += amount;
        all
    })
}

fn provider(config: &SchedulerConfig, node: &Node) -> Provider {
    let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    let total = |key: &str, unit: i64| {
        let quantity = allocatable.and_then(|all| all.get(key));
        quantity.and_then(|quantity| crate::quota::bytes(&quantity.0)).map(|amount| amount / unit)
    };
    let inventories = [
        ("VCPU", total("cpu", 1), config.machines.cpu_allocation_ratio),
        ("MEMORY_MB", total("memory", 1 << 20), config.machines.ram_allocation_ratio),
        ("DISK_GB", total(EPHEMERAL_STORAGE, 1 << 30), 1.0),
    ];
    let inventories = inventories
        .into_iter()
        .filter_map(|(class, total, ratio)| {
            Some((class, Inventory { total: total.filter(|n| *n > 0)?, ratio }))
        })
        .collect();
    let cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    let disabled = cordoned || !crate::nova::is_ready(node);
    let mut traits = TRAITS.to_vec();
    traits.extend(disabled.then_some(DISABLED));
    traits.sort_unstable();
    Provider {
        uuid: node.metadata.uid.clone().unwrap_or_default(),
        name: ids::name(node).to_owned(),
        generation: revision(node),
        inventories,
        traits,
    }
}

/// A number that moves on whenever an object changes.
fn revision<K: Resource>(object: &K) -> i64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn consumers(
    config: &SchedulerConfig,
    pods: Vec<Pod>,
    machines: Vec<VirtualMachine>,
    volumes: Vec<Volume>,
) -> impl Iterator<Item = Consumer> {
    let pods = pods.into_iter().map(|pod| {
        let (id, pod) = (pod.metadata.uid.clone().unwrap_or_default(), Arc::new(pod));
        (id, "POD", revision(&*pod), Workload::from_pod(&pod))
    });
    let machines = machines.into_iter().map(|vm| {
        let (id, vm) = (vm.id(), Arc::new(vm));
        (id, "INSTANCE", revision(&*vm), Workload::from_vm(&vm, config))
    });
    let volumes = volumes.into_iter().map(|volume| {
        let (id, volume) = (volume.id(), Arc::new(volume));
        (id, "VOLUME", revision(&*volume), Workload::from_volume(&volume))
    });
    pods.chain(machines).chain(volumes).filter_map(|(uuid, kind, generation, workload)| {
        let annotations = workload.object.metadata().annotations.as_ref();
        let user = annotations.and_then(|all| all.get(CREATOR)).cloned().unwrap_or_default();
        Some(Consumer {
            uuid,
            kind,
            node: workload.node.clone().filter(|_| workload.standing == Standing::Placed)?,
            namespace: workload.namespace().to_owned(),
            user,
            generation,
            amounts: amounts(config, &workload.requests),
        })
    })
}

/// The scheduler's numbers in placement's units, each rounded up. A Pod's CPUs are whole ones, of which a virtual CPU is a part.
fn amounts(config: &SchedulerConfig, requests: &Requests) -> Amounts {
    let up = |amount: i64, unit: i64| amount.saturating_add(unit - 1) / unit;
    let disk = requests.others.get(EPHEMERAL_STORAGE).copied().unwrap_or(0);
    // The scheduler has rounded a machine's share up to a thousandth of a CPU: that must not become one more virtual CPU.
    let vcpus = ((requests.cpu as f64 - 1.0) * config.machines.cpu_allocation_ratio / 1000.0).ceil() as i64;
    let vcpus = vcpus.max(i64::from(requests.cpu > 0));
    let all = [("VCPU", vcpus), ("MEMORY_MB", up(requests.memory, 1 << 20)), ("DISK_GB", up(disk, 1 << 30))];
    all.into_iter().filter(|(_, amount)| *amount > 0).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::from_value;
    use yunfan_resources::compute::{VirtualMachineSpec, VmResources};

    use super::*;

    fn ledger() -> Ledger {
        let config = SchedulerConfig::default();
        let node: Node = from_value(json!({
            "metadata": {"name": "n1", "uid": "u1", "resourceVersion": "7"},
            "status": {
                "allocatable": {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "10Gi"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
        .unwrap();
        let pod: Pod = from_value(json!({
            "metadata": {"name": "p", "namespace": "demo", "uid": "pod"},
            "spec": {"nodeName": "n1", "containers": [
                {"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "100Mi"}}}]},
        }))
        .unwrap();
        let spec = VirtualMachineSpec {
            id: Some("vm".into()),
            node_name: Some("n1".into()),
            resources: Some(VmResources { vcpus: 3, memory_mib: 512, disk_gib: 2 }),
            ..VirtualMachineSpec::default()
        };
        let waiting = VirtualMachine::new("w", VirtualMachineSpec { node_name: None, ..spec.clone() });
        let machines = vec![VirtualMachine::new("vm", spec), waiting];
        let consumers = consumers(&config, vec![pod], machines, vec![]).collect();
        Ledger { providers: vec![provider(&config, &node)], consumers }
    }

    #[test]
    fn pods_and_machines_are_charged_in_the_same_units() {
        let ledger = ledger();
        let provider = ledger.provider("u1").unwrap();
        assert_eq!(provider.inventories["VCPU"], Inventory { total: 4, ratio: 16.0 });
        assert_eq!((provider.generation, provider.traits.contains(&DISABLED)), (7, false));
        let amounts: Vec<(&str, &Amounts)> =
            ledger.consumers.iter().map(|one| (one.kind, &one.amounts)).collect();
        // 64 MiB are QEMU's own; half a CPU is eight of the sixteen virtual ones that share it.
        let pod = Amounts::from([("VCPU", 8), ("MEMORY_MB", 100)]);
        let vm = Amounts::from([("VCPU", 3), ("MEMORY_MB", 576), ("DISK_GB", 2)]);
        assert_eq!(amounts, [("POD", &pod), ("INSTANCE", &vm)]);
        assert_eq!(ledger.used(provider), Amounts::from([("VCPU", 11), ("MEMORY_MB", 676), ("DISK_GB", 2)]));
        let want = |class: &str, amount| ledger.fits(provider, &[(class.to_owned(), amount)]);
        assert!(want("VCPU", 53) && !want("VCPU", 54));
        assert!(want("DISK_GB", 8) && !want("DISK_GB", 9) && !want("VGPU", 1));
        assert!(ledger.provider("u2").is_err());
        let short = |class, amount| ledger.lacking("n1", "vm", &Amounts::from([(class, amount)]));
        assert_eq!((short("VCPU", 56), short("VCPU", 57)), (None, Some("VCPU")));
        assert_eq!((short("DISK_GB", 10), short("DISK_GB", 11)), (None, Some("DISK_GB")));
        assert_eq!((short("VGPU", 1), ledger.lacking("n2", "vm", &Amounts::new())), (None, None));
    }
}
