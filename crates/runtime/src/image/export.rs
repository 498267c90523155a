//! Writes images as an archive: one that is an OCI image layout and what `docker save` writes at the same time, as Docker's own since
//! version 25. Blocking.
//!
//! Layers are kept unpacked, so they are packed anew: what is in them is the same, but not each byte of their tars, and so the image in the
//! archive has digests, and an id, of its own. Packed again it has the same.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use rustix::io::Errno;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::import::anonymous_file;
use super::{ByteStream, Image, hex_of, layer_dir};
use crate::error::{Result, RuntimeError};

/// Longest value of a file's attribute.
const LONGEST_ATTRIBUTE: usize = 64 << 10;

/// How much is handed on at once.
const CHUNK: usize = 256 << 10;

/// The archive's bytes, as they come to be. `held` is let go of at the end.
pub(super) fn stream<T: Send + 'static>(
    dir: PathBuf,
    images: Vec<(Image, Vec<String>)>,
    held: T,
) -> ByteStream {
    let (sender, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let out = std::io::BufWriter::with_capacity(CHUNK, Pipe(sender.clone()));
        if let Err(error) = write(&dir, &images, out) {
            // Where nobody reads any more, nobody asks why.
            let _ = sender.blocking_send(Err(std::io::Error::other(error)));
        }
        drop(held);
    });
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    })
    .boxed()
}

/// Into a channel.
struct Pipe(mpsc::Sender<std::io::Result<Bytes>>);

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes images with their names to `out`; `dir` is the store's.
///
/// # Errors
/// Files of the store that can't be read; what `out` has against it.
fn write(dir: &Path, images: &[(Image, Vec<String>)], out: impl Write) -> Result<()> {
    let mut archive = Archive { tar: tar::Builder::new(out), there: HashSet::new() };
    archive.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    // A layer that several images have is packed once.
    let mut packed: HashMap<String, Blob> = HashMap::new();
    let (mut manifests, mut saved) = (Vec::new(), Vec::new());
    for (image, names) in images {
        let mut layers = Vec::new();
        for diff_id in &image.layers {
            let blob = match packed.get(diff_id) {
                Some(known) => known.clone(),
                None => archive.layer(dir, diff_id)?,
            };
            packed.insert(diff_id.clone(), blob.clone());
            layers.push(blob);
        }
        let config = archive.blob(&config(dir, image, &layers)?)?;
        let described = |kind: &str, blob: &Blob| json!({"mediaType": format!("application/vnd.oci.image.{kind}"), "digest": blob.digest, "size": blob.size});
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("config.v1+json", &config),
            "layers": layers.iter().map(|layer| described("layer.v1.tar", layer)).collect::<Vec<_>>(),
        });
        let manifest = archive.blob(manifest.to_string().as_bytes())?;
        let entry = || described("manifest.v1+json", &manifest);
        if names.is_empty() {
            manifests.push(entry());
        }
        for name in names {
            let mut entry = entry();
            entry["annotations"] =
                json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
            manifests.push(entry);
        }
        let layers: Vec<String> = layers.iter().map(Blob::path).collect();
        saved.push(json!({"Config": config.path(), "RepoTags": names, "Layers": layers}));
    }
    let index = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": manifests});
    archive.put("index.json", index.to_string().as_bytes())?;
    archive.put("manifest.json", Value::from(saved).to_string().as_bytes())?;
    archive.tar.into_inner().and_then(|mut out| out.flush()).map_err(failed())
}

/// The image's configuration as its registry had it, with the layers as they are packed here.
fn config(dir: &Path, image: &Image, layers: &[Blob]) -> Result<Vec<u8>> {
    let path = dir.join("configs").join(format!("{}.json", hex_of(&image.id)));
    let raw = std::fs::read(&path).map_err(RuntimeError::io("read", &path))?;
    let mut config: Value =
        serde_json::from_slice(&raw).map_err(|error| RuntimeError::io("read", &path)(error.into()))?;
    let digests: Vec<&str> = layers.iter().map(|layer| layer.digest.as_str()).collect();
    config["rootfs"]["diff_ids"] = json!(digests);
    Ok(config.to_string().into_bytes())
}

/// What is in the archive by its digest.
#[derive(Clone)]
struct Blob {
    digest: String,
    size: u64,
}

