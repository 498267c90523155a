//! IPv6 as Neutron has it: modes of subnets, addresses of ports, routers, floating IPs, pools.

use kube::api::Api as Objects;
use serde_json::{Value, json};
use yunfan_resources::network::{Subnet, SubnetPool};

use super::{PORTS, kind};
use crate::support::client::{Client, tenant, text};
use crate::support::{PASSWORD, start};

const SUBNETS: &str = "/network/v2.0/subnets";

#[tokio::test]
async fn networks_have_subnets_of_both_versions() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let net = demo.must(201, "POST", "/network/v2.0/networks", json!({"network": {"name": "lan"}})).await;
    let net = text(&net["network"]["id"]).to_owned();
    let subnet = |more: Value| {
        let mut fields = json!({"network_id": net});
        fields.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        json!({"subnet": fields})
    };
    demo.must(201, "POST", SUBNETS, subnet(json!({"cidr": "10.3.0.0/24", "ip_version": 4}))).await;
    let early = demo.must(201, "POST", PORTS, json!({"port": {"network_id": net}})).await["port"].clone();
    let auto = json!({"cidr": "FD00:1::/64", "ip_version": 6, "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"});
    let auto = demo.must(201, "POST", SUBNETS, subnet(auto)).await["subnet"].clone();
    assert_eq!((&auto["ip_version"], &auto["cidr"]), (&json!(6), &json!("fd00:1::/64")));
    assert_eq!((&auto["ipv6_ra_mode"], &auto["gateway_ip"]), (&json!("slaac"), &json!("fd00:1::1")));
    assert_eq!(
        auto["allocation_pools"],
        json!([{"start": "fd00:1::2", "end": "fd00:1::ffff:ffff:ffff:ffff"}])
    );
    // Ports that are there get the addresses that are made of their MACs.
    let at = format!("{PORTS}/{}", text(&early["id"]));
    let early = demo.get(&at).await["port"]["fixed_ips"].clone();
    assert_eq!(early.as_array().map(Vec::len), Some(2), "{early}");
    let plain = json!({"cidr": "fd00:2::/64", "ip_version": 6, "gateway_ip": "fd00:2::9"});
    let plain = demo.must(201, "POST", SUBNETS, subnet(plain)).await["subnet"].clone();
    assert_eq!((&plain["ipv6_ra_mode"], &plain["gateway_ip"]), (&Value::Null, &json!("fd00:2::9")));
    let body = json!({"port": {"network_id": net, "mac_address": "fa:16:3e:00:00:07"}});
    let port = demo.must(201, "POST", PORTS, body).await["port"].clone();
    let ips: Vec<&str> =
        port["fixed_ips"].as_array().unwrap().iter().map(|ip| text(&ip["ip_address"])).collect();
    assert_eq!(ips, ["10.3.0.3", "fd00:2::1", "fd00:1::f816:3eff:fe00:7"]);
    let found = demo.get(&format!("{PORTS}?fixed_ips=ip_address%3Dfd00:2::1")).await;
    assert_eq!(found["ports"][0]["id"], port["id"]);
    let wrong = json!({"port": {"network_id": net, "fixed_ips": [{"subnet_id": auto["id"], "ip_address": "fd00:1::7"}]}});
    assert_eq!(kind(&demo.must(400, "POST", PORTS, wrong).await), "AllocationOnAutoAddressSubnet");

    let at = format!("{SUBNETS}/{}", text(&auto["id"]));
    demo.must(400, "PUT", &at, json!({"subnet": {"ipv6_ra_mode": "dhcpv6-stateful"}})).await;
    assert_eq!(
        kind(&demo.must(400, "PUT", &at, json!({"subnet": {"enable_dhcp": false}})).await),
        "InvalidInput"
    );
    let served = json!({"subnet": {"dns_nameservers": ["2001:db8::53"]}});
    let served = demo.must(200, "PUT", &at, served).await;
    assert_eq!(served["subnet"]["dns_nameservers"], json!(["2001:db8::53"]));
    let shown = admin.get(&format!("/network/v2.0/network-ip-availabilities/{net}")).await;
    let shown = shown["network_ip_availability"]["subnet_ip_availability"].as_array().unwrap().clone();
    let six = shown.iter().find(|one| one["subnet_id"] == auto["id"]).unwrap();
    assert_eq!((&six["total_ips"], &six["used_ips"]), (&json!(u64::MAX - 1), &json!(2)));

    // A router is on several subnets of one network.
    let router = demo.must(201, "POST", "/network/v2.0/routers", json!({"router": {"name": "r"}})).await;
    let router = format!("/network/v2.0/routers/{}", text(&router["router"]["id"]));
    for subnet in [&auto["id"], &plain["id"]] {
        let at = format!("{router}/add_router_interface");
        let added = demo.must(200, "PUT", &at, json!({"subnet_id": subnet})).await;
        assert_eq!(added["subnet_id"], *subnet);
    }
    let routes = json!({"router": {"routes": [{"destination": "fd00:9::/64", "nexthop": "fd00:2::1"}]}});
    demo.must(400, "PUT", &router, routes).await;

    // A subnet of made addresses goes with them, but not while it is a router's.
    assert_eq!(kind(&demo.must(409, "DELETE", &at, Value::Null).await), "SubnetInUse");
    let left = json!({"subnet_id": auto["id"]});
    demo.must(200, "PUT", &format!("{router}/remove_router_interface"), left).await;
    demo.must(204, "DELETE", &at, Value::Null).await;
    let port = demo.get(&format!("{PORTS}/{}", text(&port["id"]))).await["port"].clone();
    assert_eq!(port["fixed_ips"].as_array().map(Vec::len), Some(2), "{port}");
}

