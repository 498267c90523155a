//! Tags of projects: words to find them by.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::{Patch, PatchParams};
use serde::Deserialize;
use serde_json::json;
use yunfan_resources::iam::Project;

use super::projects::find;
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::ok;

/// Tags of one project, and characters of one: Keystone's own limits.
const MAX: usize = 80;
const MAX_LENGTH: usize = 255;

/// Refuses tags that Keystone has none of.
pub(super) fn check(tags: &[String]) -> Result<(), Fault> {
    let wrong = |tag: &&String| {
        tag.is_empty()
            || tag.chars().count() > MAX_LENGTH
            || tag.contains([',', '/'])
            || tag.chars().any(char::is_control)
    };
    if let Some(tag) = tags.iter().find(wrong) {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute tags. {tag:?} must have 1 to {MAX_LENGTH} characters, and neither comma nor slash."
        )));
    }
    let twice = tags.iter().enumerate().any(|(at, tag)| tags[..at].contains(tag));
    if tags.len() > MAX || twice {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute tags. There may be {MAX} different ones."
        )));
    }
    Ok(())
}

/// Whether tags pass the filters of a list.
pub(super) fn matches(params: &Params, tags: &[String]) -> bool {
    let has = |tag: &str| tags.iter().any(|own| own == tag);
    let all = |key: &str| params.get(key).map(|list| list.split(',').all(has));
    let any = |key: &str| params.get(key).map(|list| list.split(',').any(has));
    all("tags").unwrap_or(true)
        && any("tags-any").unwrap_or(true)
        && !all("not-tags").unwrap_or(false)
        && !any("not-tags-any").unwrap_or(false)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    tags: Vec<String>,
}

async fn write(session: &Session, project: &Project, tags: Vec<String>) -> Result<(), Fault> {
    check(&tags)?;
    // The whole list: one that another changed meanwhile is a conflict.
    let patch = json!({
        "metadata": {"resourceVersion": project.metadata.resource_version}, "spec": {"tags": tags},
    });
    let projects = session.global::<Project>();
    let written = projects.patch(ids::name(project), &PatchParams::default(), &Patch::Merge(patch)).await?;
    session.door.directory.saw(&written).await
}

fn missing(tag: &str) -> Fault {
    Fault::not_found("Could not find project tag:", tag)
}

/// `GET /projects/{id}/tags`
pub(super) async fn list(session: Session, Path(id): Path<String>) -> Answer {
    let project = find(&session, &id).await?;
    let link = format!("{}/identity/v3/projects/{id}/tags", session.door.endpoint);
    Ok(ok(&json!({"tags": project.spec.tags, "links": {"self": link, "previous": null, "next": null}})))
}

/// `PUT /projects/{id}/tags`
pub(super) async fn replace(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let project = find(&session, &id).await?;
    write(&session, &project, body.tags.clone()).await?;
    let link = format!("{}/identity/v3/projects/{id}/tags", session.door.endpoint);
    Ok(ok(&json!({"tags": body.tags, "links": {"self": link, "previous": null, "next": null}})))
}

/// `DELETE /projects/{id}/tags`
pub(super) async fn clear(session: Session, Path(id): Path<String>) -> Answer {
    let project = find(&session, &id).await?;
    write(&session, &project, Vec::new()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `GET` and `HEAD /projects/{id}/tags/{tag}`
pub(super) async fn check_one(session: Session, Path((id, tag)): Path<(String, String)>) -> Answer {
    let project = find(&session, &id).await?;
    if !project.spec.tags.contains(&tag) {
        return Err(missing(&tag));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `PUT /projects/{id}/tags/{tag}`
pub(super) async fn add(session: Session, Path((id, tag)): Path<(String, String)>) -> Answer {
    let project = find(&session, &id).await?;
    let mut tags = project.spec.tags.clone();
    if !tags.contains(&tag) {
        tags.push(tag.clone());
        write(&session, &project, tags).await?;
    }
    Ok(StatusCode::CREATED.into_response())
}

/// `DELETE /projects/{id}/tags/{tag}`
pub(super) async fn remove(session: Session, Path((id, tag)): Path<(String, String)>) -> Answer {
    let project = find(&session, &id).await?;
    let mut tags = project.spec.tags.clone();
    tags.retain(|own| *own != tag);
    if tags.len() == project.spec.tags.len() {
        return Err(missing(&tag));
    }
    write(&session, &project, tags).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_checked_and_found_by() {
        let tags = |all: &[&str]| all.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>();
        assert!(check(&tags(&["a", "b c"])).is_ok());
        for wrong in [&["a", "a"][..], &[""], &["a,b"], &["a/b"]] {
            assert!(check(&tags(wrong)).is_err(), "{wrong:?}");
        }
        let found = |key: &str, value: &str| {
            matches(&Params(vec![(key.to_owned(), value.to_owned())]), &tags(&["a", "b"]))
        };
        assert!(found("tags", "a,b") && !found("tags", "a,c"));
        assert!(found("tags-any", "c,b") && !found("tags-any", "c"));
        assert!(!found("not-tags", "a,b") && found("not-tags", "a,c"));
        assert!(!found("not-tags-any", "a,c") && found("not-tags-any", "c"));
    }
}
