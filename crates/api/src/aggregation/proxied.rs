//! A request that goes on to the server that answers for its group version, and its answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use http::{Request, Response, StatusCode, Uri, Version};
use yunfan_identity::UserInfo;
use yunfan_objects::ApiError;
use yunfan_serve::PeerAddress;

use super::{Aggregation, Remote, identity};
use crate::metrics::UnderWay;
use crate::proxy::{remove_cross_origin, remove_hop_headers, remove_identity, splice_upgrades};

/// What a group version has is told within this time, or the server is as good as away.
const DISCOVERY: Duration = Duration::from_secs(5);

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// Passes a request on in the name of its user, and its answer back.
///
/// # Errors
/// 503 where the server is not available, or does not answer.
pub(crate) async fn handle(
    aggregation: &Aggregation,
    remote: &Remote,
    user: &UserInfo,
    mut request: Request<Body>,
) -> Result<Response<Body>, ApiError> {
    if !remote.available {
        return Err(ApiError::service_unavailable("service unavailable", 0));
    }
    let under_way = request.extensions().get::<Arc<UnderWay>>().cloned();
    let upgrades = request.headers().contains_key(UPGRADE);
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let discovery = request.uri().path().split('/').filter(|word| !word.is_empty()).count() == 3;
    let request = outgoing(request, &remote.server.address.authority(), user)?;
    let unreachable = |why: &str| {
        tracing::debug!(name = remote.name, why, "an extension server does not answer");
        ApiError::service_unavailable(format!("error trying to reach service: {why}"), 0)
    };
    let answer = remote.server.send(&aggregation.reach, request);
    let answer = if discovery {
        let late = |_| unreachable("context deadline exceeded");
        tokio::time::timeout(DISCOVERY, answer).await.map_err(late)?
    } else {
        answer.await
    };
    let mut answer = answer.map_err(|why| unreachable(&why))?;
    if let Some(client) = client
        && answer.status() == StatusCode::SWITCHING_PROTOCOLS
    {
        splice_upgrades(client, hyper::upgrade::on(&mut answer), under_way);
        return Ok(answer.map(|_| Body::empty()));
    }
    let (mut parts, body) = answer.into_parts();
    remove_hop_headers(&mut parts.headers);
    remove_cross_origin(&mut parts.headers);
    parts.version = Version::default();
    Ok(Response::from_parts(parts, Body::new(body)))
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
    let upgrade = headers.get(UPGRADE).cloned();
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
}
