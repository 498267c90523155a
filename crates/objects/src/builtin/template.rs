//! What the kinds that make pods have in common: a selector, a template, and amounts that may be percentages.

use serde_json::{Map, Value};

use super::field::Field;
use super::{pod_annotations, pod_defaults, pod_validate};
use crate::Object;
use crate::error::FieldError;
use crate::lookup::{at_mut, set_default};
use crate::meta::{validate_annotations, validate_labels};
use crate::selector::LabelSelector;

const PERCENT_RULE: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// Fills in the defaults of the pod template at a path.
pub(super) fn defaults(object: &mut Object, path: &[&str]) {
    let Some(template) = at_mut(object, path) else { return };
    set_default(template, "metadata", Map::new());
    if let Some(spec) = template.get_mut("spec") {
        pod_defaults::pod_spec(spec);
    }
}

/// All that is wrong with a pod template.
pub(super) fn validate(template: &Field<'_>) -> Vec<FieldError> {
    let (spec, metadata) = (template.at("spec"), template.at("metadata"));
    // Upstream leaves `metadata` out of these two paths.
    let (labels, annotations) = (template.at("labels").path, template.at("annotations").path);
    let mut errors = validate_labels(metadata.value.get("labels"), &labels);
    errors.extend(validate_annotations(metadata.value.get("annotations"), &annotations));
    errors.extend(pod_annotations::validate(metadata.value, &spec, &annotations));
    errors.extend(pod_validate::pod_spec(&spec, None));
    errors.extend(pod_annotations::match_fields(metadata.value, &spec));
    if !spec.at("ephemeralContainers").list().is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(spec.at("ephemeralContainers").forbidden(why));
    }
    errors
}

