//! Telling people: the condition `PodScheduled` of a Pod, `Scheduled` of a VirtualMachine or Volume, and events.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{Resource, ResourceExt as _};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use yunfan_client::{Recorder, Severity, Writer, is_conflict, is_not_found};
use yunfan_resources::compute::VirtualMachine;
use yunfan_resources::storage::Volume;

use crate::workload::{Object, Workload};

/// How many times a condition is tried to be written when the object changes in between.
const TRIES: usize = 5;
/// How many refusals may wait to be written; more are dropped, and told the next time.
const MAX_WAITING: usize = 1024;

/// Writes what people read, in a task of its own: a placement never waits for it.
#[derive(Clone)]
pub(crate) struct Reporter {
    sender: mpsc::Sender<(Arc<Workload>, String)>,
    recorder: Recorder,
}

impl Reporter {
    pub(crate) fn new(writer: Writer, recorder: Recorder) -> Self {
        let (sender, mut receiver) = mpsc::channel::<(Arc<Workload>, String)>(MAX_WAITING);
        let events = recorder.clone();
        tokio::spawn(async move {
            while let Some((workload, message)) = receiver.recv().await {
                // A condition that says so already was written by an earlier life: the event was too.
                match write_condition(&writer, &workload.object, false, &message).await {
                    Ok(false) => {}
                    Ok(true) => {
                        event(&events, &workload.object, Severity::Warning, "FailedScheduling", message)
                    }
                    Err(error) => {
                        tracing::warn!(
                            kind = workload.kind(), namespace = workload.namespace(), name = workload.name(), %error,
                            "why there is no node could not be written"
                        );
                    }
                }
            }
        });
        Self { sender, recorder }
    }

    /// There is no node for `workload`.
    pub(crate) fn unschedulable(&self, workload: Arc<Workload>, message: String) {
        if self.sender.try_send((workload, message)).is_err() {
            tracing::warn!("a refusal was not written: too many wait");
        }
    }

    /// A Pod was told to leave its node for a more important one.
    pub(crate) fn preempted(&self, victim: &Pod, preemptor: &str, node: &str) {
        let message = format!("Preempted by pod {preemptor} on node {node}");
        self.recorder.event(victim, Severity::Normal, "Preempted", message);
    }

    /// `workload` was placed.
    pub(crate) fn scheduled(&self, workload: &Workload, node: &str) {
        let message = format!("Successfully assigned {}/{} to {node}", workload.namespace(), workload.name());
        event(&self.recorder, &workload.object, Severity::Normal, "Scheduled", message);
    }
}

fn event(recorder: &Recorder, object: &Object, severity: Severity, reason: &'static str, message: String) {
    match object {
        Object::Pod(pod) => recorder.event(&**pod, severity, reason, message),
        Object::VirtualMachine(vm) => recorder.event(&**vm, severity, reason, message),
        Object::Volume(volume) => recorder.event(&**volume, severity, reason, message),
    }
}

/// Writes the condition that says whether the object has a node. Says whether there was anything to write: nothing
/// is if it says so already, if the object is gone, or if by now it is the other way round.
pub(crate) async fn write_condition(
    writer: &Writer,
    object: &Object,
    placed: bool,
    message: &str,
) -> kube::Result<bool> {
    match object {
        Object::Pod(pod) => Say::placement::<Pod>(placed, message).write(writer, Pod::clone(pod)).await,
        Object::VirtualMachine(vm) => {
            Say::placement::<VirtualMachine>(placed, message).write(writer, VirtualMachine::clone(vm)).await
        }
        Object::Volume(volume) => {
            Say::placement::<Volume>(placed, message).write(writer, Volume::clone(volume)).await
        }
    }
}

/// Says in a Pod's status that the scheduler ends it for a more important one. Says whether there was anything to write.
pub(crate) async fn write_disruption(writer: &Writer, pod: &Pod, message: &str) -> kube::Result<bool> {
    let say = Say {
        kind: "DisruptionTarget",
        status: "True",
        reason: "PreemptionByScheduler",
        message,
        placed: None,
    };
    say.write(writer, pod.clone()).await
}

/// A kind with such a condition.
trait Conditioned: Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned {
    const CONDITION: &'static str;
    fn conditions(&self) -> Vec<Value>;
    fn is_placed(&self) -> bool;
}

impl Conditioned for Pod {
    const CONDITION: &'static str = "PodScheduled";

    fn conditions(&self) -> Vec<Value> {
        values(self.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default())
    }

    fn is_placed(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref().is_some_and(|node| !node.is_empty()))
    }
}

impl Conditioned for VirtualMachine {
    const CONDITION: &'static str = "Scheduled";

