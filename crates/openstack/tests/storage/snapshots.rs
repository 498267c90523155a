//! Snapshots of volumes, and volumes made from them and from one another.

use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use yunfan_resources::image::Image;
use yunfan_resources::storage::VolumeSnapshot;

use super::{VOLUMES, becomes, volume};
use crate::support::client::{Client, flavor, image, tenant, text, wait_for};
use crate::support::{PASSWORD, start};

const SNAPSHOTS: &str = "/volume/v3/snapshots";

#[tokio::test]
async fn the_life_of_a_snapshot() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let of = volume(&demo, json!({"size": 2, "name": "data"})).await;
    demo.must(404, "POST", SNAPSHOTS, json!({"snapshot": {"volume_id": "none"}})).await;
    demo.must(400, "POST", SNAPSHOTS, json!({"snapshot": {"volume_id": of, "colour": 1}})).await;
    let body =
        json!({"snapshot": {"volume_id": of, "name": "before", "metadata": {"a": "b"}, "force": true}});
    let made = demo.must(202, "POST", SNAPSHOTS, body).await["snapshot"].clone();
    assert_eq!((&made["volume_id"], &made["size"]), (&json!(of), &json!(2)));
    let id = text(&made["id"]).to_owned();
    let path = format!("{SNAPSHOTS}/{id}");
    let shown = wait_for(&demo, &path, "snapshot", "available").await;
    assert_eq!(shown["os-extended-snapshot-attributes:progress"], "100%");
    assert_eq!(shown["os-extended-snapshot-attributes:project_id"], project.as_str());
    // In lists, under its project and none other.
    assert_eq!(demo.get(&format!("{SNAPSHOTS}?volume_id={of}")).await["snapshots"][0]["id"], id.as_str());
    let listed = demo.get(&format!("{SNAPSHOTS}/detail?status=available&limit=1")).await;
    assert_eq!(listed["snapshots"][0]["metadata"], json!({"a": "b"}));
    assert_eq!(demo.get(&format!("{SNAPSHOTS}?offset=1")).await["snapshots"], json!([]));
    assert_eq!(other.get(SNAPSHOTS).await["snapshots"], json!([]));
    other.must(404, "GET", &path, Value::Null).await;
    other.must(404, "DELETE", &path, Value::Null).await;
    let all = admin.get(&format!("{SNAPSHOTS}/detail?all_tenants=1")).await;
    assert_eq!(all["snapshots"][0]["os-extended-snapshot-attributes:project_id"], project.as_str());
    // Names and pairs.
    let changed = json!({"snapshot": {"name": "after", "description": "of mine"}});
    assert_eq!(demo.must(200, "PUT", &path, changed).await["snapshot"]["name"], "after");
    demo.must(200, "PUT", &format!("{path}/metadata"), json!({"metadata": {"c": "d"}})).await;
    demo.must(200, "PUT", &format!("{path}/metadata/e"), json!({"meta": {"e": "f"}})).await;
    demo.must(200, "DELETE", &format!("{path}/metadata/c"), Value::Null).await;
    assert_eq!(demo.get(&format!("{path}/metadata")).await["metadata"], json!({"e": "f"}));
    demo.must(404, "GET", &format!("{path}/metadata/c"), Value::Null).await;
    // It counts for the project's quota.
    let limits = &demo.get("/volume/v3/limits").await["limits"]["absolute"];
    assert_eq!(limits["maxTotalSnapshots"], -1);
    let set = format!("/volume/v3/os-quota-sets/{project}");
    admin.must(200, "PUT", &set, json!({"quota_set": {"snapshots": 1}})).await;
    let over = demo.must(413, "POST", SNAPSHOTS, json!({"snapshot": {"volume_id": of}})).await;
    assert!(text(&over["overLimit"]["message"]).contains("snapshots"), "{over}");
    // Its volume stays as long as it does.
    let kept = demo.must(400, "DELETE", &format!("{VOLUMES}/{of}"), Value::Null).await;
    assert!(text(&kept["badRequest"]["message"]).contains("1 dependent snapshots"), "{kept}");
    demo.must(403, "POST", &format!("{path}/action"), json!({"os-force_delete": {}})).await;
    // Also one that is not made yet, which may wait for long.
    let snapshots = kube::Api::<VolumeSnapshot>::namespaced(cloud.system.clone(), "demo");
    let waits = Patch::Merge(json!({"status": {"phase": "Creating"}}));
    snapshots.patch_status("before", &PatchParams::default(), &waits).await.unwrap();
    wait_for(&demo, &path, "snapshot", "creating").await;
    demo.must(202, "DELETE", &path, Value::Null).await;
    demo.must(404, "GET", &path, Value::Null).await;
    demo.must(202, "DELETE", &format!("{VOLUMES}/{of}"), Value::Null).await;
}

