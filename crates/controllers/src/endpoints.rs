//! Service → Endpoints: what EndpointSlices say, in the older shape of one object for each Service.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::{Value, json};
use yunfan_client::{Informer, ObjectKey, Queue, is_not_found, run_loop};

use crate::Context;
use crate::ahead::Ahead;
use crate::endpointslice::{families_of, leads_to, selector, services_of, target};
use crate::pods::{is_ready, is_terminal, matches};

const MANAGED_BY: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Annotation of Endpoints that leave out addresses.
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Most addresses in one object.
const MOST_ADDRESSES: usize = 1000;

/// Runs the loop.
pub async fn run(context: Context) {
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let endpoints = context.informers.of::<Endpoints>();
    let queue = Queue::new();
    tokio::join!(services.synced(), pods.synced(), endpoints.synced());
    queue.feed(&services, |service| [ObjectKey::of(service)]);
    let all = services.clone();
    queue.feed(&pods, move |pod| services_of(&all, pod));
    queue.feed(&endpoints, |endpoints| [ObjectKey::of(endpoints)]);
    let written = Ahead::new(endpoints.clone());
    let work = Arc::new(Loop { context, services, pods, endpoints, written });
    run_loop("endpoint", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    written: Ahead<Endpoints>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        if let Some(wait) = self.written.behind(key) {
            return Ok(Some(wait));
        }
        let there = self.endpoints.get_key(key);
        let Some(service) = self.services.get_key(key) else {
            return self.remove(key, there.as_deref()).await.map(|()| None);
        };
        let Some(selector) = selector(&service) else { return Ok(None) };
        if service.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let pods = self.pods.in_namespace(&key.namespace);
        let selected = pods.iter().filter(|pod| matches(&selector, pod.metadata.labels.as_ref()));
        let wanted = endpoints_of(&service, selected.map(AsRef::as_ref));
        let written = match there {
            None => self.context.writer.create(&wanted).await?,
            Some(there) => {
                let Some(patch) = patch(&there, &wanted) else { return Ok(None) };
                self.context.writer.merge::<Endpoints>(key.namespace(), &key.name, &patch).await?
            }
        };
        self.written.wrote(key, &written);
        Ok(None)
    }

    /// Deletes what this loop made for a Service that is gone.
    async fn remove(&self, key: &ObjectKey, there: Option<&Endpoints>) -> kube::Result<()> {
        self.written.forget(key);
        let Some(there) = there else { return Ok(()) };
        if there.labels().get(MANAGED_BY.0).is_none_or(|by| by != MANAGED_BY.1) {
            return Ok(());
        }
        // The informer of Services may lag behind one that was made just now.
        match self.context.writer.get::<Service>(key.namespace(), &key.name).await {
            Ok(_) => return Ok(()),
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
        }
        self.context.writer.delete::<Endpoints>(key.namespace(), &key.name, there.uid().as_deref()).await
    }
}

/// What brings the Endpoints to what they should be; none when they are.
fn patch(there: &Endpoints, wanted: &Endpoints) -> Option<Value> {
    let over = |endpoints: &Endpoints| endpoints.annotations().get(OVER_CAPACITY).cloned();
    let empty = |subsets: &Option<Vec<EndpointSubset>>| subsets.clone().unwrap_or_default();
    if empty(&there.subsets) == empty(&wanted.subsets)
        && there.metadata.labels == wanted.metadata.labels
        && over(there) == over(wanted)
    {
        return None;
    }
    let mut labels: BTreeMap<&String, Value> = there.labels().keys().map(|key| (key, Value::Null)).collect();
    labels.extend(wanted.labels().iter().map(|(key, value)| (key, json!(value))));
    Some(json!({
        "metadata": {"labels": labels, "annotations": {OVER_CAPACITY: over(wanted)}, "resourceVersion": there.resource_version()},
        "subsets": wanted.subsets,
    }))
}

/// The addresses of Pods with the same port numbers.
#[derive(Default)]
struct Group {
    ready: Vec<EndpointAddress>,
    unready: Vec<EndpointAddress>,
}

