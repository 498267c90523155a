//! A machine's root disk: a copy-on-write child of its image, which is fetched from another node where it is not here.

use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::is_not_found;
use yunfan_disks::{Disk, Format, Limits};
use yunfan_resources::Identified;
use yunfan_resources::compute::{VirtualMachine, VmResources};
use yunfan_resources::image::{DiskFormat, Image, ImagePhase};

use super::{MachineError, Machines};

const GIB: u64 = 1 << 30;

impl Machines {
    pub(super) async fn disk_of(
        &self,
        machine: &VirtualMachine,
        resources: &VmResources,
    ) -> Result<Disk, MachineError> {
        let uid = machine.uid().unwrap_or_default();
        if let Some(disk) = self.disks.get(&uid).await? {
            return Ok(disk);
        }
        let name = &machine.spec.image;
        let image = self
            .images
            .get(machine.namespace().as_deref(), name)
            .ok_or_else(|| MachineError::Waits(format!("image {name} does not exist")))?;
        let status = image.status.clone().unwrap_or_default();
        match status.phase {
            ImagePhase::Active => {}
            ImagePhase::Queued | ImagePhase::Saving => {
                return Err(MachineError::Waits(format!("image {name} has no data yet: upload it")));
            }
            ImagePhase::Failed => {
                return Err(MachineError::Image(format!(
                    "image {name} is not usable: {}",
                    status.message.unwrap_or_default()
                )));
            }
        }
        let id = image.id();
        if self.image_store.get(&id).await?.is_none() {
            self.fetch(&image, &id).await?;
        }
        let size = u64::from(resources.disk_gib) * GIB;
        let virtual_size = status.virtual_size_bytes.unwrap_or(0);
        if resources.disk_gib > 0 && size < virtual_size {
            return Err(MachineError::Image(format!(
                "flavor's disk of {} GiB is smaller than image {name} ({virtual_size} bytes): use a larger flavor",
                resources.disk_gib
            )));
        }
        Ok(self.disks.create(&uid, &id, size).await?)
    }

    /// Copies an image's bytes from a node that has them.
    async fn fetch(&self, image: &Image, id: &str) -> Result<(), MachineError> {
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
        Err(MachineError::Image(problem))
    }

    async fn fetch_from(&self, node: &Node, image: &Image, id: &str) -> Result<(), String> {
        let answer = self.agents.get(node, &format!("/images/{id}")).await?;
        let format = match image.spec.disk_format {
            DiskFormat::Raw => Format::Raw,
            DiskFormat::Qcow2 => Format::Qcow2,
        };
        let bytes = answer.map(|chunk| chunk.map_err(std::io::Error::other)).boxed();
        let info = self.image_store.write(id, format, bytes, Limits::default()).await;
        let info = info.map_err(|error| error.to_string())?;
        let expected = image.status.clone().unwrap_or_default().sha512;
        if expected.is_some_and(|expected| expected != info.sha512) {
            let _ = self.image_store.remove(id).await;
            return Err("the bytes have another SHA-512 than the image".to_owned());
        }
        Ok(())
    }

    async fn note_holder(&self, image: &Image) -> Result<(), MachineError> {
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
