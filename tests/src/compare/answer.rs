//! Answers: what one must hold, and how two differ.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Headers by lower-case name; several of one name are joined by a line break.
    pub headers: BTreeMap<String, String>,
    /// The body: JSON, or a text where it is none. Several JSON documents, as a watch sends them, are a list.
    pub body: Value,
}

/// The headers that are compared.
const HEADERS: [&str; 4] = ["content-type", "warning", "retry-after", "location"];

impl Answer {
    /// Without what differs with every run: ids, times, revisions become marks, so that their presence is still compared.
    pub fn plain(&self) -> Self {
        let headers = self.headers.iter().filter(|(name, _)| HEADERS.contains(&name.as_str()));
        let headers = headers.map(|(name, value)| (name.clone(), value.clone())).collect();
        Self { status: self.status, headers, body: plain(&self.body, "") }
    }
}

/// What of `wanted` is not in `found`, one line each; see [`Step::answer`](super::Step::answer).
pub fn missing(wanted: &Value, found: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    look(wanted, Some(found), "", &mut lines);
    lines
}

fn look(wanted: &Value, found: Option<&Value>, at: &str, lines: &mut Vec<String>) {
    match (wanted, found) {
        (Value::Null, _) if at.is_empty() => {} // nothing is expected of the body
        (Value::String(text), None) if text == "-" => {}
        (Value::String(text), Some(found)) if text == "-" => lines.push(format!("{at}: is there: {found}")),
        (_, None) => lines.push(format!("{at}: is missing")),
        (Value::String(text), Some(_)) if text == "*" => {}
        (Value::String(text), Some(Value::String(found))) if text.starts_with('~') => {
            if !found.contains(&text[1..]) {
                lines.push(format!("{at}: {found:?} does not contain {:?}", &text[1..]));
            }
        }
        (Value::Object(wanted), Some(Value::Object(found))) => {
            for (key, value) in wanted {
                look(value, found.get(key), &format!("{at}/{key}"), lines);
            }
        }
        (Value::Array(wanted), Some(Value::Array(found))) => {
            if wanted.len() != found.len() {
                lines.push(format!("{at}: has {} elements, not {}: {found:?}", found.len(), wanted.len()));
            }
            for (index, (wanted, found)) in wanted.iter().zip(found).enumerate() {
                look(wanted, Some(found), &format!("{at}/{index}"), lines);
            }
        }
        (wanted, Some(found)) if wanted == found => {}
        (wanted, Some(found)) => lines.push(format!("{at}: is {found}, not {wanted}")),
    }
}

/// What differs between two [`plain`](Answer::plain) answers, one line each.
/// `known` are pointers (`*` is any key) where a difference is known and has a reason.
pub fn differences<'a>(
    ours: &Answer,
    theirs: &Answer,
    known: impl IntoIterator<Item = &'a str>,
) -> Vec<String> {
    let known: Vec<Vec<&str>> = known.into_iter().map(|path| path.split('/').skip(1).collect()).collect();
    let mut lines = Vec::new();
    if ours.status != theirs.status {
        lines.push(format!("status: ours {}, theirs {}", ours.status, theirs.status));
    }
    for name in HEADERS {
        let pair = (ours.headers.get(name), theirs.headers.get(name));
        if pair.0 != pair.1 && !is_known(&known, &["headers", name]) {
            lines.push(format!("header {name}: ours {:?}, theirs {:?}", pair.0, pair.1));
        }
    }
    compare(&ours.body, &theirs.body, &mut Vec::new(), &known, &mut lines);
    lines
}

fn is_known(known: &[Vec<&str>], path: &[&str]) -> bool {
    // What is known of a field is known of all that is in it.
    known.iter().any(|known| {
        known.len() <= path.len()
            && known.iter().zip(path).all(|(known, part)| *known == "*" || known == part)
    })
}

fn compare(
    ours: &Value,
    theirs: &Value,
    path: &mut Vec<String>,
    known: &[Vec<&str>],
    lines: &mut Vec<String>,
) {
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    if ours == theirs || is_known(known, &parts) {
        return;
    }
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let keys: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
            for key in keys {
                path.push(key.clone());
                let none = Value::String("(missing)".to_owned());
                compare(ours.get(key).unwrap_or(&none), theirs.get(key).unwrap_or(&none), path, known, lines);
                path.pop();
            }
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            for (index, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
                path.push(index.to_string());
                compare(ours, theirs, path, known, lines);
                path.pop();
            }
        }
        _ => lines.push(format!("/{}: ours {ours}, theirs {theirs}", path.join("/"))),
    }
}

/// Keys whose values differ with every run.
const OF_THE_RUN: [&str; 11] = [
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "deletionTimestamp",
    "continue",
    "time",
    "selfLink",
    "clusterIP",
    "lastTransitionTime",
    "lastPhaseTransitionTime",
    "nodePort",
];

