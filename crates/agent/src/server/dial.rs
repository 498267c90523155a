//! `/dial/{namespace}/{pod}/{port}`: a connection to a port at a Pod's address, made inside the Pod's network namespace. The host
//! itself does not reach Pods.
//!
//! The API server speaks over it what it likes, HTTP or TLS: here it is but bytes.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use hyper_util::rt::TokioIo;

use super::{Api, Refusal, find_pod, reach, refuse, running_pod};

/// What the upgrade is called.
const PROTOCOL: &str = "yunfan-dial";

pub(crate) async fn dial(
    State(api): State<Api>,
    Path((namespace, pod, port)): Path<(String, String, u16)>,
    mut request: Request,
) -> Result<Response, Refusal> {
    if request.headers().get(header::UPGRADE).is_none_or(|value| value != PROTOCOL) {
        return Err(refuse(StatusCode::BAD_REQUEST, "Upgrade request required".to_owned()).into());
    }
    let unavailable = |text: String| refuse(StatusCode::SERVICE_UNAVAILABLE, text);
    let uid = running_pod(&api, &namespace, &pod).await?;
    let object = find_pod(&api, &namespace, &pod)?;
    let address = object.status.as_ref().and_then(|status| status.pod_ip.as_ref()?.parse::<IpAddr>().ok());
    let address = address.ok_or_else(|| unavailable(format!("pod {namespace}/{pod} has no address yet")))?;
    let stream = reach(&api, &object, uid, address).dial(None, port).await.map_err(unavailable)?;
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        if let Ok(client) = upgrade.await {
            yunfan_serve::splice(TokioIo::new(client), stream).await;
        }
    });
    let headers = [(header::CONNECTION, "Upgrade"), (header::UPGRADE, PROTOCOL)];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers, Body::empty()).into_response())
}
