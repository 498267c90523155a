//! Images that are made of this node's volumes, of their snapshots, and of its machines' root disks.

use std::sync::Arc;
use std::time::Duration;

use kube::ResourceExt;
use serde_json::{Value, json};
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};
use yunfan_disks::{ImageStore, VolumeDriver};
use yunfan_resources::compute::{RunState, VirtualMachine};
use yunfan_resources::image::{Image, ImagePhase};
use yunfan_resources::storage::{Volume, VolumeSnapshot};

use crate::Shared;
use crate::images::{ImageError, stored_as};
use crate::vm::Machines;
use crate::volume::{VolumeError, Volumes};

/// Images that are made at one time.
const WORKERS: usize = 2;
/// How long to wait before trying again what others have to end first.
const AGAIN: Duration = Duration::from_secs(1);

/// Before an image's uid in the name of the copy that it is made from.
pub(crate) const COPY: &str = "image-";

/// How long to wait before looking again whether something is still made from an image that is gone.
const LATER: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Image(ObjectKey),
    /// Bytes on this node that may be nobody's, by the uid of whose they were.
    Left(String),
}

/// What an image is made of.
enum Source {
    Volume(Arc<Volume>),
    Snapshot(Arc<VolumeSnapshot>),
    Machine(Arc<VirtualMachine>),
}

/// The loop that makes them, and removes the bytes of images that are gone, whoever deleted them.
pub(crate) struct Made {
    shared: Shared,
    images: Informer<Image>,
    volumes: Arc<Volumes>,
    machines: Arc<Machines>,
    disks: Arc<dyn VolumeDriver>,
    store: ImageStore,
    queue: Queue<Work>,
}

impl Made {
    pub(crate) fn new(
        shared: Shared,
        volumes: Arc<Volumes>,
        machines: Arc<Machines>,
        disks: Arc<dyn VolumeDriver>,
        store: ImageStore,
    ) -> Arc<Self> {
        let images = shared.informers.of();
        Arc::new(Self { shared, images, volumes, machines, disks, store, queue: Queue::new() })
    }

