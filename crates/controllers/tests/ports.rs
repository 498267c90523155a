//! Ports of virtual machines, through the API.

mod support;

use kube::api::{Api as Objects, PostParams};
use serde_json::{Value, json};
use support::start;
use yunfan_resources::compute::{Flavor, VirtualMachine};
use yunfan_resources::network::{Network, Port, SecurityGroup, Subnet};

fn of(kind: &str, name: &str, spec: Value) -> Value {
    let group = if kind == "VirtualMachine" { "compute" } else { "network" };
    json!({"apiVersion": format!("{group}.yunfan.io/v1"), "kind": kind, "metadata": {"name": name}, "spec": spec})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machines_port_has_groups_also_where_nobody_named_any() {
    let cloud = start(&["n1"]).await;
    let small: Flavor = serde_json::from_value(json!({"metadata": {"name": "small"},
        "spec": {"vcpus": 1, "memoryMib": 64, "diskGib": 1}}))
    .expect("a flavor");
    Objects::all(cloud.client.clone()).create(&PostParams::default(), &small).await.expect("a flavor");
    for (network, secured) in [("lan", true), ("open", false)] {
        cloud.create::<Network>(of("Network", network, json!({"portSecurityEnabled": secured}))).await;
        let subnet = json!({"network": network, "cidr": "10.7.0.0/24"});
        cloud.create::<Subnet>(of("Subnet", network, subnet)).await;
    }
    cloud.create::<SecurityGroup>(of("SecurityGroup", "web", json!({}))).await;
    cloud.create::<Port>(of("Port", "plain", json!({"network": "lan"}))).await;
    cloud.create::<Port>(of("Port", "loose", json!({"network": "lan", "portSecurityEnabled": false}))).await;
    let machine = |name: &str, networks: Value| {
        of("VirtualMachine", name, json!({"flavor": "small", "image": "i", "networks": networks}))
    };
    let both = json!([{"network": "lan", "port": "plain"}, {"network": "lan", "port": "loose"}]);
    cloud.create::<VirtualMachine>(machine("a", both)).await;
    let default = json!(["default"]);
    let has_default = |port: &Value| port["spec"]["securityGroups"] == default;
    let held = cloud.until::<Port>("plain", |port| port["spec"]["holder"]["name"] == "a").await;
    assert_eq!(held["spec"]["securityGroups"], default, "from the moment that it is held");
    cloud.patch::<Port>("plain", json!({"spec": {"securityGroups": null}})).await;
    cloud.until::<Port>("plain", has_default).await;
    cloud.patch::<Port>("plain", json!({"spec": {"securityGroups": []}})).await;
    let loose = cloud.until::<Port>("loose", |port| port["spec"]["holder"]["name"] == "a").await;
    assert!(loose["spec"].get("securityGroups").is_none(), "{loose}");

    let networks = json!([{"network": "lan"}, {"network": "open", "securityGroups": ["web"]}]);
    cloud.create::<VirtualMachine>(machine("b", networks)).await;
    cloud.until::<Port>("vm-b-0", has_default).await;
    cloud.patch::<Port>("vm-b-0", json!({"spec": {"securityGroups": null}})).await;
    cloud.until::<Port>("vm-b-0", has_default).await;
    let open = cloud.until::<Port>("vm-b-1", |_| true).await;
    assert_eq!(open["spec"]["portSecurityEnabled"], false);
    assert!(open["spec"].get("securityGroups").is_none(), "{open}");
    let plain = cloud.until::<Port>("plain", |_| true).await;
    assert_eq!(plain["spec"]["securityGroups"], json!([]), "none at all is what somebody said");
}
