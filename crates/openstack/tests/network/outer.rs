//! Routers, external networks and floating IPs.

use kube::api::{Api as Objects, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use yunfan_resources::network::{FloatingIp, Port, Router};

use super::{PORTS, kind, lan};
use crate::support::client::{Client, tenant, text};
use crate::support::{PASSWORD, start};

const NETWORKS: &str = "/network/v2.0/networks";
pub(crate) const SUBNETS: &str = "/network/v2.0/subnets";
pub(crate) const ROUTERS: &str = "/network/v2.0/routers";
pub(crate) const FLOATING: &str = "/network/v2.0/floatingips";

/// An external network of six addresses, one of them its gateway's.
pub(crate) async fn outside(admin: &Client) -> Value {
    let body = json!({"network": {"name": "public", "router:external": true}});
    let network = admin.must(201, "POST", NETWORKS, body).await["network"].clone();
    let body =
        json!({"subnet": {"network_id": network["id"], "cidr": "172.30.0.0/29", "enable_dhcp": false}});
    let subnet = admin.must(201, "POST", SUBNETS, body).await["subnet"].clone();
    assert_eq!((&subnet["gateway_ip"], &subnet["network_id"]), (&json!("172.30.0.1"), &network["id"]));
    admin.get(&format!("{NETWORKS}/{}", text(&network["id"]))).await["network"].clone()
}

#[tokio::test]
async fn routers_join_networks_and_lead_outside() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    demo.must(403, "POST", NETWORKS, json!({"network": {"router:external": true}})).await;
    let public = outside(&admin).await;
    // All see it, and nobody of them may change it.
    let seen = demo.get(&format!("{NETWORKS}?router:external=True")).await;
    assert_eq!(seen["networks"][0]["id"], public["id"]);
    let path = format!("{NETWORKS}/{}", text(&public["id"]));
    assert_eq!(demo.get(&path).await["network"]["router:external"], true);
    demo.must(403, "PUT", &path, json!({"network": {"name": "mine"}})).await;
    assert_eq!(demo.get(SUBNETS).await["subnets"], json!([]), "its subnets are for admins");
    let one = format!("{SUBNETS}/{}", text(&public["subnets"][0]));
    demo.must(404, "GET", &one, Value::Null).await;
    assert_eq!(admin.get(&one).await["subnet"]["cidr"], "172.30.0.0/29");

    let body = json!({"router": {"name": "r", "external_gateway_info": {"network_id": public["id"]}}});
    let router = demo.must(201, "POST", ROUTERS, body).await["router"].clone();
    let gateway = &router["external_gateway_info"];
    assert_eq!(
        (&gateway["enable_snat"], &gateway["external_fixed_ips"][0]["ip_address"]),
        (&json!(true), &json!("172.30.0.2"))
    );
    let at = format!("{ROUTERS}/{}", text(&router["id"]));
    assert_eq!(kind(&other.must(404, "GET", &at, Value::Null).await), "RouterNotFound");
    let outer = admin
        .get(&format!("{PORTS}?network_id={}&device_id={}", text(&public["id"]), text(&router["id"])))
        .await;
    assert_eq!(outer["ports"][0]["device_owner"], "network:router_gateway");
    let outer = format!("{PORTS}/{}", text(&outer["ports"][0]["id"]));
    assert_eq!(admin.get(&outer).await["port"]["device_id"], router["id"]);
    assert_eq!(kind(&admin.must(409, "DELETE", &outer, Value::Null).await), "ServicePortInUse");
    demo.must(404, "GET", &outer, Value::Null).await;
    demo.must(404, "DELETE", &outer, Value::Null).await;
    assert_eq!(kind(&admin.must(409, "DELETE", &path, Value::Null).await), "NetworkInUse");

    let net = lan(&demo).await;
    let subnet = demo.get(&format!("{SUBNETS}?network_id={net}")).await["subnets"][0]["id"].clone();
    let joined =
        demo.must(200, "PUT", &format!("{at}/add_router_interface"), json!({"subnet_id": subnet})).await;
    let port = format!("{PORTS}/{}", text(&joined["port_id"]));
    let shown = demo.get(&port).await["port"].clone();
    assert_eq!(
        (&shown["device_owner"], &shown["device_id"]),
        (&json!("network:router_interface"), &router["id"])
    );
    assert_eq!(shown["fixed_ips"][0]["ip_address"], "10.3.0.1");
    assert_eq!(kind(&demo.must(409, "DELETE", &port, Value::Null).await), "ServicePortInUse");
    assert_eq!(kind(&demo.must(409, "DELETE", &at, Value::Null).await), "RouterInUse");
    demo.must(400, "PUT", &format!("{at}/add_router_interface"), json!({"subnet_id": subnet})).await;
    demo.must(400, "PUT", &format!("{at}/add_router_interface"), json!({})).await;
    // A network has one router at most.
    let second = demo.must(201, "POST", ROUTERS, json!({"router": {"name": "s"}})).await["router"].clone();
    let own = demo.must(201, "POST", PORTS, json!({"port": {"network_id": net}})).await["port"].clone();
    let there = format!("{ROUTERS}/{}", text(&second["id"]));
    let refused =
        demo.must(400, "PUT", &format!("{there}/add_router_interface"), json!({"port_id": own["id"]})).await;
    assert!(text(&refused["NeutronError"]["message"]).contains("another Router"), "{refused}");
    let own = format!("{PORTS}/{}", text(&own["id"]));
    assert_eq!(demo.get(&own).await["port"]["device_owner"], "", "it is free again");
    demo.must(204, "DELETE", &own, Value::Null).await;
    demo.must(204, "DELETE", &there, Value::Null).await;

    let left =
        demo.must(200, "PUT", &format!("{at}/remove_router_interface"), json!({"subnet_id": subnet})).await;
    assert_eq!(left["port_id"], joined["port_id"]);
    demo.must(404, "GET", &port, Value::Null).await;
    let missing =
        demo.must(404, "PUT", &format!("{at}/remove_router_interface"), json!({"subnet_id": subnet})).await;
    assert_eq!(kind(&missing), "RouterInterfaceNotFoundForSubnet");
    let none =
        demo.must(200, "PUT", &at, json!({"router": {"external_gateway_info": null, "name": "q"}})).await;
    assert_eq!(
        (&none["router"]["external_gateway_info"], &none["router"]["name"]),
        (&Value::Null, &json!("q"))
    );
    demo.must(204, "DELETE", &at, Value::Null).await;
    admin.must(204, "DELETE", &path, Value::Null).await;
}

