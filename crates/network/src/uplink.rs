//! The one way between the host and the cluster network: a veth pair, two host routes, masquerading.

use crate::doors::Ends;
use crate::error::{NetworkError, Result};
use crate::names::{Names, UPLINK_INSIDE};
use crate::namespace::{self, Namespace};
use crate::netlink::{Netlink, VethPair};
use crate::nft;
use crate::state::{SavedHost, StateDir};
use ipnet::Ipv4Net;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;

/// What the uplink needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Uplink {
    pub(crate) names: Names,
    pub(crate) node_cidr: Ipv4Net,
    pub(crate) cluster_cidr: Ipv4Net,
    pub(crate) service_cidr: Ipv4Net,
    pub(crate) mtu: u32,
}

/// Sets all of it up, or finds it set up. Runs in the host's namespace; blocks. Returns its two ends, and notes for people.
pub(crate) fn ensure(uplink: &Uplink, cluster: &Namespace, state: &StateDir) -> Result<(Ends, Vec<String>)> {
    let mut host = Netlink::connect()?;
    let mut inside = cluster.run(Netlink::connect)?;
    let mut saved = state.host()?;
    let name = uplink.names.uplink();

    if host.link_index(&name)?.is_none() || inside.link_index(UPLINK_INSIDE)?.is_none() {
        host.delete_link(&name)?;
        inside.delete_link(UPLINK_INSIDE)?;
        host.add_veth(&VethPair {
            name: &name,
            peer: UPLINK_INSIDE,
            peer_ns: cluster.fd().as_fd(),
            peer_mac: None,
            mtu: uplink.mtu,
            bridge: None,
        })?;
    }
    let outer = host.need_link(&name)?;
    let transfer = transfer_net(&uplink.names, &mut host, outer, &mut saved)?;
    enable_forwarding(&mut saved)?;
    state.save_host(&saved)?;

    let (ours, theirs) = ends(transfer);
    host.add_address(outer, ours, 30)?;
    let inner = inside.need_link(UPLINK_INSIDE)?;
    inside.add_address(inner, theirs, 30)?;
    inside.set_up(inner)?;
    inside.set_route(Ipv4Net::default(), ours, inner)?;
    host.wait_running(outer)?;
    inside.wait_running(inner)?;

    let mut notes = Vec::new();
    let pods_routed = route(&mut host, outer, uplink.node_cidr, theirs, "pods", &mut notes)?;
    route(&mut host, outer, uplink.service_cidr, theirs, "Services", &mut notes)?;
    nft::apply("the host", &host_table(uplink, transfer))?;
    let table = inside_table(uplink, theirs, pods_routed);
    let scope = cluster.name.clone();
    cluster.run(move || nft::apply(&scope, &table))?;
    Ok((Ends { host: ours, cluster: theirs }, notes))
}

/// The addresses of this host, as others know it: neither loopback nor link-local ones. Runs in the host's namespace; blocks.
pub(crate) fn host_addresses() -> Result<Vec<Ipv4Addr>> {
    let all = Netlink::connect()?.addresses()?.into_iter().map(|(_, address)| address.addr());
    let mut known: Vec<Ipv4Addr> = all.filter(|ip| !ip.is_loopback() && !ip.is_link_local()).collect();
    known.sort();
    known.dedup();
    Ok(known)
}

/// The host's and the cluster namespace's address in the /30 that begins at `transfer`.
fn ends(transfer: Ipv4Addr) -> (Ipv4Addr, Ipv4Addr) {
    let base = u32::from(transfer);
    (Ipv4Addr::from(base + 1), Ipv4Addr::from(base + 2))
}

/// A free link-local /30: the one remembered, else the first free one from where the tag points to.
fn transfer_net(names: &Names, host: &mut Netlink, outer: u32, saved: &mut SavedHost) -> Result<Ipv4Addr> {
    let taken: Vec<Ipv4Net> =
        host.addresses()?.into_iter().filter(|(link, _)| *link != outer).map(|(_, a)| a).collect();
    let net = |start: Ipv4Addr| Ipv4Net::new(start, 30).unwrap_or_default();
    let free = |start: Ipv4Addr| {
        taken.iter().all(|a| !net(start).contains(&a.addr()) && !a.trunc().contains(&start))
    };
    if let Some(start) = saved.transfer.filter(|start| free(*start)) {
        return Ok(start);
    }
    let first = first_transfer(names.number());
    let found =
        (0..TRANSFER_NETS).map(|step| first_transfer(names.number().wrapping_add(step))).find(|s| free(*s));
    let start = found.ok_or(NetworkError::NoTransferNet { near: first })?;
    saved.transfer = Some(start);
    Ok(start)
}

/// Those of 169.254.1.0 to 169.254.127.255: far from the metadata address and from what other software picks.
const TRANSFER_NETS: u32 = 127 * 64;
/// Where all of them lie.
const TRANSFERS: &str = "169.254.0.0/17";

fn first_transfer(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0xa9fe_0100 + (number % TRANSFER_NETS) * 4)
}

/// Lets the host forward, once, remembering how it was.
pub(crate) fn enable_forwarding(saved: &mut SavedHost) -> Result<()> {
    let path = "/proc/sys/net/ipv4/ip_forward";
    let now = std::fs::read_to_string(path).map_err(|e| NetworkError::io(format!("read {path}"), e))?;
    if saved.ip_forward_before.is_none() {
        saved.ip_forward_before = Some(now.trim().to_owned());
    }
    if now.trim() != "1" {
        namespace::sysctl("net/ipv4/ip_forward", "1")?;
    }
    Ok(())
}

