//! One placement: every node is filtered, those that are left are scored, the best one is taken.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;

use crate::claims::Needs;
use crate::filters::{self, Filter, VolumeBinding};
use crate::machines::NearMachines;
use crate::peers::Near;
use crate::scorers::{self, Scorer};
use crate::snapshot::{Column, Snapshot};
use crate::workload::{Object, Workload};

/// What filters and scorers look at in one placement.
pub struct Cycle<'a> {
    /// The nodes.
    pub snapshot: &'a Snapshot,
    /// What is to be placed.
    pub workload: &'a Workload,
    /// What it requests beside CPU, memory and pods, with its column; none if no node offers it.
    pub others: Vec<(&'a str, i64, Option<&'a Column>)>,
    /// What the Pods that are placed already mean for it; none for a VirtualMachine.
    pub(crate) near: Option<Arc<Near>>,
    /// Where the machines are that it wants to be with or apart from; none where it looks at no other.
    pub(crate) machines: Option<NearMachines>,
    /// What its claims mean for it, or why they keep it from all nodes; none where it has none.
    pub(crate) needs: Result<Option<Needs<'a>>, String>,
}

impl<'a> Cycle<'a> {
    fn new(snapshot: &'a Snapshot, workload: &'a Workload) -> Self {
        Self::with(snapshot, workload, Near::new(snapshot, workload).map(Arc::new))
    }

    /// With what the Pods near mean for the workload, as it was worked out before.
    fn with(snapshot: &'a Snapshot, workload: &'a Workload, near: Option<Arc<Near>>) -> Self {
        let others = workload.requests.others.iter().filter(|(_, amount)| **amount > 0);
        let others = others.map(|(name, amount)| (name.as_str(), *amount, snapshot.other(name))).collect();
        let needs = match &workload.object {
            Object::Pod(pod) => Needs::of(snapshot, pod),
            _ => Ok(None),
        };
        let machines = NearMachines::of(snapshot, workload);
        Self { snapshot, workload, others, near, machines, needs }
    }
}

/// Why a node is not for a workload.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason<'a> {
    /// These words.
    Text(&'static str),
    /// Words that name the kind of the workload in the middle.
    OfKind(&'static str, &'static str),
    /// Too little of a resource.
    Insufficient(&'a str),
    /// A taint that it does not tolerate.
    Taint(&'a Taint),
}

/// The reasons of all nodes that were refused, counted. Nothing is allocated while no node is refused.
#[derive(Default)]
pub struct Reasons<'a> {
    counts: Vec<(Reason<'a>, u32)>,
    filters: u32,
}

impl<'a> Reasons<'a> {
    /// Counts a reason for one node.
    pub fn add(&mut self, reason: Reason<'a>) {
        match self.counts.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += 1,
            None => self.counts.push((reason, 1)),
        }
    }

    /// What people read, as Kubernetes words it, for a workload of that kind; with how many nodes it is about.
    fn texts(&self, kind: &str) -> impl Iterator<Item = (String, u32)> {
        self.counts.iter().map(move |(reason, count)| (reason.text(kind), *count))
    }

    fn message(&self, kind: &str, nodes: u32) -> String {
        if nodes == 0 {
            return "no nodes available to schedule pods"
                .replace("pods", if kind == "Pod" { "pods" } else { "virtual machines" });
        }
        sentence(nodes, self.texts(kind))
    }
}

impl Reason<'_> {
    fn text(&self, kind: &str) -> String {
        match self {
            Self::Text(text) => (*text).to_owned(),
            Self::OfKind(before, after) => format!("{before}{kind}{after}"),
            Self::Insufficient(resource) => format!("Insufficient {resource}"),
            Self::Taint(taint) => format!(
                "node(s) had untolerated taint {{{}: {}}}",
                taint.key,
                taint.value.as_deref().unwrap_or_default()
            ),
        }
    }
}

/// Kubernetes' sentence about so many nodes that are all not available, with the reasons and how often each holds.
pub(crate) fn sentence(nodes: u32, reasons: impl Iterator<Item = (String, u32)>) -> String {
    let mut texts: Vec<String> = reasons.map(|(text, count)| format!("{count} {text}")).collect();
    texts.sort();
    format!("0/{nodes} nodes are available: {}.", texts.join(", "))
}

/// Why there is no node for a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.`
    pub message: String,
    /// Which filters refused a node: bit n is the n-th of the engine's.
    pub filters: u32,
}

