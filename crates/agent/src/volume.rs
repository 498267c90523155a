//! Volumes of this node: from the object to a disk, and from what machines have to the object's status.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};
use yunfan_disks::{Disk, VolumeDriver};
use yunfan_hypervisor::{Error as HypervisorError, Hypervisor, VmState};
use yunfan_resources::compute::{VirtualMachine, VolumeAttachment};
use yunfan_resources::image::{Image, referred};
use yunfan_resources::names::VOLUME_FINALIZER;
use yunfan_resources::storage::{Attachment, Volume, VolumePhase, VolumeSnapshot, VolumeStatus};

use crate::Shared;
use crate::copies::{Still, waits};
use crate::images::{ImageError, Images};
use crate::pod::Attached;
use crate::vm::MachineError;

/// Bytes of a GiB.
pub(crate) const GIB: u64 = 1 << 30;
/// Volumes that are worked on at one time.
const WORKERS: usize = 4;
/// How long to wait before trying again what other objects have to come for.
const AGAIN: Duration = Duration::from_secs(1);
/// How long to wait after something went wrong.
const AFTER_FAILURE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Volume(ObjectKey),
    Left(String),
}

/// The loop that looks after volumes.
pub(crate) struct Volumes {
    shared: Shared,
    volumes: Informer<Volume>,
    machines: Informer<VirtualMachine>,
    pub(crate) snapshots: Informer<VolumeSnapshot>,
    pub(crate) hypervisor: Arc<dyn Hypervisor>,
    images: Arc<Images>,
    pub(crate) disks: Arc<dyn VolumeDriver>,
    pub(crate) snapshot_disks: Arc<dyn VolumeDriver>,
    pub(crate) attached: Arc<Attached>,
    pub(crate) still: Still,
    queue: Queue<Work>,
}

