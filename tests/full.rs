//! A node whose disk is full: it says so, images that no container uses go, then Pods that use more than they asked for; and what is
//! wanted again is pulled again.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use yunfan_tests::registry::Registry;
use yunfan_tests::{Cloud, run, seconds};

const MIB: u64 = 1 << 20;
/// The size of the node's disk.
const DISK: u64 = 160 * MIB;
/// What each of the images takes of it, beside the web server that they share.
const EACH: u64 = 16 * MIB;

/// A small disk; its end takes it away.
struct Disk(PathBuf);

impl Disk {
    fn at(path: &Path) -> Self {
        std::fs::create_dir_all(path).expect("a directory");
        let size = format!("size={DISK}");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &path.to_string_lossy()]).ok();
        Self(path.to_owned())
    }

    /// Bytes in use.
    fn used(&self) -> u64 {
        let said = run("df", &["--output=used", "-B1", &self.0.to_string_lossy()]).ok();
        said.lines().last().and_then(|line| line.trim().parse().ok()).expect("a number")
    }

    /// Fills it, so that this much of it is in use.
    fn fill(&self, percent: u64) {
        let bytes = (DISK * percent / 100).saturating_sub(self.used());
        let file = self.0.join("filler").to_string_lossy().into_owned();
        run("fallocate", &["-l", &bytes.to_string(), &file]).ok();
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("filler")).expect("the filler");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &self.0.to_string_lossy()]);
    }
}

/// Runs a Pod of an image to its end, also on a node that is short of disk.
fn run_once(cloud: &Cloud, name: &str, image: &str) {
    let tolerations = json!([{"operator": "Exists"}]);
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"restartPolicy": "Never",
        "tolerations": tolerations, "containers": [{"name": "c", "image": image, "command": ["true"]}]}});
    cloud.apply(&pod.to_string());
    cloud.until(&format!("{name} has run"), seconds(60), || {
        let pod = cloud.get(&["pod", name]);
        if pod["status"]["phase"] == "Succeeded" { Ok(()) } else { Err(pod["status"].to_string()) }
    });
    cloud.kubectl(&["delete", "pod", name]).ok();
}

fn until_images(cloud: &Cloud, what: &str, is: impl Fn(&str) -> bool) {
    cloud.until(what, seconds(60), || {
        let listed = cloud.yunfan(&["image", "list"]).ok();
        if is(&listed) { Ok(()) } else { Err(listed) }
    });
}

fn until_event(cloud: &Cloud, reason: &str, words: &str) {
    let field = format!("--field-selector=reason={reason}");
    cloud.until(&format!("an event {reason}"), seconds(60), || {
        let events = cloud.get(&["events", "-A", &field]);
        let said = |event: &Value| event["message"].as_str().is_some_and(|text| text.contains(words));
        let found = events["items"].as_array().is_some_and(|all| all.iter().any(said));
        if found { Ok(()) } else { Err(events.to_string()) }
    });
}

/// Waits until the node says that it is short of disk, or is not any more.
fn until_short(cloud: &Cloud, short: bool) {
    cloud.until(&format!("short of disk: {short}"), seconds(90), || {
        let node = cloud.get(&["nodes"])["items"][0].take();
        let all =
            |pointer: &str| node.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        let status = if short { "True" } else { "False" };
        let says =
            all("/status/conditions").iter().any(|c| c["type"] == "DiskPressure" && c["status"] == status);
        let kept = all("/spec/taints").iter().any(|taint| taint["key"] == "node.kubernetes.io/disk-pressure");
        if says && kept == short { Ok(()) } else { Err(node.to_string()) }
    });
}

