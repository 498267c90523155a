//! The ways from the host into the cluster network: node ports, host ports, further addresses; who stays with which target; UDP whose
//! target changes. Needs root.

mod support;

use std::io::BufRead;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use support::*;
use yunfan_network::*;

fn cluster(cloud: &Cloud) -> NetworkConfig {
    let node_cidr = ipnet::Ipv4Net::new(cloud.cidr.network(), 24).unwrap();
    NetworkConfig {
        uid: "cluster".into(),
        name: "cluster".into(),
        namespace: "kube-system".into(),
        kind: NetworkKind::Cluster { node_cidr },
        subnets: vec![],
        subnets6: vec![],
        mtu: 1450,
    }
}

async fn pod_with(node: &NodeNetworks, uid: &str, host_ports: Vec<HostPort>) -> Ipv4Addr {
    let ip = node.allocate_cluster_ip(uid).await.unwrap();
    let attach = PodAttach { pod_uid: uid.into(), port_uid: None, mac: None, ips: vec![ip], host_ports };
    node.attach_pod("cluster", attach).await.unwrap();
    ip
}

fn on_nodes(rule: ServiceRule, port: u16) -> ServiceRule {
    let mut rule = rule;
    rule.ports[0].node_port = Some(port);
    rule
}

/// What the host's curl gets; an empty text where it gets nothing.
fn host_gets(address: &str) -> String {
    let out = Command::new("curl").args(["-sm3", &format!("http://{address}/")]).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

/// Whether the host's curl is refused at once.
fn host_is_refused(address: &str) -> bool {
    let out = Command::new("curl").args(["-sm3", &format!("http://{address}/")]).output().unwrap();
    out.status.code() == Some(7)
}

#[tokio::test(flavor = "multi_thread")]
async fn node_ports_are_reached_from_everywhere() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(cluster(&cloud)).await.unwrap();
    let (a, b) = (pod_with(&node, "pod-a", vec![]).await, pod_with(&node, "pod-b", vec![]).await);
    let _webs = [Web::start(&cloud.pod("pod-a"), 8080, "a"), Web::start(&cloud.pod("pod-b"), 8080, "b")];
    let both = [(a, 8080), (b, 8080)];
    let mut sticky = on_nodes(service("sticky", cloud.vip(5), TargetNetwork::Cluster, &both), 31_901);
    sticky.affinity = Some(60);
    let only = on_nodes(service("only", cloud.vip(6), TargetNetwork::Cluster, &both[..1]), 31_902);
    let mut nobody = on_nodes(service("nobody", cloud.vip(7), TargetNetwork::Cluster, &[]), 31_903);
    nobody.external_ips = vec!["198.51.100.77".parse().unwrap()];
    node.set_services(vec![sticky.clone(), only.clone(), nobody.clone()]).await.unwrap();
    assert_eq!(host_gets("127.0.0.1:31902"), "a", "by loopback");
    // A pod that reaches itself by the node's own addresses: by each, on one of which it leaves the network.
    let routes = Command::new("ip").args(["-o", "-4", "addr", "show", "scope", "global"]).output().unwrap();
    for address in
        String::from_utf8(routes.stdout).unwrap().lines().filter_map(|line| line.split_whitespace().nth(3))
    {
        let address = address.split('/').next().unwrap();
        assert_eq!(host_gets(&format!("{address}:31902")), "a", "{address}");
        let get = format!("curl -sm3 http://{address}:31902/");
        // Those of other clouds' uplinks are no way into this one for pods.
        if !address.starts_with("169.254.") {
            assert_eq!(ok(&cloud.pod("pod-a"), &get).await, "a", "{address} from the pod itself");
            assert_eq!(ok(&cloud.pod("pod-b"), &get).await, "a", "{address} from another pod");
        }
    }
    assert!(host_is_refused("127.0.0.1:31903"), "a Service without targets");
    assert!(host_is_refused("198.51.100.77:80"), "an address from outside without targets");
    let first = host_gets("127.0.0.1:31901");
    for turn in 0..10 {
        // Others come and go meanwhile, and the process too.
        let others = if turn % 2 == 0 { vec![sticky.clone()] } else { vec![sticky.clone(), only.clone()] };
        node.set_services(others).await.unwrap();
        assert_eq!(host_gets("127.0.0.1:31901"), first);
    }
    drop(node);
    let node = cloud.open().await;
    node.set_services(vec![only.clone(), sticky.clone()]).await.unwrap();
    assert_eq!(host_gets("127.0.0.1:31901"), first, "after a restart");
    nobody.ports[0].targets = only.ports[0].targets.clone();
    nobody.ports[0].outside = only.ports[0].targets.clone();
    node.set_services(vec![nobody]).await.unwrap();
    assert_eq!(host_gets("198.51.100.77:80"), "a", "an address from outside");
    assert_eq!(ok(&cloud.pod("pod-b"), "curl -sm3 http://198.51.100.77/").await, "a", "the same from a pod");
    assert!(host_is_refused("127.0.0.1:31902"), "a port that was given up");
    cloud.teardown();
    assert!(what_remains(&cloud.tag).unwrap().is_empty(), "{:?}", what_remains(&cloud.tag));
}

