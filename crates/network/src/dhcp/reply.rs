//! What to answer a DHCP client, and where to send it. No I/O.

use super::extra;
use crate::metadata;
use crate::types::{Mac, Member, SubnetConfig};
use crate::view::{NetworkView, wire_name};
use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode, UnknownOption};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use ipnet::Ipv4Net;
use std::net::{Ipv4Addr, SocketAddrV4};

/// How long a lease lasts, seconds. The address is the Port's anyway; a shorter lease would only make noise.
const LEASE: u32 = 86_400;

/// A datagram to send.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) to: SocketAddrV4,
    pub(crate) bytes: Vec<u8>,
}

/// Reads a client's message. The decoder is not ours and sees what guests send: a panic in it is a bad message.
pub(crate) fn decode(bytes: &[u8]) -> Option<Message> {
    std::panic::catch_unwind(|| Message::decode(&mut Decoder::new(bytes)).ok()).ok().flatten()
}

/// The answer to `request`, if it deserves one.
pub(crate) fn answer(view: &NetworkView, domain: &str, request: &Message) -> Option<Outgoing> {
    if request.opcode() != Opcode::BootRequest || request.htype() != HType::Eth || request.hlen() != 6 {
        return None;
    }
    let mac = Mac(request.chaddr().get(..6)?.try_into().ok()?);
    let member = view.by_mac(mac)?;
    let (subnet, ip) = member.ips.iter().find_map(|ip| Some((view.subnet_of(*ip)?, *ip)))?;
    if !subnet.dhcp {
        return None;
    }
    let lease = Lease { view, domain, member, subnet, ip };
    let asked = request.opts();
    let for_another = matches!(asked.get(OptionCode::ServerIdentifier), Some(DhcpOption::ServerIdentifier(id)) if *id != subnet.gateway);
    match asked.msg_type()? {
        MessageType::Discover => lease.reply(request, MessageType::Offer),
        MessageType::Request if for_another => None,
        MessageType::Request => {
            let wanted = match asked.get(OptionCode::RequestedIpAddress) {
                Some(DhcpOption::RequestedIpAddress(wanted)) => *wanted,
                _ => request.ciaddr(),
            };
            let kind = if wanted == ip { MessageType::Ack } else { MessageType::Nak };
            lease.reply(request, kind)
        }
        MessageType::Inform => lease.reply(request, MessageType::Ack),
        // The address stays the Port's: there is nothing to release, and a decline cannot be helped.
        _ => None,
    }
}

struct Lease<'a> {
    view: &'a NetworkView,
    domain: &'a str,
    member: &'a Member,
    subnet: &'a SubnetConfig,
    ip: Ipv4Addr,
}

