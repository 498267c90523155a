//! Operators, by the names that CEL gives them.

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Library, failed, table};
use crate::budget::Budget;
use crate::eval::EvalError;
use crate::value::{Key, ListKind, Value};

type Outcome = Result<Value, EvalError>;

const COMPARABLE: &str = "(int, int) bool | (uint, uint) bool | (double, double) bool | (int, uint) bool | (int, double) bool | (uint, int) bool | (uint, double) bool | (double, int) bool | (double, uint) bool | (string, string) bool | (bytes, bytes) bool | (bool, bool) bool | (timestamp, timestamp) bool | (duration, duration) bool";

pub(super) fn library() -> Library {
    table(&[
        ("_==_", "(A, A) bool", |v, b| equal(v, b).map(Value::Bool)),
        ("_!=_", "(A, A) bool", |v, b| equal(v, b).map(|same| Value::Bool(!same))),
        ("_<_", COMPARABLE, |v, b| compare(v, b, |o| o == Ordering::Less)),
        ("_<=_", COMPARABLE, |v, b| compare(v, b, |o| o != Ordering::Greater)),
        ("_>_", COMPARABLE, |v, b| compare(v, b, |o| o == Ordering::Greater)),
        ("_>=_", COMPARABLE, |v, b| compare(v, b, |o| o != Ordering::Less)),
        (
            "_+_",
            "(int, int) int | (uint, uint) uint | (double, double) double | (string, string) string | (bytes, bytes) bytes | (list<A>, list<A>) list<A> | (timestamp, duration) timestamp | (duration, timestamp) timestamp | (duration, duration) duration",
            add,
        ),
        (
            "_-_",
            "(int, int) int | (uint, uint) uint | (double, double) double | (timestamp, duration) timestamp | (timestamp, timestamp) duration | (duration, duration) duration",
            subtract,
        ),
        ("_*_", "(int, int) int | (uint, uint) uint | (double, double) double", multiply),
        ("_/_", "(int, int) int | (uint, uint) uint | (double, double) double", divide),
        ("_%_", "(int, int) int | (uint, uint) uint", modulo),
        ("-_", "(int) int | (double) double", negate),
        ("!_", "(bool) bool", |v, _| match v {
            [Value::Bool(value)] => Ok(Value::Bool(!value)),
            _ => Err(EvalError::NoSuchOverload),
        }),
        ("@in", "(A, list<A>) bool | (A, map<A, B>) bool", within),
        (
            "_[_]",
            "(list<A>, int) A | (map<A, B>, A) B | (optional<list<A>>, int) optional<A> | (optional<map<A, B>>, A) optional<B>",
            index,
        ),
        (
            "_[?_]",
            "(list<A>, int) optional<A> | (map<A, B>, A) optional<B> | (optional<list<A>>, int) optional<A> | (optional<map<A, B>>, A) optional<B>",
            index_optional,
        ),
    ])
}

fn equal(values: &[Value], budget: &mut Budget) -> Result<bool, EvalError> {
    let [a, b] = values else { return Err(EvalError::NoSuchOverload) };
    let most = budget.beyond();
    let (left, right) = (a.weight(most), b.weight(most));
    let by_search = |value: &Value| matches!(value, Value::List(list) if list.kind != ListKind::Plain);
    // Without an order each item is looked for among all.
    budget.charge(if by_search(a) { left.saturating_mul(right) } else { left.min(right) - 1 })?;
    Ok(a.equals(b))
}

fn compare(values: &[Value], budget: &mut Budget, holds: fn(Ordering) -> bool) -> Outcome {
    let [a, b] = values else { return Err(EvalError::NoSuchOverload) };
    let most = budget.beyond();
    budget.charge(a.weight(most).min(b.weight(most)) - 1)?;
    // A number that is none has no order: every comparison with it is false.
    Ok(Value::Bool(a.compare(b).is_some_and(holds)))
}

fn overflow<T>(value: Option<T>) -> Result<T, EvalError> {
    value.ok_or_else(|| EvalError::failed("integer overflow"))
}

