//! The list of images, as one small JSON file replaced as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Image, access, normalize};
use crate::error::{Result, RuntimeError};
use crate::sys;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Index {
    /// By id.
    pub(super) images: BTreeMap<String, Image>,
}

/// The list in memory and on disk.
pub(super) struct Catalog {
    dir: PathBuf,
    index: Mutex<Index>,
}

impl Catalog {
    /// The list in `dir`; an empty one where there is none.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        Ok(Self { dir: dir.to_owned(), index: Mutex::new(Index::load(dir)?) })
    }

    pub(super) fn read(&self) -> MutexGuard<'_, Index> {
        // The index is changed by whole values only, so a panic elsewhere leaves it sound.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the index in memory and on disk, or neither. Waits for the disk.
    pub(super) fn change<T>(&self, edit: impl FnOnce(&mut Index) -> T) -> Result<T> {
        let mut index = self.read();
        let mut changed = index.clone();
        let outcome = edit(&mut changed);
        changed.save(&self.dir)?;
        *index = changed;
        Ok(outcome)
    }
}

impl Index {
    /// By any spelling of a name, by `name@digest`, or by id.
    pub(super) fn find(&self, reference: &str) -> Option<&Image> {
        if let Some(image) = self.images.get(reference) {
            return Some(image);
        }
        let name = normalize(reference).ok()?;
        self.images.values().find(|image| image.names.contains(&name) || image.repo_digests.contains(&name))
    }

    fn load(dir: &Path) -> Result<Self> {
        let path = dir.join("index.json");
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(error) => return Err(RuntimeError::io("read", path)(error)),
        };
        serde_json::from_slice(&bytes).map_err(|error| RuntimeError::io("read", path)(error.into()))
    }

    fn save(&self, dir: &Path) -> Result<()> {
        let path = dir.join("index.json");
        sys::write_json(&path, self, true)
    }

    /// Adds an image; its names leave other images, and what was known of the same image stays. One that an administrator brought, before
    /// or now, is for all.
    pub(super) fn add(&mut self, image: Image) {
        for other in self.images.values_mut() {
            other.names.retain(|name| !image.names.contains(name));
        }
        let entry = self.images.entry(image.id.clone()).or_insert_with(|| Image {
            names: Vec::new(),
            repo_digests: Vec::new(),
            ..image.clone()
        });
        if image.access.is_empty() {
            entry.access.clear();
        } else if entry.was_pulled() {
            access::merge(&mut entry.access, image.access);
        }
        entry.names.extend(image.names);
        for digest in image.repo_digests {
            if !entry.repo_digests.contains(&digest) {
                entry.repo_digests.push(digest);
            }
        }
    }
}
