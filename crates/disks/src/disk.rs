//! Copy-on-write disks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tokio::fs::File;

use crate::place::{self, check_id};
use crate::{Error, Format, ImageStore, qemu_img};

/// Largest disk: 64 TiB, which qcow2's tables can just describe with the clusters that are used here.
const MAX_BYTES: u64 = 1 << 46;

/// A copy-on-write disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Whose disk it is.
    pub owner: String,
    /// Image that it was made from.
    pub image: String,
    /// Bytes that the guest sees.
    pub size_bytes: u64,
    /// The qcow2 file.
    #[serde(skip)]
    pub path: PathBuf,
    /// The image's file.
    #[serde(skip)]
    pub base_path: PathBuf,
    /// The image's format.
    pub base_format: Format,
}

/// The disks of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DiskStore {
    images: ImageStore,
}

impl DiskStore {
    /// The disks beside `images`, in the same root directory.
    pub fn new(images: ImageStore) -> DiskStore {
        DiskStore { images }
    }

    /// Makes `owner`'s disk from an image, at least `min_size_bytes` large and never smaller than the image, in a time that
    /// does not depend on its size. The disk that `owner` has already is returned as it is.
    pub async fn create(&self, owner: &str, image: &str, min_size_bytes: u64) -> Result<Disk, Error> {
        check_id("disk", owner)?;
        let shared = self.images.shared.clone();
        let _image_stays = shared.children.read().await;
        if let Some(disk) = self.get(owner).await? {
            return Ok(disk);
        }
        let info = self.images.get(image).await?.ok_or_else(|| Error::NotFound { id: image.to_owned() })?;
        if min_size_bytes > MAX_BYTES {
            return Err(Error::DiskTooLarge { size_bytes: min_size_bytes, limit_bytes: MAX_BYTES });
        }
        let size_bytes = info.virtual_size_bytes.max(min_size_bytes.next_multiple_of(512));
        let staged = shared.stage().await?;
        let path = staged.path().join("disk.qcow2");
        let base_path = self.images.path(image);
        let (name, base, size) = (place::text(&path)?, place::text(&base_path)?, size_bytes.to_string());
        // `lazy_refcounts` and preallocation stay off: the file is 200 KiB whatever the size. The base is not opened (`-u`):
        // it was checked when it came in.
        let made = qemu_img::run(&[
            "create",
            "-q",
            "-u",
            "-f",
            "qcow2",
            "-F",
            info.format.name(),
            "-b",
            base,
            name,
            &size,
        ])
        .await?;
        if made.is_full_disk() {
            return Err(Error::NoSpace { path: shared.root.clone() });
        }
        if made.code != Some(0) {
            return Err(Error::QemuImg {
                command: format!("qemu-img create for {owner}"),
                message: made.complaint,
            });
        }
        let file = File::open(&path).await.map_err(Error::io("open", &path))?;
        file.sync_all().await.map_err(Error::io("flush", &path))?;
        let disk = Disk {
            owner: owner.to_owned(),
            image: image.to_owned(),
            size_bytes,
            path,
            base_path,
            base_format: info.format,
        };
        place::write_json(&staged.path().join("disk.json"), &disk).await?;
        match staged.publish(&self.dir(owner)).await {
            // Somebody was faster.
            Err(Error::Io { source, .. }) if place::is_taken(&source) => {
                self.get(owner).await?.ok_or_else(|| Error::io("create", self.dir(owner))(source))
            }
            Err(error) => Err(error),
            Ok(()) => Ok(self.located(disk)),
        }
    }

    /// `owner`'s disk, if there is one.
    pub async fn get(&self, owner: &str) -> Result<Option<Disk>, Error> {
        check_id("disk", owner)?;
        let disk = place::read_json(&self.dir(owner).join("disk.json")).await?;
        Ok(disk.map(|disk| self.located(disk)))
    }

    /// Every disk, by owner.
    pub async fn list(&self) -> Result<Vec<Disk>, Error> {
        let disks: Vec<Disk> = place::read_all(&self.images.shared.root.join("disks"), "disk.json").await?;
        Ok(disks.into_iter().map(|disk| self.located(disk)).collect())
    }

    /// Removes `owner`'s disk; none is no error. Whoever uses it must have stopped.
    pub async fn remove(&self, owner: &str) -> Result<(), Error> {
        check_id("disk", owner)?;
        self.images.shared.discard(&self.dir(owner)).await
    }

    fn dir(&self, owner: &str) -> PathBuf {
        self.images.shared.root.join("disks").join(owner)
    }

    /// Paths are not kept, so that a data directory can be moved.
    fn located(&self, disk: Disk) -> Disk {
        Disk {
            path: self.dir(&disk.owner).join("disk.qcow2"),
            base_path: self.images.path(&disk.image),
            ..disk
        }
    }
}
