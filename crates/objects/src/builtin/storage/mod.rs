//! StorageClass, VolumeAttributesClass, VolumeAttachment.

pub(in crate::builtin) mod csi;

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::formats::driver;
use crate::builtin::inner::{Is, Part};
use crate::builtin::rows::{default_mark, name, since_creation};
use crate::builtin::rules::{METADATA, Rules};
use crate::builtin::{ColumnSpec, odd};
use crate::error::FieldError;
use crate::lookup::{entries, set_default, text};
use crate::meta::{all_wrong, dns_subdomain, label_value, qualified_name};

/// Most bytes of all parameters, or of all of an attachment's metadata.
const SIZE_LIMIT: usize = 256 << 10;
/// Longest name of a driver.
pub(in crate::builtin) const DRIVER_LIMIT: usize = 63;

pub(in crate::builtin) const CLASS_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Provisioner", "string", 0),
    ("ReclaimPolicy", "string", 0),
    ("VolumeBindingMode", "string", 0),
    ("AllowVolumeExpansion", "string", 0),
    ("Age", "string", 0),
];

pub(in crate::builtin) fn class_cells(class: &Object, now: Timestamp) -> Vec<Value> {
    let or = |key: &str, fallback: &str| match text(class, &[key]) {
        "" => json!(fallback),
        given => json!(given),
    };
    vec![
        default_mark(
            class,
            &[
                "storageclass.kubernetes.io/is-default-class",
                "storageclass.beta.kubernetes.io/is-default-class",
            ],
        ),
        json!(text(class, &["provisioner"])),
        or("reclaimPolicy", "Delete"),
        or("volumeBindingMode", "Immediate"),
        json!(class["allowVolumeExpansion"] == true),
        since_creation(class, now),
    ]
}

pub(in crate::builtin) const CLASS: Rules = Rules {
    default: |class| {
        set_default(class, "reclaimPolicy", "Delete");
        set_default(class, "volumeBindingMode", "Immediate");
    },
    validate: validate_class,
    validate_update: |new, old| {
        let kept = ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"];
        kept.iter().filter_map(|key| Field::root(new).at(key).same_as(&Field::root(old).at(key))).collect()
    },
    warnings: |class, _| topology_warnings(class),
    ..Rules::UNCOUNTED
};

fn validate_class(class: &Object) -> Vec<FieldError> {
    let root = Field::root(class);
    let mut errors = in_lower_case(&root.at("provisioner"));
    errors.extend(parameters(&root.at("parameters")));
    errors.extend(root.at("reclaimPolicy").one_of(&["Delete", "Retain"]));
    errors.extend(root.at("volumeBindingMode").one_of(&["Immediate", "WaitForFirstConsumer"]));
    let mut seen = HashSet::new();
    for term in root.at("allowedTopologies").items() {
        let expressions = term.at("matchLabelExpressions");
        for requirement in expressions.items() {
            let (key, values) = (requirement.at("key"), requirement.at("values"));
            errors.extend(values.must_be_given(""));
            errors.extend(values.distinct());
            errors.extend(values.items().flat_map(|value| value.follows(label_value)));
            errors.extend(key.obeys(qualified_name));
        }
        errors.extend(expressions.distinct_by("key"));
        // Upstream takes a term that says nothing for one that was there before.
        if expressions.list().is_empty() || !seen.insert(term.value) {
            errors.push(FieldError::duplicate(expressions.path.as_str(), ""));
        }
    }
    errors
}

fn topology_warnings(class: &Object) -> Vec<String> {
    let terms = Field::root(class).at("allowedTopologies");
    let keys = terms.items().flat_map(|term| term.at("matchLabelExpressions").items());
    let keys = keys.map(|expression| expression.at("key"));
    keys.filter_map(|key| odd::label(key.text()).map(|old| format!("{}: {old}", key.path))).collect()
}

/// A qualified name, which upstream looks at, and shows, in lower case.
fn in_lower_case(field: &Field<'_>) -> Vec<FieldError> {
    let name = field.text().to_lowercase();
    match field.must_be_given("") {
        Some(missing) => vec![missing],
        None => all_wrong(&field.path, &name, qualified_name(&name)).collect(),
    }
}

fn parameters(field: &Field<'_>) -> Vec<FieldError> {
    const COUNT_LIMIT: usize = 512;
    let given = field.value.as_object();
    if given.is_some_and(|given| given.len() > COUNT_LIMIT) {
        return vec![FieldError::too_long(field.path.as_str(), COUNT_LIMIT as u64)];
    }
    let mut errors = Vec::new();
    if given.is_some_and(|given| given.contains_key("")) {
        errors.push(FieldError::invalid(field.path.as_str(), "", "field can not be empty."));
    }
    errors.extend(size(field));
    errors
}

