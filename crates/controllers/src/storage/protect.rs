//! Claims stay while Pods use them, volumes while a claim is bound to them: finalizers that are there from the start (admission
//! adds them) go when nothing holds the object any more.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use yunfan_client::{Index, Informer, ObjectKey, Queue, run_loop};
use yunfan_resources::claims::{CLAIM_PROTECTION, VOLUME_PROTECTION, claims_of_pod, is_pods_own};

use super::{Work, by_claim};
use crate::Context;
use crate::pods::node_of;

/// Runs the loop.
pub async fn run(context: Context) {
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    let pods = context.informers.of::<Pod>();
    tokio::join!(claims.synced(), volumes.synced(), pods.synced());
    let queue = Queue::new();
    queue.feed(&claims, |claim| [Work::Claim(ObjectKey::of(claim))]);
    queue.feed(&volumes, |volume| [Work::Volume(volume.name_any())]);
    queue.feed(&pods, |pod| {
        let namespace = pod.namespace().unwrap_or_default();
        claims_of_pod(pod).map(|one| Work::Claim(ObjectKey::new(&namespace, one.claim))).collect::<Vec<_>>()
    });
    let work = Arc::new(Loop { context, claims, volumes, pods: by_claim(&pods) });
    run_loop("volume-protection", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    /// By the claims that they use.
    pods: Index<Pod>,
}

impl Loop {
    async fn reconcile(&self, work: &Work) -> kube::Result<Option<Duration>> {
        let writer = &self.context.writer;
        match work {
            Work::Claim(key) => {
                let Some(claim) = self.claims.get_key(key) else { return Ok(None) };
                if claim.metadata.deletion_timestamp.is_none() {
                    writer.add_finalizer(&*claim, CLAIM_PROTECTION).await?;
                } else if has(&*claim, CLAIM_PROTECTION) && !self.is_used(&claim).await? {
                    writer.remove_finalizer(&*claim, CLAIM_PROTECTION).await?;
                }
            }
            Work::Volume(name) => {
                let Some(volume) = self.volumes.get(None, name) else { return Ok(None) };
                let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
                if volume.metadata.deletion_timestamp.is_none() {
                    writer.add_finalizer(&*volume, VOLUME_PROTECTION).await?;
                } else if has(&*volume, VOLUME_PROTECTION) && phase != Some("Bound") {
                    writer.remove_finalizer(&*volume, VOLUME_PROTECTION).await?;
                }
            }
        }
        Ok(None)
    }

    /// Whether a Pod on a node has the claim. That none has is asked anew: the informer may not show the last one yet.
    async fn is_used(&self, claim: &PersistentVolumeClaim) -> kube::Result<bool> {
        let namespace = claim.namespace().unwrap_or_default();
        if self.pods.get(&ObjectKey::of(claim).to_string()).iter().any(|pod| uses(pod, claim)) {
            return Ok(true);
        }
        let pods: Api<Pod> = Api::namespaced(self.context.writer.client().clone(), &namespace);
        Ok(pods.list(&ListParams::default()).await?.iter().any(|pod| uses(pod, claim)))
    }
}

fn has(object: &impl ResourceExt, finalizer: &str) -> bool {
    object.finalizers().iter().any(|own| own == finalizer)
}

/// Whether a Pod that has a node uses the claim. One without a node is not let near a claim that is being deleted.
fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let name = claim.name_any();
    node_of(pod).is_some()
        && claims_of_pod(pod)
            .any(|one| one.claim == name && (one.template.is_none() || is_pods_own(pod, claim)))
}
