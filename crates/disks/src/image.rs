//! Images: uploaded once, checked, never changed.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::Stream;
use md5::Md5;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha512};
use tokio::fs::{self, File};
use tokio::sync::{Mutex, RwLock};

use crate::disk::SORTS;
use crate::header::{self, HEAD_BYTES};
use crate::place::{self, Staged, check_id};
use crate::receive::{Received, receive};
use crate::{Disk, DiskStore, Error, foreign, qemu_img};

/// Formats of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// VirtualBox's.
    Vdi,
    /// Virtual PC's.
    Vhd,
    /// Hyper-V's.
    Vhdx,
    /// A file system of a CD or DVD, as it is.
    Iso,
}

impl Format {
    /// Every format.
    pub const ALL: [Format; 7] =
        [Format::Raw, Format::Qcow2, Format::Vmdk, Format::Vdi, Format::Vhd, Format::Vhdx, Format::Iso];

    /// The name that OpenStack knows it by.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vdi => "vdi",
            Format::Vhd => "vhd",
            Format::Vhdx => "vhdx",
            Format::Iso => "iso",
        }
    }

    /// The name that QEMU knows it by.
    pub(crate) fn driver(self) -> &'static str {
        match self {
            Format::Vhd => "vpc",
            Format::Iso => "raw",
            other => other.name(),
        }
    }

    /// The format in which machines read it: what is neither raw nor qcow2 is turned into qcow2 when it comes in.
    pub(crate) fn readable(self) -> Format {
        match self {
            Format::Raw | Format::Iso => Format::Raw,
            _ => Format::Qcow2,
        }
    }

    fn is_converted(self) -> bool {
        !matches!(self, Format::Raw | Format::Iso | Format::Qcow2)
    }
}

/// How large an image may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Uploaded bytes.
    pub max_bytes: u64,
    /// Bytes of the disk that a guest sees.
    pub max_virtual_bytes: u64,
}

impl Default for Limits {
    /// 64 GiB of upload, 2 TiB of disk.
    fn default() -> Limits {
        Limits { max_bytes: 64 << 30, max_virtual_bytes: 2 << 40 }
    }
}

/// How much larger than itself an image of another hypervisor may become, beside a GiB: some compress what they hold.
const MOST_GROWTH: u64 = 128;
/// Bytes of a sector: a disk has whole ones.
const SECTOR: u64 = 512;
/// The file that was uploaded, in its directory.
const UPLOADED: &str = "image";
/// The file that machines read, where it is another than the one that was uploaded.
const READABLE: &str = "readable.qcow2";

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageInfo {
    /// Its id.
    pub id: String,
    /// Format of its bytes.
    pub format: Format,
    /// Bytes as uploaded.
    pub size_bytes: u64,
    /// Bytes of the disk that a guest sees.
    pub virtual_size_bytes: u64,
    /// SHA-512 of the uploaded bytes, lower-case hexadecimal.
    pub sha512: String,
    /// MD5 of the uploaded bytes, lower-case hexadecimal (Glance's `checksum`).
    pub md5: String,
    /// Whom it was made for, where it was made of a disk.
    #[serde(default)]
    pub owner: Option<String>,
    /// Bytes of the file that machines read, where it is another than the one that was uploaded.
    #[serde(default)]
    pub converted_bytes: u64,
}

/// The images of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ImageStore {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) root: PathBuf,
    /// Held for reading while a disk is made from an image, for writing while an image is removed.
    pub(crate) children: RwLock<()>,
    /// Held while an image is turned into what machines read.
    pub(crate) converting: Mutex<()>,
    /// Names of what is not whole yet.
    pub(crate) next: AtomicU64,
}

