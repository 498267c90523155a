//! `/group_snapshots` (3.14): snapshots of all volumes of a group. They are taken one after the other.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::storage::{VolumeSnapshot, VolumeSnapshotSpec, VolumeSpec};
use yunfan_resources::volume_group::{
    GROUP_SNAPSHOT_LABEL, VolumeGroup, VolumeGroupSnapshot, VolumeGroupSnapshotSpec,
};

use super::group_types::{self, since};
use super::update::check_description;
use super::{PAGE, groups, snapshots};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::nova::CREATOR;
use crate::versions::{json_response, ok};
use crate::{ids, page, stamp};

/// Versions with snapshots of groups, and with statuses that are set.
const BEGAN: Microversion = Microversion(14);
const RESETS: Microversion = Microversion(19);
/// The spec of a type by which its groups want snapshots of one moment.
const CONSISTENT: &str = "consistent_group_snapshot_enabled";

async fn find(session: &Session, id: &str) -> Result<VolumeGroupSnapshot, Fault> {
    session.find_anywhere(id).await?.ok_or_else(|| Fault::not_found("GroupSnapshot", id))
}

fn is_part(whole: &VolumeGroupSnapshot, one: &VolumeSnapshot) -> bool {
    let label = one.metadata.labels.as_ref().and_then(|labels| labels.get(GROUP_SNAPSHOT_LABEL));
    label == Some(&whole.id())
}

/// The snapshots that were taken together.
async fn parts(session: &Session, whole: &VolumeGroupSnapshot) -> Result<Vec<VolumeSnapshot>, Fault> {
    let mut all = ids::list(&session.within::<VolumeSnapshot>(ids::namespace(whole))).await?;
    all.retain(|one| is_part(whole, one));
    Ok(all)
}

fn brief(whole: &VolumeGroupSnapshot) -> Value {
    json!({"id": whole.id(), "name": whole.spec.display_name.as_deref().unwrap_or_default()})
}

fn full(whole: &VolumeGroupSnapshot, all: &[VolumeSnapshot]) -> Value {
    let own: Vec<&str> = all.iter().filter(|one| is_part(whole, one)).map(snapshots::status).collect();
    let mut view = brief(whole);
    view["status"] = json!(groups::status(whole, &own));
    view["description"] = json!(whole.spec.description);
    view["created_at"] = json!(stamp::micros_bare(stamp::created(whole)));
    view["group_id"] = json!(whole.spec.group);
    view["group_type_id"] = json!(whole.spec.group_type);
    view
}

async fn collection(session: &Session, version: Microversion, params: &Params, detail: bool) -> Answer {
    since(version, BEGAN)?;
    let everywhere = params.flag("all_tenants")?.unwrap_or(false) && session.is_admin();
    let (wholes, all) = if everywhere {
        (session.everywhere::<VolumeGroupSnapshot>(), session.everywhere::<VolumeSnapshot>())
    } else {
        (session.own()?, session.own()?)
    };
    let (mut wholes, all) = tokio::try_join!(ids::list(&wholes), ids::list(&all))?;
    wholes.retain(|one| params.get("group_id").is_none_or(|wanted| one.spec.group == wanted));
    wholes.sort_by_key(|one| std::cmp::Reverse((stamp::created(one), ids::name(one).to_owned())));
    let found = page::offset(params, wholes)?;
    let (found, next) = page::cut_full(params, PAGE, found, ("GroupSnapshot", Identified::id))?;
    let view = |one| if detail { full(one, &all) } else { brief(one) };
    let path = if detail { "group_snapshots/detail" } else { "group_snapshots" };
    let url = format!("{}/volume/v3/{path}", session.door.endpoint);
    let views = found.iter().map(view).collect();
    Ok(ok(&page::body("group_snapshots", views, (&url, params, next.as_deref()))))
}

/// `GET /group_snapshots`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, false).await
}

/// `GET /group_snapshots/detail`
pub(super) async fn detail(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, true).await
}

