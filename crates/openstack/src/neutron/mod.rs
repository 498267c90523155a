//! Neutron v2.0: networks, subnets and ports. What the cloud does not program (security groups, routers, shared networks, IPv6) is
//! refused; nothing is accepted and then left undone.

mod networks;
mod ports;
mod quotas;
mod subnets;
mod view;

use axum::Router;
use axum::extract::State;
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use serde_json::json;

use crate::Ctx;
use crate::auth::Session;
use crate::error::{Answer, Fault, Shape, render};
use crate::versions::{self, ok};

/// Everything below `/network`.
pub(crate) fn router(door: Ctx) -> Router {
    let endpoint = door.endpoint.clone();
    let v2 = Router::new()
        .route("/", get(resources))
        .route("/networks", get(networks::list).post(networks::create))
        .route("/networks/{id}", get(networks::show).put(networks::update).delete(networks::delete))
        .route("/subnets", get(subnets::list).post(subnets::create))
        .route("/subnets/{id}", get(subnets::show).put(subnets::update).delete(subnets::delete))
        .route("/ports", get(ports::list).post(ports::create))
        .route("/ports/{id}", get(ports::show).put(ports::update).delete(ports::delete))
        .route("/quotas/{project}", get(quotas::show).put(quotas::update).delete(quotas::delete))
        .route("/quotas/{project}/default", get(quotas::defaults))
        .route("/quotas/{project}/details.json", get(quotas::details))
        .route("/quotas/{project}/details", get(quotas::details))
        .route("/extensions", get(extensions))
        .route("/extensions/{alias}", get(extension));
    Router::new()
        .route("/", get(root))
        .nest("/v2.0", v2)
        .layer(map_response(move |response: Response| {
            let response = render(Shape::Neutron, &endpoint, response);
            async move { response }
        }))
        .with_state(door)
}

async fn root(State(door): State<Ctx>) -> Response {
    ok(&json!({"versions": [versions::neutron(&door.endpoint)]}))
}

async fn resources(State(door): State<Ctx>) -> Response {
    let kinds: Vec<_> = ["networks", "subnets", "ports"]
        .iter()
        .map(|kind| {
            let href = format!("{}/network/v2.0/{kind}", door.endpoint);
            json!({"name": kind.trim_end_matches('s'), "collection": kind, "links": [{"rel": "self", "href": href}]})
        })
        .collect();
    ok(&json!({"resources": kinds}))
}

/// The extensions of Neutron that are served: alias, name, description.
const EXTENSIONS: [(&str, &str, &str); 8] = [
    ("binding", "Port Binding", "Shows on which host a port is."),
    ("net-mtu", "Network MTU", "Shows a network's MTU."),
    ("net-mtu-writable", "Network MTU (writable)", "A network's MTU can be chosen."),
    ("pagination", "Pagination support", "Lists are cut by limit and marker."),
    ("project-id", "project_id field enabled", "Objects say project_id beside tenant_id."),
    ("quotas", "Quota management support", "Limits of networks, subnets and ports of a project."),
    ("sorting", "Sorting support", "Lists are sorted by sort_key and sort_dir."),
    ("standard-attr-timestamp", "Resource timestamps", "Objects say when they were made."),
];

fn extension_view((alias, name, description): &(&str, &str, &str)) -> serde_json::Value {
    json!({"alias": alias, "name": name, "description": description, "updated": "2016-09-12T10:00:00-00:00", "links": []})
}

async fn extensions(_: Session) -> Response {
    ok(&json!({"extensions": EXTENSIONS.iter().map(extension_view).collect::<Vec<_>>()}))
}

async fn extension(_: Session, axum::extract::Path(alias): axum::extract::Path<String>) -> Answer {
    let found = EXTENSIONS.iter().find(|(own, _, _)| *own == alias);
    let found = found.ok_or_else(|| Fault::not_found("Extension with alias", &alias))?;
    Ok(ok(&json!({"extension": extension_view(found)})))
}
