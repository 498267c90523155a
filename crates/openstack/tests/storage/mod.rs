//! Volumes and placement through the door, asked as OpenStack's clients ask.

mod backups;
mod defaults;
mod groups;
mod images;
mod messages;
mod metadefs;
mod outside;
mod snapshots;
mod types;

use serde_json::{Value, json};

use crate::support::client::{Client, flavor, image, tenant, text, wait_for};
use crate::support::{PASSWORD, start};

const VOLUMES: &str = "/volume/v3/volumes";

/// A volume of `client`'s project, once it is available.
async fn volume(client: &Client, spec: Value) -> String {
    let made = client.must(202, "POST", VOLUMES, json!({"volume": spec})).await;
    assert_eq!(made["volume"]["status"], "creating");
    let id = text(&made["volume"]["id"]).to_owned();
    becomes(client, &id, "available").await;
    id
}

async fn becomes(client: &Client, id: &str, status: &str) -> Value {
    wait_for(client, &format!("{VOLUMES}/{id}"), "volume", status).await
}

#[tokio::test]
async fn versions_and_paths() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let root = demo.ask("GET", "/volume/", Value::Null).await;
    assert_eq!((root.status, &root.body["versions"][0]["version"]), (300, &json!("3.67")));
    assert_eq!(demo.get("/volume/v3/").await["versions"][0]["id"], "v3.0");
    assert_eq!(demo.get(&format!("/volume/v3/{project}/volumes/detail")).await, json!({"volumes": []}));
    demo.must(400, "GET", &format!("/volume/v3/{}/volumes", "0".repeat(32)), Value::Null).await;
    let missing = demo.must(404, "GET", "/volume/v3/qos-things", Value::Null).await;
    assert_eq!(missing["itemNotFound"]["code"], 404);
    let odd = demo.ask_as("volume 3.999", "GET", VOLUMES, Value::Null).await;
    assert_eq!((odd.status, &odd.body["notAcceptable"]["code"]), (406, &json!(406)));
    let spoken = demo.ask_as("volume 3.50", "GET", VOLUMES, Value::Null).await;
    assert_eq!(spoken.headers["openstack-api-version"], "volume 3.50");
}

#[tokio::test]
async fn the_life_of_a_volume() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let os = image(&demo).await;
    let body = json!({"volume_type": {"name": "fast", "os-volume-type-access:is_public": true}});
    let kind = admin.must(200, "POST", "/volume/v3/types", body.clone()).await;
    admin.must(409, "POST", "/volume/v3/types", body).await;
    let refused = demo.ask("POST", "/volume/v3/types", json!({"volume_type": {"name": "own"}})).await;
    assert_eq!((refused.status, &refused.body["forbidden"]["code"]), (403, &json!(403)));
    let spec =
        json!({"size": 2, "name": "root", "imageRef": os, "volume_type": "fast", "metadata": {"a": "b"}});
    let id = volume(&demo, spec).await;
    let shown = &demo.get(&format!("{VOLUMES}/{id}")).await["volume"];
    assert_eq!(
        (&shown["bootable"], &shown["volume_type"], &shown["size"]),
        (&json!("true"), &json!("fast"), &json!(2))
    );
    assert_eq!(shown["volume_image_metadata"]["image_id"], os.as_str());
    let in_use = admin
        .must(400, "DELETE", &format!("/volume/v3/types/{}", text(&kind["volume_type"]["id"])), Value::Null)
        .await;
    assert!(text(&in_use["badRequest"]["message"]).contains("still in use"));
    let changed = json!({"volume": {"name": "disk", "description": "of mine"}});
    assert_eq!(demo.must(200, "PUT", &format!("{VOLUMES}/{id}"), changed).await["volume"]["name"], "disk");
    demo.must(200, "PUT", &format!("{VOLUMES}/{id}/metadata"), json!({"metadata": {"c": "d"}})).await;
    assert_eq!(demo.get(&format!("{VOLUMES}/{id}/metadata")).await["metadata"], json!({"c": "d"}));
    // A tenant sees its own.
    other.must(404, "GET", &format!("{VOLUMES}/{id}"), Value::Null).await;
    assert_eq!(other.get(VOLUMES).await["volumes"], json!([]));
    assert_eq!(
        admin.get(&format!("{VOLUMES}?all_tenants=1&name=disk")).await["volumes"][0]["id"],
        id.as_str()
    );
    let extend = |size: u32| json!({"os-extend": {"new_size": size}});
    let action = format!("{VOLUMES}/{id}/action");
    demo.must(400, "POST", &action, extend(2)).await;
    demo.must(202, "POST", &action, extend(3)).await;
    assert_eq!(becomes(&demo, &id, "available").await["size"], 3);
    demo.must(501, "POST", &action, json!({"os-migrate_volume": {"host": "x"}})).await;
    demo.must(400, "POST", &action, json!({"os-dance": {}})).await;
    for wrong in [
        json!({"size": 0}),
        json!({"size": 1, "backup_id": "x"}),
        json!({"size": 1, "imageRef": "none"}),
        json!({"size": 1, "availability_zone": "mars"}),
    ] {
        demo.must(400, "POST", VOLUMES, json!({"volume": wrong})).await;
    }
    demo.must(404, "POST", VOLUMES, json!({"volume": {"size": 1, "volume_type": "slow"}})).await;
    demo.must(202, "DELETE", &format!("{VOLUMES}/{id}"), Value::Null).await;
    demo.must(404, "GET", &format!("{VOLUMES}/{id}"), Value::Null).await;
}

