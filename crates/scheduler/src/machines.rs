//! Where the machines are that a VirtualMachine wants to be with or apart from, worked out once for a placement.

use std::collections::{HashMap, HashSet};

use yunfan_resources::Identified;
use yunfan_resources::compute::VmPlacement;

use crate::snapshot::Snapshot;
use crate::workload::{Object, Workload};

/// Rows of nodes by the machines on them.
#[derive(Debug, Default)]
pub(crate) struct NearMachines {
    /// Those with a machine that it must be apart from.
    pub(crate) different: HashSet<usize>,
    /// Those with a machine that it must be with.
    pub(crate) same: HashSet<usize>,
    /// How many of its group each has.
    pub(crate) group: HashMap<usize, u32>,
}

impl NearMachines {
    /// None for a workload that looks at no other machine: most, and for them nothing is looked through.
    pub(crate) fn of(snapshot: &Snapshot, workload: &Workload) -> Option<Self> {
        let Object::VirtualMachine(vm) = &workload.object else { return None };
        let placement = vm.spec.placement.as_ref().filter(|placement| looks(placement))?;
        let mut near = Self::default();
        for (row, other) in snapshot.machines() {
            if other.metadata.namespace != vm.metadata.namespace || other.metadata.uid == vm.metadata.uid {
                continue;
            }
            let id = other.id();
            if placement.different_node.contains(&id) {
                near.different.insert(row);
            }
            if placement.same_node.contains(&id) {
                near.same.insert(row);
            }
            let group = other.spec.placement.as_ref().and_then(|placement| placement.group.as_ref());
            if group.is_some() && group == placement.group.as_ref() {
                *near.group.entry(row).or_default() += 1;
            }
        }
        Some(near)
    }
}

fn looks(placement: &VmPlacement) -> bool {
    placement.group.is_some() || !placement.different_node.is_empty() || !placement.same_node.is_empty()
}
