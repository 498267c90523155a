//! Whose a StatefulSet's claims are: nobody's while they are kept, else the set's, or the Pod's when that goes.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;

use crate::claim::controller_reference;

const DELETE: &str = "Delete";

/// Whether the retention policy deletes claims: those of Pods that a smaller set has no place for, and those of a set that is deleted.
fn policy(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == DELETE);
    (
        deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
        deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
    )
}

fn names(reference: &OwnerReference, version: &str, kind: &str, name: &str) -> bool {
    (reference.api_version.as_str(), reference.kind.as_str(), reference.name.as_str())
        == (version, kind, name)
}

/// Whether a claim belongs to an earlier Pod of this name, and goes with it.
pub(super) fn is_stale(set: &StatefulSet, claim: &ObjectMeta, pod_name: &str) -> bool {
    policy(set).0 && claim.owner_references.iter().flatten().any(|owner| names(owner, "v1", "Pod", pod_name))
}

/// The owners that a claim of a Pod should have; none where it has them.
pub(super) fn owners(
    set: &StatefulSet,
    pod: &Pod,
    has_place: bool,
    claim: &ObjectMeta,
) -> Option<Vec<OwnerReference>> {
    let now = claim.owner_references.clone().unwrap_or_default();
    let of_set = |owner: &OwnerReference| names(owner, "apps/v1", "StatefulSet", &set.name_any());
    let of_pod = |owner: &OwnerReference| names(owner, "v1", "Pod", &pod.name_any());
    let earlier = |owner: &OwnerReference| {
        (of_set(owner) && Some(&owner.uid) != set.metadata.uid.as_ref())
            || (of_pod(owner) && Some(&owner.uid) != pod.metadata.uid.as_ref())
    };
    if now.iter().any(earlier) {
        // It is about to be collected with its owner.
        return None;
    }
    let (when_scaled, when_deleted) = policy(set);
    let mut wanted: Vec<_> = now.iter().filter(|owner| !of_set(owner) && !of_pod(owner)).cloned().collect();
    if !wanted.iter().any(|owner| owner.controller == Some(true)) {
        if when_deleted && (has_place || !when_scaled) {
            wanted.push(controller_reference(set));
        }
        if when_scaled && !has_place {
            wanted.push(controller_reference(pod));
        }
    }
    let plain = |owners: &[OwnerReference]| {
        owners.iter().map(|owner| (owner.uid.clone(), owner.controller)).collect::<Vec<_>>()
    };
    (plain(&now) != plain(&wanted)).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(owners: &[&OwnerReference]) -> ObjectMeta {
        ObjectMeta {
            owner_references: Some(owners.iter().map(|owner| (*owner).clone()).collect()),
            ..Default::default()
        }
    }

    #[test]
    fn claims_belong_to_whom_the_policy_says() {
        let set = |scaled: &str, deleted: &str| -> StatefulSet {
            serde_json::from_value(
                json!({"metadata": {"name": "s", "uid": "set"}, "spec": {"selector": {}, "template": {},
                "persistentVolumeClaimRetentionPolicy": {"whenScaled": scaled, "whenDeleted": deleted}}}),
            )
            .unwrap()
        };
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "s-1", "uid": "pod"}})).unwrap();
        let owned = |set: &StatefulSet, place: bool, owners_now: &[&OwnerReference]| {
            let owners = owners(set, &pod, place, &claim(owners_now));
            owners.map(|owners| owners.into_iter().map(|owner| owner.uid).collect::<Vec<_>>())
        };
        let some = |uids: &[&str]| Some(uids.iter().map(|uid| (*uid).to_owned()).collect::<Vec<_>>());
        let (keep, both) = (set("Retain", "Retain"), set("Delete", "Delete"));
        let (by_set, by_pod) = (controller_reference(&both), controller_reference(&pod));
        assert_eq!(owned(&keep, true, &[]), None);
        assert_eq!(owned(&keep, true, &[&by_set]), some(&[]));
        assert_eq!(owned(&set("Retain", "Delete"), false, &[]), some(&["set"]));
        assert_eq!(owned(&set("Delete", "Retain"), true, &[]), None);
        assert_eq!(owned(&set("Delete", "Retain"), false, &[]), some(&["pod"]));
        assert_eq!(owned(&both, true, &[&by_pod]), some(&["set"]));
        assert_eq!(owned(&both, false, &[&by_set]), some(&["pod"]));
        assert_eq!(owned(&both, false, &[&by_pod]), None);
        // Another's claim is left alone, and so is one of an earlier Pod, which goes with it.
        let other: OwnerReference = serde_json::from_value(
            json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": "x", "controller": true}),
        )
        .unwrap();
        assert_eq!(owned(&both, true, &[&other]), None);
        let earlier = OwnerReference { uid: "earlier".into(), ..by_pod.clone() };
        assert_eq!(owned(&both, true, &[&earlier]), None);
        assert!(is_stale(&both, &claim(&[&earlier]), "s-1"));
        assert!(!is_stale(&keep, &claim(&[&earlier]), "s-1"));
        assert_eq!(json!(by_pod)["apiVersion"], Value::from("v1"));
    }
}
