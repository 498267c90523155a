//! The one watch on etcd that feeds all watches of this process, and the heartbeat.
//!
//! etcd's own progress notifications are not used: before 3.4.25 and 3.5.8 the server may send one that claims a revision
//! whose events it has not sent yet (etcd issue 15220), and Debian ships 3.4.23. What every version keeps is the order
//! of events within one watch. So the whole prefix is watched by one watch, and who wants to know how far it has come
//! has a key in it written: when that event arrives, all before it have.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::proto::PbEvent;
use etcd_client::{WatchOptions, WatchStream};

use super::convert;
use super::{Connection, TIMEOUT};
use crate::feed::{Commit, Feed, History};
use crate::{Revision, StoreError, WatchItem};

/// Pause before the watch is opened again, doubled up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// History is read in pieces of at least so many events.
const PIECE: usize = 1000;

/// Why a watch on etcd ended.
enum Ended {
    Compacted(Revision),
    Broken(StoreError),
}

/// A watch of everything that is ours, of which whole revisions are read.
struct Upstream {
    stream: WatchStream,
}

impl Upstream {
    /// Opens a watch from `revision`. etcd may have dropped deletes *at* its compacted revision, so ask for one revision
    /// more than needed: then it refuses exactly when something is missing.
    async fn open(connection: &Connection, revision: Revision) -> Result<Self, StoreError> {
        let (start, end) = connection.keys.all();
        // 0 would mean "from now on"; nothing is ever written at revision 1.
        let from = convert::signed(revision.max(1));
        let options =
            WatchOptions::new().with_range(end).with_start_revision(from).with_prev_key().with_fragment();
        let mut client = connection.watch_client();
        let opening = client.watch(start, Some(options));
        let stream = tokio::time::timeout(TIMEOUT, opening)
            .await
            .map_err(|_| StoreError::Unavailable("etcd does not open a watch".to_owned()))?
            .map_err(|e| convert::error(&e, 0))?;
        Ok(Self { stream })
    }

    /// The events of one or more whole revisions. etcd cuts a large response into fragments, in the middle of a revision
    /// too; without the flag a response never ends within one.
    async fn next(&mut self) -> Result<Vec<PbEvent>, Ended> {
        let mut events = Vec::new();
        loop {
            let message = self.stream.message().await.map_err(|e| Ended::Broken(convert::error(&e, 0)))?;
            let Some(message) = message else {
                return Err(Ended::Broken(StoreError::Unavailable("etcd ended the watch".to_owned())));
            };
            let message = message.0;
            if message.compact_revision > 0 {
                return Err(Ended::Compacted(convert::revision(message.compact_revision)));
            }
            if message.canceled {
                return Err(Ended::Broken(StoreError::Unavailable(format!(
                    "etcd cancelled the watch: {}",
                    message.cancel_reason
                ))));
            }
            events.extend(message.events);
            if !message.fragment {
                return Ok(events);
            }
        }
    }
}

/// Feeds the ring, for ever.
pub(super) async fn feed(connection: Arc<Connection>, feed: Arc<Feed>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let published = feed.ring().published;
        let error = match follow(&connection, &feed, published, &mut pause).await {
            Ended::Broken(error) => error,
            Ended::Compacted(compacted) => match connection.beat().await {
                Ok(now) => {
                    tracing::warn!(
                        published,
                        compacted,
                        "etcd was compacted beyond what was seen; watches start anew"
                    );
                    feed.restart(now, compacted);
                    continue;
                }
                Err(error) => error,
            },
        };
        tracing::warn!(%error, "watch on etcd broke off; opening it again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn follow(connection: &Connection, feed: &Feed, published: Revision, pause: &mut Duration) -> Ended {
    let mut upstream = match Upstream::open(connection, published).await {
        Ok(upstream) => upstream,
        Err(error) => return Ended::Broken(error),
    };
    loop {
        let events = match upstream.next().await {
            Ok(events) => events,
            Err(ended) => return ended,
        };
        *pause = FIRST_PAUSE;
        let (commits, beat) = convert::commits(&connection.keys, events);
        publish(feed, commits);
        if beat {
            feed.mark();
        } else {
            feed.wake();
        }
    }
}

fn publish(feed: &Feed, commits: Vec<Commit>) {
    let mut ring = feed.ring_mut();
    for commit in commits {
        // The first response repeats the revision that was asked for in addition.
        if commit.revision > ring.published {
            ring.push(Arc::new(commit));
        }
    }
}

/// Writes the heartbeat whenever someone asks; those who ask meanwhile share the next one.
pub(super) async fn heart(connection: Arc<Connection>) {
    loop {
        connection.beats.notified().await;
        let mut pause = FIRST_PAUSE;
        while let Err(error) = connection.beat().await {
            tracing::warn!(%error, "cannot write the heartbeat to etcd");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// History that has left the ring, from etcd itself.
pub(super) struct EtcdHistory(pub(super) Arc<Connection>);

#[async_trait]
impl History for EtcdHistory {
    /// There is an event of ours at revision `to`: it is the last commit that left the ring, or the heartbeat with which
    /// the ring began. So the watch has all up to `to` when it has come to an event there or beyond.
    async fn read(
        &self,
        from: Revision,
        to: Revision,
        start: &Bytes,
        end: &Bytes,
    ) -> Result<(Vec<WatchItem>, Revision), StoreError> {
        let mut upstream = Upstream::open(&self.0, from.saturating_sub(1)).await?;
        let mut items = Vec::new();
        let mut seen = 0;
        loop {
            let events = match tokio::time::timeout(TIMEOUT, upstream.next()).await {
                Ok(Ok(events)) => events,
                Ok(Err(Ended::Compacted(compact_revision))) => {
                    return Err(StoreError::Compacted { compact_revision });
                }
                Ok(Err(Ended::Broken(error))) => return Err(error),
                Err(_) => return Err(StoreError::Unavailable("etcd sends no history".to_owned())),
            };
            seen += events.len();
            let mut next = from;
            for commit in convert::commits(&self.0.keys, events).0 {
                if commit.revision > to {
                    return Ok((items, to + 1));
                }
                if commit.revision >= from {
                    items.extend(commit.within(start, end));
                }
                next = next.max(commit.revision + 1);
            }
            if next > to || (seen >= PIECE && next > from) {
                return Ok((items, next));
            }
        }
    }
}
