//! Neutron: networks that other projects may use.

use kube::api::{Api as Objects, Patch, PatchParams};
use serde_json::{Value, json};
use yunfan_resources::network::{Network, Port};

use super::outer::{ROUTERS, SUBNETS};
use super::{PORTS, kind, lan};
use crate::support::client::{Client, flavor, image, tenant, text, wait_for};
use crate::support::{PASSWORD, start};

const NETWORKS: &str = "/network/v2.0/networks";
const POLICIES: &str = "/network/v2.0/rbac-policies";
const SERVERS: &str = "/compute/v2.1/servers";

fn for_project(network: &str, project: &str) -> Value {
    json!({"rbac_policy": {"object_type": "network", "object_id": network, "action": "access_as_shared",
        "target_tenant": project}})
}

#[tokio::test]
async fn a_network_is_shared_with_a_project_that_has_ports_on_it() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (owner, mine) = tenant(&cloud, &admin, "owner").await;
    let (guest, theirs) = tenant(&cloud, &admin, "guest").await;
    let (stranger, _) = tenant(&cloud, &admin, "stranger").await;
    let net = lan(&owner).await;
    let at = format!("{NETWORKS}/{net}");
    let subnet = owner.get(&format!("{SUBNETS}?network_id={net}")).await["subnets"][0]["id"].clone();
    let new = json!({"port": {"network_id": net, "name": "p"}});
    assert_eq!(kind(&guest.must(404, "GET", &at, Value::Null).await), "NetworkNotFound");
    assert_eq!(kind(&guest.must(404, "POST", PORTS, new.clone()).await), "NetworkNotFound");

    let policy = owner.must(201, "POST", POLICIES, for_project(&net, &theirs)).await["rbac_policy"].clone();
    assert_eq!((&policy["project_id"], &policy["target_tenant"]), (&json!(mine), &json!(theirs)));
    let twice = owner.must(409, "POST", POLICIES, for_project(&net, &theirs)).await;
    assert_eq!(kind(&twice), "DuplicateRbacPolicy");
    let own = format!("{POLICIES}/{}", text(&policy["id"]));
    assert_eq!(owner.get(&own).await["rbac_policy"], policy);
    assert_eq!(kind(&guest.must(404, "GET", &own, Value::Null).await), "RbacPolicyNotFound");
    assert_eq!(owner.get(&at).await["network"]["shared"], false, "it is shared with others");
    let seen = guest.get(&at).await["network"].clone();
    assert_eq!((&seen["shared"], &seen["project_id"]), (&json!(true), &json!(mine)));
    assert_eq!(seen["subnets"], json!([subnet]));
    assert_eq!(
        guest.get(&format!("{NETWORKS}?shared=True")).await["networks"].as_array().map(Vec::len),
        Some(1)
    );
    assert_eq!(
        guest.get(&format!("{SUBNETS}/{}", text(&subnet))).await["subnet"]["network_id"],
        net.as_str()
    );
    assert_eq!(stranger.get(NETWORKS).await["networks"], json!([]));
    // To use it is not to change it.
    guest.must(403, "PUT", &at, json!({"network": {"name": "mine"}})).await;
    guest.must(403, "DELETE", &at, Value::Null).await;
    let range = json!({"subnet": {"network_id": net, "cidr": "10.4.0.0/24"}});
    guest.must(403, "POST", SUBNETS, range).await;

    let first = owner.must(201, "POST", PORTS, new.clone()).await["port"].clone();
    let wanted = json!({"port": {"network_id": net, "fixed_ips": [{"subnet_id": subnet}]}});
    let port = guest.must(201, "POST", PORTS, wanted).await["port"].clone();
    assert_eq!((&port["project_id"], &port["network_id"]), (&json!(theirs), &json!(net)));
    assert_eq!(port["fixed_ips"][0]["subnet_id"], subnet);
    assert_ne!(port["fixed_ips"][0]["ip_address"], first["fixed_ips"][0]["ip_address"]);
    let same = json!({"port": {"network_id": net,
        "fixed_ips": [{"ip_address": first["fixed_ips"][0]["ip_address"]}]}});
    assert_eq!(kind(&guest.must(409, "POST", PORTS, same).await), "IpAddressAlreadyAllocated");
    let router = guest.must(201, "POST", ROUTERS, json!({"router": {}})).await["router"].clone();
    let joins = format!("{ROUTERS}/{}/add_router_interface", text(&router["id"]));
    guest.must(404, "PUT", &joins, json!({"subnet_id": subnet})).await;
    let taken = guest.ask("PUT", &joins, json!({"port_id": port["id"]})).await;
    assert!([400, 422].contains(&taken.status), "a router joins its own project's networks: {}", taken.body);
    // What protects the others on the network from its port is not the guest's to take away; the owner's is the owner's.
    let open = json!({"port_security_enabled": false, "security_groups": []});
    let pairs = json!({"allowed_address_pairs": [{"ip_address": "0.0.0.0/0"}]});
    let at_port = |port: &Value| format!("{PORTS}/{}", text(&port["id"]));
    for change in [open.clone(), pairs] {
        guest.must(403, "PUT", &at_port(&port), json!({"port": change})).await;
    }
    let unsafe_port = json!({"port": {"network_id": net, "port_security_enabled": false}});
    guest.must(403, "POST", PORTS, unsafe_port).await;
    owner.must(200, "PUT", &at_port(&first), json!({"port": open})).await;
    // Past the doors the same holds, and what is used is not lost.
    let ports = Objects::<Port>::namespaced(cloud.system.clone(), "stranger");
    let sneaky: Port =
        serde_json::from_value(json!({"metadata": {"name": "x"}, "spec": {"network": "owner/lan"}})).unwrap();
    let refused = ports.create(&Default::default(), &sneaky).await.unwrap_err().to_string();
    assert!(refused.contains("shared with the project"), "{refused}");
    assert_eq!(kind(&owner.must(409, "DELETE", &own, Value::Null).await), "RbacPolicyInUse");
    let networks = Objects::<Network>::namespaced(cloud.system.clone(), "owner");
    let none = Patch::Merge(json!({"spec": {"sharedWith": null}}));
    let kept = networks.patch("lan", &PatchParams::default(), &none).await.unwrap_err().to_string();
    assert!(kept.contains("no longer be shared"), "{kept}");
    owner.must(204, "DELETE", &format!("{PORTS}/{}", text(&first["id"])), Value::Null).await;
    assert_eq!(kind(&owner.must(409, "DELETE", &at, Value::Null).await), "NetworkInUse");
    guest.must(204, "DELETE", &format!("{PORTS}/{}", text(&port["id"])), Value::Null).await;
    owner.must(204, "DELETE", &own, Value::Null).await;
    guest.must(404, "GET", &at, Value::Null).await;
    owner.must(204, "DELETE", &at, Value::Null).await;
}

