//! Virtual machines of this node: from the object to a running QEMU, and from what guests do to the object's status.

mod disk;
mod halt;
pub(crate) mod metadata;
mod next;
mod nics;
mod shelve;
mod shutdown;
mod status;
mod volumes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};
use yunfan_disks::DiskStore;
use yunfan_hypervisor::{Hypervisor, Nic, Reboot, VmConfig, VmState};
use yunfan_network::DRIVE_LABEL;
use yunfan_resources::compute::{RebootKind, RunState, VirtualMachine, VmPhase};
use yunfan_resources::image::Image;
use yunfan_resources::names::VM_FINALIZER;
use yunfan_resources::network::{Port, workload_port};
use yunfan_resources::storage::Volume;

use self::metadata::Guests;
use self::next::Next;
use crate::Shared;
use crate::images::{ImageError, Images};
use crate::links::{LinkError, Links, MachineLink};
use crate::shutdown::Shutdown;
use crate::volume::Volumes;

pub(crate) use volumes::hypervisors_disk;

/// Machines that are worked on at one time.
const WORKERS: usize = 4;
/// How long to wait before trying again what other objects have to come for.
const AGAIN: Duration = Duration::from_secs(1);
/// How long a guest may take to power off before its plug is pulled (Nova's own default).
const SHUTDOWN: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Machine(ObjectKey),
    Left(String),
}

/// The loop that looks after virtual machines.
pub(crate) struct Machines {
    shared: Shared,
    machines: Informer<VirtualMachine>,
    hypervisor: Arc<dyn Hypervisor>,
    images: Arc<Images>,
    disks: DiskStore,
    volumes: Arc<Volumes>,
    links: Arc<Links>,
    shutdown: Arc<Shutdown>,
    guests: Arc<Guests>,
    queue: Queue<Work>,
    /// Failed starts, by uid: a machine that can't be started is not tried without a pause.
    failures: Mutex<HashMap<String, Failure>>,
}

/// Failed starts of one machine, in a row.
#[derive(Clone, Copy, Debug)]
struct Failure {
    count: u32,
    /// Before this, only a change of the machine's spec makes another try.
    until: Instant,
    /// Generation of the spec that failed.
    generation: Option<i64>,
}

