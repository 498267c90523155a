//! `/servers/{id}/os-volume_attachments`: volumes that a server has. An attachment is a wish in the VirtualMachine's spec, which the
//! node carries out.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{VirtualMachine, VolumeAttachment};
use yunfan_resources::storage::{MAX_VOLUMES, Volume};

use super::record::{self, unlocked};
use super::servers::find;
use super::state::{expect, state_of};
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::page::{self, Limits};
use crate::versions::ok;
use crate::{ids, volume};

/// The root disk's device.
pub(super) const ROOT: &str = "/dev/vda";
/// VM states in which volumes come and go.
const STATES: [&str; 6] = ["active", "paused", "stopped", "resized", "shelved", "shelved_offloaded"];
const PAGE: Limits = Limits { default: 1000, max: 1000 };

/// The first device name after the root disk's that is not taken.
pub(super) fn free_device<'a>(taken: impl Iterator<Item = &'a str>) -> Result<String, Fault> {
    let taken: Vec<&str> = taken.collect();
    let names = (b'b'..).take(MAX_VOLUMES).map(|letter| format!("/dev/vd{}", char::from(letter)));
    let mut free = names.filter(|name| !taken.contains(&name.as_str()));
    // Nova's words for its own limit.
    free.next().ok_or_else(|| {
        Fault::forbidden(format!(
            "The maximum allowed number of disk devices ({}) to attach to a single instance has been exceeded.",
            MAX_VOLUMES + 1
        ))
    })
}

/// The volume with this id in a namespace, if nobody has it.
pub(super) async fn available(session: &Session, namespace: &str, id: &str) -> Result<Volume, Fault> {
    let volume = session.find(&session.within::<Volume>(namespace), id).await?;
    let volume = volume.ok_or_else(|| Fault::not_found("Volume", id))?;
    let machines = volume::Machines::beside(session, namespace).await?;
    let status = volume::status_of(&machines, &volume, Timestamp::now());
    if status != "available" {
        return Err(Fault::bad(format!(
            "Invalid volume: volume '{id}' status must be 'available'. Currently in '{status}' status."
        )));
    }
    Ok(volume)
}

fn view(
    version: Microversion,
    vm: &VirtualMachine,
    volume: &str,
    wish: &VolumeAttachment,
    made: bool,
) -> Value {
    let mut view = json!({"id": volume, "volumeId": volume, "serverId": vm.id(), "device": wish.device});
    if version >= Microversion(89) && !made {
        // An attachment has no object of its own: its ids are made from what it joins.
        view["attachment_id"] = json!(volume::attachment_id(volume, &vm.id()));
        view["bdm_uuid"] = json!(ids::stable_uuid(&format!("device {} {volume}", vm.id())));
        drop(view.as_object_mut().and_then(|view| view.remove("id")));
    }
    if version >= Microversion(70) {
        view["tag"] = json!(wish.tag);
    }
    if version >= Microversion(79) {
        view["delete_on_termination"] = json!(wish.delete_on_termination);
    }
    view
}

/// A machine's volumes, each with its id.
async fn of(session: &Session, vm: &VirtualMachine) -> Result<Vec<(String, VolumeAttachment)>, Fault> {
    let volumes = ids::list(&session.within::<Volume>(ids::namespace(vm))).await?;
    let id = |name: &str| volumes.iter().find(|volume| ids::name(*volume) == name).map(Identified::id);
    Ok(vm.spec.volumes.iter().filter_map(|wish| Some((id(&wish.volume)?, wish.clone()))).collect())
}

/// The same, and those that the machine has still, though they are being taken from it: as long as one is listed, it is not detached.
async fn held(session: &Session, vm: &VirtualMachine) -> Result<Vec<(String, VolumeAttachment)>, Fault> {
    let volumes = ids::list(&session.within::<Volume>(ids::namespace(vm))).await?;
    let wished = |name: &str| vm.spec.volumes.iter().find(|wish| wish.volume == name).cloned();
    let leaving = |volume: &Volume| {
        let kept = volume.status.iter().flat_map(|status| &status.attachments);
        let uid = vm.metadata.uid.as_deref().unwrap_or_default();
        let kept = kept.into_iter().find(|attachment| attachment.uid == uid)?;
        let volume = ids::name(volume).to_owned();
        Some(VolumeAttachment { volume, device: kept.device.clone(), ..VolumeAttachment::default() })
    };
    let of = |volume: &Volume| wished(ids::name(volume)).or_else(|| leaving(volume));
    Ok(volumes.iter().filter_map(|volume| Some((volume.id(), of(volume)?))).collect())
}

