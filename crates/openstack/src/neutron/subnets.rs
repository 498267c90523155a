//! Subnets.

use std::net::Ipv4Addr;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ipnet::Ipv4Net;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{
    AllocationPool, FixedIp, HostRoute, Network, Port, ROUTER_INTERFACE, Subnet, SubnetSpec,
};

use super::bulk::Bulk;
use super::external;
use super::networks::{self, check_project};
use super::subnetpools::{self, Length};
use super::view::{Context, HIDDEN, collection, wants_all, with_fields};
use crate::auth::Session;
use crate::body::{Json, Params, explicit, only};
use crate::change::{self, Changes};
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::ok;

/// How often another range of a pool is tried that others take from, too.
const ATTEMPTS: usize = 20;

/// What the owners of ports begin with.
const DEVICE_OWNERS: [&str; 4] = ["network:", "compute:", "baremetal:", "trunk:"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    subnet: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    network_id: Option<String>,
    #[serde(default)]
    cidr: Option<String>,
    #[serde(default)]
    ip_version: Option<Value>,
    #[serde(default, deserialize_with = "explicit")]
    gateway_ip: Option<Option<String>>,
    #[serde(default)]
    enable_dhcp: Option<bool>,
    #[serde(default)]
    allocation_pools: Option<Vec<AllocationPool>>,
    #[serde(default)]
    dns_nameservers: Option<Vec<String>>,
    #[serde(default)]
    project_id: Option<String>,
    #[serde(default)]
    tenant_id: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    host_routes: Option<Vec<HostRoute>>,
    #[serde(default)]
    subnetpool_id: Option<String>,
    #[serde(default)]
    use_default_subnetpool: Option<Value>,
    #[serde(default)]
    prefixlen: Option<Length>,
    #[serde(default)]
    ipv6_ra_mode: Option<Value>,
    #[serde(default)]
    ipv6_address_mode: Option<Value>,
    #[serde(default)]
    segment_id: Option<Value>,
    #[serde(default)]
    service_types: Option<Vec<String>>,
    #[serde(default)]
    dns_publish_fixed_ip: Option<Value>,
}

impl Fields {
    fn check(&self) -> Result<(), Fault> {
        ids::check_name("name", self.name.as_deref().unwrap_or_default(), true)?;
        let no = [json!(false)];
        only("ip_version", self.ip_version.as_ref(), &[json!(4), json!("4")], "only IPv4 is served")?;
        ids::check_name("description", self.description.as_deref().unwrap_or_default(), true)?;
        for route in self.host_routes.iter().flatten() {
            address("host_routes", &route.nexthop)?;
            route.destination.parse::<Ipv4Net>().map_err(|_| {
                let range = &route.destination;
                Fault::bad(format!("Invalid input for host_routes. '{range}' is not a valid IP subnet."))
            })?;
        }
        if let Some(Some(gateway)) = &self.gateway_ip {
            address("gateway_ip", gateway)?;
        }
        only(
            "use_default_subnetpool",
            self.use_default_subnetpool.as_ref(),
            &no,
            "no subnet pool is chosen by itself",
        )?;
        only("ipv6_ra_mode", self.ipv6_ra_mode.as_ref(), &[], "only IPv4 is served")?;
        only("ipv6_address_mode", self.ipv6_address_mode.as_ref(), &[], "only IPv4 is served")?;
        only("segment_id", self.segment_id.as_ref(), &[], "a network is one segment")?;
        for kind in self.service_types.iter().flatten() {
            if !DEVICE_OWNERS.iter().any(|prefix| kind.starts_with(prefix)) {
                return Err(Fault::bad(format!(
                    "Invalid input for service_types. Subnet service type {kind} does not correspond to a valid device owner."
                ))
                .named("InvalidSubnetServiceType"));
            }
        }
        only("dns_publish_fixed_ip", self.dns_publish_fixed_ip.as_ref(), &no, "there is no external DNS")?;
        for server in self.dns_nameservers.iter().flatten() {
            address("dns_nameservers", server)?;
        }
        Ok(())
    }
}

fn address(field: &str, text: &str) -> Result<Ipv4Addr, Fault> {
    text.parse()
        .map_err(|_| Fault::bad(format!("Invalid input for {field}. '{text}' is not a valid IPv4 address.")))
}

