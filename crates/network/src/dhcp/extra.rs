//! Options that a port's owner wants DHCP to give beside, or in place of, those of its subnet: names, values, and how they go over the wire.
//!
//! The names are those of dnsmasq, by which Neutron's users know them; a number stands for itself. What is no option, or has a value that can't be
//! one, is told to nobody.

use crate::view::wire_name;
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraOption {
    /// Of DHCPv6: else it is DHCP's for IPv4.
    pub v6: bool,
    /// A name such as `ntp-server`, or a number.
    pub name: String,
    /// Its value; an empty one takes away what the subnet has told.
    pub value: String,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Addresses, with commas between.
    Addresses,
    /// Text as it is.
    Text,
    /// Text behind its length, 16 bits.
    Sized,
    /// Names of domains, with commas between.
    Names,
    /// A number of as many bytes.
    Number(usize),
    /// `RANGE,GATEWAY,RANGE,GATEWAY`.
    Routes,
    /// Names or addresses, told apart by a first byte (RFC 3361).
    Either,
    /// Addresses, each a suboption (RFC 5908).
    Times,
    /// What it looks like.
    Guess,
}

use Form::{Addresses, Either, Guess, Names, Number, Routes, Sized, Text, Times};

/// The name of what is no option, but the field of messages that says from where a machine boots.
pub(super) const NEXT_SERVER: u8 = 255;

const FOUR: [(&str, u8, Form); 62] = [
    ("netmask", 1, Addresses),
    ("time-offset", 2, Number(4)),
    ("router", 3, Addresses),
    ("dns-server", 6, Addresses),
    ("log-server", 7, Addresses),
    ("lpr-server", 9, Addresses),
    ("boot-file-size", 13, Number(2)),
    ("domain-name", 15, Text),
    ("swap-server", 16, Addresses),
    ("root-path", 17, Text),
    ("extension-path", 18, Text),
    ("ip-forward-enable", 19, Number(1)),
    ("non-local-source-routing", 20, Number(1)),
    ("policy-filter", 21, Addresses),
    ("max-datagram-reassembly", 22, Number(2)),
    ("default-ttl", 23, Number(1)),
    ("mtu", 26, Number(2)),
    ("all-subnets-local", 27, Number(1)),
    ("broadcast", 28, Addresses),
    ("router-discovery", 31, Number(1)),
    ("router-solicitation", 32, Addresses),
    ("static-route", 33, Addresses),
    ("trailer-encapsulation", 34, Number(1)),
    ("arp-timeout", 35, Number(4)),
    ("ethernet-encap", 36, Number(1)),
    ("tcp-ttl", 37, Number(1)),
    ("tcp-keepalive", 38, Number(4)),
    ("nis-domain", 40, Text),
    ("nis-server", 41, Addresses),
    ("ntp-server", 42, Addresses),
    ("vendor-encap", 43, Guess),
    ("netbios-ns", 44, Addresses),
    ("netbios-dd", 45, Addresses),
    ("netbios-nodetype", 46, Number(1)),
    ("netbios-scope", 47, Text),
    ("x-windows-fs", 48, Addresses),
    ("x-windows-dm", 49, Addresses),
    ("t1", 58, Number(4)),
    ("t2", 59, Number(4)),
    ("vendor-class", 60, Text),
    ("nis+-domain", 64, Text),
    ("nis+-server", 65, Addresses),
    ("tftp-server", 66, Text),
    ("tftp-server-name", 66, Text),
    ("bootfile-name", 67, Text),
    ("mobile-ip-home", 68, Addresses),
    ("smtp-server", 69, Addresses),
    ("pop3-server", 70, Addresses),
    ("nntp-server", 71, Addresses),
    ("irc-server", 74, Addresses),
    ("user-class", 77, Text),
    ("posix-timezone", 100, Text),
    ("tzdb-timezone", 101, Text),
    ("ipv6-only", 108, Number(4)),
    ("captive-portal", 114, Text),
    ("domain-search", 119, Names),
    ("sip-server", 120, Either),
    ("classless-static-route", 121, Routes),
    ("vendor-id-encap", 125, Guess),
    ("tftp-server-address", 150, Addresses),
    ("path-prefix", 210, Text),
    ("server-ip-address", NEXT_SERVER, Addresses),
];

const SIX: [(&str, u16, Form); 16] = [
    ("sip-server-domain", 21, Names),
    ("sip-server", 22, Addresses),
    ("dns-server", 23, Addresses),
    ("domain-search", 24, Names),
    ("nis-server", 27, Addresses),
    ("nis+-server", 28, Addresses),
    ("nis-domain", 29, Names),
    ("nis+-domain", 30, Names),
    ("sntp-server", 31, Addresses),
    ("information-refresh-time", 32, Number(4)),
    ("posix-timezone", 41, Text),
    ("tzdb-timezone", 42, Text),
    ("ntp-server", 56, Times),
    ("bootfile-url", 59, Text),
    ("bootfile-param", 60, Sized),
    ("captive-portal", 103, Text),
];

