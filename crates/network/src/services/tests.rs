use super::*;
use crate::types::*;
use crate::view::sample;

fn view(kind: NetworkKind) -> NetworkView {
    NetworkView::new(NetworkConfig { kind, ..sample().config }, vec![])
}

fn tenant_place() -> Place {
    Place {
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        own: vec!["10.96.0.10".parse().unwrap(), "10.96.0.1".parse().unwrap()],
        gateway: "10.0.0.1".parse().unwrap(),
        bridged_tracking: true,
        entrance: None,
    }
}

/// The text for the cluster network of a node at 192.0.2.2.
fn on_cluster(rules: Vec<ServiceRule>, host_ports: Vec<(HostPort, Ipv4Addr)>) -> Rendering {
    let node_cidr = "10.0.0.0/24".parse().unwrap();
    let entrance = Entrance {
        uplink: "169.254.1.2".parse().unwrap(),
        nodes: vec!["192.0.2.2".parse().unwrap()],
        cluster_cidr: "10.0.0.0/16".parse().unwrap(),
        node_cidr,
        host_ports,
    };
    let place = Place { entrance: Some(entrance), ..tenant_place() };
    render(&view(NetworkKind::Cluster { node_cidr }), &ServiceBook::new(rules), &place)
}

fn targets(list: &[(&str, TargetNetwork)]) -> Vec<Target> {
    let one = |(ip, network): &(&str, TargetNetwork)| Target {
        network: network.clone(),
        ip: ip.parse().unwrap(),
        port: 8080,
    };
    list.iter().map(one).collect()
}

fn rule(name: &str, ip: &str, list: &[(&str, TargetNetwork)]) -> ServiceRule {
    ServiceRule {
        namespace: "demo".into(),
        name: name.into(),
        cluster_ip: Some(ip.parse().unwrap()),
        ports: vec![ServicePort {
            name: "http".into(),
            port: 80,
            targets: targets(list),
            outside: targets(list),
            ..ServicePort::default()
        }],
        ..ServiceRule::default()
    }
}

fn has(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted:?} is not in\n{text}");
    }
}

#[test]
fn only_targets_of_this_network_are_used() {
    let mine = TargetNetwork::Tenant("n1".into());
    let other = TargetNetwork::Tenant("n2".into());
    let book = ServiceBook::new(vec![
        rule("a", "10.96.0.5", &[("10.0.0.2", mine.clone()), ("10.0.0.9", other.clone())]),
        rule("b", "10.96.0.6", &[("10.0.0.9", other), ("10.244.0.3", TargetNetwork::Cluster)]),
        rule("c", "10.96.0.7", &[("10.0.0.3", mine.clone()), ("10.0.0.4", mine)]),
    ]);
    let text = render(&view(NetworkKind::Tenant), &book, &tenant_place()).body;
    has(&text, &["10.96.0.5 . tcp . 80 : goto s0", "dnat to 10.0.0.2:8080"]);
    has(&text, &["numgen random mod 2 map { 0 : 10.0.0.3 . 8080, 1 : 10.0.0.4 . 8080 }"]);
    for absent in ["10.0.0.9", "10.244.0.3", "10.96.0.6"] {
        assert!(!text.contains(absent), "{text}");
    }
}

#[test]
fn order_does_not_change_the_rendering_and_the_networks_own_addresses_are_never_taken() {
    let mine = TargetNetwork::Tenant("n1".into());
    let a = rule("a", "10.96.0.5", &[("10.0.0.2", mine.clone())]);
    let dns = rule("kube-dns", "10.96.0.10", &[("10.0.0.3", mine.clone())]);
    let api = rule("kubernetes", "10.96.0.1", &[("10.0.0.3", mine)]);
    let view = view(NetworkKind::Tenant);
    let one = render(&view, &ServiceBook::new(vec![a.clone(), dns.clone(), api.clone()]), &tenant_place());
    let two = render(&view, &ServiceBook::new(vec![api, dns, a]), &tenant_place());
    assert_eq!(one.fingerprint(), two.fingerprint());
    let text = one.body;
    assert!(!text.contains("10.96.0.10 . tcp") && !text.contains("10.96.0.1 . tcp"), "{text}");
    has(&text, &["ip daddr { 10.96.0.10, 10.96.0.1 } accept"]);
}

