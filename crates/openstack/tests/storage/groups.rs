//! Groups of volumes, what they are like, and their snapshots.

use serde_json::{Value, json};

use crate::support::client::{Client, tenant, text, wait_for};
use crate::support::{PASSWORD, start};

const GROUPS: &str = "/volume/v3/groups";
const TYPES: &str = "/volume/v3/group_types";
const SNAPSHOTS: &str = "/volume/v3/group_snapshots";

#[tokio::test]
async fn types_of_groups_have_specs() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let body = json!({"group_type": {"name": "gold", "description": "d", "group_specs": {"a": "b"}}});
    demo.must(403, "POST", TYPES, body.clone()).await;
    let made = admin.must(202, "POST", TYPES, body.clone()).await["group_type"].clone();
    admin.must(409, "POST", TYPES, body).await;
    let one = format!("{TYPES}/{}", text(&made["id"]));
    assert!(demo.get(&one).await["group_type"].get("group_specs").is_none());
    let specs = format!("{one}/group_specs");
    admin.must(202, "POST", &specs, json!({"group_specs": {"c": "d"}})).await;
    assert_eq!(admin.get(&specs).await["group_specs"], json!({"a": "b", "c": "d"}));
    admin.must(200, "PUT", &format!("{specs}/c"), json!({"c": "e"})).await;
    assert_eq!(admin.get(&format!("{specs}/c")).await, json!({"c": "e"}));
    admin.must(202, "DELETE", &format!("{specs}/c"), Value::Null).await;
    admin.must(404, "GET", &format!("{specs}/c"), Value::Null).await;
    admin.must(202, "POST", TYPES, json!({"group_type": {"name": "own", "is_public": false}})).await;
    let names = async |client: &Client, query: &str| -> Vec<String> {
        let list = client.get(&format!("{TYPES}?sort=name:asc{query}")).await;
        list["group_types"].as_array().unwrap().iter().map(|kind| text(&kind["name"]).to_owned()).collect()
    };
    assert_eq!(names(&admin, "&is_public=None").await, ["gold", "own"]);
    assert_eq!(names(&admin, "&is_public=False").await, ["own"]);
    assert_eq!(names(&demo, "&is_public=None").await, ["gold"]);
    let renamed = admin.must(200, "PUT", &one, json!({"group_type": {"name": "silver"}})).await;
    assert_eq!(renamed["group_type"]["name"], "silver");
    admin.must(202, "DELETE", &one, Value::Null).await;
    let early = admin.ask_as("volume 3.10", "GET", TYPES, Value::Null).await;
    assert_eq!(early.status, 404);
}

#[tokio::test]
async fn volumes_of_a_group_come_and_go_together() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let kind =
        admin.must(202, "POST", TYPES, json!({"group_type": {"name": "gold"}})).await["group_type"].clone();
    let of =
        admin.must(200, "POST", "/volume/v3/types", json!({"volume_type": {"name": "Fast Disks"}})).await;
    let of = text(&of["volume_type"]["id"]).to_owned();
    let body = json!({"group": {"group_type": kind["id"], "volume_types": [of], "name": "db"}});
    let group = demo.must(202, "POST", GROUPS, body).await["group"].clone();
    let id = text(&group["id"]).to_owned();
    let one = format!("{GROUPS}/{id}");
    wait_for(&demo, &one, "group", "available").await;
    demo.must(400, "POST", "/volume/v3/volumes", json!({"volume": {"size": 1, "group_id": id}})).await;
    let mut volumes = Vec::new();
    for _ in 0..2 {
        let body = json!({"volume": {"size": 1, "group_id": id, "volume_type": of}});
        let made = demo.must(202, "POST", "/volume/v3/volumes", body).await["volume"].clone();
        assert_eq!(made["group_id"], id);
        let path = format!("/volume/v3/volumes/{}", text(&made["id"]));
        wait_for(&demo, &path, "volume", "available").await;
        volumes.push(path);
    }
    demo.must(400, "DELETE", &volumes[0], Value::Null).await;
    let second = volumes[1].rsplit('/').next().unwrap();
    let change = |change: Value| json!({"group": change});
    demo.must(202, "PUT", &one, change(json!({"name": "data", "remove_volumes": second}))).await;
    demo.must(400, "PUT", &one, change(json!({"remove_volumes": second}))).await;
    assert_eq!(demo.get(&volumes[1]).await["volume"]["group_id"], Value::Null);
    demo.must(202, "PUT", &one, change(json!({"add_volumes": second}))).await;
    let shown = demo.get(&one).await["group"].clone();
    assert_eq!((&shown["name"], shown["volumes"].as_array().unwrap().len()), (&json!("data"), 2));

    let body = json!({"group_snapshot": {"group_id": id, "name": "before"}});
    let taken = demo.must(202, "POST", SNAPSHOTS, body).await["group_snapshot"].clone();
    let path = format!("{SNAPSHOTS}/{}", text(&taken["id"]));
    let shown = wait_for(&demo, &path, "group_snapshot", "available").await;
    assert_eq!(shown["group_id"], id);
    let all = demo.get("/volume/v3/snapshots/detail").await["snapshots"].clone();
    assert_eq!((all.as_array().unwrap().len(), &all[0]["group_snapshot_id"]), (2, &taken["id"]));
    let delete = json!({"delete": {"delete-volumes": true}});
    demo.must(400, "POST", &format!("{one}/action"), delete.clone()).await;

    for source in [json!({"group_snapshot_id": taken["id"]}), json!({"source_group_id": id})] {
        let mut body = json!({"create-from-src": {"name": "copy"}});
        body["create-from-src"].as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        let copy = demo.must(202, "POST", &format!("{GROUPS}/action"), body).await["group"].clone();
        let copy = format!("{GROUPS}/{}", text(&copy["id"]));
        let shown = wait_for(&demo, &copy, "group", "available").await;
        assert_eq!(shown["volumes"].as_array().unwrap().len(), 2);
        demo.must(400, "POST", &format!("{copy}/action"), json!({"delete": {}})).await;
        demo.must(202, "POST", &format!("{copy}/action"), delete.clone()).await;
        demo.must(404, "GET", &copy, Value::Null).await;
    }
    admin.must(202, "POST", &format!("{one}/action"), json!({"reset_status": {"status": "error"}})).await;
    assert_eq!(demo.get(&one).await["group"]["status"], "error");
    admin.must(202, "POST", &format!("{one}/action"), json!({"reset_status": {"status": "available"}})).await;
    demo.must(202, "DELETE", &path, Value::Null).await;
    admin.must(400, "DELETE", &format!("{TYPES}/{}", text(&kind["id"])), Value::Null).await;
    demo.must(202, "POST", &format!("{one}/action"), delete).await;
    assert_eq!(demo.get(&format!("{GROUPS}/detail")).await["groups"], json!([]));
}
