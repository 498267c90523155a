//! What a workload takes of its node. Of a Pod that is what it asks for (Kubernetes' documentation, "Resource Management for Pods and
//! Containers", "Sidecar Containers", "Pod Overhead"). Whoever places workloads and whoever runs them count alike.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use yunfan_objects::Quantity;

use crate::compute::{VirtualMachine, VmResources};

/// An amount that no node has: what a request that cannot be read is taken for.
pub const IMPOSSIBLE: i64 = i64::MAX / 4;
/// Disk of a node that its workloads share. It counts on nodes that say how much they have of it.
pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// What a Pod that requests no CPU is taken to use when nodes are compared, thousandths (Kubernetes' value).
const USUAL_CPU_MILLI: i64 = 100;
/// What a Pod that requests no memory is taken to use when nodes are compared, bytes (Kubernetes' value).
const USUAL_MEMORY: i64 = 200 << 20;

/// Amounts by resource names, as objects have them.
pub type Amounts = BTreeMap<String, RawQuantity>;

/// What a workload takes of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// CPU, thousandths.
    pub cpu: i64,
    /// Memory, bytes.
    pub memory: i64,
    /// Pods: 1 for a Pod, 0 for anything else.
    pub pods: i64,
    /// Anything else that may be requested, by name.
    pub others: BTreeMap<String, i64>,
}

/// How VirtualMachines are charged to their node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MachineCharge {
    /// Virtual CPUs that share one CPU of the node (Nova's `cpu_allocation_ratio`, with Nova's default 16): a guest
    /// is idle most of the time. A VirtualMachine requests `vcpus / ratio` CPUs.
    pub cpu_allocation_ratio: f64,
    /// Guest memory that shares one byte of the node's (Nova's `ram_allocation_ratio`). 1.0: memory that a guest has
    /// touched does not come back, so more than there is must not be promised.
    pub ram_allocation_ratio: f64,
    /// Memory that QEMU itself takes beside the guest's, bytes.
    pub overhead_bytes: i64,
}

impl Default for MachineCharge {
    fn default() -> Self {
        Self { cpu_allocation_ratio: 16.0, ram_allocation_ratio: 1.0, overhead_bytes: 64 << 20 }
    }
}

impl Requests {
    /// What a VirtualMachine takes: its CPUs and its memory over their ratios, QEMU's own memory, and its disk. While a resize can
    /// be reverted, there is room for either size.
    pub fn of_machine(machine: &VirtualMachine, charge: &MachineCharge) -> Self {
        let Some(mut resources) = machine.spec.resources.clone() else { return Self::default() };
        if let Some(before) = machine.spec.resized_from.as_ref().map(|from| &from.resources) {
            resources = VmResources {
                vcpus: resources.vcpus.max(before.vcpus),
                memory_mib: resources.memory_mib.max(before.memory_mib),
                disk_gib: resources.disk_gib.max(before.disk_gib),
            };
        }
        // Rounded up: a share of a CPU that is not counted would be promised twice. `as` saturates.
        let over = |amount: f64, ratio: f64| (amount / ratio.max(f64::MIN_POSITIVE)).ceil() as i64;
        let memory = over(f64::from(resources.memory_mib) * 1_048_576.0, charge.ram_allocation_ratio);
        // What it boots from is charged where it is: here for a disk of its own, else with the Volume.
        let disk_gib = if machine.boot_volume().is_some() { 0 } else { resources.disk_gib };
        Self {
            cpu: over(f64::from(resources.vcpus) * 1000.0, charge.cpu_allocation_ratio).min(IMPOSSIBLE),
            memory: memory.min(IMPOSSIBLE).saturating_add(charge.overhead_bytes),
            ..Self::of_disk(disk_gib)
        }
    }

