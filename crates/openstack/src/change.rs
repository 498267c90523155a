//! Changes of an object's spec, as the caller: what a request names, and nothing else.

use std::collections::BTreeMap;
use std::future::Future;

use axum::http::StatusCode;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Map, Value, json};
use yunfan_resources::names::UPDATED_ANNOTATION;

use crate::error::Fault;
use crate::ids::{self, Kind};

/// Members of a spec that a request changes. A null takes a member away.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes(Map<String, Value>);

impl Changes {
    /// Sets a member, if the request names it.
    pub(crate) fn set(mut self, member: &str, value: Option<impl Into<Value>>) -> Self {
        self.0.extend(value.map(|value| (member.to_owned(), value.into())));
        self
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The merge that makes them, which also notes when it is done if it does anything.
    fn patch<K: Kind>(self, object: &K) -> Value {
        let now = serde_json::to_value(object).unwrap_or_default();
        let does = self.0.iter().any(|(member, value)| now["spec"][member] != *value);
        let mut patch = json!({"spec": self.0});
        if does {
            patch["metadata"] = json!({"annotations": {UPDATED_ANNOTATION: Timestamp::now().to_string()}});
        }
        patch
    }

    /// Writes them to an object that `api` can see; returns what it is then.
    pub(crate) async fn apply<K: Kind>(self, api: &Api<K>, object: &K) -> Result<K, Fault> {
        let mut patch = self.patch(object);
        let constrained = check_revision(object)?;
        if constrained {
            patch["metadata"]["resourceVersion"] = json!(object.meta().resource_version);
        }
        match api.patch(ids::name(object), &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if constrained && is_late(&status) => {
                check_revision(&api.get(ids::name(object)).await?)?;
                Err(kube::Error::Api(status).into())
            }
            other => Ok(other?),
        }
    }
}

tokio::task_local! {
    /// The revision that a request wants its object to have, or else no change.
    static EXPECTED: Option<i64>;
}

/// Runs what answers a request whose object must have a revision (its generation).
pub(crate) async fn only_at<T>(revision: i64, answer: impl Future<Output = T>) -> T {
    EXPECTED.scope(Some(revision), answer).await
}

/// Runs what changes other objects than the one that such a request is about.
pub(crate) async fn beside<T>(change: impl Future<Output = T>) -> T {
    EXPECTED.scope(None, change).await
}

/// Refuses an object that has another revision than the request wants; answers whether it wants any.
fn check_revision<K: kube::Resource>(object: &K) -> Result<bool, Fault> {
    let Ok(Some(expected)) = EXPECTED.try_with(|revision| *revision) else { return Ok(false) };
    let own = object.meta().generation.unwrap_or(1);
    if own == expected {
        return Ok(true);
    }
    let text = format!("Constrained to {expected}, but current revision is {own}");
    Err(Fault::new(StatusCode::PRECONDITION_FAILED, text).named("RevisionNumberConstraintFailed"))
}

/// How the object is deleted that a request is about: as it was looked at, where the request wants a revision.
pub(crate) fn deletion<K: kube::Resource>(object: &K) -> Result<DeleteParams, Fault> {
    let preconditions = check_revision(object)?.then(|| Preconditions {
        resource_version: object.meta().resource_version.clone(),
        uid: object.meta().uid.clone(),
    });
    Ok(DeleteParams { preconditions, ..DeleteParams::default() })
}

/// Whether another was faster with a change.
fn is_late(status: &kube::core::Status) -> bool {
    status.code == 409 && status.message.contains("has been modified")
}

/// How often a change is tried again that another made at the same time.
const ATTEMPTS: usize = 20;

/// Changes an object by what is there: what another changed meanwhile is looked at again, so that neither of two is lost.
pub(crate) async fn edit<K: Kind>(
    api: &Api<K>,
    mut object: K,
    change: impl Fn(&K) -> Result<Changes, Fault>,
) -> Result<K, Fault> {
    for _ in 0..ATTEMPTS {
        check_revision(&object)?;
        let version = object.meta().resource_version.clone();
        let mut patch = change(&object)?.patch(&object);
        patch["metadata"]["resourceVersion"] = json!(version);
        match api.patch(ids::name(&object), &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                object = api.get(ids::name(&object)).await?;
                // Nobody changed it: it is the change itself that cannot be.
                let is_same = object.meta().resource_version == version;
                if is_same && !is_late(&status) {
                    return Err(kube::Error::Api(status).into());
                }
            }
            other => return Ok(other?),
        }
    }
    Err(Fault::conflict("It is being changed by many at once; try again."))
}

/// The merge that makes free key-value pairs these and no others.
pub(crate) fn replacing(present: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Value {
    let mut changes = json!(wanted);
    for key in present.keys().filter(|key| !wanted.contains_key(*key)) {
        changes[key] = Value::Null;
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_is_changed() {
        let changes =
            Changes::default().set("a", Some("x")).set("b", None::<String>).set("c", Some(Value::Null));
        assert_eq!(Value::Object(changes.0), json!({"a": "x", "c": null}));
    }

    #[test]
    fn a_change_is_noted_with_its_time_and_none_is_not() {
        let spec = json!({"spec": {"displayName": "a", "mtu": 1450}});
        let object: yunfan_resources::network::Network = serde_json::from_value(json!({
            "apiVersion": "network.yunfan.io/v1", "kind": "Network", "metadata": {"name": "a"}, "spec": spec["spec"],
        }))
        .unwrap();
        let same = Changes::default().set("displayName", Some("a")).set("qosPolicy", Some(Value::Null));
        assert_eq!(same.patch(&object), json!({"spec": {"displayName": "a", "qosPolicy": null}}));
        let patch = Changes::default().set("displayName", Some("b")).patch(&object);
        let noted = patch["metadata"]["annotations"][UPDATED_ANNOTATION].as_str().unwrap();
        assert!(noted.parse::<Timestamp>().is_ok(), "{patch}");
    }

    #[tokio::test]
    async fn what_must_have_a_revision_is_refused_with_another() {
        let mut object = k8s_openapi::api::core::v1::ConfigMap::default();
        object.metadata.generation = Some(3);
        assert!(!check_revision(&object).unwrap() && deletion(&object).unwrap().preconditions.is_none());
        only_at(3, async { assert!(deletion(&object).unwrap().preconditions.is_some()) }).await;
        let fault = only_at(2, async { deletion(&object).unwrap_err() }).await;
        assert_eq!(
            (fault.status, fault.name),
            (StatusCode::PRECONDITION_FAILED, Some("RevisionNumberConstraintFailed"))
        );
    }

    #[test]
    fn what_is_not_wanted_any_more_is_taken_away() {
        let pairs =
            |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let changes = replacing(&pairs(&[("a", "1"), ("b", "2")]), &pairs(&[("b", "3"), ("c", "4")]));
        assert_eq!(changes, json!({"a": null, "b": "3", "c": "4"}));
    }
}
