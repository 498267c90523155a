//! What networks and the like are found by, where subnets get ranges from, and what operators look at.

use serde_json::{Value, json};

use super::outer::{FLOATING, ROUTERS, SUBNETS, outside};
use super::{PORTS, kind, lan};
use crate::support::client::{Client, tenant, text};
use crate::support::{PASSWORD, start};

const NETWORKS: &str = "/network/v2.0/networks";
const POOLS: &str = "/network/v2.0/subnetpools";

#[tokio::test]
async fn everything_is_found_by_its_tags() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let public = outside(&admin).await;
    let net = lan(&demo).await;
    let subnet = demo.get(&format!("{SUBNETS}?network_id={net}")).await["subnets"][0]["id"].clone();
    let make = async |path: &str, key: &str, fields: Value| {
        demo.must(201, "POST", &format!("/network/v2.0/{path}"), json!({key: fields})).await[key]["id"]
            .clone()
    };
    let all = [
        ("networks", json!(net)),
        ("subnets", subnet),
        ("ports", make("ports", "port", json!({"network_id": net})).await),
        ("routers", make("routers", "router", json!({"name": "r"})).await),
        (
            "floatingips",
            make("floatingips", "floatingip", json!({"floating_network_id": public["id"]})).await,
        ),
        ("security-groups", make("security-groups", "security_group", json!({"name": "g"})).await),
        (
            "subnetpools",
            make("subnetpools", "subnetpool", json!({"name": "p", "prefixes": ["10.9.0.0/16"]})).await,
        ),
    ];
    for (path, id) in &all {
        let at = format!("/network/v2.0/{path}/{}/tags", text(id));
        assert_eq!(demo.get(&at).await, json!({"tags": []}), "{path}");
        let added = demo.ask("PUT", &format!("{at}/red"), Value::Null).await;
        assert_eq!((added.status, added.body), (201, json!("")), "{path}");
        demo.must(204, "GET", &format!("{at}/red"), Value::Null).await;
        assert_eq!(kind(&demo.must(404, "GET", &format!("{at}/blue"), Value::Null).await), "TagNotFound");
        let set = demo.must(200, "PUT", &at, json!({"tags": ["blue", "a b"]})).await;
        assert_eq!(set, json!({"tags": ["blue", "a b"]}));
        demo.must(400, "PUT", &at, json!({"tags": ["x", "x"]})).await;
        let key = path.replace('-', "_");
        let found = async |filter: &str| {
            let found = demo.get(&format!("/network/v2.0/{path}?{filter}")).await;
            found[&key].as_array().is_some_and(|list| list.iter().any(|one| one["id"] == *id))
        };
        assert!(found("tags=blue,a%20b").await && !found("tags=blue,red").await, "{path}");
        assert!(found("tags-any=red,blue").await && !found("not-tags=blue").await, "{path}");
        demo.must(204, "DELETE", &format!("{at}/blue"), Value::Null).await;
        demo.must(404, "DELETE", &format!("{at}/blue"), Value::Null).await;
        demo.must(204, "DELETE", &at, Value::Null).await;
        assert_eq!(demo.get(&at).await, json!({"tags": []}), "{path}");
        other.must(404, "GET", &at, Value::Null).await;
    }
    // An external network's tags are its owner's to write.
    let at = format!("{NETWORKS}/{}/tags", text(&public["id"]));
    demo.must(403, "PUT", &format!("{at}/mine"), Value::Null).await;
    admin.must(201, "PUT", &format!("{at}/wan"), Value::Null).await;
    assert_eq!(demo.get(&at).await, json!({"tags": ["wan"]}));
}

#[tokio::test]
async fn lists_lead_on_and_back_by_pages() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let groups: Vec<Value> = ["a", "b", "c"].map(|name| json!({"security_group": {"name": name}})).to_vec();
    let made =
        demo.must(201, "POST", "/network/v2.0/security-groups", json!({"security_groups": groups})).await;
    assert_eq!(made["security_groups"][2]["name"], "c", "each may have its name around it");
    let names = |page: &Value| -> Vec<String> {
        let all = page["security_groups"].as_array().cloned().unwrap_or_default();
        all.iter().map(|group| text(&group["name"]).to_owned()).collect()
    };
    let link = |page: &Value, rel: &str| -> Option<String> {
        let links = page["security_groups_links"].as_array().cloned().unwrap_or_default();
        let found = links.iter().find(|link| link["rel"] == rel)?;
        Some(text(&found["href"]).trim_start_matches("https://cloud").to_owned())
    };
    let first = demo.get("/network/v2.0/security-groups?sort_key=name&limit=2").await;
    assert_eq!(names(&first), ["a", "b"]);
    let second = demo.get(&link(&first, "next").expect("a next page")).await;
    assert_eq!(names(&second), ["c", "default"]);
    let last = demo.get(&link(&second, "next").expect("a full page has one behind it")).await;
    assert_eq!((names(&last).len(), link(&last, "next")), (0, None));
    let back = demo.get(&link(&second, "previous").expect("a way back")).await;
    assert_eq!(names(&back), ["a", "b"]);
    let all = demo.get("/network/v2.0/security-groups?limit=0").await;
    assert_eq!((names(&all).len(), link(&all, "next")), (4, None));
    demo.must(400, "GET", "/network/v2.0/security-groups?limit=-1", Value::Null).await;
    // Subnets are found by whether their network is shared, which they do not show.
    let net =
        demo.must(201, "POST", NETWORKS, json!({"network": {"name": "n"}})).await["network"]["id"].clone();
    let body = json!({"subnet": {"network_id": net, "cidr": "10.9.0.0/24"}});
    demo.must(201, "POST", SUBNETS, body).await;
    let own = demo.get(&format!("{SUBNETS}?shared=False")).await["subnets"].clone();
    assert!(own.as_array().is_some_and(|all| all.len() == 1) && own[0].get("shared").is_none(), "{own}");
    assert_eq!(demo.get(&format!("{SUBNETS}?shared=True")).await["subnets"], json!([]));
}

