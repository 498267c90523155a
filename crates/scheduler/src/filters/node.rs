//! Filters by what a node says of itself.

use super::Filter;
use crate::engine::{Cycle, Reason, Reasons};
use crate::workload::Workload;
use yunfan_resources::constraint::{self, Labels, taint_tolerated, tolerated};

/// Refuses nodes that are cordoned, unless the workload tolerates that.
pub struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn check<'a>(&self, cycle: &Cycle<'a>, row: usize, reasons: &mut Reasons<'a>) -> bool {
        let tolerations = &cycle.workload.tolerations;
        let fine = !cycle.snapshot.unschedulable[row]
            || tolerated(tolerations, "node.kubernetes.io/unschedulable", "", "NoSchedule");
        if !fine {
            reasons.add(Reason::Text("node(s) were unschedulable"));
        }
        fine
    }
}

/// Refuses nodes that do not say that they are ready, unless the workload tolerates that.
pub struct NodeReady;

impl Filter for NodeReady {
    fn name(&self) -> &'static str {
        "NodeReady"
    }

    fn check<'a>(&self, cycle: &Cycle<'a>, row: usize, reasons: &mut Reasons<'a>) -> bool {
        let tolerations = &cycle.workload.tolerations;
        let fine = cycle.snapshot.ready[row]
            || tolerated(tolerations, "node.kubernetes.io/not-ready", "", "NoSchedule");
        if !fine {
            reasons.add(Reason::Text("node(s) were not ready"));
        }
        fine
    }
}

/// Refuses nodes with a taint (NoSchedule, NoExecute) that the workload does not tolerate.
pub struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn check<'a>(&self, cycle: &Cycle<'a>, row: usize, reasons: &mut Reasons<'a>) -> bool {
        let untolerated = cycle.snapshot.taints[row].iter().find(|taint| {
            matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
                && !taint_tolerated(&cycle.workload.tolerations, taint)
        });
        if let Some(taint) = untolerated {
            reasons.add(Reason::Taint(taint));
        }
        untolerated.is_none()
    }
}

/// Whether a workload's node selector and node affinity select a node.
pub(crate) fn selects_node(workload: &Workload, name: &str, labels: &Labels) -> bool {
    constraint::selects_node(Some(&workload.node_selector), workload.required.as_deref(), name, labels)
}

/// Refuses nodes that the workload's node selector or node affinity does not select. (A wish for one node by its
/// name, as DaemonSets have it, is an affinity to the field `metadata.name`.)
pub struct NodeAffinity;

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn check<'a>(&self, cycle: &Cycle<'a>, row: usize, reasons: &mut Reasons<'a>) -> bool {
        let (labels, name) = (&cycle.snapshot.labels[row], &cycle.snapshot.names[row]);
        let fine = selects_node(cycle.workload, name, labels);
        if !fine {
            reasons.add(Reason::OfKind("node(s) didn't match ", "'s node affinity/selector"));
        }
        fine
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use crate::engine::Engine;
    use crate::engine::testing::{node, pod_with};
    use crate::snapshot::Snapshot;

    /// Whether a Pod of that spec fits on a node of that spec.
    fn fits(node_spec: Value, ready: bool, pod_spec: Value) -> bool {
        let mut node = node("n1", "4", "8Gi");
        node.spec = from_value(node_spec).unwrap();
        if !ready {
            node.status.as_mut().unwrap().conditions = None;
        }
        let mut snapshot = Snapshot::default();
        snapshot.set_node(&node);
        let mut spec = json!({"containers": []});
        spec.as_object_mut().unwrap().extend(pod_spec.as_object().unwrap().clone());
        Engine::default().place(&snapshot, &pod_with("p", spec)).is_ok()
    }

    #[test]
    fn taints_cordons_and_readiness() {
        let tainted = |effect: &str| json!({"taints": [{"key": "k", "value": "v", "effect": effect}]});
        let tolerating = |toleration: Value| json!({"tolerations": [toleration]});
        let nothing = || json!({});
        assert!(fits(nothing(), true, nothing()));
        assert!(!fits(nothing(), false, nothing()));
        assert!(!fits(tainted("NoSchedule"), true, nothing()));
        assert!(!fits(tainted("NoExecute"), true, nothing()));
        assert!(fits(tainted("PreferNoSchedule"), true, nothing()));
        assert!(fits(tainted("NoSchedule"), true, tolerating(json!({"key": "k", "value": "v"}))));
        assert!(!fits(tainted("NoSchedule"), true, tolerating(json!({"key": "k", "value": "w"}))));
        let cordoned = || json!({"unschedulable": true});
        assert!(!fits(cordoned(), true, nothing()));
        assert!(fits(
            cordoned(),
            true,
            tolerating(json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}))
        ));
        assert!(fits(
            nothing(),
            false,
            tolerating(json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists"}))
        ));
    }

    #[test]
    fn selectors_and_affinity() {
        let selecting = |labels: Value| json!({"nodeSelector": labels});
        assert!(fits(json!({}), true, selecting(json!({"kubernetes.io/hostname": "n1"}))));
        assert!(!fits(json!({}), true, selecting(json!({"kubernetes.io/hostname": "n2"}))));
        let named = |names: &[&str]| {
            let terms: Vec<Value> = names
                .iter()
                .map(|name| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}))
                .collect();
            json!({"affinity": {"nodeAffinity":
                {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
        };
        assert!(fits(json!({}), true, named(&["n1"])));
        assert!(!fits(json!({}), true, named(&["n2"])));
        assert!(fits(json!({}), true, named(&["n2", "n1"])), "one term is enough");
        assert!(!fits(json!({}), true, named(&[])), "no term selects no node");
    }
}
