//! The name server's two transports. Its sockets were opened inside the network's namespace.

use super::forward::Forwarder;
use super::zone::{Answer, TTL, Zone};
use crate::types::Config;
use crate::view::{NetworkView, ServiceBook, Shared};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{RData, Record, RecordType};
use std::net::{IpAddr, SocketAddr};
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
/// Records of others that are passed on behind an alias.
const MAX_FOREIGN: usize = 64;
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
            Local::Ask(question) => Some(self.ask(question, bytes, over_tcp).await),
        }
    }

    /// Asks the host's resolvers.
    async fn ask(&self, question: Question, bytes: &[u8], over_tcp: bool) -> Vec<u8> {
        match question {
            Question::Same { failure } => self.forwarder.ask(bytes, over_tcp).await.unwrap_or(failure),
            Question::Alias { mut reply, query, room } => {
                // Without an answer the alias alone is said: it is true.
                let answer = match query.to_vec() {
                    Ok(query) => self.forwarder.ask(&query, over_tcp).await,
                    Err(_) => None,
                };
                if let Some(answer) = answer.and_then(|answer| Message::from_vec(&answer).ok()) {
                    reply.metadata.response_code = answer.metadata.response_code;
                    reply.add_answers(answer.answers.into_iter().take(MAX_FOREIGN));
                }
                match encode(&reply, room) {
                    Local::Reply(reply) => reply,
                    _ => Vec::new(),
                }
            }
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

        let room = if over_tcp { None } else { Some(usize::from(query.max_payload().clamp(512, MAX_UDP))) };
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
                    Local::Reply(failure) => Local::Ask(Question::Same { failure }),
                    other => other,
                };
            }
            Answer::NotOurs | Answer::NotYet => {}
            Answer::Alias(target) => {
                reply.metadata.authoritative = true;
                let alias = RData::CNAME(CNAME(target.clone()));
                reply.add_answer(Record::from_rdata(question.name().clone(), TTL, alias));
                if question.query_type() != RecordType::CNAME {
                    let wanted = Query::query(target, question.query_type());
                    match zone.answer(wanted.name(), wanted.query_type(), question.query_class()) {
                        Answer::Records(records) => drop(reply.add_answers(records)),
                        Answer::NotOurs if view.is_cluster() => {
                            let mut query = Message::new(id, MessageType::Query, OpCode::Query);
                            query.metadata.recursion_desired = true;
                            query.add_query(wanted);
                            let (reply, query) = (Box::new(reply), Box::new(query));
                            return Local::Ask(Question::Alias { reply, query, room });
                        }
                        // An alias of an alias is not followed: its target is asked for by who wants it.
                        _ => {}
                    }
                }
            }
            Answer::Records(records) if !records.is_empty() => {
                reply.metadata.authoritative = true;
                reply.add_answers(records);
            }
            Answer::Records(_) | Answer::NoSuchName => {
                reply.metadata.authoritative = true;
                reply.add_authorities(zone.soa());
            }
        }
        encode(&reply, room)
    }
}

enum Local {
    Silence,
    Reply(Vec<u8>),
    Ask(Question),
}

/// What the host's resolvers are asked.
enum Question {
    /// The client's own question; `failure` where nobody answers.
    Same { failure: Vec<u8> },
    /// What an alias stands for, to be added to the reply.
    Alias { reply: Box<Message>, query: Box<Message>, room: Option<usize> },
}

impl Question {
    /// The reply where nobody can be asked.
    fn unanswered(self) -> Vec<u8> {
        match self {
            Self::Same { failure } => failure,
            Self::Alias { reply, room, .. } => match encode(&reply, room) {
                Local::Reply(reply) => reply,
                _ => Vec::new(),
            },
        }
    }
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
            Local::Ask(question) => {
                let Ok(permit) = permits.clone().try_acquire_owned() else {
                    let _ = socket.send_to(&question.unanswered(), client).await;
                    continue;
                };
                let (dns, socket, query) = (dns.clone(), socket.clone(), buffer[..length].to_vec());
                tokio::spawn(async move {
                    let answer = dns.ask(question, &query, false).await;
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
    let mut ips: Vec<IpAddr> = view.config.subnets.iter().map(|s| s.gateway.into()).collect();
    ips.push(config.cluster_dns.into());
    ips.extend(view.config.subnets6.iter().map(|s| IpAddr::from(s.gateway)));
    ips.dedup();
    ips.into_iter().map(|ip| SocketAddr::from((ip, 53))).collect()
}