fn add(values: &[Value], budget: &mut Budget) -> Outcome {
    match values {
        [Value::Int(a), Value::Int(b)] => overflow(a.checked_add(*b)).map(Value::Int),
        [Value::Uint(a), Value::Uint(b)] => {
            a.checked_add(*b).map(Value::Uint).ok_or_else(|| EvalError::failed("unsigned integer overflow"))
        }
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a + b)),
        [Value::String(a), Value::String(b)] => {
            budget.charge_bytes(a.len() + b.len())?;
            Ok(format!("{a}{b}").into())
        }
        [Value::Bytes(a), Value::Bytes(b)] => {
            budget.charge_bytes(a.len() + b.len())?;
            Ok(Value::Bytes([a.as_ref(), b.as_ref()].concat().into()))
        }
        [Value::List(a), Value::List(b)] => {
            let (left, right) = (a.items.len() as u64, b.items.len() as u64);
            let steps = if a.kind == ListKind::Plain { left + right } else { left.saturating_mul(right) };
            budget.charge(steps)?;
            Ok(Value::List(Arc::new(a.joined(b))))
        }
        [Value::Duration(a), Value::Duration(b)] => overflow(a.checked_add(*b)).map(Value::Duration),
        [Value::Timestamp(at), Value::Duration(by)] | [Value::Duration(by), Value::Timestamp(at)] => {
            let by = jiff::SignedDuration::from_nanos(*by);
            at.checked_add(by).map(Value::Timestamp).or_else(|_| failed("timestamp overflow"))
        }
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn subtract(values: &[Value], _: &mut Budget) -> Outcome {
    match values {
        [Value::Int(a), Value::Int(b)] => overflow(a.checked_sub(*b)).map(Value::Int),
        [Value::Uint(a), Value::Uint(b)] => {
            a.checked_sub(*b).map(Value::Uint).ok_or_else(|| EvalError::failed("unsigned integer overflow"))
        }
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Duration(a), Value::Duration(b)] => overflow(a.checked_sub(*b)).map(Value::Duration),
        [Value::Timestamp(at), Value::Duration(by)] => {
            let by = jiff::SignedDuration::from_nanos(*by);
            at.checked_sub(by).map(Value::Timestamp).or_else(|_| failed("timestamp overflow"))
        }
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            overflow(i64::try_from(nanos).ok()).map(Value::Duration)
        }
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn multiply(values: &[Value], _: &mut Budget) -> Outcome {
    match values {
        [Value::Int(a), Value::Int(b)] => overflow(a.checked_mul(*b)).map(Value::Int),
        [Value::Uint(a), Value::Uint(b)] => {
            a.checked_mul(*b).map(Value::Uint).ok_or_else(|| EvalError::failed("unsigned integer overflow"))
        }
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn divide(values: &[Value], _: &mut Budget) -> Outcome {
    match values {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => failed("division by zero"),
        [Value::Int(a), Value::Int(b)] => overflow(a.checked_div(*b)).map(Value::Int),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a / b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn modulo(values: &[Value], _: &mut Budget) -> Outcome {
    match values {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => failed("modulus by zero"),
        [Value::Int(a), Value::Int(b)] => overflow(a.checked_rem(*b)).map(Value::Int),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a % b)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn negate(values: &[Value], _: &mut Budget) -> Outcome {
    match values {
        [Value::Int(a)] => overflow(a.checked_neg()).map(Value::Int),
        [Value::Double(a)] => Ok(Value::Double(-a)),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn within(values: &[Value], budget: &mut Budget) -> Outcome {
    match values {
        [item, Value::List(list)] => {
            budget.charge((list.items.len() as u64).saturating_mul(item.weight(budget.beyond())))?;
            Ok(Value::Bool(list.items.iter().any(|known| known.equals(item))))
        }
        [key, Value::Map(map)] => Ok(Value::Bool(Key::of(key).is_some_and(|key| map.contains_key(&key)))),
        _ => Err(EvalError::NoSuchOverload),
    }
}

/// What is at an index or a key, if something is.
fn find(container: &Value, index: &Value) -> Result<Option<Value>, EvalError> {
    match (container, index) {
        (Value::List(list), Value::Int(index)) => {
            Ok(usize::try_from(*index).ok().and_then(|index| list.items.get(index).cloned()))
        }
        (Value::Map(map), key) => Ok(Key::of(key).and_then(|key| map.get(&key).cloned())),
        (Value::Optional(None), _) => Ok(None),
        (Value::Optional(Some(inner)), index) => find(inner, index),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn index(values: &[Value], budget: &mut Budget) -> Outcome {
    let [container, at] = values else { return Err(EvalError::NoSuchOverload) };
    if matches!(container, Value::Optional(_)) {
        return index_optional(values, budget);
    }
    match (find(container, at)?, at) {
        (Some(value), _) => Ok(value),
        (None, Value::Int(at)) if matches!(container, Value::List(_)) => {
            failed(format!("index out of bounds: {at}"))
        }
        (None, Value::String(key)) => failed(format!("no such key: {key}")),
        (None, _) => failed("no such key"),
    }
}

fn index_optional(values: &[Value], _: &mut Budget) -> Outcome {
    let [container, at] = values else { return Err(EvalError::NoSuchOverload) };
    find(container, at).map(Value::from)
}
