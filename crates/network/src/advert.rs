//! Router advertisements (RFC 4861, RFC 8106): what tells the guests of a network of its prefixes, of the way to others, and of DHCPv6.
//!
//! A gateway is told as the default router only where a router joins the network, for elsewhere it leads nowhere.

use crate::bridge;
use crate::six::{AddressMode, Subnet6Config};
use crate::view::{NetworkView, Shared};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::Instant;

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// All nodes of a link, where advertisements go.
const EVERYBODY: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// How often advertisements go out that nobody asked for.
const INTERVAL: Duration = Duration::from_secs(60);
/// The shortest time between answers to solicitations that go to everybody.
const REST: Duration = Duration::from_secs(3);
/// How long what is told holds, seconds: the default router, a prefix's addresses, and that they are used for new connections.
const ROUTER_LIFETIME: u16 = 1800;
const VALID: u32 = 86_400;
const PREFERRED: u32 = 14_400;
/// Options' types.
const SOURCE_LINK: u8 = 1;
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const RDNSS: u8 = 25;
/// Flags: addresses and further settings come by DHCPv6; a prefix is on the link, and addresses are made of it.
const MANAGED: u8 = 0x80;
const OTHER: u8 = 0x40;
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;
/// As many resolvers as are told of one subnet.
const MOST_RESOLVERS: usize = 8;

/// Whether a router joins a network, and that something has changed which advertisements tell.
#[derive(Debug)]
pub(crate) struct Routed {
    on: AtomicBool,
    changed: Notify,
}

impl Routed {
    /// As an earlier process left it, so that its guests keep their way while routers are not known yet.
    pub(crate) fn new(on: bool) -> Self {
        Self { on: AtomicBool::new(on), changed: Notify::new() }
    }

    pub(crate) fn set(&self, on: bool) {
        if self.on.swap(on, Ordering::Relaxed) != on {
            self.changed.notify_one();
        }
    }

    /// What is told is another now.
    pub(crate) fn tell(&self) {
        self.changed.notify_one();
    }
}

/// The advertisement of a network, without a checksum; `None` where it has nothing to tell.
pub(crate) fn encode(view: &NetworkView, routed: bool) -> Option<Vec<u8>> {
    let told: Vec<(&Subnet6Config, AddressMode)> =
        view.config.subnets6.iter().filter_map(|subnet| Some((subnet, subnet.advertised?))).collect();
    if told.is_empty() {
        return None;
    }
    let has = |mode: AddressMode| told.iter().any(|(_, own)| *own == mode);
    let managed = if has(AddressMode::Stateful) { MANAGED | OTHER } else { 0 };
    let other = if has(AddressMode::Stateless) { OTHER } else { 0 };
    let leads = routed && told.iter().any(|(subnet, _)| !subnet.isolated);
    let lifetime = if leads { ROUTER_LIFETIME } else { 0 };
    // Hop limit 64; reachability and retransmission are the client's own.
    let mut out = vec![ADVERTISEMENT, 0, 0, 0, 64, managed | other];
    out.extend(lifetime.to_be_bytes());
    out.extend([0; 8]);
    out.extend([SOURCE_LINK, 1]);
    out.extend(bridge::gateway_mac(&view.config.uid).0);
    out.extend([MTU, 1, 0, 0]);
    out.extend(view.config.mtu.to_be_bytes());
    for (subnet, mode) in &told {
        let flags = if *mode == AddressMode::Stateful { ON_LINK } else { ON_LINK | AUTONOMOUS };
        out.extend([PREFIX, 4, subnet.cidr.prefix_len(), flags]);
        out.extend(VALID.to_be_bytes());
        out.extend(PREFERRED.to_be_bytes());
        out.extend([0; 4]);
        out.extend(subnet.cidr.network().octets());
        let mut servers = subnet.resolvers();
        servers.truncate(MOST_RESOLVERS);
        // At most 17, in units of eight bytes.
        out.extend([RDNSS, 1 + 2 * servers.len() as u8, 0, 0]);
        out.extend(u32::from(ROUTER_LIFETIME).to_be_bytes());
        out.extend(servers.iter().flat_map(Ipv6Addr::octets));
    }
    Some(out)
}

/// Serves until the task is dropped. The raw socket was opened inside the network's namespace, bound to its bridge, whose index is `link`.
pub(crate) async fn serve(socket: UdpSocket, link: u32, view: Arc<Shared<NetworkView>>, routed: Arc<Routed>) {
    let mut buffer = vec![0; 2048];
    let mut due = Instant::now();
    let mut last = None::<Instant>;
    loop {
        let asks = tokio::select! {
            () = tokio::time::sleep_until(due) => None,
            () = routed.changed.notified() => None,
            got = socket.recv_from(&mut buffer) => match got {
                Ok((length, from)) if length >= 8 && buffer[0] == SOLICITATION => Some(from),
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(%error, "router advertisements' socket");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    continue;
                }
            },
        };
        let to = match asks {
            Some(SocketAddr::V6(from)) if from.ip().is_unicast_link_local() => *from.ip(),
            // One that has no address yet: all are told, but not for everyone that asks.
            Some(_) if last.is_some_and(|last| last.elapsed() < REST) => {
                due = due.min(Instant::now() + REST);
                continue;
            }
            _ => EVERYBODY,
        };
        if to == EVERYBODY {
            let now = Instant::now();
            (last, due) = (Some(now), now + INTERVAL);
        }
        let Some(bytes) = encode(&view.get(), routed.on.load(Ordering::Relaxed)) else { continue };
        if let Err(error) = socket.send_to(&bytes, SocketAddrV6::new(to, 0, 0, link)).await {
            tracing::debug!(%error, %to, "router advertisement");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample6;

    #[test]
    fn flags_and_lifetime_follow_from_the_subnets_and_the_router() {
        let told = |mode: Option<AddressMode>, routed: bool, isolated: bool| {
            let mut view = sample6();
            view.config.subnets6[0].advertised = mode;
            view.config.subnets6[0].isolated = isolated;
            let bytes = encode(&view, routed)?;
            Some((bytes[5], u16::from_be_bytes([bytes[6], bytes[7]]), bytes[16 + 8 + 8 + 3]))
        };
        let made = ON_LINK | AUTONOMOUS;
        assert_eq!(told(Some(AddressMode::Slaac), true, false), Some((0, 1800, made)));
        assert_eq!(told(Some(AddressMode::Slaac), false, false), Some((0, 0, made)));
        assert_eq!(told(Some(AddressMode::Slaac), true, true), Some((0, 0, made)));
        assert_eq!(told(Some(AddressMode::Stateless), true, false), Some((OTHER, 1800, made)));
        assert_eq!(told(Some(AddressMode::Stateful), true, false), Some((MANAGED | OTHER, 1800, ON_LINK)));
        assert_eq!(told(None, true, false), None);
    }

    #[test]
    fn an_advertisement_is_one_by_the_book() {
        let bytes = encode(&sample6(), true).unwrap();
        assert_eq!(bytes[..2], [ADVERTISEMENT, 0]);
        let mut rest = &bytes[16..];
        let mut seen = Vec::new();
        while let [kind, units, ..] = *rest {
            let (option, more) = rest.split_at(8 * usize::from(units));
            seen.push((kind, option.len()));
            if kind == PREFIX {
                assert_eq!((option[2], &option[16..24]), (64, &[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0][..]));
            }
            rest = more;
        }
        assert_eq!(seen, [(SOURCE_LINK, 8), (MTU, 8), (PREFIX, 32), (RDNSS, 24)]);
    }
}
