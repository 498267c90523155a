//! Pods of this node: from the object to processes, and from what processes do to the object's status.

//!
//! [`plan`] works out what a Pod needs next, [`containers`] and [`end`] do it, [`status`] says what came of it. [`volumes`], [`sandbox`],
//! [`security`] and [`env`] turn what the object asks for into what the runtime is told; [`watchers`] keep the probes going.

mod admission;
mod admit;
mod backoff;
mod bound;
mod certificates;
mod containers;
mod downward;
mod end;
mod ending;
mod ends;
mod env;
mod env_file;
mod evict;
mod fit;
mod grpc;
mod hooks;
mod http;
mod image;
pub(crate) mod logs;
mod messages;
mod mirror;
mod parts;
mod plan;
mod preempt;
mod probe;
mod read;
mod references;
mod resize;
pub(crate) mod resources;
mod rounds;
mod sandbox;
mod secrets;
mod security;
mod settings;
mod shutdown;
mod status;
mod storage;
pub(crate) mod tenant;
mod tokens;
pub(crate) mod tries;
mod volumes;
mod watchers;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::ResourceExt;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};
use yunfan_resources::compute::VirtualMachine;
use yunfan_runtime::{ImageService, Runtime, RuntimeEvent, SandboxStatus};

use self::certificates::Certificates;
use self::ending::Ending;
pub(crate) use self::ends::End as ContainerEnd;
use self::ends::Ends;
use crate::Shared;
use crate::containers::Containers;
use crate::links::{LinkError, Links, PodLink};
use crate::pod::admission::Admission;
use crate::pod::containers::{Ready, sooner};
use crate::pod::downward::Allocatable;
pub(crate) use crate::pod::http::Reach;
use crate::pod::image::Pulls;
use crate::pod::logs::Logs;
pub(crate) use crate::pod::mirror::MIRROR;
use crate::pod::plan::End;
use crate::pod::references::References;
use crate::pod::status::Known;
use crate::pod::tokens::Tokens;
pub(crate) use crate::pod::volumes::{Attached, Memory, Persistent, release_loops};
use crate::pod::volumes::{Maker, VolumeError, Volumes};
use crate::pressure::Shortages;
use crate::shutdown::Shutdown;
use crate::statics::Statics;
pub use settings::{InvalidSysctl, PodSettings};
pub(crate) use volumes::VolumeMount;

/// Pods that are worked on at one time: as many as there may be, because each may wait for long (for an image, for its end).
const WORKERS: usize = 256;
/// When to look again whether there is room for resources that were asked for.
const RESIZE_AGAIN: Duration = Duration::from_secs(10);
/// How long the API server has to say which Pods there are, before those run that stand in the node's files.
const ALONE: Duration = Duration::from_secs(5);
/// How long a Pod has to end that uses more of the node than it may.
const EVICTED_GRACE: Duration = Duration::from_secs(1);
/// Where Pods' volumes are, below the agent's directory.
const VOLUMES: &str = "volumes";
/// The same of what container runtimes keep of them.
const SANDBOXES: &str = "pods";
/// How long to wait before trying again what other objects have to come for (a Port, a ConfigMap).
const AGAIN: Duration = Duration::from_secs(1);

/// What there is to look after: a Pod by its name, or what is left of a Pod that is gone, by its uid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Pod(ObjectKey),
    Left(String),
}

/// The loop that looks after Pods.
pub(crate) struct Pods {
    shared: Shared,
    pods: Informer<Pod>,
    statics: Arc<Statics>,
    shutdown: Arc<Shutdown>,
    /// What the node is short of.
    shortages: watch::Receiver<Shortages>,
    references: References,
    runtime: Arc<dyn Runtime>,
    images: Arc<dyn ImageService>,
    links: Arc<Links>,
    nodes: Informer<Node>,
    machines: Informer<VirtualMachine>,
    namespaces: Informer<Namespace>,
    tokens: Tokens,
    certificates: Certificates,
    persistent: Persistent,
    memory: Memory,
    logs: Logs,
    pulls: Pulls,
    queue: Queue<Work>,
    /// Those that are ending, which hear of their objects' changes at once.
    ending: Arc<Ending>,
    ends: Ends,
    known: Mutex<HashMap<String, Local>>,
    /// Whether the objects have been seen: before that, those of the node's files alone are known.
    knows_all: AtomicBool,
}

