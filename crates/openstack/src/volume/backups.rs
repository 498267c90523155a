//! Backups of volumes, and of snapshots of them. A backup is an Image that the volume's node makes of what either holds at one moment: whole, with its SHA-512, and
//! needing neither the volume nor the image below that any more. What tells it from other images is an annotation; Glance and Nova
//! show none that has it.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::image::{DiskFormat, Image, ImagePhase, ImageSpec, reference};
use yunfan_resources::storage::{SnapshotPhase, Volume, VolumeSnapshot, VolumeSpec};

use super::update::check_description;
use super::view::status_of;
use super::{PAGE, marks, metadata, volumes};
use crate::auth::Session;
use crate::body::{Json, Params, boolean, explicit, parse_value};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::nova::CREATOR;
use crate::versions::{json_response, ok};
use crate::zone::ZONE;
use crate::{ids, page, stamp};

/// Annotation of an Image that is a backup: [`Of`], JSON.
const BACKUP: &str = "storage.yunfan.io/backup";
const SORT_KEYS: [&str; 6] = ["created_at", "updated_at", "id", "name", "size", "status"];

/// What a backup is of.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Of {
    /// The volume's id, size in GiB and type, and whether a server could boot from it.
    volume: String,
    size: u32,
    #[serde(default)]
    volume_type: Option<String>,
    #[serde(default)]
    bootable: bool,
    /// Id of the snapshot, of a backup that is of one.
    #[serde(default)]
    snapshot: Option<String>,
    /// The volume's pairs, which a volume gets that is made from it.
    #[serde(default)]
    volume_metadata: BTreeMap<String, String>,
    /// The backup's own.
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    container: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

/// Whether an Image is a backup of a volume, and no image of Glance's.
pub(crate) fn is_backup(image: &Image) -> bool {
    image.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(BACKUP))
}

fn of(image: &Image) -> Of {
    let text = image.metadata.annotations.as_ref().and_then(|all| all.get(BACKUP));
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The backup with this id, in the caller's project or, for an admin, anywhere.
async fn find(session: &Session, id: &str) -> Result<Image, Fault> {
    let image = session.find_anywhere::<Image>(id).await?.filter(is_backup);
    image.ok_or_else(|| Fault::not_found("Backup", id))
}

/// Where a backup stands, by its node's word.
fn standing(image: &Image) -> &'static str {
    if image.metadata.deletion_timestamp.is_some() {
        return "deleting";
    }
    match image.status.as_ref().map(|status| status.phase).unwrap_or_default() {
        ImagePhase::Active => "available",
        ImagePhase::Failed => "error",
        _ => "creating",
    }
}

/// Where it stands for its service: an admin can mark it as broken.
fn status(image: &Image) -> &'static str {
    let marked = marks::mark(image, marks::STATUS).is_some_and(|word| word == "error");
    if marked && image.metadata.deletion_timestamp.is_none() { "error" } else { standing(image) }
}

fn brief(session: &Session, image: &Image) -> Value {
    let (endpoint, id) = (&session.door.endpoint, image.id());
    json!({"id": id, "name": image.spec.display_name, "links": [
        {"rel": "self", "href": format!("{endpoint}/volume/v3/backups/{id}")},
        {"rel": "bookmark", "href": format!("{endpoint}/volume/backups/{id}")},
    ]})
}

fn full(session: &Session, version: Microversion, image: &Image) -> Value {
    let (of, told) = (of(image), image.status.clone().unwrap_or_default());
    let created = stamp::micros_bare(stamp::created(image));
    let mut view = brief(session, image);
    let more = json!({
        "status": status(image), "size": of.size, "object_count": 1, "volume_id": of.volume, "container": of.container,
        "description": of.description, "availability_zone": ZONE, "created_at": created, "updated_at": created,
        "data_timestamp": created, "snapshot_id": of.snapshot, "is_incremental": false, "has_dependent_backups": false,
        "fail_reason": told.message.filter(|_| told.phase == ImagePhase::Failed),
    });
    if let (Some(view), Value::Object(more)) = (view.as_object_mut(), more) {
        view.extend(more);
    }
    if version >= Microversion(43) {
        view["metadata"] = json!(of.metadata);
    }
    if version >= Microversion(56) {
        let annotations = image.metadata.annotations.as_ref();
        view["user_id"] = json!(annotations.and_then(|all| all.get(CREATOR)).cloned().unwrap_or_default());
    }
    view
}

/// `GET /backups`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, false).await
}

/// `GET /backups/detail`
pub(super) async fn detail(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, true).await
}

