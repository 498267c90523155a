//! The sockets of a network's servers: opened inside its namespace, then run by the ordinary runtime.

use crate::advert::{self, Routed};
use crate::dhcp;
use crate::dns::{self, Dns};
use crate::error::{NetworkError, Result};
use crate::metadata::{self, MetadataProvider};
use crate::names::BRIDGE;
use crate::namespace::Namespace;
use crate::netlink::Netlink;
use crate::relay;
use crate::types::Config;
use crate::view::{NetworkView, ServiceBook, Shared};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

/// The open sockets, not yet served.
pub(crate) struct Sockets {
    dns_udp: Vec<std::net::UdpSocket>,
    dns_tcp: Vec<std::net::TcpListener>,
    dhcp: Option<std::net::UdpSocket>,
    metadata: Option<std::net::TcpListener>,
    api: Option<std::net::TcpListener>,
    six: Option<Six>,
}

/// What a network with IPv6 has besides: DHCPv6, and router advertisements, which need the index of the bridge.
struct Six {
    dhcp: std::net::UdpSocket,
    advert: std::net::UdpSocket,
    bridge: u32,
}

/// Opens them inside the namespace. Blocks.
pub(crate) fn open(ns: &Namespace, view: &NetworkView, config: &Config) -> Result<Sockets> {
    let listen = dns::listen_addresses(view, config);
    let (tenant, six) = (!view.is_cluster(), !view.config.subnets6.is_empty());
    let api = config.api.as_ref().map(|api| SocketAddr::from((api.address, relay::PORT)));
    ns.run(move || {
        let (mut dns_udp, mut dns_tcp) = (Vec::new(), Vec::new());
        for address in listen {
            dns_udp.push(udp(address)?);
            dns_tcp.push(tcp(address)?);
        }
        let everyone = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 67));
        let dhcp = tenant.then(|| udp(everyone)).transpose()?;
        let metadata = tenant.then(|| tcp(SocketAddr::from((metadata::ADDRESS, 80)))).transpose()?;
        let api = api.map(tcp).transpose()?;
        let six = six.then(open6).transpose()?;
        Ok(Sockets { dns_udp, dns_tcp, dhcp, metadata, api, six })
    })
}

/// What the servers share with the rest of the crate.
pub(crate) struct Sources {
    pub(crate) view: Arc<Shared<NetworkView>>,
    pub(crate) book: Arc<Shared<ServiceBook>>,
    pub(crate) config: Arc<Config>,
    pub(crate) metadata: Arc<dyn MetadataProvider>,
    pub(crate) routed: Arc<Routed>,
}

/// Serves until the set is dropped. Must be called on the runtime.
pub(crate) fn start(sockets: Sockets, sources: Sources) -> Result<JoinSet<()>> {
    let register = |e: std::io::Error| NetworkError::io("hand a server's socket to the runtime", e);
    let mut tasks = JoinSet::new();
    let udp: Vec<_> = sockets
        .dns_udp
        .into_iter()
        .map(UdpSocket::from_std)
        .collect::<std::io::Result<_>>()
        .map_err(register)?;
    let tcp: Vec<_> = sockets
        .dns_tcp
        .into_iter()
        .map(TcpListener::from_std)
        .collect::<std::io::Result<_>>()
        .map_err(register)?;
    let Sources { view, book, config, metadata, routed } = sources;
    if let (Some(listener), Some(api)) = (sockets.api, &config.api) {
        tasks.spawn(relay::serve(TcpListener::from_std(listener).map_err(register)?, api.server.clone()));
    }
    let domain = config.domain.trim_end_matches('.').to_ascii_lowercase();
    tasks.spawn(dns::serve(Arc::new(Dns::new(view.clone(), book, config)), udp, tcp));
    if let Some(socket) = sockets.dhcp {
        let socket = UdpSocket::from_std(socket).map_err(register)?;
        // A broadcast to everybody needs to know its way out.
        on_bridge(&socket)?;
        tasks.spawn(dhcp::serve(socket, view.clone(), domain.clone()));
    }
    if let Some(six) = sockets.six {
        let dhcp = UdpSocket::from_std(six.dhcp).map_err(register)?;
        on_bridge(&dhcp)?;
        tasks.spawn(dhcp::serve6(dhcp, view.clone(), domain));
        let advert = UdpSocket::from_std(six.advert).map_err(register)?;
        on_bridge(&advert)?;
        tasks.spawn(advert::serve(advert, six.bridge, view.clone(), routed));
    }
    if let Some(listener) = sockets.metadata {
        tasks.spawn(metadata::serve(TcpListener::from_std(listener).map_err(register)?, view, metadata));
    }
    Ok(tasks)
}

fn on_bridge(socket: &UdpSocket) -> Result<()> {
    let bound = socket.bind_device(Some(BRIDGE.as_bytes()));
    bound.map_err(|e| NetworkError::io("bind a server to the bridge", e))
}

/// Where DHCPv6 clients ask: all servers and relays of a link.
const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// What neighbour discovery's messages have left of their hops: who gets them knows that no router passed them on.
const HOPS: u8 = 255;

fn open6() -> Result<Six> {
    let bridge = Netlink::connect()?.need_link(BRIDGE)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let work = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let dhcp = rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
        sockopt::set_ipv6_v6only(&dhcp, true)?;
        rustix::net::bind(&dhcp, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 547)))?;
        sockopt::set_ipv6_add_membership(&dhcp, &SERVERS, bridge)?;
        let icmp = Some(rustix::net::ipproto::ICMPV6);
        let advert = rustix::net::socket_with(AddressFamily::INET6, SocketType::RAW, flags, icmp)?;
        sockopt::set_ipv6_unicast_hops(&advert, Some(HOPS))?;
        sockopt::set_ipv6_multicast_hops(&advert, HOPS.into())?;
        sockopt::set_ipv6_multicast_if(&advert, bridge)?;
        Ok((dhcp, advert))
    };
    let (dhcp, advert) = work()
        .map_err(|e| NetworkError::io("open DHCPv6 and router advertisements inside the network", e))?;
    Ok(Six { dhcp: dhcp.into(), advert: advert.into(), bridge })
}

/// An unconnected, non-blocking socket of the calling thread's namespace.
pub(crate) fn socket(kind: SocketType) -> Result<OwnedFd> {
    socket_of(AddressFamily::INET, kind)
}

fn socket_of(family: AddressFamily, kind: SocketType) -> Result<OwnedFd> {
    rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
        .map_err(|e| NetworkError::io("open a socket", e))
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn udp(address: SocketAddr) -> Result<std::net::UdpSocket> {
    let fd = socket_of(family(address), SocketType::DGRAM)?;
    let bind = || -> rustix::io::Result<OwnedFd> {
        if address.is_ipv4() {
            sockopt::set_socket_broadcast(&fd, address.ip().is_unspecified())?;
        }
        rustix::net::bind(&fd, &address)?;
        Ok(fd)
    };
    bind()
        .map(Into::into)
        .map_err(|e| NetworkError::io(format!("listen on UDP {address} inside the network"), e))
}

fn tcp(address: SocketAddr) -> Result<std::net::TcpListener> {
    let fd = socket_of(family(address), SocketType::STREAM)?;
    let bind = || -> rustix::io::Result<OwnedFd> {
        sockopt::set_socket_reuseaddr(&fd, true)?;
        rustix::net::bind(&fd, &address)?;
        rustix::net::listen(&fd, 64)?;
        Ok(fd)
    };
    bind()
        .map(Into::into)
        .map_err(|e| NetworkError::io(format!("listen on TCP {address} inside the network"), e))
}
