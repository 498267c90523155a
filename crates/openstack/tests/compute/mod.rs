//! Servers' actions and what is told of them, asked as OpenStack's clients ask.

mod bounds;
mod clients;
mod consoles;
mod groups;
mod limits;
mod made;
mod older;
mod shelved;
mod words;

use serde_json::{Value, json};

use crate::support::client::{Client, flavor, image, tenant, text, wait_for};
use crate::support::{NODE, PASSWORD, start};

const SERVERS: &str = "/compute/v2.1/servers";

/// A server without a network, once it is active; returns its path.
async fn server(client: &Client, image: &str, flavor: &str, more: Value) -> String {
    let mut spec = json!({"name": "web", "imageRef": image, "flavorRef": flavor, "networks": "none"});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let made = client.must(202, "POST", SERVERS, json!({"server": spec})).await;
    let path = format!("{SERVERS}/{}", text(&made["server"]["id"]));
    wait_for(client, &path, "server", "ACTIVE").await;
    path
}

/// Tells a server something, and waits for the status that it has then.
async fn tell(client: &Client, path: &str, action: Value, status: &str) {
    client.must(202, "POST", &format!("{path}/action"), action).await;
    settled(client, path, status).await;
}

/// Waits until a server has a status and nothing more is done with it.
async fn settled(client: &Client, path: &str, status: &str) -> Value {
    for _ in 0..300 {
        let server = client.get(path).await["server"].clone();
        if server["status"] == status && server["OS-EXT-STS:task_state"].is_null() {
            return server;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{path} is not {status}: {}", client.get(path).await);
}

#[tokio::test]
async fn actions_lead_from_state_to_state() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    let action = format!("{path}/action");
    for (word, status) in [
        ("pause", "PAUSED"),
        ("unpause", "ACTIVE"),
        ("suspend", "SUSPENDED"),
        ("resume", "ACTIVE"),
        ("shelve", "SHELVED_OFFLOADED"),
        ("unshelve", "ACTIVE"),
        ("os-stop", "SHUTOFF"),
        ("os-start", "ACTIVE"),
    ] {
        tell(&demo, &path, json!({word: null}), status).await;
    }
    let wrong = demo.must(409, "POST", &action, json!({"unpause": null})).await;
    let message = text(&wrong["conflictingRequest"]["message"]).to_owned();
    assert!(
        message.contains("Cannot 'unpause' instance") && message.ends_with("vm_state active"),
        "{message}"
    );
    demo.must(200, "POST", &action, json!({"rescue": null})).await;
    settled(&demo, &path, "RESCUE").await;
    demo.must(409, "POST", &action, json!({"rebuild": {"imageRef": os}})).await;
    tell(&demo, &path, json!({"unrescue": null}), "ACTIVE").await;

    let rebuilt = json!({"rebuild": {"imageRef": os, "name": "anew", "metadata": {"a": "b"}}});
    let rebuilt = demo.must(202, "POST", &action, rebuilt).await;
    assert!(rebuilt["server"]["adminPass"].is_string());
    let shown = settled(&demo, &path, "ACTIVE").await;
    assert_eq!((&shown["name"], &shown["metadata"]), (&json!("anew"), &json!({"a": "b"})));

    demo.must(400, "POST", &action, json!({"resize": {"flavorRef": small}})).await;
    let body = json!({"flavor": {"name": "m1.big", "vcpus": 2, "ram": 512, "disk": 2}});
    let big = text(&admin.must(200, "POST", "/compute/v2.1/flavors", body).await["flavor"]["id"]).to_owned();
    tell(&demo, &path, json!({"resize": {"flavorRef": big}}), "VERIFY_RESIZE").await;
    assert_eq!(demo.get(&path).await["server"]["flavor"]["vcpus"], 2);
    tell(&demo, &path, json!({"revertResize": null}), "ACTIVE").await;
    assert_eq!(demo.get(&path).await["server"]["flavor"]["vcpus"], 1);
    tell(&demo, &path, json!({"resize": {"flavorRef": big}}), "VERIFY_RESIZE").await;
    demo.must(204, "POST", &action, json!({"confirmResize": null})).await;
    settled(&demo, &path, "ACTIVE").await;

    // What is not served, what ended, and what there never was.
    demo.must(501, "POST", &action, json!({"migrate": null})).await;
    demo.must(404, "POST", &action, json!({"addFixedIp": {"networkId": "n"}})).await;
    demo.must(400, "POST", &action, json!({"fly": null})).await;
    demo.must(409, "POST", &action, json!({"changePassword": {"adminPass": "x"}})).await;
    demo.must(403, "POST", &action, json!({"os-resetState": {"state": "error"}})).await;
    admin.must(202, "POST", &action, json!({"os-resetState": {"state": "error"}})).await;
    assert_eq!(settled(&demo, &path, "ERROR").await["fault"]["code"], 500);
    tell(&demo, &path, json!({"reboot": {"type": "HARD"}}), "ACTIVE").await;
}

#[tokio::test]
async fn a_lock_holds_up_users() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    let action = format!("{path}/action");
    demo.must(202, "POST", &action, json!({"lock": {"locked_reason": "mine"}})).await;
    let shown = demo.get(&path).await["server"].clone();
    assert_eq!((&shown["locked"], &shown["locked_reason"]), (&json!(true), &json!("mine")));
    for refused in [json!({"os-stop": null}), json!({"rebuild": {"imageRef": os}}), json!({"pause": null})] {
        let told = demo.must(409, "POST", &action, refused).await;
        assert!(text(&told["conflictingRequest"]["message"]).ends_with("is locked"));
    }
    demo.must(409, "DELETE", &path, Value::Null).await;
    demo.must(202, "POST", &action, json!({"unlock": null})).await;
    demo.must(202, "POST", &action, json!({"lock": {"locked_reason": "mine"}})).await;
    admin.must(202, "POST", &action, json!({"lock": null})).await;
    assert_eq!(demo.get(&path).await["server"]["locked_reason"], Value::Null);
    // What the administrator locked is not locked anew by its owner, to be unlocked then.
    demo.must(202, "POST", &action, json!({"lock": null})).await;
    demo.must(403, "POST", &action, json!({"unlock": null})).await;
    admin.must(202, "POST", &action, json!({"unlock": null})).await;
    tell(&demo, &path, json!({"pause": null}), "PAUSED").await;
}

