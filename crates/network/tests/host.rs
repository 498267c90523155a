//! What the host sees: the cluster network, a restart, a teardown that leaves nothing, two clouds. Needs root.
//!
//! One test at a time: they compare the host's whole state before and after.

mod support;

use std::process::Command;
use std::time::Instant;
use support::*;
use tokio::sync::Mutex;
use yunfan_network::*;

static ALONE: Mutex<()> = Mutex::const_new(());

fn cluster(cloud: &Cloud, third: u32) -> NetworkConfig {
    let node = ipnet::Ipv4Net::new((u32::from(cloud.cidr.network()) + third * 256).into(), 24).unwrap();
    NetworkConfig {
        uid: "cluster".into(),
        name: "cluster".into(),
        namespace: "kube-system".into(),
        kind: NetworkKind::Cluster { node_cidr: node },
        subnets: vec![],
        subnets6: vec![],
        mtu: 1450,
    }
}

async fn cluster_pod(node: &NodeNetworks, uid: &str) -> std::net::Ipv4Addr {
    let ip = node.allocate_cluster_ip(uid).await.unwrap();
    let attach =
        PodAttach { pod_uid: uid.into(), port_uid: None, mac: None, ips: vec![ip], host_ports: vec![] };
    node.attach_pod("cluster", attach).await.unwrap();
    ip
}

fn said(program: &str, args: &[&str]) -> String {
    String::from_utf8(Command::new(program).args(args).output().unwrap().stdout).unwrap()
}

/// Links, namespaces, rules and routes of the host, without those of other clouds, which may come and go meanwhile:
/// `own` are the tags of ours.
fn host(own: &[&str]) -> String {
    let state = [
        said("ip", &["-o", "link"]),
        said("ip", &["netns"]),
        said("ip", &["route"]),
        format!("\n{}", said("nft", &["list", "ruleset"]))
            .split("\ntable ")
            .collect::<Vec<_>>()
            .join("\u{0}")
            .replace('\n', " "),
    ];
    let other = |line: &str| {
        ["yf-", "yf", "yunfan-"].iter().any(|prefix| {
            line.match_indices(prefix).any(|(at, _)| {
                let tag = line.get(at + prefix.len()..at + prefix.len() + 6).unwrap_or_default();
                tag.len() == 6 && tag.bytes().all(|b| b.is_ascii_hexdigit()) && !own.contains(&tag)
            })
        })
    };
    let all = state.join("\n");
    all.split(['\n', '\u{0}']).filter(|line| !other(line)).collect::<Vec<_>>().join("\n")
}

fn forwarding() -> String {
    said("cat", &["/proc/sys/net/ipv4/ip_forward"])
}

