//! Reading schema nodes from OpenAPI v2 (built-in kinds) and v3 (CustomResourceDefinitions).

use std::collections::BTreeMap;

use regex::RegexBuilder;
use serde_json::Value;

use super::{Additional, Definitions, Limits, ListType, PatchMeta, Schema, SchemaRef, SchemaType};
use crate::lookup::{entries, list, text};

/// How deep a CustomResourceDefinition's schema may nest.
pub const MAX_SCHEMA_DEPTH: usize = 64;
/// Largest compiled pattern, bytes.
const PATTERN_LIMIT: usize = 1 << 20;

/// What is wrong with a schema.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct SchemaError {
    /// Where in the schema, as `.properties[spec].pattern`.
    pub path: String,
    /// What is wrong.
    pub message: String,
    /// The value at fault.
    pub value: Value,
}

/// Where references lead; `None` in schemas that may have none.
type Table = Option<&'static Definitions>;

/// A node of a trusted table: what cannot be read counts as not said.
pub(super) fn definition(value: &Value, table: &'static Definitions) -> Schema {
    node(value, Some(table), "", 0).unwrap_or_default()
}

impl SchemaRef {
    /// Reads the `openAPIV3Schema` of a CustomResourceDefinition.
    ///
    /// # Errors
    /// Patterns that do not compile, nesting beyond [`MAX_SCHEMA_DEPTH`], `$ref`.
    pub fn from_openapi(value: &Value) -> Result<Self, SchemaError> {
        reference(value, None, "", 0)
    }
}

fn reference(value: &Value, table: Table, path: &str, depth: usize) -> Result<SchemaRef, SchemaError> {
    let target = text(value, &["$ref"]);
    let mut out = match (target.rsplit('/').next(), table) {
        (Some(name), Some(table)) if !name.is_empty() => match text(value, &["x-kubernetes-map-type"]) {
            "granular" => SchemaRef::granular(table, name),
            _ => SchemaRef::named(table, name),
        },
        (Some(name), None) if !name.is_empty() => {
            let message = "may not be used in a structural schema".to_owned();
            return Err(SchemaError { path: format!("{path}.$ref"), message, value: Value::Null });
        }
        _ => SchemaRef::inline(node(value, table, path, depth)?),
    };
    let strategy = text(value, &["x-kubernetes-patch-strategy"]);
    let merge_key = text(value, &["x-kubernetes-patch-merge-key"]);
    out.patch = PatchMeta {
        merge: strategy.split(',').any(|word| word == "merge"),
        replace: strategy == "replace",
        retain_keys: strategy.split(',').any(|word| word == "retainKeys"),
        merge_key: (!merge_key.is_empty()).then(|| merge_key.to_owned()),
    };
    out.default = value.get("default").cloned();
    Ok(out)
}

fn node(value: &Value, table: Table, path: &str, depth: usize) -> Result<Schema, SchemaError> {
    if depth > MAX_SCHEMA_DEPTH {
        let message = format!("nests deeper than {MAX_SCHEMA_DEPTH} levels");
        return Err(SchemaError { path: path.to_owned(), message, value: Value::Null });
    }
    let flag = |key: &str| value.get(key) == Some(&Value::Bool(true));
    let child = |key: &str| match value.get(key) {
        Some(inner @ Value::Object(_)) => {
            reference(inner, table, &format!("{path}.{key}"), depth + 1).map(Some)
        }
        _ => Ok(None),
    };
    let mut properties = BTreeMap::new();
    for (name, property) in entries(value, &["properties"]) {
        let path = format!("{path}.properties[{name}]");
        properties.insert(name.clone(), reference(property, table, &path, depth + 1)?);
    }
    let additional = match value.get("additionalProperties") {
        Some(Value::Bool(true)) => Additional::Any,
        Some(Value::Object(map)) if map.is_empty() => Additional::Any,
        Some(Value::Object(_)) => child("additionalProperties")?.map_or(Additional::None, Additional::Schema),
        _ => Additional::None,
    };
    let format = text(value, &["format"]);
    Ok(Schema {
        kind: kind(value),
        nullable: flag("nullable"),
        format: (!format.is_empty()).then(|| format.to_owned()),
        properties,
        required: strings(value, "required"),
        additional,
        items: child("items")?,
        list_type: match text(value, &["x-kubernetes-list-type"]) {
            "set" => ListType::Set,
            "map" => ListType::Map(strings(value, "x-kubernetes-list-map-keys")),
            _ => ListType::Atomic,
        },
        atomic_map: text(value, &["x-kubernetes-map-type"]) == "atomic",
        preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
        embedded_resource: flag("x-kubernetes-embedded-resource"),
        limits: limits(value, table, path, depth)?,
    })
}

fn kind(value: &Value) -> SchemaType {
    if value.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        return if text(value, &["format"]) == "quantity" {
            SchemaType::Quantity
        } else {
            SchemaType::IntOrString
        };
    }
    match text(value, &["type"]) {
        "object" => SchemaType::Object,
        "array" => SchemaType::Array,
        "string" => SchemaType::String,
        "integer" => SchemaType::Integer,
        "number" => SchemaType::Number,
        "boolean" => SchemaType::Boolean,
        _ => SchemaType::Any,
    }
}

/// Why a pattern is none, in the words of Go's regular expressions where they are not far.
fn no_pattern(pattern: &str, error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    let why = match last.strip_prefix("error: ").unwrap_or(last) {
        "unclosed group" => "missing closing )",
        "unopened group" => "unexpected )",
        "unclosed character class" => "missing closing ]",
        "repetition operator missing expression" => "missing argument to repetition operator",
        other => other,
    };
    format!("must be a valid regular expression, but isn't: error parsing regexp: {why}: `{pattern}`")
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    list(value, &[key]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn limits(value: &Value, table: Table, path: &str, depth: usize) -> Result<Limits, SchemaError> {
    let flag = |key: &str| value.get(key) == Some(&Value::Bool(true));
    let count = |key: &str| value.get(key).and_then(Value::as_u64);
    let float = |key: &str| value.get(key).and_then(Value::as_f64);
    let branches = |key: &str| -> Result<Vec<SchemaRef>, SchemaError> {
        let each = list(value, &[key]).iter().enumerate();
        each.map(|(index, branch)| reference(branch, table, &format!("{path}.{key}[{index}]"), depth + 1))
            .collect()
    };
    let pattern = match text(value, &["pattern"]) {
        "" => None,
        pattern => Some(RegexBuilder::new(pattern).size_limit(PATTERN_LIMIT).build().map_err(|error| {
            SchemaError {
                path: format!("{path}.pattern"),
                message: no_pattern(pattern, &error),
                value: pattern.into(),
            }
        })?),
    };
    Ok(Limits {
        enumeration: value.get("enum").and_then(Value::as_array).cloned(),
        minimum: float("minimum"),
        maximum: float("maximum"),
        exclusive_minimum: flag("exclusiveMinimum"),
        exclusive_maximum: flag("exclusiveMaximum"),
        multiple_of: float("multipleOf").filter(|divisor| *divisor > 0.0),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        pattern,
        min_items: count("minItems"),
        max_items: count("maxItems"),
        unique_items: flag("uniqueItems"),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
        all_of: branches("allOf")?,
        any_of: branches("anyOf")?,
        one_of: branches("oneOf")?,
        not: match value.get("not") {
            Some(inner @ Value::Object(_)) => {
                Some(reference(inner, table, &format!("{path}.not"), depth + 1)?)
            }
            _ => None,
        },
    })
}
