//! Unpacks one layer into its directory, trusting nothing in it.
//!
//! A layer is unpacked beside its place and renamed into it when both digests (of the blob and of the tar inside)
//! are right, so that a layer directory is whole or absent. Every path is resolved by the kernel below the layer's
//! root and never through a symbolic link ([`super::layer`]).

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::layer::Unpacker;
use super::layer_dir;
use crate::error::{Result, RuntimeError};

/// What a layer may cost at most; going over one refuses the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Files, directories and links in one layer.
    pub entries: u64,
    /// Bytes of one layer after decompression.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 1_000_000, bytes: 16 << 30 }
    }
}

/// What a layer should be.
pub(super) struct Expected<'a> {
    /// Digest of the blob as it is transported; `None` when the archive does not say.
    pub(super) blob: Option<&'a str>,
    /// Digest of the tar inside.
    pub(super) diff_id: &'a str,
}

/// Unpacks the layer into `images/layers`, unless it is there. Returns the bytes of its files.
pub(super) fn unpack(
    images: &Path,
    source: impl Read,
    expected: &Expected<'_>,
    limits: Limits,
) -> Result<u64> {
    let target = layer_dir(images, expected.diff_id);
    if target.is_dir() {
        return Ok(size_of(&target));
    }
    let temporary = Temporary::new(images)?;
    let refuse = |reason: String| RuntimeError::BadLayer {
        digest: expected.blob.unwrap_or(expected.diff_id).to_owned(),
        reason,
    };
    let size = unpack_into(&temporary.0, source, expected, limits).map_err(refuse)?;
    match std::fs::rename(&temporary.0, &target) {
        Ok(()) => Ok(size),
        // Another pull was faster with the same layer.
        Err(_) if target.is_dir() => Ok(size),
        Err(error) => Err(RuntimeError::io("rename", &target)(error)),
    }
}

/// Bytes of the regular files below `dir`.
pub(super) fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path()),
            Ok(found) if found.is_file() => found.len(),
            _ => 0,
        })
        .sum()
}

/// A directory that goes away unless it was renamed.
struct Temporary(PathBuf);

impl Temporary {
    fn new(images: &Path) -> Result<Self> {
        let path = images.join("tmp").join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir(&path).map_err(RuntimeError::io("create", &path))?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Counts and digests what passes, and ends it when it is too much.
pub(super) struct Meter<R> {
    inner: R,
    hash: Sha256,
    left: u64,
}

impl<R: Read> Meter<R> {
    pub(super) fn new(inner: R, limit: u64) -> Self {
        Self { inner, hash: Sha256::new(), left: limit }
    }

    pub(super) fn digest(&mut self) -> String {
        let hash = std::mem::take(&mut self.hash).finalize();
        hash.iter().fold("sha256:".to_owned(), |mut text, byte| {
            text.push_str(&format!("{byte:02x}"));
            text
        })
    }
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.left = self
            .left
            .checked_sub(read as u64)
            .ok_or_else(|| std::io::Error::other("it is larger than the limit for one layer"))?;
        self.hash.update(&buf[..read]);
        Ok(read)
    }
}

/// Decompresses by what the first bytes say, whatever the media type claims.
pub(super) fn decompress<'a>(source: impl Read + 'a) -> std::io::Result<Box<dyn Read + 'a>> {
    let mut source = source;
    let mut head = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut head)?;
    let compressed = std::io::Cursor::new(head.clone()).chain(source);
    Ok(match head[..] {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(compressed)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::stream::read::Decoder::new(compressed)?),
        _ => Box::new(compressed),
    })
}

fn unpack_into(
    root: &Path,
    source: impl Read,
    expected: &Expected<'_>,
    limits: Limits,
) -> std::result::Result<u64, String> {
    let text = |error: std::io::Error| format!("it can't be read: {error}");
    let mut blob = Meter::new(BufReader::with_capacity(1 << 18, source), limits.bytes);
    let (diff_id, size) = {
        // The tar may carry headers beyond its files; give it room, but not without end.
        let headers = limits.entries.saturating_mul(2048);
        let plain = decompress(&mut blob).map_err(text)?;
        let mut plain = Meter::new(plain, limits.bytes.saturating_add(headers));
        let size = Unpacker::open(root, limits)?.run(&mut plain)?;
        std::io::copy(&mut plain, &mut std::io::sink()).map_err(text)?;
        (plain.digest(), size)
    };
    std::io::copy(&mut blob, &mut std::io::sink()).map_err(text)?;
    let found = blob.digest();
    if let Some(digest) = expected.blob.filter(|digest| **digest != found) {
        return Err(format!("its content has digest {found}, not {digest}"));
    }
    if diff_id != expected.diff_id {
        return Err(format!(
            "unpacked it has digest {diff_id}, but the image's configuration says {}",
            expected.diff_id
        ));
    }
    Ok(size)
}
