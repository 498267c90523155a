//! Writing down where a workload goes.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::core::Request;
use kube::{Resource as _, ResourceExt as _};
use serde_json::{Value, json};
use yunfan_client::{Writer, is_conflict, is_not_found};
use yunfan_resources::claims::{BOUND_BY_CONTROLLER, SELECTED_NODE, is_bound_to};
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::storage::Volume;

use crate::claims::Step;
use crate::engine::Refusal;
use crate::report;
use crate::workload::{Object, Workload};

/// How often a write is tried whose fate is not known, or that another write came before.
const TRIES: u32 = 5;
/// Wait before the second try; doubles.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// What became of a placement.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is written.
    Bound,
    /// Its claims are told where it is to be; it waits for their volumes.
    Prepared,
    /// Others were told to leave a node for it.
    Cleared(Room),
    /// The workload is gone.
    Gone,
    /// The workload is not as it was: placed by another, changed, or the write's fate is unknown. What was assumed
    /// holds until its object says otherwise, or it is tried again.
    Unclear(String),
    /// The API refuses it.
    Refused(String),
}

/// Room that is made for a Pod.
#[derive(Debug)]
pub(crate) struct Room {
    /// Why it had no node.
    pub(crate) refusal: Refusal,
    /// Who has to leave.
    pub(crate) victims: Vec<Arc<Workload>>,
    pub(crate) end: Ended,
}

/// What became of it.
#[derive(Debug)]
pub(crate) enum Ended {
    /// They were told to leave.
    Told,
    /// The Pod is gone: nobody has to leave.
    Gone,
    /// Why they could not be told so.
    Failed(String),
}

/// Binds `workload` to `node`. Only a workload without a node is bound, whoever else writes: for a Pod the API sees
/// to it, for our own kinds their resourceVersion.
pub(crate) async fn bind(writer: &Writer, workload: &Workload, node: &str) -> Outcome {
    let mut wait = FIRST_WAIT;
    for tries_left in (0..TRIES).rev() {
        let result = match &workload.object {
            Object::Pod(pod) => bind_pod(writer, pod, node).await,
            Object::VirtualMachine(vm) => bind_spec(writer, &**vm, node).await,
            Object::Volume(volume) => bind_spec(writer, &**volume, node).await,
        };
        match result {
            Ok(()) => return Outcome::Bound,
            Err(error) if is_not_found(&error) => return Outcome::Gone,
            Err(error) if is_conflict(&error) => return Outcome::Unclear(error.to_string()),
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                return Outcome::Refused(status.message.clone());
            }
            Err(error) if tries_left == 0 => return Outcome::Unclear(error.to_string()),
            // It may or may not have been written. The same write again tells.
            Err(_) => tokio::time::sleep(wait).await,
        }
        wait *= 2;
    }
    Outcome::Unclear("no try was left".to_owned())
}

async fn bind_pod(writer: &Writer, pod: &Arc<Pod>, node: &str) -> kube::Result<()> {
    let (namespace, name) = (pod.namespace(), pod.name_any());
    let body = json!({
        "apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": pod.metadata.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let body = serde_json::to_vec(&body).map_err(kube::Error::SerdeError)?;
    let request = Request::new(Pod::url_path(&(), namespace.as_deref()))
        .create_subresource("binding", &name, &PostParams::default(), body)
        .map_err(kube::Error::BuildRequest)?;
    writer.client().request::<Value>(request).await.map(|_| ())
}

/// Has a Pod's claims bound to volumes, or volumes made for them, on the node that is to be the Pod's. When that is done the Pod is
/// placed anew: its volumes are known then.
pub(crate) async fn prepare(writer: &Writer, steps: Vec<Step>, node: &str) -> Outcome {
    for step in steps {
        let written = match &step {
            Step::Bind(volume, claim) => {
                let meta = &claim.metadata;
                let reference = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta.namespace,
                    "name": meta.name, "uid": meta.uid, "resourceVersion": meta.resource_version});
                let mut patch =
                    json!({"metadata": of_this(&volume.metadata), "spec": {"claimRef": reference}});
                if !is_bound_to(volume, claim) {
                    patch["metadata"]["annotations"] = json!({BOUND_BY_CONTROLLER: "yes"});
                }
                writer.merge::<PersistentVolume>(None, &volume.name_any(), &patch).await.map(drop)
            }
            Step::Select(claim) => {
                let mut patch = json!({"metadata": of_this(&claim.metadata)});
                patch["metadata"]["annotations"] = json!({SELECTED_NODE: node});
                let (namespace, name) = (claim.namespace(), claim.name_any());
                writer.merge::<PersistentVolumeClaim>(namespace.as_deref(), &name, &patch).await.map(drop)
            }
        };
        if let Err(error) = written {
            return Outcome::Unclear(error.to_string());
        }
    }
    Outcome::Prepared
}

