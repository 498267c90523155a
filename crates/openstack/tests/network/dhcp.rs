//! What DHCP tells single ports.

use kube::api::Api as Objects;
use serde_json::{Value, json};
use yunfan_resources::network::{IpVersion, Port};

use super::{PORTS, lan};
use crate::support::client::{Client, tenant, text};
use crate::support::{PASSWORD, start};

#[tokio::test]
async fn ports_have_dhcp_options_of_their_own() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (demo, _) = tenant(&cloud, &admin, "demo").await;
    demo.must(200, "GET", "/network/v2.0/extensions/extra_dhcp_opt", Value::Null).await;
    let net = lan(&demo).await;
    let options = json!([{"opt_name": "bootfile-name", "opt_value": "pxelinux.0"},
        {"opt_name": "server-ip-address", "opt_value": "2015::badd"}, {"opt_name": "mtu", "opt_value": null}]);
    let port = json!({"port": {"network_id": net, "extra_dhcp_opts": options}});
    let port = demo.must(201, "POST", PORTS, port).await["port"].clone();
    let boot = json!({"opt_name": "bootfile-name", "opt_value": "pxelinux.0", "ip_version": 4});
    let server = json!({"opt_name": "server-ip-address", "opt_value": "2015::badd", "ip_version": 4});
    assert_eq!(port["extra_dhcp_opts"], json!([boot, server]));
    let at = format!("{PORTS}/{}", text(&port["id"]));
    let change = json!([{"opt_name": "server-ip-address", "opt_value": null}, {"opt_name": "router", "opt_value": ""},
        {"opt_name": "ntp-server", "opt_value": "fd00::9", "ip_version": 6}]);
    let changed = demo.must(200, "PUT", &at, json!({"port": {"extra_dhcp_opts": change}})).await;
    let router = json!({"opt_name": "router", "opt_value": "", "ip_version": 4});
    let time = json!({"opt_name": "ntp-server", "opt_value": "fd00::9", "ip_version": 6});
    assert_eq!(changed["port"]["extra_dhcp_opts"], json!([boot, router, time]));
    demo.must(200, "PUT", &at, json!({"port": {"name": "p", "extra_dhcp_opts": null}})).await;
    // One object, two doors.
    let ports = Objects::<Port>::namespaced(cloud.system.clone(), "demo");
    let listed = ports.list(&Default::default()).await.expect("ports").items;
    let own = &listed[0].spec.dhcp_options;
    assert_eq!((own.len(), own[2].ip_version), (3, IpVersion::V6));
    for wrong in [
        json!([{"opt_name": "mtu", "opt_value": ""}]),
        json!([{"opt_name": "mtu"}, {"opt_name": "mtu", "opt_value": "1", "ip_version": 5}]),
        json!([{"opt_name": "mtu", "opt_value": 1}]),
        json!([{"opt_name": "x".repeat(65), "opt_value": "1"}]),
        json!({"opt_name": "mtu", "opt_value": "1"}),
    ] {
        demo.must(400, "PUT", &at, json!({"port": {"extra_dhcp_opts": wrong}})).await;
    }
}
