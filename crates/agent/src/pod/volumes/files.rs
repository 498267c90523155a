//! The files of a volume that is made from objects, and how they are swapped as one.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

use super::What;

/// One file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) bytes: Vec<u8>,
    pub(super) mode: u32,
    /// Who owns it, where that is not root.
    pub(super) owner: Option<u32>,
}

/// By path in the volume.
pub(super) type Files = BTreeMap<String, File>;

impl File {
    /// A file of root's. `mode` is an API object's number, of which the permission bits count.
    pub(super) fn new(bytes: Vec<u8>, mode: i32) -> Self {
        Self { bytes, mode: u32::try_from(mode).unwrap_or(0o644) & 0o777, owner: None }
    }
}

/// Refuses a path that leads out of the volume, or to where the swapping is done.
pub(super) fn check_path(path: &str) -> Result<(), What> {
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if plain && !path.is_empty() && !path.starts_with("..") {
        Ok(())
    } else {
        Err(What::Escapes(path.to_owned()))
    }
}

/// Writes a volume's files the way containers expect of Kubernetes: each name is a link through `..data` to a directory of
/// its own, which is swapped in one step, so that a reader never sees half an update. Files are given to `group`, if any.
pub(super) fn write(dir: &Path, files: &Files, group: Option<u32>) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777))?;
    give_to_group(dir, group, 0o2110)?;
    let current = dir.join("..data");
    if unchanged(&current, files) {
        return clean(dir);
    }
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%f").to_string();
    if let Err(error) = fill(&dir.join(&stamp), files, group).and_then(|()| swap(dir, &stamp)) {
        // Each further try would leave as much again, and take the room that comes free.
        let _ = std::fs::remove_dir_all(dir.join(&stamp));
        return Err(error);
    }
    link_names(dir, files)?;
    clean(dir)?;
    tracing::debug!(?dir, files = files.len(), "volume written");
    Ok(())
}

fn fill(fresh: &Path, files: &Files, group: Option<u32>) -> std::io::Result<()> {
    make_dir(fresh, group)?;
    files.iter().try_for_each(|(path, file)| write_one(fresh, path, file, group))
}

/// From now on the volume's files are those in the directory of that name.
fn swap(dir: &Path, stamp: &str) -> std::io::Result<()> {
    let swap = dir.join("..data_tmp");
    let _ = std::fs::remove_file(&swap);
    symlink(stamp, &swap)?;
    std::fs::rename(&swap, dir.join("..data"))
}

/// Whether a volume's files were written before.
pub(super) fn is_whole(dir: &Path) -> bool {
    dir.join("..data").is_dir()
}

/// Removes what the volume's files were before, also where an agent ended between writing and removing.
fn clean(dir: &Path) -> std::io::Result<()> {
    let current = std::fs::read_link(dir.join("..data"))?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if !name.as_encoded_bytes().starts_with(b"..") || name == "..data" || Path::new(&name) == current {
            continue;
        }
        if entry.file_type()?.is_dir() {
            std::fs::remove_dir_all(entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn write_one(fresh: &Path, path: &str, file: &File, group: Option<u32>) -> std::io::Result<()> {
    let target = fresh.join(path);
    let mut parent = fresh.to_owned();
    for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
        parent.push(part);
        make_dir(&parent, group)?;
    }
    std::fs::write(&target, &file.bytes)?;
    if file.owner.is_some() {
        std::os::unix::fs::chown(&target, file.owner, None)?;
    }
    // Not before the owner: a change of owner takes bits away.
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(file.mode))?;
    give_to_group(&target, group, 0o440)
}

fn make_dir(dir: &Path, group: Option<u32>) -> std::io::Result<()> {
    if !dir.is_dir() {
        std::fs::create_dir(dir)?;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
        give_to_group(dir, group, 0o2550)?;
    }
    Ok(())
}

fn give_to_group(path: &Path, group: Option<u32>, bits: u32) -> std::io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    std::os::unix::fs::chown(path, None, Some(group))?;
    let mode = std::fs::metadata(path)?.permissions().mode() | bits;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Makes the names at the top of the volume lead through `..data`; those that are not wanted any more go.
fn link_names(dir: &Path, files: &Files) -> std::io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if std::fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(dir)?.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !wanted.contains(name) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn unchanged(current: &Path, files: &Files) -> bool {
    if std::fs::read_link(current).is_err() {
        return false;
    }
    let same = files
        .iter()
        .all(|(path, file)| std::fs::read(current.join(path)).is_ok_and(|present| present == file.bytes));
    same && count_files(current) == files.len()
}

fn count_files(dir: &Path) -> usize {
    std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| if entry.path().is_dir() { count_files(&entry.path()) } else { 1 })
        .sum()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn files(pairs: &[(&str, &str)]) -> Files {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), File::new(v.as_bytes().to_vec(), 0o640))).collect()
    }

    #[test]
    fn files_are_swapped_as_one() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(dir.path().join("sub/b")).unwrap(), "2");
        let mode = std::fs::metadata(dir.path().join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        write(dir.path(), &files(&[("a", "3")]), None).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert!(!dir.path().join("sub").exists());
        // One link, one directory behind it, one file.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn what_a_broken_off_write_left_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let same = files(&[("a", "1")]);
        write(dir.path(), &same, None).unwrap();
        let leave = || {
            std::fs::create_dir(dir.path().join("..2026_01_01_00_00_00.000000001")).unwrap();
            symlink("..2026_01_01_00_00_00.000000001", dir.path().join("..data_tmp")).unwrap();
        };
        for next in [same, files(&[("a", "2")])] {
            leave();
            write(dir.path(), &next, None).unwrap();
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
            assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), next["a"].bytes);
        }
    }

    #[test]
    fn a_write_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        // A file can't be a directory too.
        let wrong = files(&[("a", "1"), ("a/b", "2")]);
        write(dir.path(), &wrong, None).unwrap_err();
        assert!(!is_whole(dir.path()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        write(dir.path(), &files(&[("a", "3")]), None).unwrap();
        write(dir.path(), &wrong, None).unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "3");
    }

    #[test]
    fn files_are_given_to_the_group_and_to_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let mut made = files(&[("sub/a", "1")]);
        made.get_mut("sub/a").unwrap().mode = 0o400;
        made.get_mut("sub/a").unwrap().owner = Some(4242);
        if write(dir.path(), &made, Some(1234)).is_err() {
            // Only root gives files away.
            assert_ne!(rustix::process::geteuid().as_raw(), 0);
            return;
        }
        let found = std::fs::metadata(dir.path().join("sub/a")).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o777), (4242, 1234, 0o440));
        let found = std::fs::metadata(dir.path().join("sub")).unwrap();
        assert_eq!((found.gid(), found.mode() & 0o7777), (1234, 0o2755));
    }

    #[test]
    fn paths_stay_in_the_volume() {
        for good in ["a", "a/b", "a..b/c"] {
            assert!(check_path(good).is_ok(), "{good}");
        }
        for bad in ["", "/etc", "../up", "a/../../b", "..data"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
