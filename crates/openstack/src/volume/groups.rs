//! `/groups` (3.13): volumes of a project that are handled together. Which they are is said by their labels; where a group stands
//! follows from them.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::storage::{Volume, VolumeSpec, VolumeType};
use yunfan_resources::volume_group::{GROUP_LABEL, VolumeGroup, VolumeGroupSpec};

use super::group_types::{self, since};
use super::type_specs::admin_only;
use super::update::check_description;
use super::view::{Machines, status_of};
use super::{PAGE, group_snapshots, marks, outside, snapshots, types, volumes};
use crate::auth::Session;
use crate::body::{Json, Params, boolean, explicit, parse_value};
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::{json_response, ok};
use crate::zone::ZONE;
use crate::{ids, page, stamp};

/// Versions with groups, groups made from others, statuses that are set, and volumes in a group's view.
const BEGAN: Microversion = Microversion(13);
const COPIES: Microversion = Microversion(14);
const RESETS: Microversion = Microversion(20);
const VOLUMES: Microversion = Microversion(25);
/// Statuses that groups and their snapshots are marked with.
pub(super) const MARKS: [&str; 4] = ["creating", "deleting", "error", "error_deleting"];

/// The id of the group that a volume is in.
pub(super) fn of(volume: &Volume) -> Option<&String> {
    volume.metadata.labels.as_ref()?.get(GROUP_LABEL)
}

/// The group with this id, in the caller's project or, for an admin, anywhere.
pub(super) async fn find(session: &Session, id: &str) -> Result<VolumeGroup, Fault> {
    session.find_anywhere(id).await?.ok_or_else(|| Fault::not_found("Group", id))
}

/// The volumes of a group.
pub(super) async fn members(session: &Session, group: &VolumeGroup) -> Result<Vec<Volume>, Fault> {
    let mut all = ids::list(&session.within::<Volume>(ids::namespace(group))).await?;
    all.retain(|volume| of(volume) == Some(&group.id()));
    Ok(all)
}

/// Where something stands that is made of several: what it is marked as, or the worst of these.
pub(super) fn status<K: kube::Resource>(whole: &K, parts: &[&str]) -> &'static str {
    let marked = marks::mark(whole, marks::STATUS);
    if let Some(word) = marked.and_then(|word| MARKS.into_iter().find(|known| *known == word)) {
        return word;
    }
    match parts {
        parts if parts.iter().any(|part| part.starts_with("error")) => "error",
        parts if parts.contains(&"creating") => "creating",
        _ => "available",
    }
}

fn brief(group: &VolumeGroup) -> Value {
    json!({"id": group.id(), "name": group.spec.display_name.as_deref().unwrap_or_default()})
}

fn full(version: Microversion, group: &VolumeGroup, (volumes, machines): (&[Volume], &Machines)) -> Value {
    let own: Vec<&Volume> = volumes.iter().filter(|volume| of(volume) == Some(&group.id())).collect();
    let now = Timestamp::now();
    let parts: Vec<&str> = own.iter().map(|volume| status_of(machines, volume, now)).collect();
    let mut view = brief(group);
    view["status"] = json!(status(group, &parts));
    view["description"] = json!(group.spec.description);
    view["availability_zone"] = json!(ZONE);
    view["created_at"] = json!(stamp::micros_bare(stamp::created(group)));
    view["group_type"] = json!(group.spec.group_type);
    view["volume_types"] = json!(group.spec.volume_types);
    if version >= COPIES {
        view["group_snapshot_id"] = json!(group.spec.group_snapshot);
        view["source_group_id"] = json!(group.spec.source_group);
    }
    if version >= VOLUMES {
        view["volumes"] = json!(own.iter().map(|volume| volume.id()).collect::<Vec<_>>());
    }
    if version >= Microversion(38) {
        view["replication_status"] = json!("disabled");
    }
    view
}

