//! Port-forward: pairs of lanes, one for the bytes of a connection to a port of the Pod, one for what went wrong with it.

use std::collections::BTreeMap;
#[cfg(test)]
use std::net::Ipv4Addr;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lane::{Lane, LaneOutput};
use super::spdy::{self, Headers, Opened};
use super::{Protocols, StreamError, TUNNEL, Transport, websocket};
use crate::pod::Reach;

/// What port-forward can be spoken in.
pub(in super::super) const PROTOCOLS: Protocols = Protocols {
    websocket: &["SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"],
    spdy: &["portforward.k8s.io"],
};
/// How long the second lane of a pair may take to come.
const PAIRING: Duration = Duration::from_secs(30);
/// Ports of one WebSocket: two channels each, and a channel's number is a byte.
const MAX_PORTS: usize = 100;

/// Makes a connection to a port of a Pod.
type Dial = Box<dyn Fn(u16) -> BoxFuture<'static, Result<TcpStream, String>> + Send + Sync>;

/// The Pod whose ports are forwarded.
pub(in super::super) struct Target {
    dial: Dial,
    name: String,
    uid: String,
}

impl Target {
    /// Connections go to the loopback interface of the network that the Pod is in.
    pub(in super::super) fn new(reach: Reach, name: String, uid: String) -> Self {
        let dial: Dial = Box::new(move |port| {
            let reach = reach.clone();
            Box::pin(async move { reach.dial(Some("localhost"), port).await })
        });
        Self { dial, name, uid }
    }

    /// Connections go to the host's own loopback interface.
    #[cfg(test)]
    pub(super) fn on_this_host(name: &str, uid: &str) -> Self {
        let dial: Dial = Box::new(|port| {
            Box::pin(async move {
                TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.map_err(|error| error.to_string())
            })
        });
        Self { dial, name: name.to_owned(), uid: uid.to_owned() }
    }

    fn failure(&self, port: u16, why: &str) -> String {
        format!("error forwarding port {port} to pod {}, uid {}: {why}", self.name, self.uid)
    }
}

/// The ports that a client of the channel protocol names in its query.
///
/// # Errors
/// In Kubernetes' words, why they can't be read.
pub(in super::super) fn ports(values: &[&str]) -> Result<Vec<u16>, String> {
    if values.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    let mut ports = Vec::new();
    for value in values {
        if value.is_empty() {
            return Err("query parameter \"port\" cannot be empty".to_owned());
        }
        for text in value.split(',') {
            ports.push(port(text)?);
        }
    }
    if ports.len() > MAX_PORTS {
        return Err(format!("at most {MAX_PORTS} ports can be forwarded over one connection"));
    }
    Ok(ports)
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(0) => Err(format!("port {text:?} must be > 0")),
        Ok(port) => Ok(port),
        Err(error) => Err(format!("unable to parse {text:?} as a port: {error}")),
    }
}

/// Serves one client until it leaves. `ports` count for the channel protocol alone; SPDY's streams name theirs.
pub(in super::super) async fn serve<S>(
    io: S,
    transport: Transport,
    target: Target,
    ports: Vec<u16>,
) -> Result<(), StreamError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match transport {
        Transport::WebSocket(agreed) if agreed.protocol.starts_with(TUNNEL) => {
            let tunnel = super::tunnel::Tunnel::new(websocket::socket(io).await);
            let (wire, opened) = spdy::open(tunnel, Box::new(is_valid))?;
            wire.run(pairs(opened, &target)).await
        }
        Transport::Spdy(_) => {
            let (wire, opened) = spdy::open(io, Box::new(is_valid))?;
            wire.run(pairs(opened, &target)).await
        }
        Transport::WebSocket(agreed) => {
            // No more than MAX_PORTS.
            let (wire, lanes) = websocket::channels(io, 2 * ports.len() as u8, agreed.coding()).await;
            wire.run(fixed(lanes, ports, &target)).await
        }
    }
}

/// Whether a stream's headers are such as port-forward's must be.
fn is_valid(headers: &Headers) -> bool {
    let kind = headers.get("streamtype");
    headers.get("port").is_some_and(|text| port(text).is_ok()) && matches!(kind, Some("data" | "error"))
}

