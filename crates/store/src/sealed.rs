//! Values that are kept otherwise than they are given: a store above any engine, whose values pass a [`Transformer`].

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;

use crate::{
    Compare, Event, KeyValue, Op, OpResult, RangeRequest, RangeResponse, Revision, Store, StoreError, Txn,
    TxnResponse, WatchItem, WatchStream, key_after,
};

/// What every sealed value begins with, as in Kubernetes; nothing else may.
pub const SEALED: &[u8] = b"k8s:enc:";
/// What a value begins with that could not be opened, as it is given to readers; behind it, why.
pub const UNREADABLE: &[u8] = b"k8s:enc:unreadable:";

/// Keys that are looked at together while all are sealed anew.
const PAGE: usize = 500;
/// Transactions under way at once meanwhile: the engine commits those that wait in one go.
const AT_ONCE: usize = 32;
/// Keys that could not be sealed anew which are named.
const NAMED: usize = 100;

/// Why a value that is kept sealed could not be opened, if it is one.
pub fn unreadable(value: &[u8]) -> Option<&str> {
    let why = value.strip_prefix(UNREADABLE)?;
    Some(std::str::from_utf8(why).unwrap_or("for an unknown reason"))
}

/// Seals values on their way to the engine and opens them on their way back.
#[async_trait]
pub trait Transformer: Send + Sync + 'static {
    /// The value of this key as it is to be kept; the same where it is kept as it is.
    ///
    /// # Errors
    /// [`StoreError::Sealing`]: nothing may be written then.
    fn seal(&self, key: &[u8], value: Bytes) -> Result<Bytes, StoreError>;

    /// The value of a key that is kept as `sealed`, which begins with [`SEALED`].
    ///
    /// # Errors
    /// Why it can't be opened, for people.
    async fn open(&self, key: &[u8], sealed: &Bytes) -> Result<Bytes, String>;

    /// Whether anything is said about how the value of this key is to be kept. What is not named stays as it is until it is written.
    fn names(&self, key: &[u8]) -> bool;

    /// Whether the value is kept otherwise than [`Transformer::seal`] would have it now.
    fn is_stale(&self, key: &[u8], kept: &[u8]) -> bool;

    /// Takes over what has changed in its configuration.
    ///
    /// # Errors
    /// What is wrong with it; the configuration is the old one then.
    async fn refresh(&self) -> Result<(), String>;

    /// With what values are sealed now, in words.
    fn describe(&self) -> Vec<String>;

    /// The file that says so; none where nothing but the program does.
    fn file(&self) -> Option<PathBuf> {
        None
    }
}

/// An engine whose values pass a transformer.
pub struct SealedStore {
    engine: Arc<dyn Store>,
    transformer: Arc<dyn Transformer>,
}

/// How far it has come to seal all values anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resealed {
    /// Values that were looked at.
    pub seen: u64,
    /// Those of them that were written anew.
    pub written: u64,
    /// Those that should have been, and could not.
    pub failed: u64,
    /// The first hundred of these keys, and why.
    pub failures: Vec<(String, String)>,
}

impl SealedStore {
    /// Puts a transformer before an engine.
    pub fn new(engine: Arc<dyn Store>, transformer: Arc<dyn Transformer>) -> Self {
        Self { engine, transformer }
    }

    /// What is beneath: its values are as they are kept.
    pub fn engine(&self) -> &Arc<dyn Store> {
        &self.engine
    }

    /// What values pass.
    pub fn transformer(&self) -> &Arc<dyn Transformer> {
        &self.transformer
    }

    /// Whether the value of a key is kept otherwise than it would be if it were written now; where nothing is said about how it is to be
    /// kept, that is not looked at.
    ///
    /// # Errors
    /// Those of the engine, when the key can't be read.
    pub async fn is_stale(&self, key: &[u8]) -> Result<bool, StoreError> {
        if !self.transformer.names(key) {
            return Ok(false);
        }
        let key = Bytes::copy_from_slice(key);
        let found = self.engine.range(RangeRequest::key(key)).await?;
        Ok(found.kvs.iter().any(|kv| self.transformer.is_stale(&kv.key, &kv.value)))
    }

