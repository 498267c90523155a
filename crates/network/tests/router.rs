//! Routers with real namespaces: between networks, and to and from outside. Needs root.

mod support;

use std::net::Ipv4Addr;
use std::process::{Child, Command};
use support::*;
use yunfan_network::*;

const ONE: &str = "55555555-5555-4555-8555-555555555555";
const TWO: &str = "66666666-6666-4666-8666-666666666666";
const OTHER: &str = "88888888-8888-4888-8888-888888888888";
const ROUTER: &str = "77777777-7777-4777-8777-777777777777";

/// The pod `uid` at 10.0.1.`last`, on the second network.
fn second(uid: &str, last: u8) -> PodAttach {
    PodAttach { ips: vec![Ipv4Addr::new(10, 0, 1, last)], ..pod(uid, last) }
}

fn interface(network: &str, range: &str) -> RouterInterface {
    RouterInterface {
        network_uid: network.into(),
        subnets: vec![range.parse().unwrap()],
        addresses: vec![],
        subnets6: vec![],
        addresses6: vec![],
        scopes: [None, None],
    }
}

/// What the host gets of an address, if anything.
fn from_host(ip: impl std::fmt::Display) -> Option<String> {
    let got = Command::new("curl").args(["-sm2", &format!("http://{ip}/")]).output().unwrap();
    got.status.success().then(|| String::from_utf8_lossy(&got.stdout).into_owned())
}

