//! Texts and regular expressions. Places in a text are counted in characters.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

use regex::{Regex, RegexBuilder};

use super::convert::{bytes_text, plain_text};
use super::{Library, count, failed, int, items, table, texts};
use crate::budget::Budget;
use crate::eval::EvalError;
use crate::value::{Key, Value};

type Outcome = Result<Value, EvalError>;

/// Largest compiled pattern, bytes.
const PATTERN_LIMIT: usize = 1 << 20;
/// Patterns kept ready; more are forgotten all at once.
const MAX_PATTERNS: usize = 256;

pub(super) fn library() -> Library {
    table(&[
        ("contains", "string.(string) bool", |v, b| test(v, b, |text, part| text.contains(part))),
        ("startsWith", "string.(string) bool", |v, b| test(v, b, |text, part| text.starts_with(part))),
        ("endsWith", "string.(string) bool", |v, b| test(v, b, |text, part| text.ends_with(part))),
        ("matches", "string.(string) bool | (string, string) bool", |v, b| {
            Ok(Value::Bool(pattern(v, b)?.is_match(texts::<1>(v)?[0])))
        }),
        ("find", "string.(string) string", |v, b| {
            let found = pattern(v, b)?;
            Ok(found.find(texts::<1>(v)?[0]).map_or("", |found| found.as_str()).into())
        }),
        ("findAll", "string.(string) list<string> | string.(string, int) list<string>", |v, b| {
            let found = pattern(v, b)?;
            // Less than none means all.
            let most =
                if v.len() > 2 { usize::try_from(int(v.get(2))?).unwrap_or(usize::MAX) } else { usize::MAX };
            let text = texts::<1>(v)?[0];
            Ok(found.find_iter(text).take(most).map(|f| f.as_str().into()).collect::<Vec<Value>>().into())
        }),
        ("charAt", "string.(int) string", |v, b| {
            let text = charged(v, b)?;
            let at = usize::try_from(int(v.get(1))?).ok().filter(|at| *at <= text.chars().count());
            match at {
                Some(at) => Ok(text.chars().nth(at).map(String::from).unwrap_or_default().into()),
                None => failed(format!("index out of range: {}", int(v.get(1))?)),
            }
        }),
        ("indexOf", "string.(string) int | string.(string, int) int", |v, b| place(v, b, false)),
        ("lastIndexOf", "string.(string) int | string.(string, int) int", |v, b| place(v, b, true)),
        ("join", "list<string>.() string | list<string>.(string) string", join),
        ("lowerAscii", "string.() string", |v, b| Ok(charged(v, b)?.to_ascii_lowercase().into())),
        ("upperAscii", "string.() string", |v, b| Ok(charged(v, b)?.to_ascii_uppercase().into())),
        ("trim", "string.() string", |v, b| Ok(charged(v, b)?.trim().into())),
        ("replace", "string.(string, string) string | string.(string, string, int) string", replace),
        ("split", "string.(string) list<string> | string.(string, int) list<string>", split),
        ("substring", "string.(int) string | string.(int, int) string", |v, b| {
            let text = charged(v, b)?;
            let from = usize::try_from(int(v.get(1))?).ok();
            let length = text.chars().count();
            let to = if v.len() > 2 { usize::try_from(int(v.get(2))?).ok() } else { Some(length) };
            match (from, to) {
                (Some(from), Some(to)) if from <= to && to <= length => {
                    Ok(text.chars().skip(from).take(to - from).collect::<String>().into())
                }
                _ => failed(format!("index out of range: {}", int(v.get(1))?)),
            }
        }),
        ("strings.quote", "(string) string", |v, b| Ok(format!("{:?}", charged(v, b)?).into())),
        ("format", "string.(list<dyn>) string", format),
    ])
}

fn charged<'a>(values: &'a [Value], budget: &mut Budget) -> Result<&'a str, EvalError> {
    let [text] = texts::<1>(values)?;
    budget.charge_bytes(text.len())?;
    Ok(text)
}

fn test(values: &[Value], budget: &mut Budget, holds: fn(&str, &str) -> bool) -> Outcome {
    let [text, part] = texts::<2>(values)?;
    budget.charge_bytes(text.len() + part.len())?;
    Ok(Value::Bool(holds(text, part)))
}

/// A pattern, unless it is none or takes too much memory.
pub(crate) fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).size_limit(PATTERN_LIMIT).build()
}

