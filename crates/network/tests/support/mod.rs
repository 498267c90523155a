//! What the tests share: a cloud with its own tag in its own directory, and commands run inside its namespaces.
#![allow(dead_code, unreachable_pub)]

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use yunfan_network::*;

/// Guests that are all called the same.
pub struct Guests;

#[async_trait::async_trait]
impl MetadataProvider for Guests {
    async fn lookup(&self, network_uid: &str, source: Ipv4Addr) -> Option<GuestData> {
        Some(GuestData {
            instance_id: format!("i-{network_uid}"),
            hostname: "guest".into(),
            name: "Guest".into(),
            project_id: "p".into(),
            public_keys: vec![("mine".into(), "ssh-ed25519 AAAA me".into())],
            user_data: Some(b"#!/bin/sh\necho hi\n".to_vec()),
            local_ipv4: Some(source),
            mac: Some("02:00:00:00:00:02".parse().unwrap()),
            links: vec![GuestLink {
                id: "port".into(),
                mac: "02:00:00:00:00:02".parse().unwrap(),
                mtu: 1500,
                network: network_uid.into(),
                addresses: vec![(source, tenant(network_uid).subnets.remove(0))],
                addresses6: vec![],
                tag: None,
            }],
            ..GuestData::default()
        })
    }
}

/// A cloud of a test; torn down when it goes.
pub struct Cloud {
    pub tag: String,
    pub dir: tempfile::TempDir,
    pub cidr: ipnet::Ipv4Net,
    pub services: ipnet::Ipv4Net,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Cloud {
    /// A cloud whose ranges no other test of this process uses. The tag is made of the process id, so that test
    /// runs side by side do not meet.
    pub fn new() -> Self {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let tag = format!("{:06x}", (std::process::id() * 16 + n) & 0xff_ffff);
        let cidr = format!("10.{}.0.0/16", 180 + n).parse().unwrap();
        let services = format!("10.{}.0.0/16", 200 + n).parse().unwrap();
        let dir = tempfile::Builder::new().prefix("network-").tempdir().unwrap();
        Self { tag, dir, cidr, services }
    }

    /// An address of the Services' range.
    pub fn vip(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.services.network()) + u32::from(last))
    }

    pub async fn open(&self) -> NodeNetworks {
        let config = Config {
            tag: self.tag.clone(),
            state_dir: self.dir.path().join("network"),
            service_cidr: self.services,
            cluster_cidr: self.cidr,
            cluster_dns: self.vip(10),
            api: None,
            domain: "cluster.local".into(),
        };
        NodeNetworks::open(config, Arc::new(Guests)).await.unwrap()
    }

    /// The name of a tenant network's namespace.
    pub fn network(&self, uid: &str) -> String {
        let short: String = uid.chars().filter(|c| *c != '-').take(12).collect();
        format!("yf-{}-net-{short}", self.tag)
    }

    /// The name of a pod's namespace.
    pub fn pod(&self, uid: &str) -> String {
        format!("yf-{}-pod-{uid}", self.tag)
    }

    pub fn teardown(&self) {
        teardown(&self.tag, &self.dir.path().join("network")).unwrap();
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        let _ = teardown(&self.tag, &self.dir.path().join("network"));
    }
}

/// A tenant network 10.0.0.0/24, the same for everyone.
pub fn tenant(uid: &str) -> NetworkConfig {
    NetworkConfig {
        uid: uid.into(),
        name: "blue".into(),
        namespace: "demo".into(),
        kind: NetworkKind::Tenant,
        subnets: vec![SubnetConfig {
            cidr: "10.0.0.0/24".parse().unwrap(),
            gateway: "10.0.0.1".parse().unwrap(),
            dhcp: true,
            dns_servers: vec![],
            isolated: false,
            routes: vec![],
        }],
        subnets6: vec![],
        mtu: 1450,
    }
}

/// The pod `uid` at 10.0.0.`last`.
pub fn pod(uid: &str, last: u8) -> PodAttach {
    PodAttach {
        pod_uid: uid.into(),
        port_uid: Some(format!("{last:04}{uid}")),
        mac: Some(Mac([2, 0, 0, 0, 0, last])),
        ips: vec![Ipv4Addr::new(10, 0, 0, last)],
        host_ports: vec![],
    }
}

/// A Service on port 80 with targets on one network.
pub fn service(name: &str, ip: Ipv4Addr, network: TargetNetwork, targets: &[(Ipv4Addr, u16)]) -> ServiceRule {
    let target = |(ip, port): &(Ipv4Addr, u16)| Target { network: network.clone(), ip: *ip, port: *port };
    let targets: Vec<Target> = targets.iter().map(target).collect();
    let endpoint = |t: &Target| Endpoint { network: t.network.clone(), ip: t.ip, host: None };
    ServiceRule {
        namespace: "demo".into(),
        name: name.into(),
        cluster_ip: Some(ip),
        endpoints: targets.iter().map(endpoint).collect(),
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            outside: targets.clone(),
            targets,
            ..ServicePort::default()
        }],
        ..ServiceRule::default()
    }
}

/// Runs a command of a shell in a namespace; its output, whatever became of it.
pub async fn inside(netns: &str, script: &str) -> Output {
    let (netns, script) = (netns.to_owned(), script.to_owned());
    tokio::task::spawn_blocking(move || {
        Command::new("ip").args(["netns", "exec", &netns, "sh", "-c", &script]).output().unwrap()
    })
    .await
    .unwrap()
}

/// Asks for what must not be reached.
pub const PING: &str = "busybox ping -c1 -W1";
/// Asks for what must be: the kernel looks for a neighbour that did not answer before again only after a second or more.
pub const REACH: &str = "busybox ping -c1 -W9";

/// The standard output of a command that must succeed.
pub async fn ok(netns: &str, script: &str) -> String {
    let out = inside(netns, script).await;
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{script}: {}\n{stdout}\n{stderr}", out.status);
    stdout.into_owned()
}

/// Whether a command fails.
pub async fn fails(netns: &str, script: &str) -> bool {
    !inside(netns, script).await.status.success()
}

/// A socket in a namespace, at this port of all its addresses.
pub fn udp(netns: &str, port: u16) -> UdpSocket {
    made_in(netns, move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap())
}

/// Sends all that comes to this port of a namespace back, as long as the test runs.
pub fn echo(netns: &str, port: u16) {
    let listener = made_in(netns, move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
}

pub fn made_in<T: Send + 'static>(netns: &str, make: impl FnOnce() -> T + Send + 'static) -> T {
    let file = std::fs::File::open(format!("/run/netns/{netns}")).unwrap();
    // The thread ends in the namespace; the socket stays there.
    std::thread::spawn(move || {
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(file.as_fd(), Some(kind)).unwrap();
        make()
    })
    .join()
    .unwrap()
}

/// A web server in a namespace that says `text` at /; it ends with the returned guard.
pub struct Web(std::process::Child, #[allow(dead_code)] tempfile::TempDir);

impl Web {
    pub fn start(netns: &str, port: u16, text: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("network-web-").tempdir().unwrap();
        std::fs::write(dir.path().join("index.html"), text).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", netns, "busybox", "httpd", "-f", "-p", &port.to_string(), "-h"])
            .arg(dir.path())
            .spawn()
            .unwrap();
        let web = Self(child, dir);
        for _ in 0..100 {
            if made_in(netns, move || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()) {
                return web;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        panic!("the web server in {netns} does not listen");
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
