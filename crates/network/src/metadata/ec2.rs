//! The paths that EC2 guests know: a tree of plain texts, where a directory lists its entries.

use super::GuestData;
use serde_json::{Map, Value, json};

/// The text at `path`, which has no leading slash; `None` = there is nothing.
pub(super) fn find(path: &str, guest: &GuestData) -> Option<Vec<u8>> {
    let path = path.trim_end_matches('/');
    if path == "user-data" {
        return guest.user_data.clone();
    }
    if path.is_empty() {
        let mut list = String::from("meta-data");
        if guest.user_data.is_some() {
            list.push_str("\nuser-data");
        }
        return Some(list.into_bytes());
    }
    let rest = path.strip_prefix("meta-data")?;
    let rest = match rest.strip_prefix('/') {
        Some(rest) => rest,
        None if rest.is_empty() => "",
        None => return None,
    };
    let leaves = leaves(guest);
    if let Some((_, text)) = leaves.iter().find(|(name, _)| name == rest) {
        return Some(text.clone().into_bytes());
    }
    directory(&leaves, rest, guest).map(String::into_bytes)
}

/// The whole tree below `meta-data` as one document.
pub(super) fn document(guest: &GuestData) -> Value {
    let mut root = Map::new();
    let names = guest.public_keys.iter().enumerate();
    let names = names.map(|(at, (name, _))| (format!("public-keys/{at}/_name"), format!("{at}={name}")));
    for (path, text) in leaves(guest).into_iter().chain(names) {
        let mut parts = path.split('/').peekable();
        let mut at = &mut root;
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                at.insert(part.to_owned(), json!(text));
                break;
            }
            let below = at.entry(part).or_insert_with(|| json!({}));
            match below {
                Value::Object(map) => at = map,
                _ => break,
            }
        }
    }
    Value::Object(root)
}

fn leaves(guest: &GuestData) -> Vec<(String, String)> {
    let zone = if guest.availability_zone.is_empty() { "yunfan" } else { &guest.availability_zone };
    let mut all: Vec<(String, String)> = [
        ("ami-launch-index", "0"),
        ("hostname", &guest.hostname),
        ("instance-id", &guest.instance_id),
        ("instance-type", &guest.instance_type),
        ("local-hostname", &guest.hostname),
        ("placement/availability-zone", zone),
    ]
    .into_iter()
    .map(|(name, text)| (name.to_owned(), text.to_owned()))
    .collect();
    if let Some(ip) = guest.local_ipv4 {
        all.push(("local-ipv4".into(), ip.to_string()));
    }
    if let Some(mac) = guest.mac {
        all.push(("mac".into(), mac.to_string()));
    }
    for (at, (_, key)) in guest.public_keys.iter().enumerate() {
        all.push((format!("public-keys/{at}/openssh-key"), format!("{}\n", key.trim_end())));
    }
    all.sort();
    all
}

/// The entries below `dir`, one a line, directories with a slash; the list of keys has its own form.
fn directory(leaves: &[(String, String)], dir: &str, guest: &GuestData) -> Option<String> {
    if dir == "public-keys" && !guest.public_keys.is_empty() {
        let lines = guest.public_keys.iter().enumerate().map(|(at, (name, _))| format!("{at}={name}"));
        return Some(lines.collect::<Vec<_>>().join("\n"));
    }
    let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
    let mut entries: Vec<String> = leaves
        .iter()
        .filter_map(|(name, _)| name.strip_prefix(&prefix))
        .map(|rest| rest.split_once('/').map_or(rest.to_owned(), |(first, _)| format!("{first}/")))
        .collect();
    entries.dedup();
    if entries.is_empty() { None } else { Some(entries.join("\n")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_can_be_walked() {
        let guest = GuestData {
            instance_id: "i-1".into(),
            hostname: "vm1".into(),
            public_keys: vec![("mine".into(), "ssh-ed25519 AAAA me".into())],
            user_data: Some(b"#!/bin/sh\n".to_vec()),
            local_ipv4: Some("10.0.0.7".parse().unwrap()),
            ..GuestData::default()
        };
        let get = |path: &str| find(path, &guest).map(|b| String::from_utf8(b).unwrap());
        assert_eq!(get("").as_deref(), Some("meta-data\nuser-data"));
        let list = get("meta-data/").unwrap();
        assert!(
            list.contains("instance-id\n") && list.contains("placement/\n") && list.contains("public-keys/"),
            "{list}"
        );
        assert_eq!(get("meta-data/instance-id").as_deref(), Some("i-1"));
        assert_eq!(get("meta-data/local-ipv4").as_deref(), Some("10.0.0.7"));
        assert_eq!(get("meta-data/public-keys/").as_deref(), Some("0=mine"));
        assert_eq!(get("meta-data/public-keys/0/").as_deref(), Some("openssh-key"));
        assert_eq!(get("meta-data/public-keys/0/openssh-key").as_deref(), Some("ssh-ed25519 AAAA me\n"));
        assert_eq!(get("user-data").as_deref(), Some("#!/bin/sh\n"));
        assert_eq!(get("meta-datax"), None);
        assert_eq!(get("meta-data/nope"), None);
    }
}
