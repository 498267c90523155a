//! What goes between a WebSocket and a console: bytes, in whatever messages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

/// Most bytes of a message from a client: what is typed and pasted.
const MAX_MESSAGE: usize = 256 * 1024;
/// Bytes of the console that are passed on at once.
const PIECE: usize = 32 * 1024;
/// A connection without a byte for this time ends.
const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// Every connection ends after this time.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// How often a client is asked for a sign of life, so that the network tells us when it is gone.
const PING: Duration = Duration::from_secs(30);
/// How often it is looked whether a connection may go on.
const LOOK: Duration = Duration::from_secs(2);
/// How long a client may take to hear that all is over.
const LEAVING: Duration = Duration::from_secs(5);

/// Carries bytes both ways until one side ends, nothing comes for too long, or `goes_on` says no.
pub(super) async fn carry<A, B>(client: A, console: B, goes_on: impl Fn() -> bool)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut limits = WebSocketConfig::default();
    limits.max_message_size = Some(MAX_MESSAGE);
    limits.max_frame_size = Some(MAX_MESSAGE);
    let socket = WebSocketStream::from_raw_socket(client, Role::Server, Some(limits)).await;
    let (mut sink, mut messages) = socket.split();
    let (mut from_console, mut to_console) = tokio::io::split(console);
    let moved = AtomicU64::new(0);
    {
        let showing = async {
            let mut ping = interval(PING);
            ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ping.tick().await;
            let mut piece = vec![0; PIECE];
            loop {
                let message = tokio::select! {
                    read = from_console.read(&mut piece) => match read {
                        Ok(length @ 1..) => Message::Binary(Bytes::copy_from_slice(&piece[..length])),
                        _ => return,
                    },
                    _ = ping.tick() => Message::Ping(Bytes::new()),
                };
                if !message.is_ping() {
                    moved.fetch_add(1, Ordering::Relaxed);
                }
                if sink.send(message).await.is_err() {
                    return;
                }
            }
        };
        let taking = async {
            while let Some(Ok(message)) = messages.next().await {
                let bytes = match message {
                    Message::Binary(bytes) => bytes,
                    Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
                    Message::Close(_) => return,
                    _ => continue,
                };
                moved.fetch_add(1, Ordering::Relaxed);
                if to_console.write_all(&bytes).await.is_err() || to_console.flush().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = showing => {}
            () = taking => {}
            () = over(&moved, goes_on) => {}
        }
    }
    let farewell = async { drop(sink.close().await) };
    let _ = timeout(LEAVING, farewell).await;
}

/// Ends when a connection has had its time.
async fn over(moved: &AtomicU64, goes_on: impl Fn() -> bool) {
    let begun = Instant::now();
    let (mut seen, mut since) = (0, begun);
    while goes_on() && begun.elapsed() < LONGEST && since.elapsed() < IDLE {
        sleep(LOOK).await;
        let now = moved.load(Ordering::Relaxed);
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use tokio::io::DuplexStream;

    use super::*;

    struct Carried {
        client: WebSocketStream<DuplexStream>,
        console: DuplexStream,
        goes_on: Arc<AtomicBool>,
    }

    async fn carried() -> Carried {
        let (client, theirs) = tokio::io::duplex(64 * 1024);
        let (console, ours) = tokio::io::duplex(64 * 1024);
        let goes_on = Arc::new(AtomicBool::new(true));
        let asked = goes_on.clone();
        tokio::spawn(async move { carry(theirs, ours, || asked.load(Ordering::Relaxed)).await });
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        Carried { client, console, goes_on }
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_the_end_of_one_is_that_of_the_other() {
        let Carried { mut client, mut console, .. } = carried().await;
        console.write_all(b"RFB 003.008\n").await.unwrap();
        let greeting = client.next().await.unwrap().unwrap();
        assert_eq!(greeting, Message::Binary(Bytes::from_static(b"RFB 003.008\n")));
        client.send(Message::Binary(Bytes::from_static(b"ab"))).await.unwrap();
        client.send(Message::text("cd")).await.unwrap();
        let mut typed = [0; 4];
        console.read_exact(&mut typed).await.unwrap();
        assert_eq!(&typed, b"abcd");
        drop(console);
        assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));

        let Carried { mut client, mut console, .. } = carried().await;
        client.close(None).await.unwrap();
        assert_eq!(console.read(&mut [0; 1]).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn messages_that_are_too_long_end_it() {
        let Carried { mut client, mut console, .. } = carried().await;
        let long = Message::Binary(vec![0; MAX_MESSAGE + 1].into());
        let _ = client.send(long).await;
        let mut rest = Vec::new();
        console.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_it_may_not_go_on_and_when_nothing_comes() {
        let Carried { mut console, goes_on, client: _client } = carried().await;
        goes_on.store(false, Ordering::Relaxed);
        assert_eq!(console.read(&mut [0; 1]).await.unwrap(), 0);

        let Carried { mut console, client: _silent, goes_on: _yes } = carried().await;
        let begun = Instant::now();
        assert_eq!(console.read(&mut [0; 1]).await.unwrap(), 0);
        assert!(begun.elapsed() >= IDLE && begun.elapsed() < IDLE * 2);
    }
}