    /// Writes each stale value in `start..end` anew; `told` hears how far it has come, now and then. What others write meanwhile is
    /// sealed anew by that. It can be broken off at any time and begun again.
    ///
    /// # Errors
    /// Those of the engine, when keys can't be read.
    pub async fn reseal(
        &self,
        (mut start, end): (Bytes, Bytes),
        mut told: impl FnMut(&Resealed) + Send,
    ) -> Result<Resealed, StoreError> {
        let mut done = Resealed::default();
        loop {
            let request = RangeRequest { start, end: end.clone(), limit: PAGE, revision: None };
            let page = self.engine.range(request).await?;
            let next = page.kvs.last().filter(|_| page.more).map(|last| key_after(&last.key));
            done.seen += page.kvs.len() as u64;
            let stale = page.kvs.into_iter().filter(|kv| self.transformer.is_stale(&kv.key, &kv.value));
            let mut writes = futures::stream::iter(
                stale.map(|kv| async move { (kv.key.clone(), self.reseal_one(kv).await) }),
            )
            .buffer_unordered(AT_ONCE);
            while let Some((key, result)) = writes.next().await {
                match result {
                    Ok(true) => done.written += 1,
                    // Somebody else has just written it.
                    Ok(false) => {}
                    Err(why) => {
                        done.failed += 1;
                        if done.failures.len() < NAMED {
                            done.failures.push((String::from_utf8_lossy(&key).into_owned(), why));
                        }
                    }
                }
            }
            drop(writes);
            told(&done);
            match next {
                Some(next) => start = next,
                None => return Ok(done),
            }
        }
    }

    async fn reseal_one(&self, kv: KeyValue) -> Result<bool, String> {
        let value = match kv.value.starts_with(SEALED) {
            true => self.transformer.open(&kv.key, &kv.value).await?,
            false => kv.value,
        };
        let txn = Txn {
            compares: vec![Compare::ModRevision { key: kv.key.clone(), equals: kv.mod_revision }],
            success: vec![Op::Put { key: kv.key, value }],
            failure: Vec::new(),
        };
        self.txn(txn).await.map(|done| done.succeeded).map_err(|error| error.to_string())
    }

    fn seal_all(&self, ops: Vec<Op>) -> Result<Vec<Op>, StoreError> {
        let seal = |op| match op {
            Op::Put { key, value } if value.starts_with(SEALED) => {
                let key = String::from_utf8_lossy(&key).into_owned();
                Err(StoreError::Sealing(format!("the value of {key} looks like a sealed one")))
            }
            Op::Put { key, value } => {
                let value = self.transformer.seal(&key, value)?;
                Ok(Op::Put { key, value })
            }
            op => Ok(op),
        };
        ops.into_iter().map(seal).collect()
    }
}

/// Opens a value where it is sealed.
async fn open(transformer: &dyn Transformer, kv: &mut KeyValue) {
    if !kv.value.starts_with(SEALED) {
        return;
    }
    kv.value = match transformer.open(&kv.key, &kv.value).await {
        Ok(value) => value,
        Err(why) => {
            tracing::debug!(key = %String::from_utf8_lossy(&kv.key), %why, "a value cannot be opened");
            Bytes::from([UNREADABLE, why.as_bytes()].concat())
        }
    };
}

async fn open_events(transformer: &dyn Transformer, events: &mut [Event]) {
    for event in events {
        match event {
            Event::Put { kv, prev } => {
                open(transformer, kv).await;
                if let Some(prev) = prev {
                    open(transformer, prev).await;
                }
            }
            Event::Delete { prev: Some(prev), .. } => open(transformer, prev).await,
            Event::Delete { prev: None, .. } => {}
        }
    }
}

