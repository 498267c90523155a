//! Structural schemas: each part of an object has one type, said in one place, so that pruning, defaulting and
//! merging know their way. Logical branches (`allOf` and so on) may only restrict values.

use serde_json::{Value, json};

use crate::error::FieldError;
use crate::lookup::{entries, list, text};
use crate::schema::MAX_SCHEMA_DEPTH;

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// All that keeps a schema from being structural, in the order of the messages.
pub(super) fn validate(source: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    node(source, path, Level::Root, 0, &mut errors);
    errors.sort_by_cached_key(ToString::to_string);
    errors
}

fn flag(source: &Value, key: &str) -> bool {
    source[key] == true
}

fn node(source: &Value, path: &str, level: Level, depth: usize, errors: &mut Vec<FieldError>) {
    if depth > MAX_SCHEMA_DEPTH {
        return;
    }
    let at = |field: &str| format!("{path}.{field}");
    types(source, path, level, errors);
    if text(source, &["type"]) == "array" && source["items"].is_null() {
        errors.push(FieldError::required(at("items"), "must be specified"));
    }
    if source["items"].is_object() {
        node(&source["items"], &at("items"), Level::Item, depth + 1, errors);
    }
    let additional = &source["additionalProperties"];
    if !additional.is_null() && level == Level::Root {
        errors.push(FieldError::forbidden(at("additionalProperties"), "must not be used at the root"));
    }
    if additional.is_object() {
        node(additional, &at("additionalProperties"), Level::Field, depth + 1, errors);
    }
    let whole = level == Level::Root || flag(source, EMBEDDED);
    for (name, property) in entries(source, &["properties"]) {
        let field = at(&format!("properties[{name}]"));
        if level == Level::Root && name == "metadata" {
            metadata(property, &field, errors);
            continue;
        }
        if whole && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            let (wanted, given) =
                (if name == "metadata" { "object" } else { "string" }, text(property, &["type"]));
            if given != wanted {
                errors.push(FieldError::invalid(format!("{field}.type"), given, format!("must be {wanted}")));
            }
        }
        node(property, &field, Level::Field, depth + 1, errors);
    }
    branches(source, path, depth, errors);
}

fn types(source: &Value, path: &str, level: Level, errors: &mut Vec<FieldError>) {
    let at = |field: &str| format!("{path}.{field}");
    let kind = text(source, &["type"]);
    if flag(source, EMBEDDED) && kind != "object" {
        let why = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match kind {
            "" => FieldError::required(at("type"), why),
            kind => FieldError::invalid(at("type"), kind, why),
        });
    } else if kind.is_empty() && !flag(source, INT_OR_STRING) && !flag(source, PRESERVE) {
        let why = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(at("type"), why));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(FieldError::invalid(at("type"), kind, "must be object at the root"));
    }
    if flag(source, EMBEDDED) && !source["additionalProperties"].is_null() {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(at("additionalProperties"), why));
    }
    if flag(source, EMBEDDED) && !flag(source, PRESERVE) && entries(source, &["properties"]).next().is_none()
    {
        let why = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(at("properties"), why));
    }
    if flag(source, INT_OR_STRING) {
        for other in [PRESERVE, EMBEDDED].into_iter().filter(|other| flag(source, other)) {
            let why = "must be false if x-kubernetes-int-or-string is true";
            errors.push(FieldError::invalid(at(other), true, why));
        }
    }
}

/// Of its own metadata a kind may restrict the name alone.
fn metadata(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if text(source, &["type"]) != "object" {
        let given = text(source, &["type"]);
        errors.push(FieldError::invalid(format!("{path}.type"), given, "must be object"));
    }
    let plain = |key: &str| matches!(key, "type" | "properties" | "description" | "default");
    let names =
        entries(source, &["properties"]).all(|(key, _)| matches!(key.as_str(), "name" | "generateName"));
    if !names || entries(source, &[]).any(|(key, _)| !plain(key)) {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(path, why));
    }
}

fn branches(source: &Value, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    for key in ["allOf", "anyOf", "oneOf"] {
        for (index, branch) in list(source, &[key]).iter().enumerate() {
            // The one way to say int-or-string that clients without the extension understand.
            let known = flag(source, INT_OR_STRING)
                && ((key == "anyOf" && source[key] == either)
                    || (key == "allOf" && index == 0 && branch["anyOf"] == either));
            if !known {
                nested(branch, &format!("{path}.{key}[{index}]"), depth + 1, errors);
            }
        }
    }
    if source["not"].is_object() {
        nested(&source["not"], &format!("{path}.not"), depth + 1, errors);
    }
}

/// A branch: what is said elsewhere may not be said here.
fn nested(source: &Value, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    if depth > MAX_SCHEMA_DEPTH {
        return;
    }
    let at = |field: &str| format!("{path}.{field}");
    for (key, words) in [
        ("type", "must be empty to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("nullable", "must be false to be structural"),
        (PRESERVE, "must be false to be structural"),
        (EMBEDDED, "must be false to be structural"),
        (INT_OR_STRING, "must be false to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ] {
        let given = &source[key];
        let empty =
            given.is_null() || given == "" || given == false || given.as_array().is_some_and(Vec::is_empty);
        if !empty {
            errors.push(FieldError::forbidden(at(key), words));
        }
    }
    if source["items"].is_object() {
        nested(&source["items"], &at("items"), depth + 1, errors);
    }
    for (name, property) in entries(source, &["properties"]) {
        let field = at(&format!("properties[{name}]"));
        if name == "metadata" {
            errors.push(FieldError::forbidden(&field, "must not be specified in a nested context"));
        }
        nested(property, &field, depth + 1, errors);
    }
    branches(source, path, depth, errors);
}