#[tokio::test]
async fn requests_are_remembered_by_their_ids() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    let answer = demo.ask("POST", &format!("{path}/action"), json!({"os-stop": null})).await;
    let request = answer.headers["x-compute-request-id"].to_str().unwrap().to_owned();
    settled(&demo, &path, "SHUTOFF").await;
    let all = demo.get(&format!("{path}/os-instance-actions")).await;
    let words: Vec<&str> =
        all["instanceActions"].as_array().unwrap().iter().map(|one| text(&one["action"])).collect();
    assert_eq!(words, ["stop", "create"]);
    let one = demo.get(&format!("{path}/os-instance-actions/{request}")).await["instanceAction"].clone();
    assert_eq!((&one["action"], &one["project_id"]), (&json!("stop"), &json!(project)));
    assert_eq!(one["events"][0]["result"], "Success");
    demo.must(404, "GET", &format!("{path}/os-instance-actions/req-none"), Value::Null).await;
}

#[tokio::test]
async fn tags_descriptions_names_and_addresses() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let more = json!({"description": "shop", "tags": ["a"], "accessIPv4": "1.1.1.1", "adminPass": "s3cret"});
    let path = server(&demo, &os, &small, more).await;
    let shown = demo.get(&path).await["server"].clone();
    assert_eq!((&shown["description"], &shown["tags"]), (&json!("shop"), &json!(["a"])));
    assert_eq!(shown["accessIPv4"], "1.1.1.1");
    demo.must(201, "PUT", &format!("{path}/tags/b"), Value::Null).await;
    demo.must(204, "PUT", &format!("{path}/tags/b"), Value::Null).await;
    assert_eq!(demo.get(&format!("{path}/tags")).await, json!({"tags": ["a", "b"]}));
    let found = |query: &str| format!("{SERVERS}?{query}");
    for (query, count) in [("tags=a,b", 1), ("tags=a,c", 0), ("tags-any=c,b", 1), ("not-tags=a", 0)] {
        let list = demo.get(&found(query)).await;
        assert_eq!(list["servers"].as_array().map(Vec::len), Some(count), "{query}");
    }
    demo.must(204, "DELETE", &format!("{path}/tags/a"), Value::Null).await;
    demo.must(404, "GET", &format!("{path}/tags/a"), Value::Null).await;
    demo.must(204, "DELETE", &format!("{path}/tags"), Value::Null).await;
    let old = demo.ask_as("compute 2.25", "GET", &format!("{path}/tags"), Value::Null).await;
    assert_eq!(old.status, 404);
    let body = json!({"server": {"name": "shop-1", "description": null}});
    let updated = demo.must(200, "PUT", &path, body).await;
    assert_eq!(
        (&updated["server"]["name"], &updated["server"]["description"]),
        (&json!("shop-1"), &Value::Null)
    );
    // Before 2.75 an update told less.
    let old = demo.ask_as("compute 2.1", "PUT", &path, json!({"server": {"name": "shop-2"}})).await;
    let members: Vec<&String> = old.body["server"].as_object().unwrap().keys().collect();
    assert!(!members.iter().any(|name| name.starts_with("OS-EXT-") || *name == "key_name"), "{members:?}");
    let meta = format!("{path}/metadata/k");
    assert_eq!(demo.must(200, "PUT", &meta, json!({"meta": {"k": "v"}})).await, json!({"meta": {"k": "v"}}));
    demo.must(400, "PUT", &meta, json!({"meta": {"other": "v"}})).await;
    for (version, status) in [("compute 2.96", 200), ("compute 2.97", 406), ("compute 3.0", 406)] {
        assert_eq!(demo.ask_as(version, "GET", &path, Value::Null).await.status, status, "{version}");
    }
    let newest = demo.ask_as("compute 2.96", "GET", &path, Value::Null).await.body;
    assert_eq!(newest["server"]["pinned_availability_zone"], Value::Null);
    assert_eq!(newest["server"]["OS-EXT-SRV-ATTR:hostname"], "shop-2");
}

