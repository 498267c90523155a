//! Volumes that somebody else than a server of this cloud says to use.

use serde_json::{Value, json};

use crate::support::client::{Client, tenant, text, wait_for};
use crate::support::{PASSWORD, start};

#[tokio::test]
async fn who_uses_a_volume_elsewhere_keeps_it() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let made = demo.must(202, "POST", "/volume/v3/volumes", json!({"volume": {"size": 1}})).await;
    let id = text(&made["volume"]["id"]).to_owned();
    let path = format!("/volume/v3/volumes/{id}");
    let action = format!("{path}/action");
    wait_for(&demo, &path, "volume", "available").await;
    let server = "11111111-1111-4111-8111-111111111111";
    let attach = json!({"os-attach": {"instance_uuid": server, "mountpoint": "/dev/vdb"}});
    demo.must(400, "POST", &action, json!({"os-attach": {"mountpoint": "/dev/vdb"}})).await;
    demo.must(202, "POST", &action, attach.clone()).await;
    demo.must(400, "POST", &action, attach.clone()).await;
    let shown = demo.get(&path).await["volume"].clone();
    let attachment = &shown["attachments"][0];
    assert_eq!((&shown["status"], &attachment["server_id"]), (&json!("in-use"), &json!(server)));
    assert_eq!((&attachment["id"], &attachment["device"]), (&json!(id), &json!("/dev/vdb")));
    demo.must(400, "DELETE", &path, Value::Null).await;
    demo.must(400, "POST", &action, json!({"os-detach": {"attachment_id": server}})).await;
    // A mark of an admin's goes with it.
    admin.must(202, "POST", &action, json!({"os-reset_status": {"status": "error"}})).await;
    demo.must(400, "DELETE", &path, Value::Null).await;
    let force = json!({"os-force_detach": {"attachment_id": attachment["attachment_id"], "connector": null}});
    demo.must(403, "POST", &action, force.clone()).await;
    admin.must(202, "POST", &action, force).await;
    assert_eq!(demo.get(&path).await["volume"]["status"], "available");
    demo.must(202, "POST", &action, attach).await;
    demo.must(202, "POST", &action, json!({"os-detach": {}})).await;
    let shown = demo.get(&path).await["volume"].clone();
    assert_eq!((&shown["status"], &shown["attachments"]), (&json!("available"), &json!([])));
    // What nobody uses may be let go of.
    demo.must(202, "POST", &action, json!({"os-detach": {}})).await;
    demo.must(202, "DELETE", &path, Value::Null).await;
}

#[tokio::test]
async fn a_volume_goes_over_to_who_has_its_key() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (other, project) = tenant(&cloud, &admin, "other").await;
    let body = json!({"volume": {"size": 2, "name": "disk", "metadata": {"a": "b"}}});
    let id = text(&demo.must(202, "POST", "/volume/v3/volumes", body).await["volume"]["id"]).to_owned();
    let path = format!("/volume/v3/volumes/{id}");
    wait_for(&demo, &path, "volume", "available").await;
    let transfers = "/volume/v3/os-volume-transfer";
    let wanted = json!({"transfer": {"volume_id": id, "name": "gift"}});
    other.must(404, "POST", transfers, wanted.clone()).await;
    let made = demo.must(202, "POST", transfers, wanted.clone()).await["transfer"].clone();
    demo.must(400, "POST", transfers, wanted.clone()).await;
    assert_eq!(demo.get(&path).await["volume"]["status"], "awaiting-transfer");
    demo.must(400, "DELETE", &path, Value::Null).await;
    let one = format!("{transfers}/{}", text(&made["id"]));
    let shown = demo.get(&one).await["transfer"].clone();
    assert_eq!((&shown["volume_id"], shown.get("auth_key")), (&json!(id), None));
    assert_eq!(demo.get(transfers).await["transfers"][0]["name"], "gift");
    other.must(404, "GET", &one, Value::Null).await;
    demo.must(202, "DELETE", &one, Value::Null).await;
    assert_eq!(demo.get(&path).await["volume"]["status"], "available");

    let made = demo.must(202, "POST", "/volume/v3/volume-transfers", wanted).await["transfer"].clone();
    let accept = format!("{transfers}/{}/accept", text(&made["id"]));
    let key = |key: &Value| json!({"accept": {"auth_key": key}});
    other.must(400, "POST", &accept, key(&json!("guess"))).await;
    // What the quota refuses stays where it is, with its id.
    let quota = format!("/volume/v3/os-quota-sets/{project}");
    admin.must(200, "PUT", &quota, json!({"quota_set": {"gigabytes": 1}})).await;
    other.must(413, "POST", &accept, key(&made["auth_key"])).await;
    assert_eq!(demo.get(&path).await["volume"]["status"], "awaiting-transfer");
    admin.must(200, "PUT", &quota, json!({"quota_set": {"gigabytes": 10}})).await;
    let accepted = other.must(202, "POST", &accept, key(&made["auth_key"])).await["transfer"].clone();
    assert_eq!(accepted["volume_id"], id);
    demo.must(404, "GET", &path, Value::Null).await;
    assert_eq!(demo.get("/volume/v3/volumes").await["volumes"], json!([]));
    let taken = wait_for(&other, &path, "volume", "available").await;
    assert_eq!(
        (&taken["name"], &taken["metadata"], &taken["size"]),
        (&json!("disk"), &json!({"a": "b"}), &json!(2))
    );
    assert_eq!(
        (&taken["os-vol-tenant-attr:tenant_id"], &taken["source_volid"]),
        (&json!(project), &Value::Null)
    );
    other.must(404, "POST", &accept, key(&made["auth_key"])).await;
    other.must(202, "DELETE", &path, Value::Null).await;
}
