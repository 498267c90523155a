//! The filter by room.

use super::Filter;
use crate::engine::{Cycle, Reason, Reasons};
use crate::snapshot::Column;
use crate::workload::EPHEMERAL_STORAGE;

/// Refuses nodes without room for what the workload requests. Each resource that is short is a reason of its own.
pub struct NodeResourcesFit;

impl NodeResourcesFit {
    /// Its name: room that comes free may help what it refused.
    pub const NAME: &'static str = "NodeResourcesFit";
}

impl Filter for NodeResourcesFit {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn check<'a>(&self, cycle: &Cycle<'a>, row: usize, reasons: &mut Reasons<'a>) -> bool {
        let (snapshot, requests) = (cycle.snapshot, &cycle.workload.requests);
        let mut fits = true;
        let mut short = |reason| {
            reasons.add(reason);
            fits = false;
        };
        if !snapshot.pods.fits(row, requests.pods) {
            short(Reason::Text("Too many pods"));
        }
        if !snapshot.cpu.fits(row, requests.cpu) {
            short(Reason::Insufficient("cpu"));
        }
        if !snapshot.memory.fits(row, requests.memory) {
            short(Reason::Insufficient("memory"));
        }
        for (name, amount, column) in &cycle.others {
            let there = column.is_some_and(|column| column.fits(row, *amount));
            let unsaid = column.is_none_or(|column| column.allocatable[row] == 0);
            let counts = *name != EPHEMERAL_STORAGE || !unsaid;
            if counts && !there {
                short(Reason::Insufficient(name));
            }
        }
        fits
    }

    /// What is more than the whole node has is not there when it is empty either.
    fn may_be_cleared(&self, cycle: &Cycle<'_>, row: usize) -> bool {
        let (snapshot, requests) = (cycle.snapshot, &cycle.workload.requests);
        let has = |column: &Column, amount: i64| amount <= column.allocatable[row];
        has(&snapshot.cpu, requests.cpu)
            && has(&snapshot.memory, requests.memory)
            && cycle.others.iter().all(|(name, amount, column)| {
                let unsaid = column.is_none_or(|column| column.allocatable[row] == 0);
                (*name == EPHEMERAL_STORAGE && unsaid) || column.is_some_and(|column| has(column, *amount))
            })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use yunfan_resources::compute::{VirtualMachine, VirtualMachineSpec, VmResources};

    use crate::SchedulerConfig;
    use crate::engine::Engine;
    use crate::engine::testing::{node, pod, pod_with};
    use crate::snapshot::Snapshot;
    use crate::workload::Workload;

    fn refusal(snapshot: &Snapshot, workload: &Workload) -> String {
        Engine::default().place(snapshot, workload).map_or_else(|refusal| refusal.message, |_| String::new())
    }

    #[test]
    fn every_resource_that_is_short_is_named() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(&node("n1", "1", "1Gi"));
        let asks = |requests| json!({"containers": [{"name": "c", "resources": {"requests": requests}}]});
        let wish = json!({"cpu": "2", "memory": "2Gi", "example.com/gpu": "1", "ephemeral-storage": "1Gi"});
        assert_eq!(
            refusal(&snapshot, &pod_with("p", asks(wish))),
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu, 1 Insufficient memory."
        );
        let exactly = json!({"cpu": "1", "memory": "1Gi", "example.com/gpu": "0"});
        assert_eq!(refusal(&snapshot, &pod_with("p", asks(exactly))), "");
    }

    #[test]
    fn a_full_node_still_takes_what_asks_for_nothing_until_it_has_too_many_pods() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(&node("n1", "1", "1Gi"));
        for n in 0..110 {
            assert_eq!(refusal(&snapshot, &pod("next", "0")), "");
            snapshot.assume(pod(&format!("p{n}"), if n == 0 { "1" } else { "0" }), 0);
        }
        assert_eq!(refusal(&snapshot, &pod("next", "0")), "0/1 nodes are available: 1 Too many pods.");
    }

    #[test]
    fn pods_and_machines_share_the_room() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(&node("n1", "1", "1Gi"));
        let vm = |name: &str, vcpus, memory_mib| {
            let mut vm = VirtualMachine::new(name, VirtualMachineSpec::default());
            vm.metadata.uid = Some(name.to_owned());
            vm.spec.resources = Some(VmResources { vcpus, memory_mib, disk_gib: 0 });
            Arc::new(Workload::from_vm(&Arc::new(vm), &SchedulerConfig::default()))
        };
        snapshot.assume(vm("a", 8, 512), 0);
        assert_eq!(refusal(&snapshot, &pod("p", "600m")), "0/1 nodes are available: 1 Insufficient cpu.");
        assert_eq!(refusal(&snapshot, &pod("p", "500m")), "");
        assert_eq!(refusal(&snapshot, &vm("b", 1, 512)), "0/1 nodes are available: 1 Insufficient memory.");
        assert_eq!(refusal(&snapshot, &vm("b", 8, 384)), "", "448 MiB with its overhead is what is left");
    }
}
