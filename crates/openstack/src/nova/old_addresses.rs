//! `/os-floating-ips`, `/os-floating-ip-pools`, and the actions that give a server a floating IP and take it away: Nova's words for
//! Neutron's floating IPs. A pool is an external network.

use axum::extract::Path;
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use bytes::Bytes;
use kube::api::{Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::network::{FixedIp, Port};

use super::create::{called, usable};
use super::interfaces;
use super::neutron::{Neutron, Old, bad_conflict, entries, plain};
use super::record::unlocked;
use crate::auth::Session;
use crate::body::{parse, parse_value};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::ok;

/// The external networks.
async fn outer(neutron: &Neutron) -> Result<Vec<Value>, Fault> {
    let told = neutron.get("/networks?router%3Aexternal=True").await?;
    Ok(entries(&told, "networks").cloned().collect())
}

fn view(ip: &Value, pools: &[Value]) -> Value {
    let pool = pools.iter().find(|pool| pool["id"] == ip["floating_network_id"]);
    let server = ip["port_details"]["device_id"].as_str().filter(|id| !id.is_empty());
    json!({
        "id": ip["id"], "ip": ip["floating_ip_address"], "fixed_ip": ip["fixed_ip_address"], "instance_id": server,
        "pool": pool.map_or(&ip["floating_network_id"], |pool| &pool["name"]),
    })
}

/// `GET /os-floating-ips`: those of the project.
pub(super) async fn list(Old(neutron): Old, session: Session) -> Answer {
    let (told, pools) = tokio::try_join!(neutron.get("/floatingips"), outer(&neutron))?;
    let own = entries(&told, "floatingips").filter(|ip| ip["project_id"] == session.project_id());
    Ok(ok(&json!({"floating_ips": own.map(|ip| view(ip, &pools)).collect::<Vec<_>>()})))
}

/// `GET /os-floating-ips/{id}`
pub(super) async fn show(Old(neutron): Old, Path(id): Path<String>) -> Answer {
    let told = neutron.get(&format!("/floatingips/{}", plain("Floating IP", &id)?)).await?;
    Ok(ok(&json!({"floating_ip": view(&told["floatingip"], &outer(&neutron).await?)})))
}

/// `GET /os-floating-ip-pools`
pub(super) async fn pools(Old(neutron): Old) -> Answer {
    let pools = outer(&neutron).await?;
    let pools: Vec<Value> = pools.iter().map(|pool| json!({"name": pool["name"]})).collect();
    Ok(ok(&json!({"floating_ip_pools": pools})))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default)]
    pool: Option<String>,
}

/// `POST /os-floating-ips`: an address of the pool that is named, or of the only one. It may have no body.
pub(super) async fn create(Old(neutron): Old, body: Bytes) -> Answer {
    let wanted: Option<Wanted> = if body.is_empty() { None } else { parse(&body)? };
    let wanted = wanted.unwrap_or_default().pool.filter(|pool| !pool.is_empty());
    let pools = outer(&neutron).await?;
    let pool = match &wanted {
        Some(name) => pools.iter().find(|pool| pool["id"] == *name || pool["name"] == *name),
        None => pools.first().filter(|_| pools.len() == 1),
    };
    let pool = pool.ok_or_else(|| {
        let text = wanted.map_or_else(
            || "Floating IP pool not found: name one.".to_owned(),
            |name| format!("Floating IP pool {name} not found."),
        );
        Fault::new(StatusCode::NOT_FOUND, text)
    })?;
    let body = json!({"floatingip": {"floating_network_id": pool["id"]}});
    let made = neutron.ask(Method::POST, "/floatingips", &body).await?;
    Ok(ok(&json!({"floating_ip": view(&made["floatingip"], &pools)})))
}

/// `DELETE /os-floating-ips/{id}`: from whatever server has it, too.
pub(super) async fn delete(Old(neutron): Old, Path(id): Path<String>) -> Answer {
    let path = format!("/floatingips/{}", plain("Floating IP", &id)?);
    neutron.ask(Method::DELETE, &path, &Value::Null).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// What an action on a floating IP says of it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    address: String,
    #[serde(default)]
    fixed_address: Option<String>,
}

/// The floating IP of an address.
async fn find(neutron: &Neutron, address: &str) -> Result<Value, Fault> {
    if address.parse::<std::net::IpAddr>().is_err() {
        return Err(Fault::bad(format!(
            "Invalid input for field/attribute address. Value: {address}. It is no IP address."
        )));
    }
    let told = neutron.get(&format!("/floatingips?floating_ip_address={address}")).await?;
    let found = entries(&told, "floatingips").find(|ip| ip["floating_ip_address"] == address);
    found.cloned().ok_or_else(|| Fault::new(StatusCode::NOT_FOUND, "floating IP not found"))
}

/// The port of a server that a floating IP is to stand for, and its address there.
fn place<'a>(ports: &'a [Port], fixed: Option<&str>) -> Option<(&'a Port, &'a str)> {
    let four = |ip: &&str| !ip.contains(':');
    let all = ports
        .iter()
        .flat_map(|port| port.spec.fixed_ips.iter().filter_map(move |ip| Some((port, ip.ip.as_deref()?))));
    all.filter(|(_, ip)| four(ip)).find(|(_, ip)| fixed.is_none_or(|wanted| wanted == *ip))
}

