//! What is wrong with a definition, worded as kube-apiserver words it.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{descriptor, schema, status};
use crate::Object;
use crate::error::FieldError;
use crate::lookup::{entries, list, text};
use crate::meta::{dns_label, dns_subdomain, dns1035_label};
use crate::schema::{Additional, Schema};

/// Most versions of one kind.
const MAX_VERSIONS: usize = 32;
/// Most selectable fields of one version.
const MAX_SELECTABLE: usize = 8;
/// Longest deprecation warning, characters.
const MAX_WARNING: usize = 256;
/// Versions of the ConversionReview that are spoken.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// All that is wrong with a definition, beyond its own schema.
pub fn validate(crd: &Object) -> Vec<FieldError> {
    let mut errors = names(crd);
    errors.extend(versions(crd));
    errors.extend(conversion(crd));
    if crd["spec"]["preserveUnknownFields"] == true {
        let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(FieldError::invalid("spec.preserveUnknownFields", true, why));
    }
    errors
}

/// All that is wrong with a change, [`validate`]'s findings not among them.
pub fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // Objects are stored under these: another value would lose them.
    let always: [&[&str]; 2] = [&["spec", "group"], &["spec", "names", "plural"]];
    let established: [&[&str]; 2] = [&["spec", "scope"], &["spec", "names", "kind"]];
    let fixed = always.iter().chain(established.iter().filter(|_| status::is_established(old)));
    for path in fixed {
        let (after, before) = (text(new, path), text(old, path));
        if after != before {
            errors.push(FieldError::invalid(path.join("."), after, "field is immutable"));
        }
    }
    errors.extend(stored_versions(new));
    let approval = |crd: &Object| status::approval(crd).map(|(state, _)| state);
    // An old definition's missing approval is not held against every other change.
    if approval(new) != approval(old) {
        errors.extend(status::approval_error(new));
    }
    errors
}

/// `status.storedVersions` names the storage version, and none that is not there.
pub(crate) fn stored_versions(crd: &Object) -> Vec<FieldError> {
    const FIELD: &str = "status.storedVersions";
    let stored = list(crd, &["status", "storedVersions"]);
    if stored.is_empty() {
        return vec![FieldError::invalid(FIELD, json!([]), "must have at least one stored version")];
    }
    let mut errors = Vec::new();
    let versions = list(crd, &["spec", "versions"]);
    for version in versions.iter().filter(|v| v["storage"] == true && !stored.contains(&v["name"])) {
        let why = format!("must have the storage version {}", text(version, &["name"]));
        errors.push(FieldError::invalid(FIELD, json!(stored), why));
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version["name"] == *name) {
            let shown = name.as_str().unwrap_or_default();
            let why = format!(
                "missing from spec.versions; {shown} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {shown} and removes {shown} from status.storedVersions"
            );
            errors.push(FieldError::invalid(format!("{FIELD}[{index}]"), name.clone(), why));
        }
    }
    errors
}

fn names(crd: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let group = text(crd, &["spec", "group"]);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if let Some(why) = dns_subdomain(group) {
        errors.push(FieldError::invalid("spec.group", group, why));
    } else if !group.contains('.') {
        errors.push(FieldError::invalid("spec.group", group, "should be a domain with at least one dot"));
    }
    let scope = text(crd, &["spec", "scope"]);
    if scope.is_empty() {
        errors.push(FieldError::required("spec.scope", ""));
    } else if !matches!(scope, "Cluster" | "Namespaced") {
        errors.push(FieldError::not_supported("spec.scope", scope, &["Cluster", "Namespaced"]));
    }
    let names = &crd["spec"]["names"];
    for (key, mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let given = text(names, &[key]);
        let field = format!("spec.names.{key}");
        let checked = if mixed { given.to_lowercase() } else { given.to_owned() };
        if given.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else if let Some(why) = dns1035_label(&checked) {
            let lead = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.push(FieldError::invalid(field, given, format!("{lead}{why}")));
        }
    }
    let list_kind = text(names, &["listKind"]);
    if text(names, &["kind"]) == list_kind && !list_kind.is_empty() {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid("spec.names.listKind", list_kind, why));
    }
    for key in ["shortNames", "categories"] {
        for (index, name) in list(names, &[key]).iter().filter_map(Value::as_str).enumerate() {
            if let Some(why) = dns1035_label(name) {
                errors.push(FieldError::invalid(format!("spec.names.{key}[{index}]"), name, why));
            }
        }
    }
    let name = text(crd, &["metadata", "name"]);
    if name != format!("{}.{group}", text(names, &["plural"])) {
        errors.push(FieldError::invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group"));
    }
    errors
}

