//! Images of servers, hosts, and flavors of what guests do not get.

use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use yunfan_resources::Identified;
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::image::Image;

use super::{SERVERS, server, tell};
use crate::support::client::{Client, flavor, image, tenant, text};
use crate::support::{NODE, PASSWORD, start};

/// Waits until nothing is at a path any more.
async fn gone(client: &Client, path: &str) {
    for _ in 0..300 {
        if client.ask("GET", path, Value::Null).await.status == 404 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("{path} is still there");
}

#[tokio::test]
async fn an_image_is_made_of_a_server() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    let action = format!("{path}/action");
    let wanted = json!({"createImage": {"name": "kept", "metadata": {"stage": "test"}}});
    demo.must(400, "POST", &action, json!({"createImage": {"name": "", "metadata": {}}})).await;
    demo.must(400, "POST", &action, json!({"createImage": {"name": "kept", "metadata": {"": "x"}}})).await;
    let told = demo.ask_as("compute 2.44", "POST", &action, wanted.clone()).await;
    let place = told.headers["location"].to_str().unwrap().to_owned();
    let id = place.rsplit('/').next().unwrap().to_owned();
    assert_eq!((told.status, place), (202, format!("https://cloud/image/v2/images/{id}")));
    let shown = demo.get(&format!("/image/v2/images/{id}")).await;
    let server_id = path.rsplit('/').next().unwrap();
    for (member, value) in [
        ("name", "kept"),
        ("status", "queued"),
        ("disk_format", "qcow2"),
        ("image_type", "snapshot"),
        ("stage", "test"),
        ("instance_uuid", server_id),
        ("base_image_ref", os.as_str()),
    ] {
        assert_eq!(shown[member], value, "{member}: {shown}");
    }
    // It takes no other data, and its server keeps its disk until it is there.
    let kept = demo.must(409, "POST", &action, json!({"rebuild": {"imageRef": os}})).await;
    assert!(text(&kept["conflictingRequest"]["message"]).contains("is being made of it"), "{kept}");
    let images = Api::<Image>::namespaced(cloud.system.clone(), "demo");
    let spec = images.get("kept").await.unwrap().spec;
    assert!(spec.source_machine.is_some() && spec.source_volume.is_none());
    let done = Patch::Merge(json!({"status": {"phase": "Active"}}));
    images.patch_status("kept", &PatchParams::default(), &done).await.unwrap();
    // Since 2.45 its id is in the body; a server that is off will do, one that is being changed will not.
    tell(&demo, &path, json!({"os-stop": null}), "SHUTOFF").await;
    let told = demo.ask_as("compute 2.45", "POST", &action, wanted.clone()).await;
    assert!(told.status == 202 && told.headers.get("location").is_none());
    demo.must(204, "DELETE", &format!("/image/v2/images/{}", text(&told.body["image_id"])), Value::Null)
        .await;
    tell(&demo, &path, json!({"shelve": null}), "SHELVED_OFFLOADED").await;
    demo.must(409, "POST", &action, wanted.clone()).await;
    tell(&demo, &path, json!({"unshelve": null}), "ACTIVE").await;
    // As with Nova, a server can be deleted all the same, and the image that can't be made any more goes, too.
    let told = demo.ask_as("compute 2.45", "POST", &action, wanted).await;
    let lost = format!("/image/v2/images/{}", text(&told.body["image_id"]));
    demo.get(&lost).await;
    demo.must(204, "DELETE", &path, Value::Null).await;
    gone(&demo, &lost).await;
}