/// Checks what can be said of a range by itself; what it must not overlap with, the API server knows. As in Neutron, an address within it may
/// stand for it.
fn range(text: &str) -> Result<Ipv4Net, Fault> {
    let net = text.parse::<Ipv4Net>();
    net.map(|net| net.trunc())
        .map_err(|_| Fault::bad(format!("Invalid input for cidr. '{text}' is not a valid IPv4 subnet.")))
}

async fn find(session: &Session, id: &str) -> Result<(Subnet, Context), Fault> {
    Context::find(session, id, Context::subnet).await
}

/// `GET /subnets`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let context = Context::load(&session, wants_all(&session, &params)).await?;
    let own = context.subnets().iter().map(|subnet| {
        let mut view = context.subnet_view(subnet);
        // It is asked for, and not shown.
        view[HIDDEN] = json!(context.is_shared(ids::namespace(subnet), &subnet.spec.network));
        view
    });
    // As in Neutron, all see an external network, but admins alone its subnets.
    let outer = context.externals().iter().filter(|_| session.is_admin()).flat_map(|network| {
        network.spec.subnets.iter().map(|subnet| {
            let mut view = context.external_subnet_view(network, subnet);
            view[HIDDEN] = json!(false);
            view
        })
    });
    collection(&session, &params, "subnets", own.chain(outer).collect())
}

/// `GET /subnets/{id}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let context = Context::load(&session, false).await?;
    if let Some((network, subnet)) = context.external_subnet(&id).filter(|_| session.is_admin()) {
        let view = context.external_subnet_view(network, subnet);
        return Ok(ok(&json!({"subnet": with_fields(&params, view)})));
    }
    let (subnet, context) = find(&session, &id).await?;
    Ok(ok(&json!({"subnet": with_fields(&params, context.subnet_view(&subnet))})))
}

/// `POST /subnets`
pub(super) async fn create(session: Session, Json(body): Json<Value>) -> Answer {
    let made = |body: Body| make(&session, body.subnet);
    let gone = |id: String| {
        let session = &session;
        async move { remove(session, &id).await }
    };
    Bulk::of(body, "subnet", "subnets")?.make(made, gone).await
}

