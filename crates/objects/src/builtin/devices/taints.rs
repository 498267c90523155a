//! DeviceTaintRule: devices that are tainted by what is said of them, and not by their drivers.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::pool_name;
use crate::builtin::conditions;
use crate::builtin::field::Field;
use crate::builtin::rules::{METADATA, Rules};
use crate::builtin::storage::driver_name;
use crate::error::FieldError;
use crate::lookup::{set_default, text};
use crate::meta::{dns_label, label_value, qualified_name};
use crate::{Object, meta};

/// What a taint does to who has the device, or would have it.
const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];
/// Most conditions of a rule.
const MOST_CONDITIONS: usize = 8;

pub(in crate::builtin) const RULE: Rules = Rules {
    validate: |rule| {
        let spec = Field::root(rule).at("spec");
        let selector = spec.at("deviceSelector");
        let (driver, pool, device) = (selector.at("driver"), selector.at("pool"), selector.at("device"));
        let mut errors = Vec::new();
        if driver.is_given() {
            errors.extend(driver_name(&driver));
        }
        if pool.is_given() {
            errors.extend(pool_name(&pool));
        }
        if device.is_given() {
            errors.extend(device.needs(dns_label));
        }
        taint(&spec.at("taint"), &mut errors);
        errors
    },
    default: |rule| {
        if let Some(taint) = rule.pointer_mut("/spec/taint") {
            begin(taint);
        }
    },
    prepare_update: begin_again,
    validate_status: |new, _| {
        let all = Field::root(new).under(&["status", "conditions"]);
        let mut errors = conditions::validate(&all);
        errors.extend(all.at_most(MOST_CONDITIONS));
        errors
    },
    kept_by_status: METADATA,
    ..Rules::BASE
};

/// A taint is there since now, if nobody says since when.
pub(super) fn begin(taint: &mut Value) {
    set_default(taint, "timeAdded", meta::time(Timestamp::now()));
}

/// With another effect it is there anew, if nobody says since when.
fn begin_again(rule: &mut Object, old: &Object) {
    let of = |object: &Object, key: &str| text(object, &["spec", "taint", key]).to_owned();
    if of(rule, "effect") != of(old, "effect") && of(rule, "timeAdded") == of(old, "timeAdded") {
        rule["spec"]["taint"]["timeAdded"] = json!(meta::time(Timestamp::now()));
    }
}

/// What is wrong with a taint.
pub(super) fn taint(taint: &Field<'_>, errors: &mut Vec<FieldError>) {
    errors.extend(taint.at("key").obeys(qualified_name));
    errors.extend(taint.at("value").may_follow(label_value));
    errors.extend(taint.at("effect").must_be_one_of(&EFFECTS));
}

/// What is wrong with a toleration.
pub(super) fn toleration(toleration: &Field<'_>, errors: &mut Vec<FieldError>) {
    let (operator, value) = (toleration.at("operator"), toleration.at("value"));
    errors.extend(toleration.at("key").may_follow(qualified_name));
    match operator.text() {
        "Exists" if !value.text().is_empty() => {
            errors.push(value.invalid("must be empty for operator `Exists`"));
        }
        "Exists" => {}
        "Equal" => errors.extend(value.obeys(label_value)),
        "" => errors.push(operator.required("")),
        _ => errors.extend(operator.one_of(&["Equal", "Exists"])),
    }
    let effect = toleration.at("effect");
    errors.extend(effect.one_of(&EFFECTS).filter(|_| !effect.text().is_empty()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::tests::{changed, created, kind, refusal};

    #[test]
    fn a_rule_says_since_when_its_effect_is_there() {
        const KIND: &str = "DeviceTaintRule";
        let rule = |taint: Value| json!({"metadata": {"name": "r"}, "spec": {"deviceSelector": {"driver": "d.example.com"}, "taint": taint}});
        let mut old = created(&kind(KIND), rule(json!({"key": "a.b/c", "effect": "NoSchedule"}))).unwrap();
        assert!(old["spec"]["taint"]["timeAdded"].is_string());
        old["spec"]["taint"]["timeAdded"] = json!("2020-01-01T00:00:00Z");
        let (new, found) = changed(KIND, &old, json!({"spec": {"taint": {"value": "v"}}}));
        assert_eq!(
            (found.as_str(), &new["spec"]["taint"]["timeAdded"]),
            ("", &json!("2020-01-01T00:00:00Z"))
        );
        let (new, _) = changed(KIND, &old, json!({"spec": {"taint": {"effect": "NoExecute"}}}));
        assert_ne!(new["spec"]["taint"]["timeAdded"], "2020-01-01T00:00:00Z");
        for (taint, why) in [
            (json!({"key": "a"}), "spec.taint.effect: Required value"),
            (json!({"key": "a", "effect": "Odd"}), "spec.taint.effect: Unsupported value: \"Odd\""),
            (json!({"key": "", "effect": "None"}), "spec.taint.key: "),
            (json!({"key": "a", "value": "-", "effect": "None"}), "spec.taint.value: Invalid value: \"-\""),
        ] {
            let found = refusal(KIND, rule(taint));
            assert!(found.contains(why), "{found}\n{why}");
        }
    }
}
