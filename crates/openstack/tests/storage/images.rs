//! Images through the door: whom they are shared with, how their bytes come and go.

use http::Method;
use serde_json::{Value, json};

use super::{VOLUMES, becomes};
use crate::support::client::{Answer, Client, image, send, tenant, text};
use crate::support::{PASSWORD, start};

const IMAGES: &str = "/image/v2/images";

async fn raw(client: &Client, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let token = [("x-auth-token", client.token.as_str())];
    send(&client.router, method, path, &[&token[..], headers].concat(), body.to_vec()).await
}

async fn patch(client: &Client, status: u16, id: &str, operations: Value) -> Value {
    for kind in ["v2.0", "v2.1"] {
        let kind = format!("application/openstack-images-{kind}-json-patch");
        let body = operations.to_string().into_bytes();
        let path = format!("{IMAGES}/{id}");
        let answer = raw(client, Method::PATCH, &path, &[("content-type", &kind)], &body).await;
        assert_eq!(answer.status, status, "{operations}: {}", answer.body);
        if status != 200 || kind.contains("v2.1") {
            return answer.body;
        }
    }
    unreachable!("one of the two returns")
}

async fn ids(client: &Client, query: &str) -> Vec<String> {
    let body = client.get(&format!("{IMAGES}?{query}")).await;
    let images = body["images"].as_array().expect("images").clone();
    images.iter().map(|image| text(&image["id"]).to_owned()).collect()
}

#[tokio::test]
async fn an_image_is_shared_with_whom_its_project_says() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, demo_id) = tenant(&cloud, &admin, "demo").await;
    let (other, other_id) = tenant(&cloud, &admin, "other").await;
    let id = image(&demo).await;
    let path = format!("{IMAGES}/{id}");
    let shown = demo.get(&path).await;
    assert_eq!((&shown["visibility"], &shown["owner"]), (&json!("shared"), &json!(demo_id)));
    other.must(404, "GET", &path, Value::Null).await;
    // Nor by the other door, whatever it says of where it has the name from.
    let bearer = format!("Bearer {}", other.token);
    let kube = "/apis/storage.yunfan.io/v1/namespaces/other/volumes";
    for spec in [
        json!({"sizeGib": 1, "image": "demo/tiny"}),
        json!({"sizeGib": 1, "image": "demo/tiny", "sourceId": "x"}),
    ] {
        let volume = json!({"apiVersion": "storage.yunfan.io/v1", "kind": "Volume", "metadata": {"name": "taken"}, "spec": spec});
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let body = volume.to_string().into_bytes();
        let answer = send(&other.router, Method::POST, kube, &headers, body).await;
        assert_eq!(answer.status, 422, "{}", answer.body);
    }
    // Shared: it may be used at once, and is in lists when it is accepted.
    let member = format!("{path}/members/{other_id}");
    demo.must(404, "GET", &member, Value::Null).await;
    let made = demo.must(200, "POST", &format!("{path}/members"), json!({"member": other_id})).await;
    assert_eq!((&made["status"], &made["member_id"]), (&json!("pending"), &json!(other_id)));
    demo.must(409, "POST", &format!("{path}/members"), json!({"member": other_id})).await;
    assert_eq!(other.get(&path).await["owner"], demo_id.as_str());
    assert!(ids(&other, "").await.is_empty());
    assert_eq!(ids(&other, "member_status=pending").await, [id.as_str()]);
    demo.must(403, "PUT", &member, json!({"status": "accepted"})).await;
    other.must(400, "PUT", &member, json!({"status": "perhaps"})).await;
    assert_eq!(other.must(200, "PUT", &member, json!({"status": "accepted"})).await["status"], "accepted");
    assert_eq!(ids(&other, "visibility=shared").await, [id.as_str()]);
    assert_eq!(demo.get(&format!("{path}/members")).await["members"][0]["status"], "accepted");
    // It reads, and does nothing else.
    assert_eq!(raw(&other, Method::GET, &format!("{path}/file"), &[], b"").await.body, "QFI bytes");
    other.must(403, "DELETE", &path, Value::Null).await;
    other.must(403, "POST", &format!("{path}/members"), json!({"member": "x"})).await;
    patch(&other, 403, &id, json!([{"op": "replace", "path": "/name", "value": "mine"}])).await;
    // A volume of its own project keeps it; of another's its project neither hears nor waits for it.
    let made = demo.must(202, "POST", VOLUMES, json!({"volume": {"size": 1, "imageRef": id}})).await;
    let kept_by = text(&made["volume"]["id"]).to_owned();
    becomes(&demo, &kept_by, "available").await;
    let made = other.must(202, "POST", VOLUMES, json!({"volume": {"size": 1, "imageRef": id}})).await;
    let volume = text(&made["volume"]["id"]).to_owned();
    assert_eq!(becomes(&other, &volume, "available").await["volume_image_metadata"]["image_id"], id.as_str());
    let kept = demo.must(409, "DELETE", &path, Value::Null).await;
    assert!(text(&kept["message"]).contains("in use"), "{kept}");
    demo.must(202, "DELETE", &format!("{VOLUMES}/{kept_by}"), Value::Null).await;
    demo.must(204, "DELETE", &member, Value::Null).await;
    other.must(404, "GET", &path, Value::Null).await;
    other.must(400, "POST", VOLUMES, json!({"volume": {"size": 1, "imageRef": id}})).await;
    demo.must(204, "DELETE", &path, Value::Null).await;
    becomes(&other, &volume, "available").await;
}