#[tokio::test]
async fn a_server_has_a_config_drive_that_asks_for_it_or_whose_image_does() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let bad = json!({"server": {"name": "a", "imageRef": os, "flavorRef": small, "config_drive": "perhaps"}});
    demo.must(400, "POST", SERVERS, bad).await;
    let machines = Api::<VirtualMachine>::namespaced(cloud.system.clone(), "demo");
    let mut expected = vec![(json!({}), "", false), (json!({"config_drive": "True"}), "True", true)];
    for round in 0..2 {
        for (more, word, has) in &expected {
            let path = server(&demo, &os, &small, more.clone()).await;
            assert_eq!(demo.get(&path).await["server"]["config_drive"], *word);
            let id = path.rsplit('/').next().unwrap();
            let all = machines.list(&ListParams::default()).await.unwrap();
            let vm = all.into_iter().find(|vm| vm.id() == id).unwrap();
            assert_eq!(vm.spec.config_drive, *has, "{round}");
        }
        let images = Api::<Image>::namespaced(cloud.system.clone(), "demo");
        for image in images.list(&ListParams::default()).await.unwrap() {
            let wish = Patch::Merge(json!({"spec": {"properties": {"img_config_drive": "mandatory"}}}));
            let name = image.metadata.name.unwrap_or_default();
            images.patch(&name, &PatchParams::default(), &wish).await.unwrap();
        }
        expected = vec![(json!({}), "True", true), (json!({"config_drive": false}), "True", true)];
    }
}

#[tokio::test]
async fn images_are_told_in_novas_words_until_they_were_given_up() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let images = "/compute/v2.1/images";
    let path = server(&demo, &os, &small, json!({})).await;
    let wanted = json!({"createImage": {"name": "kept", "metadata": {"stage": "test"}}});
    let told = demo.ask_as("compute 2.45", "POST", &format!("{path}/action"), wanted).await;
    let kept = text(&told.body["image_id"]).to_owned();
    let server_id = path.rsplit('/').next().unwrap();
    // Before they were given up.
    let old = |who: &Client, status: u16, method: &'static str, path: String, body: Value| {
        let who = who.clone();
        async move {
            let answer = who.ask_as("compute 2.35", method, &path, body).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
            answer.body
        }
    };
    let get = |path: String| old(&demo, 200, "GET", path, Value::Null);
    let shown = get(format!("{images}/{kept}")).await["image"].clone();
    assert_eq!(
        (&shown["status"], &shown["progress"], &shown["name"]),
        (&json!("SAVING"), &json!(25), &json!("kept"))
    );
    assert_eq!((&shown["server"]["id"], &shown["metadata"]["stage"]), (&json!(server_id), &json!("test")));
    let base = get(format!("{images}/{os}")).await["image"].clone();
    assert_eq!(
        (&base["status"], &base["progress"], base.get("server")),
        (&json!("ACTIVE"), &json!(100), None)
    );
    assert_eq!(base["links"][2]["rel"], "alternate");
    let listed = |query: &str| {
        let answer = get(format!("{images}{query}"));
        async move {
            let all = answer.await["images"].as_array().unwrap().clone();
            all.iter().map(|image| text(&image["id"]).to_owned()).collect::<Vec<_>>()
        }
    };
    assert_eq!(listed("").await.len(), 2);
    assert_eq!(listed("?type=snapshot").await, [kept.as_str()]);
    assert_eq!(listed("/detail?status=ACTIVE").await, [os.as_str()]);
    assert_eq!(listed(&format!("/detail?server=https://cloud{path}")).await, [kept.as_str()]);
    assert_eq!(listed("?changes-since=2100-01-01T00:00:00Z").await, [""; 0]);
    assert_eq!(listed("?limit=1").await.len(), 1);
    old(&demo, 400, "GET", format!("{images}?changes-since=x"), Value::Null).await;
    old(&other, 404, "GET", format!("{images}/{os}"), Value::Null).await;

    let at = format!("{images}/{os}/metadata");
    let set = json!({"metadata": {"os_version": "1", "os_distro": "2"}});
    assert_eq!(old(&demo, 200, "PUT", at.clone(), set.clone()).await, set);
    let more = json!({"metadata": {"os_version": "3"}});
    assert_eq!(
        old(&demo, 200, "POST", at.clone(), more).await["metadata"],
        json!({"os_version": "3", "os_distro": "2"})
    );
    let one = json!({"meta": {"os_version": "4"}});
    assert_eq!(old(&demo, 200, "PUT", format!("{at}/os_version"), one.clone()).await, one);
    old(&demo, 400, "PUT", format!("{at}/other"), one).await;
    old(&demo, 400, "POST", at.clone(), json!({"metadata": {"visibility": "public"}})).await;
    assert_eq!(get(format!("{at}/os_distro")).await, json!({"meta": {"os_distro": "2"}}));
    old(&demo, 204, "DELETE", format!("{at}/os_distro"), Value::Null).await;
    for method in ["GET", "DELETE"] {
        old(&demo, 404, method, format!("{at}/os_distro"), Value::Null).await;
    }
    assert_eq!(get(at.clone()).await, json!({"metadata": {"os_version": "4"}}));
    assert_eq!(demo.get(&format!("/image/v2/images/{os}")).await["os_version"], "4");
    old(&other, 404, "PUT", at.clone(), set).await;

    for (version, path, status) in [
        ("compute 2.35", format!("{images}/{os}"), 200),
        ("compute 2.36", format!("{images}/{os}"), 404),
        ("compute 2.36", images.to_owned(), 404),
        ("compute 2.38", at.clone(), 200),
        ("compute 2.39", at.clone(), 404),
    ] {
        let answer = demo.ask_as(version, "GET", &path, Value::Null).await;
        assert_eq!(answer.status, status, "{version} {path}");
    }
    let kept = format!("{images}/{kept}");
    old(&other, 404, "DELETE", kept.clone(), Value::Null).await;
    old(&demo, 204, "DELETE", kept.clone(), Value::Null).await;
    old(&demo, 404, "GET", kept.clone(), Value::Null).await;
}

