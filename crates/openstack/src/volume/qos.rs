//! QoS specs: what machines may read from and write to volumes of a type.

use std::collections::BTreeMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::storage::{QosConsumer, VolumeQos, VolumeQosSpec, VolumeType};

use super::type_specs::{admin_only, check};
use super::{PAGE, types};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::change::{Changes, replacing};
use crate::error::{Answer, Fault};
use crate::versions::ok;
use crate::{ids, page, stamp};

fn view(qos: &VolumeQos) -> Value {
    json!({
        "id": qos.id(), "name": qos.display_name(), "consumer": qos.spec.consumer, "specs": qos.spec.specs,
    })
}

fn whole(session: &Session, qos: &VolumeQos) -> Value {
    let (endpoint, id) = (&session.door.endpoint, qos.id());
    let links = json!([
        {"rel": "self", "href": format!("{endpoint}/volume/v3/qos-specs/{id}")},
        {"rel": "bookmark", "href": format!("{endpoint}/volume/qos-specs/{id}")},
    ]);
    json!({"qos_specs": view(qos), "links": links})
}

async fn find(session: &Session, id: &str) -> Result<VolumeQos, Fault> {
    let found = session.find(&session.global::<VolumeQos>(), id).await?;
    found.ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, format!("No such qos spec {id}.")))
}

/// The types that have a QoS spec.
async fn having(session: &Session, qos: &VolumeQos) -> Result<Vec<VolumeType>, Fault> {
    let mut all = ids::list(&session.global::<VolumeType>()).await?;
    all.retain(|kind| kind.spec.qos.as_deref() == Some(ids::name(qos)));
    Ok(all)
}

/// `GET /qos-specs`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    admin_only(&session, "volume_extension:qos_specs_manage:get_all")?;
    let mut all = ids::list(&session.global::<VolumeQos>()).await?;
    page::sort(&params, ("created_at", "desc"), &mut all, |qos, key| match key {
        "id" => Some(qos.id()),
        "name" => Some(qos.display_name()),
        "created_at" => Some(format!("{} {}", stamp::seconds(stamp::created(qos)), ids::name(qos))),
        _ => None,
    })?;
    let (all, next) = page::cut(&params, PAGE, all, Identified::id)?;
    let url = format!("{}/volume/v3/qos-specs", session.door.endpoint);
    Ok(ok(&page::body("qos_specs", all.iter().map(view).collect(), (&url, &params, next.as_deref()))))
}

/// `GET /qos-specs/{id}`
pub(super) async fn show(session: Session, Path(id): Path<String>) -> Answer {
    admin_only(&session, "volume_extension:qos_specs_manage:get")?;
    Ok(ok(&whole(&session, &find(&session, &id).await?)))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    qos_specs: Map<String, Value>,
}

/// What a spec says about who acts on it.
fn consumer(given: Option<&Value>) -> Result<Option<QosConsumer>, Fault> {
    let Some(given) = given else { return Ok(None) };
    serde_json::from_value(given.clone()).map(Some).map_err(|_| {
        Fault::bad("Invalid input for field/attribute consumer. It is front-end, back-end or both.")
    })
}

/// `POST /qos-specs`: beside `name` and `consumer` every member is a key of the spec.
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    admin_only(&session, "volume_extension:qos_specs_manage:create")?;
    let mut fields = body.qos_specs;
    let name = fields.remove("name");
    let name = name.as_ref().and_then(Value::as_str).ok_or_else(|| {
        Fault::bad("Invalid input for field/attribute qos_specs. 'name' is a required property")
    })?;
    ids::check_name("name", name, false)?;
    let consumer = consumer(fields.remove("consumer").as_ref())?.unwrap_or_default();
    let specs = check(&fields)?;
    let api = session.global::<VolumeQos>();
    if ids::list(&api).await?.iter().any(|other| other.display_name() == name) {
        return Err(Fault::conflict(format!("Qos specs {name} already exists.")));
    }
    let spec = VolumeQosSpec { id: None, display_name: Some(name.to_owned()), consumer, specs };
    let qos = ids::create(&api, VolumeQos::new("", spec), name).await?;
    Ok(ok(&whole(&session, &qos)))
}

