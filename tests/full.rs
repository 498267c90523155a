//! A node whose disk is full: it says so, images that no container uses go, and what is wanted again is pulled again.
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

#[test]
fn a_full_disk_loses_the_images_that_nobody_uses() {
    let dir = tempfile::tempdir().expect("a directory");
    let registry = Registry::start(dir.path(), "");
    registry.push_web("team/web:1", &[]);
    for tag in ["a", "b", "c"] {
        registry.push_larger("team/web", ("1", tag), EACH);
    }
    let image = |tag: &str| registry.image(&format!("team/web:{tag}"));
    let cloud = Cloud::builder().prepare();
    let disk = Disk::at(&cloud.data_dir().join("agent"));
    cloud.up_again();
    cloud.import_web();
    for tag in ["a", "b", "c"] {
        run_once(&cloud, tag, &image(tag));
    }
    cloud.kubectl(&["run", "user", "--image", &image("c"), "--command", "--", "sleep", "1000"]).ok();
    cloud.pod_ready("default", "user");
    assert!(disk.used() > 3 * EACH, "the images are on this disk");
    // Those that were just pulled would stay for a while; one that begins knows no age.
    cloud.kill_9();
    cloud.up_again();

    disk.fill(95);
    cloud.until("the node says so", seconds(60), || {
        let node = cloud.get(&["nodes"])["items"][0].take();
        let all =
            |pointer: &str| node.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        let full =
            all("/status/conditions").iter().any(|c| c["type"] == "DiskPressure" && c["status"] == "True");
        let kept = all("/spec/taints").iter().any(|taint| taint["key"] == "node.kubernetes.io/disk-pressure");
        if full && kept { Ok(()) } else { Err(node.to_string()) }
    });
    until_images(&cloud, "what nobody uses is gone", |list| {
        !list.contains("web:a") && !list.contains("web:b")
    });
    let list = cloud.yunfan(&["image", "list"]).ok();
    assert!(list.contains("team/web:c"), "a container uses it: {list}");
    assert!(list.contains("demo/web:1"), "it can't be had again: {list}");
    assert!(disk.used() <= DISK * 80 / 100, "there is room again");
    cloud.pod_ready("default", "user");

    // What can't be freed is told of.
    disk.empty();
    disk.fill(97);
    until_event(
        &cloud,
        "FreeDiskSpaceFailed",
        "Failed to garbage collect required amount of images. Attempted to free",
    );
    until_event(&cloud, "ImageGCFailed", "but only found 0 bytes eligible to free.");

    disk.empty();
    run_once(&cloud, "again", &image("a"));
    assert!(cloud.yunfan(&["image", "list"]).ok().contains("team/web:a"));
    cloud.yunfan(&["down"]).ok();
}
