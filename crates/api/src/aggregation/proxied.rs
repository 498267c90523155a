//! A request that goes on to the server that answers for its group version, and its answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, LOCATION,
    UPGRADE,
};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;
use yunfan_identity::UserInfo;
use yunfan_objects::ApiError;
use yunfan_serve::PeerAddress;

use super::checks::reader;
use super::{Aggregation, Place, Remote, identity};
use crate::door::params::Params;
use crate::door::{self, path};
use crate::metrics::UnderWay;
use crate::proxy::{
    UNASKED, remove_cross_origin, remove_hop_headers, remove_identity, splice_upgrades, upgrade_of,
};

/// What a group version has, and how that is described, is told within this time, or the server is as good as away.
const DISCOVERY: Duration = Duration::from_secs(5);
/// What a client gets in place of a redirect.
const REDIRECTED: &str = "the backend attempted to redirect this request, which is not permitted";

/// The protocols that streams of Kubernetes' clients have.
const STREAMS: [&str; 2] = ["websocket", "SPDY/3.1"];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// What a client may say of how it wants a document.
const DOCUMENT_HEADERS: [HeaderName; 3] = [ACCEPT, ACCEPT_ENCODING, IF_NONE_MATCH];

/// Passes a request on in the name of its user, and its answer back.
///
/// # Errors
/// 503 where the server is not available, does not answer, or changes the protocol otherwise than it was asked to.
pub(crate) async fn handle(
    aggregation: &Aggregation,
    remote: &Remote,
    user: &UserInfo,
    mut request: Request<Body>,
    place: Place,
) -> Result<Response<Body>, ApiError> {
    let under_way = request.extensions().get::<Arc<UnderWay>>().cloned();
    let upgrades = stream_of(request.headers()).is_some();
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let discovery = path::words(request.uri().path()).len() == 3;
    let request = outgoing(request, &remote.server.address.authority(), user)?;
    let mut answer = ask(aggregation, remote, request, discovery).await?;
    let place = place.answered();
    let status = answer.status();
    match client {
        Some(client) if status == StatusCode::SWITCHING_PROTOCOLS => {
            splice_upgrades(client, hyper::upgrade::on(&mut answer), under_way, place);
            Ok(answer.map(|_| Body::empty()))
        }
        Some(_) if status.as_u16() < 400 => {
            let why = format!("invalid upgrade response: status code {}", status.as_u16());
            Err(unreachable(remote, &why))
        }
        _ => passed(remote, answer, place),
    }
}

/// Asks for the document of a server's group version, and passes it on. Each client gets the same one, so it is ourselves who
/// ask: of the request nothing goes on but the form that it wants. None where the server does not tell of a document.
///
/// # Errors
/// As [`handle`].
pub(crate) async fn document(
    aggregation: &Aggregation,
    remote: &Remote,
    request: Request<Body>,
    place: Place,
) -> Result<Option<Response<Body>>, ApiError> {
    let known = aggregation.known(&remote.name);
    let Some(hash) = known.and_then(|known| known.documents.third.clone()) else { return Ok(None) };
    // The server may lead away from the hash of an older document, and we don't follow.
    let wanted = Params::parse(request.uri().query());
    let query = wanted.get("hash").filter(|wanted| **wanted == hash);
    let query = query.map(|hash| format!("?hash={hash}")).unwrap_or_default();
    let mut asked = Request::builder()
        .method(request.method())
        .uri(format!("/openapi/v3{}{query}", remote.path()))
        .header(HOST, remote.server.address.authority())
        .body(Body::empty())
        .map_err(|error| ApiError::internal(error.to_string()))?;
    for name in DOCUMENT_HEADERS {
        for value in request.headers().get_all(&name) {
            asked.headers_mut().append(&name, value.clone());
        }
    }
    identity::tell(asked.headers_mut(), &reader())?;
    let answer = ask(aggregation, remote, asked, true).await?;
    passed(remote, answer, place.answered()).map(Some)
}

/// Sends a request to the server, if that is available; `brief` ones have little time.
async fn ask(
    aggregation: &Aggregation,
    remote: &Remote,
    request: Request<Body>,
    brief: bool,
) -> Result<Response<Incoming>, ApiError> {
    if !remote.available {
        return Err(ApiError::service_unavailable("service unavailable", 0));
    }
    let answer = remote.server.send(&aggregation.reach, request);
    let answer = if brief {
        let late = |_| unreachable(remote, "context deadline exceeded");
        tokio::time::timeout(DISCOVERY, answer).await.map_err(late)?
    } else {
        answer.await
    };
    answer.map_err(|why| unreachable(remote, &why))
}

/// The protocol for streams that a request wants to go over to. Nothing else goes: over another version of HTTP the client would say who it
/// is on a connection on which our word is taken for that.
fn stream_of(headers: &HeaderMap) -> Option<&HeaderValue> {
    let stream = |wanted: &&HeaderValue| {
        STREAMS.iter().any(|name| wanted.as_bytes().eq_ignore_ascii_case(name.as_bytes()))
    };
    upgrade_of(headers).filter(stream)
}

fn unreachable(remote: &Remote, why: &str) -> ApiError {
    tracing::debug!(name = remote.name, why, "an extension server does not answer");
    ApiError::service_unavailable(format!("error trying to reach service: {why}"), 0)
}

