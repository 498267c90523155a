//! The filter by where volumes are.

use super::Filter;
use crate::engine::{Cycle, Reason, Reasons};
use crate::workload::Object;

/// Refuses nodes that a VirtualMachine's Volumes are not on, and for a Volume those that the machine that has it is not on; and all for a
/// Volume whose type demands what none has.
pub struct VolumeNode;

impl VolumeNode {
    /// Its name: a Volume that comes, or a machine that goes, may help what it refused.
    pub const NAME: &'static str = "VolumeNode";
}

impl Filter for VolumeNode {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn check<'a>(&self, cycle: &Cycle<'a>, row: usize, reasons: &mut Reasons<'a>) -> bool {
        let (snapshot, workload) = (cycle.snapshot, cycle.workload);
        let here = snapshot.names[row].as_str();
        let reason = match &workload.object {
            Object::Pod(_) => None,
            Object::VirtualMachine(vm) => vm.spec.volumes.iter().find_map(|wish| {
                match snapshot.volume_node(workload.namespace(), &wish.volume) {
                    // It was there when the machine was written: word of it comes in a moment.
                    None => Some("node(s) waited for a volume to be known"),
                    Some(Some(node)) if node != here => Some("node(s) didn't have the machine's volumes"),
                    Some(_) => None,
                }
            }),
            Object::Volume(volume) if volume.spec.unmet.is_some() => {
                Some("node(s) didn't have what the volume's type demands")
            }
            Object::Volume(_) => snapshot
                .holder_node(workload.namespace(), workload.name())
                .filter(|node| *node != here)
                .map(|_| "node(s) didn't have the volume's machine"),
        };
        if let Some(text) = reason {
            reasons.add(Reason::Text(text));
        }
        reason.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use yunfan_resources::compute::{VirtualMachine, VirtualMachineSpec, VmResources, VolumeAttachment};
    use yunfan_resources::storage::{Volume, VolumeSpec};

    use crate::SchedulerConfig;
    use crate::engine::Engine;
    use crate::engine::testing::node;
    use crate::snapshot::Snapshot;
    use crate::workload::Workload;

    fn volume(name: &str) -> (Volume, Arc<Workload>) {
        let mut volume = Volume::new(name, VolumeSpec { size_gib: 1, ..VolumeSpec::default() });
        volume.metadata.namespace = Some("demo".into());
        volume.metadata.uid = Some(format!("uid-{name}"));
        let workload = Arc::new(Workload::from_volume(&Arc::new(volume.clone())));
        (volume, workload)
    }

    fn machine(name: &str, volumes: &[&str]) -> (VirtualMachine, Arc<Workload>) {
        let wish = |name: &&str| VolumeAttachment { volume: (*name).into(), ..VolumeAttachment::default() };
        let spec = VirtualMachineSpec {
            resources: Some(VmResources { vcpus: 1, memory_mib: 64, disk_gib: 0 }),
            volumes: volumes.iter().map(wish).collect(),
            ..VirtualMachineSpec::default()
        };
        let mut vm = VirtualMachine::new(name, spec);
        vm.metadata.namespace = Some("demo".into());
        vm.metadata.uid = Some(format!("uid-{name}"));
        let workload = Arc::new(Workload::from_vm(&Arc::new(vm.clone()), &SchedulerConfig::default()));
        (vm, workload)
    }

    fn three_nodes() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for name in ["n1", "n2", "n3"] {
            snapshot.set_node(&node(name, "4", "8Gi"));
        }
        snapshot
    }

    #[test]
    fn a_machine_goes_where_its_volumes_are() {
        let (mut snapshot, mut engine) = (three_nodes(), Engine::default());
        let (vm, workload) = machine("vm", &["data"]);
        snapshot.volumes_mut().set_machine(&vm);
        let refusal = engine.place(&snapshot, &workload).unwrap_err();
        assert_eq!(refusal.message, "0/3 nodes are available: 3 node(s) waited for a volume to be known.");
        let (data, data_workload) = volume("data");
        snapshot.volumes_mut().set(&data);
        snapshot.assume(data_workload, 2);
        for _ in 0..4 {
            assert_eq!(engine.place(&snapshot, &workload).unwrap(), 2);
        }
        let (other, other_workload) = volume("other");
        snapshot.volumes_mut().set(&other);
        snapshot.assume(other_workload, 0);
        let (_, both) = machine("both", &["data", "other"]);
        let refusal = engine.place(&snapshot, &both).unwrap_err();
        assert!(
            refusal.message.contains("3 node(s) didn't have the machine's volumes"),
            "{}",
            refusal.message
        );
        assert_eq!(refusal.filters, engine.bit("VolumeNode"));
    }

    #[test]
    fn a_volume_goes_where_its_machine_is_and_anywhere_without_one() {
        let (mut snapshot, mut engine) = (three_nodes(), Engine::default());
        let (vm, workload) = machine("vm", &["data"]);
        let (data, data_workload) = volume("data");
        snapshot.volumes_mut().set(&data);
        snapshot.volumes_mut().set_machine(&vm);
        snapshot.assume(workload, 1);
        for _ in 0..4 {
            assert_eq!(engine.place(&snapshot, &data_workload).unwrap(), 1);
        }
        snapshot.volumes_mut().remove_machine(&vm);
        let rows: std::collections::BTreeSet<usize> =
            (0..6).map(|_| engine.place(&snapshot, &data_workload).unwrap()).collect();
        assert!(rows.len() > 1, "{rows:?}");
    }

    #[test]
    fn a_volume_goes_where_the_other_volumes_of_its_machine_are() {
        let (mut snapshot, mut engine) = (three_nodes(), Engine::default());
        let (vm, _) = machine("vm", &["data", "more"]);
        let ((data, data_workload), (more, more_workload)) = (volume("data"), volume("more"));
        snapshot.volumes_mut().set(&data);
        snapshot.volumes_mut().set(&more);
        snapshot.volumes_mut().set_machine(&vm);
        snapshot.assume(more_workload, 2);
        for _ in 0..4 {
            assert_eq!(engine.place(&snapshot, &data_workload).unwrap(), 2);
        }
    }

    #[test]
    fn disks_are_charged_where_they_lie() {
        let mut vm = machine("vm", &["root"]).0;
        vm.spec.resources.as_mut().unwrap().disk_gib = 5;
        let disk = |vm: &VirtualMachine| {
            let requests = Workload::from_vm(&Arc::new(vm.clone()), &SchedulerConfig::default()).requests;
            requests.others.get("ephemeral-storage").copied()
        };
        assert_eq!(disk(&vm), Some(5 << 30));
        vm.spec.volumes[0].boot = true;
        assert_eq!(disk(&vm), None, "its Volume is charged");
        assert_eq!(volume("v").1.requests.others["ephemeral-storage"], 1 << 30);
    }
}
