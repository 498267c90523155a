//! The catalog: which services there are and where. It is the same for every project.

use axum::extract::Path;
use axum::response::Response;
use serde_json::{Value, json};

use super::collection;
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::ok;

/// The one region.
const REGION: &str = "RegionOne";
const INTERFACES: [&str; 3] = ["public", "internal", "admin"];

struct Service {
    kind: &'static str,
    name: &'static str,
    description: &'static str,
    path: &'static str,
}

const SERVICES: [Service; 7] = [
    Service { kind: "identity", name: "keystone", description: "Identity", path: "/identity/v3" },
    Service { kind: "compute", name: "nova", description: "Compute", path: "/compute/v2.1" },
    Service { kind: "image", name: "glance", description: "Image", path: "/image" },
    Service { kind: "network", name: "neutron", description: "Networking", path: "/network" },
    Service { kind: "block-storage", name: "cinder", description: "Block storage", path: "/volume/v3" },
    // The name that clients used before there was an agreed one.
    Service { kind: "volumev3", name: "cinderv3", description: "Block storage", path: "/volume/v3" },
    Service { kind: "placement", name: "placement", description: "Placement", path: "/placement" },
];

/// The catalog as a token carries it.
pub(super) fn catalog(base: &str) -> Value {
    let services = SERVICES.iter().map(|service| {
        let endpoints: Vec<Value> = INTERFACES
            .iter()
            .map(|interface| {
                json!({
                    "id": endpoint_id(service, interface), "interface": interface, "region": REGION, "region_id": REGION,
                    "url": format!("{base}{}", service.path),
                })
            })
            .collect();
        json!({"id": service_id(service), "type": service.kind, "name": service.name, "endpoints": endpoints})
    });
    Value::Array(services.collect())
}

fn service_id(service: &Service) -> String {
    ids::stable(&format!("service:{}", service.kind))
}

fn endpoint_id(service: &Service, interface: &str) -> String {
    ids::stable(&format!("endpoint:{}:{interface}", service.kind))
}

/// `GET /auth/catalog`
pub(super) async fn show(session: Session) -> Answer {
    let base = &session.door.endpoint;
    let links = json!({"self": format!("{base}/identity/v3/auth/catalog")});
    Ok(ok(&json!({"catalog": catalog(base), "links": links})))
}

fn link(session: &Session, path: &str, id: &str) -> Value {
    json!({"self": format!("{}/identity/v3/{path}/{id}", session.door.endpoint)})
}

fn region_view(session: &Session) -> Value {
    json!({"id": REGION, "description": "", "parent_region_id": null, "links": link(session, "regions", REGION)})
}

/// `GET /regions`
pub(super) async fn regions(session: Session) -> Response {
    let view = region_view(&session);
    collection(&session, "regions", "regions", vec![view])
}

/// `GET /regions/{id}`
pub(super) async fn region(session: Session, Path(id): Path<String>) -> Answer {
    if id != REGION {
        return Err(Fault::not_found("Could not find region:", &id));
    }
    Ok(ok(&json!({"region": region_view(&session)})))
}

fn service_views(session: &Session) -> Vec<Value> {
    let view = |service: &Service| {
        let id = service_id(service);
        json!({
            "id": id, "type": service.kind, "name": service.name, "description": service.description, "enabled": true,
            "links": link(session, "services", &id),
        })
    };
    SERVICES.iter().map(view).collect()
}

/// `GET /services`
pub(super) async fn services(session: Session, params: Params) -> Response {
    let mut views = service_views(&session);
    views.retain(|view| matches(&params, view, &["type", "name"]));
    collection(&session, "services", "services", views)
}

/// `GET /services/{id}`
pub(super) async fn service(session: Session, Path(id): Path<String>) -> Answer {
    let found = service_views(&session).into_iter().find(|view| view["id"] == id.as_str());
    Ok(ok(&json!({"service": found.ok_or_else(|| Fault::not_found("Could not find service:", &id))?})))
}

fn endpoint_views(session: &Session) -> Vec<Value> {
    let mut views = Vec::with_capacity(SERVICES.len() * INTERFACES.len());
    for service in &SERVICES {
        for interface in INTERFACES {
            let id = endpoint_id(service, interface);
            views.push(json!({
                "id": id, "service_id": service_id(service), "interface": interface, "enabled": true,
                "region": REGION, "region_id": REGION, "url": format!("{}{}", session.door.endpoint, service.path),
                "links": link(session, "endpoints", &id),
            }));
        }
    }
    views
}

/// `GET /endpoints`
pub(super) async fn endpoints(session: Session, params: Params) -> Response {
    let mut views = endpoint_views(&session);
    views.retain(|view| matches(&params, view, &["service_id", "interface", "region_id"]));
    collection(&session, "endpoints", "endpoints", views)
}

/// `GET /endpoints/{id}`
pub(super) async fn endpoint(session: Session, Path(id): Path<String>) -> Answer {
    let found = endpoint_views(&session).into_iter().find(|view| view["id"] == id.as_str());
    Ok(ok(&json!({"endpoint": found.ok_or_else(|| Fault::not_found("Could not find endpoint:", &id))?})))
}

fn matches(params: &Params, view: &Value, keys: &[&str]) -> bool {
    keys.iter().all(|key| params.get(key).is_none_or(|wanted| view[*key] == wanted))
}
