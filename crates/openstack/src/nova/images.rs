//! `images`, which Nova gave up with microversion 2.36 (what is below `metadata` with 2.39) for Glance's own API: the same images, in the
//! words that Nova had for them.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::image::{Image, ImagePhase};

use super::request::image_id;
use super::view::links;
use crate::auth::Session;
use crate::body::{Json, Pair, Pairs, Params};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::page::{self, Limits};
use crate::versions::ok;
use crate::{glance, stamp};

/// The version since which there are no images here, and that since which they have no metadata here.
const ENDED: Microversion = Microversion(36);
const METADATA_ENDED: Microversion = Microversion(39);
/// The property that names the server that an image was made of.
const SERVER: &str = "instance_uuid";
const PAGE: Limits = Limits { default: 1000, max: 1000 };
/// How many pairs an image may have here.
const MOST: usize = super::metadata::MAX_PAIRS;

fn served(version: Microversion, ended: Microversion) -> Result<(), Fault> {
    if version >= ended {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    Ok(())
}

async fn find(session: &Session, id: &str) -> Result<Image, Fault> {
    let missing = || Fault::new(StatusCode::NOT_FOUND, "Image not found.");
    Ok(glance::find_visible(session, id).await?.ok_or_else(missing)?.image)
}

/// Nova's word for where an image stands, and how far it is, percent.
fn status(image: &Image) -> (&'static str, u8) {
    if image.metadata.deletion_timestamp.is_some() {
        return ("DELETED", 0);
    }
    match image.status.as_ref().map(|status| status.phase).unwrap_or_default() {
        ImagePhase::Queued => ("SAVING", 25),
        ImagePhase::Staged | ImagePhase::Saving => ("SAVING", 50),
        ImagePhase::Active if image.spec.deactivated => ("UNKNOWN", 0),
        ImagePhase::Active => ("ACTIVE", 100),
        ImagePhase::Failed => ("ERROR", 0),
    }
}

fn all_links(session: &Session, id: &str) -> Value {
    let endpoint = &session.door.endpoint;
    let mut all = links(endpoint, "images", id);
    if let Some(all) = all.as_array_mut() {
        let href = format!("{endpoint}/image/images/{id}");
        all.push(json!({"rel": "alternate", "type": "application/vnd.openstack.image", "href": href}));
    }
    all
}

fn view(session: &Session, image: &Image) -> Value {
    let (id, (status, progress)) = (image.id(), status(image));
    let made = stamp::seconds(stamp::created(image));
    let mut view = json!({
        "id": id, "name": image.spec.display_name, "status": status, "progress": progress, "created": made,
        "updated": made, "minDisk": image.spec.min_disk_gib, "minRam": image.spec.min_ram_mib,
        "metadata": image.spec.properties, "links": all_links(session, &id),
        "OS-EXT-IMG-SIZE:size": image.status.as_ref().and_then(|status| status.size_bytes),
    });
    if let Some(server) = image.spec.properties.get(SERVER) {
        view["server"] = json!({"id": server, "links": links(&session.door.endpoint, "servers", server)});
    }
    view
}

/// Whether an image is among those that a query asks for.
fn takes(params: &Params, since: Option<Timestamp>, image: &Image) -> bool {
    let property = |key: &str| image.spec.properties.get(key).map(String::as_str);
    let is = |key: &str, value: Option<&str>| params.get(key).is_none_or(|wanted| value == Some(wanted));
    // A server is named by its id, or by one of its links.
    let server = params.get("server").map(image_id);
    params.get("status").is_none_or(|wanted| wanted.eq_ignore_ascii_case(status(image).0))
        && is("name", image.spec.display_name.as_deref())
        && is("type", Some(property("image_type").unwrap_or("base")))
        && server.is_none_or(|server| property(SERVER) == Some(server))
        && since.is_none_or(|since| stamp::created(image) >= since)
}

async fn collection(session: &Session, version: Microversion, params: &Params, detail: bool) -> Answer {
    served(version, ENDED)?;
    let since = params.get("changes-since").map(|text| {
        let wrong = |_| Fault::bad(format!("Invalid changes-since value: {text} is no time"));
        text.parse::<Timestamp>().map_err(wrong)
    });
    let since = since.transpose()?;
    let mut images = glance::seen(session).await?;
    images.retain(|image| takes(params, since, image));
    images.sort_by_key(|image| std::cmp::Reverse((stamp::created(image), image.id())));
    let (images, next) = page::cut(params, PAGE, images, Identified::id)?;
    let brief = |image: &Image| {
        let id = image.id();
        json!({"id": id, "name": image.spec.display_name, "links": all_links(session, &id)})
    };
    let views: Vec<Value> =
        images.iter().map(|image| if detail { view(session, image) } else { brief(image) }).collect();
    let path = if detail { "images/detail" } else { "images" };
    let url = format!("{}/compute/v2.1/{path}", session.door.endpoint);
    Ok(ok(&page::body("images", views, (&url, params, next.as_deref()))))
}

/// `GET /images`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, false).await
}

