//! Whether an applied configuration fits its kind's schema: each field declared and of its type, each item of a
//! keyed list with its keys and there once. Worded as Kubernetes' merge library words it.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde_json::Value;

use super::fields::{Shape, field_schema, item_schema, items, shape, shown_step};
use crate::lookup::text;
use crate::schema::{Schema, SchemaType};
use crate::{ApiError, Descriptor, GroupVersionKind, Object, golang};

/// Most findings about one configuration.
const MAX_FINDINGS: usize = 64;

impl Descriptor {
    /// Checks an applied configuration of this kind.
    ///
    /// # Errors
    /// 500 without a reason, as Kubernetes has it, with all that does not fit.
    pub fn check_configuration(&self, applied: &Object) -> Result<(), ApiError> {
        check_configuration(applied, &self.gvk(), &self.schema, self.builtin)
    }
}

/// As [`Descriptor::check_configuration`], by a schema. `lenient` is for kinds of Kubernetes' own.
pub(crate) fn check_configuration(
    applied: &Object,
    kind: &GroupVersionKind,
    schema: &Schema,
    lenient: bool,
) -> Result<(), ApiError> {
    let mut check = Check { lenient, path: String::new(), found: Vec::new() };
    check.value(applied, Some(schema), true);
    let listed = match check.found.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    let place = |key| text(applied, &["metadata", key]);
    Err(ApiError::unclassified(format!(
        "failed to create typed patch object ({}/{}; {kind}): {listed}",
        place("namespace"),
        place("name"),
    )))
}

struct Check {
    /// Keys that an item lacks are empty ones.
    lenient: bool,
    path: String,
    found: Vec<String>,
}

impl Check {
    fn note(&mut self, why: &str) {
        if self.found.len() < MAX_FINDINGS {
            self.found.push(format!("{}: {why}", self.path));
        }
    }

    fn value(&mut self, value: &Value, schema: Option<&Schema>, root: bool) {
        let Some(schema) = schema else { return };
        if let Some(why) = mismatch(value, schema) {
            self.note(&why);
            return;
        }
        match value {
            Value::Object(map) => {
                let system = |key: &str| {
                    (root || schema.embedded_resource) && matches!(key, "apiVersion" | "kind" | "metadata")
                };
                let known = |key: &str| field_schema(Some(schema), key).is_some() || system(key);
                // With a field that nobody declared, the rest of an object is not looked at.
                let unknown = map.keys().find(|key| !schema.is_open() && !known(key));
                for (key, inner) in
                    map.iter().filter(|(key, _)| unknown.is_none_or(|unknown| unknown == *key))
                {
                    let length = self.path.len();
                    // Writing to a text cannot fail.
                    let _ = write!(self.path, ".{key}");
                    match field_schema(Some(schema), key) {
                        Some(found) => self.value(inner, Some(found), false),
                        None if unknown.is_none() => {}
                        None => self.note("field not declared in schema"),
                    }
                    self.path.truncate(length);
                }
            }
            Value::Array(_) => self.list(value, schema),
            _ => {}
        }
    }

    fn list(&mut self, value: &Value, schema: &Schema) {
        let inner = item_schema(Some(schema));
        let Some(listed) = items(value, Some(schema)) else {
            for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                self.item(&format!("[{index}]"), item, inner);
            }
            return;
        };
        let mut seen = BTreeSet::new();
        for (index, (step, item)) in listed.into_iter().enumerate() {
            let Some(step) = step.filter(|_| !item.is_null()) else {
                if item.is_null() {
                    let why = match shape(value, Some(schema)) {
                        Shape::Keyed(_) => "with keys may not have a null element",
                        _ => "without keys has an element that's an explicit null",
                    };
                    self.note(&format!("element {index}: associative list {why}"));
                } else if !self.lenient {
                    self.note(&without_keys(index, value, schema));
                }
                continue;
            };
            let shown = shown_step(&step);
            if let Some(why) =
                unfit_for_set(item).filter(|_| matches!(shape(value, Some(schema)), Shape::Set))
            {
                self.note(&format!("element {index}: {why}"));
                continue;
            }
            if !seen.insert(step) {
                self.note(&format!("duplicate entries for key {shown}"));
            }
            self.item(&shown, item, inner);
        }
    }

    fn item(&mut self, step: &str, item: &Value, schema: Option<&Schema>) {
        let length = self.path.len();
        self.path.push_str(step);
        self.value(item, schema, false);
        self.path.truncate(length);
    }
}

/// Why an item cannot be told apart by its value.
fn unfit_for_set(item: &Value) -> Option<&'static str> {
    match item {
        Value::Object(_) => Some("associative list without keys has an element that's a map type"),
        Value::Array(_) => Some("not supported: associative list with lists as elements"),
        _ => None,
    }
}

