//! A machine's root disk: a copy-on-write child of its image, or the Volume that it boots from.

use yunfan_disks::Disk;
use yunfan_resources::compute::{VirtualMachine, VmResources};

use super::{MachineError, Machines};
use crate::volume::GIB;

impl Machines {
    pub(super) async fn disk_of(
        &self,
        machine: &VirtualMachine,
        resources: &VmResources,
    ) -> Result<Disk, MachineError> {
        if let Some(wish) = machine.boot_volume() {
            return self.volumes.disk_for(machine, wish).await.map(|(_, disk)| disk);
        }
        let uid = machine.metadata.uid.clone().unwrap_or_default();
        if let Some(disk) = self.disks.get(&uid).await? {
            return Ok(disk);
        }
        let name = machine.spec.image.as_deref().unwrap_or_default();
        let image = self.images.ready(machine.metadata.namespace.as_deref(), name).await?;
        let (size, virtual_size) = (u64::from(resources.disk_gib) * GIB, image.virtual_size_bytes);
        if resources.disk_gib > 0 && size < virtual_size {
            return Err(MachineError::Image(format!(
                "flavor's disk of {} GiB is smaller than image {name} ({virtual_size} bytes): use a larger flavor",
                resources.disk_gib
            )));
        }
        Ok(self.disks.create(&uid, &image.id, size).await?)
    }
}
