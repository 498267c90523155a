//! The part of [`Netlink`] that is about IPv6.

use crate::error::{NetworkError, Result};
use crate::netlink::{Netlink, gone_is_fine};
use crate::types::Mac;
use ipnet::Ipv6Net;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_REPLACE};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteScope};
use rtnetlink::{AddressMessageBuilder, RouteMessageBuilder};
use std::net::{IpAddr, Ipv6Addr};

/// One IPv6 route of the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route6 {
    pub(crate) dst: Ipv6Net,
    pub(crate) link: Option<u32>,
    pub(crate) gateway: Option<Ipv6Addr>,
}

impl Netlink {
    /// Adds an address, or finds it there. It can be used at once: nobody else has it, so nobody is asked.
    pub(crate) fn add_address6(&mut self, index: u32, address: Ipv6Net) -> Result<()> {
        let builder = AddressMessageBuilder::<Ipv6Addr>::new().index(index);
        let mut message = builder.address(address.addr(), address.prefix_len()).build();
        message.header.flags |= AddressHeaderFlags::Nodad;
        let action = || format!("give link {index} the address {address}");
        self.act(action, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    pub(crate) fn delete_address6(&mut self, index: u32, address: Ipv6Net) -> Result<()> {
        let builder = AddressMessageBuilder::<Ipv6Addr>::new().index(index);
        let message = builder.address(address.addr(), address.prefix_len()).build();
        let action = || format!("take {address} from link {index}");
        gone_is_fine(self.act(action, RouteNetlinkMessage::DelAddress(message), 0))
    }

    /// All IPv6 addresses here, with the index of their link.
    pub(crate) fn addresses6(&mut self) -> Result<Vec<(u32, Ipv6Net)>> {
        let answers = self
            .request(RouteNetlinkMessage::GetAddress(AddressMessage::default()), NLM_F_DUMP)
            .map_err(|source| NetworkError::Netlink { action: "list addresses".into(), source })?;
        let one = |m: RouteNetlinkMessage| {
            let RouteNetlinkMessage::NewAddress(address) = m else { return None };
            let ip = address.attributes.iter().find_map(|a| match a {
                AddressAttribute::Address(IpAddr::V6(ip)) => Some(*ip),
                _ => None,
            })?;
            Some((address.header.index, Ipv6Net::new(ip, address.header.prefix_len).ok()?))
        };
        Ok(answers.into_iter().filter_map(one).collect())
    }

    /// Adds or changes the route to `dst`.
    pub(crate) fn set_route6(&mut self, dst: Ipv6Net, gateway: Ipv6Addr, link: u32) -> Result<()> {
        let message = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(dst.network(), dst.prefix_len())
            .gateway(gateway)
            .output_interface(link)
            .build();
        let action = || format!("route {dst} via {gateway}");
        self.act(action, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes the routes to `dst` over the link away; fine if there is none.
    pub(crate) fn delete_route6(&mut self, dst: Ipv6Net, link: u32) -> Result<()> {
        let mut message = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(dst.network(), dst.prefix_len())
            .output_interface(link)
            .build();
        message.header.scope = RouteScope::NoWhere;
        gone_is_fine(self.act(|| format!("unroute {dst}"), RouteNetlinkMessage::DelRoute(message), 0))
    }

    /// The unicast IPv6 routes of the main table.
    pub(crate) fn routes6(&mut self) -> Result<Vec<Route6>> {
        let query = RouteMessageBuilder::<Ipv6Addr>::new().build();
        let answers = self
            .request(RouteNetlinkMessage::GetRoute(query), NLM_F_DUMP)
            .map_err(|source| NetworkError::Netlink { action: "list routes".into(), source })?;
        let routes = answers.into_iter().filter_map(|m| match m {
            RouteNetlinkMessage::NewRoute(route) => main_route(&route),
            _ => None,
        });
        Ok(routes.collect())
    }

    /// Fixes the MAC of a neighbour, so that it is never asked for and cannot be forged.
    pub(crate) fn set_neighbour6(&mut self, link: u32, ip: Ipv6Addr, mac: Mac) -> Result<()> {
        let mut message = neighbour(link, ip);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
        let action = || format!("set the neighbour {ip}");
        self.act(action, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Forgets a neighbour; fine if it is unknown.
    pub(crate) fn delete_neighbour6(&mut self, link: u32, ip: Ipv6Addr) -> Result<()> {
        let message = neighbour(link, ip);
        let action = || format!("forget the neighbour {ip}");
        gone_is_fine(self.act(action, RouteNetlinkMessage::DelNeighbour(message), 0))
    }
}

fn neighbour(link: u32, ip: Ipv6Addr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = rtnetlink::packet_route::AddressFamily::Inet6;
    message.header.ifindex = link;
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)));
    message
}

fn main_route(route: &RouteMessage) -> Option<Route6> {
    if route.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut dst = Ipv6Addr::UNSPECIFIED;
    let (mut link, mut gateway) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => dst = *ip,
            RouteAttribute::Oif(index) => link = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip)) => gateway = Some(*ip),
            _ => {}
        }
    }
    Some(Route6 { dst: Ipv6Net::new(dst, route.header.destination_prefix_length).ok()?, link, gateway })
}
