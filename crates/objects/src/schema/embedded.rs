//! Whole objects inside of objects (`x-kubernetes-embedded-resource`): their own fields must be as any object's.

use serde_json::Value;

use super::Schema;
use super::shape::{MAX_FINDINGS, Path};
use crate::decode::metadata_error;
use crate::error::FieldError;
use crate::lookup::{list, text};
use crate::meta;

impl Schema {
    /// What is wrong with the own fields of the objects inside of this one.
    pub fn embedded_errors(&self, value: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.find_embedded(value, &mut Path::default(), &mut errors);
        errors
    }

    /// Reads the own fields of the objects inside of this one as any object's are read, removes what nobody knows from their metadata,
    /// and returns the paths of that.
    ///
    /// # Errors
    /// The first own field of a wrong type.
    pub fn settle_embedded(&self, value: &mut Value) -> Result<Vec<String>, FieldError> {
        let mut found = Vec::new();
        self.settle_inside(value, &mut Path::default(), &mut found)?;
        found.sort_unstable();
        found.truncate(MAX_FINDINGS);
        Ok(found)
    }

    fn settle_inside(
        &self,
        value: &mut Value,
        path: &mut Path,
        found: &mut Vec<String>,
    ) -> Result<(), FieldError> {
        let length = path.len();
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    if self.embedded_resource && OWN_FIELDS.contains(&key.as_str()) {
                        path.push_field(key);
                        settle_own(key, value, path.as_str(), found)?;
                        path.truncate(length);
                    }
                    let Some(schema) = self.field(key) else { continue };
                    path.push_entry(self, key);
                    schema.settle_inside(value, path, found)?;
                    path.truncate(length);
                }
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return Ok(()) };
                for (index, item) in items.iter_mut().enumerate() {
                    path.push_item(index);
                    schema.settle_inside(item, path, found)?;
                    path.truncate(length);
                }
            }
            _ => {}
        }
        Ok(())
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

/// What every object has of its own.
const OWN_FIELDS: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Reads an own field of an object inside of another.
fn settle_own(key: &str, value: &mut Value, path: &str, found: &mut Vec<String>) -> Result<(), FieldError> {
    if key != "metadata" {
        let fits = value.is_string();
        return if fits { Ok(()) } else { Err(FieldError::invalid(path, value.clone(), "must be a string")) };
    }
    let schema = crate::builtin::object_meta();
    let given = value.clone();
    if value.is_null() {
        *value = Value::Object(serde_json::Map::new());
    }
    schema.drop_nulls(value);
    if let Some(why) = metadata_error(value) {
        return Err(FieldError::invalid(path, given, why));
    }
    let unknown = schema.prune(value);
    found.extend(unknown.iter().map(|field| format!("{path}.{field}")));
    Ok(())
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
    let owners = format!("{}.ownerReferences", at("metadata"));
    errors.extend(meta::validate_owners(list(metadata, &["ownerReferences"]), &owners));
    let name = text(metadata, &["name"]);
    errors.extend(meta::all_wrong(&format!("{}.name", at("metadata")), name, meta::path_segment(name)));
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::SchemaRef;

    #[test]
    fn the_metadata_of_a_whole_object_is_known_whatever_its_schema_names() {
        let schema = json!({"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}}, "spec": {"type": "object"}}});
        let schema = SchemaRef::from_openapi(&schema).unwrap();
        let mut value = json!({"apiVersion": "v1", "kind": "Pod", "more": 1, "spec": {"odd": 1},
            "metadata": {"name": "a", "namespace": "n", "labels": {"a": "b"}, "odd": 1}});
        assert_eq!(schema.prune(&mut value), ["more", "spec.odd"]);
        assert_eq!(schema.settle_embedded(&mut value), Ok(vec!["metadata.odd".to_owned()]));
        assert_eq!(value["metadata"], json!({"name": "a", "namespace": "n", "labels": {"a": "b"}}));
    }

    #[test]
    fn owners_of_a_whole_object_inside_of_another_are_whole() {
        let mut errors = Vec::new();
        let owned = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "a"}]}});
        super::own_fields(&owned, "one", &mut errors);
        let found: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["one.metadata.ownerReferences.uid: Invalid value: \"\": must not be empty"]);
    }

    #[test]
    fn own_fields_of_a_wrong_type_are_refused_as_they_are_read() {
        let whole = json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"one": whole}}}});
        let schema = SchemaRef::from_openapi(&schema).unwrap();
        let settled = |one: Value| {
            let mut value = json!({"spec": {"one": one}});
            let found = schema.settle_embedded(&mut value).map_err(|error| error.to_string());
            found.map(|_| value["spec"]["one"].take())
        };
        for (one, why) in [
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "spec.one.metadata: Invalid value: {\"labels\":{\"a\":1}}: json: cannot unmarshal number into Go struct field ObjectMeta.labels of type string",
            ),
            (
                json!({"metadata": 5}),
                "spec.one.metadata: Invalid value: 5: json: cannot unmarshal number into Go value of type v1.ObjectMeta",
            ),
            (json!({"kind": 5}), "spec.one.kind: Invalid value: 5: must be a string"),
        ] {
            assert_eq!(settled(one), Err(why.to_owned()));
        }
        let none = settled(json!({"metadata": {"labels": null, "name": "a"}, "more": null}));
        assert_eq!(none, Ok(json!({"metadata": {"name": "a"}, "more": null})));
        assert_eq!(settled(json!({"metadata": null})), Ok(json!({"metadata": {}})));
    }
}
