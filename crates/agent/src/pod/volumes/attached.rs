//! Persistent volumes that Pods of this node have: where they are mounted, and who has them.
//!
//! `DATA_DIR/agent/yf-TAG-claims/KEY` holds a volume's mount point (`fs`), a file for each Pod that has it (`users`) and the path of its disk:
//! so the next life of the agent knows what is whose. Pods come and go, and mounts with them: the directory is a mount of its own, of which Pods
//! see what is theirs (`yunfan_runtime::Config::apart`). Those that an older agent began see all of it, and its changes, so that none of them keeps a
//! file system busy which it never asked for.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use tokio::sync::{OnceCell, OwnedMutexGuard};
use yunfan_runtime::kit;

use super::group::give;
use super::nfs::mount_nfs;
use super::tools::{
    entries, held_loop_device, loop_device, loops_below, mounted, release_loops, run, run_within, text,
};
use super::{What, names};
use crate::turns::Turns;

/// What the file of a Pod says that has all of a volume that it asked for.
pub(super) const READY: &[u8] = b"ready";
/// In the directory of a volume whose file system is being made.
const MAKING: &str = "making";
/// In the directory of a volume on a disk: the path of the disk's file.
const FILE: &str = "file";
/// Where ext2 and its successors have their mark, and the mark.
const MARK: (usize, [u8; 2]) = (0x438, [0x53, 0xef]);
/// Where the number of blocks is, its lower and upper half, and the power of two by which a block is more than a KiB (Linux
/// documentation, "ext4 Super Block"). The upper half counts in file systems that we make, which have the feature `64bit`.
const COUNTS: [usize; 3] = [0x404, 0x550, 0x418];
/// A file system may end so many bytes before its disk does: a last group that would be too small is left out.
const SLACK: u64 = 128 << 20;
/// So many bytes at a disk's beginning are zero if nothing was ever written to it by a file system.
const HEAD: usize = 64 << 10;

/// What a volume is made of.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// A disk's file with an ext4 file system in it, which is made where there is nothing yet.
    Disk { file: PathBuf, options: Vec<String> },
    /// A disk's file as a device, which takes no writes where that is said.
    Device { file: PathBuf, read_only: bool },
    /// A directory of an NFS server.
    Nfs { from: String, options: Vec<String> },
    /// A directory of this node, which stays where it is.
    Directory { path: PathBuf },
    /// A block device of this node, with a file system of a kind that is made where there is nothing yet.
    Local { device: PathBuf, kind: String, options: Vec<String> },
}

/// The persistent volumes of this node.
pub(crate) struct Attached {
    pub(super) root: PathBuf,
    shared: OnceCell<()>,
    turns: Turns,
}

impl Attached {
    /// Those below `root`, the agent's directory. `tag` is the instance's: mounts are told apart by it.
    pub(crate) fn new(root: &Path, tag: &str) -> Self {
        let shared = OnceCell::new();
        Self { root: root.join(format!("yf-{tag}-claims")), shared, turns: Turns::default() }
    }

    /// Where they are mounted.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the directory of all volumes one whose mounts Pods see, before the first of them has a mount namespace.
    ///
    /// # Errors
    /// The file system's.
    pub(crate) async fn prepare(&self) -> std::io::Result<()> {
        self.shared.get_or_try_init(|| async { share(&self.root) }).await.map(drop)
    }

