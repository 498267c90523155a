//! A tmpfs of the node for files that must not reach a disk: those of Secrets, tokens and Pods' fields.
//!
//! `DATA_DIR/agent/yf-TAG-memory/UID` holds a Pod's volumes. It is mounted before the first Pod has a mount namespace, because on
//! hosts whose mounts are private none would see it that is older; and stays while the agent is away, so that what runs keeps its files.

use std::ffi::CStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use tokio::sync::OnceCell;

use super::files::Files;
use super::tools::mounted;
use crate::pod::fit::asked;

/// With what it is mounted; older kernels do not know how to keep it from being swapped out (Linux documentation, "Tmpfs"). It
/// is all Pods' together, so it ends before the node is short of memory.
const OPTIONS: [&CStr; 2] = [c"mode=0700,size=25%,noswap", c"mode=0700,size=25%"];
/// So many bytes each Pod may have here beside what it asked for of the node's memory: these files are charged to nobody.
const FREE: u64 = 16 << 20;
/// What a file takes at least, bytes: a page, or as much of the kernel's for its name where it is empty.
const PAGE: u64 = 4096;

/// The node's files in memory.
pub(crate) struct Memory {
    root: PathBuf,
    ready: OnceCell<()>,
}

impl Memory {
    /// Those below `root`, the agent's directory. `tag` is the instance's: mounts are told apart by it.
    pub(crate) fn new(root: &Path, tag: &str) -> Self {
        Self { root: root.join(format!("yf-{tag}-memory")), ready: OnceCell::new() }
    }

    /// Mounts it, where it is not yet.
    ///
    /// # Errors
    /// The tmpfs can't be mounted.
    pub(crate) async fn prepare(&self) -> std::io::Result<()> {
        self.ready.get_or_try_init(|| async { make(&self.root) }).await.map(drop)
    }

    /// The directory of a Pod's volumes, which may not be there yet.
    ///
    /// # Errors
    /// The tmpfs can't be mounted.
    pub(super) async fn of_pod(&self, uid: &str) -> std::io::Result<PathBuf> {
        self.prepare().await?;
        Ok(self.root.join(uid))
    }

    /// The Pods that have files here.
    pub(crate) fn pods(&self) -> Vec<String> {
        super::names(&self.root)
    }

    /// Removes what a Pod has here; fine if that is nothing.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) async fn remove(&self, uid: &str) -> std::io::Result<()> {
        super::remove_all(&self.root.join(uid)).await
    }
}

/// The most bytes that a Pod may have here.
pub(super) fn most(pod: &Pod) -> u64 {
    FREE.saturating_add(u64::try_from(asked(pod).memory).unwrap_or(0))
}

/// What files take here, bytes.
pub(super) fn taken(files: &Files) -> u64 {
    files.values().map(|file| (file.bytes.len() as u64).div_ceil(PAGE).max(1) * PAGE).sum()
}

fn make(root: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(root)?;
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700))?;
    if mounted(root).is_some() {
        return Ok(());
    }
    let mut last = Errno::INVAL;
    for options in OPTIONS {
        // Scripts may be among them: nothing is said of execution.
        match mount("tmpfs", root, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options) {
            Ok(()) => return Ok(()),
            Err(error) => last = error,
        }
        if last != Errno::INVAL {
            break;
        }
    }
    Err(last.into())
}

#[cfg(test)]
mod tests {
    use rustix::mount::{UnmountFlags, unmount};

    use super::*;

    #[tokio::test]
    async fn files_are_in_memory_also_for_the_next_life_of_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let at = Memory::new(dir.path(), "test").of_pod("p").await.unwrap();
        std::fs::create_dir_all(at.join("v")).unwrap();
        assert_eq!(mounted(&dir.path().join("yf-test-memory")).as_deref(), Some("tmpfs"));
        let memory = Memory::new(dir.path(), "test");
        assert!(memory.of_pod("p").await.unwrap().join("v").is_dir());
        assert_eq!(memory.pods(), ["p"]);
        memory.remove("p").await.unwrap();
        memory.remove("p").await.unwrap();
        assert!(memory.pods().is_empty());
        unmount(dir.path().join("yf-test-memory"), UnmountFlags::empty()).unwrap();
        assert!(mounted(&dir.path().join("yf-test-memory")).is_none(), "mounted once");
    }
}
