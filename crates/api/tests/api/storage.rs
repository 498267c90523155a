//! Volumes and the machines that have them: what admission holds.

use serde_json::{Value, json};

use crate::support::Desk;

const VOLUMES: &str = "/apis/storage.yunfan.io/v1/namespaces/default/volumes";
const MACHINES: &str = "/apis/compute.yunfan.io/v1/namespaces/default/virtualmachines";

fn volume(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "storage.yunfan.io/v1", "kind": "Volume", "metadata": {"name": name}, "spec": spec})
}

fn machine(name: &str, spec: Value) -> Value {
    let mut object = json!({
        "apiVersion": "compute.yunfan.io/v1", "kind": "VirtualMachine", "metadata": {"name": name},
        "spec": {"flavor": "f", "resources": {"vcpus": 1, "memoryMib": 64}},
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        object["spec"][key] = value.clone();
    }
    object
}

async fn make(desk: &Desk, name: &str) -> Value {
    desk.call("POST", VOLUMES, Some(volume(name, json!({"sizeGib": 1})))).await.expect(201)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_grows_and_what_it_is_made_of_stays() {
    let desk = Desk::new().await;
    let made = make(&desk, "v").await;
    assert_eq!(made["spec"]["id"], made["metadata"]["uid"]);
    let change = |spec: Value| {
        let (desk, body) = (&desk, json!({"spec": spec}).to_string());
        async move { desk.patch("merge-patch+json", &format!("{VOLUMES}/v"), body).await }
    };
    change(json!({"sizeGib": 2, "nodeName": "n1"})).await.expect(200);
    for (spec, words) in [
        (json!({"sizeGib": 1}), "can't be made smaller"),
        (json!({"image": "os"}), "field is immutable"),
        (json!({"nodeName": "n2"}), "field is immutable"),
        (json!({"sizeGib": 0}), "sizeGib"),
    ] {
        let message = change(spec).await.refused(422);
        assert!(message.contains(words), "{message}");
    }
    let typed = volume("w", json!({"sizeGib": 1, "type": "fast"}));
    let message = desk.call("POST", VOLUMES, Some(typed.clone())).await.refused(422);
    assert!(message.contains("no such volume type"), "{message}");
    let fast = json!({"apiVersion": "storage.yunfan.io/v1", "kind": "VolumeType", "metadata": {"name": "fast"}, "spec": {}});
    desk.call("POST", "/apis/storage.yunfan.io/v1/volumetypes", Some(fast)).await.expect(201);
    desk.call("POST", VOLUMES, Some(typed)).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_attached_to_one_machine_at_a_time_and_stays_while_it_is() {
    let desk = Desk::new().await;
    make(&desk, "v").await;
    let wish = json!({"image": "os", "volumes": [{"volume": "v"}]});
    desk.call("POST", MACHINES, Some(machine("a", wish.clone()))).await.expect(201);
    let message = desk.call("POST", MACHINES, Some(machine("b", wish.clone()))).await.refused(422);
    assert!(message.contains("already used by VirtualMachine default/a"), "{message}");
    let message = desk.call("DELETE", &format!("{VOLUMES}/v"), None).await.refused(409);
    assert!(message.contains("attached to virtual machine a"), "{message}");
    desk.patch("merge-patch+json", &format!("{MACHINES}/a"), r#"{"spec":{"volumes":[]}}"#).await.expect(200);
    desk.call("POST", MACHINES, Some(machine("b", wish))).await.expect(201);
    desk.call("DELETE", &format!("{MACHINES}/b"), None).await.expect(200);
    desk.call("DELETE", &format!("{VOLUMES}/v"), None).await.expect(200);
    desk.call("GET", &format!("{VOLUMES}/v"), None).await.refused(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_goes_with_its_machine_may_be_deleted_when_the_machine_is() {
    let desk = Desk::new().await;
    make(&desk, "root").await;
    let wish = json!({"volumes": [{"volume": "root", "boot": true, "deleteOnTermination": true}]});
    let made = desk.call("POST", MACHINES, Some(machine("a", wish))).await.expect(201);
    assert_eq!(made["metadata"]["finalizers"], json!(["storage.yunfan.io/volumes"]));
    let marked = desk.call("DELETE", &format!("{MACHINES}/a"), None).await.expect(200);
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let other = machine("b", json!({"volumes": [{"volume": "root", "boot": true}]}));
    desk.call("POST", MACHINES, Some(other.clone())).await.refused(422);
    desk.call("DELETE", &format!("{VOLUMES}/root"), None).await.expect(200);
    let message = desk.call("POST", MACHINES, Some(other)).await.refused(422);
    assert!(message.contains("no such volume"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_name_only_what_they_can_have() {
    let desk = Desk::new().await;
    let spec = json!({"sizeGib": 1, "nodeName": "n1"});
    desk.call("POST", VOLUMES, Some(volume("far", spec))).await.expect(201);
    let spec = json!({"sizeGib": 1, "nodeName": "n3"});
    desk.call("POST", VOLUMES, Some(volume("farther", spec))).await.expect(201);
    make(&desk, "v").await;
    let boot = |name: &str| json!({"volume": name, "boot": true});
    let many: Vec<Value> = (0..9).map(|index| json!({"volume": format!("v{index}")})).collect();
    for (spec, code, words) in [
        (json!({}), 422, "either an image or one volume"),
        (json!({"image": "os", "volumes": [boot("v")]}), 422, "either an image or one volume"),
        (json!({"volumes": [boot("v"), boot("far")]}), 422, "either an image or one volume"),
        (json!({"image": "os", "volumes": [{"volume": "none"}]}), 422, "no such volume"),
        (json!({"image": "os", "volumes": [{"volume": "v"}, {"volume": "v"}]}), 422, "must be given once"),
        (json!({"image": "os", "volumes": many}), 422, "at most 8"),
        (json!({"image": "os", "nodeName": "n2", "volumes": [{"volume": "far"}]}), 409, "is on node n1"),
        (
            json!({"image": "os", "volumes": [{"volume": "far"}, {"volume": "v"}, {"volume": "farther"}]}),
            409,
            "volume far is on node n1 and volume farther on node n3",
        ),
    ] {
        let message = desk.call("POST", MACHINES, Some(machine("m", spec.clone()))).await.refused(code);
        assert!(message.contains(words), "{spec}: {message}");
    }
    desk.call("POST", MACHINES, Some(machine("m", json!({"volumes": [boot("v")]})))).await.expect(201);
    let message = desk
        .patch("merge-patch+json", &format!("{MACHINES}/m"), r#"{"spec":{"volumes":[],"image":"os"}}"#)
        .await
        .refused(422);
    assert!(message.contains("can't be changed"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_charged_by_number_and_size() {
    let desk = Desk::new().await;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "project"},
        "spec": {"hard": {"count/volumes.storage.yunfan.io": "2", "storage.yunfan.io/gigabytes": "3"}},
    });
    desk.call("POST", "/api/v1/namespaces/default/resourcequotas", Some(quota)).await.expect(201);
    make(&desk, "a").await;
    make(&desk, "b").await;
    let message = desk.call("POST", VOLUMES, Some(volume("c", json!({"sizeGib": 1})))).await.refused(403);
    assert!(
        message.contains(
            "requested: count/volumes.storage.yunfan.io=1, used: count/volumes.storage.yunfan.io=2"
        ),
        "{message}"
    );
    let grow = |size: u32| format!(r#"{{"spec":{{"sizeGib":{size}}}}}"#);
    desk.patch("merge-patch+json", &format!("{VOLUMES}/a"), grow(2)).await.expect(200);
    let message = desk.patch("merge-patch+json", &format!("{VOLUMES}/b"), grow(2)).await.refused(403);
    assert!(message.contains("storage.yunfan.io/gigabytes=3"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_behind_a_persistent_one_is_no_machines() {
    let desk = Desk::new().await;
    make(&desk, "v").await;
    let over = |name: &str, volume: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "csi": {"driver": "volume.yunfan.io", "volumeHandle": format!("default/{volume}")}}})
    };
    let volumes = "/api/v1/persistentvolumes";
    let made = desk.call("POST", volumes, Some(over("pv", "v"))).await.expect(201);
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pv-protection"]));
    // The same again is there already, and not in its own way.
    desk.call("POST", volumes, Some(over("pv", "v"))).await.refused(409);
    let message = desk.call("POST", volumes, Some(over("second", "v"))).await.refused(422);
    assert!(message.contains("already used by PersistentVolume pv"), "{message}");
    let wish = json!({"image": "os", "volumes": [{"volume": "v"}]});
    let message = desk.call("POST", MACHINES, Some(machine("a", wish.clone()))).await.refused(422);
    assert!(message.contains("already used by PersistentVolume pv"), "{message}");
    let message = desk.call("DELETE", &format!("{VOLUMES}/v"), None).await.refused(409);
    assert!(message.contains("behind persistent volume pv; delete its claim first"), "{message}");
    // While it goes, what is behind it may go.
    desk.call("DELETE", &format!("{volumes}/pv"), None).await.expect(200);
    desk.call("DELETE", &format!("{VOLUMES}/v"), None).await.expect(200);
    // Nobody but the cloud ties a Volume to one.
    let tie = r#"{"metadata":{"labels":{"storage.yunfan.io/persistent-volume":"pv"}}}"#;
    make(&desk, "w").await;
    let message = desk.patch("merge-patch+json", &format!("{VOLUMES}/w"), tie).await.refused(403);
    assert!(message.contains("written by the cloud alone"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_grows_when_it_is_bound_and_its_class_allows_it() {
    let desk = Desk::new().await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    for (name, class) in [("grows", "yunfan"), ("stays", "fixed")] {
        let spec = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": class, "volumeName": "v"});
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec});
        let made = desk.call("POST", claims, Some(claim)).await.expect(201);
        assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    }
    let more = |name: &str| {
        let (desk, path) = (&desk, format!("{claims}/{name}"));
        let body = r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#;
        async move { desk.patch("merge-patch+json", &path, body).await }
    };
    more("grows").await.refused(422);
    for name in ["grows", "stays"] {
        let bound = r#"{"status":{"phase":"Bound"}}"#;
        desk.patch("merge-patch+json", &format!("{claims}/{name}/status"), bound).await.expect(200);
    }
    more("grows").await.expect(200);
    let message = more("stays").await.refused(403);
    assert!(message.contains("only dynamically provisioned pvc can be resized"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_takes_its_place_and_size_from_what_it_is_made_from() {
    const SNAPSHOTS: &str = "/apis/storage.yunfan.io/v1/namespaces/default/volumesnapshots";
    let desk = Desk::new().await;
    let snapshot = |name: &str, spec: Value| json!({"apiVersion": "storage.yunfan.io/v1", "kind": "VolumeSnapshot", "metadata": {"name": name}, "spec": spec});
    make(&desk, "v").await;
    let of_v = json!({"volume": "v", "nodeName": "n9", "sizeGib": 77});
    let message = desk.call("POST", SNAPSHOTS, Some(snapshot("s", of_v.clone()))).await.refused(409);
    assert!(message.contains("no data to copy"), "{message}");
    let there = r#"{"spec":{"nodeName":"n1"}}"#;
    desk.patch("merge-patch+json", &format!("{VOLUMES}/v"), there).await.expect(200);
    let ready = r#"{"status":{"phase":"Available","sizeGib":1}}"#;
    desk.patch("merge-patch+json", &format!("{VOLUMES}/v/status"), ready).await.expect(200);
    let made = desk.call("POST", SNAPSHOTS, Some(snapshot("s", of_v))).await.expect(201);
    assert_eq!((&made["spec"]["nodeName"], &made["spec"]["sizeGib"]), (&json!("n1"), &json!(1)));
    let lost = snapshot("t", json!({"volume": "w"}));
    desk.call("POST", SNAPSHOTS, Some(lost)).await.refused(422);
    // Nothing can be made of it until it is taken, and what it is taken of stays as long.
    let copy = |spec: Value| volume("copy", spec);
    let of_s = json!({"sizeGib": 1, "snapshot": "s"});
    desk.call("POST", VOLUMES, Some(copy(of_s.clone()))).await.refused(409);
    let message = desk.call("DELETE", &format!("{VOLUMES}/v"), None).await.refused(409);
    assert!(message.contains("s is being made from it"), "{message}");
    // Nor does it grow: what is charged is what will be copied.
    let larger = r#"{"spec":{"sizeGib":9}}"#;
    desk.patch("merge-patch+json", &format!("{VOLUMES}/v"), larger).await.refused(409);
    let taken = r#"{"status":{"phase":"Available"}}"#;
    desk.patch("merge-patch+json", &format!("{SNAPSHOTS}/s/status"), taken).await.expect(200);
    let both = json!({"sizeGib": 1, "snapshot": "s", "sourceVolume": "v"});
    desk.call("POST", VOLUMES, Some(copy(both))).await.refused(422);
    let made = desk.call("POST", VOLUMES, Some(copy(of_s))).await.expect(201);
    assert_eq!((&made["spec"]["nodeName"], made["spec"]["sourceId"].is_string()), (&json!("n1"), true));
    let message = desk.call("DELETE", &format!("{SNAPSHOTS}/s"), None).await.refused(409);
    assert!(message.contains("copy is being made from it"), "{message}");
    // An image that is to be made of it keeps it as well.
    let images = "/apis/image.yunfan.io/v1/namespaces/default/images";
    let image = |spec: Value| json!({"apiVersion": "image.yunfan.io/v1", "kind": "Image", "metadata": {"name": "of-v"}, "spec": spec});
    desk.call("POST", images, Some(image(json!({"sourceVolume": "w"})))).await.refused(422);
    desk.call("POST", images, Some(image(json!({"id": "a%2Db"})))).await.refused(422);
    desk.call("POST", images, Some(image(json!({"sourceVolume": "v", "diskFormat": "raw"}))))
        .await
        .expect(201);
    let message = desk.call("DELETE", &format!("{VOLUMES}/v"), None).await.refused(409);
    assert!(message.contains("of-v is being made from it"), "{message}");
    let other = r#"{"spec":{"volume":"copy"}}"#;
    let message = desk.patch("merge-patch+json", &format!("{SNAPSHOTS}/s"), other).await.refused(422);
    assert!(message.contains("immutable"), "{message}");
}
