//! The seam's side of this crate: each operation of [`Runtime`] and where it is done.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use k8s_cri::v1::{RuntimeHandler, StatusRequest, VersionRequest, VersionResponse};
use tokio::sync::{Notify, broadcast};
use yunfan_runtime::{
    ContainerConfig, ContainerId, ContainerStats, ContainerStatus, DiskUse, ExecConfig, ExecResult,
    ExecSession, Handler, LogOptions, LogStream, Resources, Result, Runtime, RuntimeError, RuntimeEvent,
    RuntimeFeatures, SandboxConfig, SandboxStatus, kit,
};

use crate::api::{Api, call};
use crate::config::Memory;
use crate::images::Giving;
use crate::status::Details;
use crate::{container, disk, events, sandbox};

/// Below the agent's directory: what is known of images.
const IMAGES: &str = "cri-images";
/// Events that a listener may be behind.
const EVENT_BUFFER: usize = 1024;

/// Where the container runtime is, and what of it is ours.
#[derive(Debug, Clone)]
pub struct Config {
    /// Tag of the cloud instance: letters and digits. What is made carries it as a label, and nothing else is touched.
    pub tag: String,
    /// `DATA_DIR/agent`; `pods` and `cri-images` below it are this crate's.
    pub root: PathBuf,
    /// The socket that serves CRI v1; see [`crate::socket_of`].
    pub socket: PathBuf,
    /// Where [`crate::cni`] finds which network namespace a pod has: all instances that use one container runtime share it.
    pub handover: PathBuf,
}

/// Containers by a CRI v1 runtime. Cheap to clone; it watches until the last clone is dropped.
#[derive(Clone)]
pub struct CriRuntime {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    /// `root/pods`.
    pub(crate) dir: PathBuf,
    pub(crate) api: Api,
    /// Who the runtime says it is.
    pub(crate) version: VersionResponse,
    pub(crate) features: Features,
    handlers: Vec<Handler>,
    pub(crate) memory: Memory,
    /// To whom images were given.
    pub(crate) giving: Giving,
    pub(crate) details: Mutex<Details>,
    pub(crate) events: broadcast::Sender<RuntimeEvent>,
    /// Something was done: look now rather than a second later.
    pub(crate) nudge: Notify,
    /// Held while a sandbox is made or removed, or something in it.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// What the runtime can do that not every one can, as it says itself: what one does not know it passes over in silence, and a container
/// would have more rights than it should.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Features {
    pub(crate) recursive_read_only: bool,
    pub(crate) strict_groups: bool,
}

impl CriRuntime {
    /// Asks the runtime who it is, and watches it from then on. What it runs already is found with the first look.
    ///
    /// # Errors
    /// When nothing answers at the socket, or the directories can't be used.
    pub async fn open(config: Config) -> Result<Self> {
        if config.tag.is_empty() || !config.tag.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(RuntimeError::invalid("tag", "must be letters and digits"));
        }
        let dir = config.root.join("pods");
        let images = config.root.join(IMAGES);
        // What an import did not come to removing.
        let _ = std::fs::remove_dir_all(images.join("tmp"));
        for dir in [&dir, &images.join("tmp")] {
            private(dir)?;
        }
        let giving = Giving::open(&images)?;
        let dir = std::fs::canonicalize(&dir).map_err(RuntimeError::io("resolve", &dir))?;
        let api = Api::new(&config.socket);
        let version = VersionRequest { version: "v1".to_owned() };
        let version = call("version", api.runtime.clone().version(version)).await?;
        let status = call("status", api.runtime.clone().status(StatusRequest::default())).await?;
        // The handler without a name is the one that pods get which name none.
        let handler = status.runtime_handlers.iter().find(|handler| handler.name.is_empty());
        let features = Features {
            recursive_read_only: handler
                .and_then(|handler| handler.features.as_ref())
                .is_some_and(|features| features.recursive_read_only_mounts),
            strict_groups: status.features.is_some_and(|features| features.supplemental_groups_policy),
        };
        let of_handler = |handler: &RuntimeHandler| Handler {
            name: handler.name.clone(),
            recursive_read_only: handler.features.as_ref().is_some_and(|of| of.recursive_read_only_mounts),
        };
        let handlers = status.runtime_handlers.iter().map(of_handler).collect();
        // Without a network plug-in no pod with a network of its own can be started.
        let conditions = status.status.into_iter().flat_map(|status| status.conditions);
        for condition in conditions.filter(|condition| !condition.status) {
            tracing::warn!(
                condition = condition.r#type,
                message = condition.message,
                "the container runtime is not ready; `yunfan cni install` gives it its network plug-in"
            );
        }
        tracing::info!(
            name = version.runtime_name,
            version = version.runtime_version,
            socket = %config.socket.display(),
            "containers are run by a CRI runtime"
        );
        let inner = Arc::new(Inner {
            config,
            dir,
            api,
            version,
            features,
            handlers,
            memory: Memory::here(),
            giving,
            details: Mutex::default(),
            events: broadcast::channel(EVENT_BUFFER).0,
            nudge: Notify::new(),
            locks: Mutex::default(),
        });
        // What can't be looked at now is looked at later: whoever fills the lists must not keep the node from starting.
        if let Err(error) = inner.settle_images(false).await {
            tracing::warn!(%error, "the container runtime's images can't be looked at");
        }
        events::watch(&inner).await;
        Ok(Self { inner })
    }

    /// What it said that it can do.
    pub fn features(&self) -> RuntimeFeatures {
        RuntimeFeatures {
            strict_groups: self.inner.features.strict_groups,
            handlers: self.inner.handlers.clone(),
        }
    }

    /// The runtime's name and version, as nodes tell them: `containerd://1.6.20`.
    pub fn version(&self) -> String {
        format!("{}://{}", self.inner.version.runtime_name, self.inner.version.runtime_version)
    }
}

