//! Nova v2.1: servers, flavors, key pairs, quotas and what clients ask around them.
//!
//! A server is a VirtualMachine, a flavor a Flavor, a key pair a KeyPair. Start reading at `servers`, then `view` (object to
//! JSON) and `create` (JSON to object).

mod actions;
mod create;
mod devices;
mod flavors;
mod groups;
mod keypairs;
mod metadata;
mod nodes;
mod quotas;
mod request;
mod servers;
mod view;
mod volumes;

use axum::Router;
use axum::extract::State;
use axum::middleware::{from_fn, map_response};
use axum::response::Response;
use axum::routing::{delete, get, post};
pub(crate) use nodes::is_ready;
use serde_json::json;
pub(crate) use view::CREATOR;

use crate::Ctx;
use crate::error::{Shape, render};
use crate::microversion::NOVA;
use crate::versions::{self, ok};

/// Everything below `/compute`.
pub(crate) fn router(door: Ctx) -> Router {
    let endpoint = door.endpoint.clone();
    let v21 = Router::new()
        .route("/", get(version))
        .route("/servers", get(servers::list).post(create::create))
        .route("/servers/detail", get(servers::detail))
        .route("/servers/{id}", get(servers::show).put(servers::update).delete(servers::delete))
        .route("/servers/{id}/action", post(actions::act))
        .route("/servers/{id}/os-interface", get(servers::interfaces))
        .route("/servers/{id}/ips", get(servers::addresses))
        .route("/servers/{id}/os-volume_attachments", get(volumes::list).post(volumes::create))
        .route("/servers/{id}/os-volume_attachments/{volume}", get(volumes::show).delete(volumes::delete))
        .route("/servers/{id}/metadata", get(metadata::list).post(metadata::merge).put(metadata::replace))
        .route("/servers/{id}/metadata/{key}", get(metadata::show).delete(metadata::delete))
        .route("/flavors", get(flavors::list).post(flavors::create))
        .route("/flavors/detail", get(flavors::detail))
        .route("/flavors/{id}", get(flavors::show).delete(flavors::delete))
        .route("/flavors/{id}/os-extra_specs", get(flavors::extra_specs).post(flavors::set_extra_specs))
        .route("/os-keypairs", get(keypairs::list).post(keypairs::create))
        .route("/os-keypairs/{name}", get(keypairs::show).delete(keypairs::delete))
        .route("/os-quota-sets/{project}", get(quotas::show).put(quotas::update).delete(quotas::delete))
        .route("/os-quota-sets/{project}/defaults", get(quotas::defaults))
        .route("/os-quota-sets/{project}/detail", get(quotas::detail))
        .route("/limits", get(quotas::limits))
        .route("/os-availability-zone", get(nodes::zones))
        .route("/os-availability-zone/detail", get(nodes::zones_detail))
        .route("/os-hypervisors", get(nodes::hypervisors))
        .route("/os-hypervisors/detail", get(nodes::hypervisors_detail))
        .route("/os-hypervisors/{id}", get(nodes::hypervisor))
        .route("/os-hypervisors/{id}/uptime", get(nodes::uptime))
        .route("/os-services", get(nodes::services))
        .route("/os-aggregates", get(nodes::aggregates))
        .route("/extensions", get(extensions))
        .route("/os-server-groups", get(server_groups))
        .route("/os-server-groups/{id}", delete(no_server_group).get(no_server_group))
        .layer(from_fn(|request, next| NOVA.negotiate(request, next)));
    Router::new()
        .route("/", get(root))
        .nest("/v2.1", v21)
        .layer(map_response(move |response: Response| {
            let response = render(Shape::Nova, &endpoint, response);
            async move { response }
        }))
        .with_state(door)
}

async fn root(State(door): State<Ctx>) -> Response {
    ok(&json!({"versions": [versions::nova(&door.endpoint)]}))
}

async fn version(State(door): State<Ctx>) -> Response {
    ok(&json!({"version": versions::nova(&door.endpoint)}))
}

/// What is served is said by the microversion; Nova itself only lists old names here.
async fn extensions(_: crate::auth::Session) -> Response {
    ok(&json!({"extensions": []}))
}

async fn server_groups(_: crate::auth::Session) -> Response {
    ok(&json!({"server_groups": []}))
}

async fn no_server_group(
    _: crate::auth::Session,
    axum::extract::Path(id): axum::extract::Path<String>,
) -> crate::error::Fault {
    crate::error::Fault::not_found("Instance group", &id)
}
