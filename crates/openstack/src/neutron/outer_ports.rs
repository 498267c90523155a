//! Ports of external networks: outer addresses that are kept for what has them outside of the cloud. Each is a FloatingIp that leads nowhere,
//! so that an address has one holder, whatever it is. No server is on such a port: nodes route outer addresses, and have no link to them.

use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{ExternalNetwork, FloatingIp, FloatingIpSpec, OuterDevice, Router};

use super::floating::taken;
use super::networks::target;
use super::view::Context;
use crate::auth::Session;
use crate::change::{self, Changes};
use crate::error::Fault;
use crate::ids;

/// The MAC address of what has no link; clients want it to be text.
pub(super) const NO_LINK: &str = "00:00:00:00:00:00";

/// Whether an outer address is kept for a port, and is no floating IP.
pub(super) fn is_port(ip: &FloatingIp) -> bool {
    ip.spec.outside.is_some()
}

/// What a request says of such a port.
#[derive(Default)]
pub(super) struct Wanted<'a> {
    pub(super) name: Option<String>,
    pub(super) description: Option<String>,
    pub(super) device: Option<String>,
    pub(super) owner: Option<String>,
    /// Subnet and address of each that is wanted.
    pub(super) addresses: Vec<(Option<&'a str>, Option<&'a str>)>,
    pub(super) projects: [Option<&'a str>; 2],
}

/// Refuses a subnet that the network has not, and, of a network with several, a subnet without an address.
pub(super) fn chosen(
    network: &ExternalNetwork,
    subnet: Option<&str>,
    ip: Option<&str>,
) -> Result<Option<String>, Fault> {
    if let Some(id) = subnet {
        if !network.spec.subnets.iter().any(|own| own.id == id) {
            return Err(Fault::not_found("Subnet", id).named("SubnetNotFound"));
        }
        if network.spec.subnets.len() > 1 && ip.is_none() {
            return Err(Fault::bad(format!(
                "subnet_id={id} is not supported on an external network with several subnets: name an address of it."
            )));
        }
    }
    Ok(ip.filter(|ip| !ip.is_empty()).map(str::to_owned))
}

/// Makes a port of an external network; that is for admins.
pub(super) async fn make(
    session: &Session,
    network: &ExternalNetwork,
    wanted: Wanted<'_>,
) -> Result<Value, Fault> {
    if !session.is_admin() {
        return Err(Fault::forbidden("Policy doesn't allow create_port on an external network.")
            .named("PolicyNotAuthorized"));
    }
    let ip = match wanted.addresses.as_slice() {
        [] => None,
        [(subnet, ip)] => chosen(network, *subnet, *ip)?,
        _ => return Err(Fault::bad("fixed_ips: a port of an external network has one address.")),
    };
    let namespace = target(session, wanted.projects).await?;
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let spec = FloatingIpSpec {
        display_name: some(wanted.name),
        description: some(wanted.description),
        network: ids::name(network).to_owned(),
        ip,
        outside: Some(OuterDevice { id: some(wanted.device), owner: some(wanted.owner) }),
        ..FloatingIpSpec::default()
    };
    let ips = session.within::<FloatingIp>(&namespace);
    let made = ids::create(&ips, FloatingIp::new("", spec), "outer-port").await.map_err(taken)?;
    let context = Context::load(session, session.namespace().is_ok_and(|own| own != namespace)).await?;
    Ok(context.outer_port_view(&made))
}

/// The port of an external network with this id.
pub(super) async fn find(session: &Session, id: &str) -> Result<Option<(FloatingIp, Context)>, Fault> {
    match session.find_anywhere::<FloatingIp>(id).await?.filter(is_port) {
        Some(ip) => {
            let elsewhere = ids::namespace(&ip) != session.namespace()?;
            Ok(Some((ip, Context::load(session, elsewhere).await?)))
        }
        None => Ok(None),
    }
}

