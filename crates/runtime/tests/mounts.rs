//! Volumes in containers, with the real kernel. Needs root, `ip` and a static busybox.

mod common;

use std::path::{Path, PathBuf};

use common::{Entry, IMAGE, Instance, Part, layer, oci_archive, script};
use yunfan_runtime::{ContainerConfig, Device, ImageMount, Mount, Runtime, RuntimeError};

#[tokio::test(flavor = "multi_thread")]
async fn images_are_shown_as_directories() {
    let cloud = Instance::new().await;
    let archive = cloud.dir.path().join("data.tar");
    let one = [
        Entry::Dir("data"),
        Entry::File("data/a", b"from one layer\n", 0o644),
        Entry::Symlink("up", "../../.."),
    ];
    oci_archive(&archive, &[Part::gzipped(&layer(&one))], serde_json::json!({}));
    cloud.runtime.images().import(&archive, Some("demo/data:1")).await.unwrap();
    let image = |image: &str, to: &str, part: Option<&str>| ImageMount {
        image: image.to_owned(),
        container_path: to.into(),
        sub_path: part.map(PathBuf::from),
    };
    let image_mounts = vec![
        image("demo/data:1", "/one", None),
        image("demo/data:1", "/part", Some("data")),
        image(IMAGE, "/many", None),
    ];
    let text = "cat /one/data/a /part/a /many/www/index.html; ls /many/replaced; touch /one/x /many/x";
    let id = cloud.start("m2", ContainerConfig { image_mounts, ..script("ok", text) }).await;
    cloud.exited(&id).await;
    let log = cloud.log(&id, Default::default()).await;
    assert!(log.contains("from one layer\nfrom one layer\nhello from a container\nhigh\n"), "{log}");
    assert_eq!(log.matches("Read-only file system").count(), 2, "{log}");
    let used = cloud.runtime.images().remove("demo/data:1").await.unwrap_err();
    assert!(matches!(used, RuntimeError::ImageInUse { .. }), "{used}");
    let image_mounts = vec![image("demo/data:1", "/part", Some("up"))];
    let config = ContainerConfig { image_mounts, ..script("bad", "ls /part") };
    let refused = cloud.runtime.create_and_start("m2", config).await.unwrap_err();
    assert!(matches!(refused, RuntimeError::Start { .. }), "{refused}");
    cloud.runtime.remove_sandbox("m2").await.unwrap();
    cloud.runtime.images().remove("demo/data:1").await.unwrap();
}

/// A loop device, which goes with this.
struct Loop(PathBuf);

