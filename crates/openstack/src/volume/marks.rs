//! Statuses that somebody set instead of those that follow from objects: an admin's reset, and a reservation.
//!
//! As in Cinder they change nothing of the data: they decide what the service lets be done next. A mark is an annotation; while there is
//! none, and once a volume is being deleted, the objects say where it stands.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::storage::{Volume, VolumeSnapshot};

use super::type_specs::admin_only;
use super::view::{Machines, standing, status_of};
use super::{outside, snapshots, transfers};
use crate::auth::Session;
use crate::error::{Answer, Fault};
use crate::ids;

/// Annotation with the status.
pub(super) const STATUS: &str = "storage.yunfan.io/marked-status";
/// Annotation with the attachment that a volume is kept for.
pub(super) const RESERVATION: &str = "storage.yunfan.io/reserved-for";
/// Annotation with how far a snapshot is, by who makes it.
const PROGRESS: &str = "storage.yunfan.io/marked-progress";
/// Statuses that volumes are marked with.
const VOLUMES: [&str; 8] = [
    "creating",
    "deleting",
    "error",
    "error_deleting",
    "error_managing",
    "attaching",
    "detaching",
    "maintenance",
];
/// Statuses that snapshots are marked with.
const SNAPSHOTS: [&str; 4] = ["creating", "deleting", "error", "error_deleting"];

/// What an annotation of an object says.
pub(super) fn mark<K: kube::Resource>(object: &K, key: &str) -> Option<String> {
    object.meta().annotations.as_ref()?.get(key).cloned()
}

/// A volume that is kept for a server to come, by [`super::attachments`].
#[derive(Deserialize, Serialize)]
pub(super) struct Reservation {
    pub(super) id: String,
    #[serde(default)]
    pub(super) server: Option<String>,
    #[serde(default)]
    pub(super) mode: Option<String>,
}

/// For what a volume is kept, if it is.
pub(super) fn reservation(volume: &Volume) -> Option<Reservation> {
    serde_json::from_str(&mark(volume, RESERVATION)?).ok()
}

/// What a volume is marked as.
pub(super) fn volume(volume: &Volume) -> Option<&'static str> {
    if transfers::left(volume) {
        return Some("deleting");
    }
    let Some(word) = mark(volume, STATUS) else {
        if transfers::waits(volume) {
            return Some("awaiting-transfer");
        }
        let used = outside::user(volume).map(|_| "in-use");
        return used.or_else(|| reservation(volume).map(|_| "reserved"));
    };
    VOLUMES.into_iter().find(|known| *known == word)
}

/// What a snapshot is marked as.
pub(super) fn snapshot(snapshot: &VolumeSnapshot) -> Option<&'static str> {
    let word = mark(snapshot, STATUS)?;
    SNAPSHOTS.into_iter().find(|known| *known == word)
}

/// How far a snapshot is, where somebody said so.
pub(super) fn progress(snapshot: &VolumeSnapshot) -> Option<&str> {
    snapshot.metadata.annotations.as_ref()?.get(PROGRESS).map(String::as_str)
}

/// Writes or removes marks of an object, as the caller.
pub(super) async fn write<K>(session: &Session, object: &K, marks: Value) -> Result<(), Fault>
where
    K: ids::Kind + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    let patch = Patch::Merge(json!({"metadata": {"annotations": marks}}));
    let api = session.within::<K>(ids::namespace(object));
    api.patch(ids::name(object), &PatchParams::default(), &patch).await?;
    Ok(())
}

/// As [`write`], of the object as it was read: a conflict where somebody else wrote it meanwhile.
pub(super) async fn write_as_read(session: &Session, volume: &Volume, marks: Value) -> Result<(), Fault> {
    let patch = Patch::Merge(json!({"metadata": {
        "resourceVersion": volume.metadata.resource_version, "annotations": marks,
    }}));
    let volumes = session.within::<Volume>(ids::namespace(volume));
    volumes.patch(ids::name(volume), &PatchParams::default(), &patch).await?;
    Ok(())
}

fn accepted() -> Answer {
    Ok(StatusCode::ACCEPTED.into_response())
}

