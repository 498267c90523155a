//! A Pod's volumes as directories and files of the node.
//!
//! [`claims`] and [`attached`] are for volumes that outlive Pods; [`files`] swaps what is made from objects, [`sources`] reads those objects, [`memory`] is where
//! the secret ones are, [`host`] looks at what the node has, [`mounts`] says what a container gets of it all.

mod attached;
mod claims;
mod files;
mod group;
mod host;
mod huge;
mod memory;
mod mounts;
mod nfs;
mod sources;
mod tools;
mod trust;
mod usage;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use yunfan_client::Writer;
use yunfan_runtime::kit::remove_dir;
use yunfan_runtime::{TmpfsVolume, disk_usage};

pub(crate) use attached::Attached;
pub(crate) use claims::Persistent;
pub(crate) use memory::Memory;
pub(crate) use mounts::MountError;
pub(crate) use tools::release_loops;
pub(crate) use usage::VolumeMount;

use self::files::Files;
use super::certificates::Certificates;
use super::downward::Allocatable;
use super::references::References;
use super::tokens::Tokens;
use crate::pages;
use crate::pod::containers::sooner;
use crate::pod::resources::{memory_limit, milli};

/// How soon what could not be brought up to date is looked at again.
const REFRESH: Duration = Duration::from_secs(20);

/// Why a volume can't be made ready now.
#[derive(Debug, thiserror::Error)]
#[error("MountVolume.SetUp failed for volume \"{volume}\" : {what}")]
pub(crate) struct VolumeError {
    pub(crate) volume: String,
    pub(crate) what: What,
}

/// What is wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub(crate) enum What {
    #[error("{0}")]
    Refused(String),
    #[error("invalid path: {0:?} leaves the volume")]
    Escapes(String),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Api(Box<kube::Error>),
}

/// The volumes of one Pod: where each is on the node, and which are in memory.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    known: BTreeMap<String, Known>,
    pub(crate) in_memory: Vec<TmpfsVolume>,
    /// When to prepare them again, if something may change that nobody tells of.
    pub(crate) again: Option<Duration>,
    /// Those that could not be brought up to date: they are as they were.
    pub(crate) stale: Vec<VolumeError>,
    /// What the files take that are in the node's memory, bytes.
    taken: u64,
}

impl Volumes {
    /// A directory by which the node sees what is in a volume. What older agents' Pods have in memory is mounted where their containers are: in
    /// the mounts of their shims, or on the node itself where they have none.
    ///
    /// # Errors
    /// What keeps it from being looked into.
    pub(crate) fn directory(&self, name: &str, shim: Option<i32>) -> Result<PathBuf, String> {
        match self.known.get(name).map(|known| &known.place) {
            Some(Place::Node(path)) => {
                let in_memory = self.in_memory.iter().any(|volume| volume.path == *path);
                let below = path.strip_prefix("/").unwrap_or(path);
                Ok(match shim.filter(|_| in_memory) {
                    Some(shim) => Path::new("/proc").join(shim.to_string()).join("root").join(below),
                    None => path.clone(),
                })
            }
            Some(_) => Err(format!("volume {name:?} is no directory of the node")),
            None => Err(format!("cannot find the volume {name:?}")),
        }
    }
}

/// One volume that is ready.
#[derive(Debug, Clone)]
struct Known {
    place: Place,
    /// Containers never write to what is made from objects.
    read_only: bool,
}

/// Where a volume's content is.
#[derive(Debug, Clone)]
enum Place {
    Node(PathBuf),
    /// A block device of the node.
    Device(PathBuf),
    /// In an image, by its name.
    Image(String),
}

/// What volumes are made from.
pub(crate) struct Maker<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) namespace: &'a str,
    pub(crate) writer: &'a Writer,
    pub(in crate::pod) tokens: &'a Tokens,
    pub(in crate::pod) certificates: &'a Certificates,
    pub(crate) persistent: &'a Persistent,
    pub(in crate::pod) references: &'a References,
    pub(crate) memory: &'a Memory,
    pub(crate) allocatable: &'a Allocatable,
    /// The group that volumes are given to.
    pub(crate) fs_group: Option<u32>,
    /// The user of all containers, if they have one in common.
    pub(crate) one_user: Option<u32>,
}

