//! The node's loop: what objects want of this node, made real.
//!
//! **Owns**: this node's Node object and lease, the volumes of its Pods, and the HTTPS API for byte streams (logs, exec,
//! consoles, images). It ties the runtime, the hypervisor, the network and the disks together; none of those knows another.
//!
//! **Must never know**: where the API server is (it is handed a client), other tenants' secrets, how a workload came to be
//! placed here.
//!
//! Start reading at [`Agent::start`], then `pod/mod.rs` and `vm/mod.rs`: one loop each, of one shape: find out what is there, take the next
//! step, write down the status. Whatever is remembered between passes can be found out anew, so the process may die at any moment.
#![forbid(unsafe_code)]

mod cleaning;
mod containers;
mod copies;
mod eviction;
mod firewall;
mod images;
mod links;
mod made;
mod members;
mod node;
mod pages;
mod pod;
mod pressure;
mod routers;
mod server;
mod services;
mod shutdown;
mod snapshot;
mod statics;
mod stats;
mod turns;
mod vm;
mod volume;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::Ipv4Net;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use yunfan_client::{Informer, Informers, Recorder, Writer};
use yunfan_disks::{DiskStore, ImageStore, VolumeDriver};
use yunfan_hypervisor::{AcceleratorChoice, Fake, Hypervisor, Qemu, QemuConfig};
pub use yunfan_network::ApiServer;
use yunfan_network::{NetworkError, NodeNetworks};
use yunfan_resources::names::CLUSTER_DOMAIN;

use crate::cleaning::Cleaning;
pub use crate::containers::ContainerRuntime;
pub use crate::eviction::{EvictionSettings, EvictionTexts, InvalidThreshold, parse_period};
use crate::images::Images;
use crate::links::Links;
use crate::made::Made;
use crate::node::Abilities;
use crate::pod::{Attached, Memory, Persistent, Pods};
pub use crate::pod::{InvalidSysctl, PodSettings};
use crate::server::Api;
pub use crate::server::Client;
use crate::server::Reviews;
pub use crate::shutdown::{InvalidPeriods, ShutdownPeriods, shutdown_period};
use crate::shutdown::{Shutdown, Workloads};
use crate::snapshot::Snapshots;
use crate::statics::Statics;
use crate::stats::Stats;
use crate::vm::Machines;
use crate::vm::metadata::Guests;
use crate::volume::Volumes;

/// What an agent is told when it starts.
pub struct Config {
    /// The node's name.
    pub node: String,
    /// The cloud instance's tag: six hexadecimal digits that everything left on the host carries.
    pub tag: String,
    /// The agent's own directory, `DATA_DIR/agent`.
    pub root: PathBuf,
    /// The address that other components reach the agent at.
    pub address: IpAddr,
    /// Where the HTTPS API listens; already bound, so that its port is known.
    pub listener: TcpListener,
    /// TLS of the HTTPS API; must ask for client certificates.
    pub serving: Arc<rustls::ServerConfig>,
    /// TLS towards other agents, with this node's certificate.
    pub agents: Arc<rustls::ClientConfig>,
    /// The way to the registry, as this node's user.
    pub client: kube::Client,
    /// Range of the Services' addresses.
    pub service_cidr: Ipv4Net,
    /// Range of the cluster network.
    pub cluster_cidr: Ipv4Net,
    /// Address of the cluster DNS.
    pub cluster_dns: Ipv4Addr,
    /// The API server: where workloads reach it, and where this host does.
    pub api: ApiServer,
    /// What runs containers.
    pub containers: ContainerRuntime,
    /// Which accelerator virtual machines get.
    pub accelerator: AcceleratorChoice,
    /// Directory of the manifests of static Pods; none are run where it is not given.
    pub pod_manifests: Option<PathBuf>,
    /// How long Pods have to end when the node shuts down.
    pub shutdown: ShutdownPeriods,
    /// When Pods end because the node is short of something.
    pub eviction: EvictionSettings,
    /// What Pods may do.
    pub pods: PodSettings,
    /// More labels for the Node.
    pub labels: BTreeMap<String, String>,
}

