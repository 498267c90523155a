//! `/os-volume-transfer` and `/volume-transfers` (3.55): a volume that goes over to another project, to whoever has its key.
//!
//! A transfer is an annotation of its Volume, with the key's hash. Objects do not change their namespace: whoever accepts it makes a Volume
//! with the same id in their own project, charged to their own quota, that begins as a copy of the first one on its node; that one
//! gives its id away and says where it goes (which is the grant), and goes itself once the copy is there. A loop of the controllers
//! sees to that, whoever is restarted in between.

use std::time::Duration;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use yunfan_resources::Identified;
use yunfan_resources::storage::{
    MOVED_AT, MOVED_ID, MOVES_TO, Volume, VolumePhase, VolumeSnapshot, VolumeSpec,
};

use super::view::status_of;
use super::{PAGE, marks, snapshots, volumes};
use crate::auth::Session;
use crate::body::{Json, Params, boolean};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::{json_response, ok};
use crate::{ids, page, stamp};

/// Annotation of a Volume that waits to go over: [`Transfer`], JSON.
const TRANSFER: &str = "storage.yunfan.io/transfer";
/// Versions that added `no_snapshots`, and whose and for whom a transfer is.
const SNAPSHOTS: Microversion = Microversion(55);
const PROJECTS: Microversion = Microversion(57);
/// How often, and how many times, it is looked whether a volume has gone over before that is answered. Large ones take longer.
const LOOK_EVERY: Duration = Duration::from_millis(50);
const LOOKS: usize = 400;

#[derive(Clone, Debug, Deserialize, Serialize)]
struct Transfer {
    id: String,
    #[serde(default)]
    name: Option<String>,
    salt: String,
    /// SHA-256 of salt and key.
    hash: String,
    created: String,
    #[serde(default)]
    no_snapshots: bool,
}

/// Whether a volume waits to go over to another project.
pub(super) fn waits(volume: &Volume) -> bool {
    of(volume).is_some()
}

/// Whether a volume has gone over, and is on its way out here.
pub(super) fn left(volume: &Volume) -> bool {
    marks::mark(volume, MOVES_TO).is_some()
}

fn of(volume: &Volume) -> Option<Transfer> {
    serde_json::from_str(&marks::mark(volume, TRANSFER)?).ok()
}

fn hash(salt: &str, key: &str) -> String {
    ids::hex(&Sha256::digest(format!("{salt}:{key}")))
}

fn missing(id: &str) -> Fault {
    Fault::not_found("Transfer", id)
}

fn links(session: &Session, id: &str) -> Value {
    let endpoint = &session.door.endpoint;
    json!([
        {"rel": "self", "href": format!("{endpoint}/volume/v3/os-volume-transfer/{id}")},
        {"rel": "bookmark", "href": format!("{endpoint}/volume/os-volume-transfer/{id}")},
    ])
}

fn brief(session: &Session, volume: &Volume, transfer: &Transfer) -> Value {
    json!({"id": transfer.id, "name": transfer.name, "volume_id": volume.id(), "links": links(session, &transfer.id)})
}

fn full(session: &Session, version: Microversion, volume: &Volume, transfer: &Transfer) -> Value {
    let mut view = brief(session, volume, transfer);
    view["created_at"] = json!(transfer.created);
    if version >= SNAPSHOTS {
        view["no_snapshots"] = json!(transfer.no_snapshots);
    }
    if version >= PROJECTS {
        view["destination_project_id"] = Value::Null;
        view["source_project_id"] = json!(session.project_id());
        view["accepted"] = json!(false);
    }
    view
}

/// The transfer with this id, of the caller's project or, for an admin, anywhere.
async fn find(session: &Session, id: &str) -> Result<(Volume, Transfer), Fault> {
    let pick = |all: Vec<Volume>| {
        let mut all = all.into_iter().filter_map(|volume| Some((of(&volume)?, volume)));
        all.find(|(transfer, volume)| transfer.id == id && !left(volume))
            .map(|(transfer, volume)| (volume, transfer))
    };
    if let Some(found) = pick(ids::list(&session.own::<Volume>()?).await?) {
        return Ok(found);
    }
    if session.is_admin()
        && let Ok(all) = ids::list(&session.everywhere::<Volume>()).await
        && let Some(found) = pick(all)
    {
        return Ok(found);
    }
    Err(missing(id))
}

