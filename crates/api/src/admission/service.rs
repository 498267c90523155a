//! Services: the virtual address and the ports of nodes are chosen when the Service is made, or when its type comes to need them.
//!
//! What is chosen here is claimed by `claims` in the write's own transaction, from the object alone: so nothing is taken by a dry run or
//! by a write that is refused, and what a changed type no longer needs is free with the same write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde_json::{Value, json};
use yunfan_objects::builtin::settle_service;
use yunfan_objects::{ApiError, FieldError};

use super::claims::node_port;
use super::{Attempt, Operation, Refusal, View, addresses};

/// Addresses looked at before the range is called full.
const MAX_TRIES: u32 = 65_536;

pub(super) fn admit(view: &View<'_>, attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
    if !attempt.is("", "services")
        || attempt.operation == Operation::Delete
        || !attempt.subresource.is_empty()
    {
        return Ok(());
    }
    let wrong = settle_service(attempt.object, attempt.old, view.config.service_cidr6.is_some());
    if !wrong.is_empty() {
        return Err(ApiError::invalid(&attempt.kind.descriptor.gvk(), attempt.name, &wrong).into());
    }
    if attempt.object["spec"]["type"] != "ExternalName" {
        fill_addresses(view, attempt)?;
    }
    Ports::new(view, attempt).choose(attempt)
}

/// What allocates for itself which ports of nodes, from the object alone.
pub(super) fn node_ports(service: &Value) -> BTreeSet<u16> {
    let spec = &service["spec"];
    let number =
        |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
    let mut ports = BTreeSet::new();
    if matches!(spec["type"].as_str(), Some("NodePort" | "LoadBalancer")) {
        ports.extend(
            spec["ports"].as_array().into_iter().flatten().filter_map(|port| number(&port["nodePort"])),
        );
    }
    if needs_health_check(spec) {
        ports.extend(number(&spec["healthCheckNodePort"]));
    }
    ports
}

