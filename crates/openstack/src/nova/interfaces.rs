//! `/servers/{id}/os-interface`: the Ports that a server holds. One that is attached is named in the VirtualMachine's spec; the node
//! plugs it in, and out again when it is not named any more.

use std::time::{Duration, Instant};

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::Resource;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::{NetworkAttachment, VirtualMachine};
use yunfan_resources::names::PORT_NETWORK_LABEL;
use yunfan_resources::network::{
    DEFAULT_GROUP, FixedIp, Network, Port, PortPhase, PortSpec, Subnet, network_place, workload_port,
};

use super::create::{called, the_only_network, usable};
use super::record::{self, unlocked};
use super::servers::find;
use super::state::{expect, state_of};
use crate::auth::Session;
use crate::body::Json;
use crate::error::{Answer, Fault};
use crate::microversion::Microversion;
use crate::versions::ok;
use crate::{ids, lent};

/// VM states in which interfaces come and go.
const STATES: [&str; 3] = ["active", "paused", "stopped"];
/// Most interfaces of a server: so many the hypervisor can plug in and out.
const MOST: usize = 8;

/// What the views of ports need.
struct Names {
    networks: Vec<Network>,
    subnets: Vec<Subnet>,
}

impl Names {
    async fn of(session: &Session, namespace: &str) -> Result<Self, Fault> {
        let subnets = session.within::<Subnet>(namespace);
        let (networks, mut subnets) = tokio::try_join!(usable(session, namespace), ids::list(&subnets))?;
        let others: Vec<Network> =
            networks.iter().filter(|network| ids::namespace(*network) != namespace).cloned().collect();
        subnets.extend(lent::subnets(session, &others).await?);
        Ok(Self { networks, subnets })
    }

    fn view(&self, version: Microversion, port: &Port, tag: Option<&str>) -> Value {
        let (owner, network) = network_place(ids::namespace(port), &port.spec.network);
        let network =
            self.networks.iter().find(|it| (ids::namespace(*it), ids::name(*it)) == (owner, network));
        let network = network.map(Identified::id);
        let subnet = |name: &str| {
            let mut all = self.subnets.iter();
            all.find(|it| (ids::namespace(*it), ids::name(*it)) == (owner, name)).map(Identified::id)
        };
        let active = port.status.as_ref().is_some_and(|status| status.phase == PortPhase::Active);
        let ips = port
            .spec
            .fixed_ips
            .iter()
            .map(|ip| json!({"ip_address": ip.ip, "subnet_id": ip.subnet.as_deref().and_then(subnet)}));
        let mut view = json!({
            "port_id": port.id(), "net_id": network, "mac_addr": port.spec.mac_address,
            "port_state": if active { "ACTIVE" } else { "DOWN" }, "fixed_ips": ips.collect::<Vec<Value>>(),
        });
        if version >= Microversion(70) {
            view["tag"] = json!(tag);
        }
        view
    }
}

/// The Ports that a machine holds, and those that it is about to hold because they were attached a moment ago.
pub(super) async fn held(session: &Session, vm: &VirtualMachine) -> Result<Vec<Port>, Fault> {
    let mut ports = ids::list(&session.within::<Port>(ids::namespace(vm))).await?;
    ports.retain(|port| is_of(vm, port));
    Ok(ports)
}

/// Whether a Port of the same namespace is a machine's: it says so, or nobody's yet and named by the machine.
fn is_of(vm: &VirtualMachine, port: &Port) -> bool {
    let name = ids::name(port);
    match &port.spec.holder {
        Some(holder) => Some(&holder.uid) == vm.metadata.uid.as_ref(),
        None => vm.spec.networks.iter().any(|attachment| attachment.port.as_deref() == Some(name)),
    }
}