/// Two networks with ranges of their own.
async fn two_networks(node: &NodeNetworks) {
    node.ensure(tenant(ONE)).await.unwrap();
    let mut other = tenant(TWO);
    other.subnets[0].cidr = "10.0.1.0/24".parse().unwrap();
    other.subnets[0].gateway = "10.0.1.1".parse().unwrap();
    node.ensure(other).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_joins_networks_and_outer_addresses_lead_to_inner_ones() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    two_networks(&node).await;
    node.attach_pod(ONE, pod("here", 2)).await.unwrap();
    node.attach_pod(TWO, second("there", 3)).await.unwrap();
    let _webs = [Web::start(&cloud.pod("here"), 80, "here"), Web::start(&cloud.pod("there"), 80, "there")];
    let (here, there) = (cloud.pod("here"), cloud.pod("there"));
    let fetch = "curl -sm2 http://10.0.1.3/";
    assert!(fails(&here, fetch).await, "no router yet");

    // Outer addresses of a range that no other test of this process has.
    let outer = |last: u8| {
        let [_, b, _, _] = cloud.services.network().octets();
        Ipv4Addr::new(172, 31, b, last)
    };
    let router = |external: Option<ExternalSide>| RouterConfig {
        uid: ROUTER.into(),
        interfaces: vec![interface(ONE, "10.0.0.0/24"), interface(TWO, "10.0.1.0/24")],
        external,
        routes: vec![],
    };
    node.set_routers(vec![router(None)]).await.unwrap();
    node.set_routers(vec![router(None)]).await.unwrap();
    assert_eq!(ok(&here, fetch).await, "there");
    assert_eq!(ok(&there, "curl -sm2 http://10.0.0.2/").await, "here");

    // From one scope of addresses into another nothing goes but by floating IPs.
    let mut apart = router(None);
    apart.interfaces[1].scopes[0] = Some("demo/other".into());
    node.set_routers(vec![apart.clone()]).await.unwrap();
    assert!(fails(&here, fetch).await && fails(&there, "curl -sm2 http://10.0.0.2/").await);
    apart.interfaces[0].scopes[0] = Some("demo/other".into());
    node.set_routers(vec![apart.clone()]).await.unwrap();
    assert_eq!(ok(&here, fetch).await, "there", "both are in it");

    let side = |snat: bool, floating: Vec<FloatingAddress>| ExternalSide {
        address: outer(2),
        snat,
        floating,
        forwards: vec![],
    };
    let floating = FloatingAddress { address: outer(10), fixed: Ipv4Addr::new(10, 0, 1, 3) };
    node.set_routers(vec![router(Some(side(true, vec![floating])))]).await.unwrap();
    assert_eq!(from_host(outer(10)).as_deref(), Some("there"));
    assert_eq!(ok(&here, &format!("curl -sm2 http://{}/", outer(10))).await, "there", "from inside, too");
    apart.interfaces[0].scopes[0] = None;
    apart.external = Some(side(true, vec![floating]));
    node.set_routers(vec![apart]).await.unwrap();
    assert_eq!(ok(&here, &format!("curl -sm2 http://{}/", outer(10))).await, "there", "it is translated");
    assert!(fails(&here, fetch).await);
    let host = Command::new("sh")
        .args([
            "-c",
            "ip -4 -o addr show scope global up | awk '$2 !~ /^yf/ {sub(\"/.*\", \"\", $4); print $4; exit}'",
        ])
        .output()
        .unwrap();
    let host = String::from_utf8_lossy(&host.stdout).trim().to_owned();
    let (ping, reach) = (format!("{PING} {host}"), format!("{REACH} {host}"));
    ok(&here, &reach).await;
    ok(&there, &reach).await;
    node.set_routers(vec![router(Some(side(false, vec![floating])))]).await.unwrap();
    assert!(fails(&here, &ping).await, "no address of its own, and none lent");
    ok(&there, &reach).await;

    // The rules of groups hold for what comes from outside.
    let guard = Guard {
        port_uid: second("there", 3).port_uid.unwrap(),
        mac: second("there", 3).mac.unwrap(),
        ips: vec![Ipv4Addr::new(10, 0, 1, 3)],
        ips6: vec![],
        up: true,
        secured: true,
        pairs: vec![],
        pairs6: vec![],
        behind: vec![],
        groups: Some(vec![]),
        qos: Qos::default(),
    };
    node.set_policy(TWO, Policy { guards: vec![guard], groups: vec![] }).await.unwrap();
    assert_eq!(from_host(outer(10)), None);
    node.set_policy(TWO, Policy::default()).await.unwrap();
    assert_eq!(from_host(outer(10)).as_deref(), Some("there"));

    node.set_routers(vec![router(Some(side(true, vec![])))]).await.unwrap();
    // Whoever else may answer for it, outside.
    assert_ne!(from_host(outer(10)).as_deref(), Some("there"), "it leads there no more");

    // An address that moves to another router leads there at once, whichever of the two comes first.
    let of = |uid: &str, network: &str, range: &str, last: u8, fixed: Option<Ipv4Addr>| RouterConfig {
        uid: uid.into(),
        interfaces: vec![interface(network, range)],
        external: Some(ExternalSide {
            address: outer(last),
            snat: true,
            floating: fixed.map(|fixed| FloatingAddress { address: outer(11), fixed }).into_iter().collect(),
            forwards: vec![],
        }),
        routes: vec![],
    };
    let one = |fixed: bool| of(ROUTER, ONE, "10.0.0.0/24", 2, fixed.then_some(Ipv4Addr::new(10, 0, 0, 2)));
    let two = |fixed: bool| of(OTHER, TWO, "10.0.1.0/24", 3, fixed.then_some(Ipv4Addr::new(10, 0, 1, 3)));
    for (first, who) in [(false, "there"), (true, "here"), (false, "there")] {
        node.set_routers(vec![one(first), two(!first)]).await.unwrap();
        assert_eq!(from_host(outer(11)).as_deref(), Some(who));
    }
    node.set_routers(vec![]).await.unwrap();
    assert!(fails(&here, fetch).await);
    cloud.teardown();
    assert_eq!(what_remains(&cloud.tag).unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_an_outer_address_lead_to_several_members() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    two_networks(&node).await;
    node.attach_pod(ONE, pod("here", 2)).await.unwrap();
    node.attach_pod(TWO, second("there", 3)).await.unwrap();
    let (here, there) = (cloud.pod("here"), cloud.pod("there"));
    let _webs = [Web::start(&here, 80, "here"), Web::start(&there, 8081, "there")];
    let [_, b, _, _] = cloud.services.network().octets();
    let address = Ipv4Addr::new(172, 31, b, 10);
    let (one, other) = (Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 1, 3));
    let forward = |outer: (u16, u16), fixed: Ipv4Addr, inner: (u16, u16)| PortForward {
        address,
        protocol: Protocol::Tcp,
        outer,
        fixed,
        inner,
    };
    let router = |forwards: Vec<PortForward>| RouterConfig {
        uid: ROUTER.into(),
        interfaces: vec![interface(ONE, "10.0.0.0/24"), interface(TWO, "10.0.1.0/24")],
        external: Some(ExternalSide {
            address: Ipv4Addr::new(172, 31, b, 2),
            snat: true,
            floating: vec![],
            forwards,
        }),
        routes: vec![],
    };
    let page = |port: u16| from_host(format!("{address}:{port}"));
    let all = vec![
        forward((80, 80), one, (80, 80)),
        forward((81, 89), one, (80, 80)),
        forward((8080, 8082), other, (8080, 8082)),
        forward((9000, 9002), other, (8080, 8082)),
    ];
    node.set_routers(vec![router(all.clone())]).await.unwrap();
    for (port, who) in [(80, Some("here")), (85, Some("here")), (8081, Some("there")), (9001, Some("there"))]
    {
        assert_eq!(page(port).as_deref(), who, "port {port}");
    }
    assert_eq!((page(9000), page(90)), (None, None), "nobody listens there");
    let from_inside = ok(&here, &format!("curl -sm2 http://{address}:9001/")).await;
    assert_eq!(from_inside, "there", "from inside, too");
    node.set_routers(vec![router(all[1..2].to_vec())]).await.unwrap();
    assert_eq!((page(80), page(81).as_deref()), (None, Some("here")));
    node.set_routers(vec![router(vec![])]).await.unwrap();
    assert_ne!(page(81).as_deref(), Some("here"), "it leads there no more");
    cloud.teardown();
    assert_eq!(what_remains(&cloud.tag).unwrap(), Vec::<String>::new());
}

