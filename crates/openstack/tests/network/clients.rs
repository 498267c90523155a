//! What clients and Terraform's provider ask for beside networks themselves.

use http::Method;
use serde_json::{Value, json};

use super::outer::outside;
use super::{PORTS, kind, lan};
use crate::support::client::{Answer, Client, send, tenant, text};
use crate::support::{PASSWORD, start};

const NETWORKS: &str = "/network/v2.0/networks";
const POOLS: &str = "/network/v2.0/subnetpools";
const GROUPS: &str = "/network/v2.0/security-groups";

/// Asks for a change of what has a revision.
async fn at_revision(client: &Client, method: Method, path: &str, revision: &Value, body: Value) -> Answer {
    let wanted = format!("revision_number={revision}");
    let headers = [
        ("x-auth-token", client.token.as_str()),
        ("content-type", "application/json"),
        ("if-match", wanted.as_str()),
    ];
    send(&client.router, method, path, &headers, body.to_string().into_bytes()).await
}

#[tokio::test]
async fn what_has_changed_since_is_not_changed_over() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let make = async |path: &str, key: &str, fields: Value| {
        demo.must(201, "POST", path, json!({key: fields})).await[key].clone()
    };
    let all = [
        (NETWORKS, "network", make(NETWORKS, "network", json!({"name": "a"})).await),
        (
            POOLS,
            "subnetpool",
            make(POOLS, "subnetpool", json!({"name": "a", "prefixes": ["10.9.0.0/16"]})).await,
        ),
        (GROUPS, "security_group", make(GROUPS, "security_group", json!({"name": "a"})).await),
    ];
    for (path, key, made) in all {
        let at = format!("{path}/{}", text(&made["id"]));
        let changed = demo.must(200, "PUT", &at, json!({key: {"name": "b"}})).await[key].clone();
        assert!(changed["revision_number"].as_u64() > made["revision_number"].as_u64(), "{changed}");
        let body = json!({key: {"name": "c"}});
        let late = at_revision(&demo, Method::PUT, &at, &made["revision_number"], body.clone()).await;
        assert_eq!((late.status, kind(&late.body)), (412, "RevisionNumberConstraintFailed"), "{path}");
        let late = at_revision(&demo, Method::DELETE, &at, &made["revision_number"], Value::Null).await;
        assert_eq!(late.status, 412, "{path}");
        assert_eq!(demo.get(&at).await[key]["name"], "b");
        let wrong = at_revision(&demo, Method::PUT, &at, &json!("x"), body.clone()).await;
        assert_eq!(wrong.status, 400, "{path}");
        let now = at_revision(&demo, Method::PUT, &at, &changed["revision_number"], body).await;
        assert_eq!((now.status, &now.body[key]["name"]), (200, &json!("c")), "{path}");
        let now =
            at_revision(&demo, Method::DELETE, &at, &now.body[key]["revision_number"], Value::Null).await;
        assert_eq!(now.status, 204, "{path}: {}", now.body);
    }
}

#[tokio::test]
async fn an_operator_sees_how_many_addresses_are_used() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let public = outside(&admin).await;
    let net = lan(&demo).await;
    demo.must(201, "POST", PORTS, json!({"port": {"network_id": net}})).await;
    let body = json!({"floatingip": {"floating_network_id": public["id"]}});
    demo.must(201, "POST", "/network/v2.0/floatingips", body).await;
    let path = "/network/v2.0/network-ip-availabilities";
    let shown = admin.get(&format!("{path}/{net}")).await["network_ip_availability"].clone();
    assert_eq!((&shown["used_ips"], &shown["total_ips"]), (&json!(1), &json!(253)), "{shown}");
    assert_eq!((&shown["network_name"], &shown["project_id"]), (&json!("lan"), &json!(project)));
    assert_eq!(shown["subnet_ip_availability"][0]["cidr"], "10.3.0.0/24");
    let outer = admin.get(&format!("{path}?network_id={}", text(&public["id"]))).await;
    assert_eq!(outer["network_ip_availabilities"][0]["used_ips"], 1, "{outer}");
    let none = admin.get(&format!("{path}?ip_version=6")).await;
    assert_eq!(none["network_ip_availabilities"], json!([]));
    demo.must(403, "GET", path, Value::Null).await;
    assert_eq!(kind(&admin.must(404, "GET", &format!("{path}/x"), Value::Null).await), "NetworkNotFound");
}

#[tokio::test]
async fn a_pool_gets_prefixes_and_loses_them() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let body = json!({"subnetpool": {"name": "p", "prefixes": ["10.8.0.0/24"]}});
    let pool = demo.must(201, "POST", POOLS, body).await["subnetpool"].clone();
    let at = format!("{POOLS}/{}", text(&pool["id"]));
    let (add, remove) = (format!("{at}/add_prefixes"), format!("{at}/remove_prefixes"));
    // What lies side by side becomes one.
    let more = json!({"prefixes": ["10.8.1.0/24", "172.16.0.0/16"]});
    let more = demo.must(200, "PUT", &add, more).await;
    assert_eq!(more, json!({"prefixes": ["10.8.0.0/23", "172.16.0.0/16"]}));
    assert_eq!(
        demo.must(200, "PUT", &remove, json!({"prefixes": ["172.16.0.0/16"]})).await,
        json!({"prefixes": ["10.8.0.0/23"]})
    );
    demo.must(400, "PUT", &add, json!({"prefixes": ["x"]})).await;
    let net =
        demo.must(201, "POST", NETWORKS, json!({"network": {"name": "n"}})).await["network"]["id"].clone();
    let subnet =
        json!({"subnet": {"network_id": net, "subnetpool_id": pool["id"], "prefixlen": 26, "ip_version": 4}});
    demo.must(201, "POST", "/network/v2.0/subnets", subnet).await;
    demo.must(200, "PUT", &add, json!({"prefixes": ["10.20.0.0/24"]})).await;
    let used = demo.must(400, "PUT", &remove, json!({"prefixes": ["10.8.0.0/23"]})).await;
    assert_eq!(kind(&used), "IllegalSubnetPoolUpdate");
}

