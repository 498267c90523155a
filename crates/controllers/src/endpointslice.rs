//! Service → EndpointSlices: the addresses of the Pods that a Service selects.

mod families;
mod triggers;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Node, ObjectReference, Pod, PodSpec, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointHints, EndpointPort, EndpointSlice, ForNode, ForZone,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use yunfan_client::{Informer, ObjectKey, Queue, run_loop};
use yunfan_resources::names::ZONE_LABEL;

pub(crate) use self::families::{Family, families_of, leads_to};
use self::triggers::Triggers;
use crate::Context;
use crate::ahead::Ahead;
use crate::pods::{is_terminal, matches, ready_since};

/// Most endpoints in one slice (Kubernetes' own default is 100, the API's limit 1,000).
const SLICE_SIZE: usize = 1000;
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Annotation with the moment of the first change that a slice tells of.
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";

/// Runs the loop.
pub async fn run(context: Context) {
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    let slices = context.informers.of::<EndpointSlice>();
    let queue = Queue::new();
    tokio::join!(services.synced(), pods.synced(), nodes.synced(), slices.synced());
    queue.feed(&services, |service| [ObjectKey::of(service)]);
    let all = services.clone();
    queue.feed(&pods, move |pod| services_of(&all, pod));
    // All Services are looked at once in the beginning.
    let zones = Zones::of(&nodes.list());
    let (all, placed, known) = (services.clone(), pods.clone(), nodes.clone());
    queue.feed(&nodes, move |node| {
        let is_there = known.get_key(&ObjectKey::of(node)).is_some();
        if zones.has_moved(node, is_there) {
            services_on(&all, &placed, &node.name_any())
        } else {
            Vec::new()
        }
    });
    queue.feed(&slices, |slice| {
        let service = slice.labels().get(SERVICE_LABEL)?;
        Some(ObjectKey::new(slice.namespace().unwrap_or_default(), service.clone()))
    });
    let written = Ahead::new(slices.clone());
    let triggers = Triggers::default();
    let work = Arc::new(Loop { context, services, pods, nodes, slices, written, triggers });
    run_loop("endpointslice", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

/// The Services of the Pods on a node.
fn services_on(services: &Informer<Service>, pods: &Informer<Pod>, node: &str) -> Vec<ObjectKey> {
    let on = |pod: &Arc<Pod>| pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_deref() == Some(node));
    let mut found: Vec<ObjectKey> =
        pods.list().iter().filter(|pod| on(pod)).flat_map(|pod| services_of(services, pod)).collect();
    found.sort();
    found.dedup();
    found
}

/// In which zone each node was last seen: most changes of Nodes are none of these.
struct Zones(Mutex<HashMap<String, Option<String>>>);

impl Zones {
    fn of(nodes: &[Arc<Node>]) -> Self {
        Self(Mutex::new(nodes.iter().map(|node| (node.name_any(), zone_label(node))).collect()))
    }

    /// One that is gone is forgotten: where it comes again, that is a move.
    fn has_moved(&self, node: &Node, is_there: bool) -> bool {
        let zone = zone_label(node);
        // Nothing panics under this lock.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_there {
            return known.remove(&node.name_any()).flatten().is_some();
        }
        known.insert(node.name_any(), zone.clone()) != Some(zone)
    }
}

fn zone_label(node: &Node) -> Option<String> {
    node.labels().get(ZONE_LABEL).filter(|zone| !zone.is_empty()).cloned()
}

pub(crate) fn services_of(services: &Informer<Service>, pod: &Pod) -> Vec<ObjectKey> {
    services
        .in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default())
        .iter()
        .filter(|service| selector(service).is_some_and(|s| matches(&s, pod.metadata.labels.as_ref())))
        .map(|service| ObjectKey::of(service.as_ref()))
        .collect()
}

/// What the Service selects; none for one whose endpoints someone else writes.
pub(crate) fn selector(service: &Service) -> Option<LabelSelector> {
    let labels = service.spec.as_ref()?.selector.clone().filter(|labels| !labels.is_empty())?;
    Some(LabelSelector { match_labels: Some(labels), ..LabelSelector::default() })
}