/// Whether a guest is answered from an address.
async fn reaches(guest: &str, address: &str) -> bool {
    !fails(guest, &format!("curl -sm2 http://{address}/")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_behind_members_are_reached_by_way_of_them() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    two_networks(&node).await;
    node.attach_pod(ONE, pod("here", 2)).await.unwrap();
    node.attach_pod(ONE, pod("beside", 4)).await.unwrap();
    node.attach_pod(TWO, second("there", 3)).await.unwrap();
    let (here, beside, there) = (cloud.pod("here"), cloud.pod("beside"), cloud.pod("there"));
    // What is behind the second network's member; its port may say so.
    ok(&there, "ip addr add 192.0.2.7/32 dev lo && ip link set lo up").await;
    let guard = |behind: Vec<ipnet::Ipv4Net>, groups: Option<Vec<String>>| Guard {
        port_uid: second("there", 3).port_uid.unwrap(),
        mac: second("there", 3).mac.unwrap(),
        ips: vec![Ipv4Addr::new(10, 0, 1, 3)],
        ips6: vec![],
        up: true,
        secured: true,
        pairs: vec![("192.0.2.0/24".parse().unwrap(), None)],
        pairs6: vec![],
        behind,
        groups,
        qos: Qos::default(),
    };
    node.set_policy(TWO, Policy { guards: vec![guard(vec![], None)], groups: vec![] }).await.unwrap();
    let _web = Web::start(&there, 80, "behind");
    let far: (ipnet::Ipv4Net, Ipv4Addr) = ("192.0.2.0/24".parse().unwrap(), Ipv4Addr::new(10, 0, 1, 3));
    // A range of a network itself, which is reached there all the same.
    let own = ("10.0.0.0/24".parse().unwrap(), Ipv4Addr::new(10, 0, 0, 9));
    // The same by way of a member of the other network, whose members reach it by the router all the same.
    let across = (own.0, far.1);
    let router = |routes: Vec<(ipnet::Ipv4Net, Ipv4Addr)>| RouterConfig {
        uid: ROUTER.into(),
        interfaces: vec![interface(ONE, "10.0.0.0/24"), interface(TWO, "10.0.1.0/24")],
        external: None,
        routes,
    };
    node.set_routers(vec![router(vec![])]).await.unwrap();
    assert!(!reaches(&here, "192.0.2.7").await);
    for _ in 0..2 {
        node.set_routers(vec![router(vec![far, own, across])]).await.unwrap();
        assert_eq!(ok(&here, "curl -sm2 http://192.0.2.7/").await, "behind");
        assert_eq!(ok(&here, "curl -sm2 http://10.0.1.3/").await, "behind");
        ok(&here, &format!("{PING} 10.0.0.4")).await;
        // Without it, or with everything behind one: the way is as it is told.
        node.set_routers(vec![router(vec![])]).await.unwrap();
        assert!(!reaches(&here, "192.0.2.7").await);
        let all = (ipnet::Ipv4Net::default(), far.1);
        node.set_routers(vec![router(vec![all])]).await.unwrap();
        assert!(reaches(&beside, "192.0.2.7").await);
        assert_eq!(ok(&beside, "curl -sm2 http://10.0.1.3/").await, "behind");
    }
    node.set_routers(vec![router(vec![far])]).await.unwrap();
    // The rules of its groups hold for what is routed there.
    let closed = vec![guard(vec![far.0], Some(vec![]))];
    node.set_policy(TWO, Policy { guards: closed, groups: vec![] }).await.unwrap();
    assert!(!reaches(&here, "192.0.2.7").await);
    node.set_policy(TWO, Policy::default()).await.unwrap();
    // Nothing of them stays when the router goes, also one that was before this process.
    drop(node);
    let node = cloud.open().await;
    node.set_routers(vec![]).await.unwrap();
    let left = Command::new("sh")
        .args([
            "-c",
            "for ns in $(ip netns list | cut -d' ' -f1); do ip -n $ns route; done | grep -c 192.0.2 || true",
        ])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout).trim(), "0");
    cloud.teardown();
    assert_eq!(what_remains(&cloud.tag).unwrap(), Vec::<String>::new());
}

