//! Ranges at any kept revision, and history that has left the ring.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::codec::Position;
use super::disk::View;
use super::shared::Shared;
use super::state::{Index, Slot};
use crate::feed::{History, Ring};
use crate::types::in_range;
use crate::{Event, KeyValue, RangeRequest, RangeResponse, Revision, StoreError, WatchItem};

/// History is read from disk in pieces of at most so many log entries and bytes (plus the rest of a revision).
const PIECE_ENTRIES: usize = 4096;
const PIECE_BYTES: usize = 2 * 1024 * 1024;

/// Where a key's old state is.
enum Old {
    Absent,
    Known(KeyValue),
    OnDisk(Position),
}

/// One key of an answer, perhaps still on disk.
enum Found {
    Known(KeyValue),
    OnDisk(Bytes, Position),
}

impl Shared {
    /// The current state of a range.
    pub(super) fn range_now(&self, req: &RangeRequest) -> RangeResponse {
        let index = self.index();
        let revision = self.feed.ring().published;
        let limit = if req.limit == 0 { usize::MAX } else { req.limit };
        let mut kvs = Vec::new();
        let mut count = 0;
        for slot in index.range(&req.start, &req.end) {
            if kvs.len() < limit {
                kvs.push(slot.kv.clone());
            }
            count += 1;
        }
        RangeResponse { more: count > kvs.len() as u64, kvs, count, revision }
    }

    /// Whether [`Shared::range_at`] will need the disk.
    pub(super) fn is_recent(&self, revision: Revision) -> bool {
        revision >= self.feed.ring().floor
    }

    /// The state of a range at a revision: the current state with all later changes undone. May read from disk.
    pub(super) fn range_at(
        &self,
        req: &RangeRequest,
        revision: Revision,
    ) -> Result<RangeResponse, StoreError> {
        let mut old = BTreeMap::new();
        // The changes up to here have been looked at.
        let mut seen = revision;
        let mut view: Option<View> = None;
        let (found, count) = loop {
            let floor = {
                let index = self.index();
                let ring = self.feed.ring();
                if revision > ring.published {
                    return Err(StoreError::FutureRevision { requested: revision, current: ring.published });
                }
                if revision < ring.compacted {
                    return Err(StoreError::Compacted { compact_revision: ring.compacted });
                }
                if seen >= ring.floor {
                    changes_in_ring(&ring, seen, req, &mut old);
                    break merge(&index, old, req);
                }
                ring.floor
            };
            let now = self.disk()?.view()?;
            changes_on_disk(&now, seen, floor, req, revision, &mut old)?;
            seen = floor;
            view = Some(now);
        };
        let resolve = |found| match (found, &view) {
            (Found::Known(kv), _) => Ok(kv),
            (Found::OnDisk(key, position), Some(view)) => view.put_at(position, &key),
            (Found::OnDisk(..), None) => Err(StoreError::Refused("a position without a view".to_owned())),
        };
        let kvs = found.into_iter().map(resolve).collect::<Result<Vec<_>, _>>()?;
        Ok(RangeResponse { more: count > kvs.len() as u64, kvs, count, revision })
    }
}

/// For each key in range that changed after `seen`: its state before the first change.
fn changes_in_ring(ring: &Ring, seen: Revision, req: &RangeRequest, old: &mut BTreeMap<Bytes, Old>) {
    for event in ring.since(seen + 1).flat_map(|commit| &commit.events) {
        if !in_range(event.key(), &req.start, &req.end) {
            continue;
        }
        if let MapEntry::Vacant(slot) = old.entry(event.key().clone()) {
            slot.insert(event.prev().cloned().map_or(Old::Absent, Old::Known));
        }
    }
}

fn changes_on_disk(
    view: &View,
    seen: Revision,
    to: Revision,
    req: &RangeRequest,
    revision: Revision,
    old: &mut BTreeMap<Bytes, Old>,
) -> Result<(), StoreError> {
    if revision < view.compacted {
        return Err(StoreError::Compacted { compact_revision: view.compacted });
    }
    for found in view.log(seen + 1, to) {
        let entry = view.entry(&found?.1)?;
        if !in_range(&entry.key, &req.start, &req.end) {
            continue;
        }
        if let MapEntry::Vacant(slot) = old.entry(entry.key) {
            slot.insert(entry.prev.map_or(Old::Absent, Old::OnDisk));
        }
    }
    Ok(())
}

/// Walks the current keys and the old ones together; the page and the number of keys in the whole range.
fn merge(index: &Index, old: BTreeMap<Bytes, Old>, req: &RangeRequest) -> (Vec<Found>, u64) {
    let limit = if req.limit == 0 { usize::MAX } else { req.limit };
    let mut page = Vec::new();
    let mut count = 0;
    let mut add = |found| {
        if page.len() < limit {
            page.push(found);
        }
        count += 1;
    };
    let mut current = index.range(&req.start, &req.end).peekable();
    let known = |slot: &Slot| Found::Known(slot.kv.clone());
    for (key, before) in old {
        while let Some(slot) = current.next_if(|slot| slot.kv.key < key) {
            add(known(slot));
        }
        current.next_if(|slot| slot.kv.key == key);
        match before {
            Old::Absent => {}
            Old::Known(kv) => add(Found::Known(kv)),
            Old::OnDisk(position) => add(Found::OnDisk(key, position)),
        }
    }
    for slot in current {
        add(known(slot));
    }
    (page, count)
}

/// History from the log on disk.
pub(super) struct LogHistory(pub(super) Arc<Shared>);

#[async_trait]
impl History for LogHistory {
    async fn read(
        &self,
        from: Revision,
        to: Revision,
        start: &Bytes,
        end: &Bytes,
    ) -> Result<(Vec<WatchItem>, Revision), StoreError> {
        let (shared, start, end) = (self.0.clone(), start.clone(), end.clone());
        tokio::task::spawn_blocking(move || {
            let view = shared.disk()?.view()?;
            if from <= view.compacted {
                return Err(StoreError::Compacted { compact_revision: view.compacted });
            }
            read_log(&view, from, to, &start, &end)
        })
        .await
        .map_err(|e| StoreError::Unavailable(e.to_string()))?
    }
}

fn read_log(
    view: &View,
    from: Revision,
    to: Revision,
    start: &[u8],
    end: &[u8],
) -> Result<(Vec<WatchItem>, Revision), StoreError> {
    let mut items = Vec::new();
    let mut events = Vec::new();
    let mut revision = from;
    let (mut entries, mut bytes) = (0, 0);
    for found in view.log(from, to) {
        let (position, raw) = found?;
        if position.revision != revision {
            if !events.is_empty() {
                items.push(WatchItem::Events { revision, events: std::mem::take(&mut events) });
            }
            if entries >= PIECE_ENTRIES || bytes >= PIECE_BYTES {
                return Ok((items, position.revision));
            }
            revision = position.revision;
        }
        entries += 1;
        bytes += raw.len();
        let entry = view.entry(&raw)?;
        if !in_range(&entry.key, start, end) {
            continue;
        }
        let prev = entry.prev.map(|at| view.put_at(at, &entry.key)).transpose()?;
        bytes += prev.as_ref().map_or(0, |kv| kv.value.len());
        events.push(if entry.put {
            Event::Put { kv: entry.into_kv(revision), prev }
        } else {
            Event::Delete { key: entry.key, revision, prev }
        });
    }
    if !events.is_empty() {
        items.push(WatchItem::Events { revision, events });
    }
    Ok((items, to + 1))
}
