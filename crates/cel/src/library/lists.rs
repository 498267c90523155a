//! Lists, maps and sets.

use std::cmp::Ordering;

use super::{Library, count, failed, int, items, table};
use crate::budget::Budget;
use crate::eval::EvalError;
use crate::value::Value;

type Outcome = Result<Value, EvalError>;

/// Deepest that nested lists are flattened.
const MAX_FLATTEN: i64 = 16;

pub(super) fn library() -> Library {
    table(&[
        (
            "size",
            "(string) int | string.() int | (bytes) int | bytes.() int | (list<A>) int | list<A>.() int | (map<A, B>) int | map<A, B>.() int",
            size,
        ),
        ("isSorted", "list<A>.() bool", |v, b| {
            let items = charged(v, b)?;
            let ordered = |pair: &[Value]| pair[0].compare(&pair[1]).map(|o| o != Ordering::Greater);
            let each: Option<Vec<bool>> = items.windows(2).map(ordered).collect();
            each.map(|each| Value::Bool(!each.contains(&false))).ok_or(EvalError::NoSuchOverload)
        }),
        (
            "sum",
            "list<int>.() int | list<uint>.() uint | list<double>.() double | list<duration>.() duration",
            sum,
        ),
        ("min", "list<A>.() A", |v, b| extreme(v, b, Ordering::Less)),
        ("max", "list<A>.() A", |v, b| extreme(v, b, Ordering::Greater)),
        ("indexOf", "list<A>.(A) int", |v, b| {
            let place = charged(v, b)?.iter().position(|item| item.equals(&v[1]));
            Ok(place.map_or(Value::Int(-1), count))
        }),
        ("lastIndexOf", "list<A>.(A) int", |v, b| {
            let place = charged(v, b)?.iter().rposition(|item| item.equals(&v[1]));
            Ok(place.map_or(Value::Int(-1), count))
        }),
        ("distinct", "list<A>.() list<A>", |v, b| {
            let items = charged(v, b)?;
            b.charge((items.len() as u64).saturating_mul(items.len() as u64))?;
            let mut out: Vec<Value> = Vec::new();
            for item in items {
                if !out.iter().any(|known| known.equals(item)) {
                    out.push(item.clone());
                }
            }
            Ok(out.into())
        }),
        ("reverse", "list<A>.() list<A>", |v, b| {
            Ok(charged(v, b)?.iter().rev().cloned().collect::<Vec<_>>().into())
        }),
        ("slice", "list<A>.(int, int) list<A>", |v, b| {
            let items = charged(v, b)?;
            let bounds = usize::try_from(int(v.get(1))?).ok().zip(usize::try_from(int(v.get(2))?).ok());
            match bounds.and_then(|(from, to)| items.get(from..to)) {
                Some(part) => Ok(part.to_vec().into()),
                None => failed("cannot slice: index out of range"),
            }
        }),
        ("sort", "list<A>.() list<A>", |v, b| {
            let mut items = charged(v, b)?.to_vec();
            let first = items.first().cloned();
            if items.iter().any(|item| first.as_ref().is_none_or(|first| first.compare(item).is_none())) {
                return failed("list elements must be comparable");
            }
            items.sort_by(|a, b| a.compare(b).unwrap_or(Ordering::Equal));
            Ok(items.into())
        }),
        ("flatten", "list<A>.() list<dyn> | list<A>.(int) list<dyn>", |v, b| {
            let depth = if v.len() > 1 { int(v.get(1))? } else { 1 };
            if !(0..=MAX_FLATTEN).contains(&depth) {
                return failed(format!("level must be between 0 and {MAX_FLATTEN}"));
            }
            b.charge(v[0].weight(b.beyond()))?;
            let mut out = Vec::new();
            flatten(items(&v[0])?, depth, &mut out);
            Ok(out.into())
        }),
        ("first", "list<A>.() optional<A>", |v, _| Ok(items(&v[0])?.first().cloned().into())),
        ("last", "list<A>.() optional<A>", |v, _| Ok(items(&v[0])?.last().cloned().into())),
        ("lists.range", "(int) list<int>", |v, b| {
            let end = int(v.first())?;
            b.charge(end.max(0).unsigned_abs())?;
            Ok((0..end).map(Value::Int).collect::<Vec<_>>().into())
        }),
        ("sets.contains", "(list<A>, list<A>) bool", |v, b| sets(v, b, |a, b| Value::Bool(covers(a, b)))),
        ("sets.equivalent", "(list<A>, list<A>) bool", |v, b| {
            sets(v, b, |a, b| Value::Bool(covers(a, b) && covers(b, a)))
        }),
        ("sets.intersects", "(list<A>, list<A>) bool", |v, b| {
            sets(v, b, |a, b| Value::Bool(a.iter().any(|a| b.iter().any(|b| a.equals(b)))))
        }),
    ])
}