impl Maker<'_> {
    /// Makes the volumes ready in `dir`. What is there already is brought up to date.
    pub(crate) async fn prepare(&self, dir: &Path) -> Result<Volumes, VolumeError> {
        let mut volumes = Volumes::default();
        for volume in self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let made = self.make(volume, dir, &mut volumes).await;
            let known = made.map_err(|what| VolumeError { volume: volume.name.clone(), what })?;
            volumes.known.insert(volume.name.clone(), known);
        }
        Ok(volumes)
    }

    async fn make(&self, volume: &Volume, dir: &Path, volumes: &mut Volumes) -> Result<Known, What> {
        let path = dir.join(&volume.name);
        if let Some(source) = &volume.host_path {
            let path = PathBuf::from(&source.path);
            host::check(&path, source.type_.as_deref().unwrap_or_default())?;
            return Ok(Known { place: Place::Node(path), read_only: false });
        }
        if let Some(source) = &volume.empty_dir {
            let place = Place::Node(self.empty_dir(path, &volume.name, source, volumes).await?);
            return Ok(Known { place, read_only: false });
        }
        if let Some(source) = &volume.image {
            let reference = source.reference.clone().unwrap_or_default();
            return Ok(Known { place: Place::Image(reference), read_only: true });
        }
        let whose = claims::For { pod: self.pod, references: self.references, group: self.fs_group };
        if let Some(known) = self.persistent.make(&whose, volume).await? {
            return Ok(known);
        }
        // Containers that were started before there was such a memory have the volume on the disk mounted.
        let in_memory = volume.config_map.is_none() && !files::is_whole(&path);
        let path = match in_memory {
            true => self.memory.of_pod(&self.pod.uid().unwrap_or_default()).await?.join(&volume.name),
            false => path,
        };
        let before = volumes.taken;
        let files = self.files(volume, volumes).await;
        let written = files.and_then(|files| {
            if in_memory {
                self.take(volumes, memory::taken(&files))?;
            }
            Ok(files::write(&path, &files, self.fs_group)?)
        });
        match written {
            Ok(()) => {}
            // Who has its files goes on with them, as with kubelet.
            Err(what) if files::is_whole(&path) => {
                if in_memory {
                    volumes.taken = before.saturating_add(disk_usage(&path).bytes);
                }
                volumes.again = sooner(volumes.again, Some(REFRESH));
                volumes.stale.push(VolumeError { volume: volume.name.clone(), what });
            }
            Err(what) => return Err(what),
        }
        Ok(Known { place: Place::Node(path), read_only: true })
    }

    /// Counts what is to be in the node's memory, and refuses it where the Pod, or all of its namespace, would have too much there.
    fn take(&self, volumes: &mut Volumes, bytes: u64) -> Result<(), What> {
        let taken = volumes.taken.saturating_add(bytes);
        self.memory.take(&self.pod.uid().unwrap_or_default(), self.namespace, taken)?;
        volumes.taken = taken;
        Ok(())
    }

    /// The files of a volume that is made from objects.
    async fn files(&self, volume: &Volume, volumes: &mut Volumes) -> Result<Files, What> {
        if let Some(source) = &volume.config_map {
            return sources::of_config_map(self, source).await;
        }
        if let Some(source) = &volume.secret {
            return sources::of_secret(self, source).await;
        }
        if let Some(source) = &volume.downward_api {
            return sources::of_downward(self, source.items.as_ref(), source.default_mode);
        }
        if let Some(source) = &volume.projected {
            let (files, renew) = sources::of_projected(self, &volume.name, source).await?;
            volumes.again = sooner(volumes.again, renew);
            return Ok(files);
        }
        Err(What::Refused("volumes of this type are not supported on this node".to_owned()))
    }

    async fn empty_dir(
        &self,
        path: PathBuf,
        name: &str,
        source: &EmptyDirVolumeSource,
        volumes: &mut Volumes,
    ) -> Result<PathBuf, What> {
        let medium = source.medium.as_deref().unwrap_or_default();
        let in_memory = match medium {
            "" => false,
            "Memory" => true,
            other if other.starts_with(pages::MEDIUM) => {
                let page_bytes = huge::page_size(self.pod, other)?;
                let uid = self.pod.uid().unwrap_or_default();
                return Ok(self.memory.huge_pages(&uid, name, page_bytes, self.fs_group).await?);
            }
            other => return Err(What::Refused(format!("emptyDir medium {other:?} is not supported here"))),
        };
        let size_bytes = memory_size(self.pod, source, self.allocatable);
        // Pods that began with an older agent have a directory here, on which their shims have mounted theirs.
        if in_memory && path.is_dir() {
            volumes.in_memory.push(TmpfsVolume { path: path.clone(), size_bytes, group: self.fs_group });
        } else if in_memory {
            let uid = self.pod.uid().unwrap_or_default();
            return Ok(self.memory.empty_dir(&uid, name, size_bytes, self.fs_group).await?);
        }
        if !path.is_dir() {
            std::fs::create_dir_all(&path)?;
            if self.fs_group.is_some() {
                std::os::unix::fs::chown(&path, None, self.fs_group)?;
            }
            // Not before the owner: a change of owner takes bits away.
            let mode = if self.fs_group.is_some() { 0o2777 } else { 0o777 };
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
        }
        Ok(path)
    }
}

