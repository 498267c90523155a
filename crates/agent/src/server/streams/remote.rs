//! Remote commands, and being attached to a container: Kubernetes' `remotecommand` protocols, version 1 to 5.
//!
//! There is a lane for each thing that the query names, and one for errors. The verdict there is the last that a client gets to
//! see. (Kubernetes `k8s.io/apimachinery/pkg/util/remotecommand`.)

use std::convert::Infallible;
use std::future::Future;

use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use yunfan_runtime::{ExecReader, ExecSession, Resizer};

use super::lane::{Lane, LaneInput, LaneOutput};
use super::spdy::{self, Opened};
use super::{Protocols, StreamError, Transport, websocket};

/// What remote commands can be spoken in.
pub(in super::super) const PROTOCOLS: Protocols = Protocols {
    websocket: &[
        "v5.channel.k8s.io",
        "v4.channel.k8s.io",
        "v4.base64.channel.k8s.io",
        "channel.k8s.io",
        "base64.channel.k8s.io",
        "",
    ],
    spdy: &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"],
};
/// How long a client may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);
/// Most bytes of a terminal size that is not complete yet.
const MAX_SIZE_TEXT: usize = 1024;
/// Bytes of sizes that are read at once.
const SIZES: usize = 1024;

/// What a lane carries: its channel's number, or its stream's header `streamtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Stdin,
    Stdout,
    Stderr,
    /// To the client: how it ended.
    Error,
    /// From the client: the terminal's sizes.
    Resize,
}

impl Kind {
    /// In the order of the channels.
    const ALL: [(Self, &str); 5] = [
        (Self::Stdin, "stdin"),
        (Self::Stdout, "stdout"),
        (Self::Stderr, "stderr"),
        (Self::Error, "error"),
        (Self::Resize, "resize"),
    ];

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(_, known)| *known == name).map(|(kind, _)| kind)
    }
}

/// What the query asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Wanted {
    pub(in super::super) stdin: bool,
    pub(in super::super) stdout: bool,
    pub(in super::super) stderr: bool,
    pub(in super::super) tty: bool,
}

impl Wanted {
    /// The streams that the client of a SPDY protocol will open.
    fn streams(self, protocol: &str) -> Vec<Kind> {
        let sizes = matches!(protocol, "v3.channel.k8s.io" | "v4.channel.k8s.io");
        [
            (Kind::Error, true),
            (Kind::Stdin, self.stdin),
            (Kind::Stdout, self.stdout),
            // A terminal has but one output.
            (Kind::Stderr, self.stderr && !self.tty),
            (Kind::Resize, self.tty && sizes),
        ]
        .into_iter()
        .filter_map(|(kind, comes)| comes.then_some(kind))
        .collect()
    }
}

/// Carries one session: from the first lane, over `start`, to the client's leave.
pub(in super::super) async fn serve<S>(
    io: S,
    transport: Transport,
    wanted: Wanted,
    start: impl Future<Output = yunfan_runtime::Result<ExecSession>>,
) -> Result<(), StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let words = Words::of(transport.protocol());
    match transport {
        Transport::WebSocket(agreed) => {
            let (wire, channels) = websocket::channels(io, Kind::ALL.len() as u8, agreed.coding()).await;
            let mut lanes = Lanes::default();
            for ((kind, _), lane) in Kind::ALL.into_iter().zip(channels) {
                lanes.put(kind, lane);
            }
            wire.run(async {
                session(lanes, words, start).await;
                Ok(())
            })
            .await
        }
        Transport::Spdy(protocol) => {
            let expected = wanted.streams(protocol);
            let count = expected.len();
            let (wire, opened) = spdy::open(io, gate(expected))?;
            wire.run(async {
                let lanes = gather(opened, count, words).await?;
                session(lanes, words, start).await;
                Ok(())
            })
            .await
        }
    }
}

