//! PersistentVolumeClaim ↔ PersistentVolume: every claim is bound to one volume, and every volume to one claim.
//!
//! The binding stands in both objects (`spec.volumeName`, `spec.claimRef`), the volume's first: a stop at any moment leaves
//! something that the next pass completes. One worker, so that two claims do not reach for one volume.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;
use serde_json::{Value, json};
use yunfan_client::{Index, Informer, ObjectKey, Queue, Severity, run_loop};
use yunfan_resources::claims::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, CLASS, PROVISIONER, SELECTED_NODE, annotation, best_match, capacity,
    class_of_claim, class_of_volume, has_modes, is_bound_to, requested, same_mode, volume_name,
    waits_for_consumer,
};

use super::provision::of_this;
use super::{Work, by_claim, by_volume, default_class};
use crate::Context;
use crate::pods::node_of;
use crate::status::now;

/// The provisioner of classes whose volumes are made by hand.
const BY_HAND: &str = "kubernetes.io/no-provisioner";

/// Runs the loop.
pub async fn run(context: Context) {
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let volumes = context.informers.of::<PersistentVolume>();
    let classes = context.informers.of::<StorageClass>();
    let pods = context.informers.of::<Pod>();
    tokio::join!(claims.synced(), volumes.synced(), classes.synced(), pods.synced());
    let queue = Queue::new();
    queue.feed(&claims, |claim| {
        let volume = volume_name(claim).map(|name| Work::Volume(name.to_owned()));
        // A volume may be bound to it that it does not name yet.
        [Some(Work::Claim(ObjectKey::of(claim))), volume].into_iter().flatten()
    });
    let (all, naming) = (claims.clone(), by_volume(&claims));
    queue.feed(&volumes, move |volume| {
        let mut work = vec![Work::Volume(volume.name_any())];
        match volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) {
            Some(to) => {
                let key = |namespace: &Option<String>, name: &Option<String>| {
                    ObjectKey::new(namespace.clone().unwrap_or_default(), name.clone().unwrap_or_default())
                };
                work.push(Work::Claim(key(&to.namespace, &to.name)));
            }
            None => work.extend(unbound(&all, |_| true)),
        }
        // Claims name volumes that were not there yet, or that are gone.
        let naming = naming.get(&volume.name_any());
        work.extend(naming.iter().map(|claim| Work::Claim(ObjectKey::of(claim.as_ref()))));
        work
    });
    let all = claims.clone();
    queue.feed(&classes, move |class| {
        let name = class.name_any();
        unbound(&all, |claim| matches!(class_of_claim(claim), own if own == name || own.is_empty()))
    });
    let work = Arc::new(Binder { context, claims, volumes, classes, pods: by_claim(&pods) });
    run_loop("volume-binder", queue, 1, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

/// The claims that have no volume yet.
fn unbound(
    claims: &Informer<PersistentVolumeClaim>,
    wanted: impl Fn(&PersistentVolumeClaim) -> bool,
) -> Vec<Work> {
    let open = |claim: &Arc<PersistentVolumeClaim>| volume_name(claim).is_none() && wanted(claim);
    claims
        .list()
        .iter()
        .filter(|claim| open(claim))
        .map(|claim| Work::Claim(ObjectKey::of(claim.as_ref())))
        .collect()
}

pub(super) struct Binder {
    pub(super) context: Context,
    pub(super) claims: Informer<PersistentVolumeClaim>,
    pub(super) volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    /// By the claims that they use.
    pods: Index<Pod>,
}

impl Binder {
    async fn reconcile(&self, work: &Work) -> kube::Result<Option<Duration>> {
        match work {
            Work::Claim(key) => {
                let Some(claim) = self.claims.get_key(key) else { return Ok(None) };
                if annotation(&claim.metadata.annotations, BIND_COMPLETED).is_some() {
                    self.bound_claim(&claim).await?;
                } else {
                    self.new_claim(&claim).await?;
                }
            }
            Work::Volume(name) => {
                if let Some(volume) = self.volumes.get(None, name) {
                    self.volume(&volume).await?;
                }
            }
        }
        Ok(None)
    }

    /// A claim that was never bound.
    async fn new_claim(&self, claim: &PersistentVolumeClaim) -> kube::Result<()> {
        let Some(name) = volume_name(claim) else { return self.find(claim).await };
        let Some(volume) = self.volumes.get(None, name) else { return self.pending(claim).await };
        if is_bound_to(&volume, claim) {
            return self.bind(&volume, claim).await;
        }
        if volume.spec.as_ref().is_some_and(|spec| spec.claim_ref.is_some()) {
            let message = format!("volume {name:?} already bound to a different claim.");
            self.warn(claim, "FailedBinding", message);
            return self.pending(claim).await;
        }
        match satisfies(&volume, claim) {
            Ok(()) => self.bind(&volume, claim).await,
            Err(why) => {
                self.warn(
                    claim,
                    "VolumeMismatch",
                    format!("Cannot bind to requested volume {name:?}: {why}"),
                );
                self.pending(claim).await
            }
        }
    }

    /// Finds a volume for a claim that names none, or sees to it that one is made.
    async fn find(&self, claim: &PersistentVolumeClaim) -> kube::Result<()> {
        let class = self.classes.get(None, class_of_claim(claim));
        let waits = class.as_deref().is_some_and(waits_for_consumer);
        let volumes = self.volumes.list();
        if let Some(volume) = best_match(claim, volumes.iter().map(Arc::as_ref), None, waits) {
            return self.bind(volume, claim).await;
        }
        if self.give_class(claim).await? {
            return Ok(());
        }
        let selected = annotation(&claim.metadata.annotations, SELECTED_NODE).is_some();
        if waits && !selected {
            let (reason, message) = self.waits_for(claim);
            self.context.recorder.event(claim, Severity::Normal, reason, message);
        } else if !class_of_claim(claim).is_empty() {
            self.order(claim, class.as_deref()).await?;
        } else {
            let message = "no persistent volumes available for this claim and no storage class is set";
            self.context.recorder.event(claim, Severity::Normal, "FailedBinding", message);
        }
        self.pending(claim).await
    }

    /// Gives a claim that never named a class the default one. Says whether it did.
    async fn give_class(&self, claim: &PersistentVolumeClaim) -> kube::Result<bool> {
        let named = claim.spec.as_ref().is_some_and(|spec| spec.storage_class_name.is_some());
        if named || annotation(&claim.metadata.annotations, CLASS).is_some() {
            return Ok(false);
        }
        let Some(class) = default_class(&self.classes) else { return Ok(false) };
        self.patch(claim, json!({"spec": {"storageClassName": class.name_any()}})).await?;
        Ok(true)
    }

    fn waits_for(&self, claim: &PersistentVolumeClaim) -> (&'static str, String) {
        let users = self.pods.get(&ObjectKey::of(claim).to_string());
        let unscheduled = users.iter().filter(|pod| node_of(pod).is_none());
        let names: Vec<String> = unscheduled.map(|pod| pod.name_any()).collect();
        match names.as_slice() {
            [] => {
                let message = "waiting for first consumer to be created before binding";
                ("WaitForFirstConsumer", message.to_owned())
            }
            [one] => ("WaitForPodScheduled", format!("waiting for pod {one} to be scheduled")),
            many => ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", many.join(","))),
        }
    }

    /// Tells the provisioner of the claim's class to make a volume.
    async fn order(&self, claim: &PersistentVolumeClaim, class: Option<&StorageClass>) -> kube::Result<()> {
        let Some(class) = class else {
            let name = class_of_claim(claim);
            self.warn(claim, "ProvisioningFailed", format!("storageclass.storage.k8s.io {name:?} not found"));
            return Ok(());
        };
        let provisioner = &class.provisioner;
        if provisioner == BY_HAND {
            let message = "no volume plugin matched name: kubernetes.io/no-provisioner";
            self.warn(claim, "ProvisioningFailed", message.to_owned());
            return Ok(());
        }
        if annotation(&claim.metadata.annotations, PROVISIONER[0]) != Some(provisioner) {
            let names = PROVISIONER.map(|name| (name.to_owned(), json!(provisioner)));
            let annotations = Value::Object(names.into_iter().collect());
            self.patch(claim, json!({"metadata": {"annotations": annotations}})).await?;
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system \
             administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        self.context.recorder.event(claim, Severity::Normal, "ExternalProvisioning", message);
        Ok(())
    }

    /// A claim that was bound once: it keeps its volume, or has lost it.
    async fn bound_claim(&self, claim: &PersistentVolumeClaim) -> kube::Result<()> {
        let Some(name) = volume_name(claim) else {
            let message = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
            return self.lost(claim, "ClaimLost", message).await;
        };
        let Some(volume) = self.volumes.get(None, name) else {
            let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
            return self.lost(claim, "ClaimLost", message).await;
        };
        let to = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        if to.is_none_or(|to| to.uid == claim.metadata.uid) {
            return self.bind(&volume, claim).await;
        }
        let message = "Two claims are bound to the same volume, this one is bound incorrectly";
        self.lost(claim, "ClaimMisbound", message).await
    }

    /// Brings both sides to say that they are bound to each other.
    async fn bind(&self, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> kube::Result<()> {
        let (volume_name_, meta) = (volume.name_any(), &claim.metadata);
        let to = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        let mut volume_now = volume.clone();
        let mut claim_now = claim.clone();
        if !is_bound_to(volume, claim) || to.is_none_or(|to| to.uid != meta.uid) {
            let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace,
                "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version});
            let mut patch = json!({"spec": {"claimRef": reference}});
            if !is_bound_to(volume, claim) {
                patch["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
            }
            let patch = of_this(&volume.metadata, patch);
            volume_now = self.context.writer.merge(None, &volume_name_, &patch).await?;
        }
        self.volume_phase(&volume_now, "Bound", None).await?;
        let named = volume_name(claim).is_some();
        if !named || annotation(&meta.annotations, BIND_COMPLETED).is_none() {
            let mut annotations = json!({BIND_COMPLETED: "yes"});
            if !named {
                annotations[BOUND_BY_CONTROLLER] = json!("yes");
            }
            let spec = json!({"volumeName": volume_name_});
            claim_now =
                self.patch(claim, json!({"metadata": {"annotations": annotations}, "spec": spec})).await?;
        }
        let spec = volume.spec.as_ref();
        let (modes, amounts) =
            (spec.and_then(|s| s.access_modes.clone()), spec.and_then(|s| s.capacity.clone()));
        let status = claim.status.as_ref();
        let bound = status.and_then(|status| status.phase.as_deref()) == Some("Bound");
        let mut wanted = json!({"phase": "Bound", "accessModes": modes});
        if !bound {
            // Later the size is whoever's who makes the volume larger, and the class whoever's who changes that.
            wanted["capacity"] = json!(amounts);
            wanted["currentVolumeAttributesClassName"] =
                json!(spec.and_then(|spec| spec.volume_attributes_class_name.as_deref()));
        } else if status.and_then(|status| status.access_modes.clone()) == modes {
            return Ok(());
        }
        self.claim_status(&claim_now, wanted).await
    }

    async fn lost(
        &self,
        claim: &PersistentVolumeClaim,
        reason: &'static str,
        message: &str,
    ) -> kube::Result<()> {
        if phase_of(claim) == Some("Lost") {
            return Ok(());
        }
        self.claim_status(claim, without_volume("Lost")).await?;
        self.warn(claim, reason, message.to_owned());
        Ok(())
    }

    async fn pending(&self, claim: &PersistentVolumeClaim) -> kube::Result<()> {
        if phase_of(claim) == Some("Pending") {
            return Ok(());
        }
        self.claim_status(claim, without_volume("Pending")).await
    }

    async fn claim_status(&self, claim: &PersistentVolumeClaim, status: Value) -> kube::Result<()> {
        let patch = of_this(&claim.metadata, json!({"status": status}));
        let (namespace, name) = (claim.namespace(), claim.name_any());
        let writer = &self.context.writer;
        writer.merge_status::<PersistentVolumeClaim>(namespace.as_deref(), &name, &patch).await.map(drop)
    }

    /// Changes the very claim that was seen.
    async fn patch(
        &self,
        claim: &PersistentVolumeClaim,
        patch: Value,
    ) -> kube::Result<PersistentVolumeClaim> {
        let (namespace, name) = (claim.namespace(), claim.name_any());
        let patch = of_this(&claim.metadata, patch);
        self.context.writer.merge(namespace.as_deref(), &name, &patch).await
    }

    /// Writes the phase of the very volume that was seen, where it is another; returns the volume as it is then.
    pub(super) async fn volume_phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        message: Option<&str>,
    ) -> kube::Result<PersistentVolume> {
        let status = volume.status.as_ref();
        if status.is_some_and(|status| {
            status.phase.as_deref() == Some(phase) && status.message.as_deref() == message
        }) {
            return Ok(volume.clone());
        }
        let status =
            json!({"phase": phase, "message": message, "reason": null, "lastPhaseTransitionTime": now()});
        let patch = of_this(&volume.metadata, json!({"status": status}));
        self.context.writer.merge_status(None, &volume.name_any(), &patch).await
    }

    pub(super) fn warn(&self, claim: &PersistentVolumeClaim, reason: &'static str, message: String) {
        self.context.recorder.event(claim, Severity::Warning, reason, message);
    }
}

fn phase_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.status.as_ref()?.phase.as_deref()
}

/// Whether a volume that a claim names by itself is one that it can have.
fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), &'static str> {
    if volume.metadata.deletion_timestamp.is_some() {
        Err("the volume is marked for deletion")
    } else if capacity(volume) < requested(claim) {
        Err("requested PV is too small")
    } else if class_of_volume(volume) != class_of_claim(claim) {
        Err("storageClassName does not match")
    } else if !same_mode(claim, volume) {
        Err("incompatible volumeMode")
    } else if !has_modes(volume, claim) {
        Err("incompatible accessMode")
    } else {
        Ok(())
    }
}

/// The status of a claim that has no volume.
fn without_volume(phase: &str) -> Value {
    json!({"phase": phase, "accessModes": null, "capacity": null, "currentVolumeAttributesClassName": null})
}