struct Loop {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    written: Ahead<EndpointSlice>,
    triggers: Triggers,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        // Slices get their names from the API server: a pass that does not see them would make them again.
        if let Some(wait) = self.written.behind(key) {
            return Ok(Some(wait));
        }
        // Slices of a Service that is gone are collected by their owner reference.
        let Some(service) = self.services.get_key(key) else {
            self.written.forget(key);
            self.triggers.forget(key);
            return Ok(None);
        };
        let Some(selector) = selector(&service) else { return Ok(None) };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| matches(&selector, pod.metadata.labels.as_ref()));
        let all = || pods.iter().map(AsRef::as_ref);
        let mut wanted: Vec<EndpointSlice> = families_of(&service)
            .into_iter()
            .flat_map(|family| slices_of(&service, family, all(), |node| self.zone_of(node)))
            .collect();
        if let Some(at) = self.triggers.changed(key, &service, &pods) {
            let at = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            for slice in &mut wanted {
                slice.metadata.annotations = Some([(TRIGGER.to_owned(), at.clone())].into());
            }
        }
        let writer = &self.context.writer;
        let (pairs, surplus) = paired(wanted, self.present(key, &service));
        for (slice, there) in pairs {
            let Some(there) = there else {
                self.written.wrote(key, &writer.create(&slice).await?);
                continue;
            };
            if let Some(patch) = patch(&there, &slice) {
                let name = there.name_any();
                let written = writer.merge::<EndpointSlice>(key.namespace(), &name, &patch).await?;
                self.written.wrote(key, &written);
            }
        }
        for slice in surplus {
            let (name, uid) = (slice.name_any(), slice.uid());
            writer.delete::<EndpointSlice>(key.namespace(), &name, uid.as_deref()).await?;
        }
        Ok(None)
    }

    /// The slices that this loop made for the Service, the oldest name first.
    fn present(&self, key: &ObjectKey, service: &Service) -> Vec<Arc<EndpointSlice>> {
        let mut present = self.slices.in_namespace(&key.namespace);
        present.retain(|slice| {
            let owners = slice.metadata.owner_references.as_deref().unwrap_or_default();
            slice.labels().get(SERVICE_LABEL) == Some(&key.name)
                && slice.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1)
                && slice.metadata.deletion_timestamp.is_none()
                // Those of a Service that had this name before go with it.
                && (owners.is_empty() || owners.iter().any(|owner| Some(&owner.uid) == service.metadata.uid.as_ref()))
        });
        present.sort_by_key(|slice| slice.name_any());
        present
    }

    fn zone_of(&self, node: &str) -> Option<String> {
        zone_label(self.nodes.get(None, node)?.as_ref())
    }
}

type Pair = (EndpointSlice, Option<Arc<EndpointSlice>>);

/// Each slice that is wanted with the one that becomes it: one of the same ports, else any that is left over. What is left then goes.
fn paired(
    wanted: Vec<EndpointSlice>,
    mut present: Vec<Arc<EndpointSlice>>,
) -> (Vec<Pair>, Vec<Arc<EndpointSlice>>) {
    let mut pairs: Vec<Pair> = wanted.into_iter().map(|slice| (slice, None)).collect();
    let same_ports = |one: &EndpointSlice, other: &EndpointSlice| one.ports == other.ports;
    for strict in [true, false] {
        for (slice, there) in pairs.iter_mut().filter(|(_, there)| there.is_none()) {
            let fits = present.iter().position(|other| {
                other.address_type == slice.address_type && (!strict || same_ports(slice, other))
            });
            *there = fits.map(|at| present.remove(at));
        }
    }
    (pairs, present)
}

/// What brings a slice to what it should be; none when it is. The moment of the change alone is no change.
fn patch(there: &EndpointSlice, wanted: &EndpointSlice) -> Option<Value> {
    let empty = |slice: &EndpointSlice| slice.endpoints.clone().unwrap_or_default();
    let ports = |slice: &EndpointSlice| slice.ports.clone().unwrap_or_default();
    if empty(there) == empty(wanted)
        && ports(there) == ports(wanted)
        && there.metadata.labels == wanted.metadata.labels
    {
        return None;
    }
    let mut labels: BTreeMap<&String, Value> = there.labels().keys().map(|key| (key, Value::Null)).collect();
    labels.extend(wanted.labels().iter().map(|(key, value)| (key, json!(value))));
    Some(json!({
        "metadata": {"labels": labels, "annotations": {TRIGGER: wanted.annotations().get(TRIGGER)}},
        "endpoints": empty(wanted),
        "ports": ports(wanted),
    }))
}

