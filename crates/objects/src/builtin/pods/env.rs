//! The environment of a container: variables and where their values come from.

use crate::Quantity;
use crate::builtin::field::Field;
use crate::builtin::formats::{config_key, variable_name};
use crate::builtin::volumes::sources::no_steps_back;
use crate::error::FieldError;
use crate::meta::{all_wrong, dns_label, dns_subdomain, qualified_name};

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
pub(in crate::builtin) const VOLUME_FIELDS: &[&str] =
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
pub(in crate::builtin) fn validate(container: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for variable in container.at("env").items() {
        let name = variable.at("name");
        errors.extend(name.needs(variable_name));
        validate_source(&variable, &mut errors);
    }
    let list = container.at("envFrom");
    for from in list.items() {
        errors.extend(from.at("prefix").may_follow(variable_name));
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
                let path = source.at("path");
                errors.extend(path.must_be_given("").or_else(|| no_steps_back(&path)));
            }
            _ => {
                errors.extend(source.at("name").obeys(dns_subdomain));
                errors.extend(source.at("key").needs(config_key));
            }
        }
    }
    let why = if count == 0 {
        "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
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
pub(in crate::builtin) fn field_ref(reference: &Field<'_>, allowed: &[&str]) -> Vec<FieldError> {
    let path = reference.at("fieldPath");
    if path.text().is_empty() {
        return vec![path.required("")];
    }
    let unconverted = |why: &str| vec![path.invalid(format!("error converting fieldPath: {why}"))];
    let version = reference.at("apiVersion").text();
    if !matches!(version, "" | "v1") {
        return unconverted(&format!("unsupported pod version: {version}"));
    }
    let (name, key) = match path.text().strip_suffix("']").and_then(|rest| rest.split_once("['")) {
        Some((name, key)) => (name, Some(key)),
        None => (path.text(), None),
    };
    if !KNOWN_FIELDS.contains(&name) && !VARIABLE_FIELDS.contains(&name) {
        return unconverted(&format!("field label not supported: {}", path.text()));
    }
    let own = |key: &str| all_wrong(&reference.path, key, qualified_name(key)).collect();
    match (name, key) {
        ("metadata.annotations", Some(key)) => own(&key.to_lowercase()),
        ("metadata.labels", Some(key)) => own(key),
        (_, Some(_)) => unconverted(&format!("field label does not support subscript: {}", path.text())),
        (_, None) => path.one_of(allowed).into_iter().collect(),
    }
}

/// All that is wrong with a reference to an amount of a container; in a volume it names the container.
pub(in crate::builtin) fn resource_ref(reference: &Field<'_>, names_container: bool) -> Vec<FieldError> {
    let (container, resource) = (reference.at("containerName"), reference.at("resource"));
    let name = resource.text();
    let huge = ["limits.hugepages-", "requests.hugepages-"].iter().any(|start| name.starts_with(start));
    let wrong = if names_container && container.text().is_empty() {
        Some(container.required(""))
    } else if huge {
        None
    } else {
        resource.must_be_one_of(RESOURCES)
    };
    wrong.into_iter().chain(divisor(reference, name, huge)).collect()
}

fn divisor(reference: &Field<'_>, name: &str, huge: bool) -> Option<FieldError> {
    const SIZES: &[&str] =
        &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let given = reference.at("divisor");
    let amount =
        Quantity::from_json(given.value).ok().filter(|amount| *amount != Quantity::ZERO)?.to_string();
    if !huge && !RESOURCES.contains(&name) {
        return None;
    }
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
