//! The ledger: a revisioned key-value store with etcd's semantics.
//!
//! **Owns** revisions, transactions, range reads at a kept revision, watches, compaction, the on-disk format of the
//! embedded engine, and the backup file. Two engines stand behind the one trait [`Store`]:
//!
//! * [`EmbeddedStore`] ([`open_embedded`]): fjall on local disk, group commit, every acknowledged write fsync'd.
//! * [`EtcdStore`] ([`connect_etcd`]): any etcd from 3.4 on.
//!
//! [`SealedStore`] puts a [`Transformer`] before either: values are then kept otherwise than they are given (encrypted).
//!
//! [`conformance`] is the one suite that runs on both.
//!
//! **Must never know** what a value means: no objects, kinds, tenants or HTTP. It depends on no other crate of Yunfan.
//!
//! **Start reading** at [`Store`] below, then `types.rs`. The heart is `feed.rs` (how commits reach watchers, shared by
//! both engines) and `embedded/writer.rs` (group commit).
#![forbid(unsafe_code)]

pub mod backup;
pub mod conformance;
mod embedded;
mod error;
mod etcd;
mod feed;
mod limits;
mod sealed;
mod types;

use std::pin::Pin;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

pub use embedded::{EmbeddedOptions, EmbeddedStore, open_embedded, open_embedded_with};
pub use error::StoreError;
pub use etcd::{EtcdConfig, EtcdStore, EtcdTls, connect_etcd};
pub use feed::FeedLimits;
pub use limits::{MAX_OPS, MAX_TXN_BYTES};
pub use sealed::{Resealed, SEALED, SealedStore, Transformer, UNREADABLE, unreadable};
pub use types::{
    Compare, Event, KeyValue, Op, OpResult, RangeRequest, RangeResponse, Revision, Txn, TxnResponse,
    WatchItem, key_after, prefix_end,
};

/// What a watch yields. It ends after the first error. It holds no buffer of its own: it reads from the engine's bounded
/// ring of recent commits, so a consumer that stops polling costs nothing and, once the ring has moved past it, gets
/// [`StoreError::SlowWatcher`].
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchItem, StoreError>> + Send>>;

/// A revisioned key-value store.
///
/// Revisions: an empty store is at revision 1, the first write gets 2, and each transaction that changes something takes
/// the next one, shared by all its keys. (Other users of a shared etcd may take revisions in between.) Keys are not empty
/// and do not begin with a zero byte; everywhere a range is `start..end` with `end` exclusive and an empty `end` meaning
/// "to the end of the key space".
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Evaluates the compares and runs one of the two branches, atomically. Durable (fsync'd) when it returns `Ok`.
    /// On [`StoreError::Unknown`] the transaction may or may not have happened: read before trying again. Dropping the
    /// future does not take the transaction back.
    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError>;

    /// Reads keys in order, now (linearizable) or at a kept revision. Errors: [`StoreError::Compacted`],
    /// [`StoreError::FutureRevision`].
    async fn range(&self, req: RangeRequest) -> Result<RangeResponse, StoreError>;

    /// Events of keys in `start..end` with a revision of at least `from`, in order and without gaps, then live. All
    /// events of one revision come in one item. [`WatchItem::Progress`] comes when the watch has caught up for the first
    /// time, after [`Store::request_progress`], and every few seconds while nothing else comes.
    /// [`StoreError::Compacted`] when `from` is not above the compacted revision: it is returned here or as the first
    /// item of the stream.
    async fn watch(&self, start: Bytes, end: Bytes, from: Revision) -> Result<WatchStream, StoreError>;

    /// The current revision; linearizable: at least that of every transaction acknowledged before the call.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Asks that every watch, as soon as it has delivered all that was committed before this call, tells so by a
    /// [`WatchItem::Progress`] whose revision is at least what [`Store::revision`] returned before this call. (A watch
    /// that has an event to deliver at such a revision may deliver just the event.) Calls at the same time are merged.
    async fn request_progress(&self) -> Result<(), StoreError>;

    /// Forgets what is older than the state at `revision`: ranges below it and watches from it or below are refused from
    /// now on. Watches under way that have not fallen behind are not disturbed. [`StoreError::Compacted`] if it was done
    /// before, [`StoreError::FutureRevision`] if it is not reached yet.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// This store as one that keeps values otherwise than they are given, if it does: for who needs them as they are kept.
    fn sealed(&self) -> Option<&SealedStore> {
        None
    }
}
