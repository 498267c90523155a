//! From JSON to what rules compute with.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use yunfan_cel::{Key, List, ListKind, Value};

use super::declare::is_reserved;
use super::escape;
use crate::schema::{ListType, Schema, SchemaType};

/// A value as its schema has it. What the schema says nothing about is left out, as is a null that is allowed:
/// for a rule it is not there.
pub(super) fn value(schema: &Schema, json: &Json, root: bool) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match (schema.kind, number.as_i64()) {
            (SchemaType::Number, _) | (_, None) => Value::Double(number.as_f64().unwrap_or_default()),
            (_, Some(whole)) => Value::Int(whole),
        },
        Json::String(text) => scalar(schema, text),
        Json::Array(items) => {
            let each = |item| schema.items.as_ref().map_or(Value::Null, |schema| value(schema, item, false));
            let kind = match &schema.list_type {
                ListType::Atomic => ListKind::Plain,
                ListType::Set => ListKind::Set,
                ListType::Map(keys) => {
                    ListKind::Map(Arc::new(keys.iter().filter_map(|key| escape(key)).collect()))
                }
            };
            Value::List(Arc::new(List { items: items.iter().map(each).collect(), kind }))
        }
        Json::Object(map) => {
            let whole = root || schema.embedded_resource;
            let mut out = BTreeMap::new();
            for (name, json) in map {
                if whole && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    out.insert(Key::String(name.as_str().into()), own(json));
                    continue;
                }
                let Some(field) = schema.field(name) else { continue };
                if json.is_null() && field.nullable {
                    continue;
                }
                let key = match schema.properties.contains_key(name) {
                    true => escape(name),
                    false => Some(name.clone()),
                };
                let Some(key) = key else { continue };
                let value = value(field, json, false);
                if key != *name && is_reserved(name) {
                    out.insert(Key::String(name.as_str().into()), value.clone());
                }
                out.insert(Key::String(key.into()), value);
            }
            Value::Map(Arc::new(out))
        }
    }
}

/// apiVersion and kind, or the name in the metadata.
fn own(json: &Json) -> Value {
    match json {
        Json::String(text) => text.as_str().into(),
        Json::Object(map) => {
            let named = ["name", "generateName"].into_iter().filter_map(|key| Some((key, map.get(key)?)));
            let named = named.map(|(key, value)| (Key::String(key.into()), own(value)));
            Value::Map(Arc::new(named.collect()))
        }
        _ => Value::Null,
    }
}

fn scalar(schema: &Schema, text: &str) -> Value {
    let time = |text: &str| text.parse().ok().map(Value::Timestamp);
    let special = match (schema.kind, schema.format.as_deref()) {
        (SchemaType::String, Some("byte")) => STANDARD.decode(text).ok().map(|b| Value::Bytes(b.into())),
        (SchemaType::String, Some("date-time")) => time(text),
        (SchemaType::String, Some("date")) => time(&format!("{text}T00:00:00Z")),
        (SchemaType::String, Some("duration")) => yunfan_cel::parse_duration(text).map(Value::Duration),
        _ => None,
    };
    special.unwrap_or_else(|| text.into())
}
