//! What the metadata service tells, as files for guests that read it from a disk: Nova's config drive.

use super::{GuestData, ec2, openstack};

/// The label by which guests find the disk.
pub const DRIVE_LABEL: &str = "config-2";

/// The documents of OpenStack's side; there are no others below a version.
const OPENSTACK: [&str; 5] =
    ["meta_data.json", "network_data.json", "vendor_data.json", "vendor_data2.json", "user_data"];

/// The files of a guest's config drive, each with its path: what the service would answer, from the same data.
pub fn config_drive(guest: &GuestData) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for name in OPENSTACK {
        if let Some((_, bytes)) = openstack::find(&format!("latest/{name}"), guest) {
            files.push((format!("openstack/latest/{name}"), bytes));
        }
    }
    for (at, (_, bytes)) in guest.files.iter().enumerate() {
        files.push((format!("openstack/{}/{at:04}", openstack::CONTENT), bytes.clone()));
    }
    files.push(("ec2/latest/meta-data.json".to_owned(), ec2::document(guest).to_string().into_bytes()));
    files.extend(guest.user_data.clone().map(|data| ("ec2/latest/user-data".to_owned(), data)));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_what_the_service_tells() {
        let mut guest = GuestData {
            instance_id: "i-1".into(),
            hostname: "vm1".into(),
            public_keys: vec![("mine".into(), "ssh-ed25519 AAAA me".into())],
            meta: [("role".to_owned(), "web".to_owned())].into(),
            ..GuestData::default()
        };
        let of = |guest: &GuestData, path: &str| {
            config_drive(guest).into_iter().find(|(own, _)| own == path).map(|(_, bytes)| bytes)
        };
        let told = of(&guest, "openstack/latest/meta_data.json").unwrap();
        assert_eq!(told, openstack::find("latest/meta_data.json", &guest).unwrap().1);
        let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
        assert_eq!((&told["meta"]["role"], &told["hostname"]), (&"web".into(), &"vm1".into()));
        let ec2 = of(&guest, "ec2/latest/meta-data.json").unwrap();
        let ec2: serde_json::Value = serde_json::from_slice(&ec2).unwrap();
        assert_eq!(
            (&ec2["instance-id"], &ec2["placement"]["availability-zone"]),
            (&"i-1".into(), &"yunfan".into())
        );
        assert_eq!(ec2["public-keys"]["0"]["openssh-key"], "ssh-ed25519 AAAA me\n");
        assert_eq!(ec2["public-keys"]["0"]["_name"], "0=mine");
        assert!(
            of(&guest, "openstack/latest/user_data").is_none()
                && of(&guest, "ec2/latest/user-data").is_none()
        );
        guest.files = vec![("/etc/a".into(), b"1".to_vec()), ("/etc/b".into(), b"2".to_vec())];
        let told: serde_json::Value =
            serde_json::from_slice(&of(&guest, "openstack/latest/meta_data.json").unwrap()).unwrap();
        assert_eq!(told["files"][1], serde_json::json!({"path": "/etc/b", "content_path": "/content/0001"}));
        assert_eq!(of(&guest, "openstack/content/0001"), Some(b"2".to_vec()));
        assert_eq!(openstack::find("content/0001", &guest).unwrap().1, b"2");
        guest.user_data = Some(vec![0, 255, 10]);
        for path in ["openstack/latest/user_data", "ec2/latest/user-data"] {
            assert_eq!(of(&guest, path), Some(vec![0, 255, 10]), "{path}");
        }
    }
}
