//! What a loop wrote and its informer does not show yet: a pass on old news would make or delete things twice.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use yunfan_client::{Informer, ObjectKey, Watched};

/// How long a write is waited for. It comes within milliseconds, unless it went by while the watch was down.
const PATIENCE: Duration = Duration::from_secs(30);

/// Remembers, for each key that a loop works on, up to which revision of a kind its informer must have come
/// before the next pass.
pub(crate) struct Ahead<K> {
    informer: Informer<K>,
    until: Mutex<HashMap<ObjectKey, (u64, Instant)>>,
}

impl<K: Watched> Ahead<K> {
    pub(crate) fn new(informer: Informer<K>) -> Self {
        Self { informer, until: Mutex::default() }
    }

    /// Takes note of an object that was written on behalf of `key`, as the answer showed it.
    pub(crate) fn wrote(&self, key: &ObjectKey, object: &K) {
        self.wrote_at(key, object.resource_version().and_then(|version| version.parse().ok()));
    }

    /// Takes note of a write at a revision, where it is known.
    pub(crate) fn wrote_at(&self, key: &ObjectKey, revision: Option<u64>) {
        let Some(revision) = revision else { return };
        let mut until = self.lock();
        let entry = until.entry(key.clone()).or_insert((revision, Instant::now()));
        *entry = (entry.0.max(revision), Instant::now());
    }

    /// None when the informer shows all that was written on behalf of `key`. Else its news bring the key back; should
    /// they not, it is time after what this returns.
    pub(crate) fn behind(&self, key: &ObjectKey) -> Option<Duration> {
        let mut until = self.lock();
        let (revision, at) = *until.get(key)?;
        let left = PATIENCE.saturating_sub(at.elapsed());
        if self.informer.revision() >= revision || left.is_zero() {
            until.remove(key);
            return None;
        }
        Some(left)
    }

    /// Forgets a key that is no more.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, (u64, Instant)>> {
        // Nothing panics under this lock.
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