/// The list in the first place; looking through it is paid for.
fn charged<'a>(values: &'a [Value], budget: &mut Budget) -> Result<&'a [Value], EvalError> {
    let list = values.first().ok_or(EvalError::NoSuchOverload)?;
    budget.charge(list.weight(budget.beyond()))?;
    items(list)
}

fn size(values: &[Value], budget: &mut Budget) -> Outcome {
    match values {
        [Value::String(text)] => {
            budget.charge_bytes(text.len())?;
            Ok(count(text.chars().count()))
        }
        [Value::Bytes(bytes)] => Ok(count(bytes.len())),
        [Value::List(list)] => Ok(count(list.items.len())),
        [Value::Map(map)] => Ok(count(map.len())),
        _ => Err(EvalError::NoSuchOverload),
    }
}

fn sum(values: &[Value], budget: &mut Budget) -> Outcome {
    let items = charged(values, budget)?;
    let overflow = || EvalError::failed("integer overflow");
    items
        .iter()
        .try_fold(None, |total, item| {
            Ok(Some(match (total, item) {
                (None, item) => item.clone(),
                (Some(Value::Int(a)), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or_else(overflow)?),
                (Some(Value::Uint(a)), Value::Uint(b)) => {
                    Value::Uint(a.checked_add(*b).ok_or_else(overflow)?)
                }
                (Some(Value::Duration(a)), Value::Duration(b)) => {
                    Value::Duration(a.checked_add(*b).ok_or_else(overflow)?)
                }
                (Some(Value::Double(a)), Value::Double(b)) => Value::Double(a + b),
                _ => return Err(EvalError::NoSuchOverload),
            }))
        })
        .map(|total| total.unwrap_or(Value::Int(0)))
}

fn extreme(values: &[Value], budget: &mut Budget, wanted: Ordering) -> Outcome {
    let items = charged(values, budget)?;
    let Some((first, rest)) = items.split_first() else {
        return failed(format!(
            "{} called on empty list",
            if wanted == Ordering::Less { "min" } else { "max" }
        ));
    };
    let mut best = first;
    for item in rest {
        let order = item.compare(best).ok_or(EvalError::NoSuchOverload)?;
        if order == wanted {
            best = item;
        }
    }
    Ok(best.clone())
}

fn flatten(items: &[Value], depth: i64, out: &mut Vec<Value>) {
    for item in items {
        match item {
            Value::List(inner) if depth > 0 => flatten(&inner.items, depth - 1, out),
            item => out.push(item.clone()),
        }
    }
}

fn sets(values: &[Value], budget: &mut Budget, decide: fn(&[Value], &[Value]) -> Value) -> Outcome {
    let [a, b] = values else { return Err(EvalError::NoSuchOverload) };
    let most = budget.beyond();
    budget.charge(a.weight(most).saturating_mul(b.weight(most)))?;
    Ok(decide(items(a)?, items(b)?))
}

fn covers(all: &[Value], some: &[Value]) -> bool {
    some.iter().all(|item| all.iter().any(|known| known.equals(item)))
}
