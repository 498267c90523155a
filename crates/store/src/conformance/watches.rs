//! Watches.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::{WATCH_RING, delete, last_error, next_events, next_progress, put, text, watch_all};
use crate::{Event, Op, RangeRequest, Store, StoreError, Txn, WatchItem, WatchStream, prefix_end};

/// An event in one line.
fn line(event: &Event) -> String {
    let prev = event.prev().map_or("-".to_owned(), |kv| text(&kv.value));
    match event {
        Event::Put { kv, .. } => {
            format!("put {} {} was {prev} v{}", text(&kv.key), text(&kv.value), kv.version)
        }
        Event::Delete { key, .. } => format!("delete {} was {prev}", text(key)),
    }
}

pub(super) async fn events_come_in_order_with_prev(store: Arc<dyn Store>) {
    let first = put(&store, "/a", "1").await;
    let mut watch = watch_all(&store, first).await;
    assert_eq!(next_events(&mut watch).await.1.iter().map(line).collect::<Vec<_>>(), ["put /a 1 was - v1"]);
    assert!(next_progress(&mut watch).await >= first, "caught up is told");
    put(&store, "/a", "2").await;
    let deleted = delete(&store, "/a").await;
    put(&store, "/a", "3").await;
    let mut seen = Vec::new();
    let mut revisions = Vec::new();
    for _ in 0..3 {
        let (revision, events) = next_events(&mut watch).await;
        revisions.push(revision);
        if let Event::Delete { revision: at, .. } = &events[0] {
            assert_eq!((*at, revision), (deleted, deleted));
        }
        if let Event::Put { kv, .. } = &events[0] {
            assert_eq!(kv.mod_revision, revision);
        }
        seen.extend(events.iter().map(line));
    }
    assert_eq!(seen, ["put /a 2 was 1 v2", "delete /a was 2", "put /a 3 was - v1"]);
    assert!(revisions.is_sorted_by(|a, b| a < b));
}

pub(super) async fn events_of_one_revision_come_together(store: Arc<dyn Store>) {
    let start = store.revision().await.unwrap();
    let mut live = watch_all(&store, start + 1).await;
    next_progress(&mut live).await;
    // Together with the previous values, the second is more than fits into one message of etcd.
    let mut revisions = Vec::new();
    for value in [b'a', b'b'] {
        let op = |n| Op::Put { key: format!("/x/{n:04}").into(), value: vec![value; 14_000].into() };
        let success = (0..100).map(op).collect();
        revisions.push(store.txn(Txn { success, ..Txn::default() }).await.unwrap().revision);
    }
    for watch in [&mut live, &mut watch_all(&store, start + 1).await] {
        for (expected, before) in revisions.iter().zip([None, Some(b'a')]) {
            let (revision, events) = next_events(watch).await;
            assert_eq!((revision, events.len()), (*expected, 100));
            let keys: Vec<_> = events.iter().map(|e| text(e.key())).collect();
            assert!(keys.is_sorted(), "in the order of the transaction: {keys:?}");
            assert!(events.iter().all(|e| e.prev().map(|kv| kv.value[0]) == before));
        }
    }
}

pub(super) async fn only_the_range_is_seen(store: Arc<dyn Store>) {
    let from = put(&store, "/before", "x").await + 1;
    let prefix = Bytes::from("/pods/");
    let mut watch = store.watch(prefix.clone(), prefix_end(&prefix), from).await.unwrap();
    put(&store, "/nodes/a", "1").await;
    let both = vec![
        Op::Put { key: "/nodes/b".into(), value: "2".into() },
        Op::Put { key: "/pods/b".into(), value: "2".into() },
    ];
    store.txn(Txn { success: both, ..Txn::default() }).await.unwrap();
    put(&store, "/pods0", "just outside").await;
    let last = put(&store, "/pods/c", "3").await;
    let (_, first) = next_events(&mut watch).await;
    assert_eq!(first.iter().map(line).collect::<Vec<_>>(), ["put /pods/b 2 was - v1"]);
    let (revision, second) = next_events(&mut watch).await;
    assert_eq!((revision, line(&second[0])), (last, "put /pods/c 3 was - v1".to_owned()));
}

pub(super) async fn resume_misses_and_repeats_nothing(store: Arc<dyn Store>) {
    let mut expected = Vec::new();
    for n in 0..60 {
        expected.push((put(&store, "/n", &n.to_string()).await, n.to_string()));
    }
    let mut seen = Vec::new();
    let mut from = expected[0].0;
    while seen.len() < expected.len() {
        let mut watch = watch_all(&store, from).await;
        for _ in 0..7.min(expected.len() - seen.len()) {
            let (revision, events) = next_events(&mut watch).await;
            let Event::Put { kv, .. } = &events[0] else { panic!("{events:?}") };
            seen.push((revision, text(&kv.value)));
            from = revision + 1;
        }
    }
    assert_eq!(seen, expected);
}

pub(super) async fn history_beyond_the_ring_is_served(store: Arc<dyn Store>) {
    let count = WATCH_RING.commits * 3;
    let mut first = 0;
    for n in 0..count {
        let revision = put(&store, &format!("/h/{}", n % 5), &n.to_string()).await;
        first = if n == 0 { revision } else { first };
    }
    let mut watch = watch_all(&store, first).await;
    // Writers go on while it catches up.
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in count..count + 50 {
                put(&store, &format!("/h/{}", n % 5), &n.to_string()).await;
            }
        })
    };
    for n in 0..count + 50 {
        let (_, events) = next_events(&mut watch).await;
        let prev = if n < 5 { "-".to_owned() } else { (n - 5).to_string() };
        assert_eq!(line(&events[0]), format!("put /h/{} {n} was {prev} v{}", n % 5, n / 5 + 1));
    }
    writer.await.unwrap();
}

