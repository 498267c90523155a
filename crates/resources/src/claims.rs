//! Persistent volumes and claims: names that Kubernetes' parts agree on, and which volume is for which claim.
//!
//! Binder, scheduler and agents share these rules: each must come to the same answer.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod, Volume as PodVolume,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use yunfan_objects::Quantity;

use crate::constraint::{Labels, selects, term_matches};

/// The provisioner of the cloud's own StorageClasses, and the driver of the volumes that it makes.
pub const DRIVER: &str = "volume.yunfan.io";
/// The StorageClass that each new cloud starts with.
pub const DEFAULT_CLASS: &str = "yunfan";
/// Parameter of a StorageClass of ours: the `metadata.name` of a VolumeType.
pub const TYPE_PARAMETER: &str = "type";
/// Parameter of a StorageClass of ours: the file system of new volumes.
pub const FS_PARAMETER: &str = "csi.storage.k8s.io/fstype";
/// Annotation on a StorageClass that claims without a class get.
pub const IS_DEFAULT: &str = "storageclass.kubernetes.io/is-default-class";
/// The older name of [`IS_DEFAULT`].
pub const IS_DEFAULT_BETA: &str = "storageclass.beta.kubernetes.io/is-default-class";
/// Annotation that goes before `storageClassName`.
pub const CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Annotation on a claim that was bound once: it is never bound to another volume.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Annotation on a claim or volume whose other side was chosen by the binder, not by a person.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// Annotation on a volume that was made for a claim: by whom.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Annotation on a claim: the node of the Pod that is the first to use it.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Annotations on a claim: who is to make a volume for it.
pub const PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];
/// Finalizer on a claim until no Pod uses it.
pub const CLAIM_PROTECTION: &str = "kubernetes.io/pvc-protection";
/// Finalizer on a volume until it is bound to no claim.
pub const VOLUME_PROTECTION: &str = "kubernetes.io/pv-protection";
/// Finalizer on a VolumeAttributesClass until no claim and no volume has it.
pub const ATTRIBUTES_PROTECTION: &str = "kubernetes.io/vac-protection";
/// Finalizer on a volume of ours until the Volume behind it is gone, or let go.
pub const BACKING_FINALIZER: &str = "storage.yunfan.io/volume";
/// Label on a Volume: the `metadata.name` of the persistent volume that it was made for. Only the cloud's own parts write it.
pub const BACKS_LABEL: &str = "storage.yunfan.io/persistent-volume";
/// Annotation on a Volume over which a persistent volume was made: from then on nobody deletes its data but on that one's behalf.
pub const HANDED_OVER: &str = "storage.yunfan.io/handed-over";
/// The access mode that lets one Pod alone use a claim.
pub const ONE_POD: &str = "ReadWriteOncePod";

/// The class that a claim asks for; empty for none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata.annotations, CLASS).or(spec).unwrap_or_default()
}

/// The class that a volume is of; empty for none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata.annotations, CLASS).or(spec).unwrap_or_default()
}

/// An annotation's value.
pub fn annotation<'a>(all: &'a Option<BTreeMap<String, String>>, key: &str) -> Option<&'a str> {
    all.as_ref()?.get(key).map(String::as_str)
}

/// Whether claims without a class get this one.
pub fn is_default(class: &StorageClass) -> bool {
    let annotations = &class.metadata.annotations;
    [IS_DEFAULT, IS_DEFAULT_BETA].iter().any(|key| annotation(annotations, key) == Some("true"))
}

/// Whether a class binds claims only when a Pod wants them.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// The storage in a list of amounts; nothing where there is none that can be read.
pub fn storage(amounts: Option<&BTreeMap<String, RawQuantity>>) -> Quantity {
    amounts.and_then(|amounts| amounts.get("storage")?.0.parse().ok()).unwrap_or(Quantity::ZERO)
}

/// How much a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    storage(resources.and_then(|resources| resources.requests.as_ref()))
}

/// How much a volume holds.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    storage(volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()))
}

/// Whether a volume is bound to this claim, or is to be: by its name, and by its uid where that is given.
pub fn is_bound_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(to) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let uid = to.uid.as_deref().filter(|uid| !uid.is_empty());
    to.name == claim.metadata.name
        && to.namespace == claim.metadata.namespace
        && uid.is_none_or(|uid| claim.metadata.uid.as_deref() == Some(uid))
}

/// Whether a claim was bound for good.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata.annotations, BIND_COMPLETED).is_some() && volume_name(claim).is_some()
}

/// The volume that a claim names.
pub fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())
}

/// Whether claim and volume are both a file system, or both a device.
pub fn same_mode(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let mode = claim.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    (mode == Some("Block")) == is_block(volume)
}

/// Whether a volume is shown to containers as a device.
pub fn is_block(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.volume_mode.as_deref() == Some("Block"))
}

