//! Mounts that a container gets when all else of it is made, and before its program runs: what is at `/dev` itself, and below.
//!
//! `libcontainer` makes links and devices in `/dev`, whatever is mounted there, and removes `/dev/ptmx` before: in the node's own `/dev` it fails
//! at best. So it gets a place of its own there, over which this mounts.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, move_mount};
use rustix::process::{Pid, WaitOptions};
use rustix::thread::LinkNameSpaceType;

use super::os;
use crate::mounts::tree_of;
use crate::proto::LATE_FILE;
use crate::spec::Bound;
use crate::types::Propagation;

/// Makes them, in the mount namespace of the container whose first process this is.
pub(super) fn make(bundle: &Path, pid: i32) -> Result<(), String> {
    let text = match std::fs::read(bundle.join(LATE_FILE)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(|e| format!("its mounts at /dev: {e}"))?,
    };
    let all: Vec<Bound> = serde_json::from_slice(&text).map_err(|e| format!("its mounts at /dev: {e}"))?;
    let named = |bound: &Bound, errno: Errno| format!("mounting at {}: {errno}", bound.target.display());
    let trees = all.iter().map(|bound| tree(bound).map_err(|errno| named(bound, errno)));
    let trees = trees.collect::<Result<Vec<_>, _>>()?;
    // Whoever enters a mount namespace comes out of it at another place: a process of its own does.
    let child = os::fork(|| match plant(pid, &all, &trees) {
        Ok(()) => 0,
        Err((bound, errno)) => {
            eprintln!("{}", named(bound, errno));
            1
        }
    });
    let child = child.map_err(|errno| format!("fork: {errno}"))?;
    match wait(child) {
        Ok(true) => Ok(()),
        _ => Err("what it asks for at /dev could not be mounted there, see shim.log".to_owned()),
    }
}

fn wait(child: Pid) -> Result<bool, Errno> {
    let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(child), WaitOptions::empty()))?;
    Ok(ended.is_some_and(|(_, status)| status.exit_status() == Some(0)))
}

/// A copy of what is to be mounted, nowhere yet, whose mounts go where the container asks for.
fn tree(bound: &Bound) -> Result<OwnedFd, Errno> {
    let tree = tree_of(&bound.source)?;
    match bound.propagation {
        Propagation::Private => os::change_mounts(tree.as_fd(), true, false, libc::MS_PRIVATE)?,
        Propagation::FromNode => os::change_mounts(tree.as_fd(), true, false, libc::MS_SLAVE)?,
        Propagation::Both => {}
    }
    Ok(tree)
}

fn plant<'a>(pid: i32, all: &'a [Bound], trees: &[OwnedFd]) -> Result<(), (&'a Bound, Errno)> {
    let Some(first) = all.first() else { return Ok(()) };
    enter(pid).map_err(|errno| (first, errno))?;
    for (bound, tree) in all.iter().zip(trees) {
        let place = place_for(tree, &bound.target).map_err(|errno| (bound, errno))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(tree, "", &place, "", flags).map_err(|errno| (bound, errno))?;
    }
    // Not before: places for the inner ones are made in the outer ones.
    for (bound, tree) in all.iter().zip(trees).filter(|(bound, _)| bound.read_only) {
        let all = bound.recursive_read_only;
        os::change_mounts(tree.as_fd(), all, true, 0).map_err(|errno| (bound, errno))?;
    }
    Ok(())
}

fn enter(pid: i32) -> Result<(), Errno> {
    let path = format!("/proc/{pid}/ns/mnt");
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
}

/// Opens the place for a tree in the container, or makes it: a directory, or a file, as the tree is. No link leads to another place.
fn place_for(tree: &OwnedFd, at: &Path) -> Result<OwnedFd, Errno> {
    let stat = rustix::fs::statat(tree, "", AtFlags::EMPTY_PATH)?;
    let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags | OFlags::DIRECTORY, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let open = |path: &Path| rustix::fs::openat2(&root, path, flags, Mode::empty(), inside);
    let mut parent = root.as_fd().try_clone_to_owned().map_err(|_| Errno::MFILE)?;
    let mut whole = PathBuf::new();
    let parts: Vec<_> = at.iter().filter(|part| *part != "/").collect();
    for (number, part) in parts.iter().enumerate() {
        whole.push(part);
        let found = match open(&whole) {
            Err(Errno::NOENT) if is_dir || number + 1 < parts.len() => {
                rustix::fs::mkdirat(&parent, *part, Mode::from_raw_mode(0o755))?;
                open(&whole)
            }
            Err(Errno::NOENT) => {
                let made = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&parent, *part, made, Mode::from_raw_mode(0o644))?;
                open(&whole)
            }
            found => found,
        };
        parent = found?;
    }
    Ok(parent)
}
