//! `/metrics`, and `/metrics/slis` with what tells of health alone.

use axum::body::Body;
use http::{HeaderMap, Response};
use yunfan_objects::ApiError;

use super::{negotiate, respond};
use crate::{Api, metrics};

const PLAIN: &str = "text/plain; version=0.0.4; charset=utf-8";
const OPEN: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Begins to count anew.
pub(super) fn reset(api: &Api, health: bool) -> Result<Response<Body>, ApiError> {
    api.0.metrics.reset(health)?;
    Ok(respond::raw(200, "text/plain; charset=utf-8", "metrics reset\n".to_owned()))
}

/// Tells what is counted, in the form that the client likes best: all of it, or that of health.
pub(super) fn handle(api: &Api, headers: &HeaderMap, health: bool) -> Result<Response<Body>, ApiError> {
    let open = negotiate::clauses(headers).iter().find_map(|clause| match clause.media {
        "application/openmetrics-text" => Some(true),
        "text/plain" | "text/*" | "*/*" => Some(false),
        _ => None,
    });
    let told = api.0.metrics.told(health)?;
    // Whoever asks for something else gets what every reader of metrics understands.
    if open == Some(true) {
        return Ok(respond::raw(200, OPEN, metrics::open(&told)));
    }
    Ok(respond::raw(200, PLAIN, metrics::plain(&told)))
}
