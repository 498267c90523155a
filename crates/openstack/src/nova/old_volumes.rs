//! `/os-volumes` and `/os-snapshots`: Cinder's volumes in Nova's words, which Nova gave up with microversion 2.36. Each call is the
//! same call of Cinder's, made by the same token; only names are others.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Extensions, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use serde_json::{Map, Value, json};
use tower::ServiceExt;
use yunfan_serve::PeerAddress;

use crate::Ctx;
use crate::auth::{self, RequestId};
use crate::error::Fault;
use crate::microversion::Microversion;
use crate::ruled::Whole;
use crate::versions::json_response;

/// The microversion that ended them.
const ENDED: Microversion = Microversion(36);
/// The most bytes of an answer of Cinder's: a page of a thousand volumes is less.
const MOST: usize = 16 << 20;
/// Members of a volume, Nova's name and Cinder's.
const VOLUME: [(&str, &str); 10] = [
    ("id", "id"),
    ("status", "status"),
    ("size", "size"),
    ("availabilityZone", "availability_zone"),
    ("createdAt", "created_at"),
    ("displayName", "name"),
    ("displayDescription", "description"),
    ("metadata", "metadata"),
    ("volumeType", "volume_type"),
    ("snapshotId", "snapshot_id"),
];
/// Members of a snapshot, likewise.
const SNAPSHOT: [(&str, &str); 7] = [
    ("id", "id"),
    ("status", "status"),
    ("size", "size"),
    ("createdAt", "created_at"),
    ("displayName", "name"),
    ("displayDescription", "description"),
    ("volumeId", "volume_id"),
];

/// The paths; `cinder` is what answers for volumes.
pub(super) fn router(cinder: Router) -> Router<Ctx> {
    let handler = any(move |State(door): State<Ctx>, request: Request| answer(door, cinder.clone(), request));
    let mut router = Router::new();
    for what in ["os-volumes", "os-snapshots"] {
        router = router
            .route(&format!("/{what}"), handler.clone())
            .route(&format!("/{what}/{{*rest}}"), handler.clone());
    }
    router
}

async fn answer(door: Ctx, cinder: Router, request: Request) -> Response {
    match asked(&door, cinder, request).await {
        Ok(response) => response,
        Err(fault) => fault.into_response(),
    }
}

async fn asked(door: &Ctx, cinder: Router, mut request: Request) -> Result<Response, Fault> {
    // Nobody is told which paths there are.
    auth::claims(door, request.headers(), "x-auth-token")?.ok_or_else(Fault::unauthorized)?;
    let gone = || Fault::new(StatusCode::NOT_FOUND, "The resource could not be found.");
    let version = request.extensions().get::<Microversion>().copied().unwrap_or(Microversion(0));
    if version >= ENDED {
        return Err(gone());
    }
    let path = request.uri().path().to_owned();
    let (_, words) = path.split_once("/os-").ok_or_else(gone)?;
    let (what, rest) = words.split_once('/').unwrap_or((words, ""));
    if rest.contains('/') || !matches!(*request.method(), Method::GET | Method::POST | Method::DELETE) {
        return Err(gone());
    }
    // Nova's short list has all members, too.
    let rest = if rest.is_empty() && request.method() == Method::GET { "detail" } else { rest };
    let slash = if rest.is_empty() { "" } else { "/" };
    let query = request.uri().query().map(|query| format!("?{query}")).unwrap_or_default();
    *request.uri_mut() = format!("/{what}{slash}{rest}{query}").parse().map_err(|_| gone())?;
    let mut kept = Extensions::new();
    kept.insert(Microversion(0));
    request.extensions().get::<PeerAddress>().copied().map(|peer| kept.insert(peer));
    request.extensions().get::<RequestId>().cloned().map(|id| kept.insert(id));
    request.extensions().get::<Whole>().cloned().map(|whole| kept.insert(whole));
    *request.extensions_mut() = kept;
    let response = match cinder.oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    };
    renamed(response).await
}

/// An answer of Cinder's in Nova's words; a refusal, and one without a body, as it is.
async fn renamed(response: Response) -> Result<Response, Fault> {
    let has_body = matches!(response.status(), StatusCode::OK | StatusCode::ACCEPTED);
    if !has_body {
        return Ok(response);
    }
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, MOST).await.map_err(|error| Fault::bad(error.to_string()))?;
    if bytes.is_empty() {
        return Ok(Response::from_parts(parts, Body::empty()));
    }
    let told: Map<String, Value> =
        serde_json::from_slice(&bytes).map_err(|error| Fault::bad(error.to_string()))?;
    // Links to further pages would lead to Cinder.
    let all = told.into_iter().filter(|(key, _)| !key.ends_with("_links"));
    let renamed: Map<String, Value> = all
        .map(|(key, value)| {
            let value = match value {
                Value::Array(many) => many.iter().map(|one| view(&key, one)).collect(),
                one => view(&key, &one),
            };
            (key, value)
        })
        .collect();
    Ok(json_response(StatusCode::OK, &Value::Object(renamed)))
}

fn view(key: &str, one: &Value) -> Value {
    let members: &[(&str, &str)] = if key.starts_with("volume") { &VOLUME } else { &SNAPSHOT };
    let mut view: Map<String, Value> =
        members.iter().map(|(own, cinders)| ((*own).to_owned(), one[*cinders].clone())).collect();
    if key.starts_with("volume") {
        let attachments = one["attachments"].as_array();
        let attachments: Vec<Value> = attachments
            .into_iter()
            .flatten()
            .map(|one| {
                json!({"id": one["id"], "volumeId": one["volume_id"], "serverId": one["server_id"], "device": one["device"]})
            })
            .collect();
        // One that no server has is shown with an empty one.
        view.insert(
            "attachments".into(),
            if attachments.is_empty() { json!([{}]) } else { json!(attachments) },
        );
    }
    Value::Object(view)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_novas_names() {
        let shown =
            view("volumes", &json!({"id": "v", "name": "disk", "attachments": [], "created_at": "now"}));
        assert_eq!((&shown["displayName"], &shown["createdAt"]), (&json!("disk"), &json!("now")));
        assert_eq!(shown["attachments"], json!([{}]));
        let shown = view("snapshot", &json!({"id": "s", "volume_id": "v"}));
        assert_eq!((&shown["volumeId"], shown.get("attachments")), (&json!("v"), None));
    }
}
