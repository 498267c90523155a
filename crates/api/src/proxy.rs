//! The way to the nodes: each agent serves the kubelet's HTTPS API on its own port, and shows a certificate
//! of the cloud's authority; we show ours. Where a node listens stands in its Node's status.

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::Body;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use yunfan_identity::authn::remove_websocket_token;
use yunfan_identity::pki::{self, Authority};
use yunfan_objects::{ApiError, GroupResource};

use crate::cache::Cache;
use crate::keys;
use crate::metrics::UnderWay;

/// A node that does not take the connection within this time is called unreachable.
const CONNECT: Duration = Duration::from_secs(5);
/// An answer's headers may take this long (an exec starts a process first).
const ANSWER: Duration = Duration::from_secs(30);
/// Most bytes of a node's refusal that are read.
const MAX_REFUSAL: usize = 64 * 1024;
/// What is wrong with a server that goes over to another protocol by itself.
pub(crate) const UNASKED: &str = "backend tried to switch protocol though that was not requested";
/// Name of this server on its client certificate.
const COMMON_NAME: &str = "system:yunfan:apiserver";

/// Calls nodes; a clone is the same.
#[derive(Clone)]
pub struct NodeDialer {
    cache: Weak<Cache>,
    tls: TlsConnector,
}

impl NodeDialer {
    pub(crate) fn new(cache: &Arc<Cache>, authority: &Authority) -> Result<Self, ApiError> {
        let fault =
            |error: pki::PkiError| ApiError::internal(format!("no certificate for calls to nodes: {error}"));
        let shown = authority
            .shown_client("apiserver-kubelet-client", COMMON_NAME, &["system:masters"])
            .map_err(fault)?;
        let trust = pki::Trust::of(authority.certificate()).map_err(fault)?;
        let config = pki::trusting(Some(trust), Some(shown)).map_err(fault)?;
        Ok(Self { cache: Arc::downgrade(cache), tls: TlsConnector::from(Arc::new(config)) })
    }

    /// Sends a request to a node's HTTPS API; of the URI only path and query count. The answer comes as
    /// it is, an upgrade (101) included: [`hyper::upgrade::on`] gives its stream.
    ///
    /// # Errors
    /// 404 for a Node that is not there, 503 for one that does not say where it listens, cannot be reached, or
    /// shows a certificate that is not the cloud's.
    pub async fn request(&self, node: &str, request: Request<Body>) -> Result<Response<Incoming>, ApiError> {
        let (host, port) = self.address(node)?;
        let unreachable = |why: String| {
            ApiError::service_unavailable(format!("node {node} at {host}:{port} cannot be reached: {why}"), 1)
        };
        let connect = async {
            let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|e| e.to_string())?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
            self.tls.connect(name, stream).await.map_err(|e| e.to_string())
        };
        let stream = match tokio::time::timeout(CONNECT, connect).await {
            Ok(stream) => stream.map_err(unreachable)?,
            Err(_) => return Err(unreachable("no answer in 5 s".to_owned())),
        };
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(error.to_string()))?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a node ended");
            }
        });
        let request = outgoing(request, &host, port)?;
        // What is uploaded is answered after its last byte, however long that takes: its sender sets the pace.
        let uploads = matches!(*request.method(), Method::PUT | Method::POST);
        let answer = sender.send_request(request);
        if uploads {
            return answer.await.map_err(|error| unreachable(error.to_string()));
        }
        match tokio::time::timeout(ANSWER, answer).await {
            Ok(answer) => answer.map_err(|error| unreachable(error.to_string())),
            Err(_) => Err(unreachable("no answer in 30 s".to_owned())),
        }
    }

    /// Whether this is the port that the node's agent listens on.
    pub(crate) fn is_agents_port(&self, node: &str, port: &str) -> Result<bool, ApiError> {
        self.address(node).map(|(_, agents)| port.parse() == Ok(agents))
    }

    /// Host and port of a node's agent.
    pub(crate) fn authority(&self, node: &str) -> Result<String, ApiError> {
        self.address(node).map(|(host, port)| authority(&host, port))
    }

    /// A connection to a port of a Pod, which the node's agent makes inside the Pod's network namespace.
    ///
    /// # Errors
    /// 503 with the words of Kubernetes' proxy.
    pub(crate) async fn dial(&self, node: &str, pod: &str, port: u16) -> Result<TokioIo<Upgraded>, ApiError> {
        let request = Request::get(format!("/dial/{pod}/{port}"))
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "yunfan-dial")
            .body(Body::empty())
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let unreachable =
            |why: &str| ApiError::service_unavailable(format!("error trying to reach service: {why}"), 0);
        let answer = self.request(node, request).await.map_err(|error| unreachable(error.message()))?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgraded = hyper::upgrade::on(answer).await;
            return upgraded.map(TokioIo::new).map_err(|error| unreachable(&error.to_string()));
        }
        let status = answer.status();
        let said = Limited::new(answer.into_body(), MAX_REFUSAL).collect().await;
        let said = said.map(|body| body.to_bytes()).unwrap_or_default();
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap_or_default();
        Err(unreachable(said["message"].as_str().unwrap_or(status.as_str())))
    }

    /// Where the node listens.
    fn address(&self, node: &str) -> Result<(String, u16), ApiError> {
        let Some(cache) = self.cache.upgrade() else {
            return Err(ApiError::service_unavailable("the server is stopping", 1));
        };
        let prefix = keys::kind_prefix("", "nodes");
        let Some(entry) = cache.kind(&prefix).get(&keys::object_key(&prefix, "", node)) else {
            return Err(ApiError::not_found(&GroupResource::new("", "nodes"), node));
        };
        let object = entry.decode_stored();
        let status = &object["status"];
        let port =
            status["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().and_then(|p| u16::try_from(p).ok());
        let addresses = status["addresses"].as_array();
        let host = addresses
            .into_iter()
            .flatten()
            .find(|a| a["type"] == "InternalIP")
            .and_then(|a| a["address"].as_str());
        match (host, port) {
            (Some(host), Some(port)) => Ok((host.to_owned(), port)),
            _ => Err(ApiError::service_unavailable(
                format!("node {node} does not say where its agent listens"),
                1,
            )),
        }
    }
}

