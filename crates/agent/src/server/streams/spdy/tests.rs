//! Sessions between the server's side and a client of few words, over a pipe.

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio_util::codec::{Encoder, FramedRead};
use yunfan_runtime::{ExecSession, RuntimeError};
use yunfan_spdy::{Frame, FrameDecoder, FrameEncoder, GOAWAY_OK, GOAWAY_PROTOCOL_ERROR, REFUSED_STREAM};

use super::super::remote::{self, Wanted};
use super::super::{PING, StreamError, Transport, websocket};
use super::Headers;

/// What came to the client: by stream the bytes and whether it was finished, and all other frames.
#[derive(Debug, Default)]
struct Heard {
    data: std::collections::BTreeMap<u32, (Vec<u8>, bool)>,
    others: Vec<Frame>,
}

impl Heard {
    fn text(&self, stream: u32) -> &str {
        std::str::from_utf8(&self.data[&stream].0).unwrap()
    }
}

pub(super) struct Client {
    encoder: FrameEncoder,
    writer: WriteHalf<DuplexStream>,
}

impl Client {
    async fn syn(&mut self, stream: u32, kind: &str) {
        self.open(stream, &[("streamtype", kind)]).await;
    }

    pub(super) async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let headers = Headers::new(headers.iter().copied());
        self.frame(Frame::SynStream { stream, fin: false, unidirectional: false, headers }).await;
    }

    async fn frame(&mut self, frame: Frame) {
        let mut out = BytesMut::new();
        self.encoder.encode(frame, &mut out).unwrap();
        self.raw(&out).await;
    }

    async fn raw(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    pub(super) async fn data(&mut self, stream: u32, fin: bool, bytes: &[u8]) {
        self.frame(Frame::Data { stream, fin, bytes: Bytes::copy_from_slice(bytes) }).await;
    }
}

/// What the server sends.
pub(super) struct Server {
    pub(super) frames: FramedRead<ReadHalf<DuplexStream>, FrameDecoder>,
    ended: tokio::task::JoinHandle<Result<(), StreamError>>,
}

impl Server {
    /// Listens until there is no more.
    async fn listen(&mut self) -> Heard {
        let mut heard = Heard::default();
        while let Some(frame) = self.frames.next().await {
            match frame.unwrap() {
                Frame::Data { stream, fin, bytes } => {
                    let entry = heard.data.entry(stream).or_default();
                    assert!(!entry.1, "bytes behind the end of stream {stream}");
                    entry.0.extend_from_slice(&bytes);
                    entry.1 |= fin;
                }
                other => heard.others.push(other),
            }
        }
        heard
    }

    /// How it took the client's leave.
    pub(super) async fn left(self, client: Client) -> Result<(), StreamError> {
        drop((client, self.frames));
        self.ended.await.unwrap()
    }
}

/// A client of SPDY, and the service at its other end.
pub(super) fn connect<F>(serve: impl FnOnce(DuplexStream) -> F) -> (Client, Server)
where
    F: Future<Output = Result<(), StreamError>> + Send + 'static,
{
    let (ours, theirs) = tokio::io::duplex(8 * 1024);
    let ended = tokio::spawn(serve(theirs));
    let (reader, writer) = tokio::io::split(ours);
    let frames = FramedRead::new(reader, FrameDecoder::new());
    (Client { encoder: FrameEncoder::new().unwrap(), writer }, Server { frames, ended })
}

/// A command that is played by a test: it gives back what it gets, and ends with a code.
fn echo(code: i32) -> ExecSession {
    let (ours, theirs) = tokio::io::duplex(1024);
    let (stdout, stdin) = tokio::io::split(theirs);
    let exit = async move {
        let (mut from, mut to) = tokio::io::split(ours);
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.shutdown().await;
        Ok(code)
    };
    ExecSession {
        stdin: Some(Box::pin(stdin)),
        stdout: Box::pin(stdout),
        stderr: None,
        resize: None,
        exit: Box::pin(exit),
    }
}

