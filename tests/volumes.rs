//! Volumes and placement with the real clients and real machines: a volume comes into a running guest and goes again, a machine
//! boots from one, and the numbers of placement follow.
#![forbid(unsafe_code)]

use serde_json::Value;
use yunfan_tests::{Cloud, Ran, Tenant, empty_disk, guest_disk, seconds};

/// What the guest runs: it tells of each disk beside the one that it booted from, whenever that changes.
const USER_DATA: &str = "#!/bin/sh
before=
while :; do
    now=
    for disk in /sys/block/vd[b-z]; do
        [ -e \"$disk\" ] || continue
        now=\"$now ${disk##*/}:$(cat $disk/serial):$(cat $disk/size)\"
    done
    [ \"$now\" = \"$before\" ] || echo \"disks:${now:- none}\"
    before=$now
    sleep 1
done
";

#[test]
fn volumes_come_and_go_and_machines_boot_from_them() {
    let cloud = Cloud::start();
    let acme = tenant(&cloud);
    let before = usages(&cloud);
    a_volume(&acme);
    assert_eq!(
        used(&usages(&cloud), "DISK_GB"),
        used(&before, "DISK_GB") + 1,
        "a volume takes of its node's disk"
    );
    machine(&cloud, &acme);
    let during = usages(&cloud);
    assert_eq!(used(&during, "VCPU"), used(&before, "VCPU") + 1);
    // The flavor's memory, and QEMU's own.
    assert_eq!(used(&during, "MEMORY_MB"), used(&before, "MEMORY_MB") + 192 + 64);
    in_and_out(&cloud, &acme);
    over_quota(&cloud, &acme);
    boot_from_volume(&cloud, &acme);
    acme.openstack(&["server", "delete", "--wait", "box"]).ok();
    acme.openstack(&["volume", "delete", "data"]).ok();
    cloud.until("placement's numbers are what they were", seconds(30), || {
        let now = usages(&cloud);
        if now == before { Ok(()) } else { Err(format!("{now} instead of {before}")) }
    });
}

fn tenant(cloud: &Cloud) -> Tenant {
    let acme = Tenant::create(cloud, "acme");
    cloud.openstack(&["quota", "set", "--volumes", "3", "--gigabytes", "5", "acme"]).ok();
    cloud.openstack(&["volume", "type", "create", "plain"]).ok();
    cloud.openstack(&["flavor", "create", "--vcpus", "1", "--ram", "192", "--disk", "1", "acme.tiny"]).ok();
    acme.network("lan", "10.78.0.0/24");
    let kinds = acme.openstack(&["volume", "type", "list", "-f", "json"]).json();
    assert_eq!(kinds[0]["Name"], "plain", "{kinds}");
    for (name, file) in [("os", guest_disk().to_owned()), ("empty", empty_disk(cloud.work()))] {
        acme.image(name, "qcow2", &file);
    }
    acme
}

/// What placement says is used of the one node.
fn usages(cloud: &Cloud) -> Value {
    let providers = cloud.openstack(&["resource", "provider", "list", "-f", "json"]).json();
    let uuid = providers[0]["uuid"].as_str().expect("a resource provider").to_owned();
    let inventories =
        cloud.openstack(&["resource", "provider", "inventory", "list", &uuid, "-f", "json"]).json();
    let classes: Vec<&str> = inventories
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["resource_class"].as_str())
        .collect();
    assert!(["VCPU", "MEMORY_MB", "DISK_GB"].iter().all(|class| classes.contains(class)), "{inventories}");
    cloud.openstack(&["resource", "provider", "usage", "show", &uuid, "-f", "json"]).json()
}

fn used(usages: &Value, class: &str) -> i64 {
    let rows = usages.as_array().into_iter().flatten();
    let row = rows.into_iter().find(|row| row["resource_class"] == class);
    row.and_then(|row| row["usage"].as_i64()).unwrap_or_else(|| panic!("no {class} in {usages}"))
}

fn a_volume(acme: &Tenant) {
    acme.openstack(&["volume", "create", "--size", "1", "--type", "plain", "new"]).ok();
    becomes(acme, "new", "available");
    acme.openstack(&["volume", "set", "--name", "data", "--property", "of=acme", "new"]).ok();
    let shown = acme.openstack(&["volume", "show", "data", "-f", "json"]).json();
    assert_eq!(
        (&shown["properties"]["of"], &shown["type"]),
        (&Value::from("acme"), &Value::from("plain")),
        "{shown}"
    );
    let limits = acme.openstack(&["limits", "show", "--absolute", "-f", "json"]).json();
    let limit = |name: &str| {
        let rows = limits.as_array().into_iter().flatten();
        rows.into_iter().find(|row| row["Name"] == name).and_then(|row| row["Value"].as_i64())
    };
    assert_eq!((limit("total_volumes_used"), limit("max_total_volumes")), (Some(1), Some(3)), "{limits}");
    let listed = acme.openstack(&["volume", "list", "-f", "json"]).json();
    assert_eq!((&listed[0]["Name"], &listed[0]["Size"]), (&Value::from("data"), &Value::from(1)), "{listed}");
    // Its object keeps the name that it was made with.
    let told = acme.kubectl(&["get", "volumes", "new"]).ok();
    assert!(told.contains("Available"), "{told}");
}

fn becomes(acme: &Tenant, volume: &str, status: &str) {
    yunfan_tests::until(&format!("volume {volume} is {status}"), seconds(60), || {
        let shown = acme.openstack(&["volume", "show", volume, "-f", "value", "-c", "status"]);
        if shown.stdout.trim() == status { Ok(()) } else { Err(shown.to_string()) }
    });
}

fn machine(cloud: &Cloud, acme: &Tenant) {
    let user_data = cloud.work().join("user-data").to_string_lossy().into_owned();
    std::fs::write(&user_data, USER_DATA).expect("user data");
    let plain = ["server", "create", "--network", "lan", "--image", "os", "--flavor", "acme.tiny"];
    let created = acme.openstack(&[&plain[..], &["--user-data", &user_data, "--wait", "box"]].concat());
    assert!(created.succeeded(), "{created}\n{}", cloud.log_tail());
    console_says(cloud, acme, "box", "running user-data");
}

fn console_says(cloud: &Cloud, acme: &Tenant, server: &str, what: &str) {
    cloud.until(&format!("the console of {server} says {what:?}"), seconds(180), || {
        let console = acme.openstack(&["console", "log", "show", server]);
        if console.stdout.contains(what) { Ok(()) } else { Err(console.to_string()) }
    });
}

/// A volume in a running guest: attached, extended, detached.
fn in_and_out(cloud: &Cloud, acme: &Tenant) {
    let id = acme.openstack(&["volume", "show", "data", "-f", "value", "-c", "id"]).ok();
    let serial = &id[..20];
    acme.openstack(&["server", "add", "volume", "box", "data"]).ok();
    becomes(acme, "data", "in-use");
    // 1 GiB in sectors.
    console_says(cloud, acme, "box", &format!("disks: vdb:{serial}:2097152"));
    let refused = acme.openstack(&["volume", "delete", "data"]);
    assert!(refused.refused().contains("in-use"), "{refused}");
    let refused = acme.kubectl(&["delete", "volume", "new", "--wait=false"]);
    assert!(refused.refused().contains("attached to virtual machine box"), "{refused}");
    acme.openstack(&["--os-volume-api-version", "3.42", "volume", "set", "--size", "2", "data"]).ok();
    console_says(cloud, acme, "box", &format!("disks: vdb:{serial}:4194304"));
    acme.openstack(&["server", "remove", "volume", "box", "data"]).ok();
    becomes(acme, "data", "available");
    console_says(cloud, acme, "box", "disks: none");
}

fn over_quota(cloud: &Cloud, acme: &Tenant) {
    let refused = acme.openstack(&["volume", "create", "--size", "4", "large"]);
    assert!(refused.refused().contains("Requested 4, but already used 2 of 5"), "{refused}");
    cloud.openstack(&["quota", "set", "--gigabytes", "20", "acme"]).ok();
}

fn boot_from_volume(cloud: &Cloud, acme: &Tenant) {
    acme.openstack(&["volume", "create", "--size", "1", "--image", "os", "--bootable", "root"]).ok();
    becomes(acme, "root", "available");
    let plain = ["server", "create", "--network", "lan", "--flavor", "acme.tiny"];
    let create = |more: &[&str]| -> Ran { acme.openstack(&[&plain[..], more, &["--wait"]].concat()) };
    let created = create(&["--volume", "root", "fromvolume"]);
    assert!(created.succeeded(), "{created}\n{}", cloud.log_tail());
    console_says(cloud, acme, "fromvolume", "up after");
    let refused = acme.openstack(&["server", "remove", "volume", "fromvolume", "root"]);
    assert!(refused.refused().contains("root device"), "{refused}");
    acme.openstack(&["server", "delete", "--wait", "fromvolume"]).ok();
    becomes(acme, "root", "available");
    acme.openstack(&["volume", "delete", "root"]).ok();
    // One that Nova makes stays, unless it was said to go with its server.
    let created = create(&["--image", "empty", "--boot-from-volume", "1", "made"]);
    assert!(created.succeeded(), "{created}\n{}", cloud.log_tail());
    let shown = acme.openstack(&["server", "show", "made", "-f", "json"]).json();
    let attached = &shown["volumes_attached"][0];
    let id = attached["id"].as_str().unwrap_or_else(|| panic!("no volume: {shown}")).to_owned();
    acme.openstack(&["server", "delete", "--wait", "made"]).ok();
    becomes(acme, &id, "available");
    acme.openstack(&["volume", "delete", &id]).ok();
}
