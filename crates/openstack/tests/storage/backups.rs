//! Backups of volumes.

use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use yunfan_resources::image::Image;
use yunfan_resources::storage::Volume;

use super::{VOLUMES, becomes, volume};
use crate::support::client::{Client, tenant, text, wait_for};
use crate::support::{PASSWORD, start};

const BACKUPS: &str = "/volume/v3/backups";

#[tokio::test]
async fn the_life_of_a_backup() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let of = volume(&demo, json!({"size": 2, "name": "data", "metadata": {"a": "b"}})).await;
    for wrong in [json!({"incremental": true}), json!({"colour": 1})] {
        let mut body = json!({"backup": {"volume_id": of}});
        body["backup"].as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        demo.must(400, "POST", BACKUPS, body).await;
    }
    other.must(404, "POST", BACKUPS, json!({"backup": {"volume_id": of}})).await;
    let body = json!({"backup": {"volume_id": of, "name": "nightly", "description": "of mine"}});
    let made = demo.must(202, "POST", BACKUPS, body.clone()).await["backup"].clone();
    let (id, path) = (text(&made["id"]).to_owned(), format!("{BACKUPS}/{}", text(&made["id"])));
    // One thing is done with a volume at a time.
    becomes(&demo, &of, "backing-up").await;
    demo.must(400, "POST", BACKUPS, body).await;
    demo.must(400, "DELETE", &path, Value::Null).await;
    demo.must(400, "POST", &format!("{path}/restore"), json!({"restore": {}})).await;
    let images = Api::<Image>::namespaced(cloud.system.clone(), "demo");
    assert_eq!(images.get("nightly").await.unwrap().spec.source_volume.as_deref(), Some("data"));
    let done = Patch::Merge(json!({"status": {"phase": "Active", "sha512": "00"}}));
    images.patch_status("nightly", &PatchParams::default(), &done).await.unwrap();
    let shown = wait_for(&demo, &path, "backup", "available").await;
    assert_eq!(
        (&shown["volume_id"], &shown["size"], &shown["description"]),
        (&json!(of), &json!(2), &json!("of mine"))
    );
    becomes(&demo, &of, "available").await;
    // It is Cinder's, and no image of Glance's or Nova's; of its own project alone.
    assert_eq!(demo.get("/image/v2/images").await["images"], json!([]));
    for image in [format!("/image/v2/images/{id}"), format!("/compute/v2.1/images/{id}")] {
        demo.must(404, "GET", &image, Value::Null).await;
    }
    assert_eq!(demo.get(&format!("{BACKUPS}/detail?volume_id={of}")).await["backups"][0]["name"], "nightly");
    assert_eq!(other.get(BACKUPS).await["backups"], json!([]));
    other.must(404, "GET", &path, Value::Null).await;
    assert_eq!(admin.get(&format!("{BACKUPS}?all_tenants=1")).await["backups"][0]["id"], id.as_str());
    let limits = &demo.get("/volume/v3/limits").await["limits"]["absolute"];
    assert_eq!((&limits["totalBackupsUsed"], &limits["totalBackupGigabytesUsed"]), (&json!(1), &json!(2)));
    let usage = demo.get(&format!("/volume/v3/os-quota-sets/{project}?usage=True")).await;
    assert_eq!(usage["quota_set"]["backups"]["in_use"], 1);
    let rename = json!({"backup": {"name": "weekly"}});
    assert_eq!(demo.ask_as("volume 3.8", "PUT", &path, rename.clone()).await.status, 404);
    let told = demo.ask_as("volume 3.9", "PUT", &path, rename).await;
    assert_eq!((told.status, &told.body["backup"]["name"]), (200, &json!("weekly")));
    // It outlives its volume, and becomes another.
    demo.must(202, "DELETE", &format!("{VOLUMES}/{of}"), Value::Null).await;
    demo.must(400, "POST", &format!("{path}/restore"), json!({"restore": {"volume_id": of}})).await;
    let told =
        demo.must(202, "POST", &format!("{path}/restore"), json!({"restore": {"name": "again"}})).await;
    let restored = text(&told["restore"]["volume_id"]).to_owned();
    assert_eq!(
        (&told["restore"]["backup_id"], &told["restore"]["volume_name"]),
        (&json!(id), &json!("again"))
    );
    let shown = becomes(&demo, &restored, "available").await;
    assert_eq!(
        (&shown["size"], &shown["bootable"], &shown["metadata"]),
        (&json!(2), &json!("false"), &json!({"a": "b"}))
    );
    assert!(shown.get("volume_image_metadata").is_none(), "{shown}");
    let volumes = Api::<Volume>::namespaced(cloud.system.clone(), "demo");
    assert_eq!(volumes.get("again").await.unwrap().spec.image.as_deref(), Some("nightly"));
    demo.must(202, "DELETE", &format!("{VOLUMES}/{restored}"), Value::Null).await;
    // An administrator marks it as broken.
    let reset = json!({"os-reset_status": {"status": "error"}});
    demo.must(403, "POST", &format!("{path}/action"), reset.clone()).await;
    admin.must(202, "POST", &format!("{path}/action"), reset).await;
    wait_for(&demo, &path, "backup", "error").await;
    demo.must(501, "GET", &format!("{path}/export_record"), Value::Null).await;
    demo.must(202, "DELETE", &path, Value::Null).await;
    demo.must(404, "GET", &path, Value::Null).await;
}