fn versions(crd: &Object) -> Vec<FieldError> {
    const ONE: &str = "must have exactly one version marked as storage version";
    let versions = list(crd, &["spec", "versions"]);
    if versions.len() > MAX_VERSIONS {
        return vec![FieldError::too_many("spec.versions", versions.len() as u64, MAX_VERSIONS as u64)];
    }
    let mut errors = Vec::new();
    let all: Vec<&Value> = versions.iter().map(|version| &version["name"]).collect();
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let name = text(version, &["name"]);
        if let Some(why) = dns1035_label(name) {
            errors.push(FieldError::invalid(format!("spec.versions[{index}].name"), name, why));
        }
        seen.insert(name);
        errors.extend(self::version(crd, version, index));
    }
    if seen.len() != versions.len() {
        errors.push(FieldError::invalid("spec.versions", json!(all), "must contain unique version names"));
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        errors.push(FieldError::invalid("spec.versions", json!(all), ONE));
    }
    errors
}

fn version(crd: &Object, version: &Value, index: usize) -> Vec<FieldError> {
    let path = format!("spec.versions[{index}]");
    let mut errors = Vec::new();
    deprecation(version, &path, &mut errors);
    let source = &version["schema"]["openAPIV3Schema"];
    let schema_path = format!("{path}.schema.openAPIV3Schema");
    if !source.is_object() {
        errors.push(FieldError::required(schema_path, "schemas are required"));
        return errors;
    }
    errors.extend(schema::validate(source, &schema_path));
    // What is no schema has no rules and no defaults that could be checked.
    if !errors.is_empty() {
        return errors;
    }
    match descriptor(crd, version, index) {
        Ok(descriptor) => {
            defaults(&descriptor.schema, &schema_path, 0, &mut errors);
            selectable(version, &descriptor.schema, &path, &mut errors);
        }
        Err(found) => errors.extend(found),
    }
    scale(version, &path, &mut errors);
    errors
}

fn deprecation(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(warning) = version["deprecationWarning"].as_str() else { return };
    let wrong = if version["deprecated"] != true {
        "can only be set for deprecated versions".to_owned()
    } else if warning.len() > MAX_WARNING {
        format!("must be <= {MAX_WARNING} characters long")
    } else if warning.is_empty() {
        "must not be an empty string".to_owned()
    } else if let Some(at) = warning.find(char::is_control) {
        format!("must only contain printable UTF-8 characters; non-printable character found at index {at}")
    } else {
        return;
    };
    errors.push(FieldError::invalid(format!("{path}.deprecationWarning"), warning, wrong));
}

fn scale(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let scale = &version["subresources"]["scale"];
    if !scale.is_object() {
        return;
    }
    for (key, below, words) in [
        ("specReplicasPath", &[".spec."][..], "under .spec"),
        ("statusReplicasPath", &[".status."], "under .status"),
        ("labelSelectorPath", &[".spec.", ".status."], "under either .spec or .status"),
    ] {
        let given = text(scale, &[key]);
        let field = format!("{path}.subresources.scale.{key}");
        if !given.is_empty() && !below.iter().any(|lead| given.starts_with(lead)) {
            errors.push(FieldError::invalid(field, given, format!("should be a json path {words}")));
        }
    }
}

/// A default must be what its own schema lets through.
fn defaults(schema: &Schema, path: &str, depth: usize, errors: &mut Vec<FieldError>) {
    if depth > crate::schema::MAX_SCHEMA_DEPTH {
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
            for mut error in property.validate(default).into_iter().chain(property.embedded_errors(default)) {
                error.field = match error.field.as_str() {
                    "" => field.clone(),
                    inner => format!("{field}.{inner}"),
                };
                errors.push(error);
            }
        }
        defaults(property, &path, depth + 1, errors);
    }
    if let Some(items) = &schema.items {
        defaults(items, &format!("{path}.items"), depth + 1, errors);
    }
    if let Additional::Schema(inner) = &schema.additional {
        defaults(inner, &format!("{path}.additionalProperties"), depth + 1, errors);
    }
}

