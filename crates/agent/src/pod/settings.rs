//! What an administrator allows and sets for all Pods of the node.

use std::path::PathBuf;

/// Settings for Pods; they are the kubelet's.
#[derive(Clone, Debug, Default)]
pub struct PodSettings {
    /// Kernel parameters that Pods may set beside the safe ones; `net.core.*` is all that begin so.
    unsafe_sysctls: Vec<String>,
    /// Most processes and threads of a Pod.
    pub(crate) max_pids: Option<i64>,
    /// The directory of their logs, where it is not the agent's.
    pub(crate) logs: Option<PathBuf>,
}

/// A kernel parameter that can't be allowed.
#[derive(Debug, thiserror::Error)]
#[error(
    "--allowed-unsafe-sysctls: {0:?} is no parameter, or beginning of parameters with a * behind, that a Pod has for itself: those are \
     kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.*"
)]
pub struct InvalidSysctl(String);

/// What begins so is told apart for each IPC or network namespace (sysctl(2), namespaces(7)); the kubelet's list.
const NAMESPACED: [&str; 4] = ["kernel.shm", "kernel.msg", "fs.mqueue.", "net."];
/// Of which there is one alone.
const SEMAPHORES: &str = "kernel.sem";

impl PodSettings {
    /// Parameters may be written with slashes, too.
    ///
    /// # Errors
    /// One of them is the whole host's.
    pub fn new(unsafe_sysctls: &[String], max_pids: Option<i64>) -> Result<Self, InvalidSysctl> {
        let mut allowed = Vec::new();
        for given in unsafe_sysctls {
            let name = given.replace('/', ".");
            let plain = name.strip_suffix('*').unwrap_or(&name);
            let own = NAMESPACED.iter().any(|prefix| plain.starts_with(prefix)) || name == SEMAPHORES;
            if !own || plain.contains('*') {
                return Err(InvalidSysctl(given.clone()));
            }
            allowed.push(name);
        }
        Ok(Self { unsafe_sysctls: allowed, max_pids, logs: None })
    }

    /// The same with logs in this directory, where there is one: an absolute path.
    #[must_use]
    pub fn with_logs(self, logs: Option<PathBuf>) -> Self {
        Self { logs, ..self }
    }

    /// Whether Pods may set a parameter, written with dots, though it is no safe one.
    pub(super) fn allows(&self, sysctl: &str) -> bool {
        self.unsafe_sysctls.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(prefix) => sysctl.starts_with(prefix),
            None => sysctl == allowed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(allowed: &[&str]) -> Result<PodSettings, InvalidSysctl> {
        PodSettings::new(&allowed.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), None)
    }

    #[test]
    fn what_is_a_pod_s_own_can_be_allowed() {
        let settings = of(&["net/core/somaxconn", "kernel.msg*", "kernel.sem"]).unwrap();
        for (name, allowed) in [
            ("net.core.somaxconn", true),
            ("net.core.somaxconns", false),
            ("kernel.msgmax", true),
            ("kernel.sem", true),
            ("kernel.shmmax", false),
        ] {
            assert_eq!(settings.allows(name), allowed, "{name}");
        }
        for wrong in ["kernel.panic", "vm.swappiness", "*", "kernel.*", "kernel.sem*", "net.*.x*", ""] {
            assert!(of(&[wrong]).unwrap_err().to_string().contains(wrong), "{wrong}");
        }
    }
}
