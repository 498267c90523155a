//! Ports: how a pod or a VM gets onto a network's bridge, and what it may say there.
//!
//! The rules sit in the bridge's own prerouting hook, before connection tracking sees a packet. Nothing passes but
//! ARP, IPv4 and IPv6 from the port's own MAC and addresses, and DHCP from a client that has no address yet; every other protocol is
//! dropped. A port that has addresses of IPv6 also has the link-local one of its MAC; one that has none says nothing in IPv6. Neighbours
//! are told of a port's own addresses alone, routers are told of by nobody but us, nor are addresses given out. Neighbour discovery in
//! pieces is dropped (RFC 6980), and so is a packet whose first piece does not say what it is: nobody could look at what is put together
//! of them later. A port may be given further addresses, be let out of all that, or be switched off (`firewall`).

use crate::conntrack::Flow;
use crate::error::{NetworkError, Result};
use crate::names::{BRIDGE, POD_IFNAME};
use crate::namespace::{self, Namespace};
use crate::netlink::{Netlink, VethPair};
use crate::types::{Attachment, Mac, Policy};
use crate::{conntrack, firewall, nft, six, sys};
use ipnet::Ipv4Net;
use rustix::io::Errno;
use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};

/// What a pod's interface is given besides its port.
#[derive(Debug, Clone)]
pub(crate) struct PodSide {
    /// The pod's namespace, to be made.
    pub(crate) netns: String,
    /// Each address with the prefix of its subnet; the first one's gateway is the default route.
    pub(crate) addresses: Vec<Ipv4Net>,
    pub(crate) gateway: Ipv4Addr,
    /// Further routes: ranges, and the addresses by which they are reached.
    pub(crate) routes: Vec<(Ipv4Net, Ipv4Addr)>,
    pub(crate) mtu: u32,
}

/// The whole table of port rules, for `attachments` and what `policy` says of them, as one transaction. The bridge has the MAC `gateway`,
/// and nobody else its link-local address.
pub(crate) fn render_table(attachments: &[Attachment], policy: &Policy, gateway: Mac) -> String {
    let table = "table bridge yunfan {}
delete table bridge yunfan
table bridge yunfan {
  set macs { type ifname . ether_addr; }
  set addresses { type ifname . ether_addr . ipv4_addr; }
  set six { type ifname; }
  set addresses6 { type ifname . ether_addr . ipv6_addr; }
  set advertised6 { typeof iifname . ether saddr . @th,64,128; }
  set closed { type ifname; }
  set open { type ifname; }
  set pair_macs { type ifname . ether_addr; }
  map sources { type ifname : mark; }
  map targets { type ifname : mark; }
  chain pairs {}
  chain pieces {
    icmpv6 type 133-137 drop
    frag frag-off != 0 return
    @th,0,32 & 0x0 == 0x0 return
    drop
  }
  chain six {
    exthdr frag exists jump pieces
    icmpv6 type { nd-router-advert, nd-redirect } drop
    udp sport 547 udp dport 546 drop
    icmpv6 type nd-neighbor-advert @th,64,128 GATEWAY drop
    icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 @advertised6 iifname . ether saddr . ip6 saddr @addresses6 accept
    icmpv6 type nd-neighbor-advert return
    iifname . ether saddr . ip6 saddr @addresses6 accept
    ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . ether saddr . @th,64,128 @advertised6 accept
    ip6 saddr :: icmpv6 type { nd-router-solicit, mld-listener-report, mld2-listener-report } iifname @six accept
  }
  chain prerouting {
    type filter hook prerouting priority -300; policy drop;
    iifname @closed drop
    meta mark set iifname map @sources
    iifname @open ether type { arp, ip, ip6 } accept
    iifname . ether saddr != @macs iifname . ether saddr != @pair_macs drop
    ether type arp iifname . arp saddr ether . arp saddr ip @addresses accept
    ether type arp arp saddr ip 0.0.0.0 iifname . arp saddr ether @macs accept
    ether type ip udp sport 67 udp dport 68 drop
    ether type ip iifname . ether saddr . ip saddr @addresses accept
    ether type ip ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept
    ether type ip6 jump six
    jump pairs
  }
  chain forward {
    type filter hook forward priority -300; policy accept;
    oifname @closed drop
    meta pkttype { broadcast, multicast } oifname . ether saddr @macs drop
    meta mark set BRIDGED
    meta mark set oifname map @targets
  }
  chain output {
    type filter hook output priority -300; policy accept;
    oifname @closed drop
  }
}
";
    let ours = format!("{:#034x}", six::link_local(gateway).to_bits());
    let mut out = table.replace("BRIDGED", &firewall::BRIDGED.to_string()).replace("GATEWAY", &ours);
    for attachment in attachments {
        out.push_str(&elements("add", attachment));
    }
    out.push_str(&firewall::render_bridge(policy));
    out
}

