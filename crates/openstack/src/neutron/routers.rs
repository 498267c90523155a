//! Routers.

use std::net::IpAddr;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::names::PORT_NETWORK_LABEL;
use yunfan_resources::network::{
    FixedIp, FloatingIp, HostRoute, Port, PortSpec, ROUTER_INTERFACE, Router, RouterGateway, RouterSpec,
    Subnet,
};

use super::floating::taken;
use super::networks::target;
use super::view::{Context, collection, wants_all, with_fields};
use super::{extraroutes, outer_ports};
use crate::auth::Session;
use crate::body::{Json, Params, explicit, only};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::{json_response, ok};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    router: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    admin_state_up: Option<bool>,
    #[serde(default, deserialize_with = "explicit")]
    external_gateway_info: Option<Option<Gateway>>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
    #[serde(default, deserialize_with = "explicit")]
    routes: Option<Option<Vec<HostRoute>>>,
    #[serde(default)]
    distributed: Option<Value>,
    #[serde(default)]
    ha: Option<Value>,
    #[serde(default)]
    availability_zone_hints: Option<Value>,
    #[serde(default)]
    flavor_id: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Gateway {
    #[serde(default)]
    network_id: Option<String>,
    #[serde(default)]
    enable_snat: Option<bool>,
    #[serde(default)]
    external_fixed_ips: Option<Vec<OuterAddress>>,
    #[serde(default)]
    qos_policy_id: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OuterAddress {
    #[serde(default)]
    subnet_id: Option<String>,
    #[serde(default)]
    ip_address: Option<String>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        ids::check_name("name", self.name.as_deref().unwrap_or_default(), true)?;
        ids::check_name("description", self.description.as_deref().unwrap_or_default(), true)?;
        let (no, empty) = ([json!(false)], [json!([])]);
        only(
            "distributed",
            self.distributed.as_ref(),
            &no,
            "a router is on every node that has its networks",
        )?;
        only("ha", self.ha.as_ref(), &no, "a router is on every node that has its networks")?;
        only(
            "availability_zone_hints",
            self.availability_zone_hints.as_ref(),
            &empty,
            "routers are on every node",
        )?;
        only("flavor_id", self.flavor_id.as_ref(), &[], "there is one sort of routers")
    }

    /// The way out that is wanted, if the request says anything of it.
    fn gateway(&self, context: &Context) -> Result<Option<Option<RouterGateway>>, Fault> {
        let Some(wanted) = &self.external_gateway_info else { return Ok(None) };
        let Some(id) = wanted.as_ref().and_then(|wanted| wanted.network_id.as_deref()) else {
            return Ok(Some(None));
        };
        let Some(wanted) = wanted else { return Ok(Some(None)) };
        only("qos_policy_id", wanted.qos_policy_id.as_ref(), &[], "there are no QoS policies")?;
        let Some(network) = context.external(id) else {
            context.network(id)?;
            return Err(Fault::bad(format!("Bad router request: Network {id} is not an external network."))
                .named("BadRequest"));
        };
        let fixed = wanted.external_fixed_ips.as_deref().unwrap_or_default();
        if fixed.len() > 1 {
            return Err(Fault::bad("external_fixed_ips: a router has one outer address."));
        }
        let ip = match fixed.first() {
            Some(fixed) => {
                outer_ports::chosen(network, fixed.subnet_id.as_deref(), fixed.ip_address.as_deref())?
            }
            None => None,
        };
        Ok(Some(Some(RouterGateway {
            network: ids::name(network).to_owned(),
            ip,
            enable_snat: wanted.enable_snat,
        })))
    }
}

/// The router with this id, where the caller may see it.
pub(super) async fn find(session: &Session, id: &str) -> Result<(Router, Context), Fault> {
    let missing = || Fault::not_found("Router", id).named("RouterNotFound");
    let router: Router = session.find_anywhere(id).await?.ok_or_else(missing)?;
    let elsewhere = ids::namespace(&router) != session.namespace()?;
    Ok((router, Context::load(session, elsewhere).await?))
}

