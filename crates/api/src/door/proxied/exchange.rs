//! One request and its answer, over a connection to a Pod.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use axum::BoxError;
use axum::body::Body;
use bytes::Bytes;
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

use super::links::Links;
use super::page;
use crate::metrics::UnderWay;
use crate::proxy::{
    UNASKED, remove_cross_origin, remove_hop_headers, remove_identity, splice_upgrades, upgrade_of,
};

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

/// Sends the request and passes the answer on. The connection ends with it. `server` is the address and port that it leads to.
pub(super) async fn run<S>(
    stream: S,
    way: &Way<'_>,
    server: String,
    mut request: Request<Body>,
) -> Result<Response<Body>, ApiError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let under_way = request.extensions().get::<Arc<UnderWay>>().cloned();
    let upgrades = upgrade_of(request.headers()).is_some();
    let client = upgrades.then(|| hyper::upgrade::on(&mut request));
    let links = Links { prefix: way.prefix.to_owned(), server, host: host(&request) };
    let request = outgoing(request, way)?;
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
            splice_upgrades(client, hyper::upgrade::on(&mut answer), under_way, ());
            return Ok(answer.map(|_| Body::empty()));
        }
        if answer.status().as_u16() < 400 {
            let status = answer.status().as_u16();
            return Err(ApiError::internal(format!("invalid upgrade response: status code {status}")));
        }
    } else if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(unreachable(UNASKED));
    }
    remove_hop_headers(answer.headers_mut());
    *answer.version_mut() = Version::default();
    passed(answer, links)
}

/// The host that a client asked; HTTP/2 has it in the URI.
pub(super) fn host(request: &Request<Body>) -> String {
    let header = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let host = header.or_else(|| request.uri().authority().map(http::uri::Authority::as_str));
    host.unwrap_or_default().to_owned()
}

/// What the client gets to see of an answer.
///
/// # Errors
/// 500 for a `Location` that is no URL.
pub(super) fn passed<B>(answer: Response<B>, links: Links) -> Result<Response<Body>, ApiError>
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + Unpin + 'static,
{
    let (mut parts, body) = answer.into_parts();
    remove_cross_origin(&mut parts.headers);
    // The page that comes with a redirect is not for reading.
    let body = if relocate(&mut parts.headers, &links)? {
        Body::new(body)
    } else {
        page::pass(&mut parts.headers, body, links)
    };
    Ok(Response::from_parts(parts, body))
}

fn outgoing(request: Request<Body>, way: &Way<'_>) -> Result<Request<Body>, ApiError> {
    let bad = |error: &dyn std::error::Error| ApiError::bad_request(error.to_string());
    let host = host(&request);
    let (mut parts, body) = request.into_parts();
    if let Ok(host) = HeaderValue::try_from(host)
        && !host.is_empty()
    {
        parts.headers.insert(HOST, host);
    }
    parts.uri = Uri::try_from(format!("{}{}", way.path, way.query)).map_err(|e| bad(&e))?;
    parts.version = Version::HTTP_11;
    let upgrade = upgrade_of(&parts.headers).cloned();
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

/// Leads a redirect to the same server through the proxy. Whether there is one.
fn relocate(headers: &mut HeaderMap, links: &Links) -> Result<bool, ApiError> {
    let wrong = |why: &dyn std::fmt::Display| {
        ApiError::internal(format!("error trying to parse Location header: {why}"))
    };
    let Some(location) = headers.get(LOCATION).filter(|location| !location.is_empty()) else {
        return Ok(false);
    };
    let location = location.to_str().map_err(|error| wrong(&error))?;
    if let Some(new) = links.rewrite(location).map_err(|error| wrong(&error))? {
        headers.insert(LOCATION, HeaderValue::try_from(new).map_err(|error| wrong(&error))?);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::links::tests::{PREFIX, links};
    use super::*;

    const WAY: Way<'_> = Way { prefix: PREFIX, path: "/a", query: "?b" };

    fn answer(headers: &[(&'static str, &'static str)]) -> Result<Response<Body>, ApiError> {
        let mut answer = Response::new(Body::from("<a href=/x>"));
        answer
            .headers_mut()
            .extend(headers.iter().map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v))));
        passed(answer, links())
    }

    #[tokio::test]
    async fn redirects_stay_behind_the_proxy_and_their_pages_as_they_are() {
        let redirect = answer(&[("location", "/x"), ("content-type", "text/html")]).unwrap();
        assert_eq!(redirect.headers()[LOCATION], format!("{PREFIX}/x"));
        let body = axum::body::to_bytes(redirect.into_body(), 99).await.unwrap();
        assert_eq!(body, "<a href=/x>");
        let elsewhere = answer(&[("location", "http://elsewhere/x")]).unwrap();
        assert_eq!(elsewhere.headers()[LOCATION], "http://elsewhere/x");
        let wrong = answer(&[("location", "/%zz")]).unwrap_err();
        assert!(wrong.message().contains("error trying to parse Location header"), "{}", wrong.message());
    }

    #[tokio::test]
    async fn pages_of_other_hosts_are_let_in_by_no_pod() {
        let page = answer(&[("access-control-allow-origin", "*"), ("content-type", "text/html")]).unwrap();
        assert_eq!(page.headers().len(), 1);
        let body = axum::body::to_bytes(page.into_body(), 99).await.unwrap();
        assert_eq!(body, format!("<a href=\"{PREFIX}/x\">"));
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
