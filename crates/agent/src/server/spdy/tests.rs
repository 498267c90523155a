//! Sessions between the server's side and a client of few words, over a pipe.

use bytes::{BufMut, BytesMut};
use futures::StreamExt;
use tokio::io::{ReadHalf, WriteHalf};
use tokio_util::codec::FramedRead;
use yunfan_runtime::RuntimeError;

use super::super::frame::tests::{control, syn};
use super::super::frame::{FrameDecoder, REFUSED_STREAM};
use super::super::headers::tests::Client as Deflater;
use super::*;

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

struct Client {
    deflater: Deflater,
    writer: WriteHalf<DuplexStream>,
}

impl Client {
    async fn syn(&mut self, stream: u32, kind: &str) {
        let bytes = syn(&mut self.deflater, stream, kind);
        self.raw(&bytes).await;
    }

    async fn raw(&mut self, bytes: &[u8]) {
        self.writer.write_all(bytes).await.unwrap();
    }

    async fn data(&mut self, stream: u32, fin: bool, bytes: &[u8]) {
        let mut out = BytesMut::new();
        out.put_u32(stream);
        out.put_u32(u32::from(fin) << 24 | bytes.len() as u32);
        out.put_slice(bytes);
        self.raw(&out).await;
    }
}

/// What the server sends.
struct Server {
    frames: FramedRead<ReadHalf<DuplexStream>, FrameDecoder>,
    ended: tokio::task::JoinHandle<Result<(), SpdyError>>,
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
    async fn left(self, client: Client) -> Result<(), SpdyError> {
        drop((client, self.frames));
        self.ended.await.unwrap()
    }
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

fn begin(
    protocol: Protocol,
    expected: Vec<Kind>,
    session: yunfan_runtime::Result<ExecSession>,
) -> (Client, Server) {
    let (ours, theirs) = tokio::io::duplex(8 * 1024);
    let ended = tokio::spawn(serve(theirs, protocol, expected, async { session }));
    let (reader, writer) = tokio::io::split(ours);
    let frames = FramedRead::new(reader, FrameDecoder::new());
    (Client { deflater: Deflater::new(), writer }, Server { frames, ended })
}

#[tokio::test]
async fn a_session_gives_back_its_input_and_the_exit_code() {
    let kinds = vec![Kind::Error, Kind::Stdin, Kind::Stdout];
    let (mut client, mut server) = begin(Protocol::V4, kinds, Ok(echo(3)));
    // Far more than a window, like kubectl: without a look at windows.
    let input: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let sending = async {
        client.syn(1, "error").await;
        client.syn(3, "stdin").await;
        client.syn(5, "nonsense").await;
        client.syn(7, "stdout").await;
        client.raw(&control(6, 0, &9_u32.to_be_bytes())).await;
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
        let (mut client, mut server) = begin(Protocol::V2, vec![Kind::Error, Kind::Stdin], Ok(echo(code)));
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
    let (mut client, mut server) = begin(Protocol::V4, vec![Kind::Error, Kind::Stdout], failed);
    client.syn(1, "error").await;
    client.syn(3, "stdout").await;
    let heard = server.listen().await;
    let status: Value = serde_json::from_str(heard.text(1)).unwrap();
    assert_eq!((&status["status"], &status["reason"]), (&"Failure".into(), &"InternalError".into()));
}

#[tokio::test(start_paused = true)]
async fn streams_that_do_not_come_are_not_waited_for_forever() {
    let kinds = vec![Kind::Error, Kind::Stdin, Kind::Stdout];
    let (mut client, mut server) = begin(Protocol::V4, kinds, Ok(echo(0)));
    client.syn(1, "error").await;
    let heard = server.listen().await;
    assert!(heard.text(1).contains("did not open all streams"), "{heard:?}");
    assert!(matches!(server.left(client).await, Err(SpdyError::Late(_))));
}

#[tokio::test]
async fn nonsense_ends_the_connection() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x80, 3, 0, 1, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2]]
    {
        let (mut client, mut server) = begin(Protocol::V4, vec![Kind::Error], Ok(echo(0)));
        client.raw(bytes).await;
        let heard = server.listen().await;
        assert!(matches!(heard.others[..], [.., Frame::GoAway { status: GOAWAY_PROTOCOL_ERROR, .. }]));
        assert!(server.left(client).await.is_err());
    }
}

#[tokio::test]
async fn a_client_that_leaves_kills_its_command() {
    struct Dropped(Option<tokio::sync::oneshot::Sender<()>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            let _ = self.0.take().map(|sender| sender.send(()));
        }
    }
    let (sender, killed) = tokio::sync::oneshot::channel();
    let guard = Dropped(Some(sender));
    let exit = async move {
        let _guard = guard;
        std::future::pending().await
    };
    let (stdout, _writer) = tokio::io::duplex(8);
    let session = ExecSession {
        stdin: None,
        stdout: Box::pin(stdout),
        stderr: None,
        resize: None,
        exit: Box::pin(exit),
    };
    let (mut client, server) = begin(Protocol::V4, vec![Kind::Error], Ok(session));
    client.syn(1, "error").await;
    server.left(client).await.unwrap();
    killed.await.unwrap();
}

#[test]
fn the_client_chooses_among_what_both_speak() {
    let mut headers = HeaderMap::new();
    for name in ["v9.channel.k8s.io", "v4.channel.k8s.io, v3.channel.k8s.io", "channel.k8s.io"] {
        headers.append(VERSION, name.parse().unwrap());
    }
    assert_eq!(Protocol::agree(&headers).unwrap(), Protocol::V4);
    let mut headers = HeaderMap::new();
    headers.append(VERSION, "v9.channel.k8s.io".parse().unwrap());
    let refusal = Protocol::agree(&headers).unwrap_err();
    assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
    assert!(refusal.headers()[ACCEPTED].to_str().unwrap().contains("v4.channel.k8s.io"));
}

#[test]
fn a_terminal_has_sizes_and_one_output() {
    let config = yunfan_runtime::ExecConfig { tty: true, stdin: true, ..Default::default() };
    let wanted = Wanted { config, stdout: true, stderr: true };
    assert_eq!(expected(&wanted, Protocol::V4), [Kind::Error, Kind::Stdin, Kind::Stdout, Kind::Resize]);
    assert_eq!(expected(&wanted, Protocol::V2), [Kind::Error, Kind::Stdin, Kind::Stdout]);
}
