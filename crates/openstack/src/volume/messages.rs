//! Cinder's user messages: why something did not come about after the request for it was answered. They are the cloud's own Events about
//! volumes, their snapshots and backups, which are kept for a while and then go.

use std::collections::HashMap;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::image::Image;
use yunfan_resources::storage::{Volume, VolumeSnapshot};

use super::{PAGE, backups};
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::ok;
use crate::{ids, page, stamp};

/// How long an event is kept: Kubernetes' own time.
const KEPT: SignedDuration = SignedDuration::from_hours(1);
const SORT_KEYS: [&str; 6] = ["id", "event_id", "resource_uuid", "resource_type", "request_id", "created_at"];

/// An event as Cinder tells of it.
struct Message {
    id: String,
    /// Name of the Event.
    name: String,
    resource: &'static str,
    resource_id: String,
    event: &'static str,
    text: String,
    created: Timestamp,
    last: Timestamp,
}

/// What an event is about, in Cinder's words: the sort of resource, what was done, and the ids of both with that of the reason.
fn sort_of(kind: &str, reason: &str) -> Option<(&'static str, &'static str, &'static str)> {
    Some(match (kind, reason) {
        ("Volume", "FailedScheduling") => ("VOLUME", "schedule allocate volume", "VOLUME_VOLUME_001_003"),
        ("Volume", _) => ("VOLUME", "create volume from backend storage", "VOLUME_VOLUME_008_001"),
        ("VolumeSnapshot", _) => ("VOLUME_SNAPSHOT", "create snapshot", "VOLUME_VOLUME_SNAPSHOT_009_001"),
        ("Image", _) => ("VOLUME_BACKUP", "create backup", "VOLUME_VOLUME_BACKUP_013_001"),
        _ => return None,
    })
}

/// The message that an event is, with the ids of the project's objects by uid; `None` for an event of another sort.
fn message(event: &Event, known: &HashMap<String, String>) -> Option<Message> {
    if event.type_.as_deref() != Some("Warning") {
        return None;
    }
    let about = &event.involved_object;
    let uid = about.uid.as_deref()?;
    let (resource, action, id) =
        sort_of(about.kind.as_deref()?, event.reason.as_deref().unwrap_or_default())?;
    // An image is a backup, where it is known as one; the id of what is gone is its uid, as long as nobody chose another.
    let resource_id = match known.get(uid) {
        Some(id) => id.clone(),
        None if resource == "VOLUME_BACKUP" => return None,
        None => uid.to_owned(),
    };
    let created = stamp::created(event);
    let last = event.last_timestamp.as_ref().map_or(created, |last| last.0);
    Some(Message {
        id: event.metadata.uid.clone()?,
        name: ids::name(event).to_owned(),
        resource,
        resource_id,
        event: id,
        text: format!("{action}: {}", event.message.as_deref().unwrap_or_default()),
        created,
        last,
    })
}

