//! `/group_types` (3.11): what groups of volumes are like.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::volume_group::{VolumeGroup, VolumeGroupType, VolumeGroupTypeSpec};

use super::type_specs::admin_only;
use super::update::check_description;
use super::{PAGE, metadata};
use crate::auth::Session;
use crate::body::{Json, Params, boolean, explicit};
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::{json_response, ok};
use crate::{ids, page, stamp};

/// The version since which there are types of groups.
const BEGAN: Microversion = Microversion(11);

/// Refuses paths that a version does not have.
pub(super) fn since(version: Microversion, began: Microversion) -> Result<(), Fault> {
    if version < began {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    Ok(())
}

fn view(session: &Session, kind: &VolumeGroupType) -> Value {
    let mut view = json!({
        "id": kind.id(), "name": kind.display_name(), "description": kind.spec.description,
        "is_public": !kind.spec.private,
    });
    if session.is_admin() {
        view["group_specs"] = json!(kind.spec.group_specs);
    }
    view
}

/// The type with this id or name, if the caller is shown it.
pub(super) async fn find(session: &Session, wanted: &str) -> Result<VolumeGroupType, Fault> {
    let mut all = ids::list(&session.global::<VolumeGroupType>()).await?;
    all.retain(|kind| !kind.spec.private || session.is_admin());
    let found = all.iter().find(|kind| kind.id() == wanted);
    let found = found.or_else(|| all.iter().find(|kind| kind.display_name() == wanted));
    found.cloned().ok_or_else(|| Fault::not_found("Group type", wanted))
}

/// `GET /group_types`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    since(version, BEGAN)?;
    // "none" asks for both sorts; only an admin is asked.
    let public = match params.get("is_public") {
        _ if !session.is_admin() => Some(true),
        Some(text) if text.eq_ignore_ascii_case("none") => None,
        _ => Some(params.flag("is_public")?.unwrap_or(true)),
    };
    let mut kinds = ids::list(&session.global::<VolumeGroupType>()).await?;
    kinds.retain(|kind| public.is_none_or(|public| public != kind.spec.private));
    page::sort(&params, ("created_at", "desc"), &mut kinds, |kind, key| match key {
        "id" => Some(kind.id()),
        "name" => Some(kind.display_name()),
        "created_at" => Some(format!("{} {}", stamp::seconds(stamp::created(kind)), ids::name(kind))),
        _ => None,
    })?;
    let (kinds, next) = page::cut(&params, PAGE, kinds, Identified::id)?;
    let views = kinds.iter().map(|kind| view(&session, kind)).collect();
    let url = format!("{}/volume/v3/group_types", session.door.endpoint);
    Ok(ok(&page::body("group_types", views, (&url, &params, next.as_deref()))))
}

/// `GET /group_types/{id}`; none of them is the default one.
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    since(version, BEGAN)?;
    Ok(ok(&json!({"group_type": view(&session, &find(&session, &id).await?)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    group_type: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default)]
    is_public: Option<Value>,
    #[serde(default)]
    group_specs: Option<BTreeMap<String, String>>,
}

/// Refuses a name that another type has.
async fn free(session: &Session, name: &str, own: Option<&str>) -> Result<(), Fault> {
    ids::check_name("name", name, false)?;
    let all = ids::list(&session.global::<VolumeGroupType>()).await?;
    if all.iter().any(|kind| kind.display_name() == name && own != Some(ids::name(kind))) {
        return Err(Fault::conflict(format!("Group Type {name} already exists.")));
    }
    Ok(())
}

/// `POST /group_types`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    since(version, BEGAN)?;
    admin_only(&session, "group:group_types_manage")?;
    let fields = body.group_type;
    let name = fields.name.unwrap_or_default();
    free(&session, &name, None).await?;
    let description = fields.description.flatten();
    check_description(description.as_deref())?;
    let group_specs = fields.group_specs.unwrap_or_default();
    metadata::check(&group_specs)?;
    let spec = VolumeGroupTypeSpec {
        display_name: Some(name.clone()),
        description,
        private: !boolean("is_public", fields.is_public.as_ref())?.unwrap_or(true),
        group_specs,
        ..VolumeGroupTypeSpec::default()
    };
    let made = ids::create(&session.global(), VolumeGroupType::new("", spec), &name).await?;
    Ok(json_response(StatusCode::ACCEPTED, &json!({"group_type": view(&session, &made)})))
}

