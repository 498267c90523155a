//! After `yunfan down` the host is what it was before.
#![forbid(unsafe_code)]

use yunfan_tests::{Cloud, host, run};

#[test]
fn down_leaves_the_host_as_it_was() {
    let cloud = Cloud::builder().prepare();
    let before = host::snapshot("");
    cloud.up_again();
    let tag = cloud.tag();
    cloud.import_web();
    cloud.machine_parts();
    cloud.web("default", "web", 2);
    // On the tenant network too.
    cloud.kubectl(&["annotate", "namespace", "admin", "network.yunfan.io/default-network=lan"]).ok();
    cloud.web("admin", "web", 1);
    cloud.machine("vm");
    cloud.web_ready("default", "web");
    cloud.web_ready("admin", "web");
    cloud.vm_in_phase("admin", "vm", "Active");
    // An exec that is under way, and a container that has ended.
    cloud.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: ended}, spec: {restartPolicy: Never, \
         containers: [{name: c, image: 'demo/web:1', command: ['true']}]}}",
    );

    let running = host::snapshot(&tag);
    for kind in ["mounts", "namespaces", "links", "rules", "routes", "cgroups"] {
        assert_ne!(
            before[kind], running[kind],
            "a running cloud shows nothing among the {kind}: the test sees nothing"
        );
    }
    let processes = cloud.processes();
    assert!(processes.len() >= 8, "{processes:?}");

    // By hand, so that the removal is without the cloud's own help; then once more with all in place.
    cloud.kill_9();
    let down = cloud.yunfan(&["down"]);
    down.ok();
    let left: Vec<_> = processes.iter().filter(|process| process.lives()).collect();
    assert!(left.is_empty(), "still runs: {left:?}\n{down}");
    let difference = host::difference(&before, &host::snapshot(&tag));
    assert!(difference.is_empty(), "{difference:#?}\n{down}");
    let kept = cloud.data_dir().join("store");
    assert!(kept.exists(), "down without --delete-data deleted data");

    cloud.up_again();
    cloud.web_ready("default", "web");
    cloud.web_ready("admin", "web");
    cloud.vm_in_phase("admin", "vm", "Active");
    let processes = cloud.processes();
    let down = cloud.yunfan(&["down", "--delete-data"]);
    down.ok();
    let left: Vec<_> = processes.iter().filter(|process| process.lives()).collect();
    assert!(left.is_empty(), "still runs: {left:?}\n{down}");
    let difference = host::difference(&before, &host::snapshot(&tag));
    assert!(difference.is_empty(), "{difference:#?}\n{down}");
    assert!(!cloud.data_dir().exists());
    // A third time, of a directory that is gone.
    cloud.yunfan(&["down"]).ok();
    run("test", &["!", "-e", &format!("/run/netns/yf-{tag}-cluster")]).ok();
}
