//! The smaller core kinds: Namespace, ConfigMap, Secret, ResourceQuota.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::builtin::core::quotas;
use crate::builtin::field::Field;
use crate::builtin::formats::config_key;
use crate::builtin::{pem, resources};
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{entries, list, remove, set_default, text};
use crate::meta::{STANDARD_FINALIZERS, all_wrong, qualified_name};
use crate::{Object, golang};

/// Most bytes in the values of a ConfigMap or Secret.
const DATA_LIMIT: usize = 1 << 20;

pub(in crate::builtin) struct ServiceAccountStrategy;

impl Strategy for ServiceAccountStrategy {
    fn has_generation(&self) -> bool {
        false
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        const OLD: &str = "kubernetes.io/enforce-mountable-secrets";
        let is_set = |object: &Object| object["metadata"]["annotations"].get(OLD).is_some();
        if !is_set(new) || old.is_some_and(is_set) {
            return Vec::new();
        }
        vec![format!(
            "metadata.annotations[{OLD}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
        )]
    }
}

pub(in crate::builtin) struct NamespaceStrategy;

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
        let names = list(namespace, &["spec", "finalizers"]).iter().filter_map(Value::as_str);
        let wrong = |name| {
            let mut found = qualified_name(name);
            if found.is_empty() && !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
                found.push(WHY.to_owned());
            }
            all_wrong("spec.finalizers", name, found).collect::<Vec<_>>()
        };
        names.flat_map(wrong).collect()
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        crate::lookup::copy_key(new, old, "spec");
    }

    fn prepare_status_update(&self, new: &mut Object, _old: &Object) {
        set_default(&mut new["status"], "phase", "Active");
    }

    fn validate_status(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let phase = text(new, &["status", "phase"]);
        let (wanted, when) = match new["metadata"]["deletionTimestamp"].is_null() {
            true => ("Active", "empty"),
            false => ("Terminating", "not empty"),
        };
        let why = format!("may only be '{wanted}' if `deletionTimestamp` is {when}");
        // Upstream calls the field so.
        (phase != wanted).then(|| FieldError::invalid("status.Phase", phase, why)).into_iter().collect()
    }

    fn has_generation(&self) -> bool {
        false
    }

    fn name_is_label(&self) -> bool {
        true
    }
}

fn validate_keys(object: &Object, field: &str) -> Vec<FieldError> {
    let check = |(key, _): (&String, _)| {
        let path = format!("{field}[{key}]");
        all_wrong(&path, key, config_key(key)).collect::<Vec<_>>()
    };
    entries(object, &[field]).flat_map(check).collect()
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

pub(in crate::builtin) struct ConfigMapStrategy;

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

    fn tells_changes_first(&self) -> bool {
        true
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// Annotation that names the service account of a token.
const ACCOUNT: &str = "kubernetes.io/service-account.name";

/// Why a text is no JSON object.
fn no_json_object(text: &[u8]) -> Option<String> {
    golang::json_error(text).or_else(|| {
        let value: Value = serde_json::from_slice(text).unwrap_or_default();
        let fits = value.is_object() || value.is_null();
        (!fits).then(|| {
            let kind = golang::type_name(&value);
            format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")
        })
    })
}

pub(in crate::builtin) struct SecretStrategy;

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
        let given = |key: &str| secret["data"].get(key).is_some();
        if text(secret, &["type"]) == "kubernetes.io/basic-auth" && !given("username") && !given("password") {
            errors
                .extend(["username", "password"].map(|key| FieldError::required(format!("data[{key}]"), "")));
        }
        let needed: &[&str] = match text(secret, &["type"]) {
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            _ => &[],
        };
        for key in needed {
            let field = format!("data[{key}]");
            match secret["data"].get(key).and_then(Value::as_str) {
                None => errors.push(FieldError::required(field, "")),
                Some("") if *key == "ssh-privatekey" => errors.push(FieldError::required(field, "")),
                Some(encoded) if key.starts_with(".docker") => {
                    let why = no_json_object(&STANDARD.decode(encoded).unwrap_or_default());
                    // The value is a secret: it must not show in a message.
                    let wrong = |why| FieldError::invalid(field, "<secret contents redacted>", why);
                    errors.extend(why.map(wrong));
                }
                Some(_) => {}
            }
        }
        if text(secret, &["type"]) == "kubernetes.io/service-account-token"
            && text(secret, &["metadata", "annotations", ACCOUNT]).is_empty()
        {
            errors.push(FieldError::required(format!("metadata.annotations[{ACCOUNT}]"), ""));
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if new["type"] != old["type"] {
            errors.push(FieldError::invalid("type", new["type"].clone(), "field is immutable"));
        }
        errors.extend(keeps_immutable(new, old, &["data"]));
        errors
    }

    fn tells_changes_first(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let part = |key: &str| STANDARD.decode(text(new, &["data", key])).unwrap_or_default();
        let is_pair = text(new, &["type"]) == "kubernetes.io/tls";
        let wrong = is_pair.then(|| pem::wrong_pair(&part("tls.crt"), &part("tls.key"))).flatten();
        wrong.into_iter().collect()
    }

    fn has_generation(&self) -> bool {
        false
    }
}

pub(in crate::builtin) struct QuotaStrategy;

impl Strategy for QuotaStrategy {
    fn validate(&self, quota: &Object) -> Vec<FieldError> {
        quotas::validate(quota)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        quotas::validate_update(new, old)
    }

    fn validate_status(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let status = Field::root(new).at("status");
        let amounts = |key| resources::named_amounts(&status.at(key), resources::quota_resource);
        [amounts("hard"), amounts("used")].concat()
    }

    fn has_generation(&self) -> bool {
        false
    }
}
