//! Range reads, now and in the past, and compaction.

use std::sync::Arc;

use bytes::Bytes;

use super::{WATCH_RING, delete, pairs, put, read, text};
use crate::{RangeRequest, Store, StoreError, Txn, key_after};

async fn seed(store: &Arc<dyn Store>, count: usize) {
    for n in 0..count {
        put(store, &format!("/s/{n:03}"), &n.to_string()).await;
    }
}

pub(super) async fn limits_and_counts(store: Arc<dyn Store>) {
    seed(&store, 10).await;
    let ask = async |limit| store.range(RangeRequest { limit, ..RangeRequest::prefix("/s/") }).await.unwrap();
    for (limit, returned, more) in [(0, 10, false), (3, 3, true), (10, 10, false), (11, 10, false)] {
        let got = ask(limit).await;
        assert_eq!((got.kvs.len(), got.more, got.count), (returned, more, 10), "limit {limit}");
        assert!(got.kvs.is_sorted_by(|a, b| a.key < b.key));
    }
    let none = store.range(RangeRequest { limit: 1, ..RangeRequest::prefix("/none/") }).await.unwrap();
    assert_eq!((none.kvs.len(), none.more, none.count), (0, false, 0));
}

pub(super) async fn odd_bounds(store: Arc<dyn Store>) {
    for key in ["/a", "/b", "/b/c", "/c", "\u{7f}z"] {
        put(&store, key, "").await;
    }
    let keys = async |start: &str, end: &str| {
        let req = RangeRequest {
            start: Bytes::from(start.to_owned()),
            end: Bytes::from(end.to_owned()),
            ..RangeRequest::default()
        };
        let kvs = store.range(req).await.unwrap().kvs;
        kvs.iter().map(|kv| text(&kv.key)).collect::<Vec<_>>()
    };
    assert_eq!(keys("", "").await, ["/a", "/b", "/b/c", "/c", "\u{7f}z"]);
    assert_eq!(keys("/b", "/c").await, ["/b", "/b/c"]);
    assert_eq!(keys("/b/", "").await, ["/b/c", "/c", "\u{7f}z"]);
    assert_eq!(keys("", "/b").await, ["/a"]);
    assert_eq!(keys("/b", "/b").await, [""; 0]);
    assert_eq!(keys("/c", "/a").await, [""; 0]);
    let one = store.range(RangeRequest::key("/b")).await.unwrap();
    assert_eq!((one.count, text(&one.kvs[0].key)), (1, "/b".to_owned()));
}

pub(super) async fn binary_keys_keep_their_order(store: Arc<dyn Store>) {
    let keys: Vec<Bytes> =
        [&[1u8][..], &[1, 0], &[1, 0, 0], &[1, 0xff], &[0x7f], &[0xff], &[0xff, 0], &[0xff, 0xff]]
            .map(Bytes::copy_from_slice)
            .into();
    for key in keys.iter().rev() {
        store.txn(Txn::put(key.clone(), key.clone())).await.unwrap();
    }
    let all = store.range(RangeRequest::default()).await.unwrap();
    assert_eq!(all.kvs.iter().map(|kv| kv.key.clone()).collect::<Vec<_>>(), keys);
    assert!(all.kvs.iter().all(|kv| kv.key == kv.value));
    let end = store.range(RangeRequest::prefix(vec![0xff])).await.unwrap();
    assert_eq!(end.count, 3);
}

pub(super) async fn at_a_recent_revision(store: Arc<dyn Store>) {
    let first = put(&store, "/a", "1").await;
    let second = put(&store, "/b", "1").await;
    let third = put(&store, "/a", "2").await;
    let fourth = delete(&store, "/b").await;
    let fifth = put(&store, "/b", "again").await;
    assert_eq!(read(&store, "/", Some(first)).await, pairs(&[("/a", "1")]));
    assert_eq!(read(&store, "/", Some(second)).await, pairs(&[("/a", "1"), ("/b", "1")]));
    assert_eq!(read(&store, "/", Some(third)).await, pairs(&[("/a", "2"), ("/b", "1")]));
    assert_eq!(read(&store, "/", Some(fourth)).await, pairs(&[("/a", "2")]));
    assert_eq!(read(&store, "/", Some(fifth)).await, pairs(&[("/a", "2"), ("/b", "again")]));
    let old = store.range(RangeRequest { revision: Some(second), ..RangeRequest::key("/a") }).await.unwrap();
    assert_eq!((old.revision, old.kvs[0].mod_revision, old.kvs[0].version), (second, first, 1));
    let ahead = RangeRequest { revision: Some(fifth + 100), ..RangeRequest::key("/a") };
    assert!(matches!(store.range(ahead).await, Err(StoreError::FutureRevision { .. })));
}