#[tokio::test]
async fn lists_ids_and_images_as_cinder_has_them() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let id = volume(&demo, json!({"size": 1, "name": "data"})).await;
    // A full page has one after it, which may be empty.
    let page = demo.get(&format!("{VOLUMES}?limit=1")).await;
    assert!(text(&page["volumes_links"][0]["href"]).contains("marker="), "{page}");
    let page = demo.get(&format!("{VOLUMES}?limit=1&marker={id}")).await;
    assert_eq!((&page["volumes"], page.get("volumes_links")), (&json!([]), None));
    demo.must(404, "GET", &format!("{VOLUMES}?marker=none"), Value::Null).await;
    demo.must(400, "GET", "/volume/v3/snapshots?sort_key=colour", Value::Null).await;
    for (method, path) in
        [("GET", "volumes/"), ("DELETE", "volumes/"), ("PUT", "volumes/"), ("GET", "snapshots/")]
    {
        demo.must(404, method, &format!("/volume/v3/{path}"), Value::Null).await;
    }
    demo.must(404, "POST", "/volume/v3/snapshots", json!({"snapshot": {"volume_id": null}})).await;
    let extensions = demo.get("/volume/v3/extensions").await;
    assert!(extensions["extensions"].as_array().unwrap().iter().any(|one| one["alias"] == "os-hosts"));
    // What is said of a volume's image can be changed.
    let action = format!("{VOLUMES}/{id}/action");
    let set = json!({"os-set_image_metadata": {"metadata": {"image_name": "mine", "kernel_id": "k"}}});
    assert_eq!(demo.must(200, "POST", &action, set).await["metadata"]["kernel_id"], "k");
    demo.must(200, "POST", &action, json!({"os-unset_image_metadata": {"key": "kernel_id"}})).await;
    demo.must(404, "POST", &action, json!({"os-unset_image_metadata": {"key": "kernel_id"}})).await;
    let shown = demo.must(200, "POST", &action, json!({"os-show_image_metadata": null})).await;
    assert_eq!(shown["metadata"], json!({"image_name": "mine"}));
}

#[tokio::test]
async fn quotas_of_volumes() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let set = format!("/volume/v3/os-quota-sets/{project}");
    admin.must(200, "PUT", &set, json!({"quota_set": {"volumes": 2, "gigabytes": 3}})).await;
    admin.must(400, "PUT", &set, json!({"quota_set": {"backups": 2}})).await;
    volume(&demo, json!({"size": 2, "name": "a"})).await;
    let over = demo.must(413, "POST", VOLUMES, json!({"volume": {"size": 2}})).await;
    let message = text(&over["overLimit"]["message"]);
    assert!(
        message.contains("gigabytes") && message.contains("Requested 2, but already used 2 of 3"),
        "{message}"
    );
    let usage = demo.get(&format!("{set}?usage=True")).await;
    assert_eq!(
        (&usage["quota_set"]["gigabytes"]["in_use"], &usage["quota_set"]["volumes"]["limit"]),
        (&json!(2), &json!(2))
    );
    let limits = &demo.get("/volume/v3/limits").await["limits"]["absolute"];
    assert_eq!((&limits["totalGigabytesUsed"], &limits["maxTotalVolumes"]), (&json!(2), &json!(2)));
}

