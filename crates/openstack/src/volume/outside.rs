//! `os-attach` and `os-detach`: whoever uses a volume without Nova says so, and keeps it from all others. As in Cinder that is a note
//! and no more: nothing is connected by it. A volume that a server of this cloud has is Nova's to detach.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::storage::Volume;

use super::marks;
use super::type_specs::admin_only;
use super::view::{Machines, status_of};
use crate::auth::Session;
use crate::error::{Answer, Fault};
use crate::{ids, stamp};

/// Annotation with who uses a volume: [`User`], JSON.
const USER: &str = "storage.yunfan.io/used-outside";

/// Who uses a volume.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct User {
    /// The attachment's id.
    pub(super) id: String,
    #[serde(default)]
    pub(super) server: Option<String>,
    #[serde(default)]
    host: Option<String>,
    /// Where they see it, `/dev/vdb`.
    #[serde(default)]
    device: Option<String>,
    pub(super) mode: String,
    /// When they said so.
    pub(super) since: String,
}

/// Who uses a volume, where somebody said so.
pub(super) fn user(volume: &Volume) -> Option<User> {
    serde_json::from_str(&marks::mark(volume, USER)?).ok()
}

/// As a volume's view shows it.
pub(super) fn view(volume: &Volume) -> Option<Value> {
    let (id, user) = (volume.id(), user(volume)?);
    Some(json!({
        "id": id, "attachment_id": user.id, "volume_id": id, "server_id": user.server, "host_name": user.host,
        "device": user.device, "attached_at": user.since,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attach {
    #[serde(default)]
    instance_uuid: Option<String>,
    #[serde(default)]
    host_name: Option<String>,
    mountpoint: String,
    #[serde(default)]
    mode: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Detach {
    #[serde(default)]
    attachment_id: Option<String>,
    #[serde(default)]
    connector: Option<Value>,
}

fn check(wanted: &Attach) -> Result<(), Fault> {
    if wanted.instance_uuid.is_none() && wanted.host_name.is_none() {
        return Err(Fault::bad("Invalid request to attach volume to an invalid target"));
    }
    if wanted.instance_uuid.as_deref().is_some_and(|id| uuid::Uuid::parse_str(id).is_err()) {
        return Err(Fault::bad("Invalid input for field/attribute instance_uuid. It is no UUID."));
    }
    ids::check_name("host_name", wanted.host_name.as_deref().unwrap_or_default(), true)?;
    ids::check_name("mountpoint", &wanted.mountpoint, false)?;
    if !matches!(wanted.mode.as_deref(), None | Some("rw" | "ro")) {
        return Err(Fault::bad("Invalid request to attach volume with an invalid mode. It is rw or ro."));
    }
    Ok(())
}

fn accepted() -> Answer {
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `os-attach`
pub(super) async fn attach(
    session: &Session,
    machines: &Machines,
    volume: &Volume,
    wanted: Attach,
) -> Answer {
    check(&wanted)?;
    let status = status_of(machines, volume, Timestamp::now());
    // One that was reserved for it, too.
    if status != "available" && !(status == "attaching" && machines.wish(volume).is_none()) {
        return Err(Fault::bad(format!(
            "Invalid volume: Volume {} status must be available to attach; it is {status}.",
            volume.id()
        )));
    }
    let read_only = volume.spec.read_only == Some(true);
    if read_only && wanted.mode.as_deref() == Some("rw") {
        return Err(Fault::bad("Invalid volume attach mode: the volume is read-only."));
    }
    let user = User {
        id: uuid::Uuid::new_v4().to_string(),
        server: wanted.instance_uuid,
        host: wanted.host_name,
        device: Some(wanted.mountpoint),
        mode: wanted.mode.unwrap_or_else(|| if read_only { "ro" } else { "rw" }.to_owned()),
        since: stamp::micros_bare(Timestamp::now()),
    };
    let marks = json!({USER: json!(user).to_string(), marks::STATUS: null, marks::RESERVATION: null});
    marks::write_as_read(session, volume, marks).await?;
    accepted()
}

/// `os-detach`, and by an admin `os-force_detach`: nobody uses it any more.
pub(super) async fn detach(
    session: &Session,
    machines: &Machines,
    volume: &Volume,
    (wanted, force): (Detach, bool),
) -> Answer {
    if force {
        admin_only(session, "volume_extension:volume_admin_actions:force_detach")?;
    }
    let connects = wanted.connector.as_ref().is_some_and(|connector| !connector.is_null());
    let Some(user) = user(volume) else {
        if machines.wish(volume).is_some()
            || volume.status.iter().any(|status| !status.attachments.is_empty())
        {
            return Err(Fault::conflict("Detach volume from instance using the Compute API"));
        }
        // Nobody uses it.
        return accepted();
    };
    if connects {
        return Err(Fault::unsupported("Nothing is connected to the volume; leave connector out."));
    }
    if wanted.attachment_id.is_some_and(|id| id != user.id) {
        return Err(Fault::bad("Invalid volume: the volume has no such attachment."));
    }
    marks::write(session, volume, json!({USER: null, marks::STATUS: null})).await?;
    accepted()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_uses_it_must_be_told() {
        let of = |server: Option<&str>, host: Option<&str>, mode: Option<&str>| {
            check(&Attach {
                instance_uuid: server.map(str::to_owned),
                host_name: host.map(str::to_owned),
                mountpoint: "/dev/vdb".into(),
                mode: mode.map(str::to_owned),
            })
        };
        assert!(of(None, Some("h"), None).is_ok());
        assert!(of(Some("11111111-1111-4111-8111-111111111111"), None, Some("ro")).is_ok());
        assert!(of(None, None, None).is_err() && of(Some("x"), None, None).is_err());
        assert!(of(None, Some("h"), Some("x")).is_err());
    }
}
