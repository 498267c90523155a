//! Which volumes of Pods are file systems of their own, so that it is quickly known how full they are.

use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Pod, Volume};
use kube::ResourceExt;
use yunfan_client::ObjectKey;
use yunfan_resources::claims::{backing, claim_of, is_bound, is_bound_to};

use super::attached::READY;
use super::{Attached, Memory, Persistent};
use crate::pod::Pods;
use crate::pod::references::References;

/// Where a volume of a Pod is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VolumeMount {
    pub(crate) namespace: String,
    pub(crate) pod_uid: String,
    /// Its name in the Pod.
    pub(crate) volume: String,
    /// The claim that it is of, if it is one's.
    pub(crate) claim: Option<String>,
    pub(crate) path: PathBuf,
}

impl Pods {
    /// The mounts of all Pods of this node.
    pub(crate) fn mounts(&self) -> Vec<VolumeMount> {
        let mut found = Vec::new();
        for pod in self.all() {
            for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
                let claimed = || self.persistent.place(&self.references, &pod, volume);
                let Some((claim, path)) = self.memory.place(&pod, volume).or_else(claimed) else { continue };
                found.push(VolumeMount {
                    namespace: pod.namespace().unwrap_or_default(),
                    pod_uid: pod.uid().unwrap_or_default(),
                    volume: volume.name.clone(),
                    claim,
                    path,
                });
            }
        }
        found
    }
}

/// The claim of a volume, if it is one's, and where it is mounted.
type Place = (Option<String>, PathBuf);

impl Persistent {
    /// Where the volume of a claim is mounted that the Pod has.
    fn place(&self, references: &References, pod: &Pod, volume: &Volume) -> Option<Place> {
        let one = claim_of(&pod.name_any(), volume)?;
        let bound = references.bound(&ObjectKey::new(pod.namespace()?, &one.claim))?;
        let claim = bound.claim.filter(|claim| is_bound(claim))?;
        let volume = bound.volume.filter(|volume| is_bound_to(volume, &claim))?;
        let key = match backing(&volume) {
            Some((namespace, name)) => self.backings.get(Some(namespace), name)?.uid(),
            None => volume.uid(),
        };
        Some((Some(one.claim), self.attached.mount_of(&key?, &pod.uid()?)?))
    }
}

impl Attached {
    /// Where a volume is mounted that a Pod has, if it is one with a file system: nothing is asked of that, which may be on a server that does
    /// not answer.
    fn mount_of(&self, key: &str, pod: &str) -> Option<PathBuf> {
        let dir = self.root.join(key);
        let has = std::fs::read(dir.join("users").join(pod)).is_ok_and(|words| words == READY);
        has.then(|| dir.join("fs"))
    }
}

impl Memory {
    fn place(&self, pod: &Pod, volume: &Volume) -> Option<Place> {
        volume.empty_dir.as_ref().filter(|source| source.medium.as_deref() == Some("Memory"))?;
        Some((None, self.mount_of(&pod.uid()?, &volume.name)?))
    }
}