/// What the protocols themselves say: nobody else does.
const OWN: [u8; 10] = [0, 50, 51, 52, 53, 54, 55, 57, 61, 82];
const OWN6: [u16; 17] = [0, 1, 2, 3, 4, 5, 6, 8, 9, 11, 12, 13, 14, 18, 19, 20, 25];

/// The code and the bytes of an option for IPv4; without bytes it is not told.
pub(super) fn four(extra: &ExtraOption) -> Option<(u8, Vec<u8>)> {
    if extra.v6 {
        return None;
    }
    let name = extra.name.to_ascii_lowercase();
    let (code, form) = match name.parse::<u8>() {
        Ok(NEXT_SERVER) => return None,
        Ok(code) => (code, FOUR.iter().find(|known| known.1 == code).map_or(Guess, |known| known.2)),
        Err(_) => FOUR.iter().find(|known| known.0 == name).map(|known| (known.1, known.2))?,
    };
    let bytes = if extra.value.is_empty() { Vec::new() } else { written(form, &extra.value, false)? };
    // More is not one option, which some clients do not take.
    (!OWN.contains(&code) && bytes.len() <= 255).then_some((code, bytes))
}

/// The same of DHCPv6.
pub(super) fn six(extra: &ExtraOption) -> Option<(u16, Vec<u8>)> {
    if !extra.v6 {
        return None;
    }
    let name = extra.name.to_ascii_lowercase();
    let (code, form) = match name.parse::<u16>() {
        Ok(code) => (code, SIX.iter().find(|known| known.1 == code).map_or(Guess, |known| known.2)),
        Err(_) => SIX.iter().find(|known| known.0 == name).map(|known| (known.1, known.2))?,
    };
    let bytes = if extra.value.is_empty() { Vec::new() } else { written(form, &extra.value, true)? };
    (!OWN6.contains(&code)).then_some((code, bytes))
}

fn written(form: Form, value: &str, v6: bool) -> Option<Vec<u8>> {
    let parts = || value.split(',').map(str::trim);
    match form {
        Addresses => addresses(value, v6),
        Text => Some(value.as_bytes().to_vec()),
        Sized => {
            let length = u16::try_from(value.len()).ok()?;
            Some([&length.to_be_bytes()[..], value.as_bytes()].concat())
        }
        Names => parts().map(name).collect::<Option<Vec<_>>>().map(|all| all.concat()),
        Number(bytes) => {
            let number: u32 = value.trim().parse().ok()?;
            let all = number.to_be_bytes();
            let (high, low) = all.split_at(4 - bytes);
            high.iter().all(|byte| *byte == 0).then(|| low.to_vec())
        }
        Routes => routes(&parts().collect::<Vec<_>>()),
        Either => match addresses(value, v6) {
            Some(all) => Some([&[1][..], &all].concat()),
            None => {
                let names = parts().map(name).collect::<Option<Vec<_>>>()?;
                Some([&[0][..], &names.concat()].concat())
            }
        },
        Times => {
            let all = addresses(value, v6)?;
            Some(all.chunks(16).flat_map(|ip| [&[0, 1, 0, 16][..], ip].concat()).collect())
        }
        Guess => guess(value, v6),
    }
}

/// Those of the family; those of the other are left out.
fn addresses(value: &str, v6: bool) -> Option<Vec<u8>> {
    let all: Vec<IpAddr> = value
        .split(',')
        .map(|text| text.trim().trim_start_matches('[').trim_end_matches(']').parse().ok())
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = all
        .into_iter()
        .flat_map(|ip| match ip {
            IpAddr::V4(ip) if !v6 => ip.octets().to_vec(),
            IpAddr::V6(ip) if v6 => ip.octets().to_vec(),
            _ => Vec::new(),
        })
        .collect();
    (!bytes.is_empty()).then_some(bytes)
}

fn name(text: &str) -> Option<Vec<u8>> {
    let name = wire_name(text.trim_end_matches('.'))?;
    let mut bytes = Vec::with_capacity(64);
    let mut encoder = BinEncoder::new(&mut bytes);
    name.emit(&mut encoder).ok()?;
    Some(bytes)
}

