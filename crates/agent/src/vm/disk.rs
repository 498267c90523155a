//! A machine's root disk: a copy-on-write child of its image, or the Volume that it boots from. One that is rescued boots from a
//! disk of its own and has the root disk beside it.

use std::sync::Arc;

use kube::ResourceExt;
use yunfan_disks::{Disk, DiskStore, VolumeDriver};
use yunfan_hypervisor::{Disk as Plug, VmState, Volume as Plugged};
use yunfan_resources::compute::{RunState, VirtualMachine, VmResources};
use yunfan_resources::image::Image;
use yunfan_resources::storage::MAX_VOLUMES;

use super::volumes::{ROOT, hypervisors_disk, limits};
use super::{MachineError, Machines};
use crate::copies::waits;
use crate::images::Ready;
use crate::volume::{GIB, VolumeError};

/// Behind a machine's uid in the owner of the disk that it is rescued with.
const RESCUE: &str = "-rescue";
/// Behind a machine's uid in the owner of the root disk of a rebuild, before the number of that.
const REBUILT: &str = "-g";

/// Who owns the disk that a machine is rescued with.
fn rescue_owner(uid: &str) -> String {
    format!("{uid}{RESCUE}")
}

/// Who owns the root disk that a machine has since so many rebuilds. The disk itself tells which rebuild made it: one that was made
/// is not thrown away because nobody could write down that it was.
fn root_owner(uid: &str, rebuilds: i64) -> String {
    if rebuilds == 0 { uid.to_owned() } else { format!("{uid}{REBUILT}{rebuilds}") }
}

/// The uid of the machine that a disk belongs to.
pub(super) fn machine_of(owner: &str) -> &str {
    if let Some(uid) = owner.strip_suffix(RESCUE) {
        return uid;
    }
    match owner.rsplit_once(REBUILT) {
        Some((uid, rebuilds)) if rebuilds.parse::<u64>().is_ok() => uid,
        _ => owner,
    }
}

/// Which rebuild made a root disk; 0 for the first.
fn rebuild_of(owner: &str) -> u64 {
    owner.rsplit_once(REBUILT).and_then(|(_, rebuilds)| rebuilds.parse().ok()).unwrap_or_default()
}

/// Removes the disks of a machine, but those of these owners.
pub(super) async fn remove_disks(
    disks: &DiskStore,
    uid: &str,
    but: &[String],
) -> Result<(), yunfan_disks::Error> {
    let owners = disks.owners().await?;
    for owner in owners.iter().filter(|owner| machine_of(owner) == uid && !but.contains(owner)) {
        disks.remove(owner).await?;
    }
    Ok(())
}

/// The root disk that a machine has already, as its spec wishes for it.
async fn own_root(disks: &DiskStore, machine: &VirtualMachine) -> Result<Option<Disk>, yunfan_disks::Error> {
    let uid = machine.metadata.uid.clone().unwrap_or_default();
    match disks.get(&root_owner(&uid, machine.spec.rebuild_generation)).await? {
        // Disks did not always tell which rebuild made them; and a machine's object may be older than its disk, from a backup.
        None if !machine.is_rebuilding() => {
            let owners = disks.owners().await?;
            let roots = owners.iter().filter(|owner| machine_of(owner) == uid && !owner.ends_with(RESCUE));
            match roots.max_by_key(|owner| rebuild_of(owner)) {
                Some(newest) => disks.get(newest).await,
                None => Ok(None),
            }
        }
        found => Ok(found),
    }
}

impl Machines {
    /// Sees to it that what a machine is to be started anew with is here, while it has still all that it had. What is missing is an
    /// error: to wait for it would leave the machine in the middle of an action that nobody could take back.
    pub(super) async fn prepare(&self, machine: &VirtualMachine) -> Result<(), MachineError> {
        let refused = |error: MachineError| match error {
            MachineError::Waits(message) => MachineError::Image(message),
            error => error,
        };
        if self.has_new_root_to_make(machine).await? {
            let resources = machine.spec.resources.clone().unwrap_or_default();
            self.image_of(machine, &resources).await.map_err(refused)?;
        }
        let rescued = machine.status.as_ref().is_some_and(|status| status.rescued);
        let Some(name) = machine.spec.rescue_image.as_ref().filter(|_| !rescued) else { return Ok(()) };
        if machine.spec.volumes.iter().filter(|wish| !wish.boot).count() >= MAX_VOLUMES {
            return Err(MachineError::Image(format!(
                "with {MAX_VOLUMES} volumes there is no place for the root disk beside a rescue image's: detach one"
            )));
        }
        let ready = self.images.ready(machine.metadata.namespace.as_deref(), name).await;
        ready.map(drop).map_err(|error| refused(error.into()))
    }

    /// Whether a rebuild was asked for that has made no disk yet.
    pub(super) async fn has_new_root_to_make(&self, machine: &VirtualMachine) -> Result<bool, MachineError> {
        let rebuilds = machine.is_rebuilding() && machine.boot_volume().is_none();
        Ok(rebuilds && own_root(&self.disks, machine).await?.is_none())
    }

