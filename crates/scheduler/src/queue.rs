//! The workloads that want a node: which one is next, which wait, and what wakes them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::SchedulerConfig;
use crate::workload::Workload;

/// Every filter's bit.
pub(crate) const ANY_FILTER: u32 = u32::MAX;

type Turn = (Reverse<i32>, u64);
type Alarm = (Instant, u64);

/// Each workload is in it once, in one of four states: *active* (it is tried as soon as it is its turn: higher priority
/// first, then first come), *backing off* (active at a moment), *blocked* (no node would do; active when something
/// changes that may help), or *in flight* (taken out by [`Queue::pop`]; it comes back or is removed).
pub(crate) struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeMap<Turn, String>,
    alarms: BTreeMap<Alarm, String>,
    /// By the filters that refused them: a change looks only at those that it may help.
    blocked: HashMap<u32, HashSet<String>>,
    sequence: u64,
    first_backoff: Duration,
    max_backoff: Duration,
    retry_after: Duration,
}

struct Entry {
    workload: Arc<Workload>,
    state: State,
    failures: u32,
    /// Place among those of the same priority, kept from the first time on.
    sequence: u64,
    /// What was last told to people, so that it is told once.
    told: Option<String>,
}

enum State {
    Active(Turn),
    BackingOff(Alarm),
    Blocked { filters: u32, since: Instant, alarm: Alarm },
    InFlight,
}

impl Queue {
    pub(crate) fn new(config: &SchedulerConfig) -> Self {
        Self {
            entries: HashMap::new(),
            active: BTreeMap::new(),
            alarms: BTreeMap::new(),
            blocked: HashMap::new(),
            sequence: 0,
            first_backoff: config.first_backoff,
            max_backoff: config.max_backoff,
            retry_after: config.retry_after,
        }
    }

    /// Takes in a workload, new or changed. One that is blocked is tried again if it changed in what it asks for.
    pub(crate) fn put(&mut self, workload: Arc<Workload>) {
        let uid = workload.uid.clone();
        let Some(entry) = self.entries.get_mut(&uid) else {
            self.sequence += 1;
            let entry =
                Entry { workload, state: State::InFlight, failures: 0, sequence: self.sequence, told: None };
            self.entries.insert(uid.clone(), entry);
            self.activate(&uid);
            return;
        };
        let changed = asks_otherwise(&entry.workload, &workload);
        entry.workload = workload;
        if changed && !matches!(entry.state, State::InFlight) {
            entry.failures = 0;
            self.activate(&uid);
        }
    }

    /// Forgets a workload.
    pub(crate) fn remove(&mut self, uid: &str) {
        self.unlist(uid);
        self.entries.remove(uid);
    }

    /// The workload whose turn it is. It is in flight then.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<Arc<Workload>> {
        while let Some((&(at, _), uid)) = self.alarms.first_key_value()
            && at <= now
        {
            let uid = uid.clone();
            self.activate(&uid);
        }
        let (_, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.state = State::InFlight;
        Some(entry.workload.clone())
    }

    /// Whether there is one whose turn it is.
    pub(crate) fn has_active(&self) -> bool {
        !self.active.is_empty()
    }

    /// When [`Queue::pop`] may give one although nothing changed.
    pub(crate) fn next_alarm(&self) -> Option<Instant> {
        self.alarms.first_key_value().map(|((at, _), _)| *at)
    }

    /// No node would do for one in flight; `filters` are those that refused. Says whether `message` is new.
    pub(crate) fn block(&mut self, uid: &str, filters: u32, message: &str, now: Instant) -> bool {
        self.sequence += 1;
        let alarm = (now + self.retry_after, self.sequence);
        let Some(entry) = self.entries.get_mut(uid) else { return false };
        entry.failures += 1;
        entry.state = State::Blocked { filters, since: now, alarm };
        let new = entry.told.as_deref() != Some(message);
        if new {
            entry.told = Some(message.to_owned());
        }
        self.alarms.insert(alarm, uid.to_owned());
        self.blocked.entry(filters).or_default().insert(uid.to_owned());
        new
    }