async fn collection(session: &Session, version: Microversion, params: &Params, detail: bool) -> Answer {
    // As in Cinder, the word means nothing from who is no admin.
    let all = params.flag("all_tenants")?.unwrap_or(false) && session.is_admin();
    let api: Api<Image> = if all { session.everywhere() } else { session.own()? };
    let mut backups = ids::list(&api).await?;
    backups.retain(|one| {
        let is = |key: &str, value: &str| params.get(key).is_none_or(|wanted| wanted == value);
        is_backup(one)
            && is("name", one.spec.display_name.as_deref().unwrap_or_default())
            && is("status", status(one))
            && is("volume_id", &of(one).volume)
            && is("snapshot_id", of(one).snapshot.as_deref().unwrap_or_default())
    });
    page::check_keys(params, &SORT_KEYS)?;
    page::sort(params, ("created_at", "desc"), &mut backups, |one, key| match key {
        "created_at" | "updated_at" => {
            Some(format!("{} {}", stamp::seconds(stamp::created(one)), ids::name(one)))
        }
        "id" => Some(one.id()),
        "name" => Some(one.spec.display_name.clone().unwrap_or_default()),
        "size" => Some(format!("{:010}", of(one).size)),
        "status" => Some(status(one).to_owned()),
        _ => None,
    })?;
    let count = backups.len();
    let (backups, next) =
        page::cut_full(params, PAGE, page::offset(params, backups)?, ("Backup", Identified::id))?;
    let view = |one| if detail { full(session, version, one) } else { brief(session, one) };
    let path = if detail { "backups/detail" } else { "backups" };
    let url = format!("{}/volume/v3/{path}", session.door.endpoint);
    let views = backups.iter().map(view).collect();
    let body = page::body("backups", views, (&url, params, next.as_deref()));
    super::counted(version, params, body, count)
}

