//! Address scopes, and subnet pools that projects share.

use serde_json::{Value, json};

use super::kind;
use crate::support::client::{Client, tenant, text};
use crate::support::{PASSWORD, start};

const SCOPES: &str = "/network/v2.0/address-scopes";
const POOLS: &str = "/network/v2.0/subnetpools";
const NETWORKS: &str = "/network/v2.0/networks";
const SUBNETS: &str = "/network/v2.0/subnets";
const POLICIES: &str = "/network/v2.0/rbac-policies";

fn shared(what: &str, id: &Value, project: &str) -> Value {
    json!({"rbac_policy": {"object_type": what, "object_id": id, "action": "access_as_shared", "target_tenant": project}})
}

async fn network(client: &Client) -> Value {
    client.must(201, "POST", NETWORKS, json!({"network": {"name": "n"}})).await["network"]["id"].clone()
}

fn of(network: &Value, pool: &Value) -> Value {
    json!({"subnet": {"network_id": network, "ip_version": 4, "subnetpool_id": pool}})
}

#[tokio::test]
async fn pools_are_in_scopes_that_their_project_may_use() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let scope = json!({"address_scope": {"name": "s", "ip_version": 4}});
    let scope = admin.must(201, "POST", SCOPES, scope).await["address_scope"].clone();
    assert_eq!((&scope["ip_version"], &scope["shared"]), (&json!(4), &json!(false)));
    let at = format!("{SCOPES}/{}", text(&scope["id"]));
    assert_eq!(kind(&demo.must(404, "GET", &at, Value::Null).await), "AddressScopeNotFound");
    let policy = admin.must(201, "POST", POLICIES, shared("address_scope", &scope["id"], &project)).await;
    let policy = format!("{POLICIES}/{}", text(&policy["rbac_policy"]["id"]));
    let seen = demo.get(&at).await["address_scope"].clone();
    assert_eq!((&seen["shared"], &seen["project_id"]), (&json!(true), &scope["project_id"]));
    assert_eq!(demo.get(SCOPES).await["address_scopes"].as_array().map(Vec::len), Some(1));
    assert_eq!(other.get(SCOPES).await["address_scopes"], json!([]));
    demo.must(403, "PUT", &at, json!({"address_scope": {"name": "mine"}})).await;
    let own = json!({"address_scope": {"ip_version": 4, "shared": true}});
    demo.must(403, "POST", SCOPES, own).await;

    let pool = |prefix: &str| json!({"subnetpool": {"name": "p", "prefixes": [prefix], "default_prefixlen": 26, "address_scope_id": scope["id"]}});
    let first = demo.must(201, "POST", POOLS, pool("10.8.0.0/24")).await["subnetpool"].clone();
    assert_eq!(first["address_scope_id"], scope["id"]);
    let twice = demo.must(409, "POST", POOLS, pool("10.8.0.0/25")).await;
    assert_eq!(kind(&twice), "AddressScopePrefixConflict");
    let six =
        json!({"subnetpool": {"name": "6", "prefixes": ["fd00::/48"], "address_scope_id": scope["id"]}});
    let six = demo.must(400, "POST", POOLS, six).await;
    assert_eq!(kind(&six), "IllegalSubnetPoolIpVersionAssociationToAddressScope");
    assert_eq!(kind(&other.must(404, "POST", POOLS, pool("10.9.0.0/24")).await), "AddressScopeNotFound");
    let second = demo.must(201, "POST", POOLS, pool("10.9.0.0/24")).await["subnetpool"].clone();
    let plain = json!({"subnetpool": {"name": "q", "prefixes": ["10.10.0.0/24"], "default_prefixlen": 26}});
    let plain = demo.must(201, "POST", POOLS, plain).await["subnetpool"].clone();

    let net = network(&demo).await;
    demo.must(201, "POST", SUBNETS, of(&net, &first["id"])).await;
    let shown = demo.get(&format!("{NETWORKS}/{}", text(&net))).await["network"].clone();
    assert_eq!((&shown["ipv4_address_scope"], &shown["ipv6_address_scope"]), (&scope["id"], &Value::Null));
    let none = json!({"subnet": {"network_id": net, "cidr": "10.20.0.0/24", "ip_version": 4}});
    assert_eq!(kind(&demo.must(400, "POST", SUBNETS, none).await), "NetworkSubnetPoolAffinityError");
    let outside = demo.must(400, "POST", SUBNETS, of(&net, &plain["id"])).await;
    assert_eq!(kind(&outside), "NetworkAddressScopeAffinityError");
    demo.must(201, "POST", SUBNETS, of(&net, &second["id"])).await;
    // What is in use stays as it is.
    assert_eq!(kind(&admin.must(409, "DELETE", &at, Value::Null).await), "AddressScopeInUse");
    assert_eq!(kind(&admin.must(409, "DELETE", &policy, Value::Null).await), "RbacPolicyInUse");
    let out = json!({"subnetpool": {"address_scope_id": null}});
    let first_at = format!("{POOLS}/{}", text(&first["id"]));
    let refused = demo.must(400, "PUT", &first_at, out.clone()).await;
    assert_eq!(kind(&refused), "NetworkAddressScopeAffinityError");
    demo.must(204, "DELETE", &format!("{NETWORKS}/{}", text(&net)), Value::Null).await;
    assert_eq!(demo.must(200, "PUT", &first_at, out).await["subnetpool"]["address_scope_id"], Value::Null);
    demo.must(204, "DELETE", &format!("{POOLS}/{}", text(&second["id"])), Value::Null).await;
    let turned = admin.must(200, "PUT", &at, json!({"address_scope": {"shared": true, "name": "all"}})).await;
    assert_eq!(turned["address_scope"]["shared"], true);
    let back = admin.must(400, "PUT", &at, json!({"address_scope": {"shared": false}})).await;
    assert_eq!(kind(&back), "AddressScopeUpdateError");
    admin.must(204, "DELETE", &at, Value::Null).await;
}

