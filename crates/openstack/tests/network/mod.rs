//! Neutron: security groups, ports' security, and making several at once.

mod addresses;
mod clients;
mod dhcp;
mod forwardings;
mod found;
pub(crate) mod outer;
mod outside;
mod qos;
mod scopes;
mod shared;
mod six;

use kube::api::Api as Objects;
use serde_json::{Value, json};
use yunfan_resources::network::{Port, SecurityGroup};

use crate::support::client::{Client, flavor, image, tenant, text, wait_for};
use crate::support::{PASSWORD, start};

const GROUPS: &str = "/network/v2.0/security-groups";
const RULES: &str = "/network/v2.0/security-group-rules";
const PORTS: &str = "/network/v2.0/ports";

async fn lan(client: &Client) -> String {
    let net = client.must(201, "POST", "/network/v2.0/networks", json!({"network": {"name": "lan"}})).await;
    let id = text(&net["network"]["id"]).to_owned();
    let subnet = json!({"subnet": {"network_id": id, "cidr": "10.3.0.0/24"}});
    client.must(201, "POST", "/network/v2.0/subnets", subnet).await;
    id
}

fn kind(answer: &Value) -> &str {
    text(&answer["NeutronError"]["type"])
}

#[tokio::test]
async fn security_groups_are_made_changed_and_kept_while_in_use() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    // Every project has the default group, whose members reach one another.
    let default = demo.get(GROUPS).await["security_groups"][0].clone();
    assert_eq!((&default["name"], &default["stateful"]), (&json!("default"), &json!(true)));
    let rules = default["security_group_rules"].as_array().expect("a list");
    assert_eq!(rules.iter().filter(|rule| rule["direction"] == "egress").count(), 2);
    let inward: Vec<_> = rules.iter().filter(|rule| rule["direction"] == "ingress").collect();
    assert!(
        inward.len() == 2 && inward.iter().all(|rule| rule["remote_group_id"] == default["id"]),
        "{rules:?}"
    );
    let path = format!("{GROUPS}/{}", text(&default["id"]));
    assert_eq!(kind(&demo.must(409, "DELETE", &path, Value::Null).await), "SecurityGroupCannotRemoveDefault");
    let renamed = demo.must(409, "PUT", &path, json!({"security_group": {"name": "x"}})).await;
    assert_eq!(kind(&renamed), "SecurityGroupCannotUpdateDefault");
    let twice = demo.must(409, "POST", GROUPS, json!({"security_group": {"name": "default"}})).await;
    assert_eq!(kind(&twice), "SecurityGroupDefaultAlreadyExists");
    assert_eq!(kind(&other.must(404, "GET", &path, Value::Null).await), "SecurityGroupNotFound");

    let web =
        demo.must(201, "POST", GROUPS, json!({"security_group": {"name": "web", "description": "w"}})).await;
    let web = web["security_group"].clone();
    assert_eq!(web["security_group_rules"].as_array().map(Vec::len), Some(2), "everything may leave: {web}");
    let path = format!("{GROUPS}/{}", text(&web["id"]));
    let second = demo.must(409, "PUT", &path, json!({"security_group": {"name": "default"}})).await;
    assert_eq!(kind(&second), "SecurityGroupDefaultAlreadyExists");
    let http = json!({"security_group_rule": {"security_group_id": web["id"], "direction": "ingress", "protocol": "tcp",
        "port_range_min": 80, "port_range_max": 80, "remote_group_id": default["id"]}});
    let rule = demo.must(201, "POST", RULES, http.clone()).await["security_group_rule"].clone();
    assert_eq!((&rule["ethertype"], &rule["remote_group_id"]), (&json!("IPv4"), &default["id"]));
    assert_eq!(kind(&demo.must(409, "POST", RULES, http).await), "SecurityGroupRuleExists");
    let shown = demo.get(&format!("{RULES}/{}", text(&rule["id"]))).await;
    assert_eq!(shown["security_group_rule"], rule);
    let listed = demo.get(&format!("{RULES}?security_group_id={}&direction=ingress", text(&web["id"]))).await;
    assert_eq!(listed["security_group_rules"], json!([rule]));
    let bad = json!({"security_group_rule": {"security_group_id": web["id"], "direction": "ingress", "protocol": "tcp",
        "port_range_min": 80, "port_range_max": 79}});
    assert_eq!(kind(&demo.must(400, "POST", RULES, bad).await), "SecurityGroupInvalidPortRange");
    let nowhere = json!({"security_group_rule": {"security_group_id": web["id"], "direction": "ingress", "remote_group_id": "x"}});
    assert_eq!(kind(&demo.must(404, "POST", RULES, nowhere).await), "SecurityGroupNotFound");
    other.must(404, "DELETE", &format!("{RULES}/{}", text(&rule["id"])), Value::Null).await;

    // A group that a port has stays; rules that speak of a group go with it.
    let net = lan(&demo).await;
    let port = json!({"port": {"network_id": net, "security_groups": [web["id"]]}});
    let port = demo.must(201, "POST", PORTS, port).await["port"].clone();
    assert_eq!(port["security_groups"], json!([web["id"]]));
    assert_eq!(kind(&demo.must(409, "DELETE", &path, Value::Null).await), "SecurityGroupInUse");
    let db = demo.must(201, "POST", GROUPS, json!({"security_group": {"name": "db"}})).await;
    let from_web = json!({"security_group_rule": {"security_group_id": db["security_group"]["id"], "direction": "ingress", "remote_group_id": web["id"]}});
    demo.must(201, "POST", RULES, from_web).await;
    let at = format!("{PORTS}/{}", text(&port["id"]));
    demo.must(200, "PUT", &at, json!({"port": {"security_groups": [default["id"]]}})).await;
    demo.must(204, "DELETE", &path, Value::Null).await;
    let db = demo.get(&format!("{GROUPS}/{}", text(&db["security_group"]["id"]))).await;
    assert_eq!(db["security_group"]["security_group_rules"].as_array().map(Vec::len), Some(2), "{db}");
    // One object, two doors, and the kube door keeps what is in use as well.
    let groups = Objects::<SecurityGroup>::namespaced(cloud.system.clone(), "demo");
    assert_eq!(groups.get("default").await.unwrap().spec.rules.len(), 4);
    let kept = groups.delete("default", &Default::default()).await.unwrap_err().to_string();
    assert!(kept.contains("have it"), "{kept}");
    demo.must(204, "DELETE", &at, Value::Null).await;
    let default = format!("{GROUPS}/{}", text(&default["id"]));
    admin.must(204, "DELETE", &default, Value::Null).await;
    let again = demo.get(&format!("{GROUPS}?name=default")).await;
    assert_eq!(again["security_groups"].as_array().map(Vec::len), Some(1), "it is made again: {again}");
}

