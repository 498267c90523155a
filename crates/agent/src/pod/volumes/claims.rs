//! Pods' volumes that are persistent: from the claim to a directory or device of this node.

use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    NFSVolumeSource, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, Pod, Volume as PodVolume,
};
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Recorder, Severity, Writer};
use yunfan_disks::{Format, VolumeDriver};
use yunfan_resources::claims::{
    PodClaim, backing, capacity, claim_of, is_block, is_bound, is_bound_to, is_pods_own, requested,
};
use yunfan_resources::storage::{Volume, VolumePhase};

use super::attached::{Attached, Source};
use super::{Known, Place, What, host};
use crate::Shared;
use crate::pod::bound::Bound;
use crate::pod::references::References;

/// The condition of a claim whose file system is smaller than its volume.
const TO_GROW: &str = "FileSystemResizePending";

/// What a node knows of persistent volumes.
pub(crate) struct Persistent {
    pub(crate) backings: Informer<Volume>,
    disks: Arc<dyn VolumeDriver>,
    pub(super) attached: Arc<Attached>,
    writer: Writer,
    recorder: Recorder,
    node: String,
}

/// For whom a volume is made ready.
pub(super) struct For<'a> {
    pub(super) pod: &'a Pod,
    pub(super) references: &'a References,
    /// The group that it is given to.
    pub(super) group: Option<u32>,
}

impl Persistent {
    pub(crate) fn new(shared: &Shared, disks: Arc<dyn VolumeDriver>, attached: Arc<Attached>) -> Self {
        Self {
            backings: shared.placed(),
            disks,
            attached,
            writer: shared.writer.clone(),
            recorder: shared.recorder.clone(),
            node: shared.node.clone(),
        }
    }

    /// Waits until the Volumes of this node are known.
    pub(crate) async fn synced(&self) {
        self.backings.synced().await;
    }

    /// The Pods that have volumes of this node.
    pub(crate) fn users(&self) -> Vec<String> {
        self.attached.users()
    }

    /// Takes all volumes from a Pod that has ended.
    pub(crate) async fn release(&self, pod: &str) -> std::io::Result<()> {
        self.attached.release(pod).await
    }

    /// Makes a Pod's volume ready, if it is a persistent one.
    pub(super) async fn make(&self, of: &For<'_>, volume: &PodVolume) -> Result<Option<Known>, What> {
        if let Some(source) = &volume.nfs {
            let key = format!("nfs-{}-{}", of.pod.uid().unwrap_or_default(), volume.name);
            let path = self.attach(of, &key, nfs(source, &[])).await?;
            let read_only = source.read_only == Some(true);
            return Ok(Some(Known { place: Place::Node(path), read_only }));
        }
        match claim_of(&of.pod.name_any(), volume) {
            Some(one) => self.of_claim(of, &one).await.map(Some),
            None => Ok(None),
        }
    }

    async fn of_claim(&self, of: &For<'_>, one: &PodClaim<'_>) -> Result<Known, What> {
        let namespace = of.pod.namespace().unwrap_or_default();
        let refused =
            |why: &str| What::Refused(format!("error processing PVC {namespace}/{}: {why}", one.claim));
        let key = ObjectKey::new(&namespace, &one.claim);
        let Bound { claim, volume } = match of.references.bound(&key) {
            Some(bound) => bound,
            // The Pod has just come.
            None => Bound::read(&self.writer, &key).await.map_err(|error| What::Api(Box::new(error)))?,
        };
        let claim = claim.ok_or_else(|| refused("it is not found"))?;
        if one.template.is_some() && !is_pods_own(of.pod, &claim) {
            return Err(refused("it was not created for the pod"));
        }
        let volume = volume.filter(|volume| is_bound(&claim) && is_bound_to(volume, &claim));
        let volume = volume.ok_or_else(|| refused("PVC is not bound"))?;
        let spec = volume.spec.clone().unwrap_or_default();
        let options = spec.mount_options.clone().unwrap_or_default();
        let read_only = one.read_only || spec.csi.as_ref().is_some_and(|csi| csi.read_only == Some(true));
        let place = if let Some((namespace, name)) = backing(&volume) {
            let place = self.of_backing(of, &volume, namespace, name, (options, read_only)).await?;
            self.grown(&claim, &volume, namespace, name).await?;
            place
        } else if let Some(source) = &spec.nfs {
            let path = self.attach(of, &volume.uid().unwrap_or_default(), nfs(source, &options)).await?;
            Place::Node(path)
        } else {
            self.of_node(of, &volume, &spec, options).await?
        };
        let read_only = read_only || spec.nfs.as_ref().is_some_and(|nfs| nfs.read_only == Some(true));
        Ok(Known { place, read_only })
    }

