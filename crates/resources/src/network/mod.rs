//! `network.yunfan.io/v1`: tenant networks. The cluster network is no object: it is there on each node.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod addresses;
mod dhcp;
mod forwarding;
mod pool;
mod qos;
mod router;
mod scope;
mod security;
mod share;

pub use addresses::{AddressGroup, AddressGroupSpec};
pub use dhcp::{DhcpOption, IpVersion};
pub use forwarding::{ForwardedProtocol, MOST_TRANSLATED, PortForwarding, PortRange};
pub use pool::{SubnetPool, SubnetPoolSpec};
pub use qos::{BandwidthLimit, MOST_BURST_KBITS, MOST_KBPS, QosPolicy, QosPolicySpec, QosRule, is_dscp};
pub use router::{
    ExternalNetwork, ExternalNetworkSpec, ExternalSubnet, FloatingIp, FloatingIpSpec, FloatingIpStatus,
    OuterDevice, ROUTER_INTERFACE, Router, RouterGateway, RouterSpec,
};

pub use scope::{AddressScope, AddressScopeSpec};
pub use security::{
    DEFAULT_GROUP, Direction, EtherType, RuleFault, SecurityGroup, SecurityGroupRule, SecurityGroupSpec,
    default_group,
};
pub use share::{
    EVERY_PROJECT, SHARED_LABEL, Share, Shared, is_shared_with, network_place, network_reference,
};

/// A tenant's own layer-2 network; isolated from every other one, so addresses may overlap.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "network.yunfan.io",
    version = "v1",
    kind = "Network",
    namespaced,
    doc = "A tenant's own layer-2 network.",
    status = "NetworkStatus",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"MTU","type":"integer","jsonPath":".spec.mtu"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Largest packet, bytes.
    #[serde(default = "mtu")]
    #[schemars(range(min = 68, max = 9000))]
    pub mtu: u32,
    /// Whether anything passes its ports; true when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_state_up: Option<bool>,
    /// What new ports that say nothing else have as [`PortSpec::port_security_enabled`]; true when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_security_enabled: Option<bool>,
    /// `metadata.name` of the QosPolicy of ports that have none of their own. A new Network of a project that has a default policy gets that;
    /// an empty name stands for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos_policy: Option<String>,
    /// Which other projects may have Ports on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 500))]
    pub shared_with: Vec<Share>,
    /// Free words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub tags: Vec<String>,
}

/// What became of a [`Network`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NetworkStatus {
    /// Names of the Nodes that have the network now, because a workload there is on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
}

/// What has free words to be found by: Neutron's tags.
pub trait Tagged {
    /// They, each once.
    fn tags(&self) -> &[String];
}

macro_rules! tagged {
    ($($kind:ty),* $(,)?) => {$(
        impl Tagged for $kind {
            fn tags(&self) -> &[String] {
                &self.spec.tags
            }
        }
    )*};
}
tagged!(
    AddressGroup,
    ExternalNetwork,
    FloatingIp,
    Network,
    Port,
    QosPolicy,
    Router,
    SecurityGroup,
    Subnet,
    SubnetPool
);

