//! External networks, with their subnets: Neutron's `router:external` networks, which every project sees.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{
    AllocationPool, ExternalNetwork, ExternalNetworkSpec, ExternalSubnet, FloatingIp, Network, NetworkSpec,
    Router, Subnet, SubnetSpec,
};

use super::networks;
use super::outer_ports::is_port;
use super::subnets::owned_by;
use super::view::{Context, default_pools};
use crate::auth::Session;
use crate::change;
use crate::error::Fault;
use crate::ids;

/// The largest packet to and from outside, bytes.
const MTU: u32 = 1500;

/// Makes an external network; the API server says who may.
pub(super) async fn make(
    session: &Session,
    name: Option<String>,
    description: Option<String>,
) -> Result<Value, Fault> {
    let display = name.clone().unwrap_or_else(|| "external".to_owned());
    let spec = ExternalNetworkSpec {
        display_name: name,
        description,
        project: Some(session.project_id().to_owned()),
        ..ExternalNetworkSpec::default()
    };
    let made =
        ids::create(&session.global::<ExternalNetwork>(), ExternalNetwork::new("", spec), &display).await?;
    Ok(Context::load(session, false).await?.external_view(&made))
}

/// Changes what people read of it.
pub(super) async fn change(
    session: &Session,
    network: &ExternalNetwork,
    name: Option<String>,
    description: Option<String>,
) -> Result<ExternalNetwork, Fault> {
    let changes = change::Changes::default().set("displayName", name).set("description", description);
    changes.apply(&session.global(), network).await
}

/// Takes it away, with the floating IPs that lead nowhere, as Neutron does; not while a router or another floating IP has an address of it.
pub(super) async fn remove(session: &Session, network: &ExternalNetwork) -> Result<(), Fault> {
    let name = ids::name(network);
    let (floating, routers) = (session.everywhere::<FloatingIp>(), session.everywhere::<Router>());
    let (mut floating, routers) = tokio::try_join!(ids::list(&floating), ids::list(&routers))?;
    floating.retain(|ip| ip.spec.network == name);
    let leads_out =
        |router: &Router| router.spec.gateway.as_ref().is_some_and(|gateway| gateway.network == name);
    if !routers.iter().any(leads_out) && floating.iter().all(|ip| ip.spec.port.is_none() && !is_port(ip)) {
        for ip in &floating {
            let within = session.within::<FloatingIp>(ids::namespace(ip));
            // As it was looked at: one that has been given to a port meanwhile stays, and the network with it.
            let unchanged = Preconditions {
                resource_version: ip.metadata.resource_version.clone(),
                uid: ip.metadata.uid.clone(),
            };
            let params = DeleteParams { preconditions: Some(unchanged), ..DeleteParams::default() };
            match within.delete(ids::name(ip), &params).await {
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
                other => drop(other?),
            }
        }
    }
    let networks = session.global::<ExternalNetwork>();
    match networks.delete(ids::name(network), &change::deletion(network)?).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Err(Fault::conflict(format!(
            "Unable to complete operation on network {}. There are one or more addresses still in use on the network: {}",
            network.id(),
            status.message
        ))
        .named("NetworkInUse")),
        other => Ok(other.map(drop)?),
    }
}

/// Makes a tenant's network an external one with the same id. It has no ports then, and is nobody's but all's.
pub(super) async fn to_outside(session: &Session, network: &Network, context: &Context) -> Result<(), Fault> {
    let spec = &network.spec;
    let refused = |why: &str| {
        let text = format!("Unable to make network {} an external one: {why}.", network.id());
        Err(Fault::conflict(text).named("NetworkInUse"))
    };
    if !spec.shared_with.is_empty() {
        return refused("it is shared with projects; take its RBAC policies away first");
    }
    let mut subnets = Vec::new();
    for subnet in context.subnets() {
        if subnet.spec.network != ids::name(network) || ids::namespace(subnet) != ids::namespace(network) {
            continue;
        }
        if subnet.spec.subnet_pool.is_some() || !subnet.spec.host_routes.is_empty() {
            return refused("a subnet of it is of a subnet pool or has host routes, which none outside has");
        }
        let shown = context.subnet_view(subnet);
        subnets.push(ExternalSubnet {
            id: subnet.id(),
            display_name: subnet.spec.display_name.clone(),
            cidr: subnet.spec.cidr.clone(),
            gateway_ip: shown["gateway_ip"].as_str().map(str::to_owned),
            allocation_pools: subnet.spec.allocation_pools.clone(),
        });
    }
    let outer = ExternalNetworkSpec {
        id: Some(network.id()),
        display_name: spec.display_name.clone(),
        description: spec.description.clone(),
        project: Some(context.project_of(network).to_owned()),
        subnets,
        tags: spec.tags.clone(),
    };
    let networks = session.global::<ExternalNetwork>();
    let made = ids::create(&networks, ExternalNetwork::new("", outer), &network.display_name()).await?;
    if let Err(fault) = networks::remove_own(session, network, context).await {
        networks.delete(ids::name(&made), &DeleteParams::default()).await?;
        return Err(fault);
    }
    Ok(())
}

