//! What no record ever holds, whatever the policy says: the data of Secrets, and tokens. Kubernetes leaves that to policies, of which one
//! wrong line is enough.

use serde_json::{Map, Value};

/// Whether objects of this kind are cut.
pub fn is_cut(group: &str, resource: &str, subresource: &str) -> bool {
    matches!(
        (group, resource, subresource),
        ("", "secrets", _) | ("", "serviceaccounts", "token") | ("authentication.k8s.io", "tokenreviews", _)
    )
}

/// What may be recorded of an object that was sent to, or shown at, another place: a body says itself what it is, and one that is a Secret, or
/// a list that has some, is one also where it was refused. Data of users, of virtual machines, is often passwords.
pub fn cut_strays(mut object: Value) -> Option<Value> {
    match object.get("kind").and_then(Value::as_str) {
        Some("Secret" | "SecretList" | "TokenRequest" | "TokenReview") => return cut(object),
        Some("VirtualMachine") => {
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                spec.remove("userData");
                spec.remove("files");
            }
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                // As kubectl keeps what was applied.
                metadata.remove("annotations");
            }
        }
        _ => {}
    }
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        *items = std::mem::take(items).into_iter().filter_map(cut_strays).collect();
    }
    Some(object)
}

/// The same at the place of virtual machines, where patches and tables hold what is of them without saying so: of these nothing is kept.
pub fn cut_machine(object: Value) -> Option<Value> {
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    matches!(kind, "VirtualMachine" | "VirtualMachineList" | "Status" | "DeleteOptions")
        .then(|| cut_strays(object))
        .flatten()
}

/// Whether data for users of virtual machines may be in what is recorded of this place.
pub fn is_of_machines(group: &str, resource: &str) -> bool {
    (group, resource) == ("compute.yunfan.io", "virtualmachines")
}

/// Whether a note of a record about something that is cut can be kept: those of policies and webhooks hold what these chose of the object.
pub fn is_plain_note(key: &str) -> bool {
    const OWN: [&str; 5] = [
        "authorization.k8s.io/",
        "audit.yunfan.io/",
        "pod-security.kubernetes.io/",
        "mutation.webhook.admission.k8s.io/",
        "failed-open.",
    ];
    OWN.iter().any(|own| key.starts_with(own))
}

/// What may be recorded of an object of such a kind, or of a list, a table or a patch of them; none where nothing may.
///
/// A Secret keeps its name, labels and type; its annotations may hold all of it once more. Of what is not known to be such an object nothing is kept.
pub fn cut(object: Value) -> Option<Value> {
    let Value::Object(mut object) = object else { return None };
    match object.get("kind").and_then(Value::as_str) {
        Some("Secret") => Some(secret(object)),
        Some("SecretList") => {
            let items = object.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take);
            let cut = |item| match item {
                Value::Object(item) => Some(secret(item)),
                _ => None,
            };
            let items: Vec<Value> = items.into_iter().flatten().filter_map(cut).collect();
            object.insert("items".to_owned(), items.into());
            keep(&mut object, &["apiVersion", "kind", "metadata", "items"]);
            Some(object.into())
        }
        Some("TokenRequest" | "TokenReview") => {
            for part in ["spec", "status"] {
                if let Some(part) = object.get_mut(part).and_then(Value::as_object_mut) {
                    part.remove("token");
                }
            }
            keep(&mut object, &["apiVersion", "kind", "metadata", "spec", "status"]);
            Some(object.into())
        }
        // Whoever sends a body says what kind it is: of no kind more is kept than it has. The words of an error may show the
        // object that it is about.
        Some("Status") => {
            keep(&mut object, &["apiVersion", "kind", "metadata", "status", "reason", "code"]);
            Some(object.into())
        }
        Some("DeleteOptions") => {
            let known =
                ["gracePeriodSeconds", "preconditions", "orphanDependents", "propagationPolicy", "dryRun"];
            object.retain(|key, _| {
                matches!(key.as_str(), "apiVersion" | "kind") || known.contains(&key.as_str())
            });
            Some(object.into())
        }
        _ => None,
    }
}

