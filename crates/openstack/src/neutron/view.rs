//! Networks, subnets and ports as Neutron shows them, and its lists.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use axum::http::StatusCode;
use axum::response::Response;
use ipnet::IpNet;
use serde_json::{Map, Value, json};
use yunfan_resources::Identified;
use yunfan_resources::iam::Project;
use yunfan_resources::network::{
    AddressGroup, AddressScope, ExternalNetwork, Network, QosPolicy, SecurityGroup, Shared, Subnet,
    SubnetPool, Tagged, is_shared_with, network_place,
};

use super::address_scopes::scope_id;
use super::{pages, tags};
use crate::auth::Session;
use crate::body::Params;
use crate::error::Fault;
use crate::ids;
use crate::versions::ok;
use crate::{directory, lent, page, stamp};

/// What views need beside the object itself: the ids behind the names that objects refer to each other by.
pub(super) struct Context {
    /// Whose words these are: the caller's project.
    caller: String,
    /// Project ids by namespace.
    projects: HashMap<String, String>,
    networks: Vec<Network>,
    subnets: Vec<Subnet>,
    groups: Vec<SecurityGroup>,
    externals: Vec<ExternalNetwork>,
    policies: Vec<QosPolicy>,
    /// Only where a rule speaks of one.
    address_groups: Vec<AddressGroup>,
    /// Only where a subnet is of one.
    pools: Vec<SubnetPool>,
    /// Only where a pool is in one.
    scopes: Vec<AddressScope>,
}

impl Context {
    /// What the views of objects in the caller's project need; with `all`, of objects in every project.
    pub(super) async fn load(session: &Session, all: bool) -> Result<Self, Fault> {
        let (networks, subnets, groups) = if all {
            (session.everywhere::<Network>(), session.everywhere::<Subnet>(), session.everywhere())
        } else {
            (session.own()?, session.own()?, session.own()?)
        };
        let (externals, policies) = (session.global::<ExternalNetwork>(), session.global::<QosPolicy>());
        let (mut networks, mut subnets, groups, externals, policies) = tokio::try_join!(
            ids::list(&networks),
            ids::list(&subnets),
            ids::list(&groups),
            ids::list(&externals),
            ids::list(&policies)
        )?;
        let mut projects = HashMap::new();
        if let Ok(own) = session.namespace() {
            projects.insert(own.to_owned(), session.project_id().to_owned());
        }
        if all {
            for project in ids::list(&session.global::<Project>()).await? {
                if let Some(namespace) = directory::home(&project) {
                    projects.insert(namespace.to_owned(), project.id());
                }
            }
        }
        if !all && let Ok(own) = session.namespace() {
            let shared = lent::networks(session, own).await?;
            if !shared.is_empty() {
                subnets.extend(lent::subnets(session, &shared).await?);
                projects.extend(lent::owners(session).await?);
                networks.extend(shared);
            }
        }
        let pools = match subnets.iter().any(|subnet| subnet.spec.subnet_pool.is_some()) {
            false => Vec::new(),
            true => lent::visible::<SubnetPool>(session, all).await?,
        };
        let scopes = match pools.iter().any(|pool| pool.spec.address_scope.is_some()) {
            false => Vec::new(),
            true => lent::visible::<AddressScope>(session, all).await?,
        };
        let spoken_of =
            |group: &SecurityGroup| group.spec.rules.iter().any(|rule| rule.remote_address_group.is_some());
        let address_groups = match groups.iter().any(spoken_of) {
            false => Vec::new(),
            true if all => ids::list(&session.everywhere()).await?,
            true => ids::list(&session.own()?).await?,
        };
        let caller = session.project_id().to_owned();
        Ok(Self {
            caller,
            projects,
            networks,
            subnets,
            groups,
            externals,
            policies,
            address_groups,
            pools,
            scopes,
        })
    }

    /// As [`Self::load`], and whose what is that other projects share.
    pub(super) async fn with_owners(session: &Session, all: bool) -> Result<Self, Fault> {
        let mut context = Self::load(session, all).await?;
        context.projects.extend(lent::owners(session).await?);
        Ok(context)
    }

