//! Volumes in containers, with the real kernel. Needs root, `ip` and a static busybox.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{Entry, IMAGE, Instance, Part, layer, oci_archive, script};
use yunfan_runtime::{ContainerConfig, ImageMount, Mount, Runtime, RuntimeError, SandboxConfig, TmpfsVolume};

fn mount(from: &Path, to: &str, sub_path: Option<&str>) -> Mount {
    Mount {
        host_path: from.to_owned(),
        container_path: to.into(),
        sub_path: sub_path.map(PathBuf::from),
        ..Mount::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_volumes_stay_inside_them() {
    let cloud = Instance::new().await;
    let volume = cloud.dir.path().join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("file"), "one file\n").unwrap();
    std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
    let mounts = vec![
        mount(&volume, "/dir", Some("made/deep")),
        mount(&volume, "/www/index.html", Some("file")),
        mount(&volume, "/whole", None),
    ];
    let text = "echo x > /dir/written; cat /www/index.html; ls /whole";
    let id = cloud.start("m1", ContainerConfig { mounts, ..script("ok", text) }).await;
    assert_eq!(cloud.exited(&id).await.exit_code, Some(0));
    assert_eq!(cloud.log(&id, Default::default()).await, "one file\nfile\nmade\nout\n");
    assert_eq!(std::fs::read_to_string(volume.join("made/deep/written")).unwrap(), "x\n");
    for path in ["out", "out/passwd", "../volume"] {
        let mounts = vec![mount(&volume, "/in", Some(path))];
        let name = format!("bad-{}", path.len());
        let config = ContainerConfig { mounts, ..script(&name, "ls /in") };
        let refused = cloud.runtime.create_and_start("m1", config).await.unwrap_err();
        assert!(matches!(&refused, RuntimeError::Start { .. }), "{path}: {refused}");
    }
    cloud.runtime.remove_sandbox("m1").await.unwrap();
    assert!(volume.join("made/deep/written").exists(), "a volume is not removed with its container");
}

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

#[tokio::test(flavor = "multi_thread")]
async fn directories_in_memory_have_their_mode_group_and_size() {
    let cloud = Instance::new().await;
    let dirs = ["plain", "grouped"].map(|name| cloud.dir.path().join(name));
    for dir in &dirs {
        std::fs::create_dir(dir).unwrap();
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    }
    let volume = |path: &Path, group| TmpfsVolume { path: path.to_owned(), size_bytes: Some(1 << 20), group };
    let tmpfs_volumes = vec![volume(&dirs[0], None), volume(&dirs[1], Some(4242))];
    cloud.runtime.run_sandbox(SandboxConfig { tmpfs_volumes, ..cloud.sandbox("m3") }).await.unwrap();
    let mounts = vec![mount(&dirs[0], "/plain", None), mount(&dirs[1], "/grouped", None)];
    let text = "ls -ld /plain /grouped; dd if=/dev/zero of=/plain/x bs=1M count=2 2>&1 | head -n 1";
    let config = ContainerConfig { mounts, ..script("c", text) };
    let id = cloud.runtime.create_and_start("m3", config).await.unwrap();
    cloud.exited(&id).await;
    let log = cloud.log(&id, Default::default()).await;
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines[0].starts_with("drwxrwsrwx") && lines[0].contains("4242"), "{log}");
    assert!(lines[1].starts_with("drwxrwxrwx"), "{log}");
    assert!(lines[2].contains("No space left"), "{log}");
}
