//! `createImage` and `createBackup`: images of what a server's disk holds.

use std::collections::BTreeMap;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use k8s_openapi::jiff::Timestamp;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::image::{DiskFormat, Image, ImageSpec, referred};

use super::state::{expect, state_of};
use super::volume_backed;
use crate::auth::Session;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::microversion::Microversion;
use crate::versions::json_response;

/// Since when the image's id is in the body, and no longer in a header.
const IN_BODY: Microversion = Microversion(45);
/// States of servers that images are made of (Nova's API, "Create Image").
const STATES: [&str; 4] = ["active", "stopped", "paused", "suspended"];
/// How many pairs a request may have.
const MAX_PAIRS: usize = 128;

/// What `createImage` asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    name: String,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
}

/// Properties of the new image: those of the image that the server was made from, what Nova says of a snapshot, and the request's.
fn properties(
    session: &Session,
    vm: &VirtualMachine,
    base: Option<&Image>,
    wanted: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Fault> {
    let mut all = base.map(|image| image.spec.properties.clone()).unwrap_or_default();
    for (key, value) in [
        ("image_type", "snapshot".to_owned()),
        ("instance_uuid", vm.id()),
        ("user_id", session.claims.uid.clone()),
        ("base_image_ref", base.map(Identified::id).unwrap_or_default()),
    ] {
        all.insert(key.to_owned(), value);
    }
    if wanted.iter().any(|(key, value)| key.is_empty() || key.len() > 255 || value.chars().count() > 255) {
        return Err(Fault::bad(
            "Invalid input for field/attribute metadata. Keys have 1 to 255 characters, values at most 255.",
        ));
    }
    all.extend(wanted);
    if all.len() > MAX_PAIRS {
        return Err(Fault::forbidden(format!("An image has at most {MAX_PAIRS} properties.")));
    }
    Ok(all)
}

/// `createImage`
pub(super) async fn create(
    session: &Session,
    version: Microversion,
    vm: VirtualMachine,
    wanted: Wanted,
) -> Answer {
    let id = make(session, &vm, "createImage", wanted, None).await?;
    Ok(told(session, version, &id))
}

/// What `createBackup` asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backup {
    name: String,
    backup_type: String,
    rotation: Value,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
}

