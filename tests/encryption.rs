//! Secrets are encrypted where objects are kept: nothing of them is found there, keys are exchanged, and lost ones are told.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use yunfan_tests::marker::{Marker, create, value};
use yunfan_tests::{Cloud, Etcd, Slot, seconds};

#[test]
fn nothing_of_a_secret_is_in_the_store() {
    let cloud = Cloud::builder().server_only().start();
    let marker = Marker::new();
    create(&cloud, "mine", &marker);
    cloud.kubectl(&["annotate", "secret", "mine", "touched=yes"]).ok();
    assert_eq!(value(&cloud, "mine"), marker.0);
    let control = Marker::new();
    cloud.kubectl(&["create", "configmap", "plain", &format!("--from-literal=a={}", control.0)]).ok();
    cloud.terminate();
    assert!(!control.found(&cloud.data_dir().join("store")).is_empty(), "the search finds nothing at all");
    assert_eq!(marker.found(cloud.data_dir()), Vec::<String>::new());
    cloud.up_again();
    assert_eq!(value(&cloud, "mine"), marker.0);
    let said = cloud.yunfan(&["secrets", "status"]).ok();
    assert!(said.starts_with("secrets: aesgcm-derived key1-"), "{said}");
}

#[test]
fn nothing_of_a_secret_is_in_etcd() {
    let slot = Slot::take();
    let mut etcd = Etcd::start(&slot);
    let cloud = Cloud::builder().server_only().argument("--etcd").argument(etcd.url()).start();
    let (marker, control) = (Marker::new(), Marker::new());
    create(&cloud, "mine", &marker);
    cloud.kubectl(&["create", "configmap", "plain", &format!("--from-literal=a={}", control.0)]).ok();
    cloud.kill_9();
    cloud.up_again();
    assert_eq!(value(&cloud, "mine"), marker.0);
    cloud.terminate();
    etcd.kill_9();
    assert!(!control.found(etcd.dir()).is_empty(), "the search finds nothing at all");
    assert_eq!(marker.found(etcd.dir()), Vec::<String>::new());
    assert_eq!(marker.found(cloud.data_dir()), Vec::<String>::new());
}

fn configuration(cloud: &Cloud, name: &str, providers: &str) -> PathBuf {
    let path = cloud.work().join(name);
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers: {providers}\n"
    );
    std::fs::write(&path, text).expect("a file");
    path
}

