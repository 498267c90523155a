//! The ports of nodes that Services have: each once, under many writers too, and free again as soon as they are given up.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use yunfan_api::ApiConfig;

use crate::support::Desk;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn on_nodes(name: &str, node_port: u16) -> Value {
    service(name, json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": node_port}]}))
}

fn node_port(service: &Value) -> u64 {
    service["spec"]["ports"][0]["nodePort"].as_u64().expect("a port of nodes")
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_get_a_port_each() {
    let desk = Arc::new(Desk::new().await);
    let all = (0..40).map(|index| {
        let desk = desk.clone();
        let body = service(&format!("s-{index}"), json!({"type": "NodePort", "ports": [{"port": 80}]}));
        tokio::spawn(async move { desk.call("POST", SERVICES, Some(body)).await.expect(201) })
    });
    let made = futures::future::join_all(all).await;
    let ports: BTreeSet<u64> = made.iter().map(|made| node_port(made.as_ref().expect("no panic"))).collect();
    assert_eq!(ports.len(), 40);
    assert!(ports.iter().all(|port| (30_086..=32_767).contains(port)), "{ports:?}");
    // One of many that ask for the same one has it.
    let all = (0..10).map(|index| {
        let (desk, body) = (desk.clone(), on_nodes(&format!("same-{index}"), 30_001));
        tokio::spawn(async move { desk.call("POST", SERVICES, Some(body)).await.status })
    });
    let statuses = futures::future::join_all(all).await;
    let mut statuses: Vec<u16> =
        statuses.into_iter().map(|status| status.expect("no panic").into()).collect();
    statuses.sort();
    assert_eq!(statuses, [[201].as_slice(), &[422; 9]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_are_free_as_soon_as_they_are_given_up() {
    let desk = Desk::new().await;
    let taken = async |port: u16| {
        let dry = format!("{SERVICES}?dryRun=All");
        desk.call("POST", &dry, Some(on_nodes("probe", port))).await.status == 422
    };
    assert!(!taken(31_000).await);
    desk.call("POST", SERVICES, Some(on_nodes("web", 31_000))).await.expect(201);
    assert!(taken(31_000).await);
    // A refused change gives nothing up, nor takes anything.
    let wrong = json!({"type": "NodePort", "ports": [{"port": 0, "nodePort": 31_001}]});
    desk.call("PUT", &format!("{SERVICES}/web"), Some(service("web", wrong))).await.refused(422);
    assert!(taken(31_000).await && !taken(31_001).await);
    let two = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31_003,
        "ports": [{"name": "a", "port": 80, "nodePort": 31_001}, {"name": "b", "port": 81, "nodePort": 31_002}]});
    desk.call("PUT", &format!("{SERVICES}/web"), Some(service("web", two))).await.expect(200);
    assert!(!taken(31_000).await);
    assert!(taken(31_001).await && taken(31_002).await && taken(31_003).await);
    let plain = json!({"type": "ClusterIP", "ports": [{"port": 80}]});
    desk.call("PUT", &format!("{SERVICES}/web"), Some(service("web", plain))).await.expect(200);
    for port in [31_001, 31_002, 31_003] {
        assert!(!taken(port).await, "{port}");
    }
    desk.call("POST", SERVICES, Some(on_nodes("other", 31_001))).await.expect(201);
    desk.call("DELETE", &format!("{SERVICES}/other"), None).await.expect(200);
    assert!(!taken(31_001).await);
}

const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";
const RANGES: &str = "/apis/networking.k8s.io/v1/servicecidrs";

#[tokio::test(flavor = "multi_thread")]
async fn each_address_is_an_object_that_comes_and_goes_with_its_service() {
    let desk = Desk::new().await;
    let spec = |ip: Value| json!({"ports": [{"port": 80}], "clusterIP": ip});
    let made = desk.call("POST", SERVICES, Some(service("web", spec(Value::Null)))).await.expect(201);
    let path = format!("{ADDRESSES}/{}", made["spec"]["clusterIP"].as_str().expect("an address"));
    let address = desk.call("GET", &path, None).await.expect(200);
    let labels = json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"});
    assert_eq!(address["metadata"]["labels"], labels);
    let parent = json!({"resource": "services", "namespace": "default", "name": "web"});
    assert_eq!(address["spec"]["parentRef"], parent);
    assert_eq!(address["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    // Without an address of its own a Service has no such object.
    let outside = json!({"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]},
        "spec": {"type": "ExternalName", "externalName": "example.com", "clusterIP": null, "clusterIPs": null}});
    desk.patch("merge-patch+json", &format!("{SERVICES}/web"), outside.to_string()).await.expect(200);
    desk.call("GET", &path, None).await.expect(404);
    desk.patch(
        "merge-patch+json",
        &format!("{SERVICES}/web"),
        json!({"spec": {"type": "ClusterIP"}}).to_string(),
    )
    .await
    .expect(200);
    let all = desk.call("GET", ADDRESSES, None).await.expect(200);
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1));
    desk.call("POST", &format!("{SERVICES}?dryRun=All"), Some(service("dry", spec(Value::Null))))
        .await
        .expect(201);
    desk.call("DELETE", &format!("{SERVICES}/web"), None).await.expect(200);
    let all = desk.call("GET", ADDRESSES, None).await.expect(200);
    assert_eq!(all["items"], json!([]));
    // What somebody keeps for himself is given to no Service.
    let own = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": "10.96.0.77"},
        "spec": {"parentRef": {"resource": "r", "name": "n"}}});
    desk.call("POST", ADDRESSES, Some(own)).await.expect(201);
    let why = desk.call("POST", SERVICES, Some(service("web", spec(json!("10.96.0.77"))))).await.refused(422);
    assert!(why.ends_with("failed to allocate IP 10.96.0.77: provided IP is already allocated"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_come_from_the_ranges_that_are_ready() {
    let desk = Desk::new().await;
    let range = |name: &str, cidr: &str| json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name}, "spec": {"cidrs": [cidr]}});
    let whole = desk.call("GET", &format!("{RANGES}/kubernetes"), None).await.expect(200);
    assert_eq!(whole["spec"]["cidrs"], json!(["10.96.0.0/12"]));
    let with = |name: &str, ip: &str| service(name, json!({"ports": [{"port": 80}], "clusterIP": ip}));
    let outside = "the provided network does not match the current range";
    // The first address of a range and the last are of no use, and what nodes do not serve is of none either.
    desk.call("POST", RANGES, Some(range("far", "203.0.113.0/24"))).await.expect(201);
    for ip in ["10.96.0.0", "10.111.255.255", "203.0.113.10", "1.2.3.4"] {
        assert!(
            desk.call("POST", SERVICES, Some(with("a", ip))).await.refused(422).ends_with(outside),
            "{ip}"
        );
    }
    desk.call("DELETE", &format!("{RANGES}/kubernetes"), None).await.expect(200);
    let why = desk.call("POST", SERVICES, Some(with("a", ""))).await.refused(500);
    assert!(why.ends_with("range is full"), "{why}");
    desk.call("POST", RANGES, Some(range("small", "10.97.0.0/29"))).await.expect(201);
    let mut given = BTreeSet::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let made = desk.call("POST", SERVICES, Some(with(name, ""))).await.expect(201);
        given.insert(made["spec"]["clusterIP"].as_str().expect("an address").to_owned());
    }
    assert_eq!(given, (1..=6).map(|last| format!("10.97.0.{last}")).collect());
    let why = desk.call("POST", SERVICES, Some(with("g", ""))).await.refused(500);
    assert!(why.ends_with("range is full"), "{why}");
    let not_ready = json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "R", "message": "",
        "lastTransitionTime": "2026-01-02T03:04:05Z"}]}});
    desk.call("DELETE", &format!("{SERVICES}/a"), None).await.expect(200);
    desk.patch("merge-patch+json", &format!("{RANGES}/small/status"), not_ready.to_string())
        .await
        .expect(200);
    desk.call("POST", SERVICES, Some(with("g", ""))).await.refused(500);
}

