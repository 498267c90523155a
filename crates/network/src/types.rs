//! What the agent says to this crate, and what it gets back. Plain data, serde both ways.

use crate::dhcp::ExtraOption;
use crate::error::NetworkError;
use crate::six::Subnet6Config;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::str::FromStr;

/// How this node's networks are opened.
#[derive(Debug, Clone)]
pub struct Config {
    /// The cloud's instance tag: 6 lower-case hex digits; every name on the host carries it.
    pub tag: String,
    /// Directory of this crate's small JSON files; made if it is missing, mode 0700.
    pub state_dir: PathBuf,
    /// Range of Services' virtual addresses; no subnet may overlap it.
    pub service_cidr: Ipv4Net,
    /// Range of all nodes' pods.
    pub cluster_cidr: Ipv4Net,
    /// The cluster DNS address inside `service_cidr`; answered in every network.
    pub cluster_dns: Ipv4Addr,
    /// The API server, reached in every network; none where workloads have no way to it.
    pub api: Option<ApiServer>,
    /// The cluster domain without a trailing dot, such as `cluster.local`.
    pub domain: String,
}

/// The API server, as workloads reach it.
#[derive(Debug, Clone)]
pub struct ApiServer {
    /// Its address inside `service_cidr`. What comes to port 443 of it in any network is carried to `server`.
    pub address: Ipv4Addr,
    /// Host and port, as this host reaches it.
    pub server: String,
}

impl Config {
    /// The virtual addresses that every network answers itself.
    pub(crate) fn own_addresses(&self) -> Vec<Ipv4Addr> {
        let api = self.api.iter().map(|api| api.address);
        std::iter::once(self.cluster_dns).chain(api).collect()
    }
}

/// A 48-bit Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// A locally administered unicast address made from four bytes, such as those of an IPv4 address.
    pub fn from_ip(ip: Ipv4Addr) -> Self {
        let o = ip.octets();
        Self([0x02, 0x59, o[0], o[1], o[2], o[3]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let m = self.0;
        write!(f, "{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", m[0], m[1], m[2], m[3], m[4], m[5])
    }
}

impl FromStr for Mac {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError::invalid("mac", format!("{text:?} is not of the form 02:00:00:00:00:01"));
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|p| p.len() == 2).ok_or_else(wrong)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        if bytes[0] & 1 == 1 || bytes == [0; 6] {
            return Err(NetworkError::invalid(
                "mac",
                format!("{text:?} is a group address or zero; a port needs a unicast one"),
            ));
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = NetworkError;
    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

/// One network as it should be on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// The Network object's uid; for the cluster network any constant such as `cluster`.
    pub uid: String,
    /// The Network's name: a label in DNS names of its members.
    pub name: String,
    /// The tenant's namespace: the next label.
    pub namespace: String,
    /// The cluster's own network, or a tenant's.
    pub kind: NetworkKind,
    /// For a tenant network its subnets (at most 16). For the cluster network it may be empty: the node's slice is the subnet, its first address the gateway.
    pub subnets: Vec<SubnetConfig>,
    /// Those of a tenant network that have addresses of IPv6; it has one subnet at least, of either kind.
    #[serde(default)]
    pub subnets6: Vec<Subnet6Config>,
    /// MTU of the bridge, the ports and what DHCP tells.
    pub mtu: u32,
}

/// What sort of network it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkKind {
    /// The cluster network: reachable from the host, with a way out.
    Cluster {
        /// This node's slice of the cluster CIDR.
        node_cidr: Ipv4Net,
    },
    /// A tenant's isolated network with DHCP, DNS and metadata; its CIDR may overlap any other.
    Tenant,
}

/// One subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetConfig {
    /// The range of the subnet.
    pub cidr: Ipv4Net,
    /// The gateway's address in it: held by the bridge, answers DNS.
    pub gateway: Ipv4Addr,
    /// Whether DHCP answers ports of this subnet.
    pub dhcp: bool,
    /// Resolvers told to clients; empty = the gateway.
    pub dns_servers: Vec<Ipv4Addr>,
    /// Whether clients are told no default route.
    #[serde(default)]
    pub isolated: bool,
    /// Further routes of clients: ranges, and the addresses by which they are reached.
    #[serde(default)]
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
}

