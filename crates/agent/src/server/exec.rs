//! `/exec/{namespace}/{pod}/{container}`: a command in a container, over a WebSocket with Kubernetes' channels.
//!
//! Subprotocols `v5.channel.k8s.io` and `v4.channel.k8s.io`: each binary message begins with its channel's number. (KEP-4006; Kubernetes
//! `k8s.io/apimachinery/pkg/util/remotecommand`.)

use axum::body::Body;
use axum::extract::{Path, RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use yunfan_runtime::{ExecConfig, ExecReader, ExecSession, ExecWriter, Resizer, RuntimeError};

use super::{Api, find_container, refuse};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5 only: the client will send no more on the channel that follows.
const CLOSE: u8 = 255;
/// Bytes of output in one message.
const CHUNK: usize = 32 * 1024;
/// Messages of output that wait to be sent.
const WAITING: usize = 16;
/// Most bytes of a message from the client.
const MAX_MESSAGE: usize = 1024 * 1024;
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

type Socket = WebSocketStream<TokioIo<Upgraded>>;

pub(crate) async fn exec(
    State(api): State<Api>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let config = match parse(query.as_deref().unwrap_or_default()) {
        Ok(config) => config,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, message),
    };
    let (accept, protocol) = match handshake(request.headers()) {
        Ok(agreed) => agreed,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, message),
    };
    let id = match find_container(&api, &namespace, &pod, &container).await {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    let session = match api.runtime.exec(&id, config).await {
        Ok(session) => session,
        Err(error @ RuntimeError::NotRunning(_)) => {
            return refuse(StatusCode::BAD_REQUEST, error.to_string());
        }
        Err(error) => return refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    tokio::spawn(async move {
        match hyper::upgrade::on(request).await {
            Ok(upgraded) => {
                let mut limits = WebSocketConfig::default();
                limits.max_message_size = Some(MAX_MESSAGE);
                let socket =
                    Socket::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(limits)).await;
                serve(socket, session).await;
            }
            Err(error) => tracing::debug!(%error, "an exec stream was not taken up"),
        }
    });
    let headers = [
        (header::CONNECTION, "Upgrade".to_owned()),
        (header::UPGRADE, "websocket".to_owned()),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
        (header::SEC_WEBSOCKET_PROTOCOL, protocol.to_owned()),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}

/// The command and its streams from the query, where `command` comes once per word.
fn parse(query: &str) -> Result<ExecConfig, String> {
    let pairs: Vec<(String, String)> =
        serde_urlencoded(query).ok_or_else(|| "the query is not URL-encoded".to_owned())?;
    let on = |names: &[&str]| {
        pairs.iter().any(|(k, v)| names.contains(&k.as_str()) && matches!(v.as_str(), "1" | "true"))
    };
    let command: Vec<String> =
        pairs.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
    if command.is_empty() {
        return Err("you must specify at least 1 command for the container".to_owned());
    }
    Ok(ExecConfig { command, tty: on(&["tty"]), stdin: on(&["input", "stdin"]) })
}

fn serde_urlencoded(query: &str) -> Option<Vec<(String, String)>> {
    // The extractor does the decoding; a list of pairs keeps repeated names.
    let uri: http::Uri = format!("/?{query}").parse().ok()?;
    axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri).ok().map(|pairs| pairs.0)
}

/// Checks the WebSocket handshake; returns the accept key and the agreed subprotocol.
fn handshake(headers: &HeaderMap) -> Result<(String, &'static str), String> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !text(header::UPGRADE).eq_ignore_ascii_case("websocket") {
        return Err(
            "this path speaks WebSocket only: use a client that does (kubectl 1.31 or later)".to_owned()
        );
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or("the header Sec-WebSocket-Key is missing")?;
    let offered: Vec<&str> = text(header::SEC_WEBSOCKET_PROTOCOL).split(',').map(str::trim).collect();
    let agreed = PROTOCOLS.iter().find(|protocol| offered.contains(protocol));
    let protocol =
        agreed.ok_or_else(|| format!("no subprotocol in common: this server speaks {PROTOCOLS:?}"))?;
    Ok((derive_accept_key(key.as_bytes()), protocol))
}