    /// A placement in flight could not be written: it is tried again after a back-off.
    pub(crate) fn back_off(&mut self, uid: &str, now: Instant) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.failures += 1;
            let at = now + backoff(self.first_backoff, self.max_backoff, entry.failures);
            self.set_alarm(uid, at);
        }
    }

    /// Something changed that may help those that `filters` refused.
    pub(crate) fn wake(&mut self, filters: u32, now: Instant) {
        let (first, max) = (self.first_backoff, self.max_backoff);
        let woken: Vec<(String, Instant)> = self
            .blocked
            .iter()
            // Nothing refused it means that there was no node at all.
            .filter(|(own, _)| **own & filters != 0 || **own == 0)
            .flat_map(|(_, uids)| uids)
            .filter_map(|uid| match self.entries.get(uid)? {
                Entry { state: State::Blocked { since, .. }, failures, .. } => {
                    Some((uid.clone(), *since + backoff(first, max, *failures)))
                }
                _ => None,
            })
            .collect();
        for (uid, at) in woken {
            if at <= now {
                self.activate(&uid);
            } else {
                self.set_alarm(&uid, at);
            }
        }
    }

    /// One that is blocked is tried again at once.
    pub(crate) fn again(&mut self, uid: &str, now: Instant) {
        if self.entries.get(uid).is_some_and(|entry| matches!(entry.state, State::Blocked { .. })) {
            self.set_alarm(uid, now);
        }
    }

    fn activate(&mut self, uid: &str) {
        self.unlist(uid);
        if let Some(entry) = self.entries.get_mut(uid) {
            let turn = (Reverse(entry.workload.priority), entry.sequence);
            entry.state = State::Active(turn);
            self.active.insert(turn, uid.to_owned());
        }
    }

    fn set_alarm(&mut self, uid: &str, at: Instant) {
        self.unlist(uid);
        self.sequence += 1;
        let alarm = (at, self.sequence);
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.state = State::BackingOff(alarm);
            self.alarms.insert(alarm, uid.to_owned());
        }
    }

    /// Takes it off the list that its state is about.
    fn unlist(&mut self, uid: &str) {
        match self.entries.get(uid).map(|entry| &entry.state) {
            Some(State::Active(turn)) => drop(self.active.remove(turn)),
            Some(State::BackingOff(alarm)) => drop(self.alarms.remove(alarm)),
            Some(State::Blocked { alarm, filters, .. }) => {
                self.alarms.remove(alarm);
                if let Some(uids) = self.blocked.get_mut(filters) {
                    uids.remove(uid);
                    if uids.is_empty() {
                        self.blocked.remove(filters);
                    }
                }
            }
            Some(State::InFlight) | None => {}
        }
    }
}

fn backoff(first: Duration, max: Duration, failures: u32) -> Duration {
    first.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(max)
}

/// Whether a workload asks for something else now: changes of its status must not count, they are ours too.
fn asks_otherwise(before: &Workload, now: &Workload) -> bool {
    before.requests != now.requests
        || before.node_selector != now.node_selector
        || before.required != now.required
        || before.tolerations != now.tolerations
        || before.priority != now.priority
        || before.labels() != now.labels()
        || before.peers != now.peers
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::testing::{pod, pod_with};

    fn queue() -> Queue {
        Queue::new(&SchedulerConfig::default())
    }

    fn popped(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|workload| workload.uid.clone()).collect()
    }

    #[test]
    fn higher_priority_goes_first_then_who_came_first() {
        let (mut queue, now) = (queue(), Instant::now());
        queue.put(pod("a", "1"));
        queue.put(pod("b", "1"));
        queue.put(pod_with("urgent", json!({"containers": [], "priority": 10})));
        queue.put(pod("a", "1"));
        queue.put(pod("gone", "1"));
        queue.remove("gone");
        assert_eq!(popped(&mut queue, now), ["urgent", "a", "b"]);
        queue.put(pod("a", "1"));
        assert!(popped(&mut queue, now).is_empty(), "in flight is not handed out again");
    }

    #[test]
    fn the_blocked_are_woken_by_what_may_help_and_not_before_their_time() {
        let (mut queue, now) = (queue(), Instant::now());
        for (name, filters) in [("room", 1), ("label", 2), ("no-node", 0)] {
            queue.put(pod(name, "1"));
            queue.pop(now).unwrap();
            assert!(queue.block(name, filters, "why", now));
        }
        assert!(popped(&mut queue, now).is_empty());
        queue.wake(1, now);
        assert!(popped(&mut queue, now).is_empty(), "still backing off");
        let later = now + Duration::from_millis(100);
        assert_eq!(queue.next_alarm(), Some(later));
        let mut woken = popped(&mut queue, later);
        woken.sort();
        assert_eq!(woken, ["no-node", "room"]);
        assert!(!queue.block("room", 1, "why", later), "told before");
        assert!(queue.block("no-node", 1, "other", later));
        queue.wake(ANY_FILTER, later + Duration::from_secs(1));
        let mut woken = popped(&mut queue, later + Duration::from_secs(1));
        woken.sort();
        assert_eq!(woken, ["label", "no-node", "room"]);
    }

    #[test]
    fn blocked_for_long_is_tried_again_and_a_changed_wish_at_once() {
        let (mut queue, now) = (queue(), Instant::now());
        queue.put(pod("a", "2"));
        queue.pop(now).unwrap();
        queue.block("a", 1, "why", now);
        queue.put(pod("a", "2"));
        assert!(popped(&mut queue, now).is_empty(), "nothing new in it");
        queue.put(pod("a", "1"));
        assert_eq!(popped(&mut queue, now), ["a"]);
        queue.block("a", 1, "why", now);
        assert_eq!(popped(&mut queue, now + Duration::from_secs(300)), ["a"]);
        queue.remove("a");
        assert!(queue.entries.is_empty() && queue.alarms.is_empty() && queue.blocked.is_empty());
    }

    #[test]
    fn failures_back_off_twice_as_long_each_time() {
        let (mut queue, mut now) = (queue(), Instant::now());
        queue.put(pod("a", "1"));
        queue.pop(now).unwrap();
        for wait in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            queue.back_off("a", now);
            now += Duration::from_millis(wait - 1);
            assert!(queue.pop(now).is_none());
            now += Duration::from_millis(1);
            assert!(queue.pop(now).is_some(), "{wait}");
        }
    }
}
