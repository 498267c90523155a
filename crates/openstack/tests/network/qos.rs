//! Neutron: how much ports take and send, and who may use which policy.

use kube::api::Api as Objects;
use serde_json::{Value, json};
use yunfan_resources::network::{Network, NetworkSpec, Port, QosPolicy};

use super::{PORTS, kind, lan};
use crate::support::client::{Client, tenant, text};
use crate::support::{PASSWORD, start};

const NETWORKS: &str = "/network/v2.0/networks";
const POLICIES: &str = "/network/v2.0/qos/policies";
const SHARES: &str = "/network/v2.0/rbac-policies";

async fn policy(admin: &Client, fields: Value) -> Value {
    admin.must(201, "POST", POLICIES, json!({ "policy": fields })).await["policy"].clone()
}

fn at(policy: &Value) -> String {
    format!("{POLICIES}/{}", text(&policy["id"]))
}

#[tokio::test]
async fn rules_of_policies_are_made_changed_and_found() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let gold = policy(&admin, json!({"name": "gold", "description": "d", "project_id": project})).await;
    assert_eq!(
        (&gold["shared"], &gold["is_default"], &gold["rules"]),
        (&json!(false), &json!(false), &json!([]))
    );
    let limits = format!("{}/bandwidth_limit_rules", at(&gold));
    let body = |fields: Value| json!({ "bandwidth_limit_rule": fields });
    let fast = body(json!({"max_kbps": 2000, "max_burst_kbps": 300, "direction": "ingress"}));
    let rule = admin.must(201, "POST", &limits, fast.clone()).await["bandwidth_limit_rule"].clone();
    let wanted = json!({"id": rule["id"], "max_kbps": 2000, "max_burst_kbps": 300, "direction": "ingress"});
    assert_eq!(rule, wanted);
    assert_eq!(kind(&admin.must(409, "POST", &limits, fast).await), "QoSRulesConflict");
    admin.must(201, "POST", &limits, body(json!({"max_kbps": 1000}))).await;
    let marks = format!("{}/dscp_marking_rules", at(&gold));
    for (mark, status) in [(57, 400), (42, 400), (26, 201), (28, 409)] {
        admin.must(status, "POST", &marks, json!({"dscp_marking_rule": {"dscp_mark": mark}})).await;
    }
    // What no node carries out is not taken.
    let least = format!("{}/minimum_bandwidth_rules", at(&gold));
    let refused = admin.must(400, "POST", &least, json!({"minimum_bandwidth_rule": {"min_kbps": 1}})).await;
    assert_eq!(kind(&refused), "QosRuleNotSupported");
    assert_eq!(admin.get(&least).await, json!({"minimum_bandwidth_rules": []}));
    let types = demo.get("/network/v2.0/qos/rule-types").await;
    assert_eq!(types["rule_types"], json!([{"type": "bandwidth_limit"}, {"type": "dscp_marking"}]));
    demo.must(403, "GET", "/network/v2.0/qos/rule-types/dscp_marking", Value::Null).await;
    admin.get("/network/v2.0/qos/rule-types/dscp_marking").await;

    // By the policy, and by itself.
    let one = format!("{limits}/{}", text(&rule["id"]));
    let slow = body(json!({"max_kbps": 1500}));
    let changed = admin.must(200, "PUT", &one, slow).await["bandwidth_limit_rule"].clone();
    assert_eq!((&changed["max_kbps"], &changed["max_burst_kbps"]), (&json!(1500), &json!(300)));
    let other_way = body(json!({"direction": "egress"}));
    assert_eq!(kind(&admin.must(409, "PUT", &one, other_way).await), "QoSRulesConflict");
    let alias = format!("/network/v2.0/qos/alias_bandwidth_limit_rules/{}", text(&rule["id"]));
    assert_eq!(demo.get(&alias).await["alias_bandwidth_limit_rule"], changed);
    let shown = demo.get(&at(&gold)).await["policy"].clone();
    let types: Vec<&Value> = shown["rules"].as_array().unwrap().iter().map(|rule| &rule["type"]).collect();
    assert_eq!(types, ["bandwidth_limit", "bandwidth_limit", "dscp_marking"]);
    assert_eq!(shown["rules"][0]["qos_policy_id"], gold["id"]);
    // It is the cloud's admin who makes them, also for a project of its own.
    demo.must(403, "POST", POLICIES, json!({"policy": {"name": "mine"}})).await;
    demo.must(403, "PUT", &at(&gold), json!({"policy": {"description": "x"}})).await;
    demo.must(403, "PUT", &one, body(json!({"max_kbps": 9}))).await;
    demo.must(403, "DELETE", &one, Value::Null).await;
    demo.must(403, "POST", &format!("{POLICIES}/nope/bandwidth_limit_rules"), body(json!({"max_kbps": 1})))
        .await;
    admin.must(204, "DELETE", &one, Value::Null).await;
    assert_eq!(kind(&admin.must(404, "GET", &one, Value::Null).await), "QosRuleNotFound");
    let objects = Objects::<QosPolicy>::all(cloud.system.clone());
    assert_eq!(objects.get("gold").await.unwrap().spec.rules.len(), 2);
    admin.must(204, "DELETE", &at(&gold), Value::Null).await;
    assert_eq!(kind(&admin.must(404, "GET", &at(&gold), Value::Null).await), "QosPolicyNotFound");
}

