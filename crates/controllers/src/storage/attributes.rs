//! Attributes of volumes (VolumeAttributesClass) stay while a claim or a volume has them, or is to get them: a finalizer that is
//! there from the start (admission adds it) goes when nothing holds the class any more.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use yunfan_client::{Informer, Queue, run_loop};
use yunfan_resources::claims::ATTRIBUTES_PROTECTION;

use crate::Context;

/// Runs the loop.
pub async fn run(context: Context) {
    let classes = context.informers.of::<VolumeAttributesClass>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    tokio::join!(classes.synced(), claims.synced(), volumes.synced());
    let queue = Queue::new();
    queue.feed(&classes, |class| [class.name_any()]);
    // Which class one had before is not known any more: all that wait to go are looked at, and these are few.
    let waiting = classes.clone();
    queue.feed(&claims, move |_| leaving(&waiting));
    let waiting = classes.clone();
    queue.feed(&volumes, move |_| leaving(&waiting));
    let work = Arc::new(Loop { context, classes, claims, volumes });
    run_loop("volume-attributes-protection", queue, 1, move |name| {
        let work = work.clone();
        async move { work.reconcile(&name).await }
    })
    .await;
}

/// The classes that are marked for deletion.
fn leaving(classes: &Informer<VolumeAttributesClass>) -> Vec<String> {
    let marked = |class: &Arc<VolumeAttributesClass>| class.metadata.deletion_timestamp.is_some();
    classes.list().iter().filter(|class| marked(class)).map(|class| class.name_any()).collect()
}

struct Loop {
    context: Context,
    classes: Informer<VolumeAttributesClass>,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
}

impl Loop {
    async fn reconcile(&self, name: &str) -> kube::Result<Option<Duration>> {
        let writer = &self.context.writer;
        let Some(class) = self.classes.get(None, name) else { return Ok(None) };
        let held = class.finalizers().iter().any(|own| own == ATTRIBUTES_PROTECTION);
        if class.metadata.deletion_timestamp.is_none() {
            writer.add_finalizer(&*class, ATTRIBUTES_PROTECTION).await?;
        } else if held && !self.is_used(name).await? {
            writer.remove_finalizer(&*class, ATTRIBUTES_PROTECTION).await?;
        }
        Ok(None)
    }

    /// Whether something has the class. That nothing has is asked anew: the informers may not show the last one yet.
    async fn is_used(&self, name: &str) -> kube::Result<bool> {
        if self.claims.list().iter().any(|claim| claims(claim, name))
            || self.volumes.list().iter().any(|volume| has(volume, name))
        {
            return Ok(true);
        }
        let client = self.context.writer.client();
        let all = ListParams::default();
        let asked: Api<PersistentVolumeClaim> = Api::all(client.clone());
        if asked.list(&all).await?.iter().any(|claim| claims(claim, name)) {
            return Ok(true);
        }
        let asked: Api<PersistentVolume> = Api::all(client.clone());
        Ok(asked.list(&all).await?.iter().any(|volume| has(volume, name)))
    }
}

/// Whether a claim has the class, asks for it, or is to get it.
fn claims(claim: &PersistentVolumeClaim, class: &str) -> bool {
    let asked = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let status = claim.status.as_ref();
    let current = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let next = status.and_then(|status| status.modify_volume_status.as_ref());
    let next = next.and_then(|next| next.target_volume_attributes_class_name.as_deref());
    [asked, current, next].contains(&Some(class))
}

/// Whether a volume has the class.
fn has(volume: &PersistentVolume, class: &str) -> bool {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.volume_attributes_class_name.as_deref()) == Some(class)
}
