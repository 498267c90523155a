//! How commits reach watchers: a bounded ring of recent commits that every watch reads at its own pace.
//!
//! There is no queue per watcher. A watch is a cursor: it takes commits from the ring, waits when it has taken all, and
//! reads older ones from the engine's [`History`]. So a commit costs the same however many watch, and a watcher that
//! stops reading costs nothing; if it was live and the ring has moved past its cursor, it is told that it was too slow.

use std::collections::VecDeque;
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use crate::types::in_range;
use crate::{Event, KeyValue, Revision, StoreError, WatchItem, WatchStream};

/// Most commits that a watcher takes from the ring at once, so that it holds the lock only briefly.
const TAKE: usize = 128;

/// How long a watch is silent before it tells its progress by itself.
const IDLE: Duration = Duration::from_secs(5);

/// Limits of the ring of recent commits. The ring always keeps the newest commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedLimits {
    /// Most commits.
    pub commits: usize,
    /// Most bytes of keys and values, before and after.
    pub bytes: usize,
}

impl Default for FeedLimits {
    fn default() -> Self {
        Self { commits: 16 * 1024, bytes: 16 * 1024 * 1024 }
    }
}

/// All events of one revision.
#[derive(Debug)]
pub(crate) struct Commit {
    pub(crate) revision: Revision,
    pub(crate) events: Vec<Event>,
}

impl Commit {
    /// The part of the commit that lies in a range, if any.
    pub(crate) fn within(&self, start: &[u8], end: &[u8]) -> Option<WatchItem> {
        let events: Vec<Event> =
            self.events.iter().filter(|e| in_range(e.key(), start, end)).cloned().collect();
        (!events.is_empty()).then_some(WatchItem::Events { revision: self.revision, events })
    }

    fn bytes(&self) -> usize {
        let of = |kv: &KeyValue| kv.key.len() + kv.value.len();
        let one = |event: &Event| match event {
            Event::Put { kv, prev } => of(kv) + prev.as_ref().map_or(0, of),
            Event::Delete { key, prev, .. } => key.len() + prev.as_ref().map_or(0, of),
        };
        self.events.iter().map(one).sum()
    }
}

/// Reads commits that have left the ring.
#[async_trait]
pub(crate) trait History: Send + Sync + 'static {
    /// Items within `start..end` of the revisions `from..=to`, in order: a bounded number, and the revision at which to
    /// go on (above `from`). [`StoreError::Compacted`] if `from` is not above the compacted revision.
    async fn read(
        &self,
        from: Revision,
        to: Revision,
        start: &Bytes,
        end: &Bytes,
    ) -> Result<(Vec<WatchItem>, Revision), StoreError>;
}

/// Recent commits: all with a revision in `floor + 1 ..= published`.
pub(crate) struct Ring {
    commits: VecDeque<Arc<Commit>>,
    bytes: usize,
    limits: FeedLimits,
    /// The newest revision that is *not* in the ring any more.
    pub(crate) floor: Revision,
    /// The newest revision that readers may see.
    pub(crate) published: Revision,
    /// Watches from here or below are refused.
    pub(crate) compacted: Revision,
}

impl Ring {
    /// Appends the next commit.
    pub(crate) fn push(&mut self, commit: Arc<Commit>) {
        debug_assert!(commit.revision > self.published, "commits come in order");
        self.published = commit.revision;
        self.bytes += commit.bytes();
        self.commits.push_back(commit);
        while self.commits.len() > 1
            && (self.commits.len() > self.limits.commits || self.bytes > self.limits.bytes)
        {
            let Some(old) = self.commits.pop_front() else { break };
            self.bytes -= old.bytes();
            self.floor = old.revision;
        }
    }

    /// Commits with a revision of at least `from`, which must be above `floor`.
    pub(crate) fn since(&self, from: Revision) -> impl Iterator<Item = &Arc<Commit>> {
        let first = self.commits.partition_point(|c| c.revision < from);
        self.commits.range(first..)
    }
}

/// What wakes watchers.
#[derive(Debug, Clone, Default)]
struct Signal {
    /// Counts requests for a progress mark.
    marks: u64,
    /// Set when no commit will come any more (for watches of this epoch).
    ended: Option<StoreError>,
    /// Counts the times that the feed had to start anew; watches of an older epoch end.
    epoch: u64,
}

