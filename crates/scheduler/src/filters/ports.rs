//! The filter by ports of the host.

use super::Filter;
use crate::engine::{Cycle, Reason, Reasons};

/// Refuses nodes where another Pod has a port of the host that the Pod wants.
pub struct NodePorts;

impl NodePorts {
    /// Its name: a Pod that goes may help what it refused.
    pub const NAME: &'static str = "NodePorts";
}

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        Self::NAME
    }

    fn check<'a>(&self, cycle: &Cycle<'a>, row: usize, reasons: &mut Reasons<'a>) -> bool {
        let wanted = &cycle.workload.host_ports;
        if wanted.is_empty() {
            return true;
        }
        let here = cycle.snapshot.pods_with_host_ports().filter(|(at, _)| *at == row);
        let mut held = here.flat_map(|(_, other)| &other.host_ports);
        let taken = held.any(|held| wanted.iter().any(|wanted| wanted.clashes(held)));
        if taken {
            reasons.add(Reason::Text("node(s) didn't have free ports for the requested pod ports"));
        }
        !taken
    }

    fn may_be_cleared(&self, _cycle: &Cycle<'_>, _row: usize) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::engine::Engine;
    use crate::engine::testing::{node, pod_with};
    use crate::snapshot::Snapshot;

    fn wishing(name: &str, port: Value) -> std::sync::Arc<crate::workload::Workload> {
        pod_with(name, json!({"containers": [{"name": "c", "ports": [port]}]}))
    }

    #[test]
    fn a_port_of_a_host_is_had_once_by_address_and_protocol() {
        let mut snapshot = Snapshot::default();
        snapshot.set_node(&node("n1", "4", "8Gi"));
        let mut engine = Engine::default();
        let port = |ip: &str, protocol: &str| json!({"hostPort": 80, "hostIP": ip, "protocol": protocol, "containerPort": 1});
        snapshot.assume(wishing("one", port("127.0.0.1", "TCP")), 0);
        for (ip, protocol, fits) in [
            ("127.0.0.1", "TCP", false),
            ("", "TCP", false),
            ("0.0.0.0", "TCP", false),
            ("192.0.2.1", "TCP", true),
            ("127.0.0.1", "UDP", true),
        ] {
            let placed = engine.place(&snapshot, &wishing("next", port(ip, protocol)));
            assert_eq!(placed.is_ok(), fits, "{ip} {protocol}");
        }
        let refusal = engine.place(&snapshot, &wishing("next", port("", "TCP"))).unwrap_err();
        let want = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
        assert_eq!(refusal.message, want);
        assert_eq!(refusal.filters, engine.bit("NodePorts"));
        snapshot.remove("one");
        assert_eq!(engine.place(&snapshot, &wishing("next", port("", "TCP"))).unwrap(), 0);
    }
}
