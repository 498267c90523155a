//! What to answer a DHCPv6 client (RFC 8415). No I/O.
//!
//! Who asks is known by its link-local address, which the port's rules keep honest. The addresses are the Port's: nothing is leased.

use super::extra;
use crate::bridge;
use crate::six::AddressMode;
use crate::types::Member;
use crate::view::{NetworkView, wire_name};
use dhcproto::v6::{
    DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, OptionCode, Status, StatusCode,
    UnknownOption,
};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use std::net::Ipv6Addr;

/// How long addresses are valid and preferred, and when clients ask again, seconds.
const VALID: u32 = 86_400;
const PREFERRED: u32 = 43_200;
const RENEW: u32 = 21_600;
const REBIND: u32 = 34_560;
/// Associations of one message that are answered.
const MOST: usize = 8;

/// Reads a client's message. The decoder is not ours and sees what guests send: a panic in it is a bad message.
pub(crate) fn decode(bytes: &[u8]) -> Option<Message> {
    std::panic::catch_unwind(|| Message::decode(&mut Decoder::new(bytes)).ok()).ok().flatten()
}

/// The answer to what came from `source`, if it deserves one.
pub(crate) fn answer(
    view: &NetworkView,
    domain: &str,
    source: Ipv6Addr,
    request: &Message,
) -> Option<Vec<u8>> {
    let member = view.by_link_local(source)?;
    let server = server_id(view);
    let asked = request.opts();
    let kind = request.msg_type();
    let named = match asked.get(OptionCode::ServerId) {
        Some(DhcpOption::ServerId(id)) => Some(*id == server),
        _ => None,
    };
    let client = match asked.get(OptionCode::ClientId) {
        Some(DhcpOption::ClientId(id)) => Some(id.clone()),
        _ => None,
    };
    let rapid = asked.get(OptionCode::RapidCommit).is_some();
    // Whether it must name a server, must not, or may (RFC 8415, section 16).
    let right = match kind {
        MessageType::Solicit | MessageType::Confirm | MessageType::Rebind => {
            named.is_none() && client.is_some()
        }
        MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline => {
            named == Some(true) && client.is_some()
        }
        MessageType::InformationRequest => named != Some(false) && asked.get(OptionCode::IANA).is_none(),
        _ => false,
    };
    if !right {
        return None;
    }
    let own = |mode: AddressMode| {
        let mut subnets = view.config.subnets6.iter();
        subnets.find(|subnet| {
            subnet.assigned == Some(mode) && member.ips6.iter().any(|ip| subnet.cidr.contains(ip))
        })
    };
    let (managed, stateless) = (own(AddressMode::Stateful), own(AddressMode::Stateless));
    let subnet = managed.or(stateless)?;
    let mut options = DhcpOptions::new();
    options.insert(DhcpOption::ServerId(server));
    if let Some(client) = client {
        options.insert(DhcpOption::ClientId(client));
    }
    let mut reply = MessageType::Reply;
    match kind {
        MessageType::Solicit | MessageType::Request | MessageType::Renew | MessageType::Rebind => {
            if kind == MessageType::Solicit && rapid {
                options.insert(DhcpOption::RapidCommit);
            } else if kind == MessageType::Solicit {
                reply = MessageType::Advertise;
            }
            let addresses = given(member, view);
            if addresses.is_empty() && kind == MessageType::Solicit {
                options.insert(status(Status::NoAddrsAvail, "this port has no address that DHCPv6 gives"));
            }
            for association in associations(asked) {
                options.insert(DhcpOption::IANA(filled(association, &addresses)));
            }
        }
        MessageType::Confirm => {
            let addresses = given(member, view);
            let mut wanted = associations(asked).into_iter().flat_map(|it| addresses_in(&it.opts)).peekable();
            wanted.peek()?;
            let known = wanted.all(|ip| addresses.contains(&ip));
            options.insert(match known {
                true => status(Status::Success, "these are the port's addresses"),
                false => status(Status::NotOnLink, "these are not the port's addresses"),
            });
        }
        // The addresses stay the Port's: there is nothing to release, and a decline cannot be helped.
        MessageType::Release | MessageType::Decline => {
            options.insert(status(Status::Success, "the port keeps its addresses"));
        }
        _ => {}
    }
    options.insert(DhcpOption::DomainNameServers(subnet.resolvers()));
    let searches: Vec<_> =
        view.searches(&view.config.namespace, domain).iter().filter_map(|name| wire_name(name)).collect();
    options.insert(DhcpOption::DomainSearchList(searches));
    for (code, bytes) in member.options.iter().filter_map(extra::six) {
        drop(options.remove_all(code.into()));
        if !bytes.is_empty() {
            options.insert(DhcpOption::Unknown(UnknownOption::new(code.into(), bytes)));
        }
    }
    let mut message = Message::new_with_id(reply, request.xid());
    message.set_opts(options);
    let mut bytes = Vec::with_capacity(400);
    message.encode(&mut Encoder::new(&mut bytes)).ok()?;
    Some(bytes)
}

/// The server's identifier: its MAC (DUID-LL).
fn server_id(view: &NetworkView) -> Vec<u8> {
    let mut id = vec![0, 3, 0, 1];
    id.extend(bridge::gateway_mac(&view.config.uid).0);
    id
}

/// The addresses that DHCPv6 gives to a port: those of the subnets where it does.
fn given(member: &Member, view: &NetworkView) -> Vec<Ipv6Addr> {
    let managed = |ip: &&Ipv6Addr| {
        let mut subnets = view.config.subnets6.iter();
        subnets.any(|subnet| subnet.assigned == Some(AddressMode::Stateful) && subnet.cidr.contains(*ip))
    };
    member.ips6.iter().filter(managed).copied().collect()
}

