//! Addresses and ranges of addresses (Kubernetes' library).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Library, failed, made, of, opaque, table, texts};
use crate::budget::Budget;
use crate::eval::EvalError;
use crate::value::Value;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Address(IpAddr);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    address: IpAddr,
    bits: u8,
}

opaque!(Address, "net.IP");
opaque!(Range, "net.CIDR");

pub(super) fn library() -> Library {
    table(&[
        ("ip", "(string) net.IP", |v, b| match address(v, b)? {
            Some(ip) => Ok(made(Address(ip))),
            None => failed(format!(
                "IP Address {:?} parse error during conversion from string",
                texts::<1>(v)?[0]
            )),
        }),
        ("isIP", "(string) bool", |v, b| Ok(Value::Bool(address(v, b)?.is_some()))),
        ("ip.isCanonical", "(string) bool", |v, b| match address(v, b)? {
            Some(ip) => Ok(Value::Bool(ip.to_string() == texts::<1>(v)?[0])),
            None => failed(format!(
                "IP Address {:?} parse error during conversion from string",
                texts::<1>(v)?[0]
            )),
        }),
        ("family", "net.IP.() int", |v, _| Ok(Value::Int(if ip(v)?.is_ipv4() { 4 } else { 6 }))),
        ("isUnspecified", "net.IP.() bool", |v, _| Ok(Value::Bool(ip(v)?.is_unspecified()))),
        ("isLoopback", "net.IP.() bool", |v, _| Ok(Value::Bool(ip(v)?.is_loopback()))),
        ("isLinkLocalMulticast", "net.IP.() bool", |v, _| Ok(Value::Bool(is_link_multicast(ip(v)?)))),
        ("isLinkLocalUnicast", "net.IP.() bool", |v, _| Ok(Value::Bool(is_link_local(ip(v)?)))),
        ("isGlobalUnicast", "net.IP.() bool", |v, _| Ok(Value::Bool(is_global(ip(v)?)))),
        ("string", "(net.IP) string", |v, _| Ok(ip(v)?.to_string().into())),
        ("cidr", "(string) net.CIDR", |v, b| match range(v, b)? {
            Some(range) => Ok(made(range)),
            None => failed(format!(
                "network address parse error during conversion from string {:?}",
                texts::<1>(v)?[0]
            )),
        }),
        ("isCIDR", "(string) bool", |v, b| Ok(Value::Bool(range(v, b)?.is_some()))),
        ("containsIP", "net.CIDR.(net.IP) bool | net.CIDR.(string) bool", |v, b| {
            let range: &Range = of(v, 0)?;
            let inner = match v.get(1).and_then(Value::opaque::<Address>) {
                Some(address) => Some(address.0),
                None => address(&v[1..], b)?,
            };
            match inner {
                Some(ip) => Ok(Value::Bool(range.contains(ip))),
                None => failed("IP Address parse error during conversion from string"),
            }
        }),
        ("containsCIDR", "net.CIDR.(net.CIDR) bool | net.CIDR.(string) bool", |v, b| {
            let outer: &Range = of(v, 0)?;
            let inner = match v.get(1).and_then(Value::opaque::<Range>) {
                Some(inner) => Some(*inner),
                None => range(&v[1..], b)?,
            };
            match inner {
                Some(inner) => Ok(Value::Bool(inner.bits >= outer.bits && outer.contains(inner.address))),
                None => failed("network address parse error during conversion from string"),
            }
        }),
        ("ip", "net.CIDR.() net.IP", |v, _| Ok(made(Address(of::<Range>(v, 0)?.address)))),
        ("masked", "net.CIDR.() net.CIDR", |v, _| {
            let range: &Range = of(v, 0)?;
            Ok(made(Range { address: mask(range.address, range.bits), bits: range.bits }))
        }),
        ("prefixLength", "net.CIDR.() int", |v, _| Ok(Value::Int(of::<Range>(v, 0)?.bits.into()))),
        ("string", "(net.CIDR) string", |v, _| {
            let range: &Range = of(v, 0)?;
            Ok(format!("{}/{}", range.address, range.bits).into())
        }),
    ])
}

fn ip(values: &[Value]) -> Result<IpAddr, EvalError> {
    of::<Address>(values, 0).map(|address| address.0)
}

fn parse(text: &str) -> Option<IpAddr> {
    match text.parse().ok()? {
        // An IPv4 address in IPv6 clothes is refused, and so is a zone, which does not parse.
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => None,
        ip => Some(ip),
    }
}

fn address(values: &[Value], budget: &mut Budget) -> Result<Option<IpAddr>, EvalError> {
    let [text] = texts::<1>(values)?;
    budget.charge_bytes(text.len())?;
    Ok(parse(text))
}

fn range(values: &[Value], budget: &mut Budget) -> Result<Option<Range>, EvalError> {
    let [text] = texts::<1>(values)?;
    budget.charge_bytes(text.len())?;
    let Some((address, bits)) = text.split_once('/') else { return Ok(None) };
    let plain = bits == "0" || (!bits.starts_with('0') && bits.bytes().all(|b| b.is_ascii_digit()));
    let found = parse(address).zip(bits.parse::<u8>().ok()).filter(|_| plain);
    let fits = |(address, bits): &(IpAddr, u8)| *bits <= if address.is_ipv4() { 32 } else { 128 };
    Ok(found.filter(fits).map(|(address, bits)| Range { address, bits }))
}

/// The address with only its first bits left.
fn mask(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let keep = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(ip.to_bits() & keep))
        }
        IpAddr::V6(ip) => {
            let keep = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & keep))
        }
    }
}

impl Range {
    fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.address.is_ipv4() && mask(ip, self.bits) == mask(self.address, self.bits)
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_link_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
    }
}

/// As Go's `IsGlobalUnicast` counts: private ranges too.
fn is_global(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    !broadcast && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !is_link_local(ip)
}
