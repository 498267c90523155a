//! The Service `kubernetes` of the namespace `default`, by which workloads find the API server, with its EndpointSlice and
//! Endpoints. They come back when they are deleted, and are put right when they were changed.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::serde::Serialize;
use serde_json::{Value, json};
use yunfan_client::{Informer, Queue, Watched, is_exists, is_not_found, run_loop};

use crate::Context;
use crate::endpointslice::SERVICE_LABEL;

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
/// The port that clients in Pods are told of.
const PORT: u16 = 443;
const PORT_NAME: &str = "https";

/// Runs the loop.
pub async fn run(context: Context) {
    let only = format!("metadata.name={NAME}");
    let services = context.informers.of_selected::<Service>(&only);
    let slices = context.informers.of_selected::<EndpointSlice>(&only);
    let endpoints = context.informers.of_selected::<Endpoints>(&only);
    let queue = Queue::new();
    tokio::join!(services.synced(), slices.synced(), endpoints.synced());
    queue.feed(&services, |_| [()]);
    queue.feed(&slices, |_| [()]);
    queue.feed(&endpoints, |_| [()]);
    // There may be none of them yet.
    queue.add(());
    let work = Arc::new(Loop { context, services, slices, endpoints });
    run_loop("api-server", queue, 1, move |()| {
        let work = work.clone();
        async move { work.reconcile().await }
    })
    .await;
}

struct Loop {
    context: Context,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    endpoints: Informer<Endpoints>,
}

impl Loop {
    async fn reconcile(&self) -> kube::Result<Option<Duration>> {
        let config = &self.context.config;
        let labels = json!({"component": "apiserver", "provider": "kubernetes"});
        let service = json!({
            "metadata": {"labels": labels},
            "spec": {
                "type": "ClusterIP", "clusterIP": config.api.service_ip, "sessionAffinity": "None",
                "ports": [{"name": PORT_NAME, "port": PORT, "protocol": "TCP", "targetPort": config.api.address.port()}],
            },
        });
        self.keep(&self.services, service).await?;
        let (ip, port) = (config.api.address.ip(), config.api.address.port());
        let ports = json!([{"name": PORT_NAME, "port": port, "protocol": "TCP"}]);
        let slice = json!({
            "metadata": {"labels": {SERVICE_LABEL: NAME}},
            "addressType": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
            "ports": ports,
        });
        self.keep(&self.slices, slice).await?;
        let endpoints = json!({
            "metadata": {"labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": [{"addresses": [{"ip": ip}], "ports": ports}],
        });
        self.keep(&self.endpoints, endpoints).await?;
        Ok(None)
    }

    /// Makes the object, or puts it right.
    async fn keep<K>(&self, informer: &Informer<K>, mut wanted: Value) -> kube::Result<()>
    where
        K: Watched + Serialize,
    {
        let writer = &self.context.writer;
        match informer.get(Some(NAMESPACE), NAME) {
            Some(found) => {
                // An object that is held in memory has a JSON form: it was made from one.
                let found = serde_json::to_value(&*found).unwrap_or_default();
                if found["metadata"]["deletionTimestamp"].is_string() || holds(&found, &wanted) {
                    return Ok(());
                }
                match writer.merge::<K>(Some(NAMESPACE), NAME, &wanted).await {
                    // That it went is on its way here.
                    Err(error) if is_not_found(&error) => Ok(()),
                    result => result.map(drop),
                }
            }
            None => {
                wanted["metadata"]["name"] = json!(NAME);
                wanted["metadata"]["namespace"] = json!(NAMESPACE);
                let object: K = serde_json::from_value(wanted).map_err(kube::Error::SerdeError)?;
                match writer.create(&object).await {
                    // That it was made is on its way here. (Where the namespace is not there yet, it is tried again.)
                    Err(error) if is_exists(&error) => Ok(()),
                    result => result.map(drop),
                }
            }
        }
    }
}

/// Whether everything wanted is there; maps may hold more.
fn holds(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| found.get(key).is_some_and(|found| holds(found, wanted)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len()
                && found.iter().zip(wanted).all(|(found, wanted)| holds(found, wanted))
        }
        (found, wanted) => found == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_more_is_left_and_what_differs_is_not() {
        let found = json!({"spec": {"ports": [{"port": 443, "nodePort": 1}], "type": "ClusterIP"}});
        assert!(holds(&found, &json!({"spec": {"ports": [{"port": 443}]}})));
        assert!(!holds(&found, &json!({"spec": {"ports": [{"port": 444}]}})));
        assert!(!holds(&found, &json!({"spec": {"ports": []}})));
        assert!(!holds(&found, &json!({"spec": {"clusterIP": "10.0.0.1"}})));
    }
}
