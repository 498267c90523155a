//! The sockets of a network's servers: opened inside its namespace, then run by the ordinary runtime.

use crate::dhcp;
use crate::dns::{self, Dns};
use crate::error::{NetworkError, Result};
use crate::metadata::{self, MetadataProvider};
use crate::names::BRIDGE;
use crate::namespace::Namespace;
use crate::relay;
use crate::types::Config;
use crate::view::{NetworkView, ServiceBook, Shared};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::net::{Ipv4Addr, SocketAddr};
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
}

/// Opens them inside the namespace. Blocks.
pub(crate) fn open(ns: &Namespace, view: &NetworkView, config: &Config) -> Result<Sockets> {
    let listen = dns::listen_addresses(view, config);
    let tenant = !view.is_cluster();
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
        Ok(Sockets { dns_udp, dns_tcp, dhcp, metadata, api })
    })
}

/// What the servers share with the rest of the crate.
pub(crate) struct Sources {
    pub(crate) view: Arc<Shared<NetworkView>>,
    pub(crate) book: Arc<Shared<ServiceBook>>,
    pub(crate) config: Arc<Config>,
    pub(crate) metadata: Arc<dyn MetadataProvider>,
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
    let Sources { view, book, config, metadata } = sources;
    if let (Some(listener), Some(api)) = (sockets.api, &config.api) {
        tasks.spawn(relay::serve(TcpListener::from_std(listener).map_err(register)?, api.server.clone()));
    }
    let domain = config.domain.trim_end_matches('.').to_ascii_lowercase();
    tasks.spawn(dns::serve(Arc::new(Dns::new(view.clone(), book, config)), udp, tcp));
    if let Some(socket) = sockets.dhcp {
        let socket = UdpSocket::from_std(socket).map_err(register)?;
        // A broadcast to everybody needs to know its way out.
        socket
            .bind_device(Some(BRIDGE.as_bytes()))
            .map_err(|e| NetworkError::io("bind DHCP to the bridge", e))?;
        tasks.spawn(dhcp::serve(socket, view.clone(), domain));
    }
    if let Some(listener) = sockets.metadata {
        tasks.spawn(metadata::serve(TcpListener::from_std(listener).map_err(register)?, view, metadata));
    }
    Ok(tasks)
}

/// An unconnected, non-blocking socket of the calling thread's namespace.
pub(crate) fn socket(kind: SocketType) -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
        .map_err(|e| NetworkError::io("open a socket", e))
}

fn udp(address: SocketAddr) -> Result<std::net::UdpSocket> {
    let fd = socket(SocketType::DGRAM)?;
    let bind = || -> rustix::io::Result<OwnedFd> {
        sockopt::set_socket_broadcast(&fd, address.ip().is_unspecified())?;
        rustix::net::bind(&fd, &address)?;
        Ok(fd)
    };
    bind()
        .map(Into::into)
        .map_err(|e| NetworkError::io(format!("listen on UDP {address} inside the network"), e))
}

fn tcp(address: SocketAddr) -> Result<std::net::TcpListener> {
    let fd = socket(SocketType::STREAM)?;
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
