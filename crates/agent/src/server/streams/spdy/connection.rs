//! A client's connection: which streams are open, and what is done with each frame that comes.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, FramedWrite};
use yunfan_spdy::{self as frame, Frame, FrameDecoder, FrameEncoder, Headers};

use super::super::lane::{Inlets, Lane, Link};
use super::super::{LEAVING, PING, StreamError, WAITING, Wire, both};
use super::window::{CONNECTION, Used, Windows};

/// Streams of one connection that are open at one time.
const MAX_STREAMS: usize = 512;

/// A stream that the client opened.
pub(in super::super) struct Opened {
    pub(in super::super) number: u32,
    pub(in super::super) headers: Headers,
    pub(in super::super) lane: Lane,
}

/// Says whether a stream with such headers is wanted.
pub(in super::super) type Gate = Box<dyn FnMut(&Headers) -> bool + Send>;

/// A connection, and the streams that will be opened on it.
///
/// # Errors
/// When zlib fails.
pub(in super::super) fn open<S>(io: S, gate: Gate) -> Result<(Wire, mpsc::Receiver<Opened>), StreamError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(io);
    let (sender, frames) = mpsc::channel(WAITING);
    let peer = Arc::new(Peer {
        frames: sender,
        windows: Windows::new(),
        used: Mutex::default(),
        streams: Mutex::default(),
        last: AtomicU32::new(0),
    });
    let inlets = Inlets::new(peer.clone());
    let activity = inlets.activity();
    let (opened, receiver) = mpsc::channel(WAITING);
    let frames_in = FramedRead::new(reader, FrameDecoder::new());
    let connection = Connection { frames: frames_in, peer: peer.clone(), gate, opened, inlets };
    let sending = send(FramedWrite::new(writer, FrameEncoder::new()?), frames);
    let driver = Box::pin(both(connection.run(), sending));
    Ok((Wire { link: peer, activity, driver }, receiver))
}

/// Writes frames until the last one, GOAWAY.
async fn send<W: AsyncWrite + Unpin>(
    mut writer: FramedWrite<W, FrameEncoder>,
    mut frames: mpsc::Receiver<Frame>,
) -> Result<(), StreamError> {
    let mut ping = tokio::time::interval(PING);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ping.tick().await;
    // Even numbers are a server's own.
    let mut number = 0_u32;
    loop {
        let frame = tokio::select! {
            frame = frames.recv() => frame,
            _ = ping.tick() => {
                number = number.wrapping_add(2);
                Some(Frame::Ping(number))
            }
        };
        let Some(frame) = frame else { break };
        let last = matches!(frame, Frame::GoAway { .. });
        writer.send(frame).await?;
        if last {
            break;
        }
    }
    Ok(writer.close().await?)
}

/// Which sides of a stream have ended.
#[derive(Clone, Copy, Debug, Default)]
struct Sides {
    ours: bool,
    theirs: bool,
}

/// The way to the client, for all who have something to send.
struct Peer {
    frames: mpsc::Sender<Frame>,
    windows: Windows,
    used: Mutex<Used>,
    /// Open streams.
    streams: Mutex<BTreeMap<u32, Sides>>,
    /// The newest stream's number: they only grow.
    last: AtomicU32,
}

impl Peer {
    /// Sends a frame; false when the client is gone.
    async fn put(&self, frame: Frame) -> bool {
        self.frames.send(frame).await.is_ok()
    }

    fn streams(&self) -> MutexGuard<'_, BTreeMap<u32, Sides>> {
        // Only single changes are made under it.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a side of a stream has ended; forgets it with the second one. False when it was not open.
    fn ended(&self, stream: u32, change: impl FnOnce(&mut Sides)) -> bool {
        let mut streams = self.streams();
        let Some(sides) = streams.get_mut(&stream) else { return false };
        change(sides);
        let over = sides.ours && sides.theirs;
        if over {
            streams.remove(&stream);
        }
        drop(streams);
        if over {
            self.forget(stream);
        }
        true
    }

    fn forget(&self, stream: u32) {
        self.windows.close(stream);
        self.used.lock().unwrap_or_else(PoisonError::into_inner).forget(stream);
    }
}