/// `GET /servers/{id}/os-interface`
pub(super) async fn list(session: Session, version: Microversion, Path(id): Path<String>) -> Answer {
    let vm = find(&session, &id).await?;
    let (ports, names) = tokio::try_join!(held(&session, &vm), Names::of(&session, ids::namespace(&vm)))?;
    let views: Vec<Value> = ports.iter().map(|port| names.view(version, port, tag_of(&vm, port))).collect();
    Ok(ok(&json!({"interfaceAttachments": views})))
}

fn not_held(id: &str, port: &str) -> Fault {
    Fault::new(StatusCode::NOT_FOUND, format!("Instance {id} does not have a port with id {port}"))
}

/// `GET /servers/{id}/os-interface/{port}`
pub(super) async fn show(
    session: Session,
    version: Microversion,
    Path((id, port)): Path<(String, String)>,
) -> Answer {
    let vm = find(&session, &id).await?;
    let (ports, names) = tokio::try_join!(held(&session, &vm), Names::of(&session, ids::namespace(&vm)))?;
    let found = ports.iter().find(|own| own.id() == port).ok_or_else(|| not_held(&id, &port))?;
    Ok(ok(&json!({"interfaceAttachment": names.view(version, found, tag_of(&vm, found))})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    #[serde(rename = "interfaceAttachment")]
    attachment: Fields,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    port_id: Option<String>,
    #[serde(default)]
    net_id: Option<String>,
    #[serde(default)]
    fixed_ips: Option<Vec<Wanted>>,
    #[serde(default)]
    tag: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    ip_address: String,
}

fn check(version: Microversion, fields: &Fields) -> Result<(), Fault> {
    if fields.port_id.is_some() && (fields.net_id.is_some() || fields.fixed_ips.is_some()) {
        return Err(Fault::bad("Must not input network_id or fixed_ips when port_id is given"));
    }
    if fields.fixed_ips.is_some() && fields.net_id.is_none() {
        return Err(Fault::bad("Must input network_id when request IP address"));
    }
    if fields.fixed_ips.as_ref().is_some_and(|ips| ips.len() != 1) {
        return Err(Fault::bad(
            "Invalid input for field/attribute fixed_ips. It must have exactly one address.",
        ));
    }
    if version < Microversion(49) && fields.tag.is_some() {
        return Err(Fault::bad(
            "Invalid input for field/attribute interfaceAttachment. Additional properties are not allowed ('tag' was unexpected)",
        ));
    }
    super::tags::check_device(version, "interfaceAttachment", 36, fields.tag.as_ref())
}

/// The tag of a machine's interface, which its Port knows nothing of.
fn tag_of<'a>(vm: &'a VirtualMachine, port: &Port) -> Option<&'a str> {
    let named = |(index, attachment): (usize, &NetworkAttachment)| match &attachment.port {
        Some(name) => name == ids::name(port),
        None => workload_port("VirtualMachine", ids::name(vm), index) == ids::name(port),
    };
    let index = vm.spec.networks.iter().enumerate().position(named)?;
    vm.spec.networks[index].tag.as_deref()
}

/// A machine's interfaces, each with its Port's name: an index does not name it any more once others come and go.
fn pinned(vm: &VirtualMachine) -> Vec<NetworkAttachment> {
    let all = vm.spec.networks.iter().enumerate();
    all.map(|(index, attachment)| {
        let own = || workload_port("VirtualMachine", ids::name(vm), index);
        let port = attachment.port.clone().unwrap_or_else(own);
        NetworkAttachment { port: Some(port), ..attachment.clone() }
    })
    .collect()
}

/// Refuses one interface more than a machine can have.
fn room(vm: &VirtualMachine) -> Result<(), Fault> {
    if vm.spec.networks.len() < MOST {
        return Ok(());
    }
    Err(Fault::bad(format!("Failed to attach network adapter device to {}: it has {MOST} already.", vm.id())))
}

