//! KMS v2 with a plug-in that really speaks gRPC on a socket: it rotates, dies, lies and comes back.
#![forbid(unsafe_code)]

mod plugin;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use plugin::Plugin;
use yunfan_encryption::Encryption;
use yunfan_store::{RangeRequest, SEALED, SealedStore, Store, Transformer, Txn, unreadable};

const MARKER: &str = "the-plain-text-of-a-secret";

fn configuration(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("encryption.yaml");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n\
         - resources: [secrets]\n  providers:\n  - kms: {{apiVersion: v2, name: test, endpoint: 'unix://{}', timeout: 500ms}}\n  - identity: {{}}\n",
        dir.join("kms.sock").display()
    );
    std::fs::write(&path, text).unwrap();
    path
}

async fn store(dir: &Path) -> (Arc<dyn Store>, Encryption, SealedStore) {
    let engine: Arc<dyn Store> = yunfan_store::open_embedded(dir.join("store")).unwrap();
    let encryption = Encryption::open(&configuration(dir)).await.unwrap();
    let store = SealedStore::new(engine.clone(), Arc::new(encryption.clone()));
    (engine, encryption, store)
}

fn key(name: &str) -> Bytes {
    format!("/registry/core/secrets/default/{name}").into()
}

async fn read(store: &dyn Store, name: &str) -> Bytes {
    store.range(RangeRequest::key(key(name))).await.unwrap().kvs.remove(0).value
}

/// Waits for a condition, within reason.
async fn until(what: &str, mut met: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !met().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok(), "{what} did not come");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plug_in_that_dies_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = Plugin::start(dir.path(), "kek-1");
    let (engine, encryption, store) = store(dir.path()).await;
    store.txn(Txn::put(key("a"), MARKER)).await.unwrap();
    store.txn(Txn::put(key("b"), MARKER)).await.unwrap();
    let kept = read(&*engine, "a").await;
    assert!(kept.starts_with(b"k8s:enc:kms:v2:test:"));
    assert!(!kept.windows(MARKER.len()).any(|part| part == MARKER.as_bytes()));
    assert_eq!(plugin.calls("Encrypt"), 1, "one seed for all values");
    assert_eq!(plugin.calls("Decrypt"), 0, "the seed is known");
    assert_eq!(encryption.describe(), ["secrets: kms test, key kek-1"]);

    // It dies: the seed is known, so what is there is read, and written.
    plugin.stop().await;
    assert_eq!(read(&store, "a").await, MARKER);
    store.txn(Txn::put(key("c"), MARKER)).await.unwrap();
    drop((engine, encryption, store));

    // A cloud that starts meanwhile reads nothing of it, says so for each, and takes nothing in.
    let (_, encryption, store) = self::store(dir.path()).await;
    let why = read(&store, "a").await;
    let why = unreadable(&why).expect("it can't be read");
    assert!(why.contains("\"kek-1\"") && why.contains("\"test\""), "{why}");
    let refused = store.txn(Txn::put(key("d"), MARKER)).await.unwrap_err().to_string();
    assert!(
        refused.contains("/registry/core/secrets/default/d") && refused.contains("kms.sock"),
        "{refused}"
    );
    store.txn(Txn::put("/registry/core/configmaps/default/d", MARKER)).await.unwrap();

    // It comes back: nobody has to do anything.
    let plugin = Plugin::start(dir.path(), "kek-1");
    until("a value that can be read", async || read(&store, "a").await == MARKER).await;
    until("a write", async || store.txn(Txn::put(key("d"), MARKER)).await.is_ok()).await;
    assert_eq!(read(&store, "c").await, MARKER);
    assert!(plugin.calls("Decrypt") <= 3, "{} calls", plugin.calls("Decrypt"));
    drop(encryption);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_rotated() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = Plugin::start(dir.path(), "kek-1");
    let (engine, encryption, store) = store(dir.path()).await;
    for number in 0..20 {
        store.txn(Txn::put(key(&number.to_string()), MARKER)).await.unwrap();
    }
    let all = || (Bytes::from_static(b"/registry/"), Bytes::from_static(b"/registry0"));
    assert_eq!(store.reseal(all(), |_| {}).await.unwrap().written, 0);
    plugin.rotate("kek-2");
    until("the new key", async || encryption.describe() == ["secrets: kms test, key kek-2"]).await;
    assert!(encryption.is_stale(&key("1"), &read(&*engine, "1").await));
    assert_eq!(read(&store, "1").await, MARKER);
    assert_eq!(store.reseal(all(), |_| {}).await.unwrap().written, 20);
    assert_eq!(store.reseal(all(), |_| {}).await.unwrap().written, 0);
    // Nothing needs the old key any more.
    plugin.forget("kek-1");
    drop((engine, encryption, store));
    let (_, _, store) = self::store(dir.path()).await;
    for number in 0..20 {
        assert_eq!(read(&store, &number.to_string()).await, MARKER);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plug_in_that_lies() {
    for (lie, wanted) in [
        ("version", "not v2"),
        ("healthz", "not well"),
        ("no key", "key_id has 0 bytes"),
        ("hangs", "no answer within 500 ms"),
        ("long", "not within the limits"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let plugin = Plugin::start(dir.path(), "kek-1");
        plugin.lie(lie);
        let (engine, _, store) = store(dir.path()).await;
        let refused = store.txn(Txn::put(key("a"), MARKER)).await.unwrap_err().to_string();
        assert!(refused.contains(wanted), "{lie}: {refused}");
        assert!(engine.range(RangeRequest::key(key("a"))).await.unwrap().kvs.is_empty());
        plugin.lie("");
        until("the truth", async || store.txn(Txn::put(key("a"), MARKER)).await.is_ok()).await;
        assert!(read(&*engine, "a").await.starts_with(SEALED));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_whose_plug_in_is_not_there_is_not_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let plugin = Plugin::start(dir.path(), "kek-1");
    let encryption = Encryption::open(&configuration(dir.path())).await.unwrap();
    let before = encryption.describe();
    let path = dir.path().join("encryption.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("name: test", "name: other").replace("kms.sock", "none.sock"))
        .unwrap();
    let refused = encryption.reload().await.unwrap_err().to_string();
    assert!(refused.contains("\"other\"") && refused.contains("none.sock"), "{refused}");
    assert_eq!(encryption.describe(), before);
    // The same plug-in beside another list stays the one that it was.
    std::fs::write(&path, text.replace("[secrets]", "[secrets, configmaps]")).unwrap();
    assert!(encryption.reload().await.unwrap());
    assert_eq!(plugin.calls("Encrypt"), 1);
    assert_eq!(encryption.describe(), ["secrets, configmaps: kms test, key kek-1"]);
}
