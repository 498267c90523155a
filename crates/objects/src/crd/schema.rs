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
/// Words that hold a list of schemas.
const MANY: [&str; 3] = ["allOf", "oneOf", "anyOf"];

/// Where a node is.
#[derive(Clone, Copy)]
struct Place<'a> {
    root: bool,
    /// Below the metadata of an object.
    inside_meta: bool,
    /// Why there is no default here.
    no_default: Option<NoDefault<'a>>,
    depth: usize,
}

/// Where a schema may not say a default.
#[derive(Clone, Copy)]
enum NoDefault<'a> {
    /// Below this one of apiVersion, kind and metadata of the kind itself.
    Own(&'a str),
    /// In what metadata has more of.
    Additional,
}

/// Whether a schema, with all that is below it, says nothing that keeps it from being looked at as a structural one.
/// What does is among the findings of [`validate`].
pub(super) fn is_convertible(source: &Value) -> bool {
    let said = |word: &str| match &source[word] {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Object(map) => word == "additionalItems" || !map.is_empty(),
        _ => true,
    };
    if !source.is_object() {
        return true;
    }
    let own = !UNSUPPORTED.iter().any(|word| said(word))
        && !source["items"].is_array()
        && source["x-kubernetes-preserve-unknown-fields"] != false;
    own && children(source).all(|(_, child)| is_convertible(child))
}

/// The schemas right below one, each with its path from there, in the order of the findings about them.
fn children(source: &Value) -> impl Iterator<Item = (String, &Value)> {
    let one = |word: &'static str| source.get(word).map(|child| (word.to_owned(), child));
    let properties =
        entries(source, &["properties"]).map(|(name, child)| (format!("properties[{name}]"), child));
    let many = MANY.into_iter().flat_map(|word| {
        list(source, &[word]).iter().enumerate().map(move |(at, child)| (format!("{word}[{at}]"), child))
    });
    one("additionalProperties")
        .into_iter()
        .chain(properties)
        .chain(one("not"))
        .chain(many)
        .chain(one("items"))
}

/// All that is wrong with a version's schema.
pub(super) fn validate(source: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let place = Place { root: true, inside_meta: false, no_default: None, depth: 0 };
    node(source, path, place, &mut errors);
    errors
}

fn node<'a>(source: &'a Value, path: &str, place: Place<'a>, errors: &mut Vec<FieldError>) {
    // What nests deeper is refused as a whole when it is read.
    if place.depth > MAX_SCHEMA_DEPTH || !source.is_object() {
        return;
    }
    words(source, path, place, errors);
    let whole = place.root || source["x-kubernetes-embedded-resource"] == true;
    for (part, child) in children(source) {
        let mut below = Place { root: false, depth: place.depth + 1, ..place };
        match part.strip_prefix("properties[").and_then(|name| name.strip_suffix(']')) {
            Some(name) if whole && matches!(name, "apiVersion" | "kind" | "metadata") => {
                below.inside_meta = true;
                if place.root {
                    let own = source["properties"].as_object().and_then(|all| all.get_key_value(name));
                    below.no_default = own.map(|(name, _)| NoDefault::Own(name));
                }
            }
            None if part == "additionalProperties" && place.inside_meta => {
                below.no_default = Some(NoDefault::Additional);
            }
            _ => {}
        }
        node(child, &format!("{path}.{part}"), below, errors);
    }
    extensions(source, path, errors);
}

fn words(source: &Value, path: &str, place: Place<'_>, errors: &mut Vec<FieldError>) {
    let at = |field: &str| format!("{path}.{field}");
    let kind = text(source, &["type"]);
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(at("type"), kind, &TYPES));
    }
    if let (Some(reason), true) = (place.no_default, source.get("default").is_some()) {
        let why = match reason {
            NoDefault::Own(own) => format!("must not be set in top-level {own}"),
            NoDefault::Additional => {
                "must not be set inside additionalProperties applying to object metadata".to_owned()
            }
        };
        errors.push(FieldError::forbidden(at("default"), why));
    }
    for word in UNSUPPORTED.iter().filter(|word| source.get(**word).is_some_and(|value| !value.is_null())) {
        errors.push(FieldError::forbidden(at(word), format!("{word} is not supported")));
    }
    if kind == "null" {
        let why = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(at("type"), why));
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
}

/// What the `x-kubernetes-` words say of unknown fields, lists and maps.
fn extensions(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let at = |field: &str| format!("{path}.{field}");
    if source["x-kubernetes-preserve-unknown-fields"] == false {
        let why = "must be true or undefined";
        errors.push(FieldError::invalid(at("x-kubernetes-preserve-unknown-fields"), false, why));
    }
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
        } else if given == "set" {
            set_items(&source["items"], path, errors);
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
    if list_type == "map" {
        map_keys(source, items, keys, path, errors);
    }
    if matches!(list_type, "set" | "map") && items["nullable"] == true {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(at("items.nullable"), why));
    }
    if list_type == "map" && items.is_object() {
        always_there(items, keys, path, errors);
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

/// The keys of a list that is a map name scalar properties of its items.
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
    let mut told = 0;
    for key in keys.iter().filter_map(Value::as_str) {
        let mut keys_error = |why: &str| {
            // Each holds all keys.
            told += 1;
            let given = || source["x-kubernetes-list-map-keys"].clone();
            (told <= MOST_TOLD).then(|| FieldError::invalid(at("x-kubernetes-list-map-keys"), given(), why))
        };
        let property = &items["properties"][key];
        if property.is_null() {
            errors.extend(keys_error("entries must all be names of item properties"));
        } else if matches!(text(property, &["type"]), "array" | "object") {
            // What is shown is the type of the items.
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            let field = at(&format!("items.properties[{key}].type"));
            errors.push(FieldError::invalid(field, "object", why));
        }
        if !seen.insert(key) {
            errors.extend(keys_error("must not contain duplicate entries"));
        }
    }
}

/// No item of a list that is a map may lack a key.
fn always_there(items: &Value, keys: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let required: HashSet<&str> = list(items, &["required"]).iter().filter_map(Value::as_str).collect();
    for key in keys.iter().filter_map(Value::as_str) {
        let property = &items["properties"][key];
        if property.is_null() {
            continue;
        }
        let field = format!("{path}.items.properties[{key}]");
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
