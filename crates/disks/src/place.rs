//! Directories that are there wholly or not at all, and the JSON files in them.

use std::io;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt;

use crate::Error;

/// Refuses an id that can't be the name of a directory.
pub(crate) fn check_id(what: &'static str, id: &str) -> Result<(), Error> {
    let usable = (1..=128).contains(&id.len())
        && !id.starts_with('.')
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if usable { Ok(()) } else { Err(Error::BadId { what, id: id.chars().take(200).collect() }) }
}

/// A directory for something that is not whole yet; wiped when dropped.
#[derive(Debug)]
pub(crate) struct Staged {
    dir: PathBuf,
}

impl Staged {
    pub(crate) async fn create(dir: PathBuf) -> Result<Staged, Error> {
        fs::create_dir(&dir).await.map_err(Error::io("create", &dir))?;
        Ok(Staged { dir })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// Makes it known under its name, for good. Its files are flushed already.
    pub(crate) async fn publish(self, target: &Path) -> Result<(), Error> {
        sync_dir(&self.dir).await?;
        // Fails when the target is a directory that is not empty: what was there first stays.
        fs::rename(&self.dir, target).await.map_err(Error::io("create", target))?;
        match target.parent() {
            Some(parent) => sync_dir(parent).await,
            None => Ok(()),
        }
    }

    /// Removes it, and tells when that fails.
    pub(crate) async fn wipe(self) -> Result<(), Error> {
        fs::remove_dir_all(&self.dir).await.map_err(Error::io("remove", &self.dir))
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Blocks for a moment: few files, and a caller that gave up must find nothing left.
        match std::fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(dir = %self.dir.display(), %error, "something unfinished stays until the next start");
            }
            _ => {}
        }
    }
}

/// Whether renaming a directory failed because there is one.
pub(crate) fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

pub(crate) async fn sync_dir(dir: &Path) -> Result<(), Error> {
    let file = File::open(dir).await.map_err(Error::io("open", dir))?;
    file.sync_all().await.map_err(Error::io("flush", dir))
}

/// Writes a new file and flushes it to the disk.
pub(crate) async fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let bytes = serde_json::to_vec(value).map_err(|error| Error::io("write", path)(error.into()))?;
    let mut file = File::create(path).await.map_err(Error::io("create", path))?;
    file.write_all(&bytes).await.map_err(Error::io("write", path))?;
    file.flush().await.map_err(Error::io("write", path))?;
    file.sync_all().await.map_err(Error::io("flush", path))
}

/// Reads a file; `None` when there is none.
pub(crate) async fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match fs::read(path).await {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::io("read", path)(error.into()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("read", path)(error)),
    }
}

/// Reads the file of this name in every directory below `dir`, in the order of their names.
pub(crate) async fn read_all<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<Vec<T>, Error> {
    let mut entries = fs::read_dir(dir).await.map_err(Error::io("read", dir))?;
    let mut paths = Vec::new();
    while let Some(entry) = entries.next_entry().await.map_err(Error::io("read", dir))? {
        paths.push(entry.path().join(name));
    }
    paths.sort();
    let mut found = Vec::with_capacity(paths.len());
    for path in paths {
        found.extend(read_json(&path).await?);
    }
    Ok(found)
}

/// A path as an argument of a program that takes text.
pub(crate) fn text(path: &Path) -> Result<&str, Error> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "its path is not UTF-8");
    path.to_str().ok_or_else(|| Error::io("name", path)(invalid()))
}

/// A complaint without the path of ours that it is about.
pub(crate) fn without(complaint: &str, path: &str) -> String {
    complaint.replace(path, "image").replace("Could not open 'image': ", "")
}

/// Runs what takes long where it may.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::io("run", "a task")(io::Error::other(error)))
}
