//! Records in batches to a webhook, which a kubeconfig names.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::AuditError;
use crate::metrics::Metrics;
use crate::queue::{Message, Mode, Queue};

/// For metrics.
const NAME: &str = "webhook";
/// How long the webhook has for an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a batch is sent, at most, each time after a pause that is half as long again.
const TRIES: u32 = 5;
/// Batches under way at once: while the webhook is away, those behind wait in the queue, which is bounded.
const AT_ONCE: usize = 10;
/// Bytes of a batch, at which it is sent whatever it may still hold.
const MOST_BYTES: usize = 10 << 20;
/// Bytes of an answer that are read.
const ANSWER: usize = 64 << 10;

/// How records are sent.
#[derive(Clone, Debug)]
pub struct WebhookOptions {
    /// A kubeconfig: its cluster's server is the webhook's URL.
    pub kubeconfig: PathBuf,
    /// Whether requests wait.
    pub mode: Mode,
    /// Records that wait, at most.
    pub buffer: usize,
    /// Records of a batch, at most.
    pub batch: usize,
    /// How long a record waits for others.
    pub wait: Duration,
    /// Batches each second, on average, at most; 0 for any number.
    pub per_second: f64,
    /// Batches at once where there were less before.
    pub burst: u32,
    /// The pause before a batch is sent again.
    pub backoff: Duration,
    /// How large records and batches may be, where that is limited.
    pub truncate: Option<Truncation>,
}

/// How large records may be that are sent.
#[derive(Clone, Copy, Debug)]
pub struct Truncation {
    /// Bytes of a record: a larger one loses its bodies.
    pub record: usize,
    /// Bytes of the records of a batch: a larger one is sent in parts.
    pub batch: usize,
}

/// Where batches go.
struct Hook {
    client: Client,
    path: String,
    backoff: Duration,
    /// Bytes of the records that are sent together, at most.
    most: usize,
    metrics: Metrics,
}

/// Reads the kubeconfig and begins to send.
pub(crate) async fn start(options: WebhookOptions, metrics: &Metrics) -> Result<Queue, AuditError> {
    let path = options.kubeconfig.display().to_string();
    let invalid = |why: String| AuditError::Invalid { path: path.clone(), why };
    let parsed = Kubeconfig::read_from(&options.kubeconfig).map_err(|error| invalid(error.to_string()))?;
    let mut config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
        .await
        .map_err(|error| invalid(error.to_string()))?;
    // The client would put a slash behind the path.
    let url = std::mem::take(&mut config.cluster_url);
    let hook_path = format!("{}?timeout={}s", url.path(), PATIENCE.as_secs());
    let mut root = url.into_parts();
    root.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
    config.cluster_url = http::Uri::from_parts(root).map_err(|error| invalid(error.to_string()))?;
    let client = Client::try_from(config).map_err(|error| invalid(error.to_string()))?;
    let most = options.truncate.map_or(usize::MAX, |truncate| truncate.batch);
    let hook = Hook { client, path: hook_path, backoff: options.backoff, most, metrics: metrics.clone() };
    let (sender, receiver) = mpsc::channel(options.buffer.max(1));
    let limit = options.truncate.map(|truncate| truncate.record);
    let queue = Queue { name: NAME, mode: options.mode, limit, sender, metrics: metrics.clone() };
    tokio::spawn(run(Arc::new(hook), options, receiver));
    Ok(queue)
}

/// Gathers batches and sends them, until nobody records any more.
async fn run(hook: Arc<Hook>, options: WebhookOptions, mut records: mpsc::Receiver<Message>) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut throttle = Throttle::new(options.per_second, options.burst);
    loop {
        let Some(mut batch) = Batch::gather(&options, &mut records).await else { return };
        if batch.count > 0 {
            throttle.wait().await;
        }
        let flushes = std::mem::take(&mut batch.flushes);
        // It is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let hook = hook.clone();
        tokio::spawn(async move {
            batch.send(&hook).await;
            drop(place);
        });
        if !flushes.is_empty() {
            // Who waits for a flush waits for the batches before as well.
            let all = places.acquire_many(AT_ONCE as u32).await;
            for told in flushes {
                let _ = told.send(all.is_ok());
            }
        }
    }
}

