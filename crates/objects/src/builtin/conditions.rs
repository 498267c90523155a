//! Conditions of the one form that newer kinds share, `metav1.Condition`.

use std::collections::HashSet;

use crate::builtin::field::Field;
use crate::error::FieldError;
use crate::meta::qualified_name;

const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32 * 1024;
const REASON_RULE: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

/// All that is wrong with a list of conditions.
pub(super) fn validate(list: &Field<'_>) -> Vec<FieldError> {
    let mut seen = HashSet::new();
    let mut errors = Vec::new();
    for condition in list.items() {
        let kind = condition.at("type");
        if !seen.insert(kind.text()) {
            errors.push(kind.duplicate());
        }
        errors.extend(one(&condition));
    }
    errors
}

fn one(condition: &Field<'_>) -> Vec<FieldError> {
    const STATUSES: &[&str] = &["False", "True", "Unknown"];
    let [status, generation, time, reason, message] =
        ["status", "observedGeneration", "lastTransitionTime", "reason", "message"]
            .map(|key| condition.at(key));
    let mut errors = condition.at("type").obeys(qualified_name);
    if !STATUSES.contains(&status.text()) {
        errors.push(FieldError::not_supported(status.path.as_str(), status.text(), STATUSES));
    }
    if generation.number().is_some_and(|number| number < 0) {
        errors.push(generation.invalid("must be greater than or equal to zero"));
    }
    if !time.is_given() {
        errors.push(time.required(""));
    }
    if reason.text().is_empty() {
        errors.push(reason.required(""));
    } else if !is_reason(reason.text()) {
        errors.push(reason.invalid(REASON_RULE));
    }
    errors.extend(reason.no_longer_than(MAX_REASON));
    errors.extend(message.no_longer_than(MAX_MESSAGE));
    errors
}

fn is_reason(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':');
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(inner)
        && text.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_condition_is_complete_and_there_once() {
        let list = json!([
            {"type": "A", "status": "True", "reason": "R:s_", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
            {"type": "A", "status": "Odd", "reason": "1", "observedGeneration": -1},
        ]);
        let found = validate(&Field { value: &list, path: "c".to_owned() });
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), 5, "{found:#?}");
        for (found, wanted) in found.iter().zip([
            "c[1].type: Duplicate value: \"A\"",
            "c[1].status: Unsupported value: \"Odd\"",
            "c[1].observedGeneration: Invalid value: -1: must be greater than or equal to zero",
            "c[1].lastTransitionTime: Required value",
            "c[1].reason: Invalid value: \"1\": a condition reason must start",
        ]) {
            assert!(found.starts_with(wanted), "{found}");
        }
    }
}
