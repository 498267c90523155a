//! Names outside the cluster: passed on to the host's resolvers, from the host's own network.

use ipnet::Ipv4Net;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Questions on the way at once; more are refused with SERVFAIL.
const MAX_IN_FLIGHT: usize = 256;
/// How long one resolver may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the host's configuration is read again.
const REREAD: Duration = Duration::from_secs(10);

/// Asks the resolvers of /etc/resolv.conf.
pub(crate) struct Forwarder {
    permits: Semaphore,
    resolvers: Mutex<(Option<Instant>, Vec<SocketAddr>)>,
    /// Ranges of our own: a resolver in one would be ourselves.
    own: Vec<Ipv4Net>,
}

impl Forwarder {
    pub(crate) fn new(own: Vec<Ipv4Net>) -> Self {
        Self { permits: Semaphore::new(MAX_IN_FLIGHT), resolvers: Mutex::new((None, Vec::new())), own }
    }

    /// The answer to `query`, a whole DNS message; `None` if nobody gave one.
    pub(crate) async fn ask(&self, query: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let _permit = self.permits.try_acquire().ok()?;
        for resolver in self.resolvers() {
            let attempt = async {
                if over_tcp { ask_tcp(resolver, query).await } else { ask_udp(resolver, query).await }
            };
            if let Ok(Ok(answer)) = timeout(PATIENCE, attempt).await {
                return Some(answer);
            }
        }
        None
    }

    fn resolvers(&self) -> Vec<SocketAddr> {
        let mut kept = self.resolvers.lock().unwrap_or_else(|e| e.into_inner());
        if kept.0.is_none_or(|read| read.elapsed() > REREAD) {
            // A short file on local disk, read at most every few seconds.
            let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
            *kept = (Some(Instant::now()), parse(&text, &self.own));
        }
        kept.1.clone()
    }
}

/// The `nameserver` lines, at most three as libc has it.
fn parse(text: &str, own: &[Ipv4Net]) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            line.trim().strip_prefix("nameserver")?.split_whitespace().next()?.parse::<IpAddr>().ok()
        })
        .filter(|ip| match ip {
            IpAddr::V4(v4) => !own.iter().any(|net| net.contains(v4)),
            IpAddr::V6(_) => true,
        })
        .take(3)
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

async fn ask_udp(resolver: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = if resolver.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    // A fresh port for each question, and only the resolver may answer: guessing is hopeless.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut answer = vec![0; 65_535];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length >= 12 && answer[..2] == query[..2] {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn ask_tcp(resolver: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(resolver).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_libc_reads_them_and_never_ourselves() {
        let own = vec!["10.96.0.0/16".parse().unwrap()];
        let text = "# x\nsearch a b\nnameserver 10.96.0.10\nnameserver 192.0.2.1\n nameserver\t::1 \nnameserver bad\nnameserver 1.1.1.1\nnameserver 2.2.2.2\n";
        let got: Vec<_> = parse(text, &own).iter().map(ToString::to_string).collect();
        assert_eq!(got, ["192.0.2.1:53", "[::1]:53", "1.1.1.1:53"]);
    }

    #[tokio::test]
    async fn a_silent_resolver_is_passed_over_and_a_forged_answer_is_not_taken() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let real = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let resolvers = vec![silent.local_addr().unwrap(), real.local_addr().unwrap()];
        let forwarder = Forwarder::new(Vec::new());
        *forwarder.resolvers.lock().unwrap() = (Some(Instant::now()), resolvers);
        let server = tokio::spawn(async move {
            let mut query = [0; 512];
            let (length, client) = real.recv_from(&mut query).await.unwrap();
            let forged = [0xff; 20];
            real.send_to(&forged, client).await.unwrap();
            real.send_to(&[&query[..length], b"answer"].concat(), client).await.unwrap();
        });
        let answer = forwarder.ask(b"\x12\x34 a question", false).await.unwrap();
        assert!(answer.starts_with(b"\x12\x34") && answer.ends_with(b"answer"));
        server.await.unwrap();
    }
}