#[tokio::test]
async fn subnets_get_ranges_from_pools() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let body = json!({"subnetpool": {"name": "p", "prefixes": ["10.8.0.0/23"], "default_prefixlen": "26", "max_prefixlen": 28}});
    let pool = demo.must(201, "POST", POOLS, body).await["subnetpool"].clone();
    assert_eq!((&pool["default_prefixlen"], &pool["project_id"]), (&json!("26"), &json!(project)));
    let at = format!("{POOLS}/{}", text(&pool["id"]));
    assert_eq!(kind(&other.must(404, "GET", &at, Value::Null).await), "SubnetPoolNotFound");
    assert_eq!(demo.get(&format!("{POOLS}?name=p")).await["subnetpools"][0], pool);
    let net =
        demo.must(201, "POST", NETWORKS, json!({"network": {"name": "n"}})).await["network"]["id"].clone();
    let subnet = |more: Value| {
        let mut body = json!({"network_id": net, "subnetpool_id": pool["id"], "ip_version": 4});
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        json!({"subnet": body})
    };
    let first = demo.must(201, "POST", SUBNETS, subnet(json!({}))).await["subnet"].clone();
    assert_eq!((&first["cidr"], &first["subnetpool_id"]), (&json!("10.8.0.0/26"), &pool["id"]));
    let second = demo.must(201, "POST", SUBNETS, subnet(json!({"prefixlen": 24}))).await["subnet"].clone();
    assert_eq!((&second["cidr"], &second["gateway_ip"]), (&json!("10.8.1.0/24"), &json!("10.8.1.1")));
    let listed = demo.get(&format!("{SUBNETS}?subnetpool_id={}", text(&pool["id"]))).await;
    assert_eq!(listed["subnets"].as_array().map(Vec::len), Some(2));
    // What is named must be of the pool, and nobody else's.
    demo.must(400, "POST", SUBNETS, subnet(json!({"cidr": "10.10.0.0/26"}))).await;
    demo.must(400, "POST", SUBNETS, subnet(json!({"cidr": "10.8.0.32/28"}))).await;
    demo.must(400, "POST", SUBNETS, subnet(json!({"prefixlen": 24, "cidr": "10.8.0.64/28"}))).await;
    let long = demo.must(400, "POST", SUBNETS, subnet(json!({"prefixlen": 29}))).await;
    assert_eq!(kind(&long), "MaxPrefixSubnetAllocationError");
    let full = demo.must(409, "POST", SUBNETS, subnet(json!({"prefixlen": 24}))).await;
    assert_eq!(kind(&full), "SubnetAllocationError");
    // The pool keeps what it has given.
    assert_eq!(kind(&demo.must(400, "DELETE", &at, Value::Null).await), "SubnetPoolDeleteError");
    let less = demo.must(400, "PUT", &at, json!({"subnetpool": {"prefixes": ["10.8.0.0/24"]}})).await;
    assert_eq!(kind(&less), "IllegalSubnetPoolPrefixUpdate");
    let more = json!({"subnetpool": {"prefixes": ["10.8.0.0/23", "10.11.0.0/24"], "name": "q", "default_quota": 600}});
    let more = demo.must(200, "PUT", &at, more).await;
    assert_eq!(more["subnetpool"]["name"], "q");
    demo.must(201, "POST", SUBNETS, subnet(json!({"prefixlen": 24}))).await;
    let over = demo.must(409, "POST", SUBNETS, subnet(json!({}))).await;
    assert!(text(&over["NeutronError"]["message"]).contains("quota exceeded"), "{over}");
    for subnet in demo.get(SUBNETS).await["subnets"].as_array().cloned().unwrap_or_default() {
        demo.must(204, "DELETE", &format!("{SUBNETS}/{}", text(&subnet["id"])), Value::Null).await;
    }
    demo.must(204, "DELETE", &at, Value::Null).await;
}