impl Lease<'_> {
    fn reply(&self, request: &Message, kind: MessageType) -> Option<Outgoing> {
        let nak = kind == MessageType::Nak;
        let inform = request.opts().has_msg_type(MessageType::Inform);
        let mut reply = Message::default();
        reply
            .set_opcode(Opcode::BootReply)
            .set_htype(HType::Eth)
            .set_xid(request.xid())
            .set_flags(Flags::default().set_broadcast_if(request.flags().broadcast() || nak))
            .set_chaddr(&self.member.mac.0)
            .set_giaddr(request.giaddr());
        if !nak {
            reply.set_ciaddr(request.ciaddr());
            if !inform {
                reply.set_yiaddr(self.ip);
                let next = extra::next_server(&self.member.options);
                reply.set_siaddr(next.unwrap_or(self.subnet.gateway));
            }
        }
        let options = reply.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        options.insert(DhcpOption::ServerIdentifier(self.subnet.gateway));
        if !nak {
            for option in self.options(inform) {
                options.insert(option);
            }
        }
        let own = if nak { Vec::new() } else { self.own(&mut reply, request) };
        let mut bytes = encoded(&reply)?;
        // Long names may make it longer than a client takes, which then has no address at all: it does without them.
        for less in LEAST_NEEDED.into_iter().chain(own) {
            if bytes.len() <= longest(request) {
                break;
            }
            reply.opts_mut().remove(less);
            bytes = encoded(&reply)?;
        }
        // BOOTP's smallest size; some clients drop shorter messages.
        bytes.resize(bytes.len().max(300), 0);
        Some(Outgoing { to: SocketAddrV4::new(self.destination(request, kind), 68), bytes })
    }

    /// Adds what the port's owner wants told, in place of what all are told; answers what of it the client has not asked for.
    fn own(&self, reply: &mut Message, request: &Message) -> Vec<OptionCode> {
        let asked = match request.opts().get(OptionCode::ParameterRequestList) {
            Some(DhcpOption::ParameterRequestList(asked)) => asked.as_slice(),
            _ => &[],
        };
        let mut unasked = Vec::new();
        for (code, bytes) in self.member.options.iter().filter_map(extra::four) {
            if code == extra::NEXT_SERVER {
                continue;
            }
            reply.opts_mut().remove(code.into());
            if !bytes.is_empty() {
                reply.opts_mut().insert(DhcpOption::Unknown(UnknownOption::new(code.into(), bytes)));
            }
            if !asked.contains(&code.into()) {
                unasked.push(OptionCode::Unknown(code));
            }
        }
        unasked
    }

    /// RFC 2131, 4.1. A client without an address can be reached at the new one: its MAC is fixed in our neighbour table.
    fn destination(&self, request: &Message, kind: MessageType) -> Ipv4Addr {
        if kind == MessageType::Nak {
            Ipv4Addr::BROADCAST
        } else if !request.ciaddr().is_unspecified() {
            // Never elsewhere than to the port's own address, whatever the client claims.
            self.ip
        } else if request.flags().broadcast() {
            Ipv4Addr::BROADCAST
        } else {
            self.ip
        }
    }

    fn options(&self, inform: bool) -> Vec<DhcpOption> {
        let gateway = self.subnet.gateway;
        let servers =
            if self.subnet.dns_servers.is_empty() { vec![gateway] } else { self.subnet.dns_servers.clone() };
        let host_domain = self.view.host_domain(self.domain);
        let searches = self.view.searches(&self.view.config.namespace, self.domain);
        let names = searches.iter().filter_map(|domain| wire_name(domain)).collect();
        let mut all = vec![
            DhcpOption::SubnetMask(self.subnet.cidr.netmask()),
            DhcpOption::BroadcastAddr(self.subnet.cidr.broadcast()),
            DhcpOption::DomainNameServer(servers),
            DhcpOption::DomainName(host_domain),
            DhcpOption::DomainSearch(names),
            DhcpOption::InterfaceMtu(u16::try_from(self.view.config.mtu).unwrap_or(u16::MAX)),
        ];
        let mut routes = vec![(Ipv4Net::from(metadata::ADDRESS), gateway)];
        routes.extend(&self.subnet.routes);
        if !self.subnet.isolated {
            all.push(DhcpOption::Router(vec![gateway]));
            // Clients that know the next option ignore the router above, so the default route is there again.
            if self.subnet.routes.iter().all(|(range, _)| range.prefix_len() != 0) {
                routes.push((Ipv4Net::default(), gateway));
            }
        }
        all.push(DhcpOption::ClasslessStaticRoute(routes));
        if !self.member.hostname.is_empty() {
            all.push(DhcpOption::Hostname(self.member.hostname.clone()));
        }
        if !inform {
            all.push(DhcpOption::AddressLeaseTime(LEASE));
        }
        all
    }
}

/// What a reply that is too long goes without, in this order.
const LEAST_NEEDED: [OptionCode; 3] =
    [OptionCode::DomainSearch, OptionCode::DomainName, OptionCode::Hostname];
/// The smallest size of datagrams that every client takes (RFC 2131, section 2), and what of it are headers of IP and UDP.
const SMALLEST: u16 = 576;
const HEADERS: usize = 28;

/// The longest message that the client takes.
fn longest(request: &Message) -> usize {
    let size = match request.opts().get(OptionCode::MaxMessageSize) {
        Some(DhcpOption::MaxMessageSize(size)) => (*size).max(SMALLEST),
        _ => SMALLEST,
    };
    usize::from(size) - HEADERS
}

fn encoded(reply: &Message) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(600);
    reply.encode(&mut Encoder::new(&mut bytes)).ok()?;
    Some(bytes)
}

trait BroadcastIf {
    fn set_broadcast_if(self, broadcast: bool) -> Self;
}