impl ImageStore {
    /// Takes over `root` (DATA_DIR/agent/disks), which is made when missing; what was cut off is wiped. Only one process at a
    /// time may have a root open; whoever owns the data directory sees to that.
    pub async fn open(root: PathBuf) -> Result<ImageStore, Error> {
        let incoming = root.join("incoming");
        match fs::remove_dir_all(&incoming).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("wipe", incoming)(error));
            }
            _ => {}
        }
        let kept = ["images"].into_iter().chain(SORTS).map(|name| root.join(name));
        for dir in [incoming].into_iter().chain(kept) {
            fs::create_dir_all(&dir).await.map_err(Error::io("create", &dir))?;
        }
        Ok(ImageStore {
            shared: Arc::new(Shared {
                root,
                children: RwLock::new(()),
                converting: Mutex::new(()),
                next: AtomicU64::new(0),
            }),
        })
    }

    /// Takes an image's bytes in, checks them, and keeps them under `id`; they are on the disk when this returns. Nothing is
    /// left behind when it fails or is dropped.
    pub async fn write<S, E>(
        &self,
        id: &str,
        format: Format,
        bytes: S,
        limits: Limits,
    ) -> Result<ImageInfo, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Display,
    {
        self.take(id, format, bytes, limits, None).await
    }

    /// As [`ImageStore::write`], of an image that another node has: it was checked or made there, and bytes with another SHA-512 are
    /// refused. Raw ones that have it are taken, whatever a guest wrote where other formats have their marks: what is made of a disk may
    /// begin with anything, and is read as nothing but raw.
    pub async fn fetch<S, E>(
        &self,
        id: &str,
        format: Format,
        bytes: S,
        limits: Limits,
        sha512: &str,
    ) -> Result<ImageInfo, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Display,
    {
        self.take(id, format, bytes, limits, Some(sha512)).await
    }

    async fn take<S, E>(
        &self,
        id: &str,
        format: Format,
        bytes: S,
        limits: Limits,
        sha512: Option<&str>,
    ) -> Result<ImageInfo, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Display,
    {
        check_id("image", id)?;
        if self.get(id).await?.is_some() {
            return Err(Error::Exists { id: id.to_owned() });
        }
        let staged = self.shared.stage().await?;
        let path = staged.path().join(UPLOADED);
        let received = receive(&path, bytes, limits).await?;
        if sha512.is_some_and(|wanted| *wanted != received.sha512) {
            let message = "the bytes have another SHA-512 than the image".to_owned();
            return Err(Error::BadImage { message });
        }
        let is_raw = matches!(format, Format::Raw | Format::Iso);
        let mut virtual_size_bytes = match sha512 {
            Some(_) if is_raw => received.size_bytes.next_multiple_of(SECTOR),
            _ => check(format, staged.path(), &received).await?,
        };
        if virtual_size_bytes > limits.max_virtual_bytes {
            let most = limits.max_virtual_bytes;
            return Err(Error::BadImage {
                message: format!(
                    "its disk of {virtual_size_bytes} bytes is larger than the limit of {most} bytes"
                ),
            });
        }
        let mut converted_bytes = 0;
        match format {
            Format::Qcow2 => check_whole(staged.path(), received.size_bytes, virtual_size_bytes).await?,
            // A disk has whole sectors.
            Format::Raw | Format::Iso if virtual_size_bytes != received.size_bytes => {
                let file = File::options().write(true).open(&path).await.map_err(Error::io("open", &path))?;
                file.set_len(virtual_size_bytes).await.map_err(Error::io("extend", &path))?;
                file.sync_all().await.map_err(Error::io("flush", &path))?;
            }
            Format::Raw | Format::Iso => {}
            _ => {
                let sizes = (received.size_bytes, virtual_size_bytes);
                (virtual_size_bytes, converted_bytes) = self.convert(format, staged.path(), sizes).await?;
            }
        }
        let info = ImageInfo {
            id: id.to_owned(),
            format,
            size_bytes: received.size_bytes,
            virtual_size_bytes,
            sha512: received.sha512,
            md5: received.md5,
            owner: None,
            converted_bytes,
        };
        place::write_json(&staged.path().join("info.json"), &info).await?;
        match staged.publish(&self.dir(id)).await {
            Err(Error::Io { source, .. }) if place::is_taken(&source) => {
                Err(Error::Exists { id: id.to_owned() })
            }
            Err(error) => Err(error),
            Ok(()) => Ok(info),
        }
    }

    /// Makes an image of what a disk holds, raw or qcow2, for `owner`, and keeps it under `id`. Nobody may write to the disk
    /// meanwhile. The image that was made for `owner` already is returned as it is.
    ///
    /// # Errors
    /// [`Error::Exists`] where the id is another's, [`Error::BadImage`] for a disk that is too large, [`Error::NoSpace`], qemu-img's and
    /// the file system's.
    pub async fn make(&self, id: &str, owner: &str, format: Format, of: &Disk) -> Result<ImageInfo, Error> {
        check_id("image", id)?;
        match self.get(id).await? {
            Some(info) if info.owner.as_deref() == Some(owner) => return Ok(info),
            Some(_) => return Err(Error::Exists { id: id.to_owned() }),
            None => {}
        }
        let limits = Limits::default();
        let most = if format == Format::Raw { limits.max_bytes } else { limits.max_virtual_bytes };
        if of.size_bytes > most {
            return Err(Error::DiskTooLarge { size_bytes: of.size_bytes, limit_bytes: most });
        }
        let staged = self.shared.stage().await?;
        let path = staged.path().join(UPLOADED);
        let output = format.readable().name();
        let node = format!("json:{}", of.node().await?);
        let arguments = ["convert", "-q", "-O", output, &node, place::text(&path)?];
        let written = qemu_img::run_long(&arguments, limits.max_bytes).await?;
        if written.is_full_disk() {
            return Err(Error::NoSpace { path: self.shared.root.clone() });
        }
        if written.code != Some(0) {
            let (command, message) = (format!("qemu-img convert for {id}"), written.complaint);
            return Err(Error::QemuImg { command, message });
        }
        let file = File::open(&path).await.map_err(Error::io("open", &path))?;
        file.sync_all().await.map_err(Error::io("flush", &path))?;
        let found = digested(id, format, &path).await?;
        let owner = Some(owner.to_owned());
        let info = ImageInfo { virtual_size_bytes: of.size_bytes, owner, ..found };
        place::write_json(&staged.path().join("info.json"), &info).await?;
        match staged.publish(&self.dir(id)).await {
            Err(Error::Io { source, .. }) if place::is_taken(&source) => {
                Err(Error::Exists { id: id.to_owned() })
            }
            Err(error) => Err(error),
            Ok(()) => Ok(info),
        }
    }

    /// One image, if it is here.
    pub async fn get(&self, id: &str) -> Result<Option<ImageInfo>, Error> {
        check_id("image", id)?;
        place::read_json(&self.dir(id).join("info.json")).await
    }

    /// An image's bytes as they were uploaded.
    pub async fn read(&self, id: &str) -> Result<(ImageInfo, tokio::io::Take<File>), Error> {
        let info = self.get(id).await?.ok_or_else(|| Error::NotFound { id: id.to_owned() })?;
        let path = self.path(id);
        let file = File::open(&path).await.map_err(Error::io("open", path))?;
        // A raw image was padded to whole sectors.
        let whole = tokio::io::AsyncReadExt::take(file, info.size_bytes);
        Ok((info, whole))
    }

    /// Every image, by id.
    pub async fn list(&self) -> Result<Vec<ImageInfo>, Error> {
        place::read_all(&self.shared.root.join("images"), "info.json").await
    }

    /// Removes an image; one that is not here is no error, one that disks were made from is ([`Error::InUse`]).
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        check_id("image", id)?;
        let _no_new_disks = self.shared.children.write().await;
        let mut disks: Vec<String> = Vec::new();
        for store in DiskStore::all(self) {
            let children = store.list().await?.into_iter().filter(|disk| disk.image.as_deref() == Some(id));
            disks.extend(children.map(|disk| disk.owner));
        }
        if !disks.is_empty() {
            return Err(Error::InUse { id: id.to_owned(), disks });
        }
        self.shared.discard(&self.dir(id)).await
    }

    /// Turns the file in `dir`, which was checked, into the one that machines read. Returns the bytes that a guest sees, and that
    /// file's.
    async fn convert(
        &self,
        format: Format,
        dir: &Path,
        (size_bytes, virtual_bytes): (u64, u64),
    ) -> Result<(u64, u64), Error> {
        // One at a time: each may take a node's processor and disk for long.
        let _one = self.shared.converting.lock().await;
        // By a tree of nodes that is ours: nothing in the file leads to another, whatever the checks overlooked.
        let mut node = json!({"driver": format.driver(), "file": {"driver": "file", "filename": UPLOADED}});
        if format == Format::Vmdk {
            node["backing"] = Value::Null;
        }
        // Tables may name one block again and again: what is written is no more than a file so large can honestly hold.
        let most =
            size_bytes.saturating_mul(MOST_GROWTH).saturating_add(1 << 30).min(Limits::default().max_bytes);
        let arguments = ["convert", "-q", "-O", "qcow2", &format!("json:{node}"), READABLE];
        let output = qemu_img::run_apart(dir, &arguments, Some((READABLE, most))).await?;
        let to = dir.join(READABLE);
        if output.is_full_disk() {
            return Err(Error::NoSpace { path: self.shared.root.clone() });
        }
        if output.code != Some(0) {
            let why = place::without(&output.complaint, UPLOADED);
            return Err(Error::BadImage { message: format!("qemu-img can't read it: {why}") });
        }
        let mut file = File::open(&to).await.map_err(Error::io("open", &to))?;
        file.sync_all().await.map_err(Error::io("flush", &to))?;
        let length = file.metadata().await.map_err(Error::io("read", &to))?.len();
        let mut head = Vec::with_capacity(HEAD_BYTES);
        let mut beginning = tokio::io::AsyncReadExt::take(&mut file, HEAD_BYTES as u64);
        let read = tokio::io::AsyncReadExt::read_to_end(&mut beginning, &mut head).await;
        read.map_err(Error::io("read", &to))?;
        let found = header::check(Format::Qcow2, &head, length)?;
        // Of a VHD some programs take the geometry, which may leave out the end.
        if found != virtual_bytes && !(format == Format::Vhd && found < virtual_bytes) {
            let message = "its header and what qemu-img reads in it are not the same".to_owned();
            return Err(Error::BadImage { message });
        }
        Ok((found, length))
    }

    fn dir(&self, id: &str) -> PathBuf {
        self.shared.root.join("images").join(id)
    }

    /// The file that machines read.
    pub(crate) fn readable(&self, id: &str, converted: bool) -> PathBuf {
        self.dir(id).join(if converted { READABLE } else { UPLOADED })
    }

    /// The image's bytes as they were uploaded.
    fn path(&self, id: &str) -> PathBuf {
        self.dir(id).join(UPLOADED)
    }
}

