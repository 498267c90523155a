//! Which mounts are seen where, with the real kernel. Needs root, `ip` and a static busybox.

mod common;

use std::path::{Path, PathBuf};

use common::{Instance, script};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use yunfan_runtime::{ContainerConfig, ContainerId, Mount, Propagation, Runtime, kit};

/// Mounts an empty file system with this name; below the instance's own directory, so that it goes with it.
fn mount_tmpfs(name: &str, at: &Path) {
    std::fs::create_dir_all(at).unwrap();
    rustix::mount::mount(name, at, "tmpfs", MountFlags::NOSUID, c"mode=0755").unwrap();
}

/// A file system of the node's, which goes with this.
struct Hosted(PathBuf);

impl Hosted {
    fn new(cloud: &Instance) -> Self {
        let at = cloud.dir.path().join("hosted");
        mount_tmpfs("hosted", &at);
        Self(at)
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        let _ = kit::detach(&self.0);
    }
}

fn mount(from: &Path, propagation: Propagation) -> Mount {
    Mount { host_path: from.to_owned(), container_path: "/mnt/test".into(), propagation, ..Mount::default() }
}

fn privileged(mounts: Vec<Mount>) -> ContainerConfig {
    ContainerConfig { privileged: true, mounts, ..script("c", "sleep 1000") }
}

/// Mounts something in a container's volume, in a directory of this name, with a file in it.
async fn mount_inside(cloud: &Instance, id: &ContainerId, name: &str) {
    let at = format!("/mnt/test/{name}");
    let text =
        format!("mkdir -p {at} && mount -t tmpfs from-{name} {at} && echo {name} > {at}/file && echo done");
    assert_eq!(cloud.sh(id, &text).await, "done\n");
}

