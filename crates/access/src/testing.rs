//! What the tests of this crate share: servers that answer as a test wants, and files.

use std::io::Write as _;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use yunfan_identity::pki::{Authority, server_config};

/// What a server makes of a path and a body; `None` never answers.
type Answer = Arc<dyn Fn(&str, &Value) -> Option<String> + Send + Sync>;

/// A server.
pub(crate) struct Server {
    /// Without a slash at the end.
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Server {
    /// One that speaks plain HTTP.
    pub(crate) async fn start(
        answer: impl Fn(&str, &Value) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(None, Arc::new(answer)).await
    }

    /// One that shows a certificate of this authority.
    pub(crate) async fn start_tls(
        authority: &Authority,
        answer: impl Fn(&str, &Value) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let identity = authority.issue_server("test", &["127.0.0.1"], 1).expect("a certificate");
        let config = server_config(&identity, None).expect("a configuration");
        Self::listen(Some(TlsAcceptor::from(Arc::new(config))), Arc::new(answer)).await
    }

    /// One at an address where nobody listens.
    pub(crate) fn dead() -> Self {
        Self { url: "http://127.0.0.1:1".to_owned(), asked: Arc::default() }
    }

    async fn listen(tls: Option<TlsAcceptor>, answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().expect("an address"));
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let seen = asked.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, answer, tls) = (seen.clone(), answer.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, &seen, &answer).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, &seen, &answer).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url, asked }
    }

    /// What it was asked so far: paths and bodies.
    pub(crate) fn asked(&self) -> Vec<(String, Value)> {
        self.asked.lock().expect("no panic").clone()
    }

    /// How often it was asked.
    pub(crate) fn count(&self) -> usize {
        self.asked().len()
    }

    /// A kubeconfig that leads to this path of it.
    pub(crate) fn kubeconfig(&self, path: &str) -> NamedTempFile {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "hook", "cluster": {"server": format!("{}{path}", self.url)}}],
            "users": [{"name": "us", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "hook", "user": "us"}}],
        });
        file(&text.to_string())
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    seen: &Mutex<Vec<(String, Value)>>,
    answer: &Answer,
) {
    let mut bytes = Vec::new();
    let (path, body) = loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
        match serde_json::from_str::<Value>(body) {
            Ok(body) => break (path, body),
            Err(_) if head.starts_with("GET") => break (path, Value::Null),
            Err(_) => {}
        }
    };
    seen.lock().expect("no panic").push((path.clone(), body.clone()));
    match answer(&path, &body) {
        Some(text) => {
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length";
            let _ = stream.write_all(format!("{head}: {}\r\n\r\n{text}", text.len()).as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        None => std::future::pending().await,
    }
}

/// A file with this text.
pub(crate) fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a file");
    file.write_all(text.as_bytes()).expect("written");
    file
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !so().await {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let limit = std::time::Duration::from_secs(30);
    tokio::time::timeout(limit, wait).await.unwrap_or_else(|_| panic!("it never came: {what}"));
}
