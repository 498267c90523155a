//! A machine's root disk: a copy-on-write child of its image, or the Volume that it boots from. One that is rescued boots from a
//! disk of its own and has the root disk beside it.

use yunfan_disks::Disk;
use yunfan_hypervisor::{Disk as Plug, Volume as Plugged};
use yunfan_resources::compute::{VirtualMachine, VmResources};

use super::volumes::{ROOT, hypervisors_disk};
use super::{MachineError, Machines};
use crate::volume::GIB;

/// Behind a machine's uid in the owner of the disk that it is rescued with.
const RESCUE: &str = "-rescue";

/// Who owns the disk that a machine is rescued with.
pub(super) fn rescue_owner(uid: &str) -> String {
    format!("{uid}{RESCUE}")
}

/// The uid of the machine that a disk belongs to.
pub(super) fn machine_of(owner: &str) -> &str {
    owner.strip_suffix(RESCUE).unwrap_or(owner)
}

impl Machines {
    /// The disk to boot from and, where that is a rescue image's, the root disk as one to plug in beside it. A new root disk is
    /// made here where one was asked for, and one that is too small for a new size grows; the machine must not run.
    pub(super) async fn disks_to_start_with(
        &self,
        machine: &VirtualMachine,
        resources: &VmResources,
    ) -> Result<(Plug, Option<Plugged>), MachineError> {
        let uid = machine.metadata.uid.clone().unwrap_or_default();
        if machine.is_rebuilding() {
            self.disks.remove(&uid).await?;
        }
        let root = hypervisors_disk(self.disk_of(machine, resources).await?);
        let owner = rescue_owner(&uid);
        let Some(name) = &machine.spec.rescue_image else {
            self.disks.remove(&owner).await?;
            return Ok((root, None));
        };
        let rescue = match self.disks.get(&owner).await? {
            Some(disk) => disk,
            None => {
                let image = self.images.ready(machine.metadata.namespace.as_deref(), name).await?;
                self.disks.create(&owner, &image.id, 0).await?
            }
        };
        let beside = Plugged { id: ROOT.to_owned(), serial: ROOT.to_owned(), disk: root };
        Ok((hypervisors_disk(rescue), Some(beside)))
    }

    async fn disk_of(&self, machine: &VirtualMachine, resources: &VmResources) -> Result<Disk, MachineError> {
        if let Some(wish) = machine.boot_volume() {
            return self.volumes.disk_for(machine, wish).await.map(|(_, disk)| disk);
        }
        let uid = machine.metadata.uid.clone().unwrap_or_default();
        if let Some(disk) = self.disks.get(&uid).await? {
            let wanted = u64::from(resources.disk_gib) * GIB;
            return Ok(if wanted > disk.size_bytes { self.disks.grow(&uid, wanted).await? } else { disk });
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
