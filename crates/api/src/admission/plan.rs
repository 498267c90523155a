//! What a write carries besides its object: conditions and further keys of the same transaction.

use std::collections::BTreeMap;

use bytes::Bytes;
use yunfan_store::{Compare, Op, Revision};

/// Conditions and operations that go into the object's own transaction. Each key is written, and
/// compared, at most once.
#[derive(Default)]
pub(crate) struct WritePlan {
    compares: BTreeMap<String, Revision>,
    exists: BTreeMap<String, bool>,
    ops: BTreeMap<String, Option<Bytes>>,
}

impl WritePlan {
    /// The key must still be as the cache has it; 0 = absent.
    pub(crate) fn unchanged(&mut self, key: impl Into<String>, revision: Revision) {
        self.compares.insert(key.into(), revision);
    }

    /// The key must be there.
    pub(crate) fn exists(&mut self, key: impl Into<String>) {
        self.exists.insert(key.into(), true);
    }

    /// Writes a key.
    pub(crate) fn put(&mut self, key: impl Into<String>, value: impl Into<Bytes>) {
        self.ops.insert(key.into(), Some(value.into()));
    }

    /// Claims a key that nobody holds.
    pub(crate) fn claim(&mut self, key: impl Into<String>, holder: &str) {
        let key = key.into();
        self.compares.insert(key.clone(), 0);
        self.ops.insert(key, Some(Bytes::copy_from_slice(holder.as_bytes())));
    }

    /// Frees a key.
    pub(crate) fn free(&mut self, key: impl Into<String>) {
        self.ops.insert(key.into(), None);
    }

    /// The store's words for it.
    pub(crate) fn into_parts(self) -> (Vec<Compare>, Vec<Op>) {
        let unchanged =
            self.compares.into_iter().map(|(key, equals)| Compare::ModRevision { key: key.into(), equals });
        let exists = self.exists.into_iter().map(|(key, exists)| Compare::Exists { key: key.into(), exists });
        let ops = self.ops.into_iter().map(|(key, value)| match value {
            Some(value) => Op::Put { key: key.into(), value },
            None => Op::Delete { key: key.into() },
        });
        (unchanged.chain(exists).collect(), ops.collect())
    }
}
