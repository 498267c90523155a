//! The disks of a machine as QEMU knows them: names, block nodes, and the slots that volumes are plugged into.

use serde_json::{Value, json};

use crate::{Disk, DiskFormat, DiskLimits};

/// Most volumes beside the root disk: so many PCIe ports a machine has that a device may be plugged into while it runs.
pub(crate) const SLOTS: usize = 8;
/// The id of the root disk's device.
pub(crate) const ROOT_DEVICE: &str = "root";
/// Before a volume's id in the id of its device.
const DEVICE: &str = "vol-";
/// Longest serial number of a virtio disk.
const SERIAL: usize = 20;

/// One disk's place: the root disk's, or a slot's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The disk that the guest boots from.
    Root,
    /// A slot for a volume, below [`SLOTS`].
    Slot(usize),
}

impl Place {
    /// The name of the block node that the device reads and writes.
    pub(crate) fn node(self) -> String {
        match self {
            Place::Root => "disk".to_owned(),
            Place::Slot(slot) => format!("vol{slot}"),
        }
    }

    /// The set of descriptors with the disk's file; that of its base image is the next.
    pub(crate) fn set(self) -> usize {
        match self {
            Place::Root => 1,
            Place::Slot(slot) => 10 + 2 * slot,
        }
    }

    /// The block nodes from the bottom up; each is named.
    pub(crate) fn nodes(self, disk: &Disk, read_only: bool) -> Vec<Value> {
        let base = disk.base.as_ref().map(|base| base.format);
        let (node, set) = (self.node(), self.set());
        let mut nodes = Vec::with_capacity(4);
        if let Some(format) = base {
            nodes.push(json!({
                "driver": "file", "node-name": format!("{node}-base-file"), "filename": format!("/dev/fdset/{}", set + 1),
                "read-only": true,
            }));
            let mut reader = json!({
                "driver": "raw", "node-name": format!("{node}-base"), "file": format!("{node}-base-file"), "read-only": true,
            });
            if format == DiskFormat::Qcow2 {
                reader["driver"] = json!("qcow2");
                reader["backing"] = Value::Null;
            }
            nodes.push(reader);
        }
        nodes.push(json!({
            "driver": "file", "node-name": format!("{node}-file"), "filename": format!("/dev/fdset/{set}"),
            "discard": "unmap",
        }));
        let mut top = json!({
            "driver": "raw", "node-name": node, "file": format!("{node}-file"), "discard": "unmap",
        });
        if disk.format == DiskFormat::Qcow2 {
            top["driver"] = json!("qcow2");
            top["backing"] = json!(base.map(|_| format!("{node}-base")));
        }
        nodes.push(top);
        if read_only {
            for node in nodes.iter_mut().rev().take(2) {
                node["read-only"] = json!(true);
            }
        }
        nodes
    }

    /// Names of the nodes that there may be, from the top down: the order in which they can be removed.
    pub(crate) fn node_names(self) -> [String; 4] {
        ["", "-file", "-base", "-base-file"].map(|part| format!("{}{part}", self.node()))
    }
}

/// The name of the port of a slot.
pub(crate) fn port(slot: usize) -> String {
    format!("port{slot}")
}

/// The id of a volume's device.
pub(crate) fn device(volume: &str) -> String {
    format!("{DEVICE}{volume}")
}

/// The arguments of a volume's device. Guests find it by its serial number, `/dev/disk/by-id/virtio-SERIAL`.
pub(crate) fn device_arguments(volume: &str, serial: &str, slot: usize) -> Value {
    let serial: String =
        serial.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(SERIAL).collect();
    json!({
        "driver": "virtio-blk-pci", "id": device(volume), "bus": port(slot), "drive": Place::Slot(slot).node(),
        "serial": serial,
    })
}

/// The arguments of `block_set_io_throttle` for a device; `None` where there is no limit.
pub(crate) fn throttle(device: &str, limits: DiskLimits) -> Option<Value> {
    let (bytes, requests) = (limits.bytes, limits.requests);
    (limits != DiskLimits::default()).then(|| {
        json!({
            // The device that has the disk: the card that it is plugged in with is another.
            "id": format!("/machine/peripheral/{device}/virtio-backend"), "bps": bytes[0], "bps_rd": bytes[1], "bps_wr": bytes[2],
            "iops": requests[0], "iops_rd": requests[1], "iops_wr": requests[2],
        })
    })
}

