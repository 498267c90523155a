//! What Nova's older clients say, and its words for what is asked: extensions, volumes by Nova's paths, patterns of names.

use serde_json::{Value, json};

use super::{SERVERS, server};
use crate::support::client::{Client, flavor, image, tenant, text};
use crate::support::{PASSWORD, start};

/// Asks in the last dialect that has Nova's own paths for volumes, and insists on the status.
async fn old(client: &Client, status: u16, method: &str, path: &str, body: Value) -> Value {
    let answer = client.ask_as("compute 2.35", method, path, body).await;
    assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    answer.body
}

/// Asks until a volume or a snapshot is available, and returns it.
async fn available(client: &Client, path: &str, key: &str) -> Value {
    for _ in 0..1000 {
        let shown = old(client, 200, "GET", path, Value::Null).await[key].clone();
        if shown["status"] == "available" {
            return shown;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{path} is not available");
}

#[tokio::test]
async fn volumes_in_novas_words() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (volumes, snapshots) = ("/compute/v2.1/os-volumes", "/compute/v2.1/os-snapshots");
    let body = json!({"volume": {"size": 1, "display_name": "disk", "metadata": {"a": "b"}}});
    let made = old(&demo, 200, "POST", volumes, body).await["volume"].clone();
    assert_eq!((&made["displayName"], &made["attachments"]), (&json!("disk"), &json!([{}])));
    let path = format!("{volumes}/{}", text(&made["id"]));
    let shown = available(&demo, &path, "volume").await;
    assert_eq!((&shown["metadata"], &shown["availabilityZone"]), (&json!({"a": "b"}), &json!("nova")));
    let list = old(&demo, 200, "GET", &format!("{volumes}?limit=1"), Value::Null).await;
    assert_eq!(list["volumes"][0]["displayName"], "disk");
    let list = old(&demo, 200, "GET", &format!("{volumes}/detail?offset=1"), Value::Null).await;
    assert_eq!(list["volumes"], json!([]));
    let refused = old(&demo, 400, "POST", volumes, json!({"volume": {"size": "#$%"}})).await;
    assert_eq!(refused["badRequest"]["code"], 400);
    let body = json!({"snapshot": {"volume_id": made["id"], "display_name": "before"}});
    let taken = old(&demo, 200, "POST", snapshots, body).await["snapshot"].clone();
    assert_eq!((&taken["volumeId"], &taken["displayName"]), (&made["id"], &json!("before")));
    let snapshot = format!("{snapshots}/{}", text(&taken["id"]));
    available(&demo, &snapshot, "snapshot").await;
    old(&demo, 202, "DELETE", &snapshot, Value::Null).await;
    old(&demo, 202, "DELETE", &path, Value::Null).await;
    for gone in [&path, &format!("{volumes}/"), &format!("{path}/action")] {
        old(&demo, 404, "GET", gone, Value::Null).await;
    }
    assert_eq!(demo.ask_as("compute 2.36", "GET", volumes, Value::Null).await.status, 404);
}

#[tokio::test]
async fn names_are_patterns_and_host_names_may_have_dots() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path =
        server(&demo, &os, &small, json!({"name": "web-instance-17", "OS-DCF:diskConfig": "AUTO"})).await;
    assert_eq!(demo.get(&path).await["server"]["OS-DCF:diskConfig"], "AUTO");
    let changed = json!({"server": {"OS-DCF:diskConfig": "MANUAL"}});
    assert_eq!(demo.must(200, "PUT", &path, changed).await["server"]["OS-DCF:diskConfig"], "MANUAL");
    demo.must(400, "PUT", &path, json!({"server": {"OS-DCF:diskConfig": "SOME"}})).await;
    let count = async |pattern: &str| {
        let list = demo.get(&format!("{SERVERS}?name={pattern}")).await;
        list["servers"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(count("%5E.*-instance-%5B0-9%5D%2B%24").await, 1);
    assert_eq!(count("instance-1").await, 1);
    assert_eq!(count("%5Einstance").await, 0);
    assert_eq!(count("%5Bweb").await, 0, "what is no pattern is looked for as it is");
    let long = format!("{}.example.com", "x".repeat(70));
    let rename = json!({"server": {"hostname": long}});
    assert_eq!(demo.ask_as("compute 2.93", "PUT", &path, rename.clone()).await.status, 400);
    let told = demo.ask_as("compute 2.94", "PUT", &path, rename).await;
    assert_eq!(told.status, 200, "{}", told.body);
    let shown = demo.ask_as("compute 2.94", "GET", &path, Value::Null).await;
    assert_eq!(shown.body["server"]["OS-EXT-SRV-ATTR:hostname"], long.as_str());
}

#[tokio::test]
async fn extensions_and_what_only_administrators_ask() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let known = demo.get("/compute/v2.1/extensions/os-consoles").await;
    assert_eq!(known["extension"]["alias"], "os-consoles");
    demo.must(404, "GET", "/compute/v2.1/extensions/os-dances", Value::Null).await;
    let all = demo.get("/compute/v2.1/extensions").await;
    assert!(all["extensions"].as_array().unwrap().iter().any(|one| one["name"] == "Hosts"));
    demo.must(404, "DELETE", "/compute/v2.1/images/", Value::Null).await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    assert_eq!(demo.get(&format!("{path}/os-server-password")).await, json!({"password": ""}));
    demo.must(204, "DELETE", &format!("{path}/os-server-password"), Value::Null).await;
    let inject = json!({"injectNetworkInfo": null});
    demo.must(403, "POST", &format!("{path}/action"), inject.clone()).await;
    admin.must(202, "POST", &format!("{path}/action"), inject).await;
}
