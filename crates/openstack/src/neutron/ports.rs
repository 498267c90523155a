//! Ports.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::names::PORT_NETWORK_LABEL;
use yunfan_resources::network::{
    AddressPair, DEFAULT_GROUP, FixedIp, FloatingIp, Network, Port, PortPhase, PortSpec, ROUTER_INTERFACE,
    Router, is_shared_with, network_place, network_reference,
};

use super::bulk::Bulk;
use super::networks::{self, check_project};
use super::port_checks::{check_unsecured, new_mac};
use super::view::{Context, collection, wants_all, with_fields};
use super::{groups, outer_ports, port_dhcp, qos};
use crate::auth::Session;
use crate::body::{Json, Params, explicit, only};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::ok;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    port: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    network_id: Option<String>,
    #[serde(default)]
    mac_address: Option<String>,
    #[serde(default)]
    fixed_ips: Option<Vec<Address>>,
    #[serde(default)]
    dns_name: Option<String>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
    #[serde(default)]
    device_id: Option<String>,
    #[serde(default)]
    device_owner: Option<String>,
    #[serde(default)]
    admin_state_up: Option<bool>,
    #[serde(default)]
    security_groups: Option<Vec<String>>,
    #[serde(default)]
    port_security_enabled: Option<bool>,
    #[serde(default)]
    allowed_address_pairs: Option<Vec<Pair>>,
    #[serde(default)]
    extra_dhcp_opts: Option<Vec<port_dhcp::Wanted>>,
    #[serde(default, deserialize_with = "explicit")]
    qos_policy_id: Option<Option<String>>,
    #[serde(default, rename = "binding:vnic_type")]
    vnic_type: Option<Value>,
    #[serde(default, rename = "binding:host_id")]
    host_id: Option<String>,
    #[serde(default, rename = "binding:profile")]
    profile: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Address {
    #[serde(default)]
    subnet_id: Option<String>,
    #[serde(default)]
    ip_address: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pair {
    #[serde(default)]
    ip_address: Option<String>,
    #[serde(default)]
    mac_address: Option<String>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        for (field, text) in [
            ("name", &self.name),
            ("description", &self.description),
            ("device_id", &self.device_id),
            ("binding:host_id", &self.host_id),
        ] {
            ids::check_name(field, text.as_deref().unwrap_or_default(), true)?;
        }
        if self.device_owner.as_deref().is_some_and(|owner| owner.starts_with("network:")) {
            let text =
                "device_owner network:* is for the ports that the cloud makes for its routers and the like.";
            return Err(Fault::forbidden(text));
        }
        let empty = [json!([]), json!(""), json!({})];
        port_dhcp::check(self.extra_dhcp_opts.as_deref().unwrap_or_default())?;
        only("binding:vnic_type", self.vnic_type.as_ref(), &[json!("normal")], "ports are virtual ones")?;
        only("binding:profile", self.profile.as_ref(), &empty, "there is nothing to tell the node")
    }

    /// Refuses from who is no admin what tells of the cloud's own hosts.
    fn check_host(&self, session: &Session) -> Result<(), Fault> {
        if self.host_id.is_some() && !session.is_admin() {
            let text = "binding:host_id is for administrators: Policy doesn't allow it to be written.";
            return Err(Fault::forbidden(text).named("PolicyNotAuthorized"));
        }
        Ok(())
    }

    /// What they say of a port of an external network; what such a port has not is refused.
    fn outside(&self) -> Result<outer_ports::Wanted<'_>, Fault> {
        let some = |wanted: bool| wanted.then_some(Value::Bool(true));
        let groups = self.security_groups.as_ref().is_some_and(|all| !all.is_empty());
        let pairs = self.allowed_address_pairs.as_ref().is_some_and(|all| !all.is_empty());
        let policy = self.qos_policy_id.as_ref().is_some_and(Option::is_some);
        for (field, given) in [
            ("security_groups", groups),
            ("allowed_address_pairs", pairs),
            ("port_security_enabled", self.port_security_enabled == Some(true)),
            ("qos_policy_id", policy),
            ("extra_dhcp_opts", self.extra_dhcp_opts.as_ref().is_some_and(|all| !all.is_empty())),
            ("mac_address", self.mac_address.is_some()),
            ("binding:host_id", self.host_id.as_ref().is_some_and(|host| !host.is_empty())),
        ] {
            only(field, some(given).as_ref(), &[], "nodes have no link to an external network")?;
        }
        only(
            "admin_state_up",
            self.admin_state_up.map(Value::from).as_ref(),
            &[json!(true)],
            "it is outside",
        )?;
        let addresses = self.fixed_ips.iter().flatten();
        Ok(outer_ports::Wanted {
            name: self.name.clone(),
            description: self.description.clone(),
            device: self.device_id.clone(),
            owner: self.device_owner.clone(),
            addresses: addresses.map(|it| (it.subnet_id.as_deref(), it.ip_address.as_deref())).collect(),
            projects: [self.project_id.as_deref(), self.tenant_id.as_deref()],
        })
    }

    /// The further addresses that are wanted.
    fn pairs(&self) -> Result<Option<Vec<AddressPair>>, Fault> {
        let Some(pairs) = &self.allowed_address_pairs else { return Ok(None) };
        let mut wanted: Vec<AddressPair> = Vec::with_capacity(pairs.len());
        for pair in pairs {
            let ip = pair.ip_address.clone().ok_or_else(|| {
                Fault::bad("AllowedAddressPair must contain ip_address").named("AddressPairMissingIP")
            })?;
            let pair = AddressPair { ip, mac: pair.mac_address.as_deref().map(str::to_ascii_lowercase) };
            if wanted.contains(&pair) {
                let text = format!("Request contains duplicate address pair: ip_address {}.", pair.ip);
                return Err(Fault::bad(text).named("DuplicateAddressPairInRequest"));
            }
            wanted.push(pair);
        }
        Ok(Some(wanted))
    }
}

