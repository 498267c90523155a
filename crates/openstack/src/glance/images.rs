//! Images: create, list, show, delete.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use kube::api::DeleteParams;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::image::{ContainerFormat, DiskFormat, Image, ImageSpec, Visibility};

use super::view::{self, view};
use super::visible::{self, Seen};
use super::{data, import, members};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::page::{self, Limits};
use crate::versions::{json_response, ok};
use crate::{ids, quota, stamp};

const PAGE: Limits = Limits { default: 25, max: 1000 };
/// How many properties, and how many tags, an image may have.
const MAX_PROPERTIES: usize = 128;

/// The image with this id, if the caller sees it.
pub(super) async fn find(session: &Session, id: &str) -> Result<Seen, Fault> {
    let found = visible::find(session, id).await?;
    found.ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, format!("No image found with ID {id}")))
}

/// Whether a list has an image: which of those that the caller sees are asked for. (Glance's API, "Image visibility".)
fn is_listed(session: &Session, params: &Params, seen: &Seen) -> Result<bool, Fault> {
    let (image, own) = (&seen.image, seen.is_own(session));
    let of = image.spec.visibility;
    let answer = params.get("member_status").unwrap_or("accepted");
    if !["pending", "accepted", "rejected", "all"].contains(&answer) {
        return Err(Fault::bad(format!("Invalid value '{answer}' for member_status.")));
    }
    let member = || {
        let project = session.project_id();
        let is_one = image.spec.members.iter().any(|member| member == project);
        is_one && (answer == "all" || answer == members::answer_of(image, project))
    };
    let shown = match of {
        _ if own => true,
        Visibility::Public => true,
        Visibility::Shared => session.is_admin() || member(),
        Visibility::Private => session.is_admin(),
        Visibility::Community => false,
    };
    match params.get("visibility") {
        None => Ok(shown),
        Some("all") => Ok(shown || of == Visibility::Community),
        Some("community") => Ok(of == Visibility::Community),
        Some(wanted) if Visibility::ALL.iter().any(|one| one.name() == wanted) => {
            Ok(shown && of.name() == wanted)
        }
        Some(other) => Err(Fault::bad(format!("Invalid visibility value: {other}"))),
    }
}

/// `GET /images`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let hidden = params.flag("os_hidden")?.unwrap_or(false);
    let mut images = Vec::new();
    for seen in visible::all(&session).await? {
        let wanted = seen.image.spec.hidden == hidden && is_listed(&session, &params, &seen)?;
        if wanted && takes(&params, &view(&seen.image, &seen.owner))? {
            images.push(seen);
        }
    }
    page::sort(&params, ("created_at", "desc"), &mut images, |seen, key| {
        let image = &seen.image;
        match key {
            "created_at" | "updated_at" => {
                Some(format!("{} {}", stamp::seconds(stamp::created(image)), ids::name(image)))
            }
            "name" => Some(image.display_name()),
            "id" => Some(image.id()),
            "status" => Some(view::status(image).to_owned()),
            "disk_format" => Some(image.spec.disk_format.name().to_owned()),
            "container_format" => Some(image.spec.container_format.name().to_owned()),
            "visibility" => Some(image.spec.visibility.name().to_owned()),
            "owner" => Some(seen.owner.clone()),
            "size" => {
                let size = image.status.as_ref().and_then(|status| status.size_bytes);
                Some(format!("{:020}", size.unwrap_or(0)))
            }
            _ => None,
        }
    })?;
    let (images, next) = page::cut(&params, PAGE, images, |seen| seen.image.id())?;
    let views: Vec<Value> = images.iter().map(|seen| view(&seen.image, &seen.owner)).collect();
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

