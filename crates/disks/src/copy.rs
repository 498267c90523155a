//! Copies of disks: of a volume into a snapshot, of a snapshot into a volume, of a volume into another.
//!
//! A copy is a file of its own over the same image: what was not written since is shared. What was written is shared too where the
//! file system can do that (reflinks: XFS, Btrfs), and copied without its holes elsewhere. So a snapshot never depends on its volume,
//! nothing has to be merged when either goes, and a raw volume stays one that the node can mount.

use std::process::Stdio;

use tokio::fs::File;
use tokio::process::Command;

use crate::disk::{INFO, file_name};
use crate::place::{self, Staged, check_id};
use crate::{Disk, DiskStore, Error};

/// A copy that is not whole yet; nothing is left of it when it is dropped.
#[derive(Debug)]
pub struct Copying {
    store: DiskStore,
    staged: Staged,
    disk: Disk,
}

impl DiskStore {
    /// Begins a copy of `of` as `owner`'s disk. Whoever fills it calls [`Copying::publish`] then.
    ///
    /// # Errors
    /// [`Error::BadId`] and the file system's.
    pub async fn begin_copy(&self, owner: &str, of: &Disk) -> Result<Copying, Error> {
        check_id("disk", owner)?;
        let staged = self.images.shared.stage().await?;
        let path = staged.path().join(file_name(of.format));
        let disk = Disk { owner: owner.to_owned(), path, ..of.clone() };
        Ok(Copying { store: self.clone(), staged, disk })
    }

    /// Copies a disk that nobody writes to, as `owner`'s. The disk that `owner` has already is returned as it is.
    ///
    /// # Errors
    /// [`Error::NoSpace`] where the copy does not fit, and the file system's.
    pub async fn copy(&self, owner: &str, of: &Disk) -> Result<Disk, Error> {
        if let Some(disk) = self.get(owner).await? {
            return Ok(disk);
        }
        let copying = self.begin_copy(owner, of).await?;
        copying.fill(of).await?;
        copying.publish().await
    }
}

impl Copying {
    /// The disk that it becomes, with the path of the file that is to be filled.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Makes the file, with nothing in it that is the disk's own: for whoever writes through a program of theirs.
    ///
    /// # Errors
    /// The file system's, and qemu-img's.
    pub async fn make_empty(&self) -> Result<(), Error> {
        self.store.write_file(&self.disk).await
    }

    /// Fills it with the bytes of `of`, which nobody may write to meanwhile.
    ///
    /// # Errors
    /// [`Error::NoSpace`], and the file system's.
    pub async fn fill(&self, of: &Disk) -> Result<(), Error> {
        // coreutils' `cp` knows reflinks and holes; it is on every host.
        let child = Command::new("cp")
            .args(["--reflink=auto", "--sparse=auto", "--no-dereference", "--"])
            .args([&of.path, &self.disk.path])
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::io("copy", &of.path))?;
        let output = child.wait_with_output().await.map_err(Error::io("copy", &of.path))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if said.contains("No space left on device") {
            return Err(Error::NoSpace { path: self.disk.path.clone() });
        }
        Err(Error::io("copy", &of.path)(std::io::Error::other(said)))
    }

    /// Makes it known, for good.
    ///
    /// # Errors
    /// [`Error::NotFound`] where its image was removed meanwhile, and the file system's.
    pub async fn publish(self) -> Result<Disk, Error> {
        let shared = self.store.images.shared.clone();
        let file = File::open(&self.disk.path).await.map_err(Error::io("open", &self.disk.path))?;
        file.sync_all().await.map_err(Error::io("flush", &self.disk.path))?;
        let _image_stays = shared.children.read().await;
        if let Some(image) = &self.disk.image
            && self.store.images.get(image).await?.is_none()
        {
            return Err(Error::NotFound { id: image.clone() });
        }
        place::write_json(&self.staged.path().join(INFO), &self.disk).await?;
        let target = self.store.dir(&self.disk.owner);
        match self.staged.publish(&target).await {
            Err(Error::Io { source, .. }) if place::is_taken(&source) => {
                let there = self.store.get(&self.disk.owner).await?;
                there.ok_or_else(|| Error::io("create", target)(source))
            }
            Err(error) => Err(error),
            Ok(()) => Ok(self.store.located(self.disk)),
        }
    }
}
