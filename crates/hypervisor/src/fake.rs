//! A driver that runs nothing: it remembers what it was told, for tests of what lies above it and of scale.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::net::UnixStream;
use tokio::sync::broadcast;

use crate::args::validate;
use crate::{
    Accelerator, Disk, Error, ExitReason, Hypervisor, Nic, Reboot, VmConfig, VmEvent, VmEventKind, VmInfo,
    VmState, Volume, Way,
};

/// How many events are kept for a receiver that lags.
const EVENTS_KEPT: usize = 1024;

/// One pretended machine.
#[derive(Clone, Debug)]
struct Pretended {
    state: VmState,
    volumes: Vec<String>,
    nics: Vec<String>,
}

/// The driver. Its machines are forgotten with it.
#[derive(Debug)]
pub struct Fake {
    machines: Mutex<BTreeMap<String, Pretended>>,
    events: broadcast::Sender<VmEvent>,
}

impl Default for Fake {
    fn default() -> Self {
        Self { machines: Mutex::default(), events: broadcast::Sender::new(EVENTS_KEPT) }
    }
}

impl Fake {
    fn machines(&self) -> MutexGuard<'_, BTreeMap<String, Pretended>> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn info(uid: &str, machine: &Pretended) -> VmInfo {
        VmInfo {
            uid: uid.to_owned(),
            pid: None,
            state: machine.state.clone(),
            accelerator: Accelerator::Tcg { why: "the driver is a fake, and no guest runs".into() },
        }
    }

    fn tell(&self, uid: &str, kind: VmEventKind) {
        // Nobody listening is fine.
        let _ = self.events.send(VmEvent { uid: uid.to_owned(), kind });
    }

    /// Does something with a machine that runs.
    fn live<T>(&self, uid: &str, change: impl FnOnce(&mut Pretended) -> T) -> Result<T, Error> {
        match self.machines().get_mut(uid) {
            None => Err(Error::NotFound { uid: uid.to_owned() }),
            Some(machine) if matches!(machine.state, VmState::Stopped(_)) => {
                Err(Error::NotRunning { uid: uid.to_owned() })
            }
            Some(machine) => Ok(change(machine)),
        }
    }
}

#[async_trait]
impl Hypervisor for Fake {
    async fn accelerator(&self) -> Accelerator {
        Accelerator::Tcg { why: "the driver is a fake, and no guest runs".into() }
    }

    async fn start(&self, config: VmConfig) -> Result<VmInfo, Error> {
        validate(&config)?;
        let new = Pretended {
            state: VmState::Running,
            volumes: config.volumes.iter().map(|volume| volume.id.clone()).collect(),
            nics: config.nics.iter().map(|nic| nic.mac.clone()).collect(),
        };
        let info = {
            let mut machines = self.machines();
            let runs = |machine: &&mut Pretended| !matches!(machine.state, VmState::Stopped(_));
            if let Some(there) = machines.get_mut(&config.uid).filter(runs) {
                return Ok(Self::info(&config.uid, there));
            }
            let info = Self::info(&config.uid, &new);
            machines.insert(config.uid.clone(), new);
            info
        };
        self.tell(&config.uid, VmEventKind::Running);
        Ok(info)
    }

    async fn list(&self) -> Result<Vec<VmInfo>, Error> {
        Ok(self.machines().iter().map(|(uid, machine)| Self::info(uid, machine)).collect())
    }

    async fn get(&self, uid: &str) -> Result<Option<VmInfo>, Error> {
        Ok(self.machines().get(uid).map(|machine| Self::info(uid, machine)))
    }

    async fn shutdown(&self, uid: &str, _grace: Duration) -> Result<(), Error> {
        self.stop(uid).await
    }

    async fn stop(&self, uid: &str) -> Result<(), Error> {
        let stopped = VmState::Stopped(ExitReason::Requested);
        if self.live(uid, |machine| machine.state = stopped).is_ok() {
            self.tell(uid, VmEventKind::Stopped(ExitReason::Requested));
        }
        Ok(())
    }

    async fn reboot(&self, uid: &str, _kind: Reboot) -> Result<(), Error> {
        self.live(uid, |machine| machine.state = VmState::Running)?;
        self.tell(uid, VmEventKind::Rebooted { by_guest: false });
        Ok(())
    }