/// `GET /routers`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let all = wants_all(&session, &params);
    let routers = if all { session.everywhere::<Router>() } else { session.own()? };
    let (routers, context) = tokio::try_join!(ids::list(&routers), Context::load(&session, all))?;
    let views = routers.iter().map(|router| context.router_view(router)).collect();
    collection(&session, &params, "routers", views)
}

/// `GET /routers/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let (router, context) = find(&session, &id).await?;
    Ok(ok(&json!({"router": with_fields(&params, context.router_view(&router))})))
}

/// `POST /routers`
pub(super) async fn create(session: Session, Json(body): Json<Body>) -> Answer {
    let fields = body.router;
    fields.check()?;
    if fields.routes.as_ref().is_some_and(|routes| routes.iter().flatten().next().is_some()) {
        return Err(Fault::bad("Attribute 'routes' not allowed in POST").named("HTTPBadRequest"));
    }
    let namespace = target(&session, [fields.project_id.as_deref(), fields.tenant_id.as_deref()]).await?;
    let elsewhere = session.namespace().is_ok_and(|own| own != namespace);
    let context = Context::load(&session, elsewhere).await?;
    let gateway = fields.gateway(&context)?.flatten();
    let name = fields.name.filter(|name| !name.is_empty());
    let spec = RouterSpec {
        display_name: name.clone(),
        description: fields.description.filter(|text| !text.is_empty()),
        admin_state_up: fields.admin_state_up,
        gateway,
        ..RouterSpec::default()
    };
    let display = name.unwrap_or_else(|| "router".to_owned());
    let routers = session.within::<Router>(&namespace);
    let router = ids::create(&routers, Router::new("", spec), &display).await.map_err(taken)?;
    Ok(json_response(StatusCode::CREATED, &json!({"router": context.router_view(&router)})))
}

/// `PUT /routers/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.router;
    fields.check()?;
    let (router, context) = find(&session, &id).await?;
    let gateway = fields.gateway(&context)?;
    let before = router.spec.gateway.as_ref().map(|gateway| gateway.network.as_str());
    if let Some(wanted) = &gateway
        && before.is_some()
        && wanted.as_ref().map(|gateway| gateway.network.as_str()) != before
        && served(&session, &router).await?.iter().any(|ip| Some(ip.spec.network.as_str()) == before)
    {
        let text = format!(
            "Gateway cannot be updated for router {id}, since a gateway to external network is required by one or more floating IPs."
        );
        return Err(Fault::conflict(text).named("RouterExternalGatewayInUseByFloatingIp"));
    }
    // Another network's address, and none that was asked for: the API server chooses a new one.
    let gateway = gateway.map(|wanted| match wanted {
        None => Value::Null,
        Some(wanted) => json!({"network": wanted.network, "ip": wanted.ip.or_else(|| {
            let own = router.spec.gateway.as_ref().filter(|own| own.network == wanted.network);
            own.and_then(|own| own.ip.clone())
        }), "enableSnat": wanted.enable_snat}),
    });
    let routes = fields.routes.map(Option::unwrap_or_default);
    extraroutes::check(&id, routes.as_deref().unwrap_or_default())?;
    let changes = Changes::default()
        .set("routes", routes.map(|routes| json!(routes)))
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("adminStateUp", fields.admin_state_up)
        .set("gateway", gateway);
    let changed = changes.apply(&session.within(ids::namespace(&router)), &router).await;
    let router = changed.map_err(extraroutes::refused).map_err(taken)?;
    Ok(ok(&json!({"router": context.router_view(&router)})))
}

/// `DELETE /routers/{id}`: not while it is on a network.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    let (router, _) = find(&session, &id).await?;
    if !router.spec.interfaces.is_empty() {
        return Err(Fault::conflict(format!("Router {id} still has ports")).named("RouterInUse"));
    }
    let routers = session.within::<Router>(ids::namespace(&router));
    routers.delete(ids::name(&router), &change::deletion(&router)?).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Interface {
    #[serde(default)]
    subnet_id: Option<String>,
    #[serde(default)]
    port_id: Option<String>,
    #[serde(default, rename = "router_id")]
    _router: Option<String>,
}

