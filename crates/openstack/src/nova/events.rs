//! `/os-server-external-events`: what other services tell Nova of its servers. Here parts talk through objects, and what a server shows is read
//! from them each time: so nothing is left to be done for an event, but that it is about a server that there is.

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::actions::admin_only;
use super::servers::find;
use crate::auth::Session;
use crate::body::Json;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::json_response;

/// The most events of one request.
const MOST: usize = 1000;
/// Events that are taken, since when, and whether they name what they are about. Those of bare metal, accelerators and reimaged volumes are not:
/// there is none of that.
const NAMES: [(&str, u32, bool); 5] = [
    ("network-changed", 1, false),
    ("network-vif-plugged", 1, false),
    ("network-vif-unplugged", 1, false),
    ("network-vif-deleted", 1, false),
    ("volume-extended", 51, true),
];
/// What an event may say of how it went.
const STATUSES: [&str; 3] = ["failed", "completed", "in-progress"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    events: Vec<Event>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    name: String,
    server_uuid: String,
    #[serde(default)]
    status: Option<String>,
    #[serde(default)]
    tag: Option<String>,
}

impl Event {
    fn check(&self, version: Microversion) -> Result<(), Fault> {
        let wrong = |field: &str, value: &str| {
            Err(Fault::bad(format!("Invalid input for field/attribute {field}. Value: {value}.")))
        };
        let known =
            NAMES.iter().any(|(name, since, _)| *name == self.name && version >= Microversion(*since));
        if !known {
            return wrong("name", &self.name);
        }
        if uuid::Uuid::parse_str(&self.server_uuid).is_err() {
            return wrong("server_uuid", &self.server_uuid);
        }
        match &self.status {
            Some(status) if !STATUSES.contains(&status.as_str()) => wrong("status", status),
            _ => Ok(()),
        }
    }

    /// What is told of it, with its code.
    fn told(&self, code: u16) -> Value {
        let mut view = Map::new();
        view.insert("name".into(), json!(self.name));
        view.insert("server_uuid".into(), json!(self.server_uuid));
        if let Some(tag) = &self.tag {
            view.insert("tag".into(), json!(tag));
        }
        let status = self.status.as_deref().unwrap_or("completed");
        view.insert("status".into(), json!(if code == 200 { status } else { "failed" }));
        view.insert("code".into(), json!(code));
        Value::Object(view)
    }

    /// Nova's code for it.
    async fn code(&self, session: &Session) -> Result<u16, Fault> {
        let named = NAMES.iter().any(|(name, _, tagged)| *name == self.name && *tagged);
        match find(session, &self.server_uuid).await {
            Ok(vm) if vm.spec.node_name.is_none() => Ok(422),
            Ok(_) if named && self.tag.is_none() => Ok(400),
            Ok(_) => Ok(200),
            Err(fault) if fault.status == StatusCode::NOT_FOUND => Ok(404),
            Err(fault) => Err(fault),
        }
    }
}

/// `POST /os-server-external-events`
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    admin_only(&session, "os_compute_api:os-server-external-events:create")?;
    if body.events.is_empty() || body.events.len() > MOST {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute events. It has 1 to {MOST} entries."
        )));
    }
    for event in &body.events {
        event.check(version)?;
    }
    let mut told = Vec::with_capacity(body.events.len());
    for event in &body.events {
        told.push(event.told(event.code(&session).await?));
    }
    let good = told.iter().filter(|event| event["code"] == 200).count();
    if told.iter().all(|event| event["code"] == 404) {
        return Err(Fault::new(StatusCode::NOT_FOUND, "No instances found for any event"));
    }
    let status = if good == told.len() { StatusCode::OK } else { StatusCode::MULTI_STATUS };
    Ok(json_response(status, &json!({"events": told})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_as_nova_tells_them() {
        let event = |text: &str| serde_json::from_str::<Event>(text).unwrap();
        let id = "1f0c6f3e-64a5-4c80-b3b0-9f3f0d8e2a11";
        let changed = event(&format!(r#"{{"name": "network-changed", "server_uuid": "{id}"}}"#));
        assert!(changed.check(Microversion(1)).is_ok());
        assert_eq!(
            changed.told(200),
            json!({"name": "network-changed", "server_uuid": id, "status": "completed", "code": 200})
        );
        assert_eq!(changed.told(404)["status"], "failed");
        let extended = event(&format!(r#"{{"name": "volume-extended", "server_uuid": "{id}", "tag": "v"}}"#));
        assert!(extended.check(Microversion(50)).is_err() && extended.check(Microversion(51)).is_ok());
        let power =
            event(&format!(r#"{{"name": "power-update", "server_uuid": "{id}", "tag": "POWER_ON"}}"#));
        assert!(power.check(Microversion(90)).is_err());
    }
}