/// `POST /servers/{id}/os-interface`
pub(super) async fn attach(
    session: Session,
    version: Microversion,
    Path(id): Path<String>,
    Json(body): Json<Body>,
) -> Answer {
    let fields = body.attachment;
    check(version, &fields)?;
    let vm = find(&session, &id).await?;
    unlocked(&session, &vm)?;
    expect("attach_interface", &id, state_of(&vm, Timestamp::now()), &STATES)?;
    room(&vm)?;
    let namespace = ids::namespace(&vm).to_owned();
    let (port, made) = match &fields.port_id {
        Some(port) => (free_port(&session, &namespace, port).await?, false),
        None => (new_port(&session, &vm, &fields).await?, true),
    };
    let attachment = NetworkAttachment {
        network: port.spec.network.clone(),
        port: Some(ids::name(&port).to_owned()),
        tag: fields.tag.clone(),
        ..NetworkAttachment::default()
    };
    let written = record::change(&session, vm, "attach_interface", |vm| {
        room(vm)?;
        let mut all = pinned(vm);
        all.push(attachment.clone());
        Ok(json!({"networks": all}))
    })
    .await;
    if let Err(fault) = written {
        if made {
            let ports = session.within::<Port>(&namespace);
            if let Err(error) = ports.delete(ids::name(&port), &Default::default()).await {
                tracing::warn!(%error, name = ids::name(&port), "a port of a failed request is left behind");
            }
        }
        return Err(fault);
    }
    plugged(&session, &namespace, &id, ids::name(&port)).await?;
    let names = Names::of(&session, &namespace).await?;
    Ok(ok(&json!({"interfaceAttachment": names.view(version, &port, fields.tag.as_deref())})))
}

/// How long an attached interface is waited for, and how often it is looked for.
const PATIENCE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(50);

