//! How records wait until they are written: a bounded queue for each place that they go to.

use std::str::FromStr;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;

/// Whether a request waits for its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does not; records that find the queue full are lost, and counted.
    Batch,
    /// It waits until each is written, and goes on if that failed.
    Blocking,
    /// It waits, and is refused if its first record could not be written.
    BlockingStrict,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "batch" => Ok(Self::Batch),
            "blocking" => Ok(Self::Blocking),
            "blocking-strict" => Ok(Self::BlockingStrict),
            _ => Err(format!("{text:?} is none of batch, blocking and blocking-strict")),
        }
    }
}

/// What a writer is told.
pub(crate) enum Message {
    /// A record, and who waits to hear whether it was written.
    Record(Bytes, Option<oneshot::Sender<bool>>),
    /// Somebody waits until all that came before is written.
    Flush(oneshot::Sender<bool>),
}

/// The way to one writer.
pub(crate) struct Queue {
    /// For metrics.
    pub(crate) name: &'static str,
    pub(crate) mode: Mode,
    pub(crate) sender: mpsc::Sender<Message>,
    pub(crate) metrics: Metrics,
}

impl Queue {
    pub(crate) fn is_strict(&self) -> bool {
        self.mode == Mode::BlockingStrict
    }

    /// Whether it was taken, or written where that is waited for.
    pub(crate) async fn put(&self, line: Bytes) -> bool {
        if self.mode == Mode::Batch {
            return self.put_now(line);
        }
        let (told, hears) = oneshot::channel();
        let sent = self.sender.send(Message::Record(line, Some(told))).await;
        sent.is_ok() && hears.await.unwrap_or_default()
    }

    /// Whether it was taken.
    pub(crate) fn put_now(&self, line: Bytes) -> bool {
        let taken = self.sender.try_send(Message::Record(line, None)).is_ok();
        if !taken {
            self.metrics.lost(self.name, 1);
        }
        taken
    }

    pub(crate) async fn flush(&self) {
        let (told, hears) = oneshot::channel();
        if self.sender.send(Message::Flush(told)).await.is_ok() {
            let _ = hears.await;
        }
    }
}