#[tokio::test]
async fn groups_zones_and_hosts() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let groups = "/compute/v2.1/os-server-groups";
    let body = json!({"server_group": {"name": "g", "policy": "anti-affinity", "rules": {"max_server_per_host": 2}}});
    let group = demo.must(200, "POST", groups, body).await["server_group"].clone();
    assert_eq!((&group["policy"], &group["project_id"]), (&json!("anti-affinity"), &json!(project)));
    let id = text(&group["id"]).to_owned();
    let body = json!({
        "server": {"name": "m", "imageRef": os, "flavorRef": small, "networks": "none"},
        "os:scheduler_hints": {"group": id},
    });
    let made = demo.must(202, "POST", SERVERS, body).await["server"]["id"].clone();
    assert_eq!(demo.get(&format!("{groups}/{id}")).await["server_group"]["members"], json!([made]));
    let path = format!("{SERVERS}/{}", text(&made));
    assert_eq!(demo.get(&path).await["server"]["server_groups"], json!([id]));
    let old = demo.ask_as("compute 2.1", "GET", groups, Value::Null).await.body;
    assert_eq!(old["server_groups"][0]["policies"], json!(["anti-affinity"]));
    demo.must(204, "DELETE", &format!("{groups}/{id}"), Value::Null).await;
    demo.must(404, "GET", &format!("{groups}/{id}"), Value::Null).await;

    let aggregates = "/compute/v2.1/os-aggregates";
    demo.must(403, "GET", aggregates, Value::Null).await;
    let made = admin.must(200, "POST", aggregates, json!({"aggregate": {"name": "rack"}})).await;
    let path = format!("{aggregates}/{}", made["aggregate"]["id"]);
    let added = admin.must(200, "POST", &format!("{path}/action"), json!({"add_host": {"host": NODE}})).await;
    assert_eq!(added["aggregate"]["hosts"], json!([NODE]));
    admin.must(409, "POST", &format!("{path}/action"), json!({"add_host": {"host": NODE}})).await;
    admin.must(400, "DELETE", &path, Value::Null).await;
    // The node has a machine, which was placed by its zone.
    let zone = json!({"set_metadata": {"metadata": {"availability_zone": "east"}}});
    admin.must(409, "POST", &format!("{path}/action"), zone.clone()).await;
    let servers = demo.get(SERVERS).await;
    for one in servers["servers"].as_array().unwrap() {
        demo.must(204, "DELETE", &format!("{SERVERS}/{}", text(&one["id"])), Value::Null).await;
    }
    admin.must(200, "POST", &format!("{path}/action"), zone).await;
    let zones = demo.get("/compute/v2.1/os-availability-zone").await;
    assert_eq!(zones["availabilityZoneInfo"][0]["zoneName"], "east");
    let body = |zone: &str| json!({"server": {"name": "m", "imageRef": os, "flavorRef": small, "networks": "none", "availability_zone": zone}});
    demo.must(400, "POST", SERVERS, body("west")).await;
    demo.must(403, "POST", SERVERS, body(&format!("east:{NODE}"))).await;
    demo.must(202, "POST", SERVERS, body("east")).await;
    let wrong = json!({
        "server": {"name": "m", "imageRef": os, "flavorRef": small, "networks": "none"},
        "os:scheduler_hints": {"query": "[]"},
    });
    demo.must(400, "POST", SERVERS, wrong).await;
}

