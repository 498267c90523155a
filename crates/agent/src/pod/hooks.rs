//! What containers want done after their start and before their end.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use yunfan_runtime::{ContainerId, Runtime};

use super::http::{self, Reach};

/// A hook's command has as long as its container; this is for those that never end.
const LONGEST: Duration = Duration::from_secs(3600);

/// Runs a hook to its end. Says why when it failed.
pub(super) async fn run(
    runtime: &dyn Runtime,
    reach: Option<&Reach>,
    id: &ContainerId,
    container: &Container,
    handler: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(action) = &handler.exec {
        let command = action.command.clone().unwrap_or_default();
        let result = runtime.exec_sync(id, command, LONGEST).await.map_err(|error| error.to_string())?;
        return match result.exit_code {
            0 => Ok(()),
            code => Err(format!("command exited with {code}")),
        };
    }
    if let Some(action) = &handler.http_get {
        let reach = reach.ok_or("the Pod has no address")?;
        // Any answer will do.
        return http::get(reach, container, action, "kube-lifecycle/1.36").await.map(drop);
    }
    if let Some(action) = &handler.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(action.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("the hook has no action that is supported (exec, httpGet, sleep)".to_owned())
}
