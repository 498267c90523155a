//! Bytes that come in two steps, and images whose bytes are kept from everybody for a while.

use axum::extract::{Path, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::json;
use yunfan_resources::image::{Image, ImagePhase};

use super::data::{self, Arrival, may_change};
use super::images::find;
use super::view;
use crate::auth::Session;
use crate::body::Json;
use crate::change::Changes;
use crate::error::{Answer, Fault};
use crate::versions::ok;
use crate::{ids, quota};

/// The only store: the nodes' own disks.
pub(super) const STORE: &str = "local";
/// Ways in which staged or foreign bytes become an image's.
pub(super) const METHODS: [&str; 2] = [DIRECT, WEB];
const DIRECT: &str = "glance-direct";
const WEB: &str = "web-download";

/// `GET /info/import`
pub(super) async fn methods(_: Session) -> Response {
    ok(&json!({"import-methods": {
        "description": "Import methods available.", "type": "array", "value": METHODS,
    }}))
}

/// `GET /info/stores`
pub(super) async fn stores(_: Session) -> Response {
    ok(&json!({"stores": [
        {"id": STORE, "default": "true", "description": "The disks of the cloud's own nodes."},
    ]}))
}

/// `GET /info/usage`: the project's limits, sizes in MiB. What waits to be imported counts as what is there already, and how many come in
/// at a time is not limited.
pub(super) async fn usage(session: Session) -> Answer {
    let namespace = session.namespace()?;
    let own = session.own::<Image>()?;
    let (counted, images) =
        tokio::try_join!(quota::read(&session, namespace, &quota::IMAGE), ids::list(&own))?;
    let of = |phases: &[ImagePhase]| {
        let status = images.iter().filter_map(|image| image.status.as_ref());
        let (mut count, mut bytes) = (0_u64, 0_u64);
        for status in status.filter(|status| phases.contains(&status.phase)) {
            count += 1;
            bytes += status.stored_bytes.or(status.size_bytes).unwrap_or(0);
        }
        (count, bytes.div_ceil(1 << 20))
    };
    let all = [ImagePhase::Active, ImagePhase::Staged];
    let (coming, (_, staged)) = (of(&[ImagePhase::Saving]).0, of(&[ImagePhase::Staged]));
    let mut usage = json!({
        "image_stage_total": {"limit": quota::UNLIMITED, "usage": staged},
        "image_count_uploading": {"limit": quota::UNLIMITED, "usage": coming},
    });
    for (limit, told) in counted {
        let used = if limit.name == "image_count_total" { images.len() as u64 } else { of(&all).1 };
        usage[limit.name] = json!({"limit": told.limit, "usage": used});
    }
    Ok(ok(&json!({"usage": usage})))
}

/// `PUT /images/{id}/stage`
pub(super) async fn stage(session: Session, Path(id): Path<String>, request: Request) -> Answer {
    data::take(session, id, request, Arrival::Staged).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    method: Method,
    #[serde(default)]
    stores: Option<Vec<String>>,
    #[serde(default)]
    all_stores: Option<bool>,
    #[serde(default)]
    all_stores_must_succeed: Option<bool>,
}

#[derive(Deserialize)]
struct Method {
    name: String,
    /// Where the bytes are.
    #[serde(default)]
    uri: Option<String>,
}

/// `POST /images/{id}/import`: the staged bytes, which were checked when they came, become the image's; or what is at an address.
pub(super) async fn import(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    if !METHODS.contains(&body.method.name.as_str()) {
        return Err(Fault::bad(format!(
            "Import method '{}' is not allowed; there are: {}.",
            body.method.name,
            METHODS.join(", ")
        )));
    }
    let stores = body.stores.unwrap_or_default();
    if let Some(other) = stores.iter().find(|store| *store != STORE) {
        return Err(Fault::conflict(format!("The Store Identifier provided is not recognized: {other}.")));
    }
    // With one store all is that one.
    let _ = (body.all_stores, body.all_stores_must_succeed);
    let seen = find(&session, &id).await?;
    if body.method.name == WEB {
        let uri = body.method.uri.ok_or_else(|| Fault::bad("The method web-download needs a uri."))?;
        return data::fetch(&session, seen.image, &uri).await;
    }
    may_change(&session, &seen.image).await?;
    let status = seen.image.status.clone().unwrap_or_default();
    if status.phase != ImagePhase::Staged {
        return Err(Fault::conflict(format!(
            "Image needs to be staged before 'glance-direct' method can be used; image {id} is {}.",
            view::status(&seen.image)
        )));
    }
    data::write(&session.door, &seen.image, &json!({"phase": ImagePhase::Active})).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `GET /tasks`: for admins, as in Glance; there are none, as of one image.
pub(super) async fn all_tasks(session: Session) -> Answer {
    if !session.is_admin() {
        return Err(Fault::forbidden("You are not authorized to complete get_tasks action."));
    }
    Ok(ok(&json!({"tasks": [], "first": "/v2/tasks", "schema": "/v2/schemas/tasks"})))
}

/// `GET /tasks/{id}`
pub(super) async fn task(_: Session, Path(id): Path<String>) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("Task not found for task_id {id}"))
}

/// `GET /images/{id}/tasks`: an import is done when it is answered, and leaves no task behind.
pub(super) async fn tasks(session: Session, Path(id): Path<String>) -> Answer {
    find(&session, &id).await?;
    Ok(ok(&json!({"tasks": []})))
}

/// `POST /images/{id}/actions/deactivate`
pub(super) async fn deactivate(session: Session, Path(id): Path<String>) -> Answer {
    switch(&session, &id, true).await
}

/// `POST /images/{id}/actions/reactivate`
pub(super) async fn reactivate(session: Session, Path(id): Path<String>) -> Answer {
    switch(&session, &id, false).await
}

async fn switch(session: &Session, id: &str, off: bool) -> Answer {
    let seen = find(session, id).await?;
    let status = view::status(&seen.image);
    if !matches!(status, "active" | "deactivated") {
        let what = if off { "deactivate" } else { "reactivate" };
        return Err(Fault::forbidden(format!("Not allowed to {what} image in status '{status}'")));
    }
    let changes = Changes::default().set("deactivated", Some(off));
    changes.apply(&session.within(ids::namespace(&seen.image)), &seen.image).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
