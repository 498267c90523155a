//! Images that are made of volumes.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::image::{ContainerFormat, DiskFormat, Image, ImageSpec, Visibility};
use yunfan_resources::storage::Volume;

use super::view::{Machines, status_of};
use super::{types, volumes};
use crate::auth::Session;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::{json_response, ok};
use crate::{ids, stamp};

/// What `os-volume_upload_image` asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upload {
    image_name: String,
    #[serde(default)]
    force: Option<Value>,
    #[serde(default)]
    disk_format: Option<DiskFormat>,
    #[serde(default)]
    container_format: Option<ContainerFormat>,
    #[serde(default)]
    visibility: Option<Visibility>,
    #[serde(default)]
    protected: Option<Value>,
}

fn flag(given: Option<&Value>) -> bool {
    given.is_some_and(|value| {
        *value == json!(true) || value.as_str().is_some_and(|text| text.eq_ignore_ascii_case("true"))
    })
}

/// `os-volume_upload_image`: an Image that is to be made of the volume, in the volume's project.
pub(super) async fn upload(
    session: &Session,
    version: Microversion,
    volume: &Volume,
    machines: &Machines,
    wanted: Upload,
) -> Answer {
    let id = volume.id();
    ids::check_name("image_name", &wanted.image_name, false)?;
    let state = status_of(machines, volume, Timestamp::now());
    if !(state == "available" || (state == "in-use" && flag(wanted.force.as_ref()))) {
        return Err(Fault::bad(format!(
            "Invalid volume: Volume {id} status must be available, or in-use with force, but current status is: {state}."
        )));
    }
    let (format, container) = (wanted.disk_format.unwrap_or(DiskFormat::Raw), wanted.container_format);
    if !matches!(format, DiskFormat::Raw | DiskFormat::Qcow2)
        || container.is_some_and(|one| one != ContainerFormat::Bare)
    {
        return Err(Fault::bad(format!(
            "Invalid input received: an image of a volume is raw or qcow2, and bare; {} is not.",
            format.name()
        )));
    }
    let visibility = wanted.visibility.unwrap_or_default();
    crate::glance::may_publish(session, visibility)?;
    let spec = ImageSpec {
        display_name: Some(wanted.image_name.clone()),
        disk_format: format,
        visibility,
        protected: flag(wanted.protected.as_ref()),
        source_volume: Some(ids::name(volume).to_owned()),
        min_disk_gib: volume.spec.size_gib,
        ..ImageSpec::default()
    };
    let images = session.within::<Image>(ids::namespace(volume));
    let image = ids::create(&images, Image::new("", spec), &wanted.image_name).await?;
    let mut view = json!({
        "id": id, "image_id": image.id(), "image_name": wanted.image_name, "status": "uploading",
        "size": volume.spec.size_gib, "display_description": volume.spec.description, "disk_format": format.name(),
        "container_format": ContainerFormat::Bare.name(), "updated_at": stamp::micros_bare(Timestamp::now()),
        "volume_type": type_of(session, volume).await?,
    });
    if version >= Microversion(1) {
        view["visibility"] = json!(visibility.name());
        view["protected"] = json!(image.spec.protected);
    }
    Ok(json_response(StatusCode::ACCEPTED, &json!({"os-volume_upload_image": view})))
}

/// The volume's type as a whole, as this one answer of Cinder's has it.
async fn type_of(session: &Session, volume: &Volume) -> Result<Value, Fault> {
    let Some(name) = &volume.spec.volume_type else { return Ok(Value::Null) };
    let all = ids::list(&session.global::<yunfan_resources::storage::VolumeType>()).await?;
    Ok(all
        .iter()
        .find(|kind| ids::name(*kind) == name)
        .map_or(Value::Null, |kind| types::view(session, kind)))
}

/// Annotation of a Volume: what is said of its image where somebody changed that, JSON.
const IMAGE_METADATA: &str = "storage.yunfan.io/image-metadata";

/// What somebody made of what is said of a volume's image.
pub(super) fn changed(volume: &Volume) -> Option<Value> {
    let text = volume.metadata.annotations.as_ref()?.get(IMAGE_METADATA)?;
    serde_json::from_str(text).ok().filter(Value::is_object)
}

/// What `os-set_image_metadata` sets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Pairs {
    metadata: BTreeMap<String, String>,
}

/// What `os-unset_image_metadata` takes away.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    key: String,
}

/// Writes what is said of a volume's image from now on.
async fn say(session: &Session, volume: &Volume, pairs: &BTreeMap<String, String>) -> Result<(), Fault> {
    let text = serde_json::to_string(pairs).map_err(|error| Fault::bad(error.to_string()))?;
    let patch = json!({"metadata": {"annotations": {IMAGE_METADATA: text}}});
    let volumes = session.within::<Volume>(ids::namespace(volume));
    volumes.patch(ids::name(volume), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// What is said of a volume's image now, as text.
async fn said(
    session: &Session,
    version: Microversion,
    volume: &Volume,
) -> Result<BTreeMap<String, String>, Fault> {
    let shown = volumes::one(session, version, volume).await?;
    let pairs = shown["volume"]["volume_image_metadata"].as_object().cloned().unwrap_or_default();
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    Ok(pairs.into_iter().map(|(key, value)| (key, text(value))).collect())
}

/// `os-set_image_metadata`: sets these and keeps the others.
pub(super) async fn set_metadata(
    session: &Session,
    version: Microversion,
    volume: &Volume,
    wanted: Pairs,
) -> Answer {
    let mut pairs = said(session, version, volume).await?;
    pairs.extend(wanted.metadata);
    super::metadata::check(&pairs)?;
    say(session, volume, &pairs).await?;
    Ok(ok(&json!({"metadata": pairs})))
}

/// `os-unset_image_metadata`
pub(super) async fn unset_metadata(
    session: &Session,
    version: Microversion,
    volume: &Volume,
    wanted: Key,
) -> Answer {
    let mut pairs = said(session, version, volume).await?;
    if pairs.remove(&wanted.key).is_none() {
        return Err(Fault::new(
            StatusCode::NOT_FOUND,
            format!("Volume {} has no image metadata with key {}.", volume.id(), wanted.key),
        ));
    }
    say(session, volume, &pairs).await?;
    Ok(StatusCode::OK.into_response())
}

/// `os-show_image_metadata`: what is known of the image that the volume was made from.
pub(super) async fn metadata(session: &Session, version: Microversion, volume: &Volume) -> Answer {
    let shown = volumes::one(session, version, volume).await?;
    let known = shown["volume"]["volume_image_metadata"].clone();
    Ok(ok(&json!({"metadata": if known.is_null() { json!({}) } else { known }})))
}
