//! Disks of machines: root disks and volumes.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::fs::{self, File};
use tokio::io::AsyncReadExt;

use crate::header::{self, HEAD_BYTES};
use crate::place::{self, check_id};
use crate::{Error, Format, ImageStore, qemu_img};

/// Largest disk: 64 TiB, which qcow2's tables can just describe with the clusters that are used here.
const MAX_BYTES: u64 = 1 << 46;
/// What is known of a disk, in its directory.
pub(crate) const INFO: &str = "disk.json";

/// A disk: a copy-on-write child of an image, or one that began empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Whose disk it is.
    pub owner: String,
    /// Image that it was made from.
    #[serde(default)]
    pub image: Option<String>,
    /// Bytes that the guest sees.
    pub size_bytes: u64,
    /// How its file is read: a child of an image is qcow2. What begins empty is raw, so that the node can mount it too.
    #[serde(default = "qcow2")]
    pub format: Format,
    /// Its file.
    #[serde(skip)]
    pub path: PathBuf,
    /// The image's file; none for an empty disk.
    #[serde(skip)]
    pub base_path: Option<PathBuf>,
    /// The format in which the image is read.
    #[serde(default)]
    pub base_format: Option<Format>,
    /// Whether it is read from another file than the one that was uploaded.
    #[serde(default)]
    pub(crate) base_converted: bool,
}

/// What disks were before there were others.
fn qcow2() -> Format {
    Format::Qcow2
}

/// The name of a disk's file in its directory.
pub(crate) fn file_name(format: Format) -> &'static str {
    match format {
        Format::Qcow2 => "disk.qcow2",
        _ => "disk.raw",
    }
}

/// The disks of one sort on one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DiskStore {
    pub(crate) images: ImageStore,
    /// Directory below the root.
    sort: &'static str,
}

/// Directories of disks: those that end with their machine, those that have a life of their own, and what those held once.
pub(crate) const SORTS: [&str; 3] = ["disks", "volumes", "snapshots"];

impl DiskStore {
    /// The root disks of machines, beside `images` in the same root directory.
    pub fn new(images: ImageStore) -> DiskStore {
        DiskStore { images, sort: SORTS[0] }
    }

    /// The volumes, beside `images` in the same root directory.
    pub fn volumes(images: ImageStore) -> DiskStore {
        DiskStore { images, sort: SORTS[1] }
    }

    /// The snapshots of volumes, beside `images` in the same root directory.
    pub fn snapshots(images: ImageStore) -> DiskStore {
        DiskStore { images, sort: SORTS[2] }
    }

    /// Every sort of disks that may be children of `images`.
    pub(crate) fn all(images: &ImageStore) -> [DiskStore; 3] {
        SORTS.map(|sort| DiskStore { images: images.clone(), sort })
    }

    /// Makes `owner`'s disk from an image, at least `min_size_bytes` large and never smaller than the image, in a time that
    /// does not depend on its size. The disk that `owner` has already is returned as it is.
    pub async fn create(&self, owner: &str, image: &str, min_size_bytes: u64) -> Result<Disk, Error> {
        self.make(owner, Some(image), min_size_bytes).await
    }

    /// Makes an empty disk for `owner`, `size_bytes` large. The disk that `owner` has already is returned as it is.
    pub async fn create_empty(&self, owner: &str, size_bytes: u64) -> Result<Disk, Error> {
        self.make(owner, None, size_bytes).await
    }