fn secret(mut object: Map<String, Value>) -> Value {
    keep(&mut object, &["apiVersion", "kind", "metadata", "type", "immutable"]);
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("annotations");
    }
    object.into()
}

fn keep(object: &mut Map<String, Value>, keys: &[&str]) {
    object.retain(|key, _| keys.contains(&key.as_str()));
}

/// Takes out who owns which fields, of an object or of those of a list.
pub fn without_managed_fields(object: &mut Value) {
    let take = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    take(object);
    for item in object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten() {
        take(item);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_secret_is_left() {
        let secret = json!({"kind": "Secret", "apiVersion": "v1", "type": "Opaque", "data": {"a": "HIDDEN"}, "stringData": {"a": "HIDDEN"},
            "odd": "HIDDEN", "metadata": {"name": "s", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "HIDDEN"}}});
        let mut plain = secret.clone();
        plain["kind"] = json!("Widget");
        let all = [
            secret.clone(),
            json!({"kind": "SecretList", "items": [secret, "HIDDEN"], "x": "HIDDEN"}),
            json!({"kind": "Table", "rows": [{"cells": [], "object": secret}]}),
            json!({"kind": "PartialObjectMetadata", "metadata": secret["metadata"]}),
            json!({"kind": "TokenRequest", "spec": {"audiences": ["a"]}, "status": {"token": "HIDDEN"}}),
            json!({"kind": "TokenReview", "spec": {"token": "HIDDEN"}, "status": {"user": {"username": "u"}}}),
            json!({"data": {"a": "HIDDEN"}}),
            json!([{"op": "add", "path": "/data/a", "value": "HIDDEN"}]),
            json!("HIDDEN"),
            json!({"kind": "DeleteOptions", "data": {"a": "HIDDEN"}}),
            json!({"kind": "Status", "stringData": {"a": "HIDDEN"}}),
            json!({"kind": "Status", "message": "HIDDEN", "details": {"causes": [{"message": "HIDDEN"}]}}),
            plain,
        ];
        for object in all {
            let left = cut(object.clone());
            assert!(!left.as_ref().is_some_and(|left| left.to_string().contains("HIDDEN")), "{object}");
        }
        let strays = [
            json!({"kind": "Secret", "apiVersion": "v1", "data": {"a": "HIDDEN"}}),
            json!({"kind": "List", "items": [{"kind": "ConfigMap"}, {"kind": "Secret", "data": {"a": "HIDDEN"}}]}),
            json!({"kind": "VirtualMachine", "spec": {"vcpus": 1, "userData": "HIDDEN"},
                "metadata": {"name": "m", "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "HIDDEN"}}}),
        ];
        let patch = json!({"spec": {"userData": "HIDDEN"}});
        let table = json!({"kind": "Table", "rows": [{"object": strays[2]}]});
        assert_eq!((cut_machine(patch), cut_machine(table)), (None, None));
        assert!(cut_machine(json!({"kind": "VirtualMachineList", "items": [strays[2]]})).is_some());
        for object in strays {
            let left = cut_strays(object.clone()).expect("a part of it").to_string();
            assert!(!left.contains("HIDDEN") && left.len() > 10, "{left}");
        }
        let plain = json!({"kind": "ConfigMap", "data": {"a": "shown"}});
        assert_eq!(cut_strays(plain.clone()), Some(plain));
        assert!(is_plain_note("authorization.k8s.io/decision"));
        assert!(
            !is_plain_note("policy/key")
                && !is_plain_note("validation.policy.admission.k8s.io/validation_failure")
        );
        let left =
            cut(json!({"kind": "Secret", "metadata": {"name": "s", "annotations": {}}, "type": "Opaque"}));
        assert_eq!(left, Some(json!({"kind": "Secret", "metadata": {"name": "s"}, "type": "Opaque"})));
        assert!(is_cut("", "secrets", "") && is_cut("", "serviceaccounts", "token"));
        assert!(!is_cut("", "configmaps", "") && !is_cut("", "serviceaccounts", ""));
    }
}
