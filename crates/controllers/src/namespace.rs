//! Namespace deletion: everything in a deleted namespace goes before the namespace does.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use yunfan_client::{Informer, ObjectKey, Queue, is_conflict, is_not_found, run_loop};

use crate::Context;
use crate::kinds::{Served, ServedKind, served};
use crate::remains::Remains;

/// The finalizer in `spec.finalizers` that this loop answers for.
const FINALIZER: &str = "kubernetes";
/// How long to wait before looking again at what is not gone yet.
const AGAIN: Duration = Duration::from_millis(500);

/// Runs the loop.
pub async fn run(context: Context) {
    let namespaces = context.informers.of::<Namespace>();
    let queue = Queue::new();
    namespaces.synced().await;
    queue.feed(&namespaces, |namespace| {
        namespace.metadata.deletion_timestamp.as_ref().map(|_| ObjectKey::of(namespace))
    });
    let work = Arc::new(Loop { context, namespaces });
    run_loop("namespace", queue, 2, move |key| {
        let work = work.clone();
        async move { work.reconcile(&key).await }
    })
    .await;
}

struct Loop {
    context: Context,
    namespaces: Informer<Namespace>,
}

impl Loop {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Option<Duration>> {
        let Some(namespace) = self.namespaces.get_key(key) else { return Ok(None) };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(None);
        }
        let left = self.delete_content(&key.name).await?;
        if !left.is_empty() {
            self.say_what_is_left(&namespace, &left).await?;
            return Ok(Some(AGAIN));
        }
        self.finalize(&namespace, &finalizers).await?;
        Ok(None)
    }

    /// Deletes all objects in the namespace, Pods before anything that they may need while they stop; returns what
    /// is still there, or may be. What can't be deleted holds up nothing else.
    async fn delete_content(&self, namespace: &str) -> kube::Result<Remains> {
        let Served { kinds, failed } = served(self.context.writer.client()).await?;
        let is_pods = |kind: &&ServedKind| kind.resource.plural == "pods" && kind.resource.group.is_empty();
        let mut pods = Remains::default();
        for kind in kinds.iter().filter(is_pods) {
            self.delete_kind(kind, namespace, &mut pods).await?;
        }
        if !pods.is_empty() {
            return Ok(pods);
        }
        let mut left = Remains::undiscovered(failed);
        for kind in kinds.iter().filter(|kind| kind.namespaced && !is_pods(kind)) {
            if let Err(error) = self.delete_kind(kind, namespace, &mut left).await {
                left.fail(error.to_string());
            }
        }
        Ok(left)
    }

    async fn delete_kind(&self, kind: &ServedKind, namespace: &str, left: &mut Remains) -> kube::Result<()> {
        let api = kind.api(self.context.writer.client(), Some(namespace));
        let present = api.list_metadata(&ListParams::default().limit(1)).await?;
        if present.items.is_empty() {
            return Ok(());
        }
        match api.delete_collection(&DeleteParams::background(), &ListParams::default()).await {
            // One of them is held by an object of another kind, which goes too.
            Err(error) if is_conflict(&error) => {}
            other => other.map(drop)?,
        }
        let name = format!("{}.{}", kind.resource.plural, kind.resource.group);
        left.add(name, &api.list_metadata(&ListParams::default()).await?);
        Ok(())
    }

    async fn say_what_is_left(&self, namespace: &Namespace, left: &Remains) -> kube::Result<()> {
        let old =
            namespace.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let Some(conditions) = left.conditions(old) else { return Ok(()) };
        let patch = json!({"status": {"conditions": conditions}});
        let written =
            self.context.writer.merge_status::<Namespace>(None, &namespace.name_any(), &patch).await;
        match written {
            Err(error) if !is_not_found(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes our finalizer off, whereupon the API server removes the namespace.
    async fn finalize(&self, namespace: &Namespace, finalizers: &[String]) -> kube::Result<()> {
        let mut object = namespace.clone();
        let others = finalizers.iter().filter(|f| *f != FINALIZER).cloned().collect();
        object.spec.get_or_insert_default().finalizers = Some(others);
        let path = format!("/api/v1/namespaces/{}/finalize", namespace.name_any());
        let body = serde_json::to_vec(&object).map_err(kube::Error::SerdeError)?;
        let request = http::Request::put(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(kube::Error::HttpError)?;
        match self.context.writer.client().request::<serde_json::Value>(request).await {
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }
}