/// What `os-reset_status` asks for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reset {
    status: String,
}

/// `os-reset_status` of a volume. `available` and `in-use` are never marked: they end a mark, where the volume then is that,
/// and what it is kept for.
pub(super) async fn reset_volume(
    session: &Session,
    machines: &Machines,
    volume: &Volume,
    wanted: Reset,
) -> Answer {
    admin_only(session, "volume_extension:volume_admin_actions:reset_status")?;
    let word = wanted.status.to_ascii_lowercase();
    let real = standing(machines, volume, Timestamp::now());
    if word == real {
        write(session, volume, json!({STATUS: null, RESERVATION: null})).await?;
    } else if VOLUMES.contains(&word.as_str()) {
        write(session, volume, json!({STATUS: word})).await?;
    } else {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute status. Volume {} is {real} by what its node and its servers say, and can't be \
             made {word}; a mark is one of {}.",
            volume.id(),
            VOLUMES.join(", ")
        )));
    }
    accepted()
}

/// `os-reserve`: nobody else attaches the volume, or deletes it, until it is let go of.
pub(super) async fn reserve(session: &Session, machines: &Machines, volume: &Volume) -> Answer {
    let status = status_of(machines, volume, Timestamp::now());
    if status != "available" {
        return Err(Fault::bad(format!(
            "Invalid volume: Volume status must be available to reserve; it is {status}."
        )));
    }
    write(session, volume, json!({STATUS: "attaching"})).await?;
    accepted()
}

/// `os-unreserve`
pub(super) async fn unreserve(session: &Session, reserved: &Volume) -> Answer {
    if matches!(volume(reserved), Some("attaching" | "reserved")) {
        write(session, reserved, json!({STATUS: null, RESERVATION: null})).await?;
    }
    accepted()
}

/// `os-reset_status` of a snapshot.
pub(super) async fn reset_snapshot(session: &Session, marked: &VolumeSnapshot, wanted: Reset) -> Answer {
    admin_only(session, "volume_extension:snapshot_admin_actions:reset_status")?;
    let mut plain = marked.clone();
    plain.metadata.annotations = None;
    let (real, word) = (snapshots::status(&plain), wanted.status.to_ascii_lowercase());
    if word == real {
        write(session, marked, json!({STATUS: null, PROGRESS: null})).await?;
    } else if SNAPSHOTS.contains(&word.as_str()) {
        write(session, marked, json!({STATUS: word, PROGRESS: null})).await?;
    } else {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute status. Snapshot {} is {real} by what its node says, and can't be made {word}; a \
             mark is one of {}.",
            marked.id(),
            SNAPSHOTS.join(", ")
        )));
    }
    accepted()
}

/// What `os-update_snapshot_status` tells.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Update {
    status: String,
    #[serde(default)]
    progress: Option<String>,
}

/// `os-update_snapshot_status`: whoever works on a snapshot that is being made or deleted tells how it went.
pub(super) async fn update_snapshot(session: &Session, marked: &VolumeSnapshot, told: Update) -> Answer {
    let now = snapshots::status(marked);
    let next: &[&str] = match now {
        "creating" => &["creating", "available", "error"],
        "deleting" => &["deleting", "error", "error_deleting"],
        _ => &[],
    };
    if !next.contains(&told.status.as_str()) {
        return Err(Fault::bad(format!(
            "Provided snapshot status {} not allowed for snapshot with status {now}.",
            told.status
        )));
    }
    let percent = |text: &String| text.strip_suffix('%')?.parse::<u8>().ok().filter(|part| *part <= 100);
    if told.progress.as_ref().is_some_and(|text| percent(text).is_none()) {
        return Err(Fault::bad("Invalid input for field/attribute progress. It is 0% to 100%."));
    }
    if snapshot(marked).is_none() {
        return Err(Fault::bad("Its node makes this snapshot, and tells how it goes."));
    }
    let word = (told.status != "available").then_some(told.status.as_str());
    write(session, marked, json!({STATUS: word, PROGRESS: word.and(told.progress)})).await?;
    accepted()
}