#[tokio::test]
async fn what_is_not_served_is_refused_and_pools_give_ranges() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    let body = json!({"network": {"name": "public", "router:external": true}});
    let public = admin.must(201, "POST", "/network/v2.0/networks", body).await["network"]["id"].clone();
    let body = json!({"subnet": {"network_id": public, "cidr": "2001:db8::/64", "ip_version": 6}});
    let refused = admin.must(400, "POST", SUBNETS, body).await;
    assert!(text(&refused["NeutronError"]["message"]).contains("IPv4 alone"), "{refused}");
    let pool = json!({"subnetpool": {"name": "p", "prefixes": ["fd00:8::/48"]}});
    let pools = "/network/v2.0/subnetpools";
    let pool = demo.must(201, "POST", pools, pool).await["subnetpool"].clone();
    assert_eq!((&pool["ip_version"], &pool["default_prefixlen"]), (&json!(6), &json!("64")));
    let mixed = json!({"subnetpool": {"name": "m", "prefixes": ["fd00:9::/48", "10.0.0.0/8"]}});
    assert_eq!(kind(&demo.must(400, "POST", pools, mixed).await), "PrefixVersionMismatch");
    for field in ["default_prefixlen", "min_prefixlen", "max_prefixlen"] {
        let long = json!({"subnetpool": {"name": "l", "prefixes": ["10.0.0.0/8"], field: 64}});
        assert_eq!(kind(&demo.must(400, "POST", pools, long).await), "IllegalSubnetPoolPrefixBounds");
    }
    let spec = json!({"prefixes": ["10.0.0.0/8"], "maxLength": 64});
    let long = serde_json::from_value(json!({"metadata": {"name": "l"}, "spec": spec})).unwrap();
    let all = Objects::<SubnetPool>::namespaced(cloud.system.clone(), "demo");
    let refused = all.create(&Default::default(), &long).await.unwrap_err().to_string();
    assert!(refused.contains("spec.maxLength") && refused.contains("32 at most"), "{refused}");
    let net = demo.must(201, "POST", "/network/v2.0/networks", json!({"network": {"name": "lan"}})).await;
    for cidr in ["fd00:8::/64", "fd00:8:0:1::/64"] {
        let body = json!({"subnet": {"network_id": net["network"]["id"], "ip_version": 6, "subnetpool_id": pool["id"]}});
        assert_eq!(demo.must(201, "POST", SUBNETS, body).await["subnet"]["cidr"], cidr);
    }
}

#[tokio::test]
async fn addresses_that_are_made_of_macs_stay_while_their_subnet_does() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (owner, _) = tenant(&cloud, &admin, "owner").await;
    let (guest, theirs) = tenant(&cloud, &admin, "guest").await;
    let net = super::lan(&owner).await;
    let policy = json!({"rbac_policy": {"object_type": "network", "object_id": net,
        "action": "access_as_shared", "target_tenant": theirs}});
    owner.must(201, "POST", "/network/v2.0/rbac-policies", policy).await;
    let plain = json!({"port": {"network_id": net}});
    let plain = owner.must(201, "POST", PORTS, plain).await["port"].clone();
    let shared = json!({"port": {"network_id": net, "device_owner": "compute:mine"}});
    let fit = owner.must(201, "POST", PORTS, shared).await["port"].clone();
    let count = |client: &Client, port: &Value| {
        let (client, at) = (client.clone(), format!("{PORTS}/{}", text(&port["id"])));
        async move { client.get(&at).await["port"]["fixed_ips"].as_array().map(Vec::len) }
    };
    // A subnet of some ports alone is made, and the others are left as they are.
    let made = |cidr: &str, types: Value| {
        json!({"subnet": {"network_id": net, "cidr": cidr, "ip_version": 6, "service_types": types,
            "ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}})
    };
    owner.must(201, "POST", SUBNETS, made("fd00:1::/64", json!(["compute:mine"]))).await;
    assert_eq!((count(&owner, &plain).await, count(&owner, &fit).await), (Some(1), Some(2)));
    let auto = owner.must(201, "POST", SUBNETS, made("fd00:2::/64", json!([]))).await["subnet"].clone();
    assert_eq!((count(&owner, &plain).await, count(&owner, &fit).await), (Some(2), Some(3)));
    // A deletion that others' ports refuse takes nothing away.
    let other = guest.must(201, "POST", PORTS, json!({"port": {"network_id": net}})).await["port"].clone();
    assert_eq!(count(&guest, &other).await, Some(2));
    let at = format!("{SUBNETS}/{}", text(&auto["id"]));
    assert_eq!(kind(&owner.must(409, "DELETE", &at, Value::Null).await), "SubnetInUse");
    assert_eq!((count(&owner, &plain).await, count(&owner, &fit).await), (Some(2), Some(3)));
    let subnets = Objects::<Subnet>::namespaced(cloud.system.clone(), "owner");
    for subnet in subnets.list(&Default::default()).await.unwrap() {
        let notes = subnet.metadata.annotations.unwrap_or_default();
        assert!(!notes.contains_key("network.yunfan.io/retiring"), "{notes:?}");
    }
    guest.must(204, "DELETE", &format!("{PORTS}/{}", text(&other["id"])), Value::Null).await;
    owner.must(204, "DELETE", &at, Value::Null).await;
    assert_eq!((count(&owner, &plain).await, count(&owner, &fit).await), (Some(1), Some(2)));
}
