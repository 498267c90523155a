//! Deployment and ReplicaSet.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::rows::{containers, name, selector, since_creation};
use super::{ColumnSpec, pod_defaults, pod_validate};
use crate::Object;
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{at, number, set_default, text};
use crate::meta::validate_labels;
use crate::selector::LabelSelector;

pub(super) const DEPLOYMENT_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Ready", "string", 0),
    ("Up-to-date", "string", 0),
    ("Available", "string", 0),
    ("Age", "string", 0),
    ("Containers", "string", 1),
    ("Images", "string", 1),
    ("Selector", "string", 1),
];

pub(super) const REPLICA_SET_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Desired", "integer", 0),
    ("Current", "integer", 0),
    ("Ready", "integer", 0),
    ("Age", "string", 0),
    ("Containers", "string", 1),
    ("Images", "string", 1),
    ("Selector", "string", 1),
];

fn status(object: &Object, key: &str) -> i64 {
    number(object, &["status", key]).unwrap_or(0)
}

fn wanted(object: &Object) -> i64 {
    number(object, &["spec", "replicas"]).unwrap_or(0)
}

fn wide(object: &Object) -> [Value; 3] {
    let [names, images] = containers(&object["spec"]["template"]["spec"]);
    [names, images, selector(&object["spec"]["selector"])]
}

pub(super) fn deployment(object: &Object, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        name(object),
        json!(format!("{}/{}", status(object, "readyReplicas"), wanted(object))),
        json!(status(object, "updatedReplicas")),
        json!(status(object, "availableReplicas")),
        since_creation(object, now),
    ];
    cells.extend(wide(object));
    cells
}

pub(super) fn replica_set(object: &Object, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![
        name(object),
        json!(wanted(object)),
        json!(status(object, "replicas")),
        json!(status(object, "readyReplicas")),
        since_creation(object, now),
    ];
    cells.extend(wide(object));
    cells
}

fn template_defaults(object: &mut Object) {
    if let Some(spec) = object.get_mut("spec").and_then(|spec| spec.get_mut("template")?.get_mut("spec")) {
        pod_defaults::pod_spec(spec);
    }
}

/// Replicas, selector and template, which all workloads have.
fn validate_common(object: &Object) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &object["spec"];
    for key in ["replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
        if let Some(given) = number(spec, &[key]).filter(|given| *given < 0) {
            errors.push(FieldError::invalid(
                format!("spec.{key}"),
                given,
                "must be greater than or equal to 0",
            ));
        }
    }
    let labels = at(spec, &["template", "metadata", "labels"]).unwrap_or(&Value::Null);
    match (spec.get("selector"), LabelSelector::from_object(&spec["selector"])) {
        (None, _) => errors.push(FieldError::required("spec.selector", "")),
        (Some(given), Err(why)) => errors.push(FieldError::invalid("spec.selector", given.clone(), why)),
        (Some(given), Ok(selector)) if selector.is_empty() => {
            errors.push(FieldError::invalid(
                "spec.selector",
                given.clone(),
                "empty selector is invalid for deployment",
            ));
        }
        (Some(_), Ok(selector)) if !selector.matches(labels) => errors.push(FieldError::invalid(
            "spec.template.metadata.labels",
            labels.clone(),
            "`selector` does not match template `labels`",
        )),
        _ => {}
    }
    let Some(pod) = at(spec, &["template", "spec"]) else {
        errors.push(FieldError::required("spec.template.spec.containers", ""));
        return errors;
    };
    errors.extend(validate_labels(Some(labels), "spec.template.metadata.labels"));
    errors.extend(pod_validate::pod_spec(pod, "spec.template.spec"));
    let policy = text(pod, &["restartPolicy"]);
    if matches!(policy, "Never" | "OnFailure") {
        errors.push(FieldError::not_supported("spec.template.spec.restartPolicy", policy, &["Always"]));
    }
    errors
}

fn selector_is_kept(new: &Object, old: &Object) -> Vec<FieldError> {
    let (new, old) = (&new["spec"]["selector"], &old["spec"]["selector"]);
    if new == old {
        return Vec::new();
    }
    vec![FieldError::invalid("spec.selector", new.clone(), "field is immutable")]
}

pub(super) struct DeploymentStrategy;

impl Strategy for DeploymentStrategy {
    fn default(&self, object: &mut Object) {
        template_defaults(object);
        let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        set_default(spec, "replicas", 1);
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "progressDeadlineSeconds", 600);
        set_default(spec, "strategy", json!({}));
        let strategy = &mut spec["strategy"];
        set_default(strategy, "type", "RollingUpdate");
        if text(strategy, &["type"]) == "RollingUpdate" {
            set_default(strategy, "rollingUpdate", json!({}));
            set_default(&mut strategy["rollingUpdate"], "maxUnavailable", "25%");
            set_default(&mut strategy["rollingUpdate"], "maxSurge", "25%");
        }
    }

    fn validate(&self, object: &Object) -> Vec<FieldError> {
        let mut errors = validate_common(object);
        let strategy = &object["spec"]["strategy"];
        pod_validate::one_of(&mut errors, strategy, "spec.strategy", "type", &["Recreate", "RollingUpdate"]);
        let rolling = strategy.get("rollingUpdate");
        if text(strategy, &["type"]) == "Recreate" && rolling.is_some() {
            let why = "may not be specified when strategy `type` is 'Recreate'";
            errors.push(FieldError::forbidden("spec.strategy.rollingUpdate", why));
        } else if let Some(rolling) = rolling {
            errors.extend(validate_rolling(rolling));
        }
        errors
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        selector_is_kept(new, old)
    }

    fn prepare_create(&self, object: &mut Object) {
        object["status"] = json!({});
    }
}

fn validate_rolling(rolling: &Value) -> Vec<FieldError> {
    const PATH: &str = "spec.strategy.rollingUpdate";
    let mut errors = Vec::new();
    let mut amounts = Vec::new();
    for key in ["maxUnavailable", "maxSurge"] {
        let value = &rolling[key];
        let amount = match value.as_str() {
            Some(text) => text.strip_suffix('%').and_then(|digits| digits.parse().ok()),
            None => value.as_i64(),
        };
        match amount {
            Some(amount) if amount >= 0 => amounts.push(amount),
            _ => errors.push(FieldError::invalid(
                format!("{PATH}.{key}"),
                value.clone(),
                "must be a number of at least 0 or a percentage (e.g. '5' or '10%')",
            )),
        }
    }
    if amounts == [0, 0] {
        let why = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(
            format!("{PATH}.maxUnavailable"),
            rolling["maxUnavailable"].clone(),
            why,
        ));
    }
    errors
}

pub(super) struct ReplicaSetStrategy;

impl Strategy for ReplicaSetStrategy {
    fn default(&self, object: &mut Object) {
        template_defaults(object);
        if let Some(spec) = object.get_mut("spec") {
            set_default(spec, "replicas", 1);
        }
    }

    fn validate(&self, object: &Object) -> Vec<FieldError> {
        validate_common(object)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        selector_is_kept(new, old)
    }

    fn prepare_create(&self, object: &mut Object) {
        object["status"] = json!({"replicas": 0});
    }
}
