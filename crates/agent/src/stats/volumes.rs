//! How full Pods' volumes are that are file systems of their own: claims, and what is in memory.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::summary::Disk;
use crate::pod::VolumeMount;

/// How long a file system may take to answer; a server elsewhere may never.
const PATIENCE: Duration = Duration::from_secs(5);
/// File systems asked at the same time.
const AT_ONCE: usize = 32;

/// A volume and what is known of it.
pub(super) struct Used {
    pub(super) mount: VolumeMount,
    pub(super) disk: Disk,
}

/// Asks the file systems; those that do not answer in time are left out.
pub(super) async fn of(mounts: Vec<VolumeMount>) -> Vec<Used> {
    use futures::StreamExt;
    let asked = mounts.into_iter().map(|mount| async move {
        let path = mount.path.clone();
        let disk = tokio::task::spawn_blocking(move || of_mount(&path));
        let disk = tokio::time::timeout(PATIENCE, disk).await.ok()?.ok()??;
        Some(Used { mount, disk })
    });
    // Their futures are collected before they are polled: the compiler can't see through a lazy one.
    let asked: Vec<_> = asked.collect();
    futures::stream::iter(asked).buffered(AT_ONCE).filter_map(std::future::ready).collect().await
}

/// The file system that is mounted at a path; none where it would be that of the directory above.
fn of_mount(path: &Path) -> Option<Disk> {
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|found| found.dev()).ok();
    let above = device(path.parent()?)?;
    device(path).filter(|own| *own != above).and_then(|_| Disk::of(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_mounted_is_told_and_directories_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let mount = |path: &str| VolumeMount {
            namespace: "n".to_owned(),
            pod_uid: "u".to_owned(),
            volume: path.to_owned(),
            claim: None,
            path: path.into(),
        };
        let own = dir.path().join("plain");
        std::fs::create_dir(&own).unwrap();
        let all = [mount("/proc"), mount(own.to_str().unwrap()), mount("/none"), mount("/sys")];
        let told: Vec<String> = of(all.into()).await.into_iter().map(|used| used.mount.volume).collect();
        assert_eq!(told, ["/proc", "/sys"]);
    }
}
