//! What is wrong with a text, in the words of programs that are written in Go: kube-apiserver passes them on, and
//! clients and people know them.

mod duration;
mod restore;
mod syntax;
mod time;

use serde_json::Value;

pub use duration::duration_error;
pub use restore::restore_error;
pub use syntax::json_error;
pub use time::time_error;

/// Most bytes of a body that a refusal shows.
const SUMMARY: usize = 30;

/// A value's type as `encoding/json` calls it.
pub fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// The package that kube-apiserver has the kinds of a group in, whatever their version.
pub fn inner_package(group: &str) -> &str {
    match group.split('.').next() {
        Some("" | "events") | None => "core",
        Some(first) => first,
    }
}

/// Why a text is no number of 64 bits, as the function `ParseInt` or `ParseUint` says it.
pub fn number_error(function: &str, text: &str) -> String {
    let digits = text.strip_prefix(['+', '-']).filter(|_| function == "ParseInt").unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let why = if is_number { "value out of range" } else { "invalid syntax" };
    format!("strconv.{function}: parsing {text:?}: {why}")
}

/// The beginning of a body: as text where it may be JSON, else in hexadecimal digits.
pub fn summary(body: &[u8]) -> String {
    let start = &body[..body.len().min(SUMMARY)];
    let more = if body.len() > SUMMARY { " ..." } else { "" };
    match start.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => {
            let digits: String = start.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{digits}{more}")
        }
    }
}

/// A value as the verb `%v` prints it: `map[a:1 b:[x y]]`.
pub fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!("[{}]", list.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let each: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", plain(value))).collect();
            format!("map[{}]", each.join(" "))
        }
        other => other.to_string(),
    }
}

/// A value as the verb `%#v` prints it: as it would stand in a program.
pub fn sharp(value: &Value) -> String {
    let kind = dynamic_type(value);
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Array(list) => format!("{kind}{{{}}}", list.iter().map(sharp).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let each: Vec<String> =
                map.iter().map(|(key, value)| format!("{key:?}:{}", sharp(value))).collect();
            format!("{kind}{{{}}}", each.join(", "))
        }
        other => plain(other),
    }
}

/// A value's type as the verb `%T` prints it.
pub fn dynamic_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bodies_are_shown_by_their_beginning() {
        assert_eq!(summary(b""), "<empty>");
        assert_eq!(summary(b"[]"), "5b5d");
        assert_eq!(
            summary(br#"{"apiVersion": "v1", "kind": "ConfigMap"}"#),
            r#"{"apiVersion": "v1", "kind": " ..."#
        );
    }

    #[test]
    fn values_are_printed_in_one_line() {
        let value = json!({"a": [1, "x"]});
        assert_eq!(sharp(&value), "map[string]interface {}{\"a\":[]interface {}{1, \"x\"}}");
        assert_eq!(
            plain(&json!({"b": [1, "x", null], "a": {"c": true}})),
            "map[a:map[c:true] b:[1 x <nil>]]"
        );
    }
}
