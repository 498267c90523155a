use super::*;
use crate::types::*;
use crate::view::sample;

fn book() -> ServiceBook {
    let mine = TargetNetwork::Tenant("n1".into());
    let all = [
        (mine.clone(), "10.0.0.3", Some("db-0")),
        (mine, "10.0.0.4", None),
        (TargetNetwork::Cluster, "10.244.0.3", None),
    ];
    let target = |(network, ip, _): &(TargetNetwork, &str, Option<&str>)| Target {
        network: network.clone(),
        ip: ip.parse().unwrap(),
        port: 8080,
    };
    let endpoint = |(network, ip, host): &(TargetNetwork, &str, Option<&str>)| Endpoint {
        network: network.clone(),
        ip: ip.parse().unwrap(),
        host: host.map(str::to_owned),
    };
    let targets = all.iter().map(target).collect();
    let port = ServicePort { name: "http".into(), port: 80, targets, ..ServicePort::default() };
    let rule = |name: &str, ip: Option<&str>, ports: &[ServicePort]| ServiceRule {
        namespace: "demo".into(),
        name: name.into(),
        cluster_ip: ip.map(|ip| ip.parse().unwrap()),
        ports: ports.to_vec(),
        endpoints: all.iter().map(endpoint).collect(),
        ..ServiceRule::default()
    };
    let named = ServiceRule { external_name: Some("web.example.org".into()), ..rule("far", None, &[]) };
    let named = ServiceRule { endpoints: vec![], ..named };
    ServiceBook::new(vec![
        rule("web", Some("10.96.0.5"), std::slice::from_ref(&port)),
        rule("db", None, std::slice::from_ref(&port)),
        rule("portless", None, &[]),
        named,
    ])
}

fn ask(book: &ServiceBook, name: &str, kind: RecordType) -> String {
    let view = sample();
    let zone =
        Zone { view: &view, book, domain: "cluster.local", service_cidr: "10.96.0.0/16".parse().unwrap() };
    match zone.answer(&Name::from_ascii(name).unwrap(), kind, DNSClass::IN) {
        Answer::Records(records) => records.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join(","),
        Answer::Alias(name) => format!("alias {name}"),
        other => format!("{other:?}"),
    }
}

#[test]
fn services_hosts_and_addresses_have_names() {
    let book = book();
    for (name, kind, want) in [
        ("web.demo.svc.cluster.local.", RecordType::A, "10.96.0.5"),
        ("WEB.demo.svc.Cluster.Local.", RecordType::A, "10.96.0.5"),
        ("web.demo.svc.cluster.local.", RecordType::AAAA, ""),
        ("_http._tcp.web.demo.svc.cluster.local.", RecordType::SRV, "0 100 80 web.demo.svc.cluster.local."),
        ("_http._udp.web.demo.svc.cluster.local.", RecordType::SRV, "NoSuchName"),
        ("_http._tcp.web.demo.svc.cluster.local.", RecordType::A, ""),
        ("nope.demo.svc.cluster.local.", RecordType::A, "NoSuchName"),
        ("demo.svc.cluster.local.", RecordType::A, ""),
        ("vm1.blue.demo.net.cluster.local.", RecordType::A, "10.0.0.7"),
        ("vm1.", RecordType::A, "10.0.0.7"),
        ("vm1.red.demo.net.cluster.local.", RecordType::A, "NoSuchName"),
        ("7.0.0.10.in-addr.arpa.", RecordType::PTR, "VM1.blue.demo.net.cluster.local."),
        ("5.0.96.10.in-addr.arpa.", RecordType::PTR, "web.demo.svc.cluster.local."),
        ("9.0.96.10.in-addr.arpa.", RecordType::PTR, "NoSuchName"),
        ("8.8.8.8.in-addr.arpa.", RecordType::PTR, "NotOurs"),
        ("example.org.", RecordType::A, "NotOurs"),
        ("notcluster.local.", RecordType::A, "NotOurs"),
        ("x.cluster.local.", RecordType::A, "NoSuchName"),
        ("dns-version.cluster.local.", RecordType::TXT, "1.1.0"),
        ("far.demo.svc.cluster.local.", RecordType::A, "alias web.example.org."),
        ("10-244-0-3.demo.pod.cluster.local.", RecordType::A, "10.244.0.3"),
        ("10-244-0-300.demo.pod.cluster.local.", RecordType::A, "NoSuchName"),
        ("web.demo.pod.cluster.local.", RecordType::A, "NoSuchName"),
    ] {
        assert_eq!(ask(&book, name, kind), want, "{name} {kind}");
    }
}

#[test]
fn endpoints_of_headless_services_have_names_of_their_own() {
    let book = book();
    for (name, kind, want) in [
        ("db.demo.svc.cluster.local.", RecordType::A, "10.0.0.3,10.0.0.4"),
        ("portless.demo.svc.cluster.local.", RecordType::A, "10.0.0.3,10.0.0.4"),
        ("db-0.db.demo.svc.cluster.local.", RecordType::A, "10.0.0.3"),
        ("10-0-0-4.db.demo.svc.cluster.local.", RecordType::A, "10.0.0.4"),
        ("10-0-0-3.db.demo.svc.cluster.local.", RecordType::A, "NoSuchName"),
        ("10-244-0-3.db.demo.svc.cluster.local.", RecordType::A, "NoSuchName"),
        ("db-0.web.demo.svc.cluster.local.", RecordType::A, "NoSuchName"),
        (
            "_http._tcp.db.demo.svc.cluster.local.",
            RecordType::SRV,
            "0 50 8080 10-0-0-4.db.demo.svc.cluster.local.,0 50 8080 db-0.db.demo.svc.cluster.local.",
        ),
        (
            "4.0.0.10.in-addr.arpa.",
            RecordType::PTR,
            "10-0-0-4.db.demo.svc.cluster.local.,10-0-0-4.portless.demo.svc.cluster.local.",
        ),
    ] {
        assert_eq!(ask(&book, name, kind), want, "{name} {kind}");
    }
}

#[test]
fn before_the_services_are_known_nothing_is_denied() {
    let book = ServiceBook::default();
    assert_eq!(ask(&book, "web.demo.svc.cluster.local.", RecordType::A), "NotYet");
    assert_eq!(ask(&book, "vm1.blue.demo.net.cluster.local.", RecordType::A), "10.0.0.7");
}