    /// The disk to boot from and, where that is a rescue image's, the root disk as one to plug in beside it. A new root disk is
    /// made here where one was asked for, and one that is too small for a new size grows; the machine must not run.
    pub(super) async fn disks_to_start_with(
        &self,
        machine: &VirtualMachine,
        resources: &VmResources,
    ) -> Result<(Plug, Option<Plugged>), MachineError> {
        let uid = machine.metadata.uid.clone().unwrap_or_default();
        if self.volumes.still.is_held(&uid) {
            return Err(MachineError::Waits("an image is being made of its disk".to_owned()));
        }
        let owner = rescue_owner(&uid);
        let root = self.disk_of(machine, resources).await?;
        if machine.is_rebuilding() {
            // The new one is there: now those before it can go.
            remove_disks(&self.disks, &uid, &[root.owner.clone(), owner.clone()]).await?;
        }
        let root = hypervisors_disk(root);
        let Some(name) = &machine.spec.rescue_image else {
            self.disks.remove(&owner).await?;
            return Ok((root, None));
        };
        let rescued = machine.status.as_ref().is_some_and(|status| status.rescued);
        let rescue = match self.disks.get(&owner).await? {
            Some(disk) if rescued => disk,
            there => {
                let image = self.images.ready(machine.metadata.namespace.as_deref(), name).await?;
                if there.is_some_and(|disk| disk.image.as_ref() != Some(&image.id)) {
                    // Of a rescue that was given up.
                    self.disks.remove(&owner).await?;
                }
                self.disks.create(&owner, &image.id, 0).await?
            }
        };
        let limits = machine.boot_volume().map(limits).unwrap_or_default();
        let (id, serial) = (ROOT.to_owned(), ROOT.to_owned());
        let beside = Plugged { id, serial, disk: root, read_only: false, limits };
        Ok((hypervisors_disk(rescue), Some(beside)))
    }

    /// The machine of this name, if it is on this node.
    pub(crate) fn of_name(&self, namespace: Option<&str>, name: &str) -> Option<Arc<VirtualMachine>> {
        self.machines.get(namespace, name)
    }

    /// Copies what a machine's root disk holds now into `into`, as `owner`'s. The disk that `owner` has already is returned as it is.
    /// Of a machine that runs, its own process makes the copy; of one that is off, nobody starts it meanwhile.
    pub(crate) async fn copy_root(
        &self,
        machine: &VirtualMachine,
        into: &dyn VolumeDriver,
        owner: &str,
    ) -> Result<Disk, VolumeError> {
        if let Some(disk) = into.get(owner).await? {
            return Ok(disk);
        }
        let (name, uid) = (machine.name_any(), machine.uid().unwrap_or_default());
        let again = || waits(format!("machine {name} is being started, stopped, changed or copied"));
        // Held before it is looked: a machine that is started from now on waits for us. What it wishes is read afterwards.
        let hold = self.volumes.still.hold(&uid).ok_or_else(again)?;
        let machine = self.of_name(machine.namespace().as_deref(), &name).ok_or_else(again)?;
        let status = machine.status.clone().unwrap_or_default();
        if machine.is_outdated() || status.rescued {
            return Err(again());
        }
        let disk = own_root(&self.disks, &machine).await?;
        let disk =
            disk.ok_or_else(|| VolumeError::Lost(format!("machine {name} has no disk on the node")))?;
        let info = self.hypervisor.get(&uid).await?;
        if info.is_none_or(|info| matches!(info.state, VmState::Stopped(_))) {
            let off = matches!(machine.spec.run_state, RunState::Stopped | RunState::Shelved);
            return if off { Ok(into.copy(owner, &disk).await?) } else { Err(again()) };
        }
        if machine.spec.run_state == RunState::Shelved {
            // What it still writes before it is off belongs to what is kept of it.
            return Err(again());
        }
        drop(hold);
        let copying = into.begin_copy(owner, &disk).await?;
        copying.make_empty().await?;
        let target = hypervisors_disk(copying.disk().clone());
        self.hypervisor.copy(&uid, None, &target).await?;
        Ok(copying.publish().await?)
    }

    async fn disk_of(&self, machine: &VirtualMachine, resources: &VmResources) -> Result<Disk, MachineError> {
        if let Some(wish) = machine.boot_volume() {
            return self.volumes.disk_for(machine, wish).await.map(|(_, disk)| disk);
        }
        let size = u64::from(resources.disk_gib) * GIB;
        if let Some(disk) = own_root(&self.disks, machine).await? {
            return Ok(if size > disk.size_bytes { self.disks.grow(&disk.owner, size).await? } else { disk });
        }
        let image = self.image_of(machine, resources).await?;
        let uid = machine.metadata.uid.clone().unwrap_or_default();
        Ok(self.disks.create(&root_owner(&uid, machine.spec.rebuild_generation), &image.id, size).await?)
    }