/// Routes `dst` to the cluster namespace unless the host already reaches it another way; then says so.
fn route(
    host: &mut Netlink,
    outer: u32,
    dst: Ipv4Net,
    via: Ipv4Addr,
    what: &str,
    notes: &mut Vec<String>,
) -> Result<bool> {
    let other = host.routes()?.into_iter().find(|r| {
        r.dst.prefix_len() != 0 && r.link != Some(outer) && (r.dst.contains(&dst) || dst.contains(&r.dst))
    });
    if let Some(other) = other {
        notes.push(format!(
            "this host already has a route to {} (another cloud or network), so it cannot reach this cloud's {what} in {dst} directly; \
             give this cloud another range if that is needed",
            other.dst
        ));
        return Ok(false);
    }
    host.set_route(dst, via, outer)?;
    Ok(true)
}

/// On the host: pods that leave the cluster do so under the host's address, and so does what the host itself asked of a Service that led it to another
/// node's pod: nobody there knows the way back to the uplink. The link-local services of the host's
/// own network (a cloud's metadata, with the host's credentials) are not for them, whether the kernel knows a connection of theirs or not;
/// what another cloud's uplink asked is answered.
fn host_table(uplink: &Uplink, transfer: Ipv4Addr) -> String {
    let Uplink { names, node_cidr, cluster_cidr, service_cidr, .. } = uplink;
    let (table, link) = (names.host_table(), names.uplink());
    format!(
        "table inet {table} {{}}
delete table inet {table}
table inet {table} {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname \"{link}\" ct direction reply ip daddr {TRANSFERS} accept
    iifname \"{link}\" ip daddr 169.254.0.0/16 drop
  }}
  chain source {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname \"{link}\" accept
    ip saddr {transfer}/30 oifname != \"lo\" masquerade
    ip daddr {{ {cluster_cidr}, {service_cidr} }} accept
    ip saddr {node_cidr} oifname != \"lo\" masquerade
  }}
}}
"
    )
}

/// In the cluster namespace: where the host has no route back to the pods, they speak to it from the uplink's address.
fn inside_table(uplink: &Uplink, theirs: Ipv4Addr, pods_routed: bool) -> String {
    let rule = if pods_routed {
        String::new()
    } else {
        format!("    oifname \"{UPLINK_INSIDE}\" ip saddr {} snat to {theirs}\n", uplink.node_cidr)
    };
    format!(
        "table ip uplink {{}}
delete table ip uplink
table ip uplink {{
  chain source {{
    type nat hook postrouting priority srcnat + 10; policy accept;
{rule}  }}
}}
"
    )
}

/// Removes what [`ensure`] made on the host. The cluster namespace's side goes with the namespace. Blocks.
pub(crate) fn remove(names: &Names, saved: &SavedHost) -> Result<()> {
    let mut host = Netlink::connect()?;
    let name = names.uplink();
    let inherited = host.alias(&name)?.is_some_and(|text| text == WAS_OFF);
    // Its routes and addresses go with the link.
    host.delete_link(&name)?;
    for table in [names.host_table(), names.doors_table(), names.routers_table()] {
        nft::delete_table("the host", &format!("inet {table}"))?;
    }
    if !inherited && saved.ip_forward_before.as_deref() != Some("0") {
        return Ok(());
    }
    // The last cloud on the host puts the setting back; until then each hands that duty to another.
    let other = host.link_names()?.into_iter().find(|n| is_uplink(n));
    match other {
        Some(other) => host.set_alias(&other, WAS_OFF),
        None => namespace::sysctl("net/ipv4/ip_forward", "0").map(|_| ()),
    }
}

/// The alias of an uplink whose cloud has to switch forwarding off when it goes.
const WAS_OFF: &str = "yunfan: ip_forward was 0";

fn is_uplink(link: &str) -> bool {
    let tag = link.strip_prefix("yf").and_then(|rest| rest.strip_suffix('u'));
    tag.is_some_and(|tag| Names::new(tag).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfer_nets_stay_in_their_range() {
        for number in [0, 1, 0xff_ffff, 0xab_cdef] {
            let start = u32::from(first_transfer(number));
            assert!((0xa9fe_0100..0xa9fe_8000).contains(&start) && start % 4 == 0, "{start:x}");
            let all: Ipv4Net = TRANSFERS.parse().unwrap();
            assert!(
                all.contains(&first_transfer(number)) && !all.contains(&Ipv4Addr::new(169, 254, 169, 254))
            );
        }
    }

    #[test]
    fn link_local_addresses_of_the_host_get_answers_alone() {
        let net = |text: &str| text.parse::<Ipv4Net>().unwrap();
        let uplink = Uplink {
            names: Names::new("0a1b2c").unwrap(),
            node_cidr: net("10.1.2.0/24"),
            cluster_cidr: net("10.1.0.0/16"),
            service_cidr: net("10.2.0.0/16"),
            mtu: 1500,
        };
        let table = host_table(&uplink, Ipv4Addr::new(169, 254, 1, 0));
        let rules = "iifname \"yf0a1b2cu\" ct direction reply ip daddr 169.254.0.0/17 accept\n    \
                     iifname \"yf0a1b2cu\" ip daddr 169.254.0.0/16 drop\n  }";
        assert!(table.contains(rules), "{table}");
    }

    #[test]
    fn uplinks_are_known_by_their_name() {
        assert!(is_uplink("yf0a1b2cu"));
        for other in ["yf0a1b2c", "eth0", "yfu", "yf0A1B2Cu"] {
            assert!(!is_uplink(other), "{other}");
        }
    }
}
