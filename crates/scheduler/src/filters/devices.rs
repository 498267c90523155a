//! The filter by the devices that a Pod claims (dynamic resource allocation, Kubernetes KEP-4381).

use super::Filter;
use crate::engine::{Cycle, Reason, Reasons};
use crate::workload::Object;

/// Refuses every node to a Pod that claims devices: there is nobody who allocates them, and without them it must not run. Schedulers
/// that do can place it under their own names.
pub struct DynamicResources;

impl Filter for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn check<'a>(&self, cycle: &Cycle<'a>, _row: usize, reasons: &mut Reasons<'a>) -> bool {
        let Object::Pod(pod) = &cycle.workload.object else { return true };
        let claims = pod.spec.as_ref().and_then(|spec| spec.resource_claims.as_ref());
        let fine = claims.is_none_or(Vec::is_empty);
        if !fine {
            reasons.add(Reason::Text("cannot allocate all claims"));
        }
        fine
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::engine::Engine;
    use crate::engine::testing::{node, pod_with};
    use crate::snapshot::Snapshot;

    #[test]
    fn what_claims_devices_is_placed_nowhere() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(&node("n1", "4", "8Gi"));
        let mut engine = Engine::default();
        let mut place = |claims| {
            engine.place(&snapshot, &pod_with("p", json!({"containers": [], "resourceClaims": claims})))
        };
        let refusal = place(json!([{"name": "gpu", "resourceClaimTemplateName": "gpus"}])).unwrap_err();
        assert_eq!(refusal.message, "0/1 nodes are available: 1 cannot allocate all claims.");
        assert!(place(json!([])).is_ok());
    }
}
