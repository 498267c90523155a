//! Commands in containers and attaching to them: the runtime answers with a URL on this node, where it speaks Kubernetes' remote command
//! protocol, version 4. It is spoken over SPDY/3.1 here, which every CRI runtime has: over WebSocket that version can't say that the
//! input has ended.
//!
//! Runtimes take whatever comes and send as much as the connection takes, without windows: so does this side. What nobody reads
//! waits in the connection, with all that follows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_cri::v1::{AttachRequest, ExecRequest};
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::codec::{FramedRead, FramedWrite};
use yunfan_runtime::{ContainerId, ContainerState, ExecConfig, ExecSession, Resizer, Result, RuntimeError};
use yunfan_spdy::{Frame, FrameDecoder, FrameEncoder, GOAWAY_OK, Headers};

use crate::api::call;
use crate::container::wait_exited;
use crate::runtime::Inner;

/// The protocol: the end of a command comes as a `Status` object.
const PROTOCOL: &str = "v4.channel.k8s.io";
/// Bytes of each output that may wait for whoever reads them.
const BUFFER: usize = 256 * 1024;
/// Bytes of input that are sent at once.
const CHUNK: usize = 32 * 1024;
/// Frames and sizes of the terminal that wait to be sent.
const WAITING: usize = 16;
/// How long the runtime may take to take a connection.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long after its output a container's end may be known.
const END_BEHIND_OUTPUT: Duration = Duration::from_secs(3);
/// Most bytes of a refusal, or of a command's end, that are read.
const LONGEST: usize = 64 * 1024;

/// Which streams there are.
#[derive(Clone, Copy)]
struct Wanted {
    stdin: bool,
    tty: bool,
}

/// As [`yunfan_runtime::Runtime::exec`]. The runtime does not end a command whose client leaves: it ends its input.
pub(crate) async fn exec(inner: &Arc<Inner>, id: &ContainerId, config: ExecConfig) -> Result<ExecSession> {
    let request = ExecRequest {
        container_id: inner.running(id).await?,
        cmd: config.command,
        tty: config.tty,
        stdin: config.stdin,
        stdout: true,
        stderr: !config.tty,
    };
    let answer = call("exec", inner.api.runtime.clone().exec(request)).await?;
    let (mut session, end) =
        open(&answer.url, Wanted { stdin: config.stdin, tty: config.tty }).await.map_err(failed("exec"))?;
    let (of, held) = (id.to_string(), std::mem::replace(&mut session.exit, Box::pin(std::future::pending())));
    session.exit = Box::pin(async move {
        // What carries the streams goes with this.
        let _held = held;
        let end = end.await.map_err(|_| failed("exec")("the connection broke".to_owned()))?;
        code_of(&end).map_err(|reason| RuntimeError::Start { container: of, reason })
    });
    Ok(session)
}

/// As [`yunfan_runtime::Runtime::attach`].
pub(crate) async fn attach(inner: &Arc<Inner>, id: &ContainerId, input: bool) -> Result<ExecSession> {
    let pod = inner.pod(&id.pod_uid).await?;
    let status = pod.container(id).ok_or_else(|| RuntimeError::ContainerNotFound(id.to_string()))?;
    let run = pod.runs.get(id).filter(|_| status.state == ContainerState::Running);
    let run = run.ok_or_else(|| RuntimeError::NotRunning(id.to_string()))?;
    let wanted = Wanted { stdin: input && run.stdin, tty: run.tty };
    let request = AttachRequest {
        container_id: run.name.clone(),
        tty: wanted.tty,
        stdin: wanted.stdin,
        stdout: true,
        stderr: !wanted.tty,
    };
    let answer = call("attach", inner.api.runtime.clone().attach(request)).await?;
    let (mut session, end) = open(&answer.url, wanted).await.map_err(failed("attach"))?;
    let (inner, id) = (Arc::clone(inner), id.clone());
    let held = std::mem::replace(&mut session.exit, Box::pin(std::future::pending()));
    session.exit = Box::pin(async move {
        let _held = held;
        // Behind all output, or with the connection.
        if end.await.is_err() && inner.running(&id).await.is_ok() {
            return Err(failed("attach")("the connection broke".to_owned()));
        }
        let over = wait_exited(&inner, &id);
        let over = match wanted.stdin {
            false => over.await,
            // The runtime lets a client go whose input has ended, too, and the container goes on.
            true => match tokio::time::timeout(END_BEHIND_OUTPUT, over).await {
                Ok(over) => over,
                Err(_) => return Ok(0),
            },
        };
        let ended = over.and_then(|status| status.exit_code);
        ended.ok_or_else(|| RuntimeError::ContainerNotFound(id.to_string()))
    });
    Ok(session)
}

