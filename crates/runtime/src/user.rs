//! Who a container runs as: the image's `USER` line and the caller's wish become numbers.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Result, RuntimeError};
use crate::types::{ContainerConfig, RunUser};

/// A larger passwd or group file is not read.
const LARGEST_FILE: u64 = 1 << 20;

/// Decides the user. `layers` are the image's directories, lowest first; they are read when names must be looked up.
pub(crate) fn resolve(config: &ContainerConfig, image: &str, layers: &[PathBuf]) -> Result<RunUser> {
    let (user, group) = match image.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (image, None),
    };
    let passwd = || lookup(layers, "etc/passwd");
    let (uid, own_gid) = match config.run_as_user {
        Some(uid) => (uid, gid_of(&passwd(), uid)),
        None if user.is_empty() => (0, Some(0)),
        None => match user.parse::<u32>() {
            Ok(uid) => (uid, gid_of(&passwd(), uid)),
            Err(_) => {
                let found = ids_of(&passwd(), user).ok_or_else(|| {
                    RuntimeError::invalid("user", format!("the image has no user {user:?}"))
                })?;
                (found.0, Some(found.1))
            }
        },
    };
    let gid = match (config.run_as_group, group) {
        (Some(gid), _) => gid,
        (None, Some(group)) if config.run_as_user.is_none() => match group.parse() {
            Ok(gid) => gid,
            Err(_) => group_id(&lookup(layers, "etc/group"), group)
                .ok_or_else(|| RuntimeError::invalid("user", format!("the image has no group {group:?}")))?,
        },
        _ => own_gid.unwrap_or(0),
    };
    if config.run_as_non_root {
        check_non_root(config, user, uid)?;
    }
    let mut groups = config.supplemental_groups.clone();
    if !config.strict_groups {
        groups.extend(groups_of(&passwd(), &lookup(layers, "etc/group"), uid));
    }
    // The kernel keeps the first group apart, but programs expect it among all.
    groups.insert(0, gid);
    let mut seen = std::collections::HashSet::new();
    groups.retain(|group| seen.insert(*group));
    Ok(RunUser { uid, gid, groups })
}

/// Refuses to run as root. A user that the image names could be root under another name, so that only numbers are believed.
///
/// # Errors
/// `NonRoot`, which says why.
pub fn check_non_root(config: &ContainerConfig, user: &str, uid: u32) -> Result<()> {
    let reason = match config.run_as_user {
        Some(0) => "container's runAsUser breaks non-root policy".to_owned(),
        Some(_) => return Ok(()),
        None if user.is_empty() || user == "0" => {
            "container has runAsNonRoot and image will run as root".to_owned()
        }
        None if user.parse::<u32>().is_err() => format!(
            "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root"
        ),
        None if uid == 0 => "container has runAsNonRoot and image will run as root".to_owned(),
        None => return Ok(()),
    };
    Err(RuntimeError::NonRoot(reason))
}

/// The groups that list the user with this id as a member.
fn groups_of(passwd: &str, group: &str, uid: u32) -> Vec<u32> {
    let found = lines(passwd).find(|fields| fields.get(2).and_then(|id| id.parse().ok()) == Some(uid));
    let Some(name) = found.and_then(|fields| fields.first().copied()) else { return Vec::new() };
    lines(group)
        .filter(|fields| fields.get(3).is_some_and(|members| members.split(',').any(|member| member == name)))
        .filter_map(|fields| fields.get(2)?.parse().ok())
        .collect()
}

fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    text.lines().map(|line| line.split(':').collect())
}

fn gid_of(passwd: &str, uid: u32) -> Option<u32> {
    lines(passwd)
        .find(|fields| fields.get(2).and_then(|id| id.parse().ok()) == Some(uid))
        .and_then(|fields| fields.get(3)?.parse().ok())
}

fn ids_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    lines(passwd)
        .find(|fields| fields.first() == Some(&name))
        .and_then(|fields| Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?)))
}

fn group_id(group: &str, name: &str) -> Option<u32> {
    lines(group).find(|fields| fields.first() == Some(&name)).and_then(|fields| fields.get(2)?.parse().ok())
}

/// Content of a file of the image as a container would see it; empty when there is none.
fn lookup(layers: &[PathBuf], path: &str) -> String {
    for layer in layers.iter().rev() {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let root = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(layer, root, Mode::empty()).and_then(|root| {
            // The layer is someone else's: its links must not lead out of it.
            rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
        });
        match opened {
            Ok(file) => {
                let regular = rustix::fs::fstat(&file)
                    .is_ok_and(|found| FileType::from_raw_mode(found.st_mode).is_file());
                let mut text = String::new();
                if regular {
                    let _ = File::from(file).take(LARGEST_FILE).read_to_string(&mut text);
                }
                return text;
            }
            // A whiteout (a device that can't be opened) hides what is below.
            Err(Errno::NXIO) => return String::new(),
            Err(_) => {}
        }
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_by_name_number_and_wish() {
        let dir = tempfile::tempdir().unwrap();
        let (low, high) = (dir.path().join("0"), dir.path().join("1"));
        std::fs::create_dir_all(low.join("etc")).unwrap();
        std::fs::create_dir_all(&high).unwrap();
        std::fs::write(low.join("etc/passwd"), "root:x:0:0::/:/sh\nweb:x:33:34::/:/sh\n").unwrap();
        std::fs::write(low.join("etc/group"), "staff:x:50:\nlog:x:60:root,web\n").unwrap();
        let layers = [low, high];
        let plain = ContainerConfig::default();
        let of = |config: &ContainerConfig, image: &str| {
            resolve(config, image, &layers).map(|user| (user.uid, user.gid))
        };
        assert_eq!(of(&plain, "").unwrap(), (0, 0));
        assert_eq!(of(&plain, "web").unwrap(), (33, 34));
        assert_eq!(of(&plain, "33").unwrap(), (33, 34));
        assert_eq!(of(&plain, "7:staff").unwrap(), (7, 50));
        assert!(of(&plain, "nobody").is_err());
        let wish = ContainerConfig { run_as_user: Some(5), run_as_non_root: true, ..plain.clone() };
        assert_eq!(of(&wish, "web:staff").unwrap(), (5, 0));
        let non_root = ContainerConfig { run_as_non_root: true, ..plain };
        assert!(of(&non_root, "").is_err());
        assert!(of(&non_root, "web").unwrap_err().to_string().contains("non-numeric user (web)"));
        assert_eq!(of(&non_root, "33").unwrap(), (33, 34));
        let groups = |config: &ContainerConfig, image: &str| resolve(config, image, &layers).unwrap().groups;
        let more = ContainerConfig { supplemental_groups: vec![7, 60], ..ContainerConfig::default() };
        assert_eq!(groups(&more, "web"), [34, 7, 60]);
        assert_eq!(groups(&ContainerConfig::default(), "33"), [34, 60]);
        assert_eq!(groups(&ContainerConfig { strict_groups: true, ..more }, "web"), [34, 7, 60]);
        assert_eq!(
            groups(&ContainerConfig { strict_groups: true, ..ContainerConfig::default() }, "web"),
            [34]
        );
    }
}