    /// Gives a volume to a Pod: returns the directory or device. The first time, what is in it is given to `group`.
    pub(super) async fn attach(
        &self,
        key: &str,
        pod: &str,
        source: &Source,
        group: Option<(u32, bool)>,
    ) -> Result<PathBuf, What> {
        let _one = self.turns.wait(key).await;
        let dir = self.root.join(key);
        self.prepare().await?;
        let users = dir.join("users");
        std::fs::create_dir_all(&users)?;
        let user = users.join(pod);
        let ready = std::fs::read(&user).is_ok_and(|words| words == READY);
        if !ready {
            // Before anything of it is on the node, so that whoever comes next knows whose it is.
            std::fs::write(&user, b"")?;
        }
        if let Source::Disk { file, .. } | Source::Device { file, .. } = source {
            std::fs::write(dir.join(FILE), text(file)?)?;
        }
        let at = dir.join("fs");
        match source {
            Source::Device { file, read_only } => {
                return loop_device(file, *read_only).await.map(PathBuf::from);
            }
            Source::Disk { file, options } if mounted(&at).is_none() => {
                mount_disk(&dir, file, &at, options).await?;
            }
            Source::Nfs { from, options } if mounted(&at).is_none() => mount_nfs(from, &at, options).await?,
            Source::Local { device, kind, options } if mounted(&at).is_none() => {
                mount_device(&dir, device, kind, (at.as_path(), options.as_slice())).await?;
            }
            _ => {}
        }
        let at = match source {
            Source::Directory { path } => path.clone(),
            _ => at,
        };
        if let (false, Some((group, only_if_needed))) = (ready, group) {
            let path = at.clone();
            let given = tokio::task::spawn_blocking(move || give(&path, group, only_if_needed));
            given.await.map_err(std::io::Error::other)??;
        }
        if !ready {
            std::fs::write(&user, READY)?;
        }
        Ok(at)
    }

    /// Takes all volumes from a Pod that is gone; those that nobody has any more are unmounted.
    ///
    /// # Errors
    /// One of its volumes can't be let go; the others are.
    pub(crate) async fn release(&self, pod: &str) -> std::io::Result<()> {
        let mut result = Ok(());
        for key in entries(&self.root)? {
            let dir = self.root.join(&key);
            let concerns = || -> std::io::Result<Option<bool>> {
                let users = entries(&dir.join("users"))?;
                let own = users.iter().any(|user| user == pod);
                // What nobody has is left over from an agent that was ended.
                Ok((own || users.is_empty()).then_some(own))
            };
            // Others' volumes are not waited for: a server that does not answer must not keep all Pods of the node.
            if concerns()?.is_none() {
                continue;
            }
            let _one = self.turns.wait(&key).await;
            let Some(own) = concerns()? else { continue };
            let (dir, pod) = (dir.clone(), pod.to_owned());
            // A file system is written out before it goes.
            let work = tokio::task::spawn_blocking(move || let_go(&dir, &pod));
            match work.await.map_err(std::io::Error::other)? {
                Err(error) if own => result = result.and(Err(error)),
                Err(error) => tracing::warn!(%error, key, "what is left of a volume can't be removed"),
                Ok(()) => {}
            }
        }
        result
    }

    /// The Pods that have volumes.
    pub(crate) fn users(&self) -> Vec<String> {
        names(&self.root).iter().flat_map(|key| names(&self.root.join(key).join("users"))).collect()
    }

    /// Whether a Pod has the volume.
    pub(crate) fn is_used(&self, key: &str) -> bool {
        // Where that can't be told it is left alone.
        entries(&self.root.join(key).join("users")).map_or(true, |users| !users.is_empty())
    }

    /// Keeps Pods from getting a volume as long as the guard lives; `None` for one that they have.
    pub(crate) async fn keep_free(&self, key: &str) -> Option<OwnedMutexGuard<()>> {
        let turn = self.turns.wait(key).await;
        (!self.is_used(key)).then_some(turn)
    }

    /// Makes what Pods have of a disk as large as its file has become.
    pub(super) async fn grow(&self, key: &str, file: &Path) -> Result<(), What> {
        let _one = self.turns.wait(key).await;
        for device in loops_below(file) {
            run("losetup", &["--set-capacity", &device]).await?;
        }
        match mounted(&self.root.join(key).join("fs")) {
            Some(device) => run("resize2fs", &[&device]).await.map(drop),
            None => Ok(()),
        }
    }
}

/// Makes a directory a mount of its own whose changes others see.
fn share(root: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(root)?;
    std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o700))?;
    match mounted(root) {
        None => kit::share_apart(root).map_err(std::io::Error::other),
        Some(_) => Ok(mount_change(root, MountPropagationFlags::SHARED)?),
    }
}