/// Forwards what pairs come, until the client is gone.
async fn pairs(mut opened: mpsc::Receiver<Opened>, target: &Target) -> Result<(), StreamError> {
    let mut waiting: BTreeMap<String, (Instant, Opened)> = BTreeMap::new();
    let mut running = FuturesUnordered::new();
    loop {
        let late = waiting.iter().min_by_key(|(_, (since, _))| *since);
        let late = late.map(|(id, (since, _))| (id.clone(), *since + PAIRING));
        tokio::select! {
            next = opened.recv() => {
                let Some(next) = next else { return Ok(()) };
                let id = request_id(&next);
                match waiting.remove(&id) {
                    Some((_, first)) => {
                        if let Some((port, data, error)) = pair(first, next, &id).await {
                            running.push(forward(port, data, error, target));
                        }
                    }
                    None => {
                        waiting.insert(id, (Instant::now(), next));
                    }
                }
            }
            Some(()) = running.next() => {}
            () = until(late.as_ref().map(|(_, at)| *at)) => {
                if let Some((_, half)) = late.and_then(|(id, _)| waiting.remove(&id)) {
                    complain(&half, "timed out waiting for streams").await;
                }
            }
        }
    }
}

/// The port, the lane of its bytes and that of errors; none where the two are no pair.
async fn pair(first: Opened, second: Opened, id: &str) -> Option<(u16, Lane, LaneOutput)> {
    let is_data = |opened: &Opened| opened.headers.get("streamtype") == Some("data");
    let (data, error) = match (is_data(&first), is_data(&second)) {
        (true, false) => (first, second),
        (false, true) => (second, first),
        _ => {
            let why = format!("error processing stream for request {id}: it came twice");
            complain(&first, &why).await;
            complain(&second, &why).await;
            return None;
        }
    };
    let port = port(data.headers.get("port")?).ok()?;
    Some((port, data.lane, error.lane.output))
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// What belongs together has the same request id. Clients before Kubernetes 1.3 have none: they open the error stream first
/// and the data stream right after it.
fn request_id(opened: &Opened) -> String {
    match (opened.headers.get("requestid"), opened.headers.get("streamtype")) {
        (Some(id), _) => id.to_owned(),
        (None, Some("data")) => opened.number.saturating_sub(2).to_string(),
        (None, _) => opened.number.to_string(),
    }
}

/// Ends a lane that will not be used, and says why on one that is for errors.
async fn complain(half: &Opened, why: &str) {
    if half.headers.get("streamtype") == Some("error") {
        half.lane.output.send(Bytes::copy_from_slice(why.as_bytes())).await;
        half.lane.output.finish().await;
    } else {
        half.lane.output.reset().await;
    }
}

/// Forwards the ports of the query, one connection each; ends when all of them have ended.
async fn fixed(lanes: Vec<Lane>, ports: Vec<u16>, target: &Target) -> Result<(), StreamError> {
    let mut lanes = lanes.into_iter();
    let mut running = FuturesUnordered::new();
    for port in ports {
        let (Some(data), Some(error)) = (lanes.next(), lanes.next()) else { break };
        let number = Bytes::copy_from_slice(&port.to_le_bytes());
        data.output.send(number.clone()).await;
        error.output.send(number).await;
        running.push(forward(port, data, error.output, target));
    }
    while running.next().await.is_some() {}
    Ok(())
}

/// Carries one connection. Each direction ends by itself; the error lane ends with what comes from the Pod, because clients wait
/// for that before they let go of their side.
async fn forward(port: u16, data: Lane, error: LaneOutput, target: &Target) {
    let stream = match (target.dial)(port).await {
        Ok(stream) => stream,
        Err(why) => {
            error.send(target.failure(port, &why).into()).await;
            error.finish().await;
            return data.output.reset().await;
        }
    };
    let (from, to) = stream.into_split();
    let Lane { input, output } = data;
    let cut = CancellationToken::new();
    let out = async {
        if output.fill(from).await {
            output.finish().await;
        } else {
            cut.cancel();
        }
        error.finish().await;
    };
    let into = async {
        tokio::select! {
            () = input.pour(to) => {}
            () = cut.cancelled() => {}
        }
    };
    tokio::join!(out, into);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_come_one_by_one_or_as_a_list() {
        assert_eq!(ports(&["80", "443,8080"]).unwrap(), [80, 443, 8080]);
        for (values, why) in [
            (&[][..], "query parameter \"port\" is required"),
            (&[""], "query parameter \"port\" cannot be empty"),
            (&["0"], "port \"0\" must be > 0"),
            (&["65536"], "unable to parse \"65536\" as a port: number too large to fit in target type"),
        ] {
            assert_eq!(ports(values).unwrap_err(), why);
        }
        assert!(ports(&vec!["1"; MAX_PORTS + 1]).is_err());
    }
}