/// Starts a Pod that asks for so much of the disk, and takes so much of it, MiB.
fn start_writer(cloud: &Cloud, name: &str, asks: u64, takes: u64, more: Value) {
    let script = format!("dd if=/dev/zero of=/v/data bs=1048576 count={takes} && touch /v/done; sleep 1000");
    let probe = json!({"exec": {"command": ["test", "-e", "/v/done"]}, "periodSeconds": 1});
    let mut spec = json!({"containers": [{"name": "c", "image": "demo/web:1", "command": ["sh", "-c", script],
        "readinessProbe": probe, "volumeMounts": [{"name": "v", "mountPath": "/v"}],
        "resources": {"requests": {"ephemeral-storage": format!("{asks}Mi")}}}],
        "volumes": [{"name": "v", "emptyDir": {}}]});
    spec.as_object_mut().expect("a spec").extend(more.as_object().cloned().unwrap_or_default());
    let metadata = json!({"name": name, "namespace": "kube-system"});
    cloud.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).to_string());
    cloud.pod_ready("kube-system", name);
}

fn status(cloud: &Cloud, name: &str) -> Value {
    cloud.get(&["pod", "-n", "kube-system", name])["status"].take()
}

fn until_failed(cloud: &Cloud, name: &str) -> Value {
    cloud.until(&format!("{name} has failed"), seconds(60), || {
        let status = status(cloud, name);
        if status["phase"] == "Failed" { Ok(status) } else { Err(status.to_string()) }
    })
}

/// What no image makes room for, Pods do: those first that use more than they asked for, and never the critical ones.
fn who_uses_too_much_ends(cloud: &Cloud, disk: &Disk) {
    let node = cloud.get(&["nodes"])["items"][0]["metadata"]["name"].clone();
    disk.fill(97);
    let ended = until_failed(cloud, "greedy");
    assert_eq!(ended["reason"], "Evicted");
    let said = ended["message"].as_str().unwrap_or_default();
    let words = "The node was low on resource: ephemeral-storage. Threshold quantity: 16Mi, available: ";
    assert!(said.starts_with(words), "{said}");
    let conditions = ended["conditions"].as_array().cloned().unwrap_or_default();
    let target = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget");
    assert_eq!(target.map(|target| &target["reason"]), Some(&json!("TerminationByKubelet")), "{ended}");
    // While the node says so it takes none.
    let late = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "late", "namespace": "kube-system"},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "demo/web:1", "command": ["true"]}]}});
    cloud.apply(&late.to_string());
    let late = until_failed(cloud, "late");
    let words = "Pod was rejected: The node had condition: [DiskPressure]. ";
    assert_eq!((&late["reason"], &late["message"]), (&json!("Evicted"), &json!(words)));

    until_event(cloud, "EvictionThresholdMet", "Attempting to reclaim ephemeral-storage");
    until_event(cloud, "Evicted", "The node was low on resource: ephemeral-storage. ");

    // There is room again, and nobody else had to go.
    until_short(cloud, false);
    assert!(disk.used() <= DISK * 90 / 100, "there is room again");
    for name in ["modest", "vital"] {
        assert_eq!(status(cloud, name)["phase"], "Running", "{name}");
    }
    cloud.pod_ready("default", "user");
}

/// Starts a Pod whose container runs this script in place of its program.
fn start(cloud: &Cloud, name: &str, script: &str) {
    let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": "demo/web:1",
        "command": ["sh", "-c", script], "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "emptyDir": {}}]});
    let metadata = json!({"name": name, "namespace": "kube-system"});
    cloud.apply(&json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}).to_string());
}

/// Waits until a Pod was evicted and what it wrote is gone from the disk, while its object is still there; the others go on.
fn until_alone_evicted(cloud: &Cloud, disk: &Disk, name: &str) {
    let ended = until_failed(cloud, name);
    assert_eq!(ended["reason"], "Evicted", "{ended}");
    cloud.until(&format!("what {name} wrote is gone"), seconds(60), || {
        let used = disk.used() * 100 / DISK;
        if used <= 55 { Ok(()) } else { Err(format!("{used} percent are in use")) }
    });
    until_short(cloud, false);
    for other in ["idle", "modest"] {
        let status = status(cloud, other);
        assert_eq!(status["phase"], "Running", "{other}: {status}");
        assert_eq!(status["containerStatuses"][0]["restartCount"], 0, "{other}: {status}");
    }
    assert_eq!(status(cloud, name)["phase"], "Failed");
}

