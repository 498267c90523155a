//! What single projects see of the catalog, and projects that act as domains.

use serde_json::{Value, json};

use super::{V3, made};
use crate::support::client::{Client, tenant, text};
use crate::support::{PASSWORD, start};

/// The types of the services in a project's catalog.
async fn types(client: &Client) -> Vec<String> {
    let catalog = client.get(&format!("{V3}/auth/catalog")).await;
    let services = catalog["catalog"].as_array().cloned().unwrap_or_default();
    services.iter().map(|service| text(&service["type"]).to_owned()).collect()
}

#[tokio::test]
async fn a_project_sees_the_endpoints_that_it_is_given() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let groups = format!("{V3}/OS-EP-FILTER/endpoint_groups");
    let service = made(&admin, "services", "service", json!({"type": "object-store", "name": "swift"})).await;
    let fields = json!({"service_id": service, "interface": "public", "url": "https://swift/v1"});
    let endpoint = made(&admin, "endpoints", "endpoint", fields).await;
    for wrong in [
        json!({"name": "g"}),
        json!({"name": "g", "filters": {"colour": "red"}}),
        json!({"filters": {"service_id": service}}),
        json!({"name": "g", "filters": {"interface": "none"}}),
    ] {
        admin.must(400, "POST", &groups, json!({"endpoint_group": wrong})).await;
    }
    let unknown = json!({"endpoint_group": {"name": "g", "filters": {"service_id": "none"}}});
    admin.must(404, "POST", &groups, unknown).await;
    let bare = json!({"endpoint_group": {"name": "bare", "filters": {"service_id": service}}});
    let bare = admin.must(201, "POST", &groups, bare).await["endpoint_group"].clone();
    assert_eq!(bare["description"], Value::Null);
    admin.must(204, "DELETE", &format!("{groups}/{}", text(&bare["id"])), Value::Null).await;
    let wanted = json!({"endpoint_group": {
        "name": "stores", "description": "d", "filters": {"service_id": service, "interface": "public"},
    }});
    demo.must(403, "POST", &groups, wanted.clone()).await;
    let group = admin.must(201, "POST", &groups, wanted).await["endpoint_group"].clone();
    let path = format!("{groups}/{}", text(&group["id"]));
    assert_eq!(group["filters"], json!({"service_id": service, "interface": "public"}));
    assert_eq!(admin.get(&groups).await["endpoint_groups"], json!([group]));
    assert_eq!(admin.get(&format!("{path}/endpoints")).await["endpoints"][0]["id"], endpoint.as_str());
    demo.must(403, "GET", &path, Value::Null).await;

    // Who is given nothing sees all; who is given something sees that.
    assert_eq!(types(&demo).await.len(), 8);
    let given = format!("{path}/projects/{project}");
    admin.must(404, "GET", &given, Value::Null).await;
    demo.must(403, "PUT", &given, Value::Null).await;
    admin.must(204, "PUT", &given, Value::Null).await;
    admin.must(204, "PUT", &given, Value::Null).await;
    admin.must(200, "HEAD", &given, Value::Null).await;
    assert_eq!(admin.get(&format!("{path}/projects")).await["projects"][0]["id"], project.as_str());
    assert_eq!(types(&demo).await, ["object-store"]);
    assert_eq!(types(&other).await.len(), 8);
    let of_project = format!("{V3}/OS-EP-FILTER/projects/{project}");
    let groups_of = admin.get(&format!("{of_project}/endpoint_groups")).await;
    assert_eq!(groups_of["endpoint_groups"][0]["id"], group["id"]);
    let compute = admin.get(&format!("{V3}/services?type=compute")).await["services"][0]["id"].clone();
    let nova = admin.get(&format!("{V3}/endpoints?interface=public&service_id={}", text(&compute))).await;
    let nova = text(&nova["endpoints"][0]["id"]).to_owned();
    let one = format!("{of_project}/endpoints/{nova}");
    admin.must(404, "GET", &one, Value::Null).await;
    admin.must(204, "PUT", &one, Value::Null).await;
    admin.must(204, "HEAD", &one, Value::Null).await;
    assert_eq!(types(&demo).await, ["compute", "object-store"]);
    let both = admin.get(&format!("{of_project}/endpoints")).await;
    assert_eq!(both["endpoints"].as_array().map(Vec::len), Some(2), "{both}");
    let there = admin.get(&format!("{V3}/OS-EP-FILTER/endpoints/{nova}/projects")).await;
    assert_eq!(there["projects"][0]["id"], project.as_str());

    // A group that changes shows others, and what goes is named no more.
    let wider = json!({"endpoint_group": {"name": "inner", "filters": {"interface": "internal"}}});
    let changed = admin.must(200, "PATCH", &path, wider).await["endpoint_group"].clone();
    assert_eq!(
        (&changed["filters"], &changed["description"]),
        (&json!({"interface": "internal"}), &json!("d"))
    );
    assert_eq!(types(&demo).await.len(), 7);
    admin.must(204, "DELETE", &path, Value::Null).await;
    admin.must(404, "GET", &path, Value::Null).await;
    assert_eq!(types(&demo).await, ["compute"]);
    admin.must(204, "DELETE", &one, Value::Null).await;
    admin.must(404, "DELETE", &one, Value::Null).await;
    assert_eq!(types(&demo).await.len(), 8);
    let one = format!("{of_project}/endpoints/{endpoint}");
    admin.must(204, "PUT", &one, Value::Null).await;
    admin.must(204, "DELETE", &format!("{V3}/endpoints/{endpoint}"), Value::Null).await;
    assert_eq!(types(&demo).await.len(), 8, "what it was given is gone");
}