#[tokio::test(flavor = "multi_thread")]
async fn host_ports_lead_to_their_pod_and_stay_over_a_restart() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(cluster(&cloud)).await.unwrap();
    node.set_services(vec![]).await.unwrap();
    let port = |ip: Option<&str>| HostPort {
        host_ip: ip.map(|ip| ip.parse().unwrap()),
        protocol: Protocol::Tcp,
        port: 31_911,
        target_port: 8080,
    };
    pod_with(&node, "here", vec![port(Some("127.0.0.1"))]).await;
    pod_with(&node, "there", vec![port(Some("127.0.0.2"))]).await;
    let _webs =
        [Web::start(&cloud.pod("here"), 8080, "here"), Web::start(&cloud.pod("there"), 8080, "there")];
    assert_eq!((host_gets("127.0.0.1:31911"), host_gets("127.0.0.2:31911")), ("here".into(), "there".into()));
    assert!(host_is_refused("127.0.0.3:31911"));
    drop(node);
    let node = cloud.open().await;
    node.set_services(vec![]).await.unwrap();
    assert_eq!(host_gets("127.0.0.2:31911"), "there");
    node.detach("there").await.unwrap();
    assert!(host_is_refused("127.0.0.2:31911"));
    assert_eq!(host_gets("127.0.0.1:31911"), "here");
    let tenant_pod = PodAttach { host_ports: vec![port(None)], ..pod("x", 3) };
    let uid = "55555555-5555-4555-8555-555555555555";
    node.ensure(tenant(uid)).await.unwrap();
    let refused = node.attach_pod(uid, tenant_pod).await.unwrap_err();
    assert!(refused.to_string().contains("host_ports"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn udp_follows_its_targets() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(cluster(&cloud)).await.unwrap();
    let (a, b) = (pod_with(&node, "pod-a", vec![]).await, pod_with(&node, "pod-b", vec![]).await);
    pod_with(&node, "client", vec![]).await;
    let udp = |ip| {
        let mut rule = service("echo", cloud.vip(5), TargetNetwork::Cluster, &[(ip, 5300)]);
        rule.ports[0].protocol = Protocol::Udp;
        rule.ports[0].port = 53;
        rule
    };
    let mut servers: Vec<_> =
        ["pod-a", "pod-b"].map(|uid| python(&cloud.pod(uid), &ANSWER.replace("NAME", uid))).into();
    for server in &mut servers {
        let mut line = String::new();
        std::io::BufReader::new(server.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "listening");
    }
    let ask = ASK.replace("ADDRESS", &cloud.vip(5).to_string());
    let asked = || {
        let out = python(&cloud.pod("client"), &ask).wait_with_output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    node.set_services(vec![udp(a)]).await.unwrap();
    let first = asked();
    node.set_services(vec![udp(b)]).await.unwrap();
    let second = asked();
    for server in &mut servers {
        server.kill().unwrap();
        server.wait().unwrap();
    }
    assert_eq!((first.trim(), second.trim()), ("pod-a", "pod-b"));
}

/// Answers everything with its name.
const ANSWER: &str = "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((\"0.0.0.0\", 5300))
print(\"listening\", flush=True)
while True: s.sendto(b\"NAME\", s.recvfrom(99)[1])";

/// Asks from one port of its own, so that all questions belong to the same entry of connection tracking.
const ASK: &str = "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind((\"\", 4444))
s.settimeout(3)
s.sendto(b\"?\", (\"ADDRESS\", 53))
print(s.recv(99).decode())";

fn python(netns: &str, script: &str) -> Child {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", netns, "python3", "-c", script]).stdout(Stdio::piped());
    command.spawn().unwrap()
}
