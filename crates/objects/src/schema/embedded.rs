//! Whole objects inside of objects (`x-kubernetes-embedded-resource`): their own fields must be as any object's.

use serde_json::Value;

use super::Schema;
use super::shape::{MAX_FINDINGS, Path};
use crate::error::FieldError;
use crate::lookup::text;
use crate::meta;

impl Schema {
    /// What is wrong with the own fields of the objects inside of this one.
    pub fn embedded_errors(&self, value: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.find_embedded(value, &mut Path::default(), &mut errors);
        errors
    }

    /// Removes what nobody knows from the metadata of the objects inside of this one, and returns the paths.
    pub fn prune_embedded(&self, value: &mut Value) -> Vec<String> {
        let mut found = Vec::new();
        self.prune_inside(value, &mut Path::default(), &mut found);
        found.sort_unstable();
        found.truncate(MAX_FINDINGS);
        found
    }

    fn prune_inside(&self, value: &mut Value, path: &mut Path, found: &mut Vec<String>) {
        let length = path.len();
        match value {
            Value::Object(map) => {
                if let (true, Some(metadata)) = (self.embedded_resource, map.get_mut("metadata")) {
                    path.push_field("metadata");
                    let unknown = crate::builtin::object_meta().prune(metadata);
                    found.extend(unknown.iter().map(|field| format!("{}.{field}", path.as_str())));
                    path.truncate(length);
                }
                for (key, value) in map {
                    let Some(schema) = self.field(key) else { continue };
                    path.push_entry(self, key);
                    schema.prune_inside(value, path, found);
                    path.truncate(length);
                }
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                for (index, item) in items.iter_mut().enumerate() {
                    path.push_item(index);
                    schema.prune_inside(item, path, found);
                    path.truncate(length);
                }
            }
            _ => {}
        }
    }

    fn find_embedded(&self, value: &Value, path: &mut Path, errors: &mut Vec<FieldError>) {
        if self.embedded_resource && value.is_object() {
            own_fields(value, path.as_str(), errors);
        }
        let length = path.len();
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let Some(schema) = self.field(key) else { continue };
                    path.push_entry(self, key);
                    schema.find_embedded(value, path, errors);
                    path.truncate(length);
                }
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                for (index, item) in items.iter().enumerate() {
                    path.push_item(index);
                    schema.find_embedded(item, path, errors);
                    path.truncate(length);
                }
            }
            _ => {}
        }
    }
}

fn own_fields(object: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let at = |field: &str| if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
    for field in ["apiVersion", "kind"] {
        match object.get(field) {
            None => errors.push(FieldError::required(at(field), "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(at(field), "", "must not be empty"));
            }
            Some(Value::String(text)) if field == "kind" => {
                for why in meta::dns1035_label(&text.to_lowercase()) {
                    let why = format!("may have mixed case, but should otherwise match: {why}");
                    errors.push(FieldError::invalid(at(field), text.as_str(), why));
                }
            }
            Some(Value::String(text)) => {
                if text.matches('/').count() > 1 {
                    let why = format!("unexpected GroupVersion string: {text}");
                    errors.push(FieldError::invalid(at(field), text.as_str(), why));
                }
            }
            Some(other) => errors.push(FieldError::invalid(at(field), other.clone(), "must be a string")),
        }
    }
    let Some(metadata) = object.get("metadata") else { return };
    if !metadata.is_object() {
        return errors.push(FieldError::invalid(at("metadata"), metadata.clone(), "must be an object"));
    }
    let types = crate::builtin::object_meta().type_errors_at(metadata, &at("metadata"));
    if !types.is_empty() {
        return errors.extend(types);
    }
    let labels = format!("{}.labels", at("metadata"));
    errors.extend(meta::validate_labels(metadata.get("labels"), &labels));
    let annotations = format!("{}.annotations", at("metadata"));
    errors.extend(meta::validate_annotations(metadata.get("annotations"), &annotations));
    let name = text(metadata, &["name"]);
    errors.extend(meta::all_wrong(&format!("{}.name", at("metadata")), name, meta::path_segment(name)));
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::SchemaRef;

    #[test]
    fn the_metadata_of_a_whole_object_is_known_whatever_its_schema_names() {
        let schema = json!({"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}}, "spec": {"type": "object"}}});
        let schema = SchemaRef::from_openapi(&schema).unwrap();
        let mut value = json!({"apiVersion": "v1", "kind": "Pod", "more": 1, "spec": {"odd": 1},
            "metadata": {"name": "a", "namespace": "n", "labels": {"a": "b"}, "odd": 1}});
        assert_eq!(schema.prune(&mut value), ["more", "spec.odd"]);
        assert_eq!(schema.prune_embedded(&mut value), ["metadata.odd"]);
        assert_eq!(value["metadata"], json!({"name": "a", "namespace": "n", "labels": {"a": "b"}}));
    }
}
