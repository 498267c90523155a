//! `POST /servers/{id}/action`: what servers can be told. `rebirth` has the actions that give one another disk or size.

use axum::body::Body;
use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::DeleteParams;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{RebootKind, RunState, VirtualMachine};

use super::neutron::Neutron;
use super::record::{self, unlocked};
use super::servers::find;
use super::state::{State, expect, state_of};
use super::{consoles, groups, old_addresses, rebirth, shelve, snapshot};
use crate::auth::Session;
use crate::body::{Json, parse_value};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::ok;
use crate::{ids, nodes};

/// The most lines of a console that are asked for.
const MAX_LINES: i64 = 100_000;
/// Actions of Nova that this cloud does not serve.
const UNSERVED: [&str; 4] = ["migrate", "os-migrateLive", "evacuate", "trigger_crash_dump"];
/// The microversion that ended the actions on floating and fixed IPs.
const NO_FLOATING: Microversion = Microversion(44);
/// Actions that ended with a microversion: from that one on there are none of these.
const ENDED: [(&str, u32); 5] = [
    ("os-getVNCConsole", 6),
    ("os-getSPICEConsole", 6),
    ("os-getRDPConsole", 6),
    ("os-getSerialConsole", 6),
    ("os-resetNetwork", 95),
];
/// Moves between wishes: the action, the VM states that it is for, and what is wished then.
const MOVES: [(&str, &[&str], RunState); 6] = [
    ("os-start", &["stopped"], RunState::Running),
    ("os-stop", &["active", "error"], RunState::Stopped),
    ("pause", &["active"], RunState::Paused),
    ("unpause", &["paused"], RunState::Running),
    ("suspend", &["active"], RunState::Suspended),
    ("resume", &["suspended"], RunState::Running),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reboot {
    r#type: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Console {
    #[serde(default)]
    length: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Lock {
    #[serde(default)]
    locked_reason: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResetState {
    state: String,
}

/// `POST /servers/{id}/action`
pub(super) async fn act(
    session: Session,
    version: Microversion,
    neutron: Neutron,
    Path(id): Path<String>,
    Json(body): Json<Map<String, Value>>,
) -> Answer {
    let (action, argument) = crate::body::action(body)?;
    if let Some((_, since)) = ENDED.iter().find(|(word, _)| *word == action) {
        let is_over = version >= Microversion(*since);
        if is_over || consoles::protocol_of(&action).is_none() {
            return Err(ended(&action, is_over));
        }
    }
    let vm = find(&session, &id).await?;
    if let Some(protocol) = consoles::protocol_of(&action) {
        return consoles::act(&session, &vm, protocol, argument).await;
    }
    if let Some(found) = MOVES.iter().find(|(word, ..)| *word == action) {
        return move_to(&session, vm, found).await;
    }
    match action.as_str() {
        "createImage" => snapshot::create(&session, version, vm, parse_value(argument)?).await,
        "createBackup" => snapshot::backup(&session, version, vm, parse_value(argument)?).await,
        "reboot" => reboot(&session, vm, parse_value(argument)?).await,
        "lock" => lock(&session, version, vm, argument).await,
        "unlock" => unlock(&session, vm).await,
        "os-resetState" => reset_state(&session, vm, parse_value(argument)?).await,
        "forceDelete" => force_delete(&session, &vm).await,
        "restore" => {
            let state = now(&vm);
            expect(&action, &id, state, &["soft-delete"])?;
            Err(Fault::conflict(format!("Instance {id} was not deleted.")))
        }
        "rebuild" => rebirth::rebuild(&session, version, vm, parse_value(argument)?).await,
        "resize" => rebirth::resize(&session, vm, parse_value(argument)?).await,
        "confirmResize" => rebirth::confirm(&session, vm).await,
        "revertResize" => rebirth::revert(&session, vm).await,
        "shelve" => shelve::shelve(&session, vm).await,
        "shelveOffload" => shelve::offload(&session, vm).await,
        "unshelve" => shelve::unshelve(&session, version, vm, &argument).await,
        "rescue" => rebirth::rescue(&session, vm, argument).await,
        "unrescue" => rebirth::unrescue(&session, vm).await,
        "changePassword" => {
            // As Nova's libvirt driver where the guest has no agent.
            Err(Fault::conflict(format!(
                "Failed to set admin password on {id} because QEMU guest agent is not enabled"
            )))
        }
        "addSecurityGroup" => groups::add(&session, &vm, parse_value(argument)?).await,
        "removeSecurityGroup" => groups::remove(&session, &vm, parse_value(argument)?).await,
        "injectNetworkInfo" => {
            admin_only(&session, "os_compute_api:os-admin-actions:inject_network_info")?;
            expect(&action, &id, now(&vm), &[])?;
            // What the network tells a guest is always what its Ports say.
            accepted()
        }
        "addFloatingIp" if version < NO_FLOATING => {
            old_addresses::associate(&session, &neutron, &vm, argument).await
        }
        "removeFloatingIp" if version < NO_FLOATING => {
            old_addresses::disassociate(&neutron, &vm, argument).await
        }
        "addFixedIp" if version < NO_FLOATING => old_addresses::add_fixed(&session, &vm, argument).await,
        "removeFixedIp" if version < NO_FLOATING => {
            old_addresses::remove_fixed(&session, &vm, argument).await
        }
        "addFloatingIp" | "removeFloatingIp" | "addFixedIp" | "removeFixedIp" => Err(ended(&action, true)),
        "os-getConsoleOutput" => console(&session, &vm, parse_value(argument)?).await,
        word if UNSERVED.contains(&word) => {
            Err(Fault::unsupported(format!("The action {word} is not served by this cloud.")))
        }
        word => Err(Fault::bad(format!("There is no such action: {word}"))),
    }
}

/// What is said of an action of Nova's older microversions.
fn ended(action: &str, is_over: bool) -> Fault {
    if is_over {
        return Fault::new(StatusCode::NOT_FOUND, "The resource could not be found.");
    }
    Fault::unsupported(format!("The action {action} is not served by this cloud."))
}

fn now(vm: &VirtualMachine) -> State {
    state_of(vm, Timestamp::now())
}

fn accepted() -> Answer {
    Ok(StatusCode::ACCEPTED.into_response())
}

/// Starts, stops, halts and lets go on.
async fn move_to(
    session: &Session,
    vm: VirtualMachine,
    (action, states, wish): &(&str, &[&str], RunState),
) -> Answer {
    unlocked(session, &vm)?;
    let id = vm.id();
    record::change(session, vm, word(action), |vm| {
        expect(action, &id, now(vm), states)?;
        Ok(json!({"runState": wish, "markedError": false}))
    })
    .await?;
    accepted()
}

/// The word under which an action is remembered.
fn word(action: &str) -> &str {
    action.trim_start_matches("os-")
}

async fn reboot(session: &Session, vm: VirtualMachine, wanted: Reboot) -> Answer {
    let kind = match wanted.r#type.to_ascii_uppercase().as_str() {
        "SOFT" => RebootKind::Soft,
        "HARD" => RebootKind::Hard,
        other => {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute type. {other} is neither SOFT nor HARD."
            )));
        }
    };
    unlocked(session, &vm)?;
    let id = vm.id();
    record::change(session, vm, "reboot", |vm| {
        let mut state = now(vm);
        let hard = kind == RebootKind::Hard;
        if hard && matches!(state.task, Some("rebooting" | "rebooting_hard")) {
            state.task = None;
        }
        let anywhere = ["active", "stopped", "paused", "suspended", "error"];
        expect("reboot", &id, state, if hard { &anywhere } else { &anywhere[..1] })?;
        let mut spec = json!({
            "rebootGeneration": vm.spec.reboot_generation.saturating_add(1), "rebootKind": kind,
        });
        if hard {
            // Whatever it was doing, it runs afterwards.
            spec["runState"] = json!(RunState::Running);
            spec["markedError"] = json!(false);
        }
        Ok(spec)
    })
    .await?;
    accepted()
}

