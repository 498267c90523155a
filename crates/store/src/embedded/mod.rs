//! The embedded engine: fjall on local disk.
//!
//! The log of all changes since the compacted revision and the state at that revision (the *base*) lie on disk; the
//! current state and a bounded ring of recent commits are in memory. A write goes through the writer thread: evaluated,
//! written together with all others that wait, one fsync, published, acknowledged. Reading order: `writer.rs`,
//! `shared.rs`, `state.rs`, `disk.rs`, `read.rs`.

mod codec;
mod disk;
mod read;
mod shared;
mod state;
mod writer;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::feed::FeedLimits;
use crate::{
    RangeRequest, RangeResponse, Revision, Store, StoreError, Txn, TxnResponse, WatchStream, limits,
};
use read::LogHistory;
use shared::Shared;
use writer::Job;

/// Most transactions that wait for the writer; more make their callers wait.
const QUEUE_TXNS: usize = 4096;
/// Most bytes of transactions that wait for the writer.
const QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// How to open the embedded engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct EmbeddedOptions {
    /// Limits of the ring of recent commits.
    pub feed: FeedLimits,
}

/// The embedded engine. Dropping it waits for writes under way and lets go of the directory.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// None when closed.
    jobs: RwLock<Option<mpsc::Sender<Job>>>,
    queue: Arc<Semaphore>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// Opens the store in `dir`, which is created if it is absent. Blocks while the state is loaded. Errors:
/// [`StoreError::InUse`], [`StoreError::Format`], [`StoreError::Disk`], [`StoreError::Damaged`].
pub fn open_embedded(dir: impl AsRef<Path>) -> Result<Arc<EmbeddedStore>, StoreError> {
    open_embedded_with(dir, EmbeddedOptions::default())
}

/// As [`open_embedded`], with options.
pub fn open_embedded_with(
    dir: impl AsRef<Path>,
    options: EmbeddedOptions,
) -> Result<Arc<EmbeddedStore>, StoreError> {
    let shared = Arc::new(Shared::open(dir.as_ref().to_owned(), options.feed)?);
    let (sender, receiver) = mpsc::channel(QUEUE_TXNS);
    let for_writer = shared.clone();
    let writer = std::thread::Builder::new()
        .name("store-writer".to_owned())
        .spawn(move || writer::run(&for_writer, receiver))
        .map_err(|e| StoreError::Unavailable(format!("cannot start the writer thread: {e}")))?;
    Ok(Arc::new(EmbeddedStore {
        shared,
        jobs: RwLock::new(Some(sender)),
        queue: Arc::new(Semaphore::new(QUEUE_BYTES)),
        writer: Mutex::new(Some(writer)),
    }))
}

impl EmbeddedStore {
    /// Refuses new writes, waits for those under way, ends all watches and lets go of the directory. Reads of the current
    /// state still work. Doing it twice is fine.
    pub async fn close(self: &Arc<Self>) {
        let store = self.clone();
        // A failure to join is a panic of the writer, which it has reported itself.
        let _ = tokio::task::spawn_blocking(move || store.stop()).await;
    }

    fn stop(&self) {
        drop(self.jobs.write().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join();
        }
        self.shared.close();
    }

    fn sender(&self) -> Result<mpsc::Sender<Job>, StoreError> {
        self.jobs.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Closed)
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.stop();
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn txn(&self, txn: Txn) -> Result<TxnResponse, StoreError> {
        let bytes = limits::check(&txn)?;
        if limits::is_read_only(&txn) {
            let (mut responses, _) = self.shared.evaluate(std::iter::once(&txn));
            return responses.pop().ok_or(StoreError::Closed);
        }
        let jobs = self.sender()?;
        // At most MAX_TXN_BYTES, far below u32::MAX.
        let permit =
            self.queue.clone().acquire_many_owned(bytes as u32).await.map_err(|_| StoreError::Closed)?;
        let (reply, answer) = oneshot::channel();
        jobs.send(Job { txn, bytes, reply, permit }).await.map_err(|_| StoreError::Closed)?;
        drop(jobs);
        answer.await.map_err(|_| StoreError::Unknown("the writer stopped".to_owned()))?
    }

    async fn range(&self, req: RangeRequest) -> Result<RangeResponse, StoreError> {
        let revision = match req.revision {
            None | Some(0) => return Ok(self.shared.range_now(&req)),
            Some(revision) => revision,
        };
        if self.shared.is_recent(revision) {
            return self.shared.range_at(&req, revision);
        }
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || shared.range_at(&req, revision))
            .await
            .map_err(|e| StoreError::Unavailable(e.to_string()))?
    }

    async fn watch(&self, start: Bytes, end: Bytes, from: Revision) -> Result<WatchStream, StoreError> {
        self.shared.feed.watch(Arc::new(LogHistory(self.shared.clone())), (start, end), from)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.feed.ring().published)
    }

    async fn request_progress(&self) -> Result<(), StoreError> {
        self.shared.feed.mark();
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        {
            let mut ring = self.shared.feed.ring_mut();
            if revision > ring.published {
                return Err(StoreError::FutureRevision { requested: revision, current: ring.published });
            }
            if revision <= ring.compacted {
                return Err(StoreError::Compacted { compact_revision: ring.compacted });
            }
            ring.compacted = revision;
        }
        let shared = self.shared.clone();
        tokio::task::spawn_blocking(move || shared.compact(revision))
            .await
            .map_err(|e| StoreError::Unavailable(e.to_string()))?
    }
}