#[async_trait]
impl Link for Peer {
    /// As fast as the stream's window allows.
    async fn send(&self, lane: u32, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let Some(length) = self.windows.take(lane, bytes.len()).await else { return false };
            let piece = bytes.split_to(length);
            if !self.put(Frame::Data { stream: lane, fin: false, bytes: piece }).await {
                return false;
            }
        }
        true
    }

    async fn finish(&self, lane: u32) {
        if self.ended(lane, |sides| sides.ours = true) {
            self.put(Frame::Data { stream: lane, fin: true, bytes: Bytes::new() }).await;
        }
    }

    async fn reset(&self, lane: u32) {
        if self.ended(lane, |sides| *sides = Sides { ours: true, theirs: true }) {
            self.put(Frame::Reset { stream: lane, status: frame::CANCEL }).await;
        }
    }

    async fn used(&self, lane: u32, bytes: usize) {
        for window in [lane, CONNECTION] {
            if window != CONNECTION && !self.streams().contains_key(&window) {
                continue;
            }
            let more = self.used.lock().unwrap_or_else(PoisonError::into_inner).add(window, bytes);
            if let Some(delta) = more {
                self.put(Frame::WindowUpdate { stream: window, delta }).await;
            }
        }
    }

    async fn leave(&self, well: bool) {
        let status = if well { frame::GOAWAY_OK } else { frame::GOAWAY_PROTOCOL_ERROR };
        self.put(Frame::GoAway { last: self.last.load(Ordering::Relaxed), status }).await;
    }
}

/// The receiving side.
struct Connection<R> {
    frames: FramedRead<R, FrameDecoder>,
    peer: Arc<Peer>,
    gate: Gate,
    opened: mpsc::Sender<Opened>,
    inlets: Inlets,
}

impl<R: AsyncRead + Unpin> Connection<R> {
    /// Takes what the client sends until it leaves.
    async fn run(mut self) -> Result<(), StreamError> {
        let outcome = self.receive().await;
        if outcome.is_err() {
            // It is told, if it still listens; the sending side ends the connection then.
            self.peer.leave(false).await;
            let _ = tokio::time::timeout(LEAVING, self.peer.frames.closed()).await;
        }
        outcome
    }

    async fn receive(&mut self) -> Result<(), StreamError> {
        while let Some(frame) = self.frames.next().await {
            self.take(frame?).await?;
        }
        Ok(())
    }

    async fn take(&mut self, frame: Frame) -> Result<(), StreamError> {
        match frame {
            Frame::SynStream { stream, fin, unidirectional, headers } => {
                self.open(stream, headers, unidirectional).await?;
                self.ended(stream, fin);
            }
            Frame::Data { stream, fin, bytes } => {
                self.data(stream, &bytes).await?;
                self.ended(stream, fin);
            }
            Frame::Headers { stream, fin } => self.ended(stream, fin),
            Frame::Reset { stream, .. } => {
                self.inlets.end(stream);
                self.peer.ended(stream, |sides| *sides = Sides { ours: true, theirs: true });
            }
            Frame::Settings { initial_window: Some(size) } => self.peer.windows.set_initial(size)?,
            Frame::WindowUpdate { stream, delta } => self.peer.windows.grant(stream, delta)?,
            // Odd numbers are the client's own; an even one answers ours.
            Frame::Ping(id) if id % 2 == 1 => {
                self.peer.put(Frame::Ping(id)).await;
            }
            Frame::SynReply { .. } => {
                return Err(StreamError::Malformed("a reply came to a stream that nobody opened"));
            }
            // "No more streams": those that are open go on.
            Frame::Settings { initial_window: None } | Frame::Ping(_) | Frame::GoAway { .. } => {}
        }
        Ok(())
    }

    async fn open(&mut self, stream: u32, headers: Headers, unidirectional: bool) -> Result<(), StreamError> {
        if stream.is_multiple_of(2) || stream <= self.peer.last.load(Ordering::Relaxed) {
            return Err(StreamError::Malformed("a stream's number is even or not larger than the last one"));
        }
        self.peer.last.store(stream, Ordering::Relaxed);
        let status = if unidirectional {
            Some(frame::PROTOCOL_ERROR)
        } else if self.peer.streams().len() >= MAX_STREAMS || !(self.gate)(&headers) {
            Some(frame::REFUSED_STREAM)
        } else {
            None
        };
        if let Some(status) = status {
            self.peer.put(Frame::Reset { stream, status }).await;
            return Ok(());
        }
        self.peer.streams().insert(stream, Sides::default());
        self.peer.windows.open(stream);
        self.peer.put(Frame::SynReply { stream }).await;
        let lane = self.inlets.open(stream);
        // When the service is over, nobody takes it; then the connection is about to end.
        let _ = self.opened.send(Opened { number: stream, headers, lane }).await;
        Ok(())
    }

    async fn data(&mut self, stream: u32, bytes: &[u8]) -> Result<(), StreamError> {
        if stream == 0 || stream > self.peer.last.load(Ordering::Relaxed) {
            self.peer.put(Frame::Reset { stream: stream.max(1), status: frame::INVALID_STREAM }).await;
            return Err(StreamError::Malformed("data came on a stream that was never opened"));
        }
        // Of a stream that was reset it is dropped: it was on its way.
        self.inlets.deliver(stream, bytes).await;
        Ok(())
    }

    /// No more comes on a stream.
    fn ended(&mut self, stream: u32, fin: bool) {
        if fin {
            self.inlets.end(stream);
            self.peer.ended(stream, |sides| sides.theirs = true);
        }
    }
}
