//! What a schema may say in a definition: the words of OpenAPI that are not supported, and the rules of the
//! `x-kubernetes-` extensions.

use std::collections::HashSet;

use serde_json::Value;

use crate::error::FieldError;
use crate::lookup::{entries, list, text};
use crate::schema::MAX_SCHEMA_DEPTH;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// Words that JSON Schema has and definitions have not.
const UNSUPPORTED: [&str; 6] =
    ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"];
/// Nodes that hold one schema, and those that hold a list of them.
const ONE: [&str; 3] = ["items", "additionalProperties", "not"];
const MANY: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// Where a node is.
#[derive(Clone, Copy)]
struct Place<'a> {
    root: bool,
    /// Below the metadata of an object.
    inside_meta: bool,
    /// Below which of apiVersion, kind and metadata of the kind itself, which have no defaults.
    own: Option<&'a str>,
    depth: usize,
}

/// All that is wrong with a version's schema.
pub(super) fn validate(source: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let place = Place { root: true, inside_meta: false, own: None, depth: 0 };
    node(source, path, place, &mut errors);
    errors
}

fn node<'a>(source: &'a Value, path: &str, place: Place<'a>, errors: &mut Vec<FieldError>) {
    // What nests deeper is refused as a whole when it is read.
    if place.depth > MAX_SCHEMA_DEPTH || !source.is_object() {
        return;
    }
    words(source, path, place, errors);
    list_and_map(source, path, errors);
    let below = Place { root: false, depth: place.depth + 1, ..place };
    for key in ONE {
        node(&source[key], &format!("{path}.{key}"), below, errors);
    }
    for key in MANY {
        for (index, branch) in list(source, &[key]).iter().enumerate() {
            node(branch, &format!("{path}.{key}[{index}]"), below, errors);
        }
    }
    let whole = place.root || source["x-kubernetes-embedded-resource"] == true;
    for (name, property) in entries(source, &["properties"]) {
        let own = whole && matches!(name.as_str(), "apiVersion" | "kind" | "metadata");
        let below = Place {
            inside_meta: place.inside_meta || own,
            own: place.own.or((place.root && own).then_some(name.as_str())),
            ..below
        };
        node(property, &format!("{path}.properties[{name}]"), below, errors);
    }
}

fn words(source: &Value, path: &str, place: Place<'_>, errors: &mut Vec<FieldError>) {
    let at = |field: &str| format!("{path}.{field}");
    let kind = text(source, &["type"]);
    if kind == "null" {
        let why = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(at("type"), why));
    }
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(at("type"), kind, &TYPES));
    }
    if let (Some(own), true) = (place.own, source.get("default").is_some()) {
        errors.push(FieldError::forbidden(at("default"), format!("must not be set in top-level {own}")));
    }
    for word in UNSUPPORTED.iter().filter(|word| source.get(**word).is_some_and(|value| !value.is_null())) {
        errors.push(FieldError::forbidden(at(word), format!("{word} is not supported")));
    }
    if source["items"].is_array() {
        errors.push(FieldError::forbidden(at("items"), "items must be a schema object and not an array"));
    }
    if place.inside_meta && source["x-kubernetes-embedded-resource"] == true {
        let why = "must not be used inside of resource meta";
        errors.push(FieldError::forbidden(at("x-kubernetes-embedded-resource"), why));
    }
    if source["uniqueItems"] == true {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(at("uniqueItems"), why));
    }
    let has_properties = entries(source, &["properties"]).next().is_some();
    if has_properties
        && (source["additionalProperties"].is_object() || source["additionalProperties"] == false)
    {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(at("additionalProperties"), why));
    }
    if source["x-kubernetes-preserve-unknown-fields"] == false {
        let why = "must be true or undefined";
        errors.push(FieldError::invalid(at("x-kubernetes-preserve-unknown-fields"), false, why));
    }
}

fn list_and_map(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let at = |field: &str| format!("{path}.{field}");
    let kind = text(source, &["type"]);
    for (key, wanted, allowed) in [
        ("x-kubernetes-map-type", "object", &["atomic", "granular"][..]),
        ("x-kubernetes-list-type", "array", &["atomic", "set", "map"]),
    ] {
        let Some(given) = source[key].as_str() else { continue };
        let why = format!("must be {wanted} if {key} is specified");
        if kind.is_empty() {
            errors.push(FieldError::required(at("type"), why));
        } else if kind != wanted {
            errors.push(FieldError::invalid(at("type"), kind, why));
        }
        if !allowed.contains(&given) {
            errors.push(FieldError::not_supported(at(key), given, allowed));
        }
    }
    let (list_type, items) = (text(source, &["x-kubernetes-list-type"]), &source["items"]);
    let keys = list(source, &["x-kubernetes-list-map-keys"]);
    if !keys.is_empty() && list_type != "map" {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match list_type {
            "" => FieldError::required(at("x-kubernetes-list-type"), why),
            other => FieldError::invalid(at("x-kubernetes-list-type"), other, why),
        });
    }
    if matches!(list_type, "set" | "map") && items["nullable"] == true {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(at("items.nullable"), why));
    }
    match list_type {
        "set" => set_items(items, path, errors),
        "map" => map_keys(source, items, keys, path, errors),
        _ => {}
    }
}

fn set_items(items: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
    for (kind, key, default) in
        [("array", "x-kubernetes-list-type", "atomic"), ("object", "x-kubernetes-map-type", "granular")]
    {
        if text(items, &["type"]) == kind && items[key].as_str().unwrap_or(default) != "atomic" {
            // What kind of list it is, is shown; of a map nothing is.
            let shown = if kind == "object" { Value::Null } else { items[key].clone() };
            errors.push(FieldError::invalid(format!("{path}.items.{key}"), shown, why));
        }
    }
}

/// Most findings about the keys of a list as a whole.
const MOST_TOLD: usize = 16;

fn map_keys(source: &Value, items: &Value, keys: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let at = |field: &str| format!("{path}.{field}");
    if keys.is_empty() {
        let why = "must not be empty if x-kubernetes-list-type is map";
        errors.push(FieldError::required(at("x-kubernetes-list-map-keys"), why));
    }
    if items.is_null() {
        let why = "must have a schema if x-kubernetes-list-type is map";
        errors.push(FieldError::required(at("items"), why));
        return;
    }
    if text(items, &["type"]) != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(at("items.type"), text(items, &["type"]), why));
        return;
    }
    let mut seen = HashSet::new();
    let required: HashSet<&str> = list(items, &["required"]).iter().filter_map(Value::as_str).collect();
    let mut told = 0;
    for key in keys.iter().filter_map(Value::as_str) {
        let mut keys_error = |why: &str| {
            // Each holds all keys.
            told += 1;
            if told > MOST_TOLD {
                return;
            }
            let given = source["x-kubernetes-list-map-keys"].clone();
            errors.push(FieldError::invalid(at("x-kubernetes-list-map-keys"), given, why));
        };
        if !seen.insert(key) {
            keys_error("must not contain duplicate entries");
        }
        let property = &items["properties"][key];
        if property.is_null() {
            keys_error("entries must all be names of item properties");
            continue;
        }
        let field = at(&format!("items.properties[{key}]"));
        if matches!(text(property, &["type"]), "array" | "object") {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(format!("{field}.type"), text(property, &["type"]), why));
        }
        if !required.contains(key) && property.get("default").is_none() {
            let why = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(format!("{field}.default"), why));
        }
        if property["nullable"] == true {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(format!("{field}.nullable"), why));
        }
    }
}