    /// The image that the root disk is made from: where the machine was shelved, what it had then.
    async fn image_of(
        &self,
        machine: &VirtualMachine,
        resources: &VmResources,
    ) -> Result<Ready, MachineError> {
        let shelved = machine.spec.shelved_image.as_deref().filter(|_| !machine.is_rebuilding());
        let name = shelved.or(machine.spec.image.as_deref()).unwrap_or_default();
        if let Some(name) = shelved {
            let namespace = machine.metadata.namespace.as_deref().unwrap_or_default();
            let image = self.images.of(namespace, name);
            if !is_its_own(machine, name, image.as_deref()) {
                return Err(MachineError::Image(format!(
                    "spec.shelvedImage names {name}, which is no image of this machine's disk: name the one that is"
                )));
            }
        }
        let image = self.images.ready(machine.metadata.namespace.as_deref(), name).await?;
        let (size, virtual_size) = (u64::from(resources.disk_gib) * GIB, image.virtual_size_bytes);
        if resources.disk_gib > 0 && size < virtual_size {
            return Err(MachineError::Image(format!(
                "flavor's disk of {} GiB is smaller than image {name} ({virtual_size} bytes): use a larger flavor",
                resources.disk_gib
            )));
        }
        Ok(image)
    }
}

/// Whether an image that a machine was shelved into by this name is its own, or is still to be heard of.
fn is_its_own(machine: &VirtualMachine, name: &str, image: Option<&Image>) -> bool {
    !name.contains('/')
        && image.is_none_or(|image| {
            image.shelved().is_some() && image.shelved() == machine.metadata.uid.as_deref()
        })
}

#[cfg(test)]
mod tests {
    use yunfan_disks::ImageStore;
    use yunfan_resources::compute::VirtualMachineStatus;

    use super::*;

    const UID: &str = "1f0c6f3e-64a5-4c80-b3b0-9f3f0d8e2a11";

    fn machine(wished: i64, done: i64) -> VirtualMachine {
        let mut vm = VirtualMachine::new("vm", Default::default());
        vm.metadata.uid = Some(UID.to_owned());
        vm.spec.rebuild_generation = wished;
        vm.status =
            Some(VirtualMachineStatus { rebuild_generation: done, ..VirtualMachineStatus::default() });
        vm
    }

    #[test]
    fn disks_name_their_machines() {
        for owner in [root_owner(UID, 0), root_owner(UID, 12), rescue_owner(UID)] {
            assert_eq!(machine_of(&owner), UID, "{owner}");
        }
        assert_ne!(root_owner(UID, 1), root_owner(UID, 2));
    }

    #[test]
    fn a_disk_is_made_of_no_other_machines_image() {
        let vm = machine(0, 0);
        let mut image = Image::new("kept", Default::default());
        assert!(!is_its_own(&vm, "kept", Some(&image)), "it is anybody's");
        image.mark_shelved("another");
        assert!(!is_its_own(&vm, "kept", Some(&image)));
        image.mark_shelved(UID);
        assert!(is_its_own(&vm, "kept", Some(&image)));
        assert!(is_its_own(&vm, "kept", None), "it may come yet");
        assert!(!is_its_own(&vm, "others/kept", None), "it is of another project");
    }

    #[tokio::test]
    async fn a_rebuilt_disk_is_kept_until_another_rebuild() {
        let dir = tempfile::tempdir().unwrap();
        let disks = DiskStore::new(ImageStore::open(dir.path().to_path_buf()).await.unwrap());
        let owner = |machine: VirtualMachine| {
            let disks = disks.clone();
            async move { own_root(&disks, &machine).await.unwrap().map(|disk| disk.owner) }
        };
        disks.create_empty(UID, 512).await.unwrap();
        assert_eq!(owner(machine(0, 0)).await.as_deref(), Some(UID));
        assert_eq!(owner(machine(1, 0)).await, None, "what was there before a rebuild is not its disk");
        // One that was rebuilt before disks told by which rebuild.
        assert_eq!(owner(machine(1, 1)).await.as_deref(), Some(UID));
        let new = root_owner(UID, 1);
        disks.create_empty(&new, 512).await.unwrap();
        // Made, though that could not be written down yet.
        assert_eq!(owner(machine(1, 0)).await.as_ref(), Some(&new));
        // A machine that comes from a backup before the rebuild still has the disk that there is.
        disks.remove(UID).await.unwrap();
        assert_eq!(owner(machine(0, 0)).await.as_ref(), Some(&new));
        disks.create_empty(UID, 512).await.unwrap();
        let other = "0aaaaaaa-64a5-4c80-b3b0-9f3f0d8e2a11";
        disks.create_empty(other, 512).await.unwrap();
        remove_disks(&disks, UID, std::slice::from_ref(&new)).await.unwrap();
        let mut left = disks.owners().await.unwrap();
        left.sort();
        assert_eq!(left, [other.to_owned(), new]);
        remove_disks(&disks, UID, &[]).await.unwrap();
        assert_eq!(disks.owners().await.unwrap(), [other]);
    }
}
