//! Claims of an object, derived from the object alone: what an update or a deletion frees is what
//! the old object had and the new one has not.

use std::collections::BTreeSet;

use serde_json::Value;
use yunfan_objects::FieldError;
use yunfan_resources::claims::DRIVER;
use yunfan_resources::names;
use yunfan_resources::network::network_place;

use super::{Attempt, Operation, Refusal, View, WritePlan, addresses, ids, service};
use crate::keys::CLAIMS;

/// Bytes of the longest name that is kept for one alone: four for each of Keystone's 255 characters.
const MAX_NAME: usize = 1020;

/// Claim of a Service's virtual address.
pub(crate) fn cluster_ip(address: &str) -> String {
    format!("{CLAIMS}clusterip/{address}")
}

/// Claim of a port of all nodes, by a Service.
pub(crate) fn node_port(port: u16) -> String {
    format!("{CLAIMS}nodeport/{port}")
}

/// Prefix of the claims of addresses on a Network.
pub(crate) fn network_addresses(namespace: &str, network: &str) -> String {
    format!("{CLAIMS}address/{namespace}/{network}/")
}

/// Claim of a Volume by the machine that has it, or is to have it, or by the persistent volume that it is behind.
pub(crate) fn external_addresses(network: &str) -> String {
    format!("{CLAIMS}outer/{network}/")
}

/// The key by which one outer address alone stands for a Port's.
pub(crate) fn floating(namespace: &str, port: &str, fixed: &str) -> String {
    format!("{CLAIMS}floating/{namespace}/{port}/{fixed}")
}

/// The key that a Volume's machine holds.
pub(crate) fn attached_volume(namespace: &str, volume: &str) -> String {
    format!("{CLAIMS}volume/{namespace}/{volume}")
}

/// Prefix of the claims of MAC addresses on a Network.
pub(crate) fn network_macs(namespace: &str, network: &str) -> String {
    format!("{CLAIMS}mac/{namespace}/{network}/")
}

/// A claim's key, and the field that it comes from.
pub(crate) type Claims = BTreeSet<(String, &'static str)>;

/// What the writer itself asks for, before the chain fills in the rest.
pub(super) fn given(attempt: &Attempt<'_>) -> Claims {
    of(attempt, attempt.object)
}

/// Claims what the object has. Something held that the writer asked for is the writer's error; something
/// that the chain chose was free a moment ago, and the chain chooses again.
pub(super) fn admit(
    view: &View<'_>,
    attempt: &mut Attempt<'_>,
    given: &Claims,
    plan: &mut WritePlan,
) -> Result<(), Refusal> {
    let wanted = match attempt.operation {
        Operation::Delete => Claims::new(),
        _ => of(attempt, attempt.object),
    };
    let held = attempt.old.map(|old| of(attempt, old)).unwrap_or_default();
    let holder = format!("{} {}", attempt.kind.descriptor.kind, place(attempt));
    for claim @ (key, field) in wanted.difference(&held) {
        let by = view.cache.claims().holder(key);
        // One of its own name: then that name is taken, which is said when all else is well. (Of a Service Kubernetes says the address
        // first.)
        let same = by.as_ref() == Some(&holder) && !attempt.is("", "services");
        if by.is_some() && !same {
            if !given.contains(claim) {
                return Err(Refusal::Outrun);
            }
            let value = key.rsplit('/').next().unwrap_or_default().to_owned();
            let by = by.unwrap_or_default();
            let why = format!("it is already used by {by}");
            let error = FieldError::invalid(*field, value, why);
            return Err(attempt.invalid(error));
        }
        plan.claim(key.clone(), &holder);
        if let Some(ip) = key.strip_prefix(&cluster_ip("")) {
            addresses::give(view, attempt, ip, plan)?;
        }
    }
    for (key, _) in held.difference(&wanted) {
        plan.free(key.clone());
        if let Some(ip) = key.strip_prefix(&cluster_ip("")) {
            addresses::take_back(view, ip, plan);
        }
    }
    Ok(())
}

fn place(attempt: &Attempt<'_>) -> String {
    if attempt.namespace.is_empty() {
        attempt.name.to_owned()
    } else {
        format!("{}/{}", attempt.namespace, attempt.name)
    }
}

/// A name that no other may have, as Keystone has it: in what it is unique, the name, and its field.
fn name_of<'a>(attempt: &Attempt<'_>, object: &'a Value) -> Option<(String, &'a str, &'static str)> {
    const DEFAULT_DOMAIN: &str = "default";
    let (group, plural) = (attempt.kind.descriptor.group.as_str(), attempt.kind.descriptor.plural.as_str());
    let (spec, metadata) = (&object["spec"], &object["metadata"]);
    let text = |value: &'a Value| value.as_str().filter(|text| !text.is_empty());
    let within = match (group, plural) {
        ("iam.yunfan.io", "domains") => "",
        ("iam.yunfan.io", "users" | "groups" | "projects") => text(&spec["domain"]).unwrap_or(DEFAULT_DOMAIN),
        ("iam.yunfan.io", "applicationcredentials") => text(&spec["userId"])?,
        ("rbac.authorization.k8s.io", "clusterroles") => {
            metadata["labels"][names::ROLE_ID_LABEL].as_str()?;
            let said = &metadata["annotations"];
            let within = format!("roles/{}", text(&said[names::ROLE_DOMAIN]).unwrap_or_default());
            return Some((within, text(&said[names::ROLE_NAME])?, "metadata.annotations"));
        }
        ("", "secrets")
            if attempt.namespace == names::SYSTEM_NAMESPACE
                && object["type"] == names::CREDENTIAL_SECRET_TYPE =>
        {
            let access = text(&metadata["labels"][names::CREDENTIAL_ACCESS_LABEL])?;
            return Some(("access-keys".to_owned(), access, "metadata.labels"));
        }
        _ => return None,
    };
    // One that is called nothing else is called as the object is.
    let name = text(&spec["displayName"]).or(text(&metadata["name"]))?;
    Some((format!("{plural}/{within}"), name, "spec.displayName"))
}

