//! Ports of external networks, networks that become external, and what administrators say of where a port is.

use serde_json::{Value, json};

use super::outer::{FLOATING, ROUTERS, SUBNETS, outside};
use super::{PORTS, kind, lan};
use crate::support::client::{Client, tenant, text};
use crate::support::{NODE, PASSWORD, start};

const NETWORKS: &str = "/network/v2.0/networks";

#[tokio::test]
async fn an_outer_address_is_a_ports_or_a_routers_or_a_floating_ip() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let public = outside(&admin).await;
    let of = json!({"network_id": public["id"], "name": "gate", "device_id": "box"});
    assert_eq!(demo.ask("POST", PORTS, json!({"port": of})).await.status, 403);
    let port = admin.must(201, "POST", PORTS, json!({"port": of})).await["port"].clone();
    let fixed = port["fixed_ips"][0].clone();
    assert_eq!(
        (&fixed["ip_address"], &fixed["subnet_id"], &port["device_id"]),
        (&json!("172.30.0.2"), &public["subnets"][0], &json!("box"))
    );
    let at = format!("{PORTS}/{}", text(&port["id"]));
    assert_eq!(admin.get(&at).await["port"], port);
    demo.must(404, "GET", &at, Value::Null).await;
    let listed = admin.get(&format!("{PORTS}?network_id={}", text(&public["id"]))).await;
    assert_eq!(listed["ports"][0]["id"], port["id"]);
    // It is no floating IP, and nobody else has its address.
    assert_eq!(admin.get(FLOATING).await["floatingips"], json!([]));
    admin.must(404, "GET", &format!("{FLOATING}/{}", text(&port["id"])), Value::Null).await;
    let gateway = json!({"network_id": public["id"], "external_fixed_ips": [fixed]});
    let wanted = json!({"router": {"external_gateway_info": gateway}});
    assert_eq!(kind(&demo.must(409, "POST", ROUTERS, wanted.clone()).await), "IpAddressAlreadyAllocated");
    let taken = json!({"port": {"network_id": public["id"], "fixed_ips": [{"ip_address": "172.30.0.2"}]}});
    assert_eq!(kind(&admin.must(409, "POST", PORTS, taken).await), "IpAddressAlreadyAllocated");
    let floating =
        json!({"floatingip": {"floating_network_id": public["id"], "floating_ip_address": "172.30.0.2"}});
    assert_eq!(kind(&demo.must(409, "POST", FLOATING, floating).await), "IpAddressAlreadyAllocated");
    let one =
        demo.must(201, "POST", FLOATING, json!({"floatingip": {"floating_network_id": public["id"]}})).await;
    let taken = json!({"port": {"network_id": public["id"], "fixed_ips": [
        {"ip_address": one["floatingip"]["floating_ip_address"]}]}});
    assert_eq!(kind(&admin.must(409, "POST", PORTS, taken).await), "IpAddressAlreadyAllocated");
    // What such a port has not is refused; its name and device are changed, its address is not.
    for wrong in [
        json!({"port_security_enabled": true}),
        json!({"admin_state_up": false}),
        json!({"fixed_ips": [{"ip_address": "172.30.0.5"}]}),
    ] {
        admin.must(400, "PUT", &at, json!({"port": wrong})).await;
    }
    let changed = json!({"port": {"name": "door", "device_owner": "tenant:box", "fixed_ips": [fixed]}});
    let changed = admin.must(200, "PUT", &at, changed).await["port"].clone();
    assert_eq!(
        (&changed["name"], &changed["device_id"], &changed["device_owner"]),
        (&json!("door"), &json!("box"), &json!("tenant:box"))
    );
    admin.must(200, "PUT", &format!("{at}/tags"), json!({"tags": ["edge"]})).await;
    assert_eq!(admin.get(&at).await["port"]["tags"], json!(["edge"]));
    let path = format!("{NETWORKS}/{}", text(&public["id"]));
    demo.must(204, "DELETE", &format!("{FLOATING}/{}", text(&one["floatingip"]["id"])), Value::Null).await;
    assert_eq!(kind(&admin.must(409, "DELETE", &path, Value::Null).await), "NetworkInUse");
    admin.must(204, "DELETE", &at, Value::Null).await;
    admin.must(404, "GET", &at, Value::Null).await;
    let router = demo.must(201, "POST", ROUTERS, wanted).await["router"].clone();
    assert_eq!(router["external_gateway_info"]["external_fixed_ips"], json!([fixed]));
}

