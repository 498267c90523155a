//! The environment of a container: variables and where their values come from.

use super::field::Field;
use crate::Quantity;
use crate::error::FieldError;
use crate::meta::{dns_label, dns_subdomain, qualified_name};

/// Fields of its Pod that a variable may hold.
const VARIABLE_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields of its Pod that a file may hold.
pub(super) const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Fields that have a name here at all.
const KNOWN_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// All that is wrong with the variables of a container.
pub(super) fn validate(container: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for variable in container.at("env").items() {
        let name = variable.at("name");
        if name.text().is_empty() {
            errors.push(name.required(""));
        } else {
            errors.extend(name.follows(variable_name));
        }
        validate_source(&variable, &mut errors);
    }
    let list = container.at("envFrom");
    for from in list.items() {
        if !from.at("prefix").text().is_empty() {
            errors.extend(from.at("prefix").follows(variable_name));
        }
        let given: Vec<_> = ["configMapRef", "secretRef"]
            .into_iter()
            .map(|key| from.at(key))
            .filter(Field::is_given)
            .collect();
        for source in &given {
            errors.extend(source.at("name").needs(dns_subdomain));
        }
        let why = match given.len() {
            0 => "must specify one of: `configMapRef` or `secretRef`",
            1 => continue,
            _ => "may not have more than one field specified at a time",
        };
        errors.push(FieldError::invalid(list.path.as_str(), "", why));
    }
    errors
}

fn variable_name(name: &str) -> Option<String> {
    let good = !name.contains('=') && name.bytes().all(|b| (b' '..=b'~').contains(&b));
    (!good).then(|| {
        "a valid environment variable name must consist only of printable ASCII characters other than '='"
            .to_owned()
    })
}

fn key_rule(key: &str) -> Option<String> {
    const RULE: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
    let good = key.len() <= 253
        && key != "."
        && !key.starts_with("..")
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    (!good).then(|| RULE.to_owned())
}

fn validate_source(variable: &Field<'_>, errors: &mut Vec<FieldError>) {
    let from = variable.at("valueFrom");
    if !from.is_given() {
        return;
    }
    let mut count = 0;
    for kind in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let source = from.at(kind);
        if !source.is_given() {
            continue;
        }
        count += 1;
        match kind {
            "fieldRef" => errors.extend(field_ref(&source, VARIABLE_FIELDS)),
            "resourceFieldRef" => errors.extend(resource_ref(&source, false)),
            "fileKeyRef" => {
                errors.extend(source.at("key").needs(variable_name));
                errors.extend(source.at("volumeName").needs(dns_label));
                errors.extend(source.at("path").must_be_given(""));
            }
            _ => {
                let name = source.at("name");
                let why = dns_subdomain(name.text());
                errors.extend(
                    why.map(|why| FieldError::invalid(name.path, name.value.as_str().unwrap_or(""), why)),
                );
                errors.extend(source.at("key").needs(key_rule));
            }
        }
    }
    let why = if count == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
    } else if !variable.at("value").text().is_empty() {
        "may not be specified when `value` is not empty"
    } else if count > 1 {
        "may not have more than one field specified at a time"
    } else {
        return;
    };
    errors.push(FieldError::invalid(from.path.as_str(), "", why));
}

/// All that is wrong with a reference to a field of the Pod; only `allowed` may be named.
pub(super) fn field_ref(reference: &Field<'_>, allowed: &[&str]) -> Vec<FieldError> {
    let path = reference.at("fieldPath");
    if path.text().is_empty() {
        return vec![path.required("")];
    }
    let (name, key) = match path.text().strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        Some((name, key)) => (name, Some(key)),
        None => (path.text(), None),
    };
    if !KNOWN_FIELDS.contains(&name) && !VARIABLE_FIELDS.contains(&name) {
        let why = format!("error converting fieldPath: field label not supported: {}", path.text());
        return vec![path.invalid(why)];
    }
    let why = match (name, key) {
        ("metadata.annotations", Some(key)) => qualified_name(&key.to_lowercase()),
        ("metadata.labels", Some(key)) => qualified_name(key),
        (_, Some(_)) => {
            return vec![FieldError::invalid(path.path, name, "does not support subscript")];
        }
        (_, None) => return path.one_of(allowed).into_iter().collect(),
    };
    why.map(|why| FieldError::invalid(path.path, key.unwrap_or_default(), why)).into_iter().collect()
}

/// All that is wrong with a reference to an amount of a container; in a volume it names the container.
pub(super) fn resource_ref(reference: &Field<'_>, names_container: bool) -> Vec<FieldError> {
    let resource = reference.at("resource");
    if names_container && reference.at("containerName").text().is_empty() {
        return vec![reference.at("containerName").required("")];
    }
    if resource.text().is_empty() {
        return vec![resource.required("")];
    }
    let name = resource.text();
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|start| name.starts_with(start));
    if !huge && let Some(error) = resource.one_of(RESOURCES) {
        return vec![error];
    }
    divisor(reference, name, huge).into_iter().collect()
}

fn divisor(reference: &Field<'_>, name: &str, huge: bool) -> Option<FieldError> {
    const SIZES: &[&str] =
        &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let given = reference.at("divisor");
    let amount =
        Quantity::from_json(given.value).ok().filter(|amount| *amount != Quantity::ZERO)?.to_string();
    let cpu = name.ends_with(".cpu");
    let allowed = if cpu { &["1m", "1"] } else { SIZES };
    if allowed.contains(&amount.as_str()) {
        return None;
    }
    let what = if huge {
        "hugepages"
    } else if cpu {
        "cpu"
    } else if name.ends_with(".memory") {
        "memory"
    } else {
        "local ephemeral storage"
    };
    let values = if cpu { "1m and 1".to_owned() } else { allowed.join(", ") };
    let why = format!("only divisor's values {values} are supported with the {what} resource");
    Some(FieldError::invalid(given.path, name, why))
}
