//! Default types of projects, and what lists are filtered by.

use serde_json::{Value, json};

use super::{VOLUMES, volume};
use crate::support::client::{Client, tenant, text};
use crate::support::{PASSWORD, start};

#[tokio::test]
async fn a_projects_default_type_is_that_of_volumes_which_name_none() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let types = "/volume/v3/types";
    let mut kinds = Vec::new();
    for name in ["one", "two"] {
        let made = admin.must(200, "POST", types, json!({"volume_type": {"name": name}})).await;
        kinds.push(text(&made["volume_type"]["id"]).to_owned());
    }
    demo.must(404, "GET", &format!("{types}/default"), Value::Null).await;
    let at = format!("/volume/v3/default-types/{project}");
    let body = |kind: &str| json!({"default_type": {"volume_type": kind}});
    demo.must(403, "PUT", &at, body("one")).await;
    admin.must(404, "PUT", &at, body("three")).await;
    admin.must(404, "PUT", "/volume/v3/default-types/nobody", body("one")).await;
    admin.must(404, "GET", &at, Value::Null).await;
    admin.must(200, "PUT", &at, body("one")).await;
    let set = admin.must(200, "PUT", &at, body(&kinds[1])).await;
    assert_eq!(set, json!({"default_type": {"project_id": project, "volume_type_id": kinds[1]}}));
    assert_eq!(admin.get("/volume/v3/default-types").await["default_types"], json!([set["default_type"]]));
    assert_eq!(demo.get(&format!("{types}/default")).await["volume_type"]["name"], "two");
    let id = volume(&demo, json!({"size": 1})).await;
    assert_eq!(demo.get(&format!("{VOLUMES}/{id}")).await["volume"]["volume_type"], "two");
    demo.must(202, "DELETE", &format!("{VOLUMES}/{id}"), Value::Null).await;
    admin.must(202, "DELETE", &format!("{types}/{}", kinds[0]), Value::Null).await;
    admin.must(204, "DELETE", &at, Value::Null).await;
    admin.must(204, "DELETE", &at, Value::Null).await;
    admin.must(404, "GET", &at, Value::Null).await;
    let old = admin.ask_as("volume 3.61", "GET", "/volume/v3/default-types", Value::Null).await;
    assert_eq!(old.status, 404);
}

#[tokio::test]
async fn volumes_are_found_by_their_metadata() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let id = volume(&demo, json!({"size": 1, "metadata": {"a": "1", "b": "2"}})).await;
    volume(&demo, json!({"size": 1, "metadata": {"a": "2"}})).await;
    let found = demo.get(&format!("{VOLUMES}?metadata=%7B%27a%27:%20%271%27%7D")).await;
    assert_eq!(found["volumes"].as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(found["volumes"][0]["id"], id.as_str());
    demo.must(400, "GET", &format!("{VOLUMES}?metadata=a"), Value::Null).await;
    let filters = demo.get("/volume/v3/resource_filters?resource=volume").await;
    assert!(filters["resource_filters"][0]["filters"].as_array().unwrap().contains(&json!("metadata")));
    demo.must(400, "GET", "/volume/v3/resource_filters?resource=x", Value::Null).await;
}

#[tokio::test]
async fn an_admin_deletes_a_volume_by_force() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let id = volume(&demo, json!({"size": 1})).await;
    demo.must(403, "DELETE", &format!("{VOLUMES}/{id}?force=True"), Value::Null).await;
    let reset = json!({"os-reset_status": {"status": "maintenance"}});
    admin.must(202, "POST", &format!("{VOLUMES}/{id}/action"), reset).await;
    admin.must(400, "DELETE", &format!("{VOLUMES}/{id}"), Value::Null).await;
    admin.must(202, "DELETE", &format!("{VOLUMES}/{id}?force=True"), Value::Null).await;
}
