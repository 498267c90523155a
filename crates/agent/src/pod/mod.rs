//! Pods of this node: from the object to processes, and from what processes do to the object's status.

mod containers;
mod end;
mod env;
mod probe;
pub(crate) mod resources;
mod status;
mod volumes;
mod watchers;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt;
use serde_json::json;
use tokio::task::JoinHandle;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_not_found, run_loop};
use yunfan_runtime::{HostAlias, ImageStore, Runtime, RuntimeEvent, SandboxConfig, SandboxStatus};

use crate::Shared;
use crate::links::{LinkError, Links, PodLink};
use crate::pod::status::{Known, Waiting};
use crate::pod::volumes::{VolumeError, Volumes};

/// Pods that are worked on at one time.
const WORKERS: usize = 8;
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
    config_maps: Informer<ConfigMap>,
    runtime: Arc<dyn Runtime>,
    images: Arc<ImageStore>,
    links: Arc<Links>,
    queue: Queue<Work>,
    known: Mutex<HashMap<String, Local>>,
}

/// What the agent remembers of a Pod between passes. All of it can be found out anew.
#[derive(Default)]
struct Local {
    known: Known,
    /// The probes of each container's run, by container name: the attempt they belong to and their task.
    probes: HashMap<String, (u32, JoinHandle<()>)>,
}

impl Drop for Local {
    fn drop(&mut self) {
        self.probes.values().for_each(|(_, task)| task.abort());
    }
}

