//! Deployment, ReplicaSet and ReplicationController.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::pods::template;
use crate::builtin::rows::{containers, labels, name, selector, since_creation};
use crate::builtin::{ColumnSpec, inner};
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{at, number, set_default, text};

pub(in crate::builtin) const DEPLOYMENT_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Ready", "string", 0),
    ("Up-to-date", "string", 0),
    ("Available", "string", 0),
    ("Age", "string", 0),
    ("Containers", "string", 1),
    ("Images", "string", 1),
    ("Selector", "string", 1),
];

pub(in crate::builtin) const REPLICA_SET_COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Desired", "integer", 0),
    ("Current", "integer", 0),
    ("Ready", "integer", 0),
    ("Age", "string", 0),
    ("Containers", "string", 1),
    ("Images", "string", 1),
    ("Selector", "string", 1),
];

pub(in crate::builtin) fn status(object: &Object, key: &str) -> i64 {
    number(object, &["status", key]).unwrap_or(0)
}

pub(in crate::builtin) fn wanted(object: &Object) -> i64 {
    number(object, &["spec", "replicas"]).unwrap_or(0)
}

/// The last three cells of kinds with a template and a selector.
pub(in crate::builtin) fn wide(object: &Object) -> [Value; 3] {
    let [names, images] = containers(&object["spec"]["template"]["spec"]);
    [names, images, selector(&object["spec"]["selector"])]
}

pub(in crate::builtin) fn deployment(object: &Object, now: Timestamp) -> Vec<Value> {
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

fn replicated(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        name(object),
        json!(wanted(object)),
        json!(status(object, "replicas")),
        json!(status(object, "readyReplicas")),
        since_creation(object, now),
    ]
}

pub(in crate::builtin) fn replica_set(object: &Object, now: Timestamp) -> Vec<Value> {
    let mut cells = replicated(object, now);
    cells.extend(wide(object));
    cells
}

pub(in crate::builtin) fn replication_controller(object: &Object, now: Timestamp) -> Vec<Value> {
    let mut cells = replicated(object, now);
    cells.extend(containers(&object["spec"]["template"]["spec"]));
    cells.push(labels(&object["spec"]["selector"]));
    cells
}

const TEMPLATE: &[&str] = &["spec", "template"];

pub(in crate::builtin) struct DeploymentStrategy;

impl Strategy for DeploymentStrategy {
    fn default(&self, object: &mut Object) {
        template::defaults(object, TEMPLATE);
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
        let spec = Field::root(object).at("spec");
        let mut errors = template::not_negative(&spec, &["replicas"]);
        errors.extend(selected(&spec));
        errors.extend(validate_deployment_strategy(&spec.at("strategy")));
        let counts = ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"];
        errors.extend(template::not_negative(&spec, &counts));
        let deadline = spec.at("progressDeadlineSeconds");
        if deadline.number().is_some_and(|d| d <= spec.at("minReadySeconds").number().unwrap_or(0)) {
            errors.push(deadline.invalid("must be greater than minReadySeconds"));
        }
        errors
    }

    fn tells_of_missing(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        template::warnings(new, old, TEMPLATE, true)
    }

    fn kept_by_status(&self) -> &[&str] {
        &["labels"]
    }

    /// Its annotations are copied to its ReplicaSets, so a change of them counts as one of the spec.
    fn prepare_update(&self, new: &mut Object, old: &Object) {
        let annotations =
            |object: &Object| at(object, &["metadata", "annotations"]).filter(|all| !is_empty(all)).cloned();
        if annotations(new) != annotations(old) {
            let generation = number(old, &["metadata", "generation"]).unwrap_or(0) + 1;
            new["metadata"]["generation"] = json!(generation);
        }
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        selector_is_kept(new, old)
    }

    fn validate_status(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        let (new, old) = (Field::root(new).at("status"), Field::root(old).at("status"));
        let parts = ["updatedReplicas", "readyReplicas", "availableReplicas"];
        let counts = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ];
        let mut errors = template::status_counts(&new, &counts, &parts, "readyReplicas");
        errors.extend(template::collisions_only_grow(&new, &old));
        errors
    }
}

/// Checks the selector of a Deployment or a ReplicaSet, and the template.
fn selected(spec: &Field<'_>) -> Vec<FieldError> {
    // Upstream says the same of both kinds.
    template::selector(spec, "deployment", "invalid label selector", || {
        let made = spec.at("template");
        let mut errors = template::validate(&made);
        errors.extend(template::runs_always(&made, "ReplicaSet"));
        errors
    })
}

