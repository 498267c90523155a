//! Namespaces, quotas, claims, networks, machines: what admission holds, under many writers too.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use yunfan_identity::UserInfo;

use crate::support::Desk;

const NET: &str = "/apis/network.yunfan.io/v1/namespaces/default";

fn of(api_version: &str, kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn net(kind: &str, name: &str, spec: Value) -> Value {
    of("network.yunfan.io/v1", kind, name, spec)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_made_in_a_namespace_that_is_not_there_or_going() {
    let desk = Desk::new().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let message =
        desk.call("POST", "/api/v1/namespaces/none/configmaps", Some(map.clone())).await.refused(404);
    assert_eq!(message, "namespaces \"none\" not found");
    desk.namespace("demo").await;
    let space = desk.call("GET", "/api/v1/namespaces/demo", None).await.expect(200);
    assert_eq!(
        (&space["status"]["phase"], &space["spec"]["finalizers"]),
        (&json!("Active"), &json!(["kubernetes"]))
    );
    assert_eq!(space["metadata"]["labels"]["kubernetes.io/metadata.name"], "demo");
    let marked = desk.call("DELETE", "/api/v1/namespaces/demo", None).await.expect(200);
    assert_eq!(marked["status"]["phase"], "Terminating");
    let refused = desk.call("POST", "/api/v1/namespaces/demo/configmaps", Some(map)).await.expect(403);
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("being terminated")), "{refused}");
    let cause = &refused["details"]["causes"][0];
    assert_eq!(
        (&cause["reason"], &cause["field"]),
        (&json!("NamespaceTerminating"), &json!("metadata.namespace"))
    );
    let mut done = marked.clone();
    done["spec"]["finalizers"] = json!([]);
    desk.call("PUT", "/api/v1/namespaces/demo/finalize", Some(done)).await.expect(200);
    desk.call("GET", "/api/v1/namespaces/demo", None).await.refused(404);
    desk.call("DELETE", "/api/v1/namespaces/default", None).await.refused(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quota_is_exact_under_many_writers() {
    let desk = Arc::new(Desk::new().await);
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let quota = of(
        "v1",
        "ResourceQuota",
        "q",
        json!({"hard": {"pods": "5", "requests.memory": "1Gi", "count/configmaps": "3"}}),
    );
    let made = desk.call("POST", quotas, Some(quota)).await.expect(201);
    assert_eq!(made["metadata"]["name"], "q");
    let pod = |name: String| {
        of(
            "v1",
            "Pod",
            &name,
            json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"memory": "100Mi"}}}]}),
        )
    };
    let pods = "/api/v1/namespaces/default/pods";
    let all = (0..20).map(|index| {
        let (desk, body) = (desk.clone(), pod(format!("p-{index}")));
        tokio::spawn(async move { desk.call("POST", pods, Some(body)).await.status.as_u16() })
    });
    let codes: Vec<u16> =
        futures::future::join_all(all).await.into_iter().map(|c| c.expect("no panic")).collect();
    assert_eq!(codes.iter().filter(|c| **c == 201).count(), 5, "{codes:?}");
    assert_eq!(codes.iter().filter(|c| **c == 403).count(), 15, "{codes:?}");
    let used = || async {
        desk.call("GET", &format!("{quotas}/q"), None).await.expect(200)["status"]["used"].clone()
    };
    assert_eq!(used().await, json!({"pods": "5", "requests.memory": "500Mi", "count/configmaps": "0"}));
    let message = desk.call("POST", pods, Some(pod("more".into()))).await.refused(403);
    let wanted =
        r#"pods "more" is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5"#;
    assert_eq!(message, wanted);
    let bare = of("v1", "Pod", "bare", json!({"containers": [{"name": "c", "image": "i"}]}));
    let message = desk.call("POST", pods, Some(bare)).await.refused(403);
    assert!(message.contains("must specify requests.memory for: c"), "{message}");

    // One that is done uses nothing; one that is deleted neither.
    let list = desk.call("GET", pods, None).await.expect(200);
    let name = |index: usize| list["items"][index]["metadata"]["name"].as_str().expect("a name").to_owned();
    let done = r#"{"status":{"phase":"Succeeded"}}"#;
    desk.patch("merge-patch+json", &format!("{pods}/{}/status", name(0)), done).await.expect(200);
    desk.call("DELETE", &format!("{pods}/{}", name(1)), None).await.expect(200);
    assert_eq!(used().await["pods"], "3");
    desk.call("DELETE", &format!("{pods}/{}", name(0)), None).await.expect(200);
    assert_eq!(used().await["pods"], "3");
    desk.call("POST", pods, Some(pod("again".into()))).await.expect(201);
    assert_eq!(used().await["requests.memory"], "400Mi");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_quota_counts_what_is_there() {
    let desk = Arc::new(Desk::new().await);
    let maps = "/api/v1/namespaces/default/configmaps";
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    // Objects are made while the quota is: none may slip by.
    let writers = (0..30).map(|index| {
        let desk = desk.clone();
        tokio::spawn(async move {
            let map =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m-{index}")}});
            desk.call("POST", maps, Some(map)).await.status.as_u16()
        })
    });
    let writers: Vec<_> = writers.collect();
    let quota = of("v1", "ResourceQuota", "q", json!({"hard": {"count/configmaps": "100", "services": "1"}}));
    desk.call("POST", quotas, Some(quota)).await.expect(201);
    for writer in writers {
        assert_eq!(writer.await.expect("no panic"), 201);
    }
    let now = desk.call("GET", &format!("{quotas}/q"), None).await.expect(200);
    assert_eq!(now["status"]["used"]["count/configmaps"], "30");
    // A changed limit is computed again.
    let body = r#"{"spec":{"hard":{"configmaps":"31"}}}"#;
    desk.patch("merge-patch+json", &format!("{quotas}/q"), body).await.expect(200);
    let now = desk.call("GET", &format!("{quotas}/q"), None).await.expect(200);
    assert_eq!(now["status"]["used"]["configmaps"], "30");
    let bad = of("v1", "ResourceQuota", "bad", json!({"hard": {"pods": "many"}}));
    desk.call("POST", quotas, Some(bad)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_an_address_of_their_own() {
    let desk = Arc::new(Desk::new().await);
    let services = "/api/v1/namespaces/default/services";
    let service = |name: String, mut spec: Value| {
        spec["ports"] = json!([{"port": 80}]);
        of("v1", "Service", &name, spec)
    };
    let all = (0..20).map(|index| {
        let (desk, body) = (desk.clone(), service(format!("s-{index}"), json!({})));
        tokio::spawn(async move { desk.call("POST", services, Some(body)).await.expect(201) })
    });
    let made = futures::future::join_all(all).await;
    let addresses: BTreeSet<String> = made
        .into_iter()
        .map(|s| s.expect("no panic")["spec"]["clusterIP"].as_str().expect("an address").to_owned())
        .collect();
    assert_eq!(addresses.len(), 20);
    let chosen = desk
        .call("POST", services, Some(service("c".into(), json!({"clusterIP": "10.96.0.10"}))))
        .await
        .expect(201);
    assert_eq!(chosen["spec"]["clusterIPs"], json!(["10.96.0.10"]));
    let taken = desk
        .call("POST", services, Some(service("d".into(), json!({"clusterIP": "10.96.0.10"}))))
        .await
        .refused(422);
    assert!(taken.ends_with("failed to allocate IP 10.96.0.10: provided IP is already allocated"), "{taken}");
    desk.call("POST", services, Some(service("d".into(), json!({"clusterIP": "1.2.3.4"}))))
        .await
        .refused(422);
    let headless = desk
        .call("POST", services, Some(service("h".into(), json!({"clusterIP": "None"}))))
        .await
        .expect(201);
    assert_eq!(headless["spec"]["clusterIP"], "None");
    desk.call("DELETE", &format!("{services}/c"), None).await.expect(200);
    desk.call("POST", services, Some(service("d".into(), json!({"clusterIP": "10.96.0.10"}))))
        .await
        .expect(201);
    // An update that says nothing of the address keeps it.
    let kept = desk
        .call("PUT", &format!("{services}/d"), Some(service("d".into(), json!({"selector": {"a": "b"}}))))
        .await
        .expect(200);
    assert_eq!(kept["spec"]["clusterIP"], "10.96.0.10");
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_get_addresses_of_their_subnets() {
    let desk = Arc::new(Desk::new().await);
    let post = |path: &'static str, object: Value| desk.call("POST", path, Some(object));
    const PORTS: &str = "/apis/network.yunfan.io/v1/namespaces/default/ports";
    const SUBNETS: &str = "/apis/network.yunfan.io/v1/namespaces/default/subnets";
    let subnet = |name: &str, cidr: &str| net("Subnet", name, json!({"network": "n", "cidr": cidr}));
    assert!(post(SUBNETS, subnet("s", "10.10.0.0/24")).await.refused(422).contains("spec.network"));
    post("/apis/network.yunfan.io/v1/namespaces/default/networks", net("Network", "n", json!({})))
        .await
        .expect(201);
    let made = post(SUBNETS, subnet("s", "10.10.0.0/28")).await.expect(201);
    assert_eq!(made["spec"]["gatewayIp"], "10.10.0.1");
    for bad in
        ["10.10.0.0/24", "10.96.1.0/24", "10.10.0.1/24", "10.20.0.0/31", "x", "fd00::1/64", "fe80::/64"]
    {
        let message = post(SUBNETS, subnet("t", bad)).await.refused(422);
        assert!(message.contains("spec.cidr"), "{bad}: {message}");
    }

    // 16 addresses less network, broadcast and gateway: 13.
    let all = (0..20).map(|index| {
        let desk = desk.clone();
        tokio::spawn(async move {
            desk.call("POST", PORTS, Some(net("Port", &format!("p-{index}"), json!({"network": "n"})))).await
        })
    });
    let made: Vec<_> =
        futures::future::join_all(all).await.into_iter().map(|a| a.expect("no panic")).collect();
    let good: Vec<_> = made.iter().filter(|a| a.status.as_u16() == 201).map(|a| &a.body).collect();
    assert_eq!(good.len(), 13);
    let ips: BTreeSet<_> =
        good.iter().map(|p| p["spec"]["fixedIps"][0]["ip"].as_str().expect("an ip")).collect();
    let macs: BTreeSet<_> = good.iter().map(|p| p["spec"]["macAddress"].as_str().expect("a mac")).collect();
    assert_eq!((ips.len(), macs.len()), (13, 13));
    assert!(macs.iter().all(|mac| mac.starts_with("fa:16:3e:")));
    let full = made.into_iter().find(|a| a.status.as_u16() != 201).expect("some did not fit");
    assert!(full.refused(409).contains("no address is free"));

    let (name, ip) = (good_name(&desk, PORTS).await, "10.10.0.5");
    desk.call("DELETE", &format!("{NET}/subnets/s"), None).await.refused(409);
    desk.call("DELETE", &format!("{NET}/networks/n"), None).await.refused(409);
    desk.call("DELETE", &format!("{PORTS}/{name}"), None).await.expect(200);
    desk.call("DELETE", PORTS, None).await.expect(200);
    let chosen = net(
        "Port",
        "chosen",
        json!({"network": "n", "fixedIps": [{"ip": ip}], "macAddress": "fa:16:3e:00:00:01"}),
    );
    let chosen = post(PORTS, chosen).await.expect(201);
    assert_eq!(chosen["spec"]["fixedIps"], json!([{"subnet": "s", "ip": ip}]));
    for (spec, field) in [
        (json!({"network": "n", "fixedIps": [{"ip": ip}]}), "fixedIps"),
        (json!({"network": "n", "fixedIps": [{"ip": "10.10.0.1"}]}), "fixedIps"),
        (json!({"network": "n", "fixedIps": [{"ip": "10.11.0.1"}]}), "fixedIps"),
        (json!({"network": "n", "fixedIps": [{"ip": "10.10.0.300"}]}), "fixedIps[0].ip"),
        (json!({"network": "n", "fixedIps": [{"subnet": "none"}]}), "subnet"),
        (json!({"network": "n", "macAddress": "fa:16:3e:00:00:01"}), "macAddress"),
        (json!({"network": "n", "macAddress": "FA:16:3E:00:00:02"}), "macAddress"),
        (json!({"network": "n", "macAddress": "02:58:00:00:00:02"}), "macAddress"),
        (json!({"network": "none"}), "spec.network"),
    ] {
        let message = post(PORTS, net("Port", "bad", spec.clone())).await.refused(422);
        assert!(message.contains(field), "{spec}: {message}");
    }
    desk.call("DELETE", PORTS, None).await.expect(200);
    desk.call("DELETE", &format!("{NET}/subnets/s"), None).await.expect(200);
    desk.call("DELETE", &format!("{NET}/networks/n"), None).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_have_addresses_of_both_families() {
    let desk = Desk::new().await;
    let make = |plural: &str, object: Value| {
        let path = format!("{NET}/{plural}");
        let desk = &desk;
        async move { desk.call("POST", &path, Some(object)).await }
    };
    make("networks", net("Network", "n", json!({}))).await.expect(201);
    let subnet = |name: &str, more: Value| {
        let mut spec = json!({"network": "n"});
        spec.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        make("subnets", net("Subnet", name, spec))
    };
    let six = subnet("six", json!({"cidr": "fd00:1::/64", "raMode": "dhcpv6-stateful"})).await.expect(201);
    assert_eq!(six["spec"]["gatewayIp"], "fd00:1::1");
    let pod = json!({"network": "n", "holder": {"kind": "Pod", "name": "x", "uid": "x"}});
    let none = make("ports", net("Port", "pod", pod.clone())).await.refused(409);
    assert!(none.contains("no Subnet of IPv4"), "{none}");
    subnet("four", json!({"cidr": "10.10.0.0/28"})).await.expect(201);
    for (more, field) in [
        (json!({"cidr": "10.11.0.0/24", "raMode": "slaac"}), "raMode"),
        (json!({"cidr": "fd00:2::/80", "addressMode": "slaac"}), "addressMode"),
        (json!({"cidr": "fd00:2::/64", "raMode": "slaac", "addressMode": "dhcpv6-stateless"}), "addressMode"),
        (json!({"cidr": "fd00:2::/64", "raMode": "slaac", "enableDhcp": false}), "raMode"),
        (json!({"cidr": "fd00:2::/64", "raMode": "none"}), "raMode"),
        (json!({"cidr": "fd00:1::/72"}), "cidr"),
        (json!({"cidr": "fd00:2::/64", "gatewayIp": "10.0.0.1"}), "gatewayIp"),
        (json!({"cidr": "fd00:2::/64", "dnsNameservers": ["10.0.0.1"]}), "dnsNameservers"),
    ] {
        let message = subnet("bad", more.clone()).await.refused(422);
        assert!(message.contains(field), "{more}: {message}");
    }
    make("networks", net("Network", "small", json!({"mtu": 1279}))).await.expect(201);
    assert!(make("networks", net("Network", "tiny", json!({"mtu": 67}))).await.refused(422).contains("mtu"));
    make("networks", net("Network", "tiny", json!({"mtu": 68}))).await.expect(201);
    // The smallest range has a gateway and one port.
    make("subnets", net("Subnet", "tiny", json!({"network": "tiny", "cidr": "10.44.0.0/30"})))
        .await
        .expect(201);
    let port = make("ports", net("Port", "one", json!({"network": "tiny"}))).await.expect(201);
    assert_eq!(port["spec"]["fixedIps"][0]["ip"], "10.44.0.2");
    make("ports", net("Port", "two", json!({"network": "tiny"}))).await.refused(409);
    let small = json!({"network": "small", "cidr": "fd00:2::/64"});
    assert!(make("subnets", net("Subnet", "small", small)).await.refused(422).contains("1280"));
    subnet("auto", json!({"cidr": "fd00:2::/64", "raMode": "slaac", "addressMode": "slaac"}))
        .await
        .expect(201);
    let ips = |port: &Value| {
        let all = port["spec"]["fixedIps"].as_array().into_iter().flatten();
        all.filter_map(|fixed| fixed["ip"].as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let mac = "fa:16:3e:00:00:07";
    let port = make("ports", net("Port", "p", json!({"network": "n", "macAddress": mac}))).await.expect(201);
    assert_eq!(ips(&port), ["10.10.0.2", "fd00:1::2", "fd00:2::f816:3eff:fe00:7"]);
    let pod = make("ports", net("Port", "pod", pod)).await.expect(201);
    assert_eq!(ips(&pod), ["10.10.0.3"]);
    let own = json!({"network": "n", "fixedIps": [{"ip": "fd00:1:0::9"}]});
    let own = make("ports", net("Port", "own", own)).await.expect(201);
    assert_eq!((ips(&own).len(), ips(&own)[0].as_str()), (2, "fd00:1::9"));
    // What says nothing gets one that is given, not one that is made; no address is any of the Subnet that is named.
    for (name, wish, ip) in [
        ("any", json!({}), "10.10.0.4"),
        ("empty", json!({"subnet": "six", "ip": ""}), "fd00:1::3"),
        ("none", json!({"subnet": "four", "ip": ""}), "10.10.0.5"),
    ] {
        let made = make("ports", net("Port", name, json!({"network": "n", "fixedIps": [wish]}))).await;
        let made = ips(&made.expect(201));
        assert!(made.len() == 2 && made[0] == ip && made[1].starts_with("fd00:2::"), "{name}: {made:?}");
    }
    for ip in ["fd00:1::9", "fd00:2::9", "fd00:1::", "fd00:1::1", "fd00:3::1"] {
        let spec = json!({"network": "n", "fixedIps": [{"ip": ip}]});
        let message = make("ports", net("Port", "bad", spec)).await.refused(422);
        assert!(message.contains("fixedIps[0].ip"), "{ip}: {message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_stays_where_it_is_while_ports_use_it() {
    let desk = Desk::new().await;
    let put = |spec: Value| {
        let desk = &desk;
        async move {
            let mut subnet = net("Subnet", "s", spec);
            subnet["metadata"]["resourceVersion"] =
                desk.call("GET", SUBNET, None).await.expect(200)["metadata"]["resourceVersion"].clone();
            desk.call("PUT", SUBNET, Some(subnet)).await
        }
    };
    const SUBNET: &str = "/apis/network.yunfan.io/v1/namespaces/default/subnets/s";
    let make = |plural: &str, object: Value| {
        let path = format!("{NET}/{plural}");
        let desk = &desk;
        async move { desk.call("POST", &path, Some(object)).await }
    };
    make("networks", net("Network", "n", json!({}))).await.expect(201);
    let spec = |more: Value| {
        let mut spec = json!({"network": "n", "cidr": "10.10.0.0/28"});
        spec.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        spec
    };
    make("subnets", net("Subnet", "s", spec(json!({"gatewayIp": "10.10.0.9"})))).await.expect(201);
    make("ports", net("Port", "p", json!({"network": "n"}))).await.expect(201);
    assert_eq!(put(spec(json!({}))).await.expect(200)["spec"]["gatewayIp"], "10.10.0.9", "left where it is");
    let refused = put(spec(json!({"gatewayIp": "10.10.0.10"}))).await.refused(409);
    assert!(refused.contains("1 Port(s) have addresses of it"), "{refused}");
    for (nexthop, code) in [("10.10.0.15", 422), ("10.10.0.0", 422), ("10.10.0.5", 200), ("192.0.2.1", 200)] {
        let routes = json!([{"destination": "10.20.0.0/16", "nexthop": nexthop}]);
        let answer = put(spec(json!({"hostRoutes": routes}))).await;
        assert_eq!(answer.status.as_u16(), code, "{nexthop}");
    }
    desk.call("DELETE", &format!("{NET}/ports/p"), None).await.expect(200);
    let moved = put(spec(json!({"gatewayIp": "10.10.0.10"}))).await.expect(200);
    assert_eq!(moved["spec"]["gatewayIp"], "10.10.0.10");
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_numbers_with_a_dot_are_stored_as_what_they_are() {
    let desk = Desk::new().await;
    let group = |port: &str| {
        let rule =
            format!(r#"{{"direction":"ingress","protocol":"tcp","portRangeMin":{port},"portRangeMax":80}}"#);
        format!(
            r#"{{"apiVersion":"network.yunfan.io/v1","kind":"SecurityGroup","metadata":{{"name":"g"}},"spec":{{"rules":[{rule}]}}}}"#
        )
    };
    let groups = format!("{NET}/securitygroups");
    let whole: Value = serde_json::from_str(&group("80.0")).expect("JSON");
    let made = desk.call("POST", &groups, Some(whole)).await.expect(201);
    let rule = &made["spec"]["rules"][0];
    assert!(rule["portRangeMin"].is_i64() && rule["id"].is_string(), "{rule}");
    let change = r#"{"spec":{"rules":[{"direction":"ingress","protocol":"tcp","portRangeMin":22.0,"portRangeMax":2.2e1}]}}"#;
    let made = desk.patch("merge-patch+json", &format!("{groups}/g"), change).await.expect(200);
    let rule = &made["spec"]["rules"][0];
    assert!(rule["portRangeMin"] == 22 && rule["portRangeMax"].is_i64(), "{rule}");
    let refused = desk.patch("merge-patch+json", &format!("{groups}/g"), group("80.5")).await.refused(422);
    assert!(refused.contains("portRangeMin"), "{refused}");
}

async fn good_name(desk: &Desk, path: &str) -> String {
    let list = desk.call("GET", path, None).await.expect(200);
    list["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_take_their_size_from_the_flavor_and_keep_it() {
    let desk = Desk::new().await;
    let machines = "/apis/compute.yunfan.io/v1/namespaces/default/virtualmachines";
    let vm = |name: &str| {
        of("compute.yunfan.io/v1", "VirtualMachine", name, json!({"flavor": "small", "image": "i"}))
    };
    let message = desk.call("POST", machines, Some(vm("a"))).await.refused(422);
    assert!(message.contains("spec.flavor"), "{message}");
    let flavor =
        of("compute.yunfan.io/v1", "Flavor", "small", json!({"vcpus": 2, "memoryMib": 512, "diskGib": 1}));
    desk.call("POST", "/apis/compute.yunfan.io/v1/flavors", Some(flavor)).await.expect(201);
    let quota = of(
        "v1",
        "ResourceQuota",
        "project",
        json!({"hard": {"compute.yunfan.io/vcpus": "3", "compute.yunfan.io/memory": "1Gi"}}),
    );
    desk.call("POST", "/api/v1/namespaces/default/resourcequotas", Some(quota)).await.expect(201);
    let made = desk.call("POST", machines, Some(vm("a"))).await.expect(201);
    assert_eq!(made["spec"]["resources"], json!({"vcpus": 2, "memoryMib": 512, "diskGib": 1}));
    assert_eq!(made["spec"]["id"], made["metadata"]["uid"]);
    let message = desk.call("POST", machines, Some(vm("b"))).await.refused(403);
    assert!(message.contains("requested: compute.yunfan.io/vcpus=2, used: compute.yunfan.io/vcpus=2, limited: compute.yunfan.io/vcpus=3"), "{message}");
    desk.call("DELETE", "/apis/compute.yunfan.io/v1/flavors/small", None).await.expect(200);
    let kept = desk
        .patch("merge-patch+json", &format!("{machines}/a"), r#"{"spec":{"displayName":"x"}}"#)
        .await
        .expect(200);
    assert_eq!(kept["spec"]["resources"]["vcpus"], 2);
    let change = |spec: Value| {
        let (desk, body) = (&desk, json!({"spec": spec}).to_string());
        async move { desk.patch("merge-patch+json", &format!("{machines}/a"), body).await }
    };
    // The size before a resize is one that it has had, and counts until it is given up.
    let (small, large) = (
        json!({"vcpus": 1, "memoryMib": 256, "diskGib": 1}),
        json!({"vcpus": 2, "memoryMib": 512, "diskGib": 1}),
    );
    let huge = json!({"resizedFrom": {"flavor": "small", "resources": {"vcpus": 512, "memoryMib": 4_000_000, "diskGib": 9}}});
    assert!(change(huge).await.refused(422).contains("spec.resizedFrom"));
    let resized =
        json!({"flavor": "tiny", "resources": small, "resizedFrom": {"flavor": "small", "resources": large}});
    change(resized).await.expect(200);
    let other = of(
        "compute.yunfan.io/v1",
        "VirtualMachine",
        "c",
        json!({"flavor": "small", "image": "i", "resources": large}),
    );
    let message = desk.call("POST", machines, Some(other.clone())).await.refused(403);
    assert!(message.contains("used: compute.yunfan.io/vcpus=2"), "{message}");
    change(json!({"resizedFrom": null})).await.expect(200);
    desk.call("POST", machines, Some(other)).await.expect(201);
    // Which disk is its own only rises.
    change(json!({"rebuildGeneration": 2})).await.expect(200);
    assert!(
        change(json!({"rebuildGeneration": 1})).await.refused(422).contains("must not be lowered from 2")
    );
    let kept = change(json!({"rebuildGeneration": null})).await.expect(200);
    assert_eq!(kept["spec"]["rebuildGeneration"], 2);
    for odd in [json!("x"), json!([]), json!(1)] {
        let change = json!({"spec": odd}).to_string();
        let message = desk.patch("merge-patch+json", &format!("{machines}/a"), change).await.refused(422);
        assert!(message.contains("spec in body must be of type object"), "{message}");
        let odd = of("compute.yunfan.io/v1", "VirtualMachine", "b", odd);
        desk.call("POST", machines, Some(odd)).await.refused(422);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_of_an_operators_own_keeps_ours_from_coming_back() {
    const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
    let desk = Desk::new().await;
    desk.call("DELETE", &format!("{CLASSES}/yunfan"), None).await.expect(200);
    let own = json!({"metadata": {"name": "own", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "p"});
    desk.call("POST", CLASSES, Some(own)).await.expect(201);
    let dir = desk.close().await;
    let desk = Desk::open(dir.path()).await;
    let classes = desk.call("GET", CLASSES, None).await.expect(200);
    assert_eq!(classes["items"].as_array().map(Vec::len), Some(1), "{classes}");
    desk.call("DELETE", &format!("{CLASSES}/own"), None).await.expect(200);
    desk.api.bootstrap().await.expect("bootstrap");
    desk.call("GET", &format!("{CLASSES}/yunfan"), None).await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_filled_in_unique_and_immutable() {
    let desk = Desk::new().await;
    let project = of("iam.yunfan.io/v1", "Project", "p", json!({"displayName": "P"}));
    let made = desk.call("POST", "/apis/iam.yunfan.io/v1/projects", Some(project)).await.expect(201);
    let uid = made["metadata"]["uid"].as_str().expect("a uid").replace('-', "");
    assert_eq!(made["spec"]["id"], json!(uid));
    let change = r#"{"spec":{"id":"other"}}"#;
    let message =
        desk.patch("merge-patch+json", "/apis/iam.yunfan.io/v1/projects/p", change).await.refused(422);
    assert!(message.contains("spec.id"), "{message}");
    let flavor = |name: &str| {
        of("compute.yunfan.io/v1", "Flavor", name, json!({"id": "1", "vcpus": 1, "memoryMib": 64}))
    };
    desk.call("POST", "/apis/compute.yunfan.io/v1/flavors", Some(flavor("a"))).await.expect(201);
    let message =
        desk.call("POST", "/apis/compute.yunfan.io/v1/flavors", Some(flavor("b"))).await.refused(422);
    assert!(message.contains("spec.id") && message.contains("Flavor a"), "{message}");
    desk.call("DELETE", "/apis/compute.yunfan.io/v1/flavors/a", None).await.expect(200);
    desk.call("POST", "/apis/compute.yunfan.io/v1/flavors", Some(flavor("b"))).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_administered_from_marked_namespaces_alone() {
    let desk = Desk::new().await;
    const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    const TEMPLATES: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaimtemplates";
    let spec = |admin: bool| {
        let exactly = json!({"deviceClassName": "c", "adminAccess": admin});
        json!({"devices": {"requests": [{"name": "a", "exactly": exactly}]}})
    };
    let claim = |name: &str, admin: bool| of("resource.k8s.io/v1", "ResourceClaim", name, spec(admin));
    let template = || of("resource.k8s.io/v1", "ResourceClaimTemplate", "t", json!({"spec": spec(true)}));
    desk.call("POST", CLAIMS, Some(claim("plain", false))).await.expect(201);
    let finding = "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the \
        `resource.kubernetes.io/admin-access: true` label on the containing namespace";
    for (path, object) in [(CLAIMS, claim("a", true)), (TEMPLATES, template())] {
        let why = desk.call("POST", path, Some(object)).await.refused(422);
        assert!(why.ends_with(&format!("is invalid: {finding}")), "{why}");
    }
    // It is told together with what else is wrong.
    let why = desk.call("POST", CLAIMS, Some(claim("A", true))).await.refused(422);
    assert!(why.contains(&format!("is invalid: [{finding}, metadata.name: Invalid value")), "{why}");
    let label = json!({"metadata": {"labels": {"resource.kubernetes.io/admin-access": "true"}}});
    desk.patch("merge-patch+json", "/api/v1/namespaces/default", label.to_string()).await.expect(200);
    desk.call("POST", CLAIMS, Some(claim("a", true))).await.expect(201);
    desk.call("POST", TEMPLATES, Some(template())).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_given_by_who_may_give_them() {
    const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    let desk = Desk::new().await;
    let spec = json!({"devices": {"requests": [{"name": "a", "exactly": {"deviceClassName": "c"}}]}});
    let claim = of("resource.k8s.io/v1", "ResourceClaim", "x", spec);
    desk.call("POST", CLAIMS, Some(claim)).await.expect(201);
    let allow = async |name: &str, resource: &str, verbs: &[&str]| {
        let rules = json!([{"apiGroups": ["resource.k8s.io"], "resources": [resource], "verbs": verbs}]);
        let role = json!({"metadata": {"name": name}, "rules": rules});
        desk.call("POST", &format!("{RBAC}/clusterroles"), Some(role)).await.expect(201);
        let subject = json!({"kind": "User", "name": "ann", "apiGroup": "rbac.authorization.k8s.io"});
        let binding = json!({"metadata": {"name": name}, "subjects": [subject],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}});
        desk.call("POST", &format!("{RBAC}/clusterrolebindings"), Some(binding)).await.expect(201);
    };
    let write = async |status: Value| {
        let ann = Some(UserInfo::authenticated("ann", Vec::<String>::new()));
        let body = json!({"status": status}).to_string();
        desk.send(ann, "PATCH", &format!("{CLAIMS}/x/status"), "application/merge-patch+json", &[], body)
            .await
    };
    allow("status", "resourceclaims/status", &["patch"]).await;
    let results = json!([{"request": "a", "driver": "d.example", "pool": "p", "device": "dev"}]);
    let given = json!({"allocation": {"devices": {"results": results}}});
    let why = write(given.clone()).await.refused(422);
    assert!(why.contains("status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\""), "{why}");
    allow("binding", "resourceclaims/binding", &["patch"]).await;
    write(given).await.expect(200);
    let told = json!({"devices": [{"driver": "d.example", "pool": "p", "device": "dev"}]});
    let why = write(told.clone()).await.refused(422);
    assert!(why.contains("status.devices: Forbidden: changing status.devices requires"), "{why}");
    allow("driver", "resourceclaims/driver", &["arbitrary-node:patch"]).await;
    write(told).await.expect(200);
}
