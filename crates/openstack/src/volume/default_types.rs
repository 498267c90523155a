//! `/default-types` (3.62): which type a project's volumes are of that name none. Each type knows the projects whose default it is.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::Project;
use yunfan_resources::storage::VolumeType;

use super::type_specs::admin_only;
use super::types;
use crate::auth::Session;
use crate::body::Json;
use crate::change::{Changes, edit};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::microversion::Microversion;
use crate::versions::ok;

/// The version that came with default types of projects.
const SINCE: Microversion = Microversion(62);
/// Of how many projects a type may be the default.
const MAX_PROJECTS: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    default_type: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// Its id or name.
    volume_type: String,
}

fn view(project: &str, kind: &VolumeType) -> Value {
    json!({"project_id": project, "volume_type_id": kind.id()})
}

fn is_default(kind: &VolumeType, project: &str) -> bool {
    kind.spec.default_of.iter().any(|of| of == project)
}

async fn all(session: &Session) -> Result<Vec<VolumeType>, Fault> {
    ids::list(&session.global::<VolumeType>()).await
}

/// The type of a project's volumes that name none.
pub(super) async fn of(session: &Session, project: &str) -> Result<Option<VolumeType>, Fault> {
    Ok(all(session).await?.into_iter().find(|kind| is_default(kind, project)))
}

fn served(session: &Session, version: Microversion, policy: &str) -> Result<(), Fault> {
    if version < SINCE {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    admin_only(session, policy)
}

/// `GET /default-types`
pub(super) async fn list(session: Session, version: Microversion) -> Answer {
    served(&session, version, "volume_extension:default_get_all")?;
    let kinds = all(&session).await?;
    let pairs = kinds.iter().flat_map(|kind| kind.spec.default_of.iter().map(move |of| view(of, kind)));
    Ok(ok(&json!({"default_types": pairs.collect::<Vec<_>>()})))
}

/// `GET /default-types/{project}`
pub(super) async fn show(session: Session, version: Microversion, Path(project): Path<String>) -> Answer {
    served(&session, version, "volume_extension:default_get")?;
    let missing =
        || Fault::new(StatusCode::NOT_FOUND, format!("Default type for project {project} not found."));
    let kind = of(&session, &project).await?.ok_or_else(missing)?;
    Ok(ok(&json!({"default_type": view(&project, &kind)})))
}

/// `PUT /default-types/{project}`
pub(super) async fn set(
    session: Session,
    version: Microversion,
    Path(project): Path<String>,
    Json(body): Json<Body>,
) -> Answer {
    served(&session, version, "volume_extension:default_set_or_update")?;
    if session.find(&session.global::<Project>(), &project).await?.is_none() {
        return Err(Fault::not_found("Project", &project));
    }
    let kind = types::find(&session, &body.default_type.volume_type).await?;
    // First it is no other's, so that no project has two.
    clear(&session, &project, Some(&kind)).await?;
    let kind = edit(&session.global(), kind, |kind| {
        let mut projects = kind.spec.default_of.clone();
        if !projects.contains(&project) {
            projects.push(project.clone());
        }
        if projects.len() > MAX_PROJECTS {
            return Err(Fault::bad(format!("A type is the default of at most {MAX_PROJECTS} projects.")));
        }
        Ok(Changes::default().set("defaultOf", Some(json!(projects))))
    })
    .await?;
    Ok(ok(&json!({"default_type": view(&project, &kind)})))
}

/// `DELETE /default-types/{project}`: what is not set is no error.
pub(super) async fn unset(session: Session, version: Microversion, Path(project): Path<String>) -> Answer {
    served(&session, version, "volume_extension:default_unset")?;
    clear(&session, &project, None).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Takes a project's default from every type but one.
async fn clear(session: &Session, project: &str, but: Option<&VolumeType>) -> Result<(), Fault> {
    let kept = but.map(Identified::id);
    for kind in all(session).await? {
        if !is_default(&kind, project) || kept.as_deref() == Some(&kind.id()) {
            continue;
        }
        edit(&session.global(), kind, |kind| {
            let left: Vec<&String> = kind.spec.default_of.iter().filter(|of| *of != project).collect();
            Ok(Changes::default().set("defaultOf", Some(json!(left))))
        })
        .await?;
    }
    Ok(())
}