#[tokio::test]
async fn servers_have_volumes() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (flavor, os) = (flavor(&admin).await, image(&demo).await);
    let data = volume(&demo, json!({"size": 1, "name": "data"})).await;
    let create = json!({"server": {"name": "box", "flavorRef": flavor, "imageRef": os, "networks": "none"}});
    let server = text(&demo.must(202, "POST", "/compute/v2.1/servers", create.clone()).await["server"]["id"])
        .to_owned();
    let path = format!("/compute/v2.1/servers/{server}");
    wait_for(&demo, &path, "server", "ACTIVE").await;
    let attachments = format!("{path}/os-volume_attachments");
    let attach = json!({"volumeAttachment": {"volumeId": data, "delete_on_termination": true}});
    let made = demo.must(200, "POST", &attachments, attach.clone()).await;
    assert_eq!(made["volumeAttachment"]["device"], "/dev/vdb");
    let attached = becomes(&demo, &data, "in-use").await;
    assert_eq!(attached["attachments"][0]["server_id"], server.as_str());
    demo.must(400, "POST", &attachments, attach).await;
    demo.must(400, "DELETE", &format!("{VOLUMES}/{data}"), Value::Null).await;
    let shown = demo.get(&path).await;
    let volumes = json!([{"id": data, "delete_on_termination": true}]);
    assert_eq!(shown["server"]["os-extended-volumes:volumes_attached"], volumes);
    assert_eq!(demo.get(&attachments).await["volumeAttachments"][0]["volumeId"], data.as_str());
    demo.must(202, "DELETE", &format!("{attachments}/{data}"), Value::Null).await;
    becomes(&demo, &data, "available").await;
    demo.must(404, "GET", &format!("{attachments}/{data}"), Value::Null).await;

    // Boot from a volume that is made from the image, and goes with its server.
    let device = json!({"uuid": os, "source_type": "image", "destination_type": "volume", "boot_index": 0,
                        "volume_size": 1, "delete_on_termination": true});
    let mut boot = create.clone();
    boot["server"]["imageRef"] = json!("");
    boot["server"]["block_device_mapping_v2"] = json!([device]);
    let booted =
        text(&demo.must(202, "POST", "/compute/v2.1/servers", boot.clone()).await["server"]["id"]).to_owned();
    let path = format!("/compute/v2.1/servers/{booted}");
    let shown = wait_for(&demo, &path, "server", "ACTIVE").await;
    assert_eq!(shown["image"], "");
    let root = text(&shown["os-extended-volumes:volumes_attached"][0]["id"]).to_owned();
    becomes(&demo, &root, "in-use").await;
    demo.must(403, "DELETE", &format!("{path}/os-volume_attachments/{root}"), Value::Null).await;
    // A volume that nothing can boot from, and one that is taken.
    for id in [&data, &root] {
        boot["server"]["block_device_mapping_v2"] =
            json!([{"uuid": id, "source_type": "volume", "destination_type": "volume", "boot_index": 0}]);
        demo.must(400, "POST", "/compute/v2.1/servers", boot.clone()).await;
    }
    demo.must(204, "DELETE", &path, Value::Null).await;
    for _ in 0..300 {
        if demo.ask("GET", &format!("{VOLUMES}/{root}"), Value::Null).await.status == 404 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the volume stays: {}", demo.get(VOLUMES).await);
}

