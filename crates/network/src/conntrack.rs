//! Connection tracking's memory: a client that goes on sending keeps its entry, and with it a target that may be gone, a way that rules
//! closed, or an address that is another's by now. So entries that are no longer as the rules say are deleted. (A Service's TCP
//! connections need none of it: a connection to what is gone ends by itself.)
//!
//! The messages are those of the kernel's `ctnetlink` (`linux/netfilter/nfnetlink_conntrack.h`): a dump of all entries, and a deletion by
//! the tuple of each that is stale.

use crate::error::{NetworkError, Result};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Messages of the subsystem ctnetlink, whose number is 1.
const GET: u16 = (1 << 8) | 1;
const DELETE: u16 = (1 << 8) | 2;
/// Flags of a request.
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
/// Messages of netlink itself.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Attributes of an entry.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ZONE: u16 = 18;
/// Attributes of a tuple, and those inside them.
const ADDRESSES: u16 = 1;
const PROTOCOL: u16 = 2;
const NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
/// Numbers of protocols.
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
/// Bytes of a netlink header, and of it with what netfilter puts behind.
const HEADER: usize = 16;
const HEADERS: usize = 20;

/// An entry: who began it, where that one sent to, and who answers. Ports are 0 where the protocol has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flow<A = Ipv4Addr> {
    /// Its number.
    pub(crate) protocol: u8,
    /// The address and port of the client.
    pub(crate) source: (A, u16),
    /// Those that the client knows.
    pub(crate) front: (A, u16),
    /// Those of who gets it.
    pub(crate) target: (A, u16),
    /// Those under which the client is known there.
    pub(crate) outer: (A, u16),
    /// Type and code of what began it.
    pub(crate) icmp: Option<(u8, u8)>,
}

/// The addresses of a family, as entries have them.
pub(crate) trait Address: Copy {
    /// The family's number.
    const FAMILY: u8;
    /// Attributes: a source, a destination, and the type and code of its ICMP.
    const PARTS: [u16; 4];
    fn read(bytes: &[u8]) -> Option<Self>;
}

impl Address for Ipv4Addr {
    const FAMILY: u8 = 2;
    const PARTS: [u16; 4] = [1, 2, 5, 6];
    fn read(bytes: &[u8]) -> Option<Self> {
        <[u8; 4]>::try_from(bytes).ok().map(Into::into)
    }
}

impl Address for Ipv6Addr {
    const FAMILY: u8 = 10;
    const PARTS: [u16; 4] = [3, 4, 8, 9];
    fn read(bytes: &[u8]) -> Option<Self> {
        <[u8; 16]>::try_from(bytes).ok().map(Into::into)
    }
}

impl<A: Into<IpAddr>> Flow<A> {
    /// It, whatever its family.
    pub(crate) fn any(self) -> Flow<IpAddr> {
        let of = |(ip, port): (A, u16)| (ip.into(), port);
        Flow {
            protocol: self.protocol,
            source: of(self.source),
            front: of(self.front),
            target: of(self.target),
            outer: of(self.outer),
            icmp: self.icmp,
        }
    }
}

/// [`forget`] of UDP alone.
pub(crate) fn forget_udp(stale: impl Fn(Flow) -> bool) -> Result<()> {
    forget(|flow: Flow| flow.protocol == UDP && stale(flow))
}

