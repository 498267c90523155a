//! What is mounted in this process's mount namespace.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, OpenTreeFlags, UnmountFlags, mount_change, open_tree};

use crate::error::{Result, RuntimeError};

/// Unmounts everything that is mounted below a directory, not on it: it is about to be removed, or no one's any more.
///
/// # Errors
/// When a mount can't be undone.
pub fn unmount_below(dir: &Path) -> Result<()> {
    let Ok(real) = std::fs::canonicalize(dir) else { return Ok(()) };
    // The last ones first: they may be on top of others.
    let below = |at: &&PathBuf| at.starts_with(&real) && **at != real;
    mounts()?.iter().rev().filter(below).try_for_each(|at| detach(at))
}

/// Unmounts what is mounted last at a place; who uses it keeps it.
///
/// # Errors
/// When it can't be undone.
pub fn detach(at: &Path) -> Result<()> {
    rustix::mount::unmount(at, UnmountFlags::DETACH)
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
    use super::*;

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
