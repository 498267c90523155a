//! StorageClass, VolumeAttributesClass, VolumeAttachment.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::ColumnSpec;
use super::field::Field;
use super::formats::{driver, qualified};
use super::rows::{default_mark, name, since_creation};
use super::rules::Rules;
use crate::Object;
use crate::error::FieldError;
use crate::lookup::{entries, set_default, text};
use crate::meta::{dns_subdomain, label_value, qualified_name};

/// Most bytes of all parameters, or of all of an attachment's metadata.
const SIZE_LIMIT: usize = 256 << 10;
/// Longest name of a driver.
pub(super) const DRIVER_LIMIT: usize = 63;

pub(super) const CLASS_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Provisioner", "string", 0),
    ("ReclaimPolicy", "string", 0),
    ("VolumeBindingMode", "string", 0),
    ("AllowVolumeExpansion", "string", 0),
    ("Age", "string", 0),
];

pub(super) fn class_cells(class: &Object, now: Timestamp) -> Vec<Value> {
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

pub(super) const CLASS: Rules = Rules {
    default: |class| {
        set_default(class, "reclaimPolicy", "Delete");
        set_default(class, "volumeBindingMode", "Immediate");
    },
    validate: validate_class,
    validate_update: |new, old| {
        let kept = ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"];
        kept.iter().filter_map(|key| Field::root(new).at(key).same_as(&Field::root(old).at(key))).collect()
    },
    ..Rules::UNCOUNTED
};

fn validate_class(class: &Object) -> Vec<FieldError> {
    let root = Field::root(class);
    let mut errors = root.at("provisioner").needs(qualified);
    errors.extend(parameters(&root.at("parameters")));
    errors.extend(root.at("reclaimPolicy").one_of(&["Delete", "Retain"]));
    errors.extend(root.at("volumeBindingMode").one_of(&["Immediate", "WaitForFirstConsumer"]));
    let topologies = root.at("allowedTopologies");
    for (index, term) in topologies.items().enumerate() {
        let expressions = term.at("matchLabelExpressions");
        for requirement in expressions.items() {
            let (key, values) = (requirement.at("key"), requirement.at("values"));
            errors.extend(key.obeys(qualified_name));
            errors.extend(values.must_be_given(""));
            errors.extend(values.distinct());
            errors.extend(values.items().flat_map(|value| value.follows(label_value)));
        }
        errors.extend(expressions.distinct_by("key"));
        if topologies.list()[..index].contains(term.value) {
            errors.push(FieldError::duplicate(expressions.path.as_str(), ""));
        }
    }
    errors
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

pub(super) const ATTRIBUTES_COLUMNS: &[ColumnSpec] =
    &[("Name", "string", 0), ("DriverName", "string", 0), ("Age", "string", 0)];

pub(super) fn attributes_cells(class: &Object, now: Timestamp) -> Vec<Value> {
    vec![name(class), json!(text(class, &["driverName"])), since_creation(class, now)]
}

pub(super) const ATTRIBUTES: Rules = Rules {
    validate: |class| {
        let root = Field::root(class);
        let given = root.at("parameters");
        let mut errors = root.at("driverName").needs(qualified);
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

pub(super) const ATTACHMENT_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Attacher", "name", 0),
    ("PV", "string", 0),
    ("Node", "string", 0),
    ("Attached", "boolean", 0),
    ("Age", "string", 0),
];

pub(super) fn attachment_cells(attachment: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(attachment),
        json!(text(attachment, &["spec", "attacher"])),
        json!(text(attachment, &["spec", "source", "persistentVolumeName"])),
        json!(text(attachment, &["spec", "nodeName"])),
        json!(attachment["status"]["attached"] == true),
        since_creation(attachment, now),
    ]
}

pub(super) const ATTACHMENT: Rules = Rules {
    validate: validate_attachment,
    validate_update: |new, old| {
        Field::root(new).at("spec").same_as(&Field::root(old).at("spec")).into_iter().collect()
    },
    validate_status: |new, _| attachment_status(new),
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
        (true, false) => errors.extend(volume.follows(dns_subdomain)),
        (false, true) => {}
    }
    let node = spec.at("nodeName");
    errors.extend(node.obeys(dns_subdomain));
    errors
}

/// The name of a CSI or DRA driver, which must be given.
pub(super) fn driver_name(field: &Field<'_>) -> Vec<FieldError> {
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