async fn lock(session: &Session, version: Microversion, vm: VirtualMachine, argument: Value) -> Answer {
    let wanted = if argument.is_null() { Lock::default() } else { parse_value::<Lock>(argument)? };
    if wanted.locked_reason.is_some() && version < Microversion(73) {
        return Err(Fault::bad(
            "Invalid input for field/attribute lock. Additional properties are not allowed ('locked_reason' was unexpected)",
        ));
    }
    if wanted.locked_reason.as_ref().is_some_and(|reason| reason.chars().count() > 255) {
        return Err(Fault::bad(
            "Invalid input for field/attribute locked_reason. It is too long: 255 characters at most.",
        ));
    }
    let own = is_own(session, &vm);
    // Without a reason in it, a merge would keep that of the lock before.
    let lock = json!({"byAdmin": session.is_admin() && !own, "reason": wanted.locked_reason});
    record::change(session, vm, "lock", |vm| {
        // As in Nova, whose own server it is changes no lock that is there: it may be an administrator's.
        let stays = vm.spec.lock.is_some() && (own || !session.is_admin());
        Ok(if stays { json!({}) } else { json!({"lock": lock}) })
    })
    .await?;
    accepted()
}

/// Whether a machine is of the project of the caller's token.
fn is_own(session: &Session, vm: &VirtualMachine) -> bool {
    session.namespace().is_ok_and(|own| own == ids::namespace(vm))
}