#[tokio::test]
async fn ports_and_networks_have_policies_that_stay_while_they_do() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let gold = policy(&admin, json!({"name": "gold", "project_id": project})).await;
    let net = lan(&demo).await;
    let body = json!({"port": {"network_id": net, "qos_policy_id": gold["id"]}});
    let port = demo.must(201, "POST", PORTS, body).await["port"].clone();
    assert_eq!((&port["qos_policy_id"], &port["qos_network_policy_id"]), (&gold["id"], &Value::Null));
    let ports = Objects::<Port>::namespaced(cloud.system.clone(), "demo");
    let stored = ports.list(&Default::default()).await.unwrap().items;
    assert_eq!(stored[0].spec.qos_policy.as_deref(), Some("gold"));
    assert_eq!(kind(&admin.must(409, "DELETE", &at(&gold), Value::Null).await), "QosPolicyInUse");
    let network = format!("{NETWORKS}/{net}");
    let set = json!({"network": {"qos_policy_id": gold["id"]}});
    assert_eq!(demo.must(200, "PUT", &network, set).await["network"]["qos_policy_id"], gold["id"]);
    let none = json!({"port": {"qos_policy_id": null}});
    let shown = demo.must(200, "PUT", &format!("{PORTS}/{}", text(&port["id"])), none).await["port"].clone();
    assert_eq!((&shown["qos_policy_id"], &shown["qos_network_policy_id"]), (&Value::Null, &gold["id"]));
    assert_eq!(kind(&admin.must(409, "DELETE", &at(&gold), Value::Null).await), "QosPolicyInUse");

    // Another project's is not there for it, by neither door.
    other.must(404, "GET", &at(&gold), Value::Null).await;
    assert_eq!(other.get(POLICIES).await, json!({"policies": []}));
    let taken = json!({"network": {"name": "n", "qos_policy_id": gold["id"]}});
    assert_eq!(kind(&other.must(404, "POST", NETWORKS, taken).await), "QosPolicyNotFound");

    // What the admin gave of its own, a project keeps.
    let iron = policy(&admin, json!({"name": "iron"})).await;
    admin.must(200, "PUT", &network, json!({"network": {"qos_policy_id": iron["id"]}})).await;
    assert_eq!(demo.get(&network).await["network"]["qos_policy_id"], iron["id"]);
    let none = json!({"network": {"qos_policy_id": null}});
    demo.must(403, "PUT", &network, none.clone()).await;
    demo.must(200, "PUT", &network, json!({"network": {"name": "renamed"}})).await;
    demo.must(201, "POST", PORTS, json!({"port": {"network_id": net}})).await;
    admin.must(200, "PUT", &at(&iron), json!({"policy": {"shared": true}})).await;
    assert_eq!(demo.must(200, "PUT", &network, none).await["network"]["qos_policy_id"], Value::Null);
    admin.must(204, "DELETE", &at(&iron), Value::Null).await;
    admin.must(204, "DELETE", &at(&gold), Value::Null).await;
}