async fn collection(session: &Session, version: Microversion, params: &Params, detail: bool) -> Answer {
    let everywhere = params.flag("all_tenants")?.unwrap_or(false) && session.is_admin();
    let all = if everywhere { session.everywhere::<Volume>() } else { session.own()? };
    let waiting = |volume: Volume| Some((of(&volume).filter(|_| !left(&volume))?, volume));
    let mut found: Vec<(Transfer, Volume)> = ids::list(&all).await?.into_iter().filter_map(waiting).collect();
    found.sort_by(|one, other| other.0.created.cmp(&one.0.created));
    let found = page::offset(params, found)?;
    let (found, next) = page::cut(params, PAGE, found, |(transfer, _)| transfer.id.clone())?;
    let view = |(transfer, volume): &(Transfer, Volume)| {
        if detail { full(session, version, volume, transfer) } else { brief(session, volume, transfer) }
    };
    let views = found.iter().map(view).collect();
    let path = if detail { "os-volume-transfer/detail" } else { "os-volume-transfer" };
    let url = format!("{}/volume/v3/{path}", session.door.endpoint);
    Ok(ok(&page::body("transfers", views, (&url, params, next.as_deref()))))
}

/// `GET /os-volume-transfer`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, false).await
}

/// `GET /os-volume-transfer/detail`
pub(super) async fn detail(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, true).await
}