/// The addresses that are wanted on a network, which is told by its namespace and name.
fn fixed_ips(context: &Context, network: (&str, &str), wanted: &[Address]) -> Result<Vec<FixedIp>, Fault> {
    let mut fixed = Vec::with_capacity(wanted.len());
    for address in wanted {
        let subnet = match &address.subnet_id {
            None => None,
            Some(id) => {
                let subnet = context.subnet(id)?;
                if (ids::namespace(subnet), subnet.spec.network.as_str()) != network {
                    return Err(Fault::bad(format!(
                        "Invalid input for operation: Failed to create port on network, because fixed_ips included invalid subnet {id}."
                    )));
                }
                Some(ids::name(subnet).to_owned())
            }
        };
        // As it is written canonically, so that it is found again.
        let ip = match &address.ip_address {
            None => None,
            Some(ip) => Some(ip.parse::<std::net::IpAddr>().map_err(|_| {
                Fault::bad(format!("Invalid input for fixed_ips. '{ip}' is not a valid IP address."))
            })?),
        };
        fixed.push(FixedIp { subnet, ip: ip.map(|ip| ip.to_string()) });
    }
    Ok(fixed)
}

/// Whether a port has the addresses that are wanted and no others.
fn has_all(own: &[FixedIp], wanted: &[FixedIp]) -> bool {
    let is = |own: &FixedIp, wanted: &FixedIp| {
        (wanted.subnet.is_none() || wanted.subnet == own.subnet)
            && (wanted.ip.is_none() || wanted.ip == own.ip)
    };
    let named = |wanted: &FixedIp| wanted.subnet.is_some() || wanted.ip.is_some();
    own.len() == wanted.len() && own.iter().zip(wanted).all(|(own, wanted)| named(wanted) && is(own, wanted))
}

/// The names of the groups with these ids, which are in the port's project.
fn group_names(context: &Context, namespace: &str, wanted: &[String]) -> Result<Vec<String>, Fault> {
    let mut names: Vec<String> = Vec::with_capacity(wanted.len());
    for id in wanted {
        let group = context.group(id)?;
        if ids::namespace(group) != namespace {
            let text = format!("Security group {id} does not exist");
            return Err(Fault::new(StatusCode::NOT_FOUND, text).named("SecurityGroupNotFound"));
        }
        let name = ids::name(group).to_owned();
        if names.contains(&name) {
            return Err(Fault::bad(format!(
                "Invalid input for security_groups. Duplicate items in the list: {id}."
            )));
        }
        names.push(name);
    }
    Ok(names)
}

