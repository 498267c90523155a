//! The one watch cache: everything under `/` in the store, fed by a single store watch, the same
//! above either engine. Reads and watches of every door are served from here; writes go to the
//! store and wait until they are seen here, so that each caller reads its own writes.

mod claims;
mod entry;
mod feed;
mod index;
mod kind;
mod objects;
mod progress;
mod project;
mod ring;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use yunfan_objects::ApiError;
use yunfan_store::{Revision, Store};

pub(crate) use claims::Claims;
pub(crate) use entry::{Entry, Fields, Types, splice};
pub(crate) use index::{Demand, Term};
pub(crate) use kind::{Cursor, Expired, KindCache, Listing, View};
pub(crate) use objects::Objects;
pub(crate) use ring::{Change, ChangeType, Topic, Variant};

use crate::errors::store_error;
use crate::keys;
use progress::Progress;

/// How long a read waits until the cache has reached the revision that it needs.
const CATCH_UP: Duration = Duration::from_secs(3);
/// A change that is on its way to the cache is there within this.
const ON_ITS_WAY: Duration = Duration::from_millis(5);

/// Called for each change, in the order of the store, before anyone who waits for its revision goes
/// on. It must be quick and must not block.
pub(crate) type Observer = Box<dyn Fn(&str, &Change) + Send + Sync>;

/// The watch cache.
pub(crate) struct Cache {
    store: Arc<dyn Store>,
    kinds: RwLock<HashMap<Arc<str>, Arc<KindCache>>>,
    claims: Claims,
    observers: RwLock<Vec<Observer>>,
    /// Everything up to this revision is in the cache.
    progress: Progress,
    /// The revision that the cache was last loaded at: kinds that appear later begin there.
    loaded: watch::Sender<Revision>,
    /// What is older is no longer in the store, as far as is known.
    oldest: AtomicU64,
}

impl Cache {
    /// Reads the whole store and follows it from then on, until the last handle is dropped.
    pub(crate) async fn start(store: Arc<dyn Store>) -> Result<Arc<Self>, ApiError> {
        let cache = Arc::new(Self {
            store,
            kinds: RwLock::default(),
            claims: Claims::default(),
            observers: RwLock::default(),
            progress: Progress::default(),
            loaded: watch::Sender::new(0),
            oldest: AtomicU64::new(0),
        });
        feed::load(&cache).await.map_err(store_error)?;
        tokio::spawn(feed::run(Arc::downgrade(&cache)));
        Ok(cache)
    }

    /// The cache of the kind whose keys have this prefix; made when it is not there yet.
    pub(crate) fn kind(&self, prefix: &str) -> Arc<KindCache> {
        if let Some(kind) = self.kinds.read().unwrap_or_else(PoisonError::into_inner).get(prefix) {
            return kind.clone();
        }
        let mut kinds = self.kinds.write().unwrap_or_else(PoisonError::into_inner);
        kinds.entry(prefix.into()).or_insert_with(|| Arc::new(KindCache::new(*self.loaded.borrow()))).clone()
    }

    /// The claims: see [`Claims`].
    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Has `observer` called for each object of the kinds with these prefixes that is there, and for
    /// each later change of any kind.
    pub(crate) fn observe(&self, observer: Observer) {
        self.observers.write().unwrap_or_else(PoisonError::into_inner).push(observer);
    }

    /// All objects that the store could not open.
    pub(crate) fn unreadable(&self) -> Vec<Arc<Entry>> {
        let kinds = self.kinds.read().unwrap_or_else(PoisonError::into_inner);
        kinds
            .values()
            .flat_map(|kind| kind.view().objects.unreadable(keys::ALL_START, keys::ALL_END))
            .collect()
    }

    /// The revision up to which everything is here.
    pub(crate) fn revision(&self) -> Revision {
        self.progress.reached()
    }

    /// The oldest revision whose state can still be asked for, as far as is known.
    pub(crate) fn oldest(&self) -> Revision {
        self.oldest.load(Ordering::Acquire)
    }

    /// Notes that the store has forgotten what is older than the state at `revision`; so do the snapshots here.
    pub(crate) fn compacted(&self, revision: Revision) {
        self.oldest.fetch_max(revision, Ordering::AcqRel);
        let kinds: Vec<_> =
            self.kinds.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        kinds.iter().for_each(|kind| kind.forget(revision));
    }

    /// Waits until everything up to `revision` is here.
    pub(crate) async fn wait_for(&self, revision: Revision) -> Result<(), ApiError> {
        if self.progress.wait(revision, CATCH_UP).await {
            Ok(())
        } else {
            Err(ApiError::revision_too_large(revision, self.revision()))
        }
    }

    /// Waits until the cache holds all that was acknowledged before this call, by whomever.
    pub(crate) async fn wait_current(&self) -> Result<(), ApiError> {
        let revision = self.store.revision().await.map_err(store_error)?;
        if self.progress.wait(revision, ON_ITS_WAY).await {
            return Ok(());
        }
        // The store's last revision may have touched keys that are not ours: ask to be told.
        self.store.request_progress().await.map_err(store_error)?;
        self.wait_for(revision).await
    }

    fn notify(&self, prefix: &str, changes: &[Arc<Change>]) {
        let observers = self.observers.read().unwrap_or_else(PoisonError::into_inner);
        for observer in observers.iter() {
            for change in changes {
                observer(prefix, change);
            }
        }
    }
}
