//! The image store: names, configurations and unpacked layers under `DATA_DIR/agent/images`.
//!
//! On disk: `index.json` (names to images), `configs/<hex>.json` (configuration as the registry has it),
//! `layers/<hex of the diff id>/` (unpacked, overlay-style whiteouts), `tmp/` (unfinished work; emptied at open).
//! A layer directory exists only when it is whole.

mod access;
pub mod config;
mod import;
mod in_use;
mod index;
mod layer;
mod pull;
mod reference;
mod unpack;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

pub use access::Access;
pub use config::ImageConfig;
pub use pull::{Progress, ProgressFn, RegistryAuth};
pub use reference::normalize;
pub use unpack::Limits;

use crate::error::{Result, RuntimeError};

/// An image that is whole on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Digest of the configuration, `sha256:<hex>`.
    pub id: String,
    /// Normalised names that lead to it, such as `docker.io/library/busybox:latest`.
    pub names: Vec<String>,
    /// `repository@sha256:...` by which it was pulled, if it was.
    #[serde(default)]
    pub repo_digests: Vec<String>,
    /// Diff ids of the layers, lowest first.
    pub layers: Vec<String>,
    /// Bytes of the unpacked layers (layers shared with other images count in each).
    pub size_bytes: u64,
    /// What to run and how.
    pub config: ImageConfig,
    /// By repository, to whom its registry gave it; of what was never pulled there is nothing.
    #[serde(default)]
    pub access: BTreeMap<String, Access>,
}

/// What [`ImageStore::gc`] removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// Images.
    pub images: usize,
    /// Layer directories.
    pub layers: usize,
}

/// The images of this node.
pub struct ImageStore {
    dir: PathBuf,
    pods: PathBuf,
    limits: Limits,
    index: Mutex<index::Index>,
    /// Read: layers are being added or put to use. Write: layers are being removed.
    layers: tokio::sync::RwLock<()>,
    /// One pull of one name at a time: those who come later find it done.
    pulls: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Layers downloaded and unpacked at once, over all pulls.
    slots: Arc<tokio::sync::Semaphore>,
}

/// Layers downloaded and unpacked at the same time; more only compete for the disk.
const PARALLEL_LAYERS: usize = 4;

impl ImageStore {
    /// Opens the store in `dir`; `pods` is the directory of the pods whose containers hold layers in use.
    ///
    /// # Errors
    /// When the directories can't be made or the index can't be read.
    pub fn open(dir: &Path, pods: &Path) -> Result<Self> {
        Self::open_with(dir, pods, Limits::default())
    }

    /// [`ImageStore::open`] with limits of the caller's choice.
    ///
    /// # Errors
    /// As [`ImageStore::open`].
    pub fn open_with(dir: &Path, pods: &Path, limits: Limits) -> Result<Self> {
        let _ = std::fs::remove_dir_all(dir.join("tmp"));
        for name in ["layers", "configs", "tmp"] {
            let path = dir.join(name);
            std::fs::create_dir_all(&path).map_err(RuntimeError::io("create", &path))?;
        }
        Ok(Self {
            index: Mutex::new(index::Index::load(dir)?),
            dir: dir.to_owned(),
            pods: pods.to_owned(),
            limits,
            layers: tokio::sync::RwLock::new(()),
            pulls: Mutex::new(HashMap::new()),
            slots: Arc::new(tokio::sync::Semaphore::new(PARALLEL_LAYERS)),
        })
    }

    /// Fetches an image from its registry and unpacks it. Layers that are here already are not fetched again.
    ///
    /// HTTPS always, except for loopback registries (`localhost`, `127.x.y.z`, `[::1]`), which get plain HTTP.
    ///
    /// # Errors
    /// `BadReference`, `Pull`, `BadLayer`, `BadImage`; nothing is left behind but whole layers.
    pub async fn pull(
        &self,
        reference: &str,
        auth: RegistryAuth,
        progress: Option<ProgressFn>,
    ) -> Result<Image> {
        let name = normalize(reference)?;
        let turn = {
            let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
            pulls.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(pulls.entry(name.clone()).or_default())
        };
        let _turn = turn.lock().await;
        let _adding = self.layers.read().await;
        let image = pull::pull(self, &name, &auth, progress).await?;
        self.record(image).await
    }

    /// Takes an image from an OCI image layout tar or a `docker save` tar (plain, gzip or zstd).
    ///
    /// `name` replaces the names inside; with it the archive must hold exactly one image.
    ///
    /// # Errors
    /// `BadImage`, `BadLayer`, `BadReference`, `Io`.
    pub async fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<Image>> {
        let name = name.map(normalize).transpose()?;
        let _adding = self.layers.read().await;
        let job =
            import::Job { archive: archive.to_owned(), dir: self.dir.clone(), limits: self.limits, name };
        let images = run_blocking(move || job.run()).await?;
        let mut recorded = Vec::new();
        for image in images {
            recorded.push(self.record(image).await?);
        }
        Ok(recorded)
    }

    /// All images, in order of id.
    pub fn list(&self) -> Vec<Image> {
        self.index().images.values().cloned().collect()
    }

    /// Ids of the images that containers were made from or have mounted.
    ///
    /// # Errors
    /// When the pods' directories can't be read.
    pub async fn used(&self) -> Result<HashSet<String>> {
        let pods = self.pods.clone();
        run_blocking(move || Ok(in_use::images(&pods)?.into_keys().collect())).await
    }