/// What the API server says of an address that another port has, in Neutron's words.
fn taken(fault: Fault) -> Fault {
    let message = &fault.message;
    if message.contains("configured for automatic addresses") {
        return fault.named("AllocationOnAutoAddressSubnet");
    }
    if message.contains("no address is free") {
        return fault.named("IpAddressGenerationFailure");
    }
    if !message.contains("is already used by") || !fault.status.is_client_error() {
        return fault;
    }
    if message.contains("spec.macAddress") {
        return Fault::conflict(fault.message).named("MacAddressInUse");
    }
    if message.contains("spec.fixedIps") {
        return Fault::conflict(fault.message).named("IpAddressAlreadyAllocated");
    }
    fault
}

async fn find(session: &Session, id: &str) -> Result<(Port, Context), Fault> {
    let missing = || Fault::not_found("Port", id).named("PortNotFound");
    let port: Port = session.find_anywhere(id).await?.ok_or_else(missing)?;
    let elsewhere = ids::namespace(&port) != session.namespace()?;
    Ok((port, Context::load(session, elsewhere).await?))
}

/// The port of an external network that has this id, where no other port has it.
async fn outside(
    session: &Session,
    id: &str,
    found: &Result<(Port, Context), Fault>,
) -> Result<Option<(FloatingIp, Context)>, Fault> {
    match found {
        Err(fault) if fault.status == StatusCode::NOT_FOUND => outer_ports::find(session, id).await,
        _ => Ok(None),
    }
}

/// `GET /ports`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let all = wants_all(&session, &params);
    let ports = if all { session.everywhere::<Port>() } else { session.own()? };
    let (ports, context) = tokio::try_join!(ids::list(&ports), Context::load(&session, all))?;
    let mut views: Vec<Value> =
        ports.iter().map(|port| context.port_view(port, session.is_admin())).collect();
    views.extend(outer_ports::list(&session, &context, all).await?);
    if all {
        views.extend(context.gateway_ports(&ids::list(&session.everywhere::<Router>()).await?));
    }
    collection(&session, &params, "ports", views)
}

/// `GET /ports/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let found = find(&session, &id).await;
    if let Some((ip, context)) = outside(&session, &id, &found).await? {
        return Ok(ok(&json!({"port": with_fields(&params, context.outer_port_view(&ip))})));
    }
    let port = match found {
        Ok((port, context)) => context.port_view(&port, session.is_admin()),
        Err(fault) => outer_ports::gateway(&session, &id).await?.ok_or(fault)?,
    };
    Ok(ok(&json!({"port": with_fields(&params, port)})))
}

/// `POST /ports`
pub(super) async fn create(session: Session, Json(body): Json<Value>) -> Answer {
    let made = |body: Body| make(&session, body.port);
    let gone = |id: String| {
        let session = &session;
        async move { remove(session, &id).await }
    };
    Bulk::of(body, "port", "ports")?.make(made, gone).await
}