impl Loop {
    fn over(file: &Path, kind: &[&str]) -> Self {
        let args = [kind, &["--find", "--show"]].concat();
        let made = std::process::Command::new("losetup").args(args).arg(file).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Self(String::from_utf8(made.stdout).unwrap().trim().into())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").arg("--detach").arg(&self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_to_be_read_takes_no_writes_also_inside_a_volume() {
    let cloud = Instance::new().await;
    let (file, volume) = (cloud.dir.path().join("disk"), cloud.dir.path().join("volume"));
    std::fs::write(&file, vec![b'x'; 1 << 20]).unwrap();
    std::fs::create_dir(&volume).unwrap();
    let (open, closed) = (Loop::over(&file, &[]), Loop::over(&file, &["--read-only"]));
    let config = |name: &str, from: &Loop, read_only| {
        let device = |at: &str| Device { host_path: from.0.clone(), container_path: at.into(), read_only };
        let text = "for at in /dev/x /data/x; do head -c 1 $at; echo; \
                    dd if=/dev/zero of=$at bs=512 count=1 conv=notrunc 2> /dev/null && echo written; done; :";
        ContainerConfig {
            devices: vec![device("/dev/x"), device("/data/x")],
            mounts: vec![Mount {
                host_path: volume.clone(),
                container_path: "/data".into(),
                ..Mount::default()
            }],
            ..script(name, text)
        }
    };
    let id = cloud.start("m4", config("closed", &closed, true)).await;
    cloud.exited(&id).await;
    assert_eq!(cloud.log(&id, Default::default()).await, "x\nx\n");
    // One that others may write to, too.
    let id = cloud.runtime.create_and_start("m4", config("open", &open, true)).await.unwrap();
    cloud.exited(&id).await;
    assert_eq!(cloud.log(&id, Default::default()).await, "x\nx\n");
    assert_eq!(std::fs::read(&file).unwrap()[..512], [b'x'; 512]);
    let id = cloud.runtime.create_and_start("m4", config("both", &open, false)).await.unwrap();
    cloud.exited(&id).await;
    assert!(cloud.log(&id, Default::default()).await.contains("written"));
    cloud.runtime.remove_sandbox("m4").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_a_container_makes_is_of_no_use_to_it() {
    if !["devices", "cgroup.controllers"].iter().any(|name| Path::new("/sys/fs/cgroup").join(name).exists()) {
        return; // No hierarchy knows of devices.
    }
    let cloud = Instance::new().await;
    let file = cloud.dir.path().join("disk");
    std::fs::write(&file, vec![b'x'; 1 << 20]).unwrap();
    let disk = Loop::over(&file, &[]);
    let number = disk.0.to_str().and_then(|path| path.strip_prefix("/dev/loop")).unwrap();
    let text = format!(
        "exec 2>&1; mknod /tmp/disk b 7 {number} && echo made; head -c 1 /tmp/disk; echo > /tmp/disk; echo > /dev/null && echo null"
    );
    let config = ContainerConfig { add_capabilities: vec!["MKNOD".to_owned()], ..script("c", &text) };
    let id = cloud.start("m6", config).await;
    cloud.exited(&id).await;
    let log = cloud.log(&id, Default::default()).await;
    assert!(log.starts_with("made\n") && log.ends_with("null\n"), "{log}");
    assert_eq!(log.matches("Operation not permitted").count(), 2, "{log}");
    assert_eq!(std::fs::read(&file).unwrap()[0], b'x');
    cloud.runtime.remove_sandbox("m6").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_moves_changes_no_image_that_was_chosen() {
    let cloud = Instance::new().await;
    let archive = cloud.dir.path().join("other.tar");
    oci_archive(
        &archive,
        &[Part::gzipped(&layer(&[Entry::File("f", b"", 0o644)]))],
        serde_json::json!({"Cmd": ["/none"]}),
    );
    let images = cloud.runtime.images();
    let chosen = images.resolve(IMAGE).unwrap().id;
    images.import(&archive, Some(IMAGE)).await.unwrap();
    assert_ne!(images.resolve(IMAGE).unwrap().id, chosen);
    let config = ContainerConfig { image_id: Some(chosen.clone()), ..script("c", "cat /www/index.html") };
    let id = cloud.start("m5", config).await;
    let status = cloud.exited(&id).await;
    assert_eq!((status.exit_code, status.image.as_str()), (Some(0), IMAGE));
    assert_eq!(status.image_id, chosen);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nodes_devices_are_shown_whole_and_stay_as_they_are() {
    let cloud = Instance::new().await;
    // A node's `/dev` as most have it, which must not be changed for a test.
    let dev = cloud.dir.path().join("dev");
    std::fs::create_dir_all(dev.join("disk")).unwrap();
    for (link, to) in [("kcore", "/proc/kcore"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0")] {
        std::os::unix::fs::symlink(to, dev.join(link)).unwrap();
    }
    std::fs::write(dev.join("ptmx"), "of the node\n").unwrap();
    let at = |host: &Path, container: &str| Mount {
        host_path: host.to_owned(),
        container_path: container.into(),
        ..Mount::default()
    };
    let (said, own) = (cloud.dir.path().join("said"), cloud.dir.path().join("own"));
    std::fs::write(&said, "").unwrap();
    std::fs::create_dir(&own).unwrap();
    let inner = Mount { read_only: true, ..at(&own, "/dev/disk/own") };
    let config = ContainerConfig {
        // In no order.
        mounts: vec![inner, at(&said, "/dev/termination-log"), at(&dev, "/dev")],
        ..script("c", "sleep 1000")
    };
    let id = cloud.start("p1", config.clone()).await;
    let text = "ls /dev; cat /dev/ptmx; echo last > /dev/termination-log; touch /dev/new; \
        touch /dev/disk/own/x 2> /dev/disk/refused || echo refused";
    let shown = "disk\nfd\nkcore\nptmx\nstdin\ntermination-log\nof the node\nrefused\n";
    assert_eq!(cloud.sh(&id, text).await, shown);
    assert_eq!(std::fs::read_to_string(&said).unwrap(), "last\n");
    assert!(
        dev.join("new").exists() && std::fs::read_to_string(dev.join("ptmx")).unwrap() == "of the node\n"
    );
    // Another's start changes nothing of what is there.
    let read_only = Mount { read_only: true, ..at(&dev, "/dev") };
    let second = ContainerConfig { name: "second".to_owned(), mounts: vec![read_only], ..config };
    let second = cloud.runtime.create_and_start("p1", second).await.unwrap();
    assert_eq!(cloud.sh(&second, "rm /dev/new 2>&1 | grep -c 'Read-only'").await, "1\n");
    // The real one has file systems of its own inside.
    let real = Mount { propagation: yunfan_runtime::Propagation::FromNode, ..at(Path::new("/dev"), "/dev") };
    let real = ContainerConfig { mounts: vec![real], privileged: true, ..script("real", "sleep 1000") };
    let real = cloud.runtime.create_and_start("p1", real).await.unwrap();
    let names = |text: &str| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let inside = cloud.sh(&real, "ls /dev; echo heard > /dev/null").await;
    let outside = std::fs::read_dir("/dev").unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    assert_eq!(names(&inside), outside.collect());
    cloud.runtime.remove_sandbox("p1").await.unwrap();
    assert!(dev.join("kcore").is_symlink() && !own.join("x").exists());
}
