//! Services and their endpoints as rules for the networks of this node.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use kube::ResourceExt;
use yunfan_network::{Endpoint, HostPort, Protocol, ServicePort, ServiceRule, Target, TargetNetwork};
use yunfan_resources::network::Port;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Labels of Services whose addresses are another program's matter, as kube-proxy has it.
const NOT_OURS: [&str; 2] = ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];
/// Seconds for which a client stays with its target where the Service doesn't say how long.
const AFFINITY: u32 = 10_800;

/// What Services are looked at with.
pub(crate) struct Surroundings<'a> {
    /// This node's name.
    pub(crate) node: &'a str,
    /// The zone that this node is in.
    pub(crate) zone: Option<&'a str>,
    /// A Network's uid by its namespace and name.
    pub(crate) network_uid: &'a dyn Fn(&str, &str) -> Option<String>,
    /// Whether a namespace is a stranger's, whose Services may take no addresses of others.
    pub(crate) is_confined: &'a dyn Fn(&str) -> bool,
}

/// The rules of all Services.
pub(crate) fn rules(
    services: &[Arc<Service>],
    slices: &[Arc<EndpointSlice>],
    ports: &[Arc<Port>],
    surroundings: &Surroundings<'_>,
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
        let uid = (surroundings.network_uid)(namespace, &port.spec.network);
        let (Some(holder), Some(uid)) = (&port.spec.holder, uid) else { continue };
        for ip in port.spec.fixed_ips.iter().filter_map(|fixed| fixed.ip.as_deref()) {
            networks.insert((holder.uid.as_str(), ip), uid.clone());
        }
    }
    let of = |service: &Arc<Service>| {
        let key = (service.namespace().unwrap_or_default(), service.name_any());
        let slices = of_service.get(&key).map(Vec::as_slice).unwrap_or_default();
        rule(service, slices, &networks, surroundings)
    };
    services.iter().filter_map(of).collect()
}

type Networks<'a> = HashMap<(&'a str, &'a str), String>;

fn rule(
    service: &Service,
    slices: &[&EndpointSlice],
    networks: &Networks<'_>,
    surroundings: &Surroundings<'_>,
) -> Option<ServiceRule> {
    let spec = service.spec.as_ref()?;
    if service.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let named = ServiceRule {
        namespace: service.namespace().unwrap_or_default(),
        name: service.name_any(),
        ..ServiceRule::default()
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Some(ServiceRule { external_name: Some(spec.external_name.clone()?), ..named });
    }
    let cluster_ip: Option<Ipv4Addr> = match spec.cluster_ip.as_deref() {
        Some("None") => None,
        // Of a Service of both families nodes lead the address of IPv4 on, whichever is its first.
        Some(ip) => {
            let all = spec.cluster_ips.iter().flatten().map(String::as_str).chain([ip]);
            Some(all.filter_map(|ip| ip.parse().ok()).next()?)
        }
        None => return None,
    };
    let mut candidates: BTreeMap<&str, Vec<Candidate>> = BTreeMap::new();
    let mut endpoints = BTreeSet::new();
    for slice in slices {
        endpoints.extend(
            slice.endpoints.iter().flatten().filter(|e| is_ready(e)).flat_map(|e| names(e, networks)),
        );
        for port in slice.ports.iter().flatten() {
            let Some(number) = port.port.and_then(|number| u16::try_from(number).ok()) else { continue };
            let name = port.name.as_deref().unwrap_or_default();
            let all = slice.endpoints.iter().flatten();
            candidates
                .entry(name)
                .or_default()
                .extend(all.flat_map(|e| Candidate::of(e, number, networks, surroundings)));
        }
    }
    // Its names stay.
    let ours = !NOT_OURS.iter().any(|label| service.labels().contains_key(*label));
    // Of those the names lead to all: hints are for connections that the node leads somewhere.
    let is_headless = cluster_ip.is_none();
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let name = port.name.clone().unwrap_or_default();
        let known = candidates.get(name.as_str()).filter(|_| ours);
        let candidates = known.map(Vec::as_slice).unwrap_or_default();
        let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
        Some(ServicePort {
            protocol: port.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>().ok()?,
            port: u16::try_from(port.port).ok()?,
            node_port: port
                .node_port
                .and_then(|number| u16::try_from(number).ok())
                .filter(|number| ours && *number != 0),
            targets: choose(candidates, local(&spec.internal_traffic_policy), is_headless),
            outside: choose(candidates, local(&spec.external_traffic_policy), is_headless),
            name,
        })
    });
    let external = spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok());
    Some(ServiceRule {
        cluster_ip,
        external_ips: external.filter(|_| ours && !(surroundings.is_confined)(&named.namespace)).collect(),
        affinity: affinity(spec),
        ports: ports.collect(),
        endpoints: endpoints.into_iter().collect(),
        ..named
    })
}

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds);
    Some(seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(AFFINITY))
}

