//! What is said of a volume type beside its name: extra specs, and the projects that are shown a private one.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::storage::VolumeType;

use super::types::find;
use crate::auth::Session;
use crate::body::{Json, parse_value};
use crate::change::{Changes, edit, replacing};
use crate::error::{Answer, Fault};
use crate::versions::ok;

/// How many extra specs a type may have.
const MAX_SPECS: usize = 128;
/// How many projects may be named for a private type.
const MAX_PROJECTS: usize = 1000;

/// Refuses who is no admin, as Cinder's policies do. What is allowed in the end, the API server decides.
pub(super) fn admin_only(session: &Session, policy: &str) -> Result<(), Fault> {
    if session.is_admin() {
        return Ok(());
    }
    Err(Fault::forbidden(format!("Policy doesn't allow {policy} to be performed.")))
}

/// Keys and values as Cinder takes them.
pub(super) fn check(specs: &Map<String, Value>) -> Result<BTreeMap<String, String>, Fault> {
    let letters = |key: &str| key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.: ".contains(c));
    let refuse = |key: &str, why: &str| {
        Err(Fault::bad(format!("Invalid input for field/attribute extra_specs. {key:?}: {why}")))
    };
    let mut checked = BTreeMap::new();
    for (key, value) in specs {
        let Value::String(text) = value else { return refuse(key, "its value is no string.") };
        if key.is_empty() || key.len() > 255 || !letters(key) {
            return refuse(key, "keys have 1 to 255 letters, digits, spaces and -_.:");
        }
        if text.chars().count() > 255 {
            return refuse(key, "values have at most 255 characters.");
        }
        checked.insert(key.clone(), text.clone());
    }
    if checked.len() > MAX_SPECS {
        return Err(Fault::bad(format!("A volume type has at most {MAX_SPECS} extra specs.")));
    }
    Ok(checked)
}

fn missing(id: &str, key: &str) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("Volume Type {id} has no extra specs with key {key}."))
}

async fn write(session: &Session, kind: &VolumeType, specs: Value) -> Result<VolumeType, Fault> {
    Changes::default().set("extraSpecs", Some(specs)).apply(&session.global(), kind).await
}

/// `GET /types/{id}/extra_specs`
pub(super) async fn list(session: Session, Path(id): Path<String>) -> Answer {
    let view = super::types::view(&session, &find(&session, &id).await?);
    Ok(ok(&json!({"extra_specs": view["extra_specs"]})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    extra_specs: Map<String, Value>,
}

/// `POST /types/{id}/extra_specs`: sets these and keeps the others.
pub(super) async fn set(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    admin_only(&session, "volume_extension:types_extra_specs:create")?;
    let specs = check(&body.extra_specs)?;
    let kind = find(&session, &id).await?;
    room(&kind, &specs)?;
    write(&session, &kind, json!(specs)).await?;
    Ok(ok(&json!({"extra_specs": specs})))
}

fn room(kind: &VolumeType, specs: &BTreeMap<String, String>) -> Result<(), Fault> {
    let new = specs.keys().filter(|key| !kind.spec.extra_specs.contains_key(*key)).count();
    if kind.spec.extra_specs.len() + new > MAX_SPECS {
        return Err(Fault::bad(format!("A volume type has at most {MAX_SPECS} extra specs.")));
    }
    Ok(())
}

/// `GET /types/{id}/extra_specs/{key}`
pub(super) async fn show(session: Session, Path((id, key)): Path<(String, String)>) -> Answer {
    let view = super::types::view(&session, &find(&session, &id).await?);
    match view["extra_specs"].get(&key) {
        Some(value) => Ok(ok(&json!({key: value}))),
        None => Err(missing(&id, &key)),
    }
}

/// `PUT /types/{id}/extra_specs/{key}`
pub(super) async fn set_one(
    session: Session,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<Map<String, Value>>,
) -> Answer {
    admin_only(&session, "volume_extension:types_extra_specs:update")?;
    let kind = find(&session, &id).await?;
    if body.len() != 1 || !body.contains_key(&key) {
        return Err(Fault::bad(
            "Request body and URI mismatch: the body has the one key that the path names.",
        ));
    }
    let specs = check(&body)?;
    room(&kind, &specs)?;
    write(&session, &kind, json!(specs)).await?;
    Ok(ok(&json!(specs)))
}

/// `DELETE /types/{id}/extra_specs/{key}`
pub(super) async fn delete(session: Session, Path((id, key)): Path<(String, String)>) -> Answer {
    admin_only(&session, "volume_extension:types_extra_specs:delete")?;
    let kind = find(&session, &id).await?;
    let mut left = kind.spec.extra_specs.clone();
    left.remove(&key).ok_or_else(|| missing(&id, &key))?;
    write(&session, &kind, replacing(&kind.spec.extra_specs, &left)).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `GET /types/{id}/os-volume-type-access`
pub(super) async fn access(session: Session, Path(id): Path<String>) -> Answer {
    admin_only(&session, "volume_extension:volume_type_access")?;
    let kind = find(&session, &id).await?;
    if !kind.spec.private {
        return Err(Fault::new(StatusCode::NOT_FOUND, "Access list not available for public volume types."));
    }
    let of = |project: &String| json!({"volume_type_id": kind.id(), "project_id": project});
    Ok(ok(&json!({"volume_type_access": kind.spec.projects.iter().map(of).collect::<Vec<Value>>()})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Access {
    project: String,
}

/// `POST /types/{id}/action`: shows a private type to a project, or no longer.
pub(super) async fn act(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<Map<String, Value>>,
) -> Answer {
    admin_only(&session, "volume_extension:volume_type_access:addProjectAccess")?;
    let (action, argument) = crate::body::action(body)?;
    let adds = match action.as_str() {
        "addProjectAccess" => true,
        "removeProjectAccess" => false,
        _ => return Err(Fault::bad(format!("There is no such action: {action}"))),
    };
    let project = parse_value::<Access>(argument)?.project;
    if adds {
        crate::quota::namespace_of(&session, &project).await?;
    }
    let kind = find(&session, &id).await?;
    edit(&session.global::<VolumeType>(), kind, |kind| {
        let projects = shown_to(kind, &id, project.clone(), adds)?;
        Ok(Changes::default().set("projects", Some(json!(projects))))
    })
    .await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// The projects that a private type is shown to, with this one or without.
fn shown_to(kind: &VolumeType, id: &str, project: String, adds: bool) -> Result<Vec<String>, Fault> {
    if !kind.spec.private {
        return Err(Fault::conflict("Type access modification is not applicable to public volume type."));
    }
    let mut projects = kind.spec.projects.clone();
    let has = projects.contains(&project);
    if adds && has {
        return Err(Fault::conflict(format!(
            "Volume type access for {id} / {project} combination already exists."
        )));
    }
    if adds && projects.len() >= MAX_PROJECTS {
        return Err(Fault::bad(format!("A volume type is shown to at most {MAX_PROJECTS} projects.")));
    }
    if !adds && !has {
        let message = format!("Volume type access not found for {id} / {project} combination.");
        return Err(Fault::new(StatusCode::NOT_FOUND, message));
    }
    if adds {
        projects.push(project);
    } else {
        projects.retain(|own| *own != project);
    }
    Ok(projects)
}
