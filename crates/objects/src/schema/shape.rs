//! Bringing a value into the shape of its schema: types, unknown fields, nulls, defaults.

use serde_json::{Map, Value};

use super::{Additional, Schema, SchemaRef, SchemaType};
use crate::error::FieldError;
use crate::{Quantity, meta};

/// Most findings reported for one object: enough to mend it, too few to flood a log.
pub(crate) const MAX_FINDINGS: usize = 64;

/// A path that grows and shrinks as a value is walked.
#[derive(Debug, Default)]
pub(super) struct Path(String);

impl Path {
    pub(super) fn new(start: &str) -> Self {
        Self(start.to_owned())
    }
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
    pub(super) fn truncate(&mut self, length: usize) {
        self.0.truncate(length);
    }
    pub(super) fn push_field(&mut self, key: &str) {
        if !self.0.is_empty() {
            self.0.push('.');
        }
        self.0.push_str(key);
    }
    pub(super) fn push_item(&mut self, index: usize) {
        self.0.push_str(&format!("[{index}]"));
    }
    /// An entry of an object: a field, or a key of a map, which may hold dots.
    pub(super) fn push_entry(&mut self, schema: &Schema, key: &str) {
        if schema.properties.contains_key(key) {
            self.push_field(key);
        } else {
            self.0.push_str(&format!("[{key}]"));
        }
    }
}

impl Schema {
    /// Whether an object of this schema may hold fields that nobody declared.
    pub(crate) fn is_open(&self) -> bool {
        self.preserve_unknown
            || matches!(self.additional, Additional::Any)
            || (self.kind == SchemaType::Any && self.properties.is_empty())
    }

