//! What the status of a Job may say.

use std::collections::HashSet;

use serde_json::Value;

use crate::Object;
use crate::builtin::batch::policies::{count_indexes, first_common_index};
use crate::builtin::field::Field;
use crate::builtin::inner;
use crate::builtin::pods::template;
use crate::error::FieldError;
use crate::lookup::{list, number, text};

/// Whether a condition is True.
pub(in crate::builtin) fn has(status: &Value, kind: &str) -> bool {
    list(status, &["conditions"])
        .iter()
        .any(|condition| text(condition, &["type"]) == kind && text(condition, &["status"]) == "True")
}

/// Whether a Job is suspended, and its controller has seen that: no pod of it is there or comes.
pub(in crate::builtin) fn is_parked(job: &Object) -> bool {
    let status = &job["status"];
    job["spec"]["suspend"] == true
        && (has(status, "Suspended") || status.get("startTime").is_none())
        && number(status, &["active"]).unwrap_or(0) == 0
}

/// All that is wrong with a changed status.
pub(in crate::builtin) fn validate(new: &Object, old: &Object) -> Vec<FieldError> {
    let status = Field::root(new).at("status");
    let mut errors =
        template::not_negative(&status, &["active", "succeeded", "failed", "ready", "terminating"]);
    errors.extend(uncounted(&status));
    errors.extend(ends_fit(&status));
    errors.extend(finished_is_over(&status));
    errors.extend(indexes_fit(new, &status));
    errors.extend(pods_fit(&status));
    errors.extend(success_fits(new, &status));
    errors.extend(only_forward(new, old, &status));
    errors
}

fn refuse(errors: &mut Vec<FieldError>, field: &Field<'_>, when: bool, why: &str) {
    if when {
        errors.push(field.invalid(why));
    }
}

/// As [`refuse`], of the conditions, which are not shown.
fn refuse_conditions(errors: &mut Vec<FieldError>, status: &Field<'_>, when: bool, why: &str) {
    if when {
        errors.push(status.at("conditions").invalid(why).whole());
    }
}

fn is_finished(status: &Field<'_>) -> bool {
    has(status.value, "Complete") || has(status.value, "Failed")
}

/// The Pods that have ended and are not counted yet: each is there once.
fn uncounted(status: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut seen = HashSet::new();
    let lists = ["succeeded", "failed"].map(|key| status.under(&["uncountedTerminatedPods", key]));
    for uid in lists.iter().flat_map(Field::items) {
        if uid.text().is_empty() {
            errors.push(uid.invalid("must not be empty"));
        } else if !seen.insert(uid.text()) {
            errors.push(uid.duplicate());
        }
    }
    errors
}

/// Conditions that end a Job, and the time when it was complete.
fn ends_fit(status: &Field<'_>) -> Vec<FieldError> {
    let is = |kind| has(status.value, kind);
    let (start, end) = (status.at("startTime"), status.at("completionTime"));
    let mut errors = Vec::new();
    for (when, why) in [
        (is("Complete") && is("Failed"), "cannot set Complete=True and Failed=true conditions"),
        (is("Complete") && is("FailureTarget"), "cannot set Complete=True and FailureTarget=true conditions"),
    ] {
        refuse_conditions(&mut errors, status, when, why);
    }
    let why = "cannot set completionTime when there is no Complete=True condition";
    refuse(&mut errors, &end, end.is_given() && !is("Complete"), why);
    if is("Complete") && !end.is_given() {
        errors.push(end.required("completionTime is required for Complete jobs"));
    }
    let time = |field: &Field<'_>| field.text().parse::<jiff::Timestamp>().ok();
    let backwards = time(&start).zip(time(&end)).is_some_and(|(start, end)| end < start);
    refuse(&mut errors, &end, backwards, "must be equal to or after `startTime`");
    for (when, why) in [
        (
            is("Failed") && !is("FailureTarget"),
            "cannot set Failed=True condition without the FailureTarget=true condition",
        ),
        (
            is("Complete") && !is("SuccessCriteriaMet"),
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
        ),
    ] {
        refuse_conditions(&mut errors, status, when, why);
    }
    errors
}