    /// Finds an image by any spelling of a name, by `name@digest`, or by id (`sha256:...`).
    pub fn resolve(&self, reference: &str) -> Option<Image> {
        let index = self.index();
        if let Some(image) = index.images.get(reference) {
            return Some(image.clone());
        }
        let name = normalize(reference).ok()?;
        index
            .images
            .values()
            .find(|image| image.names.contains(&name) || image.repo_digests.contains(&name))
            .cloned()
    }

    /// Removes one name, or with an id the image with all its names. Layers that nothing needs any more go too.
    /// Removing what is not there succeeds.
    ///
    /// # Errors
    /// `ImageInUse` when a container was made from it and this was its last name.
    pub async fn remove(&self, reference: &str) -> Result<()> {
        let Some(image) = self.resolve(reference) else {
            return Ok(());
        };
        let _removing = self.layers.write().await;
        let name = normalize(reference).unwrap_or_default();
        let last = reference == image.id || image.names.iter().all(|n| *n == name);
        if last {
            let used = in_use::images(&self.pods)?;
            if let Some(container) = used.get(&image.id) {
                return Err(RuntimeError::ImageInUse { image: image.id, container: container.clone() });
            }
        }
        self.change(|index| {
            if last {
                index.images.remove(&image.id);
            } else if let Some(found) = index.images.get_mut(&image.id) {
                found.names.retain(|n| *n != name);
            }
        })?;
        self.remove_orphans()?;
        Ok(())
    }

    /// Removes every image that no container was made from and that `keep` (ids or names) does not hold.
    ///
    /// # Errors
    /// When the directories can't be read or changed.
    pub async fn gc(&self, keep: &HashSet<String>) -> Result<Removed> {
        let _removing = self.layers.write().await;
        let used = in_use::images(&self.pods)?;
        let before = self.index().images.len();
        self.change(|index| {
            index.images.retain(|id, image| {
                used.contains_key(id)
                    || keep.contains(id)
                    || image.names.iter().any(|name| keep.contains(name))
            });
        })?;
        let after = self.index().images.len();
        Ok(Removed { images: before - after, layers: self.remove_orphans()? })
    }

    /// Directories of an image's layers, lowest first. Hold [`ImageStore::pin`] until they are in use.
    pub(crate) fn layer_dirs(&self, image: &Image) -> Vec<PathBuf> {
        image.layers.iter().map(|diff_id| layer_dir(&self.dir, diff_id)).collect()
    }

    /// While it is held, no layer is removed.
    pub(crate) async fn pin(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.layers.read().await
    }

    fn index(&self) -> std::sync::MutexGuard<'_, index::Index> {
        // The index is changed by whole values only, so a panic elsewhere leaves it sound.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the index in memory and on disk, or neither.
    fn change(&self, edit: impl FnOnce(&mut index::Index)) -> Result<()> {
        let mut index = self.index();
        let mut changed = index.clone();
        edit(&mut changed);
        changed.save(&self.dir)?;
        *index = changed;
        Ok(())
    }

    /// Makes a whole image known: its layers reach the disk before its name does.
    async fn record(&self, image: Image) -> Result<Image> {
        let dir = self.dir.clone();
        run_blocking(move || {
            let opened = std::fs::File::open(&dir).map_err(RuntimeError::io("open", &dir))?;
            rustix::fs::syncfs(&opened).map_err(|errno| RuntimeError::io("sync", &dir)(errno.into()))
        })
        .await?;
        let id = image.id.clone();
        self.change(|index| index.add(image))?;
        let found = self.index().images.get(&id).cloned();
        found.ok_or(RuntimeError::ImageNotFound(id))
    }

    /// Deletes layers and configurations that belong to no image and no container.
    fn remove_orphans(&self) -> Result<usize> {
        let mut needed = in_use::layers(&self.pods)?;
        let mut configs = HashSet::new();
        for image in self.index().images.values() {
            needed.extend(image.layers.iter().map(|id| hex_of(id).to_owned()));
            configs.insert(format!("{}.json", hex_of(&image.id)));
        }
        let removed = remove_except(&self.dir.join("layers"), &needed)?;
        remove_except(&self.dir.join("configs"), &configs)?;
        Ok(removed)
    }
}

/// Where the layer with this diff id is, once it is whole.
fn layer_dir(dir: &Path, diff_id: &str) -> PathBuf {
    dir.join("layers").join(hex_of(diff_id))
}

fn hex_of(digest: &str) -> &str {
    digest.strip_prefix("sha256:").unwrap_or(digest)
}

/// Checks that `digest` is `sha256:` and 64 hex digits, because it becomes a file name.
fn check_digest(digest: &str) -> std::result::Result<(), String> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if hex.len() == 64 && hex.bytes().all(lower_hex) {
        Ok(())
    } else {
        Err(format!("{digest:?} is not a sha256 digest"))
    }
}

fn remove_except(dir: &Path, keep: &HashSet<String>) -> Result<usize> {
    let mut removed = 0;
    for entry in std::fs::read_dir(dir).map_err(RuntimeError::io("read", dir))? {
        let entry = entry.map_err(RuntimeError::io("read", dir))?;
        if entry.file_name().to_str().is_some_and(|name| keep.contains(name)) {
            continue;
        }
        let path = entry.path();
        let gone = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        gone.map_err(RuntimeError::io("remove", &path))?;
        removed += 1;
    }
    Ok(removed)
}

/// Runs file work on the pool for blocking work.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RuntimeError::Task(error.to_string()))?
}