async fn collection(session: &Session, version: Microversion, params: &Params, detail: bool) -> Answer {
    since(version, BEGAN)?;
    let everywhere = params.flag("all_tenants")?.unwrap_or(false) && session.is_admin();
    let (groups, volumes) = if everywhere {
        (session.everywhere::<VolumeGroup>(), session.everywhere::<Volume>())
    } else {
        (session.own()?, session.own()?)
    };
    let namespace = if everywhere { None } else { Some(session.namespace()?) };
    let (mut groups, volumes, machines) =
        tokio::try_join!(ids::list(&groups), ids::list(&volumes), Machines::of_those(session, namespace))?;
    groups.sort_by_key(|group| std::cmp::Reverse((stamp::created(group), ids::name(group).to_owned())));
    let (groups, next) =
        page::cut_full(params, PAGE, page::offset(params, groups)?, ("Group", Identified::id))?;
    let view = |group| if detail { full(version, group, (&volumes, &machines)) } else { brief(group) };
    let path = if detail { "groups/detail" } else { "groups" };
    let url = format!("{}/volume/v3/{path}", session.door.endpoint);
    Ok(ok(&page::body("groups", groups.iter().map(view).collect(), (&url, params, next.as_deref()))))
}

/// `GET /groups`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, false).await
}

/// `GET /groups/detail`
pub(super) async fn detail(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, true).await
}

/// `GET /groups/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    since(version, BEGAN)?;
    let group = find(&session, &id).await?;
    let volumes = members(&session, &group).await?;
    let machines = Machines::beside(&session, ids::namespace(&group)).await?;
    Ok(ok(&json!({"group": full(version, &group, (&volumes, &machines))})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    group: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    group_type: String,
    volume_types: Vec<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    availability_zone: Option<String>,
}

/// `POST /groups`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    since(version, BEGAN)?;
    let fields = body.group;
    ids::check_name("name", fields.name.as_deref().unwrap_or_default(), true)?;
    check_description(fields.description.as_deref())?;
    if !matches!(fields.availability_zone.as_deref(), None | Some("" | ZONE)) {
        return Err(Fault::bad("Availability zone is invalid: there is one for all volumes."));
    }
    if fields.volume_types.is_empty() {
        return Err(Fault::bad("Invalid input for field/attribute volume_types. [] is too short"));
    }
    let mut volume_types = Vec::with_capacity(fields.volume_types.len());
    for wanted in &fields.volume_types {
        volume_types.push(types::find(&session, wanted).await?.id());
    }
    let spec = VolumeGroupSpec {
        display_name: fields.name,
        description: fields.description,
        group_type: group_types::find(&session, &fields.group_type).await?.id(),
        volume_types,
        ..VolumeGroupSpec::default()
    };
    let group = make(&session, spec).await?;
    Ok(json_response(StatusCode::ACCEPTED, &json!({"group": brief(&group)})))
}

async fn make(session: &Session, spec: VolumeGroupSpec) -> Result<VolumeGroup, Fault> {
    let display = spec.display_name.clone().filter(|name| !name.is_empty());
    let groups = session.own::<VolumeGroup>()?;
    ids::create(&groups, VolumeGroup::new("", spec), display.as_deref().unwrap_or("group")).await
}

/// The label of a volume that is to be made in a group of the caller's project, if it may be there.
pub(super) async fn label(session: &Session, id: &str, kind: Option<&str>) -> Result<String, Fault> {
    let group = find(session, id).await?;
    if session.namespace()? != ids::namespace(&group) {
        return Err(Fault::not_found("Group", id));
    }
    // Volumes name their types' objects.
    let kind = match kind {
        Some(name) => session.global::<VolumeType>().get_opt(name).await?.map(|kind| kind.id()),
        None => None,
    };
    if kind.is_none_or(|kind| !group.spec.volume_types.contains(&kind)) {
        return Err(Fault::bad(format!(
            "Invalid volume type: group {id} is for volumes of other types; name one of them."
        )));
    }
    Ok(group.id())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateBody {
    group: UpdateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateFields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default)]
    add_volumes: Option<String>,
    #[serde(default)]
    remove_volumes: Option<String>,
}

