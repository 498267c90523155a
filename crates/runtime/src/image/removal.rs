//! Images go: first the index forgets them, then what nothing needs any more leaves its place by a rename into `tmp`, and only there
//! is it deleted. An end in the middle, also that of the process, leaves no layer with half of its files where one is taken for whole;
//! what is left in `tmp` goes when the store is opened.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::Index;
use super::{ImageStore, hex_of, in_use, normalize, run_blocking};
use crate::error::{Result, RuntimeError};
use crate::sys;

/// What [`ImageStore::gc`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Images.
    pub images: usize,
    /// Layer directories.
    pub layers: usize,
}

/// Images that containers were made from or have mounted, by id, each with one such container.
type Used = HashMap<String, String>;

impl ImageStore {
    /// Removes one name, or with an id the image with all its names. Layers that nothing needs any more go too.
    /// Removing what is not there succeeds.
    ///
    /// # Errors
    /// `ImageInUse` when a container was made from it and this was its last name; when the directories can't be read or changed.
    pub async fn remove(&self, reference: &str) -> Result<()> {
        let reference = reference.to_owned();
        let (done, _) = self.sweep(move |used, index| remove_one(&reference, used, index)).await?;
        done
    }

    /// Removes, of the images with these ids, those that no container was made from, and says which they were.
    ///
    /// # Errors
    /// When the directories can't be read or changed.
    pub async fn remove_unused(&self, ids: HashSet<String>) -> Result<HashSet<String>> {
        let choose = move |used: &Used, index: &mut Index| {
            let gone: HashSet<String> = ids
                .into_iter()
                .filter(|id| !used.contains_key(id) && index.images.contains_key(id))
                .collect();
            index.images.retain(|id, _| !gone.contains(id));
            gone
        };
        Ok(self.sweep(choose).await?.0)
    }

    /// Removes every image that no container was made from and that `keep` (ids or names) does not hold.
    ///
    /// # Errors
    /// When the directories can't be read or changed.
    pub async fn gc(&self, keep: &HashSet<String>) -> Result<Removed> {
        let keep = keep.clone();
        let choose = move |used: &Used, index: &mut Index| {
            let before = index.images.len();
            index.images.retain(|id, image| {
                used.contains_key(id)
                    || keep.contains(id)
                    || image.names.iter().any(|name| keep.contains(name))
            });
            before - index.images.len()
        };
        let (images, layers) = self.sweep(choose).await?;
        Ok(Removed { images, layers })
    }

    /// Has `choose` take images out of the index, then removes what belongs to no image and no container any more. Returns what
    /// `choose` does, and how many layers went. Pulls and new containers wait only until these have left their places.
    async fn sweep<T: Send + 'static>(
        &self,
        choose: impl FnOnce(&Used, &mut Index) -> T + Send + 'static,
    ) -> Result<(T, usize)> {
        let alone = Arc::clone(&self.layers).write_owned().await;
        let (index, dir, pods) = (Arc::clone(&self.index), self.dir.clone(), self.pods.clone());
        run_blocking(move || {
            let used = in_use::images(&pods)?;
            let outcome = index.change(|index| choose(&used, index))?;
            let mut layers = in_use::layers(&pods)?;
            let mut configs = HashSet::new();
            for image in index.read().images.values() {
                layers.extend(image.layers.iter().map(|id| hex_of(id).to_owned()));
                configs.insert(format!("{}.json", hex_of(&image.id)));
            }
            let graves = bury_except(&dir, "layers", &layers)?;
            let files = bury_except(&dir, "configs", &configs)?;
            drop(alone);
            // One that can't be deleted keeps none of the others.
            let deleted: Vec<Result<()>> = graves.iter().chain(&files).map(|grave| delete(grave)).collect();
            deleted.into_iter().collect::<Result<()>>()?;
            Ok((outcome, graves.len()))
        })
        .await
    }
}

fn remove_one(reference: &str, used: &Used, index: &mut Index) -> Result<()> {
    let Some(image) = index.find(reference) else { return Ok(()) };
    let id = image.id.clone();
    let name = normalize(reference).unwrap_or_default();
    let last = reference == id || image.names.iter().all(|n| *n == name);
    if !last {
        if let Some(found) = index.images.get_mut(&id) {
            found.names.retain(|n| *n != name);
        }
        return Ok(());
    }
    if let Some(container) = used.get(&id) {
        return Err(RuntimeError::ImageInUse { image: id, container: container.clone() });
    }
    index.images.remove(&id);
    Ok(())
}

/// Takes all but `keep` from the store's directory `name`, and says where it is now.
fn bury_except(store: &Path, name: &str, keep: &HashSet<String>) -> Result<Vec<PathBuf>> {
    let (dir, tmp) = (store.join(name), store.join("tmp"));
    let mut graves = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(RuntimeError::io("read", &dir))? {
        let entry = entry.map_err(RuntimeError::io("read", &dir))?;
        if entry.file_name().to_str().is_some_and(|name| keep.contains(name)) {
            continue;
        }
        let (path, grave) = (entry.path(), tmp.join(uuid::Uuid::new_v4().to_string()));
        std::fs::rename(&path, &grave).map_err(RuntimeError::io("remove", &path))?;
        graves.push(grave);
    }
    Ok(graves)
}

fn delete(path: &Path) -> Result<()> {
    if path.is_dir() {
        return sys::remove_tree(path);
    }
    std::fs::remove_file(path).map_err(RuntimeError::io("remove", path))
}