/// Why a Pod can't be brought further now.
#[derive(Debug, thiserror::Error)]
enum PodError {
    #[error("{0}")]
    Link(#[from] LinkError),
    #[error("{0}")]
    Volume(#[from] VolumeError),
    #[error("{0}")]
    Env(#[from] env::EnvError),
    #[error("{0}")]
    Runtime(#[from] yunfan_runtime::RuntimeError),
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Unsupported(String),
}

impl Pods {
    pub(crate) fn new(
        shared: Shared,
        runtime: Arc<dyn Runtime>,
        images: Arc<ImageStore>,
        links: Arc<Links>,
    ) -> Arc<Self> {
        let selector = format!("spec.nodeName={}", shared.node);
        Arc::new(Self {
            pods: shared.informers.of_selected::<Pod>(&selector),
            config_maps: shared.informers.of::<ConfigMap>(),
            shared,
            runtime,
            images,
            links,
            queue: Queue::new(),
            known: Mutex::default(),
        })
    }

    /// Looks after Pods until dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        tokio::join!(self.pods.synced(), self.config_maps.synced(), self.links.synced());
        self.queue.feed(&self.pods, |pod| {
            let left = pod.uid().map(Work::Left);
            [Some(Work::Pod(ObjectKey::of(pod))), left].into_iter().flatten()
        });
        self.follow_config_maps();
        self.links.wake_pods(&self.queue, |namespace, name| Work::Pod(ObjectKey::new(namespace, name)));
        tokio::spawn(self.clone().follow_runtime());
        let work = self.clone();
        run_loop("pod", self.queue.clone(), WORKERS, move |key| {
            let work = work.clone();
            async move { work.reconcile(&key).await }
        })
        .await;
    }

    /// A changed ConfigMap reaches the containers that mount it.
    fn follow_config_maps(self: &Arc<Self>) {
        let pods = self.pods.clone();
        self.queue.feed(&self.config_maps, move |map| {
            let name = map.name_any();
            let uses = |pod: &Pod| {
                let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
                volumes.any(|v| v.config_map.as_ref().is_some_and(|c| c.name == name))
            };
            pods.in_namespace(&map.namespace().unwrap_or_default())
                .iter()
                .filter(|pod| uses(pod))
                .map(|pod| Work::Pod(ObjectKey::of(pod.as_ref())))
                .collect::<Vec<_>>()
        });
    }

    /// Turns what happens to containers into work; after a gap in the events, everything is looked at.
    async fn follow_runtime(self: Arc<Self>) {
        let mut events = self.runtime.events();
        self.look_at_all().await;
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
        match self.pods.list().iter().find(|pod| pod.metadata.uid.as_deref() == Some(uid)) {
            Some(pod) => self.queue.add(Work::Pod(ObjectKey::of(pod.as_ref()))),
            None => self.queue.add(Work::Left(uid.to_owned())),
        }
    }

    async fn look_at_all(&self) {
        for pod in self.pods.list() {
            self.queue.add(Work::Pod(ObjectKey::of(pod.as_ref())));
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
            Work::Pod(key) => match self.pods.get_key(key) {
                Some(pod) => self.reconcile_pod(&pod).await,
                None => Ok(None),
            },
            Work::Left(uid) => {
                let there = self.pods.list().iter().any(|pod| pod.metadata.uid.as_deref() == Some(uid));
                if !there {
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
        if pod.spec.as_ref().is_some_and(|spec| spec.host_network == Some(true)) {
            return Err(PodError::Unsupported(
                "spec.hostNetwork is not supported here; leave it out and use a Service".to_owned(),
            ));
        }
        let mut sandbox = self.runtime.sandbox(&uid).await?;
        if sandbox.as_ref().is_some_and(|s| !s.ready) {
            // Its shim died, with the containers: they are run again in a new sandbox.
            self.shared.recorder.event(
                pod.as_ref(),
                Severity::Normal,
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            );
            self.runtime.remove_sandbox(&uid).await?;
            sandbox = None;
        }
        let link = self.links.attach_pod(pod).await?;
        let dir = self.pod_dir(&uid);
        let volumes =
            volumes::prepare(pod, &dir.join("volumes"), &self.shared.writer, &self.config_maps).await?;
        if sandbox.is_none() {
            self.runtime.run_sandbox(sandbox_config(pod, &link, &volumes)).await?;
        }
        self.remember(&uid, |local| {
            local.known.pod_ip = Some(link.ip);
            local.known.host_ip = Some(self.shared.address);
        });
        let again = self.run_containers(pod, &link, &volumes).await?;
        let sandbox = self.runtime.sandbox(&uid).await?;
        self.watch_probes(pod, sandbox.as_ref(), &link);
        self.write_status(pod, sandbox.as_ref()).await?;
        Ok(again)
    }

    async fn write_status(&self, pod: &Pod, sandbox: Option<&SandboxStatus>) -> Result<(), PodError> {
        let uid = pod.uid().unwrap_or_default();
        let known = self.lock().get(&uid).map(|local| local.known.clone()).unwrap_or_default();
        let status = status::build(pod, sandbox, &known);
        if same_status(pod, &status) {
            return Ok(());
        }
        let patch = json!({"metadata": {"uid": uid}, "status": status});
        let (namespace, name) = (pod.namespace(), pod.name_any());
        match self.shared.writer.merge_status::<Pod>(namespace.as_deref(), &name, &patch).await {
            Err(error) if !is_not_found(&error) && !yunfan_client::is_conflict(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Says in the status and in an event why the Pod is where it is.
    async fn explain(&self, pod: &Pod, error: &PodError) -> Result<(), PodError> {
        let (reason, event) = match error {
            PodError::Link(_) => ("ContainerCreating", "FailedCreatePodSandBox"),
            PodError::Volume(_) => ("ContainerCreating", "FailedMount"),
            PodError::Env(_) => ("CreateContainerConfigError", "Failed"),
            PodError::Unsupported(_) => ("CreateContainerConfigError", "Failed"),
            PodError::Runtime(_) => ("CreateContainerError", "Failed"),
            PodError::Api(_) => return Ok(()),
        };
        let message = error.to_string();
        self.shared.recorder.event(pod, Severity::Warning, event, message.clone());
        let uid = pod.uid().unwrap_or_default();
        let sandbox = self.runtime.sandbox(&uid).await?;
        self.remember(&uid, |local| {
            for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
                if status::last_run(sandbox.as_ref(), &container.name).is_none() {
                    let waiting = Waiting { reason, message: message.clone() };
                    local.known.waiting.entry(container.name.clone()).or_insert(waiting);
                }
            }
        });
        self.write_status(pod, sandbox.as_ref()).await
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.shared.root.join("volumes").join(uid)
    }

    fn remember(&self, uid: &str, change: impl FnOnce(&mut Local)) {
        change(self.lock().entry(uid.to_owned()).or_default());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Local>> {
        // Nothing panics under this lock.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sandbox_config(pod: &Pod, link: &PodLink, volumes: &Volumes) -> SandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let aliases = spec
        .host_aliases
        .iter()
        .flatten()
        .map(|alias| HostAlias { ip: alias.ip.clone(), names: alias.hostnames.clone().unwrap_or_default() });
    let mut hostname = spec.hostname.clone().unwrap_or_else(|| pod.name_any());
    hostname.truncate(63);
    SandboxConfig {
        uid: pod.uid().unwrap_or_default(),
        namespace: pod.namespace().unwrap_or_default(),
        name: pod.name_any(),
        hostname,
        netns: Some(link.netns.clone()),
        pod_ips: vec![link.ip.to_string()],
        dns: dns_config(&spec, link),
        host_aliases: aliases.collect(),
        tmpfs_volumes: volumes.in_memory.clone(),
        shm_size_bytes: None,
        labels: Default::default(),
    }
}

/// The resolver settings: the network's, or the host's for `dnsPolicy: Default`, or what `dnsConfig` says.
fn dns_config(
    spec: &k8s_openapi::api::core::v1::PodSpec,
    link: &PodLink,
) -> Option<yunfan_runtime::DnsConfig> {
    let custom = spec.dns_config.clone().unwrap_or_default();
    let mut dns = match spec.dns_policy.as_deref() {
        Some("Default") if spec.dns_config.is_none() => return None,
        Some("None") => yunfan_runtime::DnsConfig::default(),
        _ => link.dns.clone(),
    };
    dns.servers.extend(custom.nameservers.into_iter().flatten());
    dns.searches.extend(custom.searches.into_iter().flatten());
    dns.options.extend(custom.options.into_iter().flatten().filter_map(|option| {
        let name = option.name?;
        Some(option.value.map_or_else(|| name.clone(), |value| format!("{name}:{value}")))
    }));
    Some(dns)
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
