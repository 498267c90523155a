//! Who runs now and who waits: the levels with their seats, and the queues of those that have them.
//!
//! Seats are the server's; each level has a nominal share of them. Of its share a level lends a part, while it does not use it, to
//! levels that may borrow; the rest is kept for it. So a level never waits for what is kept for it, and never for longer than others'
//! requests last for the rest of its share. (Kubernetes moves the limits of levels every ten seconds; here what is free is
//! counted at each request.)
//!
//! Within a level, requests of one flow go to some queues out of many (shuffle sharding), into the shortest of these. The next
//! to run is from the queue that has had the least service so far, in seats and time, since it was last empty.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::sync::oneshot;

/// What a request is taken to last until it is known, microseconds.
const GUESS: u64 = 3_000;

/// One request gets at most the level's own seats through this (Kubernetes: 15 % of them).
const SHARE_OF_ONE: u32 = 6;

/// How much of the server a level has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    /// Its own seats.
    pub(super) nominal: u32,
    /// Of these, how many nobody else may use.
    pub(super) kept: u32,
    /// The most seats with what it borrows.
    pub(super) most: u32,
    /// Its queues; none where requests are refused at once.
    pub(super) queuing: Option<Queuing>,
}

/// The queues of a level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queuing {
    pub(super) queues: usize,
    /// How many queues a flow's requests may go to.
    pub(super) hand: usize,
    /// How many may wait in each.
    pub(super) length: usize,
}

/// Why a request is not served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// All seats are taken, and its level has no queues.
    Concurrency,
    /// The queues of its flow are full.
    Full,
    /// It has waited for too long.
    Late,
}

/// Where a request is that was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) level: u32,
    /// The queue that it came from, if it waited.
    queue: Option<usize>,
    pub(super) width: u32,
}

/// What becomes of a request that asks to be let in.
pub(super) enum Entry {
    /// It runs.
    Now(Seat),
    /// It waits for its seat; the place is for [`Levels::give_up`].
    Later(oneshot::Receiver<Seat>, (u32, usize)),
}

/// All levels that have a limit.
#[derive(Debug, Default)]
pub(super) struct Levels {
    total: u32,
    /// For each level what it uses or what is kept for it, whichever is more; all together.
    committed: u32,
    levels: BTreeMap<u32, Level>,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Level {
    share: Share,
    executing: u32,
    queues: Vec<Queue>,
    waiting: usize,
    /// The least service that a queue starts with that was empty.
    now: u64,
    /// Whether its object is gone: it ends with its last request.
    gone: bool,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Service that it has had, in microseconds of seats.
    served: u64,
}

#[derive(Debug)]
struct Waiting {
    width: u32,
    sender: oneshot::Sender<Seat>,
}

impl Level {
    fn committed(&self) -> u32 {
        self.executing.max(self.share.kept)
    }

    /// The queue with the least service among those where somebody waits.
    fn next(&self) -> Option<usize> {
        let busy = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty());
        busy.min_by_key(|(_, queue)| queue.served).map(|(at, _)| at)
    }
}

impl Levels {
    /// Goes by these shares from now on, of `total` seats. What runs and waits stays.
    pub(super) fn set(&mut self, total: u32, shares: &BTreeMap<u32, Share>) {
        self.total = total;
        for (id, level) in &mut self.levels {
            level.gone = !shares.contains_key(id);
            if level.gone {
                level.share.kept = 0;
                level.share.nominal = level.share.nominal.max(1);
                level.share.most = level.share.most.max(1);
            }
        }
        for (id, share) in shares {
            let level = self.levels.entry(*id).or_default();
            level.share = share.clone();
            let wanted = share.queuing.as_ref().map_or(0, |queuing| queuing.queues);
            if level.queues.len() < wanted {
                level.queues.resize_with(wanted, Queue::default);
            } else {
                // Queues in use stay until they are empty: their requests have places by number.
                while level.queues.len() > wanted
                    && level.queues.last().is_some_and(|queue| queue.waiting.is_empty())
                {
                    level.queues.pop();
                }
            }
        }
        self.levels.retain(|_, level| !level.gone || level.executing > 0 || level.waiting > 0);
        self.committed = self.levels.values().map(Level::committed).sum();
        self.dispatch(None);
    }