impl Blob {
    fn path(&self) -> String {
        format!("blobs/sha256/{}", hex_of(&self.digest))
    }
}

struct Archive<W: Write> {
    tar: tar::Builder<W>,
    there: HashSet<String>,
}

impl<W: Write> Archive<W> {
    fn put(&mut self, path: &str, content: &[u8]) -> Result<()> {
        self.append(path, content, content.len() as u64)
    }

    fn append(&mut self, path: &str, content: impl Read, size: u64) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(size);
        header.set_mode(0o644);
        self.tar.append_data(&mut header, path, content).map_err(failed())
    }

    fn blob(&mut self, content: &[u8]) -> Result<Blob> {
        let blob = Blob { digest: digest(Sha256::new_with_prefix(content)), size: content.len() as u64 };
        if self.there.insert(blob.digest.clone()) {
            self.put(&blob.path(), content)?;
        }
        Ok(blob)
    }

    fn layer(&mut self, dir: &Path, diff_id: &str) -> Result<Blob> {
        let root = layer_dir(dir, diff_id);
        // Its digest and its size come before it: it lies on the disk meanwhile, in a file without a name.
        let mut file = anonymous_file(&dir.join("tmp"))?;
        let packed =
            pack(&root, Digested { inner: std::io::BufWriter::new(&file), hash: Sha256::new(), size: 0 });
        let blob = packed.map_err(RuntimeError::io("pack", &root))?;
        if self.there.insert(blob.digest.clone()) {
            file.seek(SeekFrom::Start(0)).map_err(RuntimeError::io("read", &root))?;
            self.append(&blob.path(), &file, blob.size)?;
        }
        Ok(blob)
    }
}

fn failed() -> impl FnOnce(std::io::Error) -> RuntimeError {
    RuntimeError::io("write", "the archive of images")
}

