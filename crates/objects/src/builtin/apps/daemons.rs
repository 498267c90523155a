//! DaemonSet.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::apps::workloads::{selector_is_kept, status, wide};
use crate::builtin::field::Field;
use crate::builtin::pods::template;
use crate::builtin::rows::{labels, name, since_creation};
use crate::builtin::{ColumnSpec, inner};
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{set_default, text};
use crate::selector::LabelSelector;

pub(in crate::builtin) const COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Desired", "integer", 0),
    ("Current", "integer", 0),
    ("Ready", "integer", 0),
    ("Up-to-date", "integer", 0),
    ("Available", "integer", 0),
    ("Node Selector", "string", 0),
    ("Age", "string", 0),
    ("Containers", "string", 1),
    ("Images", "string", 1),
    ("Selector", "string", 1),
];

pub(in crate::builtin) fn cells(object: &Object, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![name(object)];
    let counts = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberAvailable",
    ];
    cells.extend(counts.map(|key| json!(status(object, key))));
    cells.push(labels(&object["spec"]["template"]["spec"]["nodeSelector"]));
    cells.push(since_creation(object, now));
    cells.extend(wide(object));
    cells
}

/// Where a DaemonSet counts the changes of its template; clients see it as an annotation only.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub(in crate::builtin) struct DaemonSetStrategy;

impl Strategy for DaemonSetStrategy {
    fn default(&self, object: &mut Object) {
        template::defaults(object, &["spec", "template"]);
        // Its writer owns the annotation; the number in it is the server's.
        if text(object, &["metadata", "annotations", TEMPLATE_GENERATION]).is_empty() {
            set_template_generation(object, 0);
        }
        let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
        set_default(spec, "revisionHistoryLimit", 10);
        set_default(spec, "updateStrategy", json!({}));
        let strategy = &mut spec["updateStrategy"];
        set_default(strategy, "type", "RollingUpdate");
        if text(strategy, &["type"]) == "RollingUpdate" {
            set_default(strategy, "rollingUpdate", json!({}));
            set_default(&mut strategy["rollingUpdate"], "maxUnavailable", 1);
            set_default(&mut strategy["rollingUpdate"], "maxSurge", 0);
        }
    }

    fn validate(&self, object: &Object) -> Vec<FieldError> {
        let spec = Field::root(object).at("spec");
        let (selector, made) = (spec.at("selector"), spec.at("template"));
        let mut errors = selector.label_selector();
        errors.extend(template::selects_template(&spec));
        if selector.is_given() && LabelSelector::from_object(selector.value).is_ok_and(|s| s.is_empty()) {
            errors.push(selector.invalid("empty selector is invalid for daemonset"));
        }
        errors.extend(template::validate(&made));
        errors.extend(template::runs_always(&made, "DaemonSet"));
        errors.extend(template::not_negative(&spec, &["minReadySeconds"]));
        errors.extend(validate_strategy(&spec.at("updateStrategy")));
        errors.extend(template::not_negative(&spec, &["revisionHistoryLimit"]));
        errors
    }

    fn tells_of_missing(&self) -> bool {
        true
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let counted =
            |object: &Object| text(object, &["metadata", "annotations", TEMPLATE_GENERATION]).to_owned();
        if old.is_some_and(|old| counted(old) == counted(new)) {
            return Vec::new();
        }
        template::warnings(new, old, &["spec", "template"], false)
    }

    fn validate_update(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        selector_is_kept(new, old)
    }

    fn validate_status(&self, new: &Object, old: &Object) -> Vec<FieldError> {
        const COUNTS: &[&str] = &[
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        let (new, old) = (Field::root(new).at("status"), Field::root(old).at("status"));
        let mut errors = template::not_negative(&new, COUNTS);
        errors.extend(template::collisions_only_grow(&new, &old));
        errors
    }

    fn prepare_create(&self, object: &mut Object) {
        object["status"] = json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
        });
        set_template_generation(object, 1);
    }

    fn prepare_update(&self, new: &mut Object, old: &Object) {
        let before = text(old, &["metadata", "annotations", TEMPLATE_GENERATION]).parse().unwrap_or(1_i64);
        let changed = new["spec"]["template"] != old["spec"]["template"];
        set_template_generation(new, before.saturating_add(i64::from(changed)));
    }
}

fn set_template_generation(object: &mut Object, generation: i64) {
    let metadata = &mut object["metadata"];
    set_default(metadata, "annotations", json!({}));
    if metadata["annotations"].is_object() {
        metadata["annotations"][TEMPLATE_GENERATION] = json!(generation.to_string());
    }
}

fn validate_strategy(strategy: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    match strategy.at("type").text() {
        "OnDelete" => {}
        "RollingUpdate" => {
            let rolling = strategy.at("rollingUpdate");
            let (unavailable, surge) = (rolling.at("maxUnavailable"), rolling.at("maxSurge"));
            for check in [template::amount_or_percent, template::at_most_100_percent] {
                errors.extend([&unavailable, &surge].into_iter().filter_map(check));
            }
            match (template::is_zero(unavailable.value), template::is_zero(surge.value)) {
                (false, false) => {
                    errors.push(surge.invalid("may not be set when maxUnavailable is non-zero"));
                }
                (true, true) => errors.push(unavailable.required("cannot be 0 when maxSurge is 0")),
                _ => {}
            }
        }
        _ => errors.push(strategy.unsupported_object(inner::UPDATE_STRATEGY, &["RollingUpdate", "OnDelete"])),
    }
    errors
}