/// `GET /group_snapshots/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    since(version, BEGAN)?;
    let whole = find(&session, &id).await?;
    let own = parts(&session, &whole).await?;
    Ok(ok(&json!({"group_snapshot": full(&whole, &own)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    group_snapshot: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    group_id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
}

/// `POST /group_snapshots`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    since(version, BEGAN)?;
    let fields = body.group_snapshot;
    ids::check_name("name", fields.name.as_deref().unwrap_or_default(), true)?;
    check_description(fields.description.as_deref())?;
    let group = groups::find(&session, &fields.group_id).await?;
    let kind = group_types::find(&session, &group.spec.group_type).await.ok();
    let wants_one_moment = |text: &String| text.to_ascii_lowercase().ends_with("true");
    if kind.is_some_and(|kind| kind.spec.group_specs.get(CONSISTENT).is_some_and(wants_one_moment)) {
        return Err(Fault::bad(
            "Invalid group: its type wants snapshots of one moment, and here they are taken one after the other.",
        ));
    }
    let volumes = groups::members(&session, &group).await?;
    if volumes.is_empty() {
        return Err(Fault::bad("Invalid group: it has no volumes to take snapshots of."));
    }
    let namespace = ids::namespace(&group);
    let name = fields.name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "snapshot".to_owned());
    let spec = VolumeGroupSnapshotSpec {
        display_name: fields.name,
        description: fields.description,
        group: group.id(),
        group_type: group.spec.group_type.clone(),
        ..VolumeGroupSnapshotSpec::default()
    };
    let wholes = session.within::<VolumeGroupSnapshot>(namespace);
    let whole = ids::create(&wholes, VolumeGroupSnapshot::new("", spec), &name).await?;
    let api = session.within::<VolumeSnapshot>(namespace);
    for volume in &volumes {
        let spec = VolumeSnapshotSpec {
            display_name: Some(name.clone()),
            volume: ids::name(volume).to_owned(),
            ..VolumeSnapshotSpec::default()
        };
        let mut one = VolumeSnapshot::new("", spec);
        one.metadata.annotations = Some([(CREATOR.to_owned(), session.claims.uid.clone())].into());
        one.metadata.labels = Some([(GROUP_SNAPSHOT_LABEL.to_owned(), whole.id())].into());
        if let Err(fault) = ids::create(&api, one, &name).await {
            remove(&session, &whole).await?;
            return Err(fault);
        }
    }
    let mut view = brief(&whole);
    view["group_type_id"] = json!(whole.spec.group_type);
    Ok(json_response(StatusCode::ACCEPTED, &json!({"group_snapshot": view})))
}

/// Deletes the snapshots that were taken together.
async fn remove(session: &Session, whole: &VolumeGroupSnapshot) -> Result<(), Fault> {
    for one in parts(session, whole).await? {
        snapshots::remove(session, &one).await?;
    }
    let wholes = session.within::<VolumeGroupSnapshot>(ids::namespace(whole));
    wholes.delete(ids::name(whole), &DeleteParams::default()).await?;
    Ok(())
}

/// `DELETE /group_snapshots/{id}`
pub(super) async fn delete(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    since(version, BEGAN)?;
    remove(&session, &find(&session, &id).await?).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `POST /group_snapshots/{id}/action`
pub(super) async fn act(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Map<String, Value>>,
) -> Answer {
    since(version, BEGAN)?;
    let (action, argument) = crate::body::action(body)?;
    let whole = find(&session, &id).await?;
    match action.as_str() {
        "reset_status" if version >= RESETS => groups::reset(&session, &whole, argument).await,
        word => Err(Fault::bad(format!("There is no such action: {word}"))),
    }
}

/// The group that a snapshot is of, and volumes that are copies of what it holds.
pub(super) async fn copies(session: &Session, id: &str) -> Result<(VolumeGroup, Vec<VolumeSpec>), Fault> {
    let whole = find(session, id).await?;
    let group = groups::find(session, &whole.spec.group).await?;
    let own = parts(session, &whole).await?;
    if let Some(one) = own.iter().find(|one| snapshots::status(one) != "available") {
        return Err(Fault::bad(format!(
            "Invalid snapshot: {} of it is {}.",
            one.id(),
            snapshots::status(one)
        )));
    }
    let copies = own.iter().map(|one| VolumeSpec {
        display_name: one.spec.display_name.clone(),
        size_gib: one.spec.size_gib.unwrap_or(1),
        volume_type: one.spec.volume_type.clone(),
        snapshot: Some(ids::name(one).to_owned()),
        ..VolumeSpec::default()
    });
    Ok((group, copies.collect()))
}