#[tokio::test]
async fn placement_shows_what_the_scheduler_counts() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let at = |path: &str| format!("/placement/{path}");
    let root = admin.get("/placement/").await;
    assert_eq!(root["versions"][0]["max_version"], "1.38");
    let providers = admin.ask_as("placement 1.38", "GET", &at("resource_providers"), Value::Null).await;
    assert_eq!(providers.headers["openstack-api-version"], "placement 1.38");
    let provider = &providers.body["resource_providers"][0];
    assert_eq!((&provider["name"], &provider["root_provider_uuid"]), (&json!("n1"), &provider["uuid"]));
    let uuid = text(&provider["uuid"]).to_owned();
    let inventories = admin.get(&at(&format!("resource_providers/{uuid}/inventories"))).await;
    assert_eq!(inventories["inventories"]["VCPU"]["total"], 4);
    assert_eq!(inventories["inventories"]["VCPU"]["allocation_ratio"], 16.0);
    assert_eq!(inventories["inventories"]["MEMORY_MB"]["total"], 8192);
    let usages = at(&format!("resource_providers/{uuid}/usages"));
    assert_eq!(admin.get(&usages).await["usages"]["VCPU"], 0);

    let (flavor, os) = (flavor(&admin).await, image(&demo).await);
    let create = json!({"server": {"name": "box", "flavorRef": flavor, "imageRef": os, "networks": "none"}});
    let server =
        text(&demo.must(202, "POST", "/compute/v2.1/servers", create).await["server"]["id"]).to_owned();
    wait_for(&demo, &format!("/compute/v2.1/servers/{server}"), "server", "ACTIVE").await;
    assert_eq!(admin.get(&usages).await["usages"]["VCPU"], 1);
    let ask = |version: &'static str, path: String| {
        let admin = &admin;
        async move { admin.ask_as(version, "GET", &path, Value::Null).await }
    };
    let allocation = ask("placement 1.38", at(&format!("allocations/{server}"))).await.body;
    assert_eq!(allocation["allocations"][&uuid]["resources"]["MEMORY_MB"], 256 + 64);
    assert_eq!(
        (&allocation["project_id"], &allocation["consumer_type"]),
        (&json!(project), &json!("INSTANCE"))
    );
    let used = ask("placement 1.38", at(&format!("usages?project_id={project}"))).await.body;
    assert_eq!(used["usages"]["INSTANCE"]["consumer_count"], 1);
    let candidates = |resources: &str| at(&format!("allocation_candidates?resources={resources}"));
    let found = ask("placement 1.36", candidates("VCPU:63,MEMORY_MB:1024")).await.body;
    assert_eq!(found["provider_summaries"][&uuid]["resources"]["VCPU"], json!({"capacity": 64, "used": 1}));
    let none = ask("placement 1.36", candidates("VCPU:64")).await.body;
    assert_eq!(none["allocation_requests"], json!([]));

    // Nobody writes, and only the cloud's admin reads.
    let written = admin.must(405, "PUT", &at(&format!("allocations/{server}")), json!({})).await;
    assert!(text(&written["errors"][0]["detail"]).contains("read-only"), "{written}");
    admin.must(405, "POST", &at("resource_providers"), json!({"name": "x"})).await;
    demo.must(403, "GET", &at("resource_providers"), Value::Null).await;
    let odd = ask("placement 1.99", at("resource_providers")).await;
    assert_eq!((odd.status, &odd.body["errors"][0]["max_version"]), (406, &json!("1.38")));
    assert_eq!(ask("placement 1.0", at("traits")).await.status, 404);
}

