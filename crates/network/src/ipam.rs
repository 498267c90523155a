//! Addresses of the node's own slice of the cluster network, one per pod.

use crate::error::{NetworkError, Result};
use crate::state::SavedAddresses;
use ipnet::Ipv4Net;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The allocator. It hands addresses out in a ring, so that one just released is not given to another pod at once.
#[derive(Debug, Default)]
pub(crate) struct Ipam {
    by_pod: SavedAddresses,
    taken: BTreeSet<Ipv4Addr>,
    last: Option<Ipv4Addr>,
}

impl Ipam {
    pub(crate) fn new(by_pod: SavedAddresses) -> Self {
        let taken: BTreeSet<_> = by_pod.values().copied().collect();
        let last = taken.last().copied();
        Self { by_pod, taken, last }
    }

    /// The pod's address: the one it has, else the next free one after the last that was given out.
    /// The first address of the slice is the gateway's.
    pub(crate) fn allocate(&mut self, slice: Ipv4Net, pod_uid: &str) -> Result<Ipv4Addr> {
        if let Some(had) = self.by_pod.get(pod_uid).filter(|ip| slice.contains(*ip)) {
            return Ok(*had);
        }
        let first = u32::from(slice.network()).saturating_add(2);
        let end = u32::from(slice.broadcast());
        let size = end.saturating_sub(first);
        let after = self.last.map_or(first, |ip| u32::from(ip).wrapping_add(1));
        let start = if (first..end).contains(&after) { after - first } else { 0 };
        let free = (0..size)
            .map(|step| Ipv4Addr::from(first + (start + step) % size))
            .find(|ip| !self.taken.contains(ip));
        let Some(ip) = free else {
            return Err(NetworkError::Exhausted { cidr: slice.to_string(), used: self.taken.len() });
        };
        if let Some(old) = self.by_pod.insert(pod_uid.to_owned(), ip) {
            self.taken.remove(&old);
        }
        self.taken.insert(ip);
        self.last = Some(ip);
        Ok(ip)
    }

    /// Gives the pod's address back; `false` = it had none.
    pub(crate) fn release(&mut self, pod_uid: &str) -> bool {
        match self.by_pod.remove(pod_uid) {
            Some(ip) => self.taken.remove(&ip),
            None => false,
        }
    }

    pub(crate) fn saved(&self) -> &SavedAddresses {
        &self.by_pod
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_is_handed_out_whole_then_refused_then_reused() {
        let slice: Ipv4Net = "10.244.3.0/29".parse().unwrap();
        let mut ipam = Ipam::default();
        let given: Vec<_> =
            (0..5).map(|n| ipam.allocate(slice, &format!("pod{n}")).unwrap().to_string()).collect();
        assert_eq!(given, ["10.244.3.2", "10.244.3.3", "10.244.3.4", "10.244.3.5", "10.244.3.6"]);
        assert!(matches!(ipam.allocate(slice, "pod5"), Err(NetworkError::Exhausted { used: 5, .. })));
        assert_eq!(
            ipam.allocate(slice, "pod2").unwrap().to_string(),
            "10.244.3.4",
            "the same pod keeps its address"
        );
        assert!(ipam.release("pod1"));
        assert!(!ipam.release("pod1"));
        assert_eq!(ipam.allocate(slice, "pod5").unwrap().to_string(), "10.244.3.3");
    }

    #[test]
    fn a_released_address_rests_while_others_are_free() {
        let slice: Ipv4Net = "10.0.0.0/24".parse().unwrap();
        let mut ipam = Ipam::default();
        ipam.allocate(slice, "a").unwrap();
        ipam.release("a");
        assert_eq!(ipam.allocate(slice, "b").unwrap().to_string(), "10.0.0.3");
        let again = Ipam::new(ipam.saved().clone());
        assert_eq!(again.saved().len(), 1);
    }
}
