//! A lane: bytes from a client and bytes to it, each way until its end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};

use super::CHUNK;

/// Bytes of one lane that wait to be used; SPDY's first window has the same size.
pub(super) const BUFFER: usize = 64 * 1024;

/// What a transport does for its lanes. Lanes have the transport's own numbers.
#[async_trait]
pub(super) trait Link: Send + Sync {
    /// Sends bytes on a lane; false when the client is gone. What is meant for a lane that the client closed is dropped.
    async fn send(&self, lane: u32, bytes: Bytes) -> bool;
    /// Says that no more comes on a lane.
    async fn finish(&self, lane: u32);
    /// Ends a lane both ways, at once.
    async fn reset(&self, lane: u32);
    /// Bytes of a lane were used: the client may send more in their place.
    async fn used(&self, lane: u32, bytes: usize);
    /// Says that all is over; `well` is false when the client did not keep to the protocol.
    async fn leave(&self, well: bool);
}

/// Counts what happens on a connection.
#[derive(Debug, Default)]
pub(super) struct Activity(AtomicU64);

impl Activity {
    fn touch(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until nothing has happened for at least `limit`, and for no more than twice of it.
    pub(super) async fn idle(&self, limit: Duration) {
        let mut seen = self.0.load(Ordering::Relaxed);
        loop {
            tokio::time::sleep(limit).await;
            let now = self.0.load(Ordering::Relaxed);
            if now == seen {
                return;
            }
            seen = now;
        }
    }
}

/// One lane. Who does not want what comes in drops `input`: it is thrown away then.
pub(super) struct Lane {
    pub(super) input: LaneInput,
    pub(super) output: LaneOutput,
}

/// What the client sends.
pub(super) struct LaneInput {
    number: u32,
    link: Arc<dyn Link>,
    bytes: DuplexStream,
    /// As long as it is there, somebody may read.
    _reader: Arc<()>,
}

impl LaneInput {
    /// Reads some bytes; 0 is their end.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> usize {
        // A pipe in memory does not fail.
        let length = self.bytes.read(buffer).await.unwrap_or(0);
        if length > 0 {
            self.link.used(self.number, length).await;
        }
        length
    }

    /// Passes all on to `to`, and then its end. Ends early when `to` takes no more.
    pub(super) async fn pour(mut self, mut to: impl AsyncWrite + Unpin) {
        let mut buffer = vec![0; CHUNK];
        loop {
            match self.read(&mut buffer).await {
                0 => break,
                length if to.write_all(&buffer[..length]).await.is_err() => return,
                _ => {}
            }
        }
        // It fails when the other end is gone, which is as good.
        let _ = to.shutdown().await;
    }
}

/// What goes to the client.
#[derive(Clone)]
pub(super) struct LaneOutput {
    number: u32,
    link: Arc<dyn Link>,
    activity: Arc<Activity>,
}

impl LaneOutput {
    /// Sends some bytes; false when the client is gone.
    pub(super) async fn send(&self, bytes: Bytes) -> bool {
        self.activity.touch();
        self.link.send(self.number, bytes).await
    }

    pub(super) async fn finish(&self) {
        self.link.finish(self.number).await;
    }

    pub(super) async fn reset(&self) {
        self.link.reset(self.number).await;
    }

    /// Sends all that comes from `from`; false when the client is gone.
    pub(super) async fn fill(&self, mut from: impl AsyncRead + Unpin) -> bool {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if !self.send(Bytes::copy_from_slice(&buffer[..length])).await {
                return false;
            }
        }
        true
    }
}

/// The receiving end of a connection's lanes: where its transport puts what comes.
pub(super) struct Inlets {
    link: Arc<dyn Link>,
    activity: Arc<Activity>,
    open: BTreeMap<u32, Inlet>,
}

struct Inlet {
    bytes: DuplexStream,
    reader: Weak<()>,
}

impl Inlets {
    pub(super) fn new(link: Arc<dyn Link>) -> Self {
        Self { link, activity: Arc::default(), open: BTreeMap::new() }
    }

    pub(super) fn activity(&self) -> Arc<Activity> {
        self.activity.clone()
    }

    /// Opens a lane.
    pub(super) fn open(&mut self, number: u32) -> Lane {
        self.activity.touch();
        // Lanes that were reset have no end that would come from the client.
        self.open.retain(|_, inlet| inlet.reader.strong_count() > 0);
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        let reader = Arc::new(());
        self.open.insert(number, Inlet { bytes: ours, reader: Arc::downgrade(&reader) });
        Lane {
            input: LaneInput { number, link: self.link.clone(), bytes: theirs, _reader: reader },
            output: LaneOutput { number, link: self.link.clone(), activity: self.activity.clone() },
        }
    }

    /// Hands bytes to a lane. Waits while too many wait to be used, and holds up the other lanes of the connection meanwhile.
    /// What nobody wants (any more) is dropped.
    pub(super) async fn deliver(&mut self, number: u32, bytes: &[u8]) {
        self.activity.touch();
        if let Some(inlet) = self.open.get_mut(&number) {
            if inlet.bytes.write_all(bytes).await.is_ok() {
                // It counts as used when it was read.
                return;
            }
            self.open.remove(&number);
        }
        self.link.used(number, bytes.len()).await;
    }

    /// No more comes on a lane.
    pub(super) fn end(&mut self, number: u32) {
        self.open.remove(&number);
    }
}
