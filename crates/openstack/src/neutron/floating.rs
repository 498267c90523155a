//! Floating IPs.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{FloatingIp, FloatingIpSpec, Port, PortPhase, Router};

use super::networks::target;
use super::outer_ports::{chosen, is_port};
use super::view::{Context, collection, wants_all, with_fields};
use crate::auth::Session;
use crate::body::{Json, Params, explicit, only};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::{json_response, ok};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    floatingip: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    floating_network_id: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    port_id: Option<Option<String>>,
    #[serde(default)]
    fixed_ip_address: Option<String>,
    #[serde(default)]
    floating_ip_address: Option<String>,
    #[serde(default)]
    subnet_id: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
    #[serde(default)]
    dns_name: Option<Value>,
    #[serde(default)]
    dns_domain: Option<Value>,
    #[serde(default)]
    qos_policy_id: Option<Value>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        ids::check_name("description", self.description.as_deref().unwrap_or_default(), true)?;
        only("dns_name", self.dns_name.as_ref(), &[json!("")], "there is no external DNS")?;
        only("dns_domain", self.dns_domain.as_ref(), &[json!("")], "there is no external DNS")?;
        only("qos_policy_id", self.qos_policy_id.as_ref(), &[], "floating IPs have no limits of their own")
    }
}

/// What floating IPs are shown with.
pub(super) struct Near {
    context: Context,
    ports: Vec<Port>,
    routers: Vec<Router>,
}

impl Near {
    async fn load(session: &Session, all: bool) -> Result<Self, Fault> {
        let (ports, routers) = if all {
            (session.everywhere::<Port>(), session.everywhere::<Router>())
        } else {
            (session.own()?, session.own()?)
        };
        let (context, ports, routers) =
            tokio::try_join!(Context::load(session, all), ids::list(&ports), ids::list(&routers))?;
        Ok(Self { context, ports, routers })
    }

    pub(super) fn port(&self, namespace: &str, name: &str) -> Option<&Port> {
        self.ports.iter().find(|port| ids::namespace(*port) == namespace && ids::name(*port) == name)
    }

    /// The router that leads from a port's network to the external network of this name.
    pub(super) fn router(&self, port: &Port, external: &str) -> Option<&Router> {
        let namespace = ids::namespace(port);
        self.routers.iter().find(|router| {
            let on = |name: &String| {
                self.port(namespace, name).is_some_and(|place| place.spec.network == port.spec.network)
            };
            ids::namespace(*router) == namespace
                && router.spec.gateway.as_ref().is_some_and(|gateway| gateway.network == external)
                && router.spec.interfaces.iter().any(on)
        })
    }

    fn view(&self, ip: &FloatingIp) -> Value {
        let spec = &ip.spec;
        let network = self.context.external_named(&spec.network).map(Identified::id);
        let port = spec.port.as_deref().and_then(|name| self.port(ids::namespace(ip), name));
        // Those of its forwardings are all behind one router.
        let first = spec.forwardings.first().and_then(|it| self.port(ids::namespace(ip), &it.port));
        let router = port.or(first).and_then(|port| self.router(port, &spec.network));
        let leads = port.is_some() || first.is_some();
        let served = leads && ip.status.as_ref().is_some_and(|status| !status.nodes.is_empty());
        let active = served || port.is_some_and(|port| router.is_some_and(|router| waits(port, router)));
        let forwardings: Vec<Value> =
            spec.forwardings.iter().map(|it| self.brief_forwarding(ip, it)).collect();
        let details = port.map(|port| {
            let shown = self.context.port_view(port, false);
            json!({"name": shown["name"], "network_id": shown["network_id"], "mac_address": shown["mac_address"],
                "admin_state_up": shown["admin_state_up"], "status": shown["status"], "device_id": shown["device_id"],
                "device_owner": shown["device_owner"]})
        });
        let view = json!({
            "floating_network_id": network, "floating_ip_address": spec.ip, "port_id": port.map(Identified::id),
            "fixed_ip_address": port.and(spec.fixed_ip.as_ref()), "router_id": router.map(Identified::id),
            "port_details": details, "status": if active { "ACTIVE" } else { "DOWN" }, "port_forwardings": forwardings,
            "description": spec.description.as_deref().unwrap_or_default(),
        });
        let mut view = self.context.with_base(ip, view);
        if let Some(members) = view.as_object_mut() {
            members.remove("name");
        }
        view
    }

    /// The port of a project with this id.
    pub(super) fn port_with(&self, namespace: &str, id: &str) -> Result<&Port, Fault> {
        let port = self.ports.iter().find(|port| port.id() == id && ids::namespace(*port) == namespace);
        port.ok_or_else(|| Fault::not_found("Port", id).named("PortNotFound"))
    }

    /// The port that an address is to stand for: one that a router leads to.
    pub(super) fn reachable(&self, namespace: &str, id: &str, external: &str) -> Result<&Port, Fault> {
        let port = self.port_with(namespace, id)?;
        if self.router(port, external).is_none() {
            let network = self.context.external_named(external).map(Identified::id).unwrap_or_default();
            let text = format!(
                "External network {network} is not reachable from the subnet of port {id}. Therefore, cannot associate Port {id} with a Floating IP."
            );
            return Err(Fault::new(StatusCode::NOT_FOUND, text).named("ExternalGatewayForFloatingIPNotFound"));
        }
        Ok(port)
    }
}

/// Whether an address stands for a port whose device is off: it leads there again as soon as that is on, so it is active, as with Neutron's
/// routers, which know nothing of devices.
fn waits(port: &Port, router: &Router) -> bool {
    let was_in = port.status.as_ref().is_some_and(|status| status.phase == PortPhase::Down);
    port.spec.holder.is_some() && was_in && router.spec.admin_state_up.unwrap_or(true)
}

