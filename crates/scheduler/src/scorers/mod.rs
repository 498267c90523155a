//! Which of the nodes that a workload can be on is best.

use yunfan_resources::compute::GroupPolicy;

use crate::engine::Cycle;
use crate::workload::Object;
use yunfan_resources::constraint::{taint_tolerated, term_matches};

/// The best score.
pub const MAX_SCORE: i64 = 100;

/// One view of what makes a node good.
pub trait Scorer: Send + Sync {
    /// Its name, Kubernetes' where Kubernetes has it.
    fn name(&self) -> &'static str;

    /// How good the node in `row` is: 0 to [`MAX_SCORE`]. It is judged by itself, not against others, so
    /// that one pass over the nodes is enough.
    fn score(&self, cycle: &Cycle<'_>, row: usize) -> i64;
}

/// The scorers of a cloud with their weights.
pub fn standard() -> Vec<(Box<dyn Scorer>, i64)> {
    vec![
        (Box::new(LeastAllocated), 1),
        (Box::new(BalancedAllocation), 1),
        (Box::new(PreferredTaints), 3),
        (Box::new(PreferredNodes), 2),
        (Box::new(SoftGroups), 5),
    ]
}

/// Leads a machine of a group with a soft policy to the others, or away from them (Nova's weighers
/// `ServerGroupSoftAffinityWeigher` and `ServerGroupSoftAntiAffinityWeigher`).
pub struct SoftGroups;

impl Scorer for SoftGroups {
    fn name(&self) -> &'static str {
        "ServerGroupSoftAffinity"
    }

    fn score(&self, cycle: &Cycle<'_>, row: usize) -> i64 {
        let (Object::VirtualMachine(vm), Some(near)) = (&cycle.workload.object, &cycle.machines) else {
            return 0;
        };
        let all: i64 = near.group.values().map(|count| i64::from(*count)).sum();
        let here = near.group.get(&row).map_or(0, |count| i64::from(*count));
        let share = here * MAX_SCORE / all.max(1);
        match vm.spec.placement.as_ref().and_then(|placement| placement.policy) {
            Some(GroupPolicy::SoftAffinity) => share,
            Some(GroupPolicy::SoftAntiAffinity) => MAX_SCORE - share,
            _ => 0,
        }
    }
}

/// What part of its CPU and memory a node would have in use with the workload on it, 0 to 1.
fn fractions(cycle: &Cycle<'_>, row: usize) -> [f64; 2] {
    let (snapshot, requests) = (cycle.snapshot, &cycle.workload.requests);
    let part = |used: i64, more: i64, all: i64| {
        if all <= 0 { 1.0 } else { (used.saturating_add(more) as f64 / all as f64).clamp(0.0, 1.0) }
    };
    [
        part(snapshot.counted_cpu[row], requests.counted_cpu(), snapshot.cpu.allocatable[row]),
        part(snapshot.counted_memory[row], requests.counted_memory(), snapshot.memory.allocatable[row]),
    ]
}

/// Prefers nodes with much room left.
pub struct LeastAllocated;

impl Scorer for LeastAllocated {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn score(&self, cycle: &Cycle<'_>, row: usize) -> i64 {
        let [cpu, memory] = fractions(cycle, row);
        ((2.0 - cpu - memory) / 2.0 * MAX_SCORE as f64) as i64
    }
}

/// Prefers nodes that would have as much of their CPU in use as of their memory: neither is then left over.
pub struct BalancedAllocation;

impl Scorer for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn score(&self, cycle: &Cycle<'_>, row: usize) -> i64 {
        let [cpu, memory] = fractions(cycle, row);
        // Of two values the standard deviation is half their distance.
        ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
    }
}

/// Prefers nodes without PreferNoSchedule taints that the workload does not tolerate.
pub struct PreferredTaints;

