//! How the store reaches the cache: one load, then one watch.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use yunfan_store::{Event, KeyValue, RangeRequest, Revision, StoreError, WatchItem, WatchStream, key_after};

use super::{Cache, ChangeType, Entry};
use crate::keys;

/// Keys read at once while loading.
const PAGE: usize = 5000;
/// Commits that are applied before those who wait for them are woken, at most.
const GROUP: usize = 64;
/// Wait before a broken watch is opened again.
const RETRY: Duration = Duration::from_millis(200);

/// Reads everything at one revision.
pub(super) async fn load(cache: &Cache) -> Result<(), StoreError> {
    let mut request = RangeRequest {
        start: Bytes::from_static(keys::ALL_START.as_bytes()),
        end: Bytes::from_static(keys::ALL_END.as_bytes()),
        limit: PAGE,
        revision: None,
    };
    let mut kinds: HashMap<String, Vec<Arc<Entry>>> = HashMap::new();
    cache.claims.clear();
    let revision = loop {
        let page = cache.store.range(request.clone()).await?;
        let last = page.kvs.last().map(|kv| key_after(&kv.key));
        for kv in page.kvs {
            load_one(cache, &mut kinds, kv);
        }
        match last {
            Some(next) if page.more => {
                request.start = next;
                request.revision = Some(page.revision);
            }
            _ => break page.revision,
        }
    };
    cache.loaded.send_replace(revision);
    // Kinds whose last object went away while nobody watched become empty.
    let known: Vec<Arc<str>> =
        cache.kinds.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect();
    for prefix in known {
        kinds.entry(prefix.to_string()).or_default();
    }
    for (prefix, entries) in kinds {
        cache.kind(&prefix).load(&entries, revision);
    }
    cache.progress.reach(revision);
    Ok(())
}

fn load_one(cache: &Cache, kinds: &mut HashMap<String, Vec<Arc<Entry>>>, kv: KeyValue) {
    let Ok(key) = std::str::from_utf8(&kv.key) else { return };
    if key.starts_with(keys::CLAIMS) {
        cache.claims.put(key.to_owned(), kv.value, kv.mod_revision);
    } else if let Some(prefix) = keys::split_kind(key) {
        let entry = Arc::new(Entry::new(key.into(), kv.value.clone(), kv.mod_revision));
        match kinds.get_mut(prefix) {
            Some(entries) => entries.push(entry),
            None => {
                kinds.insert(prefix.to_owned(), vec![entry]);
            }
        }
    }
}

/// Follows the store until the cache is gone. Where the watch breaks it goes on from the last
/// revision seen; where that is compacted everything is read again, and every watcher is told to list.
pub(super) async fn run(cache: Weak<Cache>) {
    loop {
        let opened = match cache.upgrade() {
            None => return,
            Some(cache) => {
                let from = cache.revision() + 1;
                let (start, end) = (keys::ALL_START.as_bytes(), keys::ALL_END.as_bytes());
                cache.store.watch(Bytes::from_static(start), Bytes::from_static(end), from).await
            }
        };
        let error = match opened {
            Ok(stream) => match follow(&cache, stream).await {
                Some(error) => error,
                None => return,
            },
            Err(error) => error,
        };
        let Some(cache) = cache.upgrade() else { return };
        match error {
            StoreError::Closed => return,
            StoreError::Compacted { .. } => {
                tracing::warn!("store watch fell behind compaction: reading everything again");
                if let Err(error) = reload(&cache).await {
                    tracing::error!(%error, "cannot read the store");
                }
            }
            error => tracing::warn!(%error, "store watch broke: opening it again"),
        }
        drop(cache);
        tokio::time::sleep(RETRY).await;
    }
}

/// Applies what the watch yields until it ends: why it did, or nothing when the cache is gone.
async fn follow(cache: &Weak<Cache>, mut stream: WatchStream) -> Option<StoreError> {
    loop {
        let mut next = Some(stream.next().await);
        let cache = cache.upgrade()?;
        let mut reached = 0;
        let mut applied = 0;
        // Commits come in groups: who waits is woken once for all that is there.
        let ended = loop {
            match next {
                Some(Some(Ok(item))) => reached = apply(&cache, item),
                Some(Some(Err(error))) => break Some(error),
                Some(None) => break Some(StoreError::Unavailable("the watch ended".to_owned())),
                None => break None,
            }
            applied += 1;
            next = if applied < GROUP { stream.next().now_or_never() } else { None };
        };
        cache.progress.reach(reached);
        if ended.is_some() {
            return ended;
        }
    }
}

/// Loads again, and tells the observers what is there now. (What vanished meanwhile is told as well.)
async fn reload(cache: &Cache) -> Result<(), StoreError> {
    let before: Vec<(Arc<str>, Vec<Arc<Entry>>)> = {
        let kinds = cache.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds.iter().map(|(prefix, kind)| (prefix.clone(), kind.list(prefix).entries)).collect()
    };
    load(cache).await?;
    for (prefix, entries) in before {
        let kind = cache.kind(&prefix);
        let gone = entries.into_iter().filter(|e| kind.get(&e.key).is_none());
        let changes: Vec<_> = gone.map(|e| super::Change::synthetic(ChangeType::Deleted, e)).collect();
        cache.notify(&prefix, &changes);
        let there = kind.list(&prefix).entries;
        let changes: Vec<_> =
            there.into_iter().map(|e| super::Change::synthetic(ChangeType::Modified, e)).collect();
        cache.notify(&prefix, &changes);
    }
    Ok(())
}

type Grouped = Vec<(String, Vec<(Arc<str>, Option<Arc<Entry>>)>)>;

/// Puts one item into the cache; the revision up to which everything is there then.
fn apply(cache: &Cache, item: WatchItem) -> Revision {
    match item {
        WatchItem::Progress { revision } => revision,
        WatchItem::Events { revision, events } => {
            let mut kinds: Grouped = Vec::new();
            for event in events {
                route(cache, &mut kinds, revision, event);
            }
            for (prefix, changes) in kinds {
                let changes = cache.kind(&prefix).apply(revision, changes);
                cache.notify(&prefix, &changes);
            }
            revision
        }
    }
}

fn route(cache: &Cache, kinds: &mut Grouped, revision: Revision, event: Event) {
    let Ok(key) = std::str::from_utf8(event.key()) else { return };
    if key.starts_with(keys::CLAIMS) {
        let key = key.to_owned();
        match event {
            Event::Put { kv, .. } => cache.claims.put(key, kv.value, revision),
            Event::Delete { .. } => cache.claims.remove(&key),
        }
        return;
    }
    let Some(prefix) = keys::split_kind(key) else { return };
    let key: Arc<str> = key.into();
    let entry = match &event {
        Event::Put { kv, .. } => Some(Arc::new(Entry::new(key.clone(), kv.value.clone(), revision))),
        Event::Delete { .. } => None,
    };
    match kinds.iter_mut().find(|(p, _)| p == prefix) {
        Some((_, changes)) => changes.push((key, entry)),
        None => kinds.push((prefix.to_owned(), vec![(key, entry)])),
    }
}
