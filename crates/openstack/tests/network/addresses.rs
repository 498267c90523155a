//! Neutron: sets of addresses that rules of security groups speak of.

use kube::api::Api as Objects;
use serde_json::{Value, json};
use yunfan_resources::network::{AddressGroup, SecurityGroup};

use super::{GROUPS, RULES, kind};
use crate::support::client::{Client, tenant, text};
use crate::support::{PASSWORD, start};

const SETS: &str = "/network/v2.0/address-groups";

#[tokio::test]
async fn rules_speak_of_address_groups_that_stay_while_they_do() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let body = |addresses: Value| json!({"address_group": {"name": "office", "addresses": addresses}});
    demo.must(400, "POST", SETS, body(json!(["10.20.30.40"]))).await;
    let made = demo.must(201, "POST", SETS, body(json!(["192.0.2.9/24", "2001:db8::1/64"]))).await;
    let set = made["address_group"].clone();
    assert_eq!(set["addresses"], json!(["192.0.2.0/24", "2001:db8::/64"]));
    assert_eq!((&set["project_id"], &set["name"]), (&json!(project), &json!("office")));
    let at = format!("{SETS}/{}", text(&set["id"]));
    let change = |addresses: Value| json!({ "addresses": addresses });
    let more = demo.must(200, "PUT", &format!("{at}/add_addresses"), change(json!(["10.7.0.0/16"]))).await;
    assert_eq!(more["address_group"]["addresses"].as_array().map(Vec::len), Some(3));
    let gone = format!("{at}/remove_addresses");
    let absent = demo.must(404, "PUT", &gone, change(json!(["10.8.0.0/16"]))).await;
    assert_eq!(kind(&absent), "AddressGroupAddressesNotFound");
    demo.must(400, "PUT", &gone, change(json!(["bad"]))).await;
    let within = json!({"address_group": {"addresses": ["10.7.0.0/16"]}});
    demo.must(200, "PUT", &gone, within).await;
    let named = demo.must(200, "PUT", &at, json!({"address_group": {"description": "d"}})).await;
    assert_eq!(named["address_group"]["addresses"], set["addresses"]);
    assert_eq!(kind(&other.must(404, "GET", &at, Value::Null).await), "AddressGroupNotFound");

    let group = demo.must(201, "POST", GROUPS, json!({"security_group": {"name": "web"}})).await;
    let rule = |more: Value| {
        let mut rule = json!({"security_group_id": group["security_group"]["id"], "direction": "ingress",
            "remote_address_group_id": set["id"]});
        rule.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
        json!({ "security_group_rule": rule })
    };
    let both = demo.must(400, "POST", RULES, rule(json!({"remote_ip_prefix": "10.0.0.0/8"}))).await;
    assert_eq!(kind(&both), "SecurityGroupMultipleRemoteEntites");
    let made = demo.must(201, "POST", RULES, rule(json!({}))).await["security_group_rule"].clone();
    assert_eq!(made["remote_address_group_id"], set["id"]);
    assert_eq!(demo.get(&format!("{RULES}/{}", text(&made["id"]))).await["security_group_rule"], made);
    assert_eq!(kind(&demo.must(409, "POST", RULES, rule(json!({}))).await), "SecurityGroupRuleExists");
    let groups = Objects::<SecurityGroup>::namespaced(cloud.system.clone(), "demo");
    let stored = groups.get("web").await.unwrap();
    assert!(stored.spec.rules.iter().any(|rule| rule.remote_address_group.as_deref() == Some("office")));
    // A rule is about what is its own project's, and what it speaks of stays, by either door.
    assert_eq!(kind(&demo.must(409, "DELETE", &at, Value::Null).await), "AddressGroupInUse");
    let sets = Objects::<AddressGroup>::namespaced(cloud.system.clone(), "demo");
    let kept = sets.delete("office", &Default::default()).await.unwrap_err().to_string();
    assert!(kept.contains("SecurityGroup web"), "{kept}");
    let theirs = other.must(201, "POST", GROUPS, json!({"security_group": {"name": "web"}})).await;
    let stolen = rule(json!({"security_group_id": theirs["security_group"]["id"]}));
    assert_eq!(kind(&other.must(404, "POST", RULES, stolen).await), "AddressGroupNotFound");
    demo.must(204, "DELETE", &format!("{RULES}/{}", text(&made["id"])), Value::Null).await;
    demo.must(204, "DELETE", &at, Value::Null).await;
    demo.must(404, "GET", &at, Value::Null).await;
}