/// The ring and its watchers.
pub(crate) struct Feed {
    ring: RwLock<Ring>,
    signal: watch::Sender<Signal>,
}

impl Feed {
    /// An empty ring at `revision`.
    pub(crate) fn new(limits: FeedLimits, revision: Revision, compacted: Revision) -> Self {
        let ring = Ring {
            commits: VecDeque::new(),
            bytes: 0,
            limits,
            floor: revision,
            published: revision,
            compacted,
        };
        Self { ring: RwLock::new(ring), signal: watch::Sender::new(Signal::default()) }
    }

    /// The ring, to read. The lock is not poisoned in practice: nothing that holds it panics half-way through a change.
    pub(crate) fn ring(&self) -> RwLockReadGuard<'_, Ring> {
        self.ring.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The ring, to change. Call [`Feed::wake`] after letting go of it.
    pub(crate) fn ring_mut(&self) -> RwLockWriteGuard<'_, Ring> {
        self.ring.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Tells watchers that there are new commits.
    pub(crate) fn wake(&self) {
        self.signal.send_modify(|_| ());
    }

    /// Tells watchers to send a progress mark when they have delivered what is published now.
    pub(crate) fn mark(&self) {
        self.signal.send_modify(|s| s.marks += 1);
    }

    /// Waits until a revision is published.
    pub(crate) async fn reached(&self, revision: Revision) {
        let mut signal = self.signal.subscribe();
        // The sender lives as long as this feed, so the wait can end only by success.
        while self.ring().published < revision && signal.changed().await.is_ok() {}
    }

    /// Ends all watches, now and to come.
    pub(crate) fn close(&self, why: StoreError) {
        self.signal.send_modify(|s| s.ended = Some(why));
    }

    /// Starts anew at `revision` after commits were missed: watches under way end with [`StoreError::Compacted`].
    pub(crate) fn restart(&self, revision: Revision, compacted: Revision) {
        {
            let mut ring = self.ring_mut();
            ring.commits.clear();
            ring.bytes = 0;
            ring.floor = revision;
            ring.published = revision;
            ring.compacted = ring.compacted.max(compacted);
        }
        self.signal.send_modify(|s| s.epoch += 1);
    }

    /// A watch; see [`crate::Store::watch`].
    pub(crate) fn watch(
        self: &Arc<Self>,
        history: Arc<dyn History>,
        (start, end): (Bytes, Bytes),
        from: Revision,
    ) -> Result<WatchStream, StoreError> {
        let compacted = self.ring().compacted;
        if from <= compacted {
            return Err(StoreError::Compacted { compact_revision: compacted });
        }
        let signal = self.signal.subscribe();
        let (marks, epoch) = {
            let now = signal.borrow();
            (now.marks, now.epoch)
        };
        let cursor = Cursor {
            feed: self.clone(),
            history,
            start,
            end,
            next: from,
            live: false,
            marks,
            epoch,
            signal,
            ready: VecDeque::new(),
            over: false,
        };
        Ok(Box::pin(futures::stream::unfold(cursor, |mut cursor| async move {
            let item = cursor.next_item().await?;
            cursor.over = item.is_err();
            Some((item, cursor))
        })))
    }
}

/// One watch.
struct Cursor {
    feed: Arc<Feed>,
    history: Arc<dyn History>,
    start: Bytes,
    end: Bytes,
    /// All below this has been taken.
    next: Revision,
    /// Whether it has once caught up; from then on, falling off the ring is an error.
    live: bool,
    /// Requests for progress that have been answered.
    marks: u64,
    epoch: u64,
    signal: watch::Receiver<Signal>,
    ready: VecDeque<WatchItem>,
    over: bool,
}

/// What a cursor finds in the ring.
enum Found {
    /// The cursor is below the ring, whose oldest commits are gone up to here.
    Below { floor: Revision, compacted: Revision },
    /// Some commits were taken (perhaps none within the range).
    Some,
    /// It has all up to here.
    CaughtUp(Revision),
}

