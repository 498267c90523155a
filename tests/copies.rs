//! Images and volumes with the real client: bytes come back as they went in, through a volume, its snapshot, a volume of that, and an
//! image of that.
#![forbid(unsafe_code)]

use yunfan_tests::{Cloud, Tenant, seconds, until};

/// Bytes of the disk.
const SIZE: usize = 8 << 20;

#[test]
fn bytes_come_back_as_they_went_in() {
    let cloud = Cloud::start();
    let acme = Tenant::create(&cloud, "acme");
    let source = cloud.work().join("source.raw");
    std::fs::write(&source, noise()).expect("a disk");
    acme.image("source", "raw", &source.to_string_lossy());
    assert!(download(&cloud, &acme, "source") == noise(), "the image is not what was uploaded");

    acme.openstack(&["volume", "create", "--size", "1", "--image", "source", "first"]).ok();
    becomes(&acme, "volume", "first", "available");
    acme.openstack(&["volume", "snapshot", "create", "--volume", "first", "before"]).ok();
    becomes(&acme, "volume snapshot", "before", "available");
    let refused = acme.openstack(&["volume", "delete", "first"]);
    assert!(refused.refused().contains("dependent snapshots"), "{refused}");
    acme.openstack(&["volume", "create", "--snapshot", "before", "second"]).ok();
    becomes(&acme, "volume", "second", "available");
    acme.openstack(&["volume", "create", "--source", "second", "third"]).ok();
    becomes(&acme, "volume", "third", "available");
    let told = acme.kubectl(&["get", "volumesnapshots"]).ok();
    assert!(told.contains("Available"), "{told}");

    // What it was made from may go.
    acme.openstack(&["volume", "delete", "--purge", "first"]).ok();
    gone(&acme, "first");
    acme.openstack(&["volume", "delete", "second"]).ok();
    gone(&acme, "second");
    let refused = acme.openstack(&["image", "delete", "source"]);
    assert!(refused.refused().contains("in use"), "{refused}");
    acme.openstack(&["image", "create", "--volume", "third", "--disk-format", "raw", "copied"]).ok();
    becomes(&acme, "image", "copied", "active");
    let copied = download(&cloud, &acme, "copied");
    assert_eq!(copied.len(), 1 << 30, "as large as the volume");
    assert!(copied[..SIZE] == noise()[..], "the copy of the copy is not what the first held");
    assert!(copied[SIZE..].iter().all(|byte| *byte == 0));
    acme.openstack(&["volume", "delete", "third"]).ok();
    gone(&acme, "third");
    acme.openstack(&["image", "delete", "source", "copied"]).ok();
}

/// The same bytes each time, which no compression and no hole makes less.
fn noise() -> Vec<u8> {
    let mut seed = 7_u32;
    let next = |_| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 24) as u8
    };
    (0..SIZE).map(next).collect()
}

fn download(cloud: &Cloud, acme: &Tenant, name: &str) -> Vec<u8> {
    let file = cloud.work().join("back.raw");
    acme.openstack(&["image", "save", "--file", &file.to_string_lossy(), name]).ok();
    let bytes = std::fs::read(&file).expect("the downloaded image");
    std::fs::remove_file(&file).expect("it is removed");
    bytes
}

fn becomes(acme: &Tenant, what: &str, name: &str, status: &str) {
    until(&format!("{what} {name} is {status}"), seconds(120), || {
        let words: Vec<&str> = what.split(' ').chain(["show", name, "-f", "value", "-c", "status"]).collect();
        let shown = acme.openstack(&words);
        if shown.stdout.trim() == status { Ok(()) } else { Err(shown.to_string()) }
    });
}

fn gone(acme: &Tenant, volume: &str) {
    until(&format!("volume {volume} is gone"), seconds(60), || {
        let shown = acme.openstack(&["volume", "show", volume]);
        if shown.succeeded() { Err(shown.to_string()) } else { Ok(()) }
    });
}