/// The port by which a router has its outer address, for who may see it.
pub(super) async fn gateway(session: &Session, id: &str) -> Result<Option<Value>, Fault> {
    if !session.is_admin() {
        return Ok(None);
    }
    let routers = session.everywhere::<Router>();
    let (routers, context) = tokio::try_join!(ids::list(&routers), Context::load(session, true))?;
    Ok(context.gateway_ports(&routers).into_iter().find(|port| port["id"] == id))
}

/// Refuses to delete such a port: it goes with the router's gateway.
pub(super) async fn keep_gateway(session: &Session, id: &str) -> Result<(), Fault> {
    if gateway(session, id).await?.is_none() {
        return Ok(());
    }
    let text = format!(
        "Port {id} cannot be deleted directly via the port API: has device owner network:router_gateway."
    );
    Err(Fault::conflict(text).named("ServicePortInUse"))
}

/// Those that the caller may see, in their project or in all.
pub(super) async fn list(session: &Session, context: &Context, all: bool) -> Result<Vec<Value>, Fault> {
    let ips = if all { session.everywhere::<FloatingIp>() } else { session.own()? };
    let ips = ids::list(&ips).await?;
    Ok(ips.iter().filter(|ip| is_port(ip)).map(|ip| context.outer_port_view(ip)).collect())
}

/// Changes what people read of one, and what has it.
pub(super) async fn change(
    session: &Session,
    ip: &FloatingIp,
    context: &Context,
    wanted: Wanted<'_>,
) -> Result<Value, Fault> {
    let shown = context.outer_port_view(ip);
    for (subnet, address) in &wanted.addresses {
        let other =
            |key: &str, given: &Option<&str>| given.is_some_and(|it| shown["fixed_ips"][0][key] != it);
        if other("subnet_id", subnet) || other("ip_address", address) {
            return Err(Fault::bad(
                "fixed_ips: the address of a port of an external network stays as it is.",
            ));
        }
    }
    let device = (wanted.device.is_some() || wanted.owner.is_some()).then(|| {
        let mut device = json!({});
        for (key, value) in [("id", wanted.device), ("owner", wanted.owner)] {
            if let Some(value) = value {
                device[key] = json!(value);
            }
        }
        device
    });
    let changes = Changes::default()
        .set("displayName", wanted.name)
        .set("description", wanted.description)
        .set("outside", device);
    let ip = changes.apply(&session.within::<FloatingIp>(ids::namespace(ip)), ip).await?;
    Ok(context.outer_port_view(&ip))
}

/// Gives its address back.
pub(super) async fn remove(session: &Session, ip: &FloatingIp) -> Result<(), Fault> {
    let ips = session.within::<FloatingIp>(ids::namespace(ip));
    ips.delete(ids::name(ip), &change::deletion(ip)?).await?;
    Ok(())
}

impl Context {
    pub(super) fn outer_port_view(&self, ip: &FloatingIp) -> Value {
        let spec = &ip.spec;
        let network = self.external_named(&spec.network);
        let subnet = network.and_then(|network| self.subnet_of(network, spec.ip.as_deref()?));
        let device = spec.outside.clone().unwrap_or_default();
        let view = json!({
            "network_id": network.map(Identified::id), "mac_address": NO_LINK,
            "fixed_ips": [{"subnet_id": subnet, "ip_address": spec.ip}],
            "device_id": device.id.unwrap_or_default(), "device_owner": device.owner.unwrap_or_default(),
            "status": "DOWN", "admin_state_up": true, "port_security_enabled": false, "security_groups": [],
            "allowed_address_pairs": [], "extra_dhcp_opts": [], "qos_policy_id": null, "qos_network_policy_id": null,
            "description": spec.description.as_deref().unwrap_or_default(), "binding:vnic_type": "normal",
            "binding:host_id": "", "binding:vif_type": "unbound", "binding:profile": {}, "binding:vif_details": {},
        });
        let mut view = self.with_base(ip, view);
        view["name"] = json!(spec.display_name.as_deref().unwrap_or_default());
        view
    }
}
