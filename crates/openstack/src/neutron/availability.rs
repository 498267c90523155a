//! How many addresses networks have, and how many of them are used (`network-ip-availability`).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use axum::extract::Path;
use serde_json::{Value, json};
use yunfan_resources::network::{FloatingIp, Port, Router, network_place};

use super::view::{Context, number, with_fields};
use crate::auth::Session;
use crate::body::Params;
use crate::error::{Answer, Fault};
use crate::ids;
use crate::versions::ok;

/// The addresses that are used: of networks by namespace and name of the Subnet, of external ones by the network's name.
struct Used {
    inner: HashMap<(String, String), u64>,
    outer: HashMap<String, Vec<Ipv4Addr>>,
}

impl Used {
    async fn count(session: &Session) -> Result<Self, Fault> {
        let (ports, routers, floating) = (
            session.everywhere::<Port>(),
            session.everywhere::<Router>(),
            session.everywhere::<FloatingIp>(),
        );
        let (ports, routers, floating) =
            tokio::try_join!(ids::list(&ports), ids::list(&routers), ids::list(&floating))?;
        let mut inner = HashMap::new();
        for port in &ports {
            let (namespace, _) = network_place(ids::namespace(port), &port.spec.network);
            for subnet in port.spec.fixed_ips.iter().filter_map(|fixed| fixed.subnet.as_ref()) {
                *inner.entry((namespace.to_owned(), subnet.clone())).or_default() += 1;
            }
        }
        let mut outer: HashMap<String, Vec<Ipv4Addr>> = HashMap::new();
        let gateways = routers.iter().filter_map(|router| {
            let gateway = router.spec.gateway.as_ref()?;
            Some((gateway.network.clone(), gateway.ip.as_deref()?))
        });
        let addresses =
            floating.iter().filter_map(|ip| Some((ip.spec.network.clone(), ip.spec.ip.as_deref()?)));
        for (network, ip) in gateways.chain(addresses) {
            outer.entry(network).or_default().extend(ip.parse::<Ipv4Addr>().ok());
        }
        Ok(Self { inner, outer })
    }
}

/// How many addresses a subnet's view says that it gives.
fn total(subnet: &Value) -> u128 {
    let end = |pool: &Value, key: &str| pool[key].as_str()?.parse::<IpAddr>().ok().map(number);
    let pools = subnet["allocation_pools"].as_array().into_iter().flatten();
    let sizes = pools.filter_map(|pool| end(pool, "end")?.checked_sub(end(pool, "start")?));
    sizes.map(|size| size.saturating_add(1)).fold(0, u128::saturating_add)
}

/// A network as Neutron shows it here, with its subnets.
fn view(network: &Value, subnets: Vec<(Value, u128)>) -> Value {
    let total = subnets.iter().fold(0_u128, |sum, (_, total)| sum.saturating_add(*total));
    let subnets: Vec<Value> = subnets.into_iter().map(|(subnet, _)| subnet).collect();
    let sum = |key: &str| subnets.iter().filter_map(|subnet| subnet[key].as_u64()).sum::<u64>();
    json!({
        "network_id": network["id"], "network_name": network["name"], "tenant_id": network["tenant_id"],
        "project_id": network["project_id"], "total_ips": count(total), "used_ips": sum("used_ips"),
        "subnet_ip_availability": subnets,
    })
}

/// A number that may be larger than JSON's parsers here count exactly: such a one is rounded, as in JavaScript.
fn count(total: u128) -> Value {
    u64::try_from(total).map_or_else(|_| json!(total as f64), |total| json!(total))
}

fn subnet(shown: &Value, used: u64) -> (Value, u128) {
    let sum = total(shown);
    let view = json!({
        "subnet_id": shown["id"], "subnet_name": shown["name"], "cidr": shown["cidr"], "ip_version": shown["ip_version"],
        "total_ips": count(sum), "used_ips": used,
    });
    (view, sum)
}

/// All networks; for the cloud's admin alone, as in Neutron.
async fn all(session: &Session) -> Result<Vec<Value>, Fault> {
    if !session.is_admin() {
        return Err(Fault::forbidden("rule:get_network_ip_availability is disallowed by policy"));
    }
    let (context, used) = tokio::try_join!(Context::load(session, true), Used::count(session))?;
    let mut views = Vec::new();
    for network in context.networks() {
        let (namespace, name) = (ids::namespace(network), ids::name(network));
        let mine = context
            .subnets()
            .iter()
            .filter(|subnet| subnet.spec.network == name && ids::namespace(*subnet) == namespace);
        let subnets = mine.map(|it| {
            let key = (namespace.to_owned(), ids::name(it).to_owned());
            subnet(&context.subnet_view(it), used.inner.get(&key).copied().unwrap_or_default())
        });
        views.push(view(&context.network_view(network), subnets.collect()));
    }
    for network in context.externals() {
        let taken = used.outer.get(ids::name(network)).map(Vec::as_slice).unwrap_or_default();
        let subnets = network.spec.subnets.iter().map(|it| {
            let net = it.cidr.parse::<ipnet::Ipv4Net>().ok();
            let within = taken.iter().filter(|ip| net.is_some_and(|net| net.contains(*ip)));
            subnet(&context.external_subnet_view(network, it), within.count() as u64)
        });
        views.push(view(&context.external_view(network), subnets.collect()));
    }
    Ok(views)
}

/// `GET /network-ip-availabilities`
pub(super) async fn list(session: Session, params: Params) -> Answer {
    let mut views = all(&session).await?;
    views.retain(|view| {
        let is = |key: &str| {
            let mut wanted = params.all(key).peekable();
            wanted.peek().is_none() || wanted.any(|wanted| view[key] == wanted)
        };
        let of = |version: &str| {
            let mut subnets = view["subnet_ip_availability"].as_array().into_iter().flatten();
            let version = version.parse::<u64>().ok();
            subnets.any(|subnet| subnet["ip_version"].as_u64() == version)
        };
        params.get("ip_version").is_none_or(of)
            && ["network_id", "network_name", "tenant_id", "project_id"].into_iter().all(is)
    });
    let views: Vec<Value> = views.into_iter().map(|view| with_fields(&params, view)).collect();
    Ok(ok(&json!({"network_ip_availabilities": views})))
}

/// `GET /network-ip-availabilities/{network}`
pub(super) async fn show(session: Session, params: Params, Path(id): Path<String>) -> Answer {
    let found = all(&session).await?.into_iter().find(|view| view["network_id"] == id);
    let found = found.ok_or_else(|| Fault::not_found("Network", &id).named("NetworkNotFound"))?;
    Ok(ok(&json!({"network_ip_availability": with_fields(&params, found)})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pools_give_is_counted() {
        let pools = json!({"allocation_pools": [{"start": "10.0.0.2", "end": "10.0.0.254"}, {"start": "10.0.1.1", "end": "10.0.1.1"}]});
        assert_eq!(total(&pools), 254);
        let shown = view(&json!({"id": "n", "name": "a"}), vec![subnet(&pools, 3), subnet(&pools, 1)]);
        assert_eq!((&shown["total_ips"], &shown["used_ips"]), (&json!(508), &json!(4)));
    }
}
