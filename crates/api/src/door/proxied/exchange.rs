//! One request and its answer, over a connection to a Pod.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, LOCATION, UPGRADE};
use http::{Request, Response, StatusCode, Uri, Version};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use yunfan_identity::pki;
use yunfan_objects::ApiError;

use crate::metrics::UnderWay;
use crate::proxy::{remove_hop_headers, remove_identity, splice_upgrades};

/// How long a TLS handshake with a Pod may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Most bytes of an answer's headers.
const MAX_HEADERS: usize = 64 * 1024;
/// Tells the Pod under which path its clients see it.
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// The path of a request, in parts.
pub(super) struct Way<'a> {
    /// Up to and with the subresource.
    pub(super) prefix: &'a str,
    /// What the Pod gets to see.
    pub(super) path: &'a str,
    /// With its question mark, or empty.
    pub(super) query: &'a str,
}

fn unreachable(why: impl std::fmt::Display) -> ApiError {
    ApiError::service_unavailable(format!("error trying to reach service: {why}"), 0)
}

/// Speaks TLS over a connection, with whoever is there.
pub(super) async fn secure<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Result<TlsStream<S>, ApiError> {
    // Pods sign their own, and what counts is that the connection is made inside the Pod's network.
    let config = pki::unchecked_client_config().map_err(|error| ApiError::internal(error.to_string()))?;
    // An address is never sent as a server name.
    let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    match tokio::time::timeout(HANDSHAKE, handshake).await {
        Ok(stream) => stream.map_err(unreachable),
        Err(_) => Err(unreachable("net/http: TLS handshake timeout")),
    }
}

/// Sends the request and passes the answer on. The connection ends with it.
pub(super) async fn run<S>(
    stream: S,
    way: &Way<'_>,
    mut request: Request<Body>,
) -> Result<Response<Body>, ApiError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let under_way = request.extensions().get::<Arc<UnderWay>>().cloned();
    let upgrades = request.headers().contains_key(UPGRADE);
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let request = outgoing(request, way)?;
    let host = request.headers().get(HOST).cloned();
    let mut settings = http1::Builder::new();
    settings.max_buf_size(MAX_HEADERS);
    let (mut sender, connection) = settings.handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
    tokio::spawn(async move {
        // It ends when the answer has been read or nobody wants it any more.
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a pod ended");
        }
    });
    let mut answer = sender.send_request(request).await.map_err(unreachable)?;
    if let Some(client) = client {
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            splice_upgrades(client, hyper::upgrade::on(&mut answer), under_way);
            return Ok(answer.map(|_| Body::empty()));
        }
        if answer.status().as_u16() < 400 {
            let status = answer.status().as_u16();
            return Err(ApiError::internal(format!("invalid upgrade response: status code {status}")));
        }
    }
    let (mut parts, body) = answer.into_parts();
    remove_hop_headers(&mut parts.headers);
    relocate(&mut parts.headers, way, host.as_ref());
    parts.version = Version::default();
    Ok(Response::from_parts(parts, Body::new(body)))
}

fn outgoing(request: Request<Body>, way: &Way<'_>) -> Result<Request<Body>, ApiError> {
    let bad = |error: &dyn std::error::Error| ApiError::bad_request(error.to_string());
    let (mut parts, body) = request.into_parts();
    // HTTP/2 has the host in the URI.
    let authority =
        parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if let Some(authority) = authority
        && !parts.headers.contains_key(HOST)
    {
        parts.headers.insert(HOST, authority);
    }
    parts.uri = Uri::try_from(format!("{}{}", way.path, way.query)).map_err(|e| bad(&e))?;
    parts.version = Version::HTTP_11;
    let upgrade = parts.headers.get(UPGRADE).cloned();
    remove_hop_headers(&mut parts.headers);
    remove_identity(&mut parts.headers);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(UPGRADE, upgrade);
    }
    let seen = HeaderValue::try_from(format!("{}{}", way.prefix, way.path)).map_err(|e| bad(&e))?;
    parts.headers.insert(FORWARDED, seen);
    Ok(Request::from_parts(parts, body))
}

/// A redirect to a path of the same host gets the path under which the client sees it.
fn relocate(headers: &mut HeaderMap, way: &Way<'_>, host: Option<&HeaderValue>) {
    let Some(text) = headers.get(LOCATION).and_then(|value| value.to_str().ok()) else { return };
    let Ok(uri) = text.parse::<Uri>() else { return };
    let other = uri
        .authority()
        .is_some_and(|authority| Some(authority.as_str()) != host.and_then(|host| host.to_str().ok()));
    let path = uri.path_and_query().map(|path| path.as_str()).unwrap_or_default();
    if other || !path.starts_with('/') || path.starts_with(way.prefix) {
        return;
    }
    if let Ok(value) = HeaderValue::try_from(format!("{}{path}", way.prefix)) {
        headers.insert(LOCATION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAY: Way<'_> = Way { prefix: "/api/v1/namespaces/d/pods/p/proxy", path: "/a", query: "?b" };

    #[test]
    fn redirects_within_the_host_stay_behind_the_proxy() {
        let host = HeaderValue::from_static("localhost:8001");
        let located = |text: &'static str| {
            let mut headers = HeaderMap::from_iter([(LOCATION, HeaderValue::from_static(text))]);
            relocate(&mut headers, &WAY, Some(&host));
            headers[LOCATION].to_str().unwrap().to_owned()
        };
        let inside = format!("{}/x/?y=1", WAY.prefix);
        assert_eq!(located("/x/?y=1"), inside);
        assert_eq!(located("http://localhost:8001/x/?y=1"), inside);
        assert_eq!(located("http://elsewhere/x"), "http://elsewhere/x");
        assert_eq!(located("x"), "x");
        assert_eq!(located("/api/v1/namespaces/d/pods/p/proxy/z"), format!("{}/z", WAY.prefix));
    }

    #[test]
    fn the_pod_sees_no_identity_and_no_hops() {
        let request = Request::post("https://cloud:6443/api/v1/namespaces/d/pods/p/proxy/a?b")
            .version(Version::HTTP_2)
            .header("authorization", "Bearer x")
            .header("impersonate-user", "x")
            .header("connection", "x-hop")
            .header("x-hop", "x")
            .header("x-own", "x")
            .body(Body::empty())
            .unwrap();
        let request = outgoing(request, &WAY).unwrap();
        assert_eq!(request.uri(), "/a?b");
        let mut names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["host", "x-forwarded-uri", "x-own"]);
        assert_eq!(request.headers()[HOST], "cloud:6443");
    }
}