async fn write(session: &Session, qos: &VolumeQos, changes: Changes) -> Result<VolumeQos, Fault> {
    changes.apply(&session.global(), qos).await
}

/// `PUT /qos-specs/{id}`: sets these keys and keeps the others.
pub(super) async fn set(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    admin_only(&session, "volume_extension:qos_specs_manage:update")?;
    let qos = find(&session, &id).await?;
    let mut fields = body.qos_specs.clone();
    let consumer = consumer(fields.remove("consumer").as_ref())?;
    let specs = check(&fields)?;
    let changes =
        Changes::default().set("specs", Some(json!(specs))).set("consumer", consumer.map(|it| json!(it)));
    write(&session, &qos, changes).await?;
    Ok(ok(&json!({"qos_specs": body.qos_specs})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Keys {
    keys: Vec<String>,
}

/// `PUT /qos-specs/{id}/delete_keys`
pub(super) async fn unset(session: Session, Path(id): Path<String>, Json(body): Json<Keys>) -> Answer {
    admin_only(&session, "volume_extension:qos_specs_manage:update")?;
    let qos = find(&session, &id).await?;
    let mut left: BTreeMap<String, String> = qos.spec.specs.clone();
    for key in &body.keys {
        left.remove(key).ok_or_else(|| Fault::bad(format!("Qos specs {id} has no spec with key {key}.")))?;
    }
    let changes = Changes::default().set("specs", Some(replacing(&qos.spec.specs, &left)));
    write(&session, &qos, changes).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `DELETE /qos-specs/{id}`; with `force` it is taken from the types that have it.
pub(super) async fn delete(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    admin_only(&session, "volume_extension:qos_specs_manage:delete")?;
    let qos = find(&session, &id).await?;
    let having = having(&session, &qos).await?;
    if !having.is_empty() && params.flag("force")? != Some(true) {
        return Err(Fault::bad(format!("Qos specs {id} is still associated with entities.")));
    }
    for kind in &having {
        join(&session, kind, None).await?;
    }
    session.global::<VolumeQos>().delete(ids::name(&qos), &DeleteParams::default()).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

async fn join(session: &Session, kind: &VolumeType, qos: Option<&VolumeQos>) -> Result<(), Fault> {
    let name = qos.map_or(Value::Null, |qos| json!(ids::name(qos)));
    Changes::default().set("qos", Some(name)).apply(&session.global::<VolumeType>(), kind).await?;
    Ok(())
}

/// `GET /qos-specs/{id}/{associations,associate,disassociate,disassociate_all}`: so Cinder has it, writes are among them.
pub(super) async fn relate(
    session: Session,
    params: Params,
    Path((id, word)): Path<(String, String)>,
) -> Answer {
    admin_only(&session, "volume_extension:qos_specs_manage:update")?;
    let qos = find(&session, &id).await?;
    let kind = || async {
        let wanted = params.get("vol_type_id");
        let wanted = wanted.ok_or_else(|| Fault::bad("Volume Type id must not be None."))?;
        types::find(&session, wanted).await
    };
    match word.as_str() {
        "associations" => {
            let of = |kind: &VolumeType| json!({"association_type": "volume_type", "id": kind.id(), "name": kind.display_name()});
            let all: Vec<Value> = having(&session, &qos).await?.iter().map(of).collect();
            return Ok(ok(&json!({"qos_associations": all})));
        }
        "associate" => {
            let kind = kind().await?;
            if kind.spec.qos.as_deref().is_some_and(|other| other != ids::name(&qos)) {
                return Err(Fault::bad(format!(
                    "Type {} is already associated with another qos specs.",
                    kind.id()
                )));
            }
            join(&session, &kind, Some(&qos)).await?;
        }
        "disassociate" => {
            let kind = kind().await?;
            if kind.spec.qos.as_deref() == Some(ids::name(&qos)) {
                join(&session, &kind, None).await?;
            }
        }
        "disassociate_all" => {
            for kind in having(&session, &qos).await? {
                join(&session, &kind, None).await?;
            }
        }
        _ => return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found.")),
    }
    Ok(StatusCode::ACCEPTED.into_response())
}
