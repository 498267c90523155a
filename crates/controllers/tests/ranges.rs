//! Ranges of Services' addresses and the objects of the addresses, through the API.

mod support;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use support::{Cloud, start};

/// Waits until an object of the whole cluster is as it should be; null where it is not there.
async fn until<K>(cloud: &Cloud, name: &str, is: impl Fn(&Value) -> bool)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let objects: Api<K> = Api::all(cloud.client.clone());
    let mut last = Value::Null;
    for _ in 0..1500 {
        last = json!(objects.get_opt(name).await.unwrap());
        if is(&last) {
            return;
        }
        tokio::time::sleep(support::LOOK).await;
    }
    panic!("{} {name} did not become as expected: {last:#}", K::kind(&()));
}

async fn make<K>(cloud: &Cloud, object: Value)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    let object: K = serde_json::from_value(object).unwrap();
    Api::<K>::all(cloud.client.clone()).create(&PostParams::default(), &object).await.unwrap();
}

fn range(name: &str, cidr: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": [cidr]}})
}

fn is_ready(range: &Value, status: &str, reason: &str) -> bool {
    let ready = &range["status"]["conditions"][0];
    ready["type"] == "Ready" && ready["status"] == status && ready["reason"] == reason
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_say_whether_they_serve_and_stay_while_addresses_need_them() {
    let cloud = start(&[]).await;
    let ranges: Api<ServiceCIDR> = Api::all(cloud.client.clone());
    let kept = json!(["networking.k8s.io/service-cidr-finalizer"]);
    let open = |range: &Value| is_ready(range, "True", "") && range["metadata"]["finalizers"] == kept;
    until::<ServiceCIDR>(&cloud, "kubernetes", open).await;
    make::<ServiceCIDR>(&cloud, range("inside", "10.97.0.0/24")).await;
    until::<ServiceCIDR>(&cloud, "inside", open).await;
    make::<ServiceCIDR>(&cloud, range("outside", "203.0.113.0/24")).await;
    until::<ServiceCIDR>(&cloud, "outside", |range| is_ready(range, "False", "NotServed")).await;
    ranges.delete("outside", &DeleteParams::default()).await.unwrap();
    until::<ServiceCIDR>(&cloud, "outside", Value::is_null).await;

    cloud
        .create::<Service>(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.97.0.7", "ports": [{"port": 80}]}}))
        .await;
    until::<IPAddress>(&cloud, "10.97.0.7", Value::is_object).await;
    // The whole range has that address as well, so the small one may go; but then nothing else has it.
    ranges.delete("inside", &DeleteParams::default()).await.unwrap();
    until::<ServiceCIDR>(&cloud, "inside", Value::is_null).await;
    ranges.delete("kubernetes", &DeleteParams::default()).await.unwrap();
    until::<ServiceCIDR>(&cloud, "kubernetes", |range| is_ready(range, "False", "Terminating")).await;
    // Another of the same range takes its place, and the cloud's own comes back.
    make::<ServiceCIDR>(&cloud, range("other", "10.96.0.0/12")).await;
    until::<ServiceCIDR>(&cloud, "kubernetes", |range| {
        range["metadata"]["deletionTimestamp"].is_null() && open(range)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_there_exactly_for_services() {
    let cloud = start(&[]).await;
    let addresses: Api<IPAddress> = Api::all(cloud.client.clone());
    until::<IPAddress>(&cloud, "10.96.0.1", Value::is_object).await;
    let address = |name: &str, labels: Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": name, "labels": labels},
            "spec": {"parentRef": {"resource": "services", "namespace": "default", "name": "none"}}})
    };
    make::<IPAddress>(&cloud, address("10.96.0.78", json!({}))).await;
    let ours = json!({"ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    make::<IPAddress>(&cloud, address("10.96.0.77", ours)).await;
    let before = addresses.get("10.96.0.1").await.unwrap().metadata.uid;
    addresses.delete("10.96.0.1", &DeleteParams::default()).await.unwrap();
    until::<IPAddress>(&cloud, "10.96.0.1", |address| {
        address.is_object()
            && address["metadata"]["uid"] != json!(before)
            && address["spec"]["parentRef"]
                == json!({"resource": "services", "namespace": "default", "name": "kubernetes"})
    })
    .await;
    until::<IPAddress>(&cloud, "10.96.0.77", Value::is_null).await;
    // What others made is nobody's to delete.
    addresses.get("10.96.0.78").await.unwrap();
}
