//! Filters by what a VirtualMachine says of its place: Nova's, by Nova's names.

use std::net::IpAddr;

use yunfan_resources::compute::{GroupPolicy, VmPlacement};
use yunfan_resources::names::ZONE_LABEL;

use super::Filter;
use crate::engine::{Cycle, Reason, Reasons};
use crate::workload::Object;

/// The zone of nodes that have no label for one.
const DEFAULT_ZONE: &str = "nova";

fn placement<'a>(cycle: &Cycle<'a>) -> Option<&'a VmPlacement> {
    match &cycle.workload.object {
        Object::VirtualMachine(vm) => vm.spec.placement.as_ref(),
        _ => None,
    }
}

/// A filter that is one condition on a machine's placement and a node.
macro_rules! filters {
    ($($(#[$doc:meta])* $name:ident, $word:literal, $why:literal, $fine:expr;)*) => {$(
        $(#[$doc])*
        pub struct $name;

        impl $name {
            /// Its name.
            pub const NAME: &'static str = $word;
        }

        impl Filter for $name {
            fn name(&self) -> &'static str {
                Self::NAME
            }

            fn check<'a>(&self, cycle: &Cycle<'a>, row: usize, reasons: &mut Reasons<'a>) -> bool {
                let Some(placement) = placement(cycle) else { return true };
                let check: fn(&Cycle<'a>, &VmPlacement, usize) -> bool = $fine;
                let fine = check(cycle, placement, row);
                if !fine {
                    reasons.add(Reason::Text($why));
                }
                fine
            }
        }
    )*};
}

filters! {
    /// Refuses nodes that are not the one that an administrator named.
    RequestedHost, "RequestedHost", "node(s) were not the requested host",
    |cycle, placement, row| placement.node.as_ref().is_none_or(|node| cycle.snapshot.names[row] == *node);

    /// Refuses nodes outside of the availability zone that was asked for.
    AvailabilityZone, "AvailabilityZoneFilter", "node(s) were in another availability zone",
    |cycle, placement, row| placement.zone.as_ref().is_none_or(|zone| {
        let label = cycle.snapshot.labels[row].get(ZONE_LABEL).map_or(DEFAULT_ZONE, String::as_str);
        label == zone
    });

    /// Refuses nodes that hold one of certain other machines.
    DifferentHost, "DifferentHostFilter", "node(s) held a server that it must be apart from",
    |cycle, _, row| cycle.machines.as_ref().is_none_or(|near| !near.different.contains(&row));

    /// Refuses nodes that hold none of certain other machines.
    SameHost, "SameHostFilter", "node(s) held no server that it must be with",
    |cycle, placement, row| {
        placement.same_node.is_empty() || cycle.machines.as_ref().is_some_and(|near| near.same.contains(&row))
    };

    /// Refuses nodes whose own address is outside of a range.
    SimpleCidrAffinity, "SimpleCIDRAffinityFilter", "node(s) were not near the given address",
    |cycle, placement, row| placement.node_cidr.as_ref().is_none_or(|cidr| {
        cycle.snapshot.addresses[row].is_some_and(|address| contains(cidr, address))
    });

    /// Refuses nodes other than the one that a machine's group is on.
    ServerGroupAffinity, "ServerGroupAffinityFilter", "node(s) did not hold the server group",
    |cycle, placement, row| {
        let Some(near) = cycle.machines.as_ref() else { return true };
        placement.policy != Some(GroupPolicy::Affinity) || near.group.is_empty() || near.group.contains_key(&row)
    };

    /// Refuses nodes that hold as many of a machine's group as may share one.
    ServerGroupAntiAffinity, "ServerGroupAntiAffinityFilter", "node(s) held the server group already",
    |cycle, placement, row| {
        let Some(near) = cycle.machines.as_ref() else { return true };
        let held = near.group.get(&row).copied().unwrap_or(0);
        placement.policy != Some(GroupPolicy::AntiAffinity) || held < placement.max_per_node.unwrap_or(1)
    };
}

/// Names of those that may let a machine through when another comes or goes.
pub const BY_OTHERS: [&str; 4] =
    [DifferentHost::NAME, SameHost::NAME, ServerGroupAffinity::NAME, ServerGroupAntiAffinity::NAME];

/// Whether a range `ADDRESS/BITS` has an address in it; a range that can't be read has none.
fn contains(cidr: &str, address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)), 32_u32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    };
    let Some((base, length)) = cidr.split_once('/') else { return false };
    let (Ok(base), Ok(length)) = (base.parse::<IpAddr>(), length.parse::<u32>()) else { return false };
    let ((base, width), (own, own_width)) = (bits(base), bits(address));
    if width != own_width || length > width {
        return false;
    }
    let below = width - length;
    below >= 128 || base >> below == own >> below
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, from_value, json};
    use yunfan_resources::compute::VirtualMachine;

    use super::*;
    use crate::SchedulerConfig;
    use crate::engine::Engine;
    use crate::engine::testing::node;
    use crate::snapshot::Snapshot;
    use crate::workload::Workload;

    fn machine(id: &str, placement: Value) -> Arc<Workload> {
        let vm: VirtualMachine = from_value(json!({
            "apiVersion": "compute.yunfan.io/v1", "kind": "VirtualMachine",
            "metadata": {"name": id, "namespace": "demo", "uid": id},
            "spec": {"flavor": "f", "resources": {"vcpus": 1, "memoryMib": 64}, "placement": placement},
        }))
        .unwrap();
        Arc::new(Workload::from_vm(&Arc::new(vm), &SchedulerConfig::default()))
    }

    fn nodes() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for (name, zone, address) in [("n0", None, "10.0.0.1"), ("n1", Some("east"), "10.0.1.1")] {
            let mut node = node(name, "4", "8Gi");
            node.metadata.labels = zone.map(|zone: &str| [(ZONE_LABEL.to_owned(), zone.to_owned())].into());
            node.status.as_mut().unwrap().addresses =
                from_value(json!([{"type": "InternalIP", "address": address}])).unwrap();
            snapshot.set_node(&node);
        }
        snapshot
    }

    fn rows(snapshot: &Snapshot, placement: Value) -> Vec<usize> {
        let engine = Engine::default();
        let workload = machine("new", placement);
        (0..snapshot.rows()).filter(|row| engine.fits(snapshot, &workload, *row).is_ok()).collect()
    }

    #[test]
    fn zones_hosts_and_addresses_choose_nodes() {
        let snapshot = nodes();
        assert_eq!(rows(&snapshot, json!({})), [0, 1]);
        assert_eq!(rows(&snapshot, json!({"zone": "east"})), [1]);
        assert_eq!(rows(&snapshot, json!({"zone": "nova"})), [0]);
        assert_eq!(rows(&snapshot, json!({"node": "n0"})), [0]);
        assert_eq!(rows(&snapshot, json!({"nodeCidr": "10.0.1.7/24"})), [1]);
        assert_eq!(rows(&snapshot, json!({"nodeCidr": "10.0.1.7/8"})), [0, 1]);
        assert!(rows(&snapshot, json!({"nodeCidr": "fd00::1/8"})).is_empty());
    }

    #[test]
    fn machines_are_kept_together_and_apart() {
        let mut snapshot = nodes();
        snapshot.assume(machine("a", json!({})), 0);
        assert_eq!(rows(&snapshot, json!({"differentNode": ["a"]})), [1]);
        assert_eq!(rows(&snapshot, json!({"sameNode": ["a"]})), [0]);
        assert!(rows(&snapshot, json!({"sameNode": ["gone"]})).is_empty());
    }

    #[test]
    fn groups_keep_to_their_policy() {
        let of = |policy: &str| json!({"group": "g", "policy": policy});
        for (policy, free, held) in [
            ("Affinity", vec![0, 1], vec![0]),
            ("AntiAffinity", vec![0, 1], vec![1]),
            ("SoftAffinity", vec![0, 1], vec![0, 1]),
        ] {
            let mut snapshot = nodes();
            assert_eq!(rows(&snapshot, of(policy)), free, "{policy}");
            snapshot.assume(machine("a", of(policy)), 0);
            assert_eq!(rows(&snapshot, of(policy)), held, "{policy}");
        }
        let mut snapshot = nodes();
        let two = || json!({"group": "g", "policy": "AntiAffinity", "maxPerNode": 2});
        snapshot.assume(machine("a", two()), 0);
        assert_eq!(rows(&snapshot, two()), [0, 1]);
        snapshot.assume(machine("b", two()), 0);
        assert_eq!(rows(&snapshot, two()), [1]);
    }

    #[test]
    fn soft_policies_lead_without_forbidding() {
        let mut snapshot = nodes();
        let of = |policy: &str| json!({"group": "g", "policy": policy});
        snapshot.assume(machine("a", of("SoftAffinity")), 1);
        for _ in 0..4 {
            assert_eq!(Engine::default().place(&snapshot, &machine("b", of("SoftAffinity"))).unwrap(), 1);
            assert_eq!(Engine::default().place(&snapshot, &machine("b", of("SoftAntiAffinity"))).unwrap(), 0);
        }
    }
}