#[tokio::test]
async fn bytes_are_kept_under_a_name_that_nobody_chooses() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let id = "0a1b2c3d-0000-4000-8000-0123456789ab";
    let fields = json!({"id": id, "name": "chosen", "disk_format": "raw", "container_format": "bare"});
    demo.must(201, "POST", IMAGES, fields.clone()).await;
    demo.must(409, "POST", IMAGES, fields).await;
    let (file, octets) = (format!("{IMAGES}/{id}/file"), [("content-type", "application/octet-stream")]);
    assert_eq!(raw(&demo, Method::PUT, &file, &octets, b"whole").await.status, 204);
    let kept: Vec<String> = cloud.node.images.lock().unwrap().keys().cloned().collect();
    let image = kube::Api::<yunfan_resources::image::Image>::namespaced(cloud.system.clone(), "demo");
    assert_eq!(kept, [image.get("chosen").await.unwrap().metadata.uid.unwrap()]);
    assert_eq!(raw(&demo, Method::GET, &file, &[], b"").await.body, "whole");
    demo.must(204, "DELETE", &format!("{IMAGES}/{id}"), Value::Null).await;
    assert!(cloud.node.images.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_project_has_so_many_bytes_of_images_and_no_more() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let bearer = format!("Bearer {}", admin.token);
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let hard = json!({"image.yunfan.io/bytes": "20", "count/images.image.yunfan.io": "3"});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "project"}, "spec": {"hard": hard}});
    let quotas = "/api/v1/namespaces/demo/resourcequotas";
    let answer = send(&admin.router, Method::POST, quotas, &headers, quota.to_string().into_bytes()).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let octets = [("content-type", "application/octet-stream")];
    let queued = || async {
        let body = json!({"name": "some", "disk_format": "raw", "container_format": "bare"});
        text(&demo.must(201, "POST", IMAGES, body).await["id"]).to_owned()
    };
    let upload = |id: &str, bytes: &'static [u8]| {
        let (demo, file) = (demo.clone(), format!("{IMAGES}/{id}/file"));
        async move { raw(&demo, Method::PUT, &file, &octets, bytes).await }
    };
    let (one, two) = (queued().await, queued().await);
    assert_eq!(upload(&one, b"0123456789").await.status, 204);
    // Nobody knew before how much it would be; then it goes, and the image waits for less.
    let over = upload(&two, b"0123456789abcde").await;
    assert_eq!(over.status, 413, "{}", over.body);
    assert!(over.body.to_string().contains("image_size_total"), "{}", over.body);
    assert_eq!(demo.get(&format!("{IMAGES}/{two}")).await["status"], "queued");
    assert_eq!(cloud.node.images.lock().unwrap().len(), 1);
    assert_eq!(upload(&two, b"0123456789").await.status, 204);
    let three = queued().await;
    assert_eq!(upload(&three, b"0").await.status, 413);
    let usage = &demo.get("/image/v2/info/usage").await["usage"];
    assert_eq!(usage["image_count_total"], json!({"limit": 3, "usage": 3}));
    assert_eq!(usage["image_size_total"]["usage"], 1, "MiB, rounded up");
    // What goes gives its bytes back.
    demo.must(204, "DELETE", &format!("{IMAGES}/{one}"), Value::Null).await;
    assert_eq!(upload(&three, b"0").await.status, 204);
}

