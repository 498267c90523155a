//! What actions on servers may not do, and how one gets out of those that went wrong.

use kube::api::{Api as Objects, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use yunfan_resources::compute::{KeyPair, VirtualMachine};

use super::{SERVERS, server, settled, tell};
use crate::support::client::{Client, flavor, image, tenant, text};
use crate::support::{Cloud, NODE, PASSWORD, start};

/// The only machine that there is.
async fn machine(cloud: &Cloud) -> VirtualMachine {
    let all = Objects::<VirtualMachine>::all(cloud.system.clone());
    all.list(&ListParams::default()).await.unwrap().items.remove(0)
}

/// Writes into the spec of the only machine, as its node would.
async fn write(cloud: &Cloud, spec: Value) {
    let vm = machine(cloud).await;
    let own = Objects::<VirtualMachine>::namespaced(
        cloud.system.clone(),
        &vm.metadata.namespace.unwrap_or_default(),
    );
    let patch = Patch::Merge(json!({"spec": spec}));
    own.patch(&vm.metadata.name.unwrap_or_default(), &PatchParams::default(), &patch).await.unwrap();
}

#[tokio::test]
async fn a_rescue_is_possible_and_ends() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, other, small) = (image(&demo).await, image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    let action = format!("{path}/action");
    admin.must(204, "POST", &format!("/image/v2/images/{os}/actions/deactivate"), Value::Null).await;
    demo.must(400, "POST", &action, json!({"rescue": null})).await;
    settled(&demo, &path, "ACTIVE").await;
    demo.must(200, "POST", &action, json!({"rescue": {"rescue_image_ref": other}})).await;
    settled(&demo, &path, "RESCUE").await;
    // The rescued guest powers itself off.
    write(&cloud, json!({"runState": "Stopped"})).await;
    settled(&demo, &path, "SHUTOFF").await;
    tell(&demo, &path, json!({"unrescue": null}), "ACTIVE").await;
    demo.must(409, "POST", &action, json!({"unrescue": null})).await;
}

#[tokio::test]
async fn the_root_disk_of_a_rescued_machine_needs_the_place_of_a_volume() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    for number in 0..8 {
        let body = json!({"volume": {"size": 1, "name": format!("v{number}")}});
        let volume = demo.must(202, "POST", "/volume/v3/volumes", body).await["volume"]["id"].clone();
        let at = format!("/volume/v3/volumes/{}", text(&volume));
        crate::support::client::wait_for(&demo, &at, "volume", "available").await;
        let body = json!({"volumeAttachment": {"volumeId": volume}});
        demo.must(200, "POST", &format!("{path}/os-volume_attachments"), body).await;
    }
    demo.must(400, "POST", &format!("{path}/action"), json!({"rescue": null})).await;
}

#[tokio::test]
async fn resizes_keep_to_the_node_and_can_be_taken_back() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    let action = format!("{path}/action");
    let make = |name: &'static str, ram: u32| {
        let body = json!({"flavor": {"name": name, "vcpus": 1, "ram": ram, "disk": 3}});
        let admin = admin.clone();
        async move {
            text(&admin.must(200, "POST", "/compute/v2.1/flavors", body).await["flavor"]["id"]).to_owned()
        }
    };
    // The node has 8 GiB, and QEMU takes a little of it.
    let (most, all) = (make("most", 7 << 10).await, make("all", 8 << 10).await);
    let told = demo.must(400, "POST", &action, json!({"resize": {"flavorRef": all}})).await;
    assert!(text(&told["badRequest"]["message"]).starts_with("No valid host was found."), "{told}");
    tell(&demo, &path, json!({"resize": {"flavorRef": most}}), "VERIFY_RESIZE").await;
    let second = server(&demo, &os, &small, json!({})).await;
    let told =
        demo.must(400, "POST", &format!("{second}/action"), json!({"resize": {"flavorRef": most}})).await;
    assert!(text(&told["badRequest"]["message"]).starts_with("No valid host was found."), "{told}");

    demo.must(204, "DELETE", &second, Value::Null).await;
    admin.must(202, "POST", &action, json!({"os-resetState": {"state": "error"}})).await;
    settled(&demo, &path, "ERROR").await;
    tell(&demo, &path, json!({"revertResize": null}), "ACTIVE").await;
    let flavor = demo.get(&path).await["server"]["flavor"].clone();
    assert_eq!((&flavor["ram"], &flavor["disk"]), (&json!(256), &json!(3)), "the disk has grown");
    admin.must(202, "POST", &action, json!({"os-resetState": {"state": "error"}})).await;
    demo.must(409, "POST", &action, json!({"revertResize": null})).await;
}

