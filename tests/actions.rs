//! Nova's actions on a real guest, by the real client: halted, shelved, rescued, rebuilt, resized, and given another interface, with
//! what the guest itself says of it.
#![forbid(unsafe_code)]

use yunfan_tests::{Cloud, Tenant, guest_disk, seconds};

/// What the guest runs: it tells of its processors, interfaces and second disks, whenever that changes.
const USER_DATA: &str = "#!/bin/sh
before=
while :; do
    cpus=$(grep -c ^processor /proc/cpuinfo)
    nics=0
    for nic in /sys/class/net/eth*; do [ -e \"$nic\" ] && nics=$((nics + 1)); done
    disks=
    for disk in /sys/block/vd[b-z]; do [ -e \"$disk\" ] && disks=\"$disks $(cat $disk/serial)\"; done
    now=\"sees: cpus=$cpus nics=$nics disks=${disks:- none}\"
    [ \"$now\" = \"$before\" ] || echo \"$now\"
    before=$now
    sleep 1
done
";

#[test]
fn a_guest_goes_through_novas_actions() {
    let cloud = Cloud::start();
    let acme = Tenant::create(&cloud, "acme");
    for (name, cpus) in [("one", "1"), ("two", "2")] {
        cloud.openstack(&["flavor", "create", "--vcpus", cpus, "--ram", "192", "--disk", "1", name]).ok();
    }
    for (net, range) in [("lan", "10.79.0.0/24"), ("side", "10.80.0.0/24")] {
        acme.network(net, range);
    }
    acme.image("os", "qcow2", guest_disk());
    let user_data = cloud.work().join("user-data").to_string_lossy().into_owned();
    std::fs::write(&user_data, USER_DATA).expect("user data");
    let plain = ["server", "create", "--network", "lan", "--image", "os", "--flavor", "one"];
    let created = acme.openstack(&[&plain[..], &["--user-data", &user_data, "--wait", "box"]].concat());
    assert!(created.succeeded(), "{created}\n{}", cloud.log_tail());
    says(&cloud, &acme, "sees: cpus=1 nics=1 disks= none", 1);

    halted(&cloud, &acme);
    another_interface(&cloud, &acme);
    acme.openstack(&["server", "rescue", "box"]).ok();
    becomes(&cloud, &acme, "RESCUE");
    says(&cloud, &acme, "disks= rescued-root", 1);
    acme.openstack(&["server", "unrescue", "box"]).ok();
    becomes(&cloud, &acme, "ACTIVE");
    says(&cloud, &acme, "sees: cpus=1 nics=1 disks= none", 3);

    acme.openstack(&["server", "resize", "--flavor", "two", "box"]).ok();
    becomes(&cloud, &acme, "VERIFY_RESIZE");
    says(&cloud, &acme, "sees: cpus=2 nics=1 disks= none", 1);
    acme.openstack(&["server", "resize", "confirm", "box"]).ok();
    becomes(&cloud, &acme, "ACTIVE");

    acme.openstack(&["server", "rebuild", "--image", "os", "--wait", "box"]).ok();
    says(&cloud, &acme, "sees: cpus=2 nics=1 disks= none", 2);
    let events = acme.openstack(&["server", "event", "list", "box", "-f", "value", "-c", "Action"]).ok();
    for word in ["rebuild", "confirmResize", "resize", "unrescue", "rescue", "pause", "create"] {
        assert!(events.lines().any(|line| line.trim() == word), "no {word} in {events}");
    }
    acme.openstack(&["server", "delete", "--wait", "box"]).ok();
}

/// Paused, suspended, shelved, and back each time.
fn halted(cloud: &Cloud, acme: &Tenant) {
    for (there, status, back) in [
        ("pause", "PAUSED", "unpause"),
        ("suspend", "SUSPENDED", "resume"),
        ("shelve", "SHELVED_OFFLOADED", "unshelve"),
    ] {
        acme.openstack(&["server", there, "box"]).ok();
        becomes(cloud, acme, status);
        let wrong = acme.openstack(&["server", "pause", "box"]);
        assert!(!wrong.succeeded() && wrong.to_string().contains("Cannot 'pause' instance"), "{wrong}");
        acme.openstack(&["server", back, "box"]).ok();
        becomes(cloud, acme, "ACTIVE");
    }
    // Shelving shut it down and took it from its node, with what its console had said; it has booted again.
    says(cloud, acme, "sees: cpus=1 nics=1 disks= none", 1);
}

/// A second interface in the running guest, and out of it again.
fn another_interface(cloud: &Cloud, acme: &Tenant) {
    acme.openstack(&["server", "add", "network", "box", "side"]).ok();
    says(cloud, acme, "sees: cpus=1 nics=2 disks= none", 1);
    acme.openstack(&["server", "remove", "network", "box", "side"]).ok();
    cloud.until("the interface is gone", seconds(120), || {
        let ports = acme.openstack(&["port", "list", "--network", "side", "--server", "box", "-f", "value"]);
        if ports.stdout.trim().is_empty() { Ok(()) } else { Err(ports.to_string()) }
    });
    says(cloud, acme, "sees: cpus=1 nics=1 disks= none", 2);
}

fn becomes(cloud: &Cloud, acme: &Tenant, status: &str) {
    cloud.until(&format!("box is {status}"), seconds(180), || {
        let shown = acme.openstack(&["server", "show", "box", "-f", "value", "-c", "status"]);
        if shown.stdout.trim() == status { Ok(()) } else { Err(shown.to_string()) }
    });
}

/// Waits until the guest has said something so many times.
fn says(cloud: &Cloud, acme: &Tenant, what: &str, times: usize) {
    cloud.until(&format!("the console says {what:?} {times} times"), seconds(240), || {
        let console = acme.openstack(&["console", "log", "show", "box"]);
        if console.stdout.matches(what).count() >= times { Ok(()) } else { Err(console.to_string()) }
    });
}