fn elements(verb: &str, a: &Attachment) -> String {
    let mut out = format!("{verb} element bridge yunfan macs {{ \"{}\" . {} }}\n", a.ifname, a.mac);
    for ip in &a.ips {
        let _ =
            writeln!(out, "{verb} element bridge yunfan addresses {{ \"{}\" . {} . {ip} }}", a.ifname, a.mac);
    }
    if !a.ips6.is_empty() {
        let _ = writeln!(out, "{verb} element bridge yunfan six {{ \"{}\" }}", a.ifname);
    }
    for ip in a.all6() {
        let (link, bits) = (format!("\"{}\" . {}", a.ifname, a.mac), ip.to_bits());
        let _ = writeln!(
            out,
            "{verb} element bridge yunfan addresses6 {{ {link} . {ip} }}
{verb} element bridge yunfan advertised6 {{ {link} . {bits:#034x} }}"
        );
    }
    out
}

/// Allows `new` and forbids what `old` had; both in one transaction. Runs inside the network's namespace.
fn apply_rules(scope: &str, old: Option<&Attachment>, new: Option<&Attachment>) -> Result<()> {
    let mut script = String::new();
    if let Some(old) = old {
        // Adding first makes the deletion succeed whether or not the element is there.
        script.push_str(&elements("add", old));
        script.push_str(&elements("delete", old));
    }
    if let Some(new) = new {
        script.push_str(&elements("add", new));
    }
    if script.is_empty() { Ok(()) } else { nft::apply(scope, &script) }
}

/// Puts a pod on the network; finds it there if it is. Blocks.
pub(crate) fn attach_pod(
    network: &Namespace,
    port: Attachment,
    old: Option<Attachment>,
    pod: PodSide,
) -> Result<()> {
    let (scope, rules_port, rules_old) = (network.name.clone(), port.clone(), old.clone());
    let rules_ns = network.clone();
    // The rules take as long as all the rest together, and neither needs the other: they name the link that is to be.
    let rules = std::thread::spawn(move || {
        let old = rules_old.filter(|old| *old != rules_port);
        rules_ns.run(move || apply_rules(&scope, old.as_ref(), Some(&rules_port)))
    });
    let links = connect_pod(network, &port, &pod);
    let rules = rules.join().unwrap_or_else(|_| {
        Err(NetworkError::io("apply the port's rules", std::io::Error::other("the thread panicked")))
    });
    let result = links.and(rules);
    if result.is_err() {
        // Half a port is worse than none: without its rules it would be mute, without its link useless.
        let _ = detach(network, &port);
    }
    result
}

fn connect_pod(network: &Namespace, port: &Attachment, pod: &PodSide) -> Result<()> {
    let (netns, _) = Namespace::open_or_create(&pod.netns)?;
    let mut inside = netns.run(|| {
        namespace::sysctl("net/ipv6/conf/default/disable_ipv6", "1")?;
        Netlink::connect()
    })?;
    let mut outside = network.run(Netlink::connect)?;
    let bridge = outside.need_link(BRIDGE)?;
    let known = outside.link_index(&port.ifname)?.is_some() && inside.link_index(POD_IFNAME)?.is_some();
    if !known {
        outside.delete_link(&port.ifname)?;
        inside.delete_link(POD_IFNAME)?;
        outside.add_veth(&VethPair {
            name: &port.ifname,
            peer: POD_IFNAME,
            peer_ns: netns.fd().as_fd(),
            peer_mac: Some(port.mac),
            mtu: pod.mtu,
            bridge: Some(bridge),
        })?;
    }
    let index = outside.need_link(&port.ifname)?;
    outside.set_hairpin(index)?;
    for ip in &port.ips {
        outside.set_neighbour(bridge, *ip, port.mac)?;
    }
    inside.set_up(1)?;
    let eth0 = inside.need_link(POD_IFNAME)?;
    let wanted = &pod.addresses;
    for (link, had) in inside.addresses()? {
        if link == eth0 && !wanted.contains(&had) {
            inside.delete_address(eth0, had.addr(), had.prefix_len())?;
        }
    }
    for address in wanted {
        inside.add_address(eth0, address.addr(), address.prefix_len())?;
    }
    inside.set_up(eth0)?;
    inside.set_route(Ipv4Net::default(), pod.gateway, eth0)?;
    // A way that is none of the pod's own subnets', or leads to the pod itself, is no way; the kernel would refuse it, and the pod with it.
    let near = |by: &Ipv4Addr| {
        let own = pod.addresses.iter().any(|address| address.addr() == *by);
        let mut subnets = pod.addresses.iter().filter(|address| address.contains(by));
        !own && subnets.any(|subnet| *by != subnet.network() && *by != subnet.broadcast())
    };
    for (range, by) in pod.routes.iter().filter(|(_, by)| near(by)) {
        inside.set_route(range.trunc(), *by, eth0)?;
    }
    inside.wait_running(eth0)?;
    outside.wait_running(index)?;
    outside.wait_running(bridge)
}

/// Makes the tap of a VM's port on the network. Blocks.
pub(crate) fn attach_tap(
    network: &Namespace,
    port: Attachment,
    old: Option<Attachment>,
    mtu: u32,
) -> Result<OwnedFd> {
    let ifname = port.ifname.clone();
    let fd = network.run(move || {
        let fd = sys::open_tun()
            .map_err(|e| NetworkError::io("open /dev/net/tun (is the tun driver there, are we root?)", e))?;
        sys::become_tap(fd.as_fd(), &ifname).map_err(|e| match e {
            Errno::BUSY => NetworkError::TapBusy { ifname: ifname.clone() },
            e => NetworkError::io(format!("make the tap {ifname}"), e),
        })?;
        Ok(fd)
    })?;
    let (scope, plug) = (network.name.clone(), port.clone());
    let joined = network.run(move || {
        apply_rules(&scope, old.filter(|old| *old != plug).as_ref(), Some(&plug))?;
        let mut netlink = Netlink::connect()?;
        let bridge = netlink.need_link(BRIDGE)?;
        let index = netlink.need_link(&plug.ifname)?;
        netlink.join_bridge(index, bridge, mtu)?;
        netlink.set_hairpin(index)?;
        for ip in &plug.ips {
            netlink.set_neighbour(bridge, *ip, plug.mac)?;
        }
        for ip in plug.all6() {
            netlink.set_neighbour6(bridge, ip, plug.mac)?;
        }
        netlink.wait_running(index)?;
        netlink.wait_running(bridge)
    });
    if joined.is_err() {
        let _ = detach(network, &port);
    }
    joined.map(|()| fd)
}

/// Gives a port other addresses. Blocks.
pub(crate) fn readdress(network: &Namespace, old: &Attachment, new: &Attachment) -> Result<()> {
    let (scope, old, new) = (network.name.clone(), old.clone(), new.clone());
    let gone: Vec<Ipv4Addr> = old.ips.iter().filter(|ip| !new.ips.contains(ip)).copied().collect();
    let gone6: Vec<Ipv6Addr> = old.all6().into_iter().filter(|ip| !new.all6().contains(ip)).collect();
    let freed = (gone.clone(), gone6.clone());
    network.run(move || {
        apply_rules(&scope, Some(&old), Some(&new))?;
        let mut netlink = Netlink::connect()?;
        let bridge = netlink.need_link(BRIDGE)?;
        for ip in freed.0 {
            netlink.delete_neighbour(bridge, ip)?;
        }
        for ip in freed.1 {
            netlink.delete_neighbour6(bridge, ip)?;
        }
        for ip in &new.ips {
            netlink.set_neighbour(bridge, *ip, new.mac)?;
        }
        for ip in new.all6() {
            netlink.set_neighbour6(bridge, ip, new.mac)?;
        }
        Ok(())
    })?;
    forget_flows(network, (gone, gone6))
}

/// Forgets the flows of addresses that are free: who gets them next is no party to these. Blocks.
pub(crate) fn forget_flows(network: &Namespace, (ips, ips6): (Vec<Ipv4Addr>, Vec<Ipv6Addr>)) -> Result<()> {
    fn is_of<A: Copy + PartialEq>(flow: &Flow<A>, ips: &[A]) -> bool {
        [flow.source, flow.front, flow.target, flow.outer].iter().any(|(ip, _)| ips.contains(ip))
    }
    network.run(move || {
        if !ips.is_empty() {
            conntrack::forget(|flow: Flow| is_of(&flow, &ips))?;
        }
        if !ips6.is_empty() {
            conntrack::forget(|flow: Flow<Ipv6Addr>| is_of(&flow, &ips6))?;
        }
        Ok(())
    })
}

/// Takes a port away with its rules; fine if any of it is gone. Blocks.
pub(crate) fn detach(network: &Namespace, port: &Attachment) -> Result<()> {
    let (scope, port) = (network.name.clone(), port.clone());
    network.run(move || {
        let mut netlink = Netlink::connect()?;
        // The link first: from here on nothing can come from the port, so the rules may go.
        netlink.delete_link(&port.ifname)?;
        if let Some(bridge) = netlink.link_index(BRIDGE)? {
            for ip in &port.ips {
                netlink.delete_neighbour(bridge, *ip)?;
            }
            for ip in port.all6() {
                netlink.delete_neighbour6(bridge, ip)?;
            }
        }
        apply_rules(&scope, Some(&port), None)
    })
}
