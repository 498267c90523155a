//! The node's devices, which privileged containers get.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::error::{Result, RuntimeError};
use crate::types::Device;

/// Directories of `/dev` that containers have of their own.
const OWN: [&str; 3] = ["pts", "shm", "mqueue"];
/// Devices that every container has anyway.
const STANDARD: [&str; 7] = ["null", "zero", "full", "random", "urandom", "tty", "console"];
/// More devices than this are not looked at: `/dev` is not that large.
const MOST: usize = 4096;

/// All devices below `/dev`, as the OCI specification's `linux.devices`.
pub(crate) fn of_host() -> Vec<Value> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), true, &mut found);
    found
}

/// The devices that a container is given, as the OCI specification's `linux.devices`.
///
/// # Errors
/// When one is no block device of this node.
pub(crate) fn given(devices: &[Device]) -> Result<Vec<Value>> {
    let one = |device: &Device| {
        let path = &device.host_path;
        let meta = std::fs::metadata(path).map_err(RuntimeError::io("look at", path))?;
        if !meta.file_type().is_block_device() {
            return Err(RuntimeError::invalid("devices", "must be block devices of the node"));
        }
        let number = meta.rdev();
        Ok(json!({
            "path": device.container_path, "type": "b", "fileMode": if device.read_only { 0o440 } else { 0o660 },
            "uid": 0, "gid": 0, "major": rustix::fs::major(number), "minor": rustix::fs::minor(number),
        }))
    };
    devices.iter().map(one).collect()
}

fn collect(dir: &Path, top: bool, found: &mut Vec<Value>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        // Of the entry itself: a link is none of ours.
        let Ok(meta) = entry.metadata() else { continue };
        let name = entry.file_name();
        let is = |list: &[&str]| top && list.iter().any(|known| name == *known);
        if meta.is_dir() {
            if !is(&OWN) {
                collect(&path, false, found);
            }
            continue;
        }
        let kind = match meta.file_type() {
            kind if kind.is_char_device() => "c",
            kind if kind.is_block_device() => "b",
            _ => continue,
        };
        if is(&STANDARD) || is(&["ptmx"]) || found.len() >= MOST {
            continue;
        }
        let number = meta.rdev();
        found.push(json!({
            "path": path, "type": kind, "fileMode": meta.mode() & 0o777, "uid": meta.uid(), "gid": meta.gid(),
            "major": rustix::fs::major(number), "minor": rustix::fs::minor(number),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_block_devices_are_given() {
        let device = |path: &str| {
            given(&[Device { host_path: path.into(), container_path: "/dev/x".into(), read_only: true }])
        };
        assert!(device("/dev/null").unwrap_err().to_string().contains("must be block devices"));
        assert!(device("/dev/none").is_err());
        // Where there is one at all.
        if Path::new("/dev/loop0").exists() {
            let found = device("/dev/loop0").unwrap();
            assert_eq!((&found[0]["major"], &found[0]["fileMode"]), (&json!(7), &json!(0o440)));
        }
    }

    #[test]
    fn devices_are_found_with_their_numbers() {
        let mut found = Vec::new();
        collect(Path::new("/dev"), false, &mut found);
        let null = found.iter().find(|device| device["path"] == "/dev/null").unwrap();
        assert_eq!((&null["type"], &null["major"], &null["minor"]), (&json!("c"), &json!(1), &json!(3)));
        assert!(of_host().iter().all(|device| device["path"] != "/dev/null"), "it would be made twice");
    }
}