#[tokio::test]
async fn public_images_are_everybodys_and_made_so_by_the_clouds_admin() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let (id, own) = (image(&admin).await, image(&demo).await);
    let visibility = |word: &str| json!([{"op": "replace", "path": "/visibility", "value": word}]);
    patch(&demo, 403, &own, visibility("public")).await;
    assert_eq!(patch(&admin, 200, &id, visibility("public")).await["visibility"], "public");
    let mut both = ids(&demo, "").await;
    both.sort();
    let mut wanted = [id.clone(), own.clone()];
    wanted.sort();
    assert_eq!(both, wanted);
    assert_eq!(ids(&demo, "visibility=public").await, [id.as_str()]);
    demo.must(403, "GET", &format!("{IMAGES}/{id}/members"), Value::Null).await;
    // Of the community: for who knows it, and in nobody's lists.
    patch(&admin, 200, &id, visibility("community")).await;
    assert_eq!(ids(&demo, "").await, [own.as_str()]);
    assert_eq!(ids(&demo, "visibility=community").await, [id.as_str()]);
    demo.get(&format!("{IMAGES}/{id}")).await;
    patch(&admin, 200, &id, visibility("private")).await;
    for _ in 0..300 {
        if demo.ask("GET", &format!("{IMAGES}/{id}"), Value::Null).await.status == 404 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    demo.must(404, "GET", &format!("{IMAGES}/{id}"), Value::Null).await;
    demo.must(400, "GET", &format!("{IMAGES}?visibility=secret"), Value::Null).await;
    // Hidden ones are in lists that ask for them.
    patch(&demo, 200, &own, json!([{"op": "replace", "path": "/os_hidden", "value": true}])).await;
    assert!(ids(&demo, "").await.is_empty());
    assert_eq!(ids(&demo, "os_hidden=true").await, [own.as_str()]);
}

#[tokio::test]
async fn bytes_come_in_steps_and_go_in_parts() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    for (format, status) in [("vmdk", 201), ("iso", 201), ("floppy", 400)] {
        let body = json!({"name": format, "disk_format": format, "container_format": "bare"});
        demo.must(status, "POST", IMAGES, body).await;
    }
    demo.must(403, "POST", IMAGES, json!({"name": "x", "os_glance_x": "y"})).await;
    let body = json!({"name": "stepped", "disk_format": "raw", "container_format": "bare"});
    let id = text(&demo.must(201, "POST", IMAGES, body).await["id"]).to_owned();
    let path = format!("{IMAGES}/{id}");
    let direct = json!({"method": {"name": "glance-direct"}});
    demo.must(409, "POST", &format!("{path}/import"), direct.clone()).await;
    demo.must(400, "POST", &format!("{path}/import"), json!({"method": {"name": "copy-image"}})).await;
    let octets = [("content-type", "application/octet-stream")];
    let staged = raw(&demo, Method::PUT, &format!("{path}/stage"), &octets, b"0123456789").await;
    assert_eq!(staged.status, 204, "{}", staged.body);
    let shown = demo.get(&path).await;
    assert_eq!((&shown["status"], &shown["size"]), (&json!("uploading"), &Value::Null));
    demo.must(202, "POST", &format!("{path}/import"), direct).await;
    let shown = demo.get(&path).await;
    assert_eq!((&shown["status"], &shown["size"]), (&json!("active"), &json!(10)));
    // From an address, which is one of the public Internet, for an image that has nothing yet.
    assert_eq!(demo.get("/image/v2/info/import").await["import-methods"]["value"][1], "web-download");
    let web = |uri: &str| json!({"method": {"name": "web-download", "uri": uri}});
    demo.must(409, "POST", &format!("{path}/import"), web("http://1.1.1.1/image")).await;
    let body = json!({"name": "fetched", "disk_format": "raw", "container_format": "bare"});
    let empty = text(&demo.must(201, "POST", IMAGES, body).await["id"]).to_owned();
    for uri in
        ["http://127.0.0.1/image", "http://localhost/image", "http://169.254.169.254/", "file:///etc/shadow"]
    {
        let refused = demo.must(400, "POST", &format!("{IMAGES}/{empty}/import"), web(uri)).await;
        assert!(text(&refused["message"]).contains(uri), "{refused}");
    }
    demo.must(400, "POST", &format!("{IMAGES}/{empty}/import"), json!({"method": {"name": "web-download"}}))
        .await;
    assert_eq!(demo.get(&format!("{IMAGES}/{empty}")).await["status"], "queued");
    // Parts.
    let file = format!("{path}/file");
    let part = raw(&demo, Method::GET, &file, &[("range", "bytes=2-4")], b"").await;
    assert_eq!((part.status, &part.headers["content-range"]), (206, &"bytes 2-4/10".parse().unwrap()));
    assert_eq!(part.body, json!(234));
    assert_eq!(raw(&demo, Method::GET, &file, &[("range", "bytes=-3")], b"").await.body, json!(789));
    assert_eq!(raw(&demo, Method::GET, &file, &[("range", "bytes=10-")], b"").await.status, 416);
    // Kept from everybody for a while.
    demo.must(204, "POST", &format!("{path}/actions/deactivate"), Value::Null).await;
    assert_eq!(demo.get(&path).await["status"], "deactivated");
    assert_eq!(raw(&demo, Method::GET, &file, &[], b"").await.status, 403);
    demo.must(400, "POST", VOLUMES, json!({"volume": {"size": 1, "imageRef": id}})).await;
    demo.must(204, "POST", &format!("{path}/actions/reactivate"), Value::Null).await;
    assert_eq!(raw(&demo, Method::GET, &file, &[], b"").await.status, 200);
    // Schemas, and the older way to write a patch.
    for (name, of) in [("image", "image"), ("images", "images"), ("member", "member"), ("members", "members")]
    {
        assert_eq!(demo.get(&format!("/image/v2/schemas/{name}")).await["name"], of);
    }
    assert_eq!(demo.get("/image/v2/info/stores").await["stores"][0]["id"], "local");
    patch(&demo, 200, &id, json!([{"replace": "/name", "value": "other"}])).await;
    patch(&demo, 409, &id, json!([{"replace": "/os_distro", "value": "debian"}])).await;
    patch(&demo, 200, &id, json!([{"add": "/os_distro", "value": "debian"}])).await;
    assert_eq!(
        demo.get(&format!("{IMAGES}?os_distro=debian&name=other")).await["images"][0]["id"],
        id.as_str()
    );
    patch(&demo, 403, &id, json!([{"op": "replace", "path": "/disk_format", "value": "qcow2"}])).await;
    let protected = json!([{"op": "replace", "path": "/protected", "value": true}]);
    patch(&demo, 200, &id, protected).await;
    demo.must(403, "DELETE", &path, Value::Null).await;
}

