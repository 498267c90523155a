//! A tmpfs of the node for files that must not reach a disk: those of Secrets, tokens and Pods' fields, and what the runtime writes of
//! containers' environments. In it, each on a mount of its own, also emptyDirs in memory.
//!
//! `DATA_DIR/agent/yf-TAG-memory/UID` holds a Pod's volumes. It is mounted before the first Pod has a mount namespace, because on
//! hosts whose mounts are private none would see it that is older; and stays while the agent is away, so that what runs keeps its files.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use tokio::sync::OnceCell;
use yunfan_runtime::{TmpfsVolume, kit};

use super::What;
use super::files::Files;
use super::tools::mounted;

/// With what it is mounted; older kernels do not know how to keep it from being swapped out (Linux documentation, "Tmpfs"). It
/// is all Pods' together, so it ends before the node is short of memory.
const OPTIONS: [&CStr; 2] = [c"mode=0700,size=25%,noswap", c"mode=0700,size=25%"];
/// So many bytes each Pod may have here: these files are charged to nobody.
const EACH: u64 = 16 << 20;
/// The Pods of one namespace have no more than one part in so many of all, so that those of others have their tokens.
const SHARES: u64 = 4;
/// What a file takes at least, bytes: a page, or as much of the kernel's for its name where it is empty.
const PAGE: u64 = 4096;

/// The node's files in memory.
pub(crate) struct Memory {
    root: PathBuf,
    ready: OnceCell<()>,
    /// The namespace of each Pod, and how many bytes it has here.
    taken: Mutex<HashMap<String, (String, u64)>>,
}

impl Memory {
    /// Those below `root`, the agent's directory. `tag` is the instance's: mounts are told apart by it.
    pub(crate) fn new(root: &Path, tag: &str) -> Self {
        Self { root: root.join(format!("yf-{tag}-memory")), ready: OnceCell::new(), taken: Mutex::default() }
    }

    /// Where it is mounted.
    pub(crate) fn root(&self) -> &Path {
        &self.root
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

    /// A Pod's emptyDir in memory, which lasts as long as the Pod does, whatever becomes of its processes.
    ///
    /// # Errors
    /// It can't be mounted.
    pub(super) async fn empty_dir(
        &self,
        uid: &str,
        name: &str,
        size_bytes: Option<u64>,
        group: Option<u32>,
    ) -> std::io::Result<PathBuf> {
        let path = self.of_pod(uid).await?.join(name);
        std::fs::create_dir_all(&path)?;
        if !is_mount(&path)? {
            let volume = TmpfsVolume { path: path.clone(), size_bytes, group };
            kit::mount_tmpfs_volume(&volume).map_err(std::io::Error::other)?;
        }
        Ok(path)
    }

    /// A Pod's emptyDir of huge pages, as [`Memory::empty_dir`].
    ///
    /// # Errors
    /// It can't be mounted.
    pub(super) async fn huge_pages(
        &self,
        uid: &str,
        name: &str,
        page_bytes: u64,
        group: Option<u32>,
    ) -> std::io::Result<PathBuf> {
        let path = self.of_pod(uid).await?.join(name);
        std::fs::create_dir_all(&path)?;
        if !is_mount(&path)? {
            let options = match group {
                Some(group) => format!("pagesize={page_bytes},mode=2777,gid={group}"),
                None => format!("pagesize={page_bytes},mode=0777"),
            };
            let options = std::ffi::CString::new(options).unwrap_or_default();
            let flags = MountFlags::NOSUID | MountFlags::NODEV;
            mount("hugetlbfs", &path, "hugetlbfs", flags, options.as_c_str())?;
        }
        Ok(path)
    }

    /// Where a Pod's emptyDir is mounted, if it is.
    pub(super) fn mount_of(&self, uid: &str, name: &str) -> Option<PathBuf> {
        let path = self.root.join(uid).join(name);
        is_mount(&path).is_ok_and(|mounted| mounted).then_some(path)
    }

    /// Counts that a Pod has so many bytes here in all.
    ///
    /// # Errors
    /// That is more than one Pod may have, or than is left of its namespace's share.
    pub(super) fn take(&self, uid: &str, namespace: &str, bytes: u64) -> Result<(), What> {
        let most =
            rustix::fs::statvfs(&self.root).map_or(0, |fs| fs.f_blocks.saturating_mul(fs.f_frsize)) / SHARES;
        self.take_of(most, uid, namespace, bytes)
    }

    fn take_of(&self, most: u64, uid: &str, namespace: &str, bytes: u64) -> Result<(), What> {
        let what = "Secrets, tokens and fields take more of the node's memory than";
        if bytes > EACH {
            return Err(What::Refused(format!("the Pod's {what} {EACH} bytes: mount fewer")));
        }
        // Nothing panics under this lock.
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let others = taken.iter().filter(|(other, (of, _))| *other != uid && of == namespace);
        let sum = others.fold(bytes, |sum, (_, (_, bytes))| sum.saturating_add(*bytes));
        if sum > most {
            let text = format!("the namespace's {what} {most} bytes: mount fewer, or in fewer Pods");
            return Err(What::Refused(text));
        }
        taken.insert(uid.to_owned(), (namespace.to_owned(), bytes));
        Ok(())
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
        let dir = self.root.join(uid);
        for name in super::names(&dir) {
            let at = dir.join(name);
            if is_mount(&at)? {
                kit::detach(&at).map_err(std::io::Error::other)?;
            }
        }
        super::remove_all(&dir).await?;
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
        Ok(())
    }
}

/// What files take here, bytes, with the directories that they are in.
pub(super) fn taken(files: &Files) -> u64 {
    let bytes: u64 = files.values().map(|file| (file.bytes.len() as u64).div_ceil(PAGE).max(1) * PAGE).sum();
    let above = |path: &String| Path::new(path).ancestors().skip(1).map(Path::to_owned).collect::<Vec<_>>();
    let directories: BTreeSet<PathBuf> = files.keys().flat_map(above).collect();
    bytes + PAGE * directories.len() as u64
}

/// Whether something is mounted on a directory of the tmpfs.
fn is_mount(at: &Path) -> std::io::Result<bool> {
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|found| found.dev());
    let above = at.parent().map(device).transpose()?;
    Ok(above.is_some_and(|above| device(at).is_ok_and(|own| own != above)))
}

