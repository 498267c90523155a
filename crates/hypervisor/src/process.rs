//! Which process is which, also after a restart of ours.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process, told from a later one with the same pid by when it began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Its pid in our pid namespace.
    pub(crate) pid: u32,
    /// When it began, in clock ticks since the host booted.
    start_ticks: u64,
    /// Which boot of the host it belongs to.
    boot_id: String,
}

impl Process {
    /// The process that has `pid` now.
    pub(crate) fn of(pid: u32) -> io::Result<Process> {
        let start_ticks = start_ticks(pid)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("process {pid} has ended")))?;
        Ok(Process { pid, start_ticks, boot_id: boot_id()? })
    }

    /// A handle that means this process for ever; `None` when it has ended.
    pub(crate) fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let handle = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Checked after opening: from here on the handle can't come to mean another process.
        let same = boot_id()? == self.boot_id && start_ticks(self.pid)? == Some(self.start_ticks);
        Ok(same.then_some(handle))
    }
}

/// Ends the process at once. One that has ended is no error.
pub(crate) fn kill(handle: &OwnedFd) -> io::Result<()> {
    match pidfd_send_signal(handle, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns when the process has ended.
pub(crate) async fn ended(handle: Arc<OwnedFd>) -> io::Result<()> {
    // SAFETY: the descriptor is owned by `handle`, which the registration keeps, and which nobody can close or exchange.
    #[allow(unsafe_code)]
    let registered = unsafe { AsyncFd::register_with_interest(handle, Interest::READABLE) }?;
    registered.readable().await.map(drop)
}

/// When a process began; `None` when there is none, or only its zombie.
fn start_ticks(pid: u32) -> io::Result<Option<u64>> {
    let stat = match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // No such process, or it went while its file was read (ESRCH).
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    Ok(parse_stat(&stat))
}

/// Field 22 of `/proc/PID/stat`, unless the process is a zombie. The name, field 2, may hold blanks and parentheses.
fn parse_stat(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X" | "x") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines_with_odd_names_are_read() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(parse_stat(&format!("7 (a) b (c)) {fields}")), Some(4242));
        assert_eq!(parse_stat(&format!("7 (x) {}", fields.replacen('S', "Z", 1))), None);
        assert_eq!(parse_stat("7 (x) S 1"), None);
    }

    #[test]
    fn an_ended_process_is_not_found_nor_is_one_that_took_its_pid() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id()).unwrap();
        let handle = process.open().unwrap().expect("it runs");
        let other = Process { start_ticks: process.start_ticks + 1, ..process.clone() };
        assert!(other.open().unwrap().is_none());
        kill(&handle).unwrap();
        child.wait().unwrap();
        assert!(process.open().unwrap().is_none());
        kill(&handle).unwrap();
    }
}