/// Refuses a map of texts that is too large.
fn size(field: &Field<'_>) -> Option<FieldError> {
    let bytes: usize =
        entries(field.value, &[]).map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    (bytes > SIZE_LIMIT).then(|| FieldError::too_long(field.path.as_str(), SIZE_LIMIT as u64))
}

pub(in crate::builtin) const ATTRIBUTES_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("DriverName", "string", 0), ("Age", "string", 0)];

pub(in crate::builtin) fn attributes_cells(class: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(class), json!(text(class, &["driverName"])), since_creation(class, now)]
}

pub(in crate::builtin) const ATTRIBUTES: Rules = Rules {
    validate: |class| {
        let root = Field::root(class);
        let given = root.at("parameters");
        let mut errors = in_lower_case(&root.at("driverName"));
        errors.extend(parameters(&given));
        if given.value.as_object().is_none_or(serde_json::Map::is_empty) {
            errors.push(given.required("must contain at least one key/value pair"));
        }
        errors
    },
    validate_update: |new, old| {
        ["driverName", "parameters"]
            .iter()
            .filter(|key| new.get(**key) != old.get(**key))
            .map(|key| FieldError::forbidden(*key, format!("updates to {key} are forbidden.")))
            .collect()
    },
    ..Rules::UNCOUNTED
};

pub(in crate::builtin) const ATTACHMENT_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Attacher", "name", 0),
    ("PV", "string", 0),
    ("Node", "string", 0),
    ("Attached", "boolean", 0),
    ("Age", "string", 0),
];

pub(in crate::builtin) fn attachment_cells(attachment: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(attachment),
        json!(text(attachment, &["spec", "attacher"])),
        json!(text(attachment, &["spec", "source", "persistentVolumeName"])),
        json!(text(attachment, &["spec", "nodeName"])),
        json!(attachment["status"]["attached"] == true),
        since_creation(attachment, now),
    ]
}

const ATTACHMENT_SPEC: &[Part] = &[
    Part("Attacher", "attacher", Is::Text),
    Part(
        "Source",
        "source",
        Is::Of(&[
            Part("PersistentVolumeName", "persistentVolumeName", Is::Optional),
            Part("InlineVolumeSpec", "inlineVolumeSpec", Is::Optional),
        ]),
    ),
    Part("NodeName", "nodeName", Is::Text),
];

pub(in crate::builtin) const ATTACHMENT: Rules = Rules {
    validate: validate_attachment,
    validate_update: |new, old| {
        let spec = Field::root(new).at("spec");
        let changed = new["spec"] != old["spec"];
        changed.then(|| spec.invalid_object(ATTACHMENT_SPEC, "field is immutable")).into_iter().collect()
    },
    validate_status: |new, _| attachment_status(new),
    kept_by_status: METADATA,
    prepare_create: |attachment| attachment["status"] = json!({"attached": false}),
    ..Rules::UNCOUNTED
};

fn validate_attachment(attachment: &Object) -> Vec<FieldError> {
    let spec = Field::root(attachment).at("spec");
    let mut errors = driver_name(&spec.at("attacher"));
    let source = spec.at("source");
    let (volume, inline) = (source.at("persistentVolumeName"), source.at("inlineVolumeSpec"));
    let exactly_one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (volume.is_given(), inline.is_given()) {
        (false, false) => errors.push(source.required(exactly_one)),
        (true, true) => errors.push(source.forbidden(exactly_one)),
        (true, false) if volume.text().is_empty() => {
            errors.push(volume.required("must specify non empty persistentVolumeName"));
        }
        (true, false) => {}
        (false, true) => inline_volume(&inline, &mut errors),
    }
    let node = spec.at("nodeName");
    errors.extend(node.obeys(dns_subdomain));
    if volume.is_given() {
        errors.extend(volume.obeys(dns_subdomain));
    }
    errors
}

/// A volume that stands in the attachment itself has no object of its own: it can be of a driver alone, and be no part of
/// a claim.
fn inline_volume(spec: &Field<'_>, errors: &mut Vec<FieldError>) {
    const NOT_HERE: &str = "may not be specified in the context of inline volumes";
    for key in ["capacity", "claimRef", "storageClassName", "volumeMode", "persistentVolumeReclaimPolicy"] {
        let given = spec.at(key);
        if given.is_given() && given.value != "" && *given.value != json!({}) {
            errors.push(given.forbidden(NOT_HERE));
        }
    }
    let driver = spec.at("csi");
    if !driver.is_given() {
        errors.push(driver.required("has to be specified in the context of inline volumes"));
    }
}

