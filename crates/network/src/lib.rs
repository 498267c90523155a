//! The networks of one node: namespaces, ports, rules, virtual IPs, DNS, DHCP, metadata.
//!
//! **Owns**: every network namespace, link, route and nftables table of this cloud on this host, the
//! node's slice of the cluster network's addresses, and the small servers inside each network.
//!
//! **Must never know**: the registry, its objects, or why a network or a port should exist. It is told
//! by the agent, and it can be told again: every call is idempotent, and what an earlier process left
//! behind is found again at [`NodeNetworks::open`].
//!
//! Every network on a node, the cluster network too, is one network namespace with one bridge. So CIDRs
//! may overlap, connection tracking is per network, and the host keeps one veth for the whole cloud.
//!
//! Start reading at [`NodeNetworks`], then `namespace` (how code gets into a namespace), then `ports`
//! (why a workload cannot use another's address), `firewall` (what passes) and `services` (virtual IPs).
#![deny(unsafe_code)]

mod advert;
mod attach;
mod bridge;
mod check;
mod conntrack;
mod dhcp;
mod dns;
mod doors;
mod error;
mod firewall;
mod forwards;
mod ipam;
mod metadata;
mod names;
mod namespace;
mod netlink;
mod netlink6;
mod network;
mod nft;
mod node;
mod ports;
mod qos;
mod relay;
mod router;
mod router6;
mod routers;
mod servers;
mod services;
mod six;
mod state;
mod sys;
mod teardown;
mod types;
mod uplink;
mod view;

pub use dhcp::ExtraOption;
pub use error::{NetworkError, Result};
pub use metadata::{DRIVE_LABEL, GuestData, GuestDisk, GuestLink, MetadataProvider, config_drive};
pub use node::NodeNetworks;
pub use six::{AddressMode, Subnet6Config};
pub use teardown::{teardown, what_remains};
pub use types::*;