/// Forwarding is as it was, unless another cloud of this host has come and needs it.
fn put_back(before: &str) {
    let others = said("ip", &["-o", "link"]).lines().any(|l| l.contains(": yf"));
    assert!(others || forwarding() == before);
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_and_host_reach_each_other_and_nothing_remains() {
    let _alone = ALONE.lock().await;
    let cloud = Cloud::new();
    let before = host(&[&cloud.tag]);
    let forwarding_before = forwarding();
    {
        let node = cloud.open().await;
        node.ensure(cluster(&cloud, 3)).await.unwrap();
        assert!(node.notes().is_empty(), "{:?}", node.notes());
        let (a, b) = (cluster_pod(&node, "pod-a").await, cluster_pod(&node, "pod-b").await);
        let _web = Web::start(&cloud.pod("pod-b"), 8080, "pod b");
        assert_eq!(ok(&cloud.pod("pod-a"), &format!("curl -sm2 http://{b}:8080/")).await, "pod b");
        assert_eq!(said("curl", &["-sm2", &format!("http://{b}:8080/")]), "pod b", "host to pod");
        let rule = service("web", cloud.vip(5), TargetNetwork::Cluster, &[(b, 8080)]);
        node.set_services(vec![rule]).await.unwrap();
        assert_eq!(ok(&cloud.pod("pod-a"), &format!("curl -sm2 http://{}/", cloud.vip(5))).await, "pod b");
        assert_eq!(ok(&cloud.pod("pod-b"), &format!("curl -sm2 http://{}/", cloud.vip(5))).await, "pod b");
        assert_eq!(said("curl", &["-sm2", &format!("http://{}/", cloud.vip(5))]), "pod b", "host to Service");
        let named = ok(
            &cloud.pod("pod-a"),
            &format!("busybox nslookup web.demo.svc.cluster.local. {}", cloud.vip(10)),
        )
        .await;
        assert!(named.contains(&cloud.vip(5).to_string()), "{named}");
        // A pod reaches what listens on the host, under its own address.
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let gateway = ok(&cloud.pod("pod-a"), "ip route get 1.1.1.1").await;
        assert!(gateway.contains("via"), "{gateway}");
        let uplink = said("ip", &["-o", "-4", "addr", "show", &format!("yf{}u", cloud.tag)]);
        let address = uplink.split_whitespace().nth(3).unwrap().split('/').next().unwrap().to_owned();
        let pod_ns = cloud.pod("pod-a");
        let call = tokio::spawn(async move {
            inside(&pod_ns, &format!("busybox nc -w2 {address} {port} </dev/null")).await
        });
        let (_, client) = tokio::time::timeout(std::time::Duration::from_secs(3), listener.accept())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(client.ip(), std::net::IpAddr::V4(a), "without translation");
        call.await.unwrap();
        leaves_under_the_hosts_address(&cloud, &node).await;
    }
    assert!(!what_remains(&cloud.tag).unwrap().is_empty());
    cloud.teardown();
    cloud.teardown();
    assert!(what_remains(&cloud.tag).unwrap().is_empty(), "{:?}", what_remains(&cloud.tag));
    assert_eq!(host(&[&cloud.tag]), before);
    put_back(&forwarding_before);
    assert!(!cloud.dir.path().join("network").exists());
}

/// A pod's connection to somewhere beyond the host comes from the host, and so does the host's own to a Service whose pod is on another node.
async fn leaves_under_the_hosts_address(cloud: &Cloud, node: &NodeNetworks) {
    let outside = format!("yftest-{}", cloud.tag);
    let (link, ns) = (format!("yo{}", cloud.tag), outside.as_str());
    // A pod of another node's slice, which knows the way to its node alone.
    let far = std::net::Ipv4Addr::from(u32::from(cloud.cidr.network()) + 200 * 256 + 9);
    for command in [
        format!("netns add {ns}"),
        format!("link add {link} type veth peer name eth0 netns {ns}"),
        format!("addr add 198.51.100.1/30 dev {link}"),
        format!("link set {link} up"),
        format!("-n {ns} addr add 198.51.100.2/30 dev eth0"),
        format!("-n {ns} link set lo up"),
        format!("-n {ns} link set eth0 up"),
        format!("-n {ns} addr add {far}/32 dev eth0"),
        format!("route add {far}/32 dev {link}"),
    ] {
        said("ip", &command.split(' ').collect::<Vec<_>>());
    }
    let mut server = Command::new("ip")
        .args(["netns", "exec", ns, "busybox", "httpd", "-f", "-vv", "-p", "9000", "-h", "/proc/self/net"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let _ = inside(&cloud.pod("pod-a"), "curl -sm2 http://198.51.100.2:9000/dev").await;
    let rule = service("far", cloud.vip(6), TargetNetwork::Cluster, &[(far, 8081)]);
    node.set_services(vec![rule]).await.unwrap();
    let web = Web::start(ns, 8081, "far away");
    let answer = said("curl", &["-sm2", &format!("http://{}/", cloud.vip(6))]);
    drop(web);
    assert_eq!(answer, "far away", "host to a Service whose pod is on another node");
    // The server's log says who asked.
    server.kill().unwrap();
    let heard = String::from_utf8(server.wait_with_output().unwrap().stderr).unwrap();
    said("ip", &["netns", "del", ns]);
    said("ip", &["link", "del", &link]);
    assert!(heard.contains("198.51.100.1"), "{heard}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_process_finds_everything() {
    let _alone = ALONE.lock().await;
    let cloud = Cloud::new();
    let tenant_uid = "44444444-4444-4444-8444-444444444444";
    let rules = vec![service(
        "web",
        cloud.vip(5),
        TargetNetwork::Tenant(tenant_uid.into()),
        &[("10.0.0.3".parse().unwrap(), 8080)],
    )];
    let first = cloud.open().await;
    first.ensure(cluster(&cloud, 0)).await.unwrap();
    first.ensure(tenant(tenant_uid)).await.unwrap();
    let ip = cluster_pod(&first, "pod-a").await;
    first.attach_pod(tenant_uid, pod("web", 3)).await.unwrap();
    first.attach_pod(tenant_uid, pod("client", 4)).await.unwrap();
    first.set_services(rules.clone()).await.unwrap();
    let members = vec![Member {
        port_uid: "x".into(),
        mac: Mac([2, 0, 0, 0, 0, 3]),
        ips: vec!["10.0.0.3".parse().unwrap()],
        ips6: vec![],
        hostname: "web".into(),
        workload_uid: "w".into(),
        options: vec![],
    }];
    first.set_members(tenant_uid, members).await.unwrap();
    let attached = first.attachments();
    let _web = Web::start(&cloud.pod("web"), 8080, "still here");
    drop(first);

    let client = cloud.pod("client");
    let get = format!("curl -sm2 http://{}/", cloud.vip(5));
    assert_eq!(ok(&client, &get).await, "still here", "while nobody is there");
    let second = cloud.open().await;
    assert_eq!(second.attachments(), attached);
    assert_eq!(second.networks().len(), 2);
    assert_eq!(second.allocate_cluster_ip("pod-a").await.unwrap(), ip);
    assert_ne!(second.allocate_cluster_ip("pod-b").await.unwrap(), ip);
    assert_eq!(ok(&client, &get).await, "still here", "before the Services are told again");
    second.set_services(rules).await.unwrap();
    assert_eq!(ok(&client, &get).await, "still here");
    let named = ok(&client, "busybox nslookup web.blue.demo.net.cluster.local. 10.0.0.1").await;
    assert!(named.contains("10.0.0.3"), "{named}");
    second.attach_pod(tenant_uid, pod("client", 4)).await.unwrap();
    second.detach("pod-a").await.unwrap();
    assert_eq!(second.attachments().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_cloud_with_the_same_range_works_and_says_what_does_not() {
    let _alone = ALONE.lock().await;
    let (one, mut two) = (Cloud::new(), Cloud::new());
    let before = host(&[&one.tag, &two.tag]);
    let forwarding_before = forwarding();
    two.cidr = one.cidr;
    two.services = one.services;
    let first = one.open().await;
    first.ensure(cluster(&one, 0)).await.unwrap();
    let second = two.open().await;
    second.ensure(cluster(&two, 0)).await.unwrap();
    assert_eq!(second.notes().len(), 2, "{:?}", second.notes());
    let a = cluster_pod(&first, "pod-a").await;
    let b = cluster_pod(&second, "pod-b").await;
    assert_eq!(a, b);
    let _webs = [Web::start(&one.pod("pod-a"), 8080, "one"), Web::start(&two.pod("pod-b"), 8080, "two")];
    assert_eq!(said("curl", &["-sm2", &format!("http://{a}:8080/")]), "one");
    // The second cloud's pods still reach the host, under the uplink's address.
    let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let uplink = said("ip", &["-o", "-4", "addr", "show", &format!("yf{}u", two.tag)]);
    let address = uplink.split_whitespace().nth(3).unwrap().split('/').next().unwrap().to_owned();
    let pod_ns = two.pod("pod-b");
    let call =
        tokio::spawn(
            async move { inside(&pod_ns, &format!("busybox nc -w2 {address} {port} </dev/null")).await },
        );
    let accept = tokio::time::timeout(std::time::Duration::from_secs(3), listener.accept());
    // The stream is dropped at once: the client waits for that.
    let (_, client) = accept.await.unwrap().unwrap();
    assert!(client.ip().to_string().starts_with("169.254."), "{client}");
    call.await.unwrap();
    drop((first, second));
    one.teardown();
    assert_eq!(said("cat", &["/proc/sys/net/ipv4/ip_forward"]).trim(), "1", "the other cloud still needs it");
    two.teardown();
    assert_eq!(host(&[&one.tag, &two.tag]), before);
    put_back(&forwarding_before);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement, not a check"]
async fn how_long_a_pod_takes() {
    let _alone = ALONE.lock().await;
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(cluster(&cloud, 0)).await.unwrap();
    let mut times = Vec::new();
    for n in 0..40 {
        let started = Instant::now();
        cluster_pod(&node, &format!("pod-{n}")).await;
        times.push(started.elapsed());
    }
    times.sort();
    eprintln!("attach: p50 {:?}, p90 {:?}, max {:?}", times[20], times[36], times[39]);
    let started = Instant::now();
    let all = (40..80).map(|n| {
        let node = node.clone();
        tokio::spawn(async move { cluster_pod(&node, &format!("pod-{n}")).await })
    });
    for one in all.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    eprintln!("40 at once: {:?}", started.elapsed());
    let mut times = Vec::new();
    for n in 0..80 {
        let started = Instant::now();
        node.detach(&format!("pod-{n}")).await.unwrap();
        times.push(started.elapsed());
    }
    times.sort();
    eprintln!("detach: p50 {:?}, p90 {:?}", times[40], times[72]);
    let target = |n: u32| std::net::Ipv4Addr::from(u32::from(cloud.cidr.network()) + 2 + n % 200);
    let vip = |n: u32| std::net::Ipv4Addr::from(u32::from(cloud.services.network()) + 100 + n);
    let rule = |n: u32| {
        let targets = [(target(n), 80), (target(n + 1), 80), (target(n + 2), 80)];
        service(&format!("s{n}"), vip(n), TargetNetwork::Cluster, &targets)
    };
    for count in [10, 100, 1000] {
        let started = Instant::now();
        node.set_services((0..count).map(rule).collect()).await.unwrap();
        let first = started.elapsed();
        let started = Instant::now();
        node.set_services((0..count).map(rule).collect()).await.unwrap();
        eprintln!("{count} Services: {first:?}, again {:?}", started.elapsed());
    }
}
