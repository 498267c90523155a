//! What is made for a claim, without a cloud.

use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;
use serde_json::{Value, from_value, json};

use super::provision::{gib, wanted};

fn size_or_refusal(spec: Value, parameters: Value) -> Result<u32, String> {
    let mut whole = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    let claim: PersistentVolumeClaim = from_value(json!({"metadata": {}, "spec": whole})).unwrap();
    let class = json!({"metadata": {"name": "c"}, "provisioner": "p", "parameters": parameters});
    let class: StorageClass = from_value(class).unwrap();
    wanted(&claim, &class).map(|wanted| wanted.size_gib)
}

#[test]
fn volumes_are_whole_gib() {
    let size = |text: &str| size_or_refusal(json!({"resources": {"requests": {"storage": text}}}), json!({}));
    for (asked, made) in [("1", 1), ("1Mi", 1), ("1Gi", 1), ("1025Mi", 2), ("3G", 3), ("10Gi", 10)] {
        assert_eq!(size(asked), Ok(made), "{asked}");
    }
    assert!(size("8000Pi").unwrap_err().contains("larger than any volume"));
    assert_eq!(gib(0), Some(1));
}

#[test]
fn what_a_volume_can_not_do_is_refused() {
    let refused = |spec: Value, parameters: Value| size_or_refusal(spec, parameters).unwrap_err();
    let many = refused(json!({"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}), json!({}));
    assert!(many.starts_with("access mode ReadWriteMany is not supported"), "{many}");
    assert_eq!(refused(json!({"selector": {}}), json!({})), "claim Selector is not supported");
    let source = json!({"dataSource": {"kind": "PersistentVolumeClaim", "name": "x"}});
    assert!(refused(source, json!({})).contains("data sources"));
    assert!(refused(json!({}), json!({"csi.storage.k8s.io/fstype": "zfs"})).contains("use ext4"));
    assert!(refused(json!({}), json!({"iops": "5"})).contains("parameter \"iops\" is not known"));
    let known = json!({"csi.storage.k8s.io/fstype": "ext4", "type": "fast"});
    assert_eq!(size_or_refusal(json!({"accessModes": ["ReadWriteOncePod"]}), known), Ok(1));
}
