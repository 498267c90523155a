//! Which node a workload runs on: Pods, VirtualMachines and their Volumes, one engine, one view of the nodes' capacity.
//!
//! **Owns**: the choice of a node, writing it down (a Pod's binding, a VirtualMachine's or Volume's `spec.nodeName`), and
//! saying why there is none (condition, event).
//!
//! **Must never know**: how a workload is run, networks, images, how objects are stored. It sees objects through
//! informers and writes patches; killed at any moment it starts again from the objects.
//!
//! Start reading at [`engine::Engine::place`] (one placement: filter, then score), then [`run`] and
//! `driver` (the loop around it). [`snapshot`] is what a placement looks at.
#![forbid(unsafe_code)]

mod bind;
pub mod claims;
mod driver;
pub mod engine;
pub mod filters;
mod machines;
pub mod peers;
mod preemption;
mod queue;
mod report;
pub mod scorers;
pub mod snapshot;
pub mod volumes;
pub mod workload;

use std::future::Future;
use std::time::Duration;

use kube::Client;
use yunfan_client::Informers;
use yunfan_resources::requests::MachineCharge;

/// How VirtualMachines are charged to a node, and the loop's limits.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// How VirtualMachines are charged.
    pub machines: MachineCharge,
    /// Whether Pods are placed: kube-scheduler may do it. What runs takes its share of a node in any case.
    pub pods: bool,
    /// Placements that are written at once.
    pub max_in_flight: usize,
    /// Wait before a workload that had no node is tried again, when something changed that may help it; doubles
    /// with each failure up to `max_backoff`.
    pub first_backoff: Duration,
    /// See `first_backoff`.
    pub max_backoff: Duration,
    /// A workload without a node is tried again after so long even if nothing seemed to change.
    pub retry_after: Duration,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            machines: MachineCharge::default(),
            pods: true,
            max_in_flight: 32,
            first_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(10),
            retry_after: Duration::from_secs(300),
        }
    }
}

/// The only name in a Pod's `spec.schedulerName` (beside none) that this scheduler answers to.
pub const SCHEDULER_NAME: &str = "default-scheduler";

/// Places workloads until `shutdown` is done.
pub async fn run(
    client: Client,
    informers: Informers,
    config: SchedulerConfig,
    shutdown: impl Future<Output = ()>,
) {
    tokio::select! {
        () = driver::run(client, informers, config) => {}
        () = shutdown => {}
    }
}
