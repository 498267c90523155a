//! `/servers/{id}/os-volume_attachments`: volumes that a server has. An attachment is a wish in the VirtualMachine's spec, which the
//! node carries out.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{VirtualMachine, VolumeAttachment};
use yunfan_resources::storage::{MAX_VOLUMES, Volume};

use super::actions::expect;
use super::servers::find;
use super::view::state_of;
use crate::auth::Session;
use crate::body::{Json, Params};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::page::{self, Limits};
use crate::versions::ok;
use crate::{ids, volume};

/// The root disk's device.
pub(super) const ROOT: &str = "/dev/vda";
/// Tries of one write while others write the same machine.
const TRIES: usize = 5;
/// States in which volumes come and go.
const STATES: [&str; 2] = ["ACTIVE", "SHUTOFF"];
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
    let machines = ids::list(&session.within::<VirtualMachine>(namespace)).await?;
    let status = volume::status_of(&volume::Machines::new(&machines), &volume, Timestamp::now());
    if status != "available" {
        return Err(Fault::bad(format!(
            "Invalid volume: volume '{id}' status must be 'available'. Currently in '{status}' status."
        )));
    }
    Ok(volume)
}

fn view(version: Microversion, vm: &VirtualMachine, volume: &str, wish: &VolumeAttachment) -> Value {
    let mut view = json!({"id": volume, "volumeId": volume, "serverId": vm.id(), "device": wish.device});
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

/// `GET /servers/{id}/os-volume_attachments`
pub(super) async fn list(
    session: Session,
    version: Microversion,
    params: Params,
    Path(id): Path<String>,
) -> Answer {
    let vm = find(&session, &id).await?;
    let all = of(&session, &vm).await?;
    let (all, _) = page::cut(&params, PAGE, all, |(id, _)| id.clone())?;
    let views: Vec<Value> = all.iter().map(|(volume, wish)| view(version, &vm, volume, wish)).collect();
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
    let all = of(&session, &vm).await?;
    let (_, wish) = all.iter().find(|(own, _)| *own == volume).ok_or_else(|| not_attached(&id, &volume))?;
    Ok(ok(&json!({"volumeAttachment": view(version, &vm, &volume, wish)})))
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
            None => Ok(()),
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
        })
    };
    let changed = change(&session, vm, |vm| {
        let mut all = vm.spec.volumes.clone();
        all.push(wish(vm)?);
        Ok(all)
    })
    .await?;
    let all = of(&session, &changed).await?;
    let (_, made) =
        all.iter().find(|(own, _)| *own == fields.volume).ok_or_else(|| not_attached(&id, &fields.volume))?;
    Ok(ok(&json!({"volumeAttachment": view(version, &changed, &fields.volume, made)})))
}

/// `DELETE /servers/{id}/os-volume_attachments/{volume}`
pub(super) async fn delete(session: Session, Path((id, volume)): Path<(String, String)>) -> Answer {
    let vm = find(&session, &id).await?;
    let all = of(&session, &vm).await?;
    let (_, wish) = all.iter().find(|(own, _)| *own == volume).ok_or_else(|| not_attached(&id, &volume))?;
    if wish.boot {
        return Err(Fault::forbidden("Cannot detach a root device volume"));
    }
    expect("detach_volume", &id, state_of(&vm, Timestamp::now()), &STATES)?;
    let name = wish.volume.clone();
    change(&session, vm, |vm| {
        Ok(vm.spec.volumes.iter().filter(|wish| wish.volume != name).cloned().collect())
    })
    .await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Writes a machine's list of volumes, made anew from the machine as it is whenever somebody else was faster.
async fn change(
    session: &Session,
    vm: VirtualMachine,
    list: impl Fn(&VirtualMachine) -> Result<Vec<VolumeAttachment>, Fault>,
) -> Result<VirtualMachine, Fault> {
    let machines = session.within::<VirtualMachine>(ids::namespace(&vm));
    let mut seen = vm;
    for tries_left in (0..TRIES).rev() {
        let patch = Patch::Merge(json!({
            "metadata": {"uid": seen.metadata.uid, "resourceVersion": seen.metadata.resource_version},
            "spec": {"volumes": list(&seen)?},
        }));
        match machines.patch(ids::name(&seen), &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 409 && tries_left > 0 => {
                seen = machines.get(ids::name(&seen)).await?;
            }
            other => return Ok(other?),
        }
    }
    Err(Fault::conflict("The server is being changed by others; try again."))
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
        let shown = |version| view(Microversion(version), &vm, "v", &VolumeAttachment::default());
        assert!(shown(69).get("tag").is_none() && shown(79).get("delete_on_termination").is_some());
    }
}
