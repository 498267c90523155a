//! The HTTP side of the metadata service: few clients, small requests, short patience.

use super::{GuestData, MetadataProvider, ec2, openstack};
use crate::view::{NetworkView, Shared};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections of one network at once.
const MAX_CLIENTS: usize = 64;
/// How long a connection may last.
const PATIENCE: Duration = Duration::from_secs(15);

/// Serves until the task is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    view: Arc<Shared<NetworkView>>,
    provider: Arc<dyn MetadataProvider>,
) {
    let permits = Arc::new(Semaphore::new(MAX_CLIENTS));
    loop {
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let (stream, client) = match listener.accept().await {
            Ok(got) => got,
            Err(e) => {
                tracing::debug!(error = %e, "metadata listener");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let IpAddr::V4(source) = client.ip() else { continue };
        let (view, provider) = (view.clone(), provider.clone());
        tokio::spawn(async move {
            let service = hyper::service::service_fn(|request| answer(request, source, &view, &*provider));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .max_buf_size(16 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(e)) = tokio::time::timeout(PATIENCE, connection).await {
                tracing::trace!(%client, error = %e, "metadata connection");
            }
            drop(permit);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    source: Ipv4Addr,
    view: &Shared<NetworkView>,
    provider: &dyn MetadataProvider,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n"));
    }
    // Another proxy between us and the guest would make the source address somebody else's.
    if request.headers().contains_key("x-forwarded-for") {
        return Ok(plain(StatusCode::FORBIDDEN, "metadata is not served through a proxy\n"));
    }
    let view = view.get();
    let Some(guest) = provider.lookup(&view.config.uid, source).await else {
        return Ok(plain(StatusCode::NOT_FOUND, "no guest of this cloud has this address\n"));
    };
    Ok(match find(request.uri().path(), &guest) {
        Some((kind, body)) => respond(StatusCode::OK, kind, body),
        None => plain(StatusCode::NOT_FOUND, "not found\n"),
    })
}

fn find(path: &str, guest: &GuestData) -> Option<(&'static str, Vec<u8>)> {
    let path = path.trim_start_matches('/');
    if path.is_empty() {
        return Some(("text/plain", b"2009-04-04\nlatest\nopenstack".to_vec()));
    }
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    match first {
        "openstack" => openstack::find(rest, guest),
        "latest" | "2009-04-04" | "1.0" | "2007-01-19" | "2008-02-01" => {
            let kind = if rest == "user-data" { "application/octet-stream" } else { "text/plain" };
            Some((kind, ec2::find(rest, guest)?))
        }
        _ => None,
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    respond(status, "text/plain", text.as_bytes().to_vec())
}

fn respond(status: StatusCode, kind: &'static str, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
