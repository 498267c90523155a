//! Removes every trace of a cloud instance from a container runtime, without any help of its processes.

use yunfan_runtime::{Result, Runtime, RuntimeError};

use crate::cni;
use crate::runtime::{Config, CriRuntime};

/// Ends and removes the sandboxes of an instance with all in them, and forgets which networks they had. Of what is on the node, the logs of
/// last runs stay, and images, which are not the instance's alone. Blocks; doing it twice is fine.
///
/// # Errors
/// When the container runtime can't be asked, or does not remove something.
pub fn teardown(config: Config) -> Result<()> {
    let handover = config.handover.clone();
    let pods = config.root.join("pods");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| RuntimeError::Task(error.to_string()))?;
    runtime.block_on(async {
        let cri = CriRuntime::open(config).await?;
        for sandbox in cri.list().await? {
            cri.clear_sandbox(&sandbox.config.uid).await?;
        }
        Ok::<(), RuntimeError>(())
    })?;
    // Of pods whose sandboxes could not be made, too.
    for pod in std::fs::read_dir(&pods).map_err(RuntimeError::io("read", &pods))?.flatten() {
        cni::take_back(&handover, &pod.file_name().to_string_lossy())?;
    }
    cni::forget_all(&handover);
    Ok(())
}
