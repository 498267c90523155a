//! Conversions between types, and optional values.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::time::{duration_text, parse_duration};
use super::{Library, failed, table};
use crate::budget::Budget;
use crate::eval::EvalError;
use crate::value::Value;

type Outcome = Result<Value, EvalError>;

pub(super) fn library() -> Library {
    table(&[
        ("int", "(int) int | (uint) int | (double) int | (string) int | (timestamp) int", int),
        ("uint", "(uint) uint | (int) uint | (double) uint | (string) uint", uint),
        ("double", "(double) double | (int) double | (uint) double | (string) double", double),
        (
            "string",
            "(string) string | (int) string | (uint) string | (double) string | (bool) string | (bytes) string | (timestamp) string | (duration) string",
            string,
        ),
        ("bytes", "(bytes) bytes | (string) bytes", bytes),
        ("bool", "(bool) bool | (string) bool", boolean),
        ("timestamp", "(timestamp) timestamp | (string) timestamp | (int) timestamp", timestamp),
        ("duration", "(duration) duration | (string) duration", duration),
        ("dyn", "(A) dyn", |v, _| v.first().cloned().ok_or(EvalError::NoSuchOverload)),
        ("type", "(A) type", |v, _| {
            v.first().map(|value| Value::Type(value.type_name())).ok_or(EvalError::NoSuchOverload)
        }),
        ("optional.of", "(A) optional<A>", |v, _| Ok(v.first().cloned().into())),
        ("optional.none", "() optional<A>", |_, _| Ok(Value::Optional(None))),
        ("optional.ofNonZeroValue", "(A) optional<A>", |v, _| {
            Ok(v.first().filter(|value| !is_zero(value)).cloned().into())
        }),
        ("hasValue", "optional<A>.() bool", |v, _| Ok(Value::Bool(matches!(v, [Value::Optional(Some(_))])))),
        ("value", "optional<A>.() A", |v, _| match v {
            [Value::Optional(Some(value))] => Ok(Value::clone(value)),
            _ => failed("optional.none() dereference"),
        }),
        ("or", "optional<A>.(optional<A>) optional<A>", |v, _| match v {
            [Value::Optional(None), other] => Ok(other.clone()),
            [first, _] => Ok(first.clone()),
            _ => Err(EvalError::NoSuchOverload),
        }),
        ("orValue", "optional<A>.(A) A", |v, _| match v {
            [Value::Optional(Some(value)), _] => Ok(Value::clone(value)),
            [_, other] => Ok(other.clone()),
            _ => Err(EvalError::NoSuchOverload),
        }),
    ])
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null | Value::Optional(None) => true,
        Value::Bool(value) => !value,
        Value::Int(value) | Value::Duration(value) => *value == 0,
        Value::Uint(value) => *value == 0,
        Value::Double(value) => *value == 0.0,
        Value::String(value) => value.is_empty(),
        Value::Bytes(value) => value.is_empty(),
        Value::List(value) => value.items.is_empty(),
        Value::Map(value) => value.is_empty(),
        _ => false,
    }
}

fn int(values: &[Value], _: &mut Budget) -> Outcome {
    let whole = match values {
        [Value::Int(value)] => Some(*value),
        [Value::Uint(value)] => i64::try_from(*value).ok(),
        // The bounds themselves have no exact form between the two types.
        [Value::Double(value)] if value.abs() < 9.223_372_036_854_775e18 => Some(*value as i64),
        [Value::String(text)] => {
            return match text.parse() {
                Ok(value) => Ok(Value::Int(value)),
                Err(error) => failed(format!("strconv.ParseInt: parsing {text:?}: {error}")),
            };
        }
        [Value::Timestamp(at)] => Some(at.as_second()),
        _ => None,
    };
    whole.map(Value::Int).ok_or_else(|| EvalError::failed("integer overflow"))
}