/// What the agent remembers of a Pod between passes. All of it can be found out anew.
#[derive(Default)]
struct Local {
    known: Known,
    /// The probes of each container's run, by container name: the attempt they belong to and their task.
    probes: HashMap<String, (u32, JoinHandle<()>)>,
    /// It has a place on this node.
    admitted: bool,
    /// How it is to end because of the node, and how long it has for that at most.
    told: Option<(End, Option<Duration>)>,
    /// The links to the logs of its containers are there, also where an agent ended before it had made one.
    linked: bool,
    /// By name, the id of the image that the Pod showed a credential for.
    images: HashMap<String, String>,
    tries: Arc<tries::Tries>,
}

impl Local {
    fn end_probes(&mut self) {
        self.probes.drain().for_each(|(_, (_, task))| task.abort());
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.end_probes();
    }
}

/// Why a Pod can't be brought further now.
#[derive(Debug, thiserror::Error)]
enum PodError {
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("{0}")]
    Volume(#[from] VolumeError),
    #[error("its persistent volumes can't be let go: {0}")]
    Release(std::io::Error),
    #[error("its files can't be removed: {0}")]
    Remains(std::io::Error),
    #[error("{0}")]
    Env(#[from] env::EnvError),
    #[error("{0}")]
    Runtime(#[from] yunfan_runtime::RuntimeError),
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Mount(#[from] volumes::MountError),
    #[error("its images can't be looked for: {0}")]
    Images(tokio::task::JoinError),
    #[error("the file of its last words can't be made: {0}")]
    Messages(std::io::Error),
    #[error("{0}")]
    Forbidden(String),
    #[error("Failed to create pod sandbox: {0}")]
    Sandbox(String),
}

impl Pods {
    pub(crate) fn new(
        shared: Shared,
        (statics, shutdown, shortages): (Arc<Statics>, Arc<Shutdown>, watch::Receiver<Shortages>),
        containers: &Containers,
        links: Arc<Links>,
        persistent: Persistent,
        memory: Memory,
    ) -> Arc<Self> {
        let queue = Queue::new();
        Arc::new(Self {
            pods: shared.placed(),
            statics,
            shutdown,
            shortages,
            nodes: shared.informers.of::<Node>(),
            machines: shared.placed(),
            namespaces: shared.informers.of::<Namespace>(),
            tokens: Tokens::new(shared.writer.clone()),
            certificates: Certificates::new(shared.writer.clone(), shared.recorder.clone(), &shared.node),
            persistent,
            memory,
            logs: Logs::new(&shared.root, shared.settings.logs.as_deref()),
            pulls: Pulls::default(),
            references: References::new(shared.writer.client().clone(), &shared.node, queue.clone()),
            shared,
            runtime: containers.runtime.clone(),
            images: containers.images.clone(),
            links,
            queue,
            ending: Arc::default(),
            ends: Ends::default(),
            known: Mutex::default(),
            knows_all: AtomicBool::new(false),
        })
    }

    /// Looks after Pods until dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        // What stands in the node's files needs no API server; its statuses are better known with it.
        let _ = tokio::time::timeout(ALONE, self.synced()).await;
        // Before anything is cleared away that is theirs.
        self.statics.load().await.into_iter().for_each(|change| self.take_static(change));
        tokio::spawn(self.clone().follow_runtime());
        let taker = self.clone();
        let manifests = self.statics.clone().follow(move |change| taker.take_static(change));
        let work = self.clone();
        let pods = run_loop("pod", self.queue.clone(), WORKERS, move |key| {
            let work = work.clone();
            async move { work.reconcile(&key).await }
        });
        tokio::join!(self.follow_objects(), manifests, pods);
    }

    async fn synced(&self) {
        tokio::join!(
            self.pods.synced(),
            self.nodes.synced(),
            self.machines.synced(),
            self.namespaces.synced(),
            self.persistent.synced(),
            self.links.synced()
        );
    }

    /// From when on objects are known, all Pods are looked after.
    async fn follow_objects(self: &Arc<Self>) {
        self.synced().await;
        let ending = self.ending.clone();
        self.queue.feed(&self.pods, move |pod| {
            ending.tell(&ObjectKey::of(pod));
            let left = pod.uid().map(Work::Left);
            [Some(Work::Pod(ObjectKey::of(pod))), left].into_iter().flatten()
        });
        self.links.wake_pods(&self.queue, |namespace, name| Work::Pod(ObjectKey::new(namespace, name)));
        self.knows_all.store(true, Ordering::Release);
        self.look_at_all().await;
    }

    /// Turns what happens to containers into work; after a gap in the events, everything is looked at.
    async fn follow_runtime(self: Arc<Self>) {
        let mut events = self.runtime.events();
        loop {
            match events.recv().await {
                Ok(event) => self.wake(&event),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => self.look_at_all().await,
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn wake(&self, event: &RuntimeEvent) {
        let uid = event.pod_uid();
        match self.all().iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid)) {
            Some(pod) => {
                self.count_end(pod, event);
                self.queue.add(Work::Pod(ObjectKey::of(pod.as_ref())));
            }
            None if self.knows_all.load(Ordering::Acquire) => self.queue.add(Work::Left(uid.to_owned())),
            // Whose it is, is not known yet.
            None => {}
        }
    }

    pub(crate) async fn look_at_all(&self) {
        for pod in self.all() {
            self.queue.add(Work::Pod(ObjectKey::of(pod.as_ref())));
        }
        if !self.knows_all.load(Ordering::Acquire) {
            return;
        }
        // Not all of them came as far as to a sandbox.
        let on_disk = [VOLUMES, SANDBOXES].map(|name| volumes::names(&self.shared.root.join(name)));
        let on_disk = on_disk.into_iter().flatten().chain(self.logs.pods());
        for uid in self.persistent.users().into_iter().chain(self.memory.pods()).chain(on_disk) {
            self.queue.add(Work::Left(uid));
        }
        match self.runtime.list().await {
            Ok(sandboxes) => {
                sandboxes.into_iter().for_each(|s| self.queue.add(Work::Left(s.config.uid)));
            }
            Err(error) => tracing::warn!(%error, "cannot list the sandboxes of this node"),
        }
    }

    async fn reconcile(self: &Arc<Self>, work: &Work) -> Result<Option<Duration>, PodError> {
        match work {
            // Looked at again when that is gone.
            Work::Pod(key) if self.statics.is_leaving(key) => Ok(None),
            Work::Pod(key) => match self.current(key) {
                Some(pod) => {
                    // What runs does not depend on what the API shows of it.
                    let kept = self.keep_mirror(&pod).await;
                    let again = match kept {
                        Ok(false) => None,
                        _ => self.reconcile_pod(&pod).await?,
                    };
                    kept.map(|_| again)
                }
                None => {
                    self.references.forget(key);
                    Ok(None)
                }
            },
            Work::Left(uid) => {
                if let Some(pod) = self.statics.leaving(uid) {
                    self.leave(&pod).await?;
                    return Ok(None);
                }
                let is = |pod: &Arc<Pod>| pod.metadata.uid.as_deref() == Some(uid);
                if !self.pods.list().iter().any(is) && !self.statics.list().iter().any(is) {
                    self.clear(uid).await?;
                }
                Ok(None)
            }
        }
    }

    async fn reconcile_pod(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<Option<Duration>, PodError> {
        if pod.metadata.deletion_timestamp.is_some() {
            return self.end(pod).await;
        }
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending");
        if matches!(phase, "Succeeded" | "Failed") {
            return self.rest(pod).await;
        }
        match self.advance(pod).await {
            Ok(again) => Ok(again),
            Err(error) => {
                self.explain(pod, &error).await?;
                // What the Pod waits for wakes it when it comes; this is for what has no watch.
                match error {
                    PodError::Link(LinkError::Waits(_)) => Ok(Some(AGAIN)),
                    error => Err(error),
                }
            }
        }
    }

    /// Takes the next steps that the Pod needs, and writes its status.
    async fn advance(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<Option<Duration>, PodError> {
        let uid = pod.uid().unwrap_or_default();
        let mut sandbox = self.runtime.sandbox(&uid).await?;
        let new = sandbox.is_none() && pod.status.as_ref().is_none_or(|status| status.start_time.is_none());
        let admitted = self.lock().get(&uid).is_some_and(|local| local.admitted);
        if !new {
            self.remember(&uid, |local| local.admitted = true);
        } else if !admitted {
            match self.admission(pod).await {
                Admission::Taken => {}
                Admission::Refused(end) => {
                    self.remember(&uid, |local| local.known.rejected = true);
                    return self.finish(pod, end, None).await.map(|()| None);
                }
                Admission::Waits => return Ok(Some(AGAIN)),
            }
        }
        self.link_logs(&uid, sandbox.as_ref());
        let told = self.lock().get(&uid).and_then(|local| local.told.clone());
        if let Some((end, grace)) = self.shut_down_end(pod).map(|end| (end, None)).or(told) {
            self.finish(pod, end, grace).await?;
            return Ok(None);
        }
        if sandbox.as_ref().is_some_and(|s| !s.ready) {
            // Its shim died, with the containers: they are run again in a new sandbox, unless that ended the Pod.
            let known = self.lock().get(&uid).map(|local| local.known.clone()).unwrap_or_default();
            if let Some(end) = plan::plan(pod, sandbox.as_ref(), &known).end {
                self.finish(pod, end, None).await?;
                return Ok(None);
            }
            self.write_status(pod, sandbox.as_ref()).await?;
            let text = "Pod sandbox changed, it will be killed and re-created.";
            self.say(pod, Severity::Normal, "SandboxChanged", text);
            self.runtime.clear_sandbox(&uid).await?;
            // Its cgroup went too.
            self.remember(&uid, |local| (local.known.whole, local.known.given) = (None, None));
            sandbox = None;
        }
        if sandbox.is_none() && self.is_confined(pod) {
            // Before its volumes are made: those of the host are the host's own files.
            tenant::check_pod(pod).map_err(PodError::Sandbox)?;
        }
        let link = self.links.attach_pod(pod).await?;
        self.references.follow(pod);
        let volumes = self.volumes(pod).await?;
        for stale in &volumes.stale {
            self.say(pod, Severity::Warning, "FailedMount", stale.to_string());
        }
        let mut again = volumes.again;
        if sandbox.is_none() {
            self.run_sandbox(pod, &link, &volumes).await?;
        }
        self.remember(&uid, |local| {
            local.known.pod_ip = Some(link.ip);
            local.known.host_ip = Some(self.shared.host);
        });
        let (end, measure) = self.measure(pod, sandbox.as_ref()).await;
        again = sooner(again, measure);
        if let Some(end) = end {
            self.say(pod, Severity::Warning, evict::REASON, end.message.clone().unwrap_or_default());
            self.finish(pod, end, Some(EVICTED_GRACE)).await?;
            return Ok(None);
        }
        self.resize(pod, sandbox.as_ref()).await;
        let pass = self.run_containers(&Ready { pod, link: &link, volumes: &volumes }).await?;
        if let Some(end) = pass.end {
            self.finish(pod, end, None).await?;
            return Ok(None);
        }
        let sandbox = self.runtime.sandbox(&uid).await?;
        self.watch_probes(pod, sandbox.as_ref(), &link);
        self.gather_messages(pod, sandbox.as_ref()).await;
        self.write_status(pod, sandbox.as_ref()).await?;
        let deferred = self.lock().get(&uid).is_some_and(|local| local.known.trouble.is_some());
        Ok(sooner(sooner(again, pass.again), deferred.then_some(RESIZE_AGAIN)))
    }

    async fn volumes(&self, pod: &Pod) -> Result<Volumes, PodError> {
        let maker = Maker {
            pod,
            namespace: &pod.namespace().unwrap_or_default(),
            writer: &self.shared.writer,
            tokens: &self.tokens,
            certificates: &self.certificates,
            persistent: &self.persistent,
            references: &self.references,
            memory: &self.memory,
            allocatable: &self.allocatable(),
            fs_group: volumes::fs_group(pod),
            one_user: volumes::one_user(pod),
        };
        Ok(maker.prepare(&self.pod_dir(&pod.uid().unwrap_or_default()).join("volumes")).await?)
    }

    async fn run_sandbox(&self, pod: &Pod, link: &PodLink, volumes: &Volumes) -> Result<(), PodError> {
        let spec = pod.spec.clone().unwrap_or_default();
        if spec.host_users == Some(false) {
            let text = "can't set `spec.hostUsers: false`, runtime does not support user namespaces";
            return Err(PodError::Sandbox(text.to_owned()));
        }
        let mut handler = String::new();
        if let Some(name) = spec.runtime_class_name.filter(|name| !name.is_empty()) {
            let class = read::get::<RuntimeClass>(&self.shared.writer, None, &name).await;
            let class = class.map_err(|error| {
                PodError::Sandbox(match is_not_found(&error) {
                    true => format!("RuntimeClass {name:?} not found"),
                    false => error.to_string(),
                })
            })?;
            // Whether there is such a one, the runtime says.
            handler = class.handler;
        }
        let (mut config, left_out) =
            sandbox::config(pod, &self.shared.node, link, volumes, &sandbox::host_dns())
                .map_err(PodError::Sandbox)?;
        config.handler = handler;
        if let Some(left_out) = left_out {
            self.say(pod, Severity::Warning, "DNSConfigForming", left_out);
        }
        self.logs
            .prepare(pod)
            .map_err(|error| PodError::Sandbox(format!("the place of its logs: {error}")))?;
        self.runtime.run_sandbox(config).await.map_err(|error| PodError::Sandbox(error.to_string()))?;
        self.give_cgroup(pod).await.map_err(PodError::Sandbox)
    }

    /// Whether the Pod is a tenant's, and has to keep away from the node.
    fn is_confined(&self, pod: &Pod) -> bool {
        let namespace = self.namespaces.get(None, &pod.namespace().unwrap_or_default());
        if !self.namespaces.is_synced() && self.is_static(pod) {
            // Whoever writes the node's files has the node.
            return false;
        }
        tenant::is_confined(namespace.as_deref())
    }

    /// What this node gives to Pods.
    fn allocatable(&self) -> Allocatable {
        let node = self.nodes.get(None, &self.shared.node);
        node.and_then(|node| node.status.as_ref()?.allocatable.clone()).unwrap_or_default()
    }

    /// Writes the Pod's status, where it is not that already. Returns whether it is that now: not so when the object is newer than `pod`.
    async fn write_status(&self, pod: &Pod, sandbox: Option<&SandboxStatus>) -> Result<bool, PodError> {
        let uid = pod.uid().unwrap_or_default();
        let known = self.lock().get(&uid).map(|local| local.known.clone()).unwrap_or_default();
        let status = status::build(pod, sandbox, &known);
        if same_status(pod, &status) {
            return Ok(true);
        }
        // Of this very version: the conditions of others must not be lost. A newer one comes, and is looked at then.
        let Some(object) = self.object_uid(pod) else { return Ok(true) };
        let meta = json!({"uid": object, "resourceVersion": pod.resource_version()});
        let patch = json!({"metadata": meta, "status": status});
        let (namespace, name) = (pod.namespace(), pod.name_any());
        match self.shared.writer.merge_status::<Pod>(namespace.as_deref(), &name, &patch).await {
            Ok(_) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(true),
            Err(error) if yunfan_client::is_conflict(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Says in the status and in an event why the Pod is where it is.
    async fn explain(&self, pod: &Pod, error: &PodError) -> Result<(), PodError> {
        let event = match error {
            PodError::Volume(_) => "FailedMount",
            PodError::Api(_) => return Ok(()),
            _ => "FailedCreatePodSandBox",
        };
        self.say(pod, Severity::Warning, event, error.to_string());
        let uid = pod.uid().unwrap_or_default();
        let sandbox = self.runtime.sandbox(&uid).await?;
        self.remember(&uid, |local| local.known.host_ip = Some(self.shared.host));
        self.write_status(pod, sandbox.as_ref()).await.map(drop)
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.shared.root.join(VOLUMES).join(uid)
    }

    fn remember(&self, uid: &str, change: impl FnOnce(&mut Local)) {
        change(self.lock().entry(uid.to_owned()).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Local>> {
        // Nothing panics under this lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the status as built is what the object has already.
fn same_status(pod: &Pod, built: &serde_json::Value) -> bool {
    let present = json!(pod.status);
    built.as_object().is_some_and(|fields| {
        fields.iter().all(|(key, value)| match (value, &present[key.as_str()]) {
            (serde_json::Value::Null, present) => present.is_null(),
            (value, present) => same(value, present),
        })
    })
}

/// Equal but for fields that are null on the one side and missing on the other.
fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Object};
    match (a, b) {
        (Object(x), Object(y)) => {
            let keys: std::collections::BTreeSet<&String> = x.keys().chain(y.keys()).collect();
            let null = serde_json::Value::Null;
            keys.into_iter().all(|key| same(x.get(key).unwrap_or(&null), y.get(key).unwrap_or(&null)))
        }
        (Array(x), Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| same(x, y)),
        _ => a == b,
    }
}