fn failed(action: &'static str) -> impl FnOnce(String) -> RuntimeError {
    move |reason| RuntimeError::Service { action, reason }
}

/// Opens the streams behind a URL. The session's `exit` never comes, but holds what carries its streams; how the command ended comes
/// apart from it.
async fn open(
    url: &str,
    wanted: Wanted,
) -> std::result::Result<(ExecSession, oneshot::Receiver<Vec<u8>>), String> {
    let connected = tokio::time::timeout(PATIENCE, connect(url)).await;
    let (connection, mut tasks) = connected.map_err(|_| format!("{url} does not answer"))??;
    let (reader, writer) = tokio::io::split(TokioIo::new(connection));
    let encoder = FrameEncoder::new().map_err(|error| error.to_string())?;
    let (frames, mut waiting) = mpsc::channel::<Frame>(WAITING);
    let mut writer = FramedWrite::new(writer, encoder);
    tasks.spawn(async move {
        while let Some(frame) = waiting.recv().await {
            if writer.send(frame).await.is_err() {
                break;
            }
        }
        let _ = writer.send(Frame::GoAway { last: 0, status: GOAWAY_OK }).await;
    });
    let mut streams = Streams { frames: frames.clone(), last: 0 };
    let error = streams.open("error").await;
    let stdin = if wanted.stdin { Some(streams.open("stdin").await) } else { None };
    let stdout = streams.open("stdout").await;
    let stderr = if wanted.tty { None } else { Some(streams.open("stderr").await) };
    let resize = if wanted.tty { Some(streams.open("resize").await) } else { None };

    let (said, end) = oneshot::channel();
    let mut outputs = Outputs { error, end: Vec::new(), said: Some(said), pipes: BTreeMap::new() };
    let (stdout, stderr) = (outputs.pipe(stdout), stderr.map(|stream| outputs.pipe(stream)));
    tasks.spawn(outputs.run(FramedRead::new(reader, FrameDecoder::new()), frames.clone()));
    let stdin = stdin.map(|stream| {
        let (ours, theirs) = tokio::io::duplex(CHUNK);
        tasks.spawn(send_input(stream, theirs, frames.clone()));
        Box::pin(ours) as yunfan_runtime::ExecWriter
    });
    let resize = resize.map(|stream| resizer(stream, frames));
    let exit = Box::pin(async move {
        let _tasks = tasks;
        std::future::pending().await
    });
    let stdout = Box::pin(stdout);
    let stderr = stderr.map(|stderr| Box::pin(stderr) as yunfan_runtime::ExecReader);
    Ok((ExecSession { stdin, stdout, stderr, resize, exit }, end))
}

/// Asks for the switch to SPDY.
async fn connect(url: &str) -> std::result::Result<(Upgraded, JoinSet<()>), String> {
    let failed = |error: &dyn std::fmt::Display| format!("{url}: {error}");
    let uri: http::Uri = url.parse().map_err(|error| failed(&error))?;
    if uri.scheme_str() != Some("http") {
        return Err(format!(
            "{url}: the runtime's streaming server must be reached by plain HTTP on this node"
        ));
    }
    let authority = uri.authority().ok_or_else(|| failed(&"it names no host"))?.clone();
    let port = authority.port_u16().unwrap_or(80);
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let stream = tokio::net::TcpStream::connect((host, port)).await.map_err(|error| failed(&error))?;
    let _ = stream.set_nodelay(true);
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(&error))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::post(path)
        .header(header::HOST, authority.as_str())
        .header(header::CONNECTION, HeaderValue::from_static("Upgrade"))
        .header(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"))
        .header("x-stream-protocol-version", HeaderValue::from_static(PROTOCOL))
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed(&error))?;
    let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(failed(&refusal(answer).await));
    }
    let upgraded = hyper::upgrade::on(answer).await.map_err(|error| failed(&error))?;
    Ok((upgraded, tasks))
}

async fn refusal(answer: Response<Incoming>) -> String {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LONGEST).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    format!("{status}: {}", String::from_utf8_lossy(&body).trim())
}

/// Opens streams, in the order in which the runtime wants them.
struct Streams {
    frames: mpsc::Sender<Frame>,
    last: u32,
}

impl Streams {
    /// Opens one and returns its number, which is odd on a client's side.
    async fn open(&mut self, kind: &str) -> u32 {
        let stream = if self.last == 0 { 1 } else { self.last + 2 };
        self.last = stream;
        let headers = Headers::new([("streamtype", kind)]);
        // When nobody sends it the connection is broken, which its reader tells.
        let _ =
            self.frames.send(Frame::SynStream { stream, fin: false, unidirectional: false, headers }).await;
        stream
    }
}

