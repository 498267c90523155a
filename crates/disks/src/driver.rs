//! What keeps volumes and snapshots on a node, whatever does so.

use std::fmt::Debug;

use async_trait::async_trait;

use crate::{Copying, Disk, DiskStore, Error};

/// A driver of disks that have a life of their own. All methods may be called again after a failure: each brings the disk to the
/// state asked for, whatever it finds, and what is there is there wholly or not at all. [`crate::conformance`] says what callers rely on.
#[async_trait]
pub trait VolumeDriver: Debug + Send + Sync + 'static {
    /// Makes `owner`'s disk as a copy-on-write child of an image, at least `min_size_bytes` large and never smaller than the image. The
    /// disk that `owner` has already is returned as it is.
    async fn create(&self, owner: &str, image: &str, min_size_bytes: u64) -> Result<Disk, Error>;

    /// Makes an empty disk for `owner`. The disk that `owner` has already is returned as it is.
    async fn create_empty(&self, owner: &str, size_bytes: u64) -> Result<Disk, Error>;

    /// `owner`'s disk, if there is one.
    async fn get(&self, owner: &str) -> Result<Option<Disk>, Error>;

    /// Every disk.
    async fn list(&self) -> Result<Vec<Disk>, Error>;

    /// Makes `owner`'s disk larger; one that is as large already stays as it is. No machine may have it open.
    async fn grow(&self, owner: &str, size_bytes: u64) -> Result<Disk, Error>;

    /// Writes down that a machine made `owner`'s disk larger while it had it open.
    async fn note_size(&self, owner: &str, size_bytes: u64) -> Result<Disk, Error>;

    /// Begins a copy of `of`, which may be another driver's, as `owner`'s disk. Whoever fills it calls [`Filling::publish`] then; nothing
    /// is left of one that is dropped before.
    async fn begin_copy(&self, owner: &str, of: &Disk) -> Result<Box<dyn Filling>, Error>;

    /// Removes `owner`'s disk; none is no error. Whoever uses it must have stopped.
    async fn remove(&self, owner: &str) -> Result<(), Error>;

    /// Copies a disk that nobody writes to, as `owner`'s. The disk that `owner` has already is returned as it is.
    async fn copy(&self, owner: &str, of: &Disk) -> Result<Disk, Error> {
        if let Some(disk) = self.get(owner).await? {
            return Ok(disk);
        }
        let copying = self.begin_copy(owner, of).await?;
        copying.fill(of).await?;
        copying.publish().await
    }
}

/// A copy that is not whole yet.
#[async_trait]
pub trait Filling: Debug + Send + Sync {
    /// The disk that it becomes, with the path of the file that is to be filled.
    fn disk(&self) -> &Disk;

    /// Makes the file, with nothing in it that is the disk's own: for whoever writes through a program of theirs.
    async fn make_empty(&self) -> Result<(), Error>;

    /// Fills it with the bytes of `of`, which nobody may write to meanwhile.
    async fn fill(&self, of: &Disk) -> Result<(), Error>;

    /// Makes it known, for good.
    async fn publish(self: Box<Self>) -> Result<Disk, Error>;
}

#[async_trait]
impl VolumeDriver for DiskStore {
    async fn create(&self, owner: &str, image: &str, min_size_bytes: u64) -> Result<Disk, Error> {
        DiskStore::create(self, owner, image, min_size_bytes).await
    }

    async fn create_empty(&self, owner: &str, size_bytes: u64) -> Result<Disk, Error> {
        DiskStore::create_empty(self, owner, size_bytes).await
    }

    async fn get(&self, owner: &str) -> Result<Option<Disk>, Error> {
        DiskStore::get(self, owner).await
    }

    async fn list(&self) -> Result<Vec<Disk>, Error> {
        DiskStore::list(self).await
    }

    async fn grow(&self, owner: &str, size_bytes: u64) -> Result<Disk, Error> {
        DiskStore::grow(self, owner, size_bytes).await
    }

    async fn note_size(&self, owner: &str, size_bytes: u64) -> Result<Disk, Error> {
        DiskStore::note_size(self, owner, size_bytes).await
    }

    async fn begin_copy(&self, owner: &str, of: &Disk) -> Result<Box<dyn Filling>, Error> {
        Ok(Box::new(DiskStore::begin_copy(self, owner, of).await?))
    }

    async fn remove(&self, owner: &str) -> Result<(), Error> {
        DiskStore::remove(self, owner).await
    }
}

#[async_trait]
impl Filling for Copying {
    fn disk(&self) -> &Disk {
        Copying::disk(self)
    }

    async fn make_empty(&self) -> Result<(), Error> {
        Copying::make_empty(self).await
    }

    async fn fill(&self, of: &Disk) -> Result<(), Error> {
        Copying::fill(self, of).await
    }

    async fn publish(self: Box<Self>) -> Result<Disk, Error> {
        Copying::publish(*self).await
    }
}
