//! The smaller core kinds: Namespace, ConfigMap, Secret, ResourceQuota.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{entries, list, remove, set_default, text};
use crate::meta::qualified_name;
use crate::{Object, Quantity};

/// Most bytes in the values of a ConfigMap or Secret.
const DATA_LIMIT: usize = 1 << 20;

/// A kind with nothing special but that its changes are not counted.
pub(super) struct NoGeneration;

impl Strategy for NoGeneration {
    fn has_generation(&self) -> bool {
        false
    }
}

/// Finalizers that need no domain.
const STANDARD_FINALIZERS: [&str; 3] = ["foregroundDeletion", "kubernetes", "orphan"];

pub(super) struct NamespaceStrategy;

impl Strategy for NamespaceStrategy {
    fn default(&self, namespace: &mut Object) {
        let name = text(namespace, &["metadata", "name"]).to_owned();
        if !name.is_empty() {
            set_default(&mut namespace["metadata"], "labels", json!({}));
            if let Some(labels) = namespace["metadata"]["labels"].as_object_mut() {
                labels.insert("kubernetes.io/metadata.name".to_owned(), json!(name));
            }
        }
    }

    fn prepare_create(&self, namespace: &mut Object) {
        namespace["status"] = json!({"phase": "Active"});
        set_default(namespace, "spec", json!({}));
        // Held until everything inside is gone; only the finalize subresource takes it away.
        let mut held = list(namespace, &["spec", "finalizers"]).to_vec();
        if !held.contains(&json!("kubernetes")) {
            held.push(json!("kubernetes"));
        }
        namespace["spec"]["finalizers"] = Value::Array(held);
    }

    fn validate(&self, namespace: &Object) -> Vec<FieldError> {
        const WHY: &str = "name is neither a standard finalizer name nor is it fully qualified";
        let finalizers = list(namespace, &["spec", "finalizers"]).iter().enumerate();
        let names = finalizers.filter_map(|(index, name)| Some((index, name.as_str()?)));
        let wrong = |(index, name): (usize, &str)| {
            let why = match qualified_name(name) {
                None if name.contains('/') || STANDARD_FINALIZERS.contains(&name) => return None,
                None => WHY.to_owned(),
                Some(why) => why,
            };
            Some(FieldError::invalid(format!("spec.finalizers[{index}]"), name, why))
        };
        names.filter_map(wrong).collect()
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        crate::lookup::copy_key(new, old, "spec");
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn name_is_label(&self) -> bool {
        true
    }
}

fn validate_keys(object: &Object, field: &str) -> Vec<FieldError> {
    let good = |key: &str| {
        !key.is_empty()
            && key.len() <= 253
            && key != "."
            && !key.starts_with("..")
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    };
    entries(object, &[field])
        .filter(|(key, _)| !good(key))
        .map(|(key, _)| {
            let why = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";
            FieldError::invalid(format!("{field}[{key}]"), key.as_str(), why)
        })
        .collect()
}

fn size(object: &Object, field: &str) -> usize {
    entries(object, &[field]).filter_map(|(_, value)| value.as_str()).map(str::len).sum()
}

/// Once immutable, neither the mark nor the data may change.
fn keeps_immutable(new: &Object, old: &Object, fields: &[&str]) -> Vec<FieldError> {
    if old["immutable"] != true {
        return Vec::new();
    }
    let mut errors = Vec::new();
    if new["immutable"] != true {
        errors.push(FieldError::forbidden("immutable", "field is immutable when `immutable` is set"));
    }
    for field in fields {
        if new.get(field) != old.get(field) {
            errors.push(FieldError::forbidden(*field, "field is immutable when `immutable` is set"));
        }
    }
    errors
}

pub(super) struct ConfigMapStrategy;

impl Strategy for ConfigMapStrategy {
    fn validate(&self, object: &Object) -> Vec<FieldError> {
        let mut errors = validate_keys(object, "data");
        errors.extend(validate_keys(object, "binaryData"));
        for (key, _) in entries(object, &["binaryData"]) {
            if object["data"].get(key).is_some() {
                let why = "duplicate of key present in binaryData";
                errors.push(FieldError::invalid(format!("data[{key}]"), key.as_str(), why));
            }
        }
        if size(object, "data") + size(object, "binaryData") / 4 * 3 > DATA_LIMIT {
            errors.push(FieldError::too_long("", DATA_LIMIT as u64));
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        keeps_immutable(new, old, &["data", "binaryData"])
    }

    fn has_generation(&self) -> bool {
        false
    }
}

pub(super) struct SecretStrategy;

impl Strategy for SecretStrategy {
    fn default(&self, secret: &mut Object) {
        set_default(secret, "type", "Opaque");
        if let Some(Value::Object(plain)) = remove(secret, "stringData") {
            set_default(secret, "data", json!({}));
            for (key, value) in plain {
                let text = value.as_str().unwrap_or_default();
                secret["data"][key.as_str()] = json!(STANDARD.encode(text));
            }
        }
    }

