//! How guests come to have addresses of IPv6, as subnets say it.

use axum::http::StatusCode;
use kube::api::{Patch, PatchParams};
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
/// them when they are changed next.)
pub(super) async fn give(session: &Session, subnet: &Subnet) -> Result<(), Fault> {
    let ports = session.within::<Port>(ids::namespace(subnet));
    for port in ids::list(&ports).await? {
        let of_pod = port.spec.holder.as_ref().is_some_and(|holder| holder.kind == "Pod");
        let routers = port.spec.device_owner.as_deref() == Some(ROUTER_INTERFACE);
        if port.spec.network != subnet.spec.network || of_pod || routers {
            continue;
        }
        let name = ids::name(subnet).to_owned();
        let changed = change::edit(&ports, port, |port| {
            let mut fixed = port.spec.fixed_ips.clone();
            if !fixed.iter().any(|own| own.subnet.as_ref() == Some(&name)) {
                fixed.push(FixedIp { subnet: Some(name.clone()), ip: None });
            }
            Ok(Changes::default().set("fixedIps", Some(json!(fixed))))
        });
        match changed.await {
            // It is gone meanwhile.
            Err(fault) if fault.status == StatusCode::NOT_FOUND => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// As in Neutron, a subnet whose addresses are made of MACs goes while ports have some: they lose them. First it gives no more, so that none
/// gets one meanwhile; where it stays after all it gives them again.
pub(super) async fn take(session: &Session, subnet: &Subnet) -> Result<(), Fault> {
    retire(session, subnet, json!("true")).await?;
    let ports = session.within::<Port>(ids::namespace(subnet));
    let name = Some(ids::name(subnet));
    let has = |port: &Port| port.spec.fixed_ips.iter().any(|own| own.subnet.as_deref() == name);
    for port in ids::list(&ports).await?.into_iter().filter(has) {
        let changed = change::edit(&ports, port, |port| {
            let mut fixed = port.spec.fixed_ips.clone();
            fixed.retain(|own| own.subnet.as_deref() != name);
            Ok(Changes::default().set("fixedIps", Some(json!(fixed))))
        });
        match changed.await {
            // It is gone meanwhile.
            Err(fault) if fault.status == StatusCode::NOT_FOUND => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Says on a subnet whether it gives addresses.
pub(super) async fn retire(session: &Session, subnet: &Subnet, word: Value) -> Result<(), Fault> {
    let patch = json!({"metadata": {"annotations": {RETIRING_ANNOTATION: word}}});
    let subnets = session.within::<Subnet>(ids::namespace(subnet));
    subnets.patch(ids::name(subnet), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}
