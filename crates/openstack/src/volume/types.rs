//! Volume types.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::storage::{Volume, VolumeType, VolumeTypeSpec};

use super::update::check_description;
use crate::auth::Session;
use crate::body::{Json, Params, explicit, only};
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::page::{self, Limits};
use crate::versions::ok;
use crate::{ids, stamp};

const PAGE: Limits = Limits { default: 1000, max: 1000 };

pub(super) fn view(kind: &VolumeType) -> Value {
    json!({
        "id": kind.id(), "name": kind.display_name(), "description": kind.spec.description, "is_public": true,
        "os-volume-type-access:is_public": true, "extra_specs": {}, "qos_specs_id": null,
    })
}

/// The type with this id or name.
pub(crate) async fn find(session: &Session, wanted: &str) -> Result<VolumeType, Fault> {
    let all = ids::list(&session.global::<VolumeType>()).await?;
    let found = all.iter().find(|kind| kind.id() == wanted);
    let found = found.or_else(|| all.iter().find(|kind| kind.display_name() == wanted));
    found.cloned().ok_or_else(|| Fault::not_found("Volume type", wanted))
}

/// `GET /types`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    // Every type is public; "none" asks for both sorts.
    let private_only = match params.get("is_public") {
        Some(text) if text.eq_ignore_ascii_case("none") => false,
        _ => params.flag("is_public")? == Some(false),
    };
    let mut kinds = ids::list(&session.global::<VolumeType>()).await?;
    kinds.retain(|kind| !private_only && params.get("name").is_none_or(|name| name == kind.display_name()));
    page::sort(&params, ("created_at", "desc"), &mut kinds, |kind, key| match key {
        "id" => Some(kind.id()),
        "name" => Some(kind.display_name()),
        "created_at" => Some(format!("{} {}", stamp::seconds(stamp::created(kind)), ids::name(kind))),
        _ => None,
    })?;
    let (kinds, next) = page::cut(&params, PAGE, kinds, Identified::id)?;
    let mut body = json!({"volume_types": kinds.iter().map(view).collect::<Vec<Value>>()});
    let url = format!("{}/volume/v3/types", session.door.endpoint);
    if let Some(links) = page::links(&url, &params, next.as_deref()) {
        body["volume_type_links"] = links;
    }
    Ok(ok(&body))
}

/// `GET /types/default`: a volume that names no type has none.
pub(super) async fn default(_: Session) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, "Default volume type can not be found.")
}

/// `GET /types/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    Ok(ok(&json!({"volume_type": view(&find(&session, &id).await?)})))
}

/// `GET /types/{id}/extra_specs`: there is one driver, which has nothing to choose.
pub(super) async fn extra_specs(session: Session, Path(id): Path<String>) -> Answer {
    find(&session, &id).await?;
    Ok(ok(&json!({"extra_specs": {}})))
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
    extra_specs: Option<Value>,
}

impl Fields {
    /// Refuses what would be ignored.
    fn check(&self) -> Result<(), Fault> {
        only("is_public", self.public.as_ref(), &[json!(true)], "every volume type is public")?;
        only("extra_specs", self.extra_specs.as_ref(), &[json!({})], "the driver has nothing to choose")?;
        check_description(self.description.as_ref().and_then(Option::as_deref))?;
        self.name.as_deref().map_or(Ok(()), |name| ids::check_name("name", name, false))
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
    let name = fields.name.ok_or_else(|| {
        Fault::bad("Invalid input for field/attribute volume_type. 'name' is a required property")
    })?;
    let spec = VolumeTypeSpec {
        id: None,
        display_name: Some(name.clone()),
        description: fields.description.flatten(),
    };
    let kind = ids::create(&session.global::<VolumeType>(), VolumeType::new("", spec), &name).await?;
    Ok(ok(&json!({"volume_type": view(&kind)})))
}

/// `PUT /types/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let kind = find(&session, &id).await?;
    let fields = body.volume_type;
    fields.check()?;
    fields.check_unique(&session, Some(&kind.id())).await?;
    let changes = Changes::default().set("displayName", fields.name).set("description", fields.description);
    let kind = changes.apply(&session.global(), &kind).await?;
    Ok(ok(&json!({"volume_type": view(&kind)})))
}

/// `DELETE /types/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let kind = find(&session, &id).await?;
    let volumes = ids::list(&session.everywhere::<Volume>()).await?;
    if volumes.iter().any(|volume| volume.spec.volume_type.as_deref() == Some(ids::name(&kind))) {
        return Err(Fault::bad("Target volume type is still in use."));
    }
    session.global::<VolumeType>().delete(ids::name(&kind), &DeleteParams::default()).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}
