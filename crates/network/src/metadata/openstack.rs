//! The paths that cloud-init's OpenStack source knows: JSON documents below a version.

use super::GuestData;
use crate::view::NetworkView;
use serde_json::{Value, json};

/// The versions that clients look for; all have the same content.
const VERSIONS: &[&str] = &[
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "latest",
];

/// The document at `path`, which has no leading slash, with its content type.
pub(super) fn find(path: &str, guest: &GuestData, view: &NetworkView) -> Option<(&'static str, Vec<u8>)> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Some(("text/plain", VERSIONS.join("\n").into_bytes()));
    }
    let (version, file) = path.split_once('/').unwrap_or((path, ""));
    if !VERSIONS.contains(&version) {
        return None;
    }
    match file {
        "" => {
            let mut files =
                vec!["meta_data.json", "network_data.json", "vendor_data.json", "vendor_data2.json"];
            files.extend(guest.user_data.is_some().then_some("user_data"));
            Some(("text/plain", files.join("\n").into_bytes()))
        }
        "meta_data.json" => json_body(meta_data(guest)),
        "network_data.json" => json_body(network_data(guest, view)),
        "vendor_data.json" | "vendor_data2.json" => json_body(json!({})),
        "user_data" => Some(("application/octet-stream", guest.user_data.clone()?)),
        _ => None,
    }
}

fn json_body(value: Value) -> Option<(&'static str, Vec<u8>)> {
    Some(("application/json", value.to_string().into_bytes()))
}

fn meta_data(guest: &GuestData) -> Value {
    let zone = if guest.availability_zone.is_empty() { "yunfan" } else { &guest.availability_zone };
    let public_keys: serde_json::Map<_, _> =
        guest.public_keys.iter().map(|(name, key)| (name.clone(), json!(key))).collect();
    let keys: Vec<_> = guest
        .public_keys
        .iter()
        .map(|(name, key)| json!({"name": name, "type": "ssh", "data": key}))
        .collect();
    json!({
        "uuid": guest.instance_id,
        "name": guest.name,
        "hostname": guest.hostname,
        "project_id": guest.project_id,
        "availability_zone": zone,
        "launch_index": 0,
        "public_keys": public_keys,
        "keys": keys,
        "meta": guest.meta,
        "devices": [],
    })
}

fn network_data(guest: &GuestData, view: &NetworkView) -> Value {
    let (Some(ip), Some(mac)) = (guest.local_ipv4, guest.mac) else {
        return json!({"links": [], "networks": [], "services": []});
    };
    let Some(subnet) = view.subnet_of(ip) else {
        return json!({"links": [], "networks": [], "services": []});
    };
    let link = json!({"id": "port0", "type": "bridge", "ethernet_mac_address": mac.to_string(), "mtu": view.config.mtu, "vif_id": "port0"});
    let mut network = json!({"id": "network0", "link": "port0", "network_id": view.config.uid});
    if subnet.dhcp {
        network["type"] = json!("ipv4_dhcp");
    } else {
        network["type"] = json!("ipv4");
        network["ip_address"] = json!(ip);
        network["netmask"] = json!(subnet.cidr.netmask());
        network["routes"] = json!([{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": subnet.gateway}]);
    }
    let servers =
        if subnet.dns_servers.is_empty() { vec![subnet.gateway] } else { subnet.dns_servers.clone() };
    let services: Vec<_> = servers.iter().map(|ip| json!({"type": "dns", "address": ip})).collect();
    json!({"links": [link], "networks": [network], "services": services})
}