    /// Removes fields that are null, as built-in kinds read them; an entry of a map and an item of a list become the empty value
    /// of their type instead, because their key and their place count.
    pub fn drop_nulls(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.retain(|key, value| {
                    if value.is_null() && (self.properties.contains_key(key) || !self.is_open()) {
                        let entry = self.field(key).filter(|_| !self.properties.contains_key(key));
                        match entry.and_then(|entry| entry.zero()) {
                            Some(zero) => *value = zero,
                            None => return false,
                        }
                    }
                    if let Some(schema) = self.field(key) {
                        schema.drop_nulls(value);
                    }
                    true
                });
            }
            Value::Array(items) => {
                let Some(schema) = &self.items else { return };
                for item in items {
                    if let Some(zero) = schema.zero().filter(|_| item.is_null()) {
                        *item = zero;
                    }
                    schema.drop_nulls(item);
                }
            }
            _ => {}
        }
    }

    /// What a null among others of this type is read as; none where it stays what it is.
    fn zero(&self) -> Option<Value> {
        match self.kind {
            SchemaType::String if self.format.as_deref() == Some("date-time") => None,
            SchemaType::String => Some(Value::from("")),
            SchemaType::Quantity => Some(Value::from("0")),
            SchemaType::Integer | SchemaType::Number | SchemaType::IntOrString => Some(Value::from(0)),
            SchemaType::Boolean => Some(Value::from(false)),
            SchemaType::Object => Some(Value::Object(Map::new())),
            SchemaType::Any | SchemaType::Array => None,
        }
    }

    /// Values of a wrong type or format in a value at a path of its object; only types, no other rule.
    pub fn type_errors_at(&self, value: &Value, path: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.check_types(value, &mut Path::new(path), &mut errors);
        errors
    }

    fn check_types(&self, value: &Value, path: &mut Path, errors: &mut Vec<FieldError>) {
        if errors.len() >= MAX_FINDINGS {
            return;
        }
        if let Some(wanted) = self.type_mismatch(value) {
            errors.push(FieldError::type_invalid(path.as_str(), value.clone(), wanted));
            return;
        }
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    if let Some(schema) = self.field(key) {
                        let length = path.len();
                        path.push_entry(self, key);
                        schema.check_types(value, path, errors);
                        path.truncate(length);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for (index, item) in items.iter().enumerate() {
                        let length = path.len();
                        path.push_item(index);
                        schema.check_types(item, path, errors);
                        path.truncate(length);
                    }
                }
            }
            _ => {}
        }
    }

    /// What a value ought to be, if it is not.
    fn type_mismatch(&self, value: &Value) -> Option<String> {
        let wanted = match self.kind {
            SchemaType::Any => return None,
            SchemaType::Object if value.is_object() => return None,
            SchemaType::Array if value.is_array() => return None,
            SchemaType::Boolean if value.is_boolean() => return None,
            SchemaType::Number if value.is_number() => return None,
            SchemaType::Integer if value.is_i64() => match (self.format.as_deref(), value.as_i64()) {
                (Some("int32"), Some(number)) if i32::try_from(number).is_err() => {
                    return Some("must be an integer that fits into 32 bits".to_owned());
                }
                _ => return None,
            },
            SchemaType::String => match value.as_str() {
                Some(text) => return self.format_mismatch(text),
                None => "a string",
            },
            SchemaType::IntOrString if value.is_string() || value.is_i64() => return None,
            SchemaType::Quantity => {
                return Quantity::from_json(value).err().map(|error| error.to_string());
            }
            SchemaType::Object => "an object",
            SchemaType::Array => "a list",
            SchemaType::Boolean => "a boolean (true or false)",
            SchemaType::Number => "a number",
            SchemaType::Integer => "an integer",
            SchemaType::IntOrString => "an integer or a string",
        };
        Some(format!("must be {wanted}"))
    }

    /// Formats that built-in kinds decode into something else than text.
    fn format_mismatch(&self, text: &str) -> Option<String> {
        match self.format.as_deref() {
            Some("date-time") if !text.is_empty() && text.parse::<jiff::Timestamp>().is_err() => {
                Some("must be a time as RFC 3339 has it, like 2006-01-02T15:04:05Z".to_owned())
            }
            Some("byte") => {
                use base64::Engine;
                let decoded = base64::engine::general_purpose::STANDARD.decode(text);
                decoded.err().map(|error| format!("must be base64: {error}"))
            }
            _ => None,
        }
    }

    /// Removes fields that nobody declared, and returns their paths.
    pub fn prune(&self, value: &mut Value) -> Vec<String> {
        let mut found = Vec::new();
        self.prune_into(value, &mut Path::new(""), &mut found);
        found
    }

    /// What Go's reader makes of a value that it reads where there is one already: it writes field by field, and item by item of
    /// a list that has no fewer before.
    pub(crate) fn laid_over(&self, earlier: Value, later: Value) -> Value {
        match (earlier, later) {
            (Value::Object(mut earlier), Value::Object(later)) if !self.is_open() => {
                for (key, value) in later {
                    let before = self.properties.get(&key).zip(earlier.remove(&key));
                    let value = match before {
                        Some((schema, before)) => schema.laid_over(before, value),
                        None => value,
                    };
                    earlier.insert(key, value);
                }
                Value::Object(earlier)
            }
            (Value::Array(earlier), Value::Array(later)) => {
                let mut earlier = earlier.into_iter();
                let over = |item| match (&self.items, earlier.next()) {
                    (Some(schema), Some(before)) => schema.laid_over(before, item),
                    _ => item,
                };
                Value::Array(later.into_iter().map(over).collect())
            }
            (_, later) => later,
        }
    }

    fn prune_into(&self, value: &mut Value, path: &mut Path, found: &mut Vec<String>) {
        match value {
            Value::Object(map) => map.retain(|key, value| self.keep_field(key, value, path, found)),
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    for (index, item) in items.iter_mut().enumerate() {
                        let length = path.len();
                        path.push_item(index);
                        schema.prune_into(item, path, found);
                        path.truncate(length);
                    }
                }
            }
            _ => {}
        }
    }

    fn keep_field(&self, key: &str, value: &mut Value, path: &mut Path, found: &mut Vec<String>) -> bool {
        // What a resource has of its own goes by no schema: ObjectMeta says what is known of it.
        if self.embedded_resource && matches!(key, "apiVersion" | "kind" | "metadata") {
            return true;
        }
        if let Some(schema) = self.field(key) {
            let length = path.len();
            // As Kubernetes names unknown fields, where an entry of a map looks like a field.
            path.push_field(key);
            schema.prune_into(value, path, found);
            path.truncate(length);
            return true;
        }
        let keep = self.is_open();
        if !keep && found.len() < MAX_FINDINGS {
            let length = path.len();
            path.push_field(key);
            found.push(path.as_str().to_owned());
            path.truncate(length);
        }
        keep
    }

    /// Writes quantities and times as Kubernetes writes them: quantities as text in its shortest form, since a client that reads
    /// them into a text type cannot read the number that a manifest may have instead; times in UTC, and without what is below a
    /// second where their type has nothing of that.
    pub fn canonical(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    if let Some(schema) = self.field(key) {
                        schema.canonical_time(value);
                        schema.canonical(value);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.canonical(item));
                }
            }
            Value::String(_) | Value::Number(_) if self.kind == SchemaType::Quantity => {
                if let Ok(quantity) = Quantity::from_json(value) {
                    *value = Value::String(quantity.to_string());
                }
            }
            _ => {}
        }
    }

    /// Removes what is null and may not be, as custom kinds read it; a null with a default becomes that with
    /// [`apply_defaults`](Self::apply_defaults). Items of lists stay, for their validation to refuse.
    pub fn drop_refused_nulls(&self, value: &mut Value) {
        match value {
            Value::Object(map) => map.retain(|key, value| {
                let Some(schema) = self.field(key) else { return true };
                if value.is_null() {
                    return schema.nullable || schema.default.is_some();
                }
                schema.drop_refused_nulls(value);
                true
            }),
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.drop_refused_nulls(item));
                }
            }
            _ => {}
        }
    }

    /// Fills in defaults where a field is absent, or null and not nullable.
    pub fn apply_defaults(&self, value: &mut Value) {
        match value {
            Value::Object(map) => {
                for (key, schema) in &self.properties {
                    fill(map, key, schema);
                }
                for (key, value) in map.iter_mut() {
                    if let Some(schema) = self.field(key) {
                        schema.apply_defaults(value);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(schema) = &self.items {
                    items.iter_mut().for_each(|item| schema.apply_defaults(item));
                }
            }
            _ => {}
        }
    }
}

impl SchemaRef {
    /// Writes a time, if it is one, as Kubernetes writes those of its type.
    fn canonical_time(&self, value: &mut Value) {
        if self.format.as_deref() == Some("date-time")
            && let Some(at) = value.as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok())
        {
            let micros = self.name().is_some_and(|name| name.ends_with(".MicroTime"));
            *value = Value::String(if micros { meta::micro_time(at) } else { meta::time(at) });
        }
    }
}

fn fill(map: &mut Map<String, Value>, key: &str, schema: &SchemaRef) {
    let Some(default) = &schema.default else { return };
    let absent = match map.get(key) {
        None => true,
        Some(value) => value.is_null() && !schema.nullable,
    };
    if absent {
        map.insert(key.to_owned(), default.clone());
    }
}
