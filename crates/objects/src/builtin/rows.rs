//! Parts of table rows that several kinds share.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::ColumnSpec;
use crate::lookup::text;
use crate::selector::LabelSelector;
use crate::table::age;

/// The columns of a kind that shows nothing else.
pub(super) const NAME_AGE: &[ColumnSpec] = &[("Name", "string", 0), ("Age", "string", 0)];

/// The cells of a kind that shows nothing else.
pub(super) fn name_age(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(object), since_creation(object, now)]
}

/// The columns of a kind that Kubernetes has none for.
pub(super) const NAME_CREATED_AT: &[ColumnSpec] = &[("Name", "string", 0), ("Created At", "date", 0)];

/// The cells of a kind that Kubernetes has no columns for.
pub(super) fn name_created_at(object: &Object, _now: Timestamp) -> Vec<Value> {
    vec![name(object), json!(text(object, &["metadata", "creationTimestamp"]))]
}

/// The object's name.
pub(super) fn name(object: &Object) -> Value {
    json!(text(object, &["metadata", "name"]))
}

/// The object's name, and whether it is the default of its kind: that is what one of these annotations says.
pub(super) fn default_mark(object: &Object, annotations: &[&str]) -> Value {
    let marked = |annotation: &&str| text(object, &["metadata", "annotations", *annotation]) == "true";
    let mark = if annotations.iter().any(marked) { " (default)" } else { "" };
    json!(format!("{}{mark}", text(object, &["metadata", "name"])))
}

/// How long ago the object was made.
pub(super) fn since_creation(object: &Object, now: Timestamp) -> Value {
    json!(age(text(object, &["metadata", "creationTimestamp"]), now))
}

/// A text, or `<none>` where it is empty.
pub(super) fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

/// Names and images of a pod template's containers, as two cells.
pub(super) fn containers(pod_spec: &Value) -> [Value; 2] {
    let containers = crate::lookup::list(pod_spec, &["containers"]);
    let join = |key: &str| {
        let texts: Vec<&str> = containers.iter().map(|container| text(container, &[key])).collect();
        json!(texts.join(","))
    };
    [join("name"), join("image")]
}

/// A `metav1.LabelSelector` as text.
pub(super) fn selector(selector: &Value) -> Value {
    match LabelSelector::from_object(selector) {
        Ok(selector) => or_none(&selector.to_string()),
        Err(_) => json!("<error>"),
    }
}

/// A map of labels as text.
pub(super) fn labels(labels: &Value) -> Value {
    let texts: Vec<String> = crate::lookup::entries(labels, &[])
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    or_none(&texts.join(","))
}