/// A Port of a network, wherever its workload runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The Port's uid (for a pod on the cluster network, the pod's).
    pub port_uid: String,
    /// Its address on the wire.
    pub mac: Mac,
    /// Its fixed addresses.
    pub ips: Vec<Ipv4Addr>,
    /// Those of IPv6.
    #[serde(default)]
    pub ips6: Vec<Ipv6Addr>,
    /// Its host name: one DNS label; empty = no name.
    pub hostname: String,
    /// The workload that holds the port, empty when it is free.
    pub workload_uid: String,
    /// What DHCP tells it beside what it tells all.
    #[serde(default)]
    pub options: Vec<ExtraOption>,
}

/// What the ports of a network may say and hear.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Each port of the network, on whatever node, that there is anything to say about.
    pub guards: Vec<Guard>,
    /// The groups that the ports have, and those that their rules speak of.
    pub groups: Vec<RuleGroup>,
}

impl Policy {
    /// Nothing passes from or to these.
    pub(crate) fn closed(attachments: &[Attachment]) -> Self {
        let guards = attachments.iter().map(|attachment| Guard {
            port_uid: attachment.port_uid.clone(),
            mac: attachment.mac,
            ips: attachment.ips.clone(),
            ips6: attachment.ips6.clone(),
            up: false,
            secured: true,
            pairs: Vec::new(),
            pairs6: Vec::new(),
            behind: Vec::new(),
            groups: None,
            qos: Qos::default(),
        });
        Self { guards: guards.collect(), groups: Vec::new() }
    }
}

/// What one port may say and hear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// The Port's uid.
    pub port_uid: String,
    /// Its MAC.
    pub mac: Mac,
    /// Its addresses.
    pub ips: Vec<Ipv4Addr>,
    /// Those of IPv6.
    #[serde(default)]
    pub ips6: Vec<Ipv6Addr>,
    /// Whether anything passes at all.
    pub up: bool,
    /// Whether it is kept to its addresses and groups.
    pub secured: bool,
    /// Further addresses, with the MAC that goes with each; its own where there is none.
    pub pairs: Vec<(Ipv4Net, Option<Mac>)>,
    /// Those of IPv6.
    #[serde(default)]
    pub pairs6: Vec<(Ipv6Net, Option<Mac>)>,
    /// Ranges that routers lead to by way of it: its groups hold for what is routed there.
    #[serde(default)]
    pub behind: Vec<Ipv4Net>,
    /// Uids of its groups: what none of their rules lets pass is dropped. `None` = everything passes.
    pub groups: Option<Vec<String>>,
    /// How much may come to it and leave it, and how its packets are marked.
    #[serde(default)]
    pub qos: Qos,
}

/// How much may come to a port and leave it, and how its packets are marked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qos {
    /// What may come to the port.
    pub ingress: Option<Rate>,
    /// What may leave it.
    pub egress: Option<Rate>,
    /// The DSCP of what leaves it.
    pub dscp: Option<u8>,
}

/// How much may pass; what is more is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bytes a second.
    pub bytes: u64,
    /// Bytes that may pass at once after a time in which less did. What passes within a second, and one large packet, always may.
    pub burst: u32,
}

/// Rules that ports share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleGroup {
    /// Names it in guards and rules.
    pub uid: String,
    /// Addresses of its members, on whatever network.
    pub members: Vec<Ipv4Net>,
    /// Those of IPv6.
    #[serde(default)]
    pub members6: Vec<Ipv6Net>,
    /// What may pass.
    pub rules: Vec<Rule>,
    /// Answers pass only where a rule lets them: on the ports that have it, whatever others they have.
    #[serde(default)]
    pub stateless: bool,
}

/// Something that may pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// To the port, or from it.
    pub ingress: bool,
    /// Whether it is about IPv6: else it is about IPv4.
    #[serde(default)]
    pub v6: bool,
    /// Which packets.
    pub matches: RuleMatch,
    /// Who is at the other end.
    pub peer: RulePeer,
}