    fn conditions(&self) -> Vec<Value> {
        values(self.status.as_ref().map(|status| &*status.conditions).unwrap_or_default())
    }

    fn is_placed(&self) -> bool {
        self.spec.node_name.as_ref().is_some_and(|node| !node.is_empty())
    }
}

impl Conditioned for Volume {
    const CONDITION: &'static str = "Scheduled";

    fn conditions(&self) -> Vec<Value> {
        values(self.status.as_ref().map(|status| &*status.conditions).unwrap_or_default())
    }

    fn is_placed(&self) -> bool {
        self.spec.node_name.as_ref().is_some_and(|node| !node.is_empty())
    }
}

fn values<T: Serialize>(conditions: &[T]) -> Vec<Value> {
    conditions.iter().filter_map(|condition| serde_json::to_value(condition).ok()).collect()
}

/// A condition.
struct Say<'a> {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: &'a str,
    /// It is said only of an object that has a node, or has none; of either where this is none.
    placed: Option<bool>,
}

impl<'a> Say<'a> {
    fn placement<K: Conditioned>(placed: bool, message: &'a str) -> Self {
        let (status, reason) = if placed { ("True", "Scheduled") } else { ("False", "Unschedulable") };
        Self { kind: K::CONDITION, status, reason, message, placed: Some(placed) }
    }

    async fn write<K: Conditioned>(&self, writer: &Writer, mut object: K) -> kube::Result<bool> {
        let (uid, name, namespace) = (object.uid(), object.name_any(), object.namespace());
        let mut tries = 1;
        loop {
            if object.uid() != uid || self.placed.is_some_and(|placed| placed != object.is_placed()) {
                return Ok(false);
            }
            let Some(conditions) = self.conditions(object.conditions(), object.meta().generation) else {
                return Ok(false);
            };
            // The list is written as a whole: it must be the one that was read.
            let patch = json!({
                "metadata": {"resourceVersion": object.resource_version()},
                "status": {"conditions": conditions},
            });
            match writer.merge_status::<K>(namespace.as_deref(), &name, &patch).await {
                Ok(_) => return Ok(true),
                Err(error) if is_not_found(&error) => return Ok(false),
                Err(error) if is_conflict(&error) && tries < TRIES => tries += 1,
                Err(error) => return Err(error),
            }
            object = match writer.get::<K>(namespace.as_deref(), &name).await {
                Err(error) if is_not_found(&error) => return Ok(false),
                read => read?,
            };
        }
    }

    /// The conditions with ours; none if it says so already.
    fn conditions(&self, mut conditions: Vec<Value>, generation: Option<i64>) -> Option<Vec<Value>> {
        let Self { kind, status, reason, .. } = *self;
        let known = conditions.iter().position(|condition| condition["type"] == kind);
        let mut since = json!(Time(Timestamp::now()));
        if let Some(at) = known {
            let own = &conditions[at];
            if own["status"] == status && own["reason"] == reason && own["message"] == self.message {
                return None;
            }
            if own["status"] == status && own["lastTransitionTime"].is_string() {
                since = own["lastTransitionTime"].clone();
            }
        }
        let mut condition = json!({
            "type": kind, "status": status, "reason": reason, "message": self.message, "lastTransitionTime": since,
        });
        if let Some(generation) = generation {
            condition["observedGeneration"] = generation.into();
        }
        match known {
            Some(at) => conditions[at] = condition,
            None => conditions.push(condition),
        }
        Some(conditions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_written_once_and_keeps_its_neighbours_and_its_time() {
        let say = |placed, message| Say::placement::<Volume>(placed, message);
        let other = json!({"type": "Ready", "status": "False"});
        let first = say(false, "why").conditions(vec![other.clone()], Some(3)).unwrap();
        assert_eq!(first[0], other);
        let own = &first[1];
        assert_eq!(
            (&own["status"], &own["reason"], &own["message"], &own["observedGeneration"]),
            (&json!("False"), &json!("Unschedulable"), &json!("why"), &json!(3))
        );
        assert!(say(false, "why").conditions(first.clone(), Some(3)).is_none());
        let mut old = first.clone();
        old[1]["lastTransitionTime"] = "2020-01-01T00:00:00Z".into();
        let second = say(false, "other").conditions(old.clone(), Some(3)).unwrap();
        assert_eq!(second[1]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        let third = say(true, "").conditions(old, None).unwrap();
        assert_eq!((third.len(), &third[1]["status"]), (2, &json!("True")));
        assert_ne!(third[1]["lastTransitionTime"], "2020-01-01T00:00:00Z");
    }
}
