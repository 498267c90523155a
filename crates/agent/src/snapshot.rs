//! Snapshots of this node's volumes: from the object to a file, and to the object's status.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};
use yunfan_disks::VolumeDriver;
use yunfan_resources::names::VOLUME_FINALIZER;
use yunfan_resources::storage::{SnapshotPhase, VolumeSnapshot, VolumeSnapshotStatus};

use crate::Shared;
use crate::images::ImageError;
use crate::made::COPY;
use crate::volume::{GIB, VolumeError, Volumes};

/// Snapshots that are worked on at one time.
const WORKERS: usize = 2;
/// How long to wait before trying again what others have to end first.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Snapshot(ObjectKey),
    Left(String),
}

/// The loop that looks after snapshots.
pub(crate) struct Snapshots {
    shared: Shared,
    snapshots: Informer<VolumeSnapshot>,
    volumes: Arc<Volumes>,
    disks: Arc<dyn VolumeDriver>,
    queue: Queue<Work>,
}

impl Snapshots {
    pub(crate) fn new(shared: Shared, volumes: Arc<Volumes>, disks: Arc<dyn VolumeDriver>) -> Arc<Self> {
        let snapshots = shared.placed();
        Arc::new(Self { shared, snapshots, volumes, disks, queue: Queue::new() })
    }

    /// Looks after snapshots until dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(self.snapshots.synced(), self.volumes.synced());
        self.queue.feed(&self.snapshots, |snapshot| {
            let left = snapshot.uid().map(Work::Left);
            [Some(Work::Snapshot(ObjectKey::of(snapshot))), left].into_iter().flatten()
        });
        match self.disks.list().await {
            Ok(disks) => disks.into_iter().for_each(|disk| self.queue.add(Work::Left(disk.owner))),
            Err(error) => tracing::warn!(%error, "cannot list the snapshots of this node"),
        }
        let work = self.clone();
        run_loop("snapshot", self.queue.clone(), WORKERS, move |key| {
            let work = work.clone();
            async move { work.reconcile(&key).await }
        })
        .await;
    }

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>, VolumeError> {
        match work {
            Work::Snapshot(key) => match self.snapshots.get_key(key) {
                Some(snapshot) if snapshot.spec.node_name.as_ref() == Some(&self.shared.node) => {
                    self.keep(&snapshot).await
                }
                _ => Ok(None),
            },
            // What is left of an image that was to be made is its loop's.
            Work::Left(uid) if uid.starts_with(COPY) => Ok(None),
            Work::Left(uid) => {
                if !self.snapshots.list().iter().any(|one| one.metadata.uid.as_deref() == Some(uid)) {
                    self.disks.remove(uid).await?;
                }
                Ok(None)
            }
        }
    }

    async fn keep(&self, snapshot: &VolumeSnapshot) -> Result<Option<Duration>, VolumeError> {
        let uid = snapshot.uid().unwrap_or_default();
        if snapshot.metadata.deletion_timestamp.is_some() {
            if snapshot.finalizers().iter().any(|finalizer| finalizer == VOLUME_FINALIZER) {
                self.disks.remove(&uid).await?;
                self.shared.writer.remove_finalizer(snapshot, VOLUME_FINALIZER).await?;
            }
            return Ok(None);
        }
        let before = snapshot.status.clone().unwrap_or_default();
        if before.phase != SnapshotPhase::Creating {
            return Ok(None);
        }
        // Before anything of it is on the node, so that a deletion always comes by us.
        self.shared.writer.add_finalizer(snapshot, VOLUME_FINALIZER).await?;
        let (status, again) = match self.take(snapshot, &uid).await {
            Ok(()) => (VolumeSnapshotStatus { phase: SnapshotPhase::Available, message: None }, None),
            Err(VolumeError::Api(error)) => return Err(error.into()),
            // A machine that stopped meanwhile has its disk copied the next time.
            Err(error @ (VolumeError::Image(ImageError::Waits(_)) | VolumeError::Hypervisor(_))) => {
                let message = Some(error.to_string());
                (VolumeSnapshotStatus { phase: SnapshotPhase::Creating, message }, Some(AGAIN))
            }
            Err(error) => {
                tracing::warn!(snapshot = snapshot.name_any(), %error, "a snapshot could not be taken");
                let message = error.to_string();
                self.shared.recorder.event(snapshot, Severity::Warning, "FailedSnapshot", message.clone());
                (VolumeSnapshotStatus { phase: SnapshotPhase::Error, message: Some(message) }, None)
            }
        };
        self.write(snapshot, &status).await?;
        Ok(again)
    }

    async fn take(&self, snapshot: &VolumeSnapshot, uid: &str) -> Result<(), VolumeError> {
        let name = &snapshot.spec.volume;
        let volume = self.volumes.of_name(snapshot.namespace().as_deref(), name);
        let volume = volume.ok_or_else(|| VolumeError::Lost(format!("volume {name} is gone")))?;
        let disk = self.volumes.copy(&volume, &*self.disks, uid).await?;
        // What is charged is what the volume was when it was asked for.
        if disk.size_bytes > u64::from(snapshot.spec.size_gib.unwrap_or(0)) * GIB {
            self.disks.remove(uid).await?;
            return Err(VolumeError::Lost(format!("volume {name} was extended before it was copied")));
        }
        Ok(())
    }

    async fn write(
        &self,
        snapshot: &VolumeSnapshot,
        status: &VolumeSnapshotStatus,
    ) -> Result<(), VolumeError> {
        if snapshot.status.as_ref() == Some(status) {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": snapshot.uid()}, "status": {
            "phase": status.phase, "message": status.message,
        }});
        let (namespace, name) = (snapshot.namespace(), snapshot.name_any());
        match self.shared.writer.merge_status::<VolumeSnapshot>(namespace.as_deref(), &name, &patch).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}