const V4: &str = "v4.channel.k8s.io";
const IN: Wanted = Wanted { stdin: true, stdout: false, stderr: false, tty: false };
const OUT: Wanted = Wanted { stdin: false, stdout: true, stderr: false, tty: false };
const BOTH: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };

fn begin(
    protocol: &'static str,
    wanted: Wanted,
    session: yunfan_runtime::Result<ExecSession>,
) -> (Client, Server) {
    connect(move |io| remote::serve(io, Transport::Spdy(protocol), wanted, async { session }))
}

#[tokio::test]
async fn a_session_gives_back_its_input_and_the_exit_code() {
    let (mut client, mut server) = begin(V4, BOTH, Ok(echo(3)));
    // Far more than a window, like kubectl: without a look at windows.
    let input: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let sending = async {
        client.syn(1, "error").await;
        client.syn(3, "stdin").await;
        client.syn(5, "nonsense").await;
        client.syn(7, "stdout").await;
        client.frame(Frame::Ping(9)).await;
        for piece in input.chunks(32 * 1024) {
            client.data(3, false, piece).await;
        }
        client.data(3, true, &[]).await;
    };
    let (heard, ()) = tokio::join!(server.listen(), sending);
    assert!(heard.data[&7].0 == input && heard.data[&7].1);
    assert!(heard.text(1).contains("\"message\":\"3\"") && heard.data[&1].1);
    for stream in [1, 3, 7] {
        assert!(heard.others.contains(&Frame::SynReply { stream }));
    }
    assert!(heard.others.contains(&Frame::Ping(9)));
    assert!(heard.others.contains(&Frame::Reset { stream: 5, status: REFUSED_STREAM }));
    let granted = |number: u32| -> u32 {
        let updates = heard.others.iter().filter_map(|frame| match frame {
            Frame::WindowUpdate { stream, delta } if *stream == number => Some(*delta),
            _ => None,
        });
        updates.sum()
    };
    assert!(granted(3) > 900_000 && granted(0) > 900_000);
    assert_eq!(heard.others.last(), Some(&Frame::GoAway { last: 7, status: GOAWAY_OK }));
    server.left(client).await.unwrap();
}

#[tokio::test]
async fn older_protocols_have_errors_in_plain_text() {
    for (code, text) in [(0, ""), (1, "command terminated with non-zero exit code: exit status 1")] {
        let (mut client, mut server) = begin("v2.channel.k8s.io", IN, Ok(echo(code)));
        client.syn(1, "stdin").await;
        client.syn(3, "error").await;
        client.data(1, true, &[]).await;
        let heard = server.listen().await;
        assert_eq!((heard.text(3), heard.data[&3].1), (text, true));
    }
}

#[tokio::test]
async fn a_command_that_does_not_start_is_told_on_the_error_stream() {
    let failed = Err(RuntimeError::NotRunning("pod/container".to_owned()));
    let (mut client, mut server) = begin(V4, OUT, failed);
    client.syn(1, "error").await;
    client.syn(3, "stdout").await;
    let heard = server.listen().await;
    let status: Value = serde_json::from_str(heard.text(1)).unwrap();
    assert_eq!((&status["status"], &status["reason"]), (&"Failure".into(), &"InternalError".into()));
}

#[tokio::test(start_paused = true)]
async fn streams_that_do_not_come_are_not_waited_for_forever() {
    let (mut client, mut server) = begin(V4, BOTH, Ok(echo(0)));
    client.syn(1, "error").await;
    let heard = server.listen().await;
    assert!(heard.text(1).contains("did not open all streams"), "{heard:?}");
    assert!(matches!(server.left(client).await, Err(StreamError::Late(_))));
}

#[tokio::test]
async fn nonsense_ends_the_connection() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2]]
    {
        let (mut client, mut server) = begin(V4, OUT, Ok(echo(0)));
        client.raw(bytes).await;
        let heard = server.listen().await;
        assert!(matches!(heard.others[..], [.., Frame::GoAway { status: GOAWAY_PROTOCOL_ERROR, .. }]));
        assert!(server.left(client).await.is_err());
    }
}

