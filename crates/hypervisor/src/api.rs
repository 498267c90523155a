//! What a driver of virtual machines can do, in terms that hold for any hypervisor.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio::sync::broadcast;

use crate::Error;

/// A driver of virtual machines on this node. All methods may be called again after a failure: each brings the machine to
/// the state asked for, whatever it finds.
#[async_trait]
pub trait Hypervisor: Send + Sync + 'static {
    /// What carries guests' instructions out. Found out once, by booting a guest; the first call may take a moment, five seconds at worst.
    async fn accelerator(&self) -> Accelerator;

    /// Starts a machine, or finds it running already (then `config` is dropped, with its tap devices). Returns when the
    /// guest's processors run.
    async fn start(&self, config: VmConfig) -> Result<VmInfo, Error>;

    /// Every machine that was started and not removed, by uid. Stopped ones are among them.
    async fn list(&self) -> Result<Vec<VmInfo>, Error>;

    /// One machine, if it was started and not removed.
    async fn get(&self, uid: &str) -> Result<Option<VmInfo>, Error>;

    /// Presses the power button, waits up to `grace` for the guest to power off, and then stops it by force. Returns when the
    /// machine is stopped.
    async fn shutdown(&self, uid: &str, grace: Duration) -> Result<(), Error>;

    /// Pulls the plug. Returns when the machine is stopped; a machine that is stopped or unknown is no error.
    async fn stop(&self, uid: &str) -> Result<(), Error>;

    /// Restarts the guest inside the same machine: devices and process stay.
    async fn reboot(&self, uid: &str, kind: Reboot) -> Result<(), Error>;

    /// Halts the guest's processors.
    async fn pause(&self, uid: &str) -> Result<(), Error>;

    /// Lets the guest's processors run on where `pause` halted them, and tells whether they run now. What is halted because the guest
    /// has powered itself off, or its disk failed, stays so.
    async fn resume(&self, uid: &str) -> Result<bool, Error>;

    /// Stops the machine and forgets it: process, cgroup, state and console log go. The disk stays. An unknown machine is no
    /// error.
    async fn remove(&self, uid: &str) -> Result<(), Error>;

    /// Plugs a volume into a machine that runs; one that is plugged in already is no error. It stays until `detach` or the end
    /// of the machine's process.
    async fn attach(&self, uid: &str, volume: Volume) -> Result<(), Error>;

    /// Asks the guest to let go of a volume, and takes it away when it has. [`Error::Busy`] when it has not after some
    /// seconds: call again. A volume that is not plugged in is no error.
    async fn detach(&self, uid: &str, volume: &str) -> Result<(), Error>;

    /// The ids of the volumes that are plugged into a machine that runs, without the one that is its root disk.
    async fn volumes(&self, uid: &str) -> Result<Vec<String>, Error>;

    /// Plugs a network card into a machine that runs; one whose address is plugged in already is no error (then `nic` is dropped).
    async fn attach_nic(&self, uid: &str, nic: Nic) -> Result<(), Error>;

    /// Asks the guest to let go of the network card with this address, and takes it away when it has. [`Error::Busy`] when it has
    /// not after some seconds: call again. A card that is not plugged in is no error.
    async fn detach_nic(&self, uid: &str, mac: &str) -> Result<(), Error>;

    /// The addresses of the network cards of a machine that runs which can be detached.
    async fn nics(&self, uid: &str) -> Result<Vec<String>, Error>;

    /// Makes a disk of a machine that runs larger, and tells the guest. `volume` is none for the root disk.
    async fn grow(&self, uid: &str, volume: Option<&str>, size_bytes: u64) -> Result<(), Error>;

    /// Copies what a disk of a machine that runs holds at the moment of the call into `target`, while the guest goes on. `volume` is
    /// none for the root disk. `target` is a new file of the same format and size; of a copy-on-write disk only what it has of its
    /// own is copied, so that the copy has the same base. Returns when all is written; what is in `target` after an error is nothing.
    async fn copy(&self, uid: &str, volume: Option<&str>, target: &Disk) -> Result<(), Error>;

    /// What happens to machines from now on. A receiver that lags loses the oldest and is told so: call `list` then.
    fn events(&self) -> broadcast::Receiver<VmEvent>;

    /// The last `lines` lines (all that are kept when `None`) of what the guest wrote to its serial console. Bytes that are
    /// not UTF-8 are replaced. Kept until `remove`.
    async fn console_log(&self, uid: &str, lines: Option<usize>) -> Result<String, Error>;

    /// A connection into a machine that runs. Whoever gets one has been let in; there may be several at one time. It ends with the
    /// machine's process. [`Error::Refused`] where the machine has no such way.
    async fn connect(&self, uid: &str, way: Way) -> Result<UnixStream, Error>;
}

/// A way into a machine that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its screen, keyboard and pointer, in RFB (RFC 6143) from the server's greeting on, without a password.
    Display,
    /// Its first serial port, byte by byte.
    Serial,
}