/// A range of addresses on a [`Network`].
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "network.yunfan.io",
    version = "v1",
    kind = "Subnet",
    namespaced,
    doc = "A range of addresses on a Network.",
    printcolumn = r#"{"name":"Display","type":"string","jsonPath":".spec.displayName"}"#,
    printcolumn = r#"{"name":"Network","type":"string","jsonPath":".spec.network"}"#,
    printcolumn = r#"{"name":"CIDR","type":"string","jsonPath":".spec.cidr"}"#,
    printcolumn = r#"{"name":"Gateway","type":"string","jsonPath":".spec.gatewayIp"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct SubnetSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// `metadata.name` of the Network, in the same namespace.
    pub network: String,
    /// Range of addresses, e.g. `10.10.0.0/24` (IPv4, at most /30) or `2001:db8:1::/64` (IPv6, /126 at most). Must not overlap the
    /// Service CIDR or another Subnet of the same Network.
    pub cidr: String,
    /// Address of the gateway, which also answers DNS; the first of the range when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway_ip: Option<String>,
    /// Addresses that ports are given; all but the gateway's, the network's and the broadcast address when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allocation_pools: Vec<AllocationPool>,
    /// Whether DHCP answers on the network; of IPv6, whether guests are told of addresses at all.
    #[serde(default = "yes")]
    pub enable_dhcp: bool,
    /// What router advertisements tell guests of IPv6; without it there are none. It can't be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ra_mode: Option<Ipv6Mode>,
    /// How guests come to have their addresses of IPv6; the same as `raMode` where both are given. It can't be changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_mode: Option<Ipv6Mode>,
    /// DNS servers told to guests in place of the gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns_nameservers: Vec<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// No default route is told to guests: the gateway's address is still that of DHCP, DNS and metadata.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_gateway: bool,
    /// Routes told to guests, and given to Pods, beside the default one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub host_routes: Vec<HostRoute>,
    /// Which Ports have addresses of it, by `deviceOwner`, e.g. `compute:nova`; all when it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(min = 1, max = 255)))]
    pub service_types: Vec<String>,
    /// `metadata.name` of the SubnetPool that the range is of, in the same namespace; one that is shared with the project as `NAMESPACE/NAME`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet_pool: Option<String>,
    /// Free words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub tags: Vec<String>,
}

/// How guests come to have addresses of IPv6, and what goes with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Ipv6Mode {
    /// They make their own, of the Subnet's range and their MAC address.
    #[serde(rename = "slaac")]
    Slaac,
    /// DHCPv6 gives them.
    #[serde(rename = "dhcpv6-stateful")]
    Stateful,
    /// They make their own, and ask DHCPv6 for the rest.
    #[serde(rename = "dhcpv6-stateless")]
    Stateless,
}

impl SubnetSpec {
    /// Whether addresses of the Subnet are made of MAC addresses.
    pub fn is_automatic(&self) -> bool {
        let makes = |mode: Option<Ipv6Mode>| matches!(mode, Some(Ipv6Mode::Slaac | Ipv6Mode::Stateless));
        makes(self.ra_mode) || makes(self.address_mode)
    }
}

/// The address of a range of IPv6 that is made of a MAC address (EUI-64); `None` if it is no such range or address.
pub fn automatic_address(range: Ipv6Net, mac: &str) -> Option<Ipv6Addr> {
    let bytes: Vec<u8> =
        mac.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect::<Option<_>>()?;
    let [a, b, c, d, e, f] = bytes[..] else { return None };
    let own = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    (range.prefix_len() == 64).then(|| Ipv6Addr::from_bits(range.network().to_bits() | u128::from(own)))
}

/// A route of a [`Subnet`]'s guests, or of a [`Router`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostRoute {
    /// The range that it leads to, e.g. `10.20.0.0/16`.
    pub destination: String,
    /// The address that it leads by.
    pub nexthop: String,
}

/// A run of addresses, both ends in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllocationPool {
    /// First address.
    pub start: String,
    /// Last address.
    pub end: String,
}

