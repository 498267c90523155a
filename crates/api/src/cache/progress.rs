//! How far the cache is, and who waits until it is further. Each waiter is woken once, when its own revision is there:
//! with many writers at work, waking all at each step would cost more than the writes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use yunfan_store::Revision;

/// The revision that is reached, and the waiters by what they wait for.
#[derive(Default)]
pub(super) struct Progress {
    reached: AtomicU64,
    waiters: Mutex<Waiters>,
}

#[derive(Default)]
struct Waiters {
    /// Makes keys differ.
    count: u64,
    by_revision: BTreeMap<(Revision, u64), oneshot::Sender<()>>,
}

impl Progress {
    /// The revision that is reached.
    pub(super) fn reached(&self) -> Revision {
        self.reached.load(Ordering::Acquire)
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that a revision is reached.
    pub(super) fn reach(&self, revision: Revision) {
        if self.reached.fetch_max(revision, Ordering::AcqRel) >= revision {
            return;
        }
        let woken = {
            let mut waiters = self.waiters();
            let later = waiters.by_revision.split_off(&(revision + 1, 0));
            std::mem::replace(&mut waiters.by_revision, later)
        };
        for waiter in woken.into_values() {
            // Who does not wait any more has gone away.
            let _ = waiter.send(());
        }
    }

    fn enter(&self, revision: Revision) -> (Waiter<'_>, oneshot::Receiver<()>) {
        let (sender, woken) = oneshot::channel();
        let mut waiters = self.waiters();
        waiters.count += 1;
        let key = (revision, waiters.count);
        waiters.by_revision.insert(key, sender);
        (Waiter { progress: self, key }, woken)
    }

    /// Waits until a revision is reached, at most so long; whether it is.
    pub(super) async fn wait(&self, revision: Revision, most: Duration) -> bool {
        if self.reached() >= revision {
            return true;
        }
        let (_waiter, woken) = self.enter(revision);
        // It may have been reached before the waiter was there to be seen.
        if self.reached() >= revision {
            return true;
        }
        tokio::time::timeout(most, woken).await.is_ok() || self.reached() >= revision
    }
}

/// One who waits: forgotten when it is woken, and when it gives up.
struct Waiter<'p> {
    progress: &'p Progress,
    key: (Revision, u64),
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.progress.waiters().by_revision.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_waits_for_its_own_revision() {
        let progress = Progress::default();
        progress.reach(3);
        assert!(progress.wait(3, Duration::ZERO).await);
        assert!(!progress.wait(4, Duration::from_secs(1)).await);
        assert!(progress.waiters().by_revision.is_empty(), "who gives up is forgotten");
        let (first, second, ()) = tokio::join!(
            progress.wait(5, Duration::from_secs(9)),
            progress.wait(7, Duration::from_secs(9)),
            async { progress.reach(6) }
        );
        assert_eq!((first, second), (true, false));
        progress.reach(2);
        assert_eq!(progress.reached(), 6, "it never goes back");
    }
}
