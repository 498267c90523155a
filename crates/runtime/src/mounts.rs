//! What is mounted in this process's mount namespace.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount_bind, mount_change, open_tree,
};

use crate::error::{Result, RuntimeError};

/// Unmounts everything that is mounted below a directory, not on it: it is about to be removed, or no one's any more. What the node has
/// mounted elsewhere stays, also where that was bound here with all that is in it.
///
/// # Errors
/// When a mount can't be undone.
pub fn unmount_below(dir: &Path) -> Result<()> {
    let Ok(real) = std::fs::canonicalize(dir) else { return Ok(()) };
    let mut left = usize::MAX;
    loop {
        let mut below = mounts()?;
        below.retain(|at| at.starts_with(&real) && *at != real);
        if below.is_empty() {
            return Ok(());
        }
        // Each round takes some, or somebody mounts as fast as this unmounts.
        if below.len() >= left {
            let why = std::io::Error::other("what is unmounted below it is mounted again");
            return Err(RuntimeError::io("unmount everything below", &real)(why));
        }
        left = below.len();
        // Whole trees, so that nothing is taken out of one that the node has, too. What they cover is seen in the next round.
        outermost(below).iter().try_for_each(|at| detach(at))?;
    }
}

/// Those places that are not below others of them; twice where they are there twice.
fn outermost(mut places: Vec<PathBuf>) -> Vec<PathBuf> {
    // Paths are in order of their parts: what is below one follows it.
    places.sort_unstable();
    let mut found: Vec<PathBuf> = Vec::new();
    for at in places {
        if found.last().is_none_or(|last| *last == at || !at.starts_with(last)) {
            found.push(at);
        }
    }
    found
}

/// Unmounts what is mounted last at a place, with all that is mounted in it; who uses it keeps it. What is mounted in another mount of the
/// same, such as the node's own, stays there.
///
/// # Errors
/// When it can't be undone.
pub fn detach(at: &Path) -> Result<()> {
    // What goes out of a shared mount goes out of all its peers.
    let alone = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(at, alone)
        .and_then(|()| rustix::mount::unmount(at, UnmountFlags::DETACH))
        .map_err(|errno| RuntimeError::io("unmount", at)(errno.into()))
}

/// Places where something is mounted, in order; twice where two things are.
///
/// # Errors
/// When the table can't be read.
pub fn mounts() -> Result<Vec<PathBuf>> {
    Ok(places(&table()?))
}

fn table() -> Result<Vec<u8>> {
    const TABLE: &str = "/proc/self/mountinfo";
    std::fs::read(TABLE).map_err(RuntimeError::io("read", TABLE))
}

/// What is at a path, with all that is mounted there and below, as a tree of mounts that is nowhere yet. To those of them that are shared, its
/// own are peers.
pub(crate) fn tree_of(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags)
}

/// Makes a directory a mount of its own, and a shared one: what is mounted below it is seen in mount namespaces made from this one.
///
/// # Errors
/// When the directory is not there or can't be mounted on itself.
pub fn share_apart(dir: &Path) -> Result<()> {
    // Shared with nobody first: where what it is on is shared, as systemd has it, each mount below it would be made there as well, under the
    // other, and stay in every pod.
    mount_bind(dir, dir)
        .and_then(|()| mount_change(dir, MountPropagationFlags::PRIVATE))
        .and_then(|()| mount_change(dir, MountPropagationFlags::SHARED))
        .map_err(|errno| RuntimeError::io("make a shared mount of", dir)(errno.into()))
}

/// Has other mount namespaces see what is mounted at a path from now on, and this one what they mount there: the mount that the path is on
/// becomes a shared one where it is not. systemd has all of a host's so; a host without it may have none.
///
/// # Errors
/// Why it can't be.
pub fn share(path: &Path) -> Result<()> {
    let failed = |errno: Errno| RuntimeError::io("look for the mount of", path)(errno.into());
    let id = mount_id(path).map_err(failed)?;
    let text = table()?;
    let Some((at, is_shared)) = find(&text, id) else { return Err(failed(Errno::NOENT)) };
    if is_shared {
        return Ok(());
    }
    let refused = |why: String| {
        let why = format!(
            "path {path:?} is mounted on {at:?} but it is not a shared mount, and can't be made one: {why}"
        );
        RuntimeError::invalid("volumeMounts.mountPropagation", why)
    };
    // Not what is mounted over it.
    if mount_id(&at) != Ok(id) {
        return Err(refused("something else is mounted there by now".to_owned()));
    }
    mount_change(&at, MountPropagationFlags::SHARED).map_err(|errno| refused(errno.to_string()))?;
    tracing::info!(mount = %at.display(), "made a shared mount, for a Pod that wants to see what is mounted there");
    Ok(())
}

fn mount_id(path: &Path) -> std::result::Result<u64, Errno> {
    let found = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID)?;
    // Not told before Linux 5.8.
    let told = found.stx_mask & StatxFlags::MNT_ID.bits() != 0;
    told.then_some(found.stx_mnt_id).ok_or(Errno::OPNOTSUPP)
}

