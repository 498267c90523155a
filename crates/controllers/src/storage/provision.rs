//! Claims of the cloud's own classes → Volumes, and PersistentVolumes over them.
//!
//! A claim and a Volume are one disk through two doors: the Volume is made in the claim's namespace, so that a project sees it among
//! its own and is charged for it. It lies on one node; the PersistentVolume says which.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use serde_json::{Value, json};
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_exists, run_loop};
use yunfan_resources::claims::{
    BACKING_FINALIZER, BACKS_LABEL, DRIVER, FS_PARAMETER, HANDED_OVER, ONE_POD, PROVISIONED_BY, PROVISIONER,
    SELECTED_NODE, TYPE_PARAMETER, annotation, backing, class_of_claim, modes_of_claim, requested,
    volume_name, waits_for_consumer,
};
use yunfan_resources::storage::{Volume, VolumePhase, VolumeSpec};

use crate::Context;
use crate::pod_writer::reason;

/// Bytes of a GiB, by which Volumes are measured.
const GIB: i64 = 1 << 30;
/// The label by which volumes are tied to nodes.
const HOSTNAME: &str = "kubernetes.io/hostname";
/// The file system of a volume whose class names none.
const FILE_SYSTEM: &str = "ext4";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Claim(ObjectKey),
    Volume(String),
    Backing(ObjectKey),
}

