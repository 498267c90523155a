//! Copies of this node's volumes: into snapshots, and into volumes that begin as copies.
//!
//! A copy is of one moment: nobody writes to a disk while its file is copied, and where a machine runs with it, the machine's own
//! process makes the copy.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use kube::ResourceExt;
use yunfan_disks::{Disk, VolumeDriver};
use yunfan_resources::compute::RunState;
use yunfan_resources::storage::{Volume, VolumeSnapshot};

use crate::images::ImageError;
use crate::vm::hypervisors_disk;
use crate::volume::{VolumeError, Volumes};

/// Volumes whose files must stay as they are for now, by uid.
#[derive(Clone, Debug, Default)]
pub(crate) struct Still(Arc<Mutex<HashSet<String>>>);

/// A volume's file stays as it is while this lives.
pub(crate) struct Hold {
    still: Still,
    uid: String,
}

impl Still {
    /// Holds a volume still; `None` while somebody else does.
    pub(crate) fn hold(&self, uid: &str) -> Option<Hold> {
        let fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned());
        fresh.then(|| Hold { still: self.clone(), uid: uid.to_owned() })
    }

    /// Whether somebody holds it.
    pub(crate) fn is_held(&self, uid: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(uid)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.still.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.uid);
    }
}

/// What has to end first.
pub(crate) fn waits(message: String) -> VolumeError {
    ImageError::Waits(message).into()
}

/// Who writes to a volume.
enum Writer {
    Nobody(Hold),
    /// The machine with this uid, which boots from it or not.
    Machine {
        uid: String,
        boots: bool,
    },
}

impl Volumes {
    /// Copies what a volume holds now into `into`, as `owner`'s. The disk that `owner` has already is returned as it is.
    pub(crate) async fn copy(
        &self,
        volume: &Volume,
        into: &dyn VolumeDriver,
        owner: &str,
    ) -> Result<Disk, VolumeError> {
        if let Some(disk) = into.get(owner).await? {
            return Ok(disk);
        }
        let (name, uid) = (volume.name_any(), volume.uid().unwrap_or_default());
        let disk = self.disks.get(&uid).await?;
        let disk = disk.ok_or_else(|| VolumeError::Lost(format!("volume {name} has no data on the node")))?;
        let Some(_no_pods) = self.attached.keep_free(&uid).await else {
            return Err(waits(format!("volume {name} is in use by Pods: it is copied when they are gone")));
        };
        match self.writer_of(volume, &uid).await? {
            Writer::Nobody(_hold) => Ok(into.copy(owner, &disk).await?),
            Writer::Machine { uid: machine, boots } => {
                let copying = into.begin_copy(owner, &disk).await?;
                copying.make_empty().await?;
                let target = hypervisors_disk(copying.disk().clone());
                self.hypervisor.copy(&machine, (!boots).then_some(uid.as_str()), &target).await?;
                Ok(copying.publish().await?)
            }
        }
    }

    /// Finds out who writes to a volume, and sees that nobody begins to where nobody does.
    async fn writer_of(&self, volume: &Volume, uid: &str) -> Result<Writer, VolumeError> {
        let name = volume.name_any();
        let again = || waits(format!("volume {name} is being attached, detached, extended or copied"));
        // Held before it is looked: a machine that is started from now on waits for us.
        let hold = self.still.hold(uid).ok_or_else(again)?;
        let wish = self.wishing_machine(volume);
        let had = volume.status.iter().flat_map(|status| &status.attachments);
        for one in had {
            let wished = wish.as_ref().is_some_and(|machine| machine.uid().as_ref() == Some(&one.uid));
            if !wished && self.running(&one.uid).await? {
                return Err(again());
            }
        }
        let Some(machine) = wish else { return Ok(Writer::Nobody(hold)) };
        let of = machine.uid().unwrap_or_default();
        let boots = volume.wish_of(&machine).is_some_and(|wish| wish.boot);
        if !self.running(&of).await? {
            let off = matches!(machine.spec.run_state, RunState::Stopped | RunState::Shelved);
            return if off { Ok(Writer::Nobody(hold)) } else { Err(again()) };
        }
        if boots || self.hypervisor.volumes(&of).await?.iter().any(|id| id == uid) {
            return Ok(Writer::Machine { uid: of, boots });
        }
        Err(again())
    }

    /// The snapshot of this name.
    pub(crate) fn snapshot_of_name(
        &self,
        namespace: Option<&str>,
        name: &str,
    ) -> Option<Arc<VolumeSnapshot>> {
        self.snapshots.get(namespace, name)
    }

    /// A copy of what a snapshot holds, on `driver`.
    pub(crate) async fn copy_snapshot(
        &self,
        snapshot: &VolumeSnapshot,
        driver: &dyn VolumeDriver,
        owner: &str,
    ) -> Result<Disk, VolumeError> {
        let disk = self.snapshot_disks.get(&snapshot.uid().unwrap_or_default()).await?;
        let lost = || VolumeError::Lost(format!("the data of snapshot {} is gone", snapshot.name_any()));
        Ok(driver.copy(owner, &disk.ok_or_else(lost)?).await?)
    }

    /// A new volume's disk, where it begins as a copy; `None` for one that does not.
    pub(crate) async fn copied(&self, volume: &Volume) -> Result<Option<Disk>, VolumeError> {
        let (namespace, uid) = (volume.namespace(), volume.uid().unwrap_or_default());
        let gone =
            |what: &str, name: &str| VolumeError::Lost(format!("{what} {name} that it is made from is gone"));
        if let Some(name) = &volume.spec.snapshot {
            let snapshot = self.snapshot_of_name(namespace.as_deref(), name);
            let snapshot = snapshot.ok_or_else(|| gone("snapshot", name))?;
            return self.copy_snapshot(&snapshot, &*self.disks, &uid).await.map(Some);
        }
        let Some(name) = &volume.spec.source_volume else { return Ok(None) };
        // One that goes over to this namespace is named with its own.
        let (within, short) = name
            .split_once('/')
            .map_or((namespace.as_deref(), name.as_str()), |(own, name)| (Some(own), name));
        let source = self.of_name(within, short).ok_or_else(|| gone("volume", name))?;
        self.copy(&source, &*self.disks, &uid).await.map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_held_by_one_and_let_go() {
        let still = Still::default();
        let hold = still.hold("a");
        assert!(hold.is_some() && still.is_held("a") && !still.is_held("b"));
        assert!(still.hold("a").is_none());
        drop(hold);
        assert!(!still.is_held("a") && still.hold("a").is_some());
    }
}
