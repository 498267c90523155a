//! Persistent volume claims as a placement sees them: where the volumes of a Pod's claims can be reached, and what is to be written
//! before a Pod goes to a node whose claims wait for just that.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt as _;
use yunfan_resources::claims::{
    DRIVER, ONE_POD, SELECTED_NODE, annotation, best_match, claims_of_pod, class_of_claim, is_bound,
    is_pods_own, modes_of_claim, reaches, requested, volume_name, waits_for_consumer,
};
use yunfan_resources::constraint::Labels;

use crate::snapshot::Snapshot;
use crate::workload::EPHEMERAL_STORAGE;

/// The provisioner of classes whose volumes are made by hand.
const BY_HAND: &str = "kubernetes.io/no-provisioner";

/// Claims, volumes and classes, by name.
#[derive(Debug, Default)]
pub struct Claims {
    claims: HashMap<(String, String), Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: HashMap<String, Arc<StorageClass>>,
}

impl Claims {
    /// Takes in a claim, or that it is gone.
    pub fn set_claim(&mut self, claim: &Arc<PersistentVolumeClaim>, there: bool) {
        let key = (claim.namespace().unwrap_or_default(), claim.name_any());
        if there {
            self.claims.insert(key, claim.clone());
        } else {
            self.claims.remove(&key);
        }
    }

    /// Takes in a volume, or that it is gone.
    pub fn set_volume(&mut self, volume: &Arc<PersistentVolume>, there: bool) {
        if there {
            self.volumes.insert(volume.name_any(), volume.clone());
        } else {
            self.volumes.remove(&volume.name_any());
        }
    }

    /// Takes in a class, or that it is gone.
    pub fn set_class(&mut self, class: &Arc<StorageClass>, there: bool) {
        if there {
            self.classes.insert(class.name_any(), class.clone());
        } else {
            self.classes.remove(&class.name_any());
        }
    }
}

/// What a Pod's claims mean for where it can be.
#[derive(Debug, Default)]
pub(crate) struct Needs<'a> {
    /// The volumes of claims that are bound.
    bound: Vec<&'a PersistentVolume>,
    /// A claim is bound to a volume that is gone.
    lost: bool,
    /// Claims that are bound when the Pod has a node.
    open: Vec<(&'a Arc<PersistentVolumeClaim>, &'a StorageClass)>,
    /// Another Pod has a claim that is for one Pod alone.
    taken: bool,
}

/// What is to be written before a Pod goes to a node.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// This volume is for this claim.
    Bind(Box<PersistentVolume>, Arc<PersistentVolumeClaim>),
    /// A volume is to be made for this claim, on the node.
    Select(Arc<PersistentVolumeClaim>),
}

impl<'a> Needs<'a> {
    /// What a Pod's claims ask for; none where it has no claims.
    ///
    /// # Errors
    /// Why no node would do, in Kubernetes' words.
    pub(crate) fn of(snapshot: &'a Snapshot, pod: &Pod) -> Result<Option<Self>, String> {
        let known = snapshot.claims();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let (mut needs, mut any, mut immediate) = (Self::default(), false, false);
        for one in claims_of_pod(pod) {
            any = true;
            let name = &one.claim;
            let Some(claim) = known.claims.get(&(namespace.to_owned(), name.clone())) else {
                return Err(match one.template {
                    Some(_) => format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                    ),
                    None => format!("persistentvolumeclaim {name:?} not found"),
                });
            };
            if one.template.is_some() && !is_pods_own(pod, claim) {
                let whose = pod.metadata.name.as_deref().unwrap_or_default();
                return Err(format!(
                    "PVC {namespace}/{name} was not created for pod {namespace}/{whose} (pod is not owner)"
                ));
            }
            if claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Lost") {
                let volume = volume_name(claim).unwrap_or_default();
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"
                ));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            needs.taken |= modes_of_claim(claim).iter().any(|mode| mode == ONE_POD)
                && snapshot.pods().any(|(_, other)| other.claims(namespace).any(|own| own == *name));
            let class = known.classes.get(class_of_claim(claim)).filter(|class| waits_for_consumer(class));
            match (class, volume_name(claim)) {
                (_, Some(volume)) if is_bound(claim) => match known.volumes.get(volume) {
                    Some(volume) => needs.bound.push(volume),
                    None => needs.lost = true,
                },
                (Some(class), None) => needs.open.push((claim, class)),
                _ => immediate = true,
            }
        }
        if immediate {
            return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
        }
        Ok(any.then_some(needs))
    }

    /// Whether another Pod has a claim that is for one Pod alone.
    pub(crate) fn is_taken(&self) -> bool {
        self.taken
    }

    /// Whether claims wait for the Pod to have a node.
    pub(crate) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// What is to be written before the Pod goes to the node in a row.
    ///
    /// # Errors
    /// Why it can't go there, in Kubernetes' words.
    pub(crate) fn fit(&self, snapshot: &'a Snapshot, row: usize) -> Result<Vec<Step>, &'static str> {
        let (here, labels) = (snapshot.names[row].as_str(), &snapshot.labels[row]);
        if self.taken {
            return Err(
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by \
                        another pod",
            );
        }
        if self.lost {
            return Err("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
        }
        if self.bound.iter().any(|volume| !reaches(volume, here, labels)) {
            return Err("node(s) didn't match PersistentVolume's node affinity");
        }
        let (mut steps, mut chosen, mut bytes) = (Vec::new(), Vec::<&str>::new(), 0_i64);
        for (claim, class) in &self.open {
            match annotation(&claim.metadata.annotations, SELECTED_NODE) {
                Some(node) if node == here => continue,
                Some(_) => return Err("node(s) didn't find available persistent volumes to bind"),
                None => {}
            }
            let name = |volume: &'a PersistentVolume| volume.metadata.name.as_deref().unwrap_or_default();
            let free = snapshot.claims().volumes.values().map(Arc::as_ref);
            let free = free.filter(|volume| !chosen.contains(&name(volume)));
            if let Some(volume) = best_match(claim, free, Some((here, labels)), false) {
                chosen.push(name(volume));
                steps.push(Step::Bind(Box::new(volume.clone()), (*claim).clone()));
            } else if class.provisioner == BY_HAND || !is_allowed(class, labels) {
                return Err("node(s) didn't find available persistent volumes to bind");
            } else {
                if class.provisioner == DRIVER {
                    bytes = bytes.saturating_add(requested(claim).units());
                }
                steps.push(Step::Select((*claim).clone()));
            }
        }
        let column = snapshot.other(EPHEMERAL_STORAGE);
        if column.is_some_and(|column| !column.fits(row, bytes)) {
            return Err("node(s) did not have enough free storage");
        }
        Ok(steps)
    }
}

/// Whether volumes of a class may be made for a node with these labels.
fn is_allowed(class: &StorageClass, labels: &Labels) -> bool {
    let terms = class.allowed_topologies.as_deref().unwrap_or_default();
    terms.is_empty()
        || terms.iter().any(|term| {
            term.match_label_expressions.iter().flatten().all(|expression| {
                labels.get(&expression.key).is_some_and(|value| expression.values.contains(value))
            })
        })
}
