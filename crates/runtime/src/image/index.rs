//! The list of images, as one small JSON file replaced as a whole.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Image, access};
use crate::error::{Result, RuntimeError};
use crate::sys;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Index {
    /// By id.
    pub(super) images: BTreeMap<String, Image>,
}

impl Index {
    pub(super) fn load(dir: &Path) -> Result<Self> {
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

    pub(super) fn save(&self, dir: &Path) -> Result<()> {
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
