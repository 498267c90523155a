//! Versions as semver.org has them (Kubernetes' library).

use std::cmp::Ordering;

use super::{Library, failed, made, of, opaque, table, texts};
use crate::budget::Budget;
use crate::eval::EvalError;
use crate::value::Value;

#[derive(Clone, Debug, PartialEq)]
struct Version {
    numbers: [u64; 3],
    pre: Vec<String>,
}

opaque!(Version, "kubernetes.Semver");

pub(super) fn library() -> Library {
    table(&[
        ("semver", "(string) kubernetes.Semver | (string, bool) kubernetes.Semver", |v, b| {
            match read(v, b)? {
                Some(version) => Ok(made(version)),
                None => failed("No Major.Minor.Patch elements found"),
            }
        }),
        ("isSemver", "(string) bool | (string, bool) bool", |v, b| Ok(Value::Bool(read(v, b)?.is_some()))),
        ("major", "kubernetes.Semver.() int", |v, _| number(v, 0)),
        ("minor", "kubernetes.Semver.() int", |v, _| number(v, 1)),
        ("patch", "kubernetes.Semver.() int", |v, _| number(v, 2)),
        ("isGreaterThan", "kubernetes.Semver.(kubernetes.Semver) bool", |v, _| {
            Ok(Value::Bool(order(v)? == Ordering::Greater))
        }),
        ("isLessThan", "kubernetes.Semver.(kubernetes.Semver) bool", |v, _| {
            Ok(Value::Bool(order(v)? == Ordering::Less))
        }),
        ("compareTo", "kubernetes.Semver.(kubernetes.Semver) int", |v, _| Ok(Value::Int(order(v)? as i64))),
    ])
}

fn number(values: &[Value], index: usize) -> Result<Value, EvalError> {
    let version: &Version = of(values, 0)?;
    Ok(Value::Int(i64::try_from(version.numbers[index]).unwrap_or(i64::MAX)))
}

fn order(values: &[Value]) -> Result<Ordering, EvalError> {
    let (a, b): (&Version, &Version) = (of(values, 0)?, of(values, 1)?);
    let pre = match (a.pre.is_empty(), b.pre.is_empty()) {
        (true, true) => Ordering::Equal,
        // A version without a pre-release part is the later one.
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => {
            let parts = a.pre.iter().zip(&b.pre).map(|(a, b)| match (a.parse::<u64>(), b.parse::<u64>()) {
                (Ok(a), Ok(b)) => a.cmp(&b),
                (Ok(_), Err(_)) => Ordering::Less,
                (Err(_), Ok(_)) => Ordering::Greater,
                _ => a.cmp(b),
            });
            parts.fold(Ordering::Equal, Ordering::then).then(a.pre.len().cmp(&b.pre.len()))
        }
    };
    Ok(a.numbers.cmp(&b.numbers).then(pre))
}

fn read(values: &[Value], budget: &mut Budget) -> Result<Option<Version>, EvalError> {
    let [text] = texts::<1>(values)?;
    budget.charge_bytes(text.len())?;
    Ok(parse(text, matches!(values.get(1), Some(Value::Bool(true)))))
}

/// `lenient` takes a leading `v`, leading zeros, and fewer than three numbers.
fn parse(text: &str, lenient: bool) -> Option<Version> {
    let text = if lenient { text.strip_prefix('v').unwrap_or(text) } else { text };
    let (text, build) = match text.split_once('+') {
        Some((text, build)) => (text, Some(build)),
        None => (text, None),
    };
    let (core, pre) = match text.split_once('-') {
        Some((core, pre)) => (core, Some(pre)),
        None => (text, None),
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if build.is_some_and(|build| !build.split('.').all(word)) {
        return None;
    }
    let pre: Vec<String> = pre.map(|pre| pre.split('.').map(str::to_owned).collect()).unwrap_or_default();
    let padded =
        |part: &str| part.len() > 1 && part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit());
    if pre.iter().any(|part| !word(part) || padded(part)) {
        return None;
    }
    let parts: Vec<&str> = core.split('.').collect();
    if parts.len() > 3 || (parts.len() < 3 && !lenient) {
        return None;
    }
    let mut numbers = [0; 3];
    for (slot, part) in numbers.iter_mut().zip(parts) {
        if !part.bytes().all(|b| b.is_ascii_digit()) || (padded(part) && !lenient) {
            return None;
        }
        *slot = part.parse().ok()?;
    }
    Some(Version { numbers, pre })
}
