//! What an operator may set of the loops, by the names and with the defaults that kube-controller-manager has for it.

use std::time::Duration;

/// All of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Settings {
    /// Nodes that are not heard of, and how fast Pods leave them.
    pub nodes: NodeSettings,
    /// Pods that nobody else clears away.
    pub pods: crate::podgc::Settings,
    /// Autoscaling.
    pub autoscaling: AutoscalingSettings,
}

/// Nodes that are not heard of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NodeSettings {
    /// How often each node is looked at (`--node-monitor-period`).
    pub period: Duration,
    /// How long a node may say nothing (`--node-monitor-grace-period`).
    pub grace: Duration,
    /// The same for one that never told its state (`--node-startup-grace-period`).
    pub startup_grace: Duration,
    /// Nodes of a zone that begin to drive their Pods away, in a second (`--node-eviction-rate`); none at 0.
    pub eviction_rate: f64,
    /// The same in a large zone of which much is lost (`--secondary-node-eviction-rate`).
    pub secondary_eviction_rate: f64,
    /// The share of a zone's nodes of which that is said (`--unhealthy-zone-threshold`).
    pub unhealthy_zone: f64,
    /// A zone with more nodes is large (`--large-cluster-size-threshold`).
    pub large_zone: usize,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(5),
            grace: Duration::from_secs(50),
            startup_grace: Duration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            unhealthy_zone: 0.55,
            large_zone: 50,
        }
    }
}

/// Autoscaling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AutoscalingSettings {
    /// How often each autoscaler is looked at (`--horizontal-pod-autoscaler-sync-period`).
    pub period: Duration,
    /// Nothing is done while the ratio of what is to what should be is as near to one as this (`--horizontal-pod-autoscaler-tolerance`).
    pub tolerance: f64,
    /// For so long the highest recommendation counts where no behaviour says otherwise
    /// (`--horizontal-pod-autoscaler-downscale-stabilization`).
    pub stabilization: Duration,
    /// For so long after its start a Pod's use of CPU counts only once it is ready (`--horizontal-pod-autoscaler-cpu-initialization-period`).
    pub cpu_initialization: Duration,
    /// A Pod that became not ready within this time after its start was never ready
    /// (`--horizontal-pod-autoscaler-initial-readiness-delay`).
    pub readiness_delay: Duration,
}

impl Default for AutoscalingSettings {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(15),
            tolerance: 0.1,
            stabilization: Duration::from_secs(300),
            cpu_initialization: Duration::from_secs(300),
            readiness_delay: Duration::from_secs(30),
        }
    }
}