#[test]
fn a_pod_that_fills_the_disk_is_the_one_that_leaves() {
    let cloud = Cloud::builder().argument("--eviction-pressure-transition-period=10s").prepare();
    let disk = Disk::at(&cloud.data_dir().join("agent"));
    cloud.up_again();
    cloud.import_web();
    start(&cloud, "idle", "sleep 1000");
    start_writer(&cloud, "modest", 0, 4, json!({}));
    cloud.pod_ready("kube-system", "idle");
    disk.fill(50);
    // Into the container's own layer.
    start(&cloud, "layer", "dd if=/dev/zero of=/big bs=1048576 count=68; sleep 1000");
    until_alone_evicted(&cloud, &disk, "layer");
    // Into files that all of its containers see, and which count with none.
    start(
        &cloud,
        "names",
        "dd if=/dev/zero of=/etc/hosts bs=1048576 count=34; dd if=/dev/zero of=/dev/termination-log bs=1048576 count=34; sleep 1000",
    );
    until_alone_evicted(&cloud, &disk, "names");
    // And by a container that does not run any more: it ends at once, again and again.
    start(&cloud, "ended", "test -e /v/data || dd if=/dev/zero of=/v/data bs=1048576 count=68; exit 1");
    until_alone_evicted(&cloud, &disk, "ended");
    start(
        &cloud,
        "first",
        "test -e /v/done || dd if=/dev/zero of=/big bs=1048576 count=68; touch /v/done; exit 1",
    );
    until_alone_evicted(&cloud, &disk, "first");
    disk.empty();
    cloud.yunfan(&["down"]).ok();
}

#[test]
fn a_full_disk_loses_the_images_that_nobody_uses() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = Registry::start(dir.path(), "");
    registry.push_web("team/web:1", &[]);
    for tag in ["a", "b", "c"] {
        registry.push_larger("team/web", ("1", tag), EACH);
    }
    let image = |tag: &str| registry.image(&format!("team/web:{tag}"));
    let cloud = Cloud::builder().argument("--eviction-pressure-transition-period=10s").prepare();
    let disk = Disk::at(&cloud.data_dir().join("agent"));
    cloud.up_again();
    cloud.import_web();
    for tag in ["a", "b", "c"] {
        run_once(&cloud, tag, &image(tag));
    }
    cloud.kubectl(&["run", "user", "--image", &image("c"), "--command", "--", "sleep", "1000"]).ok();
    cloud.pod_ready("default", "user");
    assert!(disk.used() > 3 * EACH, "the images are on this disk");
    start_writer(&cloud, "modest", 24, 8, json!({}));
    start_writer(&cloud, "greedy", 4, 16, json!({}));
    start_writer(&cloud, "vital", 0, 20, json!({"priorityClassName": "system-node-critical"}));
    // Those that were just pulled would stay for a while; one that begins knows no age.
    cloud.kill_9();
    cloud.up_again();

    disk.fill(95);
    until_short(&cloud, true);
    until_images(&cloud, "what nobody uses is gone", |list| {
        !list.contains("web:a") && !list.contains("web:b")
    });
    let list = cloud.yunfan(&["image", "list"]).ok();
    assert!(list.contains("team/web:c"), "a container uses it: {list}");
    assert!(list.contains("demo/web:1"), "it can't be had again: {list}");
    assert!(disk.used() <= DISK * 80 / 100, "there is room again");
    cloud.pod_ready("default", "user");

    disk.empty();
    who_uses_too_much_ends(&cloud, &disk);

    disk.empty();
    run_once(&cloud, "again", &image("a"));
    assert!(cloud.yunfan(&["image", "list"]).ok().contains("team/web:a"));
    cloud.yunfan(&["down"]).ok();
}
