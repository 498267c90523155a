//! The three roles. They are no objects: each stands for a ClusterRole.

use axum::extract::Path;
use serde_json::{Value, json};
use yunfan_resources::names;

use super::{collection, name_matches};
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::ok;

/// A role's id, the same in every cloud.
pub(super) fn id(role: &str) -> String {
    ids::stable(&format!("role:{role}"))
}

/// The role and its ClusterRole, by id.
pub(super) fn find(id: &str) -> Result<(&'static str, &'static str), Fault> {
    let found = names::ROLES.iter().find(|(role, _)| self::id(role) == id);
    found.copied().ok_or_else(|| Fault::not_found("Could not find role:", id))
}

fn view(session: &Session, role: &str) -> Value {
    let id = id(role);
    let link = format!("{}/identity/v3/roles/{id}", session.door.endpoint);
    json!({"id": id, "name": role, "domain_id": null, "description": null, "options": {}, "links": {"self": link}})
}

/// `GET /roles`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let roles = names::ROLES.iter().filter(|(role, _)| name_matches(&params, role));
    // Roles of a domain are asked for with its id; there are none.
    let roles = roles.filter(|_| params.get("domain_id").is_none_or(str::is_empty));
    let views = roles.map(|(role, _)| view(&session, role)).collect();
    Ok(collection(&session, "roles", "roles", views))
}

/// `GET /roles/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    let (role, _) = find(&id)?;
    Ok(ok(&json!({"role": view(&session, role)})))
}
