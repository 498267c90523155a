//! Making room for a Pod that fits nowhere: the node where the fewest and least important Pods would have to go.
//!
//! Kubernetes' rules (its documentation, "Pod Priority and Preemption"; the plugin DefaultPreemption). Only Pods go, and only for
//! Pods: VirtualMachines and Volumes take room, and are never victims, because what they hold would be lost with them.
//!
//! Start reading at [`search`]. [`nominations`] is what keeps the room that was made, [`evict`] what is written.

mod budgets;
pub(crate) mod evict;
mod nominations;

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

pub(crate) use budgets::Budgets;
pub(crate) use nominations::Nominations;

use crate::engine::{Engine, sentence};
use crate::peers::Near;
use crate::snapshot::Snapshot;
use crate::workload::{Object, Workload};

/// So many nodes, or a tenth of those in question if that is more, are enough to choose from (Kubernetes' values).
const ENOUGH_NODES: usize = 100;
/// See [`ENOUGH_NODES`].
const ENOUGH_PART: usize = 10;

/// A node, and who has to leave it.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) node: String,
    /// The most important one first; at least one.
    pub(crate) victims: Vec<Arc<Workload>>,
    /// How many of them go against a disruption budget.
    violations: usize,
}

/// Why nobody has to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unhelpful {
    /// `preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.`
    pub(crate) message: String,
    /// Whether there is no use in waiting for the room that was made for the Pod before, either.
    pub(crate) hopeless: bool,
}

/// The best node to make room on for `workload`, which fits nowhere. `snapshot` is as it was when this returns.
///
/// # Errors
/// Why there is none.
pub(crate) fn search(
    engine: &Engine,
    snapshot: &mut Snapshot,
    workload: &Workload,
    nominations: &Nominations,
    budgets: &Budgets,
) -> Result<Candidate, Unhelpful> {
    let clearable = engine.clearable(snapshot, workload);
    let unhelpful =
        |message: String, hopeless| Unhelpful { message: format!("preemption: {message}"), hopeless };
    if let Some(why) = not_eligible(snapshot, workload, nominations, &clearable) {
        return Err(unhelpful(why.to_owned(), false));
    }
    let nodes =
        u32::try_from(snapshot.present.iter().filter(|present| **present).count()).unwrap_or(u32::MAX);
    let mut lower = snapshot.pods_below(workload.priority);
    let enough = ENOUGH_NODES.max(clearable.len() / ENOUGH_PART);
    let mut found: Vec<Candidate> = Vec::new();
    let mut reasons: BTreeMap<String, u32> = BTreeMap::new();
    for row in &clearable {
        match victims_on(engine, snapshot, workload, *row, lower.remove(row).unwrap_or_default(), budgets) {
            Ok(candidate) => found.push(candidate),
            Err(why) => why.into_iter().for_each(|text| *reasons.entry(text).or_default() += 1),
        }
        if found.len() >= enough && found.iter().any(|candidate| candidate.violations == 0) {
            break;
        }
    }
    let now = Timestamp::now();
    found.into_iter().min_by_key(|candidate| candidate.cost(now)).ok_or_else(|| {
        let others = nodes.saturating_sub(u32::try_from(clearable.len()).unwrap_or(u32::MAX));
        if others > 0 {
            reasons.insert("Preemption is not helpful for scheduling".to_owned(), others);
        }
        unhelpful(sentence(nodes, reasons.into_iter()), true)
    })
}

/// Why a Pod may not have others leave, or has to wait until those have left that were told to.
fn not_eligible(
    snapshot: &Snapshot,
    workload: &Workload,
    nominations: &Nominations,
    clearable: &[usize],
) -> Option<&'static str> {
    let never = |pod: &Arc<Pod>| {
        pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never")
    };
    if pod_of(workload).is_some_and(never) {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let row = snapshot.row_of(nominations.node_of(&workload.uid)?).filter(|row| clearable.contains(row))?;
    let leaving = |(at, other): (usize, &Workload)| {
        at == row && other.priority < workload.priority && nominations.is_leaving(other)
    };
    snapshot.pods().any(leaving).then_some("not eligible due to a terminating pod on the nominated node.")
}