/// The Ports by which a router is on networks.
async fn places(session: &Session, router: &Router) -> Result<Vec<Port>, Fault> {
    let ports = ids::list(&session.within::<Port>(ids::namespace(router))).await?;
    Ok(ports
        .into_iter()
        .filter(|port| router.spec.interfaces.iter().any(|name| ids::name(port) == name))
        .collect())
}

/// The floating IPs that a router serves.
async fn served(session: &Session, router: &Router) -> Result<Vec<FloatingIp>, Fault> {
    let namespace = ids::namespace(router);
    let ports = ids::list(&session.within::<Port>(namespace)).await?;
    let on: Vec<&str> = ports
        .iter()
        .filter(|port| router.spec.interfaces.iter().any(|name| ids::name(*port) == name))
        .map(|port| port.spec.network.as_str())
        .collect();
    let all = ids::list(&session.within::<FloatingIp>(namespace)).await?;
    Ok(all
        .into_iter()
        .filter(|ip| {
            let named = ip.spec.forwardings.iter().map(|it| &it.port).chain(&ip.spec.port);
            let mut led = named.filter_map(|name| ports.iter().find(|port| ids::name(*port) == name));
            led.any(|port| on.contains(&port.spec.network.as_str()))
        })
        .collect())
}

/// `PUT /routers/{id}/add_router_interface`
pub(super) async fn add_interface(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<Interface>,
) -> Answer {
    for id in [&body.subnet_id, &body.port_id].into_iter().flatten() {
        if id.parse::<uuid::Uuid>().is_err() {
            return Err(
                Fault::bad(format!("Bad router request: '{id}' is not a valid UUID.")).named("BadRequest")
            );
        }
    }
    let (router, context) = find(&session, &id).await?;
    let (port, made) = match (&body.subnet_id, &body.port_id) {
        (Some(subnet), None) => {
            let subnet = context.subnet(subnet)?;
            (make_place(&session, &router, subnet).await?, true)
        }
        (None, Some(port)) => (take_place(&session, &router, port).await?, false),
        (Some(_), Some(_)) => {
            return Err(Fault::bad("Bad router request: Cannot specify both subnet-id and port-id.")
                .named("BadRequest"));
        }
        (None, None) => {
            return Err(Fault::bad("Bad router request: Either subnet_id or port_id must be specified.")
                .named("BadRequest"));
        }
    };
    let name = ids::name(&port).to_owned();
    let added = change_interfaces(&session, &router, |all| all.push(name.clone())).await;
    if let Err(fault) = added {
        let ports = session.within::<Port>(ids::namespace(&router));
        if made {
            ports.delete(&name, &DeleteParams::default()).await?;
        } else {
            let back = json!({"spec": {"deviceId": null, "deviceOwner": null}});
            ports.patch(&name, &PatchParams::default(), &Patch::Merge(back)).await?;
        }
        return Err(Fault::bad(format!("Bad router request: {}", fault.message)).named("BadRequest"));
    }
    Ok(ok(&context.interface_view(&router, &port)))
}

/// A new Port with the gateway's address of a subnet.
async fn make_place(session: &Session, router: &Router, subnet: &Subnet) -> Result<Port, Fault> {
    if ids::namespace(subnet) != ids::namespace(router) {
        return Err(Fault::not_found("Subnet", &subnet.id()).named("SubnetNotFound"));
    }
    if subnet.spec.no_gateway {
        return Err(Fault::bad("Bad router request: Subnet for router interface must have a gateway IP.")
            .named("BadRequest"));
    }
    let network = subnet.spec.network.clone();
    let spec = PortSpec {
        network: network.clone(),
        fixed_ips: vec![FixedIp {
            subnet: Some(ids::name(subnet).to_owned()),
            ip: subnet.spec.gateway_ip.clone(),
        }],
        device_id: Some(router.id()),
        device_owner: Some(ROUTER_INTERFACE.to_owned()),
        port_security_enabled: Some(false),
        ..PortSpec::default()
    };
    let mut port = Port::new("", spec);
    port.metadata.labels = Some([(PORT_NETWORK_LABEL.to_owned(), network)].into());
    port.metadata.owner_references = Some(vec![OwnerReference {
        api_version: Router::api_version(&()).into_owned(),
        kind: Router::kind(&()).into_owned(),
        name: ids::name(router).to_owned(),
        uid: router.metadata.uid.clone().unwrap_or_default(),
        controller: None,
        block_owner_deletion: None,
    }]);
    let display = format!("{}-{}", ids::name(router), ids::name(subnet));
    ids::create(&session.within::<Port>(ids::namespace(router)), port, &display).await.map_err(|fault| {
        if fault.message.contains("already used") {
            let text = format!("Bad router request: a router already has a port on subnet {}.", subnet.id());
            return Fault::bad(text).named("BadRequest");
        }
        fault
    })
}

