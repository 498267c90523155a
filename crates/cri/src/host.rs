//! What CRI has no words for and is done on the node: memory-backed volumes and parts of volumes are mounted here, in the mount
//! namespace that the container runtime has too, and are unmounted with the container or the pod.

use std::path::{Path, PathBuf};

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
    let there = kit::mounts()?;
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

/// Directory of a pod in which parts of volumes are mounted.
pub(crate) const PARTS: &str = "parts";

/// Unmounts a pod's memory-backed volumes, and with them what is in them.
pub(crate) fn unmount_memory(pod: &Path) -> Result<()> {
    let path = pod.join(MEMORY);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        read => read.map_err(RuntimeError::io("read", &path))?,
    };
    let volumes: Vec<TmpfsVolume> = serde_json::from_slice(&text)
        .map_err(|error| RuntimeError::io("read", &path)(std::io::Error::other(error)))?;
    let there = kit::mounts()?;
    let places = volumes.iter().filter_map(|volume| std::fs::canonicalize(&volume.path).ok());
    places.filter(|place| there.contains(place)).try_for_each(|place| kit::detach(&place))
}

/// Where the parts of volumes are mounted that a run of a container has.
fn parts_of(pod: &Path, id: &ContainerId) -> PathBuf {
    pod.join(PARTS).join(id.local())
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
    kit::bind_settled(&mount.host_path, part, &at, mount.propagation)?;
    Ok(at)
}

/// Lets go of what was mounted for a run.
pub(crate) fn release_parts(pod: &Path, id: &ContainerId) -> Result<()> {
    let dir = parts_of(pod, id);
    kit::unmount_below(&dir)?;
    kit::remove_tree(&dir)
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
        let there = || kit::mounts().unwrap().iter().filter(|place| **place == at).count();
        for _ in 0..2 {
            mount_memory(&pod, &volumes).unwrap();
            assert_eq!(there(), 1);
        }
        for _ in 0..2 {
            unmount_memory(&pod).unwrap();
            assert_eq!(there(), 0);
        }
    }
}