#[tokio::test]
async fn hosts_are_nodes_until_they_were_given_up() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let hosts = "/compute/v2.1/os-hosts";
    let one = format!("{hosts}/{NODE}");
    let old = |status: u16, method: &'static str, path: String, body: Value| {
        let admin = admin.clone();
        async move {
            let answer = admin.ask_as("compute 2.42", method, &path, body).await;
            assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
            answer.body
        }
    };
    let get = |query: &str| old(200, "GET", format!("{hosts}{query}"), Value::Null);
    let all = get("").await["hosts"].clone();
    assert_eq!(all[0], json!({"host_name": NODE, "service": "compute", "zone": "nova"}));
    assert_eq!((&all[1]["service"], &all[1]["zone"]), (&json!("scheduler"), &json!("internal")));
    assert_eq!(get("?zone=xxx").await["hosts"], json!([]));
    assert_eq!(get("?zone=").await["hosts"][0]["host_name"], NODE);
    assert_eq!(get(&format!("/{NODE}")).await["host"][0]["resource"]["cpu"], 4);
    assert_eq!(demo.ask_as("compute 2.42", "GET", hosts, Value::Null).await.status, 403);
    old(404, "GET", format!("{hosts}/none"), Value::Null).await;
    old(400, "PUT", one.clone(), json!({"status": "invalid"})).await;
    old(400, "PUT", one.clone(), json!({})).await;
    old(404, "PUT", format!("{hosts}/none"), json!({"status": "enable"})).await;
    old(501, "PUT", one.clone(), json!({"maintenance_mode": "enable"})).await;
    assert_eq!(old(200, "PUT", one.clone(), json!({"status": "disable"})).await["status"], "disabled");
    assert_eq!(admin.get("/compute/v2.1/os-services").await["services"][0]["status"], "disabled");
    old(404, "GET", format!("{hosts}/none/reboot"), Value::Null).await;
    old(501, "GET", format!("{one}/reboot"), Value::Null).await;
    assert_eq!(admin.ask_as("compute 2.43", "GET", hosts, Value::Null).await.status, 404);
}

#[tokio::test]
async fn no_server_has_a_flavor_of_what_guests_do_not_get() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let body = json!({"flavor": {"name": "large", "vcpus": 1, "ram": 256, "disk": 2, "swap": 64,
        "OS-FLV-EXT-DATA:ephemeral": 1, "rxtx_factor": 2}});
    let made = admin.must(200, "POST", "/compute/v2.1/flavors", body).await["flavor"].clone();
    assert_eq!((&made["swap"], &made["OS-FLV-EXT-DATA:ephemeral"]), (&json!(64), &json!(1)));
    assert_eq!(made["rxtx_factor"], json!(2.0));
    let create =
        json!({"server": {"name": "box", "flavorRef": made["id"], "imageRef": os, "networks": "none"}});
    let refused = demo.must(400, "POST", SERVERS, create).await;
    assert!(text(&refused["badRequest"]["message"]).contains("swap"), "{refused}");
    let path = server(&demo, &os, &small, json!({})).await;
    let resize = json!({"resize": {"flavorRef": made["id"]}});
    demo.must(400, "POST", &format!("{path}/action"), resize).await;
}

