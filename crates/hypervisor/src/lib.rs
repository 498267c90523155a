//! Virtual machines on one node: starting, watching and stopping them.
//!
//! **Owns** the QEMU processes of one cloud instance, their cgroups, their sockets and the state files below its root
//! directory. A machine is a process of its own that lives on when the cloud process dies; [`Qemu::open`] finds it again.
//!
//! **Must never know** objects, projects, networks or images: it is handed a disk, open tap devices and a size, and knows a
//! machine by its uid alone.
//!
//! **Start reading** at [`Hypervisor`] (what a driver can do), then `qemu.rs` (the driver), `launch.rs`,
//! `machine.rs` and `watch.rs` (the beginning, the life and the end of one machine), `args.rs` and `drives.rs` (how QEMU is told), `volumes.rs` (what is plugged in while it runs), `ways.rs` (its screen and its serial port), `spawn.rs` (how its process is jailed).

#![deny(unsafe_code)]

mod api;
mod args;
mod cgroup;
mod console;
mod copies;
mod drives;
mod error;
mod fake;
mod launch;
mod machine;
mod nics;
mod probe;
mod process;
mod qemu;
mod qmp;
mod record;
mod socket;
mod spawn;
mod teardown;
#[cfg(test)]
mod tests;
mod trial;
mod volumes;
mod watch;
mod ways;

pub use api::{
    Accelerator, AcceleratorChoice, Base, Disk, DiskFormat, DiskLimits, ExitReason, Hypervisor, Nic, Reboot,
    VmConfig, VmEvent, VmEventKind, VmInfo, VmState, Volume, Way,
};
pub use args::memory_overhead_mib;
pub use error::Error;
pub use fake::Fake;
pub use probe::probe;
pub use qemu::{Qemu, QemuConfig};
pub use teardown::teardown;
