//! The runtime that needs nothing installed: this side of the shims.
//!
//! What exists is known from the pods' directories and the shims; [`EmbeddedRuntime::open`] finds it all again. In
//! between, each pod's state is kept here, fed by events from its shim, so that reading it costs no I/O.

mod attach;
mod connection;
mod container;
mod exec;
mod memory;
mod pod;
mod sandbox;
mod spawner;
mod volumes;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::error::{Result, RuntimeError};
use crate::image::{ImageStore, run_blocking};
use crate::logs::{self, LogOptions, LogStream, reader};
use crate::runtime::{ExecSession, Runtime};
use crate::sys;
use crate::tree::{self, DiskUse};
use crate::types::{
    ContainerConfig, ContainerId, ContainerState, ContainerStats, ContainerStatus, ExecConfig, ExecResult,
    Handler, Resources, RuntimeEvent, RuntimeFeatures, SandboxConfig, SandboxStatus,
};
use crate::{OWN_HANDLER, cgroup};
pub use container::stop_signal;
use memory::Memory;
use pod::Pod;
pub use sandbox::{ETC_FILES, write_etc};
use spawner::{LONGEST_NAME, Spawner};

/// Events that a listener may be behind.
const EVENT_BUFFER: usize = 1024;
/// Pods connected to at the same time when opening.
const PARALLEL_OPENS: usize = 32;

/// Where and as whom to run.
#[derive(Debug, Clone)]
pub struct Config {
    /// Tag of the cloud instance: letters and digits. Part of cgroup names and of the shims' command lines.
    pub tag: String,
    /// `DATA_DIR/agent`; `images` and `pods` below it are this crate's.
    pub root: PathBuf,
    /// Command line that enters [`crate::shim::main`], such as `[current_exe, "shim"]`; arguments are appended. One process is started with it,
    /// which all shims are forked from.
    pub shim: Vec<String>,
    /// Where it is said where images are fetched from ([`ImageStore::with_registries`]).
    pub registries: Option<PathBuf>,
    /// A directory in memory, in which each pod has one by its uid: what containers are told in their environments must not reach a disk.
    /// The agent may have files and mounts of the pod there, too, made before its sandbox is. Without it, all is below `root`.
    pub memory: Option<PathBuf>,
    /// Directories, each a mount of its own whose changes others see, below which are mounts that are single pods' volumes: a pod sees those
    /// that its containers have.
    pub apart: Vec<PathBuf>,
}

/// Containers by `libcontainer`, one shim process per pod. Cheap to clone.
#[derive(Clone)]
pub struct EmbeddedRuntime {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    images: Arc<ImageStore>,
    /// `root/pods`.
    dir: PathBuf,
    pods: Mutex<HashMap<String, Arc<Pod>>>,
    /// Written when a sandbox is made or removed, read when something is done in it.
    locks: Mutex<HashMap<String, Arc<tokio::sync::RwLock<()>>>>,
    events: broadcast::Sender<RuntimeEvent>,
    spawner: Spawner,
    memory: Option<Memory>,
}

impl EmbeddedRuntime {
    /// Opens the runtime and finds the sandboxes and containers that are there already.
    ///
    /// # Errors
    /// When the directories or the image index can't be used, or the configuration is wrong.
    pub async fn open(config: Config) -> Result<Self> {
        if config.tag.is_empty() || !config.tag.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(RuntimeError::invalid("tag", "must be letters and digits"));
        }
        if config.shim.is_empty() {
            return Err(RuntimeError::invalid("shim", "must be a command line"));
        }
        std::fs::create_dir_all(&config.root).map_err(RuntimeError::io("create", &config.root))?;
        let root = std::fs::canonicalize(&config.root).map_err(RuntimeError::io("resolve", &config.root))?;
        let dir = root.join("pods");
        std::fs::create_dir_all(&dir).map_err(RuntimeError::io("create", &dir))?;
        let images = ImageStore::open(&root.join("images"), &dir)?.with_registries(config.registries.clone());
        // Layers hold set-uid programs and pods' directories sockets that start processes: for root only.
        for private in [&dir, &root.join("images")] {
            std::fs::set_permissions(private, std::fs::Permissions::from_mode(0o700))
                .map_err(RuntimeError::io("set mode of", private))?;
        }
        let spawner = Spawner::new(&config.shim, &config.tag, &dir);
        let memory = config.memory.as_deref().map(Memory::new).transpose()?;
        let runtime = Self {
            inner: Arc::new(Inner {
                spawner,
                memory,
                config: Config { root, ..config },
                images: Arc::new(images),
                dir,
                pods: Mutex::new(HashMap::new()),
                locks: Mutex::new(HashMap::new()),
                events: broadcast::channel(EVENT_BUFFER).0,
            }),
        };
        runtime.find_pods().await?;
        Ok(runtime)
    }

    /// The images of this node.
    pub fn images(&self) -> Arc<ImageStore> {
        Arc::clone(&self.inner.images)
    }

    /// What it can do on this node.
    pub fn features(&self) -> RuntimeFeatures {
        let handlers =
            ["", OWN_HANDLER].map(|name| Handler { name: name.to_owned(), recursive_read_only: true });
        RuntimeFeatures { strict_groups: true, handlers: handlers.into() }
    }

    /// Directory of a pod; it goes away with the sandbox. The agent may keep `volumes` in it.
    pub fn pod_dir(&self, pod_uid: &str) -> PathBuf {
        self.inner.dir.join(pod_uid)
    }

    async fn find_pods(&self) -> Result<()> {
        use futures::StreamExt;
        let dir = &self.inner.dir;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(RuntimeError::io("read", dir))? {
            let entry = entry.map_err(RuntimeError::io("read", dir))?;
            found.push(sandbox::find(Arc::clone(&self.inner), entry.path()));
        }
        futures::stream::iter(found).buffer_unordered(PARALLEL_OPENS).for_each(|()| async {}).await;
        Ok(())
    }

    fn pod(&self, uid: &str) -> Result<Arc<Pod>> {
        self.inner.pod(uid).ok_or_else(|| RuntimeError::SandboxNotFound(uid.to_owned()))
    }
}