/// The very object that was seen.
fn of_this(meta: &ObjectMeta) -> Value {
    json!({"uid": meta.uid, "resourceVersion": meta.resource_version})
}

/// A kind of ours whose node stands in its spec.
trait Placeable:
    kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned
{
    fn node(&self) -> Option<&str>;
    /// Whether the object, as it is now, still wants what it was given a node for.
    fn same_wish(&self, now: &Self) -> bool;
}

impl Placeable for VirtualMachine {
    fn node(&self) -> Option<&str> {
        self.spec.node_name.as_deref()
    }

    fn same_wish(&self, now: &Self) -> bool {
        now.spec.resources == self.spec.resources
            && now.spec.node_selector == self.spec.node_selector
            && now.spec.volumes == self.spec.volumes
    }
}

impl Placeable for Volume {
    fn node(&self) -> Option<&str> {
        self.spec.node_name.as_deref()
    }

    fn same_wish(&self, now: &Self) -> bool {
        now.spec.size_gib == self.spec.size_gib
    }
}

async fn bind_spec<K: Placeable>(writer: &Writer, object: &K, node: &str) -> kube::Result<()> {
    let (namespace, name) = (object.namespace(), object.name_any());
    let mut resource_version = object.resource_version();
    for tries_left in (0..TRIES).rev() {
        let patch = json!({
            "metadata": {"uid": object.uid(), "resourceVersion": resource_version},
            "spec": {"nodeName": node},
        });
        match writer.merge::<K>(namespace.as_deref(), &name, &patch).await {
            Ok(_) => return Ok(()),
            Err(error) if is_conflict(&error) && tries_left > 0 => {
                let now = writer.get::<K>(namespace.as_deref(), &name).await?;
                if now.node() == Some(node) && now.uid() == object.uid() {
                    // An earlier try of ours was written after all.
                    return Ok(());
                }
                if !wants_still(object, &now) {
                    return Err(error);
                }
                // Something else of it changed (its ports were filled in, say): the placement still holds.
                resource_version = now.resource_version();
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether an object that changed still wants what it was given a node for.
fn wants_still<K: Placeable>(before: &K, now: &K) -> bool {
    now.uid() == before.uid()
        && now.node().is_none_or(str::is_empty)
        && now.meta().deletion_timestamp.is_none()
        && before.same_wish(now)
}

/// Says on an object of ours that it is placed. (On a Pod the API does so with the binding.)
pub(crate) async fn say_scheduled(writer: &Writer, workload: &Workload, node: &str) {
    let message = format!("Successfully assigned {}/{} to {node}", workload.namespace(), workload.name());
    let written = async {
        let now = match &workload.object {
            Object::Pod(_) => return Ok(false),
            Object::VirtualMachine(vm) => Object::VirtualMachine(Arc::new(read(writer, &**vm).await?)),
            Object::Volume(volume) => Object::Volume(Arc::new(read(writer, &**volume).await?)),
        };
        if now.metadata().uid.as_deref() != Some(&workload.uid) {
            return Ok(false);
        }
        report::write_condition(writer, &now, true, &message).await
    };
    match written.await {
        Ok(_) => {}
        Err(error) if is_not_found(&error) => {}
        Err(error) => tracing::warn!(
            namespace = workload.namespace(), name = workload.name(), %error,
            "the condition Scheduled could not be written"
        ),
    }
}

async fn read<K: Placeable>(writer: &Writer, object: &K) -> kube::Result<K> {
    writer.get::<K>(object.namespace().as_deref(), &object.name_any()).await
}
