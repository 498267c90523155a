//! Volume types, what keeps volumes, and statuses that somebody set.

use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use yunfan_resources::storage::Volume;

use super::{VOLUMES, becomes, volume};
use crate::support::client::{Client, flavor, image, tenant, text, wait_for};
use crate::support::{NODE, PASSWORD, start};

const TYPES: &str = "/volume/v3/types";
const SNAPSHOTS: &str = "/volume/v3/snapshots";

/// A new type's id.
async fn kind(admin: &Client, name: &str, more: Value) -> String {
    let mut body = json!({"name": name});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let made = admin.must(200, "POST", TYPES, json!({"volume_type": body})).await;
    assert!(made["volume_type"].get("qos_specs_id").is_none(), "{made}");
    text(&made["volume_type"]["id"]).to_owned()
}

#[tokio::test]
async fn a_type_demands_what_the_driver_must_have() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let met = json!({"extra_specs": {"vendor_name": "Yunfan", "storage_protocol": "local"}});
    let (fine, other) = (kind(&admin, "fine", met.clone()).await, kind(&admin, "other", met).await);
    let specs = format!("{TYPES}/{other}/extra_specs");
    // Each is written, shown and removed by itself.
    let set = json!({"extra_specs": {"volume_backend_name": "local"}});
    assert_eq!(admin.must(200, "POST", &specs, set.clone()).await, set);
    assert_eq!(admin.get(&specs).await["extra_specs"].as_object().unwrap().len(), 3);
    let one = format!("{specs}/volume_backend_name");
    assert_eq!(admin.get(&one).await, json!({"volume_backend_name": "local"}));
    admin.must(400, "PUT", &one, json!({"colour": "red"})).await;
    admin.must(400, "PUT", &one, json!({"volume_backend_name": "ceph", "colour": "red"})).await;
    admin.must(400, "POST", &specs, json!({"extra_specs": ["x"]})).await;
    demo.must(403, "PUT", &one, json!({"volume_backend_name": "ceph"})).await;
    assert_eq!(demo.get(&format!("{TYPES}/{other}")).await["volume_type"]["extra_specs"], json!({}));
    // A volume gets only a type whose demands are met, at first and later.
    let id = volume(&demo, json!({"size": 1, "volume_type": "fine"})).await;
    let action = format!("{VOLUMES}/{id}/action");
    demo.must(202, "POST", &action, json!({"os-retype": {"new_type": "other"}})).await;
    assert_eq!(becomes(&demo, &id, "available").await["volume_type"], "other");
    demo.must(400, "POST", &action, json!({"os-retype": {"new_type": other}})).await;
    demo.must(404, "POST", &action, json!({"os-retype": {"new_type": "none"}})).await;
    admin.must(200, "PUT", &one, json!({"volume_backend_name": "ceph"})).await;
    let plain = volume(&demo, json!({"size": 1})).await;
    let retype = json!({"os-retype": {"new_type": "other"}});
    let refused = demo.must(400, "POST", &format!("{VOLUMES}/{plain}/action"), retype).await;
    assert!(text(&refused["badRequest"]["message"]).contains("volume_backend_name"), "{refused}");
    // As with Cinder, a new volume is made and then finds no place.
    let body = json!({"volume": {"size": 1, "name": "lost", "volume_type": "other"}});
    demo.must(202, "POST", VOLUMES, body).await;
    let volumes = Api::<Volume>::namespaced(cloud.system.clone(), "demo");
    let lost = volumes.get("lost").await.unwrap();
    assert_eq!((lost.spec.unmet.as_deref(), lost.spec.node_name), (Some("volume_backend_name"), None));
    let met = Patch::Merge(json!({"spec": {"unmet": null}}));
    assert!(volumes.patch("lost", &PatchParams::default(), &met).await.is_err(), "it is the API server's");
    admin.must(202, "DELETE", &one, Value::Null).await;
    admin.must(404, "GET", &one, Value::Null).await;
    demo.must(202, "POST", &action, json!({"os-retype": {"new_type": fine, "migration_policy": "never"}}))
        .await;
}

