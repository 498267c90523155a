//! The image store: names, configurations and unpacked layers under `DATA_DIR/agent/images`.
//!
//! On disk: `index.json` (names to images), `key` (by which credentials are remembered), `configs/<hex>.json` (configuration as the registry has it),
//! `layers/<hex of the diff id>/` (unpacked, overlay-style whiteouts), `tmp/` (unfinished work; emptied at open).
//! A layer directory exists only when it is whole: it comes into its place, and leaves it, by a rename ([`unpack`], [`removal`]).

mod access;
pub mod config;
mod export;
mod hosts;
mod import;
mod in_use;
mod index;
mod layer;
mod pull;
mod reference;
mod removal;
mod rewrite;
mod service;
mod unpack;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

pub use access::{Access, AccessBook};
pub use config::ImageConfig;
pub use pull::{Progress, ProgressFn, RegistryAuth};
pub use reference::normalize;
pub use removal::Removed;
pub use rewrite::rewrite;
pub use service::{ByteStream, ImageService};
pub use unpack::Limits;

use self::access::Fingerprints;
use self::index::Catalog;
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
    /// Diff ids of the layers, lowest first. Not every [`ImageService`] tells them.
    pub layers: Vec<String>,
    /// Bytes of the unpacked layers (layers shared with other images count in each).
    pub size_bytes: u64,
    /// What to run and how. Not every [`ImageService`] tells it.
    pub config: ImageConfig,
    /// By repository, to whom its registry gave it; empty where an administrator brought it, none where nothing is known of that, and
    /// nobody may have it. It stays in the store: who lists images has no business with it.
    #[serde(default, skip_serializing)]
    pub access: Option<BTreeMap<String, Access>>,
}

/// The images of this node.
pub struct ImageStore {
    dir: PathBuf,
    pods: PathBuf,
    limits: Limits,
    /// What an administrator says of registries ([`hosts`]).
    registries: Option<PathBuf>,
    index: Arc<Catalog>,
    fingerprints: Fingerprints,
    /// Read: layers are being added or put to use. Write: layers are being removed.
    layers: Arc<tokio::sync::RwLock<()>>,
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
            index: Arc::new(Catalog::open(dir)?),
            fingerprints: Fingerprints::open(dir)?,
            dir: dir.to_owned(),
            pods: pods.to_owned(),
            limits,
            registries: None,
            layers: Arc::default(),
            pulls: Mutex::new(HashMap::new()),
            slots: Arc::new(tokio::sync::Semaphore::new(PARALLEL_LAYERS)),
        })
    }

    /// The same with the directory in which an administrator says where images of registries are fetched from and whose certificates are
    /// good there, as containerd's `certs.d`. It need not be there.
    #[must_use]
    pub fn with_registries(self, dir: Option<PathBuf>) -> Self {
        Self { registries: dir, ..self }
    }

    /// Fetches an image from its registry, or a mirror of it, and unpacks it. Layers that are here already are not fetched again.
    ///
    /// HTTPS always, except for loopback registries (`localhost`, `127.x.y.z`, `[::1]`), which get plain HTTP, and where the
    /// configuration of registries says `http`.
    ///
    /// # Errors
    /// `BadReference`, `Pull`, `BadLayer`, `BadImage`, `InvalidConfig` for the configuration of registries; nothing is left behind but
    /// whole layers.
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

    /// Images as an archive, which other programs import, too: an OCI image layout that is also what `docker save` writes. An image that is
    /// asked for by a name has that name in it, else all that it has. Its layers are packed anew, so in it it has another id.
    ///
    /// # Errors
    /// `ImageNotFound`, `BadReference`. What fails later the stream says.
    pub async fn export(&self, references: &[String]) -> Result<ByteStream> {
        let held = Arc::clone(&self.layers).read_owned().await;
        let mut images: Vec<(Image, Vec<String>)> = Vec::new();
        for reference in references {
            let image = self.resolve(reference);
            let image = image.ok_or_else(|| RuntimeError::ImageNotFound(reference.clone()))?;
            let names = match reference.contains('@') || reference.starts_with("sha256:") {
                true => image.names.clone(),
                false => vec![normalize(reference)?],
            };
            match images.iter_mut().find(|(known, _)| known.id == image.id) {
                Some((_, known)) => known.extend(names),
                None => images.push((image, names)),
            }
        }
        for (_, names) in &mut images {
            names.sort();
            names.dedup();
        }
        Ok(export::stream(self.dir.clone(), images, held))
    }

    /// All images, in order of id.
    pub fn list(&self) -> Vec<Image> {
        self.index.read().images.values().cloned().collect()
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
        self.index.read().find(reference).cloned()
    }

    /// Directories of an image's layers, lowest first. Hold [`ImageStore::pin`] until they are in use.
    pub(crate) fn layer_dirs(&self, image: &Image) -> Vec<PathBuf> {
        image.layers.iter().map(|diff_id| layer_dir(&self.dir, diff_id)).collect()
    }

    /// While it is held, no layer is removed.
    pub(crate) async fn pin(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.layers.read().await
    }

    /// Makes a whole image known: its layers reach the disk before its name does.
    async fn record(&self, image: Image) -> Result<Image> {
        let (dir, index) = (self.dir.clone(), Arc::clone(&self.index));
        run_blocking(move || {
            let opened = std::fs::File::open(&dir).map_err(RuntimeError::io("open", &dir))?;
            rustix::fs::syncfs(&opened).map_err(|errno| RuntimeError::io("sync", &dir)(errno.into()))?;
            let id = image.id.clone();
            index.change(|index| index.add(image))?;
            let found = index.read().images.get(&id).cloned();
            found.ok_or(RuntimeError::ImageNotFound(id))
        })
        .await
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

/// Runs file work on the pool for blocking work.
pub(crate) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RuntimeError::Task(error.to_string()))?
}
