//! A client's connection: which streams are open, and what is done with each frame that comes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt;
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::codec::FramedRead;
use yunfan_runtime::Resizer;

use super::super::exec::Sizes;
use super::SpdyError;
use super::frame::{self, Frame, FrameDecoder};
use super::window::{CONNECTION, Used, Windows};

/// What a stream carries: its header `streamtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To the client: how it ended.
    Error,
    Stdin,
    Stdout,
    Stderr,
    /// From the client: the terminal's sizes.
    Resize,
}

impl Kind {
    fn of(name: &str) -> Option<Self> {
        match name {
            "error" => Some(Self::Error),
            "stdin" => Some(Self::Stdin),
            "stdout" => Some(Self::Stdout),
            "stderr" => Some(Self::Stderr),
            "resize" => Some(Self::Resize),
            _ => None,
        }
    }
}

/// The way to the client, for all who have something to send.
pub(super) struct Peer {
    frames: mpsc::Sender<Frame>,
    windows: Windows,
    used: Mutex<Used>,
}

impl Peer {
    pub(super) fn new(frames: mpsc::Sender<Frame>) -> Self {
        Self { frames, windows: Windows::new(), used: Mutex::default() }
    }

    /// Sends a frame; false when the client is gone.
    pub(super) async fn send(&self, frame: Frame) -> bool {
        self.frames.send(frame).await.is_ok()
    }

    /// Sends bytes on a stream, as fast as its window allows; false when the client is gone. What is meant for a stream that
    /// the client closed is dropped.
    pub(super) async fn data(&self, stream: u32, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let Some(length) = self.windows.take(stream, bytes.len()).await else { return true };
            let piece = bytes.split_to(length);
            if !self.send(Frame::Data { stream, fin: false, bytes: piece }).await {
                return false;
            }
        }
        true
    }

    /// Says that no more comes on a stream.
    pub(super) async fn finish(&self, stream: u32) -> bool {
        self.send(Frame::Data { stream, fin: true, bytes: Bytes::new() }).await
    }

    /// Lets the client send more in place of bytes that were used.
    pub(super) async fn used(&self, stream: u32, bytes: usize) {
        for window in [stream, CONNECTION] {
            let more = self.used.lock().unwrap_or_else(PoisonError::into_inner).add(window, bytes);
            if let Some(delta) = more {
                self.send(Frame::WindowUpdate { stream: window, delta }).await;
            }
        }
    }
}

/// The receiving side.
pub(super) struct Connection<R> {
    frames: FramedRead<R, FrameDecoder>,
    peer: Arc<Peer>,
    /// Streams that are still to come.
    expected: Vec<Kind>,
    /// Open streams; no more than were expected.
    streams: BTreeMap<u32, Kind>,
    /// The newest stream's number: they only grow.
    last: u32,
    stdin: Option<DuplexStream>,
    sizes: Sizes,
    resize: Option<Resizer>,
}

impl<R: AsyncRead + Unpin> Connection<R> {
    /// Input goes to `stdin`. As it holds a whole window, a client that keeps to its window is never kept waiting here.
    pub(super) fn new(reader: R, peer: Arc<Peer>, expected: Vec<Kind>, stdin: DuplexStream) -> Self {
        Self {
            frames: FramedRead::new(reader, FrameDecoder::new()),
            peer,
            expected,
            streams: BTreeMap::new(),
            last: 0,
            stdin: Some(stdin),
            sizes: Sizes::default(),
            resize: None,
        }
    }

    /// The number of an open stream.
    pub(super) fn stream(&self, kind: Kind) -> Option<u32> {
        self.streams.iter().find(|(_, other)| **other == kind).map(|(stream, _)| *stream)
    }

    /// The newest stream that came.
    pub(super) fn last(&self) -> u32 {
        self.last
    }

