//! The node's devices, which privileged containers get.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::{Value, json};

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
    fn devices_are_found_with_their_numbers() {
        let mut found = Vec::new();
        collect(Path::new("/dev"), false, &mut found);
        let null = found.iter().find(|device| device["path"] == "/dev/null").unwrap();
        assert_eq!((&null["type"], &null["major"], &null["minor"]), (&json!("c"), &json!(1), &json!(3)));
        assert!(of_host().iter().all(|device| device["path"] != "/dev/null"), "it would be made twice");
    }
}
