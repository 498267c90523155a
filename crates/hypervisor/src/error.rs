//! What can go wrong with a machine.

use std::io;
use std::path::PathBuf;

/// Why a call failed. Each message says what, where, and what to do when there is something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// QEMU is not installed.
    #[error(
        "{program} was not found: install the package `qemu-system-x86` (Debian) to run virtual machines"
    )]
    MissingQemu {
        /// The program that was looked for.
        program: String,
    },
    /// The configuration makes no sense.
    #[error("virtual machine {uid}: {field}: {message}")]
    Invalid {
        /// The machine.
        uid: String,
        /// Field of `VmConfig` at fault.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// KVM was asked for and does not work.
    #[error("KVM was asked for but does not work here: {why}")]
    NoKvm {
        /// What was tried and failed.
        why: String,
    },
    /// No such machine.
    #[error("no virtual machine {uid} was started on this node")]
    NotFound {
        /// The machine.
        uid: String,
    },
    /// The machine has no process.
    #[error("virtual machine {uid} does not run")]
    NotRunning {
        /// The machine.
        uid: String,
    },
    /// QEMU ended while it was starting.
    #[error("QEMU of virtual machine {uid} ended while starting ({status}): {message}")]
    StartFailed {
        /// The machine.
        uid: String,
        /// How its process ended.
        status: String,
        /// What it wrote to its standard error, shortened.
        message: String,
    },
    /// QEMU refused a command.
    #[error("QEMU of virtual machine {uid} refused `{command}`: {message}")]
    Refused {
        /// The machine.
        uid: String,
        /// The QMP command.
        command: String,
        /// QEMU's words.
        message: String,
    },
    /// The guest holds on to a volume.
    #[error(
        "the guest of virtual machine {uid} has not let go of {volume} yet: it may still boot, or have it in use"
    )]
    Busy {
        /// The machine.
        uid: String,
        /// The volume, or the network card's address.
        volume: String,
    },
    /// All places at the serial port are taken.
    #[error("{most} connections to the serial port of virtual machine {uid} are open: close one first")]
    Crowded {
        /// The machine.
        uid: String,
        /// How many there may be.
        most: usize,
    },
    /// QEMU does not answer.
    #[error("QEMU of virtual machine {uid} did not answer `{command}`: {message}")]
    NoAnswer {
        /// The machine.
        uid: String,
        /// The QMP command.
        command: String,
        /// What happened instead.
        message: String,
    },
    /// An operation of the host's failed.
    #[error("could not {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// For `map_err`: says what was tried on what.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
        let path = path.into();
        move |source| Error::Io { action, path, source }
    }
}
