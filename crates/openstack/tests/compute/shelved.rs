//! Servers that leave their node while they are shelved.

use kube::api::{Api, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::image::{DiskFormat, Image, ImageSpec};

use super::{SERVERS, server, settled, tell};
use crate::support::client::{Client, flavor, image, tenant, text, wait_for};
use crate::support::{PASSWORD, start};

async fn shelved_images(client: &Client, name: &str) -> Vec<Value> {
    let all = client.get(&format!("/image/v2/images?name={name}")).await;
    all["images"].as_array().cloned().unwrap_or_default()
}

#[tokio::test]
async fn a_shelved_server_is_on_no_host_and_its_image_goes_with_its_return() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    let action = format!("{path}/action");
    let id = text(&demo.get(&path).await["server"]["id"]).to_owned();
    let events = "/compute/v2.1/os-server-external-events";
    let event = json!({"events": [{"name": "network-changed", "server_uuid": id}]});
    demo.must(403, "POST", events, event.clone()).await;
    assert_eq!(admin.must(200, "POST", events, event.clone()).await["events"][0]["code"], 200);
    tell(&demo, &path, json!({"shelve": null}), "SHELVED_OFFLOADED").await;
    assert_eq!(admin.must(207, "POST", events, event).await["events"][0]["code"], 422, "it is on no host");
    let shown = admin.get(&path).await["server"].clone();
    assert_eq!(shown["OS-EXT-SRV-ATTR:host"], Value::Null);
    assert_eq!(shown["OS-EXT-STS:vm_state"], "shelved_offloaded");
    let images = shelved_images(&demo, "web-shelved").await;
    assert_eq!(images.len(), 1, "{images:?}");
    // Its disk is in there.
    let kept = format!("/image/v2/images/{}", text(&images[0]["id"]));
    demo.must(409, "DELETE", &kept, Value::Null).await;
    for refused in [json!({"shelve": null}), json!({"os-start": null}), json!({"createImage": {"name": "i"}})]
    {
        demo.must(409, "POST", &action, refused).await;
    }
    demo.must(403, "POST", &action, json!({"shelveOffload": null})).await;
    admin.must(409, "POST", &action, json!({"shelveOffload": null})).await;

    demo.must(400, "POST", &action, json!({"unshelve": {"host": "n1"}})).await;
    let nowhere = json!({"unshelve": {"availability_zone": "moon"}});
    demo.must(400, "POST", &action, nowhere).await;
    let there = json!({"unshelve": {"availability_zone": "nova"}});
    demo.must(202, "POST", &action, there).await;
    settled(&demo, &path, "ACTIVE").await;
    for _ in 0..300 {
        if shelved_images(&demo, "web-shelved").await.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(shelved_images(&demo, "web-shelved").await.len(), 0, "a server that runs needs no image");
    demo.must(409, "POST", &action, json!({"unshelve": null})).await;

    // One that is deleted leaves nothing.
    tell(&demo, &path, json!({"shelve": null}), "SHELVED_OFFLOADED").await;
    demo.must(204, "DELETE", &path, Value::Null).await;
    for _ in 0..300 {
        if shelved_images(&demo, "web-shelved").await.is_empty() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the image of a deleted server is still there");
}

#[tokio::test]
async fn one_that_boots_from_a_volume_keeps_it_and_gets_more() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let root = json!([{"uuid": os, "source_type": "image", "destination_type": "volume", "boot_index": 0,
        "volume_size": 1, "delete_on_termination": true}]);
    let spec = json!({"server": {"name": "web", "flavorRef": small, "networks": "none", "block_device_mapping_v2": root}});
    let made = demo.must(202, "POST", SERVERS, spec).await;
    let path = format!("{SERVERS}/{}", text(&made["server"]["id"]));
    wait_for(&demo, &path, "server", "ACTIVE").await;
    tell(&demo, &path, json!({"shelve": null}), "SHELVED_OFFLOADED").await;
    assert_eq!(shelved_images(&demo, "web-shelved").await.len(), 0);
    let volume = json!({"volume": {"size": 1, "name": "data"}});
    let volume = demo.must(202, "POST", "/volume/v3/volumes", volume).await["volume"].clone();
    let of_volume = format!("/volume/v3/volumes/{}", text(&volume["id"]));
    wait_for(&demo, &of_volume, "volume", "available").await;
    let attachments = format!("{path}/os-volume_attachments");
    demo.must(200, "POST", &attachments, json!({"volumeAttachment": {"volumeId": volume["id"]}})).await;
    wait_for(&demo, &of_volume, "volume", "in-use").await;
    assert_eq!(demo.get(&of_volume).await["volume"]["attachments"].as_array().map(Vec::len), Some(1));
    tell(&demo, &path, json!({"unshelve": null}), "ACTIVE").await;
    assert_eq!(demo.get(&attachments).await["volumeAttachments"].as_array().map(Vec::len), Some(2));
}

/// Waits until a machine names no image that it is shelved into, and the image of this name is gone.
async fn is_let_go(machines: &Api<VirtualMachine>, machine: &str, images: &Api<Image>, image: &str) {
    for _ in 0..300 {
        let named = machines.get(machine).await.unwrap().spec.shelved_image;
        if named.is_none() && images.get_opt(image).await.unwrap().is_none() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{image} is still there, or still named by {machine}");
}

#[tokio::test]
async fn a_machine_is_shelved_into_its_own_image_alone_and_keeps_the_only_copy_of_its_disk() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    let action = format!("{path}/action");
    tell(&demo, &path, json!({"os-stop": null}), "SHUTOFF").await;
    let machines = Api::<VirtualMachine>::namespaced(cloud.system.clone(), "demo");
    let images = Api::<Image>::namespaced(cloud.system.clone(), "demo");
    let vm = machines.list(&ListParams::default()).await.unwrap().items.remove(0);
    let (name, uid) = (vm.metadata.name.clone().unwrap(), vm.metadata.uid.clone().unwrap());
    let write = async |spec: Value| {
        machines.patch(&name, &PatchParams::default(), &Patch::Merge(json!({"spec": spec}))).await
    };
    let code = |written: kube::Result<VirtualMachine>| match written {
        Err(kube::Error::Api(told)) => (told.code, told.message),
        other => panic!("{other:?}"),
    };
    let make = async |image: &str| {
        let spec = ImageSpec {
            display_name: Some(image.to_owned()),
            disk_format: DiskFormat::Qcow2,
            source_machine: Some(name.clone()),
            ..ImageSpec::default()
        };
        let mut image = Image::new(image, spec);
        image.mark_shelved(&uid);
        images.create(&PostParams::default(), &image).await.unwrap();
    };
    for other in ["others/kept", "nothing", vm.spec.image.as_deref().unwrap()] {
        let (status, message) = code(write(json!({"shelvedImage": other})).await);
        assert!(status == 422 && message.contains("spec.shelvedImage"), "{other}: {message}");
    }
    make("first").await;
    let mut another = VirtualMachine::new("another", vm.spec.clone());
    (another.spec.id, another.spec.shelved_image) = (None, Some("first".into()));
    another.spec.node_name = None;
    let (status, message) = code(machines.create(&PostParams::default(), &another).await);
    assert!(status == 422 && message.contains("spec.shelvedImage"), "{message}");

    // As where it could not be brought back, and was told to be off: nobody says that it has another disk.
    let done = Patch::Merge(json!({"status": {"phase": "Active"}}));
    images.patch_status("first", &PatchParams::default(), &done).await.unwrap();
    write(json!({"shelvedImage": "first"})).await.unwrap();
    demo.must(409, "POST", &action, json!({"shelve": null})).await;
    let (status, message) = code(write(json!({"runState": "Shelved"})).await);
    assert!(status == 409 && message.contains("only copy"), "{message}");
    assert_eq!(machines.get(&name).await.unwrap().spec.shelved_image.as_deref(), Some("first"));
    assert!(images.get_opt("first").await.unwrap().is_some());
    tell(&demo, &path, json!({"os-start": null}), "ACTIVE").await;
    is_let_go(&machines, &name, &images, "first").await;

    // One that was never made holds nobody up.
    tell(&demo, &path, json!({"os-stop": null}), "SHUTOFF").await;
    make("second").await;
    write(json!({"shelvedImage": "second"})).await.unwrap();
    is_let_go(&machines, &name, &images, "second").await;
    tell(&demo, &path, json!({"shelve": null}), "SHELVED_OFFLOADED").await;
    tell(&demo, &path, json!({"unshelve": null}), "ACTIVE").await;
}