fn without_keys(index: usize, value: &Value, schema: &Schema) -> String {
    let keys = match shape(value, Some(schema)) {
        Shape::Keyed(keys) => keys.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(" "),
        _ => String::new(),
    };
    format!(
        "element {index}: associative list with keys has an element that omits all key fields [{keys}] (and doesn't have default values for any key fields)"
    )
}

/// What a value ought to be, if it is not.
fn mismatch(value: &Value, schema: &Schema) -> Option<String> {
    let fits = match schema.kind {
        _ if value.is_null() => true,
        SchemaType::Any => true,
        SchemaType::Object => value.is_object(),
        SchemaType::Array => value.is_array(),
        SchemaType::String => value.is_string(),
        SchemaType::Boolean => value.is_boolean(),
        SchemaType::Integer | SchemaType::Number => value.is_number(),
        SchemaType::IntOrString | SchemaType::Quantity => !value.is_object() && !value.is_array(),
    };
    let shown = || format!("&value.valueUnstructured{{Value:{}}}", golang::sharp(value));
    (!fits).then(|| match schema.kind {
        SchemaType::Object => format!("expected map, got &{{{}}}", golang::plain(value)),
        SchemaType::Array => format!("expected list, got &{{{}}}", golang::plain(value)),
        SchemaType::Integer | SchemaType::Number => {
            format!("expected numeric (int or float), got {}", golang::dynamic_type(value))
        }
        SchemaType::Boolean => format!("expected boolean, got {}", shown()),
        SchemaType::String => format!("expected string, got {}", shown()),
        _ => format!("expected scalar, got {}", golang::dynamic_type(value)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;
    use serde_json::json;

    fn of(kind: &str, applied: Value) -> String {
        let all = builtin::descriptors();
        let found = all.iter().find(|each| each.kind == kind).expect("a kind");
        found
            .check_configuration(&applied)
            .map_or_else(|error| error.message().to_owned(), |()| String::new())
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_path() {
        let map = |with: Value| of("ConfigMap", with);
        let lead = "failed to create typed patch object (n/a; /v1, Kind=ConfigMap): ";
        let meta = json!({"name": "a", "namespace": "n"});
        assert_eq!(
            map(json!({"metadata": meta, "data": {"k": 1}})),
            format!("{lead}.data.k: expected string, got &value.valueUnstructured{{Value:1}}")
        );
        assert_eq!(
            map(json!({"metadata": meta, "data": ["x"]})),
            format!("{lead}.data: expected map, got &{{[x]}}")
        );
        assert_eq!(
            map(json!({"metadata": meta, "nope": 1})),
            format!("{lead}.nope: field not declared in schema")
        );
        let containers =
            |list: Value| of("Pod", json!({"metadata": {"name": "p"}, "spec": {"containers": list}}));
        assert_eq!(
            containers(json!([{"name": "a"}, {"name": "a", "stdin": 1, "tty": "x"}])),
            "failed to create typed patch object (/p; /v1, Kind=Pod): errors:\n  .spec.containers: duplicate entries for key [name=\"a\"]\n  .spec.containers[name=\"a\"].stdin: expected boolean, got &value.valueUnstructured{Value:1}\n  .spec.containers[name=\"a\"].tty: expected boolean, got &value.valueUnstructured{Value:\"x\"}"
        );
        assert_eq!(
            containers(json!([null])),
            "failed to create typed patch object (/p; /v1, Kind=Pod): .spec.containers: element 0: associative list with keys may not have a null element"
        );
        let finalizers =
            |list: Value| of("ConfigMap", json!({"metadata": {"name": "a", "finalizers": list}}));
        assert_eq!(
            finalizers(json!([{"a": 1}])),
            "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .metadata.finalizers: element 0: associative list without keys has an element that's a map type"
        );
        assert_eq!(
            finalizers(json!(["a/b", []])),
            "failed to create typed patch object (/a; /v1, Kind=ConfigMap): .metadata.finalizers: element 1: not supported: associative list with lists as elements"
        );
        assert_eq!(
            of("Deployment", json!({"spec": {"replicas": "x"}})),
            "failed to create typed patch object (/; apps/v1, Kind=Deployment): .spec.replicas: expected numeric (int or float), got string"
        );
    }

    #[test]
    fn what_fits_passes() {
        assert_eq!(
            of("Pod", json!({"spec": {"containers": [{"image": "x", "ports": [{"containerPort": 1}]}]}})),
            ""
        );
        let limits = json!({"cpu": 1, "memory": "1Gi"});
        assert_eq!(
            of("Pod", json!({"spec": {"containers": [{"name": "a", "resources": {"limits": limits}}]}})),
            ""
        );
    }
}
