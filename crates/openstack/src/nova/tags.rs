//! `/servers/{id}/tags` (2.26): free words on a server.

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::json;
use yunfan_resources::compute::VirtualMachine;

use super::record;
use super::servers::find;
use crate::auth::Session;
use crate::body::Json;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::ok;

/// How many a server may have.
const MAX_TAGS: usize = 50;
/// The longest, characters.
const MAX_LENGTH: usize = 60;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    tags: Vec<String>,
}

fn check_one(tag: &str) -> Result<(), Fault> {
    if tag.is_empty() || tag.chars().count() > MAX_LENGTH || tag.contains(['/', ',']) {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute tags. {tag:?}: tags have 1 to {MAX_LENGTH} characters, and neither / nor ,."
        )));
    }
    Ok(())
}

/// Whether devices may have tags in a request: Nova's schemas had them in 2.32, lost those of volumes by an oversight in 2.33 and those of
/// networks in 2.37, and have them again since 2.42.
fn on_devices(version: Microversion, last: u32) -> bool {
    version >= Microversion(42) || version >= Microversion(32) && version <= Microversion(last)
}

/// Refuses a tag of a device in `field` that is none, or that this microversion does not know.
pub(super) fn check_device(
    version: Microversion,
    field: &str,
    last: u32,
    tag: Option<&String>,
) -> Result<(), Fault> {
    match tag {
        Some(_) if !on_devices(version, last) => Err(Fault::bad(format!(
            "Invalid input for field/attribute {field}. Additional properties are not allowed ('tag' was unexpected)"
        ))),
        Some(tag) => check_one(tag),
        None => Ok(()),
    }
}

/// Refuses what Nova would refuse.
pub(super) fn check(tags: &[String]) -> Result<(), Fault> {
    if tags.len() > MAX_TAGS {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute tags. The number of tags exceeded the per-server limit {MAX_TAGS}"
        )));
    }
    let mut seen = std::collections::HashSet::new();
    if let Some(twice) = tags.iter().find(|tag| !seen.insert(tag.as_str())) {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute tags. {twice:?} has non-unique elements"
        )));
    }
    tags.iter().try_for_each(|tag| check_one(tag))
}

async fn of(session: &Session, version: Microversion, id: &str) -> Result<VirtualMachine, Fault> {
    if version < Microversion(26) {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    find(session, id).await
}

async fn write(
    session: &Session,
    vm: VirtualMachine,
    tags: impl Fn(&[String]) -> Vec<String>,
) -> Result<VirtualMachine, Fault> {
    record::change(session, vm, "", |vm| {
        let tags = tags(&vm.spec.tags);
        check(&tags)?;
        Ok(json!({"tags": tags}))
    })
    .await
}

/// `GET /servers/{id}/tags`
pub(super) async fn list(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    Ok(ok(&json!({"tags": of(&session, version, &id).await?.spec.tags})))
}

/// `PUT /servers/{id}/tags`: these and no others.
pub(super) async fn replace(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Body>,
) -> Answer {
    check(&body.tags)?;
    let vm = of(&session, version, &id).await?;
    let vm = write(&session, vm, |_| body.tags.clone()).await?;
    Ok(ok(&json!({"tags": vm.spec.tags})))
}

/// `DELETE /servers/{id}/tags`
pub(super) async fn clear(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let vm = of(&session, version, &id).await?;
    write(&session, vm, |_| Vec::new()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn missing(id: &str, tag: &str) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("Server {id} has no tag '{tag}'"))
}

/// `GET /servers/{id}/tags/{tag}`: whether it has it.
pub(super) async fn show(
    session: Session,
    version: Microversion,
    Path((id, tag)): Path<(String, String)>,
) -> Answer {
    let vm = of(&session, version, &id).await?;
    if !vm.spec.tags.contains(&tag) {
        return Err(missing(&id, &tag));
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `PUT /servers/{id}/tags/{tag}`
pub(super) async fn add(
    session: Session,
    version: Microversion,
    Path((id, tag)): Path<(String, String)>,
) -> Answer {
    check_one(&tag)?;
    let vm = of(&session, version, &id).await?;
    if vm.spec.tags.contains(&tag) {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    write(&session, vm, |tags| tags.iter().filter(|own| **own != tag).chain([&tag]).cloned().collect())
        .await?;
    let mut response = StatusCode::CREATED.into_response();
    let location = format!("{}/compute/v2.1/servers/{id}/tags/{tag}", session.door.endpoint);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `DELETE /servers/{id}/tags/{tag}`
pub(super) async fn delete(
    session: Session,
    version: Microversion,
    Path((id, tag)): Path<(String, String)>,
) -> Answer {
    let vm = of(&session, version, &id).await?;
    if !vm.spec.tags.contains(&tag) {
        return Err(missing(&id, &tag));
    }
    write(&session, vm, |tags| tags.iter().filter(|own| **own != tag).cloned().collect()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_checked() {
        let of = |tags: &[&str]| check(&tags.iter().map(|tag| (*tag).to_owned()).collect::<Vec<_>>());
        assert!(of(&["a", "b c"]).is_ok());
        assert!(of(&["a", "a"]).is_err() && of(&["a/b"]).is_err() && of(&[""]).is_err());
        assert!(of(&[&"x".repeat(61)]).is_err());
    }
}
