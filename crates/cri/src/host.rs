//! What CRI has no words for and is done on the node: memory-backed volumes and parts of volumes are mounted here, in the mount
//! namespace that the container runtime has too, and are unmounted with the container or the pod.

use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;
use yunfan_runtime::{ContainerId, Mount, Result, RuntimeError, TmpfsVolume, kit};

/// Where it is written down, in a pod's directory, what was mounted for it elsewhere.
const MEMORY: &str = "memory.json";

/// Mounts a pod's memory-backed volumes that are not mounted yet.
pub(crate) fn mount_memory(pod: &Path, volumes: &[TmpfsVolume]) -> Result<()> {
    if volumes.is_empty() {
        return Ok(());
    }
    // Before the first one: whatever is mounted is found again.
    kit::write_json(&pod.join(MEMORY), &volumes, false)?;
    let there = mounts()?;
    for volume in volumes {
        let path = &volume.path;
        let real = std::fs::canonicalize(path).map_err(RuntimeError::io("resolve", path))?;
        if !there.contains(&real) {
            kit::mount_tmpfs_volume(volume)
                .map_err(|reason| RuntimeError::Service { action: "mount of a volume", reason })?;
        }
    }
    Ok(())
}

/// Unmounts a pod's memory-backed volumes, and with them what is in them.
pub(crate) fn unmount_memory(pod: &Path) -> Result<()> {
    let path = pod.join(MEMORY);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(RuntimeError::io("read", &path))?,
    };
    let volumes: Vec<TmpfsVolume> = serde_json::from_slice(&text)
        .map_err(|error| RuntimeError::io("read", &path)(std::io::Error::other(error)))?;
    let there = mounts()?;
    let places = volumes.iter().filter_map(|volume| std::fs::canonicalize(&volume.path).ok());
    places.filter(|place| there.contains(place)).try_for_each(|place| detach(&place))
}

fn detach(at: &Path) -> Result<()> {
    rustix::mount::unmount(at, UnmountFlags::DETACH)
        .map_err(|errno| RuntimeError::io("unmount", at)(errno.into()))
}

/// Where the parts of volumes are mounted that a run of a container has.
fn parts_of(pod: &Path, id: &ContainerId) -> PathBuf {
    pod.join("parts").join(id.local())
}

/// What of the host a mount shows. A part of a volume is bound to a place that containers can't change, so that no link that one puts
/// there meanwhile leads the container runtime out of the volume.
///
/// # Errors
/// Why the part can't be shown.
pub(crate) fn source_of(
    pod: &Path,
    id: &ContainerId,
    number: usize,
    mount: &Mount,
) -> std::result::Result<PathBuf, String> {
    let Some(part) = &mount.sub_path else { return Ok(mount.host_path.clone()) };
    let dir = parts_of(pod, id);
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let at = dir.join(number.to_string());
    kit::bind_part(&mount.host_path, part, &at, true)?;
    Ok(at)
}

/// Lets go of what was mounted for a run.
pub(crate) fn release_parts(pod: &Path, id: &ContainerId) -> Result<()> {
    let dir = parts_of(pod, id);
    unmount_below(&dir)?;
    kit::remove_tree(&dir)
}

/// Unmounts everything that is mounted below a directory: it is about to be removed, and nothing of a volume may go with it.
pub(crate) fn unmount_below(dir: &Path) -> Result<()> {
    let Ok(real) = std::fs::canonicalize(dir) else { return Ok(()) };
    // The last ones first: they may be on top of others.
    for at in mounts()?.iter().rev().filter(|at| at.starts_with(&real)) {
        detach(at)?;
    }
    Ok(())
}

/// Places where something is mounted, in order; twice where two things are.
pub(crate) fn mounts() -> Result<Vec<PathBuf>> {
    const TABLE: &str = "/proc/self/mountinfo";
    let table = std::fs::read(TABLE).map_err(RuntimeError::io("read", TABLE))?;
    Ok(places(&table))
}

/// The fifth field of each line, in which blanks and backslashes are written as octal numbers (`proc(5)`).
fn places(table: &[u8]) -> Vec<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let fields =
        table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let plain = |field: &[u8]| {
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
    };
    fields.map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_in_memory_are_mounted_once_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let (pod, at) = (dir.path().join("pod"), std::fs::canonicalize(dir.path()).unwrap().join("volume"));
        [&pod, &at].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        unmount_memory(&pod).unwrap();
        let volumes = [TmpfsVolume { path: at.clone(), size_bytes: Some(1 << 20), group: None }];
        let there = || mounts().unwrap().iter().filter(|place| **place == at).count();
        for _ in 0..2 {
            mount_memory(&pod, &volumes).unwrap();
            assert_eq!(there(), 1);
        }
        for _ in 0..2 {
            unmount_memory(&pod).unwrap();
            assert_eq!(there(), 0);
        }
    }

    #[test]
    fn places_with_odd_names_are_found() {
        let table =
            b"22 1 0:21 / /sys rw shared:7 - sysfs sysfs rw\n23 1 0:5 / /a\\040b\\134 rw - tmpfs t rw\n";
        assert_eq!(places(table), [PathBuf::from("/sys"), PathBuf::from("/a b\\")]);
        assert!(mounts().unwrap().contains(&PathBuf::from("/proc")));
    }
}
