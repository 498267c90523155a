//! `/dial/{namespace}/{pod}/{port}`: a connection to a port at a Pod's address, made inside the Pod's network namespace. The host
//! itself does not reach Pods.
//!
//! The API server speaks over it what it likes, HTTP or TLS: here it is but bytes.

use std::net::{IpAddr, SocketAddr};

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use hyper_util::rt::TokioIo;
use yunfan_network::DialFrom;

use super::{Api, find_pod, refuse, running_pod};

/// What the upgrade is called.
const PROTOCOL: &str = "yunfan-dial";

pub(crate) async fn dial(
    State(api): State<Api>,
    Path((namespace, pod, port)): Path<(String, String, u16)>,
    mut request: Request,
) -> Response {
    if request.headers().get(header::UPGRADE).is_none_or(|value| value != PROTOCOL) {
        return refuse(StatusCode::BAD_REQUEST, "Upgrade request required".to_owned());
    }
    let uid = match running_pod(&api, &namespace, &pod).await {
        Ok(uid) => uid,
        Err(refusal) => return refusal,
    };
    let address = match find_pod(&api, &namespace, &pod) {
        Ok(object) => {
            object.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok())
        }
        Err(refusal) => return refusal,
    };
    let Some(address) = address else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, format!("pod {namespace}/{pod} has no address yet"));
    };
    let stream = match api.networks.dial(DialFrom::Pod(&uid), SocketAddr::new(address, port)).await {
        Ok(stream) => stream,
        Err(error) => return refuse(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(client) = upgrade.await {
            yunfan_serve::splice(TokioIo::new(client), stream).await;
        }
    });
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, PROTOCOL)];
    (StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response()
}
