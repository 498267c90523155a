//! `/exec/{namespace}/{pod}/{container}`: a command in a container, its input and output over an upgraded connection.
//!
//! Here is what all transports share: the query, the session, the verdict. [`websocket`](super::websocket) and
//! [`spdy`](super::spdy) carry it.

use std::future::Future;

use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use yunfan_runtime::{ExecConfig, ExecExit, ExecReader, ExecSession, ExecWriter, Resizer};

use super::{Api, find_container, refuse, spdy, websocket};

/// Bytes of output that are passed on at once.
const CHUNK: usize = 32 * 1024;
/// Most bytes of a terminal size that is not complete yet.
const MAX_SIZE_TEXT: usize = 1024;

pub(crate) async fn exec(
    State(api): State<Api>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let wanted = match Wanted::parse(query.as_deref().unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, message),
    };
    let transport = match Transport::agree(request.headers()) {
        Ok(transport) => transport,
        Err(refusal) => return *refusal,
    };
    let id = match find_container(&api, &namespace, &pod, &container).await {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    match transport {
        Transport::WebSocket(agreed) => websocket::upgrade(&api, &id, wanted.config, agreed, request).await,
        Transport::Spdy(protocol) => spdy::upgrade(&api, id, wanted, protocol, request),
    }
}

/// How a client wants to carry its session, and the protocol that was agreed on.
enum Transport {
    WebSocket(websocket::Agreed),
    Spdy(spdy::Protocol),
}

impl Transport {
    fn agree(headers: &HeaderMap) -> Result<Self, Box<Response>> {
        let refusal = |message| Box::new(refuse(StatusCode::BAD_REQUEST, message));
        let upgrade = headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if upgrade.eq_ignore_ascii_case("websocket") {
            let agreed = websocket::Agreed::with(headers);
            agreed.map(Self::WebSocket).map_err(refusal)
        } else if upgrade.eq_ignore_ascii_case("SPDY/3.1") {
            spdy::Protocol::agree(headers).map(Self::Spdy)
        } else {
            let message = "this path needs an upgrade of the connection, to websocket or SPDY/3.1";
            Err(refusal(message.to_owned()))
        }
    }
}

/// What the query asks for.
pub(super) struct Wanted {
    pub(super) config: ExecConfig,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
}

impl Wanted {
    /// Reads the query, where `command` comes once per word, and streams have the kubelet's or the API server's names.
    fn parse(query: &str) -> Result<Self, String> {
        let pairs = pairs(query).ok_or_else(|| "the query is not URL-encoded".to_owned())?;
        let on = |names: &[&str]| {
            pairs.iter().any(|(k, v)| names.contains(&k.as_str()) && matches!(v.as_str(), "1" | "true"))
        };
        let command: Vec<String> =
            pairs.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
        if command.is_empty() {
            return Err("you must specify at least 1 command for the container".to_owned());
        }
        let config = ExecConfig { command, tty: on(&["tty"]), stdin: on(&["input", "stdin"]) };
        Ok(Self { config, stdout: on(&["output", "stdout"]), stderr: on(&["error", "stderr"]) })
    }
}

fn pairs(query: &str) -> Option<Vec<(String, String)>> {
    // The extractor does the decoding; a list of pairs keeps repeated names.
    let uri: http::Uri = format!("/?{query}").parse().ok()?;
    axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri).ok().map(|pairs| pairs.0)
}

/// Where a byte of output comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Stdout,
    Stderr,
}

/// The transport's side of a command's output.
pub(super) trait Outlet: Sync {
    /// Sends some bytes; false when the client is gone.
    fn send(&self, source: Source, bytes: Bytes) -> impl Future<Output = bool> + Send;
    /// There will be no more from this source.
    fn finish(&self, source: Source) -> impl Future<Output = ()> + Send;
}

/// The client's side of a command's input.
pub(super) struct Input {
    pub(super) stdin: Option<ExecWriter>,
    pub(super) resize: Option<Resizer>,
}

/// A command whose output is to be carried to its client.
pub(super) struct Running {
    stdout: ExecReader,
    stderr: Option<ExecReader>,
    exit: ExecExit,
}

/// Parts what goes into a command from what comes out.
pub(super) fn split(session: ExecSession) -> (Input, Running) {
    let ExecSession { stdin, stdout, stderr, resize, exit } = session;
    (Input { stdin, resize }, Running { stdout, stderr, exit })
}

impl Running {
    /// Carries the output until the command and its output have ended. None when the client is gone before that: the command
    /// is killed then.
    pub(super) async fn carry(
        self,
        outlet: &impl Outlet,
        gone: impl Future<Output = ()>,
    ) -> Option<yunfan_runtime::Result<i32>> {
        let Self { stdout, stderr, exit } = self;
        let all = async {
            let stdout = pump(Source::Stdout, Some(stdout), outlet);
            let (result, (), ()) = tokio::join!(exit, stdout, pump(Source::Stderr, stderr, outlet));
            result
        };
        tokio::select! {
            // A client that leaves right behind the last byte has got it all.
            biased;
            result = all => Some(result),
            () = gone => None,
        }
    }
}

async fn pump(source: Source, reader: Option<ExecReader>, outlet: &impl Outlet) {
    if let Some(mut reader) = reader {
        let mut buffer = vec![0; CHUNK];
        while let Ok(length @ 1..) = reader.read(&mut buffer).await {
            if !outlet.send(source, Bytes::copy_from_slice(&buffer[..length])).await {
                return;
            }
        }
    }
    outlet.finish(source).await;
}

/// What is said on the error channel at the end: a Status that says Success, or carries the exit code.
pub(super) fn verdict(result: yunfan_runtime::Result<i32>) -> Value {
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
pub(super) fn fault(error: &dyn std::error::Error) -> Value {
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
    /// Takes some bytes; sets the terminal to the newest size. While there is no terminal, the size is kept for it.
    pub(super) fn apply(&mut self, terminal: Option<&Resizer>, bytes: &[u8]) {
        self.read(bytes);
        if let Some(terminal) = terminal
            && let Some(size) = self.newest.take()
        {
            // It fails when the command has ended, which is told by other means.
            let _ = terminal.resize(size.width, size.height);
        }
    }

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
    fn the_query_names_the_command_word_by_word() {
        let wanted =
            Wanted::parse("command=sh&command=-c&command=echo%20hi&input=1&output=1&tty=true").unwrap();
        assert_eq!(wanted.config.command, ["sh", "-c", "echo hi"]);
        assert!(wanted.config.tty && wanted.config.stdin && wanted.stdout && !wanted.stderr);
        assert!(Wanted::parse("output=1").is_err());
    }

    #[test]
    fn an_exit_code_travels_as_a_cause() {
        assert_eq!(verdict(Ok(3))["details"]["causes"][0]["message"], "3");
        assert_eq!(verdict(Ok(0))["status"], "Success");
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
