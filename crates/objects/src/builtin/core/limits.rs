//! LimitRange.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::builtin::field::Field;
use crate::builtin::resources;
use crate::descriptor::Strategy;
use crate::error::FieldError;
use crate::lookup::{at, entries, list_mut, set_default, text};
use crate::meta::{Wrongs, qualified_name};
use crate::{Object, Quantity};

pub(in crate::builtin) struct LimitRangeStrategy;

const KINDS: &[&str] = &["Pod", "Container", "PersistentVolumeClaim"];

impl Strategy for LimitRangeStrategy {
    fn default(&self, range: &mut Object) {
        // Upstream shows the list also where there is none.
        if let Some(spec) = range.get_mut("spec").and_then(Value::as_object_mut) {
            spec.entry("limits").or_insert(Value::Null);
        }
        for limit in list_mut(range, &["spec", "limits"]) {
            if text(limit, &["type"]) == "Container" {
                fill(limit, "max", "default");
                fill(limit, "default", "defaultRequest");
                fill(limit, "min", "defaultRequest");
            }
        }
    }

    fn tells_of_missing(&self) -> bool {
        true
    }

    fn validate(&self, range: &Object) -> Vec<FieldError> {
        let limits = Field::root(range).under(&["spec", "limits"]);
        let (mut errors, mut kinds) = (Vec::new(), HashSet::new());
        for limit in limits.items() {
            let kind = limit.at("type");
            let wrong = kind.obeys(qualified_name);
            if !wrong.is_empty() {
                errors.extend(wrong);
            } else if !kind.text().contains('/') && !KINDS.contains(&kind.text()) {
                errors.push(kind.invalid("must be a standard limit type or fully qualified"));
            }
            if !kinds.insert(kind.text()) {
                errors.push(kind.duplicate());
            }
            validate_limit(&limit, &mut errors);
        }
        errors
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// Gives `to` the amounts of `from` that it does not have.
fn fill(limit: &mut Value, from: &str, to: &str) {
    let amounts = limit.get(from).and_then(Value::as_object).cloned().unwrap_or_default();
    if amounts.is_empty() {
        return;
    }
    set_default(limit, to, json!({}));
    for (name, amount) in amounts {
        set_default(&mut limit[to], &name, amount);
    }
}

fn validate_limit(limit: &Field<'_>, errors: &mut Vec<FieldError>) {
    let kind = limit.at("type").text();
    for key in ["default", "defaultRequest"] {
        let given = limit.at(key).value.as_object().is_some_and(|map| !map.is_empty());
        if kind == "Pod" && given {
            errors.push(limit.at(key).forbidden("may not be specified when `type` is 'Pod'"));
        }
    }
    let stored = |key: &str| limit.at(key).at("storage").is_given();
    if kind == "PersistentVolumeClaim" && !stored("min") && !stored("max") {
        let why = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(limit.at("limits").required(why));
    }
    let mut names = std::collections::BTreeSet::new();
    for key in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        for (name, _) in entries(limit.value, &[key]) {
            for why in resource_name(name, kind) {
                errors.push(FieldError::invalid(
                    format!("{}[{name}]", limit.at(key).path),
                    name.as_str(),
                    why,
                ));
            }
            names.insert(name);
        }
    }
    names.iter().for_each(|name| compare(limit, name, errors));
}

/// What is wrong with the name of a resource of this `type` of a LimitRange.
pub(in crate::builtin) fn resource_name(name: &str, kind: &str) -> Wrongs {
    match kind {
        "Pod" | "Container" => resources::container_resource(name),
        _ => resources::resource(name),
    }
}

/// Each pair of amounts with its order: the first may not exceed the second; and what is said then.
fn compare(limit: &Field<'_>, name: &str, errors: &mut Vec<FieldError>) {
    let amount = |key: &str| at(limit.value, &[key, name]).and_then(|value| Quantity::from_json(value).ok());
    let path = |key: &str| format!("{}[{name}]", limit.at(key).path);
    let shown = |amount: Quantity| json!(amount.to_string());
    let words = |key: &str| match key {
        "min" => "min value",
        "max" => "max value",
        "default" => "default value",
        _ => "default request value",
    };
    // The lesser and the greater, what is at fault, and whose amount is shown.
    for (low, high, about, value) in [
        ("min", "max", "min", "min"),
        ("min", "defaultRequest", "defaultRequest", "defaultRequest"),
        ("defaultRequest", "max", "defaultRequest", "defaultRequest"),
        ("defaultRequest", "default", "defaultRequest", "defaultRequest"),
        ("min", "default", "default", "min"),
        ("default", "max", "default", "max"),
    ] {
        let (Some(less), Some(more)) = (amount(low), amount(high)) else { continue };
        if less > more {
            let limit = if low == "defaultRequest" && high == "default" {
                "default limit value"
            } else {
                words(high)
            };
            let why = format!("{} {less} is greater than {limit} {more}", words(low));
            errors.push(FieldError::invalid(path(about), amount(value).map(shown), why));
        }
    }
    let Some(ratio) = amount("maxLimitRequestRatio") else { return };
    if ratio < Quantity::from_units(1) {
        let why = format!("ratio {ratio} is less than 1");
        errors.push(FieldError::invalid(path("maxLimitRequestRatio"), shown(ratio), why));
    }
    if let (Some(low), Some(high)) = (amount("min"), amount("max"))
        && low > Quantity::ZERO
    {
        let most = high.milli() as f64 / low.milli() as f64;
        if ratio.milli() as f64 / 1000.0 > most {
            let why = format!("ratio {ratio} is greater than max/min = {most:.6}");
            errors.push(FieldError::invalid(path("maxLimitRequestRatio"), shown(ratio), why));
        }
    }
}
