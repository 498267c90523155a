//! Claims: small keys under `/claims/` that are written in the same transactions as the objects they
//! belong to. A claim for an address is compared absent, so that two objects never hold the same
//! one; a counter is compared unchanged, so that two writers notice each other.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use yunfan_store::Revision;

/// One claim.
#[derive(Clone)]
struct Claim {
    revision: Revision,
    holder: Bytes,
}

/// The claims as the cache knows them.
#[derive(Default)]
pub(crate) struct Claims(RwLock<BTreeMap<String, Claim>>);

impl Claims {
    /// Revision of a claim's last write; 0 when it is free.
    pub(crate) fn revision(&self, key: &str) -> Revision {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).map_or(0, |c| c.revision)
    }

    /// Whether it is held.
    pub(crate) fn is_held(&self, key: &str) -> bool {
        self.revision(key) != 0
    }

    /// Who holds it, in words.
    pub(crate) fn holder(&self, key: &str) -> Option<String> {
        let claims = self.0.read().unwrap_or_else(PoisonError::into_inner);
        claims.get(key).map(|c| String::from_utf8_lossy(&c.holder).into_owned())
    }

    /// The keys that start with `prefix`, without it.
    pub(crate) fn under(&self, prefix: &str) -> std::collections::HashSet<String> {
        let claims = self.0.read().unwrap_or_else(PoisonError::into_inner);
        claims
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .map_while(|(key, _)| key.strip_prefix(prefix).map(str::to_owned))
            .collect()
    }

    pub(super) fn put(&self, key: String, holder: Bytes, revision: Revision) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(key, Claim { revision, holder });
    }

    pub(super) fn remove(&self, key: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    pub(super) fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
