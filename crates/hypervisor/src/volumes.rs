//! Volumes of a machine that runs: plugged in, pulled out, grown, by its monitor.

use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::drives::{Place, SLOTS, attached, device, device_arguments, throttle};
use crate::launch::open;
use crate::machine::{Live, Machine};
use crate::qmp::QmpError;
use crate::{Base, DiskLimits, Error, Volume};

/// How long a guest may take to let go of a volume before the caller is told to come again: few who wait must not hold up all.
const LET_GO_WITHIN: Duration = Duration::from_millis(500);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A slot that is taken, and the volume in it.
type Taken = (Option<String>, usize);

impl Machine {
    /// The ids of the volumes that are plugged in. What an attachment or detachment that broke off left is removed.
    pub(crate) async fn volumes(&self) -> Result<Vec<String>, Error> {
        let _operation = self.operation.lock().await;
        let live = self.live()?;
        let there = self.plugged(&live).await?;
        if let Err(error) = self.sweep(&live, &there).await {
            // It holds a file that nobody uses, which is no reason to know nothing of the others.
            tracing::info!(uid = self.uid, %error, "what a volume left in a machine stays for now");
        }
        Ok(there.into_iter().filter_map(|(id, _)| id).collect())
    }

    /// Plugs a volume in, unless it is.
    pub(crate) async fn attach_volume(&self, volume: &Volume) -> Result<(), Error> {
        let _operation = self.operation.lock().await;
        let live = self.live()?;
        let there = self.plugged(&live).await?;
        if there.iter().any(|(id, _)| id.as_ref() == Some(&volume.id)) {
            return Ok(());
        }
        self.sweep(&live, &there).await?;
        let free = (0..SLOTS).find(|slot| there.iter().all(|(_, taken)| taken != slot));
        let slot = free.ok_or_else(|| Error::Invalid {
            uid: self.uid.clone(),
            field: "volumes",
            message: format!("must be at most {SLOTS}, all slots are taken"),
        })?;
        let plugged = self.plug(&live, volume, slot).await;
        if plugged.is_err() {
            // What was half made must not hold the volume's file.
            self.sweep(&live, &there).await?;
        }
        plugged
    }

    async fn plug(&self, live: &Live, volume: &Volume, slot: usize) -> Result<(), Error> {
        let place = Place::Slot(slot);
        self.hand_over(live, place.set(), &volume.disk.path, !volume.read_only).await?;
        if let Some(Base { path, .. }) = &volume.disk.base {
            self.hand_over(live, place.set() + 1, path, false).await?;
        }
        for node in place.nodes(&volume.disk, volume.read_only) {
            self.result("blockdev-add", live.qmp.execute("blockdev-add", node).await)?;
        }
        let arguments = device_arguments(&volume.id, &volume.serial, slot);
        self.result("device_add", live.qmp.execute("device_add", arguments).await)?;
        self.throttle(vec![(device(&volume.id), volume.limits)]).await
    }

    /// Sets how fast the guest may use disks, by their devices.
    pub(crate) async fn throttle(&self, devices: Vec<(String, DiskLimits)>) -> Result<(), Error> {
        for arguments in devices.into_iter().filter_map(|(device, limits)| throttle(&device, limits)) {
            let live = self.live()?;
            let set = live.qmp.execute("block_set_io_throttle", arguments).await;
            self.result("block_set_io_throttle", set)?;
        }
        Ok(())
    }

    /// Gives QEMU an open file: it has no right to any path.
    async fn hand_over(
        &self,
        live: &Live,
        set: usize,
        path: &std::path::Path,
        write: bool,
    ) -> Result<(), Error> {
        let file = open(path, write)?;
        let sent = live.qmp.execute_with("add-fd", json!({"fdset-id": set}), Some(file.as_fd())).await;
        self.result("add-fd", sent).map(drop)
    }

    /// Pulls a volume out; one that is not plugged in is no error. [`Error::Busy`] when the guest has not let go of it yet: it
    /// was asked to, and a later call finds out whether it did.
    pub(crate) async fn detach_volume(&self, id: &str) -> Result<(), Error> {
        let _operation = self.operation.lock().await;
        let live = self.live()?;
        // A device that has gone may have been this one's: its file is QEMU's until the slot is free.
        let is_there =
            |there: &[Taken]| there.iter().any(|(other, _)| other.as_deref().is_none_or(|other| other == id));
        let has_device = |there: &[Taken]| there.iter().any(|(other, _)| other.as_deref() == Some(id));
        let mut there = self.plugged(&live).await?;
        if is_there(&there) {
            if has_device(&there) {
                match live.qmp.execute("device_del", json!({"id": device(id)})).await {
                    // Refused while an earlier request still waits for the guest.
                    Ok(_) | Err(QmpError::Refused(_)) => {}
                    Err(error) => return self.result("device_del", Err(error)).map(drop),
                }
            }
            let mut waited = Duration::ZERO;
            loop {
                there = self.plugged(&live).await?;
                if !is_there(&there) {
                    break;
                }
                if waited >= LET_GO_WITHIN {
                    return Err(Error::Busy { uid: self.uid.clone(), volume: id.to_owned() });
                }
                sleep(LOOK_EVERY).await;
                waited += LOOK_EVERY;
            }
        }
        self.sweep(&live, &there).await
    }

    /// Tells QEMU, and the guest, that a disk is to be larger. `volume` is none for the root disk.
    pub(crate) async fn grow_disk(&self, volume: Option<&str>, size_bytes: u64) -> Result<(), Error> {
        let _operation = self.operation.lock().await;
        let live = self.live()?;
        let place = self.place_of(&live, volume).await?;
        let arguments = json!({"node-name": place.node(), "size": size_bytes});
        self.result("block_resize", live.qmp.execute("block_resize", arguments).await).map(drop)
    }

    pub(crate) async fn plugged(&self, live: &Live) -> Result<Vec<Taken>, Error> {
        let answer = self.result("query-block", live.qmp.execute("query-block", Value::Null).await)?;
        Ok(attached(&answer))
    }

    /// Closes the files of slots that no device is in.
    async fn sweep(&self, live: &Live, there: &[Taken]) -> Result<(), Error> {
        let flat = json!({"flat": true});
        let nodes = live.qmp.execute("query-named-block-nodes", flat).await;
        let nodes = self.result("query-named-block-nodes", nodes)?;
        let is_known =
            |name: &str| nodes.as_array().into_iter().flatten().any(|node| node["node-name"] == name);
        let sets = self.result("query-fdsets", live.qmp.execute("query-fdsets", Value::Null).await)?;
        let is_set = |set: usize| sets.as_array().into_iter().flatten().any(|one| one["fdset-id"] == set);
        for slot in (0..SLOTS).filter(|slot| there.iter().all(|(_, taken)| taken != slot)) {
            let place = Place::Slot(slot);
            for name in place.node_names().into_iter().filter(|name| is_known(name)) {
                let removed = live.qmp.execute("blockdev-del", json!({"node-name": name})).await;
                self.result("blockdev-del", removed)?;
            }
            for set in [place.set(), place.set() + 1].into_iter().filter(|set| is_set(*set)) {
                self.result("remove-fd", live.qmp.execute("remove-fd", json!({"fdset-id": set})).await)?;
            }
        }
        Ok(())
    }
}