/// The pattern in the second place. A constant one is compiled once for all runs.
fn pattern(values: &[Value], budget: &mut Budget) -> Result<Regex, EvalError> {
    static READY: OnceLock<Mutex<HashMap<String, Regex>>> = OnceLock::new();
    let [text, pattern] = texts::<2>(values)?;
    let steps = (text.len() as u64 / 10 + 1).saturating_mul(pattern.len() as u64 / 4 + 1);
    budget.charge(steps)?;
    let ready = READY.get_or_init(Mutex::default);
    if let Some(ready) = ready.lock().unwrap_or_else(PoisonError::into_inner).get(pattern) {
        return Ok(ready.clone());
    }
    // Compiling takes far longer than a step.
    budget.charge(100 + pattern.len() as u64 * 10)?;
    let made =
        compile(pattern).map_err(|error| EvalError::failed(format!("error parsing regexp: {error}")))?;
    let mut ready = ready.lock().unwrap_or_else(PoisonError::into_inner);
    if ready.len() >= MAX_PATTERNS {
        ready.clear();
    }
    ready.insert(pattern.to_owned(), made.clone());
    Ok(made)
}

/// Where a part is, from a place on, or the last one up to a place; -1 where it is not.
fn place(values: &[Value], budget: &mut Budget, last: bool) -> Outcome {
    let [text, part] = texts::<2>(values)?;
    budget.charge_bytes(text.len() + part.len())?;
    let bound = if values.len() > 2 { Some(int(values.get(2))?) } else { None };
    let byte_of = |at: i64| {
        let at = usize::try_from(at).ok()?;
        text.char_indices().map(|(byte, _)| byte).chain([text.len()]).nth(at)
    };
    let bound = match bound.map(byte_of) {
        Some(None) => return failed(format!("index out of range: {}", bound.unwrap_or_default())),
        Some(byte) => byte,
        None => None,
    };
    let found = match (last, bound) {
        (false, from) => {
            let from = from.unwrap_or(0);
            text[from..].find(part).map(|at| at + from)
        }
        (true, None) => text.rfind(part),
        (true, Some(to)) => text[..text.floor_char_boundary(to + part.len())].rfind(part),
    };
    Ok(found.map_or(Value::Int(-1), |byte| count(text[..byte].chars().count())))
}

fn join(values: &[Value], budget: &mut Budget) -> Outcome {
    let list = items(values.first().ok_or(EvalError::NoSuchOverload)?)?;
    let between = match values.get(1) {
        Some(Value::String(text)) => text.as_ref(),
        _ => "",
    };
    let mut out = String::new();
    for (index, item) in list.iter().enumerate() {
        let Value::String(item) = item else { return Err(EvalError::NoSuchOverload) };
        budget.charge_bytes(item.len() + between.len())?;
        if index > 0 {
            out.push_str(between);
        }
        out.push_str(item);
    }
    Ok(out.into())
}

fn replace(values: &[Value], budget: &mut Budget) -> Outcome {
    let [text, from, to] = texts::<3>(values)?;
    let most = if values.len() > 3 { usize::try_from(int(values.get(3))?).ok() } else { None };
    let places = text.matches(from).take(most.unwrap_or(usize::MAX)).count();
    // What comes out is paid for before it is made.
    budget.charge_bytes(text.len().saturating_add(places.saturating_mul(to.len())))?;
    Ok(text.replacen(from, to, places).into())
}

fn split(values: &[Value], budget: &mut Budget) -> Outcome {
    let [text, at] = texts::<2>(values)?;
    budget.charge(text.len() as u64)?;
    let most = if values.len() > 2 { int(values.get(2))? } else { -1 };
    let parts: Vec<&str> = match (at.is_empty(), usize::try_from(most)) {
        (_, Ok(0)) => Vec::new(),
        (false, Ok(most)) => text.splitn(most, at).collect(),
        (false, Err(_)) => text.split(at).collect(),
        // Into characters, the last part being the rest.
        (true, most) => {
            let most = most.unwrap_or(usize::MAX);
            let mut parts = Vec::new();
            let mut rest = text;
            while let Some(c) = rest.chars().next() {
                let (head, tail) =
                    if parts.len() + 1 == most { (rest, "") } else { rest.split_at(c.len_utf8()) };
                parts.push(head);
                rest = tail;
            }
            parts
        }
    };
    Ok(parts.into_iter().map(Value::from).collect::<Vec<_>>().into())
}

fn format(values: &[Value], budget: &mut Budget) -> Outcome {
    let template = charged(values, budget)?;
    let args = items(values.get(1).ok_or(EvalError::NoSuchOverload)?)?;
    let (mut out, mut next) = (String::new(), 0);
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut verb = chars.next();
        if verb == Some('%') {
            out.push('%');
            continue;
        }
        let mut precision = None;
        if verb == Some('.') {
            let mut digits = String::new();
            verb = chars.next();
            while let Some(digit) = verb.filter(char::is_ascii_digit) {
                digits.push(digit);
                verb = chars.next();
            }
            precision = digits.parse::<usize>().ok().filter(|digits| *digits <= 100);
        }
        let Some(arg) = args.get(next) else { return failed(format!("index {next} out of range")) };
        next += 1;
        let shown = directive(verb.unwrap_or(' '), precision, arg, budget)?;
        budget.charge_bytes(shown.len())?;
        out.push_str(&shown);
    }
    Ok(out.into())
}