async fn mount_disk(dir: &Path, file: &Path, at: &Path, options: &[String]) -> Result<(), What> {
    let (device, _held) = held_loop_device(file).await?;
    let making = dir.join(MAKING);
    let state = if making.exists() { Head::Empty } else { head(file)? };
    let read_only = options.iter().any(|option| option == "ro");
    match state {
        Head::Empty if read_only => {
            return Err(What::Refused(
                "there is no file system, and none is made on what is only to be read".into(),
            ));
        }
        // Nothing is mended or made larger there.
        Head::FileSystem { .. } if read_only => {}
        Head::Empty => {
            // Broken off in the middle, it is made again.
            std::fs::write(&making, b"")?;
            run("mkfs.ext4", &["-q", "-F", "-m", "0", &device]).await?;
            std::fs::remove_file(&making)?;
        }
        Head::FileSystem { bytes } => {
            run("losetup", &["--set-capacity", &device]).await?;
            // Its file may have been made larger while nobody had it, or where a mounted one may not grow.
            let smaller = bytes.saturating_add(SLACK) < std::fs::metadata(file)?.len();
            let check: &[&str] = if smaller { &["-p", "-f", &device] } else { &["-p", &device] };
            // 1: errors were there, and are mended.
            run_within("e2fsck", check, 1).await?;
            if smaller {
                run("resize2fs", &[&device]).await?;
            }
        }
        Head::Other => {
            let why = "there is something else than an ext4 file system on it, which is left as it is";
            return Err(What::Refused(why.to_owned()));
        }
    }
    std::fs::create_dir_all(at)?;
    let options = options.join(",");
    let mut arguments = vec!["-t", "ext4"];
    if !options.is_empty() {
        arguments.extend(["-o", &options]);
    }
    arguments.extend([device.as_str(), text(at)?]);
    run("mount", &arguments).await?;
    // From here on it goes by itself when it is unmounted, also if that is done by hand.
    run("losetup", &["--detach", &device]).await.map(drop)
}

/// Mounts a device of the node. A file system is made on it where nothing is found, neither by its signature nor by what it begins with.
async fn mount_device(
    dir: &Path,
    device: &Path,
    kind: &str,
    (at, options): (&Path, &[String]),
) -> Result<(), What> {
    let name = text(device)?;
    let making = dir.join(MAKING);
    let known = kind.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if !known || kind.is_empty() {
        return Err(What::Refused(format!("{kind:?} is no kind of a file system")));
    }
    if making.exists() || (head(device)? == Head::Empty && !has_signature(name).await?) {
        // Broken off in the middle, it is made again.
        std::fs::write(&making, b"")?;
        let force: &[&str] = match kind {
            "ext2" | "ext3" | "ext4" => &["-q", "-F", "-m", "0"],
            "xfs" | "btrfs" => &["-f"],
            _ => &[],
        };
        run(&format!("mkfs.{kind}"), &[force, &[name]].concat()).await?;
        std::fs::remove_file(&making)?;
    }
    std::fs::create_dir_all(at)?;
    let options = options.join(",");
    let mut arguments = vec!["-t", kind];
    if !options.is_empty() {
        arguments.extend(["-o", &options]);
    }
    arguments.extend(["--", name, text(at)?]);
    run("mount", &arguments).await.map(drop)
}

/// Whether `blkid` finds anything on a device: partitions, a file system, a part of a RAID.
async fn has_signature(device: &str) -> Result<bool, What> {
    // 2: nothing was found.
    Ok(!run_within("blkid", &["--probe", "--output", "value", device], 2).await?.is_empty())
}

/// What a disk begins with.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    Empty,
    /// ext4, with the size that it has.
    FileSystem {
        bytes: u64,
    },
    Other,
}

fn head(file: &Path) -> std::io::Result<Head> {
    use std::io::Read;
    let mut bytes = Vec::with_capacity(HEAD);
    std::fs::File::open(file)?.take(HEAD as u64).read_to_end(&mut bytes)?;
    let (at, mark) = MARK;
    if bytes.get(at..at + mark.len()) == Some(&mark) {
        let number = |at: usize| {
            let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
            u64::from(word.map_or(0, u32::from_le_bytes))
        };
        let [low, high, scale] = COUNTS.map(number);
        let blocks = low | high << 32;
        return Ok(Head::FileSystem { bytes: blocks.saturating_mul(1024 << scale.min(6)) });
    }
    Ok(if bytes.iter().all(|byte| *byte == 0) { Head::Empty } else { Head::Other })
}

