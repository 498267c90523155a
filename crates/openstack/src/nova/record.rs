//! Actions on servers as they are asked for: written into the machine together with what they change, so that they can be told
//! later (`/servers/{id}/os-instance-actions`). What became of them is in the machine's status.

use axum::extract::Path;
use axum::http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{VirtualMachine, VmAction, VmResult};

use super::servers::find;
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::page::{self, Limits};
use crate::versions::ok;
use crate::{ids, stamp};

/// Tries of one write while others write the same machine.
const TRIES: usize = 5;
/// How many actions a machine remembers.
const KEPT: usize = 32;
const PAGE: Limits = Limits { default: 1000, max: 1000 };

/// This request as an action that is to be remembered.
pub(super) fn action(session: &Session, word: &str) -> VmAction {
    VmAction {
        request: session.request.clone(),
        action: word.to_owned(),
        user: session.claims.uid.clone(),
        project: session.project_id().to_owned(),
        at: Some(Time(Timestamp::now())),
    }
}

/// Writes what an action changes in a machine's spec, with the action itself. `spec` is made anew from the machine as it is
/// whenever somebody else was faster.
pub(super) async fn change(
    session: &Session,
    vm: VirtualMachine,
    word: &str,
    spec: impl Fn(&VirtualMachine) -> Result<Value, Fault>,
) -> Result<VirtualMachine, Fault> {
    let machines = session.within::<VirtualMachine>(ids::namespace(&vm));
    let mut seen = vm;
    for tries_left in (0..TRIES).rev() {
        let mut spec = spec(&seen)?;
        if !word.is_empty() {
            let surplus = (seen.spec.actions.len() + 1).saturating_sub(KEPT);
            let mut actions: Vec<VmAction> = seen.spec.actions.iter().skip(surplus).cloned().collect();
            actions.push(action(session, word));
            spec["actions"] = json!(actions);
        }
        let patch = Patch::Merge(json!({
            "metadata": {"uid": seen.metadata.uid, "resourceVersion": seen.metadata.resource_version},
            "spec": spec,
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

/// Adds an action to those of the machine with this uid that its owner did by another service. One that is gone has none.
///
/// # Errors
/// The API server's.
pub(crate) async fn note(session: &Session, namespace: &str, uid: &str, word: &str) -> Result<(), Fault> {
    let machines = ids::list(&session.within::<VirtualMachine>(namespace)).await?;
    let machine = machines.into_iter().find(|machine| machine.metadata.uid.as_deref() == Some(uid));
    match machine {
        Some(machine) => change(session, machine, word, |_| Ok(json!({}))).await.map(drop),
        None => Ok(()),
    }
}

/// Refuses what a lock is against.
pub(super) fn unlocked(session: &Session, vm: &VirtualMachine) -> Result<(), Fault> {
    if vm.spec.lock.is_some() && !session.is_admin() {
        return Err(Fault::conflict(format!("Instance {} is locked", vm.id())));
    }
    Ok(())
}

fn result_of<'a>(vm: &'a VirtualMachine, action: &VmAction) -> Option<&'a VmResult> {
    vm.status.as_ref()?.results.iter().find(|result| result.request == action.request)
}

fn view(version: Microversion, vm: &VirtualMachine, action: &VmAction) -> Value {
    let at = |time: Option<&Time>| time.map(|time| stamp::micros_bare(time.0));
    let result = result_of(vm, action);
    let error = result.and_then(|result| result.error.as_ref());
    let mut view = json!({
        "action": action.action, "request_id": action.request, "user_id": action.user, "project_id": action.project,
        "start_time": at(action.at.as_ref()).unwrap_or_default(), "instance_uuid": vm.id(),
        "message": error.map(|_| "Error"),
    });
    if version >= Microversion(58) {
        let done = result.and_then(|result| at(result.at.as_ref()));
        view["updated_at"] = json!(done.or_else(|| at(action.at.as_ref())));
    }
    view
}

fn event(session: &Session, version: Microversion, vm: &VirtualMachine, action: &VmAction) -> Value {
    let at = |time: Option<&Time>| time.map(|time| stamp::micros_bare(time.0));
    let result = result_of(vm, action);
    let error = result.and_then(|result| result.error.clone());
    let mut event = json!({
        "event": format!("compute_{}", action.action.replace('-', "_")),
        "start_time": at(action.at.as_ref()).unwrap_or_default(),
        "finish_time": result.and_then(|result| at(result.at.as_ref())),
        "result": result.map(|result| if result.error.is_some() { "Error" } else { "Success" }),
    });
    if session.is_admin() || version < Microversion(51) {
        event["traceback"] = if session.is_admin() { json!(error) } else { Value::Null };
    }
    if version >= Microversion(62) {
        let node = vm.spec.node_name.clone().unwrap_or_default();
        event["hostId"] = json!(super::view::host_id(&action.project, &node));
        if session.is_admin() {
            event["host"] = json!(node);
        }
    }
    if version >= Microversion(84) {
        event["details"] = json!(error);
    }
    event
}

/// `GET /servers/{id}/os-instance-actions`: the newest first.
pub(super) async fn list(
    session: Session,
    version: Microversion,
    params: Params,
    Path(id): Path<String>,
) -> Answer {
    let vm = find(&session, &id).await?;
    let mut actions: Vec<VmAction> = vm.spec.actions.iter().rev().cloned().collect();
    if version >= Microversion(58) {
        for (key, newer) in [("changes-since", true), ("changes-before", false)] {
            let Some(text) = params.get(key) else { continue };
            let limit = text.parse::<Timestamp>().map_err(|_| {
                Fault::bad(format!("Invalid input for query parameter {key}. {text} is no time."))
            })?;
            actions.retain(|action| {
                action.at.as_ref().is_some_and(|at| if newer { at.0 >= limit } else { at.0 <= limit })
            });
        }
    }
    let params = if version >= Microversion(58) { params } else { Params(Vec::new()) };
    let (actions, next) = page::cut(&params, PAGE, actions, |action| action.request.clone())?;
    let views: Vec<Value> = actions.iter().map(|action| view(version, &vm, action)).collect();
    let mut body = json!({"instanceActions": views});
    let url = format!("{}/compute/v2.1/servers/{id}/os-instance-actions", session.door.endpoint);
    if let Some(links) = page::links(&url, &params, next.as_deref()) {
        body["links"] = links;
    }
    Ok(ok(&body))
}

/// `GET /servers/{id}/os-instance-actions/{request}`
pub(super) async fn show(
    session: Session,
    version: Microversion,
    Path((id, request)): Path<(String, String)>,
) -> Answer {
    let vm = find(&session, &id).await?;
    let action = vm.spec.actions.iter().find(|action| action.request == request).ok_or_else(|| {
        Fault::new(
            StatusCode::NOT_FOUND,
            format!("Action for request_id {request} on instance {id} not found"),
        )
    })?;
    let mut view = view(version, &vm, action);
    if session.is_admin() || version >= Microversion(51) {
        view["events"] = json!([event(&session, version, &vm, action)]);
    }
    Ok(ok(&json!({"instanceAction": view})))
}