/// Makes a directory that only root looks into.
pub(crate) fn private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::create_dir_all(dir).map_err(RuntimeError::io("create", dir))?;
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(dir, mode).map_err(RuntimeError::io("set mode of", dir))
}

impl Inner {
    pub(crate) fn lock_of(&self, uid: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(uid.to_owned()).or_default())
    }

    /// What is kept of a pod on this node.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.dir.join(uid)
    }

    pub(crate) fn image_dir(&self) -> PathBuf {
        self.config.root.join(IMAGES)
    }

    pub(crate) fn log_of(&self, id: &ContainerId) -> PathBuf {
        self.pod_dir(&id.pod_uid).join(kit::log_name(id))
    }

    /// The cgroup that all of a pod's containers are in, each in one of its own that is named after it.
    pub(crate) fn cgroup_of_pod(&self, uid: &str) -> String {
        kit::cgroup_of_pod(&self.config.tag, uid)
    }
}

/// Runs file work on the pool for blocking work.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RuntimeError::Task(error.to_string()))?
}

#[async_trait]
impl Runtime for CriRuntime {
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<()> {
        sandbox::run(&self.inner, config).await
    }

    async fn create_and_start(&self, pod_uid: &str, config: ContainerConfig) -> Result<ContainerId> {
        let lock = self.inner.lock_of(pod_uid);
        let _alone = lock.lock().await;
        let made = container::create(&self.inner, pod_uid, config).await;
        self.inner.nudge.notify_one();
        made
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<ContainerStatus> {
        let stopped = container::stop(&self.inner, id, grace).await;
        self.inner.nudge.notify_one();
        stopped
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        let lock = self.inner.lock_of(&id.pod_uid);
        let _alone = lock.lock().await;
        container::remove(&self.inner, id).await
    }

    async fn stop_sandbox(&self, pod_uid: &str) -> Result<()> {
        sandbox::stop(&self.inner, pod_uid).await
    }

    async fn remove_sandbox(&self, pod_uid: &str) -> Result<()> {
        sandbox::remove(&self.inner, pod_uid, kit::remove_with_mounts).await
    }

    async fn clear_sandbox(&self, pod_uid: &str) -> Result<()> {
        sandbox::remove(&self.inner, pod_uid, kit::keep_last).await
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>> {
        let seen = self.inner.look(None).await?;
        Ok(seen.into_values().map(|seen| seen.status).collect())
    }

    async fn sandbox(&self, pod_uid: &str) -> Result<Option<SandboxStatus>> {
        let mut seen: BTreeMap<_, _> = self.inner.look(Some(pod_uid)).await?;
        Ok(seen.remove(pod_uid).map(|seen| seen.status))
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.events.subscribe()
    }

    async fn exec(&self, id: &ContainerId, config: ExecConfig) -> Result<ExecSession> {
        crate::streams::exec(&self.inner, id, config).await
    }

    async fn attach(&self, id: &ContainerId, input: bool) -> Result<ExecSession> {
        crate::streams::attach(&self.inner, id, input).await
    }

    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecResult> {
        container::exec_sync(&self.inner, id, command, timeout).await
    }

    async fn logs(&self, id: &ContainerId, options: LogOptions) -> Result<LogStream> {
        container::logs(&self.inner, id, options).await
    }

    fn log_path(&self, id: &ContainerId) -> PathBuf {
        self.inner.log_of(id)
    }

    async fn update_container(&self, id: &ContainerId, resources: Resources) -> Result<()> {
        container::update(&self.inner, id, &resources).await
    }

    async fn update_sandbox(&self, pod_uid: &str, resources: Resources) -> Result<()> {
        self.inner.pod(pod_uid).await?;
        let cgroup = self.inner.cgroup_of_pod(pod_uid);
        blocking(move || {
            kit::make_cgroup(&cgroup).map_err(RuntimeError::io("make", &cgroup))?;
            kit::update_cgroup(&cgroup, &resources).map_err(RuntimeError::io("change limits of", &cgroup))
        })
        .await
    }

    async fn disk_usage(&self, id: &ContainerId) -> Result<DiskUse> {
        disk::usage(&self.inner, id).await
    }

    async fn sandbox_disk_usage(&self, pod_uid: &str) -> Result<DiskUse> {
        let dir = self.inner.pod_dir(pod_uid);
        blocking(move || Ok(kit::etc_usage(&dir))).await
    }

    async fn discard_layers(&self, pod_uid: &str) -> Result<()> {
        disk::discard(&self.inner, pod_uid).await
    }

    async fn sandbox_stats(&self, pod_uid: &str) -> Result<ContainerStats> {
        let cgroup = self.inner.cgroup_of_pod(pod_uid);
        blocking(move || Ok(kit::cgroup_stats(&cgroup).unwrap_or_default())).await
    }

    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        container::stats(&self.inner, id).await
    }
}
