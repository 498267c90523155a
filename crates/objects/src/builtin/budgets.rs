//! PodDisruptionBudget.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::Object;
use crate::builtin::apps::workloads::status;
use crate::builtin::field::Field;
use crate::builtin::pods::template;
use crate::builtin::rows::{name, since_creation};
use crate::builtin::{ColumnSpec, conditions, inner};
use crate::descriptor::Strategy;
use crate::error::FieldError;

pub(super) const COLUMNS: &[ColumnSpec] = &[
    ("Name", "string", 0),
    ("Min Available", "string", 0),
    ("Max Unavailable", "string", 0),
    ("Allowed Disruptions", "integer", 0),
    ("Age", "string", 0),
];

pub(super) fn cells(budget: &Object, now: Timestamp) -> Vec<Value> {
    let amount = |key: &str| match &budget["spec"][key] {
        Value::Null => json!("N/A"),
        Value::String(text) => json!(text),
        number => json!(number.to_string()),
    };
    vec![
        name(budget),
        amount("minAvailable"),
        amount("maxUnavailable"),
        json!(status(budget, "disruptionsAllowed")),
        since_creation(budget, now),
    ]
}

pub(super) struct BudgetStrategy;

impl Strategy for BudgetStrategy {
    fn validate(&self, budget: &Object) -> Vec<FieldError> {
        let spec = Field::root(budget).at("spec");
        let amounts = [spec.at("minAvailable"), spec.at("maxUnavailable")];
        let mut errors = Vec::new();
        if amounts.iter().all(Field::is_given) {
            let why = "minAvailable and maxUnavailable cannot be both set";
            errors.push(spec.invalid_object(inner::DISRUPTION_BUDGET, why));
        }
        for amount in &amounts {
            errors.extend(template::amount_or_percent(amount));
            errors.extend(template::at_most_100_percent(amount));
        }
        errors.extend(spec.at("selector").label_selector());
        errors.extend(spec.at("unhealthyPodEvictionPolicy").one_of(&["AlwaysAllow", "IfHealthyBudget"]));
        errors
    }

    fn validate_status(&self, new: &Object, _old: &Object) -> Vec<FieldError> {
        let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        let status = Field::root(new).at("status");
        let mut errors = conditions::validate(&status.at("conditions"));
        errors.extend(template::not_negative(&status, &counts));
        errors
    }

    fn prepare_create(&self, budget: &mut Object) {
        budget["status"] =
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
    }
}