/// The Endpoints that a Service should have: one subset for each set of port numbers.
fn endpoints_of<'a>(service: &Service, pods: impl Iterator<Item = &'a Pod>) -> Endpoints {
    let spec = service.spec.clone().unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let publish_unready = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut groups: BTreeMap<Vec<Option<i32>>, Group> = BTreeMap::new();
    for pod in pods {
        let goes = pod.metadata.deletion_timestamp.is_some() && !publish_unready;
        let Some(address) = address_of(service, pod).filter(|_| !goes) else { continue };
        let numbers: Vec<Option<i32>> = ports.iter().map(|port| target(port, pod)).collect();
        if !ports.is_empty() && numbers.iter().all(Option::is_none) {
            continue;
        }
        let group = groups.entry(numbers).or_default();
        if publish_unready || is_ready(pod) { &mut group.ready } else { &mut group.unready }.push(address);
    }
    let (mut room, mut over) = (MOST_ADDRESSES, false);
    let mut take = |mut addresses: Vec<EndpointAddress>| {
        addresses.sort_by(|one, other| one.ip.cmp(&other.ip));
        over |= addresses.len() > room;
        addresses.truncate(room);
        room -= addresses.len();
        Some(addresses).filter(|addresses| !addresses.is_empty())
    };
    let mut subsets = Vec::new();
    for (numbers, Group { ready, unready }) in groups {
        let named = ports.iter().zip(&numbers).filter_map(|(port, number)| {
            Some(EndpointPort {
                name: port.name.clone(),
                port: (*number)?,
                protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".to_owned())),
                app_protocol: port.app_protocol.clone(),
            })
        });
        let subset = EndpointSubset {
            ports: Some(named.collect::<Vec<_>>()).filter(|ports| !ports.is_empty()),
            addresses: take(ready),
            not_ready_addresses: take(unready),
        };
        subsets.extend(Some(subset).filter(|s| s.addresses.is_some() || s.not_ready_addresses.is_some()));
    }
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    if spec.cluster_ip.as_deref() == Some("None") {
        labels.insert(HEADLESS.to_owned(), String::new());
    }
    let over = over.then(|| [(OVER_CAPACITY.to_owned(), "truncated".to_owned())].into());
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.namespace(),
            labels: Some(labels),
            annotations: over,
            ..ObjectMeta::default()
        },
        subsets: Some(subsets),
    }
}

fn address_of(service: &Service, pod: &Pod) -> Option<EndpointAddress> {
    // Endpoints are of the Service's first family alone.
    let ip = leads_to(pod, *families_of(service).first()?)?.to_string();
    if is_terminal(pod) {
        return None;
    }
    let spec = pod.spec.as_ref()?;
    let named = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    Some(EndpointAddress {
        ip,
        hostname: spec.hostname.clone().filter(|_| named),
        node_name: spec.node_name.clone(),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, ip: &str, ready: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"nodeName": "n1", "hostname": name, "subdomain": "web",
                "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready", "status": ready}]},
        }))
        .unwrap()
    }

    fn service(more: Value) -> Service {
        let mut service = json!({"metadata": {"name": "web", "namespace": "n", "labels": {"a": "b"}},
            "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}});
        service["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(service).unwrap()
    }

    #[test]
    fn ready_pods_are_addresses_and_others_are_not_ready() {
        let mut leaving = pod("c", "10.0.0.3", "True");
        leaving.metadata.deletion_timestamp = Some(crate::status::now());
        let pods = [
            pod("b", "10.0.0.2", "True"),
            pod("a", "10.0.0.1", "True"),
            leaving,
            pod("d", "10.0.0.4", "False"),
            pod("e", "127.0.0.1", "True"),
        ];
        let endpoints = json!(endpoints_of(&service(json!({})), pods.iter()));
        let subset = &endpoints["subsets"][0];
        assert_eq!(subset["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
        let ips =
            |key: &str| subset[key].as_array().unwrap().iter().map(|a| a["ip"].clone()).collect::<Vec<_>>();
        assert_eq!(
            (ips("addresses"), ips("notReadyAddresses")),
            (vec![json!("10.0.0.1"), json!("10.0.0.2")], vec![json!("10.0.0.4")])
        );
        assert_eq!(
            (&subset["addresses"][0]["hostname"], &subset["addresses"][0]["targetRef"]["name"]),
            (&json!("a"), &json!("a"))
        );
        assert_eq!(endpoints["metadata"]["labels"], json!({"a": "b", MANAGED_BY.0: MANAGED_BY.1}));
        let all = json!(endpoints_of(
            &service(json!({"publishNotReadyAddresses": true, "clusterIP": "None"})),
            pods.iter()
        ));
        assert_eq!(all["subsets"][0]["addresses"].as_array().unwrap().len(), 4);
        assert_eq!(all["metadata"]["labels"][HEADLESS], "");
    }

    #[test]
    fn too_many_addresses_are_left_out_and_that_is_said() {
        let pods: Vec<Pod> = (0..1100)
            .map(|n| pod(&format!("p{n}"), &format!("10.0.{}.{}", n / 250, n % 250), "True"))
            .collect();
        let many = endpoints_of(&service(json!({})), pods.iter());
        assert_eq!(many.subsets.as_ref().unwrap()[0].addresses.as_ref().unwrap().len(), MOST_ADDRESSES);
        assert_eq!(many.annotations()[OVER_CAPACITY], "truncated");
        let none = endpoints_of(&service(json!({})), std::iter::empty());
        assert!(none.subsets.as_ref().unwrap().is_empty());
        assert_eq!(patch(&many, &none).unwrap()["metadata"]["annotations"][OVER_CAPACITY], Value::Null);
        assert_eq!(patch(&none, &none), None);
    }
}
