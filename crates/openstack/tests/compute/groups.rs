//! Servers' security groups and floating IPs.

use serde_json::{Value, json};

use super::{SERVERS, server};
use crate::network::outer::{FLOATING, ROUTERS, SUBNETS, outside};
use crate::support::client::{Client, flavor, image, tenant, text};
use crate::support::{PASSWORD, start};

/// The names of a server's security groups.
async fn groups(client: &Client, path: &str) -> Vec<String> {
    let server = client.get(path).await["server"].clone();
    let all = server["security_groups"].as_array().cloned().unwrap_or_default();
    all.iter().map(|group| text(&group["name"]).to_owned()).collect()
}

#[tokio::test]
async fn servers_come_into_security_groups_and_out_of_them() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let net = crate::network(&demo, "10.9.0.0/24").await;
    let body = json!({"security_group": {"name": "web"}});
    let made = demo.must(201, "POST", "/network/v2.0/security-groups", body).await;
    let web = text(&made["security_group"]["id"]).to_owned();
    let body =
        json!({"server": {"name": "w", "imageRef": os, "flavorRef": small, "networks": [{"uuid": net}]}});
    let made = demo.must(202, "POST", SERVERS, body).await["server"].clone();
    assert_eq!(made["security_groups"], json!([{"name": "default"}]));
    let path = format!("{SERVERS}/{}", text(&made["id"]));
    crate::support::client::wait_for(&demo, &path, "server", "ACTIVE").await;
    assert_eq!(groups(&demo, &path).await, ["default"]);

    let action = format!("{path}/action");
    let word = |word: &str, name: &str| json!({word: {"name": name}});
    demo.must(202, "POST", &action, word("addSecurityGroup", "web")).await;
    demo.must(202, "POST", &action, word("addSecurityGroup", &web)).await;
    assert_eq!(groups(&demo, &path).await, ["default", "web"]);
    let listed = demo.get(&format!("{path}/os-security-groups")).await["security_groups"].clone();
    assert_eq!((&listed[1]["id"], &listed[1]["tenant_id"]), (&json!(web), &json!(project)));
    let inward = listed[0]["rules"].as_array().unwrap();
    assert!(inward.iter().any(|rule| rule["group"]["name"] == "default"), "{listed}");
    let all = demo.get(&format!("{SERVERS}/detail")).await;
    assert_eq!(all["servers"][0]["security_groups"][1]["name"], "web");
    // Updates tell of them since 2.75.
    for (version, told) in [("compute 2.74", false), ("compute 2.75", true)] {
        let body = json!({"server": {"name": "v"}});
        let updated = demo.ask_as(version, "PUT", &path, body).await.body;
        assert_eq!(updated["server"].get("security_groups").is_some(), told, "{version}");
    }
    demo.must(202, "POST", &action, word("removeSecurityGroup", "default")).await;
    assert_eq!(groups(&demo, &path).await, ["web"]);
    demo.must(404, "POST", &action, word("removeSecurityGroup", "default")).await;
    demo.must(404, "POST", &action, word("addSecurityGroup", "none")).await;
    demo.must(400, "POST", &action, word("addSecurityGroup", " ")).await;
    other.must(404, "POST", &action, word("addSecurityGroup", "default")).await;
    demo.must(404, "GET", &format!("{SERVERS}/none/os-security-groups"), Value::Null).await;
    // One of two groups of one name is not clear, and a server without ports is in none.
    let body = json!({"security_group": {"name": "web"}});
    demo.must(201, "POST", "/network/v2.0/security-groups", body).await;
    demo.must(409, "POST", &action, word("addSecurityGroup", "web")).await;
    let alone = server(&demo, &os, &small, json!({})).await;
    demo.must(404, "POST", &format!("{alone}/action"), word("addSecurityGroup", &web)).await;
    assert!(demo.get(&alone).await["server"].get("security_groups").is_none());
}

#[tokio::test]
async fn floating_ips_are_among_a_servers_addresses() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let public = outside(&admin).await;
    let net = crate::network(&demo, "10.9.0.0/24").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({"networks": [{"uuid": net}]})).await;
    let body = json!({"router": {"external_gateway_info": {"network_id": public["id"]}}});
    let router = demo.must(201, "POST", ROUTERS, body).await["router"]["id"].clone();
    let subnet = demo.get(&format!("{SUBNETS}?network_id={net}")).await["subnets"][0]["id"].clone();
    let at = format!("{ROUTERS}/{}/add_router_interface", text(&router));
    demo.must(200, "PUT", &at, json!({"subnet_id": subnet})).await;
    let port = demo.get(&format!("{path}/os-interface")).await["interfaceAttachments"][0].clone();
    let body = json!({"floatingip": {"floating_network_id": public["id"], "port_id": port["port_id"]}});
    let ip = demo.must(201, "POST", FLOATING, body).await["floatingip"]["floating_ip_address"].clone();
    let addresses = demo.get(&path).await["server"]["addresses"]["net"].clone();
    let floating = json!({"addr": ip, "version": 4, "OS-EXT-IPS:type": "floating",
                          "OS-EXT-IPS-MAC:mac_addr": port["mac_addr"]});
    assert_eq!((&addresses[0]["OS-EXT-IPS:type"], &addresses[1]), (&json!("fixed"), &floating));
    let plain = demo.get(&format!("{path}/ips/net")).await;
    assert_eq!(plain["net"][1], json!({"addr": ip, "version": 4}));
}