#[tokio::test]
async fn limits_are_told_with_what_is_used_of_them() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    demo.must(201, "POST", "/network/v2.0/security-groups", json!({"security_group": {"name": "own"}})).await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    server(&demo, &os, &small, json!({})).await;
    let told = demo.ask_as("compute 2.1", "GET", "/compute/v2.1/limits", Value::Null).await.body;
    let of = |name: &str| told["limits"]["absolute"][name].clone();
    assert_eq!((of("maxServerMeta"), of("totalFloatingIpsUsed")), (json!(128), json!(0)));
    assert!(of("totalSecurityGroupsUsed").as_i64() > Some(0), "{told}");
    assert_eq!(
        (of("totalInstancesUsed"), of("totalCoresUsed"), of("totalRAMUsed")),
        (json!(1), json!(1), json!(256))
    );
    // As Nova has it with Neutron, and no limit of a user's own.
    let set = format!("/compute/v2.1/os-quota-sets/{project}");
    let old = admin.ask_as("compute 2.1", "GET", &set, Value::Null).await.body;
    assert!(old["quota_set"].get("networks").is_none() && old["quota_set"]["floating_ips"] == -1, "{old}");
    admin.must(501, "PUT", &format!("{set}?user_id=x"), json!({"quota_set": {"ram": 1}})).await;
    demo.must(400, "POST", "/compute/v2.1/os-keypairs", json!({"keypair": {"name": "key_/.:"}})).await;
}

#[tokio::test]
async fn backups_replace_one_another() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let path = server(&demo, &os, &small, json!({})).await;
    let action = format!("{path}/action");
    let backup = |name: &str, rotation: Value| json!({"createBackup": {"name": name, "backup_type": "daily", "rotation": rotation}});
    demo.must(400, "POST", &action, backup("one", json!(-1))).await;
    demo.must(400, "POST", &action, json!({"createBackup": {"name": "one", "rotation": 1}})).await;
    let images = Api::<Image>::namespaced(cloud.system.clone(), "demo");
    let mut made = Vec::new();
    for name in ["one", "two"] {
        let told = demo.ask_as("compute 2.45", "POST", &action, backup(name, json!(1))).await;
        assert_eq!(told.status, 202, "{}", told.body);
        let id = text(&told.body["image_id"]).to_owned();
        let shown = demo.get(&format!("/image/v2/images/{id}")).await;
        assert_eq!((&shown["image_type"], &shown["backup_type"]), (&json!("backup"), &json!("daily")));
        // One image of a server is made at a time.
        let busy = demo.must(409, "POST", &action, backup("more", json!(1))).await;
        assert!(text(&busy["conflictingRequest"]["message"]).contains("image_snapshot"), "{busy}");
        if let Some(before) = made.last() {
            // The one before stays until this one is there.
            demo.must(200, "GET", &format!("/image/v2/images/{before}"), Value::Null).await;
        }
        let done = Patch::Merge(json!({"status": {"phase": "Active"}}));
        images.patch_status(name, &PatchParams::default(), &done).await.unwrap();
        made.push(id);
    }
    for _ in 0..1000 {
        if images.get_opt("one").await.unwrap().is_none() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    demo.must(404, "GET", &format!("/image/v2/images/{}", made[0]), Value::Null).await;
    demo.must(200, "GET", &format!("/image/v2/images/{}", made[1]), Value::Null).await;
    demo.must(202, "POST", &action, backup("none", json!(0))).await;
    demo.must(404, "GET", &format!("/image/v2/images/{}", made[1]), Value::Null).await;
}