/// Runs the loop.
pub async fn run(context: Context) {
    let informers = &context.informers;
    let (claims, volumes) = (informers.of::<PersistentVolumeClaim>(), informers.of::<PersistentVolume>());
    let (classes, nodes) = (informers.of::<StorageClass>(), informers.of::<Node>());
    let backings = informers.of::<Volume>();
    tokio::join!(claims.synced(), volumes.synced(), classes.synced(), nodes.synced(), backings.synced());
    let queue = Queue::new();
    queue.feed(&claims, |claim| {
        let bound = volume_name(claim).map(|name| Work::Volume(name.to_owned()));
        // Should the claim be gone, what was begun for it must go too.
        let behind = ObjectKey::new(claim.namespace().unwrap_or_default(), provisioned_name(claim));
        [Some(Work::Claim(ObjectKey::of(claim))), Some(Work::Backing(behind)), bound].into_iter().flatten()
    });
    queue.feed(&volumes, |volume| {
        let behind = backing(volume).map(|(namespace, name)| Work::Backing(ObjectKey::new(namespace, name)));
        [Some(Work::Volume(volume.name_any())), behind].into_iter().flatten()
    });
    let all = claims.clone();
    queue.feed(&backings, move |backing| {
        let Some(name) = backing.labels().get(BACKS_LABEL) else { return Vec::new() };
        let waiting = all.in_namespace(&backing.namespace().unwrap_or_default());
        let waiting = waiting.iter().filter(|claim| provisioned_name(claim) == *name);
        let mut work: Vec<_> = waiting.map(|claim| Work::Claim(ObjectKey::of(claim.as_ref()))).collect();
        work.extend([Work::Volume(name.clone()), Work::Backing(ObjectKey::of(backing))]);
        work
    });
    let work = Arc::new(Provisioner { context, claims, volumes, classes, nodes, backings });
    run_loop("volume-provisioner", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

/// The name of the volume that is made for a claim.
pub(super) fn provisioned_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// So many GiB hold so many bytes.
pub(super) fn gib(bytes: i64) -> Option<u32> {
    u32::try_from(bytes.div_euclid(GIB) + i64::from(bytes.rem_euclid(GIB) != 0)).ok().map(|gib| gib.max(1))
}

pub(super) struct Provisioner {
    pub(super) context: Context,
    pub(super) claims: Informer<PersistentVolumeClaim>,
    pub(super) volumes: Informer<PersistentVolume>,
    pub(super) classes: Informer<StorageClass>,
    nodes: Informer<Node>,
    pub(super) backings: Informer<Volume>,
}

/// What is made for a claim.
#[derive(Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) size_gib: u32,
    volume_type: Option<String>,
    file_system: String,
}

impl Provisioner {
    async fn reconcile(&self, work: &Work) -> kube::Result<Option<Duration>> {
        match work {
            Work::Claim(key) => {
                if let Some(claim) = self.claims.get_key(key) {
                    self.provision(&claim).await?;
                }
            }
            Work::Volume(name) => {
                if let Some(volume) = self.volumes.get(None, name).filter(|one| backing(one).is_some()) {
                    self.look_after(&volume).await?;
                }
            }
            Work::Backing(key) => {
                if let Some(backing) = self.backings.get_key(key) {
                    self.sweep(&backing).await?;
                }
            }
        }
        Ok(None)
    }

    /// Makes a volume for a claim that waits for one of ours.
    async fn provision(&self, claim: &PersistentVolumeClaim) -> kube::Result<()> {
        let ordered = annotation(&claim.metadata.annotations, PROVISIONER[0]) == Some(DRIVER);
        let open = volume_name(claim).is_none() && claim.metadata.deletion_timestamp.is_none();
        let name = provisioned_name(claim);
        if !ordered || !open || self.volumes.get(None, &name).is_some() {
            return Ok(());
        }
        let class = self.classes.get(None, class_of_claim(claim));
        let Some(class) = class.filter(|class| class.provisioner == DRIVER) else { return Ok(()) };
        let wanted = match wanted(claim, &class) {
            Ok(wanted) => wanted,
            Err(why) => return self.failed(claim, &class, &why),
        };
        let selected = annotation(&claim.metadata.annotations, SELECTED_NODE).map(str::to_owned);
        if let Some(node) = &selected {
            if self.nodes.get(None, node).is_none() {
                // The Pod must be placed anew.
                return self.forget_node(claim).await;
            }
        } else if waits_for_consumer(&class) {
            return Ok(());
        }
        let Some(backing) = self.backings.get(claim.namespace().as_deref(), &name) else {
            let message =
                format!("External provisioner is provisioning volume for claim \"{}\"", ObjectKey::of(claim));
            self.context.recorder.event(claim, Severity::Normal, "Provisioning", message);
            return self.make_backing(claim, &class, wanted, selected).await;
        };
        if backing.labels().get(BACKS_LABEL) != Some(&name) {
            let why = format!("volume {name} in its namespace was made by someone else");
            return self.failed(claim, &class, &why);
        }
        let status = backing.status.clone().unwrap_or_default();
        match status.phase {
            VolumePhase::Creating => Ok(()),
            VolumePhase::Error => {
                self.failed(claim, &class, status.message.as_deref().unwrap_or("its disk is in error"))
            }
            VolumePhase::Available | VolumePhase::InUse => {
                self.hand_over(&backing).await?;
                let node = backing.spec.node_name.clone().unwrap_or_default();
                let volume = self.volume_for(claim, &class, &wanted, &node);
                match self.context.writer.create(&volume).await {
                    Err(error) if is_exists(&error) => return Ok(()),
                    other => other?,
                };
                let message = format!("Successfully provisioned volume {name}");
                self.context.recorder.event(claim, Severity::Normal, "ProvisioningSucceeded", message);
                Ok(())
            }
        }
    }

    /// Marks what a persistent volume is over: it may hold data from then on.
    pub(super) async fn hand_over(&self, backing: &Volume) -> kube::Result<()> {
        if annotation(&backing.metadata.annotations, HANDED_OVER).is_some() {
            return Ok(());
        }
        let mark = json!({"metadata": {"annotations": {HANDED_OVER: "true"}}});
        let (patch, key) = (of_this(&backing.metadata, mark), ObjectKey::of(backing));
        self.context.writer.merge::<Volume>(key.namespace(), &key.name, &patch).await.map(drop)
    }

    /// Says why there is no volume; nothing is done until something changes.
    fn failed(&self, claim: &PersistentVolumeClaim, class: &StorageClass, why: &str) -> kube::Result<()> {
        let message = format!("failed to provision volume with StorageClass {:?}: {why}", class.name_any());
        self.context.recorder.event(claim, Severity::Warning, "ProvisioningFailed", message);
        Ok(())
    }

    async fn forget_node(&self, claim: &PersistentVolumeClaim) -> kube::Result<()> {
        let patch = of_this(&claim.metadata, json!({"metadata": {"annotations": {SELECTED_NODE: null}}}));
        let (namespace, name) = (claim.namespace(), claim.name_any());
        let writer = &self.context.writer;
        writer.merge::<PersistentVolumeClaim>(namespace.as_deref(), &name, &patch).await.map(drop)
    }

    async fn make_backing(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        wanted: Wanted,
        node: Option<String>,
    ) -> kube::Result<()> {
        let name = provisioned_name(claim);
        let mut volume = Volume::new(
            &name,
            VolumeSpec {
                display_name: Some(claim.name_any()),
                size_gib: wanted.size_gib,
                volume_type: wanted.volume_type,
                node_name: node,
                ..VolumeSpec::default()
            },
        );
        volume.metadata.namespace = claim.namespace();
        volume.metadata.labels = Some([(BACKS_LABEL.to_owned(), name)].into());
        match self.context.writer.create(&volume).await {
            Err(error) if is_exists(&error) => Ok(()),
            Err(error) => {
                self.failed(claim, class, &reason(&error))?;
                Err(error)
            }
            Ok(_) => Ok(()),
        }
    }

    fn volume_for(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
        wanted: &Wanted,
        node: &str,
    ) -> PersistentVolume {
        let (name, namespace) = (provisioned_name(claim), claim.namespace().unwrap_or_default());
        let spec = claim.spec.clone().unwrap_or_default();
        let block = spec.volume_mode.as_deref() == Some("Block");
        let known = self.nodes.get(None, node);
        let label = known.as_ref().and_then(|node| node.labels().get(HOSTNAME)).map_or(node, String::as_str);
        let expression = json!({"key": HOSTNAME, "operator": "In", "values": [label]});
        let mut source = json!({"driver": DRIVER, "volumeHandle": format!("{namespace}/{name}")});
        if !block {
            source["fsType"] = json!(wanted.file_system);
        }
        let spec = json!({
            "capacity": {"storage": format!("{}Gi", wanted.size_gib)},
            "accessModes": spec.access_modes,
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace,
                "name": claim.metadata.name, "uid": claim.metadata.uid,
                "resourceVersion": claim.metadata.resource_version},
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.metadata.name,
            "volumeMode": spec.volume_mode,
            "mountOptions": class.mount_options,
            "csi": source,
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
        });
        PersistentVolume {
            metadata: ObjectMeta {
                name: Some(name),
                annotations: Some([(PROVISIONED_BY.to_owned(), DRIVER.to_owned())].into()),
                finalizers: Some(vec![BACKING_FINALIZER.to_owned()]),
                ..ObjectMeta::default()
            },
            // It is written by us, just above, in the kind's own form.
            spec: serde_json::from_value(spec).ok(),
            ..PersistentVolume::default()
        }
    }
}