async fn make(session: &Session, fields: Fields) -> Result<Value, Fault> {
    fields.check()?;
    let network_id = fields.network_id.as_deref().ok_or_else(|| {
        Fault::bad("Failed to parse request. Required attribute 'network_id' not specified")
    })?;
    fields.check_host(session)?;
    if let Some((network, _)) = networks::outer(session, network_id).await? {
        return outer_ports::make(session, &network, fields.outside()?).await;
    }
    let (network, mut context) = networks::find(session, network_id).await?;
    let namespace = place(session, &context, &network, &fields).await?;
    let pairs = fields.pairs()?.unwrap_or_default();
    let secured = fields.port_security_enabled.or(network.spec.port_security_enabled);
    let groups = if secured == Some(false) {
        check_unsecured(
            fields.security_groups.as_ref().is_some_and(|all| !all.is_empty()),
            !pairs.is_empty(),
        )?;
        None
    } else if let Some(wanted) = &fields.security_groups {
        Some(group_names(&context, &namespace, wanted)?)
    } else {
        context = with_default(session, context, &namespace).await?;
        Some(vec![DEFAULT_GROUP.to_owned()])
    };
    let policy = qos::chosen(session, fields.qos_policy_id.as_ref()).await?;
    let (owner, network) = (ids::namespace(&network), ids::name(&network));
    let some = |text: Option<String>| text.filter(|text| !text.is_empty());
    let name = some(fields.name);
    let spec = PortSpec {
        display_name: name.clone(),
        description: some(fields.description),
        fixed_ips: fixed_ips(&context, (owner, network), fields.fixed_ips.as_deref().unwrap_or_default())?,
        mac_address: fields.mac_address.map(|mac| mac.to_ascii_lowercase()),
        hostname: some(fields.dns_name),
        network: network_reference(&namespace, owner, network),
        admin_state_up: fields.admin_state_up,
        port_security_enabled: secured,
        security_groups: groups,
        allowed_address_pairs: pairs,
        device_id: some(fields.device_id),
        device_owner: some(fields.device_owner),
        host: some(fields.host_id),
        qos_policy: policy.filter(|name| !name.is_empty()),
        dhcp_options: port_dhcp::changed(&[], fields.extra_dhcp_opts.as_deref().unwrap_or_default()),
        ..PortSpec::default()
    };
    let mut port = Port::new("", spec);
    port.metadata.labels = Some([(PORT_NETWORK_LABEL.to_owned(), network.to_owned())].into());
    let display = name.unwrap_or_else(|| "port".to_owned());
    let port = ids::create(&session.within::<Port>(&namespace), port, &display).await.map_err(taken)?;
    Ok(context.port_view(&port, session.is_admin()))
}

/// The namespace of a new port: the network's, or that of another project that the network is shared with.
async fn place(
    session: &Session,
    context: &Context,
    network: &Network,
    fields: &Fields,
) -> Result<String, Fault> {
    let named = [fields.project_id.as_deref(), fields.tenant_id.as_deref()];
    let project = named.into_iter().flatten().next().unwrap_or(session.project_id());
    if context.project_of(network) != project && is_shared_with(&network.spec.shared_with, project) {
        return networks::target(session, named).await;
    }
    check_project(context, network, named)?;
    Ok(ids::namespace(network).to_owned())
}

/// A context that knows the default group, which is made if need be.
async fn with_default(session: &Session, context: Context, namespace: &str) -> Result<Context, Fault> {
    if context.group_id(namespace, DEFAULT_GROUP).is_some() {
        return Ok(context);
    }
    groups::ensure_default(session, namespace).await?;
    Context::load(session, session.namespace().is_ok_and(|own| own != namespace)).await
}

