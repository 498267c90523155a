//! A cloud of both families of addresses: what the loops make of its second ranges.

mod support;

use ipnet::Ipv6Net;
use k8s_openapi::api::core::v1::{Endpoints, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use support::{Cloud, SPACE, start_as, until_some};
use yunfan_api::ApiConfig;
use yunfan_controllers::SecondFamily;

fn range(text: &str) -> Ipv6Net {
    text.parse().unwrap()
}

fn second() -> SecondFamily {
    SecondFamily {
        cluster_cidr: range("fd00:10::/63"),
        service_cidr: range("fd00:96::/112"),
        node_prefix: 64,
    }
}

async fn dual(nodes: &[&str]) -> Cloud {
    let config = ApiConfig { service_cidr6: Some(second().service_cidr), ..ApiConfig::default() };
    start_as(nodes, config, Some(second())).await
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn service(spec: Value) -> Value {
    let mut all = json!({"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]});
    all.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": all})
}

/// The addresses in the slices of a family; none where there is no slice of it.
fn of(slices: &[EndpointSlice], family: &str) -> Option<Vec<String>> {
    let own: Vec<&EndpointSlice> = slices.iter().filter(|slice| slice.address_type == family).collect();
    let endpoints = own.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let mut ips: Vec<String> = endpoints.flat_map(|endpoint| endpoint.addresses.clone()).collect();
    ips.sort();
    (!own.is_empty()).then_some(ips)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_has_slices_of_its_families() {
    let cloud = dual(&["n1"]).await;
    for (name, ips) in [
        ("both", json!([{"ip": "10.244.0.5"}, {"ip": "fd00:10::5"}])),
        ("four", json!([{"ip": "10.244.0.6"}])),
    ] {
        cloud.create::<Pod>(pod(name)).await;
        let running = |pods: &[Pod]| pods.iter().all(|pod| json!(pod)["status"]["phase"] == "Running");
        cloud.until_all::<Pod>("run", running).await;
        let status = json!({"status": {"podIP": ips[0]["ip"], "podIPs": ips}});
        let params = kube::api::PatchParams::default();
        cloud.of::<Pod>().patch_status(name, &params, &kube::api::Patch::Merge(status)).await.unwrap();
    }
    cloud
        .create::<Service>(service(
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}),
        ))
        .await;
    let four = Some(vec!["10.244.0.5".to_owned(), "10.244.0.6".to_owned()]);
    let six = Some(vec!["fd00:10::5".to_owned()]);
    let both = |slices: &[EndpointSlice]| of(slices, "IPv4") == four && of(slices, "IPv6") == six;
    cloud.until_all::<EndpointSlice>("slices of both families", both).await;
    // Endpoints are of the first family.
    let first = |all: &[Endpoints]| {
        all.iter().any(|one| json!(one)["subsets"][0]["addresses"][0]["ip"] == "fd00:10::5")
    };
    cloud.until_all::<Endpoints>("endpoints of IPv6", first).await;
    cloud.patch::<Service>("web", json!({"spec": {"ipFamilyPolicy": "SingleStack"}})).await;
    let one = |slices: &[EndpointSlice]| of(slices, "IPv4").is_none() && of(slices, "IPv6") == six;
    cloud.until_all::<EndpointSlice>("slices of one family", one).await;
    // Without Pods of a family its slice says that there are none.
    cloud.of::<Pod>().delete("both", &DeleteParams::default()).await.unwrap();
    let empty = |slices: &[EndpointSlice]| of(slices, "IPv6") == Some(vec![]);
    cloud.until_all::<EndpointSlice>("an empty slice", empty).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_get_a_slice_of_each_range() {
    let cloud = dual(&["n1", "n2", "n3"]).await;
    let nodes: Api<Node> = Api::all(cloud.client.clone());
    let sliced = until_some("two nodes with slices", async || {
        let all = nodes.list(&Default::default()).await.unwrap().items;
        let sliced: Vec<Value> = all.iter().map(|node| json!(node)["spec"].clone()).collect();
        let sliced: Vec<Value> = sliced.into_iter().filter(|spec| spec["podCIDRs"].is_array()).collect();
        if sliced.len() == 2 { Ok(sliced) } else { Err(json!(sliced)) }
    })
    .await;
    let mut six: Vec<&str> = sliced.iter().map(|spec| spec["podCIDRs"][1].as_str().unwrap()).collect();
    six.sort();
    assert_eq!(six, ["fd00:10:0:1::/64", "fd00:10::/64"]);
    assert!(sliced.iter().all(|spec| spec["podCIDR"] == spec["podCIDRs"][0]), "{sliced:?}");
    // The third finds no slice of IPv6 left, and so gets none at all.
    let all: Api<k8s_openapi::api::core::v1::Event> = Api::all(cloud.client.clone());
    until_some("an event", async || {
        let events = all.list(&Default::default()).await.unwrap().items;
        events
            .iter()
            .any(|event| event.reason.as_deref() == Some("CIDRNotAvailable"))
            .then_some(())
            .ok_or(json!(null))
    })
    .await;
}

/// The loop is told of what it wrote some time after, and the next node may come before that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_come_at_once_get_slices_of_their_own() {
    let names: Vec<String> = (0..60).map(|n| format!("n{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let cloud = start_as(&names, ApiConfig::default(), None).await;
    let nodes: Api<Node> = Api::all(cloud.client.clone());
    let mut slices = until_some("slices of all nodes", async || {
        let all = nodes.list(&Default::default()).await.unwrap().items;
        let slices: Vec<String> = all.into_iter().filter_map(|node| node.spec?.pod_cidr).collect();
        if slices.len() == names.len() { Ok(slices) } else { Err(json!(slices)) }
    })
    .await;
    slices.sort();
    let given = slices.clone();
    slices.dedup();
    assert_eq!(slices, given, "each slice is one node's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_that_gets_a_second_family_completes_its_range_and_keeps_addresses() {
    // It was made with one family: the API server wrote that down before the loops heard of two.
    let cloud = start_as(&[], ApiConfig::default(), Some(second())).await;
    let ranges: Api<ServiceCIDR> = Api::all(cloud.client.clone());
    until_some("a range of both families", async || {
        let range = json!(ranges.get("kubernetes").await.unwrap());
        let whole = range["spec"]["cidrs"] == json!(["10.96.0.0/12", "fd00:96::/112"]);
        if whole && range["status"]["conditions"][0]["status"] == "True" { Ok(()) } else { Err(range) }
    })
    .await;
    let cloud = dual(&[]).await;
    cloud.create::<Service>(service(json!({"ipFamilies": ["IPv6"]}))).await;
    let made = json!(cloud.of::<Service>().get("web").await.unwrap());
    let ip = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    let addresses: Api<IPAddress> = Api::all(cloud.client.clone());
    let before = addresses.get(&ip).await.unwrap();
    addresses.delete(&ip, &DeleteParams::default()).await.unwrap();
    let again =
        until_some("the address again", async || addresses.get_opt(&ip).await.unwrap().ok_or(Value::Null))
            .await;
    assert_ne!(again.metadata.uid, before.metadata.uid);
    assert_eq!(again.metadata.labels, before.metadata.labels);
    assert_eq!(again.spec.parent_ref.namespace.as_deref(), Some(SPACE));
}
