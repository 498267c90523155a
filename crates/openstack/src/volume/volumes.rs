//! Listing, showing, making and deleting volumes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::iam::Project;
use yunfan_resources::image::{Image, ImagePhase, reference};
use yunfan_resources::storage::{Volume, VolumeSpec};
use yunfan_resources::volume_group::GROUP_LABEL;

use super::view::{self, Context, Machines, status_of};
use super::{PAGE, default_types, groups, outside, snapshots, types};
use crate::auth::Session;
use crate::body::{Json, Params, only};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::nova::CREATOR;
use crate::page;
use crate::versions::{json_response, ok};
use crate::zone::ZONE;
use crate::{directory, ids, stamp};

/// The largest volume, GiB.
const MAX_SIZE: u64 = 65_536;
/// States in which a volume can be deleted.
pub(super) const DELETABLE: [&str; 3] = ["available", "error", "error_extending"];

/// The volume with this id, in the caller's project or, for an admin, anywhere; and the machines beside it.
pub(super) async fn find(session: &Session, id: &str) -> Result<(Volume, Machines), Fault> {
    let volume: Volume = session.find_anywhere(id).await?.ok_or_else(|| Fault::not_found("Volume", id))?;
    let machines = Machines::beside(session, ids::namespace(&volume)).await?;
    Ok((volume, machines))
}

/// What the views of volumes in `namespace` (`None`: in all) need.
async fn context(
    session: &Session,
    version: Microversion,
    namespace: Option<&str>,
) -> Result<Context, Fault> {
    fn scoped<K>(session: &Session, namespace: Option<&str>) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        namespace.map_or_else(|| session.everywhere(), |namespace| session.within(namespace))
    }
    let (machines, images, kinds) =
        (scoped::<VirtualMachine>(session, namespace), scoped::<Image>(session, namespace), session.global());
    let (machines, images, kinds) =
        tokio::try_join!(ids::list(&machines), ids::list(&images), ids::list(&kinds))?;
    let mut projects = HashMap::new();
    match namespace {
        Some(own) if session.namespace().is_ok_and(|mine| mine == own) => {
            projects.insert(own.to_owned(), session.project_id().to_owned());
        }
        _ => {
            let all = ids::list(&session.global::<Project>()).await?;
            projects.extend(all.iter().filter_map(|one| Some((directory::home(one)?.to_owned(), one.id()))));
        }
    }
    let at = |image: &Image| (ids::namespace(image).to_owned(), ids::name(image).to_owned());
    Ok(Context {
        endpoint: session.door.endpoint.clone(),
        admin: session.is_admin(),
        version: version.0,
        machines: Machines::new(&machines, &images),
        images: images.into_iter().map(|image| (at(&image), image)).collect(),
        types: kinds
            .into_iter()
            .map(|kind: yunfan_resources::storage::VolumeType| (ids::name(&kind).to_owned(), kind))
            .collect(),
        projects,
    })
}

/// Adds the images of other projects that volumes were made from, as far as the caller may read them.
async fn foreign(session: &Session, context: &mut Context, volumes: &[Volume]) -> Result<(), Fault> {
    let references = volumes.iter().filter_map(|volume| volume.spec.image.as_deref()?.split_once('/'));
    let places: BTreeSet<(String, String)> =
        references.map(|(namespace, name)| (namespace.to_owned(), name.to_owned())).collect();
    for place in places {
        match session.within::<Image>(&place.0).get_opt(&place.1).await {
            Err(kube::Error::Api(status)) if status.code == 403 => {}
            found => context.images.extend(found?.map(|image| (place, image))),
        }
    }
    Ok(())
}

/// One volume's whole view.
pub(super) async fn one(session: &Session, version: Microversion, volume: &Volume) -> Result<Value, Fault> {
    let mut context = context(session, version, Some(ids::namespace(volume))).await?;
    foreign(session, &mut context, std::slice::from_ref(volume)).await?;
    Ok(json!({"volume": view::full(&context, volume)}))
}

/// The answer to a write. Cinder's extensions add to what is shown, not to that: its clients' schemas know nothing of them there.
pub(super) async fn written(
    session: &Session,
    version: Microversion,
    volume: &Volume,
) -> Result<Value, Fault> {
    let mut made = one(session, version, volume).await?;
    if let Some(fields) = made["volume"].as_object_mut() {
        fields.retain(|key, _| !key.starts_with("os-vol") && key != "volume_image_metadata");
    }
    Ok(made)
}