async fn make(session: &Session, fields: Fields) -> Result<Value, Fault> {
    fields.check()?;
    let missing = |field: &str| {
        Fault::bad(format!("Failed to parse request. Required attribute '{field}' not specified"))
    };
    let network_id = fields.network_id.as_deref().ok_or_else(|| missing("network_id"))?;
    let pool = match &fields.subnetpool_id {
        Some(id) => Some(subnetpools::find(session, id).await?),
        None => None,
    };
    if fields.prefixlen.is_some() && (fields.cidr.is_some() || pool.is_none()) {
        return Err(Fault::bad("prefixlen: it is for a range of a subnet pool, where no cidr is given."));
    }
    let net = match (&fields.cidr, &pool) {
        (Some(cidr), _) => range(cidr)?,
        (None, Some(pool)) => {
            let taken = subnetpools::ranges(session, pool).await?;
            subnetpools::free(&pool.spec, &taken, fields.prefixlen.map(|length| length.0))?
        }
        (None, None) => return Err(missing("cidr")),
    };
    if let Some((network, _)) = networks::outer(session, network_id).await? {
        let of = fields.subnetpool_id.map(Value::from);
        only("subnetpool_id", of.as_ref(), &[], "external networks have ranges of their own")?;
        let types = fields.service_types.map(|all| json!(all));
        only("service_types", types.as_ref(), &[json!([])], "external networks have no ports of tenants")?;
        let why = "external networks have neither DHCP nor routes of their own";
        only("host_routes", fields.host_routes.map(|all| json!(all)).as_ref(), &[json!([])], why)?;
        // Clients ask for DHCP unless they are told not to; no port of a tenant is there to be answered.
        let servers = fields.dns_nameservers.map(|all| json!(all));
        only("dns_nameservers", servers.as_ref(), &[json!([])], why)?;
        let name = fields.name.filter(|name| !name.is_empty());
        let pools = fields.allocation_pools.unwrap_or_default();
        return external::add_subnet(session, &network, name, net.to_string(), fields.gateway_ip, pools)
            .await;
    }
    let (network, context) = networks::find(session, network_id).await?;
    check_project(&context, &network, [fields.project_id.as_deref(), fields.tenant_id.as_deref()])?;
    if pool.as_ref().is_some_and(|pool| ids::namespace(pool) != ids::namespace(&network)) {
        return Err(Fault::bad("subnetpool_id: the pool is of another project than the network."));
    }
    let name = fields.name.filter(|name| !name.is_empty());
    let spec = SubnetSpec {
        id: None,
        display_name: name.clone(),
        network: ids::name(&network).to_owned(),
        cidr: net.to_string(),
        no_gateway: fields.gateway_ip == Some(None),
        gateway_ip: fields.gateway_ip.flatten(),
        description: fields.description.filter(|text| !text.is_empty()),
        host_routes: fields.host_routes.unwrap_or_default(),
        allocation_pools: fields.allocation_pools.unwrap_or_default(),
        enable_dhcp: fields.enable_dhcp.unwrap_or(true),
        dns_nameservers: fields.dns_nameservers.unwrap_or_default(),
        service_types: fields.service_types.unwrap_or_default(),
        subnet_pool: pool.as_ref().map(|pool| ids::name(pool).to_owned()),
        tags: Vec::new(),
    };
    let display = name.unwrap_or_else(|| format!("{}-subnet", ids::name(&network)));
    let mut subnet = Subnet::new("", spec);
    subnet.metadata.owner_references = Some(vec![owned_by(&network)]);
    let subnets = session.within::<Subnet>(ids::namespace(&network));
    let mut made = ids::create(&subnets, subnet.clone(), &display).await;
    for _ in 0..ATTEMPTS {
        let (Err(fault), Some(pool), None) = (&made, &pool, &fields.cidr) else { break };
        if !fault.message.contains("of the same SubnetPool") {
            break;
        }
        // Another was faster with the range.
        let taken = subnetpools::ranges(session, pool).await?;
        let length = fields.prefixlen.map(|length| length.0);
        subnet.spec.cidr = subnetpools::free(&pool.spec, &taken, length)?.to_string();
        made = ids::create(&subnets, subnet.clone(), &display).await;
    }
    let subnet = made.map_err(|fault| {
        if fault.message.contains("of the same Network") {
            // Clients look for these words, and try another range.
            return Fault::bad(format!(
                "Invalid input for operation: Requested subnet with cidr: {} for network: {network_id} overlaps with another subnet.",
                subnet.spec.cidr
            ))
            .named("InvalidInput");
        }
        fault
    })?;
    let mut view = context.subnet_view(&subnet);
    // The first of a pool: the context was loaded before.
    view["subnetpool_id"] = json!(pool.map(|pool| pool.id()));
    Ok(view)
}

/// A subnet goes with its network.
pub(super) fn owned_by(network: &Network) -> OwnerReference {
    OwnerReference {
        api_version: Network::api_version(&()).into_owned(),
        kind: Network::kind(&()).into_owned(),
        name: network.name_any(),
        uid: network.uid().unwrap_or_default(),
        controller: None,
        block_owner_deletion: None,
    }
}

/// `PUT /subnets/{id}`
pub(super) async fn update(session: Session, Path(id): Path<String>, Json(body): Json<Body>) -> Answer {
    let fields = body.subnet;
    fields.check()?;
    let fixed = [
        ("network_id", &fields.network_id),
        ("cidr", &fields.cidr),
        ("subnetpool_id", &fields.subnetpool_id),
    ];
    for (field, given) in fixed {
        if given.is_some() {
            return Err(Fault::bad(format!("Attribute {field} cannot be updated.")));
        }
    }
    if fields.prefixlen.is_some() {
        return Err(Fault::bad("Attribute prefixlen cannot be updated."));
    }
    let (subnet, context) = find(&session, &id).await?;
    if let Some(Some(gateway)) = &fields.gateway_ip
        && subnet.spec.gateway_ip.as_ref() != Some(gateway)
        && let Some(port) = user(&session, &subnet).await?
    {
        let old = subnet.spec.gateway_ip.as_deref().unwrap_or_default();
        return Err(Fault::conflict(format!(
            "Current gateway ip {old} already in use by port {}. Unable to update: what has an address of the subnet goes on using it.",
            port.id()
        ))
        .named("GatewayIpInUse"));
    }
    if fields.gateway_ip == Some(None) && !subnet.spec.no_gateway {
        refuse_routed(&session, &subnet).await?;
    }
    let changes = Changes::default()
        .set("displayName", fields.name)
        .set("description", fields.description)
        .set("noGateway", fields.gateway_ip.as_ref().map(Option::is_none))
        .set("gatewayIp", fields.gateway_ip.flatten())
        .set("hostRoutes", fields.host_routes.map(|routes| json!(routes)))
        .set("enableDhcp", fields.enable_dhcp)
        .set("dnsNameservers", fields.dns_nameservers)
        .set("serviceTypes", fields.service_types)
        .set("allocationPools", fields.allocation_pools.map(|pools| json!(pools)));
    let subnets = session.within::<Subnet>(ids::namespace(&subnet));
    let subnet = changes.apply(&subnets, &subnet).await?;
    Ok(ok(&json!({"subnet": context.subnet_view(&subnet)})))
}

