//! What clients are told of volumes and claims that are as they were once done.

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::odd;
use crate::lookup::{at, text};

/// Annotations that have become fields: since when, and which.
const ANNOTATIONS: [(&str, &str, &str); 2] = [
    ("volume.beta.kubernetes.io/storage-class", "v1.8", "storageClassName"),
    ("volume.beta.kubernetes.io/mount-options", "v1.31", "mountOptions"),
];

/// Sources that are no more, or soon.
const SOURCES: [(&str, &str); 6] = [
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

fn annotations<'a>(object: &'a Object, names: &'a [(&str, &str, &str)]) -> impl Iterator<Item = String> + 'a {
    let given = names.iter().filter(|(key, ..)| at(object, &["metadata", "annotations", key]).is_some());
    given.map(|(key, since, field)| {
        format!("metadata.annotations[{key}]: deprecated since {since}; use {field:?} attribute instead")
    })
}

/// What is odd about a PersistentVolume.
pub(in crate::builtin) fn of_volume(volume: &Object) -> Vec<String> {
    let mut found: Vec<String> = annotations(volume, &ANNOTATIONS).collect();
    let spec = Field::root(volume).at("spec");
    if text(volume, &["spec", "persistentVolumeReclaimPolicy"]) == "Recycle" {
        found.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let terms = spec.under(&["nodeAffinity", "required", "nodeSelectorTerms"]);
    found.extend(terms.items().flat_map(|term| odd::selector_term(&term, false)));
    let gone = SOURCES.iter().filter(|(source, _)| spec.at(source).is_given());
    found.extend(gone.map(|(source, why)| format!("spec.{source}: {why}")));
    found
}

/// What is odd about a claim.
pub(in crate::builtin) fn of_claim(claim: &Object) -> Vec<String> {
    let mut found: Vec<String> = annotations(claim, &ANNOTATIONS[..1]).collect();
    found.extend(odd::claim(&Field::root(claim).at("spec")));
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_old_is_told() {
        let volume = json!({
            "metadata": {"annotations": {"volume.beta.kubernetes.io/mount-options": "ro"}},
            "spec": {"persistentVolumeReclaimPolicy": "Recycle", "cephfs": {}, "nodeAffinity": {"required":
                {"nodeSelectorTerms": [{"matchExpressions": [{"key": "beta.kubernetes.io/os"}]}]}}},
        });
        let found = of_volume(&volume);
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found[3], "spec.cephfs: deprecated in v1.28, non-functional in v1.31+");
        assert!(
            found[2].contains(
                "beta.kubernetes.io/os is deprecated since v1.14; use \"kubernetes.io/os\" instead"
            )
        );
        assert_eq!(of_volume(&json!({"metadata": {}, "spec": {"nfs": {}}})), [""; 0]);
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        assert_eq!(of_claim(&claim("1Gi")), [""; 0]);
        assert_eq!(
            of_claim(&claim("1500m")),
            [
                "spec.resources.requests[storage]: fractional byte value \"1500m\" is invalid, must be an integer"
            ]
        );
    }
}
