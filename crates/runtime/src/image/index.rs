//! The list of images, as one small JSON file replaced as a whole.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::{Access, Image, access, normalize};
use crate::error::{Result, RuntimeError};
use crate::sys;

#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Index {
    /// By id.
    pub(super) images: BTreeMap<String, Image>,
}

/// An image with what is kept to the store.
#[derive(Serialize)]
struct Stored<'a> {
    #[serde(flatten)]
    image: &'a Image,
    access: &'a Option<BTreeMap<String, Access>>,
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
        let stored = |image| Stored { image, access: &image.access };
        let images: BTreeMap<_, _> = self.images.iter().map(|(id, image)| (id, stored(image))).collect();
        sys::write_json(&path, &serde_json::json!({ "images": images }), true)
    }

    /// Adds an image; its names leave other images, and what was known of the same image stays. One that an administrator brought, before
    /// or now, is for all; one that nothing was written down of is nobody's until it is pulled or brought again.
    pub(super) fn add(&mut self, image: Image) {
        for other in self.images.values_mut() {
            other.names.retain(|name| !image.names.contains(name));
        }
        let entry = self.images.entry(image.id.clone()).or_insert_with(|| Image {
            names: Vec::new(),
            repo_digests: Vec::new(),
            ..image.clone()
        });
        match (&mut entry.access, image.access) {
            (known, Some(new)) if new.is_empty() => *known = Some(new),
            (Some(known), Some(new)) if !known.is_empty() => access::merge(known, new),
            (known @ None, new) => *known = new,
            _ => {}
        }
        entry.names.extend(image.names);
        for digest in image.repo_digests {
            if !entry.repo_digests.contains(&digest) {
                entry.repo_digests.push(digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn image(access: &serde_json::Value) -> Image {
        let config = super::super::ImageConfig::default();
        let image = json!({"id": "sha256:x", "names": [], "layers": [], "size_bytes": 5, "config": config});
        let mut image: Image = serde_json::from_value(image).unwrap();
        image.access = serde_json::from_value(access.clone()).unwrap();
        image
    }

    #[test]
    fn whose_an_image_is_stays_in_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let private = json!({"r.example/a": {"everyone": false, "credentials": ["secret"]}});
        let catalog = Catalog::open(dir.path()).unwrap();
        catalog.change(|index| index.add(image(&private))).unwrap();
        assert!(!serde_json::to_string(&image(&private)).unwrap().contains("secret"));
        let again = Catalog::open(dir.path()).unwrap();
        let found = again.read().find("sha256:x").cloned().unwrap();
        assert_eq!(found, image(&private));
    }

    #[test]
    fn an_image_of_before_is_whose_next_pull_it_is() {
        let pulled = json!({"r.example/a": {"credentials": ["one"]}});
        let imported = json!({});
        let after = |first: &serde_json::Value, second: &serde_json::Value| {
            let mut index = Index::default();
            index.add(image(first));
            assert!(index.images["sha256:x"].was_pulled() == first["r.example/a"].is_object());
            index.add(image(second));
            let found = &index.images["sha256:x"];
            (found.was_pulled(), found.is_open_to_all("r.example/a:1"))
        };
        let unknown = serde_json::Value::Null;
        assert_eq!(after(&unknown, &unknown), (false, false), "it may be a private one");
        assert_eq!(after(&unknown, &pulled), (true, false));
        assert_eq!(after(&imported, &pulled), (false, true));
        assert_eq!(after(&pulled, &imported), (false, true));
        assert_eq!(after(&pulled, &pulled), (true, false));
    }
}
