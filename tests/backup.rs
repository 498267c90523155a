//! `yunfan backup` and `yunfan restore`, while the cloud runs and while it does not.
#![forbid(unsafe_code)]

use std::sync::Arc;

use yunfan_tests::{Cloud, Slot, seconds};

#[test]
fn a_backup_brings_things_back() {
    let cloud = Cloud::start();
    cloud.import_web();
    cloud.web("default", "web", 2);
    cloud.web_ready("default", "web");
    cloud.kubectl(&["create", "configmap", "kept", "--from-literal=colour=green"]).ok();
    cloud.kubectl(&["create", "configmap", "changed", "--from-literal=colour=green"]).ok();
    cloud.kubectl(&["create", "namespace", "side"]).ok();
    cloud.kubectl(&["create", "secret", "generic", "inside", "-n", "side", "--from-literal=a=b"]).ok();
    let before = cloud.get(&["configmap", "kept"]);
    let file = cloud.work().join("cloud.backup").to_string_lossy().into_owned();
    let said = cloud.yunfan(&["backup", &file]).ok();
    assert!(said.contains(&file) && said.contains("pki/encryption.json"), "{said}");
    let mode =
        std::fs::metadata(&file).map(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()));
    assert_eq!(mode.expect("the backup") & 0o777, 0o600, "it holds Secrets");

    cloud.kubectl(&["create", "configmap", "extra"]).ok();
    cloud.kubectl(&["patch", "configmap", "changed", "-p", "{\"data\":{\"colour\":\"red\"}}"]).ok();
    cloud.kubectl(&["delete", "configmap", "kept"]).ok();
    cloud.kubectl(&["delete", "deployment,service", "web"]).ok();
    cloud.kubectl(&["delete", "namespace", "side", "--timeout=60s"]).ok();

    refuses_what_is_no_backup(&cloud, &file);

    cloud.yunfan(&["restore", &file]).ok();
    let kept = cloud.get(&["configmap", "kept"]);
    assert_eq!((&kept["data"], &kept["metadata"]["uid"]), (&before["data"], &before["metadata"]["uid"]));
    assert_eq!(cloud.get(&["configmap", "changed"])["data"]["colour"], "green");
    cloud.kubectl(&["get", "configmap", "extra"]).refused_with(&["not found"]);
    assert_eq!(cloud.get(&["secret", "-n", "side", "inside"])["data"]["a"], "Yg==");
    // What runs follows.
    cloud.web_ready("default", "web");
    // Claims came back with their objects: the address is taken, a new Service gets another.
    let ip = cloud.get(&["service", "web"])["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let twin = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: twin}}, spec: {{clusterIP: {ip}, ports: [{{port: 80}}]}}}}"
    );
    cloud.kubectl_with(&["apply", "-f", "-"], &twin).refused_with(&[&ip]);

    // The same ranges of addresses, which the backup's objects are in; and so the first cloud has to go.
    let kept = tempfile::NamedTempFile::new_in("/var/tmp").expect("a file");
    std::fs::copy(&file, kept.path()).expect("a copy");
    let keys = std::fs::read(cloud.data_dir().join("pki/encryption.json")).expect("the keys of Secrets");
    let slot = cloud.slot().clone();
    drop(cloud);
    into_a_fresh_directory(slot, &kept.path().to_string_lossy(), &keys);
}

/// A file that is cut off, or something else, changes nothing.
fn refuses_what_is_no_backup(cloud: &Cloud, file: &str) {
    let bytes = std::fs::read(file).expect("the backup");
    let cut = cloud.work().join("cut.backup").to_string_lossy().into_owned();
    for (length, what) in [(bytes.len() - 1, "cut at its end"), (bytes.len() / 2, "half"), (0, "empty")] {
        std::fs::write(&cut, &bytes[..length]).expect("a file");
        let ran = cloud.yunfan(&["restore", &cut]);
        assert!(!ran.succeeded(), "{what}: {ran}");
        assert!(ran.refused().contains("nothing was restored"), "{what}: {ran}");
    }
    let mut other = bytes.clone();
    let middle = other.len() / 2;
    other[middle] ^= 0x01;
    std::fs::write(&cut, other).expect("a file");
    cloud.yunfan(&["restore", &cut]).refused_with(&["nothing was restored"]);
    cloud.yunfan(&["restore", "/no/such/file"]).refused_with(&["/no/such/file"]);
    cloud.kubectl(&["get", "configmap", "extra"]).ok();
    cloud.kubectl(&["get", "configmap", "kept"]).refused_with(&["not found"]);
}

fn into_a_fresh_directory(slot: Arc<Slot>, file: &str, keys: &[u8]) {
    let cloud = Cloud::builder().slot(slot).prepare();
    cloud.yunfan(&["restore", file]).ok();
    cloud.up_again();
    assert_eq!(cloud.get(&["configmap", "kept"])["data"]["colour"], "green");
    // Without the keys, Secrets can't be read: each says so, and all else is there.
    let unread = ["secrets/side/inside", "the key \"key1-"];
    cloud.kubectl(&["get", "secret", "-n", "side", "inside"]).refused_with(&unread);
    cloud.kubectl(&["get", "secrets", "-A"]).refused_with(&unread);
    cloud.yunfan(&["secrets", "status"]).refused_with(&unread);
    cloud.kubectl(&["create", "secret", "generic", "-n", "side", "inside"]).refused_with(&["already exists"]);
    std::fs::write(cloud.data_dir().join("pki/encryption.json"), keys).expect("the keys of Secrets");
    cloud.until("Secrets can be read with their keys", seconds(30), || {
        cloud.kubectl(&["get", "secret", "-n", "side", "inside"]).as_probe()
    });
    assert_eq!(cloud.get(&["secret", "-n", "side", "inside"])["data"]["a"], "Yg==");
    // Images are no objects: it waits for one, and runs when it is there.
    cloud.import_web();
    cloud.web_ready("default", "web");
    cloud.until("the new cloud's own credentials work at both doors", seconds(10), || {
        cloud.openstack(&["project", "list"]).as_probe()
    });
    // Offline, it writes the same things down again.
    cloud.terminate();
    let again = cloud.work().join("again.backup").to_string_lossy().into_owned();
    cloud.yunfan(&["backup", &again]).ok();
    assert!(std::fs::metadata(&again).is_ok_and(|meta| meta.len() > 1000));
}