/// Records that are sent together.
#[derive(Default)]
struct Batch {
    lines: Vec<Bytes>,
    count: usize,
    bytes: usize,
    waiting: Vec<oneshot::Sender<bool>>,
    flushes: Vec<oneshot::Sender<bool>>,
}

impl Batch {
    /// The next batch; none when nobody records any more.
    async fn gather(options: &WebhookOptions, records: &mut mpsc::Receiver<Message>) -> Option<Self> {
        let mut batch = Self::default();
        batch.add(records.recv().await?);
        let until = Instant::now() + options.wait;
        while !batch.is_full(options) {
            match tokio::time::timeout_at(until, records.recv()).await {
                Ok(Some(message)) => batch.add(message),
                Ok(None) | Err(_) => break,
            }
        }
        Some(batch)
    }

    fn add(&mut self, message: Message) {
        match message {
            Message::Record(line, told) => {
                self.count += 1;
                self.bytes += line.len();
                self.lines.push(line);
                self.waiting.extend(told);
            }
            Message::Flush(told) => self.flushes.push(told),
        }
    }

    /// Whether it is not to wait for more; who waits for a record of it can't.
    fn is_full(&self, options: &WebhookOptions) -> bool {
        let somebody_waits = !self.waiting.is_empty() || !self.flushes.is_empty();
        somebody_waits || self.count >= options.batch || self.bytes >= MOST_BYTES
    }

    async fn send(self, hook: &Hook) {
        let mut taken = true;
        for lines in parts(&self.lines, hook.most) {
            if let Err(why) = hook.send(body(lines)).await {
                tracing::error!(records = lines.len(), %why, "the audit webhook did not take records: they are lost");
                hook.metrics.lost(NAME, lines.len() as u64);
                taken = false;
            }
        }
        for told in self.waiting {
            let _ = told.send(taken);
        }
    }
}

/// Lines in parts of so many bytes at most; one that is longer is a part of its own.
fn parts(lines: &[Bytes], most: usize) -> Vec<&[Bytes]> {
    let (mut parts, mut begin, mut bytes) = (Vec::new(), 0, 0_usize);
    for (at, line) in lines.iter().enumerate() {
        if at > begin && bytes.saturating_add(line.len()) > most {
            parts.push(&lines[begin..at]);
            (begin, bytes) = (at, 0);
        }
        bytes = bytes.saturating_add(line.len());
    }
    if begin < lines.len() {
        parts.push(&lines[begin..]);
    }
    parts
}

fn body(lines: &[Bytes]) -> Bytes {
    let bytes: usize = lines.iter().map(Bytes::len).sum();
    let mut body = BytesMut::with_capacity(bytes + lines.len() + 128);
    body.put_slice(br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#);
    for (number, line) in lines.iter().enumerate() {
        if number > 0 {
            body.put_u8(b',');
        }
        body.put_slice(line);
    }
    body.put_slice(b"]}");
    body.freeze()
}

impl Hook {
    async fn send(&self, body: Bytes) -> Result<(), String> {
        let mut pause = self.backoff;
        for attempt in 1.. {
            let (why, again) = match tokio::time::timeout(PATIENCE, self.post(body.clone())).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(failed)) => failed,
                Err(_) => (format!("no answer within {} s", PATIENCE.as_secs()), true),
            };
            if !again || attempt >= TRIES {
                return Err(why);
            }
            tracing::warn!(attempt, %why, "the audit webhook did not take records: they are sent again");
            tokio::time::sleep(pause).await;
            pause = pause * 3 / 2;
        }
        Ok(())
    }

    /// Why it was not taken, and whether it may be another time.
    async fn post(&self, body: Bytes) -> Result<(), (String, bool)> {
        let request = Request::post(&self.path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Body::from(body.to_vec()))
            .map_err(|error| (error.to_string(), false))?;
        let answer = self.client.send(request).await.map_err(|error| (error.to_string(), true))?;
        let status = answer.status();
        // What is read of the answer lets the connection be used again.
        let limited = http_body_util::Limited::new(answer.into_body(), ANSWER);
        let _ = limited.collect().await;
        if status.is_success() {
            return Ok(());
        }
        let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        Err((format!("it answered {status}"), again))
    }
}

