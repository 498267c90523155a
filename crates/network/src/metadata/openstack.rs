//! The paths that cloud-init's OpenStack source knows: JSON documents below a version.

use super::GuestData;
use crate::six::{AddressMode, Subnet6Config};
use crate::types::SubnetConfig;
use ipnet::Ipv6Net;
use serde_json::{Value, json};
use std::net::{Ipv4Addr, Ipv6Addr};

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

/// Below what the files are that a guest is to have, by their numbers.
pub(super) const CONTENT: &str = "content";

/// The document at `path`, which has no leading slash, with its content type.
pub(super) fn find(path: &str, guest: &GuestData) -> Option<(&'static str, Vec<u8>)> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Some(("text/plain", VERSIONS.join("\n").into_bytes()));
    }
    let (version, file) = path.split_once('/').unwrap_or((path, ""));
    if version == CONTENT {
        let (_, bytes) = guest.files.get(file.parse::<usize>().ok()?)?;
        return Some(("application/octet-stream", bytes.clone()));
    }
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
        "network_data.json" => json_body(network_data(guest)),
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
    let mut data = json!({
        "uuid": guest.instance_id,
        "name": guest.name,
        "hostname": guest.hostname,
        "project_id": guest.project_id,
        "availability_zone": zone,
        "launch_index": 0,
        "public_keys": public_keys,
        "keys": keys,
        "meta": guest.meta,
        "devices": devices(guest),
    });
    if !guest.files.is_empty() {
        let file = |(at, (path, _)): (usize, &(String, Vec<u8>))| json!({"path": path, "content_path": format!("/{CONTENT}/{at:04}")});
        data["files"] = guest.files.iter().enumerate().map(file).collect();
    }
    data
}

/// The devices that have tags, as Nova's metadata lists them; where on which bus the guest finds them is not told.
fn devices(guest: &GuestData) -> Vec<Value> {
    let cards = guest.links.iter().filter_map(|link| {
        let tags = [link.tag.as_ref()?];
        Some(json!({"type": "nic", "bus": "none", "address": "none", "mac": link.mac.to_string(), "tags": tags}))
    });
    let disks = guest.disks.iter().map(|disk| {
        let mut view = json!({
            "type": "disk", "bus": "virtio", "address": "none", "serial": disk.serial, "tags": [disk.tag],
        });
        if let Some(path) = &disk.path {
            view["path"] = json!(path);
        }
        view
    });
    cards.chain(disks).collect()
}

/// The cards, their addresses and the resolvers, as Nova's `network_data.json` has them.
fn network_data(guest: &GuestData) -> Value {
    let (mut links, mut networks, mut services) = (Vec::new(), Vec::new(), Vec::new());
    for (at, link) in guest.links.iter().enumerate() {
        let id = format!("port{at}");
        links.push(json!({
            "id": id, "type": "bridge", "ethernet_mac_address": link.mac.to_string(), "mtu": link.mtu, "vif_id": link.id,
        }));
        for (ip, subnet) in &link.addresses {
            let mut network =
                json!({"id": format!("network{}", networks.len()), "link": id, "network_id": link.network});
            let servers =
                if subnet.dns_servers.is_empty() { vec![subnet.gateway] } else { subnet.dns_servers.clone() };
            let servers: Vec<Value> =
                servers.iter().map(|ip| json!({"type": "dns", "address": ip})).collect();
            if subnet.dhcp {
                network["type"] = json!("ipv4_dhcp");
            } else {
                network["type"] = json!("ipv4");
                network["ip_address"] = json!(ip);
                network["netmask"] = json!(subnet.cidr.netmask());
                network["routes"] = routes(subnet);
                network["services"] = json!(servers);
            }
            networks.push(network);
            services
                .extend(servers.into_iter().filter(|server| !services.contains(server)).collect::<Vec<_>>());
        }
        for (ip, subnet) in &link.addresses6 {
            let place = format!("network{}", networks.len());
            let servers: Vec<Value> =
                subnet.resolvers().iter().map(|ip| json!({"type": "dns", "address": ip})).collect();
            let network = json!({"id": place, "link": id, "network_id": link.network});
            networks.push(network6(network, *ip, subnet, &servers));
            services
                .extend(servers.into_iter().filter(|server| !services.contains(server)).collect::<Vec<_>>());
        }
    }
    json!({"links": links, "networks": networks, "services": services})
}

/// An address of IPv6: whole where nobody else tells the guest of it, else by what tells it.
fn network6(mut network: Value, ip: Ipv6Addr, subnet: &Subnet6Config, servers: &[Value]) -> Value {
    let told = match (subnet.assigned, subnet.advertised) {
        (Some(AddressMode::Stateful), _) => "ipv6_dhcpv6-stateful",
        (Some(AddressMode::Stateless), Some(_)) => "ipv6_dhcpv6-stateless",
        (_, Some(AddressMode::Slaac | AddressMode::Stateless)) => "ipv6_slaac",
        _ => "ipv6",
    };
    network["type"] = json!(told);
    if told == "ipv6" {
        let default = (Ipv6Net::default(), subnet.gateway);
        let has_own = subnet.routes.iter().any(|(range, _)| range.prefix_len() == 0);
        let default = (!subnet.isolated && !has_own).then_some(&default);
        let route = |(range, by): &(Ipv6Net, Ipv6Addr)| json!({"network": range.network(), "netmask": range.netmask(), "gateway": by});
        network["ip_address"] = json!(ip);
        network["netmask"] = json!(subnet.cidr.netmask());
        network["routes"] = default.into_iter().chain(&subnet.routes).map(route).collect();
        network["services"] = json!(servers);
    }
    network
}