/// The name of a CSI or DRA driver, which must be given.
pub(in crate::builtin) fn driver_name(field: &Field<'_>) -> Vec<FieldError> {
    field.needs(driver).into_iter().chain(field.no_longer_than(DRIVER_LIMIT)).collect()
}

fn attachment_status(attachment: &Object) -> Vec<FieldError> {
    const MESSAGE_LIMIT: usize = 1024;
    let status = Field::root(attachment).at("status");
    let mut errors: Vec<FieldError> = size(&status.at("attachmentMetadata")).into_iter().collect();
    for failure in [status.at("attachError"), status.at("detachError")] {
        errors.extend(failure.at("message").no_longer_than(MESSAGE_LIMIT));
        let code = failure.at("errorCode");
        if code.number().is_some_and(|code| code < 0) {
            errors.push(code.invalid("must be between 0 and 2147483647, inclusive"));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal, row, status_refusal};

    #[test]
    fn a_class_gets_defaults_and_keeps_what_volumes_were_made_by() {
        let class = json!({"metadata": {"name": "fast", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "csi.example.com", "parameters": {"a": "b"}});
        let old = created(&kind("StorageClass"), class).unwrap();
        assert_eq!(
            row("StorageClass", &old)[..5],
            ["fast (default)", "csi.example.com", "Delete", "Immediate", "false"]
        );
        let after = |change: Value| changed("StorageClass", &old, change).1;
        assert_eq!(after(json!({"allowVolumeExpansion": true, "mountOptions": ["ro"]})), "");
        assert!(after(json!({"parameters": {"a": "c"}})).starts_with("parameters: Invalid value"));
        assert!(
            after(json!({"reclaimPolicy": "Retain"}))
                .contains("reclaimPolicy: Invalid value: \"Retain\": field is immutable")
        );
        let refused = |object: Value| {
            refusal(
                "StorageClass",
                crate::patch::merge(&json!({"metadata": {"name": "c"}}), &object).unwrap(),
            )
        };
        assert!(refused(json!({})).contains("provisioner: Required value"));
        assert!(refused(json!({"provisioner": "a/b/c"})).contains("provisioner: Invalid value: \"a/b/c\""));
        let bad = json!({"provisioner": "p", "volumeBindingMode": "Soon", "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": []}]}]});
        let found = refused(bad);
        assert!(
            found.contains("volumeBindingMode: Unsupported value: \"Soon\": supported values: \"Immediate\""),
            "{found}"
        );
        assert!(
            found.contains("allowedTopologies[0].matchLabelExpressions[0].values: Required value"),
            "{found}"
        );
    }

    #[test]
    fn an_attributes_class_never_changes() {
        let class = json!({"metadata": {"name": "gold"}, "driverName": "csi.example.com", "parameters": {"iops": "5"}});
        let old = created(&kind("VolumeAttributesClass"), class).unwrap();
        let (_, refused) =
            changed("VolumeAttributesClass", &old, json!({"driverName": "d", "parameters": {"iops": "6"}}));
        assert_eq!(
            refused,
            "[driverName: Forbidden: updates to driverName are forbidden., parameters: Forbidden: updates to parameters are forbidden.]"
        );
        let empty = json!({"metadata": {"name": "gold"}, "driverName": "d"});
        assert!(refusal("VolumeAttributesClass", empty).contains("must contain at least one key/value pair"));
    }

    #[test]
    fn an_attachment_names_one_volume_and_its_status_has_limits() {
        let of = |source: Value| {
            json!({"metadata": {"name": "a"},
            "spec": {"attacher": "csi.example.com", "nodeName": "n1", "source": source}, "status": {"attached": true}})
        };
        let old = created(&kind("VolumeAttachment"), of(json!({"persistentVolumeName": "pv"}))).unwrap();
        assert_eq!(old["status"], json!({"attached": false}));
        assert_eq!(row("VolumeAttachment", &old)[..5], ["a", "csi.example.com", "pv", "n1", "false"]);
        assert!(
            changed("VolumeAttachment", &old, json!({"spec": {"nodeName": "n2"}}))
                .1
                .starts_with("spec: Invalid value")
        );
        assert!(
            refusal("VolumeAttachment", of(json!({})))
                .contains("spec.source: Required value: must specify exactly one")
        );
        let message = "x".repeat(1025);
        let found = status_refusal(
            "VolumeAttachment",
            &old,
            json!({"attached": false, "attachError": {"message": message, "errorCode": -1}}),
        );
        assert!(found.contains("status.attachError.message: Too long"), "{found}");
        assert!(found.contains("status.attachError.errorCode: Invalid value: -1"), "{found}");
        assert_eq!(status_refusal("VolumeAttachment", &old, json!({"attached": true})), "");
    }
}
