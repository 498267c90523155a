//! Transactions.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use super::{delete, pairs, put, read};
use crate::{Compare, MAX_OPS, MAX_TXN_BYTES, Op, OpResult, RangeRequest, Store, StoreError, Txn};

fn put_op(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Op {
    Op::Put { key: key.into(), value: value.into() }
}

pub(super) async fn put_get_delete(store: Arc<dyn Store>) {
    let before = store.revision().await.unwrap();
    let first = put(&store, "/a", "1").await;
    assert!(first > before && first >= 2, "revisions grow: {before} then {first}");
    let got = store.range(RangeRequest::key("/a")).await.unwrap();
    assert_eq!((got.kvs[0].value.as_ref(), got.count, got.more), (b"1".as_ref(), 1, false));
    assert!(got.revision >= first && store.revision().await.unwrap() >= first);
    put(&store, "/a", "").await;
    assert_eq!(read(&store, "/a", None).await, pairs(&[("/a", "")]));
    let txn = store.txn(Txn::delete("/a")).await.unwrap();
    assert_eq!(txn.results, [OpResult::Delete { existed: true }]);
    assert_eq!(read(&store, "/", None).await, []);
}

pub(super) async fn versions_start_again_after_a_delete(store: Arc<dyn Store>) {
    let stand = async |store: &Arc<dyn Store>| {
        let kv = store.range(RangeRequest::key("/k")).await.unwrap().kvs.remove(0);
        (kv.create_revision, kv.mod_revision, kv.version)
    };
    let first = put(&store, "/k", "1").await;
    assert_eq!(stand(&store).await, (first, first, 1));
    let second = put(&store, "/k", "2").await;
    assert_eq!(stand(&store).await, (first, second, 2));
    delete(&store, "/k").await;
    let third = put(&store, "/k", "3").await;
    assert!(third > second);
    assert_eq!(stand(&store).await, (third, third, 1));
}

pub(super) async fn compares_choose_the_branch(store: Arc<dyn Store>) {
    let choose = |compares: Vec<Compare>| Txn {
        compares,
        success: vec![put_op("/chosen", "yes")],
        failure: vec![put_op("/chosen", "no"), Op::Get { key: "/a".into() }],
    };
    let at = |equals| Compare::ModRevision { key: "/a".into(), equals };
    let exists = |exists| Compare::Exists { key: "/a".into(), exists };
    assert!(store.txn(choose(vec![at(0), exists(false)])).await.unwrap().succeeded);
    let revision = put(&store, "/a", "1").await;
    assert!(!store.txn(choose(vec![at(0)])).await.unwrap().succeeded);
    assert!(store.txn(choose(vec![at(revision), exists(true)])).await.unwrap().succeeded);
    let failed = store.txn(choose(vec![at(revision), exists(false)])).await.unwrap();
    assert!(!failed.succeeded);
    assert_eq!(failed.results[0], OpResult::Put);
    let OpResult::Get(Some(kv)) = &failed.results[1] else { panic!("the failure branch reads: {failed:?}") };
    assert_eq!((kv.value.as_ref(), kv.mod_revision), (b"1".as_ref(), revision));
    assert_eq!(read(&store, "/chosen", None).await, pairs(&[("/chosen", "no")]));
    // A deleted key counts as absent.
    delete(&store, "/a").await;
    assert!(store.txn(choose(vec![at(0), exists(false)])).await.unwrap().succeeded);
}

pub(super) async fn one_revision_for_all_keys(store: Arc<dyn Store>) {
    put(&store, "/gone", "x").await;
    let success = vec![put_op("/a", "1"), put_op("/b", "2"), Op::Delete { key: "/gone".into() }];
    let done = store.txn(Txn { success, ..Txn::default() }).await.unwrap();
    assert_eq!(done.results, [OpResult::Put, OpResult::Put, OpResult::Delete { existed: true }]);
    let kvs = store.range(RangeRequest::prefix("/")).await.unwrap().kvs;
    assert_eq!(kvs.iter().map(|kv| kv.mod_revision).collect::<Vec<_>>(), [done.revision, done.revision]);
    let next = put(&store, "/c", "3").await;
    assert!(next > done.revision);
}

pub(super) async fn no_change_takes_no_revision(store: Arc<dyn Store>) {
    let revision = put(&store, "/a", "1").await;
    let read_only = Txn { success: vec![Op::Get { key: "/a".into() }], ..Txn::default() };
    let failing =
        Txn { compares: vec![Compare::Exists { key: "/a".into(), exists: false }], ..Txn::put("/b", "2") };
    assert_eq!(store.txn(read_only).await.unwrap().revision, revision);
    let failed = store.txn(failing).await.unwrap();
    assert_eq!((failed.succeeded, failed.revision, failed.results.len()), (false, revision, 0));
    let nothing = store.txn(Txn::delete("/absent")).await.unwrap();
    assert_eq!((nothing.revision, &nothing.results[0]), (revision, &OpResult::Delete { existed: false }));
    assert_eq!(store.txn(Txn::default()).await.unwrap().revision, revision);
    assert_eq!(store.revision().await.unwrap(), revision);
}

pub(super) async fn steps_see_the_steps_before(store: Arc<dyn Store>) {
    put(&store, "/a", "old").await;
    put(&store, "/b", "old").await;
    let get = |key: &'static str| Op::Get { key: key.into() };
    let success = vec![
        get("/a"),
        put_op("/a", "new"),
        get("/a"),
        Op::Delete { key: "/b".into() },
        get("/b"),
        get("/c"),
    ];
    let done = store.txn(Txn { success, ..Txn::default() }).await.unwrap();
    let value = |n: usize| match &done.results[n] {
        OpResult::Get(kv) => kv.as_ref().map(|kv| (kv.value.clone(), kv.mod_revision == done.revision)),
        other => panic!("step {n} is {other:?}"),
    };
    assert_eq!(value(0), Some(("old".into(), false)));
    assert_eq!(value(2), Some(("new".into(), true)));
    assert_eq!((value(4), value(5)), (None, None));
}

pub(super) async fn limits_are_errors_and_change_nothing(store: Arc<dyn Store>) {
    put(&store, "/a", "1").await;
    let before = store.revision().await.unwrap();
    let many = |count: usize| (0..count).map(|n| put_op(format!("/many/{n:04}"), "x")).collect::<Vec<_>>();
    let refused = async |txn: Txn| store.txn(txn).await.expect_err("over the limit");
    let error = refused(Txn { success: many(MAX_OPS + 1), ..Txn::default() }).await;
    assert_eq!(error, StoreError::TooManyOps { count: MAX_OPS + 1, limit: MAX_OPS });
    let compares = vec![Compare::Exists { key: "/a".into(), exists: true }; MAX_OPS + 1];
    assert!(matches!(refused(Txn { compares, ..Txn::put("/b", "") }).await, StoreError::TooManyOps { .. }));
    let large = Txn::put("/large", vec![b'x'; MAX_TXN_BYTES]);
    assert!(matches!(refused(large).await, StoreError::TooLarge { limit: MAX_TXN_BYTES, .. }));
    for second in [put_op("/twice", "2"), Op::Delete { key: "/twice".into() }] {
        let txn = Txn { success: vec![put_op("/twice", "1"), second], ..Txn::default() };
        assert_eq!(refused(txn).await, StoreError::DuplicateKey { key: "/twice".into() });
    }
    for key in ["", "\0hidden"] {
        assert!(matches!(refused(Txn::put(key, "x")).await, StoreError::InvalidKey { .. }));
    }
    assert_eq!(store.revision().await.unwrap(), before);
    assert_eq!(read(&store, "/", None).await, pairs(&[("/a", "1")]));
}

pub(super) async fn largest_transactions_pass(store: Arc<dyn Store>) {
    let success = (0..MAX_OPS).map(|n| put_op(format!("/many/{n:04}"), "x")).collect::<Vec<_>>();
    let done = store.txn(Txn { success, ..Txn::default() }).await.unwrap();
    let many = store.range(RangeRequest::prefix("/many/")).await.unwrap();
    assert_eq!(many.count as usize, MAX_OPS);
    assert!(many.kvs.iter().all(|kv| kv.mod_revision == done.revision));
    // Exactly the limit: the key, and what is counted for each operation.
    let key = "/large";
    let value = vec![b'x'; MAX_TXN_BYTES - crate::limits::OP_OVERHEAD - key.len()];
    store.txn(Txn::put(key, value.clone())).await.unwrap();
    assert_eq!(store.range(RangeRequest::key(key)).await.unwrap().kvs[0].value, value);
    // The same, spread over as many operations as may be.
    let each = MAX_TXN_BYTES / MAX_OPS - crate::limits::OP_OVERHEAD - 16;
    let success = (0..MAX_OPS).map(|n| put_op(format!("/spread/{n:04}"), vec![b'y'; each])).collect();
    store.txn(Txn { success, ..Txn::default() }).await.unwrap();
}

pub(super) async fn each_transaction_of_a_group_has_its_revision(store: Arc<dyn Store>) {
    let writers = (0..64).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for round in 0..8 {
                let success =
                    vec![put_op(format!("/g/{n}/a"), format!("{round}")), put_op(format!("/g/{n}/b"), "")];
                revisions.push(store.txn(Txn { success, ..Txn::default() }).await.unwrap().revision);
            }
            assert!(revisions.is_sorted(), "a writer's own revisions grow: {revisions:?}");
            revisions
        })
    });
    let all: Vec<_> = join_all(writers).await.into_iter().flat_map(|w| w.unwrap()).collect();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 64 * 8, "no two transactions share a revision");
    for kvs in store.range(RangeRequest::prefix("/g/")).await.unwrap().kvs.chunks(2) {
        assert_eq!(kvs[0].mod_revision, kvs[1].mod_revision, "both keys of a transaction have its revision");
        assert_eq!((kvs[0].version, kvs[1].version), (8, 8));
    }
}

