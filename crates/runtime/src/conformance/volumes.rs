//! Volumes in containers.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Cloud, script};
use crate::{ContainerConfig, Mount, RuntimeError, SandboxConfig, TmpfsVolume};

fn mount(from: &Path, to: &str, sub_path: Option<&str>) -> Mount {
    Mount {
        host_path: from.to_owned(),
        container_path: to.into(),
        sub_path: sub_path.map(PathBuf::from),
        ..Mount::default()
    }
}

pub(super) async fn parts_of_volumes_stay_inside_them(cloud: &Cloud) {
    let volume = cloud.dir.join("parts");
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

pub(super) async fn directories_in_memory_have_their_mode_group_and_size(cloud: &Cloud) {
    let dirs = ["plain", "grouped"].map(|name| cloud.dir.join(name));
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
