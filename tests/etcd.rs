//! A cloud that keeps its objects in Debian's etcd.
#![forbid(unsafe_code)]

use yunfan_tests::{Cloud, Etcd, Slot, seconds};

#[test]
fn objects_live_in_etcd() {
    // Only its ports are needed here.
    let slot = Slot::take();
    let mut etcd = Etcd::start(&slot);
    let cloud = Cloud::builder().argument("--etcd").argument(etcd.url()).start();
    assert!(!cloud.data_dir().join("store").exists(), "the embedded store is there as well");
    cloud.import_web();
    cloud.web("default", "web", 1);
    let pods = cloud.web_ready("default", "web");
    cloud.kubectl(&["create", "configmap", "note", "--from-literal=a=b"]).ok();
    let note = cloud.get(&["configmap", "note"]);
    let own = etcd.keys("/yunfan");
    assert!(own > 20, "only {own} keys below /yunfan");
    assert_eq!(etcd.keys("/"), own, "keys outside of /yunfan");

    cloud.kill_9();
    cloud.up_again();
    assert_eq!(cloud.get(&["configmap", "note"]), note);
    let again = cloud.web_ready("default", "web");
    assert_eq!(again[0]["metadata"]["uid"], pods[0]["metadata"]["uid"]);
    assert_eq!(again[0]["status"]["containerStatuses"], pods[0]["status"]["containerStatuses"]);

    // etcd goes and comes: writes are refused in between, and watches find their way again.
    etcd.kill_9();
    cloud.kubectl(&["create", "configmap", "between", "--request-timeout=20s"]).refused();
    etcd.up();
    cloud.until("writes work again", seconds(60), || {
        let made = cloud.kubectl(&["create", "configmap", "after"]);
        if made.succeeded() || made.stderr.contains("already exists") {
            Ok(())
        } else {
            Err(made.to_string())
        }
    });
    cloud.kubectl(&["scale", "deployment/web", "--replicas=2"]).ok();
    cloud.web_ready("default", "web");

    // No etcd at all: the cloud says so.
    cloud.kill_9();
    etcd.kill_9();
    cloud.second_up(None).refused_with(&["etcd", etcd.url()]);
}
