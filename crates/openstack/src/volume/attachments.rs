//! `/attachments` (3.27): who has volumes, and volumes that somebody keeps for one to come.
//!
//! A server gets a volume by Nova's door, as its machine's wish; here that is shown. What Cinder makes before (an attachment without a
//! connector) keeps the volume from all others until it is let go of; nothing but a server of this cloud can be connected to a volume.

use axum::extract::Path;
use axum::http::StatusCode;
use kube::api::{Patch, PatchParams};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::storage::Volume;

use super::PAGE;
use super::marks::{self, Reservation};
use super::outside;
use super::view::{Machines, attachment_id, status_of};
use super::volumes::find as find_volume;
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::ok;
use crate::{ids, page, stamp};

/// The version since which there are attachments, and that since which one says how it is used.
const BEGAN: Microversion = Microversion(27);
const MODES: Microversion = Microversion(54);

/// One attachment.
struct Held {
    id: String,
    volume: Volume,
    server: Option<String>,
    status: &'static str,
    since: String,
    mode: String,
}

fn served(version: Microversion) -> Result<(), Fault> {
    if version < BEGAN {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    Ok(())
}

/// The attachments of a volume: of servers that have it, are to have it or give it back, and one that is kept for later.
fn of(machines: &Machines, volume: &Volume) -> Vec<Held> {
    let mode = if volume.spec.read_only == Some(true) { "ro" } else { "rw" };
    let held = |server: Option<&str>, uid: &str, status, since| Held {
        id: attachment_id(&volume.id(), server.unwrap_or(uid)),
        volume: volume.clone(),
        server: server.map(str::to_owned),
        status,
        since,
        mode: mode.to_owned(),
    };
    let there: Vec<_> = volume.status.iter().flat_map(|status| &status.attachments).collect();
    let wish = machines.wish(volume);
    let mut all: Vec<Held> = there
        .iter()
        .map(|one| {
            let status = if wish == Some(one.uid.as_str()) { "attached" } else { "detaching" };
            let since = one.attached_at.as_ref().map(|at| stamp::micros_bare(at.0)).unwrap_or_default();
            held(machines.server(&one.uid), &one.uid, status, since)
        })
        .collect();
    if let Some(uid) = wish.filter(|uid| there.iter().all(|one| one.uid != *uid)) {
        all.push(held(machines.server(uid), uid, "attaching", String::new()));
    }
    if let Some(user) = outside::user(volume) {
        let (id, server, mode) = (user.id, user.server, user.mode);
        all.push(Held { id, server, mode, ..held(None, "", "attached", user.since) });
    }
    if let Some(kept) = marks::reservation(volume) {
        let mode = kept.mode.unwrap_or_else(|| mode.to_owned());
        all.push(Held {
            id: kept.id,
            server: kept.server,
            mode,
            ..held(None, "", "reserved", String::new())
        });
    }
    all
}

impl Held {
    fn brief(&self) -> Value {
        json!({"id": self.id, "status": self.status, "instance": self.server, "volume_id": self.volume.id()})
    }

    fn full(&self) -> Value {
        let mut view = self.brief();
        view["attached_at"] = json!(self.since);
        view["detached_at"] = json!("");
        view["attach_mode"] = json!(self.mode);
        view["connection_info"] = json!({});
        view
    }
}

/// Every attachment that the caller sees; of all projects only where an admin asks for them.
async fn all(session: &Session, everywhere: bool) -> Result<Vec<Held>, Fault> {
    let volumes = if everywhere { session.everywhere::<Volume>() } else { session.own()? };
    let namespace = if everywhere { None } else { Some(session.namespace()?) };
    let (volumes, machines) = tokio::try_join!(ids::list(&volumes), Machines::of_those(session, namespace))?;
    Ok(volumes.iter().flat_map(|volume| of(&machines, volume)).collect())
}

async fn find(session: &Session, version: Microversion, id: &str) -> Result<Held, Fault> {
    served(version)?;
    let missing = || Fault::new(StatusCode::NOT_FOUND, format!("Volume attachment {id} could not be found."));
    let own = all(session, false).await?.into_iter().find(|one| one.id == id);
    match own {
        None if session.is_admin() => {
            all(session, true).await?.into_iter().find(|one| one.id == id).ok_or_else(missing)
        }
        own => own.ok_or_else(missing),
    }
}

async fn collection(session: &Session, version: Microversion, params: &Params, detail: bool) -> Answer {
    served(version)?;
    let everywhere = params.flag("all_tenants")?.unwrap_or(false) && session.is_admin();
    let mut found = all(session, everywhere).await?;
    let is = |key: &str, value: Option<&str>| params.get(key).is_none_or(|wanted| value == Some(wanted));
    found.retain(|one| {
        let server = one.server.as_deref();
        is("status", Some(one.status))
            && is("attach_status", Some(one.status))
            && is("volume_id", Some(&one.volume.id()))
            && is("instance_id", server)
            && is("instance_uuid", server)
    });
    let found = page::offset(params, found)?;
    let (found, next) = page::cut(params, PAGE, found, |one| one.id.clone())?;
    let views: Vec<Value> = found.iter().map(|one| if detail { one.full() } else { one.brief() }).collect();
    let path = if detail { "attachments/detail" } else { "attachments" };
    let url = format!("{}/volume/v3/{path}", session.door.endpoint);
    Ok(ok(&page::body("attachments", views, (&url, params, next.as_deref()))))
}

/// `GET /attachments`
pub(super) async fn list(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, false).await
}