/// `GET /volumes`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, false).await
}

/// `GET /volumes/detail`
pub(super) async fn detail(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, true).await
}

/// The volumes that the query's filters take, and their context.
async fn filtered(
    session: &Session,
    version: Microversion,
    params: &Params,
) -> Result<(Vec<Volume>, Context), Fault> {
    // As in Cinder, the word means nothing from who is no admin.
    let all = params.flag("all_tenants")?.unwrap_or(false) && session.is_admin();
    let volumes = if all { session.everywhere::<Volume>() } else { session.own()? };
    let namespace = if all { None } else { Some(session.namespace()?) };
    let (mut volumes, mut context) =
        tokio::try_join!(ids::list(&volumes), context(session, version, namespace))?;
    foreign(session, &mut context, &volumes).await?;
    let bootable = params.flag("bootable")?;
    let metadata = super::metadata::filter(params)?;
    let now = Timestamp::now();
    volumes.retain(|volume| {
        let is = |key: &str, value: &str| params.get(key).is_none_or(|wanted| wanted == value);
        let project = context.projects.get(ids::namespace(volume)).map(String::as_str).unwrap_or_default();
        is("name", volume.spec.display_name.as_deref().unwrap_or_default())
            && params.get("name~").is_none_or(|part| volume.display_name().contains(part))
            && is("status", status_of(&context.machines, volume, now))
            && is("availability_zone", ZONE)
            && is("project_id", project)
            && bootable.is_none_or(|wanted| wanted == volume.is_bootable())
            && metadata.iter().all(|(key, value)| volume.spec.metadata.get(key) == Some(value))
    });
    page::sort(params, ("created_at", "desc"), &mut volumes, |volume, key| match key {
        "created_at" | "updated_at" => {
            Some(format!("{} {}", stamp::seconds(stamp::created(volume)), ids::name(volume)))
        }
        "id" => Some(volume.id()),
        "name" | "display_name" => Some(volume.spec.display_name.clone().unwrap_or_default()),
        "size" => Some(format!("{:010}", volume.spec.size_gib)),
        "status" => Some(status_of(&context.machines, volume, now).to_owned()),
        "bootable" => Some(volume.is_bootable().to_string()),
        _ => None,
    })?;
    Ok((volumes, context))
}

async fn collection(session: &Session, version: Microversion, params: &Params, detail: bool) -> Answer {
    let (volumes, context) = filtered(session, version, params).await?;
    let count = volumes.len();
    let (volumes, next) =
        page::cut_full(params, PAGE, page::offset(params, volumes)?, ("Volume", Identified::id))?;
    let view = |volume| if detail { view::full(&context, volume) } else { view::brief(&context, volume) };
    let path = if detail { "volumes/detail" } else { "volumes" };
    let url = format!("{}/volume/v3/{path}", session.door.endpoint);
    let views = volumes.iter().map(view).collect();
    let body = page::body("volumes", views, (&url, params, next.as_deref()));
    super::counted(version, params, body, count)
}

/// `GET /volumes/summary`
pub(super) async fn summary(session: Session, version: Microversion, params: Params) -> Answer {
    if version < Microversion(12) {
        return Err(Fault::not_found("Volume", "summary"));
    }
    let (volumes, _) = filtered(&session, version, &params).await?;
    let size: u64 = volumes.iter().map(|volume| u64::from(volume.spec.size_gib)).sum();
    let mut summary = json!({"total_count": volumes.len(), "total_size": size});
    if version >= Microversion(36) {
        let mut metadata: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for (key, value) in volumes.iter().flat_map(|volume| &volume.spec.metadata) {
            metadata.entry(key).or_default().insert(value);
        }
        summary["metadata"] = json!(metadata);
    }
    Ok(ok(&json!({"volume-summary": summary})))
}

