//! Exec over a WebSocket with Kubernetes' channels, as kubectl since 1.31 and browsers speak it.
//!
//! Subprotocols `v5.channel.k8s.io` and `v4.channel.k8s.io`: each binary message begins with its channel's number. (KEP-4006; Kubernetes
//! `k8s.io/apimachinery/pkg/util/remotecommand`.)

use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::{HeaderMap, StatusCode, header};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use yunfan_runtime::{ContainerId, ExecConfig, ExecSession, RuntimeError};

use super::exec::{self, Input, Outlet, Sizes, Source, verdict};
use super::{Api, refuse};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5 only: the client will send no more on the channel that follows.
const CLOSE: u8 = 255;
/// Messages of output that wait to be sent.
const WAITING: usize = 16;
/// Most bytes of a message from the client.
const MAX_MESSAGE: usize = 1024 * 1024;
/// How long a client may take to go when it was told that all is over.
const LEAVING: Duration = Duration::from_secs(10);
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// The outcome of a handshake.
pub(super) struct Agreed {
    accept: String,
    protocol: &'static str,
}

impl Agreed {
    /// Checks the client's side of the handshake; an error says what is wrong with it.
    pub(super) fn with(headers: &HeaderMap) -> Result<Self, String> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or("the header Sec-WebSocket-Key is missing")?;
        let offered: Vec<&str> = text(header::SEC_WEBSOCKET_PROTOCOL).split(',').map(str::trim).collect();
        let agreed = PROTOCOLS.iter().find(|protocol| offered.contains(protocol));
        let protocol =
            agreed.ok_or_else(|| format!("no subprotocol in common: this server speaks {PROTOCOLS:?}"))?;
        Ok(Self { accept: derive_accept_key(key.as_bytes()), protocol })
    }
}

/// Starts the command and answers with the switch of protocols; the session runs on behind it.
pub(super) async fn upgrade(
    api: &Api,
    id: &ContainerId,
    config: ExecConfig,
    agreed: Agreed,
    request: Request,
) -> Response {
    let session = match api.runtime.exec(id, config).await {
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
        (header::SEC_WEBSOCKET_ACCEPT, agreed.accept),
        (header::SEC_WEBSOCKET_PROTOCOL, agreed.protocol.to_owned()),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}

async fn serve(socket: Socket, session: ExecSession) {
    let (input, running) = exec::split(session);
    let (sink, stream) = socket.split();
    let (sender, receiver) = mpsc::channel::<Message>(WAITING);
    let sending = tokio::spawn(send(sink, receiver));
    let mut receiving = tokio::spawn(receive(stream, input));
    let outlet = Channels(sender);
    let result = {
        let gone = async {
            tokio::select! {
                () = outlet.0.closed() => {}
                _ = &mut receiving => {}
            }
        };
        running.carry(&outlet, gone).await
    };
    let Channels(sender) = outlet;
    let over = result.is_some();
    if let Some(result) = result {
        let _ = sender.send(message(ERROR, verdict(result).to_string().as_bytes())).await;
        // Clients take anything but code 1000 for an error, even behind a verdict.
        let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        let _ = sender.send(Message::Close(Some(normal))).await;
    }
    drop(sender);
    let farewell = async {
        let _ = sending.await;
        // What the client still sends must be read, or the kernel would throw away what is on its way to it.
        if over {
            let _ = (&mut receiving).await;
        }
    };
    let _ = tokio::time::timeout(LEAVING, farewell).await;
    receiving.abort();
}

struct Channels(mpsc::Sender<Message>);

impl Outlet for Channels {
    async fn send(&self, source: Source, bytes: Bytes) -> bool {
        let channel = match source {
            Source::Stdout => STDOUT,
            Source::Stderr => STDERR,
        };
        self.0.send(message(channel, &bytes)).await.is_ok()
    }

    /// Neither subprotocol has a word for it: the verdict ends all channels.
    async fn finish(&self, _: Source) {}
}

fn message(channel: u8, bytes: &[u8]) -> Message {
    let mut framed = BytesMut::with_capacity(bytes.len() + 1);
    framed.put_u8(channel);
    framed.put_slice(bytes);
    Message::Binary(framed.freeze())
}

async fn send(mut sink: SplitSink<Socket, Message>, mut receiver: mpsc::Receiver<Message>) {
    while let Some(message) = receiver.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
    }
    let _ = sink.close().await;
}

/// Takes the client's messages: input, terminal sizes, the end of input. Ends when the client is gone.
async fn receive(mut stream: SplitStream<Socket>, input: Input) {
    let Input { mut stdin, resize } = input;
    let mut sizes = Sizes::default();
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
            RESIZE => sizes.apply(resize.as_ref(), data),
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
    fn only_known_subprotocols_are_agreed_on() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        headers
            .insert(header::SEC_WEBSOCKET_PROTOCOL, "v4.channel.k8s.io, v5.channel.k8s.io".parse().unwrap());
        let agreed = Agreed::with(&headers).unwrap();
        // The example of RFC 6455, section 1.3.
        assert_eq!(agreed.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(agreed.protocol, "v5.channel.k8s.io");
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, "chat".parse().unwrap());
        assert!(Agreed::with(&headers).is_err());
    }
}