/// A cloud whose Secrets were kept plain until now gets keys, exchanges them while it is killed in the midst of it, and loses one.
#[test]
fn keys_come_and_go() {
    const OLD: &str = "{name: old, secret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=}";
    const NEW: &str = "{name: new, secret: HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=}";
    let place = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let file = place.path().join("encryption.yaml");
    let prepared = Cloud::builder()
        .server_only()
        .argument("--encryption-provider-config")
        .argument(&file.to_string_lossy())
        .argument("--encryption-provider-config-automatic-reload");
    let cloud = prepared.prepare();
    let providers = |list: &str| {
        let text = configuration(&cloud, "next.yaml", list);
        std::fs::rename(text, &file)
            .or_else(|_| std::fs::copy(cloud.work().join("next.yaml"), &file).map(|_| ()))
            .expect("the configuration");
    };
    let now = |wanted: &str| {
        cloud.until("the configuration is taken over", seconds(20), || {
            let said = cloud.yunfan(&["secrets", "status"]);
            if said.stdout.contains(wanted) { Ok(()) } else { Err(said.to_string()) }
        });
    };
    providers("[identity: {}]");
    cloud.up_again();
    let marker = Marker::new();
    create(&cloud, "plain", &marker);

    // A key: what is written is encrypted from now on, and the rest when that is asked for.
    providers(&format!("[aesgcm: {{keys: [{OLD}]}}, identity: {{}}]"));
    now("secrets: aesgcm old");
    // What is written as it is, is encrypted by that, once: so clients of Kubernetes do it.
    let revision =
        || cloud.kubectl(&["get", "secret", "plain", "-o", "jsonpath={.metadata.resourceVersion}"]).ok();
    let replaced = || {
        let object = cloud.kubectl(&["get", "secret", "plain", "-o", "json"]).ok();
        cloud.kubectl_with(&["replace", "-f", "-"], &object).ok();
        revision()
    };
    let plain = revision();
    let encrypted = replaced();
    assert_ne!(plain, encrypted);
    assert_eq!(replaced(), encrypted);
    let many: String = (0..900)
        .map(|number| format!("---\n{{apiVersion: v1, kind: Secret, metadata: {{name: s{number}}}, stringData: {{password: {}}}}}\n", marker.0))
        .collect();
    cloud.kubectl_with(&["create", "-f", "-"], &many).ok();
    let said = cloud.yunfan(&["secrets", "reencrypt"]).ok();
    assert!(said.contains(" 0 failed"), "{said}");

    // Another key before it; the cloud is killed while all is encrypted anew, and goes on with that.
    providers(&format!("[aesgcm: {{keys: [{NEW}, {OLD}]}}, identity: {{}}]"));
    now("secrets: aesgcm new");
    let mut asked = Command::new(yunfan_tests::binary())
        .args(["secrets", "reencrypt", "--data-dir"])
        .arg(cloud.data_dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("yunfan");
    let lines = BufReader::new(asked.stdout.take().expect("a pipe")).lines();
    let some = lines.map_while(Result::ok).find(|line| !line.contains(" 0 encrypted anew"));
    assert!(some.is_some(), "nothing was encrypted anew");
    cloud.kill_9();
    let _ = asked.wait();
    cloud.up_again();
    for name in ["plain", "s0", "s899"] {
        assert_eq!(value(&cloud, name), marker.0);
    }
    let said = cloud.yunfan(&["secrets", "reencrypt"]).ok();
    assert!(said.contains(" 0 failed"), "{said}");
    let said = cloud.yunfan(&["secrets", "reencrypt"]).ok();
    assert!(said.contains(" 0 encrypted anew, 0 failed"), "nothing is left to do: {said}");

    // The old key may go; when the new one goes as well, each object says which it needs.
    providers(&format!("[aesgcm: {{keys: [{NEW}]}}]"));
    cloud.kill_9();
    cloud.up_again();
    assert_eq!(value(&cloud, "s7"), marker.0);
    providers(&format!("[aesgcm: {{keys: [{OLD}]}}]"));
    cloud.kill_9();
    cloud.up_again();
    cloud
        .kubectl(&["get", "secret", "s7"])
        .refused_with(&["secrets/default/s7", "the key \"new\" of aesgcm"]);
    cloud.kubectl(&["get", "secrets"]).refused_with(&["secrets/default/", "more"]);
    cloud.kubectl(&["get", "configmaps", "-A"]).ok();
    create(&cloud, "another", &marker);
    assert_eq!(value(&cloud, "another"), marker.0);
    let gone = "/api/v1/namespaces/default/secrets/s7?ignoreStoreReadErrorWithClusterBreakingPotential=true";
    cloud.kubectl(&["delete", "secret", "s7"]).refused_with(&["the key \"new\""]);
    cloud.kubectl(&["delete", "--raw", gone]).ok();
    cloud.kubectl(&["get", "secret", "s7"]).refused_with(&["not found"]);
    providers(&format!("[aesgcm: {{keys: [{OLD}, {NEW}]}}]"));
    cloud.until("what was lost is back", seconds(30), || cloud.kubectl(&["get", "secrets"]).as_probe());
    assert_eq!(value(&cloud, "s8"), marker.0);

    // A configuration that is wrong says so, and changes nothing.
    providers("[aescbc: {keys: []}]");
    create(&cloud, "still", &marker);
    cloud.terminate();
    cloud.second_up(None).refused_with(&["resources[0].providers[0].aescbc", "not offered"]);
    providers(&format!("[aesgcm: {{keys: [{OLD}, {NEW}]}}]"));
    cloud.up_again();
}

#[test]
fn the_own_key_is_exchanged() {
    let cloud = Cloud::builder().server_only().start();
    let marker = Marker::new();
    create(&cloud, "mine", &marker);
    let said = cloud.yunfan(&["secrets", "rotate-key"]).ok();
    assert!(said.contains("key2"), "{said}");
    let said = cloud.yunfan(&["secrets", "reencrypt"]).ok();
    assert!(said.contains(" 0 failed") && !said.contains(" 0 encrypted anew"), "{said}");
    let said = cloud.yunfan(&["secrets", "status"]).ok();
    assert!(said.starts_with("secrets: aesgcm-derived key2-"), "{said}");
    cloud.kill_9();
    cloud.up_again();
    assert_eq!(value(&cloud, "mine"), marker.0);
    let file = cloud.data_dir().join("pki/encryption.json");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(file).expect("the keys").permissions());
    assert_eq!(mode & 0o777, 0o600);
}