/// Tells when it is dropped.
struct Dropped(Option<tokio::sync::oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.take().map(|sender| sender.send(()));
    }
}

/// A command that neither reads nor ends by itself, and what tells that it was killed.
fn stubborn() -> (ExecSession, tokio::sync::oneshot::Receiver<()>) {
    let (sender, killed) = tokio::sync::oneshot::channel();
    let guard = Dropped(Some(sender));
    let (stdin, unread) = tokio::io::duplex(8);
    let (stdout, silent) = tokio::io::duplex(8);
    let exit = async move {
        // The last of these would be the end of output.
        let _kept = (guard, unread, silent);
        std::future::pending().await
    };
    let session = ExecSession {
        stdin: Some(Box::pin(stdin)),
        stdout: Box::pin(stdout),
        stderr: None,
        resize: None,
        exit: Box::pin(exit),
    };
    (session, killed)
}

#[tokio::test]
async fn a_client_that_leaves_kills_its_command() {
    let (session, killed) = stubborn();
    let (mut client, server) = begin(V4, OUT, Ok(session));
    client.syn(1, "error").await;
    client.syn(3, "stdout").await;
    server.left(client).await.unwrap();
    killed.await.unwrap();
}

/// Its bytes fill every buffer, so nobody reads any more what the client sends, its end included: the pings find out.
#[tokio::test(start_paused = true)]
async fn a_client_that_dies_behind_a_full_pipe_kills_its_command() {
    let (session, killed) = stubborn();
    let (mut client, server) = begin(V4, IN, Ok(session));
    client.syn(1, "error").await;
    client.syn(3, "stdin").await;
    let too_much = async {
        loop {
            client.data(3, false, &[0; 1024]).await;
        }
    };
    assert!(tokio::time::timeout(PING, too_much).await.is_err());
    let _ = server.left(client).await;
    killed.await.unwrap();
}