/// `GET /servers/{id}/os-volume_attachments`
pub(super) async fn list(
    session: Session,
    version: Microversion,
    params: Params,
    Path(id): Path<String>,
) -> Answer {
    let vm = find(&session, &id).await?;
    let all = held(&session, &vm).await?;
    let (all, _) = page::cut(&params, PAGE, all, |(id, _)| id.clone())?;
    let views: Vec<Value> =
        all.iter().map(|(volume, wish)| view(version, &vm, volume, wish, false)).collect();
    Ok(ok(&json!({"volumeAttachments": views})))
}

fn not_attached(server: &str, volume: &str) -> Fault {
    let message = format!("Instance {server} is not attached to volume {volume}: volume_id not found.");
    Fault::new(StatusCode::NOT_FOUND, message)
}

/// `GET /servers/{id}/os-volume_attachments/{volume}`
pub(super) async fn show(
    session: Session,
    version: Microversion,
    Path((id, volume)): Path<(String, String)>,
) -> Answer {
    let vm = find(&session, &id).await?;
    let all = held(&session, &vm).await?;
    let (_, wish) = all.iter().find(|(own, _)| *own == volume).ok_or_else(|| not_attached(&id, &volume))?;
    Ok(ok(&json!({"volumeAttachment": view(version, &vm, &volume, wish, false)})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    #[serde(rename = "volumeAttachment")]
    attachment: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(rename = "volumeId")]
    volume: String,
    /// A hint, which Nova's own driver leaves aside too: the guest's kernel gives the name.
    #[serde(default, rename = "device")]
    _device: Option<String>,
    #[serde(default)]
    tag: Option<String>,
    #[serde(default)]
    delete_on_termination: Option<bool>,
}

impl Fields {
    fn check(&self, version: Microversion) -> Result<(), Fault> {
        let unknown = [
            ("tag", self.tag.is_some() && version < Microversion(49)),
            ("delete_on_termination", self.delete_on_termination.is_some() && version < Microversion(79)),
        ];
        match unknown.iter().find(|(_, refused)| *refused) {
            Some((field, _)) => Err(Fault::bad(format!(
                "Invalid input for field/attribute volumeAttachment. Additional properties are not allowed ('{field}' was unexpected)"
            ))),
            None => super::tags::check_device(version, "volumeAttachment", 32, self.tag.as_ref()),
        }
    }
}

/// `POST /servers/{id}/os-volume_attachments`
pub(super) async fn create(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Body>,
) -> Answer {
    let fields = body.attachment;
    fields.check(version)?;
    let vm = find(&session, &id).await?;
    unlocked(&session, &vm)?;
    expect("attach_volume", &id, state_of(&vm, Timestamp::now()), &STATES)?;
    let volume = available(&session, ids::namespace(&vm), &fields.volume).await?;
    let wish = |vm: &VirtualMachine| -> Result<VolumeAttachment, Fault> {
        let taken = vm.spec.volumes.iter().filter_map(|wish| wish.device.as_deref());
        Ok(VolumeAttachment {
            volume: ids::name(&volume).to_owned(),
            boot: false,
            delete_on_termination: fields.delete_on_termination.unwrap_or(false),
            device: Some(free_device(taken)?),
            tag: fields.tag.clone(),
            limits: None,
        })
    };
    let changed = change(&session, vm, "attach_volume", |vm| {
        let mut all = vm.spec.volumes.clone();
        all.push(wish(vm)?);
        Ok(all)
    })
    .await?;
    let all = of(&session, &changed).await?;
    let (_, made) =
        all.iter().find(|(own, _)| *own == fields.volume).ok_or_else(|| not_attached(&id, &fields.volume))?;
    Ok(ok(&json!({"volumeAttachment": view(version, &changed, &fields.volume, made, true)})))
}

/// `DELETE /servers/{id}/os-volume_attachments/{volume}`
pub(super) async fn delete(session: Session, Path((id, volume)): Path<(String, String)>) -> Answer {
    let vm = find(&session, &id).await?;
    let all = of(&session, &vm).await?;
    let (_, wish) = all.iter().find(|(own, _)| *own == volume).ok_or_else(|| not_attached(&id, &volume))?;
    if wish.boot {
        return Err(Fault::forbidden("Cannot detach a root device volume"));
    }
    unlocked(&session, &vm)?;
    expect("detach_volume", &id, state_of(&vm, Timestamp::now()), &STATES)?;
    let name = wish.volume.clone();
    change(&session, vm, "detach_volume", |vm| {
        Ok(vm.spec.volumes.iter().filter(|wish| wish.volume != name).cloned().collect())
    })
    .await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UpdateBody {
    #[serde(rename = "volumeAttachment")]
    attachment: UpdateFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateFields {
    #[serde(rename = "volumeId")]
    volume: String,
    #[serde(default)]
    id: Option<String>,
    #[serde(default, rename = "serverId")]
    server: Option<String>,
    #[serde(default, rename = "device")]
    device: Option<String>,
    #[serde(default)]
    tag: Option<String>,
    #[serde(default)]
    delete_on_termination: Option<bool>,
}

/// `PUT /servers/{id}/os-volume_attachments/{volume}` (2.85): whether the volume goes with the server. To put another volume in
/// its place is not served.
pub(super) async fn update(
    session: Session,
    version: Microversion,
    Path((id, volume)): Path<(String, String)>,
    Json(body): Json<UpdateBody>,
) -> Answer {
    let wanted = body.attachment;
    let vm = find(&session, &id).await?;
    let all = of(&session, &vm).await?;
    let (_, wish) = all.iter().find(|(own, _)| *own == volume).ok_or_else(|| not_attached(&id, &volume))?;
    if wanted.volume != volume {
        return Err(Fault::unsupported(
            "A volume can't be put in the place of another while the server has it.",
        ));
    }
    let fixed = wanted.id.is_some_and(|own| own != volume)
        || wanted.server.is_some_and(|own| own != id)
        || wanted.device.is_some_and(|own| Some(&own) != wish.device.as_ref())
        || wanted.tag.is_some_and(|own| Some(&own) != wish.tag.as_ref());
    let Some(delete) = wanted.delete_on_termination.filter(|_| version >= Microversion(85) && !fixed) else {
        return Err(Fault::bad(
            "Invalid input for field/attribute volumeAttachment. delete_on_termination alone can be changed, since 2.85",
        ));
    };
    unlocked(&session, &vm)?;
    let name = wish.volume.clone();
    change(&session, vm, "", |vm| {
        let mut all = vm.spec.volumes.clone();
        all.iter_mut()
            .filter(|wish| wish.volume == name)
            .for_each(|wish| wish.delete_on_termination = delete);
        Ok(all)
    })
    .await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Writes a machine's list of volumes.
async fn change(
    session: &Session,
    vm: VirtualMachine,
    word: &str,
    list: impl Fn(&VirtualMachine) -> Result<Vec<VolumeAttachment>, Fault>,
) -> Result<VirtualMachine, Fault> {
    record::change(session, vm, word, |vm| Ok(json!({"volumes": list(vm)?}))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_given_in_order_and_are_not_without_end() {
        assert_eq!(free_device(["/dev/vdb", "/dev/vdd"].into_iter()).unwrap(), "/dev/vdc");
        let all: Vec<String> = (b'b'..=b'i').map(|c| format!("/dev/vd{}", char::from(c))).collect();
        let fault = free_device(all.iter().map(String::as_str)).unwrap_err();
        assert_eq!(fault.status, StatusCode::FORBIDDEN);
    }

    #[test]
    fn members_follow_the_microversion() {
        let fields = |tag: Option<&str>| Fields {
            volume: "v".into(),
            _device: None,
            tag: tag.map(str::to_owned),
            delete_on_termination: None,
        };
        assert!(fields(Some("data")).check(Microversion(48)).is_err());
        assert!(fields(Some("data")).check(Microversion(49)).is_ok());
        let vm = VirtualMachine::new("vm", Default::default());
        let shown = |version| view(Microversion(version), &vm, "v", &VolumeAttachment::default(), false);
        assert!(shown(88).get("id").is_some() && shown(89).get("id").is_none());
        assert!(shown(69).get("tag").is_none() && shown(79).get("delete_on_termination").is_some());
    }
}
