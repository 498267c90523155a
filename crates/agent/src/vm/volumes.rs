//! Volumes in and out of machines: plugged in at the start, and while a machine runs.

use kube::ResourceExt;
use yunfan_client::{ObjectKey, Severity};
use yunfan_disks::Format;
use yunfan_hypervisor::{Base, Disk, DiskFormat, DiskLimits, Volume as Plugged};
use yunfan_resources::Identified;
use yunfan_resources::compute::{VirtualMachine, VolumeAttachment};
use yunfan_resources::storage::Volume;

use super::{MachineError, Machines, has};

/// The root disk of a machine that is rescued, as a disk that is plugged in.
pub(super) const ROOT: &str = "rescued-root";

/// A disk in the hypervisor's words.
pub(crate) fn hypervisors_disk(disk: yunfan_disks::Disk) -> Disk {
    // A disk and its base are of one of the two.
    let format = |format| if format == Format::Qcow2 { DiskFormat::Qcow2 } else { DiskFormat::Raw };
    let base = disk.base_path.zip(disk.base_format);
    let base = base.map(|(path, of_base)| Base { path, format: format(of_base) });
    Disk { path: disk.path, format: format(disk.format), base }
}

/// How fast a machine may use what it wishes for, in the hypervisor's words.
pub(super) fn limits(wish: &VolumeAttachment) -> DiskLimits {
    let of = wish.limits.clone().unwrap_or_default();
    DiskLimits {
        bytes: [of.total_bytes_sec, of.read_bytes_sec, of.write_bytes_sec],
        requests: [of.total_iops_sec, of.read_iops_sec, of.write_iops_sec],
    }
}

fn plugged(volume: &Volume, disk: yunfan_disks::Disk, wish: &VolumeAttachment) -> Plugged {
    Plugged {
        id: volume.uid().unwrap_or_default(),
        serial: volume.id(),
        disk: hypervisors_disk(disk),
        read_only: volume.spec.read_only == Some(true),
        limits: limits(wish),
    }
}

impl Machines {
    /// The volumes beside the one to boot from, all of which must be there before a machine starts.
    pub(super) async fn volumes_to_start_with(
        &self,
        machine: &VirtualMachine,
    ) -> Result<Vec<Plugged>, MachineError> {
        let mut found = Vec::new();
        for wish in machine.spec.volumes.iter().filter(|wish| !wish.boot) {
            let (volume, disk) = self.volumes.disk_for(machine, wish).await?;
            found.push(plugged(&volume, disk, wish));
        }
        Ok(found)
    }

    /// Brings the volumes of a machine that runs to what its spec says.
    pub(super) async fn plug_volumes(&self, machine: &VirtualMachine) -> Result<(), MachineError> {
        let namespace = machine.namespace().unwrap_or_default();
        let uid = machine.uid().unwrap_or_default();
        let later = |error: MachineError| MachineError::Volume(error.to_string());
        // The hypervisor is asked each time: a crash may have come between a plug and the status that tells of it.
        let there = self.hypervisor.volumes(&uid).await.map_err(|error| later(error.into()))?;
        let mut problem = None;
        let mut wanted = Vec::new();
        let mut all_known = true;
        for wish in machine.spec.volumes.iter().filter(|wish| !wish.boot) {
            match self.volumes.of_wish(machine, wish) {
                Ok(volume) => wanted.push(volume.uid().unwrap_or_default()),
                Err(_) => all_known = false,
            }
            if let Err(error) = self.plug(machine, wish, &there).await {
                problem = Some(later(error));
            }
        }
        // Where a wish names no volume that is there, it is not known whose the others are.
        for id in there.iter().filter(|id| all_known && !wanted.contains(id) && *id != ROOT) {
            match self.hypervisor.detach(&uid, id).await {
                Ok(()) => {
                    let message = format!("Detached volume {id}");
                    self.shared.recorder.event(machine, Severity::Normal, "Detached", message);
                }
                Err(error) => problem = Some(later(error.into())),
            }
        }
        for volume in self.volumes.in_namespace(&namespace) {
            if has(&volume, machine) != volume.wish_of(machine).is_some() {
                self.volumes.look_at(ObjectKey::of(volume.as_ref()));
            }
        }
        problem.map_or(Ok(()), Err)
    }

    /// Plugs one volume in, unless it is.
    async fn plug(
        &self,
        machine: &VirtualMachine,
        wish: &VolumeAttachment,
        there: &[String],
    ) -> Result<(), MachineError> {
        let volume = self.volumes.of_wish(machine, wish)?;
        if there.contains(&volume.uid().unwrap_or_default()) {
            return Ok(());
        }
        let (volume, disk) = self.volumes.disk_for(machine, wish).await?;
        self.hypervisor.attach(&machine.uid().unwrap_or_default(), plugged(&volume, disk, wish)).await?;
        self.shared.recorder.event(
            machine,
            Severity::Normal,
            "Attached",
            format!("Attached volume {}", volume.name_any()),
        );
        Ok(())
    }
}
