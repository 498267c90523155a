//! The loop's part in making room: Pods that wait for a node that others leave.

use super::*;
use crate::bind::Ended;
use crate::preemption::{self, Candidate, evict};

impl Driver {
    /// The row for a workload: that of the node where room was made for it, if it fits there now, or the best one.
    /// Room that was made for others, of its priority or a higher one, is theirs.
    pub(super) fn find(&mut self, workload: &Arc<Workload>) -> Result<usize, (Refusal, Option<Candidate>)> {
        let expected = self.nominations.expect(&mut self.snapshot, workload);
        let found = self.find_or_clear(workload);
        expected.iter().for_each(|uid| self.snapshot.dismiss(uid));
        found
    }

    fn find_or_clear(&mut self, workload: &Arc<Workload>) -> Result<usize, (Refusal, Option<Candidate>)> {
        let meant = self.nominations.node_of(&workload.uid).and_then(|node| self.snapshot.row_of(node));
        if let Some(row) = meant.filter(|row| self.engine.fits(&self.snapshot, workload, *row).is_ok()) {
            return Ok(row);
        }
        let mut refusal = match self.engine.place(&self.snapshot, workload) {
            Ok(row) => return Ok(row),
            Err(refusal) => refusal,
        };
        let any_node = self.snapshot.present.contains(&true);
        if !matches!(workload.object, Object::Pod(_)) || !any_node {
            return Err((refusal, None));
        }
        let (engine, snapshot) = (&self.engine, &mut self.snapshot);
        match preemption::search(engine, snapshot, workload, &self.nominations, &self.budgets) {
            Ok(candidate) => Err((refusal, Some(candidate))),
            Err(unhelpful) => {
                refusal.message = format!("{} {}", refusal.message, unhelpful.message);
                let kept = self.nominations.node_of(&workload.uid).is_some();
                if unhelpful.hopeless && self.nominations.clear(&workload.uid) {
                    self.binds.spawn(evict::clear(self.writer.clone(), vec![workload.clone()]));
                    if kept {
                        self.room_came_free();
                    }
                }
                Err((refusal, None))
            }
        }
    }

    /// Has Pods leave a node for a more important one. Those of a lower priority that wait for the same node may have no room
    /// there now: they look for another.
    pub(super) fn make_room(&mut self, workload: Arc<Workload>, refusal: Refusal, candidate: Candidate) {
        let node = candidate.node.clone();
        let mut less: Vec<_> = self.nominations.on(&node);
        less.retain(|other| other.priority < workload.priority);
        for other in &less {
            self.nominations.clear(&other.uid);
            self.queue.again(&other.uid, Instant::now());
        }
        self.nominations.nominate(&workload, &node, &candidate.victims);
        self.in_flight += 1;
        let (writer, reporter, outcomes) =
            (self.writer.clone(), self.reporter.clone(), self.outcomes.clone());
        self.binds.spawn(async move {
            let done = evict::make_room(&writer, &reporter, &workload, &candidate).await;
            evict::clear(writer, less).await;
            let end = match done {
                Ok(true) => Ended::Told,
                Ok(false) => Ended::Gone,
                Err(error) => Ended::Failed(error.to_string()),
            };
            let room = Room { refusal, victims: candidate.victims, end };
            // The loop takes outcomes as long as it runs.
            let _ = outcomes.send((workload, node, Outcome::Cleared(room))).await;
        });
    }

    /// The others were told to leave: the Pod waits for that.
    pub(super) fn wait_for_room(&mut self, workload: &Arc<Workload>, room: Room) {
        let (uid, now) = (&workload.uid, Instant::now());
        match room.end {
            Ended::Told => {}
            Ended::Gone => {
                self.nominations.stay(&room.victims);
                return self.on_gone(Some(uid));
            }
            Ended::Failed(why) => {
                tracing::warn!(
                    namespace = workload.namespace(),
                    name = workload.name(),
                    why,
                    "no room could be made"
                );
                self.nominations.stay(&room.victims);
                return self.queue.back_off(uid, now);
            }
        }
        let new = self.queue.block(uid, room.refusal.filters, &room.refusal.message, now);
        if room.victims.iter().any(|victim| self.snapshot.node_of(&victim.uid).is_none()) {
            // Who left in the meantime woke nobody.
            self.queue.again(uid, now);
        }
        if new {
            self.reporter.unschedulable(workload.clone(), room.refusal.message);
        }
    }

    pub(super) fn on_budget(&mut self, change: &Change<PodDisruptionBudget>) {
        self.budgets.set(change.object(), matches!(change, Change::Applied(_)));
    }
}
