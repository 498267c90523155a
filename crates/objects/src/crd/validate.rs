//! What is wrong with a definition, worded as kube-apiserver words it.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{hook, parts, status};
use crate::Object;
use crate::error::FieldError;
use crate::lookup::{list, text};
use crate::meta::{all_wrong, dns_subdomain, dns1035_label};

/// Most versions of one kind.
const MAX_VERSIONS: usize = 32;
/// Longest deprecation warning, characters.
const MAX_WARNING: usize = 256;

/// All that is wrong with a definition that is made, beyond its own schema.
pub fn validate_create(crd: &Object) -> Vec<FieldError> {
    status::approval_error(crd).into_iter().collect()
}

/// All that is wrong with a definition, made or changed, beyond its own schema.
pub fn validate(crd: &Object) -> Vec<FieldError> {
    let mut errors = group_and_scope(crd);
    errors.extend(versions(crd));
    errors.extend(names(crd));
    errors.extend(parts::validate(crd));
    errors.extend(hook::validate(&crd["spec"]["conversion"]));
    errors.extend(stored_versions(crd));
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
    let approval = |crd: &Object| status::approval(crd).map(|(state, _)| state);
    // An old definition's missing approval is not held against every other change.
    if approval(new) != approval(old) {
        errors.extend(status::approval_error(new));
    }
    errors
}

/// `status.storedVersions` names the storage version, and none that is not there.
fn stored_versions(crd: &Object) -> Vec<FieldError> {
    const FIELD: &str = "status.storedVersions";
    let stored = list(crd, &["status", "storedVersions"]);
    if stored.is_empty() {
        return vec![FieldError::invalid(FIELD, Value::Null, "must have at least one stored version")];
    }
    let mut errors = Vec::new();
    let mut missing = stored.to_vec();
    for version in list(crd, &["spec", "versions"]) {
        if version["storage"] == true && !missing.contains(&version["name"]) {
            let why = format!("must have the storage version {}", text(version, &["name"]));
            errors.push(FieldError::invalid(FIELD, json!(stored), why));
        }
        missing.retain(|name| *name != version["name"]);
    }
    for (index, name) in stored.iter().enumerate().filter(|(_, name)| missing.contains(name)) {
        let shown = name.as_str().unwrap_or_default();
        let why = format!(
            "missing from spec.versions; {shown} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {shown} and removes {shown} from status.storedVersions"
        );
        errors.push(FieldError::invalid(format!("{FIELD}[{index}]"), name.clone(), why));
    }
    errors
}

fn group_and_scope(crd: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (group, names) = (text(crd, &["spec", "group"]), &crd["spec"]["names"]);
    let name = text(crd, &["metadata", "name"]);
    // Of a name that is not there others tell.
    if !name.is_empty() && name != format!("{}.{group}", text(names, &["plural"])) {
        errors.push(FieldError::invalid("metadata.name", name, "must be spec.names.plural+\".\"+spec.group"));
    }
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if let Some(why) = dns_subdomain(group).into_iter().next() {
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
    errors
}

fn names(crd: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let names = &crd["spec"]["names"];
    for (key, mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let given = text(names, &[key]);
        let field = format!("spec.names.{key}");
        let checked = if mixed { given.to_lowercase() } else { given.to_owned() };
        if given.is_empty() {
            errors.push(FieldError::required(field, ""));
        } else {
            let lead = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            let wrong = dns1035_label(&checked).into_iter().map(|why| format!("{lead}{why}"));
            errors.extend(all_wrong(&field, given, wrong.collect()));
        }
    }
    let labels = |key: &str| -> Vec<FieldError> {
        let given = list(names, &[key]).iter().filter_map(Value::as_str).enumerate();
        let wrong = given.flat_map(|(index, name)| {
            let field = format!("spec.names.{key}[{index}]");
            all_wrong(&field, name, dns1035_label(name)).collect::<Vec<_>>()
        });
        wrong.collect()
    };
    errors.extend(labels("shortNames"));
    let list_kind = text(names, &["listKind"]);
    if text(names, &["kind"]) == list_kind && !list_kind.is_empty() {
        let why = "kind and listKind may not be the same";
        errors.push(FieldError::invalid("spec.names.listKind", list_kind, why));
    }
    errors.extend(labels("categories"));
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
    let shown = if crd["spec"]["versions"].is_array() { json!(all) } else { Value::Null };
    let mut seen = HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let name = text(version, &["name"]);
        for why in dns1035_label(name) {
            // The first one is the definition's own, as long as it has a name.
            if index == 0 && !name.is_empty() {
                errors.push(FieldError::invalid("spec.version", name, why.as_str()));
            }
            errors.push(FieldError::invalid(format!("spec.versions[{index}].name"), name, why));
        }
        seen.insert(name);
        deprecation(version, &format!("spec.versions[{index}]"), &mut errors);
        if !version["schema"]["openAPIV3Schema"].is_object() {
            let field = format!("spec.versions[{index}].schema.openAPIV3Schema");
            errors.push(FieldError::required(field, ""));
        }
    }
    if seen.len() != versions.len() {
        errors.push(FieldError::invalid("spec.versions", shown.clone(), "must contain unique version names"));
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        errors.push(FieldError::invalid("spec.versions", shown, ONE));
    }
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
