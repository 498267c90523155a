//! The metadata service at 169.254.169.254: what a guest asks about itself when it boots.
//!
//! Who asks is known by the source address, which the port's rules keep honest.

mod drive;
mod ec2;
mod openstack;
mod server;

pub use drive::{DRIVE_LABEL, config_drive};
pub(crate) use server::serve;

use crate::six::Subnet6Config;
use crate::types::{Mac, SubnetConfig};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The address of the service in every tenant network.
pub(crate) const ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Knows the guests; implemented by the agent.
#[async_trait::async_trait]
pub trait MetadataProvider: Send + Sync + 'static {
    /// The guest that holds `source` on the network, `None` if there is none.
    async fn lookup(&self, network_uid: &str, source: Ipv4Addr) -> Option<GuestData>;
}

/// What a guest is told about itself.
#[derive(Debug, Clone, Default)]
pub struct GuestData {
    /// The VM's id.
    pub instance_id: String,
    /// The host name, one label.
    pub hostname: String,
    /// The display name.
    pub name: String,
    /// The project's id.
    pub project_id: String,
    /// Public keys as (key pair's name, OpenSSH line).
    pub public_keys: Vec<(String, String)>,
    /// The user's data, as given (not base64).
    pub user_data: Option<Vec<u8>>,
    /// Files that it is to have, each with its path.
    pub files: Vec<(String, Vec<u8>)>,
    /// The availability zone; empty = `yunfan`.
    pub availability_zone: String,
    /// The user's key-value pairs.
    pub meta: BTreeMap<String, String>,
    /// The guest's address on this network.
    pub local_ipv4: Option<Ipv4Addr>,
    /// The guest's MAC on this network.
    pub mac: Option<Mac>,
    /// The flavor's name.
    pub instance_type: String,
    /// Its network cards, in their order.
    pub links: Vec<GuestLink>,
    /// Those of its disks that have tags.
    pub disks: Vec<GuestDisk>,
}

/// One of a guest's network cards.
#[derive(Debug, Clone)]
pub struct GuestLink {
    /// The Port's id.
    pub id: String,
    /// Its address on the wire.
    pub mac: Mac,
    /// The largest packet, bytes.
    pub mtu: u32,
    /// The network's id.
    pub network: String,
    /// Its addresses, each with its subnet.
    pub addresses: Vec<(Ipv4Addr, SubnetConfig)>,
    /// Those of IPv6.
    pub addresses6: Vec<(Ipv6Addr, Subnet6Config)>,
    /// What its user calls it.
    pub tag: Option<String>,
}

/// One of a guest's disks.
#[derive(Debug, Clone)]
pub struct GuestDisk {
    /// Its serial number, of which guests see the first twenty letters.
    pub serial: String,
    /// Where the guest is likely to see it.
    pub path: Option<String>,
    /// What its user calls it.
    pub tag: String,
}