/// `PUT /ports/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.port;
    fields.check()?;
    if fields.network_id.is_some() {
        return Err(Fault::bad("Attribute network_id cannot be updated."));
    }
    fields.check_host(&session)?;
    let found = find(&session, &id).await;
    if let Some((ip, context)) = outside(&session, &id, &found).await? {
        let view = outer_ports::change(&session, &ip, &context, fields.outside()?).await?;
        return Ok(ok(&json!({"port": view})));
    }
    let (port, context) = found?;
    let mac = new_mac(&session, &port, fields.mac_address.as_deref())?;
    let network = network_place(ids::namespace(&port), &port.spec.network);
    let addresses = match &fields.fixed_ips {
        None => None,
        // What it has already is no change.
        Some(wanted) if has_all(&port.spec.fixed_ips, &fixed_ips(&context, network, wanted)?) => None,
        Some(_) if port.spec.holder.as_ref().is_some_and(|holder| holder.kind == "Pod") => {
            return Err(Fault::conflict(format!(
                "Port {id} is in use by a Pod, which has one address as long as it is; it cannot be changed."
            ))
            .named("PortInUse"));
        }
        Some(wanted) => Some(json!(fixed_ips(&context, network, wanted)?)),
    };
    if port.spec.device_owner.as_deref() == Some(ROUTER_INTERFACE)
        && (fields.device_id.is_some() || fields.device_owner.is_some() || addresses.is_some())
    {
        return Err(Fault::conflict(format!("Port {id} is a router's: take it from the router first."))
            .named("PortInUse"));
    }
    if let Some(holder) = &port.spec.holder {
        let shown = context.port_view(&port, false);
        let other =
            |field: &str, given: &Option<String>| given.as_deref().is_some_and(|given| shown[field] != given);
        if other("device_id", &fields.device_id) || other("device_owner", &fields.device_owner) {
            let text = format!("Port {id} is held by {} {}: detach it first.", holder.kind, holder.name);
            return Err(Fault::conflict(text).named("PortInUse"));
        }
    }
    let pairs = fields.pairs()?;
    let secured = fields.port_security_enabled.unwrap_or(port.spec.is_secured());
    let groups = if secured {
        match &fields.security_groups {
            Some(wanted) => Some(json!(group_names(&context, ids::namespace(&port), wanted)?)),
            // As in Neutron, a port that becomes secured is in the default group.
            None if !port.spec.is_secured() => {
                groups::ensure_default(&session, ids::namespace(&port)).await?;
                Some(json!([DEFAULT_GROUP]))
            }
            None => None,
        }
    } else {
        let groups = match &fields.security_groups {
            Some(wanted) => !wanted.is_empty(),
            None => port.spec.security_groups.as_ref().is_some_and(|groups| !groups.is_empty()),
        };
        check_unsecured(groups, !pairs.as_ref().unwrap_or(&port.spec.allowed_address_pairs).is_empty())?;
        Some(Value::Null)
    };
    let free = port.spec.holder.is_none();
    let options =
        fields.extra_dhcp_opts.as_deref().map(|all| port_dhcp::changed(&port.spec.dhcp_options, all));
    let policy = qos::chosen(&session, fields.qos_policy_id.as_ref()).await?;
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("hostname", fields.dns_name)
        .set("adminStateUp", fields.admin_state_up)
        .set("portSecurityEnabled", fields.port_security_enabled)
        .set("securityGroups", groups)
        .set("allowedAddressPairs", pairs.map(|pairs| json!(pairs)))
        .set("deviceId", fields.device_id.filter(|_| free))
        .set("deviceOwner", fields.device_owner.filter(|_| free))
        .set("host", fields.host_id)
        .set("fixedIps", addresses)
        .set("macAddress", mac)
        .set("dhcpOptions", options.map(|all| json!(all)))
        .set("qosPolicy", policy);
    let ports = session.within::<Port>(ids::namespace(&port));
    let port = changes.apply(&ports, &port).await.map_err(taken)?;
    let (_, context) = find(&session, &id).await?;
    Ok(ok(&json!({"port": context.port_view(&port, session.is_admin())})))
}

/// `DELETE /ports/{id}`: not while a workload holds it.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    remove(&session, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn remove(session: &Session, id: &str) -> Result<(), Fault> {
    let found = find(session, id).await;
    if let Some((ip, _)) = outside(session, id, &found).await? {
        return outer_ports::remove(session, &ip).await;
    }
    let Ok((port, _)) = found else {
        outer_ports::keep_gateway(session, id).await?;
        return found.map(drop);
    };
    if let Some(holder) = &port.spec.holder {
        return Err(Fault::conflict(format!(
            "Port {id} cannot be deleted directly via the port API: {} {} holds it.",
            holder.kind, holder.name
        ))
        .named("PortInUse"));
    }
    if port.spec.device_owner.as_deref() == Some(ROUTER_INTERFACE) {
        let text = format!(
            "Port {id} cannot be deleted directly via the port API: has device owner {ROUTER_INTERFACE}."
        );
        return Err(Fault::conflict(text).named("ServicePortInUse"));
    }
    let ports = session.within::<Port>(ids::namespace(&port));
    ports.delete(ids::name(&port), &change::deletion(&port)?).await?;
    Ok(())
}