fn validate_deployment_strategy(strategy: &Field<'_>) -> Vec<FieldError> {
    let rolling = strategy.at("rollingUpdate");
    match strategy.at("type").text() {
        "Recreate" if rolling.is_given() => {
            vec![rolling.forbidden("may not be specified when strategy `type` is 'Recreate'")]
        }
        "Recreate" => Vec::new(),
        "RollingUpdate" => validate_rolling(&rolling),
        _ => vec![strategy.unsupported_object(inner::UPDATE_STRATEGY, &["Recreate", "RollingUpdate"])],
    }
}

fn validate_rolling(rolling: &Field<'_>) -> Vec<FieldError> {
    let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
    let mut errors = Vec::new();
    errors.extend(template::amount_or_percent(&unavailable));
    errors.extend(template::amount_or_percent(&surge));
    if template::is_zero(unavailable.value) && template::is_zero(surge.value) {
        errors.push(unavailable.invalid("may not be 0 when `maxSurge` is 0"));
    }
    errors.extend(template::at_most_100_percent(&unavailable));
    errors
}

/// Refuses a changed `spec.selector`.
pub(in crate::builtin) fn selector_is_kept(new: &Object, old: &Object) -> Vec<FieldError> {
    let spec = |object| Field::root(object).at("spec");
    template::same_selector(&spec(new), &spec(old)).into_iter().collect()
}

const REPLICA_PARTS: &[&str] = &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];

fn replica_counts(status: &Field<'_>) -> Vec<FieldError> {
    let counts = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ];
    template::status_counts(status, &counts, REPLICA_PARTS, "readyReplicas")
}

pub(in crate::builtin) struct ReplicaSetStrategy;

impl Strategy for ReplicaSetStrategy {
    fn default(&self, object: &mut Object) {
        template::defaults(object, TEMPLATE);
        if let Some(spec) = object.get_mut("spec") {
            set_default(spec, "replicas", 1);
        }
    }

    fn validate(&self, object: &Object) -> Vec<FieldError> {
        let spec = Field::root(object).at("spec");
        let mut errors = template::not_negative(&spec, &["replicas", "minReadySeconds"]);
        errors.extend(selected(&spec));
        errors
    }

    fn tells_of_missing(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        template::warnings(new, old, TEMPLATE, true)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        selector_is_kept(new, old)
    }

    fn validate_status(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        replica_counts(&Field::root(new).at("status"))
    }

    fn prepare_create(&self, object: &mut Object) {
        object["status"] = json!({"replicas": 0});
    }
}

pub(in crate::builtin) struct ReplicationControllerStrategy;

impl Strategy for ReplicationControllerStrategy {
    fn default(&self, object: &mut Object) {
        template::defaults(object, TEMPLATE);
        let labels = at(object, &["spec", "template", "metadata", "labels"]).cloned();
        let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        set_default(spec, "replicas", 1);
        let Some(labels) = labels.filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty()))
        else {
            return;
        };
        if is_empty(&spec["selector"]) {
            spec["selector"] = labels.clone();
        }
        if is_empty(&object["metadata"]["labels"]) && object["metadata"].is_object() {
            object["metadata"]["labels"] = labels;
        }
    }

    fn validate(&self, object: &Object) -> Vec<FieldError> {
        let spec = Field::root(object).at("spec");
        let (selector, made) = (spec.at("selector"), spec.at("template"));
        let mut errors = template::not_negative(&spec, &["minReadySeconds"]);
        if is_empty(selector.value) {
            errors.push(selector.required(""));
        }
        errors.extend(template::not_negative(&spec, &["replicas"]));
        if !made.is_given() {
            errors.push(made.required(""));
            return errors;
        }
        let labels = made.under(&["metadata", "labels"]);
        let matches = crate::selector::LabelSelector::from_map(selector.value).matches(labels.value);
        if !matches {
            errors.push(labels.invalid("`selector` does not match template `labels`"));
        }
        errors.extend(template::validate(&made));
        errors.extend(template::runs_always(&made, "ReplicationController"));
        errors
    }

    fn tells_of_missing(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        template::warnings(new, old, TEMPLATE, true)
    }

    fn validate_status(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        replica_counts(&Field::root(new).at("status"))
    }

    fn prepare_create(&self, object: &mut Object) {
        object["status"] = json!({"replicas": 0});
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_none_or(serde_json::Map::is_empty)
}