#[async_trait]
impl Store for SealedStore {
    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        let Txn { compares, success, failure } = txn;
        let txn = Txn { compares, success: self.seal_all(success)?, failure: self.seal_all(failure)? };
        let mut done = self.engine.txn(txn).await?;
        for result in &mut done.results {
            if let OpResult::Get(Some(kv)) = result {
                open(&*self.transformer, kv).await;
            }
        }
        Ok(done)
    }

    async fn range(&self, req: RangeRequest) -> Result<RangeResponse, StoreError> {
        let mut found = self.engine.range(req).await?;
        for kv in &mut found.kvs {
            open(&*self.transformer, kv).await;
        }
        Ok(found)
    }

    async fn watch(&self, start: Bytes, end: Bytes, from: Revision) -> Result<WatchStream, StoreError> {
        let items = self.engine.watch(start, end, from).await?;
        let transformer = self.transformer.clone();
        Ok(Box::pin(items.then(move |mut item| {
            let transformer = transformer.clone();
            async move {
                if let Ok(WatchItem::Events { events, .. }) = &mut item {
                    open_events(&*transformer, events).await;
                }
                item
            }
        })))
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.engine.revision().await
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.engine.request_progress().await
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.engine.compact(revision).await
    }

    fn sealed(&self) -> Option<&SealedStore> {
        Some(self)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::*;

    /// Turns bits around, by a key of one byte that is written before the value.
    #[derive(Default)]
    struct Turned {
        key: AtomicU8,
        lost: AtomicU8,
    }

    #[async_trait]
    impl Transformer for Turned {
        fn seal(&self, _: &[u8], value: Bytes) -> Result<Bytes, StoreError> {
            let key = self.key.load(Ordering::SeqCst);
            let turned = value.iter().map(|byte| byte ^ 0x55 ^ key);
            Ok(SEALED.iter().copied().chain([key]).chain(turned).collect())
        }

        async fn open(&self, _: &[u8], sealed: &Bytes) -> Result<Bytes, String> {
            let key = sealed[SEALED.len()];
            if key != 0 && key == self.lost.load(Ordering::SeqCst) {
                return Err(format!("key {key} is lost"));
            }
            Ok(sealed[SEALED.len() + 1..].iter().map(|byte| byte ^ 0x55 ^ key).collect())
        }

        fn names(&self, key: &[u8]) -> bool {
            !key.starts_with(b"/unnamed")
        }

        fn is_stale(&self, _: &[u8], kept: &[u8]) -> bool {
            kept.strip_prefix(SEALED).is_none_or(|rest| rest[0] != self.key.load(Ordering::SeqCst))
        }

        async fn refresh(&self) -> Result<(), String> {
            Ok(())
        }

        fn describe(&self) -> Vec<String> {
            Vec::new()
        }
    }

    fn all() -> (Bytes, Bytes) {
        (Bytes::from_static(b"/"), Bytes::from_static(b"0"))
    }

    async fn kept(store: &dyn Store, key: &'static str) -> Bytes {
        store.range(RangeRequest::key(key)).await.unwrap().kvs.remove(0).value
    }

    #[tokio::test]
    async fn readers_see_what_writers_gave_and_the_engine_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let engine: Arc<dyn Store> = crate::open_embedded(dir.path()).unwrap();
        let store = SealedStore::new(engine.clone(), Arc::new(Turned::default()));
        let mut watch = store.watch(all().0, all().1, 2).await.unwrap();
        engine.txn(Txn::put("/old", "plain")).await.unwrap();
        store.txn(Txn::put("/new", "plain")).await.unwrap();
        store.txn(Txn::put("/new", "again")).await.unwrap();
        for (key, value) in [("/old", "plain"), ("/new", "again")] {
            assert_eq!(kept(&store, key).await, value);
        }
        assert!(kept(&*engine, "/new").await.starts_with(SEALED));
        let get = Txn { success: vec![Op::Get { key: "/new".into() }], ..Txn::default() };
        let got = store.txn(get).await.unwrap().results.remove(0);
        assert!(matches!(got, OpResult::Get(Some(kv)) if kv.value == "again"), "the transaction reads");
        let mut seen = Vec::new();
        while seen.len() < 3 {
            if let WatchItem::Events { events, .. } = watch.next().await.unwrap().unwrap() {
                for event in events {
                    let Event::Put { kv, prev } = event else { panic!("a put") };
                    seen.push((kv.value, prev.map(|kv| kv.value)));
                }
            }
        }
        assert_eq!(seen[2], (Bytes::from("again"), Some(Bytes::from("plain"))));
        engine.txn(Txn::put("/unnamed", "plain")).await.unwrap();
        let stale =
            [store.is_stale(b"/old").await, store.is_stale(b"/new").await, store.is_stale(b"/unnamed").await];
        assert_eq!(stale.map(Result::unwrap), [true, false, false], "of what is not named nothing is read");
        let refused = store.txn(Txn::put("/new", "k8s:enc:x")).await.unwrap_err();
        assert!(refused.to_string().contains("/new"), "{refused}");
    }

    #[tokio::test]
    async fn all_values_are_sealed_anew_and_what_cannot_be_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let engine: Arc<dyn Store> = crate::open_embedded(dir.path()).unwrap();
        let turned = Arc::new(Turned::default());
        let store = SealedStore::new(engine.clone(), turned.clone());
        engine.txn(Txn::put("/plain", "p")).await.unwrap();
        for (key, name) in [(1, "/one"), (2, "/two")] {
            turned.key.store(key, Ordering::SeqCst);
            store.txn(Txn::put(name, "v")).await.unwrap();
        }
        let stale = async |key: &str| store.is_stale(key.as_bytes()).await.unwrap();
        assert!(stale("/plain").await && stale("/one").await);
        assert!(!stale("/two").await && !stale("/none").await);
        turned.lost.store(1, Ordering::SeqCst);
        let done = store.reseal(all(), |_| {}).await.unwrap();
        assert_eq!((done.seen, done.written, done.failed), (3, 1, 1));
        assert_eq!(done.failures, [("/one".to_owned(), "key 1 is lost".to_owned())]);
        assert_eq!(unreadable(&kept(&store, "/one").await), Some("key 1 is lost"));
        assert_eq!(unreadable(&kept(&store, "/plain").await), None);
        assert!(kept(&*engine, "/plain").await.starts_with(SEALED));
        turned.lost.store(0, Ordering::SeqCst);
        assert_eq!(store.reseal(all(), |_| {}).await.unwrap().written, 1);
        assert_eq!(store.reseal(all(), |_| {}).await.unwrap().written, 0);
    }
}