    /// What `pick` finds by an id: in the caller's project or, for an admin, in any.
    pub(super) async fn find<K: Clone>(
        session: &Session,
        id: &str,
        pick: impl for<'a> Fn(&'a Self, &str) -> Result<&'a K, Fault>,
    ) -> Result<(K, Self), Fault> {
        let own = Self::load(session, false).await?;
        let missing = match pick(&own, id).cloned() {
            Ok(found) => return Ok((found, own)),
            Err(fault) => fault,
        };
        if session.is_admin()
            && let Ok(all) = Self::load(session, true).await
            && let Ok(found) = pick(&all, id).cloned()
        {
            return Ok((found, all));
        }
        Err(missing)
    }

    pub(super) fn networks(&self) -> &[Network] {
        &self.networks
    }

    pub(super) fn subnets(&self) -> &[Subnet] {
        &self.subnets
    }

    /// The network with this id.
    pub(super) fn network(&self, id: &str) -> Result<&Network, Fault> {
        let found = self.networks.iter().find(|network| network.id() == id);
        found.ok_or_else(|| Fault::not_found("Network", id).named("NetworkNotFound"))
    }

    /// The subnet with this id.
    pub(super) fn subnet(&self, id: &str) -> Result<&Subnet, Fault> {
        let found = self.subnets.iter().find(|subnet| subnet.id() == id);
        found.ok_or_else(|| Fault::not_found("Subnet", id).named("SubnetNotFound"))
    }

    pub(super) fn externals(&self) -> &[ExternalNetwork] {
        &self.externals
    }

    pub(super) fn pools(&self) -> &[SubnetPool] {
        &self.pools
    }

    /// The ids of the scopes that a network's addresses of IPv4 and of IPv6 are in.
    fn scopes_of(&self, network: &Network) -> [Option<String>; 2] {
        let (namespace, name) = (ids::namespace(network), ids::name(network));
        [false, true].map(|six| {
            let mut subnets =
                self.subnets.iter().filter(|it| it.spec.network == name && ids::namespace(*it) == namespace);
            subnets.find_map(|subnet| {
                let (owner, name) = network_place(namespace, subnet.spec.subnet_pool.as_deref()?);
                let mut pools = self.pools.iter();
                let pool = pools.find(|it| ids::namespace(*it) == owner && ids::name(*it) == name)?;
                (pool.spec.is_of_ipv6() == six).then(|| scope_id(pool, &self.scopes)).flatten()
            })
        })
    }

    /// Whether something is shared with the caller's project.
    pub(super) fn is_for_caller(&self, object: &impl Shared) -> bool {
        is_shared_with(object.shared_with(), &self.caller)
    }

    pub(super) fn address_groups(&self) -> &[AddressGroup] {
        &self.address_groups
    }

    pub(super) fn groups(&self) -> &[SecurityGroup] {
        &self.groups
    }

    /// The security group with this id.
    pub(super) fn group(&self, id: &str) -> Result<&SecurityGroup, Fault> {
        let found = self.groups.iter().find(|group| group.id() == id);
        found.ok_or_else(|| {
            Fault::new(StatusCode::NOT_FOUND, format!("Security group {id} does not exist"))
                .named("SecurityGroupNotFound")
        })
    }

    pub(super) fn group_id(&self, namespace: &str, name: &str) -> Option<String> {
        let mut all = self.groups.iter();
        all.find(|it| ids::name(*it) == name && ids::namespace(*it) == namespace).map(Identified::id)
    }

    /// The id of the QoS policy that objects call so.
    pub(super) fn policy_id(&self, name: &str) -> Option<String> {
        self.policies.iter().find(|policy| ids::name(*policy) == name).map(Identified::id)
    }

    /// The id of the QoS policy that the network has which objects of a namespace call so.
    pub(super) fn policy_of_network(&self, namespace: &str, name: &str) -> Option<String> {
        let (namespace, name) = network_place(namespace, name);
        let mut all = self.networks.iter();
        let network = all.find(|it| ids::name(*it) == name && ids::namespace(*it) == namespace)?;
        self.policy_id(network.spec.qos_policy.as_deref()?)
    }

    /// The id of the project that an object is in.
    pub(super) fn project_of<K: kube::Resource>(&self, object: &K) -> &str {
        self.projects.get(ids::namespace(object)).map(String::as_str).unwrap_or_default()
    }

    /// Whether the network that objects of a namespace call so is shared with the caller's project.
    pub(super) fn is_shared(&self, namespace: &str, name: &str) -> bool {
        let mut all = self.networks.iter();
        let network = all.find(|it| ids::name(*it) == name && ids::namespace(*it) == namespace);
        network.is_some_and(|network| is_shared_with(&network.spec.shared_with, &self.caller))
    }

    /// The id of the network that objects of a namespace call so.
    pub(super) fn network_id(&self, namespace: &str, name: &str) -> Option<String> {
        let (namespace, name) = network_place(namespace, name);
        let mut all = self.networks.iter();
        all.find(|it| ids::name(*it) == name && ids::namespace(*it) == namespace).map(Identified::id)
    }

    pub(super) fn subnet_id(&self, namespace: &str, name: &str) -> Option<String> {
        let mut all = self.subnets.iter();
        all.find(|it| ids::name(*it) == name && ids::namespace(*it) == namespace).map(Identified::id)
    }

    /// The members that all kinds have.
    pub(super) fn with_base<K: kube::Resource + Identified + Tagged>(
        &self,
        object: &K,
        mut view: Value,
    ) -> Value {
        let project = self.project_of(object);
        let display = object.display_name();
        let created = stamp::created(object);
        view["id"] = json!(object.id());
        view["name"] = json!(display);
        view["tenant_id"] = json!(project);
        view["project_id"] = json!(project);
        view["created_at"] = json!(stamp::seconds(created));
        view["updated_at"] = json!(stamp::seconds(stamp::updated(object)));
        view["revision_number"] = json!(object.meta().generation.unwrap_or(1));
        view["tags"] = json!(object.tags());
        view
    }

    pub(super) fn network_view(&self, network: &Network) -> Value {
        let (namespace, name) = (ids::namespace(network), ids::name(network));
        let subnets =
            self.subnets.iter().filter(|it| it.spec.network == name && ids::namespace(*it) == namespace);
        let up = network.spec.admin_state_up.unwrap_or(true);
        let [scope, scope6] = self.scopes_of(network);
        let view = json!({
            "description": network.spec.description.as_deref().unwrap_or_default(), "admin_state_up": up,
            "status": if up { "ACTIVE" } else { "DOWN" },
            "shared": is_shared_with(&network.spec.shared_with, &self.caller), "router:external": false, "mtu": network.spec.mtu, "availability_zone_hints": [],
            "port_security_enabled": network.spec.port_security_enabled.unwrap_or(true),
            "availability_zones": [], "ipv4_address_scope": scope, "ipv6_address_scope": scope6,
            "subnets": subnets.map(Identified::id).collect::<Vec<_>>(),
            "qos_policy_id": network.spec.qos_policy.as_deref().and_then(|name| self.policy_id(name)),
        });
        self.with_base(network, view)
    }

    pub(super) fn subnet_view(&self, subnet: &Subnet) -> Value {
        let spec = &subnet.spec;
        let net = spec.cidr.parse::<IpNet>().ok();
        let gateway = spec.gateway_ip.clone().or_else(|| net.and_then(first).map(|ip| ip.to_string()));
        let version = if net.is_some_and(|net| net.addr().is_ipv6()) { 6 } else { 4 };
        let pools: Vec<Value> = if spec.allocation_pools.is_empty() {
            let gateway = gateway.as_deref().and_then(|ip| ip.parse().ok());
            let pools = net.map(|net| default_pools(net, gateway)).unwrap_or_default();
            pools.into_iter().map(|(start, end)| json!({"start": start, "end": end})).collect()
        } else {
            spec.allocation_pools.iter().map(|pool| json!({"start": pool.start, "end": pool.end})).collect()
        };
        let pool = spec.subnet_pool.as_deref().and_then(|name| self.pool_id(ids::namespace(subnet), name));
        let view = json!({
            "network_id": self.network_id(ids::namespace(subnet), &spec.network), "ip_version": version, "cidr": spec.cidr,
            "gateway_ip": gateway.filter(|_| !spec.no_gateway), "enable_dhcp": spec.enable_dhcp, "allocation_pools": pools,
            "dns_nameservers": spec.dns_nameservers, "host_routes": spec.host_routes, "ipv6_ra_mode": spec.ra_mode,
            "ipv6_address_mode": spec.address_mode,
            "subnetpool_id": pool, "description": spec.description.as_deref().unwrap_or_default(), "service_types": spec.service_types,
        });
        self.with_base(subnet, view)
    }
}

