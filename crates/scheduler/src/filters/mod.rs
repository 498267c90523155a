//! Which nodes a workload can be on at all.

mod claims;
mod devices;
mod machines;
mod node;
mod peers;
mod ports;
mod resources;
mod volumes;

pub use claims::VolumeBinding;
pub use devices::DynamicResources;
pub use machines::{
    AvailabilityZone, BY_OTHERS, DifferentHost, RequestedHost, SameHost, ServerGroupAffinity,
    ServerGroupAntiAffinity, SimpleCidrAffinity,
};
pub(crate) use node::selects_node;
pub use node::{NodeAffinity, NodeReady, NodeUnschedulable, TaintToleration};
pub use peers::{InterPodAffinity, PodTopologySpread};
pub use ports::NodePorts;
pub use resources::NodeResourcesFit;
pub use volumes::VolumeNode;

use crate::engine::{Cycle, Reasons};

/// One condition that a node must meet.
pub trait Filter: Send + Sync {
    /// Its name, Kubernetes' where Kubernetes has it.
    fn name(&self) -> &'static str;

    /// Whether the node in `row` meets it; if not, it says why in `reasons`.
    fn check<'a>(&self, cycle: &Cycle<'a>, row: usize, reasons: &mut Reasons<'a>) -> bool;

    /// Whether a node in `row` that it refused may meet it when Pods are gone from there.
    fn may_be_cleared(&self, _cycle: &Cycle<'_>, _row: usize) -> bool {
        false
    }
}

/// The filters of a cloud. A node is counted under the first that refuses it.
pub fn standard() -> Vec<Box<dyn Filter>> {
    vec![
        Box::new(NodeUnschedulable),
        Box::new(NodeReady),
        Box::new(TaintToleration),
        Box::new(NodeAffinity),
        Box::new(NodePorts),
        Box::new(VolumeNode),
        Box::new(VolumeBinding),
        Box::new(DynamicResources),
        Box::new(NodeResourcesFit),
        Box::new(PodTopologySpread),
        Box::new(InterPodAffinity),
        Box::new(RequestedHost),
        Box::new(AvailabilityZone),
        Box::new(SimpleCidrAffinity),
        Box::new(DifferentHost),
        Box::new(SameHost),
        Box::new(ServerGroupAffinity),
        Box::new(ServerGroupAntiAffinity),
    ]
}