#[tokio::test]
async fn stateless_groups_stay_so_while_ports_have_them() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let bare = json!({"security_group": {"name": "bare", "stateful": false}});
    let bare = demo.must(201, "POST", GROUPS, bare).await["security_group"].clone();
    assert_eq!(bare["stateful"], false);
    let at = format!("{GROUPS}/{}", text(&bare["id"]));
    let listed = demo.get(&format!("{GROUPS}?stateful=False")).await["security_groups"].clone();
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    let turned = demo.must(200, "PUT", &at, json!({"security_group": {"stateful": "True"}})).await;
    assert_eq!(turned["security_group"]["stateful"], true);
    let net = lan(&demo).await;
    let port = json!({"port": {"network_id": net, "security_groups": [bare["id"]]}});
    let port = demo.must(201, "POST", PORTS, port).await["port"].clone();
    let refused = demo.must(409, "PUT", &at, json!({"security_group": {"stateful": false}})).await;
    assert_eq!(kind(&refused), "SecurityGroupInUse");
    demo.must(200, "PUT", &at, json!({"security_group": {"stateful": true, "name": "full"}})).await;
    demo.must(400, "PUT", &at, json!({"security_group": {"stateful": "perhaps"}})).await;
    demo.must(204, "DELETE", &format!("{PORTS}/{}", text(&port["id"])), Value::Null).await;
    let turned = demo.must(200, "PUT", &at, json!({"security_group": {"stateful": false}})).await;
    assert_eq!(turned["security_group"]["stateful"], false);
}