/// Whether objects of other projects are asked for: an admin who names one of them, or none.
pub(super) fn wants_all(session: &Session, params: &Params) -> bool {
    let named = params.get("project_id").or(params.get("tenant_id"));
    session.is_admin() && named.is_none_or(|project| project != session.project_id())
}

fn first(net: IpNet) -> Option<IpAddr> {
    match net {
        IpNet::V4(net) => net.hosts().next().map(IpAddr::from),
        IpNet::V6(net) => Some(Ipv6Addr::from_bits(net.network().to_bits() + 1).into()),
    }
}

/// The addresses that ports are given where the subnet names none: all but the network's, the broadcast and the gateway's.
pub(super) fn default_pools(net: IpNet, gateway: Option<IpAddr>) -> Vec<(IpAddr, IpAddr)> {
    let (low, high) = (number(net.network()), number(net.broadcast()));
    let v4 = net.addr().is_ipv4();
    // IPv6 has no broadcast.
    let (start, end) = (low.saturating_add(1), high.saturating_sub(u128::from(v4)));
    let ip = |number: u128| match v4 {
        // It is one of the range's.
        true => IpAddr::from(Ipv4Addr::from_bits(number as u32)),
        false => IpAddr::from(Ipv6Addr::from_bits(number)),
    };
    let run = |from: u128, to: u128| (from <= to).then(|| (ip(from), ip(to)));
    match gateway.map(number).filter(|gateway| (start..=end).contains(gateway)) {
        None => run(start, end).into_iter().collect(),
        Some(gateway) if gateway == end => run(start, gateway - 1).into_iter().collect(),
        Some(gateway) => [run(start, gateway - 1), run(gateway + 1, end)].into_iter().flatten().collect(),
    }
}