/// Why an agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The runtime's directories or a left-over sandbox.
    #[error("containers: {0}")]
    Runtime(#[from] yunfan_runtime::RuntimeError),
    /// The network of this node.
    #[error("network: {0}")]
    Network(#[from] NetworkError),
    /// The hypervisor's directories.
    #[error("hypervisor: {0}")]
    Hypervisor(#[from] yunfan_hypervisor::Error),
    /// The directories of images and disks.
    #[error("disks: {0}")]
    Disks(#[from] yunfan_disks::Error),
    /// The API server.
    #[error("registering the node: {0}")]
    Register(#[from] kube::Error),
    /// The agent's directory.
    #[error("cannot use {path}: {source}")]
    Directory {
        /// The directory.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// What all parts of the agent share. Cloning it is cheap.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) node: String,
    pub(crate) root: Arc<Path>,
    pub(crate) address: IpAddr,
    /// The host's address as its Pods see it.
    pub(crate) host: IpAddr,
    pub(crate) port: u16,
    pub(crate) informers: Informers,
    pub(crate) writer: Writer,
    pub(crate) recorder: Recorder,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) settings: Arc<PodSettings>,
}

impl Shared {
    /// The objects of a kind that are placed on this node: no node reads those of others.
    pub(crate) fn placed<K: yunfan_client::Watched>(&self) -> Informer<K> {
        self.informers.of_selected(&format!("spec.nodeName={}", self.node))
    }
}

/// The host's address for its Pods, where others reach the agent at `address`. Loopback leads each Pod to itself, and no Service may
/// have it among its endpoints.
fn host_address(address: IpAddr) -> IpAddr {
    let outside = || default_route_address().unwrap_or(address);
    if address.is_loopback() { outside() } else { address }
}

/// The address of the interface that the default route leads out of, if there is one; nothing is sent.
pub fn default_route_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback())
}

/// A running agent. Dropping it stops its loops; workloads go on.
pub struct Agent {
    tasks: JoinSet<()>,
    shared: Shared,
    workloads: Workloads,
    shutdown: Arc<Shutdown>,
}

impl Agent {
    /// Finds what is on this node, registers it, and starts the loops.
    ///
    /// # Errors
    /// When a part of the node can't be used at all. A missing QEMU is no such error: the node then runs containers
    /// only, and says so.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let directory = |source| StartError::Directory { path: config.root.display().to_string(), source };
        std::fs::create_dir_all(&config.root).map_err(directory)?;
        let port = config.listener.local_addr().map_err(directory)?.port();
        let informers = Informers::new(config.client.clone());
        let shared = Shared {
            node: config.node.clone(),
            root: Arc::from(config.root.as_path()),
            address: config.address,
            host: host_address(config.address),
            port,
            writer: Writer::new(config.client.clone(), "yunfan-agent"),
            recorder: Recorder::new(config.client.clone(), "kubelet", Some(config.node.clone())),
            informers,
            labels: config.labels.clone(),
            settings: Arc::new(config.pods.clone()),
        };
        let attached = Arc::new(Attached::new(&config.root, &config.tag));
        let memory = Memory::new(&config.root, &config.tag);
        // What is mounted later is not seen by those Pods that are there by then, where the host's mounts are private.
        for prepared in [memory.prepare().await, attached.prepare().await] {
            prepared.map_err(directory)?;
        }
        let (chosen, apart) = (config.containers.clone(), (memory.root(), attached.root()));
        let containers = containers::open(chosen, &config.tag, &config.root, apart).await?;
        let networks = NodeNetworks::open(network_config(&config), Guests::new(&shared)).await?;
        let hypervisor: Arc<dyn Hypervisor> = match config.accelerator {
            AcceleratorChoice::Fake => Arc::new(Fake::default()),
            accelerator => {
                let (tag, root) = (config.tag.clone(), config.root.join("vms"));
                Arc::new(Qemu::open(QemuConfig { tag, root, accelerator }).await?)
            }
        };
        let images = ImageStore::open(config.root.join("disks")).await?;
        let disks = DiskStore::new(images.clone());
        let volume_disks: Arc<dyn VolumeDriver> = Arc::new(DiskStore::volumes(images.clone()));

        let links = Links::new(shared.clone(), networks.clone());
        let agents = Arc::new(Client::new(config.agents));
        let persistent = Persistent::new(&shared, volume_disks.clone(), attached.clone());
        let statics = Statics::new(&shared.node, config.pod_manifests);
        shutdown::note(&config.root, &config.shutdown).map_err(directory)?;
        let shutdown = Shutdown::new(config.shutdown);
        let (told, shortages) = watch::channel(eviction::look(&config.eviction, &config.root));
        let pods = Pods::new(
            shared.clone(),
            (statics.clone(), shutdown.clone(), shortages.clone()),
            &containers,
            links.clone(),
            persistent,
            memory,
        );
        // Of what Kubernetes' node agent does not do, nobody hears under its name.
        let own = Shared { recorder: shared.recorder.named("yunfan-agent"), ..shared.clone() };
        let fetched = Images::new(own.clone(), images.clone(), agents);
        let snapshot_disks: Arc<dyn VolumeDriver> = Arc::new(DiskStore::snapshots(images.clone()));
        let of_volumes = (volume_disks, snapshot_disks.clone());
        let volumes = Volumes::new(own.clone(), hypervisor.clone(), fetched.clone(), of_volumes, attached);
        let (making, of_images) = (own.clone(), snapshot_disks.clone());
        let snapshots = Snapshots::new(own.clone(), volumes.clone(), snapshot_disks);
        let (switch, stores) = (hypervisor.clone(), volumes.clone());
        let machines = Machines::new(own, switch, fetched, disks, stores, links.clone(), shutdown.clone());
        let made = Made::new(making, volumes.clone(), machines.clone(), of_images, images.clone());
        let workloads = Workloads { pods: pods.clone(), machines: machines.clone() };
        let cleaning = Cleaning::new(shared.clone(), containers.images.clone());
        let stats = Arc::new(Stats::new(&shared.node, &config.root, containers.runtime.clone()));
        let reviews = Reviews::new(shared.writer.clone(), &shared.node);
        let api = Api {
            stats: stats.clone(),
            workloads: pods.clone(),
            runtime: containers.runtime,
            hypervisor: hypervisor.clone(),
            images,
            containers: containers.images.clone(),
            statics,
            pods: shared.placed(),
            networks: networks.clone(),
            consoles: server::Consoles::default(),
        };
        let api = server::router(api, reviews);
        let mut tasks = JoinSet::new();
        let (listener, serving) = (config.listener, config.serving);
        tasks.spawn(async move {
            // Runs until it is dropped with the agent.
            if let Err(error) = yunfan_serve::serve_tls(listener, serving, api, std::future::pending()).await
            {
                tracing::error!(%error, "the agent's API ended");
            }
        });
        tasks.spawn(stats.run());
        tasks.spawn(links.run());
        tasks.spawn(pods.clone().run());
        tasks.spawn(shutdown::follow(shared.clone(), config.tag, shutdown.clone(), workloads.clone()));
        tasks.spawn(machines.run());
        tasks.spawn(volumes.run());
        tasks.spawn(snapshots.run());
        tasks.spawn(made.run());
        tasks.spawn(cleaning.clone().keep());
        tasks.spawn(eviction::keep(shared.clone(), config.eviction.clone(), pods.clone(), cleaning, told));
        let abilities = Abilities {
            accelerator: hypervisor.accelerator().await,
            pretends: config.accelerator == AcceleratorChoice::Fake,
            cgroup: node::cgroup_kind(),
            notes: networks.notes(),
            shortages,
            containers: containers.version,
            features: containers.features,
            images: containers.images,
            eviction: config.eviction.clone(),
        };
        let registered = match node::register(&shared, &abilities).await {
            Ok(()) => true,
            Err(error @ kube::Error::Api(_)) => return Err(error.into()),
            Err(error) => {
                // What is the node's own runs all the same.
                tracing::warn!(%error, "the API server can't be reached, the node is registered later");
                false
            }
        };
        tasks.spawn(node::keep(shared.clone(), abilities, shutdown.clone(), registered));
        Ok(Self { tasks, shared, workloads, shutdown })
    }

    /// Ends the workloads of this node, because it is about to be gone: Pods by their priority, within the time that was set for that. Without
    /// such a time nothing is done.
    pub async fn shut_down(&self) {
        if !self.shutdown.periods().is_empty() {
            shutdown::carry_out(&self.shared, &self.shutdown, &self.workloads).await;
        }
    }

    /// Waits until a loop ends, which none does by itself.
    pub async fn ended(&mut self) {
        self.tasks.join_next().await;
    }
}

fn network_config(config: &Config) -> yunfan_network::Config {
    yunfan_network::Config {
        tag: config.tag.clone(),
        state_dir: config.root.join("network"),
        service_cidr: config.service_cidr,
        cluster_cidr: config.cluster_cidr,
        cluster_dns: config.cluster_dns,
        api: Some(config.api.clone()),
        domain: CLUSTER_DOMAIN.to_owned(),
    }
}

/// Removes the logs of an agent's Pods, wherever they are: its own directory is about to be removed, and may be not the only place. Blocks.
///
/// # Errors
/// What could not be removed.
pub fn remove_logs(root: &Path) -> std::io::Result<()> {
    pod::logs::remove_all(root)
}

/// Removes everything that an agent with this tag left on the host: containers, machines, networks, mounts, cgroups. Works without
/// a running cloud; what is gone already is no error. Files below `root` stay, but for what describes running things.
///
/// # Errors
/// What could not be removed, each with its reason; everything else is removed all the same.
pub fn teardown(tag: &str, root: &Path) -> Result<(), Vec<String>> {
    let mut problems = Vec::new();
    // Workloads first: they hold the taps and the namespaces.
    if let Err(error) = yunfan_hypervisor::teardown(tag, &root.join("vms")) {
        problems.push(format!("virtual machines: {error}"));
    }
    if let Err(error) = containers::teardown(tag, root) {
        problems.push(format!("containers: {error}"));
    }
    // What was mounted is not any more.
    if let Err(error) = pod::release_loops(root) {
        problems.push(format!("loop devices: {error}"));
    }
    if let Err(error) = shutdown::remove_drop_in(Path::new(shutdown::DROP_INS), tag) {
        problems.push(format!("settings of systemd-logind: {error}"));
    }
    if let Err(error) = yunfan_network::teardown(tag, &root.join("network")) {
        problems.push(format!("networks: {error}"));
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}
