//! How much may come to a port and leave it, in the kernel. Needs root and nft.

mod support;

use std::net::UdpSocket;
use std::time::{Duration, Instant};
use support::*;
use yunfan_network::*;

const ONE: &str = "55555555-5555-4555-8555-555555555555";
/// So slow that no time in which a test runs lets a datagram more pass that matters.
const SLOW: Rate = Rate { bytes: 10, burst: 0 };
const DATAGRAM: [u8; 1000] = [7; 1000];

fn guard(pod: &PodAttach, qos: Qos) -> Guard {
    Guard {
        port_uid: pod.port_uid.clone().unwrap(),
        mac: pod.mac.unwrap(),
        ips: pod.ips.clone(),
        ips6: vec![],
        up: true,
        secured: true,
        pairs: vec![],
        pairs6: vec![],
        behind: vec![],
        groups: None,
        qos,
    }
}

fn policy(guards: Vec<Guard>) -> Policy {
    Policy { guards, groups: vec![] }
}

/// What a limit has dropped, packets.
async fn dropped(netns: &str, chain: &str) -> u64 {
    let text = ok(netns, &format!("nft list chain bridge qos {chain}")).await;
    let counter = text.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    counter.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no counter: {text}"))
}

/// How many datagrams have come.
fn come(socket: &UdpSocket) -> u64 {
    let mut buffer = [0; 2000];
    let mut count = 0;
    while socket.recv(&mut buffer).is_ok() {
        count += 1;
    }
    count
}

/// Sends datagrams until a limit has dropped this many more; returns how many have come.
async fn flood(netns: &str, chain: &str, from: &UdpSocket, to: &UdpSocket, drops: u64) -> u64 {
    let (wanted, start) = (dropped(netns, chain).await + drops, Instant::now());
    let mut count = 0;
    while dropped(netns, chain).await < wanted {
        assert!(start.elapsed() < Duration::from_secs(120), "{count} have come, and too few were dropped");
        for _ in 0..20 {
            from.send(&DATAGRAM).unwrap();
        }
        count += come(to);
    }
    count + come(to)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_more_than_a_ports_limit_does_not_pass() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    let (sender, receiver) = (pod("sender", 2), pod("receiver", 3));
    let out = Qos { egress: Some(SLOW), dscp: Some(26), ..Qos::default() };
    // Also before the port is plugged in.
    node.set_policy(ONE, policy(vec![guard(&sender, out)])).await.unwrap();
    for pod in [&sender, &receiver] {
        node.attach_pod(ONE, pod.clone()).await.unwrap();
    }
    let (here, there) = (cloud.pod("sender"), cloud.pod("receiver"));
    let netns = format!("yf-{}-net-555555555555", cloud.tag);
    let marked = "nft add table ip t; nft add chain ip t c '{ type filter hook input priority 0; }'; nft add rule ip t c ip dscp 26 counter";
    ok(&there, marked).await;
    // A limit holds for questions about neighbours, too.
    ok(&here, "ip neigh replace 10.0.0.3 lladdr 02:00:00:00:00:03 dev eth0 nud permanent").await;
    let (from, to) = (udp(&here, 4000), udp(&there, 4000));
    from.connect("10.0.0.3:4000").unwrap();
    to.set_nonblocking(true).unwrap();

    let (leaves, comes) = ("from_v0002sender", "to_v0003receiver");
    let first = flood(&netns, leaves, &from, &to, 100).await;
    assert!((20..=66).contains(&first), "a bucket has room for 66,000 bytes; {first} have come");
    let counted = ok(&there, "nft list chain ip t c").await;
    assert!(!counted.contains("packets 0 "), "what leaves has its mark: {counted}");

    // Changes of other ports don't fill the bucket.
    let other = Qos { ingress: Some(SLOW), ..Qos::default() };
    let both = policy(vec![guard(&sender, out), guard(&receiver, other)]);
    node.set_policy(ONE, both).await.unwrap();
    let next = flood(&netns, leaves, &from, &to, 60).await;
    assert!(next < 10, "{next} have come, of an empty bucket");

    // Nor do changes of the network.
    node.ensure(NetworkConfig { mtu: 1400, ..tenant(ONE) }).await.unwrap();
    let next = flood(&netns, leaves, &from, &to, 60).await;
    assert!(next < 10, "{next} have come, of an empty bucket");

    // The other way, and then no way any more.
    node.set_policy(ONE, policy(vec![guard(&receiver, other)])).await.unwrap();
    let inward = flood(&netns, comes, &from, &to, 100).await;
    assert!(inward <= 66, "{inward} have come");
    drop(node);
    let node = cloud.open().await;
    assert!(ok(&netns, "nft list table bridge qos").await.contains(comes), "it is there after a restart");
    node.set_policy(ONE, Policy::default()).await.unwrap();
    assert!(fails(&netns, "nft list table bridge qos").await);
    ok(&here, &format!("{REACH} 10.0.0.3")).await;
    to.set_nonblocking(false).unwrap();
    to.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    for _ in 0..150 {
        from.send(&DATAGRAM).unwrap();
        to.recv(&mut [0; 2000]).unwrap();
    }
}
