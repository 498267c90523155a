//! The cached objects of one kind, and the ring of its latest changes. The ring is the queue of every
//! watcher: each holds a place in it, and one that falls off its end is told to list again. So a
//! slow watcher costs nothing, and an event is held once however many watch.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use tokio::sync::watch;
use yunfan_store::Revision;

use super::entry::Entry;

/// Changes kept per kind, at most.
const RING_EVENTS: usize = 8192;
/// Bytes of objects that the kept changes may hold per kind.
const RING_BYTES: usize = 32 << 20;
/// Changes handed to a watcher at once.
const BATCH: usize = 256;

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChangeType {
    Added,
    Modified,
    Deleted,
}

impl ChangeType {
    /// The word in a watch event.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object.
pub(crate) struct Change {
    pub(crate) kind: ChangeType,
    /// The object after the change; after a deletion its last state at the deletion's revision.
    pub(crate) entry: Arc<Entry>,
    /// The object before the change.
    pub(crate) prev: Option<Arc<Entry>>,
    frames: [OnceLock<Bytes>; 3],
}

impl Change {
    fn new(kind: ChangeType, entry: Arc<Entry>, prev: Option<Arc<Entry>>) -> Self {
        Self { kind, entry, prev, frames: Default::default() }
    }

    /// A change made up to tell observers of an object as it is.
    pub(super) fn synthetic(kind: ChangeType, entry: Arc<Entry>) -> Arc<Self> {
        Arc::new(Self::new(kind, entry, None))
    }

    /// The watch event in the stored version, encoded once for all watchers. `as_type` differs from
    /// the change's own type when the object starts or stops to match a selector.
    pub(crate) fn frame(&self, as_type: ChangeType, encode: impl FnOnce() -> Bytes) -> Bytes {
        self.frames[as_type as usize].get_or_init(encode).clone()
    }
}

/// A watcher's place is no longer in the ring.
#[derive(Debug)]
pub(crate) struct Expired;

struct Inner {
    entries: BTreeMap<Arc<str>, Arc<Entry>>,
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    /// Number of the ring's first change.
    first: u64,
    /// All changes after this revision are in the ring.
    floor: Revision,
    /// Revision of the latest change.
    last: Revision,
}

/// The cached objects of one kind.
pub(crate) struct KindCache {
    inner: RwLock<Inner>,
    /// Number of the change that comes next.
    head: watch::Sender<u64>,
}

/// A listing: the objects, whether there are more, and the latest change of the kind that they reflect.
pub(crate) struct Listing {
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) last: Revision,
    pub(crate) cursor: u64,
}

impl KindCache {
    pub(crate) fn new(floor: Revision) -> Self {
        Self {
            inner: RwLock::new(Inner {
                entries: BTreeMap::new(),
                ring: VecDeque::new(),
                ring_bytes: 0,
                first: 1,
                floor,
                last: 0,
            }),
            head: watch::Sender::new(1),
        }
    }