/// Deletes the entries of a family in the calling thread's namespace that are `stale`. Blocks.
///
/// # Errors
/// The kernel's refusal.
pub(crate) fn forget<A: Address>(stale: impl Fn(Flow<A>) -> bool) -> Result<()> {
    let failed = |source| NetworkError::Netlink { action: "clean up connection tracking".to_owned(), source };
    let work = || -> io::Result<()> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&message(A::FAMILY, GET, REQUEST | DUMP, &[]), 0)?;
        let mut doomed = Vec::new();
        read(&socket, |entry| {
            if let Some((flow, key)) = parse(entry)
                && stale(flow)
            {
                doomed.push(key);
            }
        })?;
        for key in doomed {
            socket.send(&message(A::FAMILY, DELETE, REQUEST | ACK, &key), 0)?;
            match read(&socket, |_| {}) {
                // It has ended meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    };
    work().map_err(failed)
}

fn message(family: u8, kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    // A message is a few dozen bytes long.
    let length = (HEADERS + attributes.len()) as u32;
    let mut out = Vec::with_capacity(HEADERS + attributes.len());
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    // Sequence and port, which one question at a time does not need.
    out.extend([0; 8]);
    // Version 0, resource 0.
    out.extend([family, 0, 0, 0]);
    out.extend(attributes);
    out
}

/// Hands each entry to `each`, until the end of the dump or the acknowledgement.
fn read(socket: &Socket, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while let Some((header, _)) = rest.split_first_chunk::<HEADER>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let Some(message) = rest.get(..length.max(HEADER)) else { break };
            match u16::from_ne_bytes([header[4], header[5]]) {
                DONE => return Ok(()),
                ERROR => {
                    let code = message.get(HEADER..HEADERS).and_then(|code| code.try_into().ok());
                    return match i32::from_ne_bytes(code.unwrap_or_default()) {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => each(message.get(HEADERS..).unwrap_or_default()),
            }
            rest = rest.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// An attribute of this type among those of `bytes`: its payload, and all of it as it stands there.
fn attribute(bytes: &[u8], wanted: u16) -> Option<(&[u8], &[u8])> {
    let mut rest = bytes;
    while let Some((header, _)) = rest.split_first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]])).max(4);
        // The two highest bits say how the payload is to be read.
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        if kind == wanted {
            return Some((rest.get(4..length)?, rest.get(..length)?));
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn address<A: Address>(tuple: &[u8], which: u16) -> Option<A> {
    A::read(attribute(attribute(tuple, ADDRESSES)?.0, which)?.0)
}

fn protocol(tuple: &[u8]) -> Option<u8> {
    attribute(attribute(tuple, PROTOCOL)?.0, NUMBER)?.0.first().copied()
}

/// 0 where the protocol has none.
fn port(tuple: &[u8], which: u16) -> Option<u16> {
    match attribute(attribute(tuple, PROTOCOL)?.0, which) {
        Some((bytes, _)) => Some(u16::from_be_bytes(bytes.try_into().ok()?)),
        None => Some(0),
    }
}

fn icmp<A: Address>(tuple: &[u8]) -> Option<(u8, u8)> {
    let protocol = attribute(tuple, PROTOCOL)?.0;
    let byte = |which: u16| attribute(protocol, which)?.0.first().copied();
    Some((byte(A::PARTS[2])?, byte(A::PARTS[3])?))
}

/// An entry of this family, and the attributes by which it is deleted.
fn parse<A: Address>(entry: &[u8]) -> Option<(Flow<A>, Vec<u8>)> {
    let [from, to, ..] = A::PARTS;
    let (original, key) = attribute(entry, ORIGINAL)?;
    let (reply, _) = attribute(entry, REPLY)?;
    let flow = Flow {
        protocol: protocol(original)?,
        source: (address(original, from)?, port(original, SOURCE_PORT)?),
        front: (address(original, to)?, port(original, DESTINATION_PORT)?),
        target: (address(reply, from)?, port(reply, SOURCE_PORT)?),
        outer: (address(reply, to)?, port(reply, DESTINATION_PORT)?),
        icmp: icmp::<A>(original),
    };
    let mut key = key.to_vec();
    key.resize(key.len().next_multiple_of(4), 0);
    key.extend(attribute(entry, ZONE).map(|(_, zone)| zone).unwrap_or_default());
    Some((flow, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(((4 + payload.len()) as u16).to_ne_bytes());
        out.extend(kind.to_ne_bytes());
        out.extend(payload);
        out.resize(out.len().next_multiple_of(4), 0);
        out
    }

    fn tuple(kind: u16, protocol: u8, source: (Ipv4Addr, u16), destination: (Ipv4Addr, u16)) -> Vec<u8> {
        let addresses = [made(1, &source.0.octets()), made(2, &destination.0.octets())];
        let ports = [
            made(NUMBER, &[protocol]),
            made(SOURCE_PORT, &source.1.to_be_bytes()),
            made(DESTINATION_PORT, &destination.1.to_be_bytes()),
        ];
        let nested = 0x8000;
        made(
            kind | nested,
            &[made(ADDRESSES | nested, &addresses.concat()), made(PROTOCOL | nested, &ports.concat())]
                .concat(),
        )
    }

    #[test]
    fn an_entry_says_who_was_asked_and_who_answers() {
        let ip = |last| Ipv4Addr::new(10, 0, 0, last);
        let of = |protocol| {
            [
                tuple(ORIGINAL, protocol, (ip(1), 1000), (ip(9), 53)),
                tuple(REPLY, protocol, (ip(2), 5353), (ip(1), 1000)),
                made(ZONE, &[0, 7]),
            ]
            .concat()
        };
        let (flow, key) = parse::<Ipv4Addr>(&of(UDP)).unwrap();
        let wanted = Flow {
            protocol: UDP,
            source: (ip(1), 1000),
            front: (ip(9), 53),
            target: (ip(2), 5353),
            outer: (ip(1), 1000),
            icmp: None,
        };
        assert_eq!(flow, wanted);
        let entry = of(UDP);
        let wanted = [attribute(&entry, ORIGINAL).unwrap().1, &made(ZONE, &[0, 7])[..6]].concat();
        assert_eq!(key, wanted);
        assert_eq!(parse::<Ipv4Addr>(&of(TCP)).map(|(flow, _)| flow.protocol), Some(TCP));
        assert!(parse::<Ipv6Addr>(&of(TCP)).is_none(), "it is of another family");
        for cut in 0..entry.len() {
            let _ = parse::<Ipv4Addr>(&entry[..cut]); // short ones do not panic
        }
    }
}