fn routes(subnet: &SubnetConfig) -> Value {
    let default = (ipnet::Ipv4Net::default(), subnet.gateway);
    let has_own = subnet.routes.iter().any(|(range, _)| range.prefix_len() == 0);
    let default = (!subnet.isolated && !has_own).then_some(&default);
    let route = |(range, by): &(ipnet::Ipv4Net, Ipv4Addr)| json!({"network": range.network(), "netmask": range.netmask(), "gateway": by});
    default.into_iter().chain(&subnet.routes).map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::GuestLink;

    #[test]
    fn each_card_is_told_with_its_addresses() {
        let subnet = |cidr: &str, gateway: &str, dhcp| SubnetConfig {
            cidr: cidr.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            dhcp,
            dns_servers: vec![],
            isolated: false,
            routes: vec![("10.9.0.0/16".parse().unwrap(), "10.1.0.9".parse().unwrap())],
        };
        let link = |id: &str, mac: u8, addresses| GuestLink {
            id: id.into(),
            mac: crate::types::Mac([2, 0, 0, 0, 0, mac]),
            mtu: 1450,
            network: format!("of-{id}"),
            addresses,
            addresses6: vec![],
            tag: (id == "b").then(|| "db".to_owned()),
        };
        let guest = GuestData {
            links: vec![
                link("a", 1, vec![("10.0.0.5".parse().unwrap(), subnet("10.0.0.0/24", "10.0.0.1", true))]),
                link("b", 2, vec![("10.1.0.5".parse().unwrap(), subnet("10.1.0.0/16", "10.1.0.1", false))]),
            ],
            disks: vec![crate::metadata::GuestDisk {
                serial: "v-1".into(),
                path: Some("/dev/vdb".into()),
                tag: "data".into(),
            }],
            ..GuestData::default()
        };
        let devices = meta_data(&guest)["devices"].clone();
        assert_eq!(devices[0]["tags"], json!(["db"]), "the card without a tag is left out");
        assert_eq!(devices[0]["mac"], "02:00:00:00:00:02");
        assert_eq!((&devices[1]["serial"], &devices[1]["path"]), (&json!("v-1"), &json!("/dev/vdb")));
        assert_eq!(devices.as_array().map(Vec::len), Some(2));
        assert!(meta_data(&guest).get("files").is_none() && find("content/0000", &guest).is_none());
        let data = network_data(&guest);
        assert_eq!(data["links"][1]["ethernet_mac_address"], "02:00:00:00:00:02");
        assert_eq!((&data["links"][1]["vif_id"], &data["links"][1]["mtu"]), (&json!("b"), &json!(1450)));
        assert_eq!(data["networks"][0]["type"], "ipv4_dhcp");
        let fixed = &data["networks"][1];
        assert_eq!((&fixed["link"], &fixed["network_id"]), (&json!("port1"), &json!("of-b")));
        assert_eq!((&fixed["ip_address"], &fixed["netmask"]), (&json!("10.1.0.5"), &json!("255.255.0.0")));
        assert_eq!(
            fixed["routes"],
            json!([
                {"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": "10.1.0.1"},
                {"network": "10.9.0.0", "netmask": "255.255.0.0", "gateway": "10.1.0.9"},
            ])
        );
        assert_eq!(data["services"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn addresses_of_ipv6_are_told_by_what_tells_guests_of_them() {
        let told = |advertised, assigned| {
            let mut view = crate::view::sample6();
            let mut subnet = view.config.subnets6.remove(0);
            (subnet.advertised, subnet.assigned) = (advertised, assigned);
            let link = GuestLink {
                id: "a".into(),
                mac: crate::types::Mac([2, 0, 0, 0, 0, 7]),
                mtu: 1450,
                network: "n".into(),
                addresses: vec![],
                addresses6: vec![("2001:db8::7".parse().unwrap(), subnet)],
                tag: None,
            };
            network_data(&GuestData { links: vec![link], ..GuestData::default() })["networks"][0].clone()
        };
        let (slaac, stateful) = (Some(AddressMode::Slaac), Some(AddressMode::Stateful));
        let stateless = Some(AddressMode::Stateless);
        assert_eq!(told(slaac, slaac)["type"], "ipv6_slaac");
        assert_eq!(told(stateful, stateful)["type"], "ipv6_dhcpv6-stateful");
        assert_eq!(told(stateless, stateless)["type"], "ipv6_dhcpv6-stateless");
        assert!(told(slaac, slaac).get("ip_address").is_none());
        let fixed = told(None, None);
        assert_eq!((&fixed["type"], &fixed["ip_address"]), (&json!("ipv6"), &json!("2001:db8::7")));
        assert_eq!(fixed["netmask"], "ffff:ffff:ffff:ffff::");
        let default = json!([{"network": "::", "netmask": "::", "gateway": "2001:db8::1"}]);
        assert_eq!(fixed["routes"], default);
    }
}