/// RFC 3442: of each range as many bytes as it has, then its gateway.
fn routes(parts: &[&str]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (pairs, rest) = parts.as_chunks::<2>();
    for [range, gateway] in pairs {
        let range: Ipv4Net = if range.contains('/') {
            range.parse().ok()?
        } else {
            Ipv4Net::from(range.parse::<Ipv4Addr>().ok()?)
        };
        let gateway: Ipv4Addr = gateway.parse().ok()?;
        let length = usize::from(range.prefix_len());
        bytes.push(range.prefix_len());
        bytes.extend(&range.network().octets()[..length.div_ceil(8)]);
        bytes.extend(gateway.octets());
    }
    rest.is_empty().then_some(bytes)
}

/// Addresses, bytes such as `01:a0:ff`, a number, or text.
fn guess(value: &str, v6: bool) -> Option<Vec<u8>> {
    if let Some(all) = addresses(value, v6) {
        return Some(all);
    }
    let bytes: Option<Vec<u8>> = value
        .split(':')
        .map(|part| u8::from_str_radix(part, 16).ok().filter(|_| (1..=2).contains(&part.len())))
        .collect();
    if let Some(bytes) = bytes.filter(|bytes| bytes.len() > 1) {
        return Some(bytes);
    }
    Some(match value.parse::<u32>() {
        Ok(number) => {
            let bytes = number.to_be_bytes();
            let length = if number < 1 << 8 {
                1
            } else if number < 1 << 16 {
                2
            } else {
                4
            };
            bytes[4 - length..].to_vec()
        }
        Err(_) => value.as_bytes().to_vec(),
    })
}

/// Where a machine boots from, if that is among the options.
pub(super) fn next_server(all: &[ExtraOption]) -> Option<Ipv4Addr> {
    let told = all.iter().filter_map(four).find(|(code, _)| *code == NEXT_SERVER)?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(told.1.get(..4)?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;

    fn of(v6: bool, name: &str, value: &str) -> ExtraOption {
        ExtraOption { v6, name: name.into(), value: value.into() }
    }

    #[test]
    fn values_are_written_as_their_option_has_them() {
        let told = |name: &str, value: &str| four(&of(false, name, value));
        assert_eq!(told("ntp-server", "10.0.0.1, 10.0.0.2"), Some((42, vec![10, 0, 0, 1, 10, 0, 0, 2])));
        assert_eq!(told("42", "10.0.0.1"), Some((42, vec![10, 0, 0, 1])));
        assert_eq!(told("Bootfile-Name", "pxelinux.0"), Some((67, b"pxelinux.0".to_vec())));
        assert_eq!(told("mtu", "1400"), Some((26, vec![5, 120])));
        assert_eq!(told("mtu", "70000"), None);
        assert_eq!(told("domain-search", "a.b"), Some((119, vec![1, b'a', 1, b'b', 0])));
        let routes = told("classless-static-route", "10.8.0.0/14,10.0.0.9,0.0.0.0/0,10.0.0.1");
        assert_eq!(routes, Some((121, vec![14, 10, 8, 10, 0, 0, 9, 0, 10, 0, 0, 1])));
        assert_eq!(told("classless-static-route", "10.8.0.0/14"), None);
        assert_eq!(told("router", ""), Some((3, vec![])));
        assert_eq!(told("200", "01:a0:ff"), Some((200, vec![1, 0xa0, 0xff])));
        assert_eq!(told("200", "300"), Some((200, vec![1, 44])));
        assert_eq!(told("200", "a b"), Some((200, b"a b".to_vec())));
        for (name, value) in [("test_option_1", "x"), ("53", "5"), ("router", "nowhere"), ("255", "1")] {
            assert_eq!(told(name, value), None, "{name}");
        }
        assert_eq!(told("server-ip-address", "2001:db8::1"), None, "of the other family");
        assert_eq!(
            next_server(&[of(false, "server-ip-address", "192.0.2.9")]),
            Some(Ipv4Addr::new(192, 0, 2, 9))
        );
    }

    #[test]
    fn those_of_ipv6_are_told_by_dhcpv6_alone() {
        let told = |name: &str, value: &str| six(&of(true, name, value));
        let own: Ipv6Addr = "2001:db8::1".parse().expect("an address");
        assert_eq!(told("dns-server", "[2001:db8::1]"), Some((23, own.octets().to_vec())));
        assert_eq!(told("bootfile-param", "a=b"), Some((60, vec![0, 3, b'a', b'=', b'b'])));
        let (_, times) = told("ntp-server", "2001:db8::1").expect("an option");
        assert_eq!((&times[..4], times.len()), (&[0, 1, 0, 16][..], 20));
        assert_eq!(told("3", "1"), None, "an association is DHCPv6's own");
        assert_eq!((four(&of(true, "mtu", "1400")), six(&of(false, "dns-server", "::1"))), (None, None));
    }
}
