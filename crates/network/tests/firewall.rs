//! What ports may say and hear, with real namespaces: groups, rules, further addresses, ports without security. Needs root.

mod support;

use std::net::Ipv4Addr;
use support::*;
use yunfan_network::*;

const ONE: &str = "44444444-4444-4444-8444-444444444444";

fn guard(pod: &PodAttach, groups: Option<&[&str]>) -> Guard {
    Guard {
        port_uid: pod.port_uid.clone().unwrap(),
        mac: pod.mac.unwrap(),
        ips: pod.ips.clone(),
        up: true,
        secured: true,
        pairs: vec![],
        groups: groups.map(|all| all.iter().map(|uid| (*uid).to_owned()).collect()),
    }
}

fn everything_leaves() -> Rule {
    Rule { ingress: false, matches: RuleMatch::Any, peer: RulePeer::Any }
}

fn group(uid: &str, members: &[u8], ingress: &[(RuleMatch, RulePeer)]) -> RuleGroup {
    let rules =
        ingress.iter().map(|(matches, peer)| Rule { ingress: true, matches: *matches, peer: peer.clone() });
    RuleGroup {
        uid: uid.into(),
        members: members.iter().map(|last| Ipv4Addr::new(10, 0, 0, *last).into()).collect(),
        rules: rules.chain([everything_leaves()]).collect(),
    }
}

const PING: &str = "busybox ping -c1 -W1";

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
    ok(&server, &format!("{PING} 10.0.0.1")).await;

    let http = (RuleMatch::Ports(6, 80, 81), RulePeer::Group("friends".into()));
    let ping = (RuleMatch::Icmp(8, None), RulePeer::Range("10.0.0.4/32".parse().unwrap()));
    node.set_policy(ONE, policy(vec![group("web", &[3], &[http, ping]), group("friends", &[2], &[])]))
        .await
        .unwrap();
    assert_eq!(ok(&friend, fetch).await, "yes");
    assert!(fails(&stranger, fetch).await, "no member of the group");
    ok(&stranger, &format!("{PING} 10.0.0.3")).await;
    assert!(fails(&friend, &format!("{PING} 10.0.0.3")).await, "not in the range");

    // What is open goes on until its rule goes. The other end asks and is answered, again and again, over one connection.
    let talk = "exec 3<>/dev/tcp/10.0.0.3/81; for i in 1 2 3 4 5 6 7 8 9; do echo $i >&3; read -t 2 -u 3 line || exit 7; sleep 0.3; done";
    let echo = format!("ip netns exec {server} busybox nc -ll -p 81 -e cat");
    let mut echo = std::process::Command::new("sh").args(["-c", &format!("exec {echo}")]).spawn().unwrap();
    until("the echo answers", || async { !fails(&friend, "bash -c 'exec 3<>/dev/tcp/10.0.0.3/81'").await })
        .await;
    let (inside_friend, line) = (friend.clone(), format!("bash -c '{talk}'"));
    let talking = tokio::spawn(async move { inside(&inside_friend, &line).await.status.code() });
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    node.set_policy(ONE, shut).await.unwrap();
    assert_eq!(talking.await.unwrap(), Some(7), "an open connection ends with its rule");
    echo.kill().unwrap();
    echo.wait().unwrap();
    assert!(fails(&friend, fetch).await);

    // A restarted process finds it as it was; a port without groups takes everything.
    drop(node);
    let node = cloud.open().await;
    assert!(fails(&friend, fetch).await);
    node.set_policy(ONE, Policy::default()).await.unwrap();
    assert_eq!(ok(&stranger, fetch).await, "yes");
}

async fn until<F: Future<Output = bool>>(what: &str, mut probe: impl FnMut() -> F) {
    for _ in 0..50 {
        if probe().await {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    panic!("{what}: never");
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
    ok(&cloud.pod("other"), &format!("{PING} 10.0.0.2")).await;
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
    let from = |last: u8| format!("{PING} -I 10.0.0.{last} 10.0.0.3");
    assert!(fails(&netns, &from(77)).await);
    let mut paired = guard(&one, None);
    paired.pairs = vec![("10.0.0.64/28".parse().unwrap(), None)];
    node.set_policy(ONE, Policy { guards: vec![paired], groups: vec![] }).await.unwrap();
    ok(&netns, &from(77)).await;
    ok(&netns, "ip addr add 10.0.0.99/24 dev eth0").await;
    assert!(fails(&netns, &from(99)).await, "outside of the range");
    let mut open = guard(&one, None);
    open.secured = false;
    node.set_policy(ONE, Policy { guards: vec![open], groups: vec![] }).await.unwrap();
    ok(&netns, &from(99)).await;
    ok(&netns, "ip link set eth0 address 02:00:00:00:00:55").await;
    ok(&cloud.pod("two"), "ip neigh flush dev eth0").await;
    ok(&netns, &from(99)).await;
}