    /// Waits until all expected streams are open.
    pub(super) async fn opened(&mut self) -> Result<(), SpdyError> {
        while !self.expected.is_empty() {
            match self.frames.next().await {
                None | Some(Ok(Frame::GoAway { .. })) => return Err(SpdyError::Left),
                Some(frame) => self.take(frame?).await?,
            }
        }
        Ok(())
    }

    /// Takes what the client sends until it leaves.
    pub(super) async fn run(&mut self, resize: Option<Resizer>) -> Result<(), SpdyError> {
        self.resize = resize;
        self.sizes.apply(self.resize.as_ref(), &[]);
        while let Some(frame) = self.frames.next().await {
            self.take(frame?).await?;
        }
        Ok(())
    }

    async fn take(&mut self, frame: Frame) -> Result<(), SpdyError> {
        match frame {
            Frame::SynStream { stream, fin, unidirectional, headers } => {
                let kind = headers.get("streamtype").and_then(Kind::of);
                self.open(stream, kind, unidirectional).await?;
                self.ended(stream, fin);
            }
            Frame::Data { stream, fin, bytes } => {
                self.data(stream, &bytes).await?;
                self.ended(stream, fin);
            }
            Frame::Headers { stream, fin } => self.ended(stream, fin),
            Frame::Reset { stream, .. } => {
                self.ended(stream, true);
                self.peer.windows.close(stream);
                self.streams.remove(&stream);
            }
            Frame::Settings { initial_window: Some(size) } => self.peer.windows.set_initial(size)?,
            Frame::WindowUpdate { stream, delta } => self.peer.windows.grant(stream, delta)?,
            // Odd numbers are the client's own; it would be an answer otherwise.
            Frame::Ping(id) if id % 2 == 1 => {
                self.peer.send(Frame::Ping(id)).await;
            }
            Frame::SynReply { .. } => {
                return Err(SpdyError::Malformed("a reply came to a stream that nobody opened"));
            }
            // "No more streams": those that are open go on.
            Frame::Settings { initial_window: None } | Frame::Ping(_) | Frame::GoAway { .. } => {}
        }
        Ok(())
    }

    async fn open(&mut self, stream: u32, kind: Option<Kind>, unidirectional: bool) -> Result<(), SpdyError> {
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(SpdyError::Malformed("a stream's number is even or not larger than the last one"));
        }
        self.last = stream;
        let place = self.expected.iter().position(|expected| Some(*expected) == kind);
        let Some(place) = place else {
            // Unknown, not in the query, or there already.
            self.peer.send(Frame::Reset { stream, status: frame::REFUSED_STREAM }).await;
            return Ok(());
        };
        if unidirectional {
            self.peer.send(Frame::Reset { stream, status: frame::PROTOCOL_ERROR }).await;
            return Ok(());
        }
        self.streams.insert(stream, self.expected.swap_remove(place));
        self.peer.windows.open(stream);
        self.peer.send(Frame::SynReply { stream }).await;
        Ok(())
    }

    async fn data(&mut self, stream: u32, bytes: &[u8]) -> Result<(), SpdyError> {
        match self.streams.get(&stream) {
            Some(Kind::Stdin) => {
                if let Some(stdin) = &mut self.stdin {
                    if stdin.write_all(bytes).await.is_ok() {
                        // It counts as used when the command has taken it.
                        return Ok(());
                    }
                    self.stdin = None;
                }
            }
            Some(Kind::Resize) => self.sizes.apply(self.resize.as_ref(), bytes),
            Some(_) => {}
            None if stream == 0 || stream > self.last => {
                self.peer.send(Frame::Reset { stream: stream.max(1), status: frame::INVALID_STREAM }).await;
                return Err(SpdyError::Malformed("data came on a stream that was never opened"));
            }
            // Of a stream that was reset: it was on its way.
            None => {}
        }
        self.peer.used(stream, bytes.len()).await;
        Ok(())
    }

    /// No more comes on a stream.
    fn ended(&mut self, stream: u32, fin: bool) {
        if fin && self.streams.get(&stream) == Some(&Kind::Stdin) {
            self.stdin = None;
        }
    }
}