fn needs_health_check(spec: &Value) -> bool {
    spec["type"] == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// The virtual addresses that a Service has. `clusterIP` is as good for whoever was written before there were several.
pub(super) fn cluster_ips(service: &Value) -> Vec<IpAddr> {
    let spec = &service["spec"];
    let all = spec["clusterIPs"].as_array().filter(|all| !all.is_empty());
    let all = all.map_or_else(|| std::slice::from_ref(&spec["clusterIP"]), Vec::as_slice);
    all.iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect()
}

/// One address for each of the Service's families. Those that are there stay: who changes one is refused with all else that is wrong.
fn fill_addresses(view: &View<'_>, attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
    let spec = &attempt.object["spec"];
    let mut ips: Vec<String> = spec["clusterIPs"].as_array().into_iter().flatten().map(text_of).collect();
    let families: Vec<String> = spec["ipFamilies"].as_array().into_iter().flatten().map(text_of).collect();
    let old = attempt.old.filter(|old| old["spec"]["type"] != "ExternalName");
    let had = old.map(cluster_ips).unwrap_or_default();
    if old.is_some_and(|old| old["spec"]["clusterIP"] == "None") || ips.first().is_some_and(|ip| ip == "None")
    {
        // Without an address it was made, and it stays so. Who changes that is told.
        return set_addresses(attempt, ips);
    }
    for (index, family) in families.iter().enumerate() {
        // The first one stays for good: what is there instead of it is refused later on.
        if had.len() > index {
            continue;
        }
        match ips.get(index).filter(|ip| !ip.is_empty()) {
            Some(given) => check(view, attempt, given, &ips)?,
            None => {
                ips.truncate(index);
                ips.push(choose(view, attempt, family)?);
            }
        }
    }
    set_addresses(attempt, ips)
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn set_addresses(attempt: &mut Attempt<'_>, ips: Vec<String>) -> Result<(), Refusal> {
    if let (Some(first), Some(spec)) =
        (ips.first(), attempt.object.get_mut("spec").and_then(Value::as_object_mut))
    {
        spec.insert("clusterIP".to_owned(), json!(first));
        spec.insert("clusterIPs".to_owned(), json!(ips));
    }
    Ok(())
}

fn check(view: &View<'_>, attempt: &Attempt<'_>, given: &str, all: &[String]) -> Result<(), Refusal> {
    let ip = given.parse::<IpAddr>().ok();
    let inside = |ip: &IpAddr| addresses::ranges(view).iter().any(|range| addresses::gives(range, *ip));
    let why = match ip.filter(inside) {
        None => "the provided network does not match the current range",
        Some(ip) if addresses::is_taken(view, &ip.to_string()) => "provided IP is already allocated",
        Some(_) => return Ok(()),
    };
    let why = format!("failed to allocate IP {given}: {why}");
    Err(attempt.invalid(FieldError::invalid("spec.clusterIPs", json!(all), why)))
}

/// A number of `0..size` that is free. The search begins at a place that depends on the seed, so that many who ask at one time seldom want
/// the same; the first `kept_back` numbers, which people like to ask for, are given out last.
fn pick(size: u32, kept_back: u32, seed: u32, is_free: impl Fn(u32) -> bool) -> Option<u32> {
    let upper = size.saturating_sub(kept_back);
    let turn = |step: u32| (u64::from(seed) + u64::from(step)) % u64::from(upper.max(1));
    // A turn is below `upper`, which is below 2^32.
    let first = (0..upper.min(MAX_TRIES)).map(|step| kept_back + turn(step) as u32);
    first.chain(0..kept_back.min(size)).find(|number| is_free(*number))
}

/// A free address of the family, of the first range that has one.
fn choose(view: &View<'_>, attempt: &Attempt<'_>, family: &str) -> Result<String, Refusal> {
    let seed = attempt.seed();
    let mut ranges = addresses::ranges(view);
    ranges.retain(|range| range.addr().is_ipv6() == (family == "IPv6"));
    ranges.into_iter().find_map(|range| choose_of(view, range, seed)).ok_or_else(|| {
        let name = attempt.name;
        let why = format!("failed to allocate a serviceIP for Service {name:?}: range is full");
        ApiError::internal(why).into()
    })
}

fn choose_of(view: &View<'_>, range: IpNet, seed: u32) -> Option<String> {
    let size = usable(range);
    // As Kubernetes keeps them back: a sixteenth of the range, from 16 to 256 addresses.
    let kept_back = if size < 16 { 0 } else { (size / 16).clamp(16, 256) };
    let address = |number: u32| match range.network() {
        IpAddr::V4(first) => IpAddr::V4(Ipv4Addr::from(u32::from(first) + 1 + number)),
        IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from(u128::from(first) + 1 + u128::from(number))),
    };
    // The Service `kubernetes` asks for the first of all.
    let first = Ipv4Addr::from(u32::from(view.config.service_cidr.network()) + 1);
    let reserved = [IpAddr::V4(first), IpAddr::V4(view.config.cluster_dns_ip)];
    let free = pick(size, kept_back, seed, |number| {
        let ip = address(number);
        !reserved.contains(&ip) && !addresses::is_taken(view, &ip.to_string())
    });
    free.map(|number| address(number).to_string())
}

/// How many addresses of a range are given, as far as they can be counted here: nobody has more Services.
fn usable(range: IpNet) -> u32 {
    match range {
        IpNet::V4(range) => (u32::from(range.broadcast()) - u32::from(range.network())).saturating_sub(1),
        // All but the first one: there are no broadcasts.
        IpNet::V6(range) => {
            u32::try_from(u128::from(range.broadcast()) - u128::from(range.network())).unwrap_or(u32::MAX)
        }
    }
}

/// The ports of nodes on the way to one Service.
struct Ports<'a> {
    view: &'a View<'a>,
    seed: u32,
    /// What the Service holds already.
    held: BTreeSet<u16>,
    /// What this write has taken so far.
    taken: BTreeSet<u16>,
}

impl<'a> Ports<'a> {
    fn new(view: &'a View<'a>, attempt: &Attempt<'_>) -> Self {
        let held = attempt.old.map(node_ports).unwrap_or_default();
        Self { view, seed: attempt.seed(), held, taken: BTreeSet::new() }
    }

    fn choose(mut self, attempt: &mut Attempt<'_>) -> Result<(), Refusal> {
        let spec = attempt.object["spec"].clone();
        let allocates = match spec["type"].as_str() {
            Some("NodePort") => Some(true),
            Some("LoadBalancer") => Some(spec["allocateLoadBalancerNodePorts"] != false),
            _ => None,
        };
        let mut ports = spec["ports"].as_array().cloned().unwrap_or_default();
        if let Some(allocates) = allocates {
            self.service_ports(attempt, &mut ports, allocates)?;
            if !ports.is_empty() {
                attempt.object["spec"]["ports"] = Value::Array(ports);
            }
        }
        let had = attempt.old.is_some_and(|old| needs_health_check(&old["spec"]));
        if !needs_health_check(&spec) || had {
            return Ok(());
        }
        let given = spec["healthCheckNodePort"].as_i64().unwrap_or(0);
        let port = match given {
            0 => self.next().map_err(|why| format!("failed to allocate a HealthCheck NodePort 0: {why}")),
            given => self
                .take(given)
                .map_err(|why| format!("failed to allocate requested HealthCheck NodePort {given}: {why}")),
        };
        attempt.object["spec"]["healthCheckNodePort"] = json!(port.map_err(ApiError::internal)?);
        Ok(())
    }