fn is_ready(endpoint: &SliceEndpoint) -> bool {
    endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready.unwrap_or(true))
}

/// An endpoint that may get connections.
struct Candidate {
    target: Target,
    ready: bool,
    /// It is on its way out and still serves.
    leaving: bool,
    /// It is on this node.
    here: bool,
    /// Whether it is meant for this node, where it is said for which nodes.
    for_node: Option<bool>,
    /// The same of zones.
    for_zone: Option<bool>,
}

impl Candidate {
    fn of(
        endpoint: &SliceEndpoint,
        port: u16,
        networks: &Networks<'_>,
        surroundings: &Surroundings<'_>,
    ) -> impl Iterator<Item = Self> {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = is_ready(endpoint);
        let leaving = conditions.terminating == Some(true) && conditions.serving.unwrap_or(ready);
        let here = endpoint.node_name.as_deref() == Some(surroundings.node);
        let hints = endpoint.hints.clone().unwrap_or_default();
        let nodes = hints.for_nodes.filter(|nodes| !nodes.is_empty());
        let for_node = nodes.map(|nodes| nodes.iter().any(|node| node.name == surroundings.node));
        let zones = hints.for_zones.filter(|zones| !zones.is_empty());
        let for_zone =
            zones.map(|zones| zones.iter().any(|zone| Some(zone.name.as_str()) == surroundings.zone));
        places(endpoint, networks).map(move |(network, ip)| Self {
            target: Target { network, ip, port },
            ready,
            leaving,
            here,
            for_node,
            for_zone,
        })
    }
}

/// The ready ones; where there are none, those that are leaving and still serve (of this node alone, where `local`). Each network is
/// looked at by itself, as its clients reach no other.
fn choose(candidates: &[Candidate], local: bool, all: bool) -> Vec<Target> {
    let mut networks: BTreeMap<&TargetNetwork, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        networks.entry(&candidate.target.network).or_default().push(candidate);
    }
    let mut chosen: Vec<Target> = networks.values().flat_map(|of| choose_on(of, local, all)).collect();
    chosen.sort();
    chosen.dedup();
    chosen
}

/// As [`choose`], of one network.
fn choose_on(candidates: &[&Candidate], local: bool, all: bool) -> Vec<Target> {
    let close = closeness(candidates);
    let near = || candidates.iter().filter(|candidate| candidate.here || !local);
    let ready = near().filter(|candidate| candidate.ready && (local || all || close(candidate)));
    let chosen: Vec<Target> = ready.map(|c| c.target.clone()).collect();
    if !chosen.is_empty() {
        return chosen;
    }
    near().filter(|c| c.leaving).map(|c| c.target.clone()).collect()
}

/// Which of the ready ones are meant for this node. Hints count where all of them have some and one is for us (kube-proxy's rule).
fn closeness(candidates: &[&Candidate]) -> fn(&Candidate) -> bool {
    let hinted = |hint: fn(&Candidate) -> Option<bool>| {
        let ready = || candidates.iter().filter(|candidate| candidate.ready).map(|candidate| hint(candidate));
        ready().all(|hint| hint.is_some()) && ready().any(|hint| hint == Some(true))
    };
    if hinted(|candidate| candidate.for_node) {
        |candidate| candidate.for_node == Some(true)
    } else if hinted(|candidate| candidate.for_zone) {
        |candidate| candidate.for_zone == Some(true)
    } else {
        |_| true
    }
}

/// An endpoint's addresses, and the networks that they are on.
fn places(
    endpoint: &SliceEndpoint,
    networks: &Networks<'_>,
) -> impl Iterator<Item = (TargetNetwork, Ipv4Addr)> {
    let holder = endpoint.target_ref.as_ref().and_then(|target| target.uid.as_deref()).unwrap_or_default();
    let place = |address: &String| {
        let network = match networks.get(&(holder, address.as_str())) {
            Some(uid) => TargetNetwork::Tenant(uid.clone()),
            None => TargetNetwork::Cluster,
        };
        Some((network, address.parse().ok()?))
    };
    endpoint.addresses.iter().filter_map(place).collect::<Vec<_>>().into_iter()
}

fn names(endpoint: &SliceEndpoint, networks: &Networks<'_>) -> impl Iterator<Item = Endpoint> {
    let host = endpoint.hostname.clone().filter(|host| !host.is_empty());
    places(endpoint, networks).map(move |(network, ip)| Endpoint { network, ip, host: host.clone() })
}