impl Inner {
    fn pods(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Pod>>> {
        // Only single insertions and removals happen under it.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        self.pods().get(uid).cloned()
    }

    fn lock_of(&self, uid: &str) -> Arc<tokio::sync::RwLock<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(locks.entry(uid.to_owned()).or_default())
    }

    fn cgroup_of_pod(&self, uid: &str) -> String {
        cgroup::of_pod(&self.config.tag, uid)
    }

    fn cgroup_of(&self, id: &ContainerId) -> String {
        format!("{}/{}", self.cgroup_of_pod(&id.pod_uid), id.local())
    }

    fn log_of(&self, id: &ContainerId) -> PathBuf {
        self.dir.join(&id.pod_uid).join(log_name(id))
    }

    fn bundle_of(&self, id: &ContainerId) -> PathBuf {
        self.dir.join(&id.pod_uid).join("containers").join(id.local())
    }
}

/// Path of a run's log below the pod's directory.
pub fn log_name(id: &ContainerId) -> PathBuf {
    Path::new("logs").join(&id.name).join(format!("{}.log", id.attempt))
}

/// What those files of a pod take that its containers see below `/etc` and may write to.
pub fn etc_usage(pod: &Path) -> DiskUse {
    let mut used = DiskUse::default();
    ETC_FILES.iter().for_each(|name| used += tree::disk_usage(&pod.join(name)));
    used
}

/// Empties them.
pub fn discard_etc(pod: &Path) {
    for name in ETC_FILES {
        let file = std::fs::OpenOptions::new().write(true).truncate(true).open(pod.join(name));
        drop(file);
    }
}

async fn update_limits(cgroup: String, resources: Resources) -> Result<()> {
    run_blocking(move || {
        cgroup::update(&cgroup, &resources).map_err(RuntimeError::io("change limits of", &cgroup))
    })
    .await
}

/// Uids and names become file and cgroup names.
///
/// # Errors
/// `InvalidConfig` with the name of the field.
pub fn check_name(field: &'static str, name: &str) -> Result<()> {
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > LONGEST_NAME || !name.bytes().all(fine) {
        return Err(RuntimeError::invalid(
            field,
            format!("{name:?} must be 1 to {LONGEST_NAME} lower-case letters, digits or dashes"),
        ));
    }
    Ok(())
}

#[async_trait]
impl Runtime for EmbeddedRuntime {
    async fn run_sandbox(&self, config: SandboxConfig) -> Result<()> {
        sandbox::run(&self.inner, config).await
    }

