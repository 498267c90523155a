//! IPv6 with real namespaces: router advertisements, DHCPv6, what ports may say, security groups and routers. Needs root.

mod support;

use dhcproto::v6::{DhcpOption, DhcpOptions, IANA, Message, MessageType, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};
use support::*;
use yunfan_network::*;

const ONE: &str = "99999999-1111-4111-8111-111111111111";
const TWO: &str = "99999999-2222-4222-8222-222222222222";
const ROUTER: &str = "99999999-7777-4777-8777-777777777777";
const PING6: &str = "busybox ping6 -c1 -W1";

fn subnet(third: u16, mode: Option<AddressMode>) -> Subnet6Config {
    Subnet6Config {
        cidr: format!("fd00:{third:x}::/64").parse().unwrap(),
        gateway: format!("fd00:{third:x}::1").parse().unwrap(),
        isolated: false,
        advertised: mode,
        assigned: mode,
        dns_servers: vec![],
        routes: vec![],
    }
}

/// A network of IPv6 alone.
fn network(uid: &str, third: u16, mode: Option<AddressMode>) -> NetworkConfig {
    NetworkConfig { subnets: vec![], subnets6: vec![subnet(third, mode)], ..tenant(uid) }
}

/// A machine's port at fd00:`third`::`last`, and its kernel: a namespace behind a link of the tap's name.
struct Guest {
    netns: String,
    port: TapAttach,
}

impl Guest {
    async fn plug(
        cloud: &Cloud,
        node: &NodeNetworks,
        uid: &str,
        third: u16,
        last: u8,
        automatic: bool,
    ) -> Self {
        let mac = Mac([2, 0, 0, 0, third as u8, last]);
        let ip: Ipv6Addr = match automatic {
            true => format!("fd00:{third:x}::ff:fe00:{:x}", u16::from_be_bytes([third as u8, last])),
            false => format!("fd00:{third:x}::{last:x}"),
        }
        .parse()
        .unwrap();
        let port_uid = format!("{third:04x}{last:04x}-3333-4333-8333-333333333333");
        let port = TapAttach { port_uid, mac, ips: vec![], ips6: vec![ip] };
        let tap = node.attach_tap(uid, port.clone()).await.unwrap();
        let link = tap.ifname.clone();
        drop(tap);
        let (netns, net) = (cloud.pod(&format!("six{third}{last}")), cloud.network(uid));
        let script = format!(
            "ip link add {link} type veth peer name eth0 address {mac} netns {netns}
ip link set {link} master br0 up"
        );
        let made = std::process::Command::new("ip").args(["netns", "add", &netns]).status().unwrap();
        assert!(made.success());
        ok(&net, &script).await;
        ok(&netns, "ip link set lo up; ip link set eth0 up").await;
        Self { netns, port }
    }

    fn ip(&self) -> Ipv6Addr {
        self.port.ips6[0]
    }