/// What the object holds.
pub(super) fn of(attempt: &Attempt<'_>, object: &Value) -> Claims {
    let mut claims = Claims::new();
    let spec = &object["spec"];
    if attempt.is("", "services") {
        for (index, ip) in service::cluster_ips(object).into_iter().enumerate() {
            let field = if index == 0 { "spec.clusterIP" } else { "spec.clusterIPs" };
            claims.insert((cluster_ip(&ip.to_string()), field));
        }
        let ports = service::node_ports(object);
        claims.extend(ports.into_iter().map(|port| (node_port(port), "spec.ports")));
    }
    if attempt.is("network.yunfan.io", "ports") {
        // Whoever has a Port on a Network: an address there is one Port's.
        let network = spec["network"].as_str().unwrap_or_default();
        let (owner, network) = network_place(attempt.namespace, network);
        if let Some(mac) = spec["macAddress"].as_str() {
            claims.insert((format!("{}{mac}", network_macs(owner, network)), "spec.macAddress"));
        }
        for fixed in spec["fixedIps"].as_array().into_iter().flatten() {
            if let Some(ip) = fixed["ip"].as_str() {
                claims.insert((format!("{}{ip}", network_addresses(owner, network)), "spec.fixedIps"));
            }
        }
    }
    if attempt.is("network.yunfan.io", "routers")
        && let (Some(network), Some(ip)) =
            (spec["gateway"]["network"].as_str(), spec["gateway"]["ip"].as_str())
    {
        claims.insert((format!("{}{ip}", external_addresses(network)), "spec.gateway.ip"));
    }
    if attempt.is("network.yunfan.io", "floatingips") {
        if let (Some(network), Some(ip)) = (spec["network"].as_str(), spec["ip"].as_str()) {
            claims.insert((format!("{}{ip}", external_addresses(network)), "spec.ip"));
        }
        if let (Some(port), Some(fixed)) = (spec["port"].as_str(), spec["fixedIp"].as_str()) {
            claims.insert((floating(attempt.namespace, port, fixed), "spec.fixedIp"));
        }
    }
    if attempt.is("compute.yunfan.io", "virtualmachines") {
        let volumes = spec["volumes"].as_array().into_iter().flatten();
        claims.extend(volumes.filter_map(|wish| {
            Some((attached_volume(attempt.namespace, wish["volume"].as_str()?), "spec.volumes"))
        }));
    }
    if attempt.is("", "persistentvolumes")
        && spec["csi"]["driver"] == DRIVER
        && let Some((namespace, volume)) =
            spec["csi"]["volumeHandle"].as_str().and_then(|text| text.split_once('/'))
    {
        claims.insert((attached_volume(namespace, volume), "spec.csi.volumeHandle"));
    }
    if let Some((within, name, field)) = name_of(attempt, object) {
        // A key is no place for a book; who may write so long a name there has nobody to deceive.
        if name.len() <= MAX_NAME {
            claims.insert((format!("{CLAIMS}name/{within}/{name}"), field));
        }
    }
    if ids::has_id(attempt)
        && let Some(id) = spec["id"].as_str()
    {
        let (group, plural) = (&attempt.kind.descriptor.group, &attempt.kind.descriptor.plural);
        claims.insert((format!("{CLAIMS}id/{group}/{plural}/{id}"), "spec.id"));
    }
    claims
}
