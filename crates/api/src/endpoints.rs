//! What is behind a Service: its ready endpoints, and how the front desk reaches them. It dials them itself, without the
//! Service's virtual address, which only networks of nodes know.

use std::net::IpAddr;
use std::sync::Arc;

use rand::seq::SliceRandom;
use serde_json::Value;

use crate::cache::{Cache, Entry};
use crate::keys;

/// Names the Service that an EndpointSlice belongs to.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The group and plural of EndpointSlices.
pub(crate) const GROUP: &str = "discovery.k8s.io";
pub(crate) const PLURAL: &str = "endpointslices";

/// Where something listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A port of a Pod (namespace and name) with its address, which its node dials inside the Pod's network namespace.
    Pod { node: String, place: String, address: String, port: u16 },
    /// A host that no Pod stands for, by name or address.
    Host { host: String, port: u16 },
}

/// An endpoint as its slice has it.
#[derive(Debug, PartialEq, Eq)]
struct Endpoint {
    /// Name of the Pod in the slice's namespace, if it is one.
    pod: Option<String>,
    address: String,
    port: u16,
}

/// The name of a Service's port with this number, which may be empty; none where it has no such port.
pub(crate) fn port_name(service: &Value, number: u64) -> Option<String> {
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let port = ports.find(|port| port["port"] == number)?;
    Some(port["name"].as_str().unwrap_or_default().to_owned())
}

/// The EndpointSlices of a Service.
pub(crate) fn slices(cache: &Cache, namespace: &str, service: &str) -> Vec<Arc<Entry>> {
    let prefix = keys::kind_prefix(GROUP, PLURAL);
    let mut slices = cache.kind(&prefix).list(&keys::namespace_prefix(&prefix, namespace)).entries;
    slices.retain(|entry| entry.labels()[SERVICE_LABEL] == service);
    slices
}

/// Where the ready endpoints of a Service listen for its port of this name, in any order.
pub(crate) fn ready(cache: &Cache, namespace: &str, service: &str, port: &str) -> Vec<Place> {
    let mut found = Vec::new();
    for entry in slices(cache, namespace, service) {
        endpoints(&entry.decode_stored(), port, &mut found);
    }
    found.shuffle(&mut rand::rng());
    let prefix = keys::kind_prefix("", "pods");
    let pods = cache.kind(&prefix);
    found
        .into_iter()
        .filter_map(|Endpoint { pod: name, address, port }| {
            let Some(name) = name else { return Some(Place::Host { host: address, port }) };
            let entry = pods.get(&keys::object_key(&prefix, namespace, &name))?;
            pod(namespace, &entry.decode_stored(), port)
        })
        .collect()
}

/// A port of a Pod; none while it has no address, or one that is no Pod's.
pub(crate) fn pod(namespace: &str, pod: &Value, port: u16) -> Option<Place> {
    let address = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse::<IpAddr>().ok())?;
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        return None;
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(Place::Pod {
        node: text(&pod["spec"]["nodeName"]),
        place: format!("{namespace}/{}", text(&pod["metadata"]["name"])),
        address: address.to_string(),
        port,
    })
}

/// Adds the ready endpoints of a slice, with the number that the port has there.
fn endpoints(slice: &Value, port: &str, found: &mut Vec<Endpoint>) {
    let mut ports = slice["ports"].as_array().into_iter().flatten();
    let known = ports.find(|known| known["name"].as_str().unwrap_or_default() == port);
    let number = known.and_then(|known| known["port"].as_u64()).and_then(|port| u16::try_from(port).ok());
    let Some(number) = number else { return };
    for endpoint in slice["endpoints"].as_array().into_iter().flatten() {
        let target = &endpoint["targetRef"];
        if endpoint["conditions"]["ready"] == false {
            continue;
        }
        if let Some(address) = endpoint["addresses"][0].as_str() {
            let pod = target["name"].as_str().filter(|_| target["kind"] == "Pod");
            found.push(Endpoint { pod: pod.map(str::to_owned), address: address.to_owned(), port: number });
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_port_is_named_by_its_number() {
        let service = json!({"spec": {"ports": [{"port": 80, "name": "web"}, {"port": 81}]}});
        assert_eq!(port_name(&service, 80).as_deref(), Some("web"));
        assert_eq!(port_name(&service, 81).as_deref(), Some(""));
        assert_eq!(port_name(&service, 82), None);
    }

    #[test]
    fn endpoints_are_ready_and_some_are_pods() {
        let slice = json!({"ports": [{"name": "web", "port": 8080}], "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}, "targetRef": {"kind": "Pod", "name": "a"}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}, "targetRef": {"kind": "Pod", "name": "b"}},
            {"addresses": ["192.0.2.3"], "conditions": {}},
        ]});
        let mut found = Vec::new();
        endpoints(&slice, "web", &mut found);
        endpoints(&slice, "", &mut found);
        let endpoint = |pod: Option<&str>, address: &str| Endpoint {
            pod: pod.map(str::to_owned),
            address: address.to_owned(),
            port: 8080,
        };
        assert_eq!(found, [endpoint(Some("a"), "10.0.0.1"), endpoint(None, "192.0.2.3")]);
    }

    #[test]
    fn a_pod_is_dialled_at_its_own_address_alone() {
        let with =
            |ip: &str| json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n"}, "status": {"podIP": ip}});
        let text = str::to_owned;
        let place = Place::Pod { node: text("n"), place: text("d/p"), address: text("10.0.0.1"), port: 80 };
        assert_eq!(pod("d", &with("10.0.0.1"), 80), Some(place));
        for ip in ["127.0.0.1", "0.0.0.0", "224.0.0.1", ""] {
            assert_eq!(pod("d", &with(ip), 80), None);
        }
    }
}
