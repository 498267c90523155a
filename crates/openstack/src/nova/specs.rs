//! What is said of a flavor beside its size: extra specs, and the projects that are shown a private one. A flavor may ask for anything;
//! no server is made with one that asks for what nothing here acts on.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::Flavor;

use super::actions::admin_only;
use super::flavors::find;
use crate::auth::Session;
use crate::body::{Json, parse_value};
use crate::change::{Changes, edit, replacing};
use crate::error::{Answer, Fault};
use crate::versions::ok;

/// How many extra specs a flavor may have.
const MAX_SPECS: usize = 128;
/// How many projects may be named for a private flavor.
const MAX_PROJECTS: usize = 1000;

/// `GET /flavors/{id}/os-extra_specs`
pub(super) async fn list(session: Session, Path(id): Path<String>) -> Answer {
    Ok(ok(&json!({"extra_specs": find(&session, &id).await?.spec.extra_specs})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpecsBody {
    extra_specs: Map<String, Value>,
}

/// Nova takes numbers as values, and keeps them as text.
fn check(specs: &Map<String, Value>) -> Result<BTreeMap<String, String>, Fault> {
    let letters = |key: &str| key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.: ".contains(c));
    let mut checked = BTreeMap::new();
    for (key, value) in specs {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => {
                return Err(Fault::bad(format!(
                    "Invalid input for field/attribute {key}. {value} is not of type 'string'"
                )));
            }
        };
        if key.is_empty() || key.len() > 255 || !letters(key) || text.len() > 255 {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute extra_specs. {key:?}: keys have 1 to 255 letters, digits and -_.:, values at most 255 characters."
            )));
        }
        checked.insert(key.clone(), text);
    }
    Ok(checked)
}

async fn write(session: &Session, flavor: &Flavor, specs: Value) -> Result<Flavor, Fault> {
    Changes::default().set("extraSpecs", Some(specs)).apply(&session.global(), flavor).await
}

/// `POST /flavors/{id}/os-extra_specs`: sets these and keeps the others.
pub(super) async fn set(session: Session, Path(id): Path<String>, Json(body): Json<SpecsBody>) -> Answer {
    admin_only(&session, "os_compute_api:os-flavor-extra-specs:create")?;
    let specs = check(&body.extra_specs)?;
    let flavor = find(&session, &id).await?;
    if flavor.spec.extra_specs.len() + specs.len() > MAX_SPECS {
        return Err(Fault::bad(format!("A flavor has at most {MAX_SPECS} extra specs.")));
    }
    write(&session, &flavor, json!(specs)).await?;
    Ok(ok(&json!({"extra_specs": specs})))
}

fn missing(id: &str, key: &str) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("Flavor {id} has no extra specs with key {key}."))
}

/// `GET /flavors/{id}/os-extra_specs/{key}`
pub(super) async fn show(session: Session, Path((id, key)): Path<(String, String)>) -> Answer {
    let flavor = find(&session, &id).await?;
    let value = flavor.spec.extra_specs.get(&key).ok_or_else(|| missing(&id, &key))?;
    Ok(ok(&json!({key: value})))
}

/// `PUT /flavors/{id}/os-extra_specs/{key}`
pub(super) async fn set_one(
    session: Session,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<Map<String, Value>>,
) -> Answer {
    admin_only(&session, "os_compute_api:os-flavor-extra-specs:update")?;
    if body.len() != 1 || !body.contains_key(&key) {
        return Err(Fault::bad("Request body and URI mismatch"));
    }
    let specs = check(&body)?;
    let flavor = find(&session, &id).await?;
    if flavor.spec.extra_specs.len() >= MAX_SPECS && !flavor.spec.extra_specs.contains_key(&key) {
        return Err(Fault::bad(format!("A flavor has at most {MAX_SPECS} extra specs.")));
    }
    write(&session, &flavor, json!(specs)).await?;
    Ok(ok(&json!(specs)))
}

/// `DELETE /flavors/{id}/os-extra_specs/{key}`
pub(super) async fn delete(session: Session, Path((id, key)): Path<(String, String)>) -> Answer {
    admin_only(&session, "os_compute_api:os-flavor-extra-specs:delete")?;
    let flavor = find(&session, &id).await?;
    let mut left = flavor.spec.extra_specs.clone();
    left.remove(&key).ok_or_else(|| missing(&id, &key))?;
    write(&session, &flavor, replacing(&flavor.spec.extra_specs, &left)).await?;
    Ok(StatusCode::OK.into_response())
}

fn access_view(flavor: &Flavor) -> Value {
    let of = |project: &String| json!({"flavor_id": flavor.id(), "tenant_id": project});
    json!({"flavor_access": flavor.spec.projects.iter().map(of).collect::<Vec<Value>>()})
}

/// `GET /flavors/{id}/os-flavor-access`
pub(super) async fn access(session: Session, Path(id): Path<String>) -> Answer {
    admin_only(&session, "os_compute_api:os-flavor-access")?;
    let flavor = find(&session, &id).await?;
    if !flavor.spec.private {
        return Err(Fault::new(StatusCode::NOT_FOUND, "Access list not available for public flavors."));
    }
    Ok(ok(&access_view(&flavor)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Access {
    tenant: String,
}

/// `POST /flavors/{id}/action`: shows a private flavor to a project, or no longer.
pub(super) async fn act(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<Map<String, Value>>,
) -> Answer {
    admin_only(&session, "os_compute_api:os-flavor-access:add_tenant_access")?;
    let (action, argument) = crate::body::action(body)?;
    let adds = match action.as_str() {
        "addTenantAccess" => true,
        "removeTenantAccess" => false,
        word => return Err(Fault::bad(format!("There is no such action: {word}"))),
    };
    let project = parse_value::<Access>(argument)?.tenant;
    let flavor = find(&session, &id).await?;
    if adds && !flavor.spec.private {
        return Err(Fault::conflict("Can not add access to a public flavor."));
    }
    if adds {
        // One that is gone can be taken away.
        crate::quota::namespace_of(&session, &project).await?;
    }
    let flavor = edit(&session.global::<Flavor>(), flavor, |flavor| {
        let projects = shown_to(flavor, &id, project.clone(), adds)?;
        Ok(Changes::default().set("projects", Some(json!(projects))))
    })
    .await?;
    Ok(ok(&access_view(&flavor)))
}

/// The projects that a private flavor is shown to, with this one or without.
fn shown_to(flavor: &Flavor, id: &str, project: String, adds: bool) -> Result<Vec<String>, Fault> {
    let mut projects = flavor.spec.projects.clone();
    let has = projects.contains(&project);
    if !adds && !has {
        let message = format!("Flavor access not found for {id} / {project} combination.");
        return Err(Fault::new(StatusCode::NOT_FOUND, message));
    }
    if adds && has {
        return Err(Fault::conflict(format!(
            "Flavor access already exists for flavor {id} and project {project} combination."
        )));
    }
    if adds && projects.len() >= MAX_PROJECTS {
        return Err(Fault::forbidden(format!("A flavor is shown to at most {MAX_PROJECTS} projects.")));
    }
    projects.retain(|own| *own != project);
    projects.extend(adds.then_some(project));
    Ok(projects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specs_are_checked() {
        let of = |value: Value| check(value.as_object().unwrap());
        assert_eq!(of(json!({"a:b": 1})).unwrap()["a:b"], "1");
        assert!(of(json!({"a/b": "1"})).is_err() && of(json!({"a": [1]})).is_err());
    }
}