/// `GET /attachments/detail`
pub(super) async fn detail(session: Session, version: Microversion, params: Params) -> Answer {
    collection(&session, version, &params, true).await
}

/// `GET /attachments/{id}`
pub(super) async fn show(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    Ok(ok(&json!({"attachment": find(&session, version, &id).await?.full()})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    attachment: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    volume_uuid: String,
    #[serde(default)]
    instance_uuid: Option<String>,
    #[serde(default)]
    connector: Option<Value>,
    #[serde(default)]
    mode: Option<String>,
}

fn no_connection() -> Fault {
    Fault::unsupported(
        "Volumes are connected to servers of this cloud alone, by Nova: openstack server add volume.",
    )
}

/// `POST /attachments`: keeps a volume for a server to come. With a connector it would be connected to something else.
pub(super) async fn create(session: Session, version: Microversion, Json(body): Json<Body>) -> Answer {
    served(version)?;
    let wanted = body.attachment;
    if wanted.connector.as_ref().is_some_and(|connector| !connector.is_null() && *connector != json!({})) {
        return Err(no_connection());
    }
    if wanted.mode.is_some() && version < MODES {
        return Err(Fault::bad(
            "Invalid input for field/attribute attachment. Additional properties are not allowed ('mode' was unexpected)",
        ));
    }
    if wanted.mode.as_deref().is_some_and(|mode| !matches!(mode, "rw" | "ro")) {
        return Err(Fault::bad("Invalid input for field/attribute mode. It is rw or ro."));
    }
    if wanted.instance_uuid.as_deref().is_some_and(|id| uuid::Uuid::parse_str(id).is_err()) {
        return Err(Fault::bad("Invalid input for field/attribute instance_uuid. It is no UUID."));
    }
    let (volume, machines) = find_volume(&session, &wanted.volume_uuid).await?;
    let status = status_of(&machines, &volume, k8s_openapi::jiff::Timestamp::now());
    if status != "available" {
        return Err(Fault::bad(format!(
            "Invalid volume: Volume {} status must be available to reserve, but the current status is {status}.",
            wanted.volume_uuid
        )));
    }
    let id = uuid::Uuid::new_v4().to_string();
    let kept = Reservation { id: id.clone(), server: wanted.instance_uuid, mode: wanted.mode };
    let volume = reserve(&session, &volume, Some(&kept)).await?;
    let made = of(&machines, &volume).into_iter().find(|one| one.id == id);
    Ok(ok(&json!({"attachment": made.map(|one| one.full())})))
}

/// Writes or ends a reservation, of the volume as it was read.
async fn reserve(session: &Session, volume: &Volume, kept: Option<&impl Serialize>) -> Result<Volume, Fault> {
    let text = kept.map(|kept| json!(kept).to_string());
    let patch = json!({"metadata": {
        "resourceVersion": volume.metadata.resource_version, "annotations": {marks::RESERVATION: text},
    }});
    let volumes = session.within::<Volume>(ids::namespace(volume));
    Ok(volumes.patch(ids::name(volume), &PatchParams::default(), &Patch::Merge(patch)).await?)
}

/// `PUT /attachments/{id}`, which connects what a volume is kept for.
pub(super) async fn update(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    find(&session, version, &id).await?;
    Err(no_connection())
}

/// `POST /attachments/{id}/action`, which tells that what was connected uses the volume.
pub(super) async fn act(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    find(&session, version, &id).await?;
    Err(no_connection())
}

/// `DELETE /attachments/{id}`: lets go of what was kept. What a server has is Nova's to take, as in Cinder, or the server would go on with
/// a disk that is another's by then.
pub(super) async fn delete(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let held = find(&session, version, &id).await?;
    if held.status != "reserved" {
        return Err(Fault::conflict(format!(
            "Detach volume from instance {} using the Compute API",
            held.server.unwrap_or_default()
        )));
    }
    let volume = reserve(&session, &held.volume, None::<&Reservation>).await?;
    let machines = Machines::beside(&session, ids::namespace(&volume)).await?;
    let left: Vec<Value> = of(&machines, &volume).iter().map(Held::brief).collect();
    Ok(ok(&json!({"attachments": left})))
}