    /// Waits until the kernel has an address that begins so, or not any more.
    async fn has(&self, ip: &str) -> bool {
        let until = Instant::now() + Duration::from_secs(8);
        while Instant::now() < until {
            let shown = ok(&self.netns, "ip -6 -o addr show dev eth0").await;
            if shown.lines().any(|line| line.contains(ip) && !line.contains("tentative")) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// Gives it an address by hand, at once.
    async fn take(&self, ip: impl std::fmt::Display) {
        ok(&self.netns, &format!("ip -6 addr add {ip}/64 dev eth0 nodad")).await;
    }

    /// Whether another answers it, sooner or later.
    async fn reaches(&self, ip: impl std::fmt::Display) -> bool {
        for _ in 0..6 {
            if !fails(&self.netns, &format!("{PING6} {ip}")).await {
                return true;
            }
        }
        false
    }
}

fn guard(guest: &Guest, groups: Option<&[&str]>) -> Guard {
    Guard {
        port_uid: guest.port.port_uid.clone(),
        mac: guest.port.mac,
        ips: vec![],
        ips6: guest.port.ips6.clone(),
        up: true,
        secured: true,
        pairs: vec![],
        pairs6: vec![],
        behind: vec![],
        groups: groups.map(|all| all.iter().map(|uid| (*uid).to_owned()).collect()),
        qos: Qos::default(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_make_addresses_of_what_they_are_told_and_use_no_others() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(network(ONE, 1, Some(AddressMode::Slaac))).await.unwrap();
    let one = Guest::plug(&cloud, &node, ONE, 1, 2, true).await;
    let two = Guest::plug(&cloud, &node, ONE, 1, 3, true).await;
    for guest in [&one, &two] {
        assert!(guest.has(&guest.ip().to_string()).await, "{}", guest.ip());
    }
    assert!(one.reaches(two.ip()).await && one.reaches("fd00:1::1").await);
    let routes = ok(&one.netns, "ip -6 route").await;
    assert!(!routes.contains("default"), "no router is here: {routes}");

    // An address that is not its own, and one that it is then given.
    one.take("fd00:1::77").await;
    assert!(fails(&one.netns, &format!("{PING6} -I fd00:1::77 fd00:1::1")).await);
    assert!(fails(&two.netns, &format!("{PING6} fd00:1::77")).await, "nobody is told that it is there");
    let mut paired = guard(&one, None);
    paired.pairs6 = vec![("fd00:1::70/124".parse().unwrap(), None)];
    node.set_policy(ONE, Policy { guards: vec![paired], groups: vec![] }).await.unwrap();
    assert!(two.reaches("fd00:1::77").await);
    node.detach(&one.port.port_uid).await.unwrap();
    node.detach(&two.port.port_uid).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_of_ipv6_open_and_close_what_comes() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(network(ONE, 2, None)).await.unwrap();
    let friend = Guest::plug(&cloud, &node, ONE, 2, 2, false).await;
    let server = Guest::plug(&cloud, &node, ONE, 2, 3, false).await;
    let stranger = Guest::plug(&cloud, &node, ONE, 2, 4, false).await;
    for guest in [&friend, &server, &stranger] {
        guest.take(guest.ip()).await;
    }
    let leaves = Rule { ingress: false, v6: true, matches: RuleMatch::Any, peer: RulePeer::Any };
    let group = |come: Vec<(RuleMatch, RulePeer)>| RuleGroup {
        uid: "web".into(),
        members: vec![],
        members6: vec![friend.ip().into()],
        rules: come
            .into_iter()
            .map(|(matches, peer)| Rule { ingress: true, v6: true, matches, peer })
            .chain([leaves.clone()])
            .collect(),
        stateless: false,
    };
    let policy = |come| Policy { guards: vec![guard(&server, Some(&["web"]))], groups: vec![group(come)] };
    node.set_policy(ONE, policy(vec![])).await.unwrap();
    assert!(server.reaches(friend.ip()).await, "answers pass, and neighbours are found");
    assert!(fails(&friend.netns, &format!("{PING6} {}", server.ip())).await);
    let pings = (RuleMatch::Icmp(128, None), RulePeer::Group("web".into()));
    node.set_policy(ONE, policy(vec![pings])).await.unwrap();
    assert!(friend.reaches(server.ip()).await);
    assert!(fails(&stranger.netns, &format!("{PING6} {}", server.ip())).await);
    let range = RulePeer::Range6("fd00:2::4/127".parse().unwrap());
    node.set_policy(ONE, policy(vec![(RuleMatch::Protocol(58), range)])).await.unwrap();
    assert!(stranger.reaches(server.ip()).await);
    assert!(fails(&friend.netns, &format!("{PING6} {}", server.ip())).await);

    // One that has lost its addresses says nothing under those that it had.
    assert!(stranger.reaches(friend.ip()).await);
    node.set_addresses(&stranger.port.port_uid, vec![], vec![]).await.unwrap();
    assert!(fails(&stranger.netns, &format!("{PING6} {}", friend.ip())).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_in_pieces_tells_neighbours_nothing() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(network(ONE, 6, None)).await.unwrap();
    let liar = Guest::plug(&cloud, &node, ONE, 6, 2, false).await;
    let victim = Guest::plug(&cloud, &node, ONE, 6, 3, false).await;
    for guest in [&liar, &victim] {
        guest.take(guest.ip()).await;
    }
    // A kernel that takes them, unlike Linux by default.
    ok(&victim.netns, "echo 0 > /proc/sys/net/ipv6/conf/eth0/suppress_frag_ndisc").await;
    let gateway: Ipv6Addr = "fd00:6::1".parse().unwrap();
    assert!(victim.reaches(gateway).await && liar.reaches(victim.ip()).await);
    let raw = made_in(&liar.netns, || {
        let raw = rustix::net::ipproto::RAW;
        rustix::net::socket(rustix::net::AddressFamily::INET6, rustix::net::SocketType::RAW, Some(raw))
            .unwrap()
    });
    let told = advertisement(liar.ip(), victim.ip(), gateway, liar.port.mac);
    let options = [58, 0, 1, 4, 0, 0, 0, 0];
    let behind: Vec<u8> = options.into_iter().chain(told.iter().copied()).collect();
    // What it is in the first piece, and in the second alone.
    for (id, kind, parts) in [(1, 58, told.split_at(8)), (2, 60, behind.split_at(8))] {
        for (at, more, part) in [(0, 1, parts.0), (8, 0, parts.1)] {
            let packet = piece(liar.ip(), victim.ip(), (id, kind, at | more), part);
            let to = SocketAddrV6::new(victim.ip(), 0, 0, 0);
            rustix::net::sendto(&raw, &packet, rustix::net::SendFlags::empty(), &to).unwrap();
        }
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let known = ok(&victim.netns, &format!("ip -6 neigh show {gateway} dev eth0")).await;
    assert!(known.contains("lladdr") && !known.contains(&liar.port.mac.to_string()), "{known}");
    let large = format!("busybox ping6 -c1 -W2 -s 4000 {}", victim.ip());
    assert!(!fails(&liar.netns, &large).await, "other packets come in pieces as ever");
}

/// A neighbour advertisement: `target` is at `mac`.
fn advertisement(from: Ipv6Addr, to: Ipv6Addr, target: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut bytes = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    bytes.extend(target.octets());
    bytes.extend([2, 1]);
    bytes.extend(mac.0);
    let mut summed: Vec<u8> = [from.octets(), to.octets()].concat();
    summed.extend([0, 0, 0, bytes.len() as u8, 0, 0, 0, 58]);
    summed.extend(&bytes);
    let sum: u32 = summed.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// A packet with a fragment of something.
fn piece(from: Ipv6Addr, to: Ipv6Addr, (id, kind, at): (u8, u8, u16), part: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 8 + part.len() as u8, 44, 255];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend([kind, 0]);
    packet.extend(at.to_be_bytes());
    packet.extend([0, 0, 0, id]);
    packet.extend(part);
    packet
}

#[tokio::test(flavor = "multi_thread")]
async fn dhcpv6_gives_a_port_its_own_address() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(network(ONE, 3, Some(AddressMode::Stateful))).await.unwrap();
    let guest = Guest::plug(&cloud, &node, ONE, 3, 5, false).await;
    let member = Member {
        port_uid: guest.port.port_uid.clone(),
        mac: guest.port.mac,
        ips: vec![],
        ips6: guest.port.ips6.clone(),
        hostname: "vm".into(),
        workload_uid: "w".into(),
        options: vec![],
    };
    node.set_members(ONE, vec![member]).await.unwrap();
    assert!(guest.has("fe80::ff:fe00:305").await);
    let socket = udp6(&guest.netns, 546);
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let ask = |kind: MessageType, more: Option<DhcpOption>| {
        let mut message = Message::new_with_id(kind, [7, 8, 9]);
        message.opts_mut().insert(DhcpOption::ClientId(vec![0, 3, 0, 1, 2, 0, 0, 0, 3, 5]));
        message.opts_mut().insert(DhcpOption::IANA(IANA { id: 1, t1: 0, t2: 0, opts: DhcpOptions::new() }));
        if let Some(more) = more {
            message.opts_mut().insert(more);
        }
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).unwrap();
        let servers = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
        let link = ifindex(&guest.netns);
        socket.send_to(&bytes, SocketAddrV6::new(servers, 547, 0, link)).unwrap();
        let mut buffer = [0; 1500];
        let (length, _) = socket.recv_from(&mut buffer).unwrap();
        Message::decode(&mut Decoder::new(&buffer[..length])).unwrap()
    };
    let offer = ask(MessageType::Solicit, None);
    assert_eq!((offer.msg_type(), offer.xid()), (MessageType::Advertise, [7, 8, 9]));
    let reply = ask(MessageType::Request, offer.opts().get(OptionCode::ServerId).cloned());
    assert_eq!(reply.msg_type(), MessageType::Reply);
    let Some(DhcpOption::IANA(given)) = reply.opts().get(OptionCode::IANA) else { panic!("{reply:?}") };
    let Some(DhcpOption::IAAddr(address)) = given.opts.get(OptionCode::IAAddr) else { panic!("{given:?}") };
    assert_eq!(address.addr, guest.ip());
    guest.take(guest.ip()).await;
    assert!(guest.reaches("fd00:3::1").await);
    assert!(
        !ok(&guest.netns, "ip -6 -o addr show dev eth0").await.contains("fd00:3::ff:fe"),
        "it makes none itself"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_leads_between_networks_and_is_told_of() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(network(ONE, 4, Some(AddressMode::Slaac))).await.unwrap();
    node.ensure(network(TWO, 5, Some(AddressMode::Slaac))).await.unwrap();
    let here = Guest::plug(&cloud, &node, ONE, 4, 2, true).await;
    let there = Guest::plug(&cloud, &node, TWO, 5, 3, true).await;
    assert!(here.has(&here.ip().to_string()).await && there.has(&there.ip().to_string()).await);
    assert!(fails(&here.netns, &format!("{PING6} {}", there.ip())).await, "no router yet");
    let interface = |uid: &str, third: u16, own: &[&str]| RouterInterface {
        network_uid: uid.into(),
        subnets: vec![],
        addresses: vec![],
        subnets6: vec![subnet(third, None).cidr],
        addresses6: own.iter().map(|ip| ip.parse().unwrap()).collect(),
        scopes: [None, None],
    };
    let router = RouterConfig {
        uid: ROUTER.into(),
        interfaces: vec![interface(ONE, 4, &["fd00:4::9"]), interface(TWO, 5, &[])],
        external: None,
        routes: vec![],
    };
    node.set_routers(vec![router]).await.unwrap();
    assert!(here.reaches(there.ip()).await, "{}", ok(&here.netns, "ip -6 route").await);
    assert!(ok(&here.netns, "ip -6 route").await.contains("default via fe80::"));
    assert!(here.reaches("fd00:4::9").await, "the router's own address");
    // The next process does not know of routers at first, and its guests keep their way meanwhile.
    drop(node);
    let node = cloud.open().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(ok(&here.netns, "ip -6 route").await.contains("default via fe80::"));
    node.set_routers(vec![]).await.unwrap();
    assert!(fails(&here.netns, &format!("{PING6} {}", there.ip())).await);
    assert!(fails(&here.netns, &format!("{PING6} fd00:4::9")).await);
}

/// A socket in a namespace, at this port of all its addresses.
fn udp6(netns: &str, port: u16) -> UdpSocket {
    made_in(netns, move || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap())
}

/// The index of the guest's card.
fn ifindex(netns: &str) -> u32 {
    let args = ["netns", "exec", netns, "cat", "/sys/class/net/eth0/ifindex"];
    let out = std::process::Command::new("ip").args(args).output().unwrap();
    String::from_utf8_lossy(&out.stdout).trim().parse().unwrap()
}