    async fn of_backing(
        &self,
        of: &For<'_>,
        volume: &PersistentVolume,
        namespace: &str,
        name: &str,
        (mut options, mut read_only): (Vec<String>, bool),
    ) -> Result<Place, What> {
        let behind = self.backings.get(Some(namespace), name);
        let behind =
            behind.ok_or_else(|| What::Refused(format!("volume {namespace}/{name} is not on this node")))?;
        let status = behind.status.clone().unwrap_or_default();
        if let Some(machine) = status.attachments.first() {
            let who = &machine.machine;
            return Err(What::Refused(format!("volume {namespace}/{name} is still in use by machine {who}")));
        }
        let key = behind.uid().unwrap_or_default();
        let disk = self.disks.get(&key).await.map_err(|error| What::Refused(error.to_string()))?;
        let disk = disk.filter(|_| status.phase != VolumePhase::Creating);
        let disk = disk.ok_or_else(|| What::Refused(format!("volume {namespace}/{name} is being made")))?;
        if disk.format != Format::Raw {
            let why = "its disk is qcow2, which only machines can use";
            return Err(What::Refused(format!("volume {namespace}/{name} can't be mounted: {why}")));
        }
        if behind.spec.read_only == Some(true) {
            read_only = true;
            options.push("ro".to_owned());
        }
        if is_block(volume) {
            let device = Source::Device { file: disk.path, read_only };
            return self.attach(of, &key, device).await.map(Place::Device);
        }
        self.attach(of, &key, Source::Disk { file: disk.path, options }).await.map(Place::Node)
    }

    /// A volume that is something of the node's own.
    async fn of_node(
        &self,
        of: &For<'_>,
        volume: &PersistentVolume,
        spec: &PersistentVolumeSpec,
        options: Vec<String>,
    ) -> Result<Place, What> {
        match own(spec, is_block(volume))? {
            Own::Place(place) => Ok(place),
            Own::Local(source) => {
                let key = format!("local-{}", volume.uid().unwrap_or_default());
                let source = match source {
                    Local::Directory(path) => Source::Directory { path },
                    Local::Device(device, kind) => Source::Local { device, kind, options },
                };
                self.attach(of, &key, source).await.map(Place::Node)
            }
        }
    }

    async fn attach(&self, of: &For<'_>, key: &str, source: Source) -> Result<PathBuf, What> {
        let security = of.pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let policy = security.and_then(|security| security.fs_group_change_policy.as_deref());
        // Servers give files to whom they want.
        let group = of.group.filter(|_| !matches!(source, Source::Nfs { .. } | Source::Device { .. }));
        let group = group.map(|group| (group, policy == Some("OnRootMismatch")));
        self.attached.attach(key, &of.pod.uid().unwrap_or_default(), &source, group).await
    }

    /// Makes a claim's file system as large as its volume has become, and says so.
    async fn grown(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
        namespace: &str,
        name: &str,
    ) -> Result<(), What> {
        let conditions = claim.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let waits = conditions.into_iter().any(|condition| condition.type_ == TO_GROW);
        // The volume's own size is written last.
        if !waits || capacity(volume) < requested(claim) {
            return Ok(());
        }
        let Some(behind) = self.backings.get(Some(namespace), name) else { return Ok(()) };
        let key = behind.uid().unwrap_or_default();
        let disk = self.disks.get(&key).await.map_err(|error| What::Refused(error.to_string()))?;
        let Some(disk) = disk else { return Ok(()) };
        if let Err(why) = self.attached.grow(&key, &disk.path).await {
            // What is there goes on being used; before it is mounted the next time it is made larger in any case.
            let message =
                format!("MountVolume.NodeExpandVolume failed for volume {:?}: {why}", volume.name_any());
            self.recorder.event(claim, Severity::Warning, "FileSystemResizeFailed", message);
            return Ok(());
        }
        let size = volume.spec.as_ref().and_then(|spec| spec.capacity.clone());
        let patch = json!({"metadata": {"uid": claim.metadata.uid}, "status": {"capacity": size, "conditions": null}});
        let at = ObjectKey::of(claim);
        let written =
            self.writer.merge_status::<PersistentVolumeClaim>(at.namespace(), &at.name, &patch).await;
        written.map_err(|error| What::Api(Box::new(error)))?;
        let message = format!(
            "MountVolume.NodeExpandVolume succeeded for volume {:?} {}",
            volume.name_any(),
            self.node
        );
        self.recorder.event(claim, Severity::Normal, "FileSystemResizeSuccessful", message);
        Ok(())
    }
}

