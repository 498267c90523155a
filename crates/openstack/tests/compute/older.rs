//! Nova's words for what is Neutron's, which it gave up with microversion 2.36, and what else its older clients ask.

use serde_json::{Value, json};

use super::{SERVERS, server};
use crate::network::outer::{ROUTERS, SUBNETS, outside};
use crate::support::client::{Client, flavor, image, tenant, text};
use crate::support::{PASSWORD, start};

/// Asks in the last dialect that has these paths, and insists on the status.
async fn old(client: &Client, status: u16, method: &str, path: &str, body: Value) -> Value {
    let path = format!("/compute/v2.1/{path}");
    let answer = client.ask_as("compute 2.35", method, &path, body).await;
    assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    answer.body
}

#[tokio::test]
async fn security_groups_and_networks_in_novas_words() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let groups = "os-security-groups";
    let body = |name: &str| json!({"security_group": {"name": name, "description": "d"}});
    let made = old(&demo, 200, "POST", groups, body("web")).await["security_group"].clone();
    assert_eq!((&made["rules"], &made["tenant_id"]), (&json!([]), &json!(project)));
    let other = old(&demo, 200, "POST", groups, body("other")).await["security_group"].clone();
    let one = format!("{groups}/{}", text(&made["id"]));
    let rule = |more: Value| {
        let mut rule =
            json!({"parent_group_id": made["id"], "ip_protocol": "tcp", "from_port": 22, "to_port": 22});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"security_group_rule": rule})
    };
    let rules = "os-security-group-rules";
    let first = old(&demo, 200, "POST", rules, rule(json!({}))).await["security_group_rule"].clone();
    assert_eq!((&first["ip_range"], &first["group"]), (&json!({"cidr": "0.0.0.0/0"}), &json!({})));
    old(&demo, 400, "POST", rules, rule(json!({}))).await;
    old(&demo, 400, "POST", rules, rule(json!({"to_port": 21}))).await;
    old(&demo, 400, "POST", rules, rule(json!({"from_port": 70_000}))).await;
    old(&demo, 400, "POST", rules, rule(json!({"parent_group_id": "web"}))).await;
    let nobody = "11111111-1111-4111-8111-111111111111";
    old(&demo, 404, "POST", rules, rule(json!({"parent_group_id": nobody}))).await;
    let wide = rule(json!({"cidr": "10.2.3.124/24"}));
    let wide = old(&demo, 200, "POST", rules, wide).await["security_group_rule"].clone();
    assert_eq!(wide["ip_range"], json!({"cidr": "10.2.3.124/24"}));
    let from = old(&demo, 200, "POST", rules, rule(json!({"group_id": other["id"]}))).await;
    let expected = json!({"name": "other", "tenant_id": project});
    assert_eq!(from["security_group_rule"]["group"], expected);
    let shown = old(&demo, 200, "GET", &one, Value::Null).await["security_group"].clone();
    assert_eq!(shown["rules"].as_array().unwrap().len(), 3);
    old(&demo, 202, "DELETE", &format!("{groups}/{}", text(&other["id"])), Value::Null).await;
    old(&demo, 202, "DELETE", &format!("{rules}/{}", text(&first["id"])), Value::Null).await;
    old(&demo, 404, "DELETE", &format!("{rules}/{}", text(&first["id"])), Value::Null).await;
    let shown = old(&demo, 200, "GET", &one, Value::Null).await["security_group"].clone();
    assert_eq!(shown["rules"].as_array().unwrap().len(), 1, "{shown}");
    let renamed = old(&demo, 200, "PUT", &one, body("front")).await;
    assert_eq!(renamed["security_group"]["name"], "front");
    let list = old(&demo, 200, "GET", groups, Value::Null).await["security_groups"].clone();
    let default = list.as_array().unwrap().iter().find(|group| group["name"] == "default").unwrap();
    old(&demo, 400, "DELETE", &format!("{groups}/{}", text(&default["id"])), Value::Null).await;
    for (method, path) in [("GET", format!("{groups}/{nobody}")), ("DELETE", format!("{groups}/"))] {
        old(&demo, 404, method, &path, Value::Null).await;
    }
    // Only an admin who asks for it sees those of others.
    let own = old(&admin, 200, "GET", groups, Value::Null).await;
    let all = old(&admin, 200, "GET", &format!("{groups}?all_tenants=true"), Value::Null).await;
    let has = |list: &Value| {
        list["security_groups"].as_array().unwrap().iter().any(|group| group["id"] == made["id"])
    };
    assert!(!has(&own) && has(&all));
    old(&demo, 202, "DELETE", &one, Value::Null).await;
    let answer = demo.ask_as("compute 2.36", "GET", "/compute/v2.1/os-security-groups", Value::Null).await;
    assert_eq!(answer.status, 404);

    let net = crate::network(&demo, "10.9.0.0/24").await;
    for (list, cidr) in [("os-tenant-networks", json!("None")), ("os-networks", Value::Null)] {
        let networks = old(&demo, 200, "GET", list, Value::Null).await["networks"].clone();
        assert_eq!((&networks[0]["id"], &networks[0]["cidr"]), (&json!(net), &cidr));
        let shown = old(&demo, 200, "GET", &format!("{list}/{net}"), Value::Null).await;
        assert_eq!(shown["network"]["label"], networks[0]["label"]);
        old(&demo, 404, "GET", &format!("{list}/{nobody}"), Value::Null).await;
    }
}