#[tokio::test]
async fn ports_have_the_security_that_they_are_given() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let net = lan(&demo).await;
    let made = demo.must(201, "POST", PORTS, json!({"port": {"network_id": net}})).await["port"].clone();
    let default = demo.get(GROUPS).await["security_groups"][0]["id"].clone();
    assert_eq!((&made["security_groups"], &made["port_security_enabled"]), (&json!([default]), &json!(true)));
    let at = format!("{PORTS}/{}", text(&made["id"]));
    let off = json!({"port": {"port_security_enabled": false}});
    assert_eq!(kind(&demo.must(409, "PUT", &at, off).await), "PortSecurityPortHasSecurityGroup");
    let off = json!({"port": {"port_security_enabled": false, "security_groups": []}});
    let shown = demo.must(200, "PUT", &at, off).await;
    assert_eq!(shown["port"]["port_security_enabled"], false);
    let pair = json!({"port": {"allowed_address_pairs": [{"ip_address": "10.3.0.200"}]}});
    assert_eq!(kind(&demo.must(409, "PUT", &at, pair.clone()).await), "AddressPairAndPortSecurityRequired");
    let on = demo.must(200, "PUT", &at, json!({"port": {"port_security_enabled": true}})).await;
    assert_eq!(on["port"]["security_groups"], json!([default]));
    let paired = demo.must(200, "PUT", &at, pair).await;
    let wanted = json!([{"ip_address": "10.3.0.200", "mac_address": made["mac_address"]}]);
    assert_eq!(paired["port"]["allowed_address_pairs"], wanted);
    let named = json!({"port": {"name": "n", "description": "d", "device_id": "mine", "device_owner": "me", "admin_state_up": false}});
    let named = demo.must(200, "PUT", &at, named).await["port"].clone();
    assert_eq!(
        (&named["device_id"], &named["description"], &named["admin_state_up"]),
        (&json!("mine"), &json!("d"), &json!(false))
    );
    let owner = json!({"port": {"network_id": net, "device_owner": "network:dhcp"}});
    demo.must(403, "POST", PORTS, owner).await;

    // Several at once: all or none.
    let two = json!({"ports": [{"network_id": net, "name": "a"}, {"network_id": net, "name": "b"}]});
    assert_eq!(demo.must(201, "POST", PORTS, two).await["ports"].as_array().map(Vec::len), Some(2));
    let broken = json!({"ports": [{"network_id": net, "name": "c"}, {"network_id": "x"}]});
    demo.must(404, "POST", PORTS, broken).await;
    assert_eq!(demo.get(&format!("{PORTS}?name=c")).await["ports"], json!([]));

    // Groups and their rules count.
    let quota = json!({"quota": {"security_group": 1, "security_group_rule": 4}});
    admin.must(200, "PUT", &format!("/network/v2.0/quotas/{project}"), quota).await;
    let over = demo.must(409, "POST", GROUPS, json!({"security_group": {"name": "more"}})).await;
    assert_eq!(kind(&over), "OverQuota");
    let rule = json!({"security_group_rule": {"security_group_id": default, "direction": "ingress", "protocol": "icmp"}});
    assert_eq!(kind(&demo.must(409, "POST", RULES, rule).await), "OverQuota");
}

#[tokio::test]
async fn servers_get_the_default_group_or_those_they_name() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (flavor, image, net) = (flavor(&admin).await, image(&demo).await, lan(&demo).await);
    demo.must(201, "POST", GROUPS, json!({"security_group": {"name": "web"}})).await;
    let body = |name: &str, groups: Value| json!({"server": {"name": name, "imageRef": image, "flavorRef": flavor, "networks": [{"uuid": net}], "security_groups": groups}});
    let unknown = demo.must(400, "POST", "/compute/v2.1/servers", body("x", json!([{"name": "nope"}]))).await;
    assert!(text(&unknown["badRequest"]["message"]).contains("nope"), "{unknown}");
    let ports = Objects::<Port>::namespaced(cloud.system.clone(), "demo");
    for (name, wanted) in
        [("plain", json!([])), ("usual", json!([{"name": "default"}])), ("web", json!([{"name": "web"}]))]
    {
        let made = demo.must(202, "POST", "/compute/v2.1/servers", body(name, wanted)).await;
        let path = format!("/compute/v2.1/servers/{}", text(&made["server"]["id"]));
        wait_for(&demo, &path, "server", "ACTIVE").await;
        let port = ports.get(&format!("vm-{name}-0")).await.unwrap();
        let group = if name == "web" { "web" } else { "default" };
        assert_eq!(port.spec.security_groups, Some(vec![group.to_owned()]), "{name}");
    }
}

