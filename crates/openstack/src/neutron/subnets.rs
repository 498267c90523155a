//! Subnets.

use std::net::IpAddr;

use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};
use serde::Deserialize;
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::network::{
    AllocationPool, FixedIp, HostRoute, Ipv6Mode, Network, Port, ROUTER_INTERFACE, Subnet, SubnetSpec,
};

use super::bulk::Bulk;
use super::external;
use super::networks::{self, check_project};
use super::subnet_modes::{give, mode, take};
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
    ipv6_ra_mode: Option<String>,
    #[serde(default)]
    ipv6_address_mode: Option<String>,
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
        self.version()?;
        ids::check_name("description", self.description.as_deref().unwrap_or_default(), true)?;
        for route in self.host_routes.iter().flatten() {
            address("host_routes", &route.nexthop)?;
            route.destination.parse::<IpNet>().map_err(|_| {
                let range = &route.destination;
                Fault::bad(format!("Invalid input for host_routes. '{range}' is not a valid IP subnet."))
            })?;
        }
        if let Some(Some(gateway)) = &self.gateway_ip {
            address("gateway_ip", gateway)?;
        }
        self.modes()?;
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

    /// Which version is asked for, if the request says so.
    fn version(&self) -> Result<Option<u8>, Fault> {
        let Some(given) = &self.ip_version else { return Ok(None) };
        let number = given.as_u64().or_else(|| given.as_str()?.parse().ok());
        match number {
            Some(4) => Ok(Some(4)),
            Some(6) => Ok(Some(6)),
            _ => {
                Err(Fault::bad(format!("Invalid input for ip_version. Reason: '{given}' is not in [4, 6].")))
            }
        }
    }

    fn modes(&self) -> Result<(Option<Ipv6Mode>, Option<Ipv6Mode>), Fault> {
        let told = mode("ipv6_ra_mode", self.ipv6_ra_mode.as_deref())?;
        Ok((told, mode("ipv6_address_mode", self.ipv6_address_mode.as_deref())?))
    }

    /// What of a new subnet must be of the same version as its range, and its modes: Neutron's rules, and its words.
    fn check_new(&self, net: IpNet) -> Result<(), Fault> {
        let version = version_of(net);
        self.check_version(version)?;
        if self.version()?.is_some_and(|wanted| wanted != version) {
            let wanted = self.version()?.unwrap_or_default();
            return Err(invalid(format!("cidr '{net}' does not match the ip_version '{wanted}'")));
        }
        let (told, made) = self.modes()?;
        if told.is_none() && made.is_none() {
            return Ok(());
        }
        if version == 4 {
            let field = if told.is_some() { "ipv6_ra_mode" } else { "ipv6_address_mode" };
            return Err(invalid(format!("{field} is not valid when ip_version is 4")));
        }
        if self.enable_dhcp == Some(false) {
            let text = "ipv6_ra_mode or ipv6_address_mode cannot be set when enable_dhcp is set to False";
            return Err(invalid(text.to_owned()));
        }
        if let (Some(_), Some(_)) = (told, made)
            && told != made
        {
            return Err(invalid(format!(
                "ipv6_ra_mode set to '{}' with ipv6_address_mode set to '{}' is not valid. If both attributes are set, they must be the same value",
                self.ipv6_ra_mode.as_deref().unwrap_or_default(),
                self.ipv6_address_mode.as_deref().unwrap_or_default()
            )));
        }
        let spec = SubnetSpec { ra_mode: told, address_mode: made, ..SubnetSpec::default() };
        if spec.is_automatic() && net.prefix_len() != 64 {
            return Err(invalid(format!(
                "Invalid CIDR {net} for IPv6 address mode. OpenStack uses the EUI-64 address format, which requires the prefix to be /64"
            )));
        }
        Ok(())
    }

    /// Whether all addresses are of the subnet's version.
    fn check_version(&self, version: u8) -> Result<(), Fault> {
        let check = |name: &str, text: &str| {
            let ip = text.split('/').next().unwrap_or_default().parse::<IpAddr>();
            match ip.is_ok_and(|ip| ip.is_ipv4() == (version == 4)) {
                true => Ok(()),
                false => Err(invalid(format!("{name} '{text}' does not match the ip_version '{version}'"))),
            }
        };
        if let Some(Some(gateway)) = &self.gateway_ip {
            check("gateway_ip", gateway)?;
        }
        for server in self.dns_nameservers.iter().flatten() {
            check("dns_nameserver", server)?;
        }
        for route in self.host_routes.iter().flatten() {
            check("nexthop", &route.nexthop)?;
            check("destination", &route.destination)?;
        }
        for pool in self.allocation_pools.iter().flatten() {
            check("allocation_pool", &pool.start)?;
            check("allocation_pool", &pool.end)?;
        }
        Ok(())
    }
}

