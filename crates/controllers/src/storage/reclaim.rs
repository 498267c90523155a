//! The volume's side of a binding: is it free, bound, or left behind; and what becomes of it then.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;
use serde_json::json;
use yunfan_client::{Informer, Severity, Writer, is_not_found};
use yunfan_resources::claims::{
    BOUND_BY_CONTROLLER, PROVISIONED_BY, annotation, backing, same_mode, volume_name,
};

use super::binder::Binder;
use super::provision::of_this;

impl Binder {
    /// Brings a volume's phase to what its claim says.
    pub(super) async fn volume(&self, volume: &PersistentVolume) -> kube::Result<()> {
        let to = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone());
        let Some(to) = to.filter(|to| to.uid.as_deref().is_some_and(|uid| !uid.is_empty())) else {
            // Free, or kept for a claim that was not seen yet.
            return self.volume_phase(volume, "Available", None).await.map(drop);
        };
        let Some(claim) = claim_of(&self.context.writer, &self.claims, &to).await? else {
            return self.release(volume).await;
        };
        match volume_name(&claim) {
            Some(own) if own == volume.name_any() => self.volume_phase(volume, "Bound", None).await.map(drop),
            Some(_) => {
                let provisioned = annotation(&volume.metadata.annotations, PROVISIONED_BY).is_some();
                if provisioned && policy(volume) == "Delete" {
                    // It was made for this claim, which got another one.
                    self.release(volume).await
                } else {
                    self.unbind(volume).await
                }
            }
            None => {
                if !same_mode(&claim, volume) {
                    let about = "due to incompatible volumeMode.";
                    let message = format!(
                        "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} {about}",
                        claim.name_any()
                    );
                    self.context.recorder.event(volume, Severity::Warning, "VolumeMismatch", message);
                    let message = format!(
                        "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim {about}",
                        volume.name_any()
                    );
                    self.warn(&claim, "VolumeMismatch", message);
                }
                // The claim's own pass binds it.
                Ok(())
            }
        }
    }

    /// A volume whose claim is gone.
    async fn release(&self, volume: &PersistentVolume) -> kube::Result<()> {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Failed") {
            return Ok(());
        }
        let volume = &self.volume_phase(volume, "Released", None).await?;
        match policy(volume) {
            "Recycle" => {
                let message = "No recycler plugin found for the volume!";
                self.fail(volume, "VolumeFailedRecycle", message).await
            }
            "Delete" => {
                let made = annotation(&volume.metadata.annotations, PROVISIONED_BY).is_some();
                if made || backing(volume).is_some() {
                    // Whoever made it deletes it.
                    return Ok(());
                }
                let message = format!(
                    "error getting deleter volume plugin for volume {:?}: no deletable volume plugin matched",
                    volume.name_any()
                );
                self.fail(volume, "VolumeFailedDelete", &message).await
            }
            _ => Ok(()),
        }
    }

    async fn fail(&self, volume: &PersistentVolume, reason: &'static str, message: &str) -> kube::Result<()> {
        self.volume_phase(volume, "Failed", Some(message)).await?;
        self.context.recorder.event(volume, Severity::Warning, reason, message);
        Ok(())
    }

    /// Frees a volume whose claim got another one; what a person wished for stays.
    async fn unbind(&self, volume: &PersistentVolume) -> kube::Result<()> {
        let chosen = annotation(&volume.metadata.annotations, BOUND_BY_CONTROLLER).is_some();
        let claim_ref = if chosen { json!(null) } else { json!({"uid": null, "resourceVersion": null}) };
        let patch = of_this(
            &volume.metadata,
            json!({"metadata": {"annotations": {BOUND_BY_CONTROLLER: null}}, "spec": {"claimRef": claim_ref}}),
        );
        let freed = self.context.writer.merge::<PersistentVolume>(None, &volume.name_any(), &patch).await?;
        self.volume_phase(&freed, "Available", None).await.map(drop)
    }
}

/// The claim that a volume is bound to; none when it is gone, or another has its name. That is not said on old news.
pub(super) async fn claim_of(
    writer: &Writer,
    claims: &Informer<PersistentVolumeClaim>,
    to: &ObjectReference,
) -> kube::Result<Option<Arc<PersistentVolumeClaim>>> {
    let (namespace, name) = (to.namespace.as_deref(), to.name.as_deref().unwrap_or_default());
    let known = claims.get(namespace, name).filter(|claim| claim.metadata.uid == to.uid);
    if known.is_some() {
        return Ok(known);
    }
    match writer.get::<PersistentVolumeClaim>(namespace, name).await {
        Ok(claim) => Ok(Some(Arc::new(claim)).filter(|claim| claim.metadata.uid == to.uid)),
        Err(error) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What becomes of a volume whose claim is gone.
pub(super) fn policy(volume: &PersistentVolume) -> &str {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    policy.unwrap_or("Retain")
}
