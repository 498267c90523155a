//! How records wait until they are written: a bounded queue for each place that they go to.

use std::str::FromStr;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;

/// Says of a record that its bodies were left out because it was too large (kube-apiserver's annotation).
const TRUNCATED: &str = "audit.k8s.io/truncated";

/// Whether a request waits for its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It does not; records that find the queue full are lost, and counted.
    Batch,
    /// It waits until each is written, and goes on if that failed.
    Blocking,
    /// It waits, and is refused if its first record could not be written.
    BlockingStrict,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "batch" => Ok(Self::Batch),
            "blocking" => Ok(Self::Blocking),
            "blocking-strict" => Ok(Self::BlockingStrict),
            _ => Err(format!("{text:?} is none of batch, blocking and blocking-strict")),
        }
    }
}

/// What a writer is told.
pub(crate) enum Message {
    /// A record, and who waits to hear whether it was written.
    Record(Bytes, Option<oneshot::Sender<bool>>),
    /// Somebody waits until all that came before is written.
    Flush(oneshot::Sender<bool>),
}

/// The way to one writer.
pub(crate) struct Queue {
    /// For metrics.
    pub(crate) name: &'static str,
    pub(crate) mode: Mode,
    /// Bytes of a record, at most.
    pub(crate) limit: Option<usize>,
    pub(crate) sender: mpsc::Sender<Message>,
    pub(crate) metrics: Metrics,
}

impl Queue {
    pub(crate) fn is_strict(&self) -> bool {
        self.mode == Mode::BlockingStrict
    }

    /// What is written of a record: all of it, or where that is too large, what is left without its bodies. None where that is too
    /// large as well; such a record is lost, and counted.
    pub(crate) fn fitting(&self, event: &Value, line: &Bytes) -> Option<Bytes> {
        let fits = |line: &Bytes| self.limit.is_none_or(|limit| line.len() <= limit);
        if fits(line) {
            return Some(line.clone());
        }
        let cut = without_bodies(event).filter(fits);
        if cut.is_none() {
            tracing::error!(
                bytes = line.len(),
                place = self.name,
                "a record of the audit log is too large, and lost"
            );
            self.metrics.lost(self.name, 1);
        }
        cut
    }

    /// Whether it was taken, or written where that is waited for.
    pub(crate) async fn put(&self, line: Bytes) -> bool {
        if self.mode == Mode::Batch {
            return self.put_now(line);
        }
        let (told, hears) = oneshot::channel();
        let sent = self.sender.send(Message::Record(line, Some(told))).await;
        sent.is_ok() && hears.await.unwrap_or_default()
    }

    /// Whether it was taken.
    pub(crate) fn put_now(&self, line: Bytes) -> bool {
        let taken = self.sender.try_send(Message::Record(line, None)).is_ok();
        if !taken {
            self.metrics.lost(self.name, 1);
        }
        taken
    }

    pub(crate) async fn flush(&self) {
        let (told, hears) = oneshot::channel();
        if self.sender.send(Message::Flush(told)).await.is_ok() {
            let _ = hears.await;
        }
    }
}

/// A record without its bodies; none where it never had any.
fn without_bodies(event: &Value) -> Option<Bytes> {
    if !matches!(event["level"].as_str(), Some("Request" | "RequestResponse")) {
        return None;
    }
    let fields = event.as_object()?.iter();
    let kept = fields.filter(|(key, _)| !matches!(key.as_str(), "requestObject" | "responseObject"));
    let mut cut: Value =
        kept.map(|(key, value)| (key.clone(), value.clone())).collect::<serde_json::Map<_, _>>().into();
    cut["annotations"][TRUNCATED] = json!("true");
    Some(Bytes::from(cut.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_large_loses_its_bodies_or_is_lost() {
        let (sender, _receiver) = mpsc::channel(1);
        let mut queue =
            Queue { name: "log", mode: Mode::Batch, limit: Some(300), sender, metrics: Metrics::default() };
        let fitting = |queue: &Queue, event: &Value| {
            let line = queue.fitting(event, &Bytes::from(event.to_string()))?;
            Some(serde_json::from_slice::<Value>(&line).expect("JSON"))
        };
        let small = json!({"level": "Request", "auditID": "1", "requestObject": {"a": "b"}});
        assert_eq!(fitting(&queue, &small), Some(small.clone()));
        let large = json!({"level": "RequestResponse", "auditID": "1", "annotations": {"k": "v"},
            "requestObject": {"a": "x".repeat(300)}, "responseObject": {"a": "x".repeat(300)}});
        let cut =
            json!({"level": "RequestResponse", "auditID": "1", "annotations": {"k": "v", TRUNCATED: "true"}});
        assert_eq!(fitting(&queue, &large), Some(cut));
        let metadata = json!({"level": "Metadata", "userAgent": "x".repeat(300)});
        assert_eq!(fitting(&queue, &metadata), None);
        let headless = json!({"level": "Request", "userAgent": "x".repeat(300), "requestObject": {}});
        assert_eq!(fitting(&queue, &headless), None);
        queue.limit = None;
        assert_eq!(fitting(&queue, &large), Some(large));
    }
}
