//! Volume types.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::storage::{Volume, VolumeQos, VolumeType, VolumeTypeSpec};

use super::update::check_description;
use super::{default_types, type_specs};
use crate::auth::Session;
use crate::body::{Json, Params, boolean, explicit};
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::page::{self, Limits};
use crate::versions::ok;
use crate::{ids, stamp};

const PAGE: Limits = Limits { default: 1000, max: 1000 };

/// Extra specs that everybody is shown, as in Cinder: what a type says to who uses it.
const SHOWN: [&str; 3] = ["RESKEY:availability_zones", "multiattach", "replication_enabled"];

/// A type as the caller is shown it.
pub(super) fn view(session: &Session, kind: &VolumeType) -> Value {
    let admin = session.is_admin();
    let specs = kind.spec.extra_specs.iter().filter(|(key, _)| admin || SHOWN.contains(&key.as_str()));
    json!({
        "id": kind.id(), "name": kind.display_name(), "description": kind.spec.description, "is_public": !kind.spec.private,
        "os-volume-type-access:is_public": !kind.spec.private, "extra_specs": specs.collect::<BTreeMap<_, _>>(),
        "qos_specs_id": null,
    })
}

/// Fills the ids of types' QoS specs in, for who may read those.
async fn qos_ids(session: &Session, kinds: &[VolumeType], views: &mut [Value]) -> Result<(), Fault> {
    if !session.is_admin() || kinds.iter().all(|kind| kind.spec.qos.is_none()) {
        return Ok(());
    }
    let all = ids::list(&session.global::<VolumeQos>()).await?;
    for (kind, view) in kinds.iter().zip(views) {
        let qos = all.iter().find(|qos| kind.spec.qos.as_deref() == Some(ids::name(*qos)));
        view["qos_specs_id"] = json!(qos.map(Identified::id));
    }
    Ok(())
}

/// The answer to a write, which has not all members, as Cinder's.
fn written(session: &Session, kind: &VolumeType, but: &[&str]) -> Value {
    let mut view = view(session, kind);
    if let Some(members) = view.as_object_mut() {
        members.retain(|member, _| !but.contains(&member.as_str()));
    }
    json!({"volume_type": view})
}

/// Whether the caller is shown a type: a public one, one of their project's, or any for an admin.
fn may_see(session: &Session, kind: &VolumeType) -> bool {
    !kind.spec.private || session.is_admin() || is_of(session, kind)
}

fn is_of(session: &Session, kind: &VolumeType) -> bool {
    kind.spec.projects.iter().any(|project| project == session.project_id())
}

/// The type with this id or name, if the caller is shown it.
pub(crate) async fn find(session: &Session, wanted: &str) -> Result<VolumeType, Fault> {
    let mut all = ids::list(&session.global::<VolumeType>()).await?;
    all.retain(|kind| may_see(session, kind));
    let found = all.iter().find(|kind| kind.id() == wanted);
    let found = found.or_else(|| all.iter().find(|kind| kind.display_name() == wanted));
    found.cloned().ok_or_else(|| Fault::not_found("Volume type", wanted))
}

/// `GET /types`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    // "none" asks for both sorts; only an admin is asked. Others see public types and those of their project.
    let public = match params.get("is_public") {
        Some(text) if text.eq_ignore_ascii_case("none") => None,
        _ => Some(params.flag("is_public")?.unwrap_or(true)),
    };
    let wanted = |kind: &VolumeType| match public.filter(|_| session.is_admin()) {
        Some(true) => !kind.spec.private || is_of(&session, kind),
        Some(false) => kind.spec.private,
        None => may_see(&session, kind),
    };
    let mut kinds = ids::list(&session.global::<VolumeType>()).await?;
    kinds.retain(|kind| wanted(kind) && params.get("name").is_none_or(|name| name == kind.display_name()));
    page::sort(&params, ("created_at", "desc"), &mut kinds, |kind, key| match key {
        "id" => Some(kind.id()),
        "name" => Some(kind.display_name()),
        "created_at" => Some(format!("{} {}", stamp::seconds(stamp::created(kind)), ids::name(kind))),
        _ => None,
    })?;
    let (kinds, next) = page::cut(&params, PAGE, kinds, Identified::id)?;
    let mut views: Vec<Value> = kinds.iter().map(|kind| view(&session, kind)).collect();
    qos_ids(&session, &kinds, &mut views).await?;
    let mut body = json!({"volume_types": views});
    let url = format!("{}/volume/v3/types", session.door.endpoint);
    if let Some(links) = page::links(&url, &params, next.as_deref()) {
        body["volume_type_links"] = links;
    }
    Ok(ok(&body))
}