pub(super) async fn a_watch_from_the_future_waits(store: Arc<dyn Store>) {
    let now = put(&store, "/a", "1").await;
    let mut watch = watch_all(&store, now + 3).await;
    let mut last = now;
    while last < now + 3 {
        last = put(&store, "/a", &(last + 1 - now).to_string()).await;
    }
    let (revision, _) = next_events(&mut watch).await;
    assert!(revision >= now + 3, "{revision} is before {}", now + 3);
}

pub(super) async fn compacted_is_told(store: Arc<dyn Store>) {
    let first = put(&store, "/a", "1").await;
    let mut live = watch_all(&store, first + 1).await;
    next_progress(&mut live).await;
    let second = put(&store, "/a", "2").await;
    put(&store, "/a", "3").await;
    store.compact(second).await.unwrap();
    for from in [0, first, second] {
        let error = match store.watch(Bytes::new(), Bytes::new(), from).await {
            Err(error) => error,
            Ok(mut watch) => last_error(&mut watch).await,
        };
        assert!(matches!(error, StoreError::Compacted { .. }), "from {from}: {error}");
    }
    let mut after = watch_all(&store, second + 1).await;
    assert_eq!(line(&next_events(&mut after).await.1[0]), "put /a 3 was 2 v3", "prev outlives compaction");
    // One that is under way goes on.
    assert_eq!(line(&next_events(&mut live).await.1[0]), "put /a 2 was 1 v2");
    assert_eq!(line(&next_events(&mut live).await.1[0]), "put /a 3 was 2 v3");
}

pub(super) async fn progress_covers_what_was_committed(store: Arc<dyn Store>) {
    let start = store.revision().await.unwrap();
    let prefix = Bytes::from("/quiet/");
    let mut watch = store.watch(prefix.clone(), prefix_end(&prefix), start + 1).await.unwrap();
    next_progress(&mut watch).await;
    for round in 0..20 {
        let mut noise = put(&store, "/noise", &round.to_string()).await;
        let loud = round % 3 == 0;
        if loud {
            noise = put(&store, "/quiet/a", &round.to_string()).await;
        }
        assert!(store.revision().await.unwrap() >= noise);
        store.request_progress().await.unwrap();
        let mut heard = false;
        // Whatever revision a mark tells, all events up to it have come before it.
        loop {
            match super::next(&mut watch).await.unwrap().unwrap() {
                WatchItem::Progress { revision } if revision >= noise => break,
                WatchItem::Progress { .. } => {}
                WatchItem::Events { events, .. } => {
                    assert_eq!(
                        text(&match &events[0] {
                            Event::Put { kv, .. } => kv.value.clone(),
                            other => panic!("{other:?}"),
                        }),
                        round.to_string()
                    );
                    heard = true;
                }
            }
        }
        assert_eq!(heard, loud, "round {round}");
    }
}

pub(super) async fn a_slow_watcher_is_told_and_ends(store: Arc<dyn Store>) {
    let now = put(&store, "/a", "0").await;
    let mut slow = watch_all(&store, now + 1).await;
    let mut quick = watch_all(&store, now + 1).await;
    next_progress(&mut slow).await;
    next_progress(&mut quick).await;
    for n in 0..WATCH_RING.commits * 2 {
        put(&store, "/a", &n.to_string()).await;
        next_events(&mut quick).await;
    }
    let error = last_error(&mut slow).await;
    assert!(matches!(error, StoreError::SlowWatcher { at, oldest } if at < oldest), "{error}");
}

pub(super) async fn large_events_arrive(store: Arc<dyn Store>) {
    let from = put(&store, "/big/0", "small").await + 1;
    let mut live = watch_all(&store, from).await;
    next_progress(&mut live).await;
    let check = async |watch: &mut WatchStream, round: u8| {
        let (_, events) = next_events(watch).await;
        let Event::Put { kv, prev: Some(prev) } = &events[0] else { panic!("an overwrite has a prev") };
        assert_eq!((kv.value.len(), kv.value[0]), (1_000_000, b'a' + round));
        assert_eq!(prev.value.len(), if round == 0 { 5 } else { 1_000_000 });
    };
    for round in 0..12u8 {
        store.txn(Txn::put("/big/0", vec![b'a' + round; 1_000_000])).await.unwrap();
        check(&mut live, round).await;
    }
    let mut late = watch_all(&store, from).await;
    for round in 0..12u8 {
        check(&mut late, round).await;
    }
}

pub(super) async fn watch_and_range_agree_under_load(store: Arc<dyn Store>) {
    let from = store.revision().await.unwrap() + 1;
    let mut watch = watch_all(&store, from).await;
    let writers: Vec<_> = (0..16)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in 0..30 {
                    let key = format!("/l/{}", (writer * 7 + n) % 23);
                    if n % 4 == 3 {
                        delete(&store, &key).await
                    } else {
                        put(&store, &key, &format!("{writer}.{n}")).await
                    };
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let end = put(&store, "/l/end", "").await;
    let mut built = BTreeMap::new();
    let mut last = 0;
    loop {
        let (revision, events) = next_events(&mut watch).await;
        assert!(revision > last, "in order");
        last = revision;
        for event in events {
            let before = match &event {
                Event::Put { kv, .. } => built.insert(kv.key.clone(), kv.clone()),
                Event::Delete { key, .. } => built.remove(key),
            };
            assert_eq!(before.as_ref(), event.prev(), "prev is what the watch said before");
        }
        if revision == end {
            break;
        }
    }
    let now = store.range(RangeRequest::prefix("/l/")).await.unwrap();
    assert_eq!(built.into_values().collect::<Vec<_>>(), now.kvs);
}