/// Makes an external network one of the project that made it, with the same id. Nobody has an address of it then.
pub(super) async fn to_tenant(session: &Session, network: &ExternalNetwork) -> Result<(), Fault> {
    let name = ids::name(network);
    let (floating, routers) = (session.everywhere::<FloatingIp>(), session.everywhere::<Router>());
    let (floating, routers) = tokio::try_join!(ids::list(&floating), ids::list(&routers))?;
    let leads_out =
        |router: &Router| router.spec.gateway.as_ref().is_some_and(|gateway| gateway.network == name);
    if floating.iter().any(|ip| ip.spec.network == name) || routers.iter().any(leads_out) {
        let text =
            format!("External network {} cannot be updated: its addresses are still in use.", network.id());
        return Err(Fault::conflict(text).named("ExternalNetworkInUse"));
    }
    let spec = &network.spec;
    let project = spec.project.as_deref().unwrap_or(session.project_id());
    let namespace = networks::target(session, [Some(project), None]).await?;
    let own = NetworkSpec {
        id: Some(network.id()),
        display_name: spec.display_name.clone(),
        description: spec.description.clone(),
        mtu: networks::MTU,
        tags: spec.tags.clone(),
        ..NetworkSpec::default()
    };
    let networks = session.within::<Network>(&namespace);
    let display = networks::object_name(spec.display_name.as_deref());
    let made = ids::create(&networks, Network::new("", own), display).await?;
    let moved = match move_in(session, &made, &spec.subnets).await {
        Ok(()) => remove(session, network).await,
        other => other,
    };
    if let Err(fault) = moved {
        // Its subnets go with it.
        networks.delete(ids::name(&made), &DeleteParams::default()).await?;
        return Err(fault);
    }
    Ok(())
}

/// Makes subnets of a tenant's network of those that it had outside.
async fn move_in(session: &Session, network: &Network, subnets: &[ExternalSubnet]) -> Result<(), Fault> {
    for subnet in subnets {
        let spec = SubnetSpec {
            id: Some(subnet.id.clone()),
            display_name: subnet.display_name.clone(),
            network: ids::name(network).to_owned(),
            cidr: subnet.cidr.clone(),
            gateway_ip: subnet.gateway_ip.clone(),
            no_gateway: subnet.gateway_ip.is_none(),
            allocation_pools: subnet.allocation_pools.clone(),
            ..SubnetSpec::default()
        };
        let display = subnet.display_name.as_deref().unwrap_or("subnet");
        let mut own = Subnet::new("", spec);
        own.metadata.owner_references = Some(vec![owned_by(network)]);
        ids::create(&session.within::<Subnet>(ids::namespace(network)), own, display).await?;
    }
    Ok(())
}

