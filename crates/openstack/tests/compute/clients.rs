//! What older clients and Terraform's provider send, and what they compare.

use http::Method;
use kube::api::Api;
use serde_json::{Value, json};
use yunfan_resources::compute::VirtualMachine;

use super::{SERVERS, settled};
use crate::support::client::{Client, flavor, image, send, tenant, text};
use crate::support::{PASSWORD, start};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMl6ZsSz2nFJ7b1w2J8bQ7YkJpTbS4jvT8bFqv6xq1Yk me@host\n";

#[tokio::test]
async fn a_server_gets_the_files_that_its_request_has() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (os, small) = (image(&demo).await, flavor(&admin).await);
    let wanted = json!({"server": {"name": "web", "imageRef": os, "flavorRef": small, "personality": [
        {"path": "/etc/motd", "contents": "aGVsbG8="}]}});
    let late = demo.ask_as("compute 2.57", "POST", SERVERS, wanted.clone()).await;
    assert_eq!(late.status, 400, "{}", late.body);
    let made = demo.ask_as("compute 2.1", "POST", SERVERS, wanted).await;
    assert_eq!(made.status, 202, "{}", made.body);
    let path = format!("{SERVERS}/{}", text(&made.body["server"]["id"]));
    settled(&demo, &path, "ACTIVE").await;
    let machines = Api::<VirtualMachine>::namespaced(cloud.system.clone(), "demo");
    let files = machines.get("web").await.unwrap().spec.files;
    assert_eq!((files.len(), files[0].path.as_str()), (1, "/etc/motd"));
    let rebuild = json!({"rebuild": {"imageRef": os, "personality": [{"path": "/a", "contents": ""}]}});
    let rebuilt = demo.ask_as("compute 2.1", "POST", &format!("{path}/action"), rebuild).await;
    assert_eq!(rebuilt.status, 202, "{}", rebuilt.body);
    assert_eq!(machines.get("web").await.unwrap().spec.files[0].path, "/a");
    let many = json!({"server": {"name": "b", "imageRef": os, "flavorRef": small,
        "personality": vec![json!({"path": "/a", "contents": ""}); 6]}});
    assert_eq!(demo.ask_as("compute 2.1", "POST", SERVERS, many).await.status, 403);
}

#[tokio::test]
async fn a_public_key_is_shown_as_it_was_given() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let keys = "/compute/v2.1/os-keypairs";
    let made = demo.must(201, "POST", keys, json!({"keypair": {"name": "k", "public_key": KEY}})).await;
    assert_eq!(made["keypair"]["public_key"], KEY);
    let shown = demo.get(&format!("{keys}/k")).await["keypair"].clone();
    assert_eq!((&shown["public_key"], &shown["fingerprint"]), (&json!(KEY), &made["keypair"]["fingerprint"]));
}

#[tokio::test]
async fn the_scheduler_is_a_service_in_a_zone_of_its_own() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let services = admin.get("/compute/v2.1/os-services?binary=nova-scheduler").await["services"].clone();
    assert_eq!(services.as_array().map(Vec::len), Some(1), "{services}");
    assert_eq!((&services[0]["zone"], &services[0]["state"]), (&json!("internal"), &json!("up")));
    let zones = admin.get("/compute/v2.1/os-availability-zone/detail").await["availabilityZoneInfo"].clone();
    let internal = zones.as_array().unwrap().iter().find(|zone| zone["zoneName"] == "internal").unwrap();
    assert!(internal["hosts"][text(&services[0]["host"])]["nova-scheduler"]["available"] == true, "{zones}");
    let short = admin.get("/compute/v2.1/os-availability-zone").await["availabilityZoneInfo"].clone();
    assert!(short.as_array().unwrap().iter().all(|zone| zone["zoneName"] != "internal"), "{short}");
}

#[tokio::test]
async fn an_image_may_have_a_property_of_that_name() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, project) = tenant(&cloud, &admin, "demo").await;
    let body =
        json!({"name": "i", "disk_format": "raw", "container_format": "bare", "properties": "{'a': 1}"});
    let made = demo.must(201, "POST", "/image/v2/images", body).await;
    assert_eq!(made["properties"], "{'a': 1}");
    // Clients send with a member's answer what it is about.
    let id = server_image(&admin).await;
    admin.must(200, "POST", &format!("/image/v2/images/{id}/members"), json!({"member": project})).await;
    let path = format!("/image/v2/images/{id}/members/{project}");
    let answer = json!({"member": project, "status": "accepted"}).to_string().into_bytes();
    let headers = [("x-auth-token", demo.token.as_str()), ("content-type", "application/json")];
    let told = send(&cloud.router, Method::PUT, &path, &headers, answer).await;
    assert_eq!((told.status, &told.body["status"]), (200, &json!("accepted")));
    assert_eq!(admin.get("/image/v2/tasks").await["tasks"], json!([]));
    demo.must(403, "GET", "/image/v2/tasks", Value::Null).await;
}

/// An image that its project shares.
async fn server_image(client: &Client) -> String {
    let body = json!({"name": "s", "disk_format": "raw", "container_format": "bare", "visibility": "shared"});
    text(&client.must(201, "POST", "/image/v2/images", body).await["id"]).to_owned()
}

#[tokio::test]
async fn what_novas_extensions_were_is_told() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let names = admin.get("/compute/v2.1/extensions").await["extensions"].clone();
    assert!(names.as_array().unwrap().iter().any(|one| one["name"] == "SchedulerHints"), "{names}");
    admin.get("/compute/v2.1/extensions/os-admin-actions").await;
}