/// Lets each expected stream in once. Others are unknown, not in the query, or there already.
fn gate(mut expected: Vec<Kind>) -> spdy::Gate {
    Box::new(move |headers| {
        let kind = headers.get("streamtype").and_then(Kind::of);
        let place = expected.iter().position(|other| Some(*other) == kind);
        place.map(|place| expected.swap_remove(place)).is_some()
    })
}

/// Waits until all expected streams are open.
async fn gather(
    mut opened: mpsc::Receiver<Opened>,
    count: usize,
    words: Words,
) -> Result<Lanes, StreamError> {
    let mut lanes = Lanes::default();
    let coming = async {
        for _ in 0..count {
            // The end of these is the end of the connection, and of this.
            let Some(Opened { headers, lane, .. }) = opened.recv().await else { return };
            if let Some(kind) = headers.get("streamtype").and_then(Kind::of) {
                lanes.put(kind, lane);
            }
        }
    };
    match tokio::time::timeout(OPENING, coming).await {
        Ok(()) => Ok(lanes),
        Err(_) => {
            let error = StreamError::Late(OPENING);
            lanes.end(words, &fault(&error)).await;
            Err(error)
        }
    }
}

/// The lanes of a session, as far as there are any.
#[derive(Default)]
struct Lanes {
    stdin: Option<LaneInput>,
    stdout: Option<LaneOutput>,
    stderr: Option<LaneOutput>,
    error: Option<LaneOutput>,
    resize: Option<LaneInput>,
    /// The other direction of what comes in, to say its end.
    answers: Vec<LaneOutput>,
}

impl Lanes {
    fn put(&mut self, kind: Kind, lane: Lane) {
        let Lane { input, output } = lane;
        match kind {
            Kind::Stdin => self.stdin = Some(input),
            Kind::Resize => self.resize = Some(input),
            Kind::Stdout => self.stdout = Some(output.clone()),
            Kind::Stderr => self.stderr = Some(output.clone()),
            Kind::Error => self.error = Some(output.clone()),
        }
        if matches!(kind, Kind::Stdin | Kind::Resize) {
            self.answers.push(output);
        }
    }

    /// Says how the session ended, and closes what is still open.
    async fn end(&self, words: Words, status: &Value) {
        if let Some(error) = &self.error {
            if let Some(text) = words.verdict(status) {
                error.send(text.into()).await;
            }
            error.finish().await;
        }
        for answer in &self.answers {
            answer.finish().await;
        }
    }
}

/// In which form a protocol has errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Words {
    /// Since version 4: a Status in JSON, with an exit code.
    Status,
    Plain,
}

impl Words {
    fn of(protocol: &str) -> Self {
        if protocol.starts_with("v4.") || protocol.starts_with("v5.") { Self::Status } else { Self::Plain }
    }

    /// What goes to the error lane at the end, if anything does.
    fn verdict(self, status: &Value) -> Option<String> {
        match self {
            Self::Status => Some(status.to_string()),
            Self::Plain if status["status"] == "Success" => None,
            Self::Plain => Some(status["message"].as_str().unwrap_or("the command failed").to_owned()),
        }
    }
}

/// Starts the command, carries what goes in and comes out, and says how it ended. Dropping it kills the command.
async fn session(
    mut lanes: Lanes,
    words: Words,
    start: impl Future<Output = yunfan_runtime::Result<ExecSession>>,
) {
    let status = match start.await {
        Ok(session) => {
            let (stdin, sizes) = (lanes.stdin.take(), lanes.resize.take());
            verdict(carry(session, &lanes, stdin, sizes).await)
        }
        Err(error) => fault(&error),
    };
    lanes.end(words, &status).await;
}