#[tokio::test]
async fn pools_are_shared_and_one_is_the_default() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, others) = tenant(&cloud, &admin, "other").await;
    let pool = |more: Value| {
        let mut fields = json!({"name": "p", "prefixes": ["10.8.0.0/24"], "default_prefixlen": 26});
        fields.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        json!({"subnetpool": fields})
    };
    for wish in ["shared", "is_default"] {
        demo.must(403, "POST", POOLS, pool(json!({wish: true}))).await;
    }
    let nets = (network(&demo).await, network(&other).await);
    let default = |network: &Value| json!({"subnet": {"network_id": network, "ip_version": 4, "use_default_subnetpool": true}});
    assert_eq!(kind(&demo.must(400, "POST", SUBNETS, default(&nets.0)).await), "BadRequest");
    let all = pool(json!({"shared": true, "is_default": true}));
    let all = admin.must(201, "POST", POOLS, all).await["subnetpool"].clone();
    assert_eq!((&all["shared"], &all["is_default"]), (&json!(true), &json!(true)));
    assert_eq!(
        kind(&admin.must(400, "POST", POOLS, pool(json!({"is_default": true}))).await),
        "InvalidInput"
    );
    let at = format!("{POOLS}/{}", text(&all["id"]));
    assert_eq!(demo.get(&at).await["subnetpool"]["project_id"], all["project_id"]);
    demo.must(403, "PUT", &at, json!({"subnetpool": {"name": "mine"}})).await;
    let one = demo.must(201, "POST", SUBNETS, default(&nets.0)).await["subnet"].clone();
    let two = other.must(201, "POST", SUBNETS, of(&nets.1, &all["id"])).await["subnet"].clone();
    assert_eq!((&one["cidr"], &two["cidr"]), (&json!("10.8.0.0/26"), &json!("10.8.0.64/26")));
    let listed = demo.get(&format!("{SUBNETS}?subnetpool_id={}", text(&all["id"]))).await;
    assert_eq!(listed["subnets"].as_array().map(Vec::len), Some(1), "{listed}");
    let same = json!({"subnet": {"network_id": network(&other).await, "ip_version": 4, "cidr": "10.8.0.0/26", "subnetpool_id": all["id"]}});
    other.must(400, "POST", SUBNETS, same).await;
    assert_eq!(kind(&admin.must(400, "DELETE", &at, Value::Null).await), "SubnetPoolDeleteError");

    // For single projects, until they use it.
    let few = json!({"subnetpool": {"name": "f", "prefixes": ["10.9.0.0/24"], "default_prefixlen": 26}});
    let few = demo.must(201, "POST", POOLS, few).await["subnetpool"].clone();
    let few_at = format!("{POOLS}/{}", text(&few["id"]));
    assert_eq!(kind(&other.must(404, "GET", &few_at, Value::Null).await), "SubnetPoolNotFound");
    let policy = demo.must(201, "POST", POLICIES, shared("subnetpool", &few["id"], &others)).await;
    assert_eq!(policy["rbac_policy"]["project_id"], project.as_str());
    let policy = format!("{POLICIES}/{}", text(&policy["rbac_policy"]["id"]));
    assert_eq!(other.get(&few_at).await["subnetpool"]["shared"], true);
    let again = other.must(400, "POST", POLICIES, shared("subnetpool", &few["id"], &project)).await;
    assert_eq!(kind(&again), "InvalidInput");
    let net = network(&other).await;
    let subnet = other.must(201, "POST", SUBNETS, of(&net, &few["id"])).await["subnet"].clone();
    assert_eq!(kind(&demo.must(409, "DELETE", &policy, Value::Null).await), "RbacPolicyInUse");
    other.must(204, "DELETE", &format!("{SUBNETS}/{}", text(&subnet["id"])), Value::Null).await;
    demo.must(204, "DELETE", &policy, Value::Null).await;
    other.must(404, "GET", &few_at, Value::Null).await;
}
