//! The words of the store: keys, transactions, events.

use bytes::Bytes;

/// A point in the store's history. 0 means "none".
pub type Revision = u64;

/// A key, its value and where they stand in history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value; shared, so that a clone copies nothing.
    pub value: Bytes,
    /// Revision of the put that created the key (since it was last absent).
    pub create_revision: Revision,
    /// Revision of the last put.
    pub mod_revision: Revision,
    /// Number of puts since the key was last absent; 1 after creation.
    pub version: u64,
}

/// A condition on the state before the transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key was last written at exactly this revision; 0 = it is absent.
    ModRevision {
        /// The key.
        key: Bytes,
        /// The revision that it must have.
        equals: Revision,
    },
    /// The key is there, or is not.
    Exists {
        /// The key.
        key: Bytes,
        /// Whether it must be there.
        exists: bool,
    },
}

/// One step of a transaction. Steps run in order and see the steps before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes a key.
    Put {
        /// The key.
        key: Bytes,
        /// The value; may be empty.
        value: Bytes,
    },
    /// Removes a key; fine if it is absent.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Reads a key.
    Get {
        /// The key.
        key: Bytes,
    },
}

/// If all compares hold then `success` else `failure`. At most [`crate::MAX_OPS`] compares and operations in each list,
/// [`crate::MAX_TXN_BYTES`] in all, and each list writes a key at most once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions; none = true.
    pub compares: Vec<Compare>,
    /// Runs if all conditions hold.
    pub success: Vec<Op>,
    /// Runs if one does not.
    pub failure: Vec<Op>,
}

impl Txn {
    /// An unconditional put of one key.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { success: vec![Op::Put { key: key.into(), value: value.into() }], ..Self::default() }
    }

    /// An unconditional delete of one key.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self { success: vec![Op::Delete { key: key.into() }], ..Self::default() }
    }
}

/// What an [`Op`] did, in the order of the operations of the branch that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResult {
    /// The key was written, at the transaction's revision.
    Put,
    /// Whether there was something to delete.
    Delete {
        /// False if the key was absent.
        existed: bool,
    },
    /// What was read.
    Get(Option<KeyValue>),
}

/// The outcome of a [`Txn`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnResponse {
    /// Whether all compares held.
    pub succeeded: bool,
    /// The revision that the transaction took, or if it changed nothing, the current one.
    pub revision: Revision,
    /// One result per operation of the branch that ran.
    pub results: Vec<OpResult>,
}

/// A read of the keys in `start..end`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeRequest {
    /// First key, inclusive.
    pub start: Bytes,
    /// End, exclusive; empty = to the end of the key space.
    pub end: Bytes,
    /// Most keys to return; 0 = all.
    pub limit: usize,
    /// The revision to read at; `None` (or 0) = now.
    pub revision: Option<Revision>,
}

impl RangeRequest {
    /// Reads one key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        let start = key.into();
        Self { end: key_after(&start), start, ..Self::default() }
    }

    /// Reads all keys that begin with `prefix`.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start = prefix.into();
        Self { end: prefix_end(&start), start, ..Self::default() }
    }
}

/// The outcome of a [`RangeRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeResponse {
    /// The keys, ascending.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut the answer. Go on with `start = key_after(last key)` and `revision = Some(self.revision)`.
    pub more: bool,
    /// Number of keys in the whole range, whatever the limit.
    pub count: u64,
    /// The revision whose state this is: the one asked for, else the current one.
    pub revision: Revision,
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was written.
    Put {
        /// The new state.
        kv: KeyValue,
        /// The state before; `None` if the key was absent.
        prev: Option<KeyValue>,
    },
    /// The key was removed.
    Delete {
        /// The key.
        key: Bytes,
        /// When.
        revision: Revision,
        /// The state before.
        prev: Option<KeyValue>,
    },
}

impl Event {
    /// The key that changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Event::Put { kv, .. } => &kv.key,
            Event::Delete { key, .. } => key,
        }
    }

    /// The state before the change.
    pub fn prev(&self) -> Option<&KeyValue> {
        match self {
            Event::Put { prev, .. } | Event::Delete { prev, .. } => prev.as_ref(),
        }
    }
}

/// One item of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchItem {
    /// All events of one revision within the watched range, in the order of the transaction.
    Events {
        /// The revision.
        revision: Revision,
        /// At least one.
        events: Vec<Event>,
    },
    /// Everything up to and including this revision has been delivered.
    Progress {
        /// The revision.
        revision: Revision,
    },
}

/// The smallest key after `key`.
pub fn key_after(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The end (exclusive) of the range of all keys that begin with `prefix`; empty = no end.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            break;
        }
    }
    end.into()
}

/// Whether `key` is in `start..end` (empty `end` = no end).
pub(crate) fn in_range(key: &[u8], start: &[u8], end: &[u8]) -> bool {
    key >= start && (end.is_empty() || key < end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_end_carries_over_ff() {
        assert_eq!(prefix_end(b"a/"), Bytes::from_static(b"a0"));
        assert_eq!(prefix_end(b"a\xff\xff"), Bytes::from_static(b"b"));
        assert_eq!(prefix_end(b"\xff"), Bytes::new());
        assert_eq!(prefix_end(b""), Bytes::new());
    }

    #[test]
    fn ranges_are_half_open() {
        assert!(in_range(b"b", b"b", b"c"));
        assert!(!in_range(b"c", b"b", b"c"));
        assert!(in_range(b"zzz", b"b", b""));
        assert!(!in_range(b"a", b"b", b""));
    }
}
