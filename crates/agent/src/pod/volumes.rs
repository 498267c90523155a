//! A Pod's volumes as directories below the agent's own.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{ConfigMap, Container, KeyToPath, Pod, Secret, Volume};
use kube::ResourceExt;
use yunfan_client::{Informer, Writer, is_not_found};
use yunfan_runtime::{Mount, TmpfsVolume};

use crate::pod::resources::milli;

/// Why a volume can't be made ready now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("volume {volume}: {kind} {name} does not exist in namespace {namespace}")]
    Missing { volume: String, kind: &'static str, name: String, namespace: String },
    #[error("volume {volume}: {kind} {name} has no key {key}")]
    NoKey { volume: String, kind: &'static str, name: String, key: String },
    #[error("volume {volume}: its type is not supported here; use configMap, secret or emptyDir")]
    Unsupported { volume: String },
    #[error("container {container}: volumeMounts names volume {volume}, which spec.volumes does not have")]
    Unknown { container: String, volume: String },
    #[error("volume {volume}: {path} leaves the volume")]
    Escapes { volume: String, path: String },
    #[error("volume {volume}: {source}")]
    Io { volume: String, source: std::io::Error },
    #[error("volume {volume}: {source}")]
    Api { volume: String, source: Box<kube::Error> },
}

/// The volumes of one Pod: where each is on the node, and which are in memory.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    paths: BTreeMap<String, PathBuf>,
    pub(crate) in_memory: Vec<TmpfsVolume>,
}

/// Makes the volumes ready in `dir`. What is there already is brought up to date.
pub(crate) async fn prepare(
    pod: &Pod,
    dir: &Path,
    writer: &Writer,
    config_maps: &Informer<ConfigMap>,
) -> Result<Volumes, VolumeError> {
    let mut volumes = Volumes::default();
    let namespace = pod.namespace().unwrap_or_default();
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let path = dir.join(&volume.name);
        let io = |source| VolumeError::Io { volume: volume.name.clone(), source };
        if let Some(source) = &volume.config_map {
            let files = config_map_files(volume, source, &namespace, config_maps, writer).await?;
            write_files(volume, &path, &files, source.default_mode.unwrap_or(0o644)).map_err(io)?;
        } else if let Some(source) = &volume.secret {
            let files = secret_files(volume, source, &namespace, writer).await?;
            write_files(volume, &path, &files, source.default_mode.unwrap_or(0o644)).map_err(io)?;
        } else if let Some(source) = &volume.empty_dir {
            std::fs::create_dir_all(&path).map_err(io)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).map_err(io)?;
            if source.medium.as_deref() == Some("Memory") {
                let size =
                    source.size_limit.as_ref().and_then(milli).and_then(|m| u64::try_from(m / 1000).ok());
                volumes.in_memory.push(TmpfsVolume { path: path.clone(), size_bytes: size });
            }
        } else {
            return Err(VolumeError::Unsupported { volume: volume.name.clone() });
        }
        volumes.paths.insert(volume.name.clone(), path);
    }
    Ok(volumes)
}

impl Volumes {
    /// The mounts of a container.
    pub(crate) fn mounts(&self, container: &Container) -> Result<Vec<Mount>, VolumeError> {
        let mut mounts = Vec::new();
        for mount in container.volume_mounts.iter().flatten() {
            let Some(base) = self.paths.get(&mount.name) else {
                return Err(VolumeError::Unknown {
                    container: container.name.clone(),
                    volume: mount.name.clone(),
                });
            };
            let host_path = match mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
                Some(sub_path) => self.sub_path(&mount.name, base, sub_path)?,
                None => base.clone(),
            };
            mounts.push(Mount {
                host_path,
                container_path: PathBuf::from(&mount.mount_path),
                read_only: mount.read_only.unwrap_or(false),
            });
        }
        Ok(mounts)
    }

    fn sub_path(&self, volume: &str, base: &Path, sub_path: &str) -> Result<PathBuf, VolumeError> {
        let escapes = || VolumeError::Escapes { volume: volume.to_owned(), path: sub_path.to_owned() };
        let plain = Path::new(sub_path).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain {
            return Err(escapes());
        }
        let path = base.join(sub_path);
        let io = |source| VolumeError::Io { volume: volume.to_owned(), source };
        if !path.exists() {
            std::fs::create_dir_all(&path).map_err(io)?;
        }
        // A link that the container left in the volume must not lead out of it.
        let real = path.canonicalize().map_err(io)?;
        if real.starts_with(base.canonicalize().map_err(io)?) { Ok(real) } else { Err(escapes()) }
    }
}

type Files = BTreeMap<String, (Vec<u8>, Option<i32>)>;

async fn config_map_files(
    volume: &Volume,
    source: &k8s_openapi::api::core::v1::ConfigMapVolumeSource,
    namespace: &str,
    config_maps: &Informer<ConfigMap>,
    writer: &Writer,
) -> Result<Files, VolumeError> {
    let name = source.name.clone();
    let found = match config_maps.get(Some(namespace), &name) {
        Some(found) => Some(found.as_ref().clone()),
        // Made a moment ago, perhaps, in the same `kubectl apply` as the Pod.
        None => fetch::<ConfigMap>(volume, namespace, &name, writer).await?,
    };
    let Some(object) = found else {
        return absent(volume, "ConfigMap", &name, namespace, source.optional);
    };
    let mut data: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    data.extend(object.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes())));
    data.extend(object.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0)));
    select(volume, "ConfigMap", &name, data, source.items.as_ref(), source.optional)
}

