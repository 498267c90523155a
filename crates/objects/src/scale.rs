//! The scale subresource: `autoscaling/v1` Scale in front of any kind that has numbers to scale.

use serde_json::{Value, json};

use crate::lookup::{at, text};
use crate::selector::LabelSelector;
use crate::{ApiError, Descriptor, FieldError, GroupVersionKind, Object, ScalePaths, builtin, patch};

/// Group, version and kind of a Scale.
pub fn gvk() -> GroupVersionKind {
    GroupVersionKind::new("autoscaling", "v1", "Scale")
}

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
        "spec": {},
        "status": {"replicas": count(status_replicas)},
    });
    // As in Kubernetes, where a Scale cannot tell none from none wanted.
    if count(spec_replicas) != 0 {
        scale["spec"]["replicas"] = json!(count(spec_replicas));
    }
    let shown = match selector.as_ref().and_then(|path| find(object, path)) {
        Some(Value::String(text)) => Some(text.clone()),
        // A ReplicationController's is a plain map.
        Some(Value::Object(map)) if map.values().any(Value::is_string) => {
            Some(LabelSelector::from_map(&Value::Object(map.clone())).to_string())
        }
        Some(object) => LabelSelector::from_object(object).ok().map(|selector| selector.to_string()),
        None => None,
    };
    if let Some(text) = shown {
        scale["status"]["selector"] = json!(text);
    }
    Some(scale)
}

/// As [`to_scale`], for who reads it.
///
/// # Errors
/// 404 for a kind without scale; 500 for an object of a custom kind that says no number, as Kubernetes has it.
pub fn read_scale(descriptor: &Descriptor, object: &Object) -> Result<Object, ApiError> {
    let path = descriptor.scale.iter().map(|paths| &paths.spec_replicas).next();
    match path.filter(|path| !descriptor.builtin && find(object, path).is_none()) {
        Some(path) => {
            let why = format!("the spec replicas field {:?} does not exist", shown_path(path));
            Err(ApiError::internal(why))
        }
        None => to_scale(descriptor, object).ok_or_else(ApiError::no_such_path),
    }
}

/// A path as a definition has it.
fn shown_path(path: &[String]) -> String {
    path.iter().map(|key| format!(".{key}")).collect()
}

/// Writes a Scale's number into a copy of the object. A resourceVersion in the Scale comes along
/// as precondition.
///
/// # Errors
/// 422 for a number below zero or none; 404 for a kind without scale.
pub fn apply_scale(descriptor: &Descriptor, object: &Object, scale: &Object) -> Result<Object, ApiError> {
    let Some(paths) = &descriptor.scale else { return Err(ApiError::no_such_path()) };
    let replicas = wanted(descriptor, paths, scale, text(object, &["metadata", "name"]))?;
    let mut out = object.clone();
    put(&mut out, &paths.spec_replicas, replicas.unwrap_or(0));
    preconditions(&mut out, scale);
    Ok(out)
}

/// Checks an applied Scale.
///
/// # Errors
/// 400 for another kind than Scale; 500 for fields that it has not, as of any applied configuration.
pub fn check_configuration(scale: &Object) -> Result<(), ApiError> {
    let given = GroupVersionKind::read(scale);
    if given != gvk() {
        return Err(ApiError::bad_request(format!("invalid object type: {given}")));
    }
    patch::check_configuration(scale, &given, &builtin::scale(), true)
}

fn check_kind(scale: &Object) -> Result<(), ApiError> {
    let fits =
        |key: &str, wanted: &str| matches!(text(scale, &[key]), given if given.is_empty() || given == wanted);
    if scale.is_object() && fits("kind", "Scale") && fits("apiVersion", "autoscaling/v1") {
        return Ok(());
    }
    Err(ApiError::bad_request("the body must be a Scale of autoscaling/v1"))
}

/// The number that a Scale asks for, where it names one.
fn wanted(
    descriptor: &Descriptor,
    paths: &ScalePaths,
    scale: &Object,
    name: &str,
) -> Result<Option<i64>, ApiError> {
    check_kind(scale)?;
    let given = match at(scale, &["spec", "replicas"]) {
        None | Some(Value::Null) => return Ok(None),
        Some(given) => given,
    };
    let Some(replicas) = given.as_i64().filter(|number| i32::try_from(*number).is_ok()) else {
        return Err(ApiError::bad_request(format!(
            "Scale in version \"v1\" cannot be handled as a Scale: spec.replicas: {given} is no 32-bit number"
        )));
    };
    if replicas < 0 && !descriptor.builtin {
        let field = shown_path(&paths.spec_replicas);
        let error = FieldError::invalid(field, replicas, "should be a non-negative integer");
        return Err(ApiError::invalid(&descriptor.gvk(), name, &[error]));
    }
    if replicas < 0 {
        let error = FieldError::invalid("spec.replicas", replicas, "must be greater than or equal to 0");
        return Err(ApiError::invalid(&gvk(), name, &[error]));
    }
    Ok(Some(replicas))
}

fn put(object: &mut Object, path: &[String], replicas: i64) {
    let mut slot = object;
    for key in path {
        if !slot.is_object() {
            *slot = json!({});
        }
        slot = &mut slot[key.as_str()];
    }
    *slot = json!(replicas);
}

fn preconditions(object: &mut Object, scale: &Object) {
    for key in ["resourceVersion", "uid"] {
        if let Some(value) = at(scale, &["metadata", key]).filter(|value| value.is_string()) {
            object["metadata"][key] = value.clone();
        }
    }
}
