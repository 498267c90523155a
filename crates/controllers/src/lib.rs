//! The control loops: one module each, all of one shape.
//!
//! **Owns**: what follows from an object that someone wrote: a Deployment's ReplicaSets, a Service's
//! endpoints, a deleted namespace's end, a workload's Ports.
//!
//! **Must never know**: a node's insides, how objects are stored, which door an object came through. A
//! loop reads informers and writes patches, and may be stopped at any moment: when it comes back it
//! looks at the objects and goes on.
//!
//! Start reading at [`run`], then [`mod@replicaset`], the plainest loop.
#![forbid(unsafe_code)]

pub mod account_token;
pub mod api_server;
pub mod backup;
pub mod bootstrap_token;
pub mod budget;
pub mod certificate;
pub mod cronjob;
pub mod daemon;
pub mod deployment;
pub mod endpoints;
pub mod endpointslice;
pub mod eviction;
pub mod garbage;
pub mod given;
pub mod hpa;
pub mod image;
pub mod job;
pub mod migration;
pub mod mirror;
pub mod namespace;
pub mod node;
pub mod orphan;
pub mod podgc;
pub mod policy;
pub mod port;
pub mod project;
pub mod quota;
mod remains;
pub mod replicaset;
pub mod role;
pub mod service_cidr;
mod settings;
pub mod shelve;
pub mod stateful;
pub mod storage;
pub mod transfer;
pub mod ttl;
pub mod volume;

mod ahead;
mod children;
mod claim;
mod hash;
mod history;
mod kinds;
mod pod_writer;
mod pods;
mod raw;
mod scale;
mod share;
mod status;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kube::Client;
use yunfan_client::{Informers, Recorder, Writer};
use yunfan_identity::pki::Authority;
use yunfan_identity::token::AccountKey;

pub use settings::{AutoscalingSettings, NodeSettings, Settings};

/// What the loops are told when they start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Range of the cluster network, of which each node gets a slice.
    pub cluster_cidr: Ipv4Net,
    /// Range of Services' addresses.
    pub service_cidr: Ipv4Net,
    /// The same of IPv6, where the cloud has both families.
    pub second: Option<SecondFamily>,
    /// Bits of a node's slice that are its network's: 24 leaves addresses for 253 Pods.
    pub node_prefix: u8,
    /// The cloud's authority: workloads know the API server by its certificate, and it signs what is asked of it.
    pub authority: Arc<Authority>,
    /// Signs the tokens of service accounts that Secrets hold.
    pub accounts: AccountKey,
    /// Whether the loops of Kubernetes' own kinds run: kube-controller-manager may do their work. Those of the
    /// cloud's kinds always run.
    pub kubernetes: bool,
    /// The API server.
    pub api: ApiServer,
    /// What an operator may set of Kubernetes' own loops.
    pub settings: Settings,
}

/// The ranges of a cloud's second family, IPv6.
#[derive(Clone, Copy, Debug)]
pub struct SecondFamily {
    /// Range of the cluster network, of which each node gets a slice.
    pub cluster_cidr: Ipv6Net,
    /// Range of Services' addresses.
    pub service_cidr: Ipv6Net,
    /// Bits of a node's slice that are its network's.
    pub node_prefix: u8,
}

impl Config {
    /// The ranges of Services' addresses, IPv4's first.
    pub fn service_cidrs(&self) -> Vec<IpNet> {
        let second = self.second.map(|second| IpNet::V6(second.service_cidr));
        [IpNet::V4(self.service_cidr)].into_iter().chain(second).collect()
    }
}

/// Where workloads find the API server.
#[derive(Clone, Copy, Debug)]
pub struct ApiServer {
    /// The address of the Service `kubernetes`.
    pub service_ip: Ipv4Addr,
    /// What the Service leads to.
    pub address: SocketAddr,
}

/// What every loop works with. Cloning it is cheap.
#[derive(Clone)]
pub struct Context {
    /// Shared stores of objects.
    pub informers: Informers,
    /// Writes objects.
    pub writer: Writer,
    /// Writes events.
    pub recorder: Recorder,
    /// Settings.
    pub config: Config,
}

impl Context {
    /// The same for a loop whose events people know under the name of Kubernetes' controller.
    fn named(&self, component: &'static str) -> Self {
        Self { recorder: self.recorder.named(component), ..self.clone() }
    }
}

/// Runs all loops until the returned future is dropped.
pub async fn run(client: Client, informers: Informers, config: Config) {
    let context = Context {
        informers,
        writer: Writer::new(client.clone(), "yunfan-controllers"),
        recorder: Recorder::new(client, "yunfan-controllers", None),
        config,
    };
    let kubernetes = async {
        if context.config.kubernetes {
            run_kubernetes(&context).await;
        }
    };
    tokio::join!(
        kubernetes,
        // kube-controller-manager has not the key.
        account_token::run(context.clone()),
        api_server::run(context.clone()),
        orphan::run(context.clone()),
        port::run(context.clone()),
        project::run(context.clone()),
        quota::run(context.clone()),
        service_cidr::run(context.clone()),
        storage::provision::run(context.clone()),
        volume::run(context.clone()),
        transfer::run(context.clone()),
        backup::run(context.clone()),
        shelve::run(context.clone()),
        image::run(context.clone()),
    );
}

/// The loops whose work kube-controller-manager does in a cluster that has it.
async fn run_kubernetes(context: &Context) {
    tokio::join!(
        bootstrap_token::run(context.clone()),
        budget::run(context.named("controllermanager")),
        certificate::run(context.clone()),
        certificate::pods::run(context.clone()),
        cronjob::run(context.named("cronjob-controller")),
        daemon::run(context.named("daemonset-controller")),
        deployment::run(context.named("deployment-controller")),
        endpoints::run(context.clone()),
        endpointslice::run(context.clone()),
        eviction::run(context.named("taint-eviction-controller")),
        garbage::run(context.clone()),
        given::run(context.clone()),
        hpa::run(context.named("horizontal-pod-autoscaler")),
        job::run(context.named("job-controller")),
        migration::run(context.clone()),
        mirror::run(context.clone()),
        namespace::run(context.clone()),
        node::run(context.named("node-controller")),
        podgc::run(context.named("pod-garbage-collector")),
        policy::run(context.clone()),
        replicaset::run(context.clone()),
        role::run(context.clone()),
        stateful::run(context.named("statefulset-controller")),
        storage::attributes::run(context.clone()),
        storage::binder::run(context.named("persistentvolume-controller")),
        storage::ephemeral::run(context.named("ephemeral_volume")),
        storage::protect::run(context.clone()),
        ttl::run(context.clone()),
    );
}