/// `GET /types/default`: a volume that names no type has none, unless its project has a default.
pub(super) async fn default(session: Session) -> Answer {
    let kind = default_types::of(&session, session.project_id()).await?;
    let kind = kind.filter(|kind| may_see(&session, kind));
    let kind =
        kind.ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, "Default volume type can not be found."))?;
    Ok(ok(&json!({"volume_type": view(&session, &kind)})))
}

/// `GET /types/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    let kind = [find(&session, &id).await?];
    let mut shown = [view(&session, &kind[0])];
    qos_ids(&session, &kind, &mut shown).await?;
    let [shown] = shown;
    Ok(ok(&json!({"volume_type": shown})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    volume_type: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    description: Option<Option<String>>,
    #[serde(default, rename = "os-volume-type-access:is_public", alias = "is_public")]
    public: Option<Value>,
    #[serde(default)]
    extra_specs: Option<Map<String, Value>>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        check_description(self.description.as_ref().and_then(Option::as_deref))?;
        self.name.as_deref().map_or(Ok(()), |name| ids::check_name("name", name, false))
    }

    /// Whether only some projects are to be shown it; `None` where nothing is said.
    fn private(&self) -> Result<Option<bool>, Fault> {
        Ok(boolean("is_public", self.public.as_ref())?.map(|public| !public))
    }

    async fn check_unique(&self, session: &Session, own: Option<&str>) -> Result<(), Fault> {
        let Some(name) = self.name.as_deref() else { return Ok(()) };
        let all = ids::list(&session.global::<VolumeType>()).await?;
        if all.iter().any(|kind| kind.display_name() == name && Some(kind.id().as_str()) != own) {
            return Err(Fault::conflict(format!("Volume Type {name} already exists.")));
        }
        Ok(())
    }
}

/// `POST /types`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.volume_type;
    fields.check()?;
    fields.check_unique(&session, None).await?;
    let private = fields.private()?.unwrap_or_default();
    let name = fields.name.ok_or_else(|| {
        Fault::bad("Invalid input for field/attribute volume_type. 'name' is a required property")
    })?;
    let spec = VolumeTypeSpec {
        display_name: Some(name.clone()),
        private,
        extra_specs: type_specs::check(&fields.extra_specs.unwrap_or_default())?,
        description: fields.description.flatten(),
        ..VolumeTypeSpec::default()
    };
    let kind = ids::create(&session.global::<VolumeType>(), VolumeType::new("", spec), &name).await?;
    Ok(ok(&written(&session, &kind, &["qos_specs_id"])))
}

/// `PUT /types/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let kind = find(&session, &id).await?;
    let fields = body.volume_type;
    fields.check()?;
    if fields.extra_specs.is_some() {
        return Err(Fault::bad(
            "Extra specs are not changed with the type, but below it: types/ID/extra_specs.",
        ));
    }
    fields.check_unique(&session, Some(&kind.id())).await?;
    let private = fields.private()?;
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("private", private);
    let kind = changes.apply(&session.global(), &kind).await?;
    Ok(ok(&written(&session, &kind, &["qos_specs_id", "os-volume-type-access:is_public"])))
}

/// `DELETE /types/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let kind = find(&session, &id).await?;
    let volumes = ids::list(&session.everywhere::<Volume>()).await?;
    if volumes.iter().any(|volume| volume.spec.volume_type.as_deref() == Some(ids::name(&kind))) {
        return Err(Fault::bad("Target volume type is still in use."));
    }
    if let Some(project) = kind.spec.default_of.first() {
        let text = format!("Target volume type is still in use: it is the default of project {project}.");
        return Err(Fault::bad(text));
    }
    session.global::<VolumeType>().delete(ids::name(&kind), &DeleteParams::default()).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}
