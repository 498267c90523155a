//! What is wrong with the parts of versions: schema, subresources, columns, selectable fields. Where all versions have
//! the same one, it is told of once, as a part of the definition.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{root_schema, schema, structural};
use crate::Object;
use crate::error::FieldError;
use crate::lookup::{list, text};
use crate::schema::{Additional, MAX_SCHEMA_DEPTH, Schema, SchemaRef, SchemaType};
use crate::validations::Rules;

/// Most selectable fields of one version.
const MAX_SELECTABLE: usize = 8;
/// What a schema may say at its root where the status is written apart, as messages name it, and as it is written.
const AT_ROOT: [(&str, &str); 22] = [
    ("Description", "description"),
    ("Type", "type"),
    ("Format", "format"),
    ("Title", "title"),
    ("Maximum", "maximum"),
    ("ExclusiveMaximum", "exclusiveMaximum"),
    ("Minimum", "minimum"),
    ("ExclusiveMinimum", "exclusiveMinimum"),
    ("MaxLength", "maxLength"),
    ("MinLength", "minLength"),
    ("Pattern", "pattern"),
    ("MaxItems", "maxItems"),
    ("MinItems", "minItems"),
    ("UniqueItems", "uniqueItems"),
    ("MultipleOf", "multipleOf"),
    ("Required", "required"),
    ("Items", "items"),
    ("Properties", "properties"),
    ("ExternalDocs", "externalDocs"),
    ("Example", "example"),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields"),
    ("XValidations", "x-kubernetes-validations"),
];

/// Parts of a version, and what a definition calls the ones that all its versions have in common.
const PARTS: [(&str, &str); 4] = [
    ("schema", "validation"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
    ("selectableFields", "selectableFields"),
];

fn is_shared(crd: &Object, key: &str) -> bool {
    let versions = list(crd, &["spec", "versions"]);
    versions.iter().all(|version| version[key] == versions[0][key])
}

/// All that is wrong with the parts that one version has for itself.
pub(super) fn of_version(crd: &Object, index: usize, errors: &mut Vec<FieldError>) {
    let version = &crd["spec"]["versions"][index];
    let status = !version["subresources"]["status"].is_null();
    for (key, _) in PARTS.into_iter().filter(|(key, _)| !is_shared(crd, key)) {
        part(version, key, &format!("spec.versions[{index}].{key}"), status, errors);
    }
}

/// All that is wrong with the parts that all versions have in common.
pub(super) fn shared(crd: &Object, errors: &mut Vec<FieldError>) {
    let versions = list(crd, &["spec", "versions"]);
    let Some(first) = versions.first() else { return };
    let status = versions.iter().any(|version| !version["subresources"]["status"].is_null());
    for (key, name) in PARTS.into_iter().filter(|(key, _)| is_shared(crd, key)) {
        part(first, key, &format!("spec.{name}"), status, errors);
    }
}

fn part(version: &Value, key: &str, path: &str, status: bool, errors: &mut Vec<FieldError>) {
    match key {
        "schema" if version[key]["openAPIV3Schema"].is_object() => {
            let source = &version[key]["openAPIV3Schema"];
            version_schema(source, &format!("{path}.openAPIV3Schema"), status, errors);
        }
        "subresources" => scale(&version[key]["scale"], &format!("{path}.scale"), errors),
        "additionalPrinterColumns" => columns(list(version, &[key]), path, errors),
        "selectableFields" => selectable(version, path, errors),
        _ => {}
    }
}

fn version_schema(source: &Value, path: &str, status: bool, errors: &mut Vec<FieldError>) {
    let before = errors.len();
    if status {
        at_root(source, path, errors);
    }
    if source["nullable"] == true {
        errors.push(FieldError::forbidden(format!("{path}.nullable"), "nullable cannot be true at the root"));
    }
    let words = schema::validate(source, path);
    let is_plain = words.is_empty();
    let checked = schema::is_convertible(source).then(|| structure(source, path, errors)).flatten();
    errors.extend(words);
    match checked {
        // What is no schema has no rules that could be checked.
        Some(Ok(schema)) if is_plain => match Rules::compile(source, &schema, path) {
            Ok(Some(rules)) => default_rules(&rules, &schema, path, errors),
            Ok(None) => {}
            Err(found) => errors.extend(found),
        },
        Some(Err(error)) if errors.len() == before => errors.push(error),
        _ => {}
    }
}

/// The schema that is read of the source where that is structural and its defaults are good, or why it cannot be read.
fn structure(
    source: &Value,
    path: &str,
    errors: &mut Vec<FieldError>,
) -> Option<Result<SchemaRef, FieldError>> {
    let before = errors.len();
    errors.extend(structural::validate(source, path));
    if errors.len() > before {
        return None;
    }
    let schema = root_schema(source, path);
    if let Ok(schema) = &schema {
        defaults(schema, source, path, 0, errors);
    }
    (errors.len() == before).then_some(schema)
}

fn at_root(source: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let kind = text(source, &["type"]);
    if !kind.is_empty() && kind != "object" {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(FieldError::invalid(format!("{path}.type"), kind, why));
    }
    let odd = source.as_object().into_iter().flatten().any(|(key, value)| {
        let empty = value.is_null() || *value == false || value.as_array().is_some_and(Vec::is_empty);
        !empty && !AT_ROOT.iter().any(|(_, known)| known == key)
    });
    if odd {
        let known: Vec<&str> = AT_ROOT.iter().map(|(name, _)| *name).collect();
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            known.join(" ")
        );
        errors.push(FieldError::invalid(path, source.clone(), why));
    }
}