#[tokio::test]
async fn passwords_are_told_once_and_kept_nowhere() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let body = json!({"server": {"name": "web", "imageRef": os, "flavorRef": small, "networks": "none",
                                 "adminPass": "s3cret-at-first"}});
    let made = demo.must(202, "POST", SERVERS, body).await["server"].clone();
    assert_eq!(made["adminPass"], "s3cret-at-first");
    let path = format!("{SERVERS}/{}", text(&made["id"]));
    settled(&demo, &path, "ACTIVE").await;
    let action = format!("{path}/action");
    let body = json!({"rebuild": {"imageRef": os, "adminPass": "s3cret-anew"}});
    let rebuilt = demo.must(202, "POST", &action, body).await;
    assert_eq!(rebuilt["server"]["adminPass"], "s3cret-anew");
    settled(&demo, &path, "ACTIVE").await;
    let rescued = demo.must(200, "POST", &action, json!({"rescue": {"adminPass": "s3cret-rescue"}})).await;
    assert_eq!(rescued["adminPass"], "s3cret-rescue");
    let kept = serde_json::to_string(&raw(&cloud).await).unwrap();
    assert!(kept.contains("rescueImage") && !kept.contains("s3cret"), "{kept}");
}

/// The machines as the API server shows them.
async fn raw(cloud: &Cloud) -> Value {
    let request = http::Request::get("/apis/compute.yunfan.io/v1/virtualmachines").body(Vec::new()).unwrap();
    cloud.system.request::<Value>(request).await.unwrap()
}

#[tokio::test]
async fn what_an_admin_asks_for_is_made_in_the_servers_project() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let net = crate::network(&demo, "10.9.0.0/24").await;
    let path = server(&demo, &os, &small, json!({"networks": [{"uuid": net}]})).await;
    let home = machine(&cloud).await.metadata.namespace.unwrap_or_default();
    let interfaces = format!("{path}/os-interface");
    let added = admin.must(200, "POST", &interfaces, json!({"interfaceAttachment": {}})).await;
    assert_eq!(added["interfaceAttachment"]["net_id"], json!(net));
    admin.must(201, "POST", "/compute/v2.1/os-keypairs", json!({"keypair": {"name": "root"}})).await;
    let body = json!({"rebuild": {"imageRef": os, "key_name": "root"}});
    admin.must(202, "POST", &format!("{path}/action"), body).await;
    let name = machine(&cloud).await.spec.key_pair.expect("a key pair");
    let pairs = Objects::<KeyPair>::namespaced(cloud.system.clone(), &home);
    assert!(pairs.get_opt(&name).await.unwrap().is_some(), "the guest's node looks for it there");
}

#[tokio::test]
async fn a_host_is_in_one_zone() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let aggregates = "/compute/v2.1/os-aggregates";
    let make = |name: &'static str| {
        let admin = admin.clone();
        async move {
            let made = admin.must(200, "POST", aggregates, json!({"aggregate": {"name": name}})).await;
            format!("{aggregates}/{}", made["aggregate"]["id"])
        }
    };
    let (one, two) = (make("one").await, make("two").await);
    assert_ne!(one, two);
    let tell = |path: &str, status: u16, action: Value| {
        let (admin, path) = (admin.clone(), format!("{path}/action"));
        async move { admin.must(status, "POST", &path, action).await }
    };
    let zone = |zone: Option<&str>| json!({"set_metadata": {"metadata": {"availability_zone": zone}}});
    let host = |word: &str| json!({word: {"host": NODE}});
    tell(&one, 200, zone(Some("east"))).await;
    tell(&one, 200, host("add_host")).await;
    tell(&two, 200, host("add_host")).await;
    let told = tell(&two, 409, zone(Some("west"))).await;
    assert!(text(&told["conflictingRequest"]["message"]).contains("zone(s) west"), "{told}");
    // It is in the zone as long as one of them says so.
    let zones = || async {
        let all = admin.get("/compute/v2.1/os-availability-zone").await;
        all["availabilityZoneInfo"][0]["zoneName"].clone()
    };
    tell(&two, 200, zone(Some("east"))).await;
    tell(&one, 200, zone(None)).await;
    assert_eq!(zones().await, "east");
    tell(&two, 200, zone(None)).await;
    assert_eq!(zones().await, "nova");
    // A host with servers is not moved to a zone.
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    server(&demo, &image(&demo).await, &flavor(&admin).await, json!({})).await;
    tell(&two, 200, host("remove_host")).await;
    let three = make("three").await;
    tell(&three, 200, zone(Some("south"))).await;
    tell(&three, 409, host("add_host")).await;
}