#[tokio::test]
async fn a_port_gets_another_mac_address_from_an_admin() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let net = lan(&demo).await;
    let port = demo.must(201, "POST", PORTS, json!({"port": {"network_id": net}})).await["port"].clone();
    let other = demo.must(201, "POST", PORTS, json!({"port": {"network_id": net}})).await["port"].clone();
    let at = format!("{PORTS}/{}", text(&port["id"]));
    let body = |mac: &Value| json!({"port": {"mac_address": mac}});
    demo.must(403, "PUT", &at, body(&json!("aa:bb:cc:dd:ee:ff"))).await;
    let same = demo.must(200, "PUT", &at, body(&port["mac_address"])).await;
    assert_eq!(same["port"]["mac_address"], port["mac_address"]);
    let changed = admin.must(200, "PUT", &at, body(&json!("AA:BB:CC:DD:EE:FF"))).await["port"].clone();
    assert_eq!(changed["mac_address"], "aa:bb:cc:dd:ee:ff");
    assert_eq!(changed["fixed_ips"], port["fixed_ips"]);
    let taken = admin.must(409, "PUT", &at, body(&other["mac_address"])).await;
    assert_eq!(kind(&taken), "MacAddressInUse");
    demo.must(200, "PUT", &at, json!({"port": {"device_id": "x"}})).await;
    assert_eq!(kind(&admin.must(409, "PUT", &at, body(&port["mac_address"])).await), "PortBound");
}

#[tokio::test]
async fn a_subnet_is_for_ports_of_its_service_types() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let net =
        demo.must(201, "POST", NETWORKS, json!({"network": {"name": "n"}})).await["network"]["id"].clone();
    let subnet = |cidr: &str, types: Value| json!({"subnet": {"network_id": net, "ip_version": 4, "cidr": cidr, "service_types": types}});
    let subnets = "/network/v2.0/subnets";
    let wrong = demo.must(400, "POST", subnets, subnet("10.1.0.0/24", json!(["anything"]))).await;
    assert_eq!(kind(&wrong), "InvalidSubnetServiceType");
    // A range may be named by any address of it.
    let servers =
        demo.must(201, "POST", subnets, subnet("10.1.0.9/24", json!(["compute:nova"]))).await["subnet"]
            .clone();
    assert_eq!(
        (&servers["cidr"], &servers["service_types"]),
        (&json!("10.1.0.0/24"), &json!(["compute:nova"]))
    );
    let any = demo.must(201, "POST", subnets, subnet("10.2.0.0/24", json!([]))).await["subnet"].clone();
    let port = async |owner: &str| {
        let body = json!({"port": {"network_id": net, "device_owner": owner}});
        demo.must(201, "POST", PORTS, body).await["port"]["fixed_ips"][0]["subnet_id"].clone()
    };
    assert_eq!(port("").await, any["id"]);
    assert_eq!(port("compute:nova").await, servers["id"]);
    let at = format!("{subnets}/{}", text(&servers["id"]));
    let changed = demo.must(200, "PUT", &at, json!({"subnet": {"service_types": ["network:dhcp"]}})).await;
    assert_eq!(changed["subnet"]["service_types"], json!(["network:dhcp"]));
    assert_eq!(port("compute:nova").await, any["id"]);
}

#[tokio::test]
async fn limits_are_listed_and_found_by_a_projects_name() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let quotas = "/network/v2.0/quotas";
    assert_eq!(admin.get(quotas).await["quotas"], json!([]));
    let set = admin.must(200, "PUT", &format!("{quotas}/demo"), json!({"quota": {"network": 3}})).await;
    assert_eq!(set["quota"]["network"], 3);
    assert_eq!(admin.get(&format!("{quotas}/{project}")).await["quota"]["network"], 3);
    let all = admin.get(quotas).await["quotas"].clone();
    assert_eq!((&all[0]["project_id"], &all[0]["network"]), (&json!(project), &json!(3)), "{all}");
    demo.must(403, "GET", quotas, Value::Null).await;
    admin.must(400, "GET", &format!("{quotas}/nobody"), Value::Null).await;
}

#[tokio::test]
async fn a_network_is_switched_off_and_on() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let made =
        demo.must(201, "POST", NETWORKS, json!({"network": {"name": "n", "admin_state_up": false}})).await;
    assert_eq!(
        (&made["network"]["admin_state_up"], &made["network"]["status"]),
        (&json!(false), &json!("DOWN"))
    );
    let at = format!("{NETWORKS}/{}", text(&made["network"]["id"]));
    let on = demo.must(200, "PUT", &at, json!({"network": {"admin_state_up": true}})).await;
    assert_eq!(
        (&on["network"]["admin_state_up"], &on["network"]["status"]),
        (&json!(true), &json!("ACTIVE"))
    );
    let outer = outside(&admin).await;
    let outer = format!("{NETWORKS}/{}", text(&outer["id"]));
    admin.must(400, "PUT", &outer, json!({"network": {"admin_state_up": false}})).await;
}
