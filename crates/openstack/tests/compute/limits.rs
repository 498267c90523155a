//! Limits of projects: their own, the default ones, and those that bound single servers and groups.

use serde_json::{Value, json};

use super::{SERVERS, server};
use crate::support::client::{Client, flavor, image, tenant, text};
use crate::support::{PASSWORD, start};

const CLASS: &str = "/compute/v2.1/os-quota-class-sets/default";

/// Waits until a project's limit is so.
async fn becomes(client: &Client, set: &str, name: &str, limit: i64) {
    for _ in 0..300 {
        if client.get(set).await["quota_set"][name] == limit {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{name} is not {limit}: {}", client.get(set).await);
}

#[tokio::test]
async fn default_limits_hold_where_a_project_says_nothing_else() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let set = format!("/compute/v2.1/os-quota-sets/{project}");
    demo.must(403, "PUT", CLASS, json!({"quota_class_set": {"cores": 1}})).await;
    admin.must(400, "PUT", CLASS, json!({"quota_class_set": {"floating_ips": 1}})).await;
    let limits = json!({"quota_class_set": {"cores": 2, "metadata_items": 1, "key_pairs": 1, "server_group_members": 1}});
    let told = admin.must(200, "PUT", CLASS, limits).await["quota_class_set"].clone();
    assert_eq!((&told["cores"], &told["ram"]), (&json!(2), &json!(-1)));
    assert_eq!(demo.get(&format!("{set}/defaults")).await["quota_set"]["cores"], 2);
    becomes(&demo, &set, "cores", 2).await;
    // Whose a project is that is not there, Nova asks nobody.
    let unknown = admin.get("/compute/v2.1/limits?tenant_id=none").await["limits"]["absolute"].clone();
    assert_eq!((&unknown["maxTotalCores"], &unknown["totalCoresUsed"]), (&json!(2), &json!(0)));
    let old = admin.ask_as("compute 2.1", "GET", "/compute/v2.1/limits", Value::Null).await.body;
    let old = &old["limits"]["absolute"];
    assert_eq!((&old["maxPersonality"], &old["maxPersonalitySize"]), (&json!(5), &json!(10_240)));
    demo.must(403, "GET", "/compute/v2.1/limits?tenant_id=none", Value::Null).await;
    // A project that comes later has them from the start.
    let (late, of_late) = tenant(&cloud, &admin, "late").await;
    assert_eq!(late.get(&format!("/compute/v2.1/os-quota-sets/{of_late}")).await["quota_set"]["cores"], 2);

    let spec = |more: Value| {
        let mut server = json!({"name": "web", "imageRef": os, "flavorRef": small, "networks": "none"});
        for (key, value) in more.as_object().into_iter().flatten() {
            server[key] = value.clone();
        }
        json!({"server": server})
    };
    demo.must(403, "POST", SERVERS, spec(json!({"metadata": {"a": "1", "b": "2"}}))).await;
    let path = server(&demo, &os, &small, json!({"metadata": {"a": "1"}})).await;
    demo.must(403, "POST", &format!("{path}/metadata"), json!({"metadata": {"b": "2"}})).await;
    let keys = "/compute/v2.1/os-keypairs";
    demo.must(201, "POST", keys, json!({"keypair": {"name": "k"}})).await;
    demo.must(403, "POST", keys, json!({"keypair": {"name": "l"}})).await;
    let groups = "/compute/v2.1/os-server-groups";
    let group = demo
        .must(200, "POST", groups, json!({"server_group": {"name": "g", "policy": "soft-affinity"}}))
        .await;
    let mut in_group = spec(json!({}));
    in_group["os:scheduler_hints"] = json!({"group": text(&group["server_group"]["id"])});
    demo.must(202, "POST", SERVERS, in_group.clone()).await;
    demo.must(403, "POST", SERVERS, in_group).await;
    let absolute = demo.get("/compute/v2.1/limits").await["limits"]["absolute"].clone();
    assert_eq!((&absolute["maxServerMeta"], &absolute["maxTotalKeypairs"]), (&json!(1), &json!(1)));

    // Both cores are taken; what the project says itself goes before the default.
    demo.must(403, "POST", SERVERS, spec(json!({}))).await;
    admin.must(200, "PUT", &set, json!({"quota_set": {"cores": -1, "key_pairs": 5}})).await;
    demo.must(202, "POST", SERVERS, spec(json!({}))).await;
    admin
        .must(200, "PUT", CLASS, json!({"quota_class_set": {"cores": 9, "key_pairs": 9, "instances": 9}}))
        .await;
    becomes(&demo, &set, "instances", 9).await;
    let own = demo.get(&set).await["quota_set"].clone();
    assert_eq!((&own["cores"], &own["key_pairs"]), (&json!(-1), &json!(5)));
    admin.must(202, "DELETE", &set, Value::Null).await;
    let own = demo.get(&set).await["quota_set"].clone();
    assert_eq!((&own["cores"], &own["key_pairs"], &own["instances"]), (&json!(9), &json!(9), &json!(9)));
    admin.must(200, "PUT", CLASS, json!({"quota_class_set": {"cores": -1, "instances": -1}})).await;
    becomes(&demo, &set, "cores", -1).await;
    becomes(&demo, &set, "instances", -1).await;
}
