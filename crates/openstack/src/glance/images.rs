//! Images: create, list, show, delete.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::IntoResponse;
use kube::api::DeleteParams;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::image::{DiskFormat, Image, ImageSpec};

use super::view::{self, view};
use crate::auth::Session;
use crate::body::{Json, Params, only};
use crate::error::{Answer, Fault};
use crate::page::{self, Limits};
use crate::versions::{json_response, ok};
use crate::{ids, nodes, stamp};

const PAGE: Limits = Limits { default: 25, max: 1000 };
/// How many properties, and how many tags, an image may have.
const MAX_PROPERTIES: usize = 128;

/// The image with this id in the caller's project.
pub(super) async fn find(session: &Session, id: &str) -> Result<Image, Fault> {
    let found = session.find(&session.own::<Image>()?, id).await?;
    found.ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, format!("No image found with ID {id}")))
}

/// `GET /images`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let owner = session.project_id().to_owned();
    let mut images = ids::list(&session.own::<Image>()?).await?;
    let hidden = params.flag("os_hidden")?.unwrap_or(false);
    images.retain(|image| !hidden && takes(&params, &view(image, &owner)));
    page::sort(&params, ("created_at", "desc"), &mut images, |image, key| match key {
        "created_at" | "updated_at" => {
            Some(format!("{} {}", stamp::seconds(stamp::created(image)), ids::name(image)))
        }
        "name" => Some(image.display_name()),
        "id" => Some(image.id()),
        "status" => Some(view::status(image).to_owned()),
        "disk_format" => Some(view::format(image.spec.disk_format).to_owned()),
        "container_format" => Some("bare".to_owned()),
        "size" => {
            Some(format!("{:020}", image.status.as_ref().and_then(|status| status.size_bytes).unwrap_or(0)))
        }
        _ => None,
    })?;
    let (images, next) = page::cut(&params, PAGE, images, Identified::id)?;
    let views: Vec<Value> = images.iter().map(|image| view(image, &owner)).collect();
    let mut first = page::next_query(&params, "");
    first.truncate(first.rfind("marker=").unwrap_or(0));
    let first = first.trim_end_matches('&');
    let first = if first.is_empty() { "/v2/images".to_owned() } else { format!("/v2/images?{first}") };
    let mut body = json!({"images": views, "first": first, "schema": "/v2/schemas/images"});
    if let Some(marker) = next {
        body["next"] = json!(format!("/v2/images?{}", page::next_query(&params, &marker)));
    }
    Ok(ok(&body))
}

/// The filters of a list: any member, with `in:a,b` for several values.
fn takes(params: &Params, view: &Value) -> bool {
    params.0.iter().all(|(key, wanted)| match key.as_str() {
        "limit" | "marker" | "sort" | "sort_key" | "sort_dir" | "os_hidden" | "member_status" => true,
        "visibility" => matches!(wanted.as_str(), "private" | "all"),
        "tag" => view["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == wanted.as_str())),
        "size_min" => view["size"].as_u64().unwrap_or(0) >= wanted.parse().unwrap_or(0),
        "size_max" => view["size"].as_u64().unwrap_or(0) <= wanted.parse().unwrap_or(u64::MAX),
        key => {
            let have = match &view[key] {
                Value::String(text) => text.clone(),
                Value::Null => return false,
                other => other.to_string(),
            };
            match wanted.strip_prefix("in:") {
                Some(list) => list.split(',').any(|one| one.trim_matches('"') == have),
                None => *wanted == have || (matches!(key, "protected") && wanted.eq_ignore_ascii_case(&have)),
            }
        }
    })
}

/// `GET /images/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    Ok(ok(&view(&find(&session, &id).await?, session.project_id())))
}

/// `GET /images/{id}/members`: images are private, so there are none.
pub(super) async fn members(session: Session, Path(id): Path<String>) -> Answer {
    find(&session, &id).await?;
    Ok(ok(&json!({"members": [], "schema": "/v2/schemas/members"})))
}

