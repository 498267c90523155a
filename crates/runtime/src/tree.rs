//! Trees of directories that others made, as deep as they like: what they hold, and their end. Few directories are open at a time, and
//! nothing here recurses further than it says.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::mounts::unmount_below;

/// Directories that are open at a time.
const OPEN: usize = 16;
/// What is further down is not measured.
const DEEPEST: usize = 1 << 20;
/// How long a measurement may take: a tree of millions of files that is not in the cache takes minutes.
const LONGEST: Duration = Duration::from_secs(30);

/// What something takes of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl std::ops::AddAssign for DiskUse {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.inodes = self.inodes.saturating_add(other.inodes);
    }
}

/// As [`measure`], as far as that finds it out, and also of what is mounted at the path.
pub fn disk_usage(path: &Path) -> DiskUse {
    measure_within(path, LONGEST, ResolveFlags::empty()).0
}

/// What a file, or a directory with all in it, holds on disk, and whether that is all: there may be directories too deep or too many, or
/// somebody moves them about meanwhile. Links are not followed; what is missing holds nothing, and what is mounted over it is not asked.
pub fn measure(path: &Path) -> (DiskUse, bool) {
    measure_within(path, LONGEST, ResolveFlags::NO_XDEV)
}

fn measure_within(path: &Path, time: Duration, resolve: ResolveFlags) -> (DiskUse, bool) {
    let found = find(path, resolve).and_then(|top| Ok((rustix::fs::fstat(&top)?, top)));
    let Ok((stat, top)) = found else { return (DiskUse::default(), true) };
    let mut used = of(&stat);
    if !is_dir(&stat) {
        return (used, true);
    }
    let whole = walk(&top, Instant::now() + time, &mut used);
    (used, whole.unwrap_or(false))
}

/// What is at a path, seen from the directory that it is in; it is not opened.
fn find(path: &Path, resolve: ResolveFlags) -> rustix::io::Result<OwnedFd> {
    let here = Path::new(".");
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(here);
    let name = path.file_name().map_or(here, Path::new);
    let parent = rustix::fs::open(parent, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(parent, name, flags, Mode::empty(), resolve)
}

fn of(stat: &Stat) -> DiskUse {
    // The kernel counts in 512 bytes, whatever the file system does.
    DiskUse { bytes: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512), inodes: 1 }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn open(at: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, name, flags, Mode::empty())
}

/// Opens one in another, where nothing is mounted on it.
fn open_below(at: impl AsFd, name: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(at, name, flags, Mode::empty(), ResolveFlags::NO_XDEV)
}

fn is_dots(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

/// A directory that is being read.
struct Level {
    /// None while too many below it are open.
    dir: Option<Dir>,
    /// Device and inode, by which it is known again.
    is: (u64, u64),
    /// How far it was read.
    read: i64,
}

impl Level {
    fn new(fd: OwnedFd) -> rustix::io::Result<Self> {
        let is = identity(&fd)?;
        Ok(Self { dir: Some(Dir::new(fd)?), is, read: 0 })
    }

    /// Opens it again from a directory in it. Fails where that is in another one by now.
    fn reopen(&mut self, below: &Dir) -> rustix::io::Result<()> {
        let fd = open(below.fd()?, c"..")?;
        if identity(&fd)? != self.is {
            return Err(Errno::STALE);
        }
        let mut dir = Dir::new(fd)?;
        dir.seek(self.read)?;
        self.dir = Some(dir);
        Ok(())
    }
}

fn identity(fd: &OwnedFd) -> rustix::io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Adds up what is below a directory. Returns whether that was all.
fn walk(top: &OwnedFd, until: Instant, used: &mut DiskUse) -> rustix::io::Result<bool> {
    let mut levels = vec![Level::new(open(top, c".")?)?];
    let mut whole = true;
    while let Some(Level { dir: Some(dir), read, .. }) = levels.last_mut() {
        if Instant::now() > until {
            return Ok(false);
        }
        match dir.read().transpose()? {
            Some(entry) => {
                *read = entry.offset();
                let name = entry.file_name();
                if is_dots(name) {
                    continue;
                }
                // It may have gone since.
                let Ok(stat) = rustix::fs::statat(dir.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                *used += of(&stat);
                if !is_dir(&stat) {
                    continue;
                }
                let opened = open_below(dir.fd()?, name);
                match opened.and_then(Level::new) {
                    Ok(level) if levels.len() < DEEPEST => levels.push(level),
                    // What is mounted there is no part of it.
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
                    _ => whole = false,
                }
                if let Some(far) = levels.len().checked_sub(OPEN + 1) {
                    levels[far].dir = None;
                }
            }
            None => {
                let done = levels.pop().and_then(|level| level.dir);
                if let (Some(above), Some(done)) = (levels.last_mut().filter(|it| it.dir.is_none()), &done) {
                    above.reopen(done)?;
                }
            }
        }
    }
    Ok(whole)
}

/// As [`remove`]; what somebody mounted in it is unmounted, and nothing of it removed.
///
/// # Errors
/// The same.
pub fn remove_with_mounts(path: &Path) -> io::Result<()> {
    const MOUNTED: [Errno; 2] = [Errno::XDEV, Errno::BUSY];
    match remove(path) {
        Err(error) if Errno::from_io_error(&error).is_some_and(|errno| MOUNTED.contains(&errno)) => {
            unmount_below(path).map_err(io::Error::other)?;
            remove(path)
        }
        done => done,
    }
}

/// Removes a directory with all in it; a missing one is fine. What is too deep in it is moved up first.
///
/// # Errors
/// The file system's, or that something is mounted in it; what could not be removed stays.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let top = match open(CWD, path) {
        Err(Errno::NOENT) => return Ok(()),
        // A link, or a file.
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(rustix::fs::unlink(path)?),
        opened => opened?,
    };
    let mut aside = Aside { top: top.as_fd(), next: 0 };
    while empty(top.as_fd(), OPEN, &mut aside)? {}
    match rustix::fs::rmdir(path) {
        Err(Errno::NOENT) => Ok(()),
        done => Ok(done?),
    }
}

