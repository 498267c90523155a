//! A session over the streams of a connection: Kubernetes' `remotecommand` protocols, version 1 to 4.
//!
//! The client opens a stream for each thing that its query names, and one for errors. Then the command is started; its verdict
//! is the last that it gets to see.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::SinkExt;
use http::{HeaderMap, HeaderName, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::codec::FramedWrite;
use yunfan_runtime::{ContainerId, ExecSession, ExecWriter};

use super::super::exec::{self, Outlet, Source, Wanted, fault, verdict};
use super::super::{Api, refuse};
use super::SpdyError;
use super::connection::{Connection, Kind, Peer};
use super::frame::{Frame, FrameEncoder, GOAWAY_OK, GOAWAY_PROTOCOL_ERROR};
use super::window;

/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);
/// How long a client may take to go when it was told that all is over.
const LEAVING: Duration = Duration::from_secs(10);
/// Frames that wait to be sent.
const WAITING: usize = 16;
/// Bytes of input that are passed on at once.
const CHUNK: usize = 16 * 1024;
/// Repeated, or a list: what the client speaks; in the answer: what is agreed on.
const VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// In a refusal: what the server speaks.
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(in super::super) enum Protocol {
    /// Errors are plain text.
    V1,
    /// Like version 1, but for clients' behaviour.
    V2,
    /// Has terminal sizes.
    V3,
    /// Errors are a Status in JSON, with an exit code.
    V4,
}

impl Protocol {
    const ALL: [Self; 4] = [Self::V4, Self::V3, Self::V2, Self::V1];

    fn name(self) -> &'static str {
        match self {
            Self::V1 => "channel.k8s.io",
            Self::V2 => "v2.channel.k8s.io",
            Self::V3 => "v3.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
        }
    }

    /// Picks what the client likes best of what both know.
    ///
    /// # Errors
    /// The answer for a client that has nothing in common with us, 403 as from Kubernetes.
    pub(in super::super) fn agree(headers: &HeaderMap) -> Result<Self, Box<Response>> {
        let values = headers.get_all(VERSION).into_iter().filter_map(|value| value.to_str().ok());
        let offered: Vec<&str> = values.flat_map(|list| list.split(',')).map(str::trim).collect();
        let known = |name: &&str| Self::ALL.into_iter().find(|protocol| protocol.name() == *name);
        if let Some(protocol) = offered.iter().find_map(known) {
            return Ok(protocol);
        }
        let names = Self::ALL.map(Self::name).join(", ");
        let message = format!("unable to upgrade: the client speaks {offered:?}, this server {names}");
        let refusal = refuse(StatusCode::FORBIDDEN, message);
        Err(Box::new(([(ACCEPTED, names)], refusal).into_response()))
    }

    /// What goes to the error stream at the end, if anything does.
    fn verdict(self, status: &Value) -> Option<Bytes> {
        match self {
            Self::V4 => Some(status.to_string().into()),
            _ if status["status"] == "Success" => None,
            _ => Some(status["message"].as_str().unwrap_or("the command failed").to_owned().into()),
        }
    }
}

/// Answers with the switch of protocols; behind it, the command is started when the client has opened its streams.
pub(in super::super) fn upgrade(
    api: &Api,
    id: ContainerId,
    wanted: Wanted,
    protocol: Protocol,
    request: Request,
) -> Response {
    if !(wanted.config.stdin || wanted.stdout || wanted.stderr) {
        let message = "you must specify at least 1 of stdin, stdout, stderr";
        return refuse(StatusCode::BAD_REQUEST, message.to_owned());
    }
    let runtime = api.runtime.clone();
    tokio::spawn(async move {
        let upgraded = match hyper::upgrade::on(request).await {
            Ok(upgraded) => TokioIo::new(upgraded),
            Err(error) => {
                tracing::debug!(%error, "an exec stream was not taken up");
                return;
            }
        };
        let expected = expected(&wanted, protocol);
        let start = async move { runtime.exec(&id, wanted.config).await };
        if let Err(error) = serve(upgraded, protocol, expected, start).await {
            tracing::debug!(%error, "an exec stream over SPDY ended");
        }
    });
    let headers =
        [(header::CONNECTION, "Upgrade"), (header::UPGRADE, "SPDY/3.1"), (VERSION, protocol.name())];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}

/// The streams that the client will open.
fn expected(wanted: &Wanted, protocol: Protocol) -> Vec<Kind> {
    let tty = wanted.config.tty;
    [
        (Kind::Error, true),
        (Kind::Stdin, wanted.config.stdin),
        (Kind::Stdout, wanted.stdout),
        // A terminal has but one output.
        (Kind::Stderr, wanted.stderr && !tty),
        (Kind::Resize, tty && protocol >= Protocol::V3),
    ]
    .into_iter()
    .filter_map(|(kind, comes)| comes.then_some(kind))
    .collect()
}

