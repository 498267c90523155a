//! Lists, shapes, discovery, and what stays over a restart.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::Desk;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

async fn fill(desk: &Desk, count: usize) {
    for index in 0..count {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("m-{index:03}"), "labels": {"half": if index % 2 == 0 { "even" } else { "odd" }}}});
        desk.call("POST", MAPS, Some(object)).await.expect(201);
    }
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().expect("a list has items");
    items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_one_snapshot_however_much_is_written_between() {
    let desk = Desk::new().await;
    fill(&desk, 10).await;
    let mut page = desk.call("GET", &format!("{MAPS}?limit=3"), None).await.expect(200);
    let revision = page["metadata"]["resourceVersion"].clone();
    assert_eq!(page["metadata"]["remainingItemCount"], 7);
    let mut seen = names(&page);
    let mut round = 0;
    while let Some(token) = page["metadata"]["continue"].as_str().map(str::to_owned) {
        // The first time nothing has changed yet; later something was made, deleted and changed.
        if round > 0 {
            desk.call("DELETE", &format!("{MAPS}/m-009"), None).await;
            let fresh =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "m-008-"}});
            desk.call("POST", MAPS, Some(fresh)).await.expect(201);
        }
        page = desk.call("GET", &format!("{MAPS}?limit=3&continue={token}"), None).await.expect(200);
        assert_eq!(page["metadata"]["resourceVersion"], revision);
        seen.extend(names(&page));
        round += 1;
    }
    let wanted: Vec<String> = (0..10).map(|index| format!("m-{index:03}")).collect();
    assert_eq!(seen, wanted);
    let exact =
        format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", revision.as_str().expect("text"));
    assert_eq!(names(&desk.call("GET", &exact, None).await.expect(200)), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_select() {
    let desk = Desk::new().await;
    fill(&desk, 6).await;
    let list = |query: &'static str| {
        let desk = &desk;
        async move { names(&desk.call("GET", &format!("{MAPS}?{query}"), None).await.expect(200)) }
    };
    assert_eq!(list("labelSelector=half%3Dodd").await, ["m-001", "m-003", "m-005"]);
    assert_eq!(list("labelSelector=half+in+(odd,x),half!%3Deven&limit=2").await, ["m-001", "m-003"]);
    assert_eq!(list("fieldSelector=metadata.name%3Dm-004").await, ["m-004"]);
    assert_eq!(list("fieldSelector=metadata.name!%3Dm-004").await.len(), 5);
    let all =
        desk.call("GET", "/api/v1/configmaps?fieldSelector=metadata.name%3Dm-004", None).await.expect(200);
    assert_eq!(names(&all), ["m-004"]);
    let all = desk
        .call("GET", "/api/v1/configmaps?fieldSelector=metadata.namespace%3Ddefault", None)
        .await
        .expect(200);
    assert_eq!(names(&all).len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn items_of_kubernetes_own_kinds_leave_their_type_to_the_list() {
    let desk = Desk::new().await;
    fill(&desk, 1).await;
    let list = desk.call("GET", MAPS, None).await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    let keys: Vec<&String> = list["items"][0].as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["metadata"]);
    let pretty = desk.call("GET", &format!("{MAPS}?pretty=true"), None).await.expect(200);
    assert_eq!(pretty, list);
    let yaml = desk.get_as(MAPS, "application/yaml").await.text;
    assert!(yaml.contains("items:\n- metadata:"), "{yaml}");
    let partial = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let partial = desk.get_as(MAPS, partial).await.expect(200);
    assert_eq!(partial["items"][0]["kind"], "PartialObjectMetadata");
    let projects = "/apis/iam.yunfan.io/v1/projects";
    let project =
        json!({"apiVersion": "iam.yunfan.io/v1", "kind": "Project", "metadata": {"name": "p"}, "spec": {}});
    desk.call("POST", projects, Some(project)).await.expect(201);
    let list = desk.call("GET", projects, None).await.expect(200);
    assert_eq!(list["items"][0]["kind"], "Project", "other kinds' items say it themselves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_list_is_whole() {
    let desk = Desk::new().await;
    for index in 0..40 {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m-{index}")},
            "data": {"a": "x".repeat(10_000)}});
        desk.call("POST", MAPS, Some(object)).await.expect(201);
    }
    let list = desk.call("GET", MAPS, None).await.expect(200);
    assert_eq!(names(&list).into_iter().collect::<BTreeSet<_>>().len(), 40);
    assert_eq!(list["kind"], "ConfigMapList");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_in_every_shape() {
    let desk = Desk::new().await;
    fill(&desk, 2).await;
    let table = desk.get_as(MAPS, TABLE).await.expect(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][1]["cells"][0], "m-001");
    assert_eq!(table["rows"][1]["object"]["kind"], "PartialObjectMetadata");
    let one = desk.get_as(&format!("{MAPS}/m-000"), TABLE).await.expect(200);
    assert_eq!(one["rows"].as_array().map(Vec::len), Some(1));
    let metadata = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = desk.get_as(MAPS, metadata).await.expect(200);
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "m-000");
    let yaml = desk.get_as(&format!("{MAPS}/m-000"), "application/yaml").await;
    assert!(yaml.text.contains("name: m-000"), "{}", yaml.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_and_schemas_say_what_is_served() {
    let desk = Desk::new().await;
    let legacy = desk.call("GET", "/apis/apps/v1", None).await.expect(200);
    let found = legacy["resources"].as_array().expect("resources");
    for name in ["deployments", "deployments/status", "deployments/scale", "replicasets"] {
        assert!(found.iter().any(|r| r["name"] == name), "{name} is missing");
    }
    let core = desk.call("GET", "/api/v1", None).await.expect(200);
    let pods =
        core["resources"].as_array().into_iter().flatten().find(|r| r["name"] == "pods").expect("pods");
    assert_eq!((&pods["shortNames"], &pods["namespaced"]), (&json!(["po"]), &json!(true)));
    let groups = desk.call("GET", "/apis", None).await.expect(200);
    assert!(groups["groups"].as_array().is_some_and(|g| g.iter().any(|g| g["name"] == "compute.yunfan.io")));
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let all = desk.get_as("/apis", accept).await;
    assert!(all.headers["content-type"].to_str().is_ok_and(|t| t.contains("APIGroupDiscoveryList")));
    assert!(
        all.expect(200)["items"]
            .as_array()
            .is_some_and(|i| i.iter().any(|g| g["metadata"]["name"] == "apps"))
    );

    let index = desk.call("GET", "/openapi/v3", None).await.expect(200);
    for path in ["api/v1", "apis/apps/v1", "apis/compute.yunfan.io/v1"] {
        assert!(index["paths"][path]["serverRelativeURL"].is_string(), "{path} is missing");
    }
    let document = desk.call("GET", "/openapi/v3/apis/apps/v1", None).await;
    let etag = document.headers["etag"].to_str().expect("text").to_owned();
    let document = document.expect(200);
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-action"], "patch");
    assert!(patch["parameters"].as_array().is_some_and(|p| p.iter().any(|p| p["name"] == "fieldValidation")));
    let known = [("if-none-match", etag.as_str())];
    let again = desk
        .send(crate::support::admin(), "GET", "/openapi/v3/apis/apps/v1", "", &known, String::new())
        .await;
    assert_eq!(again.status.as_u16(), 304);
    assert!(
        desk.call("GET", "/version", None).await.expect(200)["gitVersion"]
            .as_str()
            .is_some_and(|v| v.starts_with("v1.37."))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_all_and_the_second_bootstrap_writes_nothing() {
    let desk = Desk::new().await;
    fill(&desk, 3).await;
    let before = desk.call("GET", MAPS, None).await.expect(200);
    let dir = desk.close().await;
    let desk = Desk::open(dir.path()).await;
    let after = desk.call("GET", MAPS, None).await.expect(200);
    assert_eq!(before["items"], after["items"]);
    assert_eq!(
        before["metadata"]["resourceVersion"], after["metadata"]["resourceVersion"],
        "bootstrap wrote something"
    );
    desk.call("GET", "/apis/compute.yunfan.io/v1/flavors", None).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_comes_back() {
    use http_body_util::BodyExt;
    let desk = Desk::new().await;
    fill(&desk, 3).await;
    let admin = crate::support::admin;
    let backup = desk.raw(admin(), "GET", "/yunfan/v1/backup", "", &[], String::new()).await;
    let bytes = backup.into_body().collect().await.expect("a whole backup").to_bytes();
    desk.call("DELETE", MAPS, None).await.expect(200);
    assert!(names(&desk.call("GET", MAPS, None).await.expect(200)).is_empty());
    let mut request =
        http::Request::post("/yunfan/v1/backup").body(axum::body::Body::from(bytes)).expect("a request");
    request.extensions_mut().insert(yunfan_identity::Caller(admin().expect("the admin")));
    let answer = tower::ServiceExt::oneshot(desk.api.router(), request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(names(&desk.call("GET", MAPS, None).await.expect(200)).len(), 3);
    desk.call("POST", "/yunfan/v1/backup", Some(json!({"no": "backup"}))).await.refused(400);
}