async fn serve(socket: Socket, session: ExecSession) {
    let ExecSession { stdin, stdout, stderr, resize, exit } = session;
    let (sink, stream) = socket.split();
    let (sender, receiver) = mpsc::channel::<Message>(WAITING);
    let sending = tokio::spawn(send(sink, receiver));
    let input = tokio::spawn(receive(stream, stdin, resize));
    let output = async {
        tokio::join!(pump(STDOUT, Some(stdout), &sender), pump(STDERR, stderr, &sender));
    };
    // A client that goes away drops the receiver's task; the command is killed when `exit` is dropped.
    let result = tokio::select! {
        (result, ()) = async { tokio::join!(exit, output) } => Some(result),
        () = gone(&sender) => None,
    };
    if let Some(result) = result {
        let _ = sender.send(message(ERROR, verdict(result).as_bytes())).await;
        // Clients take anything but code 1000 for an error, even behind a verdict.
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = sender.send(Message::Close(Some(normal))).await;
    }
    drop(sender);
    let _ = sending.await;
    input.abort();
}

async fn gone(sender: &mpsc::Sender<Message>) {
    sender.closed().await;
}

/// What is said on the error channel at the end: a Status that says Success, or carries the exit code.
fn verdict(result: yunfan_runtime::Result<i32>) -> String {
    match result {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(error) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "message": error.to_string(), "code": 500,
        }),
    }
    .to_string()
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut framed = BytesMut::with_capacity(bytes.len() + 1);
    framed.put_u8(channel);
    framed.put_slice(bytes);
    Message::Binary(framed.freeze())
}

async fn pump(channel: u8, reader: Option<ExecReader>, sender: &mpsc::Sender<Message>) {
    let Some(mut reader) = reader else { return };
    let mut buffer = vec![0; CHUNK];
    while let Ok(length) = reader.read(&mut buffer).await {
        if length == 0 || sender.send(message(channel, &buffer[..length])).await.is_err() {
            return;
        }
    }
}

async fn send(mut sink: SplitSink<Socket, Message>, mut receiver: mpsc::Receiver<Message>) {
    while let Some(message) = receiver.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
    }
    let _ = sink.close().await;
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Takes the client's messages: input, terminal sizes, the end of input.
async fn receive(mut stream: SplitStream<Socket>, mut stdin: Option<ExecWriter>, resize: Option<Resizer>) {
    while let Some(Ok(message)) = stream.next().await {
        let bytes: Bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Message::Close(_) => return,
            _ => continue,
        };
        let Some((channel, data)) = bytes.split_first() else { continue };
        match *channel {
            STDIN => {
                if let Some(writer) = &mut stdin
                    && writer.write_all(data).await.is_err()
                {
                    stdin = None;
                }
            }
            RESIZE => {
                if let (Some(resize), Ok(size)) = (&resize, serde_json::from_slice::<Size>(data)) {
                    let _ = resize.resize(size.width, size.height);
                }
            }
            CLOSE if data.first() == Some(&STDIN) => {
                if let Some(mut writer) = stdin.take() {
                    let _ = writer.shutdown().await;
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_the_command_word_by_word() {
        let config = parse("command=sh&command=-c&command=echo%20hi&input=1&output=1&tty=true").unwrap();
        assert_eq!(config.command, ["sh", "-c", "echo hi"]);
        assert!(config.tty && config.stdin);
        assert!(parse("output=1").is_err());
    }

    #[test]
    fn an_exit_code_travels_as_a_cause() {
        let status: serde_json::Value = serde_json::from_str(&verdict(Ok(3))).unwrap();
        assert_eq!(status["details"]["causes"][0]["message"], "3");
        assert!(verdict(Ok(0)).contains("Success"));
    }

    #[test]
    fn only_known_subprotocols_are_agreed_on() {
        let mut headers = HeaderMap::new();
        headers.insert(header::UPGRADE, "websocket".parse().unwrap());
        headers.insert(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        headers
            .insert(header::SEC_WEBSOCKET_PROTOCOL, "v4.channel.k8s.io, v5.channel.k8s.io".parse().unwrap());
        let (accept, protocol) = handshake(&headers).unwrap();
        // The example of RFC 6455, section 1.3.
        assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(protocol, "v5.channel.k8s.io");
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, "chat".parse().unwrap());
        assert!(handshake(&headers).is_err());
    }
}