#[tokio::test]
async fn new_networks_of_a_project_have_its_default_policy() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let usual = policy(&admin, json!({"name": "usual", "project_id": project, "is_default": true})).await;
    let more = policy(&admin, json!({"name": "more", "project_id": project})).await;
    let second = admin.must(409, "PUT", &at(&more), json!({"policy": {"is_default": true}})).await;
    assert_eq!(kind(&second), "QoSPolicyDefaultAlreadyExists");
    let made = demo.must(201, "POST", NETWORKS, json!({"network": {"name": "a"}})).await["network"].clone();
    assert_eq!(made["qos_policy_id"], usual["id"]);
    let named = json!({"network": {"name": "b", "qos_policy_id": more["id"]}});
    assert_eq!(demo.must(201, "POST", NETWORKS, named).await["network"]["qos_policy_id"], more["id"]);
    let path = format!("{NETWORKS}/{}", text(&made["id"]));
    let none = json!({"network": {"qos_policy_id": null}});
    assert_eq!(demo.must(200, "PUT", &path, none).await["network"]["qos_policy_id"], Value::Null);
    // However a network is made.
    let networks = Objects::<Network>::namespaced(cloud.system.clone(), "demo");
    let network = Network::new("c", NetworkSpec { mtu: 1450, ..Default::default() });
    let made = networks.create(&Default::default(), &network).await.unwrap();
    assert_eq!(made.spec.qos_policy.as_deref(), Some("usual"));
}

#[tokio::test]
async fn policies_are_shared_with_projects_until_they_use_them() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, elsewhere) = tenant(&cloud, &admin, "other").await;
    let gold = policy(&admin, json!({"name": "gold"})).await;
    let body = |target: &str| {
        json!({"rbac_policy": {"object_type": "qos_policy", "object_id": gold["id"], "action": "access_as_shared",
            "target_tenant": target}})
    };
    demo.must(404, "GET", &at(&gold), Value::Null).await;
    let share = admin.must(201, "POST", SHARES, body(&project)).await["rbac_policy"].clone();
    assert_eq!((&share["target_tenant"], &share["object_id"]), (&json!(project), &gold["id"]));
    assert_eq!(kind(&admin.must(409, "POST", SHARES, body(&project)).await), "DuplicateRbacPolicy");
    assert_eq!(demo.get(&at(&gold)).await["policy"]["shared"], true);
    other.must(404, "GET", &at(&gold), Value::Null).await;
    // Whom it is shared with shares it with nobody, and does not see with whom it is.
    demo.must(400, "POST", SHARES, body(&elsewhere)).await;
    assert_eq!(demo.get(SHARES).await, json!({"rbac_policies": []}));
    let path = format!("{SHARES}/{}", text(&share["id"]));
    assert_eq!(kind(&demo.must(404, "GET", &path, Value::Null).await), "RbacPolicyNotFound");
    let mut network = json!({"network": {"name": "n", "qos_policy_id": gold["id"]}});
    let net = demo.must(201, "POST", NETWORKS, network.clone()).await["network"]["id"].clone();
    assert_eq!(kind(&admin.must(409, "DELETE", &path, Value::Null).await), "RbacPolicyInUse");
    let to_other = json!({"rbac_policy": {"target_tenant": elsewhere}});
    assert_eq!(kind(&admin.must(409, "PUT", &path, to_other.clone()).await), "RbacPolicyInUse");
    // With everybody it is also with demo.
    let all = admin.must(201, "POST", SHARES, body("*")).await["rbac_policy"].clone();
    assert_eq!(admin.get(&at(&gold)).await["policy"]["shared"], true);
    admin.must(200, "PUT", &path, to_other).await;
    admin.must(204, "DELETE", &path, Value::Null).await;
    let unshared = admin.must(409, "PUT", &at(&gold), json!({"policy": {"shared": false}})).await;
    assert_eq!(kind(&unshared), "QosPolicyInUse");
    let all = format!("{SHARES}/{}", text(&all["id"]));
    assert_eq!(kind(&admin.must(409, "DELETE", &all, Value::Null).await), "RbacPolicyInUse");
    demo.must(204, "DELETE", &format!("{NETWORKS}/{}", text(&net)), Value::Null).await;
    admin.must(204, "DELETE", &all, Value::Null).await;
    demo.must(404, "GET", &at(&gold), Value::Null).await;
    network["network"]["name"] = json!("again");
    demo.must(404, "POST", NETWORKS, network).await;
    // Security groups are not shared so.
    let group = json!({"rbac_policy": {"object_type": "security_group", "object_id": "x", "action": "access_as_shared",
        "target_tenant": "*"}});
    admin.must(400, "POST", SHARES, group).await;
}
