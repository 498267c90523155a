//! The name server's two transports. Its sockets were opened inside the network's namespace.

use super::forward::Forwarder;
use super::zone::{Answer, Zone};
use crate::types::Config;
use crate::view::{NetworkView, ServiceBook, Shared};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// TCP clients of one listener at once, and forwarded UDP questions of one socket at once.
const MAX_CLIENTS: usize = 64;
/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(5);
/// The largest UDP answer, bytes; what is larger is truncated and asked again over TCP.
const MAX_UDP: u16 = 1232;

/// What all sockets of one network's name server share.
pub(crate) struct Dns {
    pub(crate) view: Arc<Shared<NetworkView>>,
    pub(crate) book: Arc<Shared<ServiceBook>>,
    pub(crate) config: Arc<Config>,
    domain: String,
    forwarder: Forwarder,
}

impl Dns {
    pub(crate) fn new(
        view: Arc<Shared<NetworkView>>,
        book: Arc<Shared<ServiceBook>>,
        config: Arc<Config>,
    ) -> Self {
        let domain = config.domain.trim_end_matches('.').to_ascii_lowercase();
        let forwarder = Forwarder::new(vec![config.service_cidr, config.cluster_cidr]);
        Self { view, book, config, domain, forwarder }
    }

    /// The reply to one message; `None` if it deserves none.
    async fn reply(&self, bytes: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        match self.local(bytes, over_tcp) {
            Local::Silence => None,
            Local::Reply(reply) => Some(reply),
            Local::Forward { failure } => Some(self.forwarder.ask(bytes, over_tcp).await.unwrap_or(failure)),
        }
    }

    /// What can be said without asking anyone.
    fn local(&self, bytes: &[u8], over_tcp: bool) -> Local {
        // What has no readable header, or is itself a reply, gets silence: two servers must never talk for ever.
        if bytes.len() < 12 || bytes[2] & 0x80 != 0 {
            return Local::Silence;
        }
        let id = u16::from_be_bytes([bytes[0], bytes[1]]);
        let Ok(query) = Message::from_vec(bytes) else {
            return encode(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), None);
        };
        if query.metadata.op_code != OpCode::Query {
            return encode(&Message::error_msg(id, query.metadata.op_code, ResponseCode::NotImp), None);
        }
        let [question] = &query.queries[..] else {
            return encode(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), None);
        };
        let (view, book) = (self.view.get(), self.book.get());
        let zone =
            Zone { view: &view, book: &book, domain: &self.domain, service_cidr: self.config.service_cidr };
        let answer = zone.answer(question.name(), question.query_type(), question.query_class());

        let mut reply = Message::new(id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_desired = query.metadata.recursion_desired;
        reply.metadata.recursion_available = view.is_cluster();
        reply.metadata.response_code = answer.code();
        reply.add_query(question.clone());
        if query.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP);
            reply.set_edns(edns);
        }
        match answer {
            Answer::NotOurs if view.is_cluster() => {
                reply.metadata.response_code = ResponseCode::ServFail;
                return match encode(&reply, None) {
                    Local::Reply(failure) => Local::Forward { failure },
                    other => other,
                };
            }
            Answer::NotOurs | Answer::NotYet => {}
            Answer::Records(records) if !records.is_empty() => {
                reply.metadata.authoritative = true;
                reply.add_answers(records);
            }
            Answer::Records(_) | Answer::NoSuchName => {
                reply.metadata.authoritative = true;
                reply.add_authorities(zone.soa());
            }
        }
        let room = if over_tcp { None } else { Some(usize::from(query.max_payload().clamp(512, MAX_UDP))) };
        encode(&reply, room)
    }
}

enum Local {
    Silence,
    Reply(Vec<u8>),
    Forward { failure: Vec<u8> },
}

fn encode(reply: &Message, room: Option<usize>) -> Local {
    let bytes = match reply.to_vec() {
        Ok(bytes) if room.is_some_and(|room| bytes.len() > room) => reply.truncate().to_vec(),
        other => other,
    };
    bytes.map_or(Local::Silence, Local::Reply)
}

/// Serves until the task is dropped.
pub(crate) async fn serve(dns: Arc<Dns>, udp: Vec<UdpSocket>, tcp: Vec<TcpListener>) {
    let udp = udp.into_iter().map(|socket| tokio::spawn(serve_udp(dns.clone(), Arc::new(socket))));
    let tcp = tcp.into_iter().map(|listener| tokio::spawn(serve_tcp(dns.clone(), listener)));
    let tasks: Vec<_> = udp.chain(tcp).map(AbortOnDrop).collect();
    // The tasks end only with this one.
    std::future::pending::<()>().await;
    drop(tasks);
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve_udp(dns: Arc<Dns>, socket: Arc<UdpSocket>) {
    let permits = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut buffer = vec![0; 4096];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(got) => got,
            Err(e) => {
                tracing::debug!(error = %e, "DNS socket");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        match dns.local(&buffer[..length], false) {
            Local::Silence => {}
            Local::Reply(reply) => drop(socket.send_to(&reply, client).await),
            Local::Forward { failure } => {
                let Ok(permit) = permits.clone().try_acquire_owned() else {
                    let _ = socket.send_to(&failure, client).await;
                    continue;
                };
                let (dns, socket, query) = (dns.clone(), socket.clone(), buffer[..length].to_vec());
                tokio::spawn(async move {
                    let answer = dns.forwarder.ask(&query, false).await.unwrap_or(failure);
                    let _ = socket.send_to(&answer, client).await;
                    drop(permit);
                });
            }
        }
    }
}

async fn serve_tcp(dns: Arc<Dns>, listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        // The permit is taken first: clients beyond the limit wait in the listener's own short queue.
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let (stream, client) = match listener.accept().await {
            Ok(got) => got,
            Err(e) => {
                tracing::debug!(error = %e, "DNS listener");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let dns = dns.clone();
        tokio::spawn(async move {
            if let Err(e) = serve_stream(&dns, stream).await {
                tracing::trace!(%client, error = %e, "DNS over TCP");
            }
            drop(permit);
        });
    }
}

async fn serve_stream(dns: &Dns, mut stream: TcpStream) -> std::io::Result<()> {
    // A client may ask several questions, but not hold its place for ever.
    for _ in 0..32 {
        let length = timeout(IDLE, stream.read_u16()).await??;
        let mut query = vec![0; usize::from(length)];
        timeout(IDLE, stream.read_exact(&mut query)).await??;
        let Some(reply) = dns.reply(&query, true).await else { return Ok(()) };
        let Ok(length) = u16::try_from(reply.len()) else { return Ok(()) };
        timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), &reply[..]].concat())).await??;
    }
    Ok(())
}

/// The addresses on which a network's name server listens.
pub(crate) fn listen_addresses(view: &NetworkView, config: &Config) -> Vec<SocketAddr> {
    let mut ips: Vec<_> = view.config.subnets.iter().map(|s| s.gateway).collect();
    ips.push(config.cluster_dns);
    ips.dedup();
    ips.into_iter().map(|ip| SocketAddr::from((ip, 53))).collect()
}
