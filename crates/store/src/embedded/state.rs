//! The current state in memory, and how a transaction is evaluated against it.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use bytes::Bytes;

use super::codec::{Entry, Position};
use super::disk::Batch;
use crate::feed::Commit;
use crate::{Compare, Event, KeyValue, Op, OpResult, Revision, Txn, TxnResponse};

/// A key's current put and where its entry lies.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) kv: KeyValue,
    pub(super) sub: u16,
}

impl Slot {
    pub(super) fn position(&self) -> Position {
        Position { revision: self.kv.mod_revision, sub: self.sub }
    }
}

/// All keys at the published revision.
#[derive(Debug, Default)]
pub(super) struct Index {
    keys: BTreeMap<Bytes, Slot>,
}

impl Index {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Slot> {
        self.keys.get(key)
    }

    /// The keys in `start..end`, ascending.
    pub(super) fn range<'a>(
        &'a self,
        start: &'a Bytes,
        end: &'a Bytes,
    ) -> impl Iterator<Item = &'a Slot> + use<'a> {
        let upper = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        // BTreeMap panics on a range that ends before it begins.
        let valid = end.is_empty() || start < end;
        let range = valid.then(|| self.keys.range::<Bytes, _>((Bound::Included(start), upper)));
        range.into_iter().flatten().map(|(_, slot)| slot)
    }

    /// Makes one change.
    pub(super) fn set(&mut self, key: &Bytes, slot: Option<Slot>) {
        match slot {
            // The key is replaced as well, so that it does not keep the buffer of an older version alive.
            Some(slot) => {
                self.keys.remove(key);
                self.keys.insert(slot.kv.key.clone(), slot);
            }
            None => {
                self.keys.remove(key);
            }
        }
    }

    /// Applies one log entry, as at start; the event that it made.
    pub(super) fn replay(&mut self, position: Position, entry: Entry) -> Event {
        let prev = self.get(&entry.key).map(|slot| slot.kv.clone());
        let key = entry.key.clone();
        if entry.put {
            let kv = entry.into_kv(position.revision);
            self.set(&key, Some(Slot { kv: kv.clone(), sub: position.sub }));
            Event::Put { kv, prev }
        } else {
            self.set(&key, None);
            Event::Delete { key, revision: position.revision, prev }
        }
    }
}

/// A group of transactions, evaluated one after the other on top of the state, not yet on disk.
pub(super) struct Group<'a> {
    index: &'a Index,
    revision: Revision,
    changed: HashMap<Bytes, Option<Slot>>,
    commits: Vec<Commit>,
    batch: Batch,
}

/// What a group will do to memory once it is on disk.
pub(super) struct Outcome {
    pub(super) batch: Batch,
    pub(super) changed: HashMap<Bytes, Option<Slot>>,
    pub(super) commits: Vec<Commit>,
}

impl<'a> Group<'a> {
    /// A group on top of the state at `revision`.
    pub(super) fn new(index: &'a Index, revision: Revision) -> Self {
        Self { index, revision, changed: HashMap::new(), commits: Vec::new(), batch: Vec::new() }
    }

    fn slot(&self, key: &Bytes) -> Option<&Slot> {
        match self.changed.get(key) {
            Some(slot) => slot.as_ref(),
            None => self.index.get(key),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::ModRevision { key, equals } => {
                self.slot(key).map_or(0, |s| s.kv.mod_revision) == *equals
            }
            Compare::Exists { key, exists } => self.slot(key).is_some() == *exists,
        }
    }

    /// Runs one transaction, which has passed the limits.
    pub(super) fn run(&mut self, txn: &Txn) -> TxnResponse {
        let succeeded = txn.compares.iter().all(|c| self.holds(c));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let revision = self.revision + 1;
        // As many as there can be, and no more: recent commits are kept by the thousand.
        let mut events = Vec::with_capacity(ops.len());
        let results = ops.iter().map(|op| self.step(op, revision, &mut events)).collect();
        if !events.is_empty() {
            self.revision = revision;
            self.commits.push(Commit { revision, events });
        }
        TxnResponse { succeeded, revision: self.revision, results }
    }

