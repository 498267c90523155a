//! `GET /containerLogs/{namespace}/{pod}/{container}`: a container's log, as `kubectl logs` asks for it.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Deserialize;
use yunfan_runtime::{LogOptions, LogOutput, RuntimeError};

use super::streams::{Protocols, Transport, websocket};
use super::{Api, Refusal, find_container, refuse};

/// The query of `pods/log` (Kubernetes `PodLogOptions`).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LogQuery {
    #[serde(default)]
    follow: Flag,
    #[serde(default)]
    previous: Flag,
    #[serde(default)]
    timestamps: Flag,
    tail_lines: Option<u64>,
    since_seconds: Option<u64>,
    since_time: Option<jiff::Timestamp>,
    limit_bytes: Option<u64>,
    #[serde(default)]
    stream: Outputs,
}

/// Which outputs are shown.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum Outputs {
    #[default]
    All,
    Stdout,
    Stderr,
}

/// A log in a WebSocket: its bytes in messages without channels.
const PROTOCOLS: Protocols =
    Protocols { websocket: &["binary.k8s.io", "base64.binary.k8s.io", ""], spdy: &[] };

/// A switch in a query: `true`, `1`, or there without a value.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flag(pub(crate) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self(matches!(text.as_str(), "true" | "1" | "True" | "")))
    }
}

pub(crate) async fn logs(
    State(api): State<Api>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
    request: Request,
) -> Result<Response, Refusal> {
    let upgrade = request.headers().contains_key(header::UPGRADE);
    let transport = upgrade.then(|| Transport::agree(request.headers(), &PROTOCOLS)).transpose()?;
    let id = find_container(&api, &namespace, &pod, &container).await?;
    if query.previous.0 && id.attempt == 0 {
        let text = format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
        return Err(refuse(StatusCode::BAD_REQUEST, text).into());
    }
    let options = LogOptions {
        follow: query.follow.0,
        tail_lines: query.tail_lines,
        since: query.since_seconds.map(Duration::from_secs),
        since_time: query.since_time.map(SystemTime::from),
        previous: query.previous.0,
        timestamps: query.timestamps.0,
        limit_bytes: query.limit_bytes,
        output: match query.stream {
            Outputs::All => None,
            Outputs::Stdout => Some(LogOutput::Stdout),
            Outputs::Stderr => Some(LogOutput::Stderr),
        },
    };
    let stream = api.runtime.logs(&id, options).await.map_err(|error| {
        let status = match error {
            RuntimeError::ContainerNotFound(_) | RuntimeError::SandboxNotFound(_) => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        refuse(status, error.to_string())
    })?;
    Ok(match transport {
        Some(transport) => transport.switch(request, move |io, agreed| {
            let coding = agreed.coding();
            async move { websocket::send_all(io, coding, stream).await }
        }),
        // Who reads it page by page may stay at one for long.
        None => {
            let lasts = axum::Extension(yunfan_serve::Lasts);
            (lasts, [(header::CONTENT_TYPE, "text/plain")], Body::from_stream(stream)).into_response()
        }
    })
}
