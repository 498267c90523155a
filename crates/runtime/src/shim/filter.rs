//! Puts a container's filter of system calls on, as the last thing before its program runs.
//!
//! libcontainer does that with a C library only; but it lets us do the last step ourselves.

use std::path::Path;

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::default::DefaultExecutor;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};

use super::os;
use crate::capabilities;
use crate::proto::{FILTER_FILE, LENT_FILE};
use crate::seccomp::{self, Instruction};

/// Runs a container's program under a filter.
#[derive(Clone)]
pub(super) struct Filtered {
    /// None when the filter's file can't be read: then nothing may run.
    filter: Option<Vec<Instruction>>,
    /// Capabilities that its process has for this alone; none when that can't be read.
    lent: Option<Vec<String>>,
}

/// The executor for the container with this bundle, if it has a filter.
pub(super) fn of(bundle: &Path) -> Option<Filtered> {
    match std::fs::read(bundle.join(FILTER_FILE)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        read => {
            Some(Filtered { filter: read.ok().and_then(|bytes| seccomp::read(&bytes)), lent: lent(bundle) })
        }
    }
}

fn lent(bundle: &Path) -> Option<Vec<String>> {
    match std::fs::read(bundle.join(LENT_FILE)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(Vec::new()),
        read => serde_json::from_slice(&read.ok()?).ok(),
    }
}

impl Executor for Filtered {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let filter = self.filter.as_ref();
        let filter = filter.ok_or_else(|| ExecutorError::Other("its filter can't be read".to_owned()))?;
        let lent = self.lent.as_ref();
        let lent = lent.ok_or_else(|| ExecutorError::Other("what it was lent can't be read".to_owned()))?;
        // Its program will not have them. This process still does, and needs them for the filter.
        capabilities::give_back(lent)
            .map_err(|errno| ExecutorError::Other(format!("capabilities: {errno}")))?;
        os::filter_system_calls(filter).map_err(|errno| ExecutorError::Other(format!("seccomp: {errno}")))?;
        DefaultExecutor {}.exec(spec)
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        DefaultExecutor {}.validate(spec)
    }
}