    // A panic while the lock is held can't leave a half-done change that matters more than going on.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One object.
    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.read().entries.get(key).cloned()
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.read().entries.len()
    }

    /// Revision of the latest change (0 when there was none).
    pub(crate) fn last(&self) -> Revision {
        self.read().last
    }

    /// All changes after this revision can be watched.
    pub(crate) fn floor(&self) -> Revision {
        self.read().floor
    }

    /// The objects whose key starts with `prefix`, in the order of their keys.
    pub(crate) fn list(&self, prefix: &str) -> Listing {
        let inner = self.read();
        let entries = inner
            .entries
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, entry)| entry.clone())
            .collect();
        Listing { entries, last: inner.last, cursor: inner.first + inner.ring.len() as u64 }
    }

    /// Puts objects in at the start, without making changes of them.
    pub(crate) fn load(&self, entries: Vec<Arc<Entry>>, floor: Revision) {
        let mut inner = self.write();
        inner.last = floor;
        inner.floor = floor;
        inner.entries = entries.into_iter().map(|e| (e.key.clone(), e)).collect();
        // Numbers jump, so that every watcher that was there notices and lists again.
        inner.first += inner.ring.len() as u64 + 1;
        inner.ring.clear();
        inner.ring_bytes = 0;
        let next = inner.first;
        drop(inner);
        self.head.send_replace(next);
    }

    /// Applies all changes that one revision made to this kind. `None` stands for a deletion.
    /// Returns what changed.
    pub(crate) fn apply(
        &self,
        revision: Revision,
        changes: Vec<(Arc<str>, Option<Arc<Entry>>)>,
    ) -> Vec<Arc<Change>> {
        let mut inner = self.write();
        let mut done = Vec::with_capacity(changes.len());
        for (key, entry) in changes {
            let change = match entry {
                Some(entry) => {
                    let prev = inner.entries.insert(key, entry.clone());
                    let kind = if prev.is_some() { ChangeType::Modified } else { ChangeType::Added };
                    Change::new(kind, entry, prev)
                }
                None => {
                    let Some(prev) = inner.entries.remove(&key) else { continue };
                    Change::new(ChangeType::Deleted, Arc::new(prev.at(revision)), Some(prev))
                }
            };
            let change = Arc::new(change);
            inner.ring_bytes += change.entry.bytes.len();
            inner.ring.push_back(change.clone());
            done.push(change);
        }
        inner.last = revision;
        while inner.ring.len() > RING_EVENTS || inner.ring_bytes > RING_BYTES {
            let Some(old) = inner.ring.pop_front() else { break };
            inner.ring_bytes -= old.entry.bytes.len();
            inner.floor = old.entry.revision;
            inner.first += 1;
        }
        let next = inner.first + inner.ring.len() as u64;
        drop(inner);
        self.head.send_replace(next);
        done
    }

    /// A place in the ring from which all changes after `revision` follow.
    pub(crate) fn cursor_after(self: &Arc<Self>, revision: Revision) -> Result<Cursor, Expired> {
        let inner = self.read();
        if revision < inner.floor {
            return Err(Expired);
        }
        let skip = inner.ring.partition_point(|c| c.entry.revision <= revision);
        let next = inner.first + skip as u64;
        drop(inner);
        Ok(self.cursor_at(next))
    }

    /// The place in the ring behind all changes so far.
    pub(crate) fn cursor_now(self: &Arc<Self>) -> Cursor {
        let next = *self.head.borrow();
        self.cursor_at(next)
    }

    /// The place in the ring with this number, which came from a [`Listing`].
    pub(crate) fn cursor_at(self: &Arc<Self>, next: u64) -> Cursor {
        Cursor { cache: self.clone(), next, head: self.head.subscribe() }
    }
}

/// A watcher's place in the ring.
pub(crate) struct Cursor {
    cache: Arc<KindCache>,
    next: u64,
    head: watch::Receiver<u64>,
}

impl Cursor {
    /// The changes that are there now and were not handed out yet; empty when there are none.
    pub(crate) fn take(&mut self) -> Result<Vec<Arc<Change>>, Expired> {
        self.head.mark_unchanged();
        let inner = self.cache.read();
        if self.next < inner.first {
            return Err(Expired);
        }
        let skip = (self.next - inner.first) as usize;
        let batch: Vec<_> = inner.ring.iter().skip(skip).take(BATCH).cloned().collect();
        self.next += batch.len() as u64;
        Ok(batch)
    }

    /// Waits until the kind has changed since the last [`Cursor::take`]; forever once the cache is gone.
    pub(crate) async fn changed(&mut self) {
        if self.next < *self.head.borrow() {
            return;
        }
        if self.head.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &KindCache, revision: Revision, name: &str) {
        let key: Arc<str> = format!("/registry/core/pods/a/{name}").into();
        let entry = Arc::new(Entry::new(key.clone(), Bytes::from_static(b"{}"), revision));
        cache.apply(revision, vec![(key, Some(entry))]);
    }

    #[tokio::test]
    async fn a_cursor_sees_each_change_once_and_in_order() {
        let cache = Arc::new(KindCache::new(0));
        put(&cache, 1, "a");
        let mut cursor = cache.cursor_after(0).expect("in the ring");
        put(&cache, 2, "a");
        cache.apply(3, vec![("/registry/core/pods/a/a".into(), None)]);
        cursor.changed().await;
        let seen: Vec<_> =
            cursor.take().expect("in the ring").iter().map(|c| (c.kind, c.entry.revision)).collect();
        assert_eq!(seen, [(ChangeType::Added, 1), (ChangeType::Modified, 2), (ChangeType::Deleted, 3)]);
        assert!(cursor.take().expect("in the ring").is_empty());
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn who_is_too_slow_is_told() {
        let cache = Arc::new(KindCache::new(0));
        let mut slow = cache.cursor_after(0).expect("in the ring");
        for revision in 1..=(RING_EVENTS as u64 + 10) {
            put(&cache, revision, "a");
        }
        assert!(slow.take().is_err());
        assert!(cache.cursor_after(5).is_err());
        assert!(cache.cursor_after(10).is_ok());
    }
}
