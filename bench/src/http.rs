//! A lean client: HTTP/1.1 over TLS, one connection, one request under way. It reads no more of an answer than its
//! status and where it ends, so that the server is what is measured.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Most bytes of an answer's head.
const MAX_HEAD: usize = 64 * 1024;

/// A server, and who we are to it.
#[derive(Clone)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// The client's certificate, and whom it trusts.
    pub tls: Arc<ClientConfig>,
}

/// One connection.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

/// How the body of an answer ends.
enum Framing {
    Length(usize),
    Chunked,
}

impl Server {
    /// Connects.
    ///
    /// # Errors
    /// No connection, or no handshake.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let stream = TlsConnector::from(self.tls.clone()).connect(name, stream).await?;
        Ok(Connection { stream, buffer: Vec::with_capacity(64 * 1024) })
    }
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes =
        format!("{method} {path} HTTP/1.1\r\nhost: bench\r\nuser-agent: bench\r\n{headers}").into_bytes();
    if !body.is_empty() {
        bytes.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

impl Connection {
    /// Sends a request; the answer's body, which must come with a code of success. (The encoding of the transfer is
    /// undone, that of the content is not.)
    ///
    /// # Errors
    /// A broken connection, or an answer of another code.
    pub async fn call(&mut self, request: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.stream.write_all(request).await?;
        let (head, framing) = self.head().await?;
        let mut body = Vec::new();
        match framing {
            Framing::Length(length) => {
                while self.buffer.len() < length {
                    self.fill().await?;
                }
                body.extend(self.buffer.drain(..length));
            }
            Framing::Chunked => while self.chunk(&mut body).await? {},
        }
        ensure!(head.starts_with("HTTP/1.1 2"), "{head}{}", String::from_utf8_lossy(&body));
        Ok(body)
    }

    /// As [`Self::call`], where the answer is a code alone (204).
    ///
    /// # Errors
    /// As of [`Self::call`].
    pub async fn done(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        let end = self.find(b"\r\n\r\n").await?;
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        ensure!(head.starts_with("HTTP/1.1 204"), "{head}");
        self.buffer.drain(..end + 4);
        Ok(())
    }

    /// Sends a request whose answer is a stream; [`Self::piece`] gives what comes.
    ///
    /// # Errors
    /// As of [`Self::call`].
    pub async fn open(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        let (head, framing) = self.head().await?;
        ensure!(head.starts_with("HTTP/1.1 200") && matches!(framing, Framing::Chunked), "no stream: {head}");
        Ok(())
    }

    /// The next piece of a stream; empty at its end.
    ///
    /// # Errors
    /// A broken connection.
    pub async fn piece(&mut self) -> anyhow::Result<Vec<u8>> {
        let mut piece = Vec::new();
        self.chunk(&mut piece).await?;
        Ok(piece)
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        let read = self.stream.read_buf(&mut self.buffer).await?;
        ensure!(read > 0, "the server closed the connection");
        Ok(())
    }

    /// The head of an answer, and how its body ends.
    async fn head(&mut self) -> anyhow::Result<(String, Framing)> {
        let end = self.find(b"\r\n\r\n").await?;
        let head =
            String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase().replacen("http", "HTTP", 1);
        self.buffer.drain(..end + 4);
        let field = |name: &str| {
            head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        let framing = match (field("content-length"), field("transfer-encoding")) {
            (Some(length), _) => Framing::Length(length.parse().context("a length that is no number")?),
            (None, Some("chunked")) => Framing::Chunked,
            _ => bail!("an answer without an end: {head}"),
        };
        Ok((head, framing))
    }

    /// Reads one chunk; false if it was the last.
    async fn chunk(&mut self, body: &mut Vec<u8>) -> anyhow::Result<bool> {
        let end = self.find(b"\r\n").await?;
        let line = std::str::from_utf8(&self.buffer[..end])?;
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16)?;
        let whole = end + 2 + size + 2;
        while self.buffer.len() < whole {
            self.fill().await?;
        }
        body.extend_from_slice(&self.buffer[end + 2..end + 2 + size]);
        self.buffer.drain(..whole);
        Ok(size > 0)
    }

    /// Place of a mark in what comes next.
    async fn find(&mut self, mark: &[u8]) -> anyhow::Result<usize> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark) {
                return Ok(at);
            }
            ensure!(self.buffer.len() < MAX_HEAD, "a head of more than {MAX_HEAD} bytes");
            self.fill().await?;
        }
    }
}