    /// Lets a request in that wants so many seats, or has it wait. It gets no more than a sixth of its level (rounded up): a wide one at
    /// the head holds up all others until so many are free at once.
    pub(super) fn enter(&mut self, id: u32, flow: u64, width: u32) -> Result<Entry, Refused> {
        let Some(level) = self.levels.get(&id) else { return Err(Refused::Concurrency) };
        let width = width.clamp(1, level.share.nominal.div_ceil(SHARE_OF_ONE).max(1));
        if level.waiting == 0 && self.has_room(id, width) {
            return Ok(Entry::Now(self.seat(id, None, width)));
        }
        let Some(level) = self.levels.get_mut(&id) else { return Err(Refused::Concurrency) };
        let Some(queuing) = level.share.queuing.clone().filter(|_| !level.queues.is_empty()) else {
            return Err(Refused::Concurrency);
        };
        let queues = queuing.queues.clamp(1, level.queues.len());
        let shortest = deal(flow, queues, queuing.hand).min_by_key(|at| level.queues[*at].waiting.len());
        let at = shortest.unwrap_or_default();
        let queue = &mut level.queues[at];
        if queue.waiting.len() >= queuing.length {
            return Err(Refused::Full);
        }
        if queue.waiting.is_empty() {
            queue.served = queue.served.max(level.now);
        }
        let (sender, receiver) = oneshot::channel();
        queue.waiting.push_back(Waiting { width, sender });
        level.waiting += 1;
        self.waiting += 1;
        // Others of the level may be waiting for more seats than this one.
        self.dispatch(Some(id));
        Ok(Entry::Later(receiver, (id, at)))
    }

    /// Forgets those in a queue who no longer wait.
    pub(super) fn give_up(&mut self, (id, at): (u32, usize)) {
        let Some(level) = self.levels.get_mut(&id) else { return };
        let Some(queue) = level.queues.get_mut(at) else { return };
        let before = queue.waiting.len();
        queue.waiting.retain(|waiting| !waiting.sender.is_closed());
        let left = before - queue.waiting.len();
        level.waiting -= left;
        self.waiting -= left;
        self.dispatch(Some(id));
    }

    /// Takes back the seats of a request that has ended after so long.
    pub(super) fn leave(&mut self, seat: Seat, after: Duration) {
        let Some(level) = self.levels.get_mut(&seat.level) else { return };
        let before = level.committed();
        level.executing = level.executing.saturating_sub(seat.width);
        self.committed = self.committed - before + level.committed();
        if let Some(queue) = seat.queue.and_then(|at| level.queues.get_mut(at)) {
            let lasted = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
            let more = lasted.saturating_sub(GUESS).saturating_mul(u64::from(seat.width));
            let less = GUESS.saturating_sub(lasted).saturating_mul(u64::from(seat.width));
            queue.served = queue.served.saturating_add(more).saturating_sub(less);
        }
        if level.gone && level.executing == 0 && level.waiting == 0 {
            self.levels.remove(&seat.level);
        }
        if self.waiting > 0 {
            self.dispatch(Some(seat.level));
        }
    }

    /// Seats in use, and requests that wait, of a level.
    #[cfg(test)]
    fn seen(&self, id: u32) -> (u32, usize) {
        self.levels.get(&id).map_or((0, 0), |level| (level.executing, level.waiting))
    }

    /// Whether so many more seats of this level can be used now.
    fn has_room(&self, id: u32, width: u32) -> bool {
        let Some(level) = self.levels.get(&id) else { return false };
        if level.share.most == 0 {
            // So an operator keeps requests out.
            return false;
        }
        let then = level.executing + width;
        // One that is wider than its level runs alone.
        let own = then <= level.share.most || level.executing == 0;
        let others = self.committed - level.committed();
        own && (others + then.max(level.share.kept) <= self.total || level.executing == 0)
    }

    fn seat(&mut self, id: u32, queue: Option<usize>, width: u32) -> Seat {
        if let Some(level) = self.levels.get_mut(&id) {
            let before = level.committed();
            level.executing += width;
            self.committed = self.committed - before + level.committed();
        }
        Seat { level: id, queue, width }
    }

    /// Lets in whoever can be.
    fn dispatch(&mut self, first: Option<u32>) {
        if self.waiting == 0 {
            return;
        }
        let waiting = self.levels.iter().filter(|(_, level)| level.waiting > 0);
        // Who has less than its own seats goes before who borrows.
        let mut order: Vec<(bool, bool, u32)> = waiting
            .map(|(id, level)| (level.executing >= level.share.nominal, Some(*id) != first, *id))
            .collect();
        order.sort_unstable();
        for (_, _, id) in order {
            while self.dispatch_one(id) {}
        }
    }

