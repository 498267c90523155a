//! Network cards of a machine that runs: plugged in and pulled out by its monitor.

use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::machine::{Live, Machine};
use crate::qmp::QmpError;
use crate::{Error, Nic};

/// So many PCIe ports a machine has for network cards, beside those for volumes. Further cards, which it can only be started
/// with, stay as long as it runs.
pub(crate) const NIC_SLOTS: usize = 8;
/// How long a guest may take to let go of a card before the caller is told to come again.
const LET_GO_WITHIN: Duration = Duration::from_millis(500);
/// How often it is looked whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The name of the port of a slot.
pub(crate) fn port(slot: usize) -> String {
    format!("nport{slot}")
}

/// The name of the network back end of a slot.
pub(crate) fn netdev(slot: usize) -> String {
    format!("net{slot}")
}

/// The id of a card: its slot and its address are found in it again.
pub(crate) fn device(slot: usize, mac: &str) -> String {
    format!("nic{slot}-{}", mac.to_ascii_lowercase().replace(':', "-"))
}

/// The cards in an answer to `qom-list`: the address and the slot of each.
fn plugged(answer: &Value) -> Vec<(String, usize)> {
    let names = answer.as_array().into_iter().flatten().filter_map(|one| one["name"].as_str());
    names
        .filter_map(|name| {
            let (slot, mac) = name.strip_prefix("nic")?.split_once('-')?;
            Some((mac.replace('-', ":"), slot.parse().ok()?))
        })
        .collect()
}

impl Machine {
    /// The addresses of the cards that are plugged in.
    pub(crate) async fn nics(&self) -> Result<Vec<String>, Error> {
        let _operation = self.operation.lock().await;
        let live = self.live()?;
        Ok(self.cards(&live).await?.into_iter().map(|(mac, _)| mac).collect())
    }

    /// Plugs a card in, unless one with its address is.
    pub(crate) async fn attach_nic(&self, nic: &Nic) -> Result<(), Error> {
        let _operation = self.operation.lock().await;
        let live = self.live()?;
        let there = self.cards(&live).await?;
        if there.iter().any(|(mac, _)| mac.eq_ignore_ascii_case(&nic.mac)) {
            return Ok(());
        }
        let free = (0..NIC_SLOTS).find(|slot| there.iter().all(|(_, taken)| taken != slot));
        let slot = free.ok_or_else(|| Error::Invalid {
            uid: self.uid.clone(),
            field: "nics",
            message: format!("must be at most {NIC_SLOTS}, all slots are taken"),
        })?;
        // What an attachment or detachment that broke off left; there mostly is none.
        let _ = live.qmp.execute("netdev_del", json!({"id": netdev(slot)})).await;
        let name = format!("tap{slot}");
        let sent = live.qmp.execute_with("getfd", json!({"fdname": name}), Some(nic.tap.as_fd())).await;
        self.result("getfd", sent)?;
        let backend = json!({"type": "tap", "id": netdev(slot), "fd": name});
        self.result("netdev_add", live.qmp.execute("netdev_add", backend).await)?;
        let card = json!({
            "driver": "virtio-net-pci", "id": device(slot, &nic.mac), "netdev": netdev(slot), "mac": nic.mac,
            "bus": port(slot), "romfile": "",
        });
        let added = self.result("device_add", live.qmp.execute("device_add", card).await);
        if added.is_err() {
            let _ = live.qmp.execute("netdev_del", json!({"id": netdev(slot)})).await;
        }
        added.map(drop)
    }

    /// Pulls a card out; one that is not plugged in is no error. [`Error::Busy`] when the guest has not let go of it yet.
    pub(crate) async fn detach_nic(&self, mac: &str) -> Result<(), Error> {
        let _operation = self.operation.lock().await;
        let live = self.live()?;
        let find = |there: &[(String, usize)]| {
            there.iter().find(|(own, _)| own.eq_ignore_ascii_case(mac)).map(|(_, slot)| *slot)
        };
        let Some(slot) = find(&self.cards(&live).await?) else { return Ok(()) };
        match live.qmp.execute("device_del", json!({"id": device(slot, mac)})).await {
            // Refused while an earlier request still waits for the guest.
            Ok(_) | Err(QmpError::Refused(_)) => {}
            Err(error) => return self.result("device_del", Err(error)).map(drop),
        }
        let mut waited = Duration::ZERO;
        while find(&self.cards(&live).await?).is_some() {
            if waited >= LET_GO_WITHIN {
                return Err(Error::Busy { uid: self.uid.clone(), volume: mac.to_owned() });
            }
            sleep(LOOK_EVERY).await;
            waited += LOOK_EVERY;
        }
        self.result("netdev_del", live.qmp.execute("netdev_del", json!({"id": netdev(slot)})).await).map(drop)
    }

    async fn cards(&self, live: &Live) -> Result<Vec<(String, usize)>, Error> {
        let answer = live.qmp.execute("qom-list", json!({"path": "/machine/peripheral"})).await;
        Ok(plugged(&self.result("qom-list", answer)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_found_in_qemus_words() {
        let id = device(3, "FA:16:3e:00:00:01");
        let answer = json!([
            {"name": "type", "type": "string"},
            {"name": "vol-x", "type": "child<virtio-blk-pci>"},
            {"name": id, "type": "child<virtio-net-pci>"},
        ]);
        assert_eq!(plugged(&answer), [("fa:16:3e:00:00:01".to_owned(), 3)]);
    }
}
