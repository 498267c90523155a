//! `GET /containerLogs/{namespace}/{pod}/{container}`: a container's log, as `kubectl logs` asks for it.

use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Deserialize;
use yunfan_runtime::{LogOptions, RuntimeError};

use super::{Api, find_container, refuse};

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
}

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
) -> Response {
    let id = match find_container(&api, &namespace, &pod, &container).await {
        Ok(id) => id,
        Err(refusal) => return refusal,
    };
    if query.previous.0 && id.attempt == 0 {
        let text = format!("previous terminated container \"{container}\" in pod \"{pod}\" not found");
        return refuse(StatusCode::BAD_REQUEST, text);
    }
    let options = LogOptions {
        follow: query.follow.0,
        tail_lines: query.tail_lines,
        since: query.since_seconds.map(Duration::from_secs),
        since_time: query.since_time.map(SystemTime::from),
        previous: query.previous.0,
        timestamps: query.timestamps.0,
        limit_bytes: query.limit_bytes,
    };
    match api.runtime.logs(&id, options).await {
        Ok(stream) => ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(stream)).into_response(),
        Err(error @ (RuntimeError::ContainerNotFound(_) | RuntimeError::SandboxNotFound(_))) => {
            refuse(StatusCode::NOT_FOUND, error.to_string())
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}