#[tokio::test]
async fn subnets_say_which_ways_guests_have() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let net = json!({"networks": [{"name": "one"}, {"name": "two", "port_security_enabled": false}]});
    let nets = demo.must(201, "POST", "/network/v2.0/networks", net).await["networks"].clone();
    assert_eq!(
        (&nets[0]["port_security_enabled"], &nets[1]["port_security_enabled"]),
        (&json!(true), &json!(false))
    );
    let routes = json!([{"destination": "10.20.0.0/16", "nexthop": "10.4.0.9"}]);
    let body = json!({"subnets": [
        {"network_id": nets[0]["id"], "cidr": "10.4.0.0/24", "gateway_ip": null, "description": "d", "host_routes": routes},
        {"network_id": nets[1]["id"], "cidr": "10.4.0.0/24", "gateway_ip": "10.4.0.254"},
    ]});
    let made = demo.must(201, "POST", "/network/v2.0/subnets", body).await["subnets"].clone();
    assert_eq!(
        (&made[0]["gateway_ip"], &made[0]["host_routes"], &made[0]["description"]),
        (&Value::Null, &routes, &json!("d"))
    );
    assert_eq!((&made[1]["gateway_ip"], &made[1]["host_routes"]), (&json!("10.4.0.254"), &json!([])));
    // A gateway stays where it is while ports use it.
    let port = json!({"port": {"network_id": nets[1]["id"], "fixed_ips": [{"ip_address": "10.4.0.7"}]}});
    let port = demo.must(201, "POST", PORTS, port).await["port"].clone();
    assert_eq!((&port["port_security_enabled"], &port["security_groups"]), (&json!(false), &json!([])));
    let path = format!("/network/v2.0/subnets/{}", text(&made[1]["id"]));
    let used = demo.must(409, "PUT", &path, json!({"subnet": {"gateway_ip": "10.4.0.8"}})).await;
    assert_eq!(kind(&used), "GatewayIpInUse");
    demo.must(200, "PUT", &path, json!({"subnet": {"gateway_ip": "10.4.0.254", "name": "same"}})).await;
    demo.must(204, "DELETE", &format!("{PORTS}/{}", text(&port["id"])), Value::Null).await;
    let broadcast = json!([{"destination": "10.30.0.0/16", "nexthop": "10.4.0.255"}]);
    demo.must(400, "PUT", &path, json!({"subnet": {"host_routes": broadcast}})).await;
    let moved = demo
        .must(200, "PUT", &path, json!({"subnet": {"gateway_ip": "10.4.0.8", "host_routes": routes}}))
        .await;
    assert_eq!(
        (&moved["subnet"]["gateway_ip"], &moved["subnet"]["host_routes"]),
        (&json!("10.4.0.8"), &routes)
    );
    let taken = json!({"port": {"network_id": nets[1]["id"], "fixed_ips": [{"ip_address": "10.4.0.8"}]}});
    demo.must(400, "POST", PORTS, taken).await;
}

#[tokio::test]
async fn a_server_where_ports_are_open_takes_no_groups() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let net = lan(&demo).await;
    let path = format!("/network/v2.0/networks/{net}");
    demo.must(200, "PUT", &path, json!({"network": {"port_security_enabled": false}})).await;
    let server = json!({"server": {"name": "web", "imageRef": os, "flavorRef": small, "networks": [{"uuid": net}],
        "security_groups": [{"name": "default"}]}});
    let refused = demo.must(400, "POST", "/compute/v2.1/servers", server.clone()).await;
    let message = text(&refused["badRequest"]["message"]);
    assert!(message.contains("requires port_security_enabled"), "{message}");
    demo.must(200, "PUT", &path, json!({"network": {"port_security_enabled": true}})).await;
    demo.must(202, "POST", "/compute/v2.1/servers", server).await;
}