    /// On creation, ports that are the same but for their protocol share a number, unless they ask for different ones.
    fn service_ports(
        &mut self,
        attempt: &Attempt<'_>,
        ports: &mut [Value],
        allocates: bool,
    ) -> Result<(), Refusal> {
        let created = attempt.operation == Operation::Create;
        let mut asked = BTreeMap::<String, i64>::new();
        for port in ports.iter() {
            if let Some(wanted) = port["nodePort"].as_i64().filter(|wanted| *wanted != 0) {
                asked.entry(port["port"].to_string()).or_insert(wanted);
            }
        }
        let mut shared = BTreeMap::<String, u16>::new();
        for (index, entry) in ports.iter_mut().enumerate() {
            let given = entry["nodePort"].as_i64().unwrap_or(0);
            if given == 0 && !allocates {
                continue;
            }
            let number = entry["port"].to_string();
            let before = shared.get(&number).copied().filter(|_| created);
            let wanted = match before {
                None if created && given == 0 => asked.get(&number).copied().unwrap_or(0),
                _ => given,
            };
            let port = match (wanted, before) {
                (0, Some(before)) => before,
                (wanted, Some(before)) if wanted == i64::from(before) => before,
                (0, None) => self
                    .next()
                    .map_err(|why| ApiError::internal(format!("failed to allocate a nodePort: {why}")))?,
                (wanted, _) => self.take(wanted).map_err(|why| {
                    attempt.invalid(FieldError::invalid(format!("spec.ports[{index}].nodePort"), wanted, why))
                })?,
            };
            shared.entry(number).or_insert(port);
            entry["nodePort"] = json!(port);
        }
        Ok(())
    }

    fn is_free(&self, port: u16) -> bool {
        !self.taken.contains(&port)
            && !self.held.contains(&port)
            && !self.view.cache.claims().is_held(&node_port(port))
    }

    /// A port that was asked for.
    fn take(&mut self, wanted: i64) -> Result<u16, String> {
        let range = &self.view.config.node_ports;
        let port = u16::try_from(wanted).ok();
        // What it holds already stays, also when the range is another now.
        if let Some(port) = port.filter(|port| self.held.contains(port)) {
            return Ok(port);
        }
        let Some(port) = port.filter(|port| range.contains(port)) else {
            let (first, last) = (range.start(), range.end());
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            ));
        };
        if !self.is_free(port) {
            return Err("provided port is already allocated".to_owned());
        }
        self.taken.insert(port);
        Ok(port)
    }

    /// Any free port.
    fn next(&mut self) -> Result<u16, String> {
        let range = &self.view.config.node_ports;
        let size = u32::from(*range.end()) - u32::from(*range.start()) + 1;
        // As Kubernetes keeps them back: a thirty-second part of the range, from 16 to 128 ports.
        let kept_back = if size < 16 { 0 } else { (size / 32).clamp(16, 128) };
        // The number is below the range's size, which is at most 2^16.
        let port = |number: u32| range.start() + number as u16;
        let free = pick(size, kept_back, self.seed, |number| self.is_free(port(number)));
        let port = port(free.ok_or("range is full")?);
        self.taken.insert(port);
        Ok(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kept_back_numbers_are_given_out_last_and_each_once() {
        let mut taken = BTreeSet::new();
        let mut order = Vec::new();
        while let Some(number) = pick(40, 16, 1_000_003, |number| !taken.contains(&number)) {
            taken.insert(number);
            order.push(number);
        }
        assert_eq!(order.len(), 40);
        assert!(order[..24].iter().all(|number| *number >= 16), "{order:?}");
        assert_eq!(pick(0, 0, 7, |_| true), None);
        assert_eq!(pick(1, 0, u32::MAX, |_| true), Some(0));
    }

    #[test]
    fn only_types_on_nodes_hold_ports() {
        let ports = json!([{"nodePort": 30001}, {"nodePort": 30002}, {"nodePort": 30001}, {}]);
        let of = |kind: &str| {
            node_ports(&json!({"spec": {"type": kind, "ports": ports, "externalTrafficPolicy": "Local",
                "healthCheckNodePort": 30009}}))
        };
        assert_eq!(of("NodePort"), BTreeSet::from([30001, 30002]));
        assert_eq!(of("LoadBalancer"), BTreeSet::from([30001, 30002, 30009]));
        assert_eq!(of("ExternalName"), BTreeSet::new());
    }
}
