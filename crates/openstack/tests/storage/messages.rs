//! Cinder's user messages.

use k8s_openapi::api::core::v1::Event;
use kube::api::{Api, PostParams};
use serde_json::{Value, json};
use yunfan_resources::storage::Volume;

use super::{VOLUMES, volume};
use crate::support::client::{Client, tenant, text};
use crate::support::{PASSWORD, start};

const MESSAGES: &str = "/volume/v3/messages";

#[tokio::test]
async fn why_a_volume_was_not_made_is_told_until_it_is_put_away() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let id = volume(&demo, json!({"size": 1, "name": "data"})).await;
    let ask = async |method: &str, path: &str| demo.ask_as("volume 3.3", method, path, Value::Null).await;
    assert_eq!(ask("GET", MESSAGES).await.body["messages"], json!([]));
    let object = Api::<Volume>::namespaced(cloud.system.clone(), "demo").get("data").await.unwrap();
    let events = Api::<Event>::namespaced(cloud.system.clone(), "demo");
    for (name, level) in [("told", "Warning"), ("well", "Normal")] {
        let event = json!({
            "metadata": {"name": name, "namespace": "demo"}, "type": level, "reason": "FailedScheduling",
            "message": "0/1 nodes have what the type wants", "involvedObject": {
                "apiVersion": "storage.yunfan.io/v1", "kind": "Volume", "name": "data", "namespace": "demo",
                "uid": object.metadata.uid,
            },
        });
        events.create(&PostParams::default(), &serde_json::from_value(event).unwrap()).await.unwrap();
    }
    let all = ask("GET", &format!("{MESSAGES}?resource_uuid={id}")).await.body["messages"].clone();
    assert_eq!(all.as_array().map(Vec::len), Some(1), "{all}");
    assert_eq!((&all[0]["resource_type"], &all[0]["resource_uuid"]), (&json!("VOLUME"), &json!(id)));
    assert!(text(&all[0]["user_message"]).contains("0/1 nodes"), "{all}");
    let path = format!("{MESSAGES}/{}", text(&all[0]["id"]));
    assert_eq!(ask("GET", &path).await.body["message"], all[0]);
    // They are of one project, and of a version that knows them.
    assert_eq!(demo.ask_as("volume 3.2", "GET", MESSAGES, Value::Null).await.status, 404);
    assert_eq!(other.ask_as("volume 3.3", "GET", &path, Value::Null).await.status, 404);
    assert_eq!(other.ask_as("volume 3.3", "DELETE", &path, Value::Null).await.status, 404);
    assert_eq!(ask("DELETE", &path).await.status, 204);
    assert_eq!(ask("GET", &path).await.status, 404);
    demo.must(202, "DELETE", &format!("{VOLUMES}/{id}"), Value::Null).await;
}
