//! Snapshots of volumes.

use std::collections::{BTreeMap, HashMap};

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::Project;
use yunfan_resources::storage::{SnapshotPhase, Volume, VolumeSnapshot, VolumeSnapshotSpec};
use yunfan_resources::volume_group::GROUP_SNAPSHOT_LABEL;

use super::update::check_description;
use super::view::status_of;
use super::{PAGE, marks, metadata, volumes};
use crate::auth::Session;
use crate::body::{Json, Params, boolean, explicit, parse_value};
use crate::change::{Changes, replacing};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::nova::CREATOR;
use crate::versions::{json_response, ok};
use crate::{directory, ids, page, stamp};

/// Since when a volume in use needs no `force`, and `force=false` is refused.
const FORCE_IS_PAST: Microversion = Microversion(66);

/// What lists are sorted by.
const SORT_KEYS: [&str; 9] =
    ["created_at", "updated_at", "id", "name", "display_name", "volume_id", "size", "volume_size", "status"];

/// The snapshot with this id, in the caller's project or, for an admin, anywhere.
pub(super) async fn find(session: &Session, id: &str) -> Result<VolumeSnapshot, Fault> {
    session.find_anywhere(id).await?.ok_or_else(|| Fault::not_found("Snapshot", id))
}

/// The snapshot with this id, if a volume of the caller's project can be made from it.
///
/// # Errors
/// It is another project's (404), or not available (400).
pub(crate) async fn usable(session: &Session, id: &str) -> Result<VolumeSnapshot, Fault> {
    let snapshot = find(session, id).await?;
    let state = status(&snapshot);
    if state != "available" {
        return Err(Fault::bad(format!(
            "Invalid snapshot: Originating snapshot status must be one of 'available' values; {id} is {state}."
        )));
    }
    if session.namespace()? == ids::namespace(&snapshot) {
        Ok(snapshot)
    } else {
        Err(Fault::not_found("Snapshot", id))
    }
}

/// Where a snapshot stands, in Cinder's words.
pub(super) fn status(snapshot: &VolumeSnapshot) -> &'static str {
    let phase = snapshot.status.as_ref().map(|status| status.phase).unwrap_or_default();
    if snapshot.metadata.deletion_timestamp.is_some() {
        return "deleting";
    }
    if let Some(word) = marks::snapshot(snapshot) {
        return word;
    }
    match phase {
        SnapshotPhase::Creating => "creating",
        SnapshotPhase::Available => "available",
        SnapshotPhase::Error => "error",
    }
}

/// The short form, which is also that of a new and of a changed one.
fn brief(version: Microversion, snapshot: &VolumeSnapshot) -> Value {
    let spec = &snapshot.spec;
    let created = stamp::micros_bare(stamp::created(snapshot));
    let mut view = json!({
        "id": snapshot.id(), "name": spec.display_name, "description": spec.description,
        "status": status(snapshot), "size": spec.size_gib, "volume_id": spec.volume_id,
        "metadata": spec.metadata, "created_at": created, "updated_at": created,
    });
    if version >= Microversion(14) {
        let labels = snapshot.metadata.labels.as_ref();
        view["group_snapshot_id"] = json!(labels.and_then(|labels| labels.get(GROUP_SNAPSHOT_LABEL)));
    }
    if version >= Microversion(41) {
        let annotations = snapshot.metadata.annotations.as_ref();
        view["user_id"] = json!(annotations.and_then(|all| all.get(CREATOR)).cloned().unwrap_or_default());
    }
    if version >= Microversion(65) {
        view["consumes_quota"] = json!(true);
    }
    view
}

/// The whole of it; `project` is the id of the one that it is in.
fn full(version: Microversion, snapshot: &VolumeSnapshot, project: &str) -> Value {
    let mut view = brief(version, snapshot);
    let done = if status(snapshot) == "available" { "100%" } else { "0%" };
    let done = marks::progress(snapshot).unwrap_or(done);
    view["os-extended-snapshot-attributes:progress"] = json!(done);
    view["os-extended-snapshot-attributes:project_id"] = json!(project);
    view
}

/// Project ids by namespace: the caller's own, and all where more is shown.
async fn projects(session: &Session, all: bool) -> Result<HashMap<String, String>, Fault> {
    let mut found = HashMap::new();
    if let Ok(own) = session.namespace() {
        found.insert(own.to_owned(), session.project_id().to_owned());
    }
    if all {
        let all = ids::list(&session.global::<Project>()).await?;
        found.extend(all.iter().filter_map(|one| Some((directory::home(one)?.to_owned(), one.id()))));
    }
    Ok(found)
}

/// `GET /snapshots`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, false).await
}

/// `GET /snapshots/detail`
pub(super) async fn detail(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, true).await
}

