//! QEMU's monitor protocol (QMP): one JSON object a line, over a unix socket.

use std::collections::HashMap;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::{FramedRead, LinesCodec};

/// Longest line taken from QEMU. The longest that is asked for is one piece of console log.
const MAX_LINE_BYTES: usize = 1 << 20;
/// Events that may wait. The reader waits when they are more, and QEMU with it.
const MAX_EVENTS: usize = 256;
/// How long QEMU may take over any command.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Why a command has no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QmpError {
    /// QEMU said no.
    #[error("{0}")]
    Refused(String),
    /// QEMU said nothing.
    #[error("{0}")]
    NoAnswer(String),
}

/// Something that QEMU told without being asked.
#[derive(Debug, Deserialize)]
pub(crate) struct Event {
    /// Such as `SHUTDOWN`.
    pub(crate) event: String,
    /// What belongs to it.
    #[serde(default)]
    pub(crate) data: Value,
}

/// Any line from QEMU.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Greeting {
        #[serde(rename = "QMP")]
        _qmp: Value,
    },
    Return {
        #[serde(rename = "return")]
        result: Value,
        id: Option<u64>,
    },
    Error {
        error: Refusal,
        id: Option<u64>,
    },
    Event(Event),
}

#[derive(Deserialize)]
struct Refusal {
    desc: String,
}

type Answer = Result<Value, String>;
/// Commands without an answer so far; `None` once the connection is gone.
type Pending = Arc<Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>>;

/// A connection to one QEMU, ready for commands.
#[derive(Debug)]
pub(crate) struct Qmp {
    writer: tokio::sync::Mutex<OwnedWriteHalf>,
    pending: Pending,
    next_id: AtomicU64,
}

impl Qmp {
    /// Waits for QEMU's greeting and gets ready for commands. The events' channel closes when the connection does.
    pub(crate) async fn connect(stream: UnixStream) -> Result<(Arc<Qmp>, mpsc::Receiver<Event>), QmpError> {
        let (reader, writer) = stream.into_split();
        let mut lines = FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE_BYTES));
        let greeting = tokio::time::timeout(ANSWER_WITHIN, lines.next()).await;
        match greeting {
            Ok(Some(Ok(text))) if matches!(serde_json::from_str(&text), Ok(Line::Greeting { .. })) => {}
            Ok(Some(Ok(_))) => return Err(QmpError::NoAnswer("what answers there is not QEMU".into())),
            Ok(Some(Err(error))) => return Err(QmpError::NoAnswer(error.to_string())),
            Ok(None) => return Err(QmpError::NoAnswer("the connection was closed".into())),
            Err(_) => {
                return Err(QmpError::NoAnswer(format!("no greeting within {} s", ANSWER_WITHIN.as_secs())));
            }
        }
        let pending: Pending = Arc::new(Mutex::new(Some(HashMap::new())));
        let (events, receiver) = mpsc::channel(MAX_EVENTS);
        tokio::spawn(read(lines, pending.clone(), events));
        let qmp =
            Arc::new(Qmp { writer: tokio::sync::Mutex::new(writer), pending, next_id: AtomicU64::new(1) });
        qmp.execute("qmp_capabilities", Value::Null).await?;
        Ok((qmp, receiver))
    }

    /// Has QEMU do something. `arguments` is an object, or null for none.
    pub(crate) async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.execute_with(command, arguments, None).await
    }

    /// As [`Qmp::execute`], with an open file that goes along with the command.
    pub(crate) async fn execute_with(
        &self,
        command: &str,
        arguments: Value,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Value, QmpError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let mut line = json!({ "execute": command, "id": id });
        if !arguments.is_null() {
            line["arguments"] = arguments;
        }
        let mut line = line.to_string();
        line.push('\n');
        let (sender, answer) = oneshot::channel();
        match self.pending.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(pending) => pending.insert(id, sender),
            None => return Err(QmpError::NoAnswer("the connection is closed".into())),
        };
        let exchange = async {
            let mut writer = self.writer.lock().await;
            let written = async {
                let sent = match file {
                    Some(file) => send_with(&writer, line.as_bytes(), file).await?,
                    None => 0,
                };
                writer.write_all(&line.as_bytes()[sent..]).await
            };
            let written = written.await;
            drop(writer);
            written.map_err(|error| QmpError::NoAnswer(error.to_string()))?;
            match answer.await {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(refusal)) => Err(QmpError::Refused(refusal)),
                Err(_) => Err(QmpError::NoAnswer("the connection was closed".into())),
            }
        };
        let result = tokio::time::timeout(ANSWER_WITHIN, exchange).await;
        if let Some(pending) = self.pending.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            pending.remove(&id);
        }
        result.unwrap_or_else(|_| {
            Err(QmpError::NoAnswer(format!("nothing came within {} s", ANSWER_WITHIN.as_secs())))
        })
    }
}

