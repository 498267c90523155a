//! What ports may say and hear, with real namespaces: groups, rules, further addresses, ports without security. Needs root.

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;
use support::*;
use yunfan_network::*;

const ONE: &str = "44444444-4444-4444-8444-444444444444";

fn guard(pod: &PodAttach, groups: Option<&[&str]>) -> Guard {
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
        groups: groups.map(|all| all.iter().map(|uid| (*uid).to_owned()).collect()),
        qos: Qos::default(),
    }
}

fn everything_leaves() -> Rule {
    Rule { ingress: false, v6: false, matches: RuleMatch::Any, peer: RulePeer::Any }
}

fn group(uid: &str, members: &[u8], ingress: &[(RuleMatch, RulePeer)]) -> RuleGroup {
    let rules = ingress.iter().map(|(matches, peer)| Rule {
        ingress: true,
        v6: false,
        matches: *matches,
        peer: peer.clone(),
    });
    RuleGroup {
        uid: uid.into(),
        members: members.iter().map(|last| Ipv4Addr::new(10, 0, 0, *last).into()).collect(),
        members6: vec![],
        rules: rules.chain([everything_leaves()]).collect(),
        stateless: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_open_and_close_what_comes() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    let pods = [pod("friend", 2), pod("server", 3), pod("stranger", 4)];
    let policy = |groups: Vec<RuleGroup>| Policy { guards: vec![guard(&pods[1], Some(&["web"]))], groups };
    let shut = policy(vec![group("web", &[3], &[])]);
    node.set_policy(ONE, shut.clone()).await.unwrap();
    for pod in &pods {
        node.attach_pod(ONE, pod.clone()).await.unwrap();
    }
    let _webs = [Web::start(&cloud.pod("server"), 80, "yes"), Web::start(&cloud.pod("friend"), 80, "friend")];
    let (friend, server, stranger) = (cloud.pod("friend"), cloud.pod("server"), cloud.pod("stranger"));
    let fetch = "curl -sm2 http://10.0.0.3/";
    assert!(
        fails(&friend, fetch).await && fails(&friend, &format!("{PING} 10.0.0.3")).await,
        "nothing may come"
    );
    assert_eq!(ok(&server, "curl -sm2 http://10.0.0.2/").await, "friend", "answers may");
    ok(&server, &format!("{REACH} 10.0.0.1")).await;

    let http = (RuleMatch::Ports(6, 80, 81), RulePeer::Group("friends".into()));
    let ping = (RuleMatch::Icmp(8, None), RulePeer::Range("10.0.0.4/32".parse().unwrap()));
    node.set_policy(ONE, policy(vec![group("web", &[3], &[http, ping]), group("friends", &[2], &[])]))
        .await
        .unwrap();
    assert_eq!(ok(&friend, fetch).await, "yes");
    assert!(fails(&stranger, fetch).await, "no member of the group");
    ok(&stranger, &format!("{REACH} 10.0.0.3")).await;
    assert!(fails(&friend, &format!("{PING} 10.0.0.3")).await, "not in the range");

    // What is open goes on until its rule goes. The other end asks and is answered, again and again, over one connection.
    let talk = "exec 3<>/dev/tcp/10.0.0.3/81; for i in 1 2 3 4 5 6 7 8 9; do echo $i >&3; read -t 2 -u 3 line || exit 7; sleep 0.3; done";
    echo(&server, 81);
    let (inside_friend, line) = (friend.clone(), format!("bash -c '{talk}'"));
    let talking = tokio::spawn(async move { inside(&inside_friend, &line).await.status.code() });
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    node.set_policy(ONE, shut).await.unwrap();
    assert_eq!(talking.await.unwrap(), Some(7), "an open connection ends with its rule");
    assert!(fails(&friend, fetch).await);

    // A restarted process finds it as it was; a port without groups takes everything.
    drop(node);
    let node = cloud.open().await;
    assert!(fails(&friend, fetch).await);
    node.set_policy(ONE, Policy::default()).await.unwrap();
    assert_eq!(ok(&stranger, fetch).await, "yes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateless_group_lets_answers_pass_by_rules_alone() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    let pods = [pod("friend", 2), pod("server", 3)];
    let policy = |rules: &[(RuleMatch, RulePeer)], stateless: bool| {
        let group = RuleGroup { stateless, ..group("web", &[3], rules) };
        Policy { guards: vec![guard(&pods[1], Some(&["web"]))], groups: vec![group] }
    };
    let http = (RuleMatch::Ports(6, 80, 80), RulePeer::Any);
    node.set_policy(ONE, policy(std::slice::from_ref(&http), true)).await.unwrap();
    for pod in &pods {
        node.attach_pod(ONE, pod.clone()).await.unwrap();
    }
    let _webs = [Web::start(&cloud.pod("server"), 80, "yes"), Web::start(&cloud.pod("friend"), 80, "friend")];
    let (friend, server) = (cloud.pod("friend"), cloud.pod("server"));
    assert_eq!(ok(&friend, "curl -sm2 http://10.0.0.3/").await, "yes", "its answers leave by a rule");
    assert!(fails(&server, "curl -sm2 http://10.0.0.2/").await, "an answer that no rule lets in");
    let high = (RuleMatch::Ports(6, 1024, 65535), RulePeer::Any);
    node.set_policy(ONE, policy(&[http.clone(), high], true)).await.unwrap();
    assert_eq!(ok(&server, "curl -sm2 http://10.0.0.2/").await, "friend");
    node.set_policy(ONE, policy(&[http], false)).await.unwrap();
    assert_eq!(ok(&server, "curl -sm2 http://10.0.0.2/").await, "friend", "with a memory it passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leaves_is_judged_also_on_its_way_to_the_network_itself() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    let quiet = pod("quiet", 2);
    node.attach_pod(ONE, quiet.clone()).await.unwrap();
    node.attach_pod(ONE, pod("other", 3)).await.unwrap();
    let quiet_ns = cloud.pod("quiet");
    let metadata = "curl -sfm2 http://169.254.169.254/latest/meta-data/instance-id";
    ok(&quiet_ns, metadata).await;
    node.set_policy(ONE, Policy { guards: vec![guard(&quiet, Some(&[]))], groups: vec![] }).await.unwrap();
    assert!(fails(&quiet_ns, metadata).await && fails(&quiet_ns, &format!("{PING} 10.0.0.3")).await);
    let mut down = guard(&quiet, None);
    down.up = false;
    node.set_policy(ONE, Policy { guards: vec![down], groups: vec![] }).await.unwrap();
    assert!(fails(&quiet_ns, metadata).await, "a port that is switched off");
    assert!(fails(&cloud.pod("other"), &format!("{PING} 10.0.0.2")).await);
    node.set_policy(ONE, Policy::default()).await.unwrap();
    ok(&cloud.pod("other"), &format!("{REACH} 10.0.0.2")).await;
    // Whatever its rules are, it is told its address.
    let member = Member {
        port_uid: quiet.port_uid.clone().unwrap(),
        mac: quiet.mac.unwrap(),
        ips: quiet.ips.clone(),
        ips6: vec![],
        hostname: "quiet".into(),
        workload_uid: "w".into(),
        options: vec![],
    };
    node.set_members(ONE, vec![member]).await.unwrap();
    node.set_policy(ONE, Policy { guards: vec![guard(&quiet, Some(&[]))], groups: vec![] }).await.unwrap();
    ok(&quiet_ns, "ip addr flush dev eth0; busybox udhcpc -i eth0 -n -q -f -t 3 -T 1 -s /bin/true").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn further_addresses_and_no_security_at_all() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    let (one, two) = (pod("one", 2), pod("two", 3));
    for pod in [&one, &two] {
        node.attach_pod(ONE, pod.clone()).await.unwrap();
    }
    let netns = cloud.pod("one");
    ok(&netns, "ip addr add 10.0.0.77/24 dev eth0").await;
    let from = |ping: &str, last: u8| format!("{ping} -I 10.0.0.{last} 10.0.0.3");
    assert!(fails(&netns, &from(PING, 77)).await);
    let mut paired = guard(&one, None);
    paired.pairs = vec![("10.0.0.64/28".parse().unwrap(), None)];
    node.set_policy(ONE, Policy { guards: vec![paired], groups: vec![] }).await.unwrap();
    ok(&netns, &from(REACH, 77)).await;
    ok(&netns, "ip addr add 10.0.0.99/24 dev eth0").await;
    assert!(fails(&netns, &from(PING, 99)).await, "outside of the range");
    let mut open = guard(&one, None);
    open.secured = false;
    node.set_policy(ONE, Policy { guards: vec![open], groups: vec![] }).await.unwrap();
    ok(&netns, &from(REACH, 99)).await;
    ok(&netns, "ip link set eth0 address 02:00:00:00:00:55").await;
    ok(&cloud.pod("two"), "ip neigh flush dev eth0").await;
    ok(&netns, &from(REACH, 99)).await;
}

/// Counts the pings that come to a pod, whomever they are for.
struct Pings(String);

impl Pings {
    async fn of(netns: &str) -> Self {
        let table = "nft 'add table ip seen; add chain ip seen came { type filter hook prerouting priority -300; }; \
            add rule ip seen came icmp type echo-request counter'";
        ok(netns, table).await;
        Self(netns.to_owned())
    }

    async fn seen(&self) -> u32 {
        let listing = ok(&self.0, "nft list chain ip seen came").await;
        let count = listing.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).expect("a counter")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_all_or_for_others_is_judged_by_the_rules_of_who_gets_it() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    let pods = [pod("stranger", 2), pod("server", 3)];
    for pod in &pods {
        node.attach_pod(ONE, pod.clone()).await.unwrap();
    }
    let (stranger, server) = (cloud.pod("stranger"), cloud.pod("server"));
    // An address that the server has inside, and that a stranger takes it to have.
    ok(&server, "ip addr add 172.17.0.1/32 dev lo").await;
    ok(&stranger, "ip route add 172.17.0.1 via 10.0.0.3").await;
    let pings = Pings::of(&server).await;
    let policy = |ingress: &[(RuleMatch, RulePeer)]| Policy {
        guards: vec![guard(&pods[1], Some(&["web"]))],
        groups: vec![group("web", &[3], ingress)],
    };
    node.set_policy(ONE, policy(&[])).await.unwrap();
    let targets = ["10.0.0.255", "255.255.255.255", "224.1.1.1", "172.17.0.1", "10.0.0.3"];
    for target in targets {
        inside(&stranger, &format!("{PING} {target}")).await;
        assert_eq!(pings.seen().await, 0, "{target}");
    }
    node.set_policy(ONE, policy(&[(RuleMatch::Icmp(8, None), RulePeer::Any)])).await.unwrap();
    for (number, target) in (1..).zip(targets) {
        inside(&stranger, &format!("{PING} {target}")).await;
        assert_eq!(pings.seen().await, number, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_range_does_not_stand_for_what_others_have() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    let pods = [pod("wide", 2), pod("one", 3), pod("two", 4)];
    for pod in &pods {
        node.attach_pod(ONE, pod.clone()).await.unwrap();
    }
    let mut guards = vec![guard(&pods[0], Some(&["web"])), guard(&pods[1], None), guard(&pods[2], None)];
    guards[0].pairs = vec![("0.0.0.0/0".parse().unwrap(), None), ("10.0.0.0/24".parse().unwrap(), None)];
    guards[2].secured = false;
    let policy = |guards: Vec<Guard>| Policy { guards, groups: vec![group("web", &[2], &[])] };
    node.set_policy(ONE, policy(guards.clone())).await.unwrap();
    let (wide, one, two) = (cloud.pod("wide"), cloud.pod("one"), cloud.pod("two"));
    ok(&one, &format!("{REACH} 10.0.0.4")).await;
    ok(&two, &format!("{REACH} 10.0.0.3")).await;
    let metadata = "curl -sfm2 http://169.254.169.254/latest/meta-data/instance-id";
    ok(&one, metadata).await;
    ok(&two, metadata).await;
    ok(&wide, &format!("{REACH} 10.0.0.3")).await;
    assert!(fails(&one, &format!("{PING} 10.0.0.2")).await, "its own rules hold for it");
    // What it says under an address of its range is judged by its own rules, too.
    ok(&wide, "ip addr add 10.0.0.77/24 dev eth0").await;
    ok(&wide, &format!("{REACH} -I 10.0.0.77 10.0.0.3")).await;
    assert!(fails(&one, &format!("{PING} 10.0.0.77")).await);
    guards[0].groups = Some(vec![]);
    node.set_policy(ONE, policy(guards)).await.unwrap();
    assert!(fails(&wide, &format!("{PING} -I 10.0.0.77 10.0.0.3")).await);
}

/// Who says something to a socket.
fn heard(socket: &UdpSocket) -> SocketAddr {
    heard_within(socket, Duration::from_secs(9)).expect("a datagram")
}

fn heard_within(socket: &UdpSocket, time: Duration) -> Option<SocketAddr> {
    socket.set_read_timeout(Some(time)).unwrap();
    socket.recv_from(&mut [0; 16]).ok().map(|(_, from)| from)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rule_let_in_is_not_answered_when_it_is_gone_nor_by_who_comes_next() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    let pods = [pod("client", 2), pod("server", 3)];
    for pod in &pods {
        node.attach_pod(ONE, pod.clone()).await.unwrap();
    }
    let come = |port: u16| Rule {
        ingress: true,
        v6: false,
        matches: RuleMatch::Ports(17, port, port),
        peer: RulePeer::Any,
    };
    let policy = |rules: Vec<Rule>| Policy {
        guards: vec![guard(&pods[1], Some(&["dns"]))],
        groups: vec![RuleGroup {
            uid: "dns".into(),
            members: vec![],
            members6: vec![],
            rules,
            stateless: false,
        }],
    };
    node.set_policy(ONE, policy(vec![come(5000)])).await.unwrap();
    let server = udp(&cloud.pod("server"), 5000);
    let client = udp(&cloud.pod("client"), 4000);
    client.send_to(b"hi", "10.0.0.3:5000").unwrap();
    let asker = heard(&server);
    let answer = || {
        // A refused one may be told of as an error.
        let _ = server.send_to(b"yes", asker);
    };
    answer();
    heard(&client); // an answer
    node.set_policy(ONE, policy(vec![come(5000), come(5001)])).await.unwrap();
    answer();
    heard(&client); // another rule changes nothing for what goes on
    node.set_policy(ONE, policy(vec![come(5001)])).await.unwrap();
    answer();
    assert_eq!(heard_within(&client, Duration::from_millis(700)), None, "an answer to what may not come");

    // Who asked is gone, and another has its address, who may ask the same and takes nothing else.
    let mut open = policy(vec![come(5000), everything_leaves()]);
    node.set_policy(ONE, open.clone()).await.unwrap();
    client.send_to(b"hi", "10.0.0.3:5000").unwrap();
    heard(&server);
    answer();
    heard(&client); // an answer
    drop(client);
    node.detach(pods[0].port_uid.as_deref().unwrap()).await.unwrap();
    let next = PodAttach { port_uid: Some("next".into()), pod_uid: "next".into(), ..pods[0].clone() };
    open.guards.push(guard(&next, Some(&["out"])));
    open.groups.push(group("out", &[], &[]));
    node.set_policy(ONE, open).await.unwrap();
    node.attach_pod(ONE, next).await.unwrap();
    let next = udp(&cloud.pod("next"), 4000);
    answer();
    assert_eq!(heard_within(&next, Duration::from_millis(700)), None, "an answer to another");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_is_refused_is_not_kept_and_stops_no_other_network() {
    const TWO: &str = "45454545-4545-4545-8545-454545454545";
    let cloud = Cloud::new();
    let node = cloud.open().await;
    for (uid, one, two) in [(ONE, "a", "b"), (TWO, "c", "d")] {
        node.ensure(tenant(uid)).await.unwrap();
        node.attach_pod(uid, pod(one, 2)).await.unwrap();
        node.attach_pod(uid, pod(two, 3)).await.unwrap();
    }
    let file = cloud.dir.path().join(format!("network/networks/{ONE}.json"));
    let saved = || std::fs::read_to_string(&file).unwrap();
    let fine = Policy { guards: vec![guard(&pod("a", 2), None)], groups: vec![] };
    node.set_policy(ONE, fine.clone()).await.unwrap();
    let mut bad = fine.clone();
    bad.guards[0].port_uid = "\"".into();
    bad.guards[0].up = false;
    assert!(node.set_policy(ONE, bad).await.is_err());
    assert!(saved().contains("\"up\":true") && !saved().contains("\"up\":false"), "{}", saved());
    let (ping, reach) = (format!("{PING} 10.0.0.3"), format!("{REACH} 10.0.0.3"));
    ok(&cloud.pod("a"), &reach).await;

    // What an earlier version may have saved, or another nft have taken.
    let odd = saved().replace(&fine.guards[0].port_uid, "\\\"").replace("\"up\":true", "\"up\":false");
    assert_ne!(odd, saved());
    std::fs::write(&file, odd).unwrap();
    drop(node);
    let node = cloud.open().await;
    ok(&cloud.pod("c"), &reach).await;
    assert!(fails(&cloud.pod("a"), &ping).await, "closed, for nobody knows what may pass");
    assert!(node.notes().iter().any(|note| note.contains(ONE)), "{:?}", node.notes());
    node.set_policy(ONE, fine).await.unwrap();
    ok(&cloud.pod("a"), &reach).await;
    assert!(node.notes().is_empty(), "{:?}", node.notes());
}