/// The ways in which a claim wants to be used.
pub fn modes_of_claim(claim: &PersistentVolumeClaim) -> &[String] {
    claim.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

fn modes_of_volume(volume: &PersistentVolume) -> &[String] {
    volume.spec.as_ref().and_then(|spec| spec.access_modes.as_deref()).unwrap_or_default()
}

/// Whether a volume can be used in all the ways that the claim wants.
pub fn has_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    modes_of_claim(claim).iter().all(|mode| modes_of_volume(volume).contains(mode))
}

/// Whether a volume can be reached from a node.
pub fn reaches(volume: &PersistentVolume, node: &str, labels: &Labels) -> bool {
    let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
    let required = affinity.and_then(|affinity| affinity.required.as_ref());
    required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| term_matches(term, node, labels))
    })
}

/// The volume for a claim that has none: one that was meant for it, else the one with the fewest ways of use and then the
/// smallest of those that are free. With a node only what that node reaches; with `only_meant` only what was meant for it.
pub fn best_match<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a PersistentVolume>,
    node: Option<(&str, &Labels)>,
    only_meant: bool,
) -> Option<&'a PersistentVolume> {
    let attributes = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let mut best: Option<&PersistentVolume> = None;
    for volume in volumes {
        let Some(spec) = &volume.spec else { continue };
        let meant = is_bound_to(volume, claim);
        let others = spec.claim_ref.is_some() && !meant;
        if others
            || capacity(volume) < requested(claim)
            || !same_mode(claim, volume)
            || !has_modes(volume, claim)
            || spec.volume_attributes_class_name.as_deref().unwrap_or_default()
                != attributes.unwrap_or_default()
            || volume.metadata.deletion_timestamp.is_some()
        {
            continue;
        }
        let reached = node.is_none_or(|(name, labels)| reaches(volume, name, labels));
        if meant {
            return reached.then_some(volume);
        }
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if only_meant
            || !reached
            || phase != Some("Available")
            || selector.is_some_and(|selector| !selects(selector, volume.metadata.labels.as_ref()))
            || class_of_volume(volume) != class_of_claim(claim)
        {
            continue;
        }
        let rank = |volume: &PersistentVolume| (modes_of_volume(volume).len(), capacity(volume));
        if best.is_none_or(|best| rank(volume) < rank(best)) {
            best = Some(volume);
        }
    }
    best
}

/// A claim that a Pod's volume is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct PodClaim<'a> {
    /// The volume's name in the Pod.
    pub volume: &'a str,
    /// The claim's name, in the Pod's namespace.
    pub claim: String,
    /// What the claim is made from, where it comes and goes with the Pod.
    pub template: Option<&'a PersistentVolumeClaimTemplate>,
    /// Whether the Pod only reads.
    pub read_only: bool,
}

/// The claims that a Pod uses.
pub fn claims_of_pod(pod: &Pod) -> impl Iterator<Item = PodClaim<'_>> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(move |volume| claim_of(name, volume))
}

/// The claim that a volume of a Pod is made of, if it is.
pub fn claim_of<'a>(pod: &str, volume: &'a PodVolume) -> Option<PodClaim<'a>> {
    if let Some(source) = &volume.persistent_volume_claim {
        let read_only = source.read_only == Some(true);
        return Some(PodClaim {
            volume: &volume.name,
            claim: source.claim_name.clone(),
            template: None,
            read_only,
        });
    }
    let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let claim = format!("{pod}-{}", volume.name);
    Some(PodClaim { volume: &volume.name, claim, template: Some(template), read_only: false })
}

/// Whether a claim that a Pod's template makes is this Pod's, and not another's of that name.
pub fn is_pods_own(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref())
}