/// An image of a server that replaces older ones of the same type: once it is there, only the newest `rotation` of them stay. Without
/// any that stay none is made, and those that are there go.
pub(super) async fn backup(
    session: &Session,
    version: Microversion,
    vm: VirtualMachine,
    wanted: Backup,
) -> Answer {
    let number =
        wanted.rotation.as_u64().or_else(|| wanted.rotation.as_str().and_then(|text| text.parse().ok()));
    let rotation = number.and_then(|number| u32::try_from(number).ok()).ok_or_else(|| {
        Fault::bad(
            "Invalid input for field/attribute rotation. It is the number of backups that stay, at least 0.",
        )
    })?;
    ids::check_name("backup_type", &wanted.backup_type, false)?;
    let (machine, at) = (vm.id(), Timestamp::now().as_microsecond());
    let backup = yunfan_resources::image::Backup { machine, sort: wanted.backup_type, rotation, at };
    if rotation == 0 {
        expect("createBackup", &vm.id(), state_of(&vm, Timestamp::now()), &STATES)?;
        let images = session.within::<Image>(ids::namespace(&vm));
        for image in ids::list(&images).await?.iter().filter(|image| image.is_backup_beside(&backup)) {
            match images.delete(ids::name(image), &DeleteParams::default()).await {
                // Another request removed it, or servers run from it.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                // It stays until somebody lets it go, and the others go all the same.
                Err(_) if image.spec.protected => {}
                other => drop(other?),
            }
        }
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    let image = Wanted { name: wanted.name, metadata: wanted.metadata };
    let id = make(session, &vm, "createBackup", image, Some(backup)).await?;
    Ok(told(session, version, &id))
}

/// Makes an Image that the server's node is to fill, in the server's project. Returns its id.
async fn make(
    session: &Session,
    vm: &VirtualMachine,
    action: &str,
    wanted: Wanted,
    backup: Option<yunfan_resources::image::Backup>,
) -> Result<String, Fault> {
    ids::check_name("name", &wanted.name, false)?;
    let id = vm.id();
    expect(action, &id, state_of(vm, Timestamp::now()), &STATES)?;
    let Some(reference) = vm.spec.image.as_deref().filter(|name| !name.is_empty()) else {
        if backup.is_some() {
            return Err(Fault::bad("Backup is not supported for volume-backed instances."));
        }
        let spec = ImageSpec {
            display_name: Some(wanted.name.clone()),
            disk_format: DiskFormat::Qcow2,
            properties: properties(session, vm, None, wanted.metadata.unwrap_or_default())?,
            ..ImageSpec::default()
        };
        return volume_backed::image(session, vm, &wanted.name, spec).await;
    };
    let metadata = wanted.metadata.unwrap_or_default();
    let mut image = of_root(session, vm, action, &wanted.name, reference, metadata).await?;
    if let Some(backup) = backup {
        for (key, value) in [("image_type", "backup"), ("backup_type", &backup.sort)] {
            image.spec.properties.insert(key.to_owned(), value.to_owned());
        }
        image.mark_backup(&backup);
    }
    let images = session.within::<Image>(ids::namespace(vm));
    Ok(ids::create(&images, image, &wanted.name).await?.id())
}

/// An image that is to be made of a server's root disk, which began as a child of the image that is named so.
async fn of_root(
    session: &Session,
    vm: &VirtualMachine,
    action: &str,
    name: &str,
    reference: &str,
    metadata: BTreeMap<String, String>,
) -> Result<Image, Fault> {
    let own = ids::list(&session.within::<Image>(ids::namespace(vm))).await?;
    if own.iter().any(|image| image.is_being_made_of_machine(ids::name(vm))) {
        // Nova's task states while an image is made: the first of them.
        return Err(Fault::conflict(format!(
            "Cannot '{action}' instance {} while it is in task_state image_snapshot",
            vm.id()
        )));
    }
    let (namespace, of_base) = referred(ids::namespace(vm), reference);
    // What it was made from may be gone, or be another project's by now.
    let base = match session.within::<Image>(namespace).get_opt(of_base).await {
        Err(kube::Error::Api(status)) if status.code == 403 => None,
        found => found?,
    };
    let resources = vm.spec.resources.clone().unwrap_or_default();
    let least = base.as_ref().map(|image| (image.spec.min_disk_gib, image.spec.min_ram_mib));
    let (min_disk, min_ram) = least.unwrap_or_default();
    let spec = ImageSpec {
        display_name: Some(name.to_owned()),
        disk_format: DiskFormat::Qcow2,
        source_machine: Some(ids::name(vm).to_owned()),
        min_disk_gib: min_disk.max(resources.disk_gib),
        min_ram_mib: min_ram,
        properties: properties(session, vm, base.as_ref(), metadata)?,
        ..ImageSpec::default()
    };
    Ok(Image::new("", spec))
}

/// The image of a server's root disk that it is shelved into. It waits until the server is off, and goes when that runs again.
pub(super) async fn for_shelving(
    session: &Session,
    vm: &VirtualMachine,
    action: &str,
    states: &[&str],
) -> Result<Image, Fault> {
    expect(action, &vm.id(), state_of(vm, Timestamp::now()), states)?;
    let reference = vm.spec.image.clone().unwrap_or_default();
    // Nova's name for it.
    let name: String = vm.display_name().chars().take(246).chain("-shelved".chars()).collect();
    let mut image = of_root(session, vm, action, &name, &reference, BTreeMap::new()).await?;
    image.mark_shelved(vm.metadata.uid.as_deref().unwrap_or_default());
    let images = session.within::<Image>(ids::namespace(vm));
    ids::create(&images, image, &name).await
}

/// The answer to who asked for an image, where its id is.
fn told(session: &Session, version: Microversion, id: &str) -> Response {
    if version >= IN_BODY {
        return json_response(StatusCode::ACCEPTED, &json!({"image_id": id}));
    }
    let mut response = StatusCode::ACCEPTED.into_response();
    let place = format!("{}/image/v2/images/{id}", session.door.endpoint);
    if let Ok(place) = HeaderValue::from_str(&place) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}