async fn write(
    session: &Session,
    network: &ExternalNetwork,
    subnets: &[ExternalSubnet],
) -> Result<(), Fault> {
    let patch = json!({
        "metadata": {"resourceVersion": network.metadata.resource_version}, "spec": {"subnets": subnets},
    });
    let networks = session.global::<ExternalNetwork>();
    networks.patch(ids::name(network), &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// Adds a range of addresses.
pub(super) async fn add_subnet(
    session: &Session,
    network: &ExternalNetwork,
    name: Option<String>,
    cidr: String,
    gateway: Option<Option<String>>,
    pools: Vec<AllocationPool>,
) -> Result<Value, Fault> {
    let first = || {
        let net: Ipv4Net = cidr.parse().ok()?;
        net.hosts().next().map(|ip| ip.to_string())
    };
    let subnet = ExternalSubnet {
        id: uuid::Uuid::new_v4().to_string(),
        display_name: name,
        gateway_ip: gateway.unwrap_or_else(first),
        allocation_pools: pools,
        cidr,
    };
    let mut subnets = network.spec.subnets.clone();
    subnets.push(subnet.clone());
    write(session, network, &subnets).await?;
    Ok(Context::load(session, false).await?.external_subnet_view(network, &subnet))
}

/// Takes a range of addresses away.
pub(super) async fn remove_subnet(
    session: &Session,
    network: &ExternalNetwork,
    id: &str,
) -> Result<(), Fault> {
    let mut subnets = network.spec.subnets.clone();
    subnets.retain(|subnet| subnet.id != id);
    write(session, network, &subnets).await.map_err(|fault| match fault.status.as_u16() {
        409 => fault.named("SubnetInUse"),
        _ => fault,
    })
}

impl Context {
    /// The external network with this id.
    pub(super) fn external(&self, id: &str) -> Option<&ExternalNetwork> {
        self.externals().iter().find(|network| network.id() == id)
    }

    /// The external network's subnet with this id, and the network.
    pub(super) fn external_subnet(&self, id: &str) -> Option<(&ExternalNetwork, &ExternalSubnet)> {
        self.externals()
            .iter()
            .find_map(|network| Some((network, network.spec.subnets.iter().find(|subnet| subnet.id == id)?)))
    }

    /// The external network that objects call so.
    pub(super) fn external_named(&self, name: &str) -> Option<&ExternalNetwork> {
        self.externals().iter().find(|network| ids::name(*network) == name)
    }

    /// The id of its subnet that an address is of.
    pub(super) fn subnet_of<'a>(&self, network: &'a ExternalNetwork, ip: &str) -> Option<&'a str> {
        let ip: Ipv4Addr = ip.parse().ok()?;
        let of = |subnet: &&ExternalSubnet| subnet.cidr.parse::<Ipv4Net>().is_ok_and(|net| net.contains(&ip));
        network.spec.subnets.iter().find(of).map(|subnet| subnet.id.as_str())
    }

    fn with_project(&self, mut view: Value, network: &ExternalNetwork) -> Value {
        let project = json!(network.spec.project.as_deref().unwrap_or_default());
        view["tenant_id"] = project.clone();
        view["project_id"] = project;
        view
    }

    pub(super) fn external_view(&self, network: &ExternalNetwork) -> Value {
        let spec = &network.spec;
        let subnets: Vec<&str> = spec.subnets.iter().map(|subnet| subnet.id.as_str()).collect();
        let view = json!({
            "description": spec.description.as_deref().unwrap_or_default(), "admin_state_up": true, "status": "ACTIVE",
            "shared": false, "router:external": true, "is_default": false, "mtu": MTU, "availability_zone_hints": [],
            "port_security_enabled": true, "qos_policy_id": null, "availability_zones": [], "ipv4_address_scope": null,
            "ipv6_address_scope": null, "subnets": subnets,
        });
        self.with_project(self.with_base(network, view), network)
    }

    pub(super) fn external_subnet_view(&self, network: &ExternalNetwork, subnet: &ExternalSubnet) -> Value {
        let gateway = subnet.gateway_ip.as_deref().and_then(|ip| ip.parse().ok());
        let pools: Vec<Value> = if subnet.allocation_pools.is_empty() {
            let pools = subnet.cidr.parse().map(|net| default_pools(net, gateway)).unwrap_or_default();
            pools.into_iter().map(|(start, end)| json!({"start": start, "end": end})).collect()
        } else {
            subnet.allocation_pools.iter().map(|pool| json!({"start": pool.start, "end": pool.end})).collect()
        };
        let view = json!({
            "network_id": network.id(), "ip_version": 4, "cidr": subnet.cidr, "gateway_ip": subnet.gateway_ip,
            "enable_dhcp": false, "allocation_pools": pools, "dns_nameservers": [], "host_routes": [],
            "ipv6_ra_mode": null, "ipv6_address_mode": null, "subnetpool_id": null, "description": "", "service_types": [],
        });
        let mut view = self.with_project(self.with_base(network, view), network);
        view["id"] = json!(subnet.id);
        view["tags"] = json!([]);
        view["name"] = json!(subnet.display_name.as_deref().unwrap_or_default());
        view
    }
}