/// A front desk of a cloud that has both families.
async fn dual() -> Desk {
    let range = "fd00:96::/112".parse().expect("a range");
    Desk::with(ApiConfig { service_cidr6: Some(range), ..ApiConfig::default() }).await
}

fn ips(service: &Value) -> Vec<IpAddr> {
    let all = service["spec"]["clusterIPs"].as_array().expect("addresses");
    all.iter().map(|ip| ip.as_str().expect("text").parse().expect("an address")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn services_have_an_address_of_each_family_that_they_ask_for() {
    let desk = dual().await;
    let whole = desk.call("GET", &format!("{RANGES}/kubernetes"), None).await.expect(200);
    assert_eq!(whole["spec"]["cidrs"], json!(["10.96.0.0/12", "fd00:96::/112"]));
    for (name, more, want) in [
        ("plain", json!({}), [true].as_slice()),
        ("six", json!({"ipFamilies": ["IPv6"]}), &[false]),
        ("prefers", json!({"ipFamilyPolicy": "PreferDualStack"}), &[true, false]),
        (
            "turned",
            json!({"ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv6", "IPv4"]}),
            &[false, true],
        ),
        ("given", json!({"clusterIP": "fd00:96:0::77"}), &[false]),
    ] {
        let mut spec = json!({"ports": [{"port": 80}]});
        spec.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        let made = desk.call("POST", SERVICES, Some(service(name, spec))).await.expect(201);
        let all = ips(&made);
        assert_eq!(all.iter().map(IpAddr::is_ipv4).collect::<Vec<_>>(), want, "{name}: {made}");
        assert_eq!(made["spec"]["clusterIP"], made["spec"]["clusterIPs"][0]);
        for ip in all {
            let object = desk.call("GET", &format!("{ADDRESSES}/{ip}"), None).await.expect(200);
            let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
            assert_eq!(object["metadata"]["labels"]["ipaddress.kubernetes.io/ip-family"], family);
            assert_eq!(object["spec"]["parentRef"]["name"], name);
        }
    }
    let spec = json!({"ports": [{"port": 80}], "selector": {"a": "b"}, "clusterIP": "None",
        "ipFamilyPolicy": "PreferDualStack"});
    let headless = desk.call("POST", SERVICES, Some(service("headless", spec))).await.expect(201);
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    // The same address in other words is taken; what is of neither range is refused with all that was asked for.
    let other = |ips: Value| {
        service(
            "b",
            json!({"ports": [{"port": 80}], "ipFamilyPolicy": "RequireDualStack", "clusterIP": ips[0], "clusterIPs": ips}),
        )
    };
    let why = desk.call("POST", SERVICES, Some(other(json!(["fd00:96::0:77"])))).await.refused(422);
    assert!(why.ends_with("failed to allocate IP fd00:96::0:77: provided IP is already allocated"), "{why}");
    let why =
        desk.call("POST", SERVICES, Some(other(json!(["10.96.0.99", "fd00:97::1"])))).await.refused(422);
    assert!(why.contains(r#"["10.96.0.99","fd00:97::1"]: failed to allocate IP fd00:97::1"#), "{why}");
    desk.call("POST", SERVICES, Some(other(json!(["10.96.0.99", "fd00:96::ffff"])))).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_address_comes_and_goes_by_the_policy() {
    let desk = dual().await;
    let path = format!("{SERVICES}/web");
    let made =
        desk.call("POST", SERVICES, Some(service("web", json!({"ports": [{"port": 80}]})))).await.expect(201);
    let patch =
        async |spec: Value| desk.patch("merge-patch+json", &path, json!({"spec": spec}).to_string()).await;
    let up = patch(json!({"ipFamilyPolicy": "PreferDualStack"})).await.expect(200);
    assert_eq!((ips(&up).len(), ips(&up)[0]), (2, ips(&made)[0]));
    assert_eq!(up["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    let second = format!("{ADDRESSES}/{}", ips(&up)[1]);
    desk.call("GET", &second, None).await.expect(200);
    let why = patch(json!({"clusterIPs": [up["spec"]["clusterIP"]]})).await.refused(422);
    assert!(why.contains("must be 'SingleStack' to release the secondary cluster IP"), "{why}");
    let why = patch(json!({"clusterIPs": [up["spec"]["clusterIP"], "fd00:96::1234"]})).await.refused(422);
    assert!(why.contains("may not change once set"), "{why}");
    let down = patch(json!({"ipFamilyPolicy": "SingleStack"})).await.expect(200);
    assert_eq!((ips(&down), &down["spec"]["ipFamilies"]), (ips(&made), &json!(["IPv4"])));
    desk.call("GET", &second, None).await.expect(404);
    let up = patch(json!({"ipFamilyPolicy": "RequireDualStack"})).await.expect(200);
    let second = format!("{ADDRESSES}/{}", ips(&up)[1]);
    desk.call("GET", &second, None).await.expect(200);
    desk.call("DELETE", &path, None).await.expect(200);
    desk.call("GET", &second, None).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_ipv6_is_one_services_under_many_writers() {
    let range = "fd00:96::/124".parse().expect("a range");
    let desk = Arc::new(Desk::with(ApiConfig { service_cidr6: Some(range), ..ApiConfig::default() }).await);
    let all = (0..20).map(|index| {
        let desk = desk.clone();
        let body = service(&format!("s-{index}"), json!({"ipFamilies": ["IPv6"], "ports": [{"port": 80}]}));
        tokio::spawn(async move { desk.call("POST", SERVICES, Some(body)).await })
    });
    let mut given = BTreeSet::new();
    let mut refused = 0;
    for answer in futures::future::join_all(all).await {
        let answer = answer.expect("no panic");
        if answer.status == 201 {
            given.extend(ips(&answer.expect(201)));
        } else {
            assert!(answer.refused(500).ends_with("range is full"));
            refused += 1;
        }
    }
    let want: BTreeSet<IpAddr> =
        (1..=15).map(|last| format!("fd00:96::{last:x}").parse().expect("one")).collect();
    assert_eq!((given, refused), (want, 5));
}