pub(super) async fn at_an_old_revision(store: Arc<dyn Store>) {
    seed(&store, 20).await;
    put(&store, "/s/007", "seven").await;
    delete(&store, "/s/008").await;
    let then = store.revision().await.unwrap();
    let before = read(&store, "/s/", None).await;
    // More than the ring holds, so that the past has to come from elsewhere.
    for n in 0..WATCH_RING.commits + 40 {
        put(&store, &format!("/s/{:03}", n % 25), "later").await;
    }
    delete(&store, "/s/003").await;
    assert_eq!(read(&store, "/s/", Some(then)).await, before);
    let page = RangeRequest { limit: 3, revision: Some(then), ..RangeRequest::prefix("/s/00") };
    let page = store.range(page).await.unwrap();
    assert_eq!((page.kvs.len(), page.more, page.count, page.revision), (3, true, 9, then));
    let seven =
        store.range(RangeRequest { revision: Some(then), ..RangeRequest::key("/s/007") }).await.unwrap();
    assert_eq!((text(&seven.kvs[0].value), seven.kvs[0].version), ("seven".to_owned(), 2));
}

pub(super) async fn pages_at_one_revision_while_writers_go_on(store: Arc<dyn Store>) {
    seed(&store, 50).await;
    let whole = read(&store, "/s/", None).await;
    let mut req = RangeRequest { limit: 7, ..RangeRequest::prefix("/s/") };
    let mut pages = Vec::new();
    loop {
        let page = store.range(req.clone()).await.unwrap();
        assert_eq!(page.count, 50 - pages.len() as u64, "the count is of what is left");
        pages.extend(page.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))));
        if !page.more {
            break;
        }
        req.revision = Some(page.revision);
        req.start = key_after(&page.kvs[page.kvs.len() - 1].key);
        put(&store, "/s/049", "changed").await;
        put(&store, &format!("/s/{:03}x", pages.len() + 5), "new").await;
        delete(&store, &format!("/s/{:03}", pages.len() + 2)).await;
    }
    assert_eq!(pages, whole);
}

pub(super) async fn compaction_refuses_the_past_and_keeps_the_rest(store: Arc<dyn Store>) {
    let first = put(&store, "/a", "1").await;
    put(&store, "/gone", "x").await;
    delete(&store, "/gone").await;
    let second = put(&store, "/a", "2").await;
    let third = put(&store, "/a", "3").await;
    put(&store, "/b", "1").await;
    store.compact(second).await.unwrap();
    let at = |revision| RangeRequest { revision: Some(revision), ..RangeRequest::prefix("/") };
    assert!(matches!(store.range(at(first)).await, Err(StoreError::Compacted { .. })));
    assert!(matches!(store.range(at(second - 1)).await, Err(StoreError::Compacted { .. })));
    assert_eq!(read(&store, "/", Some(second)).await, pairs(&[("/a", "2")]));
    assert_eq!(read(&store, "/", Some(third)).await, pairs(&[("/a", "3")]));
    assert_eq!(read(&store, "/", None).await, pairs(&[("/a", "3"), ("/b", "1")]));
    assert!(matches!(store.compact(second).await, Err(StoreError::Compacted { .. })));
    let now = store.revision().await.unwrap();
    assert!(matches!(store.compact(now + 100).await, Err(StoreError::FutureRevision { .. })));
    store.compact(now).await.unwrap();
    let kv = store.range(RangeRequest::key("/a")).await.unwrap().kvs.remove(0);
    assert_eq!(
        (kv.create_revision, kv.mod_revision, kv.version),
        (first, third, 3),
        "compaction keeps a key's standing"
    );
    let next = put(&store, "/a", "4").await;
    assert!(next > now);
    assert_eq!(read(&store, "/", Some(now)).await, pairs(&[("/a", "3"), ("/b", "1")]));
}