/// A Port that the user made becomes the router's.
async fn take_place(session: &Session, router: &Router, id: &str) -> Result<Port, Fault> {
    let ports = session.within::<Port>(ids::namespace(router));
    let port = session.find(&ports, id).await?;
    let port = port.ok_or_else(|| Fault::not_found("Port", id).named("PortNotFound"))?;
    if port.spec.holder.is_some() || port.spec.device_id.is_some() {
        let text = format!(
            "Unable to complete operation on port {id} for network. Port already has an attached device."
        );
        return Err(Fault::conflict(text).named("PortInUse"));
    }
    let patch = json!({"metadata": {"resourceVersion": port.metadata.resource_version}, "spec": {
        "deviceId": router.id(), "deviceOwner": ROUTER_INTERFACE, "securityGroups": null, "portSecurityEnabled": false,
        "allowedAddressPairs": null,
    }});
    Ok(ports.patch(ids::name(&port), &PatchParams::default(), &Patch::Merge(patch)).await?)
}

async fn change_interfaces(
    session: &Session,
    router: &Router,
    edit: impl Fn(&mut Vec<String>),
) -> Result<(), Fault> {
    let routers = session.within::<Router>(ids::namespace(router));
    let changed = change::edit(&routers, router.clone(), |router| {
        let mut interfaces = router.spec.interfaces.clone();
        edit(&mut interfaces);
        Ok(Changes::default().set("interfaces", Some(json!(interfaces))))
    });
    changed.await.map(drop)
}

/// `PUT /routers/{id}/remove_router_interface`
pub(super) async fn remove_interface(
    session: Session,
    Path(id): Path<String>,
    Json(body): Json<Interface>,
) -> Answer {
    let (router, context) = find(&session, &id).await?;
    let places = places(&session, &router).await?;
    let subnet = match &body.subnet_id {
        Some(subnet) => Some(ids::name(context.subnet(subnet)?).to_owned()),
        None => None,
    };
    if subnet.is_none() && body.port_id.is_none() {
        return Err(Fault::bad("Bad router request: Either subnet_id or port_id must be specified.")
            .named("BadRequest"));
    }
    let found = places.iter().find(|port| {
        let on = |name: &String| port.spec.fixed_ips.iter().any(|fixed| fixed.subnet.as_ref() == Some(name));
        subnet.as_ref().is_none_or(on) && body.port_id.as_ref().is_none_or(|wanted| port.id() == *wanted)
    });
    let Some(port) = found else {
        let what = body.subnet_id.or(body.port_id).unwrap_or_default();
        let text = format!("Router {id} has no interface on subnet or port {what}");
        return Err(Fault::new(StatusCode::NOT_FOUND, text).named("RouterInterfaceNotFoundForSubnet"));
    };
    let ranges: Vec<IpNet> = port
        .spec
        .fixed_ips
        .iter()
        .filter_map(|fixed| {
            let subnet = context.subnets().iter().find(|subnet| {
                Some(ids::name(*subnet)) == fixed.subnet.as_deref()
                    && ids::namespace(*subnet) == ids::namespace(port)
            })?;
            subnet.spec.cidr.parse().ok()
        })
        .collect();
    let needed = served(&session, &router).await?.into_iter().any(|ip| {
        let fixed = ip.spec.forwardings.iter().map(|it| &it.fixed_ip).chain([&ip.spec.fixed_ip]).flatten();
        let mut fixed = fixed.filter_map(|fixed| fixed.parse::<IpAddr>().ok());
        fixed.any(|fixed| ranges.iter().any(|range| range.contains(&fixed)))
    });
    if needed {
        let text = format!(
            "Router interface for router {id} cannot be deleted, as it is required by one or more floating IPs."
        );
        return Err(Fault::conflict(text).named("RouterInterfaceInUseByFloatingIP"));
    }
    let leads = |route: &HostRoute| {
        let by = route.nexthop.parse::<IpAddr>().ok();
        by.is_some_and(|by| ranges.iter().any(|range| range.contains(&by)))
    };
    if router.spec.routes.iter().any(leads) {
        let text = format!(
            "Router interface for router {id} cannot be deleted, as it is required by one or more routes."
        );
        return Err(Fault::conflict(text).named("RouterInterfaceInUseByRoute"));
    }
    let name = ids::name(port).to_owned();
    change_interfaces(&session, &router, |all| all.retain(|other| *other != name)).await?;
    let view = context.interface_view(&router, port);
    let ports = session.within::<Port>(ids::namespace(&router));
    ports.delete(&name, &DeleteParams::default()).await?;
    Ok(ok(&view))
}