/// Carries one session from the first stream to the client's leave.
async fn serve<S>(
    io: S,
    protocol: Protocol,
    expected: Vec<Kind>,
    start: impl Future<Output = yunfan_runtime::Result<ExecSession>>,
) -> Result<(), SpdyError>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(io);
    let (sender, receiver) = mpsc::channel(WAITING);
    let mut sending = tokio::spawn(send(FramedWrite::new(writer, FrameEncoder::new()?), receiver));
    let peer = Arc::new(Peer::new(sender));
    let (stdin, taken) = tokio::io::duplex(window::INITIAL);
    let mut connection = Connection::new(reader, peer.clone(), expected, stdin);
    let outcome = session(&mut connection, &peer, protocol, taken, start).await;
    let status = if outcome.is_ok() { GOAWAY_OK } else { GOAWAY_PROTOCOL_ERROR };
    let farewell = async {
        peer.send(Frame::GoAway { last: connection.last(), status }).await;
        // What the client still sends must be read, or the kernel would throw away what is on its way to it.
        let _ = connection.run(None).await;
        let _ = (&mut sending).await;
    };
    let _ = tokio::time::timeout(LEAVING, farewell).await;
    sending.abort();
    outcome
}

/// Opens the streams, runs the command, says how it ended.
async fn session<R: AsyncRead + Unpin>(
    connection: &mut Connection<R>,
    peer: &Arc<Peer>,
    protocol: Protocol,
    taken: DuplexStream,
    start: impl Future<Output = yunfan_runtime::Result<ExecSession>>,
) -> Result<(), SpdyError> {
    let opened = tokio::time::timeout(OPENING, connection.opened()).await;
    let opened = opened.unwrap_or(Err(SpdyError::Late(OPENING)));
    let streams = Streams::of(connection, peer);
    if let Err(error) = opened {
        if !matches!(error, SpdyError::Left | SpdyError::Io(_)) {
            streams.end(protocol, &fault(&error)).await;
        }
        return Err(error);
    }
    let session = match start.await {
        Ok(session) => session,
        Err(error) => {
            streams.end(protocol, &fault(&error)).await;
            return Ok(());
        }
    };
    let (input, running) = exec::split(session);
    let feeding = tokio::spawn(feed(taken, input.stdin, peer.clone(), streams.stdin));
    let mut fault = None;
    let told = {
        let mut receiving = std::pin::pin!(async { fault = connection.run(input.resize).await.err() });
        match running.carry(&streams, &mut receiving).await {
            None => false,
            // While the last words wait for their turn, the client may have to say something.
            Some(result) => {
                let status = verdict(result);
                tokio::select! {
                    biased;
                    () = streams.end(protocol, &status) => true,
                    () = &mut receiving => false,
                }
            }
        }
    };
    feeding.abort();
    match fault {
        Some(error) if !told => Err(error),
        _ => Ok(()),
    }
}

/// Writes frames until the last one, GOAWAY.
async fn send<W: AsyncWrite + Unpin>(
    mut writer: FramedWrite<W, FrameEncoder>,
    mut frames: mpsc::Receiver<Frame>,
) {
    while let Some(frame) = frames.recv().await {
        let last = matches!(frame, Frame::GoAway { .. });
        if let Err(error) = writer.send(frame).await {
            tracing::debug!(%error, "an exec stream cannot be written");
            return;
        }
        if last {
            break;
        }
    }
    let _ = writer.close().await;
}

/// Passes input on to the command. What the command does not want is dropped: its client must not be kept waiting.
async fn feed(mut from: DuplexStream, mut to: Option<ExecWriter>, peer: Arc<Peer>, stream: Option<u32>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if let Some(writer) = &mut to
            && writer.write_all(&buffer[..length]).await.is_err()
        {
            to = None;
        }
        if let Some(stream) = stream {
            peer.used(stream, length).await;
        }
    }
    if let Some(mut writer) = to {
        let _ = writer.shutdown().await;
    }
}

/// The streams of a session that go to the client.
struct Streams {
    peer: Arc<Peer>,
    error: Option<u32>,
    stdin: Option<u32>,
    stdout: Option<u32>,
    stderr: Option<u32>,
    resize: Option<u32>,
}

impl Streams {
    fn of<R: AsyncRead + Unpin>(connection: &Connection<R>, peer: &Arc<Peer>) -> Self {
        Self {
            peer: peer.clone(),
            error: connection.stream(Kind::Error),
            stdin: connection.stream(Kind::Stdin),
            stdout: connection.stream(Kind::Stdout),
            stderr: connection.stream(Kind::Stderr),
            resize: connection.stream(Kind::Resize),
        }
    }

    fn stream(&self, source: Source) -> Option<u32> {
        match source {
            Source::Stdout => self.stdout,
            Source::Stderr => self.stderr,
        }
    }

    /// Says how the session ended, and closes what is still open.
    async fn end(&self, protocol: Protocol, status: &Value) {
        if let Some(error) = self.error {
            if let Some(text) = protocol.verdict(status) {
                self.peer.data(error, text).await;
            }
            self.peer.finish(error).await;
        }
        for stream in [self.stdin, self.resize].into_iter().flatten() {
            self.peer.finish(stream).await;
        }
    }
}

impl Outlet for Streams {
    async fn send(&self, source: Source, bytes: Bytes) -> bool {
        match self.stream(source) {
            Some(stream) => self.peer.data(stream, bytes).await,
            None => true,
        }
    }

    async fn finish(&self, source: Source) {
        if let Some(stream) = self.stream(source) {
            self.peer.finish(stream).await;
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
