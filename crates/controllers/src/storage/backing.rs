//! PersistentVolumes over Volumes, once they are there: made larger, and at their end deleted or let go.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::{DeleteParams, ListParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::json;
use yunfan_client::{ObjectKey, Severity, is_not_found};
use yunfan_resources::claims::{
    BACKING_FINALIZER, BACKS_LABEL, HANDED_OVER, VOLUME_PROTECTION, annotation, backing, capacity,
    class_of_volume, is_block, is_bound, requested, volume_name,
};
use yunfan_resources::storage::Volume;

use super::provision::{Provisioner, gib, of_this, provisioned_name};
use super::reclaim::{claim_of, policy};
use crate::pod_writer::reason;
use crate::status::now;

impl Provisioner {
    /// Looks after a volume of ours.
    pub(super) async fn look_after(&self, volume: &PersistentVolume) -> kube::Result<()> {
        if volume.metadata.deletion_timestamp.is_some() {
            return self.end(volume).await;
        }
        // One that was made before there were marks has none yet.
        let behind = backing(volume).and_then(|(namespace, name)| self.backings.get(Some(namespace), name));
        if let Some(behind) = behind.filter(|one| one.labels().get(BACKS_LABEL) == Some(&volume.name_any())) {
            self.hand_over(&behind).await?;
        }
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Released") && policy(volume) == "Delete" {
            // The very one that was seen: meanwhile it may have been freed, or is to be kept.
            let seen = Preconditions { uid: volume.uid(), resource_version: volume.resource_version() };
            let params = DeleteParams { preconditions: Some(seen), ..DeleteParams::default() };
            return self
                .context
                .writer
                .delete_with::<PersistentVolume>(None, &volume.name_any(), &params)
                .await;
        }
        let to = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let claim = to.and_then(|to| self.claims.get(to.namespace.as_deref(), to.name.as_deref()?));
        match claim.filter(|claim| is_bound(claim) && to.is_some_and(|to| to.uid == claim.metadata.uid)) {
            Some(claim) => self.grow(volume, &claim).await,
            None => Ok(()),
        }
    }

    /// Ends a volume that is deleted and that no claim is bound to any more: what is behind it goes first, or is let go.
    async fn end(&self, volume: &PersistentVolume) -> kube::Result<()> {
        let has = |finalizer: &str| volume.finalizers().iter().any(|own| own == finalizer);
        let Some((namespace, name)) = backing(volume).filter(|_| has(BACKING_FINALIZER)) else {
            return Ok(());
        };
        if has(VOLUME_PROTECTION) {
            return Ok(());
        }
        let writer = &self.context.writer;
        if let Some(to) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref())
            && let Some(claim) = claim_of(writer, &self.claims, to).await?
            && volume_name(&claim).is_some_and(|name| name == volume.name_any())
        {
            // Someone took the protection away. The end of the claim, which changes the phase, brings us here again.
            return Ok(());
        }
        match writer.get::<Volume>(Some(namespace), name).await {
            Err(error) if is_not_found(&error) => {}
            Err(error) => return Err(error),
            Ok(behind) if policy(volume) == "Delete" => {
                if behind.metadata.deletion_timestamp.is_none() {
                    let deleted =
                        writer.delete::<Volume>(Some(namespace), name, behind.uid().as_deref()).await;
                    if let Err(error) = &deleted {
                        let recorder = &self.context.recorder;
                        recorder.event(volume, Severity::Warning, "VolumeFailedDelete", reason(error));
                    }
                    deleted?;
                }
                // Its end brings us here again.
                match writer.get::<Volume>(Some(namespace), name).await {
                    Err(error) if is_not_found(&error) => {}
                    other => return other.map(drop),
                }
            }
            Ok(behind) => self.let_go(&behind).await?,
        }
        writer.remove_finalizer(volume, BACKING_FINALIZER).await.map(drop)
    }

    /// A Volume that was made for a claim which went before it got it. One that a persistent volume was over is let go and not deleted:
    /// that one was taken away by force, and its data may be wanted.
    pub(super) async fn sweep(&self, behind: &Volume) -> kube::Result<()> {
        let Some(name) = behind.labels().get(BACKS_LABEL) else { return Ok(()) };
        let namespace = behind.namespace().unwrap_or_default();
        let waits = self.claims.in_namespace(&namespace).iter().any(|claim| provisioned_name(claim) == *name);
        if waits || behind.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        match self.context.writer.get::<PersistentVolume>(None, name).await {
            Err(error) if is_not_found(&error) => {}
            other => return other.map(drop),
        }
        // The claims' informer may be behind that of Volumes.
        let claims: Api<PersistentVolumeClaim> =
            Api::namespaced(self.context.writer.client().clone(), &namespace);
        let claims = claims.list(&ListParams::default()).await?;
        if claims.iter().any(|claim| provisioned_name(claim) == *name) {
            return Ok(());
        }
        if annotation(&behind.metadata.annotations, HANDED_OVER).is_some() {
            let message = format!("PersistentVolume {name} is gone: what it was over is left to the project");
            self.context.recorder.event(behind, Severity::Warning, "VolumeLetGo", message);
            return self.let_go(behind).await;
        }
        // The very one that was seen: it may have been handed over since.
        let seen = Preconditions { uid: behind.uid(), resource_version: behind.resource_version() };
        let params = DeleteParams { preconditions: Some(seen), ..DeleteParams::default() };
        self.context.writer.delete_with::<Volume>(Some(&namespace), &behind.name_any(), &params).await
    }

    /// Leaves a Volume to its project.
    async fn let_go(&self, behind: &Volume) -> kube::Result<()> {
        let none = json!({"metadata": {"labels": {BACKS_LABEL: null}, "annotations": {HANDED_OVER: null}}});
        let (patch, key) = (of_this(&behind.metadata, none), ObjectKey::of(behind));
        self.context.writer.merge::<Volume>(key.namespace(), &key.name, &patch).await.map(drop)
    }

    /// Brings a volume to the size that its claim asks for by now.
    async fn grow(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> kube::Result<()> {
        let (wanted, has) = (requested(claim), capacity(volume));
        let Some((namespace, name)) = backing(volume) else { return Ok(()) };
        if wanted <= has {
            return Ok(());
        }
        let class = self.classes.get(None, class_of_volume(volume));
        if class.is_none_or(|class| class.allow_volume_expansion != Some(true)) {
            let message = "its StorageClass does not allow volumes to be expanded";
            self.tell(claim, Severity::Warning, "VolumeResizeFailed", message);
            return Ok(());
        }
        let Some(behind) = self.backings.get(Some(namespace), name) else { return Ok(()) };
        let Some(size) = gib(wanted.units()) else { return Ok(()) };
        let writer = &self.context.writer;
        if behind.spec.size_gib < size {
            let message = format!("External resizer is resizing volume {}", volume.name_any());
            self.tell(claim, Severity::Normal, "Resizing", &message);
            let patch = of_this(&behind.metadata, json!({"spec": {"sizeGib": size}}));
            let grown = writer.merge::<Volume>(Some(namespace), name, &patch).await;
            if let Err(error) = &grown {
                let message = format!("resize volume {:?}: {}", volume.name_any(), reason(error));
                self.tell(claim, Severity::Warning, "VolumeResizeFailed", &message);
            }
            return grown.map(drop);
        }
        if behind.status.as_ref().and_then(|status| status.size_gib).is_none_or(|now| now < size) {
            // The node is at it.
            return Ok(());
        }
        let amount = json!({"storage": format!("{}Gi", behind.spec.size_gib)});
        let patch = of_this(&volume.metadata, json!({"spec": {"capacity": amount}}));
        if is_block(volume) {
            self.claim_status(claim, json!({"capacity": amount, "conditions": null})).await?;
            self.tell(claim, Severity::Normal, "VolumeResizeSuccessful", "Resize volume succeeded");
        } else {
            // The node with the volume makes the file system larger, and then says so.
            let message =
                "Waiting for user to (re-)start a pod to finish file system resize of volume on node.";
            let condition = json!({"type": "FileSystemResizePending", "status": "True", "message": message,
                "lastTransitionTime": now()});
            self.claim_status(claim, json!({"conditions": [condition]})).await?;
            let message = "Require file system resize of volume on node";
            self.tell(claim, Severity::Normal, "FileSystemResizeRequired", message);
        }
        // Last: a volume that is large enough is not looked at again.
        writer.merge::<PersistentVolume>(None, &volume.name_any(), &patch).await.map(drop)
    }

    async fn claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        status: serde_json::Value,
    ) -> kube::Result<()> {
        let key = ObjectKey::of(claim);
        let patch = json!({"metadata": {"uid": claim.metadata.uid}, "status": status});
        let writer = &self.context.writer;
        writer.merge_status::<PersistentVolumeClaim>(key.namespace(), &key.name, &patch).await.map(drop)
    }

    fn tell(&self, claim: &PersistentVolumeClaim, severity: Severity, reason: &'static str, message: &str) {
        self.context.recorder.event(claim, severity, reason, message);
    }
}
