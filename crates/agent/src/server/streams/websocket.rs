//! Lanes in a WebSocket: Kubernetes' channels, as kubectl since 1.31 and browsers speak them.
//!
//! Subprotocols such as `v5.channel.k8s.io`: each message begins with its channel's number. Those with `base64` in their names
//! are for clients that can only handle text. (KEP-4006; Kubernetes `k8s.io/streaming/pkg/httpstream/wsstream`.)

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, Stream, StreamExt};
use http::{HeaderMap, HeaderName, header};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::lane::{Inlets, Lane, Link};
use super::{LEAVING, PING, StreamError, WAITING, Wire, both};

/// v5 only: the client will send no more on the channel that follows.
const CLOSE: u8 = 255;
/// Most bytes of a message from a client.
const MAX_MESSAGE: usize = 1024 * 1024;

/// How bytes become messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Coding {
    /// As they are; the number of a channel is a byte.
    Binary,
    /// As text; the number of a channel is a digit.
    Base64,
}

impl Coding {
    fn message(self, bytes: Bytes) -> Message {
        match self {
            Self::Binary => Message::Binary(bytes),
            Self::Base64 => Message::text(STANDARD.encode(bytes)),
        }
    }

    fn message_of(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut framed = BytesMut::with_capacity(bytes.len() + 1);
                framed.put_u8(channel);
                framed.put_slice(bytes);
                Message::Binary(framed.freeze())
            }
            Self::Base64 => Message::text(format!("{channel}{}", STANDARD.encode(bytes))),
        }
    }

    /// The number of the channel, and what comes on it.
    fn read(self, message: Bytes) -> Result<Option<(u8, Bytes)>, StreamError> {
        let Some(first) = message.first().copied() else { return Ok(None) };
        let rest = message.slice(1..);
        match self {
            Self::Binary => Ok(Some((first, rest))),
            Self::Base64 => {
                let data = STANDARD.decode(rest).map_err(|_| StreamError::Malformed("no base64"))?;
                Ok(Some((first.wrapping_sub(b'0'), data.into())))
            }
        }
    }
}

/// The outcome of a handshake.
#[derive(Debug)]
pub(in super::super) struct Agreed {
    accept: String,
    /// Empty where the client named none.
    pub(super) protocol: &'static str,
}

impl Agreed {
    /// Checks the client's side of the handshake; an error says what is wrong with it.
    pub(in super::super) fn with(headers: &HeaderMap, known: &[&'static str]) -> Result<Self, String> {
        let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or("the header Sec-WebSocket-Key is missing")?;
        let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter();
        let offered: Vec<&str> = values
            .filter_map(|value| value.to_str().ok())
            .flat_map(|list| list.split(','))
            .map(str::trim)
            .collect();
        let silent = offered.is_empty();
        let fits = |protocol: &&str| offered.contains(protocol) || (silent && protocol.is_empty());
        let agreed = known.iter().copied().find(fits);
        let protocol =
            agreed.ok_or_else(|| format!("no subprotocol in common: this server speaks {known:?}"))?;
        Ok(Self { accept: derive_accept_key(key.as_bytes()), protocol })
    }

    #[cfg(test)]
    pub(super) fn sample(protocol: &'static str) -> Self {
        Self { accept: String::new(), protocol }
    }

    pub(in super::super) fn coding(&self) -> Coding {
        if self.protocol.contains("base64") { Coding::Base64 } else { Coding::Binary }
    }

    pub(super) fn headers(&self) -> Vec<(HeaderName, String)> {
        let mut headers = vec![
            (header::UPGRADE, "websocket".to_owned()),
            (header::SEC_WEBSOCKET_ACCEPT, self.accept.clone()),
        ];
        if !self.protocol.is_empty() {
            headers.push((header::SEC_WEBSOCKET_PROTOCOL, self.protocol.to_owned()));
        }
        headers
    }
}

/// The server's end of a WebSocket whose handshake is over.
pub(super) async fn socket<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    let mut limits = WebSocketConfig::default();
    limits.max_message_size = Some(MAX_MESSAGE);
    limits.max_frame_size = Some(MAX_MESSAGE);
    WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await
}

/// The message that ends a connection.
pub(super) fn goodbye(well: bool) -> Message {
    // Clients take anything but code 1000 for an error, even behind a verdict.
    let code = if well { CloseCode::Normal } else { CloseCode::Protocol };
    Message::Close(Some(CloseFrame { code, reason: "".into() }))
}

/// A connection with a lane for each of its first `count` channels.
pub(super) async fn channels<S>(io: S, count: u8, coding: Coding) -> (Wire, Vec<Lane>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sink, stream) = socket(io).await.split();
    let (sender, messages) = mpsc::channel(WAITING);
    let link: Arc<dyn Link> = Arc::new(Channels { messages: sender, coding });
    let mut inlets = Inlets::new(link.clone());
    let lanes = (0..count).map(|number| inlets.open(u32::from(number))).collect();
    let activity = inlets.activity();
    let driver = Box::pin(both(receive(stream, inlets, coding), send(sink, messages)));
    (Wire { link, activity, driver }, lanes)
}

struct Channels {
    messages: mpsc::Sender<Message>,
    coding: Coding,
}