/// A default must be what its own schema lets through.
fn defaults(schema: &Schema, source: &Value, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    if depth > MAX_SCHEMA_DEPTH {
        return;
    }
    for (name, property) in schema.properties.iter().filter(|(name, _)| depth > 0 || *name != "metadata") {
        let path = format!("{path}.properties[{name}]");
        if let Some(default) = &property.default {
            let field = format!("{path}.default");
            let mut pruned = default.clone();
            if !property.prune(&mut pruned).is_empty() {
                errors.push(FieldError::invalid(&field, default.clone(), "must not have unknown fields"));
            }
            let found = property.validate_with(default, false);
            let found = found.into_iter().chain(property.embedded_errors(default));
            errors.extend(found.map(|error| error.below(&field)));
        }
        defaults(property, &source["properties"][name], &path, depth + 1, errors);
    }
    if let Some(items) = &schema.items {
        defaults(items, &source["items"], &format!("{path}.items"), depth + 1, errors);
    }
    if let Additional::Schema(inner) = &schema.additional {
        let path = format!("{path}.additionalProperties");
        defaults(inner, &source["additionalProperties"], &path, depth + 1, errors);
    }
}

/// A default must follow the rules beside it and below it.
fn default_rules(rules: &Rules, schema: &Schema, path: &str, errors: &mut Vec<FieldError>) {
    for (name, inner) in rules.properties() {
        let Some(property) = schema.properties.get(name) else { continue };
        let path = format!("{path}.properties[{name}]");
        if let Some(default) = property.default.as_ref().filter(|default| !default.is_null()) {
            let field = format!("{path}.default");
            errors.extend(inner.validate(default, None).into_iter().map(|error| error.below(&field)));
        }
        default_rules(inner, property, &path, errors);
    }
    if let (Some(inner), Some(items)) = (rules.items(), &schema.items) {
        default_rules(inner, items, &format!("{path}.items"), errors);
    }
    if let (Some(inner), Additional::Schema(values)) = (rules.additional(), &schema.additional) {
        default_rules(inner, values, &format!("{path}.additionalProperties"), errors);
    }
}

/// Whether a path begins as one of fields does; what else it has is not looked at.
fn simple_path(source: &str, field: &str, errors: &mut Vec<FieldError>) -> bool {
    if source.is_empty() {
        errors.push(FieldError::required(field, ""));
    } else if !source.starts_with('.') {
        errors.push(FieldError::invalid(field, source, "must be a simple json path starting with ."));
    }
    source.starts_with('.')
}