    /// Lets in the next of a level; false where none waits, or it must wait on.
    fn dispatch_one(&mut self, id: u32) -> bool {
        let Some(at) = self.levels.get(&id).and_then(Level::next) else { return false };
        let width = self.levels[&id].queues[at].waiting.front().map_or(1, |waiting| waiting.width);
        if !self.has_room(id, width) {
            return false;
        }
        let Some(level) = self.levels.get_mut(&id) else { return false };
        let queue = &mut level.queues[at];
        let Some(waiting) = queue.waiting.pop_front() else { return false };
        level.waiting -= 1;
        self.waiting -= 1;
        if waiting.sender.is_closed() {
            return true;
        }
        level.now = level.now.max(queue.served);
        queue.served = queue.served.saturating_add(GUESS * u64::from(waiting.width));
        let seat = self.seat(id, Some(at), waiting.width);
        if let Err(seat) = waiting.sender.send(seat) {
            // Gone in between: as if it had ended at once.
            let before = self.levels.get(&id).map_or(0, Level::committed);
            if let Some(level) = self.levels.get_mut(&id) {
                level.executing = level.executing.saturating_sub(seat.width);
                self.committed = self.committed - before + level.committed();
            }
        }
        true
    }
}

/// The queues that a flow's requests may go to: as many different ones as a hand has, the same each time, chosen by the flow's number.
fn deal(flow: u64, queues: usize, hand: usize) -> impl Iterator<Item = usize> {
    let (mut rest, mut dealt) = (flow, Vec::with_capacity(hand));
    for taken in 0..hand.min(queues) {
        let left = (queues - taken) as u64;
        let mut card = usize::try_from(rest % left).unwrap_or_default();
        rest /= left;
        // The card is counted among those that were not dealt.
        for before in &dealt {
            if card >= *before {
                card += 1;
            }
        }
        dealt.push(card);
        dealt.sort_unstable();
    }
    dealt.into_iter()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn share(nominal: u32, kept: u32, most: u32, queues: usize) -> Share {
        let queuing = (queues > 0).then_some(Queuing { queues, hand: 2.min(queues), length: 3 });
        Share { nominal, kept, most, queuing }
    }

    fn levels(total: u32, shares: &[Share]) -> Levels {
        let mut levels = Levels::default();
        levels.set(total, &(1..).zip(shares.iter().cloned()).collect());
        levels
    }

    fn now(levels: &mut Levels, id: u32) -> Option<Seat> {
        match levels.enter(id, 7, 1) {
            Ok(Entry::Now(seat)) => Some(seat),
            _ => None,
        }
    }

    fn later(levels: &mut Levels, id: u32, flow: u64) -> (oneshot::Receiver<Seat>, (u32, usize)) {
        match levels.enter(id, flow, 1) {
            Ok(Entry::Later(seat, place)) => (seat, place),
            _ => panic!("it does not wait"),
        }
    }

    #[test]
    fn a_level_without_queues_refuses_what_it_has_no_seat_for() {
        let mut levels = levels(2, &[share(2, 2, 2, 0)]);
        let first = now(&mut levels, 1).expect("a seat");
        now(&mut levels, 1).expect("a seat");
        assert_eq!(levels.enter(1, 7, 1).err(), Some(Refused::Concurrency));
        levels.leave(first, MS);
        now(&mut levels, 1).expect("a seat");
        assert_eq!(levels.enter(9, 7, 1).err(), Some(Refused::Concurrency), "no such level");
        levels.set(2, &BTreeMap::from([(2, share(0, 0, 0, 0))]));
        assert_eq!(levels.enter(2, 7, 1).err(), Some(Refused::Concurrency), "no seat at all");
    }

    #[test]
    fn what_waits_gets_the_seat_of_what_ends_and_no_more_wait_than_may() {
        let mut levels = levels(1, &[share(1, 1, 1, 1)]);
        let seat = now(&mut levels, 1).expect("a seat");
        let (mut first, _) = later(&mut levels, 1, 7);
        let (mut second, _) = later(&mut levels, 1, 7);
        let third = later(&mut levels, 1, 7);
        assert_eq!(levels.enter(1, 7, 1).err(), Some(Refused::Full));
        assert_eq!(levels.seen(1), (1, 3));
        levels.leave(seat, MS);
        let seat = first.try_recv().expect("the seat");
        assert!(second.try_recv().is_err());
        // Who no longer waits takes no seat.
        drop(second);
        let (mut third, place) = third;
        levels.leave(seat, MS);
        let seat = third.try_recv().expect("the seat");
        assert_eq!(levels.seen(1), (1, 0));
        let (gone, _) = later(&mut levels, 1, 7);
        drop(gone);
        levels.give_up(place);
        assert_eq!(levels.seen(1), (1, 0));
        levels.leave(seat, MS);
        assert_eq!(levels.seen(1), (0, 0));
        assert_eq!((levels.committed, levels.waiting), (1, 0));
    }

    #[test]
    fn what_a_level_does_not_use_is_lent_but_for_what_is_kept() {
        // Of ten seats, the first level keeps two of its five; the second may borrow as much as it likes.
        let mut levels = levels(10, &[share(5, 2, 5, 1), share(5, 5, 10, 1)]);
        let borrowed: Vec<Seat> = (0..8).map(|_| now(&mut levels, 2).expect("a seat")).collect();
        let (mut next, _) = later(&mut levels, 2, 7);
        // What is kept is there at once, and what is lent when it comes back.
        now(&mut levels, 1).expect("a seat");
        now(&mut levels, 1).expect("a seat");
        let (mut own, _) = later(&mut levels, 1, 7);
        levels.leave(borrowed[0], MS);
        assert!(own.try_recv().is_ok(), "it is its own");
        assert!(next.try_recv().is_err());
        levels.leave(borrowed[1], MS);
        assert!(next.try_recv().is_ok());
        assert_eq!((levels.seen(1), levels.seen(2)), ((3, 0), (7, 0)));
    }

    #[test]
    fn a_flow_that_asks_much_does_not_keep_others_waiting() {
        let mut levels = Levels::default();
        let queuing = Some(Queuing { queues: 16, hand: 2, length: 100 });
        levels.set(1, &BTreeMap::from([(1, Share { nominal: 1, kept: 1, most: 1, queuing })]));
        let mut seat = now(&mut levels, 1).expect("a seat");
        let mut loud: VecDeque<_> = (0..100).map(|_| later(&mut levels, 1, 1).0).collect();
        let flow = (2..).find(|flow| deal(*flow, 16, 2).all(|at| !deal(1, 16, 2).any(|other| other == at)));
        let mut quiet = later(&mut levels, 1, flow.expect("another hand")).0;
        let mut before = 0;
        loop {
            levels.leave(seat, MS);
            if quiet.try_recv().is_ok() {
                break;
            }
            seat = loud.iter_mut().find_map(|waiting| waiting.try_recv().ok()).expect("somebody runs");
            before += 1;
        }
        assert!(before <= 2, "{before} ran before it");
    }

    #[test]
    fn a_wide_request_gets_a_part_of_its_level_and_waits_for_all_of_that() {
        let mut levels = levels(12, &[share(12, 12, 12, 1)]);
        let mut seats: Vec<Seat> = (0..11).map(|_| now(&mut levels, 1).expect("a seat")).collect();
        let Ok(Entry::Later(mut wide, _)) = levels.enter(1, 7, 10) else { panic!("it does not wait") };
        let (mut behind, _) = later(&mut levels, 1, 7);
        assert!(wide.try_recv().is_err(), "one seat is free, of the two that it gets");
        levels.leave(seats.remove(0), MS);
        let seat = wide.try_recv().expect("two are free");
        assert_eq!(seat.width, 2);
        assert!(behind.try_recv().is_err());
        levels.leave(seat, MS);
        assert!(behind.try_recv().is_ok());
    }

    #[test]
    fn a_level_that_goes_ends_with_its_last_request() {
        let mut levels = levels(2, &[share(1, 1, 1, 1), share(1, 1, 1, 1)]);
        let seat = now(&mut levels, 1).expect("a seat");
        let (mut waits, _) = later(&mut levels, 1, 7);
        levels.set(2, &BTreeMap::from([(2, share(2, 2, 2, 1))]));
        levels.leave(seat, MS);
        let seat = waits.try_recv().expect("the seat");
        levels.leave(seat, MS);
        assert!(!levels.levels.contains_key(&1));
        assert_eq!(levels.committed, 2);
    }

    #[test]
    fn a_hand_has_different_queues_and_is_the_same_each_time() {
        for flow in [0, 1, 12_345, u64::MAX] {
            let hand: Vec<usize> = deal(flow, 64, 6).collect();
            assert_eq!(hand, deal(flow, 64, 6).collect::<Vec<_>>());
            assert_eq!(hand.iter().collect::<BTreeSet<_>>().len(), 6, "{hand:?}");
            assert!(hand.iter().all(|queue| *queue < 64));
        }
        assert_eq!(deal(5, 2, 9).count(), 2);
    }
}