#[tokio::test]
async fn a_project_that_acts_as_a_domain_is_that_domain() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let projects = format!("{V3}/projects");
    let wanted =
        json!({"project": {"name": "dept", "is_domain": true, "description": "d", "domain_id": null}});
    assert_eq!(demo.ask("POST", &projects, wanted.clone()).await.status, 403);
    let made = admin.must(201, "POST", &projects, wanted.clone()).await["project"].clone();
    assert_eq!(
        (&made["is_domain"], &made["domain_id"], &made["parent_id"]),
        (&json!(true), &Value::Null, &Value::Null)
    );
    assert_eq!(admin.ask("POST", &projects, wanted).await.status, 409);
    let below = json!({"project": {"name": "x", "is_domain": true, "domain_id": "default"}});
    admin.must(400, "POST", &projects, below).await;
    let id = text(&made["id"]).to_owned();
    let (as_project, as_domain) = (format!("{projects}/{id}"), format!("{V3}/domains/{id}"));
    assert_eq!(admin.get(&as_domain).await["domain"]["description"], "d");
    assert_eq!(admin.get(&as_project).await["project"], made);
    let all = admin.get(&format!("{projects}?is_domain=true&name=dept")).await;
    assert_eq!(all["projects"], json!([made]));
    let others = admin.get(&projects).await;
    assert!(others["projects"].as_array().is_some_and(|all| all.iter().all(|one| one["id"] != id.as_str())));
    // What is made in it is in the domain.
    let inner = super::made(&admin, "projects", "project", json!({"name": "in", "domain_id": id})).await;
    assert_eq!(admin.get(&format!("{projects}/{inner}")).await["project"]["parent_id"], id.as_str());
    assert_eq!(admin.ask("DELETE", &as_project, Value::Null).await.status, 403, "it is enabled");
    admin.must(400, "PATCH", &as_project, json!({"project": {"is_domain": false}})).await;
    let off = admin.must(200, "PATCH", &as_project, json!({"project": {"enabled": false}})).await;
    assert_eq!(off["project"]["enabled"], false);
    admin.must(204, "DELETE", &as_project, Value::Null).await;
    admin.must(404, "GET", &as_domain, Value::Null).await;
    admin.must(404, "GET", &format!("{projects}/{inner}"), Value::Null).await;
}