fn finished_is_over(status: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if !is_finished(status) {
        return errors;
    }
    let active = status.at("active").number().unwrap_or(0) > 0;
    refuse(&mut errors, &status.at("active"), active, "active>0 is invalid for finished job");
    if !status.at("startTime").is_given() {
        errors.push(status.at("startTime").required("startTime is required for finished job"));
    }
    let uncounted = status.at("uncountedTerminatedPods");
    if ["succeeded", "failed"].into_iter().any(|key| !uncounted.at(key).list().is_empty()) {
        errors.push(uncounted.invalid_object(inner::UNCOUNTED_PODS, "must be empty for finished job"));
    }
    errors
}

fn indexes_fit(job: &Object, status: &Field<'_>) -> Vec<FieldError> {
    let (done, failed) = (status.at("completedIndexes"), status.at("failedIndexes"));
    let completions = number(job, &["spec", "completions"]);
    let limited = job["spec"].get("backoffLimitPerIndex").is_some();
    let mut errors = Vec::new();
    for (field, key, counts) in [(&done, "completedIndexes", true), (&failed, "failedIndexes", limited)] {
        if let Some(completions) = completions.filter(|_| counts)
            && let Err(why) = count_indexes(field.text(), completions)
        {
            let why = format!("error parsing {key}: {why}");
            errors.push(FieldError::invalid(field.path.as_str(), field.text(), why));
        }
    }
    let indexed = text(job, &["spec", "completionMode"]) == "Indexed";
    let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
    refuse(&mut errors, &done, !indexed && !done.text().is_empty(), why);
    let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
    refuse(&mut errors, &failed, failed.is_given() && !limited, why);
    if let Some(completions) = completions.filter(|_| failed.is_given())
        && let Some(both) = first_common_index(done.text(), failed.text(), completions)
    {
        let why = format!("failedIndexes and completedIndexes overlap at index: {both}");
        errors.push(failed.invalid(why));
    }
    errors
}

fn pods_fit(status: &Field<'_>) -> Vec<FieldError> {
    let number = |key: &str| status.at(key).number().unwrap_or(0);
    let mut errors = Vec::new();
    let why = "terminating>0 is invalid for finished job";
    let terminating = number("terminating") > 0 && is_finished(status);
    refuse(&mut errors, &status.at("terminating"), terminating, why);
    let more = number("ready") > number("active");
    refuse(&mut errors, &status.at("ready"), more, "cannot set more ready pods than active");
    errors
}

fn success_fits(job: &Object, status: &Field<'_>) -> Vec<FieldError> {
    let is = |kind| has(status.value, kind);
    let mut errors = Vec::new();
    for (when, why) in [
        (
            is("SuccessCriteriaMet") && is("Failed"),
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        ),
        (
            is("SuccessCriteriaMet") && is("FailureTarget"),
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        ),
        (
            is("Complete") && job["spec"].get("successPolicy").is_some() && !is("SuccessCriteriaMet"),
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
        ),
    ] {
        refuse_conditions(&mut errors, status, when, why);
    }
    errors
}

fn only_forward(new: &Object, old: &Object, status: &Field<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let lost = |kind| has(&old["status"], kind) && !has(&new["status"], kind);
    for kind in ["Failed", "Complete", "FailureTarget"] {
        let why = format!("cannot disable the terminal {kind}=True condition");
        refuse_conditions(&mut errors, status, lost(kind), &why);
    }
    for key in ["failed", "succeeded"] {
        let count = |job: &Object| number(job, &["status", key]).unwrap_or(0);
        if count(new) < count(old) {
            let why = format!("cannot decrease the {key} counter");
            errors.push(FieldError::invalid(status.at(key).path, count(new), why));
        }
    }
    let (start, end) = (status.at("startTime"), status.at("completionTime"));
    let (was_start, was_end) = (&old["status"]["startTime"], &old["status"]["completionTime"]);
    let moved = end.is_given() && !was_end.is_null() && end.value != was_end;
    refuse(&mut errors, &end, moved, "field is immutable");
    let restarted = !was_start.is_null() && start.value != was_start && new["spec"]["suspend"] != true;
    refuse(&mut errors, &start, restarted, "field is immutable for unsuspended job once set");
    let why = "cannot disable the SuccessCriteriaMet=True condition";
    refuse_conditions(&mut errors, status, lost("SuccessCriteriaMet"), why);
    let late = has(&old["status"], "Complete")
        && !has(&old["status"], "SuccessCriteriaMet")
        && has(&new["status"], "SuccessCriteriaMet");
    let why = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
    refuse_conditions(&mut errors, status, late, why);
    errors
}