#[tokio::test]
async fn an_admin_shares_a_network_with_all_and_servers_are_on_it() {
    let cloud = start("https://cloud").await;
    let admin = Client::new(&cloud, "admin", PASSWORD, "admin").await;
    let (guest, project) = tenant(&cloud, &admin, "guest").await;
    let body = json!({"network": {"name": "common", "shared": true}});
    guest.must(403, "POST", NETWORKS, body.clone()).await;
    let net = admin.must(201, "POST", NETWORKS, body).await["network"].clone();
    assert_eq!(net["shared"], true);
    let at = format!("{NETWORKS}/{}", text(&net["id"]));
    let range = json!({"subnet": {"network_id": net["id"], "cidr": "10.5.0.0/24"}});
    admin.must(201, "POST", SUBNETS, range).await;
    assert_eq!(guest.get(&at).await["network"]["shared"], true);
    let own = lan(&guest).await;
    guest.must(403, "POST", POLICIES, for_project(&own, "*")).await;
    guest
        .must(
            400,
            "POST",
            POLICIES,
            json!({"rbac_policy": {"object_type": "network", "object_id": own,
        "action": "access_as_external", "target_tenant": project}}),
        )
        .await;
    guest
        .must(
            400,
            "POST",
            POLICIES,
            json!({"rbac_policy": {"object_type": "security_group", "object_id": own,
        "action": "access_as_shared", "target_tenant": project}}),
        )
        .await;

    let (image, flavor) = (image(&guest).await, flavor(&admin).await);
    let server = json!({"server": {"name": "vm", "imageRef": image, "flavorRef": flavor,
        "networks": [{"uuid": net["id"]}]}});
    let made = guest.must(202, "POST", SERVERS, server).await["server"]["id"].clone();
    let path = format!("{SERVERS}/{}", text(&made));
    wait_for(&guest, &path, "server", "ACTIVE").await;
    let ports = guest.get(&format!("{PORTS}?device_id={}", text(&made))).await["ports"].clone();
    assert_eq!((&ports[0]["network_id"], &ports[0]["project_id"]), (&net["id"], &json!(project)));
    let shown = guest.get(&format!("{path}/os-interface")).await["interfaceAttachments"][0].clone();
    assert_eq!(shown["net_id"], net["id"]);
    assert!(shown["fixed_ips"][0]["subnet_id"].is_string(), "{shown}");
    let private = json!({"network": {"shared": false}});
    assert_eq!(kind(&admin.must(409, "PUT", &at, private.clone()).await), "InvalidSharedSetting");
    guest.must(204, "DELETE", &path, Value::Null).await;
    for round in 0.. {
        if guest.get(PORTS).await["ports"]
            .as_array()
            .is_some_and(|all| all.iter().all(|it| it["network_id"] != net["id"]))
        {
            break;
        }
        assert!(round < 300, "the server's port stays");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(admin.must(200, "PUT", &at, private).await["network"]["shared"], false);
    guest.must(404, "GET", &at, Value::Null).await;
}
