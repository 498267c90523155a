//! How full Pods' volumes are that are file systems of their own: claims, and what is in memory.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
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

/// How many questions to each path are under way. A thread that asks a server that has gone stays until that is back: without a limit, each
/// look would take another one, until the agent has none left for anything.
static ASKED: LazyLock<Mutex<HashMap<PathBuf, usize>>> = LazyLock::new(Mutex::default);
/// Two who look at the same time may both ask.
const MOST_ASKED: usize = 2;

/// A question under way, until it is answered.
struct Asking(PathBuf);

impl Asking {
    fn begin(path: &Path) -> Option<Self> {
        let mut all = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(path.to_owned()).or_default();
        if *count >= MOST_ASKED {
            return None;
        }
        *count += 1;
        Some(Self(path.to_owned()))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut all = ASKED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.0);
            }
        }
    }
}

/// Asks the file systems; those that do not answer in time are left out.
pub(super) async fn of(mounts: Vec<VolumeMount>) -> Vec<Used> {
    use futures::StreamExt;
    let asked = mounts.into_iter().map(|mount| async move {
        let asking = Asking::begin(&mount.path)?;
        let disk = tokio::task::spawn_blocking(move || of_mount(&asking.0));
        let disk = tokio::time::timeout(PATIENCE, disk).await.ok()?.ok()??;
        Some(Used { mount, disk })
    });
    // Their futures are collected before they are polled: the compiler can't see through a lazy one.
    let asked: Vec<_> = asked.collect();
    futures::stream::iter(asked).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
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

    #[test]
    fn a_path_that_does_not_answer_is_not_asked_without_end() {
        let path = Path::new("/a/server/that/has/gone");
        let first = Asking::begin(path).expect("nobody asks");
        let _second = Asking::begin(path).expect("one asks");
        assert!(Asking::begin(path).is_none());
        assert!(Asking::begin(Path::new("/another")).is_some());
        drop(first);
        assert!(Asking::begin(path).is_some(), "one was answered");
    }

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
        let mut told = told;
        told.sort();
        assert_eq!(told, ["/proc", "/sys"]);
    }
}