#[tokio::test]
async fn who_may_not_delete_images_marks_none_as_a_backup() {
    use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
    use kube::api::{Api as Objects, Patch, PatchParams, PostParams};
    use yunfan_resources::image::{BACKUP, Image};
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let id = image(&demo).await;
    let all = Objects::<Image>::all(cloud.system.clone()).list(&Default::default()).await.unwrap();
    let own =
        all.items.into_iter().find(|one| one.spec.id.as_deref().unwrap_or(&one.kept_as()) == id).unwrap();
    let (namespace, name) = (own.metadata.namespace.clone().unwrap(), own.metadata.name.clone().unwrap());
    let role = |verbs: serde_json::Value| -> Role {
        serde_json::from_value(json!({"metadata": {"name": "patches"}, "rules": [
            {"apiGroups": ["image.yunfan.io"], "resources": ["images"], "verbs": verbs}]}))
        .unwrap()
    };
    let roles = Objects::<Role>::namespaced(cloud.system.clone(), &namespace);
    roles.create(&PostParams::default(), &role(json!(["get", "patch"]))).await.unwrap();
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": "patches"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "patches"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "bob"}],
    }))
    .unwrap();
    let bindings = Objects::<RoleBinding>::namespaced(cloud.system.clone(), &namespace);
    bindings.create(&PostParams::default(), &binding).await.unwrap();
    let images = Objects::<Image>::namespaced(cloud.acting("bob"), &namespace);
    let (params, renamed) = (PatchParams::default(), Patch::Merge(json!({"spec": {"displayName": "bob's"}})));
    // What the role says is in force a moment later.
    let mut written = images.patch(&name, &params, &renamed).await;
    for _ in 0..300 {
        if written.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        written = images.patch(&name, &params, &renamed).await;
    }
    written.expect("bob may rename it");
    let mark = json!({"machine": "m", "sort": "daily", "rotation": 1}).to_string();
    let marked = Patch::Merge(json!({"metadata": {"annotations": {BACKUP: mark}}}));
    let refused = images.patch(&name, &params, &marked).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 403), "{refused}");
    roles.replace("patches", &PostParams::default(), &role(json!(["get", "patch", "delete"]))).await.unwrap();
    let mut written = images.patch(&name, &params, &marked).await;
    for _ in 0..300 {
        if written.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        written = images.patch(&name, &params, &marked).await;
    }
    written.expect("who may delete it may have it replace others");
}
