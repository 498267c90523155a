//! Tenant networks with real namespaces: isolation, DHCP, DNS, metadata, virtual addresses, honesty. Needs root.

mod support;

use std::net::Ipv4Addr;
use support::*;
use yunfan_network::*;

const ONE: &str = "11111111-1111-4111-8111-111111111111";
const TWO: &str = "22222222-2222-4222-8222-222222222222";

#[tokio::test(flavor = "multi_thread")]
async fn tenants_with_the_same_addresses_do_not_meet() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    for uid in [ONE, TWO] {
        node.ensure(tenant(uid)).await.unwrap();
        node.ensure(tenant(uid)).await.unwrap();
    }
    node.attach_pod(ONE, pod("a1", 2)).await.unwrap();
    node.attach_pod(ONE, pod("a2", 3)).await.unwrap();
    let net = node.attach_pod(TWO, pod("b1", 2)).await.unwrap();
    assert_eq!(net.ifname, "eth0");
    assert!(net.netns.exists());
    let again = node.attach_pod(TWO, pod("b1", 2)).await.unwrap();
    assert_eq!(again, net, "attaching twice is fine");
    assert_eq!(node.attachments().len(), 3);

    let _web = Web::start(&cloud.pod("a2"), 8080, "of tenant one");
    assert_eq!(ok(&cloud.pod("a1"), "curl -sm2 http://10.0.0.3:8080/").await, "of tenant one");
    assert!(fails(&cloud.pod("b1"), "curl -sm2 http://10.0.0.3:8080/").await, "another tenant's 10.0.0.3");
    let mut stream = node.dial(DialFrom::Pod("a2"), "127.0.0.1:8080".parse().unwrap()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.unwrap();
    assert!(text.contains("of tenant one"), "{text}");
    assert!(node.dial(DialFrom::Network(ONE), "10.0.0.3:8080".parse().unwrap()).await.is_ok());
    assert!(node.dial(DialFrom::Network(TWO), "10.0.0.3:8080".parse().unwrap()).await.is_err());

    node.detach("a2").await.unwrap();
    node.detach("a2").await.unwrap();
    assert!(!std::path::Path::new("/run/netns").join(cloud.pod("a2")).exists());
    assert!(
        fails(&cloud.pod("a1"), "curl -sm2 http://10.0.0.3:8080/").await,
        "the port is gone though its process runs"
    );
    node.remove(ONE).await.unwrap();
    node.remove(ONE).await.unwrap();
    assert_eq!(node.networks().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_cannot_use_what_is_not_its_own() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    for (uid, last) in [("bad", 2), ("good", 3)] {
        node.attach_pod(ONE, pod(uid, last)).await.unwrap();
    }
    let bad = cloud.pod("bad");
    ok(&bad, &format!("{REACH} 10.0.0.3")).await;
    ok(&bad, "ip addr add 10.0.0.9/24 dev eth0").await;
    assert!(fails(&bad, &format!("{PING} -I 10.0.0.9 10.0.0.3")).await, "another address");
    ok(&bad, "ip addr del 10.0.0.9/24 dev eth0; ip neigh flush dev eth0; ip link set eth0 address 02:00:00:00:00:99").await;
    assert!(fails(&bad, &format!("{PING} 10.0.0.3")).await, "another MAC");
    ok(&bad, "ip link set eth0 address 02:00:00:00:00:02; ip route replace default via 10.0.0.1").await;
    ok(&bad, &format!("{REACH} 10.0.0.3")).await;
    // A lie in ARP: who claims the other's address must not be heard.
    let victim = cloud.pod("good");
    ok(&victim, "ip neigh flush dev eth0").await;
    ok(&bad, "ip addr add 10.0.0.1/32 dev eth0; busybox arping -c2 -U -I eth0 -s 10.0.0.1 10.0.0.1; ip addr del 10.0.0.1/32 dev eth0").await;
    let _ = inside(&victim, &format!("{PING} 10.0.0.1")).await;
    let neighbours = ok(&victim, "ip neigh show 10.0.0.1").await;
    assert!(!neighbours.contains("02:00:00:00:00:02"), "{neighbours}");
    let taken = node.attach_pod(ONE, PodAttach { mac: None, port_uid: None, ..pod("third", 3) }).await;
    assert!(matches!(taken, Err(NetworkError::Invalid { field: "ips", .. })), "{taken:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_reached_from_its_network_also_by_its_own_target() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    node.ensure(tenant(TWO)).await.unwrap();
    for (uid, last) in [("client", 2), ("web1", 3), ("web2", 4)] {
        node.attach_pod(ONE, pod(uid, last)).await.unwrap();
    }
    node.attach_pod(TWO, pod("other", 2)).await.unwrap();
    let mine = TargetNetwork::Tenant(ONE.into());
    let ip = |last| Ipv4Addr::new(10, 0, 0, last);
    let rules = vec![
        service("one", cloud.vip(5), mine.clone(), &[(ip(3), 8080)]),
        service("two", cloud.vip(6), mine.clone(), &[(ip(3), 8080), (ip(4), 8080)]),
        service("none", cloud.vip(7), mine, &[]),
    ];
    node.set_services(rules.clone()).await.unwrap();
    node.set_services(rules).await.unwrap();
    let _webs = [Web::start(&cloud.pod("web1"), 8080, "1"), Web::start(&cloud.pod("web2"), 8080, "2")];

    let client = cloud.pod("client");
    assert_eq!(ok(&client, &format!("curl -sm2 http://{}/", cloud.vip(5))).await, "1");
    let many = format!("for i in $(seq 30); do curl -sm2 http://{}/; done", cloud.vip(6));
    let heard = ok(&client, &many).await;
    assert!(heard.len() == 30 && heard.contains('1') && heard.contains('2'), "{heard}");
    let heard = ok(&cloud.pod("web1"), &many).await;
    assert!(heard.len() == 30 && heard.contains('1') && heard.contains('2'), "through itself: {heard}");
    for vip in [7, 99] {
        let refused = inside(&client, &format!("curl -sm5 http://{}/", cloud.vip(vip))).await;
        assert_eq!(refused.status.code(), Some(7), "no target: refused at once, not timed out");
    }
    assert!(fails(&cloud.pod("other"), &format!("curl -sm2 http://{}/", cloud.vip(5))).await);
    let vip = std::net::SocketAddr::from((cloud.vip(5), 80));
    assert!(node.dial(DialFrom::Network(ONE), vip).await.is_ok(), "from the gateway itself");
    assert!(node.dial(DialFrom::Network(TWO), vip).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_metadata_and_dhcp_work_from_inside() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    let attach = pod("guest", 7);
    let member = Member {
        port_uid: attach.port_uid.clone().unwrap(),
        mac: attach.mac.unwrap(),
        ips: attach.ips.clone(),
        ips6: vec![],
        hostname: "vm1".into(),
        workload_uid: "w".into(),
        options: vec![yunfan_network::ExtraOption {
            v6: false,
            name: "ntp-server".into(),
            value: "10.0.0.99".into(),
        }],
    };
    node.set_members(ONE, vec![member]).await.unwrap();
    node.attach_pod(ONE, attach).await.unwrap();
    let guest = cloud.pod("guest");
    let lookup = |name: &str, server: &str| format!("busybox nslookup {name} {server}");

    assert!(fails(&guest, &lookup("web.demo.svc.cluster.local.", "10.0.0.1")).await, "nothing is known yet");
    let web = service("web", cloud.vip(5), TargetNetwork::Tenant(ONE.into()), &[]);
    node.set_services(vec![web]).await.unwrap();
    for server in ["10.0.0.1".to_owned(), cloud.vip(10).to_string()] {
        let said = ok(&guest, &lookup("web.demo.svc.cluster.local.", &server)).await;
        assert!(said.contains(&format!("Address: {}", cloud.vip(5))), "{said}");
    }
    let said = ok(&guest, &lookup("vm1.blue.demo.net.cluster.local.", "10.0.0.1")).await;
    assert!(said.contains("Address: 10.0.0.7"), "{said}");
    let said = ok(&guest, &lookup("10.0.0.7", "10.0.0.1")).await;
    assert!(said.contains("vm1.blue.demo.net.cluster.local"), "{said}");
    let said = inside(&guest, &lookup("nope.demo.svc.cluster.local.", "10.0.0.1")).await;
    assert!(String::from_utf8_lossy(&said.stdout).contains("NXDOMAIN"), "{said:?}");
    let said = inside(&guest, &lookup("example.org.", "10.0.0.1")).await;
    assert!(String::from_utf8_lossy(&said.stdout).contains("REFUSED"), "{said:?}");
    let dns = node.dns_config(ONE, "demo").unwrap();
    assert_eq!(dns.servers, [Ipv4Addr::new(10, 0, 0, 1)]);
    assert_eq!(dns.searches[0], "blue.demo.net.cluster.local");

    let get = |path: &str| format!("curl -sfm3 http://169.254.169.254{path}");
    assert_eq!(ok(&guest, &get("/latest/meta-data/instance-id")).await, format!("i-{ONE}"));
    assert_eq!(ok(&guest, &get("/latest/meta-data/local-ipv4")).await, "10.0.0.7");
    assert_eq!(ok(&guest, &get("/latest/user-data")).await, "#!/bin/sh\necho hi\n");
    assert!(ok(&guest, &get("/openstack/latest/meta_data.json")).await.contains("\"hostname\":\"guest\""));
    assert!(ok(&guest, &get("/openstack/latest/network_data.json")).await.contains("ipv4_dhcp"));
    assert!(fails(&guest, &get("/latest/nope")).await);

    let script = cloud.dir.path().join("udhcpc");
    std::fs::write(&script, "#!/bin/sh\n[ \"$1\" = bound ] && env > \"$LEASE\"\nexit 0\n").unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let lease = cloud.dir.path().join("lease");
    for flags in ["", "-B"] {
        let run = format!(
            "ip addr flush dev eth0; LEASE={} busybox udhcpc -i eth0 -n -q -f {flags} -t 3 -T 1 -s {} -O search -O staticroutes -O mtu -O ntpsrv 2>&1",
            lease.display(),
            script.display()
        );
        ok(&guest, &run).await;
        let got = std::fs::read_to_string(&lease).unwrap();
        std::fs::remove_file(&lease).unwrap();
        for want in [
            "ip=10.0.0.7",
            "mask=24",
            "router=10.0.0.1",
            "dns=10.0.0.1",
            "hostname=vm1",
            "mtu=1450",
            "ntpsrv=10.0.0.99",
            "169.254.169.254/32 10.0.0.1",
            "demo.svc.cluster.local",
        ] {
            assert!(got.contains(want), "{want} is missing in\n{got}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_carries_frames_of_its_own_port_only() {
    let cloud = Cloud::new();
    let node = cloud.open().await;
    node.ensure(tenant(ONE)).await.unwrap();
    let attach = |last: u8| TapAttach {
        port_uid: "33333333-3333-4333-8333-333333333333".into(),
        mac: Mac([2, 0, 0, 0, 0, last]),
        ips: vec![Ipv4Addr::new(10, 0, 0, last)],
        ips6: vec![],
    };
    let tap = node.attach_tap(ONE, attach(9)).await.unwrap();
    assert_eq!(tap.ifname, "t333333333333");
    assert!(matches!(node.attach_tap(ONE, attach(9)).await, Err(NetworkError::TapBusy { .. })));
    let mut device = std::fs::File::from(tap.fd);
    // An ARP question for the gateway, behind an empty virtio-net header, from `mac` and `ip`.
    let question = |mac: u8, ip: u8| {
        let mut frame = vec![0u8; 10];
        frame.extend([0xff; 6]);
        frame.extend([2, 0, 0, 0, 0, mac, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, mac, 10, 0, 0, ip]);
        frame.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 1]);
        frame
    };
    let mut answered = |frame: Vec<u8>| {
        std::io::Write::write_all(&mut device, &frame).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        let mut buffer = [0; 2048];
        std::iter::from_fn(|| {
            std::io::Read::read(&mut device, &mut buffer).ok().map(|n| buffer[..n].to_vec())
        })
        .any(|frame| frame.len() > 32 && frame[22..24] == [8, 6] && frame[30..32] == [0, 2])
    };
    assert!(answered(question(9, 9)), "its own address");
    assert!(!answered(question(9, 8)), "another's address");
    assert!(!answered(question(8, 9)), "another's MAC");
    // It is given a second address, and loses it again, while it is plugged in.
    let (own, second) = (Ipv4Addr::new(10, 0, 0, 9), Ipv4Addr::new(10, 0, 0, 8));
    let port = "33333333-3333-4333-8333-333333333333";
    node.set_addresses(port, vec![own, second], vec![]).await.unwrap();
    assert!(answered(question(9, 8)), "its second address");
    assert!(
        node.set_addresses(port, vec![Ipv4Addr::new(10, 0, 0, 1)], vec![]).await.is_err(),
        "the gateway's"
    );
    assert!(answered(question(9, 8)), "it has what it had");
    node.set_addresses(port, vec![own], vec![]).await.unwrap();
    assert!(!answered(question(9, 8)), "it has it no more");
    assert!(answered(question(9, 9)));
    drop(device);
    // QEMU ended, the VM starts again with another address.
    let tap = node.attach_tap(ONE, attach(8)).await.unwrap();
    drop(tap);
    node.detach("33333333-3333-4333-8333-333333333333").await.unwrap();
    assert!(node.attachments().is_empty());
}