/// Why a machine can't be brought further now.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MachineError {
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("{0}")]
    Hypervisor(#[from] yunfan_hypervisor::Error),
    #[error("{0}")]
    Disk(#[from] yunfan_disks::Error),
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// Another object has to come first.
    #[error("{0}")]
    Waits(String),
    #[error("{0}")]
    Image(String),
    /// A machine that runs has a volume too few or too many.
    #[error("{0}")]
    Volume(String),
}

impl From<ImageError> for MachineError {
    fn from(error: ImageError) -> Self {
        match error {
            ImageError::Disk(error) => Self::Disk(error),
            ImageError::Api(error) => Self::Api(error),
            ImageError::Waits(message) => Self::Waits(message),
            ImageError::Unusable(message) => Self::Image(message),
        }
    }
}

impl Machines {
    pub(crate) fn new(
        shared: Shared,
        hypervisor: Arc<dyn Hypervisor>,
        images: Arc<Images>,
        disks: DiskStore,
        volumes: Arc<Volumes>,
        links: Arc<Links>,
        shutdown: Arc<Shutdown>,
    ) -> Arc<Self> {
        Arc::new(Self {
            machines: shared.placed(),
            guests: Guests::new(&shared),
            shutdown,
            shared,
            hypervisor,
            images,
            disks,
            volumes,
            links,
            queue: Queue::new(),
            failures: Mutex::default(),
        })
    }

    /// Waits until the node's machines are known.
    pub(crate) async fn synced(&self) {
        self.machines.synced().await;
    }

    /// Looks after machines until dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(
            self.machines.synced(),
            self.images.synced(),
            self.volumes.synced(),
            self.links.synced(),
            self.guests.synced()
        );
        self.queue.feed(&self.machines, |machine| {
            [Some(Work::Machine(ObjectKey::of(machine))), machine.uid().map(Work::Left)].into_iter().flatten()
        });
        let ports = self.shared.informers.of::<Port>();
        self.queue.feed(&ports, |port| {
            let holder = port.spec.holder.as_ref().filter(|holder| holder.kind == "VirtualMachine")?;
            Some(Work::Machine(ObjectKey::new(port.namespace().unwrap_or_default(), holder.name.clone())))
        });
        let machines = self.machines.clone();
        self.queue.feed(&self.shared.informers.of::<Image>(), move |image| {
            let name = image.name_any();
            machines
                .in_namespace(&image.namespace().unwrap_or_default())
                .iter()
                .filter(|machine| {
                    [&machine.spec.image, &machine.spec.shelved_image].contains(&&Some(name.clone()))
                })
                .map(|machine| Work::Machine(ObjectKey::of(machine.as_ref())))
                .collect::<Vec<_>>()
        });
        let machines = self.machines.clone();
        self.queue.feed(&self.shared.placed::<Volume>(), move |volume| users_of(&machines, volume));
        tokio::spawn(self.clone().follow_hypervisor());
        let work = self.clone();
        run_loop("machine", self.queue.clone(), WORKERS, move |key| {
            let work = work.clone();
            async move { work.reconcile(&key).await }
        })
        .await;
    }

    async fn follow_hypervisor(self: Arc<Self>) {
        let mut events = self.hypervisor.events();
        self.look_at_all().await;
        loop {
            match events.recv().await {
                Ok(event) => self.wake(&event.uid),
                Err(RecvError::Lagged(_)) => self.look_at_all().await,
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn wake(&self, uid: &str) {
        match self.machines.list().iter().find(|vm| vm.metadata.uid.as_deref() == Some(uid)) {
            Some(machine) => self.queue.add(Work::Machine(ObjectKey::of(machine.as_ref()))),
            None => self.queue.add(Work::Left(uid.to_owned())),
        }
    }

    pub(crate) async fn look_at_all(&self) {
        for machine in self.machines.list() {
            self.queue.add(Work::Machine(ObjectKey::of(machine.as_ref())));
        }
        match self.hypervisor.list().await {
            Ok(machines) => machines.into_iter().for_each(|vm| self.queue.add(Work::Left(vm.uid))),
            Err(error) => tracing::warn!(%error, "cannot list the virtual machines of this node"),
        }
        match self.disks.list().await {
            Ok(disks) => disks
                .iter()
                .for_each(|disk| self.queue.add(Work::Left(disk::machine_of(&disk.owner).to_owned()))),
            Err(error) => tracing::warn!(%error, "cannot list the disks of this node"),
        }
    }

    async fn reconcile(&self, work: &Work) -> Result<Option<Duration>, MachineError> {
        match work {
            Work::Machine(key) => match self.machines.get_key(key) {
                Some(machine) if machine.spec.node_name.as_ref() == Some(&self.shared.node) => {
                    self.reconcile_machine(&machine).await
                }
                _ => Ok(None),
            },
            Work::Left(uid) => {
                let there = self.machines.list().iter().any(|vm| vm.metadata.uid.as_deref() == Some(uid));
                if !there {
                    self.clear(uid, &self.links.stray_machines(uid)).await?;
                }
                Ok(None)
            }
        }
    }

    async fn reconcile_machine(&self, machine: &VirtualMachine) -> Result<Option<Duration>, MachineError> {
        let uid = machine.uid().unwrap_or_default();
        if machine.metadata.deletion_timestamp.is_some() {
            if machine.finalizers().iter().any(|f| f == VM_FINALIZER) {
                self.clear(&uid, &self.ports_of(machine)).await?;
                self.shared.writer.remove_finalizer(machine, VM_FINALIZER).await?;
            }
            return Ok(None);
        }
        if shelve::goes(machine) {
            return self.let_go(machine).await;
        }
        let result = match machine.spec.run_state {
            RunState::Running | RunState::Paused | RunState::Suspended => match self.pause(machine) {
                // What woke us may be our own words about the failure.
                Some(pause) => return Ok(Some(pause)),
                None => self.keep_running(machine).await,
            },
            RunState::Stopped | RunState::Shelved => self.keep_stopped(machine).await,
        };
        match result {
            Ok(()) => {
                self.forget_failures(&uid);
                self.record_results(machine, None).await?;
                self.leave_shelved(machine).await
            }
            Err(error) => self.explain(machine, error).await,
        }
    }

    async fn keep_running(&self, machine: &VirtualMachine) -> Result<(), MachineError> {
        let uid = machine.uid().unwrap_or_default();
        let present = self.hypervisor.get(&uid).await?;
        if self.shutdown.is_on() {
            // It ends, or has ended, and is not started before the node is there again.
            let runs = present.is_some_and(|info| !matches!(info.state, VmState::Stopped(_)));
            return if runs { Ok(()) } else { self.hold(machine).await };
        }
        match Next::of(machine, present) {
            Next::Renew => self.renew(machine).await,
            Next::GoOn(info) => {
                let rebooted = self.reboot(machine).await?;
                let info = self.halt_or_go_on(machine, info).await?;
                self.write_running(machine, &info, None, rebooted).await?;
                self.plug_volumes(machine).await?;
                self.plug_nics(machine).await
            }
            Next::StayOff(why) => self.stay_off(machine, why).await,
            Next::Start(crash) => {
                if let Some(message) = crash {
                    self.shared.recorder.event(machine, Severity::Warning, "Crashed", message);
                }
                self.start(machine).await
            }
        }
    }

    async fn start(&self, machine: &VirtualMachine) -> Result<(), MachineError> {
        let uid = machine.uid().unwrap_or_default();
        // Before anything of it is on the node, so that a deletion always comes by us.
        self.shared.writer.add_finalizer(machine, VM_FINALIZER).await?;
        let resources = machine.spec.resources.clone().ok_or_else(|| {
            MachineError::Waits(format!(
                "flavor {} does not exist, so its size is unknown",
                machine.spec.flavor
            ))
        })?;
        // One that failed says so until it runs.
        if machine.status.as_ref().is_none_or(|status| status.phase != VmPhase::Error) {
            self.write_phase(machine, VmPhase::Building, None).await?;
        }
        if machine.is_outdated() {
            self.prepare(machine).await?;
        }
        let (disk, rescued) = self.disks_to_start_with(machine, &resources).await?;
        // What a machine is rescued with is no volume.
        let root = machine.boot_volume().filter(|_| rescued.is_none());
        let mut volumes: Vec<_> = rescued.into_iter().collect();
        volumes.extend(self.volumes_to_start_with(machine).await?);
        let mut links: Vec<MachineLink> = Vec::new();
        for (index, attachment) in machine.spec.networks.iter().enumerate() {
            let port = attachment
                .port
                .clone()
                .unwrap_or_else(|| workload_port("VirtualMachine", &machine.name_any(), index));
            let namespace = machine.namespace().unwrap_or_default();
            let link = self.links.attach_machine(&namespace, &port, machine.uid()).await?;
            links.push(link);
        }
        let mut nics = Vec::new();
        let mut addresses = Vec::new();
        for link in links {
            addresses.extend(status::addresses_of(&link.port));
            let mac = link.port.spec.mac_address.clone().unwrap_or_default();
            nics.push(Nic { mac, tap: link.tap.fd });
        }
        let config = VmConfig {
            uid,
            vcpus: resources.vcpus,
            memory_mib: u64::from(resources.memory_mib),
            disk,
            limits: root.map(volumes::limits).unwrap_or_default(),
            volumes,
            nics,
            cdrom: self.config_drive(machine).await?,
            display: true,
        };
        let info = self.hypervisor.start(config).await?;
        self.shared.recorder.event(machine, Severity::Normal, "Started", "Started the virtual machine");
        // A reboot that was asked for while it was off is done by this start.
        self.write_running(machine, &info, Some(addresses), Some(machine.spec.reboot_generation)).await
    }

    /// The machine's config drive, if it is to have one, with what it is told now.
    async fn config_drive(&self, machine: &VirtualMachine) -> Result<Option<Vec<u8>>, MachineError> {
        if !machine.spec.config_drive {
            return Ok(None);
        }
        let guest = self.guests.of(machine, &self.shared.writer).await?;
        Ok(Some(yunfan_disks::iso(DRIVE_LABEL, &yunfan_network::config_drive(&guest))?))
    }

    /// Reboots when it is asked for; returns the generation that was carried out.
    async fn reboot(&self, machine: &VirtualMachine) -> Result<Option<i64>, MachineError> {
        let done = machine.status.as_ref().map_or(0, |status| status.reboot_generation);
        if machine.spec.reboot_generation <= done {
            return Ok(None);
        }
        let kind = match machine.spec.reboot_kind {
            RebootKind::Hard => Reboot::Hard,
            RebootKind::Soft => Reboot::Soft { grace: SHUTDOWN },
        };
        self.hypervisor.reboot(&machine.uid().unwrap_or_default(), kind).await?;
        self.shared.recorder.event(machine, Severity::Normal, "Rebooted", "Rebooted the virtual machine");
        Ok(Some(machine.spec.reboot_generation))
    }

    async fn keep_stopped(&self, machine: &VirtualMachine) -> Result<(), MachineError> {
        let uid = machine.uid().unwrap_or_default();
        let runs =
            self.hypervisor.get(&uid).await?.is_some_and(|info| !matches!(info.state, VmState::Stopped(_)));
        if runs {
            self.hypervisor.shutdown(&uid, SHUTDOWN).await?;
            self.shared.recorder.event(machine, Severity::Normal, "Stopped", "Stopped the virtual machine");
        }
        for (network, port) in self.ports_of(machine) {
            self.links.detach_port(&network, &port).await?;
        }
        if machine.is_outdated()
            && let Some(resources) = &machine.spec.resources
        {
            self.prepare(machine).await?;
            self.disks_to_start_with(machine, resources).await?;
            self.write_stopped_as_asked(machine).await?;
        }
        self.write_phase(machine, VmPhase::Stopped, None).await
    }

    /// The plugs of a machine that are in on this node, as (network uid, port uid).
    fn ports_of(&self, machine: &VirtualMachine) -> Vec<(String, String)> {
        let namespace = machine.namespace().unwrap_or_default();
        let plugged = self.links.plugged_machines();
        machine
            .spec
            .networks
            .iter()
            .enumerate()
            .filter_map(|(index, attachment)| {
                let name = attachment
                    .port
                    .clone()
                    .unwrap_or_else(|| workload_port("VirtualMachine", &machine.name_any(), index));
                let port = self.links.port(&namespace, &name, machine.uid()).ok()?.uid()?;
                plugged.iter().find(|(_, uid)| *uid == port).cloned()
            })
            .collect()
    }

    /// Removes everything that the node has of a machine.
    async fn clear(&self, uid: &str, ports: &[(String, String)]) -> Result<(), MachineError> {
        self.hypervisor.remove(uid).await?;
        for (network, port) in ports {
            self.links.detach_port(network, port).await?;
        }
        disk::remove_disks(&self.disks, uid, &[]).await?;
        self.forget_failures(uid);
        Ok(())
    }

    /// Says in the status why the machine is where it is, and when it is tried again.
    async fn explain(
        &self,
        machine: &VirtualMachine,
        error: MachineError,
    ) -> Result<Option<Duration>, MachineError> {
        let message = error.to_string();
        match error {
            MachineError::Api(error) => Err(error.into()),
            // It runs; only a volume is not in or out yet.
            MachineError::Volume(_) => {
                tracing::info!(machine = machine.name_any(), message, "a volume is tried again");
                Ok(Some(AGAIN))
            }
            MachineError::Waits(_) | MachineError::Link(LinkError::Waits(_)) => {
                self.write_phase(machine, VmPhase::Building, Some(message)).await?;
                Ok(Some(AGAIN))
            }
            error => {
                self.shared.recorder.event(machine, Severity::Warning, "FailedStart", message.clone());
                self.record_results(machine, Some(&message)).await?;
                self.write_phase(machine, VmPhase::Error, Some(message)).await?;
                let pause = self.count_failure(machine);
                tracing::warn!(machine = machine.name_any(), %error, "a virtual machine could not be started");
                Ok(Some(pause))
            }
        }
    }

    /// Remembers a failed start; returns how long to wait before the next.
    fn count_failure(&self, machine: &VirtualMachine) -> Duration {
        let uid = machine.uid().unwrap_or_default();
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let before = failures.get(&uid).map_or(0, |failure| failure.count);
        let pause = Duration::from_secs(10).saturating_mul(1 << before.min(5));
        let failure = Failure {
            count: before + 1,
            until: Instant::now() + pause,
            generation: machine.metadata.generation,
        };
        failures.insert(uid, failure);
        pause
    }

    /// How long a machine whose start failed has still to wait.
    fn pause(&self, machine: &VirtualMachine) -> Option<Duration> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = failures.get(&machine.uid().unwrap_or_default())?;
        let left = failure.until.checked_duration_since(Instant::now())?;
        (failure.generation == machine.metadata.generation && !left.is_zero()).then_some(left)
    }

    fn forget_failures(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    async fn merge(&self, machine: &VirtualMachine, patch: &Value) -> Result<(), MachineError> {
        let (namespace, name) = (machine.namespace(), machine.name_any());
        match self.shared.writer.merge::<VirtualMachine>(namespace.as_deref(), &name, patch).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// The machines that have a Volume, or are to have it.
fn users_of(machines: &Informer<VirtualMachine>, volume: &Volume) -> Vec<Work> {
    let machines = machines.in_namespace(&volume.namespace().unwrap_or_default());
    let users = machines.iter().filter(|machine| volume.wish_of(machine).is_some() || has(volume, machine));
    users.map(|machine| Work::Machine(ObjectKey::of(machine.as_ref()))).collect()
}

/// Whether a Volume says that a machine has it.
fn has(volume: &Volume, machine: &VirtualMachine) -> bool {
    let attachments = volume.status.iter().flat_map(|status| &status.attachments);
    attachments.into_iter().any(|attachment| Some(&attachment.uid) == machine.metadata.uid.as_ref())
}
