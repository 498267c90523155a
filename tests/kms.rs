//! Secrets whose keys a KMS v2 plug-in keeps, with the whole program: the plug-in dies, comes back and exchanges its key.
#![forbid(unsafe_code)]

#[path = "../crates/encryption/tests/plugin/mod.rs"]
#[allow(dead_code, reason = "other tests have it lie and count what it is asked")]
mod plugin;

use plugin::Plugin;
use yunfan_tests::marker::{Marker, create, value};
use yunfan_tests::{Cloud, seconds};

#[test]
fn a_plug_in_keeps_the_keys_of_secrets() {
    let place = tempfile::tempdir_in("/var/tmp").expect("a directory");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let start = |key: &str| {
        let _within = runtime.enter();
        Plugin::start(place.path(), key)
    };
    let file = place.path().join("encryption.yaml");
    let text = format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  \
         providers:\n  - kms: {{apiVersion: v2, name: safe, endpoint: 'unix://{}', timeout: 3s}}\n  - identity: {{}}\n",
        place.path().join("kms.sock").display()
    );
    std::fs::write(&file, text).expect("the configuration");

    let plugin = start("kek-1");
    let config = file.to_string_lossy().into_owned();
    let cloud =
        Cloud::builder().server_only().argument("--encryption-provider-config").argument(&config).start();
    let (marker, control) = (Marker::new(), Marker::new());
    create(&cloud, "mine", &marker);
    cloud.kubectl(&["create", "configmap", "plain", &format!("--from-literal=a={}", control.0)]).ok();
    let says = |wanted: &str| {
        cloud.until("the key is known", seconds(60), || {
            let said = cloud.yunfan(&["secrets", "status"]);
            if said.stdout.contains(wanted) { Ok(()) } else { Err(said.to_string()) }
        });
    };
    says("secrets: kms safe, key kek-1");
    cloud.terminate();
    assert!(!control.found(&cloud.data_dir().join("store")).is_empty(), "the search finds nothing at all");
    assert_eq!(marker.found(cloud.data_dir()), Vec::<String>::new());
    cloud.up_again();
    assert_eq!(value(&cloud, "mine"), marker.0);

    // It dies: what the cloud knows already it goes on with.
    runtime.block_on(plugin.stop());
    assert_eq!(value(&cloud, "mine"), marker.0);
    create(&cloud, "second", &marker);
    // A cloud that starts without it tells what it needs, and has all else.
    cloud.kill_9();
    cloud.up_again();
    cloud.kubectl(&["get", "secret", "mine"]).refused_with(&["secrets/default/mine", "kek-1", "safe"]);
    cloud.kubectl(&["create", "secret", "generic", "third"]).refused_with(&["kms.sock"]);
    cloud.kubectl(&["get", "configmap", "plain"]).ok();
    let plugin = start("kek-1");
    cloud.until("Secrets can be read again", seconds(60), || {
        cloud.kubectl(&["get", "secret", "mine"]).as_probe()
    });
    assert_eq!(value(&cloud, "mine"), marker.0);
    assert_eq!(value(&cloud, "second"), marker.0);
    cloud.until("Secrets can be written again", seconds(60), || {
        cloud.kubectl(&["create", "secret", "generic", "third"]).as_probe()
    });

    // It exchanges its key: what is there is encrypted anew, and then nobody needs the old one.
    plugin.rotate("kek-2");
    says("secrets: kms safe, key kek-2");
    let said = cloud.yunfan(&["secrets", "reencrypt"]).ok();
    assert!(said.contains(" 0 failed") && !said.contains(" 0 encrypted anew"), "{said}");
    plugin.forget("kek-1");
    cloud.kill_9();
    cloud.up_again();
    for name in ["mine", "second"] {
        assert_eq!(value(&cloud, name), marker.0);
    }
    cloud.terminate();
    assert_eq!(marker.found(cloud.data_dir()), Vec::<String>::new());
    cloud.up_again();
}
