//! The cached objects of one kind: as they are, as they were when a page of them was listed lately, their latest
//! changes, and their indexes.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use yunfan_store::Revision;

use super::entry::Entry;
use super::index::{Demand, Index, Indexes, WORTH};
use super::objects::Objects;
use super::ring::{Change, Place, Ring, Topic};
use crate::keys;

/// Changes handed to a watcher at once.
const BATCH: usize = 256;
/// Snapshots kept for the next pages of lists, at most, and how long.
const MAX_PAST: usize = 16;
const PAST_TIME: Duration = Duration::from_secs(300);

/// A watcher's place is no longer in the ring.
#[derive(Debug)]
pub(crate) struct Expired;

struct Inner {
    objects: Objects,
    ring: Ring,
    indexes: Indexes,
    past: VecDeque<Past>,
    /// Revision of the latest change.
    last: Revision,
}

/// The objects as they were at the revisions `from..=until`.
struct Past {
    from: Revision,
    until: Revision,
    objects: Objects,
    kept: Instant,
}

/// The cached objects of one kind.
pub(crate) struct KindCache {
    inner: RwLock<Inner>,
}

/// The objects at one moment.
pub(crate) struct View {
    pub(crate) objects: Objects,
    /// The latest change that they reflect.
    pub(crate) last: Revision,
    /// Number of the change that comes next.
    pub(crate) next: u64,
}

/// A listing: the objects, and the latest change of the kind that they reflect.
pub(crate) struct Listing {
    pub(crate) entries: Vec<Arc<Entry>>,
    pub(crate) last: Revision,
}

impl KindCache {
    pub(crate) fn new(floor: Revision) -> Self {
        Self {
            inner: RwLock::new(Inner {
                objects: Objects::default(),
                ring: Ring::new(floor),
                indexes: Indexes::default(),
                past: VecDeque::new(),
                last: 0,
            }),
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
        self.read().objects.get(key).cloned()
    }

    /// How many objects there are.
    pub(crate) fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Revision of the latest change (0 when there was none).
    pub(crate) fn last(&self) -> Revision {
        self.read().last
    }

    /// All changes after this revision can be watched without the store.
    pub(crate) fn floor(&self) -> Revision {
        self.read().ring.floor
    }

    /// The objects as they are now. Costs nothing, however many they are.
    pub(crate) fn view(&self) -> View {
        let inner = self.read();
        View { objects: inner.objects.clone(), last: inner.last, next: inner.ring.next() }
    }

    /// The objects whose key starts with `prefix`, in the order of their keys.
    pub(crate) fn list(&self, prefix: &str) -> Listing {
        let view = self.view();
        let entries = view.objects.walk(prefix, &keys::prefix_end(prefix)).collect();
        Listing { entries, last: view.last }
    }

    /// The objects with keys in `start..end` that meet one of the demands, by index: those that do not meet the others
    /// are still among them. None where there are too few objects to make an index for.
    pub(crate) fn indexed(
        &self,
        demands: &[Demand],
        start: &str,
        end: &str,
    ) -> Option<(Vec<Arc<Entry>>, View)> {
        let first = demands.first()?;
        {
            let inner = self.read();
            if let Some(found) = inner.by_index(demands, start, end) {
                return Some(found);
            }
            if inner.objects.count(start, end) < WORTH {
                return None;
            }
        }
        // Made without the lock, from a snapshot; what changes meanwhile is made up for.
        let view = self.view();
        let mut index = Index::of(first.term.clone(), &view.objects);
        let mut inner = self.write();
        for change in inner.ring.since(view.next)? {
            index.apply(change);
        }
        inner.indexes.put(index);
        inner.by_index(demands, start, end)
    }

    /// Keeps a snapshot for the pages that follow: it is what there was at `revision`.
    pub(crate) fn keep(&self, view: &View, revision: Revision) {
        let mut inner = self.write();
        match inner.past.iter_mut().find(|past| past.from == view.last) {
            Some(past) => {
                past.until = past.until.max(revision);
                past.kept = Instant::now();
            }
            None => {
                if inner.past.len() >= MAX_PAST {
                    inner.past.pop_front();
                }
                let (from, objects) = (view.last, view.objects.clone());
                inner.past.push_back(Past { from, until: revision, objects, kept: Instant::now() });
            }
        }
    }

    /// The objects as they were at a revision, if a snapshot of then was kept.
    pub(crate) fn past(&self, revision: Revision) -> Option<Objects> {
        let inner = self.read();
        let past = inner.past.iter().find(|past| past.from <= revision && revision <= past.until)?;
        Some(past.objects.clone())
    }

    /// Drops the snapshots of what was before `revision` alone.
    pub(super) fn forget(&self, revision: Revision) {
        self.write().past.retain(|past| past.until >= revision);
    }

    /// Puts objects in at the start, in the order of their keys, without making changes of them.
    pub(crate) fn load(&self, entries: &[Arc<Entry>], floor: Revision) {
        let mut inner = self.write();
        inner.last = floor;
        inner.objects = Objects::from_sorted(entries);
        inner.indexes = Indexes::default();
        inner.past.clear();
        inner.ring.clear(floor);
    }

    /// Applies all changes that one revision made to this kind. `None` stands for a deletion.
    /// Returns what changed.
    pub(crate) fn apply(
        &self,
        revision: Revision,
        changes: Vec<(Arc<str>, Option<Arc<Entry>>)>,
    ) -> Vec<Arc<Change>> {
        let mut done = Vec::with_capacity(changes.len());
        let mut wake = Vec::new();
        {
            let mut inner = self.write();
            for (key, entry) in changes {
                let prev = match &entry {
                    Some(entry) => inner.objects.insert(entry.clone()),
                    None => inner.objects.remove(&key),
                };
                let Some(change) = Change::new(revision, prev, entry) else { continue };
                let change = Arc::new(change);
                inner.indexes.apply(&change);
                inner.ring.push(change.clone(), &mut wake);
                done.push(change);
            }
            inner.last = revision;
            while inner.past.front().is_some_and(|past| past.kept.elapsed() > PAST_TIME) {
                inner.past.pop_front();
            }
            wake.push(inner.ring.signal());
        }
        for signal in wake {
            signal.send_replace(());
        }
        done
    }

    /// A place from which the topic's changes after `revision` follow.
    pub(crate) fn cursor_after(
        self: &Arc<Self>,
        topic: Topic,
        revision: Revision,
    ) -> Result<Cursor, Expired> {
        let number = self.read().ring.number_after(revision).ok_or(Expired)?;
        self.cursor_at(topic, number)
    }

    /// The place behind all changes so far.
    pub(crate) fn cursor_now(self: &Arc<Self>) -> Cursor {
        let inner = self.read();
        let next = inner.ring.next();
        let signal = inner.ring.signal().subscribe();
        drop(inner);
        Cursor { cache: self.clone(), place: Place::All { next }, signal, more: false }
    }

    /// The place of the change with this number, which came from a [`View`].
    pub(crate) fn cursor_at(self: &Arc<Self>, topic: Topic, number: u64) -> Result<Cursor, Expired> {
        let (place, signal) = self.write().ring.enter(topic, number).ok_or(Expired)?;
        Ok(Cursor { cache: self.clone(), place, signal, more: true })
    }
}

impl Inner {
    fn by_index(&self, demands: &[Demand], start: &str, end: &str) -> Option<(Vec<Arc<Entry>>, View)> {
        let keys = self.indexes.keys(demands, start, end)?;
        let entries = keys.iter().filter_map(|key| self.objects.get(key).cloned()).collect();
        Some((entries, View { objects: self.objects.clone(), last: self.last, next: self.ring.next() }))
    }
}

/// A watcher's place in the ring.
pub(crate) struct Cursor {
    cache: Arc<KindCache>,
    place: Place,
    signal: watch::Receiver<()>,
    /// There may be some that were not handed out: nothing was taken yet, the last batch was not all, or a signal came.
    more: bool,
}

impl Cursor {
    /// The changes that are there now and were not handed out yet; empty when there are none.
    pub(crate) fn take(&mut self) -> Result<Vec<Arc<Change>>, Expired> {
        self.signal.mark_unchanged();
        let batch = self.cache.read().ring.take(&mut self.place, BATCH).ok_or(Expired)?;
        self.more = !batch.is_empty();
        Ok(batch)
    }

