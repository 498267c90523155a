//! Giving what is in a volume to a group (`fsGroup`).
//!
//! Another Pod may have the volume already, and change what is in it while this goes through it: so nothing is done by a path that it
//! could lead elsewhere, only to what was opened without following links.

use std::ffi::CStr;
use std::io::{Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, chmod, chownat, fstat, openat};

/// Directories that are nested deeper are not gone through.
const DEEPEST: usize = 200;
/// What the group may do with files, and with directories, which hand the group on.
const FILE_BITS: u32 = 0o660;
const DIRECTORY_BITS: u32 = 0o2770;

/// Gives a directory and all below it to a group that may write to it. `only_if_needed`: not where its top is the group's already.
pub(super) fn give(top: &Path, group: u32, only_if_needed: bool) -> Result<()> {
    let top = openat(CWD, top, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = fstat(&top)?;
    if only_if_needed && found.st_gid == group && found.st_mode & DIRECTORY_BITS == DIRECTORY_BITS {
        return Ok(());
    }
    give_open(top.as_fd(), group, DEEPEST)
}

fn give_open(open: BorrowedFd<'_>, group: u32, deeper: usize) -> Result<()> {
    let found = fstat(open)?;
    let bits = match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => {
            let left = deeper.checked_sub(1);
            let left = left.ok_or_else(|| Error::other("its directories are nested too deep for fsGroup"))?;
            // What is below first: the top tells that all is done.
            give_below(open, group, left)?;
            DIRECTORY_BITS
        }
        FileType::RegularFile => FILE_BITS,
        // Links, sockets and devices stay as they are.
        _ => return Ok(()),
    };
    chownat(open, c"", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    // Not before the owner: a change of owner takes bits away. This path leads to what is open and nowhere else.
    let path = format!("/proc/self/fd/{}", open.as_raw_fd());
    Ok(chmod(path, Mode::from_raw_mode(found.st_mode & 0o7777 | bits))?)
}

fn give_below(dir: BorrowedFd<'_>, group: u32, deeper: usize) -> Result<()> {
    let list = openat(dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&list)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        match openat(dir, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
            Ok(open) => give_open(open.as_fd(), group, deeper)?,
            // Gone meanwhile.
            Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn files_are_given_to_a_group_but_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        if give(dir.path(), 4321, false).is_err() {
            // Only root gives files away.
            assert_ne!(rustix::process::geteuid().as_raw(), 0);
            return;
        }
        let mode = std::fs::metadata(dir.path().join("file")).unwrap().mode();
        assert_eq!(mode & 0o660, 0o660);
        let of = |path: &Path| std::fs::metadata(path).unwrap().gid();
        assert_eq!((of(&dir.path().join("file")), of(outside.path()) == 4321), (4321, false));
        std::fs::write(dir.path().join("late"), "").unwrap();
        std::os::unix::fs::chown(dir.path().join("late"), None, Some(0)).unwrap();
        give(dir.path(), 4321, true).unwrap();
        assert_ne!(of(&dir.path().join("late")), 4321, "the top says that it is done");
    }
}