/// Takes what comes to whoever reads it.
struct Outputs {
    /// The stream that says how it ended.
    error: u32,
    end: Vec<u8>,
    said: Option<oneshot::Sender<Vec<u8>>>,
    pipes: BTreeMap<u32, DuplexStream>,
}

impl Outputs {
    fn pipe(&mut self, stream: u32) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(BUFFER);
        self.pipes.insert(stream, ours);
        theirs
    }

    async fn run(
        mut self,
        mut frames: FramedRead<ReadHalf<TokioIo<Upgraded>>, FrameDecoder>,
        answers: mpsc::Sender<Frame>,
    ) {
        while let Some(Ok(frame)) = frames.next().await {
            match frame {
                Frame::Data { stream, fin, bytes } => self.data(stream, fin, &bytes).await,
                Frame::Reset { stream, .. } => self.data(stream, true, &[]).await,
                // Odd numbers are ours; an even one asks for a sign of life.
                Frame::Ping(id) if id % 2 == 0 => drop(answers.send(Frame::Ping(id)).await),
                _ => {}
            }
        }
        // A connection that broke before it said how the command ended says nothing: that is told by dropping `said`.
    }

    async fn data(&mut self, stream: u32, fin: bool, bytes: &[u8]) {
        if stream == self.error {
            let room = LONGEST - self.end.len();
            self.end.extend_from_slice(&bytes[..bytes.len().min(room)]);
            // It is one message; some runtimes end the connection behind it and not the stream.
            if (fin || !bytes.is_empty())
                && let Some(said) = self.said.take()
            {
                let _ = said.send(std::mem::take(&mut self.end));
            }
            return;
        }
        let Some(pipe) = self.pipes.get_mut(&stream) else { return };
        // One that nobody reads any more takes nothing, and holds nothing up.
        let taken = pipe.write_all(bytes).await;
        if fin || taken.is_err() {
            self.pipes.remove(&stream);
        }
    }
}

/// Sends what is written to the session's input, and its end.
async fn send_input(stream: u32, mut from: DuplexStream, frames: mpsc::Sender<Frame>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        let bytes = Bytes::copy_from_slice(&buffer[..read]);
        if frames.send(Frame::Data { stream, fin: read == 0, bytes }).await.is_err() || read == 0 {
            return;
        }
    }
}

fn resizer(stream: u32, frames: mpsc::Sender<Frame>) -> Resizer {
    Resizer::new(move |columns, rows| {
        let bytes = Bytes::from(format!("{{\"Width\":{columns},\"Height\":{rows}}}\n"));
        frames.try_send(Frame::Data { stream, fin: false, bytes }).map_err(std::io::Error::other)
    })
}

#[derive(Debug, Deserialize)]
struct Status {
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Details,
}

#[derive(Debug, Default, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<Cause>,
}

#[derive(Debug, Deserialize)]
struct Cause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// A command's exit code, from the runtime's last word about it.
fn code_of(end: &[u8]) -> std::result::Result<i32, String> {
    let text = || String::from_utf8_lossy(end).trim().to_owned();
    let status: Status = serde_json::from_slice(end).map_err(|_| text())?;
    if status.status == "Success" {
        return Ok(0);
    }
    let code = status.details.causes.iter().find(|cause| cause.reason == "ExitCode");
    match code.and_then(|cause| cause.message.parse().ok()) {
        Some(code) if status.reason == "NonZeroExitCode" => Ok(code),
        _ => Err(status.message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_command_ended() {
        assert_eq!(code_of(br#"{"metadata":{},"status":"Success"}"#), Ok(0));
        let failed =
            br#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code",
            "reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"5"}]}}"#;
        assert_eq!(code_of(failed), Ok(5));
        let broken =
            br#"{"status":"Failure","message":"no such program","reason":"InternalError","details":{}}"#;
        assert_eq!(code_of(broken), Err("no such program".to_owned()));
        assert_eq!(code_of(b"gone\n"), Err("gone".to_owned()));
    }

    #[tokio::test]
    async fn a_url_that_is_not_on_this_node_is_refused() {
        let of = |url: &'static str| async move { connect(url).await.map(drop).unwrap_err() };
        assert!(of("https://127.0.0.1:1/exec/x").await.contains("plain HTTP"));
        assert!(of("/exec/x").await.contains("plain HTTP"));
    }
}