/// An address as a number of its family.
pub(super) fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => ip.to_bits().into(),
        IpAddr::V6(ip) => ip.to_bits(),
    }
}

/// A list: filtered by any member of the views, sorted, cut to the page, and cut down to the fields that are asked for.
pub(super) fn collection(
    session: &Session,
    params: &Params,
    key: &str,
    mut views: Vec<Value>,
) -> Result<Response, Fault> {
    known(params, &views)?;
    views.retain(|view| takes(params, view));
    page::sort(params, ("id", "asc"), &mut views, |view, name| {
        view.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    })?;
    let path = match key {
        "policies" | "rule_types" => format!("qos/{}", key.replace('_', "-")),
        key => key.replace('_', "-"),
    };
    let url = format!("{}/network/v2.0/{path}", session.door.endpoint);
    let page = pages::cut(params, &url, views)?;
    let shown = |mut view: Value| {
        if let Some(members) = view.as_object_mut().filter(|_| key == "subnets") {
            members.remove(HIDDEN);
        }
        with_fields(params, view)
    };
    let views: Vec<Value> = page.views.into_iter().map(shown).collect();
    let mut body = Map::new();
    body.insert(key.to_owned(), Value::Array(views));
    if let Some(links) = page.links {
        body.insert(format!("{key}_links"), links);
    }
    Ok(ok(&Value::Object(body)))
}

/// Only the members that `fields` names, where it names any.
pub(super) fn with_fields(params: &Params, mut view: Value) -> Value {
    let mut fields = params.all("fields").peekable();
    if fields.peek().is_some()
        && let Some(members) = view.as_object_mut()
    {
        let fields: Vec<&str> = fields.collect();
        members.retain(|key, _| fields.contains(&key.as_str()));
    }
    view
}

/// What subnets are filtered by without showing it.
pub(super) const HIDDEN: &str = "shared";
/// What a list is told beside filters.
const OWN: [&str; 7] = ["fields", "limit", "marker", "page_reverse", "sort_key", "sort_dir", "fixed_ips"];
/// Members of Neutron's objects that ours have not, or not for everybody: what is asked for by them has none.
const ABSENT: [&str; 16] = [
    "binding:host_id",
    "binding:profile",
    "binding:vif_type",
    "binding:vnic_type",
    "dns_domain",
    "dns_name",
    "is_default",
    "provider:network_type",
    "provider:physical_network",
    "provider:segmentation_id",
    "qos_policy_id",
    "segment_id",
    "shared",
    "subnet_id",
    "subnetpool_id",
    "vlan_transparent",
];

