//! What the node has of pods in memory: files that must not reach a disk, and mounts that other pods are not to see.

use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Result, RuntimeError};
use crate::mounts::tree_of;
use crate::proto::SPEC_FILE;
use crate::sys;
use crate::types::ContainerId;

/// Of a pod's directory, what is the runtime's: no volume can have this name.
const CONTAINERS: &str = ".containers";
/// Bytes of a container's specification. A process can be given no more than 6 MiB of arguments and environment (`execve(2)`), and 2 MiB with
/// the usual limit of its stack; these bytes are the node's memory, and charged to nobody.
const LONGEST_SPEC: usize = 4 << 20;
/// Bytes of all that a pod has here. The same memory has the Secrets of all others.
const MOST_OF_POD: u64 = 16 << 20;

/// The directory in memory.
pub(super) struct Memory {
    root: PathBuf,
    /// Whether the kernel lets a part of the mounts be taken by a descriptor (Linux 5.2).
    takes_trees: bool,
}

impl Memory {
    pub(super) fn new(root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root).map_err(RuntimeError::io("create", root))?;
        let root = std::fs::canonicalize(root).map_err(RuntimeError::io("resolve", root))?;
        let takes_trees = tree_of(&root).inspect_err(|error| {
            tracing::info!(%error, "this kernel gives no part of the mounts: pods see one another's volumes in memory as mounts");
        });
        Ok(Self { takes_trees: takes_trees.is_ok(), root })
    }

    /// Where pods' mounts are to be hidden from one another, if they can be.
    pub(super) fn hidden(&self) -> Option<&Path> {
        self.takes_trees.then_some(self.root.as_path())
    }

    /// The mounts of a pod and where they belong; none where it has none.
    pub(super) fn mounts_of(&self, uid: &str) -> Result<Option<(PathBuf, OwnedFd)>> {
        let dir = self.root.join(uid);
        if !self.takes_trees || !has_mounts(&dir) {
            return Ok(None);
        }
        let tree =
            tree_of(&dir).map_err(|errno| RuntimeError::io("take the mounts of", &dir)(errno.into()))?;
        Ok(Some((dir, tree)))
    }

    /// Removes what containers of a pod have here; fine if that is nothing.
    pub(super) fn forget_pod(&self, uid: &str) -> Result<()> {
        sys::remove_tree(&self.root.join(uid).join(CONTAINERS))
    }

    /// The same of one container.
    pub(super) fn forget(&self, id: &ContainerId) -> Result<()> {
        sys::remove_tree(&self.of_container(id))
    }

    /// Whether a container's pod may have so many more bytes here.
    fn has_room(&self, id: &ContainerId, more: u64) -> Result<()> {
        let own = bytes_below(&self.root.join(&id.pod_uid).join(CONTAINERS));
        if own.saturating_add(more) > MOST_OF_POD {
            let why = format!(
                "with its arguments and those of its pod's other containers it takes {} bytes, more than {MOST_OF_POD}",
                own.saturating_add(more)
            );
            return Err(RuntimeError::invalid("env", why));
        }
        Ok(())
    }

    fn of_container(&self, id: &ContainerId) -> PathBuf {
        self.root.join(&id.pod_uid).join(CONTAINERS).join(id.local())
    }
}

/// Writes a container's specification, to which its bundle has a link where there is memory for it: the environment may be secret.
pub(super) fn write_spec(
    memory: Option<&Memory>,
    id: &ContainerId,
    bundle: &Path,
    spec: &Value,
) -> Result<()> {
    let at = bundle.join(SPEC_FILE);
    let text = serde_json::to_vec(spec).map_err(|error| RuntimeError::io("encode", &at)(error.into()))?;
    if text.len() > LONGEST_SPEC {
        let why = format!("with its arguments it takes {} bytes, more than {LONGEST_SPEC}", text.len());
        return Err(RuntimeError::invalid("env", why));
    }
    let Some(memory) = memory else { return sys::write_atomic(&at, &text, false) };
    let dir = memory.of_container(id);
    memory.has_room(id, text.len() as u64)?;
    std::fs::create_dir_all(&dir).map_err(RuntimeError::io("create", &dir))?;
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700))
        .map_err(RuntimeError::io("set mode of", &dir))?;
    let file = dir.join(SPEC_FILE);
    sys::write_atomic(&file, &text, false)?;
    std::os::unix::fs::symlink(&file, &at).map_err(RuntimeError::io("create", &at))
}

/// Bytes of the files in a directory and those below it; none where it is not there.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    bytes.sum()
}

/// Whether something is mounted on one of a directory's own.
fn has_mounts(dir: &Path) -> bool {
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|found| found.dev()).ok();
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    let own = device(dir);
    entries.flatten().any(|entry| device(&entry.path()) != own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications_are_in_memory_and_have_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::new(&dir.path().join("memory")).unwrap();
        let bundle = dir.path().join("bundle");
        std::fs::create_dir(&bundle).unwrap();
        let id = ContainerId::new("u", "c", 0);
        let spec = |value: String| serde_json::json!({"process": {"env": [value]}});
        write_spec(Some(&memory), &id, &bundle, &spec("S=secret".to_owned())).unwrap();
        assert!(bundle.join(SPEC_FILE).is_symlink());
        let text = std::fs::read_to_string(bundle.join(SPEC_FILE)).unwrap();
        assert!(text.contains("S=secret"), "{text}");
        memory.forget(&id).unwrap();
        memory.forget_pod("u").unwrap();
        memory.forget_pod("u").unwrap();
        assert!(!bundle.join(SPEC_FILE).exists(), "a link that leads nowhere");
        let long = spec("x".repeat(LONGEST_SPEC));
        let error = write_spec(Some(&memory), &id, &bundle, &long).unwrap_err().to_string();
        assert!(error.contains("env"), "{error}");
        // Many that are each short enough.
        let large = spec("x".repeat(LONGEST_SPEC - 100));
        let wrote = (0..8).map(|run| {
            let bundle = dir.path().join(format!("bundle-{run}"));
            std::fs::create_dir(&bundle).unwrap();
            write_spec(Some(&memory), &ContainerId::new("u", "c", run), &bundle, &large)
        });
        let wrote: Vec<bool> = wrote.map(|result| result.is_ok()).collect();
        assert_eq!(wrote, [true, true, true, true, false, false, false, false]);
        memory.forget_pod("u").unwrap();
        let bundle = dir.path().join("bundle-again");
        std::fs::create_dir(&bundle).unwrap();
        write_spec(Some(&memory), &ContainerId::new("u", "c", 9), &bundle, &large).unwrap();
    }
}