/// `GET /os-volume-transfer/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let (volume, transfer) = find(&session, &id).await?;
    Ok(ok(&json!({"transfer": full(&session, version, &volume, &transfer)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    transfer: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    volume_id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    no_snapshots: Option<Value>,
}

/// `POST /os-volume-transfer`: the key is told now, and never again.
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    let fields = body.transfer;
    ids::check_name("name", fields.name.as_deref().unwrap_or_default(), true)?;
    if fields.no_snapshots.is_some() && version < SNAPSHOTS {
        return Err(Fault::bad(
            "Invalid input for field/attribute transfer. Additional properties are not allowed ('no_snapshots' was unexpected)",
        ));
    }
    let no_snapshots = boolean("no_snapshots", fields.no_snapshots.as_ref())?.unwrap_or(false);
    let (volume, machines) = volumes::find(&session, &fields.volume_id).await?;
    let status = status_of(&machines, &volume, Timestamp::now());
    if status != "available" {
        return Err(Fault::bad(format!(
            "Invalid volume: status must be available to be transferred; volume {} is {status}.",
            fields.volume_id
        )));
    }
    if !snapshots::of(&session, &volume).await?.is_empty() {
        return Err(Fault::bad(format!(
            "Invalid volume: volume {} has snapshots, which stay in their project; delete them first.",
            fields.volume_id
        )));
    }
    let (salt, key) = (ids::plain(), ids::plain());
    let transfer = Transfer {
        id: uuid::Uuid::new_v4().to_string(),
        name: fields.name,
        hash: hash(&salt, &key),
        salt,
        created: stamp::micros_bare(Timestamp::now()),
        no_snapshots,
    };
    marks::write_as_read(&session, &volume, json!({TRANSFER: json!(transfer).to_string()})).await?;
    let mut view = full(&session, version, &volume, &transfer);
    view["auth_key"] = json!(key);
    Ok(json_response(StatusCode::ACCEPTED, &json!({"transfer": view})))
}

/// `DELETE /os-volume-transfer/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let (volume, _) = find(&session, &id).await?;
    if left(&volume) {
        return Err(missing(&id));
    }
    marks::write_as_read(&session, &volume, json!({TRANSFER: null})).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AcceptBody {
    accept: Accept,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Accept {
    auth_key: String,
}

/// `POST /os-volume-transfer/{id}/accept`. The key is what lets the caller have the volume: they may not see it before.
pub(super) async fn accept(session: Session, Path(id): Path<String>, Json(body): Json<AcceptBody>) -> Answer {
    let namespace = session.namespace()?.to_owned();
    let everywhere = Api::<Volume>::all(session.door.system.clone());
    let all = ids::list(&everywhere).await?.into_iter().filter_map(|volume| Some((of(&volume)?, volume)));
    // Annotations are their volume's users' to write, so that another one may bear the same id.
    let found: Vec<_> = all.filter(|(transfer, volume)| transfer.id == id && !left(volume)).collect();
    if found.is_empty() {
        return Err(missing(&id));
    }
    let is_key = |transfer: &Transfer| hash(&transfer.salt, &body.accept.auth_key) == transfer.hash;
    let Some((transfer, volume)) = found.into_iter().find(|(transfer, _)| is_key(transfer)) else {
        return Err(Fault::bad(format!("Invalid auth key: Attempt to transfer {id} with invalid auth key.")));
    };
    let status = volume.status.clone().unwrap_or_default();
    let reserved = marks::mark(&volume, marks::STATUS).is_some() || marks::reservation(&volume).is_some();
    if status.phase != VolumePhase::Available || !status.attachments.is_empty() || reserved {
        return Err(Fault::bad(format!(
            "Invalid volume: volume {} is in use; it stays until nobody has it.",
            volume.id()
        )));
    }
    let beside = Api::<VolumeSnapshot>::namespaced(session.door.system.clone(), ids::namespace(&volume));
    if ids::list(&beside).await?.iter().any(|one| one.spec.volume_id.as_ref() == Some(&volume.id())) {
        return Err(Fault::bad(format!(
            "Invalid volume: volume {} has snapshots, which stay in their project.",
            volume.id()
        )));
    }
    let told = json!({"transfer": brief(&session, &volume, &transfer)});
    if ids::namespace(&volume) == namespace {
        marks::write_as_read(&session, &volume, json!({TRANSFER: null})).await?;
        return Ok(json_response(StatusCode::ACCEPTED, &told));
    }
    // In a task of its own: when the client goes away this handler is dropped, and a volume must not be left without its id.
    let moved = tokio::spawn(async move { hand_over(&session, &namespace, volume).await }).await;
    moved.map_err(|error| {
        Fault::new(StatusCode::INTERNAL_SERVER_ERROR, format!("The transfer broke off: {error}"))
    })??;
    Ok(json_response(StatusCode::ACCEPTED, &told))
}

/// Whether the caller may have one more volume of this size and type: asked before anything changes in the other project.
async fn may_have(session: &Session, volume: &Volume) -> Result<(), Fault> {
    let spec = VolumeSpec {
        size_gib: volume.spec.size_gib,
        volume_type: volume.spec.volume_type.clone(),
        ..VolumeSpec::default()
    };
    let mut trial = Volume::new("", spec);
    trial.metadata.name = None;
    trial.metadata.generate_name = Some("volume-".to_owned());
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    session.own::<Volume>()?.create(&dry_run, &trial).await?;
    Ok(())
}

/// Makes the volume in the caller's project, and waits a while until it has left the other.
async fn hand_over(session: &Session, namespace: &str, volume: Volume) -> Result<(), Fault> {
    let within = Api::<Volume>::namespaced(session.door.system.clone(), ids::namespace(&volume));
    may_have(session, &volume).await?;
    let write = |patch: Value| {
        let (within, name) = (within.clone(), ids::name(&volume).to_owned());
        async move { within.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await }
    };
    // By the revision that was looked at: of two who have the key one gets it, and no machine has got it meanwhile.
    write(json!({
        "metadata": {"resourceVersion": volume.metadata.resource_version, "annotations": {
            MOVES_TO: namespace,
            // What the controllers give it back by, should this program end before the other volume is made.
            MOVED_ID: volume.id(),
            MOVED_AT: Timestamp::now().to_string(),
        }},
        "spec": {"id": uuid::Uuid::new_v4().to_string()},
    }))
    .await?;
    let old = volume.spec.clone();
    let spec = VolumeSpec {
        id: Some(volume.id()),
        source_volume: Some(format!("{}/{}", ids::namespace(&volume), ids::name(&volume))),
        display_name: old.display_name,
        description: old.description,
        size_gib: old.size_gib,
        volume_type: old.volume_type,
        bootable: old.bootable,
        read_only: old.read_only,
        metadata: old.metadata,
        ..VolumeSpec::default()
    };
    if let Err(fault) = volumes::make(session, spec).await {
        let stays = json!({MOVES_TO: null, MOVED_ID: null, MOVED_AT: null});
        let back = write(json!({"metadata": {"annotations": stays}, "spec": {"id": volume.id()}})).await;
        if let Err(error) = back {
            tracing::error!(%error, volume = ids::name(&volume), "a volume that nobody took has not its id back");
        }
        return Err(fault);
    }
    for _ in 0..LOOKS {
        if within.get_opt(ids::name(&volume)).await?.is_none() {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    // It is being made until it is copied, and says so.
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_is_told_by_its_annotation_and_opened_by_its_key() {
        let mut volume = Volume::new("v", VolumeSpec::default());
        assert!(!waits(&volume) && !left(&volume));
        let transfer = Transfer {
            id: "t".into(),
            name: None,
            hash: hash("salt", "key"),
            salt: "salt".into(),
            created: "now".into(),
            no_snapshots: false,
        };
        volume.metadata.annotations = Some([(TRANSFER.to_owned(), json!(transfer).to_string())].into());
        let seen = of(&volume).unwrap();
        assert_eq!(seen.hash, hash(&seen.salt, "key"));
        assert_ne!(seen.hash, hash(&seen.salt, "other"));
        volume.metadata.annotations = Some([(MOVES_TO.to_owned(), "other".to_owned())].into());
        assert!(left(&volume));
    }
}
