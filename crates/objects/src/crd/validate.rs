//! What is wrong with a definition, worded as kube-apiserver words it.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{hook, parts, status};
use crate::Object;
use crate::error::FieldError;
use crate::lookup::{list, text};
use crate::meta::{Wrongs, dns_subdomain, dns1035_label};

/// Most versions of one kind.
const MAX_VERSIONS: usize = 32;
/// Longest deprecation warning, characters.
const MAX_WARNING: usize = 256;

/// What is wrong with the name of a new definition, beyond what any name must be.
pub fn wrong_name(crd: &Object) -> Option<String> {
    let (group, plural) = (text(crd, &["spec", "group"]), text(crd, &["spec", "names", "plural"]));
    let wrong = text(crd, &["metadata", "name"]) != format!("{plural}.{group}");
    wrong.then(|| "must be spec.names.plural+\".\"+spec.group".to_owned())
}

/// All that is wrong with the spec of a definition, made or changed.
pub fn validate(crd: &Object) -> Vec<FieldError> {
    let mut errors = group_and_scope(crd);
    versions(crd, &mut errors);
    errors.extend(names(crd));
    parts::shared(crd, &mut errors);
    errors.extend(hook::validate(&crd["spec"]["conversion"]));
    errors
}

/// All that is wrong with a definition that is made, beyond its spec.
pub fn validate_create(crd: &Object) -> Vec<FieldError> {
    let mut errors = stored_versions(crd);
    errors.extend(status::approval_error(crd));
    errors.extend(preserves_unknown(crd));
    errors
}

/// All that is wrong with a change, the new spec's own findings not among them.
pub fn validate_update(new: &Object, old: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    // Objects are stored under these: another value would lose them.
    let established: [&[&str]; 2] = [&["spec", "scope"], &["spec", "names", "kind"]];
    let always: [&[&str]; 2] = [&["spec", "group"], &["spec", "names", "plural"]];
    let fixed = established.iter().filter(|_| status::is_established(old)).chain(&always);
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
    errors.extend(preserves_unknown(new));
    errors
}

fn preserves_unknown(crd: &Object) -> Option<FieldError> {
    let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
    let wrong = crd["spec"]["preserveUnknownFields"] == true;
    wrong.then(|| FieldError::invalid("spec.preserveUnknownFields", true, why))
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
    let group = text(crd, &["spec", "group"]);
    if group.is_empty() {
        errors.push(FieldError::required("spec.group", ""));
    } else if let Some(why) = joined(dns_subdomain(group)) {
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

/// Several reasons are one finding.
fn joined(wrongs: Wrongs) -> Option<String> {
    (!wrongs.is_empty()).then(|| wrongs.join(","))
}

fn names(crd: &Object) -> Vec<FieldError> {
    const NAMES: [(&str, bool); 4] =
        [("plural", false), ("singular", false), ("kind", true), ("listKind", true)];
    let names = &crd["spec"]["names"];
    let missing = NAMES.iter().filter(|(key, _)| text(names, &[key]).is_empty());
    let mut errors: Vec<FieldError> =
        missing.map(|(key, _)| FieldError::required(format!("spec.names.{key}"), "")).collect();
    for (key, mixed) in NAMES {
        let given = text(names, &[key]);
        let checked = if mixed { given.to_lowercase() } else { given.to_owned() };
        let lead = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
        if let (false, Some(why)) = (given.is_empty(), joined(dns1035_label(&checked))) {
            errors.push(FieldError::invalid(format!("spec.names.{key}"), given, format!("{lead}{why}")));
        }
    }
    let labels = |key: &str| -> Vec<FieldError> {
        let given = list(names, &[key]).iter().filter_map(Value::as_str).enumerate();
        let wrong = given.filter_map(|(index, name)| {
            let why = joined(dns1035_label(name))?;
            Some(FieldError::invalid(format!("spec.names.{key}[{index}]"), name, why))
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

fn versions(crd: &Object, errors: &mut Vec<FieldError>) {
    const ONE: &str = "must have exactly one version marked as storage version";
    let versions = list(crd, &["spec", "versions"]);
    if versions.len() > MAX_VERSIONS {
        errors.push(FieldError::too_many("spec.versions", versions.len() as u64, MAX_VERSIONS as u64));
        return;
    }
    for (index, version) in versions.iter().enumerate() {
        if !version["schema"]["openAPIV3Schema"].is_object() {
            let field = format!("spec.versions[{index}].schema.openAPIV3Schema");
            errors.push(FieldError::required(field, ""));
        }
    }
    for (index, version) in versions.iter().enumerate() {
        let name = text(version, &["name"]);
        if let Some(why) = joined(dns1035_label(name)) {
            errors.push(FieldError::invalid(format!("spec.versions[{index}].name"), name, why));
        }
        deprecation(version, &format!("spec.versions[{index}]"), errors);
        parts::of_version(crd, index, errors);
    }
    let all: Vec<&Value> = versions.iter().map(|version| &version["name"]).collect();
    let shown = if crd["spec"]["versions"].is_array() { json!(all) } else { Value::Null };
    if all.iter().collect::<HashSet<_>>().len() != versions.len() {
        errors.push(FieldError::invalid("spec.versions", shown.clone(), "must contain unique version names"));
    }
    if versions.iter().filter(|version| version["storage"] == true).count() != 1 {
        errors.push(FieldError::invalid("spec.versions", shown, ONE));
    }
    // The first one is the definition's own, as long as it has a name.
    let own = versions.first().map(|version| text(version, &["name"])).filter(|name| !name.is_empty());
    if let Some((name, why)) = own.and_then(|name| Some((name, joined(dns1035_label(name))?))) {
        errors.push(FieldError::invalid("spec.version", name, why));
    }
}

fn deprecation(version: &Value, path: &str, errors: &mut Vec<FieldError>) {
    let Some(warning) = version["deprecationWarning"].as_str() else { return };
    let mut wrong = |why: String| {
        errors.push(FieldError::invalid(format!("{path}.deprecationWarning"), warning, why));
    };
    if version["deprecated"] != true {
        return wrong("can only be set for deprecated versions".to_owned());
    }
    if warning.len() > MAX_WARNING {
        wrong(format!("must be <= {MAX_WARNING} characters long"));
    }
    if warning.is_empty() {
        wrong("must not be an empty string".to_owned());
    }
    if let Some(at) = warning.find(char::is_control) {
        wrong(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        ));
    }
}