/// Where directories go that are too deep.
struct Aside<'a> {
    top: BorrowedFd<'a>,
    next: u64,
}

impl Aside<'_> {
    fn take(&mut self, from: BorrowedFd<'_>, name: &CStr) -> rustix::io::Result<()> {
        loop {
            let new = format!("{}.aside", self.next);
            self.next += 1;
            match rustix::fs::renameat(from, name, self.top, new.as_str()) {
                // The name is taken. An empty directory of that name may go, it would be removed anyway.
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {}
                done => return done,
            }
        }
    }
}

/// Removes what is in a directory, down to so many levels; directories that are deeper are put aside. Returns whether there were any.
fn empty(dir: BorrowedFd<'_>, levels: usize, aside: &mut Aside<'_>) -> rustix::io::Result<bool> {
    let mut entries = Dir::read_from(dir)?;
    let mut moved = false;
    while let Some(entry) = entries.read().transpose()? {
        let name = entry.file_name();
        if is_dots(name) {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // Of a file system that does not say what its entries are.
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error),
            }
        }
        if levels == 0 {
            aside.take(dir, name)?;
            moved = true;
            continue;
        }
        let below = match open_below(dir, name) {
            Err(Errno::NOENT) => continue,
            opened => opened?,
        };
        moved |= empty(below.as_fd(), levels - 1, aside)?;
        match rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => {}
            done => done?,
        }
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain of directories, far beyond what a path can name, each with a file of a page; below the last one are more.
    fn deep(top: &Path, levels: usize) {
        std::fs::create_dir(top).unwrap();
        let mut at = open(CWD, top).unwrap();
        for _ in 0..levels {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
            let file = rustix::fs::openat(&at, c"file", flags, Mode::RWXU).unwrap();
            rustix::io::write(&file, &[1; 4096]).unwrap();
            for name in [c"a", c"directory", c"z"] {
                rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            }
            at = open(&at, c"directory").unwrap();
        }
    }

    /// As programs have it that nobody gave more, but for what else is open here.
    fn few_descriptors() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum }).unwrap();
    }

    #[test]
    fn deep_trees_are_measured_and_removed_with_few_descriptors() {
        const LEVELS: usize = 1000;
        few_descriptors();
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        deep(&top, LEVELS);
        let (used, whole) = measure(&top);
        assert!(whole);
        assert_eq!(used.inodes, 1 + 4 * LEVELS as u64);
        assert!(used.bytes >= 4096 * LEVELS as u64, "{used:?}");
        remove(&top).unwrap();
        assert!(!top.exists());
        remove(&top).unwrap();
        assert_eq!(measure(&top), (DiskUse::default(), true));
    }

    #[test]
    fn what_can_not_be_measured_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        deep(&top, 20);
        assert!(!measure_within(&top, Duration::ZERO, ResolveFlags::empty()).1);
        let file = top.join("file");
        assert_eq!(measure(&file).0.inodes, 1);
        std::os::unix::fs::symlink(dir.path(), top.join("link")).unwrap();
        assert_eq!(measure(&top.join("link")).0.inodes, 1, "links are not followed");
        remove(&top.join("link")).unwrap();
        assert!(file.exists());
    }

    #[test]
    fn a_directory_that_was_moved_is_not_left_by_its_new_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let (top, other) = (dir.path().join("top"), dir.path().join("other"));
        deep(&top, 2);
        std::fs::create_dir(&other).unwrap();
        let mut above = Level::new(open(CWD, &top).unwrap()).unwrap();
        let below = Level::new(open(CWD, top.join("directory")).unwrap()).unwrap().dir.unwrap();
        above.reopen(&below).unwrap();
        std::fs::rename(top.join("directory"), other.join("directory")).unwrap();
        assert_eq!(above.reopen(&below), Err(Errno::STALE));
    }

    /// Needs root.
    #[test]
    fn what_is_mounted_inside_is_neither_measured_nor_removed() {
        use rustix::mount::mount_bind_recursive;
        let dir = tempfile::tempdir().unwrap();
        let (top, other) = (dir.path().join("top"), dir.path().join("other"));
        std::fs::create_dir_all(top.join("a/place")).unwrap();
        std::fs::create_dir(&other).unwrap();
        for file in [top.join("a/file"), top.join("a/one"), other.join("kept"), other.join("one")] {
            std::fs::write(file, "x").unwrap();
        }
        // Of the same file system, so that only the mount tells.
        mount_bind_recursive(&other, top.join("a/place")).unwrap();
        mount_bind_recursive(other.join("one"), top.join("a/one")).unwrap();
        assert_eq!(measure(&top).0.inodes, 5);
        assert_eq!(measure(&top.join("a/place")), (DiskUse::default(), true));
        assert_eq!(disk_usage(&top.join("a/place")).inodes, 3);
        let refused = Errno::from_io_error(&remove(&top).unwrap_err());
        assert!(matches!(refused, Some(Errno::XDEV | Errno::BUSY)), "{refused:?}");
        remove_with_mounts(&top).unwrap();
        assert!(!top.exists() && other.join("kept").exists() && other.join("one").exists());
    }

    #[test]
    fn names_of_what_is_put_aside_may_be_taken() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        deep(&top, OPEN + 5);
        std::fs::write(top.join("0.aside"), "").unwrap();
        std::fs::create_dir_all(top.join("1.aside/full")).unwrap();
        remove(&top).unwrap();
        assert!(!top.exists());
    }
}