#[tokio::test]
async fn a_volume_is_busy_while_an_image_is_made_of_it() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let id = volume(&demo, json!({"size": 1, "name": "data"})).await;
    let upload = json!({"os-volume_upload_image": {"image_name": "of-data", "disk_format": "raw"}});
    let action = format!("{VOLUMES}/{id}/action");
    demo.must(202, "POST", &action, upload.clone()).await;
    assert_eq!(becomes(&demo, &id, "uploading").await["size"], 1);
    demo.must(400, "POST", &action, upload).await;
    demo.must(400, "POST", &action, json!({"os-extend": {"new_size": 2}})).await;
    demo.must(400, "DELETE", &format!("{VOLUMES}/{id}"), Value::Null).await;
    let images = kube::Api::<Image>::namespaced(cloud.system.clone(), "demo");
    let there = Patch::Merge(json!({"status": {"phase": "Active", "sizeBytes": 1}}));
    images.patch_status("of-data", &PatchParams::default(), &there).await.unwrap();
    becomes(&demo, &id, "available").await;
    demo.must(202, "DELETE", &format!("{VOLUMES}/{id}"), Value::Null).await;
}

#[tokio::test]
async fn volumes_begin_as_copies() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let os = image(&demo).await;
    let root = volume(&demo, json!({"size": 2, "imageRef": os})).await;
    let made = demo.must(202, "POST", SNAPSHOTS, json!({"snapshot": {"volume_id": root}})).await;
    let snapshot = text(&made["snapshot"]["id"]).to_owned();
    wait_for(&demo, &format!("{SNAPSHOTS}/{snapshot}"), "snapshot", "available").await;
    for (field, source) in [("snapshot_id", &snapshot), ("source_volid", &root)] {
        let create = |size: Value| json!({"volume": {"size": size, field: source}});
        demo.must(400, "POST", VOLUMES, create(json!(1))).await;
        other.must(404, "POST", VOLUMES, create(json!(2))).await;
        let made = demo.must(202, "POST", VOLUMES, create(Value::Null)).await;
        let copy = becomes(&demo, text(&made["volume"]["id"]), "available").await;
        assert_eq!((&copy["size"], &copy[field]), (&json!(2), &json!(source)));
        // It boots as what it is made from does, and is of the same image.
        assert_eq!(
            (&copy["bootable"], &copy["volume_image_metadata"]["image_id"]),
            (&json!("true"), &json!(os))
        );
        demo.must(202, "POST", VOLUMES, create(json!(3))).await;
    }
    demo.must(400, "POST", VOLUMES, json!({"volume": {"snapshot_id": snapshot, "source_volid": root}})).await;
    let cascade = format!("{VOLUMES}/{root}?cascade=true");
    demo.must(202, "DELETE", &cascade, Value::Null).await;
    demo.must(404, "GET", &format!("{SNAPSHOTS}/{snapshot}"), Value::Null).await;
    demo.must(404, "GET", &format!("{VOLUMES}/{root}"), Value::Null).await;
}

#[tokio::test]
async fn an_image_of_a_server_that_boots_from_a_volume_names_snapshots() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let servers = "/compute/v2.1/servers";
    let boot = json!({"uuid": os, "boot_index": 0, "source_type": "image", "destination_type": "volume",
                      "volume_size": 2, "delete_on_termination": true});
    let body = |more: Value| {
        let mut server = json!({"name": "web", "flavorRef": small, "networks": "none"});
        server.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"server": server})
    };
    let made = demo.must(202, "POST", servers, body(json!({"block_device_mapping_v2": [boot]}))).await;
    let path = format!("{servers}/{}", text(&made["server"]["id"]));
    wait_for(&demo, &path, "server", "ACTIVE").await;
    let action = json!({"createImage": {"name": "whole", "metadata": {"a": "b"}}});
    let answer = demo.ask_as("compute 2.45", "POST", &format!("{path}/action"), action).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let id = text(&answer.body["image_id"]).to_owned();
    let whole = demo.get(&format!("/image/v2/images/{id}")).await;
    assert_eq!((&whole["status"], &whole["size"], &whole["a"]), (&json!("active"), &json!(0), &json!("b")));
    let mapping: Value = serde_json::from_str(text(&whole["block_device_mapping"])).unwrap();
    let snapshot = format!("/volume/v3/snapshots/{}", text(&mapping[0]["snapshot_id"]));
    assert_eq!((&mapping[0]["boot_index"], &mapping[0]["volume_size"]), (&json!(0), &json!(2)));
    wait_for(&demo, &snapshot, "snapshot", "available").await;
    // It has nothing to download, and no server is rebuilt with it.
    demo.must(204, "GET", &format!("/image/v2/images/{id}/file"), Value::Null).await;

    let made = demo.must(202, "POST", servers, body(json!({"imageRef": id}))).await;
    let second = format!("{servers}/{}", text(&made["server"]["id"]));
    let shown = wait_for(&demo, &second, "server", "ACTIVE").await;
    let volume =
        format!("/volume/v3/volumes/{}", text(&shown["os-extended-volumes:volumes_attached"][0]["id"]));
    let volume = demo.get(&volume).await["volume"].clone();
    assert_eq!(volume["snapshot_id"], mapping[0]["snapshot_id"]);
    assert_eq!((&shown["image"], &volume["size"]), (&json!(""), &json!(2)));
    let copy = json!({"volume": {"size": 3, "imageRef": id}});
    let copy = demo.must(202, "POST", "/volume/v3/volumes", copy).await["volume"].clone();
    assert_eq!(copy["snapshot_id"], mapping[0]["snapshot_id"]);
    demo.must(204, "DELETE", &format!("/image/v2/images/{id}"), Value::Null).await;
}