/// Sends the beginning of a line and an open file with it; returns how much of the line went.
async fn send_with(writer: &OwnedWriteHalf, line: &[u8], file: BorrowedFd<'_>) -> std::io::Result<usize> {
    let stream = writer.as_ref();
    stream
        .async_io(Interest::WRITABLE, || {
            let files = [file];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut message = SendAncillaryBuffer::new(&mut space);
            message.push(SendAncillaryMessage::ScmRights(&files));
            Ok(sendmsg(stream, &[IoSlice::new(line)], &mut message, SendFlags::NOSIGNAL)?)
        })
        .await
}

/// Hands answers to those who wait for them, and events on, until QEMU closes the connection.
async fn read(
    mut lines: FramedRead<OwnedReadHalf, LinesCodec>,
    pending: Pending,
    events: mpsc::Sender<Event>,
) {
    while let Some(Ok(text)) = lines.next().await {
        let (id, answer) = match serde_json::from_str(&text) {
            Ok(Line::Return { result, id: Some(id) }) => (id, Ok(result)),
            Ok(Line::Error { error, id: Some(id) }) => (id, Err(error.desc)),
            Ok(Line::Event(event)) => {
                // A receiver that is gone wants no events; answers still matter.
                let _ = events.send(event).await;
                continue;
            }
            Ok(_) | Err(_) => {
                tracing::debug!(bytes = text.len(), "QEMU sent a line that fits nothing");
                continue;
            }
        };
        let waiting = pending
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .and_then(|pending| pending.remove(&id));
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer);
        }
    }
    *pending.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncBufReadExt, BufReader};

    /// A QEMU that greets, answers each command by `answer(command)`, and sends an event ahead of each answer.
    async fn qemu(stream: UnixStream, answer: fn(&str) -> Value) {
        let (reader, mut writer) = stream.into_split();
        writer.write_all(b"{\"QMP\": {\"version\": {}, \"capabilities\": []}}\r\n").await.unwrap();
        let mut lines = BufReader::new(reader).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let command: Value = serde_json::from_str(&line).unwrap();
            let mut reply = answer(command["execute"].as_str().unwrap());
            if reply.is_null() {
                return;
            }
            reply["id"] = command["id"].clone();
            let event = json!({"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}});
            writer.write_all(format!("{event}\r\n{reply}\r\n").as_bytes()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn answers_and_events_find_their_way() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(qemu(theirs, |command| match command {
            "bad" => json!({"error": {"class": "GenericError", "desc": "no such thing"}}),
            "hang-up" => Value::Null,
            _ => json!({"return": {"status": "running"}}),
        }));
        let (qmp, mut events) = Qmp::connect(ours).await.unwrap();
        assert_eq!(qmp.execute("query-status", Value::Null).await.unwrap()["status"], "running");
        assert!(
            matches!(qmp.execute("bad", Value::Null).await, Err(QmpError::Refused(text)) if text == "no such thing")
        );
        assert_eq!(events.recv().await.unwrap().event, "RESUME");
        assert!(matches!(qmp.execute("hang-up", Value::Null).await, Err(QmpError::NoAnswer(_))));
        assert!(
            matches!(qmp.execute("query-status", Value::Null).await, Err(QmpError::NoAnswer(text)) if text.contains("closed"))
        );
        while events.recv().await.is_some() {}
    }

    #[tokio::test]
    async fn a_stranger_is_not_taken_for_qemu() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"HTTP/1.1 400 Bad Request\r\n").await.unwrap();
        assert!(Qmp::connect(ours).await.is_err());
    }
}