fn invalid(text: String) -> Fault {
    Fault::bad(format!("Invalid input for operation: {text}.")).named("InvalidInput")
}

fn address(field: &str, text: &str) -> Result<IpAddr, Fault> {
    text.parse()
        .map_err(|_| Fault::bad(format!("Invalid input for {field}. '{text}' is not a valid IP address.")))
}

/// Checks what can be said of a range by itself; what it must not overlap with, the API server knows. As in Neutron, an address within it may
/// stand for it.
fn range(text: &str) -> Result<IpNet, Fault> {
    let net = text.parse::<IpNet>();
    net.map(|net| net.trunc())
        .map_err(|_| Fault::bad(format!("Invalid input for cidr. '{text}' is not a valid IP subnet.")))
}

/// The version of a range, as clients write it.
fn version_of(net: IpNet) -> u8 {
    if net.addr().is_ipv4() { 4 } else { 6 }
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
    let six = match &fields.cidr {
        Some(cidr) => cidr.contains(':'),
        None => fields.version()? == Some(6),
    };
    let (id, default) = (fields.subnetpool_id.as_deref(), fields.use_default_subnetpool.as_ref());
    let pool = subnetpools::chosen(session, id, default, six).await?;
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
    fields.check_new(net)?;
    if let Some((network, _)) = networks::outer(session, network_id).await? {
        let six = (version_of(net) == 6).then_some(json!(6));
        only(
            "ip_version",
            six.as_ref(),
            &[],
            "external networks have IPv4 alone: IPv6 goes between the networks of a router",
        )?;
        let of = pool.as_ref().map(|pool| json!(pool.id()));
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
    let (ra_mode, address_mode) = fields.modes()?;
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
        subnet_pool: pool.as_ref().map(|pool| subnetpools::named(ids::namespace(&network), pool)),
        ra_mode,
        address_mode,
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
        subnetpools::apart(fault)
    })?;
    if subnet.spec.is_automatic() {
        give(session, &subnet).await;
    }
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
        ("ipv6_ra_mode", &fields.ipv6_ra_mode),
        ("ipv6_address_mode", &fields.ipv6_address_mode),
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
    let version = if subnet.spec.cidr.contains(':') { 6 } else { 4 };
    fields.check_version(version)?;
    if fields.version()?.is_some_and(|wanted| wanted != version) {
        return Err(Fault::bad("Attribute ip_version cannot be updated."));
    }
    let told = subnet.spec.ra_mode.is_some() || subnet.spec.address_mode.is_some();
    if fields.enable_dhcp == Some(false) && told {
        return Err(invalid("Cannot disable enable_dhcp with ipv6 attributes set".to_owned()));
    }
    if let Some(Some(gateway)) = &fields.gateway_ip
        && subnet.spec.gateway_ip.as_ref() != Some(gateway)
        && let Some(port) = user(&session, &subnet, |_| true).await?
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
    let automatic = subnet.spec.is_automatic();
    let keeps = |port: &Port| !automatic || port.spec.device_owner.as_deref() == Some(ROUTER_INTERFACE);
    if let Some(port) = user(session, &subnet, keeps).await? {
        return Err(Fault::conflict(format!(
            "Unable to complete operation on subnet {id}: One or more ports have an IP allocation from this subnet, for \
             example {}.",
            port.id()
        ))
        .named("SubnetInUse"));
    }
    let mut deletion = change::deletion(&subnet)?;
    let deleted = if automatic {
        deletion.preconditions = None;
        take(session, &subnet, &deletion).await
    } else {
        let deleted = session.within::<Subnet>(namespace).delete(name, &deletion).await;
        deleted.map(drop).map_err(Fault::from)
    };
    // By ports of other projects, which only the API server sees.
    deleted.map_err(|fault| match fault.status {
        StatusCode::CONFLICT => {
            let text = format!("Unable to complete operation on subnet {id}: {}", fault.message);
            Fault::conflict(text).named("SubnetInUse")
        }
        _ => fault,
    })
}