fn digest(hash: Sha256) -> String {
    hash.finalize().iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Counts and digests what is written.
struct Digested<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Packs the files of a layer, the same files to the same bytes.
fn pack<W: Write>(root: &Path, out: Digested<W>) -> std::io::Result<Blob> {
    let mut packer = Packer { tar: tar::Builder::new(out), links: HashMap::new() };
    packer.tar.follow_symlinks(false);
    packer.below(root, Path::new(""))?;
    let mut out = packer.tar.into_inner()?;
    out.flush()?;
    Ok(Blob { digest: digest(out.hash), size: out.size })
}

struct Packer<W: Write> {
    tar: tar::Builder<W>,
    /// Files that have several names, by device and inode: the first name.
    links: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    /// The content of a directory; directories are as deep as whoever unpacked them allowed.
    fn below(&mut self, root: &Path, path: &Path) -> std::io::Result<()> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(root.join(path))? {
            names.push(entry?.file_name());
        }
        names.sort();
        for name in names {
            self.entry(root, &path.join(&name))?;
        }
        Ok(())
    }

    fn entry(&mut self, root: &Path, path: &Path) -> std::io::Result<()> {
        let file = root.join(path);
        let found = std::fs::symlink_metadata(&file)?;
        let kind = found.file_type();
        if kind.is_char_device() && found.rdev() == 0 {
            return self.empty(&beside(path, path.file_name().unwrap_or_default().as_bytes()));
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(found.mode() & 0o7777);
        header.set_uid(found.uid().into());
        header.set_gid(found.gid().into());
        header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
        header.set_size(0);
        if kind.is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            return self.tar.append_link(&mut header, path, std::fs::read_link(&file)?);
        }
        if kind.is_file() && found.nlink() > 1 {
            if let Some(first) = self.links.get(&(found.dev(), found.ino())) {
                header.set_entry_type(tar::EntryType::Link);
                return self.tar.append_link(&mut header, path, first);
            }
            self.links.insert((found.dev(), found.ino()), path.to_owned());
        }
        if kind.is_file() || kind.is_dir() {
            self.attributes(&file)?;
        }
        if kind.is_file() {
            header.set_size(found.len());
            return self.tar.append_data(&mut header, path, std::fs::File::open(&file)?);
        }
        if kind.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            // Of directories it is when their files came here.
            header.set_mtime(0);
            self.tar.append_data(&mut header, path, std::io::empty())?;
            if attribute(&file, "trusted.overlay.opaque")?.is_some_and(|value| value == b"y") {
                self.empty(&path.join(".wh..wh..opq"))?;
            }
            return self.below(root, path);
        }
        if kind.is_fifo() {
            header.set_entry_type(tar::EntryType::Fifo);
            return self.tar.append_data(&mut header, path, std::io::empty());
        }
        // Nothing else comes to be in a layer.
        Err(std::io::Error::other(format!("{} is neither file, directory, link nor pipe", path.display())))
    }

    /// A mark for whoever unpacks it.
    fn empty(&mut self, path: &Path) -> std::io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        self.tar.append_data(&mut header, path, std::io::empty())
    }

    /// The attributes that belong to the image, before their file.
    fn attributes(&mut self, file: &Path) -> std::io::Result<()> {
        let mut found = Vec::new();
        for name in attributes(file)? {
            let own = name == "security.capability" || name.starts_with("user.");
            if let Some(value) = if own { attribute(file, &name)? } else { None } {
                found.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        if found.is_empty() {
            return Ok(());
        }
        found.sort();
        let records = found.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(records)
    }
}

/// The mark that hides `name` of lower layers.
fn beside(path: &Path, name: &[u8]) -> PathBuf {
    let mut mark = OsString::from(".wh.");
    mark.push(std::ffi::OsStr::from_bytes(name));
    path.with_file_name(mark)
}

fn attributes(file: &Path) -> std::io::Result<Vec<String>> {
    let mut names = vec![0; LONGEST_ATTRIBUTE];
    let length = match rustix::fs::llistxattr(file, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        length => length?,
    };
    let words = names[..length].split(|byte| *byte == 0).filter(|word| !word.is_empty());
    Ok(words.filter_map(|word| String::from_utf8(word.to_vec()).ok()).collect())
}

fn attribute(file: &Path, name: &str) -> std::io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; LONGEST_ATTRIBUTE];
    match rustix::fs::lgetxattr(file, name, &mut value[..]) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::Limits;
    use super::super::layer::Unpacker;
    use super::*;

    fn packed(root: &Path) -> (Vec<u8>, Blob) {
        let mut bytes = Vec::new();
        let blob = pack(root, Digested { inner: &mut bytes, hash: Sha256::new(), size: 0 }).unwrap();
        assert_eq!(blob.size, bytes.len() as u64);
        (bytes, blob)
    }

    #[test]
    fn what_is_packed_unpacks_to_the_same_files() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        [&from, &to].iter().for_each(|dir| std::fs::create_dir(dir).unwrap());
        let long = "n".repeat(120);
        std::fs::create_dir_all(from.join("deep").join(&long)).unwrap();
        let file = from.join("deep").join(&long).join("file");
        std::fs::write(&file, "content").unwrap();
        std::os::unix::fs::chown(&file, Some(3_000_000), Some(7)).unwrap();
        // A change of owner takes bits away.
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o4751)).unwrap();
        std::fs::hard_link(&file, from.join("also")).unwrap();
        std::os::unix::fs::symlink("../out", from.join("link")).unwrap();
        let mode = rustix::fs::Mode::empty();
        let device = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, from.join("hidden"), device, mode, 0).unwrap();
        std::fs::create_dir(from.join("only")).unwrap();
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(from.join("only"), "trusted.overlay.opaque", b"y", none).unwrap();

        let (bytes, blob) = packed(&from);
        Unpacker::open(&to, Limits::default()).unwrap().run(&bytes[..]).unwrap();
        let (again, same) = packed(&to);
        assert!(bytes == again && blob.digest == same.digest, "packed again it is the same");
        let found = std::fs::metadata(to.join("deep").join(&long).join("file")).unwrap();
        assert_eq!(
            (found.mode() & 0o7777, found.uid(), found.gid(), found.nlink()),
            (0o4751, 3_000_000, 7, 2)
        );
        assert_eq!(found.ino(), std::fs::metadata(to.join("also")).unwrap().ino());
        assert_eq!(std::fs::read_link(to.join("link")).unwrap(), Path::new("../out"));
        assert!(std::fs::symlink_metadata(to.join("hidden")).unwrap().file_type().is_char_device());
        assert_eq!(attribute(&to.join("only"), "trusted.overlay.opaque").unwrap().unwrap(), b"y");
    }
}