    async fn pause(&self, uid: &str) -> Result<(), Error> {
        self.live(uid, |machine| machine.state = VmState::Paused)?;
        self.tell(uid, VmEventKind::Paused);
        Ok(())
    }

    async fn resume(&self, uid: &str) -> Result<bool, Error> {
        self.live(uid, |machine| machine.state = VmState::Running)?;
        self.tell(uid, VmEventKind::Running);
        Ok(true)
    }

    async fn remove(&self, uid: &str) -> Result<(), Error> {
        self.stop(uid).await?;
        self.machines().remove(uid);
        Ok(())
    }

    async fn attach(&self, uid: &str, volume: Volume) -> Result<(), Error> {
        self.live(uid, |machine| {
            machine.volumes.retain(|id| *id != volume.id);
            machine.volumes.push(volume.id);
        })
    }

    async fn detach(&self, uid: &str, volume: &str) -> Result<(), Error> {
        self.live(uid, |machine| machine.volumes.retain(|id| id != volume))
    }

    async fn volumes(&self, uid: &str) -> Result<Vec<String>, Error> {
        self.live(uid, |machine| machine.volumes.clone())
    }

    async fn attach_nic(&self, uid: &str, nic: Nic) -> Result<(), Error> {
        self.live(uid, |machine| {
            machine.nics.retain(|mac| *mac != nic.mac);
            machine.nics.push(nic.mac);
        })
    }

    async fn detach_nic(&self, uid: &str, mac: &str) -> Result<(), Error> {
        self.live(uid, |machine| machine.nics.retain(|own| own != mac))
    }

    async fn nics(&self, uid: &str) -> Result<Vec<String>, Error> {
        self.live(uid, |machine| machine.nics.clone())
    }

    async fn grow(&self, uid: &str, _volume: Option<&str>, _size_bytes: u64) -> Result<(), Error> {
        self.live(uid, |_| ())
    }

    async fn copy(&self, uid: &str, _volume: Option<&str>, _target: &Disk) -> Result<(), Error> {
        self.live(uid, |_| ())
    }

    fn events(&self) -> broadcast::Receiver<VmEvent> {
        self.events.subscribe()
    }

    async fn console_log(&self, uid: &str, _lines: Option<usize>) -> Result<String, Error> {
        match self.machines().contains_key(uid) {
            true => Ok(String::new()),
            false => Err(Error::NotFound { uid: uid.to_owned() }),
        }
    }

    async fn connect(&self, uid: &str, way: Way) -> Result<UnixStream, Error> {
        self.live(uid, |_| ())?;
        let message = "the driver is a fake, and no guest runs".to_owned();
        Err(Error::Refused { uid: uid.to_owned(), command: format!("{way:?}"), message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DiskFormat, DiskLimits};

    fn config(uid: &str) -> VmConfig {
        let disk = Disk { path: "/nowhere".into(), format: DiskFormat::Raw, base: None };
        VmConfig {
            uid: uid.into(),
            vcpus: 1,
            memory_mib: 64,
            disk,
            limits: DiskLimits::default(),
            volumes: vec![],
            nics: vec![],
            cdrom: None,
            display: true,
        }
    }

    #[tokio::test]
    async fn a_machine_is_what_it_was_told() {
        let fake = Fake::default();
        let mut events = fake.events();
        assert_eq!(fake.start(config("a")).await.unwrap().state, VmState::Running);
        assert_eq!(events.recv().await.unwrap().kind, VmEventKind::Running);
        fake.pause("a").await.unwrap();
        assert_eq!(fake.get("a").await.unwrap().unwrap().state, VmState::Paused);
        fake.resume("a").await.unwrap();
        fake.shutdown("a", Duration::ZERO).await.unwrap();
        assert!(matches!(fake.pause("a").await, Err(Error::NotRunning { .. })));
        fake.stop("a").await.unwrap();
        fake.stop("unknown").await.unwrap();
        assert_eq!(fake.start(config("a")).await.unwrap().state, VmState::Running);
        fake.remove("a").await.unwrap();
        assert!(fake.get("a").await.unwrap().is_none());
        assert!(fake.start(VmConfig { vcpus: 0, ..config("b") }).await.is_err());
    }
}