/// What to make for a claim of a class of ours, or why it can't be.
pub(super) fn wanted(claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<Wanted, String> {
    let spec = claim.spec.clone().unwrap_or_default();
    let mut modes = modes_of_claim(claim).iter();
    if let Some(mode) = modes.find(|mode| *mode != "ReadWriteOnce" && *mode != ONE_POD) {
        return Err(format!(
            "access mode {mode} is not supported: a volume is used on the node that it lies on"
        ));
    }
    if spec.selector.is_some() {
        return Err("claim Selector is not supported".to_owned());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err("data sources are not supported: volumes begin empty".to_owned());
    }
    let (mut volume_type, mut file_system) = (None, FILE_SYSTEM.to_owned());
    for (key, value) in class.parameters.iter().flatten() {
        match key.as_str() {
            TYPE_PARAMETER => volume_type = Some(value.clone()),
            FS_PARAMETER if value == FILE_SYSTEM => file_system.clone_from(value),
            FS_PARAMETER => return Err(format!("file system {value:?} is not supported, use {FILE_SYSTEM}")),
            other => {
                return Err(format!(
                    "parameter {other:?} is not known, use {TYPE_PARAMETER} or {FS_PARAMETER}"
                ));
            }
        }
    }
    let size_gib = gib(requested(claim).units()).ok_or("it is larger than any volume")?;
    Ok(Wanted { size_gib, volume_type, file_system })
}

/// A patch of the very object that was seen.
pub(super) fn of_this(meta: &ObjectMeta, mut patch: Value) -> Value {
    patch["metadata"]["uid"] = json!(meta.uid);
    patch["metadata"]["resourceVersion"] = json!(meta.resource_version);
    patch
}