/// Refuses filters by members that no such object has: a typing error must not look like an empty list.
fn known(params: &Params, views: &[Value]) -> Result<(), Fault> {
    let is_known = |key: &str| {
        OWN.contains(&key)
            || ABSENT.contains(&key)
            || tags::FILTERS.contains(&key)
            || views.iter().any(|view| view.get(key).is_some())
    };
    let wrong = params.0.iter().find(|(key, _)| !views.is_empty() && !is_known(key));
    match wrong {
        None => Ok(()),
        Some((key, _)) => Err(Fault::bad(format!("['{key}'] is invalid attribute for filtering"))),
    }
}

/// Filters: a member given several times takes any of its values.
fn takes(params: &Params, view: &Value) -> bool {
    let member = |key: &str| match key {
        "network_id" | "id" | "name" => &view[key],
        key => view.get(key).unwrap_or(&Value::Null),
    };
    let mut keys: Vec<&str> =
        params.0.iter().map(|(key, _)| key.as_str()).filter(|key| !OWN.contains(key)).collect();
    keys.retain(|key| !tags::FILTERS.contains(key));
    keys.dedup();
    tags::matches(params, view)
        && keys.iter().all(|key| params.all(key).any(|wanted| is(member(key), wanted)))
        && params.all("fixed_ips").all(|wanted| has_address(view, wanted))
}

fn is(value: &Value, wanted: &str) -> bool {
    match value {
        Value::String(text) => text == wanted,
        Value::Bool(true) => matches!(wanted.to_ascii_lowercase().as_str(), "true" | "1"),
        Value::Bool(false) => matches!(wanted.to_ascii_lowercase().as_str(), "false" | "0"),
        Value::Null => wanted.is_empty(),
        Value::Array(entries) => entries.iter().any(|entry| is(entry, wanted)),
        Value::Number(number) => number.to_string() == wanted,
        Value::Object(_) => false,
    }
}

/// `ip_address=10.0.0.5`, `subnet_id=...` or `ip_address_substr=10.0`.
fn has_address(view: &Value, wanted: &str) -> bool {
    let Some((key, text)) = wanted.split_once('=') else { return false };
    view["fixed_ips"].as_array().into_iter().flatten().any(|fixed| match key {
        "ip_address_substr" => fixed["ip_address"].as_str().is_some_and(|ip| ip.contains(text)),
        key => fixed[key] == text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_leave_out_what_is_not_a_ports() {
        let net: IpNet = "10.0.0.0/29".parse().unwrap();
        let pools = |gateway: &str| {
            let pools = default_pools(net, gateway.parse().ok());
            pools.iter().map(|(start, end)| format!("{start}-{end}")).collect::<Vec<_>>()
        };
        assert_eq!(pools("10.0.0.1"), ["10.0.0.2-10.0.0.6"]);
        assert_eq!(pools("10.0.0.3"), ["10.0.0.1-10.0.0.2", "10.0.0.4-10.0.0.6"]);
        assert_eq!(pools(""), ["10.0.0.1-10.0.0.6"]);
        let six = default_pools("fd00::/64".parse().unwrap(), "fd00::1".parse().ok());
        assert_eq!(six, [("fd00::2".parse().unwrap(), "fd00::ffff:ffff:ffff:ffff".parse().unwrap())]);
    }

    #[test]
    fn lists_are_filtered_by_any_member() {
        let port = json!({"name": "a", "admin_state_up": true, "fixed_ips": [{"ip_address": "10.0.0.5", "subnet_id": "s"}]});
        let takes = |pairs: &[(&str, &str)]| {
            takes(&Params(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()), &port)
        };
        assert!(takes(&[("name", "b"), ("name", "a")]));
        assert!(takes(&[("admin_state_up", "True"), ("fixed_ips", "ip_address=10.0.0.5"), ("fields", "id")]));
        assert!(!takes(&[("fixed_ips", "subnet_id=t")]));
        assert!(!takes(&[("router:external", "True")]));
    }

    #[test]
    fn filters_by_what_no_object_has_are_refused() {
        let known =
            |key: &str, views: &[Value]| known(&Params(vec![(key.to_owned(), "x".to_owned())]), views);
        let views = [json!({"name": "a"})];
        for key in ["name", "fields", "binding:host_id", "not-tags"] {
            assert!(known(key, &views).is_ok(), "{key}");
        }
        assert!(known("nmae", &views).is_err() && known("nmae", &[]).is_ok());
    }
}
