//! Mounts that a container's specification names as sources: volumes, parts of them, and images.
//!
//! How mounts reach a volume, and leave it, is settled here: in the container's namespace, each is what its source is, or a slave of that where the
//! container asks for nothing else ([`crate::spec`]). `libcontainer` knows no such options of binds.
//!
//! They are made here, in the pod's own mount namespace: what a path leads to is found and bound in one go, so that a container
//! that swaps directories for links meanwhile can't make a mount lead out of its volume.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, MoveMountFlags, UnmountFlags, mount_change, move_mount};

use super::create::overlay;
use crate::mounts::{tree_of, unmount_below};
use crate::proto::Bind;
use crate::types::Propagation;

/// Mounts everything, in order. The working directory is changed.
pub(super) fn make(bundle: &Path, binds: &[Bind], trees: Vec<OwnedFd>) -> Result<(), String> {
    let mut trees = trees.into_iter();
    for bind in binds {
        match bind {
            Bind::Tree { path, at, propagation, bare } => {
                let (tree, what) = match path {
                    Some(path) => {
                        (tree_of(path).map_err(|e| format!("{}: {e}", path.display()))?, path.clone())
                    }
                    None => (trees.next().ok_or("a volume of the node did not come along")?, at.into()),
                };
                let at = bundle.join(at);
                let planted = plant(&tree, &at, *propagation);
                planted.map_err(|e| format!("{}: {e}", what.display()))?;
                for part in bare {
                    unmount_below(&at.join(part)).map_err(|e| e.to_string())?;
                }
            }
            Bind::Part { base, path, at, make } => {
                bind_part(base, path, &bundle.join(at), *make)?;
            }
            Bind::Layers { links, count, at } => {
                let target = bundle.join(at);
                std::fs::create_dir_all(&target).map_err(|e| format!("{}: {e}", target.display()))?;
                layers(&bundle.join(links), *count, &target).map_err(|e| format!("an image volume: {e}"))?;
            }
        }
    }
    Ok(())
}

/// Binds what is at `path` below `base` to `at`, which is made; with `make`, a directory is made where nothing is. No link leads out of
/// `base`.
///
/// # Errors
/// Why it can't be.
pub(crate) fn bind_part(base: &Path, path: &Path, at: &Path, make: bool) -> Result<(), String> {
    let part = open_part(base, path, make)
        .map_err(|e| format!("subPath {path:?} of {base:?} can't be used: {e}"))?;
    bind_fd(&part, at).map_err(|e| format!("subPath {path:?}: {e}"))
}

/// Binds a part of a volume to `at`, for a container that another implementation starts: the mounts there follow those of the volume as it
/// asks for, as nobody settles that later.
///
/// # Errors
/// Why it can't be.
pub fn bind_settled(base: &Path, path: &Path, at: &Path, propagation: Propagation) -> Result<(), String> {
    bind_part(base, path, at, true)?;
    settle(at, propagation).map_err(|e| format!("the mounts of subPath {path:?}: {e}"))
}

/// Unmounts what was made for a container; its bundle is at this path.
pub(super) fn release(bundle: &Path) {
    let entries = std::fs::read_dir(bundle.join("binds")).into_iter().flatten().flatten();
    for entry in entries {
        // What is mounted on the node below a volume would go there, too, where both see what the other does.
        let alone = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        if mount_change(entry.path(), alone).is_ok() {
            let _ = rustix::mount::unmount(entry.path(), UnmountFlags::DETACH);
        }
    }
}

/// Mounts a tree at a path that is made for it.
fn plant(tree: &OwnedFd, at: &Path, propagation: Propagation) -> Result<(), Errno> {
    place_for(tree, at)?;
    move_mount(tree, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    settle(at, propagation)
}

/// Has the mounts at a path, which are copies of others, follow those as a container asks for.
fn settle(at: &Path, propagation: Propagation) -> Result<(), Errno> {
    match propagation {
        Propagation::Private => mount_change(at, MountPropagationFlags::PRIVATE | MountPropagationFlags::REC),
        Propagation::FromNode => {
            mount_change(at, MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        }
        Propagation::Both => Ok(()),
    }
}

fn layers(links: &Path, count: usize, target: &Path) -> Result<(), String> {
    if count == 1 {
        // The kernel lays nothing over nothing.
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let layer = rustix::fs::open(links.join("0"), flags, Mode::empty()).map_err(|e| e.to_string())?;
        return bind_fd(&layer, target).map_err(|e| e.to_string());
    }
    overlay(links, count, None, &target.to_string_lossy())
}

/// Binds what is open to a path that is made for it.
fn bind_fd(part: &OwnedFd, at: &Path) -> Result<(), Errno> {
    place_for(part, at)?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", part.as_fd().as_raw_fd()));
    rustix::mount::mount_bind_recursive(source, at)
}

/// Makes a directory, or a file, on which what is open can be mounted.
fn place_for(what: &OwnedFd, at: &Path) -> Result<(), Errno> {
    let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(what)?.st_mode);
    if kind.is_dir() {
        std::fs::create_dir_all(at).map_err(io)
    } else {
        std::fs::File::create(at).map(drop).map_err(io)
    }
}

/// Opens what is at `path` below `base`, or makes a directory there. Links are followed inside only (`openat2(2)`,
/// `RESOLVE_BENEATH`).
fn open_part(base: &Path, path: &Path, make: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let base = rustix::fs::open(base, flags | OFlags::DIRECTORY, Mode::empty())?;
    if path.as_os_str().is_empty() {
        return Ok(base);
    }
    let open = |path: &Path| rustix::fs::openat2(&base, path, flags, Mode::empty(), inside);
    match open(path) {
        Err(Errno::NOENT) if make => {}
        found => return found,
    }
    // As its volume is open to, so is what is made in it, and what is made there belongs to the same group.
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&base)?.st_mode & 0o7777);
    let mut whole = PathBuf::new();
    for part in path.components() {
        if !matches!(part, Component::Normal(_)) {
            return Err(Errno::XDEV);
        }
        let parent = if whole.as_os_str().is_empty() { None } else { Some(open(&whole)?) };
        whole.push(part);
        match open(&whole) {
            Err(Errno::NOENT) => {
                let parent = parent.as_ref().unwrap_or(&base);
                match rustix::fs::mkdirat(parent, part.as_os_str(), mode) {
                    Ok(()) => open_up(parent, part.as_os_str(), mode)?,
                    Err(Errno::EXIST) => {}
                    Err(error) => return Err(error),
                }
            }
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    open(path)
}

/// Gives a directory that was just made its mode, whatever the umask is. Another container may have put something else in its place
/// since: no link is followed, and the mode goes to what was opened.
fn open_up(parent: &OwnedFd, name: &OsStr, mode: Mode) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = rustix::fs::openat2(
        parent,
        name,
        flags,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?;
    rustix::fs::fchmod(&made, mode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_part_stays_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o2777)).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        std::os::unix::fs::symlink("../..", dir.path().join("up")).unwrap();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("alias")).unwrap();
        let open = |path: &str, make| open_part(dir.path(), Path::new(path), make).map(drop);
        assert_eq!(open("in/side", true), Ok(()));
        let mode = std::fs::metadata(dir.path().join("in/side")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o2777);
        assert_eq!(open("alias/new", true), Ok(()));
        assert!(dir.path().join("real/new").is_dir());
        assert_eq!(open("", true), Ok(()));
        assert_eq!(open("none", false), Err(Errno::NOENT));
        for path in ["../up", "out", "out/passwd", "up/x", "in/../../x"] {
            assert!(open(path, true).is_err(), "{path}");
        }
    }
}