/// What `ip monitor` tells of the routes of a namespace.
struct Monitor {
    ns: String,
    child: Child,
    told: tempfile::NamedTempFile,
}

impl Monitor {
    /// Watches the namespace whose name begins so.
    async fn start(prefix: &str) -> Self {
        let mut names = std::fs::read_dir("/run/netns").unwrap().map(|entry| entry.unwrap().file_name());
        let ns =
            names.find_map(|name| name.into_string().ok().filter(|name| name.starts_with(prefix))).unwrap();
        let told = tempfile::NamedTempFile::new().unwrap();
        let mut ip = Command::new("ip");
        ip.args(["-n", &ns, "monitor", "route"]).stdout(told.reopen().unwrap());
        let mut monitor = Self { child: ip.spawn().unwrap(), ns, told };
        monitor.told("203.0.113.1").await;
        monitor
    }

    /// All that it told before it told of a new route to this address.
    async fn told(&mut self, mark: &str) -> String {
        for _ in 0..100 {
            ok(&self.ns, &format!("ip route add blackhole {mark} && ip route del blackhole {mark}")).await;
            let told = std::fs::read_to_string(self.told.path()).unwrap();
            if told.contains(mark) {
                return told;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("nothing is told of {}", self.ns);
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_member_leads_everywhere_no_change_leads_by_the_way_out_even_for_a_moment() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    node.attach_pod(ONE, pod("here", 2)).await.unwrap();
    let [_, b, _, _] = cloud.services.network().octets();
    let router = |ranges: &[&str]| RouterConfig {
        uid: ROUTER.into(),
        interfaces: vec![interface(ONE, "10.0.0.0/24")],
        external: Some(ExternalSide {
            address: Ipv4Addr::new(172, 31, b, 2),
            snat: true,
            floating: vec![],
            forwards: vec![],
        }),
        routes: ranges.iter().map(|range| (range.parse().unwrap(), Ipv4Addr::new(10, 0, 0, 2))).collect(),
    };
    node.set_routers(vec![router(&["0.0.0.0/0"])]).await.unwrap();
    let mut inside = Monitor::start(&format!("yf-{}-rtr-", cloud.tag)).await;
    let mut network = Monitor::start(&format!("yf-{}-net-", cloud.tag)).await;
    node.set_routers(vec![router(&["0.0.0.0/0", "192.0.2.0/24"])]).await.unwrap();
    for monitor in [&mut inside, &mut network] {
        let told = monitor.told("203.0.113.2").await;
        assert!(told.contains("192.0.2.0/24") && !told.contains("default"), "{}: {told}", monitor.ns);
    }
    // Without it they do again.
    node.set_routers(vec![router(&[])]).await.unwrap();
    assert!(inside.told("203.0.113.3").await.contains("default via 169.254.191.1 dev outside"));
    assert!(network.told("203.0.113.3").await.contains("default via 169.254.192.1 dev router"));
    drop((inside, network));
    cloud.teardown();
    assert_eq!(what_remains(&cloud.tag).unwrap(), Vec::<String>::new());
}
