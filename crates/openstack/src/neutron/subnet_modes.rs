//! How guests come to have addresses of IPv6, as subnets say it.

use axum::http::StatusCode;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use yunfan_resources::names::RETIRING_ANNOTATION;
use yunfan_resources::network::{FixedIp, Ipv6Mode, Port, ROUTER_INTERFACE, Subnet};

use crate::auth::Session;
use crate::change::{self, Changes};
use crate::error::Fault;
use crate::ids;

/// How guests come to have addresses of IPv6, in Neutron's words.
pub(super) fn mode(field: &str, given: Option<&str>) -> Result<Option<Ipv6Mode>, Fault> {
    let Some(text) = given else { return Ok(None) };
    let mode = serde_json::from_value(json!(text)).ok();
    mode.map(Some).ok_or_else(|| {
        Fault::bad(format!(
            "Invalid input for {field}. Reason: '{text}' is not in ['dhcpv6-stateful', 'dhcpv6-stateless', 'slaac']."
        ))
    })
}

/// As in Neutron, ports that are on the network get the addresses that are made of their MACs at once. (Those of other projects get
/// them when they are changed next.) One that cannot have its address is no reason for the subnet not to be there.
pub(super) async fn give(session: &Session, subnet: &Subnet) {
    let ports = session.within::<Port>(ids::namespace(subnet));
    let name = ids::name(subnet);
    let all = match ids::list(&ports).await {
        Ok(all) => all,
        Err(fault) => {
            tracing::warn!(subnet = name, error = fault.message, "ports got no addresses of a subnet");
            return;
        }
    };
    for port in all.into_iter().filter(|port| gets(port, subnet)) {
        let own = ids::name(&port).to_owned();
        let changed = change::edit(&ports, port, |port| {
            let mut fixed = port.spec.fixed_ips.clone();
            if !fixed.iter().any(|own| own.subnet.as_deref() == Some(name)) {
                fixed.push(FixedIp { subnet: Some(name.to_owned()), ip: None });
            }
            Ok(Changes::default().set("fixedIps", Some(json!(fixed))))
        });
        match change::beside(changed).await {
            // One that is gone meanwhile needs none.
            Err(fault) if fault.status != StatusCode::NOT_FOUND => {
                let error = fault.message;
                tracing::warn!(subnet = name, port = own, error, "a port got no address of a subnet");
            }
            _ => {}
        }
    }
}

/// Whether a port is one that gets an address of a subnet whose addresses are made of MACs: of what the subnet is for (its service types),
/// as the API has it.
fn gets(port: &Port, subnet: &Subnet) -> bool {
    let owner = match port.spec.holder.as_ref().map(|holder| holder.kind.as_str()) {
        Some("Pod") => return false,
        Some("VirtualMachine") => "compute:nova",
        _ => port.spec.device_owner.as_deref().unwrap_or_default(),
    };
    let types = &subnet.spec.service_types;
    port.spec.network == subnet.spec.network
        && owner != ROUTER_INTERFACE
        && (types.is_empty() || types.iter().any(|one| one == owner))
}

/// As in Neutron, a subnet whose addresses are made of MACs goes while ports have some: they lose them. First it gives no more, so that none
/// gets one meanwhile (the API refuses that, and nothing has changed, while ports of other projects have some); where it stays after all it
/// gives them again. One that was begun and not ended, by a process that ended, is begun anew.
pub(super) async fn take(session: &Session, subnet: &Subnet, deletion: &DeleteParams) -> Result<(), Fault> {
    retire(session, subnet, json!("true")).await?;
    let gone = async {
        strip(session, subnet).await?;
        session.within::<Subnet>(ids::namespace(subnet)).delete(ids::name(subnet), deletion).await?;
        Ok(())
    };
    let gone: Result<(), Fault> = gone.await;
    if gone.is_err() {
        match retire(session, subnet, Value::Null).await {
            Ok(()) => give(session, subnet).await,
            // Another took it away.
            Err(fault) if fault.status == StatusCode::NOT_FOUND => {}
            Err(fault) => {
                let (subnet, error) = (ids::name(subnet), fault.message);
                tracing::warn!(subnet, error, "a subnet that stays gives no addresses");
            }
        }
    }
    gone
}

/// Takes a subnet's addresses from the ports that have them.
async fn strip(session: &Session, subnet: &Subnet) -> Result<(), Fault> {
    let ports = session.within::<Port>(ids::namespace(subnet));
    let name = Some(ids::name(subnet));
    let has = |port: &Port| port.spec.fixed_ips.iter().any(|own| own.subnet.as_deref() == name);
    for port in ids::list(&ports).await?.into_iter().filter(has) {
        let changed = change::edit(&ports, port, |port| {
            let mut fixed = port.spec.fixed_ips.clone();
            fixed.retain(|own| own.subnet.as_deref() != name);
            Ok(Changes::default().set("fixedIps", Some(json!(fixed))))
        });
        match change::beside(changed).await {
            // It is gone meanwhile.
            Err(fault) if fault.status == StatusCode::NOT_FOUND => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Says on a subnet whether it gives addresses.
async fn retire(session: &Session, subnet: &Subnet, word: Value) -> Result<(), Fault> {
    let patch = json!({"metadata": {"annotations": {RETIRING_ANNOTATION: word}}});
    let subnets = session.within::<Subnet>(ids::namespace(subnet));
    subnets.patch(ids::name(subnet), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}