async fn collection(session: &Session, version: Microversion, params: &Params, detail: bool) -> Answer {
    // As in Cinder, the word means nothing from who is no admin.
    let all = params.flag("all_tenants")?.unwrap_or(false) && session.is_admin();
    let api: Api<VolumeSnapshot> = if all { session.everywhere() } else { session.own()? };
    let (mut snapshots, projects) = tokio::try_join!(ids::list(&api), projects(session, all))?;
    let metadata = super::metadata::filter(params)?;
    let project = |one: &VolumeSnapshot| projects.get(ids::namespace(one)).cloned().unwrap_or_default();
    snapshots.retain(|one| {
        let is = |key: &str, value: &str| params.get(key).is_none_or(|wanted| wanted == value);
        let name = one.spec.display_name.as_deref().unwrap_or_default();
        is("name", name)
            && params.get("name~").is_none_or(|part| name.contains(part))
            && is("status", status(one))
            && is("volume_id", one.spec.volume_id.as_deref().unwrap_or_default())
            && is("project_id", &project(one))
            && metadata.iter().all(|(key, value)| one.spec.metadata.get(key) == Some(value))
    });
    page::check_keys(params, &SORT_KEYS)?;
    page::sort(params, ("created_at", "desc"), &mut snapshots, |one, key| match key {
        "created_at" | "updated_at" => {
            Some(format!("{} {}", stamp::seconds(stamp::created(one)), ids::name(one)))
        }
        "id" => Some(one.id()),
        "name" | "display_name" => Some(one.spec.display_name.clone().unwrap_or_default()),
        "volume_id" => one.spec.volume_id.clone().or(Some(String::new())),
        "size" | "volume_size" => Some(format!("{:010}", one.spec.size_gib.unwrap_or(0))),
        "status" => Some(status(one).to_owned()),
        _ => None,
    })?;
    let count = snapshots.len();
    let (snapshots, next) =
        page::cut_full(params, PAGE, page::offset(params, snapshots)?, ("Snapshot", Identified::id))?;
    let view = |one| if detail { full(version, one, &project(one)) } else { brief(version, one) };
    let path = if detail { "snapshots/detail" } else { "snapshots" };
    let url = format!("{}/volume/v3/{path}", session.door.endpoint);
    let views = snapshots.iter().map(view).collect();
    let body = page::body("snapshots", views, (&url, params, next.as_deref()));
    super::counted(version, params, body, count)
}