impl Context {
    /// A router as Neutron shows it.
    pub(super) fn router_view(&self, router: &Router) -> Value {
        let spec = &router.spec;
        let gateway = spec.gateway.as_ref().and_then(|gateway| {
            let network = self.external_named(&gateway.network)?;
            let subnet = gateway.ip.as_deref().and_then(|ip| self.subnet_of(network, ip));
            Some(json!({
                "network_id": network.id(), "enable_snat": gateway.enable_snat.unwrap_or(true),
                "external_fixed_ips": [{"subnet_id": subnet, "ip_address": gateway.ip}],
            }))
        });
        let up = spec.admin_state_up.unwrap_or(true);
        let view = json!({
            "description": spec.description.as_deref().unwrap_or_default(), "admin_state_up": up, "status": "ACTIVE",
            "external_gateway_info": gateway, "routes": extraroutes::view(&spec.routes), "availability_zones": [], "availability_zone_hints": [],
            "flavor_id": null, "distributed": false, "ha": false,
        });
        let mut view = self.with_base(router, view);
        view["name"] = json!(spec.display_name.as_deref().unwrap_or_default());
        view
    }

    fn interface_view(&self, router: &Router, port: &Port) -> Value {
        let project = self.project_of(router);
        let subnets: Vec<String> = port
            .spec
            .fixed_ips
            .iter()
            .filter_map(|fixed| self.subnet_id(ids::namespace(port), fixed.subnet.as_deref()?))
            .collect();
        json!({
            "id": router.id(), "tenant_id": project, "project_id": project, "port_id": port.id(),
            "network_id": self.network_id(ids::namespace(port), &port.spec.network), "subnet_id": subnets.first(),
            "subnet_ids": subnets, "tags": [],
        })
    }

    /// The ports by which routers have their outer addresses: shown to admins, as Neutron's are nobody's.
    pub(super) fn gateway_ports(&self, routers: &[Router]) -> Vec<Value> {
        let of = |router: &Router| {
            let gateway = self.router_view(router)["external_gateway_info"].clone();
            let id = ids::stable(&format!("gateway:{}", router.id()));
            let id = format!("{}-{}-{}-{}-{}", &id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]);
            gateway.is_object().then(|| {
                json!({
                    "id": id, "name": "", "network_id": gateway["network_id"], "fixed_ips": gateway["external_fixed_ips"],
                    "device_id": router.id(), "device_owner": "network:router_gateway", "status": "ACTIVE",
                    "mac_address": outer_ports::NO_LINK,
                    "admin_state_up": true, "tenant_id": "", "project_id": "", "security_groups": [],
                    "port_security_enabled": false, "allowed_address_pairs": [], "extra_dhcp_opts": [],
                    "description": "", "binding:vnic_type": "normal", "tags": [], "revision_number": 1,
                })
            })
        };
        routers.iter().filter_map(of).collect()
    }
}