/// Writes in which group a volume is.
async fn put(session: &Session, volume: &Volume, group: Option<&str>) -> Result<(), Fault> {
    let patch = Patch::Merge(json!({"metadata": {"labels": {GROUP_LABEL: group}}}));
    let volumes = session.within::<Volume>(ids::namespace(volume));
    volumes.patch(ids::name(volume), &PatchParams::default(), &patch).await?;
    Ok(())
}

/// `PUT /groups/{id}`: another name or description, volumes that come and go.
pub(super) async fn update(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<UpdateBody>,
) -> Answer {
    since(version, BEGAN)?;
    let (group, fields) = (find(&session, &id).await?, body.group);
    if let Some(name) = &fields.name {
        ids::check_name("name", name, true)?;
    }
    check_description(fields.description.as_ref().and_then(Option::as_deref))?;
    let named = |text: &Option<String>| -> Vec<String> {
        let words = text.iter().flat_map(|text| text.split(','));
        words.map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
    };
    let (coming, going) = (named(&fields.add_volumes), named(&fields.remove_volumes));
    let (mut add, mut remove) = (Vec::new(), Vec::new());
    for wanted in &coming {
        let (volume, machines) = volumes::find(&session, wanted).await?;
        let state = status_of(&machines, &volume, Timestamp::now());
        let near = ids::namespace(&volume) == ids::namespace(&group);
        if !near || of(&volume).is_some() || !matches!(state, "available" | "in-use") {
            return Err(Fault::bad(format!(
                "Cannot add volume {wanted} to group {id}: it is in another one or in another project, or is {state}."
            )));
        }
        label(&session, &id, volume.spec.volume_type.as_deref()).await?;
        add.push(volume);
    }
    for wanted in &going {
        let (volume, _) = volumes::find(&session, wanted).await?;
        if of(&volume) != Some(&group.id()) {
            return Err(Fault::bad(format!(
                "Cannot remove volume {wanted} from group {id}: it is not in the group."
            )));
        }
        remove.push(volume);
    }
    for volume in &add {
        put(&session, volume, Some(&group.id())).await?;
    }
    for volume in &remove {
        put(&session, volume, None).await?;
    }
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description.map(|text| json!(text)));
    if !changes.is_empty() {
        changes.apply(&session.within(ids::namespace(&group)), &group).await?;
    }
    Ok(StatusCode::ACCEPTED.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    #[serde(default, rename = "delete-volumes")]
    volumes: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reset {
    status: String,
}

/// Deletes a group, with its volumes where that is asked for; none of them may be in use or have snapshots.
async fn remove(session: &Session, group: &VolumeGroup, with_volumes: bool) -> Answer {
    let id = group.id();
    let (volumes, machines) =
        (members(session, group).await?, Machines::beside(session, ids::namespace(group)).await?);
    if !volumes.is_empty() && !with_volumes {
        return Err(Fault::bad(format!(
            "Invalid group: Group {id} is not empty. Set delete-volumes to delete its volumes with it."
        )));
    }
    for volume in &volumes {
        let state = status_of(&machines, volume, Timestamp::now());
        let held = !snapshots::of(session, volume).await?.is_empty();
        if held || !volumes::DELETABLE.contains(&state) || outside::user(volume).is_some() {
            return Err(Fault::bad(format!(
                "Invalid group: volume {} of it is {state}, is used elsewhere or has snapshots.",
                volume.id()
            )));
        }
    }
    for volume in &volumes {
        volumes::remove(session, volume).await?;
    }
    let groups = session.within::<VolumeGroup>(ids::namespace(group));
    groups.delete(ids::name(group), &DeleteParams::default()).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Marks a group or a snapshot of one; `available` ends a mark.
pub(super) async fn reset<K>(session: &Session, whole: &K, argument: Value) -> Answer
where
    K: ids::Kind + kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    admin_only(session, "group:reset_status")?;
    let word = parse_value::<Reset>(argument)?.status.to_ascii_lowercase();
    let mark = match word.as_str() {
        "available" => Value::Null,
        word if MARKS.contains(&word) => json!(word),
        word => {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute status. {word} is none of available, {}.",
                MARKS.join(", ")
            )));
        }
    };
    marks::write(session, whole, json!({marks::STATUS: mark})).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `POST /groups/{id}/action`