#[test]
fn node_ports_and_further_addresses_lead_to_the_targets_for_strangers() {
    let mut web = rule(
        "web",
        "10.96.0.5",
        &[("10.0.0.2", TargetNetwork::Cluster), ("10.0.1.2", TargetNetwork::Cluster)],
    );
    web.external_ips = vec!["198.51.100.7".parse().unwrap()];
    web.ports[0].node_port = Some(30_080);
    let same = on_cluster(vec![web.clone()], vec![]).body;
    has(
        &same,
        &["tcp . 30080 : goto s0", "198.51.100.7 . tcp . 80 : goto s0", "10.96.0.5 . tcp . 80 : goto s0"],
    );
    has(&same, &["elements = { 169.254.1.2,\n      192.0.2.2 }", "snat to 169.254.1.2"]);
    web.ports[0].outside.truncate(1);
    let local = on_cluster(vec![web.clone()], vec![]).body;
    has(
        &local,
        &[
            "tcp . 30080 : goto s1",
            "    ip saddr 10.0.0.0/16 goto s0\n    meta l4proto tcp dnat to 10.0.0.2:8080",
        ],
    );
    let tenant =
        render(&view(NetworkKind::Tenant), &ServiceBook::new(vec![web.clone()]), &tenant_place()).body;
    assert!(!tenant.contains("30080") && !tenant.contains("198.51"), "{tenant}");
    web.ports[0].targets.clear();
    web.ports[0].outside.clear();
    assert!(!on_cluster(vec![web], vec![]).body.contains("goto"), "without targets nothing leads anywhere");
}

#[test]
fn clients_are_remembered_by_target_under_names_that_stay() {
    let mut web = rule(
        "web",
        "10.96.0.5",
        &[("10.0.0.2", TargetNetwork::Cluster), ("10.0.0.3", TargetNetwork::Cluster)],
    );
    web.affinity = Some(60);
    let one = on_cluster(vec![web.clone()], vec![]);
    has(
        &one.body,
        &["timeout 60s", "    update @a", "numgen random mod 2 vmap { 0 : goto t", "    ip saddr @a"],
    );
    let two = on_cluster(
        vec![rule("a", "10.96.0.4", &[("10.0.0.9", TargetNetwork::Cluster)]), web.clone()],
        vec![],
    );
    let sets = |rendering: &Rendering| -> Vec<String> {
        rendering.names.iter().filter(|name| name.starts_with('a')).cloned().collect()
    };
    assert_eq!(sets(&one).len(), 2);
    assert_eq!(sets(&one), sets(&two));
    let listing = "table ip uplink {\n\tchain s7 {\n}\ntable ip yunfan {\n\tset a0 {\n\t\ttype ipv4_addr\n\t}\n\n\tchain in_nat {\n\t}\n\tchain s9 {\n\t\tdrop\n\t}\n\tchain s0 {\n\t}\n}\n";
    let transaction = one.transaction(listing);
    has(&transaction, &["delete chain ip yunfan s9\ndelete set ip yunfan a0\n"]);
    for kept in ["delete table", "delete chain ip yunfan in_nat", "delete chain ip yunfan s0\n", "yunfan s7"]
    {
        assert!(!transaction.contains(kept), "{transaction}");
    }
    web.affinity = Some(61);
    assert!(
        sets(&on_cluster(vec![web], vec![])).iter().all(|set| !sets(&one).contains(set)),
        "another timeout"
    );
}

#[test]
fn host_ports_are_open_to_pods_too() {
    let port = |host_ip: Option<&str>, protocol| HostPort {
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        protocol,
        port: 80,
        target_port: 8080,
    };
    let pod = "10.0.0.4".parse().unwrap();
    let open = vec![(port(None, Protocol::Udp), pod), (port(Some("192.0.2.3"), Protocol::Tcp), pod)];
    let rendering = on_cluster(vec![], open);
    has(&rendering.body, &["udp . 80 : goto s0", "192.0.2.3 . tcp . 80 : goto s1", "10.0.0.4 . 10.0.0.4"]);
    let front = ("192.0.2.2".parse().unwrap(), 80);
    assert_eq!(rendering.udp[&front], BTreeSet::from([(pod, 8080)]));
}

#[test]
fn udp_that_leads_nowhere_is_known_too() {
    let mut dns = rule("dns", "10.96.0.5", &[]);
    dns.ports[0].protocol = Protocol::Udp;
    assert_eq!(on_cluster(vec![dns], vec![]).udp[&("10.96.0.5".parse().unwrap(), 80)], BTreeSet::new());
}