    /// What a disk of so many GiB takes of what Pods call ephemeral storage: the file system of the node's data directory.
    pub fn of_disk(gib: u32) -> Self {
        let others = match i64::from(gib) << 30 {
            0 => BTreeMap::new(),
            bytes => BTreeMap::from([(EPHEMERAL_STORAGE.to_owned(), bytes)]),
        };
        Self { others, ..Self::default() }
    }

    /// What a Pod takes: its containers that run together, or the largest step of the initialization if that is more; what it asks
    /// for as a whole goes before that; plus the overhead.
    pub fn of_pod(spec: &PodSpec) -> Self {
        Self::of_pod_by(spec, Self::of_container)
    }

    /// As [`Requests::of_pod`], where `of` says what one container takes.
    pub fn of_pod_by(spec: &PodSpec, of: impl Fn(&Container) -> Self) -> Self {
        let mut all = Self::of_containers_by(spec, of);
        if let Some(whole) = spec.resources.as_ref().map(Self::of_requirements) {
            all.cpu = if whole.cpu > 0 { whole.cpu } else { all.cpu };
            all.memory = if whole.memory > 0 { whole.memory } else { all.memory };
        }
        all.add(&Self::of_amounts(spec.overhead.iter().flatten()));
        all.pods = 1;
        all
    }

    /// What the containers of a Pod take, without what is said of it as a whole, and without the overhead.
    pub fn of_containers(spec: &PodSpec) -> Self {
        Self::of_containers_by(spec, Self::of_container)
    }