    async fn make(&self, owner: &str, image: Option<&str>, min_size_bytes: u64) -> Result<Disk, Error> {
        check_id("disk", owner)?;
        let shared = self.images.shared.clone();
        let _image_stays = shared.children.read().await;
        if let Some(disk) = self.get(owner).await? {
            return Ok(disk);
        }
        let info = match image {
            Some(image) => {
                let info = self.images.get(image).await?;
                Some(info.ok_or_else(|| Error::NotFound { id: image.to_owned() })?)
            }
            None => None,
        };
        check_size(min_size_bytes)?;
        let least = info.as_ref().map_or(0, |info| info.virtual_size_bytes);
        let staged = shared.stage().await?;
        let format = if image.is_some() { Format::Qcow2 } else { Format::Raw };
        let disk = Disk {
            owner: owner.to_owned(),
            image: image.map(str::to_owned),
            size_bytes: least.max(min_size_bytes.next_multiple_of(512)),
            format,
            path: staged.path().join(file_name(format)),
            base_path: info.as_ref().map(|info| self.images.readable(&info.id, info.is_converted())),
            base_format: info.as_ref().map(|info| info.format.readable()),
            base_converted: info.is_some_and(|info| info.is_converted()),
        };
        self.write_file(&disk).await?;
        place::write_json(&staged.path().join(INFO), &disk).await?;
        match staged.publish(&self.dir(owner)).await {
            // Somebody was faster.
            Err(Error::Io { source, .. }) if place::is_taken(&source) => {
                self.get(owner).await?.ok_or_else(|| Error::io("create", self.dir(owner))(source))
            }
            Err(error) => Err(error),
            Ok(()) => Ok(self.located(disk)),
        }
    }

    /// Makes the file at `disk.path` and flushes it.
    pub(crate) async fn write_file(&self, disk: &Disk) -> Result<(), Error> {
        if disk.format == Format::Raw {
            let file = File::create_new(&disk.path).await.map_err(Error::io("create", &disk.path))?;
            return self.lengthen(&file, disk.size_bytes).await;
        }
        let size = disk.size_bytes.to_string();
        let mut arguments = vec!["create", "-q", "-f", "qcow2"];
        if let (Some(path), Some(format)) = (&disk.base_path, disk.base_format) {
            // `lazy_refcounts` and preallocation stay off: the file is 200 KiB whatever the size. The base is not opened (`-u`):
            // it was checked when it came in.
            arguments.extend(["-u", "-F", format.name(), "-b", place::text(path)?]);
        }
        arguments.extend([place::text(&disk.path)?, &size]);
        let made = qemu_img::run(&arguments).await?;
        self.check_done(&made, "create", &disk.owner)?;
        let file = File::open(&disk.path).await.map_err(Error::io("open", &disk.path))?;
        file.sync_all().await.map_err(Error::io("flush", &disk.path))
    }

    /// Makes a raw disk's file so long: a hole, which takes room only where it is written to.
    async fn lengthen(&self, file: &File, size_bytes: u64) -> Result<(), Error> {
        let root = &self.images.shared.root;
        file.set_len(size_bytes).await.map_err(Error::io("extend a disk in", root))?;
        file.sync_all().await.map_err(Error::io("flush a disk in", root))
    }

    fn check_done(&self, output: &qemu_img::Output, command: &str, owner: &str) -> Result<(), Error> {
        if output.is_full_disk() {
            return Err(Error::NoSpace { path: self.images.shared.root.clone() });
        }
        if output.code != Some(0) {
            return Err(Error::QemuImg {
                command: format!("qemu-img {command} for {owner}"),
                message: output.complaint.clone(),
            });
        }
        Ok(())
    }

    /// Makes `owner`'s disk larger; one that is as large already stays as it is. No machine may have it open.
    pub async fn grow(&self, owner: &str, size_bytes: u64) -> Result<Disk, Error> {
        let disk = self.get(owner).await?.ok_or_else(|| Error::NotFound { id: owner.to_owned() })?;
        check_size(size_bytes)?;
        if disk.size_bytes >= size_bytes {
            return Ok(disk);
        }
        if disk.format == Format::Raw {
            let file = fs::OpenOptions::new().write(true).open(&disk.path).await;
            self.lengthen(&file.map_err(Error::io("open", &disk.path))?, size_bytes).await?;
            return self.note_size(owner, size_bytes).await;
        }
        check_file(&disk.path).await?;
        // The base is left out: the part that is added lies behind its end and needs nothing of it.
        let node = json!({"driver": "qcow2", "backing": null,
                          "file": {"driver": "file", "filename": place::text(&disk.path)?}});
        let grown =
            qemu_img::run(&["resize", "-q", &format!("json:{node}"), &size_bytes.to_string()]).await?;
        self.check_done(&grown, "resize", owner)?;
        self.note_size(owner, size_bytes).await
    }

