//! What the kinds that make pods have in common: a selector, a template, and amounts that may be percentages.

use serde_json::{Map, Value};

use crate::Object;
use crate::builtin::field::Field;
use crate::builtin::inner;
use crate::builtin::pods::{annotations, defaults, validate, warnings};
use crate::error::FieldError;
use crate::lookup::{at_mut, set_default};
use crate::meta::{validate_annotations, validate_labels};
use crate::selector::LabelSelector;

const PERCENT_RULE: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// Fills in the defaults of the pod template at a path.
pub(in crate::builtin) fn defaults(object: &mut Object, path: &[&str]) {
    let Some(template) = at_mut(object, path) else { return };
    set_default(template, "metadata", Map::new());
    if let Some(spec) = template.get_mut("spec") {
        defaults::pod_spec(spec);
        defaults::drop_unswitched(spec);
    }
}

/// All that is wrong with the metadata of a template for a claim: labels and annotations may be given, and nothing else.
pub(in crate::builtin) fn claim_metadata(metadata: &Field<'_>) -> Vec<FieldError> {
    let (labels, annotations) = (metadata.at("labels"), metadata.at("annotations"));
    let mut errors = validate_annotations(Some(annotations.value), &annotations.path);
    errors.extend(validate_labels(Some(labels.value), &labels.path));
    const OTHERS: [&str; 13] = [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ];
    let given = OTHERS.iter().map(|key| metadata.at(key)).filter(|field| match field.value {
        Value::String(text) => !text.is_empty(),
        // A grace of no time is one, unlike a generation.
        Value::Number(number) => number.as_i64() != Some(0) || !field.path.ends_with(".generation"),
        // Lists are there also where they are empty.
        other => other.is_array(),
    });
    errors.extend(given.map(|field| field.forbidden("cannot be set")));
    errors
}

/// All that is wrong with a pod template.
pub(in crate::builtin) fn validate(template: &Field<'_>) -> Vec<FieldError> {
    let (spec, metadata) = (template.at("spec"), template.at("metadata"));
    // Upstream leaves `metadata` out of these two paths.
    let (labels, annotations) = (template.at("labels").path, template.at("annotations").path);
    let mut errors = validate_labels(metadata.value.get("labels"), &labels);
    errors.extend(validate_annotations(metadata.value.get("annotations"), &annotations));
    errors.extend(annotations::validate(metadata.value, &spec, &annotations));
    errors.extend(validate::pod_spec(&spec, None));
    errors.extend(annotations::match_fields(metadata.value, &spec));
    if !spec.at("ephemeralContainers").list().is_empty() {
        let why = "ephemeral containers not allowed in pod template";
        errors.push(spec.at("ephemeralContainers").forbidden(why));
    }
    errors
}

