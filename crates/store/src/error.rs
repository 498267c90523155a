//! What can go wrong, in words for whoever runs the cloud.

use bytes::Bytes;

use crate::Revision;

/// Errors of the store. Cloneable, because one failed group commit fails many writers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The history asked for has been compacted away: list again and go on from there.
    #[error(
        "revision is compacted: history is kept after revision {compact_revision}; list again and continue from there"
    )]
    Compacted {
        /// The compacted revision; 0 if the engine does not tell.
        compact_revision: Revision,
    },
    /// A revision that is not reached yet.
    #[error("revision {requested} is in the future: the store is at {current}")]
    FutureRevision {
        /// What was asked for.
        requested: Revision,
        /// What there is; 0 if the engine does not tell.
        current: Revision,
    },
    /// More operations or compares than [`crate::MAX_OPS`].
    #[error("transaction has {count} operations or compares; the limit is {limit}")]
    TooManyOps {
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// More bytes than [`crate::MAX_TXN_BYTES`].
    #[error("transaction has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// One branch of a transaction writes a key twice.
    #[error("transaction writes key {:?} more than once", String::from_utf8_lossy(.key))]
    DuplicateKey {
        /// The key.
        key: Bytes,
    },
    /// Keys are not empty and do not begin with a zero byte.
    #[error("key {:?} is not valid: a key is not empty and does not begin with a zero byte", String::from_utf8_lossy(.key))]
    InvalidKey {
        /// The key.
        key: Bytes,
    },
    /// The watcher fell so far behind that the events it needs next are no longer in memory: watch again.
    #[error(
        "watcher is too slow: it is at revision {at}, events before {oldest} have left the buffer; watch again from there"
    )]
    SlowWatcher {
        /// The revision that the watcher would have got next.
        at: Revision,
        /// The oldest revision still buffered.
        oldest: Revision,
    },
    /// Writing to the disk failed; nothing of it was acknowledged, and readers do not see it. Whether it is found on the
    /// disk after a restart is unknown.
    #[error("store cannot write to {path}: {reason}")]
    Disk {
        /// The store's directory.
        path: String,
        /// What happened and what to do.
        reason: String,
    },
    /// What is on the disk cannot be understood.
    #[error("store {path} is damaged: {reason}; restore it from a backup")]
    Damaged {
        /// The store's directory.
        path: String,
        /// What was found.
        reason: String,
    },
    /// Someone else has the store open.
    #[error("store {path} is in use by another process; stop that one first")]
    InUse {
        /// The store's directory.
        path: String,
    },
    /// The directory was written by a newer program (or is no store).
    #[error(
        "store {path} has format {found:?}; this program understands up to {supported}: use the newer program that wrote it"
    )]
    Format {
        /// The store's directory.
        path: String,
        /// What its format file says.
        found: String,
        /// The newest format that this program reads.
        supported: u32,
    },
    /// The store was closed.
    #[error("store is closed")]
    Closed,
    /// The request did not reach the engine; trying again is safe.
    #[error("store is not reachable: {0}")]
    Unavailable(String),
    /// A value that is to be kept sealed could not be; nothing was written.
    #[error("value cannot be sealed: {0}")]
    Sealing(String),
    /// A write was sent and no answer came: it may or may not have happened.
    #[error("outcome of the write is unknown: {0}; read before trying again")]
    Unknown(String),
    /// The engine refused the request for a reason of its own.
    #[error("store refused the request: {0}")]
    Refused(String),
}
