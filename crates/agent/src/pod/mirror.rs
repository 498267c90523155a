//! Static Pods among the Pods of this node. What runs is what stands in the file, under a uid of its own; the object in the API is
//! a mirror of that, which is made again when somebody deletes it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use serde_json::json;
use yunfan_client::{ObjectKey, is_exists, is_not_found};

use super::{PodError, Pods, Work, end, shutdown};
use crate::statics::StaticChange;

/// On a mirror: the uid of the static Pod that it shows.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

impl Pods {
    /// A Pod as it is to run. Of a static one that is the file's, with the status of its mirror.
    pub(super) fn current(&self, key: &ObjectKey) -> Option<Arc<Pod>> {
        match self.statics.get(key) {
            Some(pod) => Some(self.with_status(&pod)),
            None => self.pods.get_key(key),
        }
    }

    /// All Pods of this node as they are to run.
    pub(super) fn all(&self) -> Vec<Arc<Pod>> {
        let mut all = self.pods.list();
        let statics = self.statics.list();
        if !statics.is_empty() {
            let name = |pod: &Arc<Pod>| ObjectKey::of(pod.as_ref());
            all.retain(|pod| !statics.iter().any(|own| name(own) == name(pod)));
            all.extend(statics.iter().map(|pod| self.with_status(pod)));
        }
        all
    }

    fn with_status(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        match self.mirror_of(pod) {
            Some(mirror) => {
                let mut whole = Pod::clone(pod);
                whole.status = mirror.status.clone();
                if let (Some(spec), Some(shown)) = (&mut whole.spec, &mirror.spec) {
                    // The API knows what a class of priority means.
                    spec.priority = spec.priority.or(shown.priority);
                }
                whole.metadata.resource_version = mirror.resource_version();
                whole.metadata.creation_timestamp = mirror.metadata.creation_timestamp.clone();
                Arc::new(whole)
            }
            None => pod.clone(),
        }
    }

    fn mirror_of(&self, pod: &Pod) -> Option<Arc<Pod>> {
        let object = self.pods.get_key(&ObjectKey::of(pod))?;
        (shows(&object) == pod.uid().as_deref()).then_some(object)
    }

    /// The uid of the object in the API: of a static Pod that is its mirror's, if there is one.
    pub(super) fn object_uid(&self, pod: &Pod) -> Option<String> {
        if self.is_static(pod) { self.mirror_of(pod)?.uid() } else { pod.uid() }
    }

    pub(super) fn is_static(&self, pod: &Pod) -> bool {
        self.statics.get(&ObjectKey::of(pod)).is_some_and(|own| own.uid() == pod.uid())
    }

    /// What has to be worked on after a change of the manifests.
    pub(super) fn take_static(&self, change: StaticChange) {
        self.queue.add(match change {
            StaticChange::Came(key) => Work::Pod(key),
            StaticChange::Left(uid) => Work::Left(uid),
        });
    }

    /// A static Pod whose manifest is no more: it ends as others do that are deleted, and then a new one of its name may come.
    pub(super) async fn leave(&self, pod: &Pod) -> Result<(), PodError> {
        let uid = pod.uid().unwrap_or_default();
        self.stop_all(pod, end::grace(pod)).await;
        self.clear(&uid).await?;
        self.statics.forget(&uid);
        // Its mirror is looked at with that.
        self.queue.add(Work::Pod(ObjectKey::of(pod)));
        Ok(())
    }

    /// Sees to it that the object in the API shows the static Pod of its name, or is gone where there is none.
    /// Returns whether the Pod is one that is to run here.
    pub(super) async fn keep_mirror(&self, pod: &Pod) -> Result<bool, PodError> {
        let object = self.pods.get_key(&ObjectKey::of(pod));
        let own = self.is_static(pod);
        let runs = own || shows(pod).is_none();
        let Some(object) = object else {
            if own {
                self.make_mirror(pod).await?;
            }
            return Ok(runs);
        };
        // One that ended with its node comes again with it.
        let over = shutdown::was_shut_down(&object) && !self.shutdown.is_on();
        let good = own
            && shows(&object) == pod.uid().as_deref()
            && object.metadata.deletion_timestamp.is_none()
            && !over;
        if good || (!own && runs) {
            return Ok(runs);
        }
        if shows(&object).is_some() {
            // It comes again as soon as this one is gone.
            self.delete_now(&object).await?;
        } else {
            self.refuse_name(&object).await?;
        }
        Ok(runs)
    }

    async fn make_mirror(&self, pod: &Pod) -> Result<(), PodError> {
        let node = self.nodes.get(None, &self.shared.node).and_then(|node| node.uid());
        // Nodes come before their Pods, but for a moment at the start; the Pod is looked at again then.
        let Some(node) = node else { return Ok(()) };
        let mut mirror = pod.clone();
        let uid = mirror.metadata.uid.take().unwrap_or_default();
        mirror.status = None;
        mirror.metadata.annotations.get_or_insert_default().insert(MIRROR.to_owned(), uid);
        mirror.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: self.shared.node.clone(),
            uid: node,
            controller: Some(true),
            block_owner_deletion: None,
        }]);
        match self.shared.writer.create(&mirror).await {
            Err(error) if !is_exists(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }

    async fn delete_now(&self, object: &Pod) -> Result<(), PodError> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: object.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        let (namespace, name) = (object.namespace(), object.name_any());
        Ok(self.shared.writer.delete_with::<Pod>(namespace.as_deref(), &name, &params).await?)
    }

    /// A Pod that has the name of a static one can't run beside it.
    async fn refuse_name(&self, object: &Pod) -> Result<(), PodError> {
        if object.metadata.deletion_timestamp.is_some() {
            return self.delete_now(object).await;
        }
        if object.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Failed") {
            return Ok(());
        }
        let message = "Pod was rejected: a static Pod of this node has its name";
        let patch = json!({"metadata": {"uid": object.uid()},
            "status": {"phase": "Failed", "reason": "NameTaken", "message": message}});
        let (namespace, name) = (object.namespace(), object.name_any());
        match self.shared.writer.merge_status::<Pod>(namespace.as_deref(), &name, &patch).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            _ => Ok(()),
        }
    }
}

/// The uid of the static Pod that an object is a mirror of.
fn shows(object: &Pod) -> Option<&str> {
    object.annotations().get(MIRROR).map(String::as_str)
}
