//! What can go wrong with images and disks.

use std::io;
use std::path::PathBuf;

/// Why a call failed. Each message says what, where, and what to do when there is something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// qemu-img is not installed.
    #[error(
        "{program} was not found: install the package `qemu-utils` (Debian) to use images of virtual machines"
    )]
    MissingQemuImg {
        /// The program that was looked for.
        program: String,
    },
    /// An id can't be the name of a directory.
    #[error(
        "{what} id {id:?} is not usable: it must be 1 to 128 of a-z, A-Z, 0-9, '-', '_' and '.', and not begin with '.'"
    )]
    BadId {
        /// `image` or `disk`.
        what: &'static str,
        /// The id.
        id: String,
    },
    /// The bytes are no image of the format that was declared, or one that is not safe to use.
    #[error("the image is not usable: {message}")]
    BadImage {
        /// What is wrong with it, and what to do.
        message: String,
    },
    /// More bytes than allowed.
    #[error("the image is larger than the limit of {limit_bytes} bytes")]
    TooLarge {
        /// The limit on uploaded bytes.
        limit_bytes: u64,
    },
    /// A disk of a size that can't be.
    #[error("a disk of {size_bytes} bytes is larger than the limit of {limit_bytes} bytes")]
    DiskTooLarge {
        /// The size that was asked for.
        size_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// The upload broke off.
    #[error("the upload broke off after {received_bytes} bytes: {message}")]
    Interrupted {
        /// How far it came.
        received_bytes: u64,
        /// What the sender's side said.
        message: String,
    },
    /// The id is taken.
    #[error("image {id} is on this node already; images never change: use another id")]
    Exists {
        /// The image.
        id: String,
    },
    /// No such image.
    #[error("image {id} is not on this node")]
    NotFound {
        /// The image.
        id: String,
    },
    /// Disks were made from it.
    #[error("image {id} is in use by {} disk(s), first of all of {}: remove those first", disks.len(), disks.first().map_or("", String::as_str))]
    InUse {
        /// The image.
        id: String,
        /// Owners of its disks, sorted.
        disks: Vec<String>,
    },
    /// The disk that holds the files is full.
    #[error("no space is left on the device that holds {}: free some, or move the data directory", path.display())]
    NoSpace {
        /// A path on that device.
        path: PathBuf,
    },
    /// qemu-img failed for a reason that is not the image's.
    #[error("{command} failed: {message}")]
    QemuImg {
        /// What was run.
        command: String,
        /// What it said.
        message: String,
    },
    /// An operation of the host's failed.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: says what was tried on what, and picks a full disk out.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace { path },
            _ => Error::Io { action, path, source },
        }
    }
}
