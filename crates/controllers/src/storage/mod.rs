//! Persistent volumes: [`binder`] gives each claim a volume, [`protect`] keeps both while they are used, [`ephemeral`] makes the
//! claims that come and go with a Pod, [`attributes`] keeps classes of attributes while something has them, and [`provision`] makes, grows and deletes volumes of the cloud's own, each over a Volume.
//!
//! The rules of who fits whom are in `yunfan_resources::claims`, because the scheduler asks them too.

pub mod attributes;
pub mod binder;
pub mod ephemeral;
pub mod protect;
pub mod provision;

mod backing;
mod reclaim;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use yunfan_client::{Index, Informer, ObjectKey};
use yunfan_resources::claims::{claims_of_pod, is_default, volume_name};

/// What binder and protection work on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Claim(ObjectKey),
    Volume(String),
}

/// The claims by the volume that they name.
fn by_volume(claims: &Informer<PersistentVolumeClaim>) -> Index<PersistentVolumeClaim> {
    claims.index("volume", |claim| volume_name(claim).map(str::to_owned).into_iter().collect())
}

/// The Pods by the claims that they use.
fn by_claim(pods: &Informer<Pod>) -> Index<Pod> {
    pods.index("claim", |pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        claims_of_pod(pod).map(|one| ObjectKey::new(namespace, one.claim).to_string()).collect()
    })
}

/// The class that claims without one get: of several the newest.
fn default_class(classes: &Informer<StorageClass>) -> Option<Arc<StorageClass>> {
    let marked = classes.list().into_iter().filter(|class| is_default(class));
    marked.max_by(|a, b| {
        let made = |class: &StorageClass| class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        made(a).cmp(&made(b)).then_with(|| b.name_any().cmp(&a.name_any()))
    })
}