/// The messages of the token's project.
async fn all(session: &Session, version: Microversion) -> Result<Vec<Message>, Fault> {
    if version < Microversion(3) {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    let warnings = ListParams::default().fields("type=Warning");
    let (events, volumes, snapshots, images) = (
        session.own::<Event>()?,
        session.own::<Volume>()?,
        session.own::<VolumeSnapshot>()?,
        session.own::<Image>()?,
    );
    let events = events.list(&warnings).await?.items;
    if events.is_empty() {
        return Ok(Vec::new());
    }
    let (volumes, snapshots, images) =
        tokio::try_join!(ids::list(&volumes), ids::list(&snapshots), ids::list(&images))?;
    fn pair<K: kube::Resource + Identified>(object: &K) -> (String, String) {
        (object.meta().uid.clone().unwrap_or_default(), object.id())
    }
    let backups = images.iter().filter(|image| backups::is_backup(image));
    let known: HashMap<String, String> =
        volumes.iter().map(pair).chain(snapshots.iter().map(pair)).chain(backups.map(pair)).collect();
    Ok(events.iter().filter_map(|event| message(event, &known)).collect())
}

fn view(session: &Session, message: &Message) -> Value {
    let (endpoint, id) = (&session.door.endpoint, &message.id);
    let until = message.last.checked_add(KEPT).unwrap_or(message.last);
    json!({
        "id": id, "event_id": message.event, "user_message": message.text, "message_level": "ERROR",
        "resource_type": message.resource, "resource_uuid": message.resource_id,
        // Who asked is not known any more when something fails.
        "request_id": "", "created_at": stamp::micros_bare(message.created),
        "guaranteed_until": stamp::micros_bare(until), "links": [
            {"rel": "self", "href": format!("{endpoint}/volume/v3/messages/{id}")},
            {"rel": "bookmark", "href": format!("{endpoint}/volume/messages/{id}")},
        ],
    })
}

async fn find(session: &Session, version: Microversion, id: &str) -> Result<Message, Fault> {
    let found = all(session, version).await?.into_iter().find(|message| message.id == id);
    found.ok_or_else(|| Fault::not_found("Message", id))
}

/// `GET /messages` (3.3)
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    let mut messages = all(&session, version).await?;
    messages.retain(|one| {
        let is = |key: &str, value: &str| params.get(key).is_none_or(|wanted| wanted == value);
        is("resource_uuid", &one.resource_id)
            && is("resource_type", one.resource)
            && is("event_id", one.event)
            && is("message_level", "ERROR")
            && is("request_id", "")
    });
    page::check_keys(&params, &SORT_KEYS)?;
    page::sort(&params, ("created_at", "desc"), &mut messages, |one, key| match key {
        "id" => Some(one.id.clone()),
        "event_id" => Some(one.event.to_owned()),
        "resource_uuid" => Some(one.resource_id.clone()),
        "resource_type" => Some(one.resource.to_owned()),
        "created_at" => Some(format!("{} {}", stamp::micros_bare(one.created), one.name)),
        _ => None,
    })?;
    let messages = page::offset(&params, messages)?;
    let (messages, next) = page::cut_full(&params, PAGE, messages, ("Message", |one| one.id.clone()))?;
    let views = messages.iter().map(|one| view(&session, one)).collect();
    let url = format!("{}/volume/v3/messages", session.door.endpoint);
    Ok(ok(&page::body("messages", views, (&url, &params, next.as_deref()))))
}

/// `GET /messages/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let message = find(&session, version, &id).await?;
    Ok(ok(&json!({"message": view(&session, &message)})))
}

/// `DELETE /messages/{id}`
pub(super) async fn delete(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let message = find(&session, version, &id).await?;
    match session.own::<Event>()?.delete(&message.name, &DeleteParams::default()).await {
        // Its time had come.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => drop(other?),
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_about_volumes_are_messages_and_others_are_none() {
        let event = |kind: &str, level: &str| -> Event {
            serde_json::from_value(json!({
                "metadata": {"name": "e", "uid": "u", "creationTimestamp": "2026-01-31T12:00:00Z"}, "type": level,
                "reason": "FailedScheduling", "message": "no node", "involvedObject": {"kind": kind, "uid": "v"},
            }))
            .unwrap()
        };
        let known = HashMap::from([("v".to_owned(), "id".to_owned())]);
        let told = message(&event("Volume", "Warning"), &known).unwrap();
        assert_eq!((told.resource_id.as_str(), told.event), ("id", "VOLUME_VOLUME_001_003"));
        assert_eq!(told.text, "schedule allocate volume: no node");
        assert!(message(&event("Volume", "Normal"), &known).is_none());
        assert!(message(&event("Pod", "Warning"), &known).is_none());
        // An image that is no backup.
        assert!(message(&event("Image", "Warning"), &HashMap::new()).is_none());
    }
}
