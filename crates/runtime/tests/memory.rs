//! What pods have in memory: no secret reaches the node's disk, and no pod sees the mounts of another. Needs root, `ip` and a static busybox.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Instance, script};
use rustix::mount::{MountFlags, MountPropagationFlags};
use yunfan_runtime::{ContainerConfig, EmbeddedRuntime, Mount, Runtime, RuntimeEvent, TmpfsVolume, kit};

const SECRET: &str = "nobody-is-to-read-this-on-a-disk";

/// Has the instance's memory on a tmpfs of its own, whose mounts others see, as the agent has it.
fn mount_memory(cloud: &Instance) -> PathBuf {
    let at = cloud.dir.path().join("agent/memory");
    std::fs::create_dir_all(&at).unwrap();
    rustix::mount::mount("tmpfs", &at, "tmpfs", MountFlags::NOSUID, c"mode=0700").unwrap();
    rustix::mount::mount_change(&at, MountPropagationFlags::SHARED).unwrap();
    at
}

/// Files on the disk that have the secret in them, in a directory and what is below it.
fn on_disk(dir: &Path) -> Vec<PathBuf> {
    let grep = ["-xdev", "-type", "f", "-exec", "grep", "-l", "-F", SECRET, "{}", "+"];
    let found = std::process::Command::new("find").arg(dir).args(grep).output().unwrap();
    String::from_utf8(found.stdout).unwrap().lines().map(PathBuf::from).collect()
}

fn told(text: &str) -> ContainerConfig {
    ContainerConfig { env: vec![("WORD".to_owned(), SECRET.to_owned())], ..script("told", text) }
}

#[tokio::test(flavor = "multi_thread")]
async fn environments_are_in_memory_and_go_with_their_containers() {
    let cloud = Instance::new().await;
    let memory = mount_memory(&cloud);
    let id = cloud.start("s1", told("sleep 1000")).await;
    assert_eq!(cloud.sh(&id, "echo $WORD").await.trim(), SECRET);
    let pod = cloud.dir.path().join("agent/pods/s1");
    // While a command runs, what describes it is there, too.
    let command = ["sleep", "2"].map(str::to_owned).to_vec();
    let running = cloud.runtime.exec_sync(&id, command, Duration::from_secs(60));
    let (done, ()) =
        tokio::join!(running, async { assert!(on_disk(&pod).is_empty(), "{:?}", on_disk(&pod)) });
    assert_eq!(done.unwrap().exit_code, 0);
    let own = memory.join("s1/.containers");
    let names = || std::fs::read_dir(&own).map_or(0, Iterator::count);
    assert_eq!(names(), 1);
    // The next agent finds it.
    let second = EmbeddedRuntime::open(common::config(&cloud.tag, cloud.dir.path())).await.unwrap();
    let command = ["sh", "-c", "echo $WORD"].map(str::to_owned).to_vec();
    let said = second.exec_sync(&id, command, Duration::from_secs(60)).await.unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), SECRET);
    // Two would both look after the pod's end.
    drop(second);
    cloud.runtime.remove_container(&id).await.unwrap();
    assert_eq!(names(), 0);
    let next = ContainerConfig { attempt: 1, ..told("sleep 1000") };
    cloud.runtime.create_and_start("s1", next).await.unwrap();
    assert_eq!(names(), 1);
    cloud.runtime.remove_sandbox("s1").await.unwrap();
    assert!(!own.exists() && !pod.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_host_was_started_anew_pods_are_made_anew() {
    let cloud = Instance::new().await;
    let memory = mount_memory(&cloud);
    cloud.start("s2", told("sleep 1000")).await;
    let root = cloud.dir.path().join("agent");
    let mut events = cloud.runtime.events();
    // Nothing runs and nothing is mounted; files are as they were.
    yunfan_runtime::teardown(&cloud.tag, &root).unwrap();
    // Whoever looked after it until now has nothing more to do with it.
    while !matches!(events.recv().await.unwrap(), RuntimeEvent::SandboxDied { .. }) {}
    let link = root.join("pods/s2/containers/told-0/config.json");
    assert!(link.is_symlink() && !link.exists());
    let next = EmbeddedRuntime::open(common::config(&cloud.tag, cloud.dir.path())).await.unwrap();
    assert!(!next.sandbox("s2").await.unwrap().unwrap().ready);
    next.clear_sandbox("s2").await.unwrap();
    next.run_sandbox(cloud.sandbox("s2")).await.unwrap();
    let config = ContainerConfig { attempt: 1, ..told("sleep 1000") };
    let id = next.create_and_start("s2", config).await.unwrap();
    let command = ["sh", "-c", "echo $WORD"].map(str::to_owned).to_vec();
    let said = next.exec_sync(&id, command, Duration::from_secs(60)).await.unwrap();
    assert_eq!(String::from_utf8(said.stdout).unwrap().trim(), SECRET);
    next.remove_sandbox("s2").await.unwrap();
    assert!(!memory.join("s2/.containers").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shim_sees_the_mounts_of_its_own_pod_alone() {
    let cloud = Instance::new().await;
    let memory = mount_memory(&cloud);
    let volume = |uid: &str| memory.join(uid).join("scratch");
    let mut shims = Vec::new();
    for uid in ["one", "two"] {
        std::fs::create_dir_all(volume(uid)).unwrap();
        let own = TmpfsVolume { path: volume(uid), size_bytes: Some(1 << 20), group: None };
        kit::mount_tmpfs_volume(&own).unwrap();
        let mount = Mount {
            host_path: volume(uid),
            container_path: "/scratch".into(),
            read_only: false,
            recursive_read_only: false,
            propagation: Default::default(),
            sub_path: None,
        };
        let text = "echo in $HOSTNAME > /scratch/file; sleep 1000";
        let id = cloud.start(uid, ContainerConfig { mounts: vec![mount], ..script("c", text) }).await;
        let shows = "until [ -s /scratch/file ]; do sleep 0.1; done; grep -c ' /scratch ' /proc/mounts";
        assert_eq!(cloud.sh(&id, shows).await.trim(), "1");
        assert!(volume(uid).join("file").exists(), "the node sees what a container writes");
        shims.push(cloud.runtime.sandbox(uid).await.unwrap().unwrap().shim_pid.unwrap());
    }
    let seen = |shim: i32| {
        let table = std::fs::read_to_string(format!("/proc/{shim}/mountinfo")).unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
        // Other tests of this host may have theirs.
        points.filter(|point| point.starts_with(&memory) && point.ends_with("scratch")).collect::<Vec<_>>()
    };
    assert_eq!([seen(shims[0]), seen(shims[1])], [vec![volume("one")], vec![volume("two")]]);
    // What the node unmounts goes where it was shown.
    kit::detach(&volume("one")).unwrap();
    assert_eq!([seen(shims[0]), seen(shims[1])], [vec![], vec![volume("two")]]);
}