#[async_trait]
impl Link for Channels {
    async fn send(&self, lane: u32, bytes: Bytes) -> bool {
        // Channels are numbered by a byte.
        self.messages.send(self.coding.message_of(lane as u8, &bytes)).await.is_ok()
    }

    // The subprotocols have no words for these: all channels end together.
    async fn finish(&self, _: u32) {}

    async fn reset(&self, _: u32) {}

    async fn used(&self, _: u32, _: usize) {}

    async fn leave(&self, well: bool) {
        let _ = self.messages.send(goodbye(well)).await;
    }
}

async fn send<S>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut messages: mpsc::Receiver<Message>,
) -> Result<(), StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut ping = tokio::time::interval(PING);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ping.tick().await;
    loop {
        let message = tokio::select! {
            message = messages.recv() => message,
            _ = ping.tick() => Some(Message::Ping(Bytes::new())),
        };
        let Some(message) = message else { return Ok(()) };
        let last = matches!(message, Message::Close(_));
        sink.send(message).await.map_err(io)?;
        if last {
            return Ok(());
        }
    }
}

/// Sends what a stream brings in messages, the first of them empty, until it ends or the client leaves.
pub(in super::super) async fn send_all<S>(
    io: S,
    coding: Coding,
    bytes: impl Stream<Item = std::io::Result<Bytes>> + Unpin,
) -> Result<(), StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = socket(io).await.split();
    let empty = futures::stream::once(std::future::ready(Ok(Bytes::new())));
    let mut messages =
        empty.chain(bytes).map(|piece| piece.map(|piece| coding.message(piece)).map_err(Error::Io));
    let sending = async {
        sink.send_all(&mut messages).await?;
        sink.send(goodbye(true)).await
    };
    // Nothing is expected of the client but its leave.
    let leaving = async { while let Some(Ok(_)) = stream.next().await {} };
    tokio::pin!(leaving);
    tokio::select! {
        sent = sending => sent.map_err(self::io)?,
        () = &mut leaving => return Ok(()),
    }
    let _ = tokio::time::timeout(LEAVING, leaving).await;
    Ok(())
}

/// Ends when the client is gone.
async fn receive<S>(
    mut stream: SplitStream<WebSocketStream<S>>,
    mut inlets: Inlets,
    coding: Coding,
) -> Result<(), StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = stream.next().await {
        let bytes: Bytes = match message.map_err(io)? {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Message::Close(_) => return Ok(()),
            _ => continue,
        };
        match coding.read(bytes)? {
            Some((CLOSE, data)) if data.len() == 1 => inlets.end(u32::from(data[0])),
            Some((channel, data)) => inlets.deliver(u32::from(channel), &data).await,
            None => {}
        }
    }
    Ok(())
}

pub(super) fn io(error: Error) -> StreamError {
    match error {
        Error::Io(error) => StreamError::Io(error),
        other => StreamError::Io(std::io::Error::other(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];

    #[tokio::test]
    async fn a_log_comes_in_binary_messages() {
        let (ours, theirs) = tokio::io::duplex(1024);
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        let pieces = ["one\n", "two\n"].map(|text| Ok(Bytes::from_static(text.as_bytes())));
        let sending = tokio::spawn(send_all(ours, Coding::Binary, futures::stream::iter(pieces)));
        let mut got = Vec::new();
        while let Some(Ok(Message::Binary(bytes))) = client.next().await {
            got.push(bytes);
        }
        drop(client);
        assert_eq!(got, ["", "one\n", "two\n"]);
        sending.await.unwrap().unwrap();
    }

    #[test]
    fn only_known_subprotocols_are_agreed_on() {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==".parse().unwrap());
        headers
            .insert(header::SEC_WEBSOCKET_PROTOCOL, "v4.channel.k8s.io, v5.channel.k8s.io".parse().unwrap());
        let agreed = Agreed::with(&headers, KNOWN).unwrap();
        // The example of RFC 6455, section 1.3.
        assert_eq!(agreed.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(agreed.protocol, "v5.channel.k8s.io");
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, "chat".parse().unwrap());
        assert!(Agreed::with(&headers, KNOWN).is_err());
        headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
        assert!(Agreed::with(&headers, KNOWN).is_err(), "some must be named");
        let silent = Agreed::with(&headers, &["v4.channel.k8s.io", ""]).unwrap();
        assert_eq!((silent.protocol, silent.headers().len()), ("", 2));
    }

    #[test]
    fn clients_that_can_only_handle_text_get_text() {
        let text = Coding::Base64.message_of(1, b"hello\xff");
        assert_eq!(text, Message::text("1aGVsbG//"));
        let read = |text: &'static str| Coding::Base64.read(Bytes::from_static(text.as_bytes()));
        assert_eq!(read("0aGVsbG//").unwrap(), Some((0, Bytes::from_static(b"hello\xff"))));
        assert!(read("0=").is_err());
        assert_eq!(read("").unwrap(), None);
        let agreed = Agreed::sample("v4.base64.channel.k8s.io");
        assert_eq!((agreed.coding(), Agreed::sample("").coding()), (Coding::Base64, Coding::Binary));
    }
}