/// The slices that a Service should have for one family: one per set of port numbers (a named target port may differ from Pod
/// to Pod), split where it would be too long. `zone_of` tells where a node is.
fn slices_of<'a>(
    service: &Service,
    family: Family,
    pods: impl Iterator<Item = &'a Pod>,
    zone_of: impl Fn(&str) -> Option<String>,
) -> Vec<EndpointSlice> {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let publish_unready = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut zones: HashMap<String, Option<String>> = HashMap::new();
    let mut groups: BTreeMap<Vec<Option<i32>>, Vec<Endpoint>> = BTreeMap::new();
    for pod in pods {
        if let Some(mut endpoint) = endpoint_of(pod, family, &service.name_any(), publish_unready) {
            if let Some(node) = &endpoint.node_name {
                endpoint.zone = zones.entry(node.clone()).or_insert_with(|| zone_of(node)).clone();
            }
            endpoint.hints = hints(spec.traffic_distribution.as_deref(), &endpoint);
            let numbers = ports.iter().map(|port| target(port, pod)).collect();
            groups.entry(numbers).or_default().push(endpoint);
        }
    }
    if groups.is_empty() {
        // One empty slice says that there is no endpoint, which is other than not knowing.
        groups.insert(vec![None; ports.len()], Vec::new());
    }
    let mut slices = Vec::new();
    for (numbers, mut endpoints) in groups {
        endpoints.sort_by(|a, b| a.addresses.cmp(&b.addresses));
        let ports: Vec<EndpointPort> = ports
            .iter()
            .zip(&numbers)
            .filter_map(|(port, number)| {
                let number = (*number)?;
                Some(EndpointPort {
                    name: Some(port.name.clone().unwrap_or_default()),
                    port: Some(number),
                    protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                    app_protocol: port.app_protocol.clone(),
                })
            })
            .collect();
        let mut chunks: Vec<Vec<Endpoint>> = endpoints.chunks(SLICE_SIZE).map(<[Endpoint]>::to_vec).collect();
        if chunks.is_empty() {
            chunks.push(Vec::new());
        }
        slices.extend(chunks.into_iter().map(|endpoints| slice(service, family, endpoints, ports.clone())));
    }
    slices
}

/// For whom an endpoint is meant, where the Service prefers near ones.
fn hints(distribution: Option<&str>, endpoint: &Endpoint) -> Option<EndpointHints> {
    let by_node = match distribution? {
        "PreferClose" | "PreferSameZone" => false,
        "PreferSameNode" => true,
        _ => return None,
    };
    endpoint.conditions.as_ref().filter(|conditions| conditions.ready == Some(true))?;
    let for_zones = endpoint.zone.clone().map(|name| vec![ForZone { name }]);
    let node = endpoint.node_name.clone().filter(|_| by_node);
    let for_nodes = node.map(|name| vec![ForNode { name }]);
    (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_nodes, for_zones })
}

fn slice(
    service: &Service,
    family: Family,
    endpoints: Vec<Endpoint>,
    ports: Vec<EndpointPort>,
) -> EndpointSlice {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).unwrap_or_default();
    if matches!(address, "" | "None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    labels.insert(SERVICE_LABEL.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    let owner = OwnerReference {
        block_owner_deletion: Some(true),
        ..service.controller_owner_ref(&()).unwrap_or_default()
    };
    EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: family.name().to_owned(),
        endpoints: endpoints.into(),
        ports: Some(ports),
    }
}