/// The namespace and name of the Volume behind a persistent volume, where it is one of ours.
pub fn backing(volume: &PersistentVolume) -> Option<(&str, &str)> {
    let source = volume.spec.as_ref()?.csi.as_ref().filter(|source| source.driver == DRIVER)?;
    source.volume_handle.split_once('/')
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn merged(mut base: Value, change: Value) -> Value {
        for (key, value) in change.as_object().cloned().unwrap_or_default() {
            base[key] = value;
        }
        base
    }

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let base = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        from_value(
            json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": merged(base, spec)}),
        )
        .unwrap()
    }

    fn volume(name: &str, spec: Value) -> PersistentVolume {
        let base = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "volumeMode": "Filesystem"});
        let metadata = json!({"name": name, "labels": {"disk": name}});
        from_value(
            json!({"metadata": metadata, "spec": merged(base, spec), "status": {"phase": "Available"}}),
        )
        .unwrap()
    }

    fn best(wanted: Value, volumes: &[PersistentVolume]) -> Option<&str> {
        best_match(&claim(wanted), volumes, None, false).and_then(|volume| volume.metadata.name.as_deref())
    }

    #[test]
    fn the_smallest_that_fits_is_taken() {
        let size = |size: &str| json!({"capacity": {"storage": size}});
        let all = [volume("small", size("512Mi")), volume("large", size("9Gi")), volume("fits", size("2Gi"))];
        assert_eq!(best(json!({}), &all), Some("fits"));
        assert_eq!(best(json!({"resources": {"requests": {"storage": "5Gi"}}}), &all), Some("large"));
        assert_eq!(best(json!({"resources": {"requests": {"storage": "10Gi"}}}), &all), None);
        let selector = |name: &str| json!({"selector": {"matchLabels": {"disk": name}}});
        assert_eq!(best(selector("large"), &all), Some("large"));
        assert_eq!(best(selector("small"), &all), None);
    }

    #[test]
    fn what_a_volume_can_do_must_be_what_is_asked_for() {
        let many = volume("many", json!({"accessModes": ["ReadWriteOnce", "ReadOnlyMany"]}));
        let block = volume("block", json!({"volumeMode": "Block"}));
        let classy = volume("classy", json!({"storageClassName": "fast"}));
        let all = [many, block, classy];
        assert_eq!(best(json!({}), &all), Some("many"), "an unset class is none");
        assert_eq!(best(json!({"accessModes": ["ReadWriteMany"]}), &all), None);
        assert_eq!(best(json!({"volumeMode": "Block"}), &all), Some("block"));
        assert_eq!(best(json!({"storageClassName": "fast"}), &all), Some("classy"));
        assert_eq!(best(json!({"storageClassName": ""}), &all), Some("many"));
        assert_eq!(best(json!({"storageClassName": "slow"}), &all), None);
        let plain = [all[0].clone(), volume("plain", json!({"capacity": {"storage": "5Gi"}}))];
        assert_eq!(best(json!({}), &plain), Some("plain"), "one that can do less is enough");
    }

    #[test]
    fn volumes_that_are_taken_or_going_are_left_alone() {
        let to = |name: &str, uid: Value| json!({"claimRef": {"name": name, "namespace": "n", "uid": uid}});
        let mut going = volume("going", json!({}));
        going.metadata.deletion_timestamp = from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let mut released = volume("released", json!({}));
        released.status.as_mut().unwrap().phase = Some("Released".into());
        let other = volume("other", to("d", json!(null)));
        let earlier = volume("earlier", to("c", json!("before")));
        let all = [going, released, other, earlier];
        assert_eq!(best(json!({}), &all), None);
        let meant = volume("meant", merged(to("c", json!(null)), json!({"storageClassName": "any"})));
        let wait =
            |volumes: &[PersistentVolume]| best_match(&claim(json!({})), volumes, None, true).is_some();
        assert!(wait(&[volume("free", json!({})), meant.clone()]));
        assert!(!wait(&[volume("free", json!({}))]), "that is for the scheduler");
        assert_eq!(best(json!({}), &[volume("free", json!({})), meant]), Some("meant"));
    }

    #[test]
    fn a_node_takes_what_it_reaches() {
        let on = |node: &str| {
            json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}})
        };
        let all = [volume("here", on("n1")), volume("there", on("n2"))];
        let labels = |node: &str| Labels::from([("kubernetes.io/hostname".to_owned(), node.to_owned())]);
        let found = |node: &str| {
            let found = best_match(&claim(json!({})), &all, Some((node, &labels(node))), false);
            found.and_then(|volume| volume.metadata.name.as_deref())
        };
        assert_eq!((found("n1"), found("n2"), found("n3")), (Some("here"), Some("there"), None));
    }

    #[test]
    fn a_pods_claims_are_named_or_made_from_templates() {
        let pod: Pod = from_value(
            json!({"metadata": {"name": "p", "uid": "pod"}, "spec": {"containers": [], "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "data", "readOnly": true}},
            {"name": "b", "emptyDir": {}},
            {"name": "c", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]}}),
        )
        .unwrap();
        let all: Vec<_> = claims_of_pod(&pod).map(|one| (one.volume, one.claim, one.read_only)).collect();
        assert_eq!(all, [("a", "data".to_owned(), true), ("c", "p-c".to_owned(), false)]);
        let mut own = claim(json!({}));
        assert!(!is_pods_own(&pod, &own));
        let owner =
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pod", "controller": true}]);
        own.metadata.owner_references = from_value(owner).unwrap();
        assert!(is_pods_own(&pod, &own));
    }

    #[test]
    fn ours_are_known_by_their_driver() {
        let of = |driver: &str| volume("v", json!({"csi": {"driver": driver, "volumeHandle": "team/pvc-1"}}));
        assert_eq!(backing(&of(DRIVER)), Some(("team", "pvc-1")));
        assert_eq!(backing(&of("other.example")), None);
    }
}
