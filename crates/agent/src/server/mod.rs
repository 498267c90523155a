//! The agent's HTTPS API: what the doors ask of a node that is no object but a stream of bytes.
//!
//! Paths are the kubelet's where the kubelet has one (`/containerLogs`, `/exec`, `/attach`, `/portForward`, `/pods`, `/logs/`, `/stats/summary`, `/metrics`), so that an API server can be pointed at
//! either.

mod agents;
mod bearer;
mod consoles;
mod dial;
mod exec;
mod images;
mod logs;
mod node_logs;
mod streams;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, put};
use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey};
use yunfan_disks::ImageStore;
use yunfan_hypervisor::Hypervisor;
use yunfan_identity::PeerCertificate;
use yunfan_network::NodeNetworks;
use yunfan_resources::names::{COMPONENTS_GROUP, MASTERS_GROUP, NODES_GROUP};
use yunfan_runtime::{ContainerId, ContainerState, ContainerStatus, ImageService, Runtime};

pub use agents::Client;
pub(crate) use bearer::Reviews;
pub(crate) use consoles::Consoles;

use crate::pod::Pods;
use crate::pod::{MIRROR, Reach};
use crate::statics::Statics;
use crate::stats::{self, Stats};

/// Most lines of a console log that are sent.
const MAX_CONSOLE_LINES: usize = 100_000;

/// What the handlers work with.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    pub(crate) images: ImageStore,
    pub(crate) containers: Arc<dyn ImageService>,
    pub(crate) pods: Informer<Pod>,
    pub(crate) statics: Arc<Statics>,
    pub(crate) networks: NodeNetworks,
    pub(crate) stats: Arc<Stats>,
    /// What runs, by what is known of it here.
    pub(crate) workloads: Arc<Pods>,
    /// Who looks at machines' consoles.
    pub(crate) consoles: Consoles,
}

/// What there is to ask for.
struct Route<S> {
    path: &'static str,
    handler: MethodRouter<S>,
}

/// What other nodes may ask for, too: the bytes of disk images that they lack. Whoever took over one node has its certificate, and must
/// not come to the Pods of others with it.
const FOR_NODES: [(Method, &str); 1] = [(Method::GET, IMAGE)];
const IMAGE: &str = "/images/{id}";

/// The API as a router; every path but `/healthz` asks for a certificate of the cloud's own components or masters, [`FOR_NODES`] is for
/// nodes as well, and [`bearer::OPEN`] for those whose token gives them a right to it.
pub(crate) fn router(api: Api, reviews: Reviews) -> Router {
    guarded(routes(), reviews)
        .route("/healthz", get(|| async { "ok" }))
        // Bodies that can be large are streamed and have limits of their own.
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(api)
}

fn routes() -> Vec<Route<Api>> {
    let route = |path, handler| Route { path, handler };
    vec![
        route("/containerLogs/{namespace}/{pod}/{container}", get(logs::logs)),
        route("/exec/{namespace}/{pod}/{container}", get(exec::exec).post(exec::exec)),
        route("/attach/{namespace}/{pod}/{container}", get(exec::attach).post(exec::attach)),
        route("/portForward/{namespace}/{pod}", get(exec::port_forward).post(exec::port_forward)),
        route("/dial/{namespace}/{pod}/{port}", get(dial::dial)),
        route("/console/{uid}", get(console)),
        route("/console/{uid}/{kind}", get(consoles::connect)),
        route("/images/{namespace}/{id}", put(images::upload)),
        route(IMAGE, get(images::download).delete(images::remove)),
        route("/stats/summary", get(stats::summary)),
        route("/metrics", get(stats::own)),
        route("/metrics/cadvisor", get(stats::cadvisor)),
        route("/metrics/probes", get(stats::probes)),
        route("/metrics/resource", get(stats::resource)),
        route("/pods", get(pods)),
        route("/logs/", get(node_logs::root)),
        route("/logs/{*path}", get(node_logs::below)),
        route("/containerImages/archive", get(images::export_oci)),
        route("/containerImages", get(images::list_oci).post(images::import_oci)),
    ]
}

/// Routes that only those get to who may.
fn guarded<S: Clone + Send + Sync + 'static>(routes: Vec<Route<S>>, reviews: Reviews) -> Router<S> {
    let all = routes.into_iter().fold(Router::new(), |all, route| all.route(route.path, route.handler));
    all.layer(middleware::from_fn_with_state(reviews, authorize))
}