pub(super) async fn concurrent_increments_lose_nothing(store: Arc<dyn Store>) {
    const TASKS: u64 = 64;
    const EACH: u64 = 4;
    put(&store, "/counter", "0").await;
    let tasks = (0..TASKS).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..EACH {
                increment(&store).await;
            }
        })
    });
    for task in join_all(tasks).await {
        task.unwrap();
    }
    let kv = store.range(RangeRequest::key("/counter")).await.unwrap().kvs.remove(0);
    assert_eq!(super::text(&kv.value), (TASKS * EACH).to_string());
    assert_eq!(kv.version, TASKS * EACH + 1);
}

/// Read, then swap if nobody else did; the failing branch reads what is there instead.
async fn increment(store: &Arc<dyn Store>) {
    let mut seen = store.range(RangeRequest::key("/counter")).await.unwrap().kvs.remove(0);
    loop {
        let value: u64 = super::text(&seen.value).parse().unwrap();
        let txn = Txn {
            compares: vec![Compare::ModRevision { key: "/counter".into(), equals: seen.mod_revision }],
            success: vec![put_op("/counter", (value + 1).to_string())],
            failure: vec![Op::Get { key: "/counter".into() }],
        };
        let mut done = store.txn(txn).await.unwrap();
        match (done.succeeded, done.results.remove(0)) {
            (true, _) => return,
            (false, OpResult::Get(Some(kv))) => seen = kv,
            other => panic!("{other:?}"),
        }
    }
}
