//! Where `kubectl apply` goes over from the client's side to the server's.
//!
//! The old way keeps what was applied in an annotation, and owns its fields by plain updates. Under the manager `kubectl`, an
//! apply may take the fields over that stand in that annotation as the object has them, and keeps the annotation up to date for
//! those who go on in the old way.

use serde_json::{Map, Value, json};

use super::apply::Writer;
use super::fields::{FieldSet, compare};
use crate::Object;
use crate::lookup::text;
use crate::meta::{ANNOTATIONS_LIMIT, annotations_size};
use crate::schema::Schema;

/// The manager for which it is done.
const MANAGER: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The fields of the live object that this writer may take from whoever owns them.
pub(super) fn may_take(live: &Object, writer: &Writer<'_>, schema: Option<&Schema>) -> FieldSet {
    if writer.manager != MANAGER {
        return FieldSet::default();
    }
    let Ok(last) = serde_json::from_str::<Value>(text(live, &["metadata", "annotations", ANNOTATION])) else {
        return FieldSet::default();
    };
    // Fields of another version may be others.
    if text(&last, &["apiVersion"]) != writer.api_version {
        return FieldSet::default();
    }
    let mut fields = FieldSet::of(&last, schema, false);
    // What is otherwise by now was not this configuration's doing.
    let since = compare(&last, live, schema);
    fields.subtract(&since.changed);
    fields.subtract(&since.removed);
    fields
}

/// Writes what was applied into the annotation, where there is one.
pub(super) fn keep(object: &mut Object, applied: &Object, writer: &Writer<'_>) {
    if writer.manager != MANAGER || text(object, &["metadata", "annotations", ANNOTATION]).is_empty() {
        return;
    }
    let mut applied = applied.clone();
    let annotations_of = |object: &mut Object| -> Option<Map<String, Value>> {
        object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut().map(std::mem::take)
    };
    if let Some(mut annotations) = annotations_of(&mut applied) {
        annotations.remove(ANNOTATION);
        applied["metadata"]["annotations"] = Value::Object(annotations);
    }
    let Some(mut annotations) = annotations_of(object) else { return };
    annotations.insert(ANNOTATION.to_owned(), json!(format!("{applied}\n")));
    if annotations_size(&annotations) > ANNOTATIONS_LIMIT {
        annotations.remove(ANNOTATION);
    }
    object["metadata"]["annotations"] = Value::Object(annotations);
}