#[tokio::test]
async fn of_subnets_made_at_once_no_two_have_a_range_of_a_pool() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let body = json!({"subnetpool": {"prefixes": ["10.8.0.0/24"], "default_prefixlen": 27}});
    let pool = demo.must(201, "POST", POOLS, body).await["subnetpool"]["id"].clone();
    let mut making = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let net = demo.must(201, "POST", NETWORKS, json!({"network": {}})).await["network"]["id"].clone();
        let (demo, pool) = (demo.clone(), pool.clone());
        making.spawn(async move {
            let body = json!({"subnet": {"network_id": net, "subnetpool_id": pool, "ip_version": 4}});
            text(&demo.must(201, "POST", SUBNETS, body).await["subnet"]["cidr"]).to_owned()
        });
    }
    let mut ranges = making.join_all().await;
    ranges.sort();
    ranges.dedup();
    assert_eq!(ranges.len(), 8, "{ranges:?}");
}

#[tokio::test]
async fn nodes_are_agents_to_operators_alone() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let agents = admin.get("/network/v2.0/agents").await["agents"].clone();
    assert_eq!((&agents[0]["alive"], &agents[0]["binary"]), (&json!(true), &json!("yunfan-agent")));
    let one = format!("/network/v2.0/agents/{}", text(&agents[0]["id"]));
    assert_eq!(admin.get(&one).await["agent"], agents[0]);
    assert_eq!(demo.get("/network/v2.0/agents").await["agents"], json!([]));
    demo.must(404, "GET", &one, Value::Null).await;
    let zones = demo.get("/network/v2.0/availability_zones?resource=router").await;
    assert_eq!(zones["availability_zones"][0]["name"], "nova");
    assert_eq!(demo.get("/network/v2.0/service-providers").await["service_providers"], json!([]));
}

#[tokio::test]
async fn what_is_taken_or_unknown_is_said_as_neutron_says_it() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let net = lan(&demo).await;
    demo.must(400, "GET", &format!("{NETWORKS}?nmae=lan"), Value::Null).await;
    let again = json!({"subnet": {"network_id": net, "cidr": "10.3.0.0/25"}});
    let again = demo.must(400, "POST", SUBNETS, again).await;
    // Clients look for these words.
    assert!(text(&again["NeutronError"]["message"]).contains("overlaps with another subnet"), "{again}");
    let body = |more: Value| json!({"port": {"network_id": net, "fixed_ips": [{"ip_address": "10.3.0.9"}], "mac_address": more}});
    demo.must(201, "POST", PORTS, body(json!("fa:16:3e:00:00:01"))).await;
    let twice = demo.must(409, "POST", PORTS, body(Value::Null)).await;
    assert_eq!(kind(&twice), "IpAddressAlreadyAllocated");
    let twice = json!({"port": {"network_id": net, "mac_address": "fa:16:3e:00:00:01"}});
    assert_eq!(kind(&demo.must(409, "POST", PORTS, twice).await), "MacAddressInUse");

    // What a router's port has already is no change.
    let subnet = demo.get(&format!("{SUBNETS}?network_id={net}")).await["subnets"][0]["id"].clone();
    let router = demo.must(201, "POST", ROUTERS, json!({"router": {}})).await["router"]["id"].clone();
    let at = format!("{ROUTERS}/{}/add_router_interface", text(&router));
    let place = demo.must(200, "PUT", &at, json!({"subnet_id": subnet})).await["port_id"].clone();
    let at = format!("{PORTS}/{}", text(&place));
    let same = demo.must(200, "PUT", &at, json!({"port": {"fixed_ips": [{"subnet_id": subnet}]}})).await;
    assert_eq!(same["port"]["fixed_ips"][0]["ip_address"], "10.3.0.1");
    let other = json!({"port": {"fixed_ips": [{"subnet_id": subnet, "ip_address": "10.3.0.77"}]}});
    assert_eq!(kind(&demo.must(409, "PUT", &at, other).await), "PortInUse");
}

#[tokio::test]
async fn an_external_network_goes_with_floating_ips_that_lead_nowhere() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let public = outside(&admin).await;
    let body = json!({"floatingip": {"floating_network_id": public["id"]}});
    demo.must(201, "POST", FLOATING, body.clone()).await;
    let gateway = json!({"router": {"external_gateway_info": {"network_id": public["id"]}}});
    let router = demo.must(201, "POST", ROUTERS, gateway).await["router"]["id"].clone();
    let at = format!("{NETWORKS}/{}", text(&public["id"]));
    assert_eq!(kind(&admin.must(409, "DELETE", &at, Value::Null).await), "NetworkInUse");
    assert_eq!(demo.get(FLOATING).await["floatingips"].as_array().map(Vec::len), Some(1), "all is as it was");
    demo.must(204, "DELETE", &format!("{ROUTERS}/{}", text(&router)), Value::Null).await;
    demo.must(403, "DELETE", &at, Value::Null).await;
    admin.must(204, "DELETE", &at, Value::Null).await;
    assert_eq!(demo.get(FLOATING).await["floatingips"], json!([]));
}