/// Takes a volume from a Pod. If nobody else has it, it is unmounted and forgotten: its disk may be mounted elsewhere or deleted after that.
fn let_go(dir: &Path, pod: &str) -> std::io::Result<()> {
    let users = dir.join("users");
    let last = entries(&users)?.iter().all(|user| user == pod);
    if last {
        let at = dir.join("fs");
        if mounted(&at).is_some() {
            // What a privileged container mounted in it goes first; nothing of that is removed.
            kit::unmount_below(&at).map_err(std::io::Error::other)?;
        }
        while mounted(&at).is_some() {
            unmount(&at, UnmountFlags::empty())?;
        }
        if let Ok(file) = std::fs::read_to_string(dir.join(FILE)) {
            release_loops(Path::new(&file))?;
        }
    }
    // Not before all that can fail: until then the volume is the Pod's.
    missing_is_fine(std::fs::remove_file(users.join(pod)))?;
    if last {
        // One by one, never all that is below: should something be mounted there after all, it must not be touched.
        missing_is_fine(std::fs::remove_dir(dir.join("fs")))?;
        missing_is_fine(std::fs::remove_dir(users))?;
        missing_is_fine(std::fs::remove_file(dir.join(FILE)))?;
        missing_is_fine(std::fs::remove_file(dir.join(MAKING)))?;
        missing_is_fine(std::fs::remove_dir(dir))?;
    }
    Ok(())
}