/// Which packets a [`Rule`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleMatch {
    /// All.
    Any,
    /// Those of the protocol with this number.
    Protocol(u8),
    /// Those to a port of a range, of the protocol with this number, which has ports.
    Ports(u8, u16, u16),
    /// ICMP of this type and, if given, code; of IPv6 where the rule is.
    Icmp(u8, Option<u8>),
}

/// The other end of what a [`Rule`] lets pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RulePeer {
    /// Anybody.
    Any,
    /// An address of the range.
    Range(Ipv4Net),
    /// An address of the range, of a rule that is about IPv6.
    Range6(Ipv6Net),
    /// A member of the group with this uid.
    Group(String),
}

/// A router as it should be on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterConfig {
    /// The Router's uid.
    pub uid: String,
    /// The networks that it joins, each once.
    pub interfaces: Vec<RouterInterface>,
    /// The way out, if there is one.
    pub external: Option<ExternalSide>,
    /// Ranges behind members of its networks, and the members' addresses. Those whose member's network is not here lead nowhere.
    pub routes: Vec<(Ipv4Net, Ipv4Addr)>,
}

/// A router's place on a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouterInterface {
    /// The Network's uid.
    pub network_uid: String,
    /// The ranges of the network that the router leads to.
    pub subnets: Vec<Ipv4Net>,
    /// The router's addresses there.
    pub addresses: Vec<Ipv4Addr>,
    /// The ranges of IPv6.
    pub subnets6: Vec<Ipv6Net>,
    /// The router's addresses of IPv6, but for gateways'.
    pub addresses6: Vec<Ipv6Addr>,
    /// In which scopes its addresses of IPv4 and of IPv6 are.
    pub scopes: [Option<String>; 2],
}

/// A router's way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalSide {
    /// The router's own outer address.
    pub address: Ipv4Addr,
    /// Whether what has no outer address of its own goes out under the router's.
    pub snat: bool,
    /// Outer addresses that stand for inner ones.
    pub floating: Vec<FloatingAddress>,
    /// Single ports of outer addresses that lead to inner ones.
    pub forwards: Vec<PortForward>,
}

/// Ports of an outer address that lead to those of an inner one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortForward {
    /// The outer address.
    pub address: Ipv4Addr,
    /// What is forwarded.
    pub protocol: Protocol,
    /// The first and the last of its ports.
    pub outer: (u16, u16),
    /// The inner address.
    pub fixed: Ipv4Addr,
    /// The first and the last of its ports: as many, or one.
    pub inner: (u16, u16),
}

/// An outer address that stands for an inner one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloatingAddress {
    /// The outer address.
    pub address: Ipv4Addr,
    /// The inner one.
    pub fixed: Ipv4Addr,
}

/// A pod that joins a network.
#[derive(Debug, Clone)]
pub struct PodAttach {
    /// The pod's uid: names its network namespace.
    pub pod_uid: String,
    /// The Port's uid; `None` on the cluster network, where the pod itself is the port.
    pub port_uid: Option<String>,
    /// The Port's MAC; `None` = made from the first address.
    pub mac: Option<Mac>,
    /// The addresses, each inside a subnet of the network; the prefix and the gateway come from there.
    pub ips: Vec<Ipv4Addr>,
    /// Ports of the host that lead to the pod; on the cluster network only.
    pub host_ports: Vec<HostPort>,
}

/// A port of the host that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// The one address of the host on which it is open; `None` = on all of them.
    pub host_ip: Option<Ipv4Addr>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The port of the host.
    pub port: u16,
    /// The port of the pod.
    pub target_port: u16,
}

/// Where a pod's network is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNet {
    /// The namespace's file, to be joined by the sandbox.
    pub netns: PathBuf,
    /// The interface inside it: `eth0`.
    pub ifname: String,
}

/// A VM's network interface that joins a network.
#[derive(Debug, Clone)]
pub struct TapAttach {
    /// The Port's uid: names the tap.
    pub port_uid: String,
    /// The MAC that the VM must use.
    pub mac: Mac,
    /// The addresses that the VM may use.
    pub ips: Vec<Ipv4Addr>,
    /// Those of IPv6; it has one address at least, of either kind.
    pub ips6: Vec<Ipv6Addr>,
}