pub(super) async fn act(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Map<String, Value>>,
) -> Answer {
    since(version, BEGAN)?;
    let (action, argument) = crate::body::action(body)?;
    let group = find(&session, &id).await?;
    match action.as_str() {
        "delete" => {
            let wanted = parse_value::<Delete>(argument)?;
            let with_volumes = boolean("delete-volumes", wanted.volumes.as_ref())?.unwrap_or(false);
            remove(&session, &group, with_volumes).await
        }
        "reset_status" if version >= RESETS => reset(&session, &group, argument).await,
        "enable_replication"
        | "disable_replication"
        | "failover_replication"
        | "list_replication_targets" => Err(Fault::unsupported("Volumes of this cloud have no replicas.")),
        word => Err(Fault::bad(format!("There is no such action: {word}"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FromBody {
    #[serde(rename = "create-from-src")]
    wanted: Wanted,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    group_snapshot_id: Option<String>,
    #[serde(default)]
    source_group_id: Option<String>,
}

/// `POST /groups/action` (3.14): a group of copies of what another one has, or had.
pub(super) async fn create_from(
    session: Session,
    version: Microversion,
    Json(body): Json<FromBody>,
) -> Answer {
    since(version, COPIES)?;
    let wanted = body.wanted;
    ids::check_name("name", wanted.name.as_deref().unwrap_or_default(), true)?;
    check_description(wanted.description.as_deref())?;
    let (source, copies) = match (&wanted.group_snapshot_id, &wanted.source_group_id) {
        (Some(id), None) => group_snapshots::copies(&session, id).await?,
        (None, Some(id)) => {
            let group = find(&session, id).await?;
            let volumes = members(&session, &group).await?;
            let copies: Vec<VolumeSpec> = volumes.iter().map(copy_of).collect();
            (group, copies)
        }
        _ => {
            return Err(Fault::bad(
                "Invalid input received: name one of group_snapshot_id and source_group_id.",
            ));
        }
    };
    if session.namespace()? != ids::namespace(&source) {
        return Err(Fault::not_found("Group", &source.id()));
    }
    let spec = VolumeGroupSpec {
        display_name: wanted.name,
        description: wanted.description,
        group_type: source.spec.group_type.clone(),
        volume_types: source.spec.volume_types.clone(),
        group_snapshot: wanted.group_snapshot_id,
        source_group: wanted.source_group_id,
        ..VolumeGroupSpec::default()
    };
    let group = make(&session, spec).await?;
    let mut made = Vec::new();
    for copy in copies {
        match volumes::make_in(&session, copy, Some(&group.id())).await {
            Ok(volume) => made.push(volume),
            Err(fault) => {
                for volume in &made {
                    if let Err(other) = volumes::remove(&session, volume).await {
                        tracing::warn!(%other, "a volume of a group that could not be made stays");
                    }
                }
                let groups = session.within::<VolumeGroup>(ids::namespace(&group));
                groups.delete(ids::name(&group), &DeleteParams::default()).await?;
                return Err(fault);
            }
        }
    }
    Ok(json_response(StatusCode::ACCEPTED, &json!({"group": brief(&group)})))
}

fn copy_of(volume: &Volume) -> VolumeSpec {
    VolumeSpec {
        display_name: volume.spec.display_name.clone(),
        size_gib: volume.spec.size_gib,
        volume_type: volume.spec.volume_type.clone(),
        source_volume: Some(ids::name(volume).to_owned()),
        ..VolumeSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_stands_where_the_worst_of_its_volumes_does() {
        let mut group = VolumeGroup::new("g", VolumeGroupSpec::default());
        assert_eq!(status(&group, &[]), "available");
        assert_eq!(status(&group, &["available", "creating"]), "creating");
        assert_eq!(status(&group, &["creating", "error_extending"]), "error");
        group.metadata.annotations = Some([(marks::STATUS.to_owned(), "creating".to_owned())].into());
        assert_eq!(status(&group, &["available"]), "creating");
    }
}