/// Why a volume can't be brought further now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error("{0}")]
    Image(#[from] ImageError),
    #[error("{0}")]
    Disk(#[from] yunfan_disks::Error),
    #[error("{0}")]
    Hypervisor(#[from] yunfan_hypervisor::Error),
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Lost(String),
}

impl Volumes {
    pub(crate) fn new(
        shared: Shared,
        hypervisor: Arc<dyn Hypervisor>,
        images: Arc<Images>,
        (disks, snapshot_disks): (Arc<dyn VolumeDriver>, Arc<dyn VolumeDriver>),
        attached: Arc<Attached>,
    ) -> Arc<Self> {
        let (volumes, machines, snapshots) = (shared.placed(), shared.placed(), shared.placed());
        Arc::new(Self {
            shared,
            volumes,
            machines,
            snapshots,
            hypervisor,
            images,
            disks,
            snapshot_disks,
            attached,
            still: Still::default(),
            queue: Queue::new(),
        })
    }

    /// The Volume of this name, if it is on this node.
    pub(crate) fn of_name(&self, namespace: Option<&str>, name: &str) -> Option<Arc<Volume>> {
        self.volumes.get(namespace, name)
    }

    /// Waits until the node's volumes are known.
    pub(crate) async fn synced(&self) {
        self.volumes.synced().await;
    }

    /// The volumes of a namespace that are on this node.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<Volume>> {
        self.volumes.in_namespace(namespace)
    }

    /// Has a volume looked at: a machine got it, or let go of it.
    pub(crate) fn look_at(&self, key: ObjectKey) {
        self.queue.add(Work::Volume(key));
    }

    /// The Volume that a machine wishes for.
    pub(crate) fn of_wish(
        &self,
        machine: &VirtualMachine,
        wish: &VolumeAttachment,
    ) -> Result<Arc<Volume>, MachineError> {
        let volume = self.volumes.get(machine.namespace().as_deref(), &wish.volume);
        volume.ok_or_else(|| MachineError::Waits(format!("volume {} is not on this node", wish.volume)))
    }

    /// The Volume that a machine wishes for and its disk, once it is on this node and nobody else has it.
    pub(crate) async fn disk_for(
        &self,
        machine: &VirtualMachine,
        wish: &VolumeAttachment,
    ) -> Result<(Arc<Volume>, Disk), MachineError> {
        let volume = self.of_wish(machine, wish)?;
        let (name, status) = (volume.name_any(), volume.status.clone().unwrap_or_default());
        if status.phase == VolumePhase::Error {
            let why = status.message.unwrap_or_default();
            return Err(MachineError::Waits(format!("volume {name} is not usable: {why}")));
        }
        let others = |attachment: &&Attachment| Some(&attachment.uid) != machine.metadata.uid.as_ref();
        if let Some(other) = status.attachments.iter().find(others) {
            return Err(MachineError::Waits(format!("volume {name} is still in use by {}", other.machine)));
        }
        if self.still.is_held(&volume.uid().unwrap_or_default()) {
            return Err(MachineError::Waits(format!("volume {name} is being copied or extended")));
        }
        let disk = self.disks.get(&volume.uid().unwrap_or_default()).await?;
        let disk = disk.filter(|_| status.phase != VolumePhase::Creating);
        Ok((volume, disk.ok_or_else(|| MachineError::Waits(format!("volume {name} is being made")))?))
    }

    /// Looks after volumes until dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(
            self.volumes.synced(),
            self.machines.synced(),
            self.snapshots.synced(),
            self.images.synced()
        );
        self.queue.feed(&self.volumes, |volume| {
            [Some(Work::Volume(ObjectKey::of(volume))), volume.uid().map(Work::Left)].into_iter().flatten()
        });
        let volumes = self.volumes.clone();
        self.queue.feed(&self.machines, move |machine| {
            let uid = machine.uid().unwrap_or_default();
            let named = |volume: &Volume| {
                let status = volume.status.iter().flat_map(|status| &status.attachments);
                volume.wish_of(machine).is_some() || status.into_iter().any(|one| one.uid == uid)
            };
            let all = volumes.in_namespace(&machine.namespace().unwrap_or_default());
            let touched = all.iter().filter(|volume| named(volume));
            touched.map(|volume| Work::Volume(ObjectKey::of(volume.as_ref()))).collect::<Vec<_>>()
        });
        let volumes = self.volumes.clone();
        self.queue.feed(&self.shared.informers.of::<Image>(), move |image| {
            let (within, name) = (image.namespace().unwrap_or_default(), image.name_any());
            let is_child = |volume: &Volume| {
                let own = volume.namespace().unwrap_or_default();
                volume.spec.image.as_ref().is_some_and(|of| referred(&own, of) == (&within, &name))
            };
            let all = volumes.list();
            let waiting = all.iter().filter(|volume| is_child(volume));
            waiting.map(|volume| Work::Volume(ObjectKey::of(volume.as_ref()))).collect::<Vec<_>>()
        });
        match self.disks.list().await {
            Ok(disks) => disks.into_iter().for_each(|disk| self.queue.add(Work::Left(disk.owner))),
            Err(error) => tracing::warn!(%error, "cannot list the volumes of this node"),
        }
        let work = self.clone();
        run_loop("volume", self.queue.clone(), WORKERS, move |key| {
            let work = work.clone();
            async move { work.reconcile(&key).await }
        })
        .await;
    }

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>, VolumeError> {
        match work {
            Work::Volume(key) => match self.volumes.get_key(key) {
                Some(volume) if volume.spec.node_name.as_ref() == Some(&self.shared.node) => {
                    self.reconcile_volume(&volume).await
                }
                _ => Ok(None),
            },
            Work::Left(uid) => {
                let there = self.volumes.list().iter().any(|v| v.metadata.uid.as_deref() == Some(uid));
                if !there && self.attached.is_used(uid) {
                    return Ok(Some(AGAIN));
                }
                if !there {
                    self.disks.remove(uid).await?;
                }
                Ok(None)
            }
        }
    }

    async fn reconcile_volume(&self, volume: &Volume) -> Result<Option<Duration>, VolumeError> {
        let wish = self.wishing_machine(volume);
        if volume.metadata.deletion_timestamp.is_some() {
            // A machine that wants it is going too: it wakes us when it is gone.
            if wish.is_none() && volume.finalizers().iter().any(|f| f == VOLUME_FINALIZER) {
                let pods = self.attached.is_used(&volume.uid().unwrap_or_default());
                if pods || !self.attachments(volume, None).await?.is_empty() {
                    // A guest is slow to let go of it: its disk must not go from under it.
                    return Ok(Some(AGAIN));
                }
                self.disks.remove(&volume.uid().unwrap_or_default()).await?;
                self.shared.writer.remove_finalizer(volume, VOLUME_FINALIZER).await?;
            }
            return Ok(None);
        }
        match self.keep(volume, wish.as_deref()).await {
            Ok(status) => {
                self.write(volume, status).await?;
                Ok(None)
            }
            Err(VolumeError::Api(error)) => Err(error.into()),
            Err(VolumeError::Image(ImageError::Waits(message))) => {
                let status = VolumeStatus { message: Some(message), ..self.status_of(volume) };
                self.write(volume, status).await?;
                Ok(Some(AGAIN))
            }
            // The disk is as it was; a machine's monitor that did not answer may do so in a moment.
            Err(VolumeError::Hypervisor(error)) => {
                tracing::info!(volume = volume.name_any(), %error, "a volume is looked at again");
                // What the monitor refuses now it may do next: to write that down would wake all who look after this volume and its machine.
                if !matches!(error, HypervisorError::Busy { .. } | HypervisorError::Refused { .. }) {
                    let status = VolumeStatus { message: Some(error.to_string()), ..self.status_of(volume) };
                    self.write(volume, status).await?;
                }
                Ok(Some(AGAIN))
            }
            Err(error) => {
                tracing::warn!(volume = volume.name_any(), %error, "a volume could not be brought up");
                let message = error.to_string();
                let before = self.status_of(volume);
                if before.message.as_ref() != Some(&message) {
                    self.shared.recorder.event(volume, Severity::Warning, "FailedVolume", message.clone());
                }
                let status = VolumeStatus { phase: VolumePhase::Error, message: Some(message), ..before };
                self.write(volume, status).await?;
                Ok(Some(AFTER_FAILURE))
            }
        }
    }

    /// Makes the disk, makes it as large as it should be, and finds out who has it.
    async fn keep(
        &self,
        volume: &Volume,
        machine: Option<&VirtualMachine>,
    ) -> Result<VolumeStatus, VolumeError> {
        // Before anything of it is on the node, so that a deletion always comes by us.
        self.shared.writer.add_finalizer(volume, VOLUME_FINALIZER).await?;
        let disk = self.disk_of(volume).await?;
        let attachments = self.attachments(volume, machine).await?;
        let size = u64::from(volume.spec.size_gib) * GIB;
        if disk.size_bytes < size {
            self.grow(volume, attachments.first(), size).await?;
        }
        let phase = if attachments.is_empty() { VolumePhase::Available } else { VolumePhase::InUse };
        Ok(VolumeStatus {
            phase,
            attachments,
            size_gib: Some(volume.spec.size_gib),
            message: None,
            ..self.status_of(volume)
        })
    }

    async fn disk_of(&self, volume: &Volume) -> Result<Disk, VolumeError> {
        let uid = volume.uid().unwrap_or_default();
        if let Some(disk) = self.disks.get(&uid).await? {
            return Ok(disk);
        }
        if self.status_of(volume).size_gib.is_some() {
            // An empty one in its place would look like the data was deleted on purpose.
            return Err(VolumeError::Lost("its data is no longer on the node".to_owned()));
        }
        if let Some(disk) = self.copied(volume).await? {
            return Ok(disk);
        }
        let size = u64::from(volume.spec.size_gib) * GIB;
        let Some(name) = &volume.spec.image else { return Ok(self.disks.create_empty(&uid, size).await?) };
        let image = self.images.ready(volume.namespace().as_deref(), name).await?;
        if image.virtual_size_bytes > size {
            let need = image.virtual_size_bytes.div_ceil(GIB);
            let message = format!("image {name} needs {need} GiB, the volume has {}", volume.spec.size_gib);
            return Err(ImageError::Unusable(message).into());
        }
        Ok(self.disks.create(&uid, &image.id, size).await?)
    }

    async fn grow(&self, volume: &Volume, user: Option<&Attachment>, size: u64) -> Result<(), VolumeError> {
        let uid = volume.uid().unwrap_or_default();
        let running = match user {
            Some(user) => self.running(&user.uid).await?.then_some(user),
            None => None,
        };
        match running {
            None => {
                let held = self.still.hold(&uid);
                let _held =
                    held.ok_or_else(|| waits("it is being copied: it is extended then".to_owned()))?;
                self.disks.grow(&uid, size).await?
            }
            Some(user) => {
                let machine = self.machines.get(volume.namespace().as_deref(), &user.machine);
                let boots =
                    machine.is_some_and(|machine| volume.wish_of(&machine).is_some_and(|wish| wish.boot));
                self.hypervisor.grow(&user.uid, (!boots).then_some(uid.as_str()), size).await?;
                self.disks.note_size(&uid, size).await?
            }
        };
        let message = format!("Extended to {} GiB", volume.spec.size_gib);
        self.shared.recorder.event(volume, Severity::Normal, "Extended", message);
        Ok(())
    }

    /// Who has it: the machine that wishes for it and got it, or the one that has not let go of it.
    async fn attachments(
        &self,
        volume: &Volume,
        machine: Option<&VirtualMachine>,
    ) -> Result<Vec<Attachment>, VolumeError> {
        let mut candidates = self.status_of(volume).attachments;
        if let Some(machine) = machine.filter(|machine| machine.spec.node_name == volume.spec.node_name) {
            let uid = machine.uid().unwrap_or_default();
            if candidates.iter().all(|one| one.uid != uid) {
                candidates.push(Attachment {
                    machine: machine.name_any(),
                    uid,
                    device: volume.wish_of(machine).and_then(|wish| wish.device.clone()),
                    attached_at: Some(Time(whole_seconds())),
                });
            }
        }
        let id = volume.uid().unwrap_or_default();
        let mut found = Vec::new();
        for candidate in candidates {
            let wish = machine.filter(|machine| machine.uid().as_deref() == Some(&candidate.uid));
            let wish = wish.and_then(|machine| volume.wish_of(machine));
            let has = if wish.is_some_and(|wish| wish.boot) || !self.running(&candidate.uid).await? {
                // A machine that is off has what its spec says.
                wish.is_some()
            } else {
                self.hypervisor.volumes(&candidate.uid).await?.contains(&id)
            };
            if has {
                found.push(candidate);
            }
        }
        Ok(found)
    }

    pub(crate) async fn running(&self, uid: &str) -> Result<bool, VolumeError> {
        let info = self.hypervisor.get(uid).await?;
        Ok(info.is_some_and(|info| !matches!(info.state, VmState::Stopped(_))))
    }

    pub(crate) fn wishing_machine(&self, volume: &Volume) -> Option<Arc<VirtualMachine>> {
        let machines = self.machines.in_namespace(&volume.namespace().unwrap_or_default());
        machines.into_iter().find(|machine| volume.wish_of(machine).is_some())
    }

    fn status_of(&self, volume: &Volume) -> VolumeStatus {
        volume.status.clone().unwrap_or_default()
    }

    /// Writes the status, but for the conditions, which are the scheduler's.
    async fn write(&self, volume: &Volume, status: VolumeStatus) -> Result<(), VolumeError> {
        if volume.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": volume.uid()}, "status": {
            "phase": status.phase, "sizeGib": status.size_gib, "attachments": status.attachments,
            "message": status.message,
        }});
        let (namespace, name) = (volume.namespace(), volume.name_any());
        match self.shared.writer.merge_status::<Volume>(namespace.as_deref(), &name, &patch).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// Now, as the API keeps times.
fn whole_seconds() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}