impl Context {
    /// A port as Neutron shows it.
    pub(super) fn port_view(&self, port: &Port, admin: bool) -> Value {
        let (spec, namespace) = (&port.spec, ids::namespace(port));
        let status = port.status.clone().unwrap_or_default();
        let (owner_space, _) = network_place(namespace, &spec.network);
        let fixed: Vec<Value> = spec
            .fixed_ips
            .iter()
            .map(|fixed| {
                let subnet = fixed.subnet.as_deref().and_then(|name| self.subnet_id(owner_space, name));
                json!({"subnet_id": subnet, "ip_address": fixed.ip})
            })
            .collect();
        let holder = spec.holder.as_ref();
        let owner = match holder.map(|holder| holder.kind.as_str()) {
            Some("VirtualMachine") => "compute:nova",
            Some("Pod") => "compute:pod",
            _ => spec.device_owner.as_deref().unwrap_or_default(),
        };
        let device =
            holder.map(|holder| holder.uid.as_str()).or(spec.device_id.as_deref()).unwrap_or_default();
        let groups: Vec<String> =
            spec.security_groups.iter().flatten().filter_map(|name| self.group_id(namespace, name)).collect();
        let pairs: Vec<Value> = spec
            .allowed_address_pairs
            .iter()
            .map(|pair| json!({"ip_address": pair.ip, "mac_address": pair.mac.as_ref().or(spec.mac_address.as_ref())}))
            .collect();
        let up = spec.admin_state_up.unwrap_or(true);
        // A router is wherever its networks are.
        let router = owner == ROUTER_INTERFACE;
        let active = up && (router || status.phase == PortPhase::Active);
        let mut view = json!({
            "network_id": self.network_id(namespace, &spec.network), "mac_address": spec.mac_address, "fixed_ips": fixed,
            "device_id": device, "device_owner": owner, "status": if active { "ACTIVE" } else { "DOWN" },
            "admin_state_up": up, "port_security_enabled": spec.is_secured(), "security_groups": groups,
            "allowed_address_pairs": pairs, "extra_dhcp_opts": port_dhcp::view(spec),
            "qos_policy_id": spec.qos_policy.as_deref().and_then(|name| self.policy_id(name)),
            "qos_network_policy_id": self.policy_of_network(namespace, &spec.network),
            "description": spec.description.as_deref().unwrap_or_default(), "binding:vnic_type": "normal",
        });
        if admin {
            // What an admin wrote is of what is none of the cloud's own workloads.
            let written = spec.host.as_ref().filter(|_| spec.holder.is_none());
            view["binding:host_id"] = json!(status.node.as_ref().or(written).cloned().unwrap_or_default());
            view["binding:vif_type"] = json!(if status.node.is_some() { "tap" } else { "unbound" });
            view["binding:profile"] = json!({});
            view["binding:vif_details"] = json!({});
        }
        let mut view = self.with_base(port, view);
        // Ports are often unnamed, and Neutron shows that.
        view["name"] = json!(spec.display_name.as_deref().unwrap_or_default());
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;

    #[test]
    fn what_is_not_programmed_is_refused() {
        let check = |text: &str| {
            parse::<Body>(format!(r#"{{"port": {text}}}"#).as_bytes()).and_then(|body| {
                body.port.check()?;
                body.port.pairs().map(drop)
            })
        };
        assert!(check(r#"{"network_id": "n", "admin_state_up": false, "security_groups": [], "fixed_ips": [{"subnet_id": "s"}]}"#).is_ok());
        assert!(
            check(r#"{"allowed_address_pairs": [{"ip_address": "10.0.0.9"}], "device_id": "x"}"#).is_ok()
        );
        for text in [
            r#"{"security_groups": "default"}"#,
            r#"{"allowed_address_pairs": [{"mac_address": "fa:16:3e:00:00:01"}]}"#,
            r#"{"allowed_address_pairs": [{"ip_address": "10.0.0.9"}, {"ip_address": "10.0.0.9"}]}"#,
            r#"{"device_owner": "network:router_interface"}"#,
            r#"{"fixed_ips": [{"ip": "10.0.0.9"}]}"#,
            r#"{"binding:vnic_type": "direct"}"#,
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
