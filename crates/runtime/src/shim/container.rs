//! One container as the shim sees it: its output, its first process, its end.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitStatus};

use super::attach::Client;
use super::binds;
use crate::logs::writer::{LogWriter, Stream};
use crate::proto::Create;
use crate::types::{ContainerState, ContainerStatus};
use crate::{cgroup, sys};

/// The exit code of a container whose first process could not be started.
const START_FAILED: i32 = 128;
/// Bytes read from one output before others get their turn.
const READ_BYTES: usize = 64 * 1024;
/// How long the other processes of a container that ended may take to die: meanwhile nothing else is done.
const KILL_TIME: Duration = Duration::from_millis(200);

/// How a process ended, in the way shells count: the exit code, or 128 and the signal.
pub(super) fn code_of(status: WaitStatus) -> Option<i32> {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
}

/// A descriptor that becomes readable when the process ends.
pub(super) fn pidfd_of(pid: i32) -> Result<OwnedFd, String> {
    let pid = Pid::from_raw(pid).ok_or("no pid")?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|e| format!("pidfd: {e}"))
}

pub(super) struct Container {
    pub(super) status: ContainerStatus,
    cgroup: String,
    /// Its other processes do not end with its first one.
    shares_processes: bool,
    log: LogWriter,
    /// Read ends of the outputs that are open.
    pub(super) outputs: Vec<(Stream, OwnedFd)>,
    /// While it runs.
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) tty: bool,
    /// Whether clients may write to its stdin.
    pub(super) stdin: bool,
    pub(super) stdin_once: bool,
    /// The other end of its stdin, until that is ended; a terminal's is its master.
    pub(super) input: Option<OwnedFd>,
    /// Those who are attached to it.
    pub(super) clients: Vec<Client>,
}

impl Container {
    /// The working directory must be the pod's.
    pub(super) fn new(create: &Create) -> Result<Self, String> {
        let log = Path::new(&create.log);
        if let Some(dir) = log.parent() {
            std::fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        }
        Ok(Self {
            log: LogWriter::open(log).map_err(|e| format!("{}: {e}", log.display()))?,
            status: create.status.clone(),
            cgroup: create.cgroup.clone(),
            shares_processes: create.shares_processes,
            outputs: Vec::new(),
            pidfd: None,
            tty: create.tty,
            stdin: create.stdin,
            stdin_once: create.stdin_once,
            input: None,
            clients: Vec::new(),
        })
    }

    pub(super) fn started(&mut self, pid: i32, pidfd: Option<OwnedFd>) {
        self.pidfd = pidfd;
        self.status.state = ContainerState::Running;
        self.status.pid = Some(pid);
        self.status.started_at = Some(SystemTime::now());
        self.record();
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        match &self.pidfd {
            Some(pidfd) => rustix::process::pidfd_send_signal(pidfd, signal),
            None => Err(Errno::SRCH),
        }
    }

    /// Moves output into the log and to the attached clients. Forgets the output when it is closed. Returns whether there may be
    /// more now.
    pub(super) fn pump(&mut self, stream: Stream) -> bool {
        let Some(index) = self.outputs.iter().position(|(known, _)| *known == stream) else {
            return false;
        };
        let mut buffer = vec![0; READ_BYTES];
        match rustix::io::read(&self.outputs[index].1, &mut buffer[..]) {
            Ok(read) if read > 0 => {
                self.log.write(stream, &buffer[..read]);
                self.clients.iter_mut().for_each(|client| client.offer(stream, &buffer[..read]));
                true
            }
            Err(Errno::AGAIN | Errno::INTR) => false,
            // End of file; a terminal says EIO instead.
            _ => {
                self.log.finish(stream);
                self.outputs.swap_remove(index);
                false
            }
        }
    }

    /// Its first process ended, and with it all others: takes the rest of the output and lets go of what it held.
    pub(super) fn exited(&mut self, code: i32, at: SystemTime) {
        if self.shares_processes {
            // What does not die at once dies with the pod.
            cgroup::kill_within(&self.cgroup, KILL_TIME);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.pump(stream) {}
            self.log.finish(stream);
        }
        self.outputs.clear();
        self.input = None;
        self.pidfd = None;
        self.status.state = ContainerState::Exited;
        self.status.pid = None;
        self.status.exit_code = Some(code);
        // One that ends at once may have ended before it was noted that it runs.
        self.status.finished_at = Some(self.status.started_at.map_or(at, |started| at.max(started)));
        self.status.oom_killed = code != 0 && cgroup::oom_kills(&self.cgroup) > 0;
        if self.status.oom_killed {
            self.status.message = "killed because it went over its memory limit".to_owned();
        }
        self.release();
        self.record();
    }

    /// Its first process could not be started.
    pub(super) fn not_started(&mut self, reason: &str) {
        self.outputs.clear();
        self.input = None;
        self.status.state = ContainerState::Exited;
        self.status.exit_code = Some(START_FAILED);
        self.status.finished_at = Some(SystemTime::now());
        self.status.message = reason.to_owned();
        self.release();
        self.record();
    }

    /// Unmounts its root, removes its cgroup and what libcontainer keeps of it.
    pub(super) fn release(&self) {
        let id = self.status.id.local();
        let root = Path::new("containers").join(&id).join("rootfs");
        let _ = rustix::mount::unmount(&root, UnmountFlags::DETACH);
        binds::release(&Path::new("containers").join(&id));
        let _ = std::fs::remove_dir_all(Path::new("run").join(&id));
        // What can't go now goes with the pod.
        cgroup::remove(&self.cgroup);
    }

    fn record(&self) {
        // For the agent, should this process be killed; losing it must not lose the container.
        let _ = sys::write_json(&record_path(&self.status.id.local()), &self.status, false);
    }
}

/// Where a container's last known state is, below the pod's directory.
pub(super) fn record_path(id: &str) -> PathBuf {
    PathBuf::from(format!("{id}.json"))
}
