//! Volumes in and out of machines: plugged in at the start, and while a machine runs.

use kube::ResourceExt;
use yunfan_client::{ObjectKey, Severity};
use yunfan_disks::Format;
use yunfan_hypervisor::{Base, Disk, DiskFormat, Volume as Plugged};
use yunfan_resources::Identified;
use yunfan_resources::compute::{VirtualMachine, VolumeAttachment};
use yunfan_resources::storage::Volume;

use super::{MachineError, Machines, has};

/// A disk in the hypervisor's words.
pub(super) fn hypervisors_disk(disk: yunfan_disks::Disk) -> Disk {
    let base = disk.base_path.zip(disk.base_format).map(|(path, format)| Base {
        path,
        format: match format {
            Format::Raw => DiskFormat::Raw,
            Format::Qcow2 => DiskFormat::Qcow2,
        },
    });
    Disk { path: disk.path, base }
}

fn plugged(volume: &Volume, disk: yunfan_disks::Disk) -> Plugged {
    Plugged { id: volume.uid().unwrap_or_default(), serial: volume.id(), disk: hypervisors_disk(disk) }
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
            found.push(plugged(&volume, disk));
        }
        Ok(found)
    }

    /// Brings the volumes of a machine that runs to what its spec says.
    pub(super) async fn plug_volumes(&self, machine: &VirtualMachine) -> Result<(), MachineError> {
        let namespace = machine.namespace().unwrap_or_default();
        let had = self.volumes.in_namespace(&namespace).iter().any(|volume| has(volume, machine));
        if machine.spec.volumes.is_empty() && !had {
            return Ok(());
        }
        let uid = machine.uid().unwrap_or_default();
        let later = |error: MachineError| MachineError::Volume(error.to_string());
        let there = self.hypervisor.volumes(&uid).await.map_err(|error| later(error.into()))?;
        let mut problem = None;
        let mut wanted = Vec::new();
        for wish in machine.spec.volumes.iter().filter(|wish| !wish.boot) {
            match self.plug(machine, wish, &there).await {
                Ok(volume) => wanted.push(volume),
                Err(error) => problem = Some(later(error)),
            }
        }
        // Where a wish could not be looked up it is not known whose the others are.
        for id in there.iter().filter(|id| problem.is_none() && !wanted.contains(id)) {
            self.hypervisor.detach(&uid, id).await.map_err(|error| later(error.into()))?;
            self.shared.recorder.event(
                machine,
                Severity::Normal,
                "Detached",
                format!("Detached volume {id}"),
            );
        }
        for volume in self.volumes.in_namespace(&namespace) {
            if has(&volume, machine) != volume.wish_of(machine).is_some() {
                self.volumes.look_at(ObjectKey::of(volume.as_ref()));
            }
        }
        problem.map_or(Ok(()), Err)
    }

    /// Plugs one volume in, unless it is; returns its uid.
    async fn plug(
        &self,
        machine: &VirtualMachine,
        wish: &VolumeAttachment,
        there: &[String],
    ) -> Result<String, MachineError> {
        let volume = self.volumes.of_wish(machine, wish)?;
        let id = volume.uid().unwrap_or_default();
        if there.contains(&id) {
            return Ok(id);
        }
        let (volume, disk) = self.volumes.disk_for(machine, wish).await?;
        self.hypervisor.attach(&machine.uid().unwrap_or_default(), plugged(&volume, disk)).await?;
        self.shared.recorder.event(
            machine,
            Severity::Normal,
            "Attached",
            format!("Attached volume {}", volume.name_any()),
        );
        Ok(id)
    }
}
