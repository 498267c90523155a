//! The seam between the agent and whatever keeps the images of containers.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{Image, ImageStore, RegistryAuth};
use crate::error::Result;

/// Bytes as they come.
pub type ByteStream = BoxStream<'static, std::io::Result<Bytes>>;

/// Images of containers on this node; shaped after the Container Runtime Interface.
#[async_trait]
pub trait ImageService: Send + Sync + 'static {
    /// Fetches an image from its registry.
    ///
    /// # Errors
    /// `BadReference`; `PullDenied` where the registry does not give it to who asks, `Pull` where it can't be had for another reason.
    async fn pull(&self, reference: &str, auth: RegistryAuth) -> Result<Image>;
    /// Takes images from an archive: an OCI image layout or what `docker save` writes. `name` replaces the names inside; the archive
    /// must hold exactly one image then.
    ///
    /// # Errors
    /// `BadImage`, `BadLayer`, `BadReference` where the archive or the name are at fault.
    async fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<Image>>;
    /// Images as an archive in both forms that `import` takes, under the names by which they are asked for.
    ///
    /// # Errors
    /// `ImageNotFound`, `BadReference`; what fails later the stream says.
    async fn export(&self, references: &[String]) -> Result<ByteStream>;
    /// All images.
    ///
    /// # Errors
    /// Whoever keeps them can't be asked.
    async fn list(&self) -> Result<Vec<Image>>;
    /// Finds an image by any spelling of a name, by `name@digest`, or by id (`sha256:...`).
    ///
    /// # Errors
    /// Whoever keeps them can't be asked.
    async fn resolve(&self, reference: &str) -> Result<Option<Image>>;
    /// Whether an image may be used under the name `reference` by who has these credentials for it.
    fn is_open_to(&self, image: &Image, reference: &str, credentials: &[RegistryAuth]) -> bool;
    /// Ids of the images that containers were made from or have mounted.
    ///
    /// # Errors
    /// When that can't be found out.
    async fn used(&self) -> Result<HashSet<String>>;
    /// Removes, of the images with these ids, those that no container was made from, and says which they were.
    ///
    /// # Errors
    /// When one can't be removed.
    async fn remove_unused(&self, ids: HashSet<String>) -> Result<HashSet<String>>;
    /// A directory of the file system that they are kept in.
    ///
    /// # Errors
    /// Whoever keeps them can't be asked.
    async fn place(&self) -> Result<PathBuf>;
}

#[async_trait]
impl ImageService for ImageStore {
    async fn pull(&self, reference: &str, auth: RegistryAuth) -> Result<Image> {
        ImageStore::pull(self, reference, auth, None).await
    }

    async fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<Image>> {
        ImageStore::import(self, archive, name).await
    }

    async fn export(&self, references: &[String]) -> Result<ByteStream> {
        ImageStore::export(self, references).await
    }

    async fn list(&self) -> Result<Vec<Image>> {
        Ok(ImageStore::list(self))
    }

    async fn resolve(&self, reference: &str) -> Result<Option<Image>> {
        Ok(ImageStore::resolve(self, reference))
    }

    fn is_open_to(&self, image: &Image, reference: &str, credentials: &[RegistryAuth]) -> bool {
        ImageStore::is_open_to(self, image, reference, credentials)
    }

    async fn used(&self) -> Result<HashSet<String>> {
        ImageStore::used(self).await
    }

    async fn remove_unused(&self, ids: HashSet<String>) -> Result<HashSet<String>> {
        ImageStore::remove_unused(self, ids).await
    }

    async fn place(&self) -> Result<PathBuf> {
        Ok(self.dir.clone())
    }
}