    /// Writes down that a machine made `owner`'s disk larger while it had it open.
    pub async fn note_size(&self, owner: &str, size_bytes: u64) -> Result<Disk, Error> {
        let disk = self.get(owner).await?.ok_or_else(|| Error::NotFound { id: owner.to_owned() })?;
        let disk = Disk { size_bytes: disk.size_bytes.max(size_bytes), ..disk };
        let staged = self.images.shared.stage().await?;
        let new = staged.path().join(INFO);
        place::write_json(&new, &disk).await?;
        let target = self.dir(owner).join(INFO);
        fs::rename(&new, &target).await.map_err(Error::io("replace", &target))?;
        place::sync_dir(&self.dir(owner)).await?;
        Ok(disk)
    }

    /// `owner`'s disk, if there is one.
    pub async fn get(&self, owner: &str) -> Result<Option<Disk>, Error> {
        check_id("disk", owner)?;
        let disk = place::read_json(&self.dir(owner).join(INFO)).await?;
        Ok(disk.map(|disk| self.located(disk)))
    }

    /// Every disk, by owner.
    pub async fn list(&self) -> Result<Vec<Disk>, Error> {
        let disks: Vec<Disk> = place::read_all(&self.images.shared.root.join(self.sort), INFO).await?;
        Ok(disks.into_iter().map(|disk| self.located(disk)).collect())
    }

    /// The owners of all disks, without a look into any.
    pub async fn owners(&self) -> Result<Vec<String>, Error> {
        let root = self.images.shared.root.join(self.sort);
        let mut entries = fs::read_dir(&root).await.map_err(Error::io("read", &root))?;
        let mut found = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(Error::io("read", &root))? {
            found.extend(entry.file_name().into_string().ok());
        }
        Ok(found)
    }

    /// Removes `owner`'s disk; none is no error. Whoever uses it must have stopped.
    pub async fn remove(&self, owner: &str) -> Result<(), Error> {
        check_id("disk", owner)?;
        self.images.shared.discard(&self.dir(owner)).await
    }

    pub(crate) fn dir(&self, owner: &str) -> PathBuf {
        self.images.shared.root.join(self.sort).join(owner)
    }

    /// Paths are not kept, so that a data directory can be moved.
    pub(crate) fn located(&self, disk: Disk) -> Disk {
        Disk {
            path: self.dir(&disk.owner).join(file_name(disk.format)),
            base_path: disk.image.as_deref().map(|image| self.images.readable(image, disk.base_converted)),
            ..disk
        }
    }
}

impl Disk {
    /// The disk as qemu-img reads it: by what we know of it, and not by what its file says of others.
    pub(crate) async fn node(&self) -> Result<Value, Error> {
        if self.format == Format::Qcow2 {
            check_file(&self.path).await?;
        }
        let base = match (&self.base_path, self.base_format) {
            (Some(path), Some(format)) => Some(node(path, format, Value::Null)?),
            _ => None,
        };
        node(&self.path, self.format, base.unwrap_or(Value::Null))
    }
}

fn node(path: &Path, format: Format, backing: Value) -> Result<Value, Error> {
    let file = json!({"driver": "file", "filename": place::text(path)?});
    let mut node = json!({"driver": format.driver(), "file": file});
    if format == Format::Qcow2 {
        node["backing"] = backing;
    }
    Ok(node)
}

/// Looks at the header of a disk that guests have written to: one that broke out into its QEMU could have named any file of the host
/// in it.
async fn check_file(path: &Path) -> Result<(), Error> {
    let file = File::open(path).await.map_err(Error::io("open", path))?;
    let length = file.metadata().await.map_err(Error::io("read", path))?.len();
    let mut head = Vec::with_capacity(HEAD_BYTES);
    file.take(HEAD_BYTES as u64).read_to_end(&mut head).await.map_err(Error::io("read", path))?;
    header::check_disk(&head, length).map(drop)
}

fn check_size(bytes: u64) -> Result<(), Error> {
    if bytes > MAX_BYTES {
        return Err(Error::DiskTooLarge { size_bytes: bytes, limit_bytes: MAX_BYTES });
    }
    Ok(())
}