fn make(root: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(root)?;
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700))?;
    if mounted(root).is_none() {
        mount_files(root)?;
    }
    // What is mounted below it Pods see, and see going.
    Ok(mount_change(root, MountPropagationFlags::SHARED)?)
}

fn mount_files(root: &Path) -> std::io::Result<()> {
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

    use super::super::files::File;
    use super::*;

    #[test]
    fn directories_count_as_files_do() {
        let files = |paths: &[&str]| -> Files {
            paths.iter().map(|path| ((*path).to_owned(), File::new(vec![0; 5000], 0o644))).collect()
        };
        assert_eq!(taken(&files(&["a", "b"])), 5 * PAGE);
        assert_eq!(taken(&files(&["a/b/c", "a/d"])), 7 * PAGE);
    }

    #[test]
    fn what_a_pod_and_a_namespace_have_is_bounded() {
        let memory = Memory::new(Path::new("/none"), "test");
        let most = 2 * EACH;
        let refused = |uid: &str, namespace: &str, bytes| {
            memory.take_of(most, uid, namespace, bytes).err().map(|what| what.to_string())
        };
        assert_eq!(refused("a", "one", EACH), None);
        assert!(refused("a", "one", EACH + 1).unwrap().contains("the Pod's Secrets"));
        assert_eq!(refused("b", "one", EACH), None);
        assert!(refused("c", "one", 1).unwrap().contains("the namespace's Secrets"));
        assert_eq!(refused("c", "two", EACH), None, "others have their own");
        assert_eq!(refused("b", "one", EACH - 1), None);
        assert_eq!(refused("d", "one", 1), None);
    }

    #[tokio::test]
    async fn files_are_in_memory_also_for_the_next_life_of_the_agent() {
        let dir = tempfile::tempdir().unwrap();
        let at = Memory::new(dir.path(), "test").of_pod("p").await.unwrap();
        std::fs::create_dir_all(at.join("v")).unwrap();
        assert_eq!(mounted(&dir.path().join("yf-test-memory")).as_deref(), Some("tmpfs"));
        let memory = Memory::new(dir.path(), "test");
        assert!(memory.of_pod("p").await.unwrap().join("v").is_dir());
        assert_eq!(memory.pods(), ["p"]);
        for _ in 0..2 {
            let at = memory.empty_dir("p", "scratch", Some(1 << 20), None).await.unwrap();
            assert_eq!(std::fs::metadata(&at).unwrap().mode() & 0o7777, 0o777);
            let written = std::fs::write(at.join("file"), "kept");
            written.unwrap();
        }
        let scratch = memory.root.join("p/scratch");
        assert!(is_mount(&scratch).unwrap() && !is_mount(&memory.root.join("p/v")).unwrap());
        let points = || kit::mounts().unwrap().iter().filter(|at| at.ends_with("p/scratch")).count();
        assert_eq!(points(), 1, "mounted once");
        memory.remove("p").await.unwrap();
        memory.remove("p").await.unwrap();
        assert!(memory.pods().is_empty() && points() == 0);
        unmount(dir.path().join("yf-test-memory"), UnmountFlags::empty()).unwrap();
        assert!(mounted(&dir.path().join("yf-test-memory")).is_none(), "mounted once");
    }
}
