//! The addresses that are the cloud's own: of its nodes, of this host, and those that it gives out.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv6Addr};

use axum::http::StatusCode;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::Api;
use yunfan_resources::network::ExternalNetwork;

use crate::auth::Session;
use crate::error::Fault;
use crate::ids;

/// Where Linux tells the addresses of all links: of IPv4 those that its routes take for local ones, of IPv6 the links'.
const IPV4: &str = "/proc/net/fib_trie";
const IPV6: &str = "/proc/net/if_inet6";

/// All addresses that are the cloud's own.
///
/// # Errors
/// Where they cannot be known: nothing is fetched then.
pub(super) async fn addresses(session: &Session) -> Result<Vec<IpNet>, Fault> {
    let system = &session.door.system;
    let nodes = ids::list(&Api::<Node>::all(system.clone())).await?;
    let told = nodes.iter().filter_map(|node| node.status.as_ref()?.addresses.as_ref()).flatten();
    let mut own: Vec<IpNet> =
        told.filter_map(|one| Some(IpNet::from(one.address.parse::<IpAddr>().ok()?))).collect();
    let externals = ids::list(&Api::<ExternalNetwork>::all(system.clone())).await?;
    let ranges = externals.iter().flat_map(|network| &network.spec.subnets);
    own.extend(ranges.filter_map(|subnet| subnet.cidr.parse::<IpNet>().ok()));
    own.extend(of_ipv4(&read(IPV4).await?));
    own.extend(of_ipv6(&read(IPV6).await?));
    Ok(own)
}

/// What one of those files says; nothing where the kernel does without that protocol.
async fn read(path: &str) -> Result<String, Fault> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Fault::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "This cloud's host cannot tell its own addresses, so it fetches nothing: {path}: {error}"
            ),
        )),
    }
}

/// Each address of the trie has lines below it that say which route it is of.
fn of_ipv4(trie: &str) -> Vec<IpNet> {
    let mut address = "";
    let mut found = Vec::new();
    for line in trie.lines().map(str::trim) {
        if let Some(leaf) = line.strip_prefix("|-- ") {
            address = leaf;
        } else if let Some(length) = line.strip_suffix(" host LOCAL") {
            found.extend(format!("{address}{length}").parse::<IpNet>());
        }
    }
    found
}

/// Each line begins with an address, as hexadecimal digits.
fn of_ipv6(links: &str) -> Vec<IpNet> {
    let first = links.lines().filter_map(|line| line.split_whitespace().next());
    let addresses = first.filter_map(|digits| u128::from_str_radix(digits, 16).ok());
    addresses.map(|bits| IpNet::from(IpAddr::V6(Ipv6Addr::from(bits)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_host_tells_all_its_addresses() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     +-- 127.0.0.0/8 2 0 2\n        \
                    |-- 127.0.0.0\n           /8 host LOCAL\n     |-- 1.0.0.7\n        /32 host LOCAL\n     |-- 1.0.0.255\n        \
                    /32 link BROADCAST\n";
        assert_eq!(of_ipv4(trie), nets(&["127.0.0.0/8", "1.0.0.7/32"]));
        let links = "00000000000000000000000000000001 01 80 10 80       lo\n2a000000000000000000000000000007 04 40 00 82     eth0\n";
        assert_eq!(of_ipv6(links), nets(&["::1/128", "2a00::7/128"]));
    }
}