/// A template whose pods run until they are deleted. `kind` is for the message.
pub(super) fn runs_always(template: &Field<'_>, kind: &str) -> Vec<FieldError> {
    let spec = template.at("spec");
    let mut errors = Vec::new();
    if matches!(spec.at("restartPolicy").text(), "Never" | "OnFailure") {
        errors.extend(spec.at("restartPolicy").one_of(&["Always"]));
    }
    let deadline = spec.at("activeDeadlineSeconds");
    if deadline.is_given() {
        errors.push(deadline.forbidden(format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
    errors
}

/// Checks `spec.selector`, and that it selects what `spec.template` makes. `kind` names whom an empty
/// selector does not suit.
pub(super) fn selector(spec: &Field<'_>, kind: &str) -> Vec<FieldError> {
    let selector = spec.at("selector");
    let mut errors = Vec::new();
    if selector.is_given() {
        errors.extend(selector.label_selector());
        if LabelSelector::from_object(selector.value).is_ok_and(|parsed| parsed.is_empty()) {
            errors.push(selector.invalid(format!("empty selector is invalid for {kind}")));
        }
    } else {
        errors.push(selector.required(""));
    }
    errors.extend(selects_template(spec));
    errors
}

/// Refuses a template whose labels `spec.selector` does not match.
pub(super) fn selects_template(spec: &Field<'_>) -> Option<FieldError> {
    let labels = spec.under(&["template", "metadata", "labels"]);
    let selector = spec.at("selector");
    // Without a selector nothing is selected; an empty or a malformed one is refused elsewhere.
    let good = selector.is_given()
        && LabelSelector::from_object(selector.value)
            .map_or(true, |parsed| parsed.is_empty() || parsed.matches(labels.value));
    (!good).then(|| labels.invalid("`selector` does not match template `labels`"))
}

/// Refuses numbers below zero.
pub(super) fn not_negative(of: &Field<'_>, keys: &[&str]) -> Vec<FieldError> {
    keys.iter().filter_map(|key| of.at(key).at_least(0)).collect()
}

/// Refuses values that are no number of at least 0 and no percentage.
pub(super) fn amount_or_percent(field: &Field<'_>) -> Option<FieldError> {
    match field.value.as_str() {
        Some(_) => percent(field.value).is_none().then(|| field.invalid(PERCENT_RULE)),
        None => field.at_least(0),
    }
}

/// Refuses percentages above 100.
pub(super) fn at_most_100_percent(field: &Field<'_>) -> Option<FieldError> {
    let over = percent(field.value).is_some_and(|percent| percent > 100);
    over.then(|| field.invalid("must not be greater than 100%"))
}

fn percent(value: &Value) -> Option<u64> {
    let digits = value.as_str()?.strip_suffix('%')?;
    let good = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    // More digits than fit are more than any limit.
    good.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Whether an amount or a percentage is 0, or not given.
pub(super) fn is_zero(value: &Value) -> bool {
    percent(value).map_or_else(|| value.as_i64().unwrap_or(0) == 0, |percent| percent == 0)
}

/// Refuses changes of these.
pub(super) fn immutable(new: &Field<'_>, old: &Field<'_>, keys: &[&str]) -> Vec<FieldError> {
    keys.iter().filter_map(|key| new.at(key).same_as(&old.at(key))).collect()
}

/// Checks the counts in a status: none below zero, each of `parts` no more than `replicas`, and no more
/// available than ready.
pub(super) fn status_counts(status: &Field<'_>, parts: &[&str]) -> Vec<FieldError> {
    let number = |key: &str| status.at(key).number().unwrap_or(0);
    let mut errors = not_negative(status, &["replicas", "observedGeneration", "terminatingReplicas"]);
    errors.extend(not_negative(status, parts));
    for key in parts {
        if number(key) > number("replicas") {
            errors.push(status.at(key).invalid("cannot be greater than status.replicas"));
        }
    }
    if number("availableReplicas") > number("readyReplicas") {
        errors.push(status.at("availableReplicas").invalid("cannot be greater than readyReplicas"));
    }
    errors
}

/// Refuses a `collisionCount` that goes down.
pub(super) fn collisions_only_grow(new: &Field<'_>, old: &Field<'_>) -> Vec<FieldError> {
    let (after, before) = (new.at("collisionCount"), old.at("collisionCount"));
    let mut errors: Vec<_> = after.at_least(0).into_iter().collect();
    if after.number().unwrap_or(0) < before.number().unwrap_or(0) {
        let count = after.number().unwrap_or(0);
        errors.push(FieldError::invalid(after.path.as_str(), count, "cannot be decremented"));
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_and_percentages() {
        for (value, good, zero) in [
            (json!(0), true, true),
            (json!(3), true, false),
            (json!(-1), false, false),
            (json!("0%"), true, true),
            (json!("25%"), true, false),
            (json!("25"), false, true),
            (json!("%"), false, true),
            (json!("-1%"), false, true),
            (json!("99999999999999999999999%"), true, false),
        ] {
            let field = Field { value: &value, path: "x".to_owned() };
            assert_eq!(amount_or_percent(&field).is_none(), good, "{value}");
            assert_eq!(is_zero(&value), zero, "{value}");
        }
        let over = json!("101%");
        let error = at_most_100_percent(&Field { value: &over, path: "x".to_owned() });
        assert_eq!(error.unwrap().to_string(), "x: Invalid value: \"101%\": must not be greater than 100%");
    }

    #[test]
    fn counts_in_a_status_fit_together() {
        let status = json!({"replicas": 2, "readyReplicas": 3, "availableReplicas": -1, "collisionCount": 1});
        let status = Field { value: &status, path: "status".to_owned() };
        let texts: Vec<_> = status_counts(&status, &["readyReplicas", "availableReplicas"])
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(
            texts,
            [
                "status.availableReplicas: Invalid value: -1: must be greater than or equal to 0",
                "status.readyReplicas: Invalid value: 3: cannot be greater than status.replicas",
            ]
        );
        let before = json!({"collisionCount": 2});
        let before = Field { value: &before, path: "status".to_owned() };
        assert_eq!(collisions_only_grow(&status, &before).len(), 1);
        assert_eq!(collisions_only_grow(&before, &status).len(), 0);
    }
}
