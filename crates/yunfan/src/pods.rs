//! Options about what Pods may do on a node; they are the kubelet's.

use std::path::PathBuf;

use clap::Args;
use yunfan_agent::{InvalidSysctl, PodSettings};

/// What Pods may do.
#[derive(Args)]
pub(crate) struct PodOptions {
    /// Kernel parameters that Pods may set beside the safe ones, such as `net.core.somaxconn,kernel.msg*`.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    allowed_unsafe_sysctls: Vec<String>,
    /// Most processes and threads of a Pod; when not given, each of its containers has 4096.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=4_194_304))]
    pod_max_pids: Option<i64>,
    /// Directory of Pods' logs, such as `/var/log/pods`; `containers` beside it gets links to them. `DATA_DIR/agent/logs/pods` when not given.
    #[arg(long, value_name = "DIR", value_parser = whole)]
    pod_logs_dir: Option<PathBuf>,
}

impl PodOptions {
    /// # Errors
    /// When one can't be used.
    pub(crate) fn settings(&self) -> Result<PodSettings, InvalidSysctl> {
        let settings = PodSettings::new(&self.allowed_unsafe_sysctls, self.pod_max_pids)?;
        Ok(settings.with_logs(self.pod_logs_dir.clone()))
    }
}

/// A path that is understood from everywhere, and has a directory above it.
fn whole(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() && path.parent().is_some() {
        Ok(path)
    } else {
        Err("it must be an absolute path".to_owned())
    }
}
