//! Services' addresses: one nftables table per network, rendered whole and replaced in one transaction.
//!
//! A packet's (address, protocol, port) is looked up in one map, which jumps to the Service port's chain; that
//! picks a target at random, or the one that the client had. Connection tracking does the rest, and the client's
//! address is kept. What is addressed to a virtual IP that has no target here is rejected, so that clients fail at once.
//!
//! The cluster network also answers for the node's own addresses: pods are led from there to node ports and host ports
//! without leaving the network, and the host hands over what comes to it from elsewhere (`doors`).

mod render;

pub(crate) use render::render;

use crate::types::HostPort;
use crate::view::ServiceBook;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

/// What a rendering depends on besides Services and members.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) service_cidr: Ipv4Net,
    /// Virtual addresses that the network answers itself.
    pub(crate) own: Vec<Ipv4Addr>,
    /// The network's own address, used as the source where the answer could not find its way back.
    pub(crate) gateway: Ipv4Addr,
    /// Whether connection tracking sees packets that are bridged, not routed.
    pub(crate) bridged_tracking: bool,
    /// The way in from the host: the cluster network has one, tenants' networks don't.
    pub(crate) entrance: Option<Entrance>,
}

/// The way from the host into the cluster network.
#[derive(Debug, Clone)]
pub(crate) struct Entrance {
    /// The cluster network's end of the uplink: the host sends node ports there.
    pub(crate) uplink: Ipv4Addr,
    /// The host's addresses, as pods know it.
    pub(crate) nodes: Vec<Ipv4Addr>,
    /// Range of all nodes' pods: they are inside, wherever they come from.
    pub(crate) cluster_cidr: Ipv4Net,
    /// The node's slice of it.
    pub(crate) node_cidr: Ipv4Net,
    /// Host ports, and the pods that they lead to.
    pub(crate) host_ports: Vec<(HostPort, Ipv4Addr)>,
}

/// Addresses and UDP ports with the targets that they lead to: what connection tracking remembers beside that is stale.
pub(crate) type UdpTargets = BTreeMap<(Ipv4Addr, u16), BTreeSet<(Ipv4Addr, u16)>>;

/// The ports of nodes that Services have, by protocol.
pub(crate) fn node_ports(book: &ServiceBook) -> BTreeSet<(&'static str, u16)> {
    let ports = book.rules.iter().flat_map(|rule| &rule.ports);
    ports.filter_map(|port| Some((port.protocol.as_str(), port.node_port?))).collect()
}

/// A fingerprint of a text (FNV-1a), to know that nothing changed, and for names that stay the same over restarts.
pub(crate) fn fingerprint(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