/// A template whose pods run until they are deleted. `kind` is for the message.
pub(in crate::builtin) fn runs_always(template: &Field<'_>, kind: &str) -> Vec<FieldError> {
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

/// Checks `spec.selector`, and what it selects: `template` does, where the selector is one. `kind` names whom an
/// empty selector does not suit, `wrong` is what is said of one that cannot be used at all.
pub(in crate::builtin) fn selector(
    spec: &Field<'_>,
    kind: &str,
    wrong: &str,
    template: impl FnOnce() -> Vec<FieldError>,
) -> Vec<FieldError> {
    let selector = spec.at("selector");
    let parsed = LabelSelector::from_object(selector.value);
    let mut errors = Vec::new();
    if selector.is_given() {
        errors.extend(selector.label_selector());
        if parsed.as_ref().is_ok_and(LabelSelector::is_empty) {
            errors.push(selector.invalid(format!("empty selector is invalid for {kind}")));
        }
    } else {
        errors.push(selector.required(""));
    }
    if selector.is_given() && parsed.is_err() {
        errors.push(selector.invalid_object(inner::LABEL_SELECTOR, wrong));
    } else {
        errors.extend(selects_template(spec));
        errors.extend(template());
    }
    errors
}

/// Refuses a template whose labels `spec.selector` does not match.
pub(in crate::builtin) fn selects_template(spec: &Field<'_>) -> Option<FieldError> {
    let labels = spec.under(&["template", "metadata", "labels"]);
    let selector = spec.at("selector");
    // Without a selector nothing is selected; an empty or a malformed one is refused elsewhere.
    let good = selector.is_given()
        && LabelSelector::from_object(selector.value)
            .map_or(true, |parsed| parsed.is_empty() || parsed.matches(labels.value));
    (!good).then(|| labels.invalid("`selector` does not match template `labels`"))
}

/// Refuses numbers below zero.
pub(in crate::builtin) fn not_negative(of: &Field<'_>, keys: &[&str]) -> Vec<FieldError> {
    keys.iter().filter_map(|key| of.at(key).at_least(0)).collect()
}

/// Refuses values that are no number of at least 0 and no percentage.
pub(in crate::builtin) fn amount_or_percent(field: &Field<'_>) -> Option<FieldError> {
    match field.value.as_str() {
        Some(_) => percent(field.value).is_none().then(|| field.invalid(PERCENT_RULE)),
        None => field.at_least(0),
    }
}

/// Refuses percentages above 100.
pub(in crate::builtin) fn at_most_100_percent(field: &Field<'_>) -> Option<FieldError> {
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
pub(in crate::builtin) fn is_zero(value: &Value) -> bool {
    percent(value).map_or_else(|| value.as_i64().unwrap_or(0) == 0, |percent| percent == 0)
}

/// Refuses changes of these.
pub(in crate::builtin) fn immutable(new: &Field<'_>, old: &Field<'_>, keys: &[&str]) -> Vec<FieldError> {
    keys.iter().filter_map(|key| new.at(key).same_as(&old.at(key))).collect()
}

/// Refuses a changed `selector`.
pub(in crate::builtin) fn same_selector(new: &Field<'_>, old: &Field<'_>) -> Option<FieldError> {
    let (after, before) = (new.at("selector"), old.at("selector"));
    const WHY: &str = "field is immutable";
    match after.value == before.value {
        true => None,
        false if after.is_given() => Some(after.invalid_object(inner::LABEL_SELECTOR, WHY)),
        false => Some(after.invalid(WHY)),
    }
}

/// Checks the counts in a status: none of `counts` below zero, each of `parts` no more than `replicas`, and no more
/// available than ready, which messages call `ready`.
pub(in crate::builtin) fn status_counts(
    status: &Field<'_>,
    counts: &[&str],
    parts: &[&str],
    ready: &str,
) -> Vec<FieldError> {
    let number = |key: &str| status.at(key).number().unwrap_or(0);
    let mut errors = not_negative(status, counts);
    for key in parts {
        if number(key) > number("replicas") {
            errors.push(status.at(key).invalid("cannot be greater than status.replicas"));
        }
    }
    if number("availableReplicas") > number("readyReplicas") {
        errors.push(status.at("availableReplicas").invalid(format!("cannot be greater than {ready}")));
    }
    errors
}

/// Refuses a `collisionCount` that goes down.
pub(in crate::builtin) fn collisions_only_grow(new: &Field<'_>, old: &Field<'_>) -> Option<FieldError> {
    let (after, before) = (new.at("collisionCount"), old.at("collisionCount"));
    let count = after.number().unwrap_or(0);
    // Where there was none before, any is more; none after there was one is less.
    let fewer = before.number().is_some_and(|before| after.number().is_none_or(|after| after < before));
    fewer.then(|| FieldError::invalid(after.path.as_str(), count, "cannot be decremented"))
}

/// What a client is told of an object with a template at `template`: of its name where Pods and hosts are named after it, and
/// of the template where that may have changed.
pub(in crate::builtin) fn warnings(
    new: &Object,
    old: Option<&Object>,
    template: &[&str],
    named: bool,
) -> Vec<String> {
    let generation = |object: &Object| object["metadata"]["generation"].as_i64();
    if old.is_some_and(|old| generation(old) == generation(new)) {
        return Vec::new();
    }
    let name = new["metadata"]["name"].as_str().unwrap_or_default();
    let mut out: Vec<String> = (named && old.is_none())
        .then(|| warnings::name(name, "Pod names and hostnames"))
        .flatten()
        .into_iter()
        .collect();
    out.extend(warnings::of_template(&Field::root(new).under(template), true));
    out
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
        let counts = ["replicas", "readyReplicas", "availableReplicas"];
        let texts: Vec<_> = status_counts(&status, &counts, &counts[1..], "readyReplicas")
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
        assert!(collisions_only_grow(&status, &before).is_some());
        assert!(collisions_only_grow(&before, &status).is_none());
    }
}
