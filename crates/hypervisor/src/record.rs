//! The state file of a machine, `vm.json`: what another process of ours needs to find it again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::process::Process;
use crate::{Accelerator, ExitReason};

/// Layout of the file. One that is newer is not touched.
pub(crate) const VERSION: u32 = 1;

/// What is kept of a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// See [`VERSION`].
    pub(crate) version: u32,
    /// What carries its instructions out.
    pub(crate) accelerator: Accelerator,
    /// Its process. Missing while it is being started (then the cgroup tells) and when it has stopped.
    pub(crate) process: Option<Process>,
    /// Why it has no process.
    pub(crate) exit: Option<ExitReason>,
    /// Why it will have none soon: kept, so that a guest's power-off is not taken for a crash by whoever finds it.
    #[serde(default)]
    pub(crate) ending: Option<ExitReason>,
}

/// Files of one machine.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// Directory of the machine.
    pub(crate) dir: PathBuf,
}

impl Files {
    pub(crate) fn new(root: &Path, uid: &str) -> Files {
        Files { dir: root.join(uid) }
    }

    /// The state file.
    pub(crate) fn record(&self) -> PathBuf {
        self.dir.join("vm.json")
    }

    /// The monitor's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("qmp.sock")
    }

    /// The CD in the machine's drive.
    pub(crate) fn cdrom(&self) -> PathBuf {
        self.dir.join("cdrom.iso")
    }

    /// The console's log.
    pub(crate) fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    /// Reads the state file; `None` when there is none.
    pub(crate) fn load(&self) -> io::Result<Option<Record>> {
        match fs::read(self.record()) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces the state file. Not forced to the disk: a power loss ends the process that it tells of as well.
    pub(crate) fn save(&self, record: &Record) -> io::Result<()> {
        let new = self.dir.join("vm.json.new");
        fs::write(&new, serde_json::to_vec(record)?)?;
        fs::rename(new, self.record())
    }
}
