//! Options of the controllers; they are kube-controller-manager's, and the defaults too.

use std::time::Duration;

use clap::Args;
use yunfan_controllers::{AutoscalingSettings, NodeSettings, Settings, podgc};

use crate::eviction::period;

/// What may be set of the controllers of Kubernetes' own kinds.
#[derive(Args)]
pub(crate) struct ControllerOptions {
    /// How often each node is looked at.
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = interval)]
    node_monitor_period: Duration,
    /// How long a node may say nothing before it counts as lost; its Pods leave it as long after that as they tolerate it.
    #[arg(long, default_value = "50s", value_name = "TIME", value_parser = period)]
    node_monitor_grace_period: Duration,
    /// The same for a node that never told its state.
    #[arg(long, default_value = "1m", value_name = "TIME", value_parser = period)]
    node_startup_grace_period: Duration,
    /// Lost nodes of a zone that begin to drive their Pods away, in a second; 0 for none.
    #[arg(long, default_value_t = 0.1, value_name = "NUMBER", value_parser = amount)]
    node_eviction_rate: f64,
    /// The same in a large zone of which much is lost; in a small one it is 0 then.
    #[arg(long, default_value_t = 0.01, value_name = "NUMBER", value_parser = amount)]
    secondary_node_eviction_rate: f64,
    /// Share of a zone's nodes that is much of it (of three lost nodes at least).
    #[arg(long, default_value_t = 0.55, value_name = "SHARE", value_parser = amount)]
    unhealthy_zone_threshold: f64,
    /// A zone with more nodes is large.
    #[arg(long, default_value_t = 50, value_name = "NODES")]
    large_cluster_size_threshold: usize,
    /// Ended Pods that are kept, of all namespaces together; 0 for all of them.
    #[arg(long, default_value_t = 12_500, value_name = "PODS", allow_negative_numbers = true)]
    terminated_pod_gc_threshold: i32,
    /// How often each autoscaler is looked at.
    #[arg(long, default_value = "15s", value_name = "TIME", value_parser = interval)]
    horizontal_pod_autoscaler_sync_period: Duration,
    /// How far a metric may be from its target without anything being done, as a share of it.
    #[arg(long, default_value_t = 0.1, value_name = "SHARE", value_parser = amount)]
    horizontal_pod_autoscaler_tolerance: f64,
    /// For how long the highest recommendation counts before there are fewer Pods.
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = period)]
    horizontal_pod_autoscaler_downscale_stabilization: Duration,
    /// For how long after its start a Pod's use of CPU counts only once it is ready.
    #[arg(long, default_value = "5m", value_name = "TIME", value_parser = period)]
    horizontal_pod_autoscaler_cpu_initialization_period: Duration,
    /// A Pod that became not ready within this time after its start was never ready.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = period)]
    horizontal_pod_autoscaler_initial_readiness_delay: Duration,
}

impl ControllerOptions {
    /// What they come to.
    pub(crate) fn settings(&self) -> Settings {
        let kept = usize::try_from(self.terminated_pod_gc_threshold).ok().filter(|kept| *kept > 0);
        Settings {
            nodes: NodeSettings {
                period: self.node_monitor_period,
                grace: self.node_monitor_grace_period,
                startup_grace: self.node_startup_grace_period,
                eviction_rate: self.node_eviction_rate,
                secondary_eviction_rate: self.secondary_node_eviction_rate,
                unhealthy_zone: self.unhealthy_zone_threshold,
                large_zone: self.large_cluster_size_threshold,
            },
            pods: podgc::Settings { most_ended: kept.unwrap_or(usize::MAX), ..podgc::Settings::default() },
            autoscaling: AutoscalingSettings {
                period: self.horizontal_pod_autoscaler_sync_period,
                tolerance: self.horizontal_pod_autoscaler_tolerance,
                stabilization: self.horizontal_pod_autoscaler_downscale_stabilization,
                cpu_initialization: self.horizontal_pod_autoscaler_cpu_initialization_period,
                readiness_delay: self.horizontal_pod_autoscaler_initial_readiness_delay,
            },
        }
    }
}

/// How often something is done: the loops must not do it without a pause.
fn interval(text: &str) -> Result<Duration, String> {
    let time = period(text)?;
    if time < Duration::from_millis(100) { Err("it is less than 100ms".to_owned()) } else { Ok(time) }
}

fn amount(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if number.is_finite() && number >= 0.0 {
        Ok(number)
    } else {
        Err("it is less than 0 or no end".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: ControllerOptions,
    }

    fn settings(options: &[&str]) -> Result<Settings, String> {
        let words = std::iter::once("server").chain(options.iter().copied());
        Line::try_parse_from(words).map(|line| line.options.settings()).map_err(|error| error.to_string())
    }

    #[test]
    fn without_options_all_is_as_in_kubernetes() {
        assert_eq!(settings(&[]), Ok(Settings::default()));
    }

    #[test]
    fn options_are_what_they_say() {
        let set = settings(&[
            "--node-monitor-grace-period=40s",
            "--node-eviction-rate=0",
            "--terminated-pod-gc-threshold=-1",
            "--horizontal-pod-autoscaler-tolerance=0.25",
            "--horizontal-pod-autoscaler-downscale-stabilization=1m30s",
        ])
        .unwrap();
        assert_eq!((set.nodes.grace, set.nodes.eviction_rate), (Duration::from_secs(40), 0.0));
        assert_eq!(set.pods.most_ended, usize::MAX);
        assert_eq!((set.autoscaling.tolerance, set.autoscaling.stabilization.as_secs()), (0.25, 90));
        for wrong in [
            "--node-eviction-rate=-1",
            "--node-monitor-period=0s",
            "--node-monitor-grace-period=soon",
            "--horizontal-pod-autoscaler-tolerance=NaN",
        ] {
            assert!(settings(&[wrong]).is_err(), "{wrong}");
        }
    }
}