/// `GET /images/detail`
pub(super) async fn detail(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, true).await
}

/// `GET /images/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    served(version, ENDED)?;
    Ok(ok(&json!({"image": view(&session, &find(&session, &id).await?)})))
}

/// `DELETE /images/{id}`
pub(super) async fn delete(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    served(version, ENDED)?;
    find(&session, &id).await?;
    glance::delete_image(session, Path(id)).await
}

fn no_item() -> Fault {
    Fault::new(StatusCode::NOT_FOUND, "Metadata item was not found")
}

async fn write(session: &Session, image: &Image, all: BTreeMap<String, String>) -> Result<Image, Fault> {
    if all.len() > MOST {
        return Err(Fault::forbidden(format!("Image metadata limit exceeded: an image has at most {MOST}.")));
    }
    glance::replace_properties(session, image, &all).await
}

/// `GET /images/{id}/metadata`
pub(super) async fn metadata(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    served(version, METADATA_ENDED)?;
    Ok(ok(&json!({"metadata": find(&session, &id).await?.spec.properties})))
}

/// `POST /images/{id}/metadata`: sets these and keeps the others.
pub(super) async fn merge(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Pairs>,
) -> Answer {
    served(version, METADATA_ENDED)?;
    let image = find(&session, &id).await?;
    let mut all = image.spec.properties.clone();
    all.extend(body.metadata);
    Ok(ok(&json!({"metadata": write(&session, &image, all).await?.spec.properties})))
}

/// `PUT /images/{id}/metadata`: these and no others.
pub(super) async fn replace(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Pairs>,
) -> Answer {
    served(version, METADATA_ENDED)?;
    let image = find(&session, &id).await?;
    Ok(ok(&json!({"metadata": write(&session, &image, body.metadata).await?.spec.properties})))
}

/// `GET /images/{id}/metadata/{key}`
pub(super) async fn item(
    session: Session,
    version: Microversion,
    Path((id, key)): Path<(String, String)>,
) -> Answer {
    served(version, METADATA_ENDED)?;
    let image = find(&session, &id).await?;
    let value = image.spec.properties.get(&key).ok_or_else(no_item)?;
    Ok(ok(&json!({"meta": {key: value}})))
}

/// `PUT /images/{id}/metadata/{key}`
pub(super) async fn set(
    session: Session,
    version: Microversion,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<Pair>,
) -> Answer {
    served(version, METADATA_ENDED)?;
    let value = body.value(&key)?;
    let image = find(&session, &id).await?;
    let mut all = image.spec.properties.clone();
    all.insert(key.clone(), value.clone());
    write(&session, &image, all).await?;
    Ok(ok(&json!({"meta": {key: value}})))
}

/// `DELETE /images/{id}/metadata/{key}`
pub(super) async fn unset(
    session: Session,
    version: Microversion,
    Path((id, key)): Path<(String, String)>,
) -> Answer {
    served(version, METADATA_ENDED)?;
    let image = find(&session, &id).await?;
    let mut all = image.spec.properties.clone();
    all.remove(&key).ok_or_else(no_item)?;
    write(&session, &image, all).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use yunfan_resources::image::{ImageSpec, ImageStatus};

    use super::*;

    #[test]
    fn lists_are_filtered_by_novas_words() {
        let properties = [("image_type", "snapshot"), (SERVER, "s-1")];
        let properties = properties.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let spec = ImageSpec { display_name: Some("kept".into()), properties, ..ImageSpec::default() };
        let mut made = Image::new("kept", spec);
        made.status = Some(ImageStatus { phase: ImagePhase::Active, ..ImageStatus::default() });
        let plain = Image::new("plain", ImageSpec::default());
        let taken = |key: &str, value: &str| {
            let params = Params(vec![(key.to_owned(), value.to_owned())]);
            (takes(&params, None, &made), takes(&params, None, &plain))
        };
        assert_eq!(taken("status", "active"), (true, false));
        assert_eq!(taken("status", "SAVING"), (false, true));
        assert_eq!(taken("type", "snapshot"), (true, false));
        assert_eq!(taken("name", "kept"), (true, false));
        assert_eq!(taken("server", "s-1"), (true, false));
        assert_eq!(taken("server", "https://cloud/compute/v2.1/servers/s-1"), (true, false));
        assert_eq!(taken("limit", "1"), (true, true));
    }
}