/// The ports of the host that a Pod with a network of its own asks for.
pub(crate) fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    // Init containers that go on running beside the others have ports as those have.
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let all = ports.filter_map(|port| {
        let number = |port: i32| u16::try_from(port).ok().filter(|port| *port != 0);
        let host_ip = match port.host_ip.as_deref().unwrap_or_default() {
            "" | "0.0.0.0" => None,
            ip => Some(ip.parse().ok()?),
        };
        let protocol = port.protocol.as_deref().unwrap_or("TCP").parse().ok()?;
        Some(HostPort {
            host_ip,
            protocol,
            port: number(port.host_port?)?,
            target_port: number(port.container_port)?,
        })
    });
    let mut all: Vec<_> = all.collect();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> Arc<Service> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "demo"}, "spec": spec}))
                .unwrap(),
        )
    }

    fn slice(endpoints: Value) -> Arc<EndpointSlice> {
        let slice = json!({
            "metadata": {"name": "web-0", "namespace": "demo", "labels": {SERVICE_LABEL: "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080}], "endpoints": endpoints,
        });
        Arc::new(serde_json::from_value(slice).unwrap())
    }

    fn made(spec: Value, endpoints: Value, ports: &[Arc<Port>]) -> Vec<ServiceRule> {
        let surroundings = Surroundings {
            node: "n1",
            zone: Some("z1"),
            network_uid: &|_, name| Some(format!("uid-{name}")),
            is_confined: &|namespace| namespace != "demo",
        };
        rules(&[service(spec)], &[slice(endpoints)], ports, &surroundings)
    }

    fn web(more: Value) -> Value {
        let mut spec =
            json!({"clusterIP": "10.96.0.7", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    }

    fn ips(targets: &[Target]) -> Vec<String> {
        targets.iter().map(|target| target.ip.to_string()).collect()
    }

    #[test]
    fn what_another_program_serves_has_its_names_alone() {
        let endpoints = json!([{"addresses": ["10.244.0.9"], "conditions": {"ready": true}}]);
        for label in NOT_OURS {
            let spec = web(
                json!({"externalIPs": ["192.0.2.7"], "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}),
            );
            let mut service = service(spec).as_ref().clone();
            service.metadata.labels = Some([(label.to_owned(), "other".to_owned())].into());
            let surroundings =
                Surroundings { node: "n1", zone: None, network_uid: &|_, _| None, is_confined: &|_| false };
            let rules = rules(&[service.into()], &[slice(endpoints.clone())], &[], &surroundings);
            let [rule] = rules.as_slice() else { panic!("{rules:?}") };
            let port = &rule.ports[0];
            assert!(port.targets.is_empty() && port.outside.is_empty() && port.node_port.is_none());
            assert!(rule.external_ips.is_empty() && rule.cluster_ip.is_some() && rule.endpoints.len() == 1);
        }
    }

    #[test]
    fn a_service_of_both_families_is_led_by_its_address_of_ipv4() {
        let four = json!(["10.244.0.9"]);
        let endpoints = json!([{"addresses": four, "conditions": {"ready": true}}, {"addresses": ["fd00::9"], "conditions": {"ready": true}}]);
        let of =
            |ips: Value| made(web(json!({"clusterIP": ips[0], "clusterIPs": ips})), endpoints.clone(), &[]);
        let rule = &of(json!(["fd00:96::7", "10.96.0.8"]))[0];
        assert_eq!(rule.cluster_ip.map(|ip| ip.to_string()).as_deref(), Some("10.96.0.8"));
        assert_eq!(ips(&rule.ports[0].targets), ["10.244.0.9"]);
        assert!(of(json!(["fd00:96::7"])).is_empty());
    }

    #[test]
    fn a_target_is_on_the_network_of_its_pods_port() {
        let port: Port = serde_json::from_value(json!({
            "metadata": {"name": "pod-x-0", "namespace": "demo"},
            "spec": {"network": "lan", "holder": {"kind": "Pod", "name": "x", "uid": "p1"}, "fixedIps": [{"ip": "10.10.0.5"}]},
        }))
        .unwrap();
        let endpoints = json!([
            {"addresses": ["10.10.0.5"], "conditions": {"ready": true}, "targetRef": {"uid": "p1"}},
            {"addresses": ["10.244.0.9"], "conditions": {"ready": true}, "targetRef": {"uid": "p2"}, "hostname": "db-0"},
            {"addresses": ["10.10.0.6"], "conditions": {"ready": false}, "targetRef": {"uid": "p3"}},
        ]);
        let rules = made(web(json!({})), endpoints, &[port.into()]);
        let targets = &rules[0].ports[0].targets;
        assert_eq!(targets.len(), 2);
        assert_eq!(targets[0].network, TargetNetwork::Cluster);
        assert_eq!(targets[1].network, TargetNetwork::Tenant("uid-lan".into()));
        assert_eq!(targets[1].port, 8080);
        let hosts: Vec<_> = rules[0].endpoints.iter().map(|endpoint| endpoint.host.as_deref()).collect();
        assert_eq!(hosts, [Some("db-0"), None]);
    }

    #[test]
    fn a_headless_service_has_no_address_and_an_external_name_an_alias_alone() {
        assert_eq!(made(json!({"clusterIP": "None"}), json!([]), &[])[0].cluster_ip, None);
        let alias = made(json!({"type": "ExternalName", "externalName": "x.org"}), json!([]), &[]);
        assert_eq!((alias[0].external_name.as_deref(), alias[0].ports.len()), (Some("x.org"), 0));
        assert!(made(json!({}), json!([]), &[]).is_empty());
    }

    #[test]
    fn policies_choose_among_the_endpoints() {
        let endpoint = |ip: &str, node: &str, conditions: Value| json!({"addresses": [ip], "nodeName": node, "conditions": conditions});
        let leaving = json!({"ready": false, "serving": true, "terminating": true});
        let all = json!([
            endpoint("10.0.0.1", "n1", leaving.clone()),
            endpoint("10.0.0.2", "n2", json!({"ready": true})),
            endpoint("10.0.0.3", "n1", json!({"ready": false, "serving": false, "terminating": true})),
        ]);
        let spec = web(json!({"type": "NodePort", "externalTrafficPolicy": "Local"}));
        let port = made(spec, all, &[])[0].ports[0].clone();
        assert_eq!(ips(&port.targets), ["10.0.0.2"], "the ready one");
        assert_eq!(ips(&port.outside), ["10.0.0.1"], "the one of this node that still serves");
        let spec = web(json!({"internalTrafficPolicy": "Local"}));
        let port = made(spec, json!([endpoint("10.0.0.2", "n2", json!({}))]), &[])[0].ports[0].clone();
        assert_eq!((ips(&port.targets), ips(&port.outside)), (vec![], vec!["10.0.0.2".to_owned()]));
    }

    #[test]
    fn near_endpoints_are_preferred_where_all_say_for_whom_they_are() {
        let endpoint = |ip: &str, hints: Value| json!({"addresses": [ip], "conditions": {"ready": true}, "hints": hints});
        let zone = |name: &str| json!({"forZones": [{"name": name}]});
        let both =
            |zone: &str, node: &str| json!({"forZones": [{"name": zone}], "forNodes": [{"name": node}]});
        let with = |spec: Value, hints: [Value; 3]| {
            let all: Vec<Value> = hints
                .into_iter()
                .zip(["10.0.0.1", "10.0.0.2", "10.0.0.3"])
                .map(|(hint, ip)| endpoint(ip, hint))
                .collect();
            made(web(spec), json!(all), &[])[0].ports[0].targets.len()
        };
        let of = |hints| with(json!({}), hints);
        assert_eq!(of([zone("z1"), zone("z1"), zone("z2")]), 2);
        assert_eq!(
            with(json!({"clusterIP": "None"}), [zone("z1"), zone("z1"), zone("z2")]),
            3,
            "names lead to all"
        );
        assert_eq!(of([zone("z2"), zone("z2"), zone("z2")]), 3, "none is for us");
        assert_eq!(of([zone("z1"), zone("z2"), Value::Null]), 3, "one does not say");
        assert_eq!(of([both("z1", "n1"), both("z1", "n2"), both("z2", "n3")]), 1);
        assert_eq!(of([both("z1", "n4"), both("z1", "n2"), both("z2", "n3")]), 2);
    }

    #[test]
    fn ports_addresses_and_affinity_are_taken_over() {
        let config = json!({"clientIP": {"timeoutSeconds": 60}});
        let more = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config, "externalIPs": ["192.0.2.7"],
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "UDP"}]});
        let rule = made(web(more.clone()), json!([]), &[]).remove(0);
        assert_eq!(
            (rule.affinity, rule.ports[0].node_port, rule.ports[0].protocol),
            (Some(60), Some(30_080), Protocol::Udp)
        );
        assert_eq!(rule.external_ips.len(), 1);
        let stranger = Arc::new(Service {
            metadata: kube::api::ObjectMeta { namespace: Some("other".to_owned()), ..Default::default() },
            ..(*service(web(more))).clone()
        });
        let surroundings =
            Surroundings { node: "n1", zone: None, network_uid: &|_, _| None, is_confined: &|_| true };
        assert!(rules(&[stranger], &[], &[], &surroundings)[0].external_ips.is_empty());
    }
}