/// The answer as the client gets it. It keeps its place until it has been read.
fn passed(
    remote: &Remote,
    answer: Response<Incoming>,
    place: OwnedSemaphorePermit,
) -> Result<Response<Body>, ApiError> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(unreachable(remote, UNASKED));
    }
    // Clients would follow it with their tokens, wherever it leads.
    if answer.status().is_redirection() && answer.headers().contains_key(LOCATION) {
        return Ok(door::text(StatusCode::BAD_GATEWAY.as_u16(), REDIRECTED));
    }
    let (mut parts, body) = answer.into_parts();
    remove_hop_headers(&mut parts.headers);
    remove_cross_origin(&mut parts.headers);
    parts.version = Version::default();
    let body = Body::new(body);
    Ok(Response::from_parts(parts, if body.is_end_stream() { body } else { door::held(body, place) }))
}

/// The request as the other server gets it: without what says who the client is, but for our own word on that.
fn outgoing(request: Request<Body>, server: &str, user: &UserInfo) -> Result<Request<Body>, ApiError> {
    let bad = |error: &dyn std::error::Error| ApiError::bad_request(error.to_string());
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let seen = HeaderValue::try_from(parts.uri.path()).map_err(|e| bad(&e))?;
    parts.uri = Uri::try_from(path.to_owned()).map_err(|e| bad(&e))?;
    parts.version = Version::HTTP_11;
    let headers = &mut parts.headers;
    let upgrade = stream_of(headers).cloned();
    remove_hop_headers(headers);
    remove_identity(headers);
    let host = HeaderValue::try_from(server).map_err(|error| ApiError::internal(error.to_string()))?;
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, upgrade);
    } else {
        headers.insert(FORWARDED_URI, seen);
        headers.insert(FORWARDED_HOST, host.clone());
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("https"));
    }
    headers.insert(HOST, host);
    if let Some(peer) = parts.extensions.get::<PeerAddress>() {
        add_hop(headers, &peer.0.ip().to_string());
    }
    identity::tell(headers, user)?;
    Ok(Request::from_parts(parts, body))
}

/// Adds whom a request came from to the list of its stations.
fn add_hop(headers: &mut HeaderMap, peer: &str) {
    let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let all = before.chain([peer]).collect::<Vec<_>>().join(", ");
    if let Ok(all) = HeaderValue::try_from(all) {
        headers.insert(FORWARDED_FOR, all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(request: http::request::Builder) -> HeaderMap {
        let user = UserInfo::authenticated("ann", Vec::<String>::new());
        let request = request.body(Body::empty()).expect("a request");
        let request = outgoing(request, "s.n.svc:443", &user).expect("it is passed on");
        assert_eq!(request.uri(), "/apis/a/v1/x?y=%20");
        request.headers().clone()
    }

    #[test]
    fn who_asks_is_what_we_say_and_nothing_else() {
        let peer = "192.0.2.1:9".parse().map(PeerAddress).expect("an address");
        let headers = sent(
            Request::get("https://cloud:6443/apis/a/v1/x?y=%20")
                .version(Version::HTTP_2)
                .header("authorization", "Bearer x")
                .header("x-auth-token", "x")
                .header("impersonate-user", "root")
                .header("X-Remote-User", "root")
                .header("X_Remote_User", "root")
                .header("X-Remote_Group", "system:masters")
                .header("upgrade", "websocket")
                .header("X-Remote-Uid", "0")
                .header("X-Remote-Group", "system:masters")
                .header("X-Remote-Extra-Scopes", "all")
                .header("connection", "x-hop")
                .header("x-hop", "x")
                .header("x-forwarded-for", "198.51.100.7")
                .header("accept", "text/plain")
                .extension(peer),
        );
        let mut all: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap_or("?"))).collect();
        all.sort_unstable();
        assert_eq!(
            all,
            [
                ("accept", "text/plain"),
                ("host", "s.n.svc:443"),
                ("x-forwarded-for", "198.51.100.7, 192.0.2.1"),
                ("x-forwarded-host", "s.n.svc:443"),
                ("x-forwarded-proto", "https"),
                ("x-forwarded-uri", "/apis/a/v1/x"),
                ("x-remote-group", "system:authenticated"),
                ("x-remote-user", "ann"),
            ]
        );
    }

    #[test]
    fn an_upgrade_stays_one() {
        let headers = sent(
            Request::get("/apis/a/v1/x?y=%20")
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .header("sec-websocket-key", "k"),
        );
        assert_eq!(
            (&headers[CONNECTION], &headers[UPGRADE]),
            (&"Upgrade".parse().unwrap(), &"websocket".parse().unwrap())
        );
        assert_eq!(
            (&headers["sec-websocket-key"], headers.get(FORWARDED_URI)),
            (&"k".parse().unwrap(), None)
        );
    }

    #[test]
    fn another_version_of_http_is_no_stream() {
        let upgrade = |protocol: &str| {
            let request = Request::get("/apis/a/v1/x?y=%20").header("connection", "upgrade, http2-settings");
            sent(request.header("upgrade", protocol).header("http2-settings", "AAMAAABkAAQAAP__"))
        };
        for protocol in ["h2c", "websocket, h2c", "HTTP/2.0", "TLS/1.3"] {
            let headers = upgrade(protocol);
            let left = [UPGRADE, CONNECTION, HeaderName::from_static("http2-settings")];
            assert!(left.iter().all(|name| !headers.contains_key(name)), "{protocol}: {headers:?}");
        }
        for protocol in ["WebSocket", "SPDY/3.1"] {
            assert_eq!(upgrade(protocol)[UPGRADE], protocol);
        }
    }
}