/// Refuses to take the gateway away where a router has its address.
async fn refuse_routed(session: &Session, subnet: &Subnet) -> Result<(), Fault> {
    let ports = ids::list(&session.within::<Port>(ids::namespace(subnet))).await?;
    let routed = |port: &&Port| {
        let on = |fixed: &FixedIp| fixed.subnet.as_deref() == Some(ids::name(subnet));
        port.spec.device_owner.as_deref() == Some(ROUTER_INTERFACE) && port.spec.fixed_ips.iter().any(on)
    };
    match ports.iter().find(routed) {
        None => Ok(()),
        Some(port) => {
            let ip = subnet.spec.gateway_ip.as_deref().unwrap_or_default();
            let text =
                format!("Current gateway ip {ip} already in use by port {}. Unable to update.", port.id());
            Err(Fault::conflict(text).named("GatewayIpInUse"))
        }
    }
}

/// `DELETE /subnets/{id}`: not while a port has an address of it.
pub(super) async fn delete(session: Session, Path(id): Path<String>) -> Answer {
    remove(&session, &id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn remove(session: &Session, id: &str) -> Result<(), Fault> {
    let context = Context::load(session, false).await?;
    if let Some((network, _)) = context.external_subnet(id) {
        return external::remove_subnet(session, network, id).await;
    }
    let (subnet, _) = find(session, id).await?;
    let (namespace, name) = (ids::namespace(&subnet), ids::name(&subnet));
    if let Some(port) = user(session, &subnet).await? {
        return Err(Fault::conflict(format!(
            "Unable to complete operation on subnet {id}: One or more ports have an IP allocation from this subnet, for \
             example {}.",
            port.id()
        ))
        .named("SubnetInUse"));
    }
    match session.within::<Subnet>(namespace).delete(name, &change::deletion(&subnet)?).await {
        // By ports of other projects, which only the API server sees.
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let text = format!("Unable to complete operation on subnet {id}: {}", status.message);
            Err(Fault::conflict(text).named("SubnetInUse"))
        }
        other => {
            other?;
            Ok(())
        }
    }
}

/// A port that has an address of the subnet.
async fn user(session: &Session, subnet: &Subnet) -> Result<Option<Port>, Fault> {
    let name = Some(ids::name(subnet));
    let ports = ids::list(&session.within::<Port>(ids::namespace(subnet))).await?;
    let uses = |port: &Port| port.spec.fixed_ips.iter().any(|fixed| fixed.subnet.as_deref() == name);
    Ok(ports.into_iter().find(uses))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;

    #[test]
    fn ranges_are_checked() {
        assert!(range("10.0.0.0/24").is_ok());
        assert_eq!(range("10.0.0.1/24").unwrap().to_string(), "10.0.0.0/24");
        for bad in ["10.0.0.0", "fd00::/64", "x"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_programmed_is_refused() {
        let check = |text: &str| {
            parse::<Body>(format!(r#"{{"subnet": {text}}}"#).as_bytes()).and_then(|body| body.subnet.check())
        };
        assert!(
            check(r#"{"network_id": "n", "cidr": "10.0.0.0/24", "ip_version": 4, "host_routes": []}"#)
                .is_ok()
        );
        for text in [
            r#"{"ip_version": 6}"#,
            r#"{"gateway_ip": "gate"}"#,
            r#"{"host_routes": [{"destination": "far", "nexthop": "10.0.0.1"}]}"#,
            r#"{"prefixlen": 33}"#,
            r#"{"use_default_subnetpool": true}"#,
            r#"{"dns_nameservers": ["dns.example"]}"#,
            r#"{"allocation_pools": [{"start": "10.0.0.2"}]}"#,
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
