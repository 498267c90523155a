//! `PATCH /images/{id}` in Glance's own kind of JSON patch, and tags.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Path, Request};
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};
use yunfan_resources::image::{Image, ImagePhase, ImageSpec};

use super::images::{apply, find, may_publish};
use super::view::view;
use super::visible::granted;
use crate::auth::Session;
use crate::body::{parse, read};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::ok;

/// Kinds of patch that Glance takes.
const KINDS: [&str; 2] =
    ["application/openstack-images-v2.1-json-patch", "application/openstack-images-v2.0-json-patch"];

/// One change, in either way of writing it: `{"op": "replace", "path": "/name", "value": …}` since 2.1, `{"replace": "/name",
/// "value": …}` in 2.0.
struct Operation {
    op: &'static str,
    path: String,
    value: Option<Value>,
}

/// What may be done to a member.
const OPERATIONS: [&str; 3] = ["add", "replace", "remove"];

impl Operation {
    fn parse(given: &Value) -> Result<Self, Fault> {
        let text = |key: &str| given[key].as_str();
        let known = |op: &str| OPERATIONS.into_iter().find(|known| *known == op);
        let (op, path) = match text("op") {
            Some(op) => (known(op), text("path")),
            None => {
                let op = OPERATIONS.into_iter().find(|op| given.get(*op).is_some());
                (op, op.and_then(text))
            }
        };
        match (op, path) {
            (Some(op), Some(path)) if path.starts_with('/') => {
                Ok(Self { op, path: path.to_owned(), value: given.get("value").cloned() })
            }
            (Some(_), path) => Err(Fault::bad(format!(
                "Invalid JSON pointer {}: it begins with /.",
                path.unwrap_or_default()
            ))),
            (None, _) => Err(Fault::bad(format!("Operation {given} is none of {}.", OPERATIONS.join(", ")))),
        }
    }
}

/// `PATCH /images/{id}`
pub(super) async fn patch(session: Session, Path(id): Path<String>, request: Request<Body>) -> Answer {
    let kind =
        request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !KINDS.contains(&kind.split(';').next().unwrap_or_default().trim()) {
        return Err(Fault::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("The content type {kind} is not supported; send {}", KINDS[0]),
        ));
    }
    let given: Vec<Value> = parse(&read(request.into_body()).await?)?;
    let operations = given.iter().map(Operation::parse).collect::<Result<Vec<_>, _>>()?;
    let seen = find(&session, &id).await?;
    let mut spec = seen.image.spec.clone();
    let queued = seen.image.status.as_ref().is_none_or(|status| status.phase == ImagePhase::Queued);
    for operation in &operations {
        change(&mut spec, operation, queued)?;
    }
    if spec.visibility != seen.image.spec.visibility {
        may_publish(&session, spec.visibility)?;
    }
    let image = store(&session, &seen.image, &spec).await?;
    granted(&session, &image).await?;
    Ok(ok(&view(&image, &seen.owner)))
}

/// Makes one change. `queued`: the image has no bytes yet, and may still be of another format.
fn change(spec: &mut ImageSpec, operation: &Operation, queued: bool) -> Result<(), Fault> {
    let member = operation.path.strip_prefix('/').unwrap_or(&operation.path);
    if member.is_empty() || member.contains('/') {
        return Err(Fault::bad(format!("Invalid JSON pointer {}: it names one member.", operation.path)));
    }
    let member = member.replace("~1", "/").replace("~0", "~");
    let base = super::view::BASE.contains(&member.as_str());
    if operation.op == "remove" {
        return match spec.properties.remove(&member) {
            Some(_) => Ok(()),
            None if base => Err(Fault::forbidden(format!("Property {member} may not be removed."))),
            None => Err(Fault::conflict(format!("Property {member} does not exist."))),
        };
    }
    let value = operation
        .value
        .clone()
        .ok_or_else(|| Fault::bad(format!("Operation on /{member} lacks a value.")))?;
    if operation.op == "replace" && !base && !spec.properties.contains_key(&member) {
        return Err(Fault::conflict(format!("Property {member} does not exist.")));
    }
    if matches!(member.as_str(), "disk_format" | "container_format") && !queued {
        return Err(Fault::forbidden(format!("Attribute '{member}' cannot be changed once there is data.")));
    }
    apply(spec, &member, &value)
}

/// Writes what is different from the image as it was read, and nothing else.
async fn store(session: &Session, image: &Image, spec: &ImageSpec) -> Result<Image, Fault> {
    let changes = merge_patch(&json!(image.spec), &json!(spec));
    if changes.is_empty() {
        return Ok(image.clone());
    }
    let patch = Patch::Merge(json!({"spec": changes}));
    let images = session.within::<Image>(ids::namespace(image));
    Ok(images.patch(ids::name(image), &PatchParams::default(), &patch).await?)
}

