//! `POST /servers/{id}/action`: start, stop, reboot and the console's output.

use axum::body::Body;
use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use yunfan_resources::compute::{RebootKind, VirtualMachine};

use super::servers::find;
use super::view::{State, state_of};
use crate::auth::Session;
use crate::body::{Json, parse_value};
use crate::error::{Answer, Fault};
use crate::versions::ok;
use crate::{ids, nodes};

/// The most lines of a console that are asked for.
const MAX_LINES: i64 = 100_000;
/// Actions of Nova that this cloud does not serve; any other word is no action at all.
const UNSERVED: [&str; 32] = [
    "pause",
    "unpause",
    "suspend",
    "resume",
    "shelve",
    "shelveOffload",
    "unshelve",
    "lock",
    "unlock",
    "rescue",
    "unrescue",
    "rebuild",
    "resize",
    "confirmResize",
    "revertResize",
    "createImage",
    "createBackup",
    "changePassword",
    "migrate",
    "os-migrateLive",
    "evacuate",
    "addSecurityGroup",
    "removeSecurityGroup",
    "addFloatingIp",
    "removeFloatingIp",
    "addFixedIp",
    "removeFixedIp",
    "forceDelete",
    "restore",
    "os-resetState",
    "trigger_crash_dump",
    "os-getVNCConsole",
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

/// `POST /servers/{id}/action`
pub(super) async fn act(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<Map<String, Value>>,
) -> Answer {
    let (action, argument) = crate::body::action(body)?;
    let vm = find(&session, &id).await?;
    let state = state_of(&vm, Timestamp::now());
    match action.as_str() {
        "os-start" => {
            expect(&action, &id, state, &["SHUTOFF"])?;
            change(&session, &vm, json!({"runState": "Running"})).await
        }
        "os-stop" => {
            expect(&action, &id, state, &["ACTIVE", "ERROR"])?;
            change(&session, &vm, json!({"runState": "Stopped"})).await
        }
        "reboot" => {
            let kind = match parse_value::<Reboot>(argument)?.r#type.to_ascii_uppercase().as_str() {
                "SOFT" => RebootKind::Soft,
                "HARD" => RebootKind::Hard,
                other => {
                    return Err(Fault::bad(format!(
                        "Invalid input for field/attribute type. {other} is neither SOFT nor HARD."
                    )));
                }
            };
            let hard_too = ["ACTIVE", "REBOOT", "HARD_REBOOT"];
            expect(&action, &id, state, if kind == RebootKind::Hard { &hard_too } else { &hard_too[..1] })?;
            let generation = vm.spec.reboot_generation.saturating_add(1);
            change(&session, &vm, json!({"rebootGeneration": generation, "rebootKind": kind})).await
        }
        "os-getConsoleOutput" => console(&session, &vm, parse_value(argument)?).await,
        word if UNSERVED.contains(&word) => {
            Err(Fault::unsupported(format!("The action {word} is not served by this cloud.")))
        }
        word => Err(Fault::bad(format!("There is no such action: {word}"))),
    }
}

/// Refuses an action on a server that is not in one of these states, or in the middle of something.
pub(super) fn expect(action: &str, id: &str, state: State, allowed: &[&str]) -> Result<(), Fault> {
    let action = action.trim_start_matches("os-");
    if !allowed.contains(&state.status) {
        return Err(Fault::conflict(format!(
            "Cannot '{action}' instance {id} while it is in vm_state {}",
            state.vm
        )));
    }
    match state.task {
        Some(task @ ("deleting" | "powering-on" | "powering-off")) => {
            Err(Fault::conflict(format!("Cannot '{action}' instance {id} while it is in task_state {task}")))
        }
        _ => Ok(()),
    }
}

async fn change(session: &Session, vm: &VirtualMachine, spec: Value) -> Answer {
    let machines = session.within::<VirtualMachine>(ids::namespace(vm));
    let patch = Patch::Merge(json!({"spec": spec}));
    machines.patch(ids::name(vm), &PatchParams::default(), &patch).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

async fn console(session: &Session, vm: &VirtualMachine, wanted: Console) -> Answer {
    let lines = match wanted.length {
        None | Some(Value::Null) => None,
        Some(Value::Number(number)) => Some(number.as_i64().ok_or_else(bad_length)?),
        Some(Value::String(text)) => Some(text.parse::<i64>().map_err(|_| bad_length())?),
        Some(_) => return Err(bad_length()),
    };
    let (Some(node), Some(uid)) = (&vm.spec.node_name, &vm.metadata.uid) else {
        return Err(Fault::conflict("The instance is not ready: it is not placed on a node yet."));
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
    Ok(ok(&json!({"output": output})))
}

fn bad_length() -> Fault {
    Fault::bad(format!(
        "Invalid input for field/attribute length. It is a number of lines up to {MAX_LINES}, or -1 for all."
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(status: &'static str, task: Option<&'static str>) -> State {
        State { status, vm: "active", task, power: 1 }
    }

    #[test]
    fn an_action_needs_the_right_state() {
        assert!(expect("os-stop", "1", state("ACTIVE", None), &["ACTIVE"]).is_ok());
        let wrong = expect("os-start", "1", state("ACTIVE", None), &["SHUTOFF"]).unwrap_err();
        assert_eq!(wrong.message, "Cannot 'start' instance 1 while it is in vm_state active");
        assert!(expect("os-stop", "1", state("ACTIVE", Some("deleting")), &["ACTIVE"]).is_err());
    }
}
