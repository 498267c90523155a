//! Receives the master side of a terminal that libcontainer made inside a container.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::sys;

/// A socket that waits for one terminal; its file goes away with it.
pub(super) struct Console {
    listener: UnixListener,
    /// Relative to the pod's directory.
    name: String,
    /// What libcontainer is told.
    pub(super) path: PathBuf,
}

impl Console {
    /// The working directory must be the pod's.
    pub(super) fn new(pod: &Path, number: u64) -> Result<Self, String> {
        let name = format!("tty-{number}.sock");
        let _ = std::fs::remove_file(&name);
        let listener = UnixListener::bind(&name).map_err(|e| format!("{name}: {e}"))?;
        listener.set_nonblocking(true).map_err(|e| format!("{name}: {e}"))?;
        Ok(Self { listener, path: pod.join(&name), name })
    }

    /// Takes the terminal. Call it when the container process is set up: it has sent it by then.
    pub(super) fn receive(self) -> Result<OwnedFd, String> {
        let (connection, _) = self.listener.accept().map_err(|e| format!("no terminal: {e}"))?;
        let mut fds = Vec::new();
        let mut name = [0; 256];
        sys::recv_fds(&connection, &mut name, &mut fds).map_err(|e| format!("no terminal: {e}"))?;
        fds.pop().ok_or_else(|| "no terminal came".to_owned())
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.name);
    }
}