impl ImageInfo {
    /// Bytes that it takes on a node.
    pub fn stored_bytes(&self) -> u64 {
        self.size_bytes.saturating_add(self.converted_bytes)
    }

    /// Whether machines read another file than the one that was uploaded.
    pub(crate) fn is_converted(&self) -> bool {
        self.format.is_converted()
    }
}

impl Shared {
    /// An empty directory for something that is not whole yet.
    pub(crate) async fn stage(&self) -> Result<Staged, Error> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Staged::create(self.root.join("incoming").join(number.to_string())).await
    }

    /// Removes a directory so that it is there wholly or not at all, whenever we die.
    pub(crate) async fn discard(&self, dir: &Path) -> Result<(), Error> {
        let staged = self.stage().await?;
        match fs::rename(dir, staged.path().join("gone")).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(Error::io("remove", dir)(error)),
            Ok(()) => staged.wipe().await,
        }
    }
}

/// What is known of an image's file from its bytes.
async fn digested(id: &str, format: Format, path: &Path) -> Result<ImageInfo, Error> {
    let (id, path) = (id.to_owned(), path.to_owned());
    place::blocking(move || {
        let mut file = std::fs::File::open(&path).map_err(Error::io("open", &path))?;
        let (mut sha512, mut md5, mut size_bytes) = (Sha512::new(), Md5::new(), 0);
        let mut piece = vec![0; 1 << 20];
        loop {
            let read = io::Read::read(&mut file, &mut piece).map_err(Error::io("read", &path))?;
            if read == 0 {
                break;
            }
            sha512.update(&piece[..read]);
            md5.update(&piece[..read]);
            size_bytes += read as u64;
        }
        let (sha512, md5) = (hex(&sha512.finalize()), hex(&md5.finalize()));
        let virtual_size_bytes = size_bytes;
        Ok(ImageInfo {
            id,
            format,
            size_bytes,
            virtual_size_bytes,
            sha512,
            md5,
            owner: None,
            converted_bytes: 0,
        })
    })
    .await?
}