    /// Makes images until dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(self.images.synced(), self.volumes.synced(), self.machines.synced());
        self.queue.feed(&self.images, |image: &Image| {
            let made = image.is_made().then(|| Work::Image(ObjectKey::of(image)));
            [made, Some(Work::Left(image.kept_as()))].into_iter().flatten()
        });
        match self.store.list().await {
            Ok(images) => images.into_iter().for_each(|image| self.queue.add(Work::Left(image.id))),
            Err(error) => tracing::warn!(%error, "cannot list the images of this node"),
        }
        self.clean().await;
        let work = self.clone();
        run_loop("made-image", self.queue.clone(), WORKERS, move |key| {
            let work = work.clone();
            async move { work.reconcile(&key).await }
        })
        .await;
    }

    /// Removes copies of images that nobody waits for any more.
    async fn clean(&self) {
        let images = self.images.list();
        let waits = |owner: &str| {
            let uid = owner.strip_prefix(COPY);
            images.iter().any(|image| image.metadata.uid.as_deref() == uid && is_waiting(image))
        };
        for disk in self.disks.list().await.unwrap_or_default() {
            if disk.owner.starts_with(COPY) && !waits(&disk.owner) {
                let _ = self.disks.remove(&disk.owner).await;
            }
        }
    }

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>, VolumeError> {
        match work {
            Work::Image(key) => self.make(key).await,
            Work::Left(id) if self.images.list().iter().any(|image| image.kept_as() == *id) => Ok(None),
            Work::Left(id) => match self.store.remove(id).await {
                Err(yunfan_disks::Error::InUse { .. }) => Ok(Some(LATER)),
                removed => Ok(removed.map(|()| None)?),
            },
        }
    }

    async fn make(&self, key: &ObjectKey) -> Result<Option<Duration>, VolumeError> {
        let Some(image) = self.images.get_key(key) else { return Ok(None) };
        if !is_waiting(&image) {
            return Ok(None);
        }
        let Some(source) = self.source_of(&image) else { return Ok(None) };
        if image.shelved().is_some_and(|uid| !is_shelved(&source, uid, &key.name)) {
            // The machine was not told yet, or goes on: then the image goes.
            return Ok(Some(AGAIN));
        }
        // The node is written down first: whatever happens from here on, deleting the image also deletes its bytes.
        if phase_of(&image) == ImagePhase::Queued {
            let saving = json!({"phase": ImagePhase::Saving, "nodes": [self.shared.node]});
            self.write(&image, saving).await?;
        }
        // The copy ends with this.
        let copy = format!("{COPY}{}", image.uid().unwrap_or_default());
        let copied = match &source {
            Source::Volume(volume) => self.volumes.copy(volume, &*self.disks, &copy).await,
            Source::Snapshot(snapshot) => self.volumes.copy_snapshot(snapshot, &*self.disks, &copy).await,
            Source::Machine(machine) => self.machines.copy_root(machine, &*self.disks, &copy).await,
        };
        let made = match copied {
            Ok(disk) => {
                let uid = image.kept_as();
                self.store.make(&uid, &uid, stored_as(image.spec.disk_format), &disk).await
            }
            Err(VolumeError::Image(ImageError::Waits(_)) | VolumeError::Hypervisor(_)) => {
                return Ok(Some(AGAIN));
            }
            Err(VolumeError::Disk(error)) => Err(error),
            Err(error) => return Err(error),
        };
        self.disks.remove(&copy).await?;
        let status = match made {
            Ok(info) => json!({
                "phase": ImagePhase::Active, "sizeBytes": info.size_bytes, "sha512": info.sha512, "md5": info.md5,
                "virtualSizeBytes": info.virtual_size_bytes, "storedBytes": info.stored_bytes(), "nodes": [self.shared.node],
            }),
            Err(error) => self.failed(&image, error.to_string()),
        };
        match self.write(&image, status).await {
            // Its project may not have so much: now it is known how much it is.
            Err(VolumeError::Api(kube::Error::Api(told))) if told.code == 403 => {
                self.store.remove(&image.kept_as()).await?;
                self.write(&image, self.failed(&image, told.message)).await?;
            }
            written => written?,
        }
        Ok(None)
    }

    /// What an image is made of, where that is on this node.
    fn source_of(&self, image: &Image) -> Option<Source> {
        let namespace = image.namespace();
        let here = |node: &Option<String>| node.as_ref() == Some(&self.shared.node);
        if let Some(name) = &image.spec.source_volume {
            let volume = self.volumes.of_name(namespace.as_deref(), name)?;
            return here(&volume.spec.node_name).then_some(Source::Volume(volume));
        }
        if let Some(name) = &image.spec.source_snapshot {
            let snapshot = self.volumes.snapshot_of_name(namespace.as_deref(), name)?;
            return here(&snapshot.spec.node_name).then_some(Source::Snapshot(snapshot));
        }
        let machine = self.machines.of_name(namespace.as_deref(), image.spec.source_machine.as_ref()?)?;
        here(&machine.spec.node_name).then_some(Source::Machine(machine))
    }

    /// The status of an image that can't be made, which others are told, too.
    fn failed(&self, image: &Image, message: String) -> Value {
        self.shared.recorder.event(image, Severity::Warning, "FailedImage", message.clone());
        json!({"phase": ImagePhase::Failed, "message": message, "nodes": []})
    }

    async fn write(&self, image: &Image, status: Value) -> Result<(), VolumeError> {
        let patch = json!({"metadata": {"uid": image.uid()}, "status": status});
        let (namespace, name) = (image.namespace(), image.name_any());
        match self.shared.writer.merge_status::<Image>(namespace.as_deref(), &name, &patch).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            Err(_) => {
                // It was deleted meanwhile: what was made of it must not stay.
                self.store.remove(&image.kept_as()).await?;
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }
}

/// Whether an image's source is the machine with this uid, which is shelved into the image of this name.
fn is_shelved(source: &Source, uid: &str, image: &str) -> bool {
    let Source::Machine(machine) = source else { return false };
    machine.metadata.uid.as_deref() == Some(uid)
        && machine.spec.shelved_image.as_deref() == Some(image)
        && machine.spec.run_state == RunState::Shelved
}

fn phase_of(image: &Image) -> ImagePhase {
    image.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// Whether its bytes are still to be made.
fn is_waiting(image: &Image) -> bool {
    matches!(phase_of(image), ImagePhase::Queued | ImagePhase::Saving)
}
