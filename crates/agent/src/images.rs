//! Disk images as this node gets at them: fetched from another node where they are not here.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, is_not_found};
use yunfan_disks::{Format, ImageStore, Limits};
use yunfan_resources::image::{DiskFormat, Image, ImagePhase, referred};

use crate::Shared;
use crate::server::Client;

/// Why an image can't be used now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("{0}")]
    Disk(#[from] yunfan_disks::Error),
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// Its bytes have to come first.
    #[error("{0}")]
    Waits(String),
    #[error("{0}")]
    Unusable(String),
}

/// The images of the cloud, and the ones that are here.
pub(crate) struct Images {
    shared: Shared,
    images: Informer<Image>,
    nodes: Informer<Node>,
    store: ImageStore,
    agents: Arc<Client>,
}

/// How a node keeps an image of this format: what needs no looking into is kept as it is.
pub(crate) fn stored_as(format: DiskFormat) -> Format {
    match format {
        DiskFormat::Qcow2 => Format::Qcow2,
        DiskFormat::Vmdk => Format::Vmdk,
        DiskFormat::Vdi => Format::Vdi,
        DiskFormat::Vhd => Format::Vhd,
        DiskFormat::Vhdx => Format::Vhdx,
        DiskFormat::Iso => Format::Iso,
        DiskFormat::Raw | DiskFormat::Ami | DiskFormat::Aki | DiskFormat::Ari => Format::Raw,
    }
}

/// An image whose bytes are on this node.
pub(crate) struct Ready {
    pub(crate) id: String,
    pub(crate) virtual_size_bytes: u64,
}

impl Images {
    pub(crate) fn new(shared: Shared, store: ImageStore, agents: Arc<Client>) -> Arc<Self> {
        let (images, nodes) = (shared.informers.of(), shared.informers.of());
        Arc::new(Self { shared, images, nodes, store, agents })
    }

    /// Waits until the cloud's images are known.
    pub(crate) async fn synced(&self) {
        self.images.synced().await;
    }

    /// The image of this name.
    pub(crate) fn of(&self, namespace: &str, name: &str) -> Option<Arc<Image>> {
        self.images.get(Some(namespace), name)
    }

    /// Whether an image is still to be made of the root disk of the machine of this name.
    pub(crate) fn is_any_being_made_of(&self, namespace: &str, machine: &str) -> bool {
        self.images.in_namespace(namespace).iter().any(|image| image.is_being_made_of_machine(machine))
    }

    /// Sees to it that the image that something in `namespace` names so is here.
    pub(crate) async fn ready(&self, namespace: Option<&str>, name: &str) -> Result<Ready, ImageError> {
        let own = namespace.unwrap_or_default();
        let (namespace, of_image) = referred(own, name);
        let Some(image) = self.images.get(Some(namespace), of_image) else {
            // Of its own project it can only be still to come; another's may have gone.
            return Err(match namespace == own {
                true => ImageError::Waits(format!("image {name} does not exist")),
                false => self.missing(namespace, of_image).await?,
            });
        };
        let status = image.status.clone().unwrap_or_default();
        match status.phase {
            ImagePhase::Active => {}
            ImagePhase::Queued | ImagePhase::Saving | ImagePhase::Staged => {
                return Err(ImageError::Waits(format!("image {name} has no data yet: upload it")));
            }
            ImagePhase::Failed => {
                return Err(ImageError::Unusable(format!(
                    "image {name} is not usable: {}",
                    status.message.unwrap_or_default()
                )));
            }
        }
        if !image.spec.disk_format.is_disk() {
            let format = image.spec.disk_format.name();
            return Err(ImageError::Unusable(format!("image {name} is no disk: its format is {format}")));
        }
        let id = image.kept_as();
        match self.store.get(&id).await? {
            None => self.fetch(&image, &id).await?,
            // Nothing is used that is not what everybody was told.
            Some(here) if status.sha512.as_ref().is_some_and(|wanted| *wanted != here.sha512) => {
                return Err(ImageError::Unusable(format!(
                    "what the node has of image {name} has another SHA-512 than the image"
                )));
            }
            Some(_) => {}
        }
        Ok(Ready { id, virtual_size_bytes: status.virtual_size_bytes.unwrap_or(0) })
    }

    /// Why an image of another project that we do not know of can't be used: it may only be so new that we have not heard of it.
    async fn missing(&self, namespace: &str, name: &str) -> Result<ImageError, ImageError> {
        match self.shared.writer.get::<Image>(Some(namespace), name).await {
            Ok(_) => Ok(ImageError::Waits(format!("image {name} is new to the node"))),
            Err(error) if is_not_found(&error) => {
                Ok(ImageError::Unusable(format!("image {name} does not exist")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Copies an image's bytes from a node that has them.
    async fn fetch(&self, image: &Image, id: &str) -> Result<(), ImageError> {
        let status = image.status.clone().unwrap_or_default();
        let holders: Vec<_> =
            status.nodes.iter().filter_map(|name| self.nodes.get(None, name)).collect::<Vec<_>>();
        let mut problem = format!("no node has the bytes of image {}", image.name_any());
        for node in &holders {
            match self.fetch_from(node, image, id).await {
                Ok(()) => {
                    self.note_holder(image).await?;
                    return Ok(());
                }
                Err(error) => problem = format!("fetching from node {}: {error}", node.name_any()),
            }
        }
        Err(ImageError::Unusable(problem))
    }

    async fn fetch_from(&self, node: &Node, image: &Image, id: &str) -> Result<(), String> {
        let answer = self.agents.get(node, &format!("/images/{id}")).await?;
        let format = stored_as(image.spec.disk_format);
        let bytes = answer.map(|chunk| chunk.map_err(std::io::Error::other)).boxed();
        let status = image.status.clone().unwrap_or_default();
        let sha512 = status.sha512.ok_or("nobody said what SHA-512 its bytes have")?;
        let fetched = self.store.fetch(id, format, bytes, Limits::default(), &sha512).await;
        fetched.map(drop).map_err(|error| error.to_string())
    }

    async fn note_holder(&self, image: &Image) -> Result<(), ImageError> {
        let mut nodes = image.status.clone().unwrap_or_default().nodes;
        nodes.push(self.shared.node.clone());
        let patch = json!({
            "metadata": {"resourceVersion": image.resource_version()},
            "status": {"nodes": nodes},
        });
        let (namespace, name) = (image.namespace(), image.name_any());
        match self.shared.writer.merge_status::<Image>(namespace.as_deref(), &name, &patch).await {
            // Another agent noted itself meanwhile: this copy is a cache, and may stay unknown.
            Err(error) if !is_not_found(&error) && !yunfan_client::is_conflict(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}