#[tokio::test]
async fn attachments_are_shown_and_volumes_kept_for_servers_to_come() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (other, _) = tenant(&cloud, &admin, "other").await;
    let (flavor, os) = (flavor(&admin).await, image(&demo).await);
    let data = volume(&demo, json!({"size": 1, "name": "data"})).await;
    let body = json!({"server": {"name": "box", "flavorRef": flavor, "imageRef": os, "networks": "none"}});
    let server =
        text(&demo.must(202, "POST", "/compute/v2.1/servers", body).await["server"]["id"]).to_owned();
    let path = format!("/compute/v2.1/servers/{server}");
    wait_for(&demo, &path, "server", "ACTIVE").await;
    let at = "/volume/v3/attachments";
    let ask = |who: &Client, method: &'static str, path: String, body: Value| {
        let who = who.clone();
        async move {
            let answer = who.ask_as("volume 3.54", method, &path, body).await;
            (answer.status, answer.body)
        }
    };
    assert_eq!(demo.ask_as("volume 3.26", "GET", at, Value::Null).await.status, 404);
    let all = ask(&demo, "GET", at.to_owned(), Value::Null).await;
    assert_eq!(all, (200, json!({"attachments": []})));

    // Kept for a server to come: nobody else gets it, and it is not deleted.
    let wanted = |more: Value| {
        let mut fields = json!({"volume_uuid": data, "instance_uuid": server});
        fields.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        json!({"attachment": fields})
    };
    let connected = wanted(json!({"connector": {"host": "elsewhere"}}));
    assert_eq!(ask(&demo, "POST", at.to_owned(), connected).await.0, 501);
    assert_eq!(ask(&demo, "POST", at.to_owned(), wanted(json!({"mode": "wild"}))).await.0, 400);
    assert_eq!(ask(&other, "POST", at.to_owned(), wanted(json!({}))).await.0, 404);
    let (status, kept) = ask(&demo, "POST", at.to_owned(), wanted(json!({"mode": "ro"}))).await;
    let kept = kept["attachment"].clone();
    assert_eq!((status, &kept["status"], &kept["attach_mode"]), (200, &json!("reserved"), &json!("ro")));
    becomes(&demo, &data, "reserved").await;
    assert_eq!(ask(&demo, "POST", at.to_owned(), wanted(json!({}))).await.0, 400);
    demo.must(400, "DELETE", &format!("{VOLUMES}/{data}"), Value::Null).await;
    let attach = json!({"volumeAttachment": {"volumeId": data}});
    demo.must(400, "POST", &format!("{path}/os-volume_attachments"), attach.clone()).await;
    let one = format!("{at}/{}", text(&kept["id"]));
    assert_eq!(ask(&demo, "PUT", one.clone(), json!({"attachment": {"connector": {}}})).await.0, 501);
    assert_eq!(ask(&demo, "POST", format!("{one}/action"), json!({"os-complete": null})).await.0, 501);
    assert_eq!(ask(&other, "GET", one.clone(), Value::Null).await.0, 404);
    assert_eq!(ask(&admin, "GET", one.clone(), Value::Null).await.1["attachment"], kept);
    assert_eq!(ask(&demo, "DELETE", one.clone(), Value::Null).await, (200, json!({"attachments": []})));
    assert_eq!(ask(&demo, "DELETE", one, Value::Null).await.0, 404);
    becomes(&demo, &data, "available").await;
    // It is let go of as well by who takes its status away.
    let action = format!("{VOLUMES}/{data}/action");
    for (who, ends) in [
        (&admin, json!({"os-reset_status": {"status": "available"}})),
        (&demo, json!({"os-unreserve": null})),
    ] {
        let (_, kept) = ask(&demo, "POST", at.to_owned(), wanted(json!({}))).await;
        becomes(&demo, &data, "reserved").await;
        who.must(202, "POST", &action, ends).await;
        becomes(&demo, &data, "available").await;
        let gone = format!("{at}/{}", text(&kept["attachment"]["id"]));
        assert_eq!(ask(&demo, "GET", gone, Value::Null).await.0, 404);
    }

    // What a server has is shown by the id that Nova and the volume tell, and is Nova's to take.
    demo.must(200, "POST", &format!("{path}/os-volume_attachments"), attach).await;
    let shown = becomes(&demo, &data, "in-use").await;
    let id = text(&shown["attachments"][0]["attachment_id"]).to_owned();
    let nova =
        demo.ask_as("compute 2.89", "GET", &format!("{path}/os-volume_attachments"), Value::Null).await.body;
    assert_eq!(nova["volumeAttachments"][0]["attachment_id"], id);
    let brief = json!({"id": id, "status": "attached", "instance": server, "volume_id": data});
    for query in ["", "?status=attached", &format!("?volume_id={data}"), &format!("?instance_id={server}")] {
        let all = ask(&demo, "GET", format!("{at}{query}"), Value::Null).await;
        assert_eq!(all, (200, json!({"attachments": [brief]})), "{query}");
    }
    let none = ask(&demo, "GET", format!("{at}?status=reserved"), Value::Null).await;
    assert_eq!(none.1, json!({"attachments": []}));
    assert_eq!(
        ask(&admin, "GET", format!("{at}?all_tenants=1"), Value::Null).await.1["attachments"][0],
        brief
    );
    let full = ask(&demo, "GET", format!("{at}/detail"), Value::Null).await.1["attachments"][0].clone();
    assert_eq!((&full["attach_mode"], &full["connection_info"]), (&json!("rw"), &json!({})));
    assert_eq!(ask(&demo, "GET", format!("{at}/{id}"), Value::Null).await.1["attachment"], full);
    let (status, told) = ask(&demo, "DELETE", format!("{at}/{id}"), Value::Null).await;
    assert_eq!(status, 409);
    assert!(text(&told["conflictingRequest"]["message"]).contains("using the Compute API"), "{told}");
}
