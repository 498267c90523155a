//! Keystone v3: tokens, the catalog, projects, users, roles and who has which.
//!
//! A project is a Project object and the namespace that its loop makes; a user is a User object and a Secret with the password's hash;
//! a role assignment is a RoleBinding in the project's namespace.

mod assignments;
mod catalog;
mod domains;
mod projects;
mod roles;
mod tokens;
mod users;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post, put};
use serde_json::{Value, json};
use yunfan_resources::iam::Domain;

use crate::auth::Session;
use crate::body::Params;
use crate::directory::{DEFAULT_DOMAIN, domain_named};
use crate::error::{Answer, Fault, Shape, render};
use crate::versions::{self, json_response, ok};
use crate::{Ctx, ids};

/// Everything below `/identity`.
pub(crate) fn router(door: Ctx) -> Router {
    let endpoint = door.endpoint.clone();
    let v3 = Router::new()
        .route("/", get(version))
        .route("/auth/tokens", post(tokens::issue).get(tokens::validate).delete(tokens::revoke))
        .route("/auth/projects", get(tokens::projects))
        .route("/auth/domains", get(tokens::domains))
        .route("/auth/catalog", get(catalog::show))
        .route("/domains", get(domains))
        .route("/domains/{id}", get(domain))
        .route("/projects", get(projects::list).post(projects::create))
        .route("/projects/{id}", get(projects::show).patch(projects::update).delete(projects::delete))
        .route("/projects/{project}/users/{user}/roles", get(assignments::of_user))
        .route(
            "/projects/{project}/users/{user}/roles/{role}",
            put(assignments::grant).get(assignments::check).delete(assignments::revoke),
        )
        .route("/users", get(users::list).post(users::create))
        .route("/users/{id}", get(users::show).patch(users::update).delete(users::delete))
        .route("/users/{id}/password", post(users::change_password))
        .route("/users/{id}/projects", get(users::projects))
        .route("/users/{id}/groups", get(no_groups))
        .route("/groups", get(no_groups))
        .route("/roles", get(roles::list))
        .route("/roles/{id}", get(roles::show))
        .route("/role_assignments", get(assignments::list))
        .route("/regions", get(catalog::regions))
        .route("/regions/{id}", get(catalog::region))
        .route("/services", get(catalog::services))
        .route("/services/{id}", get(catalog::service))
        .route("/endpoints", get(catalog::endpoints))
        .route("/endpoints/{id}", get(catalog::endpoint));
    Router::new()
        .route("/", get(root))
        .nest("/v3", v3)
        .layer(axum::middleware::map_response(move |response: Response| {
            let response = render(Shape::Keystone, &endpoint, response);
            async move { response }
        }))
        .with_state(door)
}

async fn root(State(door): State<Ctx>) -> Response {
    let versions = json!({"versions": {"values": [versions::keystone(&door.endpoint)]}});
    json_response(StatusCode::MULTIPLE_CHOICES, &versions)
}

async fn version(State(door): State<Ctx>) -> Response {
    ok(&json!({"version": versions::keystone(&door.endpoint)}))
}

async fn no_groups(session: Session) -> Answer {
    Ok(collection(&session, "groups", "groups", Vec::new()))
}

async fn domains(session: Session, params: Params) -> Answer {
    let mut views: Vec<Value> = Vec::new();
    for domain in ids::list(&session.global::<Domain>()).await? {
        let named = domain_named(&domain);
        if params.get("name").is_none_or(|name| name == named.name) {
            views.push(domain_view(&session, &named.id, &named.name, domain.spec.description.as_deref()));
        }
    }
    Ok(collection(&session, "domains", "domains", views))
}

async fn domain(session: Session, axum::extract::Path(id): axum::extract::Path<String>) -> Answer {
    let domains = ids::list(&session.global::<Domain>()).await?;
    let found = domains.iter().find(|domain| domain_named(domain).id == id);
    let domain = found.ok_or_else(|| Fault::not_found("Could not find domain:", &id))?;
    let named = domain_named(domain);
    let view = domain_view(&session, &named.id, &named.name, domain.spec.description.as_deref());
    Ok(ok(&json!({"domain": view})))
}

fn domain_view(session: &Session, id: &str, name: &str, description: Option<&str>) -> Value {
    json!({
        "id": id, "name": name, "enabled": true, "description": description.unwrap_or_default(), "tags": [], "options": {},
        "links": {"self": format!("{}/identity/v3/domains/{id}", session.door.endpoint)},
    })
}

/// Keystone's list: the entries and the links around them.
fn collection(session: &Session, key: &str, path: &str, entries: Vec<Value>) -> Response {
    let url = format!("{}/identity/v3/{path}", session.door.endpoint);
    ok(&json!({key: entries, "links": {"self": url, "previous": null, "next": null}}))
}

/// Refuses a domain other than one that there is; answers the `metadata.name` to store, `None` for the default one.
async fn domain_name(session: &Session, id: Option<&str>) -> Result<Option<String>, Fault> {
    match id {
        None | Some(DEFAULT_DOMAIN) => Ok(None),
        Some(id) => {
            let domains = ids::list(&session.global::<Domain>()).await?;
            let found = domains.iter().find(|domain| domain_named(domain).id == id);
            let domain = found.ok_or_else(|| Fault::not_found("Could not find domain:", id))?;
            Ok(Some(ids::name(domain).to_owned()))
        }
    }
}

/// Whether a name passes the list filters that Keystone's clients send.
fn name_matches(params: &Params, name: &str) -> bool {
    let lower = name.to_lowercase();
    params.get("name").is_none_or(|wanted| wanted == name)
        && params.get("name__contains").is_none_or(|wanted| name.contains(wanted))
        && params.get("name__icontains").is_none_or(|wanted| lower.contains(&wanted.to_lowercase()))
        && params.get("name__startswith").is_none_or(|wanted| name.starts_with(wanted))
}
