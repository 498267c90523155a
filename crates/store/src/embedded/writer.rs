//! Group commit: one thread takes all transactions that wait, writes them with one fsync, and only then shows and
//! acknowledges them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::disk::Disk;
use super::shared::Shared;
use crate::{StoreError, Txn, TxnResponse};

/// Most transactions in one group.
const GROUP_TXNS: usize = 512;
/// Most bytes in one group (one transaction more may go in).
const GROUP_BYTES: usize = 8 * 1024 * 1024;
/// How long a group waits at most for the writers of the group before it, which were just answered and are likely to
/// come back at once. Well below what an fsync takes.
const REGROUP: Duration = Duration::from_micros(60);
/// After a failed write, how long until the next attempt to open the directory again.
const REVIVE_PAUSE: Duration = Duration::from_secs(1);
/// A reader may hold the failed directory open for a moment.
const REVIVE_TRIES: u32 = 20;

/// One transaction that waits to be written.
pub(super) struct Job {
    pub(super) txn: Txn,
    pub(super) bytes: usize,
    pub(super) reply: oneshot::Sender<Result<TxnResponse, StoreError>>,
    /// Its share of the queue's bytes.
    pub(super) permit: OwnedSemaphorePermit,
}

/// The writer thread's body; returns when all senders are gone and the queue is empty.
pub(super) fn run(shared: &Arc<Shared>, mut jobs: mpsc::Receiver<Job>) {
    let mut disk = Handle { shared: shared.clone(), open: shared.disk().ok(), failed: None };
    let mut last_group = 1;
    while let Some(first) = jobs.blocking_recv() {
        let group = gather(first, &mut jobs, last_group);
        last_group = group.len();
        commit(shared, &mut disk, group);
    }
    drop(disk);
    shared.close();
}

/// All that waits, within the limits of a group.
fn gather(first: Job, jobs: &mut mpsc::Receiver<Job>, last_group: usize) -> Vec<Job> {
    let mut bytes = first.bytes;
    let mut group = Vec::with_capacity(last_group.max(4));
    group.push(first);
    let mut waiting_since = None;
    while group.len() < GROUP_TXNS && bytes < GROUP_BYTES {
        match jobs.try_recv() {
            Ok(job) => {
                bytes += job.bytes;
                group.push(job);
            }
            Err(_) if group.len() >= last_group => break,
            Err(_) => {
                if waiting_since.get_or_insert_with(Instant::now).elapsed() > REGROUP {
                    break;
                }
                std::thread::yield_now();
            }
        }
    }
    group
}

fn commit(shared: &Shared, disk: &mut Handle, group: Vec<Job>) {
    let result = disk.get().and_then(|disk| {
        let (responses, mut outcome) = shared.evaluate(group.iter().map(|job| &job.txn));
        if !outcome.batch.is_empty() {
            disk.commit(std::mem::take(&mut outcome.batch))?;
            shared.publish(outcome);
        }
        Ok(responses)
    });
    match result {
        Ok(responses) => {
            for (job, response) in group.into_iter().zip(responses) {
                drop(job.permit);
                // The caller may have gone away; its transaction stays.
                let _ = job.reply.send(Ok(response));
            }
        }
        Err(error) => {
            disk.fail(&error);
            for job in group {
                let _ = job.reply.send(Err(error.clone()));
            }
        }
    }
}

/// The directory as the writer sees it: open, or failed and to be opened again.
struct Handle {
    shared: Arc<Shared>,
    open: Option<Disk>,
    failed: Option<(Instant, StoreError)>,
}

impl Handle {
    fn get(&mut self) -> Result<Disk, StoreError> {
        if let Some(disk) = &self.open {
            return Ok(disk.clone());
        }
        if let Some((when, error)) = &self.failed
            && when.elapsed() < REVIVE_PAUSE
        {
            return Err(error.clone());
        }
        let mut tries = 0;
        let disk = loop {
            match self.shared.revive() {
                Err(StoreError::InUse { .. }) if tries < REVIVE_TRIES => {
                    tries += 1;
                    std::thread::sleep(Duration::from_millis(25));
                }
                other => break other?,
            }
        };
        tracing::info!("store can write again");
        self.failed = None;
        self.open = Some(disk.clone());
        Ok(disk)
    }

    fn fail(&mut self, error: &StoreError) {
        if self.open.take().is_some() {
            tracing::error!(%error, "store failed to write");
            self.shared.fail();
            self.failed = Some((Instant::now(), error.clone()));
        } else if self.failed.as_ref().is_none_or(|(when, _)| when.elapsed() >= REVIVE_PAUSE) {
            self.failed = Some((Instant::now(), error.clone()));
        }
    }
}