#[tokio::test]
async fn flavors_keys_quotas_and_usage() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let body = json!({"flavor": {"name": "own", "vcpus": 1, "ram": 64, "disk": 0, "os-flavor-access:is_public": false,
                                 "description": "for few"}});
    let made = admin.must(200, "POST", "/compute/v2.1/flavors", body).await;
    let path = format!("/compute/v2.1/flavors/{}", text(&made["flavor"]["id"]));
    demo.must(404, "GET", &path, Value::Null).await;
    admin.must(200, "POST", &format!("{path}/action"), json!({"addTenantAccess": {"tenant": project}})).await;
    assert_eq!(demo.get(&path).await["flavor"]["description"], "for few");
    other.must(404, "GET", &path, Value::Null).await;
    let specs = format!("{path}/os-extra_specs");
    admin.must(200, "POST", &specs, json!({"extra_specs": {"colour": "red", "size": 1}})).await;
    assert_eq!(admin.get(&format!("{specs}/size")).await, json!({"size": "1"}));
    demo.must(403, "POST", &specs, json!({"extra_specs": {"colour": "blue"}})).await;
    // A flavor may ask for what nothing here acts on; no server gets one.
    admin.must(200, "POST", &specs, json!({"extra_specs": {"hw:cpu_policy": "dedicated"}})).await;
    let demanding = text(&made["flavor"]["id"]).to_owned();
    let refused = json!({"server": {"name": "x", "imageRef": image(&demo).await, "flavorRef": demanding, "networks": "none"}});
    demo.must(400, "POST", SERVERS, refused).await;
    admin.must(200, "DELETE", &format!("{specs}/hw:cpu_policy"), Value::Null).await;
    admin.must(200, "DELETE", &format!("{specs}/size"), Value::Null).await;
    assert_eq!(admin.get(&specs).await, json!({"extra_specs": {"colour": "red"}}));

    let keys = "/compute/v2.1/os-keypairs";
    let made = demo.must(201, "POST", keys, json!({"keypair": {"name": "k"}})).await;
    assert!(text(&made["keypair"]["private_key"]).starts_with("-----BEGIN OPENSSH PRIVATE KEY-----"));
    let late = demo.ask_as("compute 2.92", "POST", keys, json!({"keypair": {"name": "l"}})).await;
    assert_eq!(late.status, 400);

    let os = image(&demo).await;
    let small = flavor(&admin).await;
    server(&demo, &os, &small, json!({})).await;
    let usage = demo.get(&format!("/compute/v2.1/os-simple-tenant-usage/{project}")).await;
    assert_eq!(usage["tenant_usage"]["server_usages"][0]["vcpus"], 1);
    demo.must(403, "GET", "/compute/v2.1/os-simple-tenant-usage", Value::Null).await;
    let class = admin.get("/compute/v2.1/os-quota-class-sets/default").await;
    assert_eq!(class["quota_class_set"]["cores"], -1);
    let old = admin
        .ask_as(
            "compute 2.52",
            "PUT",
            "/compute/v2.1/os-services/disable",
            json!({"host": NODE, "binary": "nova-compute"}),
        )
        .await;
    assert_eq!((old.status, &old.body["service"]["status"]), (200, &json!("disabled")));
    let services = admin.get("/compute/v2.1/os-services").await;
    assert_eq!(services["services"][0]["status"], "disabled");
    let path = format!("/compute/v2.1/os-services/{}", text(&services["services"][0]["id"]));
    admin.must(200, "PUT", &path, json!({"status": "enabled"})).await;
    let two = json!({"server": {"name": "two", "imageRef": os, "flavorRef": small, "networks": "none", "min_count": 2,
                                "return_reservation_id": true}});
    assert!(demo.must(202, "POST", SERVERS, two).await["reservation_id"].is_string());
}

