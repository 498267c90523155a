//! Remote consoles: `POST /servers/{id}/remote-consoles`, the actions that were before it, and what a console's token stands for.

use axum::extract::Path;
use axum::http::StatusCode;
use k8s_openapi::api::core::v1::Node;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;

use super::actions::admin_only;
use super::servers::find;
use crate::auth::Session;
use crate::body::{Json, parse_value};
use crate::console::{self, Kind};
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::ok;

/// The microversion that has a path of its own for consoles, in place of actions.
const OWN_PATH: Microversion = Microversion(6);
/// The one that knows consoles of VMware's.
const WITH_MKS: Microversion = Microversion(8);
/// The one that tells what a token of any console stands for.
const ALL_TOKENS: Microversion = Microversion(31);
/// Protocols and their types, as Nova's clients may name them.
const TYPES: [(&str, &str); 6] = [
    ("vnc", "novnc"),
    ("vnc", "xvpvnc"),
    ("spice", "spice-html5"),
    ("rdp", "rdp-html5"),
    ("serial", "serial"),
    ("mks", "webmks"),
];
/// The actions, and the protocol of each.
const ACTIONS: [(&str, &str); 4] = [
    ("os-getVNCConsole", "vnc"),
    ("os-getSPICEConsole", "spice"),
    ("os-getRDPConsole", "rdp"),
    ("os-getSerialConsole", "serial"),
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    r#type: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoteConsole {
    remote_console: RemoteFields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoteFields {
    protocol: String,
    r#type: String,
}

/// The protocol that an action asks for, if it is one for consoles.
pub(super) fn protocol_of(action: &str) -> Option<&'static str> {
    ACTIONS.iter().find(|(word, _)| *word == action).map(|(_, protocol)| *protocol)
}

/// An action for a console, of microversions before 2.6.
pub(super) async fn act(
    session: &Session,
    vm: &VirtualMachine,
    protocol: &'static str,
    argument: Value,
) -> Answer {
    let Wanted { r#type } = parse_value(argument)?;
    let own: Vec<&str> = TYPES.iter().filter(|(of, _)| *of == protocol).map(|(_, kind)| *kind).collect();
    one_of("type", &r#type, &own)?;
    let url = address(session, vm, protocol, &r#type).await?;
    Ok(ok(&json!({"console": {"type": r#type, "url": url}})))
}

/// `POST /servers/{id}/remote-consoles` (2.6)
pub(super) async fn create(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<RemoteConsole>,
) -> Answer {
    if version < OWN_PATH {
        return Err(Fault::new(StatusCode::NOT_FOUND, "The resource could not be found."));
    }
    let RemoteFields { protocol, r#type } = body.remote_console;
    let known = TYPES.iter().filter(|(protocol, _)| *protocol != "mks" || version >= WITH_MKS);
    let (mut protocols, types): (Vec<&str>, Vec<&str>) = known.copied().unzip();
    protocols.dedup();
    one_of("protocol", &protocol, &protocols)?;
    one_of("type", &r#type, &types)?;
    let vm = find(&session, &id).await?;
    let url = address(&session, &vm, &protocol, &r#type).await?;
    Ok(ok(&json!({"remote_console": {"protocol": protocol, "type": r#type, "url": url}})))
}

fn one_of(field: &str, given: &str, known: &[&str]) -> Result<(), Fault> {
    if known.contains(&given) {
        return Ok(());
    }
    Err(Fault::bad(format!(
        "Invalid input for field/attribute {field}. Value: {given}. '{given}' is not one of {known:?}"
    )))
}

/// Where a server's console is for the caller, for some minutes.
async fn address(
    session: &Session,
    vm: &VirtualMachine,
    protocol: &str,
    kind: &str,
) -> Result<String, Fault> {
    let kind = match (protocol, kind) {
        ("vnc", "novnc") => Kind::Vnc,
        ("serial", "serial") => Kind::Serial,
        ("vnc" | "serial", other) => return Err(Fault::bad(format!("Invalid console type {other}"))),
        (_, other) => return Err(Fault::bad(format!("Unavailable console type {other}."))),
    };
    if !console::may(&session.client, vm).await? {
        return Err(Fault::forbidden(
            "Policy doesn't allow os_compute_api:os-remote-consoles to be performed.",
        ));
    }
    if !console::runs(vm) || vm.metadata.deletion_timestamp.is_some() {
        return Err(Fault::conflict(format!("Instance {} is not ready", vm.id())));
    }
    console::grant(session, vm, kind)
}

/// `GET /os-console-auth-tokens/{token}`: the way that a proxy goes which is shown the token. Nothing listens for consoles but the
/// node's agent, in whose API each has a path.
pub(super) async fn show_token(session: Session, version: Microversion, Path(token): Path<String>) -> Answer {
    admin_only(&session, "os_compute_api:os-console-auth-tokens")?;
    let missing = || Fault::new(StatusCode::NOT_FOUND, "Token not found");
    let pass = session.door.tokens.verify_pass(&token).map_err(|_| missing())?;
    if version < ALL_TOKENS {
        // Of consoles by RDP alone, which none is here.
        return Err(Fault::new(
            StatusCode::UNAUTHORIZED,
            "The requested console type details are not accessible",
        ));
    }
    let machines = session.within::<VirtualMachine>(&pass.place.namespace);
    let vm = machines.get_opt(&pass.place.name).await?;
    let vm = vm.filter(|vm| vm.metadata.uid.as_ref() == Some(&pass.place.uid)).ok_or_else(missing)?;
    let node = vm.spec.node_name.as_deref().ok_or_else(missing)?;
    let node = session.global::<Node>().get_opt(node).await?.ok_or_else(missing)?;
    let status = node.status.unwrap_or_default();
    let inner = status.addresses.iter().flatten().find(|address| address.type_ == "InternalIP");
    let port = status.daemon_endpoints.and_then(|endpoints| endpoints.kubelet_endpoint);
    Ok(ok(&json!({"console": {
        "instance_uuid": vm.id(), "host": inner.map_or("", |address| &address.address),
        "port": port.map_or(0, |endpoint| endpoint.port),
        "internal_access_path": format!("/console/{}/{}", pass.place.uid, pass.place.kind),
    }})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_are_for_protocols_that_are_known() {
        for (action, protocol) in ACTIONS {
            assert_eq!(protocol_of(action), Some(protocol));
            assert!(TYPES.iter().any(|(known, _)| *known == protocol));
        }
        assert_eq!(protocol_of("os-getConsoleOutput"), None);
        assert!(one_of("type", "novnc", &["novnc"]).is_ok() && one_of("type", "novnc", &[]).is_err());
    }
}