impl Scorer for PreferredTaints {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn score(&self, cycle: &Cycle<'_>, row: usize) -> i64 {
        let unwelcome = cycle.snapshot.taints[row]
            .iter()
            .filter(|taint| {
                taint.effect == "PreferNoSchedule" && !taint_tolerated(&cycle.workload.tolerations, taint)
            })
            .count();
        MAX_SCORE / (1 + i64::try_from(unwelcome).unwrap_or(MAX_SCORE))
    }
}

/// Prefers nodes that the workload's preferred node affinity selects.
pub struct PreferredNodes;

impl Scorer for PreferredNodes {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn score(&self, cycle: &Cycle<'_>, row: usize) -> i64 {
        let (mut met, mut all) = (0, 0);
        for wish in &cycle.workload.preferred {
            let weight = i64::from(wish.weight);
            all += weight;
            if term_matches(&wish.preference, &cycle.snapshot.names[row], &cycle.snapshot.labels[row]) {
                met += weight;
            }
        }
        if all <= 0 { 0 } else { met * MAX_SCORE / all }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use crate::engine::Engine;
    use crate::engine::testing::{node, pod, pod_with};
    use crate::snapshot::Snapshot;

    /// The node chosen, whichever row the pass begins at.
    fn best(snapshot: &Snapshot, workload: &crate::workload::Workload) -> String {
        let mut engine = Engine::default();
        let rows: Vec<usize> =
            (0..snapshot.rows() * 2).map(|_| engine.place(snapshot, workload).unwrap()).collect();
        assert!(rows.iter().all(|row| *row == rows[0]), "{rows:?}");
        snapshot.names[rows[0]].clone()
    }

    #[test]
    fn the_emptier_node_is_better_also_for_pods_that_request_nothing() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(&node("n1", "4", "8Gi"));
        snapshot.set_node(&node("n2", "4", "8Gi"));
        snapshot.assume(pod("a", "0"), 0);
        assert_eq!(best(&snapshot, &pod("p", "0")), "n2");
        snapshot.assume(pod("b", "2"), 1);
        assert_eq!(best(&snapshot, &pod("p", "1")), "n1");
    }

    #[test]
    fn equal_nodes_take_turns() {
        let mut snapshot = Snapshot::default();
        for name in ["n1", "n2", "n3"] {
            snapshot.set_node(&node(name, "4", "8Gi"));
        }
        let mut engine = Engine::default();
        let mut rows: Vec<usize> = (0..3).map(|_| engine.place(&snapshot, &pod("p", "1")).unwrap()).collect();
        rows.sort_unstable();
        assert_eq!(rows, [0, 1, 2]);
    }

    #[test]
    fn the_balanced_node_is_better() {
        let mut snapshot = Snapshot::default();
        // With the pod, the one has a quarter of both in use, the other half of the CPU and none of the memory.
        snapshot.set_node(&node("balanced", "4", "4Gi"));
        snapshot.set_node(&node("skewed", "2", "4096Gi"));
        let spec =
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}]});
        assert_eq!(best(&snapshot, &pod_with("p", spec)), "balanced");
    }

    #[test]
    fn preferences_outweigh_room() {
        let mut snapshot = Snapshot::default();
        let mut tainted = node("tainted", "64", "64Gi");
        let taint = json!({"taints": [{"key": "k", "effect": "PreferNoSchedule"}]});
        tainted.spec = from_value(taint).unwrap();
        snapshot.set_node(&tainted);
        snapshot.set_node(&node("plain", "2", "2Gi"));
        assert_eq!(best(&snapshot, &pod("p", "500m")), "plain");
        let tolerating = json!({"containers": [], "tolerations": [{"operator": "Exists"}]});
        assert_eq!(best(&snapshot, &pod_with("p", tolerating)), "tainted");
        let wish = json!({"containers": [], "affinity": {"nodeAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": {"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": ["plain"]}]}}]}}});
        assert_eq!(best(&snapshot, &pod_with("p", wish)), "plain");
    }
}