    /// Whether there may be changes that were not handed out yet.
    pub(crate) fn is_behind(&self) -> bool {
        self.more || self.signal.has_changed().unwrap_or_default()
    }

    /// Waits until the kind has changed since the last [`Cursor::take`]; forever once the cache is gone.
    pub(crate) async fn changed(&mut self) {
        if !self.more && self.signal.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.more = true;
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        if matches!(self.place, Place::Topic { .. }) {
            self.cache.write().ring.leave(&self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::ring::RING_EVENTS;
    use super::super::{ChangeType, Fields, Term};
    use super::*;

    fn key(name: &str) -> Arc<str> {
        format!("/registry/core/pods/{name}").into()
    }

    fn put(cache: &KindCache, revision: Revision, name: &str, body: &str) {
        let entry = Arc::new(Entry::new(key(name), Bytes::copy_from_slice(body.as_bytes()), revision));
        cache.apply(revision, vec![(key(name), Some(entry))]);
    }

    fn names(changes: &[Arc<Change>]) -> Vec<&str> {
        changes.iter().map(|change| &change.entry.key["/registry/core/pods/".len()..]).collect()
    }

    #[tokio::test]
    async fn a_cursor_sees_each_change_once_and_in_order() {
        let cache = Arc::new(KindCache::new(0));
        put(&cache, 1, "a/a", "{}");
        let mut cursor = cache.cursor_after(Topic::All, 0).expect("in the ring");
        put(&cache, 2, "a/a", "{}");
        cache.apply(3, vec![(key("a/a"), None)]);
        cursor.changed().await;
        let seen: Vec<_> =
            cursor.take().expect("in the ring").iter().map(|c| (c.kind, c.entry.revision)).collect();
        assert_eq!(seen, [(ChangeType::Added, 1), (ChangeType::Modified, 2), (ChangeType::Deleted, 3)]);
        assert!(cursor.take().expect("in the ring").is_empty());
        assert_eq!(cache.len(), 0);
    }

    #[test]
    fn who_is_too_slow_is_told_and_who_has_missed_nothing_is_not() {
        let cache = Arc::new(KindCache::new(0));
        let mut slow = cache.cursor_after(Topic::All, 0).expect("in the ring");
        let mut busy = cache.cursor_after(Topic::Prefix(key("a/").to_string()), 0).expect("in the ring");
        let mut quiet = cache.cursor_after(Topic::Prefix(key("b/").to_string()), 0).expect("in the ring");
        for revision in 1..=(RING_EVENTS as u64 + 10) {
            put(&cache, revision, "a/a", "{}");
        }
        assert!(slow.take().is_err());
        assert!(busy.take().is_err());
        assert!(quiet.take().expect("nothing was missed").is_empty());
        assert!(cache.cursor_after(Topic::All, 5).is_err());
        assert!(cache.cursor_after(Topic::All, 10).is_ok());
        put(&cache, 1 << 20, "b/b", "{}");
        assert_eq!(names(&quiet.take().expect("in the ring")), ["b/b"]);
        cache.load(&[], 1 << 21);
        assert!(quiet.take().is_err(), "everything was read again");
    }

    #[tokio::test]
    async fn a_topic_wakes_for_its_own_changes_alone() {
        let node = |name: &str| format!(r#"{{"spec":{{"nodeName":"{name}"}}}}"#);
        let selectable: Fields = ["spec.nodeName".to_owned()].into();
        let cache = Arc::new(KindCache::new(0));
        put(&cache, 1, "a/x", &node("n1"));
        let topics = [
            Topic::Prefix(key("a/").to_string()),
            Topic::Key(key("b/y").to_string()),
            Topic::Field { path: "spec.nodeName".to_owned(), value: "n2".to_owned(), selectable },
        ];
        let mut cursors: Vec<_> =
            topics.into_iter().map(|t| cache.cursor_after(t, 0).expect("in the ring")).collect();
        assert_eq!(
            names(&cursors[0].take().expect("in the ring")),
            ["a/x"],
            "what was there is caught up with"
        );
        put(&cache, 2, "b/y", &node("n2"));
        put(&cache, 3, "b/y", &node("n1"));
        put(&cache, 4, "b/z", &node("n1"));
        let woken: Vec<bool> =
            cursors.iter_mut().map(|c| c.signal.has_changed().expect("the cache is there")).collect();
        assert_eq!(woken, [false, true, true]);
        assert!(cursors[0].take().expect("in the ring").is_empty());
        assert_eq!(names(&cursors[1].take().expect("in the ring")), ["b/y", "b/y"]);
        assert_eq!(names(&cursors[2].take().expect("in the ring")), ["b/y", "b/y"], "it came and went");
        drop(cursors);
        put(&cache, 5, "a/x", &node("n2"));
        assert_eq!(
            names(&cache.cursor_after(Topic::All, 4).expect("in the ring").take().expect("there")),
            ["a/x"]
        );
    }

    #[test]
    fn an_index_follows_what_changes() {
        let label = |value: &str| format!(r#"{{"metadata":{{"labels":{{"l":"{value}"}}}}}}"#);
        let cache = KindCache::new(0);
        for number in 0..WORTH as u64 {
            put(
                &cache,
                number + 1,
                &format!("a/{number:04}"),
                &label(if number < 3 { "few" } else { "many" }),
            );
        }
        let demand =
            |value: &str| vec![Demand { term: Term::Label("l".to_owned()), values: vec![value.to_owned()] }];
        let find = |value: &str, namespace: &str| {
            let start = key(namespace);
            let (found, _) = cache
                .indexed(&demand(value), &start, &keys::prefix_end(&start))
                .expect("enough objects for an index");
            found.iter().map(|e| e.key.rsplit('/').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(find("few", "a/"), ["0000", "0001", "0002"]);
        put(&cache, 1000, "a/0001", &label("many"));
        put(&cache, 1001, "a/0100", &label("few"));
        put(&cache, 1002, "b/0100", &label("few"));
        cache.apply(1003, vec![(key("a/0000"), None)]);
        put(&cache, 1004, "a/0002", "{}");
        assert_eq!(find("few", "a/"), ["0100"]);
        assert_eq!(find("few", "b/"), ["0100"]);
        assert!(find("none", "a/").is_empty());
    }

    #[test]
    fn a_kept_snapshot_is_what_there_was() {
        let cache = KindCache::new(0);
        put(&cache, 3, "a/a", "{}");
        cache.keep(&cache.view(), 5);
        put(&cache, 7, "a/b", "{}");
        assert_eq!(cache.past(4).map(|objects| objects.len()), Some(1));
        assert!(cache.past(6).is_none() && cache.past(2).is_none());
    }
}