fn missing_is_fine(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};
    use std::time::Duration;

    use super::*;

    // These need root, loop devices and e2fsprogs, as the node does.

    /// Waits until no loop device is over the file: one stays as long as a mount namespace that another test has just made
    /// holds a copy of its mount.
    async fn no_loops(file: &Path) {
        until_loops(file, 0).await;
    }

    async fn until_loops(file: &Path, count: usize) {
        for _ in 0..1000 {
            if loops_below(file).len() == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?} are still there", loops_below(file));
    }

    /// A process that another test starts may hold the mount for a moment: nodes try again, too.
    async fn let_go(attached: &Attached, pod: &str) {
        for _ in 0..200 {
            match attached.release(pod).await {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {}
                result => return result.unwrap(),
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the mount of {pod} stays busy");
    }

    #[tokio::test]
    async fn a_disk_is_made_ready_shared_kept_and_let_go() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.raw");
        std::fs::File::create(&file).unwrap().set_len(32 << 20).unwrap();
        let attached = Attached::new(dir.path(), "test");
        let source = Source::Disk { file: file.clone(), options: vec!["noatime".to_owned()] };
        let at = attached.attach("v", "p1", &source, Some((1234, false))).await.unwrap();
        std::fs::write(at.join("note"), "kept").unwrap();
        let meta = std::fs::metadata(&at).unwrap();
        assert_eq!((meta.gid(), meta.mode() & 0o2770), (1234, 0o2770));
        // Another Pod, and another life of the agent, find what is there.
        let attached = Attached::new(dir.path(), "test");
        assert_eq!(attached.attach("v", "p2", &source, None).await.unwrap(), at);
        assert_eq!(std::fs::read_to_string(at.join("note")).unwrap(), "kept");
        let_go(&attached, "p1").await;
        assert!(mounted(&at).is_some() && attached.is_used("v"));
        let mut users = attached.users();
        users.sort();
        assert_eq!(users, ["p2"]);
        let_go(&attached, "p2").await;
        assert!(mounted(&at).is_none() && !attached.is_used("v"));
        no_loops(&file).await;
        assert!(!dir.path().join("yf-test-claims/v").exists());
        // The data are there again, and as a device.
        let at = attached.attach("v", "p3", &source, None).await.unwrap();
        assert_eq!(std::fs::read_to_string(at.join("note")).unwrap(), "kept");
        let_go(&attached, "p3").await;
        no_loops(&file).await;
        let device = |read_only| Source::Device { file: file.clone(), read_only };
        let plain = attached.attach("v", "p4", &device(false), None).await.unwrap();
        assert_eq!(loops_below(&file), [plain.to_str().unwrap()]);
        // Who may only read gets a device that takes no writes, and both find theirs again.
        let closed = attached.attach("v", "p5", &device(true), None).await.unwrap();
        let written = |device: &Path| {
            let opened = std::fs::OpenOptions::new().write(true).open(device);
            opened.and_then(|file| file.write_at(b"x", 0)).is_ok()
        };
        assert_eq!((written(&plain), written(&closed)), (true, false));
        assert_eq!(attached.attach("v", "p6", &device(true), None).await.unwrap(), closed);
        assert_eq!(attached.attach("v", "p6", &device(false), None).await.unwrap(), plain);
        for pod in ["p4", "p5", "p6"] {
            attached.release(pod).await.unwrap();
        }
        no_loops(&file).await;
        unmount(dir.path().join("yf-test-claims"), UnmountFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn a_disk_that_is_still_mounted_elsewhere_is_met_on_the_same_device() {
        use std::io::BufRead;

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.raw");
        std::fs::File::create(&file).unwrap().set_len(32 << 20).unwrap();
        let attached = Attached::new(dir.path(), "test");
        let source = Source::Disk { file: file.clone(), options: vec![] };
        let at = attached.attach("v", "p1", &source, None).await.unwrap();
        let mut elsewhere = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", "cd $0; echo there; exec sleep 60"])
            .arg(&at)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufReader::new(elsewhere.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let device = mounted(&at).unwrap();
        let_go(&attached, "p1").await;
        assert_eq!(loops_below(&file), [device.as_str()]);
        // A device of its own for who writes to it directly: this one goes with the mount.
        let other = loop_device(&file, false).await.unwrap();
        assert_ne!(other, device);
        let (met, held) = held_loop_device(&file).await.unwrap();
        assert_eq!(met, device);
        // The other is let go of, and stays as long as somebody looks at it.
        let looked_at = std::fs::File::open(&other).unwrap();
        release_loops(&file).unwrap();
        assert_eq!(loops_below(&file).len(), 2);
        assert_eq!(held_loop_device(&file).await.unwrap().0, device);
        elsewhere.kill().unwrap();
        elsewhere.wait().unwrap();
        drop(looked_at);
        until_loops(&file, 1).await;
        assert_eq!(attached.attach("v", "p2", &source, None).await.unwrap(), at);
        assert_eq!(mounted(&at), Some(device));
        drop(held);
        let_go(&attached, "p2").await;
        no_loops(&file).await;
        unmount(dir.path().join("yf-test-claims"), UnmountFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn a_disk_that_was_made_larger_is_used_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.raw");
        let size = |size: u64| {
            let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&file);
            file.unwrap().set_len(size).unwrap();
        };
        let attached = Attached::new(dir.path(), "test");
        let source = Source::Disk { file: file.clone(), options: vec![] };
        size(256 << 20);
        let at = attached.attach("v", "p1", &source, None).await.unwrap();
        let blocks = || rustix::fs::statvfs(&at).unwrap().f_blocks;
        let before = blocks();
        size(768 << 20);
        match attached.grow("v", &file).await {
            Ok(()) => assert!(blocks() > before * 2),
            // Not everyone who may mount may do this.
            Err(what) => assert!(what.to_string().contains("Permission denied"), "{what}"),
        }
        let_go(&attached, "p1").await;
        attached.attach("v", "p2", &source, None).await.unwrap();
        assert!(blocks() > before * 2);
        attached.grow("v", &file).await.unwrap();
        let_go(&attached, "p2").await;
        unmount(dir.path().join("yf-test-claims"), UnmountFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn devices_and_directories_of_the_node_are_their_pods_groups() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.raw");
        std::fs::File::create(&file).unwrap().set_len(32 << 20).unwrap();
        let attached = Attached::new(dir.path(), "test");
        let device = PathBuf::from(loop_device(&file, false).await.unwrap());
        let source =
            |kind: &str| Source::Local { device: device.clone(), kind: kind.to_owned(), options: vec![] };
        let refused = attached.attach("l", "p1", &source("../x"), None).await.unwrap_err().to_string();
        assert!(refused.contains("is no kind of a file system"), "{refused}");
        let at = attached.attach("l", "p1", &source("ext4"), Some((1234, false))).await.unwrap();
        assert_eq!(mounted(&at).as_deref(), device.to_str());
        assert_eq!(std::fs::metadata(&at).unwrap().gid(), 1234);
        std::fs::write(at.join("note"), "kept").unwrap();
        let_go(&attached, "p1").await;
        // What is there is not made anew, and not taken for what it is not.
        let at = attached.attach("l", "p2", &source("ext4"), None).await.unwrap();
        assert_eq!(std::fs::read_to_string(at.join("note")).unwrap(), "kept");
        let_go(&attached, "p2").await;
        attached.attach("l", "p3", &source("vfat"), None).await.unwrap_err();
        let_go(&attached, "p3").await;
        release_loops(&file).unwrap();
        // A directory stays, whoever has it.
        let own = dir.path().join("own");
        std::fs::create_dir(&own).unwrap();
        let source = Source::Directory { path: own.clone() };
        assert_eq!(attached.attach("d", "p4", &source, Some((4321, false))).await.unwrap(), own);
        attached.release("p4").await.unwrap();
        assert_eq!(std::fs::metadata(&own).unwrap().gid(), 4321);
        unmount(dir.path().join("yf-test-claims"), UnmountFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn a_disk_with_something_else_on_it_is_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("disk.raw");
        std::fs::write(&file, [7; 4096]).unwrap();
        std::fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(32 << 20).unwrap();
        let attached = Attached::new(dir.path(), "test");
        let source = Source::Disk { file: file.clone(), options: vec![] };
        let refused = attached.attach("v", "p", &source, None).await.unwrap_err().to_string();
        assert!(refused.contains("something else than an ext4 file system"), "{refused}");
        attached.release("p").await.unwrap();
        no_loops(&file).await;
        assert_eq!(std::fs::read(&file).unwrap()[..4096], [7; 4096]);
        // Nor is a file system made on what is only to be read.
        std::fs::write(&file, vec![0; 32 << 20]).unwrap();
        let source = Source::Disk { file: file.clone(), options: vec!["ro".to_owned()] };
        let refused = attached.attach("v", "p", &source, None).await.unwrap_err().to_string();
        assert!(refused.contains("only to be read"), "{refused}");
        attached.release("p").await.unwrap();
        assert!(std::fs::read(&file).unwrap().iter().all(|byte| *byte == 0));
        no_loops(&file).await;
        unmount(dir.path().join("yf-test-claims"), UnmountFlags::empty()).unwrap();
    }

    #[tokio::test]
    async fn a_volume_that_can_not_be_let_go_is_its_pods_and_keeps_no_other_pod() {
        let dir = tempfile::tempdir().unwrap();
        let attached = Attached::new(dir.path(), "test");
        let part = |path: &str| dir.path().join("yf-test-claims").join(path);
        for key in ["a", "b"] {
            std::fs::create_dir_all(part(key).join("users")).unwrap();
        }
        // Something is where a mount point is that can be removed.
        std::fs::create_dir_all(part("a/fs/inside")).unwrap();
        std::fs::write(part("b/users/other"), "").unwrap();
        attached.release("other").await.unwrap();
        assert!(!part("b").exists(), "not the one that comes after it either");
        std::fs::write(part("a/users/own"), "").unwrap();
        // Somebody works on it: those whom it does not concern don't wait.
        let busy = attached.turns.wait("a").await;
        attached.release("third").await.unwrap();
        drop(busy);
        attached.release("own").await.unwrap_err();
        std::fs::remove_dir(part("a/fs/inside")).unwrap();
        attached.release("own").await.unwrap();
        assert!(!part("a").exists());
    }
}