/// So many batches each second.
struct Throttle {
    per_second: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Throttle {
    fn new(per_second: f64, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        Self { per_second, burst, left: burst, at: Instant::now() }
    }

    async fn wait(&mut self) {
        if self.per_second <= 0.0 {
            return;
        }
        let now = Instant::now();
        let gained = now.duration_since(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + gained).min(self.burst) - 1.0;
        self.at = now;
        if self.left < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.left / self.per_second)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Reads one request and answers it.
    async fn serve(stream: &mut TcpStream, status: &str) -> (String, Value) {
        let mut read = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&read).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned)
                });
                let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or_default();
                if body.len() >= length {
                    let answer =
                        format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let first = head.lines().next().unwrap_or_default().to_owned();
                    return (first, serde_json::from_str(body).unwrap_or_default());
                }
            }
            let mut part = [0; 4096];
            let length = stream.read(&mut part).await.unwrap();
            assert!(length > 0, "it broke off");
            read.extend_from_slice(&part[..length]);
        }
    }

    fn options(dir: &Path, port: u16) -> WebhookOptions {
        let kubeconfig = dir.join("hook");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{port}/audit/here'}}}}]\n\
             users: [{{name: u, user: {{}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        );
        std::fs::write(&kubeconfig, text).unwrap();
        WebhookOptions {
            kubeconfig,
            mode: Mode::Batch,
            buffer: 4,
            batch: 3,
            wait: Duration::from_millis(200),
            per_second: 0.0,
            burst: 1,
            backoff: Duration::from_millis(10),
            truncate: None,
        }
    }

    #[test]
    fn a_batch_is_sent_in_parts_of_a_size() {
        let lines = ["a", "bb", "cccc", "d", "e"].map(Bytes::from);
        let sizes = |most| parts(&lines, most).iter().map(|part| part.len()).collect::<Vec<_>>();
        assert_eq!(sizes(usize::MAX), [5]);
        assert_eq!(sizes(3), [2, 1, 2]);
        assert_eq!(sizes(1), [1; 5]);
        assert!(parts(&[], 3).is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn records_come_in_batches_and_again_when_they_were_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let metrics = Metrics::default();
        let queue =
            start(options(dir.path(), listener.local_addr().unwrap().port()), &metrics).await.unwrap();
        for number in 0..2 {
            assert!(queue.put(Bytes::from(format!("{{\"n\":{number}}}"))).await);
        }
        let mut seen = Vec::new();
        for status in ["503 Away", "429 Busy", "200 OK"] {
            let (mut stream, _) = listener.accept().await.unwrap();
            seen.push(serve(&mut stream, status).await);
        }
        assert_eq!(seen[0].0, "POST /audit/here?timeout=30s HTTP/1.1");
        assert_eq!(seen[0].1["kind"], "EventList");
        assert_eq!(seen[0].1["items"], serde_json::json!([{"n": 0}, {"n": 1}]));
        assert!(seen.iter().all(|(_, body)| *body == seen[0].1), "the same again");
        // Full: what comes then is lost, and nobody waits.
        let mut taken = 0;
        while queue.put(Bytes::from("{}")).await {
            taken += 1;
            assert!(taken < 1000, "it takes all");
        }
        assert!(taken >= 4);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_waits_hears_whether_it_was_taken() {
        let dir = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let options = WebhookOptions { mode: Mode::BlockingStrict, ..options(dir.path(), port) };
        let queue = start(options, &Metrics::default()).await.unwrap();
        for (status, taken) in [("200 OK", true), ("400 No", false)] {
            let (put, ()) = tokio::join!(queue.put(Bytes::from("{}")), async {
                let (mut stream, _) = listener.accept().await.unwrap();
                serve(&mut stream, status).await;
            });
            assert_eq!(put, taken, "{status}");
        }
    }
}