/// Filters and scorers, in order.
pub struct Engine {
    filters: Vec<Box<dyn Filter>>,
    scorers: Vec<(Box<dyn Scorer>, i64)>,
    /// Moves on with each placement, so that equal nodes take turns.
    turn: usize,
}

impl Default for Engine {
    fn default() -> Self {
        Self::new(filters::standard(), scorers::standard())
    }
}

impl Engine {
    /// An engine with these filters (at most 32, the cheap and telling ones first) and weighted scorers.
    pub fn new(filters: Vec<Box<dyn Filter>>, scorers: Vec<(Box<dyn Scorer>, i64)>) -> Self {
        Self { filters, scorers, turn: 0 }
    }

    /// The bit in [`Refusal::filters`] of the filter with that name; 0 if there is none.
    pub fn bit(&self, name: &str) -> u32 {
        self.filters.iter().position(|filter| filter.name() == name).map_or(0, |at| 1 << at.min(31))
    }

    /// Why the node in `row` is not for `workload`, in the words of the first filter that refuses it.
    ///
    /// # Errors
    /// These words; one for each resource that is short, and a claim's for all nodes.
    pub(crate) fn fits(
        &self,
        snapshot: &Snapshot,
        workload: &Workload,
        row: usize,
    ) -> Result<(), Vec<String>> {
        self.fits_near(snapshot, workload, row, Near::new(snapshot, workload).map(Arc::new))
    }

    /// As [`Self::fits`], with what the Pods near mean for the workload: to work that out takes a look at all of them.
    pub(crate) fn fits_near(
        &self,
        snapshot: &Snapshot,
        workload: &Workload,
        row: usize,
        near: Option<Arc<Near>>,
    ) -> Result<(), Vec<String>> {
        let cycle = Cycle::with(snapshot, workload, near);
        if let Err(why) = &cycle.needs {
            return Err(vec![why.clone()]);
        }
        let mut reasons = Reasons::default();
        if self.filters.iter().all(|filter| filter.check(&cycle, row, &mut reasons)) {
            return Ok(());
        }
        Err(reasons.texts(workload.kind()).map(|(text, _)| text).collect())
    }

    /// The rows of nodes that refuse `workload` for something that may be otherwise when Pods are gone from there,
    /// beginning with another one each time.
    pub(crate) fn clearable(&self, snapshot: &Snapshot, workload: &Workload) -> Vec<usize> {
        let cycle = Cycle::new(snapshot, workload);
        if cycle.needs.is_err() {
            return Vec::new();
        }
        let mut rows: Vec<usize> = (0..snapshot.rows())
            .filter(|row| snapshot.present[*row])
            .filter(|row| {
                let refusing =
                    self.filters.iter().find(|filter| !filter.check(&cycle, *row, &mut Reasons::default()));
                refusing.is_some_and(|filter| filter.may_be_cleared(&cycle, *row))
            })
            .collect();
        let first = self.turn % rows.len().max(1);
        rows.rotate_left(first);
        rows
    }

    /// The row of the best node for `workload`.
    ///
    /// # Errors
    /// Why there is none.
    pub fn place(&mut self, snapshot: &Snapshot, workload: &Workload) -> Result<usize, Refusal> {
        let cycle = Cycle::new(snapshot, workload);
        let mut reasons = Reasons::default();
        let (mut nodes, mut best) = (0, None);
        let rows = snapshot.rows();
        if let Err(why) = &cycle.needs {
            let nodes = snapshot.present.iter().filter(|present| **present).count();
            if nodes > 0 {
                let message = format!("0/{nodes} nodes are available: {why}.");
                return Err(Refusal { message, filters: self.bit(VolumeBinding::NAME) });
            }
        }
        self.turn = self.turn.wrapping_add(1);
        // Equal scores: the first one seen wins, and each placement begins at another row.
        let first = if rows == 0 { 0 } else { self.turn % rows };
        for row in (first..rows).chain(0..first) {
            if !snapshot.present[row] {
                continue;
            }
            nodes += 1;
            if let Some(at) = self.filters.iter().position(|filter| !filter.check(&cycle, row, &mut reasons))
            {
                reasons.filters |= 1 << at.min(31);
                continue;
            }
            let score: i64 =
                self.scorers.iter().map(|(scorer, weight)| weight * scorer.score(&cycle, row)).sum();
            if best.is_none_or(|(_, most)| score > most) {
                best = Some((row, score));
            }
        }
        best.map(|(row, _)| row).ok_or_else(|| Refusal {
            message: reasons.message(workload.kind(), nodes),
            filters: reasons.filters,
        })
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Node, Pod};
    use serde_json::{Value, from_value, json};