/// `GET /snapshots/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let snapshot = find(&session, &id).await?;
    let elsewhere = session.namespace().ok() != Some(ids::namespace(&snapshot));
    let projects = projects(&session, elsewhere).await?;
    let project = projects.get(ids::namespace(&snapshot)).cloned().unwrap_or_default();
    Ok(ok(&json!({"snapshot": full(version, &snapshot, &project)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    snapshot: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// A null is taken for the id of no volume.
    volume_id: Option<String>,
    #[serde(default, alias = "display_name")]
    name: Option<String>,
    #[serde(default, alias = "display_description")]
    description: Option<String>,
    #[serde(default)]
    force: Option<Value>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
}

/// Whether a volume in use may be copied, as the request says it.
fn forced(version: Microversion, given: Option<&Value>) -> Result<bool, Fault> {
    match boolean("force", given)? {
        Some(false) if version >= FORCE_IS_PAST => {
            Err(Fault::bad("Invalid input for field/attribute force. It is true or absent since 3.66."))
        }
        force => Ok(force.unwrap_or(version >= FORCE_IS_PAST)),
    }
}

/// `POST /snapshots`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    let fields = body.snapshot;
    let force = forced(version, fields.force.as_ref())?;
    ids::check_name("name", fields.name.as_deref().unwrap_or_default(), true)?;
    check_description(fields.description.as_deref())?;
    let metadata = fields.metadata.unwrap_or_default();
    metadata::check(&metadata)?;
    let id = fields.volume_id.unwrap_or_else(|| "None".to_owned());
    let (volume, machines) = volumes::find(&session, &id).await?;
    let state = status_of(&machines, &volume, Timestamp::now());
    if !(state == "available" || (force && state == "in-use")) {
        return Err(Fault::bad(format!(
            "Invalid volume: Volume {id} status must be available, but current status is: {state}."
        )));
    }
    let display = fields.name.clone().filter(|name| !name.is_empty());
    let spec = VolumeSnapshotSpec {
        display_name: fields.name,
        description: fields.description,
        volume: ids::name(&volume).to_owned(),
        metadata,
        ..VolumeSnapshotSpec::default()
    };
    let mut snapshot = VolumeSnapshot::new("", spec);
    snapshot.metadata.annotations = Some([(CREATOR.to_owned(), session.claims.uid.clone())].into());
    let api = session.within::<VolumeSnapshot>(ids::namespace(&volume));
    let snapshot = ids::create(&api, snapshot, display.as_deref().unwrap_or("snapshot")).await;
    let snapshot = snapshot.map_err(|fault| match fault.status {
        // It changed between our look and the write.
        StatusCode::CONFLICT => Fault::bad(format!("Invalid volume: {}", fault.message)),
        _ => fault,
    })?;
    Ok(json_response(StatusCode::ACCEPTED, &json!({"snapshot": brief(version, &snapshot)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateBody {
    snapshot: UpdateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateFields {
    #[serde(default, alias = "display_name", deserialize_with = "explicit")]
    name: Option<Option<String>>,
    #[serde(default, alias = "display_description", deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
}

/// `PUT /snapshots/{id}`
pub(super) async fn update(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<UpdateBody>,
) -> Answer {
    let snapshot = find(&session, &id).await?;
    let fields = body.snapshot;
    if let Some(name) = &fields.name {
        ids::check_name("name", name.as_deref().unwrap_or_default(), true)?;
    }
    check_description(fields.description.as_ref().and_then(Option::as_deref))?;
    if let Some(pairs) = &fields.metadata {
        metadata::check(pairs)?;
    }
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("metadata", fields.metadata.map(|pairs| replacing(&snapshot.spec.metadata, &pairs)));
    let snapshot = changes.apply(&session.within(ids::namespace(&snapshot)), &snapshot).await?;
    Ok(ok(&json!({"snapshot": brief(version, &snapshot)})))
}

/// `DELETE /snapshots/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let snapshot = find(&session, &id).await?;
    let state = status(&snapshot);
    // One that waits, for Pods to let go of its volume say, would keep that volume for as long.
    if !matches!(state, "available" | "error" | "creating") {
        return Err(Fault::bad(format!(
            "Invalid snapshot: Snapshot status must be available, error or creating; snapshot {id} is {state}."
        )));
    }
    remove(&session, &snapshot).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Deletes a snapshot as the caller.
pub(super) async fn remove(session: &Session, snapshot: &VolumeSnapshot) -> Result<(), Fault> {
    let api = session.within::<VolumeSnapshot>(ids::namespace(snapshot));
    match api.delete(ids::name(snapshot), &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        // A volume is being made from it.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Err(Fault::bad(format!("Invalid snapshot: {}", status.message)))
        }
        other => other.map(drop).map_err(Fault::from),
    }
}

/// The snapshots of a volume.
pub(super) async fn of(session: &Session, volume: &Volume) -> Result<Vec<VolumeSnapshot>, Fault> {
    let mut all = ids::list(&session.within::<VolumeSnapshot>(ids::namespace(volume))).await?;
    all.retain(|one| one.spec.volume_id.as_ref() == Some(&volume.id()));
    Ok(all)
}

/// `POST /snapshots/{id}/action`
pub(super) async fn act(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<Map<String, Value>>,
) -> Answer {
    let (action, argument) = crate::body::action(body)?;
    let snapshot = find(&session, &id).await?;
    match action.as_str() {
        "os-force_delete" if session.is_admin() => {
            remove(&session, &snapshot).await?;
            Ok(StatusCode::ACCEPTED.into_response())
        }
        "os-force_delete" => Err(Fault::forbidden("Policy doesn't allow os-force_delete to be performed.")),
        "os-reset_status" => marks::reset_snapshot(&session, &snapshot, parse_value(argument)?).await,
        "os-update_snapshot_status" => {
            marks::update_snapshot(&session, &snapshot, parse_value(argument)?).await
        }
        "os-unmanage" => Err(Fault::unsupported("The action os-unmanage is not served by this cloud.")),
        word => Err(Fault::bad(format!("There is no such action: {word}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn force_is_read_as_cinder_reads_it() {
        let old = Microversion(0);
        assert!(!forced(old, None).unwrap() && forced(old, Some(&json!("True"))).unwrap());
        assert!(!forced(old, Some(&json!(false))).unwrap() && forced(old, Some(&json!(1))).unwrap());
        assert!(forced(old, Some(&json!("maybe"))).is_err());
        assert!(forced(FORCE_IS_PAST, None).unwrap());
        assert!(forced(FORCE_IS_PAST, Some(&json!(false))).is_err());
    }

    #[test]
    fn the_view_follows_status_and_microversion() {
        let mut snapshot = VolumeSnapshot::new("s", VolumeSnapshotSpec::default());
        let shown = full(Microversion(0), &snapshot, "p");
        let progress = "os-extended-snapshot-attributes:progress";
        assert_eq!((&shown["status"], &shown[progress]), (&json!("creating"), &json!("0%")));
        assert!(shown.get("user_id").is_none());
        snapshot.status = Some(yunfan_resources::storage::VolumeSnapshotStatus {
            phase: SnapshotPhase::Available,
            message: None,
        });
        let shown = full(Microversion(65), &snapshot, "p");
        assert_eq!((&shown["status"], &shown["consumes_quota"]), (&json!("available"), &json!(true)));
    }
}
