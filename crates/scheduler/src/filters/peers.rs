//! Filters by the Pods that are near a node already.

use super::Filter;
use crate::engine::{Cycle, Reason, Reasons};
use crate::peers::Conflict;

/// Refuses nodes where the Pod's required affinity or anti-affinity to other Pods, or theirs to it, does not hold.
pub struct InterPodAffinity;

impl InterPodAffinity {
    /// Its name: a Pod that comes or goes may help what it refused.
    pub const NAME: &'static str = "InterPodAffinity";
}

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn check<'a>(&self, cycle: &Cycle<'a>, row: usize, reasons: &mut Reasons<'a>) -> bool {
        let conflict = cycle.near.as_ref().and_then(|near| near.conflict(&cycle.snapshot.labels[row]));
        if let Some(conflict) = conflict {
            reasons.add(Reason::Text(match conflict {
                Conflict::Together => "node(s) didn't match pod affinity rules",
                Conflict::Apart => "node(s) didn't match pod anti-affinity rules",
                Conflict::Repelled => "node(s) didn't satisfy existing pods anti-affinity rules",
            }));
        }
        conflict.is_none()
    }

    /// A Pod that must be near others gains nothing when some go.
    fn may_be_cleared(&self, cycle: &Cycle<'_>, row: usize) -> bool {
        let conflict = cycle.near.as_ref().and_then(|near| near.conflict(&cycle.snapshot.labels[row]));
        conflict != Some(Conflict::Together)
    }
}

/// Refuses nodes on which the Pod would make a required spreading uneven.
pub struct PodTopologySpread;

impl PodTopologySpread {
    /// Its name: a Pod that comes or goes may help what it refused.
    pub const NAME: &'static str = "PodTopologySpread";
}

impl Filter for PodTopologySpread {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn check<'a>(&self, cycle: &Cycle<'a>, row: usize, reasons: &mut Reasons<'a>) -> bool {
        let Some(near) = &cycle.near else { return true };
        let spreads = near.spreads(&cycle.snapshot.labels[row]);
        match spreads {
            Ok(true) => {}
            Ok(false) => reasons.add(Reason::Text("node(s) didn't match pod topology spread constraints")),
            Err(()) => reasons.add(Reason::Text(
                "node(s) didn't match pod topology spread constraints (missing required label)",
            )),
        }
        spreads == Ok(true)
    }

    fn may_be_cleared(&self, cycle: &Cycle<'_>, row: usize) -> bool {
        cycle.near.as_ref().is_none_or(|near| near.spreads(&cycle.snapshot.labels[row]).is_ok())
    }
}