    fn of_containers_by(spec: &PodSpec, of: impl Fn(&Container) -> Self) -> Self {
        let mut together = Self::default();
        for container in &spec.containers {
            together.add(&of(container));
        }
        // Sidecars run beside the init containers after them, and beside the containers.
        let (mut sidecars, mut largest_step) = (Self::default(), Self::default());
        for container in spec.init_containers.iter().flatten() {
            let own = of(container);
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars.add(&own);
                largest_step.max(&sidecars);
            } else {
                let mut step = own;
                step.add(&sidecars);
                largest_step.max(&step);
            }
        }
        together.add(&sidecars);
        together.max(&largest_step);
        together
    }

    /// What one container takes.
    pub fn of_container(container: &Container) -> Self {
        container.resources.as_ref().map(Self::of_requirements).unwrap_or_default()
    }

    /// A limit without a request is a request too.
    fn of_requirements(resources: &ResourceRequirements) -> Self {
        Self::of_amounts(resources.limits.iter().flatten().chain(resources.requests.iter().flatten()))
    }

    /// Amounts as they are; of two for one resource the later one counts.
    pub fn of_amounts<'a>(amounts: impl Iterator<Item = (&'a String, &'a RawQuantity)>) -> Self {
        let mut found = Self::default();
        for (name, quantity) in amounts {
            match name.as_str() {
                "cpu" => found.cpu = milli(quantity),
                "memory" => found.memory = units(quantity),
                "pods" => {}
                other => {
                    found.others.insert(other.to_owned(), units(quantity));
                }
            }
        }
        found
    }

    /// How much of one resource: thousandths of CPUs, whole units of anything else.
    pub fn amount(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu,
            "memory" => self.memory,
            "pods" => self.pods,
            other => self.others.get(other).copied().unwrap_or(0),
        }
    }

    /// Adds what another takes.
    pub fn add(&mut self, other: &Self) {
        self.cpu = self.cpu.saturating_add(other.cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.pods = self.pods.saturating_add(other.pods);
        for (name, amount) in &other.others {
            let sum = self.others.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    fn max(&mut self, other: &Self) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        for (name, amount) in &other.others {
            let most = self.others.entry(name.clone()).or_default();
            *most = (*most).max(*amount);
        }
    }

    /// CPU that it is taken to use when nodes are compared, thousandths: something, also where nothing is requested,
    /// so that such Pods are spread too.
    pub fn counted_cpu(&self) -> i64 {
        if self.cpu == 0 { USUAL_CPU_MILLI } else { self.cpu }
    }

    /// As [`Requests::counted_cpu`], for memory, bytes.
    pub fn counted_memory(&self) -> i64 {
        if self.memory == 0 { USUAL_MEMORY } else { self.memory }
    }
}

/// How much there is of a resource: thousandths of CPUs, whole units of anything else.
pub fn amount(name: &str, quantity: &RawQuantity) -> i64 {
    if name == "cpu" { milli(quantity) } else { units(quantity) }
}

/// In thousandths.
pub fn milli(quantity: &RawQuantity) -> i64 {
    parse(quantity).map_or(IMPOSSIBLE, |quantity| i64::try_from(quantity.milli()).unwrap_or(IMPOSSIBLE))
}

/// In whole units.
pub fn units(quantity: &RawQuantity) -> i64 {
    parse(quantity).map_or(IMPOSSIBLE, Quantity::units)
}

fn parse(quantity: &RawQuantity) -> Option<Quantity> {
    quantity.0.parse().ok().filter(|quantity: &Quantity| !quantity.is_negative())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn requests(spec: Value) -> Requests {
        Requests::of_pod(&from_value(spec).unwrap())
    }

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    fn takes(spec: Value) -> (i64, i64) {
        let requests = requests(spec);
        assert_eq!(requests.pods, 1);
        (requests.cpu, requests.memory >> 20)
    }

    #[test]
    fn a_pod_takes_its_containers_or_its_largest_init_step() {
        let two = json!([container("100m", "1Mi"), container("1", "2Mi")]);
        assert_eq!(takes(json!({"containers": two})), (1100, 3));
        assert_eq!(
            takes(
                json!({"containers": two, "initContainers": [container("2", "1Mi"), container("3", "1Mi")]})
            ),
            (3000, 3)
        );
        let mut sidecar = container("500m", "1Mi");
        sidecar["restartPolicy"] = "Always".into();
        assert_eq!(
            takes(
                json!({"containers": two, "initContainers": [container("2", "1Mi"), sidecar, container("3", "1Mi")]})
            ),
            (3500, 4)
        );
        assert_eq!(
            takes(json!({"containers": two, "overhead": {"cpu": "10m", "memory": "10Mi"}})),
            (1110, 13)
        );
        assert_eq!(
            takes(json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "2"}}}]})),
            (2000, 0)
        );
        assert_eq!(takes(json!({"containers": two, "resources": {"requests": {"cpu": "4"}}})), (4000, 3));
        assert_eq!(takes(json!({"containers": []})), (0, 0));
    }

    #[test]
    fn a_machine_takes_room_for_the_size_that_it_may_go_back_to() {
        let size = |vcpus, memory_mib| json!({"vcpus": vcpus, "memoryMib": memory_mib, "diskGib": 1});
        let mut vm =
            VirtualMachine::new("vm", from_value(json!({"flavor": "f", "resources": size(16, 64)})).unwrap());
        let memory = |vm: &VirtualMachine| Requests::of_machine(vm, &MachineCharge::default()).memory >> 20;
        assert_eq!(memory(&vm), 128);
        vm.spec.resized_from = Some(from_value(json!({"flavor": "g", "resources": size(1, 512)})).unwrap());
        assert_eq!(memory(&vm), 576);
        assert_eq!(Requests::of_machine(&vm, &MachineCharge::default()).cpu, 1000);
    }

    #[test]
    fn other_resources_and_unreadable_ones() {
        let requests = requests(json!({"containers": [
            {"name": "a", "resources": {"requests": {"example.com/gpu": "2"}}},
            {"name": "b", "resources": {"requests": {"example.com/gpu": 1, "cpu": "-1", "memory": "lots"}}},
        ]}));
        assert_eq!((requests.amount("example.com/gpu"), requests.amount("none")), (3, 0));
        assert_eq!((requests.cpu, requests.memory), (IMPOSSIBLE, IMPOSSIBLE));
    }
}