#[tokio::test]
async fn a_private_type_is_for_the_projects_that_it_names() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let id = kind(&admin, "own", json!({"os-volume-type-access:is_public": false})).await;
    let body = json!({"volume": {"size": 1, "volume_type": id}});
    demo.must(404, "POST", VOLUMES, body.clone()).await;
    assert_eq!(demo.get(TYPES).await["volume_types"], json!([]));
    let (action, access) = (format!("{TYPES}/{id}/action"), format!("{TYPES}/{id}/os-volume-type-access"));
    demo.must(403, "POST", &action, json!({"addProjectAccess": {"project": project}})).await;
    admin.must(202, "POST", &action, json!({"addProjectAccess": {"project": project}})).await;
    admin.must(409, "POST", &action, json!({"addProjectAccess": {"project": project}})).await;
    let shown = json!({"volume_type_access": [{"volume_type_id": id, "project_id": project}]});
    assert_eq!(admin.get(&access).await, shown);
    demo.must(202, "POST", VOLUMES, body.clone()).await;
    admin.must(202, "POST", &action, json!({"removeProjectAccess": {"project": project}})).await;
    admin.must(404, "POST", &action, json!({"removeProjectAccess": {"project": project}})).await;
    // Who are shown it at the same moment are shown it both.
    let (_, other) = tenant(&cloud, &admin, "other").await;
    let add = |project: &str| json!({"addProjectAccess": {"project": project}});
    let at_once = [&project, &other].map(|project| admin.must(202, "POST", &action, add(project)));
    futures::future::join_all(at_once).await;
    assert_eq!(admin.get(&access).await["volume_type_access"].as_array().unwrap().len(), 2);
    admin.must(202, "POST", &action, json!({"removeProjectAccess": {"project": project}})).await;
    demo.must(404, "POST", VOLUMES, body).await;
    let made = admin
        .must(
            200,
            "PUT",
            &format!("{TYPES}/{id}"),
            json!({"volume_type": {"name": "all", "is_public": true}}),
        )
        .await;
    assert_eq!(
        (&made["volume_type"]["is_public"], &made["volume_type"]["name"]),
        (&json!(true), &json!("all"))
    );
    assert_eq!(demo.get(TYPES).await["volume_types"][0]["id"], id.as_str());
    admin.must(404, "GET", &access, Value::Null).await;
}

#[tokio::test]
async fn nodes_are_what_keeps_volumes() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    volume(&demo, json!({"size": 1})).await;
    let host = format!("{NODE}@local");
    let services = admin.get("/volume/v3/os-services?binary=cinder-volume").await["services"].clone();
    assert_eq!((&services[0]["host"], &services[0]["state"]), (&json!(host), &json!("up")));
    assert_eq!(admin.get("/volume/v3/os-services?host=none").await["services"], json!([]));
    let put = |verb: &str, body: Value| {
        let (admin, path) = (admin.clone(), format!("/volume/v3/os-services/{verb}"));
        async move { admin.ask("PUT", &path, body).await.status }
    };
    assert_eq!(put("enable", json!({"host": "none", "binary": "cinder-volume"})).await, 404);
    assert_eq!(put("disable", json!({"host": host, "binary": "none"})).await, 404);
    assert_eq!(put("disable-log-reason", json!({"host": host, "binary": "cinder-volume"})).await, 400);
    assert_eq!(put("freeze", json!({"host": "none"})).await, 400);
    assert_eq!(put("disable", json!({"host": host, "binary": "cinder-volume"})).await, 501);
    let pools = admin.get("/volume/v3/scheduler-stats/get_pools?detail=True").await["pools"].clone();
    let pool = &pools[0]["capabilities"];
    assert_eq!((&pool["vendor_name"], &pool["allocated_capacity_gb"]), (&json!("Yunfan"), &json!(1)));
    let shown = admin.get(&format!("/volume/v3/capabilities/{host}%23local")).await;
    assert_eq!(shown["volume_backend_name"], pool["volume_backend_name"]);
    let of = admin.get(&format!("/volume/v3/os-hosts/{host}")).await["host"][0]["resource"].clone();
    assert_eq!((&of["volume_count"], &of["total_volume_gb"]), (&json!("1"), &json!("1")));
    assert_eq!(admin.get("/volume/v3/os-hosts").await["hosts"][0]["host_name"], host.as_str());
    for path in ["os-services", "os-hosts", "scheduler-stats/get_pools", "capabilities/n1@local"] {
        demo.must(403, "GET", &format!("/volume/v3/{path}"), Value::Null).await;
    }
    admin.must(404, "GET", "/volume/v3/capabilities/none", Value::Null).await;
}

