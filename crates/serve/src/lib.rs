//! The accept loop: TLS 1.2 and 1.3, HTTP/1.1 and 2, upgrades, limits, a graceful end.
//!
//! **Owns** connections from their first byte until a request is in the router's hands: how many there are, how long a handshake or
//! headers may take, and the client's verified certificate in each request's extensions.
//!
//! **Must never know** what a request asks for. The API server and the agents serve through it alike.
//!
//! **Start reading** at [`serve_tls`]; [`splice`] is for those who pass an upgraded connection on.
#![forbid(unsafe_code)]

mod idle;
mod opening;
mod rest;
mod shares;
mod splice;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;
use yunfan_identity::PeerCertificate;

pub use idle::Lasts;
use idle::{Answering, IDLE, STALLED, UnderWay};
use opening::Opening;
use rest::ReadToEnd;
use shares::Shares;
pub use splice::splice;

/// Connections at one time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 8192;
/// Connections of one address at one time; more are cut.
const MAX_FROM_ONE: usize = MAX_CONNECTIONS / 4 * 3;
/// A handshake that takes longer is given up.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Request headers that take longer to arrive are given up.
const HEADER_READ: Duration = Duration::from_secs(30);
/// Bytes of a request's headers.
const MAX_HEADERS: usize = 64 * 1024;
/// Streams of one HTTP/2 connection at one time: each watch is one.
const MAX_STREAMS: u32 = 1000;
/// Bytes with which an HTTP/2 client begins (RFC 9113, section 3.4). No request of HTTP/1.1 is shorter, as each names a host.
const GREETING: usize = 24;
/// HTTP/2 connections are asked for a sign of life this often.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Requests under way may take this long to end when the server stops, and a connection without any to end when it was told to.
const DRAIN: Duration = Duration::from_secs(3);
/// Wait after an accept error (no file descriptors left, most often).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Request extension: where its connection comes from.
#[derive(Clone, Copy, Debug)]
pub struct PeerAddress(pub SocketAddr);

/// Serves `app` on `listener` until `shutdown` is done; then no connection is accepted any more,
/// requests under way have 3 s to end, and the rest is cut. The client's verified certificate is
/// in each request's extensions as [`PeerCertificate`], beside its [`PeerAddress`].
///
/// # Errors
/// None while it runs: accept errors are logged and waited out.
pub async fn serve_tls(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    app: Router,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let acceptor = TlsAcceptor::from(tls);
    let (stop, stopped) = watch::channel(false);
    let shares = Shares::new(MAX_FROM_ONE);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = &mut shutdown => break,
        };
        let (stream, from, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(share) = shares.enter(from.ip()) else {
            tracing::debug!(%from, "cut a connection: its address has as many as it may have");
            continue;
        };
        let serving = connection(stream, PeerAddress(from), acceptor.clone(), app.clone(), stopped.clone());
        tokio::spawn(async move {
            serving.await;
            drop((share, slot));
        });
    }
    drop(listener);
    drop(stopped);
    // Each connection has a receiver until it ends.
    let _ = stop.send(true);
    if tokio::time::timeout(DRAIN, stop.closed()).await.is_err() {
        tracing::debug!("cut the connections that were still busy");
    }
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, from) = listener.accept().await?;
    // Answers are small: waiting for more bytes would only delay them.
    stream.set_nodelay(true)?;
    Ok((stream, from, slot))
}

async fn connection(
    stream: TcpStream,
    from: PeerAddress,
    acceptor: TlsAcceptor,
    app: Router,
    stopped: watch::Receiver<bool>,
) {
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let peer = stream.get_ref().1.peer_certificates().and_then(PeerCertificate::new);
    talk(stream, (from, peer), app, stopped).await;
}