    async fn create_and_start(&self, pod_uid: &str, config: ContainerConfig) -> Result<ContainerId> {
        let lock = self.inner.lock_of(pod_uid);
        let _here = lock.read().await;
        container::create(&self.inner, &self.pod(pod_uid)?, config).await
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<ContainerStatus> {
        let pod = self.pod(&id.pod_uid)?;
        container::stop(&self.inner, &pod, id, grace).await
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        let lock = self.inner.lock_of(&id.pod_uid);
        let _here = lock.read().await;
        match self.inner.pod(&id.pod_uid) {
            Some(pod) => container::remove(&self.inner, &pod, id).await,
            None => Ok(()),
        }
    }

    async fn stop_sandbox(&self, pod_uid: &str) -> Result<()> {
        sandbox::stop(&self.inner, pod_uid).await
    }

    async fn remove_sandbox(&self, pod_uid: &str) -> Result<()> {
        sandbox::remove(&self.inner, pod_uid, sys::remove_with_mounts).await
    }

    async fn clear_sandbox(&self, pod_uid: &str) -> Result<()> {
        sandbox::remove(&self.inner, pod_uid, logs::keep_last).await
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>> {
        Ok(self.inner.pods().values().map(|pod| pod.status()).collect())
    }

    async fn sandbox(&self, pod_uid: &str) -> Result<Option<SandboxStatus>> {
        Ok(self.inner.pod(pod_uid).map(|pod| pod.status()))
    }

    fn events(&self) -> broadcast::Receiver<RuntimeEvent> {
        self.inner.events.subscribe()
    }

    async fn exec(&self, id: &ContainerId, config: ExecConfig) -> Result<ExecSession> {
        let pod = self.pod(&id.pod_uid)?;
        exec::start(&pod, id, config).await
    }

    async fn attach(&self, id: &ContainerId, input: bool) -> Result<ExecSession> {
        let pod = self.pod(&id.pod_uid)?;
        attach::start(&pod, id, input).await
    }

    async fn exec_sync(
        &self,
        id: &ContainerId,
        command: Vec<String>,
        timeout: Duration,
    ) -> Result<ExecResult> {
        let pod = self.pod(&id.pod_uid)?;
        exec::run(&pod, id, command, timeout).await
    }

    async fn logs(&self, id: &ContainerId, options: LogOptions) -> Result<LogStream> {
        let pod = self.pod(&id.pod_uid)?;
        let mut wanted = id.clone();
        if options.previous {
            let before = id.attempt.checked_sub(1);
            wanted.attempt = before.ok_or_else(|| {
                RuntimeError::ContainerNotFound(format!("{id} (there was no run before it)"))
            })?;
        }
        let path = self.inner.log_of(&wanted);
        if pod.container(&wanted).is_none() && !path.exists() {
            return Err(RuntimeError::ContainerNotFound(wanted.to_string()));
        }
        let ended = CancellationToken::new();
        if options.follow {
            let signal = ended.clone();
            tokio::spawn(async move {
                // The other way round it is whoever reads the log that has left.
                tokio::select! {
                    () = pod.wait_exited(&wanted) => signal.cancel(),
                    () = signal.cancelled() => {}
                }
            });
        }
        Ok(reader::open(path, options, ended))
    }

    fn log_path(&self, id: &ContainerId) -> PathBuf {
        self.inner.log_of(id)
    }

    async fn update_container(&self, id: &ContainerId, resources: Resources) -> Result<()> {
        let status = self.pod(&id.pod_uid)?.container(id);
        let status = status.ok_or_else(|| RuntimeError::ContainerNotFound(id.to_string()))?;
        if status.state != ContainerState::Running {
            return Err(RuntimeError::NotRunning(id.to_string()));
        }
        let (cgroup, score) = (self.inner.cgroup_of(id), resources.oom_score_adj);
        update_limits(cgroup.clone(), resources).await?;
        let Some(score) = score else { return Ok(()) };
        let score = score.clamp(-1000, 1000).max(crate::capabilities::least_oom_score());
        run_blocking(move || cgroup::set_oom_score(&cgroup, score)).await
    }

    async fn update_sandbox(&self, pod_uid: &str, resources: Resources) -> Result<()> {
        self.pod(pod_uid)?;
        let cgroup = self.inner.cgroup_of_pod(pod_uid);
        let group = cgroup.clone();
        run_blocking(move || cgroup::make(&group).map_err(RuntimeError::io("make", &group))).await?;
        update_limits(cgroup, resources).await
    }

    async fn disk_usage(&self, id: &ContainerId) -> Result<DiskUse> {
        let (layer, log) = (self.inner.bundle_of(id).join("upper"), self.inner.log_of(id));
        run_blocking(move || {
            let logs = logs::files_of(&log);
            let (mut used, whole) = tree::measure(&layer);
            logs.iter().for_each(|file| used += tree::disk_usage(file));
            if whole { Ok(used) } else { Err(RuntimeError::NotMeasured { path: layer, used }) }
        })
        .await
    }

    async fn discard_layers(&self, pod_uid: &str) -> Result<()> {
        let status = self.inner.pod(pod_uid).map(|pod| pod.status()).filter(|status| !status.ready);
        let runs = status.into_iter().flat_map(|status| status.containers);
        let bundles = runs.map(|run| self.inner.bundle_of(&run.id));
        let layers: Vec<_> = bundles.flat_map(|bundle| [bundle.join("upper"), bundle.join("work")]).collect();
        let dir = self.inner.dir.join(pod_uid);
        run_blocking(move || {
            if !layers.is_empty() {
                discard_etc(&dir);
            }
            layers.iter().try_for_each(|layer| sys::remove_tree(layer))
        })
        .await
    }

    async fn sandbox_disk_usage(&self, pod_uid: &str) -> Result<DiskUse> {
        let dir = self.pod(pod_uid)?.dir.clone();
        run_blocking(move || Ok(etc_usage(&dir))).await
    }

    async fn sandbox_stats(&self, pod_uid: &str) -> Result<ContainerStats> {
        let cgroup = self.inner.cgroup_of_pod(pod_uid);
        // It comes with the first container.
        run_blocking(move || Ok(cgroup::stats(&cgroup).unwrap_or_default())).await
    }

    async fn stats(&self, id: &ContainerId) -> Result<ContainerStats> {
        let cgroup = self.inner.cgroup_of(id);
        let found = run_blocking(move || Ok(cgroup::stats(&cgroup))).await?;
        found.ok_or_else(|| RuntimeError::NotRunning(id.to_string()))
    }
}
