//! Making and deleting a controller's Pods, many at once, with the events that tell of it.

use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use kube::{Resource, ResourceExt};
use std::sync::Arc;
use yunfan_client::{ObjectKey, Severity};

use crate::Context;
use crate::ahead::Ahead;

/// Most Pods that are made or deleted in one pass; the rest follows in the next.
pub(crate) const BURST: usize = 500;
/// How many deletions are under way at once.
const PARALLEL: usize = 16;

/// Makes and deletes the Pods of one object.
pub(crate) struct PodWriter<'a, O> {
    pub(crate) context: &'a Context,
    pub(crate) key: &'a ObjectKey,
    pub(crate) owner: &'a O,
    pub(crate) ahead: &'a Ahead<Pod>,
}

/// What came of many writes: those that succeeded, and why one of the others failed.
pub(crate) struct Outcome<T> {
    pub(crate) done: Vec<T>,
    pub(crate) problem: Option<kube::Error>,
}

impl<O: Resource<DynamicType = ()>> PodWriter<'_, O> {
    /// Makes Pods: one, then twice as many each time, so that what fails for all of them fails few times.
    pub(crate) async fn create(&self, pods: &[Pod]) -> Outcome<Pod> {
        let mut outcome = Outcome { done: Vec::new(), problem: None };
        let (mut rest, mut batch) = (&pods[..pods.len().min(BURST)], 1);
        let mut refused = false;
        while !rest.is_empty() && outcome.problem.is_none() && !refused {
            let (now, later) = rest.split_at(batch.min(rest.len()));
            for result in futures::future::join_all(now.iter().map(|pod| self.create_one(pod))).await {
                match result {
                    // All others would be refused as well, and soon the owner is gone.
                    Ok(None) => refused = true,
                    Ok(Some(made)) => outcome.done.push(made),
                    Err(error) => outcome.problem = Some(error),
                }
            }
            (rest, batch) = (later, (batch * 2).min(PARALLEL));
        }
        outcome
    }

    async fn create_one(&self, pod: &Pod) -> kube::Result<Option<Pod>> {
        match self.context.writer.create(pod).await {
            Ok(made) => {
                self.ahead.wrote(self.key, &made);
                self.tell(Severity::Normal, "SuccessfulCreate", format!("Created pod: {}", made.name_any()));
                Ok(Some(made))
            }
            Err(error) if namespace_ends(&error) => Ok(None),
            Err(error) => {
                self.tell(Severity::Warning, "FailedCreate", format!("Error creating: {}", reason(&error)));
                Err(error)
            }
        }
    }

    /// Deletes Pods; those that hold `finalizer` lose it first.
    pub(crate) async fn delete(&self, pods: &[Arc<Pod>], finalizer: Option<&str>) -> Outcome<Arc<Pod>> {
        let results: Vec<_> = futures::stream::iter(pods.iter().cloned())
            .map(|pod| async move { self.delete_one(&pod, finalizer).await.map(|()| pod) })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let mut outcome = Outcome { done: Vec::new(), problem: None };
        for result in results {
            match result {
                Ok(pod) => outcome.done.push(pod),
                Err(error) => outcome.problem = Some(error),
            }
        }
        outcome
    }

    async fn delete_one(&self, pod: &Pod, finalizer: Option<&str>) -> kube::Result<()> {
        if let Some(finalizer) = finalizer {
            self.context.writer.remove_finalizer(pod, finalizer).await?;
        }
        let (namespace, name) = (pod.namespace(), pod.name_any());
        let params = only(pod.uid());
        match self.context.writer.delete_told::<Pod>(namespace.as_deref(), &name, &params).await {
            Ok(revision) => {
                self.ahead.wrote_at(self.key, revision);
                self.tell(Severity::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(error) => {
                self.tell(Severity::Warning, "FailedDelete", format!("Error deleting: {}", reason(&error)));
                Err(error)
            }
        }
    }

    fn tell(&self, severity: Severity, reason: &'static str, message: String) {
        self.context.recorder.event(self.owner, severity, reason, message);
    }
}

/// How an object is deleted that was seen: no other that has its name by now.
pub(crate) fn only(uid: Option<String>) -> DeleteParams {
    let preconditions = Some(Preconditions { uid, resource_version: None });
    DeleteParams { preconditions, ..DeleteParams::default() }
}

/// What the API server said, without what the client adds.
pub(crate) fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether it was refused because its namespace is on its way out.
pub(crate) fn namespace_ends(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    status
        .details
        .iter()
        .flat_map(|details| &details.causes)
        .any(|cause| cause.reason == "NamespaceTerminating")
}