#[tokio::test]
async fn a_status_that_somebody_set_holds_until_it_is_reset() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let id = volume(&demo, json!({"size": 1})).await;
    let (path, action) = (format!("{VOLUMES}/{id}"), format!("{VOLUMES}/{id}/action"));
    let reset = |word: &str| json!({"os-reset_status": {"status": word}});
    demo.must(403, "POST", &action, reset("error")).await;
    admin.must(202, "POST", &action, reset("maintenance")).await;
    becomes(&demo, &id, "maintenance").await;
    // It decides what may be done.
    demo.must(400, "DELETE", &path, Value::Null).await;
    demo.must(400, "POST", &action, json!({"os-extend": {"new_size": 2}})).await;
    admin.must(400, "POST", &action, reset("in-use")).await;
    admin.must(202, "POST", &action, reset("available")).await;
    // A reservation is one, too.
    demo.must(202, "POST", &action, json!({"os-reserve": null})).await;
    becomes(&demo, &id, "attaching").await;
    demo.must(400, "POST", &action, json!({"os-reserve": null})).await;
    demo.must(202, "POST", &action, json!({"os-unreserve": null})).await;
    becomes(&demo, &id, "available").await;

    let made = demo.must(202, "POST", SNAPSHOTS, json!({"snapshot": {"volume_id": id}})).await;
    let path = format!("{SNAPSHOTS}/{}", text(&made["snapshot"]["id"]));
    wait_for(&demo, &path, "snapshot", "available").await;
    let action = format!("{path}/action");
    let update = json!({"os-update_snapshot_status": {"status": "error", "progress": "80%"}});
    demo.must(400, "POST", &action, update.clone()).await;
    admin.must(202, "POST", &action, reset("creating")).await;
    demo.must(400, "POST", VOLUMES, json!({"volume": {"snapshot_id": text(&made["snapshot"]["id"])}})).await;
    demo.must(202, "POST", &action, update).await;
    let shown = wait_for(&demo, &path, "snapshot", "error").await;
    assert_eq!(shown["os-extended-snapshot-attributes:progress"], "80%");
    admin.must(202, "POST", &action, reset("available")).await;
    let shown = wait_for(&demo, &path, "snapshot", "available").await;
    assert_eq!(shown["os-extended-snapshot-attributes:progress"], "100%");
    // Whatever it is marked as, it can be removed by force.
    admin.must(202, "POST", &action, reset("deleting")).await;
    admin.must(202, "POST", &action, json!({"os-force_delete": {}})).await;
    demo.must(404, "GET", &path, Value::Null).await;
}

#[tokio::test]
async fn what_is_used_is_told_without_limits_too() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    for _ in 0..2 {
        volume(&demo, json!({"size": 2})).await;
    }
    let set = admin.get(&format!("/volume/v3/os-quota-sets/{project}?usage=True")).await["quota_set"].clone();
    let told = |name: &str| (set[name]["limit"].clone(), set[name]["in_use"].clone());
    assert_eq!(told("volumes"), (json!(-1), json!(2)));
    assert_eq!(told("gigabytes"), (json!(-1), json!(4)));
    assert_eq!(told("snapshots"), (json!(-1), json!(0)));
    // Projects that have no limits of their own have those of the one class that there is.
    let class = "/volume/v3/os-quota-class-sets/default";
    assert_eq!(admin.get(class).await["quota_class_set"]["volumes"], -1);
    let ten = json!({"quota_class_set": {"volumes": 10}});
    assert_eq!(admin.must(200, "PUT", class, ten.clone()).await["quota_class_set"]["volumes"], 10);
    let default = format!("/volume/v3/os-quota-sets/{project}/defaults");
    assert_eq!(admin.get(&default).await["quota_set"]["volumes"], 10);
    admin.must(400, "PUT", "/volume/v3/os-quota-class-sets/gold", ten).await;
    admin.must(400, "PUT", class, json!({"quota_class_set": {"backups": 10}})).await;
    demo.must(403, "GET", class, Value::Null).await;
    // Neutron lists projects with limits of their own alone.
    let network = "/network/v2.0/quotas";
    assert_eq!(admin.get(network).await["quotas"], json!([]));
    admin.must(200, "PUT", &format!("{network}/{project}"), json!({"quota": {"port": -1}})).await;
    assert_eq!(admin.get(network).await["quotas"][0]["project_id"], project.as_str());
}