/// The directories in a container's volume whose file it sees.
async fn seen(cloud: &Instance, id: &ContainerId) -> Vec<String> {
    let text = cloud.sh(id, "cd /mnt/test; ls -d */file 2> /dev/null; true").await;
    text.lines().filter_map(|line| Some(line.strip_suffix("/file")?.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_go_where_containers_ask_for_them_to_go() {
    let cloud = Instance::new().await;
    let hosted = Hosted::new(&cloud);
    let volume = &hosted.0;
    // As on a host whose mounts nobody has made shared.
    rustix::mount::mount_change(volume, MountPropagationFlags::PRIVATE).unwrap();
    let start =
        |uid: &'static str, propagation| cloud.start(uid, privileged(vec![mount(volume, propagation)]));
    let alone = start("alone", Propagation::Private).await;
    let slave = start("slave", Propagation::FromNode).await;
    let master = start("master", Propagation::Both).await;
    for (id, name) in [(&alone, "alone"), (&slave, "slave"), (&master, "master")] {
        mount_inside(&cloud, id, name).await;
    }
    mount_tmpfs("from-host", &volume.join("host"));
    std::fs::write(volume.join("host/file"), "host\n").unwrap();
    assert_eq!(seen(&cloud, &master).await, ["host", "master"]);
    assert_eq!(seen(&cloud, &slave).await, ["host", "master", "slave"]);
    assert_eq!(seen(&cloud, &alone).await, ["alone"]);
    let there = |name: &str| volume.join(name).join("file").exists();
    let on_node = || ["alone", "host", "master", "slave"].map(there);
    assert_eq!(on_node(), [false, true, true, false]);
    // Who comes later finds what is there, whatever it asks for.
    let late = start("late", Propagation::Private).await;
    assert_eq!(seen(&cloud, &late).await, ["host", "master"]);
    // Nobody's end takes a mount from the node.
    cloud.runtime.stop_container(&master, std::time::Duration::ZERO).await.unwrap();
    let again = ContainerConfig { attempt: 1, ..privileged(vec![mount(volume, Propagation::Both)]) };
    let again = cloud.runtime.create_and_start("master", again).await.unwrap();
    assert_eq!(seen(&cloud, &again).await, ["host", "master"]);
    for uid in ["master", "late", "alone"] {
        cloud.runtime.remove_sandbox(uid).await.unwrap();
    }
    assert_eq!(on_node(), [false, true, true, false]);
    kit::detach(&volume.join("master")).unwrap();
    assert_eq!(seen(&cloud, &slave).await, ["host", "slave"]);
    cloud.runtime.remove_sandbox("slave").await.unwrap();
    assert_eq!(on_node(), [false, true, false, false]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_mounted_in_a_pods_own_volume_goes_with_it_and_nothing_of_it_is_removed() {
    let cloud = Instance::new().await;
    // Made shared for this test, which the host's own mount is better not.
    mount_tmpfs("pods", &cloud.dir.path().join("agent/pods"));
    let (volume, other) = (cloud.runtime.pod_dir("p1").join("volumes/data"), cloud.dir.path().join("other"));
    std::fs::create_dir_all(&volume).unwrap();
    std::fs::create_dir(&other).unwrap();
    let is_shared = || {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let at = format!(" {} ", cloud.dir.path().join("agent/pods").display());
        table.lines().find(|line| line.contains(&at)).unwrap().contains(" shared:")
    };
    rustix::mount::mount_change(cloud.dir.path().join("agent/pods"), MountPropagationFlags::PRIVATE).unwrap();
    let follows = ContainerConfig {
        name: "follows".to_owned(),
        mounts: vec![mount(&volume, Propagation::FromNode)],
        ..script("c", "sleep 1000")
    };
    cloud.start("p1", follows).await;
    assert!(!is_shared(), "what anybody may ask for changes none of the node's mounts");
    std::fs::write(other.join("kept"), "x").unwrap();
    let second = Mount { container_path: "/other".into(), ..mount(&other, Propagation::Private) };
    let both = privileged(vec![mount(&volume, Propagation::Both), second]);
    let id = cloud.runtime.create_and_start("p1", both).await.unwrap();
    assert!(is_shared());
    let text = "mkdir /mnt/test/in /mnt/test/net && mount -o bind /other /mnt/test/in && mount -t tmpfs x /mnt/test/net && echo done";
    assert_eq!(cloud.sh(&id, text).await, "done\n");
    assert!(volume.join("in/kept").exists());
    cloud.runtime.remove_sandbox("p1").await.unwrap();
    assert!(!cloud.runtime.pod_dir("p1").exists() && other.join("kept").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_sees_no_claims_of_others_and_keeps_none_busy() {
    let cloud = Instance::new().await;
    let claims = cloud.dir.path().join("agent/claims");
    std::fs::create_dir_all(&claims).unwrap();
    kit::share_apart(&claims).unwrap();
    let mut shims = Vec::new();
    for uid in ["one", "two"] {
        let at = claims.join(uid).join("fs");
        mount_tmpfs(&format!("claim-of-{uid}"), &at);
        std::fs::create_dir(at.join("part")).unwrap();
        let part = Mount {
            container_path: "/part".into(),
            sub_path: Some(PathBuf::from("part")),
            ..mount(&at, Propagation::Private)
        };
        let mounts = vec![mount(&at, Propagation::Private), part];
        let id = cloud.start(uid, ContainerConfig { mounts, ..script("c", "sleep 1000") }).await;
        assert_eq!(cloud.sh(&id, "echo x > /part/file; cat /mnt/test/part/file").await, "x\n");
        assert!(at.join("part/file").exists());
        shims.push((id, cloud.runtime.sandbox(uid).await.unwrap().unwrap().shim_pid.unwrap()));
    }
    let seen = |shim: i32, uid: &str| {
        let table = std::fs::read_to_string(format!("/proc/{shim}/mountinfo")).unwrap();
        table.lines().filter(|line| line.contains(&format!(" claim-of-{uid} "))).count()
    };
    for (number, (id, shim)) in shims.iter().enumerate() {
        let (own, other) = [("one", "two"), ("two", "one")][number];
        assert!(seen(*shim, own) > 0 && seen(*shim, other) == 0);
        // Who has the whole node has none of them either, and would else keep them for as long as it lives.
        let all = privileged(vec![mount(cloud.dir.path(), Propagation::Private)]);
        let all = ContainerConfig { name: "all".to_owned(), ..all };
        let all = cloud.runtime.create_and_start(own, all).await.unwrap();
        let text = cloud.sh(&all, "ls -d /mnt/test/agent/claims/*; cat /proc/self/mountinfo").await;
        assert!(text.contains("/claims/one") && !text.contains(" claim-of-"), "{text}");
        cloud.runtime.stop_container(id, std::time::Duration::ZERO).await.unwrap();
        assert_eq!(seen(*shim, own), 0, "a container that ended has nothing mounted");
        rustix::mount::unmount(claims.join(own).join("fs"), UnmountFlags::empty()).unwrap();
    }
}