#[tokio::test]
async fn interfaces_come_and_go() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let net = crate::network(&demo, "10.9.0.0/24").await;
    let path = server(&demo, &os, &small, json!({"networks": [{"uuid": net}]})).await;
    let interfaces = format!("{path}/os-interface");
    let all = demo.get(&interfaces).await;
    let first = text(&all["interfaceAttachments"][0]["port_id"]).to_owned();
    let body = json!({"interfaceAttachment": {"net_id": net, "fixed_ips": [{"ip_address": "10.9.0.77"}], "tag": "db"}});
    let added = demo.must(200, "POST", &interfaces, body).await["interfaceAttachment"].clone();
    assert_eq!((&added["fixed_ips"][0]["ip_address"], &added["tag"]), (&json!("10.9.0.77"), &json!("db")));
    let bad = json!({"interfaceAttachment": {"net_id": net, "tag": "a/b"}});
    demo.must(400, "POST", &interfaces, bad).await;
    let second = text(&added["port_id"]).to_owned();
    let port = demo.get(&format!("/network/v2.0/ports/{second}")).await;
    let groups = port["port"]["security_groups"].as_array().map(Vec::len);
    assert_eq!(groups, Some(1), "a port without a group would be open to all: {port}");
    count(&demo, &interfaces, 2).await;
    let shown = demo.get(&format!("{interfaces}/{second}")).await;
    assert_eq!(shown["interfaceAttachment"]["tag"], "db");
    // One port has one address more, and again as many as before.
    let action = format!("{path}/action");
    let old = async |body: Value| demo.ask_as("compute 2.43", "POST", &action, body).await.status;
    assert_eq!(old(json!({"addFixedIp": {"networkId": net}})).await, 202);
    let all = demo.get(&interfaces).await["interfaceAttachments"].clone();
    let ips: Vec<&Value> =
        all.as_array().unwrap().iter().flat_map(|one| one["fixed_ips"].as_array().unwrap()).collect();
    assert_eq!(ips.len(), 3, "{all}");
    let port = all.as_array().unwrap().iter().find(|one| one["fixed_ips"][1].is_object()).unwrap();
    let added = port["fixed_ips"][1]["ip_address"].clone();
    assert_eq!(old(json!({"removeFixedIp": {"address": added}})).await, 202);
    assert_eq!(old(json!({"removeFixedIp": {"address": added}})).await, 400, "it has it no more");
    assert_eq!(old(json!({"removeFixedIp": {"address": "10.9.0.77"}})).await, 400, "its only one");
    // The first goes, and the second stays what it is.
    demo.must(202, "DELETE", &format!("{interfaces}/{first}"), Value::Null).await;
    count(&demo, &interfaces, 1).await;
    demo.must(404, "GET", &format!("/network/v2.0/ports/{first}"), Value::Null).await;
    demo.get(&format!("{interfaces}/{second}")).await;
    // A port of its own outlives its detachment.
    let made = demo.must(201, "POST", "/network/v2.0/ports", json!({"port": {"network_id": net}})).await;
    let own = text(&made["port"]["id"]).to_owned();
    demo.must(200, "POST", &interfaces, json!({"interfaceAttachment": {"port_id": own}})).await;
    count(&demo, &interfaces, 2).await;
    demo.must(400, "POST", &interfaces, json!({"interfaceAttachment": {"port_id": own}})).await;
    demo.must(202, "DELETE", &format!("{interfaces}/{own}"), Value::Null).await;
    count(&demo, &interfaces, 1).await;
    demo.get(&format!("/network/v2.0/ports/{own}")).await;
    demo.must(404, "DELETE", &format!("{interfaces}/{own}"), Value::Null).await;
}

/// Waits until a server has so many interfaces.
async fn count(client: &Client, path: &str, wanted: usize) {
    for _ in 0..300 {
        let all = client.get(path).await;
        if all["interfaceAttachments"].as_array().map(Vec::len) == Some(wanted) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{path} has not {wanted} interfaces: {}", client.get(path).await);
}