/// `GET /volumes/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let (volume, _) = find(&session, &id).await?;
    Ok(ok(&one(&session, version, &volume).await?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    volume: Fields,
    #[serde(default, rename = "OS-SCH-HNT:scheduler_hints")]
    hints: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    size: Option<Value>,
    #[serde(default, alias = "display_name")]
    name: Option<String>,
    #[serde(default, alias = "display_description")]
    description: Option<String>,
    #[serde(default)]
    volume_type: Option<String>,
    #[serde(default, rename = "imageRef", alias = "image_id")]
    image: Option<String>,
    #[serde(default)]
    metadata: Option<BTreeMap<String, String>>,
    #[serde(default)]
    availability_zone: Option<String>,
    #[serde(default)]
    multiattach: Option<Value>,
    #[serde(default)]
    source_volid: Option<String>,
    #[serde(default)]
    snapshot_id: Option<String>,
    #[serde(default)]
    backup_id: Option<Value>,
    #[serde(default)]
    consistencygroup_id: Option<Value>,
    #[serde(default)]
    group_id: Option<String>,
    #[serde(default)]
    source_replica: Option<Value>,
    #[serde(default)]
    scheduler_hints: Option<Value>,
}

/// What the cloud does not do yet is refused; it is never accepted and then ignored.
fn refuse_unserved(body: &Body) -> Result<(), Fault> {
    let (no, nothing) = ([json!(false), json!("false")], [json!({})]);
    let fields = &body.volume;
    only("multiattach", fields.multiattach.as_ref(), &no, "a volume is attached to one server at a time")?;
    for (field, given, what) in [
        ("source_replica", &fields.source_replica, "replicas"),
        ("consistencygroup_id", &fields.consistencygroup_id, "groups"),
    ] {
        only(field, given.as_ref(), &[], &format!("there are no {what}"))?;
    }
    only("backup_id", fields.backup_id.as_ref(), &[], "use the backup's restore action")?;
    for hints in [&body.hints, &fields.scheduler_hints] {
        only("scheduler_hints", hints.as_ref(), &nothing, "the scheduler chooses the node")?;
    }
    match fields.availability_zone.as_deref() {
        None | Some("" | ZONE) => Ok(()),
        Some(zone) => Err(Fault::bad(format!("Availability zone '{zone}' is invalid."))),
    }
}

/// A size in GiB, which clients also send as text.
pub(crate) fn size(field: &str, given: &Value) -> Result<u32, Fault> {
    let number = given.as_u64().or_else(|| given.as_str().and_then(|text| text.parse().ok()));
    let size = number.filter(|size| (1..=MAX_SIZE).contains(size)).and_then(|size| u32::try_from(size).ok());
    size.ok_or_else(|| {
        Fault::bad(format!(
            "Invalid input for field/attribute {field}. Value: {given}. It is a number of GiB from 1 to {MAX_SIZE}."
        ))
    })
}

/// The image, if a volume of this size can be made from it.
pub(crate) async fn check_image(session: &Session, id: &str, size: u32) -> Result<Image, Fault> {
    let image = crate::glance::find_visible(session, id).await?.map(|seen| seen.image);
    let image =
        image.ok_or_else(|| Fault::bad(format!("Invalid image identifier: {id} could not be found.")))?;
    let status = image.status.clone().unwrap_or_default();
    if status.phase != ImagePhase::Active || image.spec.deactivated || !image.spec.disk_format.is_disk() {
        return Err(Fault::bad(format!("Invalid input received: Image {id} is not active, or no disk.")));
    }
    let gib = status.virtual_size_bytes.unwrap_or(0).div_ceil(1 << 30);
    if gib > u64::from(size) {
        return Err(Fault::bad(format!(
            "Invalid input received: Size of specified image {gib}GB is larger than volume size {size}GB."
        )));
    }
    if image.spec.min_disk_gib > size {
        return Err(Fault::bad(format!(
            "Invalid input received: Volume size {size}GB cannot be smaller than the image minDisk size {}GB.",
            image.spec.min_disk_gib
        )));
    }
    Ok(image)
}

/// Makes a Volume as the caller.
pub(crate) async fn make(session: &Session, spec: VolumeSpec) -> Result<Volume, Fault> {
    make_in(session, spec, None).await
}

/// The same, in the group with this id.
pub(super) async fn make_in(
    session: &Session,
    spec: VolumeSpec,
    group: Option<&str>,
) -> Result<Volume, Fault> {
    let display = spec.display_name.clone().filter(|name| !name.is_empty());
    let mut volume = Volume::new("", spec);
    volume.metadata.labels = group.map(|id| [(GROUP_LABEL.to_owned(), id.to_owned())].into());
    volume.metadata.annotations = Some([(CREATOR.to_owned(), session.claims.uid.clone())].into());
    ids::create(&session.own::<Volume>()?, volume, display.as_deref().unwrap_or("volume")).await
}

/// What a new volume begins as a copy of: what the client named, and what the copy must have of it.
#[derive(Default)]
struct Source {
    image: Option<String>,
    snapshot: Option<String>,
    volume: Option<String>,
    /// The source's size, GiB.
    size: Option<u32>,
    volume_type: Option<String>,
}

async fn of_snapshot(session: &Session, id: &str) -> Result<Source, Fault> {
    let snapshot = snapshots::usable(session, id).await?;
    Ok(Source {
        snapshot: Some(ids::name(&snapshot).to_owned()),
        size: snapshot.spec.size_gib,
        volume_type: snapshot.spec.volume_type.clone(),
        ..Source::default()
    })
}

/// The id of the snapshot that an image without data names to boot from.
async fn named_by(session: &Session, image: &str) -> Result<Option<String>, Fault> {
    let seen = crate::glance::find_visible(session, image).await?;
    let Some(seen) = seen else { return Ok(None) };
    let parts = crate::nova::image_parts(&seen.image);
    if !parts.is_empty() && !crate::nova::is_active(&seen.image) {
        return Err(Fault::bad(format!("Invalid input received: Image {image} is not active.")));
    }
    Ok(parts.into_iter().find(|part| part.boots()).map(|part| part.snapshot_id))
}

/// Finds what a new volume is to be made from.
async fn source(session: &Session, fields: &Fields) -> Result<Source, Fault> {
    let given = |field: &Option<String>| field.clone().filter(|id| !id.is_empty());
    match (given(&fields.snapshot_id), given(&fields.source_volid), given(&fields.image)) {
        (None, None, None) => Ok(Source::default()),
        (Some(id), None, None) => of_snapshot(session, &id).await,
        (None, Some(id), None) => {
            let (volume, machines) = find(session, &id).await?;
            let state = status_of(&machines, &volume, Timestamp::now());
            if !matches!(state, "available" | "in-use") {
                return Err(Fault::bad(format!(
                    "Invalid volume: Source volume status must be available or in-use; volume {id} is {state}."
                )));
            }
            own(session, &volume, "Volume", &id)?;
            Ok(Source {
                volume: Some(ids::name(&volume).to_owned()),
                size: Some(volume.spec.size_gib),
                volume_type: volume.spec.volume_type.clone(),
                ..Source::default()
            })
        }
        (None, None, Some(image)) => match named_by(session, &image).await? {
            // Of an image of a server that boots from a volume, its snapshot of that.
            Some(id) => of_snapshot(session, &id).await,
            None => Ok(Source { image: Some(image), ..Source::default() }),
        },
        _ => Err(Fault::bad(
            "Invalid input received: A volume is made from one of snapshot_id, source_volid and imageRef.",
        )),
    }
}

/// A copy is in its source's project.
fn own<K: kube::Resource>(session: &Session, source: &K, what: &str, id: &str) -> Result<(), Fault> {
    if session.namespace()? == ids::namespace(source) { Ok(()) } else { Err(Fault::not_found(what, id)) }
}

/// The size of a new volume: as given, and that of its source where it is not; never smaller.
fn size_from(fields: &Fields, source: &Source) -> Result<u32, Fault> {
    let size = match (fields.size.as_ref().filter(|size| !size.is_null()), source.size) {
        (None, Some(size)) => return Ok(size),
        (given, _) => size("size", given.unwrap_or(&Value::Null))?,
    };
    match source.size.filter(|least| *least > size) {
        Some(least) => Err(Fault::bad(format!(
            "Invalid input received: Volume size {size}GB cannot be smaller than the size {least}GB of what it is made from. \
             They must be >= original size."
        ))),
        None => Ok(size),
    }
}

/// The type of a volume that names none: that of what it is made from, else its project's default.
async fn usual_type(session: &Session, source: Option<String>) -> Result<Option<String>, Fault> {
    if source.is_some() {
        return Ok(source);
    }
    let kind = default_types::of(session, session.project_id()).await?;
    Ok(kind.map(|kind| ids::name(&kind).to_owned()))
}

/// `POST /volumes`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    refuse_unserved(&body)?;
    let source = source(&session, &body.volume).await?;
    let size = size_from(&body.volume, &source)?;
    let fields = body.volume;
    ids::check_name("name", fields.name.as_deref().unwrap_or_default(), true)?;
    super::update::check_description(fields.description.as_deref())?;
    let metadata = fields.metadata.unwrap_or_default();
    super::metadata::check(&metadata)?;
    let image = match source.image.as_deref() {
        Some(id) => Some(reference(&check_image(&session, id, size).await?, session.namespace()?)),
        None => None,
    };
    let volume_type = match fields.volume_type.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => Some(ids::name(&types::find(&session, name).await?).to_owned()),
        None => usual_type(&session, source.volume_type).await?,
    };
    let spec = VolumeSpec {
        display_name: fields.name.filter(|name| !name.is_empty()),
        description: fields.description,
        size_gib: size,
        volume_type,
        image,
        snapshot: source.snapshot,
        source_volume: source.volume,
        metadata,
        ..VolumeSpec::default()
    };
    let group = match fields.group_id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => Some(groups::label(&session, id, spec.volume_type.as_deref()).await?),
        None => None,
    };
    let volume = make_in(&session, spec, group.as_deref()).await.map_err(|fault| match fault.status {
        // What it is made from changed between our look and the write.
        StatusCode::CONFLICT => Fault::bad(format!("Invalid volume: {}", fault.message)),
        _ => fault,
    })?;
    Ok(json_response(StatusCode::ACCEPTED, &written(&session, version, &volume).await?))
}

