//! What the binary tells the front desk.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use yunfan_access::{Authentication, Authorization};
use yunfan_audit::Audit;

/// Settings of the front desk.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// Range of the Services' virtual addresses.
    pub service_cidr: Ipv4Net,
    /// Range of the Services' virtual addresses of IPv6, where they may have some.
    pub service_cidr6: Option<Ipv6Net>,
    /// Ports of nodes that Services may have.
    pub node_ports: RangeInclusive<u16>,
    /// Range of the Pods' addresses on the cluster network.
    pub cluster_cidr: Ipv4Net,
    /// Address of the cluster's DNS; never given to another Service.
    pub cluster_dns_ip: Ipv4Addr,
    /// Seats for requests under way at one time, beside watches and streams, which the priority levels share.
    pub max_in_flight: usize,
    /// How long the store keeps history, at least: what is older goes at the next turn, which comes as often. Zero keeps all.
    pub compaction_interval: Duration,
    /// The audit log, where there is one.
    pub audit: Option<Audit>,
    /// Who may come in beside those whom the cloud itself knows.
    pub authentication: Authentication,
    /// What the API server is called in tokens that are for it; the first ones of a token that was asked for without any are all of these.
    /// Where there are none, it is its issuer's name.
    pub audiences: Vec<String>,
    /// Who decides who may do what.
    pub authorization: Authorization,
}

impl ApiConfig {
    /// The ranges of the Services' addresses, IPv4's first.
    pub fn service_cidrs(&self) -> Vec<IpNet> {
        [IpNet::V4(self.service_cidr)].into_iter().chain(self.service_cidr6.map(IpNet::V6)).collect()
    }
}

impl Default for ApiConfig {
    /// Services on 10.96.0.0/12 and the ports 30000 to 32767, Pods on 10.244.0.0/16, DNS on 10.96.0.10, 800 seats for requests, history of five minutes.
    fn default() -> Self {
        Self {
            // Both are /N with the host bits zero.
            service_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 96, 0, 0), 12),
            service_cidr6: None,
            node_ports: 30_000..=32_767,
            cluster_cidr: Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 0, 0), 16),
            cluster_dns_ip: Ipv4Addr::new(10, 96, 0, 10),
            max_in_flight: 800,
            compaction_interval: Duration::from_secs(300),
            audit: None,
            authentication: Authentication::default(),
            audiences: Vec::new(),
            authorization: Authorization::default(),
        }
    }
}