/// `GET /backups/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let backup = find(&session, &id).await?;
    Ok(ok(&json!({"backup": full(&session, version, &backup)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    backup: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    volume_id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    container: Option<String>,
    #[serde(default)]
    incremental: Option<Value>,
    #[serde(default)]
    force: Option<Value>,
    #[serde(default)]
    snapshot_id: Option<String>,
    #[serde(default)]
    availability_zone: Option<String>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
}

/// What is not done is refused.
fn refuse_unserved(fields: &Fields) -> Result<(), Fault> {
    if boolean("incremental", fields.incremental.as_ref())? == Some(true) {
        return Err(Fault::bad("Invalid backup: each backup is a whole one here; leave incremental out."));
    }
    if fields.availability_zone.as_deref().is_some_and(|zone| !matches!(zone, "" | ZONE)) {
        return Err(Fault::bad("Availability zone is invalid: a backup is in that of its volume."));
    }
    if fields.container.as_ref().is_some_and(|name| name.chars().count() > 255) {
        return Err(Fault::bad(
            "Invalid input for field/attribute container. It has at most 255 characters.",
        ));
    }
    Ok(())
}

/// The snapshot of a volume that a backup is to be of.
async fn snapshot(
    session: &Session,
    volume: &Volume,
    id: Option<&str>,
) -> Result<Option<VolumeSnapshot>, Fault> {
    let Some(id) = id else { return Ok(None) };
    let snapshot = session.find_anywhere::<VolumeSnapshot>(id).await?;
    let snapshot = snapshot.ok_or_else(|| Fault::not_found("Snapshot", id))?;
    if snapshot.spec.volume_id.as_deref() != Some(volume.id().as_str()) {
        let text = format!("Invalid snapshot: snapshot {id} is not one of volume {}.", volume.id());
        return Err(Fault::bad(text));
    }
    let phase = snapshot.status.as_ref().map(|status| status.phase).unwrap_or_default();
    if phase != SnapshotPhase::Available {
        return Err(Fault::bad(format!(
            "Invalid snapshot: Snapshot to be backed up must be available, but the current phase is {phase:?}."
        )));
    }
    Ok(Some(snapshot))
}

/// `POST /backups`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.backup;
    refuse_unserved(&fields)?;
    let force = boolean("force", fields.force.as_ref())?.unwrap_or(false);
    ids::check_name("name", fields.name.as_deref().unwrap_or_default(), true)?;
    check_description(fields.description.as_deref())?;
    let metadata = fields.metadata.unwrap_or_default();
    metadata::check(&metadata)?;
    let (volume, machines) = volumes::find(&session, &fields.volume_id).await?;
    let snapshot = snapshot(&session, &volume, fields.snapshot_id.as_deref()).await?;
    let state = status_of(&machines, &volume, Timestamp::now());
    if !(state == "available" || ((force || snapshot.is_some()) && state == "in-use")) {
        return Err(Fault::bad(format!(
            "Invalid volume: Volume to be backed up must be available or in-use, the latter with force, but the current status is \
             \"{state}\"."
        )));
    }
    let size = snapshot.as_ref().and_then(|snapshot| snapshot.spec.size_gib).unwrap_or(volume.spec.size_gib);
    let of = Of {
        volume: volume.id(),
        size,
        snapshot: snapshot.as_ref().map(Identified::id),
        volume_type: volume.spec.volume_type.clone(),
        bootable: volume.is_bootable(),
        volume_metadata: volume.spec.metadata.clone(),
        description: fields.description,
        container: fields.container,
        metadata,
    };
    let display = fields.name.clone().filter(|name| !name.is_empty());
    let spec = ImageSpec {
        display_name: fields.name,
        disk_format: DiskFormat::Qcow2,
        source_volume: snapshot.is_none().then(|| ids::name(&volume).to_owned()),
        source_snapshot: snapshot.as_ref().map(|snapshot| ids::name(snapshot).to_owned()),
        min_disk_gib: size,
        ..ImageSpec::default()
    };
    let mut image = Image::new("", spec);
    image.metadata.annotations = Some(
        [(CREATOR.to_owned(), session.claims.uid.clone()), (BACKUP.to_owned(), json!(of).to_string())].into(),
    );
    let images = session.within::<Image>(ids::namespace(&volume));
    let image = ids::create(&images, image, display.as_deref().unwrap_or("backup")).await?;
    Ok(json_response(StatusCode::ACCEPTED, &json!({"backup": brief(&session, &image)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateBody {
    backup: UpdateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateFields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
}

/// `PUT /backups/{id}` (3.9): another name, description or metadata.
pub(super) async fn update(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<UpdateBody>,
) -> Answer {
    if version < Microversion(9) {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    let (backup, fields) = (find(&session, &id).await?, body.backup);
    let mut of = of(&backup);
    if let Some(name) = &fields.name {
        ids::check_name("name", name, true)?;
    }
    check_description(fields.description.as_ref().and_then(Option::as_deref))?;
    if let Some(description) = fields.description {
        of.description = description;
    }
    if let Some(pairs) = fields.metadata {
        metadata::check(&pairs)?;
        of.metadata = pairs;
    }
    let mut patch = json!({"metadata": {"annotations": {BACKUP: json!(of).to_string()}}});
    if let Some(name) = fields.name {
        patch["spec"] = json!({"displayName": name});
    }
    let images = session.within::<Image>(ids::namespace(&backup));
    let backup = images.patch(ids::name(&backup), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(ok(&json!({"backup": brief(&session, &backup)})))
}

/// `DELETE /backups/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let backup = find(&session, &id).await?;
    let state = status(&backup);
    if !matches!(state, "available" | "error") {
        return Err(Fault::bad(format!(
            "Invalid backup: Backup status must be available or error; backup {id} is {state}."
        )));
    }
    remove(&session, &backup).await
}

async fn remove(session: &Session, backup: &Image) -> Answer {
    let images = session.within::<Image>(ids::namespace(backup));
    match images.delete(ids::name(backup), &DeleteParams::default()).await {
        // Volumes made from it share its blocks.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Err(Fault::bad(format!("Invalid backup: {}", status.message)))
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(StatusCode::ACCEPTED.into_response()),
        other => {
            other?;
            Ok(StatusCode::ACCEPTED.into_response())
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RestoreBody {
    restore: Restore,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Restore {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    volume_id: Option<String>,
}

/// GiB of a volume that is made from a backup: as the volume had when the backup was asked for, or what the backup holds, where the
/// volume grew before its bytes were read.
fn restored_size(of: &Of, backup: &Image) -> u32 {
    let held =
        backup.status.as_ref().and_then(|status| status.virtual_size_bytes).unwrap_or(0).div_ceil(1 << 30);
    of.size.max(u32::try_from(held).unwrap_or(u32::MAX))
}

/// `POST /backups/{id}/restore`: a new volume that holds what the backup does. What is in a volume is not written over.
pub(super) async fn restore(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<RestoreBody>,
) -> Answer {
    let (backup, wanted) = (find(&session, &id).await?, body.restore);
    if wanted.volume_id.is_some() {
        return Err(Fault::bad(
            "Invalid input received: a backup is restored to a new volume; leave volume_id out.",
        ));
    }
    let state = status(&backup);
    if state != "available" {
        return Err(Fault::bad(format!(
            "Invalid backup: Backup status must be available; backup {id} is {state}."
        )));
    }
    if session.namespace()? != ids::namespace(&backup) {
        return Err(Fault::not_found("Backup", &id));
    }
    let name = wanted.name.filter(|name| !name.is_empty()).unwrap_or_else(|| format!("restore_backup_{id}"));
    ids::check_name("name", &name, false)?;
    let of = of(&backup);
    let spec = VolumeSpec {
        display_name: Some(name.clone()),
        size_gib: restored_size(&of, &backup),
        volume_type: of.volume_type,
        image: Some(reference(&backup, session.namespace()?)),
        bootable: Some(of.bootable),
        metadata: of.volume_metadata,
        ..VolumeSpec::default()
    };
    let volume = volumes::make(&session, spec).await?;
    let told = json!({"backup_id": id, "volume_id": volume.id(), "volume_name": name});
    Ok(json_response(StatusCode::ACCEPTED, &json!({"restore": told})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    status: String,
}

/// `POST /backups/{id}/action`: what administrators do with one.
pub(super) async fn act(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<Map<String, Value>>,
) -> Answer {
    let (action, argument) = crate::body::action(body)?;
    let backup = find(&session, &id).await?;
    if !session.is_admin() {
        return Err(Fault::forbidden(format!("Policy doesn't allow {action} to be performed.")));
    }
    match action.as_str() {
        "os-force_delete" => remove(&session, &backup).await,
        "os-reset_status" => {
            let word = parse_value::<Reset>(argument)?.status.to_ascii_lowercase();
            let mark = match word.as_str() {
                "error" => json!("error"),
                word if word == standing(&backup) => Value::Null,
                _ => {
                    return Err(Fault::bad(format!(
                        "Invalid input for field/attribute status. Backup {id} is {} by what its node says; it can be marked as error.",
                        standing(&backup)
                    )));
                }
            };
            marks::write(&session, &backup, json!({marks::STATUS: mark})).await?;
            Ok(StatusCode::ACCEPTED.into_response())
        }
        word => Err(Fault::bad(format!("There is no such action: {word}"))),
    }
}

/// `GET /backups/{id}/export_record` and `POST /backups/import_record`: a backup is an object of the cloud, which `yunfan backup` keeps
/// with all others.
pub(super) async fn record(_: Session) -> Answer {
    Err(Fault::unsupported("Records of backups are neither exported nor imported by this cloud."))
}

/// How many backups a project has, and of how many GiB.
pub(super) async fn used(session: &Session, namespace: &str) -> Result<(usize, u64), Fault> {
    let mut backups = ids::list(&session.within::<Image>(namespace)).await?;
    backups.retain(is_backup);
    Ok((backups.len(), backups.iter().map(|one| u64::from(of(one).size)).sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_told_by_its_annotation_and_stands_where_its_image_does() {
        let mut image = Image::new("b", ImageSpec::default());
        assert!(!is_backup(&image));
        image.metadata.annotations = Some([(BACKUP.to_owned(), json!(Of::default()).to_string())].into());
        assert!(is_backup(&image));
        assert_eq!(status(&image), "creating");
        for (phase, word) in [(ImagePhase::Active, "available"), (ImagePhase::Failed, "error")] {
            let told = yunfan_resources::image::ImageStatus { phase, ..Default::default() };
            image.status = Some(told);
            assert_eq!(status(&image), word);
        }
    }

    #[test]
    fn what_a_grown_volume_held_has_room_in_what_is_made_of_it() {
        let mut image = Image::new("b", ImageSpec::default());
        let of = Of { size: 2, ..Of::default() };
        assert_eq!(restored_size(&of, &image), 2);
        for (bytes, gib) in [(1 << 30, 2), (3 << 30, 3), ((3 << 30) + 1, 4)] {
            let told = yunfan_resources::image::ImageStatus {
                virtual_size_bytes: Some(bytes),
                ..Default::default()
            };
            image.status = Some(told);
            assert_eq!(restored_size(&of, &image), gib);
        }
    }

    #[test]
    fn what_is_not_done_is_refused() {
        let refused = |more: Value| {
            let mut body = json!({"volume_id": "v"});
            body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            refuse_unserved(&serde_json::from_value(body).unwrap()).is_err()
        };
        assert!(!refused(json!({"incremental": false, "availability_zone": "nova"})));
        for wrong in [json!({"incremental": true}), json!({"availability_zone": "x"})] {
            assert!(refused(wrong.clone()), "{wrong}");
        }
    }
}