/// `DELETE /volumes/{id}`
pub(super) async fn delete(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let force = params.flag("force")? == Some(true);
    if force {
        super::type_specs::admin_only(&session, "volume_extension:volume_admin_actions:force_delete")?;
    }
    let (volume, machines) = find(&session, &id).await?;
    let status = status_of(&machines, &volume, Timestamp::now());
    // By force also while it is something else than free, but not from under what uses it.
    let used = status == "in-use" || outside::user(&volume).is_some();
    if used || !(force || DELETABLE.contains(&status)) {
        return Err(Fault::bad(format!(
            "Invalid volume: Volume status must be available or error or error_extending and must not be attached; \
             volume {id} is {status}."
        )));
    }
    if groups::of(&volume).is_some() {
        return Err(Fault::bad(format!(
            "Invalid volume: Volume must not be part of a group; volume {id} is: take it out, or delete the group."
        )));
    }
    let dependent = snapshots::of(&session, &volume).await?;
    let cascade = params.flag("cascade")? == Some(true);
    if !dependent.is_empty() && !cascade {
        return Err(Fault::bad(format!(
            "Invalid volume: Volume still has {} dependent snapshots.",
            dependent.len()
        )));
    }
    for snapshot in &dependent {
        snapshots::remove(&session, snapshot).await?;
    }
    remove(&session, &volume).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Deletes a volume as the caller.
pub(super) async fn remove(session: &Session, volume: &Volume) -> Result<(), Fault> {
    let volumes = session.within::<Volume>(ids::namespace(volume));
    match volumes.delete(ids::name(volume), &DeleteParams::default()).await {
        // A server got it in between.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            Err(Fault::bad(format!("Invalid volume: {}", status.message)))
        }
        other => other.map(drop).map_err(Fault::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;

    #[test]
    fn sizes_are_numbers_of_gib() {
        assert_eq!(size("size", &json!(1)).unwrap(), 1);
        assert_eq!(size("size", &json!("20")).unwrap(), 20);
        for wrong in [json!(0), json!(-1), json!("x"), Value::Null, json!(65_537), json!(1.5)] {
            assert!(size("size", &wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_there_is_refused_by_name() {
        let refused = |extra: &str| {
            let text = format!(r#"{{"volume": {{"size": 1{extra}}}}}"#);
            parse::<Body>(text.as_bytes())
                .and_then(|body| refuse_unserved(&body))
                .err()
                .map(|fault| fault.message)
        };
        assert_eq!(
            refused(r#", "multiattach": false, "backup_id": null, "availability_zone": "nova""#),
            None
        );
        for (extra, word) in [
            (r#", "backup_id": "x""#, "backup_id"),
            (r#", "consistencygroup_id": "x""#, "consistencygroup_id"),
            (r#", "multiattach": true"#, "multiattach"),
            (r#", "availability_zone": "mars""#, "mars"),
            (r#", "colour": 1"#, "colour"),
        ] {
            assert!(refused(extra).unwrap().contains(word), "{extra}");
        }
    }
}
