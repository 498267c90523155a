//! Bad luck: a node without QEMU, and a full disk.
#![forbid(unsafe_code)]

use yunfan_tests::{Cloud, run, seconds, web_archive};

#[test]
fn a_node_without_qemu() {
    let tools = tempfile::tempdir_in("/var/tmp").expect("a directory");
    for dir in ["/usr/sbin", "/usr/bin", "/sbin", "/bin"] {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_name().to_string_lossy().starts_with("qemu-system") {
                let _ = std::os::unix::fs::symlink(entry.path(), tools.path().join(entry.file_name()));
            }
        }
    }
    let cloud = Cloud::builder().env("PATH", &tools.path().to_string_lossy()).start();
    cloud.import_web();
    cloud.machine_parts();
    cloud.machine("vm");
    let vm = cloud.vm_in_phase("admin", "vm", "Error");
    assert!(
        vm["status"]["message"].as_str().is_some_and(|m| m.contains("qemu-system-x86")),
        "{}",
        vm["status"]
    );
    let shown = cloud.openstack(&["server", "show", "vm", "-f", "json"]).json();
    assert_eq!(shown["status"], "ERROR", "{shown}");
    assert!(shown.to_string().contains("qemu-system-x86"), "{shown}");
    let why = cloud.yunfan(&["why", "vm", "vm", "-n", "admin"]).ok();
    assert!(why.contains("qemu-system-x86"), "{why}");
    cloud.kubectl(&["run", "pod", "--image", "demo/web:1"]).ok();
    cloud.pod_ready("default", "pod");
    cloud.openstack(&["server", "delete", "--wait", "vm"]).ok();
}

/// A small file system, away again at the end.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(mebibytes: u32) -> Self {
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let size = format!("size={mebibytes}m");
        run("mount", &["-t", "tmpfs", "-o", &size, "yunfan-e2e", &dir.path().to_string_lossy()]).ok();
        Self(dir)
    }

    /// Takes all the room that is left.
    fn fill(&self) {
        let file = self.0.path().join("ballast").to_string_lossy().into_owned();
        run("dd", &["if=/dev/zero", &format!("of={file}"), "bs=64k", "oflag=append", "conv=notrunc"])
            .refused();
        run("sh", &["-c", &format!("head -c 1000000 /dev/zero >>{file}")]).refused();
    }

    fn free(&self) {
        std::fs::remove_file(self.0.path().join("ballast")).expect("the ballast");
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        run("umount", &["-l", &self.0.path().to_string_lossy()]);
    }
}

#[test]
fn a_full_disk() {
    let disk = Small::mount(300);
    // Its Pod would leave to make room, sooner or later.
    let stays = "--eviction-hard=nodefs.available<0%";
    let cloud = Cloud::builder().data_dir(&disk.0.path().join("cloud")).argument(stays).start();
    cloud.import_web();
    cloud.web("default", "web", 1);
    let pods = cloud.web_ready("default", "web");
    let uid = pods[0]["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let running = cloud.processes_of("pod", &uid);
    disk.fill();
    // Writes that fit in what is allotted already may go on; then one says why it cannot.
    let text = format!("--from-literal=text={}", "x".repeat(60_000));
    let mut acknowledged = Vec::new();
    let refused = (0..400).find_map(|number| {
        let name = format!("note-{number}");
        let made = cloud.kubectl(&["create", "configmap", &name, &text]);
        if made.succeeded() {
            acknowledged.push(name);
            return None;
        }
        Some(made)
    });
    let refused = refused.expect("24 MB were written to a full disk");
    assert!(refused.stderr.to_lowercase().contains("space"), "{refused}");
    // Reading goes on, and so does what runs.
    cloud.kubectl(&["get", "deployment", "web"]).ok();
    assert!(running.iter().all(|process| process.lives()));
    let short =
        cloud.openstack(&["image", "create", "--disk-format", "raw", "--file", web_archive(), "full"]);
    short.refused();
    disk.free();
    cloud.until("writes work again, by themselves or after a restart", seconds(60), || {
        let made = cloud.kubectl(&["create", "configmap", "afterwards"]);
        if made.succeeded() || made.stderr.contains("already exists") {
            Ok(())
        } else {
            Err(made.to_string())
        }
    });
    acknowledged.push("afterwards".to_owned());
    cloud.kill_9();
    cloud.up_again();
    for name in &acknowledged {
        cloud.kubectl(&["get", "configmap", name]).ok();
    }
    cloud.web_ready("default", "web");
    assert!(running.iter().all(|process| process.lives()));
}