#[tokio::test]
async fn a_backup_of_a_snapshot_is_of_what_that_holds() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let of = volume(&demo, json!({"size": 1, "name": "data"})).await;
    let second = volume(&demo, json!({"size": 1, "name": "more"})).await;
    let body = json!({"snapshot": {"volume_id": of, "name": "then"}});
    let made = demo.must(202, "POST", "/volume/v3/snapshots", body).await;
    let taken = text(&made["snapshot"]["id"]).to_owned();
    let at = format!("/volume/v3/snapshots/{taken}");
    wait_for(&demo, &at, "snapshot", "available").await;
    demo.must(202, "POST", &format!("{VOLUMES}/{of}/action"), json!({"os-extend": {"new_size": 2}})).await;
    becomes(&demo, &of, "available").await;
    let ask = |volume: &str, snapshot: &str| json!({"backup": {"volume_id": volume, "snapshot_id": snapshot, "name": "b"}});
    demo.must(404, "POST", BACKUPS, ask(&of, "none")).await;
    demo.must(400, "POST", BACKUPS, ask(&second, &taken)).await;
    let made = demo.must(202, "POST", BACKUPS, ask(&of, &taken)).await["backup"].clone();
    let path = format!("{BACKUPS}/{}", text(&made["id"]));
    let shown = demo.get(&path).await["backup"].clone();
    assert_eq!(
        (&shown["volume_id"], &shown["snapshot_id"], &shown["size"]),
        (&json!(of), &json!(taken), &json!(1))
    );
    // The volume is free, and the snapshot stays until the backup is there.
    becomes(&demo, &of, "available").await;
    demo.must(400, "DELETE", &at, Value::Null).await;
    let images = Api::<Image>::namespaced(cloud.system.clone(), "demo");
    let image = images.get("b").await.unwrap();
    assert_eq!(
        (image.spec.source_volume.as_deref(), image.spec.source_snapshot.as_deref()),
        (None, Some("then"))
    );
    let done = Patch::Merge(json!({"status": {"phase": "Active", "sha512": "00"}}));
    images.patch_status("b", &PatchParams::default(), &done).await.unwrap();
    wait_for(&demo, &path, "backup", "available").await;
    demo.must(202, "DELETE", &at, Value::Null).await;
    let again = json!({"spec": {"sourceSnapshot": "other"}});
    assert!(
        images.patch("b", &PatchParams::default(), &Patch::Merge(again)).await.is_err(),
        "it stays what it was"
    );
}