/// The names in a directory; none where it can't be read.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Removes a directory with all that is in it; fine if it is not there.
///
/// # Errors
/// The file system's.
pub(crate) async fn remove_all(dir: &Path) -> std::io::Result<()> {
    let dir = dir.to_owned();
    tokio::task::spawn_blocking(move || remove_dir(&dir)).await.map_err(std::io::Error::other)?
}

/// How large an emptyDir in memory may grow, bytes: what it says itself, or all of its Pod's memory, or all that the node has for Pods
/// (Kubernetes' documentation, "emptyDir", and KEP-1967).
fn memory_size(pod: &Pod, source: &EmptyDirVolumeSource, allocatable: &Allocatable) -> Option<u64> {
    let bytes = |quantity: &Quantity| u64::try_from(milli(quantity)? / 1000).ok();
    let node = allocatable.get("memory").and_then(bytes);
    let all = [source.size_limit.as_ref().and_then(bytes), memory_limit(pod), node];
    all.into_iter().flatten().filter(|bytes| *bytes > 0).min()
}

/// The group that a Pod's volumes are given to.
pub(crate) fn fs_group(pod: &Pod) -> Option<u32> {
    let group = pod.spec.as_ref()?.security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// The user that all containers of a Pod run as, if the Pod says so for all and there is one.
pub(crate) fn one_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|security| security.run_as_user);
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut users = all.map(|container| {
        container.security_context.as_ref().and_then(|security| security.run_as_user).or(of_pod)
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_in_memory_is_seen_by_way_of_the_shim() {
        let mut volumes = Volumes::default();
        for name in ["disk", "memory"] {
            let place = Place::Node(Path::new("/pods").join(name));
            volumes.known.insert(name.to_owned(), Known { place, read_only: false });
        }
        let place = Place::Image("i".to_owned());
        volumes.known.insert("image".to_owned(), Known { place, read_only: true });
        volumes.in_memory.push(TmpfsVolume { path: "/pods/memory".into(), size_bytes: None, group: None });
        assert_eq!(volumes.directory("disk", Some(7)), Ok("/pods/disk".into()));
        assert_eq!(volumes.directory("memory", Some(7)), Ok("/proc/7/root/pods/memory".into()));
        assert_eq!(volumes.directory("memory", None), Ok("/pods/memory".into()));
        assert!(volumes.directory("image", None).is_err() && volumes.directory("none", None).is_err());
    }

    #[test]
    fn volumes_in_memory_have_an_end() {
        let size = |containers: serde_json::Value, limit: Option<&str>, node: Option<&str>| {
            let pod: Pod = serde_json::from_value(json!({"spec": {"containers": containers}})).unwrap();
            let size_limit = limit.map(|limit| Quantity(limit.to_owned()));
            let source = EmptyDirVolumeSource { medium: Some("Memory".to_owned()), size_limit, mode: None };
            let node = node.map(|node| ("memory".to_owned(), Quantity(node.to_owned())));
            memory_size(&pod, &source, &node.into_iter().collect()).map(|bytes| bytes >> 20)
        };
        let of = |limit: &str| {
            json!([{"name": "c", "resources": {"limits": {"memory": limit}}}, {"name": "d",
            "resources": {"limits": {"memory": "1Mi"}}}])
        };
        assert_eq!(size(json!([]), None, None), None);
        assert_eq!(size(json!([{"name": "c"}]), None, Some("8Mi")), Some(8));
        assert_eq!(size(json!([{"name": "c"}]), Some("9Mi"), Some("8Mi")), Some(8));
        assert_eq!(size(of("3Mi"), None, Some("8Mi")), Some(4));
        assert_eq!(size(of("3Mi"), Some("2Mi"), Some("8Mi")), Some(2));
        assert_eq!(size(of("3Mi"), Some("0"), Some("8Mi")), Some(4));
    }

    #[test]
    fn a_user_that_all_containers_share_is_found() {
        let user =
            |spec: serde_json::Value| one_user(&serde_json::from_value(json!({"spec": spec})).unwrap());
        let runs = |user: i64| json!({"name": "c", "securityContext": {"runAsUser": user}});
        assert_eq!(user(json!({"containers": [runs(5), runs(5)]})), Some(5));
        assert_eq!(user(json!({"containers": [runs(5), runs(6)]})), None);
        assert_eq!(user(json!({"containers": [runs(5), {"name": "d"}]})), None);
        let of_pod = json!({"containers": [{"name": "c"}], "securityContext": {"runAsUser": 7}});
        assert_eq!(user(of_pod), Some(7));
    }
}