/// A port of this sort that has an address of the subnet.
async fn user(session: &Session, subnet: &Subnet, is: impl Fn(&Port) -> bool) -> Result<Option<Port>, Fault> {
    let name = Some(ids::name(subnet));
    let ports = ids::list(&session.within::<Port>(ids::namespace(subnet))).await?;
    let uses = |port: &Port| port.spec.fixed_ips.iter().any(|fixed| fixed.subnet.as_deref() == name);
    Ok(ports.into_iter().find(|port| uses(port) && is(port)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::parse;

    #[test]
    fn ranges_are_checked() {
        assert!(range("10.0.0.0/24").is_ok());
        assert_eq!(range("10.0.0.1/24").unwrap().to_string(), "10.0.0.0/24");
        assert_eq!(range("FD00::1/64").unwrap().to_string(), "fd00::/64");
        for bad in ["10.0.0.0", "fd00::", "x"] {
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
            r#"{"ip_version": 5}"#,
            r#"{"ipv6_ra_mode": "none"}"#,
            r#"{"gateway_ip": "gate"}"#,
            r#"{"host_routes": [{"destination": "far", "nexthop": "10.0.0.1"}]}"#,
            r#"{"prefixlen": 129}"#,
            r#"{"dns_nameservers": ["dns.example"]}"#,
            r#"{"allocation_pools": [{"start": "10.0.0.2"}]}"#,
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }

    #[test]
    fn modes_of_ipv6_follow_neutrons_rules() {
        let check = |cidr: &str, text: &str| {
            let body = parse::<Body>(format!(r#"{{"subnet": {text}}}"#).as_bytes()).unwrap();
            body.subnet.check()?;
            body.subnet.check_new(range(cidr).unwrap())
        };
        let six = "fd00::/64";
        for good in [
            r#"{"ip_version": 6}"#,
            r#"{"ip_version": 6, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}"#,
            r#"{"ip_version": 6, "ipv6_address_mode": "dhcpv6-stateful", "dns_nameservers": ["2001:db8::1"]}"#,
        ] {
            assert!(check(six, good).is_ok(), "{good}");
        }
        for (cidr, bad) in [
            (six, r#"{"ip_version": 4}"#),
            ("10.0.0.0/24", r#"{"ip_version": 6}"#),
            ("10.0.0.0/24", r#"{"ip_version": 4, "ipv6_ra_mode": "slaac"}"#),
            (six, r#"{"ipv6_ra_mode": "slaac", "ipv6_address_mode": "dhcpv6-stateless"}"#),
            (six, r#"{"ipv6_ra_mode": "slaac", "enable_dhcp": false}"#),
            ("fd00::/80", r#"{"ipv6_address_mode": "slaac"}"#),
            (six, r#"{"gateway_ip": "10.0.0.1"}"#),
            (six, r#"{"dns_nameservers": ["8.8.8.8"]}"#),
            (six, r#"{"host_routes": [{"destination": "10.0.0.0/8", "nexthop": "fd00::9"}]}"#),
        ] {
            assert!(check(cidr, bad).is_err(), "{bad}");
        }
    }
}