#[tokio::test]
async fn floating_ips_stand_for_ports_that_a_router_leads_to() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let public = outside(&admin).await;
    let net = lan(&demo).await;
    let port = demo.must(201, "POST", PORTS, json!({"port": {"network_id": net, "name": "p"}})).await["port"]
        .clone();
    let wanted = json!({"floatingip": {"floating_network_id": public["id"], "port_id": port["id"]}});
    let early = demo.must(404, "POST", FLOATING, wanted.clone()).await;
    assert_eq!(kind(&early), "ExternalGatewayForFloatingIPNotFound");
    let body = json!({"router": {"external_gateway_info": {"network_id": public["id"]}}});
    let router = demo.must(201, "POST", ROUTERS, body).await["router"].clone();
    let at = format!("{ROUTERS}/{}", text(&router["id"]));
    let subnet = demo.get(&format!("{SUBNETS}?network_id={net}")).await["subnets"][0]["id"].clone();
    demo.must(200, "PUT", &format!("{at}/add_router_interface"), json!({"subnet_id": subnet})).await;

    let ip = demo.must(201, "POST", FLOATING, wanted.clone()).await["floatingip"].clone();
    assert_eq!((&ip["floating_ip_address"], &ip["status"]), (&json!("172.30.0.3"), &json!("DOWN")));
    assert_eq!(
        (&ip["router_id"], &ip["fixed_ip_address"]),
        (&router["id"], &port["fixed_ips"][0]["ip_address"])
    );
    assert_eq!(kind(&demo.must(409, "POST", FLOATING, wanted).await), "FloatingIPPortAlreadyAssociated");
    let own = format!("{FLOATING}/{}", text(&ip["id"]));
    let needed =
        demo.must(409, "PUT", &format!("{at}/remove_router_interface"), json!({"subnet_id": subnet})).await;
    assert_eq!(kind(&needed), "RouterInterfaceInUseByFloatingIP");
    let needed = demo.must(409, "PUT", &at, json!({"router": {"external_gateway_info": null}})).await;
    assert_eq!(kind(&needed), "RouterExternalGatewayInUseByFloatingIp");
    let free =
        demo.must(200, "PUT", &own, json!({"floatingip": {"port_id": null}})).await["floatingip"].clone();
    assert_eq!(
        (&free["port_id"], &free["fixed_ip_address"], &free["router_id"]),
        (&Value::Null, &Value::Null, &Value::Null)
    );
    let again = json!({"floatingip": {"port_id": port["id"], "description": "d"}});
    assert_eq!(demo.must(200, "PUT", &own, again.clone()).await["floatingip"]["port_id"], port["id"]);
    let told = json!({"floatingip": {"description": "e"}});
    assert_eq!(demo.must(200, "PUT", &own, told).await["floatingip"]["port_id"], port["id"]);
    let blank = demo.must(200, "PUT", &own, json!({"floatingip": {}})).await;
    assert_eq!(blank["floatingip"]["port_id"], Value::Null, "as with Neutron, nothing takes it away");
    assert_eq!(demo.must(200, "PUT", &own, again).await["floatingip"]["port_id"], port["id"]);
    // While the device is off that was on the port, the address goes on standing for it.
    let ports = Objects::<Port>::namespaced(cloud.system.clone(), "demo");
    let holder = Patch::Merge(json!({"spec": {"holder": {"kind": "Pod", "name": "x", "uid": "x"}}}));
    ports.patch("p", &PatchParams::default(), &holder).await.unwrap();
    assert_eq!(demo.get(&own).await["floatingip"]["status"], "DOWN", "it was never on");
    let off = Patch::Merge(json!({"status": {"phase": "Down", "node": null}}));
    ports.patch_status("p", &PatchParams::default(), &off).await.unwrap();
    assert_eq!(demo.get(&own).await["floatingip"]["status"], "ACTIVE");
    let free = Patch::Merge(json!({"spec": {"holder": null}}));
    ports.patch("p", &PatchParams::default(), &free).await.unwrap();

    // A port that goes takes the association with it, so that the next of its name does not inherit it.
    demo.must(204, "DELETE", &format!("{PORTS}/{}", text(&port["id"])), Value::Null).await;
    let ips = Objects::<FloatingIp>::namespaced(cloud.system.clone(), "demo");
    for round in 0.. {
        let all = ips.list(&Default::default()).await.unwrap();
        if all.items[0].spec.port.is_none() {
            break;
        }
        assert!(round < 300, "the floating IP still stands for a port that is gone");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // Addresses end, quotas count, and what is no address of the network is refused.
    let wanted =
        |ip: &str| json!({"floatingip": {"floating_network_id": public["id"], "floating_ip_address": ip}});
    for bad in ["172.30.0.1", "10.0.0.1", "x"] {
        demo.must(400, "POST", FLOATING, wanted(bad)).await;
    }
    assert_eq!(
        kind(&demo.must(409, "POST", FLOATING, wanted("172.30.0.2")).await),
        "IpAddressAlreadyAllocated",
        "it is the router's"
    );
    demo.must(201, "POST", FLOATING, wanted("172.30.0.6")).await;
    let any = json!({"floatingip": {"floating_network_id": public["id"]}});
    demo.must(201, "POST", FLOATING, any.clone()).await;
    demo.must(201, "POST", FLOATING, any.clone()).await;
    assert_eq!(kind(&demo.must(409, "POST", FLOATING, any.clone()).await), "IpAddressGenerationFailure");
    demo.must(204, "DELETE", &own, Value::Null).await;
    let limit = json!({"quota": {"floatingip": 3, "router": 1}});
    admin.must(200, "PUT", &format!("/network/v2.0/quotas/{project}"), limit).await;
    assert_eq!(kind(&demo.must(409, "POST", FLOATING, any).await), "OverQuota");
    assert_eq!(kind(&demo.must(409, "POST", ROUTERS, json!({"router": {}})).await), "OverQuota");
    // One object, two doors: a router that goes by the other takes its places with it.
    let routers = Objects::<Router>::namespaced(cloud.system.clone(), "demo");
    routers.delete("router", &DeleteParams::default()).await.unwrap();
    let ports = Objects::<Port>::namespaced(cloud.system.clone(), "demo");
    for round in 0.. {
        if ports.list(&Default::default()).await.unwrap().items.is_empty() {
            return;
        }
        assert!(round < 300, "the router's port stays");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn routers_have_static_routes_by_members_of_their_networks() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let net = lan(&demo).await;
    let subnet = demo.get(&format!("{SUBNETS}?network_id={net}")).await["subnets"][0]["id"].clone();
    let route = |range: &str, by: &str| json!({"destination": range, "nexthop": by});
    let of = |routes: Vec<Value>| json!({"router": {"routes": routes}});
    demo.must(400, "POST", ROUTERS, of(vec![route("10.20.0.0/16", "10.3.0.9")])).await;
    let router = demo.must(201, "POST", ROUTERS, json!({"router": {"routes": []}})).await["router"].clone();
    let at = format!("{ROUTERS}/{}", text(&router["id"]));
    let (add, remove) = (format!("{at}/add_extraroutes"), format!("{at}/remove_extraroutes"));
    let far = route("10.20.0.0/16", "10.3.0.9");
    let early = demo.must(400, "PUT", &at, of(vec![far.clone()])).await;
    assert_eq!(kind(&early), "InvalidRoutes");
    assert!(text(&early["NeutronError"]["message"]).contains("not connected with router"), "{early}");
    demo.must(200, "PUT", &format!("{at}/add_router_interface"), json!({"subnet_id": subnet})).await;

    for bad in [
        route("10.20.0.0/16", "10.3.0.1"),
        route("10.20.0.0/16", "10.3.0.255"),
        route("10.20.0.0/16", "192.0.2.1"),
        route("10.20.0.1/16", "10.3.0.9"),
        route("169.254.0.0/16", "10.3.0.9"),
        route("far", "10.3.0.9"),
        route("10.20.0.0/16", "near"),
    ] {
        assert_eq!(kind(&demo.must(400, "PUT", &at, of(vec![bad.clone()])).await), "InvalidRoutes", "{bad}");
    }
    let twice = of(vec![far.clone(), route("10.20.0.0/16", "10.3.0.8")]);
    assert_eq!(kind(&demo.must(400, "PUT", &at, twice).await), "InvalidRoutes");
    let many = (0..31).map(|at| route(&format!("10.20.{at}.0/24"), "10.3.0.9")).collect();
    assert_eq!(kind(&demo.must(400, "PUT", &at, of(many)).await), "RoutesExhausted");

    let own = route("10.3.0.0/24", "10.3.0.2");
    let told = demo.must(200, "PUT", &at, of(vec![far.clone(), own.clone()])).await;
    assert_eq!(told["router"]["routes"], json!([far, own]));
    let more = route("0.0.0.0/0", "10.3.0.8");
    let told = demo.must(200, "PUT", &add, of(vec![far.clone(), more.clone()])).await;
    assert_eq!(told["router"]["routes"], json!([far, own, more]));
    let told = demo.must(200, "PUT", &remove, of(vec![own, route("10.9.0.0/16", "10.3.0.9")])).await;
    assert_eq!(told["router"]["routes"], json!([far, more]));
    assert_eq!(demo.get(&at).await["router"]["routes"], json!([far, more]));
    let routers = Objects::<Router>::namespaced(cloud.system.clone(), "demo");
    assert_eq!(routers.get("router").await.unwrap().spec.routes.len(), 2);

    // What they lead by stays as long as they do, through either door.
    let leave = format!("{at}/remove_router_interface");
    let needed = demo.must(409, "PUT", &leave, json!({"subnet_id": subnet})).await;
    assert_eq!(kind(&needed), "RouterInterfaceInUseByRoute");
    let none = Patch::Merge(json!({"spec": {"interfaces": []}}));
    let refused = routers.patch("router", &PatchParams::default(), &none).await.unwrap_err();
    assert!(refused.to_string().contains("spec.routes[0].nexthop"), "{refused}");
    let told = demo.must(200, "PUT", &at, json!({"router": {"routes": null}})).await;
    assert_eq!(told["router"]["routes"], json!([]));
    demo.must(200, "PUT", &leave, json!({"subnet_id": subnet})).await;
    demo.must(404, "PUT", &format!("{ROUTERS}/none/add_extraroutes"), of(vec![])).await;
}