fn selectable(version: &Value, root: &Schema, path: &str, errors: &mut Vec<FieldError>) {
    use crate::schema::SchemaType::{Boolean, Integer, String};
    let given = list(version, &["selectableFields"]);
    let mut seen = HashSet::new();
    for (index, field) in given.iter().enumerate() {
        let at = format!("{path}.selectableFields[{index}].jsonPath");
        let source = text(field, &["jsonPath"]);
        if source.is_empty() {
            errors.push(FieldError::required(at, ""));
            continue;
        }
        let keys = source.strip_prefix('.').map(|rest| rest.split('.'));
        let found = keys.and_then(|mut keys| {
            keys.try_fold(root, |schema, key| schema.properties.get(key).map(|schema| &**schema))
        });
        let wrong = match found {
            _ if source.contains('[') => "is an invalid path: array notation is not allowed",
            None if !source.starts_with('.') => "is an invalid path: expected [ or . at its start",
            None => "is an invalid path: does not refer to a valid field",
            Some(_) if source.starts_with(".metadata") => "must not point to fields in metadata",
            Some(schema) if !matches!(schema.kind, String | Boolean | Integer) => {
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."
            }
            Some(_) if !seen.insert(source) => {
                errors.push(FieldError::duplicate(at, source));
                continue;
            }
            Some(_) => continue,
        };
        errors.push(FieldError::invalid(at, source, wrong));
    }
    if seen.len() > MAX_SELECTABLE {
        let field = format!("{path}.selectableFields");
        errors.push(FieldError::too_many(field, seen.len() as u64, MAX_SELECTABLE as u64));
    }
}

fn conversion(crd: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let conversion = &crd["spec"]["conversion"];
    let strategy = text(conversion, &["strategy"]);
    let webhook = &conversion["webhook"];
    match strategy {
        "Webhook" => {}
        "" if conversion.is_null() => return errors,
        "" => errors.push(FieldError::required("spec.conversion.strategy", "")),
        "None" => {
            if !webhook.is_null() {
                let why = "should not be set when strategy is not set to Webhook";
                errors.push(FieldError::forbidden("spec.conversion.webhookClientConfig", why));
            }
            return errors;
        }
        other => {
            errors.push(FieldError::not_supported("spec.conversion.strategy", other, &["None", "Webhook"]));
        }
    }
    if strategy != "Webhook" {
        return errors;
    }
    client_config(&webhook["clientConfig"], &mut errors);
    let given = list(webhook, &["conversionReviewVersions"]);
    const FIELD: &str = "spec.conversion.conversionReviewVersions";
    if given.is_empty() {
        errors.push(FieldError::required(FIELD, ""));
    } else if !given.iter().filter_map(Value::as_str).any(|version| REVIEW_VERSIONS.contains(&version)) {
        errors.push(FieldError::invalid(FIELD, json!(given), "must include at least one of v1, v1beta1"));
    }
    for (index, version) in given.iter().enumerate() {
        let field = format!("{FIELD}[{index}]");
        if given[..index].contains(version) {
            errors.push(FieldError::invalid(field, version.clone(), "duplicate version"));
        } else if let Some(why) = dns1035_label(version.as_str().unwrap_or_default()) {
            errors.push(FieldError::invalid(field, version.clone(), why));
        }
    }
    errors
}

fn client_config(config: &Value, errors: &mut Vec<FieldError>) {
    const FIELD: &str = "spec.conversion.webhookClientConfig";
    if !config.is_object() {
        errors.push(FieldError::required(FIELD, "required when strategy is set to Webhook"));
        return;
    }
    let service = &config["service"];
    match (config["url"].as_str(), service.is_object()) {
        (Some(url), false) => {
            let rest = url.strip_prefix("https://");
            let host = rest.map(|rest| rest.split('/').next().unwrap_or_default());
            let wrong = match host {
                None => "'https' is the only allowed URL scheme; desired format: https://host[/path]",
                Some("") => "host must be specified; desired format: https://host[/path]",
                Some(host) if host.contains('@') => "user information is not permitted in the URL",
                Some(_) if url.contains('#') => "fragments are not permitted in the URL",
                Some(_) if url.contains('?') => "query parameters are not permitted in the URL",
                Some(_) => return,
            };
            errors.push(FieldError::invalid(format!("{FIELD}.url"), url, wrong));
        }
        (None, true) => {
            for key in ["name", "namespace"] {
                if text(service, &[key]).is_empty() {
                    errors.push(FieldError::required(format!("{FIELD}.service.{key}"), ""));
                } else if let Some(why) = dns_label(text(service, &[key])) {
                    let field = format!("{FIELD}.service.{key}");
                    errors.push(FieldError::invalid(field, text(service, &[key]), why));
                }
            }
            let port = service["port"].as_i64().unwrap_or(443);
            if !(1..=65535).contains(&port) {
                let why = "port is not valid: must be between 1 and 65535, inclusive";
                errors.push(FieldError::invalid(format!("{FIELD}.service.port"), port, why));
            }
        }
        _ => errors.push(FieldError::required(FIELD, "exactly one of url or service is required")),
    }
    for (key, _) in entries(config, &[]).filter(|(key, _)| *key == "caBundle") {
        use base64::Engine;
        let bundle = text(config, &[key.as_str()]);
        if base64::engine::general_purpose::STANDARD.decode(bundle).is_err() {
            errors.push(FieldError::invalid(format!("{FIELD}.caBundle"), bundle, "must be base64"));
        }
    }
}