/// Serves one connection behind its handshake. Its version shows in its first bytes, which nothing else gives a time.
async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    (from, peer): (PeerAddress, Option<PeerCertificate>),
    app: Router,
    mut stopped: watch::Receiver<bool>,
) {
    let under_way = UnderWay::new();
    let busy = under_way.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        let multiplexed = request.version() == Version::HTTP_2;
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        request.extensions_mut().insert(from);
        let (app, busy) = (app.clone(), busy.enter());
        // HTTP/1 has its own way with what is left: the connection ends.
        let body = move |body| if multiplexed { Body::new(ReadToEnd::new(body)) } else { Body::new(body) };
        async move {
            let answer = answer(app, request.map(body)).await;
            let lasts = answer.extensions().get::<Lasts>().is_some();
            Ok::<_, Infallible>(answer.map(|body| Answering::new(body, lasts, busy)))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_READ).max_buf_size(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS as u32)
        .keep_alive_interval(KEEP_ALIVE);
    let stream = TokioIo::new(Opening::new(stream, GREETING, HEADER_READ));
    let mut connection = pin!(builder.serve_connection_with_upgrades(stream, service));
    // Requests under way end first, and no others are taken.
    let ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        // The server stops, or is gone.
        _ = stopped.wait_for(|stop| *stop) => None,
        () = under_way.ceased(IDLE, STALLED) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            under_way.note();
            tokio::select! {
                ended = connection => ended,
                // It waits for the client's answer to its goodbye, which need not come.
                () = under_way.ceased(DRAIN, DRAIN) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

async fn answer(app: Router, request: Request<Body>) -> http::Response<Body> {
    match app.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What a client hears that says so much and no more, and for how long it is listened to.
    async fn heard(words: &'static [u8]) -> (Vec<u8>, Duration) {
        let (mut client, server) = tokio::io::duplex(4096);
        let from = PeerAddress(([127, 0, 0, 1], 1).into());
        let begun = tokio::time::Instant::now();
        let (_stop, stopped) = watch::channel(false);
        let app = Router::new().route("/", axum::routing::get(|| async { "here" }));
        tokio::spawn(talk(server, (from, None), app, stopped));
        client.write_all(words).await.unwrap();
        let mut heard = Vec::new();
        let end = tokio::time::timeout(HEADER_READ * 9, client.read_to_end(&mut heard)).await;
        end.unwrap_or_else(|_| panic!("{words:?} goes on for ever")).unwrap();
        (heard, begun.elapsed())
    }

    /// How a client of HTTP/2 begins: its greeting, and settings of which it says nothing.
    const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    /// `GET https://x/` on the first stream (RFC 7541, appendix A).
    const GET: &[u8] = b"\0\0\x06\x01\x05\0\0\0\x01\x82\x87\x84\x41\x01x";
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;

    /// Answers the pings with which a server asks for a sign of life, and not the one that ends with its goodbye, until the connection
    /// ends; tells how long that took.
    async fn answering_pings(words: &'static [u8], app: Router) -> Duration {
        let (mut client, server) = tokio::io::duplex(4096);
        let from = PeerAddress(([127, 0, 0, 1], 1).into());
        let begun = tokio::time::Instant::now();
        let (_stop, stopped) = watch::channel(false);
        tokio::spawn(talk(server, (from, None), app, stopped));
        client.write_all(HELLO).await.unwrap();
        client.write_all(words).await.unwrap();
        let mut head = [0; 9];
        // The first is one for a sign of life, and they are all alike.
        let mut alive = None;
        let mut farewell = false;
        while client.read_exact(&mut head).await.is_ok() {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut body = vec![0; length];
            client.read_exact(&mut body).await.unwrap();
            match (head[3], head[4]) {
                (PING, 0) if *alive.get_or_insert_with(|| body.clone()) == body => {
                    head[4] = 1;
                    client.write_all(&[&head, body.as_slice()].concat()).await.unwrap();
                }
                (GOAWAY, _) => farewell = true,
                _ => {}
            }
        }
        assert!(farewell, "cut without a word");
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_for_nothing_is_sent_away_and_who_waits_is_not() {
        let here = || Router::new().route("/", axum::routing::get(|| async { "here" }));
        for words in [&b""[..], GET] {
            let time = tokio::time::timeout(IDLE * 10, answering_pings(words, here())).await;
            let time = time.unwrap_or_else(|_| panic!("{words:?}: it keeps its place for ever"));
            assert!(time >= IDLE && time < IDLE + HEADER_READ, "{time:?}");
        }
        // Such is a watch of what does not change.
        let endless = || async { Body::new(Pending) };
        let app = Router::new().route("/", axum::routing::get(endless));
        let waits = tokio::time::timeout(IDLE * 10, answering_pings(GET, app)).await;
        assert!(waits.is_err(), "sent away after {waits:?}");
    }

    /// A connection whose client asks for what has no end and takes no more than the first of it; how long that goes on.
    async fn taking_nothing(lasts: bool, words: &'static [u8]) -> Duration {
        let (mut client, server) = tokio::io::duplex(64);
        let from = PeerAddress(([127, 0, 0, 1], 1).into());
        let (_stop, stopped) = watch::channel(false);
        let pieces = move || async move {
            let mut response = http::Response::new(Body::new(Endless));
            if lasts {
                response.extensions_mut().insert(Lasts);
            }
            response
        };
        let app = Router::new().route("/", axum::routing::get(pieces));
        let begun = tokio::time::Instant::now();
        let talking = tokio::spawn(talk(server, (from, None), app, stopped));
        client.write_all(words).await.unwrap();
        client.read_exact(&mut [0; 32]).await.unwrap();
        let _ = tokio::time::timeout(IDLE * 10, talking).await;
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_an_answer_is_cut_but_from_what_lasts() {
        let words = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
        let time = taking_nothing(false, words).await;
        assert!(time >= STALLED && time < IDLE + STALLED, "{time:?}");
        let time = taking_nothing(true, words).await;
        assert!(time >= IDLE * 10, "cut after {time:?}");
    }

    /// A body of which there is always more.
    struct Endless;

    impl hyper::body::Body for Endless {
        type Data = hyper::body::Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Infallible>>> {
            std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(vec![b'x'; 4096].into()))))
        }
    }

    /// A body of which nothing comes.
    struct Pending;

    impl hyper::body::Body for Pending {
        type Data = hyper::body::Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Self::Data>, Infallible>>> {
            std::task::Poll::Pending
        }
    }

    #[tokio::test]
    async fn headers_that_are_too_long_are_refused() {
        let (client, server) = tokio::io::duplex(4096);
        let (mut hears, mut says) = tokio::io::split(client);
        let from = PeerAddress(([127, 0, 0, 1], 1).into());
        let (_stop, stopped) = watch::channel(false);
        let app = Router::new().route("/", axum::routing::get(|| async { "here" }));
        tokio::spawn(talk(server, (from, None), app, stopped));
        let words = format!("GET / HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(MAX_HEADERS));
        // It need not be heard to the end.
        let says = tokio::spawn(async move { says.write_all(words.as_bytes()).await });
        let mut heard = String::new();
        hears.read_to_string(&mut heard).await.unwrap();
        assert!(heard.starts_with("HTTP/1.1 431 "), "{heard}");
        let _ = says.await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_listened_to_for_ever() {
        let http1 = [&b""[..], b"GET", b"GET / HTTP/1.1\r\nhost: x\r\n"];
        let http2 = [&b"PRI"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"];
        for words in http1.into_iter().chain(http2) {
            let (_, time) = heard(words).await;
            assert!(time >= HEADER_READ && time <= HEADER_READ * 2, "{words:?}: {time:?}");
        }
        let (answer, _) = heard(b"GET / HTTP/1.0\r\n\r\n").await;
        assert!(answer.ends_with(b"here"), "{}", String::from_utf8_lossy(&answer));
    }
}