/// The filters of a list: any member, with `in:a,b` for several values and `gt:`, `lt:` and the like for points in time.
fn takes(params: &Params, view: &Value) -> Result<bool, Fault> {
    let number = |key: &str, text: &str| {
        text.parse::<u64>()
            .map_err(|_| Fault::bad(format!("Invalid value '{text}' for {key}: it is no number.")))
    };
    for (key, wanted) in &params.0 {
        let taken = match key.as_str() {
            "limit" | "marker" | "sort" | "sort_key" | "sort_dir" | "os_hidden" | "member_status"
            | "visibility" => true,
            "tag" => {
                view["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == wanted.as_str()))
            }
            "size_min" => view["size"].as_u64().unwrap_or(0) >= number(key, wanted)?,
            "size_max" => view["size"].as_u64().unwrap_or(0) <= number(key, wanted)?,
            "created_at" | "updated_at" => since(view[key].as_str().unwrap_or_default(), wanted)?,
            key => is_one_of(&view[key], key, wanted),
        };
        if !taken {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Compares points in time, which are written so that their texts compare as they do.
fn since(have: &str, wanted: &str) -> Result<bool, Fault> {
    let (how, at) = match wanted.split_once(':') {
        Some((how, at)) if ["gt", "gte", "lt", "lte", "eq", "neq"].contains(&how) => (how, at),
        _ => ("eq", wanted),
    };
    let parsed: jiff::Timestamp = at
        .parse()
        .or_else(|_| format!("{at}Z").parse())
        .map_err(|_| Fault::bad(format!("Invalid time '{at}': it is written as 2026-01-31T12:00:00Z.")))?;
    let at = stamp::seconds(parsed);
    Ok(match how {
        "gt" => have > at.as_str(),
        "gte" => have >= at.as_str(),
        "lt" => have < at.as_str(),
        "lte" => have <= at.as_str(),
        "neq" => have != at.as_str(),
        _ => have == at.as_str(),
    })
}

fn is_one_of(have: &Value, key: &str, wanted: &str) -> bool {
    let have = match have {
        Value::String(text) => text.clone(),
        Value::Null => return false,
        other => other.to_string(),
    };
    match wanted.strip_prefix("in:") {
        Some(list) => list.split(',').any(|one| one.trim_matches('"') == have),
        None => *wanted == have || (key == "protected" && wanted.eq_ignore_ascii_case(&have)),
    }
}

/// `GET /images/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    let seen = find(&session, &id).await?;
    Ok(ok(&view(&seen.image, &seen.owner)))
}

/// `POST /images`
pub(super) async fn create(session: Session, Json(body): Json<Map<String, Value>>) -> Answer {
    let owner = owner(&session, body.get("owner"))?.to_owned();
    let spec = spec(body)?;
    may_publish(&session, spec.visibility)?;
    let namespace = quota::namespace_of(&session, &owner).await?;
    let images = session.within::<Image>(&namespace);
    if let Some(id) = &spec.id
        && session.find(&images, id).await?.is_some()
    {
        return Err(Fault::conflict(format!("Image ID {id} already exists!")));
    }
    let display = spec.display_name.clone().unwrap_or_else(|| "image".to_owned());
    let image = ids::create(&images, Image::new("", spec), &display).await?;
    visible::granted(&session, &image).await?;
    let view = view(&image, &owner);
    let mut response = json_response(StatusCode::CREATED, &view);
    let location = format!("{}/image/v2/images/{}", session.door.endpoint, image.id());
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    let methods = HeaderValue::from_static("glance-direct");
    response.headers_mut().insert("openstack-image-import-methods", methods);
    response.headers_mut().insert("openstack-image-store-ids", HeaderValue::from_static(import::STORE));
    Ok(response)
}

/// The project (an id) that a new image is to be of: the token's or, for an administrator, any that there is.
fn owner<'a>(session: &'a Session, given: Option<&'a Value>) -> Result<&'a str, Fault> {
    match given {
        None | Some(Value::Null) => Ok(session.project_id()),
        Some(Value::String(owner)) if owner == session.project_id() || session.is_admin() => Ok(owner),
        Some(Value::String(owner)) => {
            Err(Fault::forbidden(format!("You are not permitted to create images owned by '{owner}'.")))
        }
        Some(other) => {
            Err(Fault::bad(format!("Invalid input for field/attribute owner. {other} is no text.")))
        }
    }
}

/// What a create request asks for.
fn spec(body: Map<String, Value>) -> Result<ImageSpec, Fault> {
    // The default of Glance's API since 2.5: with nobody as long as it has no members.
    let mut spec = ImageSpec { visibility: Visibility::Shared, ..ImageSpec::default() };
    for (key, value) in body {
        match key.as_str() {
            "id" => spec.id = Some(uuid(&value)?),
            "owner" => {}
            key => apply(&mut spec, key, &value)?,
        }
    }
    Ok(spec)
}

/// Who makes an image public puts it in everybody's lists. (The API server says so too; this is Glance's own word for it.)
pub(crate) fn may_publish(session: &Session, visibility: Visibility) -> Result<(), Fault> {
    if visibility == Visibility::Public && !session.is_admin() {
        return Err(Fault::forbidden("You are not authorized to complete publicize_image action."));
    }
    Ok(())
}

fn uuid(value: &Value) -> Result<String, Fault> {
    let parsed = value.as_str().and_then(|text| text.parse::<uuid::Uuid>().ok());
    let id = parsed
        .ok_or_else(|| Fault::bad(format!("Invalid input for field/attribute id. {value} is no UUID.")))?;
    Ok(id.hyphenated().to_string())
}

/// The one of `all` with this name; the first where the client says nothing.
fn named<T: Copy>(key: &str, value: &Value, all: &[T], name: fn(T) -> &'static str) -> Result<T, Fault> {
    let names: Vec<&str> = all.iter().map(|one| name(*one)).collect();
    let found = value.as_str().and_then(|wanted| names.iter().position(|name| *name == wanted));
    found.map(|at| all[at]).ok_or_else(|| {
        let names = names.join(", ");
        Fault::bad(format!("Invalid input for field/attribute {key}. {value} is not one of {names}."))
    })
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
        "os_hidden" => spec.hidden = value.as_bool().ok_or_else(|| wrong("a boolean"))?,
        "visibility" => spec.visibility = named(key, value, &Visibility::ALL, Visibility::name)?,
        "disk_format" | "container_format" if value.is_null() => {}
        "disk_format" => spec.disk_format = named(key, value, &DiskFormat::ALL, DiskFormat::name)?,
        "container_format" => {
            spec.container_format = named(key, value, &ContainerFormat::ALL, ContainerFormat::name)?;
        }
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
        key if key.starts_with("os_glance") => {
            return Err(Fault::forbidden(format!("Attribute '{key}' is reserved.")));
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
pub(crate) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let image = find(&session, &id).await?.image;
    if image.spec.protected {
        return Err(Fault::forbidden(format!("Image {id} is protected and cannot be deleted.")));
    }
    let images = session.within::<Image>(ids::namespace(&image));
    match images.delete(ids::name(&image), &DeleteParams::default()).await {
        // Something is made from it.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            return Err(Fault::conflict(format!(
                "Image {id} could not be deleted because it is in use: {}",
                status.message
            )));
        }
        other => drop(other?),
    }
    // The object is gone, and that is what counts; bytes that stay behind on a node that does not answer are the agent's to
    // clean up.
    for node in image.status.iter().flat_map(|status| &status.nodes) {
        data::discard(&session.door, &image, node).await;
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
            json!({"disk_format": "floppy"}),
            json!({"visibility": "secret"}),
            json!({"container_format": "ovf"}),
            json!({"os_glance_x": "y"}),
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
        let image = json!({"name": "a", "status": "active", "tags": ["x"], "size": 10, "protected": false, "os_distro": "debian",
                           "created_at": "2026-01-31T12:00:00Z"});
        let asked = |key: &str, value: &str| takes(&Params(vec![(key.to_owned(), value.to_owned())]), &image);
        let takes = |key: &str, value: &str| asked(key, value).unwrap();
        assert!(
            takes("name", "a") && takes("name", "in:b,a") && takes("tag", "x") && takes("protected", "False")
        );
        assert!(takes("os_distro", "debian") && takes("size_min", "10") && takes("limit", "3"));
        assert!(!takes("name", "b") && !takes("os_version", "1") && asked("size_min", "x").is_err());
        assert!(
            takes("created_at", "gt:2026-01-31T11:59:59Z") && !takes("created_at", "lt:2026-01-31T12:00:00")
        );
        assert!(asked("created_at", "gt:yesterday").is_err());
    }
}