    fn step(&mut self, op: &Op, revision: Revision, events: &mut Vec<Event>) -> OpResult {
        match op {
            Op::Get { key } => OpResult::Get(self.slot(key).map(|s| s.kv.clone())),
            Op::Put { key, value } => {
                let prev = self.slot(key).cloned();
                let entry = Entry {
                    put: true,
                    create_revision: prev.as_ref().map_or(revision, |s| s.kv.create_revision),
                    version: prev.as_ref().map_or(1, |s| s.kv.version + 1),
                    prev: prev.as_ref().map(Slot::position),
                    key: key.clone(),
                    value: value.clone(),
                };
                let (sub, entry) = self.write(&entry, revision, events.len());
                let kv = entry.into_kv(revision);
                self.changed.insert(kv.key.clone(), Some(Slot { kv: kv.clone(), sub }));
                events.push(Event::Put { kv, prev: prev.map(|s| s.kv) });
                OpResult::Put
            }
            Op::Delete { key } => {
                let Some(prev) = self.slot(key).cloned() else { return OpResult::Delete { existed: false } };
                let entry = Entry {
                    put: false,
                    create_revision: 0,
                    version: 0,
                    prev: Some(prev.position()),
                    key: key.clone(),
                    value: Bytes::new(),
                };
                let (_, entry) = self.write(&entry, revision, events.len());
                self.changed.insert(entry.key.clone(), None);
                events.push(Event::Delete { key: entry.key, revision, prev: Some(prev.kv) });
                OpResult::Delete { existed: true }
            }
        }
    }

    /// Puts an entry into the batch; the same entry, sharing the batch's buffer.
    fn write(&mut self, entry: &Entry, revision: Revision, number: usize) -> (u16, Entry) {
        // At most MAX_OPS entries per transaction.
        let sub = number as u16;
        let bytes = entry.encode();
        self.batch.push((Position { revision, sub }, bytes.clone()));
        let shared = Entry::decode(&bytes).expect("an entry just encoded can be decoded");
        (sub, shared)
    }

    /// The group is complete.
    pub(super) fn finish(self) -> Outcome {
        Outcome { batch: self.batch, changed: self.changed, commits: self.commits }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(group: &mut Group<'_>, txn: Txn) -> TxnResponse {
        group.run(&txn)
    }

    #[test]
    fn a_group_sees_its_own_earlier_transactions_and_gives_each_a_revision() {
        let index = Index::default();
        let mut group = Group::new(&index, 1);
        assert_eq!(run(&mut group, Txn::put("a", "1")).revision, 2);
        let swap = |equals| Txn {
            compares: vec![Compare::ModRevision { key: "a".into(), equals }],
            ..Txn::put("a", "2")
        };
        assert!(!run(&mut group, swap(0)).succeeded);
        let swapped = run(&mut group, swap(2));
        assert_eq!((swapped.succeeded, swapped.revision), (true, 3));
        let outcome = group.finish();
        assert_eq!(outcome.commits.iter().map(|c| c.revision).collect::<Vec<_>>(), [2, 3]);
        let kv = &outcome.changed[&Bytes::from("a")].as_ref().unwrap().kv;
        assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    }

    #[test]
    fn a_transaction_that_changes_nothing_takes_no_revision() {
        let index = Index::default();
        let mut group = Group::new(&index, 5);
        let gone = run(&mut group, Txn::delete("absent"));
        assert_eq!((gone.revision, gone.results), (5, vec![OpResult::Delete { existed: false }]));
        assert!(group.finish().batch.is_empty());
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_empty() {
        let mut index = Index::default();
        let kv =
            KeyValue { key: "b".into(), value: "".into(), create_revision: 2, mod_revision: 2, version: 1 };
        index.set(&"b".into(), Some(Slot { kv, sub: 0 }));
        let count = |start: &'static str, end: &'static str| index.range(&start.into(), &end.into()).count();
        assert_eq!((count("z", "a"), count("b", "b"), count("a", "")), (0, 0, 1));
    }
}
