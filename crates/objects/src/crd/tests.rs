use serde_json::{Value, json};

use super::*;
use crate::{FieldValidation, table};

fn crd() -> Object {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "crontabs.stable.example.com"},
        "spec": {
            "group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "crontabs", "singular": "crontab", "kind": "CronTab", "listKind": "CronTabList", "shortNames": ["ct"]},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "additionalPrinterColumns": [
                    {"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"},
                    {"name": "Ready", "type": "string", "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"},
                    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
                ],
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["cronSpec"], "properties": {
                        "cronSpec": {"type": "string"},
                        "replicas": {"type": "integer", "minimum": 1, "default": 1}
                    }},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}
                }}}
            }]
        }
    })
}

#[test]
fn a_definition_becomes_a_served_kind() {
    assert_eq!(validate(&crd()), []);
    let descriptors = descriptors(&crd()).unwrap();
    let kind = &descriptors[0];
    assert_eq!(kind.api_version(), "stable.example.com/v1");
    assert!(kind.status_subresource && kind.storage_version && kind.namespaced);
    assert_eq!(kind.scale.as_ref().unwrap().spec_replicas, ["spec", "replicas"]);

    let mut object = json!({
        "apiVersion": "stable.example.com/v1", "kind": "CronTab",
        "metadata": {"name": "a", "namespace": "n", "creationTimestamp": null, "bogus": 1},
        "spec": {"cronSpec": "* * * * *", "extra": true}
    });
    let warnings = kind.decode(&mut object, FieldValidation::Warn, &[]).unwrap();
    assert_eq!(warnings, ["unknown field \"metadata.bogus\"", "unknown field \"spec.extra\""]);
    kind.prepare_create(&mut object);
    kind.default(&mut object);
    kind.validate_create(&object).unwrap();
    assert_eq!(object["spec"], json!({"cronSpec": "* * * * *", "replicas": 1}));

    let mut newer = object.clone();
    newer["spec"]["replicas"] = json!("x");
    let error = kind.validate_update(&newer, &object).unwrap_err();
    assert_eq!(
        error.message(),
        "CronTab.stable.example.com \"a\" is invalid: spec.replicas: Invalid value: \"string\": spec.replicas in body must be of type integer: \"string\""
    );
    newer["spec"]["replicas"] = json!(3);
    newer["status"] = json!({"forged": 1});
    kind.prepare_update(&mut newer, &object);
    assert_eq!(newer["metadata"]["generation"], 2);
    assert!(newer.get("status").is_none());

    let mut strict = object.clone();
    strict["spec"]["foo"] = json!(1);
    let error = kind.decode(&mut strict, FieldValidation::Strict, &[]).unwrap_err();
    assert_eq!(error.code(), 400);
    assert!(error.message().ends_with("strict decoding error: unknown field \"spec.foo\""), "{error}");
}

#[test]
fn rows_follow_the_columns() {
    let kind = descriptors(&crd()).unwrap().remove(0);
    let object = json!({
        "metadata": {"name": "a", "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"cronSpec": "x"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}
    });
    let now = "2024-01-01T00:03:00Z".parse().unwrap();
    let table = table::render(&kind, [&object], table::IncludeObject::Metadata, now, json!({}));
    assert_eq!(table["rows"][0]["cells"], json!(["a", "x", "True", "3m"]));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[test]
fn bad_definitions_are_refused_by_field() {
    let cases: [(&str, Value, &str); 6] = [
        ("/metadata/name", json!("x"), "metadata.name"),
        ("/spec/versions/0/storage", json!(false), "spec.versions"),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/cronSpec",
            json!({}),
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[cronSpec].type",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/replicas/default",
            json!(0),
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].properties[replicas].default",
        ),
        (
            "/spec/versions/0/additionalPrinterColumns/0/jsonPath",
            json!("spec"),
            "spec.versions[0].additionalPrinterColumns[0].jsonPath",
        ),
        ("/spec/scope", json!("Everywhere"), "spec.scope"),
    ];
    for (pointer, value, field) in cases {
        let mut bad = crd();
        *bad.pointer_mut(pointer).unwrap() = value;
        let errors = validate(&bad);
        assert_eq!(errors.first().map(|error| error.field.as_str()), Some(field), "{errors:?}");
    }
}