#[tokio::test]
async fn floating_ips_in_novas_words() {
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

    let ips = "os-floating-ips";
    old(&demo, 404, "POST", ips, json!({"pool": "none"})).await;
    let pools = old(&demo, 200, "GET", "os-floating-ip-pools", Value::Null).await;
    assert_eq!(pools, json!({"floating_ip_pools": [{"name": "public"}]}));
    let made = old(&demo, 200, "POST", ips, json!({"pool": "public"})).await["floating_ip"].clone();
    assert_eq!((&made["pool"], &made["instance_id"]), (&json!("public"), &Value::Null));
    let second = old(&demo, 200, "POST", ips, json!({"pool": public["id"]})).await["floating_ip"].clone();
    let list = old(&demo, 200, "GET", ips, Value::Null).await["floating_ips"].clone();
    assert!(list.as_array().unwrap().contains(&made), "{list}");

    let action = format!("{}/action", path.trim_start_matches("/compute/v2.1/"));
    let add = |address: &Value| json!({"addFloatingIp": {"address": address}});
    let remove = |address: &Value| json!({"removeFloatingIp": {"address": address}});
    old(&demo, 404, "POST", &action, add(&json!("0.0.0.0"))).await;
    old(&demo, 400, "POST", &action, add(&json!(""))).await;
    old(&demo, 409, "POST", &action, remove(&made["ip"])).await;
    old(&demo, 202, "POST", &action, add(&made["ip"])).await;
    let one = format!("{ips}/{}", text(&made["id"]));
    let shown = old(&demo, 200, "GET", &one, Value::Null).await["floating_ip"].clone();
    assert_eq!(format!("{SERVERS}/{}", text(&shown["instance_id"])), path);
    // Its one address has one already.
    old(&demo, 400, "POST", &action, add(&second["ip"])).await;
    old(&demo, 202, "POST", &action, remove(&made["ip"])).await;
    let late = demo.ask_as("compute 2.44", "POST", &format!("{path}/action"), add(&made["ip"])).await;
    assert_eq!(late.status, 404);
    old(&demo, 202, "DELETE", &one, Value::Null).await;
    old(&demo, 404, "GET", &one, Value::Null).await;
}

#[tokio::test]
async fn versions_migrations_and_audits() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let versions = demo.get("/compute/").await["versions"].clone();
    assert_eq!((&versions[0]["id"], &versions[1]["id"]), (&json!("v2.0"), &json!("v2.1")));
    assert_eq!(demo.get("/compute/v2/").await["version"], versions[0]);
    // Whatever it says, who speaks v2 speaks no microversion.
    let listed = demo.ask_as("compute 2.96", "GET", "/compute/v2/servers", Value::Null).await;
    assert_eq!((listed.status, &listed.body), (200, &json!({"servers": []})));

    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    let diagnostics =
        admin.ask_as("compute 2.47", "GET", &format!("{path}/diagnostics"), Value::Null).await.body;
    assert!(diagnostics["memory"].as_u64().is_some_and(|kib| kib > 0), "{diagnostics}");
    let migrations = "/compute/v2.1/os-migrations";
    demo.must(403, "GET", migrations, Value::Null).await;
    assert_eq!(admin.get(migrations).await, json!({"migrations": []}));
    let larger = json!({"flavor": {"name": "larger", "vcpus": 2, "ram": 128, "disk": 1}});
    let larger = admin.must(200, "POST", "/compute/v2.1/flavors", larger).await;
    let resize = json!({"resize": {"flavorRef": larger["flavor"]["id"]}});
    demo.must(202, "POST", &format!("{path}/action"), resize).await;
    let told = admin.get(migrations).await["migrations"][0].clone();
    assert!(path.ends_with(text(&told["instance_uuid"])), "{told}");
    assert_eq!(told["source_node"], told["dest_node"]);

    let audits = "/compute/v2.1/os-instance_usage_audit_log";
    demo.must(403, "GET", audits, Value::Null).await;
    let log = admin.get(audits).await["instance_usage_audit_logs"].clone();
    assert_eq!((&log["num_hosts_done"], &log["total_errors"]), (&json!(0), &json!(0)));
    let log = admin.get(&format!("{audits}/2026-03-15%2010%3A00%3A00")).await;
    assert_eq!(log["instance_usage_audit_log"]["period_beginning"], "2026-02-01 00:00:00");
    admin.must(400, "GET", &format!("{audits}/invalid_time"), Value::Null).await;
    demo.must(403, "GET", &format!("{audits}/invalid_time"), Value::Null).await;
    let hosts = old(&admin, 200, "GET", "os-hosts", Value::Null).await["hosts"].clone();
    assert!(hosts.as_array().unwrap().iter().any(|host| host["service"] == "scheduler"), "{hosts}");
}