/// Gives an image these properties and no others.
pub(crate) async fn replace_properties(
    session: &Session,
    image: &Image,
    wanted: &BTreeMap<String, String>,
) -> Result<Image, Fault> {
    let mut spec = image.spec.clone();
    spec.properties.retain(|key, value| wanted.get(key) == Some(value));
    for (key, value) in wanted {
        if super::view::BASE.contains(&key.as_str()) {
            return Err(Fault::bad(format!("{key} is no free property of images.")));
        }
        if !spec.properties.contains_key(key) {
            apply(&mut spec, key, &json!(value))?;
        }
    }
    store(session, image, &spec).await
}

/// The JSON merge patch from one object to another.
fn merge_patch(from: &Value, to: &Value) -> Map<String, Value> {
    let empty = Map::new();
    let (from, to) = (from.as_object().unwrap_or(&empty), to.as_object().unwrap_or(&empty));
    let mut changes = Map::new();
    for (key, value) in to {
        match from.get(key) {
            Some(old) if old == value => {}
            Some(old) if old.is_object() && value.is_object() => {
                changes.insert(key.clone(), Value::Object(merge_patch(old, value)));
            }
            _ => drop(changes.insert(key.clone(), value.clone())),
        }
    }
    for key in from.keys().filter(|key| !to.contains_key(*key)) {
        changes.insert(key.clone(), Value::Null);
    }
    changes
}

/// `PUT /images/{id}/tags/{tag}`
pub(super) async fn add_tag(session: Session, Path((id, tag)): Path<(String, String)>) -> Answer {
    let image = find(&session, &id).await?.image;
    let mut spec = image.spec.clone();
    if !spec.tags.contains(&tag) {
        spec.tags.push(tag);
        let tags = json!(spec.tags);
        apply(&mut spec, "tags", &tags)?;
        store(&session, &image, &spec).await?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// `DELETE /images/{id}/tags/{tag}`
pub(super) async fn remove_tag(session: Session, Path((id, tag)): Path<(String, String)>) -> Answer {
    let image = find(&session, &id).await?.image;
    let mut spec = image.spec.clone();
    spec.tags.retain(|other| *other != tag);
    if spec.tags.len() == image.spec.tags.len() {
        return Err(Fault::new(StatusCode::NOT_FOUND, format!("Image {id} has no tag {tag}.")));
    }
    store(&session, &image, &spec).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed_by(operation: Value) -> Result<ImageSpec, Fault> {
        let mut spec = ImageSpec::default();
        spec.properties.insert("a/b".into(), "1".into());
        change(&mut spec, &Operation::parse(&operation)?, false)?;
        Ok(spec)
    }

    fn changed(op: &str, path: &str, value: Value) -> Result<ImageSpec, Fault> {
        changed_by(json!({"op": op, "path": path, "value": value}))
    }

    #[test]
    fn operations_change_members_and_properties() {
        assert_eq!(changed("replace", "/name", json!("x")).unwrap().display_name.as_deref(), Some("x"));
        assert_eq!(changed("add", "/os_distro", json!("debian")).unwrap().properties.len(), 2);
        assert!(changed("remove", "/a~1b", Value::Null).unwrap().properties.is_empty());
        assert!(changed("replace", "/os_hidden", json!(true)).unwrap().hidden);
        assert!(changed("remove", "/name", Value::Null).is_err());
        assert!(changed("replace", "/os_distro", json!("debian")).is_err(), "there is none to replace");
        assert!(changed("replace", "/status", json!("active")).is_err());
        assert!(changed("replace", "/disk_format", json!("raw")).is_err());
        assert!(changed("add", "/os_glance_x", json!("y")).is_err());
        assert!(changed("move", "/name", json!("x")).is_err());
    }

    #[test]
    fn the_older_way_of_writing_is_read_too() {
        let older = json!({"replace": "/name", "value": "x"});
        assert_eq!(changed_by(older).unwrap().display_name.as_deref(), Some("x"));
        assert!(changed_by(json!({"remove": "/a~1b"})).unwrap().properties.is_empty());
        assert!(changed_by(json!({"replace": "name", "value": "x"})).is_err());
        assert!(changed_by(json!({"value": "x"})).is_err());
    }

    #[test]
    fn only_differences_are_written() {
        let (from, to) = (json!({"a": 1, "b": {"c": 1, "d": 2}, "e": 3}), json!({"a": 1, "b": {"c": 2}}));
        assert_eq!(Value::Object(merge_patch(&from, &to)), json!({"b": {"c": 2, "d": null}, "e": null}));
    }
}
