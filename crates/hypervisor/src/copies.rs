//! Copies of the disks of a machine that runs: what a disk holds at one moment, written while the guest goes on.
//!
//! QEMU's own backup job does it: before the guest changes what is not copied yet, the old bytes are copied.

use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::drives::{Place, over};
use crate::launch::open;
use crate::machine::{Live, Machine};
use crate::{Disk, DiskFormat, Error};

/// The name of the job and of the target's node: a machine makes one copy at a time.
const NAME: &str = "copy";
/// The node of the target's file.
const FILE: &str = "copy-file";
/// The set of descriptors with the target's file, behind those of all slots.
const SET: usize = 90;
/// How often it is looked whether the job is done.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Machine {
    /// Copies what a disk holds now. See [`crate::Hypervisor::copy`].
    pub(crate) async fn copy_disk(&self, volume: Option<&str>, target: &Disk) -> Result<(), Error> {
        let _one = self.copying.lock().await;
        let live = self.live()?;
        // What was begun before a restart of ours is nobody's any more.
        self.end_copy(&live, true).await?;
        let begun = {
            let _operation = self.operation.lock().await;
            self.begin_copy(&live, volume, target).await
        };
        let done = match begun {
            Ok(()) => self.wait_for_copy().await,
            Err(error) => Err(error),
        };
        match self.live() {
            Ok(live) => self.end_copy(&live, done.is_err()).await.and(done),
            Err(error) => done.and(Err(error)),
        }
    }

    async fn begin_copy(&self, live: &Live, volume: Option<&str>, target: &Disk) -> Result<(), Error> {
        let place = self.place_of(live, volume).await?;
        let file = open(&target.path, true)?;
        let sent = live.qmp.execute_with("add-fd", json!({"fdset-id": SET}), Some(file.as_fd())).await;
        self.result("add-fd", sent)?;
        for node in target_nodes(target.format) {
            self.result("blockdev-add", live.qmp.execute("blockdev-add", node).await)?;
        }
        let sync = if target.format == DiskFormat::Qcow2 { "top" } else { "full" };
        let job = json!({
            "job-id": NAME, "device": place.node(), "target": NAME, "sync": sync, "auto-dismiss": false,
            "filter-node-name": over(place),
        });
        self.result("blockdev-backup", live.qmp.execute("blockdev-backup", job).await).map(drop)
    }

    async fn wait_for_copy(&self) -> Result<(), Error> {
        loop {
            let live = self.live()?;
            let Some(job) = self.copy_job(&live).await? else {
                return self.refused("the job is gone");
            };
            if job["status"] == "concluded" {
                return match job["error"].as_str() {
                    Some(error) => self.refused(error),
                    None => Ok(()),
                };
            }
            sleep(LOOK_EVERY).await;
        }
    }

    fn refused(&self, message: &str) -> Result<(), Error> {
        let (uid, command) = (self.uid.clone(), "blockdev-backup".to_owned());
        Err(Error::Refused { uid, command, message: message.to_owned() })
    }

    async fn copy_job(&self, live: &Live) -> Result<Option<Value>, Error> {
        let jobs = self.result("query-jobs", live.qmp.execute("query-jobs", Value::Null).await)?;
        Ok(jobs.as_array().into_iter().flatten().find(|job| job["id"] == NAME).cloned())
    }

    /// Takes away the job, where there is one, and what it wrote to. `cancel` ends one that is not done.
    async fn end_copy(&self, live: &Live, cancel: bool) -> Result<(), Error> {
        while let Some(job) = self.copy_job(live).await? {
            if job["status"] == "concluded" {
                let dismissed = live.qmp.execute("job-dismiss", json!({"id": NAME})).await;
                self.result("job-dismiss", dismissed)?;
                break;
            }
            if cancel {
                // Refused where it is ending by itself, which is as well.
                let _ = live.qmp.execute("job-cancel", json!({"id": NAME})).await;
            }
            sleep(LOOK_EVERY).await;
        }
        let nodes = live.qmp.execute("query-named-block-nodes", json!({"flat": true})).await;
        let nodes = self.result("query-named-block-nodes", nodes)?;
        let is_known =
            |name: &str| nodes.as_array().into_iter().flatten().any(|one| one["node-name"] == name);
        for name in [NAME, FILE].into_iter().filter(|name| is_known(name)) {
            let removed = live.qmp.execute("blockdev-del", json!({"node-name": name})).await;
            self.result("blockdev-del", removed)?;
        }
        let sets = self.result("query-fdsets", live.qmp.execute("query-fdsets", Value::Null).await)?;
        if sets.as_array().into_iter().flatten().any(|one| one["fdset-id"] == SET) {
            self.result("remove-fd", live.qmp.execute("remove-fd", json!({"fdset-id": SET})).await)?;
        }
        Ok(())
    }

    /// Where a disk is plugged in; none is the root disk.
    pub(crate) async fn place_of(&self, live: &Live, volume: Option<&str>) -> Result<Place, Error> {
        let Some(id) = volume else { return Ok(Place::Root) };
        let there = self.plugged(live).await?;
        let found = there.iter().find(|(other, _)| other.as_deref() == Some(id));
        found
            .map(|(_, slot)| Place::Slot(*slot))
            .ok_or_else(|| Error::NotFound { uid: format!("volume {id}") })
    }
}

/// The target's block nodes from the bottom up. What a copy-on-write target lacks is its base's, which is not opened here.
fn target_nodes(format: DiskFormat) -> [Value; 2] {
    let file = json!({
        "driver": "file", "node-name": FILE, "filename": format!("/dev/fdset/{SET}"), "discard": "unmap",
    });
    let mut top = json!({
        "driver": "raw", "node-name": NAME, "file": FILE, "discard": "unmap", "detect-zeroes": "unmap",
    });
    if format == DiskFormat::Qcow2 {
        top =
            json!({"driver": "qcow2", "node-name": NAME, "file": FILE, "backing": null, "discard": "unmap"});
    }
    [file, top]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_names_no_path_and_opens_no_base() {
        for (format, driver) in [(DiskFormat::Raw, "raw"), (DiskFormat::Qcow2, "qcow2")] {
            let [file, top] = target_nodes(format);
            assert_eq!((&file["filename"], &top["driver"]), (&json!("/dev/fdset/90"), &json!(driver)));
            assert!(top["backing"].is_null());
        }
        // The slots' own sets end before.
        assert!(Place::Slot(crate::drives::SLOTS).set() < SET);
    }
}
