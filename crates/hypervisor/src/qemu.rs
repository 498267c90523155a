//! The driver that runs each machine as a QEMU process.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use tokio::net::UnixStream;
use tokio::sync::{OnceCell, broadcast};

use crate::args::{is_mac, is_uid, validate};
use crate::cgroup::Hierarchies;
use crate::machine::{Machine, Shared};
use crate::probe::probe;
use crate::record::{Files, VERSION};
use crate::trial::boots;
use crate::{
    Accelerator, AcceleratorChoice, Disk, Error, ExitReason, Hypervisor, Nic, Reboot, VmConfig, VmEvent,
    VmInfo, Volume, Way,
};

/// Events that a slow listener may be behind.
const EVENTS_KEPT: usize = 1024;
/// Machines that are found again at the same time.
const ADOPT_AT_ONCE: usize = 16;

/// Where and how machines are run.
#[derive(Clone, Debug)]
pub struct QemuConfig {
    /// The cloud instance's tag: names its cgroups.
    pub tag: String,
    /// Directory for state, made when missing: DATA_DIR/agent/vms.
    pub root: PathBuf,
    /// Which accelerator is wanted.
    pub accelerator: AcceleratorChoice,
}

/// Machines as QEMU processes. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Qemu {
    driver: Arc<Driver>,
}

#[derive(Debug)]
struct Driver {
    config: QemuConfig,
    shared: Arc<Shared>,
    machines: Mutex<BTreeMap<String, Arc<Machine>>>,
    probed: OnceCell<Accelerator>,
}

impl Qemu {
    /// Takes over `config.root` and every machine that was left running there. Works without QEMU installed; a start does not.
    /// Only one process at a time may have a root open; whoever owns the data directory sees to that.
    pub async fn open(config: QemuConfig) -> Result<Qemu, Error> {
        Qemu::open_with(config, "qemu-system-x86_64".into()).await
    }

    /// Like `open`, with another program.
    pub(crate) async fn open_with(config: QemuConfig, program: String) -> Result<Qemu, Error> {
        let root = &config.root;
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(Error::io("create", root))?;
        let hierarchies = Hierarchies::find().map_err(Error::io("read", "/proc/self/mountinfo"))?;
        let shared = Shared {
            tag: config.tag.clone(),
            hierarchies,
            events: broadcast::Sender::new(EVENTS_KEPT),
            program,
        };
        let driver =
            Driver { config, shared: Arc::new(shared), machines: Mutex::default(), probed: OnceCell::new() };
        let qemu = Qemu { driver: Arc::new(driver) };
        qemu.find_machines().await?;
        // In the background: whoever asks first has the answer sooner.
        let probing = qemu.clone();
        tokio::spawn(async move { probing.accelerator().await });
        Ok(qemu)
    }

    /// Reads the root directory, and finds the processes again.
    async fn find_machines(&self) -> Result<(), Error> {
        let root = &self.driver.config.root;
        let mut found = Vec::new();
        for entry in fs::read_dir(root).map_err(Error::io("read", root))? {
            let entry = entry.map_err(Error::io("read", root))?;
            let Some(uid) = entry.file_name().to_str().filter(|name| is_uid(name)).map(str::to_owned) else {
                continue;
            };
            let files = Files::new(root, &uid);
            let record = match files.load() {
                Ok(Some(record)) if record.version > VERSION => {
                    let message = format!(
                        "its state file has version {}, this program knows {VERSION}: use a newer one",
                        record.version
                    );
                    return Err(Error::Invalid { uid, field: "version", message });
                }
                Ok(record) => record,
                Err(error) => {
                    tracing::warn!(vm = uid, %error, "a state file can't be read; what is left of that machine is ended");
                    None
                }
            };
            found.push((record.is_none(), Machine::new(uid, self.driver.shared.clone(), files, record)));
        }
        self.machines().extend(found.iter().map(|(_, machine)| (machine.uid.clone(), machine.clone())));
        futures::stream::iter(found)
            .for_each_concurrent(ADOPT_AT_ONCE, |(lost, machine)| async move {
                if lost {
                    machine.clean_up(ExitReason::Failed { message: "its state file was lost".into() }).await;
                } else {
                    machine.adopt().await;
                }
            })
            .await;
        self.remove_strays().await;
        Ok(())
    }

    /// Ends processes in cgroups of ours that no state file tells of.
    async fn remove_strays(&self) {
        let known: Vec<String> = self.machines().keys().cloned().collect();
        let shared = self.driver.shared.clone();
        let strays = tokio::task::spawn_blocking(move || {
            for uid in shared.hierarchies.machines(&shared.tag) {
                if !known.contains(&uid)
                    && let Err(error) = shared.hierarchies.remove(&shared.tag, &uid)
                {
                    tracing::warn!(vm = uid, %error, "what is left of an unknown machine could not be removed");
                }
            }
        });
        if let Err(error) = strays.await {
            tracing::warn!(%error, "looking for left machines failed");
        }
    }