impl BroadcastIf for Flags {
    fn set_broadcast_if(self, broadcast: bool) -> Self {
        if broadcast { self.set_broadcast() } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::sample;

    fn ask(kind: MessageType, mac: u8, more: &[DhcpOption]) -> Message {
        let mut message = Message::new(
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED,
            &[2, 0, 0, 0, 0, mac],
        );
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        for option in more {
            message.opts_mut().insert(option.clone());
        }
        message
    }

    fn kind_of(out: Option<Outgoing>) -> Option<(MessageType, Ipv4Addr, Ipv4Addr)> {
        let out = out?;
        let message = decode(&out.bytes)?;
        Some((message.opts().msg_type()?, message.yiaddr(), *out.to.ip()))
    }

    #[test]
    fn a_port_gets_its_own_address_and_nobody_else_gets_any() {
        let view = sample();
        let own: Ipv4Addr = "10.0.0.7".parse().unwrap();
        let say = |request| kind_of(answer(&view, "cluster.local", &request));
        assert_eq!(say(ask(MessageType::Discover, 7, &[])), Some((MessageType::Offer, own, own)));
        assert_eq!(say(ask(MessageType::Discover, 8, &[])), None, "unknown MAC");
        let want = |ip: &str| DhcpOption::RequestedIpAddress(ip.parse().unwrap());
        assert_eq!(
            say(ask(MessageType::Request, 7, &[want("10.0.0.7")])),
            Some((MessageType::Ack, own, own))
        );
        assert_eq!(
            say(ask(MessageType::Request, 7, &[want("10.0.0.8")])),
            Some((MessageType::Nak, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST))
        );
        let other = DhcpOption::ServerIdentifier("10.0.0.9".parse().unwrap());
        assert_eq!(
            say(ask(MessageType::Request, 7, &[want("10.0.0.7"), other])),
            None,
            "it chose another server"
        );
        assert_eq!(say(ask(MessageType::Release, 7, &[])), None);
    }

    #[test]
    fn long_names_make_no_reply_that_clients_cannot_take() {
        let mut view = sample();
        view.config.namespace = "n".repeat(63);
        let told = |view: &NetworkView, more: &[DhcpOption]| {
            let domain = "a-domain.of-a-cloud.whose-name-is-rather-long.example.com";
            let out = answer(view, domain, &ask(MessageType::Discover, 7, more)).unwrap();
            let message = decode(&out.bytes).unwrap();
            let has = |code| message.opts().get(code).is_some();
            (out.bytes.len(), has(OptionCode::DomainSearch), has(OptionCode::ClasslessStaticRoute))
        };
        let (length, search, routes) = told(&view, &[DhcpOption::MaxMessageSize(1500)]);
        assert!(length > 548 && search && routes, "{length}");
        for few in [vec![], vec![DhcpOption::MaxMessageSize(576)], vec![DhcpOption::MaxMessageSize(1)]] {
            let (length, search, routes) = told(&view, &few);
            assert!(length <= 548 && !search && routes, "{length}");
        }
    }

    #[test]
    fn routes_are_those_of_the_subnet() {
        let mut view = sample();
        let far = ("10.20.0.0/16".parse().unwrap(), "10.0.0.9".parse().unwrap());
        view.config.subnets[0].routes = vec![far];
        let told = |view: &NetworkView| {
            let out = answer(view, "cluster.local", &ask(MessageType::Discover, 7, &[])).unwrap();
            let message = decode(&out.bytes).unwrap();
            let routes = match message.opts().get(OptionCode::ClasslessStaticRoute) {
                Some(DhcpOption::ClasslessStaticRoute(routes)) => routes.clone(),
                other => panic!("{other:?}"),
            };
            (routes, message.opts().get(OptionCode::Router).is_some())
        };
        let gateway: Ipv4Addr = "10.0.0.1".parse().unwrap();
        let metadata = (Ipv4Net::from(metadata::ADDRESS), gateway);
        assert_eq!(told(&view), (vec![metadata, far, (Ipv4Net::default(), gateway)], true));
        view.config.subnets[0].isolated = true;
        assert_eq!(told(&view), (vec![metadata, far], false), "no default route");
    }

    #[test]
    fn what_a_port_wants_told_is_told_to_it_alone_and_in_place_of_the_rest() {
        let mut view = sample();
        let option = |name: &str, value: &str| extra::ExtraOption {
            v6: false,
            name: name.into(),
            value: value.into(),
        };
        view.members[0].options = vec![
            option("bootfile-name", "pxelinux.0"),
            option("router", ""),
            option("mtu", "1300"),
            option("server-ip-address", "192.0.2.9"),
        ];
        let asked = |view: &NetworkView| {
            let out = answer(view, "cluster.local", &ask(MessageType::Discover, 7, &[])).unwrap();
            decode(&out.bytes).unwrap()
        };
        let message = asked(&view);
        let told = |code| message.opts().get(code).cloned();
        assert_eq!(told(OptionCode::BootfileName), Some(DhcpOption::BootfileName(b"pxelinux.0".to_vec())));
        assert_eq!(told(OptionCode::InterfaceMtu), Some(DhcpOption::InterfaceMtu(1300)));
        assert_eq!((told(OptionCode::Router), message.siaddr()), (None, "192.0.2.9".parse().unwrap()));
        view.members[0].options = vec![option("200", &"x".repeat(250)), option("201", &"y".repeat(250))];
        let long = answer(&view, "cluster.local", &ask(MessageType::Discover, 7, &[])).unwrap();
        assert!(long.bytes.len() <= 548, "{}", long.bytes.len());
        let want = DhcpOption::ParameterRequestList(vec![OptionCode::Unknown(201)]);
        let short = answer(&view, "cluster.local", &ask(MessageType::Discover, 7, &[want])).unwrap();
        let message = decode(&short.bytes).unwrap();
        let has = |code| message.opts().get(OptionCode::Unknown(code)).is_some();
        assert_eq!((has(200), has(201)), (false, true), "what was asked for stays");
    }

    #[test]
    fn a_client_that_asks_for_broadcast_gets_it() {
        let mut request = ask(MessageType::Discover, 7, &[]);
        request.set_flags(Flags::default().set_broadcast());
        let out = answer(&sample(), "cluster.local", &request).unwrap();
        assert_eq!(*out.to.ip(), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn garbage_is_no_message() {
        for bytes in [&[][..], &[1; 10], &[0xff; 600]] {
            if let Some(message) = decode(bytes) {
                assert!(answer(&sample(), "cluster.local", &message).is_none());
            }
        }
    }
}
