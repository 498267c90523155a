//! The agent's HTTPS API: what the doors ask of a node that is no object but a stream of bytes.
//!
//! Paths are the kubelet's where the kubelet has one (`/containerLogs`, `/exec`), so that an API server can be pointed at
//! either.

mod agents;
mod exec;
mod images;
mod logs;
mod spdy;
mod websocket;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::json;
use yunfan_client::Informer;
use yunfan_disks::ImageStore;
use yunfan_hypervisor::Hypervisor;
use yunfan_identity::PeerCertificate;
use yunfan_resources::names::{COMPONENTS_GROUP, MASTERS_GROUP, NODES_GROUP};
use yunfan_runtime::{ContainerId, Runtime};

pub use agents::Client;

/// Most lines of a console log that are sent.
const MAX_CONSOLE_LINES: usize = 100_000;

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    pub(crate) images: ImageStore,
    pub(crate) containers: Arc<yunfan_runtime::ImageStore>,
    pub(crate) pods: Informer<Pod>,
}

/// The API as a router; every path but `/healthz` asks for a certificate of the cloud's own components or nodes.
pub(crate) fn router(api: Api) -> Router {
    Router::new()
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::logs))
        .route("/exec/{namespace}/{pod}/{container}", get(exec::exec).post(exec::exec))
        .route("/console/{uid}", get(console))
        .route("/images/{namespace}/{id}", axum::routing::put(images::upload))
        .route("/images/{id}", get(images::download).delete(images::remove))
        .route("/containerImages", get(images::list_oci).post(images::import_oci))
        .layer(middleware::from_fn(authorize))
        .route("/healthz", get(|| async { "ok" }))
        // Bodies that can be large are streamed and have limits of their own.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(api)
}

async fn authorize(request: Request, next: Next) -> Response {
    let user = request.extensions().get::<PeerCertificate>().map(PeerCertificate::user);
    match user {
        Some(Ok(user)) if [COMPONENTS_GROUP, MASTERS_GROUP, NODES_GROUP].iter().any(|g| user.in_group(g)) => {
            next.run(request).await
        }
        Some(Ok(user)) => {
            refuse(StatusCode::FORBIDDEN, format!("user {} may not use a node's API", user.name))
        }
        _ => refuse(StatusCode::UNAUTHORIZED, "a client certificate of this cloud is needed".to_owned()),
    }
}

/// An error answer: a Status, which the API server passes on to its clients as it is.
pub(crate) fn refuse(status: StatusCode, message: String) -> Response {
    let reason = match status {
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::CONFLICT => "Conflict",
        StatusCode::INTERNAL_SERVER_ERROR => "InternalError",
        // What Kubernetes says when a code tells it all.
        _ => "",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": status.as_u16(),
    });
    (status, axum::Json(body)).into_response()
}

#[derive(Deserialize)]
struct ConsoleQuery {
    length: Option<usize>,
}

async fn console(
    State(api): State<Api>,
    Path(uid): Path<String>,
    Query(query): Query<ConsoleQuery>,
) -> Response {
    let lines = query.length.map(|length| length.min(MAX_CONSOLE_LINES));
    match api.hypervisor.console_log(&uid, lines).await {
        Ok(text) => text.into_response(),
        Err(error @ yunfan_hypervisor::Error::NotFound { .. }) => {
            refuse(StatusCode::NOT_FOUND, error.to_string())
        }
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The last run of a container of a Pod on this node.
pub(crate) async fn find_container(
    api: &Api,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<ContainerId, Response> {
    let missing = |what: String| refuse(StatusCode::NOT_FOUND, what);
    let Some(object) = api.pods.get(Some(namespace), pod) else {
        return Err(missing(format!("pod {namespace}/{pod} is not on this node")));
    };
    let uid = object.metadata.uid.clone().unwrap_or_default();
    let sandbox = match api.runtime.sandbox(&uid).await {
        Ok(Some(sandbox)) => sandbox,
        Ok(None) => return Err(waiting(pod, container)),
        Err(error) => return Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    };
    let runs = sandbox.containers.iter().filter(|run| run.id.name == container);
    runs.max_by_key(|run| run.id.attempt).map(|run| run.id.clone()).ok_or_else(|| waiting(pod, container))
}

/// In the API server's own words, which scripts look for.
fn waiting(pod: &str, container: &str) -> Response {
    let text = format!("container \"{container}\" in pod \"{pod}\" is waiting to start: ContainerCreating");
    refuse(StatusCode::BAD_REQUEST, text)
}
