//! Neutron: single ports of floating IPs that lead to ports of several devices.

use kube::api::Api as Objects;
use serde_json::{Value, json};
use yunfan_resources::network::FloatingIp;

use super::outer::{FLOATING, ROUTERS, SUBNETS, outside};
use super::{PORTS, kind, lan};
use crate::support::client::{Client, tenant, text};
use crate::support::{PASSWORD, start};

#[tokio::test]
async fn ports_of_a_floating_ip_lead_to_several_ports() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let public = outside(&admin).await;
    let net = lan(&demo).await;
    let new = json!({"port": {"network_id": net}});
    let one = demo.must(201, "POST", PORTS, new.clone()).await["port"].clone();
    let two = demo.must(201, "POST", PORTS, new).await["port"].clone();
    let wanted = json!({"floatingip": {"floating_network_id": public["id"]}});
    let ip = demo.must(201, "POST", FLOATING, wanted).await["floatingip"].clone();
    let at = format!("{FLOATING}/{}", text(&ip["id"]));
    let all = format!("{at}/port_forwardings");
    let of = |port: &Value, outer: u16, inner: u16| {
        json!({"port_forwarding": {"protocol": "tcp", "internal_port_id": port["id"], "internal_port": inner,
            "external_port": outer, "internal_ip_address": port["fixed_ips"][0]["ip_address"]}})
    };
    demo.must(400, "POST", &all, of(&one, 2200, 22)).await;
    let body = json!({"router": {"external_gateway_info": {"network_id": public["id"]}}});
    let router = demo.must(201, "POST", ROUTERS, body).await["router"].clone();
    let way = format!("{ROUTERS}/{}", text(&router["id"]));
    let subnet = demo.get(&format!("{SUBNETS}?network_id={net}")).await["subnets"][0]["id"].clone();
    demo.must(200, "PUT", &format!("{way}/add_router_interface"), json!({"subnet_id": subnet})).await;

    let made = demo.must(201, "POST", &all, of(&one, 2200, 22)).await["port_forwarding"].clone();
    assert_eq!((&made["internal_port"], &made["external_port_range"]), (&json!(22), &json!("2200:2200")));
    assert_eq!((&made["internal_port_id"], &made["protocol"]), (&one["id"], &json!("tcp")));
    let mine = format!("{all}/{}", text(&made["id"]));
    assert_eq!(demo.get(&mine).await["port_forwarding"], made);
    assert_eq!(kind(&other.must(404, "GET", &mine, Value::Null).await), "FloatingIPNotFound");
    // What comes to a port goes to one place, and no two lead to one.
    for taken in [of(&two, 2200, 22), of(&one, 2201, 22)] {
        assert_eq!(kind(&demo.must(400, "POST", &all, taken).await), "BadRequest");
    }
    let mut udp = of(&one, 2200, 22);
    udp["port_forwarding"]["protocol"] = json!("udp");
    demo.must(201, "POST", &all, udp).await;
    let mut range = json!({"port_forwarding": {"protocol": "TCP", "internal_port_id": two["id"],
        "internal_port_range": "80:82", "external_port_range": "8080:8083"}});
    demo.must(400, "POST", &all, range.clone()).await;
    range["port_forwarding"]["external_port_range"] = json!("8080:8082");
    let ranged = demo.must(201, "POST", &all, range).await["port_forwarding"].clone();
    assert_eq!(ranged["internal_ip_address"], two["fixed_ips"][0]["ip_address"], "its first");
    assert!(ranged.get("internal_port").is_none(), "{ranged}");
    let listed = demo.get(&format!("{all}?external_port=2200&protocol=tcp")).await;
    assert_eq!(listed["port_forwardings"], json!([made]));
    let shown = demo.get(&at).await["floatingip"].clone();
    assert_eq!(shown["port_forwardings"].as_array().map(Vec::len), Some(3));
    assert_eq!((&shown["router_id"], &shown["port_id"]), (&router["id"], &Value::Null));

    let changed = json!({"port_forwarding": {"external_port": 2222, "internal_port_id": two["id"], "description": "d"}});
    let changed = demo.must(200, "PUT", &mine, changed).await["port_forwarding"].clone();
    assert_eq!((&changed["external_port"], &changed["internal_port_id"]), (&json!(2222), &two["id"]));
    assert_eq!(
        (&changed["internal_ip_address"], &changed["description"]),
        (&two["fixed_ips"][0]["ip_address"], &json!("d"))
    );
    demo.must(400, "PUT", &mine, json!({"port_forwarding": {"external_port": 8081}})).await;
    demo.must(400, "PUT", &mine, json!({"port_forwarding": {"external_port": 0}})).await;
    demo.must(400, "PUT", &mine, json!({"port_forwarding": {"protocol": "icmp"}})).await;
    demo.must(400, "PUT", &mine, json!({"port_forwarding": {"internal_ip_address": "10.3.0.99"}})).await;

    // The whole address is for one port or for none, and what it needs stays.
    let whole = json!({"floatingip": {"port_id": one["id"]}});
    assert_eq!(kind(&demo.must(409, "PUT", &at, whole.clone()).await), "FipInUseByPortForwarding");
    assert_eq!(kind(&demo.must(409, "DELETE", &at, Value::Null).await), "FipInUseByPortForwarding");
    let leave = format!("{way}/remove_router_interface");
    let needed = demo.must(409, "PUT", &leave, json!({"subnet_id": subnet})).await;
    assert_eq!(kind(&needed), "RouterInterfaceInUseByFloatingIP");
    // A port that goes takes what leads to it with it.
    demo.must(204, "DELETE", &format!("{PORTS}/{}", text(&two["id"])), Value::Null).await;
    let ips = Objects::<FloatingIp>::namespaced(cloud.system.clone(), "demo");
    for round in 0.. {
        if ips.list(&Default::default()).await.unwrap().items[0].spec.forwardings.len() == 1 {
            break;
        }
        assert!(round < 300, "ports still lead to a port that is gone");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let left = demo.get(&all).await["port_forwardings"][0].clone();
    assert_eq!((&left["protocol"], &left["internal_port_id"]), (&json!("udp"), &one["id"]));
    let last = format!("{all}/{}", text(&left["id"]));
    demo.must(204, "DELETE", &last, Value::Null).await;
    assert_eq!(kind(&demo.must(404, "DELETE", &last, Value::Null).await), "PortForwardingNotFound");
    demo.must(200, "PUT", &at, whole).await;
    let late = demo.must(409, "POST", &all, of(&one, 2200, 22)).await;
    assert_eq!(kind(&late), "FloatingIPPortAlreadyAssociated");
}