    fn machines(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Machine>>> {
        self.driver.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, uid: &str) -> Result<Arc<Machine>, Error> {
        self.machines().get(uid).cloned().ok_or_else(|| Error::NotFound { uid: uid.to_owned() })
    }

    async fn chosen_accelerator(&self) -> Result<Accelerator, Error> {
        let found = self.accelerator().await;
        match (self.driver.config.accelerator, found) {
            (AcceleratorChoice::Kvm, Accelerator::Tcg { why }) => Err(Error::NoKvm { why }),
            (_, found) => Ok(found),
        }
    }
}

#[async_trait]
impl Hypervisor for Qemu {
    async fn accelerator(&self) -> Accelerator {
        let choice = self.driver.config.accelerator;
        let find = || async move {
            if choice == AcceleratorChoice::Tcg {
                return Accelerator::Tcg { why: "it was asked for".into() };
            }
            let program = self.driver.shared.program.clone();
            let finding = tokio::task::spawn_blocking(move || match probe() {
                Accelerator::Kvm => boots(&program, &Accelerator::Kvm)
                    .map_or_else(|why| Accelerator::Tcg { why }, |()| Accelerator::Kvm),
                found => found,
            });
            let failed = |error| Accelerator::Tcg { why: format!("trying KVM failed: {error}") };
            finding.await.unwrap_or_else(failed)
        };
        self.driver.probed.get_or_init(find).await.clone()
    }

    async fn start(&self, config: VmConfig) -> Result<VmInfo, Error> {
        validate(&config)?;
        let accelerator = self.chosen_accelerator().await?;
        let machine = {
            let files = Files::new(&self.driver.config.root, &config.uid);
            let new = || Machine::new(config.uid.clone(), self.driver.shared.clone(), files, None);
            self.machines().entry(config.uid.clone()).or_insert_with(new).clone()
        };
        // A task of its own: a caller that gives up half-way must not leave a process that nobody watches.
        let starting = tokio::spawn(async move { machine.start(config, accelerator).await });
        starting.await.unwrap_or_else(|error| Err(Error::io("start", "QEMU")(io::Error::other(error))))
    }

    async fn list(&self) -> Result<Vec<VmInfo>, Error> {
        Ok(self
            .machines()
            .values()
            .filter(|machine| machine.is_known())
            .map(|machine| machine.info())
            .collect())
    }

    async fn get(&self, uid: &str) -> Result<Option<VmInfo>, Error> {
        Ok(self.machines().get(uid).filter(|machine| machine.is_known()).map(|machine| machine.info()))
    }

    async fn shutdown(&self, uid: &str, grace: Duration) -> Result<(), Error> {
        match self.find(uid) {
            Ok(machine) => machine.shutdown(grace).await,
            Err(_) => Ok(()),
        }
    }

    async fn stop(&self, uid: &str) -> Result<(), Error> {
        let Ok(machine) = self.find(uid) else { return Ok(()) };
        let _operation = machine.operation.lock().await;
        machine.stop(ExitReason::Requested).await
    }

    async fn reboot(&self, uid: &str, kind: Reboot) -> Result<(), Error> {
        self.find(uid)?.reboot(kind).await
    }

    async fn pause(&self, uid: &str) -> Result<(), Error> {
        self.find(uid)?.execute("stop").await.map(drop)
    }

    async fn resume(&self, uid: &str) -> Result<bool, Error> {
        let machine = self.find(uid)?;
        match machine.execute("query-status").await?["status"].as_str() {
            Some("paused") => machine.execute("cont").await.map(|_| true),
            status => Ok(status == Some("running")),
        }
    }

    async fn remove(&self, uid: &str) -> Result<(), Error> {
        let Ok(machine) = self.find(uid) else { return Ok(()) };
        let _operation = machine.operation.lock().await;
        machine.stop(ExitReason::Requested).await?;
        machine.erase()?;
        self.machines().remove(uid);
        Ok(())
    }

    async fn attach(&self, uid: &str, volume: Volume) -> Result<(), Error> {
        if !is_uid(&volume.id) {
            let message = "must be 1 to 64 of a-z, 0-9 and '-'".into();
            return Err(Error::Invalid { uid: uid.to_owned(), field: "volumes.id", message });
        }
        self.find(uid)?.attach_volume(&volume).await
    }

    async fn detach(&self, uid: &str, volume: &str) -> Result<(), Error> {
        self.find(uid)?.detach_volume(volume).await
    }

    async fn volumes(&self, uid: &str) -> Result<Vec<String>, Error> {
        self.find(uid)?.volumes().await
    }

    async fn attach_nic(&self, uid: &str, nic: Nic) -> Result<(), Error> {
        if !is_mac(&nic.mac) {
            let message = format!("{:?} is no address like 02:00:00:00:00:01", nic.mac);
            return Err(Error::Invalid { uid: uid.to_owned(), field: "nics.mac", message });
        }
        self.find(uid)?.attach_nic(&nic).await
    }

    async fn detach_nic(&self, uid: &str, mac: &str) -> Result<(), Error> {
        self.find(uid)?.detach_nic(mac).await
    }

    async fn nics(&self, uid: &str) -> Result<Vec<String>, Error> {
        self.find(uid)?.nics().await
    }

    async fn grow(&self, uid: &str, volume: Option<&str>, size_bytes: u64) -> Result<(), Error> {
        self.find(uid)?.grow_disk(volume, size_bytes).await
    }

    async fn copy(&self, uid: &str, volume: Option<&str>, target: &Disk) -> Result<(), Error> {
        self.find(uid)?.copy_disk(volume, target).await
    }

    fn events(&self) -> broadcast::Receiver<VmEvent> {
        self.driver.shared.events.subscribe()
    }

    async fn console_log(&self, uid: &str, lines: Option<usize>) -> Result<String, Error> {
        self.find(uid)?.console_log(lines).await
    }

    async fn connect(&self, uid: &str, way: Way) -> Result<UnixStream, Error> {
        let machine = self.find(uid)?;
        // A task of its own: who asks may leave half-way, and QEMU must not be left between two commands.
        let connecting = tokio::spawn(async move {
            match way {
                Way::Display => machine.display().await,
                Way::Serial => machine.serial().await,
            }
        });
        connecting.await.unwrap_or_else(|error| Err(Error::io("reach", "QEMU")(io::Error::other(error))))
    }
}