/// Ends when the command and its output have ended, whether or not there is more input.
async fn carry(
    session: ExecSession,
    lanes: &Lanes,
    input: Option<LaneInput>,
    sizes: Option<LaneInput>,
) -> yunfan_runtime::Result<i32> {
    let ExecSession { stdin, stdout, stderr, resize, exit } = session;
    let coming = async {
        let input = async {
            // What the command does not want is dropped: its client must not be kept waiting.
            if let (Some(input), Some(stdin)) = (input, stdin) {
                input.pour(stdin).await;
            }
        };
        let sizes = async {
            if let (Some(sizes), Some(resize)) = (sizes, resize) {
                follow_sizes(sizes, &resize).await;
            }
        };
        tokio::join!(input, sizes);
        std::future::pending::<Infallible>().await
    };
    let going = async {
        let out = pump(Some(stdout), lanes.stdout.as_ref());
        let (result, (), ()) = tokio::join!(exit, out, pump(stderr, lanes.stderr.as_ref()));
        result
    };
    tokio::select! {
        result = going => result,
        never = coming => match never {},
    }
}

async fn pump(from: Option<ExecReader>, to: Option<&LaneOutput>) {
    match (from, to) {
        (Some(from), Some(to)) => {
            to.fill(from).await;
            to.finish().await;
        }
        // Nobody wants it, but the command must be able to write it.
        (Some(mut from), None) => drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await),
        (None, Some(to)) => to.finish().await,
        (None, None) => {}
    }
}

async fn follow_sizes(mut from: LaneInput, terminal: &Resizer) {
    let mut sizes = Sizes::default();
    let mut buffer = [0; SIZES];
    loop {
        match from.read(&mut buffer).await {
            0 => return,
            length => sizes.read(&buffer[..length]),
        }
        if let Some(size) = sizes.newest.take() {
            // It fails when the command has ended, which is told by other means.
            let _ = terminal.resize(size.width, size.height);
        }
    }
}

/// How a session ended: a Status that says Success, or carries the exit code.
fn verdict(result: yunfan_runtime::Result<i32>) -> Value {
    match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => fault(&error),
    }
}

/// The Status of a session that failed for another reason than its command's exit code.
fn fault(error: &dyn std::error::Error) -> Value {
    json!({
        "metadata": {}, "status": "Failure", "reason": "InternalError", "message": error.to_string(), "code": 500,
    })
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Reads the terminal sizes that a client sends: a run of JSON objects, in pieces of any length.
#[derive(Default)]
pub(super) struct Sizes {
    text: Vec<u8>,
    newest: Option<Size>,
}

impl Sizes {
    fn read(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&self.text).into_iter::<Size>();
        let nonsense = loop {
            match sizes.next() {
                Some(Ok(size)) => self.newest = Some(size),
                Some(Err(error)) => break !error.is_eof(),
                None => break false,
            }
        };
        let used = sizes.byte_offset();
        self.text.drain(..used);
        if nonsense || self.text.len() > MAX_SIZE_TEXT {
            self.text.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_travels_as_a_cause() {
        assert_eq!(verdict(Ok(3))["details"]["causes"][0]["message"], "3");
        assert_eq!(verdict(Ok(0))["status"], "Success");
    }

    #[test]
    fn a_terminal_has_sizes_and_one_output() {
        let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: true };
        let all = [Kind::Error, Kind::Stdin, Kind::Stdout, Kind::Resize];
        assert_eq!(wanted.streams("v4.channel.k8s.io"), all);
        assert_eq!(wanted.streams("v2.channel.k8s.io"), all[..3]);
    }

    #[test]
    fn sizes_come_in_pieces_and_the_newest_counts() {
        let mut sizes = Sizes::default();
        sizes.read(b"{\"Width\":80,\"Height\":24}\n{\"Width\":100,\"Hei");
        assert_eq!(sizes.newest, Some(Size { width: 80, height: 24 }));
        sizes.read(b"ght\":30}\n");
        assert_eq!(sizes.newest, Some(Size { width: 100, height: 30 }));
        sizes.read(b"what? ");
        sizes.read(b"{\"Width\":1,\"Height\":2}");
        assert_eq!(sizes.newest, Some(Size { width: 1, height: 2 }));
        sizes.read(&[b' '; 5000]);
        sizes.read(&[b'['; 5000]);
        assert!(sizes.text.len() <= MAX_SIZE_TEXT);
    }
}
