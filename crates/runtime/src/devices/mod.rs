//! The node's devices, which privileged containers get, and what others may do with devices.

pub(crate) mod filter;

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

/// What a specification says of the devices that a container is given.
pub(crate) struct Given {
    /// Those that are made in its `/dev`: the OCI specification's `linux.devices`.
    pub(crate) made: Vec<Value>,
    /// What may be done with all of them: `linux.resources.devices`, for cgroup v1.
    pub(crate) rules: Vec<Value>,
}

/// The devices that a container is given.
///
/// # Errors
/// When one is no block device of this node.
pub(crate) fn given(devices: &[Device]) -> Result<Given> {
    let mut given = Given { made: Vec::new(), rules: Vec::new() };
    for device in devices {
        add(&mut given, device, number_of(&device.host_path)?);
    }
    Ok(given)
}

/// Major and minor number of a block device of the node.
fn number_of(path: &Path) -> Result<(u32, u32)> {
    let meta = std::fs::metadata(path).map_err(RuntimeError::io("look at", path))?;
    if !meta.file_type().is_block_device() {
        return Err(RuntimeError::invalid("devices", "must be block devices of the node"));
    }
    Ok((rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev())))
}

fn add(given: &mut Given, device: &Device, (major, minor): (u32, u32)) {
    // Root passes by a file's mode, but not by these.
    let access = if device.read_only { "r" } else { "rw" };
    let rule = json!({"allow": true, "type": "b", "major": major, "minor": minor, "access": access});
    given.rules.push(rule);
    if is_below_dev(device) {
        let mode = if device.read_only { 0o440 } else { 0o660 };
        given.made.push(json!({"path": device.container_path, "type": "b", "fileMode": mode,
            "uid": 0, "gid": 0, "major": major, "minor": minor}));
    }
}

/// The mounts of devices that a container is given elsewhere than in `/dev`, and where each is: libcontainer makes devices nowhere else.
pub(crate) fn bound(devices: &[Device]) -> impl Iterator<Item = (&Path, Value)> {
    devices.iter().filter(|device| !is_below_dev(device)).map(|device| {
        // Of the file alone: what is on the device the kernel lets be written also through a mount that is read-only.
        let access = if device.read_only { "ro" } else { "rw" };
        let mount = json!({"destination": device.container_path, "type": "bind", "source": device.host_path,
            "options": ["bind", "rprivate", "nosuid", "noexec", access]});
        (device.container_path.as_path(), mount)
    })
}

fn is_below_dev(device: &Device) -> bool {
    device.container_path.starts_with("/dev")
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
        let device = |path: &str, at: &str| Device {
            host_path: path.into(),
            container_path: at.into(),
            read_only: true,
        };
        let of = |path: &str| given(&[device(path, "/dev/x")]);
        assert!(of("/dev/null").err().unwrap().to_string().contains("must be block devices"));
        assert!(of("/dev/none").is_err());
        let mut found = Given { made: Vec::new(), rules: Vec::new() };
        for at in ["/dev/x", "/mnt/x"] {
            add(&mut found, &device("/dev/loop0", at), (7, 0));
        }
        assert_eq!((&found.made[0]["major"], &found.made[0]["fileMode"]), (&json!(7), &json!(0o440)));
        assert_eq!((found.made.len(), found.rules.len()), (1, 2));
        assert_eq!(found.rules[1]["access"], "r");
        let devices = [device("/dev/loop0", "/dev/x"), device("/dev/loop0", "/mnt/x")];
        let bound: Vec<_> = bound(&devices).collect();
        assert_eq!((bound.len(), bound[0].0), (1, Path::new("/mnt/x")));
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