/// Checks a file before any other program opens it. Returns the size of the disk that a guest sees.
async fn check(format: Format, dir: &Path, received: &Received) -> Result<u64, Error> {
    if matches!(format, Format::Raw | Format::Iso | Format::Qcow2) {
        return header::check(format, &received.head, received.size_bytes);
    }
    let (path, length) = (dir.join(UPLOADED), received.size_bytes);
    place::blocking(move || {
        let file = std::fs::File::open(&path).map_err(Error::io("open", &path))?;
        foreign::check(format, &file, length)
    })
    .await?
}

/// Has qemu-img look at the whole of the qcow2 file in `dir`.
async fn check_whole(dir: &Path, size_bytes: u64, virtual_bytes: u64) -> Result<(), Error> {
    let name = UPLOADED;
    let bad = |message: String| Err(Error::BadImage { message });
    let info = qemu_img::run_apart(dir, &["info", "-U", "--output=json", "-f", "qcow2", name], None).await?;
    let Some(told) = info.json().filter(|_| info.code == Some(0)) else {
        return bad(format!("qemu-img can't read it: {}", place::without(&info.complaint, name)));
    };
    let links = ["backing-filename", "full-backing-filename"].iter().any(|key| told.get(key).is_some());
    if links
        || told["format-specific"]["data"].get("data-file").is_some()
        || told["virtual-size"] != virtual_bytes
    {
        return bad("its header and what qemu-img reads in it are not the same".into());
    }
    let check = qemu_img::run_apart(dir, &["check", "--output=json", "-f", "qcow2", name], None).await?;
    // 0: good; 3: leaked clusters, which only waste space.
    let Some(found) = check.json().filter(|_| matches!(check.code, Some(0 | 3))) else {
        let count = check.json().and_then(|found| found["corruptions"].as_u64());
        let what =
            count.map_or_else(|| place::without(&check.complaint, name), |count| format!("{count} errors"));
        return bad(format!(
            "it is corrupt ({what}): repair it with `qemu-img check -r all`, or upload it again"
        ));
    };
    let cluster = told["cluster-size"].as_u64().unwrap_or(1 << 16).max(1);
    if found["image-end-offset"].as_u64().unwrap_or(0) > size_bytes.next_multiple_of(cluster) {
        return bad("its end is missing: upload the whole file".into());
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