fn plain(value: &Value, key: &str) -> Value {
    match value {
        Value::String(text) if OF_THE_RUN.contains(&key) && !matches!(text.as_str(), "" | "None" | "0") => {
            mark(key)
        }
        Value::Number(_) if matches!(key, "nodePort" | "healthCheckNodePort") => mark(key),
        Value::Array(list) => Value::Array(list.iter().map(|value| plain(value, "")).collect()),
        Value::Object(map) => {
            let mut map: Map<String, Value> =
                map.iter().map(|(key, value)| (key.clone(), plain(value, key))).collect();
            if let Some(Value::Array(writers)) = map.get_mut("managedFields") {
                // Those of one second are in another order than those of two.
                writers.sort_by_key(|writer| {
                    ["operation", "manager", "apiVersion", "subresource"].map(|key| writer[key].to_string())
                });
            }
            hide_ages(&mut map);
            // The end of a generated name is random.
            if let (Some(Value::String(start)), Some(Value::String(name))) =
                (map.get("generateName"), map.get("name"))
                && name.starts_with(start.as_str())
            {
                let name = Value::String(format!("{start}<generated>"));
                map.insert("name".to_owned(), name);
            }
            // Made from clusterIP.
            if map.contains_key("clusterIP")
                && map.contains_key("clusterIPs")
                && map["clusterIP"] == mark("clusterIP")
            {
                map.insert("clusterIPs".to_owned(), mark("clusterIP"));
            }
            Value::Object(map)
        }
        value => value.clone(),
    }
}

/// Columns of a table that tell how long ago something was.
const AGES: [&str; 6] = ["Age", "Created At", "Last Seen", "First Seen", "Last Schedule", "Duration"];

/// Makes the ages in a table's rows marks.
fn hide_ages(table: &mut Map<String, Value>) {
    let Some(Value::Array(columns)) = table.get("columnDefinitions") else { return };
    let ages: Vec<usize> = (0..columns.len())
        .filter(|at| {
            columns[*at]["type"] == "date"
                || columns[*at]["name"].as_str().is_some_and(|name| AGES.contains(&name))
        })
        .collect();
    let Some(Value::Array(rows)) = table.get_mut("rows") else { return };
    for row in rows {
        for at in &ages {
            let cell = &mut row["cells"][*at];
            if cell.as_str().is_some_and(is_age) {
                *cell = mark("age");
            }
        }
        // A Pod's restarts tell when the last was: `5 (2d3h ago)`.
        for cell in row["cells"].as_array_mut().into_iter().flatten() {
            let ago = cell.as_str().and_then(|text| text.strip_suffix(" ago)")?.split_once(" ("));
            if let Some((count, _)) = ago.filter(|(_, age)| is_age(age)) {
                *cell = Value::String(format!("{count} (<age> ago)"));
            }
        }
    }
}

/// Whether it is a length of time, as `5s` or `2d3h`, or a time.
fn is_age(text: &str) -> bool {
    text.ends_with('Z') && text.contains("T")
        || text.starts_with(|c: char| c.is_ascii_digit())
            && text.chars().all(|c| c.is_ascii_digit() || "smhdy".contains(c))
            && text.ends_with(|c: char| "smhdy".contains(c))
}

fn mark(key: &str) -> Value {
    Value::String(format!("<{key}>"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wanted_is_looked_for() {
        let found = json!({"a": {"b": "some words", "c": [1, 2]}, "d": 1});
        assert_eq!(missing(&json!({"a": {"b": "~word", "c": [1, 2]}, "d": "*", "e": "-"}), &found), [""; 0]);
        assert_eq!(missing(&json!({"a": {"b": "~none"}}), &found).len(), 1);
        assert_eq!(missing(&json!({"a": {"c": [1]}}), &found).len(), 1);
        assert_eq!(missing(&json!({"d": "-", "e": 1, "a": {"b": "words"}}), &found).len(), 3);
    }

    #[test]
    fn two_answers_differ_but_for_what_differs_with_every_run() {
        let answer = |uid: &str, name: &str, more: Value| {
            Answer {
                status: 200,
                headers: BTreeMap::new(),
                body: json!({"metadata": {"uid": uid, "generateName": "a-", "name": name, "more": more}}),
            }
            .plain()
        };
        let same = differences(&answer("1", "a-x", json!(1)), &answer("2", "a-y", json!(1)), []);
        assert_eq!(same, [""; 0]);
        assert_eq!(differences(&answer("1", "a-x", json!(1)), &answer("", "b", json!(2)), []).len(), 3);
        assert_eq!(
            differences(&answer("1", "a-x", json!(1)), &answer("2", "a-y", json!([2])), ["/metadata/more"]),
            [""; 0]
        );
        let table = |age: &str| {
            let columns = json!([{"name": "Name"}, {"name": "Age"}]);
            plain(&json!({"columnDefinitions": columns, "rows": [{"cells": ["1s", age]}]}), "")
        };
        assert_eq!(table("5s"), table("2m10s"));
        assert_ne!(table("5s"), table("<unknown>"));
        assert_eq!(table("5 (6y1d ago)"), table("5 (6y2d ago)"));
        assert_ne!(table("5 (6y1d ago)"), table("4 (6y1d ago)"));
        assert_eq!(
            differences(
                &answer("1", "a-x", json!({"k": 1})),
                &answer("2", "a-y", json!({"k": 2})),
                ["/*/more"]
            ),
            [""; 0]
        );
    }
}