/// `POST /images`
pub(super) async fn create(session: Session, Json(body): Json<Map<String, Value>>) -> Answer {
    let spec = spec(body)?;
    let images = session.own::<Image>()?;
    if let Some(id) = &spec.id
        && session.find(&images, id).await?.is_some()
    {
        return Err(Fault::conflict(format!("Image ID {id} already exists!")));
    }
    let display = spec.display_name.clone().unwrap_or_else(|| "image".to_owned());
    let image = ids::create(&images, Image::new("", spec), &display).await?;
    let view = view(&image, session.project_id());
    let mut response = json_response(StatusCode::CREATED, &view);
    let location = format!("{}/image/v2/images/{}", session.door.endpoint, image.id());
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// What a create request asks for.
fn spec(body: Map<String, Value>) -> Result<ImageSpec, Fault> {
    let mut spec = ImageSpec::default();
    for (key, value) in body {
        match key.as_str() {
            "id" => spec.id = Some(uuid(&value)?),
            "visibility" | "container_format" | "os_hidden" | "owner" => check_fixed(&key, &value)?,
            "disk_format" => spec.disk_format = disk_format(&value)?,
            key => apply(&mut spec, key, &value)?,
        }
    }
    Ok(spec)
}

fn uuid(value: &Value) -> Result<String, Fault> {
    let parsed = value.as_str().and_then(|text| text.parse::<uuid::Uuid>().ok());
    let id = parsed
        .ok_or_else(|| Fault::bad(format!("Invalid input for field/attribute id. {value} is no UUID.")))?;
    Ok(id.hyphenated().to_string())
}

/// Members that have one value only.
pub(super) fn check_fixed(key: &str, value: &Value) -> Result<(), Fault> {
    match key {
        "visibility" => only(key, Some(value), &[json!("private")], "images are private to their project"),
        "container_format" => only(key, Some(value), &[json!("bare")], "only bare disk images are kept"),
        "os_hidden" => only(key, Some(value), &[json!(false)], "images cannot be hidden"),
        // Clients send back what they were shown.
        _ if value.is_null() || value.is_string() => Ok(()),
        _ => Err(Fault::bad(format!("Invalid input for field/attribute {key}. It is text."))),
    }
}

fn disk_format(value: &Value) -> Result<DiskFormat, Fault> {
    match value.as_str() {
        Some("qcow2") => Ok(DiskFormat::Qcow2),
        Some("raw") => Ok(DiskFormat::Raw),
        _ => Err(Fault::bad(format!(
            "Invalid input for field/attribute disk_format. {value} is not one of raw, qcow2."
        ))),
    }
}

/// Sets one member that may be changed later as well.
pub(super) fn apply(spec: &mut ImageSpec, key: &str, value: &Value) -> Result<(), Fault> {
    let wrong =
        |what: &str| Fault::bad(format!("Invalid input for field/attribute {key}. {value} is not {what}."));
    let number =
        || value.as_u64().and_then(|n| u32::try_from(n).ok()).ok_or_else(|| wrong("a number of 0 or more"));
    match key {
        "name" => {
            spec.display_name = match value {
                Value::Null => None,
                Value::String(name) => {
                    ids::check_name("name", name, true)?;
                    Some(name.clone()).filter(|name| !name.is_empty())
                }
                _ => return Err(wrong("text")),
            };
        }
        "min_disk" => spec.min_disk_gib = number()?,
        "min_ram" => spec.min_ram_mib = number()?,
        "protected" => spec.protected = value.as_bool().ok_or_else(|| wrong("a boolean"))?,
        "tags" => {
            let tags = value.as_array().ok_or_else(|| wrong("a list of text"))?;
            let mut set: BTreeMap<String, ()> = BTreeMap::new();
            for tag in tags {
                let tag = tag
                    .as_str()
                    .filter(|tag| tag.chars().count() <= 255)
                    .ok_or_else(|| wrong("a list of text"))?;
                set.insert(tag.to_owned(), ());
            }
            spec.tags = set.into_keys().collect();
        }
        key if view::BASE.contains(&key) => {
            return Err(Fault::forbidden(format!("Attribute '{key}' is read-only.")));
        }
        key => {
            let text = value.as_str().ok_or_else(|| wrong("text"))?;
            if key.is_empty() || key.len() > 255 || text.len() > 65_535 {
                return Err(Fault::bad(format!("Invalid input for property {key:?}. It is too long.")));
            }
            spec.properties.insert(key.to_owned(), text.to_owned());
        }
    }
    if spec.properties.len() > MAX_PROPERTIES || spec.tags.len() > MAX_PROPERTIES {
        return Err(Fault::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("An image has at most {MAX_PROPERTIES} properties and as many tags."),
        ));
    }
    Ok(())
}

