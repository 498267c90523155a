//! A WebSocket as a plain connection: what is in its binary messages, one after another. SPDY goes through it (KEP-4006).

use std::io::{Error, ErrorKind, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::CHUNK;
use super::websocket::goodbye;

pub(super) struct Tunnel<S> {
    socket: WebSocketStream<S>,
    /// Of the newest message, what was not read yet.
    rest: Bytes,
    /// The last message is on its way.
    closing: bool,
}

impl<S> Tunnel<S> {
    pub(super) fn new(socket: WebSocketStream<S>) -> Self {
        Self { socket, rest: Bytes::new(), closing: false }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(Error::new(
                        ErrorKind::InvalidData,
                        "a text message in a tunnel",
                    )));
                }
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Err(Error::other(error))),
            }
        }
        let length = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        let mut socket = Pin::new(&mut self.socket);
        ready!(socket.as_mut().poll_ready(cx)).map_err(Error::other)?;
        let length = bytes.len().min(CHUNK);
        let message = Message::Binary(Bytes::copy_from_slice(&bytes[..length]));
        socket.start_send(message).map_err(Error::other)?;
        Poll::Ready(Ok(length))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(Error::other)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<()>> {
        if !self.closing {
            let mut socket = Pin::new(&mut self.socket);
            ready!(socket.as_mut().poll_ready(cx)).map_err(Error::other)?;
            socket.start_send(goodbye(true)).map_err(Error::other)?;
            self.closing = true;
        }
        self.poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures::{SinkExt, StreamExt};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::super::websocket::socket;
    use super::*;

    #[tokio::test]
    async fn bytes_survive_their_messages() {
        let (ours, theirs) = tokio::io::duplex(1024);
        let mut client = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        let mut tunnel = Tunnel::new(socket(ours).await);
        let serving = async {
            let mut got = [0; 5];
            tunnel.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"hello");
            tunnel.write_all(&vec![7; 2 * CHUNK]).await.unwrap();
            tunnel.flush().await.unwrap();
            // The client closes.
            assert_eq!(tunnel.read(&mut got).await.unwrap(), 0);
        };
        let asking = async {
            for text in [&b"he"[..], b"", b"llo"] {
                client.send(Message::Binary(Bytes::from_static(text))).await.unwrap();
            }
            let mut got = 0;
            while got < 2 * CHUNK {
                got += client.next().await.unwrap().unwrap().into_data().len();
            }
            client.close(None).await.unwrap();
        };
        tokio::join!(serving, asking);
    }
}