/// The slots that are taken in an answer to `query-block`, and the id of the volume in each: none where its device has gone, and QEMU is about
/// to let go of its disk.
pub(crate) fn attached(answer: &Value) -> Vec<(Option<String>, usize)> {
    let devices = answer.as_array().into_iter().flatten();
    let taken = devices.filter_map(|device| {
        // `/machine/peripheral/vol-ID/virtio-backend`
        let path = device["qdev"].as_str().unwrap_or_default();
        let id = path.split('/').find_map(|part| part.strip_prefix(DEVICE));
        // While a disk is copied, what copies it is on top of it: see `over`.
        let node = device["inserted"]["node-name"].as_str()?.strip_prefix("vol")?;
        let slot = node.split('-').next()?.parse().ok()?;
        Some((id.map(str::to_owned), slot))
    });
    taken.filter(|(_, slot)| *slot < SLOTS).collect()
}

/// The name of what is put over a disk while it is copied.
pub(crate) fn over(place: Place) -> String {
    format!("{}-copying", place.node())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Base;

    #[test]
    fn nodes_are_named_by_their_place_and_name_no_path() {
        let base = Base { path: "/base".into(), format: DiskFormat::Qcow2 };
        let disk = |format, base| Disk { path: "/disk".into(), format, base };
        let nodes = Place::Slot(2).nodes(&disk(DiskFormat::Qcow2, Some(base)), true);
        let names: Vec<&str> = nodes.iter().filter_map(|node| node["node-name"].as_str()).collect();
        let mut down = Place::Slot(2).node_names();
        down.reverse();
        assert_eq!(names, ["vol2-base-file", "vol2-base", "vol2-file", "vol2"]);
        assert_eq!(down, ["vol2-base-file", "vol2-base", "vol2-file", "vol2"]);
        assert_eq!(nodes[0]["filename"], "/dev/fdset/15");
        assert_eq!(nodes[3]["backing"], "vol2-base");
        assert!(nodes.iter().all(|node| node["read-only"] == true));
        let empty = Place::Root.nodes(&disk(DiskFormat::Qcow2, None), false);
        assert_eq!((empty.len(), &empty[1]["backing"]), (2, &Value::Null));
        assert!(empty.iter().all(|node| node.get("read-only").is_none()));
        let limits = DiskLimits { requests: [0, 100, 0], ..DiskLimits::default() };
        assert_eq!(throttle("vol-u", limits).unwrap()["iops_rd"], 100);
        assert_eq!(throttle("vol-u", DiskLimits::default()), None);
        let plain = Place::Root.nodes(&disk(DiskFormat::Raw, None), false);
        assert_eq!((plain.len(), &plain[1]["driver"], plain[1].get("backing")), (2, &json!("raw"), None));
    }

    #[test]
    fn volumes_are_found_in_qemus_words() {
        let answer = json!([
            {"device": "", "qdev": "/machine/peripheral-anon/device[8]/virtio-backend", "inserted": {"node-name": "disk"}},
            {"device": "", "qdev": "/machine/peripheral/vol-1f-2e/virtio-backend", "inserted": {"node-name": "vol3"}},
            {"device": "", "qdev": "/machine/peripheral/vol-x/virtio-backend", "inserted": {"node-name": "vol99"}},
            {"device": "", "qdev": "/machine/peripheral/vol-y/virtio-backend", "inserted": {"node-name": over(Place::Slot(1))}},
            {"device": "", "inserted": {"node-name": "vol0"}},
        ]);
        assert_eq!(attached(&answer), [(Some("1f-2e".to_owned()), 3), (Some("y".to_owned()), 1), (None, 0)]);
        assert_eq!(
            device_arguments("u", "0123456789abcdef01234567,x=y", 0)["serial"],
            "0123456789abcdef0123"
        );
    }
}