/// `PUT /group_types/{id}`
pub(super) async fn update(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Body>,
) -> Answer {
    since(version, BEGAN)?;
    admin_only(&session, "group:group_types_manage")?;
    let (kind, fields) = (find(&session, &id).await?, body.group_type);
    if let Some(name) = &fields.name {
        free(&session, name, Some(ids::name(&kind))).await?;
    }
    check_description(fields.description.as_ref().and_then(Option::as_deref))?;
    let public = boolean("is_public", fields.is_public.as_ref())?;
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description.map(|text| json!(text)))
        .set("private", public.map(|public| !public));
    let kind = changes.apply(&session.global(), &kind).await?;
    Ok(ok(&json!({"group_type": view(&session, &kind)})))
}

/// `DELETE /group_types/{id}`: not while there is a group of it.
pub(super) async fn delete(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    since(version, BEGAN)?;
    admin_only(&session, "group:group_types_manage")?;
    let kind = find(&session, &id).await?;
    let groups = ids::list(&session.everywhere::<VolumeGroup>()).await?;
    if groups.iter().any(|group| group.spec.group_type == kind.id()) {
        return Err(Fault::bad(format!("Target group type {id} is still in use.")));
    }
    session.global::<VolumeGroupType>().delete(ids::name(&kind), &DeleteParams::default()).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SpecsBody {
    group_specs: BTreeMap<String, String>,
}

/// Writes specs; a null one goes.
async fn write(session: &Session, kind: &VolumeGroupType, specs: Value) -> Result<(), Fault> {
    let patch = Patch::Merge(json!({"spec": {"groupSpecs": specs}}));
    let kinds = session.global::<VolumeGroupType>();
    kinds.patch(ids::name(kind), &PatchParams::default(), &patch).await?;
    Ok(())
}

/// `GET /group_types/{id}/group_specs`
pub(super) async fn specs(session: Session, Path(id): Path<String>) -> Answer {
    admin_only(&session, "group:group_types_specs")?;
    Ok(ok(&json!({"group_specs": find(&session, &id).await?.spec.group_specs})))
}

/// `POST /group_types/{id}/group_specs`: sets these and keeps the others.
pub(super) async fn set(session: Session, Path(id): Path<String>, Json(body): Json<SpecsBody>) -> Answer {
    admin_only(&session, "group:group_types_specs")?;
    let kind = find(&session, &id).await?;
    let mut all = kind.spec.group_specs.clone();
    all.extend(body.group_specs.clone());
    metadata::check(&all)?;
    write(&session, &kind, json!(body.group_specs)).await?;
    Ok(json_response(StatusCode::ACCEPTED, &json!({"group_specs": body.group_specs})))
}

fn missing(id: &str, key: &str) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("Group Type {id} has no specs with key {key}."))
}

/// `GET /group_types/{id}/group_specs/{key}`
pub(super) async fn spec(session: Session, Path((id, key)): Path<(String, String)>) -> Answer {
    admin_only(&session, "group:group_types_specs")?;
    let kind = find(&session, &id).await?;
    let value = kind.spec.group_specs.get(&key).ok_or_else(|| missing(&id, &key))?;
    Ok(ok(&json!({key: value})))
}

/// `PUT /group_types/{id}/group_specs/{key}`
pub(super) async fn set_one(
    session: Session,
    Path((id, key)): Path<(String, String)>,
    Json(body): Json<BTreeMap<String, String>>,
) -> Answer {
    admin_only(&session, "group:group_types_specs")?;
    if body.len() != 1 || !body.contains_key(&key) {
        return Err(Fault::bad("Request body and URI mismatch"));
    }
    metadata::check(&body)?;
    write(&session, &find(&session, &id).await?, json!(body)).await?;
    Ok(ok(&json!(body)))
}

/// `DELETE /group_types/{id}/group_specs/{key}`
pub(super) async fn unset(session: Session, Path((id, key)): Path<(String, String)>) -> Answer {
    admin_only(&session, "group:group_types_specs")?;
    let kind = find(&session, &id).await?;
    if !kind.spec.group_specs.contains_key(&key) {
        return Err(missing(&id, &key));
    }
    let gone: Map<String, Value> = [(key, Value::Null)].into_iter().collect();
    write(&session, &kind, json!(gone)).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}
