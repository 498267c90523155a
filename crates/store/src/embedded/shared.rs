//! What the writer thread, readers and watches share.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::disk::Disk;
use super::state::{Group, Index, Outcome, Slot};
use crate::feed::{Commit, Feed, FeedLimits};
use crate::{Event, Revision, StoreError, Txn, TxnResponse};

/// The revision of an empty store, as in etcd.
const EMPTY: Revision = 1;

/// The state in memory and the directory. Lock order: index, then the feed's ring.
pub(super) struct Shared {
    dir: PathBuf,
    index: RwLock<Index>,
    pub(super) feed: Arc<Feed>,
    /// None after a failed write until it is opened again, and when closed.
    disk: RwLock<Option<Disk>>,
    /// Held by the one compaction that runs.
    compaction: Mutex<()>,
}

impl Shared {
    /// Opens the directory and loads the state.
    pub(super) fn open(dir: PathBuf, limits: FeedLimits) -> Result<Self, StoreError> {
        let disk = Disk::open(&dir)?;
        let (index, feed) = load(&disk, limits)?;
        Ok(Self {
            dir,
            index: RwLock::new(index),
            feed: Arc::new(feed),
            disk: RwLock::new(Some(disk)),
            compaction: Mutex::new(()),
        })
    }

    pub(super) fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open directory.
    pub(super) fn disk(&self) -> Result<Disk, StoreError> {
        let disk = self.disk.read().unwrap_or_else(PoisonError::into_inner).clone();
        disk.ok_or_else(|| StoreError::Disk {
            path: self.dir.display().to_string(),
            reason: "an earlier write failed; see whether the disk is full or broken".to_owned(),
        })
    }

    fn put_disk(&self, disk: Option<Disk>) {
        let old = std::mem::replace(&mut *self.disk.write().unwrap_or_else(PoisonError::into_inner), disk);
        drop(old);
    }

    /// Evaluates transactions on top of the published state; nothing is changed yet.
    pub(super) fn evaluate<'t>(&self, txns: impl Iterator<Item = &'t Txn>) -> (Vec<TxnResponse>, Outcome) {
        let index = self.index();
        let mut group = Group::new(&index, self.feed.ring().published);
        let responses = txns.map(|txn| group.run(txn)).collect();
        (responses, group.finish())
    }

    /// Makes a group that is on disk visible to readers and watches.
    pub(super) fn publish(&self, outcome: Outcome) {
        {
            let mut index = self.index_mut();
            for (key, slot) in outcome.changed {
                index.set(&key, slot);
            }
            let mut ring = self.feed.ring_mut();
            for commit in outcome.commits {
                ring.push(Arc::new(commit));
            }
        }
        self.feed.wake();
    }

    /// After a failed write: lets go of the directory. What of the group reached the disk shows when it is opened again.
    pub(super) fn fail(&self) {
        self.put_disk(None);
    }

    /// Opens the directory again after [`Shared::fail`], and publishes what is found on it beyond the known state.
    pub(super) fn revive(&self) -> Result<Disk, StoreError> {
        let disk = Disk::open(&self.dir)?;
        let known = self.feed.ring().published;
        let view = disk.view()?;
        {
            let mut index = self.index_mut();
            let mut ring = self.feed.ring_mut();
            replay(&mut index, view.log(known + 1, Revision::MAX), &view, |commit| {
                ring.push(Arc::new(commit))
            })?;
        }
        drop(view);
        self.feed.wake();
        self.put_disk(Some(disk.clone()));
        Ok(disk)
    }

    /// Drops the log up to `revision`, on disk. Blocks.
    pub(super) fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let _one = self.compaction.lock().unwrap_or_else(PoisonError::into_inner);
        self.disk()?.compact(revision)
    }

    /// The end: watches end, the directory is let go.
    pub(super) fn close(&self) {
        self.feed.close(StoreError::Closed);
        self.put_disk(None);
    }
}

/// The current state and the recent commits, from the base and the log after it.
fn load(disk: &Disk, limits: FeedLimits) -> Result<(Index, Feed), StoreError> {
    let view = disk.view()?;
    let mut index = Index::default();
    for found in view.base() {
        let (position, entry) = found?;
        let key = entry.key.clone();
        index.set(&key, Some(Slot { kv: entry.into_kv(position.revision), sub: position.sub }));
    }
    let feed = Feed::new(limits, view.compacted.max(EMPTY), view.compacted);
    {
        let mut ring = feed.ring_mut();
        replay(&mut index, view.log(view.compacted + 1, Revision::MAX), &view, |commit| {
            ring.push(Arc::new(commit))
        })?;
    }
    Ok((index, feed))
}

/// Applies log entries to the index; each complete revision goes to `push`.
fn replay(
    index: &mut Index,
    log: impl Iterator<Item = Result<(super::codec::Position, bytes::Bytes), StoreError>>,
    view: &super::disk::View,
    mut push: impl FnMut(Commit),
) -> Result<(), StoreError> {
    let mut revision = 0;
    let mut events: Vec<Event> = Vec::new();
    for found in log {
        let (position, bytes) = found?;
        if position.revision != revision && !events.is_empty() {
            push(Commit { revision, events: std::mem::take(&mut events) });
        }
        revision = position.revision;
        events.push(index.replay(position, view.entry(&bytes)?));
    }
    if !events.is_empty() {
        push(Commit { revision, events });
    }
    Ok(())
}