#[tokio::test]
async fn a_types_qos_holds_for_machines_that_get_its_volumes() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let all = "/volume/v3/qos-specs";
    let make = |name: &str, consumer: &str, key: &str| {
        let body = json!({"qos_specs": {"name": name, "consumer": consumer, key: "2000"}});
        let admin = admin.clone();
        async move {
            let made = admin.must(200, "POST", all, body).await;
            text(&made["qos_specs"]["id"]).to_owned()
        }
    };
    let qos = make("slow", "front-end", "read_iops_sec").await;
    demo.must(403, "GET", all, Value::Null).await;
    let own = format!("{all}/{qos}");
    admin.must(409, "POST", all, json!({"qos_specs": {"name": "slow"}})).await;
    let set = json!({"qos_specs": {"write_iops_sec": "500"}});
    assert_eq!(admin.must(200, "PUT", &own, set.clone()).await, set);
    admin.must(202, "PUT", &format!("{own}/delete_keys"), json!({"keys": ["write_iops_sec"]})).await;
    admin.must(400, "PUT", &format!("{own}/delete_keys"), json!({"keys": ["write_iops_sec"]})).await;
    let shown = admin.get(&own).await["qos_specs"].clone();
    assert_eq!(
        (&shown["specs"], &shown["consumer"]),
        (&json!({"read_iops_sec": "2000"}), &json!("front-end"))
    );
    // A type gets it, and none that nobody would act on.
    let id = kind(&admin, "slow", json!({})).await;
    let relate = |qos: &str, word: &str| format!("{all}/{qos}/{word}?vol_type_id={id}");
    for (name, consumer, key) in [("back", "back-end", "read_iops_sec"), ("odd", "both", "iops_bytes")] {
        let other = make(name, consumer, key).await;
        admin.must(400, "GET", &relate(&other, "associate"), Value::Null).await;
        admin.must(202, "DELETE", &format!("{all}/{other}"), Value::Null).await;
    }
    admin.must(202, "GET", &relate(&qos, "associate"), Value::Null).await;
    let had = admin.get(&format!("{own}/associations")).await["qos_associations"].clone();
    assert_eq!((&had[0]["id"], &had[0]["association_type"]), (&json!(id), &json!("volume_type")));
    assert_eq!(admin.get(&format!("{TYPES}/{id}")).await["volume_type"]["qos_specs_id"], qos.as_str());
    admin.must(400, "PUT", &own, json!({"qos_specs": {"iops_bytes": "1"}})).await;
    admin.must(400, "DELETE", &own, Value::Null).await;
    // A machine is held to it from the moment when it gets the volume, whatever becomes of the type.
    let machines =
        kube::Api::<yunfan_resources::compute::VirtualMachine>::namespaced(cloud.system.clone(), "demo");
    let limit = || async {
        let machine = machines.list(&Default::default()).await.unwrap().items.remove(0);
        machine.spec.volumes[0].limits.clone().map(|limits| limits.read_iops_sec)
    };
    let volume = volume(&demo, json!({"size": 1, "volume_type": "slow"})).await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let body = json!({"server": {"name": "box", "flavorRef": small, "imageRef": os, "networks": "none"}});
    let made = demo.must(202, "POST", "/compute/v2.1/servers", body).await;
    let path = format!("/compute/v2.1/servers/{}", text(&made["server"]["id"]));
    wait_for(&demo, &path, "server", "ACTIVE").await;
    let attach = json!({"volumeAttachment": {"volumeId": volume}});
    demo.must(200, "POST", &format!("{path}/os-volume_attachments"), attach).await;
    becomes(&demo, &volume, "in-use").await;
    assert_eq!(limit().await, Some(2000));
    admin.must(202, "GET", &format!("{own}/disassociate_all"), Value::Null).await;
    admin.must(202, "DELETE", &own, Value::Null).await;
    admin.must(404, "GET", &own, Value::Null).await;
    demo.must(200, "PUT", &path, json!({"server": {"name": "other"}})).await;
    assert_eq!(limit().await, Some(2000));
}

#[tokio::test]
async fn a_volume_is_only_read_while_it_says_so() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let id = volume(&demo, json!({"size": 1})).await;
    let action = format!("{VOLUMES}/{id}/action");
    let flag = |on: bool| json!({"os-update_readonly_flag": {"readonly": on}});
    demo.must(202, "POST", &action, flag(true)).await;
    let shown = demo.get(&format!("{VOLUMES}/{id}")).await["volume"].clone();
    assert_eq!(shown["metadata"], json!({"readonly": "True"}));
    // Nothing that would write to it, nor what could not be carried out.
    demo.must(400, "POST", &action, json!({"os-extend": {"new_size": 2}})).await;
    let small = flavor(&admin).await;
    let device = json!({"uuid": id, "source_type": "volume", "destination_type": "volume", "boot_index": 0});
    let boot = json!({"server": {"name": "box", "flavorRef": small, "imageRef": "", "networks": "none",
                                 "block_device_mapping_v2": [device]}});
    // Where an image is named beside it, nobody asks whether there is anything on it to boot.
    let blank = volume(&demo, json!({"size": 1})).await;
    let mut of_blank = boot.clone();
    of_blank["server"]["block_device_mapping_v2"][0]["uuid"] = json!(blank);
    demo.must(400, "POST", "/compute/v2.1/servers", of_blank.clone()).await;
    of_blank["server"]["imageRef"] = json!(image(&demo).await);
    demo.must(202, "POST", "/compute/v2.1/servers", of_blank).await;
    demo.must(200, "POST", &action, json!({"os-set_bootable": {"bootable": true}})).await;
    let refused = demo.ask("POST", "/compute/v2.1/servers", boot).await;
    assert!(matches!(refused.status, 400 | 409), "{}", refused.body);
    demo.must(202, "POST", &action, flag(false)).await;
    let shown = demo.get(&format!("{VOLUMES}/{id}")).await["volume"].clone();
    assert_eq!(shown["metadata"], json!({"readonly": "False"}));
    demo.must(202, "POST", &action, json!({"os-extend": {"new_size": 2}})).await;
}
