//! A container's working directory, which is made where its image has none, as other runtimes make it.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use libcontainer::oci_spec::runtime::{Mount, Spec};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::proto::SPEC_FILE;

/// Makes the working directory of the container with this bundle: in its root file system, which is mounted, or in the volume that it
/// is in.
///
/// # Errors
/// Why it can't be made.
pub(super) fn make(bundle: &Path) -> Result<(), String> {
    let spec = Spec::load(bundle.join(SPEC_FILE)).map_err(|e| e.to_string())?;
    let Some(wanted) = spec.process().as_ref().map(|process| process.cwd().clone()) else { return Ok(()) };
    let mounts = spec.mounts().iter().flatten().filter(|mount| wanted.starts_with(mount.destination()));
    let (base, path) = match mounts.max_by_key(|mount| mount.destination().components().count()) {
        None => (bundle.join("rootfs"), wanted.clone()),
        Some(mount) => match of_volume(mount, &wanted) {
            Some(found) => found,
            // Whoever works in one of the kernel's own file systems finds there what there is.
            None => return Ok(()),
        },
    };
    make_in(&base, &path).map_err(|errno| format!("the working directory {wanted:?} can't be made: {errno}"))
}

/// The directory that is mounted, and where in it the path leads; none where the container itself could make nothing.
fn of_volume(mount: &Mount, path: &Path) -> Option<(PathBuf, PathBuf)> {
    if mount.options().iter().flatten().any(|option| option == "ro" || option == "rro") {
        return None;
    }
    let source = mount.source().clone().filter(|source| source.is_dir())?;
    Some((source, path.strip_prefix(mount.destination()).ok()?.to_owned()))
}

/// Makes a directory and those above it. Links are followed as the container will follow them, whose root `base` is
/// (`openat2(2)`, `RESOLVE_IN_ROOT`).
fn make_in(base: &Path, path: &Path) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let base = rustix::fs::open(base, flags, Mode::empty())?;
    let open = |path: &Path| rustix::fs::openat2(&base, path, flags, Mode::empty(), inside);
    let mut whole = PathBuf::from("/");
    let mut above: OwnedFd = open(&whole)?;
    for part in path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir)) {
        whole.push(part);
        above = match open(&whole) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&above, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => open(&whole)?,
                    Err(errno) => return Err(errno),
                }
            }
            found => found?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_as_the_container_sees_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        std::fs::create_dir_all(at("run")).unwrap();
        std::os::unix::fs::symlink("/run", at("alias")).unwrap();
        std::os::unix::fs::symlink("/none", at("broken")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        let make = |path: &str| make_in(root.path(), Path::new(path));
        assert_eq!(make("/"), Ok(()));
        assert_eq!(make("/not/there"), Ok(()));
        assert_eq!(make("/not/there"), Ok(()), "it is there already");
        assert_eq!(make("/alias/x"), Ok(()));
        assert!(at("not/there").is_dir() && at("run/x").is_dir());
        assert_eq!(make("/../../up"), Ok(()));
        assert!(at("up").is_dir(), "there is nothing above the root");
        assert_eq!(make("/file/x"), Err(Errno::NOTDIR));
        assert!(make("/broken/x").is_err());
    }
}