/// Where a mount is, and whether it is shared: among its optional fields, which begin with the seventh, is one `shared:`.
fn find(table: &[u8], id: u64) -> Option<(PathBuf, bool)> {
    let id = id.to_string();
    let line = table
        .split(|byte| *byte == b'\n')
        .find(|line| line.strip_prefix(id.as_bytes()).is_some_and(|rest| rest.first() == Some(&b' ')))?;
    let mut fields = line.split(|byte| *byte == b' ');
    let at = fields.nth(4)?;
    let mut optional = fields.take_while(|field| *field != b"-");
    Some((plain(at), optional.any(|field| field.starts_with(b"shared:"))))
}

/// The fifth field of each line.
fn places(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(plain).collect()
}

/// A field, in which blanks and backslashes are written as octal numbers (`proc(5)`).
fn plain(field: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        let digits = behind.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| first == b'\\') {
            Some(byte) => {
                out.push(byte);
                rest = &behind[3..];
            }
            None => {
                out.push(first);
                rest = behind;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use rustix::mount::{MountFlags, mount, mount_bind_recursive};

    use super::*;

    /// Runs a test of this module once more, in a mount namespace of its own: what goes wrong there harms nobody. Returns whether this is
    /// that run, with the directory for it.
    fn apart(test: &str) -> Option<PathBuf> {
        const DIR: &str = "YUNFAN_TEST_APART";
        if let Some(dir) = std::env::var_os(DIR) {
            return Some(dir.into());
        }
        let dir = tempfile::tempdir().unwrap();
        let run = std::process::Command::new("unshare")
            .args(["--mount", "--propagation", "private"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", &format!("mounts::tests::{test}"), "--nocapture"])
            .env(DIR, std::fs::canonicalize(dir.path()).unwrap())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&run.stdout);
        assert!(
            run.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&run.stderr)
        );
        None
    }

    /// Needs root.
    #[test]
    fn what_is_mounted_in_a_mount_of_its_own_is_mounted_once_on_a_shared_host() {
        let Some(dir) = apart("what_is_mounted_in_a_mount_of_its_own_is_mounted_once_on_a_shared_host")
        else {
            return;
        };
        mount("host", &dir, "tmpfs", MountFlags::NOSUID, None).unwrap();
        mount_change(&dir, MountPropagationFlags::SHARED).unwrap();
        let (own, at) = (dir.join("own"), dir.join("own/claim"));
        std::fs::create_dir_all(&at).unwrap();
        share_apart(&own).unwrap();
        mount("claim", &at, "tmpfs", MountFlags::NOSUID, None).unwrap();
        assert_eq!(mounts().unwrap().iter().filter(|place| **place == at).count(), 1);
        let text = table().unwrap();
        assert_eq!(find(&text, mount_id(&own).unwrap()), Some((own, true)));
    }

    /// Needs root.
    #[test]
    fn what_the_node_has_bound_in_a_volume_stays_on_the_node() {
        let Some(dir) = apart("what_the_node_has_bound_in_a_volume_stays_on_the_node") else { return };
        let empty = |at: &Path| {
            std::fs::create_dir_all(at).unwrap();
            mount("test", at, "tmpfs", MountFlags::NOSUID, None).unwrap();
        };
        let (node, pod) = (dir.join("node"), dir.join("pod"));
        empty(&node);
        mount_change(&node, MountPropagationFlags::SHARED).unwrap();
        let inner = [node.join("in"), node.join("in/deeper")];
        inner.iter().for_each(|at| empty(at));
        let bind = |at: &Path| {
            std::fs::create_dir_all(at).unwrap();
            mount_bind_recursive(&node, at).unwrap();
        };
        let there = |at: &Path| mounts().unwrap().iter().filter(|place| place.starts_with(at)).count();
        // Side by side, under something else, and something on its like.
        ["one", "two", "covered/three"].iter().for_each(|name| bind(&pod.join(name)));
        ["covered", "twice", "twice"].iter().for_each(|name| empty(&pod.join(name)));
        assert_eq!((there(&node), there(&pod)), (3, 12));
        unmount_below(&pod).unwrap();
        assert_eq!((there(&node), there(&pod)), (3, 0));
        bind(&pod.join("one"));
        detach(&pod.join("one")).unwrap();
        assert_eq!((there(&node), there(&pod)), (3, 0));
        // What is mounted on the node is still seen where the node's is.
        unmount_below(&node).unwrap();
        assert_eq!(there(&node), 1);
    }

    #[test]
    fn places_below_others_go_with_them() {
        let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
        let found = outermost(paths(&["/a/b/c", "/a/b-c", "/a/b", "/a/b/c/d", "/a/b", "/z"]));
        assert_eq!(found, paths(&["/a/b", "/a/b", "/a/b-c", "/z"]));
    }

    #[test]
    fn places_with_odd_names_are_found() {
        let table =
            b"22 1 0:21 / /sys rw shared:7 - sysfs sysfs rw\n23 1 0:5 / /a\\040b\\134 rw - tmpfs t rw\n";
        assert_eq!(places(table), [PathBuf::from("/sys"), PathBuf::from("/a b\\")]);
        assert!(mounts().unwrap().contains(&PathBuf::from("/proc")));
        assert_eq!(find(table, 22), Some(("/sys".into(), true)));
        assert_eq!(find(table, 23), Some(("/a b\\".into(), false)));
        assert_eq!(find(table, 2), None);
        let proc = mount_id(Path::new("/proc/self")).unwrap();
        assert_eq!(find(&super::table().unwrap(), proc).unwrap().0, Path::new("/proc"));
    }
}
