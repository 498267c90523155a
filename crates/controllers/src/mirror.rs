//! Endpoints that someone else writes, for a Service without a selector → EndpointSlices, which is what is read.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointSubset, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, is_exists, run_loop};

use crate::Context;
use crate::ahead::Ahead;
use crate::claim::controller_reference;
use crate::endpointslice::{MANAGED_BY, SERVICE_LABEL, selector};
use crate::hash::short_hash;

const MIRRORS: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Annotation of the Endpoints by which processes once elected a leader.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that are about the Endpoints alone.
const NOT_MIRRORED: [&str; 3] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "endpoints.kubernetes.io/last-change-trigger-time",
    "endpoints.kubernetes.io/over-capacity",
];
/// Most addresses of a subset.
const MOST_ADDRESSES: usize = 1000;

/// Runs the loop.
pub async fn run(context: Context) {
    let services = context.informers.of::<Service>();
    let endpoints = context.informers.of::<Endpoints>();
    let slices = context.informers.of::<EndpointSlice>();
    let queue = Queue::new();
    tokio::join!(services.synced(), endpoints.synced(), slices.synced());
    queue.feed(&services, |service| [ObjectKey::of(service)]);
    queue.feed(&endpoints, |endpoints| [ObjectKey::of(endpoints)]);
    queue.feed(&slices, |slice| {
        let service = is_mirror(slice).then(|| slice.labels().get(SERVICE_LABEL))??;
        Some(ObjectKey::new(slice.namespace().unwrap_or_default(), service.clone()))
    });
    let written = Ahead::new(slices.clone());
    let work = Arc::new(Loop { context, services, endpoints, slices, written });
    run_loop("endpointslice-mirroring", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

fn is_mirror(slice: &EndpointSlice) -> bool {
    slice.labels().get(MANAGED_BY.0).is_some_and(|by| by == MIRRORS)
}

struct Loop {
    context: Context,
    services: Informer<Service>,
    endpoints: Informer<Endpoints>,
    slices: Informer<EndpointSlice>,
    written: Ahead<EndpointSlice>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        if let Some(wait) = self.written.behind(key) {
            return Ok(Some(wait));
        }
        let service = self.services.get_key(key).filter(|service| selector(service).is_none());
        let endpoints =
            self.endpoints.get_key(key).filter(|endpoints| service.is_some() && is_mirrored(endpoints));
        let wanted = endpoints.as_deref().map(mirrors).unwrap_or_default();
        let mut present = self.slices.in_namespace(&key.namespace);
        present.retain(|slice| is_mirror(slice) && slice.labels().get(SERVICE_LABEL) == Some(&key.name));
        let writer = &self.context.writer;
        for slice in &wanted {
            let name = slice.name_any();
            match present.iter().find(|there| there.name_any() == name) {
                Some(there) if there.endpoints == slice.endpoints && there.ports == slice.ports => {}
                Some(_) => {
                    let patch = json!({"endpoints": slice.endpoints, "ports": slice.ports});
                    let patched = writer.merge::<EndpointSlice>(key.namespace(), &name, &patch).await?;
                    self.written.wrote(key, &patched);
                }
                None => match writer.create(slice).await {
                    Ok(made) => self.written.wrote(key, &made),
                    Err(error) if is_exists(&error) => {}
                    Err(error) => return Err(error),
                },
            }
        }
        for slice in
            present.iter().filter(|there| wanted.iter().all(|slice| slice.name_any() != there.name_any()))
        {
            let (name, uid) = (slice.name_any(), slice.uid());
            writer.delete::<EndpointSlice>(key.namespace(), &name, uid.as_deref()).await?;
        }
        Ok(None)
    }
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    endpoints.metadata.deletion_timestamp.is_none()
        && endpoints.labels().get(SKIP).is_none_or(|skip| skip != "true")
        && !endpoints.annotations().contains_key(LEADER)
}

/// One slice for each subset and family of addresses.
fn mirrors(endpoints: &Endpoints) -> Vec<EndpointSlice> {
    let subsets = endpoints.subsets.iter().flatten().enumerate();
    subsets.flat_map(|(place, subset)| mirrors_of(endpoints, place, subset)).collect()
}

fn mirrors_of(endpoints: &Endpoints, place: usize, subset: &EndpointSubset) -> Vec<EndpointSlice> {
    let mut families: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
    let ready = subset.addresses.iter().flatten().map(|address| (address, true));
    let unready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
    for (address, ready) in ready.chain(unready).take(MOST_ADDRESSES) {
        let family = match address.ip.parse() {
            Ok(IpAddr::V4(_)) => "IPv4",
            Ok(IpAddr::V6(_)) => "IPv6",
            Err(_) => continue,
        };
        families.entry(family).or_default().push(endpoint_of(address, ready));
    }
    let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
        name: Some(port.name.clone().unwrap_or_default()),
        port: Some(port.port),
        protocol: port.protocol.clone(),
        app_protocol: port.app_protocol.clone(),
    });
    let ports: Vec<EndpointPort> = ports.collect();
    let slice = |(family, list): (&str, Vec<Endpoint>)| {
        let name = format!("{}-{}", endpoints.name_any(), short_hash(&(place, family), 0));
        let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
        labels.insert(SERVICE_LABEL.to_owned(), endpoints.name_any());
        labels.insert(MANAGED_BY.0.to_owned(), MIRRORS.to_owned());
        let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
        annotations.retain(|key, _| !NOT_MIRRORED.contains(&key.as_str()));
        EndpointSlice {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: endpoints.namespace(),
                labels: Some(labels),
                annotations: Some(annotations).filter(|annotations| !annotations.is_empty()),
                owner_references: Some(vec![controller_reference(endpoints)]),
                ..ObjectMeta::default()
            },
            address_type: family.to_owned(),
            endpoints: Some(list),
            ports: Some(ports.clone()),
        }
    };
    families.into_iter().map(slice).collect()
}

fn endpoint_of(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subset_and_family_is_a_slice() {
        let endpoints: Endpoints = serde_json::from_value(json!({
            "metadata": {"name": "own", "namespace": "n", "uid": "u", "labels": {"a": "b"},
                "annotations": {"x": "y", NOT_MIRRORED[0]: "{}"}},
            "subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}],
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}],
        }))
        .unwrap();
        let slices = json!(mirrors(&endpoints));
        assert_eq!((&slices[0]["addressType"], &slices[1]["addressType"]), (&json!("IPv4"), &json!("IPv6")));
        assert_eq!(slices[0]["endpoints"].as_array().unwrap().len(), 2);
        assert_eq!(slices[0]["endpoints"][1]["conditions"], json!({"ready": false}));
        assert_eq!(slices[1]["endpoints"][0]["addresses"], json!(["fd00::1"]));
        assert_eq!(slices[0]["ports"], json!([{"name": "http", "port": 80, "protocol": "TCP"}]));
        assert_eq!(
            slices[0]["metadata"]["labels"],
            json!({"a": "b", SERVICE_LABEL: "own", MANAGED_BY.0: MIRRORS})
        );
        assert_eq!(slices[0]["metadata"]["annotations"], json!({"x": "y"}));
        assert_ne!(slices[0]["metadata"]["name"], slices[1]["metadata"]["name"]);
        let mut skipped = endpoints.clone();
        skipped.metadata.labels.as_mut().unwrap().insert(SKIP.to_owned(), "true".to_owned());
        assert!(is_mirrored(&endpoints) && !is_mirrored(&skipped));
    }
}