fn endpoint_of(pod: &Pod, family: Family, service: &str, publish_unready: bool) -> Option<Endpoint> {
    let ip = leads_to(pod, family)?.to_string();
    if is_terminal(pod) {
        return None;
    }
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = ready_since(pod).is_some();
    Some(Endpoint {
        addresses: vec![ip],
        conditions: Some(EndpointConditions {
            ready: Some(publish_unready || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
        hostname: pod.spec.as_ref().and_then(|spec| {
            // As DNS for StatefulSets wants it: only where the Pod's subdomain names the Service.
            spec.subdomain.as_ref().filter(|subdomain| *subdomain == service).and(spec.hostname.clone())
        }),
        ..Endpoint::default()
    })
}

/// The number of a Service port's target on this Pod; none when the Pod has no port of that name.
pub(crate) fn target(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(name)) => pod
            .spec
            .iter()
            .flat_map(|spec| spec.containers.iter().chain(sidecars(spec)))
            .flat_map(|container| container.ports.iter().flatten())
            .find(|p| p.name.as_ref() == Some(name) && protocol(&p.protocol) == protocol(&port.protocol))
            .map(|p| p.container_port),
    }
}

fn sidecars(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    let all = spec.init_containers.iter().flatten();
    all.filter(|container| container.restart_policy.as_deref() == Some("Always"))
}

fn protocol(named: &Option<String>) -> &str {
    named.as_deref().unwrap_or("TCP")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ip: &str, port: i32, ready: bool) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "demo", "uid": name},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": port}]}]},
            "status": {"phase": "Running", "podIP": ip,
                "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
        }))
        .unwrap()
    }

    #[test]
    fn a_named_port_may_be_a_sidecars() {
        let mut pod = pod("a", "10.0.0.1", 80, true);
        pod.spec.as_mut().unwrap().init_containers = serde_json::from_value(json!([
            {"name": "once", "ports": [{"name": "side", "containerPort": 1}]},
            {"name": "sidecar", "restartPolicy": "Always", "ports": [
                {"name": "side", "containerPort": 2, "protocol": "UDP"}, {"name": "side", "containerPort": 3}]},
        ]))
        .unwrap();
        let of = |name: &str, protocol: Option<&str>| {
            let port = json!({"port": 5, "targetPort": name, "protocol": protocol});
            target(&serde_json::from_value(port).unwrap(), &pod)
        };
        assert_eq!(
            [of("http", None), of("side", None), of("side", Some("UDP"))],
            [Some(80), Some(3), Some(2)]
        );
        assert_eq!([of("http", Some("UDP")), of("none", None)], [None, None]);
    }

    fn service() -> Service {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "demo", "uid": "s"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]},
        }))
        .unwrap()
    }

    #[test]
    fn pods_with_different_target_ports_are_in_different_slices() {
        let pods = [
            pod("a", "10.0.0.2", 8080, true),
            pod("b", "10.0.0.1", 8080, false),
            pod("c", "10.0.0.3", 90, true),
        ];
        let slices = slices_of(&service(), Family::V4, pods.iter(), |_| None);
        assert_eq!(slices.len(), 2);
        let ports: Vec<_> = slices.iter().map(|s| s.ports.as_ref().unwrap()[0].port).collect();
        assert_eq!(ports, [Some(90), Some(8080)]);
        let endpoints = slices[1].endpoints.clone().unwrap();
        assert_eq!(endpoints[0].addresses, ["10.0.0.1"]);
        assert_eq!(endpoints[0].conditions.as_ref().unwrap().ready, Some(false));
        assert_eq!(endpoints[1].conditions.as_ref().unwrap().ready, Some(true));
    }

    #[test]
    fn pods_at_addresses_that_no_endpoint_may_have_are_left_out() {
        let never =
            ["", "no", "0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "::1", "fe80::1", "ff02::1"];
        for ip in never.into_iter().chain(["::", "::ffff:10.0.0.1"]) {
            for family in [Family::V4, Family::V6] {
                assert_eq!(leads_to(&pod("a", ip, 80, true), family), None, "{ip}");
            }
        }

        let pods = ["127.0.0.1", "10.0.0.2", "2001:db8::1"].map(|ip| pod("a", ip, 80, true));
        let endpoints = slices_of(&service(), Family::V4, pods.iter(), |_| None).remove(0).endpoints.unwrap();
        assert_eq!(endpoints.iter().flat_map(|one| &one.addresses).collect::<Vec<_>>(), ["10.0.0.2"]);
    }

    #[test]
    fn no_pod_makes_one_empty_slice_and_many_are_split() {
        assert_eq!(slices_of(&service(), Family::V4, std::iter::empty(), |_| None).len(), 1);
        let many: Vec<Pod> = (0..1500)
            .map(|n| pod(&format!("p{n}"), &format!("10.0.{}.{}", n / 250, n % 250), 80, true))
            .collect();
        let slices = slices_of(&service(), Family::V4, many.iter(), |_| None);
        let sizes: Vec<usize> = slices.iter().map(|slice| slice.endpoints.as_ref().unwrap().len()).collect();
        assert_eq!(sizes, [1000, 500]);
    }

    #[test]
    fn endpoints_tell_their_zone_and_for_whom_they_are() {
        let pods = [pod("a", "10.0.0.1", 80, true), pod("b", "10.0.0.2", 80, false)];
        let of = |distribution: Option<&str>, zone: Option<&str>| {
            let mut service = service();
            service.spec.as_mut().unwrap().traffic_distribution = distribution.map(str::to_owned);
            let slices = slices_of(&service, Family::V4, pods.iter(), |_| zone.map(str::to_owned));
            let endpoints = slices[0].endpoints.clone().unwrap();
            assert!(endpoints.iter().all(|endpoint| endpoint.zone.as_deref() == zone));
            json!([endpoints[0].hints, endpoints[1].hints])
        };
        let (zones, nodes) = (json!([{"name": "z"}]), json!([{"name": "n1"}]));
        assert_eq!(of(None, Some("z")), json!([null, null]));
        for close in ["PreferClose", "PreferSameZone"] {
            assert_eq!(of(Some(close), Some("z")), json!([{"forZones": zones}, null]));
            assert_eq!(of(Some(close), None), json!([null, null]));
        }
        assert_eq!(
            of(Some("PreferSameNode"), Some("z")),
            json!([{"forZones": zones, "forNodes": nodes}, null])
        );
    }

    #[test]
    fn nodes_that_come_to_another_zone_are_told_from_others() {
        let node = |zone: Option<&str>| -> Node {
            let labels = zone.map(|zone| json!({ZONE_LABEL: zone}));
            serde_json::from_value(json!({"metadata": {"name": "n", "labels": labels}})).unwrap()
        };
        let zones = Zones::of(&[Arc::new(node(None))]);
        let moves = [None, Some("a"), Some("a"), Some("b"), Some(""), None]
            .map(|zone| zones.has_moved(&node(zone), true));
        assert_eq!(moves, [false, true, false, true, true, false]);
        assert!(zones.has_moved(&node(Some("a")), true) && zones.has_moved(&node(Some("a")), false));
        assert!(zones.has_moved(&node(Some("a")), true), "it came again");
        assert!(Zones::of(&[]).has_moved(&node(None), true), "its Pods may be known already");
    }

    #[test]
    fn slices_become_those_of_the_same_ports_and_follow_the_labels() {
        let pods = [pod("a", "10.0.0.1", 80, true), pod("b", "10.0.0.2", 90, true)];
        let mut service = service();
        let named = |slices: Vec<EndpointSlice>| -> Vec<Arc<EndpointSlice>> {
            let named = slices.into_iter().enumerate().map(|(at, mut slice)| {
                slice.metadata.name = Some(format!("web-{at}"));
                Arc::new(slice)
            });
            named.collect()
        };
        let both = named(slices_of(&service, Family::V4, pods.iter(), |_| None));
        let (pairs, surplus) =
            paired(slices_of(&service, Family::V4, pods[1..].iter(), |_| None), both.clone());
        let [(slice, Some(there))] = pairs.as_slice() else { panic!("{pairs:?}") };
        assert_eq!((there.name_any(), surplus.len(), patch(there, slice)), ("web-1".to_owned(), 1, None));
        // One that is left over becomes one of other ports.
        let (pairs, surplus) =
            paired(slices_of(&service, Family::V4, pods[..1].iter(), |_| None), both[1..].to_vec());
        assert_eq!(
            (pairs[0].1.as_ref().map(|there| there.name_any()), surplus.len()),
            (Some("web-1".to_owned()), 0)
        );
        service.metadata.labels =
            Some([("new".to_owned(), "1".to_owned()), (HEADLESS.to_owned(), String::new())].into());
        service.spec.as_mut().unwrap().cluster_ip = Some("10.96.0.9".to_owned());
        let wanted = slices_of(&service, Family::V4, pods[1..].iter(), |_| None).remove(0);
        let changed = patch(&both[1], &wanted).unwrap();
        let labels = &changed["metadata"]["labels"];
        assert_eq!(
            (&labels["new"], &labels[HEADLESS], &labels[SERVICE_LABEL]),
            (&json!("1"), &Value::Null, &json!("web"))
        );
    }
}