/// Waits until a running server shows a new port among its addresses, as it does when Nova has answered. A node that takes longer does it later.
async fn plugged(session: &Session, namespace: &str, id: &str, port: &str) -> Result<(), Fault> {
    let machines = session.within::<VirtualMachine>(namespace);
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        let Some(vm) = session.find(&machines, id).await? else { return Ok(()) };
        let shown =
            vm.status.as_ref().is_some_and(|status| status.addresses.iter().any(|it| it.port == port));
        if shown || state_of(&vm, Timestamp::now()).vm != "active" {
            return Ok(());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

async fn free_port(session: &Session, namespace: &str, id: &str) -> Result<Port, Fault> {
    let port = session.find(&session.within::<Port>(namespace), id).await?;
    let port = port.ok_or_else(|| Fault::not_found("Port", id))?;
    if port.spec.holder.is_some() {
        return Err(Fault::bad(format!("Port {id} is still in use.")));
    }
    Ok(port)
}

/// A Port for one server: it is deleted with it, and when it is detached.
async fn new_port(session: &Session, vm: &VirtualMachine, fields: &Fields) -> Result<Port, Fault> {
    let namespace = ids::namespace(vm);
    let mut networks = usable(session, namespace).await?.into_iter();
    let network = match &fields.net_id {
        Some(id) => {
            let network = networks.find(|network| network.id() == *id);
            network.ok_or_else(|| Fault::bad(format!("Network {id} could not be found.")))?
        }
        None => {
            let only = the_only_network(session, namespace).await?.into_iter().next();
            let only = only.and_then(|only| networks.find(|it| called(namespace, it) == only.network));
            only.ok_or_else(|| Fault::bad("No network is there to attach the server to."))?
        }
    };
    let secured = network.spec.port_security_enabled;
    // Where ports are secured, one that names no group is in the default one.
    let security_groups = if secured == Some(false) {
        None
    } else {
        crate::neutron::ensure_default(session, namespace).await?;
        Some(vec![DEFAULT_GROUP.to_owned()])
    };
    let (label, network) = (ids::name(&network).to_owned(), called(namespace, &network));
    let ips = fields.fixed_ips.iter().flatten();
    let fixed_ips = ips.map(|wanted| FixedIp { subnet: None, ip: Some(wanted.ip_address.clone()) }).collect();
    let spec = PortSpec {
        network,
        fixed_ips,
        hostname: Some(vm.host_label()),
        security_groups,
        port_security_enabled: secured,
        ..PortSpec::default()
    };
    let mut port = Port::new("", spec);
    port.metadata.labels = Some([(PORT_NETWORK_LABEL.to_owned(), label)].into());
    port.metadata.owner_references = Some(vec![OwnerReference {
        api_version: VirtualMachine::api_version(&()).into_owned(),
        kind: VirtualMachine::kind(&()).into_owned(),
        name: ids::name(vm).to_owned(),
        uid: vm.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }]);
    ids::create(&session.within::<Port>(namespace), port, &format!("{}-port", ids::name(vm))).await
}

/// `DELETE /servers/{id}/os-interface/{port}`
pub(super) async fn detach(session: Session, Path((id, port)): Path<(String, String)>) -> Answer {
    let vm = find(&session, &id).await?;
    unlocked(&session, &vm)?;
    let ports = held(&session, &vm).await?;
    let found = ports.iter().find(|own| own.id() == port).ok_or_else(|| not_held(&id, &port))?;
    expect("detach_interface", &id, state_of(&vm, Timestamp::now()), &STATES)?;
    let name = ids::name(found).to_owned();
    record::change(&session, vm, "detach_interface", |vm| {
        let mut all = pinned(vm);
        all.retain(|attachment| attachment.port.as_deref() != Some(&name));
        Ok(json!({"networks": all}))
    })
    .await?;
    Ok(StatusCode::ACCEPTED.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_must_go_together() {
        let ip = || Some(vec![Wanted { ip_address: "10.0.0.9".into() }]);
        let port = || Some("p".to_owned());
        let check = |fields: &Fields| super::check(Microversion(79), fields);
        assert!(check(&Fields { port_id: port(), ..Fields::default() }).is_ok());
        assert!(check(&Fields { port_id: port(), net_id: Some("n".into()), ..Fields::default() }).is_err());
        assert!(check(&Fields { fixed_ips: ip(), ..Fields::default() }).is_err());
        assert!(check(&Fields { net_id: Some("n".into()), fixed_ips: ip(), ..Fields::default() }).is_ok());
    }

    #[test]
    fn a_port_is_the_machines_from_the_moment_it_is_named() {
        let mut vm = VirtualMachine::new("vm", Default::default());
        vm.metadata.uid = Some("u".into());
        let mut port = Port::new("p", PortSpec::default());
        assert!(!is_of(&vm, &port));
        vm.spec.networks = vec![NetworkAttachment { port: Some("p".into()), ..NetworkAttachment::default() }];
        assert!(is_of(&vm, &port));
        let holder =
            |uid: &str| serde_json::from_value(json!({"kind": "VirtualMachine", "name": "vm", "uid": uid}));
        port.spec.holder = holder("other").ok();
        assert!(port.spec.holder.is_some() && !is_of(&vm, &port), "it is somebody else's");
        vm.spec.networks.clear();
        port.spec.holder = holder("u").ok();
        assert!(is_of(&vm, &port), "it is being detached");
    }

    #[test]
    fn interfaces_keep_their_ports_when_others_go() {
        let mut vm = VirtualMachine::new("vm", Default::default());
        let attachment = |port: Option<&str>| NetworkAttachment {
            network: "n".into(),
            port: port.map(str::to_owned),
            ..NetworkAttachment::default()
        };
        vm.spec.networks = vec![attachment(None), attachment(Some("mine")), attachment(None)];
        let names: Vec<String> = pinned(&vm).into_iter().filter_map(|one| one.port).collect();
        let own = |index| workload_port("VirtualMachine", "vm", index);
        assert_eq!(names, [own(0), "mine".to_owned(), own(2)]);
    }
}
