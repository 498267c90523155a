//! Events: what happened to an object, for people to read (`kubectl describe`, `kubectl events`).

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::{Client, Resource};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::correlator::{COMBINED, Correlator};
use crate::writer::{Writer, is_exists};

/// Events that wait to be written; further ones are dropped, and the log says so.
const MAX_WAITING: usize = 1024;
/// How many distinct events are remembered for counting.
const MAX_REMEMBERED: usize = 4096;
/// Longest message of an event, bytes (the API's own limit).
const MAX_MESSAGE: usize = 1024;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// All is well.
    Normal,
    /// Something for a person to look at.
    Warning,
}

/// Writes events in the name of a component. The same event again raises the count of the first one.
/// Cloning it is cheap.
#[derive(Clone)]
pub struct Recorder {
    component: &'static str,
    sender: mpsc::Sender<Happening>,
}

/// Something that happened.
pub(crate) struct Happening {
    pub(crate) component: &'static str,
    pub(crate) about: ObjectReference,
    pub(crate) severity: Severity,
    pub(crate) reason: Cow<'static, str>,
    pub(crate) message: String,
    pub(crate) at: Timestamp,
}

impl Recorder {
    /// A recorder for `component`, by the name that Kubernetes' part of this work has where there is one (e.g. `kubelet`): people
    /// and their tools select events by it. `host` is the node's name where it runs on one.
    pub fn new(client: Client, component: &'static str, host: Option<String>) -> Self {
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        tokio::spawn(write_events(Writer::new(client, component), host, receiver));
        Self { component, sender }
    }

    /// The same for another component: what both record waits in one queue.
    pub fn named(&self, component: &'static str) -> Self {
        Self { component, sender: self.sender.clone() }
    }

    /// Records an event about `object`. Never waits: when too many wait already, it is dropped.
    pub fn event<K>(
        &self,
        object: &K,
        severity: Severity,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) where
        K: Resource<DynamicType = ()>,
    {
        self.record(object.object_ref(&()), severity, reason.into(), message.into());
    }

    /// As [`Recorder::event`], about the part of `object` that is at this path: `spec.containers{web}`.
    pub fn event_at<K>(
        &self,
        (object, path): (&K, String),
        severity: Severity,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) where
        K: Resource<DynamicType = ()>,
    {
        let about = ObjectReference { field_path: Some(path), ..object.object_ref(&()) };
        self.record(about, severity, reason.into(), message.into());
    }

    fn record(&self, about: ObjectReference, severity: Severity, reason: Cow<'static, str>, message: String) {
        let happening = Happening {
            component: self.component,
            about,
            severity,
            reason,
            message: truncated(message),
            at: Timestamp::now(),
        };
        if self.sender.try_send(happening).is_err() {
            tracing::warn!("an event was dropped: too many wait to be written");
        }
    }
}

fn truncated(mut message: String) -> String {
    if message.len() > MAX_MESSAGE {
        let mut end = MAX_MESSAGE;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
    }
    message
}

async fn write_events(writer: Writer, host: Option<String>, mut receiver: mpsc::Receiver<Happening>) {
    let mut counts: HashMap<String, i32> = HashMap::new();
    let mut correlator = Correlator::default();
    while let Some(happening) = receiver.recv().await {
        let Some((happening, combined)) = correlator.look(happening) else { continue };
        let event = event(host.clone(), &happening, combined);
        let name = event.metadata.name.clone().unwrap_or_default();
        let namespace = event.metadata.namespace.clone();
        let result = match counts.get(&name) {
            None => match writer.create(&event).await {
                // Written by an earlier life of this component.
                Err(error) if is_exists(&error) => {
                    again(&writer, namespace.as_deref(), &name, &happening, None).await
                }
                Err(error) => Err(error),
                Ok(_) => Ok(1),
            },
            Some(count) => again(&writer, namespace.as_deref(), &name, &happening, Some(*count)).await,
        };
        match result {
            Ok(count) => {
                if counts.len() >= MAX_REMEMBERED {
                    counts.clear();
                }
                counts.insert(name, count);
            }
            Err(error) => {
                // An event is a courtesy: its loss must not hold up anything.
                counts.remove(&name);
                tracing::debug!(%error, name, "an event was not written");
            }
        }
    }
}

/// Raises the count of an event that exists; `known` is its count as far as it is known.
async fn again(
    writer: &Writer,
    namespace: Option<&str>,
    name: &str,
    happening: &Happening,
    known: Option<i32>,
) -> kube::Result<i32> {
    let count = match known {
        Some(count) => count,
        None => writer.get::<Event>(namespace, name).await?.count.unwrap_or(1),
    } + 1;
    let patch = serde_json::json!({
        "count": count, "lastTimestamp": Time(happening.at), "message": happening.message,
    });
    writer.merge::<Event>(namespace, name, &patch).await?;
    Ok(count)
}

/// The event for a happening; where it is `combined`, for all that are like it.
fn event(host: Option<String>, happening: &Happening, combined: bool) -> Event {
    let (component, about) = (happening.component, &happening.about);
    let severity = match happening.severity {
        Severity::Normal => "Normal",
        Severity::Warning => "Warning",
    };
    // The same happening gets the same name, so that its repetition is found.
    let message = if combined { COMBINED } else { &happening.message };
    let mut hash = Sha256::new();
    let uid = about.uid.as_deref().unwrap_or_default();
    let path = about.field_path.as_deref();
    for part in [uid, severity, &happening.reason, message, component].into_iter().chain(path) {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut name = about.name.clone().unwrap_or_default();
    name.truncate(230);
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{digest}")),
            // Events about cluster-scoped objects live in `default`, as in Kubernetes.
            namespace: Some(about.namespace.clone().unwrap_or_else(|| "default".to_owned())),
            ..ObjectMeta::default()
        },
        involved_object: about.clone(),
        type_: Some(severity.to_owned()),
        reason: Some(happening.reason.to_string()),
        message: Some(happening.message.clone()),
        count: Some(1),
        first_timestamp: Some(Time(happening.at)),
        last_timestamp: Some(Time(happening.at)),
        source: Some(EventSource { component: Some(component.to_owned()), host: host.clone() }),
        reporting_instance: host,
        reporting_component: Some(component.to_owned()),
        ..Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_happening_has_the_same_name_and_long_messages_are_cut() {
        let happening = |message: &str| Happening {
            component: "default-scheduler",
            about: ObjectReference { name: Some("web".into()), uid: Some("u1".into()), ..Default::default() },
            severity: Severity::Warning,
            reason: "Failed".into(),
            message: truncated(message.to_owned()),
            at: Timestamp::now(),
        };
        let name = |m: &str| event(None, &happening(m), false).metadata.name;
        let mut of_part = happening("a");
        of_part.about.field_path = Some("spec.containers{c}".to_owned());
        assert_ne!(
            event(None, &of_part, false).metadata.name,
            name("a"),
            "of two containers the same is told twice"
        );
        assert_eq!(name("a"), name("a"));
        assert_ne!(name("a"), name("b"));
        assert_eq!(truncated("é".repeat(600)).len(), 1024);
    }
}