fn directive(
    verb: char,
    precision: Option<usize>,
    arg: &Value,
    budget: &mut Budget,
) -> Result<String, EvalError> {
    let digits = precision.unwrap_or(6);
    Ok(match (verb, arg) {
        ('s', arg) => shown(arg, budget)?,
        ('d', Value::Int(n)) => n.to_string(),
        ('d', Value::Uint(n)) => n.to_string(),
        ('f' | 'e', Value::Double(n)) if n.is_nan() => "NaN".to_owned(),
        ('f' | 'e', Value::Double(n)) if n.is_infinite() => if *n > 0.0 { "∞" } else { "-∞" }.to_owned(),
        ('f', Value::Double(n)) => grouped(&format!("{n:.digits$}")),
        // Whatever precision is asked for.
        ('e', Value::Double(n)) => scientific(*n),
        ('b', Value::Int(n)) if *n < 0 => format!("-{:b}", n.unsigned_abs()),
        ('b', Value::Int(n)) => format!("{n:b}"),
        ('b', Value::Uint(n)) => format!("{n:b}"),
        ('b', Value::Bool(b)) => u8::from(*b).to_string(),
        ('o', Value::Int(n)) => format!("{n:o}"),
        ('o', Value::Uint(n)) => format!("{n:o}"),
        ('x', Value::Int(n)) => format!("{n:x}"),
        ('x', Value::Uint(n)) => format!("{n:x}"),
        ('x', Value::String(text)) => hex(text.as_bytes()),
        ('x', Value::Bytes(bytes)) => hex(bytes),
        ('X', arg) => directive('x', precision, arg, budget)?.to_uppercase(),
        (verb, arg) => {
            return failed(format!("could not parse formatting clause: '%{verb}' for {}", arg.type_name()));
        }
    })
}

/// A number with a comma before each three of its whole digits, as English readers have it.
fn grouped(number: &str) -> String {
    let (sign, rest) = number.strip_prefix('-').map_or(("", number), |rest| ("-", rest));
    let (whole, fraction) = rest.find('.').map_or((rest, ""), |dot| rest.split_at(dot));
    let mut out = String::with_capacity(number.len() + whole.len() / 3);
    out.push_str(sign);
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out.push_str(fraction);
    out
}

/// A number as a mantissa and a power of ten.
fn scientific(number: f64) -> String {
    const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let text = format!("{number:.6e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let digits = format!("{:02}", exponent.unsigned_abs());
    let raised = digits.bytes().map(|digit| RAISED[usize::from(digit - b'0')]);
    let sign = if exponent < 0 { "⁻" } else { "" };
    format!("{mantissa}×10{sign}{}", raised.collect::<String>())
}

/// A value inside of a list or a map: texts are told from what they may look like.
fn inside(value: &Value, budget: &mut Budget) -> Result<String, EvalError> {
    let plain = shown(value, budget)?;
    Ok(match value {
        Value::String(_) => format!("{plain:?}"),
        Value::Bytes(_) => format!("b{plain:?}"),
        Value::Timestamp(_) => format!("timestamp({plain:?})"),
        Value::Duration(_) => format!("duration({plain:?})"),
        Value::Double(n) if n.is_finite() => format!("{n:.6}"),
        Value::Double(_) => format!("{plain:?}"),
        _ => plain,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn shown(value: &Value, budget: &mut Budget) -> Result<String, EvalError> {
    budget.charge(1)?;
    Ok(match value {
        Value::Null => "null".to_owned(),
        Value::Bytes(bytes) => bytes_text(bytes),
        Value::Type(name) => (*name).to_owned(),
        Value::List(list) => {
            let each: Result<Vec<String>, EvalError> =
                list.items.iter().map(|item| inside(item, budget)).collect();
            format!("[{}]", each?.join(", "))
        }
        Value::Map(map) => {
            let mut parts = Vec::new();
            for (key, value) in map.iter() {
                let key = match key {
                    Key::String(key) => format!("{key:?}"),
                    key => plain_text(&key.value()).unwrap_or_default(),
                };
                parts.push(format!("{key}:{}", inside(value, budget)?));
            }
            format!("{{{}}}", parts.join(", "))
        }
        value => match plain_text(value) {
            Some(text) => {
                budget.charge_bytes(text.len())?;
                text
            }
            None => return failed(format!("error during formatting: no text for {}", value.type_name())),
        },
    })
}