/// A machine to start.
#[derive(Debug)]
pub struct VmConfig {
    /// Identity on this node, 1 to 64 of `a-z0-9-`; one that is a UUID is also told to the guest's firmware tables.
    pub uid: String,
    /// Virtual processors, 1 to 255.
    pub vcpus: u32,
    /// Guest memory, MiB, at least 16.
    pub memory_mib: u64,
    /// Root disk; the guest boots from it and sees it as a virtio block device.
    pub disk: Disk,
    /// How fast the guest may use the root disk.
    pub limits: DiskLimits,
    /// Volumes beside the root disk, in the order in which the guest sees them (at most 8).
    pub volumes: Vec<Volume>,
    /// Network cards, in the order in which the guest sees them (at most 16).
    pub nics: Vec<Nic>,
    /// The bytes of the CD in its drive; without any the machine has no drive.
    pub cdrom: Option<Vec<u8>>,
    /// Whether it has a screen (VGA), which is seen by [`Way::Display`].
    pub display: bool,
}

/// A disk beside the root disk, which can come and go while the machine runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Identity on this node, 1 to 64 of `a-z0-9-`.
    pub id: String,
    /// What the guest reads as the disk's serial number; only the first 20 letters, digits and dashes count.
    pub serial: String,
    /// Its file.
    pub disk: Disk,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// How fast the guest may use it.
    pub limits: DiskLimits,
}

/// Most that a guest reads from and writes to a disk; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskLimits {
    /// Bytes a second: read and written, read, written.
    pub bytes: [u32; 3],
    /// Requests a second: both, reading, writing.
    pub requests: [u32; 3],
}

/// A disk: a copy-on-write file, or the plain bytes of a disk of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// The file that the machine writes to.
    pub path: PathBuf,
    /// How it is read; never found out from the file, whose bytes the guest chooses.
    pub format: DiskFormat,
    /// The image below it. The path in the qcow2 header is never followed: whoever could write that header (a guest that broke
    /// into its QEMU) could name any file of the host there.
    pub base: Option<Base>,
}

/// The image below a copy-on-write disk; only read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The file; it has no backing file of its own.
    pub path: PathBuf,
    /// How it is read.
    pub format: DiskFormat,
}

/// Formats of a [`Disk`] and its [`Base`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The disk's bytes as they are.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

/// A network card.
#[derive(Debug)]
pub struct Nic {
    /// Address that the guest sees, `02:00:00:00:00:01`.
    pub mac: String,
    /// An open tap device (`IFF_TAP | IFF_NO_PI`, best with `IFF_VNET_HDR`), which the machine's process gets. Our copy is
    /// closed when `start` returns.
    pub tap: OwnedFd,
}

/// How a guest is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reboot {
    /// Ask the guest to shut down, and start it again when it has; by force after `grace`.
    Soft {
        /// How long the guest may take.
        grace: Duration,
    },
    /// Press reset.
    Hard,
}

/// What carries guests' instructions out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accelerator {
    /// The processor, through the kernel's KVM.
    Kvm,
    /// QEMU's translator, ten to thirty times slower.
    Tcg {
        /// Why KVM is not used.
        why: String,
    },
}

/// Which accelerator is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AcceleratorChoice {
    /// KVM where a virtual processor really runs, else TCG.
    #[default]
    Auto,
    /// KVM; a start fails where it does not work.
    Kvm,
    /// TCG.
    Tcg,
    /// None: machines are pretended ([`crate::Fake`]), for tests of scale.
    Fake,
}

/// What is known of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmInfo {
    /// Identity on this node.
    pub uid: String,
    /// Its process, while there is one.
    pub pid: Option<u32>,
    /// What it does.
    pub state: VmState,
    /// What carries its instructions out (what it was started with last).
    pub accelerator: Accelerator,
}

/// What a machine does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmState {
    /// The guest's processors run.
    Running,
    /// The guest's processors are halted.
    Paused,
    /// There is no process.
    Stopped(ExitReason),
}

/// Why a machine stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitReason {
    /// The guest powered itself off.
    Guest,
    /// `shutdown`, `stop` or `remove` was called.
    Requested,
    /// The process ended by itself, was killed, or the host restarted.
    Failed {
        /// What is known about it.
        message: String,
    },
}

/// Something that happened to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmEvent {
    /// The machine's identity.
    pub uid: String,
    /// What happened.
    pub kind: VmEventKind,
}

/// What can happen to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VmEventKind {
    /// It runs: started, resumed, or found again after a restart of the cloud.
    Running,
    /// Its processors are halted.
    Paused,
    /// The guest was restarted.
    Rebooted {
        /// By itself, not by `reboot`.
        by_guest: bool,
    },
    /// The guest's kernel reports that it panicked.
    Panicked,
    /// Its process is gone.
    Stopped(ExitReason),
}