    use crate::workload::Workload;

    /// A ready node with room for 110 pods.
    pub(crate) fn node(name: &str, cpu: &str, memory: &str) -> Node {
        from_value(json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "status": {
                "allocatable": {"cpu": cpu, "memory": memory, "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
        .unwrap()
    }

    /// A Pod whose uid is its name, with one container that requests that CPU.
    pub(crate) fn pod(name: &str, cpu: &str) -> Arc<Workload> {
        pod_with(name, json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}))
    }

    pub(crate) fn pod_with(name: &str, spec: Value) -> Arc<Workload> {
        let metadata = json!({"name": name, "namespace": "demo", "uid": name});
        let pod: Pod = from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        Arc::new(Workload::from_pod(&Arc::new(pod)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::testing::{node, pod, pod_with};
    use super::*;

    #[test]
    fn room_is_never_given_twice() {
        let mut snapshot = Snapshot::default();
        for name in ["n1", "n2", "n3"] {
            snapshot.set_node(&node(name, "2", "4Gi"));
        }
        let mut engine = Engine::default();
        let placed = (0..20)
            .filter_map(|n| {
                let pod = pod(&format!("p{n}"), "600m");
                let row = engine.place(&snapshot, &pod).ok()?;
                snapshot.assume(pod, row);
                Some(row)
            })
            .count();
        assert_eq!(placed, 9, "three a node");
        assert_eq!(snapshot.cpu.used, [1800; 3]);
        let refusal = engine.place(&snapshot, &pod("late", "600m")).unwrap_err();
        assert_eq!(refusal.message, "0/3 nodes are available: 3 Insufficient cpu.");
        assert_eq!(refusal.filters, engine.bit("NodeResourcesFit"));
        snapshot.forget_assumed("p0");
        engine.place(&snapshot, &pod("late", "600m")).unwrap();
    }

    #[test]
    fn reasons_are_counted_for_each_filter_and_sorted() {
        let mut snapshot = Snapshot::default();
        let mut engine = Engine::default();
        assert_eq!(
            engine.place(&snapshot, &pod("p", "1")).unwrap_err().message,
            "no nodes available to schedule pods"
        );
        snapshot.set_node(&node("small", "500m", "1Mi"));
        snapshot.set_node(&node("smaller", "100m", "1Gi"));
        let change = |name: &str, change: fn(&mut k8s_openapi::api::core::v1::Node)| {
            let mut node = node(name, "64", "64Gi");
            change(&mut node);
            node
        };
        snapshot.set_node(&change("cordoned", |node| {
            node.spec = serde_json::from_value(json!({"unschedulable": true})).unwrap();
        }));
        for name in ["t1", "t2"] {
            snapshot.set_node(&change(name, |node| {
                let taint = json!({"taints": [{"key": "gpu", "value": "only", "effect": "NoSchedule"}]});
                node.spec = serde_json::from_value(taint).unwrap();
            }));
        }
        snapshot.set_node(&change("off", |node| node.status.as_mut().unwrap().conditions = None));
        let spec =
            json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1", "memory": "2Mi"}}}]});
        assert_eq!(
            engine.place(&snapshot, &pod_with("p", spec)).unwrap_err().message,
            "0/6 nodes are available: 1 Insufficient memory, 1 node(s) were not ready, 1 node(s) were unschedulable, \
             2 Insufficient cpu, 2 node(s) had untolerated taint {gpu: only}."
        );
        let spec = json!({"containers": [], "nodeSelector": {"disk": "ssd"}});
        let refusal = engine.place(&snapshot, &pod_with("p", spec)).unwrap_err();
        assert!(
            refusal.message.contains("2 node(s) didn't match Pod's node affinity/selector"),
            "{}",
            refusal.message
        );
    }

    #[test]
    fn a_node_that_is_gone_is_not_counted_nor_chosen() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(&node("n1", "2", "4Gi"));
        snapshot.set_node(&node("n2", "2", "4Gi"));
        snapshot.assume(pod("p", "1"), 1);
        snapshot.remove_node("n2");
        let mut engine = Engine::default();
        for _ in 0..4 {
            assert_eq!(snapshot.names[engine.place(&snapshot, &pod("q", "1")).unwrap()], "n1");
        }
        let refusal = engine.place(&snapshot, &pod("r", "3")).unwrap_err();
        assert_eq!(refusal.message, "0/1 nodes are available: 1 Insufficient cpu.");
    }
}