#[tokio::test]
async fn channels_of_a_websocket_carry_the_same_session() {
    use futures::SinkExt;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    let (ours, theirs) = tokio::io::duplex(8 * 1024);
    let agreed = websocket::Agreed::sample("v5.channel.k8s.io");
    let serving =
        tokio::spawn(remote::serve(theirs, Transport::WebSocket(agreed), BOTH, async { Ok(echo(0)) }));
    let mut client = tokio_tungstenite::WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
    for message in [&b"\x00there "[..], b"\x04{\"Width\":1,\"Height\":2}", b"\x00and back", b"\xff\x00"] {
        client.send(Message::Binary(message.into())).await.unwrap();
    }
    let (mut out, mut verdict) = (Vec::new(), Vec::new());
    while let Some(Ok(message)) = client.next().await {
        match message {
            Message::Binary(bytes) if bytes[0] == 1 => out.extend_from_slice(&bytes[1..]),
            Message::Binary(bytes) if bytes[0] == 3 => verdict.extend_from_slice(&bytes[1..]),
            Message::Close(frame) => assert_eq!(u16::from(frame.unwrap().code), 1000),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(out, b"there and back");
    assert_eq!(serde_json::from_slice::<Value>(&verdict).unwrap()["status"], "Success");
    serving.await.unwrap().unwrap();
}

mod forwarding {
    use tokio::net::TcpListener;

    use super::super::super::forward::{self, Target};
    use super::*;

    /// A port that gives back what it gets, and how many connections it has had to their end.
    async fn listener() -> (u16, tokio::sync::mpsc::Receiver<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    let mut got = Vec::new();
                    let _ = stream.read_to_end(&mut got).await;
                    let _ = stream.write_all(&got).await;
                    drop(stream);
                    let _ = sender.send(got.len()).await;
                });
            }
        });
        (port, receiver)
    }

    fn begin() -> (Client, Server) {
        connect(|io| {
            forward::serve(
                io,
                Transport::Spdy("portforward.k8s.io"),
                Target::on_this_host("web", "u"),
                vec![],
            )
        })
    }

    async fn pair(client: &mut Client, first: u32, id: &str, port: u16) {
        let port = port.to_string();
        client.open(first, &[("streamtype", "error"), ("port", &port), ("requestid", id)]).await;
        client.data(first, true, &[]).await;
        client.open(first + 2, &[("streamtype", "data"), ("port", &port), ("requestid", id)]).await;
    }

    /// What came on some streams until all of them were finished or reset.
    async fn hear(server: &mut Server, mut open: Vec<u32>) -> std::collections::BTreeMap<u32, Vec<u8>> {
        let mut heard = std::collections::BTreeMap::<u32, Vec<u8>>::new();
        while !open.is_empty() {
            match server.frames.next().await.unwrap().unwrap() {
                Frame::Data { stream, fin, bytes } => {
                    heard.entry(stream).or_default().extend_from_slice(&bytes);
                    open.retain(|number| !fin || *number != stream);
                }
                Frame::Reset { stream, .. } => open.retain(|number| *number != stream),
                _ => {}
            }
        }
        heard
    }

    #[tokio::test]
    async fn connections_share_a_wire_and_half_close() {
        let (port, mut ended) = listener().await;
        let (mut client, mut server) = begin();
        pair(&mut client, 1, "0", port).await;
        pair(&mut client, 5, "1", port).await;
        client.data(3, false, b"one").await;
        client.data(7, true, b"two").await;
        client.data(3, true, b" more").await;
        let heard = hear(&mut server, vec![1, 3, 5, 7]).await;
        assert_eq!((heard[&3].as_slice(), heard[&7].as_slice()), (&b"one more"[..], &b"two"[..]));
        assert!(heard[&1].is_empty() && heard[&5].is_empty());
        assert_eq!(ended.recv().await.unwrap() + ended.recv().await.unwrap(), 11);
        server.left(client).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_dies_closes_its_connections() {
        let (port, mut ended) = listener().await;
        let (mut client, mut server) = begin();
        pair(&mut client, 1, "0", port).await;
        client.data(3, false, b"half").await;
        // The answer to this comes behind all that was before it.
        client.frame(Frame::Ping(1)).await;
        while server.frames.next().await.unwrap().unwrap() != Frame::Ping(1) {}
        let _ = server.left(client).await;
        assert!(ended.recv().await.unwrap() <= 4);
    }

    #[tokio::test]
    async fn a_closed_port_and_nonsense_are_told() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let (mut client, mut server) = begin();
        pair(&mut client, 1, "0", closed).await;
        client.open(5, &[("streamtype", "data"), ("port", "none")]).await;
        let heard = hear(&mut server, vec![1, 3, 5]).await;
        let said = String::from_utf8(heard[&1].clone()).unwrap();
        assert!(said.starts_with(&format!("error forwarding port {closed} to pod web, uid u: ")), "{said}");
        server.left(client).await.unwrap();
    }

    #[tokio::test]
    async fn streams_without_a_request_id_belong_to_their_neighbours() {
        let (port, _ended) = listener().await;
        let (mut client, mut server) = begin();
        let port = port.to_string();
        client.open(1, &[("streamtype", "error"), ("port", &port)]).await;
        client.open(3, &[("streamtype", "data"), ("port", &port)]).await;
        client.data(3, true, b"hi").await;
        assert_eq!(hear(&mut server, vec![1, 3]).await[&3], b"hi");
        server.left(client).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_pair_is_not_waited_for_forever() {
        let (mut client, mut server) = begin();
        client.open(1, &[("streamtype", "error"), ("port", "80"), ("requestid", "7")]).await;
        assert_eq!(hear(&mut server, vec![1]).await[&1], b"timed out waiting for streams");
        server.left(client).await.unwrap();
    }
}