/// An open tap device, for QEMU's `-netdev tap,fd=N` (with `vhost=off`).
#[derive(Debug)]
pub struct Tap {
    /// The device: close-on-exec, non-blocking, with virtio-net headers. When its last holder closes it, the device is gone.
    pub fd: OwnedFd,
    /// Its name inside the network's namespace.
    pub ifname: String,
}

/// What is attached on this node, as found in the state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The port's uid, or the pod's where there is no Port.
    pub port_uid: String,
    /// The pod's uid; `None` for a tap.
    pub pod_uid: Option<String>,
    /// The network's uid.
    pub network_uid: String,
    /// The bridge port inside the network's namespace.
    pub ifname: String,
    /// The only MAC the port may use.
    pub mac: Mac,
    /// The only addresses the port may use.
    pub ips: Vec<Ipv4Addr>,
    /// Those of IPv6; where there are some, also the link-local one that is made of the MAC.
    #[serde(default)]
    pub ips6: Vec<Ipv6Addr>,
    /// Ports of the host that lead to the first of them.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
}

/// What a pod's resolv.conf should say.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DnsConfig {
    /// `nameserver` lines.
    pub servers: Vec<Ipv4Addr>,
    /// The `search` line.
    pub searches: Vec<String>,
    /// The `options` line.
    pub options: Vec<String>,
}

/// A Service, as programmed in every network.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ServiceRule {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// Its virtual address; `None` = headless: its name resolves to the endpoints.
    pub cluster_ip: Option<Ipv4Addr>,
    /// Further addresses, from outside, that lead to it on the cluster network and on the host.
    pub external_ips: Vec<Ipv4Addr>,
    /// Seconds for which a client stays with its target; `None` = each connection may go to another one.
    pub affinity: Option<u32>,
    /// The name elsewhere that its own name is an alias of; it then has neither address nor ports.
    pub external_name: Option<String>,
    /// Its ports (at most 100 are programmed).
    pub ports: Vec<ServicePort>,
    /// The workloads behind it, as its DNS names have them.
    pub endpoints: Vec<Endpoint>,
}

/// One port of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct ServicePort {
    /// The port's name, may be empty.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The port on the virtual address.
    pub port: u16,
    /// The port of the node's addresses that leads to it.
    pub node_port: Option<u16>,
    /// Where connections go (at most 1,000 are programmed).
    pub targets: Vec<Target>,
    /// Where connections from outside the cluster go: those to `node_port` and to the Service's further addresses.
    pub outside: Vec<Target>,
}

/// One workload behind a Service, as DNS has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// The network on which it is reachable.
    pub network: TargetNetwork,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its host name below the Service's name, one label; made from the address where there is none.
    pub host: Option<String>,
}

impl Endpoint {
    /// Its label below the Service's name.
    pub(crate) fn label(&self) -> String {
        self.host.clone().unwrap_or_else(|| self.ip.to_string().replace('.', "-"))
    }
}

/// One endpoint of a Service's port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Target {
    /// The network on which the endpoint is reachable.
    pub network: TargetNetwork,
    /// Its address.
    pub ip: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// Where a target is reachable.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TargetNetwork {
    /// On the cluster network (or beyond it: a node's address).
    Cluster,
    /// On the tenant network with this uid.
    Tenant(String),
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// As nftables and DNS service labels write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl FromStr for Protocol {
    type Err = NetworkError;
    /// Reads Kubernetes' `TCP`, `UDP`, `SCTP`, in any case.
    fn from_str(text: &str) -> Result<Self, NetworkError> {
        match text.to_ascii_uppercase().as_str() {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            _ => Err(NetworkError::invalid("protocol", format!("{text:?} is not TCP, UDP or SCTP"))),
        }
    }
}

/// From where [`crate::NodeNetworks::dial`] connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFrom<'a> {
    /// From inside the pod's own namespace (its localhost works too).
    Pod(&'a str),
    /// From the network's gateway.
    Network(&'a str),
}
