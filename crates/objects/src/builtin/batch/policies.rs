//! A Job's policies: which failures count, what success is, when a pod is replaced.

use crate::builtin::field::Field;
use crate::builtin::inner;
use crate::error::FieldError;
use crate::lookup::list;

const MAX_FAILURE_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_CONDITIONS: usize = 20;
const MAX_SUCCESS_RULES: usize = 20;
const MAX_INDEXES_LENGTH: usize = 64 * 1024;

/// All that is wrong with the policies in the spec of a Job.
pub(in crate::builtin) fn validate(spec: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (failure, success) = (spec.at("podFailurePolicy"), spec.at("successPolicy"));
    if failure.is_given() {
        errors.extend(failure.at("rules").at_most(MAX_FAILURE_RULES));
        for rule in failure.at("rules").items() {
            failure_rule(spec, &rule, &mut errors);
        }
    }
    if success.is_given() {
        if spec.at("completionMode").text() == "Indexed" {
            success_policy(spec, &success.at("rules"), &mut errors);
        } else {
            errors.push(success.invalid_object(inner::SUCCESS_POLICY, "requires indexed completion mode"));
        }
    }
    let replacement: &[&str] =
        if failure.is_given() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    errors.extend(spec.at("podReplacementPolicy").one_of(replacement));
    errors
}

fn failure_rule(spec: &Field<'_>, rule: &Field<'_>, errors: &mut Vec<FieldError>) {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    let action = rule.at("action");
    match action.text() {
        "" => errors.push(action.required("valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]")),
        "FailIndex" if !spec.at("backoffLimitPerIndex").is_given() => {
            errors.push(action.invalid("requires the backoffLimitPerIndex to be set"));
        }
        _ => errors.extend(action.one_of(ACTIONS)),
    }
    let (codes, conditions) = (rule.at("onExitCodes"), rule.at("onPodConditions"));
    if codes.is_given() {
        exit_codes(spec, &codes, errors);
    }
    errors.extend(conditions.at_most(MAX_CONDITIONS));
    for pattern in conditions.items() {
        let (kind, status) = (pattern.at("type"), pattern.at("status"));
        errors.extend(kind.obeys(crate::meta::qualified_name));
        if status.text().is_empty() {
            errors.push(status.required("valid values: [\"False\" \"True\" \"Unknown\"]"));
        } else {
            errors.extend(status.one_of(&["False", "True", "Unknown"]));
        }
    }
    match (codes.is_given(), conditions.list().is_empty()) {
        (true, false) => {
            let why = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.push(rule.invalid(why).whole());
        }
        (false, true) => {
            let why = "specifying one of OnExitCodes and OnPodConditions is required";
            errors.push(rule.invalid(why).whole());
        }
        _ => {}
    }
}

fn exit_codes(spec: &Field<'_>, codes: &Field<'_>, errors: &mut Vec<FieldError>) {
    let (operator, container) = (codes.at("operator"), codes.at("containerName"));
    if operator.text().is_empty() {
        errors.push(operator.required("valid values: [\"In\" \"NotIn\"]"));
    } else {
        errors.extend(operator.one_of(&["In", "NotIn"]));
    }
    let pod = spec.under(&["template", "spec"]);
    let mut containers = ["containers", "initContainers"].into_iter().flat_map(|key| list(pod.value, &[key]));
    if container.is_given() && !containers.any(|each| each["name"] == *container.value) {
        let why = "must be one of the container or initContainer names in the pod template";
        errors.push(container.invalid(why));
    }
    let values = codes.at("values");
    if values.list().is_empty() {
        errors.push(values.invalid("at least one value is required"));
    }
    errors.extend(values.at_most(MAX_EXIT_CODES));
    for value in values.items().filter(|value| operator.text() == "In" && value.number() == Some(0)) {
        errors.push(value.invalid("must not be 0 for the In operator"));
    }
    errors.extend(values.distinct());
    if !values.list().is_sorted_by_key(|value| value.as_i64()) {
        errors.push(values.invalid("must be ordered"));
    }
}

fn success_policy(spec: &Field<'_>, rules: &Field<'_>, errors: &mut Vec<FieldError>) {
    if rules.list().is_empty() {
        errors
            .push(rules.required("at least one rules must be specified when the successPolicy is specified"));
    }
    errors.extend(rules.at_most(MAX_SUCCESS_RULES));
    let completions = spec.at("completions").number().unwrap_or(0);
    for rule in rules.items() {
        let (indexes, count) = (rule.at("succeededIndexes"), rule.at("succeededCount"));
        if !indexes.is_given() && !count.is_given() {
            errors
                .push(rule.required("at least one of succeededCount or succeededIndexes must be specified"));
        }
        errors.extend(indexes.no_longer_than(MAX_INDEXES_LENGTH));
        let total = count_indexes(indexes.text(), completions).unwrap_or_else(|why| {
            errors.push(indexes.invalid(format!("error parsing succeededIndexes: {why}")));
            0
        });
        errors.extend(count.at_least(0));
        let given = count.number().unwrap_or(0);
        if given > completions {
            let why =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.push(count.invalid(why));
        }
        if indexes.is_given() && given > total {
            errors.push(count.invalid(format!("must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)")));
        }
    }
}

/// How many indexes a text like `0,2-4` names.
///
/// # Errors
/// What is wrong with it: no numbers, not in order, at or beyond `completions`.
pub(in crate::builtin) fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let (mut total, mut last) = (0, None);
    for part in text.split(',') {
        let (low, high) = interval(part, completions)?;
        if let Some(last) = last.filter(|last| *last >= low) {
            return Err(format!("non-increasing order, previous: {last}, current: {low}"));
        }
        total += high - low + 1;
        last = Some(high);
    }
    Ok(total)
}

/// The first index that two such texts have in common; parts that are no intervals are looked over.
pub(in crate::builtin) fn first_common_index(one: &str, other: &str, completions: i64) -> Option<i64> {
    let intervals = |text: &str| -> Vec<(i64, i64)> {
        text.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let (one, other) = (intervals(one), intervals(other));
    let (mut left, mut right) = (one.iter().peekable(), other.iter().peekable());
    while let (Some((a, b)), Some((c, d))) = (left.peek(), right.peek()) {
        if a <= d && c <= b {
            return Some(*a.max(c));
        }
        if a <= c {
            left.next()
        } else {
            right.next()
        };
    }
    None
}

fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let limits: Vec<&str> = part.split('-').collect();
    let index = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(index) if index >= completions => Err(format!("too large index: {text:?}")),
        Ok(index) => Ok(index),
    };
    match limits.as_slice() {
        [one] => index(one).map(|index| (index, index)),
        [low, high] => {
            let (low, high) = (index(low)?, index(high)?);
            if low >= high {
                return Err(format!("non-increasing order, previous: {low}, current: {high}"));
            }
            Ok((low, high))
        }
        _ => Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted() {
        assert_eq!(count_indexes("", 5), Ok(0));
        assert_eq!(count_indexes("0,2-4", 5), Ok(4));
        assert_eq!(first_common_index("0,2-4", "1,3", 5), Some(3));
        assert_eq!(first_common_index("0-1,x", "2,4", 5), None);
        for (bad, why) in [
            ("5", "too large index: \"5\""),
            ("a", "cannot convert string to integer for index: \"a\""),
            ("1,1", "non-increasing order, previous: 1, current: 1"),
            ("3-1", "non-increasing order, previous: 3, current: 1"),
            ("1-2-3", "the fragment \"1-2-3\" violates"),
        ] {
            assert!(count_indexes(bad, 5).unwrap_err().starts_with(why), "{bad}");
        }
    }
}