/// What says who the caller is stays behind: a node must not see tokens, and a Pod even less.
pub(crate) fn remove_identity(headers: &mut HeaderMap) {
    let says_who = |name: &HeaderName| {
        // Who reads headers by the rules of CGI knows both by one name.
        let name = name.as_str().replace('_', "-");
        matches!(name.as_str(), "authorization" | "x-auth-token")
            || name.starts_with("impersonate-")
            || name.starts_with("x-remote-")
    };
    let names: Vec<HeaderName> = headers.keys().filter(|name| says_who(name)).cloned().collect();
    names.iter().for_each(|name| drop(headers.remove(name)));
    remove_websocket_token(headers);
}

/// Removes the headers by which a server lets pages of other hosts in: whose pages are let in here is not for others to say.
pub(crate) fn remove_cross_origin(headers: &mut HeaderMap) {
    for name in ["credentials", "headers", "methods", "origin"] {
        headers.remove(format!("access-control-allow-{name}"));
    }
}

/// Host and port as URLs have them.
pub(crate) fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Removes what counts for one connection only. (RFC 9110, section 7.6.1.)
pub(crate) fn remove_hop_headers(headers: &mut HeaderMap) {
    let listed: Vec<String> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(|name| name.trim().to_ascii_lowercase()))
        .collect();
    let known =
        ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];
    for name in known.into_iter().chain(listed.iter().map(String::as_str)) {
        headers.remove(name);
    }
}

fn outgoing(request: Request<Body>, host: &str, port: u16) -> Result<Request<Body>, ApiError> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
    parts.uri = Uri::try_from(path).map_err(|error| ApiError::bad_request(error.to_string()))?;
    parts.version = Version::HTTP_11;
    let authority = HeaderValue::try_from(authority(host, port))
        .map_err(|error| ApiError::internal(error.to_string()))?;
    parts.headers.insert(HOST, authority);
    remove_identity(&mut parts.headers);
    Ok(Request::from_parts(parts, body))
}

/// The protocol that a request wants to go over to. The header counts only where `Connection` names it. (RFC 9110, section 7.8.)
pub(crate) fn upgrade_of(headers: &HeaderMap) -> Option<&HeaderValue> {
    let listed = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let named =
        listed.flat_map(|value| value.split(',')).any(|name| name.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(UPGRADE).filter(|_| named)
}

/// Makes one stream of two upgraded connections, once both are there, and keeps the request, and something more, until that ends.
pub(crate) fn splice_upgrades(
    one: OnUpgrade,
    other: OnUpgrade,
    under_way: Option<Arc<UnderWay>>,
    kept: impl Send + 'static,
) {
    let end = under_way.as_ref().and_then(|under_way| under_way.end()).unwrap_or_default();
    tokio::spawn(async move {
        let _until_it_ends = (under_way, kept);
        let spliced = async {
            match tokio::try_join!(one, other) {
                Ok((one, other)) => drop(yunfan_serve::splice(TokioIo::new(one), TokioIo::new(other)).await),
                Err(error) => tracing::debug!(%error, "upgrade failed"),
            }
        };
        tokio::select! {
            () = spliced => {}
            () = end.cancelled() => {}
        }
    });
}

/// Forwards a request to a node and its answer back. An upgrade is passed through byte for byte.
pub(crate) async fn forward(
    dialer: &NodeDialer,
    node: &str,
    path_and_query: &str,
    mut request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    let under_way = request.extensions().get::<Arc<UnderWay>>().cloned();
    let upgrades = request.headers().contains_key(UPGRADE);
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    *request.uri_mut() =
        Uri::try_from(path_and_query).map_err(|error| ApiError::bad_request(error.to_string()))?;
    let mut answer = dialer.request(node, request).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let node_side = hyper::upgrade::on(&mut answer);
        if let Some(client) = client {
            splice_upgrades(client, node_side, under_way, ());
        }
        return Ok(answer.map(|_| Body::empty()));
    }
    let (mut parts, body) = answer.into_parts();
    remove_hop_headers(&mut parts.headers);
    parts.version = Version::default();
    Ok(Response::from_parts(parts, Body::new(body)))
}
