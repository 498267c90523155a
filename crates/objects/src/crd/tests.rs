use serde_json::{Value, json};

use super::*;
use crate::{FieldValidation, scale, table};

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

/// The definition with the status that it gets when it is made.
fn made(mut crd: Object) -> Object {
    crd["status"] = status::compute(&crd, &Value::Null, &status::Taken::default(), "2024-01-01T00:00:00Z");
    crd
}

/// The definition with one property, `f`.
fn with(property: Value) -> Object {
    let mut crd = crd();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "properties": {"f": property}});
    crd
}

/// All that is wrong with a definition that is made, its name aside.
fn found(crd: Object) -> Vec<FieldError> {
    let crd = made(crd);
    [validate(&crd), validate_create(&crd)].concat()
}

fn texts(crd: Object) -> Vec<String> {
    found(crd).iter().map(ToString::to_string).collect()
}

#[test]
fn what_schemas_may_not_say_is_told_in_upstreams_words() {
    for (property, wanted) in [
        (
            json!({"type": "null"}),
            ".type: Unsupported value: \"null\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
        ),
        (
            json!({"type": "object", "additionalProperties": {}}),
            ".additionalProperties.type: Required value: must not be empty for specified object fields",
        ),
        (json!({"type": "array"}), ".items: Required value: must be specified"),
        (
            json!({"type": "string", "pattern": "("}),
            ".pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`",
        ),
        (
            json!({"type": "string", "pattern": "^a", "default": "b"}),
            ".default: Invalid value: \"b\":  in body should match '^a'",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "default": {"b": 1}}),
            ".default: Invalid value: {\"b\":1}: must not have unknown fields",
        ),
        (
            json!({"type": "string", "default": "a", "x-kubernetes-validations": [{"rule": "self == 'b'"}]}),
            ".default: Invalid value: \"a\": failed rule: self == 'b'",
        ),
        (
            json!({"x-kubernetes-preserve-unknown-fields": true, "x-kubernetes-validations": [{"rule": "true"}]}),
            ".x-kubernetes-validations: Internal error: internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations",
        ),
        (
            json!({"type": "array", "maxItems": 2, "items": {"type": "string", "maxLength": 2, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}),
            ".items.x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within spec.validation.openAPIV3Schema.properties[f]",
        ),
    ] {
        let found = texts(with(property));
        assert_eq!(
            found.first(),
            Some(&format!("spec.validation.openAPIV3Schema.properties[f]{wanted}")),
            "{found:?}"
        );
    }
    for good in [
        json!({"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "string", "maxLength": 2, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}),
        json!({"type": "object", "additionalProperties": {"type": "string"}, "x-kubernetes-validations": [{"rule": "self.all(k, self[k].startsWith('a'))"}]}),
        json!({"x-kubernetes-int-or-string": true, "x-kubernetes-validations": [{"rule": "type(self) == int ? self > 1 : self == 'a'"}]}),
    ] {
        assert_eq!(texts(with(good.clone())), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn findings_that_hold_all_keys_are_few() {
    let keys: Vec<String> = (0..100).map(|key| format!("k{key}")).collect();
    let list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys,
        "items": {"type": "object"}});
    let found = texts(with(list));
    let about = found.iter().filter(|text| text.contains("names of item properties")).count();
    assert!((1..=16).contains(&about), "{about}: {found:?}");
}

#[test]
fn what_a_definition_lacks_is_told_once_for_all_versions_that_lack_it() {
    let mut two = with(json!({}));
    two["spec"]["versions"][0]["subresources"] = Value::Null;
    let mut second = two["spec"]["versions"][0].clone();
    second["name"] = json!("v2");
    second["storage"] = json!(false);
    two["spec"]["versions"].as_array_mut().unwrap().push(second);
    let why = "Required value: must not be empty for specified object fields";
    assert_eq!(texts(two.clone()), [format!("spec.validation.openAPIV3Schema.properties[f].type: {why}")]);
    two["spec"]["versions"][1]["schema"]["openAPIV3Schema"]["description"] = json!("another one");
    let each = |index| format!("spec.versions[{index}].schema.openAPIV3Schema.properties[f].type: {why}");
    assert_eq!(texts(two), [each(0), each(1)]);
}

#[test]
fn an_unreadable_column_makes_them_the_usual_ones() {
    let mut crd = crd();
    crd["spec"]["versions"][0]["additionalPrinterColumns"][0]["jsonPath"] = json!(".a[");
    assert_eq!(texts(crd.clone()), Vec::<String>::new());
    let names: Vec<String> = descriptors(&crd).unwrap()[0].columns.iter().map(|c| c.name.clone()).collect();
    assert_eq!(names, ["Name", "Age"]);
}

#[test]
fn protected_groups_need_an_approval() {
    let mut crd = crd();
    crd["spec"]["group"] = json!("a.k8s.io");
    let field = "metadata.annotations[api-approved.kubernetes.io]";
    assert!(found(crd.clone())[0].to_string().starts_with(&format!("{field}: Required value")));
    crd["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "nonsense"});
    assert!(found(crd.clone())[0].to_string().starts_with(&format!("{field}: Invalid value")));
    crd["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, a trial"});
    assert_eq!(found(crd), []);
}

#[test]
fn a_definition_becomes_a_served_kind() {
    assert_eq!(validate(&made(crd())), []);
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
    let view = table::View { include: table::IncludeObject::Metadata, api_version: "meta.k8s.io/v1" };
    let table = table::render(&kind, [&object], view, now, json!({}));
    assert_eq!(table["rows"][0]["cells"], json!(["a", "x", "True", "3m"]));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}

#[test]
fn bad_definitions_are_refused_by_field() {
    let mut renamed = crd();
    assert_eq!(wrong_name(&renamed), None);
    renamed["metadata"]["name"] = json!("x");
    assert_eq!(wrong_name(&renamed).as_deref(), Some("must be spec.names.plural+\".\"+spec.group"));
    let cases: [(&str, Value, &str); 5] = [
        ("/spec/versions/0/storage", json!(false), "spec.versions"),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/cronSpec",
            json!({}),
            "spec.validation.openAPIV3Schema.properties[spec].properties[cronSpec].type",
        ),
        (
            "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/replicas/default",
            json!(0),
            "spec.validation.openAPIV3Schema.properties[spec].properties[replicas].default",
        ),
        (
            "/spec/versions/0/additionalPrinterColumns/0/jsonPath",
            json!("spec"),
            "spec.additionalPrinterColumns[0].JSONPath",
        ),
        ("/spec/scope", json!("Everywhere"), "spec.scope"),
    ];
    for (pointer, value, field) in cases {
        let mut bad = crd();
        *bad.pointer_mut(pointer).unwrap() = value;
        let errors = found(bad);
        assert_eq!(errors.first().map(|error| error.field.as_str()), Some(field), "{errors:?}");
    }
}

#[test]
fn cells_are_what_their_columns_can_show() {
    let mut odd = crd();
    odd["spec"]["versions"][0]["additionalPrinterColumns"] = json!([
        {"name": "When", "type": "date", "jsonPath": ".status.when"},
        {"name": "Count", "type": "integer", "jsonPath": ".status.count"},
        {"name": "Label", "type": "string", "jsonPath": ".metadata.labels['a\\.b/c']"},
    ]);
    let kind = descriptors(&odd).unwrap().remove(0);
    let object = json!({"metadata": {"name": "a", "labels": {"a.b/c": "l"}}, "status": {"when": "soon", "count": 2.7}});
    let now = "2024-01-01T00:03:00Z".parse().unwrap();
    let view = table::View { include: table::IncludeObject::None, api_version: "meta.k8s.io/v1" };
    let table = table::render(&kind, [&object], view, now, json!({}));
    assert_eq!(table["rows"][0]["cells"], json!(["a", "<invalid>", 2, "l"]));
}

#[test]
fn a_scale_of_a_custom_kind_speaks_of_the_kinds_own_field() {
    let kind = descriptors(&crd()).unwrap().remove(0);
    let object = json!({"metadata": {"name": "a"}, "spec": {}});
    let missing = scale::read_scale(&kind, &object).unwrap_err();
    assert_eq!(missing.code(), 500);
    assert!(
        missing.message().ends_with("the spec replicas field \".spec.replicas\" does not exist"),
        "{missing}"
    );
    let wanted = json!({"metadata": {"name": "a"}, "spec": {"replicas": -1}});
    let refused = scale::apply_scale(&kind, &object, &wanted).unwrap_err();
    assert_eq!(
        refused.message(),
        "CronTab.stable.example.com \"a\" is invalid: .spec.replicas: Invalid value: -1: should be a non-negative integer"
    );
    let there = json!({"metadata": {"name": "a"}, "spec": {"replicas": 0}});
    assert_eq!(scale::read_scale(&kind, &there).unwrap()["kind"], "Scale");
}

#[test]
fn clients_of_a_deprecated_version_are_told_of_a_better_one() {
    let mut many = crd();
    let version = |name: &str, served: bool, deprecated: bool| {
        let mut version = crd()["spec"]["versions"][0].clone();
        for (key, value) in
            [("served", json!(served)), ("deprecated", json!(deprecated)), ("name", json!(name))]
        {
            version[key] = value;
        }
        version["storage"] = json!(name == "v1");
        version
    };
    let all = [("v1beta1", true, true), ("v1", true, false), ("v2", false, false), ("v2beta1", true, true)];
    many["spec"]["versions"] = all.iter().map(|(name, served, old)| version(name, *served, *old)).collect();
    let told: Vec<_> = descriptors(&many).unwrap().into_iter().filter_map(|kind| kind.deprecation).collect();
    assert_eq!(
        told,
        [
            "stable.example.com/v1beta1 CronTab is deprecated; use stable.example.com/v1 CronTab",
            "stable.example.com/v2beta1 CronTab is deprecated; use stable.example.com/v1 CronTab",
        ]
    );
}