async fn unlock(session: &Session, vm: VirtualMachine) -> Answer {
    record::change(session, vm, "unlock", |vm| {
        if vm.spec.lock.as_ref().is_some_and(|lock| lock.by_admin) && !session.is_admin() {
            return Err(Fault::forbidden(
                "Policy doesn't allow os_compute_api:os-lock-server:unlock:unlock_override to be performed.",
            ));
        }
        Ok(json!({"lock": null}))
    })
    .await?;
    accepted()
}

/// Refuses what only administrators may ask for.
pub(super) fn admin_only(session: &Session, policy: &str) -> Result<(), Fault> {
    if session.is_admin() {
        return Ok(());
    }
    Err(Fault::forbidden(format!("Policy doesn't allow {policy} to be performed.")))
}

async fn reset_state(session: &Session, vm: VirtualMachine, wanted: ResetState) -> Answer {
    admin_only(session, "os_compute_api:os-admin-actions:reset_state")?;
    let error = match wanted.state.as_str() {
        "active" => false,
        "error" => true,
        other => {
            return Err(Fault::bad(format!(
                "Invalid input for field/attribute state. {other} is neither active nor error."
            )));
        }
    };
    record::change(session, vm, "", |_| Ok(json!({"markedError": error}))).await?;
    accepted()
}

/// Nothing is kept of a deleted server here, so that this is the deletion itself.
async fn force_delete(session: &Session, vm: &VirtualMachine) -> Answer {
    unlocked(session, vm)?;
    let machines = session.within::<VirtualMachine>(ids::namespace(vm));
    machines.delete(ids::name(vm), &DeleteParams::default()).await?;
    accepted()
}

async fn console(session: &Session, vm: &VirtualMachine, wanted: Console) -> Answer {
    let lines = match wanted.length {
        None | Some(Value::Null) => None,
        Some(Value::Number(number)) => Some(number.as_i64().ok_or_else(bad_length)?),
        Some(Value::String(text)) => Some(text.parse::<i64>().map_err(|_| bad_length())?),
        Some(_) => return Err(bad_length()),
    };
    let (Some(node), Some(uid)) = (&vm.spec.node_name, &vm.metadata.uid) else {
        return Err(Fault::conflict(format!("Instance {} is not ready", vm.id())));
    };
    let path = match lines {
        // -1 is Nova's word for all of it.
        None | Some(-1) => format!("/console/{uid}"),
        Some(lines @ 0..=MAX_LINES) => format!("/console/{uid}?length={lines}"),
        Some(_) => return Err(bad_length()),
    };
    let response = nodes::ask(&*session.door.nodes, node, Method::GET, &path, Body::empty()).await?;
    let output = nodes::text(response).await?;
    // What a terminal may do to who reads it, apart from lines and colours, is taken out.
    let output: String =
        output.chars().filter(|c| *c >= ' ' || matches!(c, '\n' | '\r' | '\t' | '\x1b')).collect();
    Ok(ok(&json!({"output": tail(&output, lines.and_then(|lines| usize::try_from(lines).ok()))})))
}

/// The end of a text, counted as Nova counts it: what follows the last line's end is a line, too, if an empty one.
fn tail(text: &str, lines: Option<usize>) -> &str {
    let Some(lines) = lines else { return text };
    let Some(before) = lines.checked_sub(1) else { return "" };
    text.rmatch_indices('\n').nth(before).map_or(text, |(at, _)| &text[at + 1..])
}

fn bad_length() -> Fault {
    Fault::bad(format!(
        "Invalid input for field/attribute length. It is a number of lines up to {MAX_LINES}, or -1 for all."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_end_with_their_microversion() {
        assert_eq!(ended("addFixedIp", true).status, StatusCode::NOT_FOUND);
        assert_eq!(ended("os-resetNetwork", false).status, StatusCode::NOT_IMPLEMENTED);
    }

    #[test]
    fn the_end_of_a_console_has_so_many_lines() {
        let text = "a\nb\nc\n";
        assert_eq!(tail(text, Some(3)), "b\nc\n");
        assert_eq!((tail(text, Some(9)), tail(text, Some(0)), tail(text, None)), (text, "", text));
    }

    #[test]
    fn each_action_is_known_once() {
        let mut words: Vec<&str> = MOVES.iter().map(|(word, ..)| *word).collect();
        words.extend(UNSERVED);
        words.extend(ENDED.iter().map(|(word, _)| *word));
        let count = words.len();
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), count);
    }
}
