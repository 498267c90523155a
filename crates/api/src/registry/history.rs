//! History that the cache does not hold: changes since a revision that the store still keeps, also from before this
//! process began.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use yunfan_objects::ApiError;
use yunfan_store::{Event, KeyValue, Revision, StoreError, WatchItem};

use super::Registry;
use crate::cache::{Change, Entry};
use crate::errors::{store_error, too_old};
use crate::keys;

/// The changes of the revisions asked for, those of one revision together.
pub(crate) type History = BoxStream<'static, Result<Vec<Change>, ApiError>>;

impl Registry {
    /// The changes of objects below `prefix` with a revision in `after + 1..=until`, in order. What the store does not
    /// keep any more is an error of code 410, here or in the stream.
    pub(crate) async fn history(
        &self,
        prefix: &str,
        after: Revision,
        until: Revision,
    ) -> Result<History, ApiError> {
        let refuse = move |error| match error {
            StoreError::Compacted { compact_revision } => too_old(after, compact_revision),
            error => store_error(error),
        };
        let (start, end) = (Bytes::copy_from_slice(prefix.as_bytes()), Bytes::from(keys::prefix_end(prefix)));
        let items = self.store.watch(start, end, after + 1).await.map_err(refuse)?;
        let wanted = items.take_while(move |item| {
            let more = match item {
                Ok(WatchItem::Events { revision, .. }) => *revision <= until,
                Ok(WatchItem::Progress { revision }) => *revision < until,
                Err(_) => true,
            };
            std::future::ready(more)
        });
        Ok(wanted.map(move |item| item.map(changes).map_err(refuse)).boxed())
    }
}

fn changes(item: WatchItem) -> Vec<Change> {
    let WatchItem::Events { revision, events } = item else { return Vec::new() };
    let entry = |kv: KeyValue| {
        let key = std::str::from_utf8(&kv.key).ok()?.into();
        Some(Arc::new(Entry::new(key, kv.value, kv.mod_revision)))
    };
    let change = |event| {
        let (prev, now) = match event {
            Event::Put { kv, prev } => (prev, Some(kv)),
            Event::Delete { prev, .. } => (prev, None),
        };
        Change::new(revision, prev.and_then(entry), now.and_then(entry))
    };
    events.into_iter().filter_map(change).collect()
}