/// `DELETE /images/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let image = find(&session, &id).await?;
    if image.spec.protected {
        return Err(Fault::forbidden(format!("Image {id} is protected and cannot be deleted.")));
    }
    let machines = ids::list(&session.own::<VirtualMachine>()?).await?;
    if let Some(user) = machines.iter().find(|vm| vm.spec.image.as_deref() == Some(ids::name(&image))) {
        return Err(Fault::conflict(format!(
            "Image {id} could not be deleted because it is in use: the disk of server {} is made from it.",
            user.id()
        )));
    }
    session.own::<Image>()?.delete(ids::name(&image), &DeleteParams::default()).await?;
    // The object is gone, and that is what counts; bytes that stay behind on a node that does not answer are the agent's to
    // clean up.
    for node in image.status.map(|status| status.nodes).unwrap_or_default() {
        let path = format!("/images/{}", image.spec.id.as_deref().unwrap_or(&id));
        if let Err(fault) =
            nodes::ask(&*session.door.nodes, &node, Method::DELETE, &path, Body::empty()).await
        {
            tracing::warn!(%fault, node, image = id, "the bytes of a deleted image stay on a node for now");
        }
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(body: Value) -> Result<ImageSpec, Fault> {
        spec(body.as_object().cloned().unwrap_or_default())
    }

    #[test]
    fn what_the_sdk_sends_becomes_an_image() {
        let spec = made(json!({
            "name": "cirros", "disk_format": "qcow2", "container_format": "bare", "min_disk": 1, "tags": ["b", "a", "b"],
            "owner_specified.openstack.md5": "", "owner_specified.openstack.object": "images/cirros",
        }))
        .unwrap();
        assert_eq!((spec.min_disk_gib, spec.tags.len(), spec.properties.len()), (1, 2, 2));
    }

    #[test]
    fn what_is_not_kept_is_refused() {
        for body in [
            json!({"disk_format": "vmdk"}),
            json!({"visibility": "public"}),
            json!({"container_format": "ovf"}),
            json!({"id": "x"}),
            json!({"status": "active"}),
            json!({"min_disk": -1}),
            json!({"colour": 7}),
        ] {
            assert!(made(body.clone()).is_err(), "{body}");
        }
    }

    #[test]
    fn lists_are_filtered_by_any_member() {
        let image = json!({"name": "a", "status": "active", "tags": ["x"], "size": 10, "protected": false, "os_distro": "debian"});
        let takes = |key: &str, value: &str| takes(&Params(vec![(key.to_owned(), value.to_owned())]), &image);
        assert!(
            takes("name", "a") && takes("name", "in:b,a") && takes("tag", "x") && takes("protected", "False")
        );
        assert!(takes("os_distro", "debian") && takes("size_min", "10") && takes("limit", "3"));
        assert!(!takes("name", "b") && !takes("visibility", "public") && !takes("os_version", "1"));
    }
}
