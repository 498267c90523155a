//! Glance's metadata definitions.

use serde_json::{Value, json};

use crate::support::client::{Client, tenant};
use crate::support::{PASSWORD, start};

const NAMESPACES: &str = "/image/v2/metadefs/namespaces";

#[tokio::test]
async fn metadata_definitions_are_kept_for_dashboards() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let types = demo.get("/image/v2/metadefs/resource_types").await;
    assert_eq!(types["resource_types"][0]["name"], "OS::Glance::Image");
    let body = json!({"namespace": "OS::Compute::Quota", "display_name": "Quota", "visibility": "public", "protected": true,
        "resource_type_associations": [{"name": "OS::Nova::Flavor", "prefix": "quota:"}]});
    demo.must(403, "POST", NAMESPACES, body.clone()).await;
    let made = admin.must(201, "POST", NAMESPACES, body.clone()).await;
    assert_eq!((&made["visibility"], &made["protected"]), (&json!("public"), &json!(true)));
    admin.must(409, "POST", NAMESPACES, body).await;
    let at = format!("{NAMESPACES}/OS::Compute::Quota");
    assert_eq!(demo.get(&at).await["resource_type_associations"][0]["prefix"], "quota:");
    let listed = demo.get(&format!("{NAMESPACES}?resource_types=OS::Nova::Flavor")).await;
    assert_eq!(listed["namespaces"][0]["namespace"], "OS::Compute::Quota");
    admin.must(403, "DELETE", &at, Value::Null).await;

    let shares = json!({"name": "cpu_shares", "title": "CPU shares", "type": "integer", "minimum": 1});
    admin.must(201, "POST", &format!("{at}/properties"), shares.clone()).await;
    admin.must(409, "POST", &format!("{at}/properties"), shares.clone()).await;
    admin.must(400, "POST", &format!("{at}/properties"), json!({"name": "x"})).await;
    assert_eq!(demo.get(&format!("{at}/properties/cpu_shares")).await, shares);
    // What is not said again goes, and the name may be another.
    let less = json!({"name": "cpu_shares", "title": "Shares", "type": "integer"});
    admin.must(200, "PUT", &format!("{at}/properties/cpu_shares"), less.clone()).await;
    assert_eq!(demo.get(&format!("{at}/properties/cpu_shares")).await, less);
    let renamed = json!({"name": "shares", "title": "Shares", "type": "integer"});
    admin.must(200, "PUT", &format!("{at}/properties/cpu_shares"), renamed).await;
    let all = demo.get(&format!("{at}/properties")).await;
    assert_eq!(all, json!({"properties": {"shares": {"title": "Shares", "type": "integer"}}}));
    demo.must(403, "DELETE", &format!("{at}/properties/shares"), Value::Null).await;
    admin.must(204, "DELETE", &format!("{at}/properties/shares"), Value::Null).await;
    admin.must(404, "DELETE", &format!("{at}/properties/shares"), Value::Null).await;

    admin.must(201, "POST", &format!("{at}/objects"), json!({"name": "disk", "description": "d"})).await;
    admin.must(200, "PUT", &format!("{at}/objects/disk"), json!({"name": "disks"})).await;
    assert_eq!(demo.get(&format!("{at}/objects")).await["objects"][0]["name"], "disks");
    demo.must(404, "GET", &format!("{at}/objects/disk"), Value::Null).await;
    admin.must(204, "DELETE", &format!("{at}/objects/disks"), Value::Null).await;

    let tags = json!({"tags": [{"name": "a"}, {"name": "b"}]});
    admin.must(201, "POST", &format!("{at}/tags"), tags).await;
    admin.must(201, "POST", &format!("{at}/tags/c"), Value::Null).await;
    admin.must(200, "PUT", &format!("{at}/tags/c"), json!({"name": "d"})).await;
    admin.must(204, "DELETE", &format!("{at}/tags/a"), Value::Null).await;
    let left = demo.get(&format!("{at}/tags")).await;
    assert_eq!((&left["tags"][0]["name"], &left["tags"][1]["name"]), (&json!("b"), &json!("d")));
    admin.must(204, "DELETE", &format!("{at}/tags"), Value::Null).await;
    assert_eq!(demo.get(&format!("{at}/tags")).await["tags"], json!([]));
    // There is no end to single ones but the same limit.
    let many: Vec<Value> = (0..256).map(|number| json!({"name": format!("t{number}")})).collect();
    admin.must(201, "POST", &format!("{at}/tags"), json!({"tags": many})).await;
    admin.must(400, "POST", &format!("{at}/tags/more"), Value::Null).await;

    admin.must(201, "POST", &format!("{at}/resource_types"), json!({"name": "OS::Trove::Instance"})).await;
    let types = demo.get("/image/v2/metadefs/resource_types").await;
    assert_eq!(types["resource_types"][5]["name"], "OS::Trove::Instance");
    admin.must(204, "DELETE", &format!("{at}/resource_types/OS::Nova::Flavor"), Value::Null).await;
    let left = demo.get(&format!("{at}/resource_types")).await;
    assert_eq!(left["resource_type_associations"][0]["name"], "OS::Trove::Instance");

    // What is private is its project's.
    let private = json!({"namespace": "OS::Compute::Quota", "visibility": "private", "protected": false});
    admin.must(200, "PUT", &at, private).await;
    demo.must(404, "GET", &at, Value::Null).await;
    assert_eq!(demo.get(NAMESPACES).await["namespaces"], json!([]));
    let owned = json!({"namespace": "theirs", "owner": project});
    admin.must(201, "POST", NAMESPACES, owned).await;
    assert_eq!(demo.get(NAMESPACES).await["namespaces"][0]["namespace"], "theirs");
    admin.must(204, "DELETE", &at, Value::Null).await;
    admin.must(404, "GET", &at, Value::Null).await;
    for kind in ["namespace", "namespaces", "object", "objects", "property", "properties", "tag", "tags"] {
        assert_eq!(demo.get(&format!("/image/v2/schemas/metadefs/{kind}")).await["name"], kind);
    }
    assert_eq!(
        demo.get("/image/v2/schemas/metadefs/resource_type").await["name"],
        "resource_type_association"
    );
}

#[tokio::test]
async fn no_id_is_no_image() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    admin.get("/image/v2/images").await;
    for method in ["GET", "DELETE"] {
        admin.must(404, method, "/image/v2/images/", Value::Null).await;
    }
}