fn nfs(source: &NFSVolumeSource, options: &[String]) -> Source {
    let mut options = options.to_vec();
    if source.read_only == Some(true) {
        options.push("ro".to_owned());
    }
    Source::Nfs { from: format!("{}:{}", source.server, source.path), options }
}

/// What of the node's own a volume is.
#[derive(Debug)]
enum Own {
    Place(Place),
    /// What is given to the Pod's group.
    Local(Local),
}

#[derive(Debug)]
enum Local {
    Directory(PathBuf),
    /// A device with a file system of this kind, which is made where there is nothing yet.
    Device(PathBuf, String),
}

/// What a volume is of the node's own, once it is seen to be there.
fn own(spec: &PersistentVolumeSpec, block: bool) -> Result<Own, What> {
    if let Some(source) = &spec.host_path {
        let path = PathBuf::from(&source.path);
        let kind = source.type_.as_deref().unwrap_or_default();
        if block {
            host::check(&path, "BlockDevice")?;
            return Ok(Own::Place(Place::Device(path)));
        }
        // Binders of such volumes expect the directory to be made.
        host::check(&path, if kind.is_empty() { "DirectoryOrCreate" } else { kind })?;
        return Ok(Own::Place(Place::Node(path)));
    }
    let Some(source) = &spec.local else {
        let why = "volumes of this type are not supported on this node";
        return Err(What::Refused(why.to_owned()));
    };
    let path = PathBuf::from(&source.path);
    if block {
        host::check(&path, "BlockDevice")?;
        return Ok(Own::Place(Place::Device(path)));
    }
    if host::check(&path, "BlockDevice").is_ok() {
        let kind = source.fs_type.clone().filter(|kind| !kind.is_empty());
        return Ok(Own::Local(Local::Device(path, kind.unwrap_or_else(|| "ext4".to_owned()))));
    }
    host::check(&path, "Directory")?;
    Ok(Own::Local(Local::Directory(path)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value};

    use super::*;

    fn place(spec: Value, block: bool) -> Result<Own, String> {
        own(&from_value(spec).unwrap(), block).map_err(|what| what.to_string())
    }

    #[test]
    fn what_is_the_nodes_own_must_be_what_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let (there, new) = (dir.path().join("there"), dir.path().join("new"));
        std::fs::create_dir(&there).unwrap();
        let local = |path: &std::path::Path| json!({"local": {"path": path}});
        assert!(
            matches!(place(local(&there), false), Ok(Own::Local(Local::Directory(path))) if path == there)
        );
        assert!(place(local(&new), false).unwrap_err().contains("is not a directory"));
        assert!(place(local(&there), true).unwrap_err().contains("is not a block device"));
        let host = json!({"hostPath": {"path": new, "type": ""}});
        assert!(matches!(place(host.clone(), false), Ok(Own::Place(Place::Node(_)))) && new.is_dir());
        assert!(place(host, true).unwrap_err().contains("is not a block device"));
        let other = json!({"csi": {"driver": "other.example", "volumeHandle": "x"}});
        assert_eq!(place(other, false).unwrap_err(), "volumes of this type are not supported on this node");
    }

    #[test]
    fn an_nfs_volume_is_a_directory_of_its_server() {
        let source: NFSVolumeSource =
            from_value(json!({"server": "files", "path": "/x", "readOnly": true})).unwrap();
        let Source::Nfs { from, options } = nfs(&source, &["vers=4".to_owned()]) else { panic!("NFS") };
        assert_eq!((from.as_str(), options), ("files:/x", vec!["vers=4".to_owned(), "ro".to_owned()]));
    }
}