fn uint(values: &[Value], _: &mut Budget) -> Outcome {
    let whole = match values {
        [Value::Uint(value)] => Some(*value),
        [Value::Int(value)] => u64::try_from(*value).ok(),
        [Value::Double(value)] if (0.0..1.844_674_407_370_955e19).contains(value) => Some(*value as u64),
        [Value::String(text)] => {
            return match text.parse() {
                Ok(value) => Ok(Value::Uint(value)),
                Err(error) => failed(format!("strconv.ParseUint: parsing {text:?}: {error}")),
            };
        }
        _ => None,
    };
    whole.map(Value::Uint).ok_or_else(|| EvalError::failed("unsigned integer overflow"))
}

fn double(values: &[Value], _: &mut Budget) -> Outcome {
    match values {
        [Value::Double(value)] => Ok(Value::Double(*value)),
        [Value::Int(value)] => Ok(Value::Double(*value as f64)),
        [Value::Uint(value)] => Ok(Value::Double(*value as f64)),
        [Value::String(text)] => match text.parse() {
            Ok(value) => Ok(Value::Double(value)),
            Err(error) => failed(format!("strconv.ParseFloat: parsing {text:?}: {error}")),
        },
        _ => Err(EvalError::NoSuchOverload),
    }
}

/// A value as text, where it has one.
pub(super) fn plain_text(value: &Value) -> Option<String> {
    Some(match value {
        Value::String(text) => text.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => double_text(*value),
        Value::Bool(value) => value.to_string(),
        Value::Timestamp(at) => at.to_string(),
        Value::Duration(nanos) => duration_text(*nanos),
        _ => return None,
    })
}

/// A number as Go writes it with as few digits as tell it from all others: with an exponent where that is below -4 or above 5.
pub(super) fn double_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return value.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

fn string(values: &[Value], budget: &mut Budget) -> Outcome {
    match values {
        [Value::Bytes(bytes)] => {
            budget.charge_bytes(bytes.len())?;
            match std::str::from_utf8(bytes) {
                Ok(text) => Ok(text.into()),
                Err(_) => failed("invalid UTF-8 in bytes, cannot convert to string"),
            }
        }
        [value] => plain_text(value).map(Value::from).ok_or(EvalError::NoSuchOverload),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn bytes(values: &[Value], budget: &mut Budget) -> Outcome {
    match values {
        [Value::String(text)] => {
            budget.charge_bytes(text.len())?;
            Ok(Value::Bytes(text.as_bytes().into()))
        }
        [value @ Value::Bytes(_)] => Ok(value.clone()),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn boolean(values: &[Value], _: &mut Budget) -> Outcome {
    match values {
        [value @ Value::Bool(_)] => Ok(value.clone()),
        [Value::String(text)] => match &**text {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Value::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Value::Bool(false)),
            _ => failed(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
        },
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn timestamp(values: &[Value], _: &mut Budget) -> Outcome {
    match values {
        [value @ Value::Timestamp(_)] => Ok(value.clone()),
        [Value::Int(seconds)] => {
            let at = jiff::Timestamp::from_second(*seconds).map(Value::Timestamp);
            at.or_else(|_| failed("timestamp overflow"))
        }
        [Value::String(text)] => {
            let at = text.parse().map(Value::Timestamp);
            at.or_else(|_| failed(format!("parsing time {text:?}: not a time as RFC 3339 has it")))
        }
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn duration(values: &[Value], _: &mut Budget) -> Outcome {
    match values {
        [value @ Value::Duration(_)] => Ok(value.clone()),
        [Value::String(text)] => match parse_duration(text) {
            Some(nanos) => Ok(Value::Duration(nanos)),
            None => failed(format!("time: invalid duration {text:?}")),
        },
        _ => Err(EvalError::NoSuchOverload),
    }
}

/// Bytes as text for messages.
pub(super) fn bytes_text(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| STANDARD.encode(bytes), str::to_owned)
}