/// `addFloatingIp`
pub(super) async fn associate(
    session: &Session,
    neutron: &Neutron,
    vm: &VirtualMachine,
    argument: Value,
) -> Answer {
    let wanted: Address = parse_value(argument)?;
    let ip = find(neutron, &wanted.address).await?;
    let ports = interfaces::held(session, vm).await?;
    let Some((port, fixed)) = place(&ports, wanted.fixed_address.as_deref()) else {
        return Err(Fault::bad(match wanted.fixed_address {
            Some(fixed) => format!("Specified fixed address {fixed} not assigned to instance {}", vm.id()),
            None => "No fixed IPs associated to instance".to_owned(),
        }));
    };
    let path = format!("/floatingips/{}", ip["id"].as_str().unwrap_or_default());
    let body = json!({"floatingip": {"port_id": port.id(), "fixed_ip_address": fixed}});
    neutron.ask(Method::PUT, &path, &body).await.map_err(bad_conflict)?;
    Ok(StatusCode::ACCEPTED.into_response())
}

/// `removeFloatingIp`
pub(super) async fn disassociate(neutron: &Neutron, vm: &VirtualMachine, argument: Value) -> Answer {
    let wanted: Address = parse_value(argument)?;
    let ip = find(neutron, &wanted.address).await?;
    if ip["port_details"]["device_id"] != vm.id() {
        return Err(Fault::conflict(format!(
            "Floating IP {} is not associated with instance {}.",
            wanted.address,
            vm.id()
        )));
    }
    let path = format!("/floatingips/{}", ip["id"].as_str().unwrap_or_default());
    neutron.ask(Method::PUT, &path, &json!({"floatingip": {"port_id": null}})).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    #[serde(rename = "networkId")]
    id: String,
}

/// `addFixedIp`: one more address for the server's first port on a network. The guest is not told; its user sets it there.
pub(super) async fn add_fixed(session: &Session, vm: &VirtualMachine, argument: Value) -> Answer {
    let wanted: Network = parse_value(argument)?;
    unlocked(session, vm)?;
    let namespace = ids::namespace(vm);
    let networks = usable(session, namespace).await?;
    let network = networks.iter().find(|network| network.id() == wanted.id);
    let network = network.map(|network| called(namespace, network));
    let ports = interfaces::held(session, vm).await?;
    let port = ports.iter().find(|port| Some(&port.spec.network) == network.as_ref());
    let port = port.ok_or_else(|| {
        Fault::bad(format!("Instance {} has no port on the network {}.", vm.id(), wanted.id))
    })?;
    let mut ips = port.spec.fixed_ips.clone();
    // One that says nothing is given a free address.
    ips.push(FixedIp { subnet: None, ip: None });
    write_fixed(session, port, &ips).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fixed {
    address: String,
}

/// `removeFixedIp`
pub(super) async fn remove_fixed(session: &Session, vm: &VirtualMachine, argument: Value) -> Answer {
    let wanted: Fixed = parse_value(argument)?;
    unlocked(session, vm)?;
    let ports = interfaces::held(session, vm).await?;
    let Some((port, _)) = place(&ports, Some(&wanted.address)) else {
        return Err(Fault::bad(format!("Fixed IP {} not found on instance {}.", wanted.address, vm.id())));
    };
    let ips: Vec<FixedIp> = port
        .spec
        .fixed_ips
        .iter()
        .filter(|fixed| fixed.ip.as_ref() != Some(&wanted.address))
        .cloned()
        .collect();
    if ips.is_empty() {
        return Err(Fault::bad(format!(
            "{} is the only address of its port: detach that with os-interface instead.",
            wanted.address
        )));
    }
    write_fixed(session, port, &ips).await
}

async fn write_fixed(session: &Session, port: &Port, ips: &[FixedIp]) -> Answer {
    let patch = json!({
        "metadata": {"uid": port.metadata.uid, "resourceVersion": port.metadata.resource_version},
        "spec": {"fixedIps": ips},
    });
    let ports = session.within::<Port>(ids::namespace(port));
    ports.patch(ids::name(port), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

#[cfg(test)]
mod tests {
    use yunfan_resources::network::PortSpec;

    use super::*;

    #[test]
    fn a_floating_ip_stands_for_the_first_address_or_the_named_one() {
        let at = |ip: &str| FixedIp { subnet: None, ip: Some(ip.to_owned()) };
        let port = |ips: &[&str]| {
            Port::new(
                "p",
                PortSpec { fixed_ips: ips.iter().map(|ip| at(ip)).collect(), ..PortSpec::default() },
            )
        };
        let ports = [port(&["fd00::1"]), port(&["10.0.0.5", "10.0.0.6"])];
        assert_eq!(place(&ports, None).unwrap().1, "10.0.0.5");
        assert_eq!(place(&ports, Some("10.0.0.6")).unwrap().1, "10.0.0.6");
        assert!(place(&ports, Some("10.0.0.7")).is_none());
    }

    #[test]
    fn addresses_are_shown_with_their_pool_and_server() {
        let ip = json!({"id": "f", "floating_network_id": "n", "floating_ip_address": "172.24.4.3",
            "fixed_ip_address": null, "port_details": null});
        let shown = view(&ip, &[json!({"id": "n", "name": "public"})]);
        assert_eq!((&shown["pool"], &shown["instance_id"]), (&json!("public"), &Value::Null));
        let ip = json!({"floating_network_id": "n", "port_details": {"device_id": "vm"}});
        assert_eq!((&view(&ip, &[])["pool"], &view(&ip, &[])["instance_id"]), (&json!("n"), &json!("vm")));
    }
}
