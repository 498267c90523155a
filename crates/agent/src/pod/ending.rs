//! Pods that are ending, each of which is told when its object changes: it may be asked to end sooner.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use yunfan_client::ObjectKey;

/// Who is told of what.
#[derive(Default)]
pub(super) struct Ending {
    followed: Mutex<HashMap<ObjectKey, Arc<Notify>>>,
}

/// Of one Pod, until it is dropped.
pub(super) struct Changes<'a> {
    all: &'a Ending,
    key: &'a ObjectKey,
    told: Arc<Notify>,
}

impl Ending {
    /// The changes of an object from now on. One work at a time is done on each Pod, so nobody else follows it.
    pub(super) fn follow<'a>(&'a self, key: &'a ObjectKey) -> Changes<'a> {
        let told = self.lock().entry(key.clone()).or_default().clone();
        Changes { all: self, key, told }
    }

    /// An object has changed, or is gone.
    pub(super) fn tell(&self, key: &ObjectKey) {
        if let Some(told) = self.lock().get(key) {
            told.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Arc<Notify>>> {
        // Nothing panics under this lock.
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Changes<'_> {
    /// The next one; also one that came since the last was taken.
    pub(super) async fn next(&mut self) {
        self.told.notified().await;
    }
}

impl Drop for Changes<'_> {
    fn drop(&mut self) {
        self.all.lock().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_change_is_told_to_who_follows_also_before_it_waits() {
        let (all, key) = (Ending::default(), ObjectKey::new("n", "p"));
        all.tell(&key);
        let mut changes = all.follow(&key);
        all.tell(&ObjectKey::new("n", "other"));
        assert!(tokio::time::timeout(Duration::ZERO, changes.next()).await.is_err());
        all.tell(&key);
        tokio::time::timeout(Duration::from_secs(30), changes.next()).await.unwrap();
        drop(changes);
        assert!(all.lock().is_empty());
    }
}