async fn authorize(State(reviews): State<Reviews>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let for_nodes = FOR_NODES.iter().any(|(method, open)| request.method() == method && path == Some(*open));
    let user = request.extensions().get::<PeerCertificate>().map(PeerCertificate::user);
    match user {
        Some(Ok(user))
            if [COMPONENTS_GROUP, MASTERS_GROUP].iter().any(|group| user.in_group(group))
                || for_nodes && user.in_group(NODES_GROUP) =>
        {
            next.run(request).await
        }
        Some(Ok(user)) => {
            let what = format!("{} {}", request.method(), path.unwrap_or("this path"));
            refuse(StatusCode::FORBIDDEN, format!("user {} may not {what} of a node's API", user.name))
        }
        _ => match path.filter(|path| bearer::OPEN.iter().any(|(open, _)| open == path)) {
            Some(path) => match reviews.check(request.method(), path, request.headers()).await {
                Ok(()) => next.run(request).await,
                Err(answer) => answer,
            },
            None => {
                refuse(StatusCode::UNAUTHORIZED, "a client certificate of this cloud is needed".to_owned())
            }
        },
    }
}

/// `GET /pods`: the Pods of this node, those of its own files among them.
async fn pods(State(api): State<Api>) -> Response {
    let objects = api.pods.list().into_iter().filter(|pod| !is_mirror(pod));
    let all: Vec<Arc<Pod>> = objects.chain(api.statics.list()).collect();
    axum::Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": all})).into_response()
}

/// Whether a Pod is what the API server shows of one of the node's files.
fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.iter().flatten().any(|(name, _)| name == MIRROR)
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

/// An answer that says no, on its way out with `?`. Boxed, so that results stay small.
#[derive(Debug)]
pub(crate) struct Refusal(Box<Response>);

impl From<Response> for Refusal {
    fn from(response: Response) -> Self {
        Self(Box::new(response))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        *self.0
    }
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

/// A Pod of this node.
pub(crate) fn find_pod(api: &Api, namespace: &str, pod: &str) -> Result<Arc<Pod>, Refusal> {
    let key = ObjectKey::new(namespace, pod);
    let found = api.statics.get(&key).or_else(|| api.pods.get_key(&key));
    let missing = || refuse(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} is not on this node"));
    Ok(found.ok_or_else(missing)?)
}

/// The last run of a container of a Pod on this node, if there was any.
async fn last_run(api: &Api, uid: &str, container: &str) -> Result<Option<ContainerStatus>, Refusal> {
    let sandbox = api.runtime.sandbox(uid).await;
    let sandbox = sandbox.map_err(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let runs = sandbox.into_iter().flat_map(|sandbox| sandbox.containers);
    Ok(runs.filter(|run| run.id.name == container).max_by_key(|run| run.id.attempt))
}

/// The last run of a container, whose log is to be shown.
pub(crate) async fn find_container(
    api: &Api,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<ContainerId, Refusal> {
    let object = find_pod(api, namespace, pod)?;
    let run = last_run(api, object.metadata.uid.as_deref().unwrap_or_default(), container).await?;
    Ok(run.map(|run| run.id).ok_or_else(|| waiting(&object, pod, container))?)
}

/// A container that runs, as streams need it.
pub(crate) async fn running_container(
    api: &Api,
    namespace: &str,
    pod: &str,
    container: &str,
) -> Result<ContainerId, Refusal> {
    let object = find_pod(api, namespace, pod)?;
    match last_run(api, object.metadata.uid.as_deref().unwrap_or_default(), container).await? {
        Some(run) if run.state == ContainerState::Running => Ok(run.id),
        // In the kubelet's own words.
        _ => {
            let text = format!("container not found (\"{container}\")");
            Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, text).into())
        }
    }
}

/// The uid of a Pod that has a network here.
pub(crate) async fn running_pod(api: &Api, namespace: &str, pod: &str) -> Result<String, Refusal> {
    let object = find_pod(api, namespace, pod)?;
    let uid = object.metadata.uid.clone().unwrap_or_default();
    match api.runtime.sandbox(&uid).await {
        Ok(Some(sandbox)) if sandbox.ready => Ok(uid),
        Ok(_) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("pod not found (\"{pod}\")")).into()),
        Err(error) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into()),
    }
}

/// The way to a Pod's ports: from inside its network, or from the host's where it uses that.
pub(crate) fn reach(api: &Api, pod: &Pod, uid: String, ip: IpAddr) -> Reach {
    let on_host = pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true));
    Reach { uid, ip, on_host, networks: api.networks.clone() }
}

/// In the kubelet's own words, which scripts look for.
fn waiting(pod: &Pod, name: &str, container: &str) -> Response {
    let status = pod.status.as_ref();
    let all = status.into_iter().flat_map(|status| {
        let fields = [&status.container_statuses, &status.init_container_statuses];
        fields.into_iter().flatten().flatten()
    });
    let reason = all
        .filter(|status| status.name == container)
        .find_map(|status| status.state.as_ref()?.waiting.as_ref()?.reason.as_deref());
    let why = match reason {
        Some("ErrImagePull") => "image can't be pulled",
        Some("ImagePullBackOff") => "trying and failing to pull image",
        Some(other) => other,
        None => "ContainerCreating",
    };
    refuse(
        StatusCode::BAD_REQUEST,
        format!("container \"{container}\" in pod \"{name}\" is waiting to start: {why}"),
    )
}