fn scale(scale: &Value, path: &str, errors: &mut Vec<FieldError>) {
    if !scale.is_object() {
        return;
    }
    for (key, below, words) in [
        ("specReplicasPath", &[".spec."][..], "under .spec"),
        ("statusReplicasPath", &[".status."], "under .status"),
        ("labelSelectorPath", &[".spec.", ".status."], "under either .spec or .status"),
    ] {
        let given = text(scale, &[key]);
        let field = format!("{path}.{key}");
        if key == "labelSelectorPath" && given.is_empty() {
            continue;
        }
        if simple_path(given, &field, errors) && !below.iter().any(|lead| given.starts_with(lead)) {
            errors.push(FieldError::invalid(field, given, format!("should be a json path {words}")));
        }
    }
}

fn columns(given: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    const KINDS: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    if given.len() > super::MAX_COLUMNS {
        errors.push(FieldError::too_many(path, given.len() as u64, super::MAX_COLUMNS as u64));
        return;
    }
    for (index, column) in given.iter().enumerate() {
        let at = |field: &str| format!("{path}[{index}].{field}");
        if text(column, &["name"]).is_empty() {
            errors.push(FieldError::required(at("name"), ""));
        }
        let kind = text(column, &["type"]);
        let why = format!("must be one of {}", KINDS.join(","));
        if kind.is_empty() {
            errors.push(FieldError::required(at("type"), why));
        } else if !KINDS.contains(&kind) {
            errors.push(FieldError::invalid(at("type"), kind, why));
        }
        let format = text(column, &["format"]);
        if !format.is_empty() && !FORMATS.contains(&format) {
            let why = format!("must be one of {}", FORMATS.join(","));
            errors.push(FieldError::invalid(at("format"), format, why));
        }
        simple_path(text(column, &["jsonPath"]), &at("JSONPath"), errors);
    }
}

fn selectable(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let given = list(version, &["selectableFields"]);
    let source = &version["schema"]["openAPIV3Schema"];
    // Fields that every object has count where the schema names them.
    let Ok(root) = SchemaRef::from_openapi(source) else { return };
    let mut seen = HashSet::new();
    for (index, field) in given.iter().enumerate() {
        let at = format!("{path}[{index}].jsonPath");
        let source = text(field, &["jsonPath"]);
        if source.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        let schema = match selected(&root, source) {
            Ok(schema) => schema,
            Err(why) => {
                errors.push(FieldError::invalid(at, source, format!("is an invalid path: {why}")));
                continue;
            }
        };
        if source == ".metadata" || source.starts_with(".metadata.") {
            let why = "must not point to fields in metadata";
            errors.push(FieldError::invalid(at.as_str(), source, why));
        }
        if !matches!(schema.kind, SchemaType::String | SchemaType::Boolean | SchemaType::Integer) {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(FieldError::invalid(at.as_str(), source, why));
        }
        if !seen.insert(source) {
            errors.push(FieldError::duplicate(at, json!(source)));
        }
    }
    if seen.len() > MAX_SELECTABLE {
        errors.push(FieldError::too_many(path, seen.len() as u64, MAX_SELECTABLE as u64));
    }
}

/// The schema at a path of fields, or why there is none.
fn selected<'a>(root: &'a Schema, source: &str) -> Result<&'a Schema, String> {
    let (mut schema, mut rest) = (root, source);
    while !rest.is_empty() {
        let Some(tail) = rest.strip_prefix('.') else {
            let end = rest.find(['.', '[', ']']).unwrap_or(rest.len()).max(1);
            return Err(match rest.starts_with('[') {
                true => "array notation is not allowed".to_owned(),
                false => format!("expected [ or . but got: {}", rest.get(..end).unwrap_or(rest)),
            });
        };
        if tail.is_empty() {
            return Err("unexpected end of JSON path".to_owned());
        }
        let (name, after) = tail.split_at(tail.find(['.', '[', ']']).unwrap_or(tail.len()));
        schema = match (schema.properties.get(name), &schema.additional) {
            (Some(property), _) => property,
            (None, Additional::Schema(inner)) if schema.properties.is_empty() => inner,
            _ => return Err("does not refer to a valid field".to_owned()),
        };
        rest = after;
    }
    Ok(schema)
}
