//! From JSON to what expressions compute with, and back, where no schema says more.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value as Json, json};
use yunfan_cel::{EvalError, Key, Library, Value, table};

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

/// A value as JSON.
///
/// # Errors
/// It has no JSON form, as a type or a value of a library.
pub fn to_json(value: &Value) -> Result<Json, String> {
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Uint(value) => json!(value),
        Value::Double(value) => json!(value),
        Value::String(text) => json!(&**text),
        Value::Bytes(bytes) => json!(STANDARD.encode(bytes)),
        Value::Timestamp(time) => json!(time.to_string()),
        Value::Optional(Some(inner)) => to_json(inner)?,
        Value::List(list) => Json::Array(list.items.iter().map(to_json).collect::<Result<_, _>>()?),
        Value::Map(map) => {
            let entry = |(key, value): (&Key, &Value)| match key {
                Key::String(key) => Ok((key.to_string(), to_json(value)?)),
                _ => Err("the keys of an object must be strings".to_owned()),
            };
            Json::Object(map.iter().map(entry).collect::<Result<_, _>>()?)
        }
        other => return Err(format!("a value of type {} can't be part of an object", other.type_name())),
    })
}

/// `jsonpatch.escapeKey`: a key as one step of a path (RFC 6901, section 3).
pub(super) fn escapes() -> Library {
    table(&[("jsonpatch.escapeKey", "(string) string", |values, budget| {
        let [Value::String(text)] = values else { return Err(EvalError::NoSuchOverload) };
        budget.charge_bytes(text.len())?;
        Ok(text.replace('~', "~0").replace('/', "~1").into())
    })])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_json_stays_the_same() {
        let value = json!({"a": [1, 2.5, "x", null, true], "b": {"c": {}}});
        assert_eq!(to_json(&to_cel(&value)), Ok(value));
        let time = "2026-01-01T00:00:00Z";
        assert_eq!(to_json(&Value::Timestamp(time.parse().expect("a time"))), Ok(json!(time)));
        assert_eq!(to_json(&Value::Bytes(b"a".as_slice().into())), Ok(json!("YQ==")));
        assert!(to_json(&Value::Type("int")).is_err());
    }
}
