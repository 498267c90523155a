//! Service → EndpointSlices: the addresses of the Pods that a Service selects.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, PodSpec, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{Resource, ResourceExt};
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, is_not_found, run_loop};

use crate::Context;
use crate::pods::{is_terminal, matches, ready_since};

/// Most endpoints in one slice (Kubernetes' own default is 100, the API's limit 1,000).
const SLICE_SIZE: usize = 1000;
pub(crate) const SERVICE_LABEL: &str = "kubernetes.io/service-name";
pub(crate) const MANAGED_BY: (&str, &str) =
    ("endpointslice.kubernetes.io/managed-by", "endpointslice-controller.k8s.io");

/// Runs the loop.
pub async fn run(context: Context) {
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let slices = context.informers.of::<EndpointSlice>();
    let queue = Queue::new();
    tokio::join!(services.synced(), pods.synced(), slices.synced());
    queue.feed(&services, |service| [ObjectKey::of(service)]);
    let all = services.clone();
    queue.feed(&pods, move |pod| services_of(&all, pod));
    queue.feed(&slices, |slice| {
        let service = slice.labels().get(SERVICE_LABEL)?;
        Some(ObjectKey::new(slice.namespace().unwrap_or_default(), service.clone()))
    });
    let work = Arc::new(Loop { context, services, pods, slices });
    run_loop("endpointslice", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
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
    slices: Informer<EndpointSlice>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        // Slices of a Service that is gone are collected by their owner reference.
        let Some(service) = self.services.get_key(key) else { return Ok(None) };
        let Some(selector) = selector(&service) else { return Ok(None) };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let pods = self.pods.in_namespace(&key.namespace);
        let selected = pods.iter().filter(|pod| matches(&selector, pod.metadata.labels.as_ref()));
        let wanted = slices_of(&service, selected.map(AsRef::as_ref));
        let present: Vec<Arc<EndpointSlice>> = self
            .slices
            .in_namespace(&key.namespace)
            .into_iter()
            .filter(|slice| slice.labels().get(SERVICE_LABEL) == Some(&key.name))
            .filter(|slice| slice.labels().get(MANAGED_BY.0).is_some_and(|by| by == MANAGED_BY.1))
            .collect();
        for slice in &wanted {
            let name = slice.name_any();
            match present.iter().find(|p| p.name_any() == name) {
                Some(there) if there.endpoints == slice.endpoints && there.ports == slice.ports => {}
                Some(_) => {
                    let patch = json!({"endpoints": slice.endpoints, "ports": slice.ports});
                    self.context.writer.merge::<EndpointSlice>(key.namespace(), &name, &patch).await?;
                }
                None => {
                    self.context.writer.create(slice).await?;
                }
            }
        }
        for slice in present {
            if !wanted.iter().any(|w| w.name_any() == slice.name_any()) {
                let uid = slice.uid();
                self.context
                    .writer
                    .delete::<EndpointSlice>(key.namespace(), &slice.name_any(), uid.as_deref())
                    .await
                    .or_else(|error| if is_not_found(&error) { Ok(()) } else { Err(error) })?;
            }
        }
        Ok(None)
    }
}

/// The slices that a Service should have: one per set of port numbers (a named target port may differ from Pod
/// to Pod), split where it would be too long. Their names depend on nothing but their place.
fn slices_of<'a>(service: &Service, pods: impl Iterator<Item = &'a Pod>) -> Vec<EndpointSlice> {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let publish_unready = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut groups: BTreeMap<Vec<Option<i32>>, Vec<Endpoint>> = BTreeMap::new();
    for pod in pods {
        if let Some(endpoint) = endpoint_of(pod, &service.name_any(), publish_unready) {
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
        for endpoints in chunks {
            let place = slices.len();
            slices.push(slice(service, place, endpoints, ports.clone()));
        }
    }
    slices
}

fn slice(
    service: &Service,
    place: usize,
    endpoints: Vec<Endpoint>,
    ports: Vec<EndpointPort>,
) -> EndpointSlice {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_LABEL.to_owned(), service.name_any());
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    let owner = OwnerReference {
        block_owner_deletion: Some(true),
        ..service.controller_owner_ref(&()).unwrap_or_default()
    };
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{}-{place}", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints: endpoints.into(),
        ports: Some(ports),
    }
}

fn endpoint_of(pod: &Pod, service: &str, publish_unready: bool) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let ip = status.pod_ip.clone().filter(|ip| !ip.is_empty())?;
    if is_terminal(pod) {
        return None;
    }
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let serving = publish_unready || ready_since(pod).is_some();
    Some(Endpoint {
        addresses: vec![ip],
        conditions: Some(EndpointConditions {
            ready: Some(serving && (publish_unready || !terminating)),
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
        let slices = slices_of(&service(), pods.iter());
        assert_eq!(slices.len(), 2);
        let ports: Vec<_> = slices.iter().map(|s| s.ports.as_ref().unwrap()[0].port).collect();
        assert_eq!(ports, [Some(90), Some(8080)]);
        let endpoints = slices[1].endpoints.clone().unwrap();
        assert_eq!(endpoints[0].addresses, ["10.0.0.1"]);
        assert_eq!(endpoints[0].conditions.as_ref().unwrap().ready, Some(false));
        assert_eq!(endpoints[1].conditions.as_ref().unwrap().ready, Some(true));
    }

    #[test]
    fn no_pod_makes_one_empty_slice_and_many_are_split() {
        assert_eq!(slices_of(&service(), std::iter::empty()).len(), 1);
        let many: Vec<Pod> = (0..1500)
            .map(|n| pod(&format!("p{n}"), &format!("10.0.{}.{}", n / 250, n % 250), 80, true))
            .collect();
        let slices = slices_of(&service(), many.iter());
        assert_eq!(slices.len(), 2);
        assert_ne!(slices[0].name_any(), slices[1].name_any());
    }
}
