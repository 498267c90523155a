//! Which Pods are to come to which nodes when those who were told to leave have left.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::pod_of;
use crate::snapshot::Snapshot;
use crate::workload::Workload;

/// The Pods without a node that wait for one certain node, and those that leave for them.
#[derive(Debug, Default)]
pub(crate) struct Nominations {
    waiting: HashMap<String, Waiting>,
    /// Uids of Pods that were told to leave, until they are gone: their objects may not say so yet.
    leaving: HashSet<String>,
}

#[derive(Debug)]
struct Waiting {
    workload: Arc<Workload>,
    node: Option<String>,
    /// What its object said last. It is older than what was decided here, until it says something else.
    said: Option<String>,
}

impl Nominations {
    /// Takes in a Pod that wants a node, new or changed. Says whether a node is not kept for it any more.
    pub(crate) fn observe(&mut self, workload: &Arc<Workload>) -> bool {
        let before = self.node_of(&workload.uid).map(str::to_owned);
        let status = pod_of(workload).and_then(|pod| pod.status.as_ref());
        let said =
            status.and_then(|status| status.nominated_node_name.clone()).filter(|node| !node.is_empty());
        match self.waiting.get_mut(&workload.uid) {
            Some(known) => {
                known.workload = workload.clone();
                if known.said != said {
                    known.node.clone_from(&said);
                    known.said = said;
                }
                if known.node.is_none() && known.said.is_none() {
                    self.waiting.remove(&workload.uid);
                }
            }
            None if said.is_some() => {
                let waiting = Waiting { workload: workload.clone(), node: said.clone(), said };
                self.waiting.insert(workload.uid.clone(), waiting);
            }
            None => {}
        }
        before.is_some() && before.as_deref() != self.node_of(&workload.uid)
    }

    /// Room is made for a Pod on a node, and these leave for it.
    pub(crate) fn nominate(&mut self, workload: &Arc<Workload>, node: &str, victims: &[Arc<Workload>]) {
        self.leaving.extend(victims.iter().map(|victim| victim.uid.clone()));
        let said = self.waiting.get(&workload.uid).and_then(|known| known.said.clone());
        let waiting = Waiting { workload: workload.clone(), node: Some(node.to_owned()), said };
        self.waiting.insert(workload.uid.clone(), waiting);
    }

    /// These were told to leave in vain.
    pub(crate) fn stay(&mut self, victims: &[Arc<Workload>]) {
        for victim in victims {
            self.leaving.remove(&victim.uid);
        }
    }

    /// A Pod waits for no certain node any more. Says whether it did, or its object says so.
    pub(crate) fn clear(&mut self, uid: &str) -> bool {
        let Some(known) = self.waiting.get_mut(uid) else { return false };
        known.node = None;
        if known.said.is_none() {
            self.waiting.remove(uid);
        }
        true
    }

    /// Forgets a Pod that is placed or gone, and says which node was kept for it.
    pub(crate) fn remove(&mut self, uid: &str) -> Option<String> {
        self.waiting.remove(uid)?.node
    }

    /// Forgets that a Pod was to leave: it did.
    pub(crate) fn left(&mut self, uid: &str) {
        self.leaving.remove(uid);
    }

    /// The node that a Pod waits for.
    pub(crate) fn node_of(&self, uid: &str) -> Option<&str> {
        self.waiting.get(uid)?.node.as_deref()
    }

    /// The Pods that wait for a node.
    pub(crate) fn on(&self, node: &str) -> Vec<Arc<Workload>> {
        let here = self.waiting.values().filter(|known| known.node.as_deref() == Some(node));
        here.map(|known| known.workload.clone()).collect()
    }

    /// Counts those that `workload` must leave room for (of its priority or a higher one) on their nodes, and says who they are;
    /// [`Snapshot::dismiss`] each of them after the placement.
    pub(crate) fn expect(&self, snapshot: &mut Snapshot, workload: &Workload) -> Vec<String> {
        let mut counted = Vec::new();
        for (uid, known) in &self.waiting {
            let first = known.workload.priority >= workload.priority && *uid != workload.uid;
            // One that is being bound is counted already.
            if !first || snapshot.node_of(uid).is_some() {
                continue;
            }
            if let Some(row) = known.node.as_deref().and_then(|node| snapshot.row_of(node)) {
                snapshot.expect(known.workload.clone(), row);
                counted.push(uid.clone());
            }
        }
        counted
    }

    /// Whether a Pod leaves for a more important one.
    pub(crate) fn is_leaving(&self, workload: &Workload) -> bool {
        self.leaving.contains(&workload.uid)
            || pod_of(workload).is_some_and(|pod| super::evict::is_preempted(pod))
    }
}
