//! Services and their endpoints as rules for the networks of this node.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use yunfan_network::{Protocol, ServicePort, ServiceRule, Target, TargetNetwork};
use yunfan_resources::network::Port;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// The rules of all Services. `network_uid` finds a Network's uid by its namespace and name.
pub(crate) fn rules(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    ports: &[Arc<Port>],
    network_uid: impl Fn(&str, &str) -> Option<String>,
) -> Vec<ServiceRule> {
    let mut of_service: HashMap<(String, String), Vec<&EndpointSlice>> = HashMap::new();
    for slice in slices {
        if let Some(service) = slice.labels().get(SERVICE_LABEL) {
            let key = (slice.namespace().unwrap_or_default(), service.clone());
            of_service.entry(key).or_default().push(slice);
        }
    }
    // Where each workload's address is: on the network of the Port that it holds.
    let mut networks: HashMap<(&str, &str), String> = HashMap::new();
    for port in ports {
        let namespace = port.metadata.namespace.as_deref().unwrap_or_default();
        let (Some(holder), Some(uid)) = (&port.spec.holder, network_uid(namespace, &port.spec.network))
        else {
            continue;
        };
        for ip in port.spec.fixed_ips.iter().filter_map(|fixed| fixed.ip.as_deref()) {
            networks.insert((holder.uid.as_str(), ip), uid.clone());
        }
    }
    services
        .iter()
        .filter_map(|service| {
            let key = (service.namespace().unwrap_or_default(), service.name_any());
            let slices = of_service.get(&key).map(Vec::as_slice).unwrap_or_default();
            rule(service, slices, &networks)
        })
        .collect()
}

fn rule(
    service: &Service,
    slices: &[&EndpointSlice],
    networks: &HashMap<(&str, &str), String>,
) -> Option<ServiceRule> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") || service.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let cluster_ip: Option<Ipv4Addr> = match spec.cluster_ip.as_deref() {
        Some("None") => None,
        Some(ip) => Some(ip.parse().ok()?),
        None => return None,
    };
    let mut targets: BTreeMap<String, Vec<Target>> = BTreeMap::new();
    for slice in slices {
        for port in slice.ports.iter().flatten() {
            let Some(number) = port.port.and_then(|number| u16::try_from(number).ok()) else { continue };
            let name = port.name.clone().unwrap_or_default();
            targets.entry(name).or_default().extend(endpoints(slice, number, networks));
        }
    }
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let name = port.name.clone().unwrap_or_default();
        Some(ServicePort {
            protocol: port.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>().ok()?,
            port: u16::try_from(port.port).ok()?,
            targets: targets.get(&name).cloned().unwrap_or_default(),
            name,
        })
    });
    Some(ServiceRule {
        namespace: service.namespace().unwrap_or_default(),
        name: service.name_any(),
        cluster_ip,
        ports: ports.collect(),
    })
}

fn endpoints(slice: &EndpointSlice, port: u16, networks: &HashMap<(&str, &str), String>) -> Vec<Target> {
    let all = slice.endpoints.iter().flatten();
    let ready = all.filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready.unwrap_or(true)));
    ready
        .flat_map(|endpoint| {
            let holder =
                endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or_default();
            endpoint.addresses.iter().filter_map(move |address| {
                let network = match networks.get(&(holder, address.as_str())) {
                    Some(uid) => TargetNetwork::Tenant(uid.clone()),
                    None => TargetNetwork::Cluster,
                };
                Some(Target { network, ip: address.parse().ok()?, port })
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_target_is_on_the_network_of_its_pods_port() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "demo"},
            "spec": {"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]},
        }))
        .unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "demo", "labels": {SERVICE_LABEL: "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": ["10.10.0.5"], "conditions": {"ready": true}, "targetRef": {"uid": "p1"}},
                {"addresses": ["10.244.0.9"], "conditions": {"ready": true}, "targetRef": {"uid": "p2"}},
                {"addresses": ["10.10.0.6"], "conditions": {"ready": false}, "targetRef": {"uid": "p3"}},
            ],
        }))
        .unwrap();
        let port: Port = serde_json::from_value(json!({
            "metadata": {"name": "pod-x-0", "namespace": "demo"},
            "spec": {"network": "lan", "holder": {"kind": "Pod", "name": "x", "uid": "p1"}, "fixedIps": [{"ip": "10.10.0.5"}]},
        }))
        .unwrap();
        let rules =
            rules(&[service.into()], &[slice.into()], &[port.into()], |_, name| Some(format!("uid-{name}")));
        let targets = &rules[0].ports[0].targets;
        assert_eq!(targets.len(), 2);
        assert_eq!(targets[0].network, TargetNetwork::Tenant("uid-lan".into()));
        assert_eq!(targets[1].network, TargetNetwork::Cluster);
        assert_eq!(targets[1].port, 8080);
    }

    #[test]
    fn a_headless_service_has_no_address_and_an_external_name_no_rule() {
        let service = |spec| -> Arc<Service> {
            Arc::new(
                serde_json::from_value(json!({"metadata": {"name": "s", "namespace": "d"}, "spec": spec}))
                    .unwrap(),
            )
        };
        let made = |spec| rules(&[service(spec)], &[], &[], |_, _| None);
        assert_eq!(made(json!({"clusterIP": "None"}))[0].cluster_ip, None);
        assert!(made(json!({"type": "ExternalName", "externalName": "x"})).is_empty());
        assert!(made(json!({})).is_empty());
    }
}
