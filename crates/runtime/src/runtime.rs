//! The seam between the agent and whatever runs containers.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast;

use crate::error::Result;
use crate::logs::{LogOptions, LogStream};
use crate::tree::DiskUse;
use crate::types::{
    ContainerConfig, ContainerId, ContainerStats, ContainerStatus, ExecConfig, ExecResult, Resources,
    RuntimeEvent, SandboxConfig, SandboxStatus,
};

/// Runs pods' containers on this node; shaped after the Container Runtime Interface.
///
/// Every operation is idempotent: asking for what already is, or removing what is already gone, succeeds.
/// Dropping a returned future never leaves something half made that a later call can't finish or remove.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes the sandbox, or does nothing when it exists and is alive.
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<()>;
    /// Makes and starts one run of a container; does nothing when this run exists already. One that can't be started is an error, and
    /// is known as a run that ended.
    async fn create_and_start(&self, pod_uid: &str, config: ContainerConfig) -> Result<ContainerId>;
    /// Sends the image's stop signal, waits up to `grace`, then kills. Returns the final status.
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<ContainerStatus>;
    /// Kills the container if it runs and removes its files and logs.
    async fn remove_container(&self, id: &ContainerId) -> Result<()>;
    /// Kills all containers, and ends what holds their namespaces: nothing of the sandbox runs any more, nor is in memory, and it is
    /// not ready. Keeps logs and statuses.
    async fn stop_sandbox(&self, pod_uid: &str) -> Result<()>;
    /// Removes the sandbox with everything in it. The network namespace stays: it is its maker's.
    async fn remove_sandbox(&self, pod_uid: &str) -> Result<()>;
    /// As [`Runtime::remove_sandbox`], for one that is to be made anew: the log of each container's last run stays.
    async fn clear_sandbox(&self, pod_uid: &str) -> Result<()>;
    /// Every sandbox of this instance, also those made before this process started.
    async fn list(&self) -> Result<Vec<SandboxStatus>>;
    /// One sandbox, if it exists.
    async fn sandbox(&self, pod_uid: &str) -> Result<Option<SandboxStatus>>;
    /// Events from now on. A slow listener loses the oldest (`RecvError::Lagged`): list again then.
    fn events(&self) -> broadcast::Receiver<RuntimeEvent>;
    /// Starts a command in a running container. Dropping the session kills the command.
    async fn exec(&self, id: &ContainerId, config: ExecConfig) -> Result<ExecSession>;
    /// Attaches to a running container: its output from now on, and its stdin and terminal if it has them and `input` asks for
    /// it. The session ends with the container, and its `exit` is the container's. Dropping the session detaches. Any number of
    /// clients may be attached; one that takes no output for ten seconds is cut off.
    async fn attach(&self, id: &ContainerId, input: bool) -> Result<ExecSession>;
    /// Runs a command to its end and collects what it says (probes).
    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecResult>;
    /// The container's log as a stream of bytes, as `kubectl logs` shows it.
    async fn logs(&self, id: &ContainerId, options: LogOptions) -> Result<LogStream>;
    /// Where the container's log is (CRI format); it may not exist yet.
    fn log_path(&self, id: &ContainerId) -> PathBuf;
    /// Sets the CPU and memory limits of a running container; the other resources stay.
    async fn update_container(&self, id: &ContainerId, resources: Resources) -> Result<()>;
    /// Sets the share of the CPU and the limits of CPU and memory that all containers of a pod have together, also before the first
    /// of them runs.
    async fn update_sandbox(&self, pod_uid: &str, resources: Resources) -> Result<()>;
    /// What a container holds on the node's disk beside its image: what it has written to its own layer, and its logs.
    async fn disk_usage(&self, id: &ContainerId) -> Result<DiskUse>;
    /// What of a sandbox is on the node's disk beside what [`Runtime::disk_usage`] tells of its containers: the files that they all see
    /// below `/etc` and may write to.
    async fn sandbox_disk_usage(&self, pod_uid: &str) -> Result<DiskUse>;
    /// Removes what the containers of a stopped sandbox wrote to their own layers and to the files of
    /// [`Runtime::sandbox_disk_usage`]; logs and statuses stay. Of one that is not stopped nothing is removed.
    async fn discard_layers(&self, pod_uid: &str) -> Result<()>;
    /// What all of a sandbox uses now, with what containers that ended left in memory: files of memory-backed volumes.
    async fn sandbox_stats(&self, pod_uid: &str) -> Result<ContainerStats>;
    /// Current use of a running container.
    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats>;
}

/// Where an exec'd command's output is read from; ends when the command closed it.
pub type ExecReader = Pin<Box<dyn AsyncRead + Send>>;
/// Where an exec'd command's input is written to; shut it down or drop it to signal end of input.
pub type ExecWriter = Pin<Box<dyn AsyncWrite + Send>>;
/// Resolves to the exit code (128+signal when killed).
pub type ExecExit = Pin<Box<dyn Future<Output = Result<i32>> + Send>>;

/// The streams of a process in a container: of a command, or with [`Runtime::attach`] of the container's own.
pub struct ExecSession {
    /// Present when asked for.
    pub stdin: Option<ExecWriter>,
    /// Stdout, or the terminal's output.
    pub stdout: ExecReader,
    /// Stderr; absent with a terminal.
    pub stderr: Option<ExecReader>,
    /// Present with a terminal.
    pub resize: Option<Resizer>,
    /// The end of the command. Dropping this future kills the command.
    pub exit: ExecExit,
}

/// Sets the size of a session's terminal.
#[derive(Clone)]
pub struct Resizer(pub(crate) Arc<dyn Fn(u16, u16) -> std::io::Result<()> + Send + Sync>);

impl Resizer {
    /// One that calls `set` with columns and rows.
    pub fn new(set: impl Fn(u16, u16) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Arc::new(set))
    }

    /// Sets the size in character cells.
    ///
    /// # Errors
    /// When the terminal is gone.
    pub fn resize(&self, columns: u16, rows: u16) -> std::io::Result<()> {
        (self.0)(columns, rows)
    }
}