/// Who has to leave the node in `row`: of the less important Pods there as few as will do. Those that a disruption
/// budget protects are let stay first, then the others, the more important ones before the less.
fn victims_on(
    engine: &Engine,
    snapshot: &mut Snapshot,
    workload: &Workload,
    row: usize,
    mut lower: Vec<Arc<Workload>>,
    budgets: &Budgets,
) -> Result<Candidate, Vec<String>> {
    if lower.is_empty() {
        return Err(vec!["No preemption victims found for incoming pod".to_owned()]);
    }
    let now = Timestamp::now();
    lower.sort_by_cached_key(|pod| importance(pod, now));
    let (protected, others) = budgets.split(lower);
    let protected_count = protected.len();
    let lower: Vec<_> = protected.into_iter().chain(others).collect();
    let lifted: Vec<_> = lower.iter().filter_map(|pod| snapshot.lift(&pod.uid)).collect();
    let mut near = Near::new(snapshot, workload).map(Arc::new);
    if let Err(why) = engine.fits_near(snapshot, workload, row, near.clone()) {
        lifted.into_iter().for_each(|placed| snapshot.restore(placed));
        return Err(why);
    }
    let (mut victims, mut out, mut violations) = (Vec::new(), Vec::new(), 0);
    for (at, (pod, placed)) in lower.into_iter().zip(lifted).enumerate() {
        snapshot.restore(placed);
        let without = near.clone();
        if Near::depends_on(snapshot, workload, &pod) {
            near = Near::new(snapshot, workload).map(Arc::new);
        }
        if engine.fits_near(snapshot, workload, row, near.clone()).is_err() {
            near = without;
            out.extend(snapshot.lift(&pod.uid));
            violations += usize::from(at < protected_count);
            victims.push(pod);
        }
    }
    out.into_iter().for_each(|placed| snapshot.restore(placed));
    if victims.is_empty() {
        // It fits as it is, which was found otherwise before: no reason to end anybody.
        return Err(vec!["No preemption victims found for incoming pod".to_owned()]);
    }
    victims.sort_by_cached_key(|pod| importance(pod, now));
    Ok(Candidate { node: snapshot.names[row].clone(), victims, violations })
}

/// What is chosen by: the less the better.
type Cost = (usize, i32, i64, usize, Reverse<Timestamp>);

impl Candidate {
    /// Budgets that are broken; the highest priority of a victim; the sum of them (each from the lowest there is on, so that
    /// many of a negative one are not less than few); how many; and since when the most important ones run.
    fn cost(&self, now: Timestamp) -> Cost {
        let highest = self.victims.iter().map(|pod| pod.priority).max().unwrap_or(i32::MIN);
        let sum = self.victims.iter().map(|pod| i64::from(pod.priority) - i64::from(i32::MIN)).sum();
        let since =
            self.victims.iter().filter(|pod| pod.priority == highest).map(|pod| started(pod, now)).min();
        (self.violations, highest, sum, self.victims.len(), Reverse(since.unwrap_or(now)))
    }
}

/// Sorts the more important Pod first: that of the higher priority, then the one that runs longer. Of those that are alike the order is
/// always the same, so that the same ones leave when it is worked out again.
fn importance(pod: &Workload, now: Timestamp) -> (Reverse<i32>, Timestamp, String) {
    (Reverse(pod.priority), started(pod, now), pod.uid.clone())
}

/// When a Pod began to run; now where it has not.
fn started(pod: &Workload, now: Timestamp) -> Timestamp {
    let start = pod_of(pod).and_then(|pod| pod.status.as_ref()?.start_time.as_ref());
    start.map_or(now, |time| time.0)
}

/// The Pod, where it is one.
pub(crate) fn pod_of(workload: &Workload) -> Option<&Arc<Pod>> {
    match &workload.object {
        Object::Pod(pod) => Some(pod),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