#[tokio::test]
async fn networks_become_external_and_tenants_again() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let turn = |external: bool| json!({"network": {"router:external": external, "description": "d"}});
    let own = format!("{NETWORKS}/{}", lan(&demo).await);
    demo.must(403, "PUT", &own, turn(true)).await;
    assert_eq!(demo.get(&own).await["network"]["router:external"], false);

    let id = lan(&admin).await;
    let path = format!("{NETWORKS}/{id}");
    let port = admin.must(201, "POST", PORTS, json!({"port": {"network_id": id}})).await["port"].clone();
    assert_eq!(kind(&admin.must(409, "PUT", &path, turn(true)).await), "NetworkInUse");
    assert_eq!(admin.get(&path).await["network"]["router:external"], false, "it is as it was");
    admin.must(204, "DELETE", &format!("{PORTS}/{}", text(&port["id"])), Value::Null).await;
    let before = admin.get(&path).await["network"].clone();
    let now = admin.must(200, "PUT", &path, turn(true)).await["network"].clone();
    assert_eq!(
        (&now["id"], &now["name"], &now["router:external"], &now["subnets"], &now["description"]),
        (&before["id"], &before["name"], &json!(true), &before["subnets"], &json!("d"))
    );
    assert_eq!(demo.get(&path).await["network"]["router:external"], true, "all see it");
    let subnet = admin.get(&format!("{SUBNETS}/{}", text(&now["subnets"][0]))).await["subnet"].clone();
    assert_eq!((&subnet["cidr"], &subnet["gateway_ip"]), (&json!("10.3.0.0/24"), &json!("10.3.0.1")));
    let ip = demo.must(201, "POST", FLOATING, json!({"floatingip": {"floating_network_id": id}})).await;
    assert_eq!(kind(&admin.must(409, "PUT", &path, turn(false)).await), "ExternalNetworkInUse");
    demo.must(204, "DELETE", &format!("{FLOATING}/{}", text(&ip["floatingip"]["id"])), Value::Null).await;
    let back = admin.must(200, "PUT", &path, turn(false)).await["network"].clone();
    assert_eq!(
        (&back["id"], &back["router:external"], &back["subnets"], &back["project_id"]),
        (&before["id"], &json!(false), &before["subnets"], &before["project_id"])
    );
    demo.must(404, "GET", &path, Value::Null).await;
    admin.must(201, "POST", PORTS, json!({"port": {"network_id": id}})).await;
}

#[tokio::test]
async fn administrators_write_where_a_port_is_that_no_workload_holds() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (own, id) = (lan(&demo).await, lan(&admin).await);
    let at = |host: &str, network: &str| json!({"port": {"network_id": network, "binding:host_id": host}});
    assert_eq!(demo.ask("POST", PORTS, at(NODE, &own)).await.status, 403);
    let port = admin.must(201, "POST", PORTS, at(NODE, &id)).await["port"].clone();
    assert_eq!((&port["binding:host_id"], &port["binding:vif_type"]), (&json!(NODE), &json!("unbound")));
    let path = format!("{PORTS}/{}", text(&port["id"]));
    let moved = admin.must(200, "PUT", &path, json!({"port": {"binding:host_id": "elsewhere"}})).await;
    assert_eq!(moved["port"]["binding:host_id"], "elsewhere");
    let listed = admin.get(&format!("{PORTS}?binding:host_id=elsewhere")).await;
    assert_eq!(listed["ports"][0]["id"], port["id"]);
    let none = admin.must(200, "PUT", &path, json!({"port": {"binding:host_id": ""}})).await;
    assert_eq!(none["port"]["binding:host_id"], "");
}
