//! The scale subresource: `autoscaling/v1` Scale in front of any kind that has numbers to scale.

use serde_json::{Value, json};

use crate::lookup::{at, number};
use crate::selector::LabelSelector;
use crate::{ApiError, Descriptor, FieldError, GroupVersionKind, Object, ScalePaths};

fn find<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    let keys: Vec<&str> = path.iter().map(String::as_str).collect();
    at(object, &keys)
}

/// The Scale of an object; `None` where its kind has none.
pub fn to_scale(descriptor: &Descriptor, object: &Object) -> Option<Object> {
    let ScalePaths { spec_replicas, status_replicas, selector } = descriptor.scale.as_ref()?;
    let count = |path: &[String]| find(object, path).and_then(Value::as_i64).unwrap_or(0);
    let mut metadata = json!({});
    for key in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = at(object, &["metadata", key]) {
            metadata[key] = value.clone();
        }
    }
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": {"replicas": count(spec_replicas)},
        "status": {"replicas": count(status_replicas)},
    });
    let text = match selector.as_ref().and_then(|path| find(object, path)) {
        Some(Value::String(text)) => Some(text.clone()),
        // A ReplicationController's is a plain map.
        Some(Value::Object(map)) if map.values().any(Value::is_string) => {
            Some(LabelSelector::from_map(&Value::Object(map.clone())).to_string())
        }
        Some(object) => LabelSelector::from_object(object).ok().map(|selector| selector.to_string()),
        None => None,
    };
    if let Some(text) = text {
        scale["status"]["selector"] = json!(text);
    }
    Some(scale)
}

/// Writes a Scale's number into a copy of the object. A resourceVersion in the Scale comes along
/// as precondition.
///
/// # Errors
/// 422 for a number below zero or none; 404 for a kind without scale.
pub fn apply_scale(descriptor: &Descriptor, object: &Object, scale: &Object) -> Result<Object, ApiError> {
    let Some(paths) = &descriptor.scale else { return Err(ApiError::no_such_path()) };
    let replicas = number(scale, &["spec", "replicas"]).unwrap_or(0);
    if !(0..=i64::from(i32::MAX)).contains(&replicas) {
        let kind = GroupVersionKind::new("autoscaling", "v1", "Scale");
        let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        return Err(ApiError::invalid(&kind, name, &[error]));
    }
    let mut out = object.clone();
    let mut slot = &mut out;
    for key in &paths.spec_replicas {
        if !slot.is_object() {
            *slot = json!({});
        }
        slot = &mut slot[key.as_str()];
    }
    *slot = json!(replicas);
    if let Some(revision) = at(scale, &["metadata", "resourceVersion"]) {
        out["metadata"]["resourceVersion"] = revision.clone();
    }
    Ok(out)
}