fn associations(options: &DhcpOptions) -> Vec<IANA> {
    let all = options.iter().filter_map(|option| match option {
        DhcpOption::IANA(association) => Some(association.clone()),
        _ => None,
    });
    all.take(MOST).collect()
}

fn addresses_in(options: &DhcpOptions) -> Vec<Ipv6Addr> {
    let all = options.iter().filter_map(|option| match option {
        DhcpOption::IAAddr(address) => Some(address.addr),
        _ => None,
    });
    all.collect()
}

/// An association as the client is to have it: with the port's addresses, and none of others.
fn filled(asked: IANA, addresses: &[Ipv6Addr]) -> IANA {
    let mut opts = DhcpOptions::new();
    let address = |addr: Ipv6Addr, preferred_life: u32, valid_life: u32| {
        DhcpOption::IAAddr(IAAddr { addr, preferred_life, valid_life, opts: DhcpOptions::new() })
    };
    for ip in addresses {
        opts.insert(address(*ip, PREFERRED, VALID));
    }
    for old in addresses_in(&asked.opts).into_iter().filter(|ip| !addresses.contains(ip)).take(MOST) {
        opts.insert(address(old, 0, 0));
    }
    if addresses.is_empty() {
        opts.insert(status(Status::NoAddrsAvail, "this port has no address that DHCPv6 gives"));
    }
    IANA { id: asked.id, t1: RENEW, t2: REBIND, opts }
}

fn status(status: Status, text: &str) -> DhcpOption {
    DhcpOption::StatusCode(StatusCode { status, msg: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::six::link_local;
    use crate::view::sample6;

    fn ask(kind: MessageType, more: &[DhcpOption]) -> Message {
        let mut message = Message::new_with_id(kind, [1, 2, 3]);
        message.opts_mut().insert(DhcpOption::ClientId(vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 7]));
        for option in more {
            message.opts_mut().insert(option.clone());
        }
        message
    }

    fn association() -> DhcpOption {
        DhcpOption::IANA(IANA { id: 9, t1: 0, t2: 0, opts: DhcpOptions::new() })
    }

    fn told(view: &NetworkView, request: &Message) -> Option<Message> {
        let source = link_local("02:00:00:00:00:07".parse().unwrap());
        decode(&answer(view, "cluster.local", source, request)?)
    }

    #[test]
    fn a_port_gets_its_own_address_where_dhcpv6_gives_it() {
        let mut view = sample6();
        view.config.subnets6[0].assigned = Some(AddressMode::Stateful);
        let own: Ipv6Addr = "2001:db8::7".parse().unwrap();
        let offer = told(&view, &ask(MessageType::Solicit, &[association()])).unwrap();
        assert_eq!((offer.msg_type(), offer.xid()), (MessageType::Advertise, [1, 2, 3]));
        let given = associations(offer.opts());
        assert_eq!((given[0].id, addresses_in(&given[0].opts)), (9, vec![own]));
        let server = offer.opts().get(OptionCode::ServerId).unwrap().clone();
        let reply = told(&view, &ask(MessageType::Request, &[association(), server])).unwrap();
        assert_eq!(reply.msg_type(), MessageType::Reply);
        assert!(told(&view, &ask(MessageType::Request, &[association()])).is_none(), "it names no server");
        let other = DhcpOption::ServerId(vec![1]);
        assert!(told(&view, &ask(MessageType::Renew, &[association(), other])).is_none());
        let stranger = link_local("02:00:00:00:00:08".parse().unwrap());
        let request = ask(MessageType::Solicit, &[association()]);
        assert!(answer(&view, "cluster.local", stranger, &request).is_none(), "unknown MAC");
        let rapid = told(&view, &ask(MessageType::Solicit, &[association(), DhcpOption::RapidCommit]));
        assert_eq!(rapid.unwrap().msg_type(), MessageType::Reply);
    }

    #[test]
    fn where_addresses_are_made_the_rest_is_told() {
        let mut view = sample6();
        view.config.subnets6[0].assigned = Some(AddressMode::Stateless);
        let reply = told(&view, &ask(MessageType::InformationRequest, &[])).unwrap();
        assert_eq!(
            reply.opts().get(OptionCode::DomainNameServers),
            Some(&DhcpOption::DomainNameServers(vec!["2001:db8::1".parse().unwrap()]))
        );
        let none = told(&view, &ask(MessageType::Solicit, &[association()])).unwrap();
        assert!(addresses_in(&associations(none.opts())[0].opts).is_empty());
        let option =
            |name: &str, value: &str| extra::ExtraOption { v6: true, name: name.into(), value: value.into() };
        view.members[0].options =
            vec![option("bootfile-url", "tftp://[fd00::9]/x"), option("dns-server", "fd00::53")];
        let reply = told(&view, &ask(MessageType::InformationRequest, &[])).unwrap();
        let all = reply.opts().get_all(OptionCode::DomainNameServers).unwrap();
        assert_eq!(all, [DhcpOption::DomainNameServers(vec!["fd00::53".parse().unwrap()])]);
        assert!(reply.opts().get(OptionCode::OptBootfileUrl).is_some());
        view.config.subnets6[0].assigned = None;
        assert!(told(&view, &ask(MessageType::InformationRequest, &[])).is_none(), "it is not asked to");
    }

    #[test]
    fn garbage_is_no_message() {
        for bytes in [&[][..], &[1; 10], &[0xff; 600], &[1, 0, 0, 0, 0, 3, 0xff, 0xff, 0]] {
            if let Some(message) = decode(bytes) {
                assert!(told(&sample6(), &message).is_none());
            }
        }
    }
}