impl Cursor {
    async fn next_item(&mut self) -> Option<Result<WatchItem, StoreError>> {
        loop {
            if self.over {
                return None;
            }
            if let Some(item) = self.ready.pop_front() {
                return Some(Ok(item));
            }
            // Seen before looking into the ring: what a mark promises was published before the mark was made.
            let now = self.signal.borrow_and_update().clone();
            if now.epoch != self.epoch {
                return Some(Err(StoreError::Compacted { compact_revision: self.feed.ring().compacted }));
            }
            match self.take() {
                Found::Some => {}
                Found::Below { floor, .. } if self.live => {
                    return Some(Err(StoreError::SlowWatcher { at: self.next, oldest: floor + 1 }));
                }
                Found::Below { compacted, .. } if self.next <= compacted => {
                    return Some(Err(StoreError::Compacted { compact_revision: compacted }));
                }
                Found::Below { floor, .. } => {
                    match self.history.read(self.next, floor, &self.start, &self.end).await {
                        Ok((items, next)) => {
                            self.ready.extend(items);
                            self.next = next;
                        }
                        Err(error) => return Some(Err(error)),
                    }
                }
                Found::CaughtUp(revision) => {
                    if let Some(why) = now.ended {
                        return Some(Err(why));
                    }
                    if !self.live || self.marks != now.marks {
                        self.live = true;
                        self.marks = now.marks;
                        return Some(Ok(WatchItem::Progress { revision }));
                    }
                    match tokio::time::timeout(IDLE, self.signal.changed()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return Some(Err(StoreError::Closed)),
                        Err(_) => return Some(Ok(WatchItem::Progress { revision })),
                    }
                }
            }
        }
    }

    /// Moves commits from the ring to `ready`.
    fn take(&mut self) -> Found {
        let ring = self.feed.ring();
        if self.next > ring.published {
            return Found::CaughtUp(ring.published);
        }
        if self.next <= ring.floor {
            return Found::Below { floor: ring.floor, compacted: ring.compacted };
        }
        let mut last = ring.published;
        let mut commits = ring.since(self.next);
        for (taken, commit) in commits.by_ref().enumerate() {
            self.ready.extend(commit.within(&self.start, &self.end));
            if taken + 1 == TAKE {
                last = commit.revision;
                break;
            }
        }
        self.next = last + 1;
        Found::Some
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt;

    struct NoHistory;

    #[async_trait]
    impl History for NoHistory {
        async fn read(
            &self,
            _: Revision,
            to: Revision,
            _: &Bytes,
            _: &Bytes,
        ) -> Result<(Vec<WatchItem>, Revision), StoreError> {
            Ok((Vec::new(), to + 1))
        }
    }

    fn commit(revision: Revision, key: &'static str) -> Arc<Commit> {
        Arc::new(Commit { revision, events: vec![Event::Delete { key: key.into(), revision, prev: None }] })
    }

    #[test]
    fn the_ring_is_bounded_and_knows_its_floor() {
        let feed = Feed::new(FeedLimits { commits: 2, bytes: 1000 }, 1, 0);
        for revision in 2..=5 {
            feed.ring_mut().push(commit(revision, "k"));
        }
        let ring = feed.ring();
        assert_eq!((ring.floor, ring.published), (3, 5));
        assert_eq!(ring.since(5).map(|c| c.revision).collect::<Vec<_>>(), [5]);
    }

    #[tokio::test]
    async fn a_mark_is_answered_even_if_nothing_in_range_happened() {
        let feed = Arc::new(Feed::new(FeedLimits::default(), 1, 0));
        let mut watch = feed.watch(Arc::new(NoHistory), ("a".into(), "b".into()), 2).unwrap();
        assert_eq!(watch.next().await, Some(Ok(WatchItem::Progress { revision: 1 })));
        feed.ring_mut().push(commit(2, "z"));
        feed.wake();
        feed.mark();
        assert_eq!(watch.next().await, Some(Ok(WatchItem::Progress { revision: 2 })));
        feed.close(StoreError::Closed);
        assert_eq!(watch.next().await, Some(Err(StoreError::Closed)));
        assert_eq!(watch.next().await, None);
    }
}
