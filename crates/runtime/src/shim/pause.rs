//! The process that holds a PID namespace for containers that share one (`shareProcessNamespace`).
//!
//! It is the namespace's first process: it takes the exit statuses of orphans, and everything in the namespace ends with it.

use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Signal, WaitOptions};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::os;
use crate::proto::PAUSE_FILE;
use crate::sys;

/// How long it sleeps when there are no orphans.
const NAP: std::time::Duration = std::time::Duration::from_millis(500);

/// Starts it; its pid is in [`PAUSE_FILE`] afterwards. The working directory must be the pod's.
pub(super) fn start() -> Result<(), String> {
    let failed = |errno: Errno| format!("shared processes: {errno}");
    let own = rustix::fs::open("/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let own = own.map_err(failed)?;
    os::unshare(UnshareFlags::NEWPID).map_err(failed)?;
    let started = os::fork(hold);
    // Containers with a namespace of their own are started from here too.
    rustix::thread::move_into_link_name_space(
        std::os::fd::AsFd::as_fd(&own),
        Some(LinkNameSpaceType::ProcessID),
    )
    .map_err(failed)?;
    let pid = started.map_err(failed)?.as_raw_nonzero();
    sys::write_atomic(Path::new(PAUSE_FILE), pid.to_string().as_bytes(), false).map_err(|e| e.to_string())
}

/// Its life: nothing but taking orphans' statuses until it is killed.
fn hold() -> i32 {
    // Else it would outlive the shim, and the processes in the namespace with it.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(_) => {}
            // There are none: processes may come any time.
            Err(_) => std::thread::sleep(NAP),
        }
    }
}