async fn secret_files(
    volume: &Volume,
    source: &k8s_openapi::api::core::v1::SecretVolumeSource,
    namespace: &str,
    writer: &Writer,
) -> Result<Files, VolumeError> {
    let name = source.secret_name.clone().unwrap_or_default();
    // Secrets are read when they are needed, and not kept: no informer holds them all in memory.
    let Some(object) = fetch::<Secret>(volume, namespace, &name, writer).await? else {
        return absent(volume, "Secret", &name, namespace, source.optional);
    };
    let data = object.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect();
    select(volume, "Secret", &name, data, source.items.as_ref(), source.optional)
}

async fn fetch<K: yunfan_client::Watched>(
    volume: &Volume,
    namespace: &str,
    name: &str,
    writer: &Writer,
) -> Result<Option<K>, VolumeError> {
    match writer.get::<K>(Some(namespace), name).await {
        Ok(object) => Ok(Some(object)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(VolumeError::Api { volume: volume.name.clone(), source: Box::new(error) }),
    }
}

fn absent(
    volume: &Volume,
    kind: &'static str,
    name: &str,
    namespace: &str,
    optional: Option<bool>,
) -> Result<Files, VolumeError> {
    if optional == Some(true) {
        return Ok(Files::new());
    }
    Err(VolumeError::Missing {
        volume: volume.name.clone(),
        kind,
        name: name.to_owned(),
        namespace: namespace.to_owned(),
    })
}

/// All keys, or the ones that `items` names, by the path that each gets in the volume.
fn select(
    volume: &Volume,
    kind: &'static str,
    name: &str,
    mut data: BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    optional: Option<bool>,
) -> Result<Files, VolumeError> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.into_iter().map(|(key, bytes)| (key, (bytes, None))).collect());
    };
    let mut files = Files::new();
    for item in items {
        let plain = Path::new(&item.path).components().all(|part| matches!(part, Component::Normal(_)));
        if !plain {
            return Err(VolumeError::Escapes { volume: volume.name.clone(), path: item.path.clone() });
        }
        match data.remove(&item.key) {
            Some(bytes) => {
                files.insert(item.path.clone(), (bytes, item.mode));
            }
            None if optional == Some(true) => {}
            None => {
                return Err(VolumeError::NoKey {
                    volume: volume.name.clone(),
                    kind,
                    name: name.to_owned(),
                    key: item.key.clone(),
                });
            }
        }
    }
    Ok(files)
}

/// Writes a volume's files the way containers expect of Kubernetes: each name is a link through `..data` to a directory of
/// its own, which is swapped in one step, so that a reader never sees half an update.
fn write_files(volume: &Volume, dir: &Path, files: &Files, default_mode: i32) -> std::io::Result<()> {
    use std::os::unix::fs::symlink;
    std::fs::create_dir_all(dir)?;
    let current = dir.join("..data");
    if unchanged(&current, files) {
        return Ok(());
    }
    let stamp = jiff::Timestamp::now().strftime("..%Y_%m_%d_%H_%M_%S.%f").to_string();
    let fresh = dir.join(&stamp);
    for (path, (bytes, mode)) in files {
        let file = fresh.join(path);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(&file, bytes)?;
        let mode = u32::try_from(mode.unwrap_or(default_mode)).unwrap_or(0o644) & 0o777;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode))?;
    }
    std::fs::create_dir_all(&fresh)?;
    let old = std::fs::read_link(&current).ok();
    let swap = dir.join("..data_tmp");
    let _ = std::fs::remove_file(&swap);
    symlink(&stamp, &swap)?;
    std::fs::rename(&swap, &current)?;
    let wanted: std::collections::BTreeSet<&str> =
        files.keys().filter_map(|path| path.split('/').next()).collect();
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
    if let Some(old) = old {
        std::fs::remove_dir_all(dir.join(old))?;
    }
    tracing::debug!(volume = volume.name, files = files.len(), "volume written");
    Ok(())
}

fn unchanged(current: &Path, files: &Files) -> bool {
    if std::fs::read_link(current).is_err() {
        return false;
    }
    let same = files
        .iter()
        .all(|(path, (bytes, _))| std::fs::read(current.join(path)).is_ok_and(|present| present == *bytes));
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
    use super::*;

    fn files(pairs: &[(&str, &str)]) -> Files {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (v.as_bytes().to_vec(), None))).collect()
    }

    #[test]
    fn files_are_swapped_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let volume = Volume { name: "config".into(), ..Volume::default() };
        write_files(&volume, dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), 0o640).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "1");
        assert_eq!(std::fs::read_to_string(dir.path().join("sub/b")).unwrap(), "2");
        let mode = std::fs::metadata(dir.path().join("a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        write_files(&volume, dir.path(), &files(&[("a", "3")]), 0o640).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert!(!dir.path().join("sub").exists());
        // One link, one directory behind it, one file.
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_sub_path_stays_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        let volumes =
            Volumes { paths: [("data".to_owned(), dir.path().to_owned())].into(), in_memory: Vec::new() };
        assert!(volumes.sub_path("data", dir.path(), "in/side").is_ok());
        assert!(volumes.sub_path("data", dir.path(), "../up").is_err());
        assert!(volumes.sub_path("data", dir.path(), "out").is_err());
    }

    #[test]
    fn an_item_that_leaves_the_volume_is_refused() {
        let volume = Volume { name: "v".into(), ..Volume::default() };
        let items =
            vec![KeyToPath { key: "a".into(), path: "../../etc/passwd".into(), ..KeyToPath::default() }];
        let data = BTreeMap::from([("a".to_owned(), b"x".to_vec())]);
        assert!(select(&volume, "ConfigMap", "c", data, Some(&items), None).is_err());
    }
}
