//! Links, addresses, neighbours and routes: a blocking rtnetlink client for threads that are inside a namespace.
//!
//! The messages are `rtnetlink`'s; the transport is a plain request and its answer. A netlink socket belongs
//! to the namespace in which it was opened, so a client made inside one may be used from anywhere.

use crate::error::{NetworkError, Result};
use crate::types::Mac;
use ipnet::Ipv4Net;
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkHeader,
    NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkMessage, State};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::{
    AddressMessageBuilder, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth,
    RouteMessageBuilder,
};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// A netlink connection to one namespace.
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
}

/// A new veth pair.
pub(crate) struct VethPair<'a> {
    /// The end that stays in this namespace.
    pub(crate) name: &'a str,
    /// The other end's name, in `peer_ns`.
    pub(crate) peer: &'a str,
    pub(crate) peer_ns: BorrowedFd<'a>,
    pub(crate) peer_mac: Option<Mac>,
    pub(crate) mtu: u32,
    /// Index of the bridge to put this end on.
    pub(crate) bridge: Option<u32>,
}

/// One IPv4 route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) dst: Ipv4Net,
    pub(crate) link: Option<u32>,
    pub(crate) gateway: Option<Ipv4Addr>,
}

impl Netlink {
    /// Connects to the calling thread's namespace.
    pub(crate) fn connect() -> Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(|e| NetworkError::io("open a netlink socket", e))?, sequence: 0 })
    }

    pub(crate) fn request(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.sequence_number = self.sequence;
        header.flags = NLM_F_REQUEST | flags;
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        self.answer()
    }

    /// Reads until the acknowledgement, the end of the dump, or an error.
    fn answer(&mut self) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut found = Vec::new();
        loop {
            let (datagram, _) = self.socket.recv_from_full()?;
            let mut rest = &datagram[..];
            while rest.len() >= 16 {
                let message =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                let length = (message.header.length as usize).max(16).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(e) if e.code.is_some() => return Err(e.to_io()),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Overrun(_) => return Err(io::Error::other("netlink overrun")),
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    _ => {}
                }
            }
        }
    }

    pub(crate) fn act(
        &mut self,
        action: impl FnOnce() -> String,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<()> {
        self.request(message, NLM_F_ACK | flags)
            .map(|_| ())
            .map_err(|source| NetworkError::Netlink { action: action(), source })
    }

    /// The index of the link `name`, if there is one.
    pub(crate) fn link_index(&mut self, name: &str) -> Result<Option<u32>> {
        Ok(self.link(name)?.map(|link| link.header.index))
    }

    /// The whole description of the link `name`.
    fn link(&mut self, name: &str) -> Result<Option<LinkMessage>> {
        let query = LinkUnspec::new_with_name(name).build();
        match self.request(RouteNetlinkMessage::GetLink(query), NLM_F_ACK) {
            Ok(answers) => Ok(answers.into_iter().find_map(|m| match m {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })),
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(None),
            Err(source) => Err(NetworkError::Netlink { action: format!("look up the link {name}"), source }),
        }
    }

    /// Like [`Self::link_index`], for a link that must be there.
    pub(crate) fn need_link(&mut self, name: &str) -> Result<u32> {
        self.link_index(name)?.ok_or_else(|| NetworkError::Netlink {
            action: format!("look up the link {name}"),
            source: rustix::io::Errno::NODEV.into(),
        })
    }

    /// The names of all links here.
    pub(crate) fn link_names(&mut self) -> Result<Vec<String>> {
        let answers = self
            .request(RouteNetlinkMessage::GetLink(LinkMessage::default()), NLM_F_DUMP)
            .map_err(|source| NetworkError::Netlink { action: "list links".into(), source })?;
        Ok(answers
            .into_iter()
            .filter_map(|m| match m {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })
            .filter_map(|link| {
                link.attributes.into_iter().find_map(|a| match a {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                })
            })
            .collect())
    }

    /// The free text that a link carries.
    pub(crate) fn alias(&mut self, name: &str) -> Result<Option<String>> {
        Ok(self.link(name)?.and_then(|link| {
            link.attributes.into_iter().find_map(|a| match a {
                LinkAttribute::IfAlias(text) => Some(text),
                _ => None,
            })
        }))
    }

    pub(crate) fn set_alias(&mut self, name: &str, text: &str) -> Result<()> {
        let message = LinkUnspec::new_with_name(name).alias(text).build();
        self.act(|| format!("set the alias of {name}"), RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Makes a bridge that neither speaks STP nor snoops multicast, with a MAC that does not change with its ports.
    pub(crate) fn add_bridge(&mut self, name: &str, mac: Mac, mtu: u32) -> Result<()> {
        let message = LinkMessageBuilder::<LinkBridge>::new(name)
            .address(mac.0.to_vec())
            .mtu(mtu)
            .forward_delay(0)
            .mcast_snooping(false)
            .up()
            .build();
        self.act(
            || format!("make the bridge {name}"),
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    pub(crate) fn add_veth(&mut self, pair: &VethPair<'_>) -> Result<()> {
        let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(pair.peer.to_owned())
            .mtu(pair.mtu)
            .setns_by_fd(pair.peer_ns.as_raw_fd());
        if let Some(mac) = pair.peer_mac {
            peer = peer.address(mac.0.to_vec());
        }
        let mut link = LinkMessageBuilder::<LinkVeth>::new(pair.name, pair.peer)
            .mtu(pair.mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
            .up();
        if let Some(bridge) = pair.bridge {
            link = link.controller(bridge);
        }
        let message = RouteNetlinkMessage::NewLink(link.build());
        self.act(|| format!("make the veth pair {}", pair.name), message, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Lets a bridge port get back what it sent itself: needed when a pod reaches itself through its Service.
    pub(crate) fn set_hairpin(&mut self, port: u32) -> Result<()> {
        let message = LinkBridgePort::new(port).hairpin(true).build();
        self.act(|| "allow a bridge port to reach itself".into(), RouteNetlinkMessage::NewLink(message), 0)
    }

    pub(crate) fn set_up(&mut self, index: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.act(|| format!("set link {index} up"), RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Waits until a link that was set up really carries packets.
    ///
    /// The kernel notices a new carrier a little later, in a work queue; until then the link drops what is sent
    /// and a bridge does not forward to it, and a workload's first packet would be lost. Newer kernels catch
    /// up when they are asked for the link, older ones within a second.
    pub(crate) fn wait_running(&mut self, index: u32) -> Result<()> {
        for _ in 0..400 {
            let query = RouteNetlinkMessage::GetLink(LinkUnspec::new_with_index(index).build());
            let answers = self.request(query, NLM_F_ACK).map_err(|source| NetworkError::Netlink {
                action: format!("look at link {index}"),
                source,
            })?;
            let running = answers.iter().any(|m| match m {
                RouteNetlinkMessage::NewLink(link) => link
                    .attributes
                    .iter()
                    .any(|a| matches!(a, LinkAttribute::OperState(State::Up | State::Unknown))),
                _ => false,
            });
            if running {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        tracing::warn!(link = index, "a link that was set up has no carrier");
        Ok(())
    }

    /// Puts a tap on the bridge and sets it up.
    pub(crate) fn join_bridge(&mut self, index: u32, bridge: u32, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).controller(bridge).mtu(mtu).up().build();
        self.act(|| format!("put link {index} on the bridge"), RouteNetlinkMessage::NewLink(message), 0)
    }

    pub(crate) fn set_mtu(&mut self, index: u32, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(index).mtu(mtu).build();
        self.act(|| format!("set the MTU of link {index} to {mtu}"), RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Removes a link; fine if it is gone.
    pub(crate) fn delete_link(&mut self, name: &str) -> Result<()> {
        let Some(index) = self.link_index(name)? else { return Ok(()) };
        let message = LinkUnspec::new_with_index(index).build();
        gone_is_fine(self.act(|| format!("remove the link {name}"), RouteNetlinkMessage::DelLink(message), 0))
    }

    /// Adds an address, or finds it there.
    pub(crate) fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, prefix).build();
        let action = || format!("give link {index} the address {address}/{prefix}");
        self.act(action, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub(crate) fn delete_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> Result<()> {
        let message = AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(address, prefix).build();
        let action = || format!("take {address}/{prefix} from link {index}");
        gone_is_fine(self.act(action, RouteNetlinkMessage::DelAddress(message), 0))
    }

    /// All IPv4 addresses here, with the index of their link.
    pub(crate) fn addresses(&mut self) -> Result<Vec<(u32, Ipv4Net)>> {
        let answers = self
            .request(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)
            .map_err(|source| NetworkError::Netlink { action: "list addresses".into(), source })?;
        let one = |m: RouteNetlinkMessage| {
            let RouteNetlinkMessage::NewAddress(address) = m else { return None };
            let ip = address.attributes.iter().find_map(|a| match a {
                AddressAttribute::Local(std::net::IpAddr::V4(ip)) => Some(*ip),
                _ => None,
            })?;
            Some((address.header.index, Ipv4Net::new(ip, address.header.prefix_len).ok()?))
        };
        Ok(answers.into_iter().filter_map(one).collect())
    }

    /// Adds or changes the route to `dst`.
    pub(crate) fn set_route(&mut self, dst: Ipv4Net, gateway: Ipv4Addr, link: u32) -> Result<()> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(dst.network(), dst.prefix_len())
            .gateway(gateway)
            .output_interface(link)
            .build();
        let action = || format!("route {dst} via {gateway}");
        self.act(action, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes the routes to `dst` over the link away; fine if there is none.
    pub(crate) fn delete_route(&mut self, dst: Ipv4Net, link: u32) -> Result<()> {
        let mut message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(dst.network(), dst.prefix_len())
            .output_interface(link)
            .build();
        // Of whatever scope.
        message.header.scope = RouteScope::NoWhere;
        gone_is_fine(self.act(|| format!("unroute {dst}"), RouteNetlinkMessage::DelRoute(message), 0))
    }

    /// Routes `dst` onto the link itself, from `source`.
    pub(crate) fn set_link_route(&mut self, dst: Ipv4Net, link: u32, source: Ipv4Addr) -> Result<()> {
        let message = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(dst.network(), dst.prefix_len())
            .scope(RouteScope::Link)
            .output_interface(link)
            .pref_source(source)
            .build();
        let action = || format!("route {dst} on the link");
        self.act(action, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// The unicast IPv4 routes of the main table.
    pub(crate) fn routes(&mut self) -> Result<Vec<Route>> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let answers = self
            .request(RouteNetlinkMessage::GetRoute(query), NLM_F_DUMP)
            .map_err(|source| NetworkError::Netlink { action: "list routes".into(), source })?;
        Ok(answers
            .into_iter()
            .filter_map(|m| match m {
                RouteNetlinkMessage::NewRoute(route) => main_route(&route),
                _ => None,
            })
            .collect())
    }

    /// Fixes the MAC of a neighbour, so that it is never asked for and cannot be forged.
    pub(crate) fn set_neighbour(&mut self, link: u32, ip: Ipv4Addr, mac: Mac) -> Result<()> {
        let mut message = neighbour(link, ip);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let action = || format!("set the neighbour {ip}");
        self.act(action, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Forgets a neighbour; fine if it is unknown.
    pub(crate) fn delete_neighbour(&mut self, link: u32, ip: Ipv4Addr) -> Result<()> {
        let message = neighbour(link, ip);
        gone_is_fine(self.act(
            || format!("forget the neighbour {ip}"),
            RouteNetlinkMessage::DelNeighbour(message),
            0,
        ))
    }
}

fn neighbour(link: u32, ip: Ipv4Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = rtnetlink::packet_route::AddressFamily::Inet;
    message.header.ifindex = link;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)));
    message
}

fn main_route(route: &RouteMessage) -> Option<Route> {
    if route.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut dst = Ipv4Addr::UNSPECIFIED;
    let (mut link, mut gateway) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => dst = *ip,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(ip)) => gateway = Some(*ip),
            _ => {}
        }
    }
    Some(Route { dst: Ipv4Net::new(dst, route.header.destination_prefix_length).ok()?, link, gateway })
}

pub(crate) fn gone_is_fine(result: Result<()>) -> Result<()> {
    use rustix::io::Errno;
    match result {
        Err(NetworkError::Netlink { source, .. })
            if [Errno::NODEV, Errno::NOENT, Errno::ADDRNOTAVAIL, Errno::SRCH]
                .iter()
                .any(|e| source.raw_os_error() == Some(e.raw_os_error())) =>
        {
            Ok(())
        }
        other => other,
    }
}