/// A workload's place on a [`Network`]: one MAC address and its IP addresses. It outlives the workload that
/// holds it. Addresses not given are filled in when the Port is created, in the same transaction that
/// claims them; two Ports of one Subnet never have the same address.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "network.yunfan.io",
    version = "v1",
    kind = "Port",
    namespaced,
    doc = "A workload's place on a Network: one MAC address and its IP addresses.",
    status = "PortStatus",
    printcolumn = r#"{"name":"Network","type":"string","jsonPath":".spec.network"}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.fixedIps[0].ip"}"#,
    printcolumn = r#"{"name":"MAC","type":"string","jsonPath":".spec.macAddress"}"#,
    printcolumn = r#"{"name":"Holder","type":"string","jsonPath":".spec.holder.name"}"#,
    printcolumn = r#"{"name":"Phase","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct PortSpec {
    /// Immutable id; the object's uid when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Free name that people read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// `metadata.name` of the Network, in the same namespace; one that is shared with the project as `NAMESPACE/NAME`.
    pub network: String,
    /// MAC address, six lower-case pairs with colons; chosen (prefix `fa:16:3e`) when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<String>,
    /// Addresses; one of IPv4 and one of IPv6 are chosen when none is given, of the Network's Subnets. Those that are made of the MAC
    /// address (`raMode` or `addressMode` of a Subnet is `slaac` or `dhcpv6-stateless`) are always there; Pods have IPv4 alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub fixed_ips: Vec<FixedIp>,
    /// The workload that holds the port; none while it is free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<PortHolder>,
    /// The host name that the network's DNS answers to with the port's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether anything passes the port at all; true when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin_state_up: Option<bool>,
    /// Whether the port is kept to its own addresses and to its security groups; true when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_security_enabled: Option<bool>,
    /// `metadata.name`s of the SecurityGroups whose rules say what passes; an empty list lets nothing pass. Where no list
    /// is given, as on Pods' ports, everything does: what Pods take is for NetworkPolicies to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub security_groups: Option<Vec<String>>,
    /// Addresses that the port may use beside its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// What uses a port that no workload holds: what OpenStack's clients wrote there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub device_id: Option<String>,
    /// See [`Self::device_id`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub device_owner: Option<String>,
    /// Where that is: what an admin wrote there. Of a port that a workload holds, its status tells the Node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub host: Option<String>,
    /// What DHCP tells the port's machine beside what it tells all, or in place of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub dhcp_options: Vec<DhcpOption>,
    /// `metadata.name` of the QosPolicy that holds for the port, in place of its Network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qos_policy: Option<String>,
    /// Free words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub tags: Vec<String>,
}

impl PortSpec {
    /// Whether the port is kept to its addresses and groups.
    pub fn is_secured(&self) -> bool {
        self.port_security_enabled.unwrap_or(true)
    }

    /// Whether a port of `namespace` is on the Network `name` of the namespace `owner`.
    pub fn is_on(&self, namespace: &str, owner: &str, name: &str) -> bool {
        network_place(namespace, &self.network) == (owner, name)
    }

    /// The groups of which the port is a member: those that it has, or, of a Pod's port that has no list, the project's
    /// default group. So machines with the default group take what Pods of the same project send them.
    pub fn memberships(&self) -> Vec<&str> {
        match &self.security_groups {
            Some(groups) => groups.iter().map(String::as_str).collect(),
            None if self.holder.as_ref().is_some_and(|holder| holder.kind == "Pod") => vec![DEFAULT_GROUP],
            None => Vec::new(),
        }
    }
}

/// Addresses that a [`Port`] may use beside its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AddressPair {
    /// An address, or a range such as `10.0.0.0/28` or `2001:db8:1::/80`.
    pub ip: String,
    /// The MAC address that goes with it; the port's own when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

/// One address of a [`Port`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FixedIp {
    /// `metadata.name` of the Subnet, in the Network's namespace; found by the address when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// IP address; the next free one of the Subnet when it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
}

/// The workload that holds a [`Port`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortHolder {
    /// `Pod` or `VirtualMachine`.
    pub kind: String,
    /// The workload's `metadata.name`.
    pub name: String,
    /// The workload's uid.
    pub uid: String,
}

/// What became of a [`Port`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortStatus {
    /// Where it stands.
    #[serde(default)]
    pub phase: PortPhase,
    /// Node that has it plugged in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Where a [`Port`] stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PortPhase {
    /// Not plugged in anywhere (Neutron: DOWN).
    #[default]
    Down,
    /// Plugged in on `status.node` (Neutron: ACTIVE).
    Active,
}

/// Name of the Port that the port loop makes for a workload: stable, so that making it twice is one Port.
/// `kind` is `Pod` or `VirtualMachine`; `index` is the interface's place in the workload.
pub fn workload_port(kind: &str, workload: &str, index: usize) -> String {
    let prefix = if kind == "Pod" { "pod" } else { "vm" };
    let mut name = format!("{prefix}-{workload}");
    name.truncate(248);
    format!("{name}-{index}")
}

fn mtu() -> u32 {
    1450
}

fn yes() -> bool {
    true
}