pub(super) async fn find(session: &Session, id: &str) -> Result<(FloatingIp, Near), Fault> {
    let missing = || Fault::not_found("Floating IP", id).named("FloatingIPNotFound");
    let ip: Option<FloatingIp> = session.find_anywhere(id).await?;
    let ip = ip.filter(|ip| !is_port(ip)).ok_or_else(missing)?;
    let elsewhere = ids::namespace(&ip) != session.namespace()?;
    Ok((ip, Near::load(session, elsewhere).await?))
}

fn in_use(id: &str) -> Fault {
    let text = format!("Floating IP {id} in use by Port Forwarding resources.");
    Fault::conflict(text).named("FipInUseByPortForwarding")
}

/// What the API server says of a port that has one already, and of an outer address that another has.
pub(super) fn taken(fault: Fault) -> Fault {
    let of_address = ["spec.ip:", "spec.gateway.ip:"].iter().any(|field| fault.message.contains(field));
    if of_address && fault.message.contains("already in use") && fault.status.is_client_error() {
        return Fault::conflict(fault.message).named("IpAddressAlreadyAllocated");
    }
    if fault.message.contains("spec.fixedIp") && fault.status.is_client_error() {
        return Fault::conflict(format!("Cannot associate floating IP with the port: {}", fault.message))
            .named("FloatingIPPortAlreadyAssociated");
    }
    if fault.status == StatusCode::CONFLICT && fault.message.contains("no address is free") {
        return fault.named("IpAddressGenerationFailure");
    }
    fault
}

/// `GET /floatingips`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let all = wants_all(&session, &params);
    let ips = if all { session.everywhere::<FloatingIp>() } else { session.own()? };
    let (ips, near) = tokio::try_join!(ids::list(&ips), Near::load(&session, all))?;
    let views = ips.iter().filter(|ip| !is_port(ip)).map(|ip| near.view(ip)).collect();
    collection(&session, &params, "floatingips", views)
}

/// `GET /floatingips/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let (ip, near) = find(&session, &id).await?;
    Ok(ok(&json!({"floatingip": with_fields(&params, near.view(&ip))})))
}

/// `POST /floatingips`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.floatingip;
    fields.check()?;
    let id = fields.floating_network_id.as_deref().ok_or_else(|| {
        Fault::bad("Failed to parse request. Required attribute 'floating_network_id' not specified")
    })?;
    let namespace = target(&session, [fields.project_id.as_deref(), fields.tenant_id.as_deref()]).await?;
    let near = Near::load(&session, session.namespace().is_ok_and(|own| own != namespace)).await?;
    let Some(network) = near.context.external(id) else {
        near.context.network(id)?;
        let text = format!("Network {id} is not a valid external network.");
        return Err(Fault::bad(text).named("BadRequest"));
    };
    let wanted = chosen(network, fields.subnet_id.as_deref(), fields.floating_ip_address.as_deref())?;
    let external = ids::name(network).to_owned();
    let port = match fields.port_id.flatten() {
        Some(id) => Some(ids::name(near.reachable(&namespace, &id, &external)?).to_owned()),
        None => None,
    };
    let spec = FloatingIpSpec {
        description: fields.description.filter(|text| !text.is_empty()),
        network: external,
        ip: wanted,
        fixed_ip: fields.fixed_ip_address.filter(|_| port.is_some()),
        port,
        ..FloatingIpSpec::default()
    };
    let ips = session.within::<FloatingIp>(&namespace);
    let ip = ids::create(&ips, FloatingIp::new("", spec), "floating").await.map_err(taken)?;
    Ok(json_response(StatusCode::CREATED, &json!({"floatingip": near.view(&ip)})))
}

/// `PUT /floatingips/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.floatingip;
    fields.check()?;
    let (ip, near) = find(&session, &id).await?;
    let namespace = ids::namespace(&ip);
    // As in Neutron, a request that says nothing takes it from its port.
    let blank = fields.port_id.is_none() && fields.fixed_ip_address.is_none() && fields.description.is_none();
    let (port, fixed) = match (fields.port_id, fields.fixed_ip_address) {
        (None, None) if blank => (Some(Value::Null), Some(Value::Null)),
        (None, None) => (None, None),
        (Some(None), _) => (Some(Value::Null), Some(Value::Null)),
        (Some(Some(_)), _) if !ip.spec.forwardings.is_empty() => return Err(in_use(&id)),
        (Some(Some(port)), fixed) => {
            let port = near.reachable(namespace, &port, &ip.spec.network)?;
            (Some(json!(ids::name(port))), Some(json!(fixed)))
        }
        (None, Some(fixed)) if ip.spec.port.is_some() => (None, Some(json!(fixed))),
        (None, Some(_)) => {
            return Err(
                Fault::bad("fixed_ip_address cannot be specified without a port_id").named("BadRequest")
            );
        }
    };
    let changes =
        Changes::default().set("description", fields.description).set("port", port).set("fixedIp", fixed);
    let ip = changes.apply(&session.within::<FloatingIp>(namespace), &ip).await.map_err(taken)?;
    Ok(ok(&json!({"floatingip": near.view(&ip)})))
}

/// `DELETE /floatingips/{id}`
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let (ip, _) = find(&session, &id).await?;
    if !ip.spec.forwardings.is_empty() {
        return Err(in_use(&id));
    }
    let ips = session.within::<FloatingIp>(ids::namespace(&ip));
    ips.delete(ids::name(&ip), &change::deletion(&ip)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}
