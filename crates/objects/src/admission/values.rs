//! From JSON to what expressions compute with, and back, where no schema says more.

use std::sync::Arc;

use serde_json::Value as Json;
use yunfan_cel::{Key, Value};

/// A value as it is: whole numbers are integers, and texts are texts, whatever they stand for.
pub fn to_cel(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Int(whole),
            None => Value::Double(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(to_cel).collect::<Vec<_>>().into(),
        Json::Object(map) => {
            let entries = map.iter().map(|(key, value)| (Key::String(key.as_str().into()), to_cel(value)));
            Value::Map(Arc::new(entries.collect()))
        }
    }
}