    fn validate(&self, secret: &Object) -> Vec<FieldError> {
        let mut errors = validate_keys(secret, "data");
        if size(secret, "data") / 4 * 3 > DATA_LIMIT {
            errors.push(FieldError::too_long("data", DATA_LIMIT as u64));
        }
        let needed: &[&str] = match text(secret, &["type"]) {
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            _ => &[],
        };
        for key in needed {
            match secret["data"].get(key).and_then(Value::as_str) {
                None => errors.push(FieldError::required(format!("data[{key}]"), "")),
                Some(encoded) if *key == ".dockerconfigjson" => {
                    let json = STANDARD.decode(encoded).unwrap_or_default();
                    if serde_json::from_slice::<Value>(&json).is_err() {
                        // The value is a secret: it must not show in a message.
                        errors.push(FieldError::invalid(
                            format!("data[{key}]"),
                            "<secret contents redacted>",
                            "must be JSON",
                        ));
                    }
                }
                Some(_) => {}
            }
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = keeps_immutable(new, old, &["data"]);
        if new["type"] != old["type"] {
            errors.push(FieldError::invalid("type", new["type"].clone(), "field is immutable"));
        }
        errors
    }

    fn has_generation(&self) -> bool {
        false
    }
}

pub(super) struct QuotaStrategy;

impl Strategy for QuotaStrategy {
    fn validate(&self, quota: &Object) -> Vec<FieldError> {
        let mut errors = Vec::new();
        for (name, value) in entries(quota, &["spec", "hard"]) {
            let field = format!("spec.hard[{name}]");
            if let Some(why) = qualified_name(name) {
                errors.push(FieldError::invalid(field.clone(), name.as_str(), why));
            }
            let Ok(amount) = Quantity::from_json(value) else { continue }; // decoding refuses it
            if amount.is_negative() {
                errors.push(FieldError::invalid(field, value.clone(), "must be greater than or equal to 0"));
            } else if is_count(name) && amount.milli() % 1000 != 0 {
                errors.push(FieldError::invalid(field, value.clone(), "must be an integer"));
            }
        }
        errors
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// Whether a name without a domain is that of a resource that Kubernetes counts.
pub(super) fn is_standard_resource(name: &str) -> bool {
    let amount = ["limits.", "requests."].iter().find_map(|start| name.strip_prefix(start)).unwrap_or(name);
    matches!(amount, "cpu" | "memory" | "ephemeral-storage")
        || amount.starts_with("hugepages-")
        || matches!(name, "storage" | "requests.storage")
        || is_count(name)
}

fn is_count(name: &str) -> bool {
    name.starts_with("count/")
        || matches!(
            name,
            "pods" | "services" | "secrets" | "configmaps" | "resourcequotas" | "persistentvolumeclaims"
        )
        || matches!(name, "services.nodeports" | "services.loadbalancers" | "replicationcontrollers")
}
