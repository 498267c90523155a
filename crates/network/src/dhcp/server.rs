//! The DHCP server's socket loop. The socket was opened inside the network's namespace, bound to its bridge.

use super::{reply, six};
use crate::view::{NetworkView, Shared};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;

/// Serves until the task is dropped.
pub(crate) async fn serve(socket: UdpSocket, view: Arc<Shared<NetworkView>>, domain: String) {
    let mut buffer = vec![0; 2048];
    loop {
        let length = match socket.recv_from(&mut buffer).await {
            Ok((length, _)) => length,
            Err(e) => {
                tracing::debug!(error = %e, "DHCP socket");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some(request) = reply::decode(&buffer[..length]) else { continue };
        let Some(out) = reply::answer(&view.get(), &domain, &request) else { continue };
        if let Err(e) = socket.send_to(&out.bytes, out.to).await {
            tracing::debug!(error = %e, to = %out.to, "DHCP reply");
        }
    }
}

/// The same for DHCPv6.
pub(crate) async fn serve6(socket: UdpSocket, view: Arc<Shared<NetworkView>>, domain: String) {
    let mut buffer = vec![0; 2048];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok((length, SocketAddr::V6(from))) => (length, from),
            Ok(_) => continue,
            Err(e) => {
                tracing::debug!(error = %e, "DHCPv6 socket");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let Some(request) = six::decode(&buffer[..length]) else { continue };
        let Some(bytes) = six::answer(&view.get(), &domain, *from.ip(), &request) else { continue };
        if let Err(e) = socket.send_to(&bytes, from).await {
            tracing::debug!(error = %e, to = %from, "DHCPv6 reply");
        }
    }
}
