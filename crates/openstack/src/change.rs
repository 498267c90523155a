//! Changes of an object's spec, as the caller: what a request names, and nothing else.

use std::collections::BTreeMap;

use kube::api::{Api, Patch, PatchParams};
use serde_json::{Map, Value, json};

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

    /// Writes them to an object that `api` can see; returns what it is then.
    pub(crate) async fn apply<K: Kind>(self, api: &Api<K>, object: &K) -> Result<K, Fault> {
        let patch = Patch::Merge(json!({"spec": self.0}));
        Ok(api.patch(ids::name(object), &PatchParams::default(), &patch).await?)
    }
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
        let version = object.meta().resource_version.clone();
        let patch = json!({"metadata": {"resourceVersion": version}, "spec": change(&object)?.0});
        match api.patch(ids::name(&object), &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                object = api.get(ids::name(&object)).await?;
                // Nobody changed it: it is the change itself that cannot be.
                let is_same = object.meta().resource_version == version;
                if is_same && !status.message.contains("has been modified") {
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
    fn what_is_not_wanted_any_more_is_taken_away() {
        let pairs =
            |all: &[(&str, &str)]| all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let changes = replacing(&pairs(&[("a", "1"), ("b", "2")]), &pairs(&[("b", "3"), ("c", "4")]));
        assert_eq!(changes, json!({"a": null, "b": "3", "c": "4"}));
    }
}
