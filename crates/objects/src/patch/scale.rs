//! Who owns the number of an object that is written through its Scale.
//!
//! As in Kubernetes, what a write does is told by the Scales before and after it: those who own the object's number own that of the
//! Scale, and what becomes of that becomes of the object's. So a number of zero, which a Scale does not show, is nobody's unless
//! it was applied.

use serde_json::Value;

use super::apply::{self, Settable, Writer};
use super::managers::Managers;
use crate::{ApiError, Descriptor, Object, builtin, scale};

const API_VERSION: &str = "autoscaling/v1";
const NUMBER: [&str; 2] = ["spec", "replicas"];

/// The steps to the number in objects of a kind.
fn number(kind: &Descriptor) -> Vec<&str> {
    kind.scale.iter().flat_map(|paths| &paths.spec_replicas).map(String::as_str).collect()
}

/// An object's Scale, with those who own its number.
fn owned_scale(kind: &Descriptor, object: &Object) -> Result<Object, ApiError> {
    let mut scale = scale::to_scale(kind, object).ok_or_else(ApiError::no_such_path)?;
    Managers::read(object).of_field(&number(kind), &NUMBER, API_VERSION).write(&mut scale);
    Ok(scale)
}

/// Notes in an object who owns its number, as the Scale says it after a write.
fn put_owners(kind: &Descriptor, old: &Object, new: &mut Object, scale: &Object) {
    let owners = Managers::read(scale);
    Managers::read(old).with_field(owners, &NUMBER, &number(kind), &kind.api_version()).write(new);
}

/// Notes who owns what after an update through the Scale. `writer` is as for the object.
///
/// # Errors
/// 404 for a kind without Scale.
pub fn track_update(
    kind: &Descriptor,
    old: &Object,
    new: &mut Object,
    writer: &Writer<'_>,
) -> Result<(), ApiError> {
    let before = owned_scale(kind, old)?;
    let mut after = scale::to_scale(kind, new).ok_or_else(ApiError::no_such_path)?;
    let writer = Writer { api_version: API_VERSION, ..writer.clone() };
    apply::track_update(Some(&before), &mut after, &writer, &builtin::scale());
    put_owners(kind, old, new, &after);
    Ok(())
}

/// Applies a Scale to an object; see [`apply`](apply::apply). `check` looks at the Scale that comes of it.
///
/// # Errors
/// As there; 422 for a number below zero; 404 for a kind without Scale.
pub fn apply(
    kind: &Descriptor,
    live: &Object,
    applied: &Object,
    writer: &Writer<'_>,
    force: bool,
    check: impl FnOnce(&Value) -> Result<(), ApiError>,
) -> Result<Object, ApiError> {
    let (before, schema) = (owned_scale(kind, live)?, builtin::scale());
    let writer = Writer { api_version: API_VERSION, ..writer.clone() };
    let settable =
        Settable { subresource: writer.subresource, status_subresource: false, kept_by_status: None };
    let tracked = apply::before_first_apply(&before, &writer, settable, &schema);
    let scale = apply::apply(Some(tracked.as_ref().unwrap_or(&before)), applied, &writer, force, &schema)?;
    check(&scale)?;
    let mut out = scale::apply_scale(kind, live, &scale)?;
    put_owners(kind, live, &mut out, &scale);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    const KIND: &str = "apps/v1";

    fn deployment() -> Descriptor {
        let all = builtin::descriptors();
        all.into_iter().find(|each| each.kind == "Deployment").expect("a kind")
    }

    fn writer(manager: &str) -> Writer<'_> {
        Writer { manager, subresource: "scale", api_version: KIND, now: Timestamp::UNIX_EPOCH }
    }

    fn object(replicas: i64, owned: Value) -> Object {
        let entry = json!({"manager": "kubectl", "operation": "Update", "apiVersion": KIND, "fieldsType": "FieldsV1", "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:spec": owned}});
        json!({"apiVersion": KIND, "kind": "Deployment", "metadata": {"name": "d", "managedFields": [entry]}, "spec": {"replicas": replicas, "paused": true}})
    }

    fn scaled(object: &Object, replicas: i64, by: &str) -> Object {
        let mut new = object.clone();
        new["spec"]["replicas"] = json!(replicas);
        track_update(&deployment(), object, &mut new, &writer(by)).expect("has a scale");
        new
    }

    /// Who owns the number.
    fn owners(object: &Object) -> Vec<&str> {
        let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
        let owning = entries.filter(|entry| entry["fieldsV1"]["f:spec"].get("f:replicas").is_some());
        owning.map(|entry| entry["manager"].as_str().unwrap_or_default()).collect()
    }

    #[test]
    fn who_scales_takes_the_number_and_zero_is_nobodys() {
        let first = object(2, json!({"f:replicas": {}, "f:paused": {}}));
        let more = scaled(&first, 3, "autoscaler");
        assert_eq!(owners(&more), ["autoscaler"]);
        let entries = &more["metadata"]["managedFields"];
        assert_eq!(entries[0]["subresource"], "scale");
        assert_eq!(entries[0]["apiVersion"], KIND);
        assert!(entries[0].get("time").is_none(), "{entries}");
        assert_eq!(entries[1]["fieldsV1"], json!({"f:spec": {"f:paused": {}}}));
        let none = scaled(&more, 0, "autoscaler");
        assert!(owners(&none).is_empty());
        // What nobody owned stays so until it is applied.
        assert!(owners(&scaled(&none, 4, "autoscaler")).is_empty());
    }

    #[test]
    fn an_applied_scale_is_in_conflict_by_its_own_names() {
        let first = object(2, json!({"f:replicas": {}}));
        let applied = json!({"apiVersion": API_VERSION, "kind": "Scale", "metadata": {"name": "d"}, "spec": {"replicas": 0}});
        let apply = |live: &Object, by: &str, force| {
            super::apply(&deployment(), live, &applied, &writer(by), force, |_| Ok(()))
        };
        let refused = apply(&first, "me", false).unwrap_err();
        assert_eq!(
            refused.message(),
            "Apply failed with 1 conflict: conflict with \"kubectl\" using autoscaling/v1: .spec.replicas"
        );
        let forced = apply(&first, "me", true).unwrap();
        assert_eq!(forced["spec"]["replicas"], 0);
        assert_eq!(owners(&forced), ["me"]);
        // Who applies a Scale without a number keeps what it applied before; who applies nothing of it does not.
        let with_spec = |spec: Value| json!({"apiVersion": API_VERSION, "kind": "Scale", "metadata": {"name": "d"}, "spec": spec});
        let again =
            |applied: Value| super::apply(&deployment(), &forced, &applied, &writer("me"), false, |_| Ok(()));
        assert_eq!(owners(&again(with_spec(json!({}))).unwrap()), ["me"]);
        let mut nothing = with_spec(Value::Null);
        nothing.as_object_mut().expect("an object").remove("spec");
        assert!(owners(&again(nothing).unwrap()).is_empty());
        // A Scale does not show a zero, so it is a change for whoever applies it next.
        assert!(apply(&forced, "other", false).unwrap_err().message().contains("conflict with \"me\""));
    }
}
