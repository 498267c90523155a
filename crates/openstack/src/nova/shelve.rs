//! `shelve`, `shelveOffload` and `unshelve`: a server off its node, with its root disk in an image, or in the volume that it boots from.
//!
//! The image is made first and named by the server then, in the very write that shelves it; one that no server names goes by itself.

use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::DeleteParams;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{RunState, VirtualMachine, VmPhase};
use yunfan_resources::image::{Image, ImagePhase};

use super::actions::admin_only;
use super::placing::zones;
use super::record::{self, unlocked};
use super::snapshot;
use super::state::{expect, state_of};
use crate::auth::Session;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::microversion::Microversion;
use crate::zone::ZONE;

/// VM states in which a server can be shelved.
const STATES: [&str; 4] = ["active", "stopped", "paused", "suspended"];

fn stands(vm: &VirtualMachine, action: &str, states: &[&str]) -> Result<(), Fault> {
    expect(action, &vm.id(), state_of(vm, Timestamp::now()), states)
}

/// `shelve`
pub(super) async fn shelve(session: &Session, vm: VirtualMachine) -> Answer {
    unlocked(session, &vm)?;
    stands(&vm, "shelve", &STATES)?;
    came_back(&vm)?;
    kept(session, vm, "shelve", &STATES).await
}

/// A server that was shelved before has run since: until then what it was shelved into may be the only copy of its disk.
fn came_back(vm: &VirtualMachine) -> Result<(), Fault> {
    let phase = vm.status.as_ref().map(|status| status.phase);
    if vm.spec.shelved_image.is_none() || matches!(phase, Some(VmPhase::Active | VmPhase::Paused)) {
        return Ok(());
    }
    Err(Fault::conflict(format!(
        "Cannot 'shelve' instance {}: it has not run since it was unshelved. Start it first.",
        vm.id()
    )))
}

/// `shelveOffload`: a shelved server leaves its node as soon as it can, so this is for one whose image there is not, or could not be made.
pub(super) async fn offload(session: &Session, vm: VirtualMachine) -> Answer {
    admin_only(session, "os_compute_api:os-shelve:shelve_offload")?;
    let id = vm.id();
    if state_of(&vm, Timestamp::now()).task == Some("shelving_offloading") {
        // It is just doing so.
        return Ok(StatusCode::ACCEPTED.into_response());
    }
    stands(&vm, "shelveOffload", &["shelved", "shelved_offloaded"])?;
    if vm.is_offloaded() {
        return Err(Fault::conflict(format!(
            "Cannot 'shelveOffload' instance {id} while it is in vm_state shelved_offloaded"
        )));
    }
    let images = session.within::<Image>(ids::namespace(&vm));
    let there = match vm.spec.shelved_image.as_deref() {
        Some(name) => images.get_opt(name).await?,
        None => None,
    };
    let comes = there.is_some_and(|image| image.status.unwrap_or_default().phase != ImagePhase::Failed);
    if comes || vm.boot_volume().is_some() {
        return record::change(session, vm, "shelveOffload", |_| Ok(json!({}))).await.map(|_| accepted());
    }
    kept(session, vm, "shelveOffload", &["shelved"]).await
}

fn accepted() -> axum::response::Response {
    StatusCode::ACCEPTED.into_response()
}

/// Shelves a server whose root disk is, or is to be, kept off its node.
async fn kept(session: &Session, vm: VirtualMachine, action: &str, states: &[&str]) -> Answer {
    let image = match vm.boot_volume() {
        Some(_) => None,
        None => Some(snapshot::for_shelving(session, &vm, action, states).await?),
    };
    let name = image.as_ref().map(|image| ids::name(image).to_owned());
    let images = session.within::<Image>(ids::namespace(&vm));
    let changed = record::change(session, vm, action, |vm| {
        stands(vm, action, states)?;
        if vm.spec.run_state != RunState::Shelved {
            came_back(vm)?;
        }
        Ok(json!({"runState": RunState::Shelved, "markedError": false, "shelvedImage": name}))
    });
    if let Err(fault) = changed.await {
        if let Some(name) = &name {
            // It would go by itself, later.
            let _ = images.delete(name, &DeleteParams::default()).await;
        }
        return Err(fault);
    }
    Ok(accepted())
}

/// `unshelve`
pub(super) async fn unshelve(
    session: &Session,
    version: Microversion,
    vm: VirtualMachine,
    argument: &Value,
) -> Answer {
    unlocked(session, &vm)?;
    let place = place(session, version, &vm, argument).await?;
    record::change(session, vm, "unshelve", |vm| {
        stands(vm, "unshelve", &["shelved", "shelved_offloaded"])?;
        let mut spec = json!({"runState": RunState::Running, "markedError": false});
        if !place.is_empty() {
            spec["placement"] = json!(place);
        }
        Ok(spec)
    })
    .await?;
    Ok(accepted())
}

/// Where a server is to run anew, as far as it is said: what changes in its placement.
async fn place(
    session: &Session,
    version: Microversion,
    vm: &VirtualMachine,
    argument: &Value,
) -> Result<Map<String, Value>, Fault> {
    let mut place = Map::new();
    let wrong = |what: &str| Err(Fault::bad(format!("Invalid input for field/attribute unshelve. {what}")));
    let Some(argument) = argument.as_object().filter(|argument| !argument.is_empty()) else {
        return if argument.is_null() || argument.is_object() {
            Ok(place)
        } else {
            wrong("It is no object.")
        };
    };
    let pins = version >= Microversion(91);
    for (key, value) in argument {
        match (key.as_str(), value) {
            ("availability_zone", Value::String(zone)) if version >= Microversion(77) => {
                place.insert("zone".into(), json!(zone));
            }
            ("availability_zone", Value::Null) if pins => {
                place.insert("zone".into(), Value::Null);
            }
            ("host", Value::String(host)) if pins => {
                admin_only(session, "os_compute_api:os-shelve:unshelve_to_host")?;
                place.insert("node".into(), json!(host));
            }
            _ => return wrong(&format!("Additional properties are not allowed ('{key}' was unexpected)")),
        }
    }
    if !vm.is_offloaded() {
        let status = state_of(vm, Timestamp::now()).status;
        return Err(Fault::conflict(format!(
            "Specifying an availability zone or a host when unshelving server {} with status \"{status}\" is not supported, status must be SHELVED_OFFLOADED.",
            vm.id()
        )));
    }
    let zones = zones(session).await?;
    if let Some(zone) = place.get("zone").and_then(Value::as_str)
        && zone != ZONE
        && !zones.values().any(|known| known == zone)
    {
        return Err(Fault::bad(format!("The requested availability zone {zone} is not available")));
    }
    if let Some(host) = place.get("node").and_then(Value::as_str)
        && !zones.contains_key(host)
    {
        return Err(Fault::bad(format!("Compute host {host} could not be found.")));
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use yunfan_resources::compute::VirtualMachineStatus;

    use super::*;

    #[test]
    fn a_server_is_shelved_again_only_once_it_has_run() {
        let mut vm = VirtualMachine::new("vm", Default::default());
        let status = |phase| Some(VirtualMachineStatus { phase, ..VirtualMachineStatus::default() });
        vm.status = status(VmPhase::Stopped);
        assert!(came_back(&vm).is_ok(), "it never was shelved");
        vm.spec.shelved_image = Some("web-shelved".into());
        assert!(came_back(&vm).is_err(), "its disk may be there alone");
        vm.status = status(VmPhase::Active);
        assert!(came_back(&vm).is_ok());
    }
}
