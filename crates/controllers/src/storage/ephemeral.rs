//! Pod → claims that come and go with it (`ephemeral.volumeClaimTemplate`).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::ObjectMeta;
use yunfan_client::{Informer, ObjectKey, Queue, Severity, is_exists, run_loop};
use yunfan_resources::claims::{PodClaim, claims_of_pod, is_pods_own};

use crate::Context;
use crate::children::controller_among;
use crate::claim::controller_reference;
use crate::pod_writer::reason;
use crate::pods::is_active;

/// Runs the loop.
pub async fn run(context: Context) {
    let pods = context.informers.of::<Pod>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    tokio::join!(pods.synced(), claims.synced());
    let queue = Queue::new();
    queue.feed(&pods, |pod| {
        let wants = claims_of_pod(pod).any(|one| one.template.is_some());
        wants.then(|| ObjectKey::of(pod))
    });
    queue.feed(&claims, |claim| {
        let pod = controller_among::<Pod>(&claim.metadata);
        pod.map(|pod| ObjectKey::new(claim.namespace().unwrap_or_default(), &pod.name))
    });
    let work = Arc::new(Loop { context, pods, claims });
    run_loop("ephemeral-volume", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(pod) = self.pods.get_key(key).filter(|pod| is_active(pod)) else { return Ok(None) };
        for one in claims_of_pod(&pod).filter(|one| one.template.is_some()) {
            match self.claims.get(key.namespace(), &one.claim) {
                Some(claim) if is_pods_own(&pod, &claim) => {}
                Some(_) => {
                    let why = format!(
                        "PVC {}/{} was not created for pod {key} (pod is not owner)",
                        key.namespace, one.claim
                    );
                    self.failed(&pod, one.volume, &why);
                }
                None => match self.context.writer.create(&claim_for(&pod, &one)).await {
                    // Its own, which the informer does not show yet, or another's: the next change of it tells.
                    Err(error) if is_exists(&error) => {}
                    Err(error) => {
                        self.failed(
                            &pod,
                            one.volume,
                            &format!("create PVC {}: {}", one.claim, reason(&error)),
                        );
                        return Err(error);
                    }
                    Ok(_) => {}
                },
            }
        }
        Ok(None)
    }

    fn failed(&self, pod: &Pod, volume: &str, why: &str) {
        let message = format!("ephemeral volume {volume}: {why}");
        self.context.recorder.event(pod, Severity::Warning, "FailedBinding", message);
    }
}

fn claim_for(pod: &Pod, one: &PodClaim<'_>) -> PersistentVolumeClaim {
    let template = one.template.cloned().unwrap_or_default();
    let given = template.metadata.unwrap_or_default();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(one.claim.clone()),
            namespace: pod.namespace(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec),
        ..PersistentVolumeClaim::default()
    }
}
