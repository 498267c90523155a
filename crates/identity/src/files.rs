//! Small secret files: read, and written so that a crash leaves the old one or the new one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A key, certificate or directory that cannot be used. The message names it and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refuses.
    #[error("Cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried: `read`, `write`, `create`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// The content is not what it must be.
    #[error(
        "{} is damaged: it is not {expected}. Restore it from a backup, or remove it to have a new one made \
         (what was signed with the old one is then no longer accepted)",
        path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What it should be.
        expected: String,
    },
    /// One of two files that belong together is missing, or is another's.
    #[error("{} does not belong to {}: {why}", path.display(), other.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The file it should go with.
        other: PathBuf,
        /// What is wrong, and what to do.
        why: &'static str,
    },
}

impl FileError {
    /// `path` does not hold `expected`.
    pub(crate) fn corrupt(path: &Path, expected: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_owned(), expected: expected.into() }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    move |source| FileError::Io { action, path: path.to_owned(), source }
}

/// The text of a file; `None` if there is none.
pub(crate) fn read(path: &Path) -> Result<Option<String>, FileError> {
    match fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(FileError::corrupt(path, "text")),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Makes a directory that only its owner can enter, unless it is there.
pub(crate) fn create_dir(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("create", path))
}

/// Writes a file with mode 0600: beside its place, synced, then moved there.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), FileError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    let beside = PathBuf::from(beside);
    // What a process with our id left behind when it died.
    let _ = fs::remove_file(&beside);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
            _ => Ok(()),
        }
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&beside);
        failed("write", path)(error)
    })
}

/// PEM text of `der`.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for (at, character) in body.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push_str(&format!("\n-----END {label}-----\n"));
    text
}
