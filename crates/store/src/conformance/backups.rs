//! Backup and restore.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;

use super::{put, read};
use crate::backup::{BackupError, export, import};
use crate::{RangeRequest, Store, Txn};

async fn export_all(store: &Arc<dyn Store>) -> Vec<u8> {
    let mut file = Vec::new();
    let report = export(&**store, &mut file).await.unwrap();
    assert!(report.revision <= store.revision().await.unwrap());
    file
}

pub(super) async fn a_restore_makes_the_store_equal(store: Arc<dyn Store>) {
    for n in 0..700 {
        put(&store, &format!("/b/{n:04}"), &n.to_string()).await;
    }
    store.txn(Txn::put(vec![0x7f, 0, 0xff], vec![0, 1, 2, 0xff])).await.unwrap();
    store.txn(Txn::put("/large", vec![b'x'; 1_200_000])).await.unwrap();
    let file = export_all(&store).await;
    let before = read(&store, "", None).await;

    for n in (0..700).step_by(3) {
        store.txn(Txn::delete(format!("/b/{n:04}"))).await.unwrap();
    }
    for n in 0..300 {
        put(&store, &format!("/b/{:04}.new", n * 2), "new").await;
    }
    put(&store, "/b/0001", "changed").await;
    put(&store, "/a", "first").await;
    put(&store, "/zzz", "last").await;
    let untouched = store.range(RangeRequest::key("/b/0002")).await.unwrap().kvs;

    let report = import(&*store, &mut Cursor::new(&file)).await.unwrap();
    assert_eq!(
        (report.keys, report.changed),
        (702, 235 + 302),
        "deleted or changed keys come back, new ones go"
    );
    assert_eq!(read(&store, "", None).await, before);
    let after = store.range(RangeRequest::key("/b/0002")).await.unwrap().kvs;
    assert_eq!(after, untouched, "what is the same is not written");
    let again = import(&*store, &mut Cursor::new(&file)).await.unwrap();
    assert_eq!((again.keys, again.changed), (702, 0));
}

pub(super) async fn an_empty_store_is_backed_up_too(store: Arc<dyn Store>) {
    let file = export_all(&store).await;
    put(&store, "/a", "1").await;
    let report = import(&*store, &mut Cursor::new(&file)).await.unwrap();
    assert_eq!((report.keys, report.changed), (0, 1));
    assert_eq!(read(&store, "", None).await, []);
}

pub(super) async fn a_damaged_backup_changes_nothing(store: Arc<dyn Store>) {
    for n in 0..5 {
        put(&store, &format!("/b/{n}"), "value").await;
    }
    let file = export_all(&store).await;
    put(&store, "/b/0", "newer").await;
    put(&store, "/c", "newer").await;
    let revision = store.revision().await.unwrap();
    let refused = async |bytes: &[u8], what: &str| match import(&*store, &mut Cursor::new(bytes)).await {
        Err(BackupError::Damaged(why)) => why,
        Err(BackupError::Newer { found }) => found.to_string(),
        other => panic!("{what}: {other:?}"),
    };
    for cut in 0..file.len() {
        let why = refused(&file[..cut], &format!("cut at {cut}")).await;
        assert!(why.contains("cut off"), "{why}");
    }
    for at in 0..file.len() {
        let mut bad = file.clone();
        bad[at] ^= 0x10;
        refused(&bad, &format!("flipped at {at}")).await;
    }
    let more = [&file[..], b"x"].concat();
    assert!(refused(&more, "appended").await.contains("follows"));
    assert!(refused(b"{\"not\": \"a backup\"}", "JSON").await.contains("not begin"));
    assert_eq!(store.revision().await.unwrap(), revision);
}

pub(super) async fn a_backup_is_of_one_moment(store: Arc<dyn Store>) {
    // Two keys that always change together, far apart, so that they are read in different pages.
    for n in 0..600 {
        put(&store, &format!("/m/{n:04}"), "x").await;
    }
    let both = |n: u32| {
        let op = |key: &'static str| crate::Op::Put { key: key.into(), value: n.to_string().into() };
        Txn { success: vec![op("/a"), op("/z")], ..Txn::default() }
    };
    store.txn(both(0)).await.unwrap();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for n in 1..200 {
                store.txn(both(n)).await.unwrap();
            }
        })
    };
    let file = export_all(&store).await;
    writer.await.unwrap();
    import(&*store, &mut Cursor::new(&file)).await.unwrap();
    let value = async |key: &'static str| -> Bytes {
        store.range(RangeRequest::key(key)).await.unwrap().kvs.remove(0).value
    };
    assert_eq!(value("/a").await, value("/z").await);
}
